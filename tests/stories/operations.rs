//! The operator sees what happens and acts on it: trace, queue, suspensions, suppressions, cancel, bounce.

use std::time::Duration;

use postrail_tests::place::Place;
use postrail_tests::postrail::Postrail;
use postrail_tests::receiver::{Act, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

use crate::durability::{ZONE, job, job_id};

/// One shard, a receiver of `receiver.test`.
struct World {
    postrail: Postrail,
    receiver: Receiver,
    _names: NameServer,
    _place: Place,
}

impl World {
    fn new(name: &str) -> Self {
        let place = Place::new(name);
        let other = ("other.test.", "@ MX 10 mx\nmx A 127.0.0.1\n");
        let many = ("many.test.", "@ MX 10 mx2\n@ MX 20 mx1\nmx1 A 127.0.0.1\nmx2 A 127.0.0.1\n");
        let names = NameServer::start(&place, &[ZONE, other, many]);
        let receiver = Receiver::local();
        let postrail = Postrail::start(&place, names.address(), receiver.address().port());
        Self { postrail, receiver, _names: names, _place: place }
    }

    /// From now on every recipient is told to come back later.
    fn defer(&self) {
        self.receiver.script(Stage::Rcpt, Act::Say("450 4.2.1 Mailbox busy\r\n".to_owned()), usize::MAX);
    }

    fn accept(&self) {
        self.receiver.script(Stage::Rcpt, Act::Wait(Duration::ZERO), usize::MAX);
    }

    fn submit(&self, to: &str) -> String {
        job_id(&self.postrail.submit(&job(to)))
    }

    /// The command's output; panics unless it succeeds.
    fn cli(&self, arguments: &[&str]) -> String {
        let (good, text) = self.postrail.cli(arguments);
        assert!(good, "{arguments:?}:\n{text}");
        text
    }

    /// Reasons why recipients of `domain` wait, over all shards.
    fn reasons(&self, domain: &str) -> Vec<String> {
        let queue = self.postrail.control_ok("GET", "/v2/queue", None);
        let shards = queue["shards"].as_array().expect("shards").iter();
        let rows = shards.flat_map(|shard| shard["domains"].as_array().expect("domains"));
        let rows = rows.filter(|row| row["domain"] == domain);
        rows.flat_map(|row| row["reasons"].as_object().expect("reasons").keys().cloned()).collect()
    }

    fn wait_for_reason(&self, domain: &str, reason: &str) {
        wait::until(&format!("{domain} to wait for {reason}"), || {
            self.reasons(domain).iter().any(|found| found == reason).then_some(())
        });
    }
}

#[test]
fn trace_tells_the_whole_life() {
    let world = World::new("trace");
    world.defer();
    let id = world.submit("life@receiver.test");
    world.postrail.wait_for_state(&id, "deferred");
    world.accept();
    world.cli(&["queue", "retry", "--job", &id]);
    world.postrail.wait_for_state(&id, "delivered");
    let text = world.cli(&["trace", &id]);
    for part in [
        "accepted",
        "deferred",
        "delivered",
        "life@receiver.test",
        "by rest",
        "sender story@sender.test",
        "said: 450 4.2.1 Mailbox busy",
        "said: 250 2.0.0 Ok: queued",
        "attempt 1",
        "attempt 2",
        "from 127.0.0.1",
        "host mx.receiver.test",
        "address 127.0.0.1",
        "again at 20",
        "tls none",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let times: Vec<&str> = text.lines().filter(|line| line.starts_with("20")).map(|line| &line[..24]).collect();
    assert!(times.len() == 3 && times.is_sorted() && times.iter().all(|time| time.ends_with('Z')), "{text}");
    let one = world.cli(&["trace", &format!("{id}.0")]);
    assert_eq!(one, text, "the only recipient's life is the job's");
    let events: Value = serde_json::from_str(&world.cli(&["trace", &id, "--json"])).expect("JSON");
    assert_eq!(events["items"].as_array().map(Vec::len), Some(3), "{events}");
    let (good, text) = world.postrail.cli(&["trace", "0193a1b2-7c4d-7000-8e9f-3a5b6c7d8e9f"]);
    assert!(!good && text.contains("0193a1b2"), "an unknown id is said to be unknown:\n{text}");
}

#[test]
fn the_queue_shows_what_waits_and_why() {
    let world = World::new("queue");
    assert!(world.cli(&["queue"]).contains("0 recipients wait"));
    world.defer();
    let first = world.submit("one@receiver.test");
    let second = world.submit("two@other.test");
    world.postrail.wait_for_state(&first, "deferred");
    world.postrail.wait_for_state(&second, "deferred");
    let text = world.cli(&["queue"]);
    for part in ["2 recipients wait", "receiver.test", "other.test", "retry", "mx.receiver.test", "default"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    world.accept();
    let answer = world.cli(&["queue", "retry", "--domain", "receiver.test", "--json"]);
    assert!(answer.contains("\"recipients\": 1"), "{answer}");
    world.postrail.wait_for_state(&first, "delivered");
    assert_eq!(world.postrail.recipients(&second)[0]["state"], "deferred", "the other domain keeps its time");
    world.cli(&["queue", "retry", "--all"]);
    world.postrail.wait_for_state(&second, "delivered");
    assert!(world.cli(&["queue"]).contains("0 recipients wait"));
}

#[test]
fn suspensions_hold_mail_and_outlast_a_restart() {
    let mut world = World::new("suspend");
    let targets =
        [("site", "--site", "receiver.test"), ("source", "--source", "default"), ("tenant", "--tenant", "default")];
    for (what, option, name) in targets {
        let before = world.receiver.arrived().len();
        let said = world.cli(&["queue", "suspend", option, name, "--reason", "a story", "--json"]);
        let suspension: Value = serde_json::from_str(&said).expect("JSON");
        let number = suspension["id"].as_u64().expect("a suspension has an id").to_string();
        world.postrail.settled_configuration();
        let id = world.submit(&format!("{what}@receiver.test"));
        let reason = format!("{what}_suspended");
        world.wait_for_reason("receiver.test", &reason);
        let text = world.cli(&["queue"]);
        assert!(text.contains(&reason), "{reason} is not in:\n{text}");
        world.postrail.kill_and_restart();
        world.wait_for_reason("receiver.test", &reason);
        let listed = world.cli(&["queue", "suspensions"]);
        assert!(listed.contains(name) && listed.contains("a story"), "{listed}");
        world.cli(&["queue", "retry", "--all"]);
        world.wait_for_reason("receiver.test", &reason);
        assert_eq!(world.receiver.arrived().len(), before, "nothing was sent while the {what} was suspended");
        world.cli(&["queue", "resume", &number]);
        world.postrail.wait_for_state(&id, "delivered");
    }
    assert_eq!(world.receiver.arrived().len(), 3);
}

#[test]
fn a_suspended_site_does_not_hold_another() {
    let world = World::new("suspend-other");
    world.cli(&["queue", "suspend", "--site", "mx.receiver.test", "--reason", "by its MX host"]);
    world.postrail.settled_configuration();
    let held = world.submit("held@receiver.test");
    let free = world.submit("free@other.test");
    world.postrail.wait_for_state(&free, "delivered");
    world.wait_for_reason("receiver.test", "site_suspended");
    assert_ne!(world.postrail.recipients(&held)[0]["state"], "delivered");
}

#[test]
fn a_site_of_several_hosts_is_suspended_as_the_queue_shows_it_in_any_order() {
    let world = World::new("suspend-many");
    let said = world.cli(&["queue", "suspend", "--site", "MX2.many.test,mx1.many.test", "--reason", "both", "--json"]);
    let suspension: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(suspension["site"], "mx1.many.test,mx2.many.test");
    world.postrail.settled_configuration();
    let held = world.submit("held@many.test");
    world.wait_for_reason("many.test", "site_suspended");
    let queue = world.postrail.control_ok("GET", "/v2/queue", None).to_string();
    assert!(queue.contains("\"site\":\"mx1.many.test,mx2.many.test\""), "{queue}");
    let said = world.cli(&["queue", "retry", "--site", "mx2.other.test"]);
    assert!(said.starts_with("nothing waits there"), "{said}");
    world.cli(&["queue", "resume", &suspension["id"].to_string()]);
    world.postrail.wait_for_state(&held, "delivered");
}

#[test]
fn the_operator_cancels_and_bounces() {
    let world = World::new("end");
    world.defer();
    let cancelled = world.submit("cancel@receiver.test");
    world.postrail.wait_for_state(&cancelled, "deferred");
    world.cli(&["queue", "cancel", &cancelled]);
    world.postrail.wait_for_state(&cancelled, "cancelled");
    let (good, text) = world.postrail.cli(&["queue", "cancel", &cancelled]);
    assert!(!good && !text.is_empty(), "nothing waits of it any more: {text}");

    let mail = ["--from", "story@sender.test", "--to", "bounce@receiver.test"];
    let (good, transcript) = world.postrail.swaks(&mail);
    assert!(good, "{transcript}");
    let bounced = Postrail::queued_as(&transcript);
    world.postrail.wait_for_state(&bounced, "deferred");
    // The report goes to the sender's own domain, whose MX the zone does not have: it is routed to the receiver.
    let route = json!({"domain": "sender.test", "routing_domain": "receiver.test",
        "port": world.receiver.address().port(), "allow_private": true});
    world.postrail.control_ok("POST", "/v2/routes", Some(&route));
    world.postrail.settled_configuration();
    world.accept();
    world.cli(&["queue", "bounce", &bounced]);
    let settled = world.postrail.wait_for_state(&bounced, "bounced");
    assert!(!settled[0]["reason"].as_str().unwrap_or_default().is_empty(), "{settled:?}");
    let arrived = world.receiver.wait_for(1);
    let report = String::from_utf8_lossy(&arrived[0].content).into_owned();
    assert!(arrived[0].mail.starts_with("MAIL FROM:<>"), "{}", arrived[0].mail);
    assert!(arrived[0].rcpt[0].contains("<story@sender.test>"), "{:?}", arrived[0].rcpt);
    for part in ["multipart/report", "Final-Recipient: rfc822;", "bounce@receiver.test", "Action: failed"] {
        assert!(report.contains(part), "{part} is not in:\n{report}");
    }
}

#[test]
fn a_suppression_stops_waiting_and_new_mail() {
    let world = World::new("suppress");
    world.defer();
    let waiting = world.submit("gone@receiver.test");
    world.postrail.wait_for_state(&waiting, "deferred");
    world.cli(&["suppression", "add", "gone@receiver.test", "--reason", "asked us"]);
    world.postrail.settled_configuration();
    world.accept();
    world.cli(&["queue", "retry", "--all"]);
    world.postrail.wait_for_state(&waiting, "suppressed");
    let (status, refused) = world.postrail.submit(&job("GONE@Receiver.Test"));
    assert!(status == 422 && refused.to_string().contains("suppression list"), "{status} {refused}");
    let (good, transcript) = world.postrail.swaks(&["--from", "story@sender.test", "--to", "gone@receiver.test"]);
    assert!(good, "by SMTP it is accepted, and dropped before the first attempt:\n{transcript}");
    world.postrail.wait_for_state(&Postrail::queued_as(&transcript), "suppressed");
    let listed = world.cli(&["suppression", "list"]);
    assert!(listed.contains("gone@receiver.test") && listed.contains("asked us"), "{listed}");
    assert_eq!(world.receiver.arrived().len(), 0, "a suppressed recipient is not tried");
    let trace = world.cli(&["trace", &waiting]);
    assert!(trace.contains("suppressed"), "{trace}");
    let other = world.submit("stays@receiver.test");
    world.postrail.wait_for_state(&other, "delivered");
    world.cli(&["suppression", "remove", "gone@receiver.test"]);
    world.postrail.settled_configuration();
    let id = world.submit("gone@receiver.test");
    world.postrail.wait_for_state(&id, "delivered");
}
