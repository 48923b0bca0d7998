//! The addresses that mail is sent from: on this host, with a way out, and with a name that leads back.
//!
//! Present addresses are read from `/proc/net/fib_trie` and `/proc/net/if_inet6`, the interface of an IPv4 address from
//! the route of its network in `/proc/net/route`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::finding::{Finding, Remedy, Severity, Subject};
use super::ptr::Names;
use super::root::Root;

/// An address to send from, as it is configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    pub(crate) address: IpAddr,
    /// What it greets with, where that is known.
    pub(crate) ehlo_name: Option<String>,
}

/// An address to send from, as the host sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    pub(crate) wanted: Wanted,
    pub(crate) present: bool,
    pub(crate) nic: Option<String>,
    pub(crate) routed: bool,
    /// `None`: not asked.
    pub(crate) names: Option<Result<Names, String>>,
}

/// Addresses and routes of the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    /// Where known, with its interface.
    local: Vec<(IpAddr, Option<String>)>,
    /// Interface, network and mask of routes that need no gateway.
    networks: Vec<(String, u32, u32)>,
    default_v4: bool,
    default_v6: bool,
}

impl Addresses {
    pub(crate) fn read(root: &Root) -> Self {
        let text = |name: &str| root.text(&format!("proc/net/{name}")).unwrap_or_default();
        let routes: Vec<Route> = text("route").lines().filter_map(parse_route).collect();
        let v4 = local_v4(&text("fib_trie")).into_iter().map(|address| (address.into(), None));
        let v6 = text("if_inet6");
        let v6 = v6.lines().filter_map(parse_v6).map(|(address, nic)| (address.into(), Some(nic)));
        Self {
            local: v4.chain(v6).collect(),
            default_v4: routes.iter().any(|route| route.mask == 0),
            default_v6: text("ipv6_route").lines().any(is_default_v6),
            networks: routes
                .into_iter()
                .filter(|route| route.direct)
                .map(|route| (route.nic, route.network, route.mask))
                .collect(),
        }
    }

    /// What of `wanted` this host has.
    pub(crate) fn find(&self, wanted: Wanted) -> Source {
        let address = wanted.address;
        let found = self.local.iter().find(|(local, _)| *local == address);
        let routed = address.is_loopback() || if address.is_ipv4() { self.default_v4 } else { self.default_v6 };
        Source {
            present: found.is_some() || address.is_unspecified() || address.is_loopback(),
            nic: found.and_then(|(_, nic)| nic.clone()).or_else(|| self.network(address)),
            routed,
            names: None,
            wanted,
        }
    }

    /// The interface of the narrowest network that the address is in.
    fn network(&self, address: IpAddr) -> Option<String> {
        let IpAddr::V4(address) = address else { return None };
        let of = self.networks.iter().filter(|(_, network, mask)| *mask != 0 && u32::from(address) & mask == *network);
        of.max_by_key(|(_, _, mask)| *mask).map(|(nic, _, _)| nic.clone())
    }
}

struct Route {
    nic: String,
    network: u32,
    mask: u32,
    direct: bool,
}

/// A line of `/proc/net/route`: interface, destination, gateway, flags, …, mask; addresses as the host's CPU stores them.
fn parse_route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
    let swapped = |at: usize| number(at).map(u32::swap_bytes);
    Some(Route { nic: (*fields.first()?).to_owned(), network: swapped(1)?, direct: number(2)? == 0, mask: swapped(7)? })
}

/// The local addresses of `/proc/net/fib_trie`: a line with the address, then one that says that it is LOCAL.
fn local_v4(text: &str) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = Vec::new();
    let mut last = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.contains("host LOCAL")
            && let Some(address) = last
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// A line of `/proc/net/if_inet6`: address, number, prefix, scope, flags, interface.
fn parse_v6(line: &str) -> Option<(Ipv6Addr, String)> {
    let mut fields = line.split_whitespace();
    let address = u128::from_str_radix(fields.next()?, 16).ok()?;
    Some((address.into(), fields.nth(4)?.to_owned()))
}

/// A line of `/proc/net/ipv6_route`: destination, its prefix, …, interface.
fn is_default_v6(line: &str) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let is_any = fields.first().is_some_and(|to| to.len() == 32 && to.bytes().all(|digit| digit == b'0'));
    is_any && fields.get(1) == Some(&"00") && fields.last().is_some_and(|nic| *nic != "lo")
}

/// Findings on all sources.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    if sources.is_empty() {
        let why = "none is configured in the data folder; name one by --source, or by `sources` in --config";
        return vec![Finding::skipped(Subject::Sources, "source", "addresses", why)];
    }
    sources.iter().flat_map(check_one).collect()
}

fn check_one(source: &Source) -> Vec<Finding> {
    let address = source.wanted.address;
    if address.is_unspecified() {
        let found = Finding::new(Subject::Sources, "source.address", address.to_string(), "the host's choice");
        return vec![
            found.wanted(
                "an address of its own",
                "receivers judge an address by its history: one that is named keeps it",
            ),
        ];
    }
    let mut findings = vec![check_present(source)];
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    findings.push(
        Finding::new(
            Subject::Sources,
            "source.route",
            format!("{address}: way out"),
            if source.routed { "a default route" } else { "no default route" },
        )
        .wanted(format!("a default route for {family}"), "without one most receivers cannot be reached from it")
        .unless(source.routed, Severity::Warning)
        .remedy(|| Remedy::by_hand(format!("ip route add default via GATEWAY for {family}"))),
    );
    findings.push(check_name(source));
    findings
}

