//! Mail that goes to another host: what is offered, what is given, and what stays.

use std::collections::BTreeSet;

use postrail_schema::allocation::HostName;
use postrail_schema::limits::{DRAIN_NOTICE, TRANSFERS_REMEMBERED_MAX};

use super::addresses::held;
use super::*;
use crate::spool::Carried;
use crate::transfer::{Answer, Fate, KeptReason, Neighbour, Neighbours, Note, NoteKind, Offer};

const HERE: &str = "192.0.2.8";
const THERE: &str = "192.0.2.9";

fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

fn neighbour(name: &str, addresses: &[&str]) -> Neighbour {
    let addresses: BTreeSet<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Neighbour { name: host(name), takes: true, addresses }
}

fn neighbours(hosts: Vec<Neighbour>) -> Input {
    Input::Neighbours(Arc::new(Neighbours { hosts, ..Neighbours::default() }))
}

/// A host of a fleet, with the addresses of its pool elsewhere.
fn away(sources: &[&str]) -> World {
    World::with(sources, 0, 1, true)
}

fn offer(world: &mut World) -> Option<Offer> {
    world.take(|output| match output {
        Output::Offer(offer) => Some((**offer).clone()),
        _ => None,
    })
}

/// Offers that are made within a second.
fn offers(world: &mut World) -> Vec<Offer> {
    for _ in 0..20 {
        world.pass(Duration::from_millis(50));
    }
    std::iter::from_fn(|| offer(world)).collect()
}

fn notes(world: &mut World) -> Vec<Note> {
    let notes = |output: &Output| match output {
        Output::Record(record) if !record.notes.is_empty() => Some(record.notes.clone()),
        _ => None,
    };
    std::iter::from_fn(|| world.take(notes)).flatten().collect()
}

fn answer(world: &mut World, offer: &Offer, fate: Fate) {
    let answer = Answer::Fates(vec![fate; offer.jobs.len()]);
    world.input(Input::Answered { turn: offer.turn, answer });
}

fn unknown(world: &mut World, offer: &Offer) {
    world.input(Input::Answered { turn: offer.turn, answer: Answer::Unknown { turn: None } });
}

#[test]
fn mail_that_can_leave_from_another_host_only_is_offered_to_it_and_given() {
    let mut world = away(&[THERE]);
    let job = world.accept(&["a@one.test", "b@two.test"]);
    world.input(neighbours(vec![neighbour("b", &[THERE]), neighbour("c", &[])]));
    let offers = offers(&mut world);
    let [offer] = &offers[..] else { panic!("one offer: {offers:?}") };
    assert_eq!((offer.to.as_str(), offer.jobs.len(), offer.jobs[0].message), ("b", 1, job.id));
    assert!(!offer.jobs[0].is_noted && !offer.is_leaving);
    answer(&mut world, offer, Fate::Taken);
    let released = |output: &Output| match output {
        Output::Record(record) if !record.notes.is_empty() => Some(record.finished.clone()),
        _ => None,
    };
    assert_eq!(world.outputs.iter().find_map(released).expect("a note comes with the release")[0].0, job.id);
    assert_eq!(notes(&mut world), [Note { message: job.id, hop: 0, kind: NoteKind::Given }]);
    assert_eq!(world.events(), [EventKind::Accepted, EventKind::Accepted], "nothing settles here");
    assert_eq!((world.shard.waiting(), world.shard.fresh_bytes, world.shard.counters().given), (0, 0, 2));
    assert!(world.shard.domains.known(&Domain::parse("one.test").unwrap()).is_some());
    world.pass(Duration::from_secs(86_400 * 8));
    assert!(world.events().is_empty() && world.shard.message_view(world.now, job.id).is_none());
}

