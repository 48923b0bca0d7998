//! The course of a run: warm-up, the highest rate, one tenant alone, then what is measured.
//!
//! Invariants worth naming: every phase is drained (all delivered, the ledger caught up) before the next begins, so that
//! the work of a phase's mails is in that phase's figures; connections stay open over the phases; nothing waits
//! without a bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::account::{Ending, Selection, assemble};
use super::live::Live;
use super::stage::Stage;
use crate::clock;
use crate::plan::{InterfacePlan, LoadSection, Plan, TlsPlan};
use crate::processes::{self, Usage};
use crate::result::{Latency, RunResult};
use crate::server::{Postrail, Target};
use crate::source::{Composer, Interface, Lane, Load, LoadPlan, Mix, Pace, Phase, Tls};
use crate::stream;
use crate::tally::Counts;

/// Time between two looks at the account.
const LOOK: Duration = Duration::from_millis(50);
/// Time between two looks at the processes' memory.
const MEMORY_LOOK: Duration = Duration::from_secs(1);
/// Time after the last delivery in which a duplicate, were there one, would follow.
const AFTERMATH: Duration = Duration::from_millis(300);
/// Longest time for the ledger to catch up.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(180);
/// Time between two times that the server is told to retry.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How long a closed loop looks for the highest rate, at least.
const HIGHEST: Duration = Duration::from_secs(10);

/// What a run is made of, apart from its target.
#[derive(Clone, Copy)]
pub struct Drive<'a> {
    pub plan: &'a Plan,
    pub stage: &'a Stage,
    pub interrupted: &'a AtomicBool,
}

/// Runs the plan against `target`. `server` is the target where the bench has started it: if it ends, so does the run.
///
/// # Errors
/// The target lacks what the plan needs, or ends.
pub fn measure(drive: &Drive<'_>, target: &Target, server: Option<&mut Postrail>) -> Result<RunResult> {
    let mut course = Course::new(*drive, target, server)?;
    let started_at = clock::now_rfc3339();
    course.warm_up()?;
    let highest = course.find_highest()?;
    let alone = course.measure_alone()?;
    let selection = course.measured_phase()?;
    let mut result = course.finish(&selection);
    result.started_at = started_at;
    result.highest_rate_per_s = highest;
    for (tenant, (ack, delivery)) in alone {
        let entry = result.tenants.entry(tenant).or_default();
        (entry.alone_ack_ms, entry.alone_delivery_ms) = (Some(ack), Some(delivery));
    }
    Ok(result)
}

/// A run under way.
struct Course<'a> {
    drive: Drive<'a>,
    target: &'a Target,
    server: Option<&'a mut Postrail>,
    loads: Vec<Load>,
    /// The pace of each load; a share of the highest rate becomes one when that is known.
    paces: Vec<Pace>,
    live: Live,
    rss_peak_kib: u64,
    /// Counts, the target's usage and our own when the measured phase began.
    baseline: (Counts, Option<Vec<Usage>>, Usage),
    sessions: u64,
}

impl<'a> Course<'a> {
    fn new(drive: Drive<'a>, target: &'a Target, server: Option<&'a mut Postrail>) -> Result<Self> {
        let plan = drive.plan;
        let stride = plan.loads.len() as u64;
        let mut loads = Vec::with_capacity(plan.loads.len());
        for (index, section) in plan.loads.iter().enumerate() {
            let lane = Lane { first: index as u64, stride };
            let load = load_plan(plan, section, plan.mix(section), target, lane)?;
            loads.push(start(&drive, plan.tenant_of(section), load));
        }
        let paces = plan.loads.iter().map(|load| match (load.rate_per_s, load.unsettled_max) {
            (Some(rate_per_s), _) => Pace::Open { rate_per_s },
            (None, Some(unsettled_max)) => Pace::Bounded { unsettled_max },
            (None, None) => Pace::Closed,
        });
        Ok(Self {
            drive,
            target,
            server,
            loads,
            paces: paces.collect(),
            live: Live::new(&plan.name),
            rss_peak_kib: 0,
            baseline: (Counts::default(), None, Usage::default()),
            sessions: 0,
        })
    }

