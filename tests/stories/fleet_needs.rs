//! What a source asks of the host that gets its address: words that the host announces (`capabilities`), and an interface
//! (`nic`). Hosts in namespaces, a real etcd, and receivers that see who sends from where.

use std::time::{Duration, Instant};

use postrail_tests::place::Place;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use serde_json::{Value, json};

use crate::addresses::{Setting, World, recipient, uses};

const ANNOUNCES: &[&str] = &["--capability", "net-a"];
const HAS_TWO: &[&str] = &["--nic", "eth1"];

/// The words of the finding of that code about a subject.
fn finding(world: &World, code: &str, subject: &str) -> Option<String> {
    let problems = world.fleet.change("GET", "/v2/problems", &Value::Null);
    let items = problems["items"].as_array().expect("a list");
    let found = items.iter().find(|one| one["code"] == code && one["subject"] == subject)?;
    found["detail"].as_str().map(str::to_owned)
}

/// A source with these needs, a pool of its own, and the sending domain's mail leaves by it.
fn use_source(world: &World, source: &Value) {
    world.fleet.change("POST", "/v2/sources", source);
    let pool = json!({"name": "own", "members": [{"source": source["name"]}]});
    world.fleet.change("POST", "/v2/pools", &pool);
    world.fleet.change("PATCH", "/v2/domains/sender.test", &json!({"pool": "own"}));
    world.fleet.settle();
}

/// Waits until a mail waits for an address that is at no host, and nothing has gone out.
fn waits_elsewhere(world: &World, receiver: &Receiver, to: &str) {
    let before = receiver.count();
    world.fleet.accepted(0, to);
    wait::until("the mail to wait with its reason", || {
        let queue = world.fleet.change("GET", "/v2/queue", &Value::Null).to_string();
        queue.contains("address_elsewhere").then_some(())
    });
    assert_eq!(receiver.count(), before, "it waits");
}

fn peer_of(receiver: &Receiver, to: &str) -> std::net::IpAddr {
    wait::until(&format!("the mail to {to}"), || {
        let arrived = receiver.arrived();
        arrived.iter().find(|mail| recipient(mail) == to).map(|mail| mail.peer.expect("a peer").ip())
    })
}

#[test]
fn an_address_that_asks_for_a_capability_goes_to_a_host_that_announces_it_and_to_no_other() {
    let place = Place::new("needs-capability");
    let world = World::with(place, Setting { of_hosts: [&[], ANNOUNCES], ..Setting::default() });
    let [asks, other] = [0, 1].map(|host| world.address_of(host));
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    world.ask(asks, json!({"capabilities": ["net-a"]}));
    wait::until("each to be where it may be", || {
        (world.station(1).has(asks) && !world.station(1).has(other) && world.station(0).has(other)).then_some(())
    });
    assert!(!world.station(0).has(asks), "it has left");
    let (_, list) = world.host(&["list"]);
    assert!(list.lines().any(|line| line.starts_with("host-2") && line.contains("net-a")), "{list}");
    let (_, shown) = world.host(&["show", "host-2"]);
    assert!(shown.contains("host-1 lacks the capability net-a that the address asks for"), "{shown}");
    // Not even when the only host that announces it is to be emptied.
    let (done, text) = world.host(&["drain", "host-2"]);
    assert!(done, "{text}");
    let subject = format!("address/{asks}");
    let blocked = wait::until("the finding", || finding(&world, "drain_blocked", &subject));
    assert!(blocked.contains("host-1 lacks the capability net-a"), "{blocked}");
    assert!(world.station(1).has(asks) && !world.station(0).has(asks), "it stays");
    let arrived = world.nothing_is_lost(streams);
    let hosts: Vec<_> = uses(&arrived, asks).iter().map(|one| one.host).collect();
    assert!(hosts.ends_with(&[1]) && hosts.len() <= 2, "{hosts:?}");
}

#[test]
fn a_drained_host_whose_address_cannot_leave_takes_mail_also_when_it_is_started_again_and_while_etcd_is_away() {
    let place = Place::new("needs-drained");
    // Longer than every drained host accepts mail from when it is seen not to be ready.
    let (lease, notice) = (Some(Duration::from_secs(24)), Duration::from_secs(11));
    let mut world = World::with(place, Setting { of_hosts: [&[], ANNOUNCES], lease, ..Setting::default() });
    let asks = world.address_of(1);
    world.ask(asks, json!({"capabilities": ["net-a"]}));
    world.fleet.settle();
    let (done, text) = world.host(&["drain", "host-2"]);
    assert!(done, "{text}");
    let blocked = || finding(&world, "drain_blocked", &format!("address/{asks}"));
    wait::until("the finding", blocked);
    let not_ready_for_long = |world: &World| {
        let host = &world.fleet.hosts[1];
        let mut since = None;
        wait::until("the host not to be ready for some time", || {
            let (status, why) = host.get(host.admin, "/readyz")?;
            if status != 503 || !why.contains("it still accepts mail, and ends that once its addresses have gone") {
                assert!(since.is_none(), "{status} {why}");
                return None;
            }
            (since.get_or_insert_with(Instant::now).elapsed() > notice).then_some(())
        });
    };
    not_ready_for_long(&world);
    world.fleet.accepted(1, "first@receiver.test");
    world.fleet.hosts[1].child().kill();
    world.fleet.hosts[1].start_again();
    not_ready_for_long(&world);
    let record = world.fleet.etcd.control(&["get", "/postrail/main/holding/host-2", "--print-value-only"]);
    assert!(record.contains("joining"), "it waits until its predecessor's lease is over: {record}");
    world.fleet.accepted(1, "second@receiver.test");
    world.receiver.wait_for(2);
    world.fleet.etcd.kill();
    wait::until("its lease to be over", || (!world.station(1).has(asks)).then_some(()));
    world.fleet.accepted(1, "third@receiver.test");
    world.fleet.etcd.start_again();
    world.receiver.wait_for(3);
}

