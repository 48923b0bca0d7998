//! Sessions and transactions: what is ready meets a connection, and ends with one outcome a recipient.

use std::sync::Arc;

use postrail_schema::ids::{RecipientIndex, SourceId};
use postrail_schema::limits::{EGRESS_IDLE, EGRESS_SESSIONS_MAX};
use smallvec::SmallVec;

use super::route::HAND_RETRY;
use super::{Aim, AttemptSlot, Group, GroupState, JobRef, Output, SessionState, Shard, Transact};
use crate::base::Moment;
use crate::egress::tls_policy::unmet;
use crate::egress::{Capabilities, Phase, SessionEnd, TransactionOutcome, Verdict};
use crate::mail::Job;
use crate::schedule::WaitReason;

/// Times that a group goes back uncounted because a reused connection had died under it.
const REQUEUES_MAX: u8 = 3;

impl Shard {
    /// A session is connected, or has ended a transaction, and wants the next.
    pub(super) fn session_ready(&mut self, now: Moment, session: u32, capabilities: Arc<Capabilities>) {
        let slot = &mut self.sessions[session as usize];
        if slot.state == SessionState::Opening {
            self.paths[slot.path as usize].connection_ready();
        }
        if let Some(policy) = &self.paths[slot.path as usize].key.tls {
            let weakness = unmet(policy, capabilities.tls.as_ref());
            assert!(weakness.is_none(), "a session of a lane meets what its mail demands: {weakness:?}");
        }
        slot.capabilities = Some(capabilities);
        slot.is_ready = true;
        self.next_transaction(now, session);
    }

    /// Gives a session that is ready the next groups of its path, or nothing to do.
    pub(super) fn next_transaction(&mut self, now: Moment, session: u32) {
        let slot = &self.sessions[session as usize];
        if !slot.is_ready || !slot.attempts.is_empty() || slot.state == SessionState::Quitting {
            return; // what it has comes first
        }
        let path = slot.path;
        let place = &self.paths[path as usize];
        let may_start = self.rules.may_start(place.key.source, now.instant);
        if self.draining || place.stopped(now.instant).is_some() || !may_start || self.has_had_enough(session) {
            return self.quit_busy(session);
        }
        for _ in 0..self.transactions_at_once(now.instant, session) {
            // A job that has to be read ends the round: what comes behind it would wait as well.
            let is_begun = self.begin_next(now, session);
            if !is_begun || self.sessions[session as usize].state == SessionState::Quitting {
                break;
            }
        }
        let slot = &self.sessions[session as usize];
        if !slot.attempts.is_empty() || slot.state == SessionState::Quitting || self.freed.contains(&session) {
            return;
        }
        if self.gates.is_limit_wanted(&self.paths[path as usize].connection_gates) {
            return self.quit_busy(session);
        }
        let until = now.instant + EGRESS_IDLE;
        self.sessions[session as usize].state = SessionState::Idle { until };
        self.idle.insert(until, session);
        self.paths[path as usize].session_idle(session);
    }

    /// Begins an attempt with the next group of the session's path; whether there was one whose job is at hand.
    fn begin_next(&mut self, now: Moment, session: u32) -> bool {
        let path = self.sessions[session as usize].path;
        while let Some(group) = self.next_ready(now, path) {
            if self.is_stopped(now, group) {
                self.return_turn(now.instant, path, group);
                self.groups[group as usize].state = GroupState::Moving;
                self.route(now, group);
                continue;
            }
            if self.is_to_be_suppressed_at_home(group) {
                self.return_turn(now.instant, path, group);
                self.groups[group as usize].state = GroupState::Moving;
                self.return_work(now, group, WaitReason::OtherShard, now.instant + HAND_RETRY);
                continue;
            }
            self.groups[group as usize].state = GroupState::InFlight;
            let aim = Aim::Session(session);
            let (started, revision) = (now.instant, self.revision());
            let attempt = self.begin_attempt(AttemptSlot { group, aim, loading: false, started, revision });
            let slot = &mut self.sessions[session as usize];
            slot.attempts.push(attempt);
            slot.state = SessionState::Busy;
            return self.load(now, attempt);
        }
        false
    }

    fn quit_busy(&mut self, session: u32) {
        self.sessions[session as usize].state = SessionState::Quitting;
        self.outputs.push_back(Output::Quit { session });
    }

    /// Whether something came between while the group was ready: its expiry, its end by the operator, its tenant's or
    /// domain's suspension.
    fn is_stopped(&self, now: Moment, id: u32) -> bool {
        let group = &self.groups[id as usize];
        let (tenant, is_ended) = match group.job {
            JobRef::Local(job) => (self.jobs[job as usize].tenant, self.jobs[job as usize].ending().is_some()),
            JobRef::Remote(work) => (self.works[work as usize].job.tenant, self.works[work as usize].is_recalled),
        };
        is_ended
            || self.is_expired(now, id)
            || self.rules.tenant_suspended(tenant)
            || self.rules.site_suspended(self.domains.slot(group.domain).name.as_str())
    }

