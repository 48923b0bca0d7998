//! `/openapi.json`: OpenAPI 3.1, from the annotations of the handlers.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::Json;
use axum::http::Method;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::Type;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, Ref, RefOr, Required, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::{
    audit, credentials, domain_keys, domains, events, explain, hosts, jobs, listeners, master_key, operators, pools,
    providers, quarantine, queue, regions, retry_policies, routes, routing_rules, settings, shaping_rules, sources,
    state, status, suppressions, suspensions, tenants, tls_rules,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Postrail control API", description = "Configuration, and what became of mail."),
    modifiers(&Schemes, &Operations),
    security(("bearer" = []), ("basic" = [])),
    paths(
        tenants::list, tenants::create, tenants::show, tenants::change, tenants::delete, tenants::quota,
        domains::list, domains::create, domains::show, domains::change, domains::delete, domains::check,
        domain_keys::add, domain_keys::rotate, domain_keys::sign, domain_keys::retire, domain_keys::remove,
        settings::show, settings::change, state::show, state::plan, state::replace, master_key::rotate,
        operators::list, operators::create, operators::show, operators::change, operators::rotate, operators::delete,
        credentials::list, credentials::create, credentials::show, credentials::change, credentials::rotate,
        credentials::delete,
        regions::list, regions::create, regions::show, regions::replace, regions::delete,
        sources::list, sources::create, sources::show, sources::replace, sources::delete,
        pools::list, pools::create, pools::show, pools::replace, pools::delete,
        routes::list, routes::create, routes::show, routes::delete,
        retry_policies::list, retry_policies::create, retry_policies::show, retry_policies::replace,
        retry_policies::delete,
        routing_rules::list, routing_rules::create, routing_rules::show, routing_rules::replace, routing_rules::delete,
        explain::show,
        providers::list, providers::create, providers::show, providers::replace, providers::delete,
        listeners::list, listeners::create, listeners::show, listeners::replace, listeners::delete, listeners::listening,
        shaping_rules::list, shaping_rules::create, shaping_rules::show, shaping_rules::replace, shaping_rules::delete,
        tls_rules::list, tls_rules::create, tls_rules::show, tls_rules::replace, tls_rules::delete,
        suspensions::list, suspensions::create, suspensions::show, suspensions::delete,
        suppressions::list, suppressions::create, suppressions::show, suppressions::replace, suppressions::delete,
        suppressions::clear,
        hosts::list, hosts::show, hosts::drain, hosts::resume, hosts::forget,
        jobs::show, jobs::recipients, jobs::cancel, jobs::bounce,
        events::list, events::trace, queue::show, queue::retry,
        quarantine::list, quarantine::release, quarantine::drop, audit::list,
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

/// What holds for every operation: an id of its own, and errors as problems of their own media type.
struct Operations;

impl Modify for Operations {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut openapi.paths.paths {
            if path.starts_with("/v2") {
                let PathItem { get, put, patch, delete, .. } = &mut *item;
                let has_tag = get.is_some() && path.ends_with('}') || patch.is_some() || put.is_some();
                [put, patch, delete].into_iter().flatten().filter(|_| has_tag).for_each(add_precondition);
                operations(item).filter(|operation| Takes::of(operation).if_match).for_each(add_precondition);
            }
            for operation in operations(item) {
                name(operation);
                mark_problems(operation);
                if path.starts_with("/v2") {
                    add_default(operation);
                }
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, patch, delete, .. } = item;
    [get, put, post, patch, delete].into_iter().flatten()
}

/// Handlers of different resources have the same names.
fn name(operation: &mut Operation) {
    let tag = operation.tags.as_ref().and_then(|tags| tags.first());
    if let (Some(tag), Some(id)) = (tag, &mut operation.operation_id) {
        *id = format!("{id}_{tag}");
    }
}

fn mark_problems(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && !status.starts_with('2')
            && let Some(content) = response.content.swap_remove("application/json")
        {
            response.content.insert(PROBLEM_MEDIA_TYPE.to_owned(), content);
        }
    }
}

/// What has an entity tag is changed on condition.
fn add_precondition(operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    let told = "The ETag of what you have read: if it is another now, nothing is changed.";
    if let Some(known) = parameters.iter_mut().find(|parameter| parameter.name == "If-Match") {
        known.description.get_or_insert_with(|| told.to_owned());
    } else {
        let string = ObjectBuilder::new().schema_type(Type::String);
        let parameter = ParameterBuilder::new().name("If-Match").parameter_in(ParameterIn::Header);
        parameters.push(parameter.required(Required::False).description(Some(told)).schema(Some(string)).build());
    }
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemDocument"))).build();
    let stale = ResponseBuilder::new().description("It has changed; `difference` shows what is against what was sent.");
    let stale = stale.content(PROBLEM_MEDIA_TYPE, content).build();
    operation.responses.responses.insert("412".to_owned(), RefOr::T(stale));
}

fn add_default(operation: &mut Operation) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemDocument"))).build();
    let any = ResponseBuilder::new().description("Any other error, as a problem document.");
    let any = any.content(PROBLEM_MEDIA_TYPE, content).build();
    operation.responses.responses.entry("default".to_owned()).or_insert(RefOr::T(any));
}

const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// What an operation takes beside its path.
#[derive(Debug, Default)]
pub(crate) struct Takes {
    /// Parameters of the query.
    pub(crate) query: Vec<String>,
    pub(crate) body: bool,
    pub(crate) if_match: bool,
}

/// What the operation takes; `None`: it is not described. HEAD is as GET.
pub(crate) fn takes(method: &Method, path: &str) -> Option<&'static Takes> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    TAKES.get(path)?.get(method)
}

/// By path and method.
static TAKES: LazyLock<BTreeMap<String, BTreeMap<&'static str, Takes>>> = LazyLock::new(|| {
    let paths = Document::openapi().paths.paths.into_iter();
    let taken = |(path, item): (String, PathItem)| {
        let PathItem { get, put, post, patch, delete, .. } = item;
        let methods = [("GET", get), ("PUT", put), ("POST", post), ("PATCH", patch), ("DELETE", delete)];
        let methods = methods.into_iter().filter_map(|(method, operation)| Some((method, Takes::of(&operation?))));
        (path, methods.collect())
    };
    paths.map(taken).collect()
});

impl Takes {
    fn of(operation: &Operation) -> Self {
        let mut takes = Self { body: operation.request_body.is_some(), ..Self::default() };
        for parameter in operation.parameters.iter().flatten() {
            match parameter.parameter_in {
                ParameterIn::Query => takes.query.push(parameter.name.clone()),
                ParameterIn::Header if parameter.name.eq_ignore_ascii_case("if-match") => takes.if_match = true,
                ParameterIn::Header | ParameterIn::Path | ParameterIn::Cookie => {}
            }
        }
        takes
    }
}

pub(crate) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(description())
}

pub(super) fn description() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operation_has_an_id_of_its_own_and_tells_its_errors() {
        let document = serde_json::to_value(Document::openapi()).expect("the description is JSON");
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let id = operation["operationId"].as_str().unwrap_or_default();
                assert!(ids.insert(id.to_owned()), "{method} {path}: {id} is another operation's");
                if path.starts_with("/v2") {
                    let any = &operation["responses"]["default"]["content"];
                    assert!(any[PROBLEM_MEDIA_TYPE].is_object(), "{method} {path} tells how errors look");
                }
                for (status, response) in operation["responses"].as_object().expect("responses") {
                    let is_plain = response["content"]["application/json"].is_object();
                    assert!(status.starts_with('2') || !is_plain, "{method} {path}: {status} is a problem document");
                }
            }
        }
    }
}
