//! A name server inside the simulated network: answers from a zone by UDP and TCP, and misbehaves where it is told to.
//!
//! It speaks the wire format of hickory-proto only: the resolver under test does not use it to answer.
//!
//! Deliberately absent: recursion, delegation, signatures (the AD bit is set where the zone is said to be signed).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use postrail_data_plane::platform::{Listener, Net, Platform};

use crate::SimPlatform;
use crate::net::{SimDatagramServer, SimStream};

/// What a name server does instead of answering.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// SERVFAIL.
    Fails,
    /// No answer at all.
    IsSilent,
    /// The answer comes after this time.
    IsSlow(Duration),
    /// By UDP only a truncated answer.
    Truncates,
}

/// Names and what they have; may be changed while the server runs.
#[derive(Clone, Default)]
pub struct Zone(Rc<RefCell<Content>>);

#[derive(Default)]
struct Content {
    names: BTreeMap<String, Vec<RData>>,
    troubles: BTreeMap<String, Trouble>,
    is_signed: bool,
}

impl Zone {
    /// Adds an MX record: `domain` is served by `host` at `preference`.
    ///
    /// # Panics
    /// If a name is none.
    pub fn add_mx(&self, domain: &str, preference: u16, host: &str) {
        self.add(domain, RData::MX(MX::new(preference, name(host))));
    }

    /// Adds an address record.
    ///
    /// # Panics
    /// If `host` is no name.
    pub fn add_address(&self, host: &str, address: IpAddr) {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        self.add(host, data);
    }

    /// Adds an alias.
    ///
    /// # Panics
    /// If a name is none.
    pub fn add_alias(&self, alias: &str, target: &str) {
        self.add(alias, RData::CNAME(CNAME(name(target))));
    }

    /// Takes a name and all that it has out.
    pub fn remove(&self, owner: &str) {
        self.0.borrow_mut().names.remove(&key(&name(owner)));
    }

    /// Makes questions about a name end in `trouble`, or in answers again.
    pub fn set_trouble(&self, owner: &str, trouble: Option<Trouble>) {
        let mut content = self.0.borrow_mut();
        let key = key(&name(owner));
        match trouble {
            Some(trouble) => content.troubles.insert(key, trouble),
            None => content.troubles.remove(&key),
        };
    }

    /// Says of every answer that it was validated.
    pub fn set_signed(&self, is_signed: bool) {
        self.0.borrow_mut().is_signed = is_signed;
    }

    fn add(&self, owner: &str, data: RData) {
        self.0.borrow_mut().names.entry(key(&name(owner))).or_default().push(data);
    }

    /// Answers `query`, or says what goes wrong instead. `None` for what is no query.
    fn answer(&self, query: &[u8], by_udp: bool) -> Option<(Message, Option<Trouble>)> {
        let query = Message::from_vec(query).ok().filter(|query| query.metadata.message_type == MessageType::Query)?;
        let question = query.queries.first()?.clone();
        let content = self.0.borrow();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.authentic_data = content.is_signed;
        answer.add_query(question.clone());
        let trouble = content.troubles.get(&key(question.name())).copied();
        if trouble == Some(Trouble::Fails) {
            answer.metadata.response_code = ResponseCode::ServFail;
            return Some((answer, trouble));
        }
        if trouble == Some(Trouble::Truncates) && by_udp {
            answer.metadata.truncation = true;
            return Some((answer, trouble));
        }
        content.fill(question.name().clone(), question.query_type(), &mut answer);
        if by_udp && answer.to_vec().is_ok_and(|bytes| bytes.len() > UDP_BYTES_MAX) {
            answer.answers.clear();
            answer.metadata.truncation = true;
        }
        Some((answer, trouble))
    }
}