    /// Gets the job of an attempt: from memory, from the handing shard, or from the spool. Whether it was at hand.
    pub(super) fn load(&mut self, now: Moment, attempt: u32) -> bool {
        let group = &self.groups[self.attempts[attempt as usize].group as usize];
        let ready = match group.job {
            JobRef::Remote(work) => Ok(self.works[work as usize].job.clone()),
            JobRef::Local(job) => {
                let at = self.jobs[job as usize].at;
                let active = self.active_job(job);
                active.at_hand().ok_or_else(|| (at, active.wait(attempt)))
            }
        };
        let is_at_hand = ready.is_ok();
        match ready {
            Ok(job) => self.begin(now, attempt, job),
            Err((at, is_first)) => {
                self.attempts[attempt as usize].loading = true;
                if is_first {
                    self.outputs.push_back(Output::Load { attempt, at });
                }
            }
        }
        is_at_hand
    }

    /// The answer to the first attempt that asked for the job: it is for all that wait for it.
    pub(super) fn loaded(&mut self, now: Moment, attempt: u32, result: Result<Arc<Job>, String>) {
        let JobRef::Local(job) = self.groups[self.attempts[attempt as usize].group as usize].job else { return };
        for waiting in self.active_job(job).loaded(result.as_ref().ok()) {
            self.loaded_one(now, waiting, result.clone());
        }
    }

    fn loaded_one(&mut self, now: Moment, attempt: u32, result: Result<Arc<Job>, String>) {
        self.attempts[attempt as usize].loading = false;
        if self.is_stopped(now, self.attempts[attempt as usize].group) {
            let slot = self.end_attempt(attempt);
            self.groups[slot.group as usize].state = GroupState::Moving;
            if let Aim::Session(session) = slot.aim {
                self.free_session(session, attempt);
            }
            return self.route(now, slot.group);
        }
        match result {
            Ok(job) => self.begin(now, attempt, job),
            Err(why) => {
                let slot = self.end_attempt(attempt);
                self.groups[slot.group as usize].state = GroupState::Moving;
                self.fail_unreadable(now, slot.group, &why);
                if let Aim::Session(session) = slot.aim {
                    self.leave_session(session, attempt);
                    self.next_transaction(now, session);
                }
            }
        }
    }

    /// The job is at hand: drops what is suppressed by now, then sends (or hands over) the rest.
    fn begin(&mut self, now: Moment, attempt: u32, job: Arc<Job>) {
        let slot = &self.attempts[attempt as usize];
        let (group, aim) = (slot.group, slot.aim);
        if let Aim::Session(session) = aim
            && !self.rules.may_start(self.source_of_session(session), now.instant)
        {
            // The lease on the address ended while the job was read.
            self.end_attempt(attempt);
            self.groups[group as usize].state = GroupState::Moving;
            self.leave_session(session, attempt);
            self.quit_busy(session);
            return self.route(now, group);
        }
        if aim == Aim::Lost {
            self.end_attempt(attempt);
            self.groups[group as usize].state = GroupState::Moving;
            return self.route(now, group);
        }
        if let Aim::Session(session) = aim
            && !self.may_go_on(group, session, slot.revision != self.revision())
        {
            // Its pool or what it demands became another while the job was read.
            self.end_attempt(attempt);
            self.groups[group as usize].state = GroupState::Moving;
            self.free_session(session, attempt);
            return self.route(now, group);
        }
        self.suppress(now, group, &job);
        let recipients = self.groups[group as usize].recipients.clone();
        if recipients.is_empty() {
            self.end_attempt(attempt);
            self.drop_group_and_work(group);
            if let Aim::Session(session) = aim {
                self.free_session(session, attempt);
            }
            return;
        }
        match aim {
            Aim::Hand(owner, source) => {
                self.remove_attempt(attempt);
                self.hand(group, owner, source, job);
            }
            Aim::Session(session) => {
                self.counters.attempts += 1;
                let Group { entry, attempts, .. } = self.groups[group as usize];
                let snapshot = self.rules.snapshot().clone();
                self.attempts[attempt as usize].revision = snapshot.revision;
                self.sessions[session as usize].is_ready = false;
                self.counters.pipelined += u64::from(self.sessions[session as usize].attempts.len() > 1);
                let transact = Transact { attempt, entry, recipients, first: attempts == 0, snapshot, job };
                self.outputs.push_back(Output::Transact { session, transact: Box::new(transact) });
            }
            Aim::Lost => unreachable!("a lost attempt has gone back above"),
        }
    }

