//! The one task that writes a log: group commit.
//!
//! While a batch is on its way to the disk, appends gather; the next batch takes them all. Batches begin at least
//! [`Shared::gathering`] apart, since on a fast disk every append would else pay for a sync of its own; a lone append
//! after a pause does not wait, and neither does a batch that is large enough.

use std::rc::Rc;
use std::time::Duration;

use postrail_core::base::Instant;
use postrail_core::spool::segment::{BATCH_HEADER_BYTES, BatchWriter, FIRST_BATCH, Identity, padded};
use postrail_core::spool::{Location, LogKind, SegmentHeader};
use postrail_schema::limits::{
    BLOCK_BYTES, JOURNAL_GATHERING, LOG_GATHER_BYTES, LOG_RETRY_DELAY, SEGMENT_BYTES, SEGMENTS_FREE_MAX,
    SPOOL_GATHERING,
};

use super::segments::{FileKind, Segment, close};
use super::{AppendError, DurableBatch, FileOf, Queued, Shared};
use crate::platform::{BlockFile, Disk, Platform};
use crate::vital::Vital;

/// Where the next batch goes.
struct Place<F> {
    file: Rc<F>,
    identity: Identity,
    number: u64,
    offset: u32,
}

/// Writes until the last handle of the log is gone and everything queued is answered.
pub(super) async fn run<P: Platform>(shared: Rc<Shared<P>>, woken: async_channel::Receiver<()>) {
    let _vital = Vital("log writer");
    let mut begun = shared.platform.now();
    loop {
        shared.gather(begun).await;
        let batch = shared.take_batch();
        if !batch.is_empty() {
            begun = shared.platform.now();
            shared.commit(batch).await;
        } else if woken.recv().await.is_err() {
            break;
        }
    }
    let files: Vec<_> = shared.state.borrow_mut().segments.values_mut().filter_map(|s| s.file.take()).collect();
    for file in files {
        close(file).await;
    }
    shared.leave_spare().await;
}

impl<P: Platform> Shared<P> {
    /// Waits until a batch may begin that follows one begun at `last`.
    async fn gather(&self, last: Instant) {
        let until = last + self.gathering();
        let waits = {
            let state = self.state.borrow();
            !state.queue.is_empty() && state.bytes_queued < LOG_GATHER_BYTES
        };
        if waits && self.platform.now() < until {
            self.platform.sleep_until(until).await;
        }
    }

    /// The least time from the beginning of one batch to that of the next. Clients wait for the spool; nobody waits for
    /// the journal.
    fn gathering(&self) -> Duration {
        match self.kind {
            LogKind::Spool => SPOOL_GATHERING,
            LogKind::Journal => JOURNAL_GATHERING,
        }
    }

    /// All that waits, up to a batch.
    fn take_batch(&self) -> Vec<Queued> {
        let mut state = self.state.borrow_mut();
        let mut bytes = BATCH_HEADER_BYTES;
        let mut count = 0;
        for queued in &state.queue {
            if bytes + queued.bytes > self.batch_bytes_max() {
                break;
            }
            bytes += queued.bytes;
            count += 1;
        }
        let batch: Vec<_> = state.queue.drain(..count).collect();
        state.frames_queued -= batch.iter().map(|queued| queued.frames.len()).sum::<usize>();
        state.bytes_queued -= batch.iter().map(|queued| queued.bytes).sum::<usize>();
        batch
    }

    /// Writes, syncs and answers one batch.
    async fn commit(self: &Rc<Self>, mut batch: Vec<Queued>) {
        if batch.iter().all(|queued| queued.frames.is_empty()) {
            batch.iter().for_each(|queued| queued.done.answer(Ok(Vec::new())));
            return;
        }
        let bytes = BATCH_HEADER_BYTES + batch.iter().map(|queued| queued.bytes).sum::<usize>();
        let written = match self.place(padded(bytes)).await {
            Ok(place) => self.write(place, &batch, bytes).await,
            Err(reason) => Err(reason),
        };
        match written {
            Ok((locations, offset)) => self.committed(&mut batch, &locations, offset, bytes),
            Err(reason) => {
                self.state.borrow_mut().counts.failures += 1;
                let error = AppendError::Unavailable { reason };
                batch.iter().for_each(|queued| queued.done.answer(Err(error.clone())));
            }
        }
    }

    /// One write, one sync. Answers the locations of all frames and where the batch is.
    async fn write(
        self: &Rc<Self>,
        place: Place<FileOf<P>>,
        batch: &[Queued],
        bytes: usize,
    ) -> Result<(Vec<Location>, u32), Rc<str>> {
        let mut buffer = place.file.buffer(padded(bytes));
        let mut writer = BatchWriter::new(buffer.as_mut(), place.identity, place.number, place.offset);
        let frames = batch.iter().flat_map(|queued| &queued.frames);
        let locations: Vec<_> = frames.map(|frame| writer.push(frame.tag, &frame.payload)).collect();
        let header = writer.finish();
        assert_eq!(header.bytes as usize, bytes, "what was counted is what was written");
        let mut result = place.file.write(place.offset.into(), buffer).await;
        if result.is_ok() {
            result = place.file.sync().await;
        }
        let Err(error) = result else { return Ok((locations, place.offset)) };
        tracing::error!(log = self.kind.name(), shard = self.shard.0, segment = place.identity.sequence, %error, "batch not written");
        // Nothing is known of this batch: the segment ends before it, and the next header says so.
        self.close_current();
        Err(error.to_string().into())
    }

