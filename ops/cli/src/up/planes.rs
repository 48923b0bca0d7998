//! The joint: the planes of this process, the control plane on tokio and the data plane on its own threads.
//!
//! ```text
//! control plane --publications--> configuration store --Follower--> data plane
//!               <--journal by HTTP at the admin listener-----------
//! ```
//!
//! The store is a file of this process, or etcd; the way is the same. Invariants worth naming: the control plane starts
//! first, since it makes the master key and the first publication, or waits for etcd beside the data plane where both are
//! there (`control`); it stops last, so that it pulls the events of the
//! drain. A data plane alone starts with what it kept, whoever is out of reach.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use postrail_control_plane::store::{ConfigStore, EtcdStore};
use postrail_control_plane::{
    FirstStart as ControlStart, FleetFacts, FleetIdentity, FleetName, Kept, PostgresAddress, Purpose, Started,
};
use postrail_core::transfer::Neighbours;
use postrail_data_plane::admin::{AdminAccess, REFUSING};
use postrail_data_plane::lease::LeaseHandle;
use postrail_data_plane::mesh::Letter;
use postrail_data_plane::node::{self, NodeConfig, NodeHandle};
use postrail_data_plane::platform::glommio::ShardPin;
use postrail_schema::allocation::HostName;
use postrail_schema::host::HostAnnouncement;
use postrail_schema::ids::HostId;
use postrail_schema::keys::MASTER_KEY_CHECK;
use postrail_schema::sealed::{MasterKey, MasterKeys, OTHER_MASTER_KEY};
use postrail_schema::snapshot::{KeyAlgorithm, Route};
use postrail_schema::wire::SNAPSHOT_FORMAT;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::banner::{FirstStart, Txt, url};
use super::control::{self, Begun, Control};
use crate::client::TOKEN_FILE;
use crate::doctor::root::Root;
use crate::fleet::FleetAccess;
use crate::fleet::announce::announce;
use crate::fleet::carrier::Carrier;
use crate::fleet::follower::Follower;
use crate::fleet::hold::{self, Bringing};
use crate::fleet::neighbours::Watcher;
use crate::fleet::settings::{Fleet, Role};

/// Time for the control plane's requests to finish once the data plane has ended.
pub(super) const CONTROL_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Looks at the readiness of the data plane, and the time between them.
const READY_TRIES: u32 = 200;
const READY_PAUSE: Duration = Duration::from_millis(25);
/// How long etcd may take to say which master key is the cluster's before a data plane starts.
const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// How long one look may take.
const READY_LIMIT: Duration = Duration::from_secs(2);

/// What both planes are started with.
#[derive(Clone, Debug)]
pub(crate) struct PlanesOptions {
    pub(crate) data: PathBuf,
    pub(crate) hostname: String,
    /// What it is called where nothing else is said: the first label of its own name, also where it introduces itself by another.
    pub(crate) label: String,
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
    /// Authorities of receivers' certificates, a PEM file.
    pub(crate) receiver_ca: Option<PathBuf>,
    /// The server that holds the ledger, in place of the data folder.
    pub(crate) ledger: Option<PostgresAddress>,
    pub(crate) drain: Duration,
    /// `None`: both planes, by themselves.
    pub(crate) fleet: Option<Fleet>,
}

impl PlanesOptions {
    pub(crate) fn shards(&self) -> u16 {
        u16::try_from(self.pins.len()).unwrap_or(u16::MAX)
    }

    /// The region that this process is in; empty: none.
    pub(super) fn region(&self) -> &str {
        self.fleet.as_ref().map_or("", |fleet| &fleet.region)
    }

    /// This host's name in the fleet: as told, else the first label of its host name.
    pub(super) fn host_name(&self) -> Result<HostName> {
        if let Some(told) = self.fleet.as_ref().and_then(|fleet| fleet.host_name.clone()) {
            return Ok(told);
        }
        let label = &self.label;
        HostName::new(label.clone()).with_context(|| format!("{label} names no host; name it by --host-name"))
    }
}

