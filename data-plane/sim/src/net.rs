//! A network that delays, cuts short, resets and goes silent by the seed.
//!
//! Streams deliver in order and either deliver or break; datagrams are also lost, doubled and overtaken. What a node
//! has sent before its crash may still arrive. A crash looks to its peers like a reset or like silence.
//!
//! Deliberately absent: bandwidth, routing, address families other than by name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncWrite};
use postrail_core::base::{Instant, Random};
use postrail_data_plane::platform::{Listener, Net, Stream};

use crate::clock::Clock;
use crate::platform::Life;
use crate::trace::{Step, Trace};
use crate::world::NodeId;

mod connection;
mod datagram;
#[cfg(test)]
mod tests;

use connection::{Connection, End, Half, Segment};
use datagram::Endpoint;
pub use datagram::{SimDatagramServer, SimDatagrams};

/// What the network does wrong, and how slow it is. The default is slow and cuts reads and writes short, as any real
/// network may.
#[derive(Clone, Debug)]
pub struct NetFaults {
    /// Time of one way; drawn for each segment.
    pub latency: Range<Duration>,
    /// Reads and writes in a hundred that move less than they could, or have to be tried again.
    pub short_percent: u64,
    /// Segments in a million that break their connection with a reset.
    pub resets_per_million: u64,
    /// Segments in a million after which their connection is silent for ever.
    pub silences_per_million: u64,
    pub datagram_losses_percent: u64,
    pub datagram_doubles_percent: u64,
    /// Datagrams in a hundred that take [`NetFaults::DETOUR`] longer.
    pub datagram_detours_percent: u64,
}

impl NetFaults {
    /// How much longer a datagram takes by a detour.
    pub const DETOUR: Duration = Duration::from_secs(2);
}

impl Default for NetFaults {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(50)..Duration::from_millis(20),
            short_percent: 20,
            resets_per_million: 0,
            silences_per_million: 0,
            datagram_losses_percent: 0,
            datagram_doubles_percent: 0,
            datagram_detours_percent: 0,
        }
    }
}

/// Something that reaches its end of the network.
pub(crate) enum Arrival {
    Segment {
        connection: u64,
        to: End,
        segment: Segment,
    },
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// Nobody listens where a datagram went.
    Unreachable {
        at: SocketAddr,
    },
}

/// All hosts and what lies between them.
pub(crate) struct NetState {
    random: Random,
    faults: NetFaults,
    hosts: BTreeMap<IpAddr, NodeId>,
    sources: BTreeMap<NodeId, Vec<IpAddr>>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    count: u64,
    ports: u16,
    listeners: BTreeMap<SocketAddr, Vec<Listening>>,
    connections: BTreeMap<u64, Connection>,
    endpoints: BTreeMap<SocketAddr, Endpoint>,
    /// Noted where a world asks for it.
    seen: Option<Vec<(Instant, Seen)>>,
}

/// What clients do, as the network sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// One begins to connect from an address that it names, whether its node has that or not.
    Begins { node: NodeId, source: IpAddr },
    /// One has let go of its end.
    Ends { connection: u64 },
}

/// One listening socket; several may share an address.
struct Listening {
    id: u64,
    node: NodeId,
    backlog: VecDeque<u64>,
    waker: Option<Waker>,
}

impl NetState {
    pub(crate) fn new(random: Random, faults: NetFaults) -> Self {
        Self {
            random,
            faults,
            hosts: BTreeMap::new(),
            sources: BTreeMap::new(),
            cuts: BTreeSet::new(),
            count: 0,
            ports: PORT_FIRST,
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            seen: None,
        }
    }

    /// What was seen since the last call; it is noted from the first call on.
    pub(crate) fn take_seen(&mut self) -> Vec<(Instant, Seen)> {
        self.seen.replace(Vec::new()).unwrap_or_default()
    }

    fn note(&mut self, at: Instant, what: Seen) {
        if let Some(seen) = &mut self.seen {
            seen.push((at, what));
        }
    }

    pub(crate) fn add_host(&mut self, node: NodeId, addresses: &[IpAddr]) {
        self.hosts.extend(addresses.iter().map(|address| (*address, node)));
        self.sources.insert(node, addresses.to_vec());
    }

