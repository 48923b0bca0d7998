//! What SQLite brings with it: a file, and columns that may hold anything.

use postrail_schema::event::EventKind;
use postrail_schema::ids::{HostId, ShardId};

use super::super::suite::{Backend, Edit, World};
use super::*;

/// A ledger in a folder of its own.
struct Folder(tempfile::TempDir);

/// An empty world for the suite.
pub(in super::super) fn world() -> World {
    World::new(Folder(tempfile::tempdir().unwrap()))
}

impl Folder {
    fn path(&self) -> PathBuf {
        self.0.path().join("ledger.db")
    }

    fn connection(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
    }
}

impl Backend for Folder {
    fn try_open(&self) -> Result<Box<dyn Ledger>, LedgerError> {
        Ok(Box::new(SqliteLedger::open(&self.path())?))
    }

    fn set_format(&self, format: u32) {
        self.connection().pragma_update(None, "user_version", format).unwrap();
    }

    fn number(&self, query: &str) -> u64 {
        self.connection().query_row(query, [], |row| row.get(0)).unwrap()
    }

    fn change(&self, statement: &str) {
        assert_eq!(self.connection().execute(statement, []).unwrap(), 1, "{statement}");
    }

    fn edit(&self, table: &str, column: &str, filter: &str, edit: Edit<'_>) {
        let connection = self.connection();
        let select = format!("SELECT {column} FROM {table} WHERE {filter}");
        let mut octets = connection.query_row(&select, [], |row| row.get(0)).unwrap();
        edit(&mut octets);
        let update = format!("UPDATE {table} SET {column} = ?1 WHERE {filter}");
        assert_eq!(connection.execute(&update, [octets]).unwrap(), 1);
    }

    fn forget_numbers(&self) {
        let statements =
            "DROP TRIGGER suppression_added; DROP TRIGGER suppression_removed; DROP TABLE suppression_head;
                          DROP TABLE suppression_counts; DROP TABLE suppression_changes;";
        self.connection().execute_batch(statements).unwrap();
    }

    fn fail_cursors(&self, fail: bool) {
        let trigger = if fail {
            "CREATE TRIGGER crash BEFORE INSERT ON cursors BEGIN SELECT raise(ABORT, 'power'); END"
        } else {
            "DROP TRIGGER crash"
        };
        self.connection().execute_batch(trigger).unwrap();
    }
}

#[test]
fn a_file_is_one_regions_once_it_has_one() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let belong_to = |region| SqliteLedger::open(&folder.path()).unwrap().belong_to(region);
    belong_to("").unwrap();
    belong_to("eu").unwrap();
    belong_to("eu").unwrap();
    for other in ["us", ""] {
        let error = belong_to(other).unwrap_err().to_string();
        assert!(error.contains("of region \"eu\"") && error.contains("--region"), "{error}");
    }
}

#[test]
fn a_column_of_another_type_is_an_error_with_its_place() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let ledger = folder.open();
    let accepted: Vec<_> =
        postrail_schema::wire::decode_events(include_bytes!("../../../../shared-schema/golden/events-1.bin"))
            .unwrap()
            .into_iter()
            .filter(|event| event.kind == EventKind::Accepted)
            .collect();
    let journal = JournalId { host: HostId::LOCAL, shard: ShardId(0) };
    ledger.record(journal, Cursor::default(), &Batch::of(&accepted, 1), Cursor { segment: 0, offset: 1 }).unwrap();
    let id = accepted[0].message;
    for (column, values) in [("links", ["7", "'x'"]), ("count", ["-1", "'x'"]), ("body", ["7", "'text'"])] {
        for value in values {
            folder.change(&format!("UPDATE events SET {column} = {value}"));
            let corrupt = |error: LedgerError| matches!(error, LedgerError::Corrupt { sequence: 1 });
            assert!(ledger.events(None, 0, 10).is_err_and(corrupt), "{column} = {value}");
            assert!(ledger.message(id).is_err_and(corrupt), "{column} = {value}");
        }
    }
    for damage in ["events = 7", "part = 'x'"] {
        folder.change(&format!("UPDATE recipients SET {damage}"));
        let corrupt = |error: LedgerError| matches!(error, LedgerError::CorruptRecipients { message } if message == id);
        assert!(ledger.message(id).is_err_and(corrupt), "{damage}");
    }
}

#[test]
fn what_is_said_to_be_suppressed_and_recorded_is_synced_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = SqliteLedger::open(&folder.path().join("ledger.db")).unwrap();
    let act = ledger.audit_begin(1, "operator", "POST /v2/suppressions").unwrap();
    // The log cannot be synced.
    ledger.path = folder.path().join("ledger.db").join("elsewhere");
    let suppression = Suppression { tenant: TenantId(1), address: "a@x.example".into() };
    let record = SuppressionRecord { suppression: suppression.clone(), reason: String::new(), created_ms: 1 };
    let acts = [
        ledger.suppress(&record, None).map(drop),
        ledger.suppress(&record, Some("")).map(drop),
        ledger.unsuppress(&suppression, None).map(drop),
        ledger.mirror(std::slice::from_ref(&record), &[]).map(drop),
        ledger.renumber_suppressions(),
        ledger.audit_detail(act, "{}"),
        ledger.audit_end(act, 201),
    ];
    for (at, done) in acts.into_iter().enumerate() {
        assert!(matches!(done, Err(LedgerError::Sync(_))), "{at}: {done:?}");
    }
}
