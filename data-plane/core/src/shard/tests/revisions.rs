//! Under which configuration things were decided, as events tell it.

use super::*;

/// The revisions of the events of a kind.
fn revisions(world: &mut World, kind: EventKind) -> Vec<u64> {
    let of = |output: &Output| match output {
        Output::Record(record) => Some(record.events.clone()),
        _ => None,
    };
    let events = std::iter::from_fn(|| world.take(of)).flatten();
    events.filter(|event| event.kind == kind).map(|event| event.revision.0).collect()
}

#[test]
fn an_attempt_is_told_with_the_revision_that_its_transaction_was_made_under() {
    for (verdict, kind) in [(DELIVERED, EventKind::Delivered), (Verdict::Transient, EventKind::Deferred)] {
        let mut world = World::new(&["0.0.0.0"], 0, 1);
        world.accept(&["a@one.test"]);
        world.resolve();
        let session = world.opened()[0];
        world.publish(|_| {});
        world.ready(session);
        let (session, transact) = world.transact().unwrap();
        assert_eq!(transact.snapshot.revision, Revision(2), "what is current when it begins");
        world.publish(|_| {});
        world.outcome(session, &transact, verdict, 450);
        assert_eq!(revisions(&mut world, kind), [2]);
    }
}

#[test]
fn an_attempt_of_another_shard_is_told_with_the_revision_of_that_shard() {
    let (mut home, mut owner) = (World::new(&["127.0.0.2"], 1, 2), World::new(&["127.0.0.2"], 0, 2));
    home.accept(&["a@one.test"]);
    let handed = |output: &Output| match output {
        Output::Hand { work, .. } => Some(work.clone()),
        _ => None,
    };
    let work = home.take(handed).expect("the address is the other shard's");
    owner.publish(|_| {});
    owner.input(Input::Hand(work));
    let (session, transact) = owner.reach_transaction();
    owner.publish(|_| {});
    owner.outcome(session, &transact, DELIVERED, 250);
    let back = |output: &Output| match output {
        Output::HandBack { back, .. } => Some(back.clone()),
        _ => None,
    };
    home.input(Input::HandBack(owner.take(back).expect("the outcome goes home")));
    assert_eq!(revisions(&mut home, EventKind::Delivered), [2], "not 1, which is the home's, nor 3");
}
