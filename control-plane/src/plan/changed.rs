//! What a change of desired state has changed, from its records: those that are shared by both states are not looked at.
//!
//! Invariants worth naming: every kind of a document is compared (a new one does not compile until it is); what is not
//! named is counted; secrets are hidden as in any [`difference`](super::difference). Absent here: what only observation
//! tells, such as how a domain stands in DNS.

use postrail_schema::limits::AUDIT_CHANGES_MAX;
use serde::Serialize;

use super::{
    Change, CredentialEntry, Desired, DocumentEntry, DomainEntry, ListenerEntry, OperatorEntry, PoolEntry,
    ProviderEntry, RegionEntry, RetryPolicyEntry, RouteEntry, RoutingRuleEntry, SettingsEntry, ShapingRuleEntry,
    SourceEntry, SuspensionEntry, Table, TenantEntry, TlsRuleEntry,
};

/// The changes that are named, and how many are not.
#[derive(Default)]
pub(crate) struct Changed {
    pub changes: Vec<Change>,
    pub left_out: usize,
}

impl Changed {
    /// What leads from `before` to `after`.
    pub(crate) fn between(before: &Desired, after: &Desired) -> Self {
        let Desired {
            head,
            operator: _,
            operators,
            settings,
            tenants,
            credentials,
            domains,
            sources,
            pools,
            routes,
            suspensions,
            regions,
            retry_policies,
            routing_rules,
            providers,
            shaping_rules,
            listeners,
            tls_rules,
        } = after;
        let mut to = Self::default();
        let both = &(before, after);
        let seals = |desired: &Desired| SealedBy { master_key: desired.head.master_key.map(|id| id.to_string()) };
        let is_other = before.head.master_key != head.master_key;
        to.add(Some(seals(before)).filter(|_| is_other), Some(seals(after)).filter(|_| is_other));
        to.add(Some(SettingsEntry::of(&before.settings)), Some(SettingsEntry::of(settings)));
        to.records(both, &before.regions, regions, |_, region| RegionEntry::of(region));
        to.records(both, &before.tenants, tenants, TenantEntry::of);
        for name in before.operators.keys().chain(operators.keys().filter(|name| !before.operators.contains_key(*name)))
        {
            to.add(before.operators.get(name).map(OperatorEntry::of), operators.get(name).map(OperatorEntry::of));
        }
        to.records(both, &before.credentials, credentials, CredentialEntry::of);
        to.records(both, &before.sources, sources, |_, source| SourceEntry::of(source));
        to.records(both, &before.pools, pools, PoolEntry::of);
        to.records(both, &before.domains, domains, DomainEntry::of);
        to.records(both, &before.routes, routes, |_, route| RouteEntry::of(route));
        to.records(both, &before.suspensions, suspensions, SuspensionEntry::of);
        to.records(both, &before.retry_policies, retry_policies, RetryPolicyEntry::of);
        to.records(both, &before.routing_rules, routing_rules, RoutingRuleEntry::of);
        to.records(both, &before.providers, providers, |_, provider| ProviderEntry::of(provider));
        to.records(both, &before.shaping_rules, shaping_rules, ShapingRuleEntry::of);
        to.records(both, &before.listeners, listeners, ListenerEntry::of);
        to.records(both, &before.tls_rules, tls_rules, TlsRuleEntry::of);
        to
    }

    fn records<K: Ord, V: Eq, E: DocumentEntry + PartialEq>(
        &mut self,
        (before, after): &(&Desired, &Desired),
        was: &Table<K, V>,
        is: &Table<K, V>,
        entry: impl Fn(&Desired, &V) -> E,
    ) {
        for (_, was, is) in is.changes(was) {
            self.add(was.map(|was| entry(before, was)), is.map(|is| entry(after, is)));
        }
    }

    fn add<E: DocumentEntry + PartialEq>(&mut self, was: Option<E>, is: Option<E>) {
        let Some(change) = Change::of(was.as_ref(), is.as_ref()) else { return };
        if self.changes.len() < AUDIT_CHANGES_MAX {
            self.changes.push(change);
        } else {
            self.left_out += 1;
        }
    }
}

/// Which master key seals, which is no part of a document.
#[derive(PartialEq, Eq, Serialize)]
struct SealedBy {
    /// By its id.
    master_key: Option<String>,
}

impl DocumentEntry for SealedBy {
    const KIND: &'static str = "master_key";

    fn name(&self) -> String {
        String::new()
    }
}
