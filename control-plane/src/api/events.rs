//! `/v2/events` and `/v2/trace/{key}`: what happened, in order.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::event::{AttemptFacts, Event};
use postrail_schema::ids::{RecipientIndex, RecipientKey};
use postrail_schema::limits::PAGE_RECORDS_MAX;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{Numbers, Path, Scope, TenantParams};
use super::page::{LAST_PLACE, Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::{Shared, jobs};
use crate::app::{App, AppError, event_id};
use crate::ledger::Recorded;

/// One event about one recipient.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventView {
    /// What it is known by: the same however often it is told, so that a reader can drop what it has.
    id: String,
    /// Its place in the ledger, which grows; operators alone are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// `accepted`, `deferred`, `delivered`, `bounced`, …
    kind: &'static str,
    job: String,
    /// `<job>.<index>`.
    recipient: String,
    tenant: String,
    address: String,
    /// Unix milliseconds.
    at_ms: u64,
    /// The configuration that the decision was made under; operators alone are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    submission: Option<SubmissionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<AttemptView>,
}

/// What an `accepted` event says of the job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubmissionView {
    interface: String,
    reverse_path: String,
    bytes: u64,
    reference: String,
    campaign: String,
    cost_center: String,
    class: String,
    message_id_header: String,
    recipients: u16,
}

/// The attempt behind an event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptView {
    /// From 1.
    number: u16,
    source: String,
    #[schema(value_type = Option<String>)]
    source_address: Option<IpAddr>,
    site: String,
    host: String,
    #[schema(value_type = Option<String>)]
    host_address: Option<IpAddr>,
    /// Version and cipher suite; empty: plaintext.
    tls: String,
    /// 0: there was no reply.
    reply_code: u16,
    enhanced_status: String,
    reply: String,
    phase: String,
    duration_ms: u32,
}

/// Events after `cursor`. `next_cursor` is always set, so that a reader can come back for what happens later; a page can
/// be short though more follows. A tenant's cursor is opaque, another one in every answer, and good for that tenant alone.
#[utoipa::path(get, path = "/v2/events", tag = "events", params(PageParams, TenantParams),
    responses((status = 200, body = Page<EventView>),
        (status = 400, description = "it is no cursor that was given to this tenant here", body = ProblemDocument)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    listing: Listing,
    numbers: Numbers,
) -> Result<Json<Page<EventView>>, ProblemDocument> {
    let sealed_for = listing.scope.0.filter(|_| numbers.show(()).is_none());
    let place = match (sealed_for, &listing.cursor) {
        (Some(tenant), Some(cursor)) => shared.app.place_of(tenant, cursor)?.ok_or_else(foreign_cursor)?,
        _ => listing.number(LAST_PLACE)?,
    };
    let (scope, limit) = (listing.scope, listing.limit);
    let page = shared
        .run(move |app| {
            scope.check_region(app)?;
            app.events(scope.0, place, limit)
        })
        .await?;
    let next_cursor = match sealed_for {
        Some(tenant) => shared.app.cursor_of(tenant, page.cursor)?,
        None => page.cursor.to_string(),
    };
    let items = page.events.into_iter().map(|recorded| view(&shared.app, recorded, numbers)).collect();
    Ok(Json(Page { items, next_cursor: Some(next_cursor) }))
}

fn foreign_cursor() -> ProblemDocument {
    let detail = "this is no cursor that was given to this tenant here: send a next_cursor as it was answered, or none, \
                  which begins with the first event";
    ProblemDocument::new(StatusCode::BAD_REQUEST, "invalid_query", detail)
}

/// All events of a job or of one recipient of it, by the time when they happened; at most 1,000.
#[utoipa::path(get, path = "/v2/trace/{key}", tag = "events",
    params(("key" = String, Path, description = "a job id, or a recipient's key"), TenantParams),
    responses((status = 200, body = Page<EventView>), (status = 404, body = ProblemDocument)))]
pub(crate) async fn trace(
    State(shared): State<Shared>,
    scope: Scope,
    numbers: Numbers,
    Path(key): Path<String>,
) -> Result<Json<Page<EventView>>, ProblemDocument> {
    let events = shared
        .run(move |app| {
            let (job, index) = split(&key)?;
            let message = jobs::seen(app, scope, job)?;
            let events = app.ledger.trace(message.id, index, PAGE_RECORDS_MAX)?;
            if events.is_empty() { Err(AppError::not_found("recipient", key)) } else { Ok(events) }
        })
        .await?;
    let items = events.into_iter().map(|recorded| view(&shared.app, recorded, numbers)).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// The job's id within `key`, and the recipient's index if it names one.
fn split(key: &str) -> Result<(&str, Option<RecipientIndex>), AppError> {
    let Some((job, _)) = key.split_once('.') else { return Ok((key, None)) };
    let recipient: RecipientKey = key.parse().map_err(|_| AppError::not_found("recipient", key))?;
    Ok((job, Some(recipient.index)))
}

fn view(app: &App, recorded: Recorded, numbers: Numbers) -> EventView {
    let id = event_id(&recorded.event);
    let Event { kind, message, index, at_ms, revision, tenant, address, job, attempt, reason, next_attempt_ms } =
        recorded.event;
    let submission = job.map(Arc::unwrap_or_clone).map(|job| SubmissionView {
        interface: job.interface,
        reverse_path: job.reverse_path,
        bytes: job.bytes,
        reference: job.reference,
        campaign: job.campaign,
        cost_center: job.cost_center,
        class: job.class,
        message_id_header: job.message_id_header,
        recipients: job.recipients,
    });
    EventView {
        id,
        sequence: numbers.show(recorded.sequence),
        kind: kind.name(),
        job: message.to_string(),
        recipient: RecipientKey { message, index }.to_string(),
        tenant: app.tenant_name(tenant),
        address,
        at_ms,
        revision: numbers.show(revision.0),
        reason,
        next_attempt_ms: (next_attempt_ms != 0).then_some(next_attempt_ms),
        submission,
        attempt: attempt.map(|attempt| attempt_view(app, attempt)),
    }
}

fn attempt_view(app: &App, attempt: AttemptFacts) -> AttemptView {
    let desired = app.desired();
    AttemptView {
        number: attempt.number,
        source: desired.sources.get(&attempt.source).map(|source| source.name.clone()).unwrap_or_default(),
        source_address: attempt.source_address,
        site: attempt.site,
        host: attempt.host,
        host_address: attempt.host_address,
        tls: attempt.tls,
        reply_code: attempt.reply_code,
        enhanced_status: attempt.enhanced_status,
        reply: attempt.reply,
        phase: attempt.phase,
        duration_ms: attempt.duration_ms,
    }
}
