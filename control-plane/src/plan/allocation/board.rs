//! The board on which addresses are dealt to hosts: who may have what, and how heavy each host is in each pool.
//!
//! Loads are in parts per million of a pool's weight, so that pools count alike however their weights are written. All
//! sources together count as one more pool, in which each weighs the same; it decides where the pools do not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;

use postrail_schema::allocation::{Carrier, HostName};
use postrail_schema::limits::HOST_GRANTS_MAX;

use super::{Demand, Fleet, Host, HostStanding};

/// An address or a host by its place in the order of names.
pub(super) type Index = usize;

pub(super) struct Board<'a> {
    pub addresses: Vec<(IpAddr, &'a Demand)>,
    pub hosts: Vec<(&'a HostName, &'a Host)>,
    /// The host of each address.
    pub at: Vec<Option<Index>>,
    /// How many addresses each host has.
    count: Vec<usize>,
    /// The pools of each address and its weight there, in parts per million of the pool; pools of one address left out.
    weights: Vec<Vec<(Index, i128)>>,
    /// The load of each host in each pool.
    loads: Vec<Vec<i128>>,
}

/// How much more even the spread becomes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Gain {
    pools: i128,
    total: i128,
}

impl<'a> Board<'a> {
    pub(super) fn new(fleet: &'a Fleet) -> Self {
        let addresses: Vec<_> = fleet.addresses.iter().map(|(address, demand)| (*address, demand)).collect();
        // Who may have nothing has no place: names that were used once are many.
        let fixed: BTreeSet<_> = addresses.iter().filter_map(|(_, demand)| demand.fixed.as_ref()).collect();
        let may_have = |name: &HostName, host: &Host| {
            matches!(host.standing, HostStanding::Live | HostStanding::Quiet) || fixed.contains(name)
        };
        let hosts: Vec<_> = fleet.hosts.iter().filter(|(name, host)| may_have(name, host)).collect();
        let mut pools: BTreeMap<_, (usize, i128)> = BTreeMap::new();
        for (pool, weight) in addresses.iter().flat_map(|(_, demand)| &demand.pools) {
            let entry = pools.entry(*pool).or_default();
            *entry = (entry.0 + 1, entry.1 + i128::from((*weight).max(1)));
        }
        pools.retain(|_, (members, _)| *members > 1);
        let index: BTreeMap<_, _> = pools.keys().zip(0..).collect();
        let weights_of = |demand: &Demand| {
            let of_pool = |(pool, weight): &(_, u32)| {
                let (_, total) = pools.get(pool)?;
                Some((*index.get(pool)?, (i128::from((*weight).max(1)) * PARTS / total).max(1)))
            };
            demand.pools.iter().filter_map(of_pool).collect()
        };
        Self {
            weights: addresses.iter().map(|(_, demand)| weights_of(demand)).collect(),
            at: vec![None; addresses.len()],
            count: vec![0; hosts.len()],
            loads: vec![vec![0; pools.len()]; hosts.len()],
            addresses,
            hosts,
        }
    }

    /// Whether the constraints of an address admit a host, whatever it has already.
    pub(super) fn admits(&self, address: Index, host: Index) -> bool {
        refusal(self.addresses[address].1, self.hosts[host].0, self.hosts[host].1).is_none()
    }

    /// Whether a host may get an address that it does not have.
    pub(super) fn accepts(&self, address: Index, host: Index) -> bool {
        let (demand, (_, candidate)) = (self.addresses[address].1, self.hosts[host]);
        (candidate.standing != HostStanding::Quiet || demand.fixed.is_some()) && self.admits(address, host)
    }

    pub(super) fn has_room(&self, host: Index) -> bool {
        self.count[host] < (self.hosts[host].1.announcement.addresses_max as usize).min(HOST_GRANTS_MAX)
    }

    pub(super) fn put(&mut self, address: Index, host: Index) {
        self.take(address);
        self.at[address] = Some(host);
        self.count[host] += 1;
        for (pool, weight) in &self.weights[address] {
            self.loads[host][*pool] += weight;
        }
    }

    fn take(&mut self, address: Index) {
        let Some(host) = self.at[address].take() else { return };
        self.count[host] -= 1;
        for (pool, weight) in &self.weights[address] {
            self.loads[host][*pool] -= weight;
        }
    }

    /// The weight that an address has in all its pools, for the order in which addresses are dealt.
    pub(super) fn weight(&self, address: Index) -> i128 {
        self.weights[address].iter().map(|(_, weight)| weight).sum()
    }

    /// How much heavier `host` becomes with an address it does not have: in its pools, and in number.
    pub(super) fn cost(&self, address: Index, host: Index) -> (i128, i128) {
        let share = self.share(host);
        let of_pool = |(pool, weight): &(Index, i128)| (2 * weight * self.loads[host][*pool] + weight * weight) / share;
        let pools = self.weights[address].iter().map(of_pool).sum();
        (pools, (self.count[host] as i128 + 1) * PARTS / share)
    }

