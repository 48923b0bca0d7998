//! What handlers take from a request: the body, who is asking, and about which tenant.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{self, FromRequest, FromRequestParts, MatchedPath, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use postrail_schema::ids::TenantId;
use postrail_schema::limits::STATE_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::IntoParams;

use super::problem::ProblemDocument;
use super::words::Told;
use super::{Shared, described, read};
use crate::app::{App, AppError, Caller, Precondition};
use crate::plan::Role;

/// A JSON body (`read`).
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for Body<T> {
    type Rejection = ProblemDocument;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, ProblemDocument> {
        let (method, path) = (request.method().clone(), request.extensions().get::<MatchedPath>().cloned());
        let patience = patience(request.headers());
        let bytes = in_time(patience, axum::body::Bytes::from_request(request, state)).await?.map_err(|rejection| {
            ProblemDocument::new(rejection.status(), "body_not_read", "the body is too large or broke off")
        })?;
        let described = |pointer: &str| described::field(&method, path.as_ref()?.as_str(), pointer);
        Ok(Self(read::json(&bytes, described)?))
    }
}

/// How long a body of the length that these fields tell may take to come.
pub(crate) fn patience(headers: &HeaderMap) -> Duration {
    let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    BODY_PATIENCE + Duration::from_secs(told.unwrap_or(0_u64).min(STATE_BYTES_MAX as u64) / BODY_PACE)
}

/// What `read` gives of a body; the request is refused where that takes longer than `patience`.
pub(crate) async fn in_time<T>(patience: Duration, read: impl Future<Output = T>) -> Result<T, ProblemDocument> {
    timeout(patience, read).await.map_err(|_| {
        let detail = format!("the body did not come within {} seconds", patience.as_secs());
        ProblemDocument::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", detail)
    })
}

/// How long a body may take, besides a second for so many octets that are announced.
const BODY_PATIENCE: Duration = Duration::from_secs(20);
const BODY_PACE: u64 = 256 * 1024;

/// An operator, with the role; others get 403. Whether the role is enough for the request, `rights` has asked.
pub(crate) struct Operator(pub(crate) Role);

impl FromRequestParts<Shared> for Operator {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ProblemDocument> {
        match caller(parts)? {
            Caller::Operator { role, .. } => Ok(Self(role)),
            Caller::Tenant { .. } => Err(ProblemDocument::forbidden()),
        }
    }
}

/// The names in a path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for Path<T> {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ProblemDocument> {
        let unread = |_| {
            let detail = "a name in the path is no text of UTF-8";
            ProblemDocument::new(StatusCode::BAD_REQUEST, "invalid_path", detail)
        };
        extract::Path::from_request_parts(parts, shared).await.map(|extract::Path(names)| Self(names)).map_err(unread)
    }
}

/// What If-Match asks for; without it, nothing.
pub(crate) struct IfMatch(pub(crate) Precondition);

impl FromRequestParts<Shared> for IfMatch {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ProblemDocument> {
        let Some(field) = parts.headers.get(header::IF_MATCH) else { return Ok(Self(Precondition::default())) };
        let unread =
            |_| ProblemDocument::new(StatusCode::BAD_REQUEST, "invalid_if_match", "If-Match has entity tags, or *");
        Ok(Self(Precondition::if_match(field.to_str().map_err(unread)?)))
    }
}

/// A resource with its entity tag.
pub(crate) struct Tagged<T>(pub(crate) String, pub(crate) T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        ([(header::ETAG, self.0)], Json(self.1)).into_response()
    }
}

/// Query of everything that belongs to a tenant.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TenantParams {
    /// The tenant by name, for operators; a tenant's own by default.
    pub(crate) tenant: Option<String>,
}

/// Query of the document.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StateParams {
    /// With the hashes of secrets, and with keys that only the installation's master key opens.
    #[serde(default)]
    pub(crate) secrets: bool,
}

impl FromRequestParts<Shared> for StateParams {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ProblemDocument> {
        query(parts)
    }
}

/// Whose things the request may see: one tenant's, or for an operator who named none, all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scope(pub(crate) Option<TenantId>);

impl Scope {
    /// Whether something of that owner is seen; shared things are.
    pub(crate) fn sees(self, owner: impl Into<Option<TenantId>>) -> bool {
        owner.into().is_none_or(|owner| self.0.is_none_or(|tenant| tenant == owner))
    }

