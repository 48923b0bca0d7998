//! `/v2/tenants`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use postrail_schema::limits::MESSAGE_BYTES_MAX;
use postrail_schema::snapshot::Tenant;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Scope, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::app::{NewTenant, TenantChange};
use crate::plan::{Desired, TenantEntry};

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantView {
    id: u32,
    name: String,
    /// Recipients a UTC day, counted by each host for itself and in memory: a fleet of N hosts accepts N times as many at most,
    /// and a restart begins anew. Null: no quota.
    quota_per_day: Option<u64>,
    weight: u32,
    message_bytes_max: u32,
    /// The region whose hosts alone serve it; null: every host does.
    region: Option<String>,
    /// Recipients a second that go ahead of all that is not reserved, on each host; null: no reserve.
    reserved_per_s: Option<u32>,
    /// Mail of its domains that fail in DNS is accepted and waits for a person, instead of being sent or refused.
    quarantine: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantBody {
    name: String,
    /// Recipients a UTC day, on each host; no quota by default.
    #[serde(default)]
    quota_per_day: Option<u64>,
    /// 1 by default.
    #[serde(default)]
    weight: Option<u32>,
    /// The product's limit by default.
    #[serde(default)]
    message_bytes_max: Option<u32>,
    /// By name; absent: every host serves it. It cannot be changed later.
    #[serde(default)]
    region: Option<String>,
    /// Absent: no reserve.
    #[serde(default)]
    reserved_per_s: Option<u32>,
    /// Keeps mail of domains that fail in DNS for a person; false by default.
    #[serde(default)]
    quarantine: bool,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantPatch {
    /// Null: no quota; absent: as it is.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    quota_per_day: Option<Option<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_bytes_max: Option<u32>,
    /// Null: no reserve; absent: as it is.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    reserved_per_s: Option<Option<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quarantine: Option<bool>,
}

#[utoipa::path(get, path = "/v2/tenants", tag = "tenants", params(PageParams),
    responses((status = 200, body = Page<TenantView>)))]
pub(crate) async fn list(State(shared): State<Shared>, listing: Listing) -> Json<Page<TenantView>> {
    let desired = shared.app.desired();
    let seen = desired.tenants.values().filter(|tenant| listing.scope.sees(tenant.id));
    Json(listing.by_name(seen, |tenant| &tenant.name, |tenant| tenant.view(&desired)))
}

#[utoipa::path(post, path = "/v2/tenants", tag = "tenants", request_body = TenantBody,
    responses((status = 201, body = TenantView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<TenantBody>,
) -> Result<(StatusCode, Tagged<TenantView>), ProblemDocument> {
    let most = u32::try_from(MESSAGE_BYTES_MAX).unwrap_or(u32::MAX);
    let new = NewTenant {
        name: body.name,
        quota_per_day: body.quota_per_day,
        weight: body.weight.unwrap_or(1),
        message_bytes_max: body.message_bytes_max.unwrap_or(most),
        region: body.region,
        reserved_per_s: body.reserved_per_s,
        quarantines: body.quarantine,
    };
    shared.made(move |app| app.create_tenant(&new)).await
}

#[utoipa::path(get, path = "/v2/tenants/{name}", tag = "tenants", params(("name" = String, Path)),
    responses((status = 200, body = TenantView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    scope: Scope,
    Path(name): Path<String>,
) -> Result<Tagged<TenantView>, ProblemDocument> {
    let desired = shared.app.desired();
    let tenant = desired.tenant(&name).filter(|tenant| scope.sees(tenant.id));
    shown(&desired, tenant, &name)
}

#[utoipa::path(patch, path = "/v2/tenants/{name}", tag = "tenants", params(("name" = String, Path)),
    request_body = TenantPatch, responses((status = 200, body = TenantView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn change(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(patch): Body<TenantPatch>,
) -> Result<Tagged<TenantView>, ProblemDocument> {
    let when = when.sending(&patch);
    let change = TenantChange {
        quota_per_day: patch.quota_per_day,
        weight: patch.weight,
        message_bytes_max: patch.message_bytes_max,
        reserved_per_s: patch.reserved_per_s,
        quarantines: patch.quarantine,
    };
    shared.changed(move |app| app.change_tenant(&name, &change, &when)).await
}

#[utoipa::path(delete, path = "/v2/tenants/{name}", tag = "tenants", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument), (status = 409, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_tenant(&name, &when)).await
}

impl Resource for Tenant {
    type View = TenantView;
    type Entry = TenantEntry;

    fn entry(&self, desired: &Desired) -> TenantEntry {
        TenantEntry::of(desired, self)
    }

    fn view(&self, desired: &Desired) -> TenantView {
        let region = self.region.and_then(|region| desired.regions.get(&region));
        TenantView {
            id: self.id.0,
            name: self.name.clone(),
            quota_per_day: self.quota_per_day,
            weight: self.weight,
            message_bytes_max: self.message_bytes_max,
            region: region.map(|region| region.name.clone()),
            reserved_per_s: self.reserved_per_s,
            quarantine: self.quarantines,
        }
    }
}

/// Tells a null from an absent field.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}
