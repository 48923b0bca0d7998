//! What is said of a failure that lasts: when it begins, once a minute while it goes on, and when it is over.

use std::error::Error;
use std::time::{Duration, Instant};

/// One thing that fails at times, such as listing the data planes.
pub(super) struct Outage {
    what: &'static str,
    begun: Option<Instant>,
    told: Option<Instant>,
}

impl Outage {
    /// `what`: what does not happen then, in words for the log.
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, begun: None, told: None }
    }

    /// It has failed.
    pub(super) fn failed(&mut self, error: &(dyn Error + 'static)) {
        let now = Instant::now();
        if self.is_due(now) {
            let seconds = now.duration_since(*self.begun.get_or_insert(now)).as_secs();
            tracing::warn!(error, seconds, "{}", self.what);
        }
    }

    /// It works.
    pub(super) fn over(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.told = None;
            tracing::info!(seconds = begun.elapsed().as_secs(), "over: {}", self.what);
        }
    }

    /// Whether something is to be said of a failure now.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.told.is_none_or(|told| now.duration_since(told) >= REMINDER);
        if is_due {
            self.told = Some(now);
        }
        is_due
    }
}

/// Between two words about one failure.
const REMINDER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_lasts_is_told_when_it_begins_and_once_a_minute() {
        let (mut outage, start) = (Outage::new("nothing happens"), Instant::now());
        let due = (0..180).filter(|second| outage.is_due(start + Duration::from_secs(*second)));
        assert_eq!(due.collect::<Vec<_>>(), [0, 60, 120]);
        outage.failed(&std::fmt::Error);
        outage.over();
        assert!(outage.is_due(start + Duration::from_secs(181)), "the next one begins");
    }
}