    /// Brings an address to `node`, from wherever it was; its connections there end in silence.
    pub(crate) fn bring_address(&mut self, node: NodeId, address: IpAddr) {
        self.take_address(address);
        self.hosts.insert(address, node);
        self.sources.entry(node).or_default().push(address);
    }

    /// Takes an address off the node that has it; its connections end in silence.
    pub(crate) fn take_address(&mut self, address: IpAddr) {
        let Some(node) = self.hosts.remove(&address) else { return };
        self.sources.entry(node).or_default().retain(|source| *source != address);
        for connection in self.connections.values_mut() {
            connection.silence(address);
        }
    }

    pub(crate) fn set_faults(&mut self, faults: NetFaults) {
        self.faults = faults;
    }

    pub(crate) fn set_cut(&mut self, one: NodeId, other: NodeId, is_cut: bool) {
        for pair in [(one, other), (other, one)] {
            if is_cut {
                self.cuts.insert(pair);
            } else {
                self.cuts.remove(&pair);
            }
        }
    }

    /// Ends all sockets of `node` without a word of its own.
    pub(crate) fn crash(&mut self, node: NodeId, clock: &mut Clock) {
        for listeners in self.listeners.values_mut() {
            listeners.retain(|listening| listening.node != node);
        }
        self.listeners.retain(|_, listeners| !listeners.is_empty());
        self.endpoints.retain(|_, endpoint| endpoint.node() != node);
        let Self { connections, random, faults, seen, .. } = self;
        for (id, connection) in connections.iter_mut() {
            if let (Some(seen), true) = (&mut *seen, connection.client() == Some(node)) {
                seen.push((clock.now(), Seen::Ends { connection: *id }));
            }
            connection.crash(*id, node, random, faults, clock);
        }
        connections.retain(|_, connection| connection.has_owner());
    }

    pub(crate) fn arrive(&mut self, arrival: Arrival, clock: &mut Clock, trace: &mut Trace) {
        match arrival {
            Arrival::Segment { connection: id, to, segment } => {
                trace.step(Step::Segment, id, segment.weight());
                let Some(connection) = self.connections.get_mut(&id) else { return };
                if !self.cuts.contains(&connection.nodes()) {
                    connection.arrive(id, to, segment, &mut self.random, &self.faults, clock);
                }
            }
            Arrival::Datagram { from, to, bytes } => {
                trace.step(Step::Datagram, u64::from(to.port()), bytes.len() as u64);
                self.arrive_datagram(from, to, bytes, clock);
            }
            Arrival::Unreachable { at } => {
                if let Some(endpoint) = self.endpoints.get_mut(&at) {
                    endpoint.refuse();
                }
            }
        }
    }

    fn next_id(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn next_port(&mut self) -> u16 {
        self.ports = self.ports.checked_add(1).unwrap_or(PORT_FIRST);
        self.ports
    }

    /// The address that `node` connects from: `wanted` if it has that, or its first of the family of `to`.
    fn source(&self, node: NodeId, wanted: Option<IpAddr>, to: IpAddr) -> io::Result<IpAddr> {
        let sources = self.sources.get(&node).map_or(&[][..], Vec::as_slice);
        let mut fitting = sources.iter().filter(|source| source.is_ipv4() == to.is_ipv4());
        let found = match wanted.filter(|wanted| !wanted.is_unspecified()) {
            Some(wanted) => fitting.find(|source| **source == wanted),
            None => fitting.next(),
        };
        found.copied().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
    }

    /// What a host does with a connection attempt that reaches it.
    fn knock(&mut self, client: Half, to: SocketAddr) -> Knock {
        let Some(&node) = self.hosts.get(&to.ip()) else { return Knock::Silence };
        if self.cuts.contains(&(client.node, node)) {
            return Knock::Silence;
        }
        let id = self.next_id();
        let any = SocketAddr::new(if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() }, to.port());
        for address in [to, any] {
            let mut sharing = self.listeners.get_mut(&address).map_or(Vec::new(), |all| {
                all.iter_mut().filter(|listening| listening.node == node).collect::<Vec<_>>()
            });
            if sharing.is_empty() {
                continue;
            }
            let drawn = self.random.below(sharing.len() as u64) as usize;
            let listening = &mut sharing[drawn];
            if listening.backlog.len() >= BACKLOG_MAX {
                return Knock::Silence;
            }
            listening.backlog.push_back(id);
            if let Some(waker) = listening.waker.take() {
                waker.wake();
            }
            let server = Half::new(node, to);
            self.connections.insert(id, Connection::new(client, server));
            return Knock::Open(id);
        }
        Knock::Refusal
    }
}

