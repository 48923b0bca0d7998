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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Instant;
    use crate::dns::{MailHost, SiteName};

    fn hosts(hosts: &[(&str, u16, &[&str])]) -> MailHosts {
        let host = |&(name, preference, addresses): &(&str, u16, &[&str])| MailHost {
            name: Domain::parse(name).unwrap(),
            preference,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        MailHosts {
            site: SiteName("site".into()),
            hosts: hosts.iter().map(host).collect(),
            secure: false,
            expires: Instant::FAR,
        }
    }

    fn names(targets: &[Target]) -> Vec<String> {
        targets.iter().map(|target| format!("{} {}", target.host, target.address)).collect()
    }

    #[test]
    fn a_lower_preference_comes_first_and_equal_ones_in_drawn_order() {
        let hosts = hosts(&[("c", 20, &["192.0.2.3"]), ("a", 10, &["192.0.2.1"]), ("b", 10, &["192.0.2.2"])]);
        let mut first = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let order = targets(&hosts, 25, None, &mut Random::new(seed));
            assert_eq!(order[2].host.as_str(), "c");
            first.insert(order[0].host.clone());
        }
        assert_eq!(first.len(), 2, "either of the equal hosts comes first at times");
    }

    #[test]
    fn targets_have_the_family_of_the_source() {
        let hosts = hosts(&[("a", 10, &["2001:db8::1", "192.0.2.1"]), ("b", 20, &["2001:db8::2"])]);
        let (v4, v6) = ("a 192.0.2.1:2525", "a [2001:db8::1]:2525");
        let last = "b [2001:db8::2]:2525";
        for (source, wanted) in [
            (Some("192.0.2.9"), &[v4][..]),
            (Some("2001:db8::9"), &[v6, last]),
            (Some("0.0.0.0"), &[v4, v6, last]),
            (Some("::"), &[v6, v4, last]),
            (None, &[v4, v6, last]),
        ] {
            let source = source.map(|source| source.parse().unwrap());
            assert_eq!(names(&targets(&hosts, 2525, source, &mut Random::new(1))), wanted, "{source:?}");
        }
    }

    #[test]
    fn a_host_with_many_addresses_leaves_room_for_the_next() {
        let many: Vec<String> = (1..=16).map(|last| format!("192.0.2.{last}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let names: Vec<String> = (0..20).map(|at| format!("h{at}")).collect();
        let list: Vec<_> = names.iter().map(|name| (name.as_str(), 10, &many[..])).collect();
        let found = targets(&hosts(&list), 25, None, &mut Random::new(3));
        assert_eq!(found.len(), EGRESS_TARGETS_MAX);
        assert!(
            found.chunks(EGRESS_TARGETS_PER_HOST_MAX).all(|chunk| chunk.iter().all(|one| one.host == chunk[0].host))
        );
    }
}
