//! Two or three hosts between which addresses move: mail that waits at one and can leave from another only goes there.
//!
//! Each host runs the real pumps and the real core, with leasing on. Which address is whose is a model ([`fleet`]) that
//! keeps the order of a real fleet: a host loses an address before another gets it, and what hosts know of each other is
//! late and sometimes wrong. What they give each other goes through a carrier ([`carrier`]) that delays, loses and doubles
//! it. In the *storm* addresses move, hosts crash, are cut off, are emptied, stay away and are forgotten; in the *calm*
//! everything must get away. What must hold is judged from outside ([`judge`]).
//!
//! Deliberately absent: the lease machine (`sim leases` has it), several shards, HTTP between hosts, full disks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postrail_core::base::{Instant, Random};
use postrail_data_plane::mesh::{Mesh, Question, Reply};
use postrail_data_plane::platform::Platform;
use postrail_schema::ids::{PoolId, ShardId, SourceId};
use postrail_schema::limits::TRANSFER_JOBS_MAX;
use postrail_schema::policy::{RetryDelays, RetryPolicy, RoutingRule};
use postrail_schema::selector::Selector;
use postrail_schema::snapshot::{EgressPool, EgressSource, PoolMember, SnapshotContent};

use crate::disk::DiskFaults;
use crate::dns::{self, Zone};
use crate::invariants::{Fact, Facts};
use crate::net::NetFaults;
use crate::remote_mta::{Behaviour, RemoteMta, Stage};
use crate::workload::node::{Seat, submission};
use crate::workload::{CLIENT, NAME_SERVER, SITES, client, events, node, receiver_address};
use crate::{Failure, NodeId, Settings, Sim};

mod carrier;
mod fleet;
mod judge;
mod script;
#[cfg(test)]
mod tests;

use carrier::{Carrier, Wire};
use fleet::Fleet;
pub use judge::Violation;
use judge::{Case, Note, Notes};
use script::Act;

/// How rough a run is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Crashes at most, of those at any time and again of those while a parcel is in question; the seed draws how many there
    /// are.
    pub crashes_max: u64,
    pub disk: DiskFaults,
    /// The network of the storm.
    pub net: NetFaults,
    /// What hosts give each other is lost, late and doubled.
    pub loses_parcels: bool,
}

impl Default for Plan {
    fn default() -> Self {
        let net = NetFaults {
            resets_per_million: 300,
            silences_per_million: 100,
            datagram_losses_percent: 1,
            ..NetFaults::default()
        };
        let disk = DiskFaults { stalls_per_million: 200, ..DiskFaults::default() };
        Self { crashes_max: 4, disk, net, loses_parcels: true }
    }
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub seed: u64,
    /// The hash over all that happened.
    pub trace: u64,
    pub violations: Vec<Violation>,
    pub acknowledged: usize,
    pub received: usize,
    pub crashes: usize,
    /// Addresses that came to another host.
    pub moves: u64,
    /// Jobs that a host took, repeated ones included.
    pub taken: usize,
}

impl Outcome {
    /// One line, with the first violations.
    pub fn summary(&self) -> String {
        let Self { seed, trace, violations, acknowledged, received, crashes, moves, taken } = self;
        let first: Vec<_> = violations.iter().take(SUMMARY_VIOLATIONS).map(|one| format!("{one:?}")).collect();
        format!(
            "seed {seed}: trace {trace:016x}, {acknowledged} acknowledged, {received} received, {crashes} crashes, \
             {moves} moves, {taken} taken, {} violations {}",
            violations.len(),
            first.join("; ")
        )
    }
}

/// Runs `plan` under `seed`.
///
/// # Errors
/// See [`Failure`]: a panic, a livelock, or nothing left that could happen.
pub fn run(seed: u64, plan: &Plan) -> Result<Outcome, Failure> {
    let sim = Sim::new(&Settings { seed, disk: plan.disk.clone(), net: plan.net.clone() });
    let mut field = Field::lay_out(&sim, seed, plan);
    field.storm(plan)?;
    field.calm()?;
    field.judged()
}

/// One of the hosts.
struct Host {
    name: String,
    node: NodeId,
    address: IpAddr,
    /// `None`: it is down.
    mesh: Option<Mesh>,
    /// When it is started again.
    starts_at: Instant,
    /// When an operator has it forgotten, if it is down then.
    forgotten_at: Instant,
}

