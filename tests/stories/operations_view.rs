//! What monitoring and people at a terminal see: metrics, health, logs, the command line, the demo.

use std::process::Command;
use std::time::Duration;

use postrail_tests::child::{run, try_run};
use postrail_tests::clients::python_program;
use postrail_tests::load::Load;
use postrail_tests::place::Place;
use postrail_tests::postrail::{Postrail, binary};
use postrail_tests::receiver::{Act, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::Value;

use crate::durability::{ZONE, job, job_id};

/// Reads Prometheus text with its own client's parser and prints each sample's name, type and value.
const PARSE: &str = "\
import sys
from prometheus_client.parser import text_string_to_metric_families
seen = set()
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    assert family.documentation, family.name
    assert family.type in ('counter', 'gauge', 'histogram', 'summary'), (family.name, family.type)
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        assert key not in seen, key
        seen.add(key)
        assert family.type != 'counter' or sample.name.endswith('_total'), sample.name
        print(sample.name, family.type, sample.value)
";

#[test]
fn metrics_and_health_are_readable() {
    let place = Place::new("metrics");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let mut postrail = Postrail::start(&place, names.address(), receiver.address().port());
    let id = job_id(&postrail.submit(&job("metric@receiver.test")));
    postrail.wait_for_state(&id, "delivered");
    let control = reqwest::blocking::get(format!("http://{}/metrics", postrail.api)).and_then(|answer| answer.text());
    for (name, text) in [("data", postrail.metrics()), ("control", control.expect("the control plane has metrics"))] {
        let file = place.join(&format!("{name}.metrics"));
        std::fs::write(&file, &text).expect("writable");
        let parsed = run(Command::new(python_program("python")).args(["-c", PARSE]).arg(&file));
        assert!(parsed.lines().count() > 3 && parsed.lines().all(|line| line.starts_with("postrail_")), "{parsed}");
        assert!(!text.contains("receiver.test"), "no label is a recipient's domain");
    }
    assert_eq!(postrail.metric("postrail_delivered_recipients_total"), 1);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(postrail.admin_get(path).0, 200, "{path}");
        let control = reqwest::blocking::get(format!("http://{}{path}", postrail.api)).expect("it answers");
        assert_eq!(control.status().as_u16(), 200, "{path} of the control plane");
    }
    receiver.script(Stage::EndOfData, Act::Wait(Duration::from_secs(2)), usize::MAX);
    job_id(&postrail.submit(&job("slow@receiver.test")));
    wait::until("the mail to be under way", || (postrail.metric("postrail_egress_attempts_total") == 2).then_some(()));
    postrail.child().signal(libc::SIGTERM);
    wait::until("the drain to be told", || {
        let (status, text) = postrail.admin_get("/readyz");
        (status == 503 && text.contains("draining")).then_some(())
    });
    assert_eq!(postrail.admin_get("/healthz").0, 200, "it is alive while it drains");
    assert!(postrail.metrics().contains("postrail_delivered_recipients_total"), "it can be watched while it drains");
    let status = postrail.child().wait(Duration::from_secs(30));
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert_eq!(receiver.arrived().len(), 2);
}

