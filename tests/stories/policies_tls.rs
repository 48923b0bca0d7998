//! TLS rules: mail waits for a connection that meets them, says which rule it waits for, and is never sent weaker.

use std::path::Path;
use std::process::Command;

use postrail_tests::child::{run, try_run};
use postrail_tests::peers::postfix::Postfix;
use postrail_tests::place::Place;
use postrail_tests::postrail::binary;
use postrail_tests::receiver::Receiver;
use postrail_tests::world::{World, message};
use serde_json::{Value, json};

const ZONES: [(&str, &str); 2] =
    [("plain.test.", "@ MX 10 mx\nmx A 127.0.0.41"), ("own.test.", "@ MX 10 mx\nmx A 127.0.0.42")];

fn ask(world: &World, method: &str, path: &str, body: Option<Value>) {
    world.postrail.control_ok(method, path, body.as_ref());
    world.postrail.settled_configuration();
}

fn explained(world: &World, to: &str) -> Value {
    let mut command = Command::new(binary());
    command.args(["explain", "--from", "sender.test", "--to", to, "--json", "--data"]);
    command.arg(world.postrail.data()).args(["--api", &format!("http://{}", world.postrail.api)]);
    serde_json::from_str(&run(&mut command)).expect("JSON")
}

#[test]
fn mail_under_a_tls_rule_waits_for_a_connection_that_meets_it() {
    let world = World::new("tls-rules", &ZONES);
    let plain = world.receiver(41);
    // Its certificate is its own.
    let own = Postfix::start(&world.place, &[world.at(42)]);
    ask(&world, "POST", "/v2/tls-rules", Some(json!({ "name": "all", "level": "required" })));
    let hello = message("", "Hello.\r\n");
    let waiting = world.send("a@plain.test", &hello);
    let attempt = world.wait_attempts(&waiting, 1)[0].to_string();
    let told = "the receiver does not offer STARTTLS; TLS rule all demands required TLS";
    assert!(attempt.contains(told), "{attempt}");
    let sent = world.send("a@own.test", &hello);
    world.wait(&sent, "delivered");
    assert!(world.attempts(&sent)[0]["tls"].as_str().is_some_and(|tls| tls.starts_with("TLSv1.3")));
    assert_eq!(own.inbox().wait_for(1).len(), 1);
    let queue = world.postrail.control_ok("GET", "/v2/queue", None);
    assert!(queue.to_string().contains(r#""tls_rules":{"all":1}"#), "{queue}");
    // Mail that is exempt goes beside mail that is not, to the same receiver.
    let exempt = json!({ "name": "letters", "match": { "recipient_domain": "plain.test", "class": "marketing" }, "level": "opportunistic" });
    ask(&world, "POST", "/v2/tls-rules", Some(exempt));
    let letter = world.send("b@plain.test", &message("X-Postrail-Class: marketing\r\n", "Hello.\r\n"));
    world.wait(&letter, "delivered");
    assert_eq!(plain.arrived().len(), 1);
    let problems = world.postrail.control_ok("GET", "/v2/problems", None).to_string();
    assert!(problems.contains("tls_rule_lifts"), "{problems}");
    // A certificate that nobody vouches for does not verify its host.
    let verified = json!({ "name": "own", "match": { "recipient_domain": "own.test" }, "level": "verified", "minimum_version": "1.3" });
    ask(&world, "POST", "/v2/tls-rules", Some(verified));
    let strict = world.send("b@own.test", &hello);
    let attempt = world.wait_attempts(&strict, 1)[0].to_string();
    assert!(attempt.contains("tls_failed") && attempt.contains("TLS rule own demands verified TLS 1.3"), "{attempt}");
    assert_eq!(own.inbox().mails().len(), 1);
    let told = explained(&world, "own.test")["tls"].clone();
    assert_eq!((&told["level"], &told["minimum_version"]), (&json!("verified"), &json!("1.3")));
    assert_eq!(told["because"], json!(["TLS rule own: mail to own.test"]));
    // What waits goes by the rules of the moment when it is tried again.
    ask(&world, "DELETE", "/v2/tls-rules/own", None);
    ask(&world, "DELETE", "/v2/tls-rules/all", None);
    assert_eq!(plain.arrived().len(), 1, "nothing went in plaintext before");
    world.retry();
    world.wait(&strict, "delivered");
    world.wait(&waiting, "delivered");
    assert_eq!((plain.arrived().len(), own.inbox().wait_for(2).len()), (2, 2));
}

/// What is asked of openssl for a key that is made with it.
const NEW: [&str; 6] = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/// An authority, `NAME.pem`.
fn authority(place: &Place, name: &str) {
    let file = |end: &str| place.join(&format!("{name}.{end}")).display().to_string();
    let own = ["-x509", "-days", "2", "-subj", &format!("/CN={name}"), "-out", &file("pem"), "-keyout", &file("key")];
    run(Command::new("openssl").args(NEW).args(own));
}

/// A Postfix with a certificate of that authority for `name`, which holds for `days` from now.
fn receiver(world: &World, last: u8, authority: &str, name: &str, days: &str) -> Postfix {
    let file = |end: &str| world.place.join(&format!("{last}.{end}")).display().to_string();
    let ca = |end: &str| world.place.join(&format!("{authority}.{end}")).display().to_string();
    let names = format!("subjectAltName=DNS:{name}");
    let request = ["-subj", "/CN=receiver", "-addext", &names, "-out", &file("csr"), "-keyout", &file("key")];
    run(Command::new("openssl").args(NEW).args(request));
    let sign = ["x509", "-req", "-copy_extensions", "copy", "-days", days, "-in", &file("csr"), "-out", &file("pem")];
    run(Command::new("openssl").args(sign).args(["-CA", &ca("pem"), "-CAkey", &ca("key")]));
    run(Command::new("chmod").args(["644", &file("key")]));
    let settings = [format!("smtpd_tls_cert_file = {}", file("pem")), format!("smtpd_tls_key_file = {}", file("key"))];
    Postfix::start_with(&world.place, &[world.at(last)], &[&settings[0], &settings[1]])
}

/// `postrail up` that refuses to start with these authorities, and what it says.
fn refused_start(place: &Place, authorities: &Path) -> String {
    let mut up = Command::new(binary());
    up.args(["up", "--data"]).arg(place.join("refused")).arg("--receiver-ca").arg(authorities);
    for option in ["--smtp", "--smtps", "--rest", "--api", "--admin"] {
        up.args([option, "127.0.0.1:0"]);
    }
    let (status, said) = try_run(&mut up);
    assert!(!status.success(), "{said}");
    said
}

#[test]
fn verified_mail_goes_to_receivers_of_the_operators_authority_and_to_no_others() {
    let zones = ["good", "name", "old", "other", "none"];
    let zones: Vec<_> = (41..).zip(zones).map(|(last, name)| (format!("{name}.test."), last)).collect();
    let texts: Vec<_> = zones.iter().map(|(_, last)| format!("@ MX 10 mx\nmx A 127.0.0.{last}")).collect();
    let zones: Vec<_> = zones.iter().zip(&texts).map(|((zone, _), text)| (zone.as_str(), text.as_str())).collect();
    let mut world = World::new("tls-authority", &zones);
    let file = world.place.join("ours.pem");
    authority(&world.place, "ours");
    authority(&world.place, "theirs");
    let receivers = [
        receiver(&world, 41, "ours", "mx.good.test", "2"),
        receiver(&world, 42, "ours", "mx.another.test", "2"),
        receiver(&world, 43, "ours", "mx.old.test", "-1"),
        receiver(&world, 44, "theirs", "mx.other.test", "2"),
    ];
    let plain = Receiver::start(world.at(45));
    ask(&world, "POST", "/v2/tls-rules", Some(json!({ "name": "all", "level": "verified" })));
    let hello = message("", "Hello.\r\n");
    let early = world.send("a@good.test", &hello);
    let attempt = world.wait_attempts(&early, 1)[0].to_string();
    assert!(attempt.contains("the certificate is of an unknown issuer"), "{attempt}");
    // Now the host is given the authority.
    assert!(world.postrail.drain().success());
    world.postrail.start_again_with(&["--receiver-ca", &file.display().to_string()]);
    world.retry();
    let delivered = world.wait(&early, "delivered");
    let tls = world.attempts(&early).pop().expect("an attempt")["tls"].clone();
    let is_verified = |tls: &str| tls.starts_with("TLSv1.3 ") && tls.ends_with(" verified");
    assert!(tls.as_str().is_some_and(is_verified), "{tls} {delivered}");
    for (to, why) in [
        ("a@name.test", "the certificate is for another name"),
        ("a@old.test", "the certificate has expired"),
        ("a@other.test", "the certificate is of an unknown issuer"),
        ("a@none.test", "the receiver does not offer STARTTLS"),
    ] {
        let waiting = world.send(to, &hello);
        let attempt = world.wait_attempts(&waiting, 1)[0].to_string();
        assert!(attempt.contains(why) && attempt.contains("TLS rule all demands verified TLS"), "{to}: {attempt}");
        assert_eq!(world.postrail.recipients(&waiting)[0]["state"], "deferred", "{to}");
    }
    let arrived = receivers.each_ref().map(|receiver| receiver.inbox().mails().len());
    assert_eq!((arrived, plain.arrived().len()), ([1, 0, 0, 0], 0), "nothing went in clear");
    let empty = world.place.join("empty.pem");
    std::fs::write(&empty, "nothing\n").expect("written");
    let said = refused_start(&world.place, &empty);
    assert!(said.contains("empty.pem has no certificate, or a malformed one"), "{said}");
}

#[test]
fn a_tls_rule_that_cannot_be_is_refused_by_its_field() {
    let world = World::new("tls-refused", &[]);
    for (rule, pointer) in [
        (json!({ "name": "a", "level": "strict" }), "/level"),
        (json!({ "name": "a", "level": "required", "minimum_version": "1.1" }), "/minimum_version"),
        (json!({ "name": "a", "level": "opportunistic", "minimum_version": "1.3" }), "/minimum_version"),
        (json!({ "name": "a", "level": "required", "hosts": [".a.test"] }), "/hosts"),
        (json!({ "name": "a", "level": "verified", "hosts": ["not a host"] }), "/hosts"),
        (json!({ "name": "a", "level": "required", "match": { "tenant": "nobody" } }), "/match/tenant"),
        (json!({ "name": "a", "level": "required", "lvl": 1 }), "/lvl"),
    ] {
        let (status, answer) = world.postrail.control("POST", "/v2/tls-rules", Some(&rule));
        assert!((400..500).contains(&status) && answer.to_string().contains(pointer), "{rule}: {status} {answer}");
    }
}
