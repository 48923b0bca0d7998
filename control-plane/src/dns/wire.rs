//! Questions to octets, and octets to what they tell (RFC 1035 section 4, RFC 6891).
//!
//! Hostile input is expected: what does not carry our id and our question is a [`Reply::Stray`], counts are checked
//! against the length before anything is allocated for them, and only records on the way from the question's name to
//! its final name are read.

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use postrail_schema::limits::{CNAME_CHAIN_MAX, DNS_UDP_BYTES, DOMAIN_RECORDS_MAX, DOMAIN_TEXT_BYTES_MAX};

use super::{Data, Failure, Found, Kind};

/// What a message says about a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// Not an answer to the question.
    Stray,
    /// The answer did not fit: ask by TCP.
    Truncated,
    /// The server does not know EDNS.
    NoEdns,
    Said(Found),
}

/// A question of class IN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Question {
    name: Name,
    kind: Kind,
}

impl Question {
    /// `None`: this is no name for DNS.
    pub(super) fn new(name: &str, kind: Kind) -> Option<Self> {
        let mut name = Name::from_ascii(name).ok()?.to_lowercase();
        name.set_fqdn(true);
        Some(Self { name, kind })
    }

    /// The query; `recursion` is wanted of all but authoritative servers.
    pub(super) fn encode(&self, id: u16, recursion: bool, edns: bool) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = recursion;
        message.add_query(Query::query(self.name.clone(), record_type(self.kind)));
        if edns {
            let mut extension = Edns::new();
            extension.set_max_payload(DNS_UDP_BYTES);
            message.set_edns(extension);
        }
        message.to_vec().ok()
    }

    /// Reads `bytes` as the answer to this question asked with `id`.
    pub(super) fn decode(&self, bytes: &[u8], id: u16) -> Reply {
        let mut decoder = BinDecoder::new(bytes);
        let Ok(header) = Header::read(&mut decoder) else { return Reply::Stray };
        let metadata = &header.metadata;
        if metadata.id != id || metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query {
            return Reply::Stray;
        }
        let failed = |failure| Reply::Said(Found::Failed(failure));
        let code = metadata.response_code;
        match header.counts.queries {
            1 => match Query::read(&mut decoder) {
                Ok(query) if self.is(&query) => {}
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
            return failed(Failure::Malformed);
        }
        let Ok(message) = Message::from_vec(bytes) else { return failed(Failure::Malformed) };
        match message.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => Reply::Said(self.judge(&message)),
            ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => Reply::NoEdns,
            ResponseCode::ServFail => failed(Failure::ServFail),
            ResponseCode::Refused => failed(Failure::Refused),
            _ => failed(Failure::OtherCode),
        }
    }

    fn is(&self, query: &Query) -> bool {
        query.query_class == DNSClass::IN && query.query_type == record_type(self.kind) && query.name == self.name
    }

    /// What the answer section of a NOERROR or NXDOMAIN answer tells.
    fn judge(&self, message: &Message) -> Found {
        let mut name = self.name.clone();
        let mut aliases = Vec::new();
        while let Some(target) = alias_of(&message.answers, &name) {
            if aliases.len() >= CNAME_CHAIN_MAX {
                return Found::Failed(Failure::AliasLoop);
            }
            name = target.clone();
            aliases.push(text_of(&name));
        }
        let of_kind = records_of(&message.answers, &name).filter(|r| r.record_type() == record_type(self.kind));
        let mut data: Vec<_> = of_kind.filter_map(|record| data_of(&record.data)).take(DOMAIN_RECORDS_MAX).collect();
        // Servers turn their records around from answer to answer.
        data.sort();
        if !data.is_empty() {
            return Found::Records { aliases, data };
        }
        if message.metadata.response_code == ResponseCode::NXDomain {
            // The alias itself exists; what it points to does not.
            return if aliases.is_empty() { Found::NoName } else { Found::NoData { aliases } };
        }
        let refers = message.authorities.iter().any(|record| record.record_type() == RecordType::NS);
        if message.answers.is_empty() && refers && !message.metadata.authoritative && !has_soa(message) {
            return Found::Failed(Failure::Refused);
        }
        Found::NoData { aliases }
    }
}

