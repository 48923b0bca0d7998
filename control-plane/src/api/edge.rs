//! What happens around every handler: counting, authentication, a place among the requests in flight, the audit trail.
//!
//! Invariant worth naming: a tenant's credential of another region is refused here, so that no resource can forget it, and
//! before its request leaves a trace; nor does an operator's that is meant for another region leave an address.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::extract::TenantParams;
use super::problem::ProblemDocument;
use super::{Shared, rights};
use crate::app::{App, Caller, Refusal, now_ms};
use crate::listen::Peer;

tokio::task_local! {
    /// The record of the audit trail of the request that this task answers.
    static ACT: u64;
}

/// The record of the audit trail that is being acted for; readings have none.
pub(crate) fn act() -> Option<u64> {
    ACT.try_with(|act| *act).ok()
}

/// Counts requests by class of status.
pub(crate) async fn count(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let class = usize::from(response.status().as_u16() / 100).clamp(1, 5) - 1;
    shared.counts.by_class[class].fetch_add(1, Ordering::Relaxed);
    response
}

/// Lets only known callers through, and keeps the audit trail of what is no reading. Nothing is changed where that trail
/// would be in another ledger than the region's.
pub(crate) async fn authenticate(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let asking = match shared.rooms.asking() {
        Ok(asking) => asking,
        Err(problem) => return problem.into_response(),
    };
    let proof = Proof::of(&request);
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|peer| peer.0.address.ip());
    let proved = shared.run(move |app| {
        let caller = proof.ok_or(Refusal::Unknown).and_then(|proof| proof.caller(app, peer));
        // Before anything is written, the audit trail included, which would keep here what the request names.
        if let Ok(Caller::Tenant { tenant, .. }) = &caller {
            app.check_region(*tenant)?;
        }
        Ok(caller)
    });
    let caller = match proved.await {
        Ok(Ok(caller)) => caller,
        Ok(Err(Refusal::Unknown)) => return ProblemDocument::unauthorized().into_response(),
        Ok(Err(Refusal::Network)) => return ProblemDocument::foreign_network().into_response(),
        Err(problem) => return problem.into_response(),
    };
    drop(asking);
    let _place = match shared.rooms.caller(&caller) {
        Ok(place) => place,
        Err(problem) => return problem.into_response(),
    };
    let refused = rights::check(&caller, request.method(), request.uri().path()).err();
    request.extensions_mut().insert(caller.clone());
    if rights::changes_nothing(request.method(), request.uri().path()) {
        return answer(refused, request, next).await;
    }
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let begun = shared.run(move |app| {
        app.check_ledger_now()?;
        Ok(app.ledger.audit_begin(now_ms(), &caller.name(), &action(app, &caller, &method, &uri))?)
    });
    let begun = begun.await;
    let sequence = match begun {
        Ok(sequence) => sequence,
        Err(problem) => return problem.into_response(),
    };
    let response = ACT.scope(sequence, answer(refused, request, next)).await;
    let status = response.status().as_u16();
    match shared.run(move |app| Ok(app.ledger.audit_end(sequence, status)?)).await {
        Ok(()) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn answer(refused: Option<ProblemDocument>, request: Request, next: Next) -> Response {
    match refused {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

/// A request as the audit trail has it. An address in its path is there where it is of a tenant whose ledger this is: what came
/// with the mail of another region is on no disk here.
fn action(app: &App, caller: &Caller, method: &Method, uri: &Uri) -> String {
    let is_here = || {
        let Ok(Query(named)) = Query::<TenantParams>::try_from_uri(uri) else { return false };
        let (desired, name) = (app.desired(), named.tenant.unwrap_or_else(|| "default".to_owned()));
        desired.tenant(&name).is_some_and(|tenant| app.other_region(&desired, tenant.id).is_none())
    };
    if !uri.path().starts_with("/suppressions/") || !caller.is_operator() || is_here() {
        return format!("{method} /v2{uri}");
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{method} /v2/suppressions/(address){query}")
}

pub(crate) async fn not_found() -> ProblemDocument {
    ProblemDocument::not_found("this path")
}

pub(crate) async fn method_not_allowed() -> ProblemDocument {
    let detail = "the resource does not know this method";
    ProblemDocument::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// What an Authorization field says.
enum Proof {
    Bearer(String),
    Basic { username: String, password: String },
}

impl Proof {
    fn of(request: &Request) -> Option<Self> {
        let (scheme, value) = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(value.trim().to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Self::Basic { username: username.to_owned(), password: password.to_owned() })
    }

    fn caller(self, app: &App, peer: Option<IpAddr>) -> Result<Caller, Refusal> {
        match self {
            Self::Bearer(token) => app.bearer(&token, peer),
            Self::Basic { username, password } => app.basic(&username, &password, peer),
        }
    }
}
