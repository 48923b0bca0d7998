//! An 8-bit message for a receiver without 8BITMIME (RFC 6152 section 3): its parts are re-encoded, its structure and
//! its text stay.
//!
//! Every leaf with an octet above 127 becomes quoted-printable (text that is mostly ASCII) or base64. Multiparts and
//! attached messages are walked; their own encoding becomes `7bit`. What is signed as a whole cannot be changed
//! (RFC 1847 section 2.1): the caller bounces with 5.6.3. The result must be signed anew.

use bytes::Bytes;

use super::encode;
use super::fields::{Field, fields};
use crate::mail::FinalMessage;

/// Why a message cannot be made 7-bit; 5.6.3 (RFC 3463 section 3.7) in each case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConversionError {
    #[error("a signed part must not be changed")]
    Signed,
    #[error("a header field has octets above 127")]
    Header,
    #[error("a part has octets above 127 under an encoding that has none, or a multipart has no boundary")]
    Malformed,
    #[error("parts are nested too deeply")]
    Depth,
}

/// Depth of parts within parts.
const DEPTH_MAX: usize = 16;

/// The message in 7-bit form, unsigned. A message that is 7-bit already is given back as it is.
///
/// # Errors
/// Says why the message must be bounced instead.
pub fn convert(message: &FinalMessage) -> Result<FinalMessage, ConversionError> {
    if !message.eight_bit {
        return Ok(message.clone());
    }
    let (mut header, body) = entity(&message.header, &message.body, 0)?;
    if !fields(&header).any(|field| field.is("MIME-Version")) {
        header.truncate(header.len() - 2);
        header.extend_from_slice(b"MIME-Version: 1.0\r\n\r\n");
    }
    Ok(FinalMessage {
        signatures: Bytes::new(),
        header: header.into(),
        body: body.into(),
        eight_bit: false,
        utf8_header: message.utf8_header,
    })
}

/// Converts one entity: a message or a body part. `header` has its empty line.
fn entity(header: &[u8], body: &[u8], depth: usize) -> Result<(Vec<u8>, Vec<u8>), ConversionError> {
    if depth > DEPTH_MAX {
        return Err(ConversionError::Depth);
    }
    if depth > 0 && !header.is_ascii() {
        return Err(ConversionError::Header);
    }
    if body.is_ascii() {
        return Ok((header.to_vec(), body.to_vec()));
    }
    let field = |name: &'static str| fields(header).find(move |field| field.is(name));
    let encoding = field("Content-Transfer-Encoding").map_or_else(String::new, |field| token(&field));
    let content_type = field("Content-Type");
    let kind = content_type.as_ref().map_or_else(|| "text/plain".to_owned(), token);
    if !matches!(encoding.as_str(), "" | "7bit" | "8bit" | "binary") {
        return Err(ConversionError::Malformed);
    }
    if matches!(kind.as_str(), "multipart/signed" | "multipart/encrypted") {
        return Err(ConversionError::Signed);
    }
    if kind.starts_with("multipart/") {
        let boundary = content_type.and_then(|field| parameter(field.value, "boundary"));
        let boundary = boundary.ok_or(ConversionError::Malformed)?;
        return Ok((with_encoding(header, "7bit"), multipart(body, &boundary, depth)?));
    }
    if matches!(kind.as_str(), "message/rfc822" | "message/global") {
        let end = memchr::memmem::find(body, b"\r\n\r\n").map_or(body.len(), |at| at + 4);
        let (mut inner, inner_body) = entity(&body[..end], &body[end..], depth + 1)?;
        inner.extend_from_slice(&inner_body);
        return Ok((with_encoding(header, "7bit"), inner));
    }
    let high = body.iter().filter(|byte| !byte.is_ascii()).count();
    if kind.starts_with("text/") && encoding != "binary" && high < body.len() / 4 {
        return Ok((with_encoding(header, "quoted-printable"), encode::quoted_printable(body)));
    }
    Ok((with_encoding(header, "base64"), encode::base64_lines(body)))
}

