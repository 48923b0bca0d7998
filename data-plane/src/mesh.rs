//! What crosses between threads: work for the shard that owns a source address, questions of the admin listener, new
//! configuration, and the order to drain.
//!
//! Each shard has one inbox; the channel is runtime-neutral, so the simulator uses it unchanged. Work is bounded by
//! `limits::MESH_IN_FLIGHT_MAX` at its origin, questions by the admin listener's connections.

use std::net::IpAddr;
use std::sync::Arc;

use async_channel::{Receiver, Sender};
use postrail_core::http::Response;
use postrail_core::lease::Held;
use postrail_core::shard::{
    BeingMoved, Command, Counters, HandBack, Leaving, MessageView, QuarantinePage, QuarantineQuery, QueueView, Work,
};
use postrail_core::transfer::parcel::Parcel;
use postrail_core::transfer::{Fate, Neighbours};
use postrail_schema::ids::{MessageId, ShardId};
use postrail_schema::snapshot::Snapshot;

use crate::intake::rest::Forwarded;
use crate::journal::{Cursor, PullError};
use crate::transfer::{Arrival, Arrived};

/// Something for a shard.
#[derive(Debug)]
pub enum Letter {
    Hand(Box<Work>),
    /// Work of that job is to come back.
    Recall(MessageId),
    HandBack(Box<HandBack>),
    Snapshot(Arc<Snapshot>),
    /// What is held of the addresses that move.
    Held(Held),
    /// What is known of the other hosts of the region.
    Neighbours(Arc<Neighbours>),
    Ask(Question, Sender<Reply>),
    Drain,
}

/// A question of the admin listener.
#[derive(Clone, Debug)]
pub enum Question {
    /// Events after the cursor; waits up to so many milliseconds for the first.
    Pull {
        cursor: Cursor,
        bytes_max: usize,
        wait_ms: u64,
    },
    /// The ledger holds everything before the cursor.
    Trim {
        cursor: Cursor,
    },
    Queue,
    /// What waits for a person.
    Quarantine(QuarantineQuery),
    /// How many outgoing sessions there are from an address.
    Sessions(IpAddr),
    Message(MessageId),
    Command(Command),
    Status,
    /// A submission whose idempotency key belongs to the asked shard.
    Submit(Box<Forwarded>),
    /// A parcel of another host, for shard 0.
    Take(Box<Parcel>),
    /// Which of these jobs the shard holds, asked for a parcel.
    Holds(Vec<(MessageId, u16)>),
    /// Jobs of a parcel whose home is the asked shard.
    Store(Box<Arrived>),
}

/// Its answer.
#[derive(Debug)]
pub enum Reply {
    Events {
        buffers: Vec<u8>,
        next: Cursor,
    },
    CursorTooOld {
        oldest: Cursor,
    },
    Unavailable(String),
    Done,
    Queue(Box<QueueView>),
    Quarantine(QuarantinePage),
    Message(Option<Box<MessageView>>),
    Affected(usize),
    BeingMoved(BeingMoved),
    Status(Box<ShardStatus>),
    Response(Box<Response>),
    Arrival(Arrival),
    /// By job, the hop of the copy that is held; `None`: not all that the shard holds has been read yet.
    Holds(Option<Vec<Option<u16>>>),
    /// One a job, in order.
    Fates(Vec<Fate>),
}

impl From<PullError> for Reply {
    fn from(error: PullError) -> Self {
        match error {
            PullError::CursorTooOld { oldest } => Self::CursorTooOld { oldest },
            PullError::Unavailable(_) => Self::Unavailable(error.to_string()),
        }
    }
}

/// What a shard says of itself, for metrics and health.
#[derive(Clone, Debug, Default)]
pub struct ShardStatus {
    pub shard: u16,
    pub counters: Counters,
    pub waiting: usize,
    pub intake_sessions: usize,
    pub revision: u64,
    pub recovering: bool,
    pub draining: bool,
    /// How far this host is emptied, if an operator wants that.
    pub leaving: Option<Leaving>,
    /// Submissions that may still be accepted.
    pub submissions: usize,
    pub spool_bytes: u64,
    pub spool_segments: usize,
    pub journal_bytes: u64,
    pub journal_unread_bytes: u64,
    /// Why intake refuses at present, if it does.
    pub refusing: Option<String>,
    /// Segments that were found damaged and set aside.
    pub damaged: usize,
}

/// The way to every shard.
#[derive(Clone, Debug)]
pub struct Mesh {
    inboxes: Arc<[Sender<Letter>]>,
}

impl Mesh {
    /// A mesh of `shards` and the inbox of each.
    pub fn new(shards: usize) -> (Self, Vec<Receiver<Letter>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| async_channel::unbounded()).unzip();
        (Self { inboxes: senders.into() }, receivers)
    }

    pub fn shards(&self) -> usize {
        self.inboxes.len()
    }

    /// Puts a letter in a shard's inbox; `false`: the shard has ended and takes none.
    pub fn send(&self, to: ShardId, letter: Letter) -> bool {
        self.inboxes.get(usize::from(to.0)).is_some_and(|inbox| inbox.try_send(letter).is_ok())
    }

    /// Whether a shard has ended.
    pub fn has_ended(&self, shard: ShardId) -> bool {
        self.inboxes.get(usize::from(shard.0)).is_none_or(Sender::is_closed)
    }

    pub fn broadcast(&self, letter: impl Fn() -> Letter) {
        for inbox in self.inboxes.iter() {
            let _ = inbox.try_send(letter());
        }
    }

    /// Asks a shard; `None`: it has ended, or there is no such shard.
    pub async fn ask(&self, shard: ShardId, question: Question) -> Option<Reply> {
        let (sender, receiver) = async_channel::bounded(1);
        self.inboxes.get(usize::from(shard.0))?.try_send(Letter::Ask(question, sender)).ok()?;
        receiver.recv().await.ok()
    }
}
