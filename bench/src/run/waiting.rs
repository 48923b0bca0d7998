//! Plans with `[waiting]`: the server is filled with mail that waits, killed, and started again.
//!
//! ```text
//! fill (receivers turn every session away) -> memory -> SIGKILL -> start
//!   -> first mail accepted, first delivery, all back -> memory -> receivers take -> all delivered
//! ```
//!
//! The first delivery is that of the mail that is first accepted after the start, to a receiver that takes: the backlog
//! must not stand in its way. At the end all the waiting mail is delivered, so that a loss would show.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::account::{Ending, Selection, assemble};
use super::drive::{Drive, load_plan, start};
use super::live::Live;
use crate::account::rounded;
use crate::clock;
use crate::processes::{self, Usage};
use crate::result::{RunResult, WaitingResult};
use crate::server::{Control, Postrail};
use crate::source::{Lane, Load, Pace, Phase};
use crate::tally::Tally;

/// Memory that the server may take however little waits, octets.
const FIXED_BYTES: f64 = 64.0 * 1024.0 * 1024.0;
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Time between two times that the server is told to retry.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Longest wait for a port to be open after a start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// Lanes: what waits, and what follows the start.
const STRIDE: u64 = 2;

/// Runs the plan against `server`.
///
/// # Errors
/// The server ends or does not come back.
pub(super) fn measure(drive: &Drive<'_>, server: &mut Postrail) -> Result<RunResult> {
    let started_at = clock::now_rfc3339();
    let mut waiting = WaitingResult { empty_rss_mb: rss_mb(server), ..WaitingResult::default() };
    let mut live = Live::new(&drive.plan.name);
    let (load, mut selection) = fill(drive, server, &mut live)?;
    let tally = drive.stage.tally();
    waiting.recipients = tally.counts().accepted;
    waiting.waiting_rss_mb = rss_mb(server);
    let peak_before = peak_kib(server);
    let is_interrupted = || drive.interrupted.load(Ordering::Relaxed);
    if !is_interrupted() {
        restart(drive, server, &mut live, &mut waiting)?;
        let extra = (waiting.recovered_rss_mb * 1_048_576.0 - FIXED_BYTES).max(0.0);
        waiting.bytes_per_waiting_mail = rounded(extra / waiting.recipients.max(1) as f64);
        drive.stage.sink().release();
        live.phase("delivering");
        deliver(drive, server, &mut live)?;
    }
    for part in &mut selection.parts {
        part.to = load.position();
    }
    let ending = Ending {
        baseline: (Default::default(), None, Usage::default()),
        usage: None,
        own: processes::own_usage(),
        rss_peak_kib: 0,
        sessions: drive.stage.sink().sessions(),
    };
    let mut result = assemble(drive.plan, tally, server.target(), &selection, &ending);
    result.peak_rss_mb = Some(rounded(peak_before.max(peak_kib(server)) as f64 / 1_024.0));
    result.waiting = Some(waiting);
    result.started_at = started_at;
    result.interrupted = is_interrupted();
    Ok(result)
}

/// Sends all that is to wait. The load is kept: its position is the end of what was sent.
fn fill(drive: &Drive<'_>, server: &mut Postrail, live: &mut Live) -> Result<(Load, Selection)> {
    let (plan, tally) = (drive.plan, drive.stage.tally());
    let section = plan.loads.first().context("a plan has a load")?;
    let lane = Lane { first: 0, stride: STRIDE };
    let load =
        start(drive, plan.tenant_of(section), load_plan(plan, section, plan.mix(section), server.target(), lane)?);
    let mut selection = Selection::default();
    live.phase("filling");
    let from = load.begin(Phase { pace: Pace::Closed, until: None, recipients_max: plan.mails });
    selection.begin(0, lane, from);
    while !load.is_idle() {
        std::thread::sleep(LOOK);
        if drive.interrupted.load(Ordering::Relaxed) {
            load.halt();
        }
        watch(server, live, tally, std::slice::from_ref(&load))?;
    }
    if let Some(control) = &server.target().control {
        // What is deferred again meanwhile may keep it busy: that is no reason to stop.
        if let Err(error) = control.wait_ledger(CONNECT_TIMEOUT) {
            eprintln!("\nthe ledger has not caught up: {error:#}");
        }
    }
    live.end(tally, std::slice::from_ref(&load));
    Ok((load, selection))
}