enum Knock {
    Open(u64),
    Refusal,
    Silence,
}

impl NetFaults {
    fn draw_latency(&self, random: &mut Random) -> Duration {
        let Range { start, end } = self.latency;
        let width = u64::try_from(end.saturating_sub(start).as_nanos()).unwrap_or(u64::MAX);
        start + Duration::from_nanos(random.below(width.max(1)))
    }
}

/// The network as a node in one of its lives uses it.
#[derive(Clone)]
pub struct SimNet {
    life: Life,
}

impl SimNet {
    pub(crate) const fn new(life: Life) -> Self {
        Self { life }
    }

    /// Runs `work` with the network and the clock; none of it may run tasks.
    fn with<T>(&self, work: impl FnOnce(&mut NetState, &mut Clock) -> T) -> T {
        let mut net = self.life.world.net.borrow_mut();
        work(&mut net, &mut self.life.world.clock.borrow_mut())
    }

    /// Connections that `source` holds to `receiver`, whatever the receiver has heard of their end.
    pub fn connections(&self, source: IpAddr, receiver: IpAddr) -> usize {
        let paths = |net: &mut NetState| net.connections.values().filter(|one| one.is_held(source, receiver)).count();
        self.with(|net, _| paths(net))
    }

    /// Connections that `source` holds, by the address that they lead to.
    pub fn connections_of(&self, source: IpAddr) -> BTreeMap<IpAddr, usize> {
        self.with(|net, _| {
            let mut held = BTreeMap::new();
            for receiver in net.connections.values().filter_map(|one| one.held_by(source)) {
                *held.entry(receiver).or_default() += 1;
            }
            held
        })
    }

    /// The node whose client holds a connection.
    pub fn client_of(&self, connection: u64) -> Option<NodeId> {
        self.with(|net, _| net.connections.get(&connection).and_then(Connection::client))
    }

    async fn one_way(&self) {
        let latency = self.with(|net, _| net.faults.draw_latency(&mut net.random));
        self.life.sleep(latency).await;
    }

    async fn open(&self, source: Option<IpAddr>, to: SocketAddr) -> io::Result<SimStream> {
        let local = self.with(|net, clock| {
            if let Some(source) = source {
                net.note(clock.now(), Seen::Begins { node: self.life.node, source });
            }
            let ip = net.source(self.life.node, source, to.ip())?;
            io::Result::Ok(SocketAddr::new(ip, net.next_port()))
        })?;
        self.one_way().await;
        match self.with(|net, _| net.knock(Half::new(self.life.node, local), to)) {
            Knock::Open(id) => {
                let stream = SimStream { net: self.clone(), id, end: End::Client, local, peer: to };
                self.one_way().await;
                Ok(stream)
            }
            Knock::Refusal => {
                self.one_way().await;
                Err(io::Error::from(io::ErrorKind::ConnectionRefused))
            }
            Knock::Silence => std::future::pending().await,
        }
    }
}

impl Net for SimNet {
    type Stream = SimStream;
    type Listener = SimListener;
    type Datagrams = SimDatagrams;

    fn listen(&self, at: SocketAddr) -> io::Result<SimListener> {
        if !self.life.is_alive() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        self.with(|net, _| {
            if !at.ip().is_unspecified() && net.hosts.get(&at.ip()) != Some(&self.life.node) {
                return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
            }
            let port = if at.port() == 0 { net.next_port() } else { at.port() };
            let at = SocketAddr::new(at.ip(), port);
            let id = net.next_id();
            let listening = Listening { id, node: self.life.node, backlog: VecDeque::new(), waker: None };
            net.listeners.entry(at).or_default().push(listening);
            Ok(SimListener { net: self.clone(), id, at })
        })
    }

    fn listen_first(&self, at: SocketAddr) -> io::Result<SimListener> {
        self.listen(at)
    }

    fn listen_alone(&self, at: SocketAddr) -> io::Result<SimListener> {
        self.listen(at)
    }

