//! What must hold of a run, checked over recorded [`Fact`]s by rules that know nothing of how the product works.
//!
//! A recipient is named by its address, which a workload uses once only: so that clients, receivers and the event
//! journal speak of the same one without a common id.
//!
//! The rules are those of the ten invariants of the architecture that can be seen from outside:
//!
//! | rule | invariant |
//! |---|---|
//! | [`Violation::NeverSettled`] | 1 and 2: what was acknowledged is not lost by any crash |
//! | [`Violation::SettledTwice`] | 2: exactly one settling event |
//! | [`Violation::UnexcusedDuplicate`] | 3: twice only after a lost reply or a crash |
//! | [`Violation::DeliveredToNobody`], [`Violation::AcceptedButNotDelivered`] | 2: the event tells the truth |
//! | [`Violation::NeverSubmitted`] | 7: nothing goes to whom nothing was sent |
//! | [`Violation::TooManyConnections`], [`Violation::TooManyMails`], [`Violation::TooFast`] | 4: limits and rates |
//! | [`Violation::TooManyRecipients`], [`Violation::LineTooLong`] | 8: the bounds that a receiver sees |
//!
//! Bounds that nobody outside sees are asserted where they are; trace hashes (10) are compared by who runs a seed twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use postrail_core::base::Instant;
use postrail_schema::event::EventKind;
use postrail_schema::limits::{MESSAGE_LINE_BYTES_MAX, TRANSACTION_RECIPIENTS_MAX};

use crate::NodeId;

/// Something that was seen from outside the product.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fact {
    /// A client has begun to hand in mail for a recipient.
    Submitted { recipient: String },
    /// A client has read the acknowledgement.
    Acknowledged { recipient: String },
    /// A receiver has taken the message, and is about to say 250 to the end of data.
    Received { recipient: String, connection: u64 },
    /// The reply to the end of data has been read.
    ReplyHeard { recipient: String, connection: u64 },
    /// An event of the journal; the same event may be read again after a crash, and carries the same identity.
    Event { recipient: String, kind: EventKind, identity: u64 },
    /// The product's node has lost its power.
    Crashed,
    /// A receiver has taken a connection of `node`; `open`: those that its source then holds to each receiver.
    ConnectionOpened {
        connection: u64,
        node: Option<NodeId>,
        source: IpAddr,
        receiver: IpAddr,
        open: BTreeMap<IpAddr, usize>,
    },
    /// A client has begun a mail on a connection (MAIL).
    MailBegun { connection: u64, receiver: IpAddr },
    /// A message for so many recipients was taken on a connection; its longest line has so many octets.
    MailTaken { connection: u64, recipients: usize, line_octets_max: usize },
}

/// The facts of a run in the order in which they happened; cheap to clone.
#[derive(Clone, Default)]
pub struct Facts(Rc<RefCell<Vec<(Instant, Fact)>>>);

impl Facts {
    pub fn record(&self, at: Instant, fact: Fact) {
        self.0.borrow_mut().push((at, fact));
    }

    /// All of them, in their order.
    pub fn all(&self) -> Vec<(Instant, Fact)> {
        self.0.borrow().clone()
    }

    /// Number of the facts that `is_wanted`.
    pub fn count(&self, is_wanted: impl Fn(&Fact) -> bool) -> usize {
        self.0.borrow().iter().filter(|(_, fact)| is_wanted(fact)).count()
    }

    /// Every rule that these facts break, the finished run's also those of the end.
    pub fn check(&self, limits: &Limits, end: End) -> Vec<Violation> {
        let facts = self.0.borrow();
        let mut ledger = Ledger::default();
        let mut violations = Vec::new();
        for (at, fact) in facts.iter() {
            ledger.take(*at, fact, limits, &mut violations);
        }
        for pace in &limits.paces {
            pace.check(&facts, &mut violations);
        }
        if end == End::Drained {
            ledger.close(&mut violations);
        }
        violations
    }
}

