//! A Postrail that the bench starts: `postrail up` on free loopback ports, in a folder of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::control::{self, Control, until};
use super::ports::Reserved;
use super::{Target, Version};
use crate::plan::Plan;
use crate::processes::Watched;

/// Longest time for the server to be ready, and for a configuration to be in effect.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for it to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks at its end.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of its log that an error shows.
const LOG_LINES: usize = 12;

/// How to start it.
#[derive(Clone, Debug)]
pub struct PostrailOptions {
    pub binary: PathBuf,
    pub folder: PathBuf,
    /// Where names are resolved.
    pub resolver: SocketAddr,
    /// Where all receivers listen.
    pub receiver_port: u16,
}

/// A running server; it is killed when dropped.
pub struct Postrail {
    binary: PathBuf,
    arguments: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    listeners: Listeners,
    /// Its ports, also while it is down.
    _reserved: Reserved<5>,
    child: Child,
    target: Target,
}

/// Where it listens.
#[derive(Clone, Copy)]
struct Listeners {
    smtp: SocketAddr,
    smtps: SocketAddr,
    rest: SocketAddr,
    api: SocketAddr,
    admin: SocketAddr,
}

impl Postrail {
    /// Starts it and sets up the tenants of `plan`.
    ///
    /// # Errors
    /// It does not start, or refuses the set-up; with the end of its log.
    pub fn start(options: &PostrailOptions, plan: &Plan) -> Result<Self> {
        let reserved = Reserved::new().context("no free ports on loopback")?;
        let [smtp, smtps, rest, api, admin] = reserved.addresses();
        let listeners = Listeners { smtp, smtps, rest, api, admin };
        let (data, log) = (options.folder.join("data"), options.folder.join("postrail.log"));
        let mut arguments: Vec<String> = vec!["up".into(), "--data".into(), data.display().to_string()];
        let at = [
            ("--smtp", smtp),
            ("--smtps", smtps),
            ("--rest", rest),
            ("--api", api),
            ("--admin", admin),
            ("--resolver", options.resolver),
        ];
        for (option, address) in at {
            arguments.extend([option.into(), address.to_string()]);
        }
        arguments.extend(
            ["--hostname", "mail.bench.test", "--domain", "unused.test", "--log-level", "warn"].map(String::from),
        );
        if let Some(shards) = plan.server.shards {
            arguments.extend(["--shards".into(), shards.to_string()]);
        }
        let child = spawn(&options.binary, &arguments, &log)?;
        let target = Target { name: "postrail".into(), version: Version::of(&options.binary), ..Target::default() };
        let binary = options.binary.clone();
        let mut server = Self { binary, arguments, data, log, listeners, _reserved: reserved, child, target };
        server.set_up(plan, options.receiver_port).map_err(|error| server.with_log(error))?;
        Ok(server)
    }

    fn set_up(&mut self, plan: &Plan, receiver_port: u16) -> Result<()> {
        self.wait_ready()?;
        let control = Control::open(self.listeners.api, self.listeners.admin, &self.data)?;
        control.make_route(receiver_port)?;
        for (index, tenant) in plan.tenants.iter().enumerate() {
            let domain = plan.sending_domain(index);
            let login = control.make_tenant(tenant, &domain, plan.server.dkim)?;
            self.target.logins.push(Some(login));
        }
        control.wait_settled(READY_TIMEOUT)?;
        self.target.smtp = Some(self.listeners.smtp);
        self.target.smtps = Some(self.listeners.smtps);
        self.target.rest = Some(self.listeners.rest);
        self.target.watched = self.watched();
        self.target.control = Some(control);
        Ok(())
    }

    /// What to measure.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// SIGKILL, and its end.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).context("cannot kill the server")?;
        Ok(())
    }

    /// Starts it again on the same data and ports; returns at once.
    ///
    /// # Errors
    /// The binary cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.binary, &self.arguments, &self.log)?;
        self.target.watched = self.watched();
        Ok(())
    }

    /// SIGTERM, and its end; the bench does not need what a server in trouble still has to say.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a pid is a positive number")?;
        // SAFETY: kill takes plain numbers; the pid is that of our own child, which was not waited for yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let end = Instant::now() + STOP_TIMEOUT;
        loop {
            match self.child.try_wait().context("cannot wait for the server")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.with_log(anyhow::anyhow!("the server ended with {status}"))),
                None if Instant::now() > end => bail!("the server did not end within a minute after SIGTERM"),
                None => std::thread::sleep(LOOK),
            }
        }
    }

    /// How it ended, if it has: a server that is gone is not waited for.
    pub fn ended(&mut self) -> Option<anyhow::Error> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(self.with_log(anyhow::anyhow!("the server ended with {status}")))
    }

    fn watched(&self) -> Vec<Watched> {
        vec![Watched { name: "postrail".into(), pid: self.child.id(), group: None }]
    }

    fn wait_ready(&mut self) -> Result<()> {
        let http = control::client()?;
        let Listeners { api, admin, .. } = self.listeners;
        let child = &mut self.child;
        let mut ended = None;
        until(READY_TIMEOUT, "the server is not ready", || {
            ended = child.try_wait().context("cannot wait for the server")?;
            Ok(ended.is_some() || control::is_ready(&http, api, admin)?)
        })?;
        match ended {
            Some(status) => bail!("the server ended with {status} instead of starting"),
            None => Ok(()),
        }
    }

    fn with_log(&self, error: anyhow::Error) -> anyhow::Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
        if last.is_empty() { error } else { error.context(format!("the end of its log:\n  {last}\n")) }
    }
}

impl Drop for Postrail {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn spawn(binary: &Path, arguments: &[String], log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log).context("cannot write the server's log")?;
    // What it prints is the credential of its first start, which nobody is to see.
    let started = Command::new(binary).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    started.with_context(|| format!("cannot start {}", binary.display()))
}
