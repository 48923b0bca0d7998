//! The ledger: what became of every recipient, and what grows with it (suppressions, the audit trail).
//!
//! ```text
//! Ledger   sqlite, postgres: transactions, cursors, suppressions, the audit trail
//!   |      record, read: events and recipients, common to both
//! Rows     sqlite, postgres: rows of chunks and parts
//! ```
//!
//! Events come from the journals of data planes, one a shard of a host. Invariants worth naming: a batch and the cursor behind it are
//! stored in one transaction, so that whoever crashes nothing is lost or counted twice; a settlement is never undone by a
//! later event; sequence numbers grow and are never reused. Absent here: fetching (that is `reconcile::journal`).

mod batch;
mod chunk;
#[cfg(test)]
mod cost;
mod moving;
mod part;
mod parts;
mod postgres;
mod read;
mod record;
mod rows;
mod sqlite;
#[cfg(test)]
mod suite;
mod varint;

use std::collections::BTreeMap;
use std::fmt;

use postrail_schema::day::Day;
use postrail_schema::event::{Event, EventKind};
use postrail_schema::ids::{HostId, MessageId, RecipientIndex, RecipientKey, ShardId, TenantId};
use postrail_schema::limits::{SUPPRESSIONS_MAX, SUPPRESSIONS_PER_TENANT_MAX};
use postrail_schema::snapshot::Suppression;
use postrail_schema::suppressions::SuppressionChange;
use serde::{Deserialize, Serialize};

pub(crate) use batch::Batch;
#[cfg(test)]
pub(crate) use batch::frames;
pub use moving::MoveProgress;
pub(crate) use moving::move_ledger;
#[cfg(test)]
pub(crate) use postgres::tests::counterpart::Counterpart;
pub use postgres::{AddressError, PostgresAddress};
pub(crate) use postgres::{PostgresError, PostgresLedger};
pub(crate) use sqlite::SqliteLedger;

/// Where reading of a shard's journal goes on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Cursor {
    pub segment: u64,
    pub offset: u64,
}

/// The journal of one shard of one host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct JournalId {
    pub host: HostId,
    pub shard: ShardId,
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} of host {}", self.shard, self.host)
    }
}

/// What is known of an accepted message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub id: MessageId,
    pub tenant: TenantId,
    pub accepted_ms: u64,
    pub credential: u32,
    pub domain: u32,
    pub interface: String,
    pub reverse_path: String,
    pub bytes: u64,
    pub reference: String,
    pub campaign: String,
    pub cost_center: String,
    pub class: String,
    pub message_id_header: String,
    pub recipients: u16,
}

/// The state of one recipient, joined from its events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Recipient {
    pub key: RecipientKey,
    pub tenant: TenantId,
    pub address: String,
    /// `Accepted`, `Deferred` or `Quarantined` while it waits; a settling kind afterwards.
    pub state: EventKind,
    pub attempts: u16,
    pub accepted_ms: u64,
    /// When the latest event happened, Unix milliseconds.
    pub changed_ms: u64,
    /// When it was settled; 0 while it waits.
    pub settled_ms: u64,
    pub next_attempt_ms: u64,
    /// The last reply, code 0 where there was none.
    pub reply_code: u16,
    pub enhanced_status: String,
    pub reply: String,
    pub reason: String,
}

/// An event with its place in the ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Recorded {
    pub sequence: u64,
    pub event: Event,
}

/// A page of events and where the next one begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EventPage {
    pub events: Vec<Recorded>,
    /// Everything up to here was looked at.
    pub cursor: u64,
    /// Whether more lies behind the cursor.
    pub more: bool,
}

/// How many recipients of a tenant a host has accepted on a day. Reports that we made are not among them: nobody
/// submitted them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AcceptedCount {
    pub day: Day,
    pub tenant: TenantId,
    pub host: HostId,
    pub recipients: u64,
    /// The sequence that was given last when it grew last.
    pub sequence: u64,
}

