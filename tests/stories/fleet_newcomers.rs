//! Hosts that join, or come back, and lack what keeps mail from those who asked for none: the list of suppressions, or the
//! cluster's master key. Real processes and a real etcd, and a receiver that sees what was sent all the same.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use postrail_tests::fleet::{Fleet, Member};
use postrail_tests::place::Place;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

use crate::durability::ZONE;

/// Who asked for no mail.
const STOPPED: &str = "stop@receiver.test";
const NO_LIST: &str = "the list of suppressions is not here yet";
const OTHER_KEY: &str = "the master key here is not that of this configuration: copy that of another host";

struct World {
    fleet: Fleet,
    receiver: Receiver,
    options: Vec<String>,
    place: Place,
    _names: NameServer,
}

/// A fleet of one data plane, where [`STOPPED`] is suppressed.
fn world(name: &str) -> World {
    let place = Place::new(name);
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let options = ["--resolver", &names.address().to_string(), "--shards", "1"].map(str::to_owned).to_vec();
    let fleet = Fleet::start(&place, 1, &options.iter().map(String::as_str).collect::<Vec<_>>());
    let route = json!({"domain": "*", "port": receiver.address().port(), "allow_private": true});
    fleet.change("POST", "/v2/routes", &route);
    fleet.change("POST", "/v2/suppressions?tenant=default", &json!({"address": STOPPED}));
    fleet.settle();
    World { fleet, receiver, options, place, _names: names }
}

impl World {
    /// One more data plane, in an empty folder but for that master key.
    fn newcomer(&self, name: &str, master_key: &[u8]) -> Member {
        let options: Vec<_> = self.options.iter().map(String::as_str).collect();
        Member::start(&self.place, &self.fleet.etcd, name, "data-plane", Some(master_key), &options)
    }

    fn master_key(&self) -> Vec<u8> {
        std::fs::read(self.fleet.control.data.join("master.key")).expect("the master key")
    }

    fn submit(&self, host: &Member, to: &str) -> (u16, Value) {
        host.submit(&self.fleet.username, &self.fleet.secret, to)
    }

    /// What of a host is found under that code.
    fn finding(&self, code: &str, host: &str) -> Option<String> {
        let (_, found) = self.fleet.control.control(&self.fleet.token, "GET", "/v2/problems", None);
        let mut found = found["items"].as_array()?.iter();
        let one = found.find(|one| one["code"] == code && one["subject"] == format!("host/{host}"))?;
        Some(one["detail"].to_string())
    }
}

/// Waits until a host has said for so long that it is not ready, with those words.
fn not_ready(host: &Member, words: &str, time: Duration) {
    let mut since = None;
    wait::until(&format!("{} not to be ready: {words}", host.name), || match host.get(host.admin, "/readyz") {
        Some((503, why)) if why.contains(words) => {
            (since.get_or_insert_with(Instant::now).elapsed() >= time).then_some(())
        }
        told => {
            assert!(since.is_none(), "{told:?}");
            None
        }
    });
}

/// How it greets by SMTP.
fn greeting(host: &Member) -> String {
    let mut line = String::new();
    let stream = TcpStream::connect(host.smtp).expect("it listens");
    stream.set_read_timeout(Some(wait::LIMIT)).expect("a limit can be set");
    BufReader::new(stream).read_line(&mut line).expect("it greets");
    line
}

/// That both kinds of submission are put off, whoever is to be written to.
fn takes_no_mail(world: &World, host: &Member, words: &str) {
    for to in [STOPPED, "go@receiver.test"] {
        let (status, answer) = world.submit(host, to);
        assert_eq!((status, &answer["code"]), (503, &json!("not_ready")), "{to}: {answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{answer}");
    }
    let greeting = greeting(host);
    assert!(greeting.starts_with("421 4.3.2 ") && greeting.contains(words), "{greeting}");
}

/// That a host is ready, sends, and knows who is suppressed.
fn works(world: &World, host: &mut Member) {
    host.wait_for(host.admin, "/readyz");
    let (status, answer) = world.submit(host, STOPPED);
    assert_eq!(status, 422, "{answer}");
    assert!(answer.to_string().contains("suppress"), "{answer}");
    let before = world.receiver.arrived().len();
    let (status, answer) = world.submit(host, "go@receiver.test");
    assert_eq!(status, 202, "{answer}");
    let arrived = world.receiver.wait_for(before + 1);
    assert!(
        !arrived.iter().flat_map(|mail| &mail.rcpt).any(|to| to.contains(STOPPED)),
        "who asked for no mail has some"
    );
}

#[test]
fn a_host_takes_no_mail_until_it_had_the_list_of_suppressions_once_and_goes_on_with_it_over_a_restart() {
    let mut world = world("newcomer-first-list");
    let mut host = world.fleet.hosts.remove(0);
    world.fleet.control.child().kill();
    let mut newcomer = world.newcomer("host-2", &world.master_key());
    // Longer than a manifest waits for newer ones.
    not_ready(&newcomer, NO_LIST, Duration::from_secs(5));
    takes_no_mail(&world, &newcomer, "does not have the list of suppressions yet");
    let holding = world.fleet.etcd.control(&["get", "/postrail/main/holding/host-2", "--print-value-only"]);
    assert_eq!(holding.trim(), "", "addresses go to hosts that can send from them");
    // Who had one goes on, whoever is away.
    host.child().kill();
    host.start_again();
    works(&world, &mut host);
    newcomer.child().kill();
    newcomer.start_again();
    not_ready(&newcomer, NO_LIST, Duration::ZERO);

    world.fleet.control.start_again();
    works(&world, &mut newcomer);
    wait::until("it to take addresses", || {
        let holding = world.fleet.etcd.control(&["get", "/postrail/main/holding/host-2", "--print-value-only"]);
        (!holding.trim().is_empty()).then_some(())
    });
}

