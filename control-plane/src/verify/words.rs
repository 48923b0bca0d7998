//! What is wrong, in words for who keeps the zone; and the questions that find out which mistake it was.

use postrail_schema::limits::DOMAIN_FOUND_CHARS_MAX;

use super::session::Session;
use super::{DnsRecord, Outcome, RecordState, ServerSaid, Subject, servers};
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
    if let Some((detail, servers)) = servers_differ(session, subject, record, &fits).await {
        let advice = "Wait until the zone is the same on all its servers; if it stays so, ask who runs them.";
        let outcome = Outcome { servers, ..Outcome::of(answer, RecordState::Wrong) };
        return Some(outcome.saying(detail, advice));
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

/// Asks the zone's own servers; what to say if one of them has what is wanted, and what each says.
async fn servers_differ<L: Lookup>(
    session: &Session<'_, L>,
    subject: &Subject,
    record: &DnsRecord,
    fits: impl Fn(&[String]) -> bool,
) -> Option<(String, Vec<ServerSaid>)> {
    let servers = servers::ask_each(session, subject, record, |answer| fits(&answer.texts())).await;
    let named = |right: bool| {
        let those = servers.iter().filter(|said| said.failure.is_empty() && said.is_right == right);
        those.map(|said| said.server.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (have, lack) = (named(true), named(false));
    if have.is_empty() {
        return None;
    }
    let detail = match lack.is_empty() {
        true => format!("the zone's own servers have it ({have}); our name server still remembers what was before"),
        false => format!("only some of the zone's servers have it: {have} do, {lack} do not"),
    };
    Some((detail, servers))
}

/// Texts of one name that are kept.
const FOUND_MAX: usize = 10;
/// A label that nobody publishes.
const NO_SUCH_LABEL: &str = "postrail-no-such-name";
