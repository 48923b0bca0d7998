//! What a caller may do, and from where.

use axum::extract::ConnectInfo;
use postrail_schema::access::Scope as CredentialScope;
use postrail_schema::ids::{CredentialId, SendingDomainId};
use postrail_schema::snapshot::Snapshot;

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
    // An export has operators; who may not change them may apply one that leaves them as they are.
    let mut whole = world.call(&operator, "GET", "/v2/state", Value::Null).await.1;
    whole["tenants"][0]["weight"] = json!(3);
    for (bearer, wanted) in [(&viewer, 403), (&operator, 200)] {
        let (status, _, answer) = world.guarded(bearer, "PUT", "/v2/state", "*", whole.clone()).await;
        assert_eq!(status, wanted, "{answer}");
    }
    assert_eq!(world.get("/v2/tenants").await["items"][0]["weight"], 3);
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

/// What a world answers to a tenant: the tenant red has a domain and some mail; in the second world others were there before
/// it, are there beside it, and send between its mails.
async fn answers_to_red(others: bool) -> Vec<(String, u16, Value)> {
    let world = World::new();
    if others {
        let blue = world.tenant("blue").await;
        for name in ["blue.example", "azure.example"] {
            assert_eq!(world.call(&blue, "POST", "/v2/domains", json!({ "name": name })).await.0, 201);
        }
        let trust = json!({ "verification": "operator" });
        assert_eq!(world.operator("PATCH", "/v2/domains/azure.example", trust).await.0, 200);
        let pool = json!({ "name": "blues", "tenant": "blue", "members": [{ "source": "default" }] });
        assert_eq!(world.operator("POST", "/v2/pools", pool).await.0, 201);
        let gone = json!({ "address": "gone@receiver.example" });
        assert_eq!(world.call(&blue, "POST", "/v2/suppressions", gone).await.0, 201);
    }
    let red = world.tenant("red").await;
    assert_eq!(world.call(&red, "POST", "/v2/domains", json!({ "name": "red.example" })).await.0, 201);
    let pool = json!({ "name": "reds", "tenant": "red", "members": [{ "source": "default" }] });
    assert_eq!(world.operator("POST", "/v2/pools", pool).await.0, 201);
    let desired = world.app.desired();
    let (tenant, domain) = (desired.tenant("red").unwrap().id, desired.domain(None, "red.example").unwrap().id);
    let credential = desired.credential("red-app").unwrap().id;
    let mut blues = 100;
    let mut blue_sends = || {
        if others {
            let blue = desired.tenant("blue").unwrap().id.0;
            world.record((0..40).map(|n| event(EventKind::Accepted, blues + n, blue, 5)).collect());
            blues += 40;
        }
    };
    for n in 1..=3 {
        blue_sends();
        world.record(vec![of_red(EventKind::Accepted, n, tenant, (credential, domain))]);
        blue_sends();
        world.record(vec![of_red(EventKind::Delivered, n, tenant, (credential, domain))]);
    }
    blue_sends();
    let mut answers = Vec::new();
    for (method, path, body) in asked_by_red() {
        let (status, answer) = world.call(&red, method, &path, body).await;
        answers.push((format!("{method} {path}"), status, masked(answer)));
    }
    // What a host says to mail by each, which is all that it has of them.
    let snapshot = Snapshot::new(world.latest()).unwrap();
    for name in ["red.example", "azure.example", "blue.example", "nowhere.example"] {
        let refusal = snapshot.domain_of(tenant, name).map(|domain| domain.refusal().map(|it| it.to_string()));
        answers.push((format!("mail by {name}"), 0, json!(refusal)));
    }
    // Event by event, until nothing follows.
    let mut path = "/v2/events?limit=1".to_owned();
    for _ in 0..7 {
        let (status, page) = world.call(&red, "GET", &path, Value::Null).await;
        path = format!("/v2/events?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
        answers.push(("GET /v2/events?limit=1&cursor=…".to_owned(), status, masked(page)));
    }
    answers
}

fn asked_by_red() -> Vec<(&'static str, String, Value)> {
    let job = MessageId::from_bits(1);
    vec![
        ("GET", "/v2/tenants".to_owned(), Value::Null),
        ("GET", "/v2/tenants/red".to_owned(), Value::Null),
        ("GET", "/v2/tenants/red/quota".to_owned(), Value::Null),
        ("GET", "/v2/tenants/blue".to_owned(), Value::Null),
        ("GET", "/v2/credentials".to_owned(), Value::Null),
        ("GET", "/v2/credentials/red-app".to_owned(), Value::Null),
        ("GET", "/v2/pools".to_owned(), Value::Null),
        ("GET", "/v2/pools/reds".to_owned(), Value::Null),
        ("GET", "/v2/pools/blues".to_owned(), Value::Null),
        ("GET", "/v2/domains".to_owned(), Value::Null),
        ("GET", "/v2/domains/red.example".to_owned(), Value::Null),
        ("GET", "/v2/domains/blue.example".to_owned(), Value::Null),
        ("POST", "/v2/domains".to_owned(), json!({ "name": "second.example" })),
        // Which another sends by.
        ("POST", "/v2/domains".to_owned(), json!({ "name": "azure.example" })),
        ("POST", "/v2/domains".to_owned(), json!({ "name": "azure.example" })),
        ("GET", "/v2/domains".to_owned(), Value::Null),
        ("GET", "/v2/domains/azure.example".to_owned(), Value::Null),
        ("POST", "/v2/domains/azure.example/check".to_owned(), json!({})),
        ("POST", "/v2/domains/azure.example/keys/rotate".to_owned(), json!({})),
        ("POST", "/v2/domains/azure.example/keys".to_owned(), json!({ "selector": "pr1r" })),
        // Which another has claimed and not proved.
        ("POST", "/v2/domains".to_owned(), json!({ "name": "blue.example" })),
        ("GET", "/v2/domains/blue.example".to_owned(), Value::Null),
        ("POST", "/v2/domains/second.example/keys/rotate".to_owned(), json!({})),
        ("DELETE", "/v2/domains/second.example".to_owned(), Value::Null),
        ("POST", "/v2/suppressions".to_owned(), json!({ "address": "a@receiver.example" })),
        ("POST", "/v2/suppressions".to_owned(), json!({ "address": "b@receiver.example" })),
        ("GET", "/v2/suppressions?limit=1".to_owned(), Value::Null),
        ("GET", "/v2/suppressions/gone@receiver.example".to_owned(), Value::Null),
        ("GET", "/v2/events".to_owned(), Value::Null),
        ("GET", format!("/v2/jobs/{job}"), Value::Null),
        ("GET", format!("/v2/jobs/{job}/recipients"), Value::Null),
        ("GET", format!("/v2/jobs/{}", MessageId::from_bits(101)), Value::Null),
        ("GET", format!("/v2/trace/{job}"), Value::Null),
        ("GET", "/v2/audit".to_owned(), Value::Null),
        ("GET", "/v2/problems".to_owned(), Value::Null),
        ("GET", "/v2/queue".to_owned(), Value::Null),
        ("GET", "/v2/state".to_owned(), Value::Null),
    ]
}

fn of_red(kind: EventKind, n: u128, tenant: TenantId, by: (CredentialId, SendingDomainId)) -> Event {
    let made = event(kind, n, tenant.0, 10 * n as u64 + u64::from(kind != EventKind::Accepted));
    let job = made.job.as_ref().map(|job| JobFacts { credential: by.0, domain: by.1, ..JobFacts::clone(job) }.into());
    Event { job, ..made }
}

/// An answer without what is drawn anew or the time: of texts their length is left, and whether numbers are 0.
fn masked(mut answer: Value) -> Value {
    const DRAWN: [&str; 5] = ["public_key", "value", "zone_value", "next_cursor", "selector"];
    const TIMES: [&str; 5] = ["since_ms", "created_ms", "checked_at_ms", "standing_since_ms", "keep_until_ms"];
    match &mut answer {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if DRAWN.contains(&name.as_str()) => *text = "x".repeat(text.len()),
                    // What names the record of a key: its selector is drawn.
                    Value::String(text) if text.contains("._domainkey.") => {
                        let hidden = text.split(' ').map(|word| match word.split_once("._domainkey.") {
                            Some((selector, rest)) => format!("{}._domainkey.{rest}", "x".repeat(selector.len())),
                            None => word.to_owned(),
                        });
                        *text = hidden.collect::<Vec<_>>().join(" ");
                    }
                    Value::Number(number) if TIMES.contains(&name.as_str()) => {
                        *value = Value::from(number.as_u64() != Some(0));
                    }
                    _ => *value = masked(value.take()),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = masked(item.take())),
        _ => {}
    }
    answer
}

