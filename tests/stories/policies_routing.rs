//! Routing rules: mail leaves by the pool that its class, tenant and receiver ask for, and `postrail explain` says why.

use std::process::Command;

use postrail_tests::child::run;
use postrail_tests::postrail::binary;
use postrail_tests::receiver::Receiver;
use postrail_tests::world::{World, message};
use serde_json::{Value, json};

const ZONES: [(&str, &str); 2] =
    [("one.test.", "@ MX 10 mx\nmx A 127.0.0.41"), ("big.test.", "@ MX 10 mx\nmx A 127.0.0.42")];

/// Sends mail of a class and gives the address that it came from.
fn came_from(world: &World, receiver: &Receiver, to: &str, class: &str) -> String {
    let before = receiver.arrived().len();
    let job = world.send(to, &message(&format!("X-Postrail-Class: {class}\r\n"), "Hello.\r\n"));
    world.wait(&job, "delivered");
    let arrived = receiver.arrived();
    assert_eq!(arrived.len(), before + 1);
    arrived[before].peer.expect("a connection has a peer").ip().to_string()
}

fn explained(world: &World, to: &str, class: &str) -> Value {
    let mut command = Command::new(binary());
    command.args(["explain", "--from", "sender.test", "--to", to, "--class", class, "--json", "--data"]);
    command.arg(world.postrail.data()).args(["--api", &format!("http://{}", world.postrail.api)]);
    serde_json::from_str(&run(&mut command)).expect("JSON")
}

#[test]
fn mail_leaves_by_the_pool_that_the_most_specific_rule_says() {
    let world = World::new("routing-rules", &ZONES);
    let (one, big) = (world.receiver(41), world.receiver(42));
    let ask = |method: &str, path: &str, body: Value| {
        world.postrail.control_ok(method, path, Some(&body));
        world.postrail.settled_configuration();
    };
    for (name, address) in [("out2", "127.0.0.51"), ("out3", "127.0.0.52")] {
        ask("POST", "/v2/sources", json!({ "name": name, "address": address, "ehlo_name": "out.sender.test" }));
    }
    let member = |source: &str| json!([{ "source": source }]);
    ask("POST", "/v2/pools", json!({ "name": "bulk", "members": member("out2"), "classes": ["marketing"] }));
    ask("POST", "/v2/pools", json!({ "name": "big", "members": member("out3") }));
    ask("POST", "/v2/routing-rules", json!({ "name": "letters", "match": { "class": "marketing" }, "pool": "bulk" }));
    let to_big = json!({ "name": "big", "match": { "site": "mx.big.test" }, "pool": "big" });
    ask("POST", "/v2/routing-rules", to_big);
    assert_eq!(came_from(&world, &one, "a@one.test", "marketing"), "127.0.0.51");
    let usual = came_from(&world, &one, "a@one.test", "transactional");
    assert!(!["127.0.0.51", "127.0.0.52"].contains(&&*usual), "{usual}");
    assert_eq!(came_from(&world, &big, "a@big.test", "marketing"), "127.0.0.52", "a site comes before a class");
    let told = explained(&world, "one.test", "marketing");
    assert_eq!(told["pool"], json!({ "name": "bulk", "because": "routing rule letters: marketing mail" }));
    // A rule that leads to a pool which does not carry all passes on what it does not carry.
    ask("PUT", "/v2/routing-rules/letters", json!({ "pool": "bulk" }));
    assert_eq!(came_from(&world, &one, "a@one.test", "transactional"), usual);
    let told = explained(&world, "one.test", "transactional");
    let passed = "routing rule letters: all mail: pool bulk does not carry transactional mail";
    assert_eq!(told["pool"], json!({ "name": "default", "because": "the default pool", "passed_over": [passed] }));
    // Where no pool carries a mail it waits, and says so; the next revision takes it along.
    let default = world.postrail.control_ok("GET", "/v2/pools/default", None);
    let members: Vec<Value> = default["members"].as_array().expect("members").clone();
    ask("PUT", "/v2/pools/default", json!({ "members": members, "classes": ["marketing"] }));
    let job = world.send("a@one.test", &message("X-Postrail-Class: transactional\r\n", "Hello.\r\n"));
    postrail_tests::wait::until("the mail to wait for a pool", || {
        let queue = world.postrail.control_ok("GET", "/v2/queue", None);
        queue.to_string().contains("no_pool_for_class").then_some(())
    });
    ask("PUT", "/v2/pools/default", json!({ "members": members }));
    world.wait(&job, "delivered");
}

#[test]
fn a_rule_cannot_lend_the_pool_of_one_tenant_to_another() {
    let world = World::new("routing-foreign", &[]);
    let ask = |body: &Value| world.postrail.control("POST", "/v2/routing-rules", Some(body));
    world.postrail.control_ok("POST", "/v2/tenants", Some(&json!({ "name": "red" })));
    let source = world.postrail.control_ok("GET", "/v2/sources", None)["items"][0]["name"].clone();
    let pool = json!({ "name": "red", "tenant": "red", "members": [{ "source": source }], "classes": ["marketing"] });
    world.postrail.control_ok("POST", "/v2/pools", Some(&pool));
    for (rule, code) in [
        (json!({ "name": "a", "match": { "class": "marketing" }, "pool": "red" }), "foreign_pool"),
        (json!({ "name": "a", "match": { "sending_domain": "sender.test" }, "pool": "red" }), "foreign_pool"),
        (
            json!({ "name": "a", "match": { "tenant": "red", "class": "transactional" }, "pool": "red" }),
            "class_not_carried",
        ),
    ] {
        let (status, answer) = ask(&rule);
        assert!(status == 409 && answer.to_string().contains(code), "{rule}: {status} {answer}");
    }
    let (status, answer) = ask(&json!({ "name": "a", "match": { "tenant": "red" }, "pool": "red" }));
    assert_eq!(status, 201, "{answer}");
    let problems = world.postrail.control_ok("GET", "/v2/problems", None).to_string();
    assert!(problems.contains("rule_of_some_classes"), "{problems}");
}
