//! Snapshots as flatbuffers. Suppressions are grouped by tenant, since they are the many; they come back ascending.

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Vector, WIPOffset};

use super::listener::{put_listener, read_listener};
use super::policy::{
    class_from_wire, class_to_wire, put_retry_policy, put_routing_rule, read_retry_policy, read_routing_rule,
};
use super::shaping::{put_provider, put_shaping_rule, read_provider, read_shaping_rule};
use super::tls::{put_tls_rule, read_tls_rule};
use super::{FORMAT, WireError, check_frame, put_address, read_address, verifier};
use crate::access::{Network, Scopes};
use crate::allocation::{Carrier, HostName, HostNeeds};
use crate::generated::snapshot as wire;
use crate::ids::{CredentialId, KeyId, PoolId, RegionId, Revision, SendingDomainId, SourceId, SuspensionId, TenantId};
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::region::{Region, Signpost};
use crate::snapshot::{
    Credential, DkimKey, EgressPool, EgressSource, KeyAlgorithm, KeyStage, PoolMember, Route, SendingDomain,
    SnapshotContent, Suppression, Suspension, SuspensionTarget, Tenant,
};
use crate::standing::{DomainRecord, Standing};

/// The format of a snapshot whose credentials have scopes or networks. A reader of format 1 would overlook them, so it has to
/// refuse such a one.
const FORMAT_NARROW: u16 = 2;
/// The format of a snapshot with what is new since: a domain that signs for all others, policies, classes of pools, a tenant
/// that quarantines, providers, shaping rules, listeners.
const FORMAT_RULES: u16 = 3;
/// The format of a snapshot with TLS rules: whoever overlooks one sends in clear what must not be.
const FORMAT_TLS: u16 = 4;
/// The format of a snapshot in which several tenants have one name: earlier readers take a second domain of a name for a fault.
pub const FORMAT_SHARED: u16 = 5;
/// The newest format that is read.
pub const FORMAT_LATEST: u16 = FORMAT_SHARED;

/// The buffer of `content`. Suppressions are written sorted and each once; all else keeps its order.
pub fn encode_snapshot(content: &SnapshotContent) -> Vec<u8> {
    let mut to = FlatBufferBuilder::with_capacity(4_096);
    let to = &mut to;
    let tenants = put_list(to, &content.tenants, put_tenant);
    let credentials = put_list(to, &content.credentials, put_credential);
    let domains = put_list(to, &content.domains, put_domain);
    let sources = put_list(to, &content.sources, put_source);
    let pools = put_list(to, &content.pools, put_pool);
    let routes = put_list(to, &content.routes, put_route);
    let suspensions = put_list(to, &content.suspensions, put_suspension);
    let mut sorted: Vec<&Suppression> = content.suppressions.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let groups: Vec<_> = sorted.chunk_by(|a, b| a.tenant == b.tenant).map(|group| put_group(to, group)).collect();
    let suppressions = to.create_vector(&groups);
    let regions = (!content.regions.is_empty()).then(|| put_list(to, &content.regions, put_region));
    let signpost = |post: &Signpost| wire::Signpost::new(post.mark, post.region.0, post.credential.0);
    let signposts: Vec<_> = content.signposts.iter().map(signpost).collect();
    let retry_policies =
        (!content.retry_policies.is_empty()).then(|| put_list(to, &content.retry_policies, put_retry_policy));
    let routing_rules =
        (!content.routing_rules.is_empty()).then(|| put_list(to, &content.routing_rules, put_routing_rule));
    let providers = (!content.providers.is_empty()).then(|| put_list(to, &content.providers, put_provider));
    let shaping_rules =
        (!content.shaping_rules.is_empty()).then(|| put_list(to, &content.shaping_rules, put_shaping_rule));
    let listeners = (!content.listeners.is_empty()).then(|| put_list(to, &content.listeners, put_listener));
    let tls_rules = (!content.tls_rules.is_empty()).then(|| put_list(to, &content.tls_rules, put_tls_rule));
    let args = wire::SnapshotArgs {
        format: format_of(content),
        revision: content.revision.0,
        tenants: Some(tenants),
        credentials: Some(credentials),
        domains: Some(domains),
        sources: Some(sources),
        pools: Some(pools),
        routes: Some(routes),
        suspensions: Some(suspensions),
        suppressions: Some(suppressions),
        regions,
        // Left out where there are none: those bytes are as they were before there were regions.
        signposts: (!signposts.is_empty()).then(|| to.create_vector(&signposts)),
        retry_policies,
        routing_rules,
        providers,
        shaping_rules,
        listeners,
        tls_rules,
    };
    let root = wire::Snapshot::create(to, &args);
    wire::finish_snapshot_buffer(to, root);
    to.finished_data().to_vec()
}

