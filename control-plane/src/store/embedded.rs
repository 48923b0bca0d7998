//! The configuration store of a single process: one SQLite file, synced with every transaction.
//!
//! Absent here: sharing with other processes. A second one that opens the file would see its guards fail, never a torn
//! state, but would not be told of changes by [`ConfigStore::watch`].

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::watch;

use super::{ConfigStore, Entry, FORMAT, Guard, Listing, StoreError, Write};

/// See the module head.
pub(crate) struct EmbeddedStore {
    connection: Mutex<Connection>,
    revision: watch::Sender<u64>,
}

impl EmbeddedStore {
    /// Opens the store at `path`, or makes it.
    ///
    /// # Errors
    /// The file cannot be opened, is no such store, or is of a newer format.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > FORMAT {
            return Err(StoreError::NewerFormat { found });
        }
        connection.execute_batch(SCHEMA)?;
        connection.pragma_update(None, "user_version", FORMAT)?;
        let revision = current_revision(&connection)?;
        Ok(Self { connection: Mutex::new(connection), revision: watch::Sender::new(revision) })
    }

    /// SQLite rolls an unfinished transaction back, so a panic elsewhere leaves nothing half done here.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConfigStore for EmbeddedStore {
    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let revision = current_revision(&transaction)?;
        // `substr` compares without the wildcards and case folding of LIKE; the table is small.
        let entries = transaction
            .prepare_cached(
                "SELECT key, value, revision FROM entries WHERE key >= ?1 AND substr(key, 1, length(?1)) = ?1 ORDER BY key",
            )?
            .query_map([prefix], |row| Ok(Entry { key: row.get(0)?, value: row.get(1)?, revision: row.get(2)? }))?
            .collect::<Result<_, _>>()?;
        Ok(Listing { revision, entries })
    }

    fn txn(&self, guards: &[Guard], writes: &[Write]) -> Result<u64, StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
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
        self.revision.send_replace(revision);
        Ok(revision)
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Write {
        Write::Put { key: key.into(), value: value.into() }
    }

    fn guard(key: &str, revision: u64) -> Guard {
        Guard { key: key.into(), revision }
    }

    #[test]
    fn a_guard_that_fails_keeps_the_whole_transaction_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("config.db")).unwrap();
        assert_eq!(store.txn(&[guard("a", 0)], &[put("a", "1")]).unwrap(), 1);
        let refused = store.txn(&[guard("a", 0)], &[put("a", "2"), put("b", "2")]);
        assert!(matches!(refused, Err(StoreError::Conflict { key }) if key == "a"));
        assert_eq!(store.list("").unwrap().entries, [Entry { key: "a".into(), value: b"1".into(), revision: 1 }]);
        assert_eq!(store.txn(&[guard("a", 1)], &[put("a", "2")]).unwrap(), 2);
    }

    #[test]
    fn of_two_writers_with_one_view_only_the_first_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.db");
        let (one, two) = (EmbeddedStore::open(&path).unwrap(), EmbeddedStore::open(&path).unwrap());
        one.txn(&[], &[put("head", "0")]).unwrap();
        assert!(one.txn(&[guard("head", 1)], &[put("head", "1")]).is_ok());
        assert!(matches!(two.txn(&[guard("head", 1)], &[put("head", "1")]), Err(StoreError::Conflict { .. })));
    }

    #[test]
    fn a_prefix_is_no_pattern() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("config.db")).unwrap();
        store.txn(&[], &[put("a%/1", ""), put("ab/1", ""), put("A%/2", ""), put("b", "")]).unwrap();
        let keys: Vec<_> = store.list("a%").unwrap().entries.into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["a%/1"]);
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_the_revision_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.db");
        EmbeddedStore::open(&path).unwrap().txn(&[], &[put("a", "1"), put("b", "1")]).unwrap();
        let store = EmbeddedStore::open(&path).unwrap();
        let watch = store.watch();
        assert_eq!(*watch.borrow(), 1);
        store.txn(&[], &[Write::Delete { key: "a".into() }]).unwrap();
        assert_eq!(*watch.borrow(), 2);
        assert_eq!(store.list("").unwrap().entries.len(), 1);
    }

    #[test]
    fn a_store_of_a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", FORMAT + 1).unwrap();
        assert!(matches!(EmbeddedStore::open(&path), Err(StoreError::NewerFormat { .. })));
    }
}
