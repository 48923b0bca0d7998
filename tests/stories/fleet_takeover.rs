//! Addresses of a host that dies, as others on the network see them come to the next one: by IPv6, and while etcd has lost its
//! leader. What is asserted are times of events: packets, and addresses that the kernels of both hosts put on and take off.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use postrail_tests::place::Place;
use postrail_tests::wait;
use postrail_tests::witness::{Change, Changes, Packet, Witness};

use crate::addresses::{LEASE, Setting, World, origin, turns, uses};

/// When an address came to a host after `since`, and all that became of it there.
fn came(changes: &Changes, address: IpAddr, since: Instant, limit: Duration) -> (Instant, Vec<Change>) {
    wait::within(limit, "the other host to have the address", || {
        let all = changes.of(address);
        let first = all.iter().find(|change| change.is_on && change.at > since)?.at;
        Some((first, all))
    })
}

/// When it went from a host for good.
fn went(changes: &Changes, address: IpAddr) -> Instant {
    wait::until("the address to be off its former host", || {
        changes.of(address).last().filter(|change| !change.is_on).map(|change| change.at)
    })
}

#[test]
fn an_ipv6_address_is_taken_over_at_once_and_its_neighbours_are_told() {
    let place = Place::new("takeover-ipv6");
    let mut world = World::with(place, Setting { is_ipv6: true, ..Setting::default() });
    let lost = world.address_of(0);
    // Somebody on the network, who has spoken with the first host once, and then only listens.
    let other = world.lan.station(60);
    other.enter(|| UdpSocket::bind("[::]:0").and_then(|socket| socket.send_to(b"x", (lost, 9)))).expect("sent");
    let [first, second] = [0, 1].map(|host| world.station(host).hardware());
    wait::until("the other to know it at the first host", || other.neighbour(lost).contains(&first).then_some(()));
    let (witness, changes) = (Witness::at(&other), [0, 1].map(|host| Changes::at(world.station(host))));
    let receiver = Witness::at(&world.receiver_at);
    let streams = vec![world.stream(0), world.stream(1)];
    wait::until("mail from both addresses", || {
        let arrived = world.receiver.arrived();
        world.addresses.iter().all(|address| !uses(&arrived, *address).is_empty()).then_some(())
    });
    wait::until("the monitors to be there", || {
        let has_each = |of: usize| !changes[of].of(world.address_of(of)).is_empty();
        (has_each(0) && has_each(1)).then_some(())
    });
    world.fleet.hosts[0].child().kill();
    let killed = Instant::now();
    let (at, all) = came(&changes[1], lost, killed, LEASE + Duration::from_secs(1));
    assert!(all.iter().all(|change| !change.is_tentative), "it is not first asked whether it is somebody's: {all:?}");
    assert!(went(&changes[0], lost) < at, "no two hosts have it");
    let told = wait::within(Duration::from_secs(1), "the neighbours to be told", || {
        let seen = witness.seen().into_iter();
        seen.into_iter().find(|seen| seen.at > killed && matches!(seen.packet, Packet::Advertisement(of) if of == lost))
    });
    assert_eq!(told.hardware, second, "{told:?}");
    println!(
        "on the other host {:.2} s after the kill, and told {:.1} ms later",
        at.duration_since(killed).as_secs_f64(),
        told.at.duration_since(at).as_secs_f64() * 1e3
    );
    // Stale: nobody has confirmed it, it was only told.
    let known = wait::until("the other to know it at the second host", || {
        Some(other.neighbour(lost)).filter(|known| known.contains(&second))
    });
    assert!(known.contains("STALE"), "{known}");
    assert!(!world.station(0).has(lost));
    wait::until("mail from it by the second host", || {
        let arrived = world.receiver.arrived();
        arrived.iter().any(|mail| origin(mail) == 1 && mail.peer.is_some_and(|peer| peer.ip() == lost)).then_some(())
    });
    assert_eq!(turns(&receiver, lost), [0, 1], "one host after the other");
    let detected =
        |packet: &Packet| world.addresses.iter().any(|of| matches!(packet, Packet::Detection(at) if at == of));
    assert!(!witness.seen().iter().any(|seen| detected(&seen.packet)), "{:?}", witness.seen());
    world.fleet.hosts[0].start_again();
    world.until_each_has_one();
    let arrived = world.nothing_is_lost(streams);
    world.addresses.iter().for_each(|address| drop(uses(&arrived, *address)));
}

/// A host dies in the moment in which etcd loses its leader by `lose`.
fn dies_with_the_leader(name: &str, lose: impl FnOnce(&mut World, usize)) {
    let place = Place::new(name);
    let mut world = World::with(place, Setting { has_three_members: true, ..Setting::default() });
    let (lost, kept) = (world.address_of(0), world.address_of(1));
    let changes = [0, 1].map(|host| Changes::at(world.station(host)));
    let receiver = Witness::at(&world.receiver_at);
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    wait::until("the monitors to be there", || {
        (!changes[0].of(lost).is_empty() && !changes[1].of(kept).is_empty()).then_some(())
    });
    let leader = world.fleet.etcd.leader();
    world.fleet.hosts[0].child().kill();
    let killed = Instant::now();
    lose(&mut world, leader);
    let limit = LEASE * 2 + Duration::from_secs(1);
    let (at, _) = came(&changes[1], lost, killed, limit);
    let (took, gone) = (at.duration_since(killed), went(&changes[0], lost).duration_since(killed));
    println!(
        "off {:.2} s after the kill, on the other host after {:.2} s, with a lease of {LEASE:?}",
        gone.as_secs_f64(),
        took.as_secs_f64()
    );
    assert!(took <= limit, "within the lease, a second, and a lease for the leader: {took:?}");
    assert!(gone < took, "its former host's use had ended");
    assert_ne!(world.fleet.etcd.leader(), leader, "another leads");
    wait::until("mail from it by the second host", || turns(&receiver, lost).ends_with(&[1]).then_some(()));
    assert_eq!(turns(&receiver, lost), [0, 1], "one host after the other");
    assert_eq!(turns(&receiver, kept), [1], "the host that lives has kept its own");
    assert!(changes[1].of(kept).iter().all(|change| change.is_on), "it never went: {:?}", changes[1].of(kept));
    world.fleet.etcd.set_cut_off(leader, false);
    world.fleet.etcd.start_again();
    world.fleet.hosts[0].start_again();
    world.until_each_has_one();
    let arrived = world.nothing_is_lost(streams);
    world.addresses.iter().for_each(|address| drop(uses(&arrived, *address)));
}

#[test]
fn a_host_that_dies_together_with_etcds_leader_loses_its_addresses_a_lease_later_at_most() {
    dies_with_the_leader("takeover-leader-killed", |world, leader| world.fleet.etcd.kill_member(leader));
}

#[test]
fn so_it_does_where_the_leader_is_cut_off_from_everybody() {
    dies_with_the_leader("takeover-leader-cut-off", |world, leader| world.fleet.etcd.set_cut_off(leader, true));
}
