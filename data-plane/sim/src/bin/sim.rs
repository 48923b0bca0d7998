//! Runs a world under many seeds and says which broke what: `sim --first 0 --count 200` the whole node,
//! `sim leases --count 10000` the addresses that move between hosts, `sim transfers --count 1000` the mail that moves after them.
//!
//! Seeds know nothing of each other, so each thread takes the next one; what is printed comes in the order of the seeds
//! whichever is ready first. Exit status 0: no seed broke an invariant.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use postrail_sim::workload::{Plan, run};
use postrail_sim::{Failure, leases, transfers};

/// Tries the data plane under seeds: crashes, torn writes, broken connections, receivers that misbehave.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    world: Option<World>,
    #[command(flatten)]
    seeds: Seeds,
}

#[derive(Subcommand)]
enum World {
    /// Tries the leases of addresses: hosts, control planes and a store under partitions, pauses and clocks that differ.
    Leases {
        #[command(flatten)]
        seeds: Seeds,
        /// What hosts hold less than their lease, milliseconds; 0 breaks the invariants.
        #[arg(long)]
        margin_ms: Option<u64>,
    },
    /// Tries mail that moves between hosts: addresses change hosts, parcels are lost and doubled, givers and takers crash.
    Transfers {
        #[command(flatten)]
        seeds: Seeds,
    },
}

#[derive(Args)]
struct Seeds {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// How many at once [default: as many as there are CPUs].
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Runs each seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Names each seed, also those without a violation.
    #[arg(long)]
    verbose: bool,
}

/// What came of a seed.
struct Verdict {
    /// What there is to print.
    lines: Vec<String>,
    is_broken: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.world {
        None => try_all(&arguments.seeds, |seed| try_seed(seed, &arguments.seeds)),
        Some(World::Leases { seeds, margin_ms }) => {
            let margin = margin_ms.map(Duration::from_millis);
            let plan = leases::Plan::default();
            let plan = leases::Plan { margin: margin.unwrap_or(plan.margin), ..plan };
            try_all(seeds, |seed| try_leases(seed, &plan, seeds))
        }
        Some(World::Transfers { seeds }) => try_all(seeds, |seed| try_transfers(seed, seeds)),
    }
}

fn try_all(seeds: &Seeds, work: impl Fn(u64) -> Verdict + Sync) -> ExitCode {
    let range = seeds.first..seeds.first.saturating_add(seeds.count);
    let jobs = seeds.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let mut broken = 0_u64;
    let print = |verdict: Verdict| {
        verdict.lines.iter().for_each(|line| println!("{line}"));
        broken += u64::from(verdict.is_broken);
    };
    in_order(range, jobs, work, print);
    println!("{} seeds, {broken} broken", seeds.count);
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does `work` for each seed on `jobs` threads, and gives `take` what came of it in the order of the seeds.
fn in_order<T: Send>(seeds: Range<u64>, jobs: usize, work: impl Fn(u64) -> T + Sync, mut take: impl FnMut(T)) {
    let next = AtomicU64::new(seeds.start);
    let (done, ready) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (done, next, work, end) = (done.clone(), &next, &work, seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || done.send((seed, work(seed))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done);
        let mut early = BTreeMap::new();
        let mut due = seeds.start;
        for (seed, outcome) in ready {
            early.insert(seed, outcome);
            while let Some(outcome) = early.remove(&due) {
                take(outcome);
                due += 1;
            }
        }
    });
}

fn try_seed(seed: u64, seeds: &Seeds) -> Verdict {
    let plan = Plan::default();
    judged(seed, seeds, || {
        run(seed, &plan).map(|outcome| (outcome.trace, outcome.violations.is_empty(), outcome.summary()))
    })
}

fn try_transfers(seed: u64, seeds: &Seeds) -> Verdict {
    let plan = transfers::Plan::default();
    judged(seed, seeds, || {
        transfers::run(seed, &plan).map(|outcome| (outcome.trace, outcome.violations.is_empty(), outcome.summary()))
    })
}

/// `work` gives its trace, whether nothing is broken, and a line about it.
fn judged(seed: u64, seeds: &Seeds, work: impl Fn() -> Result<(u64, bool, String), Failure>) -> Verdict {
    let broken = |line: String| Verdict { lines: vec![line], is_broken: true };
    let (trace, summary) = match work() {
        Ok((trace, true, summary)) => (trace, summary),
        Ok((_, false, summary)) => return broken(summary),
        Err(failure) => return broken(failure.to_string()),
    };
    if seeds.twice {
        match work() {
            Ok((again, ..)) if again == trace => {}
            Ok((again, ..)) => return broken(format!("seed {seed}: two runs differ: {trace:016x} and {again:016x}")),
            Err(failure) => return broken(failure.to_string()),
        }
    }
    let lines = if seeds.verbose { vec![summary] } else { Vec::new() };
    Verdict { lines, is_broken: false }
}

fn try_leases(seed: u64, plan: &leases::Plan, seeds: &Seeds) -> Verdict {
    let outcome = leases::run(seed, plan);
    let mut is_broken = !outcome.violations.is_empty();
    let mut lines = if is_broken || seeds.verbose { vec![outcome.summary()] } else { Vec::new() };
    if seeds.twice && leases::run(seed, plan) != outcome {
        is_broken = true;
        lines.push(format!("seed {seed}: two runs differ"));
    }
    Verdict { lines, is_broken }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    #[test]
    fn outcomes_come_in_the_order_of_their_seeds() {
        let (later, changed) = (Mutex::new(0), Condvar::new());
        let work = |seed| {
            let done = later.lock().expect("no thread panics");
            // The first seed is ready last.
            if seed == 10 {
                drop(changed.wait_while(done, |done| *done < 29).expect("no thread panics"));
            } else {
                let mut done = done;
                *done += 1;
                changed.notify_one();
            }
            seed
        };
        let mut seen = Vec::new();
        in_order(10..40, 4, work, |seed| seen.push(seed));
        assert_eq!(seen, (10..40).collect::<Vec<_>>());
    }
}
