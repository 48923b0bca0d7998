//! Ledgers of earlier formats, each brought to the present one in one transaction.
//!
//! - Format 1 held each event and each recipient's state in a row of its own. The events are stored again in the present
//!   form, in their order and with their sequences; suppressions and the audit trail stay as they are.
//! - Format 2 had the journals of one host only: cursors and unread octets did not name it.
//! - Format 3 had, at first, no details in the audit trail, no counts of what was accepted, did not know which numbers were
//!   given, and had no identity. They are a column and three tables more, and no other format: earlier versions go on with them, and what these
//!   store is not counted.

use postrail_schema::event::Event;
use postrail_schema::ids::HostId;
use postrail_schema::limits::EVENTS_BYTES_MAX;
use postrail_schema::wire::{decode_events, encode_events};
use rusqlite::{Connection, Transaction};

use super::super::parts::Parts;
use super::super::record::Recorder;
use super::super::{Batch, FORMAT, LedgerError};
use super::{SCHEMA, last_sequence, version};

/// Brings a ledger of format 1 to this one.
///
/// # Errors
/// The database fails, or a stored event cannot be read: then nothing is changed.
pub(super) fn from_format_1(connection: &mut Connection) -> Result<(), LedgerError> {
    let transaction = connection.transaction()?;
    transaction.execute_batch("ALTER TABLE events RENAME TO events_1; DROP TABLE recipients; DROP TABLE messages")?;
    name_the_host(&transaction)?;
    move_events(&transaction)?;
    transaction.execute_batch("DROP TABLE events_1")?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    Ok(())
}

/// Brings a ledger of format 2 to this one.
///
/// # Errors
/// The database fails: then nothing is changed.
pub(super) fn from_format_2(connection: &mut Connection) -> Result<(), LedgerError> {
    let transaction = connection.transaction()?;
    name_the_host(&transaction)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    Ok(())
}

/// Gives the audit trail the column that says what an act changed, where it has none: earlier versions of this format did
/// without, read their columns by name, and go on with a file that has it.
///
/// # Errors
/// The database fails.
pub(super) fn add_details(connection: &Connection) -> Result<(), rusqlite::Error> {
    let there = "SELECT count(*) FROM pragma_table_info('audit') WHERE name = 'detail'";
    match connection.query_row(there, [], |row| row.get::<_, u32>(0))? {
        0 => connection.execute_batch("ALTER TABLE audit ADD COLUMN detail TEXT NOT NULL DEFAULT ''"),
        _ => Ok(()),
    }
}

/// Makes the tables of this format; what was there of journals is the single process's own.
fn name_the_host(transaction: &Transaction<'_>) -> Result<(), rusqlite::Error> {
    let host = HostId::LOCAL;
    transaction.execute_batch("ALTER TABLE cursors RENAME TO cursors_2; ALTER TABLE unread RENAME TO unread_2")?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(&format!(
        "INSERT INTO cursors SELECT {host}, shard, segment, offset FROM cursors_2;
         INSERT INTO unread SELECT seq, {host}, shard, segment, offset, body FROM unread_2;
         DROP TABLE cursors_2;
         DROP TABLE unread_2;"
    ))
}

fn move_events(transaction: &Transaction<'_>) -> Result<(), LedgerError> {
    let mut parts = Parts::default();
    let mut select = transaction.prepare("SELECT seq, body FROM events_1 ORDER BY seq")?;
    let mut rows = select.query([])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let sequence = row.get(0)?;
        let body = row.get_ref(1)?.as_blob().map_err(|_| LedgerError::Corrupt { sequence })?;
        events.append(&mut decode_events(body).map_err(|_| LedgerError::Corrupt { sequence })?);
        if events.len() >= EVENTS_PER_BATCH {
            store(transaction, &mut parts, &mut events)?;
        }
    }
    store(transaction, &mut parts, &mut events)
}

