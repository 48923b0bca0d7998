//! What the operator sees of a shard: sites, what waits and why, and one message's recipients.

use std::collections::BTreeMap;

use postrail_schema::ids::{MessageId, ShapingRuleId, TenantId};
use serde::Serialize;

use super::{GroupState, JobRef, Shard};
use crate::base::{Moment, Timestamp};
use crate::rules::{Counted, Span};
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
    /// Of those that are ready, what is held back by a rule about a tenant, campaign, class or recipient domain.
    pub held: usize,
    /// Why nothing starts, if so.
    pub stopped: Option<&'static str>,
    /// RFC 3339, while the path backs off or is throttled.
    pub retry_at: Option<String>,
    pub last_failure: String,
    /// The shaping rules that hold it back at present.
    pub held_by: Vec<String>,
    /// What it may use, and which rules say so.
    pub limits: Vec<LimitView>,
    /// What the mail of this lane demands of a connection; `None`: opportunistic TLS.
    pub tls: Option<String>,
}

/// One limit or throttle of a path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LimitView {
    /// As in a shaping rule: `connections`, `mails_per_connection`, `mail_rate`, `connection_rate`.
    pub what: &'static str,
    /// What the rule says; of a limit what this shard has of it.
    pub value: String,
    /// `None`: the product's default.
    pub rule: Option<String>,
    /// It is counted over all paths of the source to a provider.
    pub is_shared: bool,
}

/// What waits for one recipient domain, by reason.
#[derive(Clone, Debug, Serialize)]
pub struct DomainView {
    pub domain: String,
    pub site: Option<String>,
    pub recipients: usize,
    pub reasons: BTreeMap<&'static str, usize>,
    /// The shaping rules that hold recipients back, and how many.
    pub held_by: BTreeMap<String, usize>,
    /// The TLS rules that demand something for recipients, and for how many.
    pub tls_rules: BTreeMap<String, usize>,
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
    /// The shaping rules that hold it back.
    pub held_by: Vec<String>,
    /// The TLS rules that demand something for it.
    pub tls_rules: Vec<String>,
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
    /// The same as a number, by which a page is sorted: Unix milliseconds.
    pub expires_ms: u64,
}

/// Which jobs in quarantine are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuarantineQuery {
    /// `None`: of all.
    pub tenant: Option<TenantId>,
    /// Those behind the one that expires then.
    pub after: Option<(Timestamp, MessageId)>,
    pub jobs_max: usize,
}

/// Some of them, the first to expire first.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QuarantinePage {
    pub jobs: Vec<QuarantineView>,
    /// How many there are, those before and behind this page, too.
    pub total: usize,
}

impl Shard {
    /// What waits for a person.
    pub fn quarantine_view(&self, query: &QuarantineQuery) -> QuarantinePage {
        let held = self.jobs.iter().map(|(_, job)| job).filter(|job| job.is_quarantined());
        let held = held.filter(|job| query.tenant.is_none_or(|tenant| job.tenant == tenant));
        let (mut total, mut behind) = (0, Vec::new());
        for job in held {
            total += 1;
            let key = (job.expires_at, job.id);
            if query.after.is_none_or(|after| key > after) {
                behind.push((key, job));
            }
        }
        behind.sort_unstable_by_key(|(key, _)| *key);
        let view = |((expires, id), job): &((Timestamp, MessageId), &super::JobSlot)| QuarantineView {
            job: id.to_string(),
            tenant_id: job.tenant.0,
            domain_id: job.domain.0,
            recipients: job.open.into(),
            expires: expires.rfc3339(),
            expires_ms: expires.unix_ms(),
        };
        QuarantinePage { jobs: behind.iter().take(query.jobs_max).map(view).collect(), total }
    }

