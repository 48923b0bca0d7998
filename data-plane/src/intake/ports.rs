//! What the shards of a node know together of its listeners: who has an address, how many are connected, what went wrong.
//!
//! Every shard has a socket of its own at each address (SO_REUSEPORT). The first one listens alone before others join it:
//! with another process that has the address, the kernel would share it in silence. Locked once a connection and once a
//! change, never on the way of a message.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postrail_schema::listener::{Listener, ListenerLimits};
use serde::Serialize;

/// See the module head.
#[derive(Debug, Default)]
pub struct Ports(Mutex<BTreeMap<SocketAddr, Port>>);

#[derive(Debug)]
struct Port {
    /// Shards that listen.
    shards: u16,
    clients: Arc<Clients>,
    /// By the name of the listener: several may want one address.
    told: BTreeMap<String, Told>,
}

#[derive(Debug, Default)]
struct Told {
    protocol: &'static str,
    /// Another one has the address.
    is_displaced: bool,
    error: Option<String>,
}

/// An address, as the operator sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PortView {
    /// Of the listener; empty: it is of the host's options.
    pub listener: String,
    pub protocol: &'static str,
    pub address: SocketAddr,
    pub is_open: bool,
    pub connections: u32,
    /// Why it is not open, or not as it should be.
    pub error: Option<String>,
}

/// Who is connected to one address of this host.
#[derive(Debug, Default)]
pub struct Clients {
    all: AtomicU32,
    by_address: Mutex<BTreeMap<IpAddr, u32>>,
}

/// Which bound is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    Listener,
    Client,
}

/// A connection that is counted, until this goes.
#[derive(Debug)]
pub struct Connected {
    clients: Arc<Clients>,
    peer: IpAddr,
}

impl Ports {
    /// Gives `at` to one more shard, which listens there by `listen`: told whether it is the first, and before any other
    /// that joins it.
    ///
    /// # Errors
    /// It cannot, in the words of the system.
    pub fn claim<L>(
        &self,
        at: SocketAddr,
        listen: impl FnOnce(bool) -> io::Result<L>,
    ) -> io::Result<(L, Arc<Clients>)> {
        let mut ports = self.lock();
        let port = ports.entry(at).or_insert_with(Port::new);
        let listener = listen(port.shards == 0)?;
        port.shards += 1;
        Ok((listener, Arc::clone(&port.clients)))
    }

    /// A shard listens there no more.
    pub fn release(&self, at: SocketAddr) {
        let mut ports = self.lock();
        if let Some(port) = ports.get_mut(&at) {
            port.shards = port.shards.saturating_sub(1);
        }
    }

    /// Notes how a listener is, under the present snapshot.
    pub fn note(&self, listener: &Listener, is_displaced: bool, error: Option<String>) {
        let mut ports = self.lock();
        let port = ports.entry(listener.address).or_insert_with(Port::new);
        port.told.insert(listener.name.clone(), Told { protocol: listener.protocol.name(), is_displaced, error });
    }

    /// Forgets what nobody wants any more.
    pub fn keep(&self, is_wanted: impl Fn(&SocketAddr, &str) -> bool) {
        self.lock().retain(|at, port| {
            port.told.retain(|name, _| is_wanted(at, name));
            port.shards > 0 || !port.told.is_empty()
        });
    }

    /// All addresses, ascending.
    pub fn view(&self) -> Vec<PortView> {
        let of = |at: &SocketAddr, port: &Port, name: &String, told: &Told| PortView {
            listener: name.clone(),
            protocol: told.protocol,
            address: *at,
            is_open: port.shards > 0 && !told.is_displaced,
            connections: if told.is_displaced { 0 } else { port.clients.all.load(Ordering::Relaxed) },
            error: told.error.clone(),
        };
        let ports = self.lock();
        ports.iter().flat_map(|(at, port)| port.told.iter().map(move |(name, told)| of(at, port, name, told))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Port>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    fn new() -> Self {
        Self { shards: 0, clients: Arc::default(), told: BTreeMap::new() }
    }
}

impl Clients {
    /// Counts a connection of `peer`.
    ///
    /// # Errors
    /// A bound of `limits` is met.
    pub fn enter(self: &Arc<Self>, peer: IpAddr, limits: &ListenerLimits) -> Result<Connected, Full> {
        let mut by_address = self.lock();
        let all = self.all.load(Ordering::Relaxed);
        if limits.connections.is_some_and(|most| all >= most) {
            return Err(Full::Listener);
        }
        let of_peer = by_address.entry(peer).or_insert(0);
        if limits.connections_per_client.is_some_and(|most| *of_peer >= most) {
            return Err(Full::Client);
        }
        *of_peer += 1;
        self.all.store(all + 1, Ordering::Relaxed);
        Ok(Connected { clients: Arc::clone(self), peer })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, u32>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut by_address = self.clients.lock();
        if let Some(count) = by_address.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.peer);
            }
        }
        self.clients.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_bounded_over_all_shards_and_given_back() {
        let clients = Arc::new(Clients::default());
        let peer = |last: u8| IpAddr::from([192, 0, 2, last]);
        let limits = ListenerLimits { connections: Some(2), connections_per_client: Some(1), ..Default::default() };
        let first = clients.enter(peer(1), &limits).unwrap();
        assert_eq!(clients.enter(peer(1), &limits).unwrap_err(), Full::Client);
        let _second = clients.enter(peer(2), &limits).unwrap();
        assert_eq!(clients.enter(peer(3), &limits).unwrap_err(), Full::Listener);
        drop(first);
        assert!(clients.enter(peer(1), &limits).is_ok());
    }

    #[test]
    fn the_first_shard_that_listens_at_an_address_is_told_that_it_is() {
        let (ports, at) = (Ports::default(), "192.0.2.1:25".parse().unwrap());
        let claimed = || ports.claim(at, Ok).map(|(is_first, _)| is_first).unwrap();
        let taken = |_| Err::<(), _>(io::Error::from(io::ErrorKind::AddrInUse));
        assert!(ports.claim(at, taken).is_err());
        assert!(claimed(), "who could not listen has nothing");
        assert!(!claimed());
        ports.release(at);
        ports.release(at);
        assert!(claimed(), "nobody of ours has it any more");
    }
}
