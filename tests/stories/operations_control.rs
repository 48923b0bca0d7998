//! The control API: tenants apart from each other, credentials over their life, quotas, pools and sources.

use postrail_tests::place::Place;
use postrail_tests::postrail::{DOMAIN, Postrail};
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::durability::{ZONE, job, job_id};

struct World {
    postrail: Postrail,
    receiver: Receiver,
    _names: NameServer,
    _place: Place,
}

fn world(name: &str) -> World {
    let place = Place::new(name);
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let resolver = names.address().to_string();
    let postrail = Postrail::start_with(&place, &["--resolver", &resolver, "--shards", "1"]);
    postrail.route("*", receiver.address().port());
    World { postrail, receiver, _names: names, _place: place }
}

/// A request to the control API as a tenant.
fn as_tenant(postrail: &Postrail, username: &str, secret: &str, method: &str, path: &str) -> (u16, Value) {
    let method = method.parse().expect("an HTTP method");
    let request = Client::new().request(method, format!("http://{}{path}", postrail.api));
    let response = request.basic_auth(username, Some(secret)).send().expect("the control API answers");
    let status = response.status().as_u16();
    (status, response.json().unwrap_or_default())
}

/// Submits a job with a credential: status and body.
fn submit_as(postrail: &Postrail, username: &str, secret: &str, job: &Value) -> (u16, Value) {
    let request = Client::new().post(format!("http://{}/v2/jobs", postrail.rest));
    let response = request.basic_auth(username, Some(secret)).json(job).send().expect("REST submission answers");
    let status = response.status().as_u16();
    (status, response.json().unwrap_or_default())
}

/// The smallest job from an address.
fn job_from(from: &str) -> Value {
    let mut job = job("someone@receiver.test");
    job["mail"] = json!({"from": {"email": from}, "mimeFrom": {"email": from}});
    job
}

#[test]
fn tenants_do_not_see_each_other() {
    let world = world("tenants");
    let postrail = &world.postrail;
    postrail.control_ok("POST", "/v2/tenants", Some(&json!({"name": "shop"})));
    let domain = postrail.control_ok("POST", "/v2/domains?tenant=shop", Some(&json!({"name": "shop.test"})));
    assert!(domain["dns_records"].as_array().is_some_and(|records| !records.is_empty()), "{domain}");
    let made = postrail.control_ok("POST", "/v2/credentials?tenant=shop", Some(&json!({"username": "shop-app"})));
    let secret = made["secret"].as_str().expect("the secret is shown once").to_owned();
    postrail.settled_configuration();

    assert_eq!(as_tenant(postrail, "shop-app", &secret, "GET", "/v2/domains/shop.test").0, 200);
    assert_eq!(as_tenant(postrail, "shop-app", &secret, "GET", "/v2/domains/sender.test").0, 404);
    let (_, list) = as_tenant(postrail, "shop-app", &secret, "GET", "/v2/domains");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(as_tenant(postrail, "shop-app", &secret, "DELETE", "/v2/domains/shop.test").0, 403);
    assert_eq!(as_tenant(postrail, "shop-app", "wrong", "GET", "/v2/domains").0, 401);

    let own = job_id(&submit_as(postrail, "shop-app", &secret, &job_from("a@shop.test")));
    postrail.wait_for_state(&own, "delivered");
    let theirs = job_id(&postrail.submit(&job("b@receiver.test")));
    postrail.wait_for_state(&theirs, "delivered");
    assert_eq!(as_tenant(postrail, "shop-app", &secret, "GET", &format!("/v2/jobs/{own}")).0, 200);
    for path in [format!("/v2/jobs/{theirs}"), format!("/v2/jobs/{theirs}/recipients"), format!("/v2/trace/{theirs}")] {
        assert_eq!(as_tenant(postrail, "shop-app", &secret, "GET", &path).0, 404, "{path}");
    }
    let (status, problem) = submit_as(postrail, "shop-app", &secret, &job_from("a@sender.test"));
    assert!([403, 422].contains(&status), "another tenant's domain: {status} {problem}");
    let (status, problem) = postrail.submit(&job_from("a@shop.test"));
    assert!([403, 422].contains(&status), "another tenant's domain: {status} {problem}");
    let (status, problem) = postrail.control("POST", "/v2/domains", Some(&json!({"name": "sender.test"})));
    assert_eq!(status, 409, "a tenant has a name once: {problem}");
    let (status, problem) = postrail.control("DELETE", "/v2/tenants/shop", None);
    assert_eq!(status, 409, "a tenant in use stays: {problem}");
}

