//! Regions: one etcd, a control plane and a data plane of each of two regions, a tenant in each. Each is served in its own
//! region alone, is told elsewhere where to go, and leaves nothing on a disk of the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrail_tests::child::try_run;
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::Member;
use postrail_tests::place::{Place, free_address};
use postrail_tests::postgres::Postgres;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

use crate::durability::ZONE;
use crate::ledger_postgresql::password_file;

/// What files are looked through by, octets.
const BLOCK: usize = 4_096;

/// A region of the fleet, with its tenant.
struct Region {
    name: &'static str,
    control: Member,
    host: Member,
    tenant: &'static str,
    domain: &'static str,
    username: &'static str,
    secret: String,
}

impl Region {
    /// Where its tenant submits, as other regions say.
    fn submission_host(&self) -> String {
        format!("mail.{}.sender.test", self.name)
    }

    /// Submits a mail of `of`'s tenant by REST at this region's host: status, the header that names a host, and body.
    fn submit(&self, of: &Self, secret: &str, to: &str) -> (u16, String, Value) {
        let job = json!({
            "subject": {"content": format!("Only for {}", of.name)},
            "body": {"contentType": "text/plain", "content": format!("Written in {}.", of.name)},
            "recipients": [{"mail": {"to": [{"email": to}]}}],
            "mail": {"from": {"email": format!("hello@{}", of.domain)}},
        });
        let request = reqwest::blocking::Client::new().post(format!("http://{}/v2/jobs", self.host.rest));
        let answer = request.basic_auth(of.username, Some(secret)).json(&job).send().expect("REST answers");
        let named = answer.headers().get("x-postrail-submission-host").and_then(|value| value.to_str().ok());
        let (status, named) = (answer.status().as_u16(), named.unwrap_or_default().to_owned());
        (status, named, answer.json().unwrap_or_default())
    }

    /// The same by SMTP: swaks' transcript, and whether it succeeded.
    fn swaks(&self, of: &Self, secret: &str, to: &str) -> (bool, String) {
        let mut command = Command::new("swaks");
        let (address, port) = (self.host.smtp.ip().to_string(), self.host.smtp.port().to_string());
        command.args(["--server", &address, "--port", &port, "--auth", "PLAIN", "--auth-user", of.username]);
        command.args(["--auth-password", secret, "--from", &format!("hello@{}", of.domain), "--to", to]);
        let (status, text) = try_run(&mut command);
        (status.success(), text)
    }

    /// What the tenant adds by itself.
    fn second_domain(&self) -> String {
        format!("geheim-{}.example", self.name)
    }

    fn is_delivered(&self, token: &str, job: &str) -> bool {
        let path = format!("/v2/jobs/{job}/recipients");
        let (status, answer) = self.control.control(token, "GET", &path, None);
        status == 200 && answer["items"].as_array().is_some_and(|all| all.iter().all(|one| one["state"] == "delivered"))
    }
}

struct World {
    regions: [Region; 2],
    token: String,
    etcd: Etcd,
    receiver: Receiver,
    place: Place,
    _names: NameServer,
}

fn world(name: &str) -> World {
    world_on(Place::new(name), |_| Vec::new())
}

