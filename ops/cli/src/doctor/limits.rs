//! What the kernel lets one process have: locked memory and open files.

use super::finding::{Finding, Remedy, Severity, Subject};
use super::root::Root;

/// Files that a process should be able to have open: every connection, in and out, is one.
pub(crate) const OPEN_FILES_WANTED: u64 = 65_536;
/// Locked octets that a shard's rings and buffers take at most.
const SHARD_LOCKED_BYTES: u64 = 2 * 1024 * 1024;
/// Number of the capability to lock memory without limit (capability.h).
const CAP_IPC_LOCK: u32 = 14;

/// Limits of the process that looks (or looked): `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Octets, the hard limit: it is what `up` raises itself to.
    locked_bytes: Option<u64>,
    open_files: Option<u64>,
    may_lock: bool,
}

impl Limits {
    /// `None` where nothing tells them.
    pub(super) fn read(root: &Root) -> Option<Self> {
        let text = root.text("proc/self/limits")?;
        let hard = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_whitespace().nth(1)?.parse().ok())
        };
        let status = root.text("proc/self/status").unwrap_or_default();
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let capabilities = capabilities.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
        Some(Self {
            locked_bytes: hard("Max locked memory")?,
            open_files: hard("Max open files")?,
            may_lock: capabilities >> CAP_IPC_LOCK & 1 == 1,
        })
    }
}

/// Findings for a host on which so many shards run.
pub(super) fn check(limits: Option<Limits>, shards: usize) -> Vec<Finding> {
    let Some(limits) = limits else {
        let why = "proc/self/limits is not in the recording";
        return vec![Finding::skipped(Subject::Limits, "limits", "locked memory and open files", why)];
    };
    vec![locked(limits, shards), files(limits)]
}

fn locked(limits: Limits, shards: usize) -> Finding {
    let need = SHARD_LOCKED_BYTES * shards as u64;
    let found = match (limits.may_lock, limits.locked_bytes) {
        (true, _) => "no limit (CAP_IPC_LOCK)".to_owned(),
        (false, None) => "no limit".to_owned(),
        (false, Some(bytes)) => format!("{bytes} octets"),
    };
    let enough = limits.may_lock || limits.locked_bytes.is_none_or(|bytes| bytes >= need);
    Finding::new(Subject::Limits, "limits.memlock", "locked memory", found)
        .wanted(
            format!("no limit, or at least {need} octets for {shards} shards"),
            "io_uring counts its rings and buffers as locked memory; without it the shards do not start",
        )
        .unless(enough, Severity::Error)
        .remedy(|| {
            Remedy::by_hand(
                "LimitMEMLOCK=infinity in the service unit (ops/systemd/postrail.service), or ulimit -l unlimited",
            )
        })
}

fn files(limits: Limits) -> Finding {
    let found = limits.open_files.map_or("no limit".to_owned(), |files| files.to_string());
    Finding::new(Subject::Limits, "limits.nofile", "open files", found)
        .wanted(
            format!("at least {OPEN_FILES_WANTED}"),
            "every connection is a file: over the limit clients are refused and mail waits",
        )
        .unless(limits.open_files.is_none_or(|files| files >= OPEN_FILES_WANTED), Severity::Warning)
        .remedy(|| {
            Remedy::by_hand(
                "LimitNOFILE=1048576 in the service unit (ops/systemd/postrail.service), or ulimit -n 1048576",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = include_str!("../../../systemd/postrail.service");

    #[test]
    fn the_service_unit_grants_what_the_doctor_wants() {
        let value = |name: &str| UNIT.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        assert_eq!(value("LimitMEMLOCK="), "infinity");
        let open_files = value("LimitNOFILE=").parse().expect("a number");
        let limits = Limits { locked_bytes: None, open_files: Some(open_files), may_lock: false };
        assert!(check(Some(limits), 128).iter().all(|finding| finding.severity == Severity::Ok));
    }

    #[test]
    fn limits_are_judged_for_the_number_of_shards() {
        use Severity::{Error, Ok, Warning};
        for (locked_bytes, may_lock, open_files, shards, expected) in [
            (Some(8 << 20), false, Some(1 << 20), 4, [Ok, Ok]),
            (Some(8 << 20), false, Some(1_024), 5, [Error, Warning]),
            (Some(65_536), true, None, 64, [Ok, Ok]),
        ] {
            let findings = check(Some(Limits { locked_bytes, open_files, may_lock }), shards);
            let found: Vec<Severity> = findings.iter().map(|finding| finding.severity).collect();
            assert_eq!(found, expected);
        }
        assert_eq!(check(None, 1)[0].severity, Severity::Skipped);
    }
}
