//! `/v2/operators`: who operates the installation. Read by operators, changed by administrators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::access::Network;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown};
use crate::app::{IssuedOperator, NewOperator, OperatorChange};
use crate::plan::{Desired, OperatorAccount, OperatorEntry, Role};

/// An operator's account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OperatorView {
    name: String,
    /// `viewer` reads everything but secrets, `operator` changes everything but who operates, `admin` does everything.
    role: Role,
    /// Tokens that are valid now, at most two.
    live_tokens: usize,
    disabled: bool,
    /// Where it may be used from; empty: anywhere.
    #[schema(value_type = Vec<String>)]
    networks: Vec<Network>,
}

/// An account with its new token, shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IssuedOperatorView {
    #[serde(flatten)]
    operator: OperatorView,
    /// A bearer token.
    token: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperatorBody {
    name: String,
    role: Role,
    /// Anywhere by default.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    networks: Vec<Network>,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperatorPatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    networks: Option<Vec<Network>>,
}

#[utoipa::path(get, path = "/v2/operators", tag = "operators", params(PageParams),
    responses((status = 200, body = Page<OperatorView>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<OperatorView>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.operators.values(), |account| &account.name, |account| account.view(&desired)))
}

#[utoipa::path(post, path = "/v2/operators", tag = "operators", request_body = OperatorBody,
    responses((status = 201, body = IssuedOperatorView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<OperatorBody>,
) -> Result<(StatusCode, Tagged<IssuedOperatorView>), ProblemDocument> {
    let OperatorBody { name, role, networks } = body;
    let new = NewOperator { name, role, networks };
    let issued = shared.run(move |app| app.create_operator(&new)).await?;
    Ok((StatusCode::CREATED, issued_view(&shared.app.desired(), issued)))
}

#[utoipa::path(get, path = "/v2/operators/{name}", tag = "operators", params(("name" = String, Path)),
    responses((status = 200, body = OperatorView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<OperatorView>, ProblemDocument> {
    let desired = shared.app.desired();
    shown(&desired, desired.operators.get(&name), &name)
}

#[utoipa::path(patch, path = "/v2/operators/{name}", tag = "operators", params(("name" = String, Path)),
    request_body = OperatorPatch, responses((status = 200, body = OperatorView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn change(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(patch): Body<OperatorPatch>,
) -> Result<Tagged<OperatorView>, ProblemDocument> {
    let when = when.sending(&patch);
    let change = OperatorChange { role: patch.role, disabled: patch.disabled, networks: patch.networks };
    shared.changed(move |app| app.change_operator(&name, &change, &when)).await
}

#[utoipa::path(post, path = "/v2/operators/{name}/rotate", tag = "operators",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = IssuedOperatorView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn rotate(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<Tagged<IssuedOperatorView>, ProblemDocument> {
    let when = when.rotating();
    let issued = shared.run(move |app| app.rotate_operator(&name, &when)).await?;
    Ok(issued_view(&shared.app.desired(), issued))
}

#[utoipa::path(delete, path = "/v2/operators/{name}", tag = "operators", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_operator(&name, &when)).await
}

fn issued_view(desired: &Desired, issued: IssuedOperator) -> Tagged<IssuedOperatorView> {
    let Tagged(tag, operator) = issued.account.tagged(desired);
    Tagged(tag, IssuedOperatorView { operator, token: issued.token })
}

impl Resource for OperatorAccount {
    type View = OperatorView;
    type Entry = OperatorEntry;

    fn entry(&self, _: &Desired) -> OperatorEntry {
        OperatorEntry::of(self)
    }

    fn view(&self, _: &Desired) -> OperatorView {
        OperatorView {
            name: self.name.clone(),
            role: self.role,
            live_tokens: self.secret_hashes.len(),
            disabled: self.disabled,
            networks: self.networks.clone(),
        }
    }
}
