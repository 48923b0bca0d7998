//! From what is given to what should be, by what is safe now.
//!
//! ```text
//! free --> held by A --> releasing by A --> (A gave it up, or its holding ended) --> held by B
//! ```
//!
//! A grant passes on in the one transaction that takes it from its host. Where it passes on because a host's holding
//! ended, the host is in [`Step::relied`]: the transaction must be refused if that host's record has changed.
//!
//! What is more than one transaction takes is written in portions, of which each is a step by itself: an address is taken from
//! its host in one, and given to the next host in a later one, when it is nobody's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postrail_schema::allocation::{Grant, HostName, Standing, Tenure};
use postrail_schema::limits::ALLOCATION_MOVES_MAX;
use postrail_schema::problem::Problem;

use super::{Allocation, Demand, Fleet, Host, HostStanding, assign};

/// What [`step`] gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The last epoch that was given.
    pub epoch: u64,
    /// The new grants of the hosts whose grants change.
    pub changed: BTreeMap<HostName, Vec<Grant>>,
    /// Hosts whose records must not have changed since they were seen to have lapsed.
    pub relied: BTreeSet<HostName>,
    pub problems: Vec<Problem>,
}

/// The most that is written at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Portion {
    /// Grants of all hosts whose grants change. A single host's are written whatever their number.
    pub grants: usize,
    /// Hosts.
    pub hosts: usize,
}

impl Step {
    /// Of a step that was made from `present`, as much as is one portion. The rest follows from a step that is made when that is
    /// written.
    pub fn portion(mut self, present: &Allocation, most: Portion) -> Self {
        let grants: usize = self.changed.values().map(Vec::len).sum();
        if grants <= most.grants && self.changed.len() <= most.hosts {
            return self;
        }
        let holders: BTreeMap<IpAddr, &HostName> =
            present.grants().map(|(holder, grant)| (grant.address, holder)).collect();
        let mut left = most.grants;
        let mut changed: BTreeMap<HostName, Vec<Grant>> = BTreeMap::new();
        for (host, mut grants) in self.changed {
            // What another host has is given once that is written to have lost it.
            grants.retain(|grant| holders.get(&grant.address).is_none_or(|holder| **holder == host));
            let is_as_before = present.hosts.get(&host).map(Vec::as_slice).unwrap_or_default() == grants;
            let has_room = changed.is_empty() || (changed.len() < most.hosts && grants.len() <= left);
            if !is_as_before && has_room {
                left = left.saturating_sub(grants.len());
                changed.insert(host, grants);
            }
        }
        self.relied.retain(|host| changed.contains_key(host));
        Self { changed, ..self }
    }
}

/// What should be written now.
pub fn step(fleet: &Fleet, allocation: &Allocation) -> Step {
    let moving = allocation.grants().filter(|(_, grant)| grant.standing == Standing::Releasing).count();
    let moves_max = ALLOCATION_MOVES_MAX.saturating_sub(moving);
    let assignment = assign(fleet, &allocation.places(), moves_max);
    let (epoch, may_give) = (allocation.epoch, fleet.may_give);
    let mut next = Next { epoch, may_give, hosts: BTreeMap::new(), relied: BTreeSet::new() };
    let mut unplaced: BTreeSet<IpAddr> = assignment.targets.keys().copied().collect();
    for (holder, grant) in allocation.grants() {
        let demand = fleet.addresses.get(&grant.address);
        let target = assignment.targets.get(&grant.address);
        if next.keep_or_release(grant, holder, fleet.hosts.get(holder), demand, target) {
            unplaced.remove(&grant.address);
        }
    }
    for (address, host) in assignment.targets.iter().filter(|(address, _)| may_give && unplaced.contains(address)) {
        next.give(*address, host, &fleet.addresses[address]);
    }
    let mut changed = BTreeMap::new();
    for host in allocation.hosts.keys().chain(next.hosts.keys()) {
        let mut grants = next.hosts.get(host).cloned().unwrap_or_default();
        grants.sort_by_key(|grant| grant.address);
        if allocation.hosts.get(host).is_none_or(|before| *before != grants) {
            changed.insert(host.clone(), grants);
        }
    }
    Step { epoch: next.epoch, changed, relied: next.relied, problems: assignment.problems }
}

/// The allocation that is being made.
struct Next {
    epoch: u64,
    may_give: bool,
    hosts: BTreeMap<HostName, Vec<Grant>>,
    relied: BTreeSet<HostName>,
}

impl Next {
    /// Takes over what stays of a grant; says whether any of it does.
    fn keep_or_release(
        &mut self,
        grant: &Grant,
        holder: &HostName,
        host: Option<&Host>,
        demand: Option<&Demand>,
        target: Option<&HostName>,
    ) -> bool {
        let fits = demand.is_some_and(|demand| tenure(demand) == grant.tenure && demand.carrier == grant.carrier);
        let is_wanted_here = target == Some(holder) || (target.is_none() && demand.is_some());
        let list = self.hosts.entry(holder.clone()).or_default();
        if is_wanted_here && fits {
            // Or was given up, as the host says, and that it was asked for is in a state that the store has lost.
            let is_given_up = host.is_some_and(|host| host.released.contains(&(grant.address, grant.epoch)));
            if (grant.standing == Standing::Releasing || is_given_up) && self.may_give {
                // It comes back to the host that was to give it up: under a new epoch, since the old one may be released.
                self.epoch += 1;
                list.push(Grant { epoch: self.epoch, standing: Standing::Held, next: None, ..grant.clone() });
            } else {
                list.push(grant.clone());
            }
            return true;
        }
        match ended(grant, host).filter(|_| self.may_give) {
            Some(Ended::Lapsed) => self.relied.insert(holder.clone()),
            Some(Ended::Said) => true,
            None => {
                list.push(Grant { standing: Standing::Releasing, next: target.cloned(), ..grant.clone() });
                return true;
            }
        };
        false
    }

    fn give(&mut self, address: IpAddr, host: &HostName, demand: &Demand) {
        self.epoch += 1;
        self.hosts.entry(host.clone()).or_default().push(Grant {
            address,
            epoch: self.epoch,
            tenure: tenure(demand),
            standing: Standing::Held,
            next: None,
            carrier: demand.carrier.clone(),
        });
    }
}

const fn tenure(demand: &Demand) -> Tenure {
    if demand.fixed.is_some() { Tenure::Fixed } else { Tenure::Leased }
}

/// Why a grant is certainly not in use.
enum Ended {
    /// The host said so, or an operator did for it.
    Said,
    /// Its keepalives ended for long enough.
    Lapsed,
}

fn ended(grant: &Grant, host: Option<&Host>) -> Option<Ended> {
    let host = host?;
    let said = grant.standing == Standing::Releasing && host.released.contains(&(grant.address, grant.epoch));
    if said || host.standing == HostStanding::Forgotten {
        Some(Ended::Said)
    } else if host.lapsed && grant.tenure == Tenure::Leased {
        Some(Ended::Lapsed)
    } else {
        None
    }
}
