//! The disk that holds the data folder: its file system, cache, scheduler, and what a sync of it costs.
//!
//! The device is found by the longest mount point above the folder in `/proc/self/mountinfo` (proc(5)), then by
//! `/sys/dev/block/MAJOR:MINOR`; a partition's queue is its disk's.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::finding::{Finding, Remedy, Severity, Subject, Write};
use super::root::Root;

/// Writes of one block that are timed, and the longest time for all of them.
const SYNCS: usize = 64;
const SYNC_TIME_MAX: Duration = Duration::from_secs(3);
/// A sync that takes so long makes every acknowledgement wait.
const SYNC_SLOW: Duration = Duration::from_millis(10);
/// A sync below this reached no device.
const SYNC_TOO_FAST: Duration = Duration::from_micros(10);

/// What is known of the data folder's disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Disk {
    mount: String,
    file_system: String,
    options: Vec<String>,
    /// Where the queue's settings are, without a first slash.
    queue: Option<String>,
    rotational: bool,
    write_cache: Option<String>,
    scheduler: Option<String>,
    sync: Option<Result<Syncs, String>>,
}

/// The time of a write of one block with its fdatasync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Syncs {
    median: Duration,
    /// The slowest but one in a hundred.
    p99: Duration,
}

impl Disk {
    /// The disk of `data`; `None` where the mounts are not known.
    pub(super) fn read(root: &Root, data: &Path) -> Option<Self> {
        let mounts = root.text("proc/self/mountinfo")?;
        let folder = if root.is_live() { existing(data) } else { data.to_owned() };
        let (device, mount) =
            mounts.lines().filter_map(|line| parse_mount(line, &folder)).max_by_key(|(_, mount)| mount.mount.len())?;
        let block = format!("sys/dev/block/{device}");
        let queues = [format!("{block}/queue"), format!("{block}/../queue")];
        let queue = queues.into_iter().find(|queue| root.line(&format!("{queue}/scheduler")).is_some());
        let read = |name: &str| root.line(&format!("{}/{name}", queue.as_ref()?));
        Some(Self {
            rotational: read("rotational").as_deref() == Some("1"),
            write_cache: read("write_cache"),
            scheduler: read("scheduler"),
            sync: root.is_live().then(|| measure(&folder).map_err(|error| error.to_string())),
            queue,
            ..mount
        })
    }

    pub(super) fn check(&self) -> Vec<Finding> {
        let mut findings = vec![self.check_file_system()];
        findings.extend(self.check_options());
        findings.extend(self.scheduler.as_deref().map(|line| self.check_scheduler(line)));
        findings.extend(self.write_cache.as_deref().map(|cache| self.check_cache(cache)));
        findings.push(self.check_sync());
        findings
    }

    fn check_file_system(&self) -> Finding {
        let name = self.file_system.as_str();
        let (severity, why) = match name {
            "ext4" | "xfs" => (Severity::Ok, "it has O_DIRECT and syncs what it says it syncs"),
            "tmpfs" | "ramfs" => (Severity::Error, "mail that was acknowledged is gone with the next restart"),
            "overlay" | "nfs" | "nfs4" | "cifs" | "9p" | "fuse" => {
                (Severity::Error, "the spool writes around the page cache (O_DIRECT) and relies on a true fdatasync")
            }
            _ => (
                Severity::Advice,
                "it is not among those that are tested: durability rests on its O_DIRECT and fdatasync",
            ),
        };
        Finding::new(Subject::Disk, "disk.file_system", "file system", format!("{name} at {}", self.mount))
            .wanted("ext4 or xfs", why)
            .severity(severity)
            .remedy(|| Remedy::by_hand("put the data folder on ext4 or xfs (--data)"))
    }

    fn check_options(&self) -> Option<Finding> {
        let is_unsafe =
            |option: &&String| ["nobarrier", "barrier=0", "data=writeback", "nobh"].contains(&option.as_str());
        let found: Vec<&String> = self.options.iter().filter(is_unsafe).collect();
        let option = found.first()?;
        let finding = Finding::new(Subject::Disk, "disk.options", "mount options", option.as_str())
            .wanted("none that skip barriers", "after a power failure acknowledged mail may be missing")
            .severity(Severity::Error)
            .remedy(|| Remedy::by_hand(format!("remove {option} from /etc/fstab for {}", self.mount)));
        Some(finding)
    }

    fn check_scheduler(&self, line: &str) -> Finding {
        let chosen = line.split(['[', ']']).nth(1).unwrap_or(line);
        let wanted = if self.rotational { "mq-deadline" } else { "none" };
        let is_fine = chosen == wanted || chosen == "mq-deadline" || chosen == "none";
        let offered = line.split_whitespace().any(|name| name.trim_matches(['[', ']']) == wanted);
        Finding::new(Subject::Disk, "disk.scheduler", "I/O scheduler", chosen)
            .wanted(
                format!("{wanted} (mq-deadline is fine)"),
                "fair queueing between programs delays the one small write that a client waits for",
            )
            .unless(is_fine, Severity::Advice)
            .remedy(|| match &self.queue {
                Some(queue) if offered => {
                    let write = Write { path: format!("{queue}/scheduler"), value: wanted.to_owned() };
                    Remedy::safe(format!("echo {wanted} > /{queue}/scheduler"), vec![write])
                }
                _ => Remedy::by_hand("boot with a kernel that has the mq-deadline scheduler"),
            })
    }

    fn check_cache(&self, cache: &str) -> Finding {
        Finding::new(Subject::Disk, "disk.write_cache", "write cache", cache).wanted(
            "either",
            "by `write back` every sync flushes the device's cache, which costs what the sync below shows; by `write through` none is needed",
        )
    }

