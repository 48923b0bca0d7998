//! Storing a batch of events.
//!
//! The rows of a batch's recipients are worked on in memory and written once each, in key order, however many events the
//! batch holds for them: mail that is accepted and delivered within one pull costs one recipient row.
//!
//! Invariants worth naming: the same event twice counts once, however far apart (an event that is not later than the
//! recipient's latest is compared with those before); an event behind a settlement changes no state.

use std::collections::BTreeMap;
use std::collections::btree_map;

use postrail_schema::event::{Event, EventKind};
use postrail_schema::ids::ShardId;
use postrail_schema::wire::encode_events;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::super::{Batch, Cursor, LedgerError};
use super::CHAIN_EVENTS_MAX;

/// A recipient's row while its batch is worked on.
struct Row {
    tenant: u32,
    address: String,
    state: u8,
    attempts: u16,
    accepted_ms: u64,
    changed_ms: u64,
    settled_ms: u64,
    next_attempt_ms: u64,
    reply_code: u16,
    enhanced_status: String,
    reply: String,
    reason: String,
    last_event: u64,
    last_kind: u8,
}

type Key = (u128, u16);

pub(super) fn cursor(connection: &Connection, shard: ShardId) -> Result<Cursor, rusqlite::Error> {
    let stored = connection
        .prepare_cached("SELECT segment, offset FROM cursors WHERE shard = ?1")?
        .query_row([shard.0], |row| Ok(Cursor { segment: row.get(0)?, offset: row.get(1)? }))
        .optional()?;
    Ok(stored.unwrap_or_default())
}

pub(super) fn record(
    connection: &mut Connection,
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
    record_events(&transaction, &batch.events)?;
    for body in &batch.unread {
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

fn record_events(transaction: &Transaction<'_>, events: &[Event]) -> Result<(), rusqlite::Error> {
    let mut sequence: u64 =
        transaction.prepare_cached("SELECT ifnull(max(seq), 0) FROM events")?.query_row([], |row| row.get(0))?;
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    {
        let mut load = transaction.prepare_cached(LOAD)?;
        let mut stored = transaction.prepare_cached("SELECT previous, body FROM events WHERE seq = ?1")?;
        let mut insert_event =
            transaction.prepare_cached("INSERT INTO events (seq, tenant, previous, body) VALUES (?1, ?2, ?3, ?4)")?;
        let mut insert_message = transaction.prepare_cached(INSERT_MESSAGE)?;
        for event in events {
            let key = (event.message.bits(), event.index.0);
            let row = match rows.entry(key) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(place) => {
                    place.insert(load_row(&mut load, key)?.unwrap_or_else(|| Row::new(event)))
                }
            };
            let body = encode_events(std::slice::from_ref(event));
            if event.at_ms <= row.changed_ms && is_recorded(&mut stored, row.last_event, &body)? {
                continue;
            }
            sequence += 1;
            insert_event.execute(params![sequence, event.tenant.0, row.last_event, body])?;
            if event.job.is_some() {
                write_message(&mut insert_message, event)?;
            }
            row.apply(event, sequence);
        }
    }
    let mut upsert = transaction.prepare_cached(UPSERT)?;
    for (key, row) in &rows {
        write_row(&mut upsert, *key, row)?;
    }
    Ok(())
}

impl Row {
    fn new(event: &Event) -> Self {
        Self {
            tenant: event.tenant.0,
            address: event.address.clone(),
            state: EventKind::Accepted as u8,
            attempts: 0,
            accepted_ms: event.at_ms,
            changed_ms: 0,
            settled_ms: 0,
            next_attempt_ms: 0,
            reply_code: 0,
            enhanced_status: String::new(),
            reply: String::new(),
            reason: String::new(),
            last_event: 0,
            last_kind: 0,
        }
    }

    fn apply(&mut self, event: &Event, sequence: u64) {
        self.last_event = sequence;
        self.last_kind = event.kind as u8;
        self.changed_ms = event.at_ms;
        if self.settled_ms != 0 {
            return;
        }
        let waits = matches!(event.kind, EventKind::Accepted | EventKind::Deferred | EventKind::Quarantined);
        if waits || event.kind.settles() {
            self.state = event.kind as u8;
            self.next_attempt_ms = event.next_attempt_ms;
            self.reason.clone_from(&event.reason);
        }
        if event.kind.settles() {
            self.settled_ms = event.at_ms;
        }
        if let Some(attempt) = &event.attempt {
            self.attempts = self.attempts.max(attempt.number);
            self.reply_code = attempt.reply_code;
            self.enhanced_status.clone_from(&attempt.enhanced_status);
            self.reply.clone_from(&attempt.reply);
        }
    }
}

/// Whether the chain of events that ends with number `last` holds one of these octets. Encoding is deterministic.
fn is_recorded(stored: &mut CachedStatement<'_>, last: u64, body: &[u8]) -> Result<bool, rusqlite::Error> {
    let mut next = last;
    for _ in 0..CHAIN_EVENTS_MAX {
        let step = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get_ref(1)?.as_blob()? == body));
        match stored.query_row([next], step).optional()? {
            Some((_, true)) => return Ok(true),
            Some((previous, false)) => next = previous,
            None => return Ok(false),
        }
    }
    Ok(false)
}

