//! Chunks and parts as rows of PostgreSQL tables. Many rows go to the server and come from it with one statement.

use bytes::BytesMut;
use postrail_schema::ids::{MessageId, TenantId};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use super::super::chunk::Chunk;
use super::super::rows::{ChunkRow, PartKey, PartRow, Rows, WriteRows};
use super::super::{AcceptedCount, LedgerError};
use super::session::{Session, signed, unsigned};

/// Rows by way of one connection. Chunks and counts wait to be written together; [`SessionRows::flush`] is the end of it.
pub(in super::super) struct SessionRows<'s> {
    session: &'s mut Session,
    waiting: Waiting,
}

/// Columns of chunks, and counts, that are not written yet.
#[derive(Default)]
struct Waiting {
    firsts: Vec<i64>,
    counts: Vec<i32>,
    tenants: Vec<Vec<u8>>,
    links: Vec<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
    bytes: usize,
    accepted: Vec<AcceptedCount>,
}

impl<'s> SessionRows<'s> {
    pub(in super::super) fn new(session: &'s mut Session) -> Self {
        Self { session, waiting: Waiting::default() }
    }

    /// Writes the chunks and counts that wait, in one statement: each is a way to the server and back.
    ///
    /// # Errors
    /// The server fails.
    pub(in super::super) fn flush(&mut self) -> Result<(), LedgerError> {
        if self.waiting.firsts.is_empty() && self.waiting.accepted.is_empty() {
            return Ok(());
        }
        let Waiting { firsts, counts, tenants, links, bodies, accepted, .. } = std::mem::take(&mut self.waiting);
        let column = |of: fn(&AcceptedCount) -> i64| accepted.iter().map(of).collect::<Vec<_>>();
        let days = column(|count| signed(count.day.0));
        let (owners, hosts) = (column(|count| count.tenant.0.into()), column(|count| count.host.0.into()));
        let (recipients, sequences) =
            (column(|count| signed(count.recipients)), column(|count| signed(count.sequence)));
        self.session.execute(
            "WITH counted AS (
                 INSERT INTO accepted (day, tenant, host, recipients, sequence)
                 SELECT * FROM unnest($6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
                 ON CONFLICT (day, tenant, host) DO UPDATE
                 SET recipients = accepted.recipients + excluded.recipients, sequence = excluded.sequence
             )
             INSERT INTO events (first, count, tenants, links, body)
             SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bytea[], $4::bytea[], $5::bytea[])",
            &[&firsts, &counts, &tenants, &links, &bodies, &days, &owners, &hosts, &recipients, &sequences],
        )?;
        Ok(())
    }
}

impl Rows for SessionRows<'_> {
    fn chunk_before(&mut self, sequence: u64) -> Result<Option<Chunk>, LedgerError> {
        self.flush()?;
        let rows = self.session.query(
            "SELECT first, count, links, body, ''::bytea FROM events WHERE first <= $1 ORDER BY first DESC LIMIT 1",
            &[&signed(sequence)],
        )?;
        rows.first().map(|row| Chunk::read(&chunk_row(row)?)).transpose()
    }

    fn chunks(
        &mut self,
        from: u64,
        tenant: Option<TenantId>,
        mut take: impl FnMut(ChunkRow<'_>) -> Result<bool, LedgerError>,
    ) -> Result<(), LedgerError> {
        let before = self
            .session
            .query("SELECT first FROM events WHERE first <= $1 ORDER BY first DESC LIMIT 1", &[&signed(from)])?;
        let mut begin = before.first().map_or(0, |row| row.get::<_, i64>(0));
        let named = tenant.map(|tenant| tenant.0.to_le_bytes());
        let named = named.as_ref().map(<[u8; 4]>::as_slice);
        let mut limit = 1;
        loop {
            // An empty list, or one that was cut, may stand for any tenant.
            let rows = self.session.query(
                "SELECT first, count, CASE WHEN told THEN links ELSE '' END, CASE WHEN told THEN body ELSE '' END, tenants
                 FROM (
                     SELECT *, $2::bytea IS NULL OR tenants = '' OR length(tenants) % 4 <> 0
                         OR position($2::bytea IN tenants) > 0 AS told
                     FROM events WHERE first >= $1 ORDER BY first LIMIT $3
                 ) AS page ORDER BY first",
                &[&begin, &named, &limit],
            )?;
            for row in &rows {
                let chunk = chunk_row(row)?;
                begin = signed(chunk.first.saturating_add(1));
                if !take(chunk)? {
                    return Ok(());
                }
            }
            if (rows.len() as i64) < limit {
                return Ok(());
            }
            limit = PAGE_CHUNKS;
        }
    }

    fn parts_of(
        &mut self,
        message: MessageId,
        from: u16,
        mut take: impl FnMut(u16, &[u8]) -> Result<bool, LedgerError>,
    ) -> Result<(), LedgerError> {
        let rows = self.session.query(
            "SELECT part, events FROM recipients WHERE message = $1 AND part >= $2 ORDER BY part",
            &[&Uuid(message.bits()), &part_number(from)],
        )?;
        for row in &rows {
            let number = u16::try_from(row.get::<_, i16>(0)).map_err(|_| LedgerError::CorruptRecipients { message })?;
            if !take(number, row.get(1))? {
                break;
            }
        }
        Ok(())
    }
}

