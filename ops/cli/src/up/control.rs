//! The control plane of this process, which cannot start before etcd answers where there is one.
//!
//! ```text
//! etcd answers --------------------------------> Started
//! it does not; there is a master key ----------> Waiting: tries for as long as it takes, beside the data plane
//! it does not; this folder never had one ------> tries for FIRST_PATIENCE, then the start fails
//! it is full, or does not let us in -----------> Waiting beside a data plane that has a master key; else the start fails
//! ```
//!
//! A host of both planes thus takes mail while etcd is away, and one whose network comes up with it needs no second start.
//! Absent here: waiting for PostgreSQL, which the ledger does by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use postrail_control_plane as control;
use postrail_control_plane::FleetIdentity;
use postrail_control_plane::store::ConfigStore;
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use super::planes::{CONTROL_STOP_TIMEOUT, PlanesOptions, facts, master_keys};
use crate::client::AUTHORITIES_FILE;
use crate::fleet::settings::Role;

/// How far a start has come.
pub(super) enum Begun {
    Started(Box<control::Started>),
    Waiting(Control),
}

/// A control plane that runs, or will.
pub(super) enum Control {
    Running(control::Handle),
    Waiting(JoinHandle<Result<control::Handle>>),
    /// It could not start after all.
    Failed,
}

/// Starts it, or begins to wait for etcd.
///
/// # Errors
/// What keeps it from starting, in words for the operator.
pub(super) async fn begin(options: &PlanesOptions, store: &Arc<dyn ConfigStore>) -> Result<Begun> {
    let until = Instant::now() + FIRST_PATIENCE;
    let mut waiting = Wait::default();
    loop {
        let error = match start(options, store).await {
            Ok(started) => return Ok(Begun::Started(Box::new(started))),
            Err(error) => error,
        };
        let is_known = master_keys(options)?.is_some();
        let is_waited_for = control::is_store_away(&error) || is_known && is_borne(options, &error);
        if !is_waited_for || !is_known && Instant::now() >= until {
            return Err(error);
        }
        waiting.tell(&error);
        if is_known {
            let (options, store) = (options.clone(), Arc::clone(store));
            return Ok(Begun::Waiting(Control::Waiting(tokio::spawn(keep_trying(options, store, waiting)))));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn keep_trying(
    options: PlanesOptions,
    store: Arc<dyn ConfigStore>,
    mut waiting: Wait,
) -> Result<control::Handle> {
    loop {
        tokio::time::sleep(PAUSE).await;
        match start(&options, &store).await {
            Ok(started) => {
                info!("etcd answers: the control plane runs");
                return Ok(started.handle);
            }
            Err(error) if control::is_store_away(&error) || is_borne(&options, &error) => waiting.tell(&error),
            Err(error) => return Err(error),
        }
    }
}

/// Whether a store that answers and refuses is waited for: the data plane here, which goes on with what it has, would end
/// with the control plane otherwise, and mail with it.
fn is_borne(options: &PlanesOptions, error: &Error) -> bool {
    let has_data_plane = options.fleet.as_ref().is_none_or(|fleet| fleet.runs(Role::DataPlane));
    has_data_plane && control::is_store_refusing(error)
}

/// What was told of the wait: nothing, that etcd is away, or that it refuses, which somebody has to do something about.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Wait {
    #[default]
    Untold,
    Away,
    Refused,
}

impl Wait {
    fn tell(&mut self, error: &Error) {
        let is = if control::is_store_refusing(error) { Self::Refused } else { Self::Away };
        let (was, error) = (std::mem::replace(self, is), format!("{error:#}"));
        match is {
            _ if was == is => debug!(error, "waiting for etcd"),
            Self::Refused => error!(error, "waiting for etcd, which refuses us: the control plane does not run"),
            _ => warn!(error, "waiting for etcd"),
        }
    }
}

async fn start(options: &PlanesOptions, store: &Arc<dyn ConfigStore>) -> Result<control::Started> {
    let data_planes = match &options.fleet {
        Some(fleet) => control::DataPlanes::Announced(facts(options, fleet)?),
        None => control::DataPlanes::Beside(format!("http://{}", options.admin)),
    };
    match &options.ledger {
        None => crate::ledger::check_not_moved(&options.data)?,
        Some(_) => crate::ledger::check_moved(&options.data)?,
    }
    let config = control::Config {
        data: options.data.clone(),
        master_keys: master_keys(options)?,
        store: Arc::clone(store),
        ledger: options.ledger.clone(),
        data_planes,
        resolvers: options.resolvers.clone(),
        api: options.api,
        region: options.region().to_owned(),
        host_name: options.host_name().map_or_else(|_| options.hostname.clone(), |name| name.to_string()),
    };
    let bootstrap = control::Bootstrap {
        hostname: options.hostname.clone(),
        domain: Some(options.domain.clone()),
        algorithms: options.algorithms.clone(),
        routes: options.routes.clone(),
    };
    let started = control::start(config, bootstrap).await.context("cannot start the control plane")?;
    write_authorities(options, started.identity.as_ref())?;
    Ok(started)
}

/// Keeps what monitoring and the commands know this fleet's hosts by; it is no secret.
pub(super) fn write_authorities(options: &PlanesOptions, identity: Option<&FleetIdentity>) -> Result<()> {
    let Some(identity) = identity else { return Ok(()) };
    let path = options.data.join(AUTHORITIES_FILE);
    // Whoever reads it finds all of it.
    let unfinished = path.with_extension("new");
    let written =
        std::fs::write(&unfinished, identity.authorities()).and_then(|()| std::fs::rename(&unfinished, &path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

impl Control {
    /// Returns when one that had to wait cannot start after all, and why.
    pub(super) async fn failed(&mut self) -> Error {
        if let Self::Waiting(task) = self {
            let ended = task.await;
            // The task has given its answer, and is not asked again.
            *self = Self::Failed;
            match ended {
                Ok(Ok(handle)) => *self = Self::Running(handle),
                Ok(Err(error)) => return error,
                Err(_) => return anyhow!("the control plane panicked while it started"),
            }
        }
        std::future::pending().await
    }

    /// Ends it, in a bounded time.
    pub(super) async fn shutdown(self) {
        let handle = match self {
            Self::Running(handle) => handle,
            Self::Failed => return,
            Self::Waiting(task) => {
                task.abort();
                let Ok(Ok(handle)) = task.await else { return };
                handle
            }
        };
        // A pull that still waits for the node would wait in vain: its events are in the journal for the next start.
        if tokio::time::timeout(CONTROL_STOP_TIMEOUT, handle.shutdown()).await.is_err() {
            debug!("the control plane was stopped with a request in flight");
        }
    }
}

/// How long a first start waits for etcd, and whoever sits before it.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries, beside the time that each takes.
const PAUSE: Duration = Duration::from_millis(500);
