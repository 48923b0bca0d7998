//! The connections of the API: each is served by a task of its own, and none can take what others need.
//!
//! Invariants worth naming: there is a bound on connections, in all and of one address, and on how long the head of a request
//! may take to come, which is also how long a connection may be idle. Absent here: what a request may do and how long its
//! body may take (`api`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::listen::{Door, Peer};

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once: over it, new ones are closed.
    pub connections: usize,
    /// Of these, from one address.
    pub of_one_address: usize,
    /// From when a connection waits for a request until its head is there.
    pub head: Duration,
    /// For requests under way when the server stops.
    pub last: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // Clients close idle connections after 90 s at most, as a rule: they are to be the first.
        let head = Duration::from_secs(100);
        Self { connections: 4_096, of_one_address: 1_024, head, last: Duration::from_secs(10) }
    }
}

/// Serves what comes through `door` until `stop` is true, and then what is under way.
pub(crate) async fn serve(mut door: Door, router: Router, limits: Limits, mut stop: watch::Receiver<bool>) {
    let seats = Arc::new(Seats { taken: Mutex::default(), limits });
    let graceful = GracefulShutdown::new();
    let mut told: Option<Instant> = None;
    loop {
        let (wire, peer) = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = door.accept() => accepted,
        };
        let Some(seat) = Seats::take(&seats, peer.address.ip()) else {
            if told.is_none_or(|told| told.elapsed() > TOLD_AGAIN) {
                told = Some(Instant::now());
                tracing::warn!(
                    peer = %peer.address,
                    connections = limits.connections,
                    of_one_address = limits.of_one_address,
                    "there are too many connections to the control API: further ones are closed"
                );
            }
            continue;
        };
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo::<Peer>(peer));
            router.call(request)
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(limits.head);
        let connection = graceful.watch(http.serve_connection(TokioIo::new(wire), service));
        tokio::spawn(async move {
            let _seat = seat;
            // What a client does to its connection concerns nobody else.
            if let Err(error) = connection.await {
                tracing::debug!(peer = %peer.address, %error, "a connection to the control API broke off");
            }
        });
    }
    drop(door);
    if timeout(limits.last, graceful.shutdown()).await.is_err() {
        tracing::warn!("the control API ends with requests under way");
    }
}

struct Seats {
    taken: Mutex<Taken>,
    limits: Limits,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// Of addresses that have none there is no entry.
    of: HashMap<IpAddr, usize>,
}

/// A connection's place, until it is dropped.
struct Seat {
    seats: Arc<Seats>,
    address: IpAddr,
}

impl Seats {
    fn take(seats: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let mut taken = seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = taken.of.get(&address).copied().unwrap_or(0);
        if taken.all >= seats.limits.connections || of_it >= seats.limits.of_one_address {
            return None;
        }
        taken.all += 1;
        taken.of.insert(address, of_it + 1);
        Some(Seat { seats: Arc::clone(seats), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Entry::Occupied(mut of_it) = taken.of.entry(self.address) {
            *of_it.get_mut() -= 1;
            if *of_it.get() == 0 {
                of_it.remove();
            }
        }
    }
}

/// That connections are closed is told so often at most.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
