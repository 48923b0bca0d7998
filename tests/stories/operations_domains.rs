//! Sending domains prove themselves: against a real name server, what is published decides whether mail is taken.

use std::net::UdpSocket;
use std::time::Duration;

use postrail_tests::clock::Clock;
use postrail_tests::judge;
use postrail_tests::namespace::Namespace;
use postrail_tests::place::{Place, free_address};
use postrail_tests::postrail::Postrail;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::durability::{job, job_id};

struct World {
    postrail: Postrail,
    names: NameServer,
    receiver: Receiver,
    place: Place,
}

/// A tenant with a credential.
struct Tenant {
    username: String,
    secret: String,
}

pub(crate) const SENDER: (&str, &str) = ("sender.test.", "@ MX 10 mail\nmail A 127.0.0.1");
const RECEIVER: (&str, &str) = ("receiver.test.", "@ MX 10 mx\nmx A 127.0.0.1");

/// Postrail, called mail.sender.test, with these zones beside its own and the receiver's.
fn world(name: &str, zones: &[(&str, &str)]) -> World {
    world_in(Place::new(name), None, zones)
}

/// As [`world`], by the wall clock `clock`.
fn world_in(place: Place, clock: Option<&Clock>, zones: &[(&str, &str)]) -> World {
    let all = [&[SENDER, RECEIVER], zones].concat();
    let names = NameServer::start(&place, &all);
    let receiver = Receiver::local();
    let resolver = names.address().to_string();
    let options = ["--resolver", &resolver, "--shards", "1"];
    let postrail = match clock {
        Some(clock) => Postrail::start_by(clock, &place, &options),
        None => Postrail::start_with(&place, &options),
    };
    postrail.route("*", receiver.address().port());
    World { postrail, names, receiver, place }
}

impl World {
    fn tenant(&self, name: &str) -> Tenant {
        self.postrail.control_ok("POST", "/v2/tenants", Some(&json!({"name": name})));
        let path = format!("/v2/credentials?tenant={name}");
        let made = self.postrail.control_ok("POST", &path, Some(&json!({"username": format!("{name}-app")})));
        let secret = made["secret"].as_str().expect("the secret is shown once").to_owned();
        self.postrail.settled_configuration();
        Tenant { username: format!("{name}-app"), secret }
    }

    /// A request to the control API as a tenant.
    fn call(&self, tenant: &Tenant, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let method = method.parse().expect("an HTTP method");
        let mut request = Client::new().request(method, format!("http://{}{path}", self.postrail.api));
        request = request.basic_auth(&tenant.username, Some(&tenant.secret));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().expect("the control API answers");
        (response.status().as_u16(), response.json().unwrap_or_default())
    }

    fn submit(&self, tenant: &Tenant, from: &str) -> (u16, Value) {
        let mut job = job("someone@receiver.test");
        job["mail"] = json!({"from": {"email": from}, "mimeFrom": {"email": from}});
        let request = Client::new().post(format!("http://{}/v2/jobs", self.postrail.rest));
        let response = request.basic_auth(&tenant.username, Some(&tenant.secret)).json(&job).send();
        let response = response.expect("REST submission answers");
        (response.status().as_u16(), response.json().unwrap_or_default())
    }

    fn swaks(&self, tenant: &Tenant, from: &str) -> String {
        let port = self.postrail.smtp.port().to_string();
        let mut command = std::process::Command::new("swaks");
        command.args(["--server", "127.0.0.1", "--port", &port, "--tls", "--auth", "PLAIN"]);
        command.args(["--auth-user", &tenant.username, "--auth-password", &tenant.secret]);
        postrail_tests::child::try_run(command.args(["--from", from, "--to", "a@receiver.test"])).1
    }

    /// Checks a domain until it has that standing.
    fn checked(&self, domain: &str, standing: &str) -> Value {
        let path = format!("/v2/domains/{domain}/check");
        let checked = wait::until(&format!("{domain} to be {standing}"), || {
            let checked = self.postrail.control_ok("POST", &path, None);
            (checked["standing"] == standing).then_some(checked)
        });
        self.postrail.settled_configuration();
        checked
    }

