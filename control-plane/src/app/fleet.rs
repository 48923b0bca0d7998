//! The hosts of a fleet as operators see them, and what operators order of them.
//!
//! What is seen is read from the store each time; only how long a host has been silent is this control plane's own
//! observation. Absent here: who gets which address (`plan::allocation`, `reconcile::allocate`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postrail_schema::allocation::{Grant, HostName, HostRecord, HostState, Order, is_allocated};
use postrail_schema::host::RefusedHost;
use postrail_schema::ids::PoolId;
use postrail_schema::keys::{LEADER, MASTER_KEY_CHECK, REFUSED_HOSTS, leader};
use postrail_schema::limits::{HOST_NAMES_MAX, HOSTS_MAX, OBSERVER_SILENCE_MAX};
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::sealed::MasterKey;
use postrail_schema::snapshot::EgressSource;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, AppError, HostClient, HostsError, Precondition, names};
use crate::plan::allocation::{Demand, Fleet, HostStanding, Known, assign, because};
use crate::plan::{Desired, DocumentEntry};
use crate::reconcile::boottime;
use crate::store::Entry;

/// A host.
#[derive(Clone, Debug)]
pub(crate) struct HostSeen {
    pub name: HostName,
    /// One word for what it is about.
    pub standing: &'static str,
    pub order: Option<Order>,
    /// What it said last; `None`: its record was removed, and it has addresses.
    pub record: Option<HostRecord>,
    /// Its admin listener, while it runs.
    pub admin: Option<String>,
    /// Who knows more of it, where that is not this control plane.
    pub elsewhere: Option<Elsewhere>,
    pub grants: Vec<Grant>,
}

/// The control planes that hear from a host of another region than ours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct Elsewhere {
    /// Empty: those without a region.
    pub region: String,
    /// The control API of the one that leads there; null: none does at present.
    pub control_plane: Option<String>,
}

/// What operators say of a host; all else of it is observed.
#[derive(Debug, Serialize)]
pub(crate) struct HostOrder {
    name: String,
    order: Option<Order>,
}

impl HostSeen {
    /// What its entity tag is of.
    pub(crate) fn ordered(&self) -> HostOrder {
        HostOrder { name: self.name.to_string(), order: self.order }
    }
}

impl DocumentEntry for HostOrder {
    const KIND: &'static str = "host";

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// Everything that was read for one answer.
pub(crate) struct FleetSeen {
    known: Known,
    fleet: Fleet,
    /// Nothing is known of who is gone, for long.
    is_late: bool,
    pub hosts: Vec<HostSeen>,
}

impl App {
    /// The hosts that lease addresses, by name; none, where there is no fleet.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn fleet(&self) -> Result<FleetSeen, AppError> {
        let Some(allocation) = &self.allocation else {
            return Ok(FleetSeen::of(Known::default(), Fleet::default(), false, &BTreeMap::new()));
        };
        let known = allocation.read(self.demands())?.known;
        let (observer, now) = (allocation.observer(), boottime());
        let (fleet, is_late) = (known.fleet(&observer, now), known.is_late(&observer, now));
        drop(observer);
        let running: BTreeMap<_, _> =
            self.hosts.all().iter().map(|host| (host.name.clone(), host.admin.clone())).collect();
        let mut seen = FleetSeen::of(known, fleet, is_late, &running);
        self.tell_elsewhere(&mut seen.hosts)?;
        Ok(seen)
    }

    /// Says of hosts of other regions whom to ask.
    fn tell_elsewhere(&self, hosts: &mut [HostSeen]) -> Result<(), AppError> {
        let is_other = |host: &&mut HostSeen| host.record.is_some() && host.region().unwrap_or_default() != self.region;
        let others: Vec<_> = hosts.iter_mut().filter(is_other).collect();
        if others.is_empty() {
            return Ok(());
        }
        let leaders = self.store.list(LEADER)?.entries;
        for host in others {
            let region = host.region().unwrap_or_default().to_owned();
            let leader = leaders.iter().find(|entry| entry.key == leader(&region));
            let control_plane = leader.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
            host.elsewhere = Some(Elsewhere { region, control_plane });
        }
        Ok(())
    }

    /// What each address asks for.
    pub(crate) fn demands(&self) -> BTreeMap<IpAddr, Demand> {
        demands(&self.desired())
    }

    /// The same; `None` while the configuration is lost, so that what was wanted is not known.
    pub(crate) fn demands_unless_lost(&self) -> Option<BTreeMap<IpAddr, Demand>> {
        let desired = self.desired();
        (!desired.head.is_lost).then(|| demands(&desired))
    }

