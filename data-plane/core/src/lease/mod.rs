//! The addresses that this host may use, and until when: the host's side of the allocation.
//!
//! ```text
//!            read                 not alive, or nobody           a lease after the first keepalive
//! reading ---------> watching ------------------------> waiting ----------------------------> live --> stopping --> stopped
//!                    (the record of another process)       |  ^                                |
//!                                                          |  +- a gap, or the store lost ours -+
//!                                                          +---- another process's record ----+---> ousted
//!
//! of one address:  announced --(put on)--> held --(asked back)--> releasing --(nothing in flight, taken off)--> released
//!                                           |  ^
//!                                 (lapses)  v  | (a keepalive got through)
//!                                          taken off
//! ```
//!
//! A *keepalive* is a write of the host's record under the condition that nobody else has written it since. What is held
//! by lease is held until the lease after the moment the last keepalive **was sent** that is known to be written, less a
//! margin. To use an address means to start a connection or a transaction on it; [`Held::may_use`] is asked before each.
//!
//! Time is CLOCK_BOOTTIME since boot, a [`Duration`] so that it is never mixed up with the monotonic
//! [`Instant`](crate::base::Instant), which stands still while a host sleeps.
//!
//! Invariants worth naming:
//! - a keepalive counts only together with a view of the grants that is at least as new as it, and has it,
//! - nothing is used before the holding of a process that had this name before has certainly ended,
//! - nothing is used by what a store says that has lost what was written to it, or may have, before the holding of whoever was
//!   given it in the meantime has certainly ended,
//! - what was released under an epoch is never used under it again, unless the store has lost that,
//! - a fixed grant is used without keepalives, and given up only when asked.
//!
//! Deliberately absent: sockets, the store, netlink: the pump has them. Whether an address is *needed* nobody asks here.

mod held;
mod machine;
mod nic;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use postrail_schema::allocation::{Announcement, Carrier, Grant, HostRecord};
use postrail_schema::limits::{ADDRESS_KEEPALIVES, ADDRESS_LEASE, ADDRESS_LEASE_MARGIN, ADDRESS_RELEASE_PATIENCE};

pub use held::{Held, Holding, moved_connections};
pub use machine::Lease;

/// What a host is set to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Drawn anew by each process.
    pub incarnation: u64,
    /// Which run of a kernel counts the time; empty: not known.
    pub boot: String,
    pub announcement: Announcement,
    /// From when a keepalive is sent until what is held may pass on.
    pub lease: Duration,
    /// By how much less this host holds.
    pub margin: Duration,
    /// How long what is in flight may last on an address that is asked back.
    pub patience: Duration,
}

impl Settings {
    /// The default times.
    pub fn new(incarnation: u64, announcement: Announcement) -> Self {
        Self {
            incarnation,
            boot: String::new(),
            announcement,
            lease: ADDRESS_LEASE,
            margin: ADDRESS_LEASE_MARGIN,
            patience: ADDRESS_RELEASE_PATIENCE,
        }
    }

    /// The time between two keepalives. The pump waits no longer for the store's answer.
    pub fn period(&self) -> Duration {
        self.lease / ADDRESS_KEEPALIVES
    }
}

/// This host's keys as the store had them at one of its revisions, not before they were asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    pub revision: u64,
    /// The host's record, with the revision that wrote it.
    pub record: Option<(u64, HostRecord)>,
    pub grants: Vec<Grant>,
}

/// What the machine is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// The answer to [`Output::Read`].
    Found(View),
    /// The record was written by `revision`, and `view` was read in the same transaction or after it.
    Written {
        revision: u64,
        view: View,
    },
    /// The condition of a write did not hold; nothing was written.
    Refused,
    /// A read or write failed, or was not answered in time: whether it was done is not known.
    Failed,
    /// The grants may have changed.
    Look,
    /// The address is on its interface and announced.
    Up {
        address: IpAddr,
    },
    /// The address is not on its interface: it was taken off, or could not be put on.
    Down {
        address: IpAddr,
    },
    /// Nothing is in flight any more on an address of [`Output::End`].
    Ended {
        address: IpAddr,
        epoch: u64,
    },
    /// The addresses that this host has by its own configuration are these now; the next keepalive says it.
    Own(BTreeSet<IpAddr>),
    /// Give everything up in order.
    Stop,
    Timeout,
}

/// What the pump is asked to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Read the host's record and grants, both not older than now.
    Read,
    /// Write the record if the present one was written by `guard` (0: if there is none), and read the grants.
    Write { guard: u64, record: HostRecord },
    /// Put an address on. The interface may keep it by itself until `until` at most (`None`: for good).
    PutOn { address: IpAddr, carrier: Carrier, until: Option<Duration> },
    /// These leased addresses may stay on until then.
    Extend { addresses: Vec<IpAddr>, until: Duration },
    /// Take it off, and cut what is still on it. Where this process has not put it on, an earlier one may have, as
    /// `carrier` says.
    TakeOff { address: IpAddr, carrier: Carrier },
    /// Say [`Input::Ended`] when nothing is in flight on it; nothing new begins.
    End { address: IpAddr, epoch: u64 },
    /// Keep these fixed grants over a restart, durably before anything that follows is done.
    Remember(Vec<Grant>),
    /// What may be used from now on.
    Use(Held),
    /// The store has lost what this process had written: it was restored from a snapshot, or begins anew. What is leased is
    /// not used for a lease.
    StoreLost,
    /// Another process that is alive has this host's name; this one waits.
    NameInUse { incarnation: u64 },
    /// Another process took this host's name; this machine is done.
    Ousted { incarnation: u64 },
    /// Everything is given up; this machine is done.
    Stopped,
}

/// Where the machine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateName {
    Reading,
    Watching,
    Waiting,
    Live,
    Stopping,
    Stopped,
    Ousted,
}

#[cfg(test)]
mod tests;
