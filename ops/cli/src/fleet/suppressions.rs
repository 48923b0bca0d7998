//! Brings the suppressions in effect up to date from the leading control plane.
//!
//! ```text
//! "I have the list of ledger L up to change 7" -> what has changed since, or the whole list -> an update for the feed
//! the list has drifted                         -> asked again, for the whole list
//! ```
//!
//! One question is under way at a time, on a task of its own, so that a long list keeps no change of the configuration
//! waiting. Invariants worth naming: an update is made of the list that was in effect when it was asked for, and no other is
//! put in effect meanwhile. Now and then the list is compared with that of the ledger, though nothing has changed.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use postrail_control_plane::store::ConfigStore;
use postrail_control_plane::{FleetName, speaks_tls};
use postrail_data_plane::feed::{FeedStatus, SuppressionAnswer, SuppressionError, SuppressionList, SuppressionUpdate};
use postrail_schema::keys;
use postrail_schema::limits::{SNAPSHOT_BYTES_MAX, SUPPRESSIONS_LOOK_PERIOD};
use postrail_schema::suppressions::SuppressionPoint;
use postrail_schema::suppressions::headers::{AT, HAVE, SINCE, TOTAL, VERSION};
use reqwest::Url;
use tokio::task::JoinHandle;
use tracing::warn;

use super::FleetAccess;
use super::follower::blocking;

/// See the module head.
pub(super) struct Suppressions {
    source: Source,
    under_way: Option<JoinHandle<Result<SuppressionUpdate>>>,
    compare_at: Option<Instant>,
}

/// Whom to ask.
#[derive(Clone)]
struct Source {
    store: Arc<dyn ConfigStore>,
    access: FleetAccess,
    region: String,
    http: reqwest::Client,
    status: Arc<FeedStatus>,
}

impl Suppressions {
    /// `region`: whose control plane has our suppressions.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub(super) fn new(
        store: Arc<dyn ConfigStore>,
        access: FleetAccess,
        region: String,
        status: Arc<FeedStatus>,
    ) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).timeout(FETCH_TIMEOUT);
        let http = match &access.identity {
            Some(identity) => http.tls_backend_preconfigured(identity.client(&FleetName::ControlPlane)?),
            None => http.tls_certs_only([]),
        };
        let http = http.build().context("cannot make an HTTP client")?;
        let source = Source { store, access, region, http, status };
        Ok(Self { source, under_way: None, compare_at: Some(Instant::now() + COMPARE_SOON) })
    }

    /// Begins to fetch what leads on from `list`, which is in effect, unless that is under way.
    pub(super) fn begin(&mut self, list: SuppressionList) {
        if self.under_way.is_none() {
            self.compare_at = None;
            self.under_way = Some(tokio::spawn(self.source.clone().fetch(list)));
        }
    }

    /// What has come; never, where nothing is under way. It may be given up and called again.
    pub(super) async fn fetched(&mut self) -> Result<SuppressionUpdate> {
        let Some(under_way) = &mut self.under_way else { return pending().await };
        let fetched = under_way.await.unwrap_or_else(|_| bail!("the task that fetches suppressions has panicked"));
        self.under_way = None;
        // A control plane of an earlier version has nothing to compare with.
        let wait = match fetched.as_ref().ok().map(SuppressionUpdate::is_compared) {
            Some(None) => None,
            Some(Some(true)) => Some(SUPPRESSIONS_LOOK_PERIOD + LOOK_SPREAD * (std::process::id() % LOOK_SPREADS)),
            Some(Some(false)) => Some(COMPARE_SOON),
            None => Some(COMPARE_LATER),
        };
        self.compare_at = wait.map(|wait| Instant::now() + wait);
        fetched
    }

    /// When the list is to be compared with that of the ledger.
    pub(super) fn compare_at(&self) -> Option<Instant> {
        self.compare_at
    }
}

impl Source {
    async fn fetch(self, list: SuppressionList) -> Result<SuppressionUpdate> {
        let answer = self.ask(list.at()).await?;
        let own = list.clone();
        match blocking(move || own.take(answer)).await? {
            Err(error @ (SuppressionError::Drifted { .. } | SuppressionError::Unrelated)) => {
                warn!(error = error.to_string(), "suppressions are fetched whole");
                let answer = self.ask(None).await?;
                Ok(blocking(move || list.take(answer)).await??)
            }
            taken => Ok(taken?),
        }
    }

    /// What the leading control plane has behind `have`.
    async fn ask(&self, have: Option<SuppressionPoint>) -> Result<SuppressionAnswer> {
        let (store, keys) = (Arc::clone(&self.store), vec![keys::leader(&self.region)]);
        let listing = blocking(move || store.get(&keys)).await?.context("cannot look who leads")?;
        let leader = listing.entries.first().context("no control plane leads")?;
        let at = std::str::from_utf8(&leader.value).context("the leader's address is no text")?;
        let at: Url = at.parse().with_context(|| format!("{at} is no URL"))?;
        let request = self.http.get(at.join("/fleet/suppressions")?);
        let request = if speaks_tls(&at)? { request } else { request.bearer_auth(&self.access.token) };
        let request = request.header(HAVE, have.map_or_else(|| NOTHING.to_owned(), |have| have.to_string()));
        let wanted = self.status.suppressions_wanted();
        let mut response = request.query(&[("version", wanted)]).send().await?.error_for_status()?;
        let said = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let mut answer = SuppressionAnswer {
            asked: wanted,
            version: said(VERSION).and_then(|text| text.parse().ok()).context("the answer has no version")?,
            at: said(AT).map(str::parse).transpose().context("the answer's point")?,
            since: said(SINCE).map(str::parse).transpose().context("since when the answer tells")?,
            total: said(TOTAL).map(str::parse).transpose().context("the answer's total")?,
            octets: Vec::new(),
        };
        while let Some(part) = response.chunk().await? {
            answer.octets.extend_from_slice(&part);
            if answer.octets.len() > SNAPSHOT_BYTES_MAX {
                bail!("the list is too long");
            }
        }
        self.status.took_suppressions(answer.octets.len(), answer.since.is_none());
        Ok(answer)
    }
}

/// What is said by who has no list that could be amended.
const NOTHING: &str = "nothing";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A whole list of suppressions.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Hosts that heard of a change together do not all compare together.
const LOOK_SPREAD: Duration = Duration::from_secs(1);
const LOOK_SPREADS: u32 = 60;
/// Until a list is compared that was kept over a start, or could not be compared at once since the control plane was still
/// counting.
const COMPARE_SOON: Duration = Duration::from_secs(10);
/// And until the next try, where none came.
const COMPARE_LATER: Duration = Duration::from_secs(60);
