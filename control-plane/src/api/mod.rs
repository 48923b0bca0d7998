//! The HTTP edge: axum, one resource a file.
//!
//! Every request under `/v2` proves who is asking; what changes something is written to the audit trail before it is done
//! and completed with what it changes and the status of its answer. Tenants' credentials need a scope, operators a role (`rights`). Errors are RFC 9457 problems with JSON pointers. A tenant sees only what
//! is its own; anything else is 404 for it, and changes are the operator's (403).
//!
//! Absent here: decisions about configuration (`app`), TLS (`listen`), CORS.

mod audit;
mod credentials;
mod described;
mod domain_keys;
mod domains;
mod edge;
mod events;
mod explain;
mod extract;
mod fleet;
mod form;
mod hosts;
mod jobs;
mod listeners;
mod master_key;
mod openapi;
mod operators;
mod page;
mod pools;
mod problem;
mod providers;
mod quarantine;
mod queue;
mod read;
mod regions;
mod resource;
mod retry_policies;
mod rights;
mod room;
mod routes;
mod routing_rules;
mod settings;
mod shaping_rules;
mod sources;
mod state;
mod status;
mod strict;
mod suppressions;
mod suspensions;
mod tenants;
mod tls_rules;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use postrail_schema::limits::{CONTROL_BODY_BYTES_MAX, MIRROR_BODY_BYTES_MAX, STATE_BYTES_MAX};

use crate::app::{App, AppError, acting};
use crate::reconcile::JournalGauges;
use problem::ProblemDocument;
use room::Rooms;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    app: Arc<App>,
    gauges: Arc<JournalGauges>,
    counts: Arc<status::Counts>,
    rooms: Arc<Rooms>,
    /// What hosts of the cluster show: one of these.
    tokens: Arc<[String]>,
}

/// All routes.
pub(crate) fn router(app: Arc<App>, gauges: Arc<JournalGauges>, tokens: Arc<[String]>) -> Router {
    let shared = Shared { app, gauges, counts: Arc::default(), rooms: Arc::new(Rooms::new()), tokens };
    let v2 = configuration().merge(state()).merge(mail()).layer(from_fn(form::check));
    let v2 = v2.layer(from_fn_with_state(shared.clone(), edge::authenticate));
    let compared = post(fleet::compare).layer(DefaultBodyLimit::max(MIRROR_BODY_BYTES_MAX));
    Router::new()
        .route("/", get(status::root))
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/fleet/suppressions", get(fleet::suppressions).merge(compared))
        .nest("/v2", v2)
        .fallback(edge::not_found)
        .method_not_allowed_fallback(edge::method_not_allowed)
        .layer(DefaultBodyLimit::max(CONTROL_BODY_BYTES_MAX))
        .layer(from_fn_with_state(shared.clone(), edge::count))
        .with_state(shared)
}

