//! `cargo xtask instructions`: what the hot functions of the core take, in instructions, against a committed baseline.
//!
//! Time on a shared machine says little about a change of 5%; a count of instructions says it exactly, on any machine of
//! the same kind. Each case of the bench's `hot` program runs under callgrind N and 2 N times; the difference over N is
//! a call, free of start-up. `bench/instructions.toml` holds the baseline and the tolerance. It is built as the tests build
//! it, without link-time optimisation, so that a count says what changed, and not what a call takes in the release.
//!
//! Invariants worth naming: more than the tolerance fails; less only asks for a new baseline, so that the gain is kept;
//! a case without a baseline, or a baseline without a case, fails. The counts are of one target: on another one, or on
//! a processor without what the vectorised searches choose there, nothing is judged and that is said.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The head of the baseline's file.
const HEAD: &str = "\
# Instructions a call of the hot functions, counted by callgrind.
#   cargo run -p xtask -- instructions            compares: a call may take `tolerance_percent` more
#   cargo run -p xtask -- instructions --update   writes this file; say in the commit why a count rose
";
const PROFILE: &str = "tested";
const BASELINE: &str = "bench/instructions.toml";
/// Where no other is written down.
const TOLERANCE_PERCENT: f64 = 5.0;

/// What is committed.
struct Baseline {
    tolerance_percent: f64,
    processor: String,
    counts: BTreeMap<String, u64>,
}

/// A case of `hot`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Case {
    name: String,
    calls: u64,
    /// The case whose count is taken off.
    minus: Option<String>,
}

/// Counts, and compares with the baseline at `top` or writes it.
///
/// # Errors
/// No valgrind, a call that takes more than before, a case that only one side knows.
pub(crate) fn run(top: &Path, update: bool) -> Result<()> {
    let processor = processor();
    let baseline = read(&top.join(BASELINE))?;
    if !update && baseline.processor != processor {
        println!("instructions: counted on {}, this is {processor}: not judged", baseline.processor);
        return Ok(());
    }
    let hot = build(top)?;
    let cases = cases(&hot)?;
    let mut counts = BTreeMap::new();
    for case in &cases {
        let (once, twice) = (count(&hot, &case.name, case.calls)?, count(&hot, &case.name, 2 * case.calls)?);
        counts.insert(case.name.clone(), twice.saturating_sub(once) / case.calls);
    }
    let counts = without_parts(&cases, &counts);
    if update {
        let content = write(&Baseline { counts, processor, ..baseline });
        fs::write(top.join(BASELINE), content).with_context(|| format!("cannot write {BASELINE}"))?;
        println!("instructions: wrote {BASELINE}");
        return Ok(());
    }
    let (table, failures) = compare(&baseline, &counts);
    print!("{table}");
    if failures.is_empty() {
        return Ok(());
    }
    bail!(
        "{}; if that is meant, run `cargo run -p xtask -- instructions --update` and say why in the commit",
        failures.join("; ")
    )
}

/// Takes off what a case has from another one, and leaves those others out.
fn without_parts(cases: &[Case], counts: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let of = |name: &String| counts.get(name).copied().unwrap_or(0);
    let parts: Vec<_> = cases.iter().filter_map(|case| case.minus.as_ref()).collect();
    let kept = cases.iter().filter(|case| !parts.contains(&&case.name));
    kept.map(|case| (case.name.clone(), of(&case.name).saturating_sub(case.minus.as_ref().map_or(0, of)))).collect()
}

/// A table, and what fails.
fn compare(baseline: &Baseline, counts: &BTreeMap<String, u64>) -> (String, Vec<String>) {
    let mut table = format!("{:<24}{:>12}{:>12}{:>9}\n", "instructions a call", "baseline", "now", "");
    let mut failures = Vec::new();
    for (name, now) in counts {
        let Some(before) = baseline.counts.get(name) else {
            failures.push(format!("{name} has no baseline"));
            continue;
        };
        let percent = (*now as f64 - *before as f64) * 100.0 / (*before).max(1) as f64;
        let verdict = if percent > baseline.tolerance_percent {
            failures.push(format!("{name} takes {percent:.1}% more instructions"));
            "  MORE"
        } else if percent < -baseline.tolerance_percent {
            "  less: --update keeps the gain"
        } else {
            ""
        };
        table.push_str(&format!("{name:<24}{before:>12}{now:>12}{percent:>+8.1}%{verdict}\n"));
    }
    for name in baseline.counts.keys().filter(|name| !counts.contains_key(*name)) {
        failures.push(format!("{name} is in the baseline and is no case of `hot`"));
    }
    (table, failures)
}

