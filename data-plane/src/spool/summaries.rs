//! Summaries of closed segments: written behind the log's back, read instead of the segments at the next start.
//!
//! The heads of what becomes durable gather in memory until their segment is closed. Then those that are still needed,
//! which are few where mail goes out at once, are written to `<sequence>.summary`. A summary is never needed: one that
//! was not written, or cannot be read, means that its segment is read whole.
//!
//! Invariant worth naming: a summary is written of a closed segment only, and lists every frame that was acknowledged
//! and is needed: a job that it leaves out would be lost at the next start.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use postrail_core::spool::segment::{BATCH_HEADER_BYTES, FRAME_HEADER_BYTES};
use postrail_core::spool::summary::{Summary, SummaryDraft};
use postrail_core::spool::{DecodeError, FRAME_TAG_JOB, JobMeta, Location, job_frame};

use super::Spool;
use crate::log::DurableBatch;
use crate::platform::{Disk, Platform};

const EXTENSION: &str = ".summary";
/// How the name of a summary ends whose writing a crash has cut off.
const UNFINISHED: &str = ".summary.new";
/// Jobs that are taken from a summary before other tasks run.
const JOBS_AT_A_TIME: usize = 256;

/// What reading a summary gave.
pub(super) struct SummaryRead {
    /// Where the segment ends.
    pub(super) end: u32,
    /// Octets read.
    pub(super) bytes: u64,
}

/// What is remembered for summaries.
#[derive(Default)]
pub(super) struct Summaries {
    /// By segment. `None`: it has more heads than a summary holds.
    drafts: RefCell<BTreeMap<u64, Option<SummaryDraft>>>,
    /// Segments that have a file.
    written: RefCell<BTreeSet<u64>>,
}

impl Summaries {
    /// Notes the heads of a batch that has just become durable.
    pub(super) fn note_batch(&self, batch: &DurableBatch) {
        let mut at = Location { segment: batch.segment, offset: batch.offset + BATCH_HEADER_BYTES as u32, bytes: 0 };
        for frame in &batch.frames {
            at.bytes = (FRAME_HEADER_BYTES + frame.payload.len()) as u32;
            if frame.tag == FRAME_TAG_JOB {
                let mut drafts = self.drafts.borrow_mut();
                let draft = drafts.entry(at.segment).or_insert_with(|| Some(SummaryDraft::default()));
                note(draft, at, &frame.payload);
            }
            at.offset += at.bytes;
        }
    }
}

/// Notes the head of the job in `payload`; a draft that it does not fit is given up.
pub(super) fn note(draft: &mut Option<SummaryDraft>, at: Location, payload: &[u8]) {
    if draft.as_mut().is_some_and(|draft| !draft.push(at, job_frame::without_content(payload))) {
        *draft = None;
    }
}

impl<P: Platform> Spool<P> {
    /// Writes the summaries of segments that were closed since the last call, and removes those of segments that are
    /// gone.
    pub async fn summarize(&self) {
        let drafted: Vec<u64> = self.index.summaries.drafts.borrow().keys().copied().collect();
        for segment in drafted {
            self.summarize_segment(segment).await;
        }
        let written: Vec<u64> = self.index.summaries.written.borrow().iter().copied().collect();
        for segment in written {
            if self.log.header(segment).is_none() {
                self.remove_summary(segment).await;
            }
        }
    }

    /// The summary of one segment, where it is closed. A failure is told and not repeated: the segment itself is there.
    pub(super) async fn summarize_segment(&self, segment: u64) {
        let view = self.log.segments().into_iter().find(|view| view.header.sequence == segment);
        if view.is_some_and(|view| !view.closed) {
            return;
        }
        let draft = self.index.summaries.drafts.borrow_mut().remove(&segment).flatten();
        let (Some(view), Some(mut draft)) = (view.filter(|view| !view.damaged), draft) else { return };
        let Some(end) = view.end else { return };
        draft.retain(segment, |at| self.log.is_live(at));
        let path = self.summary_path(segment);
        match self.log.platform().disk().write_file(&path, &draft.finish(&view.header, end)).await {
            Ok(()) => {
                self.index.summaries.written.borrow_mut().insert(segment);
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "summary not written"),
        }
    }

    /// Finds the summaries of the last run, and removes those that no segment has.
    pub(super) async fn find_summaries(&self) {
        let names = self.log.platform().disk().list(self.log.dir()).await.unwrap_or_default();
        let segments = names.iter().filter_map(|name| u64::from_str_radix(name.strip_suffix(EXTENSION)?, 16).ok());
        self.index.summaries.written.borrow_mut().extend(segments);
        for unfinished in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
            self.remove(&self.log.dir().join(unfinished)).await;
        }
        self.summarize().await;
    }

    /// Hands out the jobs of a segment by its summary; `None`: it has none that is of use.
    pub(super) async fn recover_by_summary(
        &self,
        segment: u64,
        take: &mut impl FnMut(Location, Result<JobMeta, DecodeError>),
    ) -> Option<SummaryRead> {
        if !self.index.summaries.written.borrow().contains(&segment) {
            return None;
        }
        let path = self.summary_path(segment);
        let bytes = self.log.platform().disk().read_file(&path).await;
        let bytes =
            bytes.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "summary not read")).ok()?;
        let identity = self.log.header(segment)?.identity();
        let Some(summary) = Summary::read(&bytes, identity) else {
            tracing::warn!(path = %path.display(), "summary of no use: its segment is read whole");
            return None;
        };
        for (count, (at, head)) in summary.heads().enumerate() {
            take(at, job_frame::decode_head(head));
            if count % JOBS_AT_A_TIME == JOBS_AT_A_TIME - 1 {
                self.log.platform().yield_now().await;
            }
        }
        Some(SummaryRead { end: summary.end, bytes: bytes.len() as u64 })
    }

    /// Writes the summary of a segment that recovery has read whole.
    pub(super) async fn summarize_recovered(&self, segment: u64, draft: Option<SummaryDraft>) {
        self.index.summaries.drafts.borrow_mut().insert(segment, draft);
        self.summarize_segment(segment).await;
    }

    async fn remove_summary(&self, segment: u64) {
        self.index.summaries.written.borrow_mut().remove(&segment);
        self.remove(&self.summary_path(segment)).await;
    }

    async fn remove(&self, path: &Path) {
        match self.log.platform().disk().remove(path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "summary not removed");
            }
            _ => {}
        }
    }

    fn summary_path(&self, segment: u64) -> PathBuf {
        self.log.dir().join(format!("{segment:016x}{EXTENSION}"))
    }
}
