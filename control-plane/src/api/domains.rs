//! `/v2/domains`: sending domains, what to publish for them, and what is published.
//!
//! A tenant may add domains of its own, which then have to prove themselves, check them, and remove them; the rest is the
//! operator's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::ids::SendingDomainId;
use postrail_schema::snapshot::{KeyAlgorithm, KeyStage, SendingDomain};
use postrail_schema::standing::{DomainRecord, Standing};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Maker, Numbers, Operator, Path, Scope, Tagged, TenantParams};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::tenants::present;
use crate::app::{DomainChange, NewDomain, check_on_demand, dns_records, domain_asked};
use crate::plan::{Desired, DkimAlgorithm, DomainEntry, Verification, entity_tag};
use crate::verify::{DnsRecord, DomainCheck, Duty, Purpose, RecordCheck, RecordState, ServerSaid};

/// A sending domain.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DomainView {
    /// Operators alone are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    name: String,
    tenant: String,
    /// Null: the default pool.
    pool: Option<String>,
    /// What lets it send: the operator's word or its DNS records.
    verification: Verification,
    /// `trusted`, `unproved`, `verified`, `failing` or `lapsed`.
    standing: &'static str,
    may_send: bool,
    /// The record without which it may not send: `ownership`, `spf`, `dkim` or `dmarc`.
    #[schema(value_type = Option<String>)]
    missing: Option<DomainRecord>,
    /// Unix milliseconds; null in lists, and before the first check.
    standing_since_ms: Option<u64>,
    /// Unix milliseconds; null in lists, and before the first check.
    checked_at_ms: Option<u64>,
    keys: Vec<KeyView>,
    /// What to publish in DNS, and what is there.
    dns_records: Vec<RecordView>,
}

/// A DKIM key's public side.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyView {
    /// Operators alone are shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    selector: String,
    /// `rsa-sha256` or `ed25519-sha256`.
    algorithm: &'static str,
    public_key: String,
    /// `waiting`: it signs once its record is seen; `signing`; `former`: it signs no more, and its record has to stay for mail
    /// on its way; `retired`: its record may be removed.
    state: &'static str,
    /// Since when, Unix milliseconds; 0: not known.
    since_ms: u64,
    /// Until when the record of a former key has to stay, Unix milliseconds.
    keep_record_until_ms: Option<u64>,
}

/// A record to publish, and the last look at it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RecordView {
    purpose: Purpose,
    /// Absolute, without the final dot.
    name: String,
    /// `TXT`, `MX` or `CNAME`.
    #[serde(rename = "type")]
    kind: &'static str,
    value: String,
    /// The value as a zone file wants it.
    zone_value: String,
    /// Whether the domain needs it: to be let send, or where the operator vouches for it, for receivers to believe its mail.
    required: bool,
    /// `publish`: it has to be there; `keep`: it has to stay for mail that is on its way; `remove`: it may be removed.
    action: Duty,
    /// Of one to keep: until when, Unix milliseconds.
    keep_until_ms: Option<u64>,
    /// Null in lists, and before the first check.
    check: Option<CheckView>,
}

/// What was found of a record.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckView {
    state: RecordState,
    /// What is published there, as text.
    found: Vec<String>,
    /// The name server that said so.
    server: Option<String>,
    /// What each of the zone's own servers says, where they do not all say what is wanted.
    servers: Vec<ServerSaid>,
    /// What is wrong, or worth knowing; empty where there is nothing to say.
    detail: String,
    /// What to do about it; empty where there is nothing to do.
    advice: String,
    /// Since when it is in this state, Unix milliseconds.
    since_ms: u64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DomainBody {
    name: String,
    /// The operator's to choose.
    #[serde(default)]
    pool: Option<String>,
    /// The DKIM keys to make; one of each algorithm by default. An empty list: its mail is not signed.
    #[serde(default)]
    dkim_keys: Option<Vec<DkimAlgorithm>>,
    /// `operator` or `dns`, for operators; by default as the settings say. What a tenant adds is always `dns`.
    #[serde(default)]
    verification: Option<Verification>,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DomainPatch {
    /// A pool by name; null: the default pool; absent: as it is.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pool: Option<Option<String>>,
    /// `operator`: it may send by the operator's word; `dns`: it has to prove itself from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verification: Option<Verification>,
}

#[utoipa::path(get, path = "/v2/domains", tag = "domains", params(PageParams, TenantParams),
    responses((status = 200, body = Page<DomainView>)))]