    /// The queue as it is now; domains with most waiting first.
    pub fn queue_view(&self, now: Moment) -> QueueView {
        let mut domains: BTreeMap<u32, DomainView> = BTreeMap::new();
        for (id, group) in &self.groups {
            if matches!(group.job, JobRef::Remote(_)) {
                continue;
            }
            let slot = self.domains.slot(group.domain);
            let row = domains.entry(group.domain).or_insert_with(|| DomainView {
                domain: slot.name.to_string(),
                site: slot.hosts.as_ref().map(|hosts| hosts.site.0.to_string()),
                recipients: 0,
                reasons: BTreeMap::new(),
                held_by: BTreeMap::new(),
                tls_rules: BTreeMap::new(),
                next_attempt: None,
            });
            row.recipients += group.recipients.len();
            let (reason, held_by) = self.reason_of(now, id as u32);
            *row.reasons.entry(reason.name()).or_default() += group.recipients.len();
            for rule in held_by {
                *row.held_by.entry(rule).or_default() += group.recipients.len();
            }
            for rule in self.tls_rules_of(group) {
                *row.tls_rules.entry(rule).or_default() += group.recipients.len();
            }
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
        let closed = [&path.mail_gates, &path.connection_gates].map(|gates| self.gates.closed(gates, now.instant));
        let closed: Vec<u32> = closed.into_iter().flatten().filter(|_| path.ready_len() > 0).collect();
        let held_by = self.rule_names(closed.iter().filter_map(|gate| self.gates.rule(*gate)));
        // At a limit of connections those that there are go on.
        let is_throttled = closed.iter().any(|gate| path.mail_gates.contains(gate) || path.connections() == 0);
        let stopped = path.stopped(now.instant).or_else(|| is_throttled.then_some(WaitReason::Throttled));
        let backing_off = path.retry_at().filter(|at| *at > now.instant);
        let opens = || closed.iter().filter(|_| is_throttled).filter_map(|gate| self.gates.opens_at(*gate)).max();
        let again = backing_off.or_else(opens);
        PathView {
            source: source.map(|source| source.name.clone()).unwrap_or_default(),
            source_address: source.map(|source| source.address.to_string()).unwrap_or_default(),
            site: path.key.site.0.to_string(),
            port: path.key.port,
            connections: path.connections(),
            idle: path.idle_sessions().len(),
            ready: path.ready_len(),
            held: path.ready_len() - path.queue.len(),
            stopped: stopped.map(WaitReason::name),
            retry_at: again.map(|at| now.wall_of(at).rfc3339()),
            last_failure: path.last_failure().to_owned(),
            held_by,
            limits: self.limit_views(path),
            tls: path.key.tls.as_ref().map(ToString::to_string),
        }
    }

    fn limit_views(&self, path: &crate::schedule::Path) -> Vec<LimitView> {
        let rule = |id| self.rules.shaping_rule(id);
        let own = |what, value: usize, by: Option<_>| LimitView {
            what,
            value: value.to_string(),
            rule: by.and_then(rule).map(|rule| rule.name.clone()),
            is_shared: false,
        };
        let mails = path.shape.limits.mails_per_connection as usize;
        let mut views = vec![
            own("connections", path.connections_max, path.shape.connections_by),
            own("mails_per_connection", mails, path.shape.mails_per_connection_by),
        ];
        for ceiling in &path.shape.ceilings {
            let Some(rule) = ceiling.rule.and_then(rule) else { continue };
            let (what, value) = match ceiling.counted {
                Counted::Mails => ("mail_rate", rule.mail_rate.map(|rate| rate.to_string())),
                Counted::ConnectionStarts => ("connection_rate", rule.connection_rate.map(|rate| rate.to_string())),
                Counted::Connections => ("connections", rule.connections.map(|count| count.to_string())),
            };
            let is_shared = ceiling.span != Span::Path;
            views.push(LimitView { what, value: value.unwrap_or_default(), rule: Some(rule.name.clone()), is_shared });
        }
        views
    }

    fn rule_names(&self, rules: impl IntoIterator<Item = ShapingRuleId>) -> Vec<String> {
        rules.into_iter().filter_map(|id| Some(self.rules.shaping_rule(id)?.name.clone())).collect()
    }

    /// Why a group waits, and the shaping rules that hold it back.
    fn reason_of(&self, now: Moment, group: u32) -> (WaitReason, Vec<String>) {
        let reason = match self.groups[group as usize].state {
            GroupState::Scheduled { reason, .. } => reason,
            GroupState::Resolving => WaitReason::Resolving,
            GroupState::Handed => WaitReason::OtherShard,
            GroupState::Offered { .. } => WaitReason::BeingMoved,
            GroupState::InFlight | GroupState::Moving => WaitReason::InFlight,
            GroupState::Ready { path } => {
                let held_by = self.rule_names(self.held_by(now.instant, path, group));
                let reason = if held_by.is_empty() { WaitReason::Ready } else { WaitReason::Throttled };
                return (reason, held_by);
            }
        };
        (reason, Vec::new())
    }

    /// What waits of `message`; `None`: it is not held here.
    pub fn message_view(&self, now: Moment, message: MessageId) -> Option<MessageView> {
        let job = self.job_of(message)?;
        let mut recipients = Vec::new();
        for id in self.groups_in(job) {
            let group = &self.groups[id as usize];
            let (reason, held_by) = self.reason_of(now, id);
            let tls_rules = self.tls_rules_of(group);
            recipients.extend(group.recipients.iter().map(|index| RecipientView {
                index: index.0,
                domain: self.domains.slot(group.domain).name.to_string(),
                reason: reason.name(),
                held_by: held_by.clone(),
                tls_rules: tls_rules.clone(),
                attempts: group.attempts,
                next_attempt: next_attempt(now, group.state),
            }));
        }
        recipients.sort_by_key(|recipient| recipient.index);
        Some(MessageView { message: message.to_string(), recipients })
    }
}

fn next_attempt(now: Moment, state: GroupState) -> Option<String> {
    match state {
        GroupState::Scheduled { due, reason } if !reason.until_configured() => Some(now.wall_of(due).rfc3339()),
        _ => None,
    }
}
