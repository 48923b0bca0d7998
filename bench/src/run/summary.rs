//! A result as a table for people.

use std::fmt::Write;

use crate::machine;
use crate::result::{Latency, RunResult, WaitingResult};

/// The table of `result`.
pub fn table(result: &RunResult) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {name:<34}{value:>14}");
    };
    for (name, count) in [
        ("accepted", result.accepted),
        ("delivered", result.delivered),
        ("lost", result.lost),
        ("duplicated", result.duplicated),
    ] {
        row(name, count.to_string());
    }
    for (name, count) in [
        ("refused", result.refused),
        ("without an answer", result.doubtful),
        ("rejected by receivers", result.rejected),
        ("deferred by receivers", result.deferred),
        ("misdelivered", result.misdelivered),
        ("reports to senders", result.reports),
    ] {
        if count > 0 {
            row(name, count.to_string());
        }
    }
    row("seconds", format!("{:.2}", result.seconds));
    row("recipients a second", format!("{:.0}", result.rate_per_s));
    let figures = [
        ("server CPU a mail, µs", result.cpu_us_per_mail),
        ("  user", result.cpu_user_us_per_mail),
        ("  system", result.cpu_system_us_per_mail),
        ("bench CPU a mail, µs", result.bench_cpu_us_per_mail),
        ("context switches a mail", result.context_switches_per_mail),
        ("octets written a mail", result.bytes_written_per_mail),
        ("peak memory, MiB", result.peak_rss_mb),
        ("highest rate found", result.highest_rate_per_s),
        ("planned rate", result.planned_rate_per_s),
    ];
    for (name, figure) in figures {
        if let Some(figure) = figure {
            row(name, format!("{figure:.1}"));
        }
    }
    row("latency, ms: p50 / p99 / max", String::new());
    row("  acknowledged", latency(&result.ack_ms));
    row("  acknowledged to first attempt", latency(&result.first_attempt_ms));
    row("  delivered", latency(&result.delivery_ms));
    for (name, tenant) in &result.tenants {
        row(&format!("tenant {name}: recipients a second"), format!("{:.0}", tenant.rate_per_s));
        row("  acknowledged", latency(&tenant.ack_ms));
        row("  delivered", latency(&tenant.delivery_ms));
        for (what, alone) in
            [("  acknowledged, alone", tenant.alone_ack_ms), ("  delivered, alone", tenant.alone_delivery_ms)]
        {
            if let Some(alone) = alone {
                row(what, latency(&alone));
            }
        }
    }
    if let Some(waiting) = &result.waiting {
        waiting_rows(waiting, &mut row);
    }
    let RunResult { plan, target, commit, .. } = result;
    let interrupted = if result.interrupted { " (interrupted)" } else { "" };
    format!("\n{plan} at {target}, commit {commit}{interrupted}\n{}\n\n{text}", machine::line(&result.machine))
}

/// What an idle plan found.
fn waiting_rows(waiting: &WaitingResult, row: &mut impl FnMut(&str, String)) {
    row("waiting recipients", waiting.recipients.to_string());
    row("  memory before, empty, MiB", format!("{:.1}", waiting.empty_rss_mb));
    row("  memory before the kill, MiB", format!("{:.1}", waiting.waiting_rss_mb));
    row("  memory after the start, MiB", format!("{:.1}", waiting.recovered_rss_mb));
    row("  octets of each beyond 64 MiB", format!("{:.0}", waiting.bytes_per_waiting_mail));
    row("  first accepted after, s", format!("{:.2}", waiting.first_accepted_s));
    row("  first delivery after, s", format!("{:.2}", waiting.first_delivery_s));
    row("  all back after, s", format!("{:.2}", waiting.recovered_s));
}

fn latency(latency: &Latency) -> String {
    format!("{:.2} / {:.2} / {:.1}", latency.p50, latency.p99, latency.max)
}

/// The name of a commit from what git says: `-dirty` where files differ from it.
pub(super) fn commit_of(head: Option<&str>, changes: Option<&str>) -> String {
    let Some(head) = head.map(str::trim).filter(|head| !head.is_empty()) else { return "unknown".into() };
    if changes.is_some_and(|changes| !changes.trim().is_empty()) { format!("{head}-dirty") } else { head.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::WaitingResult;

    #[test]
    fn a_table_shows_what_was_measured_and_no_more() {
        let mut result = RunResult { plan: "w10".into(), accepted: 7, ..RunResult::default() };
        let text = table(&result);
        assert!(text.contains("accepted") && !text.contains("server CPU") && !text.contains("refused"), "{text}");
        result.cpu_us_per_mail = Some(100.25);
        result.waiting = Some(WaitingResult { recipients: 9, ..WaitingResult::default() });
        let text = table(&result);
        assert!(text.contains("server CPU") && text.contains("waiting recipients"), "{text}");
    }

    #[test]
    fn a_commit_is_named_with_its_state() {
        assert_eq!(commit_of(Some("abc\n"), Some("")), "abc");
        assert_eq!(commit_of(Some("abc\n"), Some(" M x\n")), "abc-dirty");
        assert_eq!(commit_of(None, None), "unknown");
    }
}
