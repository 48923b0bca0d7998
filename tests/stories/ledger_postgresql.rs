//! The ledger in a PostgreSQL database: a real server that dies under load, and one that cannot be used. `psql` judges.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postrail_tests::child::try_run;
use postrail_tests::etcd::Etcd;
use postrail_tests::load::Load;
use postrail_tests::place::Place;
use postrail_tests::postgres::{PASSWORD, Postgres};
use postrail_tests::postrail::{Postrail, binary};
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::json;

use crate::durability::{ZONE, assert_settled_once, empty_queue, settlements};

/// The file of the password, as an operator keeps it.
pub(crate) fn password_file(place: &Place) -> String {
    let path = place.join("ledger.password");
    std::fs::write(&path, format!("{PASSWORD}\n")).expect("a file can be written");
    path.display().to_string()
}

/// Starts with its ledger at `url`.
fn start(place: &Place, names: &NameServer, url: &str, receiver: &Receiver) -> Postrail {
    let resolver = names.address().to_string();
    let file = password_file(place);
    let postrail = Postrail::start_with(
        place,
        &["--resolver", &resolver, "--shards", "2", "--ledger", url, "--ledger-password-file", &file],
    );
    postrail.route("*", receiver.address().port());
    postrail
}

/// What the database itself says: sequences without a gap, as many as were given, none unread; gives their number.
pub(crate) fn check_sequences(postgres: &Postgres) -> u64 {
    let gaps = "SELECT count(*) FROM (SELECT first + count AS next, lead(first) OVER (ORDER BY first) AS there
                FROM postrail_ledger.events) AS chunks WHERE next <> there";
    assert_eq!(postgres.ask(gaps), "0", "no sequence is left out or given twice");
    let asked = "SELECT min(first), (SELECT count(*) FROM postrail_ledger.unread), sum(count) = (SELECT last FROM
                 postrail_ledger.head) FROM postrail_ledger.events";
    assert_eq!(postgres.ask(asked), "1|0|t");
    postgres.ask("SELECT sum(count) FROM postrail_ledger.events").parse().expect("a number")
}

#[test]
fn a_ledger_that_dies_under_load_has_every_event_once() {
    let place = Place::new("ledger-dies");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let mut postgres = Postgres::start(&place);
    let mut postrail = start(&place, &names, &postgres.url(), &receiver);
    assert!(!postrail.data().join("ledger.db").exists(), "there is one ledger");
    let load = Load::start(&place, &postrail, "ledger", 3, 3);
    for round in 0..4 {
        let before = receiver.arrived().len();
        wait::until("mail to flow", || (receiver.arrived().len() > before + 30).then_some(()));
        postgres.kill();
        let (acknowledged, arrived) = (load.acknowledged().len(), receiver.arrived().len());
        wait::until("mail to be accepted and delivered without the ledger", || {
            let grown = (load.acknowledged().len() > acknowledged + 50) && (receiver.arrived().len() > arrived + 50);
            grown.then_some(())
        });
        let refused = postrail.control("POST", "/v2/tenants", Some(&json!({"name": format!("tenant{round}")})));
        assert_eq!((refused.0, refused.1["code"].as_str()), (503, Some("ledger_unavailable")), "{refused:?}");
        let read = postrail.control("GET", "/v2/events", None);
        assert_eq!((read.0, read.1["code"].as_str()), (503, Some("ledger_unavailable")), "{read:?}");
        postgres.resume();
        wait::until("the ledger to be used again", || {
            (postrail.control("GET", "/v2/audit", None).0 == 200).then_some(())
        });
        if round == 1 {
            postrail.kill_and_restart();
        }
    }
    let acknowledged = load.stop();
    empty_queue(&postrail);
    assert_settled_once(&postrail, "ledger", &acknowledged);
    let settled = settlements(&postrail).len() as u64;
    let events = check_sequences(&postgres);
    println!(
        "{} acknowledged, {settled} settled, {events} events, {} delivered",
        acknowledged.len(),
        receiver.arrived().len()
    );
    // One mail, one recipient, two events: accepted and delivered.
    assert_eq!(events, 2 * settled);
    assert!(acknowledged.len() > 400, "the load was a load: {}", acknowledged.len());
    let log = postrail.output();
    assert!(log.contains("journal not taken") && log.contains("PostgreSQL at 127.0.0.1:"), "{log}");
    assert!(!log.contains(PASSWORD));
    let shown = std::fs::read(format!("/proc/{}/cmdline", postrail.child().id())).expect("our own child");
    assert!(!String::from_utf8_lossy(&shown).contains(PASSWORD));
    assert_eq!(postrail.drain().code(), Some(0), "{}", postrail.output());
}

