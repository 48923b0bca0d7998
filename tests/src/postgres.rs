//! A real PostgreSQL server with one database, at a loopback port of its own, or where stations reach it.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{Running, run, try_run};
use crate::place::{Place, free_address};
use crate::wait;

/// The role that owns the database, and its password.
pub const ROLE: &str = "postrail";
pub const PASSWORD: &str = "the ledger's own";

/// The database's name.
const DATABASE: &str = "ledger";

/// A running server; stopped with it.
pub struct Postgres {
    folder: PathBuf,
    address: SocketAddr,
    server: Option<Running>,
}

impl Postgres {
    /// A new server that asks for the password.
    pub fn start(place: &Place) -> Self {
        Self::start_at(place, free_address())
    }

    /// As [`Self::start`], at this address of this side.
    pub fn start_at(place: &Place, address: SocketAddr) -> Self {
        Self::start_as(place, "postgresql", address)
    }

    /// As [`Self::start_at`], in a folder of that name, so beside another.
    pub fn start_as(place: &Place, name: &str, address: SocketAddr) -> Self {
        let folder = place.join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        let password = folder.join("password");
        std::fs::write(&password, PASSWORD).expect("a file can be written");
        if is_root() {
            let (user, group) = user("postgres");
            // The server's user has to pass through the story's folder.
            for path in [folder.as_path(), &password] {
                chown(path, Some(user), Some(group)).expect("root may give a file away");
            }
        }
        run(command("initdb")
            .args(["--auth=scram-sha-256", "--no-sync", "--no-instructions", "--username", ROLE, "--pwfile"])
            .arg(&password)
            .arg("--pgdata")
            .arg(folder.join("data")));
        // Who comes from a station shows the password as well.
        let access = std::fs::File::options().append(true).open(folder.join("data/pg_hba.conf"));
        writeln!(access.expect("initdb made it"), "host all all 10.0.0.0/8 scram-sha-256").expect("written");
        let mut postgres = Self { folder, address, server: None };
        postgres.resume();
        run(postgres.client("createdb").arg(DATABASE));
        postgres
    }

    /// The address of the database, without the password.
    pub fn url(&self) -> String {
        format!("postgres://{ROLE}@{}/{DATABASE}", self.address)
    }

    /// Makes one more database; its address.
    pub fn further(&self, name: &str) -> String {
        run(self.client("createdb").arg(name));
        format!("postgres://{ROLE}@{}/{name}", self.address)
    }

    /// Ends the server and the processes that serve connections at once, as a crash does.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        let id = server.id();
        // Stopped, it can start no other.
        server.signal(libc::SIGSTOP);
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        server.kill();
        for child in children.split_whitespace() {
            let _ = try_run(Command::new("kill").args(["-s", "KILL", child]));
        }
    }

    /// Starts the server again; what is left of a former one may be in its way for a moment.
    pub fn resume(&mut self) {
        wait::until("PostgreSQL to answer", || {
            if self.server.as_mut().is_none_or(|server| server.ended().is_some()) {
                self.server = Some(self.spawn());
            }
            try_run(self.client("pg_isready").args(["--timeout", "1"])).0.success().then_some(())
        });
    }

    /// Starts again with TLS.
    pub fn use_tls(&mut self, certificate: &Path, key: &Path) {
        let data = self.folder.join("data");
        for (from, to) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = data.join(to);
            std::fs::copy(from, &to).expect("a file can be copied");
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).expect("our own file");
            if is_root() {
                let (user, group) = user("postgres");
                chown(&to, Some(user), Some(group)).expect("root may give a file away");
            }
        }
        let configuration = data.join("postgresql.auto.conf");
        std::fs::write(&configuration, "ssl = on\n").expect("the server's own file");
        self.kill();
        self.resume();
    }

    /// The only value that a query gives, as `psql` prints it.
    pub fn ask(&self, query: &str) -> String {
        run(self.client("psql").args(["--no-psqlrc", "--tuples-only", "--no-align", "--dbname", DATABASE, "-c", query]))
            .trim()
            .to_owned()
    }

    /// Everything that is in the database, octets in hexadecimal.
    pub fn dump(&self) -> String {
        run(self.client("pg_dump").args(["--data-only", "--dbname", DATABASE]))
    }

    fn spawn(&self) -> Running {
        let port = self.address.port().to_string();
        Running::start(
            command("postgres").arg("-D").arg(self.folder.join("data")).arg("-k").arg(&self.folder).args([
                "-c",
                &format!("listen_addresses={}", self.address.ip()),
                "-c",
                "shared_buffers=64MB",
                "-p",
                &port,
            ]),
            &self.folder.join("server.log"),
        )
    }

    /// One of the client programs, on its way to the server.
    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
        command.env("PGPASSWORD", PASSWORD).args(["--username", ROLE, "--host", &self.address.ip().to_string()]);
        command.arg("--port").arg(self.address.port().to_string());
        command
    }
}

/// One of the server's programs, as a user that it accepts.
fn command(program: &str) -> Command {
    let program = programs().join(program);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env("LC_ALL", "C.UTF-8").current_dir("/");
    command
}

/// The server refuses to run as root.
fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|metadata| metadata.uid() == 0)
}

/// Where the programs of the newest installed version are.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: ops/need postgresql");
    let number = |path: &PathBuf| path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok());
    let newest = versions.filter_map(|entry| entry.ok().map(|entry| entry.path())).max_by_key(number);
    newest.expect("a version is installed").join("bin")
}

/// The numbers of a user and its group.
fn user(name: &str) -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("there are users");
    let line = users.lines().find(|line| line.split(':').next() == Some(name));
    let mut numbers = line.into_iter().flat_map(|line| line.split(':').skip(2)).filter_map(|part| part.parse().ok());
    numbers.next().zip(numbers.next()).unwrap_or_else(|| panic!("there is a user {name}"))
}
