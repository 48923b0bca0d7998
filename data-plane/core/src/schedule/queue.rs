//! Groups that wait for their due time, in order of it.
//!
//! A heap of (due, item) with the place of every item beside it: 20 octets an item, whatever the order in which items
//! come and go. Items are small numbers (slab keys): the places are an array over them.

use crate::base::Instant;

/// Children of a place of the heap: four of them share a cache line.
const CHILDREN: usize = 4;
/// The place of an item that is not in the heap.
const NOWHERE: u32 = u32::MAX;
/// An array that is used to less than a quarter gives room back, from this many entries on.
const ROOM_KEPT: usize = 4_096;

/// A set of (due, item), with each item at most once; among equal times the lower item is first.
#[derive(Debug, Default)]
pub struct ScheduledQueue {
    heap: Vec<Entry>,
    /// By item, where it is in the heap.
    places: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Entry {
    due: Instant,
    item: u32,
}

impl ScheduledQueue {
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Adds an item.
    ///
    /// # Panics
    /// If it waits already.
    pub fn insert(&mut self, due: Instant, item: u32) {
        let index = item as usize;
        if self.places.len() <= index {
            self.places.resize(index + 1, NOWHERE);
        }
        assert_eq!(self.places[index], NOWHERE, "an item waits once");
        self.heap.push(Entry { due, item });
        self.rise(self.heap.len() - 1);
    }

    /// Whether the entry was there.
    pub fn remove(&mut self, due: Instant, item: u32) -> bool {
        let place = self.places.get(item as usize).copied().unwrap_or(NOWHERE) as usize;
        let found = self.heap.get(place).is_some_and(|entry| *entry == Entry { due, item });
        if found {
            self.take(place);
        }
        found
    }

    /// The earliest item that is due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        if self.next_due()? > now {
            return None;
        }
        Some(self.take(0).item)
    }

    /// When the earliest item is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.due)
    }

    fn take(&mut self, place: usize) -> Entry {
        let taken = self.heap.swap_remove(place);
        self.places[taken.item as usize] = NOWHERE;
        if place < self.heap.len() {
            let settled = self.rise(place);
            self.sink(settled);
        }
        if self.heap.capacity() > ROOM_KEPT && self.heap.len() < self.heap.capacity() / 4 {
            self.heap.shrink_to(self.heap.len() * 2);
        }
        taken
    }

    /// Moves the entry at `place` up to where it belongs, and notes its place.
    fn rise(&mut self, mut place: usize) -> usize {
        let entry = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / CHILDREN;
            if self.heap[parent] <= entry {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
        place
    }

    /// Moves the entry at `place` down to where it belongs, and notes its place.
    fn sink(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let children = place * CHILDREN + 1..(place * CHILDREN + 1 + CHILDREN).min(self.heap.len());
            let Some(least) = children.min_by_key(|child| self.heap[*child]) else { break };
            if self.heap[least] >= entry {
                break;
            }
            self.put(place, self.heap[least]);
            place = least;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.heap[place] = entry;
        self.places[entry.item as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn it_behaves_as_a_sorted_set(steps in prop::collection::vec((0..3_u8, 0..40_u32, 0..50_u64), 0..400)) {
            let mut queue = ScheduledQueue::default();
            let mut model: BTreeSet<(Instant, u32)> = BTreeSet::new();
            for (what, item, time) in steps {
                let due = Instant::from_nanos(time);
                match what {
                    0 => {
                        if !model.iter().any(|(_, known)| *known == item) {
                            model.insert((due, item));
                            queue.insert(due, item);
                        }
                    }
                    1 => {
                        let known = model.iter().find(|(_, known)| *known == item).copied().unwrap_or((due, item));
                        prop_assert_eq!(queue.remove(known.0, item), model.remove(&known));
                    }
                    _ => {
                        let first = model.first().copied().filter(|(first, _)| *first <= due);
                        if let Some(first) = first {
                            model.remove(&first);
                        }
                        prop_assert_eq!(queue.pop_due(due), first.map(|(_, item)| item));
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.next_due(), model.first().map(|(due, _)| *due));
            }
        }
    }
}
