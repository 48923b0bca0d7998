//! Configuration in a fleet: one control plane, two data planes, a real etcd, and what becomes of mail when etcd does not
//! answer, forgets, or holds half a publication.

use std::time::{Duration, Instant};

use postrail_tests::fleet::{Fleet, Member};
use postrail_tests::place::Place;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

use crate::durability::ZONE;

struct World {
    fleet: Fleet,
    receiver: Receiver,
    names: NameServer,
    place: Place,
}

fn world(name: &str, hosts: usize) -> World {
    let place = Place::new(name);
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let resolver = names.address().to_string();
    let fleet = Fleet::start(&place, hosts, &["--resolver", &resolver, "--shards", "1"]);
    let route = json!({"domain": "*", "port": receiver.address().port(), "allow_private": true});
    fleet.change("POST", "/v2/routes", &route);
    fleet.settle();
    World { fleet, receiver, names, place }
}

/// A value of the admin listener's metrics that is not by shard.
fn metric(host: &Member, name: &str) -> Option<u64> {
    let metrics = host.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} "))?.parse().ok())
}

#[test]
fn what_is_changed_on_the_control_plane_is_in_effect_on_every_data_plane() {
    let World { fleet, receiver, names: _names, place: _place } = world("fleet-change", 2);
    let before = fleet.settle();
    fleet.change("PATCH", "/v2/tenants/default", &json!({"weight": 7}));
    assert_eq!(fleet.settle(), before + 1);
    let jobs = [fleet.accepted(0, "one@receiver.test"), fleet.accepted(1, "two@receiver.test")];
    receiver.wait_for(2);
    // The journals of both hosts are in the one ledger.
    jobs.iter().for_each(|job| fleet.delivered(job));

    let made = fleet.change("POST", "/v2/credentials", &json!({"username": "app"}));
    let secret = made["secret"].as_str().expect("the secret is shown once");
    fleet.settle();
    for host in &fleet.hosts {
        assert_eq!(host.submit("app", secret, "three@receiver.test").0, 202);
    }
    fleet.change("PATCH", "/v2/credentials/app", &json!({"disabled": true}));
    fleet.settle();
    for host in &fleet.hosts {
        assert_eq!(host.submit("app", secret, "four@receiver.test").0, 401);
    }
}

#[test]
fn a_suppression_reaches_every_data_plane_before_its_revision_does() {
    let World { fleet, receiver, names: _names, place: _place } = world("fleet-suppression", 2);
    fleet.change("POST", "/v2/suppressions?tenant=default", &json!({"address": "no@receiver.test"}));
    fleet.settle();
    for host in &fleet.hosts {
        let (status, answer) = host.submit(&fleet.username, &fleet.secret, "no@receiver.test");
        assert_eq!(status, 422, "{answer}");
        assert!(answer.to_string().contains("suppress"), "{answer}");
    }
    let sent = fleet.accepted(0, "yes@receiver.test");
    fleet.delivered(&sent);
    assert_eq!(receiver.arrived().len(), 1);
    for host in &fleet.hosts {
        assert_eq!(metric(host, "postrail_suppressions_behind"), Some(0));
    }
}

#[test]
fn mail_is_accepted_and_sent_while_etcd_is_down_also_over_a_restart() {
    let World { mut fleet, receiver, names: _names, place: _place } = world("fleet-etcd-down", 2);
    let revision = fleet.settle();
    fleet.etcd.kill();
    let down = fleet.accepted(0, "while-down@receiver.test");
    receiver.wait_for(1);
    // The ledger needs no etcd to fill; who is asked for a change says what is wrong.
    fleet.delivered(&down);
    let change = json!({"weight": 3});
    let (status, problem) = fleet.control.control(&fleet.token, "PATCH", "/v2/tenants/default", Some(&change));
    assert_eq!((status, &problem["code"]), (503, &json!("store_unreachable")), "{problem}");

    let host = &mut fleet.hosts[0];
    host.child().kill();
    host.start_again();
    let ready = host.wait_for(host.admin, "/readyz");
    assert!(ready.contains("configuration not heard since the start"), "{ready}");
    assert_eq!(host.revisions(), Some(vec![revision]));
    let again = fleet.accepted(0, "after-restart@receiver.test");
    receiver.wait_for(2);
    wait::until("the other data plane to notice", || {
        (metric(&fleet.hosts[1], "postrail_configuration_connected") == Some(0)).then_some(())
    });

    fleet.etcd.start_again();
    wait::until("a change to be possible again", || {
        let change = json!({"weight": 4});
        let (status, _) = fleet.control.control(&fleet.token, "PATCH", "/v2/tenants/default", Some(&change));
        (status == 200).then_some(())
    });
    assert!(fleet.settle() > revision);
    fleet.delivered(&again);
    for host in &fleet.hosts {
        assert_eq!(metric(host, "postrail_configuration_connected"), Some(1));
    }
}

