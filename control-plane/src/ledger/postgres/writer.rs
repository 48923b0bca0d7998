//! Storing batches: those that wait at the same time are stored in one transaction.
//!
//! ```text
//! callers -> queue -> the first caller whose turn it is stores for all that wait -> answers -> callers
//! ```
//!
//! A transaction costs some round trips and a sync of the server's log, however much it stores, and one runs at a time. So
//! with many journals each waits for the one before it and for its own, and not for every other.
//!
//! Invariants worth naming: a batch whose cursor moved fails alone; one that cannot be stored for what it holds fails
//! alone, since the others are then stored one by one; whoever stores gives an answer to each that it took, also when it
//! panics.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use postrail_schema::ids::{HostId, ShardId};

use super::super::parts::Parts;
use super::super::record::Recorder;
use super::super::{Batch, Cursor, FORMAT, JournalId, LedgerError};
use super::rows::SessionRows;
use super::session::{Server, Session, signed, unsigned};
use super::{PostgresError, schema};

/// See the module head.
pub(super) struct Writer {
    server: Arc<Server>,
    queue: Mutex<Queue>,
    answered: Condvar,
    connection: Mutex<Connection>,
}

/// A batch to be stored.
struct Asked {
    ticket: u64,
    journal: JournalId,
    begun: Cursor,
    batch: Batch,
    next: Cursor,
}

#[derive(Default)]
struct Queue {
    tickets: u64,
    waiting: VecDeque<Asked>,
    storing: bool,
    answers: BTreeMap<u64, Result<(), LedgerError>>,
}

impl Queue {
    /// The oldest that wait, one of each journal, as many as a transaction takes.
    fn take(&mut self) -> Vec<Asked> {
        let mut journals = BTreeSet::new();
        let (mut group, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        for asked in self.waiting.drain(..) {
            let fits = group.is_empty() || bytes + asked.batch.bytes() <= TRANSACTION_BYTES;
            if fits && journals.insert(asked.journal) {
                bytes += asked.batch.bytes();
                group.push(asked);
            } else {
                left.push_back(asked);
            }
        }
        self.waiting = left;
        group
    }
}

impl Writer {
    /// Begins with a connection that is there already.
    pub(super) fn new(server: Arc<Server>, session: Session) -> Self {
        let connection = Connection { session: Some(session), parts: Parts::default(), count: 1 };
        Self { server, queue: Mutex::default(), answered: Condvar::new(), connection: Mutex::new(connection) }
    }

    /// Stores a batch and its cursor, both or nothing.
    ///
    /// # Errors
    /// See [`super::Ledger::record`].
    pub(super) fn record(
        &self,
        journal: JournalId,
        begun: Cursor,
        batch: &Batch,
        next: Cursor,
    ) -> Result<(), LedgerError> {
        let batch = batch.clone();
        let mut queue = self.queue();
        queue.tickets += 1;
        let ticket = queue.tickets;
        queue.waiting.push_back(Asked { ticket, journal, begun, batch, next });
        loop {
            if let Some(answer) = queue.answers.remove(&ticket) {
                return answer;
            }
            if queue.storing {
                queue = self.answered.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.storing = true;
            let group = queue.take();
            drop(queue);
            let mut turn = Turn { writer: self, open: group.iter().map(|asked| asked.ticket).collect() };
            turn.answer(self.connection().store(&self.server, &group));
            drop(turn);
            queue = self.queue();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A panic within a transaction leaves a connection in the midst of it: the server undoes it when it is closed.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(|poisoned| {
            let mut connection = poisoned.into_inner();
            *connection = Connection { count: connection.count, ..Connection::default() };
            self.connection.clear_poison();
            connection
        })
    }
}

/// The right to store, and the duty to answer.
struct Turn<'w> {
    writer: &'w Writer,
    open: Vec<u64>,
}

impl Turn<'_> {
    fn answer(&mut self, answers: Vec<Result<(), LedgerError>>) {
        self.writer.queue().answers.extend(self.open.drain(..).zip(answers));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.writer.queue();
        queue.storing = false;
        for ticket in self.open.drain(..) {
            let server = Arc::clone(self.writer.server.name());
            queue.answers.insert(ticket, Err(PostgresError::StillAway { server }.into()));
        }
        drop(queue);
        self.writer.answered.notify_all();
    }
}

/// The connection that stores, while there is one.
#[derive(Default)]
struct Connection {
    session: Option<Session>,
    parts: Parts,
    /// Counts connections, so that what one has stored is not taken for the state that another finds.
    count: u64,
}

impl Connection {
    /// Stores what it can of a group; an answer for each.
    fn store(&mut self, server: &Arc<Server>, group: &[Asked]) -> Vec<Result<(), LedgerError>> {
        match self.store_together(server, group) {
            Ok(answers) => answers,
            Err(error) if group.len() == 1 => vec![Err(error)],
            Err(error) if error.is_away() => {
                let away = |_: &Asked| Err(PostgresError::StillAway { server: Arc::clone(server.name()) }.into());
                std::iter::once(Err(error)).chain(group.iter().skip(1).map(away)).collect()
            }
            Err(_) => group.iter().map(|asked| self.store_alone(server, asked)).collect(),
        }
    }

