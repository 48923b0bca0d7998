//! The published configuration under one [`Revision`]: what the control plane's plan produces and every decision of
//! the data plane is made under.
//!
//! [`SnapshotContent`] is the plain list form that is encoded (flatbuffers, `schema/snapshot.fbs`); [`Snapshot`] is the
//! form that the data plane reads: validated, indexed and cross-linked. A snapshot that does not validate is never
//! applied.
//!
//! Invariants worth naming: every id that a record names exists in the same snapshot; names are unique and lower case, those
//! of sending domains once a tenant; a pool has at least one source.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::Network;
use crate::ids::{PoolId, RegionId, Revision, SendingDomainId, SourceId, SuspensionId, TenantId};
use crate::listener::Listener;
use crate::policy::{Policies, RetryPolicy, RoutingRule};
use crate::region::{Region, Signpost, mark_of};
use crate::shaping::{Provider, Shaping, ShapingRule};
use crate::suppressions::Suppressions;
use crate::table::Table;
use crate::tls::{TlsRule, TlsRules};

mod records;

pub use records::{
    Credential, DkimKey, EgressPool, EgressSource, KeyAlgorithm, KeyStage, PoolMember, Route, SendingDomain,
    Suppression, Suspension, SuspensionTarget, Tenant, TrafficClass,
};

/// The list form of a snapshot, as published.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SnapshotContent {
    pub revision: Revision,
    pub tenants: Vec<Tenant>,
    pub credentials: Vec<Credential>,
    pub domains: Vec<SendingDomain>,
    pub sources: Vec<EgressSource>,
    pub pools: Vec<EgressPool>,
    pub routes: Vec<Route>,
    pub suspensions: Vec<Suspension>,
    pub suppressions: Vec<Suppression>,
    pub regions: Vec<Region>,
    pub signposts: Vec<Signpost>,
    #[serde(default)]
    pub retry_policies: Vec<RetryPolicy>,
    #[serde(default)]
    pub routing_rules: Vec<RoutingRule>,
    #[serde(default)]
    pub providers: Vec<Provider>,
    #[serde(default)]
    pub shaping_rules: Vec<ShapingRule>,
    #[serde(default)]
    pub listeners: Vec<Listener>,
    pub tls_rules: Vec<TlsRule>,
}

/// Why a snapshot's content cannot be applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{subject} names {missing}, which the snapshot does not hold")]
    Dangling { subject: String, missing: String },
    #[error("{subject} occurs twice")]
    Duplicate { subject: String },
    #[error("{subject}: {detail}")]
    Invalid { subject: String, detail: &'static str },
}

/// The validated, cross-linked form. What two snapshots have in common they share, so that one changed record costs some
/// dozens of pointers.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub revision: Revision,
    pub tenants: Table<TenantId, Arc<Tenant>>,
    /// By username.
    pub credentials: Table<String, Arc<Credential>>,
    /// By network, the credential that needs no secret from there.
    trusted: Arc<BTreeMap<Network, Arc<Credential>>>,
    pub domains: Table<SendingDomainId, Arc<SendingDomain>>,
    /// By name, each tenant's that has it, in the order of tenants.
    domain_ids: Table<String, Vec<(TenantId, SendingDomainId)>>,
    /// The domain that signs all mail, if there is one.
    platform: Option<SendingDomainId>,
    pub sources: Table<SourceId, EgressSource>,
    pub pools: Table<PoolId, EgressPool>,
    pub default_pool: Option<PoolId>,
    pub routes: Table<String, Route>,
    pub suspensions: Table<SuspensionId, Suspension>,
    suppressions: Suppressions,
    pub regions: Table<RegionId, Region>,
    /// By mark.
    pub signposts: Table<u64, Signpost>,
    pub policies: Arc<Policies>,
    /// What rules name and this host does not have (another region's pool) matches nothing.
    pub shaping: Arc<Shaping>,
    /// By name.
    pub listeners: Table<String, Listener>,
    pub tls: Arc<TlsRules>,
}