    fn domain(&self, name: &str) -> Value {
        self.postrail.control_ok("GET", &format!("/v2/domains/{name}"), None)
    }

    /// Waits until a domain was looked at after `ms` without anybody asking, and gives it. Where the clock moved while the
    /// look before was about to end, that is a minute later.
    fn looked_at(&self, domain: &str, ms: u64) -> Value {
        wait::within(Duration::from_secs(90), &format!("{domain} to be looked at"), || {
            let shown = self.domain(domain);
            shown["checked_at_ms"].as_u64().is_some_and(|at| at > ms).then_some(shown)
        })
    }

    /// Checks a domain until the first record of that purpose is in that state, and gives what was found of it.
    fn record(&self, domain: &str, purpose: &str, state: &str) -> Value {
        let path = format!("/v2/domains/{domain}/check");
        wait::until(&format!("{purpose} of {domain} to be {state}"), || {
            let checked = self.postrail.control_ok("POST", &path, None);
            let check = record(&checked, purpose)["check"].clone();
            (check["state"] == state).then_some(check)
        })
    }
}

fn records(domain: &Value) -> &Vec<Value> {
    domain["dns_records"].as_array().expect("a list of records")
}

pub(crate) fn record<'a>(domain: &'a Value, purpose: &str) -> &'a Value {
    records(domain).iter().find(|record| record["purpose"] == purpose).expect("a record of that purpose")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The records of a domain as lines of its zone; `other` replaces the value of a purpose's records.
pub(crate) fn zone(domain: &Value, other: &[(&str, &str)]) -> String {
    let line = |record: &Value| {
        let instead = other.iter().find(|(purpose, _)| record["purpose"] == *purpose);
        let value = instead.map_or(text(record, "zone_value"), |(_, value)| value);
        format!("{}. {} {value}\n", text(record, "name"), text(record, "type"))
    };
    records(domain).iter().map(line).collect()
}

