//! The master key: from a file or from the environment, another one without a break, and nowhere else to be found.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrail_tests::child::try_run;
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Member, Plan};
use postrail_tests::place::Place;
use postrail_tests::postrail::{Postrail, binary};
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::json;

use crate::durability::{ZONE, job};

/// `postrail key …` on the host of the control plane.
fn key(fleet: &Fleet, command: &str) -> (bool, String) {
    let api = format!("http://{}", fleet.control.api);
    let (status, text) =
        try_run(Command::new(binary()).args(["key", command, "--api", &api, "--data"]).arg(&fleet.control.data));
    (status.success(), text)
}

/// SIGTERM and a start, one after the other.
fn restart(fleet: &mut Fleet) {
    for member in fleet.hosts.iter_mut().chain([&mut fleet.control]) {
        member.stop();
        member.start_again();
    }
    fleet.control.wait_for(fleet.control.api, "/readyz");
    for host in &mut fleet.hosts {
        host.wait_for(host.admin, "/readyz");
    }
    fleet.settle();
    wait::until("both hosts to be announced", || {
        let hosts = fleet.etcd.control(&["get", "--prefix", "--keys-only", "/postrail/main/hosts/"]);
        (hosts.lines().filter(|line| line.contains("host-")).count() == 2).then_some(())
    });
}

/// One signed mail by each host.
fn mail(fleet: &Fleet, receiver: &Receiver, what: &str) {
    let before = receiver.arrived().len();
    for host in 0..fleet.hosts.len() {
        let job = fleet.accepted(host, &format!("{what}-{host}@receiver.test"));
        fleet.delivered(&job);
    }
    let arrived = receiver.arrived();
    for mail in &arrived[before..] {
        let text = String::from_utf8_lossy(&mail.content);
        assert_eq!(text.matches("DKIM-Signature:").count(), 2, "{what}: {text}");
    }
}

/// Whatever tells octets: themselves, base64, hexadecimal.
fn forms(octets: &[u8]) -> [Vec<u8>; 3] {
    let hexadecimal: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    [octets.to_vec(), STANDARD.encode(octets).into_bytes(), hexadecimal.into_bytes()]
}

