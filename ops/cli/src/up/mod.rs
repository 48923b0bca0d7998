//! `postrail up`: claims the data folder, starts the planes of this process, and drains on SIGTERM or Ctrl-C.
//!
//! Everything that can be wrong on a host is asked before anything starts, and told in one sentence with what to do;
//! the exit status is then 2. A second signal while draining ends the process at once: nothing that was acknowledged
//! is lost by that, since it is on disk.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use postrail_control_plane::Kept;
use postrail_data_plane::platform::glommio::{ShardPin, check_pins, raise_open_files};
use postrail_schema::limits::DOMAIN_BYTES_MAX;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::args::{LogForm, UpOptions, usual_data_folder};
use crate::doctor::limits::OPEN_FILES_WANTED;
use crate::fleet::settings::Role;

pub(crate) mod banner;
mod control;
pub(crate) mod folder;
pub(crate) mod ledger;
pub(crate) mod planes;
pub(crate) mod ports;
pub(crate) mod settings;

use banner::Banner;
use folder::DataFolder;
use planes::{Planes, PlanesOptions};
use settings::Settings;

/// Threads of the control plane.
const CONTROL_THREADS: usize = 2;
/// How long a call that is under way at the end is waited for.
const LAST_CALLS_TIMEOUT: Duration = Duration::from_secs(5);
/// Exit status where it could not start.
const CANNOT_START: u8 = 2;

/// `data`: the folder that the command line or the environment names.
pub(crate) fn run(data: Option<&Path>, options: &UpOptions) -> ExitCode {
    match serve(data, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postrail: {error:#}");
            ExitCode::from(CANNOT_START)
        }
    }
}

fn serve(data: Option<&Path>, options: &UpOptions) -> Result<()> {
    let settings = Settings::gather(data, options)?;
    start_log(&settings)?;
    check_addresses(&settings)?;
    let pins = settings.pins();
    check_pins(&pins)?;
    check_open_files();
    let folder = DataFolder::claim(&settings.data.clone().unwrap_or_else(usual_data_folder))?;
    ports::check(&listeners(&settings), ports::PATIENCE)?;
    let planes = planes_options(folder.path(), &settings, pins)?;
    let runtime = control_runtime()?;
    let served = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut starting = std::pin::pin!(Planes::start(&planes));
        let (mut running, is_told) = tokio::select! {
            started = &mut starting => (started?, false),
            // Mail may be under way already: what has begun to start is drained as well.
            () = signals.next() => tokio::select! {
                started = &mut starting => (started?, true),
                () = signals.next() => return Ok(()),
            },
        };
        print!("{}", banner(&planes, &running));
        if let Some(kept) = running.kept() {
            unheeded(&settings, kept).iter().for_each(|line| println!("{line}"));
        }
        let failure = match is_told {
            true => None,
            false => tokio::select! {
                () = signals.next() => None,
                error = running.failed() => Some(error),
            },
        };
        info!(seconds = planes.drain.as_secs(), "draining");
        tokio::select! {
            stopped = running.stop() => stopped?,
            () = signals.next() => info!("stopped at once, as told by a second signal"),
        }
        info!("stopped");
        failure.map_or(Ok(()), Err)
    });
    // A thread may still read a long listing of the store.
    runtime.shutdown_timeout(LAST_CALLS_TIMEOUT);
    served
}

/// The runtime that the control plane runs on.
pub(crate) fn control_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control plane's threads")
}

/// SIGTERM and SIGINT, from when this is made.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Says it where connections may run out of files; the limit is raised as far as it may be.
fn check_open_files() {
    match raise_open_files() {
        Ok(files) if files < OPEN_FILES_WANTED => warn!(
            files,
            wanted = OPEN_FILES_WANTED,
            "few files may be open, and every connection is one: raise `ulimit -n`, or LimitNOFILE in the service unit"
        ),
        Ok(_) => {}
        Err(error) => warn!(%error, "cannot raise the number of open files"),
    }
}

