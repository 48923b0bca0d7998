//! The ledger of a single process: one SQLite file in WAL mode.
//!
//! ```text
//! events       first sequence -> a chunk: consecutive events as the journal gave them, and links back
//! recipients   (message, part) -> where the events of 32 recipients are
//! accepted     (day, tenant, host) -> how many recipients
//! cursors      (host, shard) -> segment, offset
//! unread       bytes of a journal that did not decode
//! suppressions (tenant, address)      suppression_head, suppression_counts: how many, in all and of each tenant
//! suppression_changes  number -> what was added or removed, the last ones
//! audit  seq      given  kind -> the number that was given last
//! mirrored     (tenant, address) of suppressions that another ledger keeps      mirror  when all of them were here first
//! identity     what tells this ledger from others, and whose region's it is
//! ```
//!
//! What is told of a job or a recipient is read from its events when somebody asks, so that storing costs one small row a
//! recipient and nothing is stored twice. Events of a recipient form a chain through the links, so that a trace needs no
//! index on the table that grows most.
//! Ids of messages are 16 octets, big-endian, so that keys of the same time lie together. Commits are not synced one by
//! one (`synchronous = NORMAL`); [`Ledger::make_durable`] syncs the log before a journal is trimmed, and with each change of
//! suppressions and each record of the audit trail that says what was done.
//!
//! One process writes the file; another one's writing is noticed, and costs speed only. Absent here: expiry of old events.

mod migrate;
mod mirror;
mod rows;
mod suppressions;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrail_schema::day::Day;
use postrail_schema::ids::{HostId, MessageId, RecipientIndex, TenantId};
use postrail_schema::snapshot::Suppression;
use postrail_schema::suppressions::SuppressionChange;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::parts::Parts;
use super::record::Recorder;
use super::{
    AcceptedCount, AuditRecord, Batch, Cursor, EventPage, FORMAT, Given, JournalId, Kept, Ledger, LedgerError, Message,
    Recipient, Recorded, SuppressionHead, SuppressionRecord, raised, read,
};
use crate::files::keep_private;

/// See the module head.
pub(crate) struct SqliteLedger {
    path: PathBuf,
    writer: Mutex<Writer>,
    reader: Mutex<Connection>,
}

struct Writer {
    connection: Connection,
    parts: Parts,
}

