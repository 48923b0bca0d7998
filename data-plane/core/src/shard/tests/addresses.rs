//! Addresses that move between hosts: what waits for one, and what goes from another.

use super::*;

/// What is held: one address since now, for so many seconds.
pub(super) fn held(world: &World, address: &str, seconds: u64) -> Held {
    let now = Duration::from_nanos(world.now.instant.nanos());
    let holding = Holding { epoch: 1, tenure: Tenure::Leased, since: now };
    let addresses = [(address.parse().unwrap(), holding)].into();
    Held { until: now + Duration::from_secs(seconds), addresses: Arc::new(addresses) }
}

#[test]
fn mail_waits_for_an_address_that_is_elsewhere_and_goes_when_it_comes() {
    let mut world = World::with(&["192.0.2.9"], 0, 1, true);
    world.accept(&["a@one.test"]);
    world.resolve();
    world.pass(Duration::from_secs(3_600));
    assert!(world.outputs.iter().all(|output| matches!(output, Output::Record(_))), "nothing starts, nothing is asked");
    let view = world.shard.queue_view(world.now);
    assert!(format!("{view:?}").contains("address_elsewhere"), "{view:?}");
    let coming = held(&world, "192.0.2.9", 10);
    world.input(Input::Held(coming));
    world.resolve();
    assert_eq!(world.opened().len(), 1);
}

/// Two addresses are held; then the first is not any more.
fn second_alone(world: &World, seconds: u64) -> [Held; 2] {
    let (both, second) = (held(world, "192.0.2.8", seconds), held(world, "192.0.2.9", seconds));
    let all = both.addresses.iter().chain(second.addresses.iter()).map(|(address, holding)| (*address, *holding));
    [Held { addresses: Arc::new(all.collect()), ..both }, second]
}

#[test]
fn mail_for_an_address_that_has_left_goes_from_another_of_its_pool() {
    let mut world = World::with(&["192.0.2.8", "192.0.2.9"], 0, 1, true);
    let [both, second] = second_alone(&world, 1_000);
    world.input(Input::Held(both));
    // Enough that both addresses have some.
    for _ in 0..30 {
        world.accept(&["a@one.test"]);
    }
    world.resolve();
    assert_eq!(world.opened().len(), 2, "both start low");
    world.input(Input::Held(second));
    let view = world.shard.queue_view(world.now);
    assert_eq!(view.domains[0].reasons, [("ready", 30)].into(), "nothing waits for the address that has left");
    let ready = |path: &view::PathView| (path.source_address.clone(), path.ready);
    let mut paths: Vec<_> = view.paths.iter().map(ready).collect();
    paths.sort();
    assert_eq!(paths, [("192.0.2.8".to_owned(), 0), ("192.0.2.9".to_owned(), 30)]);
}

#[test]
fn work_that_another_shard_gives_back_for_an_address_that_has_left_is_placed_anew() {
    let mut home = World::with(&["192.0.2.8", "192.0.2.9"], 1, 2, true);
    let first = held(&home, "192.0.2.8", 1_000);
    home.input(Input::Held(first));
    home.accept(&["a@one.test"]);
    let handed = |output: &Output| match output {
        Output::Hand { to, work } => Some((*to, work.clone())),
        _ => None,
    };
    let (to, work) = home.take(handed).expect("the first address is the other shard's");
    assert_eq!(to, ShardId(0));
    // The home shard hears of the change before the work comes back that the owner could not send for it.
    let second = held(&home, "192.0.2.9", 1_000);
    home.input(Input::Held(second));
    let revision = Revision(1);
    let result = HandResult::Wait { reason: WaitReason::AddressElsewhere, nanos: u64::MAX, revision };
    home.input(Input::HandBack(Box::new(HandBack { group: work.group, result })));
    home.pass(Duration::from_secs(1));
    home.resolve();
    assert_eq!(home.opened().len(), 1, "it goes from the address that is here");
}

#[test]
fn nothing_starts_on_an_address_whose_lease_has_ended() {
    let mut world = World::with(&["192.0.2.9"], 0, 1, true);
    let holding = held(&world, "192.0.2.9", 10);
    world.input(Input::Held(holding.clone()));
    world.accept(&["a@one.test"]);
    world.resolve();
    let session = world.opened()[0];
    assert!(world.shard.may_go_on_connecting(world.now, session));
    world.pass(Duration::from_secs(10));
    assert!(!world.shard.may_go_on_connecting(world.now, session), "nor is a further host of the site connected to");
    world.ready(session);
    assert!(world.transact().is_none(), "no transaction on a session that was opened in time");
    assert!(world.take(|output| matches!(output, Output::Quit { .. }).then_some(())).is_some());
    world.accept(&["b@one.test"]);
    assert!(world.opened().is_empty());
    assert_eq!(world.shard.sessions_on("192.0.2.9".parse().unwrap()), 1, "the session is counted until it is gone");
    world.input(Input::Ended { session, end: SessionEnd::Done });
    assert!(world.opened().is_empty());
    let later = Duration::from_nanos(world.now.instant.nanos()) + Duration::from_secs(10);
    world.input(Input::Held(Held { until: later, ..holding }));
    assert_eq!(world.opened().len(), 1, "a renewed lease lets it go on");
}

#[test]
fn a_path_whose_address_has_come_opens_few_connections_at_first() {
    let mut world = World::with(&["192.0.2.9"], 0, 1, true);
    let holding = held(&world, "192.0.2.9", 100);
    world.input(Input::Held(holding.clone()));
    for _ in 0..50 {
        world.accept(&["a@one.test"]);
    }
    world.resolve();
    assert_eq!(world.opened().len(), 1);
    world.pass(Duration::from_secs(61));
    world.input(Input::Held(Held { until: holding.until + Duration::from_secs(1), ..holding }));
    assert_eq!(world.opened().len(), 3, "four after two periods");
}
