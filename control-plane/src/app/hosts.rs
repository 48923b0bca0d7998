//! The allocation in the configuration store: what hosts, control planes and operators read and write of it.
//!
//! ```text
//! holding/<host>            HostRecord    by the host, each time on the condition that nobody else has written it
//! allocation/epoch          u64           by control planes; guards every step
//! allocation/grants/<host>  [Grant]       by control planes
//! orders/<host>             Order         by operators
//! ```
//!
//! What is wanted of them is not read here: a control plane has desired state as it is, and to read all of it with each look at
//! the hosts would make a look as long as the configuration is large.
//!
//! Values are JSON. One that cannot be read stops the allocation rather than being passed over: a host that is not
//! understood may be using addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postrail_schema::allocation::{Grant, HostName, HostRecord, Order};
use postrail_schema::keys::{
    ALLOCATION, ALLOCATION_EPOCH, GRANTS, HOLDING, HOSTS, ORDERS, grants as grants_key, holding, order as order_key,
};
use postrail_schema::limits::{HOST_NAMES_MAX, HOST_RECORD_BYTES_MAX, HOSTS_MAX};
use serde::de::DeserializeOwned;

use crate::plan::allocation::{Demand, Known, Observer, Step};
use crate::store::{ConfigStore, Entry, Guard, StoreError, Write};

/// Why the allocation cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the value of {key} cannot be read; a newer version may have written it")]
    Value { key: String, source: serde_json::Error },
    #[error("{key} names no host")]
    Name { key: String },
    #[error("{HOSTS_MAX} hosts run or have addresses already, and a fleet has no more: this one is given none")]
    TooMany,
    #[error(
        "the fleet knows {HOST_NAMES_MAX} hosts by name already, and this one is new: have those forgotten that are off for good \
         (postrail host forget)"
    )]
    TooManyNames,
    #[error("the record is larger than {HOST_RECORD_BYTES_MAX} octets")]
    TooLarge,
}

/// A host's own keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostView {
    /// With the revision that wrote it.
    pub record: Option<(u64, HostRecord)>,
    /// The store's revision that the grants are of.
    pub revision: u64,
    pub grants: Vec<Grant>,
}

/// What is read for one step, and what it is read at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    pub known: Known,
    /// The revision that wrote the epoch, and so the last step.
    head: u64,
}

/// The allocation in a store, and what this process has observed of its hosts. Calls block. Clones share both.
#[derive(Clone)]
pub struct Hosts {
    store: Arc<dyn ConfigStore>,
    observer: Arc<Mutex<Observer>>,
}

impl Hosts {
    pub fn new(store: Arc<dyn ConfigStore>) -> Self {
        Self { store, observer: Arc::default() }
    }

    pub(crate) fn store(&self) -> &Arc<dyn ConfigStore> {
        &self.store
    }

    /// What this process has observed. A panic while it was locked leaves it as it was before or after.
    pub(crate) fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a host reads of itself: both keys under one revision, and not older than now.
    ///
    /// # Errors
    /// [`HostsError`].
    pub fn own(&self, host: &HostName) -> Result<HostView, HostsError> {
        let listing = self.store.get(&[holding(host), grants_key(host)])?;
        let mut view = HostView { record: None, revision: listing.revision, grants: Vec::new() };
        for entry in &listing.entries {
            if entry.key == holding(host) {
                view.record = Some((entry.revision, value(entry)?));
            } else {
                view.grants = value(entry)?;
            }
        }
        Ok(view)
    }

    /// Writes a host's record if the present one was written by `guard` (0: if there is none); the revision that did.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it was not; [`HostsError::TooMany`] and [`HostsError::TooManyNames`] where there is no room
    /// for one more; after other errors it may have been written.
    pub fn keep_alive(&self, host: &HostName, guard: u64, record: &HostRecord) -> Result<u64, HostsError> {
        let encoded = encode(record);
        if encoded.len() > HOST_RECORD_BYTES_MAX {
            return Err(HostsError::TooLarge);
        }
        if guard == 0 {
            self.check_room(host)?;
        }
        let guards = [Guard { key: holding(host), revision: guard }];
        Ok(self.store.txn(&guards, &[Write::Put { key: holding(host), value: encoded }])?)
    }

