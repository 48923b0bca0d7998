//! One shard's heart: moves ids from stage to stage. Pure: pumps bring inputs and carry out outputs.
//!
//! ```text
//!            Accepted / Recovered                   Outcome
//!  (spool) ------------------------> groups --+ <------------------- (egress)
//!                                      |      |
//!                       scheduled --> route --+--> parked (suspended, no source)
//!                                      |  \-----> another shard (Hand ... HandBack)
//!                                   resolving
//!                                      |
//!                                 path's ready queue --> session --> Transact
//!                                                                      |
//!                        Record { events, notes, finished, .. } <---------+--> scheduled again
//! ```
//!
//! A *group* is what is tried together: recipients of one entry with one recipient domain and one attempt count. A job
//! stays here until its last recipient settles; its content stays in memory only until it has been tried or has to wait,
//! and only within a budget. What waits costs a [`JobSlot`] and a [`Group`], whose sizes are checked below: the rest of a
//! job is read from the spool when its turn comes.
//!
//! Invariants worth naming: a group is in exactly one [`GroupState`]; a recipient leaves only by a settling event that
//! is in a [`Record`]; nothing starts on a path that is blocked, backs off or is at its limit; a suppressed recipient
//! is dropped at the start of every attempt under the snapshot of that moment, of whichever shard sends it.
//!
//! Deliberately absent: message content (sign renders it), sockets, files, clocks.

mod accepted;
mod active;
mod attempt;
mod campaigns;
mod command;
mod domains;
mod exchange;
mod hand;
mod recover;
mod route;
mod settle;
mod shaping;
mod tls;
mod transfer;
mod view;
mod window;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use postrail_schema::ids::{MessageId, RecipientIndex, Revision, ShardId, SourceId, TenantId};
use postrail_schema::limits::{JOB_RECIPIENTS_MAX, WAITING_RECIPIENTS_MAX, WAITING_RECIPIENTS_RESERVED};
use postrail_schema::policy::RetryDelays;
use postrail_schema::selector::MailFacts;
use postrail_schema::snapshot::{Snapshot, TrafficClass};
use slab::Slab;
use smallvec::SmallVec;

use crate::base::{IndexTable, Instant, Map, MapSeed, Moment, Random, Timestamp};
use crate::egress::Capabilities;
use crate::lease::Held;
use crate::mail::{Interface, Job};
use crate::rules::Rules;
use crate::schedule::{Gates, Path, PathKey, Reserves, ScheduledQueue, WaitReason};
use crate::spool::Location;

pub use command::{BeingMoved, Command, CommandTarget};
pub use exchange::{Config, Counters, Input, Lookup, Output, Record, SessionPlan, Transact};
pub use hand::{HandBack, HandResult, Work};
pub use transfer::Leaving;
pub use view::{MessageView, QuarantinePage, QuarantineQuery, QueueView};

use active::ActiveJob;
use campaigns::Campaigns;
use domains::Domains;
use recover::RecoveredStates;
use transfer::Transfers;

/// No index of a slab.
const NONE: u32 = u32::MAX;

/// A job with recipients that have not settled.
#[derive(Debug)]
struct JobSlot {
    id: MessageId,
    at: Location,
    expires_at: Timestamp,
    tenant: TenantId,
    domain: postrail_schema::ids::SendingDomainId,
    /// The first of its groups, which are a list by [`Group::next`]; [`NONE`]: it has none.
    groups: u32,
    /// Index of [`Shard::active`] while its content is at hand or an attempt is under way, else [`NONE`].
    active: u32,
    /// Recipients that have not settled.
    open: u16,
    /// Number of [`Shard::campaigns`].
    campaign: u16,
    class: TrafficClass,
    reports: Reports,
    standing: Standing,
    /// See [`Job::hop`]; the last value that it can have here: it goes nowhere any more.
    hop: u8,
}

const _: () = assert!(size_of::<JobSlot>() <= 64 && size_of::<Group>() <= 64, "a million of each wait in memory");
const _: () = assert!(JOB_RECIPIENTS_MAX <= u16::MAX as usize, "the open recipients of a job have 16 bits");

/// What the envelope sender is told of a job; a report needs its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reports {
    /// REST submitters read events, and nobody is told of a report.
    Never,
    OfFailures,
    /// Somebody asked for reports of success.
    OfAll,
}

