//! One run: true time, what is under way, and what is checked after each thing that happens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use postrail_control_plane::allocation::{Demand, Portion};
use postrail_core::base::Random;
use postrail_core::lease::Input;
use postrail_schema::allocation::{Announcement, HostName, Order};
use postrail_schema::ids::PoolId;
use postrail_schema::limits::{ADDRESS_KEEPALIVES, ADDRESS_LEASE};

use super::clock::Clock;
use super::control::Control;
use super::faults::{Fault, Node, Way, below, draw, draw_restores};
use super::host::{Effect, Host};
use super::store::{Answer, Request, Store};
use super::{Outcome, Plan};
use crate::trace::{Step, Trace};

mod check;
mod messages;

pub(super) struct World {
    random: Random,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    store: Store,
    hosts: Vec<Host>,
    controls: Vec<Control>,
    demands: BTreeMap<IpAddr, Demand>,
    /// Addresses that must not leave [`REGION`], whether they are wanted at present or not.
    regional: BTreeSet<IpAddr>,
    orders: BTreeMap<HostName, Order>,
    troubles: Vec<Trouble>,
    plan: Plan,
    /// The last use of each address: machine and epoch.
    used: BTreeMap<IpAddr, (usize, u64)>,
    /// Epochs are given anew by a store that was restored.
    is_restored: bool,
    /// Of control planes to the store.
    question: u64,
    /// Addresses whose first use by another than that machine is waited for.
    awaited: BTreeMap<IpAddr, usize>,
    taken: Duration,
    violations: Vec<String>,
    moves: u64,
    starts: u64,
    takeover: Option<Duration>,
    trace: Trace,
}

/// What lasts for a while.
struct Trouble {
    until: Duration,
    kind: TroubleKind,
}

enum TroubleKind {
    Cut(Node, Way),
    Slow(Node, Duration),
    Interface,
}

enum Event {
    Wake {
        host: usize,
        life: u64,
    },
    /// A request comes to the store.
    Arrive {
        from: Node,
        life: u64,
        id: u64,
        /// Which of the store's lives it was sent in.
        store: u64,
        request: Request,
    },
    Reply {
        to: Node,
        life: u64,
        id: u64,
        answer: Answer,
    },
    /// A host's grants have changed.
    Watch {
        host: usize,
        life: u64,
    },
    NoAnswer {
        host: usize,
        life: u64,
        id: u64,
    },
    Nic {
        host: usize,
        life: u64,
        address: IpAddr,
        is_up: bool,
    },
    Ended {
        host: usize,
        life: u64,
        address: IpAddr,
        epoch: u64,
    },
    /// A host starts what it may.
    Start {
        host: usize,
    },
    Tick {
        control: usize,
        life: u64,
    },
    Fault(Fault),
    Begin {
        host: usize,
    },
    BeginControl {
        control: usize,
    },
    Undrain {
        host: usize,
    },
    Want {
        address: IpAddr,
    },
    Unfix {
        address: IpAddr,
    },
}

/// How long a storm lasts, how long what it began may last, and how long the calm after it is.
const STORM: Duration = Duration::from_secs(100);
const AFTERMATH: Duration = Duration::from_secs(40);
const CALM: Duration = Duration::from_secs(150);
const TICK: Duration = Duration::from_millis(300);
/// The store's lease of the leading control plane: shorter than the hosts', so that a successor leads when they end.
const LEADER_LEASE: Duration = Duration::from_secs(5);
/// When an address that a host has already is wanted first: nobody knows what a host has before it has spoken once.
const OWN_WANTED: Duration = Duration::from_secs(8);
/// The region of some addresses and hosts.
const REGION: &str = "north";
/// A control plane waits so long for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Violations that one run tells.
const VIOLATIONS_MAX: usize = 5;

