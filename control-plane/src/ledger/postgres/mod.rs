//! The ledger of several processes: a PostgreSQL database.
//!
//! ```text
//! schema postrail_ledger
//! head         one row: format, installation, and the sequence that was given last
//! events       first sequence -> a chunk: consecutive events as the journal gave them, and links back
//! recipients   (message, part) -> where the events of 32 recipients are
//! accepted     (day, tenant, host) -> how many recipients
//! cursors      (host, shard) -> segment, position
//! unread       bytes of a journal that did not decode
//! suppressions (tenant, address)      suppression_head, suppression_counts: how many, in all and of each tenant
//! suppression_changes  number -> what was added or removed, the last ones
//! audit  seq      given  kind -> the number that was given last
//! mirrored     (tenant, address) of suppressions that another ledger keeps      mirror  when all of them were here first
//! identity     one row: what tells this ledger from others
//! ```
//!
//! Chunks and parts are those of the SQLite ledger. Storing holds the row of `head` from its first statement to the commit:
//! batches of all control planes follow one another, so that sequences have no gap, a reader that has seen one has seen
//! all before it, and of two control planes with the same batch the second finds another cursor.
//!
//! Invariants worth naming: every wait has a limit, here and in the server; a connection on which anything but a
//! statement failed is not used again; a commit whose answer was lost counts as failed, and the cursor tells the truth.
//! Commits are durable when they return. Absent here: expiry of old events, and a say in the server's replication.

mod address;
mod error;
mod mirror;
mod pool;
mod rows;
mod schema;
mod session;
mod suppressions;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod writer;

use std::sync::Arc;

use postrail_schema::day::Day;
use postrail_schema::ids::{HostId, MessageId, RecipientIndex, TenantId};
use postrail_schema::snapshot::Suppression;
use postrail_schema::suppressions::SuppressionChange;
use tokio_postgres::Row;

use self::pool::Pool;
use self::session::{signed, unsigned};
use self::writer::{Writer, columns};
use super::{
    AcceptedCount, AuditRecord, Batch, Cursor, EventPage, Given, JournalId, Kept, Ledger, LedgerError, Message,
    Recipient, Recorded, SuppressionHead, SuppressionRecord, check_suppressions, raised, read,
};

pub use address::{AddressError, PostgresAddress};
pub(crate) use error::PostgresError;
pub(super) use rows::{SessionRows, Uuid};
pub(super) use schema::{finish_move, prepare_move, was_moved};
pub(super) use session::{Server, Session};

/// See the module head.
pub(crate) struct PostgresLedger {
    writer: Writer,
    pool: Pool,
}

impl PostgresLedger {
    /// Connects, and makes the ledger's tables where there are none.
    ///
    /// # Errors
    /// The server cannot be reached, refuses us, or holds a ledger of a newer format or of another installation.
    pub(crate) fn open(address: &PostgresAddress, installation: u128) -> Result<Self, LedgerError> {
        let server = Arc::new(Server::new(address)?);
        let mut session = Session::connect(&server)?;
        schema::prepare(&mut session, installation)?;
        Ok(Self { writer: Writer::new(Arc::clone(&server), session), pool: Pool::new(server) })
    }

    /// Reads what became of mail.
    fn read<T>(&self, call: impl FnOnce(&mut SessionRows<'_>) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        self.pool.with(|session| call(&mut SessionRows::new(session)))
    }
}

impl Ledger for PostgresLedger {
    fn id(&self) -> Result<u128, LedgerError> {
        self.pool.with(|session| {
            let rows = session.query("SELECT id FROM identity", &[])?;
            let id = rows.first().map(|row| row.get::<_, Uuid>(0).0);
            id.ok_or(LedgerError::Unreadable { what: "no identity" })
        })
    }

    fn cursor(&self, journal: JournalId) -> Result<Cursor, LedgerError> {
        self.pool.with(|session| cursor(session, journal))
    }

