//! Which shard runs where: derived from the machine, or checked against it.
//!
//! ```text
//! CPUs that we may use -> cores before their second threads -> the fast interface's NUMA node before others
//!                      -> for each a queue, if there is one: that which interrupts it, else one of its node
//!                      -> the sources that the queue's interface has
//! ```
//!
//! Pure: facts in, layout out. `up` takes only the CPUs from it; interfaces and sources are tied by a configuration file
//! alone, for which [`Layout::toml`] is the draft.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Serialize;

use super::cpu_list::list_text;
use super::cpus::Cpus;
use super::finding::{Finding, Remedy, Severity, Subject, Write};
use super::nic::{Nic, QueueIrq};
use super::sources::Source;
use crate::up::settings::ShardTable;

/// Where every shard runs, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Layout {
    pub(crate) shards: Vec<Place>,
}

/// Where one shard runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Place {
    pub(crate) cpu: usize,
    pub(crate) node: Option<usize>,
    /// Whether another thread of the CPU's core comes before it.
    pub(crate) second_thread: bool,
    pub(crate) nic: Option<String>,
    pub(crate) queue: Option<usize>,
    pub(crate) irq: Option<u32>,
    /// Where the queue's interrupt goes at present.
    pub(crate) irq_cpus: Vec<usize>,
    pub(crate) sources: Vec<IpAddr>,
}

impl Layout {
    /// The layout for so many shards, or one a CPU; shards beyond the CPUs share them.
    pub(crate) fn derive(cpus: &Cpus, nics: &[Nic], sources: &[Source], shards: Option<u16>) -> Self {
        let fastest = nics.iter().filter(|nic| nic.up).max_by_key(|nic| nic.speed.unwrap_or(0));
        let near = fastest.and_then(|nic| nic.node);
        let mut ordered: Vec<usize> = cpus.allowed.clone();
        ordered.sort_by_key(|id| {
            let (thread, node) = cpus.get(*id).map_or((0, None), |cpu| (cpu.thread, cpu.node));
            (thread, near.is_some() && node != near, node, *id)
        });
        let count = shards.map_or(ordered.len(), usize::from).max(1);
        let mut places: Vec<Place> = ordered.iter().cycle().take(count).map(|id| place(cpus, *id)).collect();
        let (own, _) = places.split_at_mut(count.min(ordered.len()));
        give_queues(own, nics);
        give_sources(&mut places, sources);
        Self { shards: places }
    }

    pub(super) fn table(&self) -> String {
        let mut rows = vec![
            ["SHARD", "CPU", "NODE", "INTERFACE", "QUEUE", "INTERRUPT", "GOES TO CPU", "SOURCES"].map(str::to_owned),
        ];
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        for (number, place) in self.shards.iter().enumerate() {
            let sources = place.sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            rows.push([
                number.to_string(),
                format!("{}{}", place.cpu, if place.second_thread { " (2nd thread)" } else { "" }),
                or_dash(place.node.map(|node| node.to_string())),
                or_dash(place.nic.clone()),
                or_dash(place.queue.map(|queue| queue.to_string())),
                or_dash(place.irq.map(|irq| irq.to_string())),
                or_dash(place.irq.map(|_| list_text(&place.irq_cpus))),
                or_dash(Some(sources).filter(|text| !text.is_empty())),
            ]);
        }
        let widths: [usize; 8] = std::array::from_fn(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or(0));
        let line = |row: &[String; 8]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        let mut text: String = rows.iter().map(line).collect();
        let writes = self.writes();
        if !writes.is_empty() {
            text.push_str(
                "\nSo that each queue interrupts its shard's CPU (irqbalance must not run, or it undoes this):\n",
            );
            for write in &writes {
                let _ = writeln!(text, "  echo {} > /{}", write.value, write.path);
            }
        }
        text
    }

    /// The same as the part of a configuration file for `up --config`.
    pub(super) fn toml(&self) -> String {
        let mut text = "# Written by `postrail doctor --layout --toml`: for `postrail up --config`.\n".to_owned();
        for place in &self.shards {
            let _ = write!(text, "\n[[shard]]\ncpu = {}\n", place.cpu);
            if let (Some(nic), Some(queue)) = (&place.nic, place.queue) {
                let _ = write!(text, "nic = {}\nqueue = {queue}\n", toml::Value::from(nic.as_str()));
            }
            if !place.sources.is_empty() {
                let sources = place.sources.iter().map(|source| format!("\"{source}\"")).collect::<Vec<_>>().join(", ");
                let _ = writeln!(text, "sources = [{sources}]");
            }
        }
        text
    }