/// What may happen at most.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// By receiver.
    pub paths: BTreeMap<IpAddr, PathLimits>,
    /// Connections to several receivers together.
    pub together: Vec<(BTreeSet<IpAddr>, usize)>,
    pub paces: Vec<Pace>,
}

/// What a path may do at most.
#[derive(Clone, Copy, Debug)]
pub struct PathLimits {
    pub connections_max: usize,
    pub connection_mails_max: u32,
}

/// A rate at some receivers together: in no time `t` more than `1 + (t + slack) / interval`.
#[derive(Clone, Debug)]
pub struct Pace {
    pub receivers: BTreeSet<IpAddr>,
    /// Connections rather than mails.
    pub is_of_connections: bool,
    pub interval: Duration,
    /// By how much what was begun evenly may arrive unevenly.
    pub slack: Duration,
}

impl Pace {
    fn check(&self, facts: &[(Instant, Fact)], violations: &mut Vec<Violation>) {
        let is_counted = |fact: &Fact| match fact {
            Fact::ConnectionOpened { receiver, .. } => self.is_of_connections && self.receivers.contains(receiver),
            Fact::MailBegun { receiver, .. } => !self.is_of_connections && self.receivers.contains(receiver),
            _ => false,
        };
        let times: Vec<Instant> = facts.iter().filter(|(_, fact)| is_counted(fact)).map(|(at, _)| *at).collect();
        for (first, from) in times.iter().enumerate() {
            for (last, to) in times.iter().enumerate().skip(first + 1) {
                let most = 1 + (to.since(*from) + self.slack).as_nanos() / self.interval.as_nanos();
                let count = last - first + 1;
                if count as u128 > most {
                    let (at_nanos, interval) = (from.nanos(), self.interval);
                    violations.push(Violation::TooFast { at_nanos, window: to.since(*from), count, interval });
                    return;
                }
            }
        }
    }
}

/// How far a run went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Everything had the time to settle.
    Drained,
    /// It was stopped somewhere: what is not settled may still be.
    Somewhere,
}

/// A rule that was broken, and by whom.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Violation {
    NeverSettled { recipient: String },
    SettledTwice { recipient: String, kinds: Vec<EventKind> },
    UnexcusedDuplicate { recipient: String, at_nanos: u64 },
    DeliveredToNobody { recipient: String },
    AcceptedButNotDelivered { recipient: String, kind: EventKind },
    NeverSubmitted { recipient: String },
    TooManyConnections { source: IpAddr, receiver: IpAddr, open: usize },
    TooManyMails { connection: u64, mails: u32 },
    TooManyRecipients { connection: u64, recipients: usize },
    LineTooLong { connection: u64, octets: usize },
    TooFast { at_nanos: u64, window: Duration, count: usize, interval: Duration },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What is known of each recipient and each connection.
