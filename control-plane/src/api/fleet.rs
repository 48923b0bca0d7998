//! `/fleet`: what data planes fetch, and control planes of a region compare. Not of the API's versions, and no operator's or tenant's to ask: hosts of the cluster
//! show their certificate, or on loopback a token that follows from a master key.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Shared;
use super::extract::{Body, query};
use super::problem::ProblemDocument;
use crate::app::Comparison;
use crate::listen::{Peer, Proof};

/// What the data plane knows and wants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The version that a publication names.
    version: u64,
}

impl FromRequestParts<Shared> for Wanted {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ProblemDocument> {
        query(parts)
    }
}

/// Every suppression, with the version that it has at least.
pub(crate) async fn suppressions(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    wanted: Wanted,
) -> Result<Response, ProblemDocument> {
    admit(&shared, peer, &headers)?;
    let (version, list) = shared.run(move |app| app.suppression_list(wanted.version)).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (HeaderName::from_static("x-suppressions-version"), version.to_string()),
    ];
    Ok((headers, list).into_response())
}

/// What is here of the suppressions of tenants without a region, where it is something else than a region has.
pub(crate) async fn compare(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    Body(asked): Body<Comparison>,
) -> Result<Response, ProblemDocument> {
    admit(&shared, peer, &headers)?;
    Ok(Json(shared.run(move |app| app.compare(asked)).await?).into_response())
}

/// Lets hosts of the fleet in.
fn admit(shared: &Shared, peer: Peer, headers: &HeaderMap) -> Result<(), ProblemDocument> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let is_one = |token: &String| verify_slices_are_equal(shown.as_bytes(), token.as_bytes()).is_ok();
    let is_host = match peer.proof {
        Proof::Fleet => true,
        Proof::Loopback => shared.tokens.iter().any(is_one),
        Proof::Unknown => false,
    };
    match is_host {
        true => Ok(()),
        false => Err(ProblemDocument::new(StatusCode::UNAUTHORIZED, "unauthorized", "this is for hosts of the fleet")),
    }
}