fn configuration() -> Router<Shared> {
    Router::new()
        .route("/tenants", get(tenants::list).post(tenants::create))
        .route("/tenants/{name}", get(tenants::show).patch(tenants::change).delete(tenants::delete))
        .route("/tenants/{name}/quota", get(tenants::quota))
        .route("/domains", get(domains::list).post(domains::create))
        .route("/domains/{name}", get(domains::show).patch(domains::change).delete(domains::delete))
        .route("/domains/{name}/check", post(domains::check))
        .route("/domains/{name}/keys", post(domain_keys::add))
        .route("/domains/{name}/keys/rotate", post(domain_keys::rotate))
        .route("/domains/{name}/keys/{selector}", delete(domain_keys::remove))
        .route("/domains/{name}/keys/{selector}/sign", post(domain_keys::sign))
        .route("/domains/{name}/keys/{selector}/retire", post(domain_keys::retire))
        .route("/master-key/rotate", post(master_key::rotate))
        .route("/settings", get(settings::show).patch(settings::change))
        .route("/operators", get(operators::list).post(operators::create))
        .route("/operators/{name}", get(operators::show).patch(operators::change).delete(operators::delete))
        .route("/operators/{name}/rotate", post(operators::rotate))
        .route("/credentials", get(credentials::list).post(credentials::create))
        .route("/credentials/{username}", get(credentials::show).patch(credentials::change).delete(credentials::delete))
        .route("/credentials/{username}/rotate", post(credentials::rotate))
        .route("/regions", get(regions::list).post(regions::create))
        .route("/regions/{name}", get(regions::show).put(regions::replace).delete(regions::delete))
        .route("/sources", get(sources::list).post(sources::create))
        .route("/sources/{name}", get(sources::show).put(sources::replace).delete(sources::delete))
        .route("/pools", get(pools::list).post(pools::create))
        .route("/pools/{name}", get(pools::show).put(pools::replace).delete(pools::delete))
        .route("/routes", get(routes::list).post(routes::create))
        .route("/routes/{domain}", get(routes::show).delete(routes::delete))
        .route("/retry-policies", get(retry_policies::list).post(retry_policies::create))
        .route(
            "/retry-policies/{name}",
            get(retry_policies::show).put(retry_policies::replace).delete(retry_policies::delete),
        )
        .route("/routing-rules", get(routing_rules::list).post(routing_rules::create))
        .route(
            "/routing-rules/{name}",
            get(routing_rules::show).put(routing_rules::replace).delete(routing_rules::delete),
        )
        .route("/explain", get(explain::show))
        .route("/providers", get(providers::list).post(providers::create))
        .route("/providers/{name}", get(providers::show).put(providers::replace).delete(providers::delete))
        .route("/shaping-rules", get(shaping_rules::list).post(shaping_rules::create))
        .route(
            "/shaping-rules/{name}",
            get(shaping_rules::show).put(shaping_rules::replace).delete(shaping_rules::delete),
        )
        .route("/listeners", get(listeners::list).post(listeners::create))
        .route("/listeners/{name}", get(listeners::show).put(listeners::replace).delete(listeners::delete))
        .route("/listening", get(listeners::listening))
        .route("/tls-rules", get(tls_rules::list).post(tls_rules::create))
        .route("/tls-rules/{name}", get(tls_rules::show).put(tls_rules::replace).delete(tls_rules::delete))
        .route("/suspensions", get(suspensions::list).post(suspensions::create))
        .route("/suspensions/{id}", get(suspensions::show).delete(suspensions::delete))
        .route("/suppressions", get(suppressions::list).post(suppressions::create).delete(suppressions::clear))
        .route(
            "/suppressions/{address}",
            get(suppressions::show).put(suppressions::replace).delete(suppressions::delete),
        )
        .route("/hosts", get(hosts::list))
        .route("/hosts/{name}", get(hosts::show))
        .route("/hosts/{name}/drain", post(hosts::drain))
        .route("/hosts/{name}/resume", post(hosts::resume))
        .route("/hosts/{name}/forget", post(hosts::forget))
        .route("/problems", get(status::problems))
        .route("/audit", get(audit::list))
}

fn state() -> Router<Shared> {
    Router::new()
        .route("/state", get(state::show).put(state::replace))
        .route("/state/plan", post(state::plan))
        .layer(DefaultBodyLimit::max(STATE_BYTES_MAX))
}

fn mail() -> Router<Shared> {
    Router::new()
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/recipients", get(jobs::recipients))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/bounce", post(jobs::bounce))
        .route("/events", get(events::list))
        .route("/trace/{key}", get(events::trace))
        .route("/quarantine", get(quarantine::list))
        .route("/quarantine/{job}/release", post(quarantine::release))
        .route("/quarantine/{job}/drop", post(quarantine::drop))
        .route("/queue", get(queue::show))
        .route("/queue/retry", post(queue::retry))
}

impl Shared {
    /// Runs a use case on a blocking thread.
    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&App) -> Result<T, AppError> + Send + 'static,
    ) -> Result<T, ProblemDocument> {
        let (app, act) = (Arc::clone(&self.app), edge::act());
        let done = tokio::task::spawn_blocking(move || acting(act, || call(&app))).await;
        Ok(done.map_err(|_| ProblemDocument::internal())??)
    }
}

#[cfg(test)]
mod tests;
