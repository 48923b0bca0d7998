//! The journal of one shard: every event, settlements among them, durable before anyone is told; and the notes of jobs
//! on their way to other hosts.
//!
//! It serves two readers. The ledger pulls by [`Cursor`] and keeps its cursor in the transaction that stores the events;
//! notes are not for it. Recovery replays both, to learn what became of the jobs that the spool still holds.
//!
//! So a segment may go when both are done with it: the ledger's cursor is in a later segment, and every spool segment
//! that exists was begun later. A job's settlements can only be in journal segments that were there when its spool
//! segment was begun, or came later; the spool writes [`Journal::position`] into the header of each segment it begins
//! ([`crate::spool::Spool::follow`]) and tells the lowest of those that exist ([`crate::spool::Spool::oldest_birth`]).
//! A long-lived job would thus hold the journal for days: where the journal grows too large, the spool copies its oldest
//! jobs forward, with what has become of them.
//!
//! Invariants worth naming: a pull gives durable events only, each once for a cursor that follows the answers; an
//! answer without events whose cursor moved has passed notes; nothing that is needed is dropped for room: intake refuses instead ([`Journal::refusal`]).

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use postrail_core::events;
use postrail_core::spool::segment::{FIRST_BATCH, FRAME_VERSION, Frame};
use postrail_core::spool::{FRAME_TAG_EVENTS, FRAME_TAG_NOTES, Found, LogKind, Scanner, note_frame};
use postrail_core::transfer::Note;
use postrail_schema::event::{Event, EventBrief};
use postrail_schema::ids::ShardId;
use postrail_schema::limits::{JOURNAL_BYTES_MAX, JOURNAL_TAIL_BYTES_MAX, JOURNAL_WAITERS_MAX, LOG_RETRY_DELAY};

use crate::log::{
    AppendError, DurableBatch, Log, LogStats, NewFrame, OpenError, Order, ReadError, ReplayError, ReplayReport,
    SegmentView,
};
use crate::platform::Platform;

/// A place between two batches of a journal. The default is its beginning, wherever that is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Cursor {
    pub segment: u64,
    pub offset: u32,
}

/// What a replay hands out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    Event(EventBrief),
    Note(Note),
}

/// Why a pull has no answer.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// What follows the cursor was trimmed, or the cursor is of another journal.
    #[error("the journal does not have this place; it begins at segment {} offset {}", oldest.segment, oldest.offset)]
    CursorTooOld { oldest: Cursor },
    #[error("the journal cannot be read")]
    Unavailable(#[source] ReadError),
}

/// A handle of one shard's journal.
pub struct Journal<P: Platform> {
    log: Log<P>,
    tail: Rc<RefCell<Tail>>,
}

impl<P: Platform> Clone for Journal<P> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), tail: Rc::clone(&self.tail) }
    }
}

