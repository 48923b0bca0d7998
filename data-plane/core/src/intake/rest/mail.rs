//! The `mail` objects: who sends, and the header fields that a caller may set.
//!
//! Header injection is refused here, not repaired: a value with CR, LF, NUL or another control character is an error,
//! and so is the name of a field that the product writes itself.

use postrail_schema::limits::{DISPLAY_NAME_BYTES_MAX, USER_HEADER_BYTES_MAX, USER_HEADERS_MAX};
use postrail_schema::snapshot::SendingDomain;

use super::Acceptance;
use super::json::Json;
use super::reader::{DOMAIN_MAY_NOT_SEND, Findings, Members, Place, string};
use crate::mail::job::{MailFields, Mailbox, Priority};
use crate::mail::{Address, AddressError};

/// The job-level `mail` object.
#[derive(Debug)]
pub(super) struct Sender<'s> {
    /// The registered domain of the From field.
    pub(super) domain: &'s SendingDomain,
    pub(super) reverse_path: Address,
    pub(super) needs_smtp_utf8: bool,
    /// One of its domains fails in DNS, and the tenant wants such mail kept.
    pub(super) quarantined: bool,
    pub(super) fields: MailFields,
}

pub(super) const SENDER_KEYS: [&str; 8] =
    ["from", "mimeFrom", "replyTo", "inReplyTo", "priority", "listUnsubscribe", "xHeaders", "rewriteFrom"];

/// Fields that the product writes, or that say what only a relay may say.
const RESERVED: [&str; 20] = [
    "apparently-to",
    "authentication-results",
    "bcc",
    "cc",
    "date",
    "delivered-to",
    "dkim-signature",
    "domainkey-signature",
    "from",
    "importance",
    "in-reply-to",
    "message-id",
    "mime-version",
    "received",
    "reply-to",
    "return-path",
    "sender",
    "subject",
    "to",
    "x-priority",
];
const RESERVED_PREFIXES: [&str; 8] =
    ["arc-", "content-", "list-", "received-", "resent-", "x-csa-", "x-postrail-", "x-retarus-m4a-"];

/// Longest name of a user field, octets.
const NAME_BYTES_MAX: usize = 76;

/// Why a text is not a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum MailboxError {
    #[error("{0}")]
    Address(#[from] AddressError),
    #[error("one address is expected, at most one pair of angle brackets around it")]
    Brackets,
    #[error("line ends and other control characters are not allowed")]
    Control,
    #[error("the display name is longer than {DISPLAY_NAME_BYTES_MAX} octets")]
    NameTooLong,
}

/// Reads the job-level object: both senders must be of registered domains.
pub(super) fn read_sender<'s>(
    a: &Acceptance<'s>,
    json: Json<'_>,
    place: &Place<'_>,
    findings: &mut Findings,
) -> Option<Sender<'s>> {
    let mut members = Members::read(json, place, &SENDER_KEYS, findings)?;
    members.refuse(&["rewriteFrom"], place, findings);
    let mut fields = read_fields(&mut members, place, findings);
    let (has_from, has_mime_from) = (members.has("from"), members.has("mimeFrom"));
    if !has_from && !has_mime_from {
        findings.add(&place.key("from"), "missing", "from (envelope) or mimeFrom (header) is needed");
        return None;
    }
    let mut read = |name| members.take(name).and_then(|json| sender_mailbox(a, json, &place.key(name), findings));
    let (from, mime_from) = (read("from"), read("mimeFrom"));
    if has_from != from.is_some() || has_mime_from != mime_from.is_some() {
        return None;
    }
    // One that may not send was refused above, unless its mail is to be kept.
    let keeps = a.snapshot.tenants.get(&a.principal.tenant).is_some_and(|tenant| tenant.quarantines);
    let quarantined = keeps && [&from, &mime_from].into_iter().flatten().any(|(_, _, domain)| domain.is_failing());
    let (mailbox, header_address, domain) = mime_from.or_else(|| from.clone())?;
    let needs_smtp_utf8 = header_address.needs_smtp_utf8();
    let reverse_path = from.map_or(header_address, |(_, address, _)| address);
    let needs_smtp_utf8 = needs_smtp_utf8 || reverse_path.needs_smtp_utf8();
    fields.from = Some(mailbox);
    Some(Sender { domain, reverse_path, needs_smtp_utf8, quarantined, fields })
}

