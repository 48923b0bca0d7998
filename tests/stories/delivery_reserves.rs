//! Reserved rates: what a tenant with a reserve submits while another one floods, as the receiver sees it. The flood has a
//! hundred turns for each of another tenant's, so that who has no reserve waits.

use std::time::{Duration, Instant};

use postrail_tests::receiver::{Act, Arrived, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::world::World;
use reqwest::blocking::Client;
use serde_json::{Value, json};

const ZONE: (&str, &str) = ("slow.test.", "@ MX 10 mx\nmx A 127.0.0.21");

/// What `shop` may send ahead of all others, recipients a second.
const RESERVE: usize = 20;

/// Recipients of one job of the flood.
const FLOOD_JOB: usize = 500;

/// Jobs until each of two shards has had a few, with certainty enough.
const FLOOD_JOBS_MAX: usize = 40;

/// Who submits: a tenant with a sending domain and a credential of its own.
struct Tenant {
    name: &'static str,
    secret: String,
}

impl Tenant {
    fn new(world: &World, name: &'static str, reserve: Option<usize>) -> Self {
        let tenant = json!({"name": name, "reserved_per_s": reserve});
        world.postrail.control_ok("POST", "/v2/tenants", Some(&tenant));
        let domain = json!({"name": format!("{name}.test"), "pool": "one"});
        world.postrail.control_ok("POST", &format!("/v2/domains?tenant={name}"), Some(&domain));
        let credential = json!({"username": name});
        let made = world.postrail.control_ok("POST", &format!("/v2/credentials?tenant={name}"), Some(&credential));
        Self { name, secret: made["secret"].as_str().expect("the secret is shown once").to_owned() }
    }

    /// Submits a job of so many mails on a connection of its own, which either shard may take.
    fn submit(&self, world: &World, what: &str, count: usize) {
        let from = format!("app@{}.test", self.name);
        let request = Client::new().post(format!("http://{}/v2/jobs", world.postrail.rest));
        let answer = request.basic_auth(self.name, Some(&self.secret)).json(&job(&from, what, count)).send();
        assert_eq!(answer.expect("REST submission answers").status(), 202);
    }
}

fn job(from: &str, what: &str, count: usize) -> Value {
    let to = |number| json!({"mail": {"to": [{"email": format!("{what}+{number}@slow.test")}]}});
    json!({
        "subject": {"content": "A job"}, "body": {"content": "text", "contentType": "text/plain"},
        "recipients": (0..count).map(to).collect::<Vec<Value>>(), "mail": {"from": {"email": from}},
    })
}

/// Two tenants beside the one that floods, a source that one of the two shards owns, and a receiver.
fn cast(name: &str, rule: &str) -> (World, Receiver, [Tenant; 2]) {
    let world = World::new(name, &[ZONE]);
    let receiver = world.receiver(21);
    let source = json!({"name": "one", "address": "127.0.0.51", "ehlo_name": "out.sender.test"});
    world.postrail.control_ok("POST", "/v2/sources", Some(&source));
    world.postrail.control_ok("POST", "/v2/pools", Some(&json!({"name": "one", "members": [{"source": "one"}]})));
    world.postrail.control_ok("PATCH", "/v2/domains/sender.test", Some(&json!({"pool": "one"})));
    world.postrail.control_ok("PATCH", "/v2/tenants/default", Some(&json!({"weight": 100})));
    let tenants = [Tenant::new(&world, "shop", Some(RESERVE)), Tenant::new(&world, "plain", None)];
    cli(&world, &format!("shaping-rule add slow --site mx.slow.test {rule}"));
    (world, receiver, tenants)
}

fn cli(world: &World, line: &str) {
    let (done, text) = world.postrail.cli(&line.split(' ').collect::<Vec<_>>());
    assert!(done, "{line}: {text}");
    world.postrail.settled_configuration();
}

/// Submits the flood, each job on a connection of its own, until each shard has so many of its mails, and waits until mail
/// flows.
fn flood(world: &World, receiver: &Receiver, mails: u64) {
    let postrail = &world.postrail;
    let accepted = |shard: u16| {
        let row = format!("postrail_accepted_recipients_total{{shard=\"{shard}\"}} ");
        let metrics = postrail.metrics();
        let count = metrics.lines().find_map(|line| line.strip_prefix(&row)?.parse::<u64>().ok());
        count.expect("each shard counts")
    };
    for jobs in 1.. {
        let request = Client::new().post(format!("http://{}/v2/jobs", postrail.rest));
        let request = request.basic_auth(&postrail.username, Some(&postrail.secret));
        let answer = request.json(&job("app@sender.test", "flood", FLOOD_JOB)).send();
        assert_eq!(answer.expect("REST submission answers").status(), 202);
        let all = (jobs * FLOOD_JOB) as u64;
        wait::until("the job to be counted", || (accepted(0) + accepted(1) >= all).then_some(()));
        if accepted(0) >= mails && accepted(1) >= mails {
            break;
        }
        assert!(jobs < FLOOD_JOBS_MAX, "both shards take connections");
    }
    receiver.wait_for(receiver.count() + 20);
}

fn is_of(mail: &Arrived, what: &str) -> bool {
    mail.rcpt[0].contains(&format!("<{what}+"))
}

fn count_of(arrived: &[Arrived], what: &str) -> usize {
    arrived.iter().filter(|mail| is_of(mail, what)).count()
}

/// Everything up to the moment when so many of `what` had arrived, in the order in which it began.
fn until_all(receiver: &Receiver, what: &str, count: usize) -> Vec<Arrived> {
    let mut arrived = wait::until(&format!("{count} of {what}"), || {
        let arrived = receiver.arrived();
        (count_of(&arrived, what) >= count).then_some(arrived)
    });
    arrived.sort_by_key(|mail| mail.began);
    let last = arrived.iter().rposition(|mail| is_of(mail, what)).expect("there are some");
    arrived.truncate(last + 1);
    arrived
}

/// How many mails of the flood began after `since`.
fn floods_since(arrived: &[Arrived], since: Instant) -> usize {
    arrived.iter().filter(|mail| is_of(mail, "flood") && mail.began.is_some_and(|at| at > since)).count()
}

/// A second's worth of the reserve goes at once, with a turn in four for the rest; who has none waits.
fn the_reserve_goes_ahead(world: &World, receiver: &Receiver, [shop, plain]: &[Tenant; 2], slack: usize) {
    let began = Instant::now();
    plain.submit(world, "plain", RESERVE);
    (0..RESERVE).for_each(|_| shop.submit(world, "shop", 1));
    let accepted = Instant::now();
    let arrived = until_all(receiver, "shop", RESERVE);
    let (floods, others) = (floods_since(&arrived, accepted), count_of(&arrived, "plain"));
    println!("{floods} of the flood after the last of the reserve was accepted, and {others} of {RESERVE} without one");
    assert!(floods <= RESERVE / 3 + slack, "{floods} of the flood went before what was reserved");
    let meanwhile = floods_since(&arrived, began);
    assert!(others <= 2 + meanwhile / 100, "{others} without a reserve went beside {meanwhile} of the flood");
}

#[test]
fn a_reserved_rate_goes_ahead_of_a_flood_at_a_throttled_site_and_no_more_than_the_rate() {
    let (world, receiver, tenants) = cast("reserves-throttled", "--mail-rate 50/s");
    flood(&world, &receiver, 1_500);
    the_reserve_goes_ahead(&world, &receiver, &tenants, 30);

    // What exceeds the rate takes its turn with everybody's.
    let [shop, plain] = &tenants;
    let before = receiver.count();
    let began = Instant::now();
    shop.submit(&world, "burst", 5 * RESERVE);
    let arrived = wait::until("the flood to go on", || {
        let arrived = receiver.arrived();
        (count_of(&arrived[before..], "flood") >= 2 * RESERVE).then_some(arrived)
    });
    let (burst, took) = (count_of(&arrived, "burst"), began.elapsed());
    let most = (RESERVE as f64 * (took.as_secs_f64() + 1.0)) as usize + RESERVE / 10;
    println!("{burst} of a burst of {} in {took:.2?}", 5 * RESERVE);
    assert!(burst <= most, "{burst} in {took:?}, of {RESERVE} a second");

    // It is the reserve that does it: who is given one goes ahead, also of what waits there of its own.
    cli(&world, &format!("tenant set plain --reserved-per-s {}", 2 * RESERVE));
    plain.submit(&world, "given", RESERVE);
    let accepted = Instant::now();
    let floods = floods_since(&until_all(&receiver, "given", RESERVE), accepted);
    assert!(floods < 100, "{floods} of the flood: a turn of its own would come once in a hundred");
}

#[test]
fn a_reserved_rate_goes_ahead_of_a_flood_that_waits_for_few_connections() {
    let (world, receiver, tenants) = cast("reserves-connections", "--connections 1");
    receiver.script(Stage::EndOfData, Act::Wait(Duration::from_millis(20)), usize::MAX);
    // More than one shard may hand to the other.
    flood(&world, &receiver, 1_500);
    the_reserve_goes_ahead(&world, &receiver, &tenants, 60);
}
