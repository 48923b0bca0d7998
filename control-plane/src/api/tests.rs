//! The API as its callers see it: the router in process, on temporary stores.

mod hosts;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use postrail_schema::allocation::Carrier;
use postrail_schema::event::{AttemptFacts, Event, EventKind, JobFacts};
use postrail_schema::ids::{HostId, MessageId, RecipientIndex, Revision, ShardId, TenantId};
use postrail_schema::keys::MANIFEST;
use postrail_schema::publication::Assembly;
use postrail_schema::region::mark_of;
use postrail_schema::sealed::{MasterKey, MasterKeys};
use postrail_schema::snapshot::{SnapshotContent, SuspensionTarget};
use postrail_schema::wire::{decode_manifest, decode_snapshot};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::app::{Bootstrap, DataPlane, FirstStart, HostClient, Hosts, KnownHosts, Parts, SuppressionsAsked};
use crate::ledger::{Batch, Cursor, JournalId, Ledger, SqliteLedger};
use crate::plan::content;
use crate::store::{ConfigStore, EmbeddedStore, Write};

mod access;
mod form;
mod keys;
mod ledgers;
mod numbers;
mod quota;
mod rooms;
mod several;
mod state;
mod suppressions;
mod trail;

/// An installation after its first start, with nobody at the data plane's address.
struct World {
    _folder: tempfile::TempDir,
    router: Router,
    app: Arc<App>,
    store: Arc<dyn ConfigStore>,
    first: FirstStart,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
        Self::on(folder, store)
    }

    fn on(folder: tempfile::TempDir, store: Arc<dyn ConfigStore>) -> Self {
        let ledger = Arc::new(SqliteLedger::open(&folder.path().join("ledger.db")).unwrap());
        Self::with(folder, store, ledger)
    }

    fn with(folder: tempfile::TempDir, store: Arc<dyn ConfigStore>, ledger: Arc<dyn Ledger>) -> Self {
        let app = open_with(&store, ledger);
        let bootstrap = Bootstrap {
            hostname: "mail.sender.example".into(),
            domain: Some("Sender.example".into()),
            algorithms: Vec::new(),
            routes: Vec::new(),
        };
        let first = app.bootstrap(&bootstrap, "po_token").unwrap().expect("the first start");
        let app = Arc::new(app);
        let router = router(Arc::clone(&app), Arc::default(), ["pf_token".to_owned()].into());
        Self { _folder: folder, router, app, store, first }
    }

    async fn call(&self, authorization: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, _, body) = self.guarded(authorization, method, path, "", body).await;
        (status, body)
    }

    /// A call with that If-Match: status, entity tag and body.
    async fn guarded(
        &self,
        authorization: &str,
        method: &str,
        path: &str,
        if_match: &str,
        body: Value,
    ) -> (u16, String, Value) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in [(header::AUTHORIZATION, authorization), (header::IF_MATCH, if_match)] {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let tag = response.headers().get(header::ETAG).map(|tag| tag.to_str().unwrap().to_owned());
        let bytes = to_bytes(response.into_body(), 1 << 24).await.unwrap();
        (status, tag.unwrap_or_default(), serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn operator(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call("Bearer po_token", method, path, body).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.operator("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Makes a tenant with a credential; the credential's Authorization.
    async fn tenant(&self, name: &str) -> String {
        assert_eq!(self.operator("POST", "/v2/tenants", json!({ "name": name })).await.0, 201);
        let path = format!("/v2/credentials?tenant={name}");
        let (status, body) = self.operator("POST", &path, json!({ "username": format!("{name}-app") })).await;
        assert_eq!(status, 201, "{body}");
        format!("Bearer {}", body["secret"].as_str().unwrap())
    }

    /// What is published, as a data plane puts it together.
    fn latest(&self) -> SnapshotContent {
        let listing = self.store.list("published/").unwrap();
        let value = |key: &str| listing.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.clone());
        let manifest = decode_manifest(&value(MANIFEST).unwrap()).unwrap();
        let chunks: Vec<_> = manifest.chunks().map(|name| (name, value(&name.key()).unwrap().into())).collect();
        let revision = manifest.revision;
        let regions = manifest.regions.clone();
        let mut content = SnapshotContent { revision, regions, ..SnapshotContent::default() };
        for (_, bytes) in &chunks {
            let bytes: &Arc<[u8]> = bytes;
            let part = decode_snapshot(bytes).unwrap();
            content.tenants.extend(part.tenants);
            content.credentials.extend(part.credentials);
            content.domains.extend(part.domains);
            content.sources.extend(part.sources);
            content.pools.extend(part.pools);
            content.routes.extend(part.routes);
            content.suspensions.extend(part.suspensions);
            content.signposts.extend(part.signposts);
            content.providers.extend(part.providers);
            content.shaping_rules.extend(part.shaping_rules);
            content.listeners.extend(part.listeners);
        }
        Assembly::default().apply(manifest, &chunks).unwrap();
        let asked = SuppressionsAsked { version: 0, has: None };
        let list = self.app.suppressions_for(asked).unwrap().body;
        SnapshotContent { suppressions: decode_snapshot(&list).unwrap().suppressions, ..content }
    }

    fn record(&self, events: Vec<Event>) {
        let journal = JournalId { host: HostId::LOCAL, shard: ShardId(0) };
        let begun = self.app.ledger.cursor(journal).unwrap();
        let next = Cursor { offset: begun.offset + 1, ..begun };
        self.app.ledger.record(journal, begun, &Batch::of(&events, 128), next).unwrap();
    }
}

fn open(folder: &std::path::Path, store: &Arc<dyn ConfigStore>) -> App {
    open_with(store, Arc::new(SqliteLedger::open(&folder.join("ledger.db")).unwrap()))
}

fn open_with(store: &Arc<dyn ConfigStore>, ledger: Arc<dyn Ledger>) -> App {
    let client = DataPlane::beside("http://127.0.0.1:1").unwrap();
    let beside =
        HostClient { name: String::new(), id: HostId::LOCAL, admin: String::new(), master_keys: Vec::new(), client };
    App::new(Parts {
        store: Arc::clone(store),
        ledger,
        hosts: KnownHosts::new(vec![beside]),
        allocation: Some(Hosts::new(Arc::clone(store))),
        masters: MasterKeys::only(MasterKey::new([9; 32])),
        resolver: crate::dns::Resolver::new(Vec::new()),
        hostname: "mail.sender.example".into(),
        region: "eu".into(),
    })
    .unwrap()
}

fn event(kind: EventKind, message: u128, tenant: u32, at_ms: u64) -> Event {
    let accepted = kind == EventKind::Accepted;
    let attempt = AttemptFacts { number: 1, reply_code: 250, reply: "ok".into(), ..AttemptFacts::default() };
    Event {
        kind,
        message: MessageId::from_bits(message),
        index: RecipientIndex(0),
        at_ms,
        revision: Revision(1),
        tenant: TenantId(tenant),
        address: "a@receiver.example".into(),
        job: accepted.then(|| JobFacts { interface: "smtp".into(), recipients: 1, ..JobFacts::default() }.into()),
        attempt: (!accepted).then_some(attempt),
        reason: String::new(),
        next_attempt_ms: 0,
    }
}

#[tokio::test]
async fn the_first_start_makes_what_sending_needs_and_a_second_one_nothing() {
    let world = World::new();
    let content = world.latest();
    assert_eq!(content.revision, Revision(1));
    let names = (&content.tenants[0].name, &content.credentials[0].username, &content.pools[0].name);
    assert_eq!(names, (&"default".into(), &"default".into(), &"default".into()));
    assert_eq!(content.domains[0].name, "sender.example");
    let selectors: Vec<_> = content.domains[0].keys.iter().map(|key| key.selector.as_str()).collect();
    assert_eq!(selectors, ["pr1r", "pr1e"]);
    assert!(content.sources[0].address.is_unspecified());
    assert!(world.first.secret.starts_with("pr_default_"));
    let names: Vec<_> = world.first.dns_records.iter().map(|record| record.name.as_str()).collect();
    let domain_keys = ["pr1r._domainkey.sender.example", "pr1e._domainkey.sender.example"];
    let (before, after) = (
        ["_postrail.sender.example", "sender.example"],
        ["_dmarc.sender.example", "bounce.sender.example", "click.sender.example"],
    );
    assert_eq!(names, [&before[..], &domain_keys[..], &after[..]].concat());
    assert_eq!(world.first.dns_records[1].value, "v=spf1 a:mail.sender.example ~all");

    let again = open(world._folder.path(), &world.store);
    assert!(again.bootstrap(&Bootstrap::default(), "po_token").unwrap().is_none());
    let renewed = world.latest();
    assert_eq!((renewed.revision, renewed.domains), (Revision(2), content.domains));
}

#[tokio::test]
async fn a_token_that_was_replaced_is_believed_no_more_wherever_a_file_still_has_it() {
    let world = World::new();
    let start = |token: &str| {
        assert!(open(world._folder.path(), &world.store).bootstrap(&Bootstrap::default(), token).unwrap().is_none());
        world.app.reload().unwrap();
    };
    let believed = || async {
        let mut believed = Vec::new();
        for token in ["po_token", "po_second", "po_third"] {
            if world.call(&format!("Bearer {token}"), "GET", "/v2/tenants", Value::Null).await.0 == 200 {
                believed.push(token);
            }
        }
        believed
    };
    assert_eq!(believed().await, ["po_token"]);
    start("po_second");
    start("po_token");
    assert_eq!(believed().await, ["po_second"], "the leaked one does not come back by another's start");
    for token in ["po_third", "po_token", "po_second"] {
        start(token);
    }
    assert_eq!(believed().await, ["po_third"]);
    let trail = world.call("Bearer po_third", "GET", "/v2/audit", Value::Null).await.1.to_string();
    assert_eq!(trail.matches("operator.token replaced, at a start").count(), 2, "{trail}");
}

#[tokio::test]
async fn who_proves_nothing_is_let_in_nowhere_but_to_health() {
    let world = World::new();
    for path in ["/", "/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(world.call("", "GET", path, Value::Null).await.0, 200, "{path}");
    }
    let secret = "s".repeat(43);
    let wrong = format!("Bearer pr_default_{secret}");
    for authorization in ["", "Bearer", "Bearer po_other", "Basic ####", "Digest x", wrong.as_str()] {
        let (status, body) = world.call(authorization, "GET", "/v2/tenants", Value::Null).await;
        assert_eq!((status, &body["code"]), (401, &json!("unauthorized")), "{authorization}");
    }
    assert_eq!(world.call("", "GET", "/elsewhere", Value::Null).await.0, 404);
    assert_eq!(world.call("", "POST", "/healthz", Value::Null).await.0, 405);
}

#[tokio::test]
async fn an_api_key_proves_itself_alone_and_with_its_username() {
    use base64::Engine;

    let world = World::new();
    let bearer = format!("Bearer {}", world.first.secret);
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("default:{}", world.first.secret));
    for authorization in [bearer, format!("Basic {basic}")] {
        let (status, body) = world.call(&authorization, "GET", "/v2/tenants", Value::Null).await;
        assert_eq!((status, &body["items"][0]["name"]), (200, &json!("default")));
    }
}

#[tokio::test]
async fn a_tenant_sees_its_own_and_changes_nothing() {
    let world = World::new();
    let (red, blue) = (world.tenant("red").await, world.tenant("blue").await);
    assert_eq!(world.operator("POST", "/v2/domains?tenant=red", json!({ "name": "red.example" })).await.0, 201);
    world.record(vec![event(EventKind::Accepted, 7, 2, 10), event(EventKind::Delivered, 7, 2, 20)]);
    let job = MessageId::from_bits(7).to_string();

    for path in [
        "/v2/domains/red.example".to_owned(),
        "/v2/credentials/red-app".to_owned(),
        "/v2/tenants/red".to_owned(),
        format!("/v2/jobs/{job}"),
        format!("/v2/jobs/{job}/recipients"),
        format!("/v2/trace/{job}"),
        format!("/v2/trace/{job}.0"),
    ] {
        assert_eq!(world.call(&red, "GET", &path, Value::Null).await.0, 200, "{path}");
        let (status, body) = world.call(&blue, "GET", &path, Value::Null).await;
        assert_eq!((status, &body["code"]), (404, &json!("not_found")), "{path}");
    }
    for path in ["/v2/domains", "/v2/events", "/v2/suppressions"] {
        assert_eq!(world.call(&blue, "GET", path, Value::Null).await.1["items"], json!([]), "{path}");
        let other = format!("{path}?tenant=red");
        assert_eq!(world.call(&blue, "GET", &other, Value::Null).await.0, 404, "{other}");
    }
    assert_eq!(world.call(&red, "GET", "/v2/events", Value::Null).await.1["items"].as_array().unwrap().len(), 2);
    for path in
        ["/v2/sources", "/v2/routes", "/v2/queue", "/v2/audit", "/v2/suspensions", "/v2/problems", "/v2/providers"]
    {
        assert_eq!(world.call(&red, "GET", path, Value::Null).await.0, 403, "{path}");
    }
    let (status, _) = world.call(&red, "DELETE", "/v2/domains/red.example", Value::Null).await;
    assert_eq!(status, 403);
    let (status, _) = world.call(&red, "PATCH", "/v2/domains/red.example", json!({ "verification": "dns" })).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn what_a_tenant_adds_itself_has_to_prove_itself() {
    let world = World::new();
    let (red, blue) = (world.tenant("red").await, world.tenant("blue").await);
    let wanted = json!({ "name": "shop.example" });
    let (status, made) = world.call(&red, "POST", "/v2/domains", wanted.clone()).await;
    assert_eq!((status, &made["standing"], &made["may_send"]), (201, &json!("unproved"), &json!(false)), "{made}");
    assert_eq!((&made["missing"], &made["verification"]), (&json!("ownership"), &json!("dns")));
    let refusal = world.latest().domains[1].refusal().expect("it may not send");
    assert_eq!(refusal.record_name, "_postrail.shop.example");
    for body in
        [json!({ "name": "b.example", "verification": "operator" }), json!({ "name": "b.example", "pool": "default" })]
    {
        assert_eq!(world.call(&red, "POST", "/v2/domains", body.clone()).await.0, 403, "{body}");
    }
    assert_eq!(world.call(&red, "POST", "/v2/domains", json!({ "name": "co.uk" })).await.0, 422, "nobody's alone");
    assert_eq!(world.call(&red, "POST", "/v2/domains?tenant=blue", wanted.clone()).await.0, 404);
    assert_eq!(world.call(&red, "POST", "/v2/domains", wanted.clone()).await.0, 409);

    // A claim keeps nobody out, and each tenant has a text of its own to publish.
    let (status, other) = world.call(&blue, "POST", "/v2/domains", wanted.clone()).await;
    assert_eq!(status, 201, "{other}");
    assert_ne!(made["dns_records"][0]["value"], other["dns_records"][0]["value"]);
    let published = || world.latest().domains.iter().map(|it| (it.id.0, it.is_later)).collect::<Vec<_>>();
    assert_eq!(published(), [(1, false), (2, false), (3, true)], "each is published");
    let trust = json!({ "verification": "operator" });
    let (status, trusted) = world.operator("PATCH", "/v2/domains/shop.example?tenant=blue", trust.clone()).await;
    assert_eq!((status, &trusted["standing"]), (200, &json!("trusted")));
    assert_eq!(published(), [(1, false), (2, true), (3, false)], "one that may send comes first");
    let (status, trusted) = world.operator("PATCH", "/v2/domains/shop.example?tenant=red", trust).await;
    assert_eq!((status, &trusted["standing"]), (200, &json!("trusted")), "{trusted}");
    let problems = world.get("/v2/problems").await.to_string();
    assert!(problems.contains("2 tenants have it (red, blue)"), "{problems}");
    assert_eq!(
        world.operator("PATCH", "/v2/domains/shop.example?tenant=red", json!({ "verification": "dns" })).await.0,
        200
    );
    let selectors =
        |made: &Value| made["keys"].as_array().unwrap().iter().map(|it| it["selector"].clone()).collect::<Vec<_>>();
    let (status, third) = world.operator("POST", "/v2/domains", wanted.clone()).await;
    assert_eq!((status, &third["tenant"]), (201, &json!("default")), "{third}");
    let all: BTreeSet<_> = [&made, &other, &third].into_iter().flat_map(selectors).map(|it| it.to_string()).collect();
    assert_eq!(all.len(), 6, "DNS has one record of a selector: {all:?}");
    assert_eq!(world.call(&blue, "DELETE", "/v2/domains/shop.example", Value::Null).await.0, 403, "the operator's");
    assert_eq!(world.call(&red, "DELETE", "/v2/domains/shop.example", Value::Null).await.0, 204);
    assert_eq!(world.call(&red, "GET", "/v2/domains/shop.example", Value::Null).await.0, 404);
    let again = world.call(&red, "POST", "/v2/domains", json!({ "name": "shop.example" })).await;
    assert_eq!((again.0, &again.1["standing"]), (201, &json!("unproved")), "{}", again.1);
}

#[tokio::test]
async fn a_name_of_several_tenants_is_published_once_when_all_hosts_read_it_and_from_then_on() {
    let world = World::new();
    world
        .app
        .change(|draft| {
            draft.desired.head.publishes_shared = false;
            Ok(())
        })
        .unwrap();
    for who in [world.tenant("red").await, world.tenant("blue").await] {
        assert_eq!(world.call(&who, "POST", "/v2/domains", json!({ "name": "shop.example" })).await.0, 201);
    }
    let published = || world.latest().domains.iter().map(|it| it.id.0).collect::<Vec<_>>();
    assert_eq!(published(), [1, 2], "hosts of earlier versions refuse two of a name");
    let problems = world.get("/v2/problems").await.to_string();
    assert!(problems.contains("domain_not_published"), "{problems}");
    world.app.publish_shared().unwrap();
    assert_eq!(published(), [1, 2, 3]);
    let revision = world.latest().revision;
    world.app.publish_shared().unwrap();
    assert_eq!(world.latest().revision, revision, "it is published");
    assert!(!world.get("/v2/problems").await.to_string().contains("domain_not_published"));
    assert!(open(world._folder.path(), &world.store).desired().head.publishes_shared, "it is kept");
}

#[tokio::test]
async fn none_begins_to_send_beside_another_while_hosts_have_one_domain_of_a_name() {
    let world = World::new();
    let publishes = |is_so| {
        let set = |draft: &mut crate::app::Draft| {
            draft.desired.head.publishes_shared = is_so;
            Ok(())
        };
        world.app.change(set).unwrap();
    };
    publishes(false);
    let (red, blue) = (world.tenant("red").await, world.tenant("blue").await);
    for who in [&red, &blue] {
        assert_eq!(world.call(who, "POST", "/v2/domains", json!({ "name": "shop.example" })).await.0, 201);
    }
    let trust = json!({ "verification": "operator" });
    let of = |tenant: &str| format!("/v2/domains/shop.example?tenant={tenant}");
    assert_eq!(world.operator("PATCH", &of("blue"), trust.clone()).await.0, 200);
    let (status, refused) = world.operator("PATCH", &of("red"), trust.clone()).await;
    assert_eq!((status, &refused["code"]), (409, &json!("conflict")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("blue sends by shop.example"), "{refused}");
    let (status, refused) = world.operator("POST", "/v2/domains", json!({ "name": "shop.example" })).await;
    assert_eq!(status, 409, "the operator's word goes without saying: {refused}");
    let mut state = world.get("/v2/state").await;
    for domain in state["domains"].as_array_mut().unwrap() {
        domain["verification"] = json!("operator");
    }
    let (status, refused) = world.operator("POST", "/v2/state/plan", state.clone()).await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/domains")), "{refused}");
    assert_eq!(world.operator("PATCH", &of("blue"), trust.clone()).await.0, 200, "who sends already goes on");
    let published = || world.latest().domains.iter().map(|it| it.id.0).collect::<Vec<_>>();
    assert_eq!(published(), [1, 3]);
    publishes(true);
    assert_eq!(world.operator("POST", "/v2/state/plan", state).await.0, 200);
    assert_eq!(world.operator("PATCH", &of("red"), trust).await.0, 200);
}

#[tokio::test]
async fn an_explanation_is_of_the_tenant_that_is_named_and_else_of_the_first() {
    let world = World::new();
    for name in ["red", "blue"] {
        let who = world.tenant(name).await;
        assert_eq!(world.call(&who, "POST", "/v2/domains", json!({ "name": "shop.example" })).await.0, 201);
        let pool = json!({ "name": name, "tenant": name, "members": [{ "source": "default" }] });
        assert_eq!(world.operator("POST", "/v2/pools", pool).await.0, 201);
        let path = format!("/v2/domains/shop.example?tenant={name}");
        assert_eq!(world.operator("PATCH", &path, json!({ "pool": name })).await.0, 200);
    }
    let path = "/v2/explain?from=shop.example&to=receiver.example";
    for (tenant, whose) in [("", "red"), ("&tenant=red", "red"), ("&tenant=blue", "blue")] {
        let told = world.get(&format!("{path}{tenant}")).await;
        assert_eq!((&told["tenant"], &told["pool"]["name"]), (&json!(whose), &json!(whose)), "{told}");
    }
    let (status, problem) = world.operator("GET", &format!("{path}&tenant=default"), Value::Null).await;
    assert_eq!(status, 404, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("shop.example of tenant default"), "{problem}");
    assert_eq!(world.operator("GET", &format!("{path}&tenant=nobody"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_page_may_end_between_two_tenants_domains_of_a_name() {
    let world = World::new();
    for name in ["red", "blue", "green"] {
        let who = world.tenant(name).await;
        assert_eq!(world.call(&who, "POST", "/v2/domains", json!({ "name": "shop.example" })).await.0, 201);
    }
    let (mut listed, mut path) = (Vec::new(), "/v2/domains?limit=1".to_owned());
    for _ in 0..4 {
        let page = world.get(&path).await;
        let whose = page["items"].as_array().unwrap().iter().map(|it| it["tenant"].as_str().unwrap().to_owned());
        listed.extend(whose);
        let cursor = page["next_cursor"].as_str().unwrap_or_default().replace(' ', "%20");
        path = format!("/v2/domains?limit=1&cursor={cursor}");
    }
    assert_eq!(listed, ["default", "blue", "green", "red"]);
}

#[tokio::test]
async fn a_check_without_a_name_server_holds_nothing_against_a_domain_and_is_kept() {
    let world = World::new();
    let revision = world.latest().revision;
    let (status, checked) = world.operator("POST", "/v2/domains/sender.example/check", Value::Null).await;
    assert_eq!((status, &checked["standing"]), (200, &json!("trusted")), "{checked}");
    for record in checked["dns_records"].as_array().unwrap() {
        assert_eq!(record["check"]["state"], "unreachable", "{record}");
    }
    assert_eq!(world.get("/v2/domains/sender.example").await["checked_at_ms"], checked["checked_at_ms"]);
    assert_eq!(world.latest().revision, revision, "nothing was published");
    let again = open(world._folder.path(), &world.store);
    let kept = again.last_check(world.latest().domains[0].id).unwrap().expect("the check is stored");
    assert_eq!(json!(kept.checked_at_ms), checked["checked_at_ms"]);
}

#[tokio::test]
async fn settings_say_what_new_domains_of_the_operator_have_to_show() {
    let world = World::new();
    let change = json!({ "domain_verification": "dns", "spf_include": "_spf.mail.example" });
    let (status, set) = world.operator("PATCH", "/v2/settings", change).await;
    assert_eq!(
        (status, &set["domain_verification"], &set["spf_include"]),
        (200, &json!("dns"), &json!("_spf.mail.example"))
    );
    for days in [29, 3_651] {
        assert_eq!(world.operator("PATCH", "/v2/settings", json!({ "dkim_rotation_days": days })).await.0, 422);
    }
    let made = world.operator("POST", "/v2/domains", json!({ "name": "new.example" })).await.1;
    assert_eq!((&made["standing"], &made["verification"]), (&json!("unproved"), &json!("dns")));
    assert_eq!(made["dns_records"][1]["value"], "v=spf1 include:_spf.mail.example ~all");
    let named =
        world.operator("POST", "/v2/domains", json!({ "name": "b.example", "verification": "operator" })).await.1;
    assert_eq!(named["standing"], "trusted");
    assert!(world.get("/v2/settings").await.get("ownership_salt").is_none());
    assert_eq!(world.operator("PATCH", "/v2/settings", json!({ "spf_include": "no dots" })).await.0, 422);
}

#[tokio::test]
async fn a_rotation_keeps_the_former_secret_alive_until_the_next_one() {
    let world = World::new();
    let mut secrets = vec![world.first.secret.clone()];
    for _ in 0..2 {
        let (status, body) = world.operator("POST", "/v2/credentials/default/rotate", Value::Null).await;
        assert_eq!((status, &body["live_secrets"]), (200, &json!(2)));
        secrets.push(body["secret"].as_str().unwrap().to_owned());
    }
    let mut answers = Vec::new();
    for secret in &secrets {
        answers.push(world.call(&format!("Bearer {secret}"), "GET", "/v2/tenants", Value::Null).await.0);
    }
    assert_eq!(answers, [401, 200, 200]);
    assert_eq!(world.latest().credentials[0].secret_hashes.len(), 2);
    let shown = world.get("/v2/credentials/default").await;
    assert!(shown.get("secret").is_none() && shown.get("secret_hashes").is_none(), "{shown}");
    let disabled = world.operator("PATCH", "/v2/credentials/default", json!({ "disabled": true })).await;
    assert_eq!(disabled.0, 200);
    let bearer = format!("Bearer {}", secrets[2]);
    assert_eq!(world.call(&bearer, "GET", "/v2/tenants", Value::Null).await.0, 401);
}

/// A source with these further fields.
/// A shaping rule about `matches` that sets `further`.
fn rule(matches: Value, further: Value) -> Value {
    let mut rule = json!({ "name": "r", "match": matches });
    rule.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    rule
}

fn pool(members: Value) -> Value {
    json!({ "name": "p", "members": members })
}

fn source(further: Value) -> Value {
    let mut source = json!({ "name": "s", "address": "192.0.2.1", "ehlo_name": "a.b" });
    for (name, value) in further.as_object().unwrap() {
        source[name] = value.clone();
    }
    source
}

#[tokio::test]
async fn what_a_source_asks_of_its_host_is_kept_shown_and_replaced_whole() {
    let world = World::new();
    let asked = json!({ "nic": "eth1", "host": "mx1", "capabilities": ["net-b", "net-a"] });
    let (status, made) = world.operator("POST", "/v2/sources", source(asked)).await;
    assert_eq!(
        (status, &made["nic"], &made["host"], &made["routed"]),
        (201, &json!("eth1"), &json!("mx1"), &json!(false))
    );
    assert_eq!(made["capabilities"], json!(["net-a", "net-b"]));
    let published = &world.latest().sources[1].needs;
    assert_eq!((&published.carrier, published.capabilities.len()), (&Carrier::Nic("eth1".into()), 2));
    let body = json!({ "address": "192.0.2.1", "ehlo_name": "a.b", "routed": true });
    let (_, replaced) = world.operator("PUT", "/v2/sources/s", body).await;
    assert_eq!((&replaced["nic"], &replaced["host"], &replaced["routed"]), (&Value::Null, &Value::Null, &json!(true)));
}

type Refused = (&'static str, &'static str, Value, u16, &'static str, &'static str);

async fn refuse(world: &World, table: &[Refused]) {
    for (method, path, body, status, code, pointer) in table {
        let (found, problem) = world.operator(method, path, body.clone()).await;
        let named = (&problem["code"], &problem["errors"][0]["pointer"]);
        assert_eq!((found, named), (*status, (&json!(code), &json!(pointer))), "{path} {body}: {problem}");
    }
    assert_eq!(world.latest().revision, Revision(1), "nothing was published");
}

#[tokio::test]
async fn a_refusal_of_shaping_names_the_field() {
    let table = [
        ("POST", "/v2/providers", json!({ "name": "p", "hosts": [] }), 422, "invalid", "/hosts"),
        ("POST", "/v2/providers", json!({ "name": "p", "hosts": ["a b"] }), 422, "invalid", "/hosts"),
        ("POST", "/v2/shaping-rules", rule(json!({}), json!({})), 422, "invalid", ""),
        ("POST", "/v2/shaping-rules", rule(json!({}), json!({ "mail_rate": "1/week" })), 422, "invalid", "/mail_rate"),
        ("POST", "/v2/shaping-rules", rule(json!({}), json!({ "connections": 0 })), 422, "invalid", "/connections"),
        (
            "POST",
            "/v2/shaping-rules",
            rule(json!({ "tenant": "default" }), json!({ "connections": 1 })),
            422,
            "invalid",
            "/connections",
        ),
        (
            "POST",
            "/v2/shaping-rules",
            rule(json!({ "provider": "none" }), json!({ "mail_rate": "1/s" })),
            422,
            "invalid",
            "/match/provider",
        ),
        (
            "POST",
            "/v2/shaping-rules",
            rule(json!({ "campaign": "x" }), json!({ "mail_rate": "1/s" })),
            422,
            "invalid",
            "/match/campaign",
        ),
        (
            "POST",
            "/v2/shaping-rules",
            rule(json!({ "domain": "x" }), json!({ "mail_rate": "1/s" })),
            422,
            "unknown_field",
            "/match/domain",
        ),
    ];
    refuse(&World::new(), &table).await;
}

#[tokio::test]
async fn a_refusal_names_the_field() {
    let world = World::new();
    let table = [
        ("POST", "/v2/tenants", json!({ "name": "x", "colour": 1 }), 422, "unknown_field", "/colour"),
        ("POST", "/v2/tenants", json!({ "name": "X" }), 422, "invalid", "/name"),
        ("POST", "/v2/credentials", json!(["shop"]), 422, "invalid", ""),
        ("POST", "/v2/tenants", json!({ "name": "x", "weight": "1" }), 422, "invalid", "/weight"),
        ("POST", "/v2/tenants", json!({ "name": "x", "weight": 0 }), 422, "invalid", "/weight"),
        ("POST", "/v2/domains", json!({ "name": "nodots" }), 422, "invalid", "/name"),
        ("POST", "/v2/domains", json!({ "name": "a.example", "pool": "none" }), 422, "invalid", "/pool"),
        ("PATCH", "/v2/domains/sender.example", json!({}), 422, "invalid", ""),
        ("POST", "/v2/sources", json!({ "name": "s", "address": "x", "ehlo_name": "a.b" }), 422, "invalid", "/address"),
        ("POST", "/v2/sources", source(json!({ "nick": "eth0" })), 422, "unknown_field", "/nick"),
        ("POST", "/v2/sources", source(json!({ "nic": "eth 0" })), 422, "invalid", "/nic"),
        ("POST", "/v2/sources", source(json!({ "nic": "eth0", "routed": true })), 422, "invalid", "/routed"),
        ("POST", "/v2/sources", source(json!({ "host": "MX_1" })), 422, "invalid", "/host"),
        ("POST", "/v2/sources", source(json!({ "capabilities": ["net a"] })), 422, "invalid", "/capabilities"),
        (
            "POST",
            "/v2/pools",
            json!({ "name": "p", "members": [{ "source": "default", "wieght": 1 }] }),
            422,
            "unknown_field",
            "/members/0/wieght",
        ),
        ("POST", "/v2/suspensions", json!({ "reason": "" }), 422, "invalid", ""),
        ("PUT", "/v2/suppressions/nobody", json!({}), 422, "invalid", "/address"),
        ("POST", "/v2/queue/retry", json!({ "site": "a", "domain": "b" }), 422, "invalid", ""),
        ("POST", "/v2/queue/retry", json!({ "message": "x" }), 422, "invalid", "/message"),
        ("POST", "/v2/queue/retry", json!({ "site": null }), 422, "invalid", "/site"),
        ("POST", "/v2/queue/retry", json!({ "site": "a b" }), 422, "invalid", "/site"),
        ("POST", "/v2/queue/retry", json!({ "domain": "a..b" }), 422, "invalid", "/domain"),
        (
            "POST",
            "/v2/pools",
            pool(json!([{ "source": "default" }, { "source": "x" }])),
            422,
            "invalid",
            "/members/1/source",
        ),
        (
            "POST",
            "/v2/pools",
            pool(json!([{ "source": "default" }, { "source": "default" }])),
            422,
            "invalid",
            "/members/1/source",
        ),
        ("POST", "/v2/pools", pool(json!([{ "source": "default", "weight": 0 }])), 422, "invalid", "/members/0/weight"),
        ("POST", "/v2/suspensions", json!({ "site": "mx1.example,", "reason": "" }), 422, "invalid", "/site"),
    ];
    refuse(&world, &table).await;
}

#[tokio::test]
async fn what_is_no_json_or_too_much_of_it_is_refused() {
    let world = World::new();
    for (body, status) in [("{", 400), ("{} {}", 422), ("", 400), ("\u{0}", 400)] {
        let request = Request::post("/v2/tenants").header(header::AUTHORIZATION, "Bearer po_token");
        let response = world.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{body:?}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
    let request = Request::post("/v2/tenants").header(header::AUTHORIZATION, "Bearer po_token");
    let body = Body::from(vec![b' '; CONTROL_BODY_BYTES_MAX + 1]);
    let response = world.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    assert_eq!(response.status().as_u16(), 413);
}

#[tokio::test]
async fn what_would_break_the_configuration_is_refused_and_says_why() {
    let world = World::new();
    let (status, problem) = world.operator("DELETE", "/v2/sources/default", Value::Null).await;
    assert_eq!((status, &problem["errors"][0]["code"]), (409, &json!("dangling_source")));
    let (status, problem) = world.operator("DELETE", "/v2/pools/default", Value::Null).await;
    assert_eq!((status, &problem["errors"][0]["code"]), (409, &json!("no_default_pool")));
    let (status, problem) =
        world.operator("PUT", "/v2/pools/default", json!({ "tenant": "default", "members": [] })).await;
    let codes: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| error["code"].clone()).collect();
    assert_eq!((status, codes), (409, vec![json!("pool_empty"), json!("default_pool_owned")]));
    assert_eq!(world.operator("DELETE", "/v2/tenants/default", Value::Null).await.0, 409);
    assert_eq!(world.operator("POST", "/v2/domains", json!({ "name": "sender.example" })).await.0, 409);
    assert_eq!(world.latest().revision, Revision(1), "nothing was published");
}

#[tokio::test]
async fn every_kind_of_resource_reaches_the_snapshot_and_leaves_it() {
    let world = World::new();
    let first = world.latest();
    world.tenant("red").await;
    let calls = [
        ("PATCH", "/v2/tenants/red", json!({ "quota_per_day": 5, "weight": 3, "reserved_per_s": 9 }), 200),
        (
            "POST",
            "/v2/sources",
            json!({ "name": "two", "address": "192.0.2.2", "ehlo_name": "two.sender.example" }),
            201,
        ),
        ("PUT", "/v2/sources/two", json!({ "address": "2001:db8::2", "ehlo_name": "two.sender.example" }), 200),
        ("POST", "/v2/pools", json!({ "name": "reds", "tenant": "red", "members": [{ "source": "two" }] }), 201),
        ("POST", "/v2/domains?tenant=red", json!({ "name": "red.example", "pool": "reds" }), 201),
        ("POST", "/v2/routes", json!({ "domain": "*", "routing_domain": "relay.example", "port": 2525 }), 201),
        ("POST", "/v2/providers", json!({ "name": "google", "hosts": [".google.com"] }), 201),
        ("PUT", "/v2/providers/google", json!({ "hosts": [".Google.com", ".googlemail.com"] }), 200),
        ("POST", "/v2/shaping-rules", rule(json!({ "provider": "google" }), json!({ "connections": 5 })), 201),
        ("PUT", "/v2/shaping-rules/r", json!({ "match": { "provider": "google" }, "mail_rate": "60/m" }), 200),
        ("POST", "/v2/suspensions", json!({ "site": "slow.example", "reason": "asked to" }), 201),
        ("POST", "/v2/suspensions", json!({ "source": "two", "reason": "listed" }), 201),
        ("POST", "/v2/suspensions", json!({ "site": "MX2.many.example, mx1.many.example", "reason": "x" }), 201),
        ("PUT", "/v2/suppressions/A@Receiver.Example?tenant=red", json!({ "reason": "asked to" }), 201),
        ("PUT", "/v2/suppressions/a@receiver.example?tenant=red", json!({}), 200),
    ];
    for (method, path, body, status) in calls {
        let (found, answer) = world.operator(method, path, body).await;
        assert_eq!(found, status, "{path}: {answer}");
    }
    let content = world.latest();
    let red = &content.tenants[1];
    assert_eq!((red.quota_per_day, red.weight, red.reserved_per_s), (Some(5), 3, Some(9)));
    assert_eq!(content.sources[1].address.to_string(), "2001:db8::2");
    assert_eq!(content.domains[1].pool, Some(content.pools[1].id));
    assert_eq!((content.routes.len(), content.suspensions.len(), content.suppressions.len()), (1, 3, 1));
    let many = SuspensionTarget::Site("mx1.many.example,mx2.many.example".to_owned());
    assert_eq!(content.suspensions[2].target, many, "as the queue names the site");
    assert_eq!(content.providers[0].hosts, [".google.com", ".googlemail.com"]);
    let found = &content.shaping_rules[0];
    let rate = found.mail_rate.map(|rate| rate.to_string());
    assert_eq!((found.connections, rate.as_deref(), found.matches.provider.is_some()), (None, Some("60/min"), true));
    let (status, problem) = world.operator("DELETE", "/v2/providers/google", Value::Null).await;
    assert_eq!((status, &problem["errors"][0]["code"]), (409, &json!("dangling_provider")));
    assert_eq!(content.suppressions[0].address, "a@receiver.example");
    let records = world.get("/v2/domains/red.example").await;
    assert_eq!(records["dns_records"][1]["value"], "v=spf1 ip6:2001:db8::2 ~all");
    let problems = world.get("/v2/problems").await;
    let found = problems["items"].as_array().unwrap().iter().any(|problem| problem["code"] == "source_unbound");
    assert!(found, "{problems}");

    let deletes = [
        "/v2/shaping-rules/r",
        "/v2/providers/google",
        "/v2/suspensions/1",
        "/v2/suspensions/2",
        "/v2/suspensions/3",
        "/v2/routes/*",
        "/v2/domains/red.example",
    ];
    let deletes = deletes.into_iter().chain(["/v2/pools/reds", "/v2/sources/two", "/v2/credentials/red-app"]);
    for path in deletes.chain(["/v2/suppressions/a@receiver.example?tenant=red", "/v2/tenants/red"]) {
        assert_eq!(world.operator("DELETE", path, Value::Null).await.0, 204, "{path}");
        assert_eq!(world.operator("DELETE", path, Value::Null).await.0, 404, "{path}");
    }
    assert_eq!(SnapshotContent { revision: first.revision, ..world.latest() }, first);
    world.operator("POST", "/v2/tenants", json!({ "name": "green" })).await;
    assert_eq!(world.latest().tenants[1].id, TenantId(3), "ids are never given again");
}

#[tokio::test]
async fn a_tenant_of_a_region_is_told_elsewhere_by_marks_that_follow_its_secrets() {
    let world = World::new();
    let region = json!({ "name": "eu", "submission_host": "Mail.EU.example" });
    assert_eq!(world.operator("POST", "/v2/regions", region.clone()).await.1["submission_host"], "mail.eu.example");
    assert_eq!(world.operator("POST", "/v2/regions", region).await.0, 409);
    world.operator("POST", "/v2/regions", json!({ "name": "us", "submission_host": "mail.us.example" })).await;
    for (tenant, region) in [("red", "eu"), ("blue", "us")] {
        let (_, made) = world.operator("POST", "/v2/tenants", json!({ "name": tenant, "region": region })).await;
        assert_eq!(made["region"], region);
    }
    let (_, made) = world.operator("POST", "/v2/credentials?tenant=red", json!({ "username": "red-app" })).await;
    let first = mark_of(made["secret"].as_str().unwrap().as_bytes());
    let (_, rotated) = world.operator("POST", "/v2/credentials/red-app/rotate", json!({})).await;
    let second = mark_of(rotated["secret"].as_str().unwrap().as_bytes());
    let marks = |content: SnapshotContent| content.signposts.iter().map(|post| post.mark).collect::<BTreeSet<_>>();
    assert_eq!(marks(world.latest()), BTreeSet::from([first, second]));
    world.operator("PATCH", "/v2/credentials/red-app", json!({ "disabled": true })).await;
    assert!(marks(world.latest()).is_empty(), "nobody is sent where it would be refused");
    world.operator("PATCH", "/v2/credentials/red-app", json!({ "disabled": false })).await;

    // This control plane is of region eu: its ledger is not that of blue.
    let gone = json!({ "address": "gone@receiver.example" });
    assert_eq!(world.operator("POST", "/v2/suppressions?tenant=red", gone.clone()).await.0, 201);
    let (status, problem) = world.operator("POST", "/v2/suppressions?tenant=blue", gone).await;
    assert_eq!((status, &problem["code"]), (403, &json!("wrong_region")), "{problem}");
    reads_of_another_region_name_it(&world).await;

    assert_eq!(world.operator("DELETE", "/v2/regions/us", Value::Null).await.0, 409);
    let (status, problem) = world.operator("DELETE", "/v2/tenants/blue", Value::Null).await;
    assert_eq!((status, &problem["code"]), (403, &json!("wrong_region")), "who has its ledger is asked: {problem}");
    let gone = Write::Delete { key: postrail_schema::keys::leader("us") };
    world.store.txn(&[], &[gone]).unwrap();
    assert_eq!(world.operator("DELETE", "/v2/tenants/blue", Value::Null).await.0, 204, "nobody can be asked");
    assert_eq!(world.operator("DELETE", "/v2/regions/us", Value::Null).await.0, 204);
    let told: Vec<_> = world.latest().regions.into_iter().map(|region| region.name).collect();
    assert_eq!(told, ["eu"]);
    // What was published bit by bit is what another process makes of the whole.
    let (shown, whole) = (world.latest(), open(world._folder.path(), &world.store).desired());
    let whole = SnapshotContent { suppressions: shown.suppressions.clone(), ..content(&whole, shown.revision) };
    assert_eq!(shown, whole);
}

/// What is of tenant blue and in the ledger, or on the hosts, of region us.
async fn reads_of_another_region_name_it(world: &World) {
    let job = MessageId::from_bits(7);
    let paths = [
        "/v2/suppressions".to_owned(),
        "/v2/suppressions/gone@receiver.example".to_owned(),
        "/v2/events".to_owned(),
        "/v2/tenants/blue/quota".to_owned(),
        format!("/v2/jobs/{job}"),
        format!("/v2/jobs/{job}/recipients"),
        format!("/v2/trace/{job}"),
    ];
    let leader = Write::Put { key: postrail_schema::keys::leader("us"), value: b"10.2.0.1:8081".to_vec() };
    world.store.txn(&[], &[leader]).unwrap();
    let (_, made) = world.operator("POST", "/v2/credentials?tenant=blue", json!({ "username": "blue-app" })).await;
    let blue = format!("Bearer {}", made["secret"].as_str().unwrap());
    let of_operators = paths.iter().map(|path| ("Bearer po_token", format!("{path}?tenant=blue")));
    let of_operators = of_operators.chain([("Bearer po_token", "/v2/quarantine?tenant=blue".to_owned())]);
    for (who, path) in of_operators.chain(paths.iter().map(|path| (blue.as_str(), path.clone()))) {
        let (status, problem) = world.call(who, "GET", &path, Value::Null).await;
        assert_eq!((status, &problem["code"]), (403, &json!("wrong_region")), "{path}: {problem}");
        assert!(
            problem["detail"].as_str().unwrap().ends_with("region us: ask its control plane, 10.2.0.1:8081"),
            "{problem}"
        );
    }
    // Who names no tenant asks for what is here, and what is no secret of a region is told everywhere.
    for path in
        ["/v2/events", "/v2/suppressions", "/v2/suppressions?tenant=red", "/v2/tenants/blue", "/v2/domains?tenant=blue"]
    {
        world.get(path).await;
    }
    assert_eq!(world.operator("DELETE", "/v2/credentials/blue-app", Value::Null).await.0, 204);
}

#[tokio::test]
async fn publications_grow_by_one_revision_each_also_when_many_change_at_once() {
    let world = Arc::new(World::new());
    let calls = (0..8).map(|n| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.operator("POST", "/v2/tenants", json!({ "name": format!("t{n}") })).await.0 })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 201);
    }
    assert_eq!((world.latest().revision, world.latest().tenants.len()), (Revision(9), 9));
}

#[tokio::test]
async fn two_processes_on_one_store_never_lose_each_others_changes() {
    let world = World::new();
    let other = open(world._folder.path(), &world.store);
    let (status, _) = world.operator("POST", "/v2/tenants", json!({ "name": "red" })).await;
    assert_eq!(status, 201);
    other
        .change_tenant("red", &crate::app::TenantChange { weight: Some(7), ..Default::default() }, &Default::default())
        .unwrap();
    world.app.reload().unwrap();
    assert_eq!(world.get("/v2/tenants/red").await["weight"], 7);
    assert_eq!(world.latest().tenants.len(), 2);
}

#[tokio::test]
async fn a_job_tells_what_became_of_each_recipient() {
    let world = World::new();
    world.record(vec![event(EventKind::Accepted, 7, 1, 10), event(EventKind::Delivered, 7, 1, 20)]);
    let job = MessageId::from_bits(7).to_string();
    let shown = world.get(&format!("/v2/jobs/{job}")).await;
    assert_eq!((&shown["tenant"], &shown["states"]), (&json!("default"), &json!({ "delivered": 1 })));
    let recipients = world.get(&format!("/v2/jobs/{job}/recipients")).await;
    let recipient = &recipients["items"][0];
    assert_eq!((&recipient["state"], &recipient["settled_ms"]), (&json!("delivered"), &json!(20)));
    assert_eq!(recipient["last_reply"], json!({ "code": 250, "enhanced_status": "", "text": "ok" }));
    let trace = world.get(&format!("/v2/trace/{job}.0")).await;
    let kinds: Vec<_> = trace["items"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, [json!("accepted"), json!("delivered")]);
    for path in ["/v2/trace/nothing", &format!("/v2/trace/{job}.9"), &format!("/v2/trace/{job}.x"), "/v2/jobs/x"] {
        assert_eq!(world.operator("GET", path, Value::Null).await.0, 404, "{path}");
    }
    let (status, problem) = world.operator("POST", &format!("/v2/jobs/{job}/cancel"), Value::Null).await;
    assert_eq!((status, &problem["code"]), (502, &json!("data_plane_unreachable")));
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let world = World::new();
    for n in 0..5 {
        world.operator("POST", "/v2/tenants", json!({ "name": format!("t{n}") })).await;
        world.operator("PUT", &format!("/v2/suppressions/a{n}@x.example?tenant=t{n}"), json!({})).await;
    }
    world.record((0..5).map(|n| event(EventKind::Accepted, n + 1, 1, 10)).collect());
    for (list, name, count) in
        [("tenants", "name", 6), ("suppressions", "address", 5), ("events", "sequence", 5), ("audit", "sequence", 10)]
    {
        let mut seen = Vec::new();
        let mut path = format!("/v2/{list}?limit=2");
        for _ in 0..10 {
            let page = world.get(&path).await;
            let items = page["items"].as_array().unwrap();
            seen.extend(items.iter().map(|item| item[name].to_string()));
            let (Some(cursor), false) = (page["next_cursor"].as_str(), items.is_empty()) else { break };
            path = format!("/v2/{list}?limit=2&cursor={cursor}");
        }
        let unique: BTreeSet<_> = seen.iter().collect();
        assert_eq!((seen.len(), unique.len()), (count, count), "{list}: {seen:?}");
    }
    for query in ["limit=0", "limit=1001", "limit=x", "page=2"] {
        assert_eq!(world.operator("GET", &format!("/v2/tenants?{query}"), Value::Null).await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn every_change_leaves_a_trace_with_its_outcome() {
    let world = World::new();
    world.operator("POST", "/v2/tenants", json!({ "name": "red" })).await;
    world.operator("DELETE", "/v2/tenants/blue", Value::Null).await;
    let bearer = format!("Bearer {}", world.first.secret);
    world.call(&bearer, "POST", "/v2/queue/retry", json!({})).await;
    world.get("/v2/tenants").await;
    let trail = world.get("/v2/audit").await;
    let trail: Vec<_> = trail["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            (record["actor"].as_str().unwrap(), record["action"].as_str().unwrap(), record["status"].as_u64())
        })
        .collect();
    assert_eq!(
        trail,
        [
            ("credential/default", "POST /v2/queue/retry", Some(403)),
            ("operator", "DELETE /v2/tenants/blue", Some(404)),
            ("operator", "POST /v2/tenants", Some(201)),
        ]
    );
}

#[tokio::test]
async fn the_document_describes_every_path_and_no_other() {
    let world = World::new();
    let document = world.call("", "GET", "/openapi.json", Value::Null).await.1;
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().unwrap() {
        let concrete = path.replace("{id}", "7").replace("{", "").replace("}", "");
        for method in methods.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            let (status, body) = world.operator(&method, &concrete, Value::Null).await;
            assert_ne!(status, 405, "{method} {path}");
            assert_ne!(body["detail"], "this path does not exist", "{method} {path}");
        }
    }
    assert_eq!(document["paths"].as_object().unwrap().len(), 69);
}
