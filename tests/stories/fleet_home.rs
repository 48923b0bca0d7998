//! Suppressions of tenants without a region hold at the hosts of every region: the control planes without a region keep
//! them, and each region has a copy, which holds while these are away.

use postrail_tests::fleet::{Fleet, Member};
use postrail_tests::place::Place;
use postrail_tests::wait;
use serde_json::{Value, json};

const OPTIONS: [&str; 4] = ["--shards", "1", "--resolver", "127.0.0.1:9"];

struct World {
    place: Place,
    fleet: Fleet,
    key: Vec<u8>,
}

impl World {
    fn start(&self, name: &str, role: &str, region: &str) -> Member {
        let options = [&["--region", region][..], &OPTIONS].concat();
        Member::start(&self.place, &self.fleet.etcd, name, role, Some(&self.key), &options)
    }

    fn ask(&self, member: &Member, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        member.control(&self.fleet.token, method, path, body)
    }

    fn suppress(&self, member: &Member, address: &str) -> (u16, Value) {
        self.ask(member, "POST", "/v2/suppressions?tenant=default", Some(&json!({"address": address})))
    }

    /// What the host answers to a submission by the tenant without a region.
    fn submitted(&self, host: &Member, address: &str) -> u16 {
        host.submit(&self.fleet.username, &self.fleet.secret, address).0
    }

    fn until_submitted(&self, host: &Member, address: &str, status: u16) {
        wait::until(&format!("{status} for {address} at {}", host.name), || {
            (self.submitted(host, address) == status).then_some(())
        });
    }

    /// Severity and code of what a control plane finds.
    fn codes(&self, member: &Member) -> Vec<String> {
        let (_, page) = self.ask(member, "GET", "/v2/problems", None);
        let items = page["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|one| format!("{} {}", one["severity"], one["code"]).replace('"', "")).collect()
    }

    fn until_found(&self, member: &Member, code: &str, is_found: bool) {
        wait::until(&format!("{code} at {}: {is_found}", member.name), || {
            (self.codes(member).iter().any(|one| one == code) == is_found).then_some(())
        });
    }

    /// Waits until a host has the suppressions that are announced.
    fn until_here(host: &Member) {
        wait::until(&format!("{} to have its suppressions", host.name), || {
            let (status, text) = host.get(host.admin, "/readyz")?;
            (status == 200 && !text.contains("newer suppressions are not here yet")).then_some(())
        });
    }
}

#[test]
fn suppressions_of_a_tenant_without_a_region_hold_at_every_host_also_while_their_home_is_away() {
    let place = Place::new("home");
    let fleet = Fleet::start(&place, 1, &OPTIONS);
    let key = std::fs::read(fleet.control.data.join("master.key")).expect("the master key");
    let mut world = World { place, fleet, key };
    let home = &world.fleet.control;
    assert_eq!(world.suppress(home, "stop@receiver.test").0, 201);
    world.fleet.change("POST", "/v2/regions", &json!({"name": "eu", "submission_host": "mail.eu.sender.test"}));
    let mut control = world.start("control-eu", "control-plane", "eu");
    control.wait_for(control.api, "/readyz");
    let mut host = world.start("host-eu", "data-plane", "eu");
    host.wait_for(host.admin, "/readyz");
    World::until_here(&host);
    for at in [&world.fleet.hosts[0], &host] {
        assert_eq!(world.submitted(at, "stop@receiver.test"), 422, "{}", at.output());
        assert_eq!(world.submitted(at, "twice@receiver.test"), 202);
    }
    assert!(!world.codes(&control).iter().any(|code| code.contains("suppressions_")), "{:?}", world.codes(&control));

    // What is added and removed at home is so everywhere; elsewhere it is refused with the place.
    assert_eq!(world.suppress(home, "twice@receiver.test").0, 201);
    world.until_submitted(&host, "twice@receiver.test", 422);
    let path = "/v2/suppressions/twice@receiver.test?tenant=default";
    assert_eq!(world.ask(&control, "GET", path, None).0, 200, "it is told in the region");
    let refused = [world.ask(&control, "DELETE", path, None), world.suppress(&control, "more@receiver.test")];
    for (status, problem) in refused {
        assert_eq!((status, &problem["code"]), (403, &json!("wrong_region")), "{problem}");
        let (detail, place) = (problem["detail"].as_str().unwrap_or_default(), home.api.to_string());
        assert!(detail.ends_with(&place), "{problem}");
    }
    assert_eq!(world.ask(home, "DELETE", path, None).0, 204);
    world.until_submitted(&host, "twice@receiver.test", 202);

    // The home dies, and the region starts anew, with a host that never had a list.
    world.fleet.control.child().kill();
    control.stop();
    host.stop();
    control.start_again();
    control.wait_for(control.api, "/readyz");
    host.start_again();
    let mut further = world.start("further-eu", "data-plane", "eu");
    for at in [&mut host, &mut further] {
        at.wait_for(at.admin, "/readyz");
        World::until_here(at);
        assert_eq!(world.submitted(at, "stop@receiver.test"), 422, "{}", at.output());
    }
    world.until_found(&control, "warning suppressions_without_home", true);
    world.until_found(&control, "warning suppressions_not_mirrored", true);
    let (status, problem) = world.suppress(&control, "more@receiver.test");
    assert_eq!((status, &problem["code"]), (403, &json!("wrong_region")), "{problem}");
    // A region that never had them gives its hosts none, and says so, until the home is back.
    let mut elsewhere = world.start("control-us", "control-plane", "us");
    elsewhere.wait_for(elsewhere.api, "/readyz");
    world.until_found(&elsewhere, "error suppressions_not_mirrored", true);
    world.fleet.control.start_again();
    for at in [&control, &elsewhere] {
        world.until_found(at, "error suppressions_not_mirrored", false);
        world.until_found(at, "warning suppressions_not_mirrored", false);
    }
    let (_, page) = world.ask(&elsewhere, "GET", "/v2/suppressions?tenant=default", None);
    assert_eq!(page.pointer("/items/0/address"), Some(&json!("stop@receiver.test")), "{page}");
}
