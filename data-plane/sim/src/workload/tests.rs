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

#[test]
fn a_node_that_knows_nothing_of_the_rules_is_caught() {
    let limits = shaping::strict().limits();
    let found = |seed| run_under(seed, &Plan::default(), Shaped::default(), &limits).unwrap().violations;
    let found: Vec<_> = (0..SEEDS).flat_map(found).collect();
    let has = |is_it: fn(&Violation) -> bool| found.iter().any(is_it);
    assert!(has(|one| matches!(one, Violation::TooFast { .. })), "{found:?}");
    assert!(has(|one| matches!(one, Violation::TooManyConnections { .. })), "{found:?}");
    assert!(has(|one| matches!(one, Violation::TooManyMails { .. })), "{found:?}");
}

#[test]
fn rules_that_are_strict_are_kept_and_everything_settles() {
    for seed in 0..SEEDS {
        let shaped = shaping::strict();
        let limits = shaped.limits();
        let outcome = run_under(seed, &Plan::default(), shaped, &limits).unwrap();
        assert!(outcome.violations.is_empty(), "{}", outcome.summary());
    }
}

/// Seeds of one test run; `bin/sim` runs more.
const SEEDS: u64 = 5;
