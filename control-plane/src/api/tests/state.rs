//! Desired state as a document, and changes on condition.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postrail_schema::keys::{DESIRED, PENDING, STAGED};

use super::*;
use crate::store::suite::Etcd;
use crate::store::{Guard, Hold, Listing, StoreError, Watch};

impl World {
    async fn plan(&self, document: &Value) -> Value {
        let (status, plan) = self.operator("POST", "/v2/state/plan", document.clone()).await;
        assert_eq!(status, 200, "{plan}");
        plan
    }

    /// Plans and applies; the plan and the answer.
    pub(super) async fn apply(&self, document: &Value) -> (Value, Value) {
        let plan = self.plan(document).await;
        let tag = plan["etag"].as_str().unwrap();
        let (status, _, applied) = self.guarded("Bearer po_token", "PUT", "/v2/state", tag, document.clone()).await;
        assert_eq!(status, 200, "{applied}");
        (plan, applied)
    }

    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.list(prefix).unwrap().entries.into_iter().map(|entry| entry.key).collect()
    }
}

/// An installation on a store of each kind.
fn worlds() -> Vec<(Option<Etcd>, World)> {
    let etcd = Etcd::start(&[]);
    let store = Arc::new(etcd.store());
    vec![(None, World::new()), (Some(etcd), World::on(tempfile::tempdir().unwrap(), store))]
}

