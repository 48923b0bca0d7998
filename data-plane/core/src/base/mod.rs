//! What everything else stands on: time as values, seeded randomness, maps without hidden entropy, secrets.

mod collections;
mod random;
mod secret;
mod time;

pub use collections::{IndexTable, Map, MapSeed, Set};
pub use random::Random;
pub use secret::Secret;
pub use time::{Instant, Moment, Timestamp};
