//! Where each address should be.
//!
//! Three rounds, each in a fixed order:
//! 1. *keep*: an address stays where it is while its constraints admit the host and the host has room,
//! 2. *place*: the others go, those with the fewest possible hosts first, each to the host that it makes least heavy;
//!    where all of those are full, as few others as possible move on to make room,
//! 3. *level*: only when nothing had to be placed, some addresses move to hosts that have less, such as a new one.
//!
//! So the loss of a host moves its addresses and no others, and a new host takes only what levels the spread.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postrail_schema::allocation::HostName;
use postrail_schema::problem::{Problem, Severity};

use super::board::{Board, Gain, Index, Refusal, refusal};
use super::{Demand, Fleet, Host, HostStanding};

/// What [`assign`] gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// Addresses that have a host.
    pub targets: BTreeMap<IpAddr, HostName>,
    /// One for each address that has none, or that cannot leave a host that drains; and where what hosts have by their
    /// own configuration contradicts itself or a source.
    pub problems: Vec<Problem>,
}

/// Deals the addresses of `fleet` to its hosts, where `present` says who has what. At most `moves_max` of them move for
/// an even spread only.
pub fn assign(fleet: &Fleet, present: &BTreeMap<IpAddr, HostName>, moves_max: usize) -> Assignment {
    let mut board = Board::new(fleet);
    keep(&mut board, present);
    let mut open: Vec<Index> = (0..board.at.len()).filter(|address| board.at[*address].is_none()).collect();
    if open.is_empty() {
        level(&mut board, moves_max);
    } else {
        let possible = |address| (0..board.hosts.len()).filter(|host| board.accepts(address, *host)).count();
        open.sort_by_cached_key(|address| (possible(*address), -board.weight(*address), *address));
        for address in open {
            place(&mut board, address);
        }
    }
    outcome(fleet, &board, present)
}

fn keep(board: &mut Board<'_>, present: &BTreeMap<IpAddr, HostName>) {
    for address in 0..board.addresses.len() {
        let Some(holder) = present.get(&board.addresses[address].0) else { continue };
        let Ok(host) = board.hosts.binary_search_by(|(name, _)| (*name).cmp(holder)) else { continue };
        if board.admits(address, host) && board.has_room(host) {
            board.put(address, host);
        }
    }
}

fn place(board: &mut Board<'_>, address: Index) {
    let hosts = (0..board.hosts.len()).filter(|host| board.accepts(address, *host) && board.has_room(*host));
    match hosts.min_by_key(|host| board.cost(address, *host)) {
        Some(host) => board.put(address, host),
        // Whether it succeeds is seen from the board.
        None => drop(board.squeeze(address)),
    }
}

fn level(board: &mut Board<'_>, moves_max: usize) {
    let mut moved = BTreeSet::new();
    while moved.len() < moves_max {
        let mut best: Option<(Gain, Index, Index)> = None;
        for address in (0..board.addresses.len()).filter(|address| !moved.contains(address)) {
            for host in 0..board.hosts.len() {
                if board.at[address] == Some(host) || !board.has_room(host) || !board.accepts(address, host) {
                    continue;
                }
                if let Some(gain) = board.gain(address, host)
                    && best.is_none_or(|(most, ..)| gain > most)
                {
                    best = Some((gain, address, host));
                }
            }
        }
        let Some((_, address, host)) = best else { return };
        board.put(address, host);
        moved.insert(address);
    }
}

fn outcome(fleet: &Fleet, board: &Board<'_>, present: &BTreeMap<IpAddr, HostName>) -> Assignment {
    let mut targets = BTreeMap::new();
    let mut problems = Vec::new();
    for ((address, demand), at) in board.addresses.iter().zip(&board.at) {
        problems.extend(owned(*address, demand));
        if let Some(host) = at {
            targets.insert(*address, board.hosts[*host].0.clone());
            continue;
        }
        let holder = present
            .get(address)
            .filter(|holder| fleet.hosts.get(*holder).is_some_and(|host| host.standing == HostStanding::Draining));
        problems.push(without_host(fleet, *address, demand, holder));
    }
    Assignment { targets, problems }
}

