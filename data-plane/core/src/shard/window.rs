//! How many transactions a session may have under way at once.
//!
//! One write then carries several of them, which a receiver that takes them has to offer PIPELINING and CHUNKING for. What is
//! under way when a connection breaks is in doubt, so the window opens slowly, as that of TCP does: one at first, twice as
//! many after each that was taken, one again after a refusal or a slow answer. A site that broke a connection with several
//! under way gets one at a time for a while.
//!
//! Only a backlog is sent like that: what is ready is divided among the connections of its path first.

use std::net::IpAddr;
use std::time::Duration;

use postrail_schema::limits::SESSION_TRANSACTIONS_MAX;
use smallvec::SmallVec;

use super::{Aim, GroupState, SessionSlot, SessionState, Shard};
use crate::base::{Instant, Moment};
use crate::egress::{TransactionOutcome, Verdict};

/// A receiver that takes longer for what it was given is asked for one transaction at a time.
const SLOW: Duration = Duration::from_secs(1);
/// How long a site that broke a connection with several transactions under way gets one at a time.
const DOUBT: Duration = Duration::from_secs(3_600);

impl SessionSlot {
    /// A session that is being opened from `address`.
    pub(super) fn opening(path: u32, address: IpAddr) -> Self {
        Self {
            path,
            state: SessionState::Opening,
            capabilities: None,
            attempts: SmallVec::new(),
            is_ready: false,
            window: 1,
            mails: 0,
            address,
        }
    }
}

impl Shard {
    /// How many transactions a session that is ready may be given now.
    pub(super) fn transactions_at_once(&self, now: Instant, session: u32) -> usize {
        let slot = &self.sessions[session as usize];
        let place = &self.paths[slot.path as usize];
        let takes_several = slot.capabilities.as_ref().is_some_and(|offers| offers.pipelining && offers.chunking);
        if !takes_several || now < place.one_at_a_time_until {
            return 1;
        }
        let left = place.shape.limits.mails_per_connection.saturating_sub(slot.mails) as usize;
        let share = place.queue.len() / place.connections().max(1);
        slot.window.min(left).min(share).max(1)
    }

    /// Learns from the outcome of a transaction that was begun at `started`, and has not left its session yet.
    pub(super) fn learn_window(&mut self, now: Instant, session: u32, started: Instant, outcome: &TransactionOutcome) {
        let slot = &mut self.sessions[session as usize];
        let place = &mut self.paths[slot.path as usize];
        if slot.attempts.len() > 1 && outcome.recipients.iter().any(|recipient| recipient.maybe_delivered) {
            place.one_at_a_time_until = now + DOUBT;
        }
        let is_taken =
            outcome.recipients.iter().all(|recipient| matches!(recipient.verdict, Verdict::Delivered { .. }));
        let is_well = is_taken && now.since(started) < SLOW;
        slot.window = if is_well { (slot.window * 2).min(SESSION_TRANSACTIONS_MAX) } else { 1 };
    }

    /// The session has one attempt less under way. One that has none left wants the next.
    pub(super) fn leave_session(&mut self, session: u32, attempt: u32) {
        let slot = &mut self.sessions[session as usize];
        slot.attempts.retain(|other| *other != attempt);
        if slot.attempts.is_empty() && slot.state != SessionState::Quitting {
            slot.state = SessionState::Done;
        }
    }

    /// An attempt led to no transaction: its session may have another.
    pub(super) fn free_session(&mut self, session: u32, attempt: u32) {
        self.leave_session(session, attempt);
        self.freed.push(session);
    }

    /// The attempts of a session that has ended: without an outcome nothing was tried, so each goes back, once nobody loads
    /// for it any more.
    pub(super) fn lose_attempts(&mut self, now: Moment, attempts: &[u32]) {
        for attempt in attempts {
            self.attempts[*attempt as usize].aim = Aim::Lost;
            if !self.attempts[*attempt as usize].loading {
                let attempt = self.end_attempt(*attempt);
                self.groups[attempt.group as usize].state = GroupState::Moving;
                self.route(now, attempt.group);
            }
        }
    }
}