/// What `up` says that cannot start with these options; it is a sentence, and shows no password.
fn refused(place: &Place, data: &str, options: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.args(["up", "--shards", "1", "--hostname", "mail.sender.test", "--data"]).arg(place.join(data));
    let ports = ["--smtp", "--smtps", "--rest", "--api", "--admin"];
    for option in ports {
        command.args([option, &postrail_tests::place::free_address().to_string()]);
    }
    let (status, text) = try_run(command.args(options));
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(!text.contains(PASSWORD) && !text.contains("panicked"), "{text}");
    text
}

#[test]
fn a_ledger_that_cannot_be_used_is_told_in_a_sentence() {
    let place = Place::new("ledger-refused");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let mut postgres = Postgres::start(&place);
    let (url, file) = (postgres.url(), password_file(&place));
    let postrail = start(&place, &names, &url, &receiver);

    let other = refused(&place, "other", &["--ledger", &url, "--ledger-password-file", &file]);
    assert!(other.contains("belongs to another installation; make a database for this one"), "{other}");
    let wrong = place.join("wrong.password");
    std::fs::write(&wrong, "guessed").expect("a file can be written");
    let wrong = refused(&place, "wrong", &["--ledger", &url, "--ledger-password-file", &wrong.display().to_string()]);
    assert!(
        wrong.contains("refuses this user: password authentication failed") && !wrong.contains("guessed"),
        "{wrong}"
    );
    let absent = url.replace("/ledger", "/absent");
    let absent = refused(&place, "absent", &["--ledger", &absent, "--ledger-password-file", &file]);
    assert!(absent.contains("has no such database"), "{absent}");
    let shown = url.replace("postrail@", &format!("postrail:{}@", PASSWORD.replace(' ', "%20")));
    let shown = refused(&place, "shown", &["--ledger", &shown]);
    assert!(shown.contains("--ledger holds a password, which others can read there"), "{shown}");
    let elsewhere = refused(&place, "elsewhere", &["--ledger", "postgres://postrail@192.0.2.1/ledger"]);
    assert!(elsewhere.contains("192.0.2.1 is not on this machine: add sslmode=verify-full"), "{elsewhere}");

    postgres.ask("UPDATE postrail_ledger.head SET format = 99");
    drop(postrail);
    let data = place.join("data").display().to_string();
    let newer = refused(&place, &data, &["--ledger", &url, "--ledger-password-file", &file]);
    assert!(newer.contains("written by a newer version (format 99, this one reads 3)"), "{newer}");
    postgres.kill();
    let away = refused(&place, &data, &["--ledger", &url, "--ledger-password-file", &file]);
    assert!(away.contains("cannot be reached; check that it runs and that this host may connect"), "{away}");
}

