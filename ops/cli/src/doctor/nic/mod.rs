//! The network interfaces with hardware behind them: queues, where their interrupts go, what the driver is set to.
//!
//! An interface's interrupts are those that its device lists under `msi_irqs` (virtio: the device's parent) and whose
//! name in `/proc/interrupts` is that of a queue; where a driver lists none, those whose name has the interface's.

mod check;
pub(super) mod ethtool;

use super::cpu_list::{parse_list, parse_mask};
use super::root::{Root, trailing_number};
use postrail_schema::limits::DOCTOR_NICS_MAX;

pub(super) use check::check;
pub(crate) use ethtool::Settings;

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Nic {
    pub(crate) name: String,
    pub(crate) driver: Option<String>,
    pub(crate) up: bool,
    /// Mbit/s.
    pub(crate) speed: Option<u32>,
    pub(crate) node: Option<usize>,
    pub(crate) rx: usize,
    pub(crate) tx: usize,
    pub(crate) irqs: Vec<QueueIrq>,
    /// CPUs that each receive queue hands its packets to; empty: where the interrupt came.
    pub(crate) rps: Vec<Vec<usize>>,
    /// CPUs that use each send queue; `None`: the kernel has no choice to make.
    pub(crate) xps: Vec<Vec<usize>>,
    pub(crate) settings: Option<Settings>,
}

/// The interrupt of a queue.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct QueueIrq {
    pub(crate) irq: u32,
    pub(crate) queue: usize,
    /// Whether it only tells that something was sent.
    pub(crate) tx_only: bool,
    /// CPUs that it may go to.
    pub(crate) affinity: Vec<usize>,
    /// CPUs that it does go to, where the kernel tells.
    pub(crate) effective: Vec<usize>,
}

impl QueueIrq {
    /// Where it goes, as far as that is one CPU.
    pub(crate) fn cpu(&self) -> Option<usize> {
        let cpus = if self.effective.is_empty() { &self.affinity } else { &self.effective };
        if let [cpu] = cpus[..] { Some(cpu) } else { None }
    }
}

impl Nic {
    /// The interrupts of what arrives.
    pub(crate) fn rx_irqs(&self) -> impl Iterator<Item = &QueueIrq> {
        self.irqs.iter().filter(|irq| !irq.tx_only)
    }
}

/// The interfaces that have a device.
pub(crate) fn read(root: &Root) -> Vec<Nic> {
    let interrupts = root.text("proc/interrupts").unwrap_or_default();
    let names: Vec<(u32, &str)> = interrupts.lines().filter_map(interrupt).collect();
    let is_device = |name: &String| root.text(&format!("sys/class/net/{name}/device/uevent")).is_some();
    let found = root.names("sys/class/net").into_iter().filter(is_device).take(DOCTOR_NICS_MAX);
    found.map(|name| nic(root, name, &names)).collect()
}

/// Number and name of a line of `/proc/interrupts`.
fn interrupt(line: &str) -> Option<(u32, &str)> {
    let (number, rest) = line.trim_start().split_once(':')?;
    Some((number.parse().ok()?, rest.split_whitespace().last()?))
}

fn nic(root: &Root, name: String, interrupts: &[(u32, &str)]) -> Nic {
    let folder = format!("sys/class/net/{name}");
    let queues = root.names(&format!("{folder}/queues"));
    for queue in queues.iter().filter(|queue| queue.starts_with("tx-")) {
        // Read for the recording: a queue without a choice of CPUs has no other file that can be read.
        root.text(&format!("{folder}/queues/{queue}/tx_timeout"));
    }
    let count = |kind: &str| queues.iter().filter(|queue| queue.starts_with(kind)).count();
    let masks = |kind: &str, file: &str| {
        let of_kind = queues.iter().filter(|queue| queue.starts_with(kind));
        let texts = of_kind.filter_map(|queue| root.line(&format!("{folder}/queues/{queue}/{file}")));
        texts.map(|text| parse_mask(&text)).collect::<Vec<_>>()
    };
    let uevent = root.text(&format!("{folder}/device/uevent")).unwrap_or_default();
    Nic {
        driver: uevent.lines().find_map(|line| line.strip_prefix("DRIVER=")).map(str::to_owned),
        up: root.line(&format!("{folder}/operstate")).is_none_or(|state| state == "up" || state == "unknown"),
        speed: root
            .value::<i64>(&format!("{folder}/speed"))
            .and_then(|speed| u32::try_from(speed).ok())
            .filter(|speed| *speed > 0),
        node: root.value(&format!("{folder}/device/numa_node")),
        rx: count("rx-"),
        tx: count("tx-"),
        irqs: irqs(root, &name, interrupts),
        rps: masks("rx-", "rps_cpus"),
        xps: masks("tx-", "xps_cpus"),
        settings: ethtool::read(root, &name),
        name,
    }
}

