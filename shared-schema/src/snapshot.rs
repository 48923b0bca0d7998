//! The published configuration under one [`Revision`]: what the control plane's plan produces and every decision of
//! the data plane is made under.
//!
//! [`SnapshotContent`] is the plain list form that is encoded (flatbuffers, `schema/snapshot.fbs`); [`Snapshot`] is the
//! form that the data plane reads: validated, indexed and cross-linked. A snapshot that does not validate is never
//! applied.
//!
//! Invariants worth naming: every id that a record names exists in the same snapshot; names are unique and lower case;
//! a pool has at least one source.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{CredentialId, KeyId, PoolId, Revision, SendingDomainId, SourceId, SuspensionId, TenantId};

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
    /// Recipients that may be accepted in a UTC day; `None`: no quota. Counted by each shard against its share.
    pub quota_per_day: Option<u64>,
    /// Weight in the deficit round robin between tenants (at least 1).
    pub weight: u32,
    pub message_bytes_max: u32,
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
}

/// A From domain that a tenant has registered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SendingDomain {
    pub id: SendingDomainId,
    pub tenant: TenantId,
    /// Lower-case A-label form, unique over all tenants.
    pub name: String,
    /// In signing order; every key signs.
    pub keys: Vec<DkimKey>,
    /// The pool of this domain's mail; `None`: the default pool.
    pub pool: Option<PoolId>,
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
    pub sealed_private_key: Vec<u8>,
    /// The public half as the `p=` value of the DNS record (base64).
    pub public_key: String,
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

/// The validated, cross-linked form.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub revision: Revision,
    pub tenants: BTreeMap<TenantId, Tenant>,
    pub credentials: BTreeMap<String, Credential>,
    pub domains: BTreeMap<SendingDomainId, SendingDomain>,
    pub domain_ids: BTreeMap<String, SendingDomainId>,
    pub sources: BTreeMap<SourceId, EgressSource>,
    pub pools: BTreeMap<PoolId, EgressPool>,
    pub default_pool: Option<PoolId>,
    pub routes: BTreeMap<String, Route>,
    pub suspensions: Vec<Suspension>,
    suppressions: std::collections::BTreeSet<Suppression>,
}

impl Snapshot {
    /// Checks `content` and links it.
    ///
    /// # Errors
    /// The first record that breaks an invariant of the module head.
    pub fn new(content: SnapshotContent) -> Result<Self, SnapshotError> {
        let mut snapshot = Self { revision: content.revision, ..Self::default() };
        for tenant in content.tenants {
            if snapshot.tenants.insert(tenant.id, tenant.clone()).is_some() {
                return Err(SnapshotError::Duplicate { subject: format!("tenant/{}", tenant.name) });
            }
        }
        for source in content.sources {
            if snapshot.sources.insert(source.id, source.clone()).is_some() {
                return Err(SnapshotError::Duplicate { subject: format!("source/{}", source.name) });
            }
        }
        snapshot.link_pools(content.pools)?;
        snapshot.link_tenant_records(content.credentials, content.domains)?;
        for route in content.routes {
            if snapshot.routes.insert(route.domain.clone(), route.clone()).is_some() {
                return Err(SnapshotError::Duplicate { subject: format!("route/{}", route.domain) });
            }
        }
        snapshot.suspensions = content.suspensions;
        snapshot.suppressions = content.suppressions.into_iter().collect();
        Ok(snapshot)
    }

    fn link_pools(&mut self, pools: Vec<EgressPool>) -> Result<(), SnapshotError> {
        for pool in pools {
            let subject = format!("pool/{}", pool.name);
            if pool.members.is_empty() {
                return Err(SnapshotError::Invalid { subject, detail: "a pool needs at least one source" });
            }
            if pool.members.iter().any(|member| member.weight == 0) {
                return Err(SnapshotError::Invalid { subject, detail: "a weight is at least 1" });
            }
            if let Some(member) = pool.members.iter().find(|member| !self.sources.contains_key(&member.source)) {
                return Err(SnapshotError::Dangling { subject, missing: format!("source {}", member.source) });
            }
            if pool.name == "default" {
                self.default_pool = Some(pool.id);
            }
            if self.pools.insert(pool.id, pool).is_some() {
                return Err(SnapshotError::Duplicate { subject });
            }
        }
        Ok(())
    }

    fn link_tenant_records(
        &mut self,
        credentials: Vec<Credential>,
        domains: Vec<SendingDomain>,
    ) -> Result<(), SnapshotError> {
        for credential in credentials {
            let subject = format!("credential/{}", credential.username);
            if !self.tenants.contains_key(&credential.tenant) {
                return Err(SnapshotError::Dangling { subject, missing: format!("tenant {}", credential.tenant) });
            }
            if self.credentials.insert(credential.username.clone(), credential).is_some() {
                return Err(SnapshotError::Duplicate { subject });
            }
        }
        for domain in domains {
            let subject = format!("domain/{}", domain.name);
            if !self.tenants.contains_key(&domain.tenant) {
                return Err(SnapshotError::Dangling { subject, missing: format!("tenant {}", domain.tenant) });
            }
            if let Some(pool) = domain.pool.filter(|pool| !self.pools.contains_key(pool)) {
                return Err(SnapshotError::Dangling { subject, missing: format!("pool {pool}") });
            }
            if self.domain_ids.insert(domain.name.clone(), domain.id).is_some() {
                return Err(SnapshotError::Duplicate { subject });
            }
            self.domains.insert(domain.id, domain);
        }
        Ok(())
    }

    /// The sending domain of that name (lower-case A-labels), if `tenant` has registered it.
    pub fn domain_of(&self, tenant: TenantId, name: &str) -> Option<&SendingDomain> {
        let domain = self.domains.get(self.domain_ids.get(name)?)?;
        (domain.tenant == tenant).then_some(domain)
    }

    /// The pool that carries mail of `domain`.
    pub fn pool_of(&self, domain: &SendingDomain) -> Option<&EgressPool> {
        self.pools.get(&domain.pool.or(self.default_pool)?)
    }

    /// The route for a recipient domain: its own, else the one for `*`.
    pub fn route_of(&self, recipient_domain: &str) -> Option<&Route> {
        self.routes.get(recipient_domain).or_else(|| self.routes.get("*"))
    }

    /// Whether `tenant` must not send to `address` (lower case).
    pub fn is_suppressed(&self, tenant: TenantId, address: &str) -> bool {
        self.suppressions.contains(&Suppression { tenant, address: address.to_owned() })
    }
}
