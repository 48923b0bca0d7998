//! Desired state: every resource by id, as it is stored one key a resource (see [`keys`]).
//!
//! ```text
//! desired/ settings  operators/<name>  tenants/<id>  credentials/<id>  domains/<id>  sources/<id>  pools/<id>
//!          suspensions/<id>  regions/<id>  providers/<id>  shaping_rules/<id>  routes/<recipient domain>
//!          retry_policies/<name>  routing_rules/<name>  listeners/<name>  tls_rules/<name>
//! ```
//!
//! Absent here: `checks/<domain id>`, what the checks of DNS found, which lies beside desired state (`app::checks`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use postrail_schema::access::Network;
use postrail_schema::ids::{
    CredentialId, PoolId, ProviderId, RegionId, Revision, SendingDomainId, ShapingRuleId, SourceId, SuspensionId,
    TenantId,
};
use postrail_schema::keys;
use postrail_schema::limits::CHUNK_IDS;
use postrail_schema::listener::Listener;
use postrail_schema::policy::{RetryPolicy, RoutingRule};
use postrail_schema::publication::{ChunkKind, ChunkPlace, bucket_of, named_bucket};
use postrail_schema::region::{Region, Signpost};
use postrail_schema::sealed::MasterKeyId;
use postrail_schema::shaping::{Provider, ShapingRule};
use postrail_schema::snapshot::{
    Credential, EgressPool, EgressSource, Route, SendingDomain, SnapshotContent, Suspension, Tenant,
};
use postrail_schema::standing::Standing;
use postrail_schema::tls::TlsRule;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::numbers::{Counters, Skipped};
use super::table::Table;
use crate::store::Entry;

/// See the module head.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Desired {
    pub head: Head,
    pub operator: Option<Operator>,
    /// By name.
    pub operators: BTreeMap<String, OperatorAccount>,
    pub settings: Settings,
    pub tenants: Table<TenantId, Tenant>,
    pub credentials: Table<CredentialId, Credential>,
    pub domains: Table<SendingDomainId, SendingDomain>,
    pub sources: Table<SourceId, EgressSource>,
    pub pools: Table<PoolId, EgressPool>,
    pub routes: Table<String, Route>,
    pub suspensions: Table<SuspensionId, Suspension>,
    pub regions: Table<RegionId, Region>,
    pub retry_policies: Table<String, RetryPolicy>,
    pub routing_rules: Table<String, RoutingRule>,
    pub providers: Table<ProviderId, Provider>,
    pub shaping_rules: Table<ShapingRuleId, ShapingRule>,
    pub listeners: Table<String, Listener>,
    pub tls_rules: Table<String, TlsRule>,
}

/// What every change touches.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Of the latest publication.
    pub revision: Revision,
    pub counters: Counters,
    /// Another one with each change of the suppressions, which are in the ledger: see [`announce_suppressions`].
    ///
    /// [`announce_suppressions`]: Self::announce_suppressions
    #[serde(default)]
    pub suppressions: u64,
    /// What each region's ledger had of them when they were announced last, by the region's name; empty: of none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub announced: BTreeMap<String, Announced>,
    /// Another one, drawn by lot, with each change of anything but this head: who has the same has the same records. 0: not
    /// known, as where a control plane of an earlier version made the last change.
    #[serde(default)]
    pub records: u64,
    /// What seals, since a rotation began; before the first one there is one master key.
    #[serde(default)]
    pub master_key: Option<MasterKeyId>,
    /// Numbers that this store has not given, and others before it may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// The configuration was lost, and is not back: data planes go on with what they have, and are told of nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_lost: bool,
    /// Every domain is published, also where several tenants have its name: the hosts read that. Otherwise the first one of
    /// a name is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publishes_shared: bool,
}

/// A state of the suppressions of a ledger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Announced {
    /// Which ledger it is, in hexadecimal digits.
    pub ledger: String,
    /// The number of the last change.
    pub last: u64,
}

/// Who may change configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Operator {
    /// PHC string of the token.
    pub token_hash: String,
    /// Of the tokens before it, the latest first: none of them is believed again, whichever control plane still has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<String>,
}