fn irqs(root: &Root, name: &str, interrupts: &[(u32, &str)]) -> Vec<QueueIrq> {
    let device = format!("sys/class/net/{name}/device");
    let mut listed = Vec::new();
    for folder in [format!("{device}/msi_irqs"), format!("{device}/../msi_irqs")] {
        if listed.is_empty() {
            listed = root.names(&folder);
            for irq in &listed {
                // Read for the recording: what counts is that it is there.
                root.text(&format!("{folder}/{irq}"));
            }
        }
    }
    let listed: Vec<u32> = listed.iter().filter_map(|irq| irq.parse().ok()).collect();
    let is_ours = |(irq, label): &&(u32, &str)| {
        if listed.is_empty() { names_interface(label, name) } else { listed.contains(irq) }
    };
    interrupts.iter().filter(is_ours).filter_map(|(irq, label)| queue_irq(root, *irq, label, name)).collect()
}

/// Whether a label has the interface's name as a word: `i40e-eth0-TxRx-3`, not `eth01`.
fn names_interface(label: &str, name: &str) -> bool {
    let is_word = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    label
        .match_indices(name)
        .any(|(at, _)| is_word(label[..at].chars().next_back()) && is_word(label[at + name.len()..].chars().next()))
}

/// The interrupt of a queue, if the label is that of one: `virtio0-input.0`, `eth0-TxRx-3`, `mlx5_comp7@pci:0000:3b:00.0`;
/// the interface's own name is that of its only queue.
fn queue_irq(root: &Root, irq: u32, label: &str, name: &str) -> Option<QueueIrq> {
    let label = label.split('@').next()?.replace(name, "").to_ascii_lowercase();
    let queue = if label.is_empty() { 0 } else { usize::try_from(trailing_number(&label)?).ok()? };
    let kind = label.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_other =
        ["config", "ctrl", "control", "async", "mgmnt", "misc", "adm"].iter().any(|word| kind.contains(word));
    if is_other {
        return None;
    }
    let tx_only = kind.contains("output") || (kind.contains("tx") && !kind.contains("rx"));
    let affinity =
        |file: &str| root.line(&format!("proc/irq/{irq}/{file}")).map(|line| parse_list(&line)).unwrap_or_default();
    Some(QueueIrq {
        irq,
        queue,
        tx_only,
        affinity: affinity("smp_affinity_list"),
        effective: affinity("effective_affinity_list"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::Scratch;

    #[test]
    fn labels_of_several_drivers_are_understood() {
        let scratch = Scratch::new("doctor-labels").expect("a temporary folder");
        let root = Root::recorded(scratch.path()).expect("a folder");
        for (label, expected) in [
            ("virtio0-input.1", Some((1, false))),
            ("virtio0-output.1", Some((1, true))),
            ("virtio0-config", None),
            ("eth0-Tx-Rx-3", Some((3, false))),
            ("i40e-eth0-TxRx-12", Some((12, false))),
            ("eth0-tx-2", Some((2, true))),
            ("mlx5_comp31@pci:0000:3b:00.0", Some((31, false))),
            ("mlx5_async0@pci:0000:3b:00.0", None),
            ("ena-mgmnt@pci:0000:00:05.0", None),
            ("eth0", Some((0, false))),
            ("mystery", None),
        ] {
            let found = queue_irq(&root, 1, label, "eth0").map(|irq| (irq.queue, irq.tx_only));
            assert_eq!(found, expected, "{label}");
        }
    }

    #[test]
    fn an_interface_is_found_by_its_whole_name_only() {
        assert!(names_interface("i40e-eth0-TxRx-3", "eth0"));
        assert!(!names_interface("i40e-eth01-TxRx-3", "eth0"));
        assert!(!names_interface("xeth0", "eth0"));
    }

    #[test]
    fn a_line_of_interrupts_gives_number_and_name() {
        let line = " 38:          0       9492 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0";
        assert_eq!(interrupt(line), Some((38, "virtio2-input.0")));
        assert_eq!(interrupt("NMI:  0  0  Non-maskable interrupts"), None);
        assert_eq!(interrupt("           CPU0       CPU1"), None);
    }
}
