//! One connection: two ends, and segments under way between them.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};

use postrail_core::base::{Instant, Random};

use super::{Arrival, NetFaults};
use crate::clock::{Clock, Due};
use crate::world::NodeId;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Client,
    Server,
}

impl End {
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What goes from one end to the other.
pub(crate) enum Segment {
    Data(Vec<u8>),
    Fin,
    Reset,
}

impl Segment {
    /// A number for the trace.
    pub(super) fn weight(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Fin => u64::MAX - 1,
            Self::Reset => u64::MAX,
        }
    }
}

pub(super) struct Connection {
    client: Half,
    server: Half,
    /// Nothing arrives any more, and nobody is told.
    is_silent: bool,
}

/// One end.
pub(super) struct Half {
    pub(super) node: NodeId,
    address: SocketAddr,
    /// Somebody holds this end.
    is_owned: bool,
    /// Arrived and not read.
    inbox: VecDeque<u8>,
    /// The peer has ended its direction.
    is_ended: bool,
    /// We have ended ours.
    is_closed: bool,
    is_reset: bool,
    /// Sent by us and not read by the peer, octets.
    outstanding: usize,
    /// When the last segment towards this end arrives: later ones may not overtake it.
    arrival: Instant,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Waits for the peer to have read all that we sent, or never to.
    listener: Option<Waker>,
}

impl Half {
    pub(super) fn new(node: NodeId, address: SocketAddr) -> Self {
        Self {
            node,
            address,
            is_owned: true,
            inbox: VecDeque::new(),
            is_ended: false,
            is_closed: false,
            is_reset: false,
            outstanding: 0,
            arrival: Instant::ZERO,
            reader: None,
            writer: None,
            listener: None,
        }
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take(), self.listener.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn reset(&mut self) {
        self.is_reset = true;
        self.inbox.clear();
        self.wake();
    }
}

impl Connection {
    pub(super) const fn new(client: Half, server: Half) -> Self {
        Self { client, server, is_silent: false }
    }

    /// The nodes of both ends, client first.
    pub(super) const fn nodes(&self) -> (NodeId, NodeId) {
        (self.client.node, self.server.node)
    }

