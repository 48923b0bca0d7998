//! Reading what became of mail: jobs, recipients and events, out of chunks and parts.

use std::collections::BinaryHeap;

use postrail_schema::event::{Event, EventKind};
use postrail_schema::ids::{MessageId, RecipientIndex, RecipientKey, TenantId};

use super::chunk::{Chunk, ChunkReader, may_hold};
use super::part::Events;
use super::rows::Rows;
use super::{CHAIN_EVENTS_MAX, EventPage, LedgerError, Message, Recipient, Recorded, parts};

/// What the first event that says something of the job tells of it.
pub(super) fn message(rows: &mut impl Rows, id: MessageId) -> Result<Option<Message>, LedgerError> {
    let recipients = parts::of_message(rows, id, RecipientIndex(0), usize::MAX)?;
    let told = recipients.iter().map(|(_, events)| events.job).filter(|sequence| *sequence != 0).min();
    let Some(sequence) = told else { return Ok(None) };
    let mut reader = ChunkReader::default();
    let event = reader.event(rows, sequence)?.ok_or(LedgerError::Corrupt { sequence })?;
    let job = event.job.as_ref().ok_or(LedgerError::Corrupt { sequence })?;
    Ok(Some(Message {
        id,
        tenant: event.tenant,
        accepted_ms: event.at_ms,
        credential: job.credential.0,
        domain: job.domain.0,
        interface: job.interface.clone(),
        reverse_path: job.reverse_path.clone(),
        bytes: job.bytes,
        reference: job.reference.clone(),
        campaign: job.campaign.clone(),
        cost_center: job.cost_center.clone(),
        class: job.class.clone(),
        message_id_header: job.message_id_header.clone(),
        recipients: job.recipients,
    }))
}

pub(super) fn recipients(
    rows: &mut impl Rows,
    id: MessageId,
    from: RecipientIndex,
    limit: u32,
) -> Result<Vec<Recipient>, LedgerError> {
    let found = parts::of_message(rows, id, from, limit as usize)?;
    // In the order of sequences, so that each chunk is read once.
    let mut wanted = Vec::with_capacity(found.len() * 3);
    for (place, (_, events)) in found.iter().enumerate() {
        let telling = [(events.first, Told::First), (events.stated, Told::Stated), (events.tried, Told::Tried)];
        wanted.extend(telling.into_iter().filter(|(sequence, _)| *sequence != 0).map(|(at, told)| (at, place, told)));
    }
    wanted.sort_unstable_by_key(|(sequence, ..)| *sequence);
    let mut recipients: Vec<_> = found.iter().map(|(index, events)| blank(id, *index, events)).collect();
    let mut reader = ChunkReader::default();
    for (sequence, place, told) in wanted {
        let event = reader.event(rows, sequence)?.ok_or(LedgerError::Corrupt { sequence })?;
        let settled = found[place].1.settled;
        tell(&mut recipients[place], event, told, settled);
    }
    Ok(recipients)
}

/// What an event tells of its recipient.
#[derive(Clone, Copy)]
enum Told {
    First,
    Stated,
    Tried,
}

/// A recipient of which no event was read yet.
fn blank(message: MessageId, index: RecipientIndex, events: &Events) -> Recipient {
    Recipient {
        key: RecipientKey { message, index },
        tenant: TenantId(0),
        address: String::new(),
        state: EventKind::Accepted,
        attempts: events.attempts,
        accepted_ms: 0,
        changed_ms: events.changed_ms,
        settled_ms: 0,
        next_attempt_ms: 0,
        reply_code: 0,
        enhanced_status: String::new(),
        reply: String::new(),
        reason: String::new(),
    }
}

