//! Two tenants of a fleet have one domain name, in the middle of an upgrade and after it.
//!
//! What a host of an earlier version says of itself is put into etcd as such a host writes it, and so is the head of desired
//! state as a control plane of an earlier version left it: neither has a word about formats.

use postrail_tests::fleet::Fleet;
use postrail_tests::judge;
use postrail_tests::place::Place;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

use crate::durability::{ZONE, job};
use crate::operations_domains::{SENDER, dkim, record, zone};

struct World {
    fleet: Fleet,
    receiver: Receiver,
    names: NameServer,
    place: Place,
}

/// A tenant with a credential, named as it is.
struct Tenant {
    name: &'static str,
    secret: String,
}

/// A fleet that an earlier version made, with one host of this version and one that has not been upgraded.
fn world() -> World {
    let place = Place::new("fleet-claims");
    let names = NameServer::start(&place, &[ZONE, SENDER, ("prize.test.", "www A 127.0.0.1")]);
    let receiver = Receiver::local();
    let resolver = names.address().to_string();
    let fleet = Fleet::start(&place, 1, &["--resolver", &resolver, "--shards", "1"]);
    let route = json!({"domain": "*", "port": receiver.address().port(), "allow_private": true});
    fleet.change("POST", "/v2/routes", &route);
    let world = World { fleet, receiver, names, place };
    world.announce(None);
    let key = "/postrail/main/desired/head";
    let head = world.fleet.etcd.control(&["get", key, "--print-value-only"]);
    let mut head: Value = serde_json::from_str(&head).expect("the head of desired state");
    assert_eq!(head.as_object_mut().and_then(|head| head.remove("publishes_shared")), Some(json!(true)), "{head}");
    world.fleet.etcd.control(&["put", key, &head.to_string()]);
    world
}

impl World {
    /// What the other host says of itself: with `format`, or as earlier versions do.
    fn announce(&self, format: Option<u16>) {
        let mut host = json!({"id": 77, "admin": "http://127.0.0.1:9", "shards": 1, "version": "0.0.1"});
        if let Some(format) = format {
            host["snapshot_format"] = json!(format);
        }
        self.fleet.etcd.control(&["put", "/postrail/main/hosts/other", &host.to_string()]);
    }

    fn tenant(&self, name: &'static str) -> Tenant {
        self.fleet.change("POST", "/v2/tenants", &json!({"name": name}));
        let path = format!("/v2/credentials?tenant={name}");
        let made = self.fleet.change("POST", &path, &json!({"username": name}));
        Tenant { name, secret: made["secret"].as_str().expect("the secret is shown once").to_owned() }
    }

    /// The domain that a tenant adds.
    fn claim(&self, tenant: &Tenant) -> Value {
        let wanted = json!({"name": "prize.test"});
        let (status, made) = self.fleet.control.control(&tenant.secret, "POST", "/v2/domains", Some(&wanted));
        assert_eq!((status, &made["standing"]), (201, &json!("unproved")), "{made}");
        made
    }

    /// Checks a tenant's domain until `is_seen`, and gives what the tenant is told.
    fn checked(&self, tenant: &Tenant, what: &str, is_seen: impl Fn(&Value) -> bool) -> Value {
        wait::until_told(&format!("the domain of {} to be {what}", tenant.name), || {
            let path = "/v2/domains/prize.test/check";
            let (_, checked) = self.fleet.control.control(&tenant.secret, "POST", path, None);
            if is_seen(&checked) { Ok(checked) } else { Err(checked.to_string()) }
        })
    }

    fn submit(&self, tenant: &Tenant) -> (u16, Value) {
        let mut job = job("someone@receiver.test");
        job["mail"] = json!({"from": {"email": "a@prize.test"}, "mimeFrom": {"email": "a@prize.test"}});
        let request = reqwest::blocking::Client::new().post(format!("http://{}/v2/jobs", self.fleet.hosts[0].rest));
        let answer = request.basic_auth(tenant.name, Some(&tenant.secret)).json(&job).send();
        let answer = answer.expect("REST submission answers");
        (answer.status().as_u16(), answer.json().unwrap_or_default())
    }

    /// The mail of a tenant is taken, and arrives as the `n`th, signed by the keys of `domain`.
    fn sends(&self, tenant: &Tenant, domain: &Value, n: usize) {
        let (status, answer) = self.submit(tenant);
        assert_eq!(status, 202, "{} {answer}", tenant.name);
        let arrived = self.receiver.wait_for(n).remove(n - 1).content;
        judge::verified(&self.place, &arrived, &dkim(domain));
    }

    fn finding(&self, code: &str) -> Option<Value> {
        let problems = self.fleet.change("GET", "/v2/problems", &Value::Null);
        problems["items"].as_array().expect("a list of findings").iter().find(|one| one["code"] == code).cloned()
    }
}

#[test]
fn a_second_tenant_of_a_name_is_held_back_until_every_host_reads_it_and_then_both_send_by_keys_of_their_own() {
    let world = world();
    let (red, blue) = (world.tenant("red"), world.tenant("blue"));
    let (second, first) = (world.claim(&red), world.claim(&blue));
    world.names.replace("prize.test.", &zone(&first, &[]));
    world.checked(&blue, "verified", |checked| checked["standing"] == "verified");
    world.fleet.settle();
    world.sends(&blue, &first, 1);

    // Red, who asked for it before, proves it as well. It is told to wait, and of whom it is told nothing.
    world.names.replace("prize.test.", &format!("{}{}", zone(&first, &[]), zone(&second, &[])));
    let held = world.checked(&red, "proved", |checked| record(checked, "ownership")["check"]["state"] == "ok");
    assert_eq!((&held["standing"], &held["may_send"]), (&json!("unproved"), &json!(false)), "{held}");
    let told = &record(&held, "ownership")["check"];
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("once all servers")), "{told}");
    assert!(["blue", "tenant", "account"].iter().all(|word| !told.to_string().contains(word)), "{told}");
    world.fleet.settle();
    assert!([403, 422].contains(&world.submit(&red).0));
    // Blue sends as before: nobody takes the name from it.
    world.sends(&blue, &first, 2);
    // The operator is told of both, and of the host.
    let finding = world.finding("domain_not_published").expect("a finding");
    assert_eq!((&finding["severity"], &finding["subject"]), (&json!("warning"), &json!("domain/prize.test")));
    assert!(finding["detail"].as_str().is_some_and(|detail| detail.contains("(other would refuse it")), "{finding}");
    assert!(world.finding("domain_shared").is_some_and(|shared| shared["detail"].to_string().contains("(red, blue)")));
    let word = json!({"verification": "operator"});
    let path = "/v2/domains/prize.test?tenant=red";
    let (status, problem) = world.fleet.control.control(&world.fleet.token, "PATCH", path, Some(&word));
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("blue sends by")), "{problem}");

    // The other host is upgraded.
    world.announce(Some(5));
    wait::until("both domains to be published", || world.finding("domain_not_published").is_none().then_some(()));
    world.checked(&red, "verified", |checked| checked["standing"] == "verified");
    world.fleet.settle();
    world.sends(&red, &second, 3);
    world.sends(&blue, &first, 4);
}
