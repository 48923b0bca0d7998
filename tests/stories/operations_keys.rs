//! DKIM keys give way to each other, and every mail verifies by the zone as it is when the mail arrives.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrail_tests::child::run;
use postrail_tests::clients::python_program;
use postrail_tests::place::{Place, root};
use postrail_tests::postrail::Postrail;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

use crate::durability::job;

/// dkimpy, which asks a name server for each key of each mail.
struct Verifier {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// The signatures of a mail as `selector of domain`.
type Signatures = BTreeSet<String>;

impl Verifier {
    fn start(names: SocketAddr) -> Self {
        let mut command = Command::new(python_program("python"));
        command.arg(root().join("tests/stories/clients/verify_live.py"));
        command.args([names.ip().to_string(), names.port().to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python starts");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { child, to, from: BufReader::new(from) }
    }

    /// The signatures of a mail, all of which verify now.
    fn verified(&mut self, mail: &[u8]) -> Signatures {
        writeln!(self.to, "{}", STANDARD.encode(mail)).expect("the verifier reads");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the verifier answers");
        let results: Vec<Value> = serde_json::from_str(&line).expect("a list of results");
        let of = |result: &Value| {
            assert_eq!(result["verified"], true, "{result} of\n{}", String::from_utf8_lossy(mail));
            format!(
                "{} of {}",
                result["selector"].as_str().expect("a text"),
                result["domain"].as_str().expect("a text")
            )
        };
        results.iter().map(of).collect()
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Mail without a pause, some at a time, each verified as soon as it is there.
struct Stream {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Signatures>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Mails that are on their way at once.
const AT_ONCE: usize = 5;

impl Stream {
    fn start(postrail: Arc<Mutex<Postrail>>, receiver: Arc<Receiver>, names: SocketAddr) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ends, tells) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            let mut verifier = Verifier::start(names);
            let mut arrived = 0;
            while !ends.load(Ordering::Relaxed) {
                {
                    let postrail = postrail.lock().expect("no panic while locked");
                    for _ in 0..AT_ONCE {
                        let (status, answer) = postrail.submit(&job("someone@receiver.test"));
                        assert_eq!(status, 202, "{answer}");
                    }
                }
                let all = receiver.wait_for(arrived + AT_ONCE);
                let found: Vec<_> = all[arrived..].iter().map(|mail| verifier.verified(&mail.content)).collect();
                arrived = all.len();
                tells.lock().expect("no panic while locked").extend(found);
            }
        });
        Self { stop, seen, thread: Some(thread) }
    }

    fn seen(&self) -> Vec<Signatures> {
        assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "every mail verifies");
        self.seen.lock().expect("no panic while locked").clone()
    }

    /// Waits for ten mails more, and gives their signatures; the first ones may have been on their way before.
    fn further(&self) -> Vec<Signatures> {
        let from = self.seen().len() + AT_ONCE;
        wait::until("ten mails to arrive and verify", || {
            let seen = self.seen();
            (seen.len() >= from + 10).then(|| seen[from..].to_vec())
        })
    }

