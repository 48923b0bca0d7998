//! Storing a batch of events.
//!
//! Buffers go into chunks as the journal gave them. What is kept of a batch's recipients is worked on in memory and
//! written once for each part, in key order, however many events the batch holds for them.
//!
//! Invariants worth naming: the same event twice counts once, however far apart (an event that is not later than the
//! recipient's latest, and of a kind that it has, is compared with those before); an event behind a settlement changes no
//! state.

use postrail_schema::event::Event;
use postrail_schema::ids::ShardId;
use postrail_schema::wire::{EventHead, decode_events, encode_events};
use rusqlite::{CachedStatement, Connection, OptionalExtension, TransactionBehavior, params};

use super::super::{Batch, Cursor, LedgerError};
use super::CHAIN_EVENTS_MAX;
use super::chunk::{ChunkBuilder, ChunkReader, Link};
use super::parts::{self, Parts};

pub(super) fn cursor(connection: &Connection, shard: ShardId) -> Result<Cursor, rusqlite::Error> {
    let stored = connection
        .prepare_cached("SELECT segment, offset FROM cursors WHERE shard = ?1")?
        .query_row([shard.0], |row| Ok(Cursor { segment: row.get(0)?, offset: row.get(1)? }))
        .optional()?;
    Ok(stored.unwrap_or_default())
}

/// Stores a batch and its cursor, both or nothing.
///
/// # Errors
/// See [`super::Ledger::record`].
pub(super) fn record(
    connection: &mut Connection,
    parts: &mut Parts,
    shard: ShardId,
    begun: Cursor,
    batch: &Batch,
    next: Cursor,
) -> Result<(), LedgerError> {
    let stored = record_all(connection, parts, shard, begun, batch, next);
    match stored {
        Ok(()) => parts.committed(),
        Err(_) => parts.forget(),
    }
    stored
}

fn record_all(
    connection: &mut Connection,
    parts: &mut Parts,
    shard: ShardId,
    begun: Cursor,
    batch: &Batch,
    next: Cursor,
) -> Result<(), LedgerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let stored = cursor(&transaction, shard)?;
    if stored != begun {
        return Err(LedgerError::StaleCursor { shard, stored, begun });
    }
    record_events(&transaction, parts, batch)?;
    for body in batch.unread() {
        transaction.execute(
            "INSERT INTO unread (shard, segment, offset, body) VALUES (?1, ?2, ?3, ?4)",
            params![shard.0, begun.segment, begun.offset, body],
        )?;
    }
    transaction
        .prepare_cached(
            "INSERT INTO cursors (shard, segment, offset) VALUES (?1, ?2, ?3)
             ON CONFLICT (shard) DO UPDATE SET segment = excluded.segment, offset = excluded.offset",
        )?
        .execute(params![shard.0, next.segment, next.offset])?;
    transaction.commit()?;
    Ok(())
}

/// Stores the events of a batch within a transaction.
///
/// # Errors
/// The database fails, or what it holds of a recipient cannot be read.
pub(super) fn record_events(transaction: &Connection, parts: &mut Parts, batch: &Batch) -> Result<(), LedgerError> {
    parts.begin(transaction)?;
    let mut recorder = Recorder {
        connection: transaction,
        load: parts::load(transaction)?,
        parts,
        last: last_sequence(transaction)?,
        chunk: ChunkBuilder::default(),
        kept: Vec::new(),
        links: Vec::new(),
    };
    for (buffer, heads) in batch.buffers() {
        recorder.add(buffer, heads)?;
    }
    recorder.chunk.write(transaction)?;
    recorder.parts.write(transaction)?;
    Ok(())
}

fn last_sequence(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let last = connection
        .prepare_cached("SELECT first + count - 1 FROM events ORDER BY first DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(last.unwrap_or(0))
}

/// A batch on its way into a transaction.
struct Recorder<'c> {
    connection: &'c Connection,
    load: CachedStatement<'c>,
    parts: &'c mut Parts,
    /// The sequence that was given last.
    last: u64,
    chunk: ChunkBuilder,
    /// Of the buffer at hand: the places in it of the events that are kept, and their links.
    kept: Vec<usize>,
    links: Vec<Link>,
}