impl Reports {
    fn of(job: &Job) -> Self {
        match job.interface {
            Interface::Rest | Interface::Dsn => Self::Never,
            Interface::Smtp if job.recipients.iter().any(|recipient| recipient.notify.on_success()) => Self::OfAll,
            Interface::Smtp => Self::OfFailures,
        }
    }
}

/// What a person has to do with a job, or has decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Nothing: it goes out by the rules.
    Free,
    /// It waits for a person.
    Quarantined,
    /// A decision that takes effect when the attempt under way has ended.
    Ending(Ending),
}

impl JobSlot {
    fn is_quarantined(&self) -> bool {
        self.standing == Standing::Quarantined
    }

    fn ending(&self) -> Option<Ending> {
        match self.standing {
            Standing::Ending(ending) => Some(ending),
            Standing::Free | Standing::Quarantined => None,
        }
    }
}

/// How an operator ends a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Cancel,
    /// As cancelled, out of quarantine.
    Drop,
    Bounce,
}

/// Whose job a group belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum JobRef {
    /// Index of [`Shard::jobs`].
    Local(u32),
    /// Index of [`Shard::works`]: another shard's.
    Remote(u32),
}

#[derive(Debug)]
struct Group {
    job: JobRef,
    entry: u16,
    recipients: SmallVec<[RecipientIndex; 4]>,
    /// Attempts made.
    attempts: u16,
    /// Times that the group went back to its queue uncounted, because a reused connection had died.
    requeues: u8,
    /// Index of the recipient domain.
    domain: u32,
    /// The next group of the same job, or [`NONE`].
    next: u32,
    state: GroupState,
}

/// Where a group is. Every variant that waits has a [`WaitReason`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum GroupState {
    /// In no queue: being moved, within one call.
    Moving,
    Scheduled {
        due: Instant,
        reason: WaitReason,
    },
    Resolving,
    Ready {
        path: u32,
    },
    InFlight,
    Handed,
    /// In no queue: its job is bound to another host.
    Offered {
        due: Instant,
        reason: WaitReason,
    },
}

#[derive(Debug)]
struct SessionSlot {
    path: u32,
    state: SessionState,
    capabilities: Option<Arc<Capabilities>>,
    /// Attempts under way on it, in their order.
    attempts: SmallVec<[u32; 4]>,
    /// It has told that it is ready, and was given no transaction since.
    is_ready: bool,
    /// Transactions that it may have under way at once.
    window: usize,
    /// Transactions that ended with a reply on this session.
    mails: u32,
    /// What it connects from.
    address: IpAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SessionState {
    Opening,
    Idle {
        until: Instant,
    },
    Busy,
    /// The outcomes of its transactions are in; it asks for the next, or ends.
    Done,
    Quitting,
}

/// A group on its way: its job is being loaded, or its transaction is on a session.
#[derive(Debug)]
struct AttemptSlot {
    group: u32,
    aim: Aim,
    /// The job is being read from the spool; no transaction has begun.
    loading: bool,
    started: Instant,
    /// Under which it was given its source, then that of its transaction.
    revision: Revision,
}

/// What an attempt's job is loaded for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Aim {
    Session(u32),
    /// Another shard owns the source.
    Hand(ShardId, SourceId),
    /// Its session ended meanwhile: the group goes back to its queue.
    Lost,
}

/// The state of one shard.
#[derive(Debug)]
pub struct Shard {
    config: Config,
    random: Random,
    rules: Rules,
    jobs: Slab<JobSlot>,
    job_ids: IndexTable,
    active: Slab<ActiveJob>,
    works: Slab<Work>,
    groups: Slab<Group>,
    scheduled: ScheduledQueue,
    /// How many of the scheduled groups a new configuration may move.
    parked: usize,
    /// Of those, how many wait for an address that is elsewhere.
    elsewhere: usize,
    domains: Domains,
    campaigns: Campaigns,
    gates: Gates,
    paths: Slab<Path>,
    path_ids: Map<PathKey, u32>,
    reserves: Reserves,
    sessions: Slab<SessionSlot>,
    idle: ScheduledQueue,
    attempts: Slab<AttemptSlot>,
    /// Sessions whose attempt turned out empty: they get the next one at the end of the input, not by recursion.
    freed: Vec<u32>,
    /// Paths that found every session of the shard in use, in the order in which they wanted one.
    starved: VecDeque<u32>,
    handed: usize,
    transfers: Transfers,
    recovered: RecoveredStates,
    recovering: bool,
    outputs: VecDeque<Output>,
    fresh_bytes: usize,
    waiting: usize,
    draining: bool,
    sweep_at: Instant,
    counters: Counters,
}

