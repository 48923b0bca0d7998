//! From the configuration store to the data plane: watches what is published, fetches what is missing, puts it in effect.
//!
//! ```text
//! read the manifest -> watch behind it -> manifest and chunks as they are written -> apply -> watch on
//!        <- the watch ends (compaction, a reader that was too slow), or a chunk is not there: begin again
//! ```
//!
//! Invariants worth naming: a publication is applied whole or not at all; while the store is out of reach, the last one
//! stays in effect. What is in effect is synced to disk soon after, not before. Suppressions that a manifest is the first to name are fetched from the leading control plane before
//! the manifest is applied; where that does not answer in time, the manifest is not kept waiting for longer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use postrail_control_plane::store::{Change, ConfigStore, Watch, WatchEvent};
use postrail_control_plane::{FleetIdentity, FleetName, tls_reason};
use postrail_data_plane::feed::{Feed, FeedStatus};
use postrail_schema::keys::{self, MANIFEST, PUBLISHED};
use postrail_schema::limits::{ETCD_OPERATIONS_MAX, SNAPSHOT_BYTES_MAX};
use postrail_schema::publication::{ChunkName, Manifest, parse_key};
use reqwest::Url;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tracing::{debug, error, info, warn};

/// See the module head.
pub(crate) struct Follower {
    store: Arc<dyn ConfigStore>,
    /// `None` while a blocking thread has it.
    feed: Option<Feed>,
    status: Arc<FeedStatus>,
    /// Chunks that were written and that no manifest has named yet, by key.
    written: HashMap<String, Arc<[u8]>>,
    written_bytes: usize,
    /// When what is in effect is to be synced to disk.
    sync_at: Option<Instant>,
    access: ControlAccess,
    region: String,
    http: reqwest::Client,
}

/// By what control planes of the cluster know this host, and it them.
pub(crate) struct ControlAccess {
    /// Shown on loopback.
    pub(crate) token: String,
    /// In a fleet: what is shown elsewhere.
    pub(crate) identity: Option<FleetIdentity>,
}

/// Whether the watch can go on.
enum Next {
    Watch,
    Begin,
}

