//! The tables, and their format.

use std::sync::Arc;
use std::time::Duration;

use super::super::{FORMAT, Given, LedgerError};
use super::PostgresError;
use super::mirror;
use super::rows::Uuid;
use super::session::{Session, signed};
use super::suppressions;

/// Makes the tables where there are none. Of several control planes that start at once, one does, and the others wait.
///
/// # Errors
/// The server fails or lets us not; [`LedgerError::NewerFormat`]; [`PostgresError::OtherInstallation`].
pub(super) fn prepare(session: &mut Session, installation: u128) -> Result<(), LedgerError> {
    if is_ready(session, installation)? && is_complete(session)? {
        return Ok(());
    }
    session.transaction(|session| {
        let seconds = PREPARE_TIMEOUT.as_secs();
        let limits = format!("SET LOCAL lock_timeout TO '{seconds}s'; SET LOCAL statement_timeout TO '{seconds}s'");
        session.script(&limits, PREPARE_TIMEOUT)?;
        session.script(&format!("SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"), PREPARE_TIMEOUT)?;
        if is_ready(session, installation)? {
            return complete(session);
        }
        session.script(SCHEMA, PREPARE_TIMEOUT)?;
        complete(session)?;
        let (format, id) = (i64::from(FORMAT), Uuid(installation));
        session.execute("INSERT INTO head (format, installation, last) VALUES ($1, $2, 0)", &[&format, &id])?;
        Ok(())
    })
}

/// Makes the tables for a ledger that is moved here, or finds those of a move that was cut short. Until
/// [`finish_move`] nobody else opens them.
///
/// # Errors
/// As [`prepare`]; [`PostgresError::Occupied`].
pub(in super::super) fn prepare_move(session: &mut Session, installation: u128) -> Result<(), LedgerError> {
    match prepare(session, installation) {
        Err(LedgerError::Postgres(PostgresError::MoveUnfinished { .. })) => {
            return session.transaction(complete);
        }
        prepared => prepared?,
    }
    let server = Arc::clone(session.server_name());
    session.transaction(|session| {
        let marked = session.execute(
            "UPDATE head SET format = $1 WHERE last = 0 AND NOT EXISTS (SELECT FROM cursors)
                 AND NOT EXISTS (SELECT FROM suppressions) AND NOT EXISTS (SELECT FROM audit)",
            &[&MOVING],
        )?;
        if marked == 1 { Ok(()) } else { Err(PostgresError::Occupied { server }.into()) }
    })
}

/// Whether what is here was moved from the ledger `from`, whole.
///
/// # Errors
/// The server fails.
pub(in super::super) fn was_moved(session: &mut Session, from: u128) -> Result<bool, LedgerError> {
    Ok(!session.query("SELECT FROM identity WHERE moved_from = $1", &[&Uuid(from)])?.is_empty())
}

/// Makes a ledger of what was moved here from the ledger `from`: cursors (host, shard, segment, position), and the sequence
/// that was given last.
///
/// # Errors
/// The server fails: then it is not finished.
pub(in super::super) fn finish_move(
    session: &mut Session,
    from: u128,
    cursors: &[[i64; 4]],
    given: &Given,
    last: u64,
) -> Result<(), LedgerError> {
    session.transaction(|session| {
        for (kind, number) in given {
            session.execute("INSERT INTO given (kind, last) VALUES ($1, $2)", &[kind, &i64::from(*number)])?;
        }
        for [host, shard, segment, position] in cursors {
            session.execute(
                "INSERT INTO cursors (host, shard, segment, position) VALUES ($1, $2, $3, $4)",
                &[host, &i32::try_from(*shard).unwrap_or(i32::MAX), segment, position],
            )?;
        }
        for sequences in [
            "SELECT setval(pg_get_serial_sequence('audit', 'seq'), max(seq)) FROM audit",
            "SELECT setval(pg_get_serial_sequence('unread', 'seq'), max(seq)) FROM unread",
        ] {
            session.query(sequences, &[])?;
        }
        session.execute("UPDATE identity SET moved_from = $1", &[&Uuid(from)])?;
        session.execute("UPDATE head SET format = $1, last = $2", &[&i64::from(FORMAT), &signed(last)])?;
        Ok(())
    })
}

/// The error for a format that is not ours. There is none before the first yet.
pub(super) fn unknown_format(found: i64) -> LedgerError {
    LedgerError::NewerFormat { found: u32::try_from(found).unwrap_or(0) }
}

/// Adds what came to this format later.
fn complete(session: &mut Session) -> Result<(), LedgerError> {
    session.script(COMPLETE, PREPARE_TIMEOUT)?;
    session.script(mirror::SCHEMA, PREPARE_TIMEOUT)?;
    Ok(session.script(&suppressions::schema(), PREPARE_TIMEOUT)?)
}