impl SqliteLedger {
    /// Opens the ledger at `path`, or makes it.
    ///
    /// # Errors
    /// The file cannot be opened, is no ledger, or is of a newer format.
    pub(crate) fn open(path: &Path) -> Result<Self, LedgerError> {
        keep_private(path).map_err(LedgerError::File)?;
        let mut connection = connect(path, WRITER_CACHE_KIB)?;
        let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match found {
            0 | FORMAT => connection.execute_batch(SCHEMA)?,
            1 => migrate::from_format_1(&mut connection)?,
            2 => migrate::from_format_2(&mut connection)?,
            _ => return Err(LedgerError::NewerFormat { found }),
        }
        migrate::add_details(&connection)?;
        connection.execute_batch(mirror::SCHEMA)?;
        suppressions::prepare(&mut connection)?;
        connection.pragma_update(None, "user_version", FORMAT)?;
        connection.set_prepared_statement_cache_capacity(32);
        let reader = connect(path, READER_CACHE_KIB)?;
        reader.pragma_update(None, "query_only", true)?;
        let writer = Writer { connection, parts: Parts::default() };
        let ledger = Self { path: path.to_owned(), writer: Mutex::new(writer), reader: Mutex::new(reader) };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(LedgerError::Sync)?;
        }
        Ok(ledger)
    }

    /// Makes it the ledger of `region` for good; one that had no region gets this one.
    ///
    /// # Errors
    /// It is another region's: what is in it of that one's tenants is nobody's business here.
    pub(crate) fn belong_to(&self, region: &str) -> Result<(), LedgerError> {
        let writer = self.writer();
        writer.connection.execute("UPDATE identity SET region = ?1 WHERE region = ''", [region])?;
        let theirs: String = writer.connection.query_row("SELECT region FROM identity", [], |row| row.get(0))?;
        match theirs == region {
            true => Ok(()),
            false => Err(LedgerError::OtherRegion { theirs, ours: region.to_owned() }),
        }
    }

    /// SQLite rolls an unfinished transaction back, and what was kept in memory of it is forgotten, so a panic elsewhere
    /// leaves nothing half done here.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            let mut writer = poisoned.into_inner();
            writer.parts.forget();
            self.writer.clear_poison();
            writer
        })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for SqliteLedger {
    fn id(&self) -> Result<u128, LedgerError> {
        let octets = self.reader().query_row("SELECT id FROM identity", [], |row| row.get(0))?;
        Ok(u128::from_be_bytes(octets))
    }

    fn cursor(&self, journal: JournalId) -> Result<Cursor, LedgerError> {
        Ok(cursor(&self.reader(), journal)?)
    }

    fn record(&self, journal: JournalId, begun: Cursor, batch: &Batch, next: Cursor) -> Result<(), LedgerError> {
        let mut writer = self.writer();
        let stored = writer.record(journal, begun, batch, next);
        match stored {
            Ok(version) => writer.parts.committed(version),
            Err(_) => writer.parts.forget(),
        }
        stored.map(drop)
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
        read::message(&mut &*self.reader(), id)
    }

    fn recipients(&self, id: MessageId, from: RecipientIndex, limit: u32) -> Result<Vec<Recipient>, LedgerError> {
        read::recipients(&mut &*self.reader(), id, from, limit)
    }

    fn events(&self, tenant: Option<TenantId>, cursor: u64, limit: u32) -> Result<EventPage, LedgerError> {
        read::events(&mut &*self.reader(), tenant, cursor, limit)
    }

    fn trace(&self, id: MessageId, index: Option<RecipientIndex>, limit: u32) -> Result<Vec<Recorded>, LedgerError> {
        read::trace(&mut &*self.reader(), id, index, limit)
    }

    fn accepted(&self, day: Day, tenant: Option<TenantId>, after: u64) -> Result<Vec<AcceptedCount>, LedgerError> {
        let reader = self.reader();
        // Most looks find that nothing has happened, and need not pass over the counts of a day.
        if last_sequence(&reader)? <= after {
            return Ok(Vec::new());
        }
        Ok(accepted(&reader, day, tenant, after)?)
    }

    fn forget_accepted(&self, day: Day) -> Result<(), LedgerError> {
        self.writer().connection.execute("DELETE FROM accepted WHERE day < ?1", [day.0])?;
        Ok(())
    }

    fn given(&self) -> Result<Given, LedgerError> {
        Ok(given(&self.reader())?)
    }

    fn give(&self, after: &Given, to: &Given) -> Result<bool, LedgerError> {
        let mut writer = self.writer();
        let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some(raised) = raised(&given(&transaction)?, after, to) else { return Ok(false) };
        for (kind, number) in raised {
            transaction.execute(
                "INSERT INTO given (kind, last) VALUES (?1, ?2) ON CONFLICT (kind) DO UPDATE SET last = excluded.last",
                params![kind, number],
            )?;
        }
        transaction.commit()?;
        drop(writer);
        self.make_durable()?;
        Ok(true)
    }

    fn suppress(&self, record: &SuppressionRecord, was: Option<&str>) -> Result<bool, LedgerError> {
        let new = suppressions::add(&mut self.writer().connection, record, was)?;
        // Hosts are told, and whoever asked is answered: both outlive a loss of power, as does the record of it.
        self.make_durable()?;
        Ok(new)
    }

    fn unsuppress(&self, suppression: &Suppression, was: Option<&str>) -> Result<bool, LedgerError> {
        let removed = self.writer().connection.execute(
            "DELETE FROM suppressions WHERE tenant = ?1 AND address = ?2 AND (?3 IS NULL OR reason = ?3)",
            params![suppression.tenant.0, suppression.address, was],
        )?;
        self.make_durable()?;
        if removed == 0 && was.is_some() { Err(LedgerError::SuppressionChanged) } else { Ok(removed == 1) }
    }

    fn unsuppress_some(&self, tenant: TenantId, limit: u32) -> Result<u64, LedgerError> {
        let removed = self.writer().connection.execute(
            "DELETE FROM suppressions WHERE tenant = ?1 AND address IN
                 (SELECT address FROM suppressions WHERE tenant = ?1 ORDER BY address LIMIT ?2)",
            params![tenant.0, limit],
        )?;
        self.make_durable()?;
        Ok(removed as u64)
    }

    fn suppression(&self, suppression: &Suppression) -> Result<Option<SuppressionRecord>, LedgerError> {
        let found = self
            .reader()
            .query_row(
                "SELECT tenant, address, reason, created_ms FROM suppressions WHERE tenant = ?1 AND address = ?2",
                params![suppression.tenant.0, suppression.address],
                suppressions::record_of,
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
        Ok(suppressions::page(&self.reader(), tenant, after, limit)?)
    }

    fn suppressions_count(&self, tenant: Option<TenantId>) -> Result<u64, LedgerError> {
        Ok(suppressions::count(&self.reader(), tenant)?)
    }

    fn each_suppression(&self, each: &mut dyn FnMut(Suppression)) -> Result<SuppressionHead, LedgerError> {
        // With a connection of its own: other readers do not wait for the whole table.
        Ok(suppressions::each(&mut connect(&self.path, READER_CACHE_KIB)?, each)?)
    }

    fn suppression_head(&self) -> Result<SuppressionHead, LedgerError> {
        Ok(suppressions::head(&self.reader())?)
    }

    fn suppression_changes(&self, after: u64, to: u64) -> Result<Option<Vec<SuppressionChange>>, LedgerError> {
        Ok(suppressions::changes(&self.reader(), after, to)?)
    }

    fn renumber_suppressions(&self) -> Result<(), LedgerError> {
        suppressions::renumber(&mut self.writer().connection)?;
        self.make_durable()
    }

    fn kept(&self, after: Option<&Suppression>, limit: u32) -> Result<Vec<Kept>, LedgerError> {
        Ok(mirror::kept(&self.reader(), after, limit)?)
    }

    fn mirror(&self, put: &[SuppressionRecord], gone: &[Suppression]) -> Result<bool, LedgerError> {
        let mut writer = self.writer();
        let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let changed = mirror::take(&transaction, put, gone)?;
        transaction.commit()?;
        drop(writer);
        self.make_durable()?;
        Ok(changed)
    }

    fn is_mirror_whole(&self) -> Result<bool, LedgerError> {
        Ok(self.reader().query_row("SELECT EXISTS (SELECT 1 FROM mirror)", [], |row| row.get(0))?)
    }

    fn set_mirror_whole(&self, at_ms: u64) -> Result<(), LedgerError> {
        self.writer().connection.execute("INSERT OR IGNORE INTO mirror (one, completed_ms) VALUES (1, ?1)", [at_ms])?;
        // Data planes are given what is here from now on.
        self.make_durable()
    }

    fn audit_begin(&self, at_ms: u64, actor: &str, action: &str) -> Result<u64, LedgerError> {
        let writer = &self.writer().connection;
        writer
            .execute("INSERT INTO audit (at_ms, actor, action) VALUES (?1, ?2, ?3)", params![at_ms, actor, action])?;
        Ok(writer.last_insert_rowid().unsigned_abs())
    }

    fn audit_detail(&self, sequence: u64, detail: &str) -> Result<(), LedgerError> {
        self.writer().connection.execute("UPDATE audit SET detail = ?2 WHERE seq = ?1", params![sequence, detail])?;
        // What it is about is committed next, in another file.
        self.make_durable()
    }

    fn audit_end(&self, sequence: u64, status: u16) -> Result<(), LedgerError> {
        self.writer().connection.execute("UPDATE audit SET status = ?2 WHERE seq = ?1", params![sequence, status])?;
        self.make_durable()
    }

    fn audit(&self, before: u64, limit: u32) -> Result<Vec<AuditRecord>, LedgerError> {
        Ok(audit(&self.reader(), before, limit)?)
    }
}

impl Writer {
    /// Stores a batch and its cursor, both or nothing; the version behind it.
    fn record(&mut self, journal: JournalId, begun: Cursor, batch: &Batch, next: Cursor) -> Result<u64, LedgerError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let stored = cursor(&transaction, journal)?;
        if stored != begun {
            return Err(LedgerError::StaleCursor { journal, stored, begun });
        }
        let version = version(&transaction)?;
        let mut rows = &*transaction;
        let mut recorder = Recorder::begin(&mut rows, &mut self.parts, version, last_sequence(&transaction)?)?;
        recorder.add(journal.host, batch)?;
        recorder.finish()?;
        for body in batch.unread() {
            transaction.execute(
                "INSERT INTO unread (host, shard, segment, offset, body) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![journal.host.0, journal.shard.0, begun.segment, begun.offset, body],
            )?;
        }
        transaction
            .prepare_cached(
                "INSERT INTO cursors (host, shard, segment, offset) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (host, shard) DO UPDATE SET segment = excluded.segment, offset = excluded.offset",
            )?
            .execute(params![journal.host.0, journal.shard.0, next.segment, next.offset])?;
        transaction.commit()?;
        Ok(version)
    }
}

