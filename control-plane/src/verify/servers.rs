//! The zone's own servers, each asked itself: what our name server says is what one of them said, and receivers ask any.
//!
//! A record that is right at some and not at others is wrong: half of the receivers do not find it. A server that does not
//! answer is told and held against nobody. Servers are asked at public addresses only, and those that are silent once
//! are not asked again (`session`). Absent here: records that are aliases into another zone, whose servers are not the domain's.

use std::net::IpAddr;

use super::records::{Duty, OWNERSHIP_PREFIX};
use super::session::Session;
use super::{DnsRecord, Outcome, Purpose, RecordState, ServerSaid, Subject, words};
use crate::dns::{Answer, Data, Failure, Kind, Lookup};

/// `outcome` of a record that is right at our name server, unless a server of the zone says otherwise.
pub(super) async fn agreed<L: Lookup>(
    session: &Session<'_, L>,
    subject: &Subject,
    record: &DnsRecord,
    outcome: Outcome,
) -> Outcome {
    if outcome.state != RecordState::Ok || record.kind != "TXT" || record.duty != Duty::Publish {
        return outcome;
    }
    let known = session.ask(&record.name, Kind::Txt).await;
    if !known.aliases().is_empty() {
        return outcome;
    }
    let wanted = relevant(record, &known);
    let servers = ask_each(session, subject, record, |answer| relevant(record, answer) == wanted).await;
    let names = |which: &dyn Fn(&&ServerSaid) -> bool| {
        servers.iter().filter(which).map(|said| said.server.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (have, differ) = (names(&|said| said.is_right), names(&|said| !said.is_right && said.failure.is_empty()));
    let silent = names(&|said| !said.failure.is_empty());
    if differ.is_empty() {
        return match outcome.detail.is_empty() && !silent.is_empty() {
            true => outcome.saying(format!("not every server of the zone answers: {silent}"), ""),
            false => outcome,
        };
    }
    let have = if have.is_empty() { String::new() } else { format!("{have} have it as it should be, ") };
    let detail = format!("the zone's servers differ: {have}{differ} do not, and receivers ask any of them");
    let advice = format!(
        "Bring {differ} up to date with the zone's first server: look at its serial number and at the transfers to it (`dig SOA {} @ADDRESS` at each).",
        subject.name
    );
    Outcome { state: RecordState::Wrong, servers, ..outcome }.saying(detail, advice)
}

/// What each of the zone's servers says of a record; those at addresses that are not asked are left out.
pub(super) async fn ask_each<L: Lookup>(
    session: &Session<'_, L>,
    subject: &Subject,
    record: &DnsRecord,
    is_right: impl Fn(&Answer) -> bool,
) -> Vec<ServerSaid> {
    let mut said = Vec::new();
    for (name, address) in zone_servers(session, &subject.name).await {
        let answer = session.ask_at(address, &record.name, Kind::Txt).await;
        if matches!(answer.failure(), Some(Failure::Unreachable | Failure::TooMany)) {
            continue;
        }
        said.push(ServerSaid {
            server: format!("{name} ({address})"),
            is_right: answer.failure().is_none() && is_right(&answer),
            found: words::found(&answer),
            failure: answer.failure().map(|failure| failure.to_string()).unwrap_or_default(),
        });
    }
    said
}

/// The texts that matter for a record, in a form in which equal ones are equal.
fn relevant(record: &DnsRecord, answer: &Answer) -> Vec<String> {
    let concerns = |text: &String| match record.purpose {
        Purpose::Ownership => text.starts_with(OWNERSHIP_PREFIX) && *text == record.value,
        Purpose::Spf => text.to_ascii_lowercase().starts_with("v=spf1"),
        Purpose::Dkim | Purpose::Dmarc | Purpose::ReturnPath | Purpose::Tracking => true,
    };
    let plain = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut texts: Vec<_> = answer.texts().into_iter().map(plain).filter(concerns).collect();
    texts.sort();
    texts
}

/// The servers of the zone that holds `domain`, each with an address.
async fn zone_servers<L: Lookup>(session: &Session<'_, L>, domain: &str) -> Vec<(String, IpAddr)> {
    let mut zone = domain;
    let names = loop {
        let answer = session.ask(zone, Kind::Ns).await;
        let names = answer.data().iter().filter_map(|data| match data {
            Data::Name(name) => Some(name.clone()),
            _ => None,
        });
        let names: Vec<_> = names.take(ZONE_SERVERS_MAX).collect();
        let Some((_, parent)) = zone.split_once('.').filter(|_| names.is_empty()) else { break names };
        if !parent.contains('.') {
            break names;
        }
        zone = parent;
    };
    let mut servers = Vec::new();
    for name in names {
        let v4 = session.ask(&name, Kind::A).await.addresses();
        let address = match v4.first() {
            Some(address) => Some(*address),
            None => session.ask(&name, Kind::Aaaa).await.addresses().first().copied(),
        };
        servers.extend(address.map(|address| (name, address)));
    }
    servers
}

/// Servers of a zone that are asked themselves.
const ZONE_SERVERS_MAX: usize = 6;
