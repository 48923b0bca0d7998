//! A process tree that nothing leaves: a shell script in namespaces and a control group of its own.
//!
//! ```text
//! unshare (our child) -> sh as process 1 of its namespace -> the server, its children, its orphans
//! ```
//!
//! Invariants worth naming: process 1 adopts what is orphaned, so that the tree stays whole; its end is the end of all
//! of them, and `unshare` returns only then; mounts of the script are seen by nobody else. Needs root.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::group::Group;
use crate::processes::Watched;

/// Longest time until it listens.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of its output that an error shows.
const LOG_LINES: usize = 12;

/// A running tree; it is killed when dropped.
pub(super) struct Kept {
    name: String,
    child: Child,
    output: PathBuf,
    group: Option<Group>,
}

impl Kept {
    /// Runs `script` by sh, with `environment` besides our own; what it prints goes to a file in `folder`.
    pub(super) fn start(name: &str, script: &str, folder: &Path, environment: &[(&str, String)]) -> Result<Self> {
        let group = Group::new();
        if group.is_none() {
            eprintln!("postrail-bench: no control group: of {name}, what nobody waits for is not counted");
        }
        let output = folder.join(format!("{name}.output"));
        let out = File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
        let err = out.try_clone().context("cannot write its output")?;
        let joining = group.as_ref().map(Group::joining_line).unwrap_or_default();
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &format!("set -e\n{joining}{script}")])
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .context("cannot start unshare (util-linux)")?;
        Ok(Self { name: name.to_owned(), child, output, group })
    }

    /// What to measure.
    pub(super) fn watched(&self) -> Watched {
        let group = self.group.as_ref().map(|group| group.path().to_owned());
        Watched { name: self.name.clone(), pid: self.child.id(), group }
    }

    /// Waits until it listens at `address`.
    pub(super) fn wait_listening(&mut self, address: SocketAddr) -> Result<()> {
        self.wait(&format!("listen at {address}"), || TcpStream::connect(address).is_ok())
    }

    /// Waits until `is_done`.
    pub(super) fn wait(&mut self, what: &str, mut is_done: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + LISTEN_TIMEOUT;
        while !is_done() {
            if let Some(status) = self.child.try_wait().context("cannot wait for it")? {
                bail!("it ended with {status} instead of starting{}", self.last_lines());
            }
            if Instant::now() > end {
                bail!("it does not {what} within {} s{}", LISTEN_TIMEOUT.as_secs(), self.last_lines());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The end of what it has printed, to follow an error.
    pub(super) fn last_lines(&self) -> String {
        let text = fs::read(&self.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
        if last.is_empty() { String::new() } else { format!("; the end of its output:\n  {last}") }
    }

    /// Process 1 of the namespace, as we see it.
    fn first_child(&self) -> Option<i32> {
        let id = self.child.id();
        fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            match self.first_child() {
                // SAFETY: kill takes plain numbers; the pid is that of the only child of our own child, which waits for
                // it and was itself not waited for.
                Some(first) => drop(unsafe { libc::kill(first, libc::SIGKILL) }),
                None => drop(self.child.kill()),
            }
            // Its end is all that is wanted.
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes;
    use crate::server::Scratch;

    #[test]
    fn an_orphan_is_counted_and_ends_with_its_tree() {
        let folder = Scratch::new(None, false).expect("a temporary folder");
        let pid_file = folder.path().join("done");
        // The middle shell ignores the end of its child, and is gone before it: only the group still counts it.
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let script = format!("( trap '' CHLD; ( {busy}; touch '{}' ) & )\nexec sleep 1000", pid_file.display());
        let mut kept = Kept::start("orphan", &script, folder.path(), &[]).expect("root, with unshare");
        kept.wait("finish its work", || pid_file.exists()).expect("it does");
        let usage = processes::usage(&[kept.watched()]).expect("it lives");
        assert!(kept.group.is_none() || usage[0].cpu_nanos > 20_000_000, "{usage:?}");
        let first = kept.first_child().expect("process 1");
        let group = kept.group.as_ref().map(|group| group.path().to_owned());
        drop(kept);
        assert!(!Path::new(&format!("/proc/{first}")).exists());
        assert!(group.is_none_or(|group| !group.exists()));
    }

    #[test]
    fn one_that_cannot_start_is_told_with_what_it_said() {
        let folder = Scratch::new(None, false).expect("a temporary folder");
        let mut kept = Kept::start("none", "echo alas >&2; exit 3", folder.path(), &[]).expect("root, with unshare");
        let error = kept.wait_listening(([127, 0, 0, 1], 9).into()).expect_err("nothing listens");
        assert!(error.to_string().contains("alas"), "{error}");
    }
}
