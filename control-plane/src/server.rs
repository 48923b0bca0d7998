//! Starting and stopping the control plane.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use postrail_schema::ids::HostId;
use postrail_schema::keys::{HEAD, MASTER_KEY_CHECK};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api;
use crate::app::{
    App, Bootstrap, DataPlane, FirstStart, HostClient, Hosts, KnownHosts, MasterKey, Parts, fleet_installation,
    fleet_token, make_operator_token, master_key_check,
};
use crate::dns::Resolver;
use crate::files;
use crate::ledger::{Ledger, PostgresAddress, PostgresLedger, SqliteLedger};
use crate::reconcile::{JournalGauges, allocate, follow_hosts, follow_store, lead};
use crate::store::{ConfigStore, Guard, StoreError, Write};

/// What the control plane runs with.
pub struct Config {
    /// The data folder: `ledger.db`, `master.key`, `operator.token`, `installation.id`.
    pub data: PathBuf,
    pub store: Arc<dyn ConfigStore>,
    /// The server that holds the ledger, in place of `ledger.db`.
    pub ledger: Option<PostgresAddress>,
    pub data_planes: DataPlanes,
    /// Where the API listens; loopback, or in a fleet a private address.
    pub api: SocketAddr,
    /// The region of this control plane, whose data planes' events it takes; empty: none.
    pub region: String,
    /// The name servers that are asked about sending domains.
    pub resolvers: Vec<SocketAddr>,
}

/// The data planes of a control plane.
#[derive(Clone, Debug)]
pub enum DataPlanes {
    /// One in this process, by its admin listener: `http://127.0.0.1:8082`.
    Beside(String),
    /// Those that are announced in the store.
    Announced,
}

/// A running control plane.
pub struct Started {
    /// What was made, if this was the first start.
    pub first: Option<FirstStart>,
    /// Where the API listens.
    pub api: SocketAddr,
    pub handle: Handle,
}

/// Stops a running control plane. Dropping it stops too, without waiting.
pub struct Handle {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Handle {
    /// Ends requests and pulls in flight, and returns when all is written.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Opens the stores, makes the first resources where there are none, publishes, and serves.
///
/// # Errors
/// A file or the listener cannot be opened, a name in `bootstrap` is malformed, or `config.api` is not loopback.
pub async fn start(config: Config, bootstrap: Bootstrap) -> Result<Started> {
    let is_fleet = matches!(config.data_planes, DataPlanes::Announced);
    let is_near = config.api.ip().is_loopback() || is_fleet && is_private(config.api.ip());
    ensure!(is_near, "the control API has no TLS yet: {} is not a loopback address", config.api);
    let listener = TcpListener::bind(config.api).await.with_context(|| format!("listening on {}", config.api))?;
    let api = listener.local_addr().context("reading the listener's address")?;
    let store = Arc::clone(&config.store);
    let opened = tokio::task::spawn_blocking(move || open(config, &bootstrap)).await;
    let Opened { app, token, first, allocation } = opened.context("opening the stores")??;
    let gauges = Arc::new(JournalGauges::default());
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow_store(Arc::clone(&app), Arc::clone(&store), stopped.clone()));
    if let Some(allocation) = allocation {
        tasks.spawn(allocate(allocation, stopped.clone()));
        tasks.spawn(follow_hosts(Arc::clone(&app), Arc::clone(&store), Arc::clone(&token), stopped.clone()));
    }
    // Data planes look here for who leads.
    let at = format!("http://{api}");
    tasks.spawn(lead(Arc::clone(&app), store, Arc::clone(&gauges), at, stopped.clone()));
    let router = api::router(app, gauges, token);
    let mut ended = stopped;
    tasks.spawn(async move {
        let shutdown = async move {
            // An error means that the handle is gone, which is a reason to stop as well.
            let _ = ended.wait_for(|stop| *stop).await;
        };
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(listener, service).with_graceful_shutdown(shutdown).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the control API ended");
        }
    });
    Ok(Started { first, api, handle: Handle { stop, tasks } })
}

