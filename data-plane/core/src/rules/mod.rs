//! The snapshot as the data plane asks it: which source carries a mail, which shard owns a source, what is suspended.
//!
//! A shard owns source addresses: the limits of (source, site) are local to one executor. The operator may say which
//! shard owns an address ([`SourceOwners`]); the others are dealt out in the order of their ids. A source with an
//! unspecified address (`0.0.0.0`, `::`: the host's choice) belongs to every shard, which then has its share of the limits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use postrail_schema::ids::{SendingDomainId, ShardId, SourceId, TenantId};
use postrail_schema::limits::{CONNECTION_MAILS_MAX, PATH_CONNECTIONS_MAX};
use postrail_schema::snapshot::{EgressSource, PoolMember, Snapshot, SuspensionTarget};

use crate::base::Random;

/// Where a mail goes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// A source of this shard.
    Here(SourceId),
    /// A source that another shard owns.
    At(ShardId, SourceId),
    /// Every source of the pool is suspended.
    Suspended,
    /// The sending domain has no pool, or the domain is gone.
    Nowhere,
}

/// What a path may use at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathLimits {
    pub connections: usize,
    pub mails_per_connection: u32,
}

impl Default for PathLimits {
    fn default() -> Self {
        Self { connections: PATH_CONNECTIONS_MAX, mails_per_connection: CONNECTION_MAILS_MAX }
    }
}

/// The addresses whose shard the operator has named. Every shard of a node has the same, so that all agree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceOwners(Arc<BTreeMap<IpAddr, ShardId>>);

impl SourceOwners {
    /// Of two shards for one address the last counts.
    pub fn new(owners: impl IntoIterator<Item = (IpAddr, ShardId)>) -> Self {
        Self(Arc::new(owners.into_iter().collect()))
    }

    fn of(&self, address: IpAddr) -> Option<ShardId> {
        self.0.get(&address).copied()
    }
}

/// One shard's view of the present snapshot.
#[derive(Clone, Debug)]
pub struct Rules {
    snapshot: Arc<Snapshot>,
    shard: ShardId,
    shards: u16,
    owners: SourceOwners,
}

impl Rules {
    pub fn new(snapshot: Arc<Snapshot>, shard: ShardId, shards: u16) -> Self {
        assert!(shard.0 < shards, "a shard is one of the host's shards");
        Self { snapshot, shard, shards, owners: SourceOwners::default() }
    }

