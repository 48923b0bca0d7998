//! The plan: desired state in, the content of a snapshot and findings about it out. Pure: no store, no clock.
//!
//! Invariants worth naming: equal desired state gives equal content; content without a finding of severity `Error` passes
//! [`Snapshot::new`](postrail_schema::snapshot::Snapshot::new). Absent here: publication (that is `app`).

pub mod allocation;
mod changed;
mod check;
mod claims;
mod desired;
mod difference;
mod document;
mod findings;
pub(crate) mod key_stages;
mod listeners;
mod numbers;
mod policies;
mod regions;
mod routing;
mod shaping;
mod table;
mod tls;

use postrail_schema::ids::Revision;
use postrail_schema::snapshot::SnapshotContent;

pub(crate) use changed::Changed;
pub(crate) use claims::{NOT_READ_YET, begun_beside, reads_shared, refusing_problems, shared_problem};
pub(crate) use desired::{
    Announced, Desired, Head, LoadError, OPERATORS, Operator, OperatorAccount, Record, Role, Settings, Verification,
};
pub(crate) use difference::{Action, Change, FieldChange, difference, fields, record};
pub(crate) use document::{
    CredentialEntry, DkimAlgorithm, Document, DocumentEntry, DomainEntry, OperatorEntry, PoolEntry, RegionEntry,
    RouteEntry, SealedKey, SettingsEntry, SourceEntry, SuspensionEntry, TenantEntry, entity_tag, is_live,
    live_algorithms,
};
pub(crate) use findings::Findings;
pub(crate) use listeners::{ListenerEntry, listener_problems};
pub(crate) use numbers::{Counters, NumbersEntry};
pub(crate) use policies::{RetryPolicyEntry, SelectorEntry};
pub(crate) use regions::{Presence, region_problems};
pub(crate) use routing::RoutingRuleEntry;
pub(crate) use shaping::{ProviderEntry, ShapingMatchEntry, ShapingRuleEntry};
pub(crate) use table::Table;
pub(crate) use tls::{TlsRuleEntry, authorities_problem};

/// The content of the snapshot that `desired` asks for under `revision`; suppressions, which the ledger has, are left out.
pub(crate) fn content(desired: &Desired, revision: Revision) -> SnapshotContent {
    SnapshotContent {
        revision,
        tenants: desired.tenants.values().cloned().collect(),
        credentials: desired.credentials.values().cloned().collect(),
        domains: desired.published_domains(),
        sources: desired.sources.values().cloned().collect(),
        pools: desired.pools.values().cloned().collect(),
        routes: desired.routes.values().cloned().collect(),
        suspensions: desired.suspensions.values().cloned().collect(),
        suppressions: Vec::new(),
        regions: desired.regions.values().cloned().collect(),
        signposts: desired.credentials.values().flat_map(|credential| desired.signposts(credential)).collect(),
        retry_policies: desired.retry_policies.values().cloned().collect(),
        routing_rules: desired.routing_rules.values().cloned().collect(),
        providers: desired.providers.values().cloned().collect(),
        shaping_rules: desired.shaping_rules.values().cloned().collect(),
        listeners: desired.listeners.values().cloned().collect(),
        tls_rules: desired.tls_rules.values().cloned().collect(),
    }
}

#[cfg(test)]
mod tests;
