//! `/v2/tenants`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::limits::MESSAGE_BYTES_MAX;
use postrail_schema::snapshot::Tenant;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Numbers, Operator, Path, Scope, Tagged, TenantParams};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::app::{AppError, NewTenant, QuotaUse, TenantChange};
use crate::plan::{Desired, TenantEntry};

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantView {
    /// Operators alone are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    name: String,
    /// Recipients a UTC day, over all hosts of a region: together they can be over it by what is accepted within about a
    /// second. Null: no quota.
    quota_per_day: Option<u64>,
    weight: u32,
    /// Octets of a message, 8192 to 20971520, with the 2000 or so that are counted for what is added to it.
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
    /// Recipients a UTC day, over all hosts of a region, 0 to 100,000,000,000; no quota by default.
    #[serde(default)]
    quota_per_day: Option<u64>,
    /// Share among tenants when they compete, 1 to 1000; 1 by default.
    #[serde(default)]
    weight: Option<u32>,
    /// Octets of a message, 8192 to 20971520, with the 2000 or so that are counted for what is added to it; the most by default.
    #[serde(default)]
    message_bytes_max: Option<u32>,
    /// By name; absent: every host serves it. It cannot be changed later.
    #[serde(default)]
    region: Option<String>,
    /// Recipients a second that go ahead of all that is not reserved, 1 to 1000000; absent: no reserve.
    #[serde(default)]
    reserved_per_s: Option<u32>,
    /// Keeps mail of domains that fail in DNS for a person; false by default.
    #[serde(default)]
    quarantine: bool,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantPatch {
    /// Recipients a UTC day, 0 to 100,000,000,000. Null: no quota; absent: as it is.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    quota_per_day: Option<Option<u64>>,
    /// 1 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    /// Octets of a message, 8192 to 20971520, with the 2000 or so that are counted for what is added to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_bytes_max: Option<u32>,
    /// 1 to 1000000. Null: no reserve; absent: as it is.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    reserved_per_s: Option<Option<u32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quarantine: Option<bool>,
}

/// What of a tenant's quota is used up.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuotaView {
    /// The UTC day that is counted, such as `2026-11-29`.
    day: String,
    /// Null: no quota.
    quota_per_day: Option<u64>,
    /// Recipients that were accepted, as far as the ledger has been told; the data planes may be about a second ahead.
    used: u64,
    hosts: Vec<HostUseView>,
}

/// What a host has accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HostUseView {
    /// Null: the only one, or those that do not run now.
    host: Option<String>,
    used: u64,
}

#[utoipa::path(get, path = "/v2/tenants", tag = "tenants", params(PageParams, TenantParams),
    responses((status = 200, body = Page<TenantView>)))]
pub(crate) async fn list(State(shared): State<Shared>, listing: Listing, numbers: Numbers) -> Json<Page<TenantView>> {
    let desired = shared.app.desired();
    let seen = desired.tenants.values().filter(|tenant| listing.scope.sees(tenant.id));
    Json(listing.by_name(seen, |tenant| &tenant.name, |tenant| seen_by(numbers, tenant.view(&desired))))
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
    numbers: Numbers,
    Path(name): Path<String>,
) -> Result<Tagged<TenantView>, ProblemDocument> {
    let desired = shared.app.desired();
    let tenant = desired.tenant(&name).filter(|tenant| scope.sees(tenant.id));
    let Tagged(tag, view) = shown(&desired, tenant, &name)?;
    Ok(Tagged(tag, seen_by(numbers, view)))
}

fn seen_by(numbers: Numbers, view: TenantView) -> TenantView {
    TenantView { id: view.id.and_then(|id| numbers.show(id)), ..view }
}

/// What of the tenant's quota is used up today (UTC), by host; in the region of this control plane.
#[utoipa::path(get, path = "/v2/tenants/{name}/quota", tag = "tenants",
    params(("name" = String, Path), TenantParams),
    responses((status = 200, body = QuotaView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn quota(
    State(shared): State<Shared>,
    scope: Scope,
    Path(name): Path<String>,
) -> Result<Json<QuotaView>, ProblemDocument> {
    let used = shared
        .run(move |app| {
            let desired = app.desired();
            let tenant = desired.tenant(&name).filter(|tenant| scope.sees(tenant.id));
            app.quota_use(tenant.ok_or_else(|| AppError::not_found("tenant", name))?)
        })
        .await?;
    Ok(Json(used.into()))
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
            id: Some(self.id.0),
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

impl From<QuotaUse> for QuotaView {
    fn from(used: QuotaUse) -> Self {
        let QuotaUse { day, quota_per_day, hosts } = used;
        let total = hosts.values().sum();
        let hosts = hosts.into_iter().map(|(host, used)| HostUseView { host, used }).collect();
        Self { day: day.to_string(), quota_per_day, used: total, hosts }
    }
}

/// Tells a null from an absent field.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}