#[test]
fn a_domain_that_a_tenant_adds_sends_once_its_records_are_published() {
    let mut world = world("prove", &[("shop.test.", "www A 127.0.0.1")]);
    let shop = world.tenant("shop");
    let (status, made) = world.call(&shop, "POST", "/v2/domains", Some(&json!({"name": "shop.test"})));
    assert_eq!((status, &made["standing"], &made["may_send"]), (201, &json!("unproved"), &json!(false)), "{made}");
    world.postrail.settled_configuration();

    // Nothing is published: nothing is taken, and each refusal names the record.
    let transcript = world.swaks(&shop, "app@shop.test");
    assert!(transcript.contains("550 5.7.1") && transcript.contains("TXT _postrail.shop.test"), "{transcript}");
    let (status, refused) = world.submit(&shop, "app@shop.test");
    assert_eq!((status, text(&refused, "code")), (403, "domain_may_not_send"), "{refused}");
    assert!(text(&refused, "detail").ends_with("TXT _postrail.shop.test"), "{refused}");
    let missing = world.record("shop.test", "ownership", "missing");
    assert_eq!(text(&missing, "server"), world.names.address().to_string());
    assert!(text(&missing, "detail").contains("does not exist"), "{missing}");
    assert!(text(&missing, "advice").contains("postrail-verification="), "{missing}");

    // What was shown is pasted as it is.
    world.names.replace("shop.test.", &zone(&made, &[]));
    let proved = world.checked("shop.test", "verified");
    for record in records(&proved) {
        assert_eq!(record["check"]["state"], "ok", "{record}");
    }
    let id = job_id(&world.submit(&shop, "app@shop.test"));
    world.postrail.wait_for_state(&id, "delivered");
    assert!(world.swaks(&shop, "app@shop.test").contains("250 2.0.0"));
    world.receiver.wait_for(2);

    // Keys that are not ours: told in words, and borne for a while.
    world.names.replace("shop.test.", &zone(&made, &[("dkim", "\"v=DKIM1; k=rsa; p=QUJDREVG\"")]));
    let failing = world.checked("shop.test", "failing");
    assert_eq!(failing["may_send"], true);
    let check = &record(&failing, "dkim")["check"];
    assert_eq!((text(check, "state"), text(check, "found")), ("wrong", ""), "{check}");
    assert!(text(check, "detail").contains("another key than the one we sign with"), "{check}");
    assert!(check["found"][0].as_str().is_some_and(|found| found.contains("QUJDREVG")), "{check}");
    assert!(text(check, "advice").contains("r._domainkey.shop.test. TXT \"v=DKIM1"), "{check}");
    let id = job_id(&world.submit(&shop, "app@shop.test"));
    world.postrail.wait_for_state(&id, "delivered");
    let problems = world.postrail.control_ok("GET", "/v2/problems", None).to_string();
    assert!(problems.contains("domain_failing"), "{problems}");
    let audit = world.postrail.control_ok("GET", "/v2/audit?limit=1000", None).to_string();
    assert!(audit.contains("domain shop.test: verified to failing"), "{audit}");

    let (right, report) = world.postrail.cli(&["domain", "check", "shop.test"]);
    assert!(!right && report.contains("another key") && report.contains("failing, may send for now"), "{report}");
    let since = record(&failing, "dkim")["check"]["since_ms"].clone();
    world.postrail.kill_and_restart();
    let kept = world.postrail.control_ok("GET", "/v2/domains/shop.test", None);
    assert_eq!((&kept["standing"], &record(&kept, "dkim")["check"]["since_ms"]), (&json!("failing"), &since), "{kept}");

    world.names.replace("shop.test.", &zone(&made, &[]));
    world.checked("shop.test", "verified");
    let (right, report) = world.postrail.cli(&["domain", "check", "shop.test"]);
    assert!(right && report.contains("verified, may send"), "{report}");
    let (good, lines) = world.postrail.cli(&["domain", "records", "shop.test", "--zone"]);
    assert!(good && lines.contains("_dmarc.shop.test. IN TXT \"v=DMARC1; p=none\""), "{lines}");
}

