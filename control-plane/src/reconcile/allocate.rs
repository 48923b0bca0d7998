//! Gives addresses to hosts: reads what hosts say and what is wanted, and writes the step that is safe now.
//!
//! Runs in every control plane, because each has to observe hosts by itself; only the one that holds a key writes. That two
//! believe to lead does no harm: see [`crate::plan::allocation`]. Activated by a period that is short against a lease. One that
//! hears the store too seldom to know who is gone lets go of the key, so that another may have it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::allocation::{HostName, Order};
use postrail_schema::keys::ALLOCATOR;
use postrail_schema::limits::{ETCD_OPERATIONS_MAX, STEP_GRANTS_MAX};
use postrail_schema::problem::Problem;
use tokio::sync::watch;
use tokio::time::sleep;

use super::outage::Outage;
use crate::app::{Hosts, HostsError, Reading};
use crate::plan::allocation::{Demand, Fleet, HostStanding, Portion, step};
use crate::store::{Hold, StoreError};

/// Allocates addresses until `stop` is true, as one of any number of control planes of the store. `demands`: what each address
/// asks for at the time; `None`: that is lost, so everything stays as it is.
pub async fn allocate<D>(hosts: Hosts, demands: D, mut stop: watch::Receiver<bool>)
where
    D: Fn() -> Option<BTreeMap<IpAddr, Demand>> + Send + 'static,
{
    let mut allocator = Allocator { hosts, demands, clock: boottime, told: Vec::new(), is_late: false };
    let mut outage = Outage::new("addresses are not allocated");
    let mut lead: Option<Hold> = None;
    loop {
        if lead.is_none() && !allocator.is_late {
            let store = Arc::clone(allocator.hosts.store());
            let Ok(hold) = tokio::task::spawn_blocking(move || store.hold(ALLOCATOR, b"", TERM)).await else { return };
            lead = Some(hold);
        }
        let may_write = lead.as_ref().is_some_and(Hold::is_held);
        let work = move || {
            let done = allocator.round(may_write);
            (allocator, done)
        };
        let Ok((back, done)) = tokio::task::spawn_blocking(work).await else { return };
        allocator = back;
        if allocator.is_late && lead.is_some() {
            tracing::warn!(
                "the configuration store answers too seldom for this control plane to know which hosts are gone: it leaves it to \
                 others to allocate addresses"
            );
            let_go(lead.take()).await;
        }
        let wait = match done {
            Ok(wait) => {
                outage.over();
                wait
            }
            Err(error) => {
                outage.failed(&error);
                PERIOD
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = sleep(wait) => {}
        }
    }
    let_go(lead).await;
}

/// A store may write when a key is let go of.
async fn let_go(lead: Option<Hold>) {
    let _ = tokio::task::spawn_blocking(move || drop(lead)).await;
}

/// One control plane's knowledge of the hosts.
struct Allocator<D> {
    hosts: Hosts,
    demands: D,
    clock: fn() -> Duration,
    /// What was logged last.
    told: Vec<Problem>,
    /// It does not know who is gone, and others may.
    is_late: bool,
}

impl<D: Fn() -> Option<BTreeMap<IpAddr, Demand>>> Allocator<D> {
    /// Looks, and writes what should be written; says when to look again at the latest.
    fn round(&mut self, may_write: bool) -> Result<Duration, HostsError> {
        let (hosts, clock) = (&self.hosts, self.clock);
        let (demands, mut is_other) = ((self.demands)(), false);
        let may_write = may_write && demands.is_some();
        // A look may take longer than the store may be silent, if it is far or there is much to read.
        let heard = |revision| is_other |= hosts.observer().heard(clock(), revision);
        let reading =
            hosts.read_hearing(demands.unwrap_or_default(), heard).inspect_err(|_| hosts.observer().failed())?;
        // After the reading: what was written by a host was sent before that, and only that is relied upon.
        let seen = clock();
        let (fleet, lapse) = {
            let mut observer = self.hosts.observer();
            is_other |= reading.known.show(&mut observer, seen);
            self.is_late = reading.known.is_late(&observer, seen);
            if is_other {
                tracing::warn!(
                    "the configuration store has gone back to an earlier state: it was restored from a snapshot, or is new; no \
                     address is given to another host for a lease"
                );
            }
            (reading.known.fleet(&observer, seen), observer.deadline(seen))
        };
        let step = step(&fleet, &reading.known.allocation).portion(&reading.known.allocation, PORTION);
        if may_write {
            self.tell(&step.problems);
            if step.changed.is_empty() {
                self.remove_forgotten(&reading, &fleet)?;
            } else {
                match self.hosts.write(&reading, &step) {
                    Ok(revision) => {
                        let relied = step.relied.len();
                        tracing::info!(revision, hosts = step.changed.len(), lapsed = relied, "addresses allocated");
                        // It may be a part of what is to be written.
                        return Ok(Duration::ZERO);
                    }
                    // Somebody wrote in between; what it was is read next.
                    Err(HostsError::Store(StoreError::Conflict { .. })) => return Ok(Duration::ZERO),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(lapse.map_or(PERIOD, |at| at.saturating_sub(seen)).min(PERIOD))
    }

    /// Removes hosts that were forgotten and have nothing any more.
    fn remove_forgotten(&self, reading: &Reading, fleet: &Fleet) -> Result<(), HostsError> {
        let known = &reading.known;
        let has_grants = |name| known.allocation.hosts.get(name).is_some_and(|grants| !grants.is_empty());
        let forgotten = |name: &HostName| match fleet.hosts.get(name) {
            // One that still speaks waits: it would write its record again.
            Some(host) => host.standing == HostStanding::Forgotten && host.lapsed,
            None => known.orders.get(name) == Some(&Order::Forget),
        };
        for name in known.orders.keys().filter(|name| forgotten(name) && !has_grants(*name)) {
            match self.hosts.remove(reading, name) {
                Ok(()) => tracing::info!(host = %name, "forgotten"),
                Err(HostsError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Logs what has come to be wrong.
    fn tell(&mut self, problems: &[Problem]) {
        for problem in problems.iter().filter(|problem| !self.told.contains(problem)) {
            tracing::warn!(subject = problem.subject, code = problem.code, "{}", problem.detail);
        }
        self.told = problems.to_vec();
    }
}

/// CLOCK_BOOTTIME: it counts while the host sleeps.
pub(crate) fn boottime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Who wrote steps and died is followed after at most so long, which is shorter than the lease of hosts.
const TERM: Duration = Duration::from_secs(5);
/// One transaction, with the epoch.
const PORTION: Portion = Portion { grants: STEP_GRANTS_MAX, hosts: ETCD_OPERATIONS_MAX - 1 };
/// At most so long between two looks: it is part of the time in which addresses of a dead host come back.
const PERIOD: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use postrail_schema::allocation::{Announcement, HostRecord, HostState};
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::plan::allocation::Observer;
    use crate::store::EmbeddedStore;

    fn record() -> HostRecord {
        HostRecord {
            incarnation: 1,
            sequence: 1,
            lease_ms: 10_000,
            state: HostState::Live,
            released: Vec::new(),
            announcement: Announcement { addresses_max: 1, share: 1, routed: true, ..Announcement::default() },
            held: None,
        }
    }

    /// One address is wanted.
    fn demands() -> Option<BTreeMap<IpAddr, Demand>> {
        Some([(IpAddr::from([192, 0, 2, 1]), Demand::default())].into())
    }

    #[test]
    fn a_look_that_takes_longer_than_the_store_may_be_silent_is_no_silence() {
        /// Each answer takes a second by this clock, and a look four.
        static NOW_S: AtomicU64 = AtomicU64::new(100);
        let clock = || Duration::from_secs(NOW_S.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().unwrap();
        let hosts = Hosts::new(Arc::new(EmbeddedStore::open(&folder.path().join("store.db")).unwrap()));
        let name = HostName::new("one").unwrap();
        hosts.keep_alive(&name, 0, &record()).unwrap();
        let mut allocator = Allocator { hosts: hosts.clone(), demands, clock, told: Vec::new(), is_late: false };
        allocator.round(true).unwrap();
        assert!(hosts.own(&name).unwrap().grants.is_empty(), "who has just begun gives nothing");
        for _ in 0..3 {
            allocator.round(true).unwrap();
        }
        assert_eq!(hosts.own(&name).unwrap().grants.len(), 1);
        // Answers that are further apart are.
        allocator.clock = || Duration::from_secs(NOW_S.fetch_add(3, Ordering::Relaxed));
        allocator.round(true).unwrap();
        assert!(!allocator.is_late, "others may be no better off");
        for _ in 0..2 {
            allocator.round(true).unwrap();
        }
        assert!(allocator.is_late);
    }

    #[test]
    fn only_who_leads_writes_and_everybody_observes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(&folder.path().join("store.db")).unwrap());
        let hosts = Hosts::new(store);
        let name = HostName::new("one").unwrap();
        let record = record();
        hosts.keep_alive(&name, 0, &record).unwrap();
        let allocator = || {
            let hosts = Hosts::new(Arc::clone(hosts.store()));
            Allocator { hosts, demands, clock: boottime, told: Vec::new(), is_late: false }
        };
        let (mut standby, mut leader) = (allocator(), allocator());
        leader.round(true).unwrap();
        assert!(hosts.own(&name).unwrap().grants.is_empty(), "who has just begun gives nothing");
        for allocator in [&standby, &leader] {
            *allocator.hosts.observer() = Observer::at(boottime());
        }
        standby.round(false).unwrap();
        assert!(hosts.own(&name).unwrap().grants.is_empty());
        leader.round(true).unwrap();
        let granted = hosts.own(&name).unwrap().grants;
        assert_eq!(granted.len(), 1);
        leader.round(true).unwrap();
        assert_eq!(hosts.own(&name).unwrap().grants, granted, "nothing is written when nothing has changed");
        let Allocator { hosts: known, clock, .. } = &leader;
        let mut lost = Allocator {
            hosts: known.clone(),
            demands: || None::<BTreeMap<IpAddr, Demand>>,
            clock: *clock,
            told: Vec::new(),
            is_late: false,
        };
        lost.round(true).unwrap();
        assert_eq!(hosts.own(&name).unwrap().grants, granted, "what was wanted is lost, not unwanted");
        // It is off for good: what it has passes on, and then nothing is left of it, once its lease is over.
        hosts.keep_alive(&HostName::new("two").unwrap(), 0, &record).unwrap();
        hosts.order(&name, Some(Order::Forget)).unwrap();
        leader.round(true).unwrap();
        assert_eq!(hosts.own(&name).unwrap().grants, []);
        leader.round(true).unwrap();
        assert!(hosts.own(&name).unwrap().record.is_some(), "it may still speak");
        leader.hosts.observer().saw(boottime(), &name, 0, Duration::ZERO);
        let written = hosts.own(&name).unwrap().record.unwrap().0;
        leader.hosts.observer().saw(boottime().saturating_sub(Duration::from_secs(11)), &name, written, record.lease());
        leader.round(true).unwrap();
        assert_eq!(hosts.own(&name).unwrap().record, None);
        assert_eq!(hosts.read(BTreeMap::new()).unwrap().known.orders.len(), 0);
    }
}
