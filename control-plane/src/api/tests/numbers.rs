//! Numbers over the loss of the store: none is given twice, and an import gives what is its own.

use super::state::Mortal;
use super::*;
use crate::app::NewTenant;
use crate::store::Entry;

/// A store of its own with these entries.
fn store_with(folder: &std::path::Path, name: &str, entries: &[Entry]) -> Arc<dyn ConfigStore> {
    let store = EmbeddedStore::open(&folder.join(name)).unwrap();
    put_all(&store, entries);
    Arc::new(store)
}

fn put_all(store: &dyn ConfigStore, entries: &[Entry]) {
    for entry in entries {
        store.txn(&[], &[Write::Put { key: entry.key.clone(), value: entry.value.clone() }]).unwrap();
    }
}

impl World {
    /// A control plane that starts on `store` with the ledger that there is, as after the loss of the former store.
    fn restarted(self, store: Arc<dyn ConfigStore>) -> Self {
        let app = Arc::new(open(self._folder.path(), &store));
        let bootstrap = Bootstrap { hostname: "mail.sender.example".into(), ..Bootstrap::default() };
        assert!(app.bootstrap(&bootstrap, "po_token").unwrap().is_none(), "it is no first start");
        let router = router(Arc::clone(&app), Arc::default(), ["pf_token".to_owned()].into());
        Self { router, app, store, ..self }
    }

    fn number_of(&self, tenant: &str) -> u32 {
        self.app.desired().tenant(tenant).unwrap().id.0
    }
}

#[tokio::test]
async fn a_tenant_that_is_made_after_a_restore_sees_nothing_of_one_that_the_restored_state_lacks() {
    let world = World::new();
    let saved = world.store.list("").unwrap().entries;
    world.tenant("victim").await;
    let number = world.number_of("victim");
    world.record(vec![event(EventKind::Accepted, 1, number, 5)]);
    let suppression = json!({ "address": "a@receiver.example", "reason": "asked to" });
    assert_eq!(world.operator("POST", "/v2/suppressions?tenant=victim", suppression).await.0, 201);
    let store = store_with(world._folder.path(), "restored.db", &saved);
    let world = world.restarted(store);
    let stranger = world.tenant("stranger").await;
    assert!(world.number_of("stranger") > number);
    for path in ["/v2/events", "/v2/suppressions"] {
        let (status, body) = world.call(&stranger, "GET", path, Value::Null).await;
        assert_eq!((status, &body["items"]), (200, &json!([])), "{path}");
    }
}

#[tokio::test]
async fn a_store_that_goes_back_under_a_running_control_plane_is_told_what_was_given() {
    let world = World::new();
    let saved = world.store.list("desired/").unwrap().entries;
    // Two more with the same ledger, of which one has not heard of what is given now.
    let [other, late] = [0, 1].map(|_| open(world._folder.path(), &world.store));
    world.tenant("victim").await;
    other.reload().unwrap();
    world.operator("DELETE", "/v2/credentials/victim-app", Value::Null).await;
    world.operator("DELETE", "/v2/tenants/victim", Value::Null).await;
    put_all(world.store.as_ref(), &saved);
    let tenant = NewTenant {
        name: "stranger".into(),
        quota_per_day: None,
        weight: 1,
        message_bytes_max: 1 << 20,
        region: None,
        reserved_per_s: None,
        quarantines: false,
    };
    late.create_tenant(&tenant).unwrap();
    assert_eq!(late.desired().tenant("stranger").unwrap().id, TenantId(3), "the ledger tells who did not hear of it");
    put_all(world.store.as_ref(), &saved);
    other.reload().unwrap();
    let head = world.store.get(&["desired/head".to_owned()]).unwrap();
    let head: Value = serde_json::from_slice(&head.entries[0].value).unwrap();
    assert!(head["counters"]["tenant"].as_u64() >= Some(2), "who hears of it tells the others, by the store: {head}");
}

/// The version of the suppressions that the store's head names.
fn suppressions_of(store: &dyn ConfigStore) -> u64 {
    let head = store.get(&["desired/head".to_owned()]).unwrap();
    serde_json::from_slice::<Value>(&head.entries[0].value).unwrap()["suppressions"].as_u64().unwrap()
}

