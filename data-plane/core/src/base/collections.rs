//! Hash maps whose hasher is keyed from entropy that was passed in: no hidden randomness, and no key order that a
//! peer can predict.

use std::hash::Hash;

use ahash::RandomState;
use hashbrown::HashTable;

use super::Random;

/// A hash map with a keyed hasher; made by [`MapSeed::map`].
pub type Map<K, V> = hashbrown::HashMap<K, V, RandomState>;
/// A hash set with a keyed hasher; made by [`MapSeed::set`].
pub type Set<K> = hashbrown::HashSet<K, RandomState>;

/// The key of the hashers of one owner.
#[derive(Clone, Debug)]
pub struct MapSeed(RandomState);

impl MapSeed {
    /// A key drawn from `random`.
    pub fn new(random: &mut Random) -> Self {
        Self(RandomState::with_seeds(random.next_u64(), random.next_u64(), random.next_u64(), random.next_u64()))
    }

    pub fn map<K, V>(&self) -> Map<K, V> {
        Map::with_hasher(self.0.clone())
    }

    pub fn set<K>(&self) -> Set<K> {
        Set::with_hasher(self.0.clone())
    }

    pub fn index_table(&self) -> IndexTable {
        IndexTable { indexes: HashTable::new(), hasher: self.0.clone() }
    }
}

/// Finds indexes by a key that only what they point to holds: four octets an entry, where a map would hold every key a
/// second time. Made by [`MapSeed::index_table`]. Each call is told how to get the key of an index.
#[derive(Debug)]
pub struct IndexTable {
    indexes: HashTable<u32>,
    hasher: RandomState,
}

impl IndexTable {
    pub fn find<K: Hash + Eq>(&self, key: &K, key_of: impl Fn(u32) -> K) -> Option<u32> {
        self.indexes.find(self.hasher.hash_one(key), |index| key_of(*index) == *key).copied()
    }

    /// Adds an index whose key no other index has.
    pub fn insert<K: Hash>(&mut self, key: &K, index: u32, key_of: impl Fn(u32) -> K) {
        let hasher = &self.hasher;
        self.indexes.insert_unique(hasher.hash_one(key), index, |other| hasher.hash_one(key_of(*other)));
    }

    /// Takes the index of `key` out, while what it points to still is there.
    pub fn remove<K: Hash + Eq>(&mut self, key: &K, key_of: impl Fn(u32) -> K) -> Option<u32> {
        let found = self.indexes.find_entry(self.hasher.hash_one(key), |index| key_of(*index) == *key);
        found.ok().map(|entry| entry.remove().0)
    }

    pub fn len(&self) -> usize {
        self.indexes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_table_finds_by_keys_that_others_hold() {
        let keys: Vec<u64> = (0..1_000).map(|number| number * 7).collect();
        let key_of = |index: u32| keys[index as usize];
        let mut table = MapSeed::new(&mut Random::new(1)).index_table();
        for (index, key) in (0..).zip(&keys) {
            table.insert(key, index, key_of);
        }
        assert_eq!((table.find(&21, key_of), table.find(&22, key_of)), (Some(3), None));
        assert_eq!((table.remove(&21, key_of), table.remove(&21, key_of)), (Some(3), None));
        assert_eq!(table.len(), 999);
    }
}