#[test]
fn what_is_offered_is_nobodys_else_until_the_host_has_answered() {
    let mut world = away(&[THERE]);
    let job = world.accept(&["a@one.test"]);
    world.input(neighbours(vec![neighbour("b", &[THERE]), neighbour("c", &[])]));
    let first = offers(&mut world).remove(0);
    unknown(&mut world, &first);
    // Meanwhile the address is at c, then here; the mail expires; an operator cancels.
    world.input(neighbours(vec![neighbour("b", &[]), neighbour("c", &[THERE])]));
    let again = offers(&mut world);
    let [again] = &again[..] else { panic!("asked once more: {again:?}") };
    assert_eq!((again.to.as_str(), again.jobs[0].message, again.jobs[0].is_noted), ("b", job.id, true));
    assert!(again.turn > first.turn);
    let coming = held(&world, THERE, 86_400 * 9);
    world.input(Input::Held(coming));
    world.pass(Duration::from_secs(86_400 * 2));
    let refused = world.shard.command(world.now, &Command::Cancel(job.id));
    assert_eq!(refused, Err(BeingMoved { to: host("b") }));
    assert_eq!(world.shard.command(world.now, &Command::Retry(CommandTarget::All)), Ok(0));
    let view = world.shard.message_view(world.now, job.id).unwrap();
    assert_eq!((view.recipients[0].reason, &view.recipients[0].next_attempt), ("being_moved", &None));
    assert_eq!(world.events(), [EventKind::Accepted]);
    // It does not have it: the job goes on here, which by now means that it expires.
    answer(&mut world, again, Fate::Kept(KeptReason::NotHere));
    assert_eq!(notes(&mut world), [Note { message: job.id, hop: 0, kind: NoteKind::Kept }]);
    assert_eq!(world.events(), [EventKind::Expired]);
}

#[test]
fn an_answer_to_an_offer_that_was_given_up_changes_nothing() {
    let mut world = away(&[THERE]);
    world.accept(&["a@one.test"]);
    world.input(neighbours(vec![neighbour("b", &[THERE])]));
    let first = offers(&mut world).remove(0);
    unknown(&mut world, &first);
    answer(&mut world, &first, Fate::Taken);
    assert_eq!(world.shard.waiting(), 1);
    // A turn that the other host has seen already is passed over.
    let second = offers(&mut world).remove(0);
    world.input(Input::Answered { turn: second.turn, answer: Answer::Unknown { turn: Some(u64::MAX - 9) } });
    world.pass(Duration::from_secs(60));
    assert_eq!(offer(&mut world).unwrap().turn, u64::MAX - 8);
}

#[test]
fn a_host_without_an_answer_is_asked_ever_less_and_keeps_nobody_else_waiting() {
    let mut world = away(&[THERE, "192.0.2.10"]);
    let both = || vec![neighbour("b", &[THERE]), neighbour("c", &["192.0.2.10"])];
    world.accept(&["a@one.test"]);
    world.input(neighbours(vec![neighbour("b", &[THERE])]));
    let mut last = offers(&mut world).remove(0);
    let mut rests = Vec::new();
    for _ in 0..8 {
        unknown(&mut world, &last);
        let began = world.now.instant;
        last = loop {
            world.pass(Duration::from_millis(500));
            if let Some(offer) = offer(&mut world) {
                break offer;
            }
        };
        rests.push(world.now.instant.since(began).as_secs());
    }
    assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
    world.accept(&["a@one.test"]);
    world.input(neighbours(both()));
    let other = offers(&mut world);
    let [other] = &other[..] else { panic!("what came later goes to the other host: {other:?}") };
    assert_eq!((other.to.as_str(), other.jobs.len()), ("c", 1));
}