/// What an operator may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Read everything but secrets.
    Viewer,
    /// And change everything but who operates.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Someone who operates the installation. Not published: data planes do not know operators.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct OperatorAccount {
    pub name: String,
    pub role: Role,
    /// PHC strings of its tokens.
    pub secret_hashes: Vec<String>,
    pub disabled: bool,
    /// Where it may be used from; empty: anywhere.
    pub networks: Vec<Network>,
}

/// What holds for the whole installation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Mixed into the ownership tokens of domains, tenants' cursors and the selectors of keys, so that none of them can be
    /// guessed or read by others; made at the first start, and never shown.
    pub ownership_salt: String,
    /// What lets a domain send that the operator makes without saying so.
    pub domain_verification: Verification,
    /// A name whose SPF record lists all sources; domains include it instead of naming their sources.
    pub spf_include: Option<String>,
    /// The sending domain whose keys sign all mail, beside those of each mail's own domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform_domain: Option<String>,
    /// After how many days of signing a key gets a successor; `None`: when someone asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dkim_rotation_days: Option<u32>,
}

/// What lets a domain send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verification {
    /// The operator's word.
    #[default]
    Operator,
    /// Its DNS records.
    Dns,
}

/// Why stored state cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the value of {key} cannot be read")]
    Value { key: String, source: serde_json::Error },
    #[error("the key {key} belongs to no kind that this version knows")]
    UnknownKey { key: String },
}

/// A resource: how it is stored and where it lives in [`Desired`].
pub(crate) trait Record: Serialize + DeserializeOwned + Clone {
    /// The prefix of its keys, and the word for it in messages.
    const KIND: &'static str;
    type Id: Ord + Clone + Display;

    fn id(&self) -> Self::Id;
    fn map(desired: &mut Desired) -> &mut Table<Self::Id, Self>;
    /// The chunk of a publication that has the record with that id, whatever its region; `None`: the manifest has it.
    fn place(id: &Self::Id) -> Option<ChunkPlace>;

    /// The key of the record with that id.
    fn key(id: &Self::Id) -> String {
        keys::resource(Self::KIND, id)
    }
}

macro_rules! record {
    ($type:ty, $id:ty, $kind:ident, $field:ident, $record:ident => $value:expr, $named:ident => $bucket:expr) => {
        impl Record for $type {
            const KIND: &'static str = ChunkKind::$kind.name();
            type Id = $id;

            fn id(&self) -> $id {
                let $record = self;
                $value
            }

            fn map(desired: &mut Desired) -> &mut Table<$id, Self> {
                &mut desired.$field
            }

            fn place($named: &$id) -> Option<ChunkPlace> {
                Some(ChunkPlace::everywhere(ChunkKind::$kind, $bucket))
            }
        }
    };
}

record!(Tenant, TenantId, Tenants, tenants, record => record.id, id => bucket_of(id.0));
record!(Credential, CredentialId, Credentials, credentials, record => record.id, id => bucket_of(id.0));
record!(SendingDomain, SendingDomainId, Domains, domains, record => record.id, id => bucket_of(id.0));
record!(EgressSource, SourceId, Sources, sources, record => record.id, id => bucket_of(id.0));
record!(EgressPool, PoolId, Pools, pools, record => record.id, id => bucket_of(id.0));
record!(Route, String, Routes, routes, record => record.domain.clone(), domain => named_bucket(domain));
record!(RetryPolicy, String, RetryPolicies, retry_policies, record => record.name.clone(), name => named_bucket(name));
record!(RoutingRule, String, RoutingRules, routing_rules, record => record.name.clone(), name => named_bucket(name));
record!(Listener, String, Listeners, listeners, record => record.name.clone(), name => named_bucket(name));
record!(Suspension, SuspensionId, Suspensions, suspensions, record => record.id, id => bucket_of(id.0));
record!(Provider, ProviderId, Providers, providers, record => record.id, id => bucket_of(id.0));
record!(ShapingRule, ShapingRuleId, ShapingRules, shaping_rules, record => record.id, id => bucket_of(id.0));
record!(TlsRule, String, TlsRules, tls_rules, record => record.name.clone(), name => named_bucket(name));

