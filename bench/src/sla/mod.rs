//! `postrail-bench sla PLAN.toml`: whether the contract of a plan held.
//!
//! The contract is the plan's `[sla]` section ([`contract`]); the figures are those of `--result`, or of a run of the plan
//! now. Exit status: 0 every clause held, 1 one did not, 2 it could not be judged.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

mod contract;
mod judge;

pub use contract::{Contract, Rank, Ranks, TenantContract};
pub use judge::{Clause, judge};

use crate::compare;
use crate::page::text::{number_or_dash, round};
use crate::result::RunResult;

/// Say whether the contract of a plan held
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Exit status: 0 every clause held, 1 some did not, 2 it could not be judged.")]
pub struct Args {
    /// A plan with an [sla] section
    #[arg(value_name = "PLAN.toml")]
    plan: PathBuf,
    /// Judge this result; without it the plan is run now
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
    /// Write the clauses as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Arguments for `run`, after `--`
    #[arg(last = true, value_name = "RUN ARGUMENTS")]
    run: Vec<String>,
}

/// Judges, and prints clause by clause.
///
/// # Errors
/// A plan without a contract, a result of another plan, a run that could not start.
pub fn run(args: &Args) -> Result<ExitCode> {
    let text = std::fs::read_to_string(&args.plan);
    let text = text.with_context(|| format!("cannot read {}", args.plan.display()))?;
    let contract = Contract::of_plan(&text).with_context(|| args.plan.display().to_string())?;
    let result = match &args.result {
        Some(path) => compare::read(path)?,
        None => run_now(&args.plan, &args.run)?,
    };
    let plan = text.parse::<toml::Table>()?.get("name").and_then(|name| Some(name.as_str()?.to_owned()));
    if let Some(plan) = plan.filter(|plan| *plan != result.plan) {
        bail!("the result is of the plan {:?}, the contract is of {plan:?}", result.plan);
    }
    if result.interrupted {
        bail!("the run was interrupted: a part of a run proves no contract");
    }
    let clauses = judge(&contract, &result);
    print!("{}", table(&clauses));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&clauses)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if clauses.iter().all(|clause| clause.held) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the plan by this program's own `run`; mail that it lost is judged here.
fn run_now(plan: &Path, arguments: &[String]) -> Result<RunResult> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let json = folder.path().join("result.json");
    let status = Command::new(std::env::current_exe().context("where is this program?")?)
        .arg("run")
        .arg(plan)
        .arg("--json")
        .arg(&json)
        .args(arguments)
        .status()
        .context("the run did not start")?;
    if !json.exists() {
        bail!("the run left no result ({status})");
    }
    compare::read(&json)
}

fn table(clauses: &[Clause]) -> String {
    let mut out = format!("{:<8}{:<58}{:>12}{:>12}\n", "", "", "promised", "found");
    for clause in clauses {
        let verdict = if clause.held { "held" } else { "BROKEN" };
        let tenant = clause.tenant.as_deref().map(|tenant| format!("{tenant}: ")).unwrap_or_default();
        let sign = if clause.at_least { "≥" } else { "≤" };
        let bound = format!("{sign} {}", round(clause.bound));
        let what = format!("{tenant}{}", clause.what);
        let (found, shortfall) = (number_or_dash(clause.found), clause.shortfall());
        let line = format!("{verdict:<8}{what:<58}{bound:>12}{found:>12}  {shortfall}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    let broken = clauses.iter().filter(|clause| !clause.held).count();
    out.push_str(&match broken {
        0 => format!("\nThe contract held: {} clauses.\n", clauses.len()),
        _ => format!("\nThe contract did not hold: {broken} of {} clauses.\n", clauses.len()),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_which_clause_failed_for_whom_and_by_how_much() {
        let contract = Contract::of_plan("[sla.tenant.reserved]\nrate_per_s = 50\n").expect("reads");
        let mut result = RunResult::default();
        let part = crate::result::TenantResult { rate_per_s: 40.0, ..Default::default() };
        result.tenants.insert("reserved".into(), part);
        let text = table(&judge(&contract, &result));
        let line = text.lines().find(|line| line.starts_with("BROKEN")).expect("one failed");
        assert!(line.contains("reserved: mails a second") && line.ends_with("10.0 (20.0%) too little"), "{line}");
        assert!(text.ends_with("The contract did not hold: 1 of 5 clauses.\n"), "{text}");
    }
}
