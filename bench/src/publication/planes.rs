//! The processes of the fleet: `postrail up` as a control plane, and as many data planes as were asked for.
//!
//! Each data plane logs as JSON to a pipe. A thread reads it and takes the time of every line that says which revision is
//! in effect, so that nothing was built into the data plane for this measurement.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::etcd::Etcd;
use crate::server::{client, until};

/// Loopback addresses of this run: every process has one for itself, so that its ports are free.
#[derive(Clone, Copy)]
pub(super) struct Network([u8; 2]);

impl Network {
    pub(super) fn new() -> Self {
        let id = std::process::id();
        Self([100 + (id >> 8) as u8 % 100, id as u8])
    }

    /// The address of data plane `n`, from 0.
    fn plane(self, n: u8, port: u16) -> SocketAddr {
        self.at(n + 1, port)
    }

    fn control(self, port: u16) -> SocketAddr {
        self.at(254, port)
    }

    pub(super) fn etcd(self, port: u16) -> SocketAddr {
        self.at(253, port)
    }

    fn at(self, last: u8, port: u16) -> SocketAddr {
        let Self([second, third]) = self;
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, second, third, last)), port)
    }
}

/// A process that is killed when dropped.
struct Spawned(Child);

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The one control plane.
pub(super) struct ControlPlane {
    process: Spawned,
    pub(super) api: SocketAddr,
    data: PathBuf,
}

impl ControlPlane {
    /// Starts it, and waits until it has published.
    pub(super) fn start(binary: &Path, folder: &Path, network: Network, etcd: &Etcd) -> Result<Self> {
        let (api, data) = (network.control(8081), folder.join("control"));
        let log = File::options().create(true).append(true).open(folder.join("control.log"));
        let mut command = Command::new(binary);
        command.args(["up", "--role", "control-plane", "--etcd", &etcd.url(), "--api", &api.to_string(), "--data"]);
        command.arg(&data).args(["--hostname", "mail.bench.test", "--domain", "bench.test", "--log-level", "warn"]);
        // No name is looked up: the domains were vouched for.
        command.args(["--resolver", &network.control(53).to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.context("cannot write a log")?);
        let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let mut control = Self { process: Spawned(child), api, data };
        let mut ended = None;
        let http = client()?;
        until(READY_TIMEOUT, "the control plane is not ready", || {
            ended = control.process.0.try_wait()?;
            Ok(ended.is_some() || http.get(format!("http://{api}/readyz")).send()?.status().is_success())
        })?;
        match ended {
            None => Ok(control),
            Some(status) => {
                let log = std::fs::read_to_string(folder.join("control.log")).unwrap_or_default();
                bail!("the control plane ended with {status}:\n{log}")
            }
        }
    }

    /// SIGTERM, and its end.
    pub(super) fn stop(mut self) -> Result<()> {
        let id = i32::try_from(self.pid()).context("a process has no such number")?;
        // SAFETY: the process is our child and was not waited for, so the number is its own.
        let told = unsafe { libc::kill(id, libc::SIGTERM) };
        ensure!(told == 0, "cannot stop the control plane");
        self.process.0.wait().context("cannot wait for the control plane")?;
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// The revision that it has published.
    pub(super) fn revision(&self) -> Result<u64> {
        let text = client()?.get(format!("http://{}/readyz", self.api)).send()?.text()?;
        let answer: Value = serde_json::from_str(&text)?;
        answer["revision"].as_u64().context("the control plane does not tell its revision")
    }

    pub(super) fn token(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.data.join("operator.token")).context("no operator's token")?.trim().to_owned())
    }

    fn master_key(&self) -> PathBuf {
        self.data.join("master.key")
    }
}

/// A revision is in effect on data plane `plane` since `at`.
pub(super) struct Arrival {
    pub(super) plane: u8,
    pub(super) revision: u64,
    pub(super) at: Instant,
}

/// All data planes.
pub(super) struct DataPlanes {
    binary: PathBuf,
    folder: PathBuf,
    network: Network,
    etcd: String,
    running: Vec<Spawned>,
    told: Sender<Arrival>,
    arrivals: Receiver<Arrival>,
}

impl DataPlanes {
    pub(super) fn new(binary: &Path, folder: &Path, network: Network, etcd: &Etcd) -> Self {
        let (told, arrivals) = channel();
        let (binary, folder, etcd) = (binary.to_owned(), folder.to_owned(), etcd.url());
        Self { binary, folder, network, etcd, running: Vec::new(), told, arrivals }
    }

    pub(super) fn count(&self) -> usize {
        self.running.len()
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.running.iter().map(|process| process.0.id()).collect()
    }

