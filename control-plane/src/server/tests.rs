//! A whole control plane beside a data plane that plays its part: journals, trimming, the queue.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use postrail_schema::event::{Event, EventKind, JobFacts};
use postrail_schema::ids::{MessageId, RecipientIndex, Revision, TenantId};
use postrail_schema::keys::MANIFEST;
use postrail_schema::wire::{decode_manifest, encode_events};
use serde_json::{Value, json};

use super::*;
use crate::ledger::Counterpart;
use crate::store::EmbeddedStore;
use crate::store::suite::Etcd;

/// A data plane of one shard: its journal is a list of buffers, its offsets count them.
#[derive(Clone, Default)]
struct Fake {
    journal: Arc<Mutex<Vec<Vec<u8>>>>,
    trimmed: Arc<Mutex<Vec<Value>>>,
    /// The journal has nothing before this offset.
    oldest: Arc<Mutex<usize>>,
    /// What it was told of quotas.
    quotas: Arc<Mutex<Vec<Value>>>,
    /// How often it was started.
    start: Arc<Mutex<u64>>,
}

impl Fake {
    async fn listen(&self) -> String {
        let router = Router::new()
            .route("/shards", get(|| async { Json(json!({ "shards": 1 })) }))
            .route("/journal", get(journal))
            .route("/journal/trim", post(trim))
            .route("/quotas", post(quotas))
            .route("/queue", get(|| async { Json(json!({ "shards": [{ "waiting": 3 }] })) }))
            .with_state(self.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }
}

type Pulled = (StatusCode, [(HeaderName, String); 2], Vec<u8>);

async fn journal(State(fake): State<Fake>, Query(query): Query<HashMap<String, usize>>) -> Pulled {
    let offset = query["offset"];
    let oldest = *fake.oldest.lock().unwrap();
    if offset < oldest {
        let place = [("x-oldest-segment", "0".to_owned()), ("x-oldest-offset", oldest.to_string())];
        let place = place.map(|(name, value)| (HeaderName::from_static(name), value));
        return (StatusCode::GONE, place, Vec::new());
    }
    let buffers: Vec<_> = fake.journal.lock().unwrap().iter().skip(offset).take(2).cloned().collect();
    if buffers.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let next = [
        (HeaderName::from_static("x-next-segment"), query["segment"].to_string()),
        (HeaderName::from_static("x-next-offset"), (offset + buffers.len()).to_string()),
    ];
    let framed = buffers.iter().flat_map(|buffer| [&(buffer.len() as u32).to_le_bytes()[..], buffer].concat());
    (StatusCode::OK, next, framed.collect())
}

async fn trim(State(fake): State<Fake>, Json(body): Json<Value>) {
    fake.trimmed.lock().unwrap().push(body);
}

async fn quotas(State(fake): State<Fake>, Json(body): Json<Value>) -> Json<Value> {
    let (start, day) = (*fake.start.lock().unwrap(), body["day"].clone());
    fake.quotas.lock().unwrap().push(body);
    Json(json!({ "start": format!("{start:016x}"), "day": day }))
}

fn accepted(message: u128) -> Vec<u8> {
    accepted_at(message, 5)
}

fn accepted_at(message: u128, at_ms: u64) -> Vec<u8> {
    let event = Event {
        kind: EventKind::Accepted,
        message: MessageId::from_bits(message),
        index: RecipientIndex(0),
        at_ms,
        revision: Revision(1),
        tenant: TenantId(1),
        address: "a@receiver.example".into(),
        job: Some(JobFacts::default().into()),
        attempt: None,
        reason: String::new(),
        next_attempt_ms: 0,
    };
    encode_events(&[event])
}

fn config(folder: &Path, admin: &str) -> Config {
    Config {
        data: folder.to_owned(),
        master_keys: crate::master_keys(folder, |_| None).unwrap(),
        ledger: None,
        store: Arc::new(EmbeddedStore::open(&folder.join("config.db")).unwrap()),
        data_planes: DataPlanes::Beside(admin.to_owned()),
        api: "127.0.0.1:0".parse().unwrap(),
        resolvers: Vec::new(),
        region: String::new(),
        host_name: String::new(),
    }
}

/// A started control plane, and the revision that its start has published.
async fn launch(folder: &Path, admin: &str) -> (Started, u64) {
    let config = config(folder, admin);
    let store = Arc::clone(&config.store);
    let bootstrap =
        Bootstrap { hostname: "localhost".into(), domain: None, algorithms: Vec::new(), routes: Vec::new() };
    let started = start(config, bootstrap).await.unwrap();
    let manifest = store.get(&[MANIFEST.to_owned()]).unwrap();
    (started, decode_manifest(&manifest.entries[0].value).unwrap().revision.0)
}

/// Asks until the answer is as `wanted` says; the harness's own patience, ten seconds.
async fn eventually(api: SocketAddr, token: &str, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let client = reqwest::Client::new();
    let mut last = Value::Null;
    for _ in 0..500 {
        let request = client.get(format!("http://{api}{path}")).bearer_auth(token);
        last = request.send().await.unwrap().json().await.unwrap();
        if wanted(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{path} stayed {last}");
}

#[tokio::test]
async fn journals_reach_the_ledger_once_and_are_trimmed_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let admin = fake.listen().await;
    fake.journal.lock().unwrap().extend([accepted(1), b"noise".to_vec(), accepted(2)]);
    let count = |count: usize| move |page: &Value| page["items"].as_array().is_some_and(|items| items.len() == count);

    let (started, published) = launch(folder.path(), &admin).await;
    let token = started.first.as_ref().unwrap().operator_token.clone();
    let kept = std::fs::read_to_string(folder.path().join("operator.token")).unwrap();
    assert_eq!(kept.trim(), token);
    eventually(started.api, &token, "/v2/events", count(2)).await;
    assert_eq!(eventually(started.api, &token, "/v2/queue", |_| true).await["shards"], json!([{ "waiting": 3 }]));
    started.handle.shutdown().await;

    fake.journal.lock().unwrap().push(accepted(3));
    let (started, again) = launch(folder.path(), &admin).await;
    assert!(started.first.is_none());
    let page = eventually(started.api, &token, "/v2/events", count(3)).await;
    assert_eq!(page["items"][2]["sequence"], 3);
    for _ in 0..200 {
        let trimmed = fake.trimmed.lock().unwrap().last().cloned();
        if trimmed == Some(json!({ "shard": 0, "segment": 0, "offset": 4 })) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    started.handle.shutdown().await;
    let trimmed = fake.trimmed.lock().unwrap().last().cloned();
    assert_eq!(trimmed, Some(json!({ "shard": 0, "segment": 0, "offset": 4 })));
    assert_eq!((published, again), (1, 2));
}

#[tokio::test]
async fn a_journal_that_lost_its_beginning_is_read_from_where_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let admin = fake.listen().await;
    fake.journal.lock().unwrap().extend([accepted(1), accepted(2), accepted(3)]);
    *fake.oldest.lock().unwrap() = 2;
    let (started, _) = launch(folder.path(), &admin).await;
    let token = started.first.as_ref().unwrap().operator_token.clone();
    let one = |page: &Value| page["items"].as_array().is_some_and(|items| items.len() == 1);
    let page = eventually(started.api, &token, "/v2/events", one).await;
    assert_eq!(page["items"][0]["job"], MessageId::from_bits(3).to_string());
    started.handle.shutdown().await;
}

#[tokio::test]
async fn a_data_plane_is_told_what_is_used_up_and_everything_again_when_it_was_started_anew() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let admin = fake.listen().await;
    let now = crate::app::now_ms();
    let old = accepted_at(9, now - 2 * 86_400_000);
    fake.journal.lock().unwrap().extend([accepted_at(1, now), old, accepted_at(2, now)]);
    let (started, _) = launch(folder.path(), &admin).await;
    let token = &started.first.as_ref().unwrap().operator_token;
    let quota = |used: u64| move |quota: &Value| quota["used"] == used;
    eventually(started.api, token, "/v2/tenants/default/quota", quota(2)).await;
    let tells = || fake.quotas.lock().unwrap().clone();
    assert_eq!(tells(), Vec::<Value>::new(), "nobody has a quota");
    let url = format!("http://{}/v2/tenants/default", started.api);
    let patch = reqwest::Client::new().patch(url).bearer_auth(token).json(&json!({ "quota_per_day": 10 }));
    assert!(patch.send().await.unwrap().status().is_success());

    let until = async |tenants: Value| {
        for _ in 0..500 {
            if let Some(tell) = tells().iter().find(|tell| tell["tenants"] == tenants) {
                return tell.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{tenants} was not told, but {:?}", tells());
    };
    let first = until(json!([[1, 2, 0]])).await;
    assert_eq!(first["day"], json!(now / 86_400_000));
    fake.journal.lock().unwrap().push(accepted_at(3, now));
    until(json!([[1, 3, 0]])).await;
    // What it knows is not told again, and each second it is asked whether it still knows.
    until(json!([])).await;
    *fake.start.lock().unwrap() += 1;
    fake.quotas.lock().unwrap().clear();
    until(json!([[1, 3, 0]])).await;
    assert_eq!(tells()[0]["tenants"], json!([]), "it was asked first");
    started.handle.shutdown().await;
}

#[tokio::test]
async fn a_deleted_token_file_makes_another_token_and_ends_the_former() {
    let folder = tempfile::tempdir().unwrap();
    let (started, _) = launch(folder.path(), "http://127.0.0.1:1").await;
    let former = started.first.unwrap().operator_token;
    started.handle.shutdown().await;
    std::fs::remove_file(folder.path().join("operator.token")).unwrap();
    let (started, _) = launch(folder.path(), "http://127.0.0.1:1").await;
    let token = std::fs::read_to_string(folder.path().join("operator.token")).unwrap();
    eventually(started.api, token.trim(), "/v2/tenants", |page| page["items"].is_array()).await;
    eventually(started.api, &former, "/v2/tenants", |page| page["code"] == "unauthorized").await;
    started.handle.shutdown().await;
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { api: "0.0.0.0:0".parse().unwrap(), ..config(folder.path(), "http://127.0.0.1:1") };
    let refused = start(config, Bootstrap::default()).await.err().expect("a refusal");
    assert!(refused.to_string().contains("not a loopback address"), "{refused}");
}

#[tokio::test]
async fn another_master_key_than_that_of_the_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (started, _) = launch(folder.path(), "http://127.0.0.1:1").await;
    started.handle.shutdown().await;
    std::fs::write(folder.path().join("master.key"), [3; 32]).unwrap();
    let refused = start(config(folder.path(), "http://127.0.0.1:1"), Bootstrap::default()).await;
    assert!(format!("{:#}", refused.err().unwrap()).contains("not that of this configuration"));
}

#[test]
fn a_move_of_the_ledger_in_which_etcd_dies_is_done_and_says_that_etcd_was_not_told() {
    let (counterpart, mut etcd) = (Counterpart::start(), Etcd::start(&[]));
    let folder = tempfile::tempdir().unwrap();
    files::make_master_key(folder.path()).unwrap();
    let file = SqliteLedger::open(&folder.path().join("ledger.db")).unwrap();
    file.audit_begin(1, "operator", "GET /").unwrap();
    let (from, id) = (folder.path(), file.id().unwrap());
    drop(file);
    let store = etcd.store().within(Duration::from_secs(1));
    // A cluster that has a configuration.
    store.txn(&[], &[Write::Put { key: HEAD.to_owned(), value: Vec::new() }]).unwrap();
    let own = LedgerUse {
        ledger: format!("{id:032x}"),
        server: None,
        file: Some(files::which(&from.join("ledger.db")).unwrap()),
        host: String::new(),
        api: String::new(),
        master_keys: Vec::new(),
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LedgerClaim::take(store.as_ref(), "", own)).unwrap().withdraw();
    let last = |store: &dyn ConfigStore| {
        let listing = store.get(&[keys::last_ledger("")]).unwrap();
        serde_json::from_slice::<Value>(&listing.entries[0].value).unwrap()["ledger"].clone()
    };

    let address = counterpart.address();
    let moved = move_ledger(from, store.as_ref(), true, "", &address, |_| etcd.kill()).unwrap();
    assert!(format!("{:#}", moved.untold.unwrap()).contains("etcd"));
    assert!(moved.kinds.iter().any(|kind| (kind.what, kind.done) == ("records of the audit trail", 1)));
    etcd.start_again();
    let store = etcd.store();
    assert_eq!(last(&store), json!(format!("{id:032x}")));
    // Asked once more, it has nothing to do but that.
    let again = move_ledger(from, &store, true, "", &address, |_| {}).unwrap();
    assert!(again.untold.is_none() && again.kinds == moved.kinds);
    assert_ne!(last(&store), json!(format!("{id:032x}")));
}
