//! Mail whose source address another shard owns crosses once: the group's work goes over with its job, the outcome
//! comes back. The home shard keeps the spool, the schedule and the settlement; the owner keeps the path's limits.
//!
//! What stands in the owner's queue may have to stay unsent meanwhile. The owner looks before each attempt, as a shard does
//! at its own: by its snapshot for suppressions and suspensions, and for what the home shard has recalled because the
//! operator ended the job. It settles nothing of that itself, but gives the work back untried.

use std::sync::Arc;
use std::time::Duration;

use postrail_schema::event::AttemptFacts;
use postrail_schema::ids::{MessageId, RecipientIndex, Revision, ShardId, SourceId};
use smallvec::SmallVec;

use super::route::HAND_RETRY;
use super::{Group, GroupState, JobRef, NONE, Output, Shard, mail_facts};
use crate::base::{Instant, Moment};
use crate::egress::RecipientOutcome;
use crate::mail::Job;
use crate::rules::Placement;
use crate::schedule::WaitReason;

/// A group's work on its way to the shard that owns `source`.
#[derive(Clone, Debug)]
pub struct Work {
    pub origin: ShardId,
    /// The group at its origin.
    pub group: u32,
    pub source: SourceId,
    pub job: Arc<Job>,
    pub entry: u16,
    pub recipients: SmallVec<[RecipientIndex; 4]>,
    pub attempts: u16,
    /// The home shard wants it back, if nothing is under way with it.
    pub is_recalled: bool,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct HandBack {
    pub group: u32,
    pub result: HandResult,
}

#[derive(Clone, Debug)]
pub enum HandResult {
    /// It was tried, under that revision: one outcome a recipient.
    Tried { facts: Box<AttemptFacts>, revision: Revision, outcomes: Vec<RecipientOutcome> },
    /// Nothing was tried; it may be, after so many nanoseconds (`u64::MAX`: when configuration or addresses change).
    Wait {
        reason: WaitReason,
        nanos: u64,
        /// What the owner of the source worked under.
        revision: Revision,
    },
}

impl Shard {
    pub(super) fn hand(&mut self, group: u32, owner: ShardId, source: SourceId, job: Arc<Job>) {
        self.counters.handed += 1;
        let ours = &self.groups[group as usize];
        let work = Work {
            origin: self.config.shard,
            group,
            source,
            job,
            entry: ours.entry,
            recipients: ours.recipients.clone(),
            attempts: ours.attempts,
            is_recalled: false,
        };
        self.outputs.push_back(Output::Hand { to: owner, work: Box::new(work) });
    }

    /// Another shard's work becomes a group here.
    pub(super) fn take_work(&mut self, now: Moment, work: Work) {
        let first = usize::from(work.recipients[0].0);
        let domain = self.domains.intern(work.job.recipients[first].address.domain());
        let (entry, recipients, attempts) = (work.entry, work.recipients.clone(), work.attempts);
        let work = self.works.insert(work) as u32;
        let job = JobRef::Remote(work);
        let state = GroupState::Moving;
        let group = Group { job, entry, recipients, attempts, requeues: 0, domain, next: NONE, state };
        let group = self.new_group(group);
        self.route(now, group);
    }

    /// The operator has ended a job of which others may have work: nothing of it is to begin any more.
    pub(super) fn recall(&mut self, job: u32) {
        if self.groups_in(job).any(|group| self.groups[group as usize].state == GroupState::Handed) {
            self.outputs.push_back(Output::Recall(self.jobs[job as usize].id));
        }
    }

    /// Work of that job goes home when its turn comes. It may have gone already.
    pub(super) fn recalled(&mut self, message: MessageId) {
        let works = self.works.iter_mut().map(|(_, work)| work).filter(|work| work.job.id == message);
        works.for_each(|work| work.is_recalled = true);
    }

    /// Whether some of another shard's work is suppressed since that has looked. It is given back whole, for its own shard
    /// to settle what is.
    pub(super) fn is_to_be_suppressed_at_home(&self, group: u32) -> bool {
        let Group { job: JobRef::Remote(work), recipients, .. } = &self.groups[group as usize] else { return false };
        let job = &self.works[*work as usize].job;
        recipients.iter().any(|index| self.is_suppressed(job, *index))
    }

    pub(super) fn return_outcome(
        &mut self,
        group: u32,
        work: u32,
        facts: AttemptFacts,
        revision: Revision,
        outcomes: Vec<RecipientOutcome>,
    ) {
        self.give_back(group, work, HandResult::Tried { facts: Box::new(facts), revision, outcomes });
    }

    /// A group of another shard that cannot go on here goes home and waits there.
    pub(super) fn return_work(&mut self, now: Moment, group: u32, reason: WaitReason, due: Instant) {
        let JobRef::Remote(work) = self.groups[group as usize].job else { return };
        let nanos = if due == Instant::FAR { u64::MAX } else { due.since(now.instant).as_nanos() as u64 };
        let revision = self.rules.snapshot().revision;
        self.give_back(group, work, HandResult::Wait { reason, nanos, revision });
    }

    fn give_back(&mut self, group: u32, work: u32, result: HandResult) {
        self.drop_group(group);
        let work = self.works.remove(work as usize);
        let back = HandBack { group: work.group, result };
        self.outputs.push_back(Output::HandBack { to: work.origin, back: Box::new(back) });
    }

    /// The answer to [`Self::hand`].
    pub(super) fn hand_back(&mut self, now: Moment, back: HandBack) {
        assert_eq!(self.groups[back.group as usize].state, GroupState::Handed, "work comes back once");
        self.handed -= 1;
        self.groups[back.group as usize].state = GroupState::Moving;
        match back.result {
            HandResult::Tried { facts, revision, outcomes } => {
                self.settle_group(now, back.group, *facts, revision, outcomes);
            }
            HandResult::Wait { reason, nanos, revision } => {
                if let JobRef::Local(job) = self.groups[back.group as usize].job
                    && let Some(ending) = self.jobs[job as usize].ending()
                {
                    return self.end_by_operator(now, back.group, ending);
                }
                let due = match nanos {
                    u64::MAX if self.is_hasty(back.group, reason, revision) => now.instant + HAND_RETRY,
                    u64::MAX => Instant::FAR,
                    nanos => now.instant + Duration::from_nanos(nanos),
                };
                self.schedule(now, back.group, due, reason);
            }
        }
    }

    /// Whether work that came back to wait for a change may have to wait for none: shards hear of changes one after the
    /// other, and what it waits for may be the very change that this one has heard of already.
    fn is_hasty(&mut self, group: u32, reason: WaitReason, revision: Revision) -> bool {
        if reason.until_configured() && revision != self.rules.snapshot().revision {
            return true;
        }
        let mail = mail_facts(&self.jobs, &self.works, &self.domains, &self.groups[group as usize]);
        let mut placed = || self.rules.place(mail, &mut self.random);
        reason == WaitReason::AddressElsewhere && matches!(placed(), Placement::Here(_) | Placement::At(..))
    }

    /// Drops a group that has no recipients left.
    pub(super) fn drop_group_and_work(&mut self, group: u32) {
        if let JobRef::Remote(work) = self.groups[group as usize].job {
            let revision = self.revision();
            self.give_back(group, work, HandResult::Tried { facts: Box::default(), revision, outcomes: Vec::new() });
        } else {
            self.drop_group(group);
        }
    }
}
