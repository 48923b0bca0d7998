//! `postrail-bench compare A.json B.json`: two results beside each other, figure by figure.
//!
//! Exit status: 0 where no figure of B is worse than A's by more than the noise, 1 where one is, 2 where a file cannot be
//! read. Losses and duplicates have no noise. Invariants worth naming: what differs besides the figures (machine, plan,
//! target) is said before them, because then the ratios are of something else.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::figures::{self, Better, Figure};
use crate::machine;
use crate::page::text::number_or_dash;
use crate::result::RunResult;

/// Set two results beside each other
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Exit status: 0 no figure of B is worse by more than the noise, 1 some is, 2 a file cannot be read."
)]
pub struct Args {
    /// The result to compare with
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// The result that is judged
    #[arg(value_name = "B.json")]
    after: PathBuf,
    /// Differences up to this are noise, percent
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    noise: f64,
}

/// Prints the comparison.
///
/// # Errors
/// A file that is no result.
pub fn run(args: &Args) -> Result<ExitCode> {
    let comparison = Comparison::new(&read(&args.before)?, &read(&args.after)?, args.noise);
    print!("{comparison}");
    Ok(if comparison.is_worse() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A result from its file.
pub(crate) fn read(path: &Path) -> Result<RunResult> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no result of `run`", path.display()))
}

/// How B's figure is beside A's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Better,
    Same,
    Worse,
    /// One of them was not measured.
    Unknown,
}

struct Row {
    figure: Figure,
    before: Option<f64>,
    verdict: Verdict,
}

struct Comparison {
    warnings: Vec<String>,
    rows: Vec<Row>,
}

impl Comparison {
    fn new(before: &RunResult, after: &RunResult, noise_percent: f64) -> Self {
        let old = figures::of(before);
        let rows = figures::of(after).into_iter().filter_map(|figure| {
            let before = old.iter().find(|other| other.name == figure.name).and_then(|other| other.value);
            let verdict = judge(&figure, before, noise_percent);
            // What neither has, or neither had trouble with, says nothing.
            let shown = before.is_some() || figure.value.is_some();
            let silent = figure.exact && before.unwrap_or(0.0) == 0.0 && figure.value.unwrap_or(0.0) == 0.0;
            (shown && (!silent || figure.name == "lost" || figure.name == "duplicated")).then_some(Row {
                figure,
                before,
                verdict,
            })
        });
        Self { warnings: warnings(before, after), rows: rows.collect() }
    }

    fn is_worse(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Worse)
    }
}

fn judge(figure: &Figure, before: Option<f64>, noise_percent: f64) -> Verdict {
    let (Some(before), Some(after)) = (before, figure.value) else { return Verdict::Unknown };
    let noise = if figure.exact { 0.0 } else { noise_percent.max(0.0) / 100.0 };
    // Below a hundredth of a unit nothing was measured.
    if (after - before).abs() <= (before.abs() * noise).max(0.01) {
        return Verdict::Same;
    }
    if (after > before) == (figure.better == Better::Higher) { Verdict::Better } else { Verdict::Worse }
}

/// What makes the ratios doubtful.
fn warnings(before: &RunResult, after: &RunResult) -> Vec<String> {
    let mut warnings = Vec::new();
    if before.machine != after.machine {
        let (old, new) = (machine::line(&before.machine), machine::line(&after.machine));
        warnings.push(format!("the machines differ: A is of {old}; B is of {new}"));
    }
    for (what, old, new) in [("plans", &before.plan, &after.plan), ("targets", &before.target, &after.target)] {
        if old != new {
            warnings.push(format!("the {what} differ: A is {old:?}, B is {new:?}"));
        }
    }
    for (name, result) in [("A", before), ("B", after)] {
        if result.interrupted {
            warnings.push(format!("{name} was interrupted"));
        }
        if (1.0..MILD_SECONDS).contains(&result.seconds) {
            warnings.push(format!("{name} lasted {:.0} s: expect noise", result.seconds));
        }
    }
    warnings
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        if !self.warnings.is_empty() {
            writeln!(f)?;
        }
        writeln!(f, "{:<34}{:>12}{:>12}{:>9}", "", "A", "B", "B/A")?;
        for Row { figure, before, verdict } in &self.rows {
            let ratio = match (before, figure.value) {
                (Some(before), Some(after)) if *before != 0.0 => format!("{:.2}", after / before),
                _ => "–".into(),
            };
            let verdict = match verdict {
                Verdict::Better => "  better",
                Verdict::Worse => "  WORSE",
                Verdict::Same | Verdict::Unknown => "",
            };
            let (old, new) = (number_or_dash(*before), number_or_dash(figure.value));
            writeln!(f, "{:<34}{old:>12}{new:>12}{ratio:>9}{verdict}", figure.name)?;
        }
        Ok(())
    }
}

/// Runs that are shorter say little.
const MILD_SECONDS: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn result(rate_per_s: f64, cpu: f64) -> RunResult {
        RunResult { rate_per_s, cpu_us_per_mail: Some(cpu), seconds: 60.0, ..RunResult::default() }
    }

    #[test]
    fn each_figure_knows_which_way_is_better() {
        let comparison = Comparison::new(&result(2_000.0, 200.0), &result(3_000.0, 250.0), 5.0);
        let verdict = |name: &str| comparison.rows.iter().find(|row| row.figure.name == name).map(|row| row.verdict);
        assert_eq!(verdict("rate, 1/s"), Some(Verdict::Better));
        assert_eq!(verdict("CPU a mail, µs"), Some(Verdict::Worse));
        assert!(comparison.is_worse());
        let text = comparison.to_string();
        assert!(text.contains("1.50  better") && text.contains("1.25  WORSE"), "{text}");
    }

    #[test]
    fn differences_within_the_noise_are_none_but_losses_have_no_noise() {
        let before = result(2_000.0, 200.0);
        assert!(!Comparison::new(&before, &result(1_950.0, 205.0), 5.0).is_worse());
        let lossy = RunResult { lost: 1, ..before.clone() };
        assert!(Comparison::new(&before, &lossy, 50.0).is_worse());
    }

    #[test]
    fn another_machine_or_plan_is_said() {
        let mut other = RunResult { plan: "w10".into(), ..result(1.0, 1.0) };
        other.machine.cpus = 64;
        let text = Comparison::new(&result(1.0, 1.0), &other, 5.0).to_string();
        assert!(text.contains("the machines differ") && text.contains("the plans differ"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_neither_better_nor_worse() {
        let before = RunResult { cpu_us_per_mail: None, ..result(1.0, 1.0) };
        assert!(!Comparison::new(&before, &result(1.0, 900.0), 5.0).is_worse());
    }
}
