//! What storing and reading ask of a database. Everything else is common to all databases.
//!
//! ```text
//! events       first sequence -> a chunk (`chunk`)
//! recipients   (message, part) -> where the events of 32 recipients are (`part`)
//! accepted     (day, tenant, host) -> how many recipients
//! ```
//!
//! Absent here: transactions, cursors, and what does not come from journals (suppressions, the audit trail): each
//! database has its own way.

use postrail_schema::ids::{MessageId, TenantId};

use super::chunk::Chunk;
use super::{AcceptedCount, LedgerError};

/// Names a row of recipients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct PartKey {
    /// The message's id.
    pub message: u128,
    pub part: u16,
}

/// A row of recipients to be written.
pub(super) struct PartRow<'b> {
    pub key: PartKey,
    pub events: &'b [u8],
    /// Whether the database has a row of it already.
    pub stored: bool,
}

/// A row of events.
pub(super) struct ChunkRow<'b> {
    pub first: u64,
    pub count: u64,
    pub tenants: &'b [u8],
    pub links: &'b [u8],
    pub body: &'b [u8],
}

/// Reading.
pub(super) trait Rows {
    /// The chunk that begins at `sequence` or, of those that begin before it, last.
    ///
    /// # Errors
    /// The database fails, or [`LedgerError::Corrupt`].
    fn chunk_before(&mut self, sequence: u64) -> Result<Option<Chunk>, LedgerError>;

    /// Gives `take` every chunk from the one on that [`Rows::chunk_before`] finds at `from`, ascending, until it is false.
    /// Where a tenant is named, links and body may be left out of chunks that hold no event of it.
    ///
    /// # Errors
    /// The database fails, [`LedgerError::Corrupt`], or what `take` says.
    fn chunks(
        &mut self,
        from: u64,
        tenant: Option<TenantId>,
        take: impl FnMut(ChunkRow<'_>) -> Result<bool, LedgerError>,
    ) -> Result<(), LedgerError>;

    /// Gives `take` the parts of a message from number `from` on, ascending, until it is false.
    ///
    /// # Errors
    /// The database fails, [`LedgerError::CorruptRecipients`], or what `take` says.
    fn parts_of(
        &mut self,
        message: MessageId,
        from: u16,
        take: impl FnMut(u16, &[u8]) -> Result<bool, LedgerError>,
    ) -> Result<(), LedgerError>;
}

/// Writing, within a transaction that no other shares with it.
pub(super) trait WriteRows: Rows {
    /// The highest id of a message.
    ///
    /// # Errors
    /// The database fails.
    fn newest_message(&mut self) -> Result<Option<u128>, LedgerError>;

    /// Gives `take` those of the named parts that there are, in any order.
    ///
    /// # Errors
    /// The database fails, or what `take` says.
    fn parts(
        &mut self,
        keys: &[PartKey],
        take: impl FnMut(PartKey, &[u8]) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError>;

    /// Adds a chunk behind all others.
    ///
    /// # Errors
    /// The database fails.
    fn put_chunk(&mut self, row: ChunkRow<'_>) -> Result<(), LedgerError>;

    /// Adds or replaces parts, which come in the order of their keys.
    ///
    /// # Errors
    /// The database fails, or one that is not stored is there.
    fn put_parts(&mut self, rows: &[PartRow<'_>]) -> Result<(), LedgerError>;

    /// Adds to counts, each of another day, tenant or host, or begins them.
    ///
    /// # Errors
    /// The database fails.
    fn put_accepted(&mut self, counts: &[AcceptedCount]) -> Result<(), LedgerError>;
}
