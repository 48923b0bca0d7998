//! The suite with a PostgreSQL server, and what only a server brings with it: it goes away, and others are there too.

mod counterpart;

use std::time::Duration;

use postrail_schema::ids::{HostId, ShardId};
use tokio_postgres::types::Type;

use self::counterpart::Counterpart;
use super::super::suite::{Backend, CASES, Edit, World};
use super::*;

const INSTALLATION: u128 = 7;

/// An empty ledger of the counterpart.
struct Database {
    address: PostgresAddress,
    /// For what the suite asks of the database itself.
    session: Mutex<Session>,
}

impl Database {
    fn new(counterpart: &Counterpart) -> Self {
        let address = counterpart.address();
        let mut session = Session::connect(&Arc::new(Server::new(&address).unwrap())).unwrap();
        session.script("DROP SCHEMA IF EXISTS postrail_ledger CASCADE", session::CALL_TIMEOUT).unwrap();
        Self { address, session: Mutex::new(session) }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap()
    }

    fn rows(&self, sql: &str, values: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> Vec<Row> {
        self.session().query(String::leak(sql.to_owned()), values).unwrap()
    }
}

impl Backend for Database {
    fn try_open(&self) -> Result<Box<dyn Ledger>, LedgerError> {
        Ok(Box::new(PostgresLedger::open(&self.address, INSTALLATION)?))
    }

    fn set_format(&self, format: u32) {
        self.change(&format!("UPDATE head SET format = {format}"));
    }

    fn number(&self, query: &str) -> u64 {
        let rows = self.rows(&format!("SELECT ({query})::bigint"), &[]);
        unsigned(rows[0].get(0))
    }

    fn change(&self, statement: &str) {
        assert_eq!(self.session().execute(String::leak(statement.to_owned()), &[]).unwrap(), 1, "{statement}");
    }

    fn edit(&self, table: &str, column: &str, filter: &str, edit: Edit<'_>) {
        let rows = self.rows(&format!("SELECT {column} FROM {table} WHERE {filter}"), &[]);
        assert_eq!((rows.len(), rows[0].columns()[0].type_()), (1, &Type::BYTEA));
        let mut octets = rows[0].get(0);
        edit(&mut octets);
        self.rows(&format!("UPDATE {table} SET {column} = $1 WHERE {filter} RETURNING 1"), &[&octets]);
    }

    fn fail_cursors(&self, fail: bool) {
        let statement = if fail {
            "ALTER TABLE cursors ADD CONSTRAINT crash CHECK (position < 0) NOT VALID"
        } else {
            "ALTER TABLE cursors DROP CONSTRAINT crash"
        };
        self.session().script(statement, session::CALL_TIMEOUT).unwrap();
    }
}

#[test]
fn postgresql_passes_the_suite_of_ledgers() {
    let counterpart = Counterpart::start();
    for (name, case) in CASES {
        println!("{name}");
        case(World::new(Database::new(&counterpart)));
    }
}

#[test]
fn control_planes_that_start_at_once_make_one_ledger_and_another_installation_is_refused() {
    let counterpart = Counterpart::start();
    let database = Database::new(&counterpart);
    let opened = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| database.try_open())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
    });
    for ledger in &opened {
        ledger.as_ref().map_err(ToString::to_string).unwrap().audit_begin(1, "operator", "GET /").unwrap();
    }
    assert_eq!(database.number("SELECT count(*) FROM audit"), 8);
    let other = PostgresLedger::open(&database.address, INSTALLATION + 1).err().expect("a refusal");
    assert!(other.to_string().ends_with("belongs to another installation; make a database for this one"), "{other}");
}

#[test]
fn a_server_that_dies_and_comes_back_fails_calls_and_loses_nothing() {
    let mut counterpart = Counterpart::start();
    let database = Database::new(&counterpart);
    let ledger = database.open();
    let journal = JournalId { host: HostId(1), shard: ShardId(0) };
    let at = |offset| Cursor { segment: 0, offset };
    let golden = postrail_schema::wire::decode_events(GOLDEN).unwrap();
    ledger.record(journal, at(0), &Batch::of(&golden[..1], 1), at(1)).unwrap();
    counterpart.kill();
    let second = Batch::of(&golden[1..], 1);
    for _ in 0..3 {
        let refused = [
            ledger.record(journal, at(1), &second, at(2)).expect_err("a dead server"),
            ledger.cursor(journal).expect_err("a dead server"),
            ledger.events(None, 0, 10).expect_err("a dead server"),
            ledger.audit_begin(1, "operator", "GET /").expect_err("a dead server"),
        ];
        for error in refused {
            let LedgerError::Postgres(told) = &error else { panic!("{error:?}") };
            assert!(told.ends_the_connection() && error.to_string().contains("PostgreSQL"), "{error}");
        }
    }
    counterpart.resume();
    // The pause after a connection that could not be made.
    let cursor = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        ledger.cursor(journal).ok()
    });
    assert_eq!(cursor, Some(at(1)));
    ledger.record(journal, at(1), &second, at(2)).unwrap();
    let events = ledger.events(None, 0, 10).unwrap().events;
    assert_eq!(events.into_iter().map(|recorded| recorded.event).collect::<Vec<_>>(), golden);
}

#[test]
fn who_is_not_let_in_is_told_why() {
    let counterpart = Counterpart::start();
    let url = |user: &str, database: &str| {
        let address = counterpart.address_of(user, database);
        PostgresLedger::open(&address, INSTALLATION).err().expect("a refusal").to_string()
    };
    assert!(
        url("nobody", "postgres").contains("refuses this user: role \"nobody\" does not exist"),
        "{}",
        url("nobody", "postgres")
    );
    assert!(url("postrail", "nothing").contains("make it with createdb"));
    let database = Database::new(&counterpart);
    database.session().script("CREATE ROLE guest LOGIN", session::CALL_TIMEOUT).unwrap();
    assert!(
        url("guest", "postgres").contains("make the user the owner of the database"),
        "{}",
        url("guest", "postgres")
    );
}
const GOLDEN: &[u8] = include_bytes!("../../../../shared-schema/golden/events-1.bin");
