//! The suite with a PostgreSQL server, and what only a server brings with it: it goes away, and others are there too.

pub(crate) mod counterpart;

use std::os::unix::net::UnixListener;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use postrail_schema::event::Event;
use postrail_schema::ids::{HostId, ShardId};
use tokio_postgres::types::Type;

use self::counterpart::Counterpart;
use super::super::suite::{Backend, CASES, Edit, World};
use super::super::{SqliteLedger, cost, move_ledger};
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

    fn forget_numbers(&self) {
        let statements =
            "DROP TRIGGER suppressions_added ON suppressions; DROP TRIGGER suppressions_removed ON suppressions;
                          DROP TABLE suppression_head, suppression_counts, suppression_changes;";
        self.session().script(statements, session::CALL_TIMEOUT).unwrap();
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
fn a_ledger_of_before_numbers_were_written_down_learns_them() {
    let counterpart = Counterpart::start();
    let database = Database::new(&counterpart);
    let former = database.open();
    database.session().script("DROP TABLE given", session::CALL_TIMEOUT).unwrap();
    let numbers = Given::from([("tenant".to_owned(), 7)]);
    assert!(database.open().give(&Given::new(), &numbers).unwrap());
    assert_eq!(database.open().given().unwrap(), numbers);
    former.audit_begin(5, "operator", "GET /").unwrap();
}

#[test]
fn a_ledger_of_before_there_were_identities_gets_one_and_keeps_it() {
    let counterpart = Counterpart::start();
    let database = Database::new(&counterpart);
    let former = database.open();
    database.session().script("DROP TABLE identity", session::CALL_TIMEOUT).unwrap();
    let id = database.open().id().unwrap();
    assert_eq!([database.open().id().unwrap(), former.id().unwrap()], [id, id]);
    assert_ne!(Database::new(&counterpart).open().id().unwrap(), id, "another database is another ledger");
}

#[test]
fn an_audit_trail_of_before_there_were_details_is_kept_and_gets_some() {
    let counterpart = Counterpart::start();
    let database = Database::new(&counterpart);
    let former = database.try_open().unwrap();
    let begun = former.audit_begin(5, "operator", "POST /v2/tenants").unwrap();
    database.session().script("ALTER TABLE audit DROP COLUMN detail", session::CALL_TIMEOUT).unwrap();
    for _ in 0..2 {
        let ledger = database.try_open().unwrap();
        assert_eq!(ledger.audit(0, 10).unwrap()[0].action, "POST /v2/tenants");
        ledger.audit_detail(begun, "{}").unwrap();
        assert_eq!(ledger.audit(0, 10).unwrap()[0].detail, "{}");
    }
    // Who is of that version goes on beside us.
    former.audit_end(begun, 201).unwrap();
    assert_eq!(database.number("SELECT count(*) FROM audit WHERE status = 201 AND detail = '{}'"), 1);
}

#[test]
fn a_ledger_of_before_there_were_counts_begins_to_count() {
    let counterpart = Counterpart::start();
    let database = Database::new(&counterpart);
    drop(database.open());
    database.session().script("DROP TABLE accepted", session::CALL_TIMEOUT).unwrap();
    let golden = postrail_schema::wire::decode_events(GOLDEN).unwrap();
    let next = Cursor { segment: 0, offset: 1 };
    database.open().record(MOVED, Cursor::default(), &Batch::of(&golden, 2), next).unwrap();
    let counts = database.open().accepted(Day::of_ms(golden[0].at_ms), None, 0).unwrap();
    assert_eq!(counts.iter().map(|count| (count.host, count.recipients)).collect::<Vec<_>>(), [(MOVED.host, 1)]);
}

/// A file with several pages of chunks, and some of everything else; the number of events.
fn filled(path: &std::path::Path) -> u64 {
    let file = SqliteLedger::open(path).unwrap();
    let golden = postrail_schema::wire::decode_events(GOLDEN).unwrap();
    let at = |offset| Cursor { segment: 3, offset };
    for n in 0..600 {
        let (message, tenant) = (MessageId::from_bits(u128::from(n) << 64), TenantId(1 + (n % 3) as u32));
        let accepted = Event { message, tenant, ..golden[0].clone() };
        file.record(MOVED, if n == 0 { Cursor::default() } else { at(n) }, &Batch::of(&[accepted], 1), at(n + 1))
            .unwrap();
    }
    let other = JournalId { host: HostId(2), shard: ShardId(1) };
    file.record(other, Cursor::default(), &Batch::read(b"noise".to_vec()), at(9)).unwrap();
    for n in 0..3 {
        let suppression = Suppression { tenant: TenantId(1), address: format!("ä{n}@receiver.example") };
        file.suppress(&SuppressionRecord { suppression, reason: "asked to".into(), created_ms: n }, None).unwrap();
        let begun = file.audit_begin(n, "operator", "POST /v2/tenants").unwrap();
        file.audit_detail(begun, r#"{"revision":2}"#).unwrap();
        file.audit_end(begun, 201).unwrap();
    }
    let suppression = Suppression { tenant: TenantId(1), address: "ä1@receiver.example".into() };
    file.mirror(&[SuppressionRecord { suppression, reason: "asked to".into(), created_ms: 1 }], &[]).unwrap();
    file.set_mirror_whole(5).unwrap();
    let numbers = [("tenant", 7), ("key", 2)].map(|(kind, last)| (kind.to_owned(), last));
    assert!(file.give(&Given::new(), &numbers.into()).unwrap());
    600
}

const MOVED: JournalId = JournalId { host: HostId(1), shard: ShardId(0) };

/// Everything that a ledger tells.
fn told(ledger: &dyn Ledger) -> impl PartialEq + std::fmt::Debug {
    let (mut events, mut cursor) = (Vec::new(), 0);
    loop {
        let page = ledger.events(None, cursor, 500).unwrap();
        events.extend(page.events);
        cursor = page.cursor;
        if !page.more {
            break;
        }
    }
    let message = MessageId::from_bits(7 << 64);
    let recipients = ledger.recipients(message, RecipientIndex(0), 10).unwrap();
    let trace = ledger.trace(message, None, 10).unwrap();
    let cursors = [MOVED, JournalId { host: HostId(2), shard: ShardId(1) }].map(|of| ledger.cursor(of).unwrap());
    let suppressions = (ledger.kept(None, 10).unwrap(), ledger.is_mirror_whole().unwrap());
    let golden = postrail_schema::wire::decode_events(GOLDEN).unwrap();
    let mut accepted = ledger.accepted(Day::of_ms(golden[0].at_ms), None, 0).unwrap();
    accepted.sort_unstable_by_key(|count| (count.tenant, count.host));
    assert_eq!(accepted.len(), 3);
    let audit = ledger.audit(0, 10).unwrap();
    (events, recipients, trace, cursors, suppressions, accepted, audit, ledger.given().unwrap())
}

#[test]
fn a_ledger_that_is_moved_from_its_file_tells_the_same_wherever_the_move_was_cut_short() {
    let counterpart = Counterpart::start();
    let database = Database::new(&counterpart);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let events = filled(&path);
    let refused = |wanted: &str| {
        let error = database.try_open().err().expect("a refusal").to_string();
        assert!(error.contains(wanted), "{error}");
    };
    // Each try gets one step further than the one before.
    let mut tries = 0;
    let moved = loop {
        let mut step = 0;
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            move_ledger(&path, &database.address, INSTALLATION, |_| {
                assert!(step < tries, "cut short");
                step += 1;
            })
        }));
        match tried {
            Ok(moved) => break moved.unwrap(),
            Err(_) => refused("was cut short: go on with `postrail move-ledger`"),
        }
        tries += 1;
        assert!(tries < 50, "it gets somewhere");
    };
    assert!(tries > 5, "{tries}");
    assert_eq!(
        moved.iter().map(|kind| (kind.done, kind.all)).collect::<Vec<_>>()[2..],
        [(1, 1), (3, 3), (1, 1), (3, 3), (3, 3)]
    );
    assert_eq!(database.number("SELECT sum(count) FROM events"), events);
    // Who was killed before it could say so asks again.
    assert_eq!(move_ledger(&path, &database.address, INSTALLATION, |_| {}).unwrap(), moved);
    let (file, ledger) = (SqliteLedger::open(&path).unwrap(), database.open());
    assert_eq!(told(&file), told(ledger.as_ref()));
    assert_ne!(file.id().unwrap(), ledger.id().unwrap(), "the file that stays behind is another ledger");
    // It goes on as the file would have.
    let next = Cursor { segment: 4, offset: 0 };
    let golden = postrail_schema::wire::decode_events(GOLDEN).unwrap();
    for ledger in [&file as &dyn Ledger, ledger.as_ref()] {
        let begun = ledger.cursor(MOVED).unwrap();
        let again = Event { message: MessageId::from_bits(0), ..golden[0].clone() };
        ledger.record(MOVED, begun, &Batch::of(&[again, golden[1].clone()], 2), next).unwrap();
        assert_eq!(ledger.audit_begin(9, "operator", "GET /").unwrap(), 4);
    }
    assert_eq!(told(&file), told(ledger.as_ref()));
    // Once the database has more than the file, it is another ledger to it.
    ledger.audit_begin(9, "operator", "GET /").unwrap();
    let error = move_ledger(&path, &database.address, INSTALLATION, |_| {}).unwrap_err().to_string();
    assert!(error.contains("there is a ledger at") && error.contains("into an empty database"), "{error}");
}

