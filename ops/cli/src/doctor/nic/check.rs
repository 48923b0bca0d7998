//! What is wrong with the queues, interrupts, rings and offloads of an interface.

use super::super::cpu_list::{list_text, mask_text};
use super::super::cpus::Cpus;
use super::super::finding::{Finding, Remedy, Severity, Subject, Write};
use super::{Nic, QueueIrq, Settings};

/// Packets that a receive ring should hold: at 10 Gbit/s some 3 ms of small ones.
const RING_WANTED: u32 = 1_024;

/// Findings on all interfaces.
pub(in super::super) fn check(nics: &[Nic], cpus: &Cpus) -> Vec<Finding> {
    if nics.is_empty() {
        let why = "this host shows no interface with hardware behind it, as in a container";
        return vec![Finding::skipped(Subject::Network, "nic.none", "interfaces", why)];
    }
    nics.iter().flat_map(|nic| check_one(nic, cpus)).collect()
}

fn check_one(nic: &Nic, cpus: &Cpus) -> Vec<Finding> {
    let mut findings = vec![link(nic)];
    if !nic.up {
        return findings;
    }
    findings.extend(channels(nic, cpus));
    findings.extend(interrupts(nic, cpus));
    findings.extend(steering(nic, cpus));
    findings.extend(send_queues(nic, cpus));
    match &nic.settings {
        Some(settings) => {
            findings.extend(rings(nic, settings));
            findings.extend(offloads(nic, settings));
        }
        None => findings.push(Finding::skipped(
            Subject::Network,
            "nic.ethtool",
            format!("{}: rings and offloads", nic.name),
            "its driver does not tell, or the recording has no file ethtool/INTERFACE",
        )),
    }
    findings
}

fn finding(nic: &Nic, id: &'static str, what: &str, found: impl Into<String>) -> Finding {
    Finding::new(Subject::Network, id, format!("{}: {what}", nic.name), found)
}

fn link(nic: &Nic) -> Finding {
    let mut found = vec![if nic.up { "up".to_owned() } else { "down".to_owned() }];
    found.extend(nic.driver.clone());
    found.extend(nic.speed.map(|speed| format!("{speed} Mbit/s")));
    found.extend(nic.node.map(|node| format!("NUMA node {node}")));
    found.push(format!("{} receive and {} send queues", nic.rx, nic.tx));
    finding(nic, "nic.link", "link", found.join(", "))
        .wanted("up, a queue for each shard", "an interface that is down takes no part")
}

fn channels(nic: &Nic, cpus: &Cpus) -> Option<Finding> {
    let settings = nic.settings.as_ref()?;
    let (channels, most) = (settings.channels?, settings.channels_max?);
    let useful = most.min(u32::try_from(cpus.allowed.len()).unwrap_or(u32::MAX));
    let finding = finding(nic, "nic.channels", "queues", format!("{channels} of {most}"))
        .wanted(format!("{useful}"), "each shard's CPU should have a queue of its own, so that no packet changes CPUs")
        .unless(channels >= useful, Severity::Advice)
        .remedy(|| Remedy::by_hand(format!("ethtool -L {} combined {useful}", nic.name)));
    Some(finding)
}

fn interrupts(nic: &Nic, cpus: &Cpus) -> Option<Finding> {
    let irqs: Vec<&QueueIrq> = nic.rx_irqs().collect();
    if irqs.is_empty() {
        let why = "the kernel lists no interrupt of its queues";
        return Some(Finding::skipped(Subject::Network, "nic.irq", format!("{}: interrupts", nic.name), why));
    }
    let near = nic.node.map(|node| cpus.of_node(node)).filter(|near| !near.is_empty());
    let near = near.unwrap_or_else(|| cpus.online.iter().map(|cpu| cpu.id).collect());
    let used = cpus_of(&irqs);
    let useful = irqs.len().min(near.len());
    let (severity, said) = if irqs.len() > 1 && used.len() == 1 {
        (Severity::Warning, "all queues interrupt one CPU, which becomes the limit of the host")
    } else if !used.is_empty() && used.iter().all(|cpu| !near.contains(cpu)) {
        (Severity::Warning, "every packet crosses from one processor socket's memory to the other's")
    } else if used.iter().any(|cpu| !near.contains(cpu)) {
        (Severity::Advice, "some packets cross from one processor socket's memory to the other's")
    } else if used.len() < useful && irqs.iter().all(|irq| irq.cpu().is_some()) {
        (Severity::Advice, "queues share CPUs while others of the node have none")
    } else {
        (Severity::Ok, "packets are spread over the CPUs that are near to the interface")
    };
    let queues =
        if irqs.len() == 1 { "1 queue interrupts".to_owned() } else { format!("{} queues interrupt", irqs.len()) };
    let found = format!("{queues} CPU {}", list_text(&used));
    let wanted = format!("one queue a CPU, of CPU {}", list_text(&near));
    Some(
        finding(nic, "nic.irq", "interrupts", found)
            .wanted(wanted, said)
            .severity(severity)
            .remedy(|| spread(&irqs, &near)),
    )
}

