//! The joint: both planes in one process, the control plane on tokio and the data plane on its own threads.
//!
//! ```text
//! control plane --encoded snapshots--> Feed --> data plane
//!               <--journal by HTTP at the admin listener--
//! ```
//!
//! Invariants worth naming: the control plane starts first, since it makes the master key and the first snapshot; it
//! stops last, so that it pulls the events of the drain. A snapshot that the node refuses leaves the last one in effect.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use postrail_control_plane as control;
use postrail_data_plane::admin::REFUSING;
use postrail_data_plane::node::{self, NodeConfig, NodeHandle, Publisher};
use postrail_data_plane::platform::glommio::ShardPin;
use postrail_schema::snapshot::{KeyAlgorithm, Route};
use tracing::{debug, error, warn};

use super::banner::{FirstStart, Txt};
use crate::client::TOKEN_FILE;

/// Time for the control plane's requests to finish once the data plane has ended.
const CONTROL_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Looks at the readiness of the data plane, and the time between them.
const READY_TRIES: u32 = 200;
const READY_PAUSE: Duration = Duration::from_millis(25);

/// What both planes are started with.
#[derive(Clone, Debug)]
pub(crate) struct PlanesOptions {
    pub(crate) data: PathBuf,
    pub(crate) hostname: String,
    /// The sending domain that the first start makes.
    pub(crate) domain: String,
    /// The algorithms of its DKIM keys; empty: all.
    pub(crate) algorithms: Vec<KeyAlgorithm>,
    /// Routes that the first start makes.
    pub(crate) routes: Vec<Route>,
    pub(crate) smtp: Vec<SocketAddr>,
    pub(crate) smtps: Vec<SocketAddr>,
    pub(crate) rest: Vec<SocketAddr>,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// What each shard is tied to, in order; their number is that of the shards.
    pub(crate) pins: Vec<ShardPin>,
    pub(crate) resolvers: Vec<SocketAddr>,
    /// Certificate chain and private key, PEM files.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// The server that holds the ledger, in place of the data folder.
    pub(crate) ledger: Option<control::PostgresAddress>,
    pub(crate) drain: Duration,
}

impl PlanesOptions {
    pub(crate) fn shards(&self) -> u16 {
        u16::try_from(self.pins.len()).unwrap_or(u16::MAX)
    }
}

/// Both planes, running.
pub(crate) struct Planes {
    control: control::Handle,
    node: NodeHandle,
    token_file: PathBuf,
    first_start: Option<FirstStart>,
    unready: Option<String>,
}

impl Planes {
    /// Starts the control plane, then the data plane with its snapshot.
    ///
    /// # Errors
    /// What keeps either of them from starting, in words for the operator.
    pub(crate) async fn start(options: &PlanesOptions) -> Result<Self> {
        let feed = Arc::new(Feed::default());
        let publish: control::Publish = {
            let feed = feed.clone();
            Box::new(move |snapshot| feed.publish(snapshot))
        };
        let config = control::Config {
            data: options.data.clone(),
            ledger: options.ledger.clone(),
            api: options.api,
            data_plane_admin: format!("http://{}", options.admin),
            resolvers: options.resolvers.clone(),
            publish,
        };
        let bootstrap = control::Bootstrap {
            hostname: options.hostname.clone(),
            domain: Some(options.domain.clone()),
            algorithms: options.algorithms.clone(),
            routes: options.routes.clone(),
        };
        let started = control::start(config, bootstrap).await.context("cannot start the control plane")?;
        let node_config = node_config(options, started.api);
        let node = tokio::task::spawn_blocking(move || node::start(node_config)).await;
        let node = match node.map_err(|_| anyhow!("the data plane panicked while it started")) {
            Ok(Ok(node)) => node,
            Ok(Err(error)) => return Err(failed(started, &options.data, error.into()).await),
            Err(error) => return Err(failed(started, &options.data, error).await),
        };
        feed.connect(node.publisher());
        let unready = wait_until_ready(options.admin).await.err();
        if let Some(said) = &unready {
            warn!(said, "the data plane runs, but is not ready yet");
        }
        Ok(Self {
            unready,
            control: started.handle,
            node,
            token_file: options.data.join(TOKEN_FILE),
            first_start: started.first.map(|first| first_start(first, &options.domain)),
        })
    }

    /// What the first start made; `None` where an earlier one did.
    pub(crate) fn first_start(&self) -> Option<&FirstStart> {
        self.first_start.as_ref()
    }

