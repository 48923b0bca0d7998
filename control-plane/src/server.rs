//! Starting and stopping the control plane.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use postrail_schema::ids::HostId;
use postrail_schema::keys::{self, HEAD, MASTER_KEY_CHECK};
use postrail_schema::sealed::{MasterKey, MasterKeys, OTHER_MASTER_KEY};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api;
use crate::app::{
    App, AppError, Bootstrap, DataPlane, FirstStart, FleetAccess, HostClient, Hosts, Kept, KnownHosts, LedgerClaim,
    LedgerUse, Parts, ledger_moved, make_operator_token,
};
use crate::dns::Resolver;
use crate::files;
use crate::identity::{FleetFacts, FleetIdentity, FleetName};
use crate::ledger::{self, Ledger, MoveProgress, PostgresAddress, PostgresLedger, SqliteLedger};
use crate::listen::Door;
use crate::reconcile::{JournalGauges, allocate, follow_hosts, follow_store, keep_ledger, lead};
use crate::serve::{Limits, serve};
use crate::store::{ConfigStore, Guard, StoreError, Write};

/// What the control plane runs with.
pub struct Config {
    /// The data folder: `ledger.db`, `master.key`, `operator.token`.
    pub data: PathBuf,
    /// As [`master_keys`](crate::master_keys) finds them; `None`: this start makes one, if it may.
    pub master_keys: Option<MasterKeys>,
    pub store: Arc<dyn ConfigStore>,
    /// The server that holds the ledger, in place of `ledger.db`.
    pub ledger: Option<PostgresAddress>,
    pub data_planes: DataPlanes,
    /// Where the API listens: plain HTTP on loopback, in a fleet TLS elsewhere.
    pub api: SocketAddr,
    /// The region of this control plane, whose data planes' events it takes; empty: none.
    pub region: String,
    /// What this host is called where others of a fleet are told of it.
    pub host_name: String,
    /// The name servers that are asked about sending domains.
    pub resolvers: Vec<SocketAddr>,
}

/// The data planes of a control plane.
#[derive(Clone, Debug)]
pub enum DataPlanes {
    /// One in this process, by its admin listener: `http://127.0.0.1:8082`.
    Beside(String),
    /// Those that are announced in the store; and what this process is known by among them.
    Announced(FleetFacts),
}

/// A running control plane.
pub struct Started {
    /// What was made, if this was the first start.
    pub first: Option<FirstStart>,
    /// What holds instead of what was told for a first start.
    pub kept: Kept,
    /// Where the API listens.
    pub api: SocketAddr,
    /// What opens what is sealed.
    pub master_keys: MasterKeys,
    /// In a fleet.
    pub identity: Option<FleetIdentity>,
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
/// A file or the listener cannot be opened, a name in `bootstrap` is malformed, or `config.api` would be plain HTTP beyond
/// loopback.
pub async fn start(config: Config, bootstrap: Bootstrap) -> Result<Started> {
    let is_near = config.api.ip().is_loopback();
    let is_fleet = matches!(config.data_planes, DataPlanes::Announced(_));
    ensure!(
        is_near || is_fleet,
        "without a fleet the control API has no TLS: {} is not a loopback address",
        config.api
    );
    let listener = TcpListener::bind(config.api).await.with_context(|| format!("listening on {}", config.api))?;
    let api = listener.local_addr().context("reading the listener's address")?;
    let store = Arc::clone(&config.store);
    let told = bootstrap.clone();
    // Data planes look here for who leads, and operators for who keeps the ledger.
    let at = format!("{}://{api}", if is_near { "http" } else { "https" });
    let (told_at, runtime) = (at.clone(), runtime::Handle::current());
    let opened = tokio::task::spawn_blocking(move || open(config, &bootstrap, told_at, &runtime)).await;
    let Opened { app, master_keys, identity, first, allocation, claim } = opened.context("opening the stores")??;
    let kept = app.kept(&told);
    let token: Arc<str> = master_keys.current.fleet_token().into();
    let access = identity.clone().map(|identity| FleetAccess { token, identity });
    let tls = identity
        .as_ref()
        .filter(|_| !is_near)
        .map(|identity| identity.server(&[FleetName::DataPlane, FleetName::ControlPlane]));
    let tls = tls.transpose()?;
    let gauges = Arc::new(JournalGauges::default());
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow_store(Arc::clone(&app), Arc::clone(&store), stopped.clone()));
    if let Some((allocation, access)) = allocation.zip(access.clone()) {
        let wanted = Arc::clone(&app);
        tasks.spawn(allocate(allocation, move || wanted.demands_unless_lost(), stopped.clone()));
        tasks.spawn(follow_hosts(Arc::clone(&app), Arc::clone(&store), access, stopped.clone()));
    }
    if let Some(claim) = claim {
        tasks.spawn(keep_ledger(Arc::clone(&app), claim, stopped.clone()));
    }
    tasks.spawn(lead(Arc::clone(&app), store, Arc::clone(&gauges), at, access, stopped.clone()));
    let router = api::router(app, gauges, master_keys.all().map(MasterKey::fleet_token).collect());
    tasks.spawn(serve(Door::new(listener, tls), router, Limits::default(), stopped));
    Ok(Started { first, kept, api, master_keys, identity, handle: Handle { stop, tasks } })
}

