//! A segment log: frames are appended, durable when [`Log::append`] answers, and read back by [`Location`].
//!
//! ```text
//! append --> queue --> writer task: takes all that waits, one buffer, one write, one sync --> answers all
//!                        |
//!                        +-- segment full, or write failed --> next segment, in the spare (a free file, else a new one)
//! release --> segment empty --> renamed to a free file
//! ```
//!
//! The spool and the journal are both one of these; the layout is `postrail_core::spool::segment`.
//!
//! Invariants worth naming:
//! - an append is answered well only after the sync that covers it (group commit; there is no other mode);
//! - a write or sync that failed is never repeated: its waiters hear so, the segment is closed at its last good batch,
//!   and the header of the next segment voids what may have reached the disk behind that;
//! - while no segment can be begun the log is unavailable and tries again by itself, so a disk that was full recovers;
//! - a segment that is released is renamed durably before anything else may forget what it needed.
//!
//! Deliberately absent: what is in a frame.

mod live;
mod replay;
mod segments;
mod signal;
mod spare;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use postrail_core::base::{Instant, Random};
use postrail_core::spool::segment::{BATCH_HEADER_BYTES, FIRST_BATCH, FRAME_HEADER_BYTES, FRAME_PAYLOAD_MAX, Frame};
use postrail_core::spool::{Location, LogKind, SegmentHeader};
use postrail_schema::ids::ShardId;
use postrail_schema::limits::{APPEND_BYTES_MAX, APPEND_QUEUE_MAX, BATCH_BYTES_MAX, JOURNAL_PULL_BYTES_MAX};

use crate::platform::{BlockFile, Disk, Platform};

pub use replay::{Order, ReplayError, ReplayReport};
pub use segments::OpenError;
pub(crate) use signal::Signal;

/// Why frames were not appended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    #[error("too much waits to be written")]
    Full,
    #[error("the disk does not take writes: {reason}")]
    Unavailable { reason: Rc<str> },
    #[error("{bytes} octets are more than one append takes")]
    TooLarge { bytes: usize },
}

/// Why a frame was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the segment of the frame was released")]
    Released,
    #[error("the frame is damaged")]
    Damaged,
    #[error("the segment cannot be read")]
    Io(#[source] io::Error),
}

/// A frame to append.
#[derive(Clone, Debug)]
pub struct NewFrame {
    pub tag: u8,
    /// At most [`FRAME_PAYLOAD_MAX`] octets.
    pub payload: Vec<u8>,
}

/// A batch that has just become durable.
pub struct DurableBatch {
    pub segment: u64,
    /// Where the batch begins and where the next one will.
    pub offset: u32,
    pub next: u32,
    pub frames: Vec<NewFrame>,
}

/// Counts of one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStats {
    pub segments: usize,
    pub segments_free: usize,
    pub segments_damaged: usize,
    /// Octets of batches in segments that exist.
    pub bytes: u64,
    /// Octets of frames that are not released.
    pub live_bytes: u64,
    pub frames_queued: usize,
    pub bytes_queued: usize,
    /// Since the start.
    pub batches: u64,
    pub frames: u64,
    pub failures: u64,
}

/// A handle of one log of one shard.
pub struct Log<P: Platform> {
    shared: Rc<Shared<P>>,
    /// Wakes the writer; it ends when the last handle is dropped.
    wake: async_channel::Sender<()>,
}

impl<P: Platform> Clone for Log<P> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared), wake: self.wake.clone() }
    }
}

