//! Hosts of a fleet through the API: who has which address, and what operators order.

use std::time::Duration;

use postrail_schema::allocation::{Announcement, HostName, HostRecord, HostState, Order};

use super::*;
use crate::app::Hosts;
use crate::plan::allocation::{Observer, step};
use crate::reconcile::boottime;

/// A world with these hosts alive, and two addresses in the pool `default`.
pub(super) async fn fleet(names: &[&str]) -> World {
    let world = World::new();
    for last in [1, 2] {
        let body =
            json!({ "name": format!("s{last}"), "address": format!("192.0.2.{last}"), "ehlo_name": "a.example" });
        assert_eq!(world.operator("POST", "/v2/sources", body).await.0, 201);
    }
    let members = json!([{ "source": "s1" }, { "source": "s2" }]);
    assert_eq!(world.operator("PUT", "/v2/pools/default", json!({ "members": members })).await.0, 200);
    for name in names {
        speak(&world, name);
    }
    world
}

/// A host's first keepalive.
fn speak(world: &World, name: &str) {
    speak_in(world, name, None);
}

/// That of one in a region.
fn speak_in(world: &World, name: &str, region: Option<&str>) {
    let record = HostRecord {
        incarnation: 1,
        sequence: 1,
        lease_ms: 10_000,
        state: HostState::Live,
        released: Vec::new(),
        announcement: Announcement {
            region: region.map(str::to_owned),
            addresses_max: 9,
            share: 4,
            nics: ["eth0".to_owned()].into(),
            ..Announcement::default()
        },
        held: None,
    };
    world.allocation().keep_alive(&HostName::new(name).unwrap(), 0, &record).unwrap();
}

impl World {
    fn allocation(&self) -> &Hosts {
        self.app.allocation.as_ref().expect("a world has a fleet")
    }

    /// One step of the allocator at `now`.
    fn allocate(&self, now: Duration) {
        let reading = self.allocation().read(self.app.demands()).unwrap();
        let made = {
            let mut observer = self.allocation().observer();
            if observer.deadline(Duration::ZERO).is_none() {
                *observer = Observer::at(now);
            }
            reading.known.show(&mut observer, now);
            step(&reading.known.fleet(&observer, now), &reading.known.allocation)
        };
        self.allocation().write(&reading, &made).unwrap();
    }
}

#[tokio::test]
async fn hosts_are_listed_with_what_they_have_and_why() {
    let world = fleet(&["mx1", "mx2"]).await;
    world.allocate(boottime());
    let list = world.get("/v2/hosts").await;
    let words = |key: &str| list["items"].as_array().unwrap().iter().map(|host| host[key].clone()).collect::<Vec<_>>();
    assert_eq!(words("name"), [json!("mx1"), json!("mx2")]);
    assert_eq!(words("standing"), [json!("live"), json!("live")]);
    assert_eq!((words("addresses"), words("share")), (vec![json!(1); 2], vec![json!(4); 2]));
    let one = world.get("/v2/hosts/mx1").await;
    assert_eq!((&one["held"][0]["sources"], &one["held"][0]["tenure"]), (&json!(["s1"]), &json!("leased")));
    assert!(one["held"][0]["because"].as_str().unwrap().contains("the other host that may have it"), "{one}");
    assert_eq!(world.operator("GET", "/v2/hosts/mx9", Value::Null).await.0, 404);
    assert_eq!(world.operator("POST", "/v2/hosts/MX_9/drain", Value::Null).await.0, 404);
    let tenant = world.tenant("red").await;
    assert_eq!(world.call(&tenant, "GET", "/v2/hosts", Value::Null).await.0, 403);
    assert_eq!(world.call(&tenant, "POST", "/v2/hosts/mx1/drain", Value::Null).await.0, 403);
}

#[tokio::test]
async fn a_drain_asks_for_the_addresses_is_taken_back_by_resume_and_audited() {
    let world = fleet(&["mx1", "mx2"]).await;
    world.allocate(boottime());
    let (status, drained) = world.operator("POST", "/v2/hosts/mx1/drain", Value::Null).await;
    assert_eq!((status, &drained["standing"], &drained["order"]), (200, &json!("draining"), &json!("drain")));
    world.allocate(boottime());
    let leaving = world.get("/v2/hosts/mx1").await;
    let held = &leaving["held"][0];
    assert_eq!((&leaving["leaving"], &held["state"], &held["next"]), (&json!(1), &json!("releasing"), &json!("mx2")));
    assert!(held["because"].as_str().unwrap().contains("asked back for mx2"), "{held}");
    let (status, resumed) = world.operator("POST", "/v2/hosts/mx1/resume", Value::Null).await;
    assert_eq!((status, &resumed["standing"], &resumed["order"]), (200, &json!("live"), &Value::Null));
    let audit = world.get("/v2/audit").await;
    let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|record| record["action"].clone()).collect();
    assert_eq!(actions[..2], [json!("POST /v2/hosts/mx1/resume"), json!("POST /v2/hosts/mx1/drain")]);
}

