//! Chunks, parts and pages as the ledger's callers see them, over many batches and with damaged rows.

use postrail_schema::event::{AttemptFacts, Event, EventKind, JobFacts};
use postrail_schema::ids::Revision;

use super::*;

const SHARD: ShardId = ShardId(0);

fn event(kind: EventKind, message: u128, index: u16, at_ms: u64) -> Event {
    let accepted = kind == EventKind::Accepted;
    let attempt = AttemptFacts { number: 1, reply_code: 250, reply: "ok".into(), ..AttemptFacts::default() };
    Event {
        kind,
        message: MessageId::from_bits(message),
        index: RecipientIndex(index),
        at_ms,
        revision: Revision(1),
        tenant: TenantId(1),
        address: if accepted { format!("r{index}@receiver.example") } else { String::new() },
        job: accepted.then(|| JobFacts { interface: "smtp".into(), recipients: 1, ..JobFacts::default() }),
        attempt: (!accepted).then_some(attempt),
        reason: kind.name().into(),
        next_attempt_ms: 0,
    }
}

struct World {
    folder: tempfile::TempDir,
    ledger: SqliteLedger,
    at: u64,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(&folder.path().join("ledger.db")).unwrap();
        Self { folder, ledger, at: 0 }
    }

    fn reopen(&mut self) {
        self.ledger = SqliteLedger::open(&self.folder.path().join("ledger.db")).unwrap();
    }

    fn try_record(&mut self, events: &[Event], per_buffer: usize) -> Result<(), LedgerError> {
        let cursor = |offset| Cursor { segment: 0, offset };
        self.ledger.record(SHARD, cursor(self.at), &Batch::of(events, per_buffer), cursor(self.at + 1))?;
        self.at += 1;
        Ok(())
    }

    fn record(&mut self, events: &[Event], per_buffer: usize) {
        self.try_record(events, per_buffer).unwrap();
    }

    fn number(&self, query: &str) -> u64 {
        self.ledger.reader().query_row(query, [], |row| row.get(0)).unwrap()
    }

    fn damage(&self, statement: &str) {
        assert_eq!(self.ledger.writer().connection.execute(statement, []).unwrap(), 1, "{statement}");
    }

    /// Every event, by pages of `limit`.
    fn all(&self, tenant: Option<TenantId>, limit: u32) -> Vec<Recorded> {
        let (mut all, mut cursor) = (Vec::new(), 0);
        loop {
            let page = self.ledger.events(tenant, cursor, limit).unwrap();
            assert!(page.events.len() <= limit as usize && page.cursor >= cursor);
            all.extend(page.events);
            cursor = page.cursor;
            if !page.more {
                return all;
            }
        }
    }

    fn kinds(&self, message: u128, index: Option<u16>) -> Vec<(u64, EventKind)> {
        let trace = self.ledger.trace(MessageId::from_bits(message), index.map(RecipientIndex), 1_000).unwrap();
        trace.into_iter().map(|recorded| (recorded.sequence, recorded.event.kind)).collect()
    }
}

#[test]
fn events_keep_their_order_and_sequence_over_the_borders_of_chunks() {
    for (per_buffer, batch) in [(1, 1), (1, 300), (7, 1_000), (128, 1_000), (300, 600)] {
        let mut world = World::new();
        let events: Vec<_> = (1..=1_000).map(|n| event(EventKind::Accepted, n, 0, 10)).collect();
        events.chunks(batch).for_each(|some| world.record(some, per_buffer));
        assert!(world.number("SELECT count(*) FROM events") > 1);
        assert_eq!(world.number("SELECT sum(count) FROM events"), 1_000);
        for limit in [1, 255, 256, 257, 1_000] {
            let all = world.all(None, limit);
            assert_eq!(
                all.iter().map(|recorded| recorded.sequence).collect::<Vec<_>>(),
                (1..=1_000).collect::<Vec<_>>()
            );
            assert!(all.iter().map(|recorded| &recorded.event).eq(&events));
        }
        for sequence in [1, 256, 257, 512, 1_000] {
            assert_eq!(world.kinds(sequence, Some(0)), [(sequence as u64, EventKind::Accepted)]);
        }
    }
}

#[test]
fn a_buffer_larger_than_a_chunk_has_one_of_its_own() {
    let mut world = World::new();
    let long = |n| Event { reason: "x".repeat(1_000), ..event(EventKind::Accepted, n, 0, 10) };
    let events: Vec<_> = (1..=200).map(long).collect();
    world.record(&events[..1], 1);
    world.record(&events[1..], 100);
    assert_eq!(world.number("SELECT count(*) FROM events"), 3);
    assert!(world.number("SELECT max(length(body)) FROM events") > 64 * 1024);
    assert!(world.all(None, 1_000).into_iter().map(|recorded| recorded.event).eq(events));
}

