//! The plan: desired state in, the content of a snapshot and findings about it out. Pure: no store, no clock.
//!
//! Invariants worth naming: equal desired state gives equal content; content without a finding of severity `Error` passes
//! [`Snapshot::new`](postrail_schema::snapshot::Snapshot::new). Absent here: publication (that is `app`).

pub mod allocation;
mod check;
mod desired;

use postrail_schema::ids::Revision;
use postrail_schema::problem::Problem;
use postrail_schema::snapshot::{SnapshotContent, Suppression};

pub(crate) use desired::{Counters, Desired, Head, LoadError, Operator, Record, Settings, Verification};

/// What [`plan`] gives.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub content: SnapshotContent,
    /// In the order of the resources.
    pub problems: Vec<Problem>,
}

/// The snapshot that `desired` asks for under `revision`.
pub(crate) fn plan(desired: &Desired, suppressions: Vec<Suppression>, revision: Revision) -> Plan {
    let content = SnapshotContent {
        revision,
        tenants: desired.tenants.values().cloned().collect(),
        credentials: desired.credentials.values().cloned().collect(),
        domains: desired.published_domains().cloned().collect(),
        sources: desired.sources.values().cloned().collect(),
        pools: desired.pools.values().cloned().collect(),
        routes: desired.routes.values().cloned().collect(),
        suspensions: desired.suspensions.values().cloned().collect(),
        suppressions,
    };
    Plan { problems: check::check(desired), content }
}

#[cfg(test)]
mod tests;
