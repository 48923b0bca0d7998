//! Hash maps whose hasher is keyed from entropy that was passed in: no hidden randomness, and no key order that a
//! peer can predict.

use ahash::RandomState;

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
}
