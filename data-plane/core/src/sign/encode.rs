//! The two transfer encodings of RFC 2045 section 6, for octets that must cross a 7-bit way.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Octets of a base64 line before its CRLF.
const LINE_BYTES: usize = 76;

/// Base64 in lines of 76 characters, each with its CRLF.
pub(super) fn base64_lines(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len().div_ceil(57) * (LINE_BYTES + 2));
    let mut line = [0; LINE_BYTES];
    for chunk in input.chunks(57) {
        let bytes = STANDARD.encode_slice(chunk, &mut line).expect("57 octets are 76 characters");
        out.extend_from_slice(&line[..bytes]);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Quoted-printable of text with CRLF line ends, which stay line ends.
pub(super) fn quoted_printable(input: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(input.len() + input.len() / 4);
    let mut column = 0;
    let mut at = 0;
    while at < input.len() {
        if input[at..].starts_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            column = 0;
            at += 2;
            continue;
        }
        let byte = input[at];
        let ends_line = at + 1 == input.len() || input[at + 1..].starts_with(b"\r\n");
        let literal = match byte {
            b'=' => false,
            b' ' | b'\t' => !ends_line,
            _ => byte.is_ascii_graphic(),
        };
        let width = if literal { 1 } else { 3 };
        let room = if ends_line { LINE_BYTES } else { LINE_BYTES - 1 };
        if column + width > room {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if literal {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        column += width;
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_printable_keeps_lines_and_bounds_them() {
        for (input, expected) in [
            ("", ""),
            ("a=b\r\n", "a=3Db\r\n"),
            ("gr\u{fc}n\r\n", "gr=C3=BCn\r\n"),
            ("end \r\n\tx\t", "end=20\r\n\tx=09"),
            ("a\rb\nc", "a=0Db=0Ac"),
        ] {
            assert_eq!(String::from_utf8(quoted_printable(input.as_bytes())).unwrap(), expected, "{input:?}");
        }
        for unit in ["\u{fc}", "x", "x y ", "="] {
            let text = String::from_utf8(quoted_printable(unit.repeat(200).as_bytes())).unwrap();
            assert!(text.split("\r\n").all(|line| line.len() <= 76), "{text}");
        }
    }

    #[test]
    fn base64_comes_in_lines() {
        assert_eq!(base64_lines(b""), b"");
        assert_eq!(base64_lines(b"ab"), b"YWI=\r\n");
        let text = base64_lines(&[0; 58]);
        assert_eq!(text.len(), 76 + 2 + 4 + 2);
    }
}
