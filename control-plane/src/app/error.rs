//! Why a use case was refused or failed. Knows no HTTP; `api::problem` maps it.

use std::borrow::Cow;

use postrail_schema::problem::Problem;
use postrail_schema::publication::PublicationError;

use super::{HostsError, Unanswered};
use crate::ledger::LedgerError;
use crate::plan::{Change, LoadError};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    #[error("{kind} {name} does not exist")]
    NotFound { kind: &'static str, name: String },
    /// `pointer` is the JSON pointer of the field in what was asked for.
    #[error("{detail}")]
    Invalid { pointer: Cow<'static, str>, detail: String },
    /// Pointer and what is wrong there, of a whole document.
    #[error("{} of the document cannot be", if faults.len() == 1 { "one value" } else { "several values" })]
    Faults { faults: Vec<(String, String)> },
    /// What was asked for is about a state that is past: `tag` is the present one's, and `difference` leads from there to
    /// what was sent.
    #[error("it has changed since you read it; the difference shows what it is now, and what you sent")]
    Stale { tag: String, difference: Vec<Change> },
    #[error("{detail}")]
    Conflict { detail: String },
    #[error("{detail}")]
    Busy { detail: &'static str },
    #[error("{}", wrong_region(.region, .at.as_deref()))]
    WrongRegion { region: String, at: Option<String> },
    #[error("the change would break the configuration")]
    Refused { problems: Vec<Problem> },
    #[error("the data plane does not answer: {detail}")]
    DataPlane { detail: String },
    #[error("{}", none_answers(.hosts))]
    NoneAnswers { hosts: Vec<Unanswered> },
    /// Something is there, and one of us does not know the other.
    #[error("there is no trust between the data plane and us: {detail}")]
    DataPlaneUntrusted { detail: String },
    #[error("the data plane refused with status {status}")]
    DataPlaneRefused { status: u16, body: serde_json::Value },
    #[error("the configuration cannot be published")]
    Publication(#[source] PublicationError),
    #[error("configuration cannot be read")]
    Load(#[source] LoadError),
    #[error("the configuration store failed")]
    Store(#[source] StoreError),
    #[error("the configuration store is empty: its data is lost; data planes go on with what they have")]
    StoreEmpty,
    /// Of a change that is committed and not at its places.
    #[error(
        "the last change of the configuration is in the store in part: {part} is gone, which desired/pending names; the runbook \
         etcd-lost says what to do"
    )]
    Torn { part: String },
    #[error("the allocation of addresses cannot be read")]
    Hosts(#[source] HostsError),
    /// Ours is not that of our region: what we wrote into it nobody would see.
    #[error("{detail}")]
    OtherLedger { detail: String },
    /// The control plane without a region.
    #[error("the control plane without a region: {detail}")]
    Home { detail: String },
    #[error("the suppressions of tenants without a region are not here yet")]
    Unmirrored,
    #[error("the ledger failed")]
    Ledger(#[source] LedgerError),
    #[error("cryptography failed: {act}")]
    Crypto { act: &'static str },
    #[error("a record cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
}

impl AppError {
    pub(crate) fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound { kind, name: name.into() }
    }

    pub(crate) fn invalid(pointer: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::Invalid { pointer: pointer.into(), detail: detail.into() }
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::Conflict { detail: detail.into() }
    }
}

fn none_answers(hosts: &[Unanswered]) -> String {
    if let [only] = hosts
        && only.host.is_empty()
    {
        return only.reason.clone();
    }
    let named: Vec<_> = hosts.iter().map(|one| format!("{}: {}", one.host, one.reason)).collect();
    format!("no data plane answers: {}", named.join("; "))
}

fn wrong_region(region: &str, at: Option<&str>) -> String {
    match at {
        Some(at) if region.is_empty() => format!("{HOME}: ask one of these, {at}"),
        None if region.is_empty() => format!("{HOME}, and none of them runs"),
        Some(at) => format!("the tenant is in region {region}: ask its control plane, {at}"),
        None => format!("the tenant is in region {region}, of which no control plane runs"),
    }
}

const HOME: &str = "the tenant is in no region, and its suppressions are changed at control planes without one";

impl From<LoadError> for AppError {
    fn from(source: LoadError) -> Self {
        Self::Load(source)
    }
}

impl From<StoreError> for AppError {
    fn from(source: StoreError) -> Self {
        Self::Store(source)
    }
}

impl From<LedgerError> for AppError {
    fn from(source: LedgerError) -> Self {
        match source {
            LedgerError::SuppressionsFull | LedgerError::TenantSuppressionsFull => {
                Self::Conflict { detail: source.to_string() }
            }
            source => Self::Ledger(source),
        }
    }
}