/// Whether [`start`] failed for a configuration store that is out of reach, so that a later one may succeed.
#[must_use]
pub fn is_store_away(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<StoreError>()).any(StoreError::is_away)
}

/// Whether [`start`] failed for a configuration store that answers and takes nothing from us: it is full, or does not let us
/// in.
#[must_use]
pub fn is_store_refusing(error: &anyhow::Error) -> bool {
    let is_refusal = |error: &StoreError| matches!(error, StoreError::Full | StoreError::Refused { .. });
    error.chain().filter_map(|cause| cause.downcast_ref::<StoreError>()).any(is_refusal)
}

struct Opened {
    app: Arc<App>,
    master_keys: MasterKeys,
    first: Option<FirstStart>,
    /// In a fleet.
    identity: Option<FleetIdentity>,
    allocation: Option<Hosts>,
    claim: Option<LedgerClaim>,
}

/// `at`: where the API will be; `runtime`: what waits for the store.
fn open(config: Config, bootstrap: &Bootstrap, at: String, runtime: &runtime::Handle) -> Result<Opened> {
    std::fs::create_dir_all(&config.data).with_context(|| format!("making {}", config.data.display()))?;
    let (store, is_fleet) = (Arc::clone(&config.store), matches!(config.data_planes, DataPlanes::Announced(_)));
    let is_new = store.get(&[HEAD.to_owned()]).context("reading the configuration")?.entries.is_empty();
    let masters = match config.master_keys.clone() {
        Some(known) => known,
        None if is_fleet && !is_new => {
            bail!("the cluster has a master key, and {} has none: copy it from another host", config.data.display())
        }
        None => MasterKeys::only(files::make_master_key(&config.data).context("making master.key")?),
    };
    let masters = checked(store.as_ref(), masters, &config.data)?;
    // Before anything is made or published: who is refused leaves nothing in the store.
    let (ledger, claim) = open_ledger(&config, &store, &masters, at, runtime)?;
    let hosts = match &config.data_planes {
        DataPlanes::Announced(_) => Vec::new(),
        DataPlanes::Beside(admin) => {
            let client = DataPlane::beside(admin).context("setting up the client of the data plane")?;
            let (admin, master_keys) = (admin.clone(), masters.all().map(MasterKey::id).collect());
            vec![HostClient { name: String::new(), id: HostId::LOCAL, admin, master_keys, client }]
        }
    };
    let hostname = bootstrap.hostname.clone();
    let resolver = Resolver::new(config.resolvers);
    let allocation = is_fleet.then(|| Hosts::new(Arc::clone(&store)));
    let identity = match config.data_planes {
        DataPlanes::Announced(facts) => Some(FleetIdentity::new(&masters, facts)?),
        DataPlanes::Beside(_) => None,
    };
    let (master_keys, hosts, region) = (masters.clone(), KnownHosts::new(hosts), config.region);
    let parts = Parts { store, ledger, hosts, allocation: allocation.clone(), masters, hostname, region, resolver };
    let app = App::new(parts).context("reading the configuration")?;
    let claim = claim.map(|(claim, own)| {
        app.keeps_ledger(own);
        claim
    });
    // In a fleet the token is that of the first control plane: another without the file does not make one more.
    let token_file = config.data.join("operator.token");
    if is_fleet && !is_new && !token_file.exists() {
        app.announce_suppressions().context("publishing the configuration")?;
        return Ok(Opened { app: Arc::new(app), master_keys, identity, first: None, allocation, claim });
    }
    let operator = files::operator_token(&token_file, || make_operator_token().map_err(std::io::Error::other))
        .context("reading operator.token")?;
    let first = app.bootstrap(bootstrap, &operator).context("publishing the configuration")?;
    Ok(Opened { app: Arc::new(app), master_keys, identity, first, allocation, claim })
}