fn start_log(options: &Settings) -> Result<()> {
    let level = &options.log_level;
    if !level.contains(['=', ',']) && level.parse::<tracing::level_filters::LevelFilter>().is_err() {
        bail!(
            "--log-level {level}: write error, warn, info, debug, trace or off, or a filter such as info,postrail_data_plane=debug"
        );
    }
    let filter = EnvFilter::try_new(level).with_context(|| format!("--log-level {level} is no level and no filter"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match options.log {
        LogForm::Json => log.json().init(),
        LogForm::Text => log.init(),
    }
    Ok(())
}

fn listeners(options: &Settings) -> Vec<(&'static str, SocketAddr)> {
    let many = |option: &'static str, addresses: &[SocketAddr]| {
        addresses.iter().map(|address| (option, *address)).collect::<Vec<_>>()
    };
    let runs = |role| options.fleet.as_ref().is_none_or(|fleet| fleet.runs(role));
    let mut all = Vec::new();
    if runs(Role::DataPlane) {
        all.extend(many("smtp", &options.smtp));
        all.extend(many("smtps", &options.smtps));
        all.extend(many("rest", &options.rest));
        all.push(("admin", options.admin));
    }
    if runs(Role::ControlPlane) {
        all.push(("api", options.api));
    }
    all
}

/// Plain HTTP stays on loopback; in a fleet both listeners speak TLS elsewhere, where others are told their address.
fn check_addresses(options: &Settings) -> Result<()> {
    for (option, address) in [("api", options.api), ("admin", options.admin)] {
        match (&options.fleet, address.ip()) {
            (_, ip) if ip.is_loopback() => {}
            (None, _) => bail!(
                "--{option} {address}: this listener speaks plain HTTP, which stays on loopback; reach it through a tunnel or a proxy"
            ),
            (Some(_), ip) if ip.is_unspecified() => bail!(
                "--{option} {address}: name the one address at which the other hosts reach this one; it is told to them, and stands in the certificate"
            ),
            (Some(_), _) => {}
        }
    }
    if let Some(address) = options.rest.iter().find(|address| !address.ip().is_loopback())
        && options.tls.is_none()
    {
        bail!("--rest {address}: outside of loopback REST needs TLS; name a certificate by --tls-cert and --tls-key");
    }
    Ok(())
}

fn planes_options(data: &Path, options: &Settings, pins: Vec<ShardPin>) -> Result<PlanesOptions> {
    let resolvers = if options.resolver.is_empty() { system_resolvers()? } else { options.resolver.clone() };
    let hostname = match &options.hostname {
        Some(told) => told.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("cannot read this host's name; give it by --hostname")?
            .trim()
            .to_owned(),
    };
    let label = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let hostname = if options.hostname.is_none() && !hostname.contains('.') {
        let qualified = format!("mail.{}", options.domain);
        eprintln!(
            "postrail: this host is called {hostname}, which no receiver can look up; it introduces itself as {qualified}. Say otherwise by --hostname."
        );
        qualified
    } else {
        hostname
    };
    check_name("hostname", &hostname)?;
    check_name("domain", &options.domain)?;
    Ok(PlanesOptions {
        data: data.to_owned(),
        hostname,
        label,
        domain: options.domain.clone(),
        algorithms: Vec::new(),
        routes: Vec::new(),
        smtp: options.smtp.clone(),
        smtps: options.smtps.clone(),
        rest: options.rest.clone(),
        api: options.api,
        admin: options.admin,
        pins,
        resolvers,
        ledger: options.ledger.clone(),
        tls: options.tls.clone(),
        receiver_ca: options.receiver_ca.clone(),
        drain: options.drain,
        fleet: options.fleet.clone(),
    })
}

/// Refuses what cannot be a domain name, with the option that it came by; the control plane decides the rest.
fn check_name(option: &str, name: &str) -> Result<()> {
    let is_label =
        |label: &str| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
    if name.len() <= DOMAIN_BYTES_MAX && name.split('.').all(is_label) {
        return Ok(());
    }
    bail!("\"{name}\" is no domain name: give one by --{option}")
}

/// The name servers of this host.
///
/// # Errors
/// It names none.
pub(crate) fn system_resolvers() -> Result<Vec<SocketAddr>> {
    let text = std::fs::read_to_string("/etc/resolv.conf")
        .context("cannot read /etc/resolv.conf; name a name server by --resolver IP:PORT")?;
    let found = name_servers(&text);
    if found.is_empty() {
        bail!("/etc/resolv.conf names no name server; name one by --resolver IP:PORT");
    }
    Ok(found)
}

/// The `nameserver` lines of a resolv.conf(5), without scoped addresses.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server)?.parse::<IpAddr>().ok()
    });
    addresses.map(|address| SocketAddr::new(address, 53)).collect()
}