#[test]
fn mail_whose_only_source_asks_for_what_no_host_announces_waits_until_one_joins_that_does() {
    let place = Place::new("needs-joins");
    let mut world = World::with(place, Setting { of_hosts: [&[], ANNOUNCES], ..Setting::default() });
    let address = world.lan.at(103);
    let needs = ["net-a", "net-b"];
    let source = json!({"name": "own", "address": address, "ehlo_name": "own.sender.test", "capabilities": needs});
    use_source(&world, &source);
    let subject = format!("address/{address}");
    let told = wait::until("the finding", || finding(&world, "address_without_host", &subject));
    assert!(told.contains("host-1 lacks the capabilities net-a, net-b that"), "{told}");
    assert!(told.contains("host-2 lacks the capability net-b that"), "{told}");
    assert!(finding(&world, "pool_without_host", "pool/own").is_some_and(|told| told.contains("its mail waits")));
    waits_elsewhere(&world, &world.receiver, "waits@receiver.test");
    assert!((0..2).all(|host| !world.station(host).has(address)), "nobody is given it");

    world.join(&["--capability", "net-a", "--capability", "net-b"]);
    assert_eq!(peer_of(&world.receiver, "waits@receiver.test"), address);
    assert!(world.station(2).has(address), "it is where it may be");
    assert!((0..2).all(|host| !world.station(host).has(address)), "and nowhere else");
    assert_eq!(finding(&world, "address_without_host", &subject), None);
    assert_eq!(finding(&world, "pool_without_host", "pool/own"), None);
}

#[test]
fn an_address_is_put_on_the_interface_that_its_source_names_and_on_no_host_without_it() {
    let place = Place::new("needs-nic");
    let world = World::with(place, Setting { of_hosts: [&[], HAS_TWO], has_side: true, ..Setting::default() });
    let side = world.side.as_ref().expect("there is one");
    let address = side.lan.at(101);
    let on = |nic: &str, host: usize| world.station(host).has_on(nic, address);
    let source = |nic: &str| json!({"address": address, "ehlo_name": "own.sender.test", "nic": nic});
    let mut first = source("eth1");
    first["name"] = json!("own");
    use_source(&world, &first);
    wait::until("the interface to have it", || on("eth1", 1).then_some(()));
    assert!(!on("eth0", 0) && !on("eth0", 1), "it is on that interface alone");
    // Whoever accepts the mail, it leaves by that interface: nothing else of ours is in that network.
    for (host, to) in [(0, "first@side.receiver.test"), (1, "second@side.receiver.test")] {
        let job = world.fleet.accepted(host, to);
        assert_eq!(peer_of(&side.receiver, to), address);
        world.fleet.delivered(&job);
    }

    // An interface that no host has.
    world.fleet.change("PUT", "/v2/sources/own", &source("eth7"));
    world.fleet.settle();
    let subject = format!("address/{address}");
    let told = wait::until("the finding", || finding(&world, "address_without_host", &subject));
    for host in ["host-1", "host-2"] {
        assert!(told.contains(&format!("{host} lacks the interface eth7 that the address asks for")), "{told}");
    }
    wait::until("it to be off", || (!on("eth1", 1)).then_some(()));
    assert!(!on("eth0", 0) && !on("eth0", 1), "it is on no other instead");
    waits_elsewhere(&world, &side.receiver, "third@side.receiver.test");
    world.fleet.change("PUT", "/v2/sources/own", &source("eth1"));
    assert_eq!(peer_of(&side.receiver, "third@side.receiver.test"), address);
    assert_eq!(finding(&world, "address_without_host", &subject), None);

    // One that a host has already changes its interface there.
    let kept = world.address_of(1);
    world.ask(kept, json!({"nic": "eth1"}));
    wait::until("it to be on the other interface", || {
        (world.station(1).has_on("eth1", kept) && !world.station(1).has(kept)).then_some(())
    });
    assert!(!world.station(0).has(kept), "it stays with its host");
}
