//! The configuration store of a single process: one SQLite file, synced with every transaction.
//!
//! A watch has no history: one that asks for changes before the present revision ends at once, as it does in etcd after a
//! compaction. Absent here: sharing with other processes. A second one that opens the file would see its guards fail,
//! never a torn state, but would not be told of changes by [`ConfigStore::watch`].

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::{mpsc, watch};

use super::{
    Change, ConfigStore, Entry, FORMAT, Guard, Hold, Listing, StoreError, WATCH_EVENTS_MAX, Watch, WatchEvent, Write,
};
use crate::files::keep_private;

/// See the module head. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedStore(Arc<Mutex<Opened>>);

struct Opened {
    connection: Connection,
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: String,
    to: mpsc::Sender<WatchEvent>,
}

impl EmbeddedStore {
    /// Opens the store at `path`, or makes it.
    ///
    /// # Errors
    /// The file cannot be opened, is no such store, or is of a newer format.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        keep_private(path).map_err(StoreError::File)?;
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.busy_timeout(Duration::from_secs(5))?;
        let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > FORMAT {
            return Err(StoreError::NewerFormat { found });
        }
        connection.execute_batch(SCHEMA)?;
        if found == 1 {
            connection.execute_batch(FROM_1)?;
        }
        connection.pragma_update(None, "user_version", FORMAT)?;
        Ok(Self(Arc::new(Mutex::new(Opened { connection, watchers: Vec::new() }))))
    }

    /// All keys of a prefix; `value` is the column, or what stands in its place.
    fn listing(&self, prefix: &str, value: &'static str) -> Result<Listing, StoreError> {
        let mut opened = self.opened();
        let transaction = opened.connection.transaction()?;
        let revision = current_revision(&transaction)?;
        // `substr` compares without the wildcards and case folding of LIKE.
        let query = format!(
            "SELECT key, {value}, revision FROM entries WHERE key >= ?1 AND substr(key, 1, length(?1)) = ?1 ORDER BY key"
        );
        let read = |row: &rusqlite::Row<'_>| Ok(Entry { key: row.get(0)?, value: row.get(1)?, revision: row.get(2)? });
        let entries = transaction.prepare_cached(&query)?.query_map([prefix], read)?.collect::<Result<_, _>>()?;
        Ok(Listing { revision, entries })
    }

    /// SQLite rolls an unfinished transaction back, so a panic elsewhere leaves nothing half done here.
    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConfigStore for EmbeddedStore {
    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.listing(prefix, "value")
    }

    fn list_keys(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.listing(prefix, "x''")
    }

    fn get(&self, keys: &[String]) -> Result<Listing, StoreError> {
        let mut opened = self.opened();
        let transaction = opened.connection.transaction()?;
        let revision = current_revision(&transaction)?;
        let mut entries = Vec::with_capacity(keys.len());
        {
            let mut statement =
                transaction.prepare_cached("SELECT key, value, revision FROM entries WHERE key = ?1")?;
            for key in keys {
                let read =
                    |row: &rusqlite::Row<'_>| Ok(Entry { key: row.get(0)?, value: row.get(1)?, revision: row.get(2)? });
                entries.extend(statement.query_row([key], read).optional()?);
            }
        }
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Listing { revision, entries })
    }

    fn txn(&self, guards: &[Guard], writes: &[Write]) -> Result<u64, StoreError> {
        let mut opened = self.opened();
        let transaction = opened.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for guard in guards {
            let found: Option<u64> = transaction
                .prepare_cached("SELECT revision FROM entries WHERE key = ?1")?
                .query_row([&guard.key], |row| row.get(0))
                .optional()?;
            if found.unwrap_or(0) != guard.revision {
                return Err(StoreError::Conflict { key: guard.key.clone() });
            }
        }
        let revision = current_revision(&transaction)? + 1;
        transaction.execute("UPDATE head SET revision = ?1", [revision])?;
        for write in writes {
            match write {
                Write::Put { key, value } => transaction
                    .prepare_cached(
                        "INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3)
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
                    )?
                    .execute(params![key, value, revision])?,
                Write::Delete { key } => {
                    transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?
                }
            };
        }
        transaction.commit()?;
        opened.tell(revision, writes);
        Ok(revision)
    }

    /// Its calls wait for a disk alone.
    fn within(&self, _patience: Duration) -> Arc<dyn ConfigStore> {
        Arc::new(self.clone())
    }

    fn watch(&self, prefix: &str, after: u64) -> Watch {
        let (to, events) = mpsc::channel(WATCH_EVENTS_MAX);
        let mut opened = self.opened();
        // Under the lock: no transaction comes between the comparison and the first event.
        if current_revision(&opened.connection).is_ok_and(|revision| revision == after)
            && to.try_send(WatchEvent::Alive).is_ok()
        {
            opened.watchers.push(Watcher { prefix: prefix.to_owned(), to });
        }
        Watch { events }
    }

    /// Nobody else can hold it: the file has one process.
    fn hold(&self, key: &str, value: &[u8], _ttl: Duration) -> Hold {
        let held = HeldKey { store: self.clone(), key: key.to_owned() };
        let until = match self.txn(&[], &[Write::Put { key: key.to_owned(), value: value.to_vec() }]) {
            Ok(_) => Some(Instant::now() + FOR_EVER),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, key, "key not held");
                None
            }
        };
        Hold { until: watch::channel(until).1, _release: Box::new(held) }
    }
}

