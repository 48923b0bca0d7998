//! Whether the domain's SPF record lets our sources send, as a receiver would evaluate it.

use std::net::IpAddr;

use postrail_schema::limits::DOMAIN_SPF_ADDRESSES_MAX;

use super::records::spf_terms;
use super::session::Session;
use super::{DnsRecord, Outcome, RecordState, Subject, words};
use crate::dns::{Answer, Kind, Lookup};
use crate::spf::{self, PermError, SpfRecord, SpfResult};

pub(super) async fn check<L: Lookup>(session: &Session<'_, L>, subject: &Subject, record: &DnsRecord) -> Outcome {
    let answer = session.ask(&record.name, Kind::Txt).await;
    if answer.failure().is_some() {
        return words::unreachable(&answer, record);
    }
    let texts = answer.texts();
    let published = spf::records(&texts);
    let outcome = match published[..] {
        [] => return none(session, subject, record, &answer, &texts).await,
        [only] => evaluate(session, subject, &answer, only).await,
        ref several => {
            let terms: Vec<_> = several.iter().flat_map(|text| text.split(' ').skip(1)).collect();
            let (last, terms): (Vec<_>, Vec<_>) = terms.into_iter().partition(|term| is_last(term));
            let joined = format!("v=spf1 {} {}", terms.join(" "), strictest(&last));
            Outcome::of(&answer, RecordState::Wrong).saying(
                format!("there are {} SPF records, and receivers then accept none", several.len()),
                format!("Replace them by one: {}", with_terms(&joined, subject)),
            )
        }
    };
    // Beside SPF there may be many other texts; they are nobody's concern here.
    Outcome {
        found: outcome.found.into_iter().filter(|text| text.to_ascii_lowercase().starts_with("v=spf1")).collect(),
        ..outcome
    }
}

async fn none<L: Lookup>(
    session: &Session<'_, L>,
    subject: &Subject,
    record: &DnsRecord,
    answer: &Answer,
    texts: &[String],
) -> Outcome {
    let fits = |texts: &[String]| !spf::records(texts).is_empty();
    if let Some(outcome) = words::mistake(session, subject, record, answer, fits).await {
        return outcome;
    }
    let near = texts.iter().find(|text| {
        let lower = text.trim_start().to_ascii_lowercase();
        lower.starts_with("spf") || lower.starts_with("v=spf") || lower.starts_with("v = spf")
    });
    if let Some(near) = near {
        let start = near.split_whitespace().next().unwrap_or_default();
        let found = Outcome { found: vec![near.clone()], ..Outcome::of(answer, RecordState::Wrong) };
        return found.saying(
            format!("a text begins with {start}, which receivers do not take for SPF"),
            format!("An SPF record begins with v=spf1 and a space: {}", record.value),
        );
    }
    let absent = words::absent(answer, record);
    Outcome { found: Vec::new(), ..absent }
}

/// Evaluates the one record for every address that mail may leave by.
async fn evaluate<L: Lookup>(session: &Session<'_, L>, subject: &Subject, answer: &Answer, text: &str) -> Outcome {
    let wrong = |detail: String, advice: String| Outcome::of(answer, RecordState::Wrong).saying(detail, advice);
    let mut addresses = subject.addresses.clone();
    if subject.unbound || addresses.is_empty() {
        match host_addresses(session, &subject.hostname).await {
            Ok(found) => addresses.extend(found),
            Err(outcome) => return outcome,
        }
    }
    addresses.truncate(DOMAIN_SPF_ADDRESSES_MAX);
    if addresses.is_empty() {
        return by_term(subject, answer, text);
    }
    for address in addresses {
        let evaluation = spf::check_host(session, address, &subject.name).await;
        match evaluation.result {
            SpfResult::Pass => {}
            SpfResult::TempError { failure, name } => {
                return words::failed(answer, &failure.to_string(), "the name", &name);
            }
            SpfResult::PermError(error) => return wrong(error.to_string(), remedy(&error)),
            SpfResult::None | SpfResult::Neutral | SpfResult::Fail | SpfResult::SoftFail => {
                let matched = &evaluation.matched;
                let by = if matched.is_empty() { "no term matches".to_owned() } else { format!("{matched} decides") };
                let detail = format!("the record does not let us send from {address}: {by}");
                return wrong(detail, format!("Change the record to: {}", with_terms(text, subject)));
            }
        }
    }
    Outcome::of(answer, RecordState::Ok)
}

