//! Outcomes become events: settlements, deferrals with a next attempt, and reports to the sender.
//!
//! This is the only place where a recipient leaves the schedule.

use std::net::SocketAddr;

use postrail_schema::event::{AttemptFacts, Event, EventKind};
use postrail_schema::ids::{RecipientIndex, Revision};
use smallvec::SmallVec;

use super::{AttemptSlot, Ending, Group, GroupState, JobRef, Output, Record, Reports, Shard};
use crate::base::Moment;
use crate::dns::DnsFailure;
use crate::egress::{self, Phase, RecipientOutcome, Scope, Verdict};
use crate::events::dsn::{Action, ReportRecipient, ReportRequest};
use crate::mail::Domain;
use crate::schedule::{WaitReason, retry_delay};
use crate::smtp::reply::{EnhancedStatus, Reply};

/// Octets of a reply's text that an event keeps.
const REPLY_BYTES_MAX: usize = 1_024;

impl Shard {
    /// What is known of an attempt on `session`, but for its replies.
    pub(super) fn attempt_facts(&self, now: Moment, session: u32, slot: &AttemptSlot) -> AttemptFacts {
        let source = self.source_of_session(session);
        let session = &self.sessions[session as usize];
        let path = &self.paths[session.path as usize];
        let capabilities = session.capabilities.as_ref();
        let tls = capabilities.and_then(|capabilities| capabilities.tls.as_ref());
        let local = capabilities.and_then(|capabilities| capabilities.local);
        AttemptFacts {
            number: self.groups[slot.group as usize].attempts.saturating_add(1),
            source,
            source_address: local.or_else(|| self.rules.source(source).map(|source| source.address)),
            site: path.key.site.0.to_string(),
            host: capabilities.map(|capabilities| capabilities.host.to_string()).unwrap_or_default(),
            host_address: capabilities.map(|capabilities| capabilities.address.ip()),
            tls: tls.map(ToString::to_string).unwrap_or_default(),
            duration_ms: now.instant.since(slot.started).as_millis() as u32,
            ..AttemptFacts::default()
        }
    }

    /// Applies one outcome a recipient to a group (in state `Moving`). `revision`: under which it was tried.
    pub(super) fn settle_group(
        &mut self,
        now: Moment,
        group: u32,
        mut facts: AttemptFacts,
        revision: Revision,
        outcomes: Vec<RecipientOutcome>,
    ) {
        let job = match self.groups[group as usize].job {
            JobRef::Remote(work) => return self.return_outcome(group, work, facts, revision, outcomes),
            JobRef::Local(job) => job,
        };
        let recipients = std::mem::take(&mut self.groups[group as usize].recipients);
        assert_eq!(recipients.len(), outcomes.len(), "one outcome a recipient");
        let number = self.groups[group as usize].attempts.saturating_add(1);
        self.groups[group as usize].attempts = number;
        if number == 1 {
            self.tried(job, recipients.len());
        }
        let ending = self.jobs[job as usize].ending();
        let delay = retry_delay(&self.retry_delays(group), number, &mut self.random);
        let due = now.instant + delay;
        let mut record = Record { events: Vec::with_capacity(recipients.len()), ..Record::default() };
        let mut reports = Vec::new();
        let may_report = self.jobs[job as usize].reports.may_follow(ending, &outcomes);
        let mut settled = 0;
        let last = outcomes.len().saturating_sub(1);
        for (at, (index, outcome)) in recipients.into_iter().zip(outcomes).enumerate() {
            let (kind, reason) = match (outcome.verdict, ending) {
                (Verdict::Delivered { .. }, _) => (EventKind::Delivered, "delivered"),
                (Verdict::Permanent, _) => (EventKind::Bounced, egress::reason(&outcome)),
                (Verdict::Transient, Some(Ending::Cancel)) => (EventKind::Cancelled, "cancelled_by_operator"),
                (Verdict::Transient, Some(Ending::Drop)) => (EventKind::Cancelled, "dropped_from_quarantine"),
                (Verdict::Transient, Some(Ending::Bounce)) => (EventKind::Bounced, "bounced_by_operator"),
                (Verdict::Transient, None) => (EventKind::Deferred, egress::reason(&outcome)),
            };
            let mut event = self.event(now, kind, job, index, reason);
            event.revision = revision;
            if may_report {
                reports.extend(report_of(kind, index, &outcome, &facts));
            }
            let own = if at == last { std::mem::take(&mut facts) } else { facts.clone() };
            event.attempt = Some(with_reply(own, outcome));
            if kind == EventKind::Deferred {
                event.next_attempt_ms = now.wall_of(due).unix_ms();
                self.groups[group as usize].recipients.push(index);
            } else {
                settled += 1;
            }
            self.count(kind);
            record.events.push(event);
        }
        self.finish(&mut record, job, settled, reports);
        self.outputs.push_back(Output::Record(Box::new(record)));
        if self.groups[group as usize].recipients.is_empty() {
            self.drop_group(group);
        } else {
            self.schedule(now, group, due, WaitReason::Retry);
        }
    }