impl Shard {
    pub fn new(config: Config, snapshot: Arc<Snapshot>, now: Moment) -> Self {
        let mut random = Random::new(config.seed);
        let seed = MapSeed::new(&mut random);
        Self {
            rules: Rules::new(snapshot, config.shard, config.shards)
                .with_owners(config.owners.clone())
                .with_held(config.is_leasing.then(Held::default)),
            jobs: Slab::new(),
            job_ids: seed.index_table(),
            active: Slab::new(),
            works: Slab::new(),
            groups: Slab::new(),
            scheduled: ScheduledQueue::default(),
            parked: 0,
            elsewhere: 0,
            domains: Domains::new(&seed),
            campaigns: Campaigns::new(&seed),
            gates: Gates::new(&seed, now.instant),
            paths: Slab::new(),
            path_ids: seed.map(),
            reserves: Reserves::new(&seed),
            sessions: Slab::new(),
            idle: ScheduledQueue::default(),
            attempts: Slab::new(),
            freed: Vec::new(),
            starved: VecDeque::new(),
            handed: 0,
            transfers: Transfers::new(&seed, now),
            recovered: RecoveredStates::new(&seed),
            recovering: true,
            outputs: VecDeque::new(),
            fresh_bytes: 0,
            waiting: 0,
            draining: false,
            sweep_at: now.instant + route::SWEEP_PERIOD,
            counters: Counters::default(),
            config,
            random,
        }
    }

    /// Takes one input; what it leads to is polled.
    pub fn handle(&mut self, now: Moment, input: Input) {
        match input {
            Input::Snapshot(snapshot) => self.apply_snapshot(now, snapshot),
            Input::Held(held) => self.apply_held(now, held),
            Input::Accepted { job, at } => self.accept(now, job, at),
            Input::Replayed(event) => self.replay(event),
            Input::ReplayedNote(note) => self.replay_note(note),
            Input::Recovered { meta, at } => self.recover(now, *meta, at),
            Input::RecoveryDone => self.recovery_done(),
            Input::Moved { message, to } => self.moved(message, to),
            Input::Resolved { domain, result } => self.resolved(now, domain, result),
            Input::Ready { session, capabilities } => self.session_ready(now, session, capabilities),
            Input::Loaded { attempt, result } => self.loaded(now, attempt, result),
            Input::Outcome { session, outcome } => self.outcome(now, session, outcome),
            Input::Ended { session, end } => self.session_ended(now, session, end),
            Input::Neighbours(neighbours) => self.apply_neighbours(now, neighbours),
            Input::Answered { turn, answer } => self.answered(now, turn, answer),
            Input::Hand(work) => self.take_work(now, *work),
            Input::Recall(message) => self.recalled(message),
            Input::HandBack(back) => self.hand_back(now, *back),
            Input::Drain => self.drain(now),
            Input::Timeout => self.timeout(now),
        }
        self.serve_freed(now);
    }

