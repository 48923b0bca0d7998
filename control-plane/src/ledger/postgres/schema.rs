//! The tables, and their format.

use std::sync::Arc;
use std::time::Duration;

use super::super::{FORMAT, LedgerError};
use super::PostgresError;
use super::rows::Uuid;
use super::session::Session;

/// Makes the tables where there are none. Of several control planes that start at once, one does, and the others wait.
///
/// # Errors
/// The server fails or lets us not; [`LedgerError::NewerFormat`]; [`PostgresError::OtherInstallation`].
pub(super) fn prepare(session: &mut Session, installation: u128) -> Result<(), LedgerError> {
    if is_ready(session, installation)? {
        return Ok(());
    }
    session.transaction(|session| {
        let seconds = PREPARE_TIMEOUT.as_secs();
        let limits = format!("SET LOCAL lock_timeout TO '{seconds}s'; SET LOCAL statement_timeout TO '{seconds}s'");
        session.script(&limits, PREPARE_TIMEOUT)?;
        session.script(&format!("SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"), PREPARE_TIMEOUT)?;
        if is_ready(session, installation)? {
            return Ok(());
        }
        session.script(SCHEMA, PREPARE_TIMEOUT)?;
        let (format, id) = (i64::from(FORMAT), Uuid(installation));
        session.execute("INSERT INTO head (format, installation, last) VALUES ($1, $2, 0)", &[&format, &id])?;
        Ok(())
    })
}

/// The error for a format that is not ours. There is none before the first yet.
pub(super) fn unknown_format(found: i64) -> LedgerError {
    LedgerError::NewerFormat { found: u32::try_from(found).unwrap_or(0) }
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
    if format != i64::from(FORMAT) {
        return Err(unknown_format(format));
    }
    let owner = session.query("SELECT installation FROM postrail_ledger.head", &[])?;
    if owner.first().is_none_or(|row| row.get::<_, Uuid>(0) != Uuid(installation)) {
        return Err(PostgresError::OtherInstallation { server: Arc::clone(session.server_name()) }.into());
    }
    Ok(true)
}

/// For making tables, and for waiting for another who does.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);

/// The advisory lock under which tables are made; the number has no meaning.
const SCHEMA_LOCK: i64 = 0x706f_7374_7363_6865;

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