#[test]
fn a_move_that_does_not_add_up_is_not_finished() {
    let counterpart = Counterpart::start();
    let database = Database::new(&counterpart);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    filled(&path);
    let mut is_first = true;
    let error = move_ledger(&path, &database.address, INSTALLATION, |at| {
        if std::mem::take(&mut is_first) || at.done < 256 {
            return;
        }
        database.rows("DELETE FROM events WHERE first = 1 RETURNING 1", &[]);
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("of events, [600, ") && error.contains("[599, "), "{error}");
    assert!(database.try_open().is_err());
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
fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let _silent = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let path = folder.path().display().to_string().replace('/', "%2F");
    let address = PostgresAddress::parse(&format!("postgres://postrail@{path}/ledger"), None).unwrap();
    let begun = Instant::now();
    let refused = PostgresLedger::open(&address, INSTALLATION).err().expect("a refusal").to_string();
    assert!(refused.contains("has not answered within 5 s"), "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn batches_of_many_journals_are_stored_together_and_one_that_cannot_be_fails_alone() {
    const JOURNALS: u16 = 24;
    let counterpart = Counterpart::start();
    let database = Database::new(&counterpart);
    let ledger = database.open();
    let golden = postrail_schema::wire::decode_events(GOLDEN).unwrap();
    let at = |offset| Cursor { segment: 0, offset };
    let journal = |shard| JournalId { host: HostId(1), shard: ShardId(shard) };
    // A batch of its own mail for each journal; that of journal 0 meets a row that cannot be read.
    let batch = |shard: u16, step: u64| {
        let message = MessageId::new(1_000 + step, ShardId(shard), 7);
        Batch::of(&golden.iter().map(|event| Event { message, ..event.clone() }).collect::<Vec<_>>(), 16)
    };
    ledger.record(journal(0), at(0), &batch(0, 5), at(1)).unwrap();
    database.change("UPDATE recipients SET events = '\\x00'");
    drop(ledger);
    let ledger = database.open();
    let commits = || database.number("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()");
    let before = commits();
    let refused: usize = std::thread::scope(|scope| {
        let store = |shard: u16| {
            let ledger = &ledger;
            scope.spawn(move || match shard {
                0 => usize::from(ledger.record(journal(0), at(1), &batch(0, 5), at(2)).is_err()),
                _ => (0..10)
                    .filter(|step| {
                        ledger.record(journal(shard), at(*step), &batch(shard, *step), at(step + 1)).is_err()
                    })
                    .count(),
            })
        };
        let all: Vec<_> = (0..JOURNALS).map(store).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(refused, 1, "the one that meets the damage");
    let cursors: Vec<_> = (0..JOURNALS).map(|shard| ledger.cursor(journal(shard)).unwrap().offset).collect();
    assert_eq!(cursors, std::iter::once(1).chain((1..JOURNALS).map(|_| 10)).collect::<Vec<_>>());
    let stored = 1 + u64::from(JOURNALS - 1) * 10;
    assert_eq!(database.number("SELECT sum(count) FROM events"), stored * golden.len() as u64);
    assert_eq!(database.number("SELECT last FROM head"), stored * golden.len() as u64);
    println!("{} commits for {stored} batches", commits() - before);
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
    // Once the tables are there, the rights that the book names are enough.
    let ledger = database.open();
    let rights = "GRANT USAGE ON SCHEMA postrail_ledger TO guest;
                  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA postrail_ledger TO guest";
    database.session().script(rights, session::CALL_TIMEOUT).unwrap();
    drop(ledger);
    let guest = PostgresLedger::open(&counterpart.address_of("guest", "postgres"), INSTALLATION).unwrap();
    let journal = JournalId { host: HostId(1), shard: ShardId(0) };
    let golden = Batch::read(super::super::frames(&[GOLDEN, b"noise"]));
    guest.record(journal, Cursor::default(), &golden, Cursor { segment: 0, offset: 1 }).unwrap();
    let suppression = Suppression { tenant: TenantId(1), address: "a@receiver.example".into() };
    let record = SuppressionRecord { suppression, reason: "asked to".into(), created_ms: 1 };
    assert!(guest.suppress(&record, None).unwrap() && guest.unsuppress(&record.suppression, None).unwrap());
    let act = guest.audit_begin(1, "operator", "POST /").unwrap();
    guest.audit_end(act, 200).unwrap();
}

#[test]
fn mails_are_stored_in_postgresql_at_a_measured_cost() {
    let counterpart = Counterpart::start();
    for shape in cost::shapes() {
        let database = Database::new(&counterpart);
        let ledger = database.open();
        let beside = || cost::Beside {
            cpu_us: counterpart.cpu_us(),
            log_bytes: database.number("SELECT pg_current_wal_insert_lsn() - '0/0'"),
            disk_bytes: database.number("SELECT pg_database_size(current_database())"),
        };
        cost::measure("PostgreSQL", ledger.as_ref(), shape, &beside);
    }
}

const GOLDEN: &[u8] = include_bytes!("../../../../shared-schema/golden/events-1.bin");