pub(crate) async fn list(State(shared): State<Shared>, listing: Listing, numbers: Numbers) -> Json<Page<DomainView>> {
    let desired = shared.app.desired();
    let seen = desired.domains.values().filter(|domain| listing.scope.sees(domain.tenant));
    // Several tenants may have a name, and a page may end between them.
    let seen = seen.map(|domain| (format!("{} {}", domain.name, shared.app.tenant_name(domain.tenant)), domain));
    let view = |domain: &SendingDomain| view(&desired, domain, shared.app.hostname(), None, numbers);
    Json(listing.by_name(seen, |(place, _)| place, |(_, domain)| view(domain)))
}

#[utoipa::path(post, path = "/v2/domains", tag = "domains", params(TenantParams), request_body = DomainBody,
    responses((status = 201, body = DomainView), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    maker: Maker,
    Body(body): Body<DomainBody>,
) -> Result<(StatusCode, Tagged<DomainView>), ProblemDocument> {
    if !maker.caller.is_operator() && (body.pool.is_some() || body.verification == Some(Verification::Operator)) {
        return Err(ProblemDocument::forbidden());
    }
    let algorithms = body.dkim_keys.map(|keys| keys.into_iter().map(KeyAlgorithm::from).collect());
    let Maker { tenant, caller: by } = maker;
    let numbers = Numbers::for_caller(&by);
    let new = NewDomain { tenant, name: body.name, pool: body.pool, algorithms, verification: body.verification, by };
    let domain = shared.run(move |app| app.create_domain(&new)).await?;
    Ok((StatusCode::CREATED, tagged(&shared, &domain, None, numbers)))
}

#[utoipa::path(get, path = "/v2/domains/{name}", tag = "domains", params(("name" = String, Path), TenantParams),
    responses((status = 200, body = DomainView), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    scope: Scope,
    numbers: Numbers,
    Path(name): Path<String>,
) -> Result<Tagged<DomainView>, ProblemDocument> {
    let id = find(&shared, scope, &name)?.id;
    checked_view(&shared, id, numbers).await
}

/// Looks at the records now, and answers with what is there.
#[utoipa::path(post, path = "/v2/domains/{name}/check", tag = "domains",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header), TenantParams),
    responses((status = 200, body = DomainView), (status = 404, body = ProblemDocument),
        (status = 409, description = "several tenants have the name", body = ProblemDocument)))]
pub(crate) async fn check(
    State(shared): State<Shared>,
    scope: Scope,
    numbers: Numbers,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<Tagged<DomainView>, ProblemDocument> {
    let domain = find_one(&shared, scope, &name)?;
    when.sending(&json!({})).check(&DomainEntry::of(&shared.app.desired(), &domain))?;
    let id = domain.id;
    check_on_demand(&shared.app, id).await?;
    checked_view(&shared, id, numbers).await
}

#[utoipa::path(patch, path = "/v2/domains/{name}", tag = "domains", params(("name" = String, Path), TenantParams),
    request_body = DomainPatch,
    responses((status = 200, body = DomainView), (status = 404, body = ProblemDocument),
        (status = 409, description = "several tenants have the name", body = ProblemDocument)))]
pub(crate) async fn change(
    State(shared): State<Shared>,
    _: Operator,
    scope: Scope,
    numbers: Numbers,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(patch): Body<DomainPatch>,
) -> Result<Tagged<DomainView>, ProblemDocument> {
    let when = when.sending(&patch);
    let id = find_one(&shared, scope, &name)?.id;
    let change = DomainChange { pool: patch.pool, verification: patch.verification };
    shared.run(move |app| app.change_domain(id, &change, &when)).await?;
    checked_view(&shared, id, numbers).await
}

