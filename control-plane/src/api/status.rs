//! `/`, health, metrics, and the findings about the configuration.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postrail_schema::problem::{Problem, Severity};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Shared;
use super::extract::Operator;
use super::page::{Listing, PageParams, not_ours};
use super::problem::ProblemDocument;

/// Requests answered, by class of status (1yz to 5yz).
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) by_class: [AtomicU64; 5],
}

/// A finding.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemView {
    /// `note`, `warning`, or in a plan `error`, which keeps it from being applied.
    #[schema(value_type = String)]
    severity: Severity,
    code: &'static str,
    /// Such as `pool/default`.
    subject: String,
    detail: String,
}

impl ProblemView {
    pub(crate) fn of(problem: &Problem) -> Self {
        Self {
            severity: problem.severity,
            code: problem.code,
            subject: problem.subject.clone(),
            detail: problem.detail.clone(),
        }
    }
}

#[utoipa::path(get, path = "/", tag = "status", security(()), responses((status = 200, body = Value)))]
pub(crate) async fn root() -> Json<Value> {
    Json(
        json!({ "service": "postrail control", "version": env!("CARGO_PKG_VERSION"), "api": "/v2", "openapi": "/openapi.json" }),
    )
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "status", security(()), responses((status = 200, body = String)))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// The stores answer, the ledger is that of the region, and a snapshot was published.
#[utoipa::path(get, path = "/readyz", tag = "status", security(()),
    responses((status = 200, body = Value), (status = 503, body = ProblemDocument)))]
pub(crate) async fn readyz(State(shared): State<Shared>) -> Result<Json<Value>, ProblemDocument> {
    let checked = shared.run(|app| app.check_stores()).await;
    let unready = |detail: &str| ProblemDocument::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail);
    checked.map_err(|_| unready("a store does not answer"))?;
    shared.app.check_ledger().map_err(|_| unready("another control plane keeps another ledger for this region"))?;
    Ok(Json(json!({ "ready": true, "revision": shared.app.revision() })))
}

#[utoipa::path(get, path = "/metrics", tag = "status", security(()), responses((status = 200, body = String)))]
pub(crate) async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let gauges = &shared.gauges;
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    metric("postrail_control_revision", "gauge", "Revision of the published snapshot.", shared.app.revision().0);
    metric("postrail_control_journal_events_total", "counter", "Events taken into the ledger.", load(&gauges.events));
    let help = "Buffers of events that did not decode and were set aside.";
    metric("postrail_control_journal_unread_total", "counter", help, load(&gauges.unread));
    let help = "Jumps over events that a journal did not have any more.";
    metric("postrail_control_journal_gaps_total", "counter", help, load(&gauges.gaps));
    metric("postrail_control_journal_failures_total", "counter", "Pulls that failed.", load(&gauges.failures));
    let help = "Unix milliseconds of the last pull that succeeded.";
    metric("postrail_control_journal_pulled_ms", "gauge", help, load(&gauges.pulled_ms));
    let name = "postrail_control_requests_total";
    let _ = writeln!(text, "# HELP {name} Requests answered, by class of status.\n# TYPE {name} counter");
    for (class, count) in (1..).zip(&shared.counts.by_class) {
        let _ = writeln!(text, "{name}{{class=\"{class}xx\"}} {}", load(count));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// Some of the findings.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemPageView {
    items: Vec<ProblemView>,
    /// Names the next page; null on the last one.
    next_cursor: Option<String>,
    /// How many there are in all.
    total: usize,
}

/// Findings about the configuration, and in a fleet about where its addresses are: the gravest first, then by what they are
/// about. A cursor names the last one of its page, so that what comes or goes between two pages hides no other.
#[utoipa::path(get, path = "/v2/problems", tag = "status", params(PageParams),
    responses((status = 200, body = ProblemPageView)))]