    fn warm_up(&mut self) -> Result<()> {
        if self.drive.plan.warm_up_seconds <= 0.0 {
            return Ok(());
        }
        self.live.phase("warm-up");
        let length = Duration::from_secs_f64(self.drive.plan.warm_up_seconds);
        let all: Vec<_> = (0..self.loads.len()).collect();
        self.phase(&all, Some(length), None)?;
        Ok(())
    }

    /// Where a load's rate is a share of the highest: what that is, by a closed loop of all loads.
    fn find_highest(&mut self) -> Result<Option<f64>> {
        let shares: Vec<_> = self.drive.plan.loads.iter().map(|load| load.share_of_highest).collect();
        if shares.iter().all(Option::is_none) {
            return Ok(None);
        }
        self.live.phase("highest rate");
        let all: Vec<_> = (0..self.loads.len()).collect();
        let selection = self.phase(&all, Some(HIGHEST), None)?;
        let highest = selection.account(self.drive.stage.tally()).rate_per_s();
        if highest <= 0.0 {
            bail!("nothing was delivered while the highest rate was looked for");
        }
        for (pace, share) in self.paces.iter_mut().zip(shares) {
            if let Some(share) = share {
                *pace = Pace::Open { rate_per_s: highest * share };
            }
        }
        Ok(Some(highest))
    }

    /// Latencies of the last tenant's loads without the others.
    fn measure_alone(&mut self) -> Result<BTreeMap<String, (Latency, Latency)>> {
        let plan = self.drive.plan;
        let mut alone = BTreeMap::new();
        let last = plan.tenants.len().saturating_sub(1);
        if plan.alone_first && last > 0 {
            self.live.phase("one tenant alone");
            let own: Vec<_> = plan
                .loads
                .iter()
                .enumerate()
                .filter(|(_, load)| plan.tenant_of(load) == last)
                .map(|(index, _)| index)
                .collect();
            // As long as what it is compared with: the slowest of a hundred is another of a few mails than of many.
            let selection = self.phase(&own, plan.seconds.map(Duration::from_secs_f64), plan.mails)?;
            let account = selection.account(self.drive.stage.tally());
            alone.insert(plan.tenants[last].name.clone(), (account.ack.latency(), account.delivery.latency()));
        }
        Ok(alone)
    }

    fn measured_phase(&mut self) -> Result<Selection> {
        self.live.phase("measured");
        self.sessions = self.drive.stage.sink().sessions();
        self.baseline =
            (self.drive.stage.tally().counts(), processes::usage(&self.target.watched), processes::own_usage());
        let all: Vec<_> = (0..self.loads.len()).collect();
        let plan = self.drive.plan;
        self.phase(&all, plan.seconds.map(Duration::from_secs_f64), plan.mails)
    }

    /// Runs one phase of the loads `which` to its drained end.
    fn phase(&mut self, which: &[usize], length: Option<Duration>, mails: Option<u64>) -> Result<Selection> {
        if self.is_interrupted() {
            return Ok(Selection::default());
        }
        let until = length.map(|length| Instant::now() + length);
        let share = mails.map(|mails| mails.div_ceil(which.len().max(1) as u64));
        let mut selection = Selection::default();
        for index in which.iter().copied() {
            let load = &self.loads[index];
            let from = load.begin(Phase { pace: self.paces[index], until, recipients_max: share });
            selection.begin(index, load.lane(), from);
        }
        let drained = self.drain(which);
        for (part, index) in selection.parts.iter_mut().zip(which) {
            part.to = self.loads[*index].position();
        }
        drained?;
        Ok(selection)
    }