impl Record for Region {
    const KIND: &'static str = "regions";
    type Id = RegionId;

    fn id(&self) -> RegionId {
        self.id
    }

    fn map(desired: &mut Desired) -> &mut Table<RegionId, Self> {
        &mut desired.regions
    }

    fn place(_: &RegionId) -> Option<ChunkPlace> {
        None
    }
}

impl Desired {
    /// Reads what the store lists.
    ///
    /// # Errors
    /// The first key or value that this version does not know.
    pub(crate) fn from_entries(entries: &[Entry]) -> Result<Self, LoadError> {
        let mut desired = Self::default();
        for entry in entries {
            let name = entry.key.strip_prefix(keys::DESIRED).unwrap_or_default();
            match name.split_once('/').map_or(name, |(kind, _)| kind) {
                "head" => desired.head = value(entry)?,
                "operator" => desired.operator = Some(value(entry)?),
                OPERATORS => {
                    let account: OperatorAccount = value(entry)?;
                    desired.operators.insert(account.name.clone(), account);
                }
                "settings" => desired.settings = value(entry)?,
                Tenant::KIND => desired.insert::<Tenant>(entry)?,
                Credential::KIND => desired.insert::<Credential>(entry)?,
                SendingDomain::KIND => desired.insert::<SendingDomain>(entry)?,
                EgressSource::KIND => desired.insert::<EgressSource>(entry)?,
                EgressPool::KIND => desired.insert::<EgressPool>(entry)?,
                Route::KIND => desired.insert::<Route>(entry)?,
                Suspension::KIND => desired.insert::<Suspension>(entry)?,
                Region::KIND => desired.insert::<Region>(entry)?,
                RetryPolicy::KIND => desired.insert::<RetryPolicy>(entry)?,
                RoutingRule::KIND => desired.insert::<RoutingRule>(entry)?,
                Provider::KIND => desired.insert::<Provider>(entry)?,
                ShapingRule::KIND => desired.insert::<ShapingRule>(entry)?,
                Listener::KIND => desired.insert::<Listener>(entry)?,
                TlsRule::KIND => desired.insert::<TlsRule>(entry)?,
                _ => return Err(LoadError::UnknownKey { key: entry.key.clone() }),
            }
        }
        Ok(desired)
    }

    /// The records of one chunk, of all regions.
    pub(crate) fn part(&self, place: ChunkPlace) -> SnapshotContent {
        let mut part = SnapshotContent::default();
        let low = place.bucket.saturating_mul(CHUNK_IDS);
        let high = low.saturating_add(CHUNK_IDS - 1);
        match place.kind {
            ChunkKind::Tenants => part.tenants = within(&self.tenants, TenantId(low), TenantId(high)),
            ChunkKind::Credentials => {
                part.credentials = within(&self.credentials, CredentialId(low), CredentialId(high));
            }
            ChunkKind::Domains => {
                let claimed = self.domains.range(SendingDomainId(low)..=SendingDomainId(high));
                part.domains = self.published(claimed.map(|(_, domain)| domain).collect());
            }
            ChunkKind::Sources => part.sources = within(&self.sources, SourceId(low), SourceId(high)),
            ChunkKind::Pools => part.pools = within(&self.pools, PoolId(low), PoolId(high)),
            ChunkKind::Routes => {
                let found = self.routes.values().filter(|route| named_bucket(&route.domain) == place.bucket);
                part.routes = found.cloned().collect();
            }
            ChunkKind::Suspensions => {
                part.suspensions = within(&self.suspensions, SuspensionId(low), SuspensionId(high));
            }
            ChunkKind::RetryPolicies => {
                let found = self.retry_policies.values().filter(|policy| named_bucket(&policy.name) == place.bucket);
                part.retry_policies = found.cloned().collect();
            }
            ChunkKind::RoutingRules => {
                let found = self.routing_rules.values().filter(|rule| named_bucket(&rule.name) == place.bucket);
                part.routing_rules = found.cloned().collect();
            }
            ChunkKind::Providers => part.providers = within(&self.providers, ProviderId(low), ProviderId(high)),
            ChunkKind::ShapingRules => {
                part.shaping_rules = within(&self.shaping_rules, ShapingRuleId(low), ShapingRuleId(high));
            }
            ChunkKind::Listeners => {
                let found = self.listeners.values().filter(|found| named_bucket(&found.name) == place.bucket);
                part.listeners = found.cloned().collect();
            }
            ChunkKind::TlsRules => {
                let found = self.tls_rules.values().filter(|rule| named_bucket(&rule.name) == place.bucket);
                part.tls_rules = found.cloned().collect();
            }
            ChunkKind::Signposts => {
                let found = self.credentials.range(CredentialId(low)..=CredentialId(high));
                part.signposts = found.flat_map(|(_, credential)| self.signposts(credential)).collect();
            }
        }
        part
    }

