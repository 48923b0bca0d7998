//! Tells data planes how much of their tenants' daily quotas is used up.
//!
//! ```text
//! each second: the counts of today that have grown -> for each host what it was not told yet, of tenants with a quota:
//!              tenant, what it has accepted itself, what all others have -> POST /quotas -> which process is there
//! ```
//!
//! Counts only grow, and a host takes the larger one of what it knows and what it is told. So a telling may come late,
//! twice or not at all, and of two leaders neither does harm. A host that was started anew knows nothing: it is told
//! everything, as soon as its answer shows that another process gave it; it is asked each second for that.
//!
//! Invariants worth naming: a host that does not answer keeps no other waiting, and has one request at a time; what it
//! has answered is not told again. Absent here: what a host does with it, and where no control plane leads, anything at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::day::Day;
use postrail_schema::ids::{HostId, Revision, TenantId};
use postrail_schema::limits::QUOTA_TELLS_MAX;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::journal::blocking;
use crate::app::{App, AppError, HostClient, QuotaTell, now_ms};
use crate::ledger::AcceptedCount;
use crate::plan::Desired;

/// Runs until `stop` is true.
pub(super) async fn tell_quotas(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut today = Today::default();
    // What each was told; none while it is being told.
    let mut known: HashMap<Place, Option<Told>> = HashMap::new();
    let mut telling = JoinSet::new();
    let mut rounds = interval(PERIOD);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_round = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            Some(done) = telling.join_next() => {
                if let Ok((place, told)) = done && let Some(entry) = known.get_mut(&place) {
                    entry.get_or_insert(told);
                }
                false
            }
            _ = rounds.tick() => true,
        };
        let hosts = app.hosts.all();
        if is_round {
            today = today.follow(&app).await;
            known.retain(|place, _| hosts.iter().any(|host| *place == place_of(host)));
            for host in hosts.iter() {
                known.entry(place_of(host)).or_insert_with(|| Some(Told::default()));
            }
        }
        let desired = app.desired();
        for host in hosts.iter() {
            let Some(entry) = known.get_mut(&place_of(host)) else { continue };
            if let Some(told) = entry
                && (is_round || told.is_in_haste)
                && let Some(news) = told.news(&today, host.id, &desired)
                && let Some(told) = entry.take()
            {
                telling.spawn(told.tell(news, host.clone()));
            }
        }
    }
}

/// A data plane, and where it listens.
type Place = (HostId, String);

fn place_of(host: &HostClient) -> Place {
    (host.id, host.admin.clone())
}

/// What was accepted on a day, as far as the ledger has told.
#[derive(Default)]
struct Today {
    day: Day,
    /// Up to this sequence of the ledger.
    sequence: u64,
    tenants: BTreeMap<TenantId, Accepted>,
}

/// What was accepted of a tenant.
#[derive(Default)]
struct Accepted {
    /// The ledger's sequence when it grew last.
    sequence: u64,
    all: u64,
    hosts: BTreeMap<HostId, u64>,
}

impl Today {
    /// Takes over what has grown. What cannot be read now is read later, and all of it.
    async fn follow(mut self, app: &Arc<App>) -> Self {
        let (app, day) = (Arc::clone(app), Day::of_ms(now_ms()));
        let read = blocking(move || {
            if self.day != day {
                app.ledger.forget_accepted(day.before())?;
                self = Self { day, ..Self::default() };
            }
            app.ledger.accepted(day, None, self.sequence).map(|counts| self.take(counts))
        });
        read.await.unwrap_or_else(|error| {
            tracing::debug!(error = &error as &dyn std::error::Error, "what was accepted is not known");
            Self::default()
        })
    }

    fn take(mut self, counts: Vec<AcceptedCount>) -> Self {
        for AcceptedCount { tenant, host, recipients, sequence, .. } in counts {
            let accepted = self.tenants.entry(tenant).or_default();
            let former = accepted.hosts.insert(host, recipients).unwrap_or(0);
            accepted.all += recipients.saturating_sub(former);
            accepted.sequence = sequence.max(accepted.sequence);
            self.sequence = sequence.max(self.sequence);
        }
        self
    }