    /// What makes the interrupts follow the layout.
    fn writes(&self) -> Vec<Write> {
        let moved = self.shards.iter().filter(|place| place.irq_cpus != [place.cpu]);
        moved.filter_map(|place| Some(irq_write(place.irq?, place.cpu))).collect()
    }
}

fn irq_write(irq: u32, cpu: usize) -> Write {
    Write { path: format!("proc/irq/{irq}/smp_affinity_list"), value: cpu.to_string() }
}

fn place(cpus: &Cpus, id: usize) -> Place {
    let cpu = cpus.get(id);
    Place {
        cpu: id,
        node: cpu.and_then(|cpu| cpu.node),
        second_thread: cpu.is_some_and(|cpu| cpu.thread > 0),
        nic: None,
        queue: None,
        irq: None,
        irq_cpus: Vec::new(),
        sources: Vec::new(),
    }
}

/// A receive queue that no shard has yet.
struct FreeQueue<'a> {
    nic: &'a Nic,
    queue: usize,
    irq: Option<&'a QueueIrq>,
}

fn give_queues(places: &mut [Place], nics: &[Nic]) {
    let mut free: Vec<FreeQueue> = Vec::new();
    for nic in nics.iter().filter(|nic| nic.up) {
        let queue = |queue| FreeQueue { nic, queue, irq: nic.rx_irqs().find(|irq| irq.queue == queue) };
        free.extend((0..nic.rx).map(queue));
    }
    let rules: [fn(&Place, &FreeQueue) -> bool; 3] = [
        |place, queue| queue.irq.and_then(QueueIrq::cpu) == Some(place.cpu),
        |place, queue| queue.nic.node.is_none() || queue.nic.node == place.node,
        |_, _| true,
    ];
    for fits in rules {
        for at in 0..places.len() {
            if places[at].nic.is_some() {
                continue;
            }
            let taken = |nic: &str| places.iter().filter(|place| place.nic.as_deref() == Some(nic)).count();
            let fitting = free.iter().enumerate().filter(|(_, queue)| fits(&places[at], queue));
            let Some((best, _)) = fitting.min_by_key(|(_, queue)| taken(&queue.nic.name)) else { continue };
            let queue = free.remove(best);
            let place = &mut places[at];
            place.nic = Some(queue.nic.name.clone());
            place.queue = Some(queue.queue);
            place.irq = queue.irq.map(|irq| irq.irq);
            place.irq_cpus = queue
                .irq
                .map(|irq| if irq.effective.is_empty() { &irq.affinity } else { &irq.effective })
                .cloned()
                .unwrap_or_default();
        }
    }
}

/// Each source goes to a shard of its interface; where there is none, `up` deals it out.
fn give_sources(places: &mut [Place], sources: &[Source]) {
    let mut nics: Vec<String> = places.iter().filter_map(|place| place.nic.clone()).collect();
    nics.dedup();
    let only = if let [nic] = &nics[..] { Some(nic.clone()) } else { None };
    let named = |source: &&Source| !source.wanted.address.is_unspecified() && !source.wanted.address.is_loopback();
    for source in sources.iter().filter(named) {
        let nic = source.nic.clone().or_else(|| only.clone());
        let fitting = places.iter_mut().filter(|place| place.nic.is_none() || place.nic == nic);
        // A shard of the interface before one of none, the one with the fewest before others.
        if let Some(place) = fitting.min_by_key(|place| (place.nic != nic, place.sources.len())) {
            place.sources.push(source.wanted.address);
        }
    }
}