/// What options of the first start would not do on a later one, what holds instead, and how that is changed.
fn unheeded(told: &Settings, kept: &Kept) -> Vec<String> {
    let mut lines = Vec::new();
    if told.is_domain_told && !kept.has_domain {
        let domain = &told.domain;
        lines.push(format!(
            "\n--domain {domain} was not made: it is for the first start, which was before. Add it by\n  postrail domain add {domain}"
        ));
    }
    // A control plane alone greets nobody, and of a fleet's source all hosts send.
    let greets = told.fleet.as_ref().is_none_or(|fleet| fleet.runs(Role::DataPlane));
    if let Some((hostname, ehlo)) = told.hostname.as_ref().zip(kept.ehlo_name.as_ref()).filter(|_| greets) {
        let change = match told.fleet {
            None => format!(". Change that by\n  postrail source set default --address 0.0.0.0 --ehlo {hostname}"),
            Some(_) => ", for every\nhost of the fleet: a source of its own (postrail source add, with --host) gives this one its name".to_owned(),
        };
        lines.push(format!(
            "\n--hostname {hostname} is what clients are greeted by; to receivers the source `default` says {ehlo}, since the\nfirst start{change}"
        ));
    }
    lines
}

fn banner<'a>(options: &'a PlanesOptions, running: &'a Planes) -> Banner<'a> {
    let runs = |role| options.fleet.as_ref().is_none_or(|fleet| fleet.runs(role));
    let of_data_plane = |addresses: &'a [SocketAddr]| if runs(Role::DataPlane) { addresses } else { &[] };
    Banner {
        data: &options.data,
        token_file: running.token_file(),
        shards: runs(Role::DataPlane).then(|| options.shards()),
        smtp: of_data_plane(&options.smtp),
        smtps: of_data_plane(&options.smtps),
        rest: of_data_plane(&options.rest),
        api: runs(Role::ControlPlane).then_some(options.api),
        admin: runs(Role::DataPlane).then_some(options.admin),
        rest_scheme: if options.rest.iter().all(|at| at.ip().is_loopback()) { "http" } else { "https" },
        first: running.first_start(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn up(line: &str) -> Settings {
        let Command::Up(options) = Args::try_parse_from(line.split(' ')).expect("parses").command else { panic!("up") };
        Settings::gather(None, &options).expect("no file")
    }

    #[test]
    fn name_servers_are_read_as_the_system_does() {
        let text =
            "# x\nnameserver 192.0.2.1\n  nameserver ::1 \nnameserver fe80::1%eth0\noptions edns0\nsearch a.test\n";
        let expected: Vec<SocketAddr> = vec!["192.0.2.1:53".parse().expect("one"), "[::1]:53".parse().expect("one")];
        assert_eq!(name_servers(text), expected);
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_its_option() {
        for name in ["", "a b", "a..b", ".a", "a.", "(none)", "a/b"] {
            let error = check_name("hostname", name).expect_err(name).to_string();
            assert!(error.contains("--hostname"), "{error}");
        }
        for name in ["localhost", "mail.example.org", "müller.example"] {
            assert!(check_name("domain", name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_later_start_says_what_the_options_of_the_first_one_do_not_change() {
        let kept = |has_domain, ehlo: Option<&str>| Kept { has_domain, ehlo_name: ehlo.map(str::to_owned) };
        let told = up("postrail up --domain b.test --hostname mta.b.test");
        assert!(unheeded(&told, &kept(true, None)).is_empty());
        let lines = unheeded(&told, &kept(false, Some("mail.a.test"))).concat();
        for part in ["postrail domain add b.test", "says mail.a.test", "--ehlo mta.b.test"] {
            assert!(lines.contains(part), "{part} is not in {lines}");
        }
        // In a fleet all hosts send by that source, and a control plane alone greets nobody.
        let fleet = |role: &str| {
            let line = format!("postrail up --etcd http://127.0.0.1:2379 --hostname mta.b.test{role}");
            unheeded(&up(&line), &kept(true, Some("mail.a.test"))).concat()
        };
        let lines = fleet("");
        assert!(lines.contains("says mail.a.test") && !lines.contains("source set"), "{lines}");
        assert_eq!(fleet(" --role control-plane"), "");
        // What nobody asked for is not told.
        assert!(unheeded(&up("postrail up"), &kept(false, Some("mail.a.test"))).is_empty());
    }

    #[test]
    fn plain_http_does_not_leave_the_host() {
        for line in
            ["postrail up --api 0.0.0.0:8081", "postrail up --admin [::]:8082", "postrail up --rest 0.0.0.0:8080"]
        {
            assert!(check_addresses(&up(line)).is_err(), "{line}");
        }
        for line in
            ["postrail up", "postrail up --rest 0.0.0.0:443 --tls-cert c --tls-key k", "postrail up --smtp 0.0.0.0:25"]
        {
            assert!(check_addresses(&up(line)).is_ok(), "{line}");
        }
    }
}