    /// What `host` has accepted, and what all others have, of each tenant that has a quota and of which something was
    /// accepted behind the ledger's sequence `after`.
    fn quotas(&self, host: HostId, desired: &Desired, after: u64) -> impl Iterator<Item = QuotaTell> {
        let has_quota = |tenant| desired.tenants.get(tenant).is_some_and(|tenant| tenant.quota_per_day.is_some());
        let grown = self.tenants.iter().filter(move |(_, accepted)| accepted.sequence > after);
        grown.filter(move |(tenant, _)| has_quota(*tenant)).map(move |(tenant, accepted)| {
            let own = accepted.hosts.get(&host).copied().unwrap_or(0);
            QuotaTell { tenant: *tenant, own, others: accepted.all - own }
        })
    }
}

/// What a host was told.
#[derive(Default)]
struct Told {
    /// The process that was told.
    start: Option<String>,
    day: Day,
    tenants: HashMap<TenantId, QuotaTell>,
    /// The ledger's sequence and the configuration of which it was told all; none: there may be more.
    up_to: Option<(u64, Revision)>,
    /// Another process has answered than the one before, which was told nothing.
    is_in_haste: bool,
    /// Until then it is left alone.
    rests_until: Option<Instant>,
}

/// What a host is to be told.
struct News {
    tells: Vec<QuotaTell>,
    up_to: (u64, Revision),
}

impl Told {
    /// What is to be told; none where that is nothing.
    fn news(&mut self, today: &Today, host: HostId, desired: &Desired) -> Option<News> {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        if self.day != today.day {
            self.day = today.day;
            self.tenants.clear();
            self.up_to = None;
        }
        let up_to = (today.sequence, desired.head.revision);
        // Another configuration may have given quotas to tenants.
        let after = self.up_to.filter(|(_, revision)| *revision == up_to.1).map_or(0, |(sequence, _)| sequence);
        let is_new = |tell: &QuotaTell| self.tenants.get(&tell.tenant) != Some(tell);
        let tells: Vec<_> = today.quotas(host, desired, after).filter(is_new).collect();
        // Where it knows something, it is asked whether it still does.
        (!tells.is_empty() || !self.tenants.is_empty()).then_some(News { tells, up_to })
    }

    /// Takes over an answer of `start` on `day`; whether it is from the process that was told all before.
    fn answered(&mut self, start: String, day: Day, tells: &[QuotaTell]) -> bool {
        let is_same = self.start.as_ref().is_none_or(|known| *known == start);
        if !is_same {
            self.tenants.clear();
        }
        self.start = Some(start);
        // On another day of its own it had no use for it.
        if day == self.day {
            self.tenants.extend(tells.iter().map(|tell| (tell.tenant, *tell)));
        }
        is_same && day == self.day
    }

    /// Tells a host, in as many requests as it takes, at least one.
    async fn tell(mut self, news: News, host: HostClient) -> (Place, Self) {
        let was_in_haste = std::mem::take(&mut self.is_in_haste);
        let mut is_all = true;
        for tells in parts(&news.tells) {
            match host.client.tell_quotas(self.day, tells).await {
                Ok(answer) => {
                    let is_other = self.start.as_ref().is_some_and(|known| *known != answer.start);
                    is_all &= self.answered(answer.start, answer.day, tells);
                    // Once: what answers as another each time is told each second.
                    self.is_in_haste |= is_other && !was_in_haste;
                }
                Err(error) => {
                    if matches!(error, AppError::DataPlaneRefused { status: 404, .. }) {
                        self.rests_until = Some(Instant::now() + EARLIER_REST);
                    }
                    tracing::debug!(host = host.name, error = &error as &dyn std::error::Error, "quotas not told");
                    is_all = false;
                    break;
                }
            }
        }
        self.up_to = is_all.then_some(news.up_to);
        (place_of(&host), self)
    }
}

/// What goes into one request each; of nothing, one with nothing.
fn parts(tells: &[QuotaTell]) -> impl Iterator<Item = &[QuotaTell]> {
    let none = tells.is_empty().then_some(tells);
    none.into_iter().chain(tells.chunks(QUOTA_TELLS_MAX))
}

/// How often hosts are told: part of the time in which several together accept more than a quota.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a host of a version that cannot be told is left alone.
const EARLIER_REST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
