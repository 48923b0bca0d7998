//! Desired state as one document: every resource by name, as people write it and as `postrail export` prints it.
//!
//! ```text
//! Desired -> Document::of -> JSON (ETag: its hash)       Document -> app::state -> the change that makes it so
//! ```
//!
//! Invariants worth naming: there are no ids in its entries; they come in the order of their names, so that equal state gives
//! equal documents; a kind that is absent (`None`) is not spoken of, one that is there is whole; what only observation
//! tells (how a domain stands in DNS) is no part of it. Absent here: suppressions, which are the ledger's, and what
//! happens to a secret that a document leaves out (`app::state`: it stays).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrail_schema::access::{Network, Scopes};
use postrail_schema::allocation::{Carrier, HostName};
use postrail_schema::limits::MESSAGE_BYTES_MAX;
use postrail_schema::region::Region;
use postrail_schema::snapshot::{
    Credential, DkimKey, EgressPool, EgressSource, KeyAlgorithm, KeyStage, Route, SendingDomain, Suspension,
    SuspensionTarget, Tenant, TrafficClass,
};
use postrail_schema::standing::Standing;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::listeners::ListenerEntry;
use super::shaping::{ProviderEntry, ShapingRuleEntry};
use super::{
    Desired, NumbersEntry, OperatorAccount, RetryPolicyEntry, Role, RoutingRuleEntry, Settings, TlsRuleEntry,
    Verification,
};

/// See the module head.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<Vec<RegionEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<TenantEntry>>,
    /// Accounts of operators; an administrator's to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operators: Option<Vec<OperatorEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<CredentialEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SourceEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<Vec<PoolEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domains: Option<Vec<DomainEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<RouteEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspensions: Option<Vec<SuspensionEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policies: Option<Vec<RetryPolicyEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_rules: Option<Vec<RoutingRuleEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub providers: Option<Vec<ProviderEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shaping_rules: Option<Vec<ShapingRuleEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listeners: Option<Vec<ListenerEntry>>,
    pub tls_rules: Option<Vec<TlsRuleEntry>>,
    /// Of a document with secrets only, and no part of what it wants: no difference is one of numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<NumbersEntry>,
}

/// What holds for the whole installation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SettingsEntry {
    /// `operator` or `dns`: what lets a new domain send that does not say.
    pub domain_verification: Verification,
    /// A name whose SPF record lists all sources; absent: domains name their sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spf_include: Option<String>,
    /// The sending domain whose keys sign all mail, beside those of each mail's own domain; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform_domain: Option<String>,
    /// After how many days of signing a DKIM key gets a successor by itself, 30 to 3650; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dkim_rotation_days: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegionEntry {
    pub name: String,
    /// Where its tenants submit.
    pub submission_host: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantEntry {
    pub name: String,
    /// Recipients a UTC day, 0 to 100,000,000,000; absent: no quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_per_day: Option<u64>,
    /// 1 to 1000; 1 by default.
    #[serde(default = "one")]
    pub weight: u32,
    /// Octets of a message, 8192 to 20971520, with the 2000 or so that are counted for what is added to it; the most by
    /// default.
    #[serde(default = "message_bytes_max")]
    pub message_bytes_max: u32,
    /// The region whose hosts alone serve it, by name; absent: every host does. It stays as it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Recipients a second that go ahead of all that is not reserved, on each host, 1 to 1000000; absent: no reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_per_s: Option<u32>,
    /// Mail of its domains that fail in DNS is accepted and waits for a person; false by default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantine: bool,
}

/// Someone who operates the installation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperatorEntry {
    pub name: String,
    pub role: Role,
    #[serde(default)]
    pub disabled: bool,
    /// Where the account may be used from; anywhere by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<Network>,
    /// argon2id hashes of its tokens. Absent: as they are; a new account has none until it is rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_hashes: Option<Vec<String>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialEntry {
    pub username: String,
    /// By name.
    pub tenant: String,
    #[serde(default)]
    pub disabled: bool,
    /// What it may do; all by default.
    #[serde(default, skip_serializing_if = "Scopes::is_all")]
    #[schema(value_type = Vec<String>)]
    pub scopes: Scopes,
    /// Where it may be used from, such as `192.0.2.0/24`; anywhere by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<Network>,
    /// Who submits from one of `networks` needs no secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusts_networks: bool,
    /// argon2id hashes of its secrets. Absent: as they are; a new credential has none until it is rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_hashes: Option<Vec<String>>,
    /// What other regions know its secrets by, hexadecimal, where the tenant has a region; absent: as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Vec<String>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceEntry {
    pub name: String,
    #[schema(value_type = String)]
    pub address: IpAddr,
    pub ehlo_name: String,
    /// The interface that carries the address; absent: the host's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<String>,
    /// The network brings the address to its host.
    #[serde(default)]
    pub routed: bool,
    /// The one host that may have the address; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What a host must have announced to have the address.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolEntry {
    pub name: String,
    /// By name; absent: shared by all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    pub members: Vec<MemberEntry>,
    /// The traffic classes that it carries; all by default.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub classes: BTreeSet<TrafficClass>,
}

