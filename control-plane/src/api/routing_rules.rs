//! `/v2/routing-rules`: the operator's.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use postrail_schema::policy::RoutingRule;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use crate::plan::{Desired, RoutingRuleEntry, SelectorEntry, entity_tag};

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
    let all = desired.routing_rules.values();
    Json(listing.by_name(all, |rule| &rule.name, |rule| RoutingRuleEntry::of(&desired, rule)))
}

#[utoipa::path(post, path = "/v2/routing-rules", tag = "routing_rules", request_body = RoutingRuleEntry,
    responses((status = 201, body = RoutingRuleEntry), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<RoutingRuleEntry>,
) -> Result<(StatusCode, Tagged<RoutingRuleEntry>), ProblemDocument> {
    let rule = shared.run(move |app| app.put_routing_rule(&body, None)).await?;
    Ok((StatusCode::CREATED, tagged(&shared.app.desired(), &rule)))
}

#[utoipa::path(get, path = "/v2/routing-rules/{name}", tag = "routing_rules", params(("name" = String, Path)),
    responses((status = 200, body = RoutingRuleEntry), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<RoutingRuleEntry>, ProblemDocument> {
    let desired = shared.app.desired();
    let found = desired.routing_rules.get(&name);
    let rule = found.ok_or_else(|| ProblemDocument::not_found(&format!("routing rule {name}")))?;
    Ok(tagged(&desired, rule))
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
    let rule = shared.run(move |app| app.put_routing_rule(&entry, Some(&when))).await?;
    Ok(tagged(&shared.app.desired(), &rule))
}

#[utoipa::path(delete, path = "/v2/routing-rules/{name}", tag = "routing_rules", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.run(move |app| app.delete_routing_rule(&name, &when)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn tagged(desired: &Desired, rule: &RoutingRule) -> Tagged<RoutingRuleEntry> {
    let entry = RoutingRuleEntry::of(desired, rule);
    Tagged(entity_tag(&entry), entry)
}
