//! After a start: the journal says what had become of recipients, the spool says which jobs there are.
//!
//! The journal is replayed first into a table of recipient states; each recovered job takes what the table knows of it.
//! A job whose acceptance the journal does not hold (the crash fell between both logs) has its `Accepted` events written
//! again: the ledger counts an event once by its key.

use postrail_schema::allocation::HostName;
use postrail_schema::event::{EventBrief, EventKind};
use postrail_schema::ids::{MessageId, RecipientIndex, RecipientKey};

use super::{GroupState, Output, Record, Shard, Standing};
use crate::base::{IndexTable, Instant, Map, MapSeed, Moment, Timestamp};
use crate::schedule::WaitReason;
use crate::spool::{JobMeta, Location};
use crate::transfer::{Note, NoteKind};

/// What the journal says of a recipient.
#[derive(Clone, Copy, Debug)]
struct RecoveredState {
    message: MessageId,
    index: RecipientIndex,
    accepted: bool,
    settled: bool,
    attempts: u16,
    next_attempt: Timestamp,
}

impl RecoveredState {
    const fn new(key: RecipientKey) -> Self {
        let RecipientKey { message, index } = key;
        let next_attempt = Timestamp::from_unix_ms(0);
        Self { message, index, accepted: false, settled: false, attempts: 0, next_attempt }
    }

    const fn key(&self) -> RecipientKey {
        RecipientKey { message: self.message, index: self.index }
    }
}

/// What the journal says of every recipient that it names, settled ones included, and of every job that was on its way
/// to another host, until recovery is over.
#[derive(Debug)]
pub(super) struct RecoveredStates {
    states: Vec<RecoveredState>,
    table: IndexTable,
    /// The last note of a job.
    notes: Map<MessageId, Note>,
}

impl RecoveredStates {
    pub(super) fn new(seed: &MapSeed) -> Self {
        Self { states: Vec::new(), table: seed.index_table(), notes: seed.map() }
    }

    fn get(&self, key: RecipientKey) -> RecoveredState {
        let found = self.table.find(&key, |at| self.states[at as usize].key());
        found.map_or(RecoveredState::new(key), |at| self.states[at as usize])
    }

    fn entry(&mut self, key: RecipientKey) -> &mut RecoveredState {
        let at = self.table.find(&key, |at| self.states[at as usize].key()).unwrap_or_else(|| {
            let at = self.states.len() as u32;
            self.states.push(RecoveredState::new(key));
            self.table.insert(&key, at, |at| self.states[at as usize].key());
            at
        });
        &mut self.states[at as usize]
    }

    /// Whether the job, at the hop that its frame tells, went on to another host. A note of a later hop says so too: the
    /// job has come back since.
    fn is_given(&self, message: MessageId, hop: u16) -> bool {
        let note = self.notes.get(&message);
        note.is_some_and(|note| note.hop > hop || note.hop == hop && note.kind == NoteKind::Given)
    }

    /// The host that the job is bound to; `carried`: as its frame has it, which notes may have come after.
    fn bound_to(&self, message: MessageId, hop: u16, carried: Option<HostName>) -> Option<HostName> {
        match self.notes.get(&message).filter(|note| note.hop == hop).map(|note| &note.kind) {
            Some(NoteKind::Bound(to)) => Some(to.clone()),
            Some(NoteKind::Kept | NoteKind::Given) => None,
            Some(NoteKind::Taken) | None => carried,
        }
    }
}

const _: () = assert!(size_of::<RecoveredState>() <= 32, "millions of them are in memory while a shard recovers");

impl Shard {
    pub(super) fn replay(&mut self, event: EventBrief) {
        let state = self.recovered.entry(RecipientKey { message: event.message, index: event.index });
        match event.kind {
            EventKind::Accepted => state.accepted = true,
            EventKind::Deferred => {
                state.attempts = event.attempt.unwrap_or(state.attempts.saturating_add(1));
                state.next_attempt = Timestamp::from_unix_ms(event.next_attempt_ms);
            }
            kind if kind.settles() => state.settled = true,
            _ => {}
        }
    }

    pub(super) fn replay_note(&mut self, note: Note) {
        if note.kind == NoteKind::Taken {
            self.remember_taken(note.message, note.hop);
        }
        self.recovered.notes.insert(note.message, note);
    }