#[test]
fn a_domain_is_looked_at_again_each_day_and_what_went_wrong_is_told_borne_and_healed_by_itself() {
    const HOUR: i64 = 3_600;
    let place = Place::new("daily");
    let clock = Clock::new(&place, "clock");
    let zones = [("shop.test.", "www A 127.0.0.1"), ("new.test.", "www A 127.0.0.1")];
    let mut world = world_in(place, Some(&clock), &zones);
    let shop = world.tenant("shop");
    let (status, made) = world.call(&shop, "POST", "/v2/domains", Some(&json!({"name": "shop.test"})));
    assert_eq!(status, 201, "{made}");
    let all = zone(&made, &[]);
    let without: String = all.split_inclusive('\n').filter(|line| !line.starts_with("_postrail.")).collect();
    world.names.replace("shop.test.", &all);
    let proved = world.checked("shop.test", "verified")["checked_at_ms"].as_u64().expect("it was looked at");
    // Of a domain that proves nothing yet it is looked every hour: it shows that looking goes on.
    world.postrail.control_ok("POST", "/v2/domains", Some(&json!({"name": "new.test", "verification": "dns"})));
    let after = |hours: i64| proved + hours.unsigned_abs() * 3_600_000;

    // Less than a day, over a restart: nobody looks, and so nobody knows.
    world.names.replace("shop.test.", &without);
    clock.set(18 * HOUR);
    world.looked_at("new.test", after(17));
    world.postrail.kill_and_restart();
    clock.set(20 * HOUR);
    world.looked_at("new.test", after(19));
    let unseen = world.domain("shop.test");
    assert_eq!((&unseen["checked_at_ms"], &unseen["standing"]), (&json!(proved), &json!("verified")), "{unseen}");

    // The day is over: it is seen, said, and borne.
    clock.set(24 * HOUR);
    let failing = world.looked_at("shop.test", after(23));
    assert_eq!((&failing["standing"], &failing["may_send"]), (&json!("failing"), &json!(true)), "{failing}");
    let check = &record(&failing, "ownership")["check"];
    assert_eq!(
        (text(check, "state"), text(check, "server")),
        ("missing", &*world.names.address().to_string()),
        "{check}"
    );
    assert!(text(check, "detail").contains("does not exist"), "{check}");
    assert!(text(check, "advice").contains("_postrail.shop.test. TXT \"postrail-verification="), "{check}");
    let problems = world.postrail.control_ok("GET", "/v2/problems", None).to_string();
    assert!(problems.contains("domain_failing") && problems.contains("domain/shop.test"), "{problems}");
    let audit = world.postrail.control_ok("GET", "/v2/audit?limit=1000", None).to_string();
    assert!(audit.contains("domain check") && audit.contains("domain shop.test: verified to failing"), "{audit}");
    world.postrail.settled_configuration();
    world.postrail.wait_for_state(&job_id(&world.submit(&shop, "app@shop.test")), "delivered");

    // Its owner finds out, and the next look heals it.
    world.names.replace("shop.test.", &all);
    clock.set(26 * HOUR);
    assert_eq!(world.looked_at("shop.test", after(25))["standing"], "verified");

    // Nobody finds out: five days it is borne, and no longer.
    world.names.replace("shop.test.", &without);
    for (hours, standing) in [(50, "failing"), (50 + 4 * 24, "failing"), (52 + 5 * 24, "lapsed")] {
        clock.set(hours * HOUR);
        let shown = world.looked_at("shop.test", after(hours - 1));
        assert_eq!(
            (text(&shown, "standing"), &shown["may_send"]),
            (standing, &json!(standing == "failing")),
            "{shown}"
        );
    }
    world.postrail.settled_configuration();
    let (status, refused) = world.submit(&shop, "app@shop.test");
    assert_eq!((status, text(&refused, "code")), (403, "domain_may_not_send"), "{refused}");
    assert!(text(&refused, "detail").contains("any more: its ownership record has been missing"), "{refused}");
    let problems = world.postrail.control_ok("GET", "/v2/problems", None).to_string();
    assert!(problems.contains("domain_lapsed") && !problems.contains("domain_failing"), "{problems}");

    // And with the record the next day's look lets it send again.
    world.names.replace("shop.test.", &all);
    clock.set((52 + 6 * 24) * HOUR);
    assert_eq!(world.looked_at("shop.test", after(51 + 6 * 24))["standing"], "verified");
    world.postrail.settled_configuration();
    world.postrail.wait_for_state(&job_id(&world.submit(&shop, "app@shop.test")), "delivered");
    world.receiver.wait_for(2);
}

#[test]
fn a_zone_that_cannot_be_asked_is_unreachable_and_one_that_is_wrong_is_wrong() {
    let includes: String = (1..=11).map(|n| format!(" include:i{n}.lookups.test")).collect();
    let included: String = (1..=11).map(|n| format!("i{n} TXT \"v=spf1 -all\"\n")).collect();
    let lookups = format!("@ TXT \"v=spf1{includes} a:mail.sender.test -all\"\n{included}");
    let zones = [
        ("lookups.test.", lookups.as_str()),
        ("two.test.", "@ TXT \"v=spf1 a:mail.sender.test -all\"\n@ TXT \"v=spf1 mx -all\""),
        // No zone file at all, so the server answers SERVFAIL.
        ("broken.test.", "@ NOSUCHTYPE value"),
    ];
    let world = world("findings", &zones);
    for name in ["lookups.test", "two.test", "broken.test", "elsewhere.test"] {
        world.postrail.control_ok("POST", "/v2/domains", Some(&json!({"name": name, "verification": "dns"})));
    }
    let lookups = world.record("lookups.test", "spf", "wrong");
    assert!(
        text(&lookups, "detail").contains("more than 10 DNS lookups (the one too many is include:i11"),
        "{lookups}"
    );
    let two = world.record("two.test", "spf", "wrong");
    assert!(text(&two, "detail").contains("there are 2 SPF records"), "{two}");
    assert!(text(&two, "advice").contains("v=spf1 a:mail.sender.test mx -all"), "{two}");
    for (name, words) in [("broken.test", "SERVFAIL"), ("elsewhere.test", "REFUSED")] {
        for purpose in ["ownership", "spf", "dkim", "dmarc"] {
            let check = world.record(name, purpose, "unreachable");
            assert!(text(&check, "detail").contains(words), "{name}: {check}");
            assert_eq!(text(&check, "server"), world.names.address().to_string());
        }
    }
    let settings = world.postrail.control_ok("PATCH", "/v2/settings", Some(&json!({"domain_verification": "dns"})));
    assert_eq!(settings["domain_verification"], "dns");
    let made = world.postrail.control_ok("POST", "/v2/domains", Some(&json!({"name": "later.test"})));
    assert_eq!(made["standing"], "unproved", "the operator's own domains too, where the settings say so");
}