    /// Whether a group may be sent on a session that it was given; `is_later`: under another revision than the present one.
    fn may_go_on(&self, group: u32, session: u32, is_later: bool) -> bool {
        let key = &self.paths[self.sessions[session as usize].path as usize].key;
        let is_allowed = !is_later || self.rules.allows(self.mail_facts(&self.groups[group as usize]), key.source);
        is_allowed && self.is_in_lane(group, key)
    }

    /// A transaction has ended. After its last the session asks for the next by itself, or ends.
    pub(super) fn outcome(&mut self, now: Moment, session: u32, outcome: TransactionOutcome) {
        let attempt = outcome.tag as u32;
        let slot = self.remove_attempt(attempt);
        assert_eq!(slot.aim, Aim::Session(session), "a transaction ends on its own session");
        self.learn_window(now.instant, session, slot.started, &outcome);
        self.leave_session(session, attempt);
        let group = slot.group;
        self.groups[group as usize].state = GroupState::Moving;
        let mails = self.sessions[session as usize].mails;
        let path = self.sessions[session as usize].path;
        if self.died_idle(group, mails, &outcome) {
            self.groups[group as usize].requeues += 1;
            return self.route(now, group);
        }
        self.sessions[session as usize].mails += 1;
        if !outcome.session_over {
            self.paths[path as usize].succeeded();
        }
        let facts = self.attempt_facts(now, session, &slot);
        self.groups[group as usize].requeues = 0;
        self.settle_group(now, group, facts, slot.revision, outcome.recipients);
    }

    /// A reused connection that the receiver had closed: nothing was said about the mail, so nothing is counted.
    fn died_idle(&self, group: u32, mails: u32, outcome: &TransactionOutcome) -> bool {
        let about_connection = |recipient: &crate::egress::RecipientOutcome| {
            recipient.verdict == Verdict::Transient
                && recipient.phase == Phase::Mail
                && !recipient.maybe_delivered
                && matches!(recipient.reply.code, 0 | 421)
        };
        mails > 0
            && outcome.session_over
            && self.groups[group as usize].requeues < REQUEUES_MAX
            && outcome.recipients.iter().all(about_connection)
    }

    pub(super) fn session_ended(&mut self, now: Moment, session: u32, end: SessionEnd) {
        let slot = self.sessions.remove(session as usize);
        if let SessionState::Idle { until } = slot.state {
            self.idle.remove(until, session);
        }
        let path = slot.path;
        let was_opening = slot.state == SessionState::Opening;
        let place = &mut self.paths[path as usize];
        place.connection_closed(session, was_opening);
        self.gates.release(now.instant, &place.connection_gates);
        self.lose_attempts(now, &slot.attempts);
        if let SessionEnd::Failed { phase, reply, host, address, .. } = end
            && was_opening
        {
            if self.paths[path as usize].connections() > 0 {
                self.paths[path as usize].enough_connections(now.instant);
            } else {
                self.fail_path(now, path, phase, &reply, host.as_ref(), address);
            }
        }
        // Who waits for a connection comes before the path that has just had one.
        self.serve_gates(now);
        self.kick(now, path);
        self.serve_starved(now);
    }

    /// Gives sessions that have become free to the paths that waited for one.
    fn serve_starved(&mut self, now: Moment) {
        for _ in 0..self.starved.len() {
            if self.sessions.len() >= EGRESS_SESSIONS_MAX {
                return;
            }
            let Some(path) = self.starved.pop_front() else { return };
            if let Some(place) = self.paths.get_mut(path as usize) {
                place.starved = false;
                self.kick(now, path);
            }
        }
    }

    /// Drops suppressed recipients of a group and records that.
    fn suppress(&mut self, now: Moment, group: u32, job: &Job) {
        if matches!(self.groups[group as usize].job, JobRef::Remote(_)) {
            return; // it was looked at before the attempt began
        }
        let recipients = self.groups[group as usize].recipients.iter().copied();
        let dropped: SmallVec<[RecipientIndex; 4]> =
            recipients.filter(|index| self.is_suppressed(job, *index)).collect();
        if !dropped.is_empty() {
            self.settle_suppressed(now, group, &dropped);
        }
    }

    pub(super) fn is_suppressed(&self, job: &Job, index: RecipientIndex) -> bool {
        let recipient = &job.recipients[usize::from(index.0)];
        self.rules.snapshot().is_suppressed(job.tenant, || recipient.address.normalized())
    }

    /// Whether a session may connect to its next host now: the lease on its address may have ended since it was opened.
    pub fn may_go_on_connecting(&self, now: Moment, session: u32) -> bool {
        self.rules.may_start(self.source_of_session(session), now.instant)
    }

    pub(super) fn source_of_session(&self, session: u32) -> SourceId {
        self.paths[self.sessions[session as usize].path as usize].key.source
    }
}
