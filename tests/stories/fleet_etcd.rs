//! etcd is not a single point of pain: members that die, are cut off, forget, or give a lease up, and clocks that jump.
//!
//! Each story submits mail all the while and changes configuration on the way. It ends with every data plane under the
//! published revision, and every acknowledged mail delivered once.

use std::collections::BTreeSet;
use std::time::Duration;

use postrail_tests::clock::Clock;
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Member, Plan};
use postrail_tests::load::Load;
use postrail_tests::place::Place;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::json;

use crate::durability::ZONE;

struct World {
    fleet: Fleet,
    receiver: Receiver,
    load: Load,
    weight: u32,
    _names: NameServer,
    _place: Place,
}

impl World {
    /// Two data planes; mail is submitted at the first.
    fn new(name: &str, etcd: impl FnOnce(&Place) -> Etcd) -> Self {
        Self::with(Place::new(name), etcd, &[])
    }

    /// With this environment of every process of ours.
    fn with(place: Place, etcd: impl FnOnce(&Place) -> Etcd, environment: &[(&str, &str)]) -> Self {
        let names = NameServer::start(&place, &[ZONE]);
        let receiver = Receiver::local();
        let resolver = names.address().to_string();
        let options = ["--resolver", &resolver, "--shards", "1"];
        let fleet =
            Fleet::start_as(&place, etcd(&place), 2, |_| Plan { options: &options, environment, ..Plan::default() });
        let route = json!({"domain": "*", "port": receiver.address().port(), "allow_private": true});
        fleet.change("POST", "/v2/routes", &route);
        fleet.settle();
        let (host, login) = (&fleet.hosts[0], [fleet.username.as_str(), fleet.secret.as_str()]);
        let load = Load::start_at(&place, [host.smtp, host.rest], login, "load", [1, 1]);
        let world = Self { fleet, receiver, load, weight: 1, _names: names, _place: place };
        world.more_mail();
        world
    }

    /// Changes the configuration, as often as it takes until a change is made, and waits until it is in effect.
    fn change(&mut self) {
        self.weight += 1;
        let change = json!({"weight": self.weight});
        wait::until("a change to be possible", || {
            let asked = self.fleet.control.control(&self.fleet.token, "PATCH", "/v2/tenants/default", Some(&change));
            (asked.0 == 200).then_some(())
        });
        self.fleet.settle();
    }

    /// Waits until more mail is acknowledged than was.
    fn more_mail(&self) {
        let before = self.load.acknowledged().len();
        wait::until("more mail to be acknowledged", || (self.load.acknowledged().len() > before + 5).then_some(()));
    }

    /// Equal revisions, and no mail lost or sent twice.
    fn end(mut self) {
        self.change();
        let acknowledged = self.load.stop();
        let number = |mail: &_| postrail_tests::load::number_of("load", mail).expect("a numbered mail");
        let arrived = wait::until("every acknowledged mail to arrive", || {
            // Number 0 is of mail beside the load.
            let arrived: Vec<_> = self.receiver.arrived().iter().map(number).filter(|number| *number > 0).collect();
            acknowledged.iter().all(|number| arrived.contains(number)).then_some(arrived)
        });
        assert!(!acknowledged.is_empty());
        let once: BTreeSet<_> = arrived.iter().collect();
        assert_eq!(once.len(), arrived.len(), "nothing is sent twice");
        self.fleet.settle();
    }
}

/// The leader first, so that it is among them whoever leads later.
fn in_turn(etcd: &Etcd) -> [usize; 3] {
    let leader = etcd.leader();
    [leader, (leader + 1) % 3, (leader + 2) % 3]
}

#[test]
fn any_member_of_etcd_may_die_the_leader_too() {
    let mut world = World::new("etcd-members-die", Etcd::start_three);
    for member in in_turn(&world.fleet.etcd) {
        world.fleet.etcd.kill_member(member);
        world.change();
        world.more_mail();
        world.fleet.etcd.start_again();
        world.change();
    }
    world.end();
}

#[test]
fn any_member_of_etcd_may_be_cut_off_the_leader_too() {
    let mut world = World::new("etcd-members-cut-off", Etcd::start_three);
    for member in in_turn(&world.fleet.etcd) {
        world.fleet.etcd.set_cut_off(member, true);
        world.change();
        world.more_mail();
        world.fleet.etcd.set_cut_off(member, false);
        wait::until("the member to catch up", || {
            let other = world.fleet.etcd.revision((member + 1) % 3);
            (other.is_some() && world.fleet.etcd.revision(member) == other).then_some(())
        });
        world.change();
    }
    world.end();
}