/// Findings on the `[[shard]]` tables of a configuration file; `interfaces`: all of the host, with or without hardware.
pub(super) fn check(
    tables: &[ShardTable],
    cpus: &Cpus,
    nics: &[Nic],
    interfaces: &[String],
    sources: &[Source],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, table) in tables.iter().enumerate() {
        let what = |about: &str| format!("shard {number}: {about}");
        if let Some(cpu) = table.cpu {
            let count = tables.iter().filter(|other| other.cpu == Some(cpu)).count();
            let (severity, why) = match (cpus.allowed.contains(&cpu), count) {
                (false, _) => (Severity::Error, "it does not start where it may not run"),
                (true, 1) => (Severity::Ok, "a shard with a CPU of its own never waits for another"),
                (true, _) => (Severity::Warning, "shards that share a CPU wait for each other"),
            };
            findings.push(
                Finding::new(Subject::Shards, "shard.cpu", what("CPU"), cpu.to_string())
                    .wanted(format!("one of {}, for itself", list_text(&cpus.allowed)), why)
                    .severity(severity)
                    .remedy(|| Remedy::by_hand("correct `cpu` in the configuration file")),
            );
        }
        let Some(name) = &table.nic else { continue };
        findings.push(
            Finding::new(Subject::Shards, "shard.nic", what("interface"), name)
                .wanted(interfaces.join(" or "), "its mail leaves by this interface, or not at all")
                .unless(interfaces.contains(name), Severity::Error)
                .remedy(|| Remedy::by_hand("correct `nic` in the configuration file")),
        );
        findings.extend(nics.iter().find(|nic| nic.name == *name).and_then(|nic| check_queue(number, table, nic)));
        findings.extend(table.sources.iter().filter_map(|address| {
            let source = sources.iter().find(|source| source.wanted.address == *address)?;
            check_source(number, name, source)
        }));
    }
    findings
}

fn check_queue(number: usize, table: &ShardTable, nic: &Nic) -> Option<Finding> {
    let (queue, cpu) = (usize::from(table.queue?), table.cpu?);
    let what = format!("shard {number}: queue");
    if queue >= nic.rx {
        let found = Finding::new(Subject::Shards, "shard.queue", what, queue.to_string())
            .wanted(format!("0 to {}", nic.rx.saturating_sub(1)), "the interface has no such queue")
            .severity(Severity::Error)
            .remedy(|| {
                Remedy::by_hand("correct `queue` in the configuration file, or give the interface more by ethtool -L")
            });
        return Some(found);
    }
    let irq = nic.rx_irqs().find(|irq| irq.queue == queue)?;
    let targets = if irq.effective.is_empty() { &irq.affinity } else { &irq.effective };
    let finding = Finding::new(
        Subject::Shards,
        "shard.irq",
        what,
        format!("queue {queue} interrupts CPU {}", list_text(targets)),
    )
    .wanted(
        format!("CPU {cpu}"),
        "what arrives by the queue is then handled on the shard's CPU from the first packet on",
    )
    .unless(targets[..] == [cpu], Severity::Warning)
    .remedy(|| {
        let write = irq_write(irq.irq, cpu);
        Remedy::safe(format!("echo {} > /{}", write.value, write.path), vec![write])
    });
    Some(finding)
}

