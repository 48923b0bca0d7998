//! Several control planes, of which one leads: it is killed under load, twice. Journals go on, and what they had is in the
//! ledger once; a change is made at whoever is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Member, Plan, Submitter};
use postrail_tests::place::Place;
use postrail_tests::postgres::Postgres;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::json;

use crate::durability::ZONE;
use crate::ledger_postgresql::{check_sequences, password_file};

/// Clients that submit one mail after another, each to a recipient of its own.
struct Mails {
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Mails {
    fn start(submitters: Vec<Submitter>) -> Self {
        let (acknowledged, over) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
        let client = |(number, submitter): (usize, Submitter)| {
            let (acknowledged, over) = (Arc::clone(&acknowledged), Arc::clone(&over));
            std::thread::spawn(move || {
                for mail in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let to = format!("c{number}-m{mail}@receiver.test");
                    if let Some((202, _)) = submitter.submit(&to) {
                        acknowledged.lock().expect("no panic while locked").insert(to);
                    }
                }
            })
        };
        let clients = submitters.into_iter().enumerate().map(client).collect();
        Self { acknowledged, over, clients }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no panic while locked").len()
    }

    /// Waits until more have been acknowledged.
    fn flow(&self) {
        let before = self.count();
        wait::until("mail to flow", || (self.count() > before + 40).then_some(()));
    }

    fn stop(self) -> BTreeSet<String> {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("a client does not panic"));
        self.acknowledged.lock().expect("no panic while locked").clone()
    }
}

/// Where in `controls` the leader is, by what etcd has; the first to lead but `former`.
fn leader(etcd: &Etcd, controls: &[Member], former: Option<usize>) -> usize {
    wait::until("one control plane to lead", || {
        let at = etcd.control(&["get", "/postrail/main/election/leader", "--print-value-only"]);
        let found = controls.iter().position(|control| at.trim() == format!("http://{}", control.api))?;
        (Some(found) != former).then_some(found)
    })
}

/// The last place in the ledger, as that control plane says.
fn last_place(control: &Member, token: &str) -> u64 {
    let mut cursor = "0".to_owned();
    loop {
        let (status, page) = control.control(token, "GET", &format!("/v2/events?limit=1000&cursor={cursor}"), None);
        assert_eq!(status, 200, "{page}");
        let next = page["next_cursor"].as_str().expect("there is always one").to_owned();
        if next == cursor {
            return cursor.parse().expect("a number");
        }
        cursor = next;
    }
}

/// How often each kind of event is in the ledger for each recipient.
fn events(control: &Member, token: &str) -> BTreeMap<(String, String), usize> {
    let (mut found, mut cursor) = (BTreeMap::new(), "0".to_owned());
    loop {
        let (_, page) = control.control(token, "GET", &format!("/v2/events?limit=1000&cursor={cursor}"), None);
        for event in page["items"].as_array().expect("a list") {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            *found.entry((text("recipient"), text("kind"))).or_default() += 1;
        }
        let next = page["next_cursor"].as_str().expect("there is always one").to_owned();
        if next == cursor {
            return found;
        }
        cursor = next;
    }
}

/// Each mail that was acknowledged has two events, each once, and arrived once.
fn judge(found: &BTreeMap<(String, String), usize>, acknowledged: &BTreeSet<String>, receiver: &Receiver) {
    assert!(found.values().all(|count| *count == 1), "an event is there once: {found:?}");
    let of = |kind: &str| found.keys().filter(|(_, of)| of == kind).count();
    let counts = (of("accepted"), of("delivered"), found.len());
    assert_eq!(counts, (acknowledged.len(), acknowledged.len(), 2 * acknowledged.len()));
    let arrived: Vec<_> = receiver.arrived().into_iter().flat_map(|mail| mail.rcpt).collect();
    assert_eq!(arrived.len(), acknowledged.len(), "each arrived once");
    println!("{} acknowledged, {} events in the ledger, {} arrived", acknowledged.len(), found.len(), arrived.len());
}