/// A resource of each kind at least, beside those of the first start.
pub(super) async fn fill(world: &World) {
    world.tenant("red").await;
    for (path, body) in [
        ("/v2/regions", json!({ "name": "eu", "submission_host": "mail.eu.example" })),
        ("/v2/operators", json!({ "name": "anna", "role": "viewer" })),
        ("/v2/sources", json!({ "name": "one", "address": "192.0.2.1", "ehlo_name": "one.sender.example" })),
        ("/v2/pools", json!({ "name": "reds", "tenant": "red", "members": [{ "source": "one", "weight": 3 }] })),
        ("/v2/domains?tenant=red", json!({ "name": "red.example", "pool": "reds", "dkim_keys": ["ed25519-sha256"] })),
        ("/v2/domains?tenant=red", json!({ "name": "plain.example", "dkim_keys": [], "verification": "dns" })),
        ("/v2/routes", json!({ "domain": "*", "routing_domain": "relay.example", "port": 2525 })),
        ("/v2/suspensions", json!({ "tenant": "red", "reason": "asked to" })),
        ("/v2/suspensions", json!({ "site": "slow.example", "reason": "their outage" })),
        (
            "/v2/retry-policies",
            json!({ "name": "slow", "match": { "tenant": "red" }, "first_delay_s": 300, "factor_percent": 150, "longest_delay_s": 14_400 }),
        ),
        ("/v2/routing-rules", json!({ "name": "reds", "match": { "tenant": "red" }, "pool": "reds" })),
        (
            "/v2/tls-rules",
            json!({ "name": "bank", "match": { "recipient_domain": "bank.example" }, "level": "verified", "hosts": [".bank.example"] }),
        ),
        ("/v2/providers", json!({ "name": "google", "hosts": [".google.com", "mx.partner.example"] })),
        (
            "/v2/shaping-rules",
            json!({ "name": "google", "match": { "provider": "google", "pool": "reds" }, "connections": 5,
                "mails_per_connection": 50, "connection_rate": "100/min" }),
        ),
        (
            "/v2/shaping-rules",
            json!({ "name": "sale", "mail_rate": "10000/h", "match": { "tenant": "red", "campaign": "sale",
                "class": "marketing", "recipient_domain": "gmail.com", "site": ".google.com", "source": "one" } }),
        ),
        (
            "/v2/listeners",
            json!({ "name": "submission", "protocol": "smtp", "address": "0.0.0.0:587", "hosts": ["mx1"], "tls": "required",
                "certificate": "mail.example", "networks": ["192.0.2.0/24"], "connections": 100, "idle_s": 60 }),
        ),
    ] {
        let (status, answer) = world.operator("POST", path, body).await;
        assert_eq!(status, 201, "{path}: {answer}");
    }
    let change = json!({ "spf_include": "_spf.sender.example" });
    assert_eq!(world.operator("PATCH", "/v2/settings", change).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_applied_to_an_empty_installation_exports_the_same() {
    let full = World::new();
    fill(&full).await;
    let export = full.get("/v2/state?secrets=true").await;
    for (_etcd, empty) in worlds() {
        let before = empty.latest().revision;
        let (plan, applied) = empty.apply(&export).await;
        assert_eq!((&plan["added"], &plan["removed"]), (&json!(18), &json!(0)), "{plan}");
        // Beside what was given: this store has given some itself.
        let but_given = |mut document: Value| {
            document["numbers"]["given"] = Value::Null;
            document
        };
        assert_eq!(but_given(empty.get("/v2/state?secrets=true").await), but_given(export.clone()));
        assert_eq!((empty.latest().revision.0, &applied["revision"]), (before.0 + 1, &json!(before.0 + 1)));
        let key =
            |world: &World| world.latest().domains.iter().find(|d| d.name == "red.example").unwrap().keys[0].clone();
        assert_eq!(key(&empty).sealed_private_key, key(&full).sealed_private_key);
        // The same again is nothing, and no revision.
        let (plan, applied) = empty.apply(&export).await;
        assert_eq!((&plan["changes"], &applied["revision"]), (&json!([]), &json!(before.0 + 1)));
        let audit = empty.get("/v2/audit").await;
        let told = &audit["items"].as_array().unwrap().iter().rfind(|told| told["action"] == "PUT /v2/state").unwrap()
            ["detail"];
        let is_red = |change: &Value| change["kind"] == "tenant" && change["name"] == "red";
        assert!(told["changes"].as_array().unwrap().iter().any(is_red), "{audit}");
        assert_eq!((&told["revision"], &told["left_out"]), (&json!(2), &Value::Null), "{audit}");
    }
}

#[tokio::test]
async fn an_export_without_secrets_has_none_and_its_application_keeps_them() {
    let world = World::new();
    fill(&world).await;
    let (plain, before) = (world.get("/v2/state").await, world.latest());
    let text = plain.to_string();
    assert!(!text.contains("argon2id") && !text.contains("sealed"), "{text}");
    let mut edited = plain.clone();
    edited["tenants"][0]["weight"] = json!(4);
    edited["tenants"].as_array_mut().unwrap().push(json!({ "name": "blue" }));
    edited["credentials"].as_array_mut().unwrap().push(json!({ "username": "blue-app", "tenant": "blue" }));
    edited["domains"].as_array_mut().unwrap().push(json!({ "name": "blue.example", "tenant": "blue" }));
    edited["routes"] = json!([]);
    edited.as_object_mut().unwrap().remove("suspensions");
    let (plan, _) = world.apply(&edited).await;
    let lines: Vec<_> = plan["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| {
            format!(
                "{} {} {}",
                change["action"].as_str().unwrap(),
                change["kind"].as_str().unwrap(),
                change["name"].as_str().unwrap()
            )
        })
        .collect();
    let wanted = [
        "added tenant blue",
        "changed tenant default",
        "added credential blue-app",
        "added domain blue.example of blue",
        "removed route *",
    ];
    assert_eq!(lines, wanted);
    assert_eq!(plan["changes"][1]["fields"], json!([{ "field": "weight", "from": 1, "to": 4 }]));
    let after = world.latest();
    assert_eq!(after.suspensions, before.suspensions, "a kind that is not spoken of stays");
    assert_eq!(after.domains[..before.domains.len()], before.domains[..], "keys stay");
    assert_eq!(after.credentials[..2], before.credentials[..], "secrets stay");
    assert_eq!(after.credentials[2].secret_hashes, [""; 0]);
    assert_eq!(after.domains.last().unwrap().keys.len(), 2, "keys are made");
    assert_eq!(after.revision.0, before.revision.0 + 1);
}

#[tokio::test]
async fn an_erroneous_document_is_told_by_pointers_and_changes_nothing() {
    let world = World::new();
    let before = world.get("/v2/state?secrets=true").await;
    let table = [
        (json!({ "tenants": [{ "name": "a", "wieght": 1 }] }), "unknown_field", "/tenants/0/wieght"),
        (json!({ "tenant": [] }), "unknown_field", "/tenant"),
        (json!({ "tenants": [{ "name": "A b" }] }), "invalid", "/tenants/0/name"),
        (json!({ "tenants": [{ "name": "a" }, { "name": "a" }] }), "invalid", "/tenants/1/name"),
        (json!({ "tenants": [{ "name": "a", "weight": 0 }] }), "invalid", "/tenants/0/weight"),
        (json!({ "credentials": [{ "username": "a", "tenant": "nobody" }] }), "invalid", "/credentials/0/tenant"),
        (
            json!({ "tenants": [{ "name": "default" }, { "name": "a" }],
                    "credentials": [{ "username": "default", "tenant": "a" }] }),
            "invalid",
            "/credentials/0/tenant",
        ),
        (
            json!({ "credentials": [{ "username": "a", "tenant": "default", "secret_hashes": ["plain"] }] }),
            "invalid",
            "/credentials/0/secret_hashes/0",
        ),
        (
            json!({ "pools": [{ "name": "default", "members": [{ "source": "x" }] }] }),
            "invalid",
            "/pools/0/members/0/source",
        ),
        (json!({ "domains": [{ "name": "co.uk", "tenant": "default" }] }), "invalid", "/domains/0/name"),
        (json!({ "routes": [{ "domain": "a.example", "port": 0 }] }), "invalid", "/routes/0/port"),
        (json!({ "suspensions": [{ "reason": "" }] }), "invalid", "/suspensions/0"),
        (json!({ "suspensions": [{ "site": "a,b c", "reason": "" }] }), "invalid", "/suspensions/0/site"),
        (
            json!({ "domains": [{ "name": "a.example", "tenant": "default", "sealed_keys": [
            { "selector": "s", "algorithm": "ed25519-sha256", "public_key": "AAAA", "sealed_private_key": "AAAA" }] }] }),
            "invalid",
            "/domains/0/sealed_keys/0/sealed_private_key",
        ),
    ];
    for (document, code, pointer) in table {
        for (method, path) in [("POST", "/v2/state/plan"), ("PUT", "/v2/state")] {
            let (status, _, problem) = world.guarded("Bearer po_token", method, path, "*", document.clone()).await;
            assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{document}: {problem}");
            assert_eq!(problem["errors"][0]["code"], code, "{problem}");
        }
    }
    // What can be read, and does not hold together: its findings are the plan's, and it is not applied.
    let broken = json!({ "pools": [{ "name": "default", "members": [] }] });
    let plan = world.plan(&broken).await;
    assert_eq!((&plan["applicable"], &plan["changed"]), (&json!(false), &json!(1)));
    let (status, _, problem) = world.guarded("Bearer po_token", "PUT", "/v2/state", "*", broken).await;
    assert_eq!((status, &problem["errors"][0]["code"]), (409, &json!("pool_empty")), "{problem}");
    assert_eq!(world.get("/v2/state?secrets=true").await, before);
    assert_eq!(world.latest().revision, Revision(1));
}

#[tokio::test]
async fn a_plan_on_a_past_state_is_refused_with_what_it_would_change_now() {
    let world = World::new();
    let document = json!({ "tenants": [{ "name": "default", "weight": 5 }] });
    let plan = world.plan(&document).await;
    world.tenant("red").await;
    let tag = plan["etag"].as_str().unwrap();
    let (status, now, problem) = world.guarded("Bearer po_token", "PUT", "/v2/state", tag, document.clone()).await;
    assert_eq!((status, &problem["code"]), (412, &json!("stale")));
    let lines: Vec<_> = problem["difference"].as_array().unwrap().iter().map(|change| &change["name"]).collect();
    assert_eq!(lines, ["default", "red", "red-app"], "{problem}");
    assert_eq!(now, world.plan(&document).await["etag"]);
    assert_eq!(world.get("/v2/tenants/default").await["weight"], 1);
    // Without If-Match nobody knows what was planned on.
    let (status, _, problem) = world.guarded("Bearer po_token", "PUT", "/v2/state", "", document).await;
    assert_eq!((status, &problem["code"]), (428, &json!("if_match_required")));
    // What is no configuration does not make a plan stale.
    let plan = world.plan(&json!({})).await;
    let suppression = json!({ "address": "a@b.example" });
    assert_eq!(world.operator("POST", "/v2/suppressions", suppression).await.0, 201);
    assert_eq!(world.plan(&json!({})).await["etag"], plan["etag"]);
}

#[tokio::test]
async fn a_tenant_cannot_read_or_write_the_whole_state() {
    let world = World::new();
    let red = world.tenant("red").await;
    for (method, path) in [("GET", "/v2/state"), ("POST", "/v2/state/plan"), ("PUT", "/v2/state")] {
        assert_eq!(world.guarded(&red, method, path, "*", json!({})).await.0, 403, "{method} {path}");
    }
}

/// Path, method and body of a change, and the fields in which it differs.
type Change = (&'static str, &'static str, Value, Value);

/// A change to each of what [`fill`] made.
pub(super) fn changes() -> Vec<Change> {
    [changes_of_records(), changes_of_rules()].concat()
}

fn changes_of_records() -> Vec<Change> {
    vec![
        ("/v2/tenants/red", "PATCH", json!({ "weight": 7 }), json!([{ "field": "weight", "from": 1, "to": 7 }])),
        (
            "/v2/domains/red.example",
            "PATCH",
            json!({ "pool": null }),
            json!([{ "field": "pool", "from": "reds", "to": null }]),
        ),
        (
            "/v2/credentials/red-app",
            "PATCH",
            json!({ "disabled": true }),
            json!([{ "field": "disabled", "from": false, "to": true }]),
        ),
        (
            "/v2/sources/one",
            "PUT",
            json!({ "address": "192.0.2.9", "ehlo_name": "one.sender.example" }),
            json!([{ "field": "address", "from": "192.0.2.1", "to": "192.0.2.9" }]),
        ),
        (
            "/v2/pools/reds",
            "PUT",
            json!({ "tenant": "red", "members": [{ "source": "one", "weight": 4 }] }),
            json!([{ "field": "members", "from": [{ "source": "one", "weight": 3 }], "to": [{ "source": "one", "weight": 4 }] }]),
        ),
        (
            "/v2/settings",
            "PATCH",
            json!({ "spf_include": null }),
            json!([{ "field": "spf_include", "from": "_spf.sender.example", "to": null }]),
        ),
        (
            "/v2/suppressions/a@b.example",
            "PUT",
            json!({ "reason": "bounced" }),
            json!([{ "field": "reason", "from": "asked", "to": "bounced" }]),
        ),
    ]
}

fn changes_of_rules() -> Vec<Change> {
    vec![
        (
            "/v2/providers/google",
            "PUT",
            json!({ "hosts": [".google.com"] }),
            json!([{ "field": "hosts", "from": [".google.com", "mx.partner.example"], "to": [".google.com"] }]),
        ),
        (
            "/v2/shaping-rules/google",
            "PUT",
            json!({ "match": { "provider": "google", "pool": "reds" }, "mails_per_connection": 50, "connection_rate": "100/min" }),
            json!([{ "field": "connections", "from": 5, "to": null }]),
        ),
        (
            "/v2/listeners/submission",
            "PUT",
            json!({ "protocol": "smtp", "address": "0.0.0.0:587", "hosts": ["mx1"], "tls": "required",
                "certificate": "mail.example", "networks": ["192.0.2.0/24"], "connections": 100, "idle_s": 30 }),
            json!([{ "field": "idle_s", "from": 60, "to": 30 }]),
        ),
        (
            "/v2/regions/eu",
            "PUT",
            json!({ "submission_host": "mx.eu.example" }),
            json!([{ "field": "submission_host", "from": "mail.eu.example", "to": "mx.eu.example" }]),
        ),
        (
            "/v2/operators/anna",
            "PATCH",
            json!({ "role": "operator" }),
            json!([{ "field": "role", "from": "viewer", "to": "operator" }]),
        ),
        (
            "/v2/retry-policies/slow",
            "PUT",
            json!({ "match": { "tenant": "red" }, "first_delay_s": 600, "factor_percent": 150, "longest_delay_s": 14_400 }),
            json!([{ "field": "first_delay_s", "from": 300, "to": 600 }]),
        ),
        (
            "/v2/routing-rules/reds",
            "PUT",
            json!({ "match": { "tenant": "red" }, "pool": "default" }),
            json!([{ "field": "pool", "from": "reds", "to": "default" }]),
        ),
        (
            "/v2/tls-rules/bank",
            "PUT",
            json!({ "match": { "recipient_domain": "bank.example" }, "level": "verified", "hosts": ["mx.bank.example"] }),
            json!([{ "field": "hosts", "from": [".bank.example"], "to": ["mx.bank.example"] }]),
        ),
    ]
}

/// What [`fill`] made, in an order in which it can be removed.
pub(super) fn removals() -> Vec<&'static str> {
    vec![
        "/v2/suppressions/a@b.example",
        "/v2/suspensions/1",
        "/v2/listeners/submission",
        "/v2/shaping-rules/google",
        "/v2/shaping-rules/sale",
        "/v2/providers/google",
        "/v2/retry-policies/slow",
        "/v2/routing-rules/reds",
        "/v2/tls-rules/bank",
        "/v2/domains/red.example",
        "/v2/domains/plain.example",
        "/v2/pools/reds",
        "/v2/sources/one",
        "/v2/credentials/red-app",
        "/v2/routes/*",
        "/v2/operators/anna",
        "/v2/regions/eu",
        "/v2/tenants/red",
    ]
}