#[derive(Default)]
struct Ledger {
    recipients: BTreeMap<String, Recipient>,
    /// By connection.
    mails: BTreeMap<u64, u32>,
    /// The receiver of a connection.
    receivers: BTreeMap<u64, IpAddr>,
    crashes: u64,
    /// By connection: crashes before it was opened.
    crashes_at_opening: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct Recipient {
    is_submitted: bool,
    is_acknowledged: bool,
    receptions: u32,
    /// Whether the reply to the last reception was read.
    is_heard: bool,
    /// Crashes before the last reception.
    crashes_at_reception: u64,
    /// Settling events by identity.
    settlements: BTreeMap<u64, EventKind>,
}

impl Ledger {
    fn take(&mut self, at: Instant, fact: &Fact, limits: &Limits, violations: &mut Vec<Violation>) {
        match fact {
            Fact::Submitted { recipient } => self.of(recipient).is_submitted = true,
            Fact::Acknowledged { recipient } => self.of(recipient).is_acknowledged = true,
            Fact::Received { recipient, connection } => self.receive(at, recipient, *connection, violations),
            Fact::ReplyHeard { recipient, .. } => self.of(recipient).is_heard = true,
            Fact::Event { recipient, kind, identity } if kind.settles() => {
                let entry = self.of(recipient);
                let is_new = entry.settlements.insert(*identity, *kind).is_none();
                if is_new && entry.settlements.len() > 1 {
                    let kinds = entry.settlements.values().copied().collect();
                    violations.push(Violation::SettledTwice { recipient: recipient.clone(), kinds });
                }
            }
            Fact::Event { .. } => {}
            Fact::Crashed => self.crashes += 1,
            Fact::MailBegun { .. } => {}
            Fact::ConnectionOpened { connection, source, receiver, open, .. } => {
                self.crashes_at_opening.insert(*connection, self.crashes);
                self.receivers.insert(*connection, *receiver);
                let (source, receiver) = (*source, *receiver);
                let held = |receiver: &IpAddr| open.get(receiver).copied().unwrap_or_default();
                let path = limits.paths.get(&receiver).map(|path| (held(&receiver), path.connections_max));
                let together = limits.together.iter().filter(|(receivers, _)| receivers.contains(&receiver));
                let together = together.map(|(receivers, most)| (receivers.iter().map(held).sum(), *most));
                if let Some((open, _)) = path.into_iter().chain(together).find(|(open, most)| open > most) {
                    violations.push(Violation::TooManyConnections { source, receiver, open });
                }
            }
            Fact::MailTaken { connection, recipients, line_octets_max } => {
                let (recipients, octets) = (*recipients, *line_octets_max);
                if recipients > TRANSACTION_RECIPIENTS_MAX {
                    violations.push(Violation::TooManyRecipients { connection: *connection, recipients });
                }
                if octets > MESSAGE_LINE_BYTES_MAX {
                    violations.push(Violation::LineTooLong { connection: *connection, octets });
                }
                let mails = self.mails.entry(*connection).or_default();
                *mails += 1;
                let path = self.receivers.get(connection).and_then(|receiver| limits.paths.get(receiver));
                if path.is_some_and(|path| *mails > path.connection_mails_max) {
                    violations.push(Violation::TooManyMails { connection: *connection, mails: *mails });
                }
            }
        }
    }

    fn receive(&mut self, at: Instant, recipient: &str, connection: u64, violations: &mut Vec<Violation>) {
        let crashes = self.crashes;
        // What was on its way when the power went may arrive when the node has sent it once more.
        let is_from_before = self.crashes_at_opening.get(&connection).is_some_and(|before| *before < crashes);
        let entry = self.of(recipient);
        let is_excused = !entry.is_heard || entry.crashes_at_reception < crashes || is_from_before;
        if !entry.is_submitted {
            violations.push(Violation::NeverSubmitted { recipient: recipient.to_owned() });
        }
        if entry.receptions > 0 && !is_excused {
            let at_nanos = at.nanos();
            violations.push(Violation::UnexcusedDuplicate { recipient: recipient.to_owned(), at_nanos });
        }
        entry.receptions += 1;
        entry.is_heard = false;
        entry.crashes_at_reception = crashes;
    }