impl WriteRows for SessionRows<'_> {
    fn newest_message(&mut self) -> Result<Option<u128>, LedgerError> {
        let newest = self.session.query("SELECT message FROM recipients ORDER BY message DESC LIMIT 1", &[])?;
        Ok(newest.first().map(|row| row.get::<_, Uuid>(0).0))
    }

    fn parts(
        &mut self,
        keys: &[PartKey],
        mut take: impl FnMut(PartKey, &[u8]) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        for some in keys.chunks(STATEMENT_PARTS) {
            let (messages, parts): (Vec<_>, Vec<_>) =
                some.iter().map(|key| (Uuid(key.message), part_number(key.part))).unzip();
            let rows = self.session.query(
                "SELECT message, part, events FROM unnest($1::uuid[], $2::smallint[]) AS wanted (message, part)
                 JOIN recipients USING (message, part)",
                &[&messages, &parts],
            )?;
            for row in &rows {
                let (Uuid(message), part): (_, i16) = (row.get(0), row.get(1));
                let corrupt = |_| LedgerError::CorruptRecipients { message: MessageId::from_bits(message) };
                take(PartKey { message, part: u16::try_from(part).map_err(corrupt)? }, row.get(2))?;
            }
        }
        Ok(())
    }

    fn put_chunk(&mut self, row: ChunkRow<'_>) -> Result<(), LedgerError> {
        let count = i32::try_from(row.count).unwrap_or(i32::MAX);
        self.waiting.firsts.push(signed(row.first));
        self.waiting.counts.push(count);
        self.waiting.tenants.push(row.tenants.to_vec());
        self.waiting.links.push(row.links.to_vec());
        self.waiting.bodies.push(row.body.to_vec());
        self.waiting.bytes += row.body.len();
        if self.waiting.bytes >= STATEMENT_BYTES { self.flush() } else { Ok(()) }
    }

    fn put_parts(&mut self, rows: &[PartRow<'_>]) -> Result<(), LedgerError> {
        let (stored, new): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.stored);
        // What is new is not to replace anything, so that the two are statements of their own.
        let adds = "INSERT INTO recipients (message, part, events)
                    SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::bytea[])";
        let replaces = "INSERT INTO recipients (message, part, events)
                        SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::bytea[])
                        ON CONFLICT (message, part) DO UPDATE SET events = excluded.events";
        for (rows, statement) in [(new, adds), (stored, replaces)] {
            for some in rows.chunks(STATEMENT_PARTS) {
                let messages: Vec<_> = some.iter().map(|row| Uuid(row.key.message)).collect();
                let parts: Vec<_> = some.iter().map(|row| part_number(row.key.part)).collect();
                let events: Vec<_> = some.iter().map(|row| row.events).collect();
                self.session.execute(statement, &[&messages, &parts, &events])?;
            }
        }
        Ok(())
    }

    fn put_accepted(&mut self, counts: &[AcceptedCount]) -> Result<(), LedgerError> {
        self.waiting.accepted.extend_from_slice(counts);
        Ok(())
    }
}

/// The chunk of a row of `first, count, links, body, tenants`.
fn chunk_row(row: &Row) -> Result<ChunkRow<'_>, LedgerError> {
    let first = unsigned(row.get(0));
    let count = u64::try_from(row.get::<_, i32>(1)).map_err(|_| LedgerError::Corrupt { sequence: first })?;
    Ok(ChunkRow { first, count, links: row.get(2), body: row.get(3), tenants: row.get(4) })
}

/// An index has 16 bits and a part 32 indices, so that its number fits.
fn part_number(part: u16) -> i16 {
    i16::try_from(part).unwrap_or(i16::MAX)
}

/// 128 bits as the server's type of that name, which shows a message's id as we do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Uuid(pub(in super::super) u128);

impl ToSql for Uuid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(UUID);
    to_sql_checked!();
}

impl<'r> FromSql<'r> for Uuid {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(u128::from_be_bytes(raw.try_into()?)))
    }

    accepts!(UUID);
}

/// Chunks that are read together, some 64 KiB each.
const PAGE_CHUNKS: i64 = 16;
/// Parts that one statement names.
const STATEMENT_PARTS: usize = 8_192;
/// Octets of events in one statement, and one chunk more.
const STATEMENT_BYTES: usize = 4 * 1024 * 1024;