/// The content of a buffer; not yet validated as a whole, which [`Snapshot::new`](crate::snapshot::Snapshot::new) does.
///
/// # Errors
/// [`WireError`] when the bytes are no snapshot, or of a newer format.
pub fn decode_snapshot(bytes: &[u8]) -> Result<SnapshotContent, WireError> {
    check_frame(bytes, wire::SNAPSHOT_IDENTIFIER, SNAPSHOT_BYTES_MAX)?;
    let root = wire::root_as_snapshot_with_opts(&verifier(bytes.len()), bytes)?;
    if root.format() > FORMAT_LATEST {
        return Err(WireError::NewerFormat { found: root.format() });
    }
    Ok(SnapshotContent {
        revision: Revision(root.revision()),
        tenants: root.tenants().into_iter().flatten().map(read_tenant).collect(),
        credentials: root.credentials().into_iter().flatten().map(read_credential).collect::<Result<_, _>>()?,
        domains: root.domains().into_iter().flatten().map(read_domain).collect::<Result<_, _>>()?,
        sources: root.sources().into_iter().flatten().map(read_source).collect::<Result<_, _>>()?,
        pools: root.pools().into_iter().flatten().map(read_pool).collect::<Result<_, _>>()?,
        routes: root.routes().into_iter().flatten().map(read_route).collect(),
        suspensions: root.suspensions().into_iter().flatten().map(read_suspension).collect::<Result<_, _>>()?,
        suppressions: root.suppressions().into_iter().flatten().flat_map(read_group).collect(),
        regions: root.regions().into_iter().flatten().map(read_region).collect(),
        signposts: root.signposts().into_iter().flatten().map(read_signpost).collect(),
        retry_policies: root.retry_policies().into_iter().flatten().map(read_retry_policy).collect::<Result<_, _>>()?,
        routing_rules: root.routing_rules().into_iter().flatten().map(read_routing_rule).collect::<Result<_, _>>()?,
        providers: root.providers().into_iter().flatten().map(read_provider).collect(),
        shaping_rules: root.shaping_rules().into_iter().flatten().map(read_shaping_rule).collect::<Result<_, _>>()?,
        listeners: root.listeners().into_iter().flatten().map(read_listener).collect::<Result<_, _>>()?,
        tls_rules: root.tls_rules().into_iter().flatten().map(read_tls_rule).collect::<Result<_, _>>()?,
    })
}

/// The least format whose readers do not overlook what `content` says.
fn format_of(content: &SnapshotContent) -> u16 {
    let is_narrow = |credential: &Credential| !credential.scopes.is_all() || !credential.networks.is_empty();
    let is_picky = |pool: &EgressPool| !pool.classes.is_empty();
    let has_policies = !content.retry_policies.is_empty() || !content.routing_rules.is_empty();
    let is_shaped = !content.providers.is_empty() || !content.shaping_rules.is_empty();
    let has_platform = content.domains.iter().any(|domain| domain.is_platform);
    let quarantines = content.tenants.iter().any(|tenant| tenant.quarantines);
    let has_rules = !content.listeners.is_empty() || has_policies || is_shaped || has_platform || quarantines;
    if content.domains.iter().any(|domain| domain.is_later) {
        FORMAT_SHARED
    } else if !content.tls_rules.is_empty() {
        FORMAT_TLS
    } else if has_rules || content.pools.iter().any(is_picky) {
        FORMAT_RULES
    } else if content.credentials.iter().any(is_narrow) {
        FORMAT_NARROW
    } else {
        FORMAT
    }
}

