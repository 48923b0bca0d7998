//! The control planes without a region, as one of a region asks them for the suppressions that they keep.
//!
//! Invariants worth naming: plain HTTP is spoken on loopback alone; elsewhere the certificate has to be a control plane's of
//! the fleet, and ours is shown. What is asked and answered is bounded. Absent here: what is compared (`mirror`).

use std::sync::Arc;
use std::time::Duration;

use postrail_schema::keys;
use postrail_schema::limits::MIRROR_BODY_BYTES_MAX;
use postrail_schema::snapshot::Suppression;
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::data_plane::broken;
use super::{App, AppError, FleetAccess};
use crate::identity::{FleetName, speaks_tls, tls_reason};
use crate::ledger::SuppressionRecord;

/// Where the control planes without a region are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Home {
    /// There never was one.
    Nowhere,
    /// None leads at present.
    Away,
    /// The URL of the control API of the one that leads.
    At(String),
}

/// A stretch of the suppressions of tenants without a region, as a region has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// The version of suppressions that was announced: what is compared with has at least that.
    pub version: u64,
    /// It begins behind this one.
    pub after: Option<Suppression>,
    /// It ends with this one; `None`: it has no end.
    pub through: Option<Suppression>,
    /// Of all in it.
    pub digest: String,
    /// Those of them that the home was never told of.
    pub own: Vec<SuppressionRecord>,
}

/// The same stretch as the home has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Compared {
    /// How far it goes.
    pub through: Option<Suppression>,
    /// `None`: they are the same.
    pub records: Option<Vec<SuppressionRecord>>,
    /// How many of the region's own it has no room for.
    pub refused: usize,
}

/// Asks the one that leads.
pub(crate) struct HomeClient {
    url: Url,
    client: Client,
    /// What hosts of a fleet know each other by on loopback.
    token: Option<Arc<str>>,
}

impl HomeClient {
    /// Of the one at that URL.
    ///
    /// # Errors
    /// It is none, or it would be plain HTTP beyond loopback.
    pub(crate) fn new(at: &str, access: &FleetAccess) -> Result<Self, AppError> {
        let url: Url = at.parse().map_err(|_| failed(format!("{at} is no URL")))?;
        let url = url.join("/fleet/suppressions").map_err(|_| failed(format!("{at} is no URL")))?;
        let client = Client::builder().timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).no_proxy();
        let (client, token) = match speaks_tls(&url).map_err(|error| failed(error.to_string()))? {
            true => {
                let config = access.identity.client(&FleetName::ControlPlane);
                let config = config.map_err(|error| failed(error.to_string()))?;
                (client.tls_backend_preconfigured(config), None)
            }
            false => (client.tls_certs_only([]), Some(Arc::clone(&access.token))),
        };
        Ok(Self { url, client: client.build().map_err(|error| unreachable_home(&error))?, token })
    }

    /// # Errors
    /// It does not answer, or refuses.
    pub(crate) async fn compare(&self, asked: &Comparison) -> Result<Compared, AppError> {
        let request = self.client.post(self.url.clone()).json(asked);
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let mut answer = request.send().await.map_err(|error| unreachable_home(&error))?;
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                return Err(failed("it runs an earlier version, which does not tell them: upgrade it".to_owned()));
            }
            status => return Err(failed(format!("it refuses with status {}", status.as_u16()))),
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| unreachable_home(&error))? {
            body.extend_from_slice(&part);
            if body.len() > MIRROR_BODY_BYTES_MAX {
                return Err(failed("its answer is too long".to_owned()));
            }
        }
        serde_json::from_slice(&body).map_err(|_| failed("its answer is not in the agreed form".to_owned()))
    }
}

impl App {
    /// Where the suppressions of tenants without a region are kept.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn home(&self) -> Result<Home, AppError> {
        let (leader, ledger) = (keys::leader(""), keys::last_ledger(""));
        let found = self.store.get(&[leader.clone(), ledger])?.entries;
        Ok(match found.iter().find(|entry| entry.key == leader) {
            Some(leader) => Home::At(String::from_utf8_lossy(&leader.value).into_owned()),
            None if found.is_empty() => Home::Nowhere,
            None => Home::Away,
        })
    }
}

fn unreachable_home(error: &reqwest::Error) -> AppError {
    failed(tls_reason(error).unwrap_or_else(|| broken(error).to_owned()))
}

fn failed(detail: String) -> AppError {
    AppError::Home { detail }
}

/// One call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
