//! `/v2/state`: the whole of desired state as one document; the operator's.
//!
//! A document is planned, shown, and applied on the state that it was planned on: the entity tag of the plan is the
//! If-Match of the PUT. Absent here: TOML, which the command line reads and writes.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use postrail_schema::limits::STATE_CHANGES_SHOWN_MAX;
use postrail_schema::problem::Severity;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, StateParams, Tagged};
use super::problem::ProblemDocument;
use super::rights::need_role;
use super::room::Place;
use super::status::ProblemView;
use crate::plan::{Change, Document, Role};

/// What a document would change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanView {
    /// The revision that it was planned on.
    revision: u64,
    /// For If-Match, where it is applied.
    etag: String,
    /// No finding is an error, so it can be applied.
    applicable: bool,
    added: usize,
    changed: usize,
    removed: usize,
    /// The first 10,000.
    changes: Vec<Change>,
    /// About the state that it leads to, as far as they are new.
    problems: Vec<ProblemView>,
    /// How many more there are, which were there before: `/v2/problems` has them.
    problems_before: usize,
}

/// What a document has changed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AppliedView {
    /// Under which the changes are published; as before, if there were none.
    revision: u64,
    etag: String,
    added: usize,
    changed: usize,
    removed: usize,
}

/// A place among the documents that are worked on; it is taken before a body is read.
pub(crate) struct Room {
    _place: Place,
}

impl FromRequestParts<Shared> for Room {
    type Rejection = ProblemDocument;

    async fn from_request_parts(_: &mut Parts, shared: &Shared) -> Result<Self, ProblemDocument> {
        Ok(Self { _place: shared.rooms.document()? })
    }
}

/// The document of the state as it is. Its ETag is the same with and without secrets.
#[utoipa::path(get, path = "/v2/state", tag = "state", params(StateParams), responses((status = 200, body = Document)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    Operator(role): Operator,
    params: StateParams,
) -> Result<Tagged<Document>, ProblemDocument> {
    if params.secrets {
        need_role(role, Role::Admin)?;
    }
    let (document, tag) = shared.run(move |app| Ok(app.state(params.secrets))).await?;
    Ok(Tagged(tag, document))
}

/// What the document would change, and what would be wrong then. Nothing is changed.
#[utoipa::path(post, path = "/v2/state/plan", tag = "state", request_body = Document,
    responses((status = 200, body = PlanView), (status = 422, body = ProblemDocument)))]
pub(crate) async fn plan(
    State(shared): State<Shared>,
    _: Operator,
    _: Room,
    Body(document): Body<Document>,
) -> Result<Json<PlanView>, ProblemDocument> {
    let planned = shared.run(move |app| app.plan_state(&document)).await?;
    let [added, changed, removed] = Change::counts(&planned.changes);
    let mut changes = planned.changes;
    changes.truncate(STATE_CHANGES_SHOWN_MAX);
    Ok(Json(PlanView {
        revision: planned.revision.0,
        etag: planned.tag,
        applicable: !planned.problems.iter().any(|problem| problem.severity == Severity::Error),
        added,
        changed,
        removed,
        changes,
        problems: planned.problems.iter().map(ProblemView::of).collect(),
        problems_before: planned.problems_before,
    }))
}

/// Makes the state what the document says, in one revision. A kind that the document has is whole: what it does not name
/// of the kind is removed. A kind that it does not have stays as it is.
#[utoipa::path(put, path = "/v2/state", tag = "state", request_body = Document,
    params(("If-Match" = Option<String>, Header, description = "The etag of the plan, or * for whatever the state is; 428 without it.")),
    responses((status = 200, body = AppliedView), (status = 409, body = ProblemDocument),
        (status = 412, body = ProblemDocument), (status = 422, body = ProblemDocument), (status = 428, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    Operator(role): Operator,
    IfMatch(when): IfMatch,
    _: Room,
    Body(mut document): Body<Document>,
) -> Result<Tagged<AppliedView>, ProblemDocument> {
    if !when.was_given() {
        let detail = "say by If-Match which state you have planned on: the etag of POST /v2/state/plan, or *";
        return Err(ProblemDocument::new(StatusCode::PRECONDITION_REQUIRED, "if_match_required", detail));
    }
    if role != Role::Admin && document.operators.is_some() {
        // It may say of operators what is so, as every export does.
        let (planned, whole) = shared.run(move |app| Ok((app.plan_state(&document)?, document))).await?;
        if planned.changes.iter().any(|change| change.kind == "operator") {
            need_role(role, Role::Admin)?;
        }
        document = Document { operators: None, ..whole };
    }
    let applied = shared.run(move |app| app.apply_state(&document, &when)).await?;
    let [added, changed, removed] = Change::counts(&applied.changes);
    let view = AppliedView { revision: applied.revision.0, etag: applied.tag.clone(), added, changed, removed };
    Ok(Tagged(applied.tag, view))
}
