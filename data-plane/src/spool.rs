//! The spool of one shard: jobs, durable before anyone is told 250 or 202, until their last recipient has settled.
//!
//! ```text
//! store --> chunks (large content), then head --> Location --> release, when all recipients have settled durably
//!                                                    |
//!                                        compaction: copied forward, `moved`
//! ```
//!
//! A spool segment is reused when nothing in it is needed. Compaction copies the few jobs that keep a nearly empty
//! segment, or the oldest one where the journal has grown too large for its sake. A copy carries what became of the
//! recipients, so that journal segments from before the copy are not needed for it.
//!
//! Invariants worth naming:
//! - a job exists from the moment its head is durable: content chunks without a head are dropped by recovery;
//! - of a job and its copy, recovery tells the copy only; the old segment goes after the copy is durable;
//! - above [`SPOOL_HIGH_WATER_PERCENT`] of the disk nothing is accepted, so that settlements still can be written.
//!
//! Deliberately absent: when a job is due, and what became of it (the journal has that).

mod compaction;
mod summaries;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use postrail_core::mail::Job;
use postrail_core::spool::job_frame::{self, Encoded, Origin};
use postrail_core::spool::segment::{FRAME_VERSION, Frame};
use postrail_core::spool::summary::SummaryDraft;
use postrail_core::spool::{
    Damage, DecodeError, EncodeError, FRAME_TAG_CHUNK, FRAME_TAG_JOB, JobMeta, Location, LogKind,
};
use postrail_schema::ids::ShardId;
use postrail_schema::limits::{SPOOL_HIGH_WATER_PERCENT, SPOOL_USAGE_PERIOD};

use crate::journal::Journal;
use crate::log::{AppendError, Log, NewFrame, Order, ReadError, ReplayError};
use crate::platform::{Disk, Platform};

pub use crate::log::OpenError;
pub use compaction::{CompactionReason, CompactionReport, JobOwner};

/// Why a job was not stored. Nothing of it will be sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the disk is {used_percent}% full")]
    DiskFull { used_percent: u8 },
    #[error("too many jobs wait to be written")]
    Full,
    #[error("the spool does not take writes: {reason}")]
    Unavailable { reason: Rc<str> },
    #[error("the job takes {bytes} octets, more than the spool's format holds")]
    TooLarge { bytes: usize },
}

/// Why a job was not read back.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the job's frames cannot be read")]
    Read(#[source] ReadError),
    #[error("the job's frames cannot be understood")]
    Decode(#[source] DecodeError),
    #[error("there is no job at this place")]
    NotAJob,
}

/// What recovery met.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    pub jobs: u64,
    /// Octets read.
    pub bytes: u64,
    /// Last writes that were never acknowledged and were dropped.
    pub torn: u64,
    /// Places that were durable and cannot be read; their segments are set aside once their other jobs are done.
    pub damaged: Vec<Damage>,
}

/// Counts of one spool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SpoolStats {
    /// Octets of batches in segments that exist, and of frames that are still needed.
    pub bytes: u64,
    pub live_bytes: u64,
    pub segments: usize,
    /// Segments with damage, set aside or still in use.
    pub damaged: usize,
    /// Why nothing is accepted at present, if so.
    pub refusing: Option<String>,
    /// Since the start.
    pub batches: u64,
    pub frames: u64,
    pub failures: u64,
}

/// A handle of one shard's spool.
pub struct Spool<P: Platform> {
    log: Log<P>,
    index: Rc<Index>,
}

impl<P: Platform> Clone for Spool<P> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), index: Rc::clone(&self.index) }
    }
}

/// What is remembered beside the log's count of live frames.
#[derive(Default)]
struct Index {
    jobs: RefCell<JobIndex>,
    /// Percent of the disk in use, as last seen.
    used_percent: Cell<u8>,
    recovered: Cell<bool>,
    summaries: summaries::Summaries,
}

#[derive(Default)]
struct JobIndex {
    /// Chunks of the jobs that have some, by the location of their head; and the inverse.
    chunks: BTreeMap<Location, Vec<Location>>,
    heads: BTreeMap<Location, Location>,
    /// Where compaction moved jobs to, for owners that still know the old place.
    moved: BTreeMap<Location, Location>,
}

impl JobIndex {
    fn add_chunks(&mut self, head: Location, chunks: Vec<Location>) {
        if !chunks.is_empty() {
            self.heads.extend(chunks.iter().map(|chunk| (*chunk, head)));
            self.chunks.insert(head, chunks);
        }
    }

    fn remove_chunks(&mut self, head: Location) -> Vec<Location> {
        let chunks = self.chunks.remove(&head).unwrap_or_default();
        for chunk in &chunks {
            self.heads.remove(chunk);
        }
        chunks
    }
}