    /// The server's address and the client's.
    pub(super) const fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.server.address, self.client.address)
    }

    /// Whether a client at `source` holds it, and it leads to `receiver`.
    pub(super) fn is_held(&self, source: IpAddr, receiver: IpAddr) -> bool {
        self.client.is_owned && self.client.address.ip() == source && self.server.address.ip() == receiver
    }

    /// Where it leads, if a client at `source` holds it.
    pub(super) fn held_by(&self, source: IpAddr) -> Option<IpAddr> {
        let receiver = self.server.address.ip();
        self.is_held(source, receiver).then_some(receiver)
    }

    /// The node of a client that holds it.
    pub(super) fn client(&self) -> Option<NodeId> {
        self.client.is_owned.then_some(self.client.node)
    }

    /// Nothing passes any more if one of its ends is at `address`.
    pub(super) fn silence(&mut self, address: IpAddr) {
        self.is_silent |= [&self.client, &self.server].into_iter().any(|half| half.address.ip() == address);
    }

    pub(super) const fn has_owner(&self) -> bool {
        self.client.is_owned || self.server.is_owned
    }

    const fn half(&mut self, end: End) -> &mut Half {
        match end {
            End::Client => &mut self.client,
            End::Server => &mut self.server,
        }
    }

    fn send(&mut self, id: u64, to: End, segment: Segment, random: &mut Random, faults: &NetFaults, clock: &mut Clock) {
        let when = (clock.now() + faults.draw_latency(random)).max(self.half(to).arrival);
        self.half(to).arrival = when;
        clock.at(when, Due::Arrive(Arrival::Segment { connection: id, to, segment }));
    }

    pub(super) fn arrive(
        &mut self,
        id: u64,
        to: End,
        segment: Segment,
        random: &mut Random,
        faults: &NetFaults,
        clock: &mut Clock,
    ) {
        if random.below(1_000_000) < faults.silences_per_million {
            self.is_silent = true;
        }
        if self.is_silent {
            return;
        }
        if random.below(1_000_000) < faults.resets_per_million {
            self.client.reset();
            self.server.reset();
            return;
        }
        let half = self.half(to);
        match segment {
            Segment::Reset => half.reset(),
            Segment::Data(_) if !half.is_owned => self.send(id, to.other(), Segment::Reset, random, faults, clock),
            Segment::Data(bytes) if !half.is_reset => {
                half.inbox.extend(bytes);
                half.wake();
            }
            Segment::Data(_) => {}
            Segment::Fin => {
                half.is_ended = true;
                half.wake();
            }
        }
    }

    pub(super) fn read(
        &mut self,
        end: End,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        random: &mut Random,
        faults: &NetFaults,
    ) -> Poll<io::Result<usize>> {
        let half = self.half(end);
        if half.is_reset {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        if buffer.is_empty() || (half.inbox.is_empty() && half.is_ended) {
            return Poll::Ready(Ok(0));
        }
        if half.inbox.is_empty() {
            half.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(count) = shorten(buffer.len().min(half.inbox.len()), cx, random, faults) else { return Poll::Pending };
        for (place, octet) in buffer.iter_mut().zip(half.inbox.drain(..count)) {
            *place = octet;
        }
        let peer = self.half(end.other());
        peer.outstanding = peer.outstanding.saturating_sub(count);
        for waker in [peer.writer.take(), peer.listener.take()].into_iter().flatten() {
            waker.wake();
        }
        Poll::Ready(Ok(count))
    }

    /// Whether the peer of `end` has read all that was sent to it; `false` once it never will.
    pub(super) fn poll_heard(&mut self, end: End, cx: &Context<'_>) -> Poll<bool> {
        let is_peer_there = self.half(end.other()).is_owned;
        let half = self.half(end);
        if half.outstanding == 0 {
            return Poll::Ready(true);
        }
        if half.is_reset || !is_peer_there {
            return Poll::Ready(false);
        }
        half.listener = Some(cx.waker().clone());
        Poll::Pending
    }

    #[expect(clippy::too_many_arguments, reason = "the world is passed in parts, because they are borrowed in parts")]
    pub(super) fn write(
        &mut self,
        id: u64,
        end: End,
        cx: &mut Context<'_>,
        bytes: &[u8],
        random: &mut Random,
        faults: &NetFaults,
        clock: &mut Clock,
    ) -> Poll<io::Result<usize>> {
        let half = self.half(end);
        if half.is_reset {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        if half.is_closed {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = WINDOW_BYTES - half.outstanding;
        if room == 0 {
            half.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(count) = shorten(room.min(bytes.len()), cx, random, faults) else { return Poll::Pending };
        half.outstanding += count;
        self.send(id, end.other(), Segment::Data(bytes[..count].to_vec()), random, faults, clock);
        Poll::Ready(Ok(count))
    }

    /// Ends our direction.
    pub(super) fn close(
        &mut self,
        id: u64,
        end: End,
        random: &mut Random,
        faults: &NetFaults,
        clock: &mut Clock,
    ) -> Poll<io::Result<()>> {
        let half = self.half(end);
        if half.is_reset {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::NotConnected)));
        }
        if !half.is_closed {
            half.is_closed = true;
            self.send(id, end.other(), Segment::Fin, random, faults, clock);
        }
        Poll::Ready(Ok(()))
    }

    /// The owner of an end drops it: with octets unread that is a reset, as TCP does it.
    pub(super) fn abandon(&mut self, id: u64, end: End, random: &mut Random, faults: &NetFaults, clock: &mut Clock) {
        let half = self.half(end);
        if !half.is_owned {
            return;
        }
        half.is_owned = false;
        let has_unread = !half.inbox.is_empty();
        let says_nothing = half.is_reset || (half.is_closed && !has_unread);
        half.is_closed = true;
        half.inbox.clear();
        if let Some(listener) = self.half(end.other()).listener.take() {
            listener.wake();
        }
        if !says_nothing {
            let segment = if has_unread { Segment::Reset } else { Segment::Fin };
            self.send(id, end.other(), segment, random, faults, clock);
        }
    }

    /// A node is gone: its peer hears a reset, or nothing ever again.
    pub(super) fn crash(&mut self, id: u64, node: NodeId, random: &mut Random, faults: &NetFaults, clock: &mut Clock) {
        for end in [End::Client, End::Server] {
            let half = self.half(end);
            if half.node != node || !half.is_owned {
                continue;
            }
            half.is_owned = false;
            half.inbox.clear();
            half.reader = None;
            half.writer = None;
            half.listener = None;
            if let Some(listener) = self.half(end.other()).listener.take() {
                listener.wake();
            }
            if random.chance(50) {
                self.send(id, end.other(), Segment::Reset, random, faults, clock);
            } else {
                self.is_silent = true;
            }
        }
    }
}

/// How many of `count` octets move now: by the seed fewer, or `None` for "try again", with the task woken at once.
fn shorten(count: usize, cx: &Context<'_>, random: &mut Random, faults: &NetFaults) -> Option<usize> {
    if !random.chance(faults.short_percent) {
        return Some(count);
    }
    if random.chance(25) {
        cx.waker().wake_by_ref();
        return None;
    }
    Some(1 + random.below(count as u64) as usize)
}

/// Octets that one end may have sent without the other having read them.
const WINDOW_BYTES: usize = 64 * 1024;
