//! Who has which address, and what hosts are told of it: a model of what control planes and lease machines do together.
//!
//! ```text
//! free --wanted--> granted (others are told) --> held (on the interface, the host is told)
//!   ^                                              |  wanted elsewhere: the host is told to begin nothing more
//!   |                                              v
//!   +---- taken off the interface <---------- releasing, until its sessions have ended
//!   +------------- lapsed: taken off the interface, since the host is down or cut off and its lease is over
//! ```
//!
//! Invariants worth naming: an address is on one interface at most, and on none between two hosts; what a host was told
//! last holds for [`LEASE`] at most. Deliberately absent: epochs, the store, and clocks that differ (`sim leases`).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrail_core::base::{Instant, Random};
use postrail_core::lease::{Held, Holding};
use postrail_core::transfer::{Neighbour, Neighbours};
use postrail_data_plane::mesh::{Letter, Mesh, Question, Reply};
use postrail_schema::allocation::{HostName, Tenure};
use postrail_schema::ids::ShardId;

use crate::{Failure, NodeId, Sim};

pub(super) struct Fleet {
    random: Random,
    members: Vec<Member>,
    places: Vec<Place>,
    /// What was published lately, the newest last.
    published: VecDeque<Vec<Entry>>,
    permits: Permits,
    moves: u64,
    is_calm: bool,
}

struct Member {
    name: HostName,
    node: NodeId,
    is_up: bool,
    is_leaving: bool,
    is_forgotten: bool,
    cut_until: Instant,
    lags_until: Instant,
    /// Until when what it holds is held.
    until: Instant,
    /// When it is told again what it holds, and what the others are.
    renewed_at: Instant,
    told_at: Instant,
    told: Option<Arc<Neighbours>>,
}

impl Member {
    fn hears(&self, now: Instant) -> bool {
        self.is_up && now >= self.cut_until
    }
}

/// One address.
struct Place {
    address: IpAddr,
    wish: Option<usize>,
    stay: Stay,
    last: Option<usize>,
}

#[derive(Clone, Copy)]
enum Stay {
    Free,
    Granted { to: usize, from: Instant },
    Held { by: usize, since: Instant },
    Releasing { by: usize, since: Instant },
    Lapsed { until: Instant },
}

/// What is published of a host.
#[derive(Clone, PartialEq, Eq)]
struct Entry {
    is_known: bool,
    is_leaving: bool,
    takes: bool,
    addresses: Vec<IpAddr>,
}

/// When which host could use which address: from, until.
#[derive(Default)]
pub(super) struct Permits(BTreeMap<(NodeId, IpAddr), Vec<(Instant, Instant)>>);

impl Permits {
    /// Whether `node` held `address` at any time from `from` to `to`.
    pub(super) fn holds(&self, node: NodeId, address: IpAddr, from: Instant, to: Instant) -> bool {
        let all = self.0.get(&(node, address)).map_or(&[][..], Vec::as_slice);
        all.iter().any(|(begin, end)| *begin <= to && from <= *end)
    }

    pub(super) fn allow(&mut self, node: NodeId, address: IpAddr, now: Instant, until: Instant) {
        let all = self.0.entry((node, address)).or_default();
        match all.last_mut().filter(|(_, end)| *end >= now) {
            Some((_, end)) => *end = until,
            None => all.push((now, until)),
        }
    }

    pub(super) fn end(&mut self, node: NodeId, address: IpAddr, now: Instant) {
        if let Some((_, end)) = self.0.get_mut(&(node, address)).and_then(|all| all.last_mut()) {
            *end = now.min(*end);
        }
    }
}

impl Fleet {
    pub(super) fn new(random: Random, hosts: impl Iterator<Item = (String, NodeId)>, addresses: &[IpAddr]) -> Self {
        let member = |(name, node)| Member {
            name: HostName::new(name).expect("hosts here have plain names"),
            node,
            is_up: false,
            is_leaving: false,
            is_forgotten: false,
            cut_until: Instant::ZERO,
            lags_until: Instant::ZERO,
            until: Instant::ZERO,
            renewed_at: Instant::ZERO,
            told_at: Instant::ZERO,
            told: None,
        };
        let place = |address: &IpAddr| Place { address: *address, wish: None, stay: Stay::Free, last: None };
        Self {
            random,
            members: hosts.map(member).collect(),
            places: addresses.iter().map(place).collect(),
            published: VecDeque::new(),
            permits: Permits::default(),
            moves: 0,
            is_calm: false,
        }
    }