pub(super) type List<'b, T> = WIPOffset<Vector<'b, ForwardsUOffset<T>>>;

pub(super) fn put_list<'b, R, T: 'b>(
    to: &mut FlatBufferBuilder<'b>,
    records: &[R],
    put: impl Fn(&mut FlatBufferBuilder<'b>, &R) -> WIPOffset<T>,
) -> List<'b, T> {
    let offsets: Vec<_> = records.iter().map(|record| put(to, record)).collect();
    to.create_vector(&offsets)
}

fn put_tenant<'b>(to: &mut FlatBufferBuilder<'b>, tenant: &Tenant) -> WIPOffset<wire::Tenant<'b>> {
    let args = wire::TenantArgs {
        id: tenant.id.0,
        name: Some(to.create_string(&tenant.name)),
        quota_per_day: tenant.quota_per_day,
        weight: tenant.weight,
        message_bytes_max: tenant.message_bytes_max,
        region: tenant.region.map(|region| region.0),
        reserved_per_s: tenant.reserved_per_s,
        quarantines: tenant.quarantines,
    };
    wire::Tenant::create(to, &args)
}

fn read_tenant(tenant: wire::Tenant<'_>) -> Tenant {
    Tenant {
        id: TenantId(tenant.id()),
        name: tenant.name().to_owned(),
        quota_per_day: tenant.quota_per_day(),
        weight: tenant.weight(),
        message_bytes_max: tenant.message_bytes_max(),
        region: tenant.region().map(RegionId),
        reserved_per_s: tenant.reserved_per_s(),
        quarantines: tenant.quarantines(),
    }
}

fn put_credential<'b>(to: &mut FlatBufferBuilder<'b>, credential: &Credential) -> WIPOffset<wire::Credential<'b>> {
    let hashes: Vec<_> = credential.secret_hashes.iter().map(|hash| to.create_string(hash)).collect();
    let networks = (!credential.networks.is_empty()).then(|| put_list(to, &credential.networks, put_network));
    let args = wire::CredentialArgs {
        id: credential.id.0,
        tenant: credential.tenant.0,
        username: Some(to.create_string(&credential.username)),
        secret_hashes: Some(to.create_vector(&hashes)),
        disabled: credential.disabled,
        marks: (!credential.marks.is_empty()).then(|| to.create_vector(&credential.marks)),
        scopes: credential.scopes.bits(),
        trusts_networks: credential.trusts_networks,
        networks,
    };
    wire::Credential::create(to, &args)
}

pub(super) fn put_network<'b>(to: &mut FlatBufferBuilder<'b>, network: &Network) -> WIPOffset<wire::Network<'b>> {
    let args = wire::NetworkArgs { address: Some(put_address(to, network.address())), prefix: network.prefix() };
    wire::Network::create(to, &args)
}

pub(super) fn read_network(network: wire::Network<'_>) -> Result<Network, WireError> {
    let address = read_address("network address", network.address())?;
    let prefix = network.prefix();
    Network::new(address, prefix).map_err(|_| WireError::UnknownValue { field: "network prefix", value: prefix })
}

fn read_credential(credential: wire::Credential<'_>) -> Result<Credential, WireError> {
    Ok(Credential {
        id: CredentialId(credential.id()),
        tenant: TenantId(credential.tenant()),
        username: credential.username().to_owned(),
        secret_hashes: credential.secret_hashes().into_iter().flatten().map(str::to_owned).collect(),
        disabled: credential.disabled(),
        marks: credential.marks().into_iter().flatten().collect(),
        scopes: Scopes::from_bits(credential.scopes()),
        networks: credential.networks().into_iter().flatten().map(read_network).collect::<Result<_, _>>()?,
        trusts_networks: credential.trusts_networks(),
    })
}