#[test]
fn a_ledger_or_a_configuration_that_was_not_moved_is_not_left_behind() {
    let place = Place::new("ledger-behind");
    let names = NameServer::start(&place, &[ZONE]);
    let postgres = Postgres::start(&place);
    let (url, file) = (postgres.url(), password_file(&place));
    let mut postrail = Postrail::start(&place, names.address(), 25);
    postrail.control_ok("POST", "/v2/suppressions", Some(&json!({"address": "stop@receiver.test"})));
    assert_eq!(postrail.drain().code(), Some(0));

    let data = postrail.data().display().to_string();
    let database = ["--ledger", url.as_str(), "--ledger-password-file", file.as_str()];
    let said = refused(&place, &data, &database);
    assert!(said.contains("has a ledger that was not moved there: move it by postrail move-ledger"), "{said}");
    let said = refused(&place, &data, &["--etcd", "http://127.0.0.1:1", "--host-name", "one"]);
    assert!(said.contains("has one that was not moved there: move it by postrail move-to-etcd"), "{said}");

    let (status, text) = try_run(Command::new(binary()).args(["move-ledger", "--data", &data]).args(database));
    assert!(status.success(), "{text}");
    postrail.start_again_with(&database);
    let held = postrail.control_ok("GET", "/v2/suppressions", None);
    assert_eq!(held["items"][0]["address"], "stop@receiver.test", "{held}");
    assert_eq!(postrail.drain().code(), Some(0));

    // What was moved is not gone back to by its file: etcd may have given its numbers to others since.
    let etcd = Etcd::start(&place);
    let (status, text) = try_run(Command::new(binary()).args(["move-to-etcd", "--data", &data, "--etcd", &etcd.url()]));
    assert!(status.success(), "{text}");
    let moved = "was moved into etcd, and what was changed since is there alone: start it with --etcd";
    let said = refused(&place, &data, &database);
    assert!(said.contains(moved), "{said}");
    let file = postrail.data().join("config.db");
    std::fs::rename(file.with_extension("db.moved"), &file).expect("it was put aside");
    let said = refused(&place, &data, &database);
    assert!(said.contains(moved), "{said}");
}

/// Makes a certificate authority, and a certificate by it for 127.0.0.1; gives the authority's file.
fn certify(place: &Place, name: &str) -> (String, String, String) {
    let at = |file: &str| place.join(&format!("{name}-{file}")).display().to_string();
    let (authority, authority_key, certificate, key) = (at("ca.pem"), at("ca.key"), at("server.pem"), at("server.key"));
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let make = |arguments: &[&str]| {
        let (status, text) = try_run(Command::new("openssl").args(new).args(arguments));
        assert!(status.success(), "{text}");
    };
    make(&["-subj", &format!("/CN={name} authority"), "-keyout", &authority_key, "-out", &authority]);
    let names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
    make(
        &[
            &[
                "-subj",
                "/CN=server",
                "-keyout",
                &key,
                "-out",
                &certificate,
                "-CA",
                &authority,
                "-CAkey",
                &authority_key,
            ][..],
            &names,
        ]
        .concat(),
    );
    (authority, certificate, key)
}

#[test]
fn a_connection_is_verified_by_the_named_authority() {
    let place = Place::new("ledger-tls");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let (authority, certificate, key) = certify(&place, "right");
    let (stranger, ..) = certify(&place, "other");
    let mut postgres = Postgres::start(&place);
    let asked = |authority: &str| format!("{}?sslmode=verify-full&sslrootcert={authority}", postgres.url());
    let (right, other) = (asked(&authority), asked(&stranger));
    let file = password_file(&place);
    let without = refused(&place, "without", &["--ledger", &right, "--ledger-password-file", &file]);
    assert!(without.contains("does not support TLS"), "{without}");
    postgres.use_tls(Path::new(&certificate), Path::new(&key));
    let unknown = refused(&place, "unknown", &["--ledger", &other, "--ledger-password-file", &file]);
    assert!(unknown.contains("cannot be reached") && unknown.contains("UnknownIssuer"), "{unknown}");
    let postrail = start(&place, &names, &right, &receiver);
    let protected = postgres.ask(
        "SELECT bool_and(ssl) AND count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
         WHERE application_name = 'postrail'",
    );
    assert_eq!(protected, "t");
    let (sent, transcript) = postrail.swaks(&["--from", "app@sender.test", "--to", "a@receiver.test"]);
    assert!(sent, "{transcript}");
    postrail.wait_for_state(&Postrail::queued_as(&transcript), "delivered");
    wait::within(Duration::from_secs(5), "two events", || (check_sequences(&postgres) == 2).then_some(()));
}