#[test]
fn a_tenants_pages_pass_over_the_chunks_of_others_and_miss_nothing() {
    let mut world = World::new();
    let of = |tenant: u32, n: u128| Event { tenant: TenantId(tenant), ..event(EventKind::Accepted, n, 0, 10) };
    // Chunks of one tenant, of two, and of more than are listed.
    let first = (1..=600).map(|n| of(1, n));
    let second = (601..=1_200).map(|n| of(if n % 50 == 0 { 2 } else { 3 }, n));
    let third = (1_201..=1_800).map(|n| of((n % 100) as u32, n));
    let events: Vec<_> = first.chain(second).chain(third).collect();
    events.chunks(600).for_each(|some| world.record(some, 16));
    assert!(world.number("SELECT count(*) FROM events WHERE length(tenants) = 0") > 0);
    for tenant in [1, 2, 3, 99, 1_000].map(TenantId) {
        for limit in [1, 5, 1_000] {
            let found: Vec<_> = world.all(Some(tenant), limit).into_iter().map(|recorded| recorded.sequence).collect();
            let wanted: Vec<_> =
                (1..).zip(&events).filter(|(_, event)| event.tenant == tenant).map(|(at, _): (u64, _)| at).collect();
            assert_eq!(found, wanted, "{tenant} by {limit}");
        }
    }
    let none = world.ledger.events(Some(TenantId(1_000)), 0, 10).unwrap();
    assert_eq!((none.events.len(), none.cursor, none.more), (0, 1_800, false));
}

#[test]
fn a_page_looks_at_a_bounded_number_of_events_also_where_it_passes_chunks_over() {
    let mut world = World::new();
    let events: Vec<_> = (1..=20_100).map(|n| event(EventKind::Accepted, n, 0, 10)).collect();
    world.record(&events, 128);
    for tenant in [TenantId(1), TenantId(2)] {
        let limit = if tenant.0 == 1 { u32::MAX } else { 10 };
        let page = world.ledger.events(Some(tenant), 0, limit).unwrap();
        assert_eq!((page.cursor, page.more), (20_000, true));
        let page = world.ledger.events(Some(tenant), page.cursor, limit).unwrap();
        assert_eq!((page.cursor, page.more), (20_100, false));
    }
}

#[test]
fn an_event_counts_once_however_many_chunks_lie_between() {
    let mut world = World::new();
    let repeated = [event(EventKind::Accepted, 1, 0, 10), event(EventKind::Deferred, 1, 0, 20)];
    world.record(&repeated, 2);
    let others: Vec<_> = (2..=800).map(|n| event(EventKind::Accepted, n, 0, 15)).collect();
    world.record(&others, 16);
    // Within a buffer of others, and after a start, which knows nothing of recent mail.
    for _ in 0..2 {
        let mixed = [&repeated[..1], &others[..3], &repeated[1..]].concat();
        world.record(&mixed, 8);
        world.reopen();
    }
    assert_eq!(world.number("SELECT sum(count) FROM events"), 801);
    let last = event(EventKind::Delivered, 1, 0, 20);
    world.record(&[repeated[1].clone(), last.clone(), others[0].clone(), last], 4);
    let kinds = [(1, EventKind::Accepted), (2, EventKind::Deferred), (802, EventKind::Delivered)];
    assert_eq!(world.kinds(1, Some(0)), kinds);
    let sequences: Vec<_> = world.all(None, 1_000).iter().map(|recorded| recorded.sequence).collect();
    assert_eq!(sequences, (1..=802).collect::<Vec<_>>());
}

#[test]
fn an_event_of_the_same_kind_and_time_that_says_something_else_is_kept() {
    let mut world = World::new();
    let deferred = event(EventKind::Deferred, 1, 0, 20);
    let other = Event { reason: "greylisted".into(), ..deferred.clone() };
    world.record(&[event(EventKind::Accepted, 1, 0, 10), deferred.clone(), other.clone(), deferred], 2);
    world.record(&[other], 1);
    assert_eq!(world.kinds(1, None).len(), 3);
    assert_eq!(world.ledger.recipients(MessageId::from_bits(1), RecipientIndex(0), 1).unwrap()[0].reason, "greylisted");
}

#[test]
fn a_job_of_many_recipients_is_told_of_each_and_page_by_page() {
    let mut world = World::new();
    let accepted: Vec<_> = (0..1_000).map(|index| event(EventKind::Accepted, 7, index, 10)).collect();
    let settled: Vec<_> = (0..1_000)
        .rev()
        .map(|index| event(if index % 2 == 0 { EventKind::Delivered } else { EventKind::Deferred }, 7, index, 20))
        .collect();
    world.record(&accepted, 128);
    settled.chunks(90).for_each(|some| world.record(some, 128));
    let message = MessageId::from_bits(7);
    let all = world.ledger.recipients(message, RecipientIndex(0), 1_000).unwrap();
    assert_eq!(all.len(), 1_000);
    for (index, recipient) in (0..).zip(&all) {
        assert_eq!((recipient.key.index.0, &recipient.address), (index, &format!("r{index}@receiver.example")));
        let wanted = if index % 2 == 0 { (EventKind::Delivered, 20) } else { (EventKind::Deferred, 0) };
        assert_eq!((recipient.state, recipient.settled_ms), wanted);
        assert_eq!((recipient.accepted_ms, recipient.changed_ms, recipient.attempts), (10, 20, 1));
    }
    for (from, limit) in [(0, 1), (31, 2), (32, 32), (990, 100), (1_000, 5)] {
        let page = world.ledger.recipients(message, RecipientIndex(from), limit).unwrap();
        let begin = usize::from(from);
        assert_eq!(page, all[begin..(begin + limit as usize).min(1_000)]);
    }
    assert_eq!(world.number("SELECT count(*) FROM recipients"), 32);
    assert_eq!(world.ledger.trace(message, None, 1_000).unwrap().len(), 1_000);
    assert_eq!(world.kinds(7, Some(999)).len(), 2);
    assert_eq!(world.kinds(7, Some(1_000)), []);
}

