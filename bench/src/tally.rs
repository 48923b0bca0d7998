//! The account of one run: what became of every numbered recipient, and when.
//!
//! Invariants worth naming: numbers run from 0 to the capacity and are never reused within a run; a slot is written
//! without locks by whoever saw the fact (source or sink); times are microseconds since the start of the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Significant digits of the latency histograms.
const DIGITS: u8 = 3;
/// Longest latency that is told apart, microseconds; a longer one counts as this.
const LATENCY_MICROS_MAX: u64 = 24 * 3_600 * 1_000_000;

/// The account of one run; shared by its sources and its sink.
pub struct Tally {
    start: Instant,
    slots: Box<[Slot]>,
    accepted: AtomicU64,
    refused: AtomicU64,
    doubtful: AtomicU64,
    delivered: AtomicU64,
    duplicated: AtomicU64,
    unknown: AtomicU64,
    mixed_up: AtomicU64,
}

/// Times as microseconds since the start plus one; 0 where it did not happen.
#[derive(Default)]
struct Slot {
    planned: AtomicU64,
    accepted: AtomicU64,
    delivered: AtomicU64,
    deliveries: AtomicU32,
}

/// Running totals, in recipients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
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
    /// Deliveries to an address that carries no number of this run.
    pub unknown: u64,
    /// Deliveries whose content was made for another recipient.
    pub mixed_up: u64,
}

/// Latency percentiles, milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, serde::Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Tally {
    /// An account of `capacity` recipients that starts now.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            slots: (0..capacity).map(|_| Slot::default()).collect(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            doubtful: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            duplicated: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            mixed_up: AtomicU64::new(0),
        })
    }

    /// Recipients that this account holds.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// When the run started.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Recipient `number` is due at `at`, whether or not the source is able to send it then.
    pub fn plan(&self, number: u64, at: Instant) {
        if let Some(slot) = self.slot(number) {
            slot.planned.store(self.micros(at), Ordering::Relaxed);
        }
    }

    /// The server has acknowledged recipient `number`.
    pub fn accept(&self, number: u64, at: Instant) {
        if let Some(slot) = self.slot(number) {
            slot.accepted.store(self.micros(at), Ordering::Relaxed);
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

    /// A receiver has taken a mail for recipient `number`.
    pub fn deliver(&self, number: u64, at: Instant) {
        let Some(slot) = self.slot(number) else {
            self.deliver_unknown();
            return;
        };
        if slot.deliveries.fetch_add(1, Ordering::Relaxed) == 0 {
            slot.delivered.store(self.micros(at), Ordering::Relaxed);
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

    /// The totals so far.
    pub fn counts(&self) -> Counts {
        let load = |total: &AtomicU64| total.load(Ordering::Relaxed);
        Counts {
            accepted: load(&self.accepted),
            refused: load(&self.refused),
            doubtful: load(&self.doubtful),
            delivered: load(&self.delivered),
            duplicated: load(&self.duplicated),
            unknown: load(&self.unknown),
            mixed_up: load(&self.mixed_up),
        }
    }

    /// Recipients that were acknowledged and never delivered, by number.
    pub fn lost(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots.iter().enumerate().filter_map(|(number, slot)| {
            let lost = slot.accepted.load(Ordering::Relaxed) > 0 && slot.delivered.load(Ordering::Relaxed) == 0;
            lost.then_some(number as u64)
        })
    }

    /// From the planned time to the acknowledgement.
    pub fn ack_ms(&self) -> Percentiles {
        self.percentiles(|slot| &slot.accepted)
    }

    /// From the planned time to the first delivery.
    pub fn delivery_ms(&self) -> Percentiles {
        self.percentiles(|slot| &slot.delivered)
    }

    /// From the first planned time to the last delivery.
    pub fn duration(&self) -> Duration {
        let times = |pick: fn(&Slot) -> &AtomicU64| {
            self.slots.iter().map(move |slot| pick(slot).load(Ordering::Relaxed)).filter(|at| *at > 0)
        };
        let first = times(|slot| &slot.planned).min().unwrap_or(0);
        let last = times(|slot| &slot.delivered).max().unwrap_or(0);
        Duration::from_micros(last.saturating_sub(first))
    }

    fn percentiles(&self, pick: fn(&Slot) -> &AtomicU64) -> Percentiles {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, LATENCY_MICROS_MAX, DIGITS)
            .expect("the bounds are constants in order");
        for slot in &self.slots {
            let (from, to) = (slot.planned.load(Ordering::Relaxed), pick(slot).load(Ordering::Relaxed));
            if from > 0 && to > 0 {
                histogram.saturating_record(to.saturating_sub(from));
            }
        }
        let ms = |micros: u64| micros as f64 / 1_000.0;
        Percentiles {
            p50: ms(histogram.value_at_quantile(0.50)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        }
    }

    fn slot(&self, number: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(number).ok()?)
    }

    fn micros(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start).as_micros();
        u64::try_from(since).unwrap_or(u64::MAX - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_that_was_accepted_and_not_delivered_is_lost() {
        let tally = Tally::new(3);
        let now = tally.start();
        for number in 0..3 {
            tally.plan(number, now);
            tally.accept(number, now);
        }
        tally.deliver(0, now);
        tally.deliver(2, now);
        assert_eq!(tally.lost().collect::<Vec<_>>(), [1]);
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
    fn an_empty_account_has_zeros() {
        let tally = Tally::new(0);
        assert_eq!(tally.delivery_ms(), Percentiles::default());
        assert_eq!(tally.duration(), Duration::ZERO);
    }
}
