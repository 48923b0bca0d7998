//! Starting and stopping the control plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api;
use crate::app::{App, Bootstrap, DataPlane, FirstStart, Parts, Publish, make_operator_token};
use crate::dns::Resolver;
use crate::files;
use crate::ledger::{Ledger, PostgresAddress, PostgresLedger, SqliteLedger};
use crate::reconcile::{JournalGauges, check_domains, follow_store, pull_journals};
use crate::store::{ConfigStore, EmbeddedStore};

/// What the control plane runs with.
pub struct Config {
    /// The data folder: `config.db`, `ledger.db`, `master.key`, `operator.token`, `installation.id`.
    pub data: PathBuf,
    /// The server that holds the ledger, in place of `ledger.db`.
    pub ledger: Option<PostgresAddress>,
    /// Where the API listens; loopback only.
    pub api: SocketAddr,
    /// The data plane's admin listener, such as `http://127.0.0.1:8082`.
    pub data_plane_admin: String,
    /// The name servers that are asked about sending domains.
    pub resolvers: Vec<SocketAddr>,
    /// Takes each encoded snapshot, in the order of revisions; called once before [`start`] returns. Must not block long.
    pub publish: Publish,
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
    ensure!(config.api.ip().is_loopback(), "the control API has no TLS yet: {} is not a loopback address", config.api);
    let listener = TcpListener::bind(config.api).await.with_context(|| format!("listening on {}", config.api))?;
    let api = listener.local_addr().context("reading the listener's address")?;
    let opened = tokio::task::spawn_blocking(move || open(config, &bootstrap)).await;
    let Opened { app, store, first } = opened.context("opening the stores")??;
    let gauges = Arc::new(JournalGauges::default());
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow_store(Arc::clone(&app), store, stopped.clone()));
    tasks.spawn(check_domains(Arc::clone(&app), stopped.clone()));
    tasks.spawn(pull_journals(Arc::clone(&app), Arc::clone(&gauges), stopped.clone()));
    let router = api::router(app, gauges);
    let mut ended = stopped;
    tasks.spawn(async move {
        let shutdown = async move {
            // An error means that the handle is gone, which is a reason to stop as well.
            let _ = ended.wait_for(|stop| *stop).await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the control API ended");
        }
    });
    Ok(Started { first, api, handle: Handle { stop, tasks } })
}

struct Opened {
    app: Arc<App>,
    store: Arc<dyn ConfigStore>,
    first: Option<FirstStart>,
}

fn open(config: Config, bootstrap: &Bootstrap) -> Result<Opened> {
    std::fs::create_dir_all(&config.data).with_context(|| format!("making {}", config.data.display()))?;
    let at = |name: &str| config.data.join(name);
    let master = files::master_key(&at("master.key")).context("reading master.key")?;
    let store: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&at("config.db")).context("opening config.db")?);
    let ledger: Arc<dyn Ledger> = match &config.ledger {
        None => Arc::new(SqliteLedger::open(&at("ledger.db")).context("opening ledger.db")?),
        Some(address) => {
            let installation = files::installation(&at("installation.id")).context("reading installation.id")?;
            Arc::new(PostgresLedger::open(address, installation).context("opening the ledger")?)
        }
    };
    let data_plane = DataPlane::new(&config.data_plane_admin).context("setting up the client of the data plane")?;
    let hostname = bootstrap.hostname.clone();
    let resolver = Resolver::new(config.resolvers);
    let parts =
        Parts { store: Arc::clone(&store), ledger, data_plane, publish: config.publish, master, hostname, resolver };
    let app = App::new(parts).context("reading the configuration")?;
    let token = files::operator_token(&at("operator.token"), || make_operator_token().map_err(std::io::Error::other))
        .context("reading operator.token")?;
    let first = app.bootstrap(bootstrap, &token).context("publishing the configuration")?;
    Ok(Opened { app: Arc::new(app), store, first })
}

#[cfg(test)]
mod tests;
