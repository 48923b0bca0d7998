//! Jobs that something is under way with: their content, and who has it. A job that only waits has nothing here.
//!
//! Content is *fresh* from acceptance until every recipient has been tried or has to wait; it is kept within
//! [`FRESH_BYTES_MAX`], so that mail which goes out as fast as it comes in is never read back. Later attempts read the
//! job from the spool, and attempts of one job at one time share what was read.

use std::sync::{Arc, Weak};

use postrail_schema::limits::FRESH_BYTES_MAX;

use super::{Aim, AttemptSlot, JobRef, NONE, Shard};
use crate::mail::Job;

/// See the module head.
#[derive(Debug, Default)]
pub(super) struct ActiveJob {
    /// The job with its content, until no recipient is untried.
    fresh: Option<Arc<Job>>,
    /// Recipients that have neither been tried nor had to wait.
    untried: usize,
    /// The job as some attempt has it at present: the others share it.
    loaded: Weak<Job>,
    /// Attempts that wait for one read of the job; the first of them asked for it.
    loaders: Vec<u32>,
    /// Attempts under way.
    attempts: u32,
}

impl ActiveJob {
    /// The job, where it is in memory.
    pub(super) fn at_hand(&self) -> Option<Arc<Job>> {
        self.fresh.clone().or_else(|| self.loaded.upgrade())
    }

    /// Lets an attempt wait for the job; whether it is the first.
    pub(super) fn wait(&mut self, attempt: u32) -> bool {
        self.loaders.push(attempt);
        self.loaders.len() == 1
    }

    /// Those that waited for the job, which is here now or could not be read.
    pub(super) fn loaded(&mut self, job: Option<&Arc<Job>>) -> Vec<u32> {
        self.loaded = job.map(Arc::downgrade).unwrap_or_default();
        std::mem::take(&mut self.loaders)
    }
}

impl Shard {
    /// Keeps the content of a fresh job within the budget of all.
    pub(super) fn keep_fresh(&mut self, slot: u32, job: &Arc<Job>) {
        let bytes = job.content.len();
        if self.fresh_bytes + bytes > FRESH_BYTES_MAX {
            return;
        }
        self.fresh_bytes += bytes;
        let active = self.active_job(slot);
        active.fresh = Some(job.clone());
        active.untried = job.recipients.len();
    }

    /// So many recipients of the job have been tried, or have to wait.
    pub(super) fn tried(&mut self, job: u32, recipients: usize) {
        let Some(active) = self.jobs.get(job as usize).and_then(|slot| self.active.get_mut(slot.active as usize))
        else {
            return;
        };
        active.untried = active.untried.saturating_sub(recipients);
        if active.untried == 0 {
            self.drop_fresh(job);
        }
    }

    fn drop_fresh(&mut self, job: u32) {
        let Some(active) = self.jobs.get(job as usize).and_then(|slot| self.active.get_mut(slot.active as usize))
        else {
            return;
        };
        if let Some(fresh) = active.fresh.take() {
            self.fresh_bytes -= fresh.content.len();
        }
        self.rest(job);
    }

    /// The job has settled: nothing of it is kept.
    pub(super) fn forget_active(&mut self, active: u32) {
        if let Some(active) = self.active.try_remove(active as usize)
            && let Some(fresh) = active.fresh
        {
            self.fresh_bytes -= fresh.content.len();
        }
    }

    /// What is under way with a job of ours.
    pub(super) fn active_job(&mut self, job: u32) -> &mut ActiveJob {
        let slot = &mut self.jobs[job as usize];
        if slot.active == NONE {
            slot.active = self.active.insert(ActiveJob::default()) as u32;
        }
        &mut self.active[slot.active as usize]
    }

    /// Counts an attempt, whose job is loaded next.
    pub(super) fn begin_attempt(&mut self, slot: AttemptSlot) -> u32 {
        if let JobRef::Local(job) = self.groups[slot.group as usize].job {
            self.active_job(job).attempts += 1;
        }
        self.attempts.insert(slot) as u32
    }

    /// Takes an attempt back that led to no transaction.
    pub(super) fn end_attempt(&mut self, attempt: u32) -> AttemptSlot {
        let slot = self.remove_attempt(attempt);
        if let Aim::Hand(..) = slot.aim {
            self.handed -= 1;
        }
        slot
    }

    /// Forgets an attempt, while its group is still there.
    pub(super) fn remove_attempt(&mut self, attempt: u32) -> AttemptSlot {
        let slot = self.attempts.remove(attempt as usize);
        if let JobRef::Local(job) = self.groups[slot.group as usize].job
            && let Some(active) = self.jobs.get(job as usize).and_then(|slot| self.active.get_mut(slot.active as usize))
        {
            active.attempts -= 1;
            self.rest(job);
        }
        slot
    }

    /// Forgets what is remembered of a job that nothing is under way with.
    fn rest(&mut self, job: u32) {
        let slot = &mut self.jobs[job as usize];
        let Some(active) = self.active.get(slot.active as usize) else { return };
        if active.fresh.is_none() && active.attempts == 0 {
            assert!(active.loaders.is_empty(), "only attempts wait for a read");
            self.active.remove(slot.active as usize);
            slot.active = NONE;
        }
    }
}