impl<P: Platform> Journal<P> {
    /// Opens `<data>/journal/shard-NNN`. Appends work at once; what it held waits for [`Self::replay`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(platform: P, data: &Path, shard: ShardId) -> Result<Self, OpenError> {
        let seed = platform.entropy();
        let log = Log::open(platform, data, shard, LogKind::Journal, seed).await?;
        let tail = Rc::new(RefCell::new(Tail::default()));
        let recent = Rc::clone(&tail);
        log.on_durable(move |batch| recent.borrow_mut().push(batch));
        Ok(Self { log, tail })
    }

    /// Appends notes, then events, each in their order: that a job was taken is durable before any event of it, and what
    /// came before it was bound has been since then. All are durable when this answers well.
    ///
    /// # Errors
    /// See [`AppendError`]. The same may be appended again: what was refused is not in the journal.
    pub async fn append(&self, events: &[Event], notes: &[Note]) -> Result<(), AppendError> {
        let frame = |tag| move |payload| NewFrame { tag, payload };
        let payloads = events::encode(events).map_err(|error| AppendError::TooLarge { bytes: error.bytes })?;
        let events = payloads.into_iter().map(frame(FRAME_TAG_EVENTS));
        let notes = note_frame::encode(notes).into_iter().map(frame(FRAME_TAG_NOTES));
        let mut parts: Vec<Vec<NewFrame>> = Vec::new();
        let mut bytes = 0;
        for frame in notes.chain(events) {
            let more = self.log.frame_bytes(&frame.payload);
            if parts.is_empty() || bytes + more > self.log.append_bytes_max() {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += more;
            parts.last_mut().expect("begun with one part").push(frame);
        }
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else { return Ok(()) };
        self.log.append(first).await?;
        for part in parts {
            self.append_rest(part).await;
        }
        Ok(())
    }

    /// What follows a part that is durable: refused it would be appended twice, so it is tried until it is durable too.
    async fn append_rest(&self, frames: Vec<NewFrame>) {
        while let Err(error) = self.log.append(frames.clone()).await {
            tracing::error!(%error, "events cannot be written; trying again");
            let platform = self.log.platform();
            platform.sleep_until(platform.now() + LOG_RETRY_DELAY).await;
        }
    }

    /// Hands out every event and note that the journal held when it was opened, in order.
    ///
    /// # Errors
    /// See [`ReplayError`]; damaged places are in the report, and passed over.
    pub async fn replay(&self, mut f: impl FnMut(Entry)) -> Result<ReplayReport, ReplayError> {
        let log = self.log.clone();
        let mut malformed = Vec::new();
        let replayed = self.log.replay(Order::OldestFirst, |frame| {
            if !replay_frame(frame, &mut f) {
                log.mark_damaged(frame.location.segment);
                malformed.push(frame.location);
            }
        });
        let mut report = replayed.await?;
        for location in malformed {
            report.add_damage(location.into());
        }
        self.log.changed().notify();
        Ok(report)
    }

    /// Events behind `cursor` as they are stored: for each buffer its octets as u32 little-endian, then the buffer of
    /// [`postrail_schema::wire::encode_events`]. About `bytes_max` octets, and at least one batch where there is one.
    /// Empty where nothing follows yet. The second value is the cursor for the next pull.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull(&self, cursor: Cursor, bytes_max: usize) -> Result<(Vec<u8>, Cursor), PullError> {
        let (cursor, end) = self.normalize(cursor)?;
        self.tail.borrow_mut().stored = cursor;
        if end.is_none_or(|end| cursor.offset >= end) {
            return Ok((Vec::new(), cursor));
        }
        let mut pulled = Pulled { bytes: Vec::new(), next: cursor, bytes_max, full: false };
        self.tail.borrow().read(cursor, &mut pulled);
        if pulled.next == cursor {
            self.pull_from_disk(cursor, end, &mut pulled).await?;
        }
        Ok((pulled.bytes, pulled.next))
    }

    /// Ends when something durable follows `cursor`, at the latest after `limit`. Where
    /// [`JOURNAL_WAITERS_MAX`] wait already it ends at once.
    pub async fn wait(&self, cursor: Cursor, limit: Duration) {
        let ready = || self.log.end_last().is_some_and(|(segment, offset)| cursor < Cursor { segment, offset });
        if self.log.changed().waiting() < JOURNAL_WAITERS_MAX {
            self.log.platform().timeout(limit, self.log.changed().until(ready)).await;
        }
    }

    /// Lets go of segments wholly before the ledger's `cursor` that recovery does not need either: those before
    /// `oldest_birth`, which [`crate::spool::Spool::oldest_birth`] tells.
    pub fn trim(&self, cursor: Cursor, oldest_birth: Option<u64>) {
        self.log.release_before(cursor.segment.min(oldest_birth.unwrap_or(u64::MAX)));
    }

    /// The earliest segment in which an event that is appended from now on can be, less one: a settlement that is on its
    /// way to the disk while a spool segment is begun is never behind it.
    pub fn position(&self) -> u64 {
        self.log.sequence_last().saturating_sub(1)
    }

    /// Octets of events, with what frames them, that the ledger has not stored yet: behind the cursor of the last pull,
    /// which it asks for only when it holds all before, and waiting to be written.
    pub fn unread_bytes(&self) -> u64 {
        let stored = self.tail.borrow().stored;
        let behind = |view: SegmentView| {
            let end = view.end.unwrap_or(FIRST_BATCH);
            let from = match view.header.sequence.cmp(&stored.segment) {
                Ordering::Less => end,
                Ordering::Equal => stored.offset.max(FIRST_BATCH),
                Ordering::Greater => FIRST_BATCH,
            };
            u64::from(end.saturating_sub(from))
        };
        self.log.segments().into_iter().map(behind).sum::<u64>() + self.log.stats().bytes_queued as u64
    }

    /// Octets of events on disk.
    pub fn bytes(&self) -> u64 {
        self.log.stats().bytes
    }

    pub fn stats(&self) -> LogStats {
        self.log.stats()
    }

    /// Why intake has to refuse mail for the journal's sake, if it has to.
    pub fn refusal(&self) -> Option<String> {
        (self.bytes() >= JOURNAL_BYTES_MAX)
            .then(|| format!("the event journal holds {JOURNAL_BYTES_MAX} octets that the ledger has not taken yet"))
    }

    /// The cursor in a segment that exists, and that segment's end where it is known.
    fn normalize(&self, cursor: Cursor) -> Result<(Cursor, Option<u32>), PullError> {
        let segments = self.log.segments();
        let first = |segment: u64| Cursor { segment, offset: FIRST_BATCH };
        let Some(oldest) = segments.first() else {
            return if cursor.segment <= self.log.sequence_last() {
                Ok((cursor, None))
            } else {
                Err(PullError::CursorTooOld { oldest: Cursor::default() })
            };
        };
        let oldest = first(oldest.header.sequence);
        if cursor == Cursor::default() {
            return self.normalize(oldest);
        }
        if cursor.segment < oldest.segment || cursor.segment > self.log.sequence_last() {
            return Err(PullError::CursorTooOld { oldest });
        }
        let mut at = cursor;
        for view in segments.iter().filter(|view| view.header.sequence >= cursor.segment) {
            if view.header.sequence > at.segment {
                at = first(view.header.sequence);
            }
            let done = view.closed && view.end.is_some_and(|end| at.offset >= end);
            let last = segments.last().is_some_and(|last| last.header.sequence == view.header.sequence);
            if !done || last {
                return Ok((at, view.end));
            }
        }
        Ok((at, None))
    }

    async fn pull_from_disk(&self, cursor: Cursor, end: Option<u32>, pulled: &mut Pulled) -> Result<(), PullError> {
        let failed = |error| match error {
            ReadError::Released => PullError::CursorTooOld { oldest: Cursor::default() },
            error => PullError::Unavailable(error),
        };
        let header = self.log.header(cursor.segment).ok_or(ReadError::Released).map_err(failed)?;
        let mut scanner = Scanner::from_offset(header.identity(), cursor.offset, end);
        let mut batch = Vec::new();
        while let Some((offset, bytes)) = scanner.want().filter(|_| !pulled.full) {
            let window = self.log.read_bytes(cursor.segment, offset, bytes).await.map_err(failed)?;
            scanner.handle(&window, &mut |found| match found {
                Found::Frame(frame) if frame.tag == FRAME_TAG_EVENTS => put_buffer(&mut batch, frame.payload),
                Found::Frame(_) | Found::Damaged(_) => {}
                Found::BatchEnd { next } => {
                    pulled.push(&batch, Cursor { segment: cursor.segment, offset: next });
                    batch.clear();
                }
            });
        }
        Ok(())
    }
}