    pub(super) const fn permits(&self) -> &Permits {
        &self.permits
    }

    /// Addresses that came to another host.
    pub(super) const fn moves(&self) -> u64 {
        self.moves
    }

    pub(super) fn is_leaving(&self, host: usize) -> bool {
        self.members[host].is_leaving
    }

    /// Where an address is wanted from now on; never at a host that is emptied.
    pub(super) fn wish(&mut self, address: usize, to: Option<usize>) {
        self.places[address].wish = to.filter(|to| !self.members[*to].is_leaving);
    }

    pub(super) fn cut(&mut self, host: usize, until: Instant) {
        self.members[host].cut_until = until;
    }

    pub(super) fn lag(&mut self, host: usize, until: Instant) {
        self.members[host].lags_until = until;
    }

    /// A host is to be emptied; its addresses go to others.
    pub(super) fn leave(&mut self, host: usize) {
        self.members[host].is_leaving = true;
        self.settle_wishes(|wish| wish == Some(host));
    }

    pub(super) fn come_back(&mut self, host: usize) {
        self.members[host].is_leaving = false;
    }

    pub(super) fn forget(&mut self, host: usize) {
        self.members[host].is_forgotten = true;
    }

    pub(super) fn began(&mut self, host: usize, now: Instant) {
        let wait = Duration::from_millis(self.random.below(3_000));
        let member = &mut self.members[host];
        (member.is_up, member.is_forgotten, member.told) = (true, false, None);
        (member.renewed_at, member.told_at) = (now + wait, now + wait);
    }

    pub(super) fn ended(&mut self, host: usize, now: Instant) {
        self.members[host].is_up = false;
        for place in &self.places {
            self.permits.end(self.members[host].node, place.address, now);
        }
    }