/// The ledger, and in a fleet what is said of it.
type OpenLedger = (Arc<dyn Ledger>, Option<(LedgerClaim, LedgerUse)>);

/// `at`: where the API will be.
fn open_ledger(
    config: &Config,
    store: &Arc<dyn ConfigStore>,
    masters: &MasterKeys,
    at: String,
    runtime: &runtime::Handle,
) -> Result<OpenLedger> {
    let is_fleet = matches!(config.data_planes, DataPlanes::Announced(_));
    let path = config.data.join("ledger.db");
    let is_made = config.ledger.is_none() && !path.exists();
    let ledger: Arc<dyn Ledger> = match &config.ledger {
        None => {
            let file = SqliteLedger::open(&path).context("opening ledger.db")?;
            file.belong_to(&config.region)?;
            Arc::new(file)
        }
        Some(address) => {
            let installation = installation(store.as_ref(), masters, is_fleet, &config.region, &config.data)?;
            Arc::new(PostgresLedger::open(address, installation).context("opening the ledger")?)
        }
    };
    if !is_fleet {
        return Ok((ledger, None));
    }
    let server = config.ledger.as_ref().map(|address| address.name().to_owned());
    let id = format!("{:032x}", ledger.id().context("reading which ledger it is")?);
    let file = match server {
        Some(_) => None,
        None => Some(files::which(&path).context("looking at ledger.db")?),
    };
    let master_keys = masters.all().map(MasterKey::id).collect();
    let own = LedgerUse { ledger: id, server, file, host: config.host_name.clone(), api: at, master_keys };
    match runtime.block_on(LedgerClaim::take(store.as_ref(), &config.region, own.clone())) {
        Ok(claim) => Ok((ledger, Some((claim, own)))),
        Err(error) => {
            drop(ledger);
            if is_made {
                files::remove_database(&path).context("removing the ledger.db that was made for nothing")?;
            }
            Err(error.into())
        }
    }
}

/// Every host of a cluster has one master key: another one would seal what nobody else opens. Where a rotation has made
/// the next key the cluster's, it takes the current one's place.
fn checked(store: &dyn ConfigStore, masters: MasterKeys, data: &Path) -> Result<MasterKeys> {
    let check = masters.current.check().into_bytes();
    let guard = Guard { key: MASTER_KEY_CHECK.to_owned(), revision: 0 };
    match store.txn(&[guard], &[Write::Put { key: MASTER_KEY_CHECK.to_owned(), value: check.clone() }]) {
        Ok(_) => return Ok(masters),
        Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error).context("writing the configuration"),
    }
    let listing = store.get(&[MASTER_KEY_CHECK.to_owned()]).context("reading the configuration")?;
    let is_check = |key: &MasterKey| listing.entries.first().is_some_and(|entry| entry.value == key.check().as_bytes());
    if is_check(&masters.current) {
        return Ok(masters);
    }
    let (current, former) = (masters.next.filter(is_check), masters.current);
    let current = current.context(OTHER_MASTER_KEY)?;
    files::adopt_next_master_key(data).context("taking over the next master key")?;
    tracing::info!(master_key = %current.id(), "the next master key is the current one");
    Ok(MasterKeys { current, next: None, former: Some(former) })
}

