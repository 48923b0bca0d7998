//! Addresses that move between hosts, judged by a receiver in a network of its own: each host in a namespace, a real
//! etcd, a steady stream of mail at both hosts, and what becomes of it when a host dies, is cut off, drains or restarts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postrail_tests::child::run;
use postrail_tests::clock::Clock;
use postrail_tests::place::Place;
use postrail_tests::receiver::{Act, Arrived, Stage};
use postrail_tests::wait;
use serde_json::{Value, json};

use crate::addresses::{LEASE, Setting, World, connections_at_once, recipient, uses};

#[test]
fn a_host_that_is_killed_loses_its_addresses_to_the_other_which_starts_low() {
    let mut world = World::new("addresses-killed");
    let lost = world.address_of(0);
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    // Slow enough that one connection is not enough for what comes.
    world.receiver.script(Stage::EndOfData, Act::Wait(Duration::from_millis(400)), usize::MAX);
    world.fleet.hosts[0].child().kill();
    let killed = Instant::now();
    wait::within(LEASE + Duration::from_secs(1), "the other host to have the address", || {
        world.station(1).has(lost).then_some(())
    });
    let took = killed.elapsed();
    println!("on the other host {:.2} s after the kill, with a lease of {LEASE:?}", took.as_secs_f64());
    assert!(took > LEASE / 2, "it was not waited for the lease: {took:?}");
    let count = world.receiver.arrived().len();
    let arrived = wait::until("mail of the other host from there", || {
        let arrived = world.receiver.arrived();
        let from_there = uses(&arrived, lost).last().is_some_and(|last| last.host == 1);
        (from_there && arrived.len() > count + 25).then_some(arrived)
    });
    assert_eq!(connections_at_once(&arrived, lost, killed), 1, "the path starts low");
    world.receiver.script(Stage::EndOfData, Act::Wait(Duration::ZERO), 0);
    world.fleet.hosts[0].start_again();
    world.until_each_has_one();
    let arrived = world.nothing_is_lost(streams);
    for address in world.addresses {
        println!("{address}: {:?}", uses(&arrived, address).iter().map(|one| one.host).collect::<Vec<_>>());
    }
}

#[test]
fn a_host_that_is_cut_off_from_etcd_stops_before_the_other_starts() {
    let world = World::new("addresses-cut-off");
    let lost = world.address_of(0);
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    // It reaches the receiver as before.
    world.station(0).cut_off(world.lan.at(1));
    let cut = Instant::now();
    wait::within(LEASE + Duration::from_secs(1), "the other host to have the address", || {
        world.station(1).has(lost).then_some(())
    });
    println!("on the other host {:.2} s after the cut, with a lease of {LEASE:?}", cut.elapsed().as_secs_f64());
    let uses_then = wait::until("mail of the other host from there", || {
        let uses = uses(&world.receiver.arrived(), lost);
        uses.last().is_some_and(|last| last.host == 1).then_some(uses)
    });
    let [.., before, after] = uses_then[..] else { panic!("two hosts used {lost}: {uses_then:?}") };
    assert_eq!((before.host, after.host), (0, 1));
    let gap = after.first_connection.duration_since(before.last_mail);
    println!(
        "nobody used it for {:.2} s; the first host did {:.2} s after the cut",
        gap.as_secs_f64(),
        before.last_mail.duration_since(cut).as_secs_f64()
    );
    assert!(before.last_mail > cut, "it was used while the lease lasted");
    world.station(0).reach(world.lan.at(1));
    world.until_each_has_one();
    let arrived = world.nothing_is_lost(streams);
    world.addresses.iter().for_each(|address| drop(uses(&arrived, *address)));
}

#[test]
fn a_host_that_is_restarted_within_its_lease_keeps_its_addresses() {
    let mut world = World::new("addresses-restart");
    let (kept, grants) = (world.address_of(0), world.grants(0));
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    world.fleet.hosts[0].stop();
    assert!(!world.station(0).has(kept), "a host that ended in order has taken its address off");
    world.fleet.hosts[0].start_again();
    wait::until("the address to be back", || world.station(0).has(kept).then_some(()));
    assert_eq!(world.grants(0), grants, "nothing was given to anybody meanwhile");
    // One that crashed waits until its predecessor's lease is over.
    let again = world.receiver.arrived().len();
    world.receiver.wait_for(again + 20);
    world.fleet.hosts[0].child().kill();
    let killed = Instant::now();
    world.fleet.hosts[0].start_again();
    wait::until("mail to leave from the address again", || {
        uses(&world.receiver.arrived(), kept).last().filter(|last| last.last_mail > killed + LEASE / 2).copied()
    });
    assert_eq!(world.grants(0), grants, "nothing was given to anybody meanwhile");
    let arrived = world.nothing_is_lost(streams);
    assert_eq!(uses(&arrived, kept).len(), 1, "no other host used it");
}