#[test]
fn credentials_rotate_and_stop_at_once() {
    let world = world("credentials");
    let postrail = &world.postrail;
    let made = postrail.control_ok("POST", "/v2/credentials", Some(&json!({"username": "app"})));
    let first = made["secret"].as_str().expect("the secret is shown once").to_owned();
    let works = |secret: &str| submit_as(postrail, "app", secret, &job("c@receiver.test")).0;
    postrail.settled_configuration();
    assert_eq!(works(&first), 202);
    for path in ["/v2/credentials", "/v2/credentials/app"] {
        let shown = postrail.control_ok("GET", path, None).to_string();
        assert!(!shown.contains(&first) && !shown.contains("argon2"), "{path} shows no secret: {shown}");
    }

    let second = postrail.control_ok("POST", "/v2/credentials/app/rotate", None)["secret"].as_str().map(str::to_owned);
    let second = second.expect("the new secret is shown once");
    postrail.settled_configuration();
    assert_eq!((works(&first), works(&second)), (202, 202), "the old one stays live");
    let third = postrail.control_ok("POST", "/v2/credentials/app/rotate", None)["secret"].as_str().map(str::to_owned);
    let third = third.expect("the new secret is shown once");
    postrail.settled_configuration();
    assert_eq!((works(&first), works(&second), works(&third)), (401, 202, 202), "two live at most");

    let (good, text) = postrail.cli(&["credential", "disable", "app"]);
    assert!(good, "{text}");
    wait::until("the disabled credential to stop", || (works(&third) == 401).then_some(()));
    assert_eq!(as_tenant(postrail, "app", &third, "GET", "/v2/domains").0, 401);
    let transcript = postrail_tests::child::try_run(
        std::process::Command::new("swaks")
            .args(["--server", "127.0.0.1", "--port", &postrail.smtp.port().to_string(), "--tls", "--auth", "PLAIN"])
            .args([
                "--auth-user",
                "app",
                "--auth-password",
                &third,
                "--from",
                "a@sender.test",
                "--to",
                "b@receiver.test",
            ]),
    );
    assert!(!transcript.0.success() && transcript.1.contains("535 5.7.8"), "{}", transcript.1);
    let (good, text) = postrail.cli(&["credential", "enable", "app"]);
    assert!(good, "{text}");
    wait::until("the enabled credential to work", || (works(&third) == 202).then_some(()));
    postrail.control_ok("DELETE", "/v2/credentials/app", None);
    wait::until("the removed credential to stop", || (works(&third) == 401).then_some(()));
}

