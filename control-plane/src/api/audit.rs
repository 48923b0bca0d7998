//! `/v2/audit`: who did what, and what it changed; the operator's.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::extract::Operator;
use super::page::{LAST_PLACE, Listing, Page, PageParams};
use super::problem::ProblemDocument;
use crate::app::AuditDetail;

/// One request that was no reading.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditView {
    sequence: u64,
    /// Unix milliseconds.
    at_ms: u64,
    actor: String,
    action: String,
    /// The answer's status; 0: the process ended before.
    status: u16,
    /// What it changed: written before it was done, so it holds if the status is below 400, and may if it is 0 or from 500 on.
    /// Absent: nothing that is configured.
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Option<AuditDetail>)]
    detail: Value,
}

/// Newest first.
#[utoipa::path(get, path = "/v2/audit", tag = "audit", params(PageParams),
    responses((status = 200, body = Page<AuditView>)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    _: Operator,
    listing: Listing,
) -> Result<Json<Page<AuditView>>, ProblemDocument> {
    let (before, limit) = (listing.number(LAST_PLACE)?, listing.limit);
    let mut records = shared.run(move |app| Ok(app.ledger.audit(before, limit + 1)?)).await?;
    let more = records.len() > limit as usize;
    records.truncate(limit as usize);
    let next_cursor = records.last().filter(|_| more).map(|last| last.sequence.to_string());
    let items = records.into_iter().map(|record| AuditView {
        sequence: record.sequence,
        at_ms: record.at_ms,
        actor: record.actor,
        action: record.action,
        status: record.status,
        // What does not read is told as it is.
        detail: match record.detail.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
        },
    });
    Ok(Json(Page { items: items.collect(), next_cursor }))
}