pub(crate) async fn problems(
    State(shared): State<Shared>,
    _: Operator,
    listing: Listing,
) -> Result<Json<ProblemPageView>, ProblemDocument> {
    let after = listing.cursor.as_deref().map(|cursor| opened(cursor).ok_or_else(not_ours)).transpose()?;
    let mut problems = shared.app.problems();
    problems.append(&mut shared.run(|app| app.observed_problems(&app.desired())).await?);
    problems.extend(shared.run(|app| Ok(app.suppression_problem())).await?);
    let (listening, mut behind) = tokio::join!(shared.app.listening(), shared.app.suppression_problems());
    problems.append(&mut listening.problems());
    problems.append(&mut behind);
    Ok(Json(page(&problems, after.as_deref(), listing.limit as usize)))
}

/// The findings whose place is behind `after`, as many as `limit`.
fn page(problems: &[Problem], after: Option<&str>, limit: usize) -> ProblemPageView {
    let mut behind: Vec<_> = problems.iter().map(|problem| (place(problem), problem)).collect();
    behind.retain(|(place, _)| after.is_none_or(|after| place.as_str() > after));
    behind.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let last = behind.len().checked_sub(limit + 1).and_then(|_| behind.get(limit - 1));
    let next_cursor = last.map(|(place, _)| URL_SAFE_NO_PAD.encode(place));
    let items = behind.iter().take(limit).map(|(_, problem)| ProblemView::of(problem)).collect();
    ProblemPageView { items, next_cursor, total: problems.len() }
}

/// Where a finding stands among all: it follows from the finding alone, and only those that say the same have one place.
fn place(problem: &Problem) -> String {
    let Problem { severity, code, subject, detail } = problem;
    let rank = match severity {
        Severity::Error => 0,
        Severity::Warning => 1,
        Severity::Note => 2,
    };
    let all = digest(&SHA256, format!("{subject} {detail}").as_bytes());
    let all = URL_SAFE_NO_PAD.encode(&all.as_ref()[..DIGEST_BYTES]);
    // The longest subject does not make a cursor longer than cursors are.
    let subject = &subject[..subject.floor_char_boundary(SUBJECT_BYTES_MAX)];
    format!("{rank} {subject} {code} {all}")
}

/// The place that a cursor names.
fn opened(cursor: &str) -> Option<String> {
    let place = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    Some(place).filter(|place| place.starts_with(['0', '1', '2']))
}

/// Octets of a subject by which findings are in order.
const SUBJECT_BYTES_MAX: usize = 256;
/// Octets of a digest that tell two findings apart.
const DIGEST_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(severity: Severity, subject: &str, detail: &str) -> Problem {
        Problem { severity, code: "found", subject: subject.to_owned(), detail: detail.to_owned() }
    }

    fn shown(page: &ProblemPageView) -> Vec<(&str, &str)> {
        page.items.iter().map(|item| (item.subject.as_str(), item.detail.as_str())).collect()
    }

    #[test]
    fn what_goes_or_comes_between_two_pages_of_findings_hides_no_other() {
        let long = "x".repeat(10_000);
        let found = [
            problem(Severity::Note, "domain/a.example", "one"),
            problem(Severity::Warning, "pool/b", "two"),
            problem(Severity::Warning, "pool/b", "three"),
            problem(Severity::Warning, &long, "four"),
            problem(Severity::Error, "route/z.example", "five"),
        ];
        let all = page(&found, None, 100);
        assert_eq!((all.total, &all.next_cursor), (5, &None));
        let order = shown(&all);
        assert_eq!((order[0].1, order[3].1, order[4].1), ("five", "four", "one"), "{order:?}");
        let first = page(&found, None, 4);
        assert_eq!(shown(&first), order[..4]);
        let cursor = first.next_cursor.unwrap();
        assert!(cursor.len() <= 512, "{}", cursor.len());
        let after = opened(&cursor).unwrap();
        assert_eq!(shown(&page(&found, Some(&after), 4)), order[4..]);
        // All that were told are gone, and another has come before them.
        let now = [found[0].clone(), problem(Severity::Error, "route/a.example", "six")];
        let second = page(&now, Some(&after), 4);
        assert_eq!((shown(&second), second.total, &second.next_cursor), (vec![("domain/a.example", "one")], 2, &None));
        for cursor in ["*", "7", "_w", "eHg"] {
            assert_eq!(opened(cursor), None, "{cursor}");
        }
    }
}