impl<P: Platform> Spool<P> {
    /// Opens `<data>/spool/shard-NNN`. Jobs can be stored at once; those it held wait for [`Self::recover`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(platform: P, data: &Path, shard: ShardId) -> Result<Self, OpenError> {
        let seed = platform.entropy();
        let log = Log::open(platform.clone(), data, shard, LogKind::Spool, seed).await?;
        let index = Rc::new(Index::default());
        let noted = Rc::clone(&index);
        log.on_durable(move |batch| noted.summaries.note_batch(&batch));
        let dir = log.dir().to_path_buf();
        if let Ok(usage) = platform.disk().usage(&dir).await {
            index.used_percent.set(usage.used_percent);
        }
        let watched = Rc::downgrade(&index);
        let clock = platform.clone();
        platform.spawn("spool usage", async move { watch_usage(clock, &dir, watched).await });
        Ok(Self { log, index })
    }

    /// Lets the headers of new segments tell which journal segments their jobs need. Called before the first
    /// [`Self::store`]; until then the whole journal counts as needed.
    pub fn follow(&self, journal: &Journal<P>) {
        let journal = journal.clone();
        self.log.set_companion(move || journal.position());
    }

    /// Stores a job; durable when this answers well.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn store(&self, job: &Job) -> Result<Location, StoreError> {
        self.check_room()?;
        self.append(job, Origin::Submission).await
    }

    /// Stores a job that another host sent, with what had become of its recipients there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn store_taken(&self, meta: &JobMeta) -> Result<Location, StoreError> {
        self.check_room()?;
        self.append(&meta.job, Origin::Transfer(&meta.progress)).await
    }

    /// Stores a report of our own, also above the high-water mark: it comes before a settlement, and settlements are
    /// what makes room.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn store_report(&self, report: &Job) -> Result<Location, StoreError> {
        self.append(report, Origin::Submission).await
    }

    /// Reads a whole job back, content included.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn load(&self, at: Location) -> Result<Job, LoadError> {
        Ok(self.load_meta(self.current(at)).await?.job)
    }

    /// Says that all recipients of the job have settled durably. Its frames are not needed any more.
    pub fn release(&self, at: Location) {
        let at = self.current(at);
        let chunks = self.index.jobs.borrow_mut().remove_chunks(at);
        for frame in chunks.into_iter().chain([at]) {
            self.log.release(frame);
        }
    }

    /// Hands out every job that the spool held when it was opened, once, without its content, the newest segments
    /// first. Other tasks run meanwhile, and new jobs may be stored.
    ///
    /// # Errors
    /// See [`ReplayError`]; damaged places are in the report, and passed over.
    pub async fn recover(&self, mut f: impl FnMut(JobMeta, Location)) -> Result<RecoveryReport, ReplayError> {
        self.find_summaries().await;
        let (mut jobs, mut damaged, mut superseded) = (0, Vec::new(), BTreeSet::new());
        let mut take = |at: Location, decoded: Result<JobMeta, DecodeError>| match decoded {
            _ if superseded.contains(&at) => {}
            Ok(meta) => {
                superseded.extend(meta.moved_from);
                self.log.retain(at);
                meta.chunks.iter().for_each(|chunk| self.log.retain(*chunk));
                self.index.jobs.borrow_mut().add_chunks(at, meta.chunks.clone());
                jobs += 1;
                f(meta, at);
            }
            Err(error) => {
                tracing::error!(segment = at.segment, offset = at.offset, %error, "job not understood");
                self.log.mark_damaged(at.segment);
                damaged.push(Damage::from(at));
            }
        };
        let mut replay = self.log.begin_replay(Order::NewestFirst);
        while let Some(segment) = replay.next_segment() {
            if let Some(read) = self.recover_by_summary(segment, &mut take).await {
                replay.skip(segment, read.end, read.bytes);
                continue;
            }
            let mut draft = Some(SummaryDraft::default());
            replay.segment(segment, &mut |frame| recover_frame(frame, &mut draft, &mut take)).await?;
            self.summarize_recovered(segment, draft).await;
        }
        let mut report = replay.finish();
        damaged.into_iter().for_each(|damage| report.add_damage(damage));
        self.index.recovered.set(true);
        Ok(RecoveryReport { jobs, bytes: report.bytes, torn: report.torn, damaged: report.damaged })
    }

    /// The earliest journal segment that recovery of this spool needs; `None` where the spool has no segment.
    pub fn oldest_birth(&self) -> Option<u64> {
        self.log.companion_min()
    }

    pub fn stats(&self) -> SpoolStats {
        let log = self.log.stats();
        let used_percent = self.index.used_percent.get();
        let damaged = self.log.segments().iter().filter(|segment| segment.damaged).count();
        let refusing = (used_percent >= SPOOL_HIGH_WATER_PERCENT)
            .then(|| StoreError::DiskFull { used_percent }.to_string())
            .or_else(|| self.log.unavailable().map(|reason| StoreError::Unavailable { reason }.to_string()));
        SpoolStats {
            bytes: log.bytes,
            live_bytes: log.live_bytes,
            segments: log.segments,
            damaged: damaged + log.segments_damaged,
            refusing,
            batches: log.batches,
            frames: log.frames,
            failures: log.failures,
        }
    }

    /// Where a job is that was at `at`.
    fn current(&self, at: Location) -> Location {
        let jobs = self.index.jobs.borrow();
        let mut at = at;
        while let Some(to) = jobs.moved.get(&at) {
            at = *to;
        }
        at
    }

    fn check_room(&self) -> Result<(), StoreError> {
        let used_percent = self.index.used_percent.get();
        if used_percent < SPOOL_HIGH_WATER_PERCENT { Ok(()) } else { Err(StoreError::DiskFull { used_percent }) }
    }

    async fn append(&self, job: &Job, origin: Origin<'_>) -> Result<Location, StoreError> {
        match job_frame::encode(job, origin)? {
            Encoded::Whole(payload) => self.append_head(payload).await,
            Encoded::Chunked { head, chunks } => {
                let mut stored = Stored { log: &self.log, frames: Vec::with_capacity(chunks.len()) };
                for payload in chunks {
                    let frame = NewFrame { tag: FRAME_TAG_CHUNK, payload };
                    stored.frames.extend(self.log.append(vec![frame]).await?);
                }
                let at = self.append_head(head.finish(&stored.frames)).await?;
                self.index.jobs.borrow_mut().add_chunks(at, std::mem::take(&mut stored.frames));
                Ok(at)
            }
        }
    }

    async fn append_head(&self, payload: Vec<u8>) -> Result<Location, StoreError> {
        let locations = self.log.append(vec![NewFrame { tag: FRAME_TAG_JOB, payload }]).await?;
        Ok(*locations.first().expect("an append answers a location for each frame"))
    }

    async fn load_meta(&self, at: Location) -> Result<JobMeta, LoadError> {
        let head = self.load_frame(at, FRAME_TAG_JOB).await?;
        let mut meta = job_frame::decode(&head).map_err(LoadError::Decode)?;
        if !meta.chunks.is_empty() {
            let mut chunks = Vec::with_capacity(meta.chunks.len());
            for chunk in &meta.chunks {
                chunks.push(self.load_frame(*chunk, FRAME_TAG_CHUNK).await?);
            }
            job_frame::join(&mut meta.job, &chunks).map_err(LoadError::Decode)?;
        }
        Ok(meta)
    }

    async fn load_frame(&self, at: Location, tag: u8) -> Result<Bytes, LoadError> {
        let (found, payload) = self.log.read(at).await.map_err(LoadError::Read)?;
        if found == tag { Ok(payload) } else { Err(LoadError::NotAJob) }
    }
}