/// What is wrong with who has an address by its own configuration.
fn owned(address: IpAddr, demand: &Demand) -> Option<Problem> {
    let names = || {
        let mut names: Vec<String> = demand.owners.iter().take(NAMED_MAX).map(HostName::to_string).collect();
        if let more @ 1.. = demand.owners.len().saturating_sub(NAMED_MAX) {
            names.push(format!("{more} more"));
        }
        names.join(", ")
    };
    let (code, detail) = match &demand.fixed {
        Some(fixed) if !demand.owners.is_empty() && !demand.owners.contains(fixed) => {
            let detail = format!(
                "its source names {fixed} as its host, but it is on an interface of {0} by the configuration there, so \
                 nobody is given it: take it off there, or name {0} at the source",
                names()
            );
            ("address_is_another_hosts", detail)
        }
        _ if demand.owners.len() > 1 => {
            let detail = format!(
                "it is on interfaces of {} by the configuration there, and what is sent to it may come to either: take it \
                 off all but one, `host forget` those that are off for good, or say `routed` at its source if the network \
                 brings it to one of them",
                names()
            );
            ("address_on_two_hosts", detail)
        }
        _ => return None,
    };
    Some(Problem { severity: Severity::Warning, code, subject: format!("address/{address}"), detail })
}

fn without_host(fleet: &Fleet, address: IpAddr, demand: &Demand, drains: Option<&HostName>) -> Problem {
    let (code, begin) = match drains {
        Some(host) => ("drain_blocked", format!("it stays on {host}, which drains: no other host may have it")),
        None => ("address_without_host", "no host may have it, and its mail waits".to_owned()),
    };
    let others = fleet.hosts.iter().filter(|(name, _)| Some(*name) != drains);
    let mut reasons = named(others.map(|(name, host)| (name, why_not(demand, name, host))));
    if reasons.is_empty() {
        reasons.push("there is no other host".to_owned());
    }
    Problem {
        severity: Severity::Warning,
        code,
        subject: format!("address/{address}"),
        detail: format!("{begin} ({})", reasons.join("; ")),
    }
}

/// How many hosts beside `holder` may have an address, and why the others may not.
pub(super) fn reasons(fleet: &Fleet, demand: &Demand, holder: &HostName) -> (usize, Vec<String>) {
    let others = || fleet.hosts.iter().filter(|(name, _)| *name != holder);
    let may = others().filter(|(name, host)| refused(demand, name, host).is_none()).count();
    (may, named(others().filter_map(|(name, host)| Some((name, refused(demand, name, host)?)))))
}

/// The first hosts with what is said of each, and how many more there are.
fn named<'a>(said: impl Iterator<Item = (&'a HostName, Refusal<'a>)>) -> Vec<String> {
    let mut said: Vec<String> = said.map(|(name, words)| format!("{name} {words}")).collect();
    if let more @ 1.. = said.len().saturating_sub(NAMED_MAX) {
        said.truncate(NAMED_MAX);
        said.push(format!("{more} more likewise"));
    }
    said
}

fn why_not<'a>(demand: &'a Demand, name: &HostName, host: &'a Host) -> Refusal<'a> {
    refused(demand, name, host).unwrap_or(Refusal::Said("has no room for one more address"))
}

/// Why a host may not be given an address that it does not have, if so.
fn refused<'a>(demand: &'a Demand, name: &HostName, host: &'a Host) -> Option<Refusal<'a>> {
    let is_quiet = || (host.standing == HostStanding::Quiet).then_some(Refusal::Said("is starting or stopping"));
    refusal(demand, name, host).or_else(is_quiet)
}

/// Hosts that a finding names one by one.
const NAMED_MAX: usize = 3;