fn sender_mailbox<'s>(
    a: &Acceptance<'s>,
    json: Json<'_>,
    place: &Place<'_>,
    findings: &mut Findings,
) -> Option<(Mailbox, Address, &'s SendingDomain)> {
    let text = read_email(json, place, findings)?;
    let here = place.key("email");
    let (mailbox, address) = match parse_mailbox(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            findings.add(&here, "invalid_address", error.to_string());
            return None;
        }
    };
    let domain = a.snapshot.domain_of(a.principal.tenant, address.domain().as_str());
    let tenant = a.snapshot.tenants.get(&a.principal.tenant);
    match domain.map(|domain| tenant.map_or_else(|| domain.refusal(), |tenant| domain.refusal_of(tenant))) {
        None => {
            let detail = format!("{} is not a registered domain of this tenant", address.domain());
            findings.add(place, "domain_not_registered", detail);
        }
        Some(Some(refusal)) => findings.add(place, DOMAIN_MAY_NOT_SEND, refusal.to_string()),
        Some(None) => {}
    }
    domain.map(|domain| (mailbox, address, domain))
}

/// The text of `{"email": ".."}`.
pub(super) fn read_email<'j>(json: Json<'j>, place: &Place<'_>, findings: &mut Findings) -> Option<&'j str> {
    let mut members = Members::read(json, place, &["email"], findings)?;
    if !members.has("email") {
        findings.add(&place.key("email"), "missing", "email is needed");
    }
    members.text("email", place, findings)
}

/// The fields that a job and an entry may both have; `from`, `to` and `cc` stay empty.
pub(super) fn read_fields(members: &mut Members<'_>, place: &Place<'_>, findings: &mut Findings) -> MailFields {
    let reply_to = members.take("replyTo").and_then(|json| {
        let here = place.key("replyTo");
        let text = read_email(json, &here, findings)?;
        let parsed = parse_mailbox(text);
        parsed.map_err(|error| findings.add(&here.key("email"), "invalid_address", error.to_string())).ok()
    });
    let in_reply_to = members.text("inReplyTo", place, findings).map(|text| {
        if !is_message_id(text) {
            let detail = "a message id has the form <left@right>, in ASCII and without white space";
            findings.add(&place.key("inReplyTo"), "invalid_message_id", detail);
        }
        text.trim().to_owned()
    });
    let priority = members.text("priority", place, findings).and_then(|text| match text {
        "HIGH" => Some(Priority::High),
        "NORMAL" => Some(Priority::Normal),
        _ => {
            findings.add(&place.key("priority"), "unknown_priority", "a priority is HIGH or NORMAL");
            None
        }
    });
    let list_unsubscribe = members.text("listUnsubscribe", place, findings).map(|text| {
        if !is_uri_list(text) {
            let detail = "https, http and mailto URIs are expected, separated by commas";
            findings.add(&place.key("listUnsubscribe"), "invalid_uri", detail);
        }
        text.trim().to_owned()
    });
    let headers = members.take("xHeaders").map_or_else(Vec::new, |json| {
        let here = place.key("xHeaders");
        read_headers(json, &here, findings)
    });
    MailFields {
        reply_to: reply_to.map(|(mailbox, _)| mailbox),
        in_reply_to,
        priority,
        list_unsubscribe,
        headers,
        ..MailFields::default()
    }
}

fn read_headers(json: Json<'_>, place: &Place<'_>, findings: &mut Findings) -> Vec<(String, String)> {
    let Some(members) = json.members() else {
        findings.add(place, "wrong_type", format!("an object is expected, not {}", json.kind()));
        return Vec::new();
    };
    let count = members.clone().count();
    if count > USER_HEADERS_MAX {
        findings.add(place, "too_many_headers", format!("at most {USER_HEADERS_MAX} fields are allowed"));
        return Vec::new();
    }
    let mut headers: Vec<(String, String)> = Vec::with_capacity(count);
    for (name, value) in members {
        let here = place.key(name);
        if let Some((code, detail)) = name_defect(name) {
            findings.add(&here, code, detail);
        } else if headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name)) {
            findings.add(&here, "duplicate_key", "the field occurs twice");
        } else if let Some(value) = string(value, &here, findings) {
            if let Some((code, detail)) = value_defect(value) {
                findings.add(&here, code, detail);
            }
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    headers
}