impl Opened {
    /// A watcher that is so far behind, or gone, is let go of: its watch ends.
    fn tell(&mut self, revision: u64, writes: &[Write]) {
        self.watchers.retain(|watcher| {
            let changes: Vec<_> = writes.iter().filter_map(|write| change(write, &watcher.prefix)).collect();
            if changes.is_empty() {
                return !watcher.to.is_closed();
            }
            watcher.to.try_send(WatchEvent::Changes { revision, changes }).is_ok()
        });
    }
}

/// What a write means to who watches `prefix`.
fn change(write: &Write, prefix: &str) -> Option<Change> {
    let (key, value) = match write {
        Write::Put { key, value } => (key, Some(value.clone())),
        Write::Delete { key } => (key, None),
    };
    key.starts_with(prefix).then(|| Change { key: key.clone(), value })
}

struct HeldKey {
    store: EmbeddedStore,
    key: String,
}

impl Drop for HeldKey {
    fn drop(&mut self) {
        if let Err(error) = self.store.txn(&[], &[Write::Delete { key: self.key.clone() }]) {
            tracing::error!(error = &error as &dyn std::error::Error, key = self.key, "key not let go of");
        }
    }
}

fn current_revision(connection: &Connection) -> Result<u64, rusqlite::Error> {
    connection.query_row("SELECT revision FROM head", [], |row| row.get(0))
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS head (only INTEGER PRIMARY KEY CHECK (only = 1), revision INTEGER NOT NULL);
    INSERT OR IGNORE INTO head (only, revision) VALUES (1, 0);
";
/// Format 1 had desired state alone, without the prefix that tells it from what is published.
const FROM_1: &str = "BEGIN; UPDATE entries SET key = 'desired/' || key; PRAGMA user_version = 2; COMMIT;";
/// No process lives so long.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Write {
        Write::Put { key: key.into(), value: value.into() }
    }

    #[test]
    fn of_two_processes_with_one_view_only_the_first_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.db");
        let (one, two) = (EmbeddedStore::open(&path).unwrap(), EmbeddedStore::open(&path).unwrap());
        let revision = one.txn(&[], &[put("head", "0")]).unwrap();
        let guard = [Guard { key: "head".into(), revision }];
        assert!(one.txn(&guard, &[put("head", "1")]).is_ok());
        assert!(matches!(two.txn(&guard, &[put("head", "1")]), Err(StoreError::Conflict { .. })));
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_the_revision_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.db");
        EmbeddedStore::open(&path).unwrap().txn(&[], &[put("a", "1"), put("b", "1")]).unwrap();
        let store = EmbeddedStore::open(&path).unwrap();
        assert_eq!(store.txn(&[], &[Write::Delete { key: "a".into() }]).unwrap(), 2);
        assert_eq!(store.list("").unwrap().entries.len(), 1);
    }

    #[test]
    fn a_store_of_a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", FORMAT + 1).unwrap();
        assert!(matches!(EmbeddedStore::open(&path), Err(StoreError::NewerFormat { .. })));
    }

    #[test]
    fn the_keys_of_format_1_become_desired_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.db");
        EmbeddedStore::open(&path).unwrap().txn(&[], &[put("head", "h"), put("tenants/1", "t")]).unwrap();
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 1).unwrap();
        for _ in 0..2 {
            let entries = EmbeddedStore::open(&path).unwrap().list("").unwrap().entries;
            let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
            assert_eq!(keys, ["desired/head", "desired/tenants/1"]);
        }
    }
}
