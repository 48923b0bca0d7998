//! What a control plane has read, and what follows from it for each host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use postrail_schema::allocation::{Announcement, Carrier, HostName, HostRecord, HostState, Order};
use postrail_schema::limits::ADDRESS_LEASE_MAX;

use super::{Allocation, Demand, Fleet, Host, HostStanding, Observer};

/// Everything that is decided from, as of one revision of the store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known {
    pub demands: BTreeMap<IpAddr, Demand>,
    pub orders: BTreeMap<HostName, Order>,
    /// Each host's record with the revision that wrote it.
    pub records: BTreeMap<HostName, (u64, HostRecord)>,
    pub allocation: Allocation,
    /// The store's, when the last of it was read.
    pub revision: u64,
}

impl Known {
    /// Shows the observer what was read at `now`; whether the store is another one than before, of an earlier state.
    pub fn show(&self, observer: &mut Observer, now: Duration) -> bool {
        let mut is_other = observer.heard(now, self.revision);
        if self.records.iter().any(|(host, (revision, _))| observer.has_seen_later(host, *revision)) {
            observer.begin(now);
            is_other = true;
        }
        observer.retain(|host| self.hosts().any(|other| other == host));
        for host in self.hosts() {
            match self.records.get(host) {
                Some((revision, record)) => observer.saw(now, host, *revision, record.lease()),
                // It has grants and no record: an operator removed it. It may still be there.
                None => observer.saw(now, host, 0, ADDRESS_LEASE_MAX),
            }
        }
        observer.note(now, self.lease());
        is_other
    }

    /// Whether `observer` is not settled for so long that it must hear the store too seldom.
    pub fn is_late(&self, observer: &Observer, now: Duration) -> bool {
        observer.waits(now) > self.lease() + LATE
    }

    /// The longest.
    fn lease(&self) -> Duration {
        self.records.values().map(|(_, record)| record.lease()).max().unwrap_or_default()
    }

    /// The fleet at `now`, as far as `observer` has seen it.
    pub fn fleet(&self, observer: &Observer, now: Duration) -> Fleet {
        let hosts = self.hosts().map(|name| (name.clone(), self.host(name, observer, now)));
        let may_give = observer.is_settled(now, self.lease());
        Fleet { may_give, ..Fleet::new(self.demands.clone(), hosts.collect()) }
    }

    /// The revision that each host's record must still have for a step that relies on it; 0: it must not exist.
    pub fn revision(&self, host: &HostName) -> u64 {
        self.records.get(host).map_or(0, |(revision, _)| *revision)
    }

    fn hosts(&self) -> impl Iterator<Item = &HostName> {
        let without = self
            .allocation
            .hosts
            .iter()
            .filter(|(host, grants)| !grants.is_empty() && !self.records.contains_key(*host));
        self.records.keys().chain(without.map(|(host, _)| host))
    }

    /// What a host must have announced to have been given what it has.
    fn presumed(&self, name: &HostName) -> Announcement {
        let mut presumed = Announcement { routed: true, share: 1, ..Announcement::default() };
        for grant in self.allocation.hosts.get(name).into_iter().flatten() {
            presumed.addresses_max += 1;
            if let Carrier::Nic(nic) = &grant.carrier {
                presumed.nics.insert(nic.clone());
            }
            if let Some(demand) = self.demands.get(&grant.address) {
                presumed.capabilities.extend(demand.capabilities.iter().cloned());
                presumed.region = presumed.region.or_else(|| demand.region.clone());
            }
        }
        presumed
    }

    fn host(&self, name: &HostName, observer: &Observer, now: Duration) -> Host {
        let order = self.orders.get(name);
        let Some((revision, record)) = self.records.get(name) else {
            let lapsed = observer.lapsed(now, name) == Some(0);
            let standing = match order {
                Some(Order::Forget) => HostStanding::Forgotten,
                _ if lapsed => HostStanding::Gone,
                // It writes its record again within a keepalive, if it is there: until then it keeps what it has.
                _ => HostStanding::Quiet,
            };
            return Host { announcement: self.presumed(name), standing, lapsed, released: Default::default() };
        };
        let is_stopped = record.state == HostState::Stopped;
        // One that stopped keeps its addresses for a lease, because most come back after a moment.
        let lapsed = observer.lapsed(now, name) == Some(*revision) || (is_stopped && order == Some(&Order::Drain));
        let standing = match (order, record.state) {
            (Some(Order::Forget), _) => HostStanding::Forgotten,
            _ if lapsed => HostStanding::Gone,
            (Some(Order::Drain), _) => HostStanding::Draining,
            (None, HostState::Live) => HostStanding::Live,
            (None, HostState::Joining | HostState::Stopped) => HostStanding::Quiet,
        };
        Host {
            announcement: record.announcement.clone(),
            standing,
            lapsed,
            released: record.released.iter().copied().collect(),
        }
    }
}

/// Beyond a lease: what a few answers that came late take.
const LATE: Duration = Duration::from_secs(10);