#[test]
fn without_most_of_etcd_nothing_changes_and_mail_goes_on() {
    let mut world = World::new("etcd-minority", Etcd::start_three);
    let before = world.fleet.settle();
    let [first, second, _] = in_turn(&world.fleet.etcd);
    world.fleet.etcd.set_cut_off(first, true);
    world.fleet.etcd.kill_member(second);
    let change = json!({"weight": 77});
    let (status, problem) =
        world.fleet.control.control(&world.fleet.token, "PATCH", "/v2/tenants/default", Some(&change));
    assert_eq!((status, &problem["code"]), (503, &json!("store_unreachable")), "{problem}");
    world.more_mail();
    for host in &world.fleet.hosts {
        assert_eq!(host.revisions(), Some(vec![before]));
    }
    world.fleet.etcd.set_cut_off(first, false);
    world.fleet.etcd.start_again();
    world.end();
}

#[test]
fn a_data_plane_that_stood_still_while_etcd_forgot_catches_up() {
    let mut world = World::new("etcd-lagging-watch", Etcd::start);
    let before = world.fleet.settle();
    world.fleet.hosts[1].child().signal(libc::SIGSTOP);
    for weight in 100..160 {
        world.fleet.change("PATCH", "/v2/tenants/default", &json!({ "weight": weight }));
    }
    world.fleet.etcd.compact();
    world.more_mail();
    world.fleet.hosts[1].child().signal(libc::SIGCONT);
    let settled = world.fleet.settle();
    assert!(settled >= before + 60, "{settled}");
    world.end();
}

#[test]
fn a_host_whose_lease_was_lost_is_announced_again() {
    let world = World::new("etcd-lost-lease", Etcd::start);
    let etcd = &world.fleet.etcd;
    let key = "/postrail/main/hosts/host-1";
    let lease = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON")["kvs"][0]["lease"].as_i64();
    let held = || lease(&etcd.control(&["get", key, "-w", "json"]));
    let first = held().expect("a lease");
    etcd.control(&["lease", "revoke", &format!("{first:x}")]);
    wait::until("the host to be announced under another lease", || held().filter(|held| *held != first));
    // Its journal is taken again: what is delivered now is in the ledger.
    let job = world.fleet.accepted(0, "load+0@receiver.test");
    world.fleet.delivered(&job);
    world.end();
}

#[test]
fn a_wall_clock_that_jumps_moves_no_lease_and_loses_no_mail() {
    let place = Place::new("etcd-clock");
    let clock = Clock::new(&place, "clock");
    let environment = clock.environment();
    let mut world = World::with(place, Etcd::start, &environment);
    let held = |world: &World| world.fleet.etcd.control(&["get", "--prefix", "/postrail/main/hosts/", "-w", "json"]);
    let leases = |text: &str| {
        let all: serde_json::Value = serde_json::from_str(text).expect("JSON");
        all["kvs"].as_array().into_iter().flatten().map(|one| one["lease"].as_i64()).collect::<Vec<_>>()
    };
    let before = leases(&held(&world));
    assert_eq!(before.len(), 2);
    // An hour ahead, two hours back, 21 hours ahead, and right again. Not by more than a mail's lifetime of a day: what waits
    // for its attempt at that moment would expire, as it should.
    for seconds in [3_600, -3_600, 72_000, 0] {
        clock.set(seconds);
        world.more_mail();
        world.change();
        let job = world.fleet.accepted(0, "load+0@receiver.test");
        world.fleet.delivered(&job);
    }
    assert_eq!(leases(&held(&world)), before, "no host has let go of its lease");
    world.end();
}

/// A host of both planes.
struct Both {
    host: Member,
    username: String,
    secret: String,
    token: String,
}

impl Both {
    /// Starts it, with the way to `receiver` in effect.
    fn start(place: &Place, etcd: &Etcd, names: &NameServer, receiver: &Receiver) -> Self {
        let resolver = names.address().to_string();
        let options = ["--resolver", &resolver, "--shards", "1"];
        let mut host = Member::start_as(place, etcd, Plan { name: "both", options: &options, ..Plan::default() });
        host.wait_for(host.api, "/readyz");
        let (username, secret) = (host.printed("username "), host.printed("secret "));
        let token = std::fs::read_to_string(host.data.join("operator.token")).expect("the operator's token");
        let token = token.trim().to_owned();
        let route = json!({"domain": "*", "port": receiver.address().port(), "allow_private": true});
        let (status, made) = host.control(&token, "POST", "/v2/routes", Some(&route));
        assert_eq!(status, 201, "{made}");
        wait::until("the route to be in effect", || (host.revisions()? == [host.published()?]).then_some(()));
        Self { host, username, secret, token }
    }
}

