//! Whether a key record says what we sign with (RFC 6376 section 3.6.1, RFC 8463).
//!
//! A CNAME from the owner's zone to ours is as good as the record itself: what counts is what receivers read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::records::{SubjectKey, algorithm_name};
use super::session::Session;
use super::{DnsRecord, Duty, Outcome, RecordState, Subject, words};
use crate::dns::{Answer, Kind, Lookup};

pub(super) async fn check<L: Lookup>(session: &Session<'_, L>, subject: &Subject, record: &DnsRecord) -> Outcome {
    let answer = session.ask(&record.name, Kind::Txt).await;
    if answer.failure().is_some() {
        return words::unreachable(&answer, record);
    }
    let key = subject.keys.iter().find(|key| record.name == format!("{}._domainkey.{}", key.selector, subject.name));
    let key = key.expect("each key record is of one of the subject's keys");
    let texts = answer.texts();
    if record.duty == Duty::Remove {
        return match texts.is_empty() {
            true => Outcome::of(&answer, RecordState::Missing).saying("it is gone, as it may be", ""),
            false => Outcome::of(&answer, RecordState::Ok).saying("it is not needed any more, and may be removed", ""),
        };
    }
    let verdict = match &texts[..] {
        [] => Err(None),
        [only] => judge(only, key).map_err(Some),
        several => Err(Some(several_texts(several, key))),
    };
    let wrong = match verdict {
        Ok(remark) => return Outcome::of(&answer, RecordState::Ok).saying(remark, ""),
        Err(wrong) => wrong,
    };
    let fits = |texts: &[String]| texts.len() == 1 && judge(&texts[0], key).is_ok();
    if let Some(outcome) = words::mistake(session, subject, record, &answer, fits).await {
        return outcome;
    }
    wrong.map_or_else(|| words::absent(&answer, record), |wrong| said(&answer, record, wrong))
}

fn said(answer: &Answer, record: &DnsRecord, wrong: String) -> Outcome {
    let advice = format!("Replace it by: {}. TXT {}", record.name, record.zone_value);
    Outcome::of(answer, RecordState::Wrong).saying(wrong, advice)
}

/// A remark about a record that receivers verify us with, or what is wrong with it.
fn judge(text: &str, key: &SubjectKey) -> Result<String, String> {
    let tags = tags(text).ok_or("the text is not a list of tags such as v=DKIM1; p=...")?;
    let tag = |name: &str| tags.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str());
    if tags.iter().any(|(name, _)| tags.iter().filter(|(other, _)| other == name).count() > 1) {
        return Err("a tag occurs twice, so receivers ignore the record".to_owned());
    }
    match tags.iter().position(|(name, _)| *name == "v") {
        Some(0) | None if tag("v").is_none_or(|version| version == "DKIM1") => {}
        Some(0) | None => return Err("its version is not DKIM1".to_owned()),
        Some(_) => return Err("v=DKIM1 has to be the first tag".to_owned()),
    }
    let algorithm = algorithm_name(key.algorithm);
    let found = tag("k").unwrap_or("rsa");
    if found != algorithm {
        return Err(format!("it is a key for {found} (k=), and this selector signs with {algorithm}"));
    }
    let listed = |list: &str, wanted: &[&str]| list.split(':').any(|entry| wanted.contains(&entry.trim()));
    if tag("h").is_some_and(|hashes| !listed(hashes, &["sha256"])) {
        return Err("it does not allow the hash sha256 (h=)".to_owned());
    }
    if tag("s").is_some_and(|services| !listed(services, &["*", "email"])) {
        return Err("it is not meant for e-mail (s=)".to_owned());
    }
    same_key(tag("p").ok_or("it has no key (p=)")?, &key.public_key)?;
    if tag("t").is_some_and(|flags| listed(flags, &["y"])) {
        return Ok("it says that DKIM is only being tested (t=y), so some receivers ignore signatures".to_owned());
    }
    Ok(String::new())
}

fn same_key(found: &str, ours: &str) -> Result<(), String> {
    let found: String = found.split_whitespace().collect();
    if found.is_empty() {
        return Err("the key is revoked: its p= is empty".to_owned());
    }
    if found == ours {
        return Ok(());
    }
    if ours.starts_with(&found) {
        let (found, ours) = (found.len(), ours.len());
        return Err(format!(
            "the key was cut after {found} of its {ours} characters: a text longer than 255 is entered as several strings of one record"
        ));
    }
    match (STANDARD.decode(&found), STANDARD.decode(ours)) {
        (Ok(found), Ok(ours)) if found == ours => Ok(()),
        (Ok(_), _) => {
            Err("it is another key than the one we sign with, so receivers find our signatures false".to_owned())
        }
        (Err(_), _) => Err("its key (p=) is not whole base64: characters were lost or changed".to_owned()),
    }
}

fn several_texts(texts: &[String], key: &SubjectKey) -> String {
    let parts = texts.iter().map(|text| text.trim().trim_matches('"'));
    let (first, rest): (Vec<_>, Vec<_>) = parts.partition(|text| text.starts_with("v="));
    let split = rest.iter().any(|part| part.len() > 20 && key.public_key.contains(*part));
    if first.len() == 1 && split {
        return format!("the text was split into {} records: it has to be one record of several strings", texts.len());
    }
    format!("there are {} records, and receivers take any one of them", texts.len())
}

/// The tags of a tag list (RFC 6376 section 3.2), names as they are, values without white space at their ends.
pub(super) fn tags(text: &str) -> Option<Vec<(&str, String)>> {
    let mut tags = Vec::new();
    for part in text.split(';').map(str::trim) {
        if part.is_empty() {
            continue;
        }
        let (name, value) = part.split_once('=')?;
        let name = name.trim();
        let form = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(form) {
            return None;
        }
        tags.push((name, value.trim().to_owned()));
    }
    (!tags.is_empty()).then_some(tags)
}
