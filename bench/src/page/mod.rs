//! One run as one HTML page: headline figures first, then plots, then every figure. No script, no network.
//!
//! Invariants worth naming: every text that came from a file is escaped; a figure that was not measured is a dash, not
//! a zero; the page is light or dark as its reader prefers. Deliberately absent: any judgement but "exact or not":
//! contracts are `sla`'s, comparisons `compare`'s.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::machine;
use crate::result::{CurvePoint, Latency, RunResult, SeriesPoint, TenantResult, WaitingResult};

pub(crate) mod plot;
pub(crate) mod scale;
pub(crate) mod text;

use plot::{Bar, Line, Plot};
use scale::Scale;
use text::{an_hour, count, escaped, number, number_or_dash, octets, put};

const STYLE: &str = include_str!("style.css");

/// Make the page of a result that was kept as JSON
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// A result of `run --json`
    #[arg(value_name = "RESULT.json")]
    result: PathBuf,
    /// Where the page goes
    #[arg(value_name = "PAGE.html")]
    html: PathBuf,
}

/// Writes the page of a result.
///
/// # Errors
/// A file that is no result, or a page that cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let page = render(&crate::compare::read(&args.result)?);
    std::fs::write(&args.html, page).with_context(|| format!("cannot write {}", args.html.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The page of `result`.
pub fn render(result: &RunResult) -> String {
    let mut out = String::with_capacity(64 * 1024);
    let title = if result.plan.is_empty() { "a run" } else { &result.plan };
    open(&mut out, title);
    header(result, title, &mut out);
    headlines(result, &mut out);
    out.push_str("<section class=\"plots\">\n");
    rates(result, &mut out);
    latencies(result, &mut out);
    curves(result, &mut out);
    // Two columns of about the same height.
    out.push_str("</section>\n<section class=\"tables\">\n<div class=\"column\">\n");
    processes(result, &mut out);
    account(result, &mut out);
    out.push_str("</div>\n<div class=\"column\">\n");
    latency_table(result, &mut out);
    resources(result, &mut out);
    out.push_str("</div>\n");
    if !result.tenants.is_empty() {
        tenants(result, &mut out);
    }
    if let Some(waiting) = &result.waiting {
        waiting_table(waiting, &mut out);
    }
    everything(result, &mut out);
    out.push_str("</section>\n");
    close(&mut out);
    out
}

/// Begins a page.
pub(crate) fn open(out: &mut String, title: &str) {
    let title = escaped(title);
    put(
        out,
        format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title} · postrail-bench</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        ),
    );
}

/// Ends a page.
pub(crate) fn close(out: &mut String) {
    out.push_str(
        "<footer>Made by postrail-bench. Latency counts from the planned time of a mail, so that a slow server cannot \
         hide behind a waiting load generator.</footer>\n</main>\n</body>\n</html>\n",
    );
}

fn header(result: &RunResult, title: &str, out: &mut String) {
    put(out, format_args!("<header><h1>{}</h1>", escaped(title)));
    if result.is_exact() {
        out.push_str("<span class=\"pill good\">nothing lost or duplicated</span>");
    } else {
        let (lost, duplicated) = (count(result.lost), count(result.duplicated));
        let wrong = if result.misdelivered > 0 { format!(", {} misdelivered", result.misdelivered) } else { "".into() };
        put(out, format_args!("<span class=\"pill bad\">{lost} lost, {duplicated} duplicated{wrong}</span>"));
    }
    if result.interrupted {
        out.push_str("<span class=\"pill warn\">interrupted: part of the plan</span>");
    }
    // A version that begins with the name says it once.
    let version = result.server_version.as_str();
    let target =
        if version.starts_with(&result.target) { version.to_owned() } else { format!("{} {version}", result.target) };
    let commit = format!("commit {}", result.commit);
    let facts = [target.trim(), &commit, &result.started_at, &machine::line(&result.machine)];
    let facts: Vec<_> = facts.iter().filter(|fact| !fact.is_empty()).map(|fact| escaped(fact)).collect();
    put(out, format_args!("<p>{}</p></header>\n", facts.join(" · ")));
}

