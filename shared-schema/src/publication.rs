//! A snapshot as it is published: records in chunks by kind and bucket of ids, and one manifest that names them all.
//!
//! ```text
//! desired state -> divide -> chunks (immutable, named by their content) -> manifest (written last)
//! manifest -> which chunks are new -> Assembly: checks, decodes, amends the last snapshot -> Snapshot
//! ```
//!
//! What leads from a manifest to the next is told beside it ([`Advance`]), so that a change costs a reader what has changed.
//! Invariants worth naming: equal records give equal chunks; a bucket does not depend on other records, so one changed
//! record changes one chunk; an assembly goes from one whole manifest to another, or stays as it was. Suppressions are no
//! chunks: the manifest has their version, and they come by themselves. Absent here: I/O, and what is kept on disks.

mod advance;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use advance::{Advance, ManifestHash};
use aws_lc_rs::digest::{SHA256, digest};

use crate::ids::{
    PoolId, ProviderId, RegionId, Revision, SendingDomainId, ShapingRuleId, SourceId, SuspensionId, TenantId,
};
use crate::keys::CHUNKS;
use crate::limits::{CHUNK_BYTES_MAX, CHUNK_IDS, NAMED_CHUNKS};
use crate::region::Region;
use crate::snapshot::{
    Credential, SendingDomain, Snapshot, SnapshotContent, SnapshotError, Suspension, SuspensionTarget, Tenant,
};
use crate::suppressions::Suppressions;
use crate::table::Table;
use crate::wire::{WireError, decode_snapshot, encode_snapshot};

/// What a chunk has records of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ChunkKind {
    Tenants,
    Credentials,
    Domains,
    Sources,
    Pools,
    Routes,
    Suspensions,
    /// Where credentials of regions are served; of all regions, for every host.
    Signposts,
    RetryPolicies,
    RoutingRules,
    Providers,
    ShapingRules,
    Listeners,
    TlsRules,
}

impl ChunkKind {
    pub const ALL: [Self; 14] = [
        Self::Tenants,
        Self::Credentials,
        Self::Domains,
        Self::Sources,
        Self::Pools,
        Self::Routes,
        Self::Suspensions,
        Self::Signposts,
        Self::RetryPolicies,
        Self::RoutingRules,
        Self::Providers,
        Self::ShapingRules,
        Self::Listeners,
        Self::TlsRules,
    ];

    /// As in keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::Credentials => "credentials",
            Self::Domains => "domains",
            Self::Sources => "sources",
            Self::Pools => "pools",
            Self::Routes => "routes",
            Self::Suspensions => "suspensions",
            Self::Signposts => "signposts",
            Self::RetryPolicies => "retry_policies",
            Self::RoutingRules => "routing_rules",
            Self::Providers => "providers",
            Self::ShapingRules => "shaping_rules",
            Self::Listeners => "listeners",
            Self::TlsRules => "tls_rules",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The bucket of records with an id.
pub const fn bucket_of(id: u32) -> u32 {
    id / CHUNK_IDS
}

/// The bucket of a record that has a name and no id: FNV-1a of the name.
pub fn named_bucket(name: &str) -> u32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % NAMED_CHUNKS
}

/// What a chunk is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkPlace {
    pub kind: ChunkKind,
    pub bucket: u32,
    /// Whose hosts alone need it; `None`: every host.
    pub region: Option<RegionId>,
}

impl ChunkPlace {
    /// The place of what every host needs.
    pub const fn everywhere(kind: ChunkKind, bucket: u32) -> Self {
        Self { kind, bucket, region: None }
    }

    /// Whether both are of one kind and bucket, whatever their regions.
    pub fn is_beside(&self, other: &Self) -> bool {
        (self.kind, self.bucket) == (other.kind, other.bucket)
    }
}

/// The first 128 bits of the SHA-256 of a chunk's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkHash(pub u128);

impl ChunkHash {
    pub fn of(bytes: &[u8]) -> Self {
        let digest = digest(&SHA256, bytes);
        let first = digest.as_ref().iter().take(16);
        Self(first.fold(0, |hash, byte| hash << 8 | u128::from(*byte)))
    }
}

/// A chunk by place and content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkName {
    pub place: ChunkPlace,
    pub hash: ChunkHash,
    /// Octets.
    pub length: u32,
}

impl ChunkName {
    /// Its key in the configuration store.
    pub fn key(&self) -> String {
        format!("{CHUNKS}{}/{:032x}", self.place, self.hash.0)
    }
}