#[tokio::test]
async fn only_a_host_that_is_gone_is_forgotten_and_its_addresses_pass_on() {
    let world = fleet(&["mx1", "mx2"]).await;
    world.allocate(boottime());
    let (status, problem) = world.operator("POST", "/v2/hosts/mx1/forget", Value::Null).await;
    assert_eq!(status, 409);
    assert!(problem["detail"].as_str().unwrap().contains("stop it first"), "{problem}");
    // Its last keepalive was seen long ago.
    let name = HostName::new("mx1").unwrap();
    let written = world.allocation().own(&name).unwrap().record.unwrap().0;
    let ago = boottime().saturating_sub(Duration::from_secs(60));
    {
        let mut observer = world.allocation().observer();
        observer.saw(ago, &name, 0, Duration::ZERO);
        observer.saw(ago, &name, written, Duration::from_secs(10));
    }
    assert_eq!(world.get("/v2/hosts/mx1").await["standing"], json!("gone"));
    let (status, forgotten) = world.operator("POST", "/v2/hosts/mx1/forget", Value::Null).await;
    assert_eq!((status, &forgotten["standing"]), (200, &json!("forgotten")));
    assert_eq!(world.operator("POST", "/v2/hosts/mx1/drain", Value::Null).await.0, 409);
    world.allocate(boottime());
    assert_eq!(world.get("/v2/hosts/mx1").await["addresses"], json!(0));
    assert_eq!(world.get("/v2/hosts/mx2").await["addresses"], json!(2));
}

#[tokio::test]
async fn whom_to_ask_of_a_host_of_another_region_is_told() {
    // This control plane is of the region eu.
    let world = fleet(&["mx1"]).await;
    speak_in(&world, "mx2", Some("eu"));
    speak_in(&world, "mx3", Some("us"));
    let lead = Write::Put { key: "election/leader/us".into(), value: b"https://10.2.0.1:8081".to_vec() };
    world.store.txn(&[], &[lead]).unwrap();
    let list = world.get("/v2/hosts").await;
    let elsewhere: Vec<_> = list["items"].as_array().unwrap().iter().map(|host| host["elsewhere"].clone()).collect();
    let us = json!({ "region": "us", "control_plane": "https://10.2.0.1:8081" });
    assert_eq!(elsewhere, [json!({ "region": "", "control_plane": null }), Value::Null, us.clone()]);
    assert_eq!(world.get("/v2/hosts/mx3").await["elsewhere"], us);
}

#[tokio::test]
async fn names_that_were_used_once_stop_nothing_are_told_of_and_can_be_forgotten() {
    let world = fleet(&["mx1"]).await;
    let near = async || {
        let problems = world.get("/v2/problems").await;
        let found = problems["items"].as_array().unwrap().iter().find(|one| one["code"] == "hosts_near_limit");
        found.map(|one| one["detail"].as_str().unwrap().to_owned())
    };
    let old = |from: usize, to: usize| {
        let record = world.allocation().own(&HostName::new("mx1").unwrap()).unwrap().record.unwrap().1;
        let value = serde_json::to_vec(&HostRecord { state: HostState::Stopped, ..record }).unwrap();
        for number in from..to {
            let key = format!("holding/old-{number}");
            world.store.txn(&[], &[Write::Put { key, value: value.clone() }]).unwrap();
        }
    };
    old(0, 200);
    world.allocate(boottime());
    assert_eq!(world.get("/v2/hosts/mx1").await["addresses"], json!(2), "they are no hosts that run");
    let (status, forgotten) = world.operator("POST", "/v2/hosts/old-0/forget", Value::Null).await;
    assert_eq!((status, &forgotten["standing"]), (200, &json!("forgotten")));
    assert_eq!(near().await, None);
    old(200, 900);
    let detail = near().await.expect("it is told");
    assert!(detail.contains("901 hosts") && detail.contains("1 of them"), "{detail}");
}

#[tokio::test]
async fn what_is_not_understood_of_a_host_is_named() {
    let world = fleet(&["mx1"]).await;
    world.store.txn(&[], &[Write::Put { key: "holding/mx2".into(), value: b"{}".to_vec() }]).unwrap();
    let (status, problem) = world.operator("GET", "/v2/hosts", Value::Null).await;
    assert_eq!((status, &problem["code"]), (500, &json!("hosts_unreadable")));
    assert!(problem["detail"].as_str().unwrap().contains("holding/mx2"), "{problem}");
}