    /// What is gained when `address` moves from its host to `to`; `None`: not enough to move it.
    ///
    /// It is enough if in the pools that gain, taken together, the taker does not end heavier than the giver: a move that
    /// only turns the difference round is no gain, and moves cannot go on for ever, because each makes the sum of the
    /// squares of all loads smaller.
    pub(super) fn gain(&self, address: Index, to: Index) -> Option<Gain> {
        let from = self.at[address]?;
        let (a, b) = (self.share(from), self.share(to));
        // In the units of a load by share, times both shares: what moving a weight between two loads gains, and what
        // is left of that when the taker must not end heavier.
        let of = |weight: i128, at_from: i128, at_to: i128| {
            let difference = at_from * b - at_to * a;
            let turn = weight * (a + b);
            (weight * (2 * difference - turn), weight * (difference - turn))
        };
        let (mut pools, mut pools_left) = (0, 0);
        for (pool, weight) in &self.weights[address] {
            let (gain, left) = of(*weight, self.loads[from][*pool], self.loads[to][*pool]);
            (pools, pools_left) = (pools + gain, pools_left + left);
        }
        let (total, total_left) = of(1, self.count[from] as i128, self.count[to] as i128);
        let enough = (pools > 0 && pools_left >= 0) || (pools >= 0 && total > 0 && total_left >= 0);
        enough.then_some(Gain { pools, total })
    }

    fn share(&self, host: Index) -> i128 {
        i128::from(self.hosts[host].1.announcement.share.max(1))
    }

    /// Gives `address` a host although all that it may have are full, by moving as few others on as possible; says
    /// whether that is possible.
    pub(super) fn squeeze(&mut self, address: Index) -> bool {
        // For each host: the address that would be moved there, and so the host that it would leave room on.
        let mut via: Vec<Option<Index>> = vec![None; self.hosts.len()];
        let mut queue = VecDeque::new();
        for (host, via) in via.iter_mut().enumerate() {
            if self.accepts(address, host) {
                *via = Some(address);
                queue.push_back(host);
            }
        }
        while let Some(host) = queue.pop_front() {
            if self.has_room(host) {
                self.shift(address, host, &via);
                return true;
            }
            for other in (0..self.addresses.len()).filter(|other| self.at[*other] == Some(host)) {
                for (next, via) in via.iter_mut().enumerate() {
                    if via.is_none() && self.accepts(other, next) {
                        *via = Some(other);
                        queue.push_back(next);
                    }
                }
            }
        }
        false
    }

    /// Moves along the way that a search found, from its end to `address`.
    fn shift(&mut self, address: Index, end: Index, via: &[Option<Index>]) {
        let mut to = end;
        loop {
            let moved = via[to].expect("the search came to every host of its way by an address");
            let from = self.at[moved];
            self.put(moved, to);
            if moved == address {
                return;
            }
            to = from.expect("what makes room was on a host");
        }
    }
}

/// Why a host may not have an address: the words behind its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal<'a> {
    Said(&'static str),
    /// It announces not all that is wanted.
    Capabilities {
        wanted: &'a BTreeSet<String>,
        there: &'a BTreeSet<String>,
    },
    /// It has no such interface.
    Interface(&'a str),
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(words) => to.write_str(words),
            Self::Capabilities { wanted, there } => {
                let missing: Vec<&str> = wanted.difference(there).map(String::as_str).collect();
                let noun = if missing.len() == 1 { "capability" } else { "capabilities" };
                write!(to, "lacks the {noun} {} that the address asks for", missing.join(", "))
            }
            Self::Interface(nic) => write!(to, "lacks the interface {nic} that the address asks for"),
        }
    }
}

/// Why a host may not have an address, if so.
pub(super) fn refusal<'a>(demand: &'a Demand, name: &HostName, host: &'a Host) -> Option<Refusal<'a>> {
    let announced = &host.announcement;
    let words = if demand.fixed.as_ref().is_some_and(|fixed| fixed != name) {
        "is not the host that the address is fixed to"
    } else if !demand.owners.is_empty() && !demand.owners.contains(name) {
        "is not the host that has the address by its own configuration"
    } else if demand.region.is_some() && demand.region != announced.region {
        "is in another region"
    } else if !demand.capabilities.is_subset(&announced.capabilities) {
        let (wanted, there) = (&demand.capabilities, &announced.capabilities);
        return Some(Refusal::Capabilities { wanted, there });
    } else if !announced.carries(&demand.carrier) {
        match &demand.carrier {
            Carrier::Nic(nic) => return Some(Refusal::Interface(nic)),
            Carrier::HostChoice | Carrier::Routed => "names no interface for addresses",
        }
    } else {
        match host.standing {
            HostStanding::Live | HostStanding::Quiet => return None,
            HostStanding::Draining => "is draining",
            // It keeps what is fixed to it without saying anything.
            HostStanding::Gone if demand.fixed.is_some() => return None,
            HostStanding::Gone => "is gone",
            HostStanding::Forgotten => "was forgotten",
        }
    };
    Some(Refusal::Said(words))
}

/// What the weights of a pool sum up to.
const PARTS: i128 = 1_000_000;