/// The place and hash that a chunk's key tells.
pub fn parse_key(key: &str) -> Option<(ChunkPlace, ChunkHash)> {
    let mut words = key.strip_prefix(CHUNKS)?.split('/');
    let (kind, bucket, hash) = (words.next()?, words.next()?, words.next()?);
    let (bucket, region) = match bucket.split_once('@') {
        Some((bucket, region)) => (bucket, Some(RegionId(region.parse().ok()?))),
        None => (bucket, None),
    };
    let place = ChunkPlace { kind: ChunkKind::from_name(kind)?, bucket: bucket.parse().ok()?, region };
    let hash = ChunkHash(u128::from_str_radix(hash, 16).ok()?);
    words.next().is_none().then_some((place, hash))
}

/// A chunk with its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub name: ChunkName,
    pub bytes: Arc<[u8]>,
}

impl Chunk {
    /// The chunk of `part`, whose records are all of `place`.
    ///
    /// # Errors
    /// It has more octets than a chunk may have.
    pub fn encode(place: ChunkPlace, part: &SnapshotContent) -> Result<Self, PublicationError> {
        let bytes: Arc<[u8]> = encode_snapshot(part).into();
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= CHUNK_BYTES_MAX);
        let length = length.ok_or(PublicationError::ChunkTooLong { key: place.to_string(), length: bytes.len() })?;
        Ok(Self { name: ChunkName { place, hash: ChunkHash::of(&bytes), length }, bytes })
    }
}

impl std::fmt::Display for ChunkPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.bucket)?;
        self.region.map_or(Ok(()), |region| write!(f, "@{region}"))
    }
}

/// What is published under one revision.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    pub revision: Revision,
    /// Unix milliseconds.
    pub published_ms: u64,
    /// The version of the suppressions in force.
    pub suppressions: u64,
    /// Hash and octets of each chunk.
    pub chunks: Table<ChunkPlace, (ChunkHash, u32)>,
    pub regions: Vec<Region>,
}

impl Manifest {
    /// The chunks, by place.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkName> {
        self.chunks.iter().map(|(place, named)| name_of(*place, *named))
    }

    /// What a host of `region` needs of it, and nothing that belongs to another; an empty name: of no region.
    #[must_use]
    pub fn within(mut self, region: &str) -> Self {
        let own = self.region(region);
        let is_own = |place: &ChunkPlace| place.region.is_none() || place.region == own;
        if !self.chunks.keys().all(is_own) {
            self.chunks =
                self.chunks.iter().filter(|(place, _)| is_own(place)).map(|(place, of)| (*place, *of)).collect();
        }
        self
    }

    /// The region of that name.
    pub fn region(&self, name: &str) -> Option<RegionId> {
        self.regions.iter().find(|known| known.name == name).map(|known| known.id)
    }

    /// Forgets what it names of a kind and bucket, whatever the region.
    pub fn forget_beside(&mut self, place: &ChunkPlace) {
        let (first, last) =
            (ChunkPlace { region: None, ..*place }, ChunkPlace { region: Some(RegionId(u32::MAX)), ..*place });
        let places: Vec<_> = self.chunks.range(first..=last).map(|(place, _)| *place).collect();
        for place in places {
            self.chunks.remove(&place);
        }
    }

    /// Whether it names that chunk.
    pub fn names(&self, name: &ChunkName) -> bool {
        self.chunks.get(&name.place) == Some(&(name.hash, name.length))
    }
}

const fn name_of(place: ChunkPlace, (hash, length): (ChunkHash, u32)) -> ChunkName {
    ChunkName { place, hash, length }
}

/// Why a publication cannot be made or applied.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    #[error("the chunk {key} has {length} octets, at most {CHUNK_BYTES_MAX} are published")]
    ChunkTooLong { key: String, length: usize },
    #[error("the chunk {key} is not there")]
    Missing { key: String },
    #[error("the chunk {key} is not what its name says")]
    Damaged { key: String },
    #[error("the chunk {key} does not decode")]
    Wire {
        key: String,
        #[source]
        source: WireError,
    },
    #[error("the chunk {key} has records of another kind or bucket")]
    Misplaced { key: String },
    #[error("the publication does not hold together")]
    Content(#[source] SnapshotError),
}

