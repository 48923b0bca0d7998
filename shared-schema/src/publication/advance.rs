//! The way from one publication to the next, for who has the former: what is named otherwise, and the bytes of that.
//!
//! ```text
//! manifest of a revision (32 octets a chunk) --what is named otherwise--> advance (some kilobytes) --> the next manifest
//! ```
//!
//! Invariants worth naming: an advance leads from one manifest to one other, each known by the hash of its bytes in the
//! store, so that who stands elsewhere reads the next one whole; it leads to that very manifest. Regions have no place in
//! it: where they change there is no way from the former manifest. What belongs to a
//! region is named and not carried. Deliberately absent: ways over several revisions.

use std::sync::Arc;

use super::{Chunk, ChunkHash, ChunkName, ChunkPlace, Manifest, name_of};
use crate::ids::Revision;
use crate::limits::{ADVANCE_BYTES_MAX, ADVANCE_CHUNKS_MAX};

/// The first 128 bits of the SHA-256 of a manifest's bytes as they are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManifestHash(pub u128);

impl ManifestHash {
    pub fn of(encoded: &[u8]) -> Self {
        Self(ChunkHash::of(encoded).0)
    }
}

/// See the module head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advance {
    pub revision: Revision,
    /// Unix milliseconds.
    pub published_ms: u64,
    pub suppressions: u64,
    /// The manifest that it leads from; `None`: that of `to` is to be read.
    pub from: Option<ManifestHash>,
    pub to: ManifestHash,
    /// What places have from now on, ascending; `None`: nothing.
    pub places: Vec<(ChunkPlace, Option<(ChunkHash, u32)>)>,
    /// The bytes of these chunks, one behind the other; empty where they are too many, or where one is a region's: every
    /// host is told this, and what belongs to a region is fetched by its hosts alone.
    pub bytes: Vec<u8>,
}

impl Advance {
    /// The way to `next`, whose bytes are `to`, from `former`, if there is one. `chunks` has those that are new.
    pub fn between(
        former: Option<(ManifestHash, &Manifest)>,
        (to, next): (ManifestHash, &Manifest),
        chunks: &[Chunk],
    ) -> Self {
        let (revision, published_ms, suppressions) = (next.revision, next.published_ms, next.suppressions);
        let mut advance =
            Self { revision, published_ms, suppressions, from: None, to, places: Vec::new(), bytes: Vec::new() };
        let Some((from, former)) = former.filter(|(_, former)| former.regions == next.regions) else { return advance };
        let changes = next.chunks.changes(&former.chunks);
        if changes.len() > ADVANCE_CHUNKS_MAX {
            return advance;
        }
        advance.from = Some(from);
        advance.places = changes.into_iter().map(|(place, _, is)| (*place, is.copied())).collect();
        let found = advance.names().map(|name| chunks.iter().find(|chunk| chunk.name == name));
        let found: Option<Vec<_>> = found.collect();
        let octets: usize = advance.names().map(|name| name.length as usize).sum();
        let is_for_all = advance.names().all(|name| name.place.region.is_none());
        if let Some(found) = found.filter(|_| is_for_all && octets <= ADVANCE_BYTES_MAX) {
            advance.bytes = found.iter().flat_map(|chunk| chunk.bytes.iter().copied()).collect();
        }
        advance
    }

    /// The chunks that are named from now on.
    pub fn names(&self) -> impl Iterator<Item = ChunkName> {
        self.places.iter().filter_map(|(place, is)| Some(name_of(*place, (*is)?)))
    }

    /// Those of them whose bytes it has, with these.
    pub fn chunks(&self) -> Vec<(ChunkName, Arc<[u8]>)> {
        let mut rest = self.bytes.as_slice();
        let mut chunks = Vec::new();
        for name in self.names() {
            let Some((bytes, after)) = rest.split_at_checked(name.length as usize) else { break };
            chunks.push((name, Arc::from(bytes)));
            rest = after;
        }
        chunks
    }
}

impl Manifest {
    /// The manifest that `advance` leads to from this one, which is what `region` needs of that of its `from`.
    #[must_use]
    pub fn advanced(&self, advance: &Advance, region: &str) -> Self {
        let own = self.region(region);
        let Advance { revision, published_ms, suppressions, .. } = *advance;
        let mut next = Self { revision, published_ms, suppressions, ..self.clone() };
        for (place, is) in advance.places.iter().filter(|(place, _)| place.region.is_none() || place.region == own) {
            match is {
                Some(named) => next.chunks.insert(*place, *named),
                None => next.chunks.remove(place),
            };
        }
        next
    }
}