fn put_domain<'b>(to: &mut FlatBufferBuilder<'b>, domain: &SendingDomain) -> WIPOffset<wire::SendingDomain<'b>> {
    let keys = put_list(to, &domain.keys, put_key);
    let (standing, missing) = put_standing(domain.standing);
    let args = wire::SendingDomainArgs {
        id: domain.id.0,
        tenant: domain.tenant.0,
        name: Some(to.create_string(&domain.name)),
        keys: Some(keys),
        pool: domain.pool.map(|pool| pool.0),
        standing,
        missing,
        platform: domain.is_platform,
        later: domain.is_later,
    };
    wire::SendingDomain::create(to, &args)
}

fn put_standing(standing: Standing) -> (wire::Standing, wire::DomainRecord) {
    let record = |missing| match missing {
        DomainRecord::Ownership => wire::DomainRecord::Ownership,
        DomainRecord::Spf => wire::DomainRecord::Spf,
        DomainRecord::Dkim => wire::DomainRecord::Dkim,
        DomainRecord::Dmarc => wire::DomainRecord::Dmarc,
    };
    match standing {
        Standing::Trusted => (wire::Standing::Trusted, wire::DomainRecord::default()),
        Standing::Verified => (wire::Standing::Verified, wire::DomainRecord::default()),
        Standing::Failing => (wire::Standing::Failing, wire::DomainRecord::default()),
        Standing::Unproved { missing } => (wire::Standing::Unproved, record(missing)),
        Standing::Lapsed { missing } => (wire::Standing::Lapsed, record(missing)),
    }
}

fn read_standing(domain: wire::SendingDomain<'_>) -> Result<Standing, WireError> {
    let missing = || match domain.missing() {
        wire::DomainRecord::Ownership => Ok(DomainRecord::Ownership),
        wire::DomainRecord::Spf => Ok(DomainRecord::Spf),
        wire::DomainRecord::Dkim => Ok(DomainRecord::Dkim),
        wire::DomainRecord::Dmarc => Ok(DomainRecord::Dmarc),
        other => Err(WireError::UnknownValue { field: "missing record", value: other.0 }),
    };
    match domain.standing() {
        wire::Standing::Trusted => Ok(Standing::Trusted),
        wire::Standing::Verified => Ok(Standing::Verified),
        wire::Standing::Failing => Ok(Standing::Failing),
        wire::Standing::Unproved => Ok(Standing::Unproved { missing: missing()? }),
        wire::Standing::Lapsed => Ok(Standing::Lapsed { missing: missing()? }),
        other => Err(WireError::UnknownValue { field: "standing", value: other.0 }),
    }
}

fn put_key<'b>(to: &mut FlatBufferBuilder<'b>, key: &DkimKey) -> WIPOffset<wire::DkimKey<'b>> {
    let args = wire::DkimKeyArgs {
        id: key.id.0,
        selector: Some(to.create_string(&key.selector)),
        algorithm: match key.algorithm {
            KeyAlgorithm::RsaSha256 => wire::KeyAlgorithm::RsaSha256,
            KeyAlgorithm::Ed25519Sha256 => wire::KeyAlgorithm::Ed25519Sha256,
        },
        sealed_private_key: Some(to.create_vector(&key.sealed_private_key)),
        public_key: Some(to.create_string(&key.public_key)),
    };
    wire::DkimKey::create(to, &args)
}

fn read_domain(domain: wire::SendingDomain<'_>) -> Result<SendingDomain, WireError> {
    Ok(SendingDomain {
        id: SendingDomainId(domain.id()),
        tenant: TenantId(domain.tenant()),
        name: domain.name().to_owned(),
        keys: domain.keys().into_iter().flatten().map(read_key).collect::<Result<_, _>>()?,
        pool: domain.pool().map(PoolId),
        standing: read_standing(domain)?,
        is_platform: domain.platform(),
        is_later: domain.later(),
    })
}