#[test]
fn a_drain_moves_addresses_without_losing_mail() {
    let world = World::new("addresses-drain");
    let moved = world.address_of(0);
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    let began = Instant::now();
    // Without --wait: as long as mail comes, something waits there.
    let (done, text) = world.host(&["drain", "host-1"]);
    assert!(done && text.contains("host-1 is being emptied"), "{text}");
    wait::until("the address to have left", || (!world.station(0).has(moved)).then_some(()));
    println!("{text}after {:.2} s", began.elapsed().as_secs_f64());
    assert!(began.elapsed() < LEASE, "it is given up, and not waited for until its lease ends");
    wait::until("the other host to have both", || (world.places() == [Some(1); 2]).then_some(()));
    let (_, list) = world.host(&["list"]);
    assert!(list.lines().any(|line| line.starts_with("host-1") && line.contains("drained")), "{list}");
    let (_, shown) = world.host(&["show", "host-2"]);
    assert!(shown.contains("no other host may have it (host-1 is draining)"), "{shown}");
    assert!(shown.contains("listens on:") && shown.contains("smtp"), "{shown}");
    let (done, text) = world.host(&["resume", "host-1"]);
    assert!(done, "{text}");
    world.until_each_has_one();
    let arrived = world.nothing_is_lost(streams);
    let mut once = BTreeSet::new();
    assert!(arrived.iter().all(|mail| once.insert(recipient(mail))), "nothing was sent twice");
    let by_host: Vec<_> = uses(&arrived, moved).iter().map(|one| one.host).collect();
    assert!(by_host.starts_with(&[0, 1]), "{by_host:?}");
    let audit = world.fleet.change("GET", "/v2/audit", &Value::Null).to_string();
    assert!(audit.contains("POST /v2/hosts/host-1/drain") && audit.contains("POST /v2/hosts/host-1/resume"), "{audit}");
}

