//! Who may ask what: the scope that a tenant's credential needs, and the role that an operator needs, by method and path.
//!
//! Invariant worth naming: it is asked once, before any handler, so that a resource without a rule of its own has the
//! strictest that fits. What is the operator's alone, and whose things a tenant sees, the handlers say by what they take
//! from a request (`extract`).

use axum::http::{Method, StatusCode};
use postrail_schema::access::Scope;

use super::problem::ProblemDocument;
use crate::app::Caller;
use crate::plan::Role;

/// # Errors
/// 403 that names the scope or the role that is missing.
pub(crate) fn check(caller: &Caller, method: &Method, path: &str) -> Result<(), ProblemDocument> {
    let reads = changes_nothing(method, path);
    match caller {
        Caller::Operator { role, .. } => need_role(*role, role_of(reads, path)),
        Caller::Tenant { scopes, .. } => match scope_of(reads, path) {
            Some(scope) if !scopes.has(scope) => Err(missing_scope(scope)),
            _ => Ok(()),
        },
    }
}

/// Whether a request only reads, by whatever method: a plan has a body, and changes nothing.
pub(crate) fn changes_nothing(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) || (*method == Method::POST && path == "/state/plan")
}

/// # Errors
/// 403 that names the role.
pub(crate) fn need_role(role: Role, needed: Role) -> Result<(), ProblemDocument> {
    if role >= needed {
        return Ok(());
    }
    let detail = format!("this needs the role {}; yours is {}", needed.name(), role.name());
    Err(ProblemDocument::new(StatusCode::FORBIDDEN, "role_missing", detail))
}

fn missing_scope(scope: Scope) -> ProblemDocument {
    let detail = format!("this needs the scope {}, which the credential does not have", scope.name());
    ProblemDocument::new(StatusCode::FORBIDDEN, "scope_missing", detail)
}

fn role_of(reads: bool, path: &str) -> Role {
    match resource(path) {
        _ if reads => Role::Viewer,
        "operators" | "master-key" => Role::Admin,
        _ => Role::Operator,
    }
}

/// `None`: it is the operator's, which the handler says.
fn scope_of(reads: bool, path: &str) -> Option<Scope> {
    match (resource(path), reads) {
        ("jobs" | "events" | "trace", true) => Some(Scope::JobsRead),
        ("domains", true) => Some(Scope::DomainsRead),
        ("domains", false) => Some(Scope::DomainsWrite),
        ("suppressions", true) => Some(Scope::SuppressionsRead),
        ("suppressions", false) => Some(Scope::SuppressionsWrite),
        ("credentials", true) => Some(Scope::CredentialsRead),
        ("tenants" | "pools", true) => Some(Scope::AccountRead),
        _ => None,
    }
}

/// The first segment.
fn resource(path: &str) -> &str {
    path.trim_start_matches('/').split('/').next().unwrap_or_default()
}