    /// The rules of the end.
    fn close(self, violations: &mut Vec<Violation>) {
        for (recipient, entry) in self.recipients {
            let settlement = entry.settlements.values().next().copied();
            match settlement {
                None if entry.is_acknowledged => violations.push(Violation::NeverSettled { recipient }),
                None => {}
                Some(EventKind::Delivered) if entry.receptions == 0 => {
                    violations.push(Violation::DeliveredToNobody { recipient });
                }
                Some(EventKind::Delivered) => {}
                // A lost reply leaves the product in honest doubt, and so does a crash after the reception.
                Some(kind) if entry.receptions > 0 => {
                    let is_excused = !entry.is_heard || entry.crashes_at_reception < self.crashes;
                    if !is_excused {
                        violations.push(Violation::AcceptedButNotDelivered { recipient, kind });
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn of(&mut self, recipient: &str) -> &mut Recipient {
        self.recipients.entry(recipient.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let path = PathLimits { connections_max: 2, connection_mails_max: 2 };
        let paths = BTreeMap::from([("10.0.2.1".parse().unwrap(), path)]);
        Limits { paths, ..Limits::default() }
    }

    fn check(facts: &[Fact], end: End) -> Vec<Violation> {
        let recorded = Facts::default();
        for (index, fact) in facts.iter().enumerate() {
            recorded.record(Instant::from_nanos(index as u64), fact.clone());
        }
        recorded.check(&limits(), end)
    }

    fn recipient() -> String {
        "r1@good.example".to_owned()
    }

    fn submitted() -> Fact {
        Fact::Submitted { recipient: recipient() }
    }

    fn acknowledged() -> Fact {
        Fact::Acknowledged { recipient: recipient() }
    }

    fn received() -> Fact {
        Fact::Received { recipient: recipient(), connection: 1 }
    }

    fn heard() -> Fact {
        Fact::ReplyHeard { recipient: recipient(), connection: 1 }
    }

    fn event(kind: EventKind, identity: u64) -> Fact {
        Fact::Event { recipient: recipient(), kind, identity }
    }

    #[test]
    fn runs_that_keep_the_rules_break_none() {
        let delivered = [submitted(), acknowledged(), received(), heard(), event(EventKind::Delivered, 1)];
        let unacknowledged = [submitted()];
        let doubled_by_a_lost_reply =
            [submitted(), acknowledged(), received(), received(), heard(), event(EventKind::Delivered, 1)];
        let doubled_by_a_crash = [
            submitted(),
            acknowledged(),
            received(),
            heard(),
            Fact::Crashed,
            received(),
            heard(),
            event(EventKind::Delivered, 1),
        ];
        let opened = Fact::ConnectionOpened {
            connection: 1,
            node: None,
            source: "10.0.0.1".parse().unwrap(),
            receiver: "10.0.2.1".parse().unwrap(),
            open: BTreeMap::new(),
        };
        let again = Fact::Received { recipient: recipient(), connection: 2 };
        let arrived_after_a_crash = [
            opened,
            submitted(),
            acknowledged(),
            Fact::Crashed,
            again,
            heard(),
            received(),
            event(EventKind::Delivered, 1),
        ];
        let read_again = [
            submitted(),
            acknowledged(),
            event(EventKind::Deferred, 1),
            event(EventKind::Bounced, 2),
            Fact::Crashed,
            event(EventKind::Bounced, 2),
        ];
        let doubled = [&doubled_by_a_lost_reply[..], &doubled_by_a_crash, &arrived_after_a_crash];
        for facts in doubled.into_iter().chain([&delivered[..], &unacknowledged, &read_again, &[]]) {
            assert_eq!(check(facts, End::Drained), [], "{facts:?}");
        }
    }

    #[test]
    fn each_broken_rule_is_found() {
        let recipient = recipient();
        let cases = [
            (
                vec![submitted(), acknowledged(), Fact::Crashed],
                Violation::NeverSettled { recipient: recipient.clone() },
            ),
            (
                vec![submitted(), event(EventKind::Expired, 1), event(EventKind::Bounced, 2)],
                Violation::SettledTwice {
                    recipient: recipient.clone(),
                    kinds: vec![EventKind::Expired, EventKind::Bounced],
                },
            ),
            (
                vec![submitted(), received(), heard(), received(), heard(), event(EventKind::Delivered, 1)],
                Violation::UnexcusedDuplicate { recipient: recipient.clone(), at_nanos: 3 },
            ),
            (
                vec![submitted(), event(EventKind::Delivered, 1)],
                Violation::DeliveredToNobody { recipient: recipient.clone() },
            ),
            (
                vec![submitted(), received(), heard(), event(EventKind::Bounced, 1)],
                Violation::AcceptedButNotDelivered { recipient: recipient.clone(), kind: EventKind::Bounced },
            ),
            (vec![received(), heard()], Violation::NeverSubmitted { recipient }),
        ];
        for (facts, expected) in cases {
            assert_eq!(check(&facts, End::Drained), [expected], "{facts:?}");
        }
    }

    #[test]
    fn what_may_still_settle_is_no_violation_of_a_run_that_was_stopped() {
        assert_eq!(check(&[submitted(), acknowledged()], End::Somewhere), []);
    }

    #[test]
    fn the_limits_of_a_path_are_counted_by_source_and_receiver() {
        let (source, receiver): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.2.1".parse().unwrap());
        let open = |connection, open| {
            let open = BTreeMap::from([(receiver, open)]);
            Fact::ConnectionOpened { connection, node: None, source, receiver, open }
        };
        assert_eq!(check(&[open(1, 1), open(2, 2), open(3, 2)], End::Somewhere), []);
        let violation = Violation::TooManyConnections { source, receiver, open: 3 };
        assert_eq!(check(&[open(1, 2), open(2, 3)], End::Somewhere), [violation]);
        let other: IpAddr = "10.0.2.2".parse().unwrap();
        let both = BTreeMap::from([(receiver, 2), (other, 2)]);
        let fact = Fact::ConnectionOpened { connection: 1, node: None, source, receiver, open: both };
        let together = vec![(BTreeSet::from([receiver, other]), 3)];
        let facts = Facts::default();
        facts.record(Instant::ZERO, fact);
        let violation = Violation::TooManyConnections { source, receiver, open: 4 };
        assert_eq!(facts.check(&Limits { together, ..limits() }, End::Somewhere), [violation]);
        let mail = |connection| Fact::MailTaken { connection, recipients: 1, line_octets_max: 78 };
        assert_eq!(check(&[open(1, 1), open(2, 2), mail(1), mail(2), mail(1), mail(2)], End::Somewhere), []);
        let violation = Violation::TooManyMails { connection: 1, mails: 3 };
        assert_eq!(check(&[open(1, 1), mail(1), mail(1), mail(1)], End::Somewhere), [violation]);
    }

    #[test]
    fn a_pace_is_kept_in_every_window() {
        let receiver: IpAddr = "10.0.2.1".parse().unwrap();
        let second = Duration::from_secs(1);
        let pace = Pace {
            receivers: BTreeSet::from([receiver]),
            is_of_connections: false,
            interval: second,
            slack: Duration::from_millis(100),
        };
        let limits = Limits { paces: vec![pace], ..Limits::default() };
        let found = |millis: &[u64]| {
            let facts = Facts::default();
            for at in millis {
                facts.record(Instant::from_nanos(at * 1_000_000), Fact::MailBegun { connection: 1, receiver });
            }
            facts.check(&limits, End::Somewhere)
        };
        assert_eq!(found(&[0, 1_000, 1_950, 3_000, 9_000, 9_900]), []);
        let window = Duration::from_millis(800);
        let at_nanos = 3_000_000_000;
        assert_eq!(found(&[0, 3_000, 3_800]), [Violation::TooFast { at_nanos, window, count: 2, interval: second }]);
    }

    #[test]
    fn bounds_that_a_receiver_sees_are_kept() {
        let fact = |recipients, line_octets_max| Fact::MailTaken { connection: 1, recipients, line_octets_max };
        assert_eq!(check(&[fact(100, 998)], End::Somewhere), []);
        let many = Violation::TooManyRecipients { connection: 1, recipients: 101 };
        assert_eq!(check(&[fact(101, 998)], End::Somewhere), [many]);
        let long = Violation::LineTooLong { connection: 1, octets: 999 };
        assert_eq!(check(&[fact(100, 999)], End::Somewhere), [long]);
    }
}
