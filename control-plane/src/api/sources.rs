//! `/v2/sources`. The operator's: tenants see sources through the events of their mail.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::snapshot::EgressSource;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::app::{NewNeeds, NewSource};
use crate::plan::{Desired, SourceEntry};

/// An egress source.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SourceView {
    id: u32,
    name: String,
    /// `0.0.0.0` or `::`: the host's choice.
    #[schema(value_type = String)]
    address: IpAddr,
    ehlo_name: String,
    /// The interface that carries the address; null: the host's choice.
    nic: Option<String>,
    /// The network brings the address to its host.
    routed: bool,
    /// The one host that may have the address; null: any.
    host: Option<String>,
    /// What a host must have announced to have the address.
    capabilities: Vec<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceBody {
    name: String,
    #[schema(value_type = String)]
    address: IpAddr,
    ehlo_name: String,
    /// Put the address on this interface of its host (in a fleet).
    #[serde(default)]
    nic: Option<String>,
    /// The network brings the address to its host: nothing is put on an interface.
    #[serde(default)]
    routed: bool,
    /// No other host may have the address, and this one keeps it also while it cannot reach etcd.
    #[serde(default)]
    host: Option<String>,
    /// A host must have announced all of these to have the address.
    #[serde(default)]
    capabilities: Vec<String>,
}

/// A source but for its name, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceValue {
    #[schema(value_type = String)]
    address: IpAddr,
    ehlo_name: String,
    #[serde(default)]
    nic: Option<String>,
    #[serde(default)]
    routed: bool,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    capabilities: Vec<String>,
}

#[utoipa::path(get, path = "/v2/sources", tag = "sources", params(PageParams),
    responses((status = 200, body = Page<SourceView>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<SourceView>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.sources.values(), |source| &source.name, |source| source.view(&desired)))
}

#[utoipa::path(post, path = "/v2/sources", tag = "sources", request_body = SourceBody,
    responses((status = 201, body = SourceView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<SourceBody>,
) -> Result<(StatusCode, Tagged<SourceView>), ProblemDocument> {
    let SourceBody { name, address, ehlo_name, nic, routed, host, capabilities } = body;
    let new = NewSource { name, address, ehlo_name, needs: NewNeeds { nic, routed, host, capabilities } };
    shared.made(move |app| app.put_source(&new, None)).await
}

#[utoipa::path(get, path = "/v2/sources/{name}", tag = "sources", params(("name" = String, Path)),
    responses((status = 200, body = SourceView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<SourceView>, ProblemDocument> {
    let desired = shared.app.desired();
    shown(&desired, desired.source(&name), &name)
}

#[utoipa::path(put, path = "/v2/sources/{name}", tag = "sources", params(("name" = String, Path)),
    request_body = SourceValue, responses((status = 200, body = SourceView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<SourceValue>,
) -> Result<Tagged<SourceView>, ProblemDocument> {
    let when = when.sending(&body);
    let SourceValue { address, ehlo_name, nic, routed, host, capabilities } = body;
    let new = NewSource { name, address, ehlo_name, needs: NewNeeds { nic, routed, host, capabilities } };
    shared.changed(move |app| app.put_source(&new, Some(&when))).await
}

#[utoipa::path(delete, path = "/v2/sources/{name}", tag = "sources", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument), (status = 409, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_source(&name, &when)).await
}

impl Resource for EgressSource {
    type View = SourceView;
    type Entry = SourceEntry;

    fn entry(&self, _: &Desired) -> SourceEntry {
        SourceEntry::of(self)
    }

    fn view(&self, _: &Desired) -> SourceView {
        let SourceEntry { name, address, ehlo_name, nic, routed, host, capabilities } = SourceEntry::of(self);
        SourceView { id: self.id.0, name, address, ehlo_name, nic, routed, host, capabilities }
    }
}