    fn committed(self: &Rc<Self>, batch: &mut [Queued], locations: &[Location], offset: u32, bytes: usize) {
        let next = offset + padded(bytes) as u32;
        let segment_sequence = locations.first().map_or(0, |location| location.segment);
        {
            let mut state = self.state.borrow_mut();
            state.counts.batches += 1;
            state.counts.frames += locations.len() as u64;
            let segment = state.segments.get_mut(&segment_sequence).expect("the segment being written exists");
            segment.end = Some(next);
            segment.number += 1;
            if self.kind == LogKind::Spool {
                locations.iter().for_each(|location| segment.live.retain(*location));
            }
        }
        if let Some(hook) = self.on_durable.borrow_mut().as_mut() {
            let frames = batch.iter_mut().map(|queued| (queued.frames.len(), std::mem::take(&mut queued.frames)));
            let (counts, frames): (Vec<_>, Vec<_>) = frames.unzip();
            let frames = frames.into_iter().flatten().collect();
            hook(DurableBatch { segment: segment_sequence, offset, next, frames });
            answer(batch, counts, locations);
        } else {
            let counts = batch.iter().map(|queued| queued.frames.len()).collect();
            answer(batch, counts, locations);
        }
        self.changed.notify();
        self.want_spare(next);
    }

    /// The place for a batch of `bytes`, in the current segment or in a new one.
    async fn place(self: &Rc<Self>, bytes: usize) -> Result<Place<FileOf<P>>, Rc<str>> {
        if let Some(place) = self.place_in_current(bytes) {
            return Ok(place);
        }
        self.close_current();
        let now = self.platform.now();
        if let Some((again, reason)) = &self.state.borrow().unavailable
            && now < *again
        {
            return Err(Rc::clone(reason));
        }
        match self.begin().await {
            Ok(()) => {
                self.state.borrow_mut().unavailable = None;
                self.place_in_current(bytes).ok_or_else(|| "a new segment has no room".into())
            }
            Err(error) => {
                tracing::error!(log = self.kind.name(), shard = self.shard.0, %error, "segment not begun");
                let reason: Rc<str> = error.to_string().into();
                self.state.borrow_mut().unavailable = Some((now + LOG_RETRY_DELAY, Rc::clone(&reason)));
                Err(reason)
            }
        }
    }

    fn place_in_current(&self, bytes: usize) -> Option<Place<FileOf<P>>> {
        let state = self.state.borrow();
        if state.close_wanted {
            return None;
        }
        let segment = state.segments.get(&state.current?)?;
        let offset = segment.end.unwrap_or(FIRST_BATCH);
        let fits = u64::from(offset) + bytes as u64 <= SEGMENT_BYTES;
        let file = segment.file.as_ref().filter(|_| fits)?;
        Some(Place { file: Rc::clone(file), identity: segment.header.identity(), number: segment.number, offset })
    }

    /// Begins the next segment.
    async fn begin(self: &Rc<Self>) -> std::io::Result<()> {
        let (sequence, file) = self.take_spare().await?;
        let companion = (self.companion.borrow())();
        let header = {
            let mut state = self.state.borrow_mut();
            state.sequence_last = sequence;
            let (previous, previous_end) = state.closed_last.unwrap_or_default();
            SegmentHeader {
                kind: self.kind,
                shard: self.shard,
                generation: state.random.next_u64(),
                sequence,
                previous,
                previous_end,
                companion,
            }
        };
        let mut block = file.buffer(BLOCK_BYTES);
        header.write(block.as_mut());
        let mut written = file.write(0, block).await;
        if written.is_ok() {
            written = file.sync().await;
        }
        if let Err(error) = written {
            file.close().await;
            self.remove_file(sequence).await;
            return Err(error);
        }
        let mut state = self.state.borrow_mut();
        state.segments.insert(sequence, Segment::new(header, Some(Rc::new(file)), Some(FIRST_BATCH)));
        state.current = Some(sequence);
        Ok(())
    }

    /// Renames the file of a released segment, in a task of its own: releasing is not worth waiting for.
    pub(super) fn retire_later(self: &Rc<Self>, sequence: u64, retired: (Option<Rc<FileOf<P>>>, FileKind)) {
        let shared = Rc::clone(self);
        self.platform.spawn("log recycling", async move {
            let (file, kind) = retired;
            if let Some(file) = file {
                close(file).await;
            }
            if let Err(error) = shared.retire(sequence, kind).await {
                // It stays among the retiring ones, so nothing that its jobs need is forgotten before a restart.
                tracing::warn!(log = shared.kind.name(), shard = shared.shard.0, sequence, %error, "segment not recycled");
            }
        });
    }

    async fn retire(&self, sequence: u64, kind: FileKind) -> std::io::Result<()> {
        let disk = self.platform.disk();
        disk.rename(&self.path(sequence, FileKind::Segment), &self.path(sequence, kind)).await?;
        disk.sync_dir(&self.dir).await?;
        let surplus = {
            let mut state = self.state.borrow_mut();
            state.retiring.remove(&sequence);
            if kind == FileKind::Damaged {
                state.damaged.push(sequence);
                None
            } else {
                // The highest sequence stays in a name, so that none is ever used twice.
                state.free.push(sequence);
                state.free.sort_unstable();
                (state.free.len() > SEGMENTS_FREE_MAX).then(|| state.free.remove(0))
            }
        };
        self.changed.notify();
        match surplus {
            Some(lowest) => disk.remove(&self.path(lowest, FileKind::Free)).await,
            None => Ok(()),
        }
    }
}

/// Gives every append its share of the locations.
fn answer(batch: &[Queued], counts: Vec<usize>, locations: &[Location]) {
    let mut rest = locations;
    for (queued, count) in batch.iter().zip(counts) {
        let (own, others) = rest.split_at(count);
        rest = others;
        queued.done.answer(Ok(own.to_vec()));
    }
}
