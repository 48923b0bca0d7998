//! Suppressions in PostgreSQL: how many there are, and what was changed last.
//!
//! Triggers count them and number their changes, so that it holds whoever writes: also an earlier version, and a statement
//! by hand. Who changes some holds the row of `suppression_head` to its commit: changes have their numbers in the order of
//! their commits, without a gap, and who sees a number sees all before it.

use postrail_schema::ids::TenantId;
use postrail_schema::limits::SUPPRESSION_CHANGES_MAX;
use postrail_schema::snapshot::Suppression;
use postrail_schema::suppressions::SuppressionChange;
use tokio_postgres::Row;

use super::super::{LedgerError, SuppressionHead, SuppressionRecord};
use super::session::{CALL_TIMEOUT, Session, signed, unsigned};
use super::tenant_of;

/// How many there are of one tenant, or of all.
///
/// # Errors
/// The database fails, as in all that follows.
pub(super) fn count(session: &mut Session, tenant: Option<TenantId>) -> Result<u64, LedgerError> {
    let rows = match tenant {
        Some(tenant) => {
            session.query("SELECT suppressions FROM suppression_counts WHERE tenant = $1", &[&i64::from(tenant.0)])?
        }
        None => session.query("SELECT suppressions FROM suppression_head", &[])?,
    };
    Ok(rows.first().map_or(0, |row| unsigned(row.get(0))))
}

/// Changes some, in a transaction of its own.
pub(super) fn change<T>(
    session: &mut Session,
    call: impl FnOnce(&mut Session) -> Result<T, LedgerError>,
) -> Result<T, LedgerError> {
    session.transaction(|session| {
        lock(session)?;
        call(session)
    })
}

/// One changes them at a time, to the end of its transaction: two cannot both be the last that has room, and none waits
/// for a row of another that waits for its numbers.
pub(super) fn lock(session: &mut Session) -> Result<(), LedgerError> {
    session.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
    Ok(())
}

pub(super) fn head(session: &mut Session) -> Result<SuppressionHead, LedgerError> {
    let rows = session.query("SELECT last, suppressions FROM suppression_head", &[])?;
    let row = rows.first().ok_or(LedgerError::Unreadable { what: "no number of suppressions" })?;
    Ok(SuppressionHead { last: unsigned(row.get(0)), count: unsigned(row.get(1)) })
}

/// The changes behind `after` up to `to`, where all of them are there.
pub(super) fn changes(
    session: &mut Session,
    after: u64,
    to: u64,
) -> Result<Option<Vec<SuppressionChange>>, LedgerError> {
    let rows = session.query(
        "SELECT tenant, address, added FROM suppression_changes WHERE sequence > $1 AND sequence <= $2 ORDER BY sequence",
        &[&signed(after), &signed(to)],
    )?;
    let change = |row: &Row| SuppressionChange {
        suppression: Suppression { tenant: tenant_of(row), address: row.get(1) },
        is_added: row.get(2),
    };
    Ok((rows.len() as u64 == to.saturating_sub(after)).then(|| rows.iter().map(change).collect()))
}

/// Tells `each` every suppression, of one state of the database; which that is.
pub(super) fn each(session: &mut Session, each: &mut dyn FnMut(Suppression)) -> Result<SuppressionHead, LedgerError> {
    session.transaction(|session| {
        session.script("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", CALL_TIMEOUT)?;
        let head = head(session)?;
        let mut last = Suppression { tenant: TenantId(0), address: String::new() };
        loop {
            let rows = session.query(
                "SELECT tenant, address FROM suppressions WHERE (tenant, address) > ($1, $2)
                 ORDER BY tenant, address LIMIT $3",
                &[&i64::from(last.tenant.0), &last.address, &EACH_ROWS],
            )?;
            for row in &rows {
                last = Suppression { tenant: tenant_of(row), address: row.get(1) };
                each(last.clone());
            }
            if (rows.len() as i64) < EACH_ROWS {
                return Ok(head);
            }
        }
    })
}

/// Counts anew, and forgets the changes: where they do not tell all that has happened.
pub(super) fn renumber(session: &mut Session) -> Result<(), LedgerError> {
    session.transaction(|session| {
        session.script("LOCK TABLE suppressions IN SHARE ROW EXCLUSIVE MODE", CALL_TIMEOUT)?;
        for statement in [
            "UPDATE suppression_head SET last = last + 1, suppressions = (SELECT count(*) FROM suppressions)",
            "DELETE FROM suppression_changes",
            "DELETE FROM suppression_counts",
            "INSERT INTO suppression_counts SELECT tenant, count(*) FROM suppressions GROUP BY tenant",
        ] {
            session.execute(statement, &[])?;
        }
        Ok(())
    })
}

