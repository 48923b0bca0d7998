//! What servers came to beside each other: one table for people, one JSON line a round for programs.
//!
//! Invariants worth naming: a figure of several rounds is their median, with the least and the most of them in brackets, and losses and duplicates are their sum; a ratio
//! is to Postrail in the same run, and absent without it; a server that was not measured has a row that says why.

use std::fmt::Write as _;

use serde::Serialize;

use super::server::Server;
use crate::machine;
use crate::result::RunResult;

/// What one server came to, over all rounds.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) server: Server,
    pub(super) version: String,
    pub(super) rounds: Vec<RunResult>,
    /// Why there are no more rounds.
    pub(super) fault: Option<Fault>,
}

/// Why a server was not measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    NotInstalled,
    Failed(String),
}

/// One line of the JSON file.
#[derive(Serialize)]
struct Line<'a> {
    server: &'a str,
    version: &'a str,
    round: usize,
    durable_before_250: Option<bool>,
    durable_how: &'a str,
    setup: &'a str,
    /// Of this round's figure to the median of Postrail's.
    cpu_ratio: Option<f64>,
    rate_ratio: Option<f64>,
    result: &'a RunResult,
}

impl Entry {
    pub(super) fn new(server: Server) -> Self {
        Self { server, version: String::new(), rounds: Vec::new(), fault: None }
    }

    fn cpus(&self) -> Vec<f64> {
        self.rounds.iter().filter_map(|round| round.cpu_us_per_mail).collect()
    }

    fn rates(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.rate_per_s).collect()
    }

    fn cpu(&self) -> Option<f64> {
        median(self.cpus())
    }

    fn rate(&self) -> Option<f64> {
        median(self.rates())
    }

    /// Whether nothing was lost or delivered twice, as far as it was measured.
    pub(super) fn is_exact(&self) -> bool {
        self.rounds.iter().all(RunResult::is_exact)
    }
}

