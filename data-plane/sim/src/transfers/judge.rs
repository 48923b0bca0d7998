//! What must hold of a run of several hosts, judged by what was seen from outside.
//!
//! A recipient may be sent to twice, or settle twice, only where nobody could know better:
//!
//! - the reply to the first was never read, and its connection was given up before the second was received;
//! - who sent it first crashed before it can have noted that, or the first to arrive was sent by a life that had ended;
//! - a taker had taken the job, its giver had not heard of it (or crashed before it can have noted what it heard), and the
//!   taker crashed after it had sent the mail, or had given it on;
//! - a taker was forgotten in that state: an operator vouched for it.
//!
//! Which crash, whose, and when are compared exactly, so that a crash elsewhere excuses nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use postrail_core::base::Instant;
use postrail_schema::event::{Event, EventKind};
use postrail_schema::ids::MessageId;

use super::fleet::Permits;
use crate::NodeId;
use crate::invariants::Fact;
use crate::net::Seen;
use crate::platform::instant;
use crate::workload::{client, identity};

#[cfg(test)]
mod tests;

/// What happened between hosts.
#[derive(Clone, Debug)]
pub(super) enum Note {
    Crashed {
        node: NodeId,
    },
    /// An operator has had it forgotten.
    Forgotten {
        node: NodeId,
    },
    /// A copy of a parcel has reached a host.
    Brought {
        jobs: usize,
    },
    /// A host has taken jobs, or has ended while it was about to.
    Taken {
        giver: NodeId,
        taker: NodeId,
        messages: Vec<MessageId>,
    },
    /// The giver has heard that they were taken.
    Told {
        giver: NodeId,
        taker: NodeId,
        messages: Vec<MessageId>,
    },
}

/// Notes in their order; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Notes(Rc<RefCell<Vec<(Instant, Note)>>>);

impl Notes {
    pub(super) fn add(&self, at: Instant, note: Note) {
        self.0.borrow_mut().push((at, note));
    }

    pub(super) fn take(&self) -> Vec<(Instant, Note)> {
        self.0.take()
    }
}

/// A rule that was broken, and by whom.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Violation {
    NeverSettled {
        recipient: String,
    },
    SettledTwice {
        recipient: String,
        by: Vec<(NodeId, EventKind)>,
    },
    UnexcusedDuplicate {
        recipient: String,
        first: (NodeId, u64),
        second: (NodeId, u64),
    },
    DeliveredToNobody {
        recipient: String,
    },
    AcceptedButNotDelivered {
        recipient: String,
        kind: EventKind,
    },
    NeverSubmitted {
        recipient: String,
    },
    /// A connection was begun from an address that the host did not hold.
    ConnectedFromElsewhere {
        node: NodeId,
        address: IpAddr,
        at_nanos: u64,
    },
    /// A mail was.
    SentFromElsewhere {
        node: NodeId,
        address: IpAddr,
        at_nanos: u64,
    },
    /// A host that is emptied was not in time.
    NotEmptied {
        host: String,
        waiting: usize,
    },
    StillWaiting {
        host: String,
        waiting: usize,
    },
    TooManyJobs {
        jobs: usize,
    },
}

/// All that was seen.
pub(super) struct Case<'a> {
    pub(super) facts: Vec<(Instant, Fact)>,
    pub(super) seen: Vec<(Instant, Seen)>,
    pub(super) notes: &'a [(Instant, Note)],
    pub(super) permits: &'a Permits,
    pub(super) moving: &'a [IpAddr],
    pub(super) journals: &'a [(NodeId, Event)],
    /// Jobs that one parcel may have.
    pub(super) jobs_max: usize,
}

pub(super) fn judge(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_places(case, &mut violations);
    check_bounds(case, &mut violations);
    let doubts = Doubts::new(case.notes);
    for (recipient, story) in stories(case) {
        story.check(recipient, &doubts, &mut violations);
    }
    violations
}

fn check_bounds(case: &Case<'_>, violations: &mut Vec<Violation>) {
    for (_, note) in case.notes {
        if let Note::Brought { jobs } = note
            && *jobs > case.jobs_max
        {
            violations.push(Violation::TooManyJobs { jobs: *jobs });
        }
    }
}

