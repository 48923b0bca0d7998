//! Nothing acknowledged is lost: kills at random moments, drains, and starts on what an earlier process left.
//!
//! A kill leaves the page cache; that a power cut loses nothing is shown by the simulated disk (docs/simulation.md).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use postrail_tests::child::try_run;
use postrail_tests::load::{Load, number_of};
use postrail_tests::place::Place;
use postrail_tests::postrail::{Postrail, binary};
use postrail_tests::receiver::{Act, Arrived, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

/// Settlements become durable within this time of the receiver's reply, on a busy machine, too.
const SETTLEMENT_LATENCY: Duration = Duration::from_secs(2);

/// The zone of `receiver.test`, whose one MX is at 127.0.0.1.
pub(crate) const ZONE: (&str, &str) = ("receiver.test.", "@ MX 10 mx\nmx A 127.0.0.1\n");

/// A job of one mail to `to`.
pub(crate) fn job(to: &str) -> Value {
    json!({
        "subject": {"content": "A story"},
        "body": {"contentType": "text/plain", "content": "Once upon a time."},
        "recipients": [{"mail": {"to": [{"email": to}]}}],
        "mail": {"from": {"email": "story@sender.test"}, "mimeFrom": {"email": "story@sender.test"}},
    })
}

/// The id of the job in an answer to a submission.
pub(crate) fn job_id(answer: &(u16, Value)) -> String {
    assert_eq!(answer.0, 202, "{answer:?}");
    let id = answer.1.pointer("/meta/jobId").and_then(Value::as_str);
    id.unwrap_or_else(|| panic!("the answer names the job: {}", answer.1)).to_owned()
}

/// Pseudo-random numbers from a seed that the story prints.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let told = std::env::var("POSTRAIL_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let seed = told.unwrap_or(now.as_nanos() as u64 | 1);
        println!("seed {seed} (POSTRAIL_SEED={seed} draws the same moments)");
        Self(seed)
    }

    /// From 0 to `end` - 1.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Waits until nothing waits any more, with everything tried at once.
pub(crate) fn empty_queue(postrail: &Postrail) {
    wait::within(Duration::from_secs(90), "the queue to be empty", || {
        postrail.control("POST", "/v2/queue/retry", Some(&json!({})));
        std::thread::sleep(Duration::from_millis(100));
        // What an earlier life has left is counted once it has been read.
        let is_recovered =
            postrail.metrics().contains("postrail_recovering{") && postrail.metric("postrail_recovering") == 0;
        (is_recovered && postrail.metric("postrail_waiting_recipients") == 0).then_some(())
    });
}

/// Arrivals by number, in the order of time.
fn by_number(prefix: &str, arrived: &[Arrived]) -> BTreeMap<u64, Vec<Instant>> {
    let mut numbers: BTreeMap<u64, Vec<Instant>> = BTreeMap::new();
    for mail in arrived {
        let number = number_of(prefix, mail).unwrap_or_else(|| panic!("a numbered mail: {:?}", mail.rcpt));
        numbers.entry(number).or_default().push(mail.at.expect("an arrival has a time"));
    }
    numbers.values_mut().for_each(|times| times.sort());
    numbers
}

/// Settling events of the ledger by address, read page by page.
pub(crate) fn settlements(postrail: &Postrail) -> BTreeMap<String, Vec<String>> {
    const SETTLING: [&str; 6] = ["delivered", "bounced", "expired", "cancelled", "suppressed", "rejected"];
    let mut addresses: BTreeMap<String, String> = BTreeMap::new();
    let mut settled: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut cursor = String::from("0");
    loop {
        let page = postrail.control_ok("GET", &format!("/v2/events?limit=1000&cursor={cursor}"), None);
        for event in page["items"].as_array().expect("a page has items") {
            let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            if word("kind") == "accepted" {
                addresses.insert(word("recipient"), word("address"));
            } else if SETTLING.contains(&word("kind").as_str()) {
                settled.entry(word("recipient")).or_default().push(word("kind"));
            }
        }
        let next = page["next_cursor"].as_str().expect("a page of events has a cursor").to_owned();
        if next == cursor {
            break;
        }
        cursor = next;
    }
    settled.into_iter().map(|(key, kinds)| (addresses.remove(&key).unwrap_or(key), kinds)).collect()
}

/// Every acknowledged recipient has exactly one settling event, a delivery, within the ledger's second.
pub(crate) fn assert_settled_once(postrail: &Postrail, prefix: &str, acknowledged: &BTreeSet<u64>) {
    let address = |number: &u64| format!("{prefix}+{number}@receiver.test");
    let settled = wait::until("the ledger to have every settlement", || {
        let settled = settlements(postrail);
        acknowledged.iter().all(|number| settled.contains_key(&address(number))).then_some(settled)
    });
    for (address, kinds) in &settled {
        assert_eq!(kinds, &["delivered"], "{address} settles once");
    }
}