    fn insert<R: Record>(&mut self, entry: &Entry) -> Result<(), LoadError> {
        let record: R = value(entry)?;
        R::map(self).insert(record.id(), record);
        Ok(())
    }

    /// What every host has of a credential that one region alone has whole.
    pub(crate) fn signposts(&self, credential: &Credential) -> impl Iterator<Item = Signpost> {
        let region = self.region_of(credential.tenant).filter(|_| !credential.disabled);
        let signpost = |mark| region.map(|region| Signpost { mark, region, credential: credential.id });
        credential.marks.iter().filter_map(move |mark| signpost(*mark)).collect::<Vec<_>>().into_iter()
    }

    /// The region of a tenant.
    pub(crate) fn region_of(&self, tenant: TenantId) -> Option<RegionId> {
        self.tenants.get(&tenant).and_then(|tenant| tenant.region)
    }

    pub(crate) fn region(&self, name: &str) -> Option<&Region> {
        self.regions.values().find(|region| region.name == name)
    }

    pub(crate) fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.values().find(|provider| provider.name == name)
    }

    pub(crate) fn shaping_rule(&self, name: &str) -> Option<&ShapingRule> {
        self.shaping_rules.values().find(|rule| rule.name == name)
    }

    pub(crate) fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenants.values().find(|tenant| tenant.name == name)
    }

    pub(crate) fn credential(&self, username: &str) -> Option<&Credential> {
        self.credentials.values().find(|credential| credential.username == username)
    }

    /// The domain of that name: of `tenant`, or with `None` the first one.
    pub(crate) fn domain(&self, tenant: Option<TenantId>, name: &str) -> Option<&SendingDomain> {
        let named = self.domains.values().filter(|domain| domain.name == name);
        named.filter(|domain| tenant.is_none_or(|tenant| domain.tenant == tenant)).min_by_key(|domain| claim(domain))
    }

    /// Another tenant's domain of that name that sends, where hosts have one domain of a name: beside it `domain` may not begin to.
    /// It would take the name from the other, or send nothing.
    pub(crate) fn holder_beside(&self, domain: &SendingDomain) -> Option<&SendingDomain> {
        let is_other = |it: &&SendingDomain| it.name == domain.name && it.id != domain.id && it.standing.may_send();
        self.domains.values().filter(|_| !self.head.publishes_shared).find(is_other)
    }

    /// What hosts have of all domains.
    pub(crate) fn published_domains(&self) -> Vec<SendingDomain> {
        self.published(self.domains.values().collect())
    }

    /// What hosts have of these: the keys that sign, whether they sign for all, and whether another comes before it. Of a name
    /// that several tenants have, one comes first (see [`claim`]).
    fn published(&self, domains: Vec<&SendingDomain>) -> Vec<SendingDomain> {
        let first = self.first_claims(&domains.iter().map(|domain| domain.name.as_str()).collect());
        let published = |domain: &SendingDomain| {
            let is_later = first.get(domain.name.as_str()) != Some(&domain.id);
            let is_platform = !is_later && self.settings.platform_domain.as_deref() == Some(&domain.name);
            let mut domain = SendingDomain { is_platform, is_later, ..domain.clone() };
            domain.keys.retain(|key| key.stage.signs());
            domain.keys.iter_mut().for_each(|key| key.since_ms = 0);
            (self.head.publishes_shared || !is_later).then_some(domain)
        };
        domains.into_iter().filter_map(published).collect()
    }

    /// The first domain of each name that any has.
    pub(crate) fn domains_of_names(&self) -> BTreeMap<&str, SendingDomainId> {
        self.first_claims(&self.domains.values().map(|domain| domain.name.as_str()).collect())
    }

    /// The domains before which another one has their name.
    pub(crate) fn later_domains(&self) -> impl Iterator<Item = &SendingDomain> {
        let first = self.domains_of_names();
        self.domains.values().filter(move |domain| first.get(domain.name.as_str()) != Some(&domain.id))
    }

    /// The chunks of the domains of that name.
    pub(crate) fn places_of_domain(&self, name: &str) -> impl Iterator<Item = ChunkPlace> {
        let named = self.domains.values().filter(move |domain| domain.name == name);
        named.filter_map(|domain| SendingDomain::place(&domain.id))
    }

    /// The chunks whose domains have a name that one of the domains of `place` has: which of them comes first depends on
    /// the others.
    pub(crate) fn contested(&self, place: ChunkPlace) -> BTreeSet<ChunkPlace> {
        match place.kind {
            ChunkKind::Domains => {}
            // A credential is told elsewhere as well.
            ChunkKind::Credentials => {
                return BTreeSet::from([place, ChunkPlace { kind: ChunkKind::Signposts, ..place }]);
            }
            _ => return BTreeSet::from([place]),
        }
        let is_here = |domain: &&SendingDomain| SendingDomain::place(&domain.id) == Some(place);
        let names: BTreeSet<_> = self.domains.values().filter(is_here).map(|domain| domain.name.as_str()).collect();
        let sharing = self.domains.values().filter(|domain| names.contains(domain.name.as_str()));
        sharing.filter_map(|domain| SendingDomain::place(&domain.id)).chain([place]).collect()
    }

    /// The first domain of each of `names`.
    fn first_claims<'a>(&'a self, names: &BTreeSet<&str>) -> BTreeMap<&'a str, SendingDomainId> {
        let mut first: BTreeMap<&str, &SendingDomain> = BTreeMap::new();
        for domain in self.domains.values().filter(|domain| names.contains(domain.name.as_str())) {
            let held = first.entry(&domain.name).or_insert(domain);
            if claim(domain) < claim(held) {
                *held = domain;
            }
        }
        first.into_iter().map(|(name, domain)| (name, domain.id)).collect()
    }

    pub(crate) fn source(&self, name: &str) -> Option<&EgressSource> {
        self.sources.values().find(|source| source.name == name)
    }

    pub(crate) fn pool(&self, name: &str) -> Option<&EgressPool> {
        self.pools.values().find(|pool| pool.name == name)
    }
}

/// The kind of operators' accounts in keys.
pub(crate) const OPERATORS: &str = "operators";

/// The order of the domains of a name: the operator's word, then what may send, then what once could, then the earliest. So
/// what nobody has proved comes before nothing that somebody has.
fn claim(domain: &SendingDomain) -> (u8, SendingDomainId) {
    let rank = match domain.standing {
        Standing::Trusted => 0,
        Standing::Verified | Standing::Failing => 1,
        Standing::Lapsed { .. } => 2,
        Standing::Unproved { .. } => 3,
    };
    (rank, domain.id)
}

fn within<K: Ord, V: Clone>(map: &Table<K, V>, low: K, high: K) -> Vec<V> {
    map.range(low..=high).map(|(_, record)| record.clone()).collect()
}

fn value<T: DeserializeOwned>(entry: &Entry) -> Result<T, LoadError> {
    serde_json::from_slice(&entry.value).map_err(|source| LoadError::Value { key: entry.key.clone(), source })
}