/// Whether what came to this format later is there: the column of the audit trail that says what an act changed, and the
/// counts of what was accepted, the numbers that were given, what tells the ledger from others, what it has copies of, and
/// the counts and changes of suppressions. Earlier versions of it do without, name the columns that they read and write,
/// and go on beside us; what these store is not counted as accepted.
fn is_complete(session: &mut Session) -> Result<bool, LedgerError> {
    let there = "SELECT FROM pg_attribute WHERE attname = 'detail' AND NOT attisdropped
                     AND attrelid = to_regclass('postrail_ledger.audit')
                     AND to_regclass('postrail_ledger.accepted') IS NOT NULL
                     AND to_regclass('postrail_ledger.given') IS NOT NULL
                     AND to_regclass('postrail_ledger.identity') IS NOT NULL
                     AND to_regclass('postrail_ledger.mirror') IS NOT NULL
                     AND to_regclass('postrail_ledger.suppression_head') IS NOT NULL";
    Ok(!session.query(there, &[])?.is_empty())
}

/// Whether the tables are there, and ours.
fn is_ready(session: &mut Session, installation: u128) -> Result<bool, LedgerError> {
    // A look at the catalogue, which sees what was committed while we waited; a look-up by name may not.
    let there =
        session.query("SELECT FROM pg_tables WHERE schemaname = 'postrail_ledger' AND tablename = 'head'", &[])?;
    if there.is_empty() {
        return Ok(false);
    }
    // An older or newer format may have other columns.
    let format = session.query("SELECT format FROM postrail_ledger.head", &[])?.first().map_or(0, |row| row.get(0));
    if format != i64::from(FORMAT) && format != MOVING {
        return Err(unknown_format(format));
    }
    let owner = session.query("SELECT installation FROM postrail_ledger.head", &[])?;
    if owner.first().is_none_or(|row| row.get::<_, Uuid>(0) != Uuid(installation)) {
        return Err(PostgresError::OtherInstallation { server: Arc::clone(session.server_name()) }.into());
    }
    if format == MOVING {
        return Err(PostgresError::MoveUnfinished { server: Arc::clone(session.server_name()) }.into());
    }
    Ok(true)
}

/// The format of tables that a ledger is being moved into.
const MOVING: i64 = 0;

/// For making tables, and for waiting for another who does.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);

/// The advisory lock under which tables are made; the number has no meaning.
const SCHEMA_LOCK: i64 = 0x706f_7374_7363_6865;

/// See [`is_complete`]. It changes the catalogue only, however long the trail is.
const COMPLETE: &str = "
    ALTER TABLE postrail_ledger.audit ADD COLUMN IF NOT EXISTS detail text NOT NULL DEFAULT '';
    CREATE TABLE IF NOT EXISTS postrail_ledger.accepted (
        day bigint NOT NULL, tenant bigint NOT NULL, host bigint NOT NULL, recipients bigint NOT NULL,
        sequence bigint NOT NULL, PRIMARY KEY (day, tenant, host)
    ) WITH (fillfactor = 50);
    CREATE TABLE IF NOT EXISTS postrail_ledger.given (kind text PRIMARY KEY, last bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS postrail_ledger.identity (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), id uuid NOT NULL DEFAULT gen_random_uuid(), moved_from uuid
    );
    INSERT INTO postrail_ledger.identity DEFAULT VALUES ON CONFLICT DO NOTHING;
";

/// What is in a chunk does not shrink by much, so compressing it costs more than it saves. Rows of recipients are written
/// when mail is accepted and again when it is delivered: the room left in their pages lets the second be put beside the
/// first.
const SCHEMA: &str = "
    CREATE SCHEMA IF NOT EXISTS postrail_ledger;
    CREATE TABLE head (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), format bigint NOT NULL, installation uuid NOT NULL,
        last bigint NOT NULL
    );
    CREATE TABLE events (
        first bigint PRIMARY KEY, count integer NOT NULL, tenants bytea NOT NULL, links bytea NOT NULL,
        body bytea NOT NULL
    );
    ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL;
    CREATE TABLE recipients (
        message uuid NOT NULL, part smallint NOT NULL, events bytea NOT NULL, PRIMARY KEY (message, part)
    ) WITH (fillfactor = 75);
    CREATE TABLE cursors (
        host bigint NOT NULL, shard integer NOT NULL, segment bigint NOT NULL, position bigint NOT NULL,
        PRIMARY KEY (host, shard)
    ) WITH (fillfactor = 50);
    CREATE TABLE unread (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, host bigint NOT NULL, shard integer NOT NULL,
        segment bigint NOT NULL, position bigint NOT NULL, body bytea NOT NULL
    );
    CREATE TABLE suppressions (
        tenant bigint NOT NULL, address text COLLATE \"C\" NOT NULL, reason text NOT NULL, created_ms bigint NOT NULL,
        PRIMARY KEY (tenant, address)
    );
    CREATE TABLE audit (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at_ms bigint NOT NULL, actor text NOT NULL,
        action text NOT NULL, status integer NOT NULL DEFAULT 0
    );
";