#[utoipa::path(delete, path = "/v2/domains/{name}", tag = "domains", params(("name" = String, Path), TenantParams),
    responses((status = 204), (status = 404, body = ProblemDocument),
        (status = 409, description = "several tenants have the name", body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    maker: Maker,
    scope: Scope,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    let domain = find_one(&shared, scope, &name)?;
    if !maker.caller.is_operator() && domain.standing == Standing::Trusted {
        return Err(ProblemDocument::forbidden());
    }
    shared.run(move |app| app.delete_domain(domain.id, &when)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The domain of that name that the caller sees; of several the first.
pub(super) fn find(shared: &Shared, scope: Scope, name: &str) -> Result<SendingDomain, ProblemDocument> {
    let asked = domain_asked(name)?;
    let found = shared.app.desired().domain(scope.0, &asked).cloned();
    found.ok_or_else(|| ProblemDocument::not_found(&format!("domain {name}")))
}

/// The domain of that name that is to be changed. Where several tenants have the name, an operator says whose is meant.
pub(super) fn find_one(shared: &Shared, scope: Scope, name: &str) -> Result<SendingDomain, ProblemDocument> {
    let found = find(shared, scope, name)?;
    let desired = shared.app.desired();
    let owners = desired.domains.values().filter(|domain| scope.sees(domain.tenant) && domain.name == found.name);
    let owners: Vec<_> = owners.map(|domain| shared.app.tenant_name(domain.tenant)).collect();
    if owners.len() > 1 {
        let named = owners.iter().take(OWNERS_NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if owners.len() > OWNERS_NAMED_MAX { ", …" } else { "" };
        let detail = format!("{} tenants have {name}: say whose is meant, by tenant ({named}{more})", owners.len());
        return Err(ProblemDocument::new(StatusCode::CONFLICT, "several_tenants", detail));
    }
    Ok(found)
}

pub(super) async fn checked_view(
    shared: &Shared,
    id: SendingDomainId,
    numbers: Numbers,
) -> Result<Tagged<DomainView>, ProblemDocument> {
    let check = shared.run(move |app| app.last_check(id)).await?;
    let desired = shared.app.desired();
    let domain = desired.domains.get(&id).ok_or_else(|| ProblemDocument::not_found("the domain"))?;
    Ok(tagged(shared, domain, check.as_ref(), numbers))
}

fn tagged(shared: &Shared, domain: &SendingDomain, last: Option<&DomainCheck>, numbers: Numbers) -> Tagged<DomainView> {
    let desired = shared.app.desired();
    let tag = entity_tag(&DomainEntry::of(&desired, domain));
    Tagged(tag, view(&desired, domain, shared.app.hostname(), last, numbers))
}

fn view(
    desired: &Desired,
    domain: &SendingDomain,
    hostname: &str,
    last: Option<&DomainCheck>,
    numbers: Numbers,
) -> DomainView {
    let keys = domain.keys.iter().map(|key| KeyView {
        id: numbers.show(key.id.0),
        selector: key.selector.clone(),
        algorithm: match key.algorithm {
            KeyAlgorithm::RsaSha256 => "rsa-sha256",
            KeyAlgorithm::Ed25519Sha256 => "ed25519-sha256",
        },
        public_key: key.public_key.clone(),
        state: key.stage.name(),
        since_ms: key.since_ms,
        keep_record_until_ms: match key.stage {
            KeyStage::Former { until_ms } => Some(until_ms),
            KeyStage::Waiting | KeyStage::Signing | KeyStage::Retired => None,
        },
    });
    let checks = last.map(|last| &last.records[..]).unwrap_or_default();
    let trusted = domain.standing == Standing::Trusted;
    let needed = |record: &DnsRecord| record.required && !(trusted && record.purpose == Purpose::Ownership);
    let records = dns_records(desired, domain, hostname).into_iter();
    let records = records.map(|record| RecordView { required: needed(&record), ..record_view(record, checks) });
    let since = last.filter(|last| last.standing == domain.standing.name());
    DomainView {
        id: numbers.show(domain.id.0),
        name: domain.name.clone(),
        tenant: desired.tenants.get(&domain.tenant).map(|tenant| tenant.name.clone()).unwrap_or_default(),
        pool: domain.pool.and_then(|pool| desired.pools.get(&pool)).map(|pool| pool.name.clone()),
        verification: if trusted { Verification::Operator } else { Verification::Dns },
        standing: domain.standing.name(),
        may_send: domain.standing.may_send(),
        missing: domain.refusal().map(|refusal| refusal.missing),
        standing_since_ms: since.map(|last| last.standing_since_ms),
        checked_at_ms: last.map(|last| last.checked_at_ms),
        keys: keys.collect(),
        dns_records: records.collect(),
    }
}

fn record_view(record: DnsRecord, checks: &[RecordCheck]) -> RecordView {
    let check = checks.iter().find(|check| check.purpose == record.purpose && check.name == record.name);
    let check = check.cloned().map(|check| CheckView {
        state: check.state,
        found: check.found,
        server: check.server,
        servers: check.servers,
        detail: check.detail,
        advice: check.advice,
        since_ms: check.since_ms,
    });
    let DnsRecord { purpose, name, kind, value, zone_value, required, duty: action, until_ms: keep_until_ms } = record;
    RecordView { purpose, name, kind, value, zone_value, required, action, keep_until_ms, check }
}

/// Tenants that a refusal names.
const OWNERS_NAMED_MAX: usize = 10;