#[test]
fn a_quota_refuses_what_is_over_it() {
    let world = world("quota");
    let postrail = &world.postrail;
    postrail.control_ok("POST", "/v2/tenants", Some(&json!({"name": "small", "quota_per_day": 5})));
    postrail.control_ok("POST", "/v2/domains?tenant=small", Some(&json!({"name": "small.test"})));
    let made = postrail.control_ok("POST", "/v2/credentials?tenant=small", Some(&json!({"username": "small-app"})));
    let secret = made["secret"].as_str().expect("the secret is shown once").to_owned();
    postrail.settled_configuration();
    for number in 1..=5 {
        let (status, body) = submit_as(postrail, "small-app", &secret, &job_from("a@small.test"));
        assert_eq!(status, 202, "mail {number}: {body}");
    }
    let (status, body) = submit_as(postrail, "small-app", &secret, &job_from("a@small.test"));
    assert!(status == 429 && body["detail"].as_str().is_some_and(|detail| detail.contains("quota")), "{status} {body}");
    let (ended, transcript) = postrail_tests::child::try_run(
        std::process::Command::new("swaks")
            .args(["--server", "127.0.0.1", "--port", &postrail.smtp.port().to_string(), "--tls", "--auth", "PLAIN"])
            .args([
                "--auth-user",
                "small-app",
                "--auth-password",
                &secret,
                "--from",
                "a@small.test",
                "--to",
                "b@receiver.test",
            ]),
    );
    assert!(!ended.success() && transcript.contains("450 4.7.1"), "{transcript}");
    job_id(&postrail.submit(&job("another-tenant@receiver.test")));
    let change = json!({"quota_per_day": 6});
    postrail.control_ok("PATCH", "/v2/tenants/small", Some(&change));
    postrail.settled_configuration();
    assert_eq!(submit_as(postrail, "small-app", &secret, &job_from("a@small.test")).0, 202, "a raised quota works");
    assert_eq!(submit_as(postrail, "small-app", &secret, &job_from("a@small.test")).0, 429);
    world.receiver.wait_for(7);
}

#[test]
fn a_domain_sends_from_its_pool() {
    let world = world("pools");
    let postrail = &world.postrail;
    for (name, address) in [("out1", "127.0.0.11"), ("out2", "127.0.0.12")] {
        let ehlo = format!("{name}.sender.test");
        let (good, text) = postrail.cli(&["source", "add", name, "--address", address, "--ehlo", &ehlo]);
        assert!(good, "{text}");
    }
    let (good, text) = postrail.cli(&["pool", "add", "bulk", "--source", "out1", "--source", "out2=3"]);
    assert!(good, "{text}");
    let (good, text) = postrail.cli(&["domain", "assign", "sender.test", "--pool", "bulk"]);
    assert!(good, "{text}");
    postrail.settled_configuration();
    let (status, problem) = postrail.control("DELETE", "/v2/sources/out1", None);
    assert_eq!(status, 409, "a source in use stays: {problem}");
    let (status, problem) = postrail.control("DELETE", "/v2/pools/bulk", None);
    assert_eq!(status, 409, "a pool in use stays: {problem}");
    for number in 0..40 {
        job_id(&postrail.submit(&job(&format!("pool+{number}@receiver.test"))));
    }
    let arrived = world.receiver.wait_for(40);
    let from = |address: &str| {
        let mails = arrived.iter().filter(|mail| mail.peer.is_some_and(|peer| peer.ip().to_string() == address));
        mails.map(|mail| mail.ehlo.clone()).collect::<Vec<_>>()
    };
    let (one, two) = (from("127.0.0.11"), from("127.0.0.12"));
    assert_eq!(one.len() + two.len(), 40, "only from the pool's sources");
    assert!(!one.is_empty() && two.len() > one.len(), "weights 1 and 3: {} and {}", one.len(), two.len());
    assert!(one.iter().all(|ehlo| ehlo.contains("out1.sender.test")), "{one:?}");
    assert!(two.iter().all(|ehlo| ehlo.contains("out2.sender.test")), "{two:?}");
    for path in ["/v2/sources", "/v2/pools", "/v2/problems", "/v2/audit"] {
        postrail.control_ok("GET", path, None);
    }
}

