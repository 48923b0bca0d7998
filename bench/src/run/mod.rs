//! `postrail-bench run PLAN.toml`: one plan, from starting the server to the result.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

/// What `run` takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The plan, such as bench/plans/w10.toml
    #[arg(value_name = "PLAN.toml")]
    pub plan: PathBuf,
}

/// # Errors
/// The plan cannot be read, or the server cannot be started.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    bail!("{} cannot be run by this build", args.plan.display())
}
