//! The joint: both planes in one process, the control plane on tokio and the data plane on its own threads.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use super::banner::FirstStart;
use crate::client::TOKEN_FILE;

/// What both planes are started with.
#[derive(Clone, Debug)]
pub(crate) struct PlanesOptions {
    pub(crate) data: PathBuf,
    pub(crate) hostname: String,
    /// The sending domain that the first start makes.
    pub(crate) domain: String,
    pub(crate) smtp: Vec<SocketAddr>,
    pub(crate) smtps: Vec<SocketAddr>,
    pub(crate) rest: Vec<SocketAddr>,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) shards: usize,
    pub(crate) resolvers: Vec<SocketAddr>,
    /// Certificate chain and private key, PEM files.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) drain: Duration,
}

/// Both planes, running.
pub(crate) struct Planes {
    token_file: PathBuf,
    first_start: Option<FirstStart>,
}

impl Planes {
    /// Starts the control plane, then the data plane with its snapshot.
    pub(crate) async fn start(options: &PlanesOptions) -> Result<Self> {
        let token_file = options.data.join(TOKEN_FILE);
        let _ = Self { token_file, first_start: None };
        bail!("the planes are not joined yet: {options:?}")
    }

    /// What the first start made; `None` where an earlier one did.
    pub(crate) fn first_start(&self) -> Option<&FirstStart> {
        self.first_start.as_ref()
    }

    /// Where the operator's token is.
    pub(crate) fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// Drains the data plane, then stops the control plane.
    pub(crate) async fn stop(self) -> Result<()> {
        Ok(())
    }
}
