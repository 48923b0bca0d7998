//! A region has one ledger: a control plane that would keep another is refused, and one that finds, when it is back from
//! being cut off, that another has begun changes nothing.

use std::process::Command;
use std::time::Duration;

use postrail_tests::child::{Running, run, try_run};
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Member};
use postrail_tests::place::Place;
use postrail_tests::postgres::Postgres;
use postrail_tests::postrail::binary;
use postrail_tests::wait;
use serde_json::{Value, json};

use crate::ledger_postgresql::password_file;

struct World {
    place: Place,
    etcd: Etcd,
    first: Member,
    token: String,
    key: Vec<u8>,
}

impl World {
    /// The first control plane of a cluster, with these options.
    fn start(place: Place, options: &[&str]) -> Self {
        let etcd = Etcd::start(&place);
        let mut first = Member::start(&place, &etcd, "one", "control-plane", None, options);
        first.wait_for(first.api, "/readyz");
        let token = std::fs::read_to_string(first.data.join("operator.token")).expect("the operator's token");
        let key = std::fs::read(first.data.join("master.key")).expect("the master key");
        Self { place, etcd, first, token: token.trim().to_owned(), key }
    }

    fn further(&self, name: &str, options: &[&str]) -> Member {
        Member::start(&self.place, &self.etcd, name, "control-plane", Some(&self.key), options)
    }

    /// A further control plane that does not start; the last thing that it says.
    fn refused(&self, name: &str, options: &[&str]) -> String {
        let state = || self.etcd.control(&["get", "--prefix", "/postrail/main/desired/"]);
        let (before, words) = (state(), self.words());
        let file = self.place.join(name).join("ledger.db");
        let had_file = file.exists();
        let mut member = self.further(name, options);
        let ended = member.child().wait(Duration::from_secs(30));
        assert_eq!(ended.and_then(|status| status.code()), Some(2), "{}", member.output());
        assert_eq!(state(), before, "it leaves nothing behind");
        assert!(self.words().iter().all(|word| words.contains(word)), "nor does it say a word");
        assert_eq!(file.exists(), had_file, "nor is there an empty ledger");
        let output = member.output();
        let said = output.lines().last().unwrap_or_default().to_owned();
        assert!(said.starts_with("postrail: cannot start the control plane: "), "{output}");
        said
    }

