//! Mail that goes to another host, and that comes from one: the pumps of [`postrail_core::transfer`].
//!
//! ```text
//! giver:  Output::Offer -> notes durable -> jobs read -> Departure --(carrier)--> the other host
//!                                              Input::Answered <---- Arrival ----/
//! taker:  POST /transfers -> shard 0: once and in order, what do shards hold? -> home shards: store -> fates
//! ```
//!
//! How a parcel travels is not known here: whoever has the receiver of [`departures`] carries it, and answers. Invariants
//! worth naming: nothing leaves before the note of it is durable; whoever is not answered has not been refused: only an
//! answer from the other host that can be read tells what became of a job; a job is said to be taken when it is durable
//! here. Absent here: which jobs go where, and whether one may come (the core).

mod giver;
mod taker;

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use postrail_core::transfer::parcel::ParcelJob;
use postrail_schema::allocation::HostName;
use postrail_schema::limits::TRANSFERS_OUT_MAX;

/// A parcel that wants to go.
#[derive(Debug)]
pub struct Departure {
    pub to: HostName,
    pub parcel: Bytes,
    /// Takes one answer. Dropped without one: nobody knows what became of the parcel. Closed: nobody waits any more.
    pub answer: Sender<Arrival>,
}

/// What the other host said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// An answer by [`postrail_core::transfer::parcel`].
    Answered(Bytes),
    /// A parcel of the same shard is being worked on, or too many are.
    Busy,
    /// A parcel of this turn of the same shard was there, or of a later one.
    Stale { turn: u64 },
    /// It cannot say what became of the jobs.
    Refused(String),
}

/// Jobs for their home shard.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub jobs: Vec<ParcelJob>,
    /// The giver is being emptied.
    pub is_leaving: bool,
}

/// The way out of a node, for its shards and for who carries what leaves.
pub fn departures() -> (Sender<Departure>, Receiver<Departure>) {
    async_channel::bounded(TRANSFERS_OUT_MAX)
}
