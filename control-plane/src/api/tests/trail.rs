//! What the audit trail says of changes: every kind of resource, what differs of it, and no secret.

use super::state::{changes, fill, kinds, removals};
use super::*;

impl World {
    /// The records of the audit trail, oldest first.
    async fn trail(&self) -> Vec<Value> {
        let mut trail = self.get("/v2/audit?limit=1000").await["items"].as_array().unwrap().clone();
        trail.reverse();
        trail
    }

    /// The newest record.
    async fn last_act(&self) -> Value {
        self.trail().await.pop().unwrap()
    }
}

/// Such as `tls_rule` of `tls_rules`.
fn singular(kind: &str) -> String {
    match kind.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None if kind == "settings" => kind.to_owned(),
        None => kind.trim_end_matches('s').to_owned(),
    }
}

#[tokio::test]
async fn the_audit_trail_says_of_every_kind_what_was_made_changed_and_removed() {
    let world = World::new();
    fill(&world).await;
    let suppression = json!({ "address": "a@b.example", "reason": "asked" });
    assert_eq!(world.operator("POST", "/v2/suppressions", suppression).await.0, 201);
    for (path, method, body, difference) in changes() {
        let revision = world.latest().revision.0;
        assert_eq!(world.operator(method, path, body).await.0, 200, "{path}");
        let told = world.last_act().await;
        assert_eq!((&told["action"], &told["status"]), (&json!(format!("{method} {path}")), &json!(200)), "{told}");
        let change = &told["detail"]["changes"][0];
        assert_eq!((&change["action"], &change["fields"]), (&json!("changed"), &difference), "{told}");
        let is_ledgers = path.starts_with("/v2/suppressions/");
        let wanted = if is_ledgers { Value::Null } else { json!(revision + 1) };
        assert_eq!(told["detail"]["revision"], wanted, "{told}");
    }
    for path in removals() {
        assert_eq!(world.operator("DELETE", path, Value::Null).await.0, 204, "{path}");
        let told = world.last_act().await;
        assert_eq!(told["detail"]["changes"][0]["action"], "removed", "{told}");
    }
    let trail = world.trail().await;
    let changes: Vec<_> =
        trail.iter().flat_map(|told| told["detail"]["changes"].as_array().cloned().unwrap_or_default()).collect();
    let was =
        |kind: &str, action: &str| changes.iter().any(|change| change["kind"] == kind && change["action"] == action);
    for kind in kinds(&world).await.into_iter().map(|(kind, _)| kind).chain(["suppressions".to_owned()]) {
        let one = singular(&kind);
        if kind == "settings" {
            assert!(was(&one, "changed"), "{kind}");
            continue;
        }
        assert!(was(&one, "added") && was(&one, "removed"), "{kind}: {changes:?}");
        assert!(was(&one, "changed") || ["route", "suspension"].contains(&one.as_str()), "{kind}");
    }
    let added = changes.iter().find(|change| change["kind"] == "tenant").unwrap();
    assert_eq!((&added["name"], &added["action"]), (&json!("red"), &json!("added")));
    let weight = added["fields"].as_array().unwrap().iter().find(|field| field["field"] == "weight").unwrap();
    assert_eq!((&weight["from"], &weight["to"]), (&Value::Null, &json!(1)), "what it has from the start is told");
    for told in trail.iter().filter(|told| told["status"].as_u64().is_some_and(|status| status < 400)) {
        assert!(told["detail"]["changes"].is_array(), "a change that is not told: {told}");
    }
}