/// What recovery does with a frame: chunks are found by their head.
fn recover_frame(
    frame: &Frame<'_>,
    draft: &mut Option<SummaryDraft>,
    take: &mut impl FnMut(Location, Result<JobMeta, DecodeError>),
) {
    match (frame.tag, frame.version) {
        (FRAME_TAG_CHUNK, FRAME_VERSION) => {}
        (FRAME_TAG_JOB, FRAME_VERSION) => {
            summaries::note(draft, frame.location, frame.payload);
            take(frame.location, job_frame::decode_meta(frame.payload));
        }
        (tag, _) => take(frame.location, Err(DecodeError::UnknownRecord { tag })),
    }
}

/// Chunks of a job whose head is not durable yet: released if it never will be.
struct Stored<'a, P: Platform> {
    log: &'a Log<P>,
    frames: Vec<Location>,
}

impl<P: Platform> Drop for Stored<'_, P> {
    fn drop(&mut self) {
        for frame in &self.frames {
            self.log.release(*frame);
        }
    }
}

/// Looks at the disk's usage until the spool is gone.
async fn watch_usage<P: Platform>(platform: P, dir: &Path, index: Weak<Index>) {
    loop {
        platform.sleep_until(platform.now() + SPOOL_USAGE_PERIOD).await;
        if index.strong_count() == 0 {
            return;
        }
        let usage = platform.disk().usage(dir).await;
        let Some(index) = index.upgrade() else { return };
        match usage {
            Ok(usage) => index.used_percent.set(usage.used_percent),
            Err(error) => tracing::warn!(%error, "disk usage unknown"),
        }
    }
}

impl From<AppendError> for StoreError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full => Self::Full,
            AppendError::Unavailable { reason } => Self::Unavailable { reason },
            AppendError::TooLarge { bytes } => Self::TooLarge { bytes },
        }
    }
}

impl From<EncodeError> for StoreError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::HeadTooLarge { bytes } | EncodeError::ContentTooLarge { bytes } => Self::TooLarge { bytes },
        }
    }
}
