//! Runs the whole node under many seeds and says which broke what: `sim --first 0 --count 200`.
//!
//! Exit status 0: no seed broke an invariant.

use std::process::ExitCode;

use clap::Parser;
use postrail_sim::workload::{Plan, run};

/// Tries the data plane under seeds: crashes, torn writes, broken connections, receivers that misbehave.
#[derive(Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// Runs each seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Names each seed, also those without a violation.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut broken = 0_u64;
    for seed in arguments.first..arguments.first.saturating_add(arguments.count) {
        if let Err(why) = try_seed(seed, &arguments) {
            println!("{why}");
            broken += 1;
        }
    }
    println!("{} seeds, {broken} broken", arguments.count);
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn try_seed(seed: u64, arguments: &Arguments) -> Result<(), String> {
    let plan = Plan::default();
    let outcome = run(seed, &plan).map_err(|failure| failure.to_string())?;
    if arguments.verbose {
        println!("{}", outcome.summary());
    }
    if !outcome.violations.is_empty() {
        return Err(outcome.summary());
    }
    if arguments.twice {
        let again = run(seed, &plan).map_err(|failure| failure.to_string())?;
        if again.trace != outcome.trace {
            return Err(format!("seed {seed}: two runs differ: {:016x} and {:016x}", outcome.trace, again.trace));
        }
    }
    Ok(())
}
