//! `postrail demo`: both planes, receivers and load in one process, on free loopback ports and in a folder that is
//! removed at the end.
//!
//! ```text
//! load (SMTP, REST) -> data plane -> built-in receiver, found by the built-in name server
//! ```
//!
//! The load and the receivers have threads of their own, so that the server's CPU time is told apart. Exit status 0
//! only where every recipient was accepted and delivered exactly once.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use postrail_bench::meter::{BENCH_THREAD, server_cpu};
use postrail_bench::report::Summary;
use postrail_bench::server::Reserved;
use postrail_bench::sink::{Sink, SinkPlan};
use postrail_bench::source::{self, Composer, Draw, Interface, Lane, LoadPlan, Login, Mix, Pace, Phase, Tls};
use postrail_bench::tally::Tally;
use postrail_schema::snapshot::{KeyAlgorithm, Route};
use tokio::runtime::Runtime;

use crate::args::{DemoOptions, DkimChoice};
use crate::up::banner::FirstStart;
use crate::up::control_runtime;
use crate::up::planes::{Planes, PlanesOptions};
use crate::up::settings::pins;

/// Recipients of one REST job.
const RECIPIENTS_PER_JOB: u32 = 5;
/// Domains that the recipients are spread over.
const DOMAINS: u64 = 50;
/// The domain that mail is sent from.
const SENDER_DOMAIN: &str = "sender.test";
/// Threads of the load and the receivers.
const BENCH_THREADS: usize = 2;
/// Time between two looks at the account.
const LOOK: Duration = Duration::from_millis(100);
/// Exit status where it could not start.
const CANNOT_START: u8 = 2;
/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

pub(crate) fn run(options: &DemoOptions) -> ExitCode {
    match demo(options) {
        Ok(Some(summary)) => {
            println!("\n{summary}");
            if options.json {
                println!("{}", serde_json::to_string(&summary).expect("a summary has only numbers"));
            }
            if summary.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(None) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("postrail: {error:#}");
            ExitCode::from(CANNOT_START)
        }
    }
}

/// Runs it all; `None` where it was interrupted.
fn demo(options: &DemoOptions) -> Result<Option<Summary>> {
    let scratch = Scratch::new("demo").context("cannot make a temporary folder")?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let control = control_runtime()?;
    watch_for_interrupts(&control, interrupted.clone());
    let bench = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BENCH_THREADS)
        .thread_name(BENCH_THREAD)
        .enable_all()
        .build()
        .context("cannot start the load's threads")?;
    let tally = Tally::new(options.mails);
    let sink = bench.block_on(Sink::start(SinkPlan::default(), tally.clone())).context("cannot start the receiver")?;
    let reserved = Reserved::new().context("no free ports on loopback")?;
    let planes_options = planes_options(options, &scratch, &sink, reserved.addresses());
    let planes = control.block_on(Planes::start(&planes_options))?;
    let outcome = login(&planes, scratch.path()).map(|login| {
        let loads = loads(options, &planes_options, login);
        watch(options, &tally, &bench, loads, &interrupted)
    });
    let stopped = control.block_on(planes.stop());
    let summary = outcome?;
    stopped?;
    drop(sink);
    bench.shutdown_timeout(Duration::from_secs(1));
    control.shutdown_timeout(Duration::from_secs(1));
    Ok(summary)
}

fn watch_for_interrupts(runtime: &Runtime, interrupted: Arc<AtomicBool>) {
    runtime.spawn(async move {
        let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        interrupted.store(true, Ordering::Relaxed);
    });
}

fn planes_options(
    options: &DemoOptions,
    scratch: &Scratch,
    sink: &Sink,
    [smtp, smtps, rest, api, admin]: [SocketAddr; 5],
) -> PlanesOptions {
    PlanesOptions {
        data: scratch.path().to_owned(),
        hostname: "demo.localhost".into(),
        label: "demo".into(),
        domain: SENDER_DOMAIN.into(),
        algorithms: match options.dkim {
            DkimChoice::Both => Vec::new(),
            DkimChoice::Rsa => vec![KeyAlgorithm::RsaSha256],
            DkimChoice::Ed25519 => vec![KeyAlgorithm::Ed25519Sha256],
        },
        routes: vec![Route { domain: "*".into(), routing_domain: None, port: sink.port(), allow_private: true }],
        smtp: vec![smtp],
        smtps: vec![smtps],
        rest: vec![rest],
        api,
        admin,
        pins: pins(&[], options.shards, options.no_pin),
        resolvers: vec![sink.name_server()],
        ledger: None,
        tls: None,
        receiver_ca: None,
        drain: Duration::from_secs(5),
        fleet: None,
    }
}

/// The credential that the first start made, where mail is taken.
fn login(planes: &Planes, folder: &Path) -> Result<Login> {
    if let Some(why) = planes.unready() {
        bail!(
            "no mail would be accepted, {why}; the demo's folder is {} (TMPDIR chooses another place)",
            folder.display()
        );
    }
    let Some(FirstStart { username, secret, .. }) = planes.first_start() else {
        bail!("the demo's folder was not empty");
    };
    Ok(Login { username: username.clone(), secret: secret.clone() })
}