/// One headline figure: name, value, unit, what else is to say.
fn headline(out: &mut String, name: &str, value: &str, unit: &str, more: &str) {
    let (value, unit, more) = (escaped(value), escaped(unit), escaped(more));
    put(
        out,
        format_args!(
            "<div class=\"card head\"><div class=\"name\">{name}</div><div class=\"value\">{value}<small>{unit}</small>\
             </div><div class=\"more\">{more}</div></div>\n"
        ),
    );
}

fn headlines(result: &RunResult, out: &mut String) {
    out.push_str("<section class=\"heads\">\n");
    headline(out, "Rate", &number(result.rate_per_s), "mails/s", &an_hour(result.rate_per_s));
    let split = match (result.cpu_user_us_per_mail, result.cpu_system_us_per_mail) {
        (Some(user), Some(system)) => format!("{} user, {} system", number(user), number(system)),
        _ => "user and system, all processes".into(),
    };
    headline(out, "Server CPU a mail", &number_or_dash(result.cpu_us_per_mail), "µs", &split);
    let p50 = |latency: &Latency| format!("p50 {} ms", number(latency.p50));
    headline(out, "Acknowledged, p99", &number(result.ack_ms.p99), "ms", &p50(&result.ack_ms));
    headline(out, "Delivered, p99", &number(result.delivery_ms.p99), "ms", &p50(&result.delivery_ms));
    let seconds = format!("in {} s", number(result.seconds));
    let delivered = match result.delivered {
        mails if mails >= 10_000_000 => format!("{:.2} million", mails as f64 / 1e6),
        mails => count(mails),
    };
    headline(out, "Delivered", &delivered, "", &seconds);
    let written =
        result.bytes_written_per_mail.map_or_else(String::new, |bytes| format!("{} a mail written", octets(bytes)));
    headline(out, "Peak memory", &number_or_dash(result.peak_rss_mb), "MiB", &written);
    out.push_str("</section>\n");
}

/// A line of the run's stretches.
fn over_time<'a>(
    series: &[SeriesPoint],
    name: &'a str,
    note: String,
    colour: usize,
    pick: fn(&SeriesPoint) -> f64,
) -> Line<'a> {
    let points = series.iter().map(|point| (point.at_s, pick(point))).collect();
    Line { name, note, colour, points, dashed: false, filled: false }
}

fn rates(result: &RunResult, out: &mut String) {
    let series = &result.series;
    let middle =
        |pick: fn(&SeriesPoint) -> f64| format!("median {}", number(median(series.iter().map(pick).collect())));
    let mut lines = vec![
        Line {
            filled: true,
            ..over_time(series, "delivered", middle(|p| p.delivered_per_s), 0, |p| p.delivered_per_s)
        },
        over_time(series, "acknowledged", middle(|p| p.accepted_per_s), 1, |p| p.accepted_per_s),
    ];
    if let (Some(planned), Some(first), Some(last)) = (result.planned_rate_per_s, series.first(), series.last()) {
        let points = vec![(first.at_s, planned), (last.at_s, planned)];
        let note = number(planned);
        lines.push(Line { name: "planned", note, colour: 4, points, dashed: true, filled: false });
    }
    let x = Scale::seconds(series.iter().map(|point| point.at_s));
    let y = Scale::linear(lines.iter().flat_map(|line| &line.points).map(|(_, rate)| *rate));
    let (title, about) = ("Rate over time", "mails a second");
    Plot { title, about, wide: false, x, y, lines, x_end: None }.render(out);
}