/// When a process began and when it was killed.
struct Life {
    begun: Instant,
    killed: Instant,
}

/// Duplicates are only those whose reply or settlement was in flight when the process was killed; gives their count.
fn check_duplicates(numbers: &BTreeMap<u64, Vec<Instant>>, lives: &[Life]) -> usize {
    let life_of = |at: Instant| lives.iter().rposition(|life| life.begun <= at).expect("mail arrives after the start");
    let mut duplicated = 0;
    for (number, times) in numbers {
        for pair in times.windows(2) {
            duplicated += 1;
            let (first, second) = (life_of(pair[0]), life_of(pair[1]));
            assert!(first < second, "number {number} arrived twice within one life of the process");
            let before_kill = lives[first].killed.saturating_duration_since(pair[0]);
            assert!(
                before_kill < SETTLEMENT_LATENCY,
                "number {number} was delivered {before_kill:?} before the kill, and again"
            );
        }
    }
    duplicated
}

#[test]
fn acknowledged_mail_survives_fifty_kills() {
    let kills = std::env::var("POSTRAIL_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(50);
    survives("kills", kills, |_| {});
}

#[test]
fn mail_that_another_shard_sends_survives_kills_too() {
    survives("kills-mesh", 12, |postrail| {
        let source = json!({"name": "one", "address": "127.0.0.21", "ehlo_name": "one.sender.test"});
        postrail.control_ok("POST", "/v2/sources", Some(&source));
        let pool = json!({"name": "dedicated", "members": [{"source": "one"}]});
        postrail.control_ok("POST", "/v2/pools", Some(&pool));
        postrail.control_ok("PATCH", "/v2/domains/sender.test", Some(&json!({"pool": "dedicated"})));
        postrail.settled_configuration();
    });
}

/// Kills and restarts the server under load; every acknowledged recipient arrives and settles once.
fn survives(name: &str, kills: usize, prepare: impl FnOnce(&Postrail)) {
    let mut chance = Chance::new();
    let place = Place::new(name);
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let mut begun = Instant::now();
    let mut postrail = Postrail::start(&place, names.address(), receiver.address().port());
    prepare(&postrail);
    let load = Load::start(&place, &postrail, "kill", 4, 4);
    let mut lives = Vec::new();
    for kill in 0..kills {
        // Every fourth kill falls into the start itself, before anything is ready.
        if kill % 4 == 3 {
            std::thread::sleep(Duration::from_millis(chance.below(400)));
        } else {
            postrail.wait_ready();
            std::thread::sleep(Duration::from_millis(100 + chance.below(1_400)));
        }
        postrail.child().kill();
        lives.push(Life { begun, killed: Instant::now() });
        begun = Instant::now();
        postrail.spawn_again();
    }
    postrail.wait_ready();
    std::thread::sleep(Duration::from_millis(500));
    let acknowledged = load.stop();
    empty_queue(&postrail);
    lives.push(Life { begun, killed: Instant::now() + Duration::from_secs(3600) });
    let arrived = receiver.arrived();
    let numbers = by_number("kill", &arrived);
    let lost: Vec<u64> = acknowledged.iter().filter(|number| !numbers.contains_key(number)).copied().collect();
    let duplicated = check_duplicates(&numbers, &lives);
    println!(
        "{name}: {kills} kills, {} acknowledged, {} delivered, {duplicated} duplicated, {} delivered without acknowledgement",
        acknowledged.len(),
        numbers.len(),
        numbers.keys().filter(|number| !acknowledged.contains(number)).count()
    );
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(acknowledged.len() > kills * 10, "the load was a load: {}", acknowledged.len());
    assert_settled_once(&postrail, "kill", &acknowledged);
}

#[test]
fn a_drain_finishes_what_is_in_flight() {
    let place = Place::new("drain");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    receiver.script(Stage::EndOfData, Act::Wait(Duration::from_millis(300)), usize::MAX);
    let mut postrail = Postrail::start(&place, names.address(), receiver.address().port());
    let load = Load::start(&place, &postrail, "drain", 3, 3);
    let mut drained_at = Vec::new();
    for round in 0..3 {
        wait::until("mail to flow", || (receiver.arrived().len() > 30 * (round + 1)).then_some(()));
        let asked = Instant::now();
        let status = postrail.drain();
        drained_at.push(asked.elapsed());
        assert_eq!(status.code(), Some(0), "a drained end is a good end:\n{}", postrail.output());
        postrail.start_again();
    }
    let acknowledged = load.stop();
    receiver.script(Stage::EndOfData, Act::Wait(Duration::ZERO), usize::MAX);
    empty_queue(&postrail);
    let numbers = by_number("drain", &receiver.arrived());
    let lost: Vec<&u64> = acknowledged.iter().filter(|number| !numbers.contains_key(number)).collect();
    let twice: Vec<&u64> = numbers.iter().filter(|(_, times)| times.len() > 1).map(|(number, _)| number).collect();
    println!("drained three times in {drained_at:?}: {} acknowledged, {} delivered", acknowledged.len(), numbers.len());
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(twice.is_empty(), "a drain sends nothing twice: {twice:?}");
    assert!(drained_at.iter().all(|time| *time < Duration::from_secs(15)), "{drained_at:?}");
    assert_settled_once(&postrail, "drain", &acknowledged);
}

#[test]
fn a_drain_keeps_its_deadline_when_a_receiver_hangs() {
    let place = Place::new("drain-deadline");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let resolver = names.address().to_string();
    let options = ["--resolver", resolver.as_str(), "--shards", "2", "--drain-seconds", "2"];
    let mut postrail = Postrail::start_with(&place, &options);
    postrail.route("*", receiver.address().port());
    receiver.script(Stage::EndOfData, Act::Hang, 1);
    let hanging = job_id(&postrail.submit(&job("hang@receiver.test")));
    wait::until("the mail to hang", || (postrail.metric("postrail_egress_attempts_total") == 1).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    let status = postrail.drain();
    assert_eq!(status.code(), Some(0), "{}", postrail.output());
    assert!(asked.elapsed() < Duration::from_secs(8), "the deadline is two seconds: {:?}", asked.elapsed());
    postrail.start_again();
    postrail.wait_for_state(&hanging, "delivered");
    assert_eq!(receiver.arrived().len(), 1, "the hanging attempt never became a delivery");
}

#[test]
fn a_second_start_continues_and_shows_no_secret() {
    let place = Place::new("second-start");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let mut postrail = Postrail::start(&place, names.address(), receiver.address().port());
    let before = postrail.output().len();
    assert_eq!(postrail.drain().code(), Some(0));
    postrail.start_again();
    let all = wait::until("the second start to print", || {
        Some(postrail.output()).filter(|output| output[before..].contains("Postrail continues"))
    });
    let second = &all[before..];
    let third = all.len();
    assert_eq!(postrail.drain().code(), Some(0));
    postrail.start_again();
    assert_eq!(postrail.drain().code(), Some(0), "a stop while it prints");
    assert_eq!(postrail.output()[third..].matches("stopped").count(), 2, "both are drained:\n{}", postrail.output());
    postrail.start_again();
    assert!(!second.contains(&postrail.secret) && !second.contains("secret"), "{second}");
    assert_eq!(all.matches(&postrail.secret).count(), 3, "once itself, and in the lines for swaks and curl:\n{all}");
    let id = job_id(&postrail.submit(&job("still@receiver.test")));
    postrail.wait_for_state(&id, "delivered");
}

#[test]
fn a_data_folder_has_one_owner() {
    let place = Place::new("one-owner");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let mut postrail = Postrail::start(&place, names.address(), receiver.address().port());
    let pid = postrail.child().id();
    let (status, text) = try_run(Command::new(binary()).args(postrail.arguments()));
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("in use") && text.contains(&pid.to_string()), "the owner is named:\n{text}");
    let data = place.join("other");
    let mut arguments = postrail.arguments().to_vec();
    arguments[2] = data.display().to_string();
    let (status, text) = try_run(Command::new(binary()).args(&arguments));
    assert_eq!(status.code(), Some(2), "{text}");
    let port = postrail.smtp.to_string();
    assert!(text.contains(&port) && text.contains("in use") && text.contains("--smtp"), "the port is named:\n{text}");
    let id = job_id(&postrail.submit(&job("undisturbed@receiver.test")));
    postrail.wait_for_state(&id, "delivered");
}

#[test]
fn a_deleted_ledger_is_rebuilt_from_the_journal() {
    let place = Place::new("ledger");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let mut postrail = Postrail::start(&place, names.address(), receiver.address().port());
    let delivered = job_id(&postrail.submit(&job("one@receiver.test")));
    postrail.wait_for_state(&delivered, "delivered");
    receiver.script(Stage::Rcpt, Act::Say("450 4.2.0 Later\r\n".to_owned()), 1);
    let waiting = job_id(&postrail.submit(&job("two@receiver.test")));
    postrail.wait_for_state(&waiting, "deferred");
    assert_eq!(postrail.drain().code(), Some(0));
    let mut removed = 0;
    for entry in std::fs::read_dir(postrail.data()).expect("readable").flatten() {
        if entry.file_name().to_string_lossy().starts_with("ledger.db") {
            std::fs::remove_file(entry.path()).expect("removable");
            removed += 1;
        }
    }
    assert!(removed > 0, "there was a ledger");
    postrail.start_again();
    let found = postrail.wait_for_state(&waiting, "deferred");
    assert_eq!(found[0]["last_reply"]["code"], 450, "{found:?}");
    postrail.wait_for_state(&delivered, "delivered");
    postrail.control_ok("POST", "/v2/queue/retry", Some(&json!({"message": waiting})));
    postrail.wait_for_state(&waiting, "delivered");
    assert_eq!(receiver.arrived().len(), 2, "the queue does not depend on the ledger");
}
