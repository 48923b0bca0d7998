//! `/v2/quarantine`: mail that was accepted from domains that fail in DNS, and waits for a person; the operator's.
//!
//! It is asked of the data planes, which hold it. What is neither released nor dropped expires like other mail.

use axum::Json;
use axum::extract::State;
use postrail_schema::ids::{MessageId, SendingDomainId, TenantId};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Operator, Path, TenantParams};
use super::page::{Listing, PageParams, not_ours};
use super::problem::ProblemDocument;
use crate::app::{AppError, HeldJob, HeldQuery, Settling, Unanswered};

/// A job in quarantine.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldView {
    job: String,
    tenant: String,
    /// The sending domain that failed; empty: it was removed since.
    domain: String,
    /// How it stands in DNS by now.
    standing: String,
    recipients: u64,
    /// RFC 3339: it expires then.
    expires: String,
}

/// Some of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldPageView {
    items: Vec<HeldView>,
    /// Names the next page; null on the last one.
    next_cursor: Option<String>,
    /// How many there are in all, of the tenant where one is named.
    total: u64,
    /// Hosts whose jobs are neither listed nor counted.
    unanswered: Vec<Unanswered>,
}

/// Over all hosts, the first to expire first. A job that is released or dropped is listed no more, so the page without a
/// cursor shows what comes next. A host that does not answer, or is of a version that does not tell, is named.
#[utoipa::path(get, path = "/v2/quarantine", tag = "quarantine", params(PageParams, TenantParams),
    responses((status = 200, body = HeldPageView), (status = 502, body = ProblemDocument)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    _: Operator,
    listing: Listing,
) -> Result<Json<HeldPageView>, ProblemDocument> {
    let desired = shared.app.desired();
    if let Some(cursor) = &listing.cursor {
        let is_ours = |(expires, job): (&str, &str)| expires.parse::<u64>().is_ok() && job.parse::<MessageId>().is_ok();
        if !cursor.split_once('.').is_some_and(is_ours) {
            return Err(not_ours());
        }
    }
    let Listing { scope, limit, cursor: after } = listing;
    shared.run(move |app| scope.check_region(app)).await?;
    let held = shared.app.hosts.quarantine(&HeldQuery { tenant: scope.0, after, limit }).await?;
    let limit = limit as usize;
    let next_cursor = held.jobs.get(limit).and_then(|_| Some(held.jobs.get(limit - 1)?.key()));
    let view = |held: HeldJob| {
        let domain = desired.domains.get(&SendingDomainId(held.domain_id));
        HeldView {
            job: held.job,
            tenant: shared.app.tenant_name(TenantId(held.tenant_id)),
            domain: domain.map(|domain| domain.name.clone()).unwrap_or_default(),
            standing: domain.map(|domain| domain.standing.name().to_owned()).unwrap_or_default(),
            recipients: held.recipients,
            expires: held.expires,
        }
    };
    let items = held.jobs.into_iter().take(limit).map(view).collect();
    Ok(Json(HeldPageView { items, next_cursor, total: held.total, unanswered: held.unanswered }))
}

/// Sends it, whatever its domain's standing is.
#[utoipa::path(post, path = "/v2/quarantine/{job}/release", tag = "quarantine", params(("job" = String, Path)),
    responses((status = 200, body = Value), (status = 404, body = ProblemDocument),
        (status = 409, description = "it is being moved to another host", body = ProblemDocument),
        (status = 502, body = ProblemDocument)))]
pub(crate) async fn release(
    State(shared): State<Shared>,
    _: Operator,
    Path(job): Path<String>,
) -> Result<Json<Value>, ProblemDocument> {
    Ok(Json(shared.app.hosts.settle(parse(&job)?, Settling::Release).await?))
}

/// Settles it as cancelled; its sender gets no report.
#[utoipa::path(post, path = "/v2/quarantine/{job}/drop", tag = "quarantine", params(("job" = String, Path)),
    responses((status = 200, body = Value), (status = 404, body = ProblemDocument),
        (status = 409, description = "it is being moved to another host", body = ProblemDocument),
        (status = 502, body = ProblemDocument)))]
pub(crate) async fn drop(
    State(shared): State<Shared>,
    _: Operator,
    Path(job): Path<String>,
) -> Result<Json<Value>, ProblemDocument> {
    Ok(Json(shared.app.hosts.settle(parse(&job)?, Settling::Drop).await?))
}

fn parse(job: &str) -> Result<MessageId, AppError> {
    job.parse().map_err(|_| AppError::not_found("job", job))
}