    /// Orders something of a host, or with `None` takes an order back.
    ///
    /// # Errors
    /// There is no such host, its order is another than the caller has read, what it is about forbids the order, or the
    /// store fails.
    pub(crate) fn order_host(
        &self,
        name: &str,
        order: Option<Order>,
        when: &Precondition,
    ) -> Result<FleetSeen, AppError> {
        let host = names::host("/name", name).map_err(|_| AppError::not_found("host", name))?;
        let seen = self.fleet()?;
        let found = seen.host(name)?;
        when.check(&found.ordered())?;
        let allocation = self.allocation.as_ref().ok_or_else(|| AppError::not_found("host", name))?;
        match (order, found.order) {
            (Some(Order::Forget), _) if found.is_alive() => {
                return Err(AppError::conflict(format!(
                    "host {name} is alive and would go on using its addresses: stop it first, or drain it"
                )));
            }
            (Some(Order::Drain), Some(Order::Forget)) => {
                return Err(AppError::conflict(format!("host {name} was forgotten; resume it first")));
            }
            _ => allocation.order(&host, order)?,
        }
        self.fleet()
    }

    /// Findings about where the addresses of `desired` are, or would be.
    pub(crate) fn fleet_problems(&self, desired: &Desired) -> Vec<Problem> {
        if self.allocation.is_none() {
            return Vec::new();
        }
        let of_hosts = || Ok::<_, AppError>([self.refused_hosts()?, self.foreign_hosts()?].concat());
        match self.fleet().and_then(|seen| Ok((seen, of_hosts()?, self.store_problems()?))) {
            Ok((seen, refused, mut found)) => {
                found.extend(self.ledger_problem());
                found.extend(self.mirror_problem());
                found.extend(refused);
                found.append(&mut seen.problems(desired));
                found
            }
            Err(error) => vec![Problem {
                severity: Severity::Warning,
                code: "fleet_unknown",
                subject: "fleet/hosts".to_owned(),
                detail: format!("which host has which address is not known: {error}"),
            }],
        }
    }
}

impl App {
    fn store_problems(&self) -> Result<Vec<Problem>, AppError> {
        let full = Problem {
            severity: Severity::Error,
            code: "store_full",
            subject: "fleet/etcd".to_owned(),
            detail: "etcd is full (NOSPACE): nothing can be changed, and hosts lose the addresses that they lease; compact it, \
                     defragment its members and disarm its alarm (runbook etcd-lost)"
                .to_owned(),
        };
        Ok(if self.store.is_full()? { vec![full] } else { Vec::new() })
    }

    /// Hosts that run with other master keys than the cluster's.
    fn foreign_hosts(&self) -> Result<Vec<Problem>, AppError> {
        let listing = self.store.get(&[MASTER_KEY_CHECK.to_owned()])?;
        let is_check = |key: &&MasterKey| listing.entries.iter().any(|entry| entry.value == key.check().as_bytes());
        let Some(wanted) = self.masters.all().find(is_check).map(MasterKey::id) else { return Ok(Vec::new()) };
        let hosts = self.hosts.all();
        // Hosts of early versions do not say which they have.
        let foreign = hosts.iter().filter(|host| !host.master_keys.is_empty() && !host.master_keys.contains(&wanted));
        let problem = |host: &HostClient| {
            Problem {
            severity: Severity::Error,
            code: "master_key_other",
            subject: format!("host/{}", host.name),
            detail: "it runs with another master key than the cluster's, so it accepts no mail, is told of no suppressions, and \
                     tells nothing of what it sends: copy master.key from another host to its data folder, and restart it"
                .to_owned(),
        }
        };
        Ok(foreign.map(problem).collect())
    }

    /// Hosts whose number or name is another's.
    fn refused_hosts(&self) -> Result<Vec<Problem>, AppError> {
        let listing = self.store.list(REFUSED_HOSTS)?;
        let problem = |entry: &Entry| {
            let name = entry.key.strip_prefix(REFUSED_HOSTS)?;
            let RefusedHost { id, taken_by } = serde_json::from_slice(&entry.value).ok()?;
            if taken_by == name {
                return Some(Problem {
                    severity: Severity::Warning,
                    code: "host_name_taken",
                    subject: format!("host/{name}"),
                    detail: format!(
                        "another host (number {id}) was started under this name: its events are not taken, and nobody sees what \
                         waits there; start it with a --host-name of its own"
                    ),
                });
            }
            Some(Problem {
                severity: Severity::Warning,
                code: "host_number_taken",
                subject: format!("host/{name}"),
                detail: format!(
                    "its data folder has the number {id}, which is that of {taken_by}, so its events are not taken: if the \
                     folder is a copy of the other's, stop {name} at once, since both send the same mail; if not, stop it, \
                     remove the file host.id there, and start it: it takes another number"
                ),
            })
        };
        Ok(listing.entries.iter().filter_map(problem).collect())
    }
}

