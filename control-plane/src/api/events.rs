//! `/v2/events` and `/v2/trace/{key}`: what happened, in order.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use postrail_schema::event::{AttemptFacts, Event};
use postrail_schema::ids::{RecipientIndex, RecipientKey};
use postrail_schema::limits::PAGE_RECORDS_MAX;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{Path, Scope, TenantParams};
use super::page::{LAST_PLACE, Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::{Shared, jobs};
use crate::app::{App, AppError};
use crate::ledger::Recorded;

/// One event about one recipient.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventView {
    /// Its place in the ledger; grows.
    sequence: u64,
    /// `accepted`, `deferred`, `delivered`, `bounced`, …
    kind: &'static str,
    job: String,
    /// `<job>.<index>`.
    recipient: String,
    tenant: String,
    address: String,
    /// Unix milliseconds.
    at_ms: u64,
    /// The configuration that the decision was made under.
    revision: u64,
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
/// be short though more follows.
#[utoipa::path(get, path = "/v2/events", tag = "events", params(PageParams, TenantParams),
    responses((status = 200, body = Page<EventView>)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    listing: Listing,
) -> Result<Json<Page<EventView>>, ProblemDocument> {
    let cursor = listing.number(LAST_PLACE)?;
    let (scope, limit) = (listing.scope, listing.limit);
    let page = shared
        .run(move |app| {
            scope.check_region(app)?;
            Ok(app.ledger.events(scope.0, cursor, limit)?)
        })
        .await?;
    let items = page.events.into_iter().map(|recorded| view(&shared.app, recorded)).collect();
    Ok(Json(Page { items, next_cursor: Some(page.cursor.to_string()) }))
}

/// All events of a job or of one recipient of it, by the time when they happened; at most 1,000.
#[utoipa::path(get, path = "/v2/trace/{key}", tag = "events",
    params(("key" = String, Path, description = "a job id, or a recipient's key"), TenantParams),
    responses((status = 200, body = Page<EventView>), (status = 404, body = ProblemDocument)))]
pub(crate) async fn trace(
    State(shared): State<Shared>,
    scope: Scope,
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
    let items = events.into_iter().map(|recorded| view(&shared.app, recorded)).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// The job's id within `key`, and the recipient's index if it names one.
fn split(key: &str) -> Result<(&str, Option<RecipientIndex>), AppError> {
    let Some((job, _)) = key.split_once('.') else { return Ok((key, None)) };
    let recipient: RecipientKey = key.parse().map_err(|_| AppError::not_found("recipient", key))?;
    Ok((job, Some(recipient.index)))
}

fn view(app: &App, recorded: Recorded) -> EventView {
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
        sequence: recorded.sequence,
        kind: kind.name(),
        job: message.to_string(),
        recipient: RecipientKey { message, index }.to_string(),
        tenant: app.tenant_name(tenant),
        address,
        at_ms,
        revision: revision.0,
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
