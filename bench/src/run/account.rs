//! From the account of a run to its result.

use std::process::{Command, Stdio};

use super::summary::commit_of;
use crate::account::{Account, rounded, series};
use crate::machine;
use crate::plan::Plan;
use crate::processes::{self, Usage};
use crate::result::{RunResult, TenantResult};
use crate::server::Target;
use crate::source::Lane;
use crate::tally::{Counts, Fate, Tally};

/// The recipients of one phase.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub(super) parts: Vec<Part>,
}

/// Those of one load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    load: usize,
    lane: Lane,
    from: u64,
    pub(super) to: u64,
}

impl Selection {
    pub(super) fn begin(&mut self, load: usize, lane: Lane, from: u64) {
        self.parts.push(Part { load, lane, from, to: from });
    }

    pub(super) fn account(&self, tally: &Tally) -> Account {
        Account::of(self.fates(tally, |_| true))
    }

    fn fates<'a>(&'a self, tally: &'a Tally, which: impl Fn(usize) -> bool + 'a) -> impl Iterator<Item = Fate> + 'a {
        let parts = self.parts.iter().filter(move |part| which(part.load));
        parts
            .flat_map(move |part| tally.fates(part.lane.number(part.from)..part.lane.number(part.to), part.lane.stride))
    }
}

/// What was seen when the last phase began, and at its end.
pub(super) struct Ending {
    pub(super) baseline: (Counts, Option<Vec<Usage>>, Usage),
    pub(super) usage: Option<Vec<Usage>>,
    pub(super) own: Usage,
    pub(super) rss_peak_kib: u64,
    pub(super) sessions: u64,
}

/// The result of the recipients in `selection`. Losses and duplicates are those of the whole run: of the warm-up too.
pub(super) fn assemble(
    plan: &Plan,
    tally: &Tally,
    target: &Target,
    selection: &Selection,
    ending: &Ending,
) -> RunResult {
    let account = selection.account(tally);
    let (counts, before) = (tally.counts(), ending.baseline.0);
    let (refused, doubtful) = (counts.refused - before.refused, counts.doubtful - before.doubtful);
    let mails = account.delivered.max(1);
    let own = ending.own.cpu_nanos.saturating_sub(ending.baseline.2.cpu_nanos);
    let bench_commit = commit_here();
    let mut result = RunResult {
        plan: plan.name.clone(),
        commit: target.version.commit().map_or_else(|| bench_commit.clone(), str::to_owned),
        bench_commit,
        machine: machine::here(),
        sent: account.accepted + refused + doubtful,
        accepted: account.accepted,
        delivered: account.delivered,
        lost: tally.lost(),
        duplicated: counts.duplicated,
        rate_per_s: account.rate_per_s(),
        ack_ms: account.ack.latency(),
        delivery_ms: account.delivery.latency(),
        first_attempt_ms: account.first_attempt.latency(),
        bench_cpu_us_per_mail: Some(rounded(own as f64 / 1_000.0 / mails as f64)),
        refused,
        doubtful,
        rejected: account.rejected,
        deferred: counts.deferred - before.deferred,
        misdelivered: counts.unknown + counts.mixed_up,
        reports: counts.reports - before.reports,
        receiver_sessions: ending.sessions,
        seconds: rounded(account.duration().as_secs_f64()),
        series: series(selection.fates(tally, |_| true), account.first_planned(), account.duration()),
        curves: account.curves(),
        target: target.name.clone(),
        server_version: target.version.to_string(),
        ..RunResult::default()
    };
    if let (Some(before), Some(after)) = (&ending.baseline.1, &ending.usage)
        && !after.is_empty()
    {
        enter_usage(&mut result, target, before, after, mails);
        result.peak_rss_mb = Some(rounded(ending.rss_peak_kib as f64 / 1_024.0));
    }
    if plan.tenants.len() > 1 {
        for (index, tenant) in plan.tenants.iter().enumerate() {
            let own = move |load: usize| plan.tenant_of(&plan.loads[load]) == index;
            result.tenants.insert(tenant.name.clone(), of_tenant(&Account::of(selection.fates(tally, own))));
        }
    }
    result
}

fn enter_usage(result: &mut RunResult, target: &Target, before: &[Usage], after: &[Usage], mails: u64) {
    result.processes = processes::results(&target.watched, before, after, mails);
    let all = &result.processes;
    let user: f64 = all.iter().map(|process| process.cpu_user_us_per_mail).sum();
    let system: f64 = all.iter().map(|process| process.cpu_system_us_per_mail).sum();
    result.cpu_us_per_mail = Some(rounded(user + system));
    result.cpu_user_us_per_mail = Some(rounded(user));
    result.cpu_system_us_per_mail = Some(rounded(system));
    let switches: f64 = all.iter().map(|process| process.context_switches_per_mail).sum();
    result.context_switches_per_mail = Some(rounded(switches));
    let written: f64 = all.iter().map(|process| process.bytes_written_per_mail).sum();
    result.bytes_written_per_mail = Some(rounded(written));
}

fn of_tenant(account: &Account) -> TenantResult {
    TenantResult {
        sent: account.planned,
        accepted: account.accepted,
        delivered: account.delivered,
        lost: account.lost,
        rate_per_s: account.rate_per_s(),
        ack_ms: account.ack.latency(),
        delivery_ms: account.delivery.latency(),
        alone_ack_ms: None,
        alone_delivery_ms: None,
    }
}

/// The commit of the checkout that this runs in.
fn commit_here() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"]);
    commit_of(head.as_deref(), git(&["status", "--porcelain", "--untracked-files=no"]).as_deref())
}
