//! `/fleet`: what data planes fetch, and control planes of a region compare. Not of the API's versions, and no operator's or tenant's to ask: hosts of the cluster
//! show their certificate, or on loopback a token that follows from a master key.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use postrail_schema::suppressions::headers::{AT, HAVE, SINCE, TOTAL, VERSION};
use serde::Deserialize;

use super::Shared;
use super::extract::{Body, query};
use super::problem::ProblemDocument;
use super::room::Place;
use crate::app::{Comparison, SuppressionsAsked};
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

/// A host of the fleet, with its place; it is asked for before a body is read.
pub(crate) struct FleetHost {
    _place: Place,
}

impl FromRequestParts<Shared> for FleetHost {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ProblemDocument> {
        let peer = parts.extensions.get::<ConnectInfo<Peer>>().map(|peer| peer.0.proof);
        admit(shared, peer.unwrap_or(Proof::Unknown), &parts.headers)?;
        Ok(Self { _place: shared.rooms.host()? })
    }
}

/// The suppressions: what has changed since the point that the request names, or the whole list, with the version that it
/// has at least. Who names no point, as data planes of earlier versions do, gets the whole list.
pub(crate) async fn suppressions(
    State(shared): State<Shared>,
    _: FleetHost,
    headers: HeaderMap,
    wanted: Wanted,
) -> Result<Response, ProblemDocument> {
    let have = headers.get(HAVE).and_then(|value| value.to_str().ok());
    // What it says that is no point is nothing that could be amended.
    let has = have.and_then(|have| have.parse().ok());
    let asked = SuppressionsAsked { version: wanted.version, has };
    let answer = shared.run(move |app| app.suppressions_for(asked)).await?;
    if shared.app.is_to_count_suppressions() {
        let app = Arc::clone(&shared.app);
        tokio::task::spawn_blocking(move || app.count_suppressions());
    }
    let named = |name: &'static str, value: Option<String>| value.map(|value| (HeaderName::from_static(name), value));
    let said = [
        named(VERSION, Some(answer.version.to_string())),
        named(AT, Some(answer.at.to_string())),
        named(SINCE, answer.since.map(|since| since.to_string())),
        named(TOTAL, answer.total.map(|total| total.to_string())),
    ];
    let mut response = answer.body.into_response();
    for (name, value) in said.into_iter().flatten() {
        // Digits, letters and colons.
        response.headers_mut().extend(HeaderValue::from_str(&value).ok().map(|value| (name, value)));
    }
    Ok(response)
}

/// What is here of the suppressions of tenants without a region, where it is something else than a region has.
pub(crate) async fn compare(
    State(shared): State<Shared>,
    _: FleetHost,
    Body(asked): Body<Comparison>,
) -> Result<Response, ProblemDocument> {
    Ok(Json(shared.run(move |app| app.compare(asked)).await?).into_response())
}

/// Lets hosts of the fleet in.
fn admit(shared: &Shared, proof: Proof, headers: &HeaderMap) -> Result<(), ProblemDocument> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let is_one = |token: &String| verify_slices_are_equal(shown.as_bytes(), token.as_bytes()).is_ok();
    let is_host = match proof {
        Proof::Fleet => true,
        Proof::Loopback => shared.tokens.iter().any(is_one),
        Proof::Unknown => false,
    };
    match is_host {
        true => Ok(()),
        false => Err(ProblemDocument::new(StatusCode::UNAUTHORIZED, "unauthorized", "this is for hosts of the fleet")),
    }
}