impl World {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let mut random = Random::new(seed);
        let mut world = Self {
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            store: Store::new(LEADER_LEASE),
            hosts: Vec::new(),
            controls: (0..2).map(|_| Control::new(Clock::new(&mut random))).collect(),
            demands: BTreeMap::new(),
            regional: BTreeSet::new(),
            orders: BTreeMap::new(),
            troubles: Vec::new(),
            plan,
            used: BTreeMap::new(),
            is_restored: false,
            question: 0,
            awaited: BTreeMap::new(),
            taken: Duration::ZERO,
            violations: Vec::new(),
            moves: 0,
            starts: 0,
            takeover: None,
            trace: Trace::new(seed),
            random,
        };
        let has_regions = world.random.chance(50);
        for host in 0..2 + world.random.below(3) as usize {
            // The first is in the region, so that somebody may have its addresses in the end.
            let is_within = host == 0 || world.random.chance(50);
            let region = has_regions.then(|| if is_within { REGION } else { "elsewhere" }.to_owned());
            world.add_host(host, &format!("h{host}"), region);
        }
        for number in 0..1 + world.random.below(6) {
            let pools = vec![(PoolId(1), 1 + world.random.below(3) as u32)];
            let address = [192, 0, 2, number as u8 + 1].into();
            if has_regions && world.random.chance(50) {
                world.regional.insert(address);
            }
            world.demands.insert(address, world.demand(address, pools));
        }
        if world.random.chance(50) {
            // Not the first: it may have a twin, which would have its addresses as well.
            let host = 1 + world.random.below(world.hosts.len() as u64 - 1) as usize;
            let address = IpAddr::from([192, 0, 1, 1]);
            world.hosts[host].announcement.own.insert(address);
            world.after(OWN_WANTED, Event::Want { address });
        }
        for control in 0..world.controls.len() {
            world.after(Duration::from_millis(10), Event::Tick { control, life: 0 });
        }
        world
    }

    fn demand(&self, address: IpAddr, pools: Vec<(PoolId, u32)>) -> Demand {
        let region = self.regional.contains(&address).then(|| REGION.to_owned());
        Demand { pools, region, ..Demand::default() }
    }

    /// Whether the address may be on that host for all that its region says, and who has it already.
    fn is_within(&self, address: IpAddr, host: usize) -> bool {
        let is_own = |host: &Host| host.announcement.own.contains(&address);
        if self.hosts.iter().any(is_own) && !is_own(&self.hosts[host]) {
            return false;
        }
        !self.regional.contains(&address) || self.hosts[host].announcement.region.as_deref() == Some(REGION)
    }

    fn add_host(&mut self, host: usize, name: &str, region: Option<String>) {
        let announcement =
            Announcement { addresses_max: 100, share: 1, routed: true, region, ..Announcement::default() };
        let name = HostName::new(name).expect("a letter and a digit");
        self.hosts.push(Host::new(name, Clock::new(&mut self.random), format!("machine {host}"), announcement));
        let at = below(&mut self.random, Duration::from_secs(2));
        self.after(at, Event::Begin { host });
        self.after(at, Event::Start { host });
    }

    /// Faults, then calm in which all must be well again.
    pub(super) fn storm(&mut self) {
        if self.random.chance(50) {
            let most = Portion { grants: 2, hosts: 2 };
            self.controls.iter_mut().for_each(|control| control.portion = Some(most));
        }
        let hosts = self.hosts.len();
        // Sometimes another machine has the name of the first: a copy, or a mistake.
        let has_twin = self.random.chance(20);
        if has_twin {
            let region = self.hosts[0].announcement.region.clone();
            self.add_host(hosts, "h0", region);
            self.queue.retain(|_, event| !matches!(event, Event::Begin { host } if *host == hosts));
            let at = Duration::from_secs(20) + below(&mut self.random, STORM / 2);
            self.after(at, Event::Begin { host: hosts });
        }
        let hosts = self.hosts.len();
        let mut faults = draw(&mut self.random, hosts, self.controls.len(), self.demands.len(), STORM);
        let has_restores = self.random.chance(40);
        if has_restores {
            faults.extend(draw_restores(&mut self.random, STORM));
        }
        for (at, fault) in faults {
            // Two machines of one name are no protection for what is fixed to a name. Nor is a store that has lost to whom
            // it was fixed last: who has it then may be cut off.
            if !((has_twin || has_restores) && matches!(fault, Fault::Fixed { .. })) {
                self.after(at, Event::Fault(fault));
            }
        }
        self.run_until(STORM + AFTERMATH);
        self.troubles.clear();
        self.orders.clear();
        for host in 0..self.hosts.len() {
            self.hosts[host].paused_until = self.now;
            if self.hosts[host].lease.is_none() {
                self.begin(host);
            }
        }
        self.run_until(STORM + AFTERMATH + CALM);
        for address in self.demands.keys().copied().collect::<Vec<_>>() {
            if !self.hosts.iter().any(|host| host.may_use(address, self.now)) {
                self.violate(format!("{address} is not in use at the end"));
            }
        }
    }

    /// A host dies, and what it held must be in use elsewhere soon.
    pub(super) fn takeover(&mut self) {
        self.run_until(Duration::from_secs(40) + below(&mut self.random.clone(), Duration::from_secs(5)));
        let host = self.random.below(self.hosts.len() as u64) as usize;
        let held: Vec<IpAddr> =
            self.demands.keys().copied().filter(|address| self.hosts[host].may_use(*address, self.now)).collect();
        let killed = self.now;
        self.hosts[host].kill();
        let has_heir =
            |address: &IpAddr| (0..self.hosts.len()).any(|other| other != host && self.is_within(*address, other));
        let held: Vec<IpAddr> = held.into_iter().filter(has_heir).collect();
        self.awaited = held.iter().map(|address| (*address, host)).collect();
        let mut bound = ADDRESS_LEASE + Duration::from_secs(1);
        // The clock of the one that waits may be slow: the lease is counted by it.
        bound += ADDRESS_LEASE * 2 / 100;
        if self.random.chance(40) {
            let silence = Duration::from_millis(200) + below(&mut self.random, Duration::from_secs(3));
            let at = below(&mut self.random, Duration::from_secs(12));
            self.after(at, Event::Fault(Fault::Leader { silence, is_revoked: self.random.clone().chance(30) }));
            // After a silence of more than a moment a whole lease is counted; it may begin when the lease is all but over.
            bound += silence + PATIENCE + ADDRESS_LEASE + Duration::from_secs(1);
        } else if self.random.chance(40) {
            let leader = self.controls.iter().position(|control| control.leads).unwrap_or(0);
            self.after(Duration::ZERO, Event::Fault(Fault::ControlCrash { control: leader, back: STORM }));
            bound += ADDRESS_LEASE;
        }
        self.run_until(killed + Duration::from_secs(45));
        if !self.awaited.is_empty() {
            let left: Vec<_> = self.awaited.keys().copied().collect();
            self.violate(format!("{left:?} of a dead host never came to be in use"));
        } else if !held.is_empty() {
            let took = self.taken - killed;
            self.takeover = Some(took);
            if took > bound {
                self.violate(format!("the addresses of a dead host were in use after {took:?}, later than {bound:?}"));
            }
        }
    }

    pub(super) fn outcome(self, seed: u64) -> Outcome {
        Outcome {
            seed,
            violations: self.violations,
            moves: self.moves,
            starts: self.starts,
            takeover: self.takeover,
            trace: self.trace.hash(),
        }
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    fn run_until(&mut self, end: Duration) {
        while let Some(entry) = self.queue.first_entry() {
            let (at, sequence) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            self.now = at;
            if let Some(until) = self.stands_still(&event) {
                // What comes meanwhile is there when it goes on, in its order.
                self.queue.insert((until, sequence), event);
                continue;
            }
            self.trace.step(Step::Lease, u64::try_from(at.as_nanos()).unwrap_or(u64::MAX), sequence);
            self.happen(event);
        }
        self.now = end;
    }

    /// Until when the one that an event is for stands still, if it does.
    fn stands_still(&self, event: &Event) -> Option<Duration> {
        let until = match event {
            Event::Wake { host, .. }
            | Event::NoAnswer { host, .. }
            | Event::Ended { host, .. }
            | Event::Start { host }
            | Event::Reply { to: Node::Host(host), .. }
            | Event::Watch { host, .. } => self.hosts[*host].paused_until,
            Event::Tick { control, .. } | Event::Reply { to: Node::Control(control), .. } => {
                self.controls[*control].paused_until
            }
            _ => return None,
        };
        (until > self.now).then_some(until)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { host, life } if self.lives(host, life) => self.tell(host, Input::Timeout),
            Event::Arrive { from, life, id, store, request } => self.arrive(from, life, id, store, request),
            Event::Reply { to: Node::Host(host), life, id, answer }
                if self.lives(host, life) && self.hosts[host].request == id =>
            {
                self.hosts[host].request = 0;
                let input = self.hosts[host].input(&answer);
                self.tell(host, input);
            }
            Event::Reply { to: Node::Control(control), life, id, answer } => self.answered(control, life, id, &answer),
            Event::Watch { host, life } if self.lives(host, life) => self.tell(host, Input::Look),
            Event::NoAnswer { host, life, id } if self.lives(host, life) && self.hosts[host].request == id => {
                self.hosts[host].request = 0;
                self.tell(host, Input::Failed);
            }
            Event::Nic { host, life, address, is_up } => self.interface(host, life, address, is_up),
            Event::Ended { host, life, address, epoch } if self.lives(host, life) => {
                self.tell(host, Input::Ended { address, epoch });
            }
            Event::Start { host } => self.start(host),
            Event::Tick { control, life } => self.tick(control, life),
            Event::Fault(fault) => self.fault(fault),
            Event::Begin { host } => self.begin(host),
            Event::BeginControl { control } => {
                self.controls[control].alive = true;
                let life = self.controls[control].life;
                self.after(TICK, Event::Tick { control, life });
            }
            Event::Undrain { host } => drop(self.orders.remove(&self.hosts[host].name)),
            Event::Want { address } => {
                let demand = self.demand(address, vec![(PoolId(1), 1)]);
                self.demands.entry(address).or_insert(demand);
            }
            Event::Unfix { address } => {
                if let Some(demand) = self.demands.get_mut(&address) {
                    demand.fixed = None;
                }
            }
            _ => {}
        }
    }

    fn lives(&self, host: usize, life: u64) -> bool {
        self.hosts[host].life == life && self.hosts[host].lease.is_some()
    }

    fn begin(&mut self, host: usize) {
        let incarnation = self.random.next_u64();
        let plan = self.plan;
        self.hosts[host].kill();
        self.hosts[host].start(self.now, incarnation, plan);
        self.tell(host, Input::Timeout);
    }

    /// Tells a machine something, and has all done that it wants.
    fn tell(&mut self, host: usize, input: Input) {
        self.hosts[host].tell(self.now, input);
        while let Some(effect) = self.hosts[host].next(self.now) {
            let life = self.hosts[host].life;
            match effect {
                Effect::Ask(request) => {
                    self.sequence += 1;
                    let id = self.sequence;
                    self.hosts[host].request = id;
                    // By its own clock it would be a little more or less, which delays only.
                    self.after(ADDRESS_LEASE / ADDRESS_KEEPALIVES, Event::NoAnswer { host, life, id });
                    self.send(Node::Host(host), life, id, request);
                }
                Effect::Nic { address, is_up } => {
                    if is_up {
                        self.check_interfaces(host, address);
                    }
                    let most = if self.has_interface_trouble() { 3_000 } else { 50 };
                    let delay = below(&mut self.random, Duration::from_millis(most));
                    self.after(delay, Event::Nic { host, life, address, is_up });
                }
                Effect::End { address, epoch } => {
                    let most = match self.random.below(20) {
                        0 => continue,
                        1..=4 => 30,
                        _ => 3,
                    };
                    let delay = below(&mut self.random, Duration::from_secs(most));
                    self.after(delay, Event::Ended { host, life, address, epoch });
                }
                Effect::Nothing => {}
                Effect::Over => {
                    while self.hosts[host].next(self.now).is_some() {}
                    self.hosts[host].kill();
                    self.after(Duration::from_secs(5), Event::Begin { host });
                }
            }
        }
        self.check_uses(host);
        self.wake(host);
    }

    fn wake(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        let shown = this.clock.shows(self.now);
        let Some(deadline) = this.lease.as_ref().and_then(|lease| lease.deadline(shown)) else { return };
        let at = this.clock.when(deadline).max(self.now);
        if this.wakes <= self.now || at < this.wakes {
            this.wakes = at;
            let life = this.life;
            self.after(at - self.now, Event::Wake { host, life });
        }
    }
}
