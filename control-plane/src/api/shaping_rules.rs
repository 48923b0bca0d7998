//! `/v2/shaping-rules`: rules that set throttles and limits. The operator's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::shaping::{Rate, ShapingRule};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::plan::{Desired, ShapingMatchEntry, ShapingRuleEntry};

/// A shaping rule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShapingRuleView {
    id: u32,
    #[serde(flatten)]
    rule: ShapingRuleEntry,
}

/// A shaping rule but for its name, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShapingRuleValue {
    /// Which mail it is about; nothing: all.
    #[serde(default, rename = "match")]
    matches: ShapingMatchEntry,
    /// Connections at once, 1 to 4096.
    #[serde(default)]
    connections: Option<u32>,
    /// 1 to 1000000.
    #[serde(default)]
    mails_per_connection: Option<u32>,
    /// Such as `100/s`, `60/min`, `10000/h` or `1/d`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    mail_rate: Option<Rate>,
    /// Connections begun, such as `100/min`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    connection_rate: Option<Rate>,
}

#[utoipa::path(get, path = "/v2/shaping-rules", tag = "shaping-rules", params(PageParams),
    responses((status = 200, body = Page<ShapingRuleView>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<ShapingRuleView>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.shaping_rules.values(), |rule| &rule.name, |rule| rule.view(&desired)))
}

#[utoipa::path(post, path = "/v2/shaping-rules", tag = "shaping-rules", request_body = ShapingRuleEntry,
    responses((status = 201, body = ShapingRuleView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(new): Body<ShapingRuleEntry>,
) -> Result<(StatusCode, Tagged<ShapingRuleView>), ProblemDocument> {
    shared.made(move |app| app.put_shaping_rule(&new, None)).await
}

#[utoipa::path(get, path = "/v2/shaping-rules/{name}", tag = "shaping-rules", params(("name" = String, Path)),
    responses((status = 200, body = ShapingRuleView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<ShapingRuleView>, ProblemDocument> {
    let desired = shared.app.desired();
    shown(&desired, desired.shaping_rule(&name), &name)
}

#[utoipa::path(put, path = "/v2/shaping-rules/{name}", tag = "shaping-rules", params(("name" = String, Path)),
    request_body = ShapingRuleValue, responses((status = 200, body = ShapingRuleView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<ShapingRuleValue>,
) -> Result<Tagged<ShapingRuleView>, ProblemDocument> {
    let when = when.sending(&body);
    let ShapingRuleValue { matches, connections, mails_per_connection, mail_rate, connection_rate } = body;
    let new = ShapingRuleEntry { name, matches, connections, mails_per_connection, mail_rate, connection_rate };
    shared.changed(move |app| app.put_shaping_rule(&new, Some(&when))).await
}

#[utoipa::path(delete, path = "/v2/shaping-rules/{name}", tag = "shaping-rules", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_shaping_rule(&name, &when)).await
}

impl Resource for ShapingRule {
    type View = ShapingRuleView;
    type Entry = ShapingRuleEntry;

    fn entry(&self, desired: &Desired) -> ShapingRuleEntry {
        ShapingRuleEntry::of(desired, self)
    }

    fn view(&self, desired: &Desired) -> ShapingRuleView {
        ShapingRuleView { id: self.id.0, rule: self.entry(desired) }
    }
}
