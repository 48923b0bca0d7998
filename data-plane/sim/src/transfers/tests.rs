//! Seeds of several hosts.

use super::*;

#[test]
fn some_seeds_of_several_hosts_break_no_invariant() {
    for seed in 0..SEEDS {
        let outcome = run(seed, &Plan::default()).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(outcome.violations.is_empty(), "{}", outcome.summary());
    }
}

#[test]
fn where_nothing_is_lost_and_nothing_crashes_mail_goes_after_its_addresses() {
    let plan = Plan { crashes_max: 0, net: NetFaults::default(), loses_parcels: false, ..Plan::default() };
    let outcome = run(11, &plan).unwrap();
    assert!(outcome.violations.is_empty(), "{}", outcome.summary());
    assert!(outcome.acknowledged > 20 && outcome.moves > 0 && outcome.taken > 0, "{}", outcome.summary());
}

#[test]
fn two_runs_of_one_seed_are_the_same() {
    assert_eq!(run(3, &Plan::default()).unwrap(), run(3, &Plan::default()).unwrap());
}

/// Seeds of one test run; `bin/sim` runs more.
const SEEDS: u64 = 5;
