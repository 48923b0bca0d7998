//! Suppressions in SQLite: their rows, how many there are, and what was changed last.
//!
//! Triggers count them and number their changes, so that it holds whoever writes: also an earlier version, and a statement
//! by hand. One writes at a time, so numbers have no gap, and who sees one sees all before it.

use postrail_schema::ids::TenantId;
use postrail_schema::limits::SUPPRESSION_CHANGES_MAX;
use postrail_schema::snapshot::Suppression;
use postrail_schema::suppressions::SuppressionChange;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::super::{LedgerError, SuppressionHead, SuppressionRecord, check_suppressions};

/// Makes the tables beside that of suppressions, where there are none.
///
/// # Errors
/// The database fails: then nothing is changed.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'suppression_head'";
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if transaction.query_row(there, [], |row| row.get::<_, u32>(0))? == 0 {
        transaction.execute_batch(&schema())?;
    }
    transaction.commit()
}

pub(super) fn record_of(row: &Row<'_>) -> Result<SuppressionRecord, rusqlite::Error> {
    let suppression = Suppression { tenant: TenantId(row.get(0)?), address: row.get(1)? };
    Ok(SuppressionRecord { suppression, reason: row.get(2)?, created_ms: row.get(3)? })
}

/// As [`Ledger::suppress`](super::Ledger::suppress).
///
/// # Errors
/// The database fails, or there are too many: then nothing is changed.
pub(super) fn add(
    connection: &mut Connection,
    record: &SuppressionRecord,
    was: Option<&str>,
) -> Result<bool, LedgerError> {
    let SuppressionRecord { suppression: Suppression { tenant, address }, reason, created_ms } = record;
    if let Some(was) = was {
        let changed = connection.execute(
            "UPDATE suppressions SET reason = ?3, created_ms = ?4 WHERE tenant = ?1 AND address = ?2 AND reason = ?5",
            params![tenant.0, address, reason, created_ms, was],
        )?;
        return if changed == 1 { Ok(false) } else { Err(LedgerError::SuppressionChanged) };
    }
    let transaction = connection.transaction()?;
    let values = params![tenant.0, address, reason, created_ms];
    let new = transaction.execute(
        "INSERT INTO suppressions (tenant, address, reason, created_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (tenant, address) DO NOTHING",
        values,
    )? == 1;
    if new {
        check_suppressions(count(&transaction, Some(*tenant))?, count(&transaction, None)?)?;
    } else {
        transaction.execute(
            "UPDATE suppressions SET reason = ?3, created_ms = ?4 WHERE tenant = ?1 AND address = ?2",
            values,
        )?;
    }
    transaction.commit()?;
    Ok(new)
}

pub(super) fn count(connection: &Connection, tenant: Option<TenantId>) -> Result<u64, rusqlite::Error> {
    let count = match tenant {
        Some(tenant) => connection
            .prepare_cached("SELECT suppressions FROM suppression_counts WHERE tenant = ?1")?
            .query_row([tenant.0], |row| row.get(0))
            .optional()?,
        None => connection
            .prepare_cached("SELECT suppressions FROM suppression_head")?
            .query_row([], |row| row.get(0))
            .optional()?,
    };
    Ok(count.unwrap_or(0))
}

pub(super) fn page(
    connection: &Connection,
    tenant: Option<TenantId>,
    after: Option<&Suppression>,
    limit: u32,
) -> Result<Vec<SuppressionRecord>, rusqlite::Error> {
    // Tenant ids begin at 1, so (0, "") is before all.
    let (after_tenant, after_address) = after.map_or((0, ""), |after| (after.tenant.0, after.address.as_str()));
    let (first, last) = tenant.map_or((0, u32::MAX), |tenant| (tenant.0, tenant.0));
    connection
        .prepare_cached(
            "SELECT tenant, address, reason, created_ms FROM suppressions
             WHERE (tenant, address) > (?1, ?2) AND tenant BETWEEN ?3 AND ?4 ORDER BY tenant, address LIMIT ?5",
        )?
        .query_map(params![after_tenant, after_address, first, last, limit], record_of)?
        .collect()
}