/// An answer that grows batch by batch.
struct Pulled {
    bytes: Vec<u8>,
    next: Cursor,
    bytes_max: usize,
    full: bool,
}

impl Pulled {
    fn push(&mut self, batch: &[u8], next: Cursor) {
        self.full |= !self.bytes.is_empty() && self.bytes.len() + batch.len() > self.bytes_max;
        if !self.full {
            self.bytes.extend_from_slice(batch);
            self.next = next;
        }
    }
}

/// The last batches, as a pull gives them.
#[derive(Default)]
struct Tail {
    /// The cursor of the last pull.
    stored: Cursor,
    batches: VecDeque<TailBatch>,
    bytes: usize,
}

struct TailBatch {
    at: Cursor,
    next: Cursor,
    buffers: Vec<u8>,
}

/// What a batch takes besides its events: one of notes only has none.
const TAIL_BATCH_BYTES: usize = size_of::<TailBatch>();

impl Tail {
    fn push(&mut self, batch: DurableBatch) {
        let segment = batch.segment;
        let events = batch.frames.iter().filter(|frame| frame.tag == FRAME_TAG_EVENTS);
        let mut buffers = Vec::with_capacity(events.clone().map(|frame| frame.payload.len() + 4).sum());
        events.for_each(|frame| put_buffer(&mut buffers, &frame.payload));
        self.bytes += TAIL_BATCH_BYTES + buffers.len();
        self.batches.push_back(TailBatch {
            at: Cursor { segment, offset: batch.offset },
            next: Cursor { segment, offset: batch.next },
            buffers,
        });
        while self.bytes > JOURNAL_TAIL_BYTES_MAX {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= TAIL_BATCH_BYTES + oldest.buffers.len();
        }
    }

    /// Adds the batches from `cursor` on, where they are here and follow each other.
    fn read(&self, cursor: Cursor, pulled: &mut Pulled) {
        let from = self.batches.partition_point(|batch| batch.at < cursor);
        for batch in self.batches.iter().skip(from) {
            if batch.at != pulled.next || pulled.full {
                break;
            }
            pulled.push(&batch.buffers, batch.next);
        }
    }
}

/// Hands out what a frame holds; whether it could be understood.
fn replay_frame(frame: &Frame<'_>, f: &mut impl FnMut(Entry)) -> bool {
    match (frame.tag, frame.version) {
        (FRAME_TAG_EVENTS, FRAME_VERSION) => {
            events::decode_briefs(frame.payload).map(|events| events.into_iter().map(Entry::Event).for_each(f)).is_ok()
        }
        (FRAME_TAG_NOTES, FRAME_VERSION) => {
            note_frame::decode(frame.payload).map(|notes| notes.into_iter().map(Entry::Note).for_each(f)).is_ok()
        }
        _ => false,
    }
}

fn put_buffer(to: &mut Vec<u8>, buffer: &[u8]) {
    to.extend_from_slice(&(buffer.len() as u32).to_le_bytes());
    to.extend_from_slice(buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_notes_do_not_fill_memory() {
        let mut tail = Tail::default();
        let batches = 2 * JOURNAL_TAIL_BYTES_MAX / size_of::<TailBatch>();
        for offset in 0..batches as u32 {
            let frames = vec![NewFrame { tag: FRAME_TAG_NOTES, payload: vec![0; 24] }];
            tail.push(DurableBatch { segment: 1, offset, next: offset + 1, frames });
        }
        assert_eq!(tail.batches.len(), batches / 2);
    }
}