/// The kinds of desired state, by the list that documents have, with their paths.
pub(super) async fn kinds(world: &World) -> Vec<(String, String)> {
    let document = world.get("/v2/state").await;
    let kinds = document.as_object().unwrap().keys();
    kinds.map(|kind| (kind.clone(), format!("/v2/{}", kind.replace('_', "-")))).collect()
}

#[tokio::test]
async fn no_kind_of_desired_state_is_missing_from_what_is_made_changed_and_removed_here() {
    let (empty, world) = (World::new(), World::new());
    fill(&world).await;
    let (before, after) = (empty.get("/v2/state").await, world.get("/v2/state").await);
    let kinds = kinds(&world).await;
    assert_eq!(kinds.len(), 16, "{kinds:?}");
    for (kind, path) in kinds {
        assert_ne!(before[&kind], after[&kind], "fill() makes no {kind}");
        let is_of = |changed: &str| changed == path || changed.starts_with(&format!("{path}/"));
        let removable = removals().into_iter().find(|removed| is_of(removed));
        assert!(removable.is_some() || kind == "settings", "removals() has no {kind}");
        let is_changed = changes().iter().any(|(changed, ..)| is_of(changed));
        if let (false, Some(made)) = (is_changed, removable) {
            for method in ["PUT", "PATCH"] {
                let (status, _) = world.operator(method, made, json!({})).await;
                assert_eq!(status, 405, "changes() has no {kind}, and {method} {made} changes one");
            }
        }
    }
}