/// `content` by place. Suppressions and regions are left out, and the parts have no revision: they outlive many.
/// `region_of`: the region of a tenant, also of one that `content` does not have.
pub fn divide(
    content: SnapshotContent,
    region_of: impl Fn(TenantId) -> Option<RegionId>,
) -> BTreeMap<ChunkPlace, SnapshotContent> {
    let mut parts = Parts::default();
    for tenant in content.tenants {
        parts.at(ChunkKind::Tenants, bucket_of(tenant.id.0), tenant.region).tenants.push(tenant);
    }
    for credential in content.credentials {
        let region = region_of(credential.tenant);
        parts.at(ChunkKind::Credentials, bucket_of(credential.id.0), region).credentials.push(credential);
    }
    for domain in content.domains {
        let region = region_of(domain.tenant);
        parts.at(ChunkKind::Domains, bucket_of(domain.id.0), region).domains.push(domain);
    }
    for source in content.sources {
        parts.at(ChunkKind::Sources, bucket_of(source.id.0), None).sources.push(source);
    }
    for pool in content.pools {
        let region = pool.tenant.and_then(&region_of);
        parts.at(ChunkKind::Pools, bucket_of(pool.id.0), region).pools.push(pool);
    }
    for route in content.routes {
        parts.at(ChunkKind::Routes, named_bucket(&route.domain), None).routes.push(route);
    }
    for suspension in content.suspensions {
        let region = tenant_of(&suspension).and_then(&region_of);
        parts.at(ChunkKind::Suspensions, bucket_of(suspension.id.0), region).suspensions.push(suspension);
    }
    for signpost in content.signposts {
        parts.at(ChunkKind::Signposts, bucket_of(signpost.credential.0), None).signposts.push(signpost);
    }
    for policy in content.retry_policies {
        let region = policy.selector.tenant.and_then(&region_of);
        parts.at(ChunkKind::RetryPolicies, named_bucket(&policy.name), region).retry_policies.push(policy);
    }
    for rule in content.routing_rules {
        let region = rule.selector.tenant.and_then(&region_of);
        parts.at(ChunkKind::RoutingRules, named_bucket(&rule.name), region).routing_rules.push(rule);
    }
    for provider in content.providers {
        parts.at(ChunkKind::Providers, bucket_of(provider.id.0), None).providers.push(provider);
    }
    for rule in content.shaping_rules {
        let region = rule.matches.tenant.and_then(&region_of);
        parts.at(ChunkKind::ShapingRules, bucket_of(rule.id.0), region).shaping_rules.push(rule);
    }
    for listener in content.listeners {
        parts.at(ChunkKind::Listeners, named_bucket(&listener.name), listener.region).listeners.push(listener);
    }
    for rule in content.tls_rules {
        let region = rule.selector.tenant.and_then(&region_of);
        parts.at(ChunkKind::TlsRules, named_bucket(&rule.name), region).tls_rules.push(rule);
    }
    parts.0
}

#[derive(Default)]
struct Parts(BTreeMap<ChunkPlace, SnapshotContent>);

impl Parts {
    fn at(&mut self, kind: ChunkKind, bucket: u32, region: Option<RegionId>) -> &mut SnapshotContent {
        self.0.entry(ChunkPlace { kind, bucket, region }).or_default()
    }
}

fn tenant_of(suspension: &Suspension) -> Option<TenantId> {
    match suspension.target {
        SuspensionTarget::Tenant(tenant) => Some(tenant),
        SuspensionTarget::Site(_) | SuspensionTarget::Source(_) => None,
    }
}

