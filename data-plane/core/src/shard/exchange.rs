//! What a shard is told and what it asks for: the words between the core and its pumps.
//!
//! Absent here: what becomes of them.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use postrail_schema::event::{Event, EventBrief};
use postrail_schema::ids::{MessageId, RecipientIndex, ShardId, SourceId};
use postrail_schema::snapshot::Snapshot;
use postrail_schema::tls::TlsPolicy;
use smallvec::SmallVec;

use super::{HandBack, Work};
use crate::dns::{DnsFailure, MailHosts};
use crate::egress::{Capabilities, SessionEnd, TransactionOutcome};
use crate::events::dsn::ReportRequest;
use crate::lease::Held;
use crate::mail::{Domain, Job};
use crate::rules::SourceOwners;
use crate::spool::{JobMeta, Location};
use crate::transfer::{Answer, Neighbours, Note, Offer};

/// What a shard is made with.
#[derive(Clone, Debug)]
pub struct Config {
    pub shard: ShardId,
    pub shards: u16,
    /// Entropy of the platform.
    pub seed: u64,
    /// Addresses whose shard the operator has named.
    pub owners: SourceOwners,
    /// Addresses move between hosts: only what [`Input::Held`] names is used, and nothing before the first.
    pub is_leasing: bool,
}

/// What happens to a shard.
#[derive(Debug)]
pub enum Input {
    /// A new configuration is in effect.
    Snapshot(Arc<Snapshot>),
    /// What is held of the addresses that move, of a host where they do.
    Held(Held),
    /// A job is durable at `at`.
    Accepted { job: Arc<Job>, at: Location },
    /// An event of the journal, in order, before the first `Recovered`.
    Replayed(EventBrief),
    /// A note of the journal, in order with the others, before the first `Recovered`.
    ReplayedNote(Note),
    /// A job that the spool held when it was opened.
    Recovered { meta: Box<JobMeta>, at: Location },
    /// Every job has been recovered.
    RecoveryDone,
    /// Compaction moved a job.
    Moved { message: MessageId, to: Location },
    /// The answer to [`Output::Resolve`].
    Resolved { domain: u32, result: Result<Rc<MailHosts>, DnsFailure> },
    /// A session is connected and wants a transaction.
    Ready { session: u32, capabilities: Arc<Capabilities> },
    /// The answer to [`Output::Load`].
    Loaded { attempt: u32, result: Result<Arc<Job>, String> },
    /// How a transaction ended, one outcome a recipient.
    Outcome { session: u32, outcome: TransactionOutcome },
    /// A session is gone. Its transaction's outcome, if it had one, came before.
    Ended { session: u32, end: SessionEnd },
    /// What is known of the other hosts of the region, of a host where addresses move.
    Neighbours(Arc<Neighbours>),
    /// The answer to [`Output::Offer`].
    Answered { turn: u64, answer: Answer },
    /// Another shard asks us to deliver from a source that we own.
    Hand(Box<Work>),
    /// Another shard wants its work of that job back.
    Recall(MessageId),
    /// What became of work that we handed over.
    HandBack(Box<HandBack>),
    /// Finish what is under way, start nothing new.
    Drain,
    /// The time that [`super::Shard::deadline`] named has come.
    Timeout,
}

/// What a shard asks of its pumps.
#[derive(Debug)]
pub enum Output {
    /// Look up where mail for `domain` goes; answer with [`Input::Resolved`].
    Resolve {
        domain: u32,
        lookup: Lookup,
    },
    /// Open a session; it reports with [`Input::Ready`] and, at last, [`Input::Ended`].
    Open {
        session: u32,
        plan: Box<SessionPlan>,
    },
    /// Read a job from the spool; answer with [`Input::Loaded`].
    Load {
        attempt: u32,
        at: Location,
    },
    /// Render, sign and send; answer with [`Input::Outcome`].
    Transact {
        session: u32,
        transact: Box<Transact>,
    },
    /// Close an idle session; it answers with [`Input::Ended`].
    Quit {
        session: u32,
    },
    /// Store the report, if there is one and it is due; then make events and notes durable; then release what is
    /// finished.
    Record(Box<Record>),
    Hand {
        to: ShardId,
        work: Box<Work>,
    },
    /// Tell every other shard: one of them may have work of the job.
    Recall(MessageId),
    HandBack {
        to: ShardId,
        back: Box<HandBack>,
    },
    /// Note that the jobs are bound, then offer them to the other host; answer with [`Input::Answered`].
    Offer(Box<Offer>),
}

/// A question to the resolver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lookup {
    /// The domain whose MX set is wanted: the recipient's, or a routing domain.
    pub name: Domain,
    pub allow_private: bool,
}

/// What a new session connects to.
#[derive(Clone, Debug)]
pub struct SessionPlan {
    pub source: SourceId,
    pub address: IpAddr,
    pub ehlo_name: String,
    pub hosts: Rc<MailHosts>,
    pub port: u16,
    pub mails_max: u32,
    /// What a connection has to meet; the hosts are those that it allows.
    pub tls: TlsPolicy,
}

/// One transaction to send on a session.
#[derive(Clone, Debug)]
pub struct Transact {
    pub attempt: u32,
    pub job: Arc<Job>,
    pub entry: u16,
    pub recipients: SmallVec<[RecipientIndex; 4]>,
    /// None of them was tried before.
    pub first: bool,
    pub snapshot: Arc<Snapshot>,
}

/// What became of recipients, to be made durable.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub events: Vec<Event>,
    /// Of jobs on their way to other hosts.
    pub notes: Vec<Note>,
    /// Jobs whose last recipient settles with these events, and jobs that are given with these notes.
    pub finished: Vec<(MessageId, Location)>,
    /// What the sender is told; `at` is where the job it is about can be read.
    pub report: Option<(Location, ReportRequest)>,
}

/// Counters for metrics; each only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub accepted: u64,
    pub delivered: u64,
    pub deferred: u64,
    pub bounced: u64,
    pub expired: u64,
    pub suppressed: u64,
    pub cancelled: u64,
    pub attempts: u64,
    /// Those of them that were begun while others were under way on their session.
    pub pipelined: u64,
    pub connections: u64,
    pub handed: u64,
    /// Recipients whose job another host has taken, and those of jobs taken from others.
    pub given: u64,
    pub taken: u64,
}
