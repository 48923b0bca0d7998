//! The snapshot as the data plane asks it: which source carries a mail, which shard owns a source, what is suspended.
//!
//! A shard owns source addresses: the limits of (source, site) are local to one executor. The operator may say which
//! shard owns an address ([`SourceOwners`]); the others are dealt out in the order of their ids. A source with an
//! unspecified address (`0.0.0.0`, `::`: the host's choice) belongs to every shard, which then has its share of the limits.
//!
//! In a fleet addresses move between hosts: a source is used only while its address is [`Held`] here.

mod shaping;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::allocation::is_allocated;
use postrail_schema::ids::{ShardId, SourceId, TenantId};
use postrail_schema::limits::{CONNECTION_MAILS_MAX, PATH_CONNECTIONS_MAX};
use postrail_schema::selector::MailFacts;
use postrail_schema::snapshot::{EgressPool, EgressSource, PoolMember, Snapshot, SuspensionTarget};

use crate::base::{Instant, Random};
use crate::lease::Held;

use shaping::ShapingIndex;
pub use shaping::{Allowance, Ceiling, Counted, PathShape, Span};

/// Where a mail goes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// A source of this shard.
    Here(SourceId),
    /// A source that another shard owns.
    At(ShardId, SourceId),
    /// Every source of the pool is suspended.
    Suspended,
    /// Every source of the pool that is not suspended has its address on another host.
    Elsewhere,
    /// No pool is named for it that it may use.
    Nowhere,
    /// Pools are named for it that it may use, and none carries its class.
    NotCarried,
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
    /// `None`: addresses do not move, and every one is this host's.
    held: Option<Held>,
    shaping: Arc<ShapingIndex>,
}

impl Rules {
    pub fn new(snapshot: Arc<Snapshot>, shard: ShardId, shards: u16) -> Self {
        assert!(shard.0 < shards, "a shard is one of the host's shards");
        let shaping = Arc::new(ShapingIndex::new(&snapshot.shaping));
        Self { snapshot, shard, shards, owners: SourceOwners::default(), held: None, shaping }
    }

    /// The same under another snapshot. What of it did not change is not gone through again.
    #[must_use]
    pub fn under(&self, snapshot: Arc<Snapshot>) -> Self {
        let shaping = if self.shaping.is_of(&snapshot.shaping) {
            Arc::clone(&self.shaping)
        } else {
            Arc::new(ShapingIndex::new(&snapshot.shaping))
        };
        Self { snapshot, shaping, ..self.clone() }
    }

    /// The same with owners that the operator has named. One beyond the host's shards counts as not named.
    pub fn with_owners(self, owners: SourceOwners) -> Self {
        Self { owners, ..self }
    }

    /// The same of a host that holds only these of the addresses that move (`None`: none move).
    pub fn with_held(self, held: Option<Held>) -> Self {
        Self { held, ..self }
    }

    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Whether the address of `source` is here, leases apart: see [`Self::may_start`].
    pub fn is_here(&self, source: SourceId) -> bool {
        self.moving(source).is_none_or(|(held, address)| held.addresses.contains_key(&address))
    }

    /// Whether a connection or transaction from `source` may start at `now`.
    pub fn may_start(&self, source: SourceId, now: Instant) -> bool {
        self.moving(source).is_none_or(|(held, address)| held.may_use(address, since_boot(now)))
    }