impl Recorder<'_> {
    fn add(&mut self, buffer: &[u8], heads: &[EventHead]) -> Result<(), LedgerError> {
        let first = self.last + 1;
        let mut events = None;
        self.kept.clear();
        self.links.clear();
        for (place, head) in heads.iter().enumerate() {
            let mut recipient = self.parts.recipient(&mut self.load, head)?;
            if recipient.may_hold(head) {
                let last = recipient.last;
                let events = events.get_or_insert_with(|| decode_events(buffer).unwrap_or_default());
                if self.is_recorded(events, place, first, last)? {
                    continue;
                }
                recipient = self.parts.recipient(&mut self.load, head)?;
            }
            self.links.push(Link { tenant: head.tenant, previous: recipient.last });
            self.kept.push(place);
            self.last += 1;
            recipient.add(head, self.last);
        }
        if self.kept.len() == heads.len() {
            return Ok(self.push(first, buffer)?);
        }
        let kept: Vec<Event> = self
            .kept
            .iter()
            .filter_map(|place| events.as_ref().and_then(|events| events.get(*place)).cloned())
            .collect();
        Ok(self.push(first, &encode_events(&kept))?)
    }

    fn push(&mut self, first: u64, buffer: &[u8]) -> Result<(), rusqlite::Error> {
        if self.links.is_empty() {
            return Ok(());
        }
        if !self.chunk.has_room(self.links.len(), buffer.len()) {
            self.chunk.write(self.connection)?;
        }
        self.chunk.push(first, buffer, &self.links);
        Ok(())
    }

    /// Whether the chain that ends with the sequence `last` holds the event at `place` of the buffer at hand, whose
    /// first kept event has the sequence `first`.
    fn is_recorded(&mut self, events: &[Event], place: usize, first: u64, last: u64) -> Result<bool, LedgerError> {
        let Some(event) = events.get(place) else { return Ok(false) };
        self.chunk.write(self.connection)?;
        let mut stored = ChunkReader::new(self.connection)?;
        let mut next = last;
        for _ in 0..CHAIN_EVENTS_MAX {
            if next == 0 {
                break;
            }
            if next >= first {
                let kept = (next - first) as usize;
                if events[self.kept[kept]] == *event {
                    return Ok(true);
                }
                next = self.links[kept].previous;
                continue;
            }
            match stored.event(next) {
                Ok(Some(earlier)) if earlier == event => return Ok(true),
                Ok(Some(_)) => {}
                Ok(None) => break,
                // Who reads it is told; nothing can be said to equal it.
                Err(LedgerError::Corrupt { sequence }) => tracing::warn!(sequence, "stored event cannot be compared"),
                Err(error) => return Err(error),
            }
            match stored.previous(next) {
                Ok(Some(previous)) => next = previous,
                Ok(None) | Err(LedgerError::Corrupt { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use postrail_schema::event::{AttemptFacts, EventKind, JobFacts};
    use postrail_schema::ids::{MessageId, RecipientIndex, Revision, TenantId};

    use super::super::super::{Ledger, frames};
    use super::super::SqliteLedger;
    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn event(kind: EventKind, message: u128, at_ms: u64) -> Event {
        let accepted = kind == EventKind::Accepted;
        let attempt = AttemptFacts { number: 1, reply_code: 250, reply: "ok".into(), ..AttemptFacts::default() };
        Event {
            kind,
            message: MessageId::from_bits(message),
            index: RecipientIndex(0),
            at_ms,
            revision: Revision(1),
            tenant: TenantId(1),
            address: "a@receiver.example".into(),
            job: accepted.then(|| JobFacts { interface: "smtp".into(), recipients: 1, ..JobFacts::default() }),
            attempt: (!accepted).then_some(attempt),
            reason: String::new(),
            next_attempt_ms: 0,
        }
    }

    fn at(offset: u64) -> Cursor {
        Cursor { segment: 0, offset }
    }

    fn batch(events: Vec<Event>) -> Batch {
        Batch::of(&events, 128)
    }

    fn ledger() -> (tempfile::TempDir, SqliteLedger) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(&folder.path().join("ledger.db")).unwrap();
        (folder, ledger)
    }

    #[test]
    fn a_batch_that_is_pulled_again_after_a_crash_is_not_counted_twice() {
        let (folder, ledger) = ledger();
        let events = batch(vec![event(EventKind::Accepted, 1, 10), event(EventKind::Delivered, 1, 20)]);
        ledger.record(SHARD, at(0), &events, at(100)).unwrap();
        drop(ledger);
        let ledger = SqliteLedger::open(&folder.path().join("ledger.db")).unwrap();
        assert_eq!(ledger.cursor(SHARD).unwrap(), at(100));
        let again = ledger.record(SHARD, at(0), &events, at(100));
        assert!(matches!(again, Err(LedgerError::StaleCursor { stored, .. }) if stored == at(100)));
        assert_eq!(ledger.events(None, 0, 10).unwrap().events.len(), 2);
    }

    #[test]
    fn a_batch_whose_writing_fails_leaves_neither_events_nor_cursor() {
        let (_folder, ledger) = ledger();
        ledger
            .writer()
            .connection
            .execute_batch("CREATE TRIGGER crash BEFORE INSERT ON cursors BEGIN SELECT raise(ABORT, 'power'); END")
            .unwrap();
        let events = batch(vec![event(EventKind::Accepted, 1, 10)]);
        assert!(ledger.record(SHARD, at(0), &events, at(100)).is_err());
        assert_eq!(ledger.events(None, 0, 10).unwrap().events, []);
        assert_eq!(ledger.cursor(SHARD).unwrap(), at(0));
        ledger.writer().connection.execute_batch("DROP TRIGGER crash").unwrap();
        ledger.record(SHARD, at(0), &events, at(100)).unwrap();
        assert_eq!(ledger.events(None, 0, 10).unwrap().events.len(), 1);
    }

    #[test]
    fn an_event_that_the_journal_holds_twice_counts_once() {
        let (_folder, ledger) = ledger();
        let delivered = event(EventKind::Delivered, 1, 20);
        let first = vec![event(EventKind::Accepted, 1, 10), delivered.clone(), delivered.clone()];
        ledger.record(SHARD, at(0), &batch(first), at(1)).unwrap();
        ledger.record(SHARD, at(1), &batch(vec![event(EventKind::Accepted, 1, 10), delivered]), at(2)).unwrap();
        let events = ledger.events(None, 0, 10).unwrap().events;
        assert_eq!(events.iter().map(|recorded| recorded.sequence).collect::<Vec<_>>(), [1, 2]);
        let same_time = batch(vec![event(EventKind::Complained, 1, 20)]);
        ledger.record(SHARD, at(2), &same_time, at(3)).unwrap();
        assert_eq!(
            ledger.events(None, 0, 10).unwrap().events.len(),
            3,
            "another kind at the same time is no repetition"
        );
    }

    #[test]
    fn what_follows_a_settlement_is_kept_but_does_not_undo_it() {
        let (_folder, ledger) = ledger();
        let events = [(EventKind::Accepted, 10), (EventKind::Deferred, 20), (EventKind::Delivered, 30)];
        let events = events.into_iter().chain([(EventKind::Bounced, 40), (EventKind::Complained, 50)]);
        for (step, (kind, at_ms)) in (0..).zip(events) {
            ledger.record(SHARD, at(step), &batch(vec![event(kind, 1, at_ms)]), at(step + 1)).unwrap();
        }
        let recipients = ledger.recipients(MessageId::from_bits(1), RecipientIndex(0), 10).unwrap();
        assert_eq!(recipients[0].state, EventKind::Delivered);
        assert_eq!((recipients[0].settled_ms, recipients[0].changed_ms), (30, 50));
        let kinds: Vec<_> = ledger.trace(MessageId::from_bits(1), None, 10).unwrap();
        let kinds: Vec<_> = kinds.into_iter().map(|recorded| recorded.event.kind).collect();
        let wanted = [EventKind::Accepted, EventKind::Deferred, EventKind::Delivered];
        assert_eq!(kinds, [&wanted[..], &[EventKind::Bounced, EventKind::Complained]].concat());
    }

    #[test]
    fn each_shard_has_its_own_cursor() {
        let (_folder, ledger) = ledger();
        ledger.record(ShardId(1), at(0), &Batch::default(), at(7)).unwrap();
        assert_eq!((ledger.cursor(ShardId(0)).unwrap(), ledger.cursor(ShardId(1)).unwrap()), (at(0), at(7)));
    }

    #[test]
    fn bytes_that_are_no_events_are_kept_apart() {
        let (_folder, ledger) = ledger();
        let unread = Batch::read(frames(&[b"noise"]));
        ledger.record(SHARD, at(0), &unread, at(9)).unwrap();
        let kept: Vec<u8> = ledger.reader().query_row("SELECT body FROM unread", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, b"noise");
    }

    #[test]
    fn a_page_of_one_tenant_skips_the_others_and_goes_on_at_its_cursor() {
        let (_folder, ledger) = ledger();
        let events = (1..=6_u32)
            .map(|n| Event { tenant: TenantId(n % 2), ..event(EventKind::Accepted, u128::from(n), u64::from(n)) });
        ledger.record(SHARD, at(0), &batch(events.collect()), at(1)).unwrap();
        let page = ledger.events(Some(TenantId(1)), 0, 2).unwrap();
        assert_eq!(page.events.iter().map(|recorded| recorded.sequence).collect::<Vec<_>>(), [1, 3]);
        assert!(page.more);
        let page = ledger.events(Some(TenantId(1)), page.cursor, 2).unwrap();
        assert_eq!(page.events.iter().map(|recorded| recorded.sequence).collect::<Vec<_>>(), [5]);
    }
}
