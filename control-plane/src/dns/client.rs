//! Asks name servers over the network, each question on a socket of its own.
//!
//! A question goes to the configured servers in turn, a few times, until one says something; a truncated answer is asked
//! for again by TCP. The socket's random port and the random id are what keeps an answer from being forged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::rand;
use postrail_schema::limits::DNS_STRAYS_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::wire::{Question, Reply};
use super::{Answer, Failure, Found, Kind, Lookup};

/// See the module head.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// Asks `servers`, in this order.
    pub(crate) const fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }
}

impl Lookup for Resolver {
    async fn ask(&self, name: &str, kind: Kind) -> Answer {
        let Some(question) = Question::new(name, kind) else { return Answer::failed(None, Failure::Name) };
        let mut last = Answer::failed(None, Failure::NoServer);
        for server in self.servers.iter().cycle().take(self.servers.len().clamp(ATTEMPTS_MIN, ATTEMPTS_MAX)) {
            let found = ask_server(*server, &question, true).await.unwrap_or_else(Found::Failed);
            last = Answer { server: Some(*server), found };
            if last.failure().is_none() {
                break;
            }
        }
        last
    }

    async fn ask_at(&self, server: IpAddr, name: &str, kind: Kind) -> Answer {
        let server = SocketAddr::new(server, DNS_PORT);
        let Some(question) = Question::new(name, kind) else { return Answer::failed(Some(server), Failure::Name) };
        // Who owns a zone names its servers: without this they could aim our questions at hosts inside.
        if !is_public(server.ip()) {
            return Answer::failed(Some(server), Failure::Unreachable);
        }
        let found = ask_server(server, &question, false).await.unwrap_or_else(Found::Failed);
        Answer { server: Some(server), found }
    }
}

async fn ask_server(server: SocketAddr, question: &Question, recursion: bool) -> Result<Found, Failure> {
    for edns in [true, false] {
        let id = random_id()?;
        let wire = question.encode(id, recursion, edns).ok_or(Failure::Name)?;
        let by_udp = timeout(ATTEMPT_TIMEOUT, ask_by_udp(server, question, id, &wire));
        let mut reply = by_udp.await.map_err(|_| Failure::Timeout)??;
        if reply == Reply::Truncated {
            let by_tcp = timeout(ATTEMPT_TIMEOUT, ask_by_tcp(server, question, id, &wire));
            reply = by_tcp.await.map_err(|_| Failure::Timeout)??;
        }
        match reply {
            Reply::Said(found) => return Ok(found),
            Reply::NoEdns => {}
            Reply::Stray | Reply::Truncated => return Err(Failure::Malformed),
        }
    }
    Err(Failure::OtherCode)
}

/// The first datagram that answers the question.
async fn ask_by_udp(server: SocketAddr, question: &Question, id: u16, wire: &[u8]) -> Result<Reply, Failure> {
    let unreachable = |_| Failure::Unreachable;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(unreachable)?;
    socket.connect(server).await.map_err(unreachable)?;
    socket.send(wire).await.map_err(unreachable)?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    for _ in 0..=DNS_STRAYS_MAX {
        let length = socket.recv(&mut buffer).await.map_err(unreachable)?;
        match question.decode(&buffer[..length], id) {
            Reply::Stray => {}
            reply => return Ok(reply),
        }
    }
    Ok(Reply::Truncated)
}

async fn ask_by_tcp(server: SocketAddr, question: &Question, id: u16, wire: &[u8]) -> Result<Reply, Failure> {
    let unreachable = |_| Failure::Unreachable;
    let mut stream = TcpStream::connect(server).await.map_err(unreachable)?;
    let length = u16::try_from(wire.len()).map_err(|_| Failure::Name)?;
    let framed = [&length.to_be_bytes()[..], wire].concat();
    stream.write_all(&framed).await.map_err(unreachable)?;
    let length = stream.read_u16().await.map_err(unreachable)?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await.map_err(unreachable)?;
    Ok(question.decode(&buffer, id))
}

fn random_id() -> Result<u16, Failure> {
    let mut octets = [0; 2];
    rand::fill(&mut octets).map_err(|_| Failure::Unreachable)?;
    Ok(u16::from_be_bytes(octets))
}

/// Whether an address is one of the Internet, as far as its form tells.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let reserved = a == 0 || (a == 100 && (64..128).contains(&b)) || v4.is_broadcast() || v4.is_multicast();
            let local = v4.is_loopback() || v4.is_private() || v4.is_link_local();
            !(reserved || local)
        }
        IpAddr::V6(v6) => {
            let local = v6.is_unique_local() || v6.is_unicast_link_local();
            !(v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || local)
        }
    }
}

/// One attempt's time; two seconds are long for a name server, and a check has tens of questions.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts for one question, over all servers.
const ATTEMPTS_MIN: usize = 2;
const ATTEMPTS_MAX: usize = 4;
const DATAGRAM_BYTES_MAX: usize = 4_096;
const DNS_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_is_silent_is_a_timeout_and_the_next_one_is_asked() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let talker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let servers = vec![silent.local_addr().unwrap(), talker.local_addr().unwrap()];
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (length, from) = talker.recv_from(&mut buffer).await.unwrap();
            buffer[2] |= 0x80;
            buffer[3] = 3;
            talker.send_to(&buffer[..length], from).await.unwrap();
        });
        let answer = Resolver::new(servers.clone()).ask("a.example", Kind::Txt).await;
        answering.await.unwrap();
        assert_eq!(answer, Answer { server: Some(servers[1]), found: Found::NoName });
        let alone = Resolver::new(vec![servers[0]]).ask("a.example", Kind::Txt).await;
        assert_eq!(alone, Answer::failed(Some(servers[0]), Failure::Timeout));
    }

    #[tokio::test]
    async fn a_zone_cannot_aim_questions_at_hosts_inside() {
        for address in ["127.0.0.1", "10.1.2.3", "::1", "fe80::1", "169.254.1.1", "100.64.0.1", "::ffff:10.0.0.1"] {
            let answer = Resolver::new(Vec::new()).ask_at(address.parse().unwrap(), "a.example", Kind::Txt).await;
            assert_eq!(answer.failure(), Some(Failure::Unreachable), "{address}");
        }
        assert!(is_public("192.0.2.1".parse().unwrap()) && is_public("2001:db8::1".parse().unwrap()));
    }
}
