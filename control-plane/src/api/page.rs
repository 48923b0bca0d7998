//! Pages: `?limit=` and `?cursor=`; a page tells the cursor of the next one.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use postrail_schema::ids::TenantId;
use postrail_schema::limits::{PAGE_RECORDS, PAGE_RECORDS_MAX};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::extract::{Scope, query};
use super::problem::ProblemDocument;

/// Query of every list, as it is described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read as `Asked`")]
pub(crate) struct PageParams {
    /// Records of the page, 1 to 1,000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Query that may have the number of a tenant, as it is described.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read as `Asked`")]
pub(crate) struct TenantIdParams {
    /// In place of `tenant`, for operators: the number of a tenant, which may be gone.
    #[param(value_type = Option<u64>, maximum = 4294967295u32)]
    tenant_id: Option<u32>,
}

/// As it is read; whether a list takes `tenant` or `tenant_id`, its description says (`form`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    limit: Option<u32>,
    cursor: Option<String>,
    tenant: Option<String>,
    tenant_id: Option<u32>,
}

/// Which page of whose records.
pub(crate) struct Listing {
    pub(crate) scope: Scope,
    pub(crate) limit: u32,
    pub(crate) cursor: Option<String>,
}

/// A page.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Names the next page; null on the last one.
    pub(crate) next_cursor: Option<String>,
}

impl FromRequestParts<Shared> for Listing {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ProblemDocument> {
        let params: Asked = query(parts)?;
        let limit = params.limit.unwrap_or(PAGE_RECORDS);
        if !(1..=PAGE_RECORDS_MAX).contains(&limit) {
            let detail = format!("limit is 1 to {PAGE_RECORDS_MAX}");
            return Err(ProblemDocument::new(StatusCode::BAD_REQUEST, "invalid_query", detail));
        }
        let is_ours = |cursor: &String| cursor.len() <= CURSOR_BYTES_MAX && !cursor.chars().any(char::is_control);
        if !params.cursor.as_ref().is_none_or(is_ours) {
            return Err(not_ours());
        }
        let scope = match params.tenant_id {
            Some(id) => Scope::numbered(parts, TenantId(id), params.tenant.as_deref())?,
            None => Scope::of(parts, shared, params.tenant.as_deref())?,
        };
        Ok(Self { scope, limit, cursor: params.cursor })
    }
}

/// 400 about a cursor that no page has told.
pub(crate) fn not_ours() -> ProblemDocument {
    ProblemDocument::new(StatusCode::BAD_REQUEST, "invalid_query", "this is not a cursor of ours")
}

/// A name or an address with its tenant.
const CURSOR_BYTES_MAX: usize = 512;

/// The last place of a ledger, which counts with a sign.
pub(crate) const LAST_PLACE: u64 = i64::MAX as u64;

impl Listing {
    /// The cursor as a number up to `most`; 0 where there is none.
    pub(crate) fn number(&self, most: u64) -> Result<u64, ProblemDocument> {
        let number = |cursor: &str| cursor.parse().ok().filter(|number| *number <= most);
        self.cursor.as_deref().map_or(Ok(0), |cursor| number(cursor).ok_or_else(not_ours))
    }

    /// The page of `records`, which are named and may come in any order.
    pub(crate) fn by_name<R, V>(
        &self,
        records: impl Iterator<Item = R>,
        name: impl Fn(&R) -> &str,
        view: impl Fn(&R) -> V,
    ) -> Page<V> {
        let after = |record: &R| self.cursor.as_deref().is_none_or(|cursor| name(record) > cursor);
        let mut records: Vec<R> = records.filter(after).collect();
        records.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        let limit = self.limit as usize;
        let last = records.len().checked_sub(limit + 1).and_then(|_| records.get(limit - 1));
        let next_cursor = last.map(|record| name(record).to_owned());
        Page { items: records.iter().take(limit).map(view).collect(), next_cursor }
    }
}
