//! What every ledger does, whatever its database: one suite, run with SQLite and with PostgreSQL.
//!
//! Each case gets an empty ledger. What only one database can do (formats of old, a server that goes away) is tested
//! beside it.

mod accepted;
mod damage;
mod hosts;
mod mirror;
mod suppressions;

use postrail_schema::event::{AttemptFacts, JobFacts};
use postrail_schema::ids::Revision;

use self::accepted::*;
use self::damage::*;
use self::hosts::*;
use self::mirror::*;
use self::suppressions::*;
use super::*;

/// Changes octets.
pub(super) type Edit<'e> = &'e dyn Fn(&mut Vec<u8>);

/// A database with a ledger in it, and hands that damage it.
pub(super) trait Backend {
    /// Opens the ledger, as a process does that starts.
    fn try_open(&self) -> Result<Box<dyn Ledger>, LedgerError>;
    /// Says that the ledger is of a format.
    fn set_format(&self, format: u32);
    /// The only number that a query gives.
    fn number(&self, query: &str) -> u64;
    /// Executes a statement that changes one row.
    fn change(&self, statement: &str);
    /// Rewrites a column of octets of the only row with `filter`.
    fn edit(&self, table: &str, column: &str, filter: &str, edit: Edit<'_>);
    /// Makes the ledger one of before suppressions were counted and their changes had numbers.
    fn forget_numbers(&self);
    /// Whether storing a cursor fails from now on.
    fn fail_cursors(&self, fail: bool);

    fn open(&self) -> Box<dyn Ledger> {
        self.try_open().unwrap()
    }
}

/// A ledger under test, and where the journal of [`JOURNAL`] is read.
pub(super) struct World {
    backend: Box<dyn Backend>,
    ledger: Box<dyn Ledger>,
    at: u64,
}

const JOURNAL: JournalId = JournalId { host: HostId(1), shard: ShardId(0) };

fn at(offset: u64) -> Cursor {
    Cursor { segment: 0, offset }
}

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
        job: accepted.then(|| JobFacts { interface: "smtp".into(), recipients: 1, ..JobFacts::default() }.into()),
        attempt: (!accepted).then_some(attempt),
        reason: kind.name().into(),
        next_attempt_ms: 0,
    }
}

impl World {
    pub(super) fn new(backend: impl Backend + 'static) -> Self {
        Self { ledger: backend.open(), backend: Box::new(backend), at: 0 }
    }

    fn reopen(&mut self) {
        self.ledger = self.backend.open();
    }

    fn try_record(&mut self, events: &[Event], per_buffer: usize) -> Result<(), LedgerError> {
        self.ledger.record(JOURNAL, at(self.at), &Batch::of(events, per_buffer), at(self.at + 1))?;
        self.at += 1;
        Ok(())
    }

    fn record(&mut self, events: &[Event], per_buffer: usize) {
        self.try_record(events, per_buffer).unwrap();
    }

    fn number(&self, query: &str) -> u64 {
        self.backend.number(query)
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

    fn sequences(&self) -> Vec<u64> {
        self.all(None, 1_000).iter().map(|recorded| recorded.sequence).collect()
    }
}

/// Makes the list of cases, and a test with SQLite of each.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[(&str, fn(World))] = &[$((stringify!($name), $name)),*];

        mod with_sqlite {
            $(
                #[test]
                fn $name() {
                    super::$name(super::sqlite::tests::world());
                }
            )*
        }
    };
}