/// A source of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberEntry {
    /// By name.
    pub source: String,
    /// 1 to 1000; 1 by default.
    #[serde(default = "one")]
    pub weight: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DomainEntry {
    pub name: String,
    /// By name.
    pub tenant: String,
    /// By name; absent: the default pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// `operator` or `dns`. Absent: as it is; for a new domain as the settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// The algorithms of the DKIM keys that sign or are about to. A key that is missing is made, one of another algorithm is
    /// removed. Absent: as they are; a new domain gets one of each algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dkim_keys: Option<Vec<DkimAlgorithm>>,
    /// The keys themselves, sealed by the master key of the installation. Absent: the keys that it has stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_keys: Option<Vec<SealedKey>>,
}

/// What a DKIM key signs with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) enum DkimAlgorithm {
    /// RSA of 2,048 bits.
    #[serde(rename = "rsa-sha256")]
    Rsa,
    #[serde(rename = "ed25519-sha256")]
    Ed25519,
}

/// A DKIM key that only the installation's master key opens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SealedKey {
    pub selector: String,
    pub algorithm: DkimAlgorithm,
    pub public_key: String,
    /// Base64; empty where the private key is gone.
    pub sealed_private_key: String,
    /// Absent: it signs.
    #[serde(default, skip_serializing_if = "KeyStage::signs", deserialize_with = "read_stage")]
    #[schema(value_type = Option<Object>)]
    pub stage: KeyStage,
    /// Since when it is in that stage, Unix milliseconds, 0 to 253402300799999 (the year 9999).
    #[serde(default)]
    pub since_ms: u64,
}

/// As [`KeyStage`] is written, with nothing beside it.
fn read_stage<'de, D: Deserializer<'de>>(from: D) -> Result<KeyStage, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        state: String,
        until_ms: Option<u64>,
    }

    let written = Written::deserialize(from)?;
    match (written.state.as_str(), written.until_ms) {
        ("waiting", None) => Ok(KeyStage::Waiting),
        ("signing", None) => Ok(KeyStage::Signing),
        ("former", Some(until_ms)) => Ok(KeyStage::Former { until_ms }),
        ("retired", None) => Ok(KeyStage::Retired),
        _ => Err(D::Error::custom("a stage is waiting, signing, retired, or former with until_ms")),
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteEntry {
    /// Recipient domain, or `*`.
    pub domain: String,
    /// Absent: the recipient's own MX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_domain: Option<String>,
    /// 1 to 65535; 25 by default.
    #[serde(default = "smtp_port")]
    pub port: u16,
    /// Receivers at private and loopback addresses are allowed.
    #[serde(default)]
    pub allow_private: bool,
}

/// One of site, source and tenant is named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SuspensionEntry {
    /// A site, or any recipient domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    pub reason: String,
}

/// One entry of a kind: what the word for it is, and what tells it from others.
pub(crate) trait DocumentEntry: Serialize {
    /// As in the subjects of findings.
    const KIND: &'static str;

    /// Its name within the kind.
    fn name(&self) -> String;
}

macro_rules! entry {
    ($type:ty, $kind:literal, $entry:ident => $name:expr) => {
        impl DocumentEntry for $type {
            const KIND: &'static str = $kind;

            fn name(&self) -> String {
                let $entry = self;
                $name
            }
        }
    };
}

entry!(SettingsEntry, "settings", _entry => String::new());
entry!(RegionEntry, "region", entry => entry.name.clone());
entry!(TenantEntry, "tenant", entry => entry.name.clone());
entry!(OperatorEntry, "operator", entry => entry.name.clone());
entry!(CredentialEntry, "credential", entry => entry.username.clone());
entry!(SourceEntry, "source", entry => entry.name.clone());
entry!(PoolEntry, "pool", entry => entry.name.clone());
entry!(DomainEntry, "domain", entry => format!("{} of {}", entry.name, entry.tenant));
entry!(RouteEntry, "route", entry => entry.domain.clone());
entry!(ProviderEntry, "provider", entry => entry.name.clone());
entry!(ShapingRuleEntry, "shaping_rule", entry => entry.name.clone());
entry!(SuspensionEntry, "suspension", entry => entry.target());

