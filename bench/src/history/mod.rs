//! `postrail-bench history`: results that were kept, over time.
//!
//! A history is a file of JSON lines for each plan in `bench/history`, committed with the code: each line is one result
//! with its commit and machine, and the machine's limits where they were measured. Invariants worth naming: a line is
//! only ever added; figures of different machines stand in one table and are not joined by a line in a plot.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

mod record;

use record::{History, Record};

use crate::compare;
use crate::machine;
use crate::page::plot::{Line, Plot};
use crate::page::scale::Scale;
use crate::page::text::{count, escaped, number, number_or_dash, put};
use crate::page::{close, open};

/// Show the kept results, or keep one more
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Keep this result of `run --json`
    #[arg(long, value_name = "FILE")]
    add: Option<PathBuf>,
    /// The machine's limits of `limit --json`, to be kept with it
    #[arg(long, value_name = "FILE", requires = "add")]
    limits: Option<PathBuf>,
    /// Where the histories lie
    #[arg(long, default_value = "bench/history", value_name = "DIR")]
    folder: PathBuf,
    /// Only this plan
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// Write plots as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Adds, prints, or writes the page.
///
/// # Errors
/// A file that is no result, no limits or no history; a page that cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(path) = &args.add {
        let limits = match &args.limits {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                let limits = serde_json::from_str(&text);
                Some(limits.with_context(|| format!("{} is not of `limit --json`", path.display()))?)
            }
            None => None,
        };
        let record = Record::new(compare::read(path)?, limits)?;
        println!("kept in {}", record::append(&args.folder, &record)?.display());
        return Ok(ExitCode::SUCCESS);
    }
    let mut histories = record::read(&args.folder)?;
    histories.retain(|history| args.plan.as_ref().is_none_or(|plan| *plan == history.plan));
    match &args.html {
        Some(path) => {
            std::fs::write(path, page(&histories)).with_context(|| format!("cannot write {}", path.display()))?;
        }
        None => print!("{}", table(&histories)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a row of either table says.
fn cells(record: &Record) -> [String; 9] {
    let result = &record.result;
    let day = result.started_at.get(..10).unwrap_or("–").to_owned();
    let commit = result.commit.chars().take(10).collect();
    let wrong = result.lost + result.duplicated + result.misdelivered;
    [
        day,
        commit,
        format!("{} CPUs", result.machine.cpus),
        number(result.rate_per_s),
        number_or_dash(result.cpu_us_per_mail),
        number(result.ack_ms.p99),
        number(result.delivery_ms.p99),
        count(wrong),
        number_or_dash(record.limit("relay-glommio")),
    ]
}

const TITLES: [&str; 9] =
    ["day", "commit", "machine", "1/s", "CPU µs", "ack p99", "delivery p99", "wrong", "null relay µs"];

fn table(histories: &[History]) -> String {
    let row = |cells: &[String; 9]| {
        let [day, commit, machine, rest @ ..] = cells;
        let rest: String = rest.iter().map(|cell| format!("{cell:>14}")).collect();
        format!("{day:<12}{commit:<12}{machine:<10}{rest}\n")
    };
    let mut out = String::new();
    for history in histories {
        out.push_str(&format!("{}\n", history.plan));
        out.push_str(&row(&TITLES.map(str::to_owned)));
        for record in &history.records {
            out.push_str(&row(&cells(record)));
        }
        out.push('\n');
    }
    if histories.is_empty() {
        out.push_str("Nothing is kept yet: postrail-bench history --add RESULT.json\n");
    }
    out
}

/// One page of all histories.
fn page(histories: &[History]) -> String {
    let mut out = String::with_capacity(64 * 1024);
    open(&mut out, "History");
    out.push_str(
        "<header><h1>History</h1><p>Each point is one kept result; machines that differ have lines of their own.",
    );
    out.push_str("</p></header>\n");
    for history in histories {
        put(
            &mut out,
            format_args!("<header><h1>{}</h1></header>\n<section class=\"plots\">\n", escaped(&history.plan)),
        );
        plot(
            history,
            "CPU a mail",
            "microseconds, user and system, all processes",
            |r| r.result.cpu_us_per_mail,
            &mut out,
        );
        plot(history, "Rate", "mails a second", |record| Some(record.result.rate_per_s), &mut out);
        plot(history, "Acknowledged, p99", "milliseconds", |record| Some(record.result.ack_ms.p99), &mut out);
        plot(history, "Delivered, p99", "milliseconds", |record| Some(record.result.delivery_ms.p99), &mut out);
        out.push_str(
            "</section>\n<section class=\"tables\"><div class=\"card wide\"><div class=\"scroll\"><table><tr>",
        );
        for title in std::iter::once("run").chain(TITLES) {
            put(&mut out, format_args!("<th>{title}</th>"));
        }
        out.push_str("</tr>");
        for (index, record) in (1..).zip(&history.records) {
            put(&mut out, format_args!("<tr><td>{index}</td>"));
            for cell in cells(record) {
                put(&mut out, format_args!("<td>{}</td>", escaped(&cell)));
            }
            out.push_str("</tr>");
        }
        out.push_str("</table></div></div></section>\n");
    }
    close(&mut out);
    out
}

/// One figure over the runs of a plan, a line for each machine.
fn plot(history: &History, title: &str, about: &str, pick: fn(&Record) -> Option<f64>, out: &mut String) {
    let mut machines: Vec<String> = Vec::new();
    let mut points: Vec<Vec<(f64, f64)>> = Vec::new();
    for (run, record) in (1_u32..).zip(&history.records) {
        let Some(value) = pick(record) else { continue };
        let name = machine::line(&record.result.machine);
        let at = machines.iter().position(|other| *other == name).unwrap_or_else(|| {
            machines.push(name);
            points.push(Vec::new());
            machines.len() - 1
        });
        points[at].push((f64::from(run), value));
    }
    let lines = machines.iter().zip(points).enumerate().map(|(colour, (name, points))| {
        let note = points.last().map(|(_, value)| format!("last {}", number(*value))).unwrap_or_default();
        Line { name, note, colour, points, dashed: false, filled: false }
    });
    let lines: Vec<_> = lines.collect();
    let x = Scale::runs(history.records.len());
    let y = Scale::linear(lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value));
    Plot { title, about, wide: false, x, y, lines, x_end: None }.render(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Machine, RunResult};

    fn history() -> History {
        let record = |cpus, cpu| Record {
            result: RunResult {
                plan: "w10".into(),
                commit: "0123456789abcdef<".into(),
                started_at: "2026-11-23T10:00:00Z".into(),
                machine: Machine { cpus, cpu_model: "<cpu>".into(), ..Machine::default() },
                cpu_us_per_mail: Some(cpu),
                ..RunResult::default()
            },
            limits: Vec::new(),
        };
        History { plan: "w10".into(), records: vec![record(2, 200.0), record(2, 100.0), record(64, 90.0)] }
    }

    #[test]
    fn the_table_has_a_row_a_result() {
        let text = table(&[history()]);
        assert_eq!(text.lines().filter(|line| line.starts_with("2026-11-23  0123456789  ")).count(), 3, "{text}");
        assert!(table(&[]).contains("Nothing is kept yet"));
    }

    #[test]
    fn machines_have_lines_of_their_own_and_texts_are_escaped() {
        let page = page(&[history()]);
        assert!(page.contains("&lt;cpu&gt;") && !page.contains("<cpu>"));
        assert_eq!(page.matches(">last 100<").count(), 1);
        assert!(page.contains("last 90.0<"));
    }
}
