//! What is published: the manifest and chunks of desired state, made so that one change costs one chunk.
//!
//! ```text
//! changed places -> encode their chunks -> next manifest -> assemble as a data plane will -> writes
//!                                          and what leads to it from the one in the store
//! ```
//!
//! Invariants worth naming: what is written was assembled here first, by the same code; chunks are written before the
//! manifest that names them, or with it, and what leads to a manifest with it. Absent here: collecting chunks that nobody
//! names (`reconcile::collect`).

use std::collections::BTreeSet;
use std::sync::Arc;

use postrail_schema::ids::Revision;
use postrail_schema::keys::{ADVANCE, CHUNKS, MANIFEST};
use postrail_schema::limits::CHUNKS_MAX;
use postrail_schema::publication::{Advance, Assembly, Chunk, ChunkName, ChunkPlace, Manifest, ManifestHash, divide};
use postrail_schema::snapshot::Snapshot;
use postrail_schema::wire::{decode_manifest, encode_advance, encode_manifest};

use super::large::Batch;
use super::{AppError, now_ms};
use crate::plan::{Desired, Head, content};
use crate::store::{ConfigStore, Entry, StoreError, Write};

/// The publication that the store has, as far as we know.
#[derive(Clone, Default)]
pub(super) struct Publication {
    /// What desired state makes, applied.
    assembly: Assembly,
    /// The store revision that wrote the manifest; 0: there is none.
    pub(super) manifest_revision: u64,
    /// The store's manifest, where it is that of the assembly. Otherwise the next change writes every chunk.
    published: Option<ManifestHash>,
}

/// A publication that is ready to be written.
pub(super) struct Next {
    pub(super) publication: Publication,
    /// Chunks that may be written before the rest.
    chunks: Vec<Write>,
    /// What leads to the manifest, and the manifest.
    last: [Write; 2],
}

impl Publication {
    /// What `desired` makes, compared with what the store has.
    ///
    /// # Errors
    /// The store cannot be read, or desired state cannot be published at all.
    pub(super) fn load(store: &dyn ConfigStore, desired: &Desired) -> Result<Self, AppError> {
        let listing = store.get(&[MANIFEST.to_owned()])?;
        let found = listing.entries.first();
        let mut publication = Self { manifest_revision: found.map_or(0, |entry| entry.revision), ..Self::default() };
        // A store that was written by nobody yet.
        if desired.head.revision == Revision(0) {
            return Ok(publication);
        }
        let known = found.and_then(|entry| decode_manifest(&entry.value).ok());
        let (mut manifest, chunks) = whole(desired)?;
        if let Some(known) = &known {
            manifest.published_ms = known.published_ms;
        }
        // What was lost from the store is written again by the next change.
        let present: BTreeSet<_> = store.list_keys(CHUNKS)?.entries.into_iter().map(|entry| entry.key).collect();
        let is_whole = manifest.chunks().all(|name| present.contains(&name.key()));
        let is_ours = known.as_ref() == Some(&manifest) && is_whole;
        publication.published = found.filter(|_| is_ours).map(|entry| ManifestHash::of(&entry.value));
        publication.assembly.apply(manifest, &named(chunks)).map_err(AppError::Publication)?;
        Ok(publication)
    }

    /// The one that the store has now, `found`, where it tells of `head` and names what ours does.
    ///
    /// # Errors
    /// It does not hold together, as ours did.
    pub(super) fn moved(&self, found: &Entry, head: &Head) -> Result<Option<Self>, AppError> {
        let Ok(known) = decode_manifest(&found.value) else { return Ok(None) };
        let (revision, suppressions, published_ms) = (head.revision, head.suppressions, known.published_ms);
        let same = Manifest { revision, suppressions, published_ms, ..self.manifest().clone() };
        if self.published.is_none() || known != same {
            return Ok(None);
        }
        let mut assembly = self.assembly.clone();
        assembly.apply(known, &[]).map_err(AppError::Publication)?;
        let published = Some(ManifestHash::of(&found.value));
        Ok(Some(Self { assembly, manifest_revision: found.revision, published }))
    }