#[tokio::test]
async fn no_secret_is_in_the_audit_trail_but_that_there_is_a_new_one_is() {
    let world = World::new();
    fill(&world).await;
    world.operator("POST", "/v2/tenants", json!({ "name": "blue", "region": "eu" })).await;
    let pem = std::process::Command::new("openssl").args(["genpkey", "-algorithm", "ed25519"]).output().unwrap();
    let pem = String::from_utf8(pem.stdout).unwrap();
    let mut secrets = vec![pem.lines().nth(1).unwrap().to_owned()];
    for (path, body, secret) in [
        ("/v2/credentials?tenant=blue", json!({ "username": "blue-app" }), "secret"),
        ("/v2/credentials/blue-app/rotate", json!({}), "secret"),
        ("/v2/operators", json!({ "name": "otto", "role": "admin" }), "token"),
        ("/v2/operators/otto/rotate", json!({}), "token"),
        ("/v2/domains?tenant=blue", json!({ "name": "blue.example" }), ""),
        ("/v2/domains/blue.example/keys", json!({ "selector": "june", "private_key": pem }), ""),
        ("/v2/domains/blue.example/keys/rotate", json!({ "algorithm": "rsa-sha256" }), ""),
    ] {
        let (status, answer) = world.operator("POST", path, body).await;
        assert!(status < 300, "{path}: {answer}");
        secrets.extend(answer[secret].as_str().map(str::to_owned));
        let told = world.last_act().await;
        assert!(told["detail"].to_string().contains("(new)"), "{path}: {told}");
    }
    assert_eq!(secrets.len(), 5);
    // What is stored of secrets is none of the trail's either, however it comes into the configuration.
    let (state, copy) = (world.get("/v2/state?secrets=true").await, World::new());
    let (status, _, applied) = copy.guarded("Bearer po_token", "PUT", "/v2/state", "*", state.clone()).await;
    assert_eq!(status, 200, "{applied}");
    for (kind, field) in [("credentials", "secret_hashes"), ("credentials", "marks"), ("operators", "secret_hashes")] {
        let before = secrets.len();
        let lists = state[kind].as_array().unwrap().iter().filter_map(|entry| entry[field].as_array());
        secrets.extend(lists.flatten().map(|secret| secret.as_str().unwrap().to_owned()));
        assert!(secrets.len() > before, "{kind} has no {field}");
    }
    let keys = state["domains"].as_array().unwrap().iter().filter_map(|entry| entry["sealed_keys"].as_array());
    secrets.extend(keys.flatten().map(|key| key["sealed_private_key"].as_str().unwrap().to_owned()));
    for app in ["/v2/credentials/blue-app", "/v2/domains/blue.example", "/v2/operators/otto"] {
        assert_eq!(world.operator("DELETE", app, Value::Null).await.0, 204, "{app}");
    }
    let path = "/v2/audit?limit=1000";
    let told = format!("{}{}", world.get(path).await, copy.get(path).await);
    assert!(told.contains("sealed_keys") && told.contains("marks"), "{told}");
    for secret in secrets {
        // A cut value would have its beginning.
        let beginning = &secret[..secret.len().min(24)];
        assert!(beginning.len() >= 16 && !told.contains(beginning), "{beginning} is in the audit trail");
    }
    assert!(!told.contains("argon2id"), "nor does a hash begin");
}

#[tokio::test]
async fn what_is_refused_or_comes_too_late_is_not_told_as_a_change() {
    let world = World::new();
    world.operator("POST", "/v2/tenants", json!({ "name": "red" })).await;
    world.guarded("Bearer po_token", "PATCH", "/v2/tenants/red", "\"0\"", json!({ "weight": 2 })).await;
    assert_eq!((&world.last_act().await["status"], &world.last_act().await["detail"]), (&json!(412), &Value::Null));

    // Another control plane, which this one has not heard of yet, was first: of it, and of the change that is not made
    // after all, nothing is told; of the one that is made again on its state, the revision that it has then.
    let other = open(world._folder.path(), &world.store);
    let weight = |weight| crate::app::TenantChange { weight: Some(weight), ..Default::default() };
    other.change_tenant("default", &weight(9), &Default::default()).unwrap();
    world.operator("PATCH", "/v2/tenants/red", json!({ "weight": 3 })).await;
    let told = world.last_act().await;
    let fields = json!([{ "field": "weight", "from": 1, "to": 3 }]);
    let wanted = json!({ "revision": 4, "changes": [{ "action": "changed", "kind": "tenant", "name": "red", "fields": fields }] });
    assert_eq!((world.latest().revision.0, &told["detail"]), (4, &wanted), "{told}");
    other.reload().unwrap();
    other.delete_tenant("red", &Default::default()).unwrap();
    world.operator("PATCH", "/v2/tenants/red", json!({ "weight": 5 })).await;
    let told = world.last_act().await;
    assert_eq!((&told["status"], &told["detail"]), (&json!(404), &Value::Null), "{told}");
}

#[tokio::test]
async fn a_change_that_is_larger_than_a_record_says_how_much_is_left_out() {
    let world = World::new();
    let tenants: Vec<_> =
        (0..300).map(|n| json!({ "name": format!("t{n}") })).chain([json!({ "name": "default" })]).collect();
    let (status, _, applied) =
        world.guarded("Bearer po_token", "PUT", "/v2/state", "*", json!({ "tenants": tenants })).await;
    assert_eq!((status, &applied["added"]), (200, &json!(300)));
    let told = world.last_act().await;
    let named = told["detail"]["changes"].as_array().unwrap().len() as u64;
    assert_eq!(named + told["detail"]["left_out"].as_u64().unwrap(), 300, "{told}");
    assert!(named >= 50, "{named}");
}