impl<P: Platform> Log<P> {
    /// Opens the log in the folder `<data>/<kind>/shard-NNN`, which is made where it does not exist, and starts its
    /// writer. Appends work at once; what the log held before waits for [`Self::replay`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(platform: P, data: &Path, shard: ShardId, kind: LogKind, seed: u64) -> Result<Self, OpenError> {
        let dir = segments::make_dir(platform.disk(), data, kind, shard).await?;
        let state = segments::read_dir::<P>(platform.disk(), &dir, kind, shard, Random::new(seed)).await?;
        let shared = Rc::new(Shared {
            platform: platform.clone(),
            dir,
            kind,
            shard,
            state: RefCell::new(state),
            companion: RefCell::new(Box::new(|| 0)),
            on_durable: RefCell::new(None),
            changed: Signal::default(),
            spare_changed: Signal::default(),
        });
        let (wake, woken) = async_channel::bounded(1);
        platform.spawn("log writer", writer::run(Rc::clone(&shared), woken));
        Ok(Self { shared, wake })
    }

    /// Appends `frames` in one batch. Durable when it answers well; the locations are in the order of the frames.
    ///
    /// # Errors
    /// See [`AppendError`]. After [`AppendError::Unavailable`] the frames will not be there after a restart either,
    /// but for a crash before the next segment was begun.
    pub async fn append(&self, frames: Vec<NewFrame>) -> Result<Vec<Location>, AppendError> {
        let done = self.shared.enqueue(frames)?;
        // A full channel has woken the writer already; a closed one cannot be while this handle lives.
        let _ = self.wake.try_send(());
        poll_fn(|context| done.poll(context.waker())).await
    }

    /// Ends when everything appended before is answered.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn flush(&self) -> Result<(), AppendError> {
        self.append(Vec::new()).await.map(drop)
    }

    /// Octets that [`Self::append`] takes at once, frame headers included.
    pub fn append_bytes_max(&self) -> usize {
        self.shared.batch_bytes_max() - BATCH_HEADER_BYTES
    }

    /// The tag and payload of the frame at `at`.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, at: Location) -> Result<(u8, Bytes), ReadError> {
        let identity = self.shared.header(at.segment).ok_or(ReadError::Released)?.identity();
        let bytes = self.read_bytes(at.segment, at.offset, at.bytes).await?;
        match Frame::read(&bytes, identity, at.offset) {
            Ok(frame) if frame.location == at => {
                let tag = frame.tag;
                Ok((tag, Bytes::from(bytes).slice(FRAME_HEADER_BYTES..)))
            }
            _ if self.shared.header(at.segment).is_none() => Err(ReadError::Released),
            _ => Err(ReadError::Damaged),
        }
    }

    /// Octets of a segment as they are.
    pub(crate) async fn read_bytes(&self, segment: u64, offset: u32, bytes: u32) -> Result<Vec<u8>, ReadError> {
        let file = self.shared.file(segment).await?;
        let read = file.read(offset.into(), bytes as usize).await;
        segments::close(file).await;
        read.map_err(ReadError::Io)
    }

    /// Says that the frame at `at`, found by a replay, is needed. Frames appended to a spool are needed from the start.
    pub fn retain(&self, at: Location) {
        if let Some(segment) = self.shared.state.borrow_mut().segments.get_mut(&at.segment) {
            segment.live.retain(at);
        }
    }

    /// Says that the frame at `at` is not needed any more. Its segment is reused when none of its frames is.
    pub fn release(&self, at: Location) {
        let empty = match self.shared.state.borrow_mut().segments.get_mut(&at.segment) {
            Some(segment) => segment.live.release(at),
            None => false,
        };
        if empty {
            self.shared.recycle_if_empty(at.segment);
        }
    }

    /// Whether the frame at `at` is needed.
    pub fn is_live(&self, at: Location) -> bool {
        self.shared.state.borrow().segments.get(&at.segment).is_some_and(|s| s.live.holds(at.offset))
    }

    /// Live frames of a segment, in order, up to `count`.
    pub(crate) fn live(&self, segment: u64, count: usize) -> Vec<Location> {
        let state = self.shared.state.borrow();
        let live = state.segments.get(&segment).into_iter().flat_map(|segment| segment.live.iter()).take(count);
        live.map(|(offset, bytes)| Location { segment, offset, bytes }).collect()
    }

    /// Sets aside what is not wanted before `sequence`: closed segments are released whole.
    pub(crate) fn release_before(&self, sequence: u64) {
        let closed: Vec<u64> = {
            let state = self.shared.state.borrow();
            if !state.unreplayed.is_empty() {
                return;
            }
            let before = state.segments.range(..sequence).map(|(sequence, _)| *sequence);
            before.filter(|sequence| state.current != Some(*sequence)).collect()
        };
        for sequence in closed {
            self.shared.recycle(sequence);
        }
    }

    /// The segment being written ends here; the next append begins another. The writer does it, so that no batch in
    /// flight is cut off.
    pub(crate) fn close_current(&self) {
        self.shared.state.borrow_mut().close_wanted = true;
    }

    /// Marks a segment whose frames cannot all be understood: it is set aside instead of being reused.
    pub(crate) fn mark_damaged(&self, segment: u64) {
        if let Some(segment) = self.shared.state.borrow_mut().segments.get_mut(&segment) {
            segment.damaged = true;
        }
    }

    /// Calls `hook` for every batch that became durable, before its appends are answered.
    pub(crate) fn on_durable(&self, hook: impl FnMut(DurableBatch) + 'static) {
        *self.shared.on_durable.borrow_mut() = Some(Box::new(hook));
    }

    /// What the headers of new segments say of the companion log.
    pub(crate) fn set_companion(&self, companion: impl Fn() -> u64 + 'static) {
        *self.shared.companion.borrow_mut() = Box::new(companion);
    }

    /// The lowest companion of the segments that exist, those included whose release is not durable yet.
    pub(crate) fn companion_min(&self) -> Option<u64> {
        let state = self.shared.state.borrow();
        let existing = state.segments.values().map(|segment| segment.header.companion);
        existing.chain(state.retiring.values().copied()).min()
    }

    /// Sequences of the segments that exist, with the offset behind their last durable batch where it is known, and
    /// whether they are closed.
    pub(crate) fn segments(&self) -> Vec<SegmentView> {
        let state = self.shared.state.borrow();
        let view = |(sequence, segment): (&u64, &segments::Segment<FileOf<P>>)| SegmentView {
            header: segment.header,
            end: segment.end,
            live_bytes: segment.live.bytes(),
            damaged: segment.damaged,
            closed: state.current != Some(*sequence),
        };
        state.segments.iter().map(view).collect()
    }

    /// The header of a segment that exists.
    pub(crate) fn header(&self, segment: u64) -> Option<SegmentHeader> {
        self.shared.header(segment)
    }

    /// The place behind the last durable batch.
    pub(crate) fn end_last(&self) -> Option<(u64, u32)> {
        let state = self.shared.state.borrow();
        let ends = state.segments.iter().rev().filter_map(|(sequence, segment)| Some((*sequence, segment.end?)));
        ends.into_iter().find(|(_, end)| *end > FIRST_BATCH)
    }

    /// Why appends are refused at present, if they are.
    pub(crate) fn unavailable(&self) -> Option<Rc<str>> {
        self.shared.state.borrow().unavailable.as_ref().map(|(_, reason)| Rc::clone(reason))
    }

    /// Octets that a frame with this payload takes of [`Self::append_bytes_max`].
    pub(crate) fn frame_bytes(&self, payload: &[u8]) -> usize {
        FRAME_HEADER_BYTES + payload.len()
    }

    /// The highest sequence used so far.
    pub(crate) fn sequence_last(&self) -> u64 {
        self.shared.state.borrow().sequence_last
    }

    pub(crate) fn changed(&self) -> &Signal {
        &self.shared.changed
    }

    pub(crate) fn platform(&self) -> &P {
        &self.shared.platform
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.shared.dir
    }

    pub fn stats(&self) -> LogStats {
        let state = self.shared.state.borrow();
        LogStats {
            segments: state.segments.len(),
            segments_free: state.free.len(),
            segments_damaged: state.damaged.len(),
            bytes: state.segments.values().map(|segment| u64::from(segment.end.unwrap_or_default())).sum(),
            live_bytes: state.segments.values().map(|segment| segment.live.bytes()).sum(),
            frames_queued: state.frames_queued,
            bytes_queued: state.bytes_queued,
            ..state.counts
        }
    }
}