/// The records of a snapshot that one chunk has.
pub fn part_of(snapshot: &Snapshot, place: ChunkPlace) -> SnapshotContent {
    let mut part = SnapshotContent::default();
    let first = place.bucket.saturating_mul(CHUNK_IDS);
    let ids = first..=first.saturating_add(CHUNK_IDS - 1);
    let (low, high) = (*ids.start(), *ids.end());
    let is_of = |tenant: Option<TenantId>| tenant.and_then(|tenant| snapshot.region_of(tenant)) == place.region;
    match place.kind {
        ChunkKind::Tenants => {
            let found = snapshot.tenants.range(TenantId(low)..=TenantId(high)).map(|(_, found)| found);
            part.tenants =
                found.filter(|found| found.region == place.region).map(|found| Tenant::clone(found)).collect();
        }
        ChunkKind::Credentials => {
            let found = snapshot.credentials.values().filter(|found| ids.contains(&found.id.0));
            let found = found.filter(|found| is_of(Some(found.tenant)));
            part.credentials = found.map(|found| Credential::clone(found)).collect();
            // The table is by username, a chunk by id.
            part.credentials.sort_by_key(|credential| credential.id);
        }
        ChunkKind::Domains => {
            let found = snapshot.domains.range(SendingDomainId(low)..=SendingDomainId(high)).map(|(_, found)| found);
            let found = found.filter(|found| is_of(Some(found.tenant)));
            part.domains = found.map(|found| SendingDomain::clone(found)).collect();
        }
        ChunkKind::Sources => {
            part.sources =
                snapshot.sources.range(SourceId(low)..=SourceId(high)).map(|(_, found)| found.clone()).collect();
        }
        ChunkKind::Pools => {
            let found = snapshot.pools.range(PoolId(low)..=PoolId(high)).map(|(_, found)| found);
            part.pools = found.filter(|found| is_of(found.tenant)).cloned().collect();
        }
        ChunkKind::Routes => {
            let found = snapshot.routes.values().filter(|route| named_bucket(&route.domain) == place.bucket);
            part.routes = found.cloned().collect();
        }
        ChunkKind::Suspensions => {
            let found = snapshot.suspensions.range(SuspensionId(low)..=SuspensionId(high)).map(|(_, found)| found);
            part.suspensions = found.filter(|found| is_of(tenant_of(found))).cloned().collect();
        }
        ChunkKind::Signposts => {
            part.signposts =
                snapshot.signposts.values().filter(|found| ids.contains(&found.credential.0)).copied().collect();
        }
        ChunkKind::RetryPolicies => {
            let found = snapshot.policies.retry.values().filter(|found| named_bucket(&found.name) == place.bucket);
            part.retry_policies = found.filter(|found| is_of(found.selector.tenant)).cloned().collect();
        }
        ChunkKind::RoutingRules => {
            let found = snapshot.policies.routing.values().filter(|found| named_bucket(&found.name) == place.bucket);
            part.routing_rules = found.filter(|found| is_of(found.selector.tenant)).cloned().collect();
        }
        ChunkKind::Providers => {
            let found = snapshot.shaping.providers.range(ProviderId(low)..=ProviderId(high)).map(|(_, found)| found);
            part.providers = found.cloned().collect();
        }
        ChunkKind::ShapingRules => {
            let found = snapshot.shaping.rules.range(ShapingRuleId(low)..=ShapingRuleId(high)).map(|(_, found)| found);
            part.shaping_rules = found.filter(|found| is_of(found.matches.tenant)).cloned().collect();
        }
        ChunkKind::Listeners => {
            let found = snapshot.listeners.values().filter(|found| named_bucket(&found.name) == place.bucket);
            part.listeners = found.filter(|found| found.region == place.region).cloned().collect();
        }
        ChunkKind::TlsRules => {
            let found = snapshot.tls.all.values().filter(|found| named_bucket(&found.name) == place.bucket);
            part.tls_rules = found.filter(|found| is_of(found.selector.tenant)).cloned().collect();
        }
    }
    part
}

/// The last publication that was applied whole, and how to come to the next.
#[derive(Clone, Debug, Default)]
pub struct Assembly {
    manifest: Manifest,
    snapshot: Arc<Snapshot>,
    suppressions_version: u64,
}

impl Assembly {
    /// The manifest that is applied.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The version of the suppressions that are applied; 0: none came yet.
    pub fn suppressions_version(&self) -> u64 {
        self.suppressions_version
    }

    /// The chunks of `next` that are not applied yet.
    pub fn missing(&self, next: &Manifest) -> Vec<ChunkName> {
        let changes = next.chunks.changes(&self.manifest.chunks).into_iter();
        changes.filter_map(|(place, _, is)| Some(name_of(*place, *is?))).collect()
    }

    /// Goes on to `next`. `chunks` has at least those that are [`missing`](Self::missing).
    ///
    /// # Errors
    /// A chunk is not there or not what its name says, or the whole does not hold together: nothing has changed then.
    pub fn apply(&mut self, next: Manifest, chunks: &[(ChunkName, Arc<[u8]>)]) -> Result<(), PublicationError> {
        let mut gone = SnapshotContent::default();
        let (revision, regions) = (next.revision, next.regions.clone());
        let mut come = SnapshotContent { revision, regions, ..SnapshotContent::default() };
        for (place, was, is) in next.chunks.changes(&self.manifest.chunks) {
            if was.is_some() {
                append(&mut gone, part_of(&self.snapshot, *place));
            }
            let Some(name) = is.map(|is| name_of(*place, *is)) else { continue };
            let found = chunks.iter().find(|(found, _)| *found == name);
            let (_, bytes) = found.ok_or_else(|| PublicationError::Missing { key: name.key() })?;
            append(&mut come, decode(&name, bytes)?);
        }
        self.snapshot = Arc::new(self.snapshot.amended(&gone, come).map_err(PublicationError::Content)?);
        self.manifest = next;
        Ok(())
    }

