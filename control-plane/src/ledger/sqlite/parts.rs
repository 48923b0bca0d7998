//! The parts of messages while batches are stored: recent ones are kept in memory, so that a delivery finds what its
//! acceptance wrote without asking the database, and a message that is newer than all is known to be new.
//!
//! Invariants worth naming: what is in memory equals what is committed, or it is forgotten: when a transaction fails, and
//! when another connection has written. Memory is bounded: two generations of [`RECENT_PARTS`] parts, and one batch.

use std::collections::HashMap;

use postrail_schema::ids::{MessageId, RecipientIndex, ShardId};
use postrail_schema::wire::EventHead;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::super::LedgerError;
use super::part::{Events, PART_RECIPIENTS, Part};

/// A message's id and the number of the part.
type Key = (u128, u16);

/// See the module head.
#[derive(Default)]
pub(super) struct Parts {
    recent: HashMap<Key, Entry>,
    older: HashMap<Key, Entry>,
    touched: Vec<Key>,
    newest: Option<Newest>,
    /// Of `PRAGMA data_version`: changes when another connection has written.
    version: i64,
    scratch: Vec<u8>,
}

#[derive(Default)]
struct Entry {
    part: Part,
    /// Whether the database has a row of it.
    stored: bool,
    touched: bool,
}

/// The newest message that is stored: of all as it was at the beginning, and of each shard since. Ids grow with time.
struct Newest {
    floor: u128,
    by_shard: HashMap<ShardId, u128>,
}

impl Newest {
    fn is_before(&self, message: u128) -> bool {
        let shard = MessageId::from_bits(message).shard();
        message > self.by_shard.get(&shard).copied().unwrap_or(self.floor)
    }

    fn follow(&mut self, message: u128) {
        let newest = self.by_shard.entry(MessageId::from_bits(message).shard()).or_insert(self.floor);
        *newest = message.max(*newest);
    }
}

impl Parts {
    /// To be called within each transaction, before all else.
    pub(super) fn begin(&mut self, connection: &Connection) -> Result<(), rusqlite::Error> {
        let version = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if version != self.version {
            self.forget();
            self.version = version;
        }
        if self.newest.is_none() {
            let mut newest = connection.prepare_cached("SELECT max(message) FROM recipients")?;
            let floor: Option<[u8; 16]> = newest.query_row([], |row| row.get(0))?;
            let floor = floor.map_or(0, u128::from_be_bytes);
            self.newest = Some(Newest { floor, by_shard: HashMap::new() });
        }
        Ok(())
    }

    /// The recipient of an event, to be changed; one without events where it is not known.
    ///
    /// # Errors
    /// The database fails, or [`LedgerError::CorruptRecipients`].
    pub(super) fn recipient(
        &mut self,
        load: &mut CachedStatement<'_>,
        head: &EventHead,
    ) -> Result<&mut Events, LedgerError> {
        let key = (head.message.bits(), head.index.0 / PART_RECIPIENTS);
        if !self.recent.contains_key(&key) {
            // What is newer than all that was stored before this batch, and not in memory, is new.
            let new = self.newest.as_ref().is_some_and(|newest| newest.is_before(key.0));
            let entry = match self.older.remove(&key) {
                Some(entry) => entry,
                None if new => Entry::default(),
                None => loaded(load, key)?,
            };
            self.recent.insert(key, entry);
        }
        let entry = self.recent.entry(key).or_default();
        if !entry.touched {
            entry.touched = true;
            self.touched.push(key);
        }
        Ok(entry.part.recipient((head.index.0 % PART_RECIPIENTS) as u8))
    }

    /// Writes what was touched, in the order of keys.
    pub(super) fn write(&mut self, connection: &Connection) -> Result<(), rusqlite::Error> {
        let mut insert =
            connection.prepare_cached("INSERT INTO recipients (message, part, events) VALUES (?1, ?2, ?3)")?;
        let mut update =
            connection.prepare_cached("UPDATE recipients SET events = ?3 WHERE message = ?1 AND part = ?2")?;
        self.touched.sort_unstable();
        for key in &self.touched {
            let Some(entry) = self.recent.get_mut(key) else { continue };
            self.scratch.clear();
            entry.part.put(&mut self.scratch);
            let statement = if entry.stored { &mut update } else { &mut insert };
            statement.execute(params![key.0.to_be_bytes(), key.1, self.scratch])?;
            (entry.stored, entry.touched) = (true, false);
        }
        Ok(())
    }

    /// To be called when the transaction is committed.
    pub(super) fn committed(&mut self) {
        if let Some(newest) = &mut self.newest {
            self.touched.iter().for_each(|(message, _)| newest.follow(*message));
        }
        self.touched.clear();
        if self.recent.len() > RECENT_PARTS {
            self.older = std::mem::take(&mut self.recent);
        }
    }

    /// To be called when a transaction is not committed.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn loaded(load: &mut CachedStatement<'_>, key: Key) -> Result<Entry, LedgerError> {
    let row = load
        .query_row(params![key.0.to_be_bytes(), key.1], |row| Ok(row.get_ref(0)?.as_blob().ok().and_then(Part::parse)));
    match row.optional()? {
        None => Ok(Entry::default()),
        Some(Some(part)) => Ok(Entry { part, stored: true, touched: false }),
        Some(None) => Err(LedgerError::CorruptRecipients { message: MessageId::from_bits(key.0) }),
    }
}

/// The statement that [`Parts::recipient`] reads with.
pub(super) fn load(connection: &Connection) -> Result<CachedStatement<'_>, rusqlite::Error> {
    connection.prepare_cached("SELECT events FROM recipients WHERE message = ?1 AND part = ?2")
}

/// What is stored of a message's recipients with an index of at least `from`, ascending; at most `limit`.
///
/// # Errors
/// The database fails, or [`LedgerError::CorruptRecipients`].
pub(super) fn of_message(
    connection: &Connection,
    message: MessageId,
    from: RecipientIndex,
    limit: usize,
) -> Result<Vec<(RecipientIndex, Events)>, LedgerError> {
    let mut found = Vec::new();
    let mut select = connection
        .prepare_cached("SELECT part, events FROM recipients WHERE message = ?1 AND part >= ?2 ORDER BY part")?;
    let mut rows = select.query(params![message.bits().to_be_bytes(), from.0 / PART_RECIPIENTS])?;
    while let Some(row) = rows.next()? {
        let corrupt = || LedgerError::CorruptRecipients { message };
        let number: u16 = row.get(0).map_err(|_| corrupt())?;
        let begin = number.checked_mul(PART_RECIPIENTS).ok_or_else(corrupt)?;
        let part = row.get_ref(1)?.as_blob().ok().and_then(Part::parse).ok_or_else(corrupt)?;
        for (index, events) in part.recipients() {
            let index = RecipientIndex(begin + u16::from(*index));
            if index >= from && found.len() < limit {
                found.push((index, *events));
            }
        }
        if found.len() >= limit {
            break;
        }
    }
    Ok(found)
}

/// Parts of one generation that are kept in memory, some 200 octets each.
const RECENT_PARTS: usize = 8_192;