#[test]
fn a_name_server_that_is_silent_holds_nothing_against_a_domain() {
    let place = Place::new("silent");
    let silent = UdpSocket::bind(free_address()).expect("a socket");
    let resolver = silent.local_addr().expect("an address").to_string();
    let postrail = Postrail::start_with(&place, &["--resolver", &resolver, "--shards", "1"]);
    let checked = postrail.control_ok("POST", "/v2/domains/sender.test/check", None);
    assert_eq!((&checked["standing"], &checked["may_send"]), (&json!("trusted"), &json!(true)));
    for record in records(&checked) {
        assert_eq!(record["check"]["state"], "unreachable", "{record}");
        assert!(text(&record["check"], "detail").contains("in time"), "{record}");
    }
}

#[test]
fn two_tenants_that_prove_one_domain_send_by_it_with_keys_of_their_own_and_neither_hears_of_the_other() {
    let world = world("shared", &[("prize.test.", "www A 127.0.0.1"), ("alone.test.", "www A 127.0.0.1")]);
    let (red, blue) = (world.tenant("red"), world.tenant("blue"));
    let check = |world: &World, tenant: &Tenant, name: &str| {
        world.call(tenant, "POST", &format!("/v2/domains/{name}/check"), None).1
    };
    let verified = |world: &World, tenant: &Tenant| {
        let proved = wait::until("the tenant to be verified", || {
            Some(check(world, tenant, "prize.test")).filter(|checked| checked["standing"] == "verified")
        });
        world.postrail.settled_configuration();
        proved
    };
    let (status, first) = world.call(&blue, "POST", "/v2/domains", Some(&json!({"name": "prize.test"})));
    assert_eq!(status, 201, "{first}");
    world.names.replace("prize.test.", &zone(&first, &[]));
    verified(&world, &blue);
    job_id(&world.submit(&blue, "a@prize.test"));
    let arrived = world.receiver.wait_for(1).remove(0).content;
    judge::verified(&world.place, &arrived, &dkim(&first));

    // Whoever adds it as well is answered as for a name that nobody has, and so is its mail.
    let made = ["prize.test", "alone.test"].map(|name| {
        let (status, made) = world.call(&red, "POST", "/v2/domains", Some(&json!({ "name": name })));
        assert_eq!((status, &made["standing"], &made["may_send"]), (201, &json!("unproved"), &json!(false)), "{made}");
        made
    });
    world.postrail.settled_configuration();
    let refused = ["prize.test", "alone.test"].map(|name| {
        let from = format!("a@{name}");
        let (status, problem) = world.submit(&red, &from);
        assert_eq!((status, text(&problem, "code")), (403, "domain_may_not_send"), "{problem}");
        let by_smtp = world.swaks(&red, &from);
        let replies: Vec<_> = by_smtp.lines().filter(|line| line.contains(" 550")).map(str::to_owned).collect();
        assert!(!replies.is_empty(), "{by_smtp}");
        (problem.to_string().replace(name, "NAME"), replies.concat().replace(name, "NAME"))
    });
    assert_eq!(refused[0], refused[1]);
    let shown = world.call(&red, "GET", "/v2/domains", None).1;
    assert_eq!(shown["items"].as_array().map(Vec::len), Some(2), "{shown}");

    // With its own text beside the other's, and its own keys, it sends too, and the other goes on.
    world.names.replace("prize.test.", &format!("{}{}", zone(&first, &[]), zone(&made[0], &[])));
    verified(&world, &red);
    verified(&world, &blue);
    for (at, (tenant, own)) in [(&red, &made[0]), (&blue, &first)].into_iter().enumerate() {
        job_id(&world.submit(tenant, "a@prize.test"));
        let arrived = world.receiver.wait_for(2 + at).remove(1 + at).content;
        judge::verified(&world.place, &arrived, &dkim(own));
    }
    let problems = world.postrail.control_ok("GET", "/v2/problems", None).to_string();
    assert!(problems.contains("2 tenants have it (blue, red)"), "{problems}");

    // Without its text it is the one that fails.
    world.names.replace("prize.test.", &zone(&made[0], &[]));
    wait::until("the first to fail", || (check(&world, &blue, "prize.test")["standing"] == "failing").then_some(()));
    assert_eq!(check(&world, &red, "prize.test")["standing"], "verified");
}

