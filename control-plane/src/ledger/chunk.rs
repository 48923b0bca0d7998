//! A chunk: consecutive events in one row, as the buffers that the journal gave.
//!
//! ```text
//! body     [u32 little-endian octets, buffer of `postrail_schema::wire::encode_events`]*
//! links    [events of a buffer, [way back]*]*, all varints: the recipient's event before has a sequence lower by the
//!          way back; 0: it is the recipient's first
//! tenants  u32 little-endian*, each once; empty: more than are listed
//! ```
//!
//! Invariants worth naming: events of a chunk have sequences without a gap; a chunk that was damaged is an error that
//! names a sequence, never a panic.

use std::ops::Range;

use postrail_schema::event::Event;
use postrail_schema::ids::TenantId;
use postrail_schema::wire::decode_events;

use super::rows::{ChunkRow, Rows, WriteRows};
use super::{LedgerError, varint};

/// An event's tenant, and the sequence of its recipient's event before (0: none).
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub tenant: TenantId,
    pub previous: u64,
}

/// A chunk that is being filled.
#[derive(Default)]
pub(super) struct ChunkBuilder {
    first: u64,
    count: u64,
    tenants: Vec<TenantId>,
    links: Vec<u8>,
    body: Vec<u8>,
}

impl ChunkBuilder {
    /// Whether a buffer may be added to what is there; an empty chunk takes any.
    pub(super) fn has_room(&self, events: usize, bytes: usize) -> bool {
        self.count == 0
            || (self.count as usize + events <= CHUNK_EVENTS_MAX && self.body.len() + bytes <= CHUNK_BYTES_MAX)
    }

    /// Adds a buffer whose first event has the sequence `first`.
    pub(super) fn push(&mut self, first: u64, buffer: &[u8], links: &[Link]) {
        if self.count == 0 {
            self.first = first;
        }
        assert_eq!(self.first + self.count, first, "sequences of a chunk have no gap");
        varint::put(&mut self.links, links.len() as u64);
        for (sequence, link) in (first..).zip(links) {
            varint::put(&mut self.links, if link.previous == 0 { 0 } else { sequence - link.previous });
            if self.tenants.len() <= TENANTS_LISTED_MAX && !self.tenants.contains(&link.tenant) {
                self.tenants.push(link.tenant);
            }
        }
        self.count += links.len() as u64;
        self.body.extend_from_slice(&(buffer.len() as u32).to_le_bytes());
        self.body.extend_from_slice(buffer);
    }

    /// Writes what is there, if anything is, and begins anew.
    ///
    /// # Errors
    /// The database fails.
    pub(super) fn write(&mut self, rows: &mut impl WriteRows) -> Result<(), LedgerError> {
        if self.count == 0 {
            return Ok(());
        }
        let tenants: Vec<u8> = if self.tenants.len() > TENANTS_LISTED_MAX {
            Vec::new()
        } else {
            self.tenants.iter().flat_map(|tenant| tenant.0.to_le_bytes()).collect()
        };
        let Self { first, count, links, body, .. } = &*self;
        rows.put_chunk(ChunkRow { first: *first, count: *count, tenants: &tenants, links, body })?;
        self.count = 0;
        self.tenants.clear();
        self.links.clear();
        self.body.clear();
        Ok(())
    }
}

/// A chunk that was read.
pub(super) struct Chunk {
    first: u64,
    previous: Vec<u64>,
    buffers: Vec<Buffer>,
    body: Vec<u8>,
}

struct Buffer {
    events: Range<usize>,
    bytes: Range<usize>,
}

impl Chunk {
    /// The chunk of a row.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] with its first sequence.
    pub(super) fn read(row: &ChunkRow<'_>) -> Result<Self, LedgerError> {
        let corrupt = LedgerError::Corrupt { sequence: row.first };
        Self::parse(row.first, row.count, row.links, row.body).ok_or(corrupt)
    }

    fn parse(first: u64, count: u64, mut links: &[u8], body: &[u8]) -> Option<Self> {
        let mut chunk = Self { first, previous: Vec::new(), buffers: Vec::new(), body: body.to_vec() };
        let mut at = 0;
        while !links.is_empty() {
            let begun = chunk.previous.len();
            // A way back takes an octet at least, so a false number of events ends with the links.
            for _ in 0..varint::take(&mut links)? {
                let sequence = first.checked_add(chunk.previous.len() as u64)?;
                let back = varint::take(&mut links)?;
                let previous = if back == 0 { 0 } else { sequence.checked_sub(back).filter(|at| *at != 0)? };
                chunk.previous.push(previous);
            }
            let (length, rest) = body.get(at..)?.split_first_chunk::<4>()?;
            let length = u32::from_le_bytes(*length) as usize;
            rest.get(..length)?;
            let bytes = at + 4..at + 4 + length;
            at = bytes.end;
            chunk.buffers.push(Buffer { events: begun..chunk.previous.len(), bytes });
        }
        (at == body.len() && count != 0 && chunk.previous.len() as u64 == count).then_some(chunk)
    }

