//! `/v2/quarantine`: mail that was accepted from domains that fail in DNS, and waits for a person; the operator's.
//!
//! It is asked of the data planes, which hold it. What is neither released nor dropped expires like other mail.

use axum::Json;
use axum::extract::{Path, State};
use postrail_schema::ids::{MessageId, SendingDomainId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Operator, Scope, TenantParams};
use super::page::Page;
use super::problem::ProblemDocument;
use crate::app::{AppError, Settling};

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

/// As a data plane tells it.
#[derive(Debug, Deserialize)]
struct Held {
    job: String,
    tenant_id: u32,
    domain_id: u32,
    recipients: u64,
    expires: String,
}

/// The first to expire of each host, a thousand of each of its shards at most.
#[utoipa::path(get, path = "/v2/quarantine", tag = "quarantine", params(TenantParams),
    responses((status = 200, body = Page<HeldView>), (status = 502, body = ProblemDocument)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    _: Operator,
    scope: Scope,
) -> Result<Json<Page<HeldView>>, ProblemDocument> {
    let desired = shared.app.desired();
    let mut items = Vec::new();
    for held in shared.app.hosts.quarantine().await? {
        let unread = |_| AppError::DataPlane { detail: "its answer cannot be read".to_owned() };
        let held: Held = serde_json::from_value(held).map_err(unread)?;
        if !scope.sees(TenantId(held.tenant_id)) {
            continue;
        }
        let domain = desired.domains.get(&SendingDomainId(held.domain_id));
        items.push(HeldView {
            job: held.job,
            tenant: shared.app.tenant_name(TenantId(held.tenant_id)),
            domain: domain.map(|domain| domain.name.clone()).unwrap_or_default(),
            standing: domain.map(|domain| domain.standing.name().to_owned()).unwrap_or_default(),
            recipients: held.recipients,
            expires: held.expires,
        });
    }
    Ok(Json(Page { items, next_cursor: None }))
}

/// Sends it, whatever its domain's standing is.
#[utoipa::path(post, path = "/v2/quarantine/{job}/release", tag = "quarantine", params(("job" = String, Path)),
    responses((status = 200, body = Value), (status = 404, body = ProblemDocument), (status = 502, body = ProblemDocument)))]
pub(crate) async fn release(
    State(shared): State<Shared>,
    _: Operator,
    Path(job): Path<String>,
) -> Result<Json<Value>, ProblemDocument> {
    Ok(Json(shared.app.hosts.settle(parse(&job)?, Settling::Release).await?))
}

/// Settles it as cancelled; its sender gets no report.
#[utoipa::path(post, path = "/v2/quarantine/{job}/drop", tag = "quarantine", params(("job" = String, Path)),
    responses((status = 200, body = Value), (status = 404, body = ProblemDocument), (status = 502, body = ProblemDocument)))]
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