fn store(transaction: &Transaction<'_>, parts: &mut Parts, events: &mut Vec<Event>) -> Result<(), LedgerError> {
    let mut body = Vec::new();
    for some in events.chunks(EVENTS_PER_BUFFER) {
        let buffer = encode_events(some);
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&buffer);
    }
    let version = version(transaction)?;
    let mut rows = &**transaction;
    let mut recorder = Recorder::begin(&mut rows, parts, version, last_sequence(transaction)?)?;
    recorder.add(HostId::LOCAL, &Batch::read(body))?;
    recorder.finish()?;
    // What follows sees it, within this transaction.
    parts.committed(version);
    events.clear();
    Ok(())
}

/// Events that are stored together, and in one buffer of them.
const EVENTS_PER_BATCH: usize = 4_096;
const EVENTS_PER_BUFFER: usize = 32;

const _: () =
    assert!(EVENTS_PER_BUFFER * 16 * 1024 <= EVENTS_BYTES_MAX, "a buffer with every text at its bound is read");

#[cfg(test)]
mod tests {
    use postrail_schema::day::Day;
    use postrail_schema::event::EventKind;
    use postrail_schema::ids::{MessageId, RecipientIndex, ShardId};
    use rusqlite::params;

    use super::super::super::{Cursor, Given, JournalId, Ledger, SuppressionRecord};
    use super::super::SqliteLedger;
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../../../../shared-schema/golden/events-1.bin");