/// The machines of a run.
struct Field<'a> {
    sim: &'a Sim,
    random: Random,
    hosts: Vec<Host>,
    fleet: Fleet,
    clients: NodeId,
    receivers: Vec<RemoteMta>,
    facts: Facts,
    notes: Notes,
    wire: Wire,
    content: SnapshotContent,
    violations: Vec<Violation>,
    /// Crashes of hosts in the middle of a transfer that may still be.
    dooms: u64,
}

impl<'a> Field<'a> {
    fn lay_out(sim: &'a Sim, seed: u64, plan: &Plan) -> Self {
        let mut random = Random::new(seed ^ 0x7a4e);
        let (facts, notes) = (Facts::default(), Notes::default());
        let hosts: Vec<Host> = (0..2 + random.below(2) as u8).map(|number| Host::new(sim, number)).collect();
        let clients = sim.add_node(&[CLIENT]);
        let name_server = sim.add_node(&[NAME_SERVER.ip()]);
        let zone = Zone::default();
        dns::serve(&sim.platform(name_server), NAME_SERVER, &zone).expect("the address is its own");
        let receivers = (0..SITES).map(|site| {
            let (domain, address) = (client::domain(site), receiver_address(site));
            zone.add_mx(&domain, 10, &format!("mx.{domain}"));
            zone.add_address(&format!("mx.{domain}"), address);
            let machine = sim.platform(sim.add_node(&[address]));
            RemoteMta::start(&machine, SocketAddr::new(address, 25), Vec::new(), &facts)
                .expect("the address is its own")
        });
        let receivers = receivers.collect();
        // What is on its way between hosts outlives them.
        let platform = sim.platform(sim.add_node(&[]));
        let wire = Wire::new(platform, random.fork(), notes.clone(), plan.loses_parcels);
        let fleet = Fleet::new(random.fork(), hosts.iter().map(|host| (host.name.clone(), host.node)), &MOVING);
        let content = content(&mut random);
        sim.take_seen();
        let (violations, dooms) = (Vec::new(), random.below(plan.crashes_max + 1));
        Self { sim, random, hosts, fleet, clients, receivers, facts, notes, wire, content, violations, dooms }
    }

    /// Load, and everything that can go wrong.
    fn storm(&mut self, plan: &Plan) -> Result<(), Failure> {
        for receiver in &self.receivers {
            let count = 1 + self.random.below(3);
            receiver.set_behaviours((0..count).map(|_| draw_behaviour(&mut self.random)).collect());
        }
        for host in 0..self.hosts.len() {
            self.start(host);
        }
        let begin = self.sim.now();
        for (after, act) in script::draw(&mut self.random, self.hosts.len(), MOVING.len(), plan.crashes_max) {
            self.pass(begin + after)?;
            self.act(act);
        }
        self.pass(begin + STORM)
    }

    fn act(&mut self, act: Act) {
        let now = self.sim.now();
        match act {
            Act::Client { number, mails, bursts_at } => {
                let (facts, random) = (self.facts.clone(), self.random.fork());
                let platform = self.sim.platform(self.clients);
                let entries = self.hosts.iter().map(|host| submission(host.address)).collect();
                let client = client::Client { platform, facts, number, random, entries, bursts_at };
                self.sim.platform(self.clients).spawn("client", client.submit(mails));
            }
            Act::Move { address, to } => self.fleet.wish(address, to),
            Act::Crash { host, away, forgotten_after } => {
                self.crash(host, now + away, forgotten_after.map(|t| now + t))
            }
            Act::Cut { host, lasts } => self.fleet.cut(host, now + lasts),
            Act::Lag { host, lasts } => self.fleet.lag(host, now + lasts),
            Act::Leave { host } => self.fleet.leave(host),
            Act::Return { host } => self.fleet.come_back(host),
        }
    }

    fn crash(&mut self, host: usize, starts_at: Instant, forgotten_at: Option<Instant>) {
        let (now, at) = (self.sim.now(), &mut self.hosts[host]);
        if at.mesh.take().is_none() {
            return;
        }
        (at.starts_at, at.forgotten_at) = (starts_at, forgotten_at.unwrap_or(Instant::FAR));
        self.sim.crash(at.node);
        self.notes.add(now, Note::Crashed { node: at.node });
        self.wire.ended(&at.name);
        self.fleet.ended(host, now);
    }