struct Opened {
    app: Arc<App>,
    token: Arc<str>,
    first: Option<FirstStart>,
    /// In a fleet.
    allocation: Option<Hosts>,
}

fn open(config: Config, bootstrap: &Bootstrap) -> Result<Opened> {
    std::fs::create_dir_all(&config.data).with_context(|| format!("making {}", config.data.display()))?;
    let at = |name: &str| config.data.join(name);
    let (store, is_fleet) = (config.store, matches!(config.data_planes, DataPlanes::Announced));
    let is_new = store.get(&[HEAD.to_owned()]).context("reading the configuration")?.entries.is_empty();
    if is_fleet && !is_new && !at("master.key").exists() {
        bail!("the cluster has a master key, and {} has none: copy it from another host", config.data.display());
    }
    let master = files::master_key(&at("master.key")).context("reading master.key")?;
    check_master_key(store.as_ref(), &master)?;
    let token: Arc<str> = fleet_token(&master).into();
    let ledger: Arc<dyn Ledger> = match &config.ledger {
        None => Arc::new(SqliteLedger::open(&at("ledger.db")).context("opening ledger.db")?),
        Some(address) => {
            // The control planes of a fleet share one ledger, and the master key.
            let installation = if is_fleet {
                fleet_installation(&master, &config.region)
            } else {
                files::installation(&at("installation.id")).context("reading installation.id")?
            };
            Arc::new(PostgresLedger::open(address, installation).context("opening the ledger")?)
        }
    };
    let hosts = match &config.data_planes {
        DataPlanes::Announced => Vec::new(),
        DataPlanes::Beside(admin) => {
            let client = DataPlane::new(admin, None).context("setting up the client of the data plane")?;
            vec![HostClient { name: String::new(), id: HostId::LOCAL, admin: admin.clone(), client }]
        }
    };
    let hostname = bootstrap.hostname.clone();
    let resolver = Resolver::new(config.resolvers);
    let allocation = is_fleet.then(|| Hosts::new(Arc::clone(&store)));
    let hosts = KnownHosts::new(hosts);
    let region = config.region;
    let parts = Parts { store, ledger, hosts, allocation: allocation.clone(), master, hostname, region, resolver };
    let app = App::new(parts).context("reading the configuration")?;
    // In a fleet the token is that of the first control plane: another without the file does not make one more.
    let token_file = at("operator.token");
    if is_fleet && !is_new && !token_file.exists() {
        app.announce_suppressions().context("publishing the configuration")?;
        return Ok(Opened { app: Arc::new(app), token, first: None, allocation });
    }
    let operator = files::operator_token(&token_file, || make_operator_token().map_err(std::io::Error::other))
        .context("reading operator.token")?;
    let first = app.bootstrap(bootstrap, &operator).context("publishing the configuration")?;
    Ok(Opened { app: Arc::new(app), token, first, allocation })
}

/// Every host of a cluster has one master key: another one would seal what nobody else opens.
fn check_master_key(store: &dyn ConfigStore, master: &MasterKey) -> Result<()> {
    let check = master_key_check(master).into_bytes();
    let guard = Guard { key: MASTER_KEY_CHECK.to_owned(), revision: 0 };
    match store.txn(&[guard], &[Write::Put { key: MASTER_KEY_CHECK.to_owned(), value: check.clone() }]) {
        Ok(_) => Ok(()),
        Err(StoreError::Conflict { .. }) => {
            let listing = store.get(&[MASTER_KEY_CHECK.to_owned()]).context("reading the configuration")?;
            let is_same = listing.entries.first().is_some_and(|entry| entry.value == check);
            ensure!(is_same, "master.key is not the master key of this configuration: copy that of another host");
            Ok(())
        }
        Err(error) => Err(error).context("writing the configuration"),
    }
}

/// Addresses that no router of the internet carries (RFC 1918, 6598, 4193, link-local).
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            address.is_loopback() || address.is_private() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