/// The planes of this process, running.
pub(crate) struct Planes {
    control: Option<Control>,
    node: Option<NodeHandle>,
    /// Holds the addresses that move, in a fleet.
    lease: Option<LeaseHandle>,
    /// What follows the store and announces this host.
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    /// Where this folder has one.
    token_file: Option<PathBuf>,
    first_start: Option<FirstStart>,
    /// Where a control plane runs here.
    kept: Option<Kept>,
    unready: Option<String>,
    /// Where a data plane runs here: why it is not one of the cluster.
    refused: Option<oneshot::Receiver<Error>>,
}

impl Planes {
    /// Starts the control plane, then the data plane with what is published.
    ///
    /// # Errors
    /// What keeps either of them from starting, in words for the operator.
    pub(crate) async fn start(options: &PlanesOptions) -> Result<Self> {
        let store = open_store(options)?;
        let runs = |role| options.fleet.as_ref().is_none_or(|fleet| fleet.runs(role));
        let (started, waiting) = match runs(Role::ControlPlane) {
            true => match control::begin(options, &store).await? {
                Begun::Started(started) => (Some(*started), None),
                Begun::Waiting(waiting) => (None, Some(waiting)),
            },
            false => (None, None),
        };
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let (node, lease, unready, refused) = match runs(Role::DataPlane) {
            true => match start_data_plane(options, started.as_ref(), store, &mut tasks, stopped).await {
                Ok(DataPlane { node, lease, unready, refused }) => (Some(node), lease, unready, Some(refused)),
                Err(error) => return Err(failed(started, options, error).await),
            },
            false => (None, None, None, None),
        };
        let kept = started.as_ref().map(|started| started.kept.clone());
        let (control, first) = match started {
            Some(started) => (Some(Control::Running(started.handle)), started.first),
            None => (waiting, None),
        };
        Ok(Self {
            unready,
            refused,
            control,
            node,
            lease,
            tasks,
            stop,
            token_file: Some(options.data.join(TOKEN_FILE)).filter(|path| path.exists()),
            first_start: first.map(|first| first_start(first, &options.domain)),
            kept,
        })
    }

    /// What the first start made; `None` where an earlier one did.
    pub(crate) fn first_start(&self) -> Option<&FirstStart> {
        self.first_start.as_ref()
    }

    /// What holds on a later start instead of what was told for the first.
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref().filter(|_| self.first_start.is_none())
    }

    /// Why no mail was taken yet when the start was over, if that is so.
    pub(crate) fn unready(&self) -> Option<&str> {
        self.unready.as_deref()
    }

    /// Where the operator's token is; `None`: at the first control plane of the cluster.
    pub(crate) fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// Returns when what had to wait for etcd cannot run after all, and why.
    pub(crate) async fn failed(&mut self) -> Error {
        let control = async {
            match &mut self.control {
                Some(control) => control.failed().await,
                None => std::future::pending().await,
            }
        };
        let data_plane = async { self.refused.as_mut()?.await.ok() };
        tokio::select! {
            error = control => error,
            Some(error) = data_plane => error,
        }
    }

    /// Drains the data plane, gives its addresses up, then stops the control plane.
    ///
    /// # Errors
    /// A shard has failed; what it had acknowledged is on disk.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let drained = match self.node {
            Some(node) => {
                if let Some(lease) = &self.lease {
                    lease.stop();
                }
                node.drain();
                let ended = tokio::task::spawn_blocking(move || node.join()).await;
                Some(ended.context("the data plane panicked")?)
            }
            None => None,
        };
        if let Some(lease) = self.lease {
            hold::end(lease).await;
        }
        // What waits now is a disk that syncs, or a store that is out of reach.
        self.stop.send_replace(true);
        let told = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CONTROL_STOP_TIMEOUT, told).await;
        if let Some(control) = self.control {
            control.shutdown().await;
        }
        if !drained.unwrap_or(Ok(true)).context("a shard has failed")? {
            warn!("not all that was in flight has finished in time; the next start goes on with it");
        }
        Ok(())
    }
}

/// The configuration store: etcd in a fleet, else a file.
fn open_store(options: &PlanesOptions) -> Result<Arc<dyn ConfigStore>> {
    Ok(match &options.fleet {
        Some(fleet) => {
            crate::fleet::found::check_moved(&options.data)?;
            Arc::new(EtcdStore::open(&fleet.etcd)?)
        }
        None => Arc::new(crate::fleet::found::open(&options.data)?),
    })
}

