//! Accepts connections of one listener and gives each a task of its own, within bounds.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;
use postrail_core::base::{Map, MapSeed, Random};
use postrail_schema::limits::{INTAKE_SESSIONS_MAX, INTAKE_SESSIONS_PER_PEER_MAX};

use super::{rest, smtp};
use crate::platform::{Listener, Net, Platform, Stream};
use crate::shard::Runtime;

/// What a listener speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// SMTP submission, STARTTLS offered.
    Smtp,
    /// SMTP submission by implicit TLS (RFC 8314).
    Smtps,
    /// REST submission; TLS everywhere but on loopback.
    Rest,
}

/// Sessions by peer, shared by all listeners of a shard.
#[derive(Clone)]
pub struct Peers(Rc<RefCell<Map<IpAddr, usize>>>);

impl Peers {
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(MapSeed::new(&mut Random::new(seed)).map())))
    }

    fn enter(&self, peer: IpAddr) -> bool {
        let mut peers = self.0.borrow_mut();
        let count = peers.entry(peer).or_insert(0);
        if *count >= INTAKE_SESSIONS_PER_PEER_MAX {
            return false;
        }
        *count += 1;
        true
    }

    fn leave(&self, peer: IpAddr) {
        let mut peers = self.0.borrow_mut();
        if let Some(count) = peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&peer);
            }
        }
    }
}

/// Binds `at` on this shard.
///
/// # Errors
/// The address is in use or not ours.
pub fn bind<P: Platform>(platform: &P, at: SocketAddr) -> io::Result<<P::Net as Net>::Listener> {
    platform.net().listen(at)
}

/// Accepts until the shard drains.
pub async fn run<P: Platform>(
    runtime: Runtime<P>,
    listener: <P::Net as Net>::Listener,
    service: Service,
    peers: Peers,
) {
    let platform = runtime.platform().clone();
    while !runtime.is_draining() {
        let until = platform.now() + Duration::from_millis(100);
        let accepted = or(async { Some(listener.accept().await) }, async {
            platform.sleep_until(until).await;
            None
        });
        match accepted.await {
            None => {}
            Some(Ok(stream)) => admit(&runtime, stream, service, &peers),
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                platform.sleep_until(platform.now() + Duration::from_millis(50)).await;
            }
        }
    }
}

fn admit<P: Platform>(runtime: &Runtime<P>, stream: <P::Net as Net>::Stream, service: Service, peers: &Peers) {
    let Some(peer) = stream.peer() else { return };
    if !peers.enter(peer.ip()) {
        return;
    }
    if runtime.count_intake_session(true) > INTAKE_SESSIONS_MAX {
        runtime.count_intake_session(false);
        peers.leave(peer.ip());
        return;
    }
    let guard = Admitted { runtime: runtime.clone(), peers: peers.clone(), peer: peer.ip(), left: Cell::new(false) };
    let inner = runtime.clone();
    runtime.platform().spawn("intake session", async move {
        match service {
            Service::Smtp => smtp::run(inner, stream, peer, false).await,
            Service::Smtps => smtp::run(inner, stream, peer, true).await,
            Service::Rest => rest::run(inner, stream, peer).await,
        }
        guard.leave();
    });
}

/// Counts a session out when its task ends, also by a panic.
struct Admitted<P: Platform> {
    runtime: Runtime<P>,
    peers: Peers,
    peer: IpAddr,
    left: Cell<bool>,
}

impl<P: Platform> Admitted<P> {
    fn leave(&self) {
        if !self.left.replace(true) {
            self.runtime.count_intake_session(false);
            self.peers.leave(self.peer);
        }
    }
}

impl<P: Platform> Drop for Admitted<P> {
    fn drop(&mut self) {
        self.leave();
    }
}