fn tell(recipient: &mut Recipient, event: &Event, told: Told, settled: bool) {
    match told {
        Told::First => {
            recipient.tenant = event.tenant;
            recipient.address.clone_from(&event.address);
            recipient.accepted_ms = event.at_ms;
        }
        Told::Stated => {
            recipient.state = event.kind;
            recipient.next_attempt_ms = event.next_attempt_ms;
            recipient.reason.clone_from(&event.reason);
            recipient.settled_ms = if settled { event.at_ms } else { 0 };
        }
        Told::Tried => {
            if let Some(attempt) = &event.attempt {
                recipient.reply_code = attempt.reply_code;
                recipient.enhanced_status.clone_from(&attempt.enhanced_status);
                recipient.reply.clone_from(&attempt.reply);
            }
        }
    }
}

pub(super) fn events(
    rows: &mut impl Rows,
    tenant: Option<TenantId>,
    cursor: u64,
    limit: u32,
) -> Result<EventPage, LedgerError> {
    let mut page = EventPage { events: Vec::new(), cursor, more: false };
    let from = cursor.saturating_add(1);
    let mut scanned = 0;
    rows.chunks(from, tenant, |row| {
        let corrupt = LedgerError::Corrupt { sequence: row.first };
        let end = row.first.checked_add(row.count).filter(|end| *end != row.first).ok_or(corrupt)?;
        let begin = row.first.max(from);
        if begin >= end {
            return Ok(true);
        }
        let room = SCANNED_EVENTS_MAX - scanned;
        if room == 0 || page.events.len() == limit as usize {
            page.more = true;
            return Ok(false);
        }
        if tenant.is_some_and(|tenant| !may_hold(row.tenants, tenant)) {
            let passed = room.min(end - begin);
            scanned += passed;
            page.cursor = begin + passed - 1;
            page.more = page.cursor + 1 < end;
        } else {
            Chunk::read(&row)?.events(begin, |sequence, event| {
                if scanned == SCANNED_EVENTS_MAX || page.events.len() == limit as usize {
                    page.more = true;
                    return false;
                }
                scanned += 1;
                page.cursor = sequence;
                if tenant.is_none_or(|tenant| event.tenant == tenant) {
                    page.events.push(Recorded { sequence, event });
                }
                true
            })?;
        }
        Ok(!page.more)
    })?;
    Ok(page)
}

pub(super) fn trace(
    rows: &mut impl Rows,
    id: MessageId,
    index: Option<RecipientIndex>,
    limit: u32,
) -> Result<Vec<Recorded>, LedgerError> {
    let (from, recipients) = index.map_or((RecipientIndex(0), usize::MAX), |index| (index, 1));
    let heads = parts::of_message(rows, id, from, recipients)?;
    let mut reader = ChunkReader::default();
    // All chains at once from the latest event back, so that each chunk is read once.
    let mut next: BinaryHeap<(u64, u32)> = heads
        .iter()
        .filter(|(found, _)| index.is_none_or(|index| *found == index))
        .map(|(_, events)| (events.last, 1))
        .collect();
    let mut sequences = Vec::with_capacity(next.len());
    while let Some((sequence, length)) = next.pop() {
        // A chain ends at its first event, or where old events were removed.
        let Some(previous) = reader.previous(rows, sequence)? else { continue };
        sequences.push(sequence);
        if previous != 0 && length < CHAIN_EVENTS_MAX {
            next.push((previous, length + 1));
        }
    }
    sequences.reverse();
    sequences.truncate(limit as usize);
    let recorded = sequences.into_iter().map(|sequence| {
        let event = reader.event(rows, sequence)?.ok_or(LedgerError::Corrupt { sequence })?.clone();
        Ok(Recorded { sequence, event })
    });
    let mut recorded: Vec<_> = recorded.collect::<Result<_, LedgerError>>()?;
    // Of several hosts' journals the one that tells first need not be the one where it happened first.
    recorded.sort_by_key(|recorded| recorded.event.at_ms);
    Ok(recorded)
}

/// Events that one page looks at, so that a tenant with few among many costs a bounded read.
const SCANNED_EVENTS_MAX: u64 = 20_000;
