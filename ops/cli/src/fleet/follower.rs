//! From the configuration store to the data plane: watches what is published, fetches what is missing, puts it in effect.
//!
//! ```text
//! read the manifest -> watch behind it -> the way to the next manifest, with its chunks -> apply -> watch on
//!        <- the watch ends (compaction, a reader that was too slow), the way is not from our manifest, a chunk is not there,
//!           or the time is up: begin again
//! ```
//!
//! A change is told by one key of some kilobytes; the manifest, whose octets grow with all that is published, is read at a
//! beginning alone. Where who wrote the manifest told no way to it (a control plane of an earlier version), the manifest
//! itself is watched, and each change is a beginning.
//!
//! Invariants worth naming: a publication is applied whole or not at all; while the store is out of reach, the last one
//! stays in effect. What is in effect is synced to disk soon after, not before. Suppressions that a manifest is the first
//! to name are fetched from the leading control plane ([`suppressions`](super::suppressions)) before the manifest is applied;
//! where that does not answer in time, the manifest is not kept waiting for longer, unless none ever came: the first list is
//! waited for, however long. Nothing is followed that is of another master key than this host's. The task runs where the
//! store's events arrive, so a change that is all there is put in effect by the thread that hears of it: anything that may
//! take longer goes to a thread that may block.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result, anyhow, bail};
use postrail_control_plane::store::{Change, ConfigStore, Watch, WatchEvent};
use postrail_control_plane::tls_reason;
use postrail_data_plane::feed::{Feed, FeedStatus, SuppressionUpdate, Withheld};
use postrail_schema::keys::{ADVANCE, MANIFEST, MASTER_KEY_CHECK};
use postrail_schema::limits::ETCD_OPERATIONS_MAX;
use postrail_schema::publication::{ChunkName, Manifest, ManifestHash};
use postrail_schema::sealed::{MasterKeys, OTHER_MASTER_KEY};
use postrail_schema::wire::decode_advance;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout_at};
use tracing::{debug, error, info, warn};

use super::FleetAccess;
use super::suppressions::Suppressions;

/// See the module head.
pub(crate) struct Follower {
    store: Arc<dyn ConfigStore>,
    /// `None` while a blocking thread has it.
    feed: Option<Feed>,
    status: Arc<FeedStatus>,
    /// The store's manifest that is in effect.
    at: Option<ManifestHash>,
    /// When what is in effect is to be synced to disk, and the last sync.
    sync_at: Option<Instant>,
    syncing: Option<JoinHandle<()>>,
    suppressions: Suppressions,
    masters: MasterKeys,
    /// What was last said of why no mail is taken.
    told: Option<Withheld>,
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
    pub(crate) fn new(
        store: Arc<dyn ConfigStore>,
        feed: Feed,
        access: FleetAccess,
        masters: MasterKeys,
        region: String,
    ) -> Result<Self> {
        let status = feed.status();
        let suppressions = Suppressions::new(Arc::clone(&store), access, region, Arc::clone(&status))?;
        Ok(Self {
            store,
            feed: Some(feed),
            status,
            at: None,
            sync_at: None,
            syncing: None,
            suppressions,
            masters,
            told: None,
        })
    }

