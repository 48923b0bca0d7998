//! Copies jobs out of a segment that few of them keep, so that it can be reused.
//!
//! The copy says what became of each recipient so far, because once the old segment is gone the journal segments of its
//! time may go too. The order makes that safe:
//!
//! 1. the owner tells each recipient's state, and the host that the job is bound to;
//! 2. every event and note behind that becomes durable ([`JobOwner::recorded`]), so no copy says "settled" of a recipient
//!    whose settlement could still be lost;
//! 3. the copy is stored;
//! 4. the state is asked again: where it differs, the copy is dropped and a later round tries again;
//! 5. the owner hears the new place and the old frames are released, without an await between.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;

use futures_util::StreamExt as _;
use futures_util::stream;
use postrail_core::base::Timestamp;
use postrail_core::spool::job_frame::{Moved, Origin};
use postrail_core::spool::{Carried, Location};
use postrail_schema::allocation::HostName;
use postrail_schema::ids::MessageId;
use postrail_schema::limits::{COMPACTION_JOBS_MAX, SEGMENT_LIVE_PERCENT_MIN};

use super::{LoadError, Spool, StoreError};
use crate::platform::Platform;

/// Copies under way at a time: they share batches.
const MOVES_AT_A_TIME: usize = 32;

/// Who knows the state of jobs.
pub trait JobOwner {
    /// The state of each recipient of `message`. All settled where the owner does not hold it any more.
    fn carried_state(&self, message: MessageId, recipients: usize) -> Vec<Carried>;
    /// The host that `message` is bound to, if it is on its way to one.
    fn bound_to(&self, message: MessageId) -> Option<HostName>;
    /// Ends when the events and notes behind every state told so far are durable in the journal.
    fn recorded(&self) -> impl Future<Output = ()>;
    /// The job is at `to` from now on.
    fn moved(&self, message: MessageId, from: Location, to: Location);
}

/// Which segment is emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompactionReason {
    /// The oldest whose live share is under [`SEGMENT_LIVE_PERCENT_MIN`].
    LiveShare,
    /// The oldest, whatever is in it: the journal is kept for its sake.
    OldestSegment,
}

/// What one round did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CompactionReport {
    /// The segment, if one qualified.
    pub segment: Option<u64>,
    pub moved: usize,
    /// Jobs that were left where they are: settling, changing, or not readable.
    pub left: usize,
}

impl<P: Platform> Spool<P> {
    /// One round: at most [`COMPACTION_JOBS_MAX`] jobs of one segment. Does nothing before recovery is over.
    ///
    /// # Errors
    /// The first copy that could not be stored ends the round; nothing is lost.
    pub async fn compact(
        &self,
        owner: &impl JobOwner,
        reason: CompactionReason,
    ) -> Result<CompactionReport, StoreError> {
        let mut report = CompactionReport::default();
        if !self.index.recovered.get() {
            return Ok(report);
        }
        self.forget_moves();
        let Some(segment) = self.candidate(reason) else { return Ok(report) };
        report.segment = Some(segment);
        let counted = RefCell::new((0, 0, None));
        let totals = &counted;
        let moves = stream::iter(self.heads_in(segment)).for_each_concurrent(MOVES_AT_A_TIME, |from| async move {
            if totals.borrow().2.is_some() {
                return;
            }
            let result = self.move_job(owner, from).await;
            let mut totals = totals.borrow_mut();
            match result {
                Ok(true) => totals.0 += 1,
                Ok(false) => totals.1 += 1,
                Err(error) => totals.2 = Some(error),
            }
        });
        moves.await;
        let (moved, left, error) = counted.into_inner();
        match error {
            Some(error) => Err(error),
            None => Ok(CompactionReport { moved, left, ..report }),
        }
    }

    /// Forgets old places whose jobs are gone.
    fn forget_moves(&self) {
        let log = &self.log;
        self.index.jobs.borrow_mut().moved.retain(|_, to| log.is_live(*to));
    }

    fn candidate(&self, reason: CompactionReason) -> Option<u64> {
        let segments = self.log.segments();
        match reason {
            CompactionReason::LiveShare => {
                let sparse = |live: u64, end: u32| live * 100 < u64::from(end) * SEGMENT_LIVE_PERCENT_MIN;
                let mut closed = segments.iter().filter(|segment| segment.closed && !segment.damaged);
                closed.find(|s| s.end.is_some_and(|end| sparse(s.live_bytes, end))).map(|s| s.header.sequence)
            }
            CompactionReason::OldestSegment => {
                let oldest = segments.iter().find(|segment| !segment.damaged)?;
                if !oldest.closed {
                    self.log.close_current();
                }
                Some(oldest.header.sequence)
            }
        }
    }

    /// Heads of the jobs that have a live frame in `segment`.
    fn heads_in(&self, segment: u64) -> BTreeSet<Location> {
        let jobs = self.index.jobs.borrow();
        let live = self.log.live(segment, COMPACTION_JOBS_MAX).into_iter();
        live.map(|frame| jobs.heads.get(&frame).copied().unwrap_or(frame)).collect()
    }

    /// Copies one job. False where it stays where it is.
    async fn move_job(&self, owner: &impl JobOwner, from: Location) -> Result<bool, StoreError> {
        let meta = match self.load_meta(from).await {
            Ok(meta) => meta,
            Err(error) => {
                if !matches!(error, LoadError::Read(crate::log::ReadError::Released)) {
                    tracing::error!(segment = from.segment, offset = from.offset, %error, "job not moved");
                    self.log.mark_damaged(from.segment);
                }
                return Ok(false);
            }
        };
        let (message, recipients) = (meta.job.id, meta.job.recipients.len());
        let (before, bound_to) = (owner.carried_state(message, recipients), owner.bound_to(message));
        if before.iter().all(|recipient| recipient.settled) {
            return Ok(false);
        }
        owner.recorded().await;
        let moved = Moved { from, progress: before, bound_to };
        let to = self.append(&meta.job, Origin::Compaction(&moved)).await?;
        let after = owner.carried_state(message, recipients);
        let is_same = same(&moved.progress, &after) && owner.bound_to(message) == moved.bound_to;
        if !self.log.is_live(from) || !is_same {
            self.release(to);
            return Ok(false);
        }
        let chunks = self.index.jobs.borrow_mut().remove_chunks(from);
        self.index.jobs.borrow_mut().moved.insert(from, to);
        owner.moved(message, from, to);
        for frame in chunks.into_iter().chain([from]) {
            self.log.release(frame);
        }
        Ok(true)
    }
}

/// Whether nothing happened in between; when a waiting recipient is due next is no change.
fn same(before: &[Carried], after: &[Carried]) -> bool {
    let is_never = |carried: &Carried| carried.next_attempt == Timestamp::default();
    let key = |carried: &Carried| (carried.settled, carried.attempts, is_never(carried));
    before.iter().map(key).eq(after.iter().map(key))
}