cases![
    a_batch_that_is_pulled_again_after_a_crash_is_not_counted_twice,
    a_batch_whose_writing_fails_leaves_neither_events_nor_cursor,
    an_event_that_the_journal_holds_twice_counts_once,
    what_follows_a_settlement_is_kept_but_does_not_undo_it,
    each_shard_of_each_host_has_its_own_cursor,
    of_two_that_store_the_same_batch_one_is_told_to_look_again,
    two_that_store_other_journals_at_once_keep_one_order,
    bytes_that_are_no_events_are_kept_apart,
    a_page_of_one_tenant_skips_the_others_and_goes_on_at_its_cursor,
    events_keep_their_order_and_sequence_over_the_borders_of_chunks,
    a_buffer_larger_than_a_chunk_has_one_of_its_own,
    a_tenants_pages_pass_over_the_chunks_of_others_and_miss_nothing,
    a_page_looks_at_a_bounded_number_of_events_also_where_it_passes_chunks_over,
    an_event_counts_once_however_many_chunks_lie_between,
    an_event_of_the_same_kind_and_time_that_says_something_else_is_kept,
    a_job_of_many_recipients_is_told_of_each_and_page_by_page,
    hosts_whose_clocks_differ_lose_nothing,
    two_journals_that_tell_of_one_mail_are_one_history_whichever_comes_first,
    what_is_told_late_of_mail_that_waits_does_not_undo_what_is_newer,
    a_journal_that_is_told_again_behind_anothers_late_events_counts_once,
    an_acceptance_that_two_journals_tell_of_is_looked_up_and_not_written_over,
    what_is_accepted_is_counted_by_day_tenant_and_host,
    an_acceptance_is_counted_once_with_its_batch_or_not_at_all,
    who_asks_again_is_told_what_has_grown_since_and_days_of_before_can_go,
    what_another_ledger_wrote_is_seen,
    a_batch_that_fails_leaves_nothing_in_memory_either,
    a_damaged_chunk_is_an_error_with_its_sequence,
    damaged_recipients_are_an_error_with_their_message,
    a_ledger_of_a_newer_format_is_refused,
    suppressions_are_kept_once_and_paged_by_tenant_and_address,
    suppressions_are_counted_whoever_writes_them,
    a_tenant_has_a_limit_of_its_own_and_is_told_of_no_other,
    changes_of_suppressions_are_numbered_whoever_makes_them,
    what_has_changed_leads_from_any_list_to_the_present_one_or_is_not_told,
    those_who_change_suppressions_at_once_leave_one_order_without_gaps,
    a_ledger_of_before_changes_had_numbers_begins_to_number_them,
    a_suppression_is_changed_only_while_it_says_what_was_read,
    copies_are_told_from_what_is_the_ledgers_own_and_only_they_are_removed,
    that_everything_was_taken_over_is_known_for_good,
    acts_are_written_before_they_are_done_and_read_from_the_newest,
    a_number_is_given_to_one_of_those_who_want_it,
    a_ledger_knows_which_it_is_whoever_opens_it,
];

fn a_batch_that_is_pulled_again_after_a_crash_is_not_counted_twice(mut world: World) {
    let events = Batch::of(&[event(EventKind::Accepted, 1, 0, 10), event(EventKind::Delivered, 1, 0, 20)], 2);
    world.ledger.record(JOURNAL, at(0), &events, at(100)).unwrap();
    world.reopen();
    assert_eq!(world.ledger.cursor(JOURNAL).unwrap(), at(100));
    let again = world.ledger.record(JOURNAL, at(0), &events, at(100));
    assert!(matches!(again, Err(LedgerError::StaleCursor { stored, .. }) if stored == at(100)));
    assert_eq!(world.sequences(), [1, 2]);
}

fn a_batch_whose_writing_fails_leaves_neither_events_nor_cursor(mut world: World) {
    world.backend.fail_cursors(true);
    let accepted = [event(EventKind::Accepted, 1, 0, 10)];
    assert!(world.try_record(&accepted, 1).is_err());
    assert_eq!((world.sequences(), world.ledger.cursor(JOURNAL).unwrap()), (vec![], at(0)));
    world.backend.fail_cursors(false);
    world.record(&accepted, 1);
    assert_eq!(world.sequences(), [1]);
}

fn an_event_that_the_journal_holds_twice_counts_once(mut world: World) {
    let (accepted, delivered) = (event(EventKind::Accepted, 1, 0, 10), event(EventKind::Delivered, 1, 0, 20));
    world.record(&[accepted.clone(), delivered.clone(), delivered.clone()], 128);
    world.record(&[accepted, delivered], 128);
    assert_eq!(world.sequences(), [1, 2]);
    world.record(&[event(EventKind::Complained, 1, 0, 20)], 128);
    assert_eq!(world.sequences(), [1, 2, 3], "another kind at the same time is no repetition");
}

