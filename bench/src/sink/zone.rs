//! The name server of the receivers: authoritative for their zones, over UDP and TCP, on any port.
//!
//! A zone answers for itself and every name below it: `MX 10 mx.<zone>`, and the receiver's address for `mx.<zone>`.
//! Everything else in a zone has no data; names outside are refused. Deliberately absent: DNSSEC, zone transfer,
//! compression of work (an answer is made anew each time; resolvers cache).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, MX, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Time to live of every record, seconds.
const TTL: u32 = 300;
/// A question over UDP, octets.
const QUESTION_BYTES_MAX: usize = 1_232;
/// Time to wait for the next question on a TCP connection.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Tries to find a port that is free for both UDP and TCP.
const BIND_TRIES: usize = 32;

/// One receiver's zone.
#[derive(Clone, Debug)]
pub struct Zone {
    apex: Name,
    host: Name,
    address: IpAddr,
}

impl Zone {
    /// The zone `apex` whose mail is received at `address`.
    ///
    /// # Errors
    /// `apex` is no domain name.
    pub fn new(apex: &str, address: IpAddr) -> io::Result<Self> {
        let parse =
            |text: &str| Name::from_ascii(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
        let apex = format!("{}.", apex.trim_end_matches('.'));
        Ok(Self { host: parse(&format!("mx.{apex}"))?, apex: parse(&apex)?, address })
    }

    /// Adds the records of `name` and `kind` to `response`; false where there are none.
    fn answer(&self, name: &Name, kind: RecordType, response: &mut Message) -> bool {
        let host_data = match self.address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        let is_host = *name == self.host;
        let data = match kind {
            RecordType::MX if !is_host => RData::MX(MX::new(10, self.host.clone())),
            RecordType::A | RecordType::AAAA if is_host && host_data.record_type() == kind => host_data.clone(),
            RecordType::NS if *name == self.apex => RData::NS(NS(self.host.clone())),
            RecordType::SOA if *name == self.apex => self.start_of_authority(),
            _ => return false,
        };
        response.add_answer(Record::from_rdata(name.clone(), TTL, data));
        if kind == RecordType::MX {
            response.add_additional(Record::from_rdata(self.host.clone(), TTL, host_data));
        }
        true
    }

    fn start_of_authority(&self) -> RData {
        RData::SOA(SOA::new(self.host.clone(), self.host.clone(), 1, 3_600, 600, 86_400, TTL))
    }
}

/// The response to `question` as wire bytes; `None` where it is not worth one.
pub(super) fn respond(zones: &[Zone], question: &[u8]) -> Option<Vec<u8>> {
    let request = Message::from_vec(question).ok()?;
    if request.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.queries.clone_from(&request.queries);
    if let Some(edns) = &request.edns {
        let mut ours = hickory_proto::op::Edns::new();
        ours.set_max_payload(edns.max_payload().min(QUESTION_BYTES_MAX as u16));
        response.set_edns(ours);
    }
    let Some(query) = request.queries.first().filter(|_| request.metadata.op_code == OpCode::Query) else {
        response.metadata.response_code = ResponseCode::NotImp;
        return response.to_vec().ok();
    };
    let zone = zones.iter().filter(|zone| zone.apex.zone_of(query.name())).max_by_key(|zone| zone.apex.num_labels());
    match zone {
        None => response.metadata.response_code = ResponseCode::Refused,
        Some(zone) => {
            response.metadata.authoritative = true;
            if !zone.answer(query.name(), query.query_type(), &mut response) {
                response.add_authority(Record::from_rdata(zone.apex.clone(), TTL, zone.start_of_authority()));
            }
        }
    }
    response.to_vec().ok()
}

/// The two sockets of a name server, at one port.
pub(super) struct NameServer {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl NameServer {
    /// Binds UDP and TCP at `at`; at port 0 some port that is free for both.
    pub(super) async fn bind(at: SocketAddr) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..if at.port() == 0 { BIND_TRIES } else { 1 } {
            let udp = UdpSocket::bind(at).await?;
            let address = udp.local_addr()?;
            match TcpListener::bind(address).await {
                Ok(tcp) => return Ok(Self { udp, tcp, address }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the task is ended.
    pub(super) async fn serve(self, zones: Arc<[Zone]>) {
        let over_tcp = async {
            loop {
                match self.tcp.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(serve_tcp(stream, zones.clone()))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let over_udp = async {
            let mut question = [0_u8; QUESTION_BYTES_MAX];
            loop {
                let Ok((length, peer)) = self.udp.recv_from(&mut question).await else { continue };
                if let Some(response) = respond(&zones, &question[..length]) {
                    // A lost answer is the resolver's to ask for again.
                    let _ = self.udp.send_to(&response, peer).await;
                }
            }
        };
        tokio::join!(over_tcp, over_udp);
    }
}

/// Questions and answers with their length before them (RFC 1035 section 4.2.2), until the peer is silent.
async fn serve_tcp(mut stream: TcpStream, zones: Arc<[Zone]>) {
    while let Ok(Ok(length)) = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await {
        let mut question = vec![0; usize::from(length)];
        let read = tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut question)).await;
        let (Ok(Ok(_)), Some(response)) = (read, respond(&zones, &question)) else { return };
        let Ok(length) = u16::try_from(response.len()) else { return };
        let framed = [&length.to_be_bytes(), response.as_slice()].concat();
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::Query;

    use super::*;

    fn asked(name: &str, kind: RecordType) -> Message {
        let zones = [
            Zone::new("demo.test", Ipv4Addr::LOCALHOST.into()).expect("a name"),
            Zone::new("slow.demo.test", Ipv4Addr::new(127, 0, 0, 2).into()).expect("a name"),
        ];
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        let response = respond(&zones, &question.to_vec().expect("encodes")).expect("an answer");
        let response = Message::from_vec(&response).expect("decodes");
        assert_eq!(response.metadata.id, question.metadata.id);
        assert_eq!(response.queries, question.queries);
        response
    }

    #[test]
    fn a_name_in_a_zone_has_the_zones_mail_host() {
        for (name, host) in [
            ("demo.test.", "mx.demo.test."),
            ("d17.demo.test.", "mx.demo.test."),
            ("a.b.demo.test.", "mx.demo.test."),
            ("d1.slow.demo.test.", "mx.slow.demo.test."),
        ] {
            let response = asked(name, RecordType::MX);
            assert!(response.metadata.authoritative);
            let RData::MX(mx) = &response.answers[0].data else { panic!("{name}: {response:?}") };
            assert_eq!(mx.exchange.to_ascii(), host, "{name}");
        }
    }

    #[test]
    fn the_mail_host_has_the_receivers_address_and_no_other_kind() {
        let response = asked("mx.demo.test.", RecordType::A);
        assert_eq!(response.answers[0].data, RData::A(A(Ipv4Addr::LOCALHOST)));
        let response = asked("mx.demo.test.", RecordType::AAAA);
        assert!(response.answers.is_empty());
        assert_eq!(response.authorities[0].record_type(), RecordType::SOA);
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    }

    #[test]
    fn a_name_outside_the_zones_is_refused() {
        assert_eq!(asked("example.com.", RecordType::MX).metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn noise_gets_no_answer() {
        assert_eq!(respond(&[], b"noise"), None);
        assert_eq!(respond(&[], b""), None);
    }
}