    /// The sequences of its events.
    pub(super) fn sequences(&self) -> Range<u64> {
        self.first..self.first + self.previous.len() as u64
    }

    /// Which buffer holds the event of that sequence, which is one of [`Self::sequences`].
    fn buffer_of(&self, sequence: u64) -> usize {
        let position = (sequence - self.first) as usize;
        self.buffers.partition_point(|buffer| buffer.events.end <= position)
    }

    /// The sequence of a buffer's first event, and its events.
    fn decode(&self, buffer: usize) -> Result<(u64, Vec<Event>), LedgerError> {
        let Buffer { events, bytes } = &self.buffers[buffer];
        let first = self.first + events.start as u64;
        let decoded = decode_events(&self.body[bytes.clone()]).ok().filter(|decoded| decoded.len() == events.len());
        decoded.map(|decoded| (first, decoded)).ok_or(LedgerError::Corrupt { sequence: first })
    }

    /// The events of `from` and behind, in order, each with its sequence, until `take` is false.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] where a buffer cannot be read.
    pub(super) fn events(&self, from: u64, mut take: impl FnMut(u64, Event) -> bool) -> Result<(), LedgerError> {
        let from = from.max(self.first);
        for buffer in self.buffer_of(from)..self.buffers.len() {
            let (first, events) = self.decode(buffer)?;
            for (sequence, event) in (first..).zip(events) {
                if sequence >= from && !take(sequence, event) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Whether a chunk with that list may hold an event of `tenant`. A list that was cut is no reason to pass a chunk over.
pub(super) fn may_hold(tenants: &[u8], tenant: TenantId) -> bool {
    let (listed, rest) = tenants.as_chunks::<4>();
    tenants.is_empty() || !rest.is_empty() || listed.contains(&tenant.0.to_le_bytes())
}

/// Finds events by their sequence. What lies together is read once when it is asked for one after the other.
#[derive(Default)]
pub(super) struct ChunkReader {
    chunk: Option<Chunk>,
    /// The buffer that was decoded last: its number in the chunk, the sequence of its first event, its events.
    decoded: Option<(usize, u64, Vec<Event>)>,
}

impl ChunkReader {
    /// The sequence of the recipient's event before, 0 where there is none; `None` where the event is not there.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`].
    pub(super) fn previous(&mut self, rows: &mut impl Rows, sequence: u64) -> Result<Option<u64>, LedgerError> {
        let chunk = self.seek(rows, sequence)?;
        Ok(chunk.map(|chunk| chunk.previous[(sequence - chunk.first) as usize]))
    }

    /// The event of that sequence; `None` where it is not there.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`].
    pub(super) fn event(&mut self, rows: &mut impl Rows, sequence: u64) -> Result<Option<&Event>, LedgerError> {
        let Some(buffer) = self.seek(rows, sequence)?.map(|chunk| chunk.buffer_of(sequence)) else { return Ok(None) };
        if self.decoded.as_ref().is_none_or(|(known, ..)| *known != buffer) {
            let chunk = self.chunk.as_ref().expect("it was found");
            let (first, events) = chunk.decode(buffer)?;
            self.decoded = Some((buffer, first, events));
        }
        Ok(self.decoded.as_ref().and_then(|(_, first, events)| events.get((sequence - first) as usize)))
    }

    /// The chunk that holds that sequence.
    fn seek(&mut self, rows: &mut impl Rows, sequence: u64) -> Result<Option<&Chunk>, LedgerError> {
        if self.chunk.as_ref().is_none_or(|chunk| !chunk.sequences().contains(&sequence)) {
            (self.decoded, self.chunk) = (None, None);
            self.chunk = rows.chunk_before(sequence)?;
        }
        Ok(self.chunk.as_ref().filter(|chunk| chunk.sequences().contains(&sequence)))
    }
}

/// Events of one chunk, and octets of its buffers; a larger buffer has a chunk of its own.
const CHUNK_EVENTS_MAX: usize = 256;
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Tenants that a chunk lists.
const TENANTS_LISTED_MAX: usize = 64;
