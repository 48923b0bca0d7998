//! `/v2/suppressions`: addresses that a tenant is not sent to; the tenant's own to add and to remove.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::ids::TenantId;
use postrail_schema::snapshot::Suppression;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Maker, Operator, Path, Scope, Tagged, TenantParams};
use super::page::{Listing, Page, PageParams, TenantIdParams, not_ours};
use super::problem::ProblemDocument;
use crate::app::{App, Precondition, SuppressionEntry};
use crate::ledger::SuppressionRecord;
use crate::plan::entity_tag;

/// A suppression.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuppressionView {
    /// Empty: it is gone.
    tenant: String,
    /// Of one that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<u32>,
    address: String,
    reason: String,
    /// Unix milliseconds.
    created_ms: u64,
}

/// How many were removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RemovedView {
    removed: u64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SuppressionBody {
    address: String,
    #[serde(default)]
    reason: String,
}

/// A suppression but for its address, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SuppressionValue {
    #[serde(default)]
    reason: String,
}

#[utoipa::path(get, path = "/v2/suppressions", tag = "suppressions", params(PageParams, TenantParams, TenantIdParams),
    responses((status = 200, body = Page<SuppressionView>)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    listing: Listing,
) -> Result<Json<Page<SuppressionView>>, ProblemDocument> {
    // Of one tenant's the address says where to go on; ids of tenants are nothing to tell one.
    let after = listing.cursor.as_deref().map(|cursor| match listing.scope.0 {
        Some(tenant) => Ok(Suppression { tenant, address: cursor.to_owned() }),
        None => place(cursor),
    });
    let after = after.transpose()?;
    let (scope, limit) = (listing.scope, listing.limit);
    let mut records = shared
        .run(move |app| {
            scope.check_region(app)?;
            Ok(app.ledger.suppressions(scope.0, after.as_ref(), limit + 1)?)
        })
        .await?;
    let more = records.len() > limit as usize;
    records.truncate(limit as usize);
    let last = records.last().filter(|_| more);
    let next_cursor = last.map(|SuppressionRecord { suppression, .. }| match scope.0 {
        Some(_) => suppression.address.clone(),
        None => format!("{}:{}", suppression.tenant, suppression.address),
    });
    Ok(Json(Page { items: records.iter().map(|record| view(&shared.app, record)).collect(), next_cursor }))
}

/// Removes all suppressions of a tenant, by its name, or by its number where it is gone.
#[utoipa::path(delete, path = "/v2/suppressions", tag = "suppressions", params(TenantParams, TenantIdParams),
    responses((status = 200, body = RemovedView), (status = 404, body = ProblemDocument),
        (status = 422, body = ProblemDocument)))]
pub(crate) async fn clear(
    State(shared): State<Shared>,
    _: Operator,
    listing: Listing,
) -> Result<Json<RemovedView>, ProblemDocument> {
    let Some(tenant) = listing.scope.0 else {
        let detail = "name the tenant: tenant, or tenant_id of one that is gone";
        return Err(ProblemDocument::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail));
    };
    let removed = shared.run(move |app| app.unsuppress_all(tenant)).await?;
    Ok(Json(RemovedView { removed }))
}

/// Adds a suppression, or renews one. A tenant has at most 500,000; over it 409.
#[utoipa::path(post, path = "/v2/suppressions", tag = "suppressions",
    params(("If-Match" = Option<String>, Header), TenantParams), request_body = SuppressionBody,
    responses((status = 201, body = SuppressionView), (status = 200, body = SuppressionView),
        (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    Maker { tenant, .. }: Maker,
    IfMatch(when): IfMatch,
    Body(body): Body<SuppressionBody>,
) -> Result<(StatusCode, Tagged<SuppressionView>), ProblemDocument> {
    let when = when.sending(&json!({ "reason": body.reason }));
    suppress(&shared, tenant, body.address, body.reason, when).await
}

/// Adds a suppression, or renews one. A tenant has at most 500,000; over it 409.
#[utoipa::path(put, path = "/v2/suppressions/{address}", tag = "suppressions",
    params(("address" = String, Path), TenantParams), request_body = SuppressionValue,
    responses((status = 201, body = SuppressionView), (status = 200, body = SuppressionView),
        (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    Maker { tenant, .. }: Maker,
    Path(address): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<SuppressionValue>,
) -> Result<(StatusCode, Tagged<SuppressionView>), ProblemDocument> {
    let when = when.sending(&body);
    suppress(&shared, tenant, address, body.reason, when).await
}

#[utoipa::path(get, path = "/v2/suppressions/{address}", tag = "suppressions",
    params(("address" = String, Path), TenantParams),
    responses((status = 200, body = SuppressionView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    scope: Scope,
    Path(address): Path<String>,
) -> Result<Tagged<SuppressionView>, ProblemDocument> {
    let record = shared
        .run(move |app| {
            let tenant = scope.0.map_or_else(|| app.tenant_id("default"), Ok)?;
            app.suppression(tenant, &address)
        })
        .await?;
    Ok(tagged(&shared.app, &record))
}

#[utoipa::path(delete, path = "/v2/suppressions/{address}", tag = "suppressions",
    params(("address" = String, Path), TenantParams),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    Maker { tenant, .. }: Maker,
    Path(address): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.run(move |app| app.unsuppress(app.tenant_id(&tenant)?, &address, &when)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn suppress(
    shared: &Shared,
    tenant: String,
    address: String,
    reason: String,
    when: Precondition,
) -> Result<(StatusCode, Tagged<SuppressionView>), ProblemDocument> {
    let (record, new) = shared.run(move |app| app.suppress(&tenant, &address, &reason, &when)).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, tagged(&shared.app, &record)))
}

fn tagged(app: &App, record: &SuppressionRecord) -> Tagged<SuppressionView> {
    Tagged(entity_tag(&SuppressionEntry::of(record)), view(app, record))
}

fn view(app: &App, record: &SuppressionRecord) -> SuppressionView {
    let tenant = app.tenant_name(record.suppression.tenant);
    SuppressionView {
        tenant_id: tenant.is_empty().then_some(record.suppression.tenant.0),
        tenant,
        address: record.suppression.address.clone(),
        reason: record.reason.clone(),
        created_ms: record.created_ms,
    }
}

/// The suppression that a cursor names.
fn place(cursor: &str) -> Result<Suppression, ProblemDocument> {
    let (tenant, address) = cursor.split_once(':').ok_or_else(not_ours)?;
    let tenant = TenantId(tenant.parse().map_err(|_| not_ours())?);
    Ok(Suppression { tenant, address: address.to_owned() })
}
