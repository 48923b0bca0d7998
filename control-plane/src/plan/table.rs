//! The records of desired state by id: a [`Table`](postrail_schema::table) whose records are shared as well, so that a
//! change edits a copy of all desired state and pays for what it edits.

use std::borrow::Borrow;
use std::ops::{Index, RangeBounds};
use std::sync::Arc;

/// See the module head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Table<K: Ord, V>(postrail_schema::table::Table<K, Arc<V>>);

/// Key, what it had, what it has.
pub(crate) type Change<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

impl<K: Ord + Clone, V> Table<K, V> {
    pub(crate) fn insert(&mut self, id: K, record: V) {
        self.0.insert(id, Arc::new(record));
    }

    pub(crate) fn remove(&mut self, id: &K) -> Option<Arc<V>> {
        self.0.remove(id)
    }
}

impl<K: Ord, V: Eq> Table<K, V> {
    /// What differs from `former`, ascending.
    pub(crate) fn changes<'a>(&'a self, former: &'a Self) -> Vec<Change<'a, K, V>> {
        let changes = self.0.changes(&former.0).into_iter();
        changes.map(|(id, was, is)| (id, was.map(|was| &**was), is.map(|is| &**is))).collect()
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
        self.0.get_mut(id).map(Arc::make_mut)
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

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Default::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_edited_by_itself_and_shares_its_records() {
        let mut table = Table::default();
        (0..3).for_each(|id| table.insert(id, format!("record {id}")));
        let former = table.clone();
        assert!(table.remove(&7).is_none() && table.0.is_shared_with(&former.0), "nothing was edited");
        table.insert(1, "another".to_owned());
        assert!(table.remove(&2).is_some());
        assert_eq!(table.values().collect::<Vec<_>>(), ["record 0", "another"]);
        assert_eq!(former.range(1..).map(|(_, record)| record).collect::<Vec<_>>(), ["record 1", "record 2"]);
        assert!(Arc::ptr_eq(&table.0[&0], &former.0[&0]), "the record is not copied");
    }
}
