//! Daily quotas: exact over the shards of a host, kept over a restart, and one for all hosts of a fleet.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postrail_tests::place::Place;
use postrail_tests::postrail::Postrail;
use postrail_tests::scene::Scene;
use postrail_tests::wait;
use reqwest::blocking::Client;
use serde_json::{Value, json};

const DAY_S: u64 = 86_400;
const USED_UP: &str = "the tenant's quota for today is used up";

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_secs()
}

/// The UTC day, so far from its end that a story does not fall into the next one.
fn today() -> u64 {
    wait::within(Duration::from_secs(180), "midnight to have passed", || {
        let now = unix_s();
        (DAY_S - now % DAY_S > 120).then_some(now / DAY_S)
    })
}

fn set_quota(postrail: &Postrail, quota: Value) {
    postrail.control_ok("PATCH", "/v2/tenants/default", Some(&json!({"quota_per_day": quota})));
    postrail.settled_configuration();
}

/// A request to the admin listener, as the leader makes it: status and body.
fn tell(postrail: &Postrail, body: String) -> (u16, Value) {
    let request = Client::new().post(format!("http://{}/quotas", postrail.admin)).body(body);
    let answer = request.send().expect("the admin listener answers");
    let status = answer.status().as_u16();
    (status, answer.json().unwrap_or_default())
}

/// The id of the only tenant.
fn tenant(postrail: &Postrail) -> Value {
    postrail.control_ok("GET", "/v2/tenants/default", None)["id"].clone()
}

/// Submits mails of one recipient over one connection until one is refused: how many were not.
fn submit_until_refused(postrail: &Postrail, job: &Value) -> usize {
    let http = Client::new();
    for accepted in 0.. {
        let request = http.post(format!("http://{}/v2/jobs", postrail.rest));
        let request = request.basic_auth(&postrail.username, Some(&postrail.secret)).json(job);
        let answer = request.send().expect("REST submission answers");
        if answer.status() == 202 {
            continue;
        }
        assert_eq!(answer.status(), 429);
        let wait = answer.headers()["retry-after"].to_str().ok().and_then(|wait| wait.parse::<u64>().ok());
        let until = wait.expect("seconds") + unix_s();
        assert!(until.abs_diff((unix_s() / DAY_S + 1) * DAY_S) <= 5, "until the next UTC day: {wait:?}");
        let problem: Value = answer.json().expect("a problem");
        assert_eq!((&problem["code"], &problem["detail"]), (&json!("quota_exceeded"), &json!(USED_UP)));
        return accepted;
    }
    unreachable!("a quota is met")
}

#[test]
fn one_client_at_one_of_two_shards_reaches_exactly_the_quota() {
    today();
    let scene = Scene::with(Place::new("quota-shards"), &[]);
    let postrail = &scene.postrail;
    set_quota(postrail, json!(9));
    assert_eq!(submit_until_refused(postrail, &scene.job(&["a@b.test"])), 9);
    let (done, transcript) = postrail.swaks(&["--from", "hello@sender.test", "--to", "a@b.test"]);
    assert!(!done && transcript.contains("450 4.7.1 The tenant's quota for today is used up"), "{transcript}");

    // A job fits whole or not at all, and what is refused uses nothing up.
    set_quota(postrail, json!(11));
    let (status, problem) = postrail.submit(&scene.job(&["a@b.test", "b@b.test", "c@b.test"]));
    assert_eq!((status, &problem["code"]), (429, &json!("quota_exceeded")), "{problem}");
    assert_eq!(postrail.submit(&scene.job(&["a@b.test", "b@b.test"])).0, 202);
    assert_eq!(postrail.host_metric("postrail_quota_own_recipients"), 11);
    assert_eq!(postrail.submit(&scene.job(&["a@b.test"])).0, 429);
}

#[test]
fn many_clients_at_both_shards_reach_exactly_the_quota() {
    const QUOTA: usize = 301;
    const CLIENTS: usize = 8;
    today();
    let scene = Scene::with(Place::new("quota-clients"), &[]);
    let (postrail, job) = (&scene.postrail, scene.job(&["a@b.test"]));
    set_quota(postrail, json!(QUOTA));
    let accepted: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| submit_until_refused(postrail, &job))).collect();
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).sum()
    });
    assert_eq!(accepted, QUOTA);
    let metrics = postrail.metrics();
    let busy = |shard: u16| !metrics.contains(&format!("postrail_accepted_recipients_total{{shard=\"{shard}\"}} 0\n"));
    assert!(busy(0) && busy(1), "both shards took some:\n{metrics}");
    scene.receiver.wait_for(QUOTA);
}

#[test]
fn a_host_goes_by_what_it_is_told_of_the_others() {
    let day = today();
    let mut scene = Scene::with(Place::new("quota-told"), &[]);
    let job = scene.job(&["a@b.test"]);
    set_quota(&scene.postrail, json!(10));
    let id = tenant(&scene.postrail);
    let told = |own: u64, others: u64| json!({"day": day, "tenants": [[id, own, others]]}).to_string();
    let other_day = json!({"day": day + 1, "tenants": [[id, 99, 99]]}).to_string();

    let (status, first) = tell(&scene.postrail, other_day);
    assert_eq!((status, &first["day"]), (200, &json!(day)), "{first}");
    let start = first["start"].as_str().expect("the process has a name").to_owned();
    assert!(start.len() == 16 && start.bytes().all(|byte| byte.is_ascii_hexdigit()), "{start}");
    assert_eq!(scene.postrail.host_metric("postrail_quota_others_recipients"), 0, "another day has no effect");
    for (body, refused) in [("{}".to_owned(), 400), ("x".repeat(70_000), 413), (too_many(day), 413)] {
        let (status, problem) = tell(&scene.postrail, body);
        assert!(status == refused && problem["code"].is_string(), "{status} {problem}");
    }

    assert_eq!(tell(&scene.postrail, told(0, 4)), (200, first.clone()), "the same process has the same name");
    assert_eq!(submit_until_refused(&scene.postrail, &job), 6);
    // What comes late changes nothing.
    tell(&scene.postrail, told(0, 3));
    assert_eq!(submit_until_refused(&scene.postrail, &job), 0);

    scene.postrail.kill_and_restart();
    let (_, again) = tell(&scene.postrail, told(0, 0));
    assert_ne!(again["start"], first["start"], "another process has another name");
    tell(&scene.postrail, told(6, 3));
    assert_eq!(submit_until_refused(&scene.postrail, &job), 1);
}

/// A tenant more than a request may tell of.
fn too_many(day: u64) -> String {
    let tenants: Vec<Value> = (0..=1_000).map(|id| json!([id + 1_000, 1, 1])).collect();
    json!({"day": day, "tenants": tenants}).to_string()
}
