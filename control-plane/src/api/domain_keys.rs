//! `/v2/domains/{name}/keys`: the DKIM keys of a sending domain, and how one gives way to the next.
//!
//! A tenant may do this for domains of its own that prove themselves; to sign with a key whose record nobody has seen is the
//! operator's. A private key that is brought is in no answer, no difference and no log.

use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::standing::Standing;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::domains::{DomainView, checked_view, find_one};
use super::extract::{Body, IfMatch, Maker, Numbers, Operator, Path, Scope, Tagged, TenantParams};
use super::problem::ProblemDocument;
use crate::app::{KeyAct, NewKey};
use crate::plan::DkimAlgorithm;

/// A key to add: made here, or brought.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyBody {
    /// Of a key that is made here; RSA of 2,048 bits by default.
    #[serde(default)]
    algorithm: Option<DkimAlgorithm>,
    /// By default one that no other key has had.
    #[serde(default)]
    selector: Option<String>,
    /// A private key as PEM: RSA of 2,048 to 4,096 bits (PKCS#8 or PKCS#1), or Ed25519 (PKCS#8). It is sealed at once, and
    /// never shown.
    #[serde(default)]
    private_key: Option<String>,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotationBody {
    /// The keys of this algorithm alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    algorithm: Option<DkimAlgorithm>,
}

/// What a difference shows of a request about one key.
#[derive(Debug, Serialize)]
struct Sent {
    selector: Option<String>,
}

/// Adds a key. It signs once its record is seen in DNS.
#[utoipa::path(post, path = "/v2/domains/{name}/keys", tag = "domains",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header), TenantParams), request_body = KeyBody,
    responses((status = 201, body = DomainView), (status = 409, body = ProblemDocument),
        (status = 412, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn add(
    State(shared): State<Shared>,
    maker: Maker,
    scope: Scope,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<KeyBody>,
) -> Result<(StatusCode, Tagged<DomainView>), ProblemDocument> {
    let domain = find_one(&shared, scope, &name)?;
    check_owner(&maker, domain.standing)?;
    if body.algorithm.is_some() && body.private_key.is_some() {
        let detail = "the algorithm of a key that is brought is its own".to_owned();
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return Err(ProblemDocument::field(status, "invalid", "/algorithm".to_owned(), detail));
    }
    let when = when.sending(&Sent { selector: body.selector.clone() });
    let algorithm = body.algorithm.unwrap_or(DkimAlgorithm::Rsa).into();
    let new = NewKey { algorithm, selector: body.selector, private_key: body.private_key };
    let id = domain.id;
    shared.run(move |app| app.add_key(id, &new, &when)).await?;
    Ok((StatusCode::CREATED, checked_view(&shared, id, Numbers::for_caller(&maker.caller)).await?))
}

/// Makes a successor for each key that signs. It signs once its record is seen in DNS, and the former one stops then.
#[utoipa::path(post, path = "/v2/domains/{name}/keys/rotate", tag = "domains",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header), TenantParams), request_body = RotationBody,
    responses((status = 200, body = DomainView), (status = 409, body = ProblemDocument), (status = 412, body = ProblemDocument)))]
pub(crate) async fn rotate(
    State(shared): State<Shared>,
    maker: Maker,
    scope: Scope,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<RotationBody>,
) -> Result<Tagged<DomainView>, ProblemDocument> {
    let domain = find_one(&shared, scope, &name)?;
    check_owner(&maker, domain.standing)?;
    let when = when.sending(&body);
    let (id, only) = (domain.id, body.algorithm.map(Into::into));
    shared.run(move |app| app.rotate_keys(id, only, &when)).await?;
    checked_view(&shared, id, Numbers::for_caller(&maker.caller)).await
}

/// Signs with the key from now on, whether or not its record was seen; also takes back one that has stopped.
#[utoipa::path(post, path = "/v2/domains/{name}/keys/{selector}/sign", tag = "domains",
    params(("name" = String, Path), ("selector" = String, Path), ("If-Match" = Option<String>, Header), TenantParams),
    responses((status = 200, body = DomainView), (status = 404, body = ProblemDocument),
        (status = 409, body = ProblemDocument), (status = 412, body = ProblemDocument)))]
pub(crate) async fn sign(
    State(shared): State<Shared>,
    _: Operator,
    maker: Maker,
    scope: Scope,
    Path((name, selector)): Path<(String, String)>,
    IfMatch(when): IfMatch,
) -> Result<Tagged<DomainView>, ProblemDocument> {
    act(&shared, &maker, scope, (&name, selector), IfMatch(when), KeyAct::Sign).await
}

/// Stops signing with the key: its record stays until mail on its way is verified. A key that has stopped: its record may go now.
#[utoipa::path(post, path = "/v2/domains/{name}/keys/{selector}/retire", tag = "domains",
    params(("name" = String, Path), ("selector" = String, Path), ("If-Match" = Option<String>, Header), TenantParams),
    responses((status = 200, body = DomainView), (status = 404, body = ProblemDocument),
        (status = 409, body = ProblemDocument), (status = 412, body = ProblemDocument)))]
pub(crate) async fn retire(
    State(shared): State<Shared>,
    maker: Maker,
    scope: Scope,
    Path((name, selector)): Path<(String, String)>,
    IfMatch(when): IfMatch,
) -> Result<Tagged<DomainView>, ProblemDocument> {
    act(&shared, &maker, scope, (&name, selector), IfMatch(when), KeyAct::Retire).await
}

/// Forgets a key that waits for its record, or whose record may go.
#[utoipa::path(delete, path = "/v2/domains/{name}/keys/{selector}", tag = "domains",
    params(("name" = String, Path), ("selector" = String, Path), ("If-Match" = Option<String>, Header), TenantParams),
    responses((status = 200, body = DomainView), (status = 404, body = ProblemDocument),
        (status = 409, body = ProblemDocument), (status = 412, body = ProblemDocument)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    maker: Maker,
    scope: Scope,
    Path((name, selector)): Path<(String, String)>,
    IfMatch(when): IfMatch,
) -> Result<Tagged<DomainView>, ProblemDocument> {
    act(&shared, &maker, scope, (&name, selector), IfMatch(when), KeyAct::Remove).await
}

async fn act(
    shared: &Shared,
    maker: &Maker,
    scope: Scope,
    (name, selector): (&str, String),
    IfMatch(when): IfMatch,
    act: KeyAct,
) -> Result<Tagged<DomainView>, ProblemDocument> {
    let domain = find_one(shared, scope, name)?;
    check_owner(maker, domain.standing)?;
    let when = when.sending(&Sent { selector: Some(selector.clone()) });
    let id = domain.id;
    shared.run(move |app| app.act_on_key(id, &selector, act, &when)).await?;
    checked_view(shared, id, Numbers::for_caller(&maker.caller)).await
}

/// The keys of a domain that the operator vouches for are the operator's.
fn check_owner(maker: &Maker, standing: Standing) -> Result<(), ProblemDocument> {
    if maker.caller.is_operator() || standing != Standing::Trusted {
        return Ok(());
    }
    Err(ProblemDocument::forbidden())
}