    fn check_sync(&self) -> Finding {
        let (id, what) = ("disk.sync", "4 KB written and synced");
        let syncs = match &self.sync {
            None => return Finding::skipped(Subject::Disk, id, what, "a recorded disk cannot be timed"),
            Some(Err(error)) => {
                return Finding::skipped(
                    Subject::Disk,
                    id,
                    what,
                    format!("the data folder cannot be written: {error}"),
                );
            }
            Some(Ok(syncs)) => syncs,
        };
        let found = format!("median {} µs, p99 {} µs", syncs.median.as_micros(), syncs.p99.as_micros());
        let finding = Finding::new(Subject::Disk, id, what, found);
        if syncs.median < SYNC_TOO_FAST {
            return finding
                .wanted(
                    "over 10 µs",
                    "no device answers so fast: something between us and it does not pass the sync on",
                )
                .severity(Severity::Warning)
                .remedy(|| Remedy::by_hand("see the cache mode of the virtual disk (it must not be `unsafe`)"));
        }
        finding
            .wanted(
                format!("under {} ms", SYNC_SLOW.as_millis()),
                "each acknowledgement waits for one sync, which it shares with all that came meanwhile",
            )
            .unless(syncs.median < SYNC_SLOW, Severity::Warning)
            .remedy(|| {
                Remedy::by_hand(
                    "use a disk with power-loss protection (its cache makes a sync free), or a faster volume",
                )
            })
    }
}

/// The device and the mount of a line, if `folder` is below its mount point.
fn parse_mount(line: &str, folder: &Path) -> Option<(String, Disk)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let (device, _, point, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_device = device
        .split_once(':')
        .is_some_and(|(major, minor)| major.parse::<u32>().is_ok() && minor.parse::<u32>().is_ok());
    // Blanks of a mount point are written in octal.
    let point = point.replace("\\040", " ");
    if !is_device || !folder.starts_with(&point) {
        return None;
    }
    let mut after = after.split(' ');
    let file_system = after.next()?.to_owned();
    let options = options.split(',').chain(after.nth(1).unwrap_or_default().split(',')).map(str::to_owned).collect();
    Some((device.to_owned(), Disk { mount: point, file_system, options, ..Disk::default() }))
}

/// The nearest folder above `path` that exists.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    found.canonicalize().unwrap_or_else(|_| PathBuf::from("/"))
}

/// Times syncs in a file of `folder` that is removed again.
fn measure(folder: &Path) -> io::Result<Syncs> {
    let path = folder.join(format!(".postrail-doctor-{}.new", std::process::id()));
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(&path)?;
    let timed = time_syncs(file);
    fs::remove_file(&path)?;
    timed
}

fn time_syncs(mut file: File) -> io::Result<Syncs> {
    let begin = Instant::now();
    let mut times = Vec::with_capacity(SYNCS);
    while times.len() < SYNCS && (times.len() < 2 || begin.elapsed() < SYNC_TIME_MAX) {
        let start = Instant::now();
        file.write_all(&[0x50; 4_096])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(Syncs { median: times[times.len() / 2], p99: times[times.len() * 99 / 100] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::Scratch;

    #[test]
    fn the_mount_of_a_folder_is_the_longest_above_it() {
        let mounts = "\
            22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            30 22 259:3 / /srv/mail\\040box rw,noatime - xfs /dev/nvme0n1p3 rw,nobarrier\n\
            31 22 0:25 / /tmp rw - tmpfs tmpfs rw\nbroken line\n";
        let find = |folder: &str| {
            let lines = mounts.lines().filter_map(|line| parse_mount(line, Path::new(folder)));
            lines.max_by_key(|(_, mount)| mount.mount.len()).map(|(device, mount)| (device, mount.file_system))
        };
        assert_eq!(find("/srv/mail box/data"), Some(("259:3".to_owned(), "xfs".to_owned())));
        assert_eq!(find("/srv/mailbox"), Some(("8:1".to_owned(), "ext4".to_owned())));
        assert_eq!(find("/tmp/x").map(|found| found.1), Some("tmpfs".to_owned()));
        assert_eq!(find("relative"), None);
    }

    #[test]
    fn disks_are_judged() {
        use Severity::{Advice, Error, Ok, Skipped, Warning};
        let sync = |micros| {
            Some(Result::Ok(Syncs { median: Duration::from_micros(micros), p99: Duration::from_micros(micros) }))
        };
        for (file_system, options, scheduler, sync, expected) in [
            ("ext4", "rw", "[none] mq-deadline", sync(200), vec![Ok, Ok, Ok, Ok]),
            ("xfs", "nobarrier", "none [bfq]", sync(20_000), vec![Ok, Error, Advice, Ok, Warning]),
            ("tmpfs", "rw", "[none]", sync(1), vec![Error, Ok, Ok, Warning]),
            ("btrfs", "rw", "[mq-deadline]", None, vec![Advice, Ok, Ok, Skipped]),
        ] {
            let disk = Disk {
                file_system: file_system.to_owned(),
                options: vec![options.to_owned()],
                scheduler: Some(scheduler.to_owned()),
                write_cache: Some("write back".to_owned()),
                sync,
                ..Disk::default()
            };
            let found: Vec<Severity> = disk.check().iter().map(|finding| finding.severity).collect();
            assert_eq!(found, expected, "{file_system}");
        }
    }

    #[test]
    fn a_real_folder_is_timed_and_left_clean() {
        let scratch = Scratch::new("doctor-disk").expect("a temporary folder");
        let syncs = measure(scratch.path()).expect("it can be written");
        assert!(syncs.median <= syncs.p99);
        assert_eq!(fs::read_dir(scratch.path()).expect("readable").count(), 0);
        assert!(measure(&scratch.path().join("absent")).is_err());
    }
}