#[test]
fn a_data_plane_that_missed_what_etcd_has_forgotten_catches_up() {
    let World { mut fleet, receiver: _receiver, names: _names, place: _place } = world("fleet-compaction", 2);
    fleet.hosts[1].child().kill();
    for weight in 2..8 {
        fleet.change("PATCH", "/v2/tenants/default", &json!({"weight": weight}));
    }
    fleet.etcd.compact();
    fleet.hosts[1].start_again();
    let host = &mut fleet.hosts[1];
    host.wait_for(host.admin, "/readyz");
    fleet.settle();
    // A watch that is open over a compaction goes on.
    fleet.change("PATCH", "/v2/tenants/default", &json!({"weight": 9}));
    fleet.etcd.compact();
    fleet.change("PATCH", "/v2/tenants/default", &json!({"weight": 10}));
    fleet.settle();
}

#[test]
fn what_leads_to_a_manifest_may_be_lost_or_noise_and_changes_are_in_effect_at_once_all_the_same() {
    let World { fleet, receiver: _receiver, names: _names, place: _place } = world("fleet-advance", 2);
    let key = "/postrail/main/published/advance";
    let mut revision = fleet.settle();
    // Gone, as where a control plane of an earlier version publishes; noise, as from a later one; and again the usual.
    for (weight, spoil) in [(2, &["del", key][..]), (3, &["put", key, "noise"]), (4, &["get", key]), (5, &["get", key])]
    {
        fleet.etcd.control(spoil);
        let begun = Instant::now();
        fleet.change("PATCH", "/v2/tenants/default", &json!({"weight": weight}));
        revision += 1;
        assert_eq!(fleet.settle(), revision);
        assert!(
            begun.elapsed() < LOOK,
            "{spoil:?}: heard by the look that is taken by period, after {:?}",
            begun.elapsed()
        );
    }
    for host in &fleet.hosts {
        assert_eq!(metric(host, "postrail_configuration_refused_total"), Some(0));
    }
}

/// Data planes look at the manifest after no less than this.
const LOOK: Duration = Duration::from_secs(8);

#[test]
fn half_a_publication_is_never_in_effect() {
    let World { mut fleet, receiver, names, place } = world("fleet-torn", 1);
    let revision = fleet.settle();
    // Chunks without a manifest: what a control plane leaves that ends between the two.
    let junk = format!("/postrail/main/published/chunks/tenants/0/{:032x}", 7);
    fleet.etcd.control(&["put", &junk, "half of something"]);
    fleet.change("PATCH", "/v2/tenants/default", &json!({"weight": 2}));
    assert_eq!(fleet.settle(), revision + 1);

    // A manifest whose chunks are gone: nothing else can be made of it, so what was in effect stays.
    let listed = fleet.etcd.control(&["get", "--prefix", "--keys-only", "/postrail/main/published/chunks/tenants"]);
    fleet.control.child().kill();
    let mut stopped = fleet.hosts.remove(0);
    stopped.child().kill();
    for key in listed.lines().filter(|line| line.starts_with("/postrail/")) {
        fleet.etcd.control(&["del", key]);
    }
    let log = std::fs::read_to_string(place.join("host-1.log")).expect("a log");
    stopped.start_again();
    stopped.wait_for(stopped.admin, "/readyz");
    assert_eq!(stopped.revisions(), Some(vec![revision + 1]), "as it was kept");

    // An empty data plane has nothing to go on with, and says so; it takes no mail.
    let key = std::fs::read(fleet.control.data.join("master.key")).expect("the master key");
    let options = ["--shards", "1", "--resolver", &names.address().to_string()];
    let empty = Member::start(&place, &fleet.etcd, "host-2", "data-plane", Some(&key), &options);
    wait::until("the empty data plane to say what is missing", || {
        empty.output().contains("is not there").then_some(())
    });
    assert_eq!(empty.revisions(), Some(vec![0]));
    let (status, _): (u16, Value) = empty.submit(&fleet.username, &fleet.secret, "x@receiver.test");
    assert_eq!(status, 503);

    // The control plane writes what is missing when it comes back and something changes.
    fleet.control.start_again();
    fleet.control.wait_for(fleet.control.api, "/readyz");
    fleet.hosts = vec![stopped, empty];
    fleet.settle();
    fleet.accepted(1, "healed@receiver.test");
    receiver.wait_for(1);
    assert!(!log.contains("panicked"));
}
