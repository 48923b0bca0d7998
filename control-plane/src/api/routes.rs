//! `/v2/routes`: the operator's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::snapshot::Route;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use crate::app::{NewRoute, route_asked};
use crate::plan::{RouteEntry, entity_tag};

/// A route.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteBody {
    /// Recipient domain, or `*`.
    domain: String,
    /// Null: the recipient's own MX.
    #[serde(default)]
    routing_domain: Option<String>,
    /// 1 to 65535; 25 by default.
    #[serde(default = "smtp_port")]
    port: u16,
    /// Receivers at private and loopback addresses are allowed.
    #[serde(default)]
    allow_private: bool,
}

#[utoipa::path(get, path = "/v2/routes", tag = "routes", params(PageParams),
    responses((status = 200, body = Page<RouteBody>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<RouteBody>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.routes.values(), |route| &route.domain, |route| view(route)))
}

/// Makes the route of that domain, or replaces it.
#[utoipa::path(post, path = "/v2/routes", tag = "routes", params(("If-Match" = Option<String>, Header)),
    request_body = RouteBody,
    responses((status = 201, body = RouteBody), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    IfMatch(when): IfMatch,
    Body(body): Body<RouteBody>,
) -> Result<(StatusCode, Tagged<RouteBody>), ProblemDocument> {
    let when = when.sending(&body);
    let RouteBody { domain, routing_domain, port, allow_private } = body;
    let new = NewRoute { domain, routing_domain, port, allow_private };
    let route = shared.run(move |app| app.put_route(&new, &when)).await?;
    Ok((StatusCode::CREATED, tagged(&route)))
}

#[utoipa::path(get, path = "/v2/routes/{domain}", tag = "routes", params(("domain" = String, Path)),
    responses((status = 200, body = RouteBody), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(domain): Path<String>,
) -> Result<Tagged<RouteBody>, ProblemDocument> {
    let desired = shared.app.desired();
    let domain = route_asked(&domain)?;
    let route = desired.routes.get(&domain).ok_or_else(|| ProblemDocument::not_found(&format!("route {domain}")))?;
    Ok(tagged(route))
}

#[utoipa::path(delete, path = "/v2/routes/{domain}", tag = "routes", params(("domain" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(domain): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.run(move |app| app.delete_route(&domain, &when)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn tagged(route: &Route) -> Tagged<RouteBody> {
    Tagged(entity_tag(&RouteEntry::of(route)), view(route))
}

fn view(route: &Route) -> RouteBody {
    RouteBody {
        domain: route.domain.clone(),
        routing_domain: route.routing_domain.clone(),
        port: route.port,
        allow_private: route.allow_private,
    }
}

const fn smtp_port() -> u16 {
    25
}