impl FleetSeen {
    fn of(known: Known, fleet: Fleet, is_late: bool, running: &BTreeMap<String, String>) -> Self {
        let hosts = fleet.hosts.iter().map(|(name, host)| {
            let record = known.records.get(name).map(|(_, record)| record.clone());
            let grants = known.allocation.hosts.get(name).cloned().unwrap_or_default();
            HostSeen {
                standing: standing(host.standing, record.as_ref(), grants.is_empty()),
                order: known.orders.get(name).copied(),
                admin: running.get(name.as_str()).cloned(),
                name: name.clone(),
                record,
                elsewhere: None,
                grants,
            }
        });
        let hosts = hosts.collect();
        Self { known, fleet, is_late, hosts }
    }

    /// # Errors
    /// There is no such host.
    pub(crate) fn host(&self, name: &str) -> Result<&HostSeen, AppError> {
        let found = self.hosts.iter().find(|host| host.name.as_str() == name);
        found.ok_or_else(|| AppError::not_found("host", name))
    }

    /// Why a host has an address.
    pub(crate) fn because(&self, address: IpAddr, host: &HostName) -> String {
        because(&self.fleet, &self.known.allocation, address, host)
    }

    /// Addresses without a host, and pools that have none other.
    fn problems(&self, desired: &Desired) -> Vec<Problem> {
        // What is planned is wanted of the hosts that there are.
        let fleet = Fleet::new(demands(desired), self.fleet.hosts.clone());
        let assignment = assign(&fleet, &self.known.allocation.places(), 0);
        let mut problems = assignment.problems;
        let has_host =
            |source: &EgressSource| !is_allocated(source.address) || assignment.targets.contains_key(&source.address);
        for pool in desired.pools.values() {
            let sources: Vec<_> =
                pool.members.iter().filter_map(|member| desired.sources.get(&member.source)).collect();
            if !sources.is_empty() && !sources.into_iter().any(has_host) {
                problems.push(Problem {
                    severity: Severity::Warning,
                    code: "pool_without_host",
                    subject: format!("pool/{}", pool.name),
                    detail: "none of its addresses has a host, so its mail waits".to_owned(),
                });
            }
        }
        problems.extend(self.pools_elsewhere(desired));
        problems.extend(self.drained_alone());
        problems.extend(self.near_limit());
        problems.extend(self.is_late.then(late));
        problems
    }

    /// That there are almost as many hosts, or names of hosts, as there may be.
    fn near_limit(&self) -> Option<Problem> {
        let there = self.hosts.iter().filter(|host| host.is_alive() || !host.grants.is_empty()).count();
        let known = self.hosts.len();
        let detail = if there >= HOSTS_MAX * NEAR_PERCENT / 100 {
            format!(
                "{there} hosts run or have addresses, of {HOSTS_MAX} at most: one more is given no addresses; a larger \
                 installation is several, each with an etcd of its own"
            )
        } else if known >= HOST_NAMES_MAX * NEAR_PERCENT / 100 {
            format!(
                "{known} hosts are known by name, of {HOST_NAMES_MAX} at most, and {there} of them are there: one more is given no \
                 addresses; `postrail host forget` those that are off for good, and give a host that is made anew its former \
                 --host-name"
            )
        } else {
            return None;
        };
        let subject = "fleet/hosts".to_owned();
        Some(Problem { severity: Severity::Warning, code: "hosts_near_limit", subject, detail })
    }

    /// Hosts that are to be emptied and accept mail all the same, since no other of their region would: those that have
    /// addresses, or else all.
    fn drained_alone(&self) -> impl Iterator<Item = Problem> {
        let regions = |standing| {
            let there = self.hosts.iter().filter(move |host| host.standing == standing);
            there.map(HostSeen::region).collect::<BTreeSet<_>>()
        };
        let (live, draining) = (regions("live"), regions("draining"));
        let is_alone = move |host: &&HostSeen| {
            let is_last =
                host.standing == "draining" || host.standing == "drained" && !draining.contains(&host.region());
            is_last && !live.contains(&host.region())
        };
        self.hosts.iter().filter(is_alone).map(|host| Problem {
            severity: Severity::Warning,
            code: "region_drained",
            subject: format!("host/{}", host.name),
            detail: "it is to be drained, and no other host of its region is live and not to be drained: it goes on to accept \
                     mail, since nobody else would, and is not safe to stop until another takes over (start one, or \
                     `postrail host resume` one)"
                .to_owned(),
        })
    }

