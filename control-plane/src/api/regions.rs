//! `/v2/regions`: hosts that serve some tenants alone. The operator's; a tenant sees the one that it is in.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::region::Region;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Scope, Tagged, TenantParams};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::app::NewRegion;
use crate::plan::{Desired, RegionEntry};

/// A region.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RegionView {
    id: u32,
    name: String,
    /// Where its tenants submit; other regions refuse them and name it.
    submission_host: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegionBody {
    name: String,
    submission_host: String,
}

/// A region but for its name, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegionValue {
    submission_host: String,
}

#[utoipa::path(get, path = "/v2/regions", tag = "regions", params(PageParams, TenantParams),
    responses((status = 200, body = Page<RegionView>)))]
pub(crate) async fn list(State(shared): State<Shared>, listing: Listing) -> Json<Page<RegionView>> {
    let desired = shared.app.desired();
    let seen = desired.regions.values().filter(|region| sees(&desired, listing.scope, region));
    Json(listing.by_name(seen, |region| &region.name, |region| region.view(&desired)))
}

#[utoipa::path(post, path = "/v2/regions", tag = "regions", request_body = RegionBody,
    responses((status = 201, body = RegionView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<RegionBody>,
) -> Result<(StatusCode, Tagged<RegionView>), ProblemDocument> {
    let new = NewRegion { name: body.name, submission_host: body.submission_host };
    shared.made(move |app| app.put_region(&new, None)).await
}

#[utoipa::path(get, path = "/v2/regions/{name}", tag = "regions", params(("name" = String, Path)),
    responses((status = 200, body = RegionView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    scope: Scope,
    Path(name): Path<String>,
) -> Result<Tagged<RegionView>, ProblemDocument> {
    let desired = shared.app.desired();
    let region = desired.region(&name).filter(|region| sees(&desired, scope, region));
    shown(&desired, region, &name)
}

#[utoipa::path(put, path = "/v2/regions/{name}", tag = "regions", params(("name" = String, Path)),
    request_body = RegionValue, responses((status = 200, body = RegionView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<RegionValue>,
) -> Result<Tagged<RegionView>, ProblemDocument> {
    let when = when.sending(&body);
    let new = NewRegion { name, submission_host: body.submission_host };
    shared.changed(move |app| app.put_region(&new, Some(&when))).await
}

#[utoipa::path(delete, path = "/v2/regions/{name}", tag = "regions", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument), (status = 409, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_region(&name, &when)).await
}

fn sees(desired: &Desired, scope: Scope, region: &Region) -> bool {
    scope.0.is_none_or(|tenant| desired.region_of(tenant) == Some(region.id))
}

impl Resource for Region {
    type View = RegionView;
    type Entry = RegionEntry;

    fn entry(&self, _: &Desired) -> RegionEntry {
        RegionEntry::of(self)
    }

    fn view(&self, _: &Desired) -> RegionView {
        RegionView { id: self.id.0, name: self.name.clone(), submission_host: self.submission_host.clone() }
    }
}