#[tokio::test]
async fn a_tenant_is_answered_alike_whether_or_not_there_are_others() {
    let (alone, among) = (answers_to_red(false).await, answers_to_red(true).await);
    for (alone, among) in alone.iter().zip(&among) {
        assert_eq!(alone, among);
    }
    let events = alone.iter().find(|(asked, ..)| asked == "GET /v2/events").unwrap();
    assert_eq!((events.1, events.2["items"].as_array().unwrap().len()), (200, 6), "{}", events.2);
    let made = alone.iter().filter(|(asked, status, answer)| {
        asked == "POST /v2/domains" && *status == 201 && answer["standing"] == "unproved"
    });
    assert_eq!(made.count(), 3, "each name is had once");
    assert!(alone.iter().any(|(asked, _, answer)| asked == "mail by azure.example" && answer.is_string()));
    let job = alone.iter().find(|(asked, ..)| asked.starts_with("GET /v2/jobs/")).unwrap();
    assert_eq!((&job.2["credential"], &job.2["domain"]), (&json!("red-app"), &json!("red.example")));
}

#[tokio::test]
async fn a_tenants_cursor_is_another_one_each_time_and_nobody_elses() {
    let world = World::new();
    let (red, blue) = (world.tenant("red").await, world.tenant("blue").await);
    let id = world.app.desired().tenant("red").unwrap().id.0;
    world.record((1..=3).map(|n| event(EventKind::Accepted, n, id, 10)).collect());
    let page = async |who: &str, query: &str| world.call(who, "GET", &format!("/v2/events?{query}"), Value::Null).await;
    let (first, again) = (page(&red, "limit=2").await.1, page(&red, "limit=2").await.1);
    assert_eq!(first["items"], again["items"], "an event keeps its id");
    let cursors = [&first, &again].map(|page| page["next_cursor"].as_str().unwrap().to_owned());
    assert_ne!(cursors[0], cursors[1]);
    for cursor in &cursors {
        let (_, next) = page(&red, &format!("cursor={cursor}")).await;
        assert_eq!(next["items"].as_array().unwrap().len(), 1, "{next}");
        assert!(next["items"][0].get("sequence").is_none() && next["items"][0].get("revision").is_none(), "{next}");
        // Another process on the same store and ledger: a restart, or who leads next.
        let other = open(world._folder.path(), &world.store);
        assert_eq!(other.place_of(TenantId(id), cursor).unwrap(), Some(2));
        assert_eq!(page(&blue, &format!("cursor={cursor}")).await.0, 400, "it is another's");
        assert_eq!(world.operator("GET", &format!("/v2/events?cursor={cursor}"), Value::Null).await.0, 400);
    }
    for garbled in ["0", "2", "97", "x", &cursors[0][1..], &format!("{}A", cursors[0]), "%00"] {
        let (status, problem) = page(&red, &format!("cursor={garbled}")).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_query")), "{garbled}");
    }
    let shown = world.get("/v2/events?tenant=red&limit=2").await;
    assert_eq!((&shown["next_cursor"], &shown["items"][1]["sequence"]), (&json!("2"), &json!(2)));
    assert_eq!(shown["items"][0]["id"], first["items"][0]["id"]);
}