impl Snapshot {
    /// Checks `content` and links it.
    ///
    /// # Errors
    /// The first record that breaks an invariant of the module head.
    pub fn new(mut content: SnapshotContent) -> Result<Self, SnapshotError> {
        let suppressions = std::mem::take(&mut content.suppressions);
        let snapshot = Self::default().amended(&SnapshotContent::default(), content)?;
        Ok(snapshot.with_suppressions(suppressions.into_iter().collect()))
    }

    /// This snapshot without the records of `gone` and with those of `come`, under the revision of `come`. Suppressions
    /// stay as they are.
    ///
    /// # Errors
    /// The first record that breaks an invariant of the module head.
    pub fn amended(&self, gone: &SnapshotContent, come: SnapshotContent) -> Result<Self, SnapshotError> {
        let mut next = Self { revision: come.revision, ..self.clone() };
        next.replace_regions(&come.regions)?;
        next.replace_signposts(&gone.signposts, come.signposts);
        let tenants_gone = next.replace_tenants(&gone.tenants, come.tenants)?;
        let sources_gone = next.replace_sources(&gone.sources, come.sources)?;
        let pools_gone = next.replace_pools(&gone.pools, come.pools)?;
        next.replace_credentials(&gone.credentials, come.credentials)?;
        next.replace_domains(&gone.domains, come.domains)?;
        next.replace_routes(&gone.routes, come.routes)?;
        next.replace_suspensions(&gone.suspensions, come.suspensions);
        next.replace_policies(gone, come.retry_policies, come.routing_rules)?;
        next.replace_shaping(gone, come.providers, come.shaping_rules)?;
        next.replace_listeners(&gone.listeners, come.listeners)?;
        if !(gone.tls_rules.is_empty() && come.tls_rules.is_empty()) {
            Arc::make_mut(&mut next.tls).replace(&gone.tls_rules, come.tls_rules)?;
        }
        if sources_gone {
            next.pools.values().try_for_each(|pool| next.check_pool(pool))?;
        }
        if tenants_gone {
            next.credentials.values().try_for_each(|credential| next.check_credential(credential))?;
        }
        if tenants_gone || pools_gone {
            next.domains.values().try_for_each(|domain| next.check_domain(domain))?;
        }
        Ok(next)
    }

    /// The same with these suppressions.
    #[must_use]
    pub fn with_suppressions(self, suppressions: Suppressions) -> Self {
        Self { suppressions, ..self }
    }

    pub fn suppressions(&self) -> &Suppressions {
        &self.suppressions
    }

    /// Whose keys sign the mail of a domain: its own, and those of the platform's domain.
    pub fn signers(&self, domain: SendingDomainId) -> impl Iterator<Item = &SendingDomain> {
        let platform = self.platform.filter(|platform| *platform != domain);
        let signers = [Some(domain), platform].into_iter().flatten();
        signers.filter_map(|id| self.domains.get(&id)).map(|signer| &**signer).filter(|signer| !signer.keys.is_empty())
    }

    /// Regions come whole with every publication. A tenant may outlive its region only in what is about to be replaced.
    fn replace_regions(&mut self, come: &[Region]) -> Result<(), SnapshotError> {
        if self.regions.values().eq(come) {
            return Ok(());
        }
        let regions: BTreeMap<_, _> = come.iter().map(|region| (region.id, region.clone())).collect();
        let names: BTreeSet<_> = come.iter().map(|region| region.name.as_str()).collect();
        if regions.len() != come.len() || names.len() != come.len() {
            return Err(SnapshotError::Duplicate { subject: "region".to_owned() });
        }
        self.regions = regions.into_iter().collect();
        Ok(())
    }

    fn replace_signposts(&mut self, gone: &[Signpost], come: Vec<Signpost>) {
        let (gone, come) = differing(gone, come, |signpost| signpost.mark);
        for signpost in gone {
            self.signposts.remove(&signpost.mark);
        }
        self.signposts.extend(come.into_iter().map(|signpost| (signpost.mark, signpost)));
    }

