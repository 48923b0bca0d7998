//! Addresses that the network brings (`--routed`): nothing is put on an interface, nobody is told, and it is the route that
//! follows. No kernel takes such an address from a host whose lease has ended: only the host itself stops using it.

use std::net::{IpAddr, Ipv4Addr};

use postrail_tests::place::Place;
use postrail_tests::wait;
use postrail_tests::witness::{Packet, Witness};
use serde_json::Value;

use crate::addresses::{LEASE, Setting, World, origin, recipient, turns, uses};

/// Two hosts that take both addresses, as far as the network brings them there.
fn world(name: &str, has_first_mx: bool) -> World {
    let world = World::with(Place::new(name), Setting { is_routed: true, has_first_mx, ..Setting::default() });
    for host in [0, 1] {
        world.addresses.iter().for_each(|address| world.station(host).take_routed(v4(*address)));
    }
    world
}

fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(address) = address else { panic!("{address} is of IPv4") };
    address
}

#[test]
fn a_routed_address_is_on_no_interface_and_moves_with_its_route() {
    let world = world("routed-moves", false);
    let (moved, stays) = (world.address_of(0), world.address_of(1));
    let witness = Witness::at(&world.receiver_at);
    world.receiver_at.route(v4(moved), world.station(0));
    world.receiver_at.route(v4(stays), world.station(1));
    let streams = vec![world.stream(0), world.stream(1)];
    wait::until("mail from both addresses", || {
        let arrived = world.receiver.arrived();
        world.addresses.iter().all(|address| !uses(&arrived, *address).is_empty()).then_some(())
    });
    let (done, told) = world.host(&["drain", "host-1"]);
    assert!(done, "{told}");
    wait::within(LEASE, "the other host to be granted both", || (world.places() == [Some(1); 2]).then_some(()));
    // It begins to use it; what answers still goes to the former host.
    wait::until("the other host to try", || turns(&witness, moved).ends_with(&[1]).then_some(()));
    let by_the_other = || {
        let arrived = world.receiver.arrived();
        arrived.iter().filter(|mail| origin(mail) == 1 && mail.peer.is_some_and(|peer| peer.ip() == moved)).count()
    };
    assert_eq!(by_the_other(), 0, "the route has not followed");
    world.receiver_at.route(v4(moved), world.station(1));
    wait::until("mail by the other host from the same address", || (by_the_other() > 0).then_some(()));
    assert_eq!(turns(&witness, moved), [0, 1], "one host after the other");
    assert_eq!(turns(&witness, stays), [1], "it has not moved");
    for address in world.addresses {
        assert!([0, 1].iter().all(|host| !world.station(*host).has(address)), "{address} is put on no interface");
        let is_told = witness.seen().iter().any(|seen| seen.packet == Packet::Arp(v4(address)));
        assert!(!is_told, "{address} is announced to nobody");
    }
    for host in &world.fleet.hosts {
        let said = host.output();
        assert!(said.contains("the network brings it") && !said.contains("address put on"), "{said}");
    }
    let arrived = world.nothing_is_lost(streams);
    assert!(arrived.iter().all(|mail| mail.peer.is_some_and(|peer| world.addresses.contains(&peer.ip()))));
    assert_eq!(uses(&arrived, moved).iter().map(|one| one.host).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_session_whose_lease_ends_between_two_mx_hosts_connects_to_no_other() {
    let world = world("routed-next-host", true);
    let lost = world.address_of(0);
    // Nobody listens at the first MX host, and as long as it has no route back it cannot even say so.
    let first_at = world.lan.station(51);
    let [first, second] = [&first_at, &world.receiver_at].map(Witness::at);
    let job = world.fleet.accepted(0, "next@receiver.test");
    wait::until("a session to connect to the first", || (turns(&first, lost) == [0]).then_some(()));
    world.station(0).cut_off(world.lan.at(1));
    wait::within(LEASE * 2, "the other host to have the address", || world.has(1, lost).then_some(()));
    // So that it gets nothing back when it reaches etcd again.
    let (done, told) = world.host(&["drain", "host-1"]);
    assert!(done, "{told}");
    world.addresses.iter().for_each(|address| world.receiver_at.route(v4(*address), world.station(1)));
    // The mail has gone to the other host, which has an address; the session knows nothing of it.
    let connections = || {
        let queue = world.fleet.change("GET", "/v2/queue", &Value::Null);
        let shards = queue["shards"].as_array().into_iter().flatten().filter(|shard| shard["host"] == "host-1");
        let paths = shards.flat_map(|shard| shard["paths"].as_array().into_iter().flatten());
        paths.map(|path| path["connections"].as_u64().expect("a count")).sum::<u64>()
    };
    assert_eq!(connections(), 1, "it still tries the first");
    // The kernel tries anew within the 30 seconds that it has, and is refused now.
    first_at.route(v4(lost), world.station(0));
    wait::until("the session to be over", || (connections() == 0).then_some(()));
    assert!(turns(&second, lost).is_empty(), "the former host connected to the next");
    world.addresses.iter().for_each(|address| first_at.route(v4(*address), world.station(1)));
    world.station(0).reach(world.lan.at(1));
    world.fleet.delivered(&job);
    let arrived = world.receiver.arrived();
    let [mail] = &arrived[..] else { panic!("one mail: {arrived:?}") };
    assert_eq!((recipient(mail).as_str(), origin(mail)), ("next@receiver.test", 1));
    assert!(world.addresses.iter().all(|address| !turns(&second, *address).contains(&0)));
}
