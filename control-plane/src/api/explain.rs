//! `/v2/explain`: what holds for some mail, and which record says so.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use postrail_schema::snapshot::TrafficClass;
use serde::Deserialize;

use super::Shared;
use super::extract::{Operator, query};
use super::problem::ProblemDocument;
use crate::app::{Asked, Explained};

/// The mail.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExplainParams {
    /// A sending domain.
    from: String,
    /// The tenant whose sending domain it is, where several have one of that name. Absent: the first of them, as the answer says.
    tenant: Option<String>,
    /// A recipient domain.
    to: String,
    /// Transactional by default.
    class: Option<String>,
    /// The site of the recipient domain, for what depends on it.
    site: Option<String>,
}

impl FromRequestParts<Shared> for ExplainParams {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ProblemDocument> {
        query(parts)
    }
}

#[utoipa::path(get, path = "/v2/explain", tag = "explain", params(ExplainParams),
    responses((status = 200, body = Explained), (status = 404, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    params: ExplainParams,
) -> Result<Json<Explained>, ProblemDocument> {
    let ExplainParams { from, tenant, to, class, site } = params;
    let class = match class.as_deref() {
        None => TrafficClass::default(),
        Some(name) => TrafficClass::from_name(name).ok_or_else(|| {
            let detail = "a class is transactional, person_to_person or marketing".to_owned();
            ProblemDocument::field(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "/class".to_owned(), detail)
        })?,
    };
    let asked = Asked { sending_domain: from, tenant, recipient_domain: to, site, class };
    Ok(Json(shared.run(move |app| app.explain(&asked)).await?))
}
