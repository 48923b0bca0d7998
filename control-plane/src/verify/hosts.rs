//! The hosts beside the mail itself: where returned mail goes, and the name in tracked links. A domain sends without them.

use super::session::Session;
use super::{DnsRecord, Outcome, RecordState, Subject, words};
use crate::dns::{Answer, Data, Kind, Lookup};

/// An MX that is our host, or an alias of it.
pub(super) async fn return_path<L: Lookup>(session: &Session<'_, L>, subject: &Subject, record: &DnsRecord) -> Outcome {
    let answer = session.ask(&record.name, Kind::Mx).await;
    if answer.failure().is_some() {
        return words::unreachable(&answer, record);
    }
    let hosts = answer.data().iter().filter_map(|data| match data {
        Data::Exchange { host, .. } => Some(host),
        _ => None,
    });
    let hosts: Vec<_> = hosts.collect();
    if hosts.contains(&&subject.hostname) || is_alias_of_us(&answer, subject) {
        return Outcome::of(&answer, RecordState::Ok);
    }
    if hosts.is_empty() {
        return words::absent(&answer, record);
    }
    elsewhere(&answer, subject, record)
}

/// An alias of our host, or a name with one of its addresses.
pub(super) async fn tracking<L: Lookup>(session: &Session<'_, L>, subject: &Subject, record: &DnsRecord) -> Outcome {
    let answer = session.ask(&record.name, Kind::A).await;
    if answer.failure().is_some() {
        return words::unreachable(&answer, record);
    }
    if is_alias_of_us(&answer, subject) {
        return Outcome::of(&answer, RecordState::Ok);
    }
    let addresses = answer.addresses();
    if addresses.is_empty() && answer.aliases().is_empty() {
        return words::absent(&answer, record);
    }
    let ours = session.ask(&subject.hostname, Kind::A).await.addresses();
    if addresses.iter().any(|address| ours.contains(address)) {
        let remark =
            "it has the address of our host instead of being its alias, and has to be changed when that changes";
        return Outcome::of(&answer, RecordState::Ok).saying(remark, "");
    }
    elsewhere(&answer, subject, record)
}

fn is_alias_of_us(answer: &Answer, subject: &Subject) -> bool {
    answer.aliases().contains(&subject.hostname)
}

fn elsewhere(answer: &Answer, subject: &Subject, record: &DnsRecord) -> Outcome {
    let (name, host) = (&record.name, &subject.hostname);
    Outcome::of(answer, RecordState::Wrong).saying(
        format!("{name} leads elsewhere than to {host}"),
        format!("Replace it by: {name}. {} {}", record.kind, record.zone_value),
    )
}