    /// Waits until everything is sent and delivered and the ledger knows it, as long as there is progress.
    fn drain(&mut self, which: &[usize]) -> Result<()> {
        let patience = Duration::from_secs_f64(self.drive.plan.patience_seconds);
        let tally = self.drive.stage.tally().clone();
        let mut progress = (Instant::now(), 0);
        let mut memory = Instant::now();
        let mut retried = Instant::now();
        loop {
            std::thread::sleep(LOOK);
            let counts = tally.counts();
            self.live.show(&tally, &self.loads);
            if let Some(error) = self.server.as_mut().and_then(|server| server.ended()) {
                self.live.end(&tally, &self.loads);
                return Err(error);
            }
            if self.is_interrupted() {
                self.loads.iter().for_each(Load::halt);
            }
            if counts.accepted + counts.settled() != progress.1 {
                progress = (Instant::now(), counts.accepted + counts.settled());
            }
            if memory.elapsed() >= MEMORY_LOOK {
                memory = Instant::now();
                self.look_at_memory();
            }
            let is_sent = which.iter().all(|index| self.loads[*index].is_idle());
            if is_sent && counts.settled() >= counts.accepted {
                break;
            }
            if self.drive.plan.retry_deferred && is_sent && retried.elapsed() >= RETRY_PAUSE {
                retried = Instant::now();
                if let Some(control) = &self.target.control {
                    control.retry_all()?;
                }
            }
            if progress.0.elapsed() > patience {
                self.loads.iter().for_each(Load::halt);
                break;
            }
        }
        std::thread::sleep(AFTERMATH);
        if let Some(control) = &self.target.control
            && let Err(error) = control.wait_ledger(LEDGER_TIMEOUT)
        {
            eprintln!("\nthe ledger has not caught up: {error:#}");
        }
        self.look_at_memory();
        self.live.end(&tally, &self.loads);
        if self.loads.iter().all(Load::has_given_up) {
            bail!("the target took no connection, or refused every login");
        }
        Ok(())
    }

    fn look_at_memory(&mut self) {
        let used = processes::usage(&self.target.watched).unwrap_or_default();
        self.rss_peak_kib = self.rss_peak_kib.max(used.iter().map(|usage| usage.rss_peak_kib).sum());
    }

    fn finish(self, selection: &Selection) -> RunResult {
        let is_interrupted = self.is_interrupted();
        let ending = Ending {
            baseline: self.baseline,
            usage: processes::usage(&self.target.watched),
            own: processes::own_usage(),
            rss_peak_kib: self.rss_peak_kib,
            sessions: self.drive.stage.sink().sessions().saturating_sub(self.sessions),
        };
        let rates: Option<f64> = self.paces.iter().try_fold(0.0, |sum, pace| match pace {
            Pace::Open { rate_per_s } => Some(sum + rate_per_s),
            Pace::Closed | Pace::Bounded { .. } => None,
        });
        let (drive, target, loads) = (self.drive, self.target, self.loads);
        drive.stage.load_thread(0).run(async move {
            for load in loads {
                load.finish().await;
            }
        });
        let mut result = assemble(drive.plan, drive.stage.tally(), target, selection, &ending);
        result.planned_rate_per_s = rates;
        result.interrupted = is_interrupted;
        result
    }

    fn is_interrupted(&self) -> bool {
        self.drive.interrupted.load(Ordering::Relaxed)
    }
}

/// Starts `load` on the thread of its tenant.
pub(super) fn start(drive: &Drive<'_>, tenant: usize, load: LoadPlan) -> Load {
    let tally = drive.stage.tally().clone();
    drive.stage.load_thread(tenant).run(async move { Load::start(load, tally) })
}

/// What `section` comes to at `target`.
pub(super) fn load_plan(plan: &Plan, section: &LoadSection, mix: Mix, target: &Target, lane: Lane) -> Result<LoadPlan> {
    let connector = || stream::connector().context("TLS cannot be used on this host");
    let (interface, address, tls) = match (section.interface, section.tls) {
        (InterfacePlan::Smtp, TlsPlan::None) => (Interface::Smtp, target.smtp, Tls::None),
        (InterfacePlan::Smtp, TlsPlan::StartTls) => (Interface::Smtp, target.smtp, Tls::StartTls(connector()?)),
        (InterfacePlan::Smtp, TlsPlan::Implicit) => (Interface::Smtp, target.smtps, Tls::Implicit(connector()?)),
        (InterfacePlan::Rest, TlsPlan::None) => (Interface::Rest, target.rest, Tls::None),
        (InterfacePlan::Rest, _) => (Interface::Rest, target.rest, Tls::Implicit(connector()?)),
    };
    let name = &target.name;
    let address = address.with_context(|| {
        format!("the target {name} has no listener for {:?} with TLS {:?}", section.interface, section.tls)
    })?;
    Ok(LoadPlan {
        interface,
        target: address,
        tls,
        login: target.logins.get(plan.tenant_of(section)).cloned().flatten(),
        lane,
        connections: usize::from(section.connections),
        composer: Arc::new(Composer::new(mix)),
    })
}
