//! A PostgreSQL server in a temporary folder, reached by a Unix socket there.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::super::PostgresAddress;

/// A running server; it ends when this is dropped.
pub(crate) struct Counterpart {
    folder: TempDir,
    server: Option<Child>,
}

impl Counterpart {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            let (user, group) = user("postgres");
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let mut counterpart = Self { folder, server: None };
        let data = counterpart.data();
        let made = counterpart
            .command("initdb")
            .args(["--auth=trust", "--username=postrail", "--no-sync", "--no-instructions", "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        counterpart.resume();
        counterpart
    }

    /// Starts the server again. What is left of a former one may be in its way for a moment.
    pub(super) fn resume(&mut self) {
        for _ in 0..20 {
            if self.try_resume() {
                return;
            }
        }
        let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap();
        panic!("the server does not start: {log}");
    }

    fn try_resume(&mut self) -> bool {
        let folder = self.folder.path();
        let log = std::fs::File::create(folder.join("server.log")).unwrap();
        let server = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(folder)
            .args(["-c", "listen_addresses=", "-c", sync(), "-c", "shared_buffers=64MB"])
            .stderr(log)
            .spawn()
            .unwrap();
        let server = self.server.insert(server);
        let mut asks = Command::new(programs().join("pg_isready"));
        asks.arg("-h").arg(folder).args(["-U", "postrail"]).stdout(Stdio::null());
        while server.try_wait().unwrap().is_none() {
            if asks.status().unwrap().success() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Ends the server, and the processes that serve connections, without a chance to tidy up.
    pub(super) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let id = server.id();
            // Stopped, it can start no other.
            signal("STOP", &id.to_string());
            let children = children(id);
            server.kill().unwrap();
            server.wait().unwrap();
            children.iter().for_each(|child| signal("KILL", child));
        }
    }

    /// CPU microseconds of its processes so far; of one that has ended, none.
    pub(super) fn cpu_us(&self) -> u64 {
        let of = |id: &String| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/schedstat")).unwrap_or_default();
            stat.split(' ').next().and_then(|spent| spent.parse::<u64>().ok()).unwrap_or(0) / 1_000
        };
        self.server.as_ref().map_or(0, |server| children(server.id()).iter().map(of).sum())
    }

    pub(crate) fn address(&self) -> PostgresAddress {
        self.address_of("postrail", "postgres")
    }

    pub(super) fn address_of(&self, user: &str, database: &str) -> PostgresAddress {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        PostgresAddress::parse(&format!("postgres://{user}@{folder}/{database}"), None).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// One of PostgreSQL's programs, as a user that it accepts.
    fn command(&self, program: &str) -> Command {
        let program = programs().join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).env("LC_ALL", "C.UTF-8").current_dir("/");
        command
    }
}

impl Drop for Counterpart {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The ids of the processes that a process has started.
fn children(id: u32) -> Vec<String> {
    let ids = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    ids.split_whitespace().map(str::to_owned).collect()
}

/// Sends a signal to one of our own processes; one that has ended already is no matter.
fn signal(name: &str, id: &str) {
    let _ = Command::new("kill").args(["-s", name, id]).stderr(Stdio::null()).status();
}

/// The server refuses to run as root.
fn is_root() -> bool {
    Path::new("/proc/self").metadata().unwrap().uid() == 0
}

/// Commits need not outlast this machine here, except where their cost is measured.
fn sync() -> &'static str {
    if std::env::var_os("POSTRAIL_MEASURE").is_some() { "fsync=on" } else { "fsync=off" }
}

/// Where the programs of the newest version are that is installed.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: ops/need postgresql");
    let number = |path: &PathBuf| path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok());
    let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(number);
    newest.expect("a version is installed").join("bin")
}

/// The numbers of a user and its group.
fn user(name: &str) -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.split(':').next() == Some(name)).expect("the user is there");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}