fn latencies(result: &RunResult, out: &mut String) {
    let series = &result.series;
    let lines = vec![
        over_time(series, "delivered", String::new(), 0, |point| point.delivery_p99_ms),
        over_time(series, "acknowledged", String::new(), 1, |point| point.ack_p99_ms),
    ];
    let x = Scale::seconds(series.iter().map(|point| point.at_s));
    let y = Scale::log(lines.iter().flat_map(|line| &line.points).map(|(_, ms)| *ms));
    let (title, about) = ("Latency over time, p99", "milliseconds since the planned time, of the mails planned then");
    Plot { title, about, wide: false, x, y, lines, x_end: None }.render(out);
}

fn curves(result: &RunResult, out: &mut String) {
    let line = |name, colour, points: &[CurvePoint], latency: &Latency| Line {
        name,
        note: format!("p50 {} · p99 {} · max {} ms", number(latency.p50), number(latency.p99), number(latency.max)),
        colour,
        points: points.iter().map(|point| (point.percentile, point.ms)).collect(),
        dashed: false,
        filled: false,
    };
    let lines = vec![
        line("submission to delivery", 0, &result.curves.delivery, &result.delivery_ms),
        line("submission to acknowledgement", 1, &result.curves.ack, &result.ack_ms),
        line("acknowledgement to first attempt", 2, &result.curves.first_attempt, &result.first_attempt_ms),
    ];
    let x = Scale::percentile(lines.iter().flat_map(|line| &line.points).map(|(percentile, _)| *percentile));
    let y = Scale::log(lines.iter().flat_map(|line| &line.points).map(|(_, ms)| *ms));
    let about = "milliseconds that so many percent of the mails took at most; both axes are logarithmic";
    Plot { title: "Latency by percentile", about, wide: true, x, y, lines, x_end: Some("max") }.render(out);
}

fn processes(result: &RunResult, out: &mut String) {
    out.push_str(
        "<div class=\"card\"><h2>CPU a mail</h2><p class=\"about\">microseconds by process; the bench's own is not the \
         server's</p>",
    );
    let mut rows: Vec<_> = result
        .processes
        .iter()
        .enumerate()
        .map(|(index, process)| {
            let parts = vec![
                (process.cpu_user_us_per_mail, index % 4, false),
                (process.cpu_system_us_per_mail, index % 4, true),
            ];
            Bar { name: process.name.clone(), parts }
        })
        .collect();
    rows.truncate(PROCESSES_MAX);
    if rows.is_empty()
        && let Some(cpu) = result.cpu_us_per_mail
    {
        rows.push(Bar { name: "all processes".into(), parts: vec![(cpu, 0, false)] });
    }
    if rows.is_empty() {
        out.push_str("<p class=\"empty\">Not measured in this run.</p></div>\n");
        return;
    }
    if let Some(cpu) = result.bench_cpu_us_per_mail {
        rows.push(Bar { name: "load and receivers (bench)".into(), parts: vec![(cpu, 4, false)] });
    }
    out.push_str("<ul class=\"legend\"><li class=\"k0 box\">user <span>full colour</span></li>");
    out.push_str("<li class=\"k0 box light\">system <span>lighter</span></li></ul>");
    plot::bars(&rows, "µs", out);
    out.push_str("</div>\n");
}

/// What became of every recipient.
fn account(result: &RunResult, out: &mut String) {
    let rows = [
        ("handed over", result.sent, false),
        ("acknowledged", result.accepted, false),
        ("delivered", result.delivered, false),
        ("rejected by their receiver, as planned", result.rejected, false),
        ("refused at submission", result.refused, false),
        ("without an answer", result.doubtful, true),
        ("lost", result.lost, true),
        ("duplicated", result.duplicated, true),
        ("misdelivered", result.misdelivered, true),
    ];
    out.push_str("<div class=\"card\"><h2>Account</h2><p class=\"about\">every recipient is numbered</p><table>");
    for (name, value, wrong) in rows {
        let class = if wrong && value > 0 { " class=\"bad\"" } else { "" };
        put(out, format_args!("<tr><td>{name}</td><td{class}>{}</td></tr>", count(value)));
    }
    out.push_str("</table></div>\n");
}