fn read(path: &Path) -> Result<Baseline> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Baseline> {
    let table: toml::Table = text.parse()?;
    let tolerance =
        table.get("tolerance_percent").and_then(|value| value.as_float().or(value.as_integer().map(|n| n as f64)));
    let processor = table.get("processor").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let mut counts = BTreeMap::new();
    for (name, value) in table.get("calls").and_then(toml::Value::as_table).into_iter().flatten() {
        let count = value.as_integer().and_then(|count| u64::try_from(count).ok());
        counts.insert(name.clone(), count.with_context(|| format!("{name} has no count"))?);
    }
    Ok(Baseline { tolerance_percent: tolerance.unwrap_or(TOLERANCE_PERCENT), processor, counts })
}

fn write(baseline: &Baseline) -> String {
    let Baseline { tolerance_percent, processor, counts } = baseline;
    let mut out = format!("{HEAD}tolerance_percent = {tolerance_percent:.1}\nprocessor = \"{processor}\"\n\n[calls]\n");
    for (name, count) in counts {
        out.push_str(&format!("{name} = {count}\n"));
    }
    out
}

/// Builds `hot` as the tests build it (the release without link-time optimisation), and says where it is.
fn build(top: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--profile", PROFILE, "--locked", "--package", "postrail-bench", "--bin", "hot"])
        .current_dir(top)
        .status()
        .context("cannot run cargo")?;
    if !built.success() {
        bail!("the bench's `hot` does not build");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top.join("target"), PathBuf::from);
    Ok(top.join(target).join(PROFILE).join("hot"))
}

fn cases(hot: &Path) -> Result<Vec<Case>> {
    let listed = Command::new(hot).arg("--list").output().with_context(|| format!("cannot run {}", hot.display()))?;
    let text = String::from_utf8(listed.stdout)?;
    text.lines().map(|line| case(line).with_context(|| format!("not a case: {line:?}"))).collect()
}

fn case(line: &str) -> Option<Case> {
    let mut words = line.split_ascii_whitespace();
    let (name, calls, minus) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let minus = (minus != "-").then(|| minus.to_owned());
    (calls > 0).then(|| Case { name: name.to_owned(), calls, minus })
}

/// The instructions of one run.
fn count(hot: &Path, name: &str, calls: u64) -> Result<u64> {
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(hot)
        .args([name, &calls.to_string()])
        .output()
        .context("cannot run valgrind: install the package of that name")?;
    let text = String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() {
        bail!("{name} failed under valgrind: {text}");
    }
    collected(&text).with_context(|| format!("callgrind told no count: {text}"))
}

/// The number behind `Collected :`.
fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.split_ascii_whitespace().next()?.parse().ok()
}

/// The target, and what the vectorised searches look for in a processor.
fn processor() -> String {
    let facts = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = facts.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |name: &str| flags.split_ascii_whitespace().any(|flag| flag == name);
    let kinds = ["avx2", "sse4_2"].into_iter().filter(|name| has(name));
    std::iter::once(std::env::consts::ARCH).chain(kinds).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(text: &str) -> Baseline {
        parse(text).expect("reads")
    }

    fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn a_call_that_takes_more_than_the_tolerance_fails() {
        let baseline = baseline("tolerance_percent = 5\n[calls]\na = 1000\nb = 1000\n");
        let (_, failures) = compare(&baseline, &counts(&[("a", 1_050), ("b", 1_051)]));
        assert_eq!(failures, ["b takes 5.1% more instructions"]);
    }

    #[test]
    fn a_gain_passes_and_is_said() {
        let (table, failures) = compare(&baseline("[calls]\na = 1000\n"), &counts(&[("a", 800)]));
        assert!(failures.is_empty() && table.contains("--update keeps the gain"), "{table}");
    }

    #[test]
    fn both_sides_know_the_same_cases() {
        let (_, failures) = compare(&baseline("[calls]\nold = 1\n"), &counts(&[("new", 1)]));
        assert_eq!(failures.len(), 2, "{failures:?}");
    }

    #[test]
    fn a_part_is_taken_off_and_left_out() {
        let cases = ["dkim 100 sha", "sha 100 -", "scan 10 -"].map(|line| case(line).expect("a case"));
        let counts = without_parts(&cases, &counts(&[("dkim", 900), ("sha", 700), ("scan", 5)]));
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("dkim".to_owned(), 200), ("scan".to_owned(), 5)]);
    }

    #[test]
    fn the_baseline_reads_back_as_it_is_written() {
        let written =
            write(&baseline("tolerance_percent = 3\nprocessor = \"x86_64 avx2\"\n[calls]\nb = 2\na-10k = 1\n"));
        let back = baseline(&written);
        assert_eq!((back.tolerance_percent, back.processor.as_str()), (3.0, "x86_64 avx2"));
        assert_eq!(back.counts, counts(&[("a-10k", 1), ("b", 2)]));
    }

    #[test]
    fn callgrinds_count_is_found() {
        assert_eq!(collected("==7== Events    : Ir\n==7== Collected : 123456\n"), Some(123_456));
        assert_eq!(collected("==7== bad\n"), None);
        assert_eq!(case("a 0 -"), None);
    }
}
