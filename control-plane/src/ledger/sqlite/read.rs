//! Reading the ledger.

use postrail_schema::event::EventKind;
use postrail_schema::ids::{MessageId, RecipientIndex, RecipientKey, TenantId};
use postrail_schema::snapshot::Suppression;
use postrail_schema::wire::decode_events;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{AuditRecord, EventPage, LedgerError, Message, Recipient, Recorded, SuppressionRecord};
use super::CHAIN_EVENTS_MAX;

pub(super) fn message(connection: &Connection, id: MessageId) -> Result<Option<Message>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT tenant, accepted_ms, credential, domain, interface, reverse_path, bytes, reference, campaign,
                    cost_center, class, message_id_header, recipients
             FROM messages WHERE id = ?1",
        )?
        .query_row([id.bits().to_be_bytes().as_slice()], |row| {
            Ok(Message {
                id,
                tenant: TenantId(row.get(0)?),
                accepted_ms: row.get(1)?,
                credential: row.get(2)?,
                domain: row.get(3)?,
                interface: row.get(4)?,
                reverse_path: row.get(5)?,
                bytes: row.get(6)?,
                reference: row.get(7)?,
                campaign: row.get(8)?,
                cost_center: row.get(9)?,
                class: row.get(10)?,
                message_id_header: row.get(11)?,
                recipients: row.get(12)?,
            })
        })
        .optional()
}

pub(super) fn recipients(
    connection: &Connection,
    id: MessageId,
    from: RecipientIndex,
    limit: u32,
) -> Result<Vec<Recipient>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT idx, tenant, address, state, attempts, accepted_ms, changed_ms, settled_ms, next_attempt_ms,
                    reply_code, enhanced_status, reply, reason
             FROM recipients WHERE message = ?1 AND idx >= ?2 ORDER BY idx LIMIT ?3",
        )?
        .query_map(params![id.bits().to_be_bytes().as_slice(), from.0, limit], |row| {
            Ok(Recipient {
                key: RecipientKey { message: id, index: RecipientIndex(row.get(0)?) },
                tenant: TenantId(row.get(1)?),
                address: row.get(2)?,
                state: EventKind::from_tag(row.get(3)?).ok_or(rusqlite::Error::InvalidQuery)?,
                attempts: row.get(4)?,
                accepted_ms: row.get(5)?,
                changed_ms: row.get(6)?,
                settled_ms: row.get(7)?,
                next_attempt_ms: row.get(8)?,
                reply_code: row.get(9)?,
                enhanced_status: row.get(10)?,
                reply: row.get(11)?,
                reason: row.get(12)?,
            })
        })?
        .collect()
}

pub(super) fn events(
    connection: &Connection,
    tenant: Option<TenantId>,
    cursor: u64,
    limit: u32,
) -> Result<EventPage, LedgerError> {
    let mut page = EventPage { events: Vec::new(), cursor, more: false };
    let mut statement =
        connection.prepare_cached("SELECT seq, tenant, body FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = statement.query(params![cursor, SCANNED_EVENTS_MAX + 1])?;
    let mut scanned = 0;
    while let Some(row) = rows.next()? {
        if scanned == SCANNED_EVENTS_MAX || page.events.len() == limit as usize {
            page.more = true;
            break;
        }
        scanned += 1;
        page.cursor = row.get(0)?;
        if tenant.is_none_or(|tenant| row.get_ref(1).is_ok_and(|owner| owner.as_i64() == Ok(i64::from(tenant.0)))) {
            page.events.push(recorded(row, 0, 2)?);
        }
    }
    Ok(page)
}

pub(super) fn trace(
    connection: &Connection,
    id: MessageId,
    index: Option<RecipientIndex>,
    limit: u32,
) -> Result<Vec<Recorded>, LedgerError> {
    let id = id.bits().to_be_bytes();
    let (first, last) = index.map_or((0, u16::MAX), |index| (index.0, index.0));
    let heads: Vec<u64> = connection
        .prepare_cached("SELECT last_event FROM recipients WHERE message = ?1 AND idx BETWEEN ?2 AND ?3")?
        .query_map(params![id.as_slice(), first, last], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut statement = connection.prepare_cached("SELECT previous FROM events WHERE seq = ?1")?;
    let mut sequences = Vec::with_capacity(heads.len());
    for head in heads {
        let mut next = head;
        let mut length = 0;
        // A chain ends at 0, or where old events were removed.
        while next != 0 && length < CHAIN_EVENTS_MAX {
            let Some(previous) = statement.query_row([next], |row| row.get(0)).optional()? else { break };
            sequences.push(next);
            next = previous;
            length += 1;
        }
    }
    sequences.sort_unstable();
    sequences.truncate(limit as usize);
    let mut statement = connection.prepare_cached("SELECT seq, body FROM events WHERE seq = ?1")?;
    sequences
        .into_iter()
        .map(|sequence| {
            let mut rows = statement.query([sequence])?;
            let row = rows.next()?.ok_or(LedgerError::Corrupt { sequence })?;
            recorded(row, 0, 1)
        })
        .collect()
}

fn recorded(row: &Row<'_>, sequence: usize, body: usize) -> Result<Recorded, LedgerError> {
    let sequence = row.get(sequence)?;
    let corrupt = || LedgerError::Corrupt { sequence };
    let bytes = row.get_ref(body)?.as_blob().map_err(|_| corrupt())?;
    let event = decode_events(bytes).ok().and_then(|mut events| events.pop()).ok_or_else(corrupt)?;
    Ok(Recorded { sequence, event })
}

pub(super) fn suppression(row: &Row<'_>) -> Result<SuppressionRecord, rusqlite::Error> {
    let suppression = Suppression { tenant: TenantId(row.get(0)?), address: row.get(1)? };
    Ok(SuppressionRecord { suppression, reason: row.get(2)?, created_ms: row.get(3)? })
}

pub(super) fn suppressions(
    connection: &Connection,
    tenant: Option<TenantId>,
    after: Option<&Suppression>,
    limit: u32,
) -> Result<Vec<SuppressionRecord>, rusqlite::Error> {
    // Tenant ids begin at 1, so (0, "") is before all.
    let (after_tenant, after_address) = after.map_or((0, ""), |after| (after.tenant.0, after.address.as_str()));
    let (first, last) = tenant.map_or((0, u32::MAX), |tenant| (tenant.0, tenant.0));
    connection
        .prepare_cached(
            "SELECT tenant, address, reason, created_ms FROM suppressions
             WHERE (tenant, address) > (?1, ?2) AND tenant BETWEEN ?3 AND ?4 ORDER BY tenant, address LIMIT ?5",
        )?
        .query_map(params![after_tenant, after_address, first, last, limit], suppression)?
        .collect()
}

pub(super) fn audit(connection: &Connection, before: u64, limit: u32) -> Result<Vec<AuditRecord>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT seq, at_ms, actor, action, status FROM audit WHERE ?1 = 0 OR seq < ?1 ORDER BY seq DESC LIMIT ?2",
        )?
        .query_map(params![before, limit], |row| {
            Ok(AuditRecord {
                sequence: row.get(0)?,
                at_ms: row.get(1)?,
                actor: row.get(2)?,
                action: row.get(3)?,
                status: row.get(4)?,
            })
        })?
        .collect()
}

/// Events that one page looks at, so that a tenant with few among many costs a bounded read.
const SCANNED_EVENTS_MAX: u32 = 20_000;