impl Content {
    /// Follows aliases and adds what is found; without anything the SOA says for how long that may be believed.
    fn fill(&self, mut owner: Name, kind: RecordType, answer: &mut Message) {
        for _ in 0..ALIASES_MAX {
            let Some(found) = self.names.get(&key(&owner)) else {
                answer.metadata.response_code = ResponseCode::NXDomain;
                break;
            };
            let fitting = found.iter().filter(|data| data.record_type() == kind);
            let records: Vec<_> =
                fitting.map(|data| Record::from_rdata(owner.clone(), TTL_SECONDS, data.clone())).collect();
            if !records.is_empty() {
                answer.add_answers(records);
                return;
            }
            let Some(target) = found.iter().find_map(|data| match data {
                RData::CNAME(target) => Some(target.0.clone()),
                _ => None,
            }) else {
                break;
            };
            let alias = RData::CNAME(CNAME(target.clone()));
            answer.add_answer(Record::from_rdata(owner, TTL_SECONDS, alias));
            owner = target;
        }
        let authority = name("zone.example");
        let soa = SOA::new(authority.clone(), authority.clone(), 1, 3_600, 600, 86_400, TTL_SECONDS);
        answer.add_authority(Record::from_rdata(authority, TTL_SECONDS, RData::SOA(soa)));
    }
}

