//! Sums over the recipients of a run: totals, latencies, curves and the series of its seconds.
//!
//! Invariants worth naming: latencies are recorded in microseconds with three significant digits; a recipient counts
//! for the stretch of the series that it was planned in, so that a stall shows where it began.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::result::{CurvePoint, Curves, Latency, SERIES_POINTS_MAX, SeriesPoint};
use crate::tally::Fate;

/// Significant digits of the latency histograms.
const DIGITS: u8 = 3;
/// Least length of a stretch, seconds: what a run of less is taken for.
const SERIES_SECONDS_MIN: f64 = 0.001;
/// Longest latency that is told apart, microseconds; a longer one counts as this.
const LATENCY_MICROS_MAX: u64 = 24 * 3_600 * 1_000_000;
/// Percentiles of a curve.
const CURVE: [f64; 25] = [
    0.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0, 96.0, 97.0, 98.0, 99.0,
    99.5, 99.9, 99.95, 99.99, 99.999, 100.0,
];

/// The sums over some recipients.
pub(crate) struct Account {
    pub(crate) planned: u64,
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) rejected: u64,
    pub(crate) ack: Latencies,
    pub(crate) first_attempt: Latencies,
    pub(crate) delivery: Latencies,
    first: Option<Duration>,
    last: Option<Duration>,
}

impl Account {
    pub(crate) fn of(fates: impl Iterator<Item = Fate>) -> Self {
        let mut account = Self {
            planned: 0,
            accepted: 0,
            delivered: 0,
            lost: 0,
            duplicated: 0,
            rejected: 0,
            ack: Latencies::new(),
            first_attempt: Latencies::new(),
            delivery: Latencies::new(),
            first: None,
            last: None,
        };
        for fate in fates {
            account.add(&fate);
        }
        account
    }

    fn add(&mut self, fate: &Fate) {
        self.planned += u64::from(fate.planned.is_some());
        self.accepted += u64::from(fate.accepted.is_some());
        self.delivered += u64::from(fate.delivered.is_some());
        self.lost += u64::from(fate.is_lost());
        self.duplicated += u64::from(fate.deliveries.saturating_sub(1));
        self.rejected += u64::from(fate.is_rejected);
        self.ack.record(fate.planned, fate.accepted);
        self.delivery.record(fate.planned, fate.delivered);
        self.first_attempt.record(fate.accepted, fate.attempted);
        if fate.planned.is_some() {
            self.first = self.first.min(fate.planned).or(fate.planned);
        }
        self.last = self.last.max(fate.delivered);
    }

    /// From the first planned time to the last delivery.
    pub(crate) fn duration(&self) -> Duration {
        self.last.unwrap_or_default().saturating_sub(self.first.unwrap_or_default())
    }

    /// When the first was planned, since the start of the run.
    pub(crate) fn first_planned(&self) -> Duration {
        self.first.unwrap_or_default()
    }

    /// Delivered recipients a second.
    pub(crate) fn rate_per_s(&self) -> f64 {
        let seconds = self.duration().as_secs_f64();
        if seconds > 0.0 { rounded(self.delivered as f64 / seconds) } else { 0.0 }
    }

    pub(crate) fn curves(&self) -> Curves {
        Curves { ack: self.ack.curve(), first_attempt: self.first_attempt.curve(), delivery: self.delivery.curve() }
    }
}

/// Latencies of some recipients.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    fn new() -> Self {
        let bounds = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, DIGITS);
        Self(bounds.expect("the bounds are constants in order"))
    }

    /// Where both happened. An answer that was seen on another thread before the question's time was written is 0 late.
    fn record(&mut self, from: Option<Duration>, to: Option<Duration>) {
        if let (Some(from), Some(to)) = (from, to) {
            let micros = to.saturating_sub(from).as_micros();
            self.0.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        }
    }

    pub(crate) fn latency(&self) -> Latency {
        Latency {
            p50: ms(self.0.value_at_quantile(0.50)),
            p99: ms(self.0.value_at_quantile(0.99)),
            max: ms(self.0.max()),
        }
    }

    fn curve(&self) -> Vec<CurvePoint> {
        if self.0.is_empty() {
            return Vec::new();
        }
        CURVE.iter().map(|at| CurvePoint { percentile: *at, ms: ms(self.0.value_at_percentile(*at)) }).collect()
    }
}