#[tokio::test]
async fn a_store_that_goes_back_names_suppressions_by_a_version_that_nobody_has() {
    let world = World::new();
    let saved = world.store.list("").unwrap().entries;
    let version = || suppressions_of(world.store.as_ref());
    let put_back = || {
        for entry in world.store.list("").unwrap().entries {
            world.store.txn(&[], &[Write::Delete { key: entry.key }]).unwrap();
        }
        put_all(world.store.as_ref(), &saved);
    };
    let suppress = |address: &'static str| {
        world.operator("POST", "/v2/suppressions?tenant=default", json!({ "address": address }))
    };
    let first = version();
    let mut given = BTreeSet::from([first]);
    // By who hears of it, and by who finds it with a change of its own.
    for address in ["a@receiver.example", "b@receiver.example"] {
        assert_eq!(suppress(address).await.0, 201);
        assert!(given.insert(version()));
        put_back();
        assert_eq!(version(), first);
        if address.starts_with('a') {
            world.app.reload().unwrap();
        } else {
            world.tenant("red").await;
        }
        assert!(given.insert(version()), "{} is not among {given:?}", version());
        let now = version();
        world.app.reload().unwrap();
        assert_eq!(version(), now, "it is announced once");
    }
    assert!(version() > given.iter().copied().rev().nth(1).unwrap());
}

#[tokio::test]
async fn an_import_into_an_empty_store_gives_everything_the_number_that_it_had() {
    let world = World::new();
    for name in ["zebra", "gone", "ant"] {
        world.tenant(name).await;
    }
    assert_eq!(world.operator("POST", "/v2/domains?tenant=ant", json!({ "name": "ant.example" })).await.0, 201);
    world.operator("DELETE", "/v2/credentials/gone-app", Value::Null).await;
    assert_eq!(world.operator("DELETE", "/v2/tenants/gone", Value::Null).await.0, 204);
    let before = world.latest();
    let document = world.get("/v2/state?secrets=true").await;
    assert!(world.get("/v2/state").await["numbers"].is_null());
    // It was given after the export.
    world.tenant("late").await;
    let late = world.number_of("late");
    let before_lost = suppressions_of(world.store.as_ref());
    let store = store_with(world._folder.path(), "empty.db", &[]);
    let world = world.restarted(store);
    world.app.announce_suppressions().unwrap();
    assert_eq!(world.keys("published/"), [""; 0], "nothing takes the place of what was lost");
    let is_told = || async { world.get("/v2/problems").await.to_string().contains("configuration_lost") };
    assert!(is_told().await);
    let (status, refused) = world.operator("POST", "/v2/tenants", json!({ "name": "oops" })).await;
    assert_eq!(status, 409, "by this one alone hosts would forget all others: {refused}");
    world.apply(&document).await;
    assert!(!is_told().await);
    assert!(suppressions_of(world.store.as_ref()) > before_lost, "data planes fetch what the ledger has");
    let after = world.latest();
    let numbers = |content: &SnapshotContent| {
        let tenants = content.tenants.iter().map(|tenant| (tenant.name.clone(), tenant.id.0));
        let credentials = content.credentials.iter().map(|one| (one.username.clone(), one.id.0));
        let domains = content.domains.iter().map(|domain| (domain.name.clone(), domain.id.0));
        let sources = content.sources.iter().map(|source| (source.name.clone(), source.id.0));
        tenants.chain(credentials).chain(domains).chain(sources).collect::<BTreeSet<_>>()
    };
    assert_eq!(numbers(&after), numbers(&before));
    world.tenant("new").await;
    assert!(world.number_of("new") > late, "{} {late}", world.number_of("new"));
}