    /// Pools of which some hosts take mail and have no address, nor has another host of their region, which it would go to: it
    /// waits there.
    fn pools_elsewhere(&self, desired: &Desired) -> Vec<Problem> {
        let mut regions: BTreeMap<PoolId, BTreeSet<Option<&str>>> = BTreeMap::new();
        let default = desired.pool("default").map(|pool| pool.id);
        for domain in desired.domains.values() {
            if let Some(pool) = domain.pool.or(default) {
                let region = desired.region_of(domain.tenant).and_then(|region| desired.regions.get(&region));
                regions.entry(pool).or_default().insert(region.map(|region| region.name.as_str()));
            }
        }
        let found = regions.into_iter().filter_map(|(pool, regions)| {
            let pool = desired.pools.get(&pool)?;
            let addresses = pool.members.iter().filter_map(|member| desired.sources.get(&member.source));
            let addresses: BTreeSet<_> = addresses.map(|source| source.address).collect();
            if addresses.iter().any(|address| !is_allocated(*address)) {
                return None;
            }
            // One that is nowhere is told as such.
            if !self.hosts.iter().flat_map(|host| &host.grants).any(|grant| addresses.contains(&grant.address)) {
                return None;
            }
            let has_some = |host: &HostSeen| host.grants.iter().any(|grant| addresses.contains(&grant.address));
            let takes =
                |host: &HostSeen| host.is_alive() && (regions.contains(&None) || regions.contains(&host.region()));
            let (with, mut without): (Vec<_>, Vec<_>) =
                self.hosts.iter().filter(|host| takes(host)).partition(|host| has_some(host));
            without.retain(|host| !with.iter().any(|other| other.region() == host.region()));
            (!without.is_empty()).then(|| elsewhere(&pool.name, &with, &without))
        });
        found.collect()
    }
}

fn late() -> Problem {
    Problem {
        severity: Severity::Warning,
        code: "hosts_not_observed",
        subject: "fleet/etcd".to_owned(),
        detail: format!(
            "etcd answers this control plane less often than every {} s, so it does not know which hosts are gone, and leaves it to \
             other control planes to give addresses; where none is nearer to etcd, addresses of hosts that die go to nobody",
            OBSERVER_SILENCE_MAX.as_secs()
        ),
    }
}

fn elsewhere(pool: &str, with: &[&HostSeen], without: &[&HostSeen]) -> Problem {
    let named = |hosts: &[&HostSeen]| {
        let mut names: Vec<_> = hosts.iter().take(NAMED_MAX).map(|host| host.name.to_string()).collect();
        if let more @ 1.. = hosts.len().saturating_sub(NAMED_MAX) {
            names.push(format!("{more} more"));
        }
        names.join(", ")
    };
    let instead = match with {
        [] => String::new(),
        with => format!(", or submit its mail at {}", named(with)),
    };
    Problem {
        severity: Severity::Warning,
        code: "pool_not_on_host",
        subject: format!("pool/{pool}"),
        detail: format!(
            "none of its addresses is on {}, nor on another host of that region, and mail that is taken there waits there \
             (address_elsewhere): give the pool an address for each region{instead}",
            named(without)
        ),
    }
}

/// Hosts that a finding names one by one.
const NAMED_MAX: usize = 3;
/// From when on a limit is near.
const NEAR_PERCENT: usize = 90;

impl HostSeen {
    /// The region that it said.
    fn region(&self) -> Option<&str> {
        self.record.as_ref()?.announcement.region.as_deref()
    }

    /// Whether it may be using addresses as far as anybody knows.
    fn is_alive(&self) -> bool {
        !matches!(self.standing, "gone" | "forgotten" | "stopped")
    }
}

/// What each address of the egress sources asks for.
fn demands(desired: &Desired) -> BTreeMap<IpAddr, Demand> {
    let mut demands: BTreeMap<IpAddr, Demand> = BTreeMap::new();
    for source in desired.sources.values().filter(|source| is_allocated(source.address)) {
        demands.entry(source.address).or_default().add(&source.needs);
    }
    for pool in desired.pools.values() {
        let region = pool.tenant.and_then(|tenant| desired.region_of(tenant));
        let region = region.and_then(|region| desired.regions.get(&region)).map(|region| region.name.clone());
        for member in &pool.members {
            let source = desired.sources.get(&member.source);
            if let Some(demand) = source.and_then(|source| demands.get_mut(&source.address)) {
                demand.pools.push((pool.id, member.weight));
                demand.region = demand.region.take().or_else(|| region.clone());
            }
        }
    }
    demands
}

