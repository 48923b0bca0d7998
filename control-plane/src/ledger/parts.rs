//! The parts of messages while batches are stored: recent ones are kept in memory, so that a delivery finds what its
//! acceptance wrote without asking the database, and a message that is newer than all is known to be new.
//!
//! Invariants worth naming: what is in memory equals what is committed, or it is forgotten: when a transaction fails, and
//! when somebody else has written. A message that is taken for new though it is stored fails the transaction, and is
//! looked up the next time: it is never written over. Memory is bounded: two generations of [`RECENT_PARTS`] parts, and one transaction.

use std::collections::HashMap;

use postrail_schema::event::EventKind;
use postrail_schema::ids::{HostId, MessageId, RecipientIndex, ShardId};
use postrail_schema::wire::EventHead;

use super::part::{Events, PART_RECIPIENTS, Part};
use super::rows::{PartKey, PartRow, Rows, WriteRows};
use super::{Batch, LedgerError};

/// See the module head.
#[derive(Default)]
pub(super) struct Parts {
    recent: HashMap<PartKey, Entry>,
    older: HashMap<PartKey, Entry>,
    /// What the transaction has touched, with the host of the journal that told of it.
    touched: Vec<(PartKey, HostId)>,
    newest: Option<Newest>,
    /// What the database gave as its version: another one says that somebody else has written.
    version: u64,
}

#[derive(Default)]
struct Entry {
    part: Part,
    /// Whether the database has a row of it.
    stored: bool,
    touched: bool,
}

/// The newest message that may be stored: by the shard that accepted it, and of all others. Ids grow with time.
///
/// Mail moves between hosts, so that a journal also tells of what another host accepted, before that host's own journal
/// does or after. Its host alone tells of the acceptance, so what begins otherwise may be stored already, and everything
/// up to it may be, whoever tells of it next.
struct Newest {
    /// As it was at the beginning, or the newest message since whose first event here was no acceptance.
    floor: u128,
    by_shard: HashMap<(HostId, ShardId), u128>,
}

impl Newest {
    /// Whether nothing can be stored of a message whose first event here is that one.
    fn is_before(&mut self, host: HostId, head: &EventHead) -> bool {
        let message = head.message.bits();
        if head.kind != EventKind::Accepted {
            self.floor = message.max(self.floor);
            return false;
        }
        message > self.floor && self.by_shard.get(&(host, head.message.shard())).is_none_or(|newest| message > *newest)
    }

    fn follow(&mut self, host: HostId, message: u128) {
        let shard = MessageId::from_bits(message).shard();
        let newest = self.by_shard.entry((host, shard)).or_insert(message);
        *newest = message.max(*newest);
    }
}

impl Parts {
    /// To be called in each transaction, before all else, with what changes when somebody else has written.
    ///
    /// # Errors
    /// The database fails.
    pub(super) fn begin(&mut self, rows: &mut impl WriteRows, version: u64) -> Result<(), LedgerError> {
        if version != self.version {
            self.forget();
            self.version = version;
        }
        if self.newest.is_none() {
            let floor = rows.newest_message()?.unwrap_or(0);
            self.newest = Some(Newest { floor, by_shard: HashMap::new() });
        }
        Ok(())
    }

    /// Brings the recipients of a batch into memory.
    ///
    /// # Errors
    /// The database fails, or [`LedgerError::CorruptRecipients`].
    pub(super) fn load(&mut self, rows: &mut impl WriteRows, host: HostId, batch: &Batch) -> Result<(), LedgerError> {
        let mut missing = Vec::new();
        for head in batch.buffers().flat_map(|(_, heads)| heads) {
            let key = key_of(head);
            if self.recent.contains_key(&key) {
                continue;
            }
            // What is newer than all that was stored before this transaction, and not in memory, is new.
            let new = self.newest.as_mut().is_some_and(|newest| newest.is_before(host, head));
            let entry = self.older.remove(&key).unwrap_or_else(|| {
                if !new {
                    missing.push(key);
                }
                Entry::default()
            });
            self.recent.insert(key, entry);
        }
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        rows.parts(&missing, |key, bytes| {
            let corrupt = LedgerError::CorruptRecipients { message: MessageId::from_bits(key.message) };
            let part = Part::parse(bytes).ok_or(corrupt)?;
            self.recent.insert(key, Entry { part, stored: true, touched: false });
            Ok(())
        })
    }

    /// A recipient of the batch that was loaded, to be changed; one without events where it is not known.
    pub(super) fn recipient(&mut self, host: HostId, head: &EventHead) -> &mut Events {
        let key = key_of(head);
        let entry = self.recent.entry(key).or_default();
        if !entry.touched {
            entry.touched = true;
            self.touched.push((key, host));
        }
        entry.part.recipient((head.index.0 % PART_RECIPIENTS) as u8)
    }

    /// Writes what was touched, in the order of keys.
    ///
    /// # Errors
    /// The database fails.
    pub(super) fn write(&mut self, rows: &mut impl WriteRows) -> Result<(), LedgerError> {
        self.touched.sort_unstable();
        let mut bytes = Vec::new();
        let mut written = Vec::with_capacity(self.touched.len());
        for (key, _) in &self.touched {
            let Some(entry) = self.recent.get_mut(key) else { continue };
            let begun = bytes.len();
            entry.part.put(&mut bytes);
            written.push((*key, begun..bytes.len(), entry.stored));
            (entry.stored, entry.touched) = (true, false);
        }
        let written: Vec<_> =
            written.into_iter().map(|(key, range, stored)| PartRow { key, events: &bytes[range], stored }).collect();
        rows.put_parts(&written)
    }

    /// To be called when the transaction is committed, with what the version is now.
    pub(super) fn committed(&mut self, version: u64) {
        self.version = version;
        if let Some(newest) = &mut self.newest {
            self.touched.iter().for_each(|(key, host)| newest.follow(*host, key.message));
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

fn key_of(head: &EventHead) -> PartKey {
    PartKey { message: head.message.bits(), part: head.index.0 / PART_RECIPIENTS }
}

/// What is stored of a message's recipients with an index of at least `from`, ascending; at most `limit`.
///
/// # Errors
/// The database fails, or [`LedgerError::CorruptRecipients`].
pub(super) fn of_message(
    rows: &mut impl Rows,
    message: MessageId,
    from: RecipientIndex,
    limit: usize,
) -> Result<Vec<(RecipientIndex, Events)>, LedgerError> {
    let mut found = Vec::new();
    rows.parts_of(message, from.0 / PART_RECIPIENTS, |number, bytes| {
        let corrupt = || LedgerError::CorruptRecipients { message };
        let begin = number.checked_mul(PART_RECIPIENTS).ok_or_else(corrupt)?;
        for (index, events) in Part::parse(bytes).ok_or_else(corrupt)?.recipients() {
            let index = RecipientIndex(begin + u16::from(*index));
            if index >= from && found.len() < limit {
                found.push((index, *events));
            }
        }
        Ok(found.len() < limit)
    })?;
    Ok(found)
}

/// Parts of one generation that are kept in memory, some 200 octets each.
const RECENT_PARTS: usize = 8_192;
