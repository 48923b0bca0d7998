//! Journals of several hosts. Mail moves between them, so that events of one recipient come out of two, in any order.

use super::*;

/// The host that accepted, and the one that the mail moved to.
const A: JournalId = JOURNAL;
const B: JournalId = JournalId { host: HostId(2), ..JOURNAL };

/// What stores several journals, each from its beginning.
struct Journals {
    world: World,
    read: BTreeMap<JournalId, u64>,
}

impl Journals {
    fn new(world: World) -> Self {
        Self { world, read: BTreeMap::new() }
    }

    fn try_tell(&mut self, journal: JournalId, events: &[Event]) -> Result<(), LedgerError> {
        let read = self.read.entry(journal).or_default();
        self.world.ledger.record(journal, at(*read), &Batch::of(events, 64), at(*read + 1))?;
        *read += 1;
        Ok(())
    }

    fn tell(&mut self, journal: JournalId, events: &[Event]) {
        self.try_tell(journal, events).unwrap();
    }

    /// So much other mail that nothing of what was told before is in memory, of a host whose clock is behind.
    fn forget_recent(&mut self) {
        let begun = self.world.number("SELECT count(*) FROM recipients");
        let other = |n: u64| event(EventKind::Accepted, id(10, 100_000 + begun + n), 0, 10);
        for some in 0..2 {
            let mail: Vec<_> = (some * 9_000..(some + 1) * 9_000).map(other).collect();
            self.tell(JournalId { host: HostId(3), ..JOURNAL }, &mail);
        }
    }

