//! Measures how fast a change of configuration reaches many data planes, with etcd and all of them on this host.
//!
//! ```text
//! cargo run --release -p postrail-control-plane --example publication -- [TENANTS] [DATA PLANES] [CHANGES]
//! ```
//!
//! A real etcd is started in a temporary folder, filled with tenants, two domains and two DKIM keys each, and a control
//! plane is started on it. Each data plane is a store of its own (a connection, a thread) that watches, verifies, decodes
//! and amends its snapshot, as the follower of a real one does; its disk is left out. A tenant's weight is changed by the
//! control API, and for every data plane the time is taken from before the request to when its snapshot has the change.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use postrail_control_plane::store::{Change, ConfigStore, EtcdOptions, EtcdStore, Watch, WatchEvent, Write};
use postrail_control_plane::{Bootstrap, Config, DataPlanes, start};
use postrail_schema::ids::{KeyId, SendingDomainId, TenantId};
use postrail_schema::keys;
use postrail_schema::limits::ETCD_OPERATIONS_MAX;
use postrail_schema::publication::{Assembly, ChunkName};
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm, SendingDomain, Tenant};
use postrail_schema::wire::decode_manifest;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Octets of a sealed RSA key of 2,048 bits, and of one of Ed25519.
const SEALED_BYTES: [usize; 2] = [1_246, 111];

#[tokio::main]
async fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let mut next = |usual| numbers.next().transpose().map(|told| told.unwrap_or(usual));
    let (tenants, planes, changes) = (next(10_000)?, next(64)?, next(200)?);
    let folder = tempfile::tempdir()?;
    let etcd = Etcd::start(folder.path())?;
    let options =
        EtcdOptions { endpoints: vec![etcd.url.clone()], root: keys::root("measured"), tls: None, user: None };
    let store: Arc<dyn ConfigStore> = Arc::new(EtcdStore::open(&options)?);
    let filling = Arc::clone(&store);
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || fill(filling.as_ref(), tenants)).await??;
    println!("{tenants} tenants with {} domains desired in etcd after {:.1?}", 2 * tenants, begun.elapsed());

    let begun = Instant::now();
    let config = Config {
        data: folder.path().join("control"),
        store: Arc::clone(&store),
        ledger: None,
        data_planes: DataPlanes::Announced,
        resolvers: Vec::new(),
        api: "127.0.0.1:0".parse()?,
    };
    let started = start(config, Bootstrap { hostname: "mail.sender.test".into(), ..Bootstrap::default() }).await?;
    let token = started.first.as_ref().context("a first start")?.operator_token.clone();
    println!("control plane started, all published after {:.1?}", begun.elapsed());

    let begun = Instant::now();
    let (assembly, revision) = tokio::task::spawn_blocking(move || assemble(store.as_ref())).await??;
    let (chunks, bytes) = assembly.manifest().chunks().fold((0, 0), |(n, sum), name| (n + 1, sum + name.length as u64));
    println!("{chunks} chunks, {:.1} MB, fetched and applied after {:.1?}", bytes as f64 / 1e6, begun.elapsed());

    let (arrived, mut arrivals) = mpsc::channel(1_024);
    let mut followers = Vec::new();
    for _ in 0..planes {
        let store = EtcdStore::open(&options)?;
        let watch = store.watch(keys::PUBLISHED, revision);
        followers.push(store);
        tokio::spawn(follow(watch, assembly.clone(), arrived.clone()));
    }
    let measured = measure(&format!("http://{}", started.api), &token, planes, changes, &mut arrivals).await?;
    report("from the request to a data plane's snapshot", &measured.reached);
    report("from the request to the last data plane", &measured.last);
    report("from the request to its answer", &measured.answered);
    let p99 = measured.reached.value_at_quantile(0.99);
    println!("p99 {:.1} ms: {}", p99 as f64 / 1e3, if p99 < 50_000 { "below 50 ms" } else { "NOT below 50 ms" });
    drop(followers);
    started.handle.shutdown().await;
    Ok(())
}

struct Etcd {
    child: Child,
    url: String,
}

