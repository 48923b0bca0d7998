//! Which host a mail goes to follows from the zone: preference, spread, null MX, addresses without MX, aliases, loops.

use std::collections::BTreeSet;
use std::process::Command;

use postrail_tests::child::run;
use postrail_tests::judge;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::world::{Mail, World, message};
use serde_json::json;

/// Sends to each of these, and waits until it is delivered.
fn deliver(world: &World, addresses: &[&str]) {
    for address in addresses {
        let job = world.send(address, &message("", "Hello.\r\n"));
        world.wait(&job, "delivered");
    }
}

#[test]
fn the_best_mx_is_taken_and_the_next_one_when_it_is_down() {
    let zone = ("preference.test.", "@ MX 20 second\n@ MX 10 first\nfirst A 127.0.0.21\nsecond A 127.0.0.22");
    let world = World::new("preference", &[zone]);
    let first = world.receiver(21);
    let second = world.receiver(22);
    deliver(&world, &["a@preference.test", "b@preference.test"]);
    assert_eq!((first.arrived().len(), second.arrived().len()), (2, 0));
    drop(first);
    deliver(&world, &["c@preference.test", "d@preference.test"]);
    assert_eq!(second.arrived().len(), 2);
}

#[test]
fn a_host_that_is_down_from_the_start_costs_no_retry() {
    let zone = ("down.test.", "@ MX 10 first\n@ MX 20 second\nfirst A 127.0.0.21\nsecond A 127.0.0.22");
    let world = World::new("down", &[zone]);
    let second = world.receiver(22);
    deliver(&world, &["a@down.test"]);
    assert_eq!(second.arrived().len(), 1);
}

#[test]
fn hosts_of_equal_preference_share_the_mail() {
    let zone = ("spread.test.", "@ MX 10 one\n@ MX 10 two\none A 127.0.0.21\ntwo A 127.0.0.22");
    let world = World::new("spread", &[zone]);
    let hosts = [world.receiver(21), world.receiver(22)];
    // Every connection draws anew; one that is open is used again, so each mail gets a connection of its own here.
    for number in 0..40 {
        deliver(&world, &[&format!("user{number}@spread.test")]);
        hosts.iter().for_each(Receiver::hang_up);
        if hosts.iter().all(|host| host.arrived().len() >= 2) {
            return;
        }
    }
    panic!("one host got all: {:?}", hosts.map(|host| host.arrived().len()));
}

#[test]
fn a_null_mx_bounces_at_once_with_a_report() {
    let world = World::new("null-mx", &[("null.test.", "@ MX 0 .\n@ A 127.0.0.21")]);
    let host = world.receiver(21);
    let job = world.send("someone@null.test", &message("", "Hello.\r\n"));
    let bounced = world.wait(&job, "bounced");
    assert_eq!(bounced["last_reply"]["enhanced_status"], "5.1.10", "{bounced}");
    let report = judge::report(&world.place, &world.sender.wait_for(1)[0].content);
    assert_eq!(report["recipients"][0]["status"], "5.1.10", "{report}");
    assert_eq!(host.connections(), 0);
}

#[test]
fn a_domain_that_does_not_exist_bounces() {
    let world = World::new("nxdomain", &[("exists.test.", "@ A 127.0.0.21")]);
    let job = world.send("someone@nowhere.exists.test", &message("", "Hello.\r\n"));
    let bounced = world.wait(&job, "bounced");
    assert_eq!(bounced["last_reply"]["enhanced_status"], "5.1.2", "{bounced}");
}

#[test]
fn a_domain_without_mx_is_reached_at_its_own_addresses() {
    let world = World::new("no-mx", &[("four.test.", "@ A 127.0.0.21"), ("six.test.", "@ AAAA ::1")]);
    let four = world.receiver(21);
    let six = Receiver::start(std::net::SocketAddr::new("::1".parse().expect("an address"), world.port));
    deliver(&world, &["a@four.test", "b@six.test"]);
    assert_eq!((four.arrived().len(), six.arrived().len()), (1, 1));
}