fn latency_table(result: &RunResult, out: &mut String) {
    out.push_str(
        "<div class=\"card\"><h2>Latency</h2><div class=\"scroll\"><table><tr><th>milliseconds</th><th>p50</th>",
    );
    out.push_str("<th>p99</th><th>max</th></tr>");
    for (name, latency) in [
        ("submission to acknowledgement", &result.ack_ms),
        ("acknowledgement to first attempt", &result.first_attempt_ms),
        ("submission to delivery", &result.delivery_ms),
    ] {
        let [p50, p99, max] = [latency.p50, latency.p99, latency.max].map(number);
        put(out, format_args!("<tr><td>{name}</td><td>{p50}</td><td>{p99}</td><td>{max}</td></tr>"));
    }
    out.push_str("</table></div></div>\n");
}

fn resources(result: &RunResult, out: &mut String) {
    let rows = [
        ("CPU a mail, user", number_or_dash(result.cpu_user_us_per_mail) + " µs"),
        ("CPU a mail, system", number_or_dash(result.cpu_system_us_per_mail) + " µs"),
        ("context switches a mail", number_or_dash(result.context_switches_per_mail)),
        ("written a mail", result.bytes_written_per_mail.map_or_else(|| "–".into(), octets)),
        ("peak memory", number_or_dash(result.peak_rss_mb) + " MiB"),
        ("planned rate", number_or_dash(result.planned_rate_per_s) + " a second"),
        ("highest rate found", number_or_dash(result.highest_rate_per_s) + " a second"),
        ("connections to receivers", count(result.receiver_sessions)),
        ("asked to come back later", count(result.deferred)),
    ];
    out.push_str("<div class=\"card\"><h2>Server</h2><table>");
    for (name, value) in rows {
        let value = if value.starts_with('–') { "–".into() } else { value };
        put(out, format_args!("<tr><td>{name}</td><td>{}</td></tr>", escaped(&value)));
    }
    out.push_str("</table></div>\n");
}

fn tenants(result: &RunResult, out: &mut String) {
    out.push_str(
        "<div class=\"card wide\"><h2>Tenants</h2><div class=\"scroll\"><table><tr><th>tenant</th><th>sent</th>",
    );
    out.push_str("<th>delivered</th><th>lost</th><th>a second</th><th>ack p99, ms</th><th>alone</th>");
    out.push_str("<th>delivery p99, ms</th><th>alone</th></tr>");
    for (name, tenant) in &result.tenants {
        tenant_row(name, tenant, out);
    }
    out.push_str("</table></div></div>\n");
}

fn tenant_row(name: &str, tenant: &TenantResult, out: &mut String) {
    let alone = |latency: Option<Latency>| number_or_dash(latency.map(|latency| latency.p99));
    let lost = if tenant.lost > 0 { " class=\"bad\"" } else { "" };
    put(
        out,
        format_args!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td{lost}>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td></tr>",
            escaped(name),
            count(tenant.sent),
            count(tenant.delivered),
            count(tenant.lost),
            number(tenant.rate_per_s),
            number(tenant.ack_ms.p99),
            alone(tenant.alone_ack_ms),
            number(tenant.delivery_ms.p99),
            alone(tenant.alone_delivery_ms),
        ),
    );
}

fn waiting_table(waiting: &WaitingResult, out: &mut String) {
    let rows = [
        ("recipients waiting", count(waiting.recipients)),
        ("memory of each, after the start", format!("{} B", number(waiting.bytes_per_waiting_mail))),
        ("memory, nothing waiting", format!("{} MiB", number(waiting.empty_rss_mb))),
        ("memory, all waiting", format!("{} MiB", number(waiting.waiting_rss_mb))),
        ("memory, all waiting again after the start", format!("{} MiB", number(waiting.recovered_rss_mb))),
        ("start to first accepted", format!("{} s", number(waiting.first_accepted_s))),
        ("start to first delivery", format!("{} s", number(waiting.first_delivery_s))),
        ("start to all waiting again", format!("{} s", number(waiting.recovered_s))),
    ];
    out.push_str("<div class=\"card wide\"><h2>Waiting mail</h2><table>");
    for (name, value) in rows {
        put(out, format_args!("<tr><td>{name}</td><td>{}</td></tr>", escaped(&value)));
    }
    out.push_str("</table></div>\n");
}

