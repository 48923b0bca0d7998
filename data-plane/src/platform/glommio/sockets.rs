//! TCP connections, listening sockets and connected UDP sockets of a shard, all non-blocking and in its epoll set.
//!
//! Invariants worth naming: sockets are only *watched* for readiness and then read by plain non-blocking calls, so that any
//! future may be dropped at any time and nothing is lost with it; a socket is closed before its watch ends (the order of
//! fields). Deliberately absent: TLS, name resolution, limits of connections.

use std::cell::Cell;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncWrite};
use glommio::timer::Timer;
use socket2::{Domain, Protocol, Socket, Type};
use std::future::poll_fn;

use super::readiness::{Readiness, Watch, Way};
use super::{ShardPin, kernel};
use crate::platform::{Datagrams, Listener, Net, Stream};

/// Sockets of this shard's executor.
pub struct GlommioNet {
    pub(super) pin: ShardPin,
    pub(super) readiness: Rc<Readiness>,
}

impl Net for GlommioNet {
    type Stream = GlommioStream;
    type Listener = GlommioListener;
    type Datagrams = GlommioDatagrams;

    fn listen_first(&self, at: SocketAddr) -> io::Result<GlommioListener> {
        let listener = self.listener(self.steered(at)?, at)?;
        // The kernel lets nobody listen beside it until here, and afterwards who says the same before it listens.
        listener.socket.set_reuse_port(true)?;
        Ok(listener)
    }

    fn listen(&self, at: SocketAddr) -> io::Result<GlommioListener> {
        let socket = self.steered(at)?;
        socket.set_reuse_port(true)?;
        self.listener(socket, at)
    }

    fn listen_alone(&self, at: SocketAddr) -> io::Result<GlommioListener> {
        self.listener(unbound(at)?, at)
    }

    async fn connect(&self, source: Option<IpAddr>, to: SocketAddr, limit: Duration) -> io::Result<GlommioStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source.filter(|source| !source.is_unspecified()) {
            // The port is chosen at connect, by the four-tuple: ports do not run out before the tuples do.
            kernel::choose_port_at_connect(&socket)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            if let Some(device) = self.pin.device(source) {
                socket.bind_device(Some(device))?;
            }
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let stream = GlommioStream::new(&self.readiness, socket.into(), Some(to), false)?;
        let connected = async {
            stream.watch.ready(Way::Write).await;
            match stream.socket.take_error()? {
                Some(error) => Err(error),
                None => Ok(()),
            }
        };
        let expired = async {
            Timer::new(limit).await;
            Err(io::Error::from(io::ErrorKind::TimedOut))
        };
        futures_lite::future::or(connected, expired).await?;
        Ok(GlommioStream { local: stream.socket.local_addr().ok(), ..stream })
    }

    async fn datagrams(&self, to: SocketAddr) -> io::Result<GlommioDatagrams> {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Without SO_REUSEPORT, or answers would reach another shard's socket.
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        let watch = self.readiness.watch(&socket, true)?;
        Ok(GlommioDatagrams { socket, watch })
    }
}

impl GlommioNet {
    /// A socket for one of several listeners at an address.
    fn steered(&self, at: SocketAddr) -> io::Result<Socket> {
        let socket = unbound(at)?;
        if let Some(cpu) = self.pin.incoming_cpu() {
            // Among the shards that listen here, the one whose CPU a connection arrives on is chosen (Linux 6.2).
            socket.set_cpu_affinity(cpu)?;
        }
        Ok(socket)
    }

    fn listener(&self, socket: Socket, at: SocketAddr) -> io::Result<GlommioListener> {
        socket.bind(&at.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        let local = socket.local_addr()?.as_socket();
        let watch = self.readiness.watch(&socket, false)?;
        Ok(GlommioListener { socket, watch, readiness: Rc::clone(&self.readiness), local, unbroken: Cell::new(0) })
    }
}

/// A socket for a listener of the family of `at`.
fn unbound(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// A TCP connection.
pub struct GlommioStream {
    socket: TcpStream,
    watch: Watch,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

impl GlommioStream {
    fn new(
        readiness: &Rc<Readiness>,
        socket: TcpStream,
        peer: Option<SocketAddr>,
        connected: bool,
    ) -> io::Result<Self> {
        let watch = readiness.watch(&socket, connected)?;
        let local = if connected { socket.local_addr().ok() } else { None };
        Ok(Self { socket, watch, peer, local })
    }
}

impl Stream for GlommioStream {
    fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn local(&self) -> Option<SocketAddr> {
        self.local
    }
}

impl AsyncRead for GlommioStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = self.watch.poll(Way::Read, cx, || (&self.socket).read(buffer));
        if matches!(read, Poll::Ready(Ok(count)) if count < buffer.len()) {
            self.watch.exhausted(Way::Read);
        }
        read
    }
}

impl AsyncWrite for GlommioStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.watch.poll(Way::Write, cx, || (&self.socket).write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch.poll(Way::Write, cx, || (&self.socket).write_vectored(parts))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our direction; the peer reads end of file, and what it still sends can be read.
    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

/// A listening socket. One task at a time waits in [`Listener::accept`].
pub struct GlommioListener {
    socket: Socket,
    watch: Watch,
    readiness: Rc<Readiness>,
    local: Option<SocketAddr>,
    /// Connections accepted since the task last waited or yielded.
    unbroken: Cell<u32>,
}

impl Listener for GlommioListener {
    type Stream = GlommioStream;

    async fn accept(&self) -> io::Result<GlommioStream> {
        if self.unbroken.get() >= ACCEPTS_UNBROKEN_MAX {
            self.unbroken.set(0);
            glommio::executor().yield_task_queue_now().await;
        }
        loop {
            let accepted = poll_fn(|cx| {
                let accepted = self.watch.poll(Way::Read, cx, || self.socket.accept());
                if accepted.is_pending() {
                    self.unbroken.set(0);
                }
                accepted
            });
            match accepted.await {
                Ok((socket, peer)) => {
                    self.unbroken.set(self.unbroken.get() + 1);
                    socket.set_nonblocking(true)?;
                    socket.set_tcp_nodelay(true)?;
                    return GlommioStream::new(&self.readiness, socket.into(), peer.as_socket(), true);
                }
                // The peer was gone before we came.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn local(&self) -> Option<SocketAddr> {
        self.local
    }
}

/// A connected UDP socket. One task at a time waits in `send`, one in `receive`.
pub struct GlommioDatagrams {
    socket: UdpSocket,
    watch: Watch,
}

impl Datagrams for GlommioDatagrams {
    async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        poll_fn(|cx| self.watch.poll(Way::Write, cx, || self.socket.send(datagram))).await.map(drop)
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.watch.poll(Way::Read, cx, || self.socket.recv(buffer))).await
    }
}

/// Connections that wait in the kernel to be accepted; the kernel cuts it to net.core.somaxconn.
const LISTEN_BACKLOG: i32 = 4_096;
/// Connections accepted without a wait before other tasks get their turn.
const ACCEPTS_UNBROKEN_MAX: u32 = 32;