/// A segment as others see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentView {
    pub(crate) header: SegmentHeader,
    pub(crate) end: Option<u32>,
    pub(crate) live_bytes: u64,
    pub(crate) damaged: bool,
    pub(crate) closed: bool,
}

pub(crate) type FileOf<P> = <<P as Platform>::Disk as Disk>::File;
type DurableHook = Box<dyn FnMut(DurableBatch)>;

struct Shared<P: Platform> {
    platform: P,
    dir: PathBuf,
    kind: LogKind,
    shard: ShardId,
    state: RefCell<State<FileOf<P>>>,
    companion: RefCell<Box<dyn Fn() -> u64>>,
    on_durable: RefCell<Option<DurableHook>>,
    /// Something became durable, or was released.
    changed: Signal,
    /// A spare is ready, or could not be made.
    spare_changed: Signal,
}

/// Everything that changes. Borrowed between awaits only.
struct State<F> {
    queue: VecDeque<Queued>,
    frames_queued: usize,
    bytes_queued: usize,
    segments: BTreeMap<u64, segments::Segment<F>>,
    current: Option<u64>,
    /// The writer is to close the current segment before its next batch.
    close_wanted: bool,
    /// Closed last in this process, with the end of its acknowledged batches.
    closed_last: Option<(u64, u32)>,
    /// Released, not yet durably so: sequence and companion.
    retiring: BTreeMap<u64, u64>,
    /// Sequences in the names of free files.
    free: Vec<u64>,
    damaged: Vec<u64>,
    /// Segments that existed at the start and were not replayed yet; none is reused before all are.
    unreplayed: Vec<u64>,
    /// Segments whose files are open, the longest open first; the current one is not among them.
    open: VecDeque<u64>,
    spare: spare::Spare<F>,
    /// Of the segments that were begun.
    sequence_last: u64,
    random: Random,
    /// Why no segment could be begun, and when to try again.
    unavailable: Option<(Instant, Rc<str>)>,
    counts: LogStats,
}