fn cpus_of(irqs: &[&QueueIrq]) -> Vec<usize> {
    let each = irqs.iter().flat_map(|irq| if irq.effective.is_empty() { &irq.affinity } else { &irq.effective });
    let mut cpus: Vec<usize> = each.copied().collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// One CPU of `near` for each queue, in turn.
fn spread(irqs: &[&QueueIrq], near: &[usize]) -> Remedy {
    let writes: Vec<Write> = irqs
        .iter()
        .zip(near.iter().cycle())
        .map(|(irq, cpu)| Write { path: format!("proc/irq/{}/smp_affinity_list", irq.irq), value: cpu.to_string() })
        .collect();
    let first = writes.first().map(|write| format!("echo {} > /{}", write.value, write.path)).unwrap_or_default();
    let others = match writes.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more (postrail doctor --fix --dry-run lists them)", count - 1),
    };
    Remedy::safe(format!("{first}{others}; irqbalance must not run, or it undoes this"), writes)
}

fn steering(nic: &Nic, cpus: &Cpus) -> Option<Finding> {
    let steered = nic.rps.iter().filter(|cpus| !cpus.is_empty()).count();
    let what = "receive packet steering";
    let write = |queue: usize, value: String| Write {
        path: format!("sys/class/net/{}/queues/rx-{queue}/rps_cpus", nic.name),
        value,
    };
    if nic.rx == 1 && cpus.allowed.len() > 1 {
        let mask = mask_text(&cpus.allowed);
        return Some(
            finding(nic, "nic.rps", what, if steered == 0 { "off" } else { "on" })
                .wanted("on", "the one queue's packets are all handled on one CPU otherwise")
                .unless(steered > 0, Severity::Advice)
                .remedy(|| {
                    let command = format!("echo {mask} > /sys/class/net/{}/queues/rx-0/rps_cpus", nic.name);
                    Remedy::safe(command, vec![write(0, mask.clone())])
                }),
        );
    }
    let found = if steered == 0 { "off".to_owned() } else { format!("on for {steered} of {} queues", nic.rx) };
    let is_needless = steered > 0 && nic.rx >= cpus.allowed.len();
    Some(
        finding(nic, "nic.rps", what, found)
            .wanted(
                "off where every CPU has a queue",
                "it moves packets to another CPU than the queue's, by an interrupt more",
            )
            .unless(!is_needless, Severity::Advice)
            .remedy(|| {
                let command =
                    format!("for q in /sys/class/net/{}/queues/rx-*; do echo 0 > $q/rps_cpus; done", nic.name);
                Remedy::safe(command, (0..nic.rx).map(|queue| write(queue, "0".to_owned())).collect())
            }),
    )
}

fn send_queues(nic: &Nic, cpus: &Cpus) -> Option<Finding> {
    if nic.tx < 2 || nic.xps.is_empty() {
        return None;
    }
    let set = nic.xps.iter().filter(|cpus| !cpus.is_empty()).count();
    let groups = |queue: usize| -> Vec<usize> {
        cpus.online.iter().map(|cpu| cpu.id).filter(|cpu| cpu % nic.tx == queue).collect()
    };
    let finding = finding(nic, "nic.xps", "choice of the send queue", format!("by CPU for {set} of {} queues", nic.tx))
        .wanted("by CPU for all", "shards that send by one queue wait for each other's lock")
        .unless(set == nic.tx, Severity::Advice)
        .remedy(|| {
            let path = |queue| format!("sys/class/net/{}/queues/tx-{queue}/xps_cpus", nic.name);
            let writes = (0..nic.tx).map(|queue| Write { path: path(queue), value: mask_text(&groups(queue)) });
            let command = format!("echo {} > /{} and so on for each queue", mask_text(&groups(0)), path(0));
            Remedy::safe(command, writes.collect())
        });
    Some(finding)
}

fn rings(nic: &Nic, settings: &Settings) -> Option<Finding> {
    let (ring, most) = (settings.rx_ring?, settings.rx_ring_max?);
    if most == 0 {
        return None;
    }
    let wanted = most.min(RING_WANTED);
    let finding = finding(nic, "nic.ring", "receive ring", format!("{ring} of {most} packets"))
        .wanted(
            format!("{wanted}"),
            "a short ring drops packets while its CPU is busy with a burst, and TCP slows down",
        )
        .unless(ring >= wanted, Severity::Advice)
        .remedy(|| Remedy::by_hand(format!("ethtool -G {} rx {wanted}", nic.name)));
    Some(finding)
}