    fn record(&self, journal: JournalId, begun: Cursor, batch: &Batch, next: Cursor) -> Result<(), LedgerError> {
        self.writer.record(journal, begun, batch, next)
    }

    fn make_durable(&self) -> Result<(), LedgerError> {
        // Sessions ask for commits that are durable when they return.
        Ok(())
    }

    fn message(&self, id: MessageId) -> Result<Option<Message>, LedgerError> {
        self.read(|rows| read::message(rows, id))
    }

    fn recipients(&self, id: MessageId, from: RecipientIndex, limit: u32) -> Result<Vec<Recipient>, LedgerError> {
        self.read(|rows| read::recipients(rows, id, from, limit))
    }

    fn events(&self, tenant: Option<TenantId>, cursor: u64, limit: u32) -> Result<EventPage, LedgerError> {
        self.read(|rows| read::events(rows, tenant, cursor, limit))
    }

    fn trace(&self, id: MessageId, index: Option<RecipientIndex>, limit: u32) -> Result<Vec<Recorded>, LedgerError> {
        self.read(|rows| read::trace(rows, id, index, limit))
    }

    fn accepted(&self, day: Day, tenant: Option<TenantId>, after: u64) -> Result<Vec<AcceptedCount>, LedgerError> {
        let (first, last) = tenant.map_or((0, u32::MAX), |tenant| (tenant.0, tenant.0));
        let (first, last) = (i64::from(first), i64::from(last));
        self.pool.with(|session| {
            // Most looks find that nothing has happened, and the server does not pass over the counts of a day.
            let rows = session.query(
                "SELECT tenant, host, recipients, sequence FROM accepted
                 WHERE day = $1 AND tenant BETWEEN $2 AND $3 AND sequence > $4 AND (SELECT last FROM head) > $4",
                &[&signed(day.0), &first, &last, &signed(after)],
            )?;
            let count = |row: &Row| AcceptedCount {
                day,
                tenant: tenant_of(row),
                host: HostId(u32::try_from(row.get::<_, i64>(1)).unwrap_or(0)),
                recipients: unsigned(row.get(2)),
                sequence: unsigned(row.get(3)),
            };
            Ok(rows.iter().map(count).collect())
        })
    }

    fn forget_accepted(&self, day: Day) -> Result<(), LedgerError> {
        self.pool.with(|session| {
            session.execute("DELETE FROM accepted WHERE day < $1", &[&signed(day.0)])?;
            Ok(())
        })
    }

    fn given(&self) -> Result<Given, LedgerError> {
        self.pool.with(given)
    }

    fn give(&self, after: &Given, to: &Given) -> Result<bool, LedgerError> {
        self.pool.with(|session| {
            session.transaction(|session| {
                // One at a time, so that two cannot both find a number free.
                session.execute("SELECT pg_advisory_xact_lock($1)", &[&GIVEN_LOCK])?;
                let Some(raised) = raised(&given(session)?, after, to) else { return Ok(false) };
                for (kind, number) in raised {
                    session.execute(
                        "INSERT INTO given (kind, last) VALUES ($1, $2)
                         ON CONFLICT (kind) DO UPDATE SET last = excluded.last",
                        &[&kind, &i64::from(number)],
                    )?;
                }
                Ok(true)
            })
        })
    }

    fn suppress(&self, record: &SuppressionRecord, was: Option<&str>) -> Result<bool, LedgerError> {
        let tenant = i64::from(record.suppression.tenant.0);
        let created_ms = signed(record.created_ms);
        self.pool.with(|session| {
            suppressions::change(session, |session| {
                if let Some(was) = was {
                    let changed = session.execute(
                        "UPDATE suppressions SET reason = $3, created_ms = $4
                         WHERE tenant = $1 AND address = $2 AND reason = $5",
                        &[&tenant, &record.suppression.address, &record.reason, &created_ms, &was],
                    )?;
                    return if changed == 1 { Ok(false) } else { Err(LedgerError::SuppressionChanged) };
                }
                let row = session.query(
                    "INSERT INTO suppressions (tenant, address, reason, created_ms) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (tenant, address)
                     DO UPDATE SET reason = excluded.reason, created_ms = excluded.created_ms RETURNING xmax = 0",
                    &[&tenant, &record.suppression.address, &record.reason, &created_ms],
                )?;
                let new = row.first().is_some_and(|row| row.get(0));
                if new {
                    let of_tenant = suppressions::count(session, Some(record.suppression.tenant))?;
                    check_suppressions(of_tenant, suppressions::count(session, None)?)?;
                }
                Ok(new)
            })
        })
    }

