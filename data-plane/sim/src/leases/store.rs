//! The model of etcd: one history of revisions, guarded writes, leases that its leader counts, changes of leader, and a
//! history that is cut off: a restore of an earlier state, or a beginning with nothing.
//!
//! What is modelled of it is what may go wrong for those who hold addresses: requests that are not answered while there
//! is no leader, that are applied and whose answer is lost, or that are applied late; leases that a new leader lengthens,
//! and that a replaced leader revokes although they were kept alive (etcd issues 12528 and 15247).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postrail_control_plane::allocation::Step;
use postrail_core::lease::View;
use postrail_schema::allocation::{Grant, HostName, HostRecord};

/// What the store holds at one revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub revision: u64,
    pub records: BTreeMap<HostName, (u64, HostRecord)>,
    pub grants: BTreeMap<HostName, Vec<Grant>>,
    pub epoch: u64,
    /// The revision that last changed any grants.
    pub head: u64,
    /// The control plane that leads, and until when its lease is counted.
    pub leader: Option<(usize, Duration)>,
}

impl Content {
    pub(super) fn view(&self, host: &HostName) -> View {
        View {
            revision: self.revision,
            record: self.records.get(host).cloned(),
            grants: self.grants.get(host).cloned().unwrap_or_default(),
        }
    }
}

/// What is asked of it.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Read,
    Write {
        host: HostName,
        guard: u64,
        record: Box<HostRecord>,
    },
    /// Become the leader, or stay it.
    Lead {
        control: usize,
    },
    /// Write a step if no grants have changed since `head`, and each record is still of that revision.
    Take {
        head: u64,
        records: Vec<(HostName, u64)>,
        step: Box<Step>,
    },
}

/// What it answers; the content is that of the moment when the request was done.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Content(Arc<Content>),
    /// The write was done by that revision.
    Written(u64, Arc<Content>),
    Refused,
}

#[derive(Debug)]
pub(super) struct Store {
    pub content: Arc<Content>,
    /// There is no leader before that.
    pub silent_until: Duration,
    pub leader_lease: Duration,
    /// How often it was restored: what was sent to it before is lost.
    pub life: u64,
    /// What it held from when on.
    past: Vec<(Duration, Arc<Content>)>,
}

impl Store {
    pub(super) fn new(leader_lease: Duration) -> Self {
        let (content, silent_until) = (Arc::default(), Duration::ZERO);
        Self { content, silent_until, leader_lease, life: 0, past: Vec::new() }
    }

    /// Does a request whole, or not at all.
    pub(super) fn apply(&mut self, now: Duration, request: &Request) -> Answer {
        let revision = self.content.revision + 1;
        let content = Arc::make_mut(&mut self.content);
        match request {
            Request::Read => return Answer::Content(self.content.clone()),
            Request::Write { host, guard, record } => {
                if content.records.get(host).map_or(0, |(by, _)| *by) != *guard {
                    return Answer::Refused;
                }
                content.records.insert(host.clone(), (revision, (**record).clone()));
            }
            Request::Lead { control } => {
                if content.leader.is_some_and(|(leader, until)| leader != *control && now < until) {
                    return Answer::Refused;
                }
                content.leader = Some((*control, now + self.leader_lease));
                return Answer::Written(content.revision, self.content.clone());
            }
            Request::Take { head, records, step } => {
                let is_as_known =
                    |(host, known): &(HostName, u64)| content.records.get(host).map_or(0, |(by, _)| *by) == *known;
                if content.head != *head || !records.iter().all(is_as_known) {
                    return Answer::Refused;
                }
                content.head = revision;
                content.epoch = step.epoch;
                content.grants.extend(step.changed.clone());
            }
        }
        content.revision = revision;
        self.past.push((now, self.content.clone()));
        Answer::Written(revision, self.content.clone())
    }

    /// After `silence` it has what it had `age` before, as far as all of `known` had records then; else nothing.
    pub(super) fn restore(&mut self, now: Duration, silence: Duration, age: Option<Duration>, known: &[HostName]) {
        self.life += 1;
        self.silent_until = self.silent_until.max(now + silence);
        let until = age.map(|age| self.silent_until.saturating_sub(age));
        let is_known = |content: &Content| known.iter().all(|host| content.records.contains_key(host));
        let last = self.past.iter().rposition(|(at, _)| until.is_some_and(|until| *at <= until));
        let first = self.past.iter().position(|(_, content)| is_known(content));
        let kept = if known.is_empty() { last } else { last.max(first) };
        self.past.truncate(kept.map_or(0, |at| at + 1));
        self.content = self.past.last().map(|(_, content)| content.clone()).unwrap_or_default();
        let lease = self.leader_lease;
        if let Some((_, until)) = &mut Arc::make_mut(&mut self.content).leader {
            *until = self.silent_until + lease;
        }
    }

    /// Another member leads after `silence`: it counts leases anew, unless the old one has ended them wrongly.
    pub(super) fn change_leader(&mut self, now: Duration, silence: Duration, is_revoked: bool) {
        self.silent_until = now + silence;
        let lease = self.leader_lease;
        let content = Arc::make_mut(&mut self.content);
        if is_revoked {
            content.leader = None;
        } else if let Some((_, until)) = &mut content.leader {
            *until = now + silence + lease;
        }
    }
}
