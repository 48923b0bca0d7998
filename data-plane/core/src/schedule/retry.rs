//! The delay before the next attempt: as the retry policy in force says, with jitter so that what failed together does not
//! return together.

use std::time::Duration;

use postrail_schema::policy::RetryDelays;

use crate::base::Random;

/// The delay after attempt `number` (from 1), within a tenth of what the policy says.
pub fn retry_delay(delays: &RetryDelays, number: u16, random: &mut Random) -> Duration {
    let jittered = delays.after(number).as_millis() as u64 * (90 + random.below(21)) / 100;
    Duration::from_millis(jittered.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_near_the_curve_and_differ() {
        let mut random = Random::new(3);
        for (number, seconds) in [(1, 300), (2, 450), (3, 675), (20, 14_400), (u16::MAX, 14_400)] {
            let delay = retry_delay(&RetryDelays::default(), number, &mut random).as_secs_f64();
            let wanted = f64::from(seconds);
            assert!((wanted * 0.89..=wanted * 1.11).contains(&delay), "attempt {number}: {delay} s");
        }
        let [one, other] = [(); 2].map(|()| retry_delay(&RetryDelays::default(), 1, &mut random));
        assert_ne!(one, other);
    }
}
