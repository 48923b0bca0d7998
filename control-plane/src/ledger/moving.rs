//! Moving a ledger from its file into a PostgreSQL database, as rows: what is in them is the same in both.
//!
//! ```text
//! head.format = 0 -> events, recipients, unread, suppressions, mirrored, audit, accepted: ascending, behind what is there -> counted
//!                    on both sides -> cursors, what was given, and head.format = FORMAT, in one transaction
//! ```
//!
//! Invariants worth naming: a move that was cut short goes on behind the last row that was committed, so that no row is
//! there twice; the database is a ledger of its own (`Ledger::id`), so that the file that stays behind never passes for it;
//! while it is not finished, no control plane opens the database, and cursors come last, so that nobody takes
//! half of it for the whole; a move that was finished and is asked for again, since who moved was killed before it could say
//! so, is done. Absent here: whoever writes the file meanwhile; the caller has the data folder to itself.

use std::path::Path;
use std::sync::Arc;

use postrail_schema::day::Day;
use postrail_schema::ids::{HostId, TenantId};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use tokio_postgres::types::ToSql;

use super::postgres::{Server, Session, SessionRows, Uuid, finish_move, prepare_move, was_moved};
use super::rows::{ChunkRow, PartKey, PartRow, WriteRows};
use super::sqlite::last_sequence;
use super::{AcceptedCount, Ledger, LedgerError, PostgresAddress, PostgresError, SqliteLedger};

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoveProgress {
    /// What is being moved, in a word for people.
    pub what: &'static str,
    /// Rows of it that are there.
    pub done: u64,
    /// Rows of it in all.
    pub all: u64,
}

/// Moves what the file at `from` has; the rows of each kind. `progress` is told after every transaction.
///
/// # Errors
/// The file cannot be read, or the server fails; [`PostgresError::Occupied`] where it has another
/// ledger.
pub(crate) fn move_ledger(
    from: &Path,
    to: &PostgresAddress,
    installation: u128,
    mut progress: impl FnMut(MoveProgress),
) -> Result<Vec<MoveProgress>, LedgerError> {
    // A file of an earlier format becomes one of this first.
    let file = SqliteLedger::open(from)?;
    let (id, given) = (file.id()?, file.given()?);
    drop(file);
    let source = Connection::open(from)?;
    let server = Arc::new(Server::new(to)?);
    let mut target = Session::connect(&server)?;
    match prepare_move(&mut target, installation) {
        Err(error @ LedgerError::Postgres(PostgresError::Occupied { .. })) => {
            return moved_before(&source, &mut target, id)?.ok_or(error);
        }
        prepared => prepared?,
    }
    for kind in KINDS {
        let all = count(&source, kind)?;
        let mut done = kind.counted(&mut target)?;
        progress(MoveProgress { what: kind.what, done, all });
        loop {
            let moved = target.transaction(|target| (kind.page)(&source, target))?;
            if moved == 0 {
                break;
            }
            done += moved;
            progress(MoveProgress { what: kind.what, done, all });
        }
    }
    let moved = KINDS.iter().map(|kind| kind.compared(&source, &mut target)).collect::<Result<Vec<_>, _>>()?;
    let cursors = read(&source, "SELECT host, shard, segment, offset FROM cursors", [])?;
    let cursors = cursors.iter().map(|row| Ok([int(row, 0)?, int(row, 1)?, int(row, 2)?, int(row, 3)?]));
    let last = last_sequence(&source)?;
    finish_move(&mut target, id, &cursors.collect::<Result<Vec<_>, LedgerError>>()?, &given, last)?;
    Ok(moved)
}

/// The rows of each kind, where all of the file is in the database already, and nothing more.
fn moved_before(
    source: &Connection,
    target: &mut Session,
    from: u128,
) -> Result<Option<Vec<MoveProgress>>, LedgerError> {
    if !was_moved(target, from)? {
        return Ok(None);
    }
    match KINDS.iter().map(|kind| kind.compared(source, target)).collect() {
        Err(LedgerError::Miscounted { .. }) => Ok(None),
        moved => moved.map(Some),
    }
}

