//! Sources, pools and routes: what mail leaves by.

use std::collections::BTreeSet;
use std::net::IpAddr;

use postrail_schema::allocation::{Carrier, HostNeeds};
use postrail_schema::limits::{CAPABILITIES_MAX, POOL_MEMBERS_MAX};
use postrail_schema::snapshot::{EgressPool, EgressSource, PoolMember, Route, TrafficClass};

use super::{App, AppError, Precondition, names};
use crate::plan::{Desired, PoolEntry, RouteEntry, SourceEntry};

/// A source to make, or to replace under its name.
#[derive(Clone, Debug)]
pub(crate) struct NewSource {
    pub name: String,
    pub address: IpAddr,
    pub ehlo_name: String,
    pub needs: NewNeeds,
}

/// What a source asks of the host that has its address.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewNeeds {
    pub nic: Option<String>,
    pub routed: bool,
    pub host: Option<String>,
    pub capabilities: Vec<String>,
}

/// A pool to make, or to replace under its name.
#[derive(Clone, Debug)]
pub(crate) struct NewPool {
    pub name: String,
    /// By name; `None`: shared.
    pub tenant: Option<String>,
    /// Sources by name, with weights.
    pub members: Vec<(String, u32)>,
    /// What it carries; empty: all.
    pub classes: BTreeSet<TrafficClass>,
}

/// A route to make or to replace.
#[derive(Clone, Debug)]
pub(crate) struct NewRoute {
    /// A recipient domain or `*`.
    pub domain: String,
    pub routing_domain: Option<String>,
    pub port: u16,
    pub allow_private: bool,
}

impl App {
    /// Makes a source, or with `replace` changes the one of that name, if that holds.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), or a value is malformed.
    pub(crate) fn put_source(&self, new: &NewSource, replace: Option<&Precondition>) -> Result<EgressSource, AppError> {
        let name = names::slug("/name", &new.name)?;
        let address = checked_source(new.address)?;
        let ehlo_name = names::domain("/ehlo_name", &new.ehlo_name, true)?;
        let needs = needs(&new.needs)?;
        self.change(|draft| {
            let id = match (draft.desired.source(&name), replace) {
                (Some(source), Some(when)) => {
                    when.check(&SourceEntry::of(source))?;
                    source.id
                }
                (None, None) => draft.counters().next_source(),
                (Some(_), None) => return Err(AppError::conflict(format!("source {name} exists"))),
                (None, Some(_)) => return Err(AppError::not_found("source", &*name)),
            };
            let (name, ehlo_name, needs) = (name.clone(), ehlo_name.clone(), needs.clone());
            let source = EgressSource { id, name, address, ehlo_name, needs };
            draft.put(source.clone())?;
            Ok(source)
        })
    }

    /// # Errors
    /// It does not exist, or a pool holds it.
    pub(crate) fn delete_source(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            let source = draft.desired.source(name).ok_or_else(|| AppError::not_found("source", name))?;
            when.check(&SourceEntry::of(source))?;
            let id = source.id;
            draft.delete::<EgressSource>(&id);
            Ok(())
        })
    }

    /// Makes a pool, or with `replace` changes the one of that name, if that holds.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), or tenant or sources do not exist.
    pub(crate) fn put_pool(&self, new: &NewPool, replace: Option<&Precondition>) -> Result<EgressPool, AppError> {
        let name = names::slug("/name", &new.name)?;
        if new.members.len() > POOL_MEMBERS_MAX {
            return Err(AppError::invalid("/members", format!("a pool has at most {POOL_MEMBERS_MAX} sources")));
        }
        self.change(|draft| {
            let tenant = new.tenant.as_deref().map(|tenant| draft.tenant(tenant).map(|found| found.id)).transpose()?;
            let members = members(&draft.desired, &new.members)?;
            let id = match (draft.desired.pool(&name), replace) {
                (Some(pool), Some(when)) => {
                    when.check(&PoolEntry::of(&draft.desired, pool))?;
                    pool.id
                }
                (None, None) => draft.counters().next_pool(),
                (Some(_), None) => return Err(AppError::conflict(format!("pool {name} exists"))),
                (None, Some(_)) => return Err(AppError::not_found("pool", &*name)),
            };
            let pool = EgressPool { id, name: name.clone(), tenant, members, classes: new.classes.clone() };
            draft.put(pool.clone())?;
            Ok(pool)
        })
    }

    /// # Errors
    /// It does not exist, or a domain needs it.
    pub(crate) fn delete_pool(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            let pool = draft.desired.pool(name).ok_or_else(|| AppError::not_found("pool", name))?;
            when.check(&PoolEntry::of(&draft.desired, pool))?;
            let id = pool.id;
            draft.delete::<EgressPool>(&id);
            Ok(())
        })
    }

    /// Makes or replaces a route.
    ///
    /// # Errors
    /// A value is malformed, or what is to be replaced is not there, or not as the caller has read it.
    pub(crate) fn put_route(&self, new: &NewRoute, when: &Precondition) -> Result<Route, AppError> {
        let domain = route_domain(&new.domain)?;
        let routing_domain =
            new.routing_domain.as_deref().map(|name| names::domain("/routing_domain", name, true)).transpose()?;
        let port = checked_port(new.port)?;
        let route = Route { domain, routing_domain, port, allow_private: new.allow_private };
        self.change(|draft| {
            match draft.desired.routes.get(&route.domain) {
                Some(is) => when.check(&RouteEntry::of(is))?,
                None if when.is_empty() => {}
                None => return Err(AppError::not_found("route", &*route.domain)),
            }
            draft.put(route.clone())
        })?;
        Ok(route)
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_route(&self, domain: &str, when: &Precondition) -> Result<(), AppError> {
        let domain = &route_asked(domain)?;
        self.change(|draft| {
            let route = draft.desired.routes.get(domain).ok_or_else(|| AppError::not_found("route", domain))?;
            when.check(&RouteEntry::of(route))?;
            draft.delete::<Route>(&domain.to_owned());
            Ok(())
        })
    }
}

