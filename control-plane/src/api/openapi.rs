//! `/openapi.json`: OpenAPI 3.1, from the annotations of the handlers.

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{
    audit, credentials, domains, events, jobs, pools, queue, routes, sources, status, suppressions, suspensions,
    tenants,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Postrail control API", description = "Configuration, and what became of mail."),
    modifiers(&Schemes),
    security(("bearer" = []), ("basic" = [])),
    paths(
        tenants::list, tenants::create, tenants::show, tenants::change, tenants::delete,
        domains::list, domains::create, domains::show, domains::change, domains::delete,
        credentials::list, credentials::create, credentials::show, credentials::change, credentials::rotate,
        credentials::delete,
        sources::list, sources::create, sources::show, sources::replace, sources::delete,
        pools::list, pools::create, pools::show, pools::replace, pools::delete,
        routes::list, routes::create, routes::show, routes::delete,
        suspensions::list, suspensions::create, suspensions::show, suspensions::delete,
        suppressions::list, suppressions::create, suppressions::show, suppressions::replace, suppressions::delete,
        jobs::show, jobs::recipients, jobs::cancel, jobs::bounce,
        events::list, events::trace, queue::show, queue::retry, audit::list,
        status::problems, status::root, status::healthz, status::readyz, status::metrics,
    )
)]
struct Document;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for (name, scheme) in [("bearer", HttpAuthScheme::Bearer), ("basic", HttpAuthScheme::Basic)] {
            let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(scheme).build());
            components.add_security_scheme(name, scheme);
        }
    }
}

pub(crate) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