/// A table of rows that only grows while it is moved.
struct Kind {
    what: &'static str,
    table: &'static str,
    /// The number of rows and what they hold, in each database's words.
    there: [&'static str; 2],
    /// Moves the rows that follow what is there, up to a bound; how many.
    page: fn(&Connection, &mut Session) -> Result<u64, LedgerError>,
}

impl Kind {
    /// The rows that are there.
    fn counted(&self, target: &mut Session) -> Result<u64, LedgerError> {
        Ok(unsigned(&target.query(self.there[1], &[])?[0].get::<_, i64>(0)))
    }

    /// The rows, once both sides have the same number with the same content in octets.
    fn compared(&self, source: &Connection, target: &mut Session) -> Result<MoveProgress, LedgerError> {
        let from = source.query_row(self.there[0], [], |row| Ok([row.get::<_, i64>(0)?, row.get(1)?]))?;
        let row = &target.query(self.there[1], &[])?[0];
        let to: [i64; 2] = [row.get(0), row.get(1)];
        if from != to {
            return Err(LedgerError::Miscounted { table: self.table, from, to });
        }
        Ok(MoveProgress { what: self.what, done: unsigned(&to[0]), all: unsigned(&from[0]) })
    }
}

const KINDS: &[Kind] = &[
    Kind {
        what: "chunks of events",
        table: "events",
        there: [
            "SELECT count(*), ifnull(sum(count * 16 + length(body) + length(links)), 0) FROM events",
            "SELECT count(*), coalesce(sum(count * 16 + length(body) + length(links)), 0)::bigint FROM events",
        ],
        page: events,
    },
    Kind {
        what: "groups of recipients",
        table: "recipients",
        there: [
            "SELECT count(*), ifnull(sum(length(events)), 0) FROM recipients",
            "SELECT count(*), coalesce(sum(length(events)), 0)::bigint FROM recipients",
        ],
        page: recipients,
    },
    Kind {
        what: "unread pieces of journals",
        table: "unread",
        there: [
            "SELECT count(*), ifnull(sum(length(body)), 0) FROM unread",
            "SELECT count(*), coalesce(sum(length(body)), 0)::bigint FROM unread",
        ],
        page: unread,
    },
    Kind {
        what: "suppressions",
        table: "suppressions",
        there: [
            "SELECT count(*), ifnull(sum(length(CAST(address AS BLOB))), 0) FROM suppressions",
            "SELECT count(*), coalesce(sum(octet_length(address)), 0)::bigint FROM suppressions",
        ],
        page: suppressions,
    },
    Kind {
        what: "suppressions that are copies",
        table: "mirrored",
        there: [
            "SELECT count(*), ifnull(sum(length(CAST(address AS BLOB))), 0) FROM mirrored",
            "SELECT count(*), coalesce(sum(octet_length(address)), 0)::bigint FROM mirrored",
        ],
        page: mirrored,
    },
    Kind {
        what: "records of the audit trail",
        table: "audit",
        there: [
            "SELECT count(*), ifnull(sum(length(CAST(action || detail AS BLOB))), 0) FROM audit",
            "SELECT count(*), coalesce(sum(octet_length(action || detail)), 0)::bigint FROM audit",
        ],
        page: audit,
    },
    Kind {
        what: "counts of what was accepted",
        table: "accepted",
        there: [
            "SELECT count(*), ifnull(sum(recipients), 0) FROM accepted",
            "SELECT count(*), coalesce(sum(recipients), 0)::bigint FROM accepted",
        ],
        page: accepted,
    },
];

fn events(source: &Connection, target: &mut Session) -> Result<u64, LedgerError> {
    let last: i64 = target.query("SELECT coalesce(max(first), -1) FROM events", &[])?[0].get(0);
    let sql = "SELECT first, count, tenants, links, body FROM events WHERE first > ?1 ORDER BY first LIMIT 256";
    let page = read(source, sql, [last.into()])?;
    let mut rows = SessionRows::new(target);
    for row in &page {
        let (first, count) = (unsigned(&int(row, 0)?), unsigned(&int(row, 1)?));
        rows.put_chunk(ChunkRow { first, count, tenants: blob(row, 2)?, links: blob(row, 3)?, body: blob(row, 4)? })?;
    }
    rows.flush()?;
    Ok(page.len() as u64)
}

fn recipients(source: &Connection, target: &mut Session) -> Result<u64, LedgerError> {
    let sql = "SELECT message, part FROM recipients ORDER BY message DESC, part DESC LIMIT 1";
    let last = target.query(sql, &[])?;
    let last =
        last.first().map(|row| (row.get::<_, Uuid>(0).0.to_be_bytes().to_vec(), i64::from(row.get::<_, i16>(1))));
    let (message, part) = last.unwrap_or((Vec::new(), -1));
    let sql = "SELECT message, part, events FROM recipients WHERE (message, part) > (?1, ?2)
               ORDER BY message, part LIMIT 4096";
    let page = read(source, sql, [message.into(), part.into()])?;
    let part_row = |row: &'_ [Value]| -> Result<(PartKey, usize), LedgerError> {
        let message = blob(row, 0)?.try_into().map(u128::from_be_bytes).map_err(|_| unreadable("recipients"))?;
        let part = u16::try_from(int(row, 1)?).map_err(|_| unreadable("recipients"))?;
        Ok((PartKey { message, part }, 2))
    };
    let mut parts = Vec::with_capacity(page.len());
    for row in &page {
        let (key, at) = part_row(row)?;
        parts.push(PartRow { key, events: blob(row, at)?, stored: false });
    }
    SessionRows::new(target).put_parts(&parts)?;
    Ok(page.len() as u64)
}

