//! Addresses that move between hosts, under everything that can go wrong with processes, networks, clocks and the store.
//!
//! Under test are the two pure halves as they ship: the allocator with its observer (control plane) and the lease machine
//! (data plane). Around them are models: [`store`] is etcd, [`host`] a machine with an interface, [`control`] a control
//! plane, [`faults`] what goes wrong. There are several hosts and two control planes of which both may believe to lead.
//!
//! What must hold in every run:
//! - no two processes may start a connection or transaction on one address at one time, those that stand still included,
//! - once an address was used under an epoch, it is never used under an earlier one again, unless the store was restored,
//! - no two machines have one address on their interfaces at one time,
//! - an address that a machine has by its own configuration is used there alone, in the half of the runs that have one,
//! - an address of a region is used by hosts of the region alone, in the half of the runs that have regions,
//! - in the calm at the end, every address is in use.
//!
//! In half of the storms control planes write no more than two grants of two hosts at once.
//!
//! In two of five storms the store is restored from an earlier state, or begins with nothing, once or twice. What is fixed to a
//! host is left out then: who has it last may be cut off from whatever says so.
//!
//! In runs without partitions, in which one host dies, its addresses are in use elsewhere within the lease and one second;
//! within one lease more if the store changed its leader, and its silence, or if the leading control plane died.

mod clock;
mod control;
mod faults;
mod host;
mod store;
mod world;

use std::time::Duration;

use postrail_schema::limits::ADDRESS_LEASE_MARGIN;

use world::World;

/// How runs are made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What hosts hold less than their lease; zero breaks the invariants, which shows that they can break.
    pub margin: Duration,
    /// Hosts are shown a store that never lost what they wrote, which breaks them likewise.
    pub hides_restores: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { margin: ADDRESS_LEASE_MARGIN, hides_restores: false }
    }
}

/// What became of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub seed: u64,
    /// What went wrong, in sentences with times.
    pub violations: Vec<String>,
    /// How often an address was first used by another host than before.
    pub moves: u64,
    /// Uses that were started.
    pub starts: u64,
    /// From a host's death until the last of its addresses was in use elsewhere, in runs that measure it.
    pub takeover: Option<Duration>,
    pub trace: u64,
}

impl Outcome {
    pub fn summary(&self) -> String {
        let Self { seed, moves, starts, takeover, trace, .. } = self;
        let takeover = takeover.map_or_else(String::new, |took| format!(", taken over in {:.2} s", took.as_secs_f64()));
        let mut text = format!("seed {seed}: {starts} starts, {moves} moves{takeover}, trace {trace:016x}");
        for violation in &self.violations {
            text.push_str("\n  ");
            text.push_str(violation);
        }
        text
    }
}

/// Runs one seed: three of four are a storm of faults, the fourth measures a takeover.
pub fn run(seed: u64, plan: &Plan) -> Outcome {
    let mut world = World::new(seed, *plan);
    if seed % 4 == 3 {
        world.takeover();
    } else {
        world.storm();
    }
    world.outcome(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_hundred_seeds_never_use_an_address_twice_and_always_come_to_use_it() {
        for seed in 0..SEEDS {
            let outcome = run(seed, &Plan::default());
            assert!(outcome.violations.is_empty(), "{}", outcome.summary());
            assert!(outcome.starts > 0, "{}", outcome.summary());
        }
    }

    #[test]
    fn two_runs_of_one_seed_are_the_same() {
        for seed in [1, 3] {
            assert_eq!(run(seed, &Plan::default()), run(seed, &Plan::default()));
        }
    }

    #[test]
    fn hosts_that_hold_a_whole_lease_are_caught() {
        let plan = Plan { margin: Duration::ZERO, ..Plan::default() };
        assert!((0..SEEDS).any(|seed| !run(seed, &plan).violations.is_empty()), "{SEEDS} seeds did not find it");
    }

    #[test]
    fn hosts_that_do_not_hear_of_a_restore_are_caught() {
        let plan = Plan { hides_restores: true, ..Plan::default() };
        let is_on_two = |violation: &String| violation.contains("may both use");
        let found = (0..SEEDS).any(|seed| run(seed, &plan).violations.iter().any(is_on_two));
        assert!(found, "{SEEDS} seeds did not find it");
    }

    /// Seeds of one test run; `sim leases` runs more.
    const SEEDS: u64 = 200;
}