    fn store_alone(&mut self, server: &Arc<Server>, asked: &Asked) -> Result<(), LedgerError> {
        self.store_together(server, std::slice::from_ref(asked))?.pop().unwrap_or(Ok(()))
    }

    /// Stores a group but for those whose cursor moved; an error is one of all.
    fn store_together(
        &mut self,
        server: &Arc<Server>,
        group: &[Asked],
    ) -> Result<Vec<Result<(), LedgerError>>, LedgerError> {
        let Self { session, parts, count } = self;
        let session = match session {
            Some(open) if !open.is_broken() => open,
            _ => {
                *session = None;
                *count += 1;
                session.insert(Session::connect(server)?)
            }
        };
        let stored = session.transaction(|session| store(session, parts, *count, group));
        match stored {
            Ok((last, answers)) => {
                parts.committed(version(*count, last));
                Ok(answers)
            }
            Err(error) => {
                parts.forget();
                Err(error)
            }
        }
    }
}

/// Stores batches and their cursors within a transaction; the sequence that was given last, and an answer for each.
fn store(
    session: &mut Session,
    parts: &mut Parts,
    connection: u64,
    group: &[Asked],
) -> Result<(u64, Vec<Result<(), LedgerError>>), LedgerError> {
    let head = session.query("SELECT format, last FROM head FOR UPDATE", &[])?;
    let (format, last) = head.first().map_or((0, 0), |row| (row.get(0), unsigned(row.get(1))));
    if format != i64::from(FORMAT) {
        return Err(schema::unknown_format(format));
    }
    let cursors = cursors(session, group)?;
    let mut answers = Vec::with_capacity(group.len());
    let mut fresh = Vec::with_capacity(group.len());
    for asked in group {
        let (journal, begun) = (asked.journal, asked.begun);
        let stored = cursors.get(&journal).copied().unwrap_or_default();
        if stored == begun {
            fresh.push(asked);
            answers.push(Ok(()));
        } else {
            answers.push(Err(LedgerError::StaleCursor { journal, stored, begun }));
        }
    }
    let mut rows = SessionRows::new(session);
    let mut recorder = Recorder::begin(&mut rows, parts, version(connection, last), last)?;
    for asked in &fresh {
        recorder.add(asked.journal.host, &asked.batch)?;
    }
    let last = recorder.finish()?;
    rows.flush()?;
    put_unread(session, &fresh)?;
    put_cursors(session, &fresh, last)?;
    Ok((last, answers))
}

/// The cursors of the journals of a group; none for one that was never read.
fn cursors(session: &mut Session, group: &[Asked]) -> Result<BTreeMap<JournalId, Cursor>, LedgerError> {
    let (hosts, shards): (Vec<_>, Vec<_>) = group.iter().map(|asked| columns(asked.journal)).unzip();
    let rows = session.query(
        "SELECT host, shard, segment, position FROM unnest($1::bigint[], $2::integer[]) AS asked (host, shard)
         JOIN cursors USING (host, shard)",
        &[&hosts, &shards],
    )?;
    let found = rows.iter().filter_map(|row| {
        let host = HostId(u32::try_from(row.get::<_, i64>(0)).ok()?);
        let shard = ShardId(u16::try_from(row.get::<_, i32>(1)).ok()?);
        let cursor = Cursor { segment: unsigned(row.get(2)), offset: unsigned(row.get(3)) };
        Some((JournalId { host, shard }, cursor))
    });
    Ok(found.collect())
}

fn put_unread(session: &mut Session, fresh: &[&Asked]) -> Result<(), LedgerError> {
    for asked in fresh {
        let (host, shard) = columns(asked.journal);
        for body in asked.batch.unread() {
            session.execute(
                "INSERT INTO unread (host, shard, segment, position, body) VALUES ($1, $2, $3, $4, $5)",
                &[&host, &shard, &signed(asked.begun.segment), &signed(asked.begun.offset), &body],
            )?;
        }
    }
    Ok(())
}

fn put_cursors(session: &mut Session, fresh: &[&Asked], last: u64) -> Result<(), LedgerError> {
    let (hosts, shards): (Vec<_>, Vec<_>) = fresh.iter().map(|asked| columns(asked.journal)).unzip();
    let (segments, positions): (Vec<_>, Vec<_>) =
        fresh.iter().map(|asked| (signed(asked.next.segment), signed(asked.next.offset))).unzip();
    session.execute(
        "WITH given AS (UPDATE head SET last = $5 WHERE last <> $5)
         INSERT INTO cursors (host, shard, segment, position)
         SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[])
         ON CONFLICT (host, shard) DO UPDATE SET segment = excluded.segment, position = excluded.position",
        &[&hosts, &shards, &segments, &positions, &signed(last)],
    )?;
    Ok(())
}

/// A journal as the columns `host` and `shard`.
pub(super) fn columns(journal: JournalId) -> (i64, i32) {
    (i64::from(journal.host.0), i32::from(journal.shard.0))
}

/// What [`Parts`] compare: another one when another connection, or another process, has stored something.
fn version(connection: u64, last: u64) -> u64 {
    // No ledger has 2^48 events, and no process makes 2^16 connections that all begin at the same one.
    connection << 48 ^ last
}

/// Octets of the batches of one transaction, and one batch more.
const TRANSACTION_BYTES: usize = 8 * 1024 * 1024;
