//! The account of one run: what became of every numbered recipient, and when.
//!
//! Invariants worth naming: a number is never reused within a run; a slot is written without locks by whoever saw the
//! fact (source or sink); times are ticks of 10 µs since the start of the run, so that a slot has 20 octets; memory is
//! made in chunks as numbers are used. Deliberately absent: sums over slots, which are `account`'s.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::result::Latency;

/// Microseconds of a tick. 32 bits of them are 11.9 hours.
const TICK_MICROS: u128 = 10;
/// Slots of a chunk.
const CHUNK: usize = 1 << 16;
/// Most recipients of a run: their slots take 2.7 GB.
pub const RECIPIENTS_MAX: u64 = 1 << 27;
/// Bit of [`Slot::deliveries`] that says that a receiver rejected the recipient for good.
const REJECTED: u32 = 1 << 31;

/// The account of one run; shared by its sources and its sink.
pub struct Tally {
    start: Instant,
    capacity: u64,
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    planned: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    doubtful: AtomicU64,
    delivered: AtomicU64,
    duplicated: AtomicU64,
    rejected: AtomicU64,
    deferred: AtomicU64,
    unknown: AtomicU64,
    mixed_up: AtomicU64,
    reports: AtomicU64,
}

/// Times as ticks since the start plus one; 0 where it did not happen.
#[derive(Default)]
struct Slot {
    planned: AtomicU32,
    accepted: AtomicU32,
    attempted: AtomicU32,
    delivered: AtomicU32,
    deliveries: AtomicU32,
}

/// What is known of one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fate {
    /// Since the start of the run, like all times here.
    pub(crate) planned: Option<Duration>,
    pub(crate) accepted: Option<Duration>,
    pub(crate) attempted: Option<Duration>,
    pub(crate) delivered: Option<Duration>,
    pub(crate) deliveries: u32,
    pub(crate) is_rejected: bool,
}

impl Fate {
    /// Whether it was acknowledged, and its receiver neither took nor rejected it.
    pub(crate) fn is_lost(&self) -> bool {
        self.accepted.is_some() && self.delivered.is_none() && !self.is_rejected
    }
}

/// Running totals, in recipients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Due by now, and taken to be sent.
    pub planned: u64,
    /// Acknowledged by the server.
    pub accepted: u64,
    /// Refused by the server for good.
    pub refused: u64,
    /// Sent without an answer: may or may not have been accepted.
    pub doubtful: u64,
    /// Delivered at least once.
    pub delivered: u64,
    /// Deliveries beyond the first of a recipient.
    pub duplicated: u64,
    /// Rejected for good by their receiver.
    pub rejected: u64,
    /// Times that a receiver has asked to come back later.
    pub deferred: u64,
    /// Deliveries to an address that carries no number of this run.
    pub unknown: u64,
    /// Deliveries whose content was made for another recipient.
    pub mixed_up: u64,
    /// Mails to the senders' own domains.
    pub reports: u64,
}

impl Counts {
    /// Recipients that have had their last: delivered, or rejected by the receiver.
    pub fn settled(&self) -> u64 {
        self.delivered + self.rejected
    }

    /// Recipients that are sent or being sent, and have neither settled nor been refused.
    pub fn unsettled(&self) -> u64 {
        self.planned.saturating_sub(self.settled() + self.refused + self.doubtful)
    }
}

impl Tally {
    /// An account of at most `capacity` recipients (and of [`RECIPIENTS_MAX`]) that starts now.
    pub fn new(capacity: u64) -> Arc<Self> {
        let capacity = capacity.min(RECIPIENTS_MAX);
        let chunks = usize::try_from(capacity.div_ceil(CHUNK as u64)).unwrap_or(0);
        Arc::new(Self {
            start: Instant::now(),
            capacity,
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            planned: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            doubtful: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            duplicated: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            mixed_up: AtomicU64::new(0),
            reports: AtomicU64::new(0),
        })
    }

