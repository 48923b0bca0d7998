//! `cargo xtask tidy|schema`: the house rules, and generated code.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

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
        Task::Tidy => tidy::run(top),
        Task::Schema { check } => schema::run(check),
    }
}
