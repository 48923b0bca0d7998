//! Whether receivers find a DMARC policy for the domain (RFC 7489 section 6.6.3, RFC 9989).
//!
//! It is at the domain or, failing that, at its organisational domain, which the public suffix list gives. Any policy
//! will do, `none` included: large receivers only ask that there is one.

use super::dkim::tags;
use super::session::Session;
use super::{DnsRecord, Outcome, RecordState, Subject, words};
use crate::dns::{Kind, Lookup};

pub(super) async fn check<L: Lookup>(session: &Session<'_, L>, subject: &Subject, record: &DnsRecord) -> Outcome {
    let answer = session.ask(&record.name, Kind::Txt).await;
    if answer.failure().is_some() {
        return words::unreachable(&answer, record);
    }
    let texts = answer.texts();
    match &policies(&texts)[..] {
        [] => {}
        [only] => return judged(Outcome::of(&answer, RecordState::Ok), only, false),
        several => {
            return Outcome::of(&answer, RecordState::Wrong).saying(
                format!("there are {} DMARC records, and receivers then follow none", several.len()),
                "Keep one of them.",
            );
        }
    }
    let organisation = psl::domain_str(&subject.name).unwrap_or(&subject.name);
    if organisation != subject.name {
        let above = session.ask(&format!("_dmarc.{organisation}"), Kind::Txt).await;
        if above.failure().is_some() {
            return words::unreachable(&above, record);
        }
        let texts = above.texts();
        if let [only] = &policies(&texts)[..] {
            return judged(Outcome::of(&above, RecordState::Ok), only, true);
        }
    }
    let fits = |texts: &[String]| policies(texts).len() == 1;
    if let Some(outcome) = words::mistake(session, subject, record, &answer, fits).await {
        return outcome;
    }
    if let Some(text) = texts.iter().find(|text| text.to_ascii_lowercase().contains("dmarc")) {
        let start: String = text.chars().take(20).collect();
        return Outcome::of(&answer, RecordState::Wrong).saying(
            format!("a text begins with {start}, which receivers do not take for DMARC"),
            format!("A DMARC record begins with v=DMARC1; and its policy: {}", record.value),
        );
    }
    words::absent(&answer, record)
}

/// The DMARC records among texts.
fn policies(texts: &[String]) -> Vec<&String> {
    let is_policy = |text: &&String| {
        let rest = text.trim_start().strip_prefix("v").map(str::trim_start).and_then(|rest| rest.strip_prefix('='));
        rest.is_some_and(|rest| {
            rest.trim_start().split(';').next().is_some_and(|version| version.trim_end() == "DMARC1")
        })
    };
    texts.iter().filter(is_policy).collect()
}

/// `inherited`: the record is the organisational domain's.
fn judged(outcome: Outcome, text: &str, inherited: bool) -> Outcome {
    let tags = tags(text).unwrap_or_default();
    let tag = |name: &str| tags.iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_ascii_lowercase());
    let policy = tag("sp").filter(|_| inherited).or_else(|| tag("p"));
    match policy.as_deref() {
        Some("none" | "quarantine" | "reject") => {}
        Some(other) => {
            let detail = format!("its policy is {other}, which receivers do not know");
            let wrong = Outcome { state: RecordState::Wrong, ..outcome };
            return wrong.saying(detail, "A policy is p=none, p=quarantine or p=reject.");
        }
        None => {
            let wrong = Outcome { state: RecordState::Wrong, ..outcome };
            return wrong.saying("it has no policy (p=), so receivers ignore it", "Add p=none, or a stricter policy.");
        }
    }
    let mut remarks = Vec::new();
    if inherited {
        remarks.push("the policy of the organisational domain holds");
    }
    if tag("aspf").as_deref() == Some("s") {
        // Signatures name the domain itself, so they align in both modes.
        remarks.push(
            "it wants strict alignment of SPF (aspf=s): mail with its return path in a subdomain passes by DKIM alone",
        );
    }
    outcome.saying(remarks.join("; "), "")
}
