//! Events as frames of the journal: buffers of several events in the wire form of [`postrail_schema`].
//!
//! Deliberately absent: what an event means. The shard settles recipients; the ledger keeps history.

pub mod dsn;
pub mod frame;

pub use frame::{EventTooLarge, MalformedEvents, decode, decode_briefs, encode};
