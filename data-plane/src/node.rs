//! A data-plane node: its shards, its listeners, its configuration, from start to drained end.
//!
//! [`start`] runs the shards on threads of their own and returns a [`NodeHandle`] and the [`Feed`] of its configuration. [`run_shard`] is one shard's whole
//! life, generic over the platform: the simulator calls it, too.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use postrail_core::base::Instant;
use postrail_core::dns::ResolverConfig;
use postrail_core::intake::listeners::ListeningHost;
use postrail_core::mail::Domain;
use postrail_core::rules::SourceOwners;
use postrail_schema::host::AuthoritiesHash;
use postrail_schema::ids::ShardId;
use postrail_schema::listener::{Listener, ListenerProtocol};
use postrail_schema::sealed::MasterKeys;
use postrail_schema::snapshot::Snapshot;
use postrail_schema::tls::TlsVersion;

use crate::admin::{self, AdminAccess};
use crate::dns::{Dns, system_servers};
use crate::feed::{Feed, FeedError};
use crate::intake::listen::{Keeper, Unopened};
use crate::journal::Journal;
use crate::mesh::{Letter, Mesh};
use crate::platform::glommio::{PinError, RunError, ShardPin, ShardThreads, check_pins, run_shards};
use crate::platform::{Net as _, Platform};
use crate::shard::{NodeFacts, Parts, Runtime};
use crate::spool::Spool;
use crate::tls::{Acceptor, Connector, ServerIdentity, TlsError};
use crate::transfer::{self, Departure};

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Holds `spool/`, `journal/`, `tls/` and `published.log`.
    pub data: PathBuf,
    /// What opens DKIM keys.
    pub master_keys: MasterKeys,
    pub hostname: String,
    pub smtp: Vec<SocketAddr>,
    pub smtps: Vec<SocketAddr>,
    pub rest: Vec<SocketAddr>,
    pub admin: SocketAddr,
    /// 0: one a core.
    pub shards: u16,
    /// What each shard is tied to, in order; shards beyond them run where the kernel puts them.
    pub pins: Vec<ShardPin>,
    /// Empty: the system's.
    pub resolvers: Vec<SocketAddr>,
    /// Certificate chain and key in PEM; `None`: self-signed, made at the first start.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Authorities of receivers' certificates beside those of the system, in PEM.
    pub receiver_authorities: Option<PathBuf>,
    /// How long a drain may take.
    pub drain: Duration,
    /// Where jobs are looked up: `http://127.0.0.1:8081`.
    pub control_url: String,
    /// Addresses move between hosts: none is used but those that [`crate::lease`] says are held.
    pub is_leasing: bool,
    /// The region that it is in: what belongs to another is not kept here; empty: none.
    pub region: String,
    /// This host's name in its fleet; empty: none.
    pub host_name: String,
    /// How the admin listener knows who asks.
    pub admin_access: AdminAccess,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address} for {what}: {source}; stop what uses it, or choose another port")]
    Listen { what: &'static str, address: SocketAddr, source: io::Error },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the host name {0:?} is not a domain name")]
    Hostname(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{0}")]
    Shard(String),
}

/// A running node.
pub struct NodeHandle {
    mesh: Mesh,
    shards: u16,
    receiver_authorities: AuthoritiesHash,
    departures: Receiver<Departure>,
    thread: std::thread::JoinHandle<Result<bool, StartError>>,
}

impl NodeHandle {
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Which authorities of receivers it knows beside the system's.
    pub fn receiver_authorities(&self) -> AuthoritiesHash {
        self.receiver_authorities
    }

    /// The way to the shards, for what tells them which addresses are held.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// What goes to other hosts, for what carries it.
    pub fn departures(&self) -> Receiver<Departure> {
        self.departures.clone()
    }

    /// Begins to drain: intake stops, what is under way is finished.
    pub fn drain(&self) {
        self.mesh.broadcast(|| Letter::Drain);
    }

    /// Waits for the end; `true`: everything under way was finished before the deadline.
    ///
    /// # Errors
    /// A shard could not start or has failed.
    pub fn join(self) -> Result<bool, StartError> {
        self.thread.join().unwrap_or_else(|_| Err(StartError::Shard("the node's thread panicked".to_owned())))
    }
}

/// What every shard's thread is given.
#[derive(Clone)]
pub struct ShardSetup {
    pub node: NodeFacts,
    pub resolver: ResolverConfig,
    pub admin: Option<SocketAddr>,
    pub drain: Duration,
    pub mesh: Mesh,
    pub inboxes: Arc<[Receiver<Letter>]>,
    pub snapshot: Arc<Snapshot>,
}

/// Starts a node; it runs until it is drained. Returns once every shard listens.
///
/// # Errors
/// [`StartError`], in words for the operator.
pub fn start(config: NodeConfig) -> Result<(NodeHandle, Feed), StartError> {
    check_pins(&config.pins)?;
    let (departing, departures) = transfer::departures();
    let (setup, feed) = prepare(&config, departing)?;
    probe("the admin API", config.admin)?;
    let count = NonZeroU16::new(setup.node.shards).unwrap_or(NonZeroU16::MIN);
    let threads = ShardThreads { pins: config.pins.clone(), ..ShardThreads::new(count) };
    let (mesh, shards) = (setup.mesh.clone(), setup.node.shards);
    let receiver_authorities = setup.node.connector.authorities();
    let (started, starting) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("postrail-node".to_owned());
    let spawned = thread.spawn(move || {
        let report = started.clone();
        let ran = run_shards(&threads, move |shard, platform| {
            let (setup, started) = (setup.clone(), report.clone());
            async move { run_shard(platform, shard, setup, move || drop(started.send(Ok(())))).await }
        });
        let result: Result<bool, StartError> = match ran {
            Ok(ends) => ends.into_iter().try_fold(true, |clean, end| Ok(clean && end?)),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &result {
            let _ = started.send(Err(error.to_string()));
        }
        result
    });
    let thread = spawned.map_err(|source| StartError::File { path: PathBuf::from("thread"), source })?;
    for _ in 0..shards {
        match starting.recv() {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                mesh.broadcast(|| Letter::Drain);
                return Err(StartError::Shard(why));
            }
            Err(_) => return Err(StartError::Shard("a shard ended before it had started".to_owned())),
        }
    }
    Ok((NodeHandle { mesh, shards, receiver_authorities, departures, thread }, feed))
}

fn prepare(config: &NodeConfig, departures: Sender<Departure>) -> Result<(ShardSetup, Feed), StartError> {
    let host = Domain::parse(&config.hostname).map_err(|_| StartError::Hostname(config.hostname.clone()))?;
    let shards = if config.shards > 0 {
        config.shards
    } else {
        let found = ShardThreads::one_a_core();
        found.map_err(|source| StartError::File { path: PathBuf::from("CPU set"), source })?.count.get()
    };
    let shards = shards.max(held_shards(&config.data));
    let identity = match &config.tls {
        Some((chain, key)) => ServerIdentity::load(chain, key)?,
        None => ServerIdentity::self_signed(&config.data.join("tls"), &host)?,
    };
    let servers = if config.resolvers.is_empty() { system_servers() } else { config.resolvers.clone() };
    let (mesh, inboxes) = Mesh::new(usize::from(shards));
    let feed = Feed::open(&config.data, &config.region, mesh.clone())?;
    let options = config
        .smtp
        .iter()
        .map(|at| Listener::of_options(ListenerProtocol::Smtp, *at))
        .chain(config.smtps.iter().map(|at| Listener::of_options(ListenerProtocol::Smtps, *at)))
        .chain(config.rest.iter().map(|at| Listener::of_options(ListenerProtocol::Rest, *at)))
        .collect();
    let setup = ShardSetup {
        node: NodeFacts {
            data: config.data.clone(),
            hostname: config.hostname.as_str().into(),
            shards,
            master_keys: Arc::new(config.master_keys.clone()),
            acceptor: Some(Acceptor::new(identity.server_config(TlsVersion::default())?)),
            identity: Some(Arc::new(identity)),
            listening: ListeningHost { name: config.host_name.clone(), region: config.region.clone(), options },
            ports: Arc::default(),
            usage: Arc::default(),
            connector: Connector::system(config.receiver_authorities.as_deref())?,
            control_url: config.control_url.as_str().into(),
            owners: owners(&config.pins),
            is_leasing: config.is_leasing,
            feed: feed.status(),
            admin_access: config.admin_access.clone(),
            departures,
        },
        resolver: ResolverConfig { own_names: vec![host], ..ResolverConfig::new(servers) },
        admin: Some(config.admin),
        drain: config.drain,
        mesh,
        inboxes: inboxes.into(),
        snapshot: feed.snapshot().clone(),
    };
    Ok((setup, feed))
}

fn owners(pins: &[ShardPin]) -> SourceOwners {
    let of = |(shard, pin): (u16, &ShardPin)| {
        pin.sources.iter().map(move |source| (*source, ShardId(shard))).collect::<Vec<_>>()
    };
    SourceOwners::new((0..).zip(pins).flat_map(of))
}

/// How many shards the data folder holds mail or events of. At least as many run, so that nothing is stranded in the
/// spool of a shard that is gone; they share cores if there are fewer.
fn held_shards(data: &Path) -> u16 {
    let of = |log: &str| {
        let entries = std::fs::read_dir(data.join(log)).into_iter().flatten().flatten();
        let indexes = entries.filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("shard-")?.parse::<u16>().ok()
        });
        indexes.max().map_or(0, |last| last + 1)
    };
    of("spool").max(of("journal"))
}