#[tokio::test]
async fn an_address_and_a_pool_that_no_host_can_have_are_findings() {
    let world = fleet(&["mx1"]).await;
    for (no_source, why) in [
        ("224.0.0.1", "a group's address"),
        ("255.255.255.255", "reserved"),
        ("fe80::1", "of one link"),
        ("ff02::1", "a group's address"),
        ("::ffff:192.0.2.1", "write it as 192.0.2.1"),
    ] {
        let body = json!({ "name": "no", "address": no_source, "ehlo_name": "a.example" });
        let (status, refused) = world.operator("POST", "/v2/sources", body).await;
        assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/address")), "{refused}");
        assert!(refused.to_string().contains(why), "{refused}");
    }
    let body = json!({ "name": "far", "address": "192.0.2.9", "ehlo_name": "a.example", "capabilities": ["net-z"] });
    let pool = json!({ "name": "far", "members": [{ "source": "far" }] });
    // A plan tells of them before they are there.
    let mut document = world.get("/v2/state").await;
    for (kind, more) in [("sources", &body), ("pools", &pool)] {
        document[kind].as_array_mut().unwrap().push(more.clone());
    }
    let (status, plan) = world.operator("POST", "/v2/state/plan", document).await;
    let codes: Vec<_> = plan["problems"].as_array().unwrap().iter().map(|problem| &problem["code"]).collect();
    assert!(codes.contains(&&json!("pool_without_host")) && codes.contains(&&json!("address_without_host")), "{plan}");
    assert_eq!((status, &plan["applicable"]), (200, &json!(true)));
    assert_eq!(world.operator("POST", "/v2/sources", body).await.0, 201);
    assert_eq!(world.operator("POST", "/v2/pools", pool).await.0, 201);
    world.allocation().order(&HostName::new("mx9").unwrap(), Some(Order::Drain)).unwrap();
    let problems = world.get("/v2/problems").await;
    let found = |code: &str| {
        let found = problems["items"].as_array().unwrap().iter().find(|problem| problem["code"] == code);
        found.map(|problem| (problem["subject"].clone(), problem["detail"].as_str().unwrap().to_owned()))
    };
    let (subject, detail) = found("address_without_host").expect("the address is named");
    assert_eq!(subject, json!("address/192.0.2.9"));
    assert!(detail.contains("mx1 lacks the capability net-z"), "{detail}");
    assert_eq!(found("pool_without_host").map(|(subject, _)| subject), Some(json!("pool/far")));
}

#[tokio::test]
async fn a_pool_without_an_address_in_a_region_whose_hosts_take_its_mail_is_a_finding() {
    let world = fleet(&["mx1", "mx2"]).await;
    world.tenant("red").await;
    assert_eq!(world.operator("POST", "/v2/domains?tenant=red", json!({ "name": "red.example" })).await.0, 201);
    world.allocate(boottime());
    let found = async || {
        let problems = world.get("/v2/problems").await;
        let found = problems["items"].as_array().unwrap().iter().find(|one| one["code"] == "pool_not_on_host").cloned();
        found.map(|one| (one["subject"].clone(), one["detail"].as_str().unwrap().to_owned()))
    };
    assert_eq!(found().await, None, "each host has one of the two");
    assert_eq!(world.operator("PUT", "/v2/pools/default", json!({ "members": [{ "source": "s1" }] })).await.0, 200);
    assert_eq!(found().await, None, "what the other one takes goes to the host that has it");
    speak_in(&world, "mx3", Some("eu"));
    let (subject, detail) = found().await.expect("mail goes to hosts of its region alone");
    let with = if world.get("/v2/hosts/mx1").await["held"][0]["address"] == "192.0.2.1" { "mx1" } else { "mx2" };
    assert_eq!(subject, json!("pool/default"));
    assert!(detail.contains("is on mx3, nor") && detail.contains(&format!("at {with}")), "{detail}");
}

#[tokio::test]
async fn hosts_that_accept_mail_though_they_are_drained_since_no_other_of_the_region_would_are_findings() {
    let world = fleet(&["mx1", "mx2"]).await;
    speak_in(&world, "mx3", Some("eu"));
    let order = async |name: &str, order: &str| {
        let path = format!("/v2/hosts/{name}/{order}");
        assert_eq!(world.operator("POST", &path, Value::Null).await.0, 200);
    };
    let alone = async || {
        let problems = world.get("/v2/problems").await;
        let found = problems["items"].as_array().unwrap().iter().filter(|one| one["code"] == "region_drained");
        found.map(|one| one["subject"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    order("mx1", "drain").await;
    assert_eq!(alone().await, [""; 0], "mx2 takes its mail");
    order("mx2", "drain").await;
    assert_eq!(alone().await, ["host/mx1", "host/mx2"], "a host of another region does not");
    // Both addresses go to one of them, and stay there when it is drained again: it can send what it accepts.
    order("mx2", "resume").await;
    world.allocate(boottime());
    order("mx2", "drain").await;
    assert_eq!(world.get("/v2/hosts/mx1").await["standing"], "drained");
    assert_eq!(alone().await, ["host/mx2"]);
    order("mx3", "drain").await;
    assert_eq!(alone().await, ["host/mx2", "host/mx3"]);
}
