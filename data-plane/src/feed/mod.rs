//! The data plane's end of publication: whole manifests in, snapshots on every shard out, and the last one kept on disk.
//!
//! ```text
//! manifest -> what is missing -> fetched by who feeds -> checked, decoded, amended -> written -> shards -> synced, soon
//! advance from our manifest, with what is new -----------^
//! ```
//!
//! Invariants worth naming: shards go from one whole publication to the next; what they work under survives a restart,
//! whoever is out of reach then; what belongs to another region is neither fetched nor kept; a publication that does not
//! hold together changes nothing; a host that never had a list of suppressions has nothing in effect that names one, and so
//! takes no mail and sends none. Absent here: where manifests come from. The executors cannot drive a client of etcd, so
//! who feeds runs on a thread of its own.

mod kept;
mod suppressions;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use postrail_schema::ids::Revision;
use postrail_schema::publication::{Advance, Assembly, ChunkName, Manifest, PublicationError};
use postrail_schema::sealed::OTHER_MASTER_KEY;
use postrail_schema::snapshot::Snapshot;
use postrail_schema::suppressions::SuppressionPoint;
use postrail_schema::wire::{WireError, decode_manifest};

use crate::mesh::{Letter, Mesh};
use kept::Kept;
pub use kept::Unsynced;
pub use suppressions::{SuppressionAnswer, SuppressionError, SuppressionList, SuppressionUpdate};

/// Puts publications in effect on a running node.
#[derive(Debug)]
pub struct Feed {
    assembly: Assembly,
    kept: Kept,
    /// Up to which change the suppressions in effect are whole, where that is known.
    suppressions_at: Option<SuppressionPoint>,
    region: String,
    mesh: Mesh,
    status: Arc<FeedStatus>,
}

/// How fresh the configuration is. Written by who feeds, read by health and metrics.
#[derive(Debug, Default)]
pub struct FeedStatus {
    /// The revision of the last manifest that was seen, in effect or not.
    seen: AtomicU64,
    /// The version of the suppressions in effect, and the one that the last manifest names.
    suppressions: AtomicU64,
    suppressions_seen: AtomicU64,
    /// The version that was named when those in effect were fetched: they are those, or newer ones.
    suppressions_answered: AtomicU64,
    /// How many there are, the octets in which they came since the start, and how many whole lists among them.
    suppressions_count: AtomicU64,
    suppressions_octets: AtomicU64,
    suppressions_lists: AtomicU64,
    /// Since when newer ones were tried for in vain, Unix milliseconds; 0: they were not.
    missed_ms: AtomicU64,
    /// Nothing is in effect: see [`Withheld`].
    is_empty: AtomicBool,
    /// The store's configuration is of another master key than those of this host.
    is_foreign: AtomicBool,
    /// When the configuration store was last heard from, Unix milliseconds; 0: not since the start.
    heard_ms: AtomicU64,
    is_connected: AtomicBool,
    refused: AtomicU64,
}

/// Why a host takes no mail, whoever submits it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Withheld {
    /// Nothing is published, or nothing has come.
    Configuration,
    /// It has never had a list of suppressions, and there is one.
    Suppressions,
    /// It has another master key than the cluster, so nobody tells it of suppressions.
    MasterKey,
}

impl Withheld {
    /// For operators.
    pub fn why(self) -> &'static str {
        match self {
            Self::Configuration => "no configuration has been published yet",
            Self::Suppressions => {
                "the list of suppressions is not here yet, and without it mail would go to those who asked for none: it comes \
                 from the control plane that leads this host's region"
            }
            Self::MasterKey => OTHER_MASTER_KEY,
        }
    }

    /// For who submits mail.
    pub fn refusal(self) -> &'static str {
        match self {
            Self::Configuration => "This host has no configuration yet: submit at another, or later",
            Self::Suppressions => "This host does not have the list of suppressions yet: submit at another, or later",
            Self::MasterKey => "This host is not set up as the others are: submit at another",
        }
    }
}