#[test]
fn a_host_of_both_planes_that_starts_without_etcd_takes_mail_and_changes_once_etcd_is_back() {
    let place = Place::new("etcd-both-planes");
    let mut etcd = Etcd::start(&place);
    let (names, receiver) = (NameServer::start(&place, &[ZONE]), Receiver::local());
    let Both { mut host, username, secret, token } = Both::start(&place, &etcd, &names, &receiver);
    let token = token.as_str();

    host.stop();
    etcd.kill();
    host.start_again();
    host.wait_for(host.admin, "/readyz");
    assert!(host.get(host.api, "/readyz").is_none(), "there is no control API yet");
    let (status, job) = host.submit(&username, &secret, "one@receiver.test");
    assert_eq!(status, 202, "{job}");
    wait::until("the mail to arrive without etcd", || (receiver.arrived().len() == 1).then_some(()));
    // It ends in order while it waits, too.
    host.stop();
    host.start_again();

    etcd.start_again();
    host.wait_for(host.api, "/readyz");
    let (status, changed) = host.control(token, "PATCH", "/v2/tenants/default", Some(&json!({"weight": 5})));
    assert_eq!(status, 200, "{changed}");
    wait::until("the change to be in effect", || (host.revisions()? == [host.published()?]).then_some(()));
    let job = job.pointer("/meta/jobId").and_then(serde_json::Value::as_str).expect("a job's id");
    wait::until("the ledger to know of the mail", || {
        let (_, recipients) = host.control(token, "GET", &format!("/v2/jobs/{job}/recipients"), None);
        (recipients.pointer("/items/0/state")? == "delivered").then_some(())
    });

    // One that waits and finds another reason not to start ends in order, with that.
    host.stop();
    etcd.kill();
    host.start_again();
    host.wait_for(host.admin, "/readyz");
    let file = host.data.join("ledger.db");
    std::fs::rename(&file, file.with_extension("db.moved")).expect("renamed");
    let ended = host.child().wait(Duration::from_secs(30)).and_then(|status| status.code());
    let output = host.output();
    assert_eq!(ended, Some(2), "{output}");
    assert!(output.contains("was moved into a PostgreSQL database") && !output.contains("panicked"), "{output}");
}

#[test]
fn a_host_of_both_planes_that_starts_while_etcd_is_full_takes_mail_and_changes_once_there_is_room() {
    let place = Place::new("etcd-full-at-start");
    let etcd = Etcd::start_with(&place, "http", &["--quota-backend-bytes", "4000000"], &[]);
    let (names, receiver) = (NameServer::start(&place, &[ZONE]), Receiver::local());
    let Both { mut host, username, secret, token } = Both::start(&place, &etcd, &names, &receiver);
    let token = token.as_str();

    etcd.fill();
    host.stop();
    host.start_again();
    host.wait_for(host.admin, "/readyz");
    wait::until("it to say what it waits for", || host.output().contains("database is full").then_some(()));
    assert!(host.get(host.api, "/readyz").is_none(), "there is no control API yet");
    let (status, job) = host.submit(&username, &secret, "one@receiver.test");
    assert_eq!(status, 202, "{job}");
    wait::until("the mail to arrive", || (receiver.arrived().len() == 1).then_some(()));

    etcd.make_room();
    host.wait_for(host.api, "/readyz");
    let (status, changed) = host.control(token, "PATCH", "/v2/tenants/default", Some(&json!({"weight": 5})));
    assert_eq!(status, 200, "{changed}");
}

#[test]
fn a_first_control_plane_waits_for_an_etcd_that_starts_a_little_later() {
    let place = Place::new("etcd-starts-later");
    let mut etcd = Etcd::start(&place);
    etcd.kill();
    let plan = Plan { name: "control", role: "control-plane", ..Plan::default() };
    let mut control = Member::start_as(&place, &etcd, plan);
    wait::until("it to say what it waits for", || control.output().contains("waiting for etcd").then_some(()));
    etcd.start_again();
    control.wait_for(control.api, "/readyz");
}
