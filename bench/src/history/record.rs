//! One kept result: a line of JSON, small enough to lie in the repository.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::limit::{Limit, Limits};
use crate::result::{Curves, RunResult};

/// A result without its stretches and curves, and what the machine could do at best.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) result: RunResult,
    #[serde(default)]
    pub(super) limits: Vec<Limit>,
}

impl Record {
    pub(super) fn new(result: RunResult, limits: Option<Limits>) -> Result<Self> {
        let limits = match limits {
            Some(limits) if limits.machine != result.machine => {
                bail!("the limits are of another machine than the result: run `limit --json` on the same one")
            }
            Some(limits) => limits.limits,
            None => Vec::new(),
        };
        Ok(Self { result: RunResult { series: Vec::new(), curves: Curves::default(), ..result }, limits })
    }

    pub(super) fn limit(&self, name: &str) -> Option<f64> {
        self.limits.iter().find(|limit| limit.name == name).map(|limit| limit.cpu_us)
    }
}

/// The records of one plan, in the order in which they were kept.
pub(super) struct History {
    pub(super) plan: String,
    pub(super) records: Vec<Record>,
}

/// Appends `record` to its plan's file below `folder`, and says which.
pub(super) fn append(folder: &Path, record: &Record) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(file_name(&record.result.plan)?);
    let line = serde_json::to_string(record)? + "\n";
    let file = fs::OpenOptions::new().append(true).create(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("cannot append to {}", path.display()))?;
    Ok(path)
}

/// Every history below `folder`, by the plan's name.
pub(super) fn read(folder: &Path) -> Result<Vec<History>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    let mut histories = Vec::with_capacity(paths.len());
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let records = parse(&text).with_context(|| path.display().to_string())?;
        let plan = records.last().map(|record| record.result.plan.clone()).unwrap_or_default();
        histories.push(History { plan, records });
    }
    histories.retain(|history| !history.records.is_empty());
    Ok(histories)
}

fn parse(text: &str) -> Result<Vec<Record>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(number, line)| serde_json::from_str(line).with_context(|| format!("line {number}"))).collect()
}

/// A plan's name as a file's: no path gets in by it.
fn file_name(plan: &str) -> Result<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if plan.is_empty() || plan.len() > PLAN_NAME_BYTES_MAX || !plan.chars().all(is_plain) {
        bail!("a plan called {plan:?} cannot have a file: its name may have letters, digits, - and _ only");
    }
    Ok(format!("{plan}.jsonl"))
}

/// A plan's name where it names a file, octets.
const PLAN_NAME_BYTES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Machine, SeriesPoint};

    fn result(rate_per_s: f64) -> RunResult {
        let series = vec![SeriesPoint::default(); 600];
        RunResult { plan: "w10".into(), rate_per_s, series, ..RunResult::default() }
    }

    #[test]
    fn records_are_appended_and_read_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        for rate in [1.0, 2.0] {
            let record = Record::new(result(rate), None).expect("a record");
            let path = append(folder.path(), &record).expect("appends");
            assert!(path.ends_with("w10.jsonl"));
        }
        let histories = read(folder.path()).expect("reads");
        let rates: Vec<_> = histories[0].records.iter().map(|record| record.result.rate_per_s).collect();
        assert_eq!((histories[0].plan.as_str(), rates.as_slice()), ("w10", [1.0, 2.0].as_slice()));
    }

    #[test]
    fn a_line_is_small() {
        let record = Record::new(result(1.0), None).expect("a record");
        assert!(serde_json::to_string(&record).expect("serialises").len() < 4_096);
    }

    #[test]
    fn a_plans_name_leads_nowhere_else() {
        for name in ["", "../w10", "a/b", "w10.json", "w 10"] {
            assert!(file_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn limits_of_another_machine_are_refused() {
        let limits = Limits { machine: Machine { cpus: 64, ..Machine::default() }, limits: Vec::new() };
        assert!(Record::new(result(1.0), Some(limits)).is_err());
    }

    #[test]
    fn a_line_that_is_no_record_is_told_by_its_number() {
        let error = parse("\n{\"result\": 3}\n").expect_err("no record");
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }
}
