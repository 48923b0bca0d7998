//! Subject, body, alternative and attachments: decoded once, as UTF-8 text with CRLF line ends and as octets.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use postrail_schema::limits::{ATTACHMENT_NAME_BYTES_MAX, ATTACHMENTS_MAX, SUBJECT_CHARS_MAX};

use super::json::Json;
use super::reader::{Findings, Members, Place, array};
use super::{is_false, refuse_unless_inactive};
use crate::mail::RestContent;
use crate::mail::job::Attachment;

/// The keys of a text and of how it is written.
pub(super) const TEXT_KEYS: [&str; 5] =
    ["content", "contentEncoding", "contentTransferEncoding", "charset", "template"];
pub(super) const BODY_KEYS: [&str; 6] =
    ["content", "contentEncoding", "contentTransferEncoding", "charset", "template", "contentType"];
pub(super) const ATTACHMENT_KEYS: [&str; 5] = ["name", "contentType", "contentId", "content", "secureDocument"];

/// Takes the content out of the request's members.
pub(super) fn read(members: &mut Members<'_>, root: &Place<'_>, findings: &mut Findings) -> Option<RestContent> {
    let subject = members.take("subject").and_then(|json| read_subject(json, &root.key("subject"), findings));
    let body = members.take("body").and_then(|json| read_body(json, &root.key("body"), findings));
    let has_alternative = members.has("alternative");
    let alternative = members.take("alternative").and_then(|json| {
        let here = root.key("alternative");
        let mut text = Members::read(json, &here, &TEXT_KEYS, findings)?;
        read_text(&mut text, &here, findings).map(|text| with_crlf(&text))
    });
    let attachments = members
        .take("attachments")
        .map_or_else(Vec::new, |json| read_attachments(json, &root.key("attachments"), findings));
    let (body, body_is_html) = body?;
    if has_alternative && !body_is_html {
        let detail = "an alternative goes with a body of text/html";
        findings.add(&root.key("alternative"), "alternative_without_html", detail);
    }
    Some(RestContent { subject: subject?, body, body_is_html, alternative, attachments, ..RestContent::default() })
}

fn read_subject(json: Json<'_>, place: &Place<'_>, findings: &mut Findings) -> Option<String> {
    let mut members = Members::read(json, place, &TEXT_KEYS, findings)?;
    let text = read_text(&mut members, place, findings)?;
    let here = place.key("content");
    if text.chars().count() > SUBJECT_CHARS_MAX {
        findings.add(&here, "too_long", format!("a subject has at most {SUBJECT_CHARS_MAX} characters"));
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        findings.add(&here, "control_character", "line ends and other control characters are not allowed");
    }
    Some(text.trim().to_owned())
}

fn read_body(json: Json<'_>, place: &Place<'_>, findings: &mut Findings) -> Option<(String, bool)> {
    let mut members = Members::read(json, place, &BODY_KEYS, findings)?;
    let here = place.key("contentType");
    let is_html = match members.text("contentType", place, findings) {
        Some(kind) if kind.eq_ignore_ascii_case("text/html") => true,
        Some(kind) if kind.eq_ignore_ascii_case("text/plain") => false,
        Some(_) => {
            findings.add(&here, "unknown_content_type", "a body is text/plain or text/html, without parameters");
            false
        }
        None => {
            findings.add(&here, "missing", "contentType is needed: text/plain or text/html");
            false
        }
    };
    Some((with_crlf(&read_text(&mut members, place, findings)?), is_html))
}

/// The decoded `content`.
fn read_text<'j>(members: &mut Members<'j>, place: &Place<'_>, findings: &mut Findings) -> Option<Cow<'j, str>> {
    members.refuse(&["template", "contentTransferEncoding"], place, findings);
    if let Some(charset) = members.text("charset", place, findings)
        && !charset.eq_ignore_ascii_case("utf-8")
    {
        findings.add(&place.key("charset"), "unknown_charset", "text is in UTF-8");
    }
    let encoding = members.text("contentEncoding", place, findings);
    let here = place.key("content");
    if !members.has("content") {
        findings.add(&here, "missing", "content is needed");
        return None;
    }
    let content = members.text("content", place, findings)?;
    let text = match encoding.unwrap_or("plain") {
        "plain" => Cow::Borrowed(content),
        "base64" => decoded_text(base64_bytes(content).ok_or("the content is not base64"), &here, findings)?,
        "quoted-printable" => {
            let bytes = quoted_printable_bytes(content);
            decoded_text(bytes.ok_or("the content is not quoted-printable"), &here, findings)?
        }
        _ => {
            let detail = "a content encoding is plain, quoted-printable or base64";
            findings.add(&place.key("contentEncoding"), "unknown_encoding", detail);
            return None;
        }
    };
    if text.contains('\0') {
        findings.add(&here, "control_character", "NUL is not allowed");
    }
    Some(text)
}