/// The table of `entries`.
pub(super) fn table(entries: &[Entry]) -> String {
    let Some(first) = entries.iter().find_map(|entry| entry.rounds.first()) else {
        return format!("\nnothing was measured\n{}", notes(entries));
    };
    let most = entries.iter().map(|entry| entry.rounds.len()).max().unwrap_or(0);
    let of = if most == 1 { String::new() } else { format!(", medians of {most} rounds (least-most)") };
    let mut text = format!(
        "\n{}, in turn on one machine{of}, commit {}\n{}\n\n",
        first.plan,
        first.commit,
        machine::line(&first.machine)
    );
    let head =
        ["", "CPU µs a mail", "user", "system", "mails/s", "CPU ratio", "rate ratio", "durable", "lost", "twice"];
    let rows: Vec<[String; 10]> = std::iter::once(head.map(str::to_owned)).chain(rows(entries)).collect();
    for row in &rows {
        for (index, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
            // Writing to a String does not fail.
            let _ = if index == 0 { write!(text, "  {cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
    }
    text + &notes(entries)
}

fn rows(entries: &[Entry]) -> impl Iterator<Item = [String; 10]> + '_ {
    let (cpu, rate) = base(entries);
    let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    let ratio = move |value: Option<f64>, base: Option<f64>| match (value, base) {
        (Some(value), Some(base)) if base > 0.0 => format!("{:.2}", value / base),
        _ => "-".into(),
    };
    entries.iter().filter(|entry| !entry.rounds.is_empty()).map(move |entry| {
        let sum = |of: fn(&RunResult) -> u64| entry.rounds.iter().map(of).sum::<u64>().to_string();
        let part = |of: fn(&RunResult) -> Option<f64>| median(entry.rounds.iter().filter_map(of).collect());
        [
            entry.server.name().into(),
            spread(entry.cpus(), 1),
            number(part(|round| round.cpu_user_us_per_mail), 1),
            number(part(|round| round.cpu_system_us_per_mail), 1),
            spread(entry.rates(), 0),
            ratio(entry.cpu(), cpu),
            ratio(entry.rate(), rate),
            durable_word(entry.server).into(),
            sum(|round| round.lost),
            sum(|round| round.duplicated),
        ]
    })
}

/// The median of `values`, and where there are several, the least and the most of them.
fn spread(values: Vec<f64>, digits: usize) -> String {
    let (least, most) =
        values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
    let several = values.len() > 1;
    match median(values) {
        Some(middle) if several => format!("{middle:.digits$} ({least:.digits$}-{most:.digits$})"),
        Some(middle) => format!("{middle:.digits$}"),
        None => "-".into(),
    }
}

fn durable_word(server: Server) -> &'static str {
    match server.durability().0 {
        Some(true) => "yes",
        Some(false) => "no",
        None => "untold",
    }
}

/// What each is and promises, and why some have no figures.
fn notes(entries: &[Entry]) -> String {
    let mut text =
        "\nCPU: of all the server's processes, user and system. Ratios: to postrail. Durable: before the 250.\n"
            .to_owned();
    for entry in entries {
        let name = entry.server.name();
        let _ = match &entry.fault {
            Some(Fault::NotInstalled) => writeln!(text, "{name}: not installed (ops/bench-peers installs it)"),
            Some(Fault::Failed(why)) => writeln!(text, "{name}: not measured: {why}"),
            None => Ok(()),
        };
        if entry.rounds.is_empty() {
            continue;
        }
        let (how, setup) = (entry.server.durability().1, entry.server.setup());
        let _ = writeln!(text, "{name}: {}\n  durable: {how}\n  set up: {setup}", entry.version);
        let each: Vec<_> = entry.rounds.iter().flat_map(|round| &round.processes).collect();
        if each.len() > entry.rounds.len() {
            let parts = each
                .iter()
                .map(|one| format!("{} {:.1}", one.name, one.cpu_user_us_per_mail + one.cpu_system_us_per_mail));
            let _ = writeln!(text, "  CPU µs a mail of each, by round: {}", parts.collect::<Vec<_>>().join(", "));
        }
    }
    text
}

/// The JSON lines of `entries`.
///
/// # Errors
/// There is none that figures can cause.
pub(super) fn json_lines(entries: &[Entry]) -> serde_json::Result<String> {
    let (cpu, rate) = base(entries);
    let mut text = String::new();
    for entry in entries {
        let (durable_before_250, durable_how) = entry.server.durability();
        for (index, result) in entry.rounds.iter().enumerate() {
            let line = Line {
                server: entry.server.name(),
                version: &entry.version,
                round: index + 1,
                durable_before_250,
                durable_how,
                setup: entry.server.setup(),
                cpu_ratio: result.cpu_us_per_mail.zip(cpu).map(|(value, base)| value / base),
                rate_ratio: rate.map(|base| result.rate_per_s / base),
                result,
            };
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
        }
    }
    Ok(text)
}

/// Postrail's CPU a mail and rate, where they were measured.
fn base(entries: &[Entry]) -> (Option<f64>, Option<f64>) {
    let entry = entries.iter().find(|entry| entry.server == Server::Postrail);
    let above_zero = |value: &f64| *value > 0.0;
    (entry.and_then(Entry::cpu).filter(above_zero), entry.and_then(Entry::rate).filter(above_zero))
}

/// The middle value, of an even number the lower one of the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(server: Server, figures: &[(f64, f64)]) -> Entry {
        let round = |(cpu, rate): &(f64, f64)| RunResult {
            plan: "w10".into(),
            cpu_us_per_mail: Some(*cpu),
            rate_per_s: *rate,
            lost: 1,
            ..RunResult::default()
        };
        Entry { version: "1.0".into(), rounds: figures.iter().map(round).collect(), ..Entry::new(server) }
    }

    #[test]
    fn ratios_are_of_medians_to_postrail() {
        let entries = [
            entry(Server::Postrail, &[(100.0, 4_000.0), (90.0, 5_000.0), (110.0, 3_000.0)]),
            entry(Server::Postfix, &[(2_000.0, 400.0), (1_800.0, 500.0), (2_500.0, 300.0)]),
        ];
        let text = table(&entries);
        let row = text.lines().find(|line| line.trim_start().starts_with("postfix")).expect("a row");
        let cells: Vec<_> = row.split_whitespace().collect();
        let expected =
            ["postfix", "2000.0", "(1800.0-2500.0)", "-", "-", "400", "(300-500)", "20.00", "0.10", "yes", "3", "0"];
        assert_eq!(cells, expected, "{text}");
        assert!(text.contains("medians of 3 rounds"), "{text}");
        let lines = json_lines(&entries).expect("figures");
        let line: serde_json::Value = serde_json::from_str(lines.lines().nth(3).expect("six lines")).expect("JSON");
        assert_eq!((line["server"].as_str(), line["round"].as_u64()), (Some("postfix"), Some(1)));
        assert_eq!((line["cpu_ratio"].as_f64(), line["durable_before_250"].as_bool()), (Some(20.0), Some(true)));
        assert_eq!(lines.lines().count(), 6);
    }

    #[test]
    fn what_was_not_measured_says_why() {
        let mut absent = Entry::new(Server::Exim);
        absent.fault = Some(Fault::NotInstalled);
        let mut failed = Entry::new(Server::Haraka);
        failed.fault = Some(Fault::Failed("it ended".into()));
        let text = table(&[entry(Server::Postfix, &[(2_000.0, 400.0)]), absent, failed]);
        assert!(text.contains("exim: not installed") && text.contains("haraka: not measured: it ended"), "{text}");
        assert!(text.lines().any(|line| line.contains("postfix") && line.contains(" - ")), "no ratio alone: {text}");
    }

    #[test]
    fn the_middle_of_nothing_is_nothing() {
        assert_eq!(median(Vec::new()), None);
        assert_eq!(median(vec![3.0, 1.0]), Some(1.0));
    }
}