fn unread(source: &Connection, target: &mut Session) -> Result<u64, LedgerError> {
    let last: i64 = target.query("SELECT coalesce(max(seq), -1) FROM unread", &[])?[0].get(0);
    let sql = "SELECT seq, host, shard, segment, offset, body FROM unread WHERE seq > ?1 ORDER BY seq LIMIT 256";
    each(source, target, sql, [last.into()], |target, row| {
        let shard = i32::try_from(int(row, 2)?).map_err(|_| unreadable("unread"))?;
        let values: [&(dyn ToSql + Sync); 6] =
            [&int(row, 0)?, &int(row, 1)?, &shard, &int(row, 3)?, &int(row, 4)?, &blob(row, 5)?];
        target.execute(
            "INSERT INTO unread (seq, host, shard, segment, position, body) OVERRIDING SYSTEM VALUE
             VALUES ($1, $2, $3, $4, $5, $6)",
            &values,
        )?;
        Ok(())
    })
}

fn suppressions(source: &Connection, target: &mut Session) -> Result<u64, LedgerError> {
    let last =
        target.query("SELECT tenant, address FROM suppressions ORDER BY tenant DESC, address DESC LIMIT 1", &[])?;
    let (tenant, address) = last.first().map_or((-1, String::new()), |row| (row.get::<_, i64>(0), row.get(1)));
    let sql = "SELECT tenant, address, reason, created_ms FROM suppressions WHERE (tenant, address) > (?1, ?2)
               ORDER BY tenant, address LIMIT 4096";
    let page = read(source, sql, [tenant.into(), address.into()])?;
    let (mut tenants, mut addresses, mut reasons, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in &page {
        tenants.push(int(row, 0)?);
        addresses.push(text(row, 1)?);
        reasons.push(text(row, 2)?);
        times.push(int(row, 3)?);
    }
    target.execute(
        "INSERT INTO suppressions (tenant, address, reason, created_ms)
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[])",
        &[&tenants, &addresses, &reasons, &times],
    )?;
    Ok(page.len() as u64)
}

/// Also that all of them are here.
fn mirrored(source: &Connection, target: &mut Session) -> Result<u64, LedgerError> {
    for row in &read(source, "SELECT completed_ms FROM mirror", [])? {
        let sql = "INSERT INTO mirror (completed_ms) VALUES ($1) ON CONFLICT DO NOTHING";
        target.execute(sql, &[&int(row, 0)?])?;
    }
    let last = target.query("SELECT tenant, address FROM mirrored ORDER BY tenant DESC, address DESC LIMIT 1", &[])?;
    let (tenant, address) = last.first().map_or((-1, String::new()), |row| (row.get::<_, i64>(0), row.get(1)));
    let sql =
        "SELECT tenant, address FROM mirrored WHERE (tenant, address) > (?1, ?2) ORDER BY tenant, address LIMIT 4096";
    let page = read(source, sql, [tenant.into(), address.into()])?;
    let (mut tenants, mut addresses) = (Vec::new(), Vec::new());
    for row in &page {
        tenants.push(int(row, 0)?);
        addresses.push(text(row, 1)?);
    }
    let sql = "INSERT INTO mirrored (tenant, address) SELECT * FROM unnest($1::bigint[], $2::text[])";
    target.execute(sql, &[&tenants, &addresses])?;
    Ok(page.len() as u64)
}