#[tokio::test]
async fn an_answer_to_a_tenant_is_short_only_where_nothing_more_of_it_follows() {
    let world = World::new();
    let red = world.tenant("red").await;
    let id = world.app.desired().tenant("red").unwrap().id.0;
    // More of others than one read of the ledger looks at.
    let of_red = |n| world.record(vec![event(EventKind::Accepted, n, id, 10)]);
    of_red(1);
    for batch in 0..21_u128 {
        world.record((0..1_000).map(|n| event(EventKind::Accepted, 10 + 1_000 * batch + n, 1, 10)).collect());
    }
    of_red(2);
    let (_, page) = world.call(&red, "GET", "/v2/events", Value::Null).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_operator_says_whose_credential_or_domain_is_meant_where_it_matters() {
    let world = World::new();
    let (red, blue) = (world.tenant("red").await, world.tenant("blue").await);
    for (method, path, body) in [
        ("GET", "/v2/credentials/blue-app", Value::Null),
        ("PATCH", "/v2/credentials/blue-app", json!({ "disabled": true })),
        ("POST", "/v2/credentials/blue-app/rotate", json!({})),
        ("DELETE", "/v2/credentials/blue-app", Value::Null),
    ] {
        let (status, problem) = world.operator(method, &format!("{path}?tenant=red"), body).await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{method} {path}: {problem}");
    }
    let shown = world.get("/v2/credentials/blue-app?tenant=blue").await;
    assert_eq!((&shown["live_secrets"], &shown["disabled"]), (&json!(1), &json!(false)));
    for who in [&red, &blue] {
        assert_eq!(world.call(who, "POST", "/v2/domains", json!({ "name": "both.example" })).await.0, 201);
    }
    for (method, step, body) in [
        ("PATCH", "", json!({ "verification": "operator" })),
        ("POST", "/check", json!({})),
        ("POST", "/keys/rotate", json!({})),
        ("DELETE", "", Value::Null),
    ] {
        let path = format!("/v2/domains/both.example{step}");
        let (status, problem) = world.operator(method, &path, body.clone()).await;
        assert_eq!((status, &problem["code"]), (409, &json!("several_tenants")), "{method} {path}: {problem}");
        assert_eq!(problem["detail"], "2 tenants have both.example: say whose is meant, by tenant (red, blue)");
        let (status, answer) = world.operator(method, &format!("{path}?tenant=blue"), body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    }
    assert_eq!(world.call(&red, "GET", "/v2/domains/both.example", Value::Null).await.0, 200, "it is red's alone now");
    assert_eq!(world.operator("DELETE", "/v2/domains/both.example", Value::Null).await.0, 204);
    for username in [".", ".."] {
        let (status, problem) = world.operator("POST", "/v2/credentials", json!({ "username": username })).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/username")), "{problem}");
        let document = json!({ "credentials": [{ "username": username, "tenant": "red" }] });
        let (_, plan) = world.operator("POST", "/v2/state/plan", document).await;
        assert!(plan.to_string().contains("/credentials/0/username"), "{plan}");
    }
}