/// The number that was given last of each kind of what configuration names by numbers.
pub(crate) type Given = BTreeMap<String, u32>;

/// A suppression with its history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SuppressionRecord {
    pub suppression: Suppression,
    pub reason: String,
    pub created_ms: u64,
}

/// A suppression, and whether it is a copy of the one in the ledger that is its home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub record: SuppressionRecord,
    pub is_mirrored: bool,
}

/// A state of the suppressions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SuppressionHead {
    /// The number of the last change.
    pub last: u64,
    pub count: u64,
}

/// One act of an operator, written before it is done and completed with its outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AuditRecord {
    pub sequence: u64,
    pub at_ms: u64,
    pub actor: String,
    /// Such as `POST /v2/domains`.
    pub action: String,
    /// The status of the answer; 0: the process ended before there was one.
    pub status: u16,
    /// What it changes, as JSON; empty: nothing.
    pub detail: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("the cursor of {journal} is {stored:?}, the batch began at {begun:?}: somebody else stored it")]
    StaleCursor { journal: JournalId, stored: Cursor, begun: Cursor },
    #[error("the ledger was written by a newer version (format {found}, this one reads {FORMAT})")]
    NewerFormat { found: u32 },
    #[error(
        "ledger.db is that of region {theirs:?}, and not of {ours:?}: start with --region as before, or with another data folder"
    )]
    OtherRegion { theirs: String, ours: String },
    #[error("the tenant has {SUPPRESSIONS_PER_TENANT_MAX} suppressions, which are the most that are kept; delete some")]
    TenantSuppressionsFull,
    /// What all tenants have together is no tenant's to know.
    #[error("no more suppressions can be kept at present; whoever runs this can make room")]
    SuppressionsFull,
    #[error("the suppression has another reason than the one that was read, or is gone")]
    SuppressionChanged,
    /// Rows, and octets in them.
    #[error(
        "of {table}, {from:?} are in the file and {to:?} in the database: nothing was put aside; move again into an empty database"
    )]
    Miscounted { table: &'static str, from: [i64; 2], to: [i64; 2] },
    #[error("the ledger's file has {what} where another value should be")]
    Unreadable { what: &'static str },
    #[error("stored event {sequence} cannot be read")]
    Corrupt { sequence: u64 },
    #[error("what is stored of the recipients of {message} cannot be read")]
    CorruptRecipients { message: MessageId },
    #[error("the ledger's file cannot be opened as its owner's alone")]
    File(#[source] std::io::Error),
    #[error("syncing the ledger failed")]
    Sync(#[source] std::io::Error),
    #[error("the ledger database failed")]
    Sqlite(#[source] rusqlite::Error),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

impl LedgerError {
    /// Whether the ledger is elsewhere and does not answer at present, which passes.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.ends_the_connection())
    }
}

impl From<rusqlite::Error> for LedgerError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite(source)
    }
}

/// The ledger. Calls block; async callers hand them to a blocking thread.
pub(crate) trait Ledger: Send + Sync {
    /// What tells this ledger from all others: drawn once, when its tables were made, and never carried into another.
    ///
    /// # Errors
    /// The database fails.
    fn id(&self) -> Result<u128, LedgerError>;

    /// Where reading of `journal` goes on; the beginning where nothing was read.
    ///
    /// # Errors
    /// Every call fails when the database does.
    fn cursor(&self, journal: JournalId) -> Result<Cursor, LedgerError>;

    /// Stores `batch`, which was read from `begun` on, and `next` as the journal's cursor: both or nothing. Of several
    /// control planes that read the same journal, one stores a batch.
    ///
    /// # Errors
    /// [`LedgerError::StaleCursor`] when the stored cursor is not `begun`: the batch was stored before.
    fn record(&self, journal: JournalId, begun: Cursor, batch: &Batch, next: Cursor) -> Result<(), LedgerError>;

    /// Returns when everything recorded so far survives a loss of power; only then may journals be trimmed.
    ///
    /// # Errors
    /// [`LedgerError::Sync`].
    fn make_durable(&self) -> Result<(), LedgerError>;

    /// # Errors
    /// The database fails, or what it holds of the message cannot be read.
    fn message(&self, id: MessageId) -> Result<Option<Message>, LedgerError>;

    /// Up to `limit` recipients of a message with an index of at least `from`, ascending.
    ///
    /// # Errors
    /// The database fails, or what it holds of the message cannot be read.
    fn recipients(&self, id: MessageId, from: RecipientIndex, limit: u32) -> Result<Vec<Recipient>, LedgerError>;

    /// Events after `cursor`, of one tenant or of all. A page looks at a bounded number of events, so that it can be
    /// short, or empty, though more follow.
    ///
    /// # Errors
    /// The database fails, or a stored event cannot be read.
    fn events(&self, tenant: Option<TenantId>, cursor: u64, limit: u32) -> Result<EventPage, LedgerError>;

    /// The events of a message, or of one recipient of it, by the time when they happened; at most `limit`, those that
    /// were told first.
    ///
    /// # Errors
    /// The database fails, or a stored event cannot be read.
    fn trace(&self, id: MessageId, index: Option<RecipientIndex>, limit: u32) -> Result<Vec<Recorded>, LedgerError>;

    /// What was accepted on a day, of one tenant or of all: the counts that have grown behind the sequence `after`, each
    /// once, in no order. A recipient is counted with the event that says that it was accepted.
    ///
    /// # Errors
    /// The database fails.
    fn accepted(&self, day: Day, tenant: Option<TenantId>, after: u64) -> Result<Vec<AcceptedCount>, LedgerError>;

    /// Removes what was accepted before `day`.
    ///
    /// # Errors
    /// The database fails.
    fn forget_accepted(&self, day: Day) -> Result<(), LedgerError>;

    /// The numbers that were given last, as far as the ledger was told.
    ///
    /// # Errors
    /// The database fails.
    fn given(&self) -> Result<Given, LedgerError>;

    /// Writes that numbers up to `to` are given, so that they outlive a loss of power; whether it was written: not where
    /// more than `after` was given already of a kind that `to` raises.
    ///
    /// # Errors
    /// The database fails.
    fn give(&self, after: &Given, to: &Given) -> Result<bool, LedgerError>;

    /// Adds or renews a suppression; whether it is new. `was`: only one that is there, with this reason.
    ///
    /// # Errors
    /// [`LedgerError::TenantSuppressionsFull`], [`LedgerError::SuppressionsFull`], [`LedgerError::SuppressionChanged`].
    fn suppress(&self, record: &SuppressionRecord, was: Option<&str>) -> Result<bool, LedgerError>;

    /// Removes a suppression; whether there was one. `was`: only with this reason.
    ///
    /// # Errors
    /// [`LedgerError::SuppressionChanged`].
    fn unsuppress(&self, suppression: &Suppression, was: Option<&str>) -> Result<bool, LedgerError>;

    /// Removes up to `limit` suppressions of a tenant; how many.
    ///
    /// # Errors
    /// The database fails.
    fn unsuppress_some(&self, tenant: TenantId, limit: u32) -> Result<u64, LedgerError>;

    /// # Errors
    /// The database fails.
    fn suppression(&self, suppression: &Suppression) -> Result<Option<SuppressionRecord>, LedgerError>;

    /// Up to `limit` suppressions behind `after`, ascending by tenant and address; of one tenant or of all.
    ///
    /// # Errors
    /// The database fails.
    fn suppressions(
        &self,
        tenant: Option<TenantId>,
        after: Option<&Suppression>,
        limit: u32,
    ) -> Result<Vec<SuppressionRecord>, LedgerError>;

    /// How many suppressions there are of one tenant, or of all.
    ///
    /// # Errors
    /// The database fails.
    fn suppressions_count(&self, tenant: Option<TenantId>) -> Result<u64, LedgerError>;

    /// Tells `each` every suppression, of one state of the ledger, ascending by tenant and address; which that is.
    ///
    /// # Errors
    /// The database fails.
    fn each_suppression(&self, each: &mut dyn FnMut(Suppression)) -> Result<SuppressionHead, LedgerError>;

    /// # Errors
    /// The database fails.
    fn suppression_head(&self) -> Result<SuppressionHead, LedgerError>;

    /// The changes of suppressions behind number `after` up to `to`, in their order; `None`: not all of them are there any
    /// more, or yet. Each has made a difference: nothing is added that was there.
    ///
    /// # Errors
    /// The database fails.
    fn suppression_changes(&self, after: u64, to: u64) -> Result<Option<Vec<SuppressionChange>>, LedgerError>;

    /// Counts suppressions anew and forgets their changes, under a further number: where somebody has changed them in a way
    /// that was not numbered.
    ///
    /// # Errors
    /// The database fails.
    fn renumber_suppressions(&self) -> Result<(), LedgerError>;

    /// Up to `limit` suppressions of all tenants behind `after`, ascending by tenant and address.
    ///
    /// # Errors
    /// The database fails.
    fn kept(&self, after: Option<&Suppression>, limit: u32) -> Result<Vec<Kept>, LedgerError>;

    /// Takes over what another ledger has, all or nothing: `put` are copies from now on, and of `gone` those that are
    /// copies are removed. Whether there are other addresses than before.
    ///
    /// # Errors
    /// [`LedgerError::SuppressionsFull`].
    fn mirror(&self, put: &[SuppressionRecord], gone: &[Suppression]) -> Result<bool, LedgerError>;

    /// Whether everything was taken over once.
    ///
    /// # Errors
    /// The database fails.
    fn is_mirror_whole(&self) -> Result<bool, LedgerError>;

    /// Everything has been taken over.
    ///
    /// # Errors
    /// The database fails.
    fn set_mirror_whole(&self, at_ms: u64) -> Result<(), LedgerError>;

    /// Writes that `actor` is about to do `action`; the number completes it.
    ///
    /// # Errors
    /// The database fails.
    fn audit_begin(&self, at_ms: u64, actor: &str, action: &str) -> Result<u64, LedgerError>;

    /// Writes what that act changes, in place of what was written before.
    ///
    /// # Errors
    /// The database fails.
    fn audit_detail(&self, sequence: u64, detail: &str) -> Result<(), LedgerError>;

    /// # Errors
    /// The database fails.
    fn audit_end(&self, sequence: u64, status: u16) -> Result<(), LedgerError>;

    /// Up to `limit` records before `before` (0: from the newest), descending.
    ///
    /// # Errors
    /// The database fails.
    fn audit(&self, before: u64, limit: u32) -> Result<Vec<AuditRecord>, LedgerError>;
}

/// What of `to` is more than `after`; `None` where more than `after` was given of such a kind already.
fn raised<'g>(known: &Given, after: &Given, to: &'g Given) -> Option<Vec<(&'g str, u32)>> {
    let last = |of: &Given, kind: &str| of.get(kind).copied().unwrap_or(0);
    let raised: Vec<_> = to
        .iter()
        .filter(|(kind, number)| **number > last(after, kind))
        .map(|(kind, number)| (&**kind, *number))
        .collect();
    raised.iter().all(|(kind, _)| last(known, kind) <= last(after, kind)).then_some(raised)
}

/// Whether a tenant, and all together, may have as many suppressions as they have with one that was added.
fn check_suppressions(of_tenant: u64, of_all: u64) -> Result<(), LedgerError> {
    if of_tenant > SUPPRESSIONS_PER_TENANT_MAX as u64 {
        Err(LedgerError::TenantSuppressionsFull)
    } else if of_all > SUPPRESSIONS_MAX as u64 {
        Err(LedgerError::SuppressionsFull)
    } else {
        Ok(())
    }
}

/// The format of the ledger that this version writes.
pub(crate) const FORMAT: u32 = 3;

/// Events of one recipient that are looked at, from the latest back.
const CHAIN_EVENTS_MAX: u32 = 10_000;