    /// Whether one has gone that has not come again.
    fn replace_tenants(&mut self, gone: &[Tenant], come: Vec<Tenant>) -> Result<bool, SnapshotError> {
        let (gone, come) = differing(gone, come, |tenant| tenant.id);
        for tenant in &gone {
            self.tenants.remove(&tenant.id);
        }
        for tenant in come.into_iter().map(Arc::new) {
            if let Some(region) = tenant.region.filter(|region| !self.regions.contains_key(region)) {
                let subject = format!("tenant/{}", tenant.name);
                return Err(SnapshotError::Dangling { subject, missing: format!("region {region}") });
            }
            if let Some(twice) = self.tenants.insert(tenant.id, tenant) {
                return Err(SnapshotError::Duplicate { subject: format!("tenant/{}", twice.name) });
            }
        }
        Ok(gone.iter().any(|tenant| !self.tenants.contains_key(&tenant.id)))
    }

    fn replace_sources(&mut self, gone: &[EgressSource], come: Vec<EgressSource>) -> Result<bool, SnapshotError> {
        let (gone, come) = differing(gone, come, |source| source.id);
        for source in &gone {
            self.sources.remove(&source.id);
        }
        for source in come {
            if let Some(twice) = self.sources.insert(source.id, source) {
                return Err(SnapshotError::Duplicate { subject: format!("source/{}", twice.name) });
            }
        }
        Ok(gone.iter().any(|source| !self.sources.contains_key(&source.id)))
    }

    fn replace_pools(&mut self, gone: &[EgressPool], come: Vec<EgressPool>) -> Result<bool, SnapshotError> {
        let (gone, come) = differing(gone, come, |pool| pool.id);
        if gone.is_empty() && come.is_empty() {
            return Ok(false);
        }
        for pool in &gone {
            self.pools.remove(&pool.id);
        }
        for pool in come {
            self.check_pool(&pool)?;
            if let Some(twice) = self.pools.insert(pool.id, pool) {
                return Err(SnapshotError::Duplicate { subject: format!("pool/{}", twice.name) });
            }
        }
        self.default_pool = self.pools.values().find(|pool| pool.name == "default").map(|pool| pool.id);
        Ok(gone.iter().any(|pool| !self.pools.contains_key(&pool.id)))
    }

    fn replace_credentials(&mut self, gone: &[Credential], come: Vec<Credential>) -> Result<(), SnapshotError> {
        let (gone, come) = differing(gone, come, |credential| credential.id);
        for credential in gone {
            self.credentials.remove(&credential.username);
            for network in credential.trusted() {
                Arc::make_mut(&mut self.trusted).remove(network);
            }
        }
        for credential in come.into_iter().map(Arc::new) {
            self.check_credential(&credential)?;
            for network in credential.trusted() {
                if let Some(twice) = Arc::make_mut(&mut self.trusted).insert(*network, Arc::clone(&credential)) {
                    let subject = format!("{network}, trusted for {} and {},", twice.username, credential.username);
                    return Err(SnapshotError::Duplicate { subject });
                }
            }
            if let Some(twice) = self.credentials.insert(credential.username.clone(), credential) {
                return Err(SnapshotError::Duplicate { subject: format!("credential/{}", twice.username) });
            }
        }
        Ok(())
    }

    fn replace_domains(&mut self, gone: &[SendingDomain], come: Vec<SendingDomain>) -> Result<(), SnapshotError> {
        let (gone, come) = differing(gone, come, |domain| domain.id);
        for domain in gone {
            self.domains.remove(&domain.id);
            self.forget_domain(domain);
            self.platform = self.platform.filter(|platform| *platform != domain.id);
        }
        for domain in come.into_iter().map(Arc::new) {
            self.check_domain(&domain)?;
            let is_known_name = !self.note_domain(&domain);
            if self.domains.insert(domain.id, Arc::clone(&domain)).is_some() || is_known_name {
                return Err(SnapshotError::Duplicate { subject: format!("domain/{}", domain.name) });
            }
            if domain.is_platform && self.platform.replace(domain.id).is_some() {
                return Err(SnapshotError::Duplicate { subject: "the platform's domain".to_owned() });
            }
        }
        Ok(())
    }