/// The key records of a domain, name to text.
pub(crate) fn dkim(domain: &Value) -> Value {
    let keys = records(domain).iter().filter(|record| record["purpose"] == "dkim");
    keys.map(|record| (text(record, "name").to_owned(), record["value"].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
fn a_secondary_that_is_stale_is_named_with_what_it_has_and_keeps_a_new_key_from_signing() {
    let addresses = Namespace::new();
    let (first, second) = (addresses.outside, addresses.second_outside());
    let servers = format!("@ NS one\n@ NS two\none A {first}\ntwo A {second}\n");
    let (place, other) = (Place::new("differ"), Place::new("differ-second"));
    let one = NameServer::start_at(&place, (first, 53).into(), &[SENDER, ("shop.test.", &servers)]);
    let two = NameServer::start_at(&other, (second, 53).into(), &[("shop.test.", &servers)]);
    let resolver = one.address().to_string();
    let postrail = Postrail::start_with(&place, &["--resolver", &resolver, "--shards", "1"]);
    let check = || postrail.control_ok("POST", "/v2/domains/shop.test/check", None);
    let dns = json!({"name": "shop.test", "verification": "dns", "dkim_keys": ["ed25519-sha256"]});
    let made = postrail.control_ok("POST", "/v2/domains", Some(&dns));
    let everything = |domain: &Value| format!("{servers}{}", zone(domain, &[]));
    one.replace("shop.test.", &everything(&made));

    // Our name server has it all, and the second one of the zone has nothing.
    let lacking = wait::until("the stale server to be named", || {
        let checked = check();
        let ownership = &record(&checked, "ownership")["check"];
        (ownership["state"] == "wrong").then(|| ownership.clone())
    });
    let named = format!("two.shop.test ({second})");
    assert!(text(&lacking, "detail").contains(&format!("{named} do not")), "{lacking}");
    two.replace("shop.test.", &everything(&made));
    wait::until("the domain to be verified", || (check()["standing"] == "verified").then_some(()));

    // A new key, of which the second server does not know yet.
    let rotated = postrail.control_ok("POST", "/v2/domains/shop.test/keys/rotate", Some(&json!({})));
    one.replace("shop.test.", &everything(&rotated));
    let (right, report) = wait::until("the first server's record to be seen", || {
        Some(postrail.cli(&["domain", "check", "shop.test"]))
            .filter(|(_, report)| report.contains("the zone's servers differ"))
    });
    assert!(right, "the key that signs is published everywhere: {report}");
    assert!(report.contains(&format!("server   {named}: has nothing there")), "{report}");
    assert!(report.contains(&format!("server   one.shop.test ({first}): has it")), "{report}");
    let keys = postrail.cli(&["domain", "key", "list", "shop.test"]).1;
    assert!(keys.contains("waiting") && keys.contains("signing"), "{keys}");
    two.replace("shop.test.", &everything(&rotated));
    wait::until("the new key to sign", || {
        let checked = check();
        let states: Vec<_> = checked["keys"].as_array().into_iter().flatten().map(|key| text(key, "state")).collect();
        (states == ["former", "signing"]).then_some(())
    });
}

#[test]
fn mail_of_a_domain_that_fails_waits_in_quarantine_until_a_person_decides() {
    let mut world = world("quarantine", &[("shop.test.", "www A 127.0.0.1")]);
    let shop = world.tenant("shop");
    let (set, text) = world.postrail.cli(&["tenant", "set", "shop", "--quarantine", "true"]);
    assert!(set && text.contains("quarantine"), "{text}");
    let (_, made) = world.call(&shop, "POST", "/v2/domains", Some(&json!({"name": "shop.test"})));
    world.names.replace("shop.test.", &zone(&made, &[]));
    world.checked("shop.test", "verified");
    let before = job_id(&world.submit(&shop, "app@shop.test"));
    world.postrail.wait_for_state(&before, "delivered");

    // It fails: what comes now is accepted, by both ways, and goes nowhere.
    world.names.replace("shop.test.", &zone(&made, &[("dkim", "\"v=DKIM1; k=rsa; p=QUJDREVG\"")]));
    world.checked("shop.test", "failing");
    let [by_rest, dropped] = [(); 2].map(|()| job_id(&world.submit(&shop, "app@shop.test")));
    let transcript = world.swaks(&shop, "app@shop.test");
    let by_smtp = Postrail::queued_as(&transcript);
    for job in [&by_rest, &dropped, &by_smtp] {
        let waiting = world.postrail.wait_for_state(job, "quarantined").swap_remove(0);
        assert_eq!((&waiting["settled"], &waiting["reason"]), (&json!(false), &json!("domain_failing")), "{waiting}");
    }
    let list = || world.postrail.cli(&["quarantine", "list", "--tenant", "shop"]).1;
    let listed = list();
    for job in [&by_rest, &dropped, &by_smtp] {
        assert!(listed.contains(job.as_str()) && listed.contains("failing"), "{listed}");
    }
    let queue = world.postrail.cli(&["queue"]).1;
    assert!(queue.contains("quarantined"), "{queue}");
    world.postrail.kill_and_restart();
    assert!(world.postrail.cli(&["queue", "retry", "--all"]).0);
    let list = || world.postrail.cli(&["quarantine", "list", "--tenant", "shop"]).1;
    wait::until("all of it to be read again", || {
        let listed = list();
        [&by_rest, &dropped, &by_smtp].iter().all(|job| listed.contains(job.as_str())).then_some(())
    });
    assert_eq!(world.receiver.arrived().len(), 1, "nothing of it was sent");

    let (released, text) = world.postrail.cli(&["quarantine", "release", &by_rest]);
    assert!(released, "{text}");
    world.postrail.wait_for_state(&by_rest, "delivered");
    let (done, text) = world.postrail.cli(&["quarantine", "drop", &dropped]);
    assert!(done, "{text}");
    let gone = world.postrail.wait_for_state(&dropped, "cancelled").swap_remove(0);
    assert_eq!(gone["reason"], "dropped_from_quarantine", "{gone}");
    assert!(!world.postrail.cli(&["quarantine", "drop", &before]).0, "what is not there cannot be dropped");

    // What is held stays held when the domain comes back; what comes then is sent at once.
    world.names.replace("shop.test.", &zone(&made, &[]));
    world.checked("shop.test", "verified");
    let after = job_id(&world.submit(&shop, "app@shop.test"));
    world.postrail.wait_for_state(&after, "delivered");
    assert!(list().contains(by_smtp.as_str()) && !list().contains(by_rest.as_str()), "{}", list());
    assert!(world.postrail.cli(&["quarantine", "release", &by_smtp]).0);
    world.postrail.wait_for_state(&by_smtp, "delivered");
    assert_eq!(world.receiver.arrived().len(), 4);
}