fn check_source(number: usize, nic: &str, source: &Source) -> Option<Finding> {
    let on = source.nic.as_deref()?;
    let what = format!("shard {number}: source {}", source.wanted.address);
    let finding = Finding::new(Subject::Shards, "shard.source", what, format!("on {on}"))
        .wanted(
            format!("on {nic}"),
            "its mail leaves by the shard's interface: a router there may drop a foreign address",
        )
        .unless(on == nic, Severity::Warning)
        .remedy(|| Remedy::by_hand("move the address, or list it at a shard of its interface"));
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::super::cpus::Cpu;
    use super::super::sources::Wanted;
    use super::*;

    /// Two sockets of two cores with two threads each: 0-3 are cores, 4-7 their second threads.
    fn sockets() -> Cpus {
        let cpu = |id: usize| Cpu { id, thread: id / 4, node: Some(id % 4 / 2), ..Cpu::default() };
        Cpus { online: (0..8).map(cpu).collect(), allowed: (0..8).collect(), nodes: 2, ..Cpus::default() }
    }

    fn nic(name: &str, node: Option<usize>, targets: &[&[usize]]) -> Nic {
        let irq = |(queue, cpus): (usize, &&[usize])| QueueIrq {
            irq: 60 + queue as u32,
            queue,
            affinity: cpus.to_vec(),
            ..QueueIrq::default()
        };
        Nic {
            name: name.to_owned(),
            up: true,
            node,
            rx: targets.len(),
            tx: targets.len(),
            irqs: targets.iter().enumerate().map(irq).collect(),
            ..Nic::default()
        }
    }

    fn source(address: &str, nic: Option<&str>) -> Source {
        let wanted = Wanted { address: address.parse().expect("an address"), ehlo_name: None };
        Source { wanted, present: true, nic: nic.map(str::to_owned), routed: true, names: None }
    }

    fn cpus_of(layout: &Layout) -> Vec<usize> {
        layout.shards.iter().map(|place| place.cpu).collect()
    }

    #[test]
    fn cores_come_before_threads_and_the_interfaces_node_before_the_other() {
        let far = nic("eth0", Some(1), &[&[0, 1]]);
        assert_eq!(cpus_of(&Layout::derive(&sockets(), &[far], &[], None)), [2, 3, 0, 1, 6, 7, 4, 5]);
        assert_eq!(cpus_of(&Layout::derive(&sockets(), &[], &[], Some(3))), [0, 1, 2]);
        let few = Cpus { allowed: vec![5, 1], ..sockets() };
        assert_eq!(cpus_of(&Layout::derive(&few, &[], &[], Some(3))), [1, 5, 1], "more shards than CPUs share them");
    }

    #[test]
    fn a_queue_goes_to_the_cpu_that_it_interrupts_and_the_others_to_their_node() {
        let nics = [nic("eth0", Some(0), &[&[1], &[0, 1, 2, 3]]), nic("eth1", Some(1), &[&[0], &[0]])];
        let layout = Layout::derive(&sockets(), &nics, &[], Some(5));
        let queues: Vec<_> = layout.shards.iter().map(|place| (place.cpu, place.nic.as_deref(), place.queue)).collect();
        let expected = [
            (2, Some("eth1"), Some(1)),
            (3, None, None),
            (0, Some("eth1"), Some(0)),
            (1, Some("eth0"), Some(0)),
            (6, None, None),
        ];
        // The faster interface decides the order of nodes; of two that do not tell their speed, the last.
        assert_eq!(queues[..1], expected[..1]);
        assert_eq!(queues[2..4], expected[2..4]);
        assert!(layout.table().contains("echo 2 > /proc/irq/61/smp_affinity_list"), "{}", layout.table());
    }

    #[test]
    fn a_source_goes_to_a_shard_of_its_interface() {
        let nics = [nic("eth0", None, &[&[0]]), nic("eth1", None, &[&[1]])];
        let few = Cpus { allowed: vec![0, 1], ..sockets() };
        let sources =
            [source("192.0.2.1", Some("eth1")), source("192.0.2.2", Some("eth0")), source("192.0.2.3", Some("eth9"))];
        let layout = Layout::derive(&few, &nics, &sources, None);
        assert_eq!(layout.shards[0].sources, ["192.0.2.2".parse::<IpAddr>().expect("an address")]);
        assert_eq!(layout.shards[1].sources, ["192.0.2.1".parse::<IpAddr>().expect("an address")]);
    }

    #[test]
    fn the_draft_is_a_configuration_file() {
        let nics = [nic("eth0", None, &[&[0], &[1]])];
        let few = Cpus { allowed: vec![0, 1], ..sockets() };
        let layout = Layout::derive(&few, &nics, &[source("192.0.2.2", Some("eth0"))], None);
        let file = crate::up::settings::parse(&layout.toml()).expect("our own parser takes it");
        assert_eq!(file.shard.len(), 2);
        assert_eq!(
            (file.shard[1].cpu, file.shard[1].nic.as_deref(), file.shard[1].queue),
            (Some(1), Some("eth0"), Some(1))
        );
        assert_eq!(file.shard[0].sources.len(), 1);
        assert_eq!(
            check(&file.shard, &few, &nics, &["eth0".to_owned()], &[]).iter().map(|f| f.severity).max(),
            Some(Severity::Ok)
        );
    }

    #[test]
    fn tables_are_checked_against_the_host() {
        let table = |cpu, nic: &str, queue| ShardTable {
            cpu: Some(cpu),
            nic: Some(nic.to_owned()),
            queue: Some(queue),
            sources: vec![],
        };
        let nics = [nic("eth0", None, &[&[0], &[1]])];
        for (table, id, severity) in [
            (table(99, "eth0", 0), "shard.cpu", Severity::Error),
            (table(0, "eth7", 0), "shard.nic", Severity::Error),
            (table(0, "eth0", 7), "shard.queue", Severity::Error),
            (table(1, "eth0", 0), "shard.irq", Severity::Warning),
            (table(0, "eth0", 0), "shard.irq", Severity::Ok),
        ] {
            let findings = check(std::slice::from_ref(&table), &sockets(), &nics, &["eth0".to_owned()], &[]);
            let found = findings.iter().find(|finding| finding.id == id).expect(id);
            assert_eq!(found.severity, severity, "{table:?}");
        }
    }
}