#[test]
fn a_host_that_is_back_is_asked_at_once() {
    let mut world = away(&[THERE]);
    world.accept(&["a@one.test"]);
    let back = || neighbours(vec![neighbour("b", &[THERE])]);
    world.input(back());
    let first = offers(&mut world).remove(0);
    unknown(&mut world, &first);
    for _ in 0..4 {
        world.pass(Duration::from_secs(60));
        let again = offer(&mut world).expect("it has rested");
        unknown(&mut world, &again);
    }
    world.input(back());
    assert_eq!(offers(&mut world), [], "that it is there is no news");
    world.input(neighbours(vec![Neighbour { takes: false, ..neighbour("b", &[THERE]) }]));
    assert_eq!(offers(&mut world), []);
    world.input(back());
    assert_eq!(offers(&mut world).len(), 1);
}

#[test]
fn mail_that_can_leave_from_here_or_waits_for_something_else_stays() {
    let mut world = away(&[HERE, THERE]);
    world.publish(second_pool);
    let here = held(&world, HERE, 10_000);
    world.input(Input::Held(here));
    world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, Verdict::Transient, 451);
    let waiting = Arc::new(Job { quarantined: true, ..(*world.job(&["a@one.test"])).clone() });
    world.accept_job(waiting);
    let away = world.accept(&["b@two.test"]);
    let everything = vec![neighbour("b", &[HERE, THERE])];
    world.input(neighbours(everything.clone()));
    let first = offers(&mut world);
    let [first] = &first[..] else { panic!("one offer: {first:?}") };
    assert_eq!((first.jobs.len(), first.jobs[0].message), (1, away.id));
    answer(&mut world, first, Fate::Taken);
    // A host that is being emptied keeps nothing, and says so.
    world.input(Input::Neighbours(Arc::new(Neighbours {
        is_leaving: true,
        hosts: everything,
        ..Neighbours::default()
    })));
    let offers = offers(&mut world);
    assert_eq!(offers.iter().map(|offer| (offer.is_leaving, offer.jobs.len())).collect::<Vec<_>>(), [(true, 2)]);
    let kept = &offers[0];
    answer(&mut world, kept, Fate::Kept(KeptReason::NoRoom));
    assert_eq!(world.quarantined().len(), 1);
    let view = world.shard.queue_view(world.now);
    assert_eq!(view.domains[0].reasons, [("quarantined", 1), ("retry", 1)].into(), "each waits as it did before");
}

/// What goes to two.test leaves from the second source alone, all else from the first.
fn second_pool(content: &mut SnapshotContent) {
    content.pools[0].members.truncate(1);
    let members = vec![PoolMember { source: SourceId(2), weight: 1 }];
    content.pools.push(EgressPool { id: PoolId(2), name: "second".to_owned(), members, ..content.pools[0].clone() });
    let selector = Selector { recipient_domain: Some("two.test".to_owned()), ..Selector::default() };
    content.routing_rules.push(RoutingRule { name: "two".to_owned(), selector, pool: PoolId(2) });
}

#[test]
fn a_job_of_several_pools_goes_where_most_of_it_can_leave() {
    let mut world = away(&[THERE, "192.0.2.10"]);
    world.publish(second_pool);
    world.accept(&["a@one.test", "b@two.test", "c@three.test"]);
    world.input(neighbours(vec![neighbour("b", &[THERE]), neighbour("c", &["192.0.2.10"])]));
    let first = offers(&mut world).remove(0);
    assert_eq!(first.to.as_str(), "b", "two of three groups");
    answer(&mut world, &first, Fate::Kept(KeptReason::NoRoom));
    let all = neighbour("d", &[THERE, "192.0.2.10"]);
    world.input(neighbours(vec![neighbour("b", &[THERE]), neighbour("c", &["192.0.2.10"]), all]));
    assert_eq!(offers(&mut world).remove(0).to.as_str(), "d");
}