    fn start(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        let seat = Seat { address: at.address, host: at.name.clone(), content: self.content.clone() };
        let started = node::start(self.sim, at.node, seat);
        at.mesh = Some(started.mesh.clone());
        (at.starts_at, at.forgotten_at) = (Instant::FAR, Instant::FAR);
        self.wire.began(&at.name, at.node, started.mesh);
        let carrier = Carrier::new(self.sim.platform(at.node), at.node, self.wire.clone());
        self.sim.platform(at.node).spawn("carrier", carrier.run(started.departures));
        self.fleet.began(host, self.sim.now());
    }

    /// All is well. For a while one site takes nothing yet: what is for it has to be off a host that is emptied, too.
    fn calm(&mut self) -> Result<(), Failure> {
        self.sim.set_net_faults(NetFaults::default());
        self.wire.calm();
        self.fleet.calm();
        let deferring = self.random.below(u64::from(SITES) * 2) as usize;
        for (site, receiver) in self.receivers.iter().enumerate() {
            receiver.set_behaviours(vec![if site == deferring { Behaviour::Defers } else { Behaviour::Good }]);
        }
        for host in 0..self.hosts.len() {
            self.sim.set_disk_faults(self.hosts[host].node, DiskFaults::default());
            if self.hosts[host].mesh.is_none() {
                self.start(host);
            }
        }
        self.pass(self.sim.now() + CALM)?;
        for (host, waiting) in self.waiting()? {
            if waiting > 0 && self.fleet.is_leaving(host) {
                self.violations.push(Violation::NotEmptied { host: self.hosts[host].name.clone(), waiting });
            }
        }
        self.receivers.iter().for_each(|receiver| receiver.set_behaviours(vec![Behaviour::Good]));
        self.pass(self.sim.now() + CALM)?;
        for (host, waiting) in self.waiting()? {
            if waiting > 0 {
                self.violations.push(Violation::StillWaiting { host: self.hosts[host].name.clone(), waiting });
            }
        }
        Ok(())
    }

    /// Recipients that wait, by host.
    fn waiting(&self) -> Result<Vec<(usize, usize)>, Failure> {
        let mut all = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(mesh) = host.mesh.clone() else { continue };
            let status = async move { mesh.ask(ShardId(0), Question::Status).await };
            if let Some(Reply::Status(status)) = self.sim.run(self.clients, status)? {
                all.push((number, status.waiting));
            }
        }
        Ok(all)
    }

    /// Lets time pass: the fleet looks about it twice a second.
    fn pass(&mut self, until: Instant) -> Result<(), Failure> {
        while self.sim.now() < until {
            self.sim.run_until(until.min(self.sim.now() + TICK))?;
            let now = self.sim.now();
            for node in self.wire.doomed() {
                let away = Duration::from_millis(100 + self.random.below(10_000));
                let host = self.hosts.iter().position(|host| host.node == node);
                if let Some(host) = host.filter(|_| self.dooms > 0) {
                    self.dooms -= 1;
                    self.crash(host, now + away, None);
                }
            }
            for host in 0..self.hosts.len() {
                if self.hosts[host].mesh.is_none() && now >= self.hosts[host].forgotten_at {
                    self.hosts[host].forgotten_at = Instant::FAR;
                    self.fleet.forget(host);
                    self.notes.add(now, Note::Forgotten { node: self.hosts[host].node });
                }
                if self.hosts[host].mesh.is_none() && now >= self.hosts[host].starts_at {
                    self.start(host);
                }
            }
            let meshes: Vec<Option<Mesh>> = self.hosts.iter().map(|host| host.mesh.clone()).collect();
            self.fleet.tick(self.sim, self.clients, &meshes)?;
        }
        Ok(())
    }

    fn judged(mut self) -> Result<Outcome, Failure> {
        let mut journals = Vec::new();
        for host in &self.hosts {
            let mesh = host.mesh.clone().expect("all hosts run in the calm");
            let events = self.sim.run(self.clients, events(mesh))?;
            journals.extend(events.into_iter().map(|event| (host.node, event)));
        }
        let notes = self.notes.take();
        let case = Case {
            facts: self.facts.all(),
            seen: self.sim.take_seen(),
            notes: &notes,
            permits: self.fleet.permits(),
            moving: &MOVING,
            journals: &journals,
            jobs_max: TRANSFER_JOBS_MAX,
        };
        self.violations.extend(judge::judge(&case));
        let taken = |(_, note): &(Instant, Note)| match note {
            Note::Taken { messages, .. } => messages.len(),
            _ => 0,
        };
        Ok(Outcome {
            seed: self.sim.seed(),
            trace: self.sim.trace(),
            acknowledged: self.facts.count(|fact| matches!(fact, Fact::Acknowledged { .. })),
            received: self.facts.count(|fact| matches!(fact, Fact::Received { .. })),
            crashes: notes.iter().filter(|(_, note)| matches!(note, Note::Crashed { .. })).count(),
            moves: self.fleet.moves(),
            taken: notes.iter().map(taken).sum(),
            violations: self.violations,
        })
    }
}