    /// Starts that many more with empty folders, and waits until `revision` is in effect on them; how long it took.
    pub(super) fn start(&mut self, more: u8, control: &ControlPlane, revision: u64) -> Result<Duration> {
        let begun = Instant::now();
        for _ in 0..more {
            let n = u8::try_from(self.running.len()).context("too many data planes")?;
            let process = self.spawn(n, control).with_context(|| format!("cannot start data plane {n}"))?;
            self.running.push(process);
        }
        for _ in 0..more {
            self.next(revision)?;
        }
        Ok(begun.elapsed())
    }

    fn spawn(&self, n: u8, control: &ControlPlane) -> Result<Spawned> {
        let data = self.folder.join(format!("plane-{n}"));
        std::fs::create_dir(&data)?;
        std::fs::copy(control.master_key(), data.join("master.key"))?;
        let mut command = Command::new(&self.binary);
        command.args(["up", "--role", "data-plane", "--etcd", &self.etcd, "--host-name", &format!("plane-{n}")]);
        command.arg("--data").arg(data).args(["--hostname", "mail.bench.test", "--shards", "1", "--no-pin"]);
        for (option, port) in [("--smtp", 2525), ("--smtps", 2465), ("--rest", 8080), ("--admin", 8082)] {
            command.args([option, &self.network.plane(n, port).to_string()]);
        }
        command.args(["--resolver", &self.network.control(53).to_string(), "--log", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Spawned(command.spawn()?);
        let pipe = process.0.stderr.take().context("no pipe")?;
        let (told, log) = (self.told.clone(), self.folder.join(format!("plane-{n}.log")));
        let log = File::create(log)?;
        let name = format!("plane-{n}");
        std::thread::Builder::new().name(name).spawn(move || read(BufReader::new(pipe), log, n, &told))?;
        Ok(process)
    }

    /// The next data plane on which a revision came in effect.
    ///
    /// # Errors
    /// It is another than `revision`, or none comes.
    pub(super) fn next(&self, revision: u64) -> Result<Arrival> {
        let arrival = self.arrivals.recv_timeout(ARRIVAL_TIMEOUT);
        let arrival = arrival.with_context(|| format!("revision {revision} is not in effect on all data planes"))?;
        let found = arrival.revision;
        ensure!(found == revision, "data plane {} has revision {found} where {revision} was due", arrival.plane);
        Ok(arrival)
    }

    /// Asks every shard of every data plane whether it works under `revision`.
    pub(super) fn check(&self, revision: u64) -> Result<()> {
        let http = client()?;
        for n in 0..self.running.len() {
            let n = u8::try_from(n).context("too many data planes")?;
            until(READY_TIMEOUT, "a shard is behind", || {
                let metrics = http.get(format!("http://{}/metrics", self.network.plane(n, 8082))).send()?.text()?;
                let mut shards = metrics.lines().filter(|line| line.starts_with("postrail_snapshot_revision{"));
                Ok(shards.next().is_some_and(|line| line.ends_with(&format!(" {revision}"))))
            })?;
        }
        Ok(())
    }
}

/// Reads a log until it ends, keeps it, and tells of revisions in effect.
fn read(lines: impl BufRead, mut log: File, plane: u8, told: &Sender<Arrival>) {
    for line in lines.lines().map_while(Result::ok) {
        let at = Instant::now();
        if let Some(revision) = revision_in_effect(&line) {
            // Nobody listens any more: the run is over.
            let _ = told.send(Arrival { plane, revision, at });
        }
        let _ = writeln!(log, "{line}");
    }
}

/// The revision that a line of the log says is in effect now.
fn revision_in_effect(line: &str) -> Option<u64> {
    if !line.contains(IN_EFFECT) {
        return None;
    }
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = &line["fields"];
    (fields["message"] == IN_EFFECT).then(|| fields["revision"].as_u64())?
}

const IN_EFFECT: &str = "configuration in effect";
const READY_TIMEOUT: Duration = Duration::from_secs(300);
/// Many data planes that fetch everything at once share the disk.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_tells_which_revision_is_in_effect() {
        let line = r#"{"level":"INFO","fields":{"message":"configuration in effect","revision":12,"chunks":1}}"#;
        assert_eq!(revision_in_effect(line), Some(12));
        for other in [
            r#"{"fields":{"message":"no configuration in effect","revision":12}}"#,
            r#"{"fields":{"message":"configuration in effect"}}"#,
            "configuration in effect, revision=12",
        ] {
            assert_eq!(revision_in_effect(other), None, "{other}");
        }
    }
}