#[test]
fn aliases_are_followed_from_the_domain_and_from_the_mx() {
    let zones = [
        ("real.test.", "@ MX 10 mx\nmx A 127.0.0.21\nalias CNAME @"),
        ("aliased.test.", "@ MX 10 mx\nmx CNAME host\nhost A 127.0.0.22"),
    ];
    let world = World::new("alias", &zones);
    let (domain, host) = (world.receiver(21), world.receiver(22));
    deliver(&world, &["a@alias.real.test", "b@aliased.test"]);
    assert_eq!((domain.arrived().len(), host.arrived().len()), (1, 1));
    assert!(domain.arrived()[0].rcpt[0].starts_with("RCPT TO:<a@alias.real.test>"));
}

#[test]
fn domains_with_the_same_hosts_share_connections() {
    let zones = [
        ("one.test.", "@ MX 10 mx.shared.test."),
        ("two.test.", "@ MX 10 mx.shared.test."),
        ("shared.test.", "mx A 127.0.0.21"),
    ];
    let world = World::new("site", &zones);
    let host = world.receiver(21);
    deliver(&world, &["a@one.test", "b@two.test", "c@one.test"]);
    let sites: BTreeSet<String> = ["a@one.test", "b@two.test"]
        .iter()
        .map(|address| {
            let job = world.send(address, &message("", "Hello.\r\n"));
            world.wait(&job, "delivered");
            world.wait_attempts(&job, 1)[0]["site"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(sites.len(), 1, "{sites:?}");
    assert_eq!(host.arrived().len(), 5);
}

#[test]
fn our_own_host_as_the_best_mx_is_a_loop_and_bounces() {
    let zone = ("loop.test.", "@ MX 10 mail.sender.test.\n@ MX 20 backup\nbackup A 127.0.0.21");
    let world = World::new("loop", &[zone]);
    world.names.replace("sender.test.", "@ MX 10 mx\nmx A 127.0.0.99\nmail A 127.0.0.22");
    let (ours, backup) = (world.receiver(22), world.receiver(21));
    let job = world.send("someone@loop.test", &message("", "Hello.\r\n"));
    let bounced = world.wait(&job, "bounced");
    assert_eq!(bounced["last_reply"]["enhanced_status"], "5.4.6", "{bounced}");
    assert_eq!((ours.connections(), backup.connections()), (0, 0));
}

#[test]
fn our_own_host_as_a_worse_mx_leaves_the_better_one() {
    let zone = (
        "better.test.",
        "@ MX 10 first\n@ MX 20 mail.sender.test.\n@ MX 30 last\nfirst A 127.0.0.21\nlast A 127.0.0.23",
    );
    let world = World::new("better", &[zone]);
    world.names.replace("sender.test.", "@ MX 10 mx\nmx A 127.0.0.99\nmail A 127.0.0.22");
    let (first, last) = (world.receiver(21), world.receiver(23));
    deliver(&world, &["someone@better.test"]);
    drop(first);
    for _ in 0..3 {
        world.send("someone@better.test", &message("", "Hello.\r\n"));
    }
    wait::until("mail to wait", || {
        let queue = world.postrail.control_ok("GET", "/v2/queue", None);
        queue.to_string().contains("better.test").then_some(())
    });
    assert_eq!(last.connections(), 0, "a worse host than ourselves is never tried");
}

#[test]
fn a_mail_with_more_than_50_received_fields_is_refused() {
    let world = World::new("received", &[("far.test.", "@ MX 10 mx\nmx A 127.0.0.21")]);
    let received = "Received: from a by b; Mon, 23 Nov 2026 21:00:00 +0000\r\n";
    let refused = |count: usize| {
        let message = [received.repeat(count).into_bytes(), message("", "Hello.\r\n")].concat();
        world.submit(&Mail::new(&["someone@far.test"], &message))
    };
    let answer = refused(51).expect_err("a loop is refused");
    assert!(answer.contains("5.4.6"), "{answer}");
    refused(40).expect("40 are accepted");
}

#[test]
fn an_mx_set_that_needs_tcp_is_read_whole() {
    // More hosts than are ever tried, with the best one last.
    let name = |number: usize| format!("host{number:02}-with-a-label-that-no-compression-makes-short");
    let mut records: Vec<String> =
        (0..40).map(|at| format!("@ MX 20 {name}\n{name} A 127.0.0.23", name = name(at))).collect();
    records.push(format!("@ MX 10 {name}\n{name} A 127.0.0.21", name = name(99)));
    let world = World::new("tcp", &[("large.test.", &records.join("\n"))]);
    let server = world.names.address();
    let mut question = Command::new("kdig");
    question.args([&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+ignore", "large.test", "MX"]);
    assert!(run(question.arg("+bufsize=1232")).contains(" tc"), "one datagram does not hold the answer");
    let best = world.receiver(21);
    deliver(&world, &["someone@large.test"]);
    assert_eq!(best.arrived().len(), 1);
}

#[test]
fn names_that_lead_nowhere_end_or_wait_as_the_answers_say() {
    let zones = [
        ("dangling.test.", "@ MX 10 gone"),
        ("half.test.", "@ MX 10 gone\n@ MX 20 there\nthere A 127.0.0.21"),
        ("circle.test.", "@ MX 10 one\none CNAME two\ntwo CNAME one"),
    ];
    let world = World::new("nowhere", &zones);
    let there = world.receiver(21);
    deliver(&world, &["someone@half.test"]);
    assert_eq!(there.arrived().len(), 1);
    let job = world.send("someone@dangling.test", &message("", "Hello.\r\n"));
    let bounced = world.wait(&job, "bounced");
    assert_eq!(bounced["last_reply"]["enhanced_status"], "5.4.4", "{bounced}");
    // The name server refuses what it has no zone for: that says nothing about the domain.
    for address in ["someone@unserved.example", "someone@circle.test"] {
        let job = world.send(address, &message("", "Hello.\r\n"));
        let deferred = world.wait(&job, "deferred");
        assert!(deferred["last_reply"]["text"].as_str().is_some_and(|text| !text.is_empty()), "{deferred}");
    }
}

#[test]
fn a_private_address_is_not_reached_unless_a_route_allows_it() {
    let world = World::new("private-address", &[("inner.test.", "@ MX 10 mx\nmx A 127.0.0.21")]);
    let receiver = world.receiver(21);
    let route = json!({"domain": "inner.test", "port": world.port, "allow_private": false});
    world.postrail.control_ok("POST", "/v2/routes", Some(&route));
    world.postrail.settled_configuration();
    let job = world.send("someone@inner.test", &message("", "Hello.\r\n"));
    let bounced = world.wait(&job, "bounced");
    assert!(bounced["last_reply"]["text"].as_str().is_some_and(|text| !text.is_empty()), "{bounced}");
    assert_eq!(receiver.connections(), 0);
}

#[test]
fn a_route_sends_a_domains_mail_to_another_ones_hosts() {
    let zones = [("routed.test.", "@ MX 10 mx\nmx A 127.0.0.22"), ("hub.test.", "@ MX 10 mx\nmx A 127.0.0.21")];
    let world = World::new("route", &zones);
    let hub = world.receiver(21);
    let route =
        json!({"domain": "routed.test", "routing_domain": "hub.test", "port": world.port, "allow_private": true});
    world.postrail.control_ok("POST", "/v2/routes", Some(&route));
    world.postrail.settled_configuration();
    deliver(&world, &["someone@routed.test"]);
    assert!(hub.arrived()[0].rcpt[0].starts_with("RCPT TO:<someone@routed.test>"));
}