pub(super) fn record_of(row: &Row) -> SuppressionRecord {
    let suppression = Suppression { tenant: tenant_of(row), address: row.get(1) };
    SuppressionRecord { suppression, reason: row.get(2), created_ms: unsigned(row.get(3)) }
}

/// The advisory lock of changes; the number has no meaning.
const LOCK: i64 = 0x706f_7374_7375_7070;
/// Rows that are read at once.
const EACH_ROWS: i64 = 10_000;

/// The tables beside that of suppressions, and what fills them. Nobody writes suppressions while they are counted.
pub(super) fn schema() -> String {
    format!(
        "LOCK TABLE postrail_ledger.suppressions IN SHARE ROW EXCLUSIVE MODE;
    CREATE TABLE IF NOT EXISTS postrail_ledger.suppression_head (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), last bigint NOT NULL, suppressions bigint NOT NULL
    ) WITH (fillfactor = 50);
    CREATE TABLE IF NOT EXISTS postrail_ledger.suppression_counts (
        tenant bigint PRIMARY KEY, suppressions bigint NOT NULL
    ) WITH (fillfactor = 50);
    CREATE TABLE IF NOT EXISTS postrail_ledger.suppression_changes (
        sequence bigint PRIMARY KEY, tenant bigint NOT NULL, address text NOT NULL, added boolean NOT NULL
    );
    CREATE OR REPLACE FUNCTION postrail_ledger.suppressions_added() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        come_n bigint;
        come_last bigint;
    BEGIN
        SELECT count(*) INTO come_n FROM come;
        IF come_n = 0 THEN RETURN NULL; END IF;
        UPDATE postrail_ledger.suppression_head SET last = last + come_n, suppressions = suppressions + come_n
            RETURNING last INTO come_last;
        INSERT INTO postrail_ledger.suppression_changes
            SELECT come_last - come_n + row_number() OVER (), tenant, address, true FROM come;
        INSERT INTO postrail_ledger.suppression_counts AS counts
            SELECT tenant, count(*) FROM come GROUP BY tenant
            ON CONFLICT (tenant) DO UPDATE SET suppressions = counts.suppressions + excluded.suppressions;
        DELETE FROM postrail_ledger.suppression_changes WHERE sequence <= come_last - {SUPPRESSION_CHANGES_MAX};
        RETURN NULL;
    END $$;
    CREATE OR REPLACE FUNCTION postrail_ledger.suppressions_removed() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        gone_n bigint;
        gone_last bigint;
    BEGIN
        SELECT count(*) INTO gone_n FROM gone;
        IF gone_n = 0 THEN RETURN NULL; END IF;
        UPDATE postrail_ledger.suppression_head SET last = last + gone_n, suppressions = suppressions - gone_n
            RETURNING last INTO gone_last;
        INSERT INTO postrail_ledger.suppression_changes
            SELECT gone_last - gone_n + row_number() OVER (), tenant, address, false FROM gone;
        UPDATE postrail_ledger.suppression_counts AS counts SET suppressions = counts.suppressions - less.n
            FROM (SELECT tenant, count(*) AS n FROM gone GROUP BY tenant) AS less WHERE counts.tenant = less.tenant;
        DELETE FROM postrail_ledger.suppression_counts
            WHERE suppressions <= 0 AND tenant IN (SELECT tenant FROM gone);
        DELETE FROM postrail_ledger.suppression_changes WHERE sequence <= gone_last - {SUPPRESSION_CHANGES_MAX};
        RETURN NULL;
    END $$;
    CREATE OR REPLACE TRIGGER suppressions_added AFTER INSERT ON postrail_ledger.suppressions
        REFERENCING NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION postrail_ledger.suppressions_added();
    CREATE OR REPLACE TRIGGER suppressions_removed AFTER DELETE ON postrail_ledger.suppressions
        REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION postrail_ledger.suppressions_removed();
    INSERT INTO postrail_ledger.suppression_head (last, suppressions)
        SELECT 1, count(*) FROM postrail_ledger.suppressions ON CONFLICT DO NOTHING;
    INSERT INTO postrail_ledger.suppression_counts
        SELECT tenant, count(*) FROM postrail_ledger.suppressions GROUP BY tenant ON CONFLICT DO NOTHING;"
    )
}