fn check_present(source: &Source) -> Finding {
    let address = source.wanted.address;
    let found = match (&source.nic, source.present) {
        (Some(nic), true) => format!("on {nic}"),
        (None, true) => "present".to_owned(),
        (_, false) => "not on this host".to_owned(),
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let nic = source.nic.as_deref().unwrap_or("INTERFACE");
    Finding::new(Subject::Sources, "source.address", address.to_string(), found)
        .wanted("on an interface of this host", "a connection cannot be bound to it, and all mail of the source waits")
        .unless(source.present, Severity::Error)
        .remedy(|| Remedy::by_hand(format!("ip address add {address}/{bits} dev {nic}")))
}

fn check_name(source: &Source) -> Finding {
    let address = source.wanted.address;
    let what = format!("{address}: name (PTR)");
    let skipped = |why: &str| Finding::skipped(Subject::Sources, "source.ptr", what.clone(), why);
    if address.is_loopback() {
        return skipped("loopback has no name that a receiver could look up");
    }
    let names = match &source.names {
        None => return skipped("a recorded host's DNS cannot be asked"),
        Some(Err(error)) => return skipped(error),
        Some(Ok(names)) => names,
    };
    let ehlo = source.wanted.ehlo_name.as_deref();
    let (severity, wanted) = if names.ptr.is_empty() {
        (Severity::Error, "a name")
    } else if names.confirmed.is_empty() {
        (Severity::Warning, "a name whose A or AAAA record is this address")
    } else if ehlo.is_some_and(|ehlo| !names.confirmed.iter().any(|name| name.eq_ignore_ascii_case(ehlo))) {
        (Severity::Advice, "the name that it greets with")
    } else {
        (Severity::Ok, "a name that leads back to the address")
    };
    let found = if names.ptr.is_empty() { "none".to_owned() } else { names.ptr.join(", ") };
    let name = ehlo.unwrap_or("a name of yours");
    Finding::new(Subject::Sources, "source.ptr", what, found)
        .wanted(wanted, "large receivers refuse or distrust mail from an address without a name that leads back to it")
        .severity(severity)
        .remedy(|| {
            Remedy::by_hand(format!(
                "ask who gave you the address to set its PTR record to {name}, whose A or AAAA record is {address}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.0\n        /24 link UNICAST\n     |-- 192.0.2.10\n        /32 host LOCAL\n";
    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\njunk\n";

    fn addresses() -> Addresses {
        let routes: Vec<Route> = ROUTES.lines().filter_map(parse_route).collect();
        Addresses {
            local: local_v4(TRIE).into_iter().map(|address| (address.into(), None)).collect(),
            default_v4: routes.iter().any(|route| route.mask == 0),
            default_v6: false,
            networks: routes
                .into_iter()
                .filter(|route| route.direct)
                .map(|route| (route.nic, route.network, route.mask))
                .collect(),
        }
    }

    fn source(address: &str) -> Source {
        addresses().find(Wanted {
            address: address.parse().expect("an address"),
            ehlo_name: Some("out.example.org".to_owned()),
        })
    }

    #[test]
    fn addresses_are_found_with_their_interface() {
        let here = source("192.0.2.10");
        assert_eq!((here.present, here.nic.as_deref(), here.routed), (true, Some("eth0"), true));
        let near = source("192.0.2.11");
        assert_eq!((near.present, near.nic.as_deref()), (false, Some("eth0")));
        let far = source("2001:db8::1");
        assert_eq!((far.present, far.nic, far.routed), (false, None, false));
        assert_eq!(
            parse_v6("20010db8000000000000000000000001 02 40 00 80 eth0").map(|found| found.1),
            Some("eth0".to_owned())
        );
        assert!(is_default_v6("00000000000000000000000000000000 00 0 0 0 0 0 0 0 eth0"));
    }

    #[test]
    fn an_address_that_is_missing_is_an_error_with_its_command() {
        let findings = check(&[source("192.0.2.11")]);
        assert_eq!(findings[0].severity, Severity::Error);
        assert_eq!(
            findings[0].remedy.as_ref().map(|remedy| remedy.command.as_str()),
            Some("ip address add 192.0.2.11/32 dev eth0")
        );
    }

    #[test]
    fn names_are_judged_by_whether_they_lead_back() {
        let name = |text: &str| vec![text.to_owned()];
        for (ptr, confirmed, severity) in [
            (vec![], vec![], Severity::Error),
            (name("x.example"), vec![], Severity::Warning),
            (name("x.example"), name("x.example"), Severity::Advice),
            (name("out.example.org"), name("Out.example.org"), Severity::Ok),
        ] {
            let names = Some(Ok(Names { ptr, confirmed }));
            assert_eq!(check_name(&Source { names, ..source("192.0.2.10") }).severity, severity);
        }
        assert_eq!(check_name(&source("192.0.2.10")).severity, Severity::Skipped);
    }
}