#[test]
fn who_submits_from_a_trusted_network_needs_no_secret() {
    let world = world("trusted");
    let postrail = &world.postrail;
    let app = json!({"username": "rack", "scopes": ["submit"], "networks": ["127.0.0.77/32"], "trusts_networks": true});
    postrail.control_ok("POST", "/v2/credentials", Some(&app));
    let other = json!({"username": "other", "networks": ["127.0.0.0/24"], "trusts_networks": true});
    let (status, problem) = postrail.control("POST", "/v2/credentials", Some(&other));
    assert!(status == 409 || status == 422, "{status} {problem}");
    assert!(problem.to_string().contains("trusted_networks_overlap"), "nobody can be two: {problem}");
    let wide = json!({"username": "wide", "networks": ["0.0.0.0/0"], "trusts_networks": true});
    let (status, problem) = postrail.control("POST", "/v2/credentials", Some(&wide));
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/networks")), "{problem}");
    postrail.settled_configuration();

    let by_smtp = |from: &str| {
        let mut command = std::process::Command::new("swaks");
        command.args(["--server", "127.0.0.1", "--port", &postrail.smtp.port().to_string(), "--local-interface", from]);
        command.args(["--from", &format!("a@{DOMAIN}"), "--to", "x@receiver.test"]);
        postrail_tests::child::try_run(&mut command).1
    };
    let by_rest = |from: &str| {
        let mut command = std::process::Command::new("curl");
        command.args(["-s", "--interface", from, "-H", "Content-Type: application/json", "-w", "%{http_code}"]);
        command.args(["-d", &job("y@receiver.test").to_string(), &format!("http://{}/v2/jobs", postrail.rest)]);
        postrail_tests::child::try_run(&mut command).1
    };
    assert!(by_smtp("127.0.0.77").contains("queued as"));
    assert!(by_rest("127.0.0.77").ends_with("202"));
    assert!(by_smtp("127.0.0.78").contains("530 5.7.0"), "another address has to authenticate");
    assert!(by_rest("127.0.0.78").ends_with("401"));
    world.receiver.wait_for(2);

    postrail.control_ok("PATCH", "/v2/credentials/rack", Some(&json!({"trusts_networks": false})));
    postrail.settled_configuration();
    assert!(by_smtp("127.0.0.77").contains("530 5.7.0"));
    assert!(by_rest("127.0.0.77").ends_with("401"));
}

#[test]
fn a_credential_submits_only_with_its_scope_and_from_its_networks() {
    let world = world("scopes");
    let postrail = &world.postrail;
    let make = |username: &str, more: Value| {
        let mut body = more;
        body["username"] = json!(username);
        let made = postrail.control_ok("POST", "/v2/credentials", Some(&body));
        made["secret"].as_str().expect("the secret is shown once").to_owned()
    };
    let reader = make("reader", json!({"scopes": ["jobs:read"]}));
    let sender = make("sender", json!({"scopes": ["submit"], "networks": ["127.0.0.0/8"]}));
    let far = make("far", json!({"networks": ["192.0.2.0/24"]}));
    postrail.settled_configuration();

    let (status, problem) = submit_as(postrail, "reader", &reader, &job("x@receiver.test"));
    assert_eq!((status, &problem["code"]), (403, &json!("scope_missing")), "{problem}");
    let (status, problem) = submit_as(postrail, "far", &far, &job("x@receiver.test"));
    assert_eq!((status, &problem["code"]), (403, &json!("network_refused")), "{problem}");
    assert_eq!(submit_as(postrail, "far", "wrong", &job("x@receiver.test")).0, 401);
    let sent = job_id(&submit_as(postrail, "sender", &sender, &job("x@receiver.test")));
    postrail.wait_for_state(&sent, "delivered");
    let path = format!("/v2/jobs/{sent}");
    assert_eq!(as_tenant(postrail, "reader", &reader, "GET", &path).0, 200);
    let (status, problem) = as_tenant(postrail, "sender", &sender, "GET", &path);
    assert_eq!((status, &problem["code"]), (403, &json!("scope_missing")), "{problem}");
    assert_eq!(as_tenant(postrail, "far", &far, "GET", &path).0, 403);

    for (username, secret, said) in [("reader", &reader, "scope submit"), ("far", &far, "from your address")] {
        let mut command = std::process::Command::new("swaks");
        command.args(["--server", "127.0.0.1", "--port", &postrail.smtp.port().to_string(), "--tls"]);
        command.args(["--auth", "PLAIN", "--auth-user", username, "--auth-password", secret]);
        let (status, text) = postrail_tests::child::try_run(command.args(["--to", "x@receiver.test"]));
        assert!(!status.success() && text.contains("535 5.7.8") && text.contains(said), "{text}");
    }
    world.receiver.wait_for(1);
}
