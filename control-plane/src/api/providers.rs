//! `/v2/providers`: human names over several sites. The operator's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::shaping::Provider;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::plan::{Desired, ProviderEntry};

/// A provider.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProviderView {
    id: u32,
    #[serde(flatten)]
    provider: ProviderEntry,
}

/// A provider but for its name, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProviderValue {
    /// Its MX hosts: names, or suffixes that begin with a dot, such as `.google.com`.
    hosts: Vec<String>,
}

#[utoipa::path(get, path = "/v2/providers", tag = "providers", params(PageParams),
    responses((status = 200, body = Page<ProviderView>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<ProviderView>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.providers.values(), |provider| &provider.name, |provider| provider.view(&desired)))
}

#[utoipa::path(post, path = "/v2/providers", tag = "providers", request_body = ProviderEntry,
    responses((status = 201, body = ProviderView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(new): Body<ProviderEntry>,
) -> Result<(StatusCode, Tagged<ProviderView>), ProblemDocument> {
    shared.made(move |app| app.put_provider(&new, None)).await
}

#[utoipa::path(get, path = "/v2/providers/{name}", tag = "providers", params(("name" = String, Path)),
    responses((status = 200, body = ProviderView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<ProviderView>, ProblemDocument> {
    let desired = shared.app.desired();
    shown(&desired, desired.provider(&name), &name)
}

#[utoipa::path(put, path = "/v2/providers/{name}", tag = "providers", params(("name" = String, Path)),
    request_body = ProviderValue, responses((status = 200, body = ProviderView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<ProviderValue>,
) -> Result<Tagged<ProviderView>, ProblemDocument> {
    let when = when.sending(&body);
    let new = ProviderEntry { name, hosts: body.hosts };
    shared.changed(move |app| app.put_provider(&new, Some(&when))).await
}

#[utoipa::path(delete, path = "/v2/providers/{name}", tag = "providers", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument), (status = 409, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_provider(&name, &when)).await
}

impl Resource for Provider {
    type View = ProviderView;
    type Entry = ProviderEntry;

    fn entry(&self, _: &Desired) -> ProviderEntry {
        ProviderEntry::of(self)
    }

    fn view(&self, desired: &Desired) -> ProviderView {
        ProviderView { id: self.id.0, provider: self.entry(desired) }
    }
}
