//! Records by id, cheap to copy: copies share their records, and the table itself until one of them is edited.
//!
//! A change edits a copy of all desired state. With this it pays for the table that it edits (pointers, not records), and
//! for nothing that it leaves alone.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::{Index, RangeBounds};
use std::sync::Arc;

/// See the module head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Table<K, V>(Arc<BTreeMap<K, Arc<V>>>);

impl<K: Ord + Clone, V> Table<K, V> {
    pub(crate) fn insert(&mut self, id: K, record: V) {
        Arc::make_mut(&mut self.0).insert(id, Arc::new(record));
    }

    pub(crate) fn remove(&mut self, id: &K) -> Option<Arc<V>> {
        // A table without it stays shared.
        self.0.contains_key(id).then(|| Arc::make_mut(&mut self.0).remove(id)).flatten()
    }
}

impl<K: Ord, V> Table<K, V> {
    pub(crate) fn get<Q: Ord + ?Sized>(&self, id: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(id).map(|record| &**record)
    }

    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, id: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The records, ascending by id.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().map(|record| &**record)
    }

    pub(crate) fn range(&self, ids: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.0.range(ids).map(|(id, record)| (id, &**record))
    }
}

#[cfg(test)]
impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// What tests break on purpose.
    pub(crate) fn get_mut(&mut self, id: &K) -> Option<&mut V> {
        Arc::make_mut(&mut self.0).get_mut(id).map(Arc::make_mut)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<K: Ord, V> Index<&K> for Table<K, V> {
    type Output = V;

    fn index(&self, id: &K) -> &V {
        &self.0[id]
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_edited_by_itself_and_shares_what_it_leaves_alone() {
        let mut table = Table::default();
        (0..3).for_each(|id| table.insert(id, format!("record {id}")));
        let former = table.clone();
        assert!(table.remove(&7).is_none() && Arc::ptr_eq(&table.0, &former.0), "nothing was edited");
        table.insert(1, "another".to_owned());
        assert!(table.remove(&2).is_some());
        assert_eq!(table.values().collect::<Vec<_>>(), ["record 0", "another"]);
        assert_eq!(former.range(1..).map(|(_, record)| record).collect::<Vec<_>>(), ["record 1", "record 2"]);
        assert!(Arc::ptr_eq(&table.0[&0], &former.0[&0]), "the record is not copied");
    }
}
