//! Seeds of the whole node.

use super::*;

#[test]
fn a_quiet_run_delivers_everything_that_was_acknowledged() {
    let plan = Plan { crashes_max: 0, net: NetFaults::default(), ..Plan::default() };
    let outcome = run(1, &plan).unwrap();
    assert!(outcome.violations.is_empty(), "{}", outcome.summary());
    assert!(outcome.acknowledged > 20 && outcome.received > 0, "{}", outcome.summary());
}

#[test]
fn two_runs_of_one_seed_are_the_same() {
    assert_eq!(run(11, &Plan::default()).unwrap(), run(11, &Plan::default()).unwrap());
}

#[test]
fn some_seeds_with_crashes_and_faults_break_no_invariant() {
    for seed in 0..SEEDS {
        let outcome = run(seed, &Plan::default()).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(outcome.violations.is_empty(), "{}", outcome.summary());
    }
}

#[test]
fn a_node_that_acknowledges_before_its_sync_is_caught() {
    let disk = DiskFaults { is_lying: true, ..DiskFaults::default() };
    let plan = Plan { disk, ..Plan::default() };
    let is_caught = |seed| {
        run(seed, &plan).is_ok_and(|outcome| {
            outcome.violations.iter().any(|violation| matches!(violation, Violation::NeverSettled { .. }))
        })
    };
    assert!((0..SEEDS).any(is_caught), "{SEEDS} seeds did not find it");
}

/// Seeds of one test run; `bin/sim` runs more.
const SEEDS: u64 = 5;