/// Serves `zone` at `at`, an address of the platform's node, by UDP and TCP, as long as the node lives.
///
/// # Errors
/// Those of binding and listening.
pub fn serve(platform: &SimPlatform, at: SocketAddr, zone: &Zone) -> io::Result<()> {
    let socket = Rc::new(SimDatagramServer::bind(platform.net(), at)?);
    let listener = platform.net().listen(at)?;
    let (serving, zone_by_udp) = (platform.clone(), zone.clone());
    platform.spawn("name server, UDP", async move {
        loop {
            match socket.receive().await {
                Ok((from, query)) => answer_datagram(&serving, &zone_by_udp, &socket, from, &query),
                // An answer found nobody: the next question may.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    });
    let (serving, zone) = (platform.clone(), zone.clone());
    platform.spawn("name server, TCP", async move {
        while let Ok(stream) = listener.accept().await {
            let (platform, zone) = (serving.clone(), zone.clone());
            serving.spawn("name server, connection", async move {
                // The client breaks it when it likes.
                let _ = answer_stream(&platform, &zone, stream).await;
            });
        }
    });
    Ok(())
}

fn answer_datagram(
    platform: &SimPlatform,
    zone: &Zone,
    socket: &Rc<SimDatagramServer>,
    from: SocketAddr,
    query: &[u8],
) {
    let Some((answer, trouble)) = zone.answer(query, true) else { return };
    let Ok(bytes) = answer.to_vec() else { return };
    match trouble {
        Some(Trouble::IsSilent) => {}
        Some(Trouble::IsSlow(wait)) => {
            let (slow, socket) = (platform.clone(), Rc::clone(socket));
            platform.spawn("name server, slow answer", async move {
                slow.sleep_until(slow.now() + wait).await;
                socket.send(from, &bytes);
            });
        }
        Some(Trouble::Fails | Trouble::Truncates) | None => socket.send(from, &bytes),
    }
}

/// Messages with their length before them (RFC 1035 section 4.2.2), until the client ends.
async fn answer_stream(platform: &SimPlatform, zone: &Zone, mut stream: SimStream) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).await?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query).await?;
        let Some((answer, trouble)) = zone.answer(&query, false) else { return Ok(()) };
        match trouble {
            Some(Trouble::IsSilent) => continue,
            Some(Trouble::IsSlow(wait)) => platform.sleep_until(platform.now() + wait).await,
            Some(Trouble::Fails | Trouble::Truncates) | None => {}
        }
        let bytes = answer.to_vec().map_err(io::Error::other)?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(&bytes).await?;
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("zones are written by tests");
    name.set_fqdn(true);
    name
}

/// Names are equal whatever their case.
fn key(name: &Name) -> String {
    name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
}

/// Largest answer by UDP, octets.
const UDP_BYTES_MAX: usize = 1_232;
/// Aliases followed for one question.
const ALIASES_MAX: usize = 16;
/// How long answers may be believed, seconds.
const TTL_SECONDS: u32 = 300;

#[cfg(test)]
mod tests {
    use hickory_proto::op::{OpCode, Query};
    use postrail_data_plane::platform::Datagrams;

    use super::*;
    use crate::{Settings, Sim};

    fn query(owner: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name(owner), kind));
        message.to_vec().unwrap()
    }

    fn served(zone: &Zone) -> (Sim, SimPlatform, SocketAddr) {
        let sim = Sim::new(&Settings::default());
        let client = sim.add_node(&["10.0.0.1".parse().unwrap()]);
        let server = sim.add_node(&["10.0.0.53".parse().unwrap()]);
        let at = "10.0.0.53:53".parse().unwrap();
        serve(&sim.platform(server), at, zone).unwrap();
        let platform = sim.platform(client);
        (sim, platform, at)
    }

    fn ask(sim: &Sim, platform: SimPlatform, at: SocketAddr, owner: &str, kind: RecordType) -> Option<Message> {
        let query = query(owner, kind);
        let work = async move {
            let socket = platform.net().datagrams(at).await.unwrap();
            socket.send(&query).await.unwrap();
            let mut buffer = [0; 4_096];
            let count = platform.timeout(Duration::from_secs(5), socket.receive(&mut buffer)).await?.unwrap();
            Some(Message::from_vec(&buffer[..count]).unwrap())
        };
        sim.run(crate::NodeId(0), work).unwrap()
    }

    #[test]
    fn a_zone_is_answered_with_its_aliases_and_its_denials() {
        let zone = Zone::default();
        zone.add_mx("good.example", 10, "mx.good.example");
        zone.add_address("mx.good.example", "10.0.2.1".parse().unwrap());
        zone.add_alias("www.good.example", "mx.good.example");
        let (sim, platform, at) = served(&zone);
        let cases = [
            ("good.EXAMPLE", RecordType::MX, ResponseCode::NoError, 1),
            ("mx.good.example", RecordType::A, ResponseCode::NoError, 1),
            ("www.good.example", RecordType::A, ResponseCode::NoError, 2),
            ("mx.good.example", RecordType::AAAA, ResponseCode::NoError, 0),
            ("bad.example", RecordType::MX, ResponseCode::NXDomain, 0),
        ];
        for (owner, kind, code, answers) in cases {
            let answer = ask(&sim, platform.clone(), at, owner, kind).unwrap();
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, answers), "{owner} {kind}");
            assert_eq!(answer.authorities.len(), usize::from(answers == 0), "{owner} {kind}");
        }
    }

    #[test]
    fn troubles_fail_are_silent_truncate_or_take_their_time() {
        let zone = Zone::default();
        zone.add_address("a.example", "10.0.2.1".parse().unwrap());
        let (sim, platform, at) = served(&zone);
        zone.set_trouble("a.example", Some(Trouble::Fails));
        let failed = ask(&sim, platform.clone(), at, "a.example", RecordType::A).unwrap();
        assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
        zone.set_trouble("a.example", Some(Trouble::IsSilent));
        assert!(ask(&sim, platform.clone(), at, "a.example", RecordType::A).is_none());
        zone.set_trouble("a.example", Some(Trouble::Truncates));
        assert!(ask(&sim, platform.clone(), at, "a.example", RecordType::A).unwrap().metadata.truncation);
        zone.set_trouble("a.example", Some(Trouble::IsSlow(Duration::from_secs(2))));
        let begin = sim.now();
        assert_eq!(ask(&sim, platform.clone(), at, "a.example", RecordType::A).unwrap().answers.len(), 1);
        assert!(sim.now().since(begin) >= Duration::from_secs(2));
        zone.set_trouble("a.example", Some(Trouble::Truncates));
        let whole = async move {
            let mut stream = platform.net().connect(None, at, Duration::from_secs(5)).await.unwrap();
            let query = query("a.example", RecordType::A);
            stream.write_all(&(query.len() as u16).to_be_bytes()).await.unwrap();
            stream.write_all(&query).await.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).await.unwrap();
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).await.unwrap();
            Message::from_vec(&answer).unwrap().answers.len()
        };
        assert_eq!(sim.run(crate::NodeId(0), whole).unwrap(), 1);
    }
}