fn decoded_text(bytes: Result<Vec<u8>, &str>, place: &Place<'_>, findings: &mut Findings) -> Option<Cow<'static, str>> {
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "the decoded content is not UTF-8"));
    match text {
        Ok(text) => Some(text.into()),
        Err(detail) => {
            findings.add(place, "invalid_encoding", detail);
            None
        }
    }
}

fn read_attachments(json: Json<'_>, place: &Place<'_>, findings: &mut Findings) -> Vec<Attachment> {
    let Some(items) = array(json, place, findings) else {
        return Vec::new();
    };
    if items.clone().count() > ATTACHMENTS_MAX {
        findings.add(place, "too_many_attachments", format!("at most {ATTACHMENTS_MAX} attachments are allowed"));
        return Vec::new();
    }
    let mut attachments: Vec<Attachment> = Vec::new();
    for (index, item) in items.enumerate() {
        let here = place.item(index);
        let Some(attachment) = read_attachment(item, &here, findings) else {
            continue;
        };
        let id = attachment.content_id.as_ref();
        if id.is_some_and(|id| attachments.iter().any(|other| other.content_id.as_ref() == Some(id))) {
            findings.add(&here.key("contentId"), "duplicate_content_id", "another attachment has this content id");
        }
        attachments.push(attachment);
    }
    attachments
}

fn read_attachment(json: Json<'_>, place: &Place<'_>, findings: &mut Findings) -> Option<Attachment> {
    let mut members = Members::read(json, place, &ATTACHMENT_KEYS, findings)?;
    match members.take("secureDocument") {
        Some(secure) if is_false(secure) => {}
        Some(secure) if secure.members().is_some() => {
            refuse_unless_inactive(secure, &place.key("secureDocument"), findings);
        }
        Some(_) => findings.add(&place.key("secureDocument"), "not_supported", "secureDocument is not supported"),
        None => {}
    }
    let name = members.text("name", place, findings).unwrap_or_default().trim().to_owned();
    if name.len() > ATTACHMENT_NAME_BYTES_MAX || name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\')) {
        let detail =
            format!("a name has at most {ATTACHMENT_NAME_BYTES_MAX} octets, no control character and no slash");
        findings.add(&place.key("name"), "invalid_name", detail);
    }
    let content_type = members.text("contentType", place, findings).unwrap_or("application/octet-stream");
    if let Some(detail) = content_type_defect(content_type) {
        findings.add(&place.key("contentType"), "invalid_content_type", detail);
    }
    let content_id = members.text("contentId", place, findings).map(|id| {
        let bare = id.trim().trim_start_matches('<').trim_end_matches('>').to_owned();
        let visible = |byte: u8| byte.is_ascii_graphic() && !b"<>\"(),;\\".contains(&byte);
        if bare.is_empty() || bare.len() > ATTACHMENT_NAME_BYTES_MAX || !bare.bytes().all(visible) {
            findings.add(
                &place.key("contentId"),
                "invalid_content_id",
                "a content id has visible ASCII characters only",
            );
        }
        bare
    });
    let here = place.key("content");
    if !members.has("content") {
        findings.add(&here, "missing", "content is needed, in base64");
        return None;
    }
    let text = members.text("content", place, findings)?;
    let Some(content) = base64_bytes(text) else {
        findings.add(&here, "invalid_encoding", "the content is not base64");
        return None;
    };
    Some(Attachment { name, content_type: content_type.to_owned(), content_id, content: Bytes::from(content) })
}