/// One append that waits.
struct Queued {
    frames: Vec<NewFrame>,
    bytes: usize,
    done: Rc<Done>,
}

/// The answer to one append.
#[derive(Default)]
struct Done {
    answer: RefCell<Option<Result<Vec<Location>, AppendError>>>,
    waker: Cell<Option<Waker>>,
}

impl Done {
    fn answer(&self, answer: Result<Vec<Location>, AppendError>) {
        *self.answer.borrow_mut() = Some(answer);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, waker: &Waker) -> Poll<Result<Vec<Location>, AppendError>> {
        match self.answer.borrow_mut().take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.waker.set(Some(waker.clone()));
                Poll::Pending
            }
        }
    }
}

impl<P: Platform> Shared<P> {
    fn enqueue(&self, frames: Vec<NewFrame>) -> Result<Rc<Done>, AppendError> {
        let bytes: usize = frames.iter().map(|frame| FRAME_HEADER_BYTES + frame.payload.len()).sum();
        let largest = frames.iter().map(|frame| frame.payload.len()).max().unwrap_or_default();
        if largest > FRAME_PAYLOAD_MAX || bytes > self.batch_bytes_max() - BATCH_HEADER_BYTES {
            return Err(AppendError::TooLarge { bytes });
        }
        let mut state = self.state.borrow_mut();
        let count = frames.len();
        if state.queue.len() >= APPEND_QUEUE_MAX
            || state.frames_queued + count > APPEND_QUEUE_MAX
            || state.bytes_queued + bytes > APPEND_BYTES_MAX
        {
            return Err(AppendError::Full);
        }
        let done = Rc::new(Done::default());
        state.frames_queued += count;
        state.bytes_queued += bytes;
        state.queue.push_back(Queued { frames, bytes, done: Rc::clone(&done) });
        Ok(done)
    }

    /// A batch of the journal is never larger than what one pull gives.
    fn batch_bytes_max(&self) -> usize {
        match self.kind {
            LogKind::Spool => BATCH_BYTES_MAX,
            LogKind::Journal => JOURNAL_PULL_BYTES_MAX,
        }
    }

    fn header(&self, segment: u64) -> Option<SegmentHeader> {
        self.state.borrow().segments.get(&segment).map(|segment| segment.header)
    }
}

#[cfg(test)]
mod tests;