#[test]
fn what_another_connection_wrote_is_seen() {
    let mut world = World::new();
    world.record(&[event(EventKind::Accepted, 1, 0, 10)], 1);
    let other = SqliteLedger::open(&world.folder.path().join("ledger.db")).unwrap();
    let cursor = |offset| Cursor { segment: 0, offset };
    let both = [event(EventKind::Deferred, 1, 0, 20), event(EventKind::Accepted, 2, 0, 20)];
    other.record(SHARD, cursor(1), &Batch::of(&both, 2), cursor(2)).unwrap();
    world.at = 2;
    world.record(&[event(EventKind::Accepted, 2, 0, 20), event(EventKind::Delivered, 1, 0, 30)], 2);
    assert_eq!(world.kinds(1, None).len(), 3);
    assert_eq!(world.kinds(2, None), [(3, EventKind::Accepted)]);
}

#[test]
fn a_batch_that_fails_leaves_nothing_in_memory_either() {
    let mut world = World::new();
    let trigger = "CREATE TRIGGER crash BEFORE INSERT ON cursors BEGIN SELECT raise(ABORT, 'power'); END";
    world.ledger.writer().connection.execute_batch(trigger).unwrap();
    let accepted = event(EventKind::Accepted, 1, 0, 10);
    assert!(world.try_record(std::slice::from_ref(&accepted), 1).is_err());
    world.ledger.writer().connection.execute_batch("DROP TRIGGER crash").unwrap();
    world.record(&[accepted, event(EventKind::Delivered, 1, 0, 20)], 1);
    assert_eq!(world.kinds(1, None), [(1, EventKind::Accepted), (2, EventKind::Delivered)]);
}

#[test]
fn a_damaged_chunk_is_an_error_with_its_sequence() {
    let damages = [
        "links = x''",
        "links = x'ff'",
        "links = x'ffffffffffffffffff01'",
        "links = x'0201'",
        "links = links || x'0100'",
        "links = 7",
        "count = 0",
        "count = 9000000000",
        "count = -1",
        "count = 'x'",
        "body = x''",
        "body = 'text'",
        "body = substr(body, 1, length(body) - 1)",
        "body = body || x'00'",
        "body = zeroblob(length(body))",
        "body = substr(body, 1, 4) || zeroblob(length(body) - 4)",
        "body = x'ffffffff' || substr(body, 5)",
    ];
    for damage in damages {
        let mut world = World::new();
        world.record(&[event(EventKind::Accepted, 1, 0, 10)], 1);
        world.record(&[event(EventKind::Accepted, 2, 0, 10), event(EventKind::Delivered, 2, 0, 20)], 2);
        world.damage(&format!("UPDATE events SET {damage} WHERE first = 2"));
        let id = MessageId::from_bits(2);
        let corrupt = |error: LedgerError| matches!(error, LedgerError::Corrupt { sequence: 2 | 3 });
        assert!(world.ledger.events(None, 0, 10).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.recipients(id, RecipientIndex(0), 10).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.message(id).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.trace(id, None, 10).is_err_and(corrupt), "{damage}");
        assert_eq!(world.kinds(1, None).len(), 1, "{damage}: what lies elsewhere is read");
    }
}

#[test]
fn damaged_recipients_are_an_error_with_their_message() {
    let damages = ["events = x'00'", "events = x'20' || substr(events, 2)", "events = events || events", "events = 7"];
    for damage in damages.into_iter().chain(["events = zeroblob(9)", "part = 2048", "part = 'x'"]) {
        let mut world = World::new();
        world.record(&[event(EventKind::Accepted, 2, 0, 10)], 1);
        world.damage(&format!("UPDATE recipients SET {damage}"));
        let id = MessageId::from_bits(2);
        let corrupt = |error: LedgerError| matches!(error, LedgerError::CorruptRecipients { message } if message == id);
        assert!(world.ledger.recipients(id, RecipientIndex(0), 10).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.message(id).is_err_and(corrupt), "{damage}");
        assert!(world.ledger.trace(id, None, 10).is_err_and(corrupt), "{damage}");
        assert_eq!(world.all(None, 10).len(), 1, "{damage}: its events are read");
    }
}

#[test]
fn a_ledger_of_a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    drop(SqliteLedger::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", FORMAT + 1).unwrap();
    assert!(matches!(SqliteLedger::open(&path), Err(LedgerError::NewerFormat { found }) if found == FORMAT + 1));
}
