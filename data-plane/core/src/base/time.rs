//! Time as values. Nothing in the core reads a clock: pumps pass [`Instant`] (since boot) and [`Timestamp`] (wall).
//!
//! `std::time::Duration` is a plain value and is used as the difference of both.

use std::fmt::Write as _;
use std::ops::{Add, Sub};
use std::time::Duration;

use postrail_schema::day::Day;

/// A point of time that only grows: nanoseconds of CLOCK_BOOTTIME, which counts while the host sleeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    pub const ZERO: Self = Self(0);
    /// Later than anything: for "never".
    pub const FAR: Self = Self(u64::MAX);

    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, zero if it is not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wall-clock time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self(ms)
    }

    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    pub const fn unix_seconds(self) -> u64 {
        self.0 / 1_000
    }

    /// Time since `earlier`, zero if it is not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The UTC day.
    pub const fn day(self) -> Day {
        Day::of_ms(self.0)
    }

    /// Year, month (1 to 12), day (1 to 31) in UTC.
    pub const fn date(self) -> (u64, u64, u64) {
        self.day().date()
    }

    /// The form of RFC 5322 section 3.3: `Mon, 23 Nov 2026 20:14:05 +0000`.
    pub fn rfc5322(self) -> String {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let (year, month, day) = self.date();
        let seconds = self.unix_seconds();
        let weekday = DAYS[(seconds / 86_400 % 7) as usize];
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        let month = MONTHS[month as usize - 1];
        let mut text = String::with_capacity(32);
        // A string takes whatever is written to it.
        let _ = write!(text, "{weekday}, {day} {month} {year} ");
        for (number, end) in [(hour, ':'), (minute, ':'), (second, ' ')] {
            text.extend([(b'0' + (number / 10) as u8) as char, (b'0' + (number % 10) as u8) as char, end]);
        }
        text.push_str("+0000");
        text
    }

    /// The form of RFC 3339 with milliseconds: `2026-11-23T20:14:05.123Z`.
    pub fn rfc3339(self) -> String {
        let (year, month, day) = self.date();
        let seconds = self.unix_seconds();
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", self.0 % 1_000)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Both clocks at one moment, for decisions that need both (a retry is monotonic, an expiry is wall time).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    pub instant: Instant,
    pub wall: Timestamp,
}

impl Moment {
    /// The instant at which the wall clock will show `at`; now, if that has passed.
    pub fn instant_of(self, at: Timestamp) -> Instant {
        self.instant + at.since(self.wall)
    }

    /// What the wall clock will show at `at`; now, if that has passed.
    pub fn wall_of(self, at: Instant) -> Timestamp {
        self.wall + at.since(self.instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_as_both_standards_ask() {
        let at = Timestamp::from_unix_ms(1_795_464_845_123);
        assert_eq!(at.rfc3339(), "2026-11-23T20:14:05.123Z");
        assert_eq!(at.rfc5322(), "Mon, 23 Nov 2026 20:14:05 +0000");
        assert_eq!(Timestamp::default().rfc5322(), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(Timestamp::from_unix_ms(951_782_400_000).date(), (2000, 2, 29));
    }

    #[test]
    fn differences_never_go_below_zero() {
        assert_eq!(Instant::ZERO.since(Instant::from_nanos(5)), Duration::ZERO);
        assert_eq!(Instant::FAR + Duration::from_secs(1), Instant::FAR);
    }
}