fn assert_nowhere(fleet: &Fleet, place: &Path, master_keys: &[Vec<u8>]) {
    let mut secrets: Vec<_> = master_keys.iter().flat_map(|key| forms(key)).collect();
    // How private keys of RSA and Ed25519 begin (PKCS#8), as octets and in base64.
    secrets.push(b"\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x04\x82".to_vec());
    secrets.push(b"\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec());
    secrets.extend([b"MIIEv".to_vec(), b"PRIVATE KEY".to_vec()]);
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    for file in ["control.log", "host-1.log", "host-2.log", "etcd-default.log"] {
        places.push((file.to_owned(), std::fs::read(place.join(file)).expect("a log")));
    }
    for host in &fleet.hosts {
        places.push((format!("metrics of {}", host.name), host.metrics().into_bytes()));
    }
    for path in ["/v2/domains", "/v2/domains/sender.test", "/v2/audit", "/v2/problems", "/v2/settings", "/metrics"] {
        let (_, answer) = fleet.control.control(&fleet.token, "GET", path, None);
        places.push((path.to_owned(), answer.to_string().into_bytes()));
    }
    places
        .push(("etcd".to_owned(), fleet.etcd.control(&["get", "--prefix", "/postrail/", "-w", "fields"]).into_bytes()));
    let database = "etcd-default/member/snap/db";
    places.push((database.to_owned(), std::fs::read(place.join(database)).expect("etcd's file")));
    for (name, octets) in &places {
        for secret in &secrets {
            assert!(!octets.windows(secret.len()).any(|part| part == secret), "{name} has key material: {secret:?}");
        }
    }
}

#[test]
fn another_master_key_takes_over_without_a_break_and_is_nowhere_to_be_read() {
    let place = Place::new("fleet-master-key");
    let (names, receiver) = (NameServer::start(&place, &[ZONE]), Receiver::local());
    let options = ["--resolver", &names.address().to_string(), "--shards", "1"];
    let mut fleet = Fleet::start(&place, 2, &options);
    let route = json!({"domain": "*", "port": receiver.address().port(), "allow_private": true});
    fleet.change("POST", "/v2/routes", &route);
    fleet.settle();
    mail(&fleet, &receiver, "before");

    let (done, text) = key(&fleet, "rotate");
    assert!(!done && text.contains("postrail key next"), "{text}");
    let (done, text) = key(&fleet, "next");
    assert!(done && text.contains("postrail key rotate"), "{text}");
    assert!(!key(&fleet, "next").0, "there is one");
    let at = |member: &Member, name: &str| member.data.join(name);
    let former = std::fs::read(at(&fleet.control, "master.key")).expect("a key");
    let next = std::fs::read(at(&fleet.control, "master.key.next")).expect("a key");
    fleet.control.stop();
    fleet.control.start_again();
    fleet.control.wait_for(fleet.control.api, "/readyz");
    wait::until("the hosts that lack it to be named", || {
        let (done, text) = key(&fleet, "rotate");
        assert!(!done, "{text}");
        (text.contains("host-1") && text.contains("host-2") && text.contains("master.key.next")).then_some(())
    });
    for host in &fleet.hosts {
        std::fs::write(at(host, "master.key.next"), &next).expect("written");
    }
    restart(&mut fleet);
    let text = wait::until("the control plane to know that all hosts have it", || {
        let (done, text) = key(&fleet, "rotate");
        done.then_some(text)
    });
    assert!(text.contains("1 domains"), "{text}");
    fleet.settle();
    mail(&fleet, &receiver, "rotated");
    let (done, text) = key(&fleet, "rotate");
    assert!(done && text.contains("0 domains"), "{text}");

    restart(&mut fleet);
    for member in fleet.hosts.iter().chain([&fleet.control]) {
        wait::until("the next key to be the current one", || {
            (std::fs::read(at(member, "master.key")).ok()? == next).then_some(())
        });
        assert_eq!(std::fs::read(at(member, "master.key.former")).expect("kept"), former);
        assert!(!at(member, "master.key.next").exists());
        std::fs::remove_file(at(member, "master.key.former")).expect("removed");
    }
    restart(&mut fleet);
    mail(&fleet, &receiver, "without-the-former");
    assert_nowhere(&fleet, place.path(), &[former, next]);
}

/// Enough for several steps of a rotation.
const MANY_DOMAINS: usize = 150;

/// One mail from every domain, each with a signature of its own domain.
fn every_domain_signs(postrail: &Postrail, receiver: &Receiver, what: &str) {
    let before = receiver.arrived().len();
    for number in 0..MANY_DOMAINS {
        let from = json!({"email": format!("app@d{number}.test")});
        let mut mail = job(&format!("{what}@receiver.test"));
        mail["mail"] = json!({"from": from, "mimeFrom": from});
        let (status, answer) = postrail.submit(&mail);
        assert_eq!(status, 202, "{what}: {answer}");
    }
    let arrived = receiver.wait_for(before + MANY_DOMAINS);
    let signed: BTreeSet<String> = arrived[before..].iter().map(|mail| signer(&mail.content)).collect();
    assert_eq!(signed.len(), MANY_DOMAINS, "{what}: {signed:?}");
}

/// The `d=` of the only signature of a mail.
fn signer(mail: &[u8]) -> String {
    let text = String::from_utf8_lossy(mail);
    assert_eq!(text.matches("DKIM-Signature:").count(), 1, "{text}");
    let after = text.split(" d=").nth(1).and_then(|rest| rest.split(';').next());
    after.expect("a signature names its domain").to_owned()
}

/// Begins a rotation and kills the control plane after its first step of those that are left; what the command said.
fn rotate_until_killed(postrail: &mut Postrail) -> String {
    let mut command = Command::new(binary());
    command.args(["key", "rotate", "--api", &format!("http://{}", postrail.api), "--data"]).arg(postrail.data());
    let mut rotation = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the command starts");
    let mut said = BufReader::new(rotation.stderr.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it tells each step");
    postrail.child().kill();
    assert!(!rotation.wait().expect("our own child").success(), "it was cut short after: {line}");
    postrail.start_again();
    line
}

#[test]
fn a_rotation_that_is_killed_again_and_again_ends_and_every_domain_signs_all_the_while() {
    let place = Place::new("master-key-killed");
    let (names, receiver) = (NameServer::start(&place, &[ZONE]), Receiver::local());
    let mut postrail = Postrail::start(&place, names.address(), receiver.address().port());
    for number in 0..MANY_DOMAINS {
        let domain = json!({"name": format!("d{number}.test"), "dkim_keys": ["ed25519-sha256"]});
        postrail.control_ok("POST", "/v2/domains", Some(&domain));
    }
    postrail.settled_configuration();
    every_domain_signs(&postrail, &receiver, "before");
    let (made, text) = postrail.cli(&["key", "next"]);
    assert!(made, "{text}");
    postrail.kill_and_restart();

    // One domain more is the installation's own.
    let first = rotate_until_killed(&mut postrail);
    assert!(first.starts_with("32 domains done, 119 left"), "{first}");
    every_domain_signs(&postrail, &receiver, "killed-once");
    let second = rotate_until_killed(&mut postrail);
    assert!(second.starts_with("32 domains done, ") && second != first, "{second}");
    every_domain_signs(&postrail, &receiver, "killed-twice");

    let (done, text) = postrail.cli(&["key", "rotate"]);
    assert!(done, "{text}");
    let (done, text) = postrail.cli(&["key", "rotate"]);
    assert!(done && text.contains("0 domains"), "nothing is left: {text}");
    let next = std::fs::read(postrail.data().join("master.key.next")).expect("the next key");
    postrail.kill_and_restart();
    assert_eq!(
        std::fs::read(postrail.data().join("master.key")).expect("a key"),
        next,
        "the next key is the current one"
    );
    std::fs::remove_file(postrail.data().join("master.key.former")).expect("the former one is kept until then");
    postrail.kill_and_restart();
    every_domain_signs(&postrail, &receiver, "by-the-next-key-alone");
}

#[test]
fn a_master_key_of_the_environment_needs_no_file_and_no_command_line_has_it() {
    let place = Place::new("fleet-master-key-environment");
    let etcd = Etcd::start(&place);
    let told = STANDARD.encode([42; 32]);
    let environment = [("POSTRAIL_MASTER_KEY", told.as_str())];
    let mut control = Member::start_as(
        &place,
        &etcd,
        Plan { name: "control", role: "control-plane", environment: &environment, ..Plan::default() },
    );
    control.wait_for(control.api, "/readyz");
    let mut host = Member::start_as(
        &place,
        &etcd,
        Plan { name: "host-1", role: "data-plane", environment: &environment, ..Plan::default() },
    );
    host.wait_for(host.admin, "/readyz");
    for member in [&control, &host] {
        assert!(!member.data.join("master.key").exists());
        assert!(!member.output().contains(&told));
        let line = std::fs::read(format!("/proc/{}/cmdline", member.id())).expect("it runs");
        assert!(!String::from_utf8_lossy(&line).contains(&told));
    }
    control.stop();
    let other = STANDARD.encode([43; 32]);
    for (wrong, words) in [(other.as_str(), "not that of this configuration"), ("secret", "32 octets in base64")] {
        let environment = [("POSTRAIL_MASTER_KEY", wrong)];
        let mut refused = Member::start_as(
            &place,
            &etcd,
            Plan { name: "other", role: "control-plane", environment: &environment, ..Plan::default() },
        );
        wait::until("it to end", || refused.child().ended());
        let output = refused.output();
        assert!(output.contains(words) && !output.contains(wrong), "{output}");
    }
}