/// A start on the spool of `job`, whose frame says `bound_to`, with a journal that says `notes`.
fn restarted(job: &Job, notes: Vec<Note>, bound_to: Option<HostName>) -> World {
    let mut world = away(&[THERE]);
    world.shard.recovering = true;
    notes.into_iter().for_each(|note| world.input(Input::ReplayedNote(note)));
    let progress = vec![Carried { settled: false, attempts: 1, next_attempt: world.now.wall }; job.recipients.len()];
    let meta = JobMeta { job: job.clone(), content_bytes: 3, progress, moved_from: None, chunks: Vec::new(), bound_to };
    world.input(Input::Recovered { meta: Box::new(meta), at: Location { segment: 1, offset: 0, bytes: 1 } });
    world.input(Input::RecoveryDone);
    world.input(neighbours(vec![neighbour("b", &[]), neighbour("c", &[THERE])]));
    world
}

#[test]
fn a_restart_goes_on_with_what_was_bound() {
    let job = away(&[THERE]).job(&["a@one.test", "b@two.test"]);
    let job = Job { hop: 2, ..(*job).clone() };
    let note = |hop, kind| Note { message: job.id, hop, kind };
    let bound = |name: &str| NoteKind::Bound(host(name));
    let cases = [
        (vec![note(2, bound("b"))], None, Some("b")),
        (vec![note(2, bound("c")), note(2, NoteKind::Kept), note(2, bound("b"))], None, Some("b")),
        (vec![note(2, bound("b")), note(2, NoteKind::Kept)], None, Some("c")),
        // It was here before, and has come back.
        (vec![note(1, bound("b")), note(1, NoteKind::Given)], None, Some("c")),
        (vec![note(2, bound("b")), note(2, NoteKind::Given)], None, None),
        // A copy that was made while it was bound, and what came after it.
        (vec![], Some(host("b")), Some("b")),
        (vec![note(2, NoteKind::Kept)], Some(host("b")), Some("c")),
        (vec![note(2, NoteKind::Taken)], None, Some("c")),
        (vec![note(2, NoteKind::Taken), note(2, bound("b"))], None, Some("b")),
        (vec![note(2, NoteKind::Given)], Some(host("b")), None),
    ];
    for (notes, bound_to, offered) in cases {
        let case = format!("{notes:?}, {bound_to:?}");
        let mut world = restarted(&job, notes, bound_to);
        let offers = offers(&mut world);
        assert_eq!(offers.first().map(|offer| offer.to.as_str()), offered, "{case}");
        assert_eq!(world.shard.waiting(), if offered.is_some() { 2 } else { 0 }, "{case}");
        let is_bound = offered == Some("b");
        assert!(
            offers.iter().flat_map(|offer| &offer.jobs).all(|job| job.hop == 2 && job.is_noted == is_bound),
            "{case}"
        );
    }
}

#[test]
fn what_was_taken_before_a_start_is_known_when_it_has_settled() {
    let job = away(&[THERE]).job(&["a@one.test"]);
    let job = Job { hop: 2, ..(*job).clone() };
    let note = Note { message: MessageId::from_bits(9), hop: 2, kind: NoteKind::Taken };
    let mut world = restarted(&job, vec![note], None);
    assert!(world.shard.had_taken(MessageId::from_bits(9), 2), "by the journal, whatever the spool has");
    assert_eq!(world.shard.command(world.now, &Command::Cancel(job.id)), Ok(1));
    assert_eq!((world.shard.waiting(), world.shard.hop_of(job.id)), (0, None));
    let taken = [1, 2, 3].map(|hop| world.shard.had_taken(job.id, hop));
    assert_eq!(taken, [true, true, false], "a later hop is another coming");
    let own = Job { hop: 0, ..job };
    assert!(!restarted(&own, Vec::new(), None).shard.had_taken(own.id, 1), "it was accepted here");
    for id in (0..TRANSFERS_REMEMBERED_MAX as u128).map(|id| id + 10) {
        world.shard.remember_taken(MessageId::from_bits(id), 1);
    }
    let known = [own.id, MessageId::from_bits(10)].map(|id| world.shard.had_taken(id, 1));
    assert_eq!(known, [false, true], "the oldest give way");
}