    /// Puts suppressions in force.
    pub fn apply_suppressions(&mut self, version: u64, suppressions: Suppressions) {
        self.snapshot = Arc::new(Snapshot::clone(&self.snapshot).with_suppressions(suppressions));
        self.suppressions_version = version;
    }
}

/// The records of a chunk that is what its name says.
fn decode(name: &ChunkName, bytes: &[u8]) -> Result<SnapshotContent, PublicationError> {
    if bytes.len() != name.length as usize || ChunkHash::of(bytes) != name.hash {
        return Err(PublicationError::Damaged { key: name.key() });
    }
    let part = decode_snapshot(bytes).map_err(|source| PublicationError::Wire { key: name.key(), source })?;
    // Bytes that hash as they should are as they were published; this is about who published them.
    let is_misplaced = places(&part).any(|place| !place.is_beside(&name.place))
        || part.tenants.iter().any(|tenant| tenant.region != name.place.region);
    if is_misplaced || !part.suppressions.is_empty() || !part.regions.is_empty() {
        return Err(PublicationError::Misplaced { key: name.key() });
    }
    Ok(part)
}

/// Where each record of `part` belongs, but for its region: that of a record's tenant, whom another chunk has. One that is
/// in another region's chunk names a tenant who is not there.
fn places(part: &SnapshotContent) -> impl Iterator<Item = ChunkPlace> {
    let at = |kind, id| ChunkPlace::everywhere(kind, bucket_of(id));
    let tenants = part.tenants.iter().map(move |record| at(ChunkKind::Tenants, record.id.0));
    let credentials = part.credentials.iter().map(move |record| at(ChunkKind::Credentials, record.id.0));
    let domains = part.domains.iter().map(move |record| at(ChunkKind::Domains, record.id.0));
    let sources = part.sources.iter().map(move |record| at(ChunkKind::Sources, record.id.0));
    let pools = part.pools.iter().map(move |record| at(ChunkKind::Pools, record.id.0));
    let routes = part.routes.iter();
    let routes = routes.map(|route| ChunkPlace::everywhere(ChunkKind::Routes, named_bucket(&route.domain)));
    let suspensions = part.suspensions.iter().map(move |record| at(ChunkKind::Suspensions, record.id.0));
    let signposts = part.signposts.iter().map(move |record| at(ChunkKind::Signposts, record.credential.0));
    let of_tenants = tenants.chain(credentials).chain(domains).chain(signposts);
    let named = |kind, name: &str| ChunkPlace::everywhere(kind, named_bucket(name));
    let rules = part.routing_rules.iter().map(move |rule| named(ChunkKind::RoutingRules, &rule.name));
    let retry = part.retry_policies.iter().map(move |policy| named(ChunkKind::RetryPolicies, &policy.name));
    let providers = part.providers.iter().map(move |record| at(ChunkKind::Providers, record.id.0));
    let shaping = part.shaping_rules.iter().map(move |record| at(ChunkKind::ShapingRules, record.id.0));
    let listeners = part.listeners.iter().map(move |record| named(ChunkKind::Listeners, &record.name));
    let tls = part.tls_rules.iter().map(move |rule| named(ChunkKind::TlsRules, &rule.name));
    let others = retry.chain(rules).chain(providers).chain(shaping).chain(listeners).chain(tls);
    of_tenants.chain(sources).chain(pools).chain(routes).chain(suspensions).chain(others)
}

fn append(to: &mut SnapshotContent, mut part: SnapshotContent) {
    to.tenants.append(&mut part.tenants);
    to.credentials.append(&mut part.credentials);
    to.domains.append(&mut part.domains);
    to.sources.append(&mut part.sources);
    to.pools.append(&mut part.pools);
    to.routes.append(&mut part.routes);
    to.suspensions.append(&mut part.suspensions);
    to.signposts.append(&mut part.signposts);
    to.retry_policies.append(&mut part.retry_policies);
    to.routing_rules.append(&mut part.routing_rules);
    to.providers.append(&mut part.providers);
    to.shaping_rules.append(&mut part.shaping_rules);
    to.listeners.append(&mut part.listeners);
    to.tls_rules.append(&mut part.tls_rules);
}

#[cfg(test)]
mod tests;