    /// Recipients that this account may hold.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// When the run started.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Recipient `number` is due at `at`, whether or not the source is able to send it then.
    pub fn plan(&self, number: u64, at: Instant) {
        if let Some(slot) = self.slot(number) {
            slot.planned.store(self.ticks(at), Ordering::Relaxed);
            self.planned.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The server has acknowledged recipient `number`.
    pub fn accept(&self, number: u64, at: Instant) {
        if let Some(slot) = self.slot(number) {
            slot.accepted.store(self.ticks(at), Ordering::Relaxed);
            self.accepted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The server has refused `recipients` for good.
    pub fn refuse(&self, recipients: u64) {
        self.refused.fetch_add(recipients, Ordering::Relaxed);
    }

    /// `recipients` were sent, and the connection ended before the answer.
    pub fn doubt(&self, recipients: u64) {
        self.doubtful.fetch_add(recipients, Ordering::Relaxed);
    }

    /// A receiver hears of recipient `number`; only the first time counts.
    pub fn attempt(&self, number: u64, at: Instant) {
        if let Some(slot) = self.slot(number)
            && slot.attempted.load(Ordering::Relaxed) == 0
        {
            slot.attempted.store(self.ticks(at), Ordering::Relaxed);
        }
    }

    /// A receiver asks to come back later.
    pub fn defer(&self) {
        self.deferred.fetch_add(1, Ordering::Relaxed);
    }

    /// A receiver has rejected recipient `number` for good; only the first time counts.
    pub fn reject(&self, number: u64) {
        if let Some(slot) = self.slot(number)
            && slot.deliveries.fetch_or(REJECTED, Ordering::Relaxed) & REJECTED == 0
        {
            self.rejected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A receiver has taken a mail for recipient `number`.
    pub fn deliver(&self, number: u64, at: Instant) {
        let Some(slot) = self.slot(number) else {
            self.deliver_unknown();
            return;
        };
        if slot.deliveries.fetch_add(1, Ordering::Relaxed) & !REJECTED == 0 {
            slot.delivered.store(self.ticks(at), Ordering::Relaxed);
            self.delivered.fetch_add(1, Ordering::Relaxed);
        } else {
            self.duplicated.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A receiver has taken a mail for an address that is not of this run.
    pub fn deliver_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// A receiver has taken a mail for a recipient of this run, with content that was made for another one.
    pub fn deliver_mixed_up(&self) {
        self.mixed_up.fetch_add(1, Ordering::Relaxed);
    }

    /// A report came back to a sender.
    pub fn report(&self) {
        self.reports.fetch_add(1, Ordering::Relaxed);
    }

    /// The totals so far.
    pub fn counts(&self) -> Counts {
        let load = |total: &AtomicU64| total.load(Ordering::Relaxed);
        Counts {
            planned: load(&self.planned),
            accepted: load(&self.accepted),
            refused: load(&self.refused),
            doubtful: load(&self.doubtful),
            delivered: load(&self.delivered),
            duplicated: load(&self.duplicated),
            rejected: load(&self.rejected),
            deferred: load(&self.deferred),
            unknown: load(&self.unknown),
            mixed_up: load(&self.mixed_up),
            reports: load(&self.reports),
        }
    }

    /// Recipients that were acknowledged, and that their receivers neither took nor rejected.
    pub fn lost(&self) -> u64 {
        self.fates(0..self.capacity, 1).filter(Fate::is_lost).count() as u64
    }

    /// From the planned time to the acknowledgement.
    pub fn ack_ms(&self) -> Latency {
        self.account().ack.latency()
    }

    /// From the planned time to the first delivery.
    pub fn delivery_ms(&self) -> Latency {
        self.account().delivery.latency()
    }

    /// From the first planned time to the last delivery.
    pub fn duration(&self) -> Duration {
        self.account().duration()
    }

    fn account(&self) -> Account {
        Account::of(self.fates(0..self.capacity, 1))
    }

    /// What is known of every `stride`th number of `numbers`; unused chunks are passed over.
    pub(crate) fn fates(&self, numbers: std::ops::Range<u64>, stride: u64) -> impl Iterator<Item = Fate> + '_ {
        let end = numbers.end.min(self.capacity);
        let mut number = numbers.start;
        std::iter::from_fn(move || {
            while number < end {
                let at = number;
                number += stride.max(1);
                if let Some(slot) = self.used(at) {
                    return Some(slot.fate());
                }
            }
            None
        })
    }

    fn slot(&self, number: u64) -> Option<&Slot> {
        let (chunk, at) = self.place(number)?;
        Some(&self.chunks[chunk].get_or_init(|| (0..CHUNK).map(|_| Slot::default()).collect())[at])
    }

    fn used(&self, number: u64) -> Option<&Slot> {
        let (chunk, at) = self.place(number)?;
        self.chunks[chunk].get().map(|slots| &slots[at])
    }

    fn place(&self, number: u64) -> Option<(usize, usize)> {
        if number >= self.capacity {
            return None;
        }
        let number = usize::try_from(number).ok()?;
        Some((number / CHUNK, number % CHUNK))
    }

    fn ticks(&self, at: Instant) -> u32 {
        let since = at.saturating_duration_since(self.start).as_micros() / TICK_MICROS;
        u32::try_from(since).unwrap_or(u32::MAX - 1).saturating_add(1)
    }
}

impl Slot {
    fn fate(&self) -> Fate {
        let time = |at: &AtomicU32| {
            let ticks = u64::from(at.load(Ordering::Relaxed)).checked_sub(1)?;
            Some(Duration::from_micros(ticks * TICK_MICROS as u64))
        };
        let deliveries = self.deliveries.load(Ordering::Relaxed);
        Fate {
            planned: time(&self.planned),
            accepted: time(&self.accepted),
            attempted: time(&self.attempted),
            delivered: time(&self.delivered),
            deliveries: deliveries & !REJECTED,
            is_rejected: deliveries & REJECTED != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_that_was_accepted_and_neither_delivered_nor_rejected_is_lost() {
        let tally = Tally::new(3);
        let now = tally.start();
        for number in 0..3 {
            tally.plan(number, now);
            tally.accept(number, now);
        }
        tally.deliver(0, now);
        tally.reject(2);
        tally.reject(2);
        assert_eq!((tally.lost(), tally.counts().rejected), (1, 1));
    }

    #[test]
    fn a_second_delivery_is_a_duplicate_and_a_foreign_one_is_unknown() {
        let tally = Tally::new(1);
        tally.deliver(0, tally.start());
        tally.deliver(0, tally.start());
        tally.deliver(7, tally.start());
        let counts = tally.counts();
        assert_eq!((counts.delivered, counts.duplicated, counts.unknown), (1, 1, 1));
    }

    #[test]
    fn latency_counts_from_the_planned_time() {
        let tally = Tally::new(2);
        let start = tally.start();
        tally.plan(0, start);
        tally.accept(0, start + Duration::from_millis(5));
        tally.deliver(0, start + Duration::from_millis(20));
        assert!((tally.ack_ms().p50 - 5.0).abs() < 0.1, "{:?}", tally.ack_ms());
        assert!((tally.delivery_ms().p99 - 20.0).abs() < 0.1, "{:?}", tally.delivery_ms());
        assert_eq!(tally.duration(), Duration::from_millis(20));
    }

    #[test]
    fn only_the_first_attempt_counts() {
        let tally = Tally::new(1);
        let start = tally.start();
        tally.accept(0, start);
        tally.attempt(0, start + Duration::from_millis(1));
        tally.attempt(0, start + Duration::from_millis(9));
        let fate = tally.fates(0..1, 1).next().expect("its chunk is in use");
        assert_eq!(fate.attempted, Some(Duration::from_millis(1)));
    }

    #[test]
    fn an_empty_account_has_zeros() {
        let tally = Tally::new(0);
        assert_eq!(tally.delivery_ms(), Latency::default());
        assert_eq!(tally.duration(), Duration::ZERO);
        assert_eq!(Tally::new(RECIPIENTS_MAX).fates(0..RECIPIENTS_MAX, 7).count(), 0);
    }
}
