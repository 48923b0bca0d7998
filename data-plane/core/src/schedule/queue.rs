//! Groups that wait for their due time, in order of it.

use std::collections::BTreeSet;

use crate::base::Instant;

/// A set of (due, item): the time is part of the key, so an entry is removed by naming both.
#[derive(Debug, Default)]
pub struct ScheduledQueue {
    entries: BTreeSet<(Instant, u32)>,
}

impl ScheduledQueue {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn insert(&mut self, due: Instant, item: u32) {
        let new = self.entries.insert((due, item));
        assert!(new, "an item waits once");
    }

    /// Whether the entry was there.
    pub fn remove(&mut self, due: Instant, item: u32) -> bool {
        self.entries.remove(&(due, item))
    }

    /// The earliest item that is due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        if self.entries.first()?.0 > now {
            return None;
        }
        self.entries.pop_first().map(|(_, item)| item)
    }

    /// When the earliest item is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.entries.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn items_leave_in_the_order_of_their_due_times() {
        let mut queue = ScheduledQueue::default();
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        for (due, item) in [(at(3), 3), (at(1), 1), (at(2), 2)] {
            queue.insert(due, item);
        }
        assert_eq!(queue.next_due(), Some(at(1)));
        assert!(queue.remove(at(2), 2));
        assert_eq!(queue.pop_due(at(0)), None);
        assert_eq!((queue.pop_due(at(9)), queue.pop_due(at(9)), queue.pop_due(at(9))), (Some(1), Some(3), None));
    }
}