fn name_defect(name: &str) -> Option<(&'static str, &'static str)> {
    let is_name = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !is_name {
        return Some(("invalid_header_name", "a field name has 1 to 76 visible ASCII characters and no colon"));
    }
    let begins = |prefix: &&str| name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix));
    if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) || RESERVED_PREFIXES.iter().any(begins) {
        return Some(("reserved_header", "this field is written by the product, or has a key of its own"));
    }
    None
}

fn value_defect(value: &str) -> Option<(&'static str, &'static str)> {
    if value.trim().is_empty() {
        return Some(("empty_value", "a key that is present must not be empty"));
    }
    if has_control(value, |c| c != '\t') {
        return Some(("control_character", "line ends and other control characters are not allowed"));
    }
    if value.len() > USER_HEADER_BYTES_MAX {
        return Some(("too_long", "a field value has at most 995 octets"));
    }
    None
}

/// Whether the text has a control character that counts.
fn has_control(text: &str, counts: impl Fn(char) -> bool) -> bool {
    // Most text is ASCII, and most of that without any: it is looked at octet by octet.
    let may_have = !text.is_ascii() || text.bytes().any(|byte| byte.is_ascii_control());
    may_have && text.chars().any(|c| c.is_control() && counts(c))
}

/// `name <address>`, `name<address>`, or `address`.
pub(super) fn parse_mailbox(text: &str) -> Result<(Mailbox, Address), MailboxError> {
    if has_control(text, |_| true) {
        return Err(MailboxError::Control);
    }
    let text = text.trim();
    let (name, address) = match text.strip_suffix('>').and_then(|inner| inner.rsplit_once('<')) {
        Some((name, address)) => (display_name(name.trim()).ok_or(MailboxError::Brackets)?, address.trim()),
        None => (String::new(), text),
    };
    if name.len() > DISPLAY_NAME_BYTES_MAX {
        return Err(MailboxError::NameTooLong);
    }
    let address = Address::parse(address)?;
    Ok((Mailbox { name, address: header_form(&address) }, address))
}

/// The address as a header field shows it: with A-labels, unless it needs SMTPUTF8 anyway.
pub(super) fn header_form(address: &Address) -> String {
    if address.needs_smtp_utf8() { address.as_str().to_owned() } else { address.ascii_domain_form() }
}

/// A quoted string without its quotes, else the text itself unless it has angle brackets.
fn display_name(text: &str) -> Option<String> {
    let Some(quoted) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return (!text.contains(['<', '>'])).then(|| text.to_owned());
    };
    let mut name = String::with_capacity(quoted.len());
    let mut escaped = false;
    for c in quoted.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            name.push(c);
        }
    }
    Some(name)
}

fn is_message_id(text: &str) -> bool {
    let text = text.trim();
    let id = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
    let sides = id.split_once('@').is_some_and(|(left, right)| !left.is_empty() && !right.is_empty());
    sides && id.len() <= USER_HEADER_BYTES_MAX / 2 && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>,".contains(&b))
}

fn is_uri_list(text: &str) -> bool {
    text.len() <= USER_HEADER_BYTES_MAX
        && text.split(',').all(|item| {
            let item = item.trim();
            let uri = item.strip_prefix('<').map_or(Some(item), |inner| inner.strip_suffix('>'));
            uri.is_some_and(|uri| {
                let lower = uri.to_ascii_lowercase();
                let known = ["https://", "http://", "mailto:"]
                    .iter()
                    .any(|scheme| lower.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
                known && uri.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"\\".contains(&byte))
            })
        })
}