/// Fails early and clearly where another process has the port: SO_REUSEPORT would share it in silence.
fn probe(what: &'static str, address: SocketAddr) -> Result<(), StartError> {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(source) => Err(StartError::Listen { what, address, source }),
    }
}

/// How long the admin listener has to close.
const LISTENER_END: Duration = Duration::from_millis(10);

/// Waits until every other shard has ended: the first serves the admin listener for all of them.
async fn others_ended<P: Platform>(platform: &P, mesh: &Mesh, deadline: Instant) {
    let alive = || (1..mesh.shards() as u16).any(|shard| !mesh.has_ended(ShardId(shard)));
    while alive() && platform.now() < deadline {
        platform.sleep_until(platform.now() + Duration::from_millis(10)).await;
    }
}

/// One shard's life: opens its logs, listens, recovers behind that, and runs until it has drained. `Ok(true)`:
/// everything under way was finished.
///
/// # Errors
/// The spool, the journal or a listener could not be opened.
pub async fn run_shard<P: Platform>(
    platform: P,
    shard: ShardId,
    setup: ShardSetup,
    started: impl FnOnce(),
) -> Result<bool, StartError> {
    let refuse = |error: String| StartError::Shard(format!("shard {shard}: {error}"));
    let data = setup.node.data.clone();
    let journal = Journal::open(platform.clone(), &data, shard).await.map_err(|error| refuse(error.to_string()))?;
    let spool = Spool::open(platform.clone(), &data, shard).await.map_err(|error| refuse(error.to_string()))?;
    let dns = Dns::start(platform.clone(), setup.resolver);
    let parts = Parts { spool, journal, dns };
    let runtime = Runtime::start(platform.clone(), shard, setup.node, parts, setup.mesh, setup.snapshot);
    let (over, ending) = async_channel::bounded::<()>(1);
    let mut keeper = Keeper::new(runtime.clone());
    let mut unopened = keeper.settle().await;
    // What the host itself was told has to be had; what is published may be mended without it.
    if let Some(at) = unopened.iter().position(|unopened| unopened.listener.name.is_empty()) {
        let Unopened { listener, error: source } = unopened.swap_remove(at);
        return Err(StartError::Listen { what: listener.protocol.word(), address: listener.address, source });
    }
    platform.spawn("listeners", keeper.run(unopened.len()));
    if let Some(address) = setup.admin.filter(|_| shard.0 == 0) {
        let what = "the admin API";
        // It has one socket, on this shard: shared with another process, every other connection would go there.
        let listener = platform.net().listen_alone(address);
        let listener = listener.map_err(|source| StartError::Listen { what, address, source })?;
        platform.spawn("admin listener", admin::run(runtime.clone(), listener, ending));
    }
    if let Some(inbox) = setup.inboxes.get(usize::from(shard.0)) {
        platform.spawn("inbox", runtime.clone().read_inbox(inbox.clone()));
    }
    started();
    if let Err(error) = runtime.recover().await {
        tracing::error!(shard = shard.0, %error, "recovery failed; new mail is accepted, old mail waits for repair");
    }
    runtime.draining().await;
    let deadline = platform.now() + setup.drain;
    let clean = runtime.drained(deadline).await;
    if shard.0 == 0 {
        others_ended(&platform, runtime.mesh(), deadline).await;
    }
    if let Some(inbox) = setup.inboxes.get(usize::from(shard.0)) {
        // Who asks from now on hears that the shard has ended; who has asked and was not answered, too.
        inbox.close();
        while inbox.try_recv().is_ok() {}
    }
    over.close();
    platform.sleep_until(platform.now() + LISTENER_END).await;
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_shards_run_as_the_folder_has() {
        let folder = std::env::temp_dir().join(format!("postrail-held-shards-{}", std::process::id()));
        assert_eq!(held_shards(&folder), 0);
        std::fs::create_dir_all(folder.join("spool/shard-002")).unwrap();
        std::fs::create_dir_all(folder.join("journal/shard-000")).unwrap();
        assert_eq!(held_shards(&folder), 3);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