#[test]
fn killing_the_leader_twice_loses_nothing_and_repeats_nothing() {
    let place = Place::new("fleet-leader");
    let (names, receiver, postgres) = (NameServer::start(&place, &[ZONE]), Receiver::local(), Postgres::start(&place));
    let (resolver, url, file) = (names.address().to_string(), postgres.url(), password_file(&place));
    let options = ["--resolver", &resolver, "--shards", "1", "--ledger", &url, "--ledger-password-file", &file];
    // A data plane has no ledger, and does not mind to be told of one.
    let fleet = Fleet::start_as(&place, Etcd::start(&place), 2, |_| Plan { options: &options, ..Plan::default() });
    fleet.change(
        "POST",
        "/v2/routes",
        &json!({"domain": "*", "port": receiver.address().port(), "allow_private": true}),
    );
    fleet.settle();
    let submitters = fleet.hosts.iter().map(|host| host.submitter(&fleet.username, &fleet.secret)).collect();
    let Fleet { mut hosts, control, etcd, token, .. } = fleet;
    let key = std::fs::read(control.data.join("master.key")).expect("the master key");
    let mut controls = vec![control];
    for name in ["control-2", "control-3"] {
        let mut control = Member::start(&place, &etcd, name, "control-plane", Some(&key), &options);
        control.wait_for(control.api, "/readyz");
        controls.push(control);
    }

    let mails = Mails::start(submitters);
    let (mut killed, mut former) = (Vec::new(), None);
    for round in 0..2 {
        let leads = leader(&etcd, &controls, former);
        mails.flow();
        controls[leads].child().kill();
        let died = Instant::now();
        killed.push(leads);
        // A follower takes a change at once: it does not lead, and need not.
        let follows = (0..controls.len()).find(|at| !killed.contains(at)).expect("one is left");
        let change = json!({"weight": 2 + round});
        let (status, answer) = controls[follows].control(&token, "PATCH", "/v2/tenants/default", Some(&change));
        assert_eq!((status, &answer["weight"]), (200, &change["weight"]), "{answer}");
        let before = last_place(&controls[follows], &token);
        mails.flow();
        wait::until("the ledger to go on without the leader", || {
            (last_place(&controls[follows], &token) > before + 40).then_some(())
        });
        let next = leader(&etcd, &controls, Some(leads));
        println!(
            "round {round}: control plane {leads} was killed, {next} leads, and the ledger went on after {:.1?}",
            died.elapsed()
        );
        assert!(died.elapsed() < Duration::from_secs(20), "a lease of five seconds, and some");
        former = Some(leads);
    }
    // Those that were killed come back, and follow.
    for at in killed {
        controls[at].start_again();
        let api = controls[at].api;
        controls[at].wait_for(api, "/readyz");
    }
    mails.flow();
    let acknowledged = mails.stop();
    receiver.wait_for(acknowledged.len());
    let wanted = 2 * acknowledged.len() as u64;
    wait::until("the ledger to have all", || (last_place(&controls[1], &token) >= wanted).then_some(()));

    judge(&events(&controls[0], &token), &acknowledged, &receiver);
    assert_eq!(check_sequences(&postgres), wanted, "the database itself says so");
    // Whoever publishes, all data planes work under what all control planes know.
    wait::until("one revision everywhere", || {
        let published = controls[0].published()?;
        let is_there = |host: &Member| host.revisions().is_some_and(|all| all == [published]);
        let is_known = |control: &Member| control.published() == Some(published);
        (hosts.iter().all(is_there) && controls.iter().all(is_known)).then_some(())
    });
    for member in hosts.iter_mut().chain(&mut controls) {
        member.stop();
        assert!(!member.output().contains("ERROR"), "{}:\n{}", member.name, member.output());
    }
}