#[tokio::test]
async fn every_change_is_made_only_of_what_was_read_and_a_stale_one_shows_the_difference() {
    let world = World::new();
    fill(&world).await;
    let suppression = json!({ "address": "a@b.example", "reason": "asked" });
    assert_eq!(world.operator("POST", "/v2/suppressions", suppression).await.0, 201);
    let table = changes();
    for (path, method, body, difference) in table {
        let stale = format!("\"{:032x}\"", 7);
        let (status, now, problem) = world.guarded("Bearer po_token", method, path, &stale, body.clone()).await;
        assert_eq!((status, &problem["code"]), (412, &json!("stale")), "{path}: {problem}");
        assert_eq!(problem["difference"][0]["fields"], difference, "{path}");
        let (_, tag, _) = world.guarded("Bearer po_token", "GET", path, "", Value::Null).await;
        assert_eq!(tag, now, "{path}");
        let (status, next, answer) = world.guarded("Bearer po_token", method, path, &tag, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        let (_, read, _) = world.guarded("Bearer po_token", "GET", path, "", Value::Null).await;
        assert!(next != tag && read == next, "{path}: another tag, and the one that is read");
    }
    for path in removals() {
        let (status, now, problem) = world.guarded("Bearer po_token", "DELETE", path, "\"0\"", Value::Null).await;
        assert_eq!((status, &problem["difference"][0]["action"]), (412, &json!("removed")), "{path}: {problem}");
        if path != "/v2/tenants/red" {
            let (status, _, problem) = world.guarded("Bearer po_token", "DELETE", path, &now, Value::Null).await;
            assert_eq!(status, 204, "{path}: {problem}");
        }
    }
}

#[tokio::test]
async fn a_key_that_dns_does_not_have_is_a_finding_of_the_plan_until_it_goes() {
    let world = World::new();
    let record = |state: &str| {
        json!({ "purpose": "dkim", "name": "pr1r._domainkey.sender.example", "state": state,
        "found": [], "server": null, "detail": "", "advice": "", "since_ms": 1 })
    };
    let check = |state: &str| json!({ "checked_at_ms": 1, "standing": "trusted", "standing_since_ms": 1, "records": [record(state)] });
    for (state, wanted) in
        [("ok", None), ("missing", Some("key_not_in_dns")), ("wrong", Some("key_not_as_in_dns")), ("unreachable", None)]
    {
        let value = check(state).to_string().into_bytes();
        world.store.txn(&[], &[Write::Put { key: "checks/1".into(), value }]).unwrap();
        let code = |list: &Value| {
            list.as_array()
                .unwrap()
                .iter()
                .find(|problem| problem["subject"] == "domain/sender.example")
                .map(|problem| problem["code"].as_str().unwrap().to_owned())
        };
        assert_eq!(code(&world.get("/v2/problems").await["items"]).as_deref(), wanted, "{state}");
        // What is so before is counted, and not told again.
        let plan = world.plan(&json!({})).await;
        let known = (&plan["problems"], &plan["problems_before"]);
        assert_eq!(known, (&json!([]), &json!(1 + usize::from(wanted.is_some()))), "{state}");
        assert_eq!(plan["applicable"], true);
        // The key that the check was about is not in this plan.
        let without =
            json!({ "domains": [{ "name": "sender.example", "tenant": "default", "dkim_keys": ["ed25519-sha256"] }] });
        assert_eq!(code(&world.plan(&without).await["problems"]), None, "{state}");
    }
}

/// 10,000 tenants beside the first.
fn ten_thousand() -> Value {
    let tenants = (0..10_000).map(|n| json!({ "name": format!("tenant-{n:05}"), "weight": 1 + n % 9 }));
    json!({ "tenants": tenants.chain([json!({ "name": "default" })]).collect::<Vec<_>>() })
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tenants_come_and_go_in_one_revision_each() {
    for (_etcd, world) in worlds() {
        let document = ten_thousand();
        let begun = Instant::now();
        let (plan, applied) = world.apply(&document).await;
        let took = begun.elapsed();
        assert_eq!((&plan["added"], &applied["revision"]), (&json!(10_000), &json!(2)));
        assert!(took < Duration::from_secs(60), "it took {took:?} in a debug build");
        assert_eq!((world.latest().tenants.len(), world.keys("desired/tenants/").len()), (10_001, 10_001));
        assert_eq!((world.keys(PENDING), world.keys(STAGED)), (Vec::<String>::new(), Vec::new()));
        let other = open(world._folder.path(), &world.store);
        assert_eq!(*other.desired(), *world.app.desired());
        let (plan, _) = world.apply(&json!({ "tenants": [{ "name": "default" }] })).await;
        assert_eq!(plan["removed"], 10_000);
        assert_eq!((world.latest().revision, world.latest().tenants.len()), (Revision(3), 1));
        println!("10,000 tenants planned and applied in {took:.1?}");
    }
}

/// A store whose process ends, so to say, before a large change is at its places.
pub(super) struct Mortal {
    pub(super) store: Arc<dyn ConfigStore>,
    pub(super) is_dead: AtomicBool,
}

impl ConfigStore for Mortal {
    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.store.list(prefix)
    }

    fn list_keys(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.store.list_keys(prefix)
    }

    fn get(&self, keys: &[String]) -> Result<Listing, StoreError> {
        self.store.get(keys)
    }

    fn txn(&self, guards: &[Guard], writes: &[Write]) -> Result<u64, StoreError> {
        let finishes = guards.iter().any(|guard| guard.key == PENDING && guard.revision > 0);
        let first_places = writes.iter().any(|write| write.key() == "desired/tenants/2");
        // The first of the transactions to the places is made, the others are not.
        if finishes && !first_places || self.is_dead.load(Ordering::Relaxed) {
            self.is_dead.store(true, Ordering::Relaxed);
            return Err(StoreError::Timeout { act: "dying" });
        }
        self.store.txn(guards, writes)
    }

    fn within(&self, patience: Duration) -> Arc<dyn ConfigStore> {
        self.store.within(patience)
    }

    fn watch(&self, prefix: &str, after: u64) -> Watch {
        self.store.watch(prefix, after)
    }

    fn hold(&self, key: &str, value: &[u8], ttl: Duration) -> Hold {
        self.store.hold(key, value, ttl)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_change_whose_control_plane_dies_is_whole_for_others_and_finished_by_the_next_change() {
    let folder = tempfile::tempdir().unwrap();
    let sound: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
    let mortal = Arc::new(Mortal { store: Arc::clone(&sound), is_dead: AtomicBool::new(false) });
    let world = World::on(folder, Arc::clone(&mortal) as Arc<dyn ConfigStore>);
    let (_, applied) = world.apply(&ten_thousand()).await;
    assert_eq!(applied["revision"], 2);
    assert!(mortal.is_dead.load(Ordering::Relaxed) && world.keys(PENDING).len() == 1);
    assert!(world.keys("desired/tenants/").len() < 1_000, "most are not at their places");

    let next = open(world._folder.path(), &sound);
    assert_eq!(*next.desired(), *world.app.desired(), "it is whole for who reads");
    next.change_tenant(
        "tenant-00001",
        &crate::app::TenantChange { weight: Some(77), ..Default::default() },
        &Default::default(),
    )
    .unwrap();
    assert_eq!((world.keys(PENDING), world.keys(STAGED)), (Vec::<String>::new(), Vec::new()));
    let read = crate::plan::Desired::from_entries(&sound.list(DESIRED).unwrap().entries).unwrap();
    assert_eq!((&read, read.tenant("tenant-00001").unwrap().weight), (&*next.desired(), 77));

    // The first process, were it only late, does not write its change over the later one.
    mortal.is_dead.store(false, Ordering::Relaxed);
    let reloaded = world.operator("PATCH", "/v2/tenants/default", json!({ "weight": 3 })).await;
    assert_eq!(reloaded.0, 200, "{}", reloaded.1);
    let read = crate::plan::Desired::from_entries(&sound.list(DESIRED).unwrap().entries).unwrap();
    assert_eq!((read.tenant("tenant-00001").unwrap().weight, read.tenant("default").unwrap().weight), (77, 3));
}

#[tokio::test]
async fn a_plan_leaves_no_record_and_tells_of_a_region_that_nobody_serves() {
    let world = World::new();
    let records = |audit: &Value| audit["items"].as_array().unwrap().len();
    let before = records(&world.get("/v2/audit").await);
    let region = json!({ "name": "eu", "submission_host": "mail.eu.example" });
    let tenants = json!([{ "name": "default" }, { "name": "blue", "region": "eu" }]);
    let plan = world.plan(&json!({ "regions": [region], "tenants": tenants })).await;
    let found = plan["problems"].as_array().unwrap().iter().find(|problem| problem["code"] == "region_without_host");
    assert_eq!(found.unwrap()["subject"], "region/eu", "{plan}");
    assert_eq!(plan["applicable"], true, "a warning keeps nobody from it");
    assert_eq!(records(&world.get("/v2/audit").await), before);
}
