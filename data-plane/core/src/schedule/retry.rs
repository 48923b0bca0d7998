//! The delay before the next attempt: geometric, with jitter so that what failed together does not return together.

use std::time::Duration;

use postrail_schema::limits::{RETRY_DELAY_FIRST, RETRY_DELAY_MAX, RETRY_FACTOR_PERCENT};

use crate::base::Random;

/// How long transiently failed recipients wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    pub first: Duration,
    pub max: Duration,
    pub factor_percent: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: RETRY_DELAY_FIRST, max: RETRY_DELAY_MAX, factor_percent: RETRY_FACTOR_PERCENT }
    }
}

impl RetryPolicy {
    /// The delay after attempt `number` (from 1), within a tenth of the geometric value.
    pub fn delay(&self, number: u16, random: &mut Random) -> Duration {
        let mut ms = self.first.as_millis() as u64;
        let ms_max = self.max.as_millis() as u64;
        for _ in 1..number {
            ms = (ms * u64::from(self.factor_percent) / 100).min(ms_max);
            if ms == ms_max {
                break;
            }
        }
        let jittered = ms * (90 + random.below(21)) / 100;
        Duration::from_millis(jittered.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_bound_and_stay_near_the_curve() {
        let policy = RetryPolicy::default();
        let mut random = Random::new(3);
        for (number, seconds) in [(1, 300), (2, 450), (3, 675), (20, 14_400), (u16::MAX, 14_400)] {
            let delay = policy.delay(number, &mut random).as_secs_f64();
            let wanted = f64::from(seconds);
            assert!((wanted * 0.89..=wanted * 1.11).contains(&delay), "attempt {number}: {delay} s");
        }
    }
}
