//! Takes chunks away that no publication names any more.
//!
//! A chunk is seen unnamed at first, and deleted if it is the same and unnamed still after [`GRACE`]: a data plane that
//! reads a former manifest has that long, and so has a control plane that wrote chunks ahead of a manifest. The delete is
//! guarded by the chunk's revision and the manifest's, so that one which was just written again stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrail_schema::keys::{CHUNKS, MANIFEST};
use postrail_schema::publication::parse_key;
use postrail_schema::wire::decode_manifest;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::store::{ConfigStore, Guard, Listing, StoreError, Write};

/// Runs until `stop` is true.
pub(super) async fn collect_chunks(store: Arc<dyn ConfigStore>, mut stop: watch::Receiver<bool>) {
    let mut unnamed = Unnamed::default();
    loop {
        let store = Arc::clone(&store);
        let collected = tokio::task::spawn_blocking(move || {
            let done = unnamed.collect(store.as_ref(), Instant::now());
            (unnamed, done)
        });
        let Ok((again, done)) = collected.await else { return };
        unnamed = again;
        match done {
            // Somebody published meanwhile: the next round looks again.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "chunks not collected"),
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = sleep(PERIOD) => {}
        }
    }
}

/// Chunks that no manifest named when they were looked at: their revision, and since when.
#[derive(Default)]
struct Unnamed(BTreeMap<String, (u64, Instant)>);

impl Unnamed {
    /// Looks, and deletes what was seen [`GRACE`] ago; how many.
    fn collect(&mut self, store: &dyn ConfigStore, now: Instant) -> Result<usize, StoreError> {
        let found = store.get(&[MANIFEST.to_owned()])?;
        let Some(entry) = found.entries.first() else { return Ok(0) };
        let Ok(manifest) = decode_manifest(&entry.value) else { return Ok(0) };
        let listing = store.list_keys(CHUNKS)?;
        let is_named = |key: &str| {
            parse_key(key).is_some_and(|(place, hash)| manifest.chunks.get(&place).is_some_and(|named| named.0 == hash))
        };
        self.see(&listing, is_named, now);
        let due = |(_, since): &(u64, Instant)| now.duration_since(*since) >= GRACE;
        let due: Vec<_> =
            self.0.iter().filter(|(_, seen)| due(seen)).map(|(key, seen)| (key.clone(), seen.0)).collect();
        for some in due.chunks(DELETES) {
            let mut guards = vec![Guard { key: MANIFEST.to_owned(), revision: entry.revision }];
            guards.extend(some.iter().map(|(key, revision)| Guard { key: key.clone(), revision: *revision }));
            let writes: Vec<_> = some.iter().map(|(key, _)| Write::Delete { key: key.clone() }).collect();
            store.txn(&guards, &writes)?;
        }
        self.0.retain(|key, _| !due.iter().any(|(gone, _)| gone == key));
        Ok(due.len())
    }

    fn see(&mut self, listing: &Listing, is_named: impl Fn(&str) -> bool, now: Instant) {
        let mut seen = BTreeMap::new();
        for entry in listing.entries.iter().filter(|entry| !is_named(&entry.key)) {
            let since = self.0.get(&entry.key).filter(|(revision, _)| *revision == entry.revision);
            seen.insert(entry.key.clone(), (entry.revision, since.map_or(now, |(_, since)| *since)));
        }
        self.0 = seen;
    }
}

const PERIOD: Duration = Duration::from_secs(60);
/// For who still reads a former manifest, and for who is about to write the next.
const GRACE: Duration = Duration::from_secs(300);
/// Chunks of one transaction.
const DELETES: usize = 100;

#[cfg(test)]
mod tests {
    use postrail_schema::ids::Revision;
    use postrail_schema::publication::{ChunkHash, ChunkKind, ChunkName, ChunkPlace, Manifest};
    use postrail_schema::wire::encode_manifest;

    use super::*;
    use crate::store::EmbeddedStore;

    fn name(bucket: u32, hash: u128) -> ChunkName {
        ChunkName { place: ChunkPlace { kind: ChunkKind::Tenants, bucket }, hash: ChunkHash(hash), length: 1 }
    }

    fn manifest(chunks: &[ChunkName]) -> Write {
        let chunks = chunks.iter().map(|name| (name.place, (name.hash, name.length))).collect();
        let manifest = Manifest { revision: Revision(1), chunks, ..Manifest::default() };
        Write::Put { key: MANIFEST.into(), value: encode_manifest(&manifest) }
    }

    fn chunk(name: ChunkName) -> Write {
        Write::Put { key: name.key(), value: vec![1] }
    }

    #[test]
    fn a_chunk_goes_when_no_manifest_has_named_it_for_a_while_and_never_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("config.db")).unwrap();
        let keys = || store.list_keys(CHUNKS).unwrap().entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
        let (old, new, other) = (name(0, 1), name(0, 2), name(1, 1));
        store.txn(&[], &[chunk(old), chunk(new), chunk(other), manifest(&[new])]).unwrap();
        let (mut unnamed, begun) = (Unnamed::default(), Instant::now());
        assert_eq!(unnamed.collect(&store, begun).unwrap(), 0);
        assert_eq!(unnamed.collect(&store, begun + GRACE / 2).unwrap(), 0);
        // Written again meanwhile, as by a change that goes back: it is as if it were new.
        store.txn(&[], &[chunk(other)]).unwrap();
        assert_eq!(unnamed.collect(&store, begun + GRACE).unwrap(), 1);
        assert_eq!(keys(), [new.key(), other.key()]);
        store.txn(&[], &[manifest(&[new, other])]).unwrap();
        assert_eq!(unnamed.collect(&store, begun + 3 * GRACE).unwrap(), 0);
        assert_eq!(keys(), [new.key(), other.key()]);
    }
}
