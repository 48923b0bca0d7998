//! `/v2/pools`. A tenant sees its own pools and the shared ones.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::snapshot::{EgressPool, TrafficClass};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Numbers, Operator, Path, Scope, Tagged, TenantParams};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::app::NewPool;
use crate::plan::{Desired, PoolEntry};

/// An egress pool.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PoolView {
    /// Operators alone are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    name: String,
    /// Null: shared by all tenants.
    tenant: Option<String>,
    members: Vec<Member>,
    /// The traffic classes that it carries; empty: all.
    #[schema(value_type = Vec<String>)]
    classes: BTreeSet<TrafficClass>,
}

/// A source of a pool.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    source: String,
    /// Share among the sources, 1 to 1000; 1 by default.
    #[serde(default = "one")]
    weight: u32,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolBody {
    name: String,
    #[serde(default)]
    tenant: Option<String>,
    members: Vec<Member>,
    /// The traffic classes that it carries; all by default.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    classes: BTreeSet<TrafficClass>,
}

/// A pool but for its name, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolValue {
    #[serde(default)]
    tenant: Option<String>,
    members: Vec<Member>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    classes: BTreeSet<TrafficClass>,
}

#[utoipa::path(get, path = "/v2/pools", tag = "pools", params(PageParams, TenantParams),
    responses((status = 200, body = Page<PoolView>)))]
pub(crate) async fn list(State(shared): State<Shared>, listing: Listing, numbers: Numbers) -> Json<Page<PoolView>> {
    let desired = shared.app.desired();
    let seen = desired.pools.values().filter(|pool| listing.scope.sees(pool.tenant));
    Json(listing.by_name(seen, |pool| &pool.name, |pool| seen_by(numbers, pool.view(&desired))))
}

#[utoipa::path(post, path = "/v2/pools", tag = "pools", request_body = PoolBody,
    responses((status = 201, body = PoolView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<PoolBody>,
) -> Result<(StatusCode, Tagged<PoolView>), ProblemDocument> {
    let new = NewPool { name: body.name, tenant: body.tenant, members: named(body.members), classes: body.classes };
    shared.made(move |app| app.put_pool(&new, None)).await
}

#[utoipa::path(get, path = "/v2/pools/{name}", tag = "pools", params(("name" = String, Path), TenantParams),
    responses((status = 200, body = PoolView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    scope: Scope,
    numbers: Numbers,
    Path(name): Path<String>,
) -> Result<Tagged<PoolView>, ProblemDocument> {
    let desired = shared.app.desired();
    let pool = desired.pool(&name).filter(|pool| scope.sees(pool.tenant));
    let Tagged(tag, view) = shown(&desired, pool, &name)?;
    Ok(Tagged(tag, seen_by(numbers, view)))
}

fn seen_by(numbers: Numbers, view: PoolView) -> PoolView {
    PoolView { id: view.id.and_then(|id| numbers.show(id)), ..view }
}

#[utoipa::path(put, path = "/v2/pools/{name}", tag = "pools", params(("name" = String, Path)),
    request_body = PoolValue, responses((status = 200, body = PoolView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<PoolValue>,
) -> Result<Tagged<PoolView>, ProblemDocument> {
    let when = when.sending(&body);
    let new = NewPool { name, tenant: body.tenant, members: named(body.members), classes: body.classes };
    shared.changed(move |app| app.put_pool(&new, Some(&when))).await
}

#[utoipa::path(delete, path = "/v2/pools/{name}", tag = "pools", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument), (status = 409, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_pool(&name, &when)).await
}

fn named(members: Vec<Member>) -> Vec<(String, u32)> {
    members.into_iter().map(|member| (member.source, member.weight)).collect()
}

impl Resource for EgressPool {
    type View = PoolView;
    type Entry = PoolEntry;

    fn entry(&self, desired: &Desired) -> PoolEntry {
        PoolEntry::of(desired, self)
    }

    fn view(&self, desired: &Desired) -> PoolView {
        let members = self.members.iter().map(|member| Member {
            source: desired.sources.get(&member.source).map(|source| source.name.clone()).unwrap_or_default(),
            weight: member.weight,
        });
        PoolView {
            id: Some(self.id.0),
            name: self.name.clone(),
            tenant: self.tenant.and_then(|tenant| desired.tenants.get(&tenant)).map(|tenant| tenant.name.clone()),
            members: members.collect(),
            classes: self.classes.clone(),
        }
    }
}

const fn one() -> u32 {
    1
}