/// With further options of each region's control plane.
fn world_on(place: Place, further: impl Fn(&str) -> Vec<String>) -> World {
    let (etcd, names, receiver) = (Etcd::start(&place), NameServer::start(&place, &[ZONE]), Receiver::local());
    let resolver = names.address().to_string();
    let mut key = None;
    let mut start = |region: &str, role: &str| {
        let further = if role == "control-plane" { further(region) } else { Vec::new() };
        let mut options = vec!["--region", region, "--resolver", &resolver, "--shards", "1"];
        options.extend(further.iter().map(String::as_str));
        let name = format!("{role}-{region}");
        let mut member = Member::start(&place, &etcd, &name, role, key.as_deref(), &options);
        let at = if role == "data-plane" { member.admin } else { member.api };
        member.wait_for(at, "/readyz");
        key.get_or_insert_with(|| std::fs::read(member.data.join("master.key")).expect("the first one makes it"));
        member
    };
    let controls = ["eu", "us"].map(|region| start(region, "control-plane"));
    let hosts = ["eu", "us"].map(|region| start(region, "data-plane"));
    let token = std::fs::read_to_string(controls[0].data.join("operator.token")).expect("the operator's token");
    let token = token.trim().to_owned();
    // Changes are made where the tenant is: who asks for one leaves a trace in the audit trail.
    let change = |at: usize, method: &str, path: &str, body: Value| {
        let (status, answer) = controls[at].control(&token, method, path, Some(&body));
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    };
    change(0, "POST", "/v2/routes", json!({"domain": "*", "port": receiver.address().port(), "allow_private": true}));
    let tenants = [("eu", "loja-azul", "azul.test", "azul-app"), ("us", "big-store", "bigstore.test", "bigstore-app")];
    let secrets = tenants.map(|(region, tenant, domain, username)| {
        let change = |path: &str, body| change(usize::from(region == "us"), "POST", path, body);
        let submission_host = format!("mail.{region}.sender.test");
        change("/v2/regions", json!({"name": region, "submission_host": submission_host}));
        change("/v2/tenants", json!({"name": tenant, "region": region}));
        change(&format!("/v2/domains?tenant={tenant}"), json!({"name": domain}));
        let made = change(&format!("/v2/credentials?tenant={tenant}"), json!({"username": username}));
        made["secret"].as_str().expect("the secret is shown once").to_owned()
    });
    let mut parts = controls.into_iter().zip(hosts).zip(tenants).zip(secrets);
    let regions = std::array::from_fn(|_| {
        let (((control, host), (name, tenant, domain, username)), secret) = parts.next().expect("two regions");
        Region { name, control, host, tenant, domain, username, secret }
    });
    let world = World { regions, token, etcd, receiver, place, _names: names };
    world.settle();
    world
}

impl World {
    /// Waits until both hosts work under what is published.
    fn settle(&self) {
        wait::until("both hosts to have the published revision", || {
            let published = self.regions[0].control.published()?;
            let is_there = |region: &Region| region.host.revisions().is_some_and(|all| all == [published]);
            self.regions.iter().all(is_there).then_some(())
        });
    }

    /// Every file of a region: of its data plane, of its control plane with the ledger, and what both have printed.
    fn files(&self, region: &Region) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for member in [&region.control, &region.host] {
            files.push(self.place.join(&format!("{}.log", member.name)));
            collect(&member.data, &mut files);
        }
        files
    }

    /// What is a tenant's own, by what it is: as it stands in etcd, and as its mail had it.
    fn traces(&self, region: &Region, to: &str) -> BTreeMap<&'static str, Vec<u8>> {
        let values = self.etcd.control(&["get", "--prefix", "/postrail/main/desired/", "--print-value-only"]);
        let records: Vec<Value> = values.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let named = |field: &str, name: &str| {
            let found = records.iter().find(|record| record[field] == name);
            found.unwrap_or_else(|| panic!("{name} is in etcd:\n{values}")).clone()
        };
        let domain = named("name", region.domain);
        let credential = named("username", region.username);
        let text = |value: &Value| value.as_str().expect("a text").as_bytes().to_vec();
        let sealed = STANDARD.decode(text(&domain["keys"][0]["sealed_private_key"])).expect("base64");
        BTreeMap::from([
            ("tenant", region.tenant.into()),
            ("domain", region.domain.into()),
            ("domain that the tenant adds", region.second_domain().into()),
            ("username", region.username.into()),
            ("hash of the secret", text(&credential["secret_hashes"][0])),
            ("sealed DKIM key", sealed),
            ("public DKIM key", text(&domain["keys"][0]["public_key"])),
            ("recipient", to.into()),
            ("suppressed address", format!("gone-{}@receiver.test", region.name).into_bytes()),
            ("content", format!("Written in {}.", region.name).into_bytes()),
        ])
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder can be read").flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

/// What is in files, without the blocks that nothing was written to.
fn contents(files: &[PathBuf]) -> Vec<(&PathBuf, Vec<u8>)> {
    let written = |content: &[u8]| -> Vec<u8> {
        let blocks = content.chunks(BLOCK).filter(|block| block.iter().any(|octet| *octet != 0));
        blocks.flatten().copied().collect()
    };
    files.iter().map(|path| (path, written(&std::fs::read(path).unwrap_or_default()))).collect()
}