    /// What is held, and the address of `source`, if that is one that moves.
    fn moving(&self, source: SourceId) -> Option<(&Held, IpAddr)> {
        let held = self.held.as_ref()?;
        let address = self.snapshot.sources.get(&source)?.address;
        is_allocated(address).then_some((held, address))
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

    /// Whether the pool of some mail depends on its site, which therefore has to be known first.
    pub fn places_by_site(&self) -> bool {
        self.snapshot.policies.routes_by_site()
    }

    /// Whether a mail may leave from `source`: its pool has it.
    pub fn allows(&self, mail: MailFacts<'_>, source: SourceId) -> bool {
        self.pool_of(mail).is_some_and(|pool| pool.members.iter().any(|member| member.source == source))
    }

    fn pool_of(&self, mail: MailFacts<'_>) -> Option<&EgressPool> {
        let named = self.snapshot.pools_of(mail).filter_map(|(_, pool)| pool);
        named.into_iter().find(|pool| pool.carries(mail.tenant, mail.class))
    }

    /// Chooses a source for a mail: by weight among the sources of its pool that are this shard's, else among all.
    pub fn place(&self, mail: MailFacts<'_>, random: &mut Random) -> Placement {
        let Some(pool) = self.pool_of(mail) else {
            let is_allowed = |pool: &EgressPool| pool.tenant.is_none_or(|owner| owner == mail.tenant);
            let is_by_class = self.snapshot.pools_of(mail).filter_map(|(_, pool)| pool).any(is_allowed);
            return if is_by_class { Placement::NotCarried } else { Placement::Nowhere };
        };
        let allowed = || pool.members.iter().filter(|member| !self.source_suspended(member.source));
        let usable = || allowed().filter(|member| self.is_here(member.source));
        let is_here = |member: &&PoolMember| self.owner(member.source).is_none_or(|owner| owner == self.shard);
        if let Some(source) = draw(usable().filter(is_here), random) {
            return Placement::Here(source);
        }
        match draw(usable(), random) {
            Some(source) => Placement::At(self.owner(source).unwrap_or(self.shard), source),
            None if allowed().next().is_some() => Placement::Elsewhere,
            None => Placement::Suspended,
        }
    }

    /// Whether the pool of a mail has a source that is `good`; `None`: it has no pool.
    pub fn has_source(&self, mail: MailFacts<'_>, good: impl Fn(&EgressSource) -> bool) -> Option<bool> {
        let pool = self.pool_of(mail)?;
        Some(pool.members.iter().filter_map(|member| self.source(member.source)).any(good))
    }

    /// The weight of a tenant in the round robin between tenants.
    pub fn weight(&self, tenant: TenantId) -> u32 {
        self.snapshot.tenants.get(&tenant).map_or(1, |tenant| tenant.weight.max(1))
    }

    /// The tenant's reserve, recipients a second of this host; 0: none.
    pub fn reserve(&self, tenant: TenantId) -> u32 {
        self.snapshot.tenants.get(&tenant).and_then(|tenant| tenant.reserved_per_s).unwrap_or_default()
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

/// The platform's instants are CLOCK_BOOTTIME.
fn since_boot(now: Instant) -> Duration {
    Duration::from_nanos(now.nanos())
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
    use postrail_schema::allocation::Tenure;
    use postrail_schema::ids::{PoolId, SendingDomainId, SuspensionId};
    use postrail_schema::policy::RoutingRule;
    use postrail_schema::selector::Selector;
    use postrail_schema::snapshot::{SendingDomain, SnapshotContent, Suspension, Tenant, TrafficClass};

    use super::*;
    use crate::dns::{MailHosts, SiteName};
    use crate::lease::Holding;

    fn mail(domain: u32) -> MailFacts<'static> {
        MailFacts {
            recipient_domain: Some("big.example"),
            site: None,
            sending_domain: SendingDomainId(domain),
            tenant: TenantId(1),
            class: TrafficClass::Transactional,
        }
    }

    fn hosts() -> MailHosts {
        MailHosts { site: SiteName("mx.example".into()), hosts: Vec::new(), secure: false, expires: Instant::FAR }
    }

    fn snapshot(addresses: &[&str], suspended: &[u32]) -> Arc<Snapshot> {
        Arc::new(Snapshot::new(content(addresses, suspended)).unwrap())
    }

    fn content(addresses: &[&str], suspended: &[u32]) -> SnapshotContent {
        let sources: Vec<_> = addresses
            .iter()
            .enumerate()
            .map(|(index, address)| EgressSource {
                id: SourceId(index as u32 + 1),
                name: format!("s{index}"),
                address: address.parse().unwrap(),
                ehlo_name: "mx.example.com".to_owned(),
                needs: Default::default(),
            })
            .collect();
        let members = sources.iter().map(|source| PoolMember { source: source.id, weight: 1 }).collect();
        SnapshotContent {
            tenants: vec![Tenant {
                id: TenantId(1),
                name: "t".to_owned(),
                quota_per_day: None,
                weight: 1,
                message_bytes_max: 1_000_000,
                region: None,
                reserved_per_s: None,
                quarantines: false,
            }],
            domains: vec![SendingDomain {
                id: SendingDomainId(1),
                tenant: TenantId(1),
                name: "example.com".to_owned(),
                keys: vec![],
                pool: None,
                standing: Default::default(),
                is_platform: false,
                is_later: false,
            }],
            pools: vec![EgressPool {
                id: PoolId(1),
                name: "default".to_owned(),
                tenant: None,
                members,
                classes: Default::default(),
            }],
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
        }
    }

    #[test]
    fn mail_stays_on_its_shard_when_the_pool_has_a_source_there() {
        let snapshot = snapshot(&["127.0.0.2", "127.0.0.3"], &[]);
        let mut random = Random::new(1);
        for shard in [0, 1] {
            let rules = Rules::new(snapshot.clone(), ShardId(shard), 2);
            let placed = rules.place(mail(1), &mut random);
            assert_eq!(placed, Placement::Here(SourceId(u32::from(shard) + 1)));
        }
    }

    #[test]
    fn a_single_dedicated_address_has_one_owner() {
        let snapshot = snapshot(&["127.0.0.2"], &[]);
        let rules = Rules::new(snapshot, ShardId(1), 2);
        assert_eq!(rules.place(mail(1), &mut Random::new(1)), Placement::At(ShardId(0), SourceId(1)));
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
        assert_eq!(rules.place(mail(1), &mut Random::new(1)), Placement::Here(SourceId(1)));
        assert_eq!(rules.shape(SourceId(1), &hosts()).limits.connections, 3);
    }

    #[test]
    fn an_address_that_moves_is_used_only_while_it_is_held() {
        let at = |seconds: u64| Instant::ZERO + Duration::from_secs(seconds);
        let holding = Holding { epoch: 1, tenure: Tenure::Leased, since: Duration::from_secs(5) };
        let addresses = [("192.0.2.2".parse().unwrap(), holding)].into();
        let held = Held { until: Duration::from_secs(20), addresses: Arc::new(addresses) };
        let rules = Rules::new(snapshot(&["192.0.2.1", "192.0.2.2", "127.0.0.2"], &[3]), ShardId(0), 1);
        assert!(rules.may_start(SourceId(1), at(0)), "without leases every address is here");
        let rules = rules.with_held(Some(held));
        let mut random = Random::new(1);
        assert!((0..50).all(|_| rules.place(mail(1), &mut random) == Placement::Here(SourceId(2))));
        let may: Vec<_> = (1..=3).map(|source| rules.may_start(SourceId(source), at(19))).collect();
        assert_eq!(may, [false, true, true], "a loopback address is every host's own");
        assert!(!rules.may_start(SourceId(2), at(20)));
        let connections = |seconds| rules.connections(SourceId(2), PATH_CONNECTIONS_MAX, at(seconds));
        assert_eq!([connections(5), connections(36), connections(500)], [1, 2, PATH_CONNECTIONS_MAX]);
        let rules = rules.with_held(Some(Held::default()));
        assert_eq!(rules.place(mail(1), &mut random), Placement::Elsewhere);
    }

    /// Pool 1 is the default, pool 2 for marketing, pool 3 another tenant's; source N is pool N's.
    fn routed(change: impl FnOnce(&mut SnapshotContent)) -> Rules {
        let mut content = content(&["127.0.0.2", "127.0.0.3", "127.0.0.4"], &[]);
        content.tenants.push(Tenant { id: TenantId(2), name: "u".to_owned(), ..content.tenants[0].clone() });
        let pool = |id, name: &str, tenant, classes: &[TrafficClass]| EgressPool {
            id: PoolId(id),
            name: name.to_owned(),
            tenant,
            members: vec![PoolMember { source: SourceId(id), weight: 1 }],
            classes: classes.iter().copied().collect(),
        };
        content.pools = vec![
            pool(1, "default", None, &[]),
            pool(2, "letters", None, &[TrafficClass::Marketing]),
            pool(3, "theirs", Some(TenantId(2)), &[]),
        ];
        change(&mut content);
        Rules::new(Arc::new(Snapshot::new(content).unwrap()), ShardId(0), 1)
    }

    fn rule(name: &str, selector: Selector, pool: u32) -> RoutingRule {
        RoutingRule { name: name.to_owned(), selector, pool: PoolId(pool) }
    }

    #[test]
    fn the_first_pool_of_rules_domain_and_default_that_carries_a_mail_carries_it() {
        let class = |class| Selector { class: Some(class), ..Selector::default() };
        let to_big = Selector { recipient_domain: Some("big.example".to_owned()), ..Selector::default() };
        let letter = MailFacts { class: TrafficClass::Marketing, ..mail(1) };
        let source = |rules: &Rules, mail| rules.place(mail, &mut Random::new(1));
        let rules = routed(|content| {
            content.routing_rules.push(rule("letters", class(TrafficClass::Marketing), 2));
            content.routing_rules.push(rule("codes", class(TrafficClass::Transactional), 2));
            content.routing_rules.push(rule("big", to_big, 3));
        });
        assert_eq!(source(&rules, letter), Placement::Here(SourceId(2)));
        // Neither is a pool used that does not carry the class, nor one of another tenant.
        assert_eq!(source(&rules, mail(1)), Placement::Here(SourceId(1)));
        let rules = routed(|content| {
            content.routing_rules.push(rule("letters", class(TrafficClass::Marketing), 2));
            content.domains[0].pool = Some(PoolId(1));
        });
        assert_eq!(source(&rules, letter), Placement::Here(SourceId(1)), "a domain's pool is a rule about that domain");
        let rules = routed(|content| content.pools[0].classes = [TrafficClass::Marketing].into());
        assert_eq!(source(&rules, mail(1)), Placement::NotCarried);
        let rules = routed(|content| content.pools[0].tenant = Some(TenantId(2)));
        assert_eq!(source(&rules, mail(1)), Placement::Nowhere);
    }

    #[test]
    fn suspended_sources_are_not_drawn() {
        let mut random = Random::new(1);
        let rules = Rules::new(snapshot(&["127.0.0.2", "127.0.0.3"], &[1]), ShardId(0), 1);
        assert!((0..50).all(|_| rules.place(mail(1), &mut random) == Placement::Here(SourceId(2))));
        let rules = Rules::new(snapshot(&["127.0.0.2"], &[1]), ShardId(0), 1);
        assert_eq!(rules.place(mail(1), &mut random), Placement::Suspended);
        assert_eq!(rules.place(mail(9), &mut random), Placement::Nowhere);
    }
}