    fn serve_freed(&mut self, now: Moment) {
        while let Some(session) = self.freed.pop() {
            self.next_transaction(now, session);
        }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due at the latest.
    pub fn deadline(&self) -> Instant {
        let next = [self.scheduled.next_due(), self.idle.next_due(), self.gates.next_due()].into_iter().flatten().min();
        next.unwrap_or(Instant::FAR).min(self.sweep_at).min(self.transfer_at())
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        self.rules.snapshot()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Recipients that have not settled.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether a submission of `recipients` of the tenant can be taken. The last of the room is for those who have a
    /// reserve, so that a flood of others does not keep them out.
    pub fn has_room(&self, tenant: TenantId, recipients: usize) -> bool {
        let kept = if self.rules.reserve(tenant) == 0 { WAITING_RECIPIENTS_RESERVED } else { 0 };
        !self.draining && self.waiting + recipients <= WAITING_RECIPIENTS_MAX - kept
    }

    /// Whether a drained shard has nothing under way any more.
    pub fn is_quiet(&self) -> bool {
        self.attempts.is_empty() && self.sessions.is_empty() && self.works.is_empty() && self.handed == 0
    }

    /// Whether the job is held here.
    pub fn holds(&self, message: MessageId) -> bool {
        self.job_of(message).is_some()
    }

    /// The index of the job, if it is held here.
    fn job_of(&self, message: MessageId) -> Option<u32> {
        self.job_ids.find(&message, |job| self.jobs[job as usize].id)
    }

    /// A group of a local job is in no list until [`Self::link_groups`].
    fn new_group(&mut self, group: Group) -> u32 {
        self.domains.retain(group.domain);
        self.groups.insert(group) as u32
    }

    /// Puts new groups, in their order, before the others of their job.
    fn link_groups(&mut self, job: u32, groups: &[u32]) {
        let mut next = self.jobs[job as usize].groups;
        for group in groups.iter().rev() {
            self.groups[*group as usize].next = next;
            next = *group;
        }
        self.jobs[job as usize].groups = next;
    }

    /// The groups of a job.
    fn groups_in(&self, job: u32) -> impl Iterator<Item = u32> {
        let first = Some(self.jobs[job as usize].groups).filter(|group| *group != NONE);
        std::iter::successors(first, |group| Some(self.groups[*group as usize].next).filter(|next| *next != NONE))
    }

    /// Takes a group out of whatever waits; the caller puts it somewhere, or drops it.
    fn detach(&mut self, group: u32) {
        let state = std::mem::replace(&mut self.groups[group as usize].state, GroupState::Moving);
        match state {
            GroupState::Scheduled { due, reason } => {
                let was_there = self.scheduled.remove(due, group);
                assert!(was_there, "a scheduled group is in the scheduled queue");
                self.count_parked(reason, false);
            }
            GroupState::Moving
            | GroupState::Resolving
            | GroupState::InFlight
            | GroupState::Handed
            | GroupState::Offered { .. } => {}
            GroupState::Ready { .. } => unreachable!("groups leave a ready queue by being popped"),
        }
    }

    /// Counts a group that begins to wait for a change (`came`), or does so no more.
    fn count_parked(&mut self, reason: WaitReason, came: bool) {
        for (count, is_one) in [
            (&mut self.parked, reason.depends_on_rules()),
            (&mut self.elsewhere, reason == WaitReason::AddressElsewhere),
        ] {
            *count = if came { *count + usize::from(is_one) } else { *count - usize::from(is_one) };
        }
    }

    fn drop_group(&mut self, id: u32) {
        let group = self.groups.remove(id as usize);
        self.domains.release(group.domain);
        let JobRef::Local(job) = group.job else { return };
        let Some(slot) = self.jobs.get_mut(job as usize) else { return };
        if slot.groups == id {
            slot.groups = group.next;
            return;
        }
        let mut before = slot.groups;
        while before != NONE {
            let next = self.groups[before as usize].next;
            if next == id {
                self.groups[before as usize].next = group.next;
                return;
            }
            before = next;
        }
    }

    /// What rules look at of a group.
    fn mail_facts(&self, group: &Group) -> MailFacts<'_> {
        mail_facts(&self.jobs, &self.works, &self.domains, group)
    }

    /// How long a group waits between attempts, under the present revision.
    fn retry_delays(&self, group: u32) -> RetryDelays {
        self.rules.snapshot().policies.retry_rules.delays(self.mail_facts(&self.groups[group as usize]))
    }
}

/// As [`Shard::mail_facts`], where the rest of the shard is changed meanwhile.
fn mail_facts<'a>(jobs: &Slab<JobSlot>, works: &Slab<Work>, domains: &'a Domains, group: &Group) -> MailFacts<'a> {
    let (tenant, sending_domain, class) = match group.job {
        JobRef::Local(job) => {
            let job = &jobs[job as usize];
            (job.tenant, job.domain, job.class)
        }
        JobRef::Remote(work) => {
            let job = &works[work as usize].job;
            (job.tenant, job.domain, job.class)
        }
    };
    let domain = domains.slot(group.domain);
    let site = domain.hosts.as_ref().map(|hosts| &*hosts.site.0);
    MailFacts { recipient_domain: Some(domain.name.as_str()), site, sending_domain, tenant, class }
}

#[cfg(test)]
mod tests;
