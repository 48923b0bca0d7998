//! `/v2/sources`. The operator's: tenants see sources through the events of their mail.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use postrail_schema::snapshot::EgressSource;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, Operator};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use crate::app::NewSource;

/// An egress source.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SourceView {
    id: u32,
    name: String,
    /// `0.0.0.0` or `::`: the host's choice.
    #[schema(value_type = String)]
    address: IpAddr,
    ehlo_name: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceBody {
    name: String,
    #[schema(value_type = String)]
    address: IpAddr,
    ehlo_name: String,
}

/// A source but for its name, which is in the path.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceValue {
    #[schema(value_type = String)]
    address: IpAddr,
    ehlo_name: String,
}

#[utoipa::path(get, path = "/v2/sources", tag = "sources", params(PageParams),
    responses((status = 200, body = Page<SourceView>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<SourceView>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.sources.values(), |source| &source.name, |source| view(source)))
}

#[utoipa::path(post, path = "/v2/sources", tag = "sources", request_body = SourceBody,
    responses((status = 201, body = SourceView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<SourceBody>,
) -> Result<(StatusCode, Json<SourceView>), ProblemDocument> {
    let new = NewSource { name: body.name, address: body.address, ehlo_name: body.ehlo_name };
    let source = shared.run(move |app| app.put_source(&new, false)).await?;
    Ok((StatusCode::CREATED, Json(view(&source))))
}

#[utoipa::path(get, path = "/v2/sources/{name}", tag = "sources", params(("name" = String, Path)),
    responses((status = 200, body = SourceView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Json<SourceView>, ProblemDocument> {
    let desired = shared.app.desired();
    let source = desired.source(&name).ok_or_else(|| ProblemDocument::not_found(&format!("source {name}")))?;
    Ok(Json(view(source)))
}

#[utoipa::path(put, path = "/v2/sources/{name}", tag = "sources", params(("name" = String, Path)),
    request_body = SourceValue, responses((status = 200, body = SourceView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    Body(body): Body<SourceValue>,
) -> Result<Json<SourceView>, ProblemDocument> {
    let new = NewSource { name, address: body.address, ehlo_name: body.ehlo_name };
    let source = shared.run(move |app| app.put_source(&new, true)).await?;
    Ok(Json(view(&source)))
}

#[utoipa::path(delete, path = "/v2/sources/{name}", tag = "sources", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument), (status = 409, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<StatusCode, ProblemDocument> {
    shared.run(move |app| app.delete_source(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(source: &EgressSource) -> SourceView {
    SourceView {
        id: source.id.0,
        name: source.name.clone(),
        address: source.address,
        ehlo_name: source.ehlo_name.clone(),
    }
}