    /// Why no mail was taken yet when the start was over, if that is so.
    pub(crate) fn unready(&self) -> Option<&str> {
        self.unready.as_deref()
    }

    /// Where the operator's token is.
    pub(crate) fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// Drains the data plane, then stops the control plane.
    ///
    /// # Errors
    /// A shard has failed; what it had acknowledged is on disk.
    pub(crate) async fn stop(self) -> Result<()> {
        let node = self.node;
        node.drain();
        let ended = tokio::task::spawn_blocking(move || node.join()).await.context("the data plane panicked")?;
        // A pull that still waits for the node would wait in vain: its events are in the journal for the next start.
        if tokio::time::timeout(CONTROL_STOP_TIMEOUT, self.control.shutdown()).await.is_err() {
            debug!("the control plane was stopped with a request in flight");
        }
        if !ended.context("a shard has failed")? {
            warn!("not all that was in flight has finished in time; the next start goes on with it");
        }
        Ok(())
    }
}

/// Waits until every shard has the snapshot, so that what is printed next works at once; not for a shard that refuses all
/// mail until somebody makes room.
///
/// # Errors
/// The reason why it is not ready.
async fn wait_until_ready(admin: SocketAddr) -> Result<(), String> {
    let client = reqwest::Client::new();
    let mut said = String::from("it does not answer");
    for _ in 0..READY_TRIES {
        match client.get(format!("http://{admin}/readyz")).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => {
                let problem: serde_json::Value = answer.json().await.unwrap_or_default();
                said = problem["detail"].as_str().unwrap_or("it does not say why").to_owned();
                if problem["code"] == REFUSING {
                    break;
                }
            }
            Err(_) => {}
        }
        tokio::time::sleep(READY_PAUSE).await;
    }
    Err(said)
}

/// Stops the control plane again. A first start that nobody saw is undone, so that the next one shows its secret: no
/// mail was accepted yet.
async fn failed(started: control::Started, data: &Path, error: anyhow::Error) -> anyhow::Error {
    started.handle.shutdown().await;
    if started.first.is_some() {
        for name in ["config.db", "config.db-wal", "config.db-shm", "ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            let _ = std::fs::remove_file(data.join(name));
        }
    }
    error.context("cannot start the data plane")
}

fn node_config(options: &PlanesOptions, api: SocketAddr) -> NodeConfig {
    NodeConfig {
        is_leasing: false,
        data: options.data.clone(),
        hostname: options.hostname.clone(),
        smtp: options.smtp.clone(),
        smtps: options.smtps.clone(),
        rest: options.rest.clone(),
        admin: options.admin,
        shards: options.shards(),
        pins: options.pins.clone(),
        resolvers: options.resolvers.clone(),
        tls: options.tls.clone(),
        drain: options.drain,
        retry: Default::default(),
        control_url: format!("http://{api}"),
    }
}

fn first_start(first: control::FirstStart, asked: &str) -> FirstStart {
    // The operator vouches for the first domain, and its mail needs these alone.
    let needed = [control::Purpose::Spf, control::Purpose::Dkim, control::Purpose::Dmarc];
    let records = first.dns_records.into_iter().filter(|record| needed.contains(&record.purpose));
    let records = records.map(|record| Txt { name: record.name, zone_value: record.zone_value }).collect();
    FirstStart {
        tenant: first.tenant,
        username: first.username,
        secret: first.secret,
        domain: first.domain.unwrap_or_else(|| asked.to_owned()),
        records,
    }
}

/// Hands snapshots from the control plane to the data plane; keeps the latest until the data plane runs.
#[derive(Default)]
struct Feed(Mutex<FeedState>);

#[derive(Default)]
struct FeedState {
    waiting: Option<Arc<[u8]>>,
    publisher: Option<Publisher>,
}

impl Feed {
    fn publish(&self, snapshot: Arc<[u8]>) {
        let mut state = self.state();
        match &state.publisher {
            Some(publisher) => hand_over(publisher, &snapshot),
            None => state.waiting = Some(snapshot),
        }
    }

    fn connect(&self, publisher: Publisher) {
        let mut state = self.state();
        if let Some(snapshot) = state.waiting.take() {
            hand_over(&publisher, &snapshot);
        }
        state.publisher = Some(publisher);
    }

    fn state(&self) -> MutexGuard<'_, FeedState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hand_over(publisher: &Publisher, snapshot: &[u8]) {
    if let Err(error) = publisher.publish(snapshot) {
        error!(
            error = &error as &dyn std::error::Error,
            "the data plane refused a snapshot; the last one stays in effect"
        );
    }
}