/// Kills the server, starts it again, and measures how soon it works.
fn restart(drive: &Drive<'_>, server: &mut Postrail, live: &mut Live, waiting: &mut WaitingResult) -> Result<()> {
    let (plan, tally) = (drive.plan, drive.stage.tally());
    let section = plan.loads.first().context("a plan has a load")?;
    let lane = Lane { first: 1, stride: STRIDE };
    let mut first = load_plan(plan, section, plan.mix_to_open(section), server.target(), lane)?;
    first.connections = 1;
    live.phase("after the kill");
    server.kill()?;
    server.start_again()?;
    let begun = Instant::now();
    connected(first.target)?;
    let load = start(drive, plan.tenant_of(section), first);
    load.begin(Phase { pace: Pace::Closed, until: None, recipients_max: Some(1) });
    let control = server.target().control.clone().context("a server of our own has a control API")?;
    let limit = Duration::from_secs(plan.waiting.as_ref().map_or(0, |waiting| waiting.recovery_seconds));
    let mut is_back = None;
    let fate = loop {
        std::thread::sleep(LOOK);
        watch(server, live, tally, std::slice::from_ref(&load))?;
        if is_back.is_none() && back(&control, waiting.recipients) {
            is_back = Some(begun.elapsed());
        }
        let fate = tally.fates(lane.number(0)..lane.number(1), STRIDE).next();
        let fate = fate.filter(|fate| fate.delivered.is_some() && fate.accepted.is_some());
        match (fate, is_back) {
            (Some(fate), Some(_)) => break fate,
            _ if begun.elapsed() > limit => bail!("the server has not all its mail back after {} s", limit.as_secs()),
            _ => {}
        }
    };
    let since = |at: Option<Duration>| {
        let begun = begun.saturating_duration_since(tally.start());
        rounded(at.unwrap_or_default().saturating_sub(begun).as_secs_f64())
    };
    waiting.first_accepted_s = since(fate.accepted);
    waiting.first_delivery_s = since(fate.delivered);
    waiting.recovered_s = rounded(is_back.unwrap_or_default().as_secs_f64());
    waiting.recovered_rss_mb = rss_mb(server);
    live.end(tally, std::slice::from_ref(&load));
    Ok(())
}

/// Waits until all that waited is delivered, as long as there is progress.
fn deliver(drive: &Drive<'_>, server: &mut Postrail, live: &mut Live) -> Result<()> {
    let tally = drive.stage.tally();
    let patience = Duration::from_secs_f64(drive.plan.patience_seconds);
    let control = server.target().control.clone().context("a server of our own has a control API")?;
    control.retry_all()?;
    let (mut progress, mut retried) = ((Instant::now(), 0), Instant::now());
    loop {
        std::thread::sleep(LOOK);
        watch(server, live, tally, &[])?;
        let counts = tally.counts();
        if counts.settled() != progress.1 {
            progress = (Instant::now(), counts.settled());
        }
        if counts.settled() >= counts.accepted
            || progress.0.elapsed() > patience
            || drive.interrupted.load(Ordering::Relaxed)
        {
            live.end(tally, &[]);
            return Ok(());
        }
        if retried.elapsed() > RETRY_PAUSE {
            retried = Instant::now();
            control.retry_all()?;
        }
    }
}

/// Whether so many recipients wait again.
fn back(control: &Control, recipients: u64) -> bool {
    control.data_metrics().is_ok_and(|metrics| {
        metrics.sum("postrail_waiting_recipients") >= recipients && metrics.sum("postrail_recovering") == 0
    })
}

fn connected(address: SocketAddr) -> Result<()> {
    let end = Instant::now() + CONNECT_TIMEOUT;
    while TcpStream::connect(address).is_err() {
        if Instant::now() > end {
            bail!("the server does not listen {} s after its start", CONNECT_TIMEOUT.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn watch(server: &mut Postrail, live: &mut Live, tally: &Tally, loads: &[Load]) -> Result<()> {
    live.show(tally, loads);
    match server.ended() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn rss_mb(server: &Postrail) -> f64 {
    let used = processes::usage(&server.target().watched).unwrap_or_default();
    rounded(used.iter().map(|usage| usage.rss_kib).sum::<u64>() as f64 / 1_024.0)
}

fn peak_kib(server: &Postrail) -> u64 {
    processes::usage(&server.target().watched).unwrap_or_default().iter().map(|usage| usage.rss_peak_kib).sum()
}
