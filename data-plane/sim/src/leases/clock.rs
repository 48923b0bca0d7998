//! A host's CLOCK_BOOTTIME: it runs a little fast or slow and never stops. Wall clocks are not here because nothing
//! that is simulated reads one.

use std::time::Duration;

use postrail_core::base::Random;

/// Parts per million by which a clock may be wrong: far more than the 500 that time daemons correct at most.
pub(super) const DRIFT_PPM_MAX: u64 = 20_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Nanoseconds that it counts in a true second.
    rate: u64,
    /// What it showed in the beginning.
    began: Duration,
}

impl Clock {
    pub(super) fn new(random: &mut Random) -> Self {
        let off = random.below(2 * DRIFT_PPM_MAX + 1);
        let rate = 1_000_000_000 - DRIFT_PPM_MAX * 1_000 + off * 1_000;
        Self { rate, began: Duration::from_secs(random.below(1_000_000)) }
    }

    /// What it shows at a true time.
    pub(super) fn shows(self, at: Duration) -> Duration {
        let counted = at.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        self.began + nanos(counted)
    }

    /// The true time at which it will show `at`.
    pub(super) fn when(self, at: Duration) -> Duration {
        let counted = at.saturating_sub(self.began).as_nanos();
        nanos((counted * 1_000_000_000).div_ceil(u128::from(self.rate)))
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