    fn recipient(&self, message: u128) -> Recipient {
        let mut found = self.world.ledger.recipients(MessageId::from_bits(message), RecipientIndex(0), 9).unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    fn trace(&self, message: u128) -> Vec<EventKind> {
        self.world.kinds(message, Some(0)).into_iter().map(|(_, kind)| kind).collect()
    }
}

fn id(ms: u64, n: u64) -> u128 {
    MessageId::new(ms, ShardId(0), n).bits()
}

fn attempt(kind: EventKind, message: u128, at_ms: u64, number: u16) -> Event {
    let reply = format!("attempt {number}");
    let attempt = Some(AttemptFacts { number, reply_code: 450, reply, ..AttemptFacts::default() });
    Event { attempt, ..event(kind, message, 0, at_ms) }
}

/// What the two hosts' journals tell of a mail that was deferred by both, and then delivered.
fn told(message: u128) -> [(JournalId, Vec<Event>); 2] {
    let at_a = vec![event(EventKind::Accepted, message, 0, 1_000), attempt(EventKind::Deferred, message, 2_000, 1)];
    let at_b = vec![attempt(EventKind::Deferred, message, 3_000, 2), attempt(EventKind::Delivered, message, 4_000, 3)];
    [(A, at_a), (B, at_b)]
}

const ALL: [EventKind; 4] = [EventKind::Accepted, EventKind::Deferred, EventKind::Deferred, EventKind::Delivered];

pub(super) fn hosts_whose_clocks_differ_lose_nothing(world: World) {
    // Both use shard 0; the second host's clock is behind, so that its ids are older than all that was stored before.
    let store = |journal, place, events: &[Event]| {
        world.ledger.record(journal, at(place), &Batch::of(events, 16), at(place + 1)).unwrap();
    };
    for n in 0..50 {
        let (ahead, late) = (id(2_000_000 + n, n), id(1_000_000 + n, n));
        store(A, n, &[event(EventKind::Accepted, ahead, 0, 10), event(EventKind::Deferred, ahead, 0, 20)]);
        store(B, 2 * n, &[event(EventKind::Accepted, late, 0, 10)]);
        store(B, 2 * n + 1, &[event(EventKind::Accepted, late, 0, 10), event(EventKind::Delivered, late, 0, 20)]);
    }
    assert_eq!(world.sequences(), (1..=200).collect::<Vec<_>>());
    for n in 0..50 {
        for (message, last) in
            [(id(2_000_000 + n, n), EventKind::Deferred), (id(1_000_000 + n, n), EventKind::Delivered)]
        {
            let kinds: Vec<_> = world.kinds(message, Some(0)).into_iter().map(|(_, kind)| kind).collect();
            assert_eq!(kinds, [EventKind::Accepted, last]);
        }
    }
}

pub(super) fn two_journals_that_tell_of_one_mail_are_one_history_whichever_comes_first(world: World) {
    let mut journals = Journals::new(world);
    journals.tell(A, &[event(EventKind::Accepted, id(100, 1), 0, 100)]);
    journals.tell(B, &[event(EventKind::Accepted, id(101, 2), 0, 101)]);
    // What was told first is in memory or, after much other mail, in the database only.
    for (n, forgets) in [(1, false), (2, true)] {
        let mut orders = [told(id(1_000 * n, 1)), told(id(1_000 * n + 1, 2))];
        orders[1].reverse();
        for turn in 0..2 {
            for (journal, events) in orders.each_ref().map(|order| &order[turn]) {
                journals.tell(*journal, &events[..1]);
                journals.tell(*journal, &events[1..]);
            }
            if forgets {
                journals.forget_recent();
            }
        }
        for (message, first) in orders.map(|order| (order[0].1[0].message, order[0].0)) {
            let case = format!("forgets {forgets}, first {first}");
            assert_eq!(journals.trace(message.bits()), ALL, "{case}");
            let recipient = journals.recipient(message.bits());
            assert_eq!((recipient.state, recipient.attempts), (EventKind::Delivered, 3), "{case}");
            assert_eq!((recipient.address.as_str(), recipient.accepted_ms), ("r0@receiver.example", 1_000), "{case}");
            assert_eq!((recipient.settled_ms, recipient.changed_ms), (4_000, 4_000), "{case}");
            assert_eq!(recipient.reply, "attempt 3", "{case}");
            let message = journals.world.ledger.message(message).unwrap().unwrap();
            assert_eq!((message.accepted_ms, message.recipients), (1_000, 1), "{case}");
        }
    }
}

pub(super) fn what_is_told_late_of_mail_that_waits_does_not_undo_what_is_newer(world: World) {
    let mut journals = Journals::new(world);
    let message = id(1_000, 1);
    let [(_, at_a), (_, at_b)] = told(message);
    journals.tell(B, &at_b[..1]);
    assert_eq!(journals.recipient(message).address, "");
    journals.tell(A, &[at_a[0].clone(), event(EventKind::Quarantined, message, 0, 1_500), at_a[1].clone()]);
    let recipient = journals.recipient(message);
    assert_eq!((recipient.state, recipient.attempts, recipient.changed_ms), (EventKind::Deferred, 2, 3_000));
    assert_eq!((recipient.reply.as_str(), recipient.accepted_ms), ("attempt 2", 1_000));
    // A host's clock may be behind: a settlement is one whenever it was.
    journals.tell(B, &[attempt(EventKind::Delivered, message, 500, 3)]);
    let recipient = journals.recipient(message);
    assert_eq!(
        (recipient.state, recipient.settled_ms, recipient.reply.as_str()),
        (EventKind::Delivered, 500, "attempt 3")
    );
}

pub(super) fn a_journal_that_is_told_again_behind_anothers_late_events_counts_once(world: World) {
    let mut journals = Journals::new(world);
    let [at_a, at_b] = told(id(1_000, 1));
    for (journal, events) in [&at_b, &at_a, &at_b, &at_a] {
        journals.tell(*journal, events);
    }
    assert_eq!(journals.trace(id(1_000, 1)), ALL);
    assert_eq!(journals.world.number("SELECT sum(count) FROM events"), 4);
}

pub(super) fn an_acceptance_that_two_journals_tell_of_is_looked_up_and_not_written_over(world: World) {
    // No host does that: a host accepts what is its own. Should one do so nevertheless, it costs an attempt.
    let mut journals = Journals::new(world);
    journals.tell(B, &[event(EventKind::Accepted, id(101, 2), 0, 101)]);
    let message = id(1_000, 1);
    journals
        .tell(A, &[event(EventKind::Accepted, message, 0, 1_000), attempt(EventKind::Delivered, message, 2_000, 1)]);
    journals.forget_recent();
    let again = [event(EventKind::Accepted, message, 0, 1_000), attempt(EventKind::Deferred, message, 1_500, 1)];
    assert!(journals.try_tell(B, &again).is_err());
    journals.tell(B, &again);
    assert_eq!(journals.trace(message), [EventKind::Accepted, EventKind::Deferred, EventKind::Delivered]);
    assert_eq!(journals.recipient(message).state, EventKind::Delivered);
}