/// The data plane of this process.
struct DataPlane {
    node: NodeHandle,
    lease: Option<LeaseHandle>,
    /// Why it is not ready, where that was waited for.
    unready: Option<String>,
    /// Tells later why it is not one of the cluster.
    refused: oneshot::Receiver<Error>,
}

/// The master keys of this host, as far as it has any.
pub(super) fn master_keys(options: &PlanesOptions) -> Result<Option<MasterKeys>> {
    Ok(postrail_control_plane::master_keys(&options.data, |name| std::env::var(name).ok())?)
}

async fn start_data_plane(
    options: &PlanesOptions,
    beside: Option<&Started>,
    store: Arc<dyn ConfigStore>,
    tasks: &mut JoinSet<()>,
    stopped: watch::Receiver<bool>,
) -> Result<DataPlane> {
    let bringing = options.fleet.as_ref().map(|fleet| Bringing::find(fleet, &Root::live())).transpose()?;
    let found = match beside {
        Some(control) => Some(control.master_keys.clone()),
        None => master_keys(options)?,
    };
    let Some(masters) = found else {
        bail!("{} has no master.key: copy that of the cluster's first host", options.data.display());
    };
    let identity = match (beside, &options.fleet) {
        (Some(control), _) => control.identity.clone(),
        (None, Some(fleet)) => Some(FleetIdentity::new(&masters, facts(options, fleet)?)?),
        (None, None) => None,
    };
    if beside.is_none() {
        check_master_keys(&store, &masters).await?;
        control::write_authorities(options, identity.as_ref())?;
    }
    let access = FleetAccess { token: masters.current.fleet_token(), identity: identity.clone() };
    let config = node_config(options, &masters, identity.as_ref())?;
    let started = tokio::task::spawn_blocking(move || node::start(config)).await;
    let started = started.map_err(|_| anyhow!("the data plane panicked while it started"))?;
    let (node, feed) = started.context("cannot start the data plane")?;
    let (status, region) = (feed.status(), options.region().to_owned());
    let follower = Follower::new(Arc::clone(&store), feed, access.clone(), masters.clone(), region)?;
    let (refuse, refused) = oneshot::channel();
    let run = follower.run(stopped.clone(), refuse);
    match store.runtime() {
        Some(runtime) => tasks.spawn_on(run, &runtime),
        None => tasks.spawn(run),
    };
    match options.fleet.as_ref().zip(bringing) {
        // Where control planes are out of reach, it runs with what it has kept.
        Some((fleet, bringing)) => {
            let facts = HostAnnouncement {
                id: HostId::LOCAL,
                admin: url(options.admin),
                region: fleet.region.clone(),
                shards: node.shards(),
                master_keys: masters.all().map(MasterKey::id).collect(),
                receiver_authorities: Some(node.receiver_authorities()),
                snapshot_format: SNAPSHOT_FORMAT,
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            let name = options.host_name()?;
            let lease = hold::begin(fleet, &bringing, &name, &options.data, &node, &store, status)?;
            let mesh = node.mesh().clone();
            let tell = move |told: &Arc<Neighbours>| mesh.broadcast(|| Letter::Neighbours(Arc::clone(told)));
            let watcher = Watcher::new(Arc::clone(&store), name.clone(), fleet.region.clone(), tell);
            let carrier = Carrier::new(access, watcher.listening());
            tasks.spawn(carrier.run(node.departures(), stopped.clone()));
            tasks.spawn(watcher.run(stopped.clone()));
            tasks.spawn(hold::wake(Arc::clone(&store), name.clone(), lease.waker(), stopped.clone()));
            let next = masters.next.filter(|_| !fleet.runs(Role::ControlPlane));
            tasks.spawn(announce(store, options.data.clone(), next, name, facts, stopped));
            Ok(DataPlane { node, lease: Some(lease), unready: None, refused })
        }
        None => {
            let unready = wait_until_ready(options.admin).await.err();
            if let Some(said) = &unready {
                warn!(said, "the data plane runs, but is not ready yet");
            }
            Ok(DataPlane { node, lease: None, unready, refused })
        }
    }
}

/// Whether a host with these keys is one of the cluster, if etcd answers. Where it does not, a data plane starts with what it
/// kept, and its follower looks.
async fn check_master_keys(store: &Arc<dyn ConfigStore>, masters: &MasterKeys) -> Result<()> {
    let asked = store.within(CHECK_LIMIT);
    let found = tokio::task::spawn_blocking(move || asked.get(&[MASTER_KEY_CHECK.to_owned()])).await;
    match found.context("looking at the cluster's master key")? {
        Ok(listing) if listing.entries.iter().all(|entry| masters.are_of(&entry.value)) => Ok(()),
        Ok(_) => bail!(OTHER_MASTER_KEY),
        Err(error) => {
            debug!(error = &error as &dyn std::error::Error, "the cluster's master key is not known yet");
            Ok(())
        }
    }
}

/// Waits until every shard has the snapshot, so that what is printed next works at once; not for a shard that refuses all
/// mail until somebody makes room.
///
/// # Errors
/// The reason why it is not ready.
async fn wait_until_ready(admin: SocketAddr) -> Result<(), String> {
    // One that was taken by a listener that is gone would be waited for without end.
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(READY_LIMIT).build();
    let client = client.map_err(|_| "it cannot be asked".to_owned())?;
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
/// mail was accepted yet. What is in etcd stays, since others may have seen it.
async fn failed(started: Option<Started>, options: &PlanesOptions, error: Error) -> Error {
    let Some(started) = started else { return error };
    started.handle.shutdown().await;
    if started.first.is_some() && options.fleet.is_none() {
        for name in ["config.db", "config.db-wal", "config.db-shm", "ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            let _ = std::fs::remove_file(options.data.join(name));
        }
    }
    error
}

/// What this process is known by in its fleet.
pub(super) fn facts(options: &PlanesOptions, fleet: &Fleet) -> Result<FleetFacts> {
    let (is_control_plane, has_data_plane) = (fleet.runs(Role::ControlPlane), fleet.runs(Role::DataPlane));
    let listeners = [(is_control_plane, options.api), (has_data_plane, options.admin)];
    let far = listeners.into_iter().filter(|(runs, at)| *runs && !at.ip().is_loopback());
    Ok(FleetFacts {
        cluster: fleet.cluster.clone(),
        is_control_plane,
        data_plane: has_data_plane.then(|| options.host_name()).transpose()?,
        hostname: options.hostname.clone(),
        addresses: far.map(|(_, at)| at.ip()).collect(),
    })
}

/// How the admin listener knows who asks.
fn admin_access(
    options: &PlanesOptions,
    masters: &MasterKeys,
    identity: Option<&FleetIdentity>,
) -> Result<AdminAccess> {
    Ok(match identity {
        None => AdminAccess::Anyone,
        Some(_) if options.admin.ip().is_loopback() => {
            AdminAccess::Tokens(masters.all().map(MasterKey::fleet_token).collect())
        }
        Some(identity) => AdminAccess::Certificate {
            tls: identity.server(&[FleetName::ControlPlane, FleetName::DataPlane])?,
            control_planes: identity.server_name(&FleetName::ControlPlane)?,
            data_planes: identity.server_name(&FleetName::DataPlane)?,
        },
    })
}

fn node_config(options: &PlanesOptions, masters: &MasterKeys, identity: Option<&FleetIdentity>) -> Result<NodeConfig> {
    Ok(NodeConfig {
        region: options.region().to_owned(),
        host_name: options.host_name().map(|name| name.to_string()).unwrap_or_default(),
        is_leasing: options.fleet.is_some(),
        data: options.data.clone(),
        master_keys: masters.clone(),
        hostname: options.hostname.clone(),
        smtp: options.smtp.clone(),
        smtps: options.smtps.clone(),
        rest: options.rest.clone(),
        admin: options.admin,
        shards: options.shards(),
        pins: options.pins.clone(),
        resolvers: options.resolvers.clone(),
        tls: options.tls.clone(),
        receiver_authorities: options.receiver_ca.clone(),
        drain: options.drain,
        control_url: url(options.api),
        admin_access: admin_access(options, masters, identity)?,
    })
}

fn first_start(first: ControlStart, asked: &str) -> FirstStart {
    // The operator vouches for the first domain, and its mail needs these alone.
    let needed = [Purpose::Spf, Purpose::Dkim, Purpose::Dmarc];
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