#[test]
fn what_is_bound_to_a_host_that_was_forgotten_goes_on_here() {
    let mut world = away(&[THERE]);
    let job = world.accept(&["a@one.test"]);
    world.input(neighbours(vec![neighbour("b", &[THERE])]));
    let asked = offers(&mut world).remove(0);
    world.input(neighbours(vec![neighbour("c", &[THERE])]));
    assert_eq!(offers(&mut world), [], "an answer may still come");
    unknown(&mut world, &asked);
    assert_eq!(offers(&mut world).remove(0).to.as_str(), "c");
    assert_eq!(notes(&mut world), [Note { message: job.id, hop: 0, kind: NoteKind::Kept }]);
}

#[test]
fn a_host_takes_what_it_can_send_and_has_room_for() {
    let mut world = away(&[HERE]);
    let job = world.job(&["a@one.test", "b@two.test"]);
    let progress = [true, false].map(|settled| Carried { settled, attempts: 3, next_attempt: world.now.wall }).to_vec();
    let meta = |job: &Job, progress: &[Carried]| JobMeta {
        job: job.clone(),
        content_bytes: 3,
        progress: progress.to_vec(),
        moved_from: None,
        chunks: Vec::new(),
        bound_to: None,
    };
    let offered = meta(&job, &progress);
    assert_eq!(world.shard.may_take(&offered, false), Err(KeptReason::NotHere));
    assert_eq!(world.shard.may_take(&offered, true), Ok(()), "a host that is being emptied has nobody better");
    let here = held(&world, HERE, 10_000);
    world.input(Input::Held(here));
    assert_eq!(world.shard.may_take(&offered, false), Ok(()));
    let stranger = Job { tenant: TenantId(77), ..(*job).clone() };
    assert_eq!(world.shard.may_take(&meta(&stranger, &progress), true), Err(KeptReason::Unknown));
    // It goes on where it had come to, and is held once.
    for _ in 0..2 {
        let at = Location { segment: 1, offset: 4_096, bytes: 100 };
        world.input(Input::Recovered { meta: Box::new(offered.clone()), at });
    }
    assert_eq!((world.shard.waiting(), world.shard.counters().taken), (1, 1));
    assert_eq!(notes(&mut world), [Note { message: job.id, hop: 0, kind: NoteKind::Taken }]);
    assert_eq!(world.events(), [], "what was told of it before is not told again");
    world.pass(Duration::from_millis(1));
    world.resolve();
    let session = world.opened()[0];
    world.ready(session);
    let attempt = world.take(|output| match output {
        Output::Load { attempt, .. } => Some(*attempt),
        _ => None,
    });
    world.input(Input::Loaded { attempt: attempt.unwrap(), result: Ok(job) });
    let (session, transact) = world.transact().unwrap();
    assert_eq!(transact.recipients[..], [RecipientIndex(1)]);
    world.outcome(session, &transact, DELIVERED, 250);
    let delivered = |output: &Output| match output {
        Output::Record(record) => record.events.first().and_then(|event| Some(event.attempt.as_ref()?.number)),
        _ => None,
    };
    assert_eq!(world.outputs.iter().find_map(delivered), Some(4));
    world.input(Input::Neighbours(Arc::new(Neighbours { is_leaving: true, ..Neighbours::default() })));
    assert_eq!(world.shard.may_take(&offered, true), Err(KeptReason::Leaving));
}

/// Tells a host that is to be emptied, after a while, and gives how far it is.
fn leaving_after(world: &mut World, while_passed: Duration, told: Neighbours) -> Option<Leaving> {
    world.pass(while_passed);
    world.input(Input::Neighbours(Arc::new(told)));
    world.shard.leaving(world.now.instant)
}

