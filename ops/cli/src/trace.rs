//! `postrail trace`: the life of a message as one line an event, in the order of time.
//!
//! The first line of an event says when, what and for whom; a line below it says how: source, host, TLS, reply.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Result;
use serde_json::Value;

use crate::client::Api;
use crate::table;

pub(crate) fn run(api: &Api, id: &str) -> Result<()> {
    let trace = api.get(&["trace", id], &[])?;
    if api.wants_json() {
        return Ok(table::print_json(&trace)?);
    }
    let mut text = String::new();
    let mut addresses = BTreeMap::new();
    for event in table::records(&trace) {
        event_lines(event, &mut addresses, &mut text);
    }
    if text.is_empty() {
        text.push_str("no events yet\n");
    }
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

/// Appends one event. Only its first event carries a recipient's address: `addresses` remembers it by recipient.
fn event_lines(event: &Value, addresses: &mut BTreeMap<String, String>, text: &mut String) {
    let said = |pointer: &str| event.pointer(pointer).map(table::plain).filter(|value| value != "-" && value != "0");
    let time = event.get("at_ms").and_then(Value::as_u64).map(utc).or_else(|| said("/at")).unwrap_or_default();
    let kind = said("/kind").unwrap_or_default();
    let recipient = said("/recipient").unwrap_or_default();
    if let Some(address) = said("/address") {
        addresses.insert(recipient.clone(), address);
    }
    let _ = write!(text, "{time}  {kind:<12} {}", addresses.get(&recipient).unwrap_or(&recipient));
    if let Some(reason) = said("/reason") {
        let _ = write!(text, "  ({reason})");
    }
    if let Some(next) = event.get("next_attempt_ms").and_then(Value::as_u64).filter(|next| *next > 0) {
        let _ = write!(text, "  again at {}", utc(next));
    }
    text.push('\n');
    let facts: Vec<String> = [
        ("attempt", "/attempt/number"),
        ("from", "/attempt/source_address"),
        ("site", "/attempt/site"),
        ("host", "/attempt/host"),
        ("address", "/attempt/host_address"),
        ("tls", "/attempt/tls"),
        ("at", "/attempt/phase"),
        ("ms", "/attempt/duration_ms"),
        ("by", "/submission/interface"),
        ("sender", "/submission/reverse_path"),
        ("octets", "/submission/bytes"),
        ("class", "/submission/class"),
        ("reference", "/submission/reference"),
        ("campaign", "/submission/campaign"),
    ]
    .into_iter()
    .filter_map(|(name, pointer)| {
        let none = (name == "tls" && said("/attempt/host_address").is_some()).then(|| "none".to_owned());
        Some(format!("{name} {}", said(pointer).or(none)?))
    })
    .collect();
    if !facts.is_empty() {
        let _ = writeln!(text, "    {}", facts.join(", "));
    }
    if let Some(reply) = said("/attempt/reply") {
        let code = said("/attempt/reply_code").map_or_else(String::new, |code| format!("{code} "));
        let status = said("/attempt/enhanced_status").map_or_else(String::new, |status| format!("{status} "));
        let _ = writeln!(text, "    said: {code}{status}{reply}");
    }
}

/// Unix milliseconds as RFC 3339 in UTC.
pub(crate) fn utc(ms: u64) -> String {
    let (seconds, millis) = (ms / 1_000, ms % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// The date of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole cycles of 400 years first, so that the loops below are short for any input.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_795_000_000_000, "2026-11-18T11:06:40.000Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
        assert!(!utc(u64::MAX).is_empty());
    }

    #[test]
    fn an_event_tells_what_was_said_by_whom() {
        let mut text = String::new();
        let event = json!({"kind": "deferred", "at_ms": 0, "address": "b@y.test", "reason": "greylisted", "next_attempt_ms": 300_000,
            "attempt": {"number": 1, "host": "mx.y.test", "tls": "", "reply_code": 450, "enhanced_status": "4.2.0", "reply": "come back", "source_address": null}});
        event_lines(&event, &mut BTreeMap::new(), &mut text);
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000Z  deferred     b@y.test  (greylisted)  again at 1970-01-01T00:05:00.000Z\n    \
             attempt 1, host mx.y.test\n    said: 450 4.2.0 come back\n"
        );
    }
}
