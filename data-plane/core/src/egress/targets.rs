//! From the hosts of a site to the addresses that one session tries, in order (RFC 5321 5.1).
//!
//! Invariants worth naming:
//! - at most `EGRESS_TARGETS_MAX` targets, at most `EGRESS_TARGETS_PER_HOST_MAX` of one host;
//! - a lower preference comes first; hosts of equal preference are in drawn order, so that load spreads;
//! - a target has the address family of the source that it is reached from.
//!
//! Deliberately absent: our own host in the MX set, and addresses that must not be reached (that is `dns`).

use std::net::{IpAddr, SocketAddr};

use postrail_schema::limits::{EGRESS_TARGETS_MAX, EGRESS_TARGETS_PER_HOST_MAX};

use crate::base::Random;
use crate::dns::MailHosts;
use crate::mail::Domain;

/// One address of one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The host's name: what a certificate must be valid for.
    pub host: Domain,
    pub address: SocketAddr,
}

/// The targets of `hosts` at `port`, in the order in which a session tries them.
///
/// Only addresses of the family of `source` are taken. Without a source, or with an unspecified one, the system chooses
/// where it sends from, and both families are taken: the family of the unspecified address first, IPv4 without one.
pub fn targets(hosts: &MailHosts, port: u16, source: Option<IpAddr>, random: &mut Random) -> Vec<Target> {
    let bound = source.filter(|source| !source.is_unspecified());
    let v6_first = source.is_some_and(|source| source.is_ipv6());
    let mut order: Vec<_> = hosts.hosts.iter().collect();
    random.shuffle(&mut order);
    order.sort_by_key(|host| host.preference);
    let mut found = Vec::new();
    for host in order {
        let mut addresses: Vec<IpAddr> = host
            .addresses
            .iter()
            .copied()
            .filter(|address| bound.is_none_or(|source| source.is_ipv6() == address.is_ipv6()))
            .collect();
        random.shuffle(&mut addresses);
        addresses.sort_by_key(|address| address.is_ipv6() != v6_first);
        let room = EGRESS_TARGETS_MAX - found.len();
        found.extend(
            addresses
                .into_iter()
                .take(EGRESS_TARGETS_PER_HOST_MAX.min(room))
                .map(|address| Target { host: host.name.clone(), address: SocketAddr::new(address, port) }),
        );
    }
    found
}