    /// What control planes without a region say of their ledgers, by their keys.
    fn words(&self) -> Vec<String> {
        let found = self.etcd.control(&["get", "--prefix", "--keys-only", "/postrail/main/ledgers//"]);
        found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    fn ask(&self, member: &Member, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        member.control(&self.token, method, path, body)
    }

    fn suppress(&self, member: &Member, address: &str) {
        let (status, answer) = self.ask(member, "POST", "/v2/suppressions?tenant=default", Some(&suppression(address)));
        assert_eq!(status, 201, "{answer}");
    }

    fn suppressed(&self, member: &Member) -> Vec<String> {
        let (_, page) = self.ask(member, "GET", "/v2/suppressions", None);
        let items = page["items"].as_array().cloned().unwrap_or_default();
        items.iter().filter_map(|one| one["address"].as_str().map(str::to_owned)).collect()
    }

    fn codes(&self, member: &Member) -> Vec<String> {
        let (_, page) = self.ask(member, "GET", "/v2/problems", None);
        let items = page["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|one| format!("{} {}", one["severity"], one["code"]).replace('"', "")).collect()
    }
}

fn suppression(address: &str) -> Value {
    json!({"address": address})
}

#[test]
fn a_second_control_plane_with_a_ledger_of_its_own_is_refused_and_the_first_comes_back_at_once() {
    let mut world = World::start(Place::new("ledgers-files"), &[]);
    let said = world.refused("two", &[]);
    let keeper = format!("control plane one (http://{}) keeps it in its data folder", world.first.api);
    for part in [&keeper, "this one (two) has a file of its own", "postrail move-ledger", "--ledger", "or stop one"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    // Another region has a ledger of its own.
    let mut elsewhere = world.further("elsewhere", &["--region", "eu"]);
    elsewhere.wait_for(elsewhere.api, "/readyz");
    // Its first look at the suppressions of tenants without a region announces what it has.
    wait::until("the region to have looked", || elsewhere.output().contains("region are taken over").then_some(()));
    let said = world.refused("second-elsewhere", &["--region", "eu"]);
    assert!(said.contains("region eu has one ledger") && said.contains("control plane elsewhere"), "{said}");
    // What is in its file of that region's tenants is no other region's.
    elsewhere.stop();
    let said = world.refused("elsewhere", &["--region", "us"]);
    assert!(said.contains("ledger.db is that of region \"eu\", and not of \"us\""), "{said}");
    // It is moved with its cluster, and not into one that does not exist.
    let (data, etcd) = (elsewhere.data.display().to_string(), world.etcd.url());
    let moving = ["move-ledger", "--data", &data, "--etcd", &etcd, "--region", "eu", "--cluster", "mian"];
    let (status, said) = try_run(Command::new(binary()).args(moving).args(["--ledger", "postgres://u@127.0.0.1:1/d"]));
    assert!(!status.success() && said.contains("this cluster has no configuration"), "{said}");

    // Its word of before is there for five seconds more, and in nobody's way but others'.
    world.suppress(&world.first, "gone@receiver.test");
    world.first.child().kill();
    world.first.start_again();
    world.first.wait_for(world.first.api, "/readyz");
    assert_eq!(world.suppressed(&world.first), ["gone@receiver.test"]);
    assert!(world.refused("two", &[]).contains(&keeper));

    // The same file is no ledger for two: it is a copy.
    world.first.stop();
    for file in ["ledger.db", "operator.token"] {
        std::fs::copy(world.first.data.join(file), world.place.join("two").join(file)).expect("a copy");
    }
    world.first.start_again();
    world.first.wait_for(world.first.api, "/readyz");
    let said = world.refused("two", &[]);
    assert!(said.contains("has a copy of that one's file"), "{said}");
    // When the first has ended, and its word of before it was killed has lapsed, the second may take its place.
    world.first.stop();
    wait::until("no word to be left", || world.words().is_empty().then_some(()));
    let mut second = world.further("two", &[]);
    second.wait_for(second.api, "/readyz");
    assert_eq!(world.suppressed(&second), ["gone@receiver.test"]);
}

#[test]
fn control_planes_on_one_database_are_one_and_those_on_two_are_not() {
    let place = Place::new("ledgers-postgresql");
    let (postgres, file) = (Postgres::start(&place), password_file(&place));
    let (url, further) = (postgres.url(), postgres.further("other"));
    let on = |url| ["--ledger", url, "--ledger-password-file", &file];
    let (ours, other) = (on(url.as_str()), on(further.as_str()));
    let world = World::start(place, &ours);
    let mut second = world.further("two", &ours);
    second.wait_for(second.api, "/readyz");
    let banner = second.output();
    assert!(!banner.contains("two/operator.token") && banner.contains("that of the first control plane"), "{banner}");
    world.suppress(&second, "gone@receiver.test");
    assert_eq!(world.suppressed(&world.first), ["gone@receiver.test"]);

    let said = world.refused("three", &other);
    for part in [
        "keeps it in PostgreSQL at 127.0.0.1:",
        "has the one in PostgreSQL at 127.0.0.1:",
        "/other",
        "start this one with the same --ledger",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let said = world.refused("four", &[]);
    assert!(said.contains("has a file of its own: start this one with the same --ledger"), "{said}");
}

#[test]
fn one_that_comes_back_and_finds_another_ledger_changes_nothing_until_that_is_gone() {
    let mut world = World::start(Place::new("ledgers-cut-off"), &[]);
    assert_eq!(world.words().len(), 1);
    world.first.child().signal(libc::SIGSTOP);
    wait::until("its word to lapse", || world.words().is_empty().then_some(()));
    let mut second = world.further("two", &[]);
    second.wait_for(second.api, "/readyz");
    world.first.child().signal(libc::SIGCONT);
    wait::until("the first to say that it has another ledger", || {
        world.codes(&world.first).contains(&"error other_ledger".to_owned()).then_some(())
    });
    assert_eq!(world.first.published(), None, "it is not ready");
    let gone = suppression("gone@receiver.test");
    let (status, problem) = world.ask(&world.first, "POST", "/v2/suppressions?tenant=default", Some(&gone));
    assert_eq!((status, &problem["code"]), (503, &json!("other_ledger")), "{problem}");
    let at = second.api.to_string();
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains(&at)), "{problem}");
    assert!(!world.codes(&second).iter().any(|code| code.contains("other_ledger")), "that one is right");
    let leader = |world: &World| world.etcd.control(&["get", "/postrail/main/election/leader", "--print-value-only"]);
    wait::until("the second to lead", || leader(&world).contains(&at).then_some(()));
    world.suppress(&second, "gone@receiver.test");

    // It may be started again, and etcd may be away for longer than words last: the first stands back.
    let stands_back = |world: &World| world.codes(&world.first).contains(&"error other_ledger".to_owned());
    second.stop();
    second.start_again();
    second.wait_for(second.api, "/readyz");
    assert!(stands_back(&world) && world.words().len() == 1);
    world.etcd.kill();
    wait::until("the word of the second to lapse, as its lead does", || {
        second.output().contains("another control plane may lead now").then_some(())
    });
    world.etcd.start_again();
    wait::until("the second to lead again", || leader(&world).contains(&at).then_some(()));
    second.wait_for(second.api, "/readyz");
    world.suppress(&second, "still-gone@receiver.test");
    assert!(stands_back(&world) && world.words().len() == 1);

    second.stop();
    world.first.wait_for(world.first.api, "/readyz");
    wait::until("the first to lead", || leader(&world).contains(&world.first.api.to_string()).then_some(()));
    assert_eq!(world.codes(&world.first).iter().filter(|code| code.contains("other_ledger")).count(), 0);
    world.suppress(&world.first, "also-gone@receiver.test");
}

#[test]
fn an_outage_of_etcd_gives_the_region_to_nobody_else_and_data_planes_follow_the_suppressions_of_who_has_it() {
    let place = Place::new("ledgers-outage");
    let log = "info,postrail_control_plane::store::etcd::hold=debug";
    let options = ["--shards", "1", "--resolver", "127.0.0.1:9", "--log-level", log];
    let mut fleet = Fleet::start(&place, 1, &options);
    let key = std::fs::read(fleet.control.data.join("master.key")).expect("the master key");
    let rival = |fleet: &Fleet| Member::start(&place, &fleet.etcd, "two", "control-plane", Some(&key), &[]);
    let submitted = |fleet: &Fleet| fleet.hosts[0].submit(&fleet.username, &fleet.secret, "gone@receiver.test").0;
    let words = |fleet: &Fleet| {
        let found = fleet.etcd.control(&["get", "--prefix", "-w", "fields", "/postrail/main/ledgers//"]);
        let revisions = found.lines().filter(|line| line.contains("CreateRevision")).map(str::to_owned);
        revisions.collect::<Vec<_>>()
    };
    fleet.change("POST", "/v2/suppressions?tenant=default", &suppression("gone@receiver.test"));
    fleet.settle();
    assert_eq!(submitted(&fleet), 422);

    let word = words(&fleet);
    fleet.etcd.kill();
    wait::until("its word to lapse", || {
        let said = fleet.control.output();
        said.lines().any(|line| line.contains("key not held") && line.contains("/ledgers//")).then_some(())
    });
    fleet.etcd.start_again();
    let mut tries = 0;
    // As a service manager does, until the first has said its word anew and once more.
    while tries < 200 {
        tries += 1;
        let is_back = !words(&fleet).is_empty() && words(&fleet) != word;
        let mut second = rival(&fleet);
        let ended = second.child().wait(Duration::from_secs(30));
        assert_eq!(ended.and_then(|status| status.code()), Some(2), "{}", second.output());
        if is_back {
            break;
        }
    }
    assert!(words(&fleet).len() == 1 && words(&fleet) != word, "its word lapsed, and is back");
    fleet.control.wait_for(fleet.control.api, "/readyz");
    assert_eq!(submitted(&fleet), 422);

    // Where another does have it, data planes have its suppressions, and those of the first when that is over.
    fleet.control.child().signal(libc::SIGSTOP);
    wait::until("its word to lapse", || words(&fleet).is_empty().then_some(()));
    let mut second = rival(&fleet);
    second.wait_for(second.api, "/readyz");
    let said = second.output();
    assert!(said.contains("this fleet had another ledger last: it was in the data folder of control"), "{said}");
    wait::until("the suppressions of the second", || (submitted(&fleet) == 202).then_some(()));
    second.stop();
    fleet.control.child().signal(libc::SIGCONT);
    wait::until("the suppressions of the first again", || (submitted(&fleet) == 422).then_some(()));
}

/// Has whoever puts suppressions into the ledger wait until the table `gate` is empty.
fn close_gate(postgres: &Postgres) {
    for sql in [
        "CREATE TABLE public.gate AS SELECT 1 AS closed",
        "CREATE FUNCTION public.wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.02); END LOOP; RETURN NULL; END $$",
        "CREATE FUNCTION public.put_gate() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             IF to_regclass('postrail_ledger.suppressions') IS NOT NULL
                 AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'gate') THEN
                 CREATE TRIGGER gate BEFORE INSERT ON postrail_ledger.suppressions
                     FOR EACH STATEMENT EXECUTE FUNCTION public.wait_at_gate();
             END IF; END $$",
        "CREATE EVENT TRIGGER put_gate ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
             EXECUTE FUNCTION public.put_gate()",
    ] {
        postgres.ask(sql);
    }
}

#[test]
fn a_move_that_is_killed_half_way_and_at_its_end_goes_on_and_nothing_is_lost_or_doubled() {
    let place = Place::new("ledgers-move");
    let (postgres, file) = (Postgres::start(&place), password_file(&place));
    let url = postgres.url();
    let mut world = World::start(place, &[]);
    let addresses = ["gone0@receiver.test", "gone1@receiver.test", "gone2@receiver.test"];
    addresses.iter().for_each(|address| world.suppress(&world.first, address));
    let trail = |world: &World, member: &Member| {
        let (_, page) = world.ask(member, "GET", "/v2/audit", None);
        page["items"].as_array().cloned().unwrap_or_default()
    };
    let before = trail(&world, &world.first);
    assert!(before.len() >= 3);
    world.first.stop();

    let (etcd, data) = (world.etcd.url(), world.first.data.clone());
    let command = || {
        let mut command = Command::new(binary());
        command.args(["move-ledger", "--etcd", &etcd, "--ledger", &url, "--ledger-password-file", &file]);
        command.arg("--data").arg(&data);
        command
    };
    let log = world.place.join("move.log");
    let half_way = || {
        let moving = Running::start(&mut command(), &log);
        let asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        wait::until("the move to be half-way", || (postgres.ask(asked) == "1").then_some(()));
        moving
    };
    close_gate(&postgres);
    half_way().kill();
    let said = world.refused("two", &["--ledger", &url, "--ledger-password-file", &file]);
    assert!(said.contains("go on with `postrail move-ledger`"), "{said}");
    postgres.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");

    // At its end, while it waits for etcd.
    let mut moving = half_way();
    world.etcd.kill();
    postgres.ask("DELETE FROM public.gate");
    let asked = "SELECT format FROM postrail_ledger.head";
    wait::until("all to be moved", || (postgres.ask(asked) == "3").then_some(()));
    moving.kill();
    assert!(data.join("ledger.db").exists());
    world.etcd.start_again();
    let said = run(&mut command());
    assert!(said.contains("3 suppressions") && !said.contains("was not told"), "{said}");
    assert!(data.join("ledger.db.moved").exists() && !data.join("ledger.db").exists());

    let mut moved = world.further("one", &["--ledger", &url, "--ledger-password-file", &file]);
    moved.wait_for(moved.api, "/readyz");
    assert!(!moved.output().contains("had another ledger last"), "it waits for nothing");
    assert_eq!(world.suppressed(&moved), addresses);
    let after = trail(&world, &moved);
    assert_eq!(after[after.len() - before.len()..], before);
}
