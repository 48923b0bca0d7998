//! Storing batches of events.
//!
//! Buffers go into chunks as the journal gave them. What is kept of the recipients is worked on in memory and written
//! once for each part and transaction, in key order, however many events there are for them.
//!
//! Invariants worth naming: the same event twice counts once, however far apart (an event that is not later than the
//! recipient's latest, and of a kind that it has, is compared with those before); an event behind a settlement changes no
//! state; a recipient is accepted once, by the host whose journal says so first.

use std::collections::BTreeMap;

use postrail_schema::day::Day;
use postrail_schema::event::Event;
use postrail_schema::ids::{HostId, TenantId};
use postrail_schema::wire::{EventHead, decode_events, encode_events};

use super::chunk::{ChunkBuilder, ChunkReader, Link};
use super::parts::Parts;
use super::rows::WriteRows;
use super::{AcceptedCount, Batch, CHAIN_EVENTS_MAX, LedgerError};

/// The events of one transaction on their way into it.
pub(super) struct Recorder<'r, R> {
    rows: &'r mut R,
    parts: &'r mut Parts,
    /// The sequence that was given last.
    last: u64,
    chunk: ChunkBuilder,
    /// Of the buffer at hand: the places in it of the events that are kept, and their links.
    kept: Vec<usize>,
    links: Vec<Link>,
    /// Recipients that were accepted.
    accepted: BTreeMap<(Day, TenantId, HostId), u64>,
}

impl<'r, R: WriteRows> Recorder<'r, R> {
    /// Begins behind the sequence `last`. `version` changes when somebody else has written since the last transaction.
    ///
    /// # Errors
    /// The database fails.
    pub(super) fn begin(rows: &'r mut R, parts: &'r mut Parts, version: u64, last: u64) -> Result<Self, LedgerError> {
        parts.begin(rows, version)?;
        let (kept, links) = (Vec::new(), Vec::new());
        Ok(Self { rows, parts, last, chunk: ChunkBuilder::default(), kept, links, accepted: BTreeMap::new() })
    }

    /// Adds what a journal of `host` gave.
    ///
    /// # Errors
    /// The database fails, or what it holds of a recipient cannot be read.
    pub(super) fn add(&mut self, host: HostId, batch: &Batch) -> Result<(), LedgerError> {
        self.parts.load(self.rows, host, batch)?;
        for (buffer, heads) in batch.buffers() {
            self.add_buffer(host, buffer, heads)?;
        }
        Ok(())
    }

    /// Writes what is not written yet; the sequence that was given last.
    ///
    /// # Errors
    /// The database fails.
    pub(super) fn finish(mut self) -> Result<u64, LedgerError> {
        self.chunk.write(self.rows)?;
        self.parts.write(self.rows)?;
        let sequence = self.last;
        let counts = self.accepted.into_iter();
        let counts =
            counts.map(|((day, tenant, host), recipients)| AcceptedCount { day, tenant, host, recipients, sequence });
        self.rows.put_accepted(&counts.collect::<Vec<_>>())?;
        Ok(sequence)
    }

    fn add_buffer(&mut self, host: HostId, buffer: &[u8], heads: &[EventHead]) -> Result<(), LedgerError> {
        let first = self.last + 1;
        let mut events = None;
        self.kept.clear();
        self.links.clear();
        for (place, head) in heads.iter().enumerate() {
            let mut recipient = self.parts.recipient(host, head);
            if recipient.may_hold(head) {
                let last = recipient.last;
                let events = events.get_or_insert_with(|| decode_events(buffer).unwrap_or_default());
                if self.is_recorded(events, place, first, last)? {
                    continue;
                }
                recipient = self.parts.recipient(host, head);
            }
            self.links.push(Link { tenant: head.tenant, previous: recipient.last });
            self.kept.push(place);
            self.last += 1;
            let accepts = recipient.add(head, self.last);
            if accepts && !head.is_report {
                *self.accepted.entry((Day::of_ms(head.at_ms), head.tenant, host)).or_default() += 1;
            }
        }
        if self.kept.len() == heads.len() {
            return self.push(first, buffer);
        }
        let kept: Vec<Event> = self
            .kept
            .iter()
            .filter_map(|place| events.as_ref().and_then(|events| events.get(*place)).cloned())
            .collect();
        self.push(first, &encode_events(&kept))
    }

    fn push(&mut self, first: u64, buffer: &[u8]) -> Result<(), LedgerError> {
        if self.links.is_empty() {
            return Ok(());
        }
        if !self.chunk.has_room(self.links.len(), buffer.len()) {
            self.chunk.write(self.rows)?;
        }
        self.chunk.push(first, buffer, &self.links);
        Ok(())
    }

    /// Whether the chain that ends with the sequence `last` holds the event at `place` of the buffer at hand, whose
    /// first kept event has the sequence `first`.
    fn is_recorded(&mut self, events: &[Event], place: usize, first: u64, last: u64) -> Result<bool, LedgerError> {
        let Some(event) = events.get(place) else { return Ok(false) };
        self.chunk.write(self.rows)?;
        let mut stored = ChunkReader::default();
        let mut next = last;
        for _ in 0..CHAIN_EVENTS_MAX {
            if next == 0 {
                break;
            }
            if next >= first {
                let kept = (next - first) as usize;
                if events[self.kept[kept]] == *event {
                    return Ok(true);
                }
                next = self.links[kept].previous;
                continue;
            }
            match stored.event(self.rows, next) {
                Ok(Some(earlier)) if earlier == event => return Ok(true),
                Ok(Some(_)) => {}
                Ok(None) => break,
                // Who reads it is told; nothing can be said to equal it.
                Err(LedgerError::Corrupt { sequence }) => tracing::warn!(sequence, "stored event cannot be compared"),
                Err(error) => return Err(error),
            }
            match stored.previous(self.rows, next) {
                Ok(Some(previous)) => next = previous,
                Ok(None) | Err(LedgerError::Corrupt { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}
