//! What the ledger keeps of a recipient: where its events are. Everything that is told of it is read from them.
//!
//! ```text
//! part of a message: 32 recipients by index, one row
//! [index within the part, kinds, attempts * 2 + settled, changed_ms, last,
//!  way back from last to: first, stated, tried, job]*          one octet, then varints; a way back counts from 1, 0: none
//! ```
//!
//! Mail moves between hosts, and which host's journal is read first is chance: what is told late is late by its time, not
//! by its sequence.
//!
//! Invariants worth naming: a settlement is never undone by a later event, nor a later state by an earlier event; events
//! that are kept of a recipient are bounded in octets, however many there are.

use postrail_schema::event::EventKind;
use postrail_schema::wire::EventHead;

use super::varint;

/// Recipients of one part.
pub(super) const PART_RECIPIENTS: u16 = 32;

/// Where a recipient's events are. Sequences; 0: there is none. The default knows no event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Events {
    /// Its tenant and address are those of its acceptance; until that is told, of the first event.
    pub first: u64,
    pub last: u64,
    /// What its state is: the latest event by time that waits or settles, up to the settlement.
    pub stated: u64,
    /// The latest event by time of an attempt, up to the settlement.
    pub tried: u64,
    /// The first event that says something of the job.
    pub job: u64,
    /// When the latest event happened, Unix milliseconds.
    pub changed_ms: u64,
    /// The highest number of an attempt, up to the settlement.
    pub attempts: u16,
    pub settled: bool,
    /// One bit a kind, by its tag.
    kinds: u16,
}

impl Events {
    /// Whether an event with that head may be among them: only then is it compared with them.
    pub(super) fn may_hold(&self, head: &EventHead) -> bool {
        self.kinds & bit(head.kind) != 0 && head.at_ms <= self.changed_ms
    }

    /// Adds an event; whether it is the recipient's acceptance, of which there is one.
    pub(super) fn add(&mut self, head: &EventHead, sequence: u64) -> bool {
        assert!(sequence > self.last, "sequences grow");
        let accepts = head.kind == EventKind::Accepted && self.kinds & bit(EventKind::Accepted) == 0;
        if self.first == 0 || accepts {
            self.first = sequence;
        }
        if self.job == 0 && head.has_job {
            self.job = sequence;
        }
        let is_late = head.at_ms < self.changed_ms && !head.kind.settles();
        self.last = sequence;
        self.changed_ms = head.at_ms.max(self.changed_ms);
        self.kinds |= bit(head.kind);
        if self.settled {
            return accepts;
        }
        let waits = matches!(head.kind, EventKind::Accepted | EventKind::Deferred | EventKind::Quarantined);
        if (waits || head.kind.settles()) && (!is_late || self.stated == 0) {
            self.stated = sequence;
        }
        self.settled = head.kind.settles() && head.at_ms != 0;
        if let Some(attempt) = head.attempt {
            self.attempts = self.attempts.max(attempt);
            if !is_late || self.tried == 0 {
                self.tried = sequence;
            }
        }
        accepts
    }

    fn put(&self, to: &mut Vec<u8>) {
        varint::put(to, u64::from(self.kinds));
        varint::put(to, u64::from(self.attempts) * 2 + u64::from(self.settled));
        varint::put(to, self.changed_ms);
        varint::put(to, self.last);
        for sequence in [self.first, self.stated, self.tried, self.job] {
            varint::put(to, if sequence == 0 { 0 } else { self.last - sequence + 1 });
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let kinds = varint::take(from)?.try_into().ok()?;
        let attempts = varint::take(from)?;
        let changed_ms = varint::take(from)?;
        let last = varint::take(from).filter(|last| *last != 0)?;
        let mut before = || match varint::take(from)? {
            0 => Some(0),
            back => last.checked_sub(back - 1).filter(|sequence| *sequence != 0),
        };
        let (first, stated, tried, job) = (before()?, before()?, before()?, before()?);
        let settled = attempts % 2 == 1;
        let attempts = (attempts / 2).try_into().ok()?;
        (first != 0).then_some(Self { first, last, stated, tried, job, changed_ms, attempts, settled, kinds })
    }
}

fn bit(kind: EventKind) -> u16 {
    1 << kind as u8
}

const _: () = assert!(EventKind::ALL.len() < 16, "a bit for each tag, from 1");

/// Recipients of one part, by their index within it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Part {
    recipients: Vec<(u8, Events)>,
}

impl Part {
    /// The recipient of that index within the part; one without events where it was not known.
    pub(super) fn recipient(&mut self, index: u8) -> &mut Events {
        let at = match self.recipients.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(at) => at,
            Err(at) => {
                self.recipients.insert(at, (index, Events::default()));
                at
            }
        };
        &mut self.recipients[at].1
    }

    /// Every recipient with its index within the part, ascending.
    pub(super) fn recipients(&self) -> &[(u8, Events)] {
        &self.recipients
    }

    /// Appends the stored form.
    pub(super) fn put(&self, to: &mut Vec<u8>) {
        for (index, events) in &self.recipients {
            to.push(*index);
            events.put(to);
        }
    }

    /// The part of a stored form, `None` where it is none.
    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut part = Self::default();
        while let Some((index, rest)) = bytes.split_first() {
            bytes = rest;
            let ascends = part.recipients.last().is_none_or(|(last, _)| last < index);
            if !ascends || u16::from(*index) >= PART_RECIPIENTS {
                return None;
            }
            part.recipients.push((*index, Events::take(&mut bytes)?));
        }
        Some(part)
    }
}
