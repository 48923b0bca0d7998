//! What processes have used, from /proc: CPU time, context switches, memory, octets written.
//!
//! A watched process stands for its whole tree: living descendants are read themselves, and those that have ended and
//! were waited for are in their parent's sums. CPU time is the process's own CPU clock (nanoseconds, with threads that
//! have ended); its split into user and system is that of `/proc/PID/stat`. Where the tree has a control group of its
//! own, CPU time is the group's, which no descendant escapes. Deliberately absent: without a group, descendants that
//! left the tree (daemons that fork twice): watch them by their own pid. Threads that have ended are missing in the
//! context switches.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::account::rounded;
use crate::result::ProgramCost;

/// Processes in a tree at most.
const TREE_MAX: usize = 4_096;

/// A process to watch, with its descendants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Watched {
    pub name: String,
    pub pid: u32,
    /// The folder of the control group (version 2) that holds the whole tree and nothing else, where there is one.
    pub group: Option<PathBuf>,
}

/// What a process tree has used since it began.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Usage {
    pub cpu_nanos: u64,
    pub cpu_user_nanos: u64,
    pub context_switches: u64,
    /// Octets that went to storage, or will.
    pub bytes_written: u64,
    /// Most resident memory so far, KiB: the sum of each living process's own peak.
    pub rss_peak_kib: u64,
    /// Resident memory now, KiB.
    pub rss_kib: u64,
}

impl Usage {
    fn add(&mut self, other: &Self) {
        self.cpu_nanos += other.cpu_nanos;
        self.cpu_user_nanos += other.cpu_user_nanos;
        self.context_switches += other.context_switches;
        self.bytes_written += other.bytes_written;
        self.rss_peak_kib += other.rss_peak_kib;
        self.rss_kib += other.rss_kib;
    }
}

/// The usage of each of `watched`; `None` where one has ended.
pub fn usage(watched: &[Watched]) -> Option<Vec<Usage>> {
    let children = children();
    let of = |root: &Watched| {
        let mut usage = tree_usage(root.pid, &children)?;
        if let Some((total, user)) = root.group.as_deref().and_then(group_cpu_nanos) {
            (usage.cpu_nanos, usage.cpu_user_nanos) = (total, user);
        }
        Some(usage)
    };
    watched.iter().map(of).collect()
}

/// The usage of this process alone.
pub fn own_usage() -> Usage {
    usage_of(std::process::id()).unwrap_or_default()
}

/// What `watched` have used between two looks, a mail.
pub(crate) fn results(watched: &[Watched], before: &[Usage], after: &[Usage], mails: u64) -> Vec<ProgramCost> {
    let per_mail = |before: u64, after: u64| rounded(after.saturating_sub(before) as f64 / mails.max(1) as f64);
    let all = watched.iter().zip(before.iter().zip(after));
    all.map(|(process, (before, after))| {
        let total = after.cpu_nanos.saturating_sub(before.cpu_nanos);
        let user = after.cpu_user_nanos.saturating_sub(before.cpu_user_nanos).min(total);
        ProgramCost {
            name: process.name.clone(),
            cpu_user_us_per_mail: rounded(user as f64 / 1_000.0 / mails.max(1) as f64),
            cpu_system_us_per_mail: rounded((total - user) as f64 / 1_000.0 / mails.max(1) as f64),
            context_switches_per_mail: per_mail(before.context_switches, after.context_switches),
            peak_rss_mb: rounded(after.rss_peak_kib as f64 / 1_024.0),
            bytes_written_per_mail: per_mail(before.bytes_written, after.bytes_written),
        }
    })
    .collect()
}

fn tree_usage(root: u32, children: &BTreeMap<u32, Vec<u32>>) -> Option<Usage> {
    let mut total = usage_of(root)?;
    let mut open: Vec<u32> = children.get(&root).cloned().unwrap_or_default();
    let mut seen = 0;
    while let Some(pid) = open.pop() {
        seen += 1;
        if seen > TREE_MAX {
            break;
        }
        // One that has just ended is in its parent's sums at the next look.
        if let Some(usage) = usage_of(pid) {
            total.add(&usage);
        }
        open.extend(children.get(&pid).into_iter().flatten());
    }
    Some(total)
}

/// The children of every process.
fn children() -> BTreeMap<u32, Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return children };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = stat_fields(&stat).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

/// The usage of one process and of its children that have ended.
fn usage_of(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat_fields(&stat)?;
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let nanos = |ticks: u64| ticks * 1_000_000_000 / ticks_per_second();
    let (user, system, ended_user, ended_system) = (ticks(11), ticks(12), ticks(13), ticks(14));
    let own = cpu_clock_nanos(pid).unwrap_or_else(|| nanos(user + system));
    let own_user = if user + system == 0 { own } else { (own as f64 * user as f64 / (user + system) as f64) as u64 };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    Some(Usage {
        cpu_nanos: own + nanos(ended_user + ended_system),
        cpu_user_nanos: own_user + nanos(ended_user),
        context_switches: context_switches(pid),
        bytes_written: value(&io, "write_bytes"),
        rss_peak_kib: value(&status, "VmHWM"),
        rss_kib: value(&status, "VmRSS"),
    })
}

/// CPU time that all members of a control group have used, those that have ended included: total, and in user mode.
fn group_cpu_nanos(group: &Path) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let nanos = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()?.checked_mul(1_000)
    };
    Some((nanos("usage_usec")?, nanos("user_usec")?))
}

fn context_switches(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .map(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            value(&status, "voluntary_ctxt_switches") + value(&status, "nonvoluntary_ctxt_switches")
        })
        .sum()
}

/// The fields of a `stat` file after the name, which may have spaces and brackets in it: the state is at 0.
fn stat_fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace().collect())
}

/// The first number of the line `name:`; 0 where there is none.
fn value(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes a plain number and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// The process's CPU clock; `None` where the kernel does not give it.
fn cpu_clock_nanos(pid: u32) -> Option<u64> {
    let mut clock = libc::CLOCK_REALTIME;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write only into the two variables, which outlive them.
    let failed = unsafe {
        libc::clock_getcpuclockid(i32::try_from(pid).ok()?, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    if failed {
        return None;
    }
    Some(u64::try_from(time.tv_sec).ok()? * 1_000_000_000 + u64::try_from(time.tv_nsec).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_shows() {
        let before = own_usage();
        let mut sum = 0_u64;
        while own_usage().cpu_nanos - before.cpu_nanos < 20_000_000 {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        let after = own_usage();
        assert!(after.rss_kib > 0 && after.rss_peak_kib >= after.rss_kib && sum > 0);
        let watched = [Watched { name: "self".into(), pid: std::process::id(), group: None }];
        let results = results(&watched, &[before], &[after], 10);
        assert!(results[0].cpu_user_us_per_mail + results[0].cpu_system_us_per_mail >= 2_000.0, "{results:?}");
    }

    #[test]
    fn a_child_that_has_ended_is_in_its_parents_sums() {
        let before = own_usage().cpu_nanos;
        let busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
        let status = std::process::Command::new("sh").args(["-c", busy]).status().expect("sh is there");
        assert!(status.success() && own_usage().cpu_nanos > before);
    }

    #[test]
    fn names_with_brackets_do_not_confuse() {
        let fields = stat_fields("7 (a) b (c)) S 1 7 7").expect("fields");
        assert_eq!(fields[..2], ["S", "1"]);
        assert_eq!(value("VmHWM:\t  12 kB\nVmRSS:\t 8 kB\n", "VmRSS"), 8);
        assert_eq!(usage(&[Watched { name: "none".into(), pid: u32::MAX, group: None }]), None);
    }
}