    async fn connect(&self, source: Option<IpAddr>, to: SocketAddr, limit: Duration) -> io::Result<SimStream> {
        let expired = async {
            self.life.sleep(limit).await;
            Err(io::Error::from(io::ErrorKind::TimedOut))
        };
        futures_lite::future::or(self.open(source, to), expired).await
    }

    async fn datagrams(&self, to: SocketAddr) -> io::Result<SimDatagrams> {
        SimDatagrams::connect(self, to)
    }
}

/// A listening socket.
pub struct SimListener {
    net: SimNet,
    id: u64,
    at: SocketAddr,
}

impl SimListener {
    fn with<T>(&self, work: impl FnOnce(&mut Listening) -> T) -> Option<T> {
        self.net.with(|net, _| {
            let listeners = net.listeners.get_mut(&self.at)?;
            listeners.iter_mut().find(|listening| listening.id == self.id).map(work)
        })
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    fn accept(&self) -> impl Future<Output = io::Result<SimStream>> {
        poll_fn(move |cx| {
            let taken = self.with(|listening| {
                let id = listening.backlog.pop_front();
                listening.waker = id.is_none().then(|| cx.waker().clone());
                id
            });
            let Some(id) = taken else { return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe))) };
            let Some(id) = id else { return Poll::Pending };
            // The peer may be gone by now; then reading tells.
            let (local, peer) =
                self.net.with(|net, _| net.connections.get(&id).map_or((self.at, self.at), Connection::addresses));
            Poll::Ready(Ok(SimStream { net: self.net.clone(), id, end: End::Server, local, peer }))
        })
    }

    fn local(&self) -> Option<SocketAddr> {
        Some(self.at)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.net.with(|net, clock| {
            let Some(listeners) = net.listeners.get_mut(&self.at) else { return };
            let Some(position) = listeners.iter().position(|listening| listening.id == self.id) else { return };
            let gone = listeners.remove(position);
            for id in gone.backlog {
                net.abandon(id, End::Server, clock);
            }
        });
    }
}

impl NetState {
    /// One owner of a connection lets go of it.
    fn abandon(&mut self, id: u64, end: End, clock: &mut Clock) {
        if end == End::Client {
            self.note(clock.now(), Seen::Ends { connection: id });
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.abandon(id, end, &mut self.random, &self.faults, clock);
        if !connection.has_owner() {
            self.connections.remove(&id);
        }
    }
}

/// One end of a connection.
pub struct SimStream {
    net: SimNet,
    id: u64,
    end: End,
    local: SocketAddr,
    peer: SocketAddr,
}

impl SimStream {
    /// The connection's number, which both ends share.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Ends with `true` when the peer has read all that was written here so far, with `false` when it never will.
    pub fn heard(&self) -> impl Future<Output = bool> + use<> {
        let (net, id, end) = (self.net.clone(), self.id, self.end);
        poll_fn(move |cx| {
            net.with(|net, _| match net.connections.get_mut(&id) {
                Some(connection) => connection.poll_heard(end, cx),
                None => Poll::Ready(false),
            })
        })
    }

    /// Runs `work` on the connection; without one (its owner crashed) everything is a reset.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection, &mut Random, &NetFaults, &mut Clock) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.net.with(|net, clock| match net.connections.get_mut(&self.id) {
            Some(connection) => work(connection, &mut net.random, &net.faults, clock),
            None => Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset))),
        })
    }
}

impl Stream for SimStream {
    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }

    fn local(&self) -> Option<SocketAddr> {
        Some(self.local)
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.with(|connection, random, faults, _| connection.read(self.end, cx, buffer, random, faults))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|connection, random, faults, clock| {
            connection.write(self.id, self.end, cx, bytes, random, faults, clock)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|connection, random, faults, clock| connection.close(self.id, self.end, random, faults, clock))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        // After a crash the world has already ended this end, and its peer must not hear of the drop.
        if self.net.life.is_alive() {
            self.net.with(|net, clock| net.abandon(self.id, self.end, clock));
        }
    }
}

/// Connections that wait to be accepted; more are not answered.
const BACKLOG_MAX: usize = 4_096;
/// First of the ports that are given out.
const PORT_FIRST: u16 = 32_768;