/// The sources of an address, by name.
pub(crate) fn sources_of(desired: &Desired, address: IpAddr) -> BTreeSet<&str> {
    desired.sources.values().filter(|source| source.address == address).map(|source| source.name.as_str()).collect()
}

fn standing(standing: HostStanding, record: Option<&HostRecord>, is_empty: bool) -> &'static str {
    match (standing, record.map(|record| record.state)) {
        (HostStanding::Forgotten, _) => "forgotten",
        (_, Some(HostState::Stopped)) => "stopped",
        (HostStanding::Gone, _) => "gone",
        (HostStanding::Draining, _) if is_empty => "drained",
        (HostStanding::Draining, _) => "draining",
        (HostStanding::Live, _) => "live",
        (HostStanding::Quiet, _) => "joining",
    }
}

impl From<HostsError> for AppError {
    fn from(source: HostsError) -> Self {
        match source {
            HostsError::Store(source) => Self::Store(source),
            source => Self::Hosts(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postrail_schema::allocation::Announcement;
    use postrail_schema::region::Region;
    use postrail_schema::snapshot::{EgressPool, Tenant};
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::plan::allocation::{Allocation, Observer, step};

    fn read<T: DeserializeOwned>(text: &str) -> T {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_addresses_of_a_regional_tenants_own_pool_are_for_hosts_of_its_region() {
        let mut desired = Desired::default();
        for source in [
            r#"{"id":1,"name":"a","address":"192.0.2.1","ehlo_name":"a.example"}"#,
            r#"{"id":2,"name":"b","address":"0.0.0.0","ehlo_name":"b.example"}"#,
            r#"{"id":3,"name":"c","address":"192.0.2.3","ehlo_name":"c.example"}"#,
        ] {
            let source: EgressSource = read(source);
            desired.sources.insert(source.id, source);
        }
        for pool in [
            r#"{"id":4,"name":"default","tenant":null,"members":[{"source":1,"weight":2},{"source":2,"weight":1}]}"#,
            r#"{"id":5,"name":"own","tenant":7,"members":[{"source":3,"weight":1}]}"#,
        ] {
            let pool: EgressPool = read(pool);
            desired.pools.insert(pool.id, pool);
        }
        let tenant = r#"{"id":7,"name":"t","quota_per_day":null,"weight":1,"message_bytes_max":1,"region":2}"#;
        let tenant: Tenant = read(tenant);
        desired.tenants.insert(tenant.id, tenant);
        let regions =
            |desired: &Desired| demands(desired).into_values().map(|demand| demand.region).collect::<Vec<_>>();
        assert_eq!(regions(&desired), [None, None], "an address that every host has is not given out");
        let region: Region = read(r#"{"id":2,"name":"eu","submission_host":"mail.eu.example"}"#);
        desired.regions.insert(region.id, region);
        assert_eq!(regions(&desired), [None, Some("eu".to_owned())]);
        // Only a host of the region is given the address, whoever else there is.
        let mut known = Known { demands: demands(&desired), ..Known::default() };
        for (name, region) in [("one", None), ("two", Some("us")), ("three", Some("eu"))] {
            let region = region.map(str::to_owned);
            let announcement =
                Announcement { region, addresses_max: 9, share: 1, routed: true, ..Announcement::default() };
            let record = HostRecord {
                incarnation: 1,
                sequence: 1,
                lease_ms: 10_000,
                state: HostState::Live,
                released: Vec::new(),
                announcement,
                held: None,
            };
            known.records.insert(HostName::new(name).unwrap(), (1, record));
        }
        let now = Duration::from_secs(60);
        let mut observer = Observer::at(now);
        known.show(&mut observer, now);
        let made = step(&known.fleet(&observer, now), &Allocation::default());
        let is_it = |grant: &Grant| grant.address == IpAddr::from([192, 0, 2, 3]);
        let given = made.changed.iter().filter(|(_, grants)| grants.iter().any(is_it));
        assert_eq!(given.map(|(host, _)| host.as_str()).collect::<Vec<_>>(), ["three"]);
        // Where none is left, it waits and says why.
        known.records.retain(|name, _| name.as_str() != "three");
        let problems = step(&known.fleet(&observer, now), &Allocation::default()).problems;
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert_eq!((problem.code, problem.subject.as_str()), ("address_without_host", "address/192.0.2.3"));
        assert!(problem.detail.contains("two is in another region"), "{}", problem.detail);
    }
}