    /// The same with owners that the operator has named. One beyond the host's shards counts as not named.
    pub fn with_owners(self, owners: SourceOwners) -> Self {
        Self { owners, ..self }
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The shard that owns `source`; `None`: every shard does, or it does not exist.
    pub fn owner(&self, source: SourceId) -> Option<ShardId> {
        let found = self.snapshot.sources.get(&source)?;
        if found.address.is_unspecified() {
            return None;
        }
        let named = |address| self.owners.of(address).filter(|owner| owner.0 < self.shards);
        if let Some(owner) = named(found.address) {
            return Some(owner);
        }
        let is_dealt = |s: &&EgressSource| !s.address.is_unspecified() && named(s.address).is_none();
        let position = self.snapshot.sources.values().filter(is_dealt).filter(|s| s.id < source).count();
        Some(ShardId((position % usize::from(self.shards)) as u16))
    }

    pub fn source(&self, source: SourceId) -> Option<&EgressSource> {
        self.snapshot.sources.get(&source)
    }

    /// Chooses a source for mail of `domain`: by weight among the pool's sources of this shard, else among all.
    pub fn place(&self, domain: SendingDomainId, random: &mut Random) -> Placement {
        let pool = self.snapshot.domains.get(&domain).and_then(|domain| self.snapshot.pool_of(domain));
        let Some(pool) = pool else { return Placement::Nowhere };
        let usable = || pool.members.iter().filter(|member| !self.source_suspended(member.source));
        let is_here = |member: &&PoolMember| self.owner(member.source).is_none_or(|owner| owner == self.shard);
        if let Some(source) = draw(usable().filter(is_here), random) {
            return Placement::Here(source);
        }
        match draw(usable(), random) {
            Some(source) => Placement::At(self.owner(source).unwrap_or(self.shard), source),
            None => Placement::Suspended,
        }
    }

    /// What a path of `source` may use on this shard.
    pub fn limits(&self, source: SourceId) -> PathLimits {
        let mut limits = PathLimits::default();
        if self.owner(source).is_none() {
            limits.connections = limits.connections.div_ceil(usize::from(self.shards)).max(1);
        }
        limits
    }

    /// The weight of a tenant in the round robin between tenants.
    pub fn weight(&self, tenant: TenantId) -> u32 {
        self.snapshot.tenants.get(&tenant).map_or(1, |tenant| tenant.weight.max(1))
    }

    pub fn source_suspended(&self, source: SourceId) -> bool {
        self.suspended(|target| *target == SuspensionTarget::Source(source))
    }

    pub fn tenant_suspended(&self, tenant: TenantId) -> bool {
        self.suspended(|target| *target == SuspensionTarget::Tenant(tenant))
    }

    /// Whether a site, or a recipient domain of that name, is suspended.
    pub fn site_suspended(&self, name: &str) -> bool {
        self.suspended(|target| matches!(target, SuspensionTarget::Site(site) if site == name))
    }

    fn suspended(&self, matches: impl Fn(&SuspensionTarget) -> bool) -> bool {
        self.snapshot.suspensions.values().any(|suspension| matches(&suspension.target))
    }
}

/// A weighted draw.
fn draw<'a>(members: impl Iterator<Item = &'a PoolMember> + Clone, random: &mut Random) -> Option<SourceId> {
    let total: u64 = members.clone().map(|member| u64::from(member.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = random.below(total);
    for member in members {
        let weight = u64::from(member.weight);
        if left < weight {
            return Some(member.source);
        }
        left -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use postrail_schema::ids::{PoolId, SuspensionId};
    use postrail_schema::snapshot::{EgressPool, SendingDomain, SnapshotContent, Suspension, Tenant};

    use super::*;

    fn snapshot(addresses: &[&str], suspended: &[u32]) -> Arc<Snapshot> {
        let sources: Vec<_> = addresses
            .iter()
            .enumerate()
            .map(|(index, address)| EgressSource {
                id: SourceId(index as u32 + 1),
                name: format!("s{index}"),
                address: address.parse().unwrap(),
                ehlo_name: "mx.example.com".to_owned(),
            })
            .collect();
        let members = sources.iter().map(|source| PoolMember { source: source.id, weight: 1 }).collect();
        let content = SnapshotContent {
            tenants: vec![Tenant {
                id: TenantId(1),
                name: "t".to_owned(),
                quota_per_day: None,
                weight: 1,
                message_bytes_max: 1_000_000,
            }],
            domains: vec![SendingDomain {
                id: SendingDomainId(1),
                tenant: TenantId(1),
                name: "example.com".to_owned(),
                keys: vec![],
                pool: None,
                standing: Default::default(),
            }],
            pools: vec![EgressPool { id: PoolId(1), name: "default".to_owned(), tenant: None, members }],
            sources,
            suspensions: suspended
                .iter()
                .map(|source| Suspension {
                    id: SuspensionId(*source),
                    target: SuspensionTarget::Source(SourceId(*source)),
                    reason: String::new(),
                })
                .collect(),
            ..SnapshotContent::default()
        };
        Arc::new(Snapshot::new(content).unwrap())
    }

    #[test]
    fn mail_stays_on_its_shard_when_the_pool_has_a_source_there() {
        let snapshot = snapshot(&["127.0.0.2", "127.0.0.3"], &[]);
        let mut random = Random::new(1);
        for shard in [0, 1] {
            let rules = Rules::new(snapshot.clone(), ShardId(shard), 2);
            let placed = rules.place(SendingDomainId(1), &mut random);
            assert_eq!(placed, Placement::Here(SourceId(u32::from(shard) + 1)));
        }
    }

    #[test]
    fn a_single_dedicated_address_has_one_owner() {
        let snapshot = snapshot(&["127.0.0.2"], &[]);
        let rules = Rules::new(snapshot, ShardId(1), 2);
        assert_eq!(rules.place(SendingDomainId(1), &mut Random::new(1)), Placement::At(ShardId(0), SourceId(1)));
    }

    #[test]
    fn a_named_owner_wins_and_the_other_addresses_are_dealt_out_as_if_it_were_not_there() {
        let snapshot = snapshot(&["127.0.0.2", "127.0.0.3", "127.0.0.4"], &[]);
        let owners =
            SourceOwners::new([("127.0.0.2".parse().unwrap(), ShardId(1)), ("127.0.0.4".parse().unwrap(), ShardId(9))]);
        for shard in [0, 1] {
            let rules = Rules::new(snapshot.clone(), ShardId(shard), 2).with_owners(owners.clone());
            let found: Vec<_> = (1..=4).map(|source| rules.owner(SourceId(source)).map(|owner| owner.0)).collect();
            assert_eq!(found, [Some(1), Some(0), Some(1), None], "every shard sees the same owners");
        }
    }

    #[test]
    fn an_unspecified_address_is_everywhere_with_a_share_of_the_limits() {
        let rules = Rules::new(snapshot(&["0.0.0.0"], &[]), ShardId(1), 4);
        assert_eq!(rules.place(SendingDomainId(1), &mut Random::new(1)), Placement::Here(SourceId(1)));
        assert_eq!(rules.limits(SourceId(1)).connections, 3);
    }

    #[test]
    fn suspended_sources_are_not_drawn() {
        let mut random = Random::new(1);
        let rules = Rules::new(snapshot(&["127.0.0.2", "127.0.0.3"], &[1]), ShardId(0), 1);
        assert!((0..50).all(|_| rules.place(SendingDomainId(1), &mut random) == Placement::Here(SourceId(2))));
        let rules = Rules::new(snapshot(&["127.0.0.2"], &[1]), ShardId(0), 1);
        assert_eq!(rules.place(SendingDomainId(1), &mut random), Placement::Suspended);
        assert_eq!(rules.place(SendingDomainId(9), &mut random), Placement::Nowhere);
    }
}
