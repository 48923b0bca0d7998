//! The records of a snapshot that have no file of their own: tenants with their credentials and domains, and whence and
//! whereto mail goes.
//!
//! Absent here: what has to hold between them, which [`super::Snapshot`] checks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::access::{Network, Scopes};
use crate::allocation::HostNeeds;
use crate::ids::{CredentialId, KeyId, PoolId, RegionId, SendingDomainId, SourceId, SuspensionId, TenantId};
use crate::octets;
use crate::standing::Standing;

/// The kind of mail; classes share a source fairly but not equally (transactional first, bulk never starves).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum TrafficClass {
    #[default]
    Transactional,
    PersonToPerson,
    Marketing,
}

impl TrafficClass {
    pub const ALL: [Self; 3] = [Self::Transactional, Self::PersonToPerson, Self::Marketing];

    /// The name in the API, in headers and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::PersonToPerson => "person_to_person",
            Self::Marketing => "marketing",
        }
    }

    /// The class of that name (`-` and `_` are the same), if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase().replace('-', "_");
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// A customer account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tenant {
    pub id: TenantId,
    /// Unique slug, `[a-z0-9-]{1,63}`.
    pub name: String,
    /// Recipients that may be accepted in a UTC day; `None`: no quota.
    pub quota_per_day: Option<u64>,
    /// Weight in the deficit round robin between tenants (at least 1).
    pub weight: u32,
    pub message_bytes_max: u32,
    /// The region whose hosts alone serve it; `None`: every host does. It stays as it was made.
    #[serde(default)]
    pub region: Option<RegionId>,
    /// Recipients a second that go ahead of all that is not reserved, on each host that serves it; `None`: no reserve.
    #[serde(default)]
    pub reserved_per_s: Option<u32>,
    /// Mail of its domains that fail in DNS is accepted and waits for a person, instead of being sent or refused.
    #[serde(default)]
    pub quarantines: bool,
}

/// A credential: a username and the argon2id hashes of at most two live secrets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Credential {
    pub id: CredentialId,
    pub tenant: TenantId,
    /// Unique over all tenants.
    pub username: String,
    /// PHC strings (`$argon2id$…`).
    pub secret_hashes: Vec<String>,
    pub disabled: bool,
    /// The mark of each secret, where the tenant has a region (see [`crate::region`]).
    #[serde(default)]
    pub marks: Vec<u64>,
    #[serde(default, skip_serializing_if = "Scopes::is_all")]
    pub scopes: Scopes,
    /// Where it may be used from; empty: anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Who submits from one of its networks needs no secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusts_networks: bool,
}

impl Credential {
    /// The networks from which it needs no secret at present.
    pub fn trusted(&self) -> &[Network] {
        if self.trusts_networks && !self.disabled { &self.networks } else { &[] }
    }

    /// Whether it may be used from that address.
    pub fn admits(&self, peer: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(peer))
    }
}

/// A From domain that a tenant has registered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SendingDomain {
    pub id: SendingDomainId,
    pub tenant: TenantId,
    /// Lower-case A-label form. Several tenants may have a name, each once.
    pub name: String,
    /// In signing order. In a publication every key signs; desired state has others beside them (see [`KeyStage`]).
    pub keys: Vec<DkimKey>,
    /// The pool of this domain's mail; `None`: the default pool.
    pub pool: Option<PoolId>,
    /// What DNS says for it, and so whether it may send.
    #[serde(default)]
    pub standing: Standing,
    /// Whether its keys sign the mail of every other domain, too. Of publications alone: desired state has it in its
    /// settings.
    #[serde(default, skip)]
    pub is_platform: bool,
    /// Whether a domain before it has its name, of another tenant. Of publications alone, for readers that know one domain of a
    /// name: they have to refuse it.
    #[serde(default, skip)]
    pub is_later: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyAlgorithm {
    RsaSha256,
    Ed25519Sha256,
}

/// A DKIM key. The private key is PKCS#8 DER, sealed by the installation's master key (AES-256-GCM, nonce first).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DkimKey {
    pub id: KeyId,
    pub selector: String,
    pub algorithm: KeyAlgorithm,
    #[serde(with = "octets")]
    pub sealed_private_key: Vec<u8>,
    /// The public half as the `p=` value of the DNS record (base64).
    pub public_key: String,
    /// Of desired state: a publication has the keys that sign, and nothing of their stages.
    #[serde(default, skip_serializing_if = "KeyStage::signs")]
    pub stage: KeyStage,
    /// Since when it is in that stage, Unix milliseconds; 0: since a version that did not keep it.
    #[serde(default)]
    pub since_ms: u64,
}

/// What a DKIM key is between being made and being forgotten.
///
/// ```text
/// Waiting --its record is seen, or the operator says so--> Signing --another one signs--> Former --time--> Retired
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum KeyStage {
    /// Its record is to be published; it does not sign before.
    Waiting,
    #[default]
    Signing,
    /// It signs no more; its record has to stay until then (Unix milliseconds), for mail that is on its way.
    Former { until_ms: u64 },
    /// Its record may be removed. Its private key is gone.
    Retired,
}

impl KeyStage {
    pub const fn signs(&self) -> bool {
        matches!(self, Self::Signing)
    }

    /// As the API writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Signing => "signing",
            Self::Former { .. } => "former",
            Self::Retired => "retired",
        }
    }
}

impl std::fmt::Debug for DkimKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DkimKey").field("id", &self.id).field("selector", &self.selector).finish_non_exhaustive()
    }
}

/// An identity that we send from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EgressSource {
    pub id: SourceId,
    /// Unique slug.
    pub name: String,
    /// The address to bind; unspecified (`0.0.0.0`, `::`): the host's choice by route.
    pub address: IpAddr,
    pub ehlo_name: String,
    /// Which hosts may have the address; those of one that is not allocated mean nothing.
    #[serde(default)]
    pub needs: HostNeeds,
}

/// A weighted set of sources.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EgressPool {
    pub id: PoolId,
    /// Unique slug; the pool named `default` serves what no domain assigns.
    pub name: String,
    /// `None`: shared by all tenants.
    pub tenant: Option<TenantId>,
    pub members: Vec<PoolMember>,
    /// What it carries; empty: all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub classes: BTreeSet<TrafficClass>,
}

impl EgressPool {
    /// Whether it carries mail of that class of that tenant.
    pub fn carries(&self, tenant: TenantId, class: TrafficClass) -> bool {
        self.tenant.is_none_or(|owner| owner == tenant) && (self.classes.is_empty() || self.classes.contains(&class))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolMember {
    pub source: SourceId,
    /// At least 1.
    pub weight: u32,
}

/// Where mail for a recipient domain goes instead of its own MX, and at which port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Recipient domain; `*` for all that no other route names.
    pub domain: String,
    /// Routing domain or host name whose MX or addresses are used; `None`: the recipient's own.
    pub routing_domain: Option<String>,
    /// Destination port; 25 unless told otherwise.
    pub port: u16,
    /// MX hosts at loopback, private or own addresses are allowed.
    pub allow_private: bool,
}

/// What an operator has stopped; kept over a restart because it is configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Suspension {
    pub id: SuspensionId,
    pub target: SuspensionTarget,
    pub reason: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuspensionTarget {
    /// A site by name, or any recipient domain by name.
    Site(String),
    Source(SourceId),
    Tenant(TenantId),
}

/// An address that a tenant must not be sent to, from the ledger.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Suppression {
    pub tenant: TenantId,
    /// Lower-case address.
    pub address: String,
}
