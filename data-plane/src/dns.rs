//! The resolver's sockets: each query of the core's [`Resolver`] is one task with a socket of its own.
//!
//! There is no task that drives the machine: whoever brings an input takes the outputs, so an answer from the cache
//! costs no switch of tasks. A query's task ends when the machine is done with the query, when its time is over, or
//! when its socket fails; the caller of [`Dns::mail_hosts`] may go away at any time.
//!
//! Invariants worth naming: at most `DNS_QUERIES_MAX` sockets (the machine holds further questions back); no borrow is
//! held over an await; an ephemeral port of its own for each query, so that a forger must guess it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use async_channel::Sender;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use postrail_core::base::{Instant, Random};
use postrail_core::dns::{DnsFailure, HostRule, Input, MailHosts, Output, Resolver, ResolverConfig, ResolverState};
use postrail_core::mail::Domain;
use postrail_schema::limits::{DNS_SERVERS_MAX, DNS_UDP_BYTES};

use crate::platform::{Datagrams, Net, Platform};

/// The resolver of one shard. Cheap to clone: a handle.
pub struct Dns<P: Platform>(Rc<Inner<P>>);

type HostsResult = Result<Rc<MailHosts>, DnsFailure>;

struct Inner<P: Platform> {
    platform: P,
    resolver: RefCell<Resolver>,
    /// Queries that the machine still expects something of.
    open: RefCell<BTreeSet<u64>>,
    /// Callers that wait, by tag.
    waiting: RefCell<BTreeMap<u64, Sender<HostsResult>>>,
    last_tag: Cell<u64>,
}

impl<P: Platform> Clone for Dns<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<P: Platform> Dns<P> {
    /// A resolver with an empty cache, seeded by the platform's entropy.
    pub fn start(platform: P, config: ResolverConfig) -> Self {
        let resolver = Resolver::new(config, &mut Random::new(platform.entropy()));
        Self(Rc::new(Inner {
            platform,
            resolver: RefCell::new(resolver),
            open: RefCell::default(),
            waiting: RefCell::default(),
            last_tag: Cell::new(0),
        }))
    }

    /// Where mail of `domain` goes, at once where the cache knows.
    ///
    /// # Errors
    /// Why nowhere; [`DnsFailure::is_permanent`] says whether asking again may help.
    pub async fn mail_hosts(&self, domain: &Domain, rule: HostRule) -> HostsResult {
        let tag = self.0.last_tag.get() + 1;
        self.0.last_tag.set(tag);
        let (sender, receiver) = async_channel::bounded(1);
        self.0.waiting.borrow_mut().insert(tag, sender);
        self.step(|resolver, now| resolver.mail_hosts(now, tag, domain, rule));
        match receiver.recv().await {
            Ok(result) => result,
            Err(_) => Err(DnsFailure::Temporary("the resolver has stopped".to_owned())),
        }
    }

    /// What the resolver is doing.
    pub fn state(&self) -> ResolverState {
        self.0.resolver.borrow().state()
    }

    /// Brings an input and does what follows from it.
    fn step(&self, act: impl FnOnce(&mut Resolver, Instant)) {
        let now = self.0.platform.now();
        act(&mut self.0.resolver.borrow_mut(), now);
        loop {
            let output = self.0.resolver.borrow_mut().poll();
            match output {
                None => return,
                Some(Output::Query { query, server, wire, over_tcp, wait }) => {
                    self.0.open.borrow_mut().insert(query);
                    let task = self.clone().run(Query { query, server, wire, over_tcp, wait });
                    self.0.platform.spawn("dns query", task);
                }
                Some(Output::Done { query }) => {
                    self.0.open.borrow_mut().remove(&query);
                }
                Some(Output::Answer { tag, result, .. }) => {
                    let waiter = self.0.waiting.borrow_mut().remove(&tag);
                    if let Some(waiter) = waiter {
                        // The channel has room for its one answer; a caller that went away needs none.
                        let _ = waiter.try_send(result);
                    }
                }
            }
        }
    }

    /// One query from its socket to its end.
    async fn run(self, query: Query) {
        let exchange = async {
            if query.over_tcp { self.exchange_stream(&query).await } else { self.exchange_datagrams(&query).await }
        };
        let ended = self.0.platform.timeout(query.wait, exchange).await;
        let reason = match ended {
            Some(Ok(())) => return,
            Some(Err(error)) => format!("name server {}: {error}", query.server),
            None => format!("name server {} did not answer in time", query.server),
        };
        self.step(|resolver, now| resolver.handle(now, Input::Failed { query: query.query, reason: &reason }));
    }

    async fn exchange_datagrams(&self, query: &Query) -> io::Result<()> {
        let socket = self.0.platform.net().datagrams(query.server).await?;
        socket.send(&query.wire).await?;
        let mut buffer = vec![0; usize::from(DNS_UDP_BYTES)];
        while self.0.open.borrow().contains(&query.query) {
            let received = socket.receive(&mut buffer).await?;
            let bytes = &buffer[..received.min(usize::from(DNS_UDP_BYTES))];
            self.step(|resolver, now| resolver.handle(now, Input::Datagram { query: query.query, bytes }));
        }
        Ok(())
    }

    /// One message each way, each behind its length in two octets (RFC 1035 section 4.2.2).
    async fn exchange_stream(&self, query: &Query) -> io::Result<()> {
        let mut stream = self.0.platform.net().connect(None, query.server, query.wait).await?;
        let length = u16::try_from(query.wire.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&query.wire);
        stream.write_all(&framed).await?;
        stream.flush().await?;
        let mut length = [0; 2];
        stream.read_exact(&mut length).await?;
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut bytes).await?;
        self.step(|resolver, now| resolver.handle(now, Input::Stream { query: query.query, bytes: &bytes }));
        Ok(())
    }
}

/// What the machine wants sent.
struct Query {
    query: u64,
    server: SocketAddr,
    wire: Vec<u8>,
    over_tcp: bool,
    wait: Duration,
}

/// The name servers of `/etc/resolv.conf`, port 53; the one on loopback where the file names none (resolv.conf(5)).
pub fn system_servers() -> Vec<SocketAddr> {
    servers_of(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn servers_of(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("nameserver") {
                return None;
            }
            let address = words.next()?;
            match address.parse::<IpAddr>() {
                Ok(address) => Some(SocketAddr::new(address, 53)),
                // A link-local address with its scope as a number.
                Err(_) => format!("[{address}]:53").parse().ok(),
            }
        })
        .take(DNS_SERVERS_MAX)
        .collect();
    if servers.is_empty() {
        servers.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53));
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_resolv_conf_says() {
        for (text, servers) in [
            ("", &["127.0.0.1:53"][..]),
            ("# nameserver 192.0.2.9\nsearch example.com\n", &["127.0.0.1:53"]),
            ("nameserver 192.0.2.1\nnameserver\t2001:db8::1 \n", &["192.0.2.1:53", "[2001:db8::1]:53"]),
            ("nameserver fe80::1%2\nnameserver nonsense\n", &["[fe80::1%2]:53"]),
        ] {
            let expected: Vec<SocketAddr> = servers.iter().map(|server| server.parse().unwrap()).collect();
            assert_eq!(servers_of(text), expected, "{text:?}");
        }
        assert_eq!(servers_of(&"nameserver 192.0.2.1\n".repeat(50)).len(), DNS_SERVERS_MAX);
    }
}