/// Converts each part between the delimiter lines. What stands before the first and after the last is for nobody
/// (RFC 2046 section 5.1.1) and is kept only if it is ASCII.
fn multipart(body: &[u8], boundary: &[u8], depth: usize) -> Result<Vec<u8>, ConversionError> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 2);
    let mut rest = body;
    let mut in_part = false;
    while !rest.is_empty() {
        let (content, delimiter, after) = next_delimiter(rest, boundary);
        if in_part {
            let own = content.strip_suffix(b"\r\n").filter(|_| !delimiter.is_empty());
            let (header, body) = split_part(own.unwrap_or(content));
            let (header, body) = entity(header, body, depth + 1)?;
            out.extend_from_slice(&header);
            out.extend_from_slice(&body);
            if own.is_some() {
                out.extend_from_slice(b"\r\n");
            }
        } else if content.is_ascii() {
            out.extend_from_slice(content);
        }
        out.extend_from_slice(delimiter);
        in_part = !is_close(delimiter, boundary);
        rest = after;
    }
    Ok(out)
}

/// What stands before the next delimiter line (with the CRLF that belongs to the delimiter), that line, and the rest.
fn next_delimiter<'a>(bytes: &'a [u8], boundary: &[u8]) -> (&'a [u8], &'a [u8], &'a [u8]) {
    let mut start = 0;
    while start < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at + 1);
        let line = &bytes[start..end];
        if let Some(tail) = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary)) {
            let tail = tail.strip_prefix(b"--").unwrap_or(tail);
            if tail.trim_ascii().is_empty() {
                return (&bytes[..start], line, &bytes[end..]);
            }
        }
        start = end;
    }
    (bytes, &[], &[])
}

fn is_close(delimiter: &[u8], boundary: &[u8]) -> bool {
    delimiter.get(2 + boundary.len()..).is_some_and(|tail| tail.starts_with(b"--"))
}

/// Header (with its empty line) and body of a part; a part may have no header.
fn split_part(part: &[u8]) -> (&[u8], &[u8]) {
    if part.starts_with(b"\r\n") {
        return part.split_at(2);
    }
    part.split_at(memchr::memmem::find(part, b"\r\n\r\n").map_or(part.len(), |at| at + 4))
}