fn offloads(nic: &Nic, settings: &Settings) -> Option<Finding> {
    let off = settings.offloads_off.as_ref()?;
    let found = if off.is_empty() { "all on".to_owned() } else { format!("off: {}", off.join(", ")) };
    let costly = off.iter().any(|name| ["tx", "sg", "tso", "gro"].contains(&name.as_str()));
    let finding = finding(nic, "nic.offload", "offloads", found)
        .wanted(
            "checksums, sg, tso, gso and gro on",
            "without them the CPU cuts and sums every packet of a mail itself",
        )
        .unless(off.is_empty(), if costly { Severity::Warning } else { Severity::Advice })
        .remedy(|| {
            let switches = off.iter().map(|name| format!("{name} on")).collect::<Vec<_>>();
            Remedy::by_hand(format!("ethtool -K {} {}", nic.name, switches.join(" ")))
        });
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::super::super::cpus::Cpu;
    use super::*;

    /// Two nodes of four CPUs.
    fn host() -> Cpus {
        let cpu = |id| Cpu { id, node: Some(id / 4), ..Cpu::default() };
        Cpus { online: (0..8).map(cpu).collect(), allowed: (0..8).collect(), nodes: 2, ..Cpus::default() }
    }

    fn nic(targets: &[usize], node: usize) -> Nic {
        let irq = |(queue, cpu): (usize, &usize)| QueueIrq {
            irq: 40 + u32::try_from(queue).expect("small"),
            queue,
            tx_only: false,
            affinity: vec![*cpu],
            effective: Vec::new(),
        };
        Nic {
            name: "eth0".to_owned(),
            up: true,
            node: Some(node),
            rx: targets.len(),
            tx: targets.len(),
            irqs: targets.iter().enumerate().map(irq).collect(),
            rps: vec![Vec::new(); targets.len()],
            xps: (0..targets.len()).map(|queue| vec![queue]).collect(),
            ..Nic::default()
        }
    }

    #[test]
    fn interrupts_are_judged_by_where_they_go() {
        for (targets, node, severity) in [
            (&[4, 5, 6, 7][..], 1, Severity::Ok),
            (&[0, 0, 0, 0], 0, Severity::Warning),
            (&[0, 1, 2, 3], 1, Severity::Warning),
            (&[0, 1, 2, 4], 0, Severity::Advice),
            (&[0, 1, 0, 1], 0, Severity::Advice),
            (&[2], 0, Severity::Ok),
        ] {
            let found = interrupts(&nic(targets, node), &host()).expect("a finding");
            assert_eq!(found.severity, severity, "{targets:?} {found:?}");
            let writes = found.remedy.map(|remedy| remedy.writes).unwrap_or_default();
            assert_eq!(writes.is_empty(), severity == Severity::Ok);
        }
    }

    #[test]
    fn a_remedy_gives_each_queue_a_near_cpu() {
        let found = interrupts(&nic(&[0, 0, 0, 0, 0], 1), &host()).expect("a finding");
        let values: Vec<String> = found.remedy.expect("a remedy").writes.into_iter().map(|write| write.value).collect();
        assert_eq!(values, ["4", "5", "6", "7", "4"]);
    }

    #[test]
    fn packets_are_steered_where_there_are_fewer_queues_than_cpus_only() {
        let one = nic(&[0], 0);
        assert_eq!(steering(&one, &host()).map(|found| found.severity), Some(Severity::Advice));
        let mut many = nic(&[0, 1, 2, 3, 4, 5, 6, 7], 0);
        assert_eq!(steering(&many, &host()).map(|found| found.severity), Some(Severity::Ok));
        many.rps[3] = vec![0, 1];
        assert_eq!(steering(&many, &host()).map(|found| found.severity), Some(Severity::Advice));
    }

    #[test]
    fn short_rings_and_missing_offloads_are_told_with_their_command() {
        let settings = Settings {
            rx_ring: Some(256),
            rx_ring_max: Some(8_192),
            offloads_off: Some(vec!["tso".to_owned(), "gro".to_owned()]),
            ..Settings::default()
        };
        let nic = nic(&[0], 0);
        let ring = rings(&nic, &settings).and_then(|found| found.remedy).expect("a remedy");
        assert_eq!(ring.command, "ethtool -G eth0 rx 1024");
        let offload = offloads(&nic, &settings).expect("a finding");
        assert_eq!(offload.severity, Severity::Warning);
        assert_eq!(offload.remedy.expect("a remedy").command, "ethtool -K eth0 tso on gro on");
        let fixed = Settings { rx_ring: Some(256), rx_ring_max: Some(256), ..Settings::default() };
        assert_eq!(rings(&nic, &fixed).map(|found| found.severity), Some(Severity::Ok), "it cannot be longer");
    }
}
