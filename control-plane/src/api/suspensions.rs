//! `/v2/suspensions`: the operator's. POST suspends, DELETE resumes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::ids::SuspensionId;
use postrail_schema::snapshot::{Suspension, SuspensionTarget};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use crate::app::NewSuspension;
use crate::plan::{Desired, SuspensionEntry, entity_tag};

/// A suspension; one of site, source and tenant is set.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuspensionView {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    reason: String,
}

/// What to suspend: exactly one of the three.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SuspensionBody {
    /// A site, or any recipient domain.
    #[serde(default)]
    site: Option<String>,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    reason: String,
}

#[utoipa::path(get, path = "/v2/suspensions", tag = "suspensions", params(PageParams),
    responses((status = 200, body = Page<SuspensionView>)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    _: Operator,
    listing: Listing,
) -> Result<Json<Page<SuspensionView>>, ProblemDocument> {
    let desired = shared.app.desired();
    let after = listing.number(u32::MAX.into())?;
    let later = desired.suspensions.values().filter(|suspension| u64::from(suspension.id.0) > after);
    let limit = listing.limit as usize;
    let mut items: Vec<_> = later.take(limit + 1).map(|suspension| view(&desired, suspension)).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Json(Page { items, next_cursor }))
}

#[utoipa::path(post, path = "/v2/suspensions", tag = "suspensions", params(("If-Match" = Option<String>, Header)),
    request_body = SuspensionBody,
    responses((status = 201, body = SuspensionView), (status = 404, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    IfMatch(when): IfMatch,
    Body(body): Body<SuspensionBody>,
) -> Result<(StatusCode, Tagged<SuspensionView>), ProblemDocument> {
    let SuspensionBody { site, source, tenant, reason } = body;
    let new = NewSuspension { site, source, tenant, reason };
    let when = when.sending(&json!({ "reason": new.reason }));
    let suspension = shared.run(move |app| app.suspend(&new, &when)).await?;
    Ok((StatusCode::CREATED, tagged(&shared.app.desired(), &suspension)))
}

#[utoipa::path(get, path = "/v2/suspensions/{id}", tag = "suspensions", params(("id" = u32, Path)),
    responses((status = 200, body = SuspensionView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Tagged<SuspensionView>, ProblemDocument> {
    let desired = shared.app.desired();
    let found = desired.suspensions.get(&number(&id)?);
    Ok(tagged(&desired, found.ok_or_else(|| unknown(&id))?))
}

#[utoipa::path(delete, path = "/v2/suspensions/{id}", tag = "suspensions", params(("id" = u32, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(id): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    let id = number(&id)?;
    shared.run(move |app| app.resume(id, &when)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn number(id: &str) -> Result<SuspensionId, ProblemDocument> {
    id.parse().map(SuspensionId).map_err(|_| unknown(id))
}

fn unknown(id: &str) -> ProblemDocument {
    ProblemDocument::not_found(&format!("suspension {id}"))
}

fn tagged(desired: &Desired, suspension: &Suspension) -> Tagged<SuspensionView> {
    Tagged(entity_tag(&SuspensionEntry::of(desired, suspension)), view(desired, suspension))
}

fn view(desired: &Desired, suspension: &Suspension) -> SuspensionView {
    let (mut site, mut source, mut tenant) = (None, None, None);
    match &suspension.target {
        SuspensionTarget::Site(name) => site = Some(name.clone()),
        SuspensionTarget::Source(id) => source = desired.sources.get(id).map(|source| source.name.clone()),
        SuspensionTarget::Tenant(id) => tenant = desired.tenants.get(id).map(|tenant| tenant.name.clone()),
    }
    SuspensionView { id: suspension.id.0, site, source, tenant, reason: suspension.reason.clone() }
}