pub(super) fn head(connection: &Connection) -> Result<SuppressionHead, rusqlite::Error> {
    connection
        .prepare_cached("SELECT last, suppressions FROM suppression_head")?
        .query_row([], |row| Ok(SuppressionHead { last: row.get(0)?, count: row.get(1)? }))
}

/// The changes behind `after` up to `to`, where all of them are there.
pub(super) fn changes(
    connection: &Connection,
    after: u64,
    to: u64,
) -> Result<Option<Vec<SuppressionChange>>, rusqlite::Error> {
    let changes: Vec<_> = connection
        .prepare_cached(
            "SELECT tenant, address, added FROM suppression_changes WHERE sequence > ?1 AND sequence <= ?2
             ORDER BY sequence",
        )?
        .query_map(params![signed(after), signed(to)], |row| {
            let suppression = Suppression { tenant: TenantId(row.get(0)?), address: row.get(1)? };
            Ok(SuppressionChange { suppression, is_added: row.get(2)? })
        })?
        .collect::<Result<_, _>>()?;
    Ok((changes.len() as u64 == to.saturating_sub(after)).then_some(changes))
}

/// Tells `each` every suppression, ascending, of one state of the file; which that is.
pub(super) fn each(
    connection: &mut Connection,
    each: &mut dyn FnMut(Suppression),
) -> Result<SuppressionHead, rusqlite::Error> {
    let transaction = connection.transaction()?;
    let head = head(&transaction)?;
    let mut select = transaction.prepare("SELECT tenant, address FROM suppressions ORDER BY tenant, address")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        each(Suppression { tenant: TenantId(row.get(0)?), address: row.get(1)? });
    }
    Ok(head)
}

/// Counts anew, and forgets the changes: where they do not tell all that has happened.
pub(super) fn renumber(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "UPDATE suppression_head SET last = last + 1, suppressions = (SELECT count(*) FROM suppressions);
         DELETE FROM suppression_changes;
         DELETE FROM suppression_counts;
         INSERT INTO suppression_counts SELECT tenant, count(*) FROM suppressions GROUP BY tenant;",
    )?;
    transaction.commit()
}

/// A number that a data plane has said may be more than the file has numbers.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn schema() -> String {
    format!(
        "CREATE TABLE suppression_head (
        one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL, suppressions INTEGER NOT NULL
    );
    CREATE TABLE suppression_counts (tenant INTEGER PRIMARY KEY, suppressions INTEGER NOT NULL);
    CREATE TABLE suppression_changes (
        sequence INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, address TEXT NOT NULL, added INTEGER NOT NULL
    );
    INSERT INTO suppression_head SELECT 1, 1, count(*) FROM suppressions;
    INSERT INTO suppression_counts SELECT tenant, count(*) FROM suppressions GROUP BY tenant;
    CREATE TRIGGER suppression_added AFTER INSERT ON suppressions BEGIN
        UPDATE suppression_head SET last = last + 1, suppressions = suppressions + 1;
        INSERT INTO suppression_counts VALUES (NEW.tenant, 1)
            ON CONFLICT (tenant) DO UPDATE SET suppressions = suppressions + 1;
        INSERT INTO suppression_changes SELECT last, NEW.tenant, NEW.address, 1 FROM suppression_head;
        DELETE FROM suppression_changes
            WHERE sequence <= (SELECT last - {SUPPRESSION_CHANGES_MAX} FROM suppression_head);
    END;
    CREATE TRIGGER suppression_removed AFTER DELETE ON suppressions BEGIN
        UPDATE suppression_head SET last = last + 1, suppressions = suppressions - 1;
        UPDATE suppression_counts SET suppressions = suppressions - 1 WHERE tenant = OLD.tenant;
        DELETE FROM suppression_counts WHERE tenant = OLD.tenant AND suppressions <= 0;
        INSERT INTO suppression_changes SELECT last, OLD.tenant, OLD.address, 0 FROM suppression_head;
        DELETE FROM suppression_changes
            WHERE sequence <= (SELECT last - {SUPPRESSION_CHANGES_MAX} FROM suppression_head);
    END;"
    )
}