impl Etcd {
    fn start(folder: &std::path::Path) -> Result<Self> {
        let free = || -> Result<String> { Ok(format!("http://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?)) };
        let (url, peer) = (free()?, free()?);
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder.join("etcd")).args(["--quota-backend-bytes", "4294967296"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        let log = std::fs::File::create(folder.join("etcd.log"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Ok(Self { child: child.context("etcd is not installed (Debian: etcd-server)")?, url })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Desired state as if it had been made by many changes.
fn fill(store: &dyn ConfigStore, tenants: u32) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.list_keys(keys::HEAD) {
        ensure!(Instant::now() < end, "etcd does not answer: {error}");
    }
    let mut writes = Vec::new();
    let mut put = |key: String, value: Value| {
        writes.push(Write::Put { key, value: value.to_string().into_bytes() });
    };
    for id in 1..=tenants {
        let name = format!("tenant-{id}");
        let tenant = Tenant { id: TenantId(id), name, quota_per_day: None, weight: 1, message_bytes_max: 1_048_576 };
        put(keys::resource("tenants", &id), serde_json::to_value(&tenant)?);
        for id in [2 * id - 1, 2 * id] {
            let algorithms = [KeyAlgorithm::RsaSha256, KeyAlgorithm::Ed25519Sha256];
            let key = |(at, algorithm): (usize, KeyAlgorithm)| DkimKey {
                id: KeyId(2 * id + at as u32),
                selector: format!("pr{at}"),
                algorithm,
                sealed_private_key: (0..SEALED_BYTES[at]).map(|n| (n as u32).wrapping_mul(id) as u8).collect(),
                public_key: "A".repeat([392, 44][at]),
            };
            let domain = SendingDomain {
                id: SendingDomainId(id),
                tenant: TenantId(id.div_ceil(2)),
                name: format!("domain-{id}.sender.example"),
                keys: algorithms.into_iter().enumerate().map(key).collect(),
                pool: None,
                standing: Default::default(),
            };
            put(keys::resource("domains", &id), serde_json::to_value(&domain)?);
        }
    }
    let counters = json!({ "tenant": tenants, "domain": 2 * tenants, "key": 4 * tenants + 2 });
    put(keys::HEAD.to_owned(), json!({ "revision": 1, "counters": counters }));
    for some in writes.chunks(ETCD_OPERATIONS_MAX) {
        store.txn(&[], some)?;
    }
    Ok(())
}

/// What a data plane has after its start, and the store's revision that it is of.
fn assemble(store: &dyn ConfigStore) -> Result<(Assembly, u64)> {
    let listing = store.get(&[keys::MANIFEST.to_owned()])?;
    let manifest = decode_manifest(&listing.entries.first().context("a manifest")?.value)?;
    let mut assembly = Assembly::default();
    let mut chunks = Vec::new();
    for names in assembly.missing(&manifest).chunks(32) {
        let by_key: BTreeMap<_, _> = names.iter().map(|name| (name.key(), *name)).collect();
        let entries = store.get(&by_key.keys().cloned().collect::<Vec<_>>())?.entries;
        chunks.extend(entries.into_iter().map(|entry| (by_key[&entry.key], entry.value.into())));
    }
    assembly.apply(manifest, &chunks)?;
    Ok((assembly, listing.revision))
}

/// A data plane: tells the weight of the first tenant whenever a publication is in effect.
async fn follow(mut watch: Watch, mut assembly: Assembly, arrived: mpsc::Sender<(u32, Instant)>) -> Result<()> {
    while let Some(event) = watch.next().await {
        let WatchEvent::Changes { changes, .. } = event else { continue };
        let found = |change: &&Change| change.key == keys::MANIFEST;
        let Some(value) = changes.iter().find(found).and_then(|change| change.value.as_ref()) else { continue };
        let manifest = decode_manifest(value)?;
        let fetch = |name: ChunkName| {
            let change = changes.iter().find(|change| change.key == name.key())?;
            Some((name, Arc::from(change.value.as_deref()?)))
        };
        let chunks: Vec<_> = assembly.missing(&manifest).into_iter().filter_map(fetch).collect();
        assembly.apply(manifest, &chunks)?;
        let weight = assembly.snapshot().tenants[&TenantId(1)].weight;
        arrived.send((weight, Instant::now())).await?;
    }
    Ok(())
}

/// Microseconds.
struct Measured {
    reached: Histogram<u64>,
    last: Histogram<u64>,
    answered: Histogram<u64>,
}

async fn measure(
    api: &str,
    token: &str,
    planes: u32,
    changes: u32,
    arrivals: &mut mpsc::Receiver<(u32, Instant)>,
) -> Result<Measured> {
    let client = reqwest::Client::new();
    let new = || Histogram::new(3);
    let mut measured = Measured { reached: new()?, last: new()?, answered: new()? };
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    // The first changes open connections and fill caches.
    for (at, weight) in (0..changes + WARM_UP).zip((2..1_000).cycle()) {
        let begun = Instant::now();
        let request = client.patch(format!("{api}/v2/tenants/tenant-1")).bearer_auth(token);
        let answer = request.json(&json!({ "weight": weight })).send().await?;
        let answered = begun.elapsed();
        ensure!(answer.status().is_success(), "the change was refused: {}", answer.text().await?);
        let mut latest = Duration::ZERO;
        for _ in 0..planes {
            let arrival = tokio::time::timeout(Duration::from_secs(30), arrivals.recv()).await;
            let (found, when) = arrival.context("a data plane did not get a change")?.context("it ended")?;
            ensure!(found == weight, "a data plane has weight {found}, {weight} is published");
            let took = when.duration_since(begun);
            latest = latest.max(took);
            if at >= WARM_UP {
                measured.reached.record(micros(took))?;
            }
        }
        if at >= WARM_UP {
            measured.last.record(micros(latest))?;
            measured.answered.record(micros(answered))?;
        }
    }
    Ok(measured)
}

fn report(what: &str, times: &Histogram<u64>) {
    println!("\n{what}, ms ({} samples):", times.len());
    for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
        println!("  {:>5}  {:8.2}", format!("p{}", quantile * 100.0), times.value_at_quantile(quantile) as f64 / 1e3);
    }
    for bucket in times.iter_linear(times.max().div_ceil(20).max(1)) {
        let share = bucket.count_since_last_iteration() * 60 / times.len().max(1);
        let bar = "#".repeat(usize::try_from(share).unwrap_or(0));
        println!(
            "  {:8.2}  {:>6}  {bar}",
            bucket.value_iterated_to() as f64 / 1e3,
            bucket.count_since_last_iteration()
        );
    }
}

const WARM_UP: u32 = 10;