fn what_follows_a_settlement_is_kept_but_does_not_undo_it(mut world: World) {
    let waits = [(EventKind::Accepted, 10), (EventKind::Deferred, 20), (EventKind::Delivered, 30)];
    let later = [(EventKind::Bounced, 40), (EventKind::Complained, 50)];
    for (kind, at_ms) in waits.into_iter().chain(later) {
        world.record(&[event(kind, 1, 0, at_ms)], 1);
    }
    let recipients = world.ledger.recipients(MessageId::from_bits(1), RecipientIndex(0), 10).unwrap();
    assert_eq!(recipients[0].state, EventKind::Delivered);
    assert_eq!((recipients[0].settled_ms, recipients[0].changed_ms), (30, 50));
    let kinds: Vec<_> = world.kinds(1, None).into_iter().map(|(_, kind)| kind).collect();
    let wanted: Vec<_> = waits.into_iter().chain(later).map(|(kind, _)| kind).collect();
    assert_eq!(kinds, wanted);
}

fn each_shard_of_each_host_has_its_own_cursor(mut world: World) {
    let journals =
        [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(host, shard)| JournalId { host: HostId(host), shard: ShardId(shard) });
    for (place, journal) in (1..).zip(journals) {
        let accepted = Batch::of(&[event(EventKind::Accepted, u128::from(place), 0, 10)], 1);
        world.ledger.record(journal, at(0), &accepted, at(place)).unwrap();
    }
    world.reopen();
    assert_eq!(journals.map(|journal| world.ledger.cursor(journal).unwrap()), [1, 2, 3, 4].map(at));
    assert_eq!(world.sequences(), [1, 2, 3, 4]);
}

fn of_two_that_store_the_same_batch_one_is_told_to_look_again(world: World) {
    let ledgers = [world.backend.open(), world.backend.open()];
    for round in 0..20_u64 {
        let events = Batch::of(&[event(EventKind::Accepted, u128::from(round) + 1, 0, 10)], 1);
        let (ledgers, events) = (&ledgers, &events);
        let stored = std::thread::scope(|scope| {
            let both = ledgers
                .each_ref()
                .map(|ledger| scope.spawn(move || ledger.record(JOURNAL, at(round), events, at(round + 1))));
            both.map(|one| one.join().unwrap())
        });
        assert_eq!(stored.iter().filter(|stored| stored.is_ok()).count(), 1, "{stored:?}");
        let stale =
            |error: &LedgerError| matches!(error, LedgerError::StaleCursor { stored, .. } if *stored == at(round + 1));
        assert!(stored.iter().filter_map(|stored| stored.as_ref().err()).all(stale), "{stored:?}");
    }
    assert_eq!(world.sequences(), (1..=20).collect::<Vec<_>>());
}

fn two_that_store_other_journals_at_once_keep_one_order(world: World) {
    let ledgers = [world.backend.open(), world.backend.open()];
    std::thread::scope(|scope| {
        for (host, ledger) in (1..).zip(&ledgers) {
            let journal = JournalId { host: HostId(host), ..JOURNAL };
            scope.spawn(move || {
                for step in 0..30_u64 {
                    let message = u128::from(step / 2) * 2 + u128::from(host);
                    let kind = if step % 2 == 0 { EventKind::Accepted } else { EventKind::Delivered };
                    let batch = Batch::of(&[event(kind, message, 0, 10 + step)], 1);
                    ledger.record(journal, at(step), &batch, at(step + 1)).unwrap();
                }
            });
        }
    });
    assert_eq!(world.sequences(), (1..=60).collect::<Vec<_>>());
    for message in 1..=30 {
        let kinds: Vec<_> = world.kinds(message, Some(0)).into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(kinds, [EventKind::Accepted, EventKind::Delivered], "message {message}");
    }
}

fn bytes_that_are_no_events_are_kept_apart(world: World) {
    let unread = Batch::read(frames(&[
        &b"noise"[..],
        &postrail_schema::wire::encode_events(&[event(EventKind::Accepted, 1, 0, 10)]),
    ]));
    world.ledger.record(JOURNAL, at(0), &unread, at(9)).unwrap();
    assert_eq!(world.number("SELECT length(body) FROM unread WHERE host = 1 AND shard = 0"), 5);
    assert_eq!(world.sequences(), [1]);
}

