//! A zone in memory, for tests of what asks questions.
//!
//! One record a line: `name TYPE value`; `name CNAME target` makes an alias, `name FAIL servfail|timeout|refused` a name
//! that fails, and `@192.0.2.53 ` before a line one that only this authoritative server says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Answer, Data, Failure, Found, Kind, Lookup};

/// A type and a value.
type Line = (String, String);

/// See the module head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Zone {
    /// By the server that alone says it, or `None`: all.
    records: BTreeMap<(Option<IpAddr>, String), Vec<Line>>,
}

impl Zone {
    pub(crate) fn read(text: &str) -> Self {
        let mut zone = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (server, line) = match line.strip_prefix('@') {
                Some(rest) => {
                    let (server, line) = rest.split_once(' ').unwrap();
                    (Some(server.parse().unwrap()), line)
                }
                None => (None, line),
            };
            let mut words = line.splitn(3, ' ');
            let [name, kind, value] = std::array::from_fn(|_| words.next().unwrap_or_default().to_owned());
            zone.records.entry((server, name)).or_default().push((kind, value));
        }
        zone
    }

    fn answer(&self, server: Option<IpAddr>, name: &str, kind: Kind) -> Found {
        let mut name = name.to_owned();
        let mut aliases = Vec::new();
        loop {
            let Some(here) = self.records.get(&(server, name.clone())) else {
                return if aliases.is_empty() { Found::NoName } else { Found::NoData { aliases } };
            };
            if let Some((_, why)) = here.iter().find(|(kind, _)| kind == "FAIL") {
                return Found::Failed(match why.as_str() {
                    "servfail" => Failure::ServFail,
                    "refused" => Failure::Refused,
                    _ => Failure::Timeout,
                });
            }
            if let Some((_, target)) = here.iter().find(|(kind, _)| kind == "CNAME") {
                name = target.clone();
                aliases.push(name.clone());
                continue;
            }
            let data: Vec<_> = here.iter().filter_map(|(word, value)| data(kind, word, value)).collect();
            return if data.is_empty() { Found::NoData { aliases } } else { Found::Records { aliases, data } };
        }
    }
}

fn data(kind: Kind, word: &str, value: &str) -> Option<Data> {
    Some(match (kind, word) {
        (Kind::A, "A") | (Kind::Aaaa, "AAAA") => Data::Address(value.parse().unwrap()),
        (Kind::Mx, "MX") => {
            let (preference, host) = value.split_once(' ').unwrap();
            Data::Exchange { preference: preference.parse().unwrap(), host: host.to_owned() }
        }
        (Kind::Ns, "NS") | (Kind::Ptr, "PTR") => Data::Name(value.to_owned()),
        (Kind::Txt, "TXT") => Data::Text(value.split('|').map(str::to_owned).collect()),
        _ => return None,
    })
}

impl Lookup for Zone {
    async fn ask(&self, name: &str, kind: Kind) -> Answer {
        Answer { server: Some(([192, 0, 2, 1], 53).into()), found: self.answer(None, name, kind) }
    }

    async fn ask_at(&self, server: IpAddr, name: &str, kind: Kind) -> Answer {
        Answer { server: Some((server, 53).into()), found: self.answer(Some(server), name, kind) }
    }
}
