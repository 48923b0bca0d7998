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
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::access::Scope;
    use crate::ids::{ProviderId, ShapingRuleId};
    use crate::listener::{Listener, ListenerLimits, ListenerProtocol, ListenerTls};
    use crate::policy::{RetryDelays, RetryPolicy, RoutingRule};
    use crate::selector::Selector;
    use crate::shaping::{Provider, Rate, ShapingMatch, ShapingRule};
    use crate::snapshot::TrafficClass;
    use crate::tls::{TlsLevel, TlsRule, TlsVersion};

    const GOLDEN: &[u8] = include_bytes!("../../golden/snapshot-1.bin");
    const GOLDEN_2: &[u8] = include_bytes!("../../golden/snapshot-2.bin");
    const GOLDEN_3: &[u8] = include_bytes!("../../golden/snapshot-3.bin");
    const GOLDEN_4: &[u8] = include_bytes!("../../golden/snapshot-4.bin");
    const GOLDEN_5: &[u8] = include_bytes!("../../golden/snapshot-5.bin");
    /// What former versions wrote of format 3, when it had less in it.
    const FORMER_3: [&[u8]; 4] = [
        include_bytes!("../../golden/snapshot-3a.bin"),
        include_bytes!("../../golden/snapshot-3b.bin"),
        include_bytes!("../../golden/snapshot-3c.bin"),
        include_bytes!("../../golden/snapshot-3d.bin"),
    ];

    fn sample() -> SnapshotContent {
        let key = |id, selector: &str, algorithm| DkimKey {
            id: KeyId(id),
            selector: selector.into(),
            algorithm,
            sealed_private_key: vec![id as u8; 5],
            public_key: "cHVibGlj".into(),
            stage: KeyStage::Signing,
            since_ms: 0,
        };
        let suspension = |id, target| Suspension { id: SuspensionId(id), target, reason: "by hand".into() };
        SnapshotContent {
            revision: Revision(12),
            tenants: vec![Tenant {
                id: TenantId(1),
                name: "default".into(),
                quota_per_day: Some(1_000),
                weight: 2,
                message_bytes_max: 1_048_576,
                region: None,
                reserved_per_s: None,
                quarantines: false,
            }],
            credentials: vec![Credential {
                id: CredentialId(1),
                tenant: TenantId(1),
                username: "default".into(),
                secret_hashes: vec!["$argon2id$one".into(), "$argon2id$two".into()],
                disabled: false,
                marks: Vec::new(),
                scopes: Scopes::ALL,
                networks: Vec::new(),
                trusts_networks: false,
            }],
            domains: vec![SendingDomain {
                id: SendingDomainId(1),
                tenant: TenantId(1),
                name: "sender.example".into(),
                keys: vec![key(1, "pr1r", KeyAlgorithm::RsaSha256), key(2, "pr1e", KeyAlgorithm::Ed25519Sha256)],
                pool: Some(PoolId(1)),
                standing: Standing::Trusted,
                is_platform: false,
                is_later: false,
            }],
            sources: vec![EgressSource {
                id: SourceId(1),
                name: "default".into(),
                address: [0, 0, 0, 0].into(),
                ehlo_name: "mail.sender.example".into(),
                needs: HostNeeds::default(),
            }],
            pools: vec![EgressPool {
                id: PoolId(1),
                name: "default".into(),
                tenant: None,
                members: vec![PoolMember { source: SourceId(1), weight: 1 }],
                classes: Default::default(),
            }],
            routes: vec![Route { domain: "*".into(), routing_domain: None, port: 25, allow_private: false }],
            suspensions: vec![
                suspension(1, SuspensionTarget::Site("slow.example".into())),
                suspension(2, SuspensionTarget::Source(SourceId(1))),
                suspension(3, SuspensionTarget::Tenant(TenantId(1))),
            ],
            suppressions: vec![
                Suppression { tenant: TenantId(1), address: "a@receiver.example".into() },
                Suppression { tenant: TenantId(1), address: "b@receiver.example".into() },
            ],
            ..SnapshotContent::default()
        }
    }

    fn word() -> &'static str {
        "[ -~äß]{0,12}"
    }

    fn tenancy() -> impl Strategy<Value = (Vec<Tenant>, Vec<Credential>, Vec<SendingDomain>)> {
        let tenant =
            (any::<(u32, Option<u64>, u32, u32, Option<u32>, Option<u32>)>(), word()).prop_map(|(n, name)| Tenant {
                id: TenantId(n.0),
                name,
                quota_per_day: n.1,
                weight: n.2,
                message_bytes_max: n.3,
                region: n.4.map(RegionId),
                reserved_per_s: n.5,
                quarantines: n.3 % 2 == 1,
            });
        let network = proptest::sample::select(&["192.0.2.0/24", "2001:db8::/32", "::/0", "203.0.113.7"][..]);
        let network = network.prop_map(|text| text.parse().unwrap());
        let credential = (any::<(u32, u32, bool, u32, Vec<u64>)>(), word(), vec(word(), 0..3), vec(network, 0..3))
            .prop_map(|(n, username, secret_hashes, networks)| Credential {
                id: CredentialId(n.0),
                tenant: TenantId(n.1),
                username,
                secret_hashes,
                disabled: n.2,
                marks: n.4,
                scopes: Scopes::from_bits(n.3),
                networks,
                trusts_networks: n.0 % 2 == 1,
            });
        let algorithm = proptest::sample::select(&[KeyAlgorithm::RsaSha256, KeyAlgorithm::Ed25519Sha256][..]);
        let key = (any::<u32>(), word(), algorithm, vec(any::<u8>(), 0..9), word()).prop_map(
            |(id, selector, algorithm, sealed_private_key, public_key)| DkimKey {
                id: KeyId(id),
                selector,
                algorithm,
                sealed_private_key,
                public_key,
                stage: KeyStage::Signing,
                since_ms: 0,
            },
        );
        let missing = proptest::sample::select(&DomainRecord::ALL[..]);
        let standing = prop_oneof![
            proptest::sample::select(&[Standing::Trusted, Standing::Verified, Standing::Failing][..]),
            missing.clone().prop_map(|missing| Standing::Unproved { missing }),
            missing.prop_map(|missing| Standing::Lapsed { missing }),
        ];
        let domain = (any::<(u32, u32, Option<u32>, bool)>(), word(), vec(key, 0..3), standing).prop_map(
            |(n, name, keys, standing)| SendingDomain {
                id: SendingDomainId(n.0),
                tenant: TenantId(n.1),
                name,
                keys,
                pool: n.2.map(PoolId),
                standing,
                is_platform: n.3,
                is_later: n.0 % 2 == 1,
            },
        );
        (vec(tenant, 0..4), vec(credential, 0..4), vec(domain, 0..4))
    }

    fn needs() -> impl Strategy<Value = HostNeeds> {
        let carrier = prop_oneof![
            proptest::sample::select(&[Carrier::HostChoice, Carrier::Routed][..]),
            word().prop_map(Carrier::Nic),
        ];
        let host = option::of("[a-z0-9]([a-z0-9.-]{0,9}[a-z0-9])?".prop_map(|name| HostName::new(name).unwrap()));
        (carrier, host, proptest::collection::btree_set(word(), 0..3))
            .prop_map(|(carrier, host, capabilities)| HostNeeds { carrier, host, capabilities })
    }

    fn egress() -> impl Strategy<Value = (Vec<EgressSource>, Vec<EgressPool>, Vec<Route>)> {
        let source = (any::<(u32, IpAddr)>(), word(), word(), needs()).prop_map(|(n, name, ehlo_name, needs)| {
            EgressSource { id: SourceId(n.0), name, address: n.1, ehlo_name, needs }
        });
        let member = any::<(u32, u32)>().prop_map(|(source, weight)| PoolMember { source: SourceId(source), weight });
        let class = proptest::sample::select(&TrafficClass::ALL[..]);
        let classes = proptest::collection::btree_set(class, 0..4);
        let pool = (any::<(u32, Option<u32>)>(), word(), vec(member, 0..4), classes);
        let pool = pool.prop_map(|(n, name, members, classes)| EgressPool {
            id: PoolId(n.0),
            name,
            tenant: n.1.map(TenantId),
            members,
            classes,
        });
        let route = (any::<(u16, bool)>(), word(), option::of(word())).prop_map(|(n, domain, routing_domain)| Route {
            domain,
            routing_domain,
            port: n.0,
            allow_private: n.1,
        });
        (vec(source, 0..4), vec(pool, 0..4), vec(route, 0..4))
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let class = option::of(proptest::sample::select(&TrafficClass::ALL[..]));
        (option::of(word()), option::of(word()), any::<(Option<u32>, Option<u32>)>(), class).prop_map(
            |(recipient_domain, site, ids, class)| Selector {
                recipient_domain,
                site,
                sending_domain: ids.0.map(SendingDomainId),
                tenant: ids.1.map(TenantId),
                class,
            },
        )
    }

    fn retry_policy() -> impl Strategy<Value = RetryPolicy> {
        let delays = any::<(u32, u32, u32)>().prop_map(|(first_s, factor_percent, longest_s)| RetryDelays {
            first_s,
            factor_percent,
            longest_s,
        });
        (word(), selector(), option::of(delays), any::<Option<u32>>())
            .prop_map(|(name, selector, delays, expiry_s)| RetryPolicy { name, selector, delays, expiry_s })
    }

    fn listener() -> impl Strategy<Value = Listener> {
        let protocol = proptest::sample::select(&ListenerProtocol::ALL[..]);
        let tls = proptest::sample::select(&ListenerTls::ALL[..]);
        let place = (any::<IpAddr>(), any::<u16>(), vec(any::<u32>(), 0..3), option::of(any::<u32>()));
        let limits =
            any::<[Option<u32>; 4]>().prop_map(|[connections, connections_per_client, message_bytes_max, idle_s]| {
                ListenerLimits { connections, connections_per_client, message_bytes_max, idle_s }
            });
        let of_tls = (tls, proptest::sample::select(&TlsVersion::ALL[..]), option::of(word()));
        let network = proptest::sample::select(&["192.0.2.0/24", "2001:db8::/32", "::/0"][..]);
        let network = network.prop_map(|text| text.parse().unwrap());
        (word(), protocol, place, of_tls, vec(network, 0..3), limits).prop_map(
            |(name, protocol, (ip, port, hosts, region), (tls, minimum_version, certificate), networks, limits)| {
                Listener {
                    name,
                    protocol,
                    address: SocketAddr::new(ip, port),
                    hosts: hosts.into_iter().map(|host| HostName::new(format!("h{host}")).unwrap()).collect(),
                    region: region.map(RegionId),
                    tls,
                    minimum_version,
                    certificate,
                    networks,
                    limits,
                }
            },
        )
    }

    fn shaping() -> impl Strategy<Value = (Vec<Provider>, Vec<ShapingRule>, Vec<Listener>)> {
        let provider = (any::<u32>(), word(), vec(word(), 0..3)).prop_map(|(id, name, hosts)| Provider {
            id: ProviderId(id),
            name,
            hosts,
        });
        let rate = || {
            let period = proptest::sample::select(&[1_u32, 60, 3_600, 86_400][..]);
            option::of((1_u32..=1_000_000, period).prop_map(|(count, period_s)| Rate::new(count, period_s).unwrap()))
        };
        let class = option::of(proptest::sample::select(&TrafficClass::ALL[..]));
        let words = (option::of(word()), option::of(word()), option::of(word()));
        let matches = (any::<[Option<u32>; 4]>(), words, class).prop_map(|(ids, words, class)| ShapingMatch {
            source: ids[0].map(SourceId),
            pool: ids[1].map(PoolId),
            provider: ids[2].map(ProviderId),
            site: words.0,
            recipient_domain: words.1,
            tenant: ids[3].map(TenantId),
            campaign: words.2,
            class,
        });
        let rule = (any::<(u32, Option<u32>, Option<u32>)>(), word(), matches, rate(), rate()).prop_map(
            |(n, name, matches, mail_rate, connection_rate)| ShapingRule {
                id: ShapingRuleId(n.0),
                name,
                matches,
                connections: n.1,
                mails_per_connection: n.2,
                mail_rate,
                connection_rate,
            },
        );
        (vec(provider, 0..3), vec(rule, 0..4), vec(listener(), 0..3))
    }

    fn content() -> impl Strategy<Value = SnapshotContent> {
        let target = prop_oneof![
            word().prop_map(SuspensionTarget::Site),
            any::<u32>().prop_map(|id| SuspensionTarget::Source(SourceId(id))),
            any::<u32>().prop_map(|id| SuspensionTarget::Tenant(TenantId(id))),
        ];
        let suspension = (any::<u32>(), target, word()).prop_map(|(id, target, reason)| Suspension {
            id: SuspensionId(id),
            target,
            reason,
        });
        let suppression =
            (0_u32..3, word()).prop_map(|(tenant, address)| Suppression { tenant: TenantId(tenant), address });
        let stops = (vec(suspension, 0..4), proptest::collection::btree_set(suppression, 0..12));
        let region = (any::<u32>(), word(), word()).prop_map(|(id, name, submission_host)| Region {
            id: RegionId(id),
            name,
            submission_host,
        });
        let signpost = any::<(u64, u32, u32)>().prop_map(|(mark, region, credential)| Signpost {
            mark,
            region: RegionId(region),
            credential: CredentialId(credential),
        });
        let places = (vec(region, 0..3), vec(signpost, 0..5));
        let rule = (word(), selector(), any::<u32>()).prop_map(|(name, selector, pool)| RoutingRule {
            name,
            selector,
            pool: PoolId(pool),
        });
        let policies = (vec(retry_policy(), 0..4), vec(rule, 0..4), vec(tls_rule(), 0..4));
        let parts = (any::<u64>(), tenancy(), egress(), stops, places, policies, shaping());
        parts.prop_map(|(revision, tenancy, egress, stops, places, policies, shaping)| SnapshotContent {
            revision: Revision(revision),
            tenants: tenancy.0,
            credentials: tenancy.1,
            domains: tenancy.2,
            sources: egress.0,
            pools: egress.1,
            routes: egress.2,
            suspensions: stops.0,
            suppressions: stops.1.into_iter().collect(),
            regions: places.0,
            signposts: places.1,
            retry_policies: policies.0,
            routing_rules: policies.1,
            providers: shaping.0,
            shaping_rules: shaping.1,
            listeners: shaping.2,
            tls_rules: policies.2,
        })
    }

    fn tls_rule() -> impl Strategy<Value = TlsRule> {
        let level = proptest::sample::select(&TlsLevel::ALL[..]);
        let version = proptest::sample::select(&TlsVersion::ALL[..]);
        let parts = (word(), selector(), level, version, vec(word(), 0..3));
        parts.prop_map(|(name, selector, level, minimum_version, hosts)| TlsRule {
            name,
            selector,
            level,
            minimum_version,
            hosts,
        })
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_the_same_content(content in content()) {
            prop_assert_eq!(decode_snapshot(&encode_snapshot(&content)).unwrap(), content);
        }

        #[test]
        fn changed_bytes_never_panic(at in any::<proptest::sample::Index>(), xor in 1_u8..=255, cut in any::<bool>()) {
            let mut bytes = GOLDEN.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            if cut {
                bytes.truncate(at);
            }
            let _ = decode_snapshot(&bytes);
        }
    }

    #[test]
    fn every_flipped_bit_of_the_committed_bytes_is_survived() {
        for at in 0..GOLDEN.len() * 8 {
            let mut bytes = GOLDEN.to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            let _ = decode_snapshot(&bytes);
        }
    }

    #[test]
    fn the_committed_bytes_are_read_and_written_as_ever() {
        assert_eq!(decode_snapshot(GOLDEN).unwrap(), sample());
        assert_eq!(encode_snapshot(&sample()), GOLDEN, "a change of the form needs a new format");
    }

    /// What format 2 is for: earlier versions would let this credential do everything from everywhere.
    fn narrow_sample() -> SnapshotContent {
        let mut content = sample();
        content.credentials[0].scopes = [Scope::Submit, Scope::JobsRead].into_iter().collect();
        content.credentials[0].networks = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        content
    }

    /// What format 5 is for: earlier versions know one domain of a name.
    fn latest_sample() -> SnapshotContent {
        let mut content = tls_sample();
        let tenant = Tenant { id: TenantId(2), name: "other".into(), ..content.tenants[0].clone() };
        let later = SendingDomain {
            id: SendingDomainId(2),
            tenant: tenant.id,
            is_platform: false,
            is_later: true,
            ..content.domains[0].clone()
        };
        content.tenants.push(tenant);
        content.domains.push(later);
        content
    }

    /// What format 4 is for, and what older formats had no sample of.
    fn tls_sample() -> SnapshotContent {
        let mut content = rules_sample();
        content.regions =
            vec![Region { id: RegionId(1), name: "eu".into(), submission_host: "eu.sender.example".into() }];
        content.signposts = vec![Signpost { mark: 7, region: RegionId(1), credential: CredentialId(9) }];
        (content.tenants[0].region, content.tenants[0].reserved_per_s) = (Some(RegionId(1)), Some(100));
        (content.credentials[0].marks, content.credentials[0].trusts_networks) = (vec![5, 6], true);
        content.domains[0].standing = Standing::Unproved { missing: DomainRecord::Dkim };
        content.sources[0].needs = HostNeeds {
            carrier: Carrier::Nic("eth1".into()),
            host: HostName::new("mx1").ok(),
            capabilities: ["net-a".to_owned()].into(),
        };
        content.tls_rules = vec![TlsRule {
            name: "bank".into(),
            selector: Selector { recipient_domain: Some("bank.example".into()), ..Selector::default() },
            level: TlsLevel::Verified,
            minimum_version: TlsVersion::V1_3,
            hosts: vec![".bank.example".into()],
        }];
        content
    }

    /// What format 3 is for: earlier versions would overlook these.
    fn rules_sample() -> SnapshotContent {
        let selector = |class, recipient_domain: Option<&str>| Selector {
            recipient_domain: recipient_domain.map(str::to_owned),
            site: None,
            sending_domain: Some(SendingDomainId(1)),
            tenant: Some(TenantId(1)),
            class,
        };
        let delays = Some(RetryDelays { first_s: 30, factor_percent: 200, longest_s: 600 });
        let SnapshotContent { mut pools, mut domains, mut tenants, .. } = narrow_sample();
        tenants[0].quarantines = true;
        domains[0].is_platform = true;
        pools[0].classes = [TrafficClass::Marketing, TrafficClass::Transactional].into();
        SnapshotContent {
            tenants,
            pools,
            domains,
            routing_rules: vec![RoutingRule {
                name: "letters".into(),
                selector: selector(Some(TrafficClass::Marketing), Some("big.example")),
                pool: PoolId(1),
            }],
            retry_policies: vec![
                RetryPolicy {
                    name: "codes".into(),
                    selector: selector(Some(TrafficClass::PersonToPerson), None),
                    delays,
                    expiry_s: Some(900),
                },
                RetryPolicy {
                    name: "slow".into(),
                    selector: selector(None, Some("slow.example")),
                    delays,
                    expiry_s: None,
                },
            ],
            providers: vec![Provider { id: ProviderId(1), name: "google".into(), hosts: vec![".google.com".into()] }],
            shaping_rules: shaping_samples(),
            listeners: vec![Listener {
                hosts: vec![HostName::new("mx1").unwrap()],
                region: Some(RegionId(1)),
                tls: ListenerTls::Required,
                minimum_version: TlsVersion::V1_3,
                certificate: Some("mail.example".into()),
                networks: vec!["192.0.2.0/24".parse().unwrap()],
                limits: ListenerLimits { connections: Some(100), idle_s: Some(60), ..ListenerLimits::default() },
                name: "submission".into(),
                ..Listener::of_options(ListenerProtocol::Smtp, "0.0.0.0:587".parse().unwrap())
            }],
            ..narrow_sample()
        }
    }

    fn shaping_samples() -> Vec<ShapingRule> {
        let of_provider = ShapingRule {
            id: ShapingRuleId(1),
            name: "google".into(),
            matches: ShapingMatch { provider: Some(ProviderId(1)), ..ShapingMatch::default() },
            connections: Some(5),
            mails_per_connection: Some(50),
            mail_rate: None,
            connection_rate: "100/min".parse().ok(),
        };
        let of_mail = ShapingRule {
            id: ShapingRuleId(2),
            name: "news".into(),
            matches: ShapingMatch {
                source: Some(SourceId(1)),
                site: Some(".receiver.example".into()),
                recipient_domain: Some("receiver.example".into()),
                tenant: Some(TenantId(1)),
                campaign: Some("news".into()),
                class: Some(TrafficClass::Marketing),
                ..ShapingMatch::default()
            },
            connections: None,
            mails_per_connection: None,
            mail_rate: "10000/h".parse().ok(),
            connection_rate: None,
        };
        vec![of_provider, of_mail]
    }

    #[test]
    fn what_earlier_versions_would_overlook_is_of_a_format_that_they_refuse() {
        let bytes = encode_snapshot(&narrow_sample());
        assert_eq!(wire::root_as_snapshot(&bytes).unwrap().format(), 2);
        assert_eq!(wire::root_as_snapshot(&encode_snapshot(&sample())).unwrap().format(), 1);
        assert_eq!(decode_snapshot(GOLDEN_2).unwrap(), narrow_sample());
        assert_eq!(bytes, GOLDEN_2, "a change of the form needs a new format");
    }

    #[test]
    fn what_is_new_in_format_3_is_refused_by_readers_of_format_2() {
        let bytes = encode_snapshot(&rules_sample());
        assert_eq!(wire::root_as_snapshot(&bytes).unwrap().format(), 3);
        assert_eq!(decode_snapshot(GOLDEN_3).unwrap(), rules_sample());
        assert_eq!(bytes, GOLDEN_3, "a change of the form needs a new format");
        for former in FORMER_3 {
            let read = decode_snapshot(former).unwrap();
            let SnapshotContent { revision, domains, .. } = rules_sample();
            assert_eq!((read.revision, &read.domains), (revision, &domains));
            assert_eq!(decode_snapshot(&encode_snapshot(&read)).unwrap(), read);
        }
    }

    #[test]
    fn what_is_new_in_format_4_is_refused_by_readers_of_format_3() {
        let bytes = encode_snapshot(&tls_sample());
        assert_eq!(wire::root_as_snapshot(&bytes).unwrap().format(), 4);
        assert_eq!(decode_snapshot(GOLDEN_4).unwrap(), tls_sample());
        assert_eq!(bytes, GOLDEN_4, "a change of the form needs a new format");
    }

    #[test]
    fn what_is_new_in_format_5_is_refused_by_readers_of_format_4() {
        let bytes = encode_snapshot(&latest_sample());
        assert_eq!(wire::root_as_snapshot(&bytes).unwrap().format(), 5);
        assert_eq!(decode_snapshot(GOLDEN_5).unwrap(), latest_sample());
        assert_eq!(bytes, GOLDEN_5, "a change of the form needs a new format");
    }

    #[test]
    fn a_suspension_of_two_things_is_refused() {
        let mut to = FlatBufferBuilder::new();
        let reason = Some(to.create_string(""));
        let args = wire::SuspensionArgs { id: 5, source: Some(1), tenant: Some(1), reason, site: None };
        let suspension = wire::Suspension::create(&mut to, &args);
        let suspensions = Some(to.create_vector(&[suspension]));
        let args = wire::SnapshotArgs { format: FORMAT, suspensions, ..wire::SnapshotArgs::default() };
        let root = wire::Snapshot::create(&mut to, &args);
        wire::finish_snapshot_buffer(&mut to, root);
        assert!(matches!(decode_snapshot(to.finished_data()), Err(WireError::SuspensionTarget { id: 5 })));
    }
}
