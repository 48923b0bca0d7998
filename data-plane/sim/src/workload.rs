//! The whole node under load: clients that submit, receivers that misbehave, power that fails, and then quiet in which
//! everything must settle.
//!
//! One run: a name server, four receiving sites and clients around a node of one shard. In the *storm* receivers and
//! network do what the seed says, shaping rules hold that the seed draws, and the node crashes up to three times; in the *calm* all is well, and what was
//! acknowledged must settle. The facts of both are checked by [`crate::invariants`].
//!
//! Deliberately absent: TLS (its randomness is not the seed's), several shards, and changes of configuration.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postrail_core::base::Random;
use postrail_data_plane::journal::Cursor;
use postrail_data_plane::mesh::{Mesh, Question, Reply};
use postrail_data_plane::platform::Platform;
use postrail_schema::event::{Event, EventKind};
use postrail_schema::ids::ShardId;
use postrail_schema::snapshot::SnapshotContent;
use postrail_schema::wire;

use crate::disk::DiskFaults;
use crate::dns::{self, Zone};
use crate::invariants::{End, Fact, Facts, Limits, Violation};
use crate::net::NetFaults;
use crate::remote_mta::{Behaviour, RemoteMta, Stage};
use crate::{Failure, NodeId, Settings, Sim};
use node::Seat;
use shaping::Shaped;

pub(crate) mod client;
pub(crate) mod node;
pub use node::content;
mod shaping;
#[cfg(test)]
mod tests;

/// How rough a run is.
#[derive(Clone, Debug)]
pub struct Plan {
    pub clients: u32,
    /// Messages of one client.
    pub mails: u32,
    /// Messages of one client that sends all to one site at once: half of the seeds have some of these.
    pub burst_mails: u32,
    /// Crashes at most; the seed draws how many there are.
    pub crashes_max: u64,
    /// The disk of the node.
    pub disk: DiskFaults,
    /// The network of the storm.
    pub net: NetFaults,
}

impl Default for Plan {
    fn default() -> Self {
        let net = NetFaults {
            resets_per_million: 500,
            silences_per_million: 200,
            datagram_losses_percent: 2,
            datagram_doubles_percent: 2,
            datagram_detours_percent: 2,
            ..NetFaults::default()
        };
        let disk = DiskFaults { stalls_per_million: 200, ..DiskFaults::default() };
        Self { clients: 4, mails: 6, burst_mails: 8, crashes_max: 3, disk, net }
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
}

impl Outcome {
    /// One line, with the first violations.
    pub fn summary(&self) -> String {
        let Self { seed, trace, violations, acknowledged, received, crashes } = self;
        let first: Vec<_> = violations.iter().take(SUMMARY_VIOLATIONS).map(ToString::to_string).collect();
        format!(
            "seed {seed}: trace {trace:016x}, {acknowledged} acknowledged, {received} received, {crashes} crashes, \
             {} violations {}",
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
    let mut random = Random::new(seed ^ 0x54a9e);
    let burst = random.chance(50).then(|| random.below(u64::from(SITES)) as u8);
    let shaped = Shaped::draw(&mut random, burst);
    let limits = shaped.limits();
    run_under(seed, plan, shaped, &limits)
}

fn run_under(seed: u64, plan: &Plan, shaped: Shaped, limits: &Limits) -> Result<Outcome, Failure> {
    let sim = Sim::new(&Settings { seed, disk: plan.disk.clone(), net: plan.net.clone() });
    let mut field = Field::lay_out(&sim, seed, shaped);
    field.storm(plan)?;
    field.calm()?;
    let events = sim.run(field.clients, events(field.mesh.clone()))?;
    field.record(&events);
    Ok(Outcome {
        seed,
        trace: sim.trace(),
        violations: field.facts.check(limits, End::Drained),
        acknowledged: field.facts.count(|fact| matches!(fact, Fact::Acknowledged { .. })),
        received: field.facts.count(|fact| matches!(fact, Fact::Received { .. })),
        crashes: field.facts.count(|fact| matches!(fact, Fact::Crashed)),
    })
}

/// The machines of a run.
struct Field<'a> {
    sim: &'a Sim,
    random: Random,
    node: NodeId,
    clients: NodeId,
    receivers: Vec<RemoteMta>,
    facts: Facts,
    mesh: Mesh,
    shaped: Shaped,
}

impl<'a> Field<'a> {
    fn lay_out(sim: &'a Sim, seed: u64, shaped: Shaped) -> Self {
        let facts = Facts::default();
        let node = sim.add_node(&[NODE]);
        let clients = sim.add_node(&[CLIENT]);
        let name_server = sim.add_node(&[NAME_SERVER.ip()]);
        let zone = Zone::default();
        dns::serve(&sim.platform(name_server), NAME_SERVER, &zone).expect("the address is its own");
        let receivers = (0..SITES).map(|site| {
            let address = receiver_address(site);
            zone.add_mx(&client::domain(site), 10, &format!("mx.{}", client::domain(site)));
            zone.add_address(&format!("mx.{}", client::domain(site)), address);
            let machine = sim.platform(sim.add_node(&[address]));
            let at = SocketAddr::new(address, 25);
            let receiver = RemoteMta::start(&machine, at, Vec::new(), &facts).expect("the address is its own");
            if shaped.burst == Some(site) {
                receiver.offer_chunking();
            }
            receiver
        });
        let receivers = receivers.collect();
        let mesh = node::start(sim, node, seat(&shaped)).mesh;
        Self { sim, random: Random::new(seed ^ 0x5708), node, clients, receivers, facts, mesh, shaped }
    }

