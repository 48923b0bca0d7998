//! A failure that lasts, and when something is said of it: when it begins, once a minute while it goes on, and when it is
//! over.
//!
//! Both planes wait for a store that is out of reach, and log it alike. Absent here: the words, and the clock, which does not
//! go back.

use std::ops::Sub;
use std::time::Duration;

/// One thing that fails at times, such as reading a store; `T` is a time of the clock that it is counted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outage<T> {
    /// When it began, and when something was said last.
    times: Option<(T, T)>,
}

impl<T: Copy + Sub<Output = Duration>> Outage<T> {
    /// Of what works.
    pub const fn new() -> Self {
        Self { times: None }
    }

    /// It fails at `now`. `Some`: something is to be said of it, and for so long it has failed.
    pub fn failed(&mut self, now: T) -> Option<Duration> {
        let (begun, told) = self.times.unwrap_or((now, now));
        let is_due = self.times.is_none() || now - told >= REMINDER;
        self.times = Some((begun, if is_due { now } else { told }));
        is_due.then(|| now - begun)
    }

    /// It works at `now`. `Some`: it had failed, and for so long.
    pub fn over(&mut self, now: T) -> Option<Duration> {
        self.times.take().map(|(begun, _)| now - begun)
    }
}

/// Between two words about one failure.
const REMINDER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_lasts_is_told_when_it_begins_and_once_a_minute_and_when_it_is_over() {
        let at = Duration::from_secs;
        let mut outage = Outage::new();
        assert_eq!(outage.over(at(9)), None, "nothing was wrong");
        let told: Vec<_> = (10..190).filter_map(|second| outage.failed(at(second))).collect();
        assert_eq!(told, [at(0), at(60), at(120)]);
        assert_eq!(outage.over(at(200)), Some(at(190)));
        assert_eq!(outage.failed(at(201)), Some(at(0)), "the next one begins");
    }
}