fn a_page_of_one_tenant_skips_the_others_and_goes_on_at_its_cursor(mut world: World) {
    let events = (1..=6_u32)
        .map(|n| Event { tenant: TenantId(n % 2), ..event(EventKind::Accepted, u128::from(n), 0, u64::from(n)) });
    world.record(&events.collect::<Vec<_>>(), 128);
    let page = world.ledger.events(Some(TenantId(1)), 0, 2).unwrap();
    assert_eq!(page.events.iter().map(|recorded| recorded.sequence).collect::<Vec<_>>(), [1, 3]);
    assert!(page.more);
    let page = world.ledger.events(Some(TenantId(1)), page.cursor, 2).unwrap();
    assert_eq!(page.events.iter().map(|recorded| recorded.sequence).collect::<Vec<_>>(), [5]);
}

fn events_keep_their_order_and_sequence_over_the_borders_of_chunks(mut world: World) {
    let mut before = 0;
    let mut events = Vec::new();
    for (per_buffer, batch) in [(1, 1), (1, 300), (7, 1_000), (128, 1_000), (300, 600)] {
        let some: Vec<_> = (before + 1..=before + 1_000).map(|n| event(EventKind::Accepted, n, 0, 10)).collect();
        some.chunks(batch).for_each(|some| world.record(some, per_buffer));
        before += 1_000;
        events.extend(some);
        assert!(world.number("SELECT count(*) FROM events") > 1);
        assert_eq!(u128::from(world.number("SELECT sum(count) FROM events")), before);
    }
    for limit in [13, 255, 256, 257, 1_000] {
        let all = world.all(None, limit);
        assert!(all.iter().map(|recorded| recorded.sequence).eq(1..=5_000));
        assert!(all.iter().map(|recorded| &recorded.event).eq(&events));
    }
    for sequence in [1, 256, 257, 512, 1_000, 1_256, 1_300, 3_128, 4_300, 5_000] {
        assert_eq!(world.kinds(sequence, Some(0)), [(sequence as u64, EventKind::Accepted)]);
    }
}

fn a_buffer_larger_than_a_chunk_has_one_of_its_own(mut world: World) {
    // Each is another, or a buffer would hold it once.
    let long = |n: u128| Event { reason: format!("{n:04}").repeat(250), ..event(EventKind::Accepted, n, 0, 10) };
    let events: Vec<_> = (1..=200).map(long).collect();
    world.record(&events[..1], 1);
    world.record(&events[1..], 100);
    assert_eq!(world.number("SELECT count(*) FROM events"), 3);
    assert!(world.number("SELECT max(length(body)) FROM events") > 64 * 1024);
    assert!(world.all(None, 1_000).into_iter().map(|recorded| recorded.event).eq(events));
}

