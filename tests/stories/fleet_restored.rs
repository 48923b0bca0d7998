//! etcd is restored from a snapshot while hosts run: an address is on one of them at all times, mail goes on, and what is
//! suppressed since is sent to by nobody.

use std::net::IpAddr;
use std::time::Duration;

use postrail_tests::place::Place;
use postrail_tests::wait;
use postrail_tests::witness::Changes;
use serde_json::json;

use crate::addresses::{Setting, World, recipient};

/// No moment had `address` on both interfaces, and what is not on a host's interface it cannot send from. (A transaction that
/// was under way when an address went may go on over its connection when that is back: connections tell less.)
fn assert_one_after_the_other(changes: &[Changes; 2], address: IpAddr) {
    let of = |host: usize| changes[host].of(address).into_iter().map(move |change| (change.at, host, change.is_on));
    let mut all: Vec<_> = of(0).chain(of(1)).collect();
    all.sort_by_key(|(at, ..)| *at);
    let mut on = [false; 2];
    for (at, host, is_on) in all {
        on[host] = is_on;
        assert_ne!(on, [true; 2], "{address} is on both hosts at {at:?}");
    }
}

fn suppress(world: &World, address: &str) {
    world.fleet.change("POST", "/v2/suppressions?tenant=default", &json!({ "address": address }));
}

/// Whether a host refuses mail to there.
fn refuses(world: &World, host: usize, address: &str) -> bool {
    world.fleet.hosts[host].submit(&world.fleet.username, &world.fleet.secret, address).0 == 422
}

/// What the first host has goes to the second, addresses are suppressed, and etcd goes back to before that. `then` happens
/// as soon as it answers.
fn goes_back(world: &mut World, name: &str, then: impl FnOnce(&mut World)) {
    let snapshot = world.place.join(name);
    world.fleet.etcd.save(&snapshot);
    world.fleet.etcd.grow(400);
    for number in 0..4 {
        suppress(world, &format!("{name}-{number}@receiver.test"));
    }
    let (done, text) = world.host(&["drain", "host-1"]);
    assert!(done, "{text}");
    wait::until("the second host to have both", || (world.places() == [Some(1); 2]).then_some(()));
    let arrived = world.receiver.arrived().len();
    world.receiver.wait_for(arrived + 10);
    world.fleet.etcd.restore(&snapshot);
    then(world);
    // etcd says so from the first moment on.
    world.until_each_has_one();
    let late = format!("late-{name}@receiver.test");
    suppress(world, &late);
    wait::within(Duration::from_secs(12), "every host to know of it", || {
        (0..2).all(|host| refuses(world, host, &late)).then_some(())
    });
    assert!(
        (0..2).all(|host| refuses(world, host, &format!("{name}-3@receiver.test"))),
        "nor is one of before forgotten"
    );
    // Mail leaves from both again.
    let count = |world: &World, address: IpAddr| {
        world.receiver.arrived().iter().filter(|mail| mail.peer.is_some_and(|peer| peer.ip() == address)).count()
    };
    let before = world.addresses.map(|address| count(world, address));
    wait::within(Duration::from_secs(60), "mail from both addresses", || {
        (0..2).all(|at| count(world, world.addresses[at]) > before[at]).then_some(())
    });
}

#[test]
fn when_etcd_goes_back_no_address_is_on_two_hosts_and_what_is_suppressed_since_is_in_effect() {
    let place = Place::new("restored");
    let mut world = World::with(place, Setting { has_three_members: true, ..Setting::default() });
    let changes = [0, 1].map(|host| Changes::at(world.station(host)));
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    goes_back(&mut world, "ran-on", |_| ());
    // As a service manager does it: the process that begins knows nothing of what was, and etcd says that it has its address.
    goes_back(&mut world, "restarted", |world| {
        world.fleet.hosts[0].stop();
        world.fleet.hosts[0].start_again();
    });
    goes_back(&mut world, "killed", |world| {
        world.fleet.hosts[0].child().kill();
        world.fleet.hosts[0].start_again();
    });
    for host in &world.fleet.hosts {
        assert!(host.output().contains("lacks what this host had written"), "{}", host.output());
    }
    world.addresses.iter().for_each(|address| assert_one_after_the_other(&changes, *address));
    // What was in flight when an address went is tried again after a while, which nobody waits for here. The host that was killed
    // is asked for it once it is announced, which may be after it sends again.
    wait::until("both hosts to be asked", || {
        let hosts = world.fleet.change("GET", "/v2/hosts", &json!(null));
        hosts["items"].as_array()?.iter().all(|host| host["waiting"].is_u64()).then_some(())
    });
    world.fleet.change("POST", "/v2/queue/retry", &json!({}));
    let arrived = world.nothing_is_lost(streams);
    let suppressed = |to: &str| ["late", "ran-on", "restarted", "killed"].iter().any(|part| to.starts_with(part));
    let sent: Vec<_> = arrived.iter().map(recipient).filter(|to| suppressed(to)).collect();
    // One that was submitted before a host knew of it goes out.
    assert!(sent.iter().all(|to| to.starts_with("late")), "{sent:?}");
}
