//! `/v2/credentials`. A secret is in the answer that made it and nowhere else.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::access::{Network, Scopes};
use postrail_schema::snapshot::Credential;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, ForTenant, IfMatch, Numbers, Operator, Path, Scope, Tagged, TenantParams};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use crate::app::{CredentialChange, IssuedSecret, NewCredential};
use crate::plan::{CredentialEntry, Desired, entity_tag};

/// A credential.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CredentialView {
    /// Operators alone are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    username: String,
    tenant: String,
    /// Secrets that are valid now, at most two.
    live_secrets: usize,
    disabled: bool,
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// Where it may be used from, such as `192.0.2.0/24`; empty: anywhere.
    #[schema(value_type = Vec<String>)]
    networks: Vec<Network>,
    /// Who submits from one of `networks` needs no secret.
    trusts_networks: bool,
}

/// A credential with its new secret, shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IssuedView {
    #[serde(flatten)]
    credential: CredentialView,
    /// The API key: the username's password, or alone a bearer token.
    secret: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialBody {
    username: String,
    /// `submit`, `jobs:read`, `domains:read`, `domains:write`, `credentials:read`, `suppressions:read`,
    /// `suppressions:write`, `account:read`; all by default.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// Anywhere by default.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    networks: Vec<Network>,
    /// Who submits from one of `networks` needs no secret, by SMTP and REST. No two credentials may trust one address.
    #[serde(default)]
    trusts_networks: bool,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialPatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Scopes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    networks: Option<Vec<Network>>,
    /// Who submits from one of `networks` needs no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trusts_networks: Option<bool>,
}

#[utoipa::path(get, path = "/v2/credentials", tag = "credentials", params(PageParams, TenantParams),
    responses((status = 200, body = Page<CredentialView>)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    listing: Listing,
    numbers: Numbers,
) -> Json<Page<CredentialView>> {
    let desired = shared.app.desired();
    let seen = desired.credentials.values().filter(|credential| listing.scope.sees(credential.tenant));
    Json(listing.by_name(
        seen,
        |credential| &credential.username,
        |credential| seen_by(numbers, view(&desired, credential)),
    ))
}

#[utoipa::path(post, path = "/v2/credentials", tag = "credentials", params(TenantParams), request_body = CredentialBody,
    responses((status = 201, body = IssuedView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    ForTenant(tenant): ForTenant,
    Body(body): Body<CredentialBody>,
) -> Result<(StatusCode, Tagged<IssuedView>), ProblemDocument> {
    let CredentialBody { username, scopes, networks, trusts_networks } = body;
    let new = NewCredential { tenant, username, scopes, networks, trusts_networks };
    let issued = shared.run(move |app| app.create_credential(&new)).await?;
    Ok((StatusCode::CREATED, issued_view(&shared, issued)))
}

#[utoipa::path(get, path = "/v2/credentials/{username}", tag = "credentials",
    params(("username" = String, Path), TenantParams),
    responses((status = 200, body = CredentialView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    scope: Scope,
    numbers: Numbers,
    Path(username): Path<String>,
) -> Result<Tagged<CredentialView>, ProblemDocument> {
    let desired = shared.app.desired();
    let Tagged(tag, view) = tagged(&desired, find(&desired, scope, &username)?);
    Ok(Tagged(tag, seen_by(numbers, view)))
}

#[utoipa::path(patch, path = "/v2/credentials/{username}", tag = "credentials",
    params(("username" = String, Path), TenantParams),
    request_body = CredentialPatch,
    responses((status = 200, body = CredentialView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn change(
    State(shared): State<Shared>,
    _: Operator,
    scope: Scope,
    Path(username): Path<String>,
    IfMatch(when): IfMatch,
    Body(patch): Body<CredentialPatch>,
) -> Result<Tagged<CredentialView>, ProblemDocument> {
    let when = when.sending(&patch);
    find(&shared.app.desired(), scope, &username)?;
    let CredentialPatch { disabled, scopes, networks, trusts_networks } = patch;
    let change = CredentialChange { disabled, scopes, networks, trusts_networks };
    let credential = shared.run(move |app| app.change_credential(&username, &change, &when)).await?;
    Ok(tagged(&shared.app.desired(), &credential))
}

#[utoipa::path(post, path = "/v2/credentials/{username}/rotate", tag = "credentials",
    params(("username" = String, Path), ("If-Match" = Option<String>, Header), TenantParams),
    responses((status = 200, body = IssuedView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn rotate(
    State(shared): State<Shared>,
    _: Operator,
    scope: Scope,
    Path(username): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<Tagged<IssuedView>, ProblemDocument> {
    let when = when.rotating();
    find(&shared.app.desired(), scope, &username)?;
    let issued = shared.run(move |app| app.rotate_credential(&username, &when)).await?;
    Ok(issued_view(&shared, issued))
}

#[utoipa::path(delete, path = "/v2/credentials/{username}", tag = "credentials",
    params(("username" = String, Path), TenantParams),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    scope: Scope,
    Path(username): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    find(&shared.app.desired(), scope, &username)?;
    shared.run(move |app| app.delete_credential(&username, &when)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The credential of that name that the caller sees. A username is one credential's alone, and never another tenant's later:
/// who asks for a tenant's is not answered with another's.
fn find<'a>(desired: &'a Desired, scope: Scope, username: &str) -> Result<&'a Credential, ProblemDocument> {
    let found = desired.credential(username).filter(|credential| scope.sees(credential.tenant));
    found.ok_or_else(|| ProblemDocument::not_found(&format!("credential {username}")))
}

fn seen_by(numbers: Numbers, view: CredentialView) -> CredentialView {
    CredentialView { id: view.id.and_then(|id| numbers.show(id)), ..view }
}

fn issued_view(shared: &Shared, issued: IssuedSecret) -> Tagged<IssuedView> {
    let Tagged(tag, credential) = tagged(&shared.app.desired(), &issued.credential);
    Tagged(tag, IssuedView { credential, secret: issued.secret })
}

fn tagged(desired: &Desired, credential: &Credential) -> Tagged<CredentialView> {
    Tagged(entity_tag(&CredentialEntry::of(desired, credential)), view(desired, credential))
}

fn view(desired: &Desired, credential: &Credential) -> CredentialView {
    CredentialView {
        id: Some(credential.id.0),
        username: credential.username.clone(),
        tenant: desired.tenants.get(&credential.tenant).map(|tenant| tenant.name.clone()).unwrap_or_default(),
        live_secrets: credential.secret_hashes.len(),
        disabled: credential.disabled,
        scopes: credential.scopes,
        networks: credential.networks.clone(),
        trusts_networks: credential.trusts_networks,
    }
}