#[tokio::test]
async fn an_import_after_a_loss_has_domains_of_one_name_unless_a_host_refuses_them() {
    let world = World::new();
    world.tenant("red").await;
    for tenant in ["default", "red"] {
        let domain = json!({ "name": "shared.example", "verification": "operator" });
        let (status, made) = world.operator("POST", &format!("/v2/domains?tenant={tenant}"), domain).await;
        assert_eq!(status, 201, "{made}");
    }
    let document = world.get("/v2/state?secrets=true").await;
    let store = store_with(world._folder.path(), "empty.db", &[]);
    let world = world.restarted(store);
    let announce = |format: u16| {
        let host =
            json!({ "id": 7, "admin": "http://10.0.0.9:8082", "shards": 1, "snapshot_format": format, "version": "1" });
        let write = Write::Put { key: "hosts/mx1".into(), value: host.to_string().into_bytes() };
        world.store.txn(&[], &[write]).unwrap();
    };
    announce(4);
    let (status, refused) = world.operator("POST", "/v2/state/plan", document.clone()).await;
    assert!(status == 422 && refused.to_string().contains("not all hosts read a second domain"), "{refused}");
    announce(5);
    world.apply(&document).await;
    let published = world.latest();
    assert_eq!(published.domains.iter().filter(|domain| domain.name == "shared.example").count(), 2);
    let refusing = async || {
        let problems = world.get("/v2/problems").await;
        let found = problems["items"].as_array().unwrap().iter().find(|one| one["code"] == "configuration_not_read");
        found.map(|one| (one["subject"].clone(), one["detail"].as_str().unwrap().to_owned()))
    };
    assert_eq!(refusing().await, None);
    // A host that was put back to an earlier version has to be found.
    announce(4);
    let (subject, detail) = refusing().await.expect("it is told");
    assert!(subject == "host/mx1" && detail.contains("shared.example"), "{subject} {detail}");
}

#[tokio::test]
async fn a_control_plane_whose_store_is_emptied_changes_nothing_and_still_exports() {
    let world = World::new();
    world.tenant("red").await;
    let before = world.get("/v2/state?secrets=true").await;
    for entry in world.store.list("").unwrap().entries {
        world.store.txn(&[], &[Write::Delete { key: entry.key }]).unwrap();
    }
    assert!(matches!(world.app.reload(), Err(AppError::StoreEmpty)));
    assert_eq!(world.get("/v2/state?secrets=true").await, before);
    let (status, problem) = world.operator("POST", "/v2/tenants", json!({ "name": "blue" })).await;
    assert_eq!((status, &problem["code"]), (503, &json!("store_empty")));
    assert_eq!(world.store.list("").unwrap().entries, []);
}

#[tokio::test]
async fn a_documents_number_is_not_kept_where_another_has_it_or_it_is_of_another_installation() {
    let world = World::new();
    let document = world.get("/v2/state?secrets=true").await;
    let with = |name: &str, number: Value, master_key: &Value| {
        let mut tenants = document["tenants"].clone();
        tenants.as_array_mut().unwrap().push(json!({ "name": name }));
        json!({ "tenants": tenants, "numbers": { "master_key": master_key, "tenants": { name: number }, "given": { "tenant": 9 } } })
    };
    let ours = &document["numbers"]["master_key"];
    world.apply(&with("red", json!(1), ours)).await;
    assert_eq!(world.number_of("red"), 10, "1 is the first tenant's, and up to 9 are given");
    world.apply(&with("blue", json!(10), ours)).await;
    assert_eq!(world.number_of("blue"), 11, "10 was given by this store");
    world.apply(&with("green", json!(5), &json!("AAAAAAAAAAA"))).await;
    assert_eq!(world.number_of("green"), 12);
    world.apply(&with("white", json!(5), ours)).await;
    assert_eq!(world.number_of("white"), 5);
    for number in [u32::MAX, 0x8000_0000] {
        let (status, answer) = world.operator("POST", "/v2/state/plan", with("a~b/c", json!(number), ours)).await;
        let pointers: Vec<_> =
            answer["errors"].as_array().unwrap().iter().map(|error| error["pointer"].clone()).collect();
        assert!(status == 422 && pointers.contains(&json!("/numbers/tenants/a~0b~1c")), "{answer}");
    }
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_one_again() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
    let dead: Arc<dyn ConfigStore> = Arc::new(Mortal { store: Arc::clone(&store), is_dead: true.into() });
    let bootstrap = Bootstrap { hostname: "mail.sender.example".into(), ..Bootstrap::default() };
    assert!(open(folder.path(), &dead).bootstrap(&bootstrap, "po_token").is_err());
    let app = open(folder.path(), &store);
    assert!(app.bootstrap(&bootstrap, "po_token").unwrap().is_some());
    assert_eq!(app.desired().tenant("default").unwrap().id, TenantId(1));
    assert!(app.ledger.given().unwrap()["tenant"] == 1, "and the ledger knows of it");
}
