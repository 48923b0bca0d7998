//! The ledger of a single process: one SQLite file in WAL mode.
//!
//! ```text
//! messages     id -> what Accepted says of the job
//! recipients   (message, idx) -> joined state, and the sequence of its latest event
//! events       seq -> tenant, sequence of the recipient's event before, the event as flatbuffers
//! cursors      shard -> segment, offset
//! unread       bytes of a journal that did not decode
//! suppressions (tenant, address)      audit  seq
//! ```
//!
//! Events of a recipient form a chain through `previous`, so that a trace needs no index on the table that grows most.
//! Ids of messages are 16 octets, big-endian, so that keys of the same time lie together. Commits are not synced one by
//! one (`synchronous = NORMAL`); [`Ledger::make_durable`] syncs the log before a journal is trimmed.
//!
//! Absent here: expiry of old events.

mod read;
mod record;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrail_schema::ids::{MessageId, RecipientIndex, ShardId, TenantId};
use postrail_schema::limits::SUPPRESSIONS_MAX;
use postrail_schema::snapshot::Suppression;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    AuditRecord, Batch, Cursor, EventPage, FORMAT, Ledger, LedgerError, Message, Recipient, Recorded, SuppressionRecord,
};

/// See the module head.
pub(crate) struct SqliteLedger {
    path: PathBuf,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl SqliteLedger {
    /// Opens the ledger at `path`, or makes it.
    ///
    /// # Errors
    /// The file cannot be opened, is no ledger, or is of a newer format.
    pub(crate) fn open(path: &Path) -> Result<Self, LedgerError> {
        let writer = connect(path)?;
        let found: u32 = writer.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > FORMAT {
            return Err(LedgerError::NewerFormat { found });
        }
        writer.execute_batch(SCHEMA)?;
        writer.pragma_update(None, "user_version", FORMAT)?;
        writer.set_prepared_statement_cache_capacity(32);
        let reader = connect(path)?;
        reader.pragma_update(None, "query_only", true)?;
        let ledger = Self { path: path.to_owned(), writer: Mutex::new(writer), reader: Mutex::new(reader) };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(LedgerError::Sync)?;
        }
        Ok(ledger)
    }

    /// SQLite rolls an unfinished transaction back, so a panic elsewhere leaves nothing half done here.
    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for SqliteLedger {
    fn cursor(&self, shard: ShardId) -> Result<Cursor, LedgerError> {
        Ok(record::cursor(&self.reader(), shard)?)
    }

    fn record(&self, shard: ShardId, begun: Cursor, batch: &Batch, next: Cursor) -> Result<(), LedgerError> {
        record::record(&mut self.writer(), shard, begun, batch, next)
    }

    fn make_durable(&self) -> Result<(), LedgerError> {
        // What a checkpoint moved to the main file was synced by it; the rest is in the log.
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        match File::open(&log) {
            Ok(file) => file.sync_data().map_err(LedgerError::Sync),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(LedgerError::Sync(error)),
        }
    }

    fn message(&self, id: MessageId) -> Result<Option<Message>, LedgerError> {
        Ok(read::message(&self.reader(), id)?)
    }

    fn recipients(&self, id: MessageId, from: RecipientIndex, limit: u32) -> Result<Vec<Recipient>, LedgerError> {
        Ok(read::recipients(&self.reader(), id, from, limit)?)
    }

    fn events(&self, tenant: Option<TenantId>, cursor: u64, limit: u32) -> Result<EventPage, LedgerError> {
        read::events(&self.reader(), tenant, cursor, limit)
    }

    fn trace(&self, id: MessageId, index: Option<RecipientIndex>, limit: u32) -> Result<Vec<Recorded>, LedgerError> {
        read::trace(&self.reader(), id, index, limit)
    }

    fn suppress(&self, record: &SuppressionRecord) -> Result<bool, LedgerError> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        let new = transaction.execute(
            "INSERT INTO suppressions (tenant, address, reason, created_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (tenant, address) DO NOTHING",
            params![record.suppression.tenant.0, record.suppression.address, record.reason, record.created_ms],
        )? == 1;
        if new {
            let suppressions: usize =
                transaction.query_row("SELECT count(*) FROM suppressions", [], |row| row.get(0))?;
            if suppressions > SUPPRESSIONS_MAX {
                return Err(LedgerError::SuppressionsFull { suppressions: SUPPRESSIONS_MAX });
            }
        } else {
            transaction.execute(
                "UPDATE suppressions SET reason = ?3, created_ms = ?4 WHERE tenant = ?1 AND address = ?2",
                params![record.suppression.tenant.0, record.suppression.address, record.reason, record.created_ms],
            )?;
        }
        transaction.commit()?;
        Ok(new)
    }

