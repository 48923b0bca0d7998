//! Datagrams: lost, doubled and overtaken by the seed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Poll, Waker};

use postrail_data_plane::platform::Datagrams;

use super::{Arrival, NetFaults, NetState, SimNet};
use crate::clock::{Clock, Due};
use crate::world::NodeId;

/// One datagram socket.
pub(super) struct Endpoint {
    node: NodeId,
    /// The only peer it hears, if it is connected.
    peer: Option<SocketAddr>,
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
    is_refused: bool,
    waker: Option<Waker>,
}

impl Endpoint {
    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn refuse(&mut self) {
        self.is_refused = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl NetState {
    fn send_datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], clock: &mut Clock) {
        let Self { random, faults, .. } = self;
        let copies = 1 + usize::from(random.chance(faults.datagram_doubles_percent));
        for _ in 0..copies {
            if random.chance(faults.datagram_losses_percent) {
                continue;
            }
            let mut latency = faults.draw_latency(random);
            if random.chance(faults.datagram_detours_percent) {
                latency += NetFaults::DETOUR;
            }
            let arrival = Arrival::Datagram { from, to, bytes: bytes.to_vec() };
            clock.at(clock.now() + latency, Due::Arrive(arrival));
        }
    }

    pub(super) fn arrive_datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, clock: &mut Clock) {
        let (Some(sender), Some(receiver)) = (self.hosts.get(&from.ip()), self.hosts.get(&to.ip())) else { return };
        if self.cuts.contains(&(*sender, *receiver)) {
            return;
        }
        match self.endpoints.get_mut(&to) {
            Some(endpoint) => {
                let is_heard = endpoint.peer.is_none_or(|peer| peer == from);
                if is_heard && endpoint.queue.len() < QUEUE_MAX {
                    endpoint.queue.push_back((from, bytes));
                    endpoint.wake();
                }
            }
            None => {
                let latency = self.faults.draw_latency(&mut self.random);
                clock.at(clock.now() + latency, Due::Arrive(Arrival::Unreachable { at: from }));
            }
        }
    }

    fn open_endpoint(&mut self, node: NodeId, at: SocketAddr, peer: Option<SocketAddr>) -> io::Result<()> {
        if self.endpoints.contains_key(&at) {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        let endpoint = Endpoint { node, peer, queue: VecDeque::new(), is_refused: false, waker: None };
        self.endpoints.insert(at, endpoint);
        Ok(())
    }
}

/// A datagram socket of one node; closed when dropped.
struct Socket {
    net: SimNet,
    at: SocketAddr,
}

impl Socket {
    async fn receive(&self) -> io::Result<(SocketAddr, Vec<u8>)> {
        poll_fn(|cx| {
            self.net.with(|net, _| {
                let Some(endpoint) = net.endpoints.get_mut(&self.at) else {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)));
                };
                if std::mem::take(&mut endpoint.is_refused) {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused)));
                }
                match endpoint.queue.pop_front() {
                    Some(datagram) => Poll::Ready(Ok(datagram)),
                    None => {
                        endpoint.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
        })
        .await
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.net.life.is_alive() {
            self.net.with(|net, _| net.endpoints.remove(&self.at));
        }
    }
}

/// A connected datagram socket.
pub struct SimDatagrams {
    socket: Socket,
    peer: SocketAddr,
}

impl SimDatagrams {
    pub(super) fn connect(net: &SimNet, peer: SocketAddr) -> io::Result<Self> {
        let node = net.life.node;
        let at = net.with(|state, _| {
            let at = SocketAddr::new(state.source(node, None, peer.ip())?, state.next_port());
            state.open_endpoint(node, at, Some(peer))?;
            io::Result::Ok(at)
        })?;
        Ok(Self { socket: Socket { net: net.clone(), at }, peer })
    }
}

impl Datagrams for SimDatagrams {
    async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.net.with(|net, clock| net.send_datagram(self.socket.at, self.peer, datagram, clock));
        Ok(())
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, datagram) = self.socket.receive().await?;
        let count = datagram.len().min(buffer.len());
        buffer[..count].copy_from_slice(&datagram[..count]);
        Ok(count)
    }
}

/// A datagram socket that answers whoever asks; for counterparts like [`crate::dns`].
pub struct SimDatagramServer(Socket);

impl SimDatagramServer {
    /// Receives what is sent to `at`, an address of this node.
    ///
    /// # Errors
    /// `AddrInUse`; `AddrNotAvailable` where `at` is no address of this node.
    pub fn bind(net: &SimNet, at: SocketAddr) -> io::Result<Self> {
        let node = net.life.node;
        net.with(|state, _| {
            if state.hosts.get(&at.ip()) != Some(&node) {
                return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
            }
            state.open_endpoint(node, at, None)
        })?;
        Ok(Self(Socket { net: net.clone(), at }))
    }

    /// The next datagram and who sent it.
    ///
    /// # Errors
    /// `BrokenPipe` when the node has crashed, `ConnectionRefused` when an answer found nobody.
    pub async fn receive(&self) -> io::Result<(SocketAddr, Vec<u8>)> {
        self.0.receive().await
    }

    pub fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.0.net.with(|net, clock| net.send_datagram(self.0.at, to, datagram, clock));
    }
}

/// Datagrams that wait to be received; more are lost.
const QUEUE_MAX: usize = 1_024;