#[test]
fn a_host_whose_records_are_lost_from_etcd_writes_them_again_and_nothing_moves() {
    let world = World::new("addresses-lost-record");
    let grants = [world.grants(0), world.grants(1)];
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    let keys = || {
        let listed = world.fleet.etcd.control(&["get", "--prefix", "--keys-only", "/postrail/main/"]);
        let of_hosts = |key: &&str| ["/main/hosts/", "/main/holding/"].iter().any(|part| key.contains(part));
        listed.lines().filter(of_hosts).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let before = keys();
    assert_eq!(before.len(), 4, "{before:?}");
    for key in &before {
        assert_eq!(world.fleet.etcd.control(&["del", key]).trim(), "1");
    }
    // And every lease with what hangs on it: who leads, and which hosts run.
    let leases = world.fleet.etcd.control(&["lease", "list"]);
    let leases: Vec<_> =
        leases.lines().map(str::trim).filter(|line| line.bytes().all(|b| b.is_ascii_hexdigit())).collect();
    assert!(leases.len() >= 3, "{leases:?}");
    for lease in leases {
        world.fleet.etcd.control(&["lease", "revoke", lease]);
    }
    let lost = world.receiver.arrived().len();
    wait::until("the hosts to be there again", || (keys() == before).then_some(()));
    world.receiver.wait_for(lost + 20);
    assert_eq!([world.grants(0), world.grants(1)], grants, "no address went anywhere");
    world.fleet.change("PATCH", "/v2/tenants/default", &json!({"weight": 7}));
    world.fleet.settle();
    let arrived = world.nothing_is_lost(streams);
    for address in world.addresses {
        assert_eq!(uses(&arrived, address).len(), 1, "one host used it");
    }
}

#[test]
fn an_address_that_a_host_has_by_its_own_configuration_stays_with_it() {
    let mut world = World::new("addresses-own");
    // The station's own: on its interface before Postrail is, and while it is not.
    let own = world.station(1).address;
    let source = json!({"name": "own", "address": own, "ehlo_name": "own.sender.test"});
    world.fleet.change("POST", "/v2/sources", &source);
    world.fleet.change("PUT", "/v2/pools/default", &json!({"members": [{"source": "own"}]}));
    world.fleet.settle();
    let job = world.fleet.accepted(1, "first@receiver.test");
    world.fleet.delivered(&job);
    let from_own = |mail: &Arrived| mail.peer.is_some_and(|peer| peer.ip() == IpAddr::V4(own));
    assert!(world.receiver.arrived().iter().all(from_own), "mail goes from it: {:?}", world.receiver.arrived());
    assert!(!world.station(0).has(own), "it is not put on another host");
    let shown = run(world.station(1).command("ip").args(["-o", "-4", "address", "show", "dev", "eth0"]));
    let on: Vec<_> = shown.lines().filter(|line| line.contains(&format!(" {own}/"))).collect();
    assert!(on.len() == 1 && on[0].contains("valid_lft forever"), "it is used as it is: {shown}");
    // Its host is away for longer than its lease: nobody else is given what is on that machine.
    world.fleet.hosts[1].child().kill();
    wait::within(LEASE * 3, "the host to be gone", || {
        let (_, list) = world.host(&["list"]);
        list.lines().any(|line| line.starts_with("host-2") && line.contains("gone")).then_some(())
    });
    assert!(world.station(1).has(own) && !world.station(0).has(own), "it stays where it is");
    let waits = wait::until("the finding", || world.problem("address_without_host"));
    assert!(waits["detail"].as_str().is_some_and(|text| text.contains("host-2 is gone")), "{waits}");
    assert!(!world.station(0).has(own), "it is not put on another host");
    world.fleet.hosts[1].start_again();
    let job = wait::until("the host to accept mail", || {
        let submitter = world.fleet.hosts[1].submitter(&world.fleet.username, &world.fleet.secret);
        let (status, answer) = submitter.submit("second@receiver.test")?;
        (status == 202).then(|| answer.pointer("/meta/jobId")?.as_str().map(str::to_owned)).flatten()
    });
    world.fleet.delivered(&job);
    assert!(world.receiver.arrived().iter().all(from_own), "{:?}", world.receiver.arrived());
    // What contradicts itself is told, and what to do.
    world.station(0).configure(own);
    let twice = wait::until("the finding", || world.problem("address_on_two_hosts"));
    assert!(twice["detail"].as_str().is_some_and(|text| text.contains("host-1, host-2")), "{twice}");
    world.station(0).unconfigure(own);
    wait::until("the finding to go", || world.problem("address_on_two_hosts").is_none().then_some(()));
    let elsewhere = json!({"address": own, "ehlo_name": "own.sender.test", "host": "host-1"});
    world.fleet.change("PUT", "/v2/sources/own", &elsewhere);
    let other = wait::until("the finding", || world.problem("address_is_another_hosts"));
    assert!(other["detail"].as_str().is_some_and(|text| text.contains("name host-2 at the source")), "{other}");
    assert!(!world.station(0).has(own), "it is not put on another host");
}

#[test]
fn a_fixed_address_sends_through_an_outage_of_etcd_and_over_a_restart_in_it() {
    let mut world = World::new("addresses-fixed");
    let (fixed, leased) = (world.address_of(0), world.address_of(1));
    let name = world.source_of(fixed);
    let source = json!({"address": fixed, "ehlo_name": format!("{name}.sender.test"), "host": "host-1"});
    world.fleet.change("PUT", &format!("/v2/sources/{name}"), &source);
    world.fleet.settle();
    wait::until("the address to be fixed", || {
        let held = world.fleet.change("GET", "/v2/hosts/host-1", &Value::Null)["held"][0].clone();
        let is_fixed = held["tenure"] == "fixed" && held["state"] == "held";
        (is_fixed && world.station(0).has(fixed)).then_some(())
    });
    let peer_of = |world: &World, to: &str| {
        let arrived = world.receiver.arrived();
        arrived.iter().find(|mail| recipient(mail) == to).map(|mail| mail.peer.expect("a peer").ip())
    };
    world.fleet.etcd.kill();
    wait::within(LEASE * 2, "the leased address to go", || (!world.station(1).has(leased)).then_some(()));
    world.fleet.accepted(1, "leased@receiver.test");
    world.fleet.accepted(0, "fixed@receiver.test");
    let from = wait::until("mail from the fixed address", || peer_of(&world, "fixed@receiver.test"));
    assert_eq!(from, fixed);
    world.fleet.hosts[0].stop();
    world.fleet.hosts[0].start_again();
    wait::until("the restarted host to accept mail", || {
        let submitter = world.fleet.hosts[0].submitter(&world.fleet.username, &world.fleet.secret);
        (submitter.submit("restarted@receiver.test")?.0 == 202).then_some(())
    });
    let from = wait::until("mail after the restart", || peer_of(&world, "restarted@receiver.test"));
    assert_eq!(from, fixed);
    world.fleet.etcd.start_again();
    let from = wait::within(LEASE * 5, "what waited to go", || peer_of(&world, "leased@receiver.test"));
    println!("what waited at the other host went from {from}, where {leased} was leased");
}

#[test]
fn a_wall_clock_that_jumps_moves_no_address() {
    let place = Place::new("addresses-clock");
    let clock = Clock::new(&place, "clock");
    let environment = clock.environment();
    let world = World::with(place, Setting { environment: &environment, ..Setting::default() });
    let grants = [world.grants(0), world.grants(1)];
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    // Less than mail is kept for: what a mail has left until it expires is counted by this clock.
    for seconds in [3_600, -7_200, 0] {
        clock.set(seconds);
        let before = world.receiver.arrived().len();
        // Three keepalives at least.
        let until = Instant::now() + LEASE / 2;
        wait::until("mail to go on", || {
            (Instant::now() > until && world.receiver.arrived().len() > before + 20).then_some(())
        });
        assert_eq!([world.grants(0), world.grants(1)], grants, "no address went anywhere");
    }
    // That the processes did see it is in the Date of their mail.
    let arrived = world.nothing_is_lost(streams);
    let dates = arrived.iter().filter_map(|mail| {
        let text = String::from_utf8_lossy(&mail.content).into_owned();
        text.lines().find_map(|line| line.strip_prefix("Date: ").map(str::to_owned))
    });
    let hours: BTreeSet<_> = dates.filter_map(|date| Some(date.split(':').next()?.to_owned())).collect();
    assert!(hours.len() >= 3, "three clocks: {hours:?}");
    for address in world.addresses {
        assert_eq!(uses(&arrived, address).len(), 1, "one host used it");
    }
}
