//! A long list of suppressions: what has changed is told, the list is not; and who differs from the ledger is found.

use std::time::{Duration, Instant};

use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Member, Plan};
use postrail_tests::place::Place;
use postrail_tests::postgres::Postgres;
use postrail_tests::wait;
use serde_json::{Value, json};

use crate::ledger_postgresql::password_file;

/// Suppressions that are there at first.
const MANY: u64 = 100_000;
/// What one change may cost a host, octets.
const CHANGE_OCTETS: u64 = 1_024;
/// For how long a manifest waits for suppressions.
const PATIENCE: Duration = Duration::from_secs(3);

/// A value of the admin listener's metrics that is not by shard.
fn metric(host: &Member, name: &str) -> u64 {
    let metrics = host.metrics();
    let found = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} "))?.parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

fn octets(host: &Member) -> u64 {
    metric(host, "postrail_suppressions_octets_total")
}

fn lists(host: &Member) -> u64 {
    metric(host, "postrail_suppressions_lists_total")
}

fn count(host: &Member) -> u64 {
    metric(host, "postrail_suppressions")
}

fn suppress(fleet: &Fleet, address: &str) {
    fleet.change("POST", "/v2/suppressions?tenant=default", &json!({ "address": address }));
}

fn is_suppressed(fleet: &Fleet, host: usize, address: &str) -> bool {
    match fleet.hosts[host].submit(&fleet.username, &fleet.secret, address) {
        (422, _) => true,
        (202, _) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_change_of_a_long_list_is_told_as_one_change_and_what_differs_from_the_ledger_is_healed() {
    let place = Place::new("suppressions");
    let (postgres, file) = (Postgres::start(&place), password_file(&place));
    let url = postgres.url();
    let ledger = ["--ledger", url.as_str(), "--ledger-password-file", &file];
    let host = ["--shards", "1", "--resolver", "127.0.0.1:9"];
    let plan = |name: &str| Plan { options: if name == "control" { &ledger } else { &host }, ..Plan::default() };
    let mut fleet = Fleet::start_as(&place, Etcd::start(&place), 2, plan);
    let put = format!(
        "INSERT INTO postrail_ledger.suppressions SELECT 1, 'n' || n || '@receiver.test', '', 1
         FROM generate_series(1, {MANY}) AS n"
    );
    postgres.ask(&put);
    // Who has it not at all gets it whole, once.
    suppress(&fleet, "first@receiver.test");
    fleet.settle();
    wait::until("every host to have the list", || fleet.hosts.iter().all(|host| count(host) == MANY + 1).then_some(()));
    assert!(is_suppressed(&fleet, 0, "n77777@receiver.test"));
    let before: Vec<_> = fleet.hosts.iter().map(|host| (octets(host), lists(host))).collect();
    assert!(before.iter().all(|(octets, _)| *octets > MANY * 10), "{before:?}");

    changes_one_at_a_time(&fleet);
    for (host, (octets_before, lists_before)) in fleet.hosts.iter().zip(&before) {
        let came = octets(host) - octets_before;
        assert!(came < 30 * CHANGE_OCTETS, "{came} octets for 30 changes");
        assert_eq!(lists(host), *lists_before);
    }

    // A host that was away is told what it missed; one that starts goes on with what it has on its disk.
    fleet.hosts[1].child().kill();
    suppress(&fleet, "missed@receiver.test");
    fleet.hosts[1].start_again();
    let host = &mut fleet.hosts[1];
    host.wait_for(host.admin, "/readyz");
    wait::until("what it missed", || (count(&fleet.hosts[1]) == MANY + 12).then_some(()));
    fleet.settle();
    assert!(is_suppressed(&fleet, 1, "missed@receiver.test") && is_suppressed(&fleet, 1, "n77777@receiver.test"));
    assert_eq!(lists(&fleet.hosts[1]), 0);

    changed_behind_the_ledgers_back(&mut fleet, &postgres);
}

/// Thirty changes of suppressions, and of the configuration between them.
fn changes_one_at_a_time(fleet: &Fleet) {
    for n in 0..10 {
        let address = format!("one{n}@receiver.test");
        suppress(fleet, &address);
        fleet.settle();
        assert!([0, 1].iter().all(|host| is_suppressed(fleet, *host, &address)), "{address}");
        suppress(fleet, &format!("two{n}@receiver.test"));
        let begun = Instant::now();
        let rule = json!({"name": format!("slow{n}"), "match": {"site": "receiver.test"}, "mail_rate": "5/s"});
        fleet.change("POST", "/v2/shaping-rules", &rule);
        fleet.settle();
        assert!(begun.elapsed() < PATIENCE, "a throttle waited for suppressions: {:?}", begun.elapsed());
        fleet.change("DELETE", &format!("/v2/suppressions/two{n}@receiver.test?tenant=default"), &Value::Null);
        fleet.settle();
        assert!([0, 1].iter().all(|host| !is_suppressed(fleet, *host, &format!("two{n}@receiver.test"))));
    }
}

/// What no trigger saw is found when the rows are counted, which is done first after a start.
fn changed_behind_the_ledgers_back(fleet: &mut Fleet, postgres: &Postgres) {
    let table = "postrail_ledger.suppressions";
    postgres.ask(&format!(
        "ALTER TABLE {table} DISABLE TRIGGER USER; DELETE FROM {table} WHERE address = 'n5@receiver.test';
         ALTER TABLE {table} ENABLE TRIGGER USER"
    ));
    assert!(is_suppressed(fleet, 0, "n5@receiver.test"), "nobody has told it");
    fleet.control.child().kill();
    fleet.control.start_again();
    fleet.control.wait_for(fleet.control.api, "/readyz");
    wait::until("the whole list", || fleet.hosts.iter().all(|host| count(host) == MANY + 11).then_some(()));
    assert!(!is_suppressed(fleet, 0, "n5@receiver.test"));
    assert!(fleet.control.output().contains("suppressions were changed in a way that was not noted"));
    // From then on what has changed is told again.
    let before = octets(&fleet.hosts[0]);
    suppress(fleet, "last@receiver.test");
    fleet.settle();
    assert!(is_suppressed(fleet, 0, "last@receiver.test"));
    assert!(octets(&fleet.hosts[0]) - before < 4 * CHANGE_OCTETS);
}
