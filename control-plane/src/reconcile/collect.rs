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
mod tests;
