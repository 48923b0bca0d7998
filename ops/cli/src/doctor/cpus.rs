//! The CPUs: which there are, which we may use, how they hang together, how fast they are let run; and the clock.

use super::cpu_list::{list_text, parse_list};
use super::finding::{Finding, Remedy, Severity, Subject, Write};
use super::root::{Root, trailing_number};

/// One CPU (hardware thread) that is online.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) id: usize,
    /// Its place among the threads of its core: 0 for the first.
    pub(crate) thread: usize,
    pub(crate) package: Option<usize>,
    pub(crate) node: Option<usize>,
    /// The frequency governor; a virtual machine has none.
    pub(crate) governor: Option<String>,
}

/// All CPUs of a host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cpus {
    pub(crate) online: Vec<Cpu>,
    /// What this process may use, as far as it is online.
    pub(crate) allowed: Vec<usize>,
    pub(crate) nodes: usize,
    pub(crate) clock: Option<String>,
    pub(crate) clocks: Vec<String>,
}

impl Cpus {
    pub(crate) fn read(root: &Root) -> Self {
        let mut ids = parse_list(&root.line("sys/devices/system/cpu/online").unwrap_or_default());
        if ids.is_empty() {
            ids = vec![0];
        }
        let nodes = nodes(root);
        let online = ids.iter().map(|id| cpu(root, *id, &nodes)).collect();
        let status = root.text("proc/self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(parse_list);
        let mut allowed = allowed.unwrap_or_default();
        allowed.retain(|cpu| ids.contains(cpu));
        let clock = "sys/devices/system/clocksource/clocksource0";
        Self {
            online,
            allowed: if allowed.is_empty() { ids } else { allowed },
            nodes: nodes.len().max(1),
            clock: root.line(&format!("{clock}/current_clocksource")),
            clocks: root
                .line(&format!("{clock}/available_clocksource"))
                .map(|line| line.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
        }
    }

    pub(crate) fn get(&self, id: usize) -> Option<&Cpu> {
        self.online.iter().find(|cpu| cpu.id == id)
    }

    /// The CPUs of a node.
    pub(super) fn of_node(&self, node: usize) -> Vec<usize> {
        self.online.iter().filter(|cpu| cpu.node == Some(node)).map(|cpu| cpu.id).collect()
    }

    pub(super) fn check(&self) -> Vec<Finding> {
        let mut findings = vec![self.check_allowed()];
        findings.extend(self.check_governor());
        findings.extend(self.check_clock());
        findings
    }

    fn check_allowed(&self) -> Finding {
        let cores = self.online.iter().filter(|cpu| cpu.thread == 0).count();
        let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let found = format!(
            "{} of {} may be used, {}, {}",
            self.allowed.len(),
            counted(self.online.len(), "CPU"),
            counted(cores, "core"),
            counted(self.nodes, "NUMA node")
        );
        Finding::new(Subject::Cpu, "cpu.allowed", "CPUs", found).wanted(
            "those that the shards are to run on",
            "one shard runs on each; a container's cpuset or an affinity mask leaves fewer",
        )
    }

    fn check_governor(&self) -> Option<Finding> {
        let of = |name: &str| {
            self.online.iter().filter(|cpu| cpu.governor.as_deref() == Some(name)).map(|cpu| cpu.id).collect::<Vec<_>>()
        };
        let mut names: Vec<&str> = self.online.iter().filter_map(|cpu| cpu.governor.as_deref()).collect();
        names.sort_unstable();
        names.dedup();
        let what = "frequency governor";
        if names.is_empty() {
            let why = "this host does not choose its frequency (a virtual machine does not)";
            return Some(Finding::skipped(Subject::Cpu, "cpu.governor", what, why));
        }
        let slow: Vec<usize> = self
            .online
            .iter()
            .filter(|cpu| cpu.governor.as_deref().is_some_and(|name| name != "performance"))
            .map(|cpu| cpu.id)
            .collect();
        let found = names.iter().map(|name| format!("{name} on CPU {}", list_text(&of(name)))).collect::<Vec<_>>();
        let severity = if names.contains(&"powersave") { Severity::Warning } else { Severity::Advice };
        let path = |cpu: &usize| format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        let finding = Finding::new(Subject::Cpu, "cpu.governor", what, found.join(", "))
            .wanted("performance", "a CPU that is clocked down takes longer for the first mails after a pause")
            .unless(slow.is_empty(), severity)
            .remedy(|| {
                let writes = slow.iter().map(|cpu| Write { path: path(cpu), value: "performance".to_owned() });
                Remedy::safe("cpupower frequency-set -g performance", writes.collect())
            });
        Some(finding)
    }

    fn check_clock(&self) -> Option<Finding> {
        let clock = self.clock.as_deref()?;
        let is_cheap = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "stp"].contains(&clock);
        let has_tsc = self.clocks.iter().any(|name| name == "tsc");
        let finding = Finding::new(Subject::Cpu, "cpu.clock", "clock source", clock)
            .wanted(
                if has_tsc { "tsc" } else { "one that is read without a system call" },
                "the time is asked several times a mail; the others cost a microsecond each instead of 20 ns",
            )
            .unless(is_cheap, Severity::Warning)
            .remedy(|| {
                Remedy::by_hand(if has_tsc {
                    "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource"
                } else {
                    "see why the kernel rejected the TSC: dmesg | grep -i tsc"
                })
            });
        Some(finding)
    }
}

/// The NUMA nodes with their CPUs.
fn nodes(root: &Root) -> Vec<(usize, Vec<usize>)> {
    let folder = "sys/devices/system/node";
    let names = root.names(folder).into_iter().filter(|name| name.starts_with("node"));
    let nodes = names.filter_map(|name| {
        let cpus = parse_list(&root.line(&format!("{folder}/{name}/cpulist"))?);
        Some((usize::try_from(trailing_number(&name)?).ok()?, cpus))
    });
    nodes.collect()
}

fn cpu(root: &Root, id: usize, nodes: &[(usize, Vec<usize>)]) -> Cpu {
    let folder = format!("sys/devices/system/cpu/cpu{id}");
    let siblings = parse_list(&root.line(&format!("{folder}/topology/thread_siblings_list")).unwrap_or_default());
    Cpu {
        id,
        thread: siblings.iter().position(|sibling| *sibling == id).unwrap_or(0),
        package: root.value(&format!("{folder}/topology/physical_package_id")),
        node: nodes.iter().find(|(_, cpus)| cpus.contains(&id)).map(|(node, _)| *node),
        governor: root.line(&format!("{folder}/cpufreq/scaling_governor")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(governors: &[Option<&str>], clock: &str, clocks: &[&str]) -> Cpus {
        let cpu = |(id, governor): (usize, &Option<&str>)| Cpu {
            id,
            governor: governor.map(str::to_owned),
            ..Cpu::default()
        };
        Cpus {
            online: governors.iter().enumerate().map(cpu).collect(),
            allowed: (0..governors.len()).collect(),
            nodes: 1,
            clock: Some(clock.to_owned()),
            clocks: clocks.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn governors_and_clocks_are_judged() {
        use Severity::{Advice, Ok, Skipped, Warning};
        for (governors, clock, expected) in [
            (&[Some("performance"); 2][..], "tsc", [Ok, Ok]),
            (&[Some("performance"), Some("powersave")], "hpet", [Warning, Warning]),
            (&[Some("schedutil")], "kvm-clock", [Advice, Ok]),
            (&[None], "acpi_pm", [Skipped, Warning]),
        ] {
            let found: Vec<Severity> =
                cpus(governors, clock, &[clock]).check()[1..].iter().map(|finding| finding.severity).collect();
            assert_eq!(found, expected, "{governors:?} {clock}");
        }
    }

    #[test]
    fn only_the_slow_cpus_are_set() {
        let findings = cpus(&[Some("performance"), Some("powersave")], "tsc", &[]).check();
        let remedy = findings[1].remedy.as_ref().expect("to mend");
        assert_eq!(remedy.writes.len(), 1);
        assert!(remedy.writes[0].path.contains("cpu1/"), "{remedy:?}");
    }
}
