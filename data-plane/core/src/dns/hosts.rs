//! From answers to [`MailHosts`]: pure decisions over what is known about an MX set and its hosts.

use std::net::IpAddr;
use std::rc::Rc;

use aws_lc_rs::digest;
use postrail_schema::limits::{HOST_ADDRESSES_MAX, SITE_NAME_BYTES_MAX};

use super::cache::{Facts, Known};
use super::reach::is_public;
use super::{DnsFailure, HostRule, MailHost, MailHosts, ResolverConfig, SiteName};
use crate::base::Instant;
use crate::mail::Domain;

/// A host of the MX set with what is known about its addresses.
pub(super) struct Candidate {
    pub(super) preference: u16,
    pub(super) name: Domain,
    pub(super) v4: Rc<Known>,
    pub(super) v6: Rc<Known>,
}

/// The hosts to ask addresses of, from the answer to the MX question; an implicit MX where there is none
/// (RFC 5321 section 5.1).
///
/// # Errors
/// Why no host takes mail for `domain`.
pub(super) fn exchangers(domain: &Domain, mx: &Known, own_names: &[Domain]) -> Result<Vec<(u16, Domain)>, DnsFailure> {
    let mut hosts = match &mx.facts {
        Facts::Exchanges { hosts, null: true } if hosts.is_empty() => return Err(DnsFailure::NullMx),
        Facts::Exchanges { hosts, .. } if hosts.is_empty() => return Err(DnsFailure::NoAddress),
        Facts::Exchanges { hosts, .. } => hosts.clone(),
        Facts::NoName => return Err(DnsFailure::NoSuchDomain),
        Facts::Failed(reason) => return Err(DnsFailure::Temporary(reason.clone())),
        Facts::NoData | Facts::Addresses(_) | Facts::Alias(_) => vec![(0, domain.clone())],
    };
    if let Some(own) = hosts.iter().find(|(_, name)| own_names.contains(name)).map(|(preference, _)| *preference) {
        hosts.retain(|(preference, _)| *preference < own);
    }
    if hosts.is_empty() { Err(DnsFailure::Loop) } else { Ok(hosts) }
}

/// The hosts that may be connected to. `candidates` are sorted by preference.
///
/// # Errors
/// Why there is none: a host that failed for now outweighs those that failed for good.
pub(super) fn choose(
    mx: &Known,
    mut candidates: Vec<Candidate>,
    rule: HostRule,
    config: &ResolverConfig,
) -> Result<MailHosts, DnsFailure> {
    let is_own = |candidate: &Candidate| {
        candidate.answers().any(|known| addresses(known).iter().any(|at| config.own_addresses.contains(at)))
    };
    if !rule.allow_private
        && let Some(own) = candidates.iter().find(|candidate| is_own(candidate)).map(|own| own.preference)
    {
        candidates.retain(|candidate| candidate.preference < own);
        if candidates.is_empty() {
            return Err(DnsFailure::Loop);
        }
    }
    let mut expires = mx.expires;
    let mut secure = mx.secure;
    let mut refusal = DnsFailure::NoAddress;
    let mut hosts = Vec::new();
    for candidate in &candidates {
        for known in candidate.answers() {
            expires = expires.min(known.expires);
            secure &= known.secure;
            match &known.facts {
                Facts::Failed(reason) => refusal = DnsFailure::Temporary(reason.clone()),
                Facts::Addresses(_) if !refusal.is_permanent() => {}
                Facts::Addresses(_) => refusal = DnsFailure::Forbidden,
                _ => {}
            }
        }
        let addresses = usable(candidate, rule);
        if !addresses.is_empty() {
            hosts.push(MailHost { name: candidate.name.clone(), preference: candidate.preference, addresses });
        }
    }
    if hosts.is_empty() {
        return Err(refusal);
    }
    Ok(MailHosts { site: site(candidates.iter().map(|candidate| &candidate.name)), hosts, secure, expires })
}

/// The mail host that an address literal names (RFC 5321 section 4.1.3).
///
/// # Errors
/// [`DnsFailure::Loop`] or [`DnsFailure::Forbidden`], by `rule`.
pub(super) fn literal(
    domain: &Domain,
    address: IpAddr,
    rule: HostRule,
    config: &ResolverConfig,
    expires: Instant,
) -> Result<MailHosts, DnsFailure> {
    if !rule.allow_private {
        if config.own_addresses.contains(&address) {
            return Err(DnsFailure::Loop);
        }
        if !is_public(address) {
            return Err(DnsFailure::Forbidden);
        }
    }
    let host = MailHost { name: domain.clone(), preference: 0, addresses: vec![address] };
    Ok(MailHosts { site: SiteName(domain.as_str().into()), hosts: vec![host], secure: false, expires })
}

impl Candidate {
    fn answers(&self) -> impl Iterator<Item = &Rc<Known>> {
        [&self.v6, &self.v4].into_iter()
    }
}

fn addresses(known: &Known) -> &[IpAddr] {
    match &known.facts {
        Facts::Addresses(addresses) => addresses,
        _ => &[],
    }
}

/// The addresses of a host that may be connected to, both families in turn so that the bound starves neither.
fn usable(candidate: &Candidate, rule: HostRule) -> Vec<IpAddr> {
    let allowed = |at: &&IpAddr| rule.allow_private || is_public(**at);
    let mut v6 = addresses(&candidate.v6).iter().filter(allowed);
    let mut v4 = addresses(&candidate.v4).iter().filter(allowed);
    let mut chosen = Vec::new();
    while chosen.len() < HOST_ADDRESSES_MAX {
        let before = chosen.len();
        chosen.extend(v6.next());
        if chosen.len() < HOST_ADDRESSES_MAX {
            chosen.extend(v4.next());
        }
        if chosen.len() == before {
            break;
        }
    }
    chosen
}

/// The name of a set of hosts, whatever their order.
fn site<'a>(names: impl Iterator<Item = &'a Domain>) -> SiteName {
    let mut sorted: Vec<&str> = names.map(Domain::as_str).collect();
    sorted.sort_unstable();
    let joined = sorted.join(",");
    if joined.len() <= SITE_NAME_BYTES_MAX {
        return SiteName(joined.into());
    }
    let hash = digest::digest(&digest::SHA256, joined.as_bytes());
    let short: String = hash.as_ref().iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    SiteName(format!("{}+{}-{short}", sorted[0], sorted.len() - 1).into())
}