/// The series of `fates`: stretches of a whole number of seconds from `first` over `length`. What is left behind the last
/// whole one belongs to it, so that the end of a run is no drop of the rate.
pub(crate) fn series(fates: impl Iterator<Item = Fate>, first: Duration, length: Duration) -> Vec<SeriesPoint> {
    let seconds = length.as_secs();
    let width = seconds.div_ceil(SERIES_POINTS_MAX as u64).max(1);
    let points = usize::try_from(seconds / width).unwrap_or(SERIES_POINTS_MAX).max(1);
    let mut stretches: Vec<Stretch> = (0..points).map(|_| Stretch::default()).collect();
    let place = |at: Duration| {
        let index = at.saturating_sub(first).as_secs() / width;
        usize::try_from(index).unwrap_or(usize::MAX).min(points - 1)
    };
    for fate in fates {
        let Some(planned) = fate.planned else { continue };
        let home = place(planned);
        stretches[home].sent += 1;
        if let Some(accepted) = fate.accepted {
            stretches[place(accepted)].accepted += 1;
            stretches[home].ack_micros.push(late_micros(planned, accepted));
        }
        if let Some(delivered) = fate.delivered {
            stretches[place(delivered)].delivered += 1;
            stretches[home].delivery_micros.push(late_micros(planned, delivered));
        }
    }
    let point = |(index, stretch): (usize, Stretch)| {
        let at = index as u64 * width;
        let is_last = index + 1 == points;
        let seconds = if is_last { length.as_secs_f64() - at as f64 } else { width as f64 };
        stretch.point(at, seconds.max(SERIES_SECONDS_MIN))
    };
    stretches.into_iter().enumerate().map(point).collect()
}

#[derive(Default)]
struct Stretch {
    sent: u64,
    accepted: u64,
    delivered: u64,
    ack_micros: Vec<u32>,
    delivery_micros: Vec<u32>,
}

impl Stretch {
    fn point(mut self, at: u64, seconds: f64) -> SeriesPoint {
        let per_s = |count: u64| rounded(count as f64 / seconds);
        SeriesPoint {
            at_s: at as f64,
            sent_per_s: per_s(self.sent),
            accepted_per_s: per_s(self.accepted),
            delivered_per_s: per_s(self.delivered),
            ack_p99_ms: p99_ms(&mut self.ack_micros),
            delivery_p99_ms: p99_ms(&mut self.delivery_micros),
        }
    }
}

/// The 99th percentile (nearest rank) in milliseconds; 0 of nothing.
fn p99_ms(micros: &mut [u32]) -> f64 {
    let rank = (micros.len() * 99).div_ceil(100);
    let Some(index) = rank.checked_sub(1) else { return 0.0 };
    ms(u64::from(*micros.select_nth_unstable(index).1))
}

fn late_micros(from: Duration, to: Duration) -> u32 {
    u32::try_from(to.saturating_sub(from).as_micros()).unwrap_or(u32::MAX)
}

fn ms(micros: u64) -> f64 {
    rounded(micros as f64 / 1_000.0)
}

/// To three decimals: more would claim more than was measured.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(planned_ms: u64, delivered_ms: u64) -> Fate {
        let at = |ms| Some(Duration::from_millis(ms));
        Fate {
            planned: at(planned_ms),
            accepted: at(planned_ms + 1),
            attempted: at(planned_ms + 3),
            delivered: at(delivered_ms),
            deliveries: 1,
            is_rejected: false,
        }
    }

    #[test]
    fn totals_latencies_and_the_rate_follow_from_the_recipients() {
        let account = Account::of((0..100).map(|number| fate(500 + number * 10, 520 + number * 10)));
        assert_eq!((account.planned, account.delivered, account.lost), (100, 100, 0));
        assert_eq!(account.duration(), Duration::from_millis(1_010));
        assert!((account.rate_per_s() - 99.01).abs() < 0.01, "{}", account.rate_per_s());
        assert_eq!(account.first_attempt.latency().p50, 2.0);
        assert_eq!(account.curves().delivery.len(), CURVE.len());
    }

    #[test]
    fn a_stall_shows_in_the_second_that_it_began_in() {
        let fates = (0..30).map(|number| fate(5_000 + number * 100, 5_001 + number * 100)).chain([fate(6_500, 7_900)]);
        let series = series(fates, Duration::from_secs(5), Duration::from_secs(3));
        assert_eq!(series.iter().map(|point| point.sent_per_s).collect::<Vec<_>>(), [10.0, 11.0, 10.0]);
        assert_eq!(series.iter().map(|point| point.delivered_per_s).collect::<Vec<_>>(), [10.0, 10.0, 11.0]);
        assert!(series[1].delivery_p99_ms > 1_000.0 && series[2].delivery_p99_ms < 10.0, "{series:?}");
    }

    #[test]
    fn what_is_behind_the_last_whole_second_is_no_drop() {
        let fates = (0..24).map(|number| fate(number * 100, 1 + number * 100));
        let series = series(fates, Duration::ZERO, Duration::from_millis(2_400));
        assert_eq!(series.iter().map(|point| point.delivered_per_s).collect::<Vec<_>>(), [10.0, 10.0]);
        let short = super::series([fate(0, 1)].into_iter(), Duration::ZERO, Duration::from_millis(500));
        assert_eq!(short.iter().map(|point| point.sent_per_s).collect::<Vec<_>>(), [2.0]);
    }

    #[test]
    fn a_long_run_has_a_bounded_series() {
        let series = series([fate(0, 1)].into_iter(), Duration::ZERO, Duration::from_secs(100_000));
        assert!(series.len() <= SERIES_POINTS_MAX, "{}", series.len());
    }
}
