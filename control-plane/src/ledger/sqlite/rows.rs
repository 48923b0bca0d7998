//! Chunks and parts as rows of SQLite tables.

use postrail_schema::ids::{MessageId, TenantId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::chunk::Chunk;
use super::super::rows::{ChunkRow, PartKey, PartRow, Rows, WriteRows};
use super::super::{AcceptedCount, LedgerError};

impl Rows for &Connection {
    fn chunk_before(&mut self, sequence: u64) -> Result<Option<Chunk>, LedgerError> {
        let mut select = self.prepare_cached(
            "SELECT first, count, links, body, x'' FROM events WHERE first <= ?1 ORDER BY first DESC LIMIT 1",
        )?;
        let mut rows = select.query([sequence])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Chunk::read(&chunk_row(row)?).map(Some)
    }

    fn chunks(
        &mut self,
        from: u64,
        _: Option<TenantId>,
        mut take: impl FnMut(ChunkRow<'_>) -> Result<bool, LedgerError>,
    ) -> Result<(), LedgerError> {
        let mut select = self.prepare_cached(
            "SELECT first, count, links, body, tenants FROM events
             WHERE first >= ifnull((SELECT first FROM events WHERE first <= ?1 ORDER BY first DESC LIMIT 1), 0)
             ORDER BY first",
        )?;
        let mut rows = select.query([i64::try_from(from).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            if !take(chunk_row(row)?)? {
                break;
            }
        }
        Ok(())
    }

    fn parts_of(
        &mut self,
        message: MessageId,
        from: u16,
        mut take: impl FnMut(u16, &[u8]) -> Result<bool, LedgerError>,
    ) -> Result<(), LedgerError> {
        let corrupt = |_| LedgerError::CorruptRecipients { message };
        let mut select =
            self.prepare_cached("SELECT part, events FROM recipients WHERE message = ?1 AND part >= ?2 ORDER BY part")?;
        let mut rows = select.query(params![message.bits().to_be_bytes(), from])?;
        while let Some(row) = rows.next()? {
            let number = row.get(0).map_err(corrupt)?;
            let events = row.get_ref(1)?.as_blob().map_err(|_| LedgerError::CorruptRecipients { message })?;
            if !take(number, events)? {
                break;
            }
        }
        Ok(())
    }
}

impl WriteRows for &Connection {
    fn newest_message(&mut self) -> Result<Option<u128>, LedgerError> {
        let mut newest = self.prepare_cached("SELECT max(message) FROM recipients")?;
        let found: Option<[u8; 16]> = newest.query_row([], |row| row.get(0))?;
        Ok(found.map(u128::from_be_bytes))
    }

    fn parts(
        &mut self,
        keys: &[PartKey],
        mut take: impl FnMut(PartKey, &[u8]) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let mut select = self.prepare_cached("SELECT events FROM recipients WHERE message = ?1 AND part = ?2")?;
        for key in keys {
            let found = select.query_row(params![key.message.to_be_bytes(), key.part], |row| {
                let corrupt = || LedgerError::CorruptRecipients { message: MessageId::from_bits(key.message) };
                Ok(row.get_ref(0)?.as_blob().map_err(|_| corrupt()).and_then(|events| take(*key, events)))
            });
            found.optional()?.transpose()?;
        }
        Ok(())
    }

    fn put_chunk(&mut self, row: ChunkRow<'_>) -> Result<(), LedgerError> {
        self.prepare_cached("INSERT INTO events (first, count, tenants, links, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![row.first, row.count, row.tenants, row.links, row.body])?;
        Ok(())
    }

    fn put_parts(&mut self, rows: &[PartRow<'_>]) -> Result<(), LedgerError> {
        let mut insert = self.prepare_cached("INSERT INTO recipients (message, part, events) VALUES (?1, ?2, ?3)")?;
        let mut update = self.prepare_cached("UPDATE recipients SET events = ?3 WHERE message = ?1 AND part = ?2")?;
        for row in rows {
            let statement = if row.stored { &mut update } else { &mut insert };
            statement.execute(params![row.key.message.to_be_bytes(), row.key.part, row.events])?;
        }
        Ok(())
    }

    fn put_accepted(&mut self, counts: &[AcceptedCount]) -> Result<(), LedgerError> {
        let mut add = self.prepare_cached(
            "INSERT INTO accepted (day, tenant, host, recipients, sequence) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (day, tenant, host)
             DO UPDATE SET recipients = recipients + excluded.recipients, sequence = excluded.sequence",
        )?;
        for AcceptedCount { day, tenant, host, recipients, sequence } in counts {
            add.execute(params![day.0, tenant.0, host.0, recipients, sequence])?;
        }
        Ok(())
    }
}

/// The chunk of a row of `first, count, links, body, tenants`.
fn chunk_row<'r>(row: &'r Row<'_>) -> Result<ChunkRow<'r>, LedgerError> {
    let first = row.get(0)?;
    let corrupt = || LedgerError::Corrupt { sequence: first };
    let blob = |at: usize| row.get_ref(at).ok().and_then(|value| value.as_blob().ok()).ok_or_else(corrupt);
    let count = row.get(1).map_err(|_| corrupt())?;
    Ok(ChunkRow { first, count, links: blob(2)?, body: blob(3)?, tenants: blob(4)? })
}
