//! Questions to octets, and octets to what they tell about the question (RFC 1035 section 4, RFC 6891).
//!
//! Hostile input is expected: what does not carry our id and our question is a [`Reply::Stray`], counts are checked
//! against the length before anything is allocated for them, and only records on the way from the question's name to
//! its final name are read. Additional records are never believed.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use postrail_schema::limits::{
    CNAME_CHAIN_MAX, DNS_DENIAL_TTL_MAX, DNS_TTL_MAX, DNS_TTL_MIN, DNS_UDP_BYTES, HOST_ADDRESSES_MAX, MX_HOSTS_MAX,
};

use super::cache::{Facts, Kind, Known, Question};
use crate::base::Instant;
use crate::mail::Domain;

/// What a message says about a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// Not an answer to the question: another id, another name, or no DNS message at all.
    Stray,
    /// The answer did not fit: ask by TCP.
    Truncated,
    /// The server cannot or will not say, and why.
    Failed(&'static str),
    /// The server does not know EDNS (FORMERR, NOTIMP, BADVERS).
    NoEdns,
    Known(Known),
}

/// The query for `question`; `None` if its name is too long for the wire.
pub(super) fn encode(id: u16, question: &Question, edns: bool) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    // Asks for the AD bit without asking for signatures (RFC 6840 section 5.7).
    message.metadata.authentic_data = true;
    message.add_query(Query::query(wire_name(&question.name)?, record_type(question.kind)));
    if edns {
        let mut extension = Edns::new();
        extension.set_max_payload(DNS_UDP_BYTES);
        message.set_edns(extension);
    }
    message.to_vec().ok()
}

/// Reads `bytes` as the answer to `question` asked with `id`. `trusted`: the server's AD bit is believed.
pub(super) fn decode(now: Instant, bytes: &[u8], id: u16, question: &Question, trusted: bool) -> Reply {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(header) = Header::read(&mut decoder) else { return Reply::Stray };
    let metadata = &header.metadata;
    if metadata.id != id || metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query {
        return Reply::Stray;
    }
    let code = metadata.response_code;
    match header.counts.queries {
        1 => match Query::read(&mut decoder) {
            Ok(query) if is_question(&query, question) => {}
            _ => return Reply::Stray,
        },
        // Some servers refuse with a bare header.
        0 if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) => {}
        _ => return Reply::Stray,
    }
    if metadata.truncation {
        return Reply::Truncated;
    }
    let counts = [header.counts.answers, header.counts.authorities, header.counts.additionals];
    if counts.map(usize::from).iter().sum::<usize>() * RECORD_BYTES_MIN > decoder.len() {
        return Reply::Failed("the answer promises more records than it has");
    }
    let Ok(message) = Message::from_vec(bytes) else { return Reply::Failed("the answer is malformed") };
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => judge(now, &message, question, trusted),
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => Reply::NoEdns,
        ResponseCode::ServFail => Reply::Failed("the name server failed (SERVFAIL)"),
        ResponseCode::Refused => Reply::Failed("the name server refused to answer (REFUSED)"),
        _ => Reply::Failed("the name server answered with an error"),
    }
}

/// The form in which a name of the wire is a host name, or `None` where it is none.
fn host_name(name: &Name) -> Option<Domain> {
    let text = name.to_ascii();
    let text = text.strip_suffix('.').unwrap_or(&text);
    // A name must never turn into an address literal, however the library writes it.
    if text.starts_with('[') {
        return None;
    }
    Domain::parse(text).ok()
}

fn wire_name(domain: &Domain) -> Option<Name> {
    let mut name = Name::from_ascii(domain.as_str()).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::Mx => RecordType::MX,
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
    }
}

fn is_question(query: &Query, question: &Question) -> bool {
    query.query_class == DNSClass::IN
        && query.query_type == record_type(question.kind)
        && wire_name(&question.name).is_some_and(|name| name == query.name)
}