    pub(super) fn settle_suppressed(&mut self, now: Moment, group: u32, dropped: &[RecipientIndex]) {
        self.groups[group as usize].recipients.retain(|index| !dropped.contains(index));
        let JobRef::Local(job) = self.groups[group as usize].job else { return };
        let mut record = Record::default();
        for index in dropped {
            record.events.push(self.event(now, EventKind::Suppressed, job, *index, "suppressed"));
            self.count(EventKind::Suppressed);
        }
        if self.groups[group as usize].attempts == 0 {
            self.tried(job, dropped.len());
        }
        self.finish(&mut record, job, dropped.len(), Vec::new());
        self.outputs.push_back(Output::Record(Box::new(record)));
    }

    /// A group's time is over: its recipients settle as `Expired`, and the sender hears of it.
    pub(super) fn expire(&mut self, now: Moment, group: u32) {
        let reply = Reply::enhanced(550, 4, 7, "delivery time expired");
        self.end_group(now, group, EventKind::Expired, "expired", &reply, Phase::Connect);
    }

    /// An operator's decision about a group (in state `Moving`).
    pub(super) fn end_by_operator(&mut self, now: Moment, group: u32, ending: Ending) {
        let (kind, reason, text) = match ending {
            Ending::Cancel => (EventKind::Cancelled, "cancelled_by_operator", "cancelled by the operator"),
            Ending::Drop => (EventKind::Cancelled, "dropped_from_quarantine", "dropped by the operator"),
            Ending::Bounce => (EventKind::Bounced, "bounced_by_operator", "returned by the operator"),
        };
        self.end_group(now, group, kind, reason, &Reply::enhanced(550, 0, 0, text), Phase::Connect);
    }

    /// A group that waited in quarantine (in state `Moving`) is due now, as the journal will tell after a restart.
    pub(super) fn record_release(&mut self, now: Moment, job: u32, recipients: &[RecipientIndex]) {
        let event = |index: &RecipientIndex| Event {
            attempt: Some(AttemptFacts::default()),
            next_attempt_ms: now.wall.unix_ms().max(1),
            ..self.event(now, EventKind::Deferred, job, *index, "released_from_quarantine")
        };
        let record = Record { events: recipients.iter().map(event).collect(), ..Record::default() };
        self.outputs.push_back(Output::Record(Box::new(record)));
    }

    /// The recipient domain could not be resolved.
    pub(super) fn fail_resolution(&mut self, now: Moment, group: u32, failure: &DnsFailure) {
        let verdict = if failure.is_permanent() { Verdict::Permanent } else { Verdict::Transient };
        let code = if failure.is_permanent() { 550 } else { 451 };
        let outcome = RecipientOutcome {
            verdict,
            scope: Scope::Site,
            phase: Phase::Dns,
            reply: Reply { code, enhanced: failure.status().parse().ok(), text: failure.to_string() },
            maybe_delivered: false,
        };
        self.settle_alike(now, group, outcome, &AttemptFacts::default());
    }

    /// The spool cannot give the job back: nothing can be sent. It is tried again, and expires in the end.
    pub(super) fn fail_unreadable(&mut self, now: Moment, group: u32, why: &str) {
        let outcome = RecipientOutcome {
            verdict: Verdict::Transient,
            scope: Scope::Transaction,
            phase: Phase::Spool,
            reply: Reply::enhanced(451, 3, 0, format!("the message could not be read from the spool: {why}")),
            maybe_delivered: false,
        };
        self.settle_alike(now, group, outcome, &AttemptFacts::default());
    }