    /// Whether there is room for a host that has no record yet. Who comes at the same moment is not counted: the bounds are
    /// for operators, and nothing that is read depends on them.
    fn check_room(&self, host: &HostName) -> Result<(), HostsError> {
        let others = |prefix: &'static str| -> Result<BTreeSet<String>, HostsError> {
            let entries = self.store.list_keys(prefix)?.entries;
            let names = entries.iter().filter_map(|entry| entry.key.strip_prefix(prefix));
            Ok(names.filter(|name| *name != host.as_str()).map(str::to_owned).collect())
        };
        if others(HOLDING)?.len() >= HOST_NAMES_MAX {
            return Err(HostsError::TooManyNames);
        }
        let there = &others(HOSTS)? | &others(GRANTS)?;
        if there.len() >= HOSTS_MAX { Err(HostsError::TooMany) } else { Ok(()) }
    }

    /// Everything that a step is made from, beside what is wanted. The keys are not read under one revision, and need not be: a
    /// step is written only if the grants, and the records that it relies on, are still what was read.
    ///
    /// # Errors
    /// [`HostsError`].
    pub fn read(&self, demands: BTreeMap<IpAddr, Demand>) -> Result<Reading, HostsError> {
        self.read_hearing(demands, |_| {})
    }

    /// The same; `heard` is told with each answer of the store which revision that is of.
    ///
    /// # Errors
    /// [`HostsError`].
    pub(crate) fn read_hearing(
        &self,
        demands: BTreeMap<IpAddr, Demand>,
        mut heard: impl FnMut(u64),
    ) -> Result<Reading, HostsError> {
        let mut reading = Reading::default();
        let known = &mut reading.known;
        known.demands = demands;
        let mut list = |prefix| {
            let listing = self.store.list(prefix)?;
            heard(listing.revision);
            Ok::<_, HostsError>(listing)
        };
        for entry in list(ORDERS)?.entries {
            known.orders.insert(name(&entry, ORDERS)?, value::<Order>(&entry)?);
        }
        // The grants before the records: what a host says of them may be newer, never older.
        for entry in list(ALLOCATION)?.entries {
            if entry.key == ALLOCATION_EPOCH {
                known.allocation.epoch = value(&entry)?;
                reading.head = entry.revision;
            } else {
                known.allocation.hosts.insert(name(&entry, GRANTS)?, value(&entry)?);
            }
        }
        let listing = list(HOLDING)?;
        known.revision = listing.revision;
        for entry in listing.entries {
            let record = value(&entry)?;
            known.records.insert(name(&entry, HOLDING)?, (entry.revision, record));
        }
        Ok(reading)
    }

    /// Writes a step that was made from `reading`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody has written in between: read again.
    pub fn write(&self, reading: &Reading, step: &Step) -> Result<u64, HostsError> {
        let mut guards = vec![Guard { key: ALLOCATION_EPOCH.to_owned(), revision: reading.head }];
        guards.extend(step.relied.iter().map(|host| {
            let revision = reading.known.records.get(host).map_or(0, |(revision, _)| *revision);
            Guard { key: holding(host), revision }
        }));
        let mut writes = vec![Write::Put { key: ALLOCATION_EPOCH.to_owned(), value: encode(&step.epoch) }];
        writes.extend(step.changed.iter().map(|(host, grants)| match grants.as_slice() {
            [] => Write::Delete { key: grants_key(host) },
            grants => Write::Put { key: grants_key(host), value: encode(&grants) },
        }));
        Ok(self.store.txn(&guards, &writes)?)
    }

    /// Gives or takes back (`None`) an order about a host.
    ///
    /// # Errors
    /// [`HostsError`].
    pub fn order(&self, host: &HostName, order: Option<Order>) -> Result<(), HostsError> {
        let key = order_key(host);
        let write = match order {
            Some(order) => Write::Put { key, value: encode(&order) },
            None => Write::Delete { key },
        };
        self.store.txn(&[], &[write])?;
        Ok(())
    }

    /// Removes what is left of a host that was forgotten: its record and the order. It must have no grants in `reading`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it has spoken, or somebody has made a step: look again.
    pub fn remove(&self, reading: &Reading, host: &HostName) -> Result<(), HostsError> {
        let guards = [
            Guard { key: ALLOCATION_EPOCH.to_owned(), revision: reading.head },
            Guard { key: holding(host), revision: reading.known.revision(host) },
            Guard { key: grants_key(host), revision: 0 },
        ];
        let writes = [Write::Delete { key: holding(host) }, Write::Delete { key: order_key(host) }];
        self.store.txn(&guards, &writes)?;
        Ok(())
    }
}

fn name(entry: &Entry, prefix: &str) -> Result<HostName, HostsError> {
    let name = entry.key.strip_prefix(prefix).and_then(|name| HostName::new(name).ok());
    name.ok_or_else(|| HostsError::Name { key: entry.key.clone() })
}

fn value<T: DeserializeOwned>(entry: &Entry) -> Result<T, HostsError> {
    serde_json::from_slice(&entry.value).map_err(|source| HostsError::Value { key: entry.key.clone(), source })
}

fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("what is allocated has no maps but with text as keys")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postrail_schema::allocation::{Announcement, HostState};

    use super::*;
    use crate::plan::allocation::step;
    use crate::store::EmbeddedStore;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    fn record(sequence: u64) -> HostRecord {
        HostRecord {
            incarnation: 1,
            sequence,
            lease_ms: 10_000,
            state: HostState::Live,
            released: Vec::new(),
            announcement: Announcement { addresses_max: 9, share: 1, routed: true, ..Announcement::default() },
            held: None,
        }
    }

    const NOW: Duration = Duration::from_secs(60);

    fn hosts(folder: &tempfile::TempDir) -> Hosts {
        Hosts::new(Arc::new(EmbeddedStore::open(&folder.path().join("store.db")).unwrap()))
    }

    /// One address is wanted.
    fn read(hosts: &Hosts) -> Result<Reading, HostsError> {
        hosts.read([(IpAddr::from([192, 0, 2, 1]), Demand::default())].into())
    }

    #[test]
    fn a_step_is_written_once_from_one_reading_and_seen_by_its_host() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = hosts(&folder);
        let written = hosts.keep_alive(&host("one"), 0, &record(1)).unwrap();
        let again = hosts.keep_alive(&host("one"), 0, &record(1));
        assert!(matches!(again, Err(HostsError::Store(StoreError::Conflict { .. }))));
        let reading = read(&hosts).unwrap();
        let mut observer = Observer::at(NOW);
        reading.known.show(&mut observer, NOW);
        let made = step(&reading.known.fleet(&observer, NOW), &reading.known.allocation);
        hosts.write(&reading, &made).unwrap();
        let stale = hosts.write(&reading, &made);
        assert!(matches!(stale, Err(HostsError::Store(StoreError::Conflict { .. }))), "{stale:?}");
        let own = hosts.own(&host("one")).unwrap();
        assert_eq!(own.record, Some((written, record(1))));
        assert_eq!(own.grants.len(), 1);
        assert_eq!(read(&hosts).unwrap().known.allocation.epoch, own.grants[0].epoch);
    }

    #[test]
    fn a_step_that_relies_on_a_host_is_refused_when_the_host_has_spoken() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = hosts(&folder);
        let written = hosts.keep_alive(&host("one"), 0, &record(1)).unwrap();
        let reading = read(&hosts).unwrap();
        hosts.keep_alive(&host("one"), written, &record(2)).unwrap();
        let relying = Step {
            epoch: 1,
            changed: [(host("one"), Vec::new())].into(),
            relied: [host("one")].into(),
            problems: Vec::new(),
        };
        let refused = hosts.write(&reading, &relying);
        assert!(matches!(refused, Err(HostsError::Store(StoreError::Conflict { key })) if key == "holding/one"));
        hosts.write(&read(&hosts).unwrap(), &relying).unwrap();
    }

    #[test]
    fn a_host_that_is_one_too_many_is_refused_and_those_that_are_there_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = hosts(&folder);
        let put = |key: String, value: Vec<u8>| {
            hosts.store.txn(&[], &[Write::Put { key, value }]).unwrap();
        };
        // Names that were used once, more than there may be hosts: of containers, say.
        for number in 0..HOST_NAMES_MAX - 1 {
            put(holding(&host(&format!("old-{number}"))), encode(&record(1)));
        }
        let written = hosts.keep_alive(&host("one"), 0, &record(1)).unwrap();
        let refused = hosts.keep_alive(&host("two"), 0, &record(1));
        assert!(matches!(refused, Err(HostsError::TooManyNames)), "{refused:?}");
        hosts.keep_alive(&host("one"), written, &record(2)).unwrap();
        let reading = read(&hosts).unwrap();
        assert_eq!(reading.known.records.len(), HOST_NAMES_MAX);
        hosts.remove(&reading, &host("old-0")).unwrap();
        // Those that run, or have addresses.
        for number in 0..HOSTS_MAX {
            put(
                if number % 2 == 0 { format!("{HOSTS}mx{number}") } else { grants_key(&host(&format!("mx{number}"))) },
                b"[]".to_vec(),
            );
        }
        let refused = hosts.keep_alive(&host("two"), 0, &record(1));
        assert!(matches!(refused, Err(HostsError::TooMany)), "{refused:?}");
        hosts.keep_alive(&host("mx1"), 0, &record(1)).unwrap();
    }

    #[test]
    fn what_is_not_understood_stops_the_allocation() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = hosts(&folder);
        hosts.order(&host("one"), Some(Order::Drain)).unwrap();
        assert_eq!(read(&hosts).unwrap().known.orders[&host("one")], Order::Drain);
        hosts.order(&host("one"), None).unwrap();
        assert!(read(&hosts).unwrap().known.orders.is_empty());
        let write = Write::Put { key: "holding/two".into(), value: b"{}".to_vec() };
        hosts.store.txn(&[], &[write]).unwrap();
        assert!(matches!(read(&hosts), Err(HostsError::Value { key, .. }) if key == "holding/two"));
    }
}