fn has_soa(message: &Message) -> bool {
    message.authorities.iter().any(|record| record.record_type() == RecordType::SOA)
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Mx => RecordType::MX,
        Kind::Ns => RecordType::NS,
        Kind::Ptr => RecordType::PTR,
        Kind::Txt => RecordType::TXT,
    }
}

fn alias_of<'a>(answers: &'a [Record], name: &'a Name) -> Option<&'a Name> {
    records_of(answers, name).find_map(|record| match &record.data {
        RData::CNAME(target) => Some(&target.0),
        _ => None,
    })
}

fn records_of<'a>(section: &'a [Record], name: &'a Name) -> impl Iterator<Item = &'a Record> {
    section.iter().filter(move |record| record.dns_class == DNSClass::IN && record.name == *name)
}

fn data_of(data: &RData) -> Option<Data> {
    Some(match data {
        RData::A(address) => Data::Address(address.0.into()),
        RData::AAAA(address) => Data::Address(address.0.into()),
        RData::MX(mx) => Data::Exchange { preference: mx.preference, host: text_of(&mx.exchange) },
        RData::NS(name) => Data::Name(text_of(&name.0)),
        RData::PTR(name) => Data::Name(text_of(&name.0)),
        RData::TXT(text) => {
            let mut room = DOMAIN_TEXT_BYTES_MAX;
            let strings = text.txt_data.iter().map(|string| {
                let taken = &string[..string.len().min(room)];
                room -= taken.len();
                String::from_utf8_lossy(taken).into_owned()
            });
            Data::Text(strings.collect())
        }
        _ => return None,
    })
}

/// Lower case, without the final dot; the root is empty.
fn text_of(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

/// The root's name, type, class, TTL and length.
const RECORD_BYTES_MIN: usize = 11;

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{CNAME, TXT};

    use super::*;

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    fn answer(to: &Question, id: u16, code: ResponseCode, records: Vec<Record>) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.add_query(Query::query(to.name.clone(), record_type(to.kind)));
        for record in records {
            message.add_answer(record);
        }
        message.to_vec().unwrap()
    }

    fn txt(at: &str, strings: &[&str]) -> Record {
        let strings = strings.iter().map(|string| (*string).to_owned()).collect();
        Record::from_rdata(name(at), 60, RData::TXT(TXT::new(strings)))
    }

    #[test]
    fn a_text_keeps_its_strings_and_the_aliases_that_led_to_it() {
        let question = Question::new("A.b.example", Kind::Txt).unwrap();
        let alias = Record::from_rdata(name("a.b.example"), 60, RData::CNAME(CNAME(name("t.other.example"))));
        let records = vec![alias, txt("t.other.example", &["one", " two"]), txt("unasked.example", &["no"])];
        let reply = question.decode(&answer(&question, 7, ResponseCode::NoError, records), 7);
        let data = vec![Data::Text(vec!["one".into(), " two".into()])];
        assert_eq!(reply, Reply::Said(Found::Records { aliases: vec!["t.other.example".into()], data }));
    }

    #[test]
    fn absence_and_failure_are_told_apart() {
        let question = Question::new("a.example", Kind::Txt).unwrap();
        for (code, expected) in [
            (ResponseCode::NXDomain, Found::NoName),
            (ResponseCode::NoError, Found::NoData { aliases: Vec::new() }),
            (ResponseCode::ServFail, Found::Failed(Failure::ServFail)),
            (ResponseCode::Refused, Found::Failed(Failure::Refused)),
        ] {
            assert_eq!(question.decode(&answer(&question, 1, code, Vec::new()), 1), Reply::Said(expected), "{code}");
        }
    }

    #[test]
    fn what_is_not_the_answer_to_the_question_is_a_stray_and_no_cut_panics() {
        let question = Question::new("a.example", Kind::Txt).unwrap();
        let other = Question::new("b.example", Kind::Txt).unwrap();
        let bytes = answer(&question, 1, ResponseCode::NoError, vec![txt("a.example", &["x"])]);
        assert_eq!(question.decode(&bytes, 2), Reply::Stray);
        assert_eq!(other.decode(&bytes, 1), Reply::Stray);
        for cut in 0..bytes.len() {
            let _ = question.decode(&bytes[..cut], 1);
        }
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            let _ = question.decode(&flipped, 1);
        }
    }
}