fn read_key(key: wire::DkimKey<'_>) -> Result<DkimKey, WireError> {
    let algorithm = match key.algorithm() {
        wire::KeyAlgorithm::RsaSha256 => KeyAlgorithm::RsaSha256,
        wire::KeyAlgorithm::Ed25519Sha256 => KeyAlgorithm::Ed25519Sha256,
        other => return Err(WireError::UnknownValue { field: "key algorithm", value: other.0 }),
    };
    Ok(DkimKey {
        id: KeyId(key.id()),
        selector: key.selector().to_owned(),
        algorithm,
        sealed_private_key: key.sealed_private_key().bytes().to_vec(),
        public_key: key.public_key().to_owned(),
        stage: KeyStage::Signing,
        since_ms: 0,
    })
}

fn put_source<'b>(to: &mut FlatBufferBuilder<'b>, source: &EgressSource) -> WIPOffset<wire::Source<'b>> {
    let needs = &source.needs;
    let nic = match &needs.carrier {
        Carrier::Nic(nic) => Some(to.create_string(nic)),
        Carrier::HostChoice | Carrier::Routed => None,
    };
    let host = needs.host.as_ref().map(|host| to.create_string(host.as_str()));
    let words: Vec<_> = needs.capabilities.iter().map(|word| to.create_string(word)).collect();
    let capabilities = (!words.is_empty()).then(|| to.create_vector(&words));
    let args = wire::SourceArgs {
        id: source.id.0,
        name: Some(to.create_string(&source.name)),
        address: Some(put_address(to, source.address)),
        ehlo_name: Some(to.create_string(&source.ehlo_name)),
        nic,
        routed: needs.carrier == Carrier::Routed,
        host,
        capabilities,
    };
    wire::Source::create(to, &args)
}

fn read_source(source: wire::Source<'_>) -> Result<EgressSource, WireError> {
    Ok(EgressSource {
        id: SourceId(source.id()),
        name: source.name().to_owned(),
        address: read_address("source address", source.address())?,
        ehlo_name: source.ehlo_name().to_owned(),
        needs: read_needs(source)?,
    })
}

fn read_needs(source: wire::Source<'_>) -> Result<HostNeeds, WireError> {
    let host = source.host().map(HostName::new).transpose();
    Ok(HostNeeds {
        carrier: match source.nic() {
            Some(nic) => Carrier::Nic(nic.to_owned()),
            None if source.routed() => Carrier::Routed,
            None => Carrier::HostChoice,
        },
        host: host.map_err(|_| WireError::SourceHost { id: source.id() })?,
        capabilities: source.capabilities().into_iter().flatten().map(str::to_owned).collect(),
    })
}

fn put_pool<'b>(to: &mut FlatBufferBuilder<'b>, pool: &EgressPool) -> WIPOffset<wire::Pool<'b>> {
    let members: Vec<_> =
        pool.members.iter().map(|member| wire::PoolMember::new(member.source.0, member.weight)).collect();
    let classes: Vec<u8> = pool.classes.iter().copied().map(class_to_wire).collect();
    let args = wire::PoolArgs {
        id: pool.id.0,
        name: Some(to.create_string(&pool.name)),
        tenant: pool.tenant.map(|tenant| tenant.0),
        members: Some(to.create_vector(&members)),
        classes: (!classes.is_empty()).then(|| to.create_vector(&classes)),
    };
    wire::Pool::create(to, &args)
}