    /// A ledger as format 1 wrote it, with these bodies of events.
    fn former(path: &std::path::Path, bodies: &[Vec<u8>]) {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE messages (id BLOB PRIMARY KEY) WITHOUT ROWID;
                 CREATE TABLE recipients (message BLOB NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (message, idx)) WITHOUT ROWID;
                 CREATE TABLE events (seq INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, previous INTEGER NOT NULL, body BLOB NOT NULL);
                 CREATE TABLE cursors (shard INTEGER PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL);
                 CREATE TABLE unread (seq INTEGER PRIMARY KEY, shard INTEGER NOT NULL, segment INTEGER NOT NULL,
                     offset INTEGER NOT NULL, body BLOB NOT NULL);
                 CREATE TABLE suppressions (tenant INTEGER NOT NULL, address TEXT NOT NULL, reason TEXT NOT NULL,
                     created_ms INTEGER NOT NULL, PRIMARY KEY (tenant, address)) WITHOUT ROWID;
                 INSERT INTO cursors VALUES (0, 3, 4096);
                 INSERT INTO suppressions VALUES (1, 'a@receiver.example', 'asked to', 5);
                 PRAGMA user_version = 1;",
            )
            .unwrap();
        for body in bodies {
            connection.execute("INSERT INTO events (tenant, previous, body) VALUES (1, 0, ?1)", params![body]).unwrap();
        }
    }

    #[test]
    fn a_ledger_of_format_1_keeps_its_events_cursors_and_suppressions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let events = decode_events(GOLDEN).unwrap();
        former(&path, &events.chunks(1).map(encode_events).collect::<Vec<_>>());
        for _ in 0..2 {
            let ledger = SqliteLedger::open(&path).unwrap();
            let page = ledger.events(None, 0, 10).unwrap();
            assert_eq!(page.events.iter().map(|recorded| recorded.sequence).collect::<Vec<_>>(), [1, 2]);
            assert_eq!(page.events.into_iter().map(|recorded| recorded.event).collect::<Vec<_>>(), events);
            assert_eq!(
                ledger.cursor(JournalId { host: HostId::LOCAL, shard: ShardId(0) }).unwrap(),
                Cursor { segment: 3, offset: 4_096 }
            );
            let kept: Vec<SuppressionRecord> = ledger.suppressions(None, None, 10).unwrap();
            assert_eq!(kept[0].suppression.address, "a@receiver.example");
            let recipients = ledger.recipients(events[0].message, RecipientIndex(0), 10).unwrap();
            assert_eq!((recipients[0].state, recipients[0].reply_code), (EventKind::Deferred, 451));
            assert_eq!(ledger.message(events[0].message).unwrap().unwrap().reference, "order-1");
            assert_eq!(ledger.message(MessageId::from_bits(1)).unwrap(), None);
        }
    }

    #[test]
    fn a_ledger_of_format_1_that_cannot_be_read_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        former(&path, &[GOLDEN.to_vec(), b"noise".to_vec()]);
        for _ in 0..2 {
            assert!(matches!(SqliteLedger::open(&path), Err(LedgerError::Corrupt { sequence: 2 })));
        }
        let left = Connection::open(&path).unwrap();
        let events: u32 = left.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
        assert_eq!(events, 2);
    }

    #[test]
    fn a_ledger_of_format_2_keeps_its_cursors_as_those_of_the_only_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        drop(SqliteLedger::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "DROP TABLE cursors; DROP TABLE unread;
                 CREATE TABLE cursors (shard INTEGER PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL);
                 CREATE TABLE unread (seq INTEGER PRIMARY KEY, shard INTEGER NOT NULL, segment INTEGER NOT NULL,
                     offset INTEGER NOT NULL, body BLOB NOT NULL);
                 INSERT INTO cursors VALUES (0, 3, 4096), (1, 2, 0);
                 INSERT INTO unread VALUES (7, 1, 2, 0, x'0102');
                 PRAGMA user_version = 2;",
            )
            .unwrap();
        for _ in 0..2 {
            let ledger = SqliteLedger::open(&path).unwrap();
            let at = |host, shard| ledger.cursor(JournalId { host: HostId(host), shard: ShardId(shard) }).unwrap();
            let moved = [at(0, 0), at(0, 1), at(1, 0)].map(|cursor| (cursor.segment, cursor.offset));
            assert_eq!(moved, [(3, 4_096), (2, 0), (0, 0)]);
            let unread = "SELECT seq * 100 + shard * 10 + length(body) FROM unread WHERE host = 0";
            assert_eq!(connection.query_row(unread, [], |row| row.get::<_, u32>(0)).unwrap(), 712);
        }
    }

    #[test]
    fn a_ledger_of_before_there_were_counts_begins_to_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        drop(SqliteLedger::open(&path).unwrap());
        Connection::open(&path).unwrap().execute_batch("DROP TABLE accepted").unwrap();
        let events = decode_events(GOLDEN).unwrap();
        let (day, journal) = (Day::of_ms(events[0].at_ms), JournalId { host: HostId::LOCAL, shard: ShardId(0) });
        let ledger = SqliteLedger::open(&path).unwrap();
        ledger.record(journal, Cursor::default(), &Batch::of(&events, 2), Cursor { segment: 0, offset: 1 }).unwrap();
        drop(ledger);
        let counts = SqliteLedger::open(&path).unwrap().accepted(day, None, 0).unwrap();
        assert_eq!(counts.iter().map(|count| (count.host, count.recipients)).collect::<Vec<_>>(), [(HostId::LOCAL, 1)]);
    }

    #[test]
    fn a_ledger_of_before_numbers_were_written_down_learns_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        drop(SqliteLedger::open(&path).unwrap());
        Connection::open(&path).unwrap().execute_batch("DROP TABLE given").unwrap();
        let numbers = Given::from([("tenant".to_owned(), 7)]);
        assert!(SqliteLedger::open(&path).unwrap().give(&Given::new(), &numbers).unwrap());
        assert_eq!(SqliteLedger::open(&path).unwrap().given().unwrap(), numbers);
    }

    #[test]
    fn an_audit_trail_of_before_there_were_details_is_kept_and_gets_some() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let begun = SqliteLedger::open(&path).unwrap().audit_begin(5, "operator", "POST /v2/tenants").unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("ALTER TABLE audit DROP COLUMN detail").unwrap();
        for _ in 0..2 {
            let ledger = SqliteLedger::open(&path).unwrap();
            assert_eq!(ledger.audit(0, 10).unwrap()[0].action, "POST /v2/tenants");
            ledger.audit_detail(begun, "{}").unwrap();
            assert_eq!(ledger.audit(0, 10).unwrap()[0].detail, "{}");
        }
    }
}