    /// Load, trouble and crashes.
    fn storm(&mut self, plan: &Plan) -> Result<(), Failure> {
        for receiver in &self.receivers {
            let count = 1 + self.random.below(3);
            receiver.set_behaviours((0..count).map(|_| draw_behaviour(&mut self.random)).collect());
        }
        for number in 0..plan.clients {
            self.start_client(number, None, plan.mails);
        }
        if let Some(site) = self.shaped.burst {
            for number in plan.clients..plan.clients + BURSTING_CLIENTS {
                self.start_client(number, Some(site), plan.burst_mails);
            }
        }
        for _ in 0..self.random.below(plan.crashes_max + 1) {
            let until_crash = self.millis(20_000);
            self.pass(until_crash)?;
            self.sim.crash(self.node);
            self.facts.record(self.sim.now(), Fact::Crashed);
            let until_start = self.millis(10_000);
            self.pass(until_start)?;
            self.mesh = node::start(self.sim, self.node, seat(&self.shaped)).mesh;
        }
        self.pass(STORM)
    }

    fn start_client(&mut self, number: u32, bursts_at: Option<u8>, mails: u32) {
        let (facts, random) = (self.facts.clone(), self.random.fork());
        let platform = self.sim.platform(self.clients);
        let entries = vec![node::submission(NODE)];
        let client = client::Client { platform, facts, number, random, entries, bursts_at };
        self.sim.platform(self.clients).spawn("client", client.submit(mails));
    }

    /// All is well, and everything has the time to settle: the longest time limit of a hanging receiver, and retries.
    fn calm(&mut self) -> Result<(), Failure> {
        self.sim.set_net_faults(NetFaults::default());
        self.sim.set_disk_faults(self.node, DiskFaults::default());
        for receiver in &self.receivers {
            receiver.set_behaviours(vec![Behaviour::Good]);
        }
        self.pass(CALM)
    }

    /// Records the events of the clients' recipients. Only `Accepted` names the address; reports to our own senders,
    /// which no client asked for, are left out.
    fn record(&self, events: &[Event]) {
        let accepted = events.iter().filter(|event| event.kind == EventKind::Accepted);
        let addresses: BTreeMap<_, _> =
            accepted.map(|event| ((event.message, event.index), event.address.as_str())).collect();
        for event in events {
            let recipient = addresses.get(&(event.message, event.index)).copied().unwrap_or("without an acceptance");
            if !recipient.ends_with(client::SENDERS) {
                let (recipient, kind) = (recipient.to_owned(), event.kind);
                self.facts.record(self.sim.now(), Fact::Event { recipient, kind, identity: identity(event) });
            }
        }
    }

    fn pass(&self, time: Duration) -> Result<(), Failure> {
        self.sim.run_until(self.sim.now() + time)
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.random.below(bound))
    }
}

/// What the node is started with.
fn seat(shaped: &Shaped) -> Seat {
    let (providers, shaping_rules) = (shaped.providers.clone(), shaped.rules.clone());
    let content = SnapshotContent { providers, shaping_rules, ..content(NODE) };
    Seat { address: NODE, host: String::new(), content }
}

/// All events of a journal, from its beginning.
pub(crate) async fn events(mesh: Mesh) -> Vec<Event> {
    let (mut events, mut cursor) = (Vec::new(), Cursor::default());
    loop {
        let question = Question::Pull { cursor, bytes_max: 1 << 20, wait_ms: 0 };
        let Some(Reply::Events { buffers, next }) = mesh.ask(ShardId(0), question).await else {
            panic!("the journal does not answer");
        };
        if next == cursor {
            return events;
        }
        decode_into(&buffers, &mut events);
        cursor = next;
    }
}

fn decode_into(buffers: &[u8], events: &mut Vec<Event>) {
    let mut rest = buffers;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (buffer, next) = after.split_at(u32::from_le_bytes(*length) as usize);
        events.extend(wire::decode_events(buffer).expect("the journal holds events"));
        rest = next;
    }
}

/// A number for the content of an event: one that is written again after a crash is the same.
pub(crate) fn identity(event: &Event) -> u64 {
    wire::encode_events(std::slice::from_ref(event))
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3))
}

/// The receiver of a site.
pub(crate) fn receiver_address(site: u8) -> IpAddr {
    IpAddr::from([10, 0, 2, site + 1])
}

fn draw_behaviour(random: &mut Random) -> Behaviour {
    let stages = [
        Stage::Greeting,
        Stage::Ehlo,
        Stage::MailFrom,
        Stage::RcptTo,
        Stage::Data,
        Stage::EndOfData,
        Stage::EndOfData,
        Stage::Quit,
    ];
    let stage = stages[random.below(stages.len() as u64) as usize];
    match random.below(14) {
        0 => Behaviour::Defers,
        1 => Behaviour::Rejects,
        2 => Behaviour::RejectsMessage,
        3 => Behaviour::Greylists(Duration::from_secs(30)),
        4 => Behaviour::Busy,
        5 => Behaviour::Garbage,
        6 => Behaviour::Slow(Duration::from_secs(2)),
        7 => Behaviour::HangsAt(stage),
        8 | 9 => Behaviour::DropsAt(stage),
        _ => Behaviour::Good,
    }
}

/// The node under test.
const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
/// All clients; a loopback address, from which a password is taken without TLS.
pub(crate) const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
pub(crate) const NAME_SERVER: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 0, 53), 53));
/// Violations that a summary names.
const SUMMARY_VIOLATIONS: usize = 5;
/// Receiving sites, one a domain.
pub(crate) const SITES: u8 = 4;
/// Clients that send to one site at once, where a run has them.
const BURSTING_CLIENTS: u32 = 16;
/// What follows the last crash with faults.
const STORM: Duration = Duration::from_secs(60);
/// What follows without.
const CALM: Duration = Duration::from_secs(3_000);
