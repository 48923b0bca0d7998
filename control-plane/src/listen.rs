//! The listener of the API: plain HTTP on loopback, TLS for whoever comes from elsewhere.
//!
//! Invariants worth naming: a handshake that hangs holds up nobody else, and there is a bound on them. Absent here: what a
//! peer may do (`api`).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Peer {
    pub address: SocketAddr,
    pub proof: Proof,
}

/// What a connection says of who asks, before any request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proof {
    /// It came by plain HTTP from this host.
    Loopback,
    /// It is encrypted, and showed no certificate.
    Unknown,
    /// It showed the certificate of a host of the fleet.
    Fleet,
}

/// See the module head.
pub(crate) struct Door {
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    shaking: JoinSet<Option<(Wire, Peer)>>,
}

/// One connection.
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Door {
    /// `tls`: for a listener beyond loopback.
    pub(crate) fn new(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> Self {
        Self { listener, acceptor: tls.map(TlsAcceptor::from), shaking: JoinSet::new() }
    }

    /// The next connection whose handshake succeeded.
    pub(crate) async fn accept(&mut self) -> (Wire, Peer) {
        loop {
            let has_room = self.shaking.len() < HANDSHAKES_MAX;
            tokio::select! {
                (stream, address) = Listener::accept(&mut self.listener), if has_room => match &self.acceptor {
                    None => return (Wire::Plain(stream), Peer { address, proof: Proof::Loopback }),
                    Some(acceptor) => {
                        self.shaking.spawn(shake(acceptor.clone(), stream, address));
                    }
                },
                Some(done) = self.shaking.join_next() => {
                    if let Ok(Some(accepted)) = done {
                        return accepted;
                    }
                }
            }
        }
    }
}

async fn shake(acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) -> Option<(Wire, Peer)> {
    match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let is_known = stream.get_ref().1.peer_certificates().is_some();
            let proof = if is_known { Proof::Fleet } else { Proof::Unknown };
            Some((Wire::Tls(Box::new(stream)), Peer { address, proof }))
        }
        Ok(Err(error)) => {
            tracing::warn!(peer = %address, %error, "a connection to the control API was refused");
            None
        }
        Err(_) => None,
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// How long a handshake may take, and how many are under way at once.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const HANDSHAKES_MAX: usize = 256;