    /// Every address is wanted somewhere, and what is told is true and comes soon.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        for member in &mut self.members {
            (member.cut_until, member.lags_until) = (Instant::ZERO, Instant::ZERO);
        }
        self.settle_wishes(|wish| wish.is_none());
    }

    /// Draws other hosts for the addresses of which `is_meant` says so.
    fn settle_wishes(&mut self, is_meant: impl Fn(Option<usize>) -> bool) {
        let staying: Vec<usize> = (0..self.members.len()).filter(|host| !self.members[*host].is_leaving).collect();
        for place in self.places.iter_mut().filter(|place| is_meant(place.wish)) {
            place.wish = staying.get(self.random.below(staying.len() as u64) as usize).copied();
        }
    }

    /// Brings addresses on their way, and tells hosts what there is to tell. `meshes`: the way to each host that is up.
    pub(super) fn tick(&mut self, sim: &Sim, asker: NodeId, meshes: &[Option<Mesh>]) -> Result<(), Failure> {
        let now = sim.now();
        for place in 0..self.places.len() {
            self.move_on(place, sim, asker, meshes)?;
        }
        self.publish(now);
        for (host, mesh) in meshes.iter().enumerate() {
            let Some(mesh) = mesh.as_ref().filter(|_| self.members[host].hears(now)) else { continue };
            if now >= self.members[host].renewed_at {
                self.renew(host, mesh, now);
            }
            if now >= self.members[host].told_at && now >= self.members[host].lags_until {
                self.tell(host, mesh, now);
            }
        }
        Ok(())
    }

    fn move_on(&mut self, at: usize, sim: &Sim, asker: NodeId, meshes: &[Option<Mesh>]) -> Result<(), Failure> {
        let (now, wish, address) = (sim.now(), self.places[at].wish, self.places[at].address);
        self.places[at].stay = match self.places[at].stay {
            Stay::Free => match wish.filter(|to| self.members[*to].hears(now)) {
                Some(to) => Stay::Granted { to, from: now + Duration::from_millis(self.random.below(3_000)) },
                None => Stay::Free,
            },
            Stay::Granted { to, .. } if wish != Some(to) || !self.members[to].hears(now) => Stay::Free,
            Stay::Granted { to, from } if now >= from => {
                sim.bring_address(self.members[to].node, address);
                self.moves += u64::from(self.places[at].last.replace(to).is_some_and(|last| last != to));
                self.members[to].renewed_at = now;
                self.members[to].until = self.members[to].until.max(now + LEASE);
                Stay::Held { by: to, since: now }
            }
            Stay::Held { by, .. } | Stay::Releasing { by, .. } if now >= self.members[by].until => {
                sim.take_address(address);
                Stay::Lapsed { until: self.members[by].until + MARGIN }
            }
            Stay::Lapsed { until } if now >= until => Stay::Free,
            Stay::Held { by, .. } if wish != Some(by) && self.members[by].hears(now) => {
                self.members[by].renewed_at = now;
                Stay::Releasing { by, since: now }
            }
            Stay::Releasing { by, since } if now > since => {
                let mesh = meshes[by].clone();
                let sessions = async move { mesh?.ask(ShardId(0), Question::Sessions(address)).await };
                let is_idle = matches!(sim.run(asker, sessions)?, Some(Reply::Affected(0)));
                if is_idle || now >= since + RELEASE {
                    sim.take_address(address);
                    Stay::Free
                } else {
                    Stay::Releasing { by, since }
                }
            }
            stay => stay,
        };
        Ok(())
    }

    /// Tells a host what it holds for the time of a lease.
    fn renew(&mut self, host: usize, mesh: &Mesh, now: Instant) {
        let mut held = BTreeMap::new();
        let until = now + LEASE;
        for place in &self.places {
            match place.stay {
                Stay::Held { by, since } if by == host => {
                    let since = Duration::from_nanos(since.nanos());
                    held.insert(place.address, Holding { epoch: 1, tenure: Tenure::Leased, since });
                    self.permits.allow(self.members[host].node, place.address, now, until);
                }
                _ => self.permits.end(self.members[host].node, place.address, now),
            }
        }
        (self.members[host].until, self.members[host].renewed_at) = (until, now + RENEWAL);
        let held = Held { until: Duration::from_nanos(until.nanos()), addresses: Arc::new(held) };
        mesh.send(ShardId(0), Letter::Held(held));
    }

    fn publish(&mut self, now: Instant) {
        let entry = |(host, member): (usize, &Member)| {
            let is_its = |place: &&Place| match place.stay {
                Stay::Granted { to, .. } => to == host,
                Stay::Held { by, .. } | Stay::Releasing { by, .. } => by == host,
                Stay::Free | Stay::Lapsed { .. } => false,
            };
            Entry {
                is_known: !member.is_forgotten,
                is_leaving: member.is_leaving,
                takes: !member.is_leaving && now < member.until,
                addresses: self.places.iter().filter(is_its).map(|place| place.address).collect(),
            }
        };
        let entries: Vec<Entry> = self.members.iter().enumerate().map(entry).collect();
        if self.published.len() == PUBLISHED_MAX {
            self.published.pop_front();
        }
        self.published.push_back(entries);
    }

    /// Tells a host of the others: late, or wrong, while the storm lasts.
    fn tell(&mut self, host: usize, mesh: &Mesh, now: Instant) {
        let is_late = !self.is_calm && self.random.chance(30);
        let back = if is_late { self.random.below(self.published.len() as u64) as usize } else { 0 };
        let mut entries = self.published[self.published.len() - 1 - back].clone();
        if !self.is_calm && self.random.chance(5) {
            let first = entries[0].addresses.clone();
            let last = entries.len() - 1;
            entries[0].addresses = std::mem::replace(&mut entries[last].addresses, first);
        }
        let others = entries.iter().enumerate().filter(|(number, entry)| *number != host && entry.is_known);
        let neighbour = |(number, entry): (usize, &Entry)| Neighbour {
            name: self.members[number].name.clone(),
            takes: entry.takes,
            addresses: entry.addresses.iter().copied().collect(),
        };
        let neighbours = Arc::new(Neighbours {
            is_leaving: entries[host].is_leaving,
            has_addresses: !entries[host].addresses.is_empty(),
            is_other_kept: others.clone().any(|(_, entry)| entry.is_leaving && !entry.addresses.is_empty()),
            hosts: others.map(neighbour).collect(),
        });
        let wait = if self.is_calm { 500 } else { 200 + self.random.below(5_000) };
        let member = &mut self.members[host];
        member.told_at = now + Duration::from_millis(wait);
        if member.told.as_ref() != Some(&neighbours) {
            member.told = Some(Arc::clone(&neighbours));
            mesh.send(ShardId(0), Letter::Neighbours(neighbours));
        }
    }
}

/// How long what a host was told holds, how often it is told, and what passes after it until another may have its addresses.
const LEASE: Duration = Duration::from_secs(10);
const RENEWAL: Duration = Duration::from_secs(3);
const MARGIN: Duration = Duration::from_secs(2);
/// How long the sessions of an address that is wanted elsewhere may take to end.
const RELEASE: Duration = Duration::from_secs(30);
/// How far back what a host is told may be, ticks.
const PUBLISHED_MAX: usize = 40;