/// What a publication was refused for; the last one stays in effect.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("the manifest does not decode")]
    Manifest(#[source] WireError),
    #[error("the publication is not whole")]
    Publication(#[from] PublicationError),
    #[error(
        "the data folder has what belongs to region {found}, and this host is started for {region}: mail that waits there \
         cannot move with it; give the host its --region again, or another data folder"
    )]
    Region { found: String, region: String },
    #[error("the publication cannot be kept on disk")]
    Keep(#[from] io::Error),
}

/// The snapshot that a node in `data` keeps, without its suppressions; `None`: it has none yet.
///
/// # Errors
/// The file cannot be read, or what it holds does not hold together.
pub fn kept_snapshot(data: &Path) -> Result<Option<Arc<Snapshot>>, FeedError> {
    let Some((manifest, chunks)) = Kept::look(data)?.manifest else { return Ok(None) };
    let mut assembly = Assembly::default();
    assembly.apply(manifest, &chunks)?;
    Ok(Some(Arc::clone(assembly.snapshot())))
}

impl Feed {
    /// What was in effect when a node last ran in `data`; where nothing usable is there, an empty snapshot that accepts
    /// nobody.
    ///
    /// # Errors
    /// The file of publications cannot be opened for writing, or is that of a host of another region.
    pub(crate) fn open(data: &Path, region: &str, mesh: Mesh) -> Result<Self, FeedError> {
        let (kept, found) = Kept::open(data)?;
        if let Some((manifest, _)) = &found.manifest {
            check_region(manifest, region)?;
        }
        let mut assembly = Assembly::default();
        let mut suppressions_at = None;
        if let Some(found) = found.suppressions {
            match found.read() {
                Ok((version, SuppressionList { list, at })) => {
                    assembly.apply_suppressions(version, list);
                    suppressions_at = at;
                }
                Err(error) => tracing::error!(%error, "the kept suppressions are not usable"),
            }
        }
        let version = assembly.suppressions_version();
        let status = FeedStatus::default();
        status.suppressions.store(version, Ordering::Relaxed);
        let named = found.manifest.as_ref().map_or(0, |(manifest, _)| manifest.suppressions);
        status.suppressions_seen.store(if version == 0 { named } else { version }, Ordering::Relaxed);
        if let Some((manifest, chunks)) = found.manifest.filter(|_| !status.lacks_suppressions()) {
            let revision = manifest.revision;
            match assembly.apply(manifest, &chunks) {
                Ok(()) => tracing::info!(revision = revision.0, "goes on with the configuration that was kept"),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the kept configuration is not usable; waiting for the control plane"
                ),
            }
        }
        status.suppressions_count.store(assembly.snapshot().suppressions().total().count, Ordering::Relaxed);
        status.seen.store(assembly.manifest().revision.0, Ordering::Relaxed);
        status.is_empty.store(assembly.manifest().revision == Revision(0), Ordering::Relaxed);
        let (region, status) = (region.to_owned(), Arc::new(status));
        Ok(Self { assembly, kept, suppressions_at, region, mesh, status })
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        self.assembly.snapshot()
    }

    /// The manifest in effect.
    pub fn manifest(&self) -> &Manifest {
        self.assembly.manifest()
    }

    pub fn suppressions_version(&self) -> u64 {
        self.assembly.suppressions_version()
    }

    pub fn status(&self) -> Arc<FeedStatus> {
        Arc::clone(&self.status)
    }

    /// Reads what our region needs of a manifest, and notes that it was seen.
    ///
    /// # Errors
    /// [`FeedError::Manifest`].
    pub fn read(&self, encoded: &[u8]) -> Result<Manifest, FeedError> {
        let manifest = decode_manifest(encoded).map_err(|error| self.refuse(FeedError::Manifest(error)))?;
        self.see(&manifest);
        Ok(manifest.within(&self.region))
    }

    /// What our region needs of the manifest that `advance` leads to from the one in effect; notes that it was seen.
    pub fn advance(&self, advance: &Advance) -> Manifest {
        let manifest = self.manifest().advanced(advance, &self.region);
        self.see(&manifest);
        manifest
    }

    fn see(&self, manifest: &Manifest) {
        self.status.seen.store(manifest.revision.0, Ordering::Relaxed);
        self.status.suppressions_seen.store(manifest.suppressions, Ordering::Relaxed);
    }

    /// The chunks that `manifest` has and we have not.
    pub fn missing(&self, manifest: &Manifest) -> Vec<ChunkName> {
        self.assembly.missing(manifest)
    }

    /// Puts `manifest` in effect on every shard, and keeps it for the next start: see [`unsynced`](Self::unsynced).
    /// `chunks` has what is missing.
    ///
    /// # Errors
    /// [`FeedError`]: nothing has changed.
    pub fn apply(&mut self, manifest: Manifest, chunks: &[(ChunkName, Arc<[u8]>)]) -> Result<(), FeedError> {
        let mut next = self.assembly.clone();
        next.apply(manifest, chunks).map_err(|error| self.refuse(error.into()))?;
        let former = self.assembly.manifest();
        let new = chunks.iter().filter(|(name, _)| next.manifest().names(name) && !former.names(name));
        self.kept.keep(next.manifest(), new).map_err(|error| self.refuse(error.into()))?;
        self.assembly = next;
        self.broadcast();
        self.status.is_empty.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The suppressions in effect.
    pub fn suppressions(&self) -> SuppressionList {
        SuppressionList { list: self.snapshot().suppressions().clone(), at: self.suppressions_at }
    }

    /// Puts suppressions in effect on every shard, and keeps them. `update` was made of the [list](Self::suppressions) that
    /// is in effect.
    ///
    /// # Errors
    /// [`FeedError`]: nothing has changed.
    pub fn apply_suppressions(&mut self, update: SuppressionUpdate) -> Result<(), FeedError> {
        let is_news = update.version != self.suppressions_version() || update.next.at != self.suppressions_at;
        if is_news || update.differs {
            self.kept.keep_suppressions(&update).map_err(|error| self.refuse(error.into()))?;
        }
        let SuppressionUpdate { asked, version, next: SuppressionList { list, at }, differs, .. } = update;
        self.status.suppressions_count.store(list.total().count, Ordering::Relaxed);
        self.assembly.apply_suppressions(version, list);
        self.suppressions_at = at;
        self.status.suppressions.store(version, Ordering::Relaxed);
        self.status.suppressions_answered.store(asked, Ordering::Relaxed);
        self.status.missed_ms.store(0, Ordering::Relaxed);
        if differs {
            self.broadcast();
        }
        Ok(())
    }

    /// What is in effect and is to be synced, if anything is: until then it survives the end of the process, and not that of
    /// the host.
    ///
    /// # Errors
    /// [`FeedError::Keep`]: it stays in effect, and is not certain to be there after a loss of power.
    pub fn unsynced(&self) -> Result<Option<Unsynced>, FeedError> {
        self.kept.unsynced().map_err(FeedError::Keep)
    }

    /// Whether the file is due to be [written anew](Self::compact).
    pub fn is_long(&self) -> bool {
        self.kept.is_long()
    }

    /// Writes the file anew without what is of the past, and waits for the disk.
    ///
    /// # Errors
    /// As [`unsynced`](Self::unsynced).
    pub fn compact(&mut self) -> Result<(), FeedError> {
        self.kept.compact().map_err(FeedError::Keep)
    }

    fn broadcast(&self) {
        let snapshot = self.snapshot();
        self.mesh.broadcast(|| Letter::Snapshot(Arc::clone(snapshot)));
    }

    fn refuse(&self, error: FeedError) -> FeedError {
        self.status.refused.fetch_add(1, Ordering::Relaxed);
        error
    }
}

