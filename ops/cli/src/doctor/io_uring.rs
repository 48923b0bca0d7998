//! io_uring: whether the kernel has it, whether it lets us, and what it can.

use std::io;

use postrail_data_plane::platform::glommio::probe_io_uring;

use super::finding::{Finding, Remedy, Severity, Subject};
use super::root::Root;

/// What the kernel says about io_uring.
#[derive(Debug)]
pub(super) struct IoUring {
    /// `major.minor…` as uname has it.
    release: Option<String>,
    disabled: Option<u8>,
    /// A ring was set up and closed; `None`: not tried.
    probe: Option<io::Result<()>>,
}

impl IoUring {
    pub(super) fn read(root: &Root) -> Self {
        Self {
            release: root.line("proc/sys/kernel/osrelease"),
            disabled: root.value("proc/sys/kernel/io_uring_disabled"),
            probe: root.is_live().then(probe_io_uring),
        }
    }

    pub(super) fn check(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.release.iter().map(|release| kernel(release)).collect();
        findings.extend(self.disabled.map(allowed));
        findings.push(self.check_probe());
        findings
    }

    fn check_probe(&self) -> Finding {
        let (id, what) = ("io_uring.setup", "a ring is set up");
        match &self.probe {
            None => Finding::skipped(Subject::IoUring, id, what, "a recorded host cannot be asked"),
            Some(Ok(())) => {
                Finding::new(Subject::IoUring, id, what, "yes").wanted("yes", "every shard runs on io_uring")
            }
            Some(Err(error)) => Finding::new(Subject::IoUring, id, what, format!("no: {error}"))
                .wanted("yes", "every shard runs on io_uring; in a container the seccomp profile often refuses it")
                .severity(Severity::Error)
                .remedy(|| {
                    Remedy::by_hand(
                        "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
                    )
                }),
        }
    }
}

fn kernel(release: &str) -> Finding {
    let version = version(release);
    let severity = match version {
        Some(version) if version < (5, 8) => Severity::Error,
        Some(version) if version < (6, 2) => Severity::Advice,
        _ => Severity::Ok,
    };
    Finding::new(Subject::IoUring, "io_uring.kernel", "kernel", release)
        .wanted(
            "6.2 or later, at least 5.8",
            "before 5.8 io_uring lacks what the shards need; before 6.2 a connection does not find the shard of the CPU that it arrives on",
        )
        .severity(severity)
        .remedy(|| Remedy::by_hand("install a newer kernel of your distribution, and restart"))
}

/// Major and minor number of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn allowed(disabled: u8) -> Finding {
    let severity = match disabled {
        0 => Severity::Ok,
        1 => Severity::Warning,
        _ => Severity::Error,
    };
    Finding::new(Subject::IoUring, "io_uring.disabled", "kernel.io_uring_disabled", disabled.to_string())
        .wanted("0", "1 keeps it from users without CAP_SYS_ADMIN outside of kernel.io_uring_group, 2 from everybody")
        .severity(severity)
        // Somebody may have closed it on purpose: no --fix.
        .remedy(|| Remedy::by_hand("sysctl -w kernel.io_uring_disabled=0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        for (release, severity) in [
            ("6.18.44-generic", Severity::Ok),
            ("6.1.0-18-amd64", Severity::Advice),
            ("5.4.0", Severity::Error),
            ("next", Severity::Ok),
        ] {
            assert_eq!(kernel(release).severity, severity, "{release}");
        }
    }

    #[test]
    fn a_refusal_is_an_error_with_its_reason() {
        let probe = Some(Err(io::Error::from_raw_os_error(libc::EPERM)));
        let findings = IoUring { release: None, disabled: Some(2), probe }.check();
        assert!(findings.iter().all(|finding| finding.severity == Severity::Error), "{findings:?}");
        assert!(findings[1].found.contains("not permitted"), "{findings:?}");
    }
}
