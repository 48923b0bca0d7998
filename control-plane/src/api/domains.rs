//! `/v2/domains`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use postrail_schema::snapshot::{KeyAlgorithm, SendingDomain};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, ForTenant, Operator, Scope, TenantParams};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::tenants::present;
use crate::app::{DnsRecord, NewDomain, dns_records};
use crate::plan::Desired;

/// A sending domain.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DomainView {
    id: u32,
    name: String,
    tenant: String,
    /// Null: the default pool.
    pool: Option<String>,
    keys: Vec<KeyView>,
    /// What to publish in DNS.
    dns_records: Vec<DnsRecord>,
}

/// A DKIM key's public side.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyView {
    id: u32,
    selector: String,
    /// `rsa-sha256` or `ed25519-sha256`.
    algorithm: &'static str,
    public_key: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DomainBody {
    name: String,
    #[serde(default)]
    pool: Option<String>,
    /// The DKIM keys to make; one of each algorithm by default. An empty list: its mail is not signed.
    #[serde(default)]
    dkim_keys: Option<Vec<DkimAlgorithm>>,
}

/// What a DKIM key signs with.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
pub(crate) enum DkimAlgorithm {
    /// RSA of 2,048 bits.
    #[serde(rename = "rsa-sha256")]
    Rsa,
    #[serde(rename = "ed25519-sha256")]
    Ed25519,
}

impl From<DkimAlgorithm> for KeyAlgorithm {
    fn from(algorithm: DkimAlgorithm) -> Self {
        match algorithm {
            DkimAlgorithm::Rsa => Self::RsaSha256,
            DkimAlgorithm::Ed25519 => Self::Ed25519Sha256,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DomainPatch {
    /// A pool by name; null: the default pool.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pool: Option<Option<String>>,
}

#[utoipa::path(get, path = "/v2/domains", tag = "domains", params(PageParams),
    responses((status = 200, body = Page<DomainView>)))]
pub(crate) async fn list(State(shared): State<Shared>, listing: Listing) -> Json<Page<DomainView>> {
    let desired = shared.app.desired();
    let seen = desired.domains.values().filter(|domain| listing.scope.sees(domain.tenant));
    Json(listing.by_name(seen, |domain| &domain.name, |domain| view(&desired, domain, shared.app.hostname())))
}

#[utoipa::path(post, path = "/v2/domains", tag = "domains", params(TenantParams), request_body = DomainBody,
    responses((status = 201, body = DomainView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    ForTenant(tenant): ForTenant,
    Body(body): Body<DomainBody>,
) -> Result<(StatusCode, Json<DomainView>), ProblemDocument> {
    let algorithms = body.dkim_keys.map(|keys| keys.into_iter().map(KeyAlgorithm::from).collect());
    let new = NewDomain { tenant, name: body.name, pool: body.pool, algorithms };
    let domain = shared.run(move |app| app.create_domain(&new)).await?;
    Ok((StatusCode::CREATED, Json(view(&shared.app.desired(), &domain, shared.app.hostname()))))
}

#[utoipa::path(get, path = "/v2/domains/{name}", tag = "domains", params(("name" = String, Path), TenantParams),
    responses((status = 200, body = DomainView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    scope: Scope,
    Path(name): Path<String>,
) -> Result<Json<DomainView>, ProblemDocument> {
    let desired = shared.app.desired();
    let domain = desired.domain(&name).filter(|domain| scope.sees(domain.tenant));
    let domain = domain.ok_or_else(|| ProblemDocument::not_found(&format!("domain {name}")))?;
    Ok(Json(view(&desired, domain, shared.app.hostname())))
}

#[utoipa::path(patch, path = "/v2/domains/{name}", tag = "domains", params(("name" = String, Path)),
    request_body = DomainPatch, responses((status = 200, body = DomainView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn change(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    Body(patch): Body<DomainPatch>,
) -> Result<Json<DomainView>, ProblemDocument> {
    let pool = patch.pool.flatten();
    let domain = shared.run(move |app| app.assign_pool(&name, pool.as_deref())).await?;
    Ok(Json(view(&shared.app.desired(), &domain, shared.app.hostname())))
}

#[utoipa::path(delete, path = "/v2/domains/{name}", tag = "domains", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<StatusCode, ProblemDocument> {
    shared.run(move |app| app.delete_domain(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(desired: &Desired, domain: &SendingDomain, hostname: &str) -> DomainView {
    let keys = domain.keys.iter().map(|key| KeyView {
        id: key.id.0,
        selector: key.selector.clone(),
        algorithm: match key.algorithm {
            KeyAlgorithm::RsaSha256 => "rsa-sha256",
            KeyAlgorithm::Ed25519Sha256 => "ed25519-sha256",
        },
        public_key: key.public_key.clone(),
    });
    DomainView {
        id: domain.id.0,
        name: domain.name.clone(),
        tenant: desired.tenants.get(&domain.tenant).map(|tenant| tenant.name.clone()).unwrap_or_default(),
        pool: domain.pool.and_then(|pool| desired.pools.get(&pool)).map(|pool| pool.name.clone()),
        keys: keys.collect(),
        dns_records: dns_records(desired, domain, hostname),
    }
}