    fn unsuppress(&self, suppression: &Suppression, was: Option<&str>) -> Result<bool, LedgerError> {
        let tenant = i64::from(suppression.tenant.0);
        self.pool.with(|session| {
            let removed = suppressions::change(session, |session| {
                Ok(session.execute(
                    "DELETE FROM suppressions WHERE tenant = $1 AND address = $2 AND ($3::text IS NULL OR reason = $3)",
                    &[&tenant, &suppression.address, &was],
                )?)
            })?;
            if removed == 0 && was.is_some() { Err(LedgerError::SuppressionChanged) } else { Ok(removed == 1) }
        })
    }

    fn unsuppress_some(&self, tenant: TenantId, limit: u32) -> Result<u64, LedgerError> {
        let (tenant, limit) = (i64::from(tenant.0), i64::from(limit));
        self.pool.with(|session| {
            suppressions::change(session, |session| {
                Ok(session.execute(
                    "DELETE FROM suppressions WHERE tenant = $1 AND address IN
                         (SELECT address FROM suppressions WHERE tenant = $1 ORDER BY address LIMIT $2)",
                    &[&tenant, &limit],
                )?)
            })
        })
    }

    fn suppression(&self, suppression: &Suppression) -> Result<Option<SuppressionRecord>, LedgerError> {
        let tenant = i64::from(suppression.tenant.0);
        self.pool.with(|session| {
            let rows = session.query(
                "SELECT tenant, address, reason, created_ms FROM suppressions WHERE tenant = $1 AND address = $2",
                &[&tenant, &suppression.address],
            )?;
            Ok(rows.first().map(suppressions::record_of))
        })
    }

    fn suppressions(
        &self,
        tenant: Option<TenantId>,
        after: Option<&Suppression>,
        limit: u32,
    ) -> Result<Vec<SuppressionRecord>, LedgerError> {
        // Tenant ids begin at 1, so (0, "") is before all.
        let (after_tenant, after_address) = after.map_or((0, ""), |after| (after.tenant.0, after.address.as_str()));
        let (first, last) = tenant.map_or((0, u32::MAX), |tenant| (tenant.0, tenant.0));
        let [after_tenant, first, last, limit] = [after_tenant, first, last, limit].map(i64::from);
        self.pool.with(|session| {
            let rows = session.query(
                "SELECT tenant, address, reason, created_ms FROM suppressions
                 WHERE (tenant, address) > ($1, $2) AND tenant BETWEEN $3 AND $4 ORDER BY tenant, address LIMIT $5",
                &[&after_tenant, &after_address, &first, &last, &limit],
            )?;
            Ok(rows.iter().map(suppressions::record_of).collect())
        })
    }

    fn suppressions_count(&self, tenant: Option<TenantId>) -> Result<u64, LedgerError> {
        self.pool.with(|session| suppressions::count(session, tenant))
    }

    fn each_suppression(&self, each: &mut dyn FnMut(Suppression)) -> Result<SuppressionHead, LedgerError> {
        self.pool.with(|session| suppressions::each(session, each))
    }

    fn suppression_head(&self) -> Result<SuppressionHead, LedgerError> {
        self.pool.with(suppressions::head)
    }

    fn suppression_changes(&self, after: u64, to: u64) -> Result<Option<Vec<SuppressionChange>>, LedgerError> {
        self.pool.with(|session| suppressions::changes(session, after, to))
    }