impl Document {
    /// All kinds. `secrets` says whether hashes and sealed keys are in it.
    pub(crate) fn of(desired: &Desired, secrets: bool) -> Self {
        Self {
            settings: Some(SettingsEntry::of(&desired.settings)),
            regions: Some(sorted(desired.regions.values().map(RegionEntry::of))),
            tenants: Some(sorted(desired.tenants.values().map(|tenant| TenantEntry::of(desired, tenant)))),
            operators: Some(sorted(desired.operators.values().map(|account| {
                let entry = OperatorEntry::of(account);
                if secrets { entry } else { OperatorEntry { secret_hashes: None, ..entry } }
            }))),
            credentials: Some(sorted(desired.credentials.values().map(|credential| {
                let entry = CredentialEntry::of(desired, credential);
                if secrets { entry } else { CredentialEntry { secret_hashes: None, marks: None, ..entry } }
            }))),
            sources: Some(sorted(desired.sources.values().map(SourceEntry::of))),
            pools: Some(sorted(desired.pools.values().map(|pool| PoolEntry::of(desired, pool)))),
            domains: Some(sorted(desired.domains.values().map(|domain| {
                let entry = DomainEntry::of(desired, domain);
                if secrets { entry } else { DomainEntry { sealed_keys: None, ..entry } }
            }))),
            routes: Some(sorted(desired.routes.values().map(RouteEntry::of))),
            suspensions: Some(sorted(desired.suspensions.values().map(|held| SuspensionEntry::of(desired, held)))),
            retry_policies: Some(sorted(desired.retry_policies.values().map(|p| RetryPolicyEntry::of(desired, p)))),
            routing_rules: Some(sorted(desired.routing_rules.values().map(|r| RoutingRuleEntry::of(desired, r)))),
            providers: Some(sorted(desired.providers.values().map(ProviderEntry::of))),
            shaping_rules: Some(sorted(desired.shaping_rules.values().map(|rule| ShapingRuleEntry::of(desired, rule)))),
            listeners: Some(sorted(desired.listeners.values().map(|found| ListenerEntry::of(desired, found)))),
            tls_rules: Some(sorted(desired.tls_rules.values().map(|rule| TlsRuleEntry::of(desired, rule)))),
            numbers: None,
        }
    }
}

impl SettingsEntry {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            domain_verification: settings.domain_verification,
            spf_include: settings.spf_include.clone(),
            platform_domain: settings.platform_domain.clone(),
            dkim_rotation_days: settings.dkim_rotation_days,
        }
    }
}

impl RegionEntry {
    pub(crate) fn of(region: &Region) -> Self {
        Self { name: region.name.clone(), submission_host: region.submission_host.clone() }
    }
}

impl TenantEntry {
    pub(crate) fn of(desired: &Desired, tenant: &Tenant) -> Self {
        let region = tenant.region.and_then(|region| desired.regions.get(&region));
        Self {
            name: tenant.name.clone(),
            quota_per_day: tenant.quota_per_day,
            weight: tenant.weight,
            message_bytes_max: tenant.message_bytes_max,
            region: region.map(|region| region.name.clone()),
            reserved_per_s: tenant.reserved_per_s,
            quarantine: tenant.quarantines,
        }
    }
}

impl OperatorEntry {
    pub(crate) fn of(account: &OperatorAccount) -> Self {
        Self {
            name: account.name.clone(),
            role: account.role,
            disabled: account.disabled,
            networks: account.networks.clone(),
            secret_hashes: Some(account.secret_hashes.clone()),
        }
    }
}

impl CredentialEntry {
    pub(crate) fn of(desired: &Desired, credential: &Credential) -> Self {
        Self {
            username: credential.username.clone(),
            tenant: desired.tenants.get(&credential.tenant).map(|tenant| tenant.name.clone()).unwrap_or_default(),
            disabled: credential.disabled,
            scopes: credential.scopes,
            networks: credential.networks.clone(),
            trusts_networks: credential.trusts_networks,
            secret_hashes: Some(credential.secret_hashes.clone()),
            marks: Some(credential.marks.iter().map(|mark| format!("{mark:016x}")).collect::<Vec<_>>())
                .filter(|marks| !marks.is_empty()),
        }
    }
}

impl SourceEntry {
    pub(crate) fn of(source: &EgressSource) -> Self {
        Self {
            name: source.name.clone(),
            address: source.address,
            ehlo_name: source.ehlo_name.clone(),
            nic: match &source.needs.carrier {
                Carrier::Nic(nic) => Some(nic.clone()),
                Carrier::HostChoice | Carrier::Routed => None,
            },
            routed: source.needs.carrier == Carrier::Routed,
            host: source.needs.host.as_ref().map(HostName::to_string),
            capabilities: source.needs.capabilities.iter().cloned().collect(),
        }
    }
}