    pub(super) fn recover(&mut self, now: Moment, meta: JobMeta, at: Location) {
        let job = &meta.job;
        if self.recovering && job.hop > 0 {
            // The journal may have been trimmed behind its note.
            self.remember_taken(job.id, job.hop);
        }
        if self.holds(job.id) || self.recovered.is_given(job.id, job.hop) {
            // Compaction had copied it before the crash: the copy that was found first serves, this one is released. Or
            // another host has it.
            let record = Record { finished: vec![(job.id, at)], ..Record::default() };
            self.outputs.push_back(Output::Record(Box::new(record)));
            return;
        }
        let mut missing = Vec::new();
        let mut open = Vec::new();
        let mut states = Vec::new();
        for index in (0..job.recipients.len() as u16).map(RecipientIndex) {
            let key = RecipientKey { message: job.id, index };
            // The state stays: another copy of the job may follow.
            let mut state = self.recovered.get(key);
            let carried = meta.carried(index);
            if !state.accepted && carried.is_none() {
                missing.push(index);
            }
            if let Some(carried) = carried {
                state.settled |= carried.settled;
                if carried.attempts > state.attempts || state.next_attempt == Timestamp::default() {
                    state.attempts = carried.attempts;
                    state.next_attempt = carried.next_attempt;
                }
            }
            if !state.settled {
                open.push(index);
                states.push(state);
            }
        }
        if !missing.is_empty() {
            let mut events = super::accepted::accepted_events(job);
            events.retain(|event| missing.contains(&event.index));
            self.outputs.push_back(Output::Record(Box::new(Record { events, ..Record::default() })));
        }
        if open.is_empty() {
            let record = Record { finished: vec![(job.id, at)], ..Record::default() };
            self.outputs.push_back(Output::Record(Box::new(record)));
            return;
        }
        let slot = self.insert_job(job, at, open.len());
        // What waits in quarantine has no next attempt: a release gives it one.
        let is_released = states.iter().any(|state| state.next_attempt != Timestamp::default());
        if is_released {
            self.jobs[slot as usize].standing = Standing::Free;
        }
        self.schedule_recovered(now, slot, job, &open, &states);
        if let Some(to) = self.recovered.bound_to(job.id, job.hop, meta.bound_to) {
            self.bind(job.id, &to);
        }
        if !self.recovering {
            // Before any event of it: whoever knows of a settlement here knows of this.
            let note = Note { message: job.id, hop: job.hop, kind: NoteKind::Taken };
            self.outputs.push_back(Output::Record(Box::new(Record { notes: vec![note], ..Record::default() })));
            self.counters.taken += open.len() as u64;
        }
    }

    /// Recipients with the same history stay together; each group waits out what is left of its delay.
    fn schedule_recovered(
        &mut self,
        now: Moment,
        slot: u32,
        job: &crate::mail::Job,
        open: &[RecipientIndex],
        states: &[RecoveredState],
    ) {
        let mut histories: Vec<(u16, Timestamp)> = states.iter().map(|s| (s.attempts, s.next_attempt)).collect();
        histories.sort_unstable();
        histories.dedup();
        for (attempts, next_attempt) in histories {
            let alike: Vec<RecipientIndex> = open
                .iter()
                .zip(states)
                .filter(|(_, state)| (state.attempts, state.next_attempt) == (attempts, next_attempt))
                .map(|(index, _)| *index)
                .collect();
            for group in self.groups_of(slot, &job.recipients, &alike) {
                self.groups[group as usize].attempts = attempts;
                let due = if attempts == 0 { now.instant } else { now.instant_of(next_attempt) };
                self.schedule(now, group, due.max(Instant::ZERO), WaitReason::Retry);
            }
        }
    }

    pub(super) fn recovery_done(&mut self) {
        self.recovered = RecoveredStates::new(&MapSeed::new(&mut self.random));
        self.recovering = false;
    }

    /// Whether the spool's jobs are still being read.
    pub fn is_recovering(&self) -> bool {
        self.recovering
    }

    pub(super) fn moved(&mut self, message: MessageId, to: Location) {
        if let Some(job) = self.job_of(message) {
            self.jobs[job as usize].at = to;
        }
    }

    /// What a moved job's frame carries of its recipients, so that older journal segments are not needed for it:
    /// for each recipient whether it has settled, its attempts and its next attempt.
    pub fn carried_state(&self, now: Moment, message: MessageId, recipients: usize) -> Vec<crate::spool::Carried> {
        let settled = crate::spool::Carried { settled: true, attempts: 0, next_attempt: Timestamp::default() };
        let mut states = vec![settled; recipients];
        let Some(job) = self.job_of(message) else { return states };
        for group in self.groups_in(job) {
            let group = &self.groups[group as usize];
            let next_attempt = match group.state {
                GroupState::Scheduled { due, reason } | GroupState::Offered { due, reason } => match reason {
                    WaitReason::Quarantined => Timestamp::default(),
                    WaitReason::Retry | WaitReason::SiteBackoff => now.wall_of(due),
                    // It waits for an event, not for a time: `due` is its expiry.
                    _ => now.wall,
                },
                _ => now.wall,
            };
            for index in &group.recipients {
                if let Some(state) = states.get_mut(usize::from(index.0)) {
                    *state = crate::spool::Carried { settled: false, attempts: group.attempts, next_attempt };
                }
            }
        }
        states
    }
}