    /// The site could not be used at all: everything ready on the path is deferred, and the path backs off.
    pub(super) fn fail_path(
        &mut self,
        now: Moment,
        path: u32,
        phase: Phase,
        reply: &Reply,
        host: Option<&Domain>,
        address: Option<SocketAddr>,
    ) {
        let groups = self.paths[path as usize].drain_ready();
        // What is to be tried again first says how soon the site is.
        let soonest = groups.iter().map(|group| self.retry_delays(*group)).min_by_key(|delays| delays.first_s);
        let place = &mut self.paths[path as usize];
        place.failed(now.instant, &soonest.unwrap_or_default(), &mut self.random, &reply.text);
        let source = place.key.source;
        let site = place.key.site.0.to_string();
        let outcome = RecipientOutcome {
            verdict: Verdict::Transient,
            scope: Scope::Site,
            phase,
            reply: reply.clone(),
            maybe_delivered: false,
        };
        let lane = self.paths[path as usize].key.tls.clone().filter(|_| phase == Phase::StartTls);
        for group in groups {
            self.groups[group as usize].state = GroupState::Moving;
            let mut outcome = outcome.clone();
            if let Some(policy) = &lane {
                self.blame(&mut outcome.reply, policy, group);
            }
            let facts = AttemptFacts {
                number: self.groups[group as usize].attempts.saturating_add(1),
                source,
                source_address: self.rules.source(source).map(|source| source.address),
                site: site.clone(),
                host: host.map(ToString::to_string).unwrap_or_default(),
                host_address: address.map(|address| address.ip()),
                ..AttemptFacts::default()
            };
            self.counters.attempts += 1;
            self.settle_alike(now, group, outcome, &facts);
        }
    }

    pub(super) fn settle_alike(&mut self, now: Moment, group: u32, outcome: RecipientOutcome, facts: &AttemptFacts) {
        let count = self.groups[group as usize].recipients.len();
        let facts = AttemptFacts { number: self.groups[group as usize].attempts.saturating_add(1), ..facts.clone() };
        self.settle_group(now, group, facts, self.revision(), vec![outcome; count]);
    }

    fn end_group(
        &mut self,
        now: Moment,
        group: u32,
        kind: EventKind,
        reason: &'static str,
        reply: &Reply,
        phase: Phase,
    ) {
        let Group { job, recipients, attempts, .. } = &mut self.groups[group as usize];
        let JobRef::Local(job) = *job else { return };
        let recipients: SmallVec<[RecipientIndex; 4]> = std::mem::take(recipients);
        let outcome = RecipientOutcome {
            verdict: Verdict::Permanent,
            scope: Scope::Recipient,
            phase,
            reply: reply.clone(),
            maybe_delivered: false,
        };
        let facts = AttemptFacts { number: *attempts, ..AttemptFacts::default() };
        let mut record = Record::default();
        let mut reports = Vec::new();
        for index in &recipients {
            let mut event = self.event(now, kind, job, *index, reason);
            event.attempt = Some(AttemptFacts { reply: reply.text.clone(), ..facts.clone() });
            record.events.push(event);
            reports.extend(report_of(kind, *index, &outcome, &facts));
            self.count(kind);
        }
        if facts.number == 0 {
            self.tried(job, recipients.len());
        }
        self.finish(&mut record, job, recipients.len(), reports);
        self.outputs.push_back(Output::Record(Box::new(record)));
        self.drop_group(group);
    }

    /// Takes `settled` recipients off the job; the last one finishes it.
    fn finish(&mut self, record: &mut Record, job: u32, settled: usize, reports: Vec<ReportRecipient>) {
        let slot = &mut self.jobs[job as usize];
        assert!(usize::from(slot.open) >= settled, "a recipient settles once");
        slot.open -= settled as u16;
        self.waiting -= settled;
        let (id, at) = (slot.id, slot.at);
        let is_due = match slot.reports {
            Reports::Never => false,
            Reports::OfFailures => reports.iter().any(|report| report.action == Action::Failed),
            Reports::OfAll => !reports.is_empty(),
        };
        if is_due {
            record.report = Some((at, ReportRequest { message: id, recipients: reports }));
        }
        if slot.open == 0 {
            record.finished.push((id, at));
            self.forget_job(job);
        }
    }