/// Connections and mails leave only from addresses that their host holds at that time.
fn check_places(case: &Case<'_>, violations: &mut Vec<Violation>) {
    for (at, seen) in &case.seen {
        let Seen::Begins { node, source } = *seen else { continue };
        if case.moving.contains(&source) && !case.permits.holds(node, source, *at, *at) {
            violations.push(Violation::ConnectedFromElsewhere { node, address: source, at_nanos: at.nanos() });
        }
    }
    let mut clients = BTreeMap::new();
    for (at, fact) in &case.facts {
        match fact {
            Fact::ConnectionOpened { connection, node: Some(node), source, .. } => {
                clients.insert(*connection, (*node, *source));
            }
            Fact::MailBegun { connection, .. } => {
                let Some((node, address)) = clients.get(connection).copied() else { continue };
                let sent = Instant::from_nanos(at.nanos().saturating_sub(ON_ITS_WAY.as_nanos() as u64));
                if case.moving.contains(&address) && !case.permits.holds(node, address, sent, *at) {
                    violations.push(Violation::SentFromElsewhere { node, address, at_nanos: at.nanos() });
                }
            }
            _ => {}
        }
    }
}

/// What nobody can know, by the crashes of a run.
struct Doubts {
    crashes: BTreeMap<NodeId, Vec<Instant>>,
    lost: BTreeMap<MessageId, Vec<Lost>>,
}

/// A taker ended, or was forgotten, that had a job of which its giver did not know that it had been taken.
#[derive(Clone, Copy)]
struct Lost {
    at: Instant,
    is_forgotten: bool,
    taker: NodeId,
    /// It had given the job to another host by then.
    is_given_on: bool,
}

impl Doubts {
    fn new(notes: &[(Instant, Note)]) -> Self {
        let mut crashes: BTreeMap<NodeId, Vec<Instant>> = BTreeMap::new();
        for (at, note) in notes {
            if let Note::Crashed { node } = note {
                crashes.entry(*node).or_default().push(*at);
            }
        }
        let crashed = |node: &NodeId, from: Instant, to: Instant| {
            crashes.get(node).is_some_and(|all| all.iter().any(|at| from <= *at && *at <= to))
        };
        // By message, giver and taker: open since.
        let mut open: BTreeSet<(MessageId, NodeId, NodeId)> = BTreeSet::new();
        let mut given: BTreeSet<(MessageId, NodeId)> = BTreeSet::new();
        let mut lost: BTreeMap<MessageId, Vec<Lost>> = BTreeMap::new();
        for (at, note) in notes {
            match note {
                Note::Brought { .. } => {}
                Note::Taken { giver, taker, messages } => {
                    open.extend(messages.iter().map(|message| (*message, *giver, *taker)));
                    given.extend(messages.iter().map(|message| (*message, *giver)));
                }
                // What was heard is noted soon, unless the giver crashes before.
                Note::Told { giver, taker, messages } if !crashed(giver, *at, *at + NOTED) => {
                    open.retain(|(message, from, to)| !((from, to) == (giver, taker) && messages.contains(message)));
                }
                Note::Told { .. } => {}
                Note::Crashed { node } | Note::Forgotten { node } => {
                    let is_forgotten = matches!(note, Note::Forgotten { .. });
                    for (message, _, taker) in open.iter().filter(|(_, _, taker)| taker == node) {
                        let is_given_on = given.contains(&(*message, *node));
                        let one = Lost { at: *at, is_forgotten, taker: *taker, is_given_on };
                        lost.entry(*message).or_default().push(one);
                    }
                }
            }
        }
        Self { crashes, lost }
    }

    fn crashed(&self, node: NodeId, from: Instant, to: Instant) -> bool {
        self.crashes.get(&node).is_some_and(|all| all.iter().any(|at| from <= *at && *at <= to))
    }

    /// Whether nobody could know, when it was sent again at `again`, that `node` had sent it at `sent`.
    fn excuse(&self, message: Option<MessageId>, sent: (NodeId, Instant), again: Instant) -> bool {
        let lost = message.and_then(|message| self.lost.get(&message));
        lost.into_iter().flatten().filter(|lost| lost.at < again).any(|lost| {
            let has_sent = lost.taker == sent.0 && sent.1 <= lost.at;
            lost.is_forgotten || has_sent || lost.is_given_on
        })
    }
}

/// A message that a receiver took.
#[derive(Clone, Copy)]
struct Reception {
    at: Instant,
    node: NodeId,
    connection: u64,
    opened_at: Instant,
    is_heard: bool,
    /// When its sender let go of the connection.
    ended_at: Instant,
}

/// A settling event.
#[derive(Clone, Copy)]
struct Settlement {
    at: Instant,
    node: NodeId,
    kind: EventKind,
}

/// All that is known of a recipient.
#[derive(Default)]
struct Story {
    message: Option<MessageId>,
    is_submitted: bool,
    is_acknowledged: bool,
    receptions: Vec<Reception>,
    /// Settling events by identity.
    settlements: BTreeMap<u64, Settlement>,
}

