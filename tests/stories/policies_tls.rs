//! TLS rules: mail waits for a connection that meets them, says which rule it waits for, and is never sent weaker.

use std::process::Command;

use postrail_tests::child::run;
use postrail_tests::peers::postfix::Postfix;
use postrail_tests::postrail::binary;
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