    /// Nothing of the job is left to do.
    pub(super) fn forget_job(&mut self, job: u32) {
        let id = self.jobs[job as usize].id;
        self.job_ids.remove(&id, |job| self.jobs[job as usize].id);
        let slot = self.jobs.remove(job as usize);
        self.campaigns.release(slot.campaign);
        self.forget_active(slot.active);
    }

    fn event(&self, now: Moment, kind: EventKind, job: u32, index: RecipientIndex, reason: &str) -> Event {
        let job = &self.jobs[job as usize];
        Event {
            kind,
            message: job.id,
            index,
            at_ms: now.wall.unix_ms(),
            revision: self.revision(),
            tenant: job.tenant,
            address: String::new(),
            job: None,
            attempt: None,
            reason: reason.to_owned(),
            next_attempt_ms: 0,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.rules.snapshot().revision
    }

    fn count(&mut self, kind: EventKind) {
        let counters = &mut self.counters;
        match kind {
            EventKind::Delivered => counters.delivered += 1,
            EventKind::Deferred => counters.deferred += 1,
            EventKind::Bounced => counters.bounced += 1,
            EventKind::Expired => counters.expired += 1,
            EventKind::Suppressed => counters.suppressed += 1,
            EventKind::Cancelled => counters.cancelled += 1,
            _ => {}
        }
    }
}

impl Reports {
    /// Whether some of these outcomes may have to be told.
    fn may_follow(self, ending: Option<Ending>, outcomes: &[RecipientOutcome]) -> bool {
        let fails = |outcome: &RecipientOutcome| outcome.verdict == Verdict::Permanent;
        match self {
            Self::Never => false,
            Self::OfFailures => ending == Some(Ending::Bounce) || outcomes.iter().any(fails),
            Self::OfAll => true,
        }
    }
}

/// The attempt's facts with what the receiver said of one recipient.
fn with_reply(facts: AttemptFacts, outcome: RecipientOutcome) -> AttemptFacts {
    let mut reply = outcome.reply.text;
    if reply.len() > REPLY_BYTES_MAX {
        let end = (0..=REPLY_BYTES_MAX).rev().find(|at| reply.is_char_boundary(*at)).unwrap_or(0);
        reply.truncate(end);
    }
    AttemptFacts {
        reply_code: outcome.reply.code,
        enhanced_status: outcome.reply.enhanced.as_ref().map(ToString::to_string).unwrap_or_default(),
        reply,
        phase: outcome.phase.name().to_owned(),
        ..facts
    }
}

/// What the sender may have to be told of a settled recipient (RFC 3461 5.2, RFC 3464 2.3).
fn report_of(
    kind: EventKind,
    index: RecipientIndex,
    outcome: &RecipientOutcome,
    facts: &AttemptFacts,
) -> Option<ReportRecipient> {
    let action = match (kind, outcome.verdict) {
        (EventKind::Delivered, Verdict::Delivered { dsn_passed_on: false }) => Action::Relayed,
        (EventKind::Bounced | EventKind::Expired, _) => Action::Failed,
        _ => return None,
    };
    let fallback = match action {
        Action::Relayed => EnhancedStatus::new(2, 0, 0),
        Action::Failed => EnhancedStatus::new(5, 0, 0),
    };
    let status = outcome.reply.enhanced.unwrap_or(fallback);
    // A failure is final for the sender, whatever the last reply called itself.
    let status = match action {
        Action::Relayed => EnhancedStatus { class: 2, ..status },
        Action::Failed if kind == EventKind::Expired => EnhancedStatus::new(4, 4, 7),
        Action::Failed => EnhancedStatus { class: 5, ..status },
    };
    Some(ReportRecipient {
        index,
        action,
        status,
        reply: outcome.reply.clone(),
        from_receiver: !facts.host.is_empty() && outcome.reply.code != 0,
        host: facts.host.clone(),
    })
}