/// What the sections of a NOERROR or NXDOMAIN answer tell.
fn judge(now: Instant, message: &Message, question: &Question, trusted: bool) -> Reply {
    let secure = trusted && message.metadata.authentic_data;
    let known = |facts, life: Duration| Reply::Known(Known { facts, secure, expires: now + life });
    let Some(asked) = wire_name(&question.name) else { return Reply::Stray };
    let Some((last, mut ttl)) = follow(&message.answers, asked.clone()) else {
        return Reply::Failed("the name is an alias of an alias without end");
    };
    let mut found = Vec::new();
    for record in records_of(&message.answers, &last) {
        if record.record_type() == record_type(question.kind) {
            ttl = ttl.min(seconds(record.ttl));
            found.push(&record.data);
        }
    }
    if !found.is_empty() {
        return known(facts(question.kind, &found), ttl.clamp(DNS_TTL_MIN, DNS_TTL_MAX));
    }
    let denial = denial_life(&message.authorities, &last);
    let denied = denial.unwrap_or(DNS_TTL_MIN).min(ttl).clamp(DNS_TTL_MIN, DNS_DENIAL_TTL_MAX);
    if message.metadata.response_code == ResponseCode::NXDomain {
        return known(Facts::NoName, denied);
    }
    if denial.is_none() && last != asked {
        // An authoritative server that does not serve the target, or a recursor that stopped there: ask for it.
        return match host_name(&last) {
            Some(target) => known(Facts::Alias(target), ttl.clamp(DNS_TTL_MIN, DNS_TTL_MAX)),
            None => known(Facts::NoData, denied),
        };
    }
    let refers = message.authorities.iter().any(|record| record.record_type() == RecordType::NS);
    if denial.is_some() || (message.answers.is_empty() && (message.metadata.authoritative || !refers)) {
        return known(Facts::NoData, denied);
    }
    Reply::Failed("the name server does not answer for the name (referral)")
}

/// Follows the CNAMEs of the answer from `name`: the final name and the least TTL on the way; `None` if there are
/// more than `CNAME_CHAIN_MAX`.
fn follow(answers: &[Record], mut name: Name) -> Option<(Name, Duration)> {
    let mut ttl = DNS_TTL_MAX;
    for _ in 0..=CNAME_CHAIN_MAX {
        let next = records_of(answers, &name).find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, record_ttl)) = next else { return Some((name, ttl)) };
        ttl = ttl.min(seconds(record_ttl));
        name = target.clone();
    }
    None
}

fn records_of<'a>(section: &'a [Record], name: &'a Name) -> impl Iterator<Item = &'a Record> {
    section.iter().filter(move |record| record.dns_class == DNSClass::IN && record.name == *name)
}

/// How long a denial holds by the SOA of a zone that `name` is in (RFC 2308 section 5).
fn denial_life(authorities: &[Record], name: &Name) -> Option<Duration> {
    authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) if record.name.zone_of(name) => Some(seconds(record.ttl).min(seconds(soa.minimum))),
        _ => None,
    })
}

/// A TTL; with its highest bit set it is zero (RFC 2181 section 8).
fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(if ttl > i32::MAX as u32 { 0 } else { ttl.into() })
}

fn facts(kind: Kind, found: &[&RData]) -> Facts {
    if kind == Kind::Mx {
        return exchanges(found);
    }
    let mut addresses = Vec::new();
    for data in found {
        let address = match data {
            RData::A(v4) => IpAddr::V4(v4.0),
            RData::AAAA(v6) => IpAddr::V6(v6.0),
            _ => continue,
        };
        if addresses.len() < HOST_ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Facts::Addresses(addresses)
}

/// The best `MX_HOSTS_MAX` exchangers by preference and name; those that are no host names are left out.
fn exchanges(found: &[&RData]) -> Facts {
    let mut hosts = Vec::new();
    let mut null = false;
    for data in found {
        let RData::MX(mx) = data else { continue };
        if mx.exchange.is_root() {
            null = true;
        } else if let Some(host) = host_name(&mx.exchange) {
            hosts.push((mx.preference, host));
        }
    }
    hosts.sort_unstable();
    let mut best: Vec<(u16, Domain)> = Vec::with_capacity(hosts.len().min(MX_HOSTS_MAX));
    for (preference, host) in hosts {
        if best.len() == MX_HOSTS_MAX {
            break;
        }
        if !best.iter().any(|(_, known)| *known == host) {
            best.push((preference, host));
        }
    }
    Facts::Exchanges { hosts: best, null }
}

/// Owner (root), type, class, TTL and length of an empty record.
const RECORD_BYTES_MIN: usize = 11;
