//! `cargo xtask tidy|schema|instructions`: the house rules, generated code, and counts of the hot functions.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod instructions;
mod schema;
mod tidy;

/// Checks and generators of this repository.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Count the instructions of the hot functions and compare them with bench/instructions.toml
    Instructions {
        /// Write the baseline instead
        #[arg(long)]
        update: bool,
    },
    /// Check the house rules that no compiler checks
    Tidy,
    /// Generate shared-schema/src/generated from shared-schema/schema
    Schema {
        /// Change nothing; fail where the committed code is stale
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("xtask lies in ops/xtask")?;
    match Args::parse().task {
        Task::Instructions { update } => instructions::run(top, update),
        Task::Tidy => tidy::run(top),
        Task::Schema { check } => schema::run(check),
    }
}