fn stories(case: &Case<'_>) -> BTreeMap<String, Story> {
    let mut stories: BTreeMap<String, Story> = BTreeMap::new();
    let mut opened = BTreeMap::new();
    let mut ended = BTreeMap::new();
    for (at, seen) in &case.seen {
        if let Seen::Ends { connection } = seen {
            ended.entry(*connection).or_insert(*at);
        }
    }
    for (at, fact) in &case.facts {
        match fact {
            Fact::ConnectionOpened { connection, node: Some(node), .. } => {
                opened.insert(*connection, (*node, *at));
            }
            Fact::Submitted { recipient } => stories.entry(recipient.clone()).or_default().is_submitted = true,
            Fact::Acknowledged { recipient } => stories.entry(recipient.clone()).or_default().is_acknowledged = true,
            Fact::Received { recipient, connection } => {
                let (node, opened_at) = opened.get(connection).copied().unwrap_or((NodeId(u16::MAX), *at));
                let ended_at = ended.get(connection).copied().unwrap_or(Instant::FAR);
                let (connection, is_heard) = (*connection, false);
                let reception = Reception { at: *at, node, connection, opened_at, is_heard, ended_at };
                stories.entry(recipient.clone()).or_default().receptions.push(reception);
            }
            Fact::ReplyHeard { recipient, connection } => {
                let story = stories.entry(recipient.clone()).or_default();
                let last = story.receptions.iter_mut().rev().find(|one| one.connection == *connection);
                last.into_iter().for_each(|reception| reception.is_heard = true);
            }
            _ => {}
        }
    }
    let accepted = case.journals.iter().filter(|(_, event)| event.kind == EventKind::Accepted);
    let names: BTreeMap<_, _> =
        accepted.map(|(_, event)| ((event.message, event.index), event.address.as_str())).collect();
    for (node, event) in case.journals {
        // Reports to our own senders were asked for by nobody.
        let name = names.get(&(event.message, event.index)).copied().unwrap_or("without an acceptance");
        if name.ends_with(client::SENDERS) {
            continue;
        }
        let story = stories.entry(name.to_owned()).or_default();
        story.message = Some(event.message);
        if event.kind.settles() {
            let settlement = Settlement { at: instant(event.at_ms), node: *node, kind: event.kind };
            story.settlements.insert(identity(event), settlement);
        }
    }
    stories
}

impl Story {
    fn check(&self, recipient: String, doubts: &Doubts, violations: &mut Vec<Violation>) {
        if !self.is_submitted {
            violations.push(Violation::NeverSubmitted { recipient: recipient.clone() });
        }
        for (number, again) in self.receptions.iter().enumerate() {
            let mut earlier = self.receptions[..number].iter();
            if let Some(first) = earlier.find(|first| !self.is_excused(first, again, doubts)) {
                let [first, second] = [first, again].map(|one| (one.node, one.at.nanos()));
                violations.push(Violation::UnexcusedDuplicate { recipient: recipient.clone(), first, second });
                break;
            }
        }
        let mut settled: Vec<Settlement> = self.settlements.values().copied().collect();
        settled.sort_by_key(|one| one.at);
        let is_known = |pair: &[Settlement]| !doubts.excuse(self.message, (pair[0].node, pair[0].at), pair[1].at);
        if settled.windows(2).any(is_known) {
            let by = settled.iter().map(|one| (one.node, one.kind)).collect();
            violations.push(Violation::SettledTwice { recipient: recipient.clone(), by });
        }
        let is_delivered = settled.iter().any(|one| one.kind == EventKind::Delivered);
        match settled.first() {
            None if self.is_acknowledged => violations.push(Violation::NeverSettled { recipient }),
            None => {}
            Some(_) if is_delivered && self.receptions.is_empty() => {
                violations.push(Violation::DeliveredToNobody { recipient });
            }
            Some(first) if !is_delivered => {
                let is_known = |one: &Reception| {
                    let is_noted = one.is_heard && !doubts.crashed(one.node, one.at, one.at + NOTED);
                    is_noted && !doubts.excuse(self.message, (one.node, one.at), first.at)
                };
                if self.receptions.iter().any(is_known) {
                    violations.push(Violation::AcceptedButNotDelivered { recipient, kind: first.kind });
                }
            }
            Some(_) => {}
        }
    }

    fn is_excused(&self, first: &Reception, again: &Reception, doubts: &Doubts) -> bool {
        let is_unheard = !first.is_heard && first.ended_at <= again.at;
        let is_unnoted = doubts.crashed(first.node, first.at, again.at.min(first.at + NOTED));
        let is_from_before = doubts.crashed(again.node, again.opened_at, again.at);
        is_unheard || is_unnoted || is_from_before || doubts.excuse(self.message, (first.node, first.at), again.at)
    }
}

/// How long after it was sent the beginning of a mail may be read.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// By when something that was heard has been noted, on a disk that stalls.
const NOTED: Duration = Duration::from_secs(20);
