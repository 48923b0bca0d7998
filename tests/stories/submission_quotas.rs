//! Daily quotas: exact over the shards of a host, kept over a restart, and one for all hosts of a fleet.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postrail_tests::fleet::Fleet;
use postrail_tests::place::Place;
use postrail_tests::postrail::Postrail;
use postrail_tests::receiver::{Act, Receiver, Stage};
use postrail_tests::scene::Scene;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::durability::ZONE;

const DAY_S: u64 = 86_400;
const USED_UP: &str = "the tenant's quota for today is used up";

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_secs()
}

/// The UTC day, so far from its end that a story does not fall into the next one.
pub(crate) fn today() -> u64 {
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

/// What the control API tells of the quota of the only tenant.
fn use_of(postrail: &Postrail) -> Value {
    postrail.control_ok("GET", "/v2/tenants/default/quota", None)
}

#[test]
fn a_host_that_was_killed_goes_on_where_it_was() {
    today();
    let mut scene = Scene::with(Place::new("quota-restart"), &[]);
    set_quota(&scene.postrail, json!(10));
    let six: Vec<String> = (0..6).map(|n| format!("n{n}@b.test")).collect();
    let six = scene.job(&six.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(scene.postrail.submit(&six).0, 202);
    wait::until("the ledger to count them", || (use_of(&scene.postrail)["used"] == 6).then_some(()));
    scene.postrail.kill_and_restart();
    wait::until("the host to be told", || {
        (scene.postrail.host_metric("postrail_quota_own_recipients") == 6).then_some(())
    });
    assert_eq!(scene.postrail.submit(&six).0, 429);
    assert_eq!(submit_until_refused(&scene.postrail, &scene.job(&["a@b.test"])), 4);
    wait::until("the ledger to count all", || (use_of(&scene.postrail)["used"] == 10).then_some(()));
}

#[test]
fn the_ledger_counts_what_the_host_takes() {
    today();
    let scene = Scene::with(Place::new("quota-counts"), &[]);
    let postrail = &scene.postrail;
    set_quota(postrail, json!(1_000));
    postrail.control_ok("POST", "/v2/suppressions", Some(&json!({"address": "never@b.test"})));
    postrail.settled_configuration();
    // By REST what is suppressed is refused at once; by SMTP it is accepted, and settles as suppressed.
    assert_eq!(postrail.submit(&scene.job(&["a@b.test", "never@b.test", "c@b.test"])).0, 202);
    let (done, transcript) = postrail.swaks(&["--from", "hello@sender.test", "--to", "never@b.test"]);
    assert!(done, "{transcript}");
    // What is refused is not there.
    assert_eq!(postrail.submit(&json!({"subject": 7})).0, 422);
    let (done, transcript) = postrail.swaks(&["--from", "hello@other.test", "--to", "a@b.test"]);
    assert!(!done, "a sender that is not the tenant's: {transcript}");
    scene.receiver.wait_for(2);
    // A report goes to the sender by the same way as all mail, and is not the tenant's.
    scene.receiver.script(Stage::Rcpt, Act::Say("550 5.1.1 nobody\r\n".to_owned()), 1);
    let (done, transcript) = postrail.swaks(&["--from", "hello@sender.test", "--to", "nobody@b.test"]);
    assert!(done, "{transcript}");
    let accepted = wait::until("the ledger to have the report", || {
        let page = postrail.control_ok("GET", "/v2/events?limit=1000", None);
        let of_kind = |event: &&Value| event["kind"] == "accepted";
        let accepted: Vec<_> = page["items"].as_array()?.iter().filter(of_kind).cloned().collect();
        accepted.iter().any(|event| event["address"] == "hello@sender.test").then_some(accepted)
    });
    assert_eq!(use_of(postrail)["used"], 4, "{} {accepted:#?}", use_of(postrail));
    assert_eq!(postrail.host_metric("postrail_quota_own_recipients"), 4);
}

/// A fleet of two hosts, of which the only tenant has a quota.
struct Hosts {
    fleet: Fleet,
    _names: NameServer,
    _receiver: Receiver,
    _place: Place,
}

impl Hosts {
    fn start(name: &str, quota: usize) -> Self {
        let place = Place::new(name);
        let (names, receiver) = (NameServer::start(&place, &[ZONE]), Receiver::local());
        let resolver = names.address().to_string();
        let fleet = Fleet::start(&place, 2, &["--resolver", &resolver, "--shards", "2"]);
        let route = json!({"domain": "*", "port": receiver.address().port(), "allow_private": true});
        fleet.change("POST", "/v2/routes", &route);
        let hosts = Self { fleet, _names: names, _receiver: receiver, _place: place };
        hosts.set_quota(quota);
        hosts
    }

    fn set_quota(&self, quota: usize) {
        self.fleet.change("PATCH", "/v2/tenants/default", &json!({"quota_per_day": quota}));
        self.fleet.settle();
    }

    /// Submits mails at a host until `mails` are accepted or one is refused: when each was accepted.
    fn submit(&self, host: usize, mails: usize) -> Vec<Instant> {
        let submitter = self.fleet.hosts[host].submitter(&self.fleet.username, &self.fleet.secret);
        let mut accepted = Vec::new();
        while accepted.len() < mails {
            match submitter.submit(&format!("h{host}-{}@receiver.test", accepted.len())) {
                Some((202, _)) => accepted.push(Instant::now()),
                Some((429, _)) => break,
                other => panic!("host {host}: {other:?}"),
            }
        }
        accepted
    }

    /// What a host has accepted today.
    fn own(&self, host: usize) -> u64 {
        let metrics = self.fleet.hosts[host].metrics();
        let value = metrics.lines().find_map(|line| line.strip_prefix("postrail_quota_own_recipients ")?.parse().ok());
        value.expect("it is told")
    }

    /// Waits until a host knows this use, its own and that of all others.
    fn knows(&self, host: usize, own: u64, others: u64) {
        let wanted = [("own", own), ("others", others)].map(|(of, n)| format!("postrail_quota_{of}_recipients {n}\n"));
        wait::until(&format!("host {host} to know {own} and {others}"), || {
            let metrics = self.fleet.hosts[host].metrics();
            wanted.iter().all(|row| metrics.contains(row)).then_some(())
        });
    }
}

#[test]
fn hosts_of_a_fleet_have_one_quota_over_restarts_of_all() {
    today();
    let mut hosts = Hosts::start("quota-fleet", 100);
    assert_eq!(hosts.submit(0, 60).len(), 60);
    hosts.knows(1, 0, 60);
    assert_eq!(hosts.submit(1, 100).len(), 40);
    hosts.knows(0, 60, 40);
    assert_eq!(hosts.submit(0, 1).len(), 0);
    let (status, told) = hosts.fleet.control.control(&hosts.fleet.token, "GET", "/v2/tenants/default/quota", None);
    let by_host = json!([{"host": "host-1", "used": 60}, {"host": "host-2", "used": 40}]);
    assert_eq!((status, &told["used"], &told["hosts"]), (200, &json!(100), &by_host), "{told}");

    // Without a control plane a host that starts knows nothing, and accepts; it learns when there is one again.
    hosts.fleet.control.child().kill();
    for host in &mut hosts.fleet.hosts {
        host.child().kill();
        host.start_again();
        host.wait_for(host.admin, "/readyz");
    }
    assert_eq!(hosts.submit(1, 1).len(), 1);
    hosts.fleet.control.start_again();
    hosts.knows(0, 60, 41);
    hosts.knows(1, 41, 60);
    assert_eq!((hosts.submit(0, 1).len(), hosts.submit(1, 1).len()), (0, 0));
}

#[test]
fn hosts_that_accept_at_once_stop_within_the_time_of_telling() {
    const QUOTA: usize = 1_000;
    /// About a second by design; a busy machine has others to serve.
    const TELLING: Duration = Duration::from_secs(3);
    today();
    let hosts = Hosts::start("quota-at-once", QUOTA);
    let mut accepted: Vec<Instant> = std::thread::scope(|scope| {
        let hosts = &hosts;
        let clients = [0, 1].map(|host| scope.spawn(move || hosts.submit(host, QUOTA + 1)));
        clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
    });
    accepted.sort();
    let (all, last) = (accepted.len(), *accepted.last().expect("some"));
    let late = last - accepted[QUOTA - 1];
    println!("{all} of {QUOTA} accepted, the last {late:.1?} after the quota was reached");
    assert!((QUOTA..2 * QUOTA).contains(&all) && late <= TELLING, "{all} accepted, the last after {late:?}");
    // Now all of them know.
    let (first, second) = (hosts.own(0), hosts.own(1));
    assert_eq!(first + second, all as u64);
    hosts.knows(0, first, second);
    hosts.knows(1, second, first);
    assert_eq!((hosts.submit(0, 1).len(), hosts.submit(1, 1).len()), (0, 0));
}
