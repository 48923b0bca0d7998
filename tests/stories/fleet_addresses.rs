//! Addresses that move between hosts, judged by a receiver in a network of its own: each host in a namespace, a real
//! etcd, a steady stream of mail at both hosts, and what becomes of it when a host dies, is cut off, drains or restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::process::Command;
use std::time::{Duration, Instant};

use postrail_tests::child::{run, try_run};
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Plan};
use postrail_tests::lan::{Lan, Station};
use postrail_tests::load::Stream;
use postrail_tests::place::{Place, root};
use postrail_tests::postrail::binary;
use postrail_tests::receiver::{Act, Arrived, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

/// The shortest lease that may be configured.
const LEASE: Duration = Duration::from_secs(6);

/// The ports that each host begins connections from: an address alone does not tell which of them sent.
const PORTS: [RangeInclusive<u16>; 2] = [20_000..=39_999, 40_000..=60_000];

/// Two hosts, and the addresses that they share.
struct World {
    fleet: Fleet,
    receiver: Receiver,
    addresses: [Ipv4Addr; 2],
    lan: Lan,
    _names: NameServer,
    _receiver_at: Station,
    _place: Place,
}

impl World {
    fn new(name: &str) -> Self {
        Self::with(Place::new(name), &[])
    }

    fn with(place: Place, environment: &[(&str, &str)]) -> Self {
        let lan = Lan::new();
        let receiver_at = lan.station(50);
        let zone = ("receiver.test.", format!("@ MX 10 mx\nmx A {}", receiver_at.address));
        let names = NameServer::start_at(&place, SocketAddr::from((lan.at(2), 5353)), &[(zone.0, &zone.1)]);
        let receiver = receiver_at.enter(|| Receiver::start(SocketAddr::from((receiver_at.address, 2525))));
        let resolver = names.address().to_string();
        let lease = LEASE.as_secs().to_string();
        let options = ["--resolver", &resolver, "--shards", "1", "--nic", "eth0", "--lease", &lease];
        let etcd = Etcd::start_at(&place, SocketAddr::from((lan.at(1), 2379)));
        let plan = |name: &str| {
            let last = name.strip_prefix("host-").map_or(10, |number| 10 + number.parse::<u8>().expect("a number"));
            let station = lan.station(last);
            if let Some(ports) = last.checked_sub(11).and_then(|host| PORTS.get(usize::from(host))) {
                station.set_ports(ports.clone());
            }
            Plan { options: &options, environment, station: Some(station), ..Plan::default() }
        };
        let fleet = Fleet::start_as(&place, etcd, 2, plan);
        fleet.change("POST", "/v2/routes", &json!({"domain": "*", "port": 2525, "allow_private": true}));
        let addresses = [lan.at(101), lan.at(102)];
        let mut members = Vec::new();
        for address in addresses {
            let name = format!("out-{}", address.octets()[3]);
            let source = json!({"name": name, "address": address, "ehlo_name": format!("{name}.sender.test")});
            fleet.change("POST", "/v2/sources", &source);
            members.push(json!({"source": name}));
        }
        fleet.change("PUT", "/v2/pools/default", &json!({"members": members}));
        fleet.settle();
        let world = Self { fleet, receiver, addresses, lan, _names: names, _receiver_at: receiver_at, _place: place };
        world.until_each_has_one();
        world
    }

    fn station(&self, host: usize) -> &Station {
        self.fleet.hosts[host].station()
    }

    /// The host on whose interface each address is.
    fn places(&self) -> [Option<usize>; 2] {
        self.addresses.map(|address| {
            let on: Vec<_> = (0..2).filter(|host| self.station(*host).has(address)).collect();
            if let [first, _] = on[..] {
                // They were not looked at in one moment.
                assert!(!self.station(first).has(address), "{address} is on both hosts");
            }
            on.last().copied()
        })
    }

    fn until_each_has_one(&self) {
        wait::until("each host to have one address", || {
            let places = self.places();
            (places.contains(&Some(0)) && places.contains(&Some(1))).then_some(())
        });
    }

    /// The address that a host has, of two that are spread.
    fn address_of(&self, host: usize) -> Ipv4Addr {
        let at = self.places().iter().position(|place| *place == Some(host)).expect("each has one");
        self.addresses[at]
    }

    /// A host's grants in etcd, with the revision that wrote them.
    fn grants(&self, host: usize) -> Value {
        let key = format!("/postrail/main/allocation/grants/{}", self.fleet.hosts[host].name);
        let found: Value = serde_json::from_str(&self.fleet.etcd.control(&["get", &key, "-w", "json"])).expect("JSON");
        found["kvs"][0].clone()
    }

    /// `postrail host …` as the operator: whether it succeeded, and what it printed.
    fn host(&self, arguments: &[&str]) -> (bool, String) {
        let control = &self.fleet.control;
        let mut command = control.station().command(binary());
        command.arg("--data").arg(&control.data).arg("host").args(arguments);
        let (status, text) = try_run(command.args(["--api", &format!("https://{}", control.api)]));
        (status.success(), text)
    }

    /// The finding of that code, if there is one.
    fn problem(&self, code: &str) -> Option<Value> {
        let problems = self.fleet.change("GET", "/v2/problems", &Value::Null);
        problems["items"].as_array().expect("a list").iter().find(|one| one["code"] == code).cloned()
    }

    fn stream(&self, host: usize) -> Stream {
        let submitter = self.fleet.hosts[host].submitter(&self.fleet.username, &self.fleet.secret);
        // Each mail's address says by which host it was accepted.
        Stream::start(submitter, &format!("host{host}"))
    }

    /// Waits until every mail of the streams has arrived, and what is in the ledger of it.
    fn nothing_is_lost(&self, streams: Vec<Stream>) -> Vec<Arrived> {
        let accepted: BTreeMap<String, String> = streams.into_iter().flat_map(Stream::stop).collect();
        assert!(accepted.len() > 20, "the streams flowed: {}", accepted.len());
        wait::within(Duration::from_secs(45), "every accepted mail to arrive", || {
            let arrived: BTreeSet<_> = self.receiver.arrived().iter().map(recipient).collect();
            accepted.keys().all(|to| arrived.contains(to)).then_some(())
        });
        for job in accepted.values() {
            self.fleet.delivered(job);
        }
        self.receiver.arrived()
    }
}

fn recipient(mail: &Arrived) -> String {
    mail.rcpt[0].trim_start_matches("RCPT TO:<").split('>').next().unwrap_or_default().to_owned()
}

/// The host that sent it, whichever accepted it: what waits goes where its address is.
fn origin(mail: &Arrived) -> usize {
    let port = mail.peer.expect("a connection has two ends").port();
    PORTS.iter().position(|ports| ports.contains(&port)).expect("a host's port")
}

/// One host's use of an address, as the receiver saw it.
#[derive(Clone, Copy, Debug)]
struct Use {
    host: usize,
    first_connection: Instant,
    last_mail: Instant,
}

/// Who used `address`, one after the other. Nobody began a connection before the one before had begun its last mail.
fn uses(arrived: &[Arrived], address: Ipv4Addr) -> Vec<Use> {
    let mut mails: Vec<_> =
        arrived.iter().filter(|mail| mail.peer.is_some_and(|peer| peer.ip() == IpAddr::V4(address))).collect();
    mails.sort_by_key(|mail| mail.began);
    let mut uses: Vec<Use> = Vec::new();
    for mail in mails {
        let (host, began) = (origin(mail), mail.began.expect("a mail began"));
        let first_connection = mail.connected.expect("a connection was taken");
        match uses.last_mut().filter(|last| last.host == host) {
            Some(last) => last.last_mail = began,
            None => {
                if let Some(before) = uses.last() {
                    assert!(first_connection > before.last_mail, "{address} was used by both hosts at once: {uses:?}");
                }
                uses.push(Use { host, first_connection, last_mail: began });
            }
        }
    }
    uses
}

/// The most connections from `address` on which a mail was under way at one time, of mails that began since `since`.
fn connections_at_once(arrived: &[Arrived], address: Ipv4Addr, since: Instant) -> usize {
    let of_address = |mail: &&Arrived| mail.peer.is_some_and(|peer| peer.ip() == IpAddr::V4(address));
    let spans: Vec<_> = arrived.iter().filter(of_address).filter_map(|mail| Some((mail.began?, mail.at?))).collect();
    let spans: Vec<_> = spans.into_iter().filter(|(began, _)| *began >= since).collect();
    let at_once = |moment: Instant| spans.iter().filter(|(began, end)| *began <= moment && moment < *end).count();
    spans.iter().map(|(began, _)| at_once(*began)).max().unwrap_or(0)
}

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
    let name = format!("out-{}", fixed.octets()[3]);
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
    assert_eq!(from, IpAddr::V4(fixed));
    world.fleet.hosts[0].stop();
    world.fleet.hosts[0].start_again();
    wait::until("the restarted host to accept mail", || {
        let submitter = world.fleet.hosts[0].submitter(&world.fleet.username, &world.fleet.secret);
        (submitter.submit("restarted@receiver.test")?.0 == 202).then_some(())
    });
    let from = wait::until("mail after the restart", || peer_of(&world, "restarted@receiver.test"));
    assert_eq!(from, IpAddr::V4(fixed));
    world.fleet.etcd.start_again();
    let from = wait::within(LEASE * 5, "what waited to go", || peer_of(&world, "leased@receiver.test"));
    println!("what waited at the other host went from {from}, where {leased} was leased");
}

#[test]
fn a_wall_clock_that_jumps_moves_no_address() {
    let place = Place::new("addresses-clock");
    let (library, clock) = (place.join("clock.so"), place.join("clock"));
    let source = root().join("tests/src/clock.c");
    run(Command::new("gcc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source));
    let jump = |seconds: i64| std::fs::write(&clock, seconds.to_string()).expect("written");
    jump(0);
    let (preload, offset) = (library.display().to_string(), clock.display().to_string());
    let world = World::with(place, &[("LD_PRELOAD", &preload), ("CLOCK_OFFSET_FILE", &offset)]);
    let grants = [world.grants(0), world.grants(1)];
    let streams = vec![world.stream(0), world.stream(1)];
    world.receiver.wait_for(20);
    // Less than mail is kept for: what a mail has left until it expires is counted by this clock.
    for seconds in [3_600, -7_200, 0] {
        jump(seconds);
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