fn cursor(connection: &Connection, journal: JournalId) -> Result<Cursor, rusqlite::Error> {
    let stored = connection
        .prepare_cached("SELECT segment, offset FROM cursors WHERE host = ?1 AND shard = ?2")?
        .query_row(params![journal.host.0, journal.shard.0], |row| {
            Ok(Cursor { segment: row.get(0)?, offset: row.get(1)? })
        })
        .optional()?;
    Ok(stored.unwrap_or_default())
}

/// Changes when another connection has written.
fn version(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let version: i64 = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
    Ok(version.unsigned_abs())
}

pub(super) fn last_sequence(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let last = connection
        .prepare_cached("SELECT first + count - 1 FROM events ORDER BY first DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(last.unwrap_or(0))
}

fn accepted(
    connection: &Connection,
    day: Day,
    tenant: Option<TenantId>,
    after: u64,
) -> Result<Vec<AcceptedCount>, rusqlite::Error> {
    let (first, last) = tenant.map_or((0, u32::MAX), |tenant| (tenant.0, tenant.0));
    connection
        .prepare_cached(
            "SELECT tenant, host, recipients, sequence FROM accepted
             WHERE day = ?1 AND tenant BETWEEN ?2 AND ?3 AND sequence > ?4",
        )?
        .query_map(params![day.0, first, last, after], |row| {
            let (tenant, host) = (TenantId(row.get(0)?), HostId(row.get(1)?));
            Ok(AcceptedCount { day, tenant, host, recipients: row.get(2)?, sequence: row.get(3)? })
        })?
        .collect()
}

fn given(connection: &Connection) -> Result<Given, rusqlite::Error> {
    connection
        .prepare_cached("SELECT kind, last FROM given")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn audit(connection: &Connection, before: u64, limit: u32) -> Result<Vec<AuditRecord>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT seq, at_ms, actor, action, status, detail FROM audit
             WHERE ?1 = 0 OR seq < ?1 ORDER BY seq DESC LIMIT ?2",
        )?
        .query_map(params![before, limit], |row| {
            Ok(AuditRecord {
                sequence: row.get(0)?,
                at_ms: row.get(1)?,
                actor: row.get(2)?,
                action: row.get(3)?,
                status: row.get(4)?,
                detail: row.get(5)?,
            })
        })?
        .collect()
}