    fn end(mut self) -> Vec<Signatures> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("every mail verifies");
        self.seen.lock().expect("no panic while locked").clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

const SENDER: &str = "@ MX 10 mail\nmail A 127.0.0.1\n";
const RECEIVER: (&str, &str) = ("receiver.test.", "@ MX 10 mx\nmx A 127.0.0.1");

/// The key records of a domain that DNS is to have.
fn zone(domain: &Value) -> String {
    let records = domain["dns_records"].as_array().expect("records").iter();
    let keys = records.filter(|record| record["purpose"] == "dkim" && record["action"] != "remove");
    let lines = keys.map(|record| {
        format!(
            "{}. TXT {}\n",
            record["name"].as_str().expect("a text"),
            record["zone_value"].as_str().expect("a text")
        )
    });
    format!("{SENDER}{}", lines.collect::<String>())
}

fn states(domain: &Value) -> Vec<(String, String)> {
    let text = |key: &Value, field: &str| key[field].as_str().unwrap_or_default().to_owned();
    domain["keys"].as_array().expect("keys").iter().map(|key| (text(key, "selector"), text(key, "state"))).collect()
}

fn selectors_in(domain: &Value, state: &str) -> Vec<String> {
    states(domain).into_iter().filter(|(_, of)| of == state).map(|(selector, _)| selector).collect()
}

fn of(selectors: &[String], domain: &str) -> Signatures {
    selectors.iter().map(|selector| format!("{selector} of {domain}")).collect()
}

fn show(postrail: &Mutex<Postrail>, domain: &str) -> Value {
    let postrail = postrail.lock().expect("no panic while locked");
    postrail.control_ok("GET", &format!("/v2/domains/{domain}"), None)
}

/// Checks the domain until no key of it is in `state`, and hosts know.
fn checked_until_none(postrail: &Mutex<Postrail>, domain: &str, state: &str) -> Value {
    wait::until(&format!("no key of {domain} to be {state}"), || {
        let postrail = postrail.lock().expect("no panic while locked");
        let domain = postrail.control_ok("POST", &format!("/v2/domains/{domain}/check"), None);
        selectors_in(&domain, state).is_empty().then(|| {
            postrail.settled_configuration();
            domain
        })
    })
}

fn cli(postrail: &Mutex<Postrail>, arguments: &[&str]) -> String {
    let (done, text) = postrail.lock().expect("no panic while locked").cli(arguments);
    assert!(done, "{arguments:?}: {text}");
    text
}

#[test]
fn keys_rotate_under_load_and_every_mail_verifies_by_the_zone_of_its_moment() {
    let place = Place::new("keys-rotate");
    let names = NameServer::start(&place, &[("sender.test.", SENDER), RECEIVER]);
    let receiver = Arc::new(Receiver::local());
    let postrail = Postrail::start(&place, names.address(), receiver.address().port());
    let postrail = Arc::new(Mutex::new(postrail));
    let first = show(&postrail, "sender.test");
    names.replace("sender.test.", &zone(&first));
    let stream = Stream::start(Arc::clone(&postrail), Arc::clone(&receiver), names.address());
    let old = of(&["pr1r".to_owned(), "pr1e".to_owned()], "sender.test");
    assert!(stream.further().iter().all(|signatures| *signatures == old));

    // The successors wait: checks do not find them, and nothing is signed by them.
    let text = cli(&postrail, &["domain", "key", "rotate", "sender.test"]);
    assert_eq!(text.matches("publish; it signs once this is seen").count(), 2, "{text}");
    let (again, refused) = postrail.lock().expect("unpoisoned").cli(&["domain", "key", "rotate", "sender.test"]);
    assert!(!again && refused.contains("waits for its record already"), "{refused}");
    let waiting = show(&postrail, "sender.test");
    let new = selectors_in(&waiting, "waiting");
    assert_eq!((new.len(), selectors_in(&waiting, "signing").len()), (2, 2), "{waiting}");
    let checked = postrail.lock().expect("unpoisoned").control_ok("POST", "/v2/domains/sender.test/check", None);
    assert_eq!(selectors_in(&checked, "waiting"), new);
    let problems = postrail.lock().expect("unpoisoned").control_ok("GET", "/v2/problems", None).to_string();
    assert!(
        problems.contains("key_waits") && problems.contains(&format!("publish TXT {}._domainkey", new[0])),
        "{problems}"
    );
    assert!(stream.further().iter().all(|signatures| *signatures == old));

    // Once their records are seen they sign, and the former ones stay published.
    names.replace("sender.test.", &zone(&waiting));
    let overlap = checked_until_none(&postrail, "sender.test", "waiting");
    assert_eq!(selectors_in(&overlap, "signing"), new);
    let former = selectors_in(&overlap, "former");
    assert_eq!(former, ["pr1r", "pr1e"]);
    let kept = overlap["dns_records"].as_array().expect("records").iter();
    let kept: Vec<_> = kept.filter(|record| record["action"] == "keep").collect();
    assert!(
        kept.len() == 2
            && kept.iter().all(|record| record["keep_until_ms"].as_u64() > record["check"]["since_ms"].as_u64())
    );
    let signed_by_new = of(&new, "sender.test");
    assert!(stream.further().iter().all(|signatures| *signatures == signed_by_new));
    let audit = postrail.lock().expect("unpoisoned").control_ok("GET", "/v2/audit?limit=1000", None).to_string();
    assert!(audit.contains(&format!("key {} of sender.test: waiting to signing", new[0])), "{audit}");

    // The whole state comes back as it went out, and a restart changes nothing.
    let file = place.join("all.toml");
    std::fs::write(&file, cli(&postrail, &["export", "--secrets"])).expect("writable");
    let file = file.display().to_string();
    assert!(cli(&postrail, &["apply", "-f", &file, "--yes"]).contains("nothing to change"));
    postrail.lock().expect("unpoisoned").kill_and_restart();
    assert!(stream.further().iter().all(|signatures| *signatures == signed_by_new));

    // The overlap ends, here by the operator's word, and the former records go.
    for selector in &former {
        cli(&postrail, &["domain", "key", "retire", "sender.test", selector]);
    }
    let over = show(&postrail, "sender.test");
    assert_eq!(selectors_in(&over, "retired"), former);
    let records = cli(&postrail, &["domain", "records", "sender.test"]);
    assert_eq!(records.matches("dkim (may be removed)").count(), 2, "{records}");
    names.replace("sender.test.", &zone(&over));
    let last = checked_until_none(&postrail, "sender.test", "retired");
    assert_eq!(selectors_in(&last, "signing"), new);
    assert_eq!(states(&last).len(), 2, "{last}");
    assert!(stream.further().iter().all(|signatures| *signatures == signed_by_new));
    let seen = stream.end();
    println!("{} mails verified; {} by the former keys", seen.len(), seen.iter().filter(|of| **of == old).count());
}

#[test]
fn a_key_is_brought_and_the_platforms_domain_signs_for_all() {
    let place = Place::new("keys-platform");
    let zones = [("sender.test.", SENDER), ("bare.test.", SENDER), ("platform.test.", SENDER), RECEIVER];
    let names = NameServer::start(&place, &zones);
    let receiver = Receiver::local();
    let postrail = Postrail::start(&place, names.address(), receiver.address().port());
    for (name, keys) in [("platform.test", json!(["rsa-sha256"])), ("bare.test", json!([]))] {
        postrail.control_ok("POST", "/v2/domains", Some(&json!({"name": name, "dkim_keys": keys})));
    }
    // Brought, as an elder tool wrote it; and one that is too short for anyone.
    let (brought, weak) = (place.join("dkim.pem"), place.join("weak.pem"));
    run(Command::new("openssl").args(["genrsa", "-traditional", "-out"]).arg(&brought).arg("2048"));
    run(Command::new("openssl").args(["genrsa", "-traditional", "-out"]).arg(&weak).arg("1024"));
    let postrail = Mutex::new(postrail);
    let (taken, refused) = postrail.lock().expect("unpoisoned").cli(&[
        "domain",
        "key",
        "add",
        "platform.test",
        "--private-key",
        &weak.display().to_string(),
    ]);
    assert!(!taken && refused.contains("shorter than 2,048 bits"), "{refused}");
    let file = brought.display().to_string();
    let text = cli(&postrail, &["domain", "key", "add", "platform.test", "--selector", "june", "--private-key", &file]);
    assert!(text.contains("june._domainkey.platform.test. IN TXT"), "{text}");
    names.replace("platform.test.", &zone(&show(&postrail, "platform.test")));
    names.replace("sender.test.", &zone(&show(&postrail, "sender.test")));
    let platform = checked_until_none(&postrail, "platform.test", "waiting");
    assert_eq!(selectors_in(&platform, "signing"), ["june"]);

    let postrail = postrail.into_inner().expect("unpoisoned");
    let (status, refused) = postrail.control("PATCH", "/v2/settings", Some(&json!({"platform_domain": "other.test"})));
    assert_eq!((status, &refused["errors"][0]["code"]), (409, &json!("platform_missing")), "{refused}");
    let (done, set) = postrail.cli(&["settings", "set", "--platform-domain", "platform.test"]);
    assert!(done && set.contains("platform.test"), "{set}");
    postrail.settled_configuration();
    let mut verifier = Verifier::start(names.address());
    let mut from = |address: &str, count: usize| {
        let mut mail = job("someone@receiver.test");
        mail["mail"] = json!({"from": {"email": address}, "mimeFrom": {"email": address}});
        let (status, answer) = postrail.submit(&mail);
        assert_eq!(status, 202, "{answer}");
        verifier.verified(&receiver.wait_for(count)[count - 1].content)
    };
    let by_platform = of(&["june".to_owned()], "platform.test");
    let own = of(&["pr1r".to_owned(), "pr1e".to_owned()], "sender.test");
    assert_eq!(from("app@sender.test", 1), &own | &by_platform);
    assert_eq!(from("app@bare.test", 2), by_platform, "a domain without a key is signed for");
    assert_eq!(from("app@platform.test", 3), by_platform, "and not twice for itself");
    let (done, _) = postrail.cli(&["settings", "set", "--platform-domain", "none"]);
    assert!(done);
    postrail.settled_configuration();
    assert_eq!(from("app@sender.test", 4), own);
}
