//! What is wrong, in words for who keeps the zone; and the questions that find out which mistake it was.

use std::net::IpAddr;

use postrail_schema::limits::DOMAIN_FOUND_CHARS_MAX;

use super::session::Session;
use super::{DnsRecord, Outcome, RecordState, Subject};
use crate::dns::{Answer, Data, Found, Kind, Lookup};

/// What an answer has, as text.
pub(super) fn found(answer: &Answer) -> Vec<String> {
    let text = |data: &Data| match data {
        Data::Address(address) => address.to_string(),
        Data::Exchange { preference, host } => format!("{preference} {host}"),
        Data::Name(name) => name.clone(),
        Data::Text(strings) => strings.concat(),
    };
    let cut = |text: String| -> String {
        let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        clean.take(DOMAIN_FOUND_CHARS_MAX).collect()
    };
    answer.data().iter().map(text).map(cut).take(FOUND_MAX).collect()
}

/// No server could say.
pub(super) fn unreachable(answer: &Answer, record: &DnsRecord) -> Outcome {
    let why = answer.failure().map(|failure| failure.to_string()).unwrap_or_default();
    failed(answer, &why, record.kind, &record.name)
}

/// As [`unreachable`], of another name that the record needs.
pub(super) fn failed(answer: &Answer, why: &str, kind: &str, name: &str) -> Outcome {
    Outcome::of(answer, RecordState::Unreachable).saying(
        format!("{kind} {name} could not be looked up: {why}"),
        "Nothing is held against the domain for this; it is asked again. If it stays so, look at the zone's name servers.",
    )
}

/// Nothing that fits is there.
pub(super) fn absent(answer: &Answer, record: &DnsRecord) -> Outcome {
    let (kind, name) = (record.kind, &record.name);
    let advice = format!("Publish: {name}. {kind} {}", record.zone_value);
    let detail = match &answer.found {
        Found::NoName => format!("the name {name} does not exist"),
        Found::NoData { aliases } if !aliases.is_empty() => {
            let target = aliases.last().map(String::as_str).unwrap_or_default();
            let detail = format!("{name} is an alias (CNAME) of {target}, and there is no {kind} record there");
            let advice = format!("Remove the CNAME, since nothing may stand beside one. {advice}");
            return Outcome::of(answer, RecordState::Wrong).saying(detail, advice);
        }
        Found::NoData { .. } => format!("the name {name} exists, without a {kind} record"),
        Found::Records { .. } | Found::Failed(_) => format!("{name} has {kind} records, and none is the wanted one"),
    };
    Outcome::of(answer, RecordState::Missing).saying(detail, advice)
}

/// Looks for the usual mistakes; `fits` says whether texts are what is wanted.
pub(super) async fn mistake<L: Lookup>(
    session: &Session<'_, L>,
    subject: &Subject,
    record: &DnsRecord,
    answer: &Answer,
    fits: impl Fn(&[String]) -> bool,
) -> Option<Outcome> {
    let wrong = |detail: String, advice: String| Some(Outcome::of(answer, RecordState::Wrong).saying(detail, advice));
    let texts = answer.texts();
    let bare: Vec<String> = texts.iter().map(|text| text.replace("\\\"", "\"").replace(['"', '\\'], "")).collect();
    if bare != texts && fits(&bare) {
        let detail = "the quotes or backslashes are part of the text, so receivers do not know it".to_owned();
        return wrong(detail, "Enter the text without quotes: the panel adds them where they are needed.".to_owned());
    }
    let doubled = format!("{}.{}", record.name, subject.name);
    let there = session.ask(&doubled, Kind::Txt).await;
    if fits(&there.texts()) {
        let short = record.name.strip_suffix(&format!(".{}", subject.name)).unwrap_or("@");
        let detail = format!("the record is at {doubled}: the panel has added the domain a second time");
        return wrong(detail, format!("Enter {short} as its name, without the domain."));
    }
    if let Some(detail) = servers_differ(session, subject, record, &fits).await {
        let advice = "Wait until the zone is the same on all its servers; if it stays so, ask who runs them.";
        return wrong(detail, advice.to_owned());
    }
    if !texts.is_empty()
        && let Some((_, parent)) = record.name.split_once('.')
        && record.name != subject.name
        && session.ask(&format!("{NO_SUCH_LABEL}.{parent}"), Kind::Txt).await.texts() == texts
    {
        let detail = format!("this text answers for every name: it is a wildcard record, *.{parent}");
        return wrong(detail, format!("Publish: {}. {} {}", record.name, record.kind, record.zone_value));
    }
    None
}

/// Asks the zone's own servers; what to say if one of them has what is wanted.
async fn servers_differ<L: Lookup>(
    session: &Session<'_, L>,
    subject: &Subject,
    record: &DnsRecord,
    fits: impl Fn(&[String]) -> bool,
) -> Option<String> {
    let (mut have, mut lack) = (Vec::new(), Vec::new());
    for (name, address) in zone_servers(session, &subject.name).await {
        let answer = session.ask_at(address, &record.name, Kind::Txt).await;
        if answer.failure().is_some() {
            continue;
        }
        if fits(&answer.texts()) {
            have.push(format!("{name} ({address})"));
        } else {
            lack.push(format!("{name} ({address})"));
        }
    }
    let (have, lack) = match (have.is_empty(), lack.is_empty()) {
        (true, _) => return None,
        (false, true) => {
            let have = have.join(", ");
            return Some(format!(
                "the zone's own servers have it ({have}); our name server still remembers what was before"
            ));
        }
        (false, false) => (have.join(", "), lack.join(", ")),
    };
    Some(format!("only some of the zone's servers have it: {have} do, {lack} do not"))
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

/// Texts of one name that are kept.
const FOUND_MAX: usize = 10;
/// Servers of a zone that are asked themselves.
const ZONE_SERVERS_MAX: usize = 6;
/// A label that nobody publishes.
const NO_SUCH_LABEL: &str = "postrail-no-such-name";