/// Octets that these fields take in a header section, from above: encoded words are at most three times as long.
pub(super) fn header_bytes(fields: &MailFields) -> usize {
    let mailbox = |mailbox: &Mailbox| 3 * mailbox.name.len() + mailbox.address.len() + 64;
    let text = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len() + 32);
    let mailboxes = fields.to.iter().chain(&fields.cc).chain(&fields.from).chain(&fields.reply_to);
    mailboxes.map(mailbox).sum::<usize>()
        + text(&fields.in_reply_to)
        + text(&fields.list_unsubscribe)
        + fields.headers.iter().map(|(name, value)| name.len() + 3 * value.len() + 64).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_are_read_with_and_without_names() {
        for (text, name, address) in [
            ("a@b.example", "", "a@b.example"),
            (" <a@b.example> ", "", "a@b.example"),
            ("friendly<a@b.example>", "friendly", "a@b.example"),
            ("Anna M\u{fc}ller <a@b\u{fc}cher.example>", "Anna M\u{fc}ller", "a@xn--bcher-kva.example"),
            ("\"Doe, \\\"J\\\"\" <a@b.example>", "Doe, \"J\"", "a@b.example"),
        ] {
            let (mailbox, _) = parse_mailbox(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((mailbox.name.as_str(), mailbox.address.as_str()), (name, address), "{text}");
        }
        for text in
            ["", "a", "a@", "x <a@b", "a@b> ", "n\r\nBcc: c@d <a@b>", "<a@b\r\n>", "a b@c", "<<a@b>>", "<a@b>,<c@d>"]
        {
            assert!(parse_mailbox(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_of_fields_are_judged() {
        for (name, code) in [
            ("X-Any", None),
            ("Feedback-ID", None),
            ("Auto-Submitted", None),
            ("References", None),
            ("", Some("invalid_header_name")),
            ("a b", Some("invalid_header_name")),
            ("a:b", Some("invalid_header_name")),
            ("X\r\nBcc", Some("invalid_header_name")),
            ("X-\u{fc}", Some("invalid_header_name")),
            ("FROM", Some("reserved_header")),
            ("Return-Path", Some("reserved_header")),
            ("Received", Some("reserved_header")),
            ("dkim-signature", Some("reserved_header")),
            ("List-Unsubscribe-Post", Some("reserved_header")),
            ("X-CSA-Complaints", Some("reserved_header")),
            ("X-Postrail-Class", Some("reserved_header")),
            ("Content-Type", Some("reserved_header")),
            ("MIME-Version", Some("reserved_header")),
            ("Resent-From", Some("reserved_header")),
            ("Bcc", Some("reserved_header")),
        ] {
            assert_eq!(name_defect(name).map(|(code, _)| code), code, "{name:?}");
        }
    }

    #[test]
    fn values_that_would_break_out_are_refused() {
        for (value, code) in [
            ("fine\tand \u{fc}", None),
            (" ", Some("empty_value")),
            ("a\r\nBcc: x", Some("control_character")),
            ("a\nb", Some("control_character")),
            ("a\0b", Some("control_character")),
            ("a\u{85}b", Some("control_character")),
        ] {
            assert_eq!(value_defect(value).map(|(code, _)| code), code, "{value:?}");
        }
        assert!(value_defect(&"x".repeat(USER_HEADER_BYTES_MAX)).is_none());
        assert!(value_defect(&"x".repeat(USER_HEADER_BYTES_MAX + 1)).is_some());
    }

    #[test]
    fn uris_and_message_ids_are_judged() {
        for (text, good) in [
            ("https://a.example/u?t=1", true),
            ("<https://a.example/u>, <mailto:u@a.example>", true),
            ("<https://a.example/u", false),
            ("ftp://a", false),
            ("https://", false),
            ("https://a b", false),
            ("<https://a>\r\nBcc: x", false),
            ("", false),
        ] {
            assert_eq!(is_uri_list(text), good, "{text:?}");
        }
        for (text, good) in [("<a@b>", true), ("a@b", true), ("a", false), ("<a@b> <c@d>", false), ("<a@b", false)] {
            assert_eq!(is_message_id(text), good, "{text:?}");
        }
    }
}