#[test]
fn a_host_is_drained_when_an_operator_wants_it_and_its_addresses_were_given_to_others_that_take_mail() {
    let mut world = away(&[HERE]);
    let other = |takes| vec![Neighbour { takes, ..neighbour("other", &[]) }];
    let told = |is_leaving, has_addresses, hosts| Neighbours { is_leaving, has_addresses, hosts, is_other_kept: false };
    assert_eq!(world.shard.leaving(world.now.instant), None, "it knows nothing of others");
    assert_eq!(leaving_after(&mut world, Duration::ZERO, told(false, false, other(true))), None);
    let here = held(&world, HERE, 10_000);
    world.input(Input::Held(here));
    let at_once = leaving_after(&mut world, Duration::ZERO, told(true, true, other(true)));
    assert_eq!(at_once, Some(Leaving::Draining));
    world.input(Input::Held(Held::default()));
    world.pass(DRAIN_NOTICE);
    let without = world.shard.leaving(world.now.instant);
    assert_eq!(without, Some(Leaving::Draining), "it may not use them at present, and they are its own");
    let gone = leaving_after(&mut world, Duration::ZERO, told(true, false, other(true)));
    assert_eq!(gone, Some(Leaving::Drained));
    for hosts in [other(false), Vec::new()] {
        let alone = leaving_after(&mut world, DRAIN_NOTICE, told(true, false, hosts));
        assert_eq!(alone, Some(Leaving::Alone), "nobody else would take mail");
    }
    let back = leaving_after(&mut world, DRAIN_NOTICE, told(false, false, other(true)));
    assert_eq!(back, None, "the order was taken back");
}

#[test]
fn a_host_that_is_drained_accepts_mail_until_what_asks_whether_it_is_ready_has_seen_that_it_is_not() {
    let mut world = away(&[HERE]);
    let one = Duration::from_millis(1);
    let told = |takes| Neighbours {
        is_leaving: true,
        hosts: vec![Neighbour { takes, ..neighbour("other", &[]) }],
        ..Neighbours::default()
    };
    for _ in 0..2 {
        let begins = leaving_after(&mut world, Duration::ZERO, told(true));
        assert_eq!(begins, Some(Leaving::Draining), "it never had addresses");
        let again = leaving_after(&mut world, DRAIN_NOTICE.saturating_sub(one), told(true));
        assert_eq!(again, Some(Leaving::Draining), "to be told again does not count as another order");
        world.pass(one);
        assert_eq!(world.shard.leaving(world.now.instant), Some(Leaving::Drained));
        // It was ready meanwhile, so it is to be seen anew that it is not.
        assert_eq!(leaving_after(&mut world, Duration::ZERO, told(false)), Some(Leaving::Alone));
    }
}

#[test]
fn of_hosts_that_are_all_to_be_emptied_those_accept_mail_that_have_addresses_to_send_it_from() {
    let mut world = away(&[HERE]);
    let told = |has_addresses, is_other_kept| Neighbours {
        is_leaving: true,
        has_addresses,
        is_other_kept,
        hosts: vec![Neighbour { takes: false, ..neighbour("other", &[THERE]) }],
    };
    for (has_addresses, is_other_kept, expected) in [
        (false, false, Leaving::Alone),
        (true, false, Leaving::Alone),
        (true, true, Leaving::Alone),
        (false, true, Leaving::Draining),
    ] {
        let came = leaving_after(&mut world, Duration::ZERO, told(has_addresses, is_other_kept));
        assert_eq!(came, Some(expected), "{has_addresses} {is_other_kept}");
    }
    world.pass(DRAIN_NOTICE);
    assert_eq!(world.shard.leaving(world.now.instant), Some(Leaving::Drained));
}

#[test]
fn what_waits_for_an_event_is_carried_as_due_at_once() {
    let mut world = away(&[THERE]);
    let job = world.accept(&["a@one.test"]);
    world.pass(Duration::from_secs(60));
    let carried = world.shard.carried_state(world.now, job.id, 1);
    assert_eq!(carried[0].next_attempt, world.now.wall, "not at its expiry, until which it may wait here");
}
