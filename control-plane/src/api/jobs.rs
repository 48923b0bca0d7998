//! `/v2/jobs/{id}`: what became of a job, and what an operator can still do about it.
//!
//! The ledger is up to a second behind the data plane: a job just accepted may be 404 for that long.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use postrail_schema::event::EventKind;
use postrail_schema::ids::{CredentialId, MessageId, RecipientIndex, SendingDomainId};
use postrail_schema::limits::JOB_RECIPIENTS_MAX;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Numbers, Operator, Path, Scope, TenantParams};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use crate::app::{App, AppError, Settling};
use crate::ledger::{Message, Recipient};
use crate::plan::Desired;

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobView {
    id: String,
    tenant: String,
    /// Unix milliseconds.
    accepted_ms: u64,
    /// `smtp`, `rest` or `dsn`.
    interface: String,
    /// The username of the credential that submitted it; null: there was none, or it is gone.
    credential: Option<String>,
    /// The sending domain; null: it is gone.
    domain: Option<String>,
    /// Operators alone are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_id: Option<u32>,
    /// Operators alone are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    domain_id: Option<u32>,
    reverse_path: String,
    bytes: u64,
    reference: String,
    campaign: String,
    cost_center: String,
    class: String,
    message_id_header: String,
    recipients: u16,
    /// Recipients by state.
    states: BTreeMap<&'static str, u32>,
}

/// A recipient of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RecipientView {
    /// `<job>.<index>`, as `/v2/trace/` takes it.
    key: String,
    index: u16,
    address: String,
    /// `accepted`, `deferred` or `quarantined` while it waits, then what settled it.
    state: &'static str,
    settled: bool,
    attempts: u16,
    accepted_ms: u64,
    changed_ms: u64,
    /// Null while it waits.
    settled_ms: Option<u64>,
    next_attempt_ms: Option<u64>,
    last_reply: Option<ReplyView>,
    reason: String,
}

/// A receiver's reply.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplyView {
    /// 0: there was no reply, the text says what went wrong.
    code: u16,
    enhanced_status: String,
    text: String,
}

#[utoipa::path(get, path = "/v2/jobs/{id}", tag = "jobs", params(("id" = String, Path), TenantParams),
    responses((status = 200, body = JobView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    scope: Scope,
    numbers: Numbers,
    Path(id): Path<String>,
) -> Result<Json<JobView>, ProblemDocument> {
    let job = shared
        .run(move |app| {
            let message = seen(app, scope, &id)?;
            let limit = u32::try_from(JOB_RECIPIENTS_MAX).unwrap_or(u32::MAX);
            let recipients = app.ledger.recipients(message.id, RecipientIndex(0), limit)?;
            Ok(job_view(&app.desired(), message, &recipients, numbers))
        })
        .await?;
    Ok(Json(job))
}

#[utoipa::path(get, path = "/v2/jobs/{id}/recipients", tag = "jobs",
    params(("id" = String, Path), PageParams, TenantParams),
    responses((status = 200, body = Page<RecipientView>), (status = 404, body = ProblemDocument)))]
pub(crate) async fn recipients(
    State(shared): State<Shared>,
    listing: Listing,
    Path(id): Path<String>,
) -> Result<Json<Page<RecipientView>>, ProblemDocument> {
    let from = u16::try_from(listing.number(u16::MAX.into())?).unwrap_or(u16::MAX);
    let (scope, limit) = (listing.scope, listing.limit);
    let mut found = shared
        .run(move |app| {
            let message = seen(app, scope, &id)?;
            Ok(app.ledger.recipients(message.id, RecipientIndex(from), limit + 1)?)
        })
        .await?;
    let next = found.get(limit as usize).map(|recipient| recipient.key.index.0.to_string());
    found.truncate(limit as usize);
    Ok(Json(Page { items: found.iter().map(recipient_view).collect(), next_cursor: next }))
}

/// Settles what still waits as cancelled.
#[utoipa::path(post, path = "/v2/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, body = ProblemDocument),
        (status = 409, description = "it is being moved to another host", body = ProblemDocument),
        (status = 502, body = ProblemDocument)))]
pub(crate) async fn cancel(
    State(shared): State<Shared>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Json<Value>, ProblemDocument> {
    Ok(Json(shared.app.hosts.settle(parse(&id)?, Settling::Cancel).await?))
}

/// Settles what still waits as bounced, with a report to the sender.
#[utoipa::path(post, path = "/v2/jobs/{id}/bounce", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, body = ProblemDocument),
        (status = 409, description = "it is being moved to another host", body = ProblemDocument),
        (status = 502, body = ProblemDocument)))]
pub(crate) async fn bounce(
    State(shared): State<Shared>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<Json<Value>, ProblemDocument> {
    Ok(Json(shared.app.hosts.settle(parse(&id)?, Settling::Bounce).await?))
}

/// The message of that id, if `scope` sees it.
pub(crate) fn seen(app: &App, scope: Scope, id: &str) -> Result<Message, AppError> {
    scope.check_region(app)?;
    let message = app.ledger.message(parse(id)?)?.filter(|message| scope.sees(message.tenant));
    message.ok_or_else(|| AppError::not_found("job", id))
}

fn parse(id: &str) -> Result<MessageId, AppError> {
    id.parse().map_err(|_| AppError::not_found("job", id))
}

fn job_view(desired: &Desired, message: Message, recipients: &[Recipient], numbers: Numbers) -> JobView {
    let mut states = BTreeMap::new();
    for recipient in recipients {
        *states.entry(recipient.state.name()).or_default() += 1;
    }
    let credential = desired.credentials.get(&CredentialId(message.credential));
    let domain = desired.domains.get(&SendingDomainId(message.domain));
    JobView {
        id: message.id.to_string(),
        tenant: desired.tenants.get(&message.tenant).map(|tenant| tenant.name.clone()).unwrap_or_default(),
        accepted_ms: message.accepted_ms,
        interface: message.interface,
        credential: credential.filter(|found| found.tenant == message.tenant).map(|found| found.username.clone()),
        domain: domain.filter(|found| found.tenant == message.tenant).map(|found| found.name.clone()),
        credential_id: numbers.show(message.credential),
        domain_id: numbers.show(message.domain),
        reverse_path: message.reverse_path,
        bytes: message.bytes,
        reference: message.reference,
        campaign: message.campaign,
        cost_center: message.cost_center,
        class: message.class,
        message_id_header: message.message_id_header,
        recipients: message.recipients,
        states,
    }
}

fn recipient_view(recipient: &Recipient) -> RecipientView {
    let some = |ms: u64| (ms != 0).then_some(ms);
    let reply = || ReplyView {
        code: recipient.reply_code,
        enhanced_status: recipient.enhanced_status.clone(),
        text: recipient.reply.clone(),
    };
    RecipientView {
        key: recipient.key.to_string(),
        index: recipient.key.index.0,
        address: recipient.address.clone(),
        state: recipient.state.name(),
        settled: recipient.settled_ms != 0,
        attempts: recipient.attempts,
        accepted_ms: recipient.accepted_ms,
        changed_ms: recipient.changed_ms,
        settled_ms: some(recipient.settled_ms),
        next_attempt_ms: some(recipient.next_attempt_ms).filter(|_| recipient.state == EventKind::Deferred),
        last_reply: (recipient.reply_code != 0 || !recipient.reply.is_empty()).then(reply),
        reason: recipient.reason.clone(),
    }
}
