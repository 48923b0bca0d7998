//! Retry policies: how soon and how long mail is tried, by class, as operators say it while it runs.

use postrail_tests::receiver::{Act, Stage};
use postrail_tests::wait;
use postrail_tests::world::{World, message};
use serde_json::{Value, json};

const ZONES: [(&str, &str); 1] = [("busy.test.", "@ MX 10 mx\nmx A 127.0.0.31")];

/// Mail of a class to a receiver that says "later".
fn mail(class: &str) -> Vec<u8> {
    message(&format!("X-Postrail-Class: {class}\r\n"), "Hello.\r\n")
}

/// Seconds between an event and the attempt that it announces.
fn delay_s(event: &Value) -> i64 {
    (event["next_attempt_ms"].as_i64().unwrap_or_default() - event["at_ms"].as_i64().unwrap_or_default()) / 1_000
}

fn deferrals(world: &World, job: &str, count: usize) -> Vec<Value> {
    world.wait_known(job);
    wait::until(&format!("{count} deferrals of {job}"), || {
        let trace = world.postrail.control_ok("GET", &format!("/v2/trace/{job}"), None);
        let events = trace["items"].as_array().cloned().unwrap_or_default();
        let deferred: Vec<_> = events.into_iter().filter(|event| event["kind"] == "deferred").collect();
        (deferred.len() >= count).then_some(deferred)
    })
}

#[test]
fn mail_is_tried_and_given_up_as_the_policy_of_its_class_says() {
    let world = World::new("retry-policies", &ZONES);
    let busy = world.receiver(31);
    busy.script(Stage::Rcpt, Act::Say("451 4.3.2 later\r\n".to_owned()), usize::MAX);
    let codes = json!({
        "name": "codes", "match": { "class": "transactional" },
        "first_delay_s": 1, "factor_percent": 100, "longest_delay_s": 1, "expiry_s": 12,
    });
    world.postrail.control_ok("POST", "/v2/retry-policies", Some(&codes));
    world.postrail.settled_configuration();
    let (code, letter) =
        (world.send("a@busy.test", &mail("transactional")), world.send("b@busy.test", &mail("marketing")));
    // Nobody asks for a retry: these attempts come by themselves, while the other class waits as long as ever.
    let tried = deferrals(&world, &code, 3);
    assert!(tried.iter().all(|event| delay_s(event) <= 2), "{tried:#?}");
    let waits = deferrals(&world, &letter, 1);
    assert!((270..=330).contains(&delay_s(&waits[0])), "{waits:#?}");
    // Delays are read anew after each attempt; expiry is what it was when the mail was accepted.
    let slower = json!({ "match": { "class": "transactional" }, "first_delay_s": 600, "expiry_s": 86400 });
    world.postrail.control_ok("PUT", "/v2/retry-policies/codes", Some(&slower));
    world.postrail.settled_configuration();
    let expired = world.wait(&code, "expired");
    assert_eq!(expired["state"], "expired");
    let late = world.send("c@busy.test", &mail("transactional"));
    let waits = deferrals(&world, &late, 1);
    assert!((540..=660).contains(&delay_s(&waits[0])), "{waits:#?}");
    assert_eq!(busy.arrived().len(), 0);
}

#[test]
fn what_a_retry_policy_cannot_say_is_told_by_its_pointer() {
    let world = World::new("retry-refusals", &[]);
    let refused = |body: Value| world.postrail.control("POST", "/v2/retry-policies", Some(&body));
    for (body, pointer) in [
        (json!({ "name": "a", "match": { "recipient_domain": "x.test" }, "expiry_s": 60 }), "/expiry_s"),
        (json!({ "name": "a", "match": { "tenant": "nobody" }, "expiry_s": 60 }), "/match/tenant"),
        (json!({ "name": "a", "first_delay_s": 60, "longest_delay_s": 10 }), "/longest_delay_s"),
        (json!({ "name": "a", "factor_percent": 50 }), "/factor_percent"),
    ] {
        let (status, answer) = refused(body.clone());
        assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some(pointer)), "{body}: {answer}");
    }
    let policy = |name| json!({ "name": name, "match": { "class": "marketing" }, "expiry_s": 60 });
    world.postrail.control_ok("POST", "/v2/retry-policies", Some(&policy("one")));
    let (status, answer) = refused(policy("two"));
    assert_eq!(status, 409, "{answer}");
    assert!(answer.to_string().contains("same_selector") && answer.to_string().contains("marketing mail"), "{answer}");
    // The tenant cannot go while a policy is about it.
    world.postrail.control_ok("POST", "/v2/tenants", Some(&json!({ "name": "red" })));
    let of_red = json!({ "name": "red", "match": { "tenant": "red" }, "first_delay_s": 60 });
    world.postrail.control_ok("POST", "/v2/retry-policies", Some(&of_red));
    let (status, answer) = world.postrail.control("DELETE", "/v2/tenants/red", None);
    assert!(status == 409 && answer.to_string().contains("retry_policy/red"), "{answer}");
}
