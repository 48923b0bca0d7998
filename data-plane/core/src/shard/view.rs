//! What the operator sees of a shard: sites, what waits and why, and one message's recipients.

use std::collections::BTreeMap;

use postrail_schema::ids::MessageId;
use serde::Serialize;

use super::{GroupState, JobRef, Shard};
use crate::base::Moment;
use crate::schedule::WaitReason;

/// Rows of a queue view at most.
const ROWS_MAX: usize = 1_000;

/// The queue of one shard.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueView {
    pub shard: u16,
    /// Recipients that have not settled.
    pub waiting: usize,
    pub paths: Vec<PathView>,
    pub domains: Vec<DomainView>,
    /// Rows were left out.
    pub truncated: bool,
}

/// One egress path.
#[derive(Clone, Debug, Serialize)]
pub struct PathView {
    pub source: String,
    pub source_address: String,
    pub site: String,
    pub port: u16,
    pub connections: usize,
    pub idle: usize,
    pub ready: usize,
    /// Why nothing starts, if so.
    pub stopped: Option<&'static str>,
    /// RFC 3339, while the path backs off.
    pub retry_at: Option<String>,
    pub last_failure: String,
}

/// What waits for one recipient domain, by reason.
#[derive(Clone, Debug, Serialize)]
pub struct DomainView {
    pub domain: String,
    pub site: Option<String>,
    pub recipients: usize,
    pub reasons: BTreeMap<&'static str, usize>,
    /// RFC 3339: the earliest next attempt.
    pub next_attempt: Option<String>,
}

/// What waits of one message.
#[derive(Clone, Debug, Serialize)]
pub struct MessageView {
    pub message: String,
    pub recipients: Vec<RecipientView>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RecipientView {
    pub index: u16,
    pub domain: String,
    pub reason: &'static str,
    pub attempts: u16,
    pub next_attempt: Option<String>,
}

/// A job that waits for a person.
#[derive(Clone, Debug, Serialize)]
pub struct QuarantineView {
    pub job: String,
    /// Of the tenant and of the sending domain.
    pub tenant_id: u32,
    pub domain_id: u32,
    pub recipients: usize,
    /// RFC 3339: it expires then.
    pub expires: String,
}

impl Shard {
    /// What waits for a person, the first to expire first; [`ROWS_MAX`] of it at most.
    pub fn quarantine_view(&self) -> Vec<QuarantineView> {
        let held = self.jobs.iter().map(|(_, job)| job).filter(|job| job.quarantined);
        let mut held: Vec<_> = held.map(|job| (job.expires_at, job)).collect();
        held.sort_by_key(|(expires, job)| (*expires, job.id));
        let view = |(expires, job): &(crate::base::Timestamp, &super::JobSlot)| QuarantineView {
            job: job.id.to_string(),
            tenant_id: job.tenant.0,
            domain_id: job.domain.0,
            recipients: job.open.into(),
            expires: expires.rfc3339(),
        };
        held.iter().take(ROWS_MAX).map(view).collect()
    }

    /// The queue as it is now; domains with most waiting first.
    pub fn queue_view(&self, now: Moment) -> QueueView {
        let mut domains: BTreeMap<u32, DomainView> = BTreeMap::new();
        for (_, group) in &self.groups {
            if matches!(group.job, JobRef::Remote(_)) {
                continue;
            }
            let slot = self.domains.slot(group.domain);
            let row = domains.entry(group.domain).or_insert_with(|| DomainView {
                domain: slot.name.to_string(),
                site: slot.hosts.as_ref().map(|hosts| hosts.site.0.to_string()),
                recipients: 0,
                reasons: BTreeMap::new(),
                next_attempt: None,
            });
            row.recipients += group.recipients.len();
            *row.reasons.entry(reason_of(group.state).name()).or_default() += group.recipients.len();
            let next = next_attempt(now, group.state);
            row.next_attempt = match (row.next_attempt.take(), next) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let mut domains: Vec<DomainView> = domains.into_values().collect();
        domains.sort_by(|a, b| b.recipients.cmp(&a.recipients).then_with(|| a.domain.cmp(&b.domain)));
        let truncated = domains.len() > ROWS_MAX || self.paths.len() > ROWS_MAX;
        domains.truncate(ROWS_MAX);
        let paths = self.paths.iter().take(ROWS_MAX).map(|(_, path)| self.path_view(now, path)).collect();
        QueueView { shard: self.config.shard.0, waiting: self.waiting, paths, domains, truncated }
    }

    fn path_view(&self, now: Moment, path: &crate::schedule::Path) -> PathView {
        let source = self.rules.source(path.key.source);
        let backing_off = path.retry_at().filter(|at| *at > now.instant);
        PathView {
            source: source.map(|source| source.name.clone()).unwrap_or_default(),
            source_address: source.map(|source| source.address.to_string()).unwrap_or_default(),
            site: path.key.site.0.to_string(),
            port: path.key.port,
            connections: path.connections(),
            idle: path.idle_sessions().len(),
            ready: path.queue.len(),
            stopped: path.stopped(now.instant).map(WaitReason::name),
            retry_at: backing_off.map(|at| now.wall_of(at).rfc3339()),
            last_failure: path.last_failure().to_owned(),
        }
    }

    /// What waits of `message`; `None`: it is not held here.
    pub fn message_view(&self, now: Moment, message: MessageId) -> Option<MessageView> {
        let job = self.job_of(message)?;
        let mut recipients = Vec::new();
        for group in self.groups_in(job) {
            let group = &self.groups[group as usize];
            recipients.extend(group.recipients.iter().map(|index| RecipientView {
                index: index.0,
                domain: self.domains.slot(group.domain).name.to_string(),
                reason: reason_of(group.state).name(),
                attempts: group.attempts,
                next_attempt: next_attempt(now, group.state),
            }));
        }
        recipients.sort_by_key(|recipient| recipient.index);
        Some(MessageView { message: message.to_string(), recipients })
    }
}

fn reason_of(state: GroupState) -> WaitReason {
    match state {
        GroupState::Scheduled { reason, .. } => reason,
        GroupState::Resolving => WaitReason::Resolving,
        GroupState::Ready { .. } => WaitReason::Ready,
        GroupState::Handed => WaitReason::OtherShard,
        GroupState::InFlight | GroupState::Moving => WaitReason::InFlight,
    }
}

fn next_attempt(now: Moment, state: GroupState) -> Option<String> {
    match state {
        GroupState::Scheduled { due, reason } if !reason.until_configured() => Some(now.wall_of(due).rfc3339()),
        _ => None,
    }
}
