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
    use std::io::{Read, Write};
    use std::net::{TcpListener, UdpSocket};
    use std::num::NonZeroU16;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::platform::glommio::{Glommio, ShardThreads, run_shards};

    #[test]
    fn hosts_are_found_by_datagrams_and_remembered() {
        let server = Server::start();
        let asked = Arc::clone(&server.asked);
        let results = with_dns(config(server.at), async move |dns| {
            let first = lookup(&dns, "a.example").await;
            (first, asked.load(Ordering::SeqCst), lookup(&dns, "a.example").await, asked.load(Ordering::SeqCst))
        });
        let found = "a.example: [192.0.2.1]".to_owned();
        assert_eq!(results, (found.clone(), 3, found, 3));
    }

    #[test]
    fn a_truncated_answer_is_fetched_by_stream() {
        let server = Server::start();
        let found = with_dns(config(server.at), async |dns| lookup(&dns, "big.example").await);
        assert_eq!(found, "big.example: [192.0.2.1]");
    }

    #[test]
    fn many_domains_are_looked_up_at_once_and_callers_may_go() {
        let server = Server::start();
        let (found, left) = with_dns(config(server.at), async |dns| {
            let gone = Domain::parse("gone.example").unwrap();
            let impatient = dns.0.platform.timeout(Duration::ZERO, dns.mail_hosts(&gone, HostRule::default())).await;
            assert!(impatient.is_none());
            let domains: Vec<String> = (0..100).map(|number| format!("d{number}.example")).collect();
            let found = join_all(domains.iter().map(|domain| lookup(&dns, domain))).await;
            while dns.state().lookups > 0 {
                dns.0.platform.yield_now().await;
            }
            (found, dns.0.waiting.borrow().len() + dns.0.open.borrow().len())
        });
        assert!((0..100).all(|number| found[number] == format!("d{number}.example: [192.0.2.1]")), "{found:?}");
        assert_eq!(left, 0, "nothing is kept of a lookup that has ended");
    }

    #[test]
    fn a_server_that_is_silent_or_not_there_fails_for_now() {
        let server = Server::start();
        let hasty = ResolverConfig { timeout: Duration::from_millis(50), attempts: 2, ..config(server.at) };
        let silent = with_dns(hasty, async |dns| lookup(&dns, "silent.example").await);
        assert!(silent.contains("in time"), "{silent}");
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = with_dns(config(closed), async |dns| lookup(&dns, "a.example").await);
        assert!(refused.starts_with("name resolution failed"), "{refused}");
    }

    fn config(server: SocketAddr) -> ResolverConfig {
        ResolverConfig {
            servers: vec![server],
            timeout: Duration::from_secs(2),
            attempts: 4,
            own_names: Vec::new(),
            own_addresses: Vec::new(),
        }
    }

    /// Runs `work` on a shard of its own.
    fn with_dns<W, T>(config: ResolverConfig, work: W) -> T
    where
        W: AsyncFn(Dns<Glommio>) -> T + Clone + Send + 'static,
        T: Send + 'static,
    {
        let shard = move |_, platform| {
            let (config, work) = (config.clone(), work.clone());
            async move { work(Dns::start(platform, config)).await }
        };
        run_shards(&ShardThreads::new(NonZeroU16::MIN), shard).unwrap().pop().unwrap()
    }

    async fn lookup(dns: &Dns<Glommio>, domain: &str) -> String {
        match dns.mail_hosts(&Domain::parse(domain).unwrap(), HostRule::default()).await {
            Ok(hosts) => format!("{}: {:?}", hosts.site, hosts.hosts[0].addresses),
            Err(failure) => failure.reason(),
        }
    }

    /// A name server on loopback, on threads that end with the test's process. Every name has one A record; names in
    /// `silent` get no answer, those in `big` get it by TCP only.
    struct Server {
        at: SocketAddr,
        asked: Arc<AtomicUsize>,
    }

    impl Server {
        fn start() -> Self {
            let (datagrams, streams) = loop {
                let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
                // The port of the same number may be taken for TCP.
                if let Ok(streams) = TcpListener::bind(datagrams.local_addr().unwrap()) {
                    break (datagrams, streams);
                }
            };
            let server = Self { at: datagrams.local_addr().unwrap(), asked: Arc::default() };
            let asked = Arc::clone(&server.asked);
            std::thread::spawn(move || {
                let mut buffer = [0; 512];
                while let Ok((length, peer)) = datagrams.recv_from(&mut buffer) {
                    asked.fetch_add(1, Ordering::SeqCst);
                    match answer(&buffer[..length]) {
                        _ if buffer[13..].starts_with(b"silent") => {}
                        mut bytes if buffer[13..].starts_with(b"big") => {
                            bytes[2] |= 2;
                            datagrams.send_to(&bytes, peer).unwrap();
                        }
                        bytes => assert!(datagrams.send_to(&bytes, peer).is_ok()),
                    }
                }
            });
            std::thread::spawn(move || {
                for mut stream in streams.incoming().map_while(Result::ok) {
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).unwrap();
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query).unwrap();
                    let bytes = answer(&query);
                    stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
                    // In two parts, as a network may cut it.
                    stream.write_all(&bytes[..7]).unwrap();
                    stream.write_all(&bytes[7..]).unwrap();
                }
            });
            server
        }
    }

    /// The query's header and question with the authority bit, and 192.0.2.1 where an A record was asked for.
    fn answer(query: &[u8]) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let mut bytes = query[..end].to_vec();
        bytes[2] |= 0x84;
        bytes[6..12].fill(0);
        if bytes[end - 4..end] == [0, 1, 0, 1] {
            bytes[7] = 1;
            bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        }
        bytes
    }

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
