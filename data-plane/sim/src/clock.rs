//! Virtual time: a sorted list of what is due. Time stands still while a task can run and then jumps to the next entry.

use std::collections::BTreeMap;
use std::task::Waker;

use postrail_core::base::Instant;

use crate::net::Arrival;

/// What happens when its time has come.
pub(crate) enum Due {
    Wake(Waker),
    Arrive(Arrival),
}

/// Names one entry, for taking it back.
pub(crate) type DueKey = (Instant, u64);

pub(crate) struct Clock {
    now: Instant,
    count: u64,
    due: BTreeMap<DueKey, Due>,
}

impl Clock {
    pub(crate) const fn new() -> Self {
        Self { now: Instant::from_nanos(1_000_000_000), count: 0, due: BTreeMap::new() }
    }

    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    /// Entries of one instant happen in the order in which they were made.
    pub(crate) fn at(&mut self, when: Instant, due: Due) -> DueKey {
        self.count += 1;
        let key = (when.max(self.now), self.count);
        self.due.insert(key, due);
        key
    }

    pub(crate) fn cancel(&mut self, key: DueKey) {
        self.due.remove(&key);
    }

    /// Makes `waker` the one that is woken by the entry `key`, if that is still to come.
    pub(crate) fn rewake(&mut self, key: DueKey, waker: &Waker) {
        if let Some(Due::Wake(present)) = self.due.get_mut(&key) {
            present.clone_from(waker);
        }
    }

    /// Jumps to the next entry that is due by `until` and takes it out.
    pub(crate) fn next(&mut self, until: Instant) -> Option<Due> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= until)?;
        let ((when, _), due) = entry.remove_entry();
        self.now = when;
        Some(due)
    }

    /// Lets time pass to `until`, when nothing is due before.
    pub(crate) fn pass(&mut self, until: Instant) {
        self.now = self.now.max(until);
    }

    /// Takes all entries out, to break what they keep alive.
    pub(crate) fn clear(&mut self) -> BTreeMap<DueKey, Due> {
        std::mem::take(&mut self.due)
    }
}