/// `type/subtype` with parameters at will. Parts that hold parts are no files (RFC 2046 section 5): they cannot be
/// sent in base64.
fn content_type_defect(text: &str) -> Option<&'static str> {
    let (kind, parameters) = text.split_once(';').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
    let is_token = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        (1..=127).contains(&part.len()) && part.bytes().all(allowed)
    };
    let well_formed =
        kind.trim_end().split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    let visible = |byte: u8| byte == b' ' || (byte.is_ascii_graphic() && byte != b'\\');
    let parameters_fit = parameters
        .is_none_or(|rest| rest.len() <= ATTACHMENT_NAME_BYTES_MAX && rest.bytes().all(visible) && rest.contains('='));
    if !well_formed || !parameters_fit {
        return Some("a content type has the form type/subtype");
    }
    let kind = kind.to_ascii_lowercase();
    let composite = kind.starts_with("multipart/") || kind.starts_with("message/");
    composite.then_some("messages and multiparts are attached as application/octet-stream")
}

/// Standard base64 with padding; line ends between are allowed.
fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    if text.bytes().any(|byte| is_line_end(&byte)) {
        let joined: Vec<u8> = text.bytes().filter(|byte| !is_line_end(byte)).collect();
        return STANDARD.decode(joined).ok();
    }
    STANDARD.decode(text).ok()
}

/// Quoted-printable (RFC 2045 section 6.7); `None` where an escape is broken.
fn quoted_printable_bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr(b'=', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = match &rest[at + 1..] {
            [b'\r', b'\n', after @ ..] | [b'\n', after @ ..] => after,
            [high, low, after @ ..] => {
                out.push((digit(*high)? << 4 | digit(*low)?) as u8);
                after
            }
            _ => return None,
        };
    }
    out.extend_from_slice(rest);
    Some(out)
}

/// The text with CRLF for every line end that it has, be it CRLF, CR or LF.
fn with_crlf(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        out.push_str("\r\n");
        let line_end = if rest[at..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[at + line_end..];
    }
    out.push_str(rest);
    out
}

/// Octets of the rendered body, from above: text goes out in quoted-printable or base64, whichever is shorter.
pub(super) fn rendered_bytes(content: &RestContent) -> usize {
    let base64 = |bytes: usize| bytes.div_ceil(57) * 78;
    let text = |text: &str| {
        let bytes = text.as_bytes();
        let high = bytes.iter().filter(|byte| !byte.is_ascii()).count();
        let escaped = high + memchr::memchr_iter(b'=', bytes).count() + memchr::memchr_iter(b'\n', bytes).count();
        let quoted = bytes.len() + 2 * escaped;
        base64(bytes.len()).min(quoted + quoted / 20) + 256
    };
    let attachments = content.attachments.iter();
    text(&content.body)
        + content.alternative.as_deref().map_or(0, text)
        + attachments.map(|part| base64(part.content.len()) + 3 * part.name.len() + 768).sum::<usize>()
        + 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_become_crlf() {
        for (given, expected) in
            [("", ""), ("a\nb", "a\r\nb"), ("a\r\nb\rc\n\n", "a\r\nb\r\nc\r\n\r\n"), ("\r", "\r\n")]
        {
            assert_eq!(with_crlf(given), expected, "{given:?}");
        }
    }

    #[test]
    fn encodings_are_undone() {
        assert_eq!(quoted_printable_bytes("gr=C3=BCn=\r\n =3d x").as_deref(), Some("grün = x".as_bytes()));
        for broken in ["=", "=4", "=G0", "=\r"] {
            assert_eq!(quoted_printable_bytes(broken), None, "{broken:?}");
        }
        assert_eq!(base64_bytes("aGk=").as_deref(), Some(&b"hi"[..]));
        assert_eq!(base64_bytes("aG\r\nk=").as_deref(), Some(&b"hi"[..]));
        for broken in ["aGk", "a", "aGk=x", "a-k=", "aGl="] {
            assert_eq!(base64_bytes(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn content_types_are_judged() {
        for (text, good) in [
            ("application/pdf", true),
            ("text/plain; charset=utf-8", true),
            ("text", false),
            ("text/", false),
            ("te xt/plain", false),
            ("text/plain\r\nX: y", false),
            ("text/plain;\r\n x=y", false),
            ("message/rfc822", false),
            ("Multipart/mixed", false),
        ] {
            assert_eq!(content_type_defect(text).is_none(), good, "{text:?}");
        }
    }
}
