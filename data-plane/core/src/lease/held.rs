//! What may be used, as shards ask it: a value that is replaced whole, and that ends by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::allocation::Tenure;
use postrail_schema::limits::{MOVED_PATH_CONNECTIONS, MOVED_PATH_PERIOD};

/// One address that is on and granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    pub epoch: u64,
    pub tenure: Tenure,
    /// Since when this host has it, CLOCK_BOOTTIME.
    pub since: Duration,
}

/// Everything that is held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Until when what is leased is held, CLOCK_BOOTTIME.
    pub until: Duration,
    pub addresses: Arc<BTreeMap<IpAddr, Holding>>,
}

impl Held {
    /// Whether a connection or transaction may start on `address` at `now` (CLOCK_BOOTTIME).
    pub fn may_use(&self, address: IpAddr, now: Duration) -> bool {
        self.addresses.get(&address).is_some_and(|held| held.tenure == Tenure::Fixed || now < self.until)
    }

    /// How many of `limit` connections a path of `address` may have at `now`.
    pub fn connections(&self, address: IpAddr, limit: usize, now: Duration) -> usize {
        match self.addresses.get(&address) {
            Some(held) if held.tenure == Tenure::Leased => moved_connections(limit, now.saturating_sub(held.since)),
            _ => limit,
        }
    }
}

/// How many of `limit` connections a path may have whose address came to this host `age` ago: few at first, since the
/// receiver may still count those of the host that had it, and twice as many with each period.
pub fn moved_connections(limit: usize, age: Duration) -> usize {
    let periods = age.as_nanos() / MOVED_PATH_PERIOD.as_nanos();
    let doublings = u32::try_from(periods).unwrap_or(u32::MAX);
    let grown = MOVED_PATH_CONNECTIONS.checked_shl(doublings).filter(|grown| *grown > 0).unwrap_or(usize::MAX);
    grown.min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_whose_address_moved_starts_low_and_doubles() {
        for (seconds, connections) in [(0, 1), (29, 1), (30, 2), (60, 4), (90, 8), (120, 10), (1_900, 10), (1_930, 10)]
        {
            assert_eq!(moved_connections(10, Duration::from_secs(seconds)), connections, "{seconds} s");
        }
        assert_eq!(moved_connections(10, Duration::MAX), 10);
        assert_eq!(moved_connections(1, Duration::ZERO), 1);
    }
}