async fn host_addresses<L: Lookup>(session: &Session<'_, L>, host: &str) -> Result<Vec<IpAddr>, Outcome> {
    let mut addresses = Vec::new();
    for kind in [Kind::A, Kind::Aaaa] {
        let answer = session.ask(host, kind).await;
        if let Some(failure) = answer.failure() {
            return Err(words::failed(&answer, &failure.to_string(), "the address of our host", host));
        }
        addresses.extend(answer.addresses());
    }
    Ok(addresses)
}

/// Our host name has no address, so nothing can be evaluated: the wanted terms have to stand there as they are.
fn by_term(subject: &Subject, answer: &Answer, text: &str) -> Outcome {
    let host = &subject.hostname;
    let has = |term: &String| text.split(' ').any(|found| found.trim_start_matches('+').eq_ignore_ascii_case(term));
    if SpfRecord::parse(text).is_ok() && spf_terms(subject).iter().all(has) {
        let detail = format!("the record is right, but our own host name {host} has no address in DNS yet");
        return Outcome::of(answer, RecordState::Ok).saying(detail, "This is the operator's to do.");
    }
    Outcome::of(answer, RecordState::Wrong)
        .saying("the record does not name our sources", format!("Change the record to: {}", with_terms(text, subject)))
}

fn remedy(error: &PermError) -> String {
    match error {
        PermError::TooManyLookups { .. } => {
            "Remove includes that are not used any more, or replace some by the addresses (ip4:, ip6:) behind them."
        }
        PermError::TooManyVoids { .. } => "Remove the terms whose hosts are gone.",
        PermError::Syntax { .. } => "Correct or remove that term; one wrong term spoils the whole record.",
        PermError::Several { .. } => "Whoever keeps that domain has to join its records to one.",
        PermError::NoRecord { .. } => "Remove that include, or correct its name.",
        PermError::TooManyHosts { .. } => "Replace the term mx by the addresses that send.",
    }
    .to_owned()
}

/// The record with our terms in it, before the term that ends it.
fn with_terms(text: &str, subject: &Subject) -> String {
    let has = |term: &String| text.split(' ').any(|found| found.trim_start_matches('+').eq_ignore_ascii_case(term));
    let missing: Vec<_> = spf_terms(subject).into_iter().filter(|term| !has(term)).collect();
    let (last, kept): (Vec<_>, Vec<_>) =
        text.split(' ').filter(|term| !term.is_empty()).partition(|term| is_last(term));
    let ours = missing.iter().map(String::as_str);
    let terms: Vec<_> = kept.into_iter().take(1).chain(ours).chain(text_terms(text)).chain(last).collect();
    terms.join(" ")
}

/// The terms between the version and the last one.
fn text_terms(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').skip(1).filter(|term| !term.is_empty() && !is_last(term))
}

/// Which of the terms that end records ends the one that takes their place: nobody is let in by it whom one of them kept out,
/// and never everybody.
fn strictest<'t>(ends: &[&'t str]) -> &'t str {
    let find = |wanted: &str| ends.iter().copied().find(|end| end.to_ascii_lowercase().starts_with(wanted));
    ["-", "~", "redirect=", "?"].into_iter().find_map(find).unwrap_or("~all")
}

/// Whether nothing after a term is ever reached.
fn is_last(term: &str) -> bool {
    let lower = term.to_ascii_lowercase();
    lower.trim_start_matches(['+', '-', '~', '?']) == "all" || lower.starts_with("redirect=")
}
