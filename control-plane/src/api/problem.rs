//! Errors as RFC 9457 problems, and the one table from use-case errors to them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use postrail_schema::limits::STATE_CHANGES_SHOWN_MAX;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::AppError;
use crate::plan::Change;
use crate::store::StoreError;

/// `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ProblemDocument {
    /// HTTP status.
    pub(crate) status: u16,
    /// The status in words.
    pub(crate) title: &'static str,
    /// Stable snake_case code.
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    /// What is wrong where, if it is about fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<FieldError>,
    /// What the data plane answered, where the request went on to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub(crate) upstream: Option<Box<Value>>,
    /// What was sent against what is, where the resource has changed since it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Change>>)]
    pub(crate) difference: Option<Box<Stale>>,
}

/// What has changed since it was read.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Stale {
    difference: Vec<Change>,
    /// The entity tag of what is, which goes into the header.
    #[serde(skip)]
    tag: String,
}

/// One finding about a field or a resource.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// RFC 6901 pointer into the request, or the resource that the finding is about.
    pub(crate) pointer: String,
    pub(crate) code: String,
    pub(crate) detail: String,
}

impl ProblemDocument {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error"),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            upstream: None,
            difference: None,
        }
    }

    /// A request that cannot be read: `pointer` tells where.
    pub(crate) fn field(status: StatusCode, code: &'static str, pointer: String, detail: String) -> Self {
        let errors = vec![FieldError { pointer, code: code.to_owned(), detail: detail.clone() }];
        Self { errors, ..Self::new(status, code, detail) }
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed here; the log says why")
    }

    pub(crate) fn unauthorized() -> Self {
        let detail = "send the operator token or an API key as bearer token, or username and API key as Basic";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    pub(crate) fn foreign_network() -> Self {
        Self::new(StatusCode::FORBIDDEN, "network_refused", "this secret may not be used from your address")
    }

    pub(crate) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "this is the operator's to do")
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("{what} does not exist"))
    }
}

impl FieldError {
    fn new(pointer: &str, code: &str, detail: &str) -> Self {
        Self { pointer: pointer.to_owned(), code: code.to_owned(), detail: detail.to_owned() }
    }
}

impl From<AppError> for ProblemDocument {
    fn from(error: AppError) -> Self {
        match error {
            AppError::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "not_found", error.to_string()),
            AppError::Busy { detail } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail),
            AppError::Conflict { detail } => Self::new(StatusCode::CONFLICT, "conflict", detail),
            AppError::WrongRegion { .. } => Self::new(StatusCode::FORBIDDEN, "wrong_region", error.to_string()),
            AppError::Invalid { pointer, detail } => {
                Self::field(StatusCode::UNPROCESSABLE_ENTITY, "invalid", pointer.into_owned(), detail)
            }
            AppError::Faults { ref faults } => {
                let errors = faults.iter().map(|(pointer, detail)| FieldError::new(pointer, "invalid", detail));
                Self {
                    errors: errors.collect(),
                    ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.to_string())
                }
            }
            AppError::Stale { ref tag, ref difference } => Self {
                difference: Some(Box::new(Stale {
                    difference: difference.iter().take(STATE_CHANGES_SHOWN_MAX).cloned().collect(),
                    tag: tag.clone(),
                })),
                ..Self::new(StatusCode::PRECONDITION_FAILED, "stale", error.to_string())
            },
            AppError::Refused { ref problems } => {
                let errors = problems.iter().map(|one| FieldError::new(&one.subject, one.code, &one.detail));
                Self {
                    errors: errors.collect(),
                    ..Self::new(StatusCode::CONFLICT, "would_break_configuration", error.to_string())
                }
            }
            AppError::DataPlane { .. } | AppError::DataPlaneUntrusted { .. } | AppError::NoneAnswers { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "data_plane_unreachable", error.to_string())
            }
            AppError::DataPlaneRefused { status, ref body } => Self {
                upstream: Some(Box::new(body.clone())),
                ..Self::new(
                    // What is ours to fix (5yz) stays apart from what the caller asked wrongly.
                    theirs(status),
                    if body["code"] == "being_moved" { "being_moved" } else { "data_plane_refused" },
                    // The data plane says it in a sentence, unless what answered was something else.
                    body.get("detail").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned),
                )
            },
            AppError::Ledger(ref source) if source.is_away() => without_ledger(&error),
            AppError::OtherLedger { detail } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "other_ledger", detail),
            AppError::Home { .. } | AppError::Unmirrored => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_mirrored", error.to_string())
            }
            // What is in the store of hosts is nobody's secret, and nothing of them can be done until it is read.
            AppError::Hosts(ref source) => {
                tracing::error!(error = &error as &dyn std::error::Error, "request failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "hosts_unreadable", format!("{error}: {source}"))
            }
            AppError::StoreEmpty => Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_empty", STORE_EMPTY),
            AppError::Torn { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_torn", error.to_string()),
            AppError::Store(
                ref source @ (StoreError::Full
                | StoreError::Etcd { .. }
                | StoreError::Timeout { .. }
                | StoreError::Refused { .. }),
            ) => without_store(source),
            AppError::Publication(_)
            | AppError::Load(_)
            | AppError::Store(_)
            | AppError::Ledger(_)
            | AppError::Crypto { .. }
            | AppError::Encode(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "request failed");
                Self::internal()
            }
        }
    }
}

/// The status that a data plane refused with, where it is about what was asked.
fn theirs(status: u16) -> StatusCode {
    let status = StatusCode::from_u16(status).ok();
    status.filter(StatusCode::is_client_error).unwrap_or(StatusCode::BAD_GATEWAY)
}

fn without_ledger(error: &AppError) -> ProblemDocument {
    tracing::warn!(error = error as &dyn std::error::Error, "request without the ledger");
    ProblemDocument::new(StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable", LEDGER_AWAY)
}

/// What is said where the configuration store does not do what it is asked for.
fn without_store(error: &StoreError) -> ProblemDocument {
    let (code, detail) = match error {
        StoreError::Full => ("store_full", STORE_FULL),
        StoreError::Etcd { act: "writing", .. } | StoreError::Timeout { act: "writing" } => (
            "store_unreachable",
            "the configuration store is out of reach; whether the change was made shows a look at it",
        ),
        _ => ("store_unreachable", "the configuration store is out of reach; mail goes on: try again once it is back"),
    };
    // Whoever follows the store logs that it is away.
    tracing::debug!(error = error as &dyn std::error::Error, "request without the configuration store");
    ProblemDocument::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
}

const STORE_FULL: &str = "etcd is full, so nothing can be changed; mail goes on: compact it, defragment its members, and disarm its \
                          alarm, as the runbook etcd-lost says";
const STORE_EMPTY: &str = "the configuration store is empty, so nothing can be changed: its data is lost; restore it, or export what \
                           this control plane still has, start it anew, and import that";

/// Where the ledger is, is no news to the operator and none to others.
const LEDGER_AWAY: &str = "the ledger does not answer; mail goes on, and its events are stored once the ledger is back";

impl IntoResponse for ProblemDocument {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let tag = self.difference.as_ref().and_then(|stale| HeaderValue::from_str(&stale.tag).ok());
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(tag) = tag {
            headers.insert(header::ETAG, tag);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, Basic realm=\"postrail\""));
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