impl PoolEntry {
    pub(crate) fn of(desired: &Desired, pool: &EgressPool) -> Self {
        let source = |id| desired.sources.get(id).map(|source| source.name.clone()).unwrap_or_default();
        let members = pool.members.iter();
        Self {
            name: pool.name.clone(),
            tenant: pool.tenant.and_then(|id| desired.tenants.get(&id)).map(|tenant| tenant.name.clone()),
            members: members.map(|m| MemberEntry { source: source(&m.source), weight: m.weight }).collect(),
            classes: pool.classes.clone(),
        }
    }
}

impl DomainEntry {
    pub(crate) fn of(desired: &Desired, domain: &SendingDomain) -> Self {
        let trusted = domain.standing == Standing::Trusted;
        Self {
            name: domain.name.clone(),
            tenant: desired.tenants.get(&domain.tenant).map(|tenant| tenant.name.clone()).unwrap_or_default(),
            pool: domain.pool.and_then(|id| desired.pools.get(&id)).map(|pool| pool.name.clone()),
            verification: Some(if trusted { Verification::Operator } else { Verification::Dns }),
            dkim_keys: Some(live_algorithms(&domain.keys)),
            sealed_keys: Some(domain.keys.iter().map(SealedKey::of).collect()),
        }
    }
}

impl SealedKey {
    fn of(key: &DkimKey) -> Self {
        Self {
            selector: key.selector.clone(),
            algorithm: key.algorithm.into(),
            public_key: key.public_key.clone(),
            sealed_private_key: STANDARD.encode(&key.sealed_private_key),
            stage: key.stage,
            since_ms: key.since_ms,
        }
    }
}

/// Those of the keys that sign or are about to, each once.
pub(crate) fn live_algorithms(keys: &[DkimKey]) -> Vec<DkimAlgorithm> {
    let mut algorithms: Vec<DkimAlgorithm> =
        keys.iter().filter(|key| is_live(key)).map(|key| key.algorithm.into()).collect();
    algorithms.dedup();
    algorithms
}

/// Whether a key signs, or will.
pub(crate) fn is_live(key: &DkimKey) -> bool {
    matches!(key.stage, KeyStage::Waiting | KeyStage::Signing)
}

impl std::fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedKey").field("selector", &self.selector).finish_non_exhaustive()
    }
}

impl RouteEntry {
    pub(crate) fn of(route: &Route) -> Self {
        Self {
            domain: route.domain.clone(),
            routing_domain: route.routing_domain.clone(),
            port: route.port,
            allow_private: route.allow_private,
        }
    }
}

impl SuspensionEntry {
    pub(crate) fn of(desired: &Desired, suspension: &Suspension) -> Self {
        let mut entry = Self { site: None, source: None, tenant: None, reason: suspension.reason.clone() };
        match &suspension.target {
            SuspensionTarget::Site(name) => entry.site = Some(name.clone()),
            SuspensionTarget::Source(id) => entry.source = desired.sources.get(id).map(|source| source.name.clone()),
            SuspensionTarget::Tenant(id) => entry.tenant = desired.tenants.get(id).map(|tenant| tenant.name.clone()),
        }
        entry
    }

    fn target(&self) -> String {
        let named = [("site", &self.site), ("source", &self.source), ("tenant", &self.tenant)];
        let found = named.into_iter().find_map(|(kind, name)| Some(format!("{kind} {}", name.as_ref()?)));
        found.unwrap_or_default()
    }
}

impl From<KeyAlgorithm> for DkimAlgorithm {
    fn from(algorithm: KeyAlgorithm) -> Self {
        match algorithm {
            KeyAlgorithm::RsaSha256 => Self::Rsa,
            KeyAlgorithm::Ed25519Sha256 => Self::Ed25519,
        }
    }
}

impl From<DkimAlgorithm> for KeyAlgorithm {
    fn from(algorithm: DkimAlgorithm) -> Self {
        match algorithm {
            DkimAlgorithm::Rsa => Self::RsaSha256,
            DkimAlgorithm::Ed25519 => Self::Ed25519Sha256,
        }
    }
}

/// The strong entity tag of something that is written as JSON: the first 128 bits of its SHA-256.
pub(crate) fn entity_tag(value: &impl Serialize) -> String {
    let bytes = serde_json::to_vec(value).expect("documents are plain records and lists");
    let digest = digest(&SHA256, &bytes);
    let word = digest.as_ref().iter().take(16).fold(0_u128, |tag, octet| tag << 8 | u128::from(*octet));
    format!("\"{word:032x}\"")
}

fn sorted<E: DocumentEntry>(entries: impl Iterator<Item = E>) -> Vec<E> {
    let by_name: BTreeMap<String, E> = entries.map(|entry| (entry.name(), entry)).collect();
    by_name.into_values().collect()
}

const fn one() -> u32 {
    1
}

const fn smtp_port() -> u16 {
    25
}

fn message_bytes_max() -> u32 {
    u32::try_from(MESSAGE_BYTES_MAX).unwrap_or(u32::MAX)
}