    /// Whether its tenant had none of that name.
    fn note_domain(&mut self, domain: &SendingDomain) -> bool {
        let one = (domain.tenant, domain.id);
        let Some(of_name) = self.domain_ids.get_mut(&domain.name) else {
            self.domain_ids.insert(domain.name.clone(), vec![one]);
            return true;
        };
        let place = of_name.binary_search_by_key(&domain.tenant, |(tenant, _)| *tenant);
        place.map_err(|at| of_name.insert(at, one)).is_err()
    }

    fn forget_domain(&mut self, domain: &SendingDomain) {
        let Some(of_name) = self.domain_ids.get_mut(&domain.name) else { return };
        of_name.retain(|(_, id)| *id != domain.id);
        if of_name.is_empty() {
            self.domain_ids.remove(&domain.name);
        }
    }

    fn replace_routes(&mut self, gone: &[Route], come: Vec<Route>) -> Result<(), SnapshotError> {
        let (gone, come) = differing(gone, come, |route| route.domain.clone());
        for route in gone {
            self.routes.remove(&route.domain);
        }
        for route in come {
            if let Some(twice) = self.routes.insert(route.domain.clone(), route) {
                return Err(SnapshotError::Duplicate { subject: format!("route/{}", twice.domain) });
            }
        }
        Ok(())
    }

    fn replace_suspensions(&mut self, gone: &[Suspension], come: Vec<Suspension>) {
        let (gone, come) = differing(gone, come, |suspension| suspension.id);
        for suspension in gone {
            self.suspensions.remove(&suspension.id);
        }
        self.suspensions.extend(come.into_iter().map(|suspension| (suspension.id, suspension)));
    }

    fn replace_shaping(
        &mut self,
        gone: &SnapshotContent,
        providers: Vec<Provider>,
        rules: Vec<ShapingRule>,
    ) -> Result<(), SnapshotError> {
        let is_empty = gone.providers.is_empty() && gone.shaping_rules.is_empty();
        if is_empty && providers.is_empty() && rules.is_empty() {
            return Ok(());
        }
        let shaping = Arc::make_mut(&mut self.shaping);
        for provider in &gone.providers {
            shaping.providers.remove(&provider.id);
        }
        for rule in &gone.shaping_rules {
            shaping.rules.remove(&rule.id);
        }
        for provider in providers {
            if let Some(twice) = shaping.providers.insert(provider.id, provider) {
                return Err(SnapshotError::Duplicate { subject: format!("provider/{}", twice.name) });
            }
        }
        for rule in rules {
            if rule.fault().is_some() {
                let subject = format!("shaping_rule/{}", rule.name);
                return Err(SnapshotError::Invalid { subject, detail: "it cannot be counted" });
            }
            if let Some(twice) = shaping.rules.insert(rule.id, rule) {
                return Err(SnapshotError::Duplicate { subject: format!("shaping_rule/{}", twice.name) });
            }
        }
        Ok(())
    }

    fn replace_listeners(&mut self, gone: &[Listener], come: Vec<Listener>) -> Result<(), SnapshotError> {
        let (gone, come) = differing(gone, come, |listener| listener.name.clone());
        for listener in gone {
            self.listeners.remove(&listener.name);
        }
        for listener in come {
            if listener.fault().is_some() {
                let subject = format!("listener/{}", listener.name);
                return Err(SnapshotError::Invalid { subject, detail: "it cannot be opened" });
            }
            if let Some(twice) = self.listeners.insert(listener.name.clone(), listener) {
                return Err(SnapshotError::Duplicate { subject: format!("listener/{}", twice.name) });
            }
        }
        Ok(())
    }

