//! A control group (version 2) of its own for each measured server: what its members use is counted whoever waits for
//! them, and none is left behind.
//!
//! Deliberately absent: limits. The group only counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for killed members to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks at them.
const LOOK: Duration = Duration::from_millis(20);

/// A group, removed with all its members when dropped.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    /// A new, empty group; `None` where there is no hierarchy of version 2 or it may not be written.
    pub(super) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mount = hierarchy(&fs::read_to_string("/proc/self/mounts").ok()?)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = mount.join(format!("postrail-bench-{}-{number}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The shell line by which a shell becomes a member, with all that it starts.
    pub(super) fn joining_line(&self) -> String {
        format!("echo 0 > '{}'\n", self.path.join("cgroup.procs").display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Kernels before 5.14 lack it; the process namespace has ended the members then.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let end = Instant::now() + END_TIMEOUT;
        while let Err(error) = fs::remove_dir(&self.path) {
            if Instant::now() > end {
                eprintln!("postrail-bench: cannot remove {}: {error}", self.path.display());
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Where the hierarchy of version 2 is mounted.
fn hierarchy(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_is_found_beside_the_first() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(hierarchy(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(hierarchy("proc /proc proc rw 0 0\n"), None);
    }
}