impl Follower {
    /// `region`: whose control plane has our suppressions.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub(crate) fn new(store: Arc<dyn ConfigStore>, feed: Feed, access: ControlAccess, region: String) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).timeout(FETCH_TIMEOUT);
        let http = match &access.identity {
            Some(identity) => http.tls_backend_preconfigured(identity.client(&FleetName::ControlPlane)?),
            None => http.tls_certs_only([]),
        };
        let status = feed.status();
        let http = http.build().context("cannot make an HTTP client")?;
        let written = HashMap::new();
        Ok(Self { store, feed: Some(feed), status, written, written_bytes: 0, sync_at: None, access, region, http })
    }

    /// Runs until `stop` is true.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE_MIN;
        loop {
            let begun = Instant::now();
            let followed = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                followed = self.follow() => followed,
            };
            // A watch that has held for a while was a good one.
            if begun.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            if let Err(error) = followed {
                self.status.lost();
                warn!(error = format!("{error:#}"), "configuration not followed; the last one stays in effect");
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
            // What was lost with a change that did not get through is to be read anew.
            if self.feed.is_none() {
                error!("the configuration is not followed any more: a thread of it has panicked");
                return;
            }
        }
    }

    /// From the present manifest on, until one has to begin again.
    async fn follow(&mut self) -> Result<()> {
        self.forget_written();
        let (store, keys) = (Arc::clone(&self.store), vec![MANIFEST.to_owned()]);
        let listing = blocking(move || store.get(&keys)).await?.context("cannot read the manifest")?;
        self.status.heard(now_ms());
        if let Some(manifest) = listing.entries.into_iter().next() {
            self.apply(manifest.value).await?;
        }
        let mut watch = self.store.watch(PUBLISHED, listing.revision);
        let begun = Instant::now();
        // A store that was restored from a snapshot tells nothing of what it has not any more: it is read again by period.
        while begun.elapsed() < LOOK_PERIOD {
            match self.next(&mut watch).await? {
                Next::Watch => {}
                Next::Begin => return Ok(()),
            }
        }
        Ok(())
    }

    async fn next(&mut self, watch: &mut Watch) -> Result<Next> {
        let sync_at = self.sync_at.unwrap_or_else(Instant::now);
        let event = tokio::select! {
            event = watch.next() => event,
            () = sleep_until(sync_at.into()), if self.sync_at.is_some() => {
                self.sync().await;
                return Ok(Next::Watch);
            }
            () = sleep(SUPPRESSIONS_PERIOD), if self.status.suppressions_behind() => {
                self.fetch_suppressions().await;
                return Ok(Next::Watch);
            }
        };
        match event {
            None => return Ok(Next::Begin),
            Some(WatchEvent::Alive) => self.status.heard(now_ms()),
            Some(WatchEvent::Lost) => {
                self.status.lost();
                warn!("the configuration store is out of reach; the last configuration stays in effect");
            }
            Some(WatchEvent::Changes { changes, .. }) => {
                self.status.heard(now_ms());
                if let Some(manifest) = self.note(changes) {
                    self.apply(manifest).await?;
                    self.forget_written();
                }
            }
        }
        Ok(Next::Watch)
    }

    /// Has the disk take what is in effect.
    async fn sync(&mut self) {
        self.sync_at = None;
        if let Err(error) = self.with_feed(|feed| Ok(feed.sync()?)).await {
            error!(error = format!("{error:#}"), "the configuration in effect is not certain to be on disk");
            self.sync_at = Some(Instant::now() + PAUSE_MAX);
        }
    }

    /// Keeps chunks that were written; the last manifest among the changes.
    fn note(&mut self, changes: Vec<Change>) -> Option<Vec<u8>> {
        let mut manifest = None;
        let own = self.feed.as_ref().and_then(Feed::region);
        for Change { key, value } in changes {
            let Some(value) = value else { continue };
            if key == MANIFEST {
                manifest = Some(value);
                continue;
            }
            // What belongs to another region is not for us, and not even for our memory.
            if parse_key(&key).is_none_or(|(place, _)| place.region.is_some() && place.region != own) {
                continue;
            }
            // What is left out here is fetched when it is named.
            if self.written_bytes + value.len() <= WRITTEN_BYTES_MAX {
                self.written_bytes += value.len();
                self.written.insert(key, value.into());
            }
        }
        manifest
    }

    fn forget_written(&mut self) {
        self.written.clear();
        self.written_bytes = 0;
    }

    /// Puts a publication in effect.
    async fn apply(&mut self, encoded: Vec<u8>) -> Result<()> {
        let feed = self.feed.as_ref().context("the feed is lost")?;
        let manifest = feed.read(&encoded)?;
        if *feed.manifest() == manifest && !self.status.suppressions_behind() {
            return Ok(());
        }
        if self.status.suppressions_behind() {
            self.fetch_in_time().await;
        }
        let written = std::mem::take(&mut self.written);
        let store = Arc::clone(&self.store);
        self.with_feed(move |feed| {
            if *feed.manifest() == manifest {
                return Ok(());
            }
            let chunks = fetch(store.as_ref(), &feed.missing(&manifest), &written)?;
            let (revision, count) = (manifest.revision.0, chunks.len());
            let late_ms = now_ms().saturating_sub(manifest.published_ms);
            let goes_back = Manifest::clone(feed.manifest()).revision > manifest.revision;
            feed.apply(manifest, &chunks).map_err(anyhow::Error::from)?;
            if goes_back {
                warn!(revision, "the configuration store has gone back to an earlier revision");
            }
            info!(revision, chunks = count, late_ms, "configuration in effect");
            Ok(())
        })
        .await?;
        self.sync_at.get_or_insert_with(|| Instant::now() + SYNC_DELAY);
        Ok(())
    }

    /// Tries for a while to have the suppressions that the last manifest names.
    async fn fetch_in_time(&mut self) {
        let end = Instant::now() + SUPPRESSIONS_PATIENCE;
        while self.status.suppressions_behind() {
            self.fetch_suppressions().await;
            if !self.status.suppressions_behind() || Instant::now() > end {
                return;
            }
            sleep(SUPPRESSIONS_PAUSE).await;
        }
    }

    async fn fetch_suppressions(&mut self) {
        match self.download().await {
            Ok((version, list)) => {
                let applied = self.with_feed(move |feed| Ok(feed.apply_suppressions(version, &list)?)).await;
                match applied {
                    Ok(()) => {
                        self.sync_at.get_or_insert_with(|| Instant::now() + SYNC_DELAY);
                        info!(version, "suppressions in effect");
                    }
                    Err(error) => error!(error = format!("{error:#}"), "suppressions not put in effect"),
                }
            }
            Err(error) => match tls_reason(error.as_ref()) {
                Some(reason) => warn!(reason, "suppressions not fetched: the control plane is not spoken to"),
                None => debug!(error = format!("{error:#}"), "suppressions not fetched"),
            },
        }
    }

    /// The suppressions of the leading control plane, with their version.
    async fn download(&self) -> Result<(u64, Vec<u8>)> {
        let (store, keys) = (Arc::clone(&self.store), vec![keys::leader(&self.region)]);
        let listing = blocking(move || store.get(&keys)).await?.context("cannot look who leads")?;
        let leader = listing.entries.first().context("no control plane leads")?;
        let at = std::str::from_utf8(&leader.value).context("the leader's address is no text")?;
        let at: Url = at.parse().with_context(|| format!("{at} is no URL"))?;
        let request = self.http.get(at.join("/fleet/suppressions")?);
        let request = match (at.scheme(), is_loopback(&at)) {
            ("https", _) => request,
            ("http", true) => request.bearer_auth(&self.access.token),
            _ => bail!("the control plane at {at} does not speak TLS: it may be of an earlier version"),
        };
        let wanted = self.status.suppressions_wanted();
        let mut answer = request.query(&[("version", wanted)]).send().await?.error_for_status()?;
        let version = answer.headers().get("x-suppressions-version").and_then(|value| value.to_str().ok());
        let version = version.and_then(|text| text.parse().ok()).context("the answer has no version")?;
        let mut list = Vec::new();
        while let Some(part) = answer.chunk().await? {
            list.extend_from_slice(&part);
            if list.len() > SNAPSHOT_BYTES_MAX {
                bail!("the list is too long");
            }
        }
        Ok((version, list))
    }

    /// Runs what reads and writes files on a thread that may block.
    async fn with_feed<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Feed) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut feed = self.feed.take().context("the feed is lost")?;
        let (feed, result) = blocking(move || {
            let result = work(&mut feed);
            (feed, result)
        })
        .await?;
        self.feed = Some(feed);
        result
    }
}

