//! `/v2/routing-rules`: the operator's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::policy::RoutingRule;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::plan::{Desired, RoutingRuleEntry, SelectorEntry};

/// A routing rule but for its name, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoutingRuleValue {
    #[serde(default, rename = "match")]
    mail: SelectorEntry,
    pool: String,
}

#[utoipa::path(get, path = "/v2/routing-rules", tag = "routing_rules", params(PageParams),
    responses((status = 200, body = Page<RoutingRuleEntry>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<RoutingRuleEntry>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.routing_rules.values(), |rule| &rule.name, |rule| rule.view(&desired)))
}

#[utoipa::path(post, path = "/v2/routing-rules", tag = "routing_rules", request_body = RoutingRuleEntry,
    responses((status = 201, body = RoutingRuleEntry), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<RoutingRuleEntry>,
) -> Result<(StatusCode, Tagged<RoutingRuleEntry>), ProblemDocument> {
    shared.made(move |app| app.put_routing_rule(&body, None)).await
}

#[utoipa::path(get, path = "/v2/routing-rules/{name}", tag = "routing_rules", params(("name" = String, Path)),
    responses((status = 200, body = RoutingRuleEntry), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<RoutingRuleEntry>, ProblemDocument> {
    let desired = shared.app.desired();
    shown(&desired, desired.routing_rules.get(&name), &name)
}

#[utoipa::path(put, path = "/v2/routing-rules/{name}", tag = "routing_rules", params(("name" = String, Path)),
    request_body = RoutingRuleValue,
    responses((status = 200, body = RoutingRuleEntry), (status = 404, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<RoutingRuleValue>,
) -> Result<Tagged<RoutingRuleEntry>, ProblemDocument> {
    let when = when.sending(&body);
    let RoutingRuleValue { mail, pool } = body;
    let entry = RoutingRuleEntry { name, mail, pool };
    shared.changed(move |app| app.put_routing_rule(&entry, Some(&when))).await
}

#[utoipa::path(delete, path = "/v2/routing-rules/{name}", tag = "routing_rules", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_routing_rule(&name, &when)).await
}

impl Resource for RoutingRule {
    type View = RoutingRuleEntry;
    type Entry = RoutingRuleEntry;

    fn entry(&self, desired: &Desired) -> RoutingRuleEntry {
        RoutingRuleEntry::of(desired, self)
    }

    fn view(&self, desired: &Desired) -> RoutingRuleEntry {
        self.entry(desired)
    }
}