fn read_pool(pool: wire::Pool<'_>) -> Result<EgressPool, WireError> {
    let member = |member: &wire::PoolMember| PoolMember { source: SourceId(member.source()), weight: member.weight() };
    Ok(EgressPool {
        id: PoolId(pool.id()),
        name: pool.name().to_owned(),
        tenant: pool.tenant().map(TenantId),
        members: pool.members().into_iter().flatten().map(member).collect(),
        classes: pool.classes().into_iter().flatten().map(class_from_wire).collect::<Result<_, _>>()?,
    })
}

fn put_route<'b>(to: &mut FlatBufferBuilder<'b>, route: &Route) -> WIPOffset<wire::Route<'b>> {
    let args = wire::RouteArgs {
        domain: Some(to.create_string(&route.domain)),
        routing_domain: route.routing_domain.as_ref().map(|domain| to.create_string(domain)),
        port: route.port,
        allow_private: route.allow_private,
    };
    wire::Route::create(to, &args)
}

fn read_route(route: wire::Route<'_>) -> Route {
    Route {
        domain: route.domain().to_owned(),
        routing_domain: route.routing_domain().map(str::to_owned),
        port: route.port(),
        allow_private: route.allow_private(),
    }
}

fn put_suspension<'b>(to: &mut FlatBufferBuilder<'b>, suspension: &Suspension) -> WIPOffset<wire::Suspension<'b>> {
    let mut args = wire::SuspensionArgs {
        id: suspension.id.0,
        reason: Some(to.create_string(&suspension.reason)),
        ..wire::SuspensionArgs::default()
    };
    match &suspension.target {
        SuspensionTarget::Site(site) => args.site = Some(to.create_string(site)),
        SuspensionTarget::Source(source) => args.source = Some(source.0),
        SuspensionTarget::Tenant(tenant) => args.tenant = Some(tenant.0),
    }
    wire::Suspension::create(to, &args)
}

fn read_suspension(suspension: wire::Suspension<'_>) -> Result<Suspension, WireError> {
    let target = match (suspension.site(), suspension.source(), suspension.tenant()) {
        (Some(site), None, None) => SuspensionTarget::Site(site.to_owned()),
        (None, Some(source), None) => SuspensionTarget::Source(SourceId(source)),
        (None, None, Some(tenant)) => SuspensionTarget::Tenant(TenantId(tenant)),
        _ => return Err(WireError::SuspensionTarget { id: suspension.id() }),
    };
    Ok(Suspension { id: SuspensionId(suspension.id()), target, reason: suspension.reason().to_owned() })
}

fn put_region<'b>(to: &mut FlatBufferBuilder<'b>, region: &Region) -> WIPOffset<wire::Region<'b>> {
    let (name, submission_host) = (to.create_string(&region.name), to.create_string(&region.submission_host));
    let args = wire::RegionArgs { id: region.id.0, name: Some(name), submission_host: Some(submission_host) };
    wire::Region::create(to, &args)
}

fn read_region(region: wire::Region<'_>) -> Region {
    let (name, submission_host) = (region.name().to_owned(), region.submission_host().to_owned());
    Region { id: RegionId(region.id()), name, submission_host }
}

fn read_signpost(post: &wire::Signpost) -> Signpost {
    Signpost { mark: post.mark(), region: RegionId(post.region()), credential: CredentialId(post.credential()) }
}

fn put_group<'b>(to: &mut FlatBufferBuilder<'b>, group: &[&Suppression]) -> WIPOffset<wire::Suppressions<'b>> {
    let addresses: Vec<_> = group.iter().map(|suppression| to.create_string(&suppression.address)).collect();
    let args = wire::SuppressionsArgs {
        tenant: group.first().map_or(0, |suppression| suppression.tenant.0),
        addresses: Some(to.create_vector(&addresses)),
    };
    wire::Suppressions::create(to, &args)
}

fn read_group(group: wire::Suppressions<'_>) -> impl Iterator<Item = Suppression> {
    let tenant = TenantId(group.tenant());
    group.addresses().into_iter().flatten().map(move |address| Suppression { tenant, address: address.to_owned() })
}

#[cfg(test)]
mod tests;