    fn renumber_suppressions(&self) -> Result<(), LedgerError> {
        self.pool.with(suppressions::renumber)
    }

    fn kept(&self, after: Option<&Suppression>, limit: u32) -> Result<Vec<Kept>, LedgerError> {
        self.pool.with(|session| mirror::kept(session, after, limit))
    }

    fn mirror(&self, put: &[SuppressionRecord], gone: &[Suppression]) -> Result<bool, LedgerError> {
        self.pool.with(|session| session.transaction(|session| mirror::take(session, put, gone)))
    }

    fn is_mirror_whole(&self) -> Result<bool, LedgerError> {
        self.pool.with(|session| Ok(!session.query("SELECT FROM mirror", &[])?.is_empty()))
    }

    fn set_mirror_whole(&self, at_ms: u64) -> Result<(), LedgerError> {
        self.pool.with(|session| {
            session
                .execute("INSERT INTO mirror (completed_ms) VALUES ($1) ON CONFLICT DO NOTHING", &[&signed(at_ms)])?;
            Ok(())
        })
    }

    fn audit_begin(&self, at_ms: u64, actor: &str, action: &str) -> Result<u64, LedgerError> {
        let sql = "INSERT INTO audit (at_ms, actor, action) VALUES ($1, $2, $3) RETURNING seq";
        self.pool.with(|session| {
            let rows = session.query(sql, &[&signed(at_ms), &actor, &action])?;
            Ok(rows.first().map_or(0, |row| unsigned(row.get(0))))
        })
    }

    fn audit_detail(&self, sequence: u64, detail: &str) -> Result<(), LedgerError> {
        let sql = "UPDATE audit SET detail = $2 WHERE seq = $1";
        self.pool.with(|session| {
            session.execute(sql, &[&signed(sequence), &detail])?;
            Ok(())
        })
    }

    fn audit_end(&self, sequence: u64, status: u16) -> Result<(), LedgerError> {
        let sql = "UPDATE audit SET status = $2 WHERE seq = $1";
        self.pool.with(|session| {
            session.execute(sql, &[&signed(sequence), &i32::from(status)])?;
            Ok(())
        })
    }

    fn audit(&self, before: u64, limit: u32) -> Result<Vec<AuditRecord>, LedgerError> {
        let before = if before == 0 { i64::MAX } else { signed(before) };
        self.pool.with(|session| {
            let rows = session.query(
                "SELECT seq, at_ms, actor, action, status, detail FROM audit WHERE seq < $1 ORDER BY seq DESC LIMIT $2",
                &[&before, &i64::from(limit)],
            )?;
            let record = |row: &Row| AuditRecord {
                sequence: unsigned(row.get(0)),
                at_ms: unsigned(row.get(1)),
                actor: row.get(2),
                action: row.get(3),
                status: u16::try_from(row.get::<_, i32>(4)).unwrap_or(0),
                detail: row.get(5),
            };
            Ok(rows.iter().map(record).collect())
        })
    }
}

fn cursor(session: &mut Session, journal: JournalId) -> Result<Cursor, LedgerError> {
    let (host, shard) = columns(journal);
    let rows =
        session.query("SELECT segment, position FROM cursors WHERE host = $1 AND shard = $2", &[&host, &shard])?;
    let cursor = rows.first().map(|row| Cursor { segment: unsigned(row.get(0)), offset: unsigned(row.get(1)) });
    Ok(cursor.unwrap_or_default())
}

fn given(session: &mut Session) -> Result<Given, LedgerError> {
    let rows = session.query("SELECT kind, last FROM given", &[])?;
    Ok(rows.iter().map(|row| (row.get(0), u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX))).collect())
}

fn tenant_of(row: &Row) -> TenantId {
    TenantId(u32::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// The advisory lock under which numbers are given; the number has no meaning.
const GIVEN_LOCK: i64 = 0x706f_7374_6769_7665;
