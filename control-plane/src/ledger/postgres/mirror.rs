//! Suppressions in PostgreSQL that another ledger keeps, and this one has a copy of.
//!
//! Which those are stands beside the suppressions, so that whoever reads or changes these knows nothing of it. One that is
//! removed, by whomever, is no copy any more.

use postrail_schema::limits::SUPPRESSIONS_MAX;
use postrail_schema::snapshot::Suppression;
use tokio_postgres::Row;

use super::super::{Kept, LedgerError, SuppressionRecord};
use super::session::{Session, signed};
use super::suppressions;

pub(super) fn kept(session: &mut Session, after: Option<&Suppression>, limit: u32) -> Result<Vec<Kept>, LedgerError> {
    // Tenant ids begin at 1, so (0, "") is before all.
    let (tenant, address) = after.map_or((0, ""), |after| (after.tenant.0, after.address.as_str()));
    let rows = session.query(
        "SELECT tenant, address, reason, created_ms, EXISTS (
             SELECT FROM mirrored WHERE mirrored.tenant = suppressions.tenant AND mirrored.address = suppressions.address
         ) FROM suppressions WHERE (tenant, address) > ($1, $2) ORDER BY tenant, address LIMIT $3",
        &[&i64::from(tenant), &address, &i64::from(limit)],
    )?;
    let kept = |row: &Row| Kept { record: suppressions::record_of(row), is_mirrored: row.get(4) };
    Ok(rows.iter().map(kept).collect())
}

/// As [`Ledger::mirror`](super::Ledger::mirror), within a transaction.
pub(super) fn take(
    session: &mut Session,
    put: &[SuppressionRecord],
    gone: &[Suppression],
) -> Result<bool, LedgerError> {
    suppressions::lock(session)?;
    let (tenants, addresses) = columns(gone);
    let removed = session.execute(
        "DELETE FROM suppressions USING mirrored, unnest($1::bigint[], $2::text[]) AS gone (tenant, address)
         WHERE suppressions.tenant = gone.tenant AND suppressions.address = gone.address
             AND mirrored.tenant = gone.tenant AND mirrored.address = gone.address",
        &[&tenants, &addresses],
    )?;
    let (tenants, addresses) = columns(put.iter().map(|record| &record.suppression));
    let reasons: Vec<&str> = put.iter().map(|record| record.reason.as_str()).collect();
    let times: Vec<i64> = put.iter().map(|record| signed(record.created_ms)).collect();
    let written = session.query(
        "INSERT INTO suppressions (tenant, address, reason, created_ms)
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[])
         ON CONFLICT (tenant, address)
         DO UPDATE SET reason = excluded.reason, created_ms = excluded.created_ms RETURNING xmax = 0",
        &[&tenants, &addresses, &reasons, &times],
    )?;
    session.execute(
        "INSERT INTO mirrored (tenant, address) SELECT * FROM unnest($1::bigint[], $2::text[]) ON CONFLICT DO NOTHING",
        &[&tenants, &addresses],
    )?;
    let is_added = written.iter().any(|row| row.get(0));
    if is_added && suppressions::count(session, None)? > SUPPRESSIONS_MAX as u64 {
        return Err(LedgerError::SuppressionsFull);
    }
    Ok(is_added || removed > 0)
}

fn columns<'s>(all: impl IntoIterator<Item = &'s Suppression>) -> (Vec<i64>, Vec<&'s str>) {
    all.into_iter().map(|one| (i64::from(one.tenant.0), one.address.as_str())).unzip()
}

/// Beside tables of before.
pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS postrail_ledger.mirrored (
        tenant bigint NOT NULL, address text COLLATE \"C\" NOT NULL, PRIMARY KEY (tenant, address),
        FOREIGN KEY (tenant, address) REFERENCES postrail_ledger.suppressions ON DELETE CASCADE
    );
    CREATE TABLE IF NOT EXISTS postrail_ledger.mirror (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), completed_ms bigint NOT NULL
    );
";
