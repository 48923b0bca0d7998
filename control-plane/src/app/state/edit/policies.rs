//! Policies of a document.

use std::collections::HashMap;

use postrail_schema::ids::{PoolId, SendingDomainId, TenantId};
use postrail_schema::policy::{RetryPolicy, RoutingRule};
use postrail_schema::tls::TlsRule;

use super::{Editor, Wanted};
use crate::app::AppError;
use crate::app::policies::{Lookup, retry_policy, routing_rule, tls_rule};
use crate::plan::{Record, RetryPolicyEntry, RoutingRuleEntry, TlsRuleEntry};

/// Who has a name, as the document says by now.
struct Tables {
    tenants: HashMap<String, TenantId>,
    domains: HashMap<(Option<TenantId>, String), (SendingDomainId, TenantId)>,
    pools: HashMap<String, PoolId>,
}

impl Lookup for Tables {
    fn tenant(&self, name: &str) -> Option<TenantId> {
        self.tenants.get(name).copied()
    }

    fn domain(&self, tenant: Option<TenantId>, name: &str) -> Option<(SendingDomainId, TenantId)> {
        self.domains.get(&(tenant, name.to_owned())).copied()
    }

    fn pool(&self, name: &str) -> Option<PoolId> {
        self.pools.get(name).copied()
    }
}

impl Editor<'_> {
    pub(super) fn retry_policies(&mut self, entries: &[RetryPolicyEntry]) -> Result<(), AppError> {
        let mut wanted = Wanted::<RetryPolicy>::new();
        let found = self.by_name(entries, retry_policy);
        for (at, entry) in found.into_iter().enumerate() {
            let Some(policy) = self.in_place::<RetryPolicy, _>(at, entry) else { continue };
            let pointer = wanted.place(at, "name");
            if self.once(&mut wanted, pointer, policy.name.clone()) {
                wanted.want(policy);
            }
        }
        self.settle(wanted)
    }

    pub(super) fn routing_rules(&mut self, entries: &[RoutingRuleEntry]) -> Result<(), AppError> {
        let mut wanted = Wanted::<RoutingRule>::new();
        let found = self.by_name(entries, routing_rule);
        for (at, entry) in found.into_iter().enumerate() {
            let Some(rule) = self.in_place::<RoutingRule, _>(at, entry) else { continue };
            let pointer = wanted.place(at, "name");
            if self.once(&mut wanted, pointer, rule.name.clone()) {
                wanted.want(rule);
            }
        }
        self.settle(wanted)
    }

    pub(super) fn tls_rules(&mut self, entries: &[TlsRuleEntry]) -> Result<(), AppError> {
        let mut wanted = Wanted::<TlsRule>::new();
        let found = self.by_name(entries, tls_rule);
        for (at, entry) in found.into_iter().enumerate() {
            let Some(rule) = self.in_place::<TlsRule, _>(at, entry) else { continue };
            let pointer = wanted.place(at, "name");
            if self.once(&mut wanted, pointer, rule.name.clone()) {
                wanted.want(rule);
            }
        }
        self.settle(wanted)
    }

    /// What entries with selectors mean. Names are looked up in tables: there may be many of both.
    fn by_name<E, T>(
        &self,
        entries: &[E],
        read: impl Fn(&E, &dyn Lookup) -> Result<T, AppError>,
    ) -> Vec<Result<T, AppError>> {
        if entries.is_empty() {
            return Vec::new();
        }
        let tenants = self.tenant_ids();
        let mut domains = HashMap::new();
        for domain in self.draft.desired.domains.values() {
            domains.insert((Some(domain.tenant), domain.name.clone()), (domain.id, domain.tenant));
        }
        for (name, id) in self.draft.desired.domains_of_names() {
            let found = self.draft.desired.domains.get(&id).map(|domain| (id, domain.tenant));
            domains.extend(found.map(|found| ((None, name.to_owned()), found)));
        }
        let known = Tables { tenants, domains, pools: self.pool_ids() };
        entries.iter().map(|entry| read(entry, &known)).collect()
    }

    /// The value, or `None` with what is wrong at its place in the document.
    pub(super) fn in_place<R: Record, T>(&mut self, at: usize, result: Result<T, AppError>) -> Option<T> {
        let place = format!("/{}/{at}", R::KIND);
        match result {
            Ok(value) => Some(value),
            Err(AppError::Invalid { pointer, detail }) => {
                self.fault(format!("{place}{pointer}"), detail);
                None
            }
            Err(error) => self.checked(place, Err(error)),
        }
    }
}