#[test]
fn logs_are_json_lines_without_addresses_and_secrets() {
    let place = Place::new("logs");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let resolver = names.address().to_string();
    let mut postrail = Postrail::start_with(&place, &["--resolver", &resolver, "--shards", "2", "--log", "json"]);
    postrail.route("*", receiver.address().port());
    let load = Load::start(&place, &postrail, "logged", 2, 2);
    for (stage, reply) in [
        (Stage::Rcpt, "550 5.1.1 <logged@receiver.test> is unknown\r\n"),
        (Stage::Rcpt, "450 4.2.0 <logged@receiver.test> is busy\r\n"),
        (Stage::EndOfData, "554 5.7.1 no, logged@receiver.test\r\n"),
    ] {
        receiver.script(stage, Act::Say(reply.to_owned()), 5);
        let sofar = receiver.arrived().len();
        wait::until("mail to flow", || (receiver.arrived().len() > sofar + 30).then_some(()));
    }
    receiver.script(Stage::Mail, Act::Drop, 5);
    receiver.script(Stage::Ehlo, Act::Say("garbage\r\n".to_owned()), 5);
    let wrong =
        ["--server", "127.0.0.1", "--tls", "--auth", "PLAIN", "--auth-user", "default", "--from", "a@sender.test"];
    let port = postrail.smtp.port().to_string();
    let mut swaks = Command::new("swaks");
    swaks.args(wrong).args(["--port", &port, "--auth-password", "not-the-secret", "--to", "logged@receiver.test"]);
    assert!(!try_run(&mut swaks).0.success());
    postrail.submit(&job("not an address"));
    let (good, text) = postrail.cli(&["credential", "add", "logged-app"]);
    assert!(good, "{text}");
    let other =
        text.split_whitespace().find(|word| word.starts_with("pr_")).expect("a new secret is printed").to_owned();
    load.stop();
    postrail.kill_and_restart();
    assert_eq!(postrail.drain().code(), Some(0));
    let output = postrail.output();
    let lines: Vec<&str> = output.lines().filter(|line| line.starts_with('{')).collect();
    assert!(lines.len() > 3, "there is a log:\n{output}");
    for line in &lines {
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target"] {
            assert!(parsed[field].is_string(), "{field} is not in {line}");
        }
    }
    let master = std::fs::read(postrail.data().join("master.key")).expect("readable");
    let key: String = master.iter().map(|octet| format!("{octet:02x}")).collect();
    let token = std::fs::read_to_string(postrail.data().join("operator.token")).expect("readable");
    let never = [
        "receiver.test",
        "load@sender.test",
        "not-the-secret",
        &postrail.secret,
        &other,
        &key,
        token.trim(),
        "PRIVATE KEY",
        "argon2",
    ];
    for line in lines {
        for secret in never {
            // The name of a receiving site is no address; what stands before an @ is.
            let found = if secret == "receiver.test" { line.contains("@receiver.test") } else { line.contains(secret) };
            assert!(!found, "{secret} is in the log: {line}");
        }
    }
}

/// Every command path that `--help` names below `path`.
fn commands(path: &[String], found: &mut Vec<Vec<String>>) {
    let text = run(Command::new(binary()).args(path).arg("--help"));
    assert!(text.contains("Usage: postrail"), "{path:?} --help:\n{text}");
    found.push(path.to_vec());
    let listed = text.split("Commands:\n").nth(1).unwrap_or_default();
    for line in listed.lines().take_while(|line| line.starts_with("  ")) {
        let name = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with("    ") || name == "help" {
            continue;
        }
        let mut below = path.to_vec();
        below.push(name.to_owned());
        commands(&below, found);
    }
}

#[test]
fn every_command_has_help_and_wrong_use_is_told() {
    let mut found = Vec::new();
    commands(&[], &mut found);
    assert!(found.len() > 40, "all commands are walked: {found:?}");
    for path in &found {
        let (status, text) = try_run(Command::new(binary()).args(path).arg("--no-such-option"));
        assert_eq!(status.code(), Some(2), "{path:?}: {text}");
        assert!(text.contains("--no-such-option") && text.contains("Usage:"), "{path:?}: {text}");
    }
    let place = Place::new("wrong-use");
    let nowhere = place.join("none");
    let data = nowhere.display().to_string();
    let cases: [(&[&str], &str); 7] = [
        (&["queue", "--data", &data], "operator.token"),
        (&["queue", "suspend"], "--site"),
        (&["trace"], "<ID>"),
        (&["up", "--shards", "0"], "--shards"),
        (&["up", "--smtp", "nonsense"], "--smtp"),
        (&["up", "--data", &data, "--api", "0.0.0.0:8081"], "loopback"),
        (&["up", "--data", &data, "--log-level", "!!"], "--log-level"),
    ];
    for (arguments, part) in cases {
        let (status, text) = try_run(Command::new(binary()).args(arguments));
        assert!(!status.success() && text.contains(part), "{arguments:?}: {part} is not in:\n{text}");
        assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{arguments:?}:\n{text}");
    }
    let token = place.join("token");
    std::fs::write(&token, "x").expect("writable");
    let mut command = Command::new(binary());
    command.args(["queue", "--api", "http://127.0.0.1:1", "--token-file"]).arg(&token);
    let (status, text) = try_run(&mut command);
    assert!(!status.success() && text.contains("postrail up"), "nothing answers, and it says what to do:\n{text}");
}

#[test]
fn the_demo_loses_nothing() {
    let (status, text) = try_run(Command::new(binary()).args(["demo", "--json", "--mails", "2000"]));
    assert_eq!(status.code(), Some(0), "{text}");
    let line = text.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("a summary:\n{text}"));
    let summary: Value = serde_json::from_str(line).expect("the summary is JSON");
    println!("{summary}");
    assert_eq!(summary["accepted"], 2000, "{summary}");
    assert_eq!(summary["delivered"], 2000, "{summary}");
    assert_eq!(summary["lost"], 0, "{summary}");
    for key in ["rate_per_s", "delivery_ms_p99"] {
        assert!(summary[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {summary}");
    }
}