    /// It was written under that revision of the store; or its manifest was not, and the next publication is whole.
    pub(super) fn written(&mut self, revision: u64, is_withheld: bool) {
        if is_withheld {
            self.published = None;
        } else {
            self.manifest_revision = revision;
        }
    }

    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        self.assembly.snapshot()
    }

    pub(super) fn manifest(&self) -> &Manifest {
        self.assembly.manifest()
    }

    /// The publication of `desired`, which differs from ours in the records of `changed`.
    ///
    /// # Errors
    /// It does not hold together, or has more chunks than are published.
    pub(super) fn next(&self, desired: &Desired, changed: &BTreeSet<ChunkPlace>) -> Result<Next, AppError> {
        let (mut manifest, chunks) =
            if self.published.is_some() { self.amended(desired, changed)? } else { whole(desired)? };
        manifest.published_ms = now_ms();
        if manifest.chunks.len() > CHUNKS_MAX {
            return Err(AppError::conflict(format!("the configuration has more than {CHUNKS_MAX} chunks")));
        }
        let mut assembly = self.assembly.clone();
        let new = |chunk: &&Chunk| self.published.is_none() || !self.manifest().names(&chunk.name);
        let write = |chunk: &Chunk| Write::Put { key: chunk.name.key(), value: chunk.bytes.to_vec() };
        let writes = chunks.iter().filter(new).map(write).collect();
        let value = encode_manifest(&manifest);
        let hash = ManifestHash::of(&value);
        let advance = Advance::between(self.published.map(|from| (from, self.manifest())), (hash, &manifest), &chunks);
        let put = |key: &str, value| Write::Put { key: key.to_owned(), value };
        let last = [put(ADVANCE, encode_advance(&advance)), put(MANIFEST, value)];
        assembly.apply(manifest, &named(chunks)).map_err(AppError::Publication)?;
        Ok(Next {
            publication: Self { assembly, manifest_revision: self.manifest_revision, published: Some(hash) },
            chunks: writes,
            last,
        })
    }

    fn amended(&self, desired: &Desired, changed: &BTreeSet<ChunkPlace>) -> Result<(Manifest, Vec<Chunk>), AppError> {
        let mut manifest = self.manifest().clone();
        (manifest.revision, manifest.suppressions) = (desired.head.revision, desired.head.suppressions);
        manifest.regions = desired.regions.values().cloned().collect();
        let mut chunks = Vec::new();
        for place in changed {
            manifest.forget_beside(place);
            for (place, part) in divide(desired.part(*place), |tenant| desired.region_of(tenant)) {
                let chunk = Chunk::encode(place, &part).map_err(AppError::Publication)?;
                manifest.chunks.insert(place, (chunk.name.hash, chunk.name.length));
                chunks.push(chunk);
            }
        }
        Ok((manifest, chunks))
    }
}

impl Next {
    /// Whether `further` and the manifest, with what leads to it, are one transaction.
    pub(super) fn fits(&self, further: &[Write]) -> bool {
        let mut batch = Batch::default();
        further.iter().chain(&self.last).for_each(|write| batch.count(write));
        batch.fits()
    }

    /// Writes as many chunks ahead as keeps `further` and the rest within one transaction, and gives what is left to write
    /// in that. Chunks that are written ahead mean nothing before a manifest names them.
    ///
    /// # Errors
    /// The store fails, or `further` is too much by itself.
    pub(super) fn write_ahead(&mut self, store: &dyn ConfigStore, further: &[Write]) -> Result<Vec<Write>, StoreError> {
        let mut batch = Batch::default();
        further.iter().chain(&self.last).for_each(|write| batch.count(write));
        let fits = self.chunks.iter().all(|write| batch.takes(write));
        let mut rest = Vec::new();
        if fits {
            rest.append(&mut self.chunks);
        } else {
            let (mut batch, mut some) = (Batch::default(), Vec::new());
            for write in self.chunks.drain(..) {
                if !batch.takes(&write) {
                    store.txn(&[], &some)?;
                    some.clear();
                    batch = Batch::default();
                    batch.count(&write);
                }
                some.push(write);
            }
            store.txn(&[], &some)?;
        }
        rest.extend(self.last.iter().cloned());
        Ok(rest)
    }
}

/// The manifest and every chunk of `desired`.
fn whole(desired: &Desired) -> Result<(Manifest, Vec<Chunk>), AppError> {
    let mut manifest =
        Manifest { revision: desired.head.revision, suppressions: desired.head.suppressions, ..Manifest::default() };
    let mut chunks = Vec::new();
    manifest.regions = desired.regions.values().cloned().collect();
    for (place, part) in divide(content(desired, Revision(0)), |tenant| desired.region_of(tenant)) {
        let chunk = Chunk::encode(place, &part).map_err(AppError::Publication)?;
        manifest.chunks.insert(place, (chunk.name.hash, chunk.name.length));
        chunks.push(chunk);
    }
    Ok((manifest, chunks))
}

fn named(chunks: Vec<Chunk>) -> Vec<(ChunkName, Arc<[u8]>)> {
    chunks.into_iter().map(|chunk| (chunk.name, chunk.bytes)).collect()
}
