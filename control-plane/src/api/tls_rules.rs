//! `/v2/tls-rules`: the operator's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::tls::{TlsLevel, TlsRule, TlsVersion};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown, unless_default};
use crate::plan::{Desired, SelectorEntry, TlsRuleEntry};

/// A TLS rule but for its name, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsRuleValue {
    #[serde(default, rename = "match")]
    mail: SelectorEntry,
    /// `opportunistic`, `required` or `verified`.
    #[schema(value_type = String)]
    level: TlsLevel,
    /// `1.2` or `1.3`; `1.2` by default.
    #[serde(default, serialize_with = "unless_default")]
    #[schema(value_type = String, required = false)]
    minimum_version: TlsVersion,
    /// MX hosts that may be used: names, or suffixes that begin with a dot; any by default. Only with `verified`.
    #[serde(default)]
    hosts: Vec<String>,
}

#[utoipa::path(get, path = "/v2/tls-rules", tag = "tls_rules", params(PageParams),
    responses((status = 200, body = Page<TlsRuleEntry>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<TlsRuleEntry>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.tls_rules.values(), |rule| &rule.name, |rule| rule.view(&desired)))
}

#[utoipa::path(post, path = "/v2/tls-rules", tag = "tls_rules", request_body = TlsRuleEntry,
    responses((status = 201, body = TlsRuleEntry), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<TlsRuleEntry>,
) -> Result<(StatusCode, Tagged<TlsRuleEntry>), ProblemDocument> {
    shared.made(move |app| app.put_tls_rule(&body, None)).await
}

#[utoipa::path(get, path = "/v2/tls-rules/{name}", tag = "tls_rules", params(("name" = String, Path)),
    responses((status = 200, body = TlsRuleEntry), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<TlsRuleEntry>, ProblemDocument> {
    let desired = shared.app.desired();
    shown(&desired, desired.tls_rules.get(&name), &name)
}

#[utoipa::path(put, path = "/v2/tls-rules/{name}", tag = "tls_rules", params(("name" = String, Path)),
    request_body = TlsRuleValue,
    responses((status = 200, body = TlsRuleEntry), (status = 404, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<TlsRuleValue>,
) -> Result<Tagged<TlsRuleEntry>, ProblemDocument> {
    let when = when.sending(&body);
    let TlsRuleValue { mail, level, minimum_version, hosts } = body;
    let entry = TlsRuleEntry { name, mail, level, minimum_version, hosts };
    shared.changed(move |app| app.put_tls_rule(&entry, Some(&when))).await
}

#[utoipa::path(delete, path = "/v2/tls-rules/{name}", tag = "tls_rules", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_tls_rule(&name, &when)).await
}

impl Resource for TlsRule {
    type View = TlsRuleEntry;
    type Entry = TlsRuleEntry;

    fn entry(&self, desired: &Desired) -> TlsRuleEntry {
        TlsRuleEntry::of(desired, self)
    }

    fn view(&self, desired: &Desired) -> TlsRuleEntry {
        self.entry(desired)
    }
}
