//! Records in the order of their keys, cheap to copy and cheap to copy with a change: copies share what is equal in both.
//!
//! ```text
//! slots (shared)   from a -> leaf   from f -> leaf   from p -> leaf
//! leaf  (shared)   a b d            f g h k          p r
//! ```
//!
//! Both planes go from one state to the next and keep the former one until the next is in effect. A change copies the leaf
//! that it is in and the list of leaves; the others stay where they are, and [`Table::changes`] skips them when it looks
//! for what differs. Invariants worth naming: leaves are in order and never empty; every key of a leaf is at least what
//! its slot says, but for those of the first. A look-up is two binary searches. Deliberately absent: a tree of more
//! levels, since the bounds of [`limits`](crate::limits) make a list of leaves small.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::ops::{Bound, Index, RangeBounds};
use std::sync::Arc;

/// See the module head. `V` is copied when its leaf is, so a large record is an `Arc` of one.
#[derive(Clone)]
pub struct Table<K, V> {
    slots: Arc<Vec<Slot<K, V>>>,
    len: usize,
}

#[derive(Clone)]
struct Slot<K, V> {
    /// No key of the leaf is smaller, unless the slot is the first.
    from: K,
    leaf: Arc<Vec<(K, V)>>,
}

impl<K: Ord, V> Table<K, V> {
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let leaf = &self.slots.get(self.slot_of(key))?.leaf;
        let at = find(leaf, key).ok()?;
        leaf.get(at).map(|(_, value)| value)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().flat_map(|slot| slot.leaf.iter()).map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// What has its key within `keys`, ascending.
    pub fn range(&self, keys: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        let (slot, before) = match keys.start_bound() {
            Bound::Included(key) => self.place(key, |found| found < key),
            Bound::Excluded(key) => self.place(key, |found| found <= key),
            Bound::Unbounded => (0, 0),
        };
        let leaves = self.slots.iter().skip(slot).flat_map(|slot| slot.leaf.iter());
        let within = leaves.skip(before).take_while(move |(key, _)| match keys.end_bound() {
            Bound::Included(last) => key <= last,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        });
        within.map(|(key, value)| (key, value))
    }

    /// Whether both are one table in memory, and so equal.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slots, &other.slots)
    }

    /// The slot that has `key`, if any does.
    fn slot_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.slots.partition_point(|slot| slot.from.borrow() <= key).saturating_sub(1)
    }

    /// The slot that `key` belongs to, and how many of its records come first by `is_before`.
    fn place(&self, key: &K, is_before: impl Fn(&K) -> bool) -> (usize, usize) {
        let slot = self.slot_of(key);
        let before = self.slots.get(slot).map_or(0, |slot| slot.leaf.partition_point(|(found, _)| is_before(found)));
        (slot, before)
    }
}

impl<K: Ord, V: PartialEq> Table<K, V> {
    /// What was added, replaced or removed since `former`, ascending: the key, what it had there, and what it has here.
    pub fn changes<'a>(&'a self, former: &'a Self) -> Vec<(&'a K, Option<&'a V>, Option<&'a V>)> {
        if self.is_shared_with(former) {
            return Vec::new();
        }
        let leaves = |table: &Self| table.slots.iter().map(|slot| Arc::as_ptr(&slot.leaf)).collect::<HashSet<_>>();
        let (here, there) = (leaves(self), leaves(former));
        let own = |slot: &&Slot<K, V>, other: &HashSet<_>| !other.contains(&Arc::as_ptr(&slot.leaf));
        let mut left = former.slots.iter().filter(|slot| own(slot, &here)).flat_map(|slot| slot.leaf.iter()).peekable();
        let mut right = self.slots.iter().filter(|slot| own(slot, &there)).flat_map(|slot| slot.leaf.iter()).peekable();
        let mut changes = Vec::new();
        while let Some(order) = order(left.peek(), right.peek()) {
            let was = (order != Ordering::Greater).then(|| left.next()).flatten();
            let is = (order != Ordering::Less).then(|| right.next()).flatten();
            let Some((key, _)) = was.or(is) else { break };
            let (was, is) = (was.map(|(_, value)| value), is.map(|(_, value)| value));
            if was != is {
                changes.push((key, was, is));
            }
        }
        changes
    }
}

/// Which of two records comes first; `None`: there is none.
fn order<K: Ord, V>(left: Option<&&(K, V)>, right: Option<&&(K, V)>) -> Option<Ordering> {
    match (left, right) {
        (None, None) => None,
        (Some(_), None) => Some(Ordering::Less),
        (None, Some(_)) => Some(Ordering::Greater),
        (Some((left, _)), Some((right, _))) => Some(left.cmp(right)),
    }
}

fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(leaf: &[(K, V)], key: &Q) -> Result<usize, usize> {
    leaf.binary_search_by(|(found, _)| found.borrow().cmp(key))
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// What `key` had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.slot_of(&key);
        let slots = Arc::make_mut(&mut self.slots);
        let Some(slot) = slots.get_mut(at) else {
            slots.push(Slot { from: key.clone(), leaf: Arc::new(vec![(key, value)]) });
            self.len = 1;
            return None;
        };
        let leaf = Arc::make_mut(&mut slot.leaf);
        let before = match find(leaf, &key) {
            Ok(found) => return Some(std::mem::replace(&mut leaf[found].1, value)),
            Err(before) => before,
        };
        self.len += 1;
        leaf.insert(before, (key, value));
        if leaf.len() > LEAF_MAX {
            // Behind the last key nothing is left to come between: what comes in order fills whole leaves.
            let is_last = before == LEAF_MAX && at + 1 == slots.len();
            let rest = slots[at].split(if is_last { LEAF_MAX } else { LEAF_MAX / 2 });
            slots.insert(at + 1, rest);
        }
        None
    }

    /// What `key` had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.slot_of(key);
        // A table without it stays shared.
        let found = find(&self.slots.get(at)?.leaf, key).ok()?;
        self.len -= 1;
        let slots = Arc::make_mut(&mut self.slots);
        let leaf = Arc::make_mut(&mut slots[at].leaf);
        let (_, value) = leaf.remove(found);
        let is_small = leaf.len() < LEAF_MAX / 4;
        if leaf.is_empty() {
            slots.remove(at);
        } else if is_small && at > 0 && slots[at - 1].leaf.len() + slots[at].leaf.len() <= LEAF_MAX / 2 {
            let slot = slots.remove(at);
            Arc::make_mut(&mut slots[at - 1].leaf).extend(slot.leaf.iter().cloned());
        }
        Some(value)
    }

    /// The value of `key`, for changing it.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.slot_of(key);
        let found = find(&self.slots.get(at)?.leaf, key).ok()?;
        let slot = &mut Arc::make_mut(&mut self.slots)[at];
        Some(&mut Arc::make_mut(&mut slot.leaf)[found].1)
    }
}

impl<K: Clone, V: Clone> Slot<K, V> {
    /// Leaves the first `first` records, and gives the others.
    fn split(&mut self, first: usize) -> Self {
        let rest = Arc::make_mut(&mut self.leaf).split_off(first);
        Self { from: rest[0].0.clone(), leaf: Arc::new(rest) }
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Table<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, records: I) {
        for (key, value) in records {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(records: I) -> Self {
        let mut table = Self::default();
        table.extend(records);
        table
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for Table<K, V> {
    fn from(records: [(K, V); N]) -> Self {
        records.into_iter().collect()
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { slots: Arc::default(), len: 0 }
    }
}

impl<K: Ord, V> Index<&K> for Table<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the table has a record with this key")
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && (self.is_shared_with(other) || self.iter().eq(other.iter()))
    }
}

impl<K: Ord, V: Eq> Eq for Table<K, V> {}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Records of a leaf: what a change copies, beside one slot a leaf.
const LEAF_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Step = (u16, Option<u8>);

    fn take(table: &mut Table<u16, u8>, (key, value): Step) -> Option<u8> {
        match value {
            Some(value) => table.insert(key, value),
            None => table.remove(&key),
        }
    }

    fn check(table: &Table<u16, u8>) {
        assert_eq!(table.slots.iter().map(|slot| slot.leaf.len()).sum::<usize>(), table.len());
        for (at, slot) in table.slots.iter().enumerate() {
            assert!((1..=LEAF_MAX).contains(&slot.leaf.len()));
            assert!(at == 0 || slot.leaf.iter().all(|(key, _)| *key >= slot.from));
        }
        assert!(table.keys().is_sorted_by(|a, b| a < b));
    }

    proptest! {
        #[test]
        fn a_table_does_what_an_ordered_map_does(
            steps in prop::collection::vec((0..400_u16, prop::option::weighted(0.6, any::<u8>())), 0..1_500),
            bounds in prop::collection::vec((0..400_u16, 0..400_u16), 1..8),
        ) {
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            for (key, value) in steps {
                let was = match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
                prop_assert_eq!(take(&mut table, (key, value)), was);
            }
            check(&table);
            prop_assert!(table.iter().eq(map.iter()));
            prop_assert!((0..400).all(|key| table.get(&key) == map.get(&key)));
            for (a, b) in bounds {
                let (low, high) = (a.min(b), a.max(b));
                prop_assert!(table.range(low..=high).eq(map.range(low..=high)));
                prop_assert!(table.range(low..high).eq(map.range(low..high)));
                prop_assert!(table.range(low..).eq(map.range(low..)));
            }
        }

        #[test]
        fn changes_are_what_differs_and_the_former_table_stays_as_it_was(
            first in prop::collection::vec((0..2_000_u16, any::<u8>()), 0..1_500),
            steps in prop::collection::vec((0..2_000_u16, prop::option::weighted(0.6, any::<u8>())), 0..300),
        ) {
            let former: Table<_, _> = first.iter().copied().collect();
            let map: BTreeMap<_, _> = first.into_iter().collect();
            let mut table = former.clone();
            steps.into_iter().for_each(|step| { take(&mut table, step); });
            check(&table);
            prop_assert!(former.iter().eq(map.iter()));
            let differs = |key: &u16| former.get(key) != table.get(key);
            let wanted: Vec<_> = (0..2_000).filter(differs).collect();
            let found = table.changes(&former);
            prop_assert_eq!(found.iter().map(|(key, ..)| **key).collect::<Vec<_>>(), wanted);
            prop_assert!(found.iter().all(|(key, was, is)| (former.get(key), table.get(key)) == (*was, *is)));
        }
    }

    #[test]
    fn one_changed_record_copies_one_leaf_and_an_absent_one_none() {
        let former: Table<u32, u32> = (0..10_000).map(|id| (id, id)).collect();
        assert_eq!(former.slots.len(), 10_000_usize.div_ceil(LEAF_MAX), "what comes in order fills its leaves");
        let mut table = former.clone();
        assert_eq!(table.remove(&20_000), None);
        assert!(table.is_shared_with(&former));
        table.insert(5_000, 1);
        let own = |(a, b): &(&Slot<_, _>, &Slot<_, _>)| !Arc::ptr_eq(&a.leaf, &b.leaf);
        assert_eq!(table.slots.iter().zip(former.slots.iter()).filter(own).count(), 1);
        assert_eq!(table.changes(&former), [(&5_000, Some(&5_000), Some(&1))]);
    }
}