    /// Runs until `stop` is true, or says in `refused` why this host is not one of the cluster and does nothing here.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>, refused: oneshot::Sender<Error>) {
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
            if self.is_refused() {
                let _ = refused.send(anyhow!(OTHER_MASTER_KEY));
                return;
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
        let (store, keys) = (Arc::clone(&self.store), [ADVANCE, MANIFEST, MASTER_KEY_CHECK].map(str::to_owned));
        let listing = blocking(move || store.get(&keys)).await?.context("cannot read the manifest")?;
        let mut found: HashMap<_, _> = listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let (advance, manifest) = (found.remove(ADVANCE), found.remove(MANIFEST));
        self.status.set_foreign(found.get(MASTER_KEY_CHECK).is_some_and(|check| !self.masters.are_of(check)));
        if manifest.is_none() && self.status.has_configuration() {
            // A cluster of another name, or one whose store is lost: to go on is right, to say that all is well is not.
            bail!("this cluster has no configuration (--cluster names another, or etcd is empty)");
        }
        self.status.heard(now_ms());
        self.at = match manifest {
            Some(manifest) => self.begin(&manifest).await?,
            None => None,
        };
        self.tell();
        if self.is_refused() {
            return Ok(());
        }
        let is_told =
            advance.and_then(|advance| decode_advance(&advance).ok()).is_some_and(|it| Some(it.to) == self.at);
        let mut watch = self.store.watch(if is_told { ADVANCE } else { MANIFEST }, listing.revision);
        // A store that was restored from a snapshot tells nothing of what it has not any more: it is read again by period.
        let look = Instant::now() + LOOK_PERIOD + LOOK_SPREAD * (std::process::id() % LOOK_SPREADS);
        loop {
            match self.next(&mut watch, look).await? {
                Next::Watch => {}
                Next::Begin => return Ok(()),
            }
        }
    }