/// A ledger that was moved.
pub struct MovedLedger {
    /// The rows of each kind.
    pub kinds: Vec<MoveProgress>,
    /// Why etcd was not told; the next start waits for a while then.
    pub untold: Option<anyhow::Error>,
}

/// Moves the ledger of a data folder, which nobody else uses, into a PostgreSQL database. `is_fleet`: its configuration
/// is in etcd. The file stays as it is.
///
/// # Errors
/// There is no master key, the file cannot be read, or the server fails; what was begun goes on with the next try.
pub fn move_ledger(
    data: &Path,
    store: &dyn ConfigStore,
    is_fleet: bool,
    region: &str,
    to: &PostgresAddress,
    progress: impl FnMut(MoveProgress),
) -> Result<MovedLedger> {
    let masters = files::master_keys(data, |name| std::env::var(name).ok())?;
    let masters = masters.with_context(|| format!("{} has no master.key", data.display()))?;
    ensure!(
        !is_fleet || !store.get(&[HEAD.to_owned()]).context("reading the configuration")?.entries.is_empty(),
        "this cluster has no configuration, so nothing was moved: name the right one by --cluster, or move the configuration \
         first (postrail move-to-etcd)"
    );
    let installation = installation(store, &masters, is_fleet, region, data)?;
    let file = data.join("ledger.db");
    let source = SqliteLedger::open(&file)?;
    source.belong_to(region)?;
    let from = source.id()?;
    drop(source);
    let kinds = ledger::move_ledger(&file, to, installation, progress)?;
    let tell = || -> Result<(), AppError> {
        let target = PostgresLedger::open(to, installation)?.id()?;
        ledger_moved(store, region, [from, target], to.name())
    };
    // The move is done whatever becomes of that.
    let untold = if is_fleet { tell().err().map(anyhow::Error::from) } else { None };
    Ok(MovedLedger { kinds, untold })
}

/// What tells the ledger of this installation, and of a region in it, from others: as the configuration store has it, and as
/// the data folder has it, in case that the store is lost. Before either had it, a fleet derived it from its master key, and
/// a single host drew it.
fn installation(
    store: &dyn ConfigStore,
    masters: &MasterKeys,
    is_fleet: bool,
    region: &str,
    data: &Path,
) -> Result<u128> {
    let key = keys::installation(region);
    let file =
        data.join(if region.is_empty() { "installation.id".to_owned() } else { format!("installation-{region}.id") });
    let read = || store.get(std::slice::from_ref(&key)).context("reading the configuration");
    if read()?.entries.is_empty() {
        let earlier = match files::installation(&file).with_context(|| format!("reading {}", file.display()))? {
            Some(kept) => kept,
            None if is_fleet => masters.current.installation(region),
            None => files::draw_installation().context("drawing an installation's id")?,
        };
        let guard = Guard { key: key.clone(), revision: 0 };
        match store.txn(&[guard], &[Write::Put { key: key.clone(), value: format!("{earlier:032x}").into_bytes() }]) {
            // Another control plane was faster: what it wrote counts.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error).context("writing the configuration"),
        }
    }
    let listing = read()?;
    let text = listing.entries.first().and_then(|entry| std::str::from_utf8(&entry.value).ok());
    let known = text.and_then(|text| u128::from_str_radix(text, 16).ok());
    let known = known.context("the configuration store's installation is no number")?;
    files::keep_installation(&file, known).with_context(|| format!("writing {}", file.display()))?;
    Ok(known)
}

#[cfg(test)]
mod tests;