    /// Refuses to look here for what is in the ledger of another region, or on its hosts.
    ///
    /// # Errors
    /// As [`App::check_region`].
    pub(crate) fn check_region(self, app: &App) -> Result<(), AppError> {
        self.0.map_or(Ok(()), |tenant| app.check_region(tenant))
    }

    /// The scope of a request whose query names `tenant`.
    pub(crate) fn of(parts: &Parts, shared: &Shared, tenant: Option<&str>) -> Result<Self, ProblemDocument> {
        let named = tenant.map(|name| shared.app.tenant_id(name)).transpose()?;
        match caller(parts)? {
            Caller::Operator { .. } => Ok(Self(named)),
            Caller::Tenant { tenant: own, .. } if named.is_none_or(|named| named == own) => Ok(Self(Some(own))),
            Caller::Tenant { .. } => Err(ProblemDocument::not_found(&format!("tenant {}", tenant.unwrap_or_default()))),
        }
    }
}

impl Scope {
    /// The scope of an operator's request whose query has the number of a tenant, which may be gone.
    pub(crate) fn numbered(parts: &Parts, id: TenantId, tenant: Option<&str>) -> Result<Self, ProblemDocument> {
        if !caller(parts)?.is_operator() {
            return Err(ProblemDocument::forbidden());
        }
        match tenant {
            None => Ok(Self(Some(id))),
            Some(_) => {
                let detail = "name the tenant by tenant or by tenant_id, not by both";
                Err(ProblemDocument::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail))
            }
        }
    }
}

impl FromRequestParts<Shared> for Scope {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ProblemDocument> {
        let params: TenantParams = query(parts)?;
        Self::of(parts, shared, params.tenant.as_deref())
    }
}

/// Whether who asks is shown numbers that the whole installation shares, such as ids and places in the ledger: operators
/// are. To a tenant each would tell how many of them others have had since its last one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers(bool);

impl Numbers {
    pub(crate) fn for_caller(caller: &Caller) -> Self {
        Self(caller.is_operator())
    }

    pub(crate) fn show<T>(self, number: T) -> Option<T> {
        self.0.then_some(number)
    }
}

impl FromRequestParts<Shared> for Numbers {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ProblemDocument> {
        Ok(Self::for_caller(&caller(parts)?))
    }
}

/// The tenant that an operator makes something for: the one of the query, or `default`.
pub(crate) struct ForTenant(pub(crate) String);

impl FromRequestParts<Shared> for ForTenant {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ProblemDocument> {
        let params: TenantParams = query(parts)?;
        Ok(Self(params.tenant.unwrap_or_else(|| "default".to_owned())))
    }
}

/// Who makes or removes something that tenants may have of their own, and for which tenant: for operators the one of the
/// query or `default`, else the caller's.
pub(crate) struct Maker {
    pub(crate) tenant: String,
    pub(crate) caller: Caller,
}

impl FromRequestParts<Shared> for Maker {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ProblemDocument> {
        let params: TenantParams = query(parts)?;
        let caller = caller(parts)?;
        let tenant = match &caller {
            Caller::Operator { .. } => params.tenant.unwrap_or_else(|| "default".to_owned()),
            Caller::Tenant { tenant, .. } => {
                Scope::of(parts, shared, params.tenant.as_deref())?;
                shared.app.tenant_name(*tenant)
            }
        };
        Ok(Self { tenant, caller })
    }
}

/// The query as `T`.
pub(crate) fn query<T: DeserializeOwned>(parts: &Parts) -> Result<T, ProblemDocument> {
    Query::try_from_uri(&parts.uri)
        .map(|Query(query)| query)
        .map_err(|rejection| ProblemDocument::new(StatusCode::BAD_REQUEST, "invalid_query", query_fault(&rejection)))
}

/// What is wrong with a query, of which its reader says `name: reason`, or a reason alone.
fn query_fault(rejection: &QueryRejection) -> String {
    let text = rejection.body_text();
    let said = text.split_once("query string: ").map_or(text.as_str(), |(_, said)| said);
    match said.split_once(": ") {
        Some((name, reason)) if reason.contains("`true` or `false`") => format!("{name} is true or false"),
        Some((name, reason)) if reason.contains("digit") || reason.contains("number") || reason.contains("integer") => {
            format!("{name} is a whole number, and not so large a one")
        }
        Some((_, reason)) => Told::of(reason).detail,
        None => Told::of(said).detail,
    }
}

fn caller(parts: &Parts) -> Result<Caller, ProblemDocument> {
    parts.extensions.get::<Caller>().cloned().ok_or_else(ProblemDocument::unauthorized)
}
