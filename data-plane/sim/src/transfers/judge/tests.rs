//! The rules, each with facts that break it and facts that only just do not.

use postrail_schema::ids::{RecipientIndex, Revision, ShardId, TenantId};

use super::*;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const WHO: &str = "r1@site0.example";

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn message() -> MessageId {
    MessageId::new(1, ShardId(0), 7)
}

fn address() -> IpAddr {
    IpAddr::from([10, 0, 1, 1])
}

/// A host sends the mail on a connection of its own, and hears the reply.
fn sent(node: NodeId, connection: u64, second: u64) -> Vec<(Instant, Fact)> {
    let (recipient, receiver) = (WHO.to_owned(), IpAddr::from([10, 0, 2, 1]));
    let opened =
        Fact::ConnectionOpened { connection, node: Some(node), source: address(), receiver, open: BTreeMap::default() };
    vec![
        (at(second), opened),
        (at(second), Fact::MailBegun { connection, receiver }),
        (at(second), Fact::Received { recipient: recipient.clone(), connection }),
        (at(second), Fact::ReplyHeard { recipient, connection }),
    ]
}

fn event(kind: EventKind, second: u64) -> Event {
    Event {
        kind,
        message: message(),
        index: RecipientIndex(0),
        at_ms: 1_795_392_000_000 + second * 1_000,
        revision: Revision(1),
        tenant: TenantId(1),
        address: WHO.to_owned(),
        job: None,
        attempt: None,
        reason: String::new(),
        next_attempt_ms: 0,
    }
}

fn taken() -> Note {
    Note::Taken { giver: A, taker: B, messages: vec![message()] }
}

fn told() -> Note {
    Note::Told { giver: A, taker: B, messages: vec![message()] }
}

/// `b` sends the mail at second 20 and again at second 40, each time with an event.
fn sent_twice(notes: &[(Instant, Note)]) -> Vec<Violation> {
    let submitted = (at(1), Fact::Submitted { recipient: WHO.to_owned() });
    let facts = [vec![submitted], sent(B, 1, 20), sent(B, 2, 40)].concat();
    let journals = [(A, EventKind::Accepted, 1), (B, EventKind::Delivered, 20), (B, EventKind::Delivered, 40)]
        .map(|(node, kind, second)| (node, event(kind, second)));
    let permits = permits();
    let case =
        Case { facts, seen: Vec::new(), notes, permits: &permits, moving: &[], journals: &journals, jobs_max: 1 };
    judge(&case)
}

fn permits() -> Permits {
    let mut permits = Permits::default();
    permits.allow(B, address(), at(10), at(30));
    permits
}

#[test]
fn a_takers_crash_excuses_what_it_had_sent_while_its_giver_did_not_know() {
    let crashed = |node| Note::Crashed { node };
    let excused: [&[(Instant, Note)]; 3] = [
        &[(at(10), taken()), (at(30), crashed(B))],
        // The giver had no time to note what it heard.
        &[(at(10), taken()), (at(24), told()), (at(26), crashed(A)), (at(30), crashed(B))],
        &[(at(10), taken()), (at(30), Note::Forgotten { node: B })],
    ];
    for notes in excused {
        assert_eq!(sent_twice(notes), [], "{notes:?}");
    }
    let known: [&[(Instant, Note)]; 5] = [
        &[],
        // Before it had sent it: then it is in its spool. And of another host, or when it is too late.
        &[(at(10), taken()), (at(15), crashed(B))],
        &[(at(10), taken()), (at(30), crashed(A))],
        &[(at(10), taken()), (at(45), crashed(B))],
        // The giver knew: whoever asks again has forgotten a note.
        &[(at(10), taken()), (at(11), told()), (at(35), crashed(A)), (at(39), crashed(B))],
    ];
    for notes in known {
        // What a host has just sent and not noted when it crashes is its own doubt.
        let found = sent_twice(notes);
        assert!(found.iter().any(|one| matches!(one, Violation::SettledTwice { .. })), "{notes:?}: {found:?}");
    }
    let found = sent_twice(&[]);
    assert!(found.iter().any(|one| matches!(one, Violation::UnexcusedDuplicate { .. })), "{found:?}");
}

#[test]
fn what_was_given_on_before_a_takers_crash_is_in_doubt_too() {
    let on = Note::Taken { giver: B, taker: NodeId(2), messages: vec![message()] };
    let notes = [(at(5), taken()), (at(10), on), (at(15), Note::Crashed { node: B })];
    assert_eq!(sent_twice(&notes), []);
}

#[test]
fn mail_leaves_only_from_an_address_that_is_held_then() {
    let begins = |second| (at(second), Seen::Begins { node: B, source: address() });
    let judged = |second| {
        let submitted = (at(1), Fact::Submitted { recipient: WHO.to_owned() });
        let permits = permits();
        judge(&Case {
            facts: [vec![submitted], sent(B, 1, second)].concat(),
            seen: vec![begins(second)],
            notes: &[],
            permits: &permits,
            moving: &[address()],
            journals: &[],
            jobs_max: 1,
        })
    };
    assert_eq!(judged(20), []);
    let at_nanos = at(40).nanos();
    let expected = [
        Violation::ConnectedFromElsewhere { node: B, address: address(), at_nanos },
        Violation::SentFromElsewhere { node: B, address: address(), at_nanos },
    ];
    assert_eq!(judged(40), expected);
}

#[test]
fn what_was_acknowledged_settles_and_a_parcel_is_bounded() {
    let recipient = WHO.to_owned();
    let facts = vec![
        (at(1), Fact::Submitted { recipient: recipient.clone() }),
        (at(2), Fact::Acknowledged { recipient: recipient.clone() }),
    ];
    let (permits, notes) = (permits(), [(at(3), Note::Brought { jobs: 2 })]);
    let case =
        Case { facts, seen: Vec::new(), notes: &notes, permits: &permits, moving: &[], journals: &[], jobs_max: 1 };
    assert_eq!(judge(&case), [Violation::TooManyJobs { jobs: 2 }, Violation::NeverSettled { recipient }]);
}
