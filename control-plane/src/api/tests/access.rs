//! What a caller may do, and from where.

use axum::extract::ConnectInfo;
use postrail_schema::access::Scope as CredentialScope;

use super::*;
use crate::listen::{Peer, Proof};

impl World {
    /// A credential of the tenant with what `access` says; its Authorization.
    async fn credential(&self, tenant: &str, username: &str, access: Value) -> String {
        let mut body = access;
        body["username"] = json!(username);
        let (status, issued) = self.operator("POST", &format!("/v2/credentials?tenant={tenant}"), body).await;
        assert_eq!(status, 201, "{issued}");
        format!("Bearer {}", issued["secret"].as_str().unwrap())
    }

    /// An operator's account; its Authorization.
    async fn account(&self, name: &str, role: &str) -> String {
        let body = json!({ "name": name, "role": role });
        let (status, issued) = self.operator("POST", "/v2/operators", body).await;
        assert_eq!(status, 201, "{issued}");
        format!("Bearer {}", issued["token"].as_str().unwrap())
    }

    async fn status_from(&self, authorization: &str, peer: Option<&str>, path: &str) -> u16 {
        let mut request = Request::builder().uri(path).header(header::AUTHORIZATION, authorization);
        if let Some(peer) = peer {
            let peer = Peer { address: peer.parse().unwrap(), proof: Proof::Loopback };
            request = request.extension(ConnectInfo(peer));
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn a_scope_that_is_missing_is_named_and_one_that_is_there_suffices() {
    let world = World::new();
    world.tenant("red").await;
    let domain = json!({ "name": "new.example" });
    let table = [
        ("GET", "/v2/jobs/7", Value::Null, "jobs:read"),
        ("GET", "/v2/events", Value::Null, "jobs:read"),
        ("GET", "/v2/trace/7", Value::Null, "jobs:read"),
        ("GET", "/v2/domains", Value::Null, "domains:read"),
        ("POST", "/v2/domains", domain, "domains:write"),
        ("DELETE", "/v2/domains/new.example", Value::Null, "domains:write"),
        ("GET", "/v2/credentials", Value::Null, "credentials:read"),
        ("GET", "/v2/suppressions", Value::Null, "suppressions:read"),
        ("POST", "/v2/suppressions", json!({ "address": "a@b.example" }), "suppressions:write"),
        ("DELETE", "/v2/suppressions/a@b.example", Value::Null, "suppressions:write"),
        ("GET", "/v2/tenants/red", Value::Null, "account:read"),
        ("GET", "/v2/tenants/red/quota", Value::Null, "account:read"),
        ("GET", "/v2/pools", Value::Null, "account:read"),
    ];
    for scope in CredentialScope::ALL {
        let name = scope.name().replace(':', "-");
        let bearer = world.credential("red", &name, json!({ "scopes": [scope.name()] })).await;
        for (method, path, body, needed) in &table {
            let (status, problem) = world.call(&bearer, method, path, body.clone()).await;
            if *needed == scope.name() {
                assert!(![401, 403].contains(&status), "{scope:?} {method} {path}: {problem}");
            } else {
                assert_eq!((status, &problem["code"]), (403, &json!("scope_missing")), "{scope:?} {method} {path}");
                assert!(problem["detail"].as_str().unwrap().contains(needed), "{problem}");
            }
        }
        assert_eq!(world.call(&bearer, "GET", "/v2/audit", Value::Null).await.0, 403);
    }
    let (status, problem) =
        world.operator("POST", "/v2/credentials", json!({ "username": "x", "scopes": ["all"] })).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/scopes/0")), "{problem}");
}

#[tokio::test]
async fn a_role_lets_do_what_it_says_and_is_on_record() {
    let world = World::new();
    let [viewer, operator, admin] = [("vera", "viewer"), ("otto", "operator"), ("anna", "admin")]
        .map(|(name, role)| (name, role))
        .map(|(name, role)| world.account(name, role));
    let (viewer, operator, admin) = (viewer.await, operator.await, admin.await);
    let table = [
        ("GET", "/v2/tenants", Value::Null, [200, 200, 200]),
        ("GET", "/v2/state", Value::Null, [200, 200, 200]),
        ("POST", "/v2/state/plan", json!({}), [200, 200, 200]),
        ("GET", "/v2/operators", Value::Null, [200, 200, 200]),
        ("PATCH", "/v2/tenants/default", json!({ "weight": 2 }), [403, 200, 200]),
        ("POST", "/v2/domains/sender.example/check", json!({}), [403, 200, 200]),
        ("DELETE", "/v2/routes/none.example", Value::Null, [403, 404, 404]),
        ("GET", "/v2/state?secrets=true", Value::Null, [403, 403, 200]),
        ("GET", "/v2/state?secre%74s=true", Value::Null, [403, 403, 200]),
        ("POST", "/v2/operators", json!({ "name": "x", "role": "admin" }), [403, 403, 201]),
        ("PATCH", "/v2/operators/otto", json!({ "role": "operator" }), [403, 403, 200]),
        ("POST", "/v2/operators/otto/rotate", json!({}), [403, 403, 200]),
        ("DELETE", "/v2/operators/x", Value::Null, [403, 403, 204]),
    ];
    for (method, path, body, wanted) in table {
        for (bearer, wanted) in [&viewer, &operator, &admin].into_iter().zip(wanted) {
            let (status, answer) = world.call(bearer, method, path, body.clone()).await;
            assert_eq!(status, wanted, "{method} {path}: {answer}");
            assert!(status != 403 || answer["code"] == "role_missing", "{answer}");
        }
    }
    let operators = json!({ "operators": [{ "name": "otto", "role": "admin" }] });
    for (bearer, wanted) in [(&viewer, 403), (&operator, 403), (&admin, 200)] {
        let (status, _, answer) = world.guarded(bearer, "PUT", "/v2/state", "*", operators.clone()).await;
        assert_eq!(status, wanted, "{answer}");
    }
    let shown = world.get("/v2/operators").await;
    assert_eq!(shown["items"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!((&shown["items"][0]["role"], &shown["items"][0]["live_tokens"]), (&json!("admin"), &json!(2)));
    assert!(!shown.to_string().contains("argon2"), "{shown}");
    assert_eq!(world.call(&viewer, "GET", "/v2/tenants", Value::Null).await.0, 401, "an account that is gone");
    let trail = world.get("/v2/audit").await;
    let actors: BTreeSet<_> = trail["items"].as_array().unwrap().iter().map(|r| r["actor"].as_str().unwrap()).collect();
    assert_eq!(actors, ["operator", "operator/anna", "operator/otto", "operator/vera"].into());
}

#[tokio::test]
async fn a_secret_is_good_only_from_its_networks() {
    let world = World::new();
    let bound = world.credential("default", "bound", json!({ "networks": ["192.0.2.0/24", "2001:db8::/32"] })).await;
    for (peer, wanted) in [
        (Some("192.0.2.9:5"), 200),
        (Some("[::ffff:192.0.2.9]:5"), 200),
        (Some("[2001:db8::1]:5"), 200),
        (Some("192.0.3.9:5"), 403),
        (None, 403),
    ] {
        assert_eq!(world.status_from(&bound, peer, "/v2/domains").await, wanted, "{peer:?}");
    }
    let wrong = format!("{}x", &bound[..bound.len() - 1]);
    assert_eq!(
        world.status_from(&wrong, Some("192.0.3.9:5"), "/v2/domains").await,
        401,
        "who has no secret learns nothing"
    );
    let (status, problem) =
        world.operator("PATCH", "/v2/credentials/bound", json!({ "networks": ["192.0.2.1/24"] })).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/networks/0")), "{problem}");
    let body = json!({ "name": "far", "role": "admin", "networks": ["198.51.100.7"] });
    let (_, issued) = world.operator("POST", "/v2/operators", body).await;
    let token = format!("Bearer {}", issued["token"].as_str().unwrap());
    assert_eq!(world.status_from(&token, Some("198.51.100.7:1"), "/v2/tenants").await, 200);
    assert_eq!(world.status_from(&token, Some("198.51.100.8:1"), "/v2/tenants").await, 403);
    let export = world.get("/v2/state").await;
    assert_eq!(export["credentials"][0]["networks"], json!(["192.0.2.0/24", "2001:db8::/32"]));
    assert_eq!(export["operators"][0]["networks"], json!(["198.51.100.7/32"]));
}

#[tokio::test]
async fn what_is_anothers_looks_like_what_is_nobodys() {
    let world = World::new();
    let (red, _) = (world.tenant("red").await, world.tenant("blue").await);
    let domain = json!({ "name": "blue.example" });
    assert_eq!(world.operator("POST", "/v2/domains?tenant=blue", domain).await.0, 201);
    let pool = json!({ "name": "blues", "tenant": "blue", "members": [{ "source": "default" }] });
    assert_eq!(world.operator("POST", "/v2/pools", pool).await.0, 201);
    for (method, theirs, nobodys) in [
        ("GET", "/v2/tenants/blue", "/v2/tenants/gray"),
        ("GET", "/v2/credentials/blue-app", "/v2/credentials/gray-app"),
        ("GET", "/v2/domains/blue.example", "/v2/domains/gray.example"),
        ("DELETE", "/v2/domains/blue.example", "/v2/domains/gray.example"),
        ("GET", "/v2/pools/blues", "/v2/pools/grays"),
        ("GET", "/v2/domains?tenant=blue", "/v2/domains?tenant=gray"),
        ("POST", "/v2/suppressions?tenant=blue", "/v2/suppressions?tenant=gray"),
    ] {
        let body = if method == "POST" { json!({ "address": "a@b.example" }) } else { Value::Null };
        let (status, problem) = world.call(&red, method, theirs, body.clone()).await;
        let (other_status, other) = world.call(&red, method, nobodys, body).await;
        assert_eq!((status, other_status), (404, 404), "{method} {theirs}: {problem}");
        let as_theirs = other.to_string().replace("gray", "blue");
        assert_eq!(problem.to_string(), as_theirs, "{method} {theirs}");
    }
}

#[tokio::test]
async fn a_credential_of_another_region_is_told_where_to_ask_whatever_it_asks_and_leaves_nothing() {
    let world = World::new();
    for region in ["eu", "us"] {
        let made = json!({ "name": region, "submission_host": format!("mail.{region}.example") });
        assert_eq!(world.operator("POST", "/v2/regions", made).await.0, 201);
    }
    let leader = Write::Put { key: postrail_schema::keys::leader("us"), value: b"10.2.0.1:8081".to_vec() };
    world.store.txn(&[], &[leader]).unwrap();
    assert_eq!(world.operator("POST", "/v2/tenants", json!({ "name": "blue", "region": "us" })).await.0, 201);
    let blue = world.credential("blue", "blue-app", json!({})).await;
    let document = world.call("", "GET", "/openapi.json", Value::Null).await.1;
    let before = world.get("/v2/audit").await;
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let of_tenants = path.starts_with("/v2/");
        let concrete = path.replace(['{', '}'], "");
        for method in methods.as_object().unwrap().keys().filter(|_| of_tenants).map(|method| method.to_uppercase()) {
            let body = if method == "GET" { Value::Null } else { json!({ "name": "secret.example" }) };
            let (status, problem) = world.call(&blue, &method, &concrete, body).await;
            assert_eq!((status, &problem["code"]), (403, &json!("wrong_region")), "{method} {path}: {problem}");
            let detail = "the tenant is in region us: ask its control plane, 10.2.0.1:8081";
            assert_eq!(problem["detail"], detail, "{method} {path}");
            asked += 1;
        }
    }
    assert!(asked > 60, "{asked} requests");
    assert_eq!(world.get("/v2/audit").await, before, "the audit trail has nothing of it");
    let wrong = format!("{}x", &blue[..blue.len() - 1]);
    let (status, problem) = world.call(&wrong, "GET", "/v2/domains", Value::Null).await;
    assert_eq!((status, &problem["code"]), (401, &json!("unauthorized")), "who has no secret learns nothing");
}