    fn unsuppress(&self, suppression: &Suppression) -> Result<bool, LedgerError> {
        let removed = self.writer().execute(
            "DELETE FROM suppressions WHERE tenant = ?1 AND address = ?2",
            params![suppression.tenant.0, suppression.address],
        )?;
        Ok(removed == 1)
    }

    fn suppression(&self, suppression: &Suppression) -> Result<Option<SuppressionRecord>, LedgerError> {
        let found = self
            .reader()
            .query_row(
                "SELECT tenant, address, reason, created_ms FROM suppressions WHERE tenant = ?1 AND address = ?2",
                params![suppression.tenant.0, suppression.address],
                read::suppression,
            )
            .optional()?;
        Ok(found)
    }

    fn suppressions(
        &self,
        tenant: Option<TenantId>,
        after: Option<&Suppression>,
        limit: u32,
    ) -> Result<Vec<SuppressionRecord>, LedgerError> {
        Ok(read::suppressions(&self.reader(), tenant, after, limit)?)
    }

    fn all_suppressions(&self) -> Result<Vec<Suppression>, LedgerError> {
        let reader = self.reader();
        let mut statement = reader.prepare("SELECT tenant, address FROM suppressions ORDER BY tenant, address")?;
        let rows = statement
            .query_map([], |row| Ok(Suppression { tenant: TenantId(row.get(0)?), address: row.get(1)? }))?
            .collect::<Result<_, _>>()?;
        Ok(rows)
    }

    fn audit_begin(&self, at_ms: u64, actor: &str, action: &str) -> Result<u64, LedgerError> {
        let writer = self.writer();
        writer
            .execute("INSERT INTO audit (at_ms, actor, action) VALUES (?1, ?2, ?3)", params![at_ms, actor, action])?;
        Ok(writer.last_insert_rowid().unsigned_abs())
    }

    fn audit_end(&self, sequence: u64, status: u16) -> Result<(), LedgerError> {
        self.writer().execute("UPDATE audit SET status = ?2 WHERE seq = ?1", params![sequence, status])?;
        Ok(())
    }

    fn audit(&self, before: u64, limit: u32) -> Result<Vec<AuditRecord>, LedgerError> {
        Ok(read::audit(&self.reader(), before, limit)?)
    }
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// Events of one recipient that are looked at, from the latest back.
const CHAIN_EVENTS_MAX: u32 = 10_000;

/// Pages that each of the two connections keeps, as SQLite wants it: negative KiB. Recent messages are what is written
/// to; older pages come from the page cache.
const CACHE_KIB: i64 = -12_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS messages (
        id BLOB PRIMARY KEY, tenant INTEGER NOT NULL, accepted_ms INTEGER NOT NULL, credential INTEGER NOT NULL,
        domain INTEGER NOT NULL, interface TEXT NOT NULL, reverse_path TEXT NOT NULL, bytes INTEGER NOT NULL,
        reference TEXT NOT NULL, campaign TEXT NOT NULL, cost_center TEXT NOT NULL, class TEXT NOT NULL,
        message_id_header TEXT NOT NULL, recipients INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS recipients (
        message BLOB NOT NULL, idx INTEGER NOT NULL, tenant INTEGER NOT NULL, address TEXT NOT NULL,
        state INTEGER NOT NULL, attempts INTEGER NOT NULL, accepted_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL,
        settled_ms INTEGER NOT NULL, next_attempt_ms INTEGER NOT NULL, reply_code INTEGER NOT NULL,
        enhanced_status TEXT NOT NULL, reply TEXT NOT NULL, reason TEXT NOT NULL,
        last_event INTEGER NOT NULL, last_kind INTEGER NOT NULL,
        PRIMARY KEY (message, idx)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS events (
        seq INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, previous INTEGER NOT NULL, body BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS cursors (shard INTEGER PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS unread (
        seq INTEGER PRIMARY KEY, shard INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS suppressions (
        tenant INTEGER NOT NULL, address TEXT NOT NULL, reason TEXT NOT NULL, created_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, address)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
        status INTEGER NOT NULL DEFAULT 0
    );
";