fn a_tenants_pages_pass_over_the_chunks_of_others_and_miss_nothing(mut world: World) {
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

fn a_page_looks_at_a_bounded_number_of_events_also_where_it_passes_chunks_over(mut world: World) {
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

fn an_event_counts_once_however_many_chunks_lie_between(mut world: World) {
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

fn an_event_of_the_same_kind_and_time_that_says_something_else_is_kept(mut world: World) {
    let deferred = event(EventKind::Deferred, 1, 0, 20);
    let other = Event { reason: "greylisted".into(), ..deferred.clone() };
    world.record(&[event(EventKind::Accepted, 1, 0, 10), deferred.clone(), other.clone(), deferred], 2);
    world.record(&[other], 1);
    assert_eq!(world.kinds(1, None).len(), 3);
    assert_eq!(world.ledger.recipients(MessageId::from_bits(1), RecipientIndex(0), 1).unwrap()[0].reason, "greylisted");
}

fn a_job_of_many_recipients_is_told_of_each_and_page_by_page(mut world: World) {
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

fn what_another_ledger_wrote_is_seen(mut world: World) {
    world.record(&[event(EventKind::Accepted, 1, 0, 10)], 1);
    let other = world.backend.open();
    let both = [event(EventKind::Deferred, 1, 0, 20), event(EventKind::Accepted, 2, 0, 20)];
    other.record(JOURNAL, at(1), &Batch::of(&both, 2), at(2)).unwrap();
    world.at = 2;
    world.record(&[event(EventKind::Accepted, 2, 0, 20), event(EventKind::Delivered, 1, 0, 30)], 2);
    assert_eq!(world.kinds(1, None).len(), 3);
    assert_eq!(world.kinds(2, None), [(3, EventKind::Accepted)]);
}

fn a_batch_that_fails_leaves_nothing_in_memory_either(mut world: World) {
    world.backend.fail_cursors(true);
    let accepted = event(EventKind::Accepted, 1, 0, 10);
    assert!(world.try_record(std::slice::from_ref(&accepted), 1).is_err());
    world.backend.fail_cursors(false);
    world.record(&[accepted, event(EventKind::Delivered, 1, 0, 20)], 1);
    assert_eq!(world.kinds(1, None), [(1, EventKind::Accepted), (2, EventKind::Delivered)]);
}

fn a_ledger_of_a_newer_format_is_refused(world: World) {
    world.backend.set_format(FORMAT + 1);
    let newer = |error: &LedgerError| matches!(error, LedgerError::NewerFormat { found } if *found == FORMAT + 1);
    assert!(world.backend.try_open().is_err_and(|error| newer(&error)));
}

fn a_suppression_is_changed_only_while_it_says_what_was_read(world: World) {
    let record = |reason: &str| SuppressionRecord {
        suppression: Suppression { tenant: TenantId(1), address: "a@receiver.example".to_owned() },
        reason: reason.to_owned(),
        created_ms: 5,
    };
    let ledger = &world.ledger;
    let is_refused = |done: Result<bool, LedgerError>| matches!(done, Err(LedgerError::SuppressionChanged));
    assert!(is_refused(ledger.suppress(&record("mine"), Some("read"))), "there is none");
    ledger.suppress(&record("read"), None).unwrap();
    assert!(!ledger.suppress(&record("theirs"), Some("read")).unwrap());
    assert!(is_refused(ledger.suppress(&record("mine"), Some("read"))));
    assert!(is_refused(ledger.unsuppress(&record("").suppression, Some("read"))));
    assert_eq!(ledger.suppression(&record("").suppression).unwrap(), Some(record("theirs")));
    assert!(ledger.unsuppress(&record("").suppression, Some("theirs")).unwrap());
    assert!(is_refused(ledger.unsuppress(&record("").suppression, Some("theirs"))));
}

fn suppressions_are_kept_once_and_paged_by_tenant_and_address(mut world: World) {
    let record = |tenant: u32, address: &str, reason: &str| SuppressionRecord {
        suppression: Suppression { tenant: TenantId(tenant), address: address.to_owned() },
        reason: reason.to_owned(),
        created_ms: 5,
    };
    let addresses = ["b@x.example", "B@x.example", "a_b@x.example", "ab@x.example", "\u{e4}@x.example"];
    for (tenant, address) in
        [2, 1, 4_000_000_000].into_iter().flat_map(|tenant| addresses.map(|address| (tenant, address)))
    {
        assert!(world.ledger.suppress(&record(tenant, address, "asked to"), None).unwrap());
    }
    let renewed = record(2, "b@x.example", "bounced");
    assert!(!world.ledger.suppress(&renewed, None).unwrap(), "it was there");
    world.reopen();
    assert_eq!(world.ledger.suppression(&renewed.suppression).unwrap(), Some(renewed.clone()));
    let all = world.suppressions().1;
    assert_eq!(all.len(), 15);
    assert!(all.is_sorted_by_key(|one| (one.tenant, one.address.clone())), "{all:?}");
    for (tenant, wanted) in
        [(None, 0..15), (Some(TenantId(1)), 0..5), (Some(TenantId(4_000_000_000)), 10..15), (Some(TenantId(3)), 0..0)]
    {
        for limit in [1, 4, 100] {
            let mut paged: Vec<Suppression> = Vec::new();
            loop {
                let page = world.ledger.suppressions(tenant, paged.last(), limit).unwrap();
                if page.is_empty() {
                    break;
                }
                assert!(page.len() <= limit as usize);
                paged.extend(page.into_iter().map(|record| record.suppression));
            }
            assert_eq!(paged, all[wanted.clone()], "{tenant:?} by {limit}");
        }
    }
    assert!(world.ledger.unsuppress(&renewed.suppression, None).unwrap());
    assert!(!world.ledger.unsuppress(&renewed.suppression, None).unwrap());
    assert_eq!(world.ledger.suppression(&renewed.suppression).unwrap(), None);
    assert_eq!(world.suppressions().1.len(), 14);
}

fn acts_are_written_before_they_are_done_and_read_from_the_newest(mut world: World) {
    let begun: Vec<_> =
        (0..5).map(|n| world.ledger.audit_begin(1_000 + n, "operator", &format!("POST /v2/{n}")).unwrap()).collect();
    assert!(begun.is_sorted_by(|one, next| one < next));
    world.ledger.audit_detail(begun[3], r#"{"revision":1}"#).unwrap();
    world.ledger.audit_detail(begun[3], r#"{"revision":2}"#).unwrap();
    world.ledger.audit_end(begun[3], 201).unwrap();
    world.reopen();
    let records = world.ledger.audit(0, 2).unwrap();
    let told = |record: &AuditRecord| (record.sequence, record.at_ms, record.action.clone(), record.status);
    let wanted = [(begun[4], 1_004, "POST /v2/4".to_owned(), 0), (begun[3], 1_003, "POST /v2/3".to_owned(), 201)];
    assert_eq!(records.iter().map(told).collect::<Vec<_>>(), wanted);
    assert_eq!(records[0].actor, "operator");
    assert_eq!((records[0].detail.as_str(), records[1].detail.as_str()), ("", r#"{"revision":2}"#));
    let rest: Vec<_> = world.ledger.audit(begun[3], 10).unwrap().iter().map(|record| record.sequence).collect();
    assert_eq!(rest, [begun[2], begun[1], begun[0]]);
    assert_eq!(world.ledger.audit(begun[0], 10).unwrap(), []);
}

pub(super) fn a_number_is_given_to_one_of_those_who_want_it(mut world: World) {
    let given = |tenant: u32, key: u32| Given::from([("tenant".to_owned(), tenant), ("key".to_owned(), key)]);
    assert_eq!(world.ledger.given().unwrap(), Given::new());
    assert!(world.ledger.give(&given(0, 0), &given(3, 0)).unwrap());
    // Keys are given by one, and tenants meanwhile by another.
    assert!(world.ledger.give(&given(2, 0), &given(2, 5)).unwrap());
    world.reopen();
    assert_eq!(world.ledger.given().unwrap(), given(3, 5));
    for taken in [given(3, 6), given(4, 6), given(9, 5)] {
        assert!(!world.ledger.give(&given(2, 4), &taken).unwrap(), "{taken:?}");
    }
    assert_eq!(world.ledger.given().unwrap(), given(3, 5));
    // Of many at once, each number goes to one.
    let ledgers: Vec<_> = (0..4).map(|_| world.backend.open()).collect();
    let all = std::thread::scope(|scope| {
        let takers = ledgers.iter().map(|ledger| {
            scope.spawn(move || {
                let mut taken = Vec::new();
                while taken.len() < 10 {
                    let known = ledger.given().unwrap();
                    let next = known["tenant"] + 1;
                    if ledger.give(&known, &Given::from([("tenant".to_owned(), next)])).unwrap() {
                        taken.push(next);
                    }
                }
                taken
            })
        });
        let takers: Vec<_> = takers.collect();
        takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
    });
    assert_eq!(all, (4..=43).collect());
}

fn a_ledger_knows_which_it_is_whoever_opens_it(mut world: World) {
    let id = world.ledger.id().unwrap();
    assert_eq!(world.backend.open().id().unwrap(), id);
    world.reopen();
    assert_eq!(world.ledger.id().unwrap(), id);
    let other = sqlite::tests::world().ledger.id().unwrap();
    assert!(id != other && id != 0 && other != 0, "{id:x} {other:x}");
    assert_eq!(world.number("SELECT count(*) FROM identity"), 1);
}