/// That a host of `region` may have kept `manifest`.
fn check_region(manifest: &Manifest, region: &str) -> Result<(), FeedError> {
    for place in manifest.chunks.keys().filter(|place| place.region.is_some()) {
        let of = manifest.regions.iter().find(|known| Some(known.id) == place.region);
        if of.is_none_or(|of| of.name != region) {
            let found = of.map_or_else(|| "unknown".to_owned(), |of| of.name.clone());
            let region = if region.is_empty() { "no region".to_owned() } else { format!("region {region}") };
            return Err(FeedError::Region { found, region });
        }
    }
    Ok(())
}

impl FeedStatus {
    /// The configuration store has answered at `now_ms`, Unix milliseconds.
    pub fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
        self.is_connected.store(true, Ordering::Relaxed);
    }

    /// The configuration store is out of reach.
    pub fn lost(&self) {
        self.is_connected.store(false, Ordering::Relaxed);
    }

    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// When the store was last heard from, Unix milliseconds; 0: not since the start.
    pub fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// Of the last manifest that was seen.
    pub fn revision_seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Whether suppressions are known that are not in effect. Of two versions neither is the newer one for its number: a
    /// configuration store may have gone back to an earlier state.
    pub fn suppressions_behind(&self) -> bool {
        let had = [&self.suppressions, &self.suppressions_answered];
        had.iter().all(|version| version.load(Ordering::Relaxed) != self.suppressions_wanted())
    }

    /// Newer suppressions were tried for at `now_ms`, Unix milliseconds, in vain.
    pub fn missed_suppressions(&self, now_ms: u64) {
        let _ = self.missed_ms.compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// For how long, at `now_ms`, they have been tried for in vain; 0: those in effect are the newest, as far as is known.
    pub fn suppressions_missed_ms(&self, now_ms: u64) -> u64 {
        let since = self.missed_ms.load(Ordering::Relaxed);
        if since == 0 || !self.suppressions_behind() { 0 } else { now_ms.saturating_sub(since) }
    }

    /// Notes whether the store's configuration is of another master key than those of this host.
    pub fn set_foreign(&self, is_foreign: bool) {
        self.is_foreign.store(is_foreign, Ordering::Relaxed);
    }

    /// Whether something is in effect, and so mail may be sent.
    pub fn has_configuration(&self) -> bool {
        !self.is_empty.load(Ordering::Relaxed)
    }

    /// Why no mail is taken, if so.
    pub fn withheld(&self) -> Option<Withheld> {
        if self.is_foreign.load(Ordering::Relaxed) {
            Some(Withheld::MasterKey)
        } else if self.has_configuration() {
            None
        } else if self.lacks_suppressions() {
            Some(Withheld::Suppressions)
        } else {
            Some(Withheld::Configuration)
        }
    }

    /// Whether there are suppressions, and none ever came.
    fn lacks_suppressions(&self) -> bool {
        self.suppressions.load(Ordering::Relaxed) == 0 && self.suppressions_wanted() > 0
    }

    /// The version of the suppressions that the last manifest names.
    pub fn suppressions_wanted(&self) -> u64 {
        self.suppressions_seen.load(Ordering::Relaxed)
    }

    /// An answer about suppressions has come, in so many octets.
    pub fn took_suppressions(&self, octets: usize, is_whole: bool) {
        self.suppressions_octets.fetch_add(octets as u64, Ordering::Relaxed);
        self.suppressions_lists.fetch_add(u64::from(is_whole), Ordering::Relaxed);
    }

    /// Suppressions in effect.
    pub fn suppressions_count(&self) -> u64 {
        self.suppressions_count.load(Ordering::Relaxed)
    }

    /// Octets of answers about suppressions since the start, and how many of these were whole lists.
    pub fn suppressions_taken(&self) -> (u64, u64) {
        (self.suppressions_octets.load(Ordering::Relaxed), self.suppressions_lists.load(Ordering::Relaxed))
    }

    /// Publications and lists that were not put in effect.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