#[test]
fn hosts_that_cannot_have_the_suppressions_that_are_published_are_findings() {
    let mut world = world("newcomer-behind");
    // Where the leader is looked for nobody is: its API is not to be reached from there.
    let leader = "/postrail/main/election/leader";
    assert!(world.fleet.etcd.control(&["get", leader]).contains("http://"), "a control plane leads");
    world.fleet.etcd.control(&["put", leader, "http://127.0.0.1:1"]);
    let mut newcomer = world.newcomer("host-2", &world.master_key());
    not_ready(&newcomer, NO_LIST, Duration::ZERO);
    world.fleet.change("POST", "/v2/suppressions?tenant=default", &json!({"address": "later@receiver.test"}));
    let told = wait::until("the newcomer to be found", || world.finding("suppressions_behind", "host-2"));
    assert!(told.contains("it never had the list of suppressions, so it accepts no mail and sends none"), "{told}");
    let told = wait::until("the other to be found", || world.finding("suppressions_behind", "host-1"));
    assert!(told.contains("without the suppressions of since"), "{told}");
    assert_eq!(world.submit(&world.fleet.hosts[0], STOPPED).0, 422, "those that it had it has");

    world.fleet.control.stop();
    world.fleet.etcd.control(&["del", leader]);
    world.fleet.control.start_again();
    works(&world, &mut newcomer);
    wait::until("no finding", || {
        let is_found = |host: &&str| world.finding("suppressions_behind", host).is_some();
        (!["host-1", "host-2"].iter().any(is_found)).then_some(())
    });
}

#[test]
fn a_host_with_another_master_key_than_the_cluster_takes_no_mail() {
    let mut world = world("newcomer-other-key");
    let (ours, other) = (world.master_key(), [7; 32]);
    let ends = |host: &mut Member| {
        let ended = host.child().wait(wait::LIMIT);
        assert_eq!(ended.and_then(|status| status.code()), Some(2), "{}", host.output());
        assert!(host.output().contains(&format!("postrail: {OTHER_KEY}\n")), "{}", host.output());
    };
    ends(&mut world.newcomer("host-2", &other));

    // What starts while etcd is away hears it when it answers: who has worked before sends what it has, and takes no more.
    let mut host = world.fleet.hosts.remove(0);
    host.stop();
    std::fs::write(host.data.join("master.key"), other).expect("written");
    world.fleet.etcd.kill();
    host.start_again();
    host.wait_for(host.admin, "/readyz");
    let (status, answer) = world.submit(&host, "kept@receiver.test");
    assert_eq!(status, 202, "nobody knows better yet: {answer}");
    let mut newcomer = world.newcomer("host-3", &other);
    not_ready(&newcomer, "no configuration", Duration::ZERO);
    takes_no_mail(&world, &newcomer, "no configuration yet");
    world.fleet.etcd.start_again();
    ends(&mut newcomer);
    not_ready(&host, OTHER_KEY, Duration::ZERO);
    takes_no_mail(&world, &host, "not set up as the others are");
    assert!(host.output().lines().any(|line| line.contains("ERROR") && line.contains(OTHER_KEY)), "{}", host.output());
    let told = wait::until("it to be found", || world.finding("master_key_other", "host-1"));
    assert!(told.contains("copy master.key from another host"), "{told}");
    let told = wait::until("why it cannot be asked", || world.finding("listeners_unknown", "host-1"));
    assert!(told.contains("another master key"), "{told}");

    host.stop();
    host.start_again();
    ends(&mut host);
    std::fs::write(host.data.join("master.key"), ours).expect("written");
    host.start_again();
    works(&world, &mut host);
    wait::until("what it could not sign to be sent", || {
        world.fleet.control.control(&world.fleet.token, "POST", "/v2/queue/retry", Some(&json!({})));
        let arrived = world.receiver.arrived();
        arrived.iter().flat_map(|mail| &mail.rcpt).any(|to| to.contains("kept@receiver.test")).then_some(())
    });
    wait::until("no finding", || world.finding("master_key_other", "host-1").is_none().then_some(()));
}

#[test]
fn a_host_whose_cluster_has_no_configuration_goes_on_with_its_own_and_says_so() {
    let mut world = world("newcomers-cluster");
    world.fleet.hosts[0].stop();
    let options: Vec<_> = world.options.iter().map(String::as_str).chain(["--cluster", "mian"]).collect();
    let (etcd, key) = (&world.fleet.etcd, world.master_key());
    let host = Member::start(&world.place, etcd, "host-1", "data-plane", Some(&key), &options);
    wait::until("it to say what it misses", || {
        let is_told = host.output().contains("this cluster has no configuration (--cluster names another");
        (is_told && host.metrics().contains("\npostrail_configuration_connected 0\n")).then_some(())
    });
    wait::until("it to accept mail by what it has", || {
        (world.submit(&host, "one@receiver.test").0 == 202).then_some(())
    });
    assert_eq!(world.submit(&host, STOPPED).0, 422, "what it was told of holds");
}