    async fn next(&mut self, watch: &mut Watch, look: Instant) -> Result<Next> {
        let sync_at = self.sync_at.unwrap_or(look);
        let compare_at = self.suppressions.compare_at().unwrap_or(look);
        let event = tokio::select! {
            event = watch.next() => event,
            () = sleep_until(sync_at.into()), if self.sync_at.is_some() => {
                self.sync().await;
                return Ok(Next::Watch);
            }
            fetched = self.suppressions.fetched() => {
                let is_first = self.status.withheld() == Some(Withheld::Suppressions);
                self.take_suppressions(fetched).await;
                let is_over = is_first && !self.status.suppressions_behind();
                return Ok(if is_over { Next::Begin } else { Next::Watch });
            }
            () = sleep(SUPPRESSIONS_PERIOD), if self.status.suppressions_behind() => {
                self.begin_suppressions()?;
                return Ok(Next::Watch);
            }
            () = sleep_until(compare_at.into()), if self.suppressions.compare_at().is_some() => {
                self.begin_suppressions()?;
                return Ok(Next::Watch);
            }
            // While the store is out of reach the watch tells when it is back.
            () = sleep_until(look.into()), if self.status.is_connected() => return Ok(Next::Begin),
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
                for Change { key, value } in changes {
                    let advance = value.filter(|_| key == ADVANCE);
                    if let Next::Begin = self.advance(advance.as_deref()).await? {
                        return Ok(Next::Begin);
                    }
                }
            }
        }
        Ok(Next::Watch)
    }

    /// Whether this host is none of the cluster, and never was as far as it knows.
    fn is_refused(&self) -> bool {
        self.status.withheld() == Some(Withheld::MasterKey) && !self.status.has_configuration()
    }

    /// Puts the manifest `encoded` in effect, and gives its hash; `None`: something is waited for that it needs.
    async fn begin(&mut self, encoded: &[u8]) -> Result<Option<ManifestHash>> {
        // It may be another cluster's, of which we know nothing else either.
        if self.status.withheld() == Some(Withheld::MasterKey) {
            return Ok(None);
        }
        let manifest = self.feed()?.read(encoded)?;
        if self.status.withheld() == Some(Withheld::Suppressions) {
            self.fetch_in_time().await?;
            if self.status.suppressions_behind() {
                return Ok(None);
            }
        }
        self.apply(manifest, Vec::new()).await?;
        Ok(Some(ManifestHash::of(encoded)))
    }

    /// Says when no mail is taken, and when that is over.
    fn tell(&mut self) {
        // That nothing is published yet is no news.
        let withheld = self.status.withheld().filter(|it| *it != Withheld::Configuration);
        if self.told == withheld {
            return;
        }
        match withheld {
            Some(Withheld::MasterKey) => error!("{}; no mail is accepted", Withheld::MasterKey.why()),
            Some(withheld) => warn!("{}; no mail is accepted and none is sent", withheld.why()),
            None => info!("what was waited for is here: mail is accepted"),
        }
        self.told = withheld;
    }

    /// Goes on to the manifest that `encoded` leads to, if it is from ours.
    async fn advance(&mut self, encoded: Option<&[u8]>) -> Result<Next> {
        // One that cannot be read is of a later version: the manifest says whether we can go on.
        let Some(advance) = encoded.and_then(|encoded| decode_advance(encoded).ok()) else { return Ok(Next::Begin) };
        if self.at == Some(advance.to) {
            return Ok(Next::Watch);
        }
        if advance.from.is_none() || advance.from != self.at {
            return Ok(Next::Begin);
        }
        let manifest = self.feed()?.advance(&advance);
        self.apply(manifest, advance.chunks()).await?;
        self.at = Some(advance.to);
        Ok(Next::Watch)
    }

    fn feed(&self) -> Result<&Feed> {
        self.feed.as_ref().context("the feed is lost")
    }

    /// Has the disk take what is in effect. Nothing waits for it, unless the file is to be written anew.
    async fn sync(&mut self) {
        self.sync_at = None;
        if self.syncing.as_ref().is_some_and(|task| !task.is_finished()) {
            self.sync_at = Some(Instant::now() + SYNC_DELAY);
            return;
        }
        let unsynced = match self.feed() {
            Ok(feed) if feed.is_long() => self.with_feed(|feed| Ok(feed.compact()?)).await.map(|()| None),
            Ok(feed) => feed.unsynced().map_err(Error::from),
            Err(error) => Err(error),
        };
        let tell = |error: Error| {
            error!(error = format!("{error:#}"), "the configuration in effect is not certain to be on disk");
        };
        match unsynced {
            Ok(None) => {}
            Ok(Some(unsynced)) => {
                let sync = move || unsynced.sync().unwrap_or_else(|error| tell(error.into()));
                self.syncing = Some(tokio::task::spawn_blocking(sync));
            }
            Err(error) => {
                tell(error);
                self.sync_at = Some(Instant::now() + PAUSE_MAX);
            }
        }
    }

    /// Puts a publication in effect; `known` are chunks of it that need no fetching.
    async fn apply(&mut self, manifest: Manifest, known: Vec<(ChunkName, Arc<[u8]>)>) -> Result<()> {
        if self.status.suppressions_behind() {
            self.fetch_in_time().await?;
        }
        let missing = self.feed()?.missing(&manifest);
        if missing.iter().all(|name| known.iter().any(|(known, _)| known == name)) {
            let feed = self.feed.as_mut().context("the feed is lost")?;
            put_in_effect(feed, manifest, &known)?;
        } else {
            let store = Arc::clone(&self.store);
            self.with_feed(move |feed| {
                let chunks = fetch(store.as_ref(), &missing, &known)?;
                put_in_effect(feed, manifest, &chunks)
            })
            .await?;
        }
        self.sync_at.get_or_insert_with(|| Instant::now() + SYNC_DELAY);
        Ok(())
    }

    /// Tries for a while to have the suppressions that the last manifest names. What is under way then goes on.
    async fn fetch_in_time(&mut self) -> Result<()> {
        let end = Instant::now() + SUPPRESSIONS_PATIENCE;
        while self.status.suppressions_behind() {
            self.begin_suppressions()?;
            let Ok(fetched) = timeout_at(end.into(), self.suppressions.fetched()).await else {
                self.status.missed_suppressions(now_ms());
                return Ok(());
            };
            self.take_suppressions(fetched).await;
            if !self.status.suppressions_behind() || Instant::now() > end {
                return Ok(());
            }
            sleep(SUPPRESSIONS_PAUSE).await;
        }
        Ok(())
    }

    /// Begins to fetch what has changed in the suppressions, unless that is under way.
    fn begin_suppressions(&mut self) -> Result<()> {
        let list = self.feed()?.suppressions();
        self.suppressions.begin(list);
        Ok(())
    }

    /// Puts in effect what was fetched.
    async fn take_suppressions(&mut self, fetched: Result<SuppressionUpdate>) {
        let update = match fetched {
            Ok(update) => update,
            Err(error) => {
                self.status.missed_suppressions(now_ms());
                match tls_reason(error.as_ref()) {
                    Some(reason) => warn!(reason, "suppressions not fetched: the control plane is not spoken to"),
                    None => debug!(error = format!("{error:#}"), "suppressions not fetched"),
                }
                return;
            }
        };
        let (version, octets, is_whole) = (update.version(), update.octets(), update.is_whole());
        let applied = match (is_whole, self.feed.as_mut()) {
            // Some octets are written at once, as a change of the configuration is.
            (false, Some(feed)) => feed.apply_suppressions(update).map_err(Error::from),
            _ => self.with_feed(move |feed| Ok(feed.apply_suppressions(update)?)).await,
        };
        match applied {
            Ok(()) => {
                self.sync_at.get_or_insert_with(|| Instant::now() + SYNC_DELAY);
                info!(version, octets, is_whole, "suppressions in effect");
            }
            Err(error) => error!(error = format!("{error:#}"), "suppressions not put in effect"),
        }
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

/// Puts `manifest` in effect, unless it is.
fn put_in_effect(feed: &mut Feed, manifest: Manifest, chunks: &[(ChunkName, Arc<[u8]>)]) -> Result<()> {
    if *feed.manifest() == manifest {
        return Ok(());
    }
    let (revision, count) = (manifest.revision.0, chunks.len());
    let late_ms = now_ms().saturating_sub(manifest.published_ms);
    let goes_back = feed.manifest().revision > manifest.revision;
    feed.apply(manifest, chunks).map_err(Error::from)?;
    if goes_back {
        warn!(revision, "the configuration store has gone back to an earlier revision");
    }
    info!(revision, chunks = count, late_ms, "configuration in effect");
    Ok(())
}

/// The chunks that are missing: as far as they are known from there, else from the store.
fn fetch(
    store: &dyn ConfigStore,
    missing: &[ChunkName],
    known: &[(ChunkName, Arc<[u8]>)],
) -> Result<Vec<(ChunkName, Arc<[u8]>)>> {
    let mut chunks = Vec::with_capacity(missing.len());
    let mut wanted = HashMap::new();
    let mut bytes = 0;
    for (at, name) in missing.iter().enumerate() {
        match known.iter().find(|(known, _)| known == name) {
            Some((_, bytes)) => chunks.push((*name, Arc::clone(bytes))),
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

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| anyhow!("a thread of the configuration has panicked"))
}

/// Unix milliseconds.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// From when a configuration is in effect until it is synced: so long many share a sync, and the disk, which may be that of
/// etcd as well, is busy with few of them while a change is on its way.
const SYNC_DELAY: Duration = Duration::from_secs(1);
/// Between two beginnings.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Octets of chunks that are asked for at once, about: they come within a call's patience also from far away.
const FETCH_BYTES: usize = 1024 * 1024;
/// How long a manifest waits for the suppressions that it names, and between two tries.
const SUPPRESSIONS_PATIENCE: Duration = Duration::from_secs(3);
const SUPPRESSIONS_PAUSE: Duration = Duration::from_millis(50);
/// Between two readings of the manifest, whatever the watch says; a little more on some hosts, so that those that heard of a
/// change together do not all read together.
const LOOK_PERIOD: Duration = Duration::from_secs(8);
const LOOK_SPREAD: Duration = Duration::from_millis(50);
const LOOK_SPREADS: u32 = 40;
/// Between two tries later on.
const SUPPRESSIONS_PERIOD: Duration = Duration::from_secs(2);