/// Half of the mails by SMTP, the others by REST; each with how many recipients it has.
fn loads(options: &DemoOptions, planes: &PlanesOptions, login: Login) -> Vec<(LoadPlan, u64)> {
    let sizes = options.size.map_or_else(|| Draw::even(1_000, 50_000), Draw::Fixed);
    let domains = (0..DOMAINS).map(|index| format!("d{index}.demo.test")).collect();
    let mix = Mix::new(&format!("demo@{SENDER_DOMAIN}"), domains, sizes);
    let connections = usize::from(options.connections) / 2;
    let load = |interface, target, first, recipients| LoadPlan {
        interface,
        target,
        tls: Tls::None,
        login: Some(login.clone()),
        lane: Lane { first, stride: 2 },
        connections,
        composer: Arc::new(Composer::new(Mix { recipients: Draw::Fixed(recipients), ..mix.clone() })),
    };
    let half = options.mails / 2;
    vec![
        (load(Interface::Smtp, planes.smtp[0], 0, 1), options.mails - half),
        (load(Interface::Rest, planes.rest[0], 1, RECIPIENTS_PER_JOB), half),
    ]
}

/// Runs the loads and shows how they go, until all is delivered, patience ends or somebody interrupts.
fn watch(
    options: &DemoOptions,
    tally: &Arc<Tally>,
    bench: &Runtime,
    loads: Vec<(LoadPlan, u64)>,
    interrupted: &AtomicBool,
) -> Option<Summary> {
    let cpu_before = server_cpu();
    let run = |(load, recipients)| {
        let phase = Phase { pace: Pace::Closed, until: None, recipients_max: Some(recipients) };
        bench.spawn(source::run(load, phase, tally.clone()))
    };
    let running: Vec<_> = loads.into_iter().map(run).collect();
    let mut live = LiveLine::new(options.mails);
    let patience = Duration::from_secs(options.patience);
    let mut progress = (Instant::now(), 0);
    loop {
        std::thread::sleep(LOOK);
        let counts = tally.counts();
        live.show(tally);
        if counts.delivered + counts.accepted != progress.1 {
            progress = (Instant::now(), counts.delivered + counts.accepted);
        }
        let sent = running.iter().all(tokio::task::JoinHandle::is_finished);
        let gave_up = progress.0.elapsed() > patience;
        if interrupted.load(Ordering::Relaxed) {
            live.end(tally);
            return None;
        }
        if sent && (counts.delivered >= counts.accepted || gave_up) {
            break;
        }
    }
    let cpu = server_cpu().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    // A duplicate, were there one, follows at once: look a moment longer.
    std::thread::sleep(LOOK * 3);
    live.end(tally);
    Some(Summary::new(tally, cpu))
}

/// One line that says how it goes: rewritten on a terminal, else printed once a second.
struct LiveLine {
    mails: u64,
    terminal: bool,
    start: Instant,
    shown: Option<Instant>,
}

impl LiveLine {
    fn new(mails: u64) -> Self {
        Self { mails, terminal: std::io::stderr().is_terminal(), start: Instant::now(), shown: None }
    }

    fn show(&mut self, tally: &Tally) {
        let pause = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(1) };
        if self.shown.is_none_or(|shown| shown.elapsed() >= pause) {
            self.shown = Some(Instant::now());
            self.print(tally, if self.terminal { "" } else { "\n" });
        }
    }

    fn end(&self, tally: &Tally) {
        self.print(tally, "\n");
    }

    fn print(&self, tally: &Tally, ending: &str) {
        let (counts, delivery) = (tally.counts(), tally.delivery_ms());
        let rate = counts.delivered as f64 / self.start.elapsed().as_secs_f64().max(0.001);
        let start = if self.terminal { "\r\x1b[2K" } else { "" };
        // A closed terminal is no reason to stop.
        let _ = write!(
            std::io::stderr().lock(),
            "{start}accepted {} of {}, delivered {}, {rate:.0} a second, submission to delivery p50 {:.1} ms, p99 {:.1} ms{ending}",
            counts.accepted,
            self.mails,
            counts.delivered,
            delivery.p50,
            delivery.p99
        );
    }
}

/// A temporary folder that is removed with the value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new folder for `purpose`, for this user alone.
    pub(crate) fn new(purpose: &str) -> std::io::Result<Self> {
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let path = std::env::temp_dir().join(format!("postrail-{purpose}-{}-{nanos}", std::process::id()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("postrail: cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_with_its_value() {
        let scratch = Scratch::new("scratch").expect("a temporary folder");
        let path = scratch.path().to_owned();
        std::fs::write(path.join("x"), "y").expect("writable");
        drop(scratch);
        assert!(!path.exists());
    }
}