/// Every key of the JSON that is no list, as it is called there.
fn everything(result: &RunResult, out: &mut String) {
    out.push_str("<details class=\"card wide\"><summary>Every figure, by its key in the JSON</summary>");
    out.push_str("<div class=\"scroll\"><table>");
    let json = serde_json::to_value(result).unwrap_or_default();
    let mut rows = Vec::new();
    flatten("", &json, &mut rows);
    for (key, value) in rows {
        put(out, format_args!("<tr><td>{}</td><td class=\"text\">{}</td></tr>", escaped(&key), escaped(&value)));
    }
    out.push_str("</table></div></details>\n");
}

/// The leaves of `value`, each by its path; lists are drawn as plots and left out, but for those of processes.
fn flatten(path: &str, value: &serde_json::Value, rows: &mut Vec<(String, String)>) {
    use serde_json::Value;
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&below(key), value, rows);
            }
        }
        Value::Array(items) if path == "processes" => {
            for (index, item) in items.iter().take(PROCESSES_MAX).enumerate() {
                flatten(&below(&index.to_string()), item, rows);
            }
        }
        Value::Array(_) => {}
        Value::Null => rows.push((path.to_owned(), "–".into())),
        Value::String(text) => rows.push((path.to_owned(), text.clone())),
        Value::Bool(_) | Value::Number(_) => rows.push((path.to_owned(), value.to_string())),
    }
}

/// The value in the middle; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Processes that a page shows.
const PROCESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::ProgramCost;

    fn sample() -> RunResult {
        let series = (0..30).map(|second| SeriesPoint {
            at_s: f64::from(second),
            sent_per_s: 3_000.0,
            accepted_per_s: 2_990.0,
            delivered_per_s: 2_950.0,
            ack_p99_ms: 8.0,
            delivery_p99_ms: 22.0,
        });
        let mut result = RunResult {
            plan: "w10".into(),
            target: "<b>postrail</b>".into(),
            delivered: 90_000,
            rate_per_s: 2_950.0,
            cpu_us_per_mail: Some(109.0),
            series: series.collect(),
            processes: vec![ProgramCost { name: "data & control".into(), ..ProgramCost::default() }],
            ..RunResult::default()
        };
        result.curves.ack = [(0.0, 0.4), (50.0, 2.0), (99.0, 8.0), (100.0, 31.0)]
            .map(|(percentile, ms)| CurvePoint { percentile, ms })
            .into();
        result
    }

    #[test]
    fn a_page_needs_no_network_and_no_script() {
        let page = render(&sample());
        for needle in ["http://", "https://", "<script", "@import", "url("] {
            assert!(!page.contains(needle), "{needle}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn what_came_from_a_file_is_escaped() {
        let page = render(&sample());
        assert!(page.contains("&lt;b&gt;postrail&lt;/b&gt;") && !page.contains("<b>postrail"));
        assert!(page.contains("data &amp; control"));
    }

    #[test]
    fn an_empty_result_makes_a_page_without_numbers_that_are_none() {
        let page = render(&RunResult::default());
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        assert!(page.contains("Not measured in this run."));
    }

    #[test]
    fn a_loss_is_in_the_head_of_the_page() {
        let page = render(&RunResult { lost: 3, duplicated: 1, ..sample() });
        assert!(page.contains("3 lost, 1 duplicated"));
    }

    #[test]
    fn every_scalar_key_is_listed() {
        let page = render(&sample());
        for key in ["cpu_us_per_mail", "ack_ms.p99", "machine.kernel", "processes.0.name"] {
            assert!(page.contains(&format!("<td>{key}</td>")), "{key}");
        }
    }
}