/// The chunks that are missing: from what was just written, else from the store.
fn fetch(
    store: &dyn ConfigStore,
    missing: &[ChunkName],
    written: &HashMap<String, Arc<[u8]>>,
) -> Result<Vec<(ChunkName, Arc<[u8]>)>> {
    let mut chunks = Vec::with_capacity(missing.len());
    let mut wanted = HashMap::new();
    let mut bytes = 0;
    for (at, name) in missing.iter().enumerate() {
        match written.get(&name.key()) {
            Some(bytes) => chunks.push((*name, Arc::clone(bytes))),
            None => {
                bytes += name.length as usize;
                wanted.insert(name.key(), *name);
            }
        }
        let is_last = at + 1 == missing.len();
        if wanted.len() < ETCD_OPERATIONS_MAX && bytes < FETCH_BYTES && !is_last {
            continue;
        }
        let keys: Vec<_> = wanted.keys().cloned().collect();
        for entry in store.get(&keys).context("cannot read chunks")?.entries {
            if let Some(name) = wanted.remove(&entry.key) {
                chunks.push((name, entry.value.into()));
            }
        }
        if let Some((key, _)) = wanted.iter().next() {
            // Collected already, since there is a newer manifest; or a publication that was torn.
            bail!("the chunk {key} is not there");
        }
        bytes = 0;
    }
    Ok(chunks)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| anyhow!("a thread of the configuration has panicked"))
}

/// Unix milliseconds.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// From when a configuration is in effect until it is synced: so long many share a sync, and the disk is busy with none of
/// them while others wait for the CPU to put theirs in effect.
const SYNC_DELAY: Duration = Duration::from_millis(100);
/// Between two beginnings.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Octets of chunks that are kept until a manifest names them.
const WRITTEN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Octets of chunks that are asked for at once, about.
const FETCH_BYTES: usize = 4 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A whole list of suppressions.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a manifest waits for the suppressions that it names, and between two tries.
const SUPPRESSIONS_PATIENCE: Duration = Duration::from_secs(3);
const SUPPRESSIONS_PAUSE: Duration = Duration::from_millis(50);
/// Between two readings of the manifest, whatever the watch says.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Between two tries later on.
const SUPPRESSIONS_PERIOD: Duration = Duration::from_secs(2);