/// The files that have those octets.
fn having<'a>(files: &[(&'a PathBuf, Vec<u8>)], octets: &[u8]) -> Vec<&'a PathBuf> {
    let has = |content: &[u8]| content.windows(octets.len()).any(|window| window == octets);
    files.iter().filter(|(_, content)| has(content)).map(|(path, _)| *path).collect()
}

/// The region's tenant adds a domain of its own where it is, with everything that belongs to one; and asks the control plane
/// of the other region for the same, which refuses all of it.
fn asks_in_the_wrong_region(region: &Region, elsewhere: &Region) {
    let domain = region.second_domain();
    let paths = [
        ("POST", "/v2/domains".to_owned()),
        ("POST", format!("/v2/domains/{domain}/check")),
        ("POST", format!("/v2/domains/{domain}/keys/rotate")),
        ("GET", format!("/v2/domains/{domain}")),
        ("GET", "/v2/domains".to_owned()),
        ("GET", format!("/v2/tenants/{}", region.tenant)),
        ("GET", format!("/v2/credentials/{}", region.username)),
        ("GET", "/v2/pools".to_owned()),
        ("POST", "/v2/suppressions".to_owned()),
        ("DELETE", format!("/v2/domains/{domain}")),
    ];
    let place = region.control.api.to_string();
    for (method, path) in &paths {
        let body = match path.as_str() {
            "/v2/domains" => json!({"name": domain}),
            "/v2/suppressions" => json!({"address": format!("gone-{}@receiver.test", region.name)}),
            _ => json!({}),
        };
        let body = (*method == "POST").then_some(&body);
        let (status, problem) = elsewhere.control.control(&region.secret, method, path, body);
        assert_eq!((status, &problem["code"]), (403, &json!("wrong_region")), "{method} {path}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.ends_with(&place)), "{method} {path}: {problem}");
        // Where it is right, the same is served.
        let (status, answer) = region.control.control(&region.secret, method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    }
}

/// What a region must not have, it has not; and the walk finds it where it must be.
fn walk(world: &World, sent: [&str; 2]) {
    for (at, other) in [(0, 1), (1, 0)] {
        let (region, elsewhere) = (&world.regions[at], &world.regions[other]);
        let (own, foreign) = (world.files(region), world.files(elsewhere));
        let (own, foreign) = (contents(&own), contents(&foreign));
        let mut secrets = world.traces(region, sent[at]);
        for (what, octets) in &secrets {
            assert!(!having(&own, octets).is_empty(), "the walk finds the {what} in region {}", region.name);
        }
        secrets.insert("secret", region.secret.clone().into_bytes());
        for (what, octets) in &secrets {
            let found = having(&foreign, octets);
            assert!(found.is_empty(), "the {what} of region {} is elsewhere: {found:?}", region.name);
        }
        println!(
            "region {}: {} files have all of it, {} files elsewhere nothing",
            region.name,
            own.len(),
            foreign.len()
        );
    }
}

#[test]
fn a_tenant_is_served_in_its_region_and_leaves_nothing_elsewhere() {
    let mut world = world("regions");
    let token = world.token.clone();
    let to = ["so-privat@receiver.test", "very-private@receiver.test"];
    for (at, other) in [(0, 1), (1, 0)] {
        let (region, elsewhere) = (&world.regions[at], &world.regions[other]);
        // Suppressions are in the ledger of the tenant's region, and nowhere else.
        let path = format!("/v2/suppressions?tenant={}", region.tenant);
        let gone = json!({"address": format!("gone-{}@receiver.test", region.name)});
        assert_eq!(region.control.control(&token, "POST", &path, Some(&gone)).0, 201);
        asks_in_the_wrong_region(region, elsewhere);
        world.settle();
        let (status, _, answer) = region.submit(region, &region.secret, &format!("gone-{}@receiver.test", region.name));
        assert_eq!(status, 422, "{answer}");

        let (status, _, answer) = region.submit(region, &region.secret, to[at]);
        assert_eq!(status, 202, "{answer}");
        let job = answer.pointer("/meta/jobId").and_then(Value::as_str).expect("the job has an id").to_owned();
        wait::until("the region's ledger to have it as delivered", || region.is_delivered(&token, &job).then_some(()));
        assert_eq!(elsewhere.control.control(&token, "GET", &format!("/v2/jobs/{job}"), None).0, 404);
        let (taken, transcript) = region.swaks(region, &region.secret, to[at]);
        assert!(taken, "{transcript}");

        // Whoever has the secret is told where to go; whoever has not learns nothing.
        let (status, named, answer) = elsewhere.submit(region, &region.secret, to[at]);
        assert_eq!(
            (status, named, &answer["code"]),
            (403, region.submission_host(), &json!("wrong_region")),
            "{answer}"
        );
        let (taken, transcript) = elsewhere.swaks(region, &region.secret, to[at]);
        let reply = format!(
            "535 5.7.1 This account is served in region {} alone: submit at {}",
            region.name,
            region.submission_host()
        );
        assert!(!taken && transcript.contains(&reply), "{transcript}");
        let guess = format!("{}x", &region.secret[..region.secret.len() - 1]);
        let (status, named, answer) = elsewhere.submit(region, &guess, to[at]);
        assert_eq!((status, named.as_str()), (401, ""), "{answer}");
        let (_, transcript) = elsewhere.swaks(region, &guess, to[at]);
        assert!(transcript.contains("535 5.7.8") && !transcript.contains(&region.submission_host()), "{transcript}");
    }
    world.receiver.wait_for(4);
    walk(&world, to);

    // The same without etcd, by what each has kept.
    world.etcd.kill();
    for region in &mut world.regions {
        region.host.child().kill();
        region.host.start_again();
        region.host.wait_for(region.host.admin, "/readyz");
    }
    let [eu, us] = &world.regions;
    assert_eq!(us.submit(eu, &eu.secret, to[0]).1, eu.submission_host());
    assert_eq!(eu.submit(us, &us.secret, to[1]).1, us.submission_host());
    assert_eq!(eu.submit(eu, &eu.secret, to[0]).0, 202);
    world.receiver.wait_for(5);
    world.etcd.start_again();
    walk(&world, to);
}

#[test]
fn events_of_a_tenant_are_in_the_database_of_its_region_alone() {
    let place = Place::new("regions-databases");
    let databases =
        ["eu", "us"].map(|region| Postgres::start_as(&place, &format!("postgresql-{region}"), free_address()));
    let file = password_file(&place);
    let ledger = |at: usize| ["--ledger", &databases[at].url(), "--ledger-password-file", &file].map(str::to_owned);
    let world = world_on(place, |region| ledger(usize::from(region == "us")).to_vec());
    let to = ["so-privat@receiver.test", "very-private@receiver.test"];
    for (region, to) in world.regions.iter().zip(to) {
        let gone = json!({"address": format!("gone-{}@receiver.test", region.name)});
        let path = format!("/v2/suppressions?tenant={}", region.tenant);
        assert_eq!(region.control.control(&world.token, "POST", &path, Some(&gone)).0, 201);
        let elsewhere = world.regions.iter().find(|other| other.name != region.name).expect("two regions");
        asks_in_the_wrong_region(region, elsewhere);
        let (status, _, answer) = region.submit(region, &region.secret, to);
        assert_eq!(status, 202, "{answer}");
        let job = answer.pointer("/meta/jobId").and_then(Value::as_str).expect("the job has an id");
        wait::until("the region's ledger to have it as delivered", || {
            region.is_delivered(&world.token, job).then_some(())
        });
    }
    // What psql would show: text as it is, and events as the octets that the data plane wrote.
    let hex = |text: &str| text.bytes().map(|octet| format!("{octet:02x}")).collect::<String>();
    let dumps = databases.each_ref().map(Postgres::dump);
    let has = |dump: &str, text: &str| dump.contains(text) || dump.contains(&hex(text));
    for (at, other) in [(0, 1), (1, 0)] {
        let region = &world.regions[at];
        let events = "SELECT sum(count) FROM postrail_ledger.events";
        assert_eq!(databases[at].ask(events), "2", "accepted and delivered, of one mail");
        let gone = format!("gone-{}@receiver.test", region.name);
        let names = [region.tenant, region.username, region.domain].map(str::to_owned);
        for trace in [to[at].to_owned(), gone, region.second_domain()].into_iter().chain(names) {
            assert!(has(&dumps[at], &trace), "{trace} is in the database of region {}", region.name);
            assert!(!has(&dumps[other], &trace), "{trace} is in the database of another region");
        }
    }
    walk(&world, to);
    // Nor can a control plane of one region be given the database of the other by mistake.
    let key = std::fs::read(world.regions[0].control.data.join("master.key")).expect("the master key");
    let wrong = ledger(1);
    let mut options = vec!["--region", "eu", "--shards", "1"];
    options.extend(wrong.iter().map(String::as_str));
    let mut second = Member::start(&world.place, &world.etcd, "second-eu", "control-plane", Some(&key), &options);
    let ended = second.child().wait(Duration::from_secs(60));
    assert_eq!(ended.and_then(|status| status.code()), Some(2), "{}", second.output());
    assert!(second.output().contains("belongs to another installation"), "{}", second.output());
}

#[test]
fn a_host_keeps_its_region_and_a_region_without_one_is_told() {
    let mut world = world("regions-moved");
    let token = world.token.clone();
    let codes = |world: &World| -> Vec<String> {
        let (_, problems) = world.regions[0].control.control(&token, "GET", "/v2/problems", None);
        let items = problems["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|one| format!("{} {}", one["code"], one["subject"]).replace('"', "")).collect()
    };
    let found = codes(&world);
    assert!(found.contains(&"tenant_without_region tenant/".to_owned()), "{found:?}");
    assert!(!found.iter().any(|one| one.starts_with("region_without")), "{found:?}");
    // What would be stored in the ledger of the wrong region is refused, with the place to ask.
    let gone = json!({"address": "gone@receiver.test"});
    let path = "/v2/suppressions?tenant=loja-azul";
    let (status, problem) = world.regions[1].control.control(&token, "POST", path, Some(&gone));
    assert_eq!((status, &problem["code"]), (403, &json!("wrong_region")), "{problem}");
    let place = world.regions[0].control.api.to_string();
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains(&place)), "{problem}");
    // Nor does what is looked for there seem not to be.
    for path in ["/v2/events?tenant=loja-azul", "/v2/suppressions?tenant=loja-azul"] {
        let (status, problem) = world.regions[1].control.control(&token, "GET", path, None);
        assert_eq!((status, &problem["code"]), (403, &json!("wrong_region")), "{path}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains(&place)), "{problem}");
    }
    world.regions[0].host.stop();
    wait::until("the region to be told as one without a host", || {
        codes(&world).contains(&"region_without_host region/eu".to_owned()).then_some(())
    });
    world.regions[1].control.stop();
    wait::until("the region to be told as one without a control plane", || {
        codes(&world).contains(&"region_without_control_plane region/us".to_owned()).then_some(())
    });
    // Its folder holds mail and keys of one region: it does not start for another.
    let name = world.regions[0].host.name.clone();
    let options = ["--region", "us", "--shards", "1"];
    let mut moved = Member::start(&world.place, &world.etcd, &name, "data-plane", None, &options);
    let ended = moved.child().wait(Duration::from_secs(30));
    assert_eq!(ended.and_then(|status| status.code()), Some(2), "{}", moved.output());
    assert!(moved.output().contains("has what belongs to region eu"), "{}", moved.output());

    // A region stays what it is while somebody is in it, and a tenant stays where it is.
    let control = &world.regions[0].control;
    assert_eq!(control.control(&token, "DELETE", "/v2/regions/eu", None).0, 409);
    let (status, problem) = control.control(&token, "PATCH", "/v2/tenants/loja-azul", Some(&json!({"region": "us"})));
    assert!(status == 422 || status == 400, "{status} {problem}");
    let unknown = json!({"name": "nowhere", "region": "mars"});
    let (status, problem) = control.control(&token, "POST", "/v2/tenants", Some(&unknown));
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/region")), "{problem}");
}
