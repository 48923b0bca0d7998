//! `/`, health, metrics, and the findings about the configuration.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use postrail_schema::problem::Problem;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Shared;
use super::extract::Operator;
use super::page::{LAST_PLACE, Listing, PageParams};
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
    severity: postrail_schema::problem::Severity,
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

/// The stores answer and a snapshot was published.
#[utoipa::path(get, path = "/readyz", tag = "status", security(()),
    responses((status = 200, body = Value), (status = 503, body = ProblemDocument)))]
pub(crate) async fn readyz(State(shared): State<Shared>) -> Result<Json<Value>, ProblemDocument> {
    let checked = shared.run(|app| app.check_stores()).await;
    let unready = |_| ProblemDocument::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "a store does not answer");
    checked.map_err(unready)?;
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

/// Findings about the configuration, and in a fleet about where its addresses are. A cursor counts them, so what comes or
/// goes between two pages moves the others.
#[utoipa::path(get, path = "/v2/problems", tag = "status", params(PageParams),
    responses((status = 200, body = ProblemPageView)))]
pub(crate) async fn problems(
    State(shared): State<Shared>,
    _: Operator,
    listing: Listing,
) -> Result<Json<ProblemPageView>, ProblemDocument> {
    let begin = usize::try_from(listing.number(LAST_PLACE)?).unwrap_or(usize::MAX);
    let mut problems = shared.app.problems();
    problems.append(&mut shared.run(|app| app.observed_problems(&app.desired())).await?);
    problems.append(&mut shared.app.listening().await.problems());
    let total = problems.len();
    let items: Vec<_> = problems.iter().skip(begin).take(listing.limit as usize).map(ProblemView::of).collect();
    let end = begin.saturating_add(items.len());
    Ok(Json(ProblemPageView { items, next_cursor: (end < total).then(|| end.to_string()), total }))
}