/// `header` with this Content-Transfer-Encoding in place of its own.
fn with_encoding(header: &[u8], encoding: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(header.len() + 48);
    for field in fields(header).filter(|field| !field.is("Content-Transfer-Encoding")) {
        out.extend_from_slice(field.raw);
    }
    out.extend_from_slice(b"Content-Transfer-Encoding: ");
    out.extend_from_slice(encoding.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// The value before parameters and comments, in lower case.
fn token(field: &Field<'_>) -> String {
    let value = field.value.split(|byte| matches!(byte, b';' | b'(')).next().unwrap_or_default();
    String::from_utf8_lossy(value.trim_ascii()).to_ascii_lowercase()
}

/// A parameter of a Content-Type field (RFC 2045 section 5.1), unquoted.
fn parameter(value: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut rest = &value[memchr::memchr(b';', value)? + 1..];
    loop {
        let equals = memchr::memchr(b'=', rest)?;
        let have = rest[..equals].trim_ascii();
        let (text, after) = parameter_value(rest[equals + 1..].trim_ascii_start());
        if have.eq_ignore_ascii_case(name.as_bytes()) {
            return (!text.is_empty()).then_some(text);
        }
        rest = &after[memchr::memchr(b';', after)? + 1..];
    }
}

/// A quoted string or token at the start of `bytes`, and what follows it.
fn parameter_value(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let Some(quoted) = bytes.strip_prefix(b"\"") else {
        let end = bytes.iter().position(|byte| b" \t\r\n;(".contains(byte)).unwrap_or(bytes.len());
        return (bytes[..end].to_vec(), &bytes[end..]);
    };
    let mut text = Vec::new();
    let mut at = 0;
    while let Some(byte) = quoted.get(at) {
        match byte {
            b'"' => return (text, &quoted[at + 1..]),
            b'\\' => {
                at += 1;
                text.extend(quoted.get(at));
            }
            b'\r' | b'\n' => {}
            _ => text.push(*byte),
        }
        at += 1;
    }
    (text, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(header: &str, body: &[u8]) -> FinalMessage {
        FinalMessage {
            header: Bytes::copy_from_slice(header.as_bytes()),
            body: Bytes::copy_from_slice(body),
            eight_bit: !body.is_ascii(),
            ..FinalMessage::default()
        }
    }

    fn converted(header: &str, body: &[u8]) -> (String, String) {
        let done = convert(&message(header, body)).unwrap();
        assert!(!done.eight_bit && done.body.is_ascii());
        (String::from_utf8(done.header.to_vec()).unwrap(), String::from_utf8(done.body.to_vec()).unwrap())
    }

    #[test]
    fn a_single_part_is_encoded_by_its_kind() {
        let (header, body) =
            converted("A: b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", "grün ist es\r\n".as_bytes());
        assert!(header.contains("charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n"), "{header}");
        assert_eq!(body, "gr=C3=BCn ist es\r\n");
        let (header, body) =
            converted("Content-Transfer-Encoding: 8BIT\r\nContent-Type: text/plain\r\n\r\n", "привет\r\n".as_bytes());
        assert!(header.contains("base64") && !header.contains("8BIT"), "{header}");
        assert_eq!(body, "0L/RgNC40LLQtdGCDQo=\r\n");
        let (header, _) = converted("Content-Type: image/x\r\n\r\n", b"aaaaaaaaaaaaaaaaaaa\xff");
        assert!(header.contains("base64"));
        let (header, _) = converted("\r\n", b"no fields \xc3\xbc at all\r\n");
        assert_eq!(header, "Content-Transfer-Encoding: quoted-printable\r\nMIME-Version: 1.0\r\n\r\n");
    }

    #[test]
    fn each_part_of_a_multipart_is_encoded_by_itself() {
        let header = "Content-Type: multipart/mixed;\r\n charset=x; boundary=\"a\\-b\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n";
        let body = "pr\u{e4}ambel\r\n--a-b\r\n\r\nplain\r\n--a-b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
                    gr\u{fc}n und mehr\r\n--a-b\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\nsch\u{f6}n und gut\r\n--a-b--  \r\nend\r\n";
        let (header, body) = converted(header, body.as_bytes());
        assert!(header.contains("Content-Transfer-Encoding: 7bit\r\n"), "{header}");
        assert_eq!(
            body,
            "--a-b\r\n\r\nplain\r\n--a-b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
             gr=C3=BCn und mehr\r\n--a-b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nSubject: x\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\nsch=C3=B6n und gut\r\n--a-b--  \r\nend\r\n"
        );
    }

    #[test]
    fn what_must_not_change_is_refused() {
        for (header, body, error) in [
            ("Content-Type: multipart/signed; boundary=b\r\n\r\n", "\u{fc}", ConversionError::Signed),
            (
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n",
                "--b\r\nContent-Type: multipart/signed; boundary=c\r\n\r\n--c\r\n\r\n\u{fc}\r\n--c--\r\n--b--\r\n",
                ConversionError::Signed,
            ),
            ("Content-Type: multipart/mixed\r\n\r\n", "\u{fc}", ConversionError::Malformed),
            ("Content-Transfer-Encoding: base64\r\n\r\n", "\u{fc}", ConversionError::Malformed),
            (
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n",
                "--b\r\nX: \u{fc}\r\n\r\nx\r\n--b--\r\n",
                ConversionError::Header,
            ),
        ] {
            assert_eq!(convert(&message(header, body.as_bytes())).unwrap_err(), error, "{header}");
        }
        let part = "Content-Type: message/rfc822\r\n\r\n";
        let deep = format!("{}\u{fc}", part.repeat(40));
        assert_eq!(convert(&message(part, deep.as_bytes())).unwrap_err(), ConversionError::Depth);
    }

    #[test]
    fn seven_bit_mail_is_left_alone() {
        let given = message("Content-Type: multipart/signed\r\n\r\n", b"plain\r\n");
        assert_eq!(convert(&given), Ok(given));
    }

    proptest::proptest! {
        #[test]
        fn hostile_parts_never_panic(header in ".{0,80}", body in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let header = format!("Content-Type: multipart/mixed; boundary=b{header}\r\n\r\n");
            let mut full = b"--b\r\n".to_vec();
            full.extend_from_slice(&body);
            full.extend_from_slice("\r\n--b--\u{fc}".as_bytes());
            if let Ok(done) = convert(&message(&header, &full)) {
                proptest::prop_assert!(done.body.is_ascii());
            }
        }
    }
}
