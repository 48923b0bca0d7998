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
use crate::app::{Unanswered, WholeQueue, names};

/// What waits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueView {
    /// Each with its `host` in a fleet, what is `waiting`, the `domains` that it waits for, and the `paths` that it leaves by.
    shards: Vec<Value>,
    /// Hosts that run and did not answer: what waits there is not in `shards`.
    unanswered: Vec<Unanswered>,
}

/// What was made due.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RetryView {
    recipients: u64,
    /// Hosts that run and did not answer: what waits there waits on.
    unanswered: Vec<Unanswered>,
}

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

/// Of all hosts that answer; those that do not are named. 502: none does.
#[utoipa::path(get, path = "/v2/queue", tag = "queue",
    responses((status = 200, body = QueueView), (status = 502, body = ProblemDocument)))]
pub(crate) async fn show(State(shared): State<Shared>, _: Operator) -> Result<Json<QueueView>, ProblemDocument> {
    let WholeQueue { shards, unanswered } = shared.app.hosts.queue().await?;
    Ok(Json(QueueView { shards, unanswered }))
}

/// At all hosts that answer; those that do not are named. 502: none does.
#[utoipa::path(post, path = "/v2/queue/retry", tag = "queue", request_body = RetryBody,
    responses((status = 200, body = RetryView), (status = 502, body = ProblemDocument)))]
pub(crate) async fn retry(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<RetryBody>,
) -> Result<Json<RetryView>, ProblemDocument> {
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
    let (recipients, unanswered) = shared.app.hosts.retry(&filter).await?;
    Ok(Json(RetryView { recipients, unanswered }))
}