/// An address that mail can be sent from.
pub(super) fn checked_source(address: IpAddr) -> Result<IpAddr, AppError> {
    let fault = match address {
        IpAddr::V4(v4) if v4.is_multicast() => "a group's address",
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => "reserved (RFC 1112 section 4)",
        IpAddr::V6(v6) if v6.is_multicast() => "a group's address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "of one link, which no receiver is on",
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => return Err(AppError::invalid("/address", format!("write it as {v4}"))),
            None => return Ok(address),
        },
        IpAddr::V4(_) => return Ok(address),
    };
    Err(AppError::invalid("/address", format!("mail cannot be sent from {address}: it is {fault}")))
}

pub(super) fn needs(new: &NewNeeds) -> Result<HostNeeds, AppError> {
    let carrier = match (&new.nic, new.routed) {
        (Some(_), true) => return Err(AppError::invalid("/routed", "an address that is routed is on no interface")),
        (Some(nic), false) => Carrier::Nic(names::interface("/nic", nic)?),
        (None, true) => Carrier::Routed,
        (None, false) => Carrier::HostChoice,
    };
    if new.capabilities.len() > CAPABILITIES_MAX {
        return Err(AppError::invalid("/capabilities", format!("at most {CAPABILITIES_MAX} may be asked for")));
    }
    Ok(HostNeeds {
        carrier,
        host: new.host.as_deref().map(|host| names::host("/host", host)).transpose()?,
        capabilities: new
            .capabilities
            .iter()
            .map(|word| names::slug("/capabilities", word))
            .collect::<Result<_, _>>()?,
    })
}

pub(super) fn route_domain(text: &str) -> Result<String, AppError> {
    if text == "*" { Ok(text.to_owned()) } else { names::domain("/domain", text, true) }
}

/// The domain of a route that is asked for: in the form in which it is kept.
pub(crate) fn route_asked(text: &str) -> Result<String, AppError> {
    route_domain(text).map_err(|_| AppError::not_found("route", text))
}

pub(super) fn checked_port(port: u16) -> Result<u16, AppError> {
    if port == 0 { Err(AppError::invalid("/port", "a port is 1 to 65,535")) } else { Ok(port) }
}

pub(super) fn checked_weight(weight: u32) -> Result<u32, AppError> {
    if (1..=1_000).contains(&weight) {
        return Ok(weight);
    }
    Err(AppError::invalid("/weight", "a weight is 1 to 1,000"))
}

fn members(desired: &Desired, named: &[(String, u32)]) -> Result<Vec<PoolMember>, AppError> {
    let mut members: Vec<PoolMember> = Vec::with_capacity(named.len());
    for (at, (name, weight)) in named.iter().enumerate() {
        let place = |field: &str| format!("/members/{at}/{field}");
        let source = desired.source(name);
        let source =
            source.ok_or_else(|| AppError::invalid(place("source"), format!("source {name} does not exist")))?.id;
        if members.iter().any(|member| member.source == source) {
            return Err(AppError::invalid(place("source"), format!("source {name} occurs twice")));
        }
        let weight = checked_weight(*weight).map_err(|error| AppError::invalid(place("weight"), error.to_string()))?;
        members.push(PoolMember { source, weight });
    }
    Ok(members)
}