fn load_row(load: &mut CachedStatement<'_>, key: Key) -> Result<Option<Row>, rusqlite::Error> {
    load.query_row(params![key.0.to_be_bytes().as_slice(), key.1], |row| {
        Ok(Row {
            tenant: row.get(0)?,
            address: row.get(1)?,
            state: row.get(2)?,
            attempts: row.get(3)?,
            accepted_ms: row.get(4)?,
            changed_ms: row.get(5)?,
            settled_ms: row.get(6)?,
            next_attempt_ms: row.get(7)?,
            reply_code: row.get(8)?,
            enhanced_status: row.get(9)?,
            reply: row.get(10)?,
            reason: row.get(11)?,
            last_event: row.get(12)?,
            last_kind: row.get(13)?,
        })
    })
    .optional()
}

fn write_row(upsert: &mut CachedStatement<'_>, key: Key, row: &Row) -> Result<(), rusqlite::Error> {
    upsert.execute(params![
        key.0.to_be_bytes().as_slice(),
        key.1,
        row.tenant,
        row.address,
        row.state,
        row.attempts,
        row.accepted_ms,
        row.changed_ms,
        row.settled_ms,
        row.next_attempt_ms,
        row.reply_code,
        row.enhanced_status,
        row.reply,
        row.reason,
        row.last_event,
        row.last_kind,
    ])?;
    Ok(())
}

fn write_message(insert: &mut CachedStatement<'_>, event: &Event) -> Result<(), rusqlite::Error> {
    let Some(job) = &event.job else { return Ok(()) };
    insert.execute(params![
        event.message.bits().to_be_bytes().as_slice(),
        event.tenant.0,
        event.at_ms,
        job.credential.0,
        job.domain.0,
        job.interface,
        job.reverse_path,
        job.bytes,
        job.reference,
        job.campaign,
        job.cost_center,
        job.class,
        job.message_id_header,
        job.recipients,
    ])?;
    Ok(())
}

const LOAD: &str = "
    SELECT tenant, address, state, attempts, accepted_ms, changed_ms, settled_ms, next_attempt_ms, reply_code,
           enhanced_status, reply, reason, last_event, last_kind
    FROM recipients WHERE message = ?1 AND idx = ?2";
const UPSERT: &str = "
    INSERT OR REPLACE INTO recipients (message, idx, tenant, address, state, attempts, accepted_ms, changed_ms, settled_ms,
        next_attempt_ms, reply_code, enhanced_status, reply, reason, last_event, last_kind)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
const INSERT_MESSAGE: &str = "
    INSERT OR IGNORE INTO messages (id, tenant, accepted_ms, credential, domain, interface, reverse_path, bytes, reference,
        campaign, cost_center, class, message_id_header, recipients)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

#[cfg(test)]
mod tests {
    use postrail_schema::event::{AttemptFacts, JobFacts};
    use postrail_schema::ids::{MessageId, RecipientIndex, Revision, TenantId};

    use super::super::super::Ledger;
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
        Batch { events, unread: Vec::new() }
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
            .execute_batch("CREATE TRIGGER crash BEFORE INSERT ON cursors BEGIN SELECT raise(ABORT, 'power'); END")
            .unwrap();
        let events = batch(vec![event(EventKind::Accepted, 1, 10)]);
        assert!(ledger.record(SHARD, at(0), &events, at(100)).is_err());
        assert_eq!(ledger.events(None, 0, 10).unwrap().events, []);
        assert_eq!(ledger.cursor(SHARD).unwrap(), at(0));
        ledger.writer().execute_batch("DROP TRIGGER crash").unwrap();
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
        let unread = Batch { events: Vec::new(), unread: vec![b"noise".to_vec()] };
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