impl Host {
    fn new(sim: &Sim, number: u8) -> Self {
        let address = IpAddr::from([10, 0, 0, number + 1]);
        let node = sim.add_node(&[address]);
        let name = format!("host-{}", char::from(b'a' + number));
        Self { name, node, address, mesh: None, starts_at: Instant::FAR, forgotten_at: Instant::FAR }
    }
}

/// Two pools with addresses that move, one for a site of its own; and in the half of the runs one whose address every
/// host has. In some runs mail expires soon.
fn content(random: &mut Random) -> SnapshotContent {
    let source = |(id, address): (u32, IpAddr)| EgressSource {
        id: SourceId(id),
        name: format!("source-{id}"),
        address,
        ehlo_name: "node.example".to_owned(),
        needs: Default::default(),
    };
    let pool = |id: u32, name: &str, sources: &[u32]| EgressPool {
        id: PoolId(id),
        name: name.to_owned(),
        tenant: None,
        members: sources.iter().map(|source| PoolMember { source: SourceId(*source), weight: 1 }).collect(),
        classes: Default::default(),
    };
    let rule = |site: u8, pool: u32| {
        let selector = Selector { recipient_domain: Some(client::domain(site)), ..Selector::default() };
        RoutingRule { name: format!("site-{site}"), selector, pool: PoolId(pool) }
    };
    let mut routing_rules = vec![rule(2, 2)];
    if random.chance(50) {
        routing_rules.push(rule(3, 3));
    }
    let expiry_s = random.chance(20).then(|| 60 + random.below(240) as u32);
    let delays = Some(RetryDelays { first_s: 5, factor_percent: 150, longest_s: 60 });
    SnapshotContent {
        sources: (1..).zip(MOVING).chain([(4, IpAddr::from([0; 4]))]).map(source).collect(),
        pools: vec![pool(1, "default", &[1, 2]), pool(2, "second", &[3]), pool(3, "anywhere", &[4])],
        routing_rules,
        retry_policies: vec![RetryPolicy { name: "soon".to_owned(), selector: Selector::default(), delays, expiry_s }],
        ..node::content(MOVING[0])
    }
}

fn draw_behaviour(random: &mut Random) -> Behaviour {
    match random.below(14) {
        0 => Behaviour::Defers,
        1 => Behaviour::Rejects,
        2 => Behaviour::RejectsMessage,
        3 => Behaviour::Busy,
        4 => Behaviour::HangsAt(Stage::EndOfData),
        5 => Behaviour::DropsAt(Stage::EndOfData),
        6 => Behaviour::DropsAt(Stage::RcptTo),
        _ => Behaviour::Good,
    }
}

/// The addresses that move.
const MOVING: [IpAddr; 3] = [moving(1), moving(2), moving(3)];

const fn moving(last: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, last))
}

/// Violations that a summary names.
const SUMMARY_VIOLATIONS: usize = 5;
/// How often the fleet looks about it.
const TICK: Duration = Duration::from_millis(500);
const STORM: Duration = Duration::from_secs(200);
/// Each half of the calm: the longest time limit of a hanging receiver, a retry, and a rest between offers.
const CALM: Duration = Duration::from_secs(1_000);