fn connect(path: &Path, cache_kib: u32) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    // Of a file that has none yet; before the mode, which writes the first page.
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_BYTES / PAGE_BYTES)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// A page of the file. Measured: 4 KiB cost more CPU a mail, 16 KiB write half as much again where batches are small.
const PAGE_BYTES: u32 = 8_192;
/// The log's size at which it is moved into the file.
const LOG_BYTES: u32 = 32 * 1024 * 1024;
/// Memory for pages, KiB. New rows go to the right edge of their tables, so storing needs few.
const WRITER_CACHE_KIB: u32 = 8 * 1024;
const READER_CACHE_KIB: u32 = 4 * 1024;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS events (
        first INTEGER PRIMARY KEY, count INTEGER NOT NULL, tenants BLOB NOT NULL, links BLOB NOT NULL, body BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS recipients (
        message BLOB NOT NULL, part INTEGER NOT NULL, events BLOB NOT NULL, PRIMARY KEY (message, part)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS accepted (
        day INTEGER NOT NULL, tenant INTEGER NOT NULL, host INTEGER NOT NULL, recipients INTEGER NOT NULL,
        sequence INTEGER NOT NULL, PRIMARY KEY (day, tenant, host)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS cursors (
        host INTEGER NOT NULL, shard INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
        PRIMARY KEY (host, shard)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS unread (
        seq INTEGER PRIMARY KEY, host INTEGER NOT NULL, shard INTEGER NOT NULL, segment INTEGER NOT NULL,
        offset INTEGER NOT NULL, body BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS suppressions (
        tenant INTEGER NOT NULL, address TEXT NOT NULL, reason TEXT NOT NULL, created_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant, address)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
        status INTEGER NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT ''
    );
    CREATE TABLE IF NOT EXISTS given (kind TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS identity (
        one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL, region TEXT NOT NULL DEFAULT ''
    );
    INSERT OR IGNORE INTO identity (one, id) VALUES (1, randomblob(16));
";

#[cfg(test)]
pub(super) mod tests;
