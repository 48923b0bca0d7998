//! What a request may have beside its path, by the description of its operation: parameters of the query, a body, If-Match.
//!
//! Invariant worth naming: it is asked once, before any handler, and for every operation, so that none ignores what a caller
//! meant by it. Absent here: what the parameters and the body say (`extract`, `read`), and whether an If-Match holds (`app`).

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{MatchedPath, Query, Request};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use postrail_schema::limits::CONTROL_BODY_BYTES_MAX;
use serde::Deserialize;

use super::extract::{in_time, patience};
use super::openapi::{Takes, takes};
use super::problem::ProblemDocument;
use super::read;
use super::rights::changes_nothing;

/// A body that says nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Lets requests through that have nothing which their operation does not take.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    match checked(request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn checked(request: Request) -> Result<Request, ProblemDocument> {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
    // What is not described has no handler; the router says so.
    let Some(takes) = takes(request.method(), path) else { return Ok(request) };
    check_query(takes, request.uri())?;
    let reads = changes_nothing(request.method(), request.uri().path());
    if !takes.if_match && !reads && request.headers().contains_key(header::IF_MATCH) {
        let detail = "what this changes has no entity tag: leave If-Match out";
        return Err(ProblemDocument::new(StatusCode::BAD_REQUEST, "invalid_if_match", detail));
    }
    if takes.body || request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let bytes = in_time(patience(&parts.headers), to_bytes(body, CONTROL_BODY_BYTES_MAX)).await?.map_err(|_| {
        ProblemDocument::new(StatusCode::PAYLOAD_TOO_LARGE, "body_not_read", "the body is too large or broke off")
    })?;
    if !bytes.is_empty() {
        let Nothing {} = read::json(&bytes, |_| None)?;
    }
    Ok(Request::from_parts(parts, Body::empty()))
}

fn check_query(takes: &Takes, uri: &Uri) -> Result<(), ProblemDocument> {
    let unread = |_| ProblemDocument::new(StatusCode::BAD_REQUEST, "invalid_query", "the query cannot be read");
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(unread)?;
    let Some((name, _)) = pairs.iter().find(|(name, _)| !takes.query.contains(name)) else { return Ok(()) };
    let known = match &takes.query[..] {
        [] => "this takes none".to_owned(),
        known => format!("this takes {}", known.join(", ")),
    };
    let detail = format!("there is no query parameter {name}: {known}");
    Err(ProblemDocument::new(StatusCode::BAD_REQUEST, "unknown_parameter", detail))
}
