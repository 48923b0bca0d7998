//! Which host gets which address: pure, from what is wanted, what hosts say, and what is given at present.
//!
//! ```text
//! Known: records of hosts, orders of operators -- Observer --> Fleet
//! Fleet, present -- assign --> where each address should be -- step --> the grants to write now
//! ```
//!
//! - [`assign`] wants: constraints kept, even spread, as little movement as that needs.
//! - [`step`] goes there by what is safe now: an address that a host may still use is asked back first.
//! - [`because`] says why an address is where it is,
//! - [`Observer`] knows when a host that says nothing certainly uses nothing.
//!
//! Invariants worth naming: equal input gives equal output; an address is in one host's grants at most, after any
//! sequence of steps; a grant passes on only after its host gave it up or its holding ended; nothing is given by who does not
//! know for how long the store has been the one that it is.
//!
//! Deliberately absent: keys, transactions and clocks (the reconciler has them), and who leads: two control planes that
//! step at once are harmless, because each step is written only if what it was computed from still holds.

mod assign;
mod because;
mod board;
mod known;
mod observer;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postrail_schema::allocation::{Announcement, Carrier, Grant, HostName, HostNeeds};
use postrail_schema::ids::PoolId;

pub use assign::{Assignment, assign};
pub use because::because;
pub use known::Known;
pub use observer::Observer;
pub use step::{Portion, Step, step};

/// What one address asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    /// The pools that send from it, each with its weight there.
    pub pools: Vec<(PoolId, u32)>,
    /// The host's region must be this.
    pub region: Option<String>,
    /// The host must have announced all of these.
    pub capabilities: BTreeSet<String>,
    /// The host must be able to have it carried so.
    pub carrier: Carrier,
    /// No other host may have it, and this one keeps it without keepalives.
    pub fixed: Option<HostName>,
    /// Hosts that have it on an interface by their own configuration: no other may have it. [`Fleet::new`] says it.
    pub owners: BTreeSet<HostName>,
}

impl Demand {
    /// Adds what one of the address's sources asks for. Sources that contradict each other are not published.
    pub fn add(&mut self, needs: &HostNeeds) {
        if needs.carrier != Carrier::HostChoice {
            self.carrier = needs.carrier.clone();
        }
        self.fixed = self.fixed.take().or_else(|| needs.host.clone());
        self.capabilities.extend(needs.capabilities.iter().cloned());
    }
}

/// Whether a host may be given addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostStanding {
    Live,
    /// It begins or has just ended: it keeps what it has and gets nothing more.
    Quiet,
    /// An operator empties it.
    Draining,
    /// It says nothing, or it stopped.
    Gone,
    /// An operator vouches that it is off for good: also what it held fixed passes on.
    Forgotten,
}

/// A host as the allocator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    pub announcement: Announcement,
    pub standing: HostStanding,
    /// Its leased holding has certainly ended.
    pub lapsed: bool,
    /// Address and epoch of what it gave up.
    pub released: BTreeSet<(IpAddr, u64)>,
}

/// Everything that is wanted and known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fleet {
    pub addresses: BTreeMap<IpAddr, Demand>,
    pub hosts: BTreeMap<HostName, Host>,
    /// Whoever was given an address in a state that the store has lost has certainly ended its use. Until then addresses
    /// are asked back, and given to nobody.
    pub may_give: bool,
}

impl Fleet {
    /// Addresses with what they ask for, and the hosts that there are.
    pub fn new(mut addresses: BTreeMap<IpAddr, Demand>, hosts: BTreeMap<HostName, Host>) -> Self {
        // One that is gone may come back at any moment, with its addresses on.
        let there = hosts.iter().filter(|(_, host)| host.standing != HostStanding::Forgotten);
        for (name, address) in there.flat_map(|(name, host)| host.announcement.own.iter().map(move |own| (name, own))) {
            // What the network brings may be on an interface of each host that it could bring it to.
            if let Some(demand) = addresses.get_mut(address).filter(|demand| demand.carrier != Carrier::Routed) {
                demand.owners.insert(name.clone());
            }
        }
        Self { addresses, hosts, may_give: true }
    }
}

/// What is given: the content of the store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Allocation {
    /// The last epoch that was given.
    pub epoch: u64,
    /// Each host's grants, ascending by address.
    pub hosts: BTreeMap<HostName, Vec<Grant>>,
}

impl Allocation {
    /// Every grant with its host.
    pub fn grants(&self) -> impl Iterator<Item = (&HostName, &Grant)> {
        self.hosts.iter().flat_map(|(host, grants)| grants.iter().map(move |grant| (host, grant)))
    }

    /// Where each address is, or is on its way to.
    pub fn places(&self) -> BTreeMap<IpAddr, HostName> {
        self.grants().map(|(host, grant)| (grant.address, grant.next.as_ref().unwrap_or(host).clone())).collect()
    }
}

#[cfg(test)]
mod tests;
