//! Several transactions under way on one session.

use super::*;
use postrail_schema::limits::SESSION_TRANSACTIONS_MAX;

/// A backlog for one site, and its ten sessions, each ready for several transactions.
fn backlog(mails: usize) -> (World, Vec<u32>) {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    (0..mails).for_each(|_| drop(world.accept(&["a@one.test"])));
    world.resolve();
    let sessions = world.opened();
    assert_eq!(sessions.len(), 10);
    (world, sessions)
}

/// What a session that is ready is given.
fn given(world: &mut World, session: u32) -> Vec<Transact> {
    world.ready_with(session, true);
    std::iter::from_fn(|| world.transact()).map(|(to, transact)| (to, transact).1).collect()
}

/// The session is given its next transactions and delivers all of them; how many there were.
fn deliver(world: &mut World, session: u32) -> usize {
    let given = given(world, session);
    given.iter().for_each(|transact| world.outcome(session, transact, DELIVERED, 250));
    given.len()
}

/// Has three rounds delivered, behind which the window is open.
fn open_window(world: &mut World, session: u32) {
    let counts = [0; 3].map(|_| deliver(world, session));
    assert_eq!(counts.iter().sum::<usize>(), 11, "{counts:?}");
}

#[test]
fn a_receiver_that_takes_what_it_is_given_is_given_more_at_once() {
    let (mut world, sessions) = backlog(1_000);
    let counts: Vec<_> = (0..6).map(|_| deliver(&mut world, sessions[0])).collect();
    assert_eq!(counts, [1, 2, 8, 8, 8, 8], "the window doubles with each that is taken");
    assert_eq!(world.shard.waiting(), 1_000 - 35);
}

#[test]
fn a_receiver_without_chunking_is_given_one_at_a_time() {
    let (mut world, sessions) = backlog(1_000);
    for _ in 0..6 {
        world.ready(sessions[0]);
        let (_, transact) = world.transact().expect("one");
        assert!(world.transact().is_none());
        world.outcome(sessions[0], &transact, DELIVERED, 250);
    }
}

#[test]
fn what_is_ready_is_divided_among_the_connections_first() {
    let (mut world, sessions) = backlog(60);
    sessions.iter().for_each(|session| assert_eq!(deliver(&mut world, *session), 1));
    // 50 are left for ten: five each at most, and fewer as they get fewer.
    assert_eq!(given(&mut world, sessions[0]).len(), 2);
    let (mut world, sessions) = backlog(12);
    sessions.iter().for_each(|session| assert_eq!(deliver(&mut world, *session), 1));
    assert_eq!(deliver(&mut world, sessions[0]), 1, "the other nine may have the last");
}

#[test]
fn a_refusal_or_a_slow_answer_closes_the_window() {
    let (mut world, sessions) = backlog(1_000);
    open_window(&mut world, sessions[0]);
    let given = given(&mut world, sessions[0]);
    assert_eq!(given.len(), SESSION_TRANSACTIONS_MAX);
    given.iter().take(7).for_each(|transact| world.outcome(sessions[0], transact, DELIVERED, 250));
    world.outcome(sessions[0], &given[7], Verdict::Transient, 450);
    assert_eq!(deliver(&mut world, sessions[0]), 1);
    assert_eq!(deliver(&mut world, sessions[0]), 2);
    let given = self::given(&mut world, sessions[0]);
    world.pass(Duration::from_secs(2));
    given.iter().for_each(|transact| world.outcome(sessions[0], transact, DELIVERED, 250));
    assert_eq!(deliver(&mut world, sessions[0]), 1);
}

#[test]
fn a_connection_that_breaks_with_several_under_way_makes_its_site_have_one_at_a_time() {
    let (mut world, sessions) = backlog(1_000);
    for session in &sessions[..2] {
        open_window(&mut world, *session);
    }
    world.events();
    let given = given(&mut world, sessions[0]);
    for transact in &given {
        world.outcome_with(sessions[0], transact, |outcome| {
            outcome.session_over = true;
            (outcome.recipients[0].verdict, outcome.recipients[0].maybe_delivered) = (Verdict::Transient, true);
        });
    }
    world.input(Input::Ended { session: sessions[0], end: SessionEnd::Done });
    assert_eq!(world.events(), [EventKind::Deferred; SESSION_TRANSACTIONS_MAX], "each is in doubt, and is tried again");
    (0..3).for_each(|_| assert_eq!(deliver(&mut world, sessions[1]), 1));
}

#[test]
fn what_a_closing_receiver_has_not_looked_at_goes_back_uncounted() {
    let (mut world, sessions) = backlog(1_000);
    open_window(&mut world, sessions[0]);
    world.events();
    let given = given(&mut world, sessions[0]);
    let waiting = world.shard.waiting();
    world.outcome(sessions[0], &given[0], DELIVERED, 250);
    for transact in &given[1..] {
        world.outcome_with(sessions[0], transact, |outcome| {
            outcome.session_over = true;
            let recipient = &mut outcome.recipients[0];
            (recipient.verdict, recipient.phase, recipient.reply.code) = (Verdict::Transient, Phase::Mail, 421);
        });
    }
    world.input(Input::Ended { session: sessions[0], end: SessionEnd::Done });
    assert_eq!((world.events(), world.shard.waiting()), (vec![EventKind::Delivered], waiting - 1));
}

#[test]
fn a_session_that_ends_gives_back_what_it_had_not_begun() {
    let (mut world, sessions) = backlog(100);
    open_window(&mut world, sessions[0]);
    assert!(given(&mut world, sessions[0]).len() > 1);
    world.input(Input::Ended { session: sessions[0], end: SessionEnd::Done });
    assert!(world.shard.attempts.is_empty());
    assert_eq!(world.shard.waiting(), 100 - 11);
}

#[test]
fn a_connection_is_given_no_more_than_it_may_carry() {
    let (mut world, sessions) = backlog(1_000);
    open_window(&mut world, sessions[0]);
    let rule = postrail_schema::shaping::ShapingRule {
        id: postrail_schema::ids::ShapingRuleId(1),
        name: "few".to_owned(),
        matches: Default::default(),
        connections: None,
        mails_per_connection: Some(14),
        mail_rate: None,
        connection_rate: None,
    };
    world.publish(|content| content.shaping_rules.push(rule));
    assert_eq!(deliver(&mut world, sessions[0]), 3);
    world.ready_with(sessions[0], true);
    assert!(world.outputs.iter().any(|output| matches!(output, Output::Quit { .. })));
}
