//! Suppressions in SQLite that another ledger keeps, and this one has a copy of.
//!
//! Which those are stands beside the suppressions, so that whoever reads or changes these knows nothing of it. One that is
//! removed, by whomever, is no copy any more.

use postrail_schema::ids::TenantId;
use postrail_schema::limits::SUPPRESSIONS_MAX;
use postrail_schema::snapshot::Suppression;
use rusqlite::{Connection, Row, Transaction, params};

use super::super::{Kept, LedgerError, SuppressionRecord};
use super::suppressions;

pub(super) fn kept(
    connection: &Connection,
    after: Option<&Suppression>,
    limit: u32,
) -> Result<Vec<Kept>, rusqlite::Error> {
    // Tenant ids begin at 1, so (0, "") is before all.
    let (tenant, address) = after.map_or((0, ""), |after| (after.tenant.0, after.address.as_str()));
    let kept = |row: &Row<'_>| {
        let suppression = Suppression { tenant: TenantId(row.get(0)?), address: row.get(1)? };
        let record = SuppressionRecord { suppression, reason: row.get(2)?, created_ms: row.get(3)? };
        Ok(Kept { record, is_mirrored: row.get(4)? })
    };
    connection
        .prepare_cached(
            "SELECT tenant, address, reason, created_ms, EXISTS (
                 SELECT 1 FROM mirrored WHERE mirrored.tenant = suppressions.tenant AND mirrored.address = suppressions.address
             ) FROM suppressions WHERE (tenant, address) > (?1, ?2) ORDER BY tenant, address LIMIT ?3",
        )?
        .query_map(params![tenant, address, limit], kept)?
        .collect()
}

/// As [`Ledger::mirror`](super::Ledger::mirror), to be committed.
pub(super) fn take(
    transaction: &Transaction<'_>,
    put: &[SuppressionRecord],
    gone: &[Suppression],
) -> Result<bool, LedgerError> {
    let (mut added, mut removed) = (0, 0);
    for Suppression { tenant, address } in gone {
        removed += transaction
            .prepare_cached(
                "DELETE FROM suppressions WHERE tenant = ?1 AND address = ?2
                     AND EXISTS (SELECT 1 FROM mirrored WHERE tenant = ?1 AND address = ?2)",
            )?
            .execute(params![tenant.0, address])?;
    }
    for SuppressionRecord { suppression: Suppression { tenant, address }, reason, created_ms } in put {
        let values = params![tenant.0, address, reason, created_ms];
        let new = transaction
            .prepare_cached(
                "INSERT INTO suppressions (tenant, address, reason, created_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (tenant, address) DO NOTHING",
            )?
            .execute(values)?;
        if new == 0 {
            transaction
                .prepare_cached(
                    "UPDATE suppressions SET reason = ?3, created_ms = ?4 WHERE tenant = ?1 AND address = ?2",
                )?
                .execute(values)?;
        }
        added += new;
        transaction
            .prepare_cached("INSERT OR IGNORE INTO mirrored (tenant, address) VALUES (?1, ?2)")?
            .execute(params![tenant.0, address])?;
    }
    if added > 0 {
        let suppressions = suppressions::count(transaction, None)?;
        if suppressions > SUPPRESSIONS_MAX as u64 {
            return Err(LedgerError::SuppressionsFull);
        }
    }
    Ok(added + removed > 0)
}

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS mirrored (
        tenant INTEGER NOT NULL, address TEXT NOT NULL, PRIMARY KEY (tenant, address)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS mirror (one INTEGER PRIMARY KEY CHECK (one = 1), completed_ms INTEGER NOT NULL);
    CREATE TRIGGER IF NOT EXISTS mirrored_removed AFTER DELETE ON suppressions BEGIN
        DELETE FROM mirrored WHERE tenant = OLD.tenant AND address = OLD.address;
    END;
";
