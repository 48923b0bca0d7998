//! `/v2/retry-policies`: the operator's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::policy::RetryPolicy;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::plan::{Desired, RetryPolicyEntry, SelectorEntry};

/// A retry policy but for its name, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryPolicyValue {
    #[serde(default, rename = "match")]
    mail: SelectorEntry,
    /// Seconds until the second attempt, 1 to 604800.
    #[serde(default)]
    first_delay_s: Option<u32>,
    /// Each delay by the one before it, 100 to 1000.
    #[serde(default)]
    factor_percent: Option<u32>,
    /// Seconds, not below the first, 1 to 604800.
    #[serde(default)]
    longest_delay_s: Option<u32>,
    /// Seconds from acceptance, at which it is fixed, 10 to 2592000.
    #[serde(default)]
    expiry_s: Option<u32>,
}

#[utoipa::path(get, path = "/v2/retry-policies", tag = "retry_policies", params(PageParams),
    responses((status = 200, body = Page<RetryPolicyEntry>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<RetryPolicyEntry>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.retry_policies.values(), |policy| &policy.name, |policy| policy.view(&desired)))
}

#[utoipa::path(post, path = "/v2/retry-policies", tag = "retry_policies", request_body = RetryPolicyEntry,
    responses((status = 201, body = RetryPolicyEntry), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<RetryPolicyEntry>,
) -> Result<(StatusCode, Tagged<RetryPolicyEntry>), ProblemDocument> {
    shared.made(move |app| app.put_retry_policy(&body, None)).await
}

#[utoipa::path(get, path = "/v2/retry-policies/{name}", tag = "retry_policies", params(("name" = String, Path)),
    responses((status = 200, body = RetryPolicyEntry), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<RetryPolicyEntry>, ProblemDocument> {
    let desired = shared.app.desired();
    shown(&desired, desired.retry_policies.get(&name), &name)
}

#[utoipa::path(put, path = "/v2/retry-policies/{name}", tag = "retry_policies", params(("name" = String, Path)),
    request_body = RetryPolicyValue,
    responses((status = 200, body = RetryPolicyEntry), (status = 404, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<RetryPolicyValue>,
) -> Result<Tagged<RetryPolicyEntry>, ProblemDocument> {
    let when = when.sending(&body);
    let RetryPolicyValue { mail, first_delay_s, factor_percent, longest_delay_s, expiry_s } = body;
    let entry = RetryPolicyEntry { name, mail, first_delay_s, factor_percent, longest_delay_s, expiry_s };
    shared.changed(move |app| app.put_retry_policy(&entry, Some(&when))).await
}

#[utoipa::path(delete, path = "/v2/retry-policies/{name}", tag = "retry_policies", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_retry_policy(&name, &when)).await
}

impl Resource for RetryPolicy {
    type View = RetryPolicyEntry;
    type Entry = RetryPolicyEntry;

    fn entry(&self, desired: &Desired) -> RetryPolicyEntry {
        RetryPolicyEntry::of(desired, self)
    }

    fn view(&self, desired: &Desired) -> RetryPolicyEntry {
        self.entry(desired)
    }
}