fn audit(source: &Connection, target: &mut Session) -> Result<u64, LedgerError> {
    let last: i64 = target.query("SELECT coalesce(max(seq), -1) FROM audit", &[])?[0].get(0);
    let sql = "SELECT seq, at_ms, actor, action, status, detail FROM audit WHERE seq > ?1 ORDER BY seq LIMIT 4096";
    each(source, target, sql, [last.into()], |target, row| {
        let status = i32::try_from(int(row, 4)?).map_err(|_| unreadable("audit"))?;
        let values: [&(dyn ToSql + Sync); 6] =
            [&int(row, 0)?, &int(row, 1)?, &text(row, 2)?, &text(row, 3)?, &status, &text(row, 5)?];
        target.execute(
            "INSERT INTO audit (seq, at_ms, actor, action, status, detail) OVERRIDING SYSTEM VALUE
             VALUES ($1, $2, $3, $4, $5, $6)",
            &values,
        )?;
        Ok(())
    })
}

fn accepted(source: &Connection, target: &mut Session) -> Result<u64, LedgerError> {
    let sql = "SELECT day, tenant, host FROM accepted ORDER BY day DESC, tenant DESC, host DESC LIMIT 1";
    let last = target.query(sql, &[])?;
    let last = last.first().map_or([-1; 3], |row| [0, 1, 2].map(|at| row.get::<_, i64>(at)));
    let sql = "SELECT day, tenant, host, recipients, sequence FROM accepted WHERE (day, tenant, host) > (?1, ?2, ?3)
               ORDER BY day, tenant, host LIMIT 4096";
    let page = read(source, sql, last.map(Value::from))?;
    let id = |row: &[Value], at| u32::try_from(int(row, at)?).map_err(|_| unreadable("accepted"));
    let count = |row: &Vec<Value>| -> Result<AcceptedCount, LedgerError> {
        let (tenant, host) = (TenantId(id(row, 1)?), HostId(id(row, 2)?));
        let [day, recipients, sequence] = [int(row, 0)?, int(row, 3)?, int(row, 4)?].map(|number| unsigned(&number));
        Ok(AcceptedCount { day: Day(day), tenant, host, recipients, sequence })
    };
    let counts = page.iter().map(count).collect::<Result<Vec<_>, _>>()?;
    let mut rows = SessionRows::new(target);
    rows.put_accepted(&counts)?;
    rows.flush()?;
    Ok(page.len() as u64)
}

/// Gives `put` each row of a page; how many there were.
fn each<const N: usize>(
    source: &Connection,
    target: &mut Session,
    sql: &str,
    values: [Value; N],
    put: impl Fn(&mut Session, &[Value]) -> Result<(), LedgerError>,
) -> Result<u64, LedgerError> {
    let page = read(source, sql, values)?;
    page.iter().try_for_each(|row| put(target, row))?;
    Ok(page.len() as u64)
}

fn count(source: &Connection, kind: &Kind) -> Result<u64, LedgerError> {
    Ok(source.query_row(kind.there[0], [], |row| row.get(0))?)
}

fn read<const N: usize>(source: &Connection, sql: &str, values: [Value; N]) -> Result<Vec<Vec<Value>>, LedgerError> {
    let mut select = source.prepare_cached(sql)?;
    let columns = select.column_count();
    let rows = select.query_map(params_from_iter(values), |row| (0..columns).map(|at| row.get(at)).collect())?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn int(row: &[Value], at: usize) -> Result<i64, LedgerError> {
    match row.get(at) {
        Some(Value::Integer(number)) => Ok(*number),
        _ => Err(unreadable("a number")),
    }
}

fn blob(row: &[Value], at: usize) -> Result<&[u8], LedgerError> {
    match row.get(at) {
        Some(Value::Blob(octets)) => Ok(octets),
        _ => Err(unreadable("octets")),
    }
}

fn text(row: &[Value], at: usize) -> Result<&str, LedgerError> {
    match row.get(at) {
        Some(Value::Text(text)) => Ok(text),
        _ => Err(unreadable("a text")),
    }
}

fn unreadable(what: &'static str) -> LedgerError {
    LedgerError::Unreadable { what }
}

fn unsigned(number: &i64) -> u64 {
    u64::try_from(*number).unwrap_or(0)
}