    fn check_pool(&self, pool: &EgressPool) -> Result<(), SnapshotError> {
        let subject = || format!("pool/{}", pool.name);
        if pool.members.is_empty() {
            return Err(SnapshotError::Invalid { subject: subject(), detail: "a pool needs at least one source" });
        }
        if pool.members.iter().any(|member| member.weight == 0) {
            return Err(SnapshotError::Invalid { subject: subject(), detail: "a weight is at least 1" });
        }
        match pool.members.iter().find(|member| !self.sources.contains_key(&member.source)) {
            Some(member) => {
                Err(SnapshotError::Dangling { subject: subject(), missing: format!("source {}", member.source) })
            }
            None => Ok(()),
        }
    }

    fn check_credential(&self, credential: &Credential) -> Result<(), SnapshotError> {
        if self.tenants.contains_key(&credential.tenant) {
            return Ok(());
        }
        let subject = format!("credential/{}", credential.username);
        Err(SnapshotError::Dangling { subject, missing: format!("tenant {}", credential.tenant) })
    }

    fn check_domain(&self, domain: &SendingDomain) -> Result<(), SnapshotError> {
        let missing = if !self.tenants.contains_key(&domain.tenant) {
            format!("tenant {}", domain.tenant)
        } else if let Some(pool) = domain.pool.filter(|pool| !self.pools.contains_key(pool)) {
            format!("pool {pool}")
        } else {
            return Ok(());
        };
        Err(SnapshotError::Dangling { subject: format!("domain/{}", domain.name), missing })
    }

    /// The sending domain of that name (lower-case A-labels), if `tenant` has registered it.
    pub fn domain_of(&self, tenant: TenantId, name: &str) -> Option<&SendingDomain> {
        let of_name = self.domain_ids.get(name)?;
        let at = of_name.binary_search_by_key(&tenant, |(tenant, _)| *tenant).ok()?;
        self.domains.get(&of_name.get(at)?.1).map(|domain| &**domain)
    }

    /// The region of a tenant; `None`: it has none, or is not known here.
    pub fn region_of(&self, tenant: TenantId) -> Option<RegionId> {
        self.tenants.get(&tenant).and_then(|tenant| tenant.region)
    }

    /// The credential of who submits from `peer`, where one needs no secret from there. Networks of several do not overlap:
    /// the plan sees to it.
    pub fn trusted_at(&self, peer: IpAddr) -> Option<&Credential> {
        let (network, credential) = self.trusted.range(..=Network::of(peer)).next_back()?;
        network.contains(peer).then_some(&**credential)
    }

    /// Where the credential with `secret` is served, if some region serves it.
    pub fn signpost(&self, secret: &[u8]) -> Option<&Region> {
        // Most installations have no regions, and spend no hash on them.
        if self.signposts.is_empty() {
            return None;
        }
        self.regions.get(&self.signposts.get(&mark_of(secret))?.region)
    }

    /// The route for a recipient domain: its own, else the one for `*`.
    pub fn route_of(&self, recipient_domain: &str) -> Option<&Route> {
        self.routes.get(recipient_domain).or_else(|| self.routes.get("*"))
    }

    /// Whether `tenant` must not send to an address, which is given in its normal form if it is asked for: without
    /// suppressions of the tenant it is not.
    pub fn is_suppressed(&self, tenant: TenantId, address: impl FnOnce() -> String) -> bool {
        self.suppressions.has(tenant) && self.suppressions.contains(tenant, &address())
    }
}

/// What of `gone` does not come again as it was, and what of `come` was not there: a chunk has many records, of which a
/// change concerns few.
fn differing<R: PartialEq, K: Ord>(gone: &[R], mut come: Vec<R>, key: impl Fn(&R) -> K) -> (Vec<&R>, Vec<R>) {
    let mut left: BTreeMap<_, _> = gone.iter().map(|record| (key(record), record)).collect();
    // A record that comes twice is kept the second time, and found to be a duplicate.
    come.retain(|record| {
        let key = key(record);
        let is_new = left.get(&key).is_none_or(|known| *known != record);
        if !is_new {
            left.remove(&key);
        }
        is_new
    });
    (left.into_values().collect(), come)
}
