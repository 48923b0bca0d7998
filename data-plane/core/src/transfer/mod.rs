//! Mail that waits at one host and can leave from another only goes there: the words of giver and taker.
//!
//! ```text
//! giver:  wait --Offer--> bound (noted, durable) --parcel--> taker: store, durable --Taken--> giver: Given (noted), released
//!                            \ no answer: the same jobs, to the same host, again
//!                            \ Kept: wait again (noted)
//! ```
//!
//! Invariants worth naming: a job that is bound is offered to the one host that it is bound to, and sent by nobody here,
//! also after a restart, until that host has said whether it took it; a host takes a job once, whatever is repeated; a
//! shard has one offer without an answer at most. Absent here: which mail goes where ([`crate::shard`]), and how it gets
//! there (the pumps).

pub mod givers;
pub mod parcel;

use std::collections::BTreeSet;
use std::net::IpAddr;

use postrail_schema::allocation::HostName;
use postrail_schema::ids::MessageId;

use crate::spool::Location;

/// What is known of the other hosts of this host's region.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Neighbours {
    /// This host itself is being emptied: what waits here goes elsewhere, whether it could leave from here or not.
    pub is_leaving: bool,
    /// This host is given addresses, whether it may use them at present or not.
    pub has_addresses: bool,
    /// Another host that is being emptied as well is given addresses, by which it accepts mail if no other does.
    pub is_other_kept: bool,
    /// By name; those that are dead or drained included, until an operator has had them forgotten.
    pub hosts: Vec<Neighbour>,
}

impl Neighbours {
    /// Whether this host is being emptied, and another would accept the mail that is submitted here: one that takes mail, or
    /// else one that is being emptied as well and, unlike this one, has addresses to send it from.
    pub fn is_replaced(&self) -> bool {
        let takes = || self.hosts.iter().any(|host| host.takes);
        self.is_leaving && (takes() || self.is_other_kept && !self.has_addresses)
    }
}

/// Another host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pub name: HostName,
    /// It runs, and nobody empties it.
    pub takes: bool,
    /// The addresses that it is granted.
    pub addresses: BTreeSet<IpAddr>,
}

/// Jobs for another host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    pub to: HostName,
    /// Grows with each offer of a shard, repeated ones included, over its restarts.
    pub turn: u64,
    /// The giver is being emptied: the taker takes what it cannot send at present, too.
    pub is_leaving: bool,
    pub jobs: Vec<OfferedJob>,
}

/// One of them, as it is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OfferedJob {
    pub message: MessageId,
    pub at: Location,
    /// [`crate::mail::Job::hop`] here; at the taker it is one more.
    pub hop: u16,
    /// It was noted as bound already.
    pub is_noted: bool,
}

/// What an offer came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// One fate a job, in the order of the offer.
    Fates(Vec<Fate>),
    /// Whether the other host has taken any of it is not known. `turn`: the last one that it knows of, if it told.
    Unknown { turn: Option<u64> },
}

/// What became of a job that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is durable there, and the taker's from now on.
    Taken,
    /// The other host does not have it, and will not by this offer.
    Kept(KeptReason),
}

/// Why a host did not take a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeptReason {
    /// It is stopping, or being emptied itself.
    Leaving,
    /// It has no room: in memory, or on its disk.
    NoRoom,
    /// The address is not there either, as far as it knows.
    NotHere,
    /// It does not know the tenant yet, or the tenant is another region's.
    Unknown,
    /// It cannot read what was sent; it is of another version.
    Unreadable,
    /// Here it could not be read, so it was not sent.
    NotSent,
}

impl KeptReason {
    /// The word in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leaving => "leaving",
            Self::NoRoom => "no_room",
            Self::NotHere => "not_here",
            Self::Unknown => "unknown_tenant",
            Self::Unreadable => "unreadable",
            Self::NotSent => "not_sent",
        }
    }
}

/// What the journal is told of a job's way, beside events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    pub message: MessageId,
    /// Of the job as it was here.
    pub hop: u16,
    pub kind: NoteKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoteKind {
    /// From here on nobody but this host may be offered it.
    Bound(HostName),
    /// It did not take it.
    Kept,
    /// It did: nothing of it is this host's any more.
    Given,
    /// It came from another host, which may ask again whether it did.
    Taken,
}
