//! Reads back what a log held when it was opened, once, window by window, while new appends go on.

use std::rc::Rc;

use postrail_core::spool::segment::{FORMAT_VERSION, Frame};
use postrail_core::spool::{Damage, Ending, Found, Scanner};
use postrail_schema::limits::{BLOCK_BYTES, DAMAGE_REPORTS_MAX, SEGMENT_BYTES};

use super::{FileOf, Log, segments};
use crate::platform::{BlockFile, Platform};

/// In which order segments are read; within one it is always the order of writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// Why a replay stopped. Nothing of the log was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("segment {segment} has batches of format version {found}, this binary supports {FORMAT_VERSION}")]
    NewerVersion { segment: u64, found: u16 },
}

/// What a replay met.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReplayReport {
    pub segments: usize,
    pub frames: u64,
    /// Octets read.
    pub bytes: u64,
    /// Last writes that were never acknowledged and were dropped.
    pub torn: u64,
    /// Places that were durable and cannot be read, the first [`DAMAGE_REPORTS_MAX`] of them.
    pub damaged: Vec<Damage>,
    pub damaged_count: u64,
}

impl ReplayReport {
    pub(crate) fn add_damage(&mut self, damage: Damage) {
        self.damaged_count += 1;
        if self.damaged.len() < DAMAGE_REPORTS_MAX {
            self.damaged.push(damage);
        }
    }
}

impl<P: Platform> Log<P> {
    /// Hands out every frame of the segments that existed at the start. Other tasks run between windows. Segments
    /// without a frame that [`Log::retain`] named are reused afterwards.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub async fn replay(&self, order: Order, mut f: impl FnMut(&Frame<'_>)) -> Result<ReplayReport, ReplayError> {
        let mut replay = self.begin_replay(order);
        while let Some(sequence) = replay.next_segment() {
            replay.segment(sequence, &mut f).await?;
        }
        Ok(replay.finish())
    }

    /// As [`Self::replay`], segment by segment.
    pub(crate) fn begin_replay(&self, order: Order) -> Replay<'_, P> {
        let mut sequences = self.shared.state.borrow().unreplayed.clone();
        if order == Order::NewestFirst {
            sequences.reverse();
        }
        Replay { log: self, sequences, next: 0, report: ReplayReport::default() }
    }

    async fn replay_segment(
        &self,
        sequence: u64,
        report: &mut ReplayReport,
        f: &mut impl FnMut(&Frame<'_>),
    ) -> Result<(), ReplayError> {
        let view = self.segments().into_iter().find(|view| view.header.sequence == sequence);
        let Some(view) = view else { return Ok(()) };
        report.segments += 1;
        let file = match self.shared.file(sequence).await {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(segment = sequence, %error, "segment not replayed");
                let bytes = SEGMENT_BYTES as u32;
                report.add_damage(Damage { segment: sequence, offset: 0, bytes, frames_kept: 0 });
                self.mark_damaged(sequence);
                return Ok(());
            }
        };
        let mut scanner = Scanner::new(view.header.identity(), view.end);
        while let Some((offset, bytes)) = scanner.want() {
            let window = read_around::<P>(&file, offset, bytes).await;
            report.bytes += window.len() as u64;
            scanner.handle(&window, &mut |found| match found {
                Found::Frame(frame) => {
                    report.frames += 1;
                    f(&frame);
                }
                Found::BatchEnd { .. } => {}
                Found::Damaged(damage) => {
                    tracing::error!(segment = sequence, offset = damage.offset, bytes = damage.bytes, "batch damaged");
                    report.add_damage(damage);
                    self.mark_damaged(sequence);
                }
            });
            self.shared.platform.yield_now().await;
        }
        segments::close(file).await;
        match scanner.ending() {
            Some(Ending::WrongVersion { found }) => Err(ReplayError::NewerVersion { segment: sequence, found }),
            Some(Ending::End { at }) => {
                self.ended(sequence, at);
                Ok(())
            }
            Some(Ending::TornTail { at }) => {
                report.torn += 1;
                self.ended(sequence, at);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn ended(&self, sequence: u64, at: u32) {
        if let Some(segment) = self.shared.state.borrow_mut().segments.get_mut(&sequence) {
            segment.end = Some(at);
            segment.live.close();
        }
    }
}

/// A replay under way. One that is dropped before its end leaves every segment as it is.
pub(crate) struct Replay<'a, P: Platform> {
    log: &'a Log<P>,
    sequences: Vec<u64>,
    next: usize,
    report: ReplayReport,
}

impl<P: Platform> Replay<'_, P> {
    /// The segment whose turn it is.
    pub(crate) fn next_segment(&mut self) -> Option<u64> {
        let sequence = self.sequences.get(self.next).copied();
        self.next += 1;
        sequence
    }

    /// Hands out every frame of a segment.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub(crate) async fn segment(&mut self, sequence: u64, f: &mut impl FnMut(&Frame<'_>)) -> Result<(), ReplayError> {
        self.log.replay_segment(sequence, &mut self.report, f).await
    }

    /// The caller knows a segment otherwise, and where it ends; it has read so many octets for that.
    pub(crate) fn skip(&mut self, sequence: u64, end: u32, bytes: u64) {
        self.report.segments += 1;
        self.report.bytes += bytes;
        self.log.ended(sequence, end);
    }

    /// Every segment has had its turn: those without a frame that [`Log::retain`] named are reused.
    pub(crate) fn finish(self) -> ReplayReport {
        self.log.shared.state.borrow_mut().unreplayed.clear();
        for sequence in self.sequences {
            self.log.shared.recycle_if_empty(sequence);
        }
        self.report
    }
}

/// Reads a window; blocks that the disk does not give are zeros, which no checksum takes for a frame.
pub(crate) async fn read_around<P: Platform>(file: &Rc<FileOf<P>>, offset: u32, bytes: u32) -> Vec<u8> {
    if let Ok(window) = file.read(offset.into(), bytes as usize).await {
        return window;
    }
    let mut window = vec![0; bytes as usize];
    for (at, block) in (u64::from(offset)..).step_by(BLOCK_BYTES).zip(window.chunks_mut(BLOCK_BYTES)) {
        if let Ok(read) = file.read(at, block.len()).await {
            block[..read.len()].copy_from_slice(&read);
        }
    }
    window
}
