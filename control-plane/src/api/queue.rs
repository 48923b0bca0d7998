//! `/v2/queue`: the operator's view of what waits, asked of the data plane.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::ids::MessageId;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, Operator};
use super::problem::ProblemDocument;
use crate::app::names;

/// What to make due at once; with nothing named, everything that waits.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryBody {
    /// As the queue shows it.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    /// A recipient domain.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    /// A job's id.
    #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// What is there is named: null would be everything.
fn named<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    String::deserialize(from).map(Some)
}

#[utoipa::path(get, path = "/v2/queue", tag = "queue",
    responses((status = 200, body = Value), (status = 502, body = ProblemDocument)))]
pub(crate) async fn show(State(shared): State<Shared>, _: Operator) -> Result<Json<Value>, ProblemDocument> {
    Ok(Json(shared.app.hosts.queue().await?))
}

#[utoipa::path(post, path = "/v2/queue/retry", tag = "queue", request_body = RetryBody,
    responses((status = 200, body = Value), (status = 502, body = ProblemDocument)))]
pub(crate) async fn retry(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<RetryBody>,
) -> Result<Json<Value>, ProblemDocument> {
    let RetryBody { site, domain, message } = body;
    let site = site.as_deref().map(|site| names::site("/site", site)).transpose()?;
    let domain = domain.as_deref().map(|domain| names::domain("/domain", domain, true)).transpose()?;
    let body = RetryBody { site, domain, message };
    let named = [("site", &body.site), ("domain", &body.domain), ("message", &body.message)];
    let named: Vec<_> = named.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).collect();
    if named.len() > 1 {
        let detail = "name at most one of site, domain and message".to_owned();
        return Err(ProblemDocument::field(StatusCode::UNPROCESSABLE_ENTITY, "invalid", String::new(), detail));
    }
    if body.message.as_ref().is_some_and(|id| id.parse::<MessageId>().is_err()) {
        let detail = "this is not the id of a job".to_owned();
        return Err(ProblemDocument::field(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "/message".to_owned(), detail));
    }
    let filter = named.first().map_or_else(|| json!({}), |(name, value)| json!({ *name: value }));
    Ok(Json(shared.app.hosts.retry(&filter).await?))
}
