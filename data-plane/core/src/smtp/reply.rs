//! SMTP replies (RFC 5321 4.2) with enhanced status codes (RFC 3463, RFC 2034): written by the server, read by the client.
//!
//! ```text
//! 250-2.1.0 first line CRLF      250-…  more lines follow
//! 250 2.1.0 last line CRLF       250 …  the last one; text may be missing
//! ```
//!
//! Invariants worth naming:
//! - the parser holds at most `SMTP_REPLY_LINES_MAX` lines of `SMTP_REPLY_LINE_BYTES_MAX` octets, whatever is sent; the
//!   rest of a longer line is dropped;
//! - it takes exactly the octets of one reply and leaves those behind it;
//! - what [`Reply::to_wire`] writes is ASCII without control characters, in lines of at most 512 octets.
//!
//! Deliberately absent: what a reply means for a recipient (that is `egress`).

use std::fmt;
use std::str::FromStr;

use postrail_schema::limits::{SMTP_REPLY_LINE_BYTES_MAX, SMTP_REPLY_LINES_MAX};

/// `class.subject.detail` of RFC 3463.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EnhancedStatus {
    /// 2 success, 4 transient failure, 5 permanent failure.
    pub class: u8,
    /// 0 to 999.
    pub subject: u16,
    /// 0 to 999.
    pub detail: u16,
}

impl EnhancedStatus {
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand where it has three digits, as most have: it is written for each mail.
        if let (class @ 0..=9, subject @ 0..=9, detail @ 0..=9) = (self.class, self.subject, self.detail) {
            let text = [b'0' + class, b'.', b'0' + subject as u8, b'.', b'0' + detail as u8];
            return f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?);
        }
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// The text is not an enhanced status code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an enhanced status code of the form class.subject.detail")]
pub struct InvalidEnhancedStatus;

impl FromStr for EnhancedStatus {
    type Err = InvalidEnhancedStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let mut part = |digits_max: usize| {
            let part = parts.next().ok_or(InvalidEnhancedStatus)?;
            if part.is_empty() || part.len() > digits_max || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(InvalidEnhancedStatus);
            }
            part.parse::<u16>().map_err(|_| InvalidEnhancedStatus)
        };
        let (class, subject, detail) = (part(1)?, part(3)?, part(3)?);
        if parts.next().is_some() || !matches!(class, 2 | 4 | 5) {
            return Err(InvalidEnhancedStatus);
        }
        Ok(Self { class: class as u8, subject, detail })
    }
}

/// One reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    pub enhanced: Option<EnhancedStatus>,
    /// The lines without code and enhanced status, joined by `\n`.
    pub text: String,
}

impl Reply {
    /// A reply without an enhanced status (greeting, EHLO, 334 and 354).
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self { code, enhanced: None, text: text.into() }
    }

    /// A reply whose enhanced status has the class of the code.
    pub fn enhanced(code: u16, subject: u16, detail: u16, text: impl Into<String>) -> Self {
        Self { code, enhanced: Some(EnhancedStatus::new((code / 100) as u8, subject, detail)), text: text.into() }
    }

    /// 2yz.
    pub const fn is_success(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3yz.
    pub const fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4yz.
    pub const fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5yz.
    pub const fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The octets to send: every line with code, enhanced status and CRLF.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.text.len() + 16);
        self.write_wire(&mut wire);
        wire
    }

    /// Appends the octets to send.
    pub fn write_wire(&self, wire: &mut Vec<u8>) {
        let prefix = self.enhanced.map_or_else(String::new, |status| format!("{status} "));
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            wire.extend_from_slice(format!("{:03}{separator}{prefix}", self.code % 1_000).as_bytes());
            let printable = line.chars().take(LINE_TEXT_CHARS_MAX);
            wire.extend(printable.map(|c| if c == ' ' || c.is_ascii_graphic() { c as u8 } else { b'?' }));
            wire.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    /// One line for events and traces: `550 5.1.1 no such user`, lines parted by `/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.enhanced {
            write!(f, " {status}")?;
        }
        for (at, line) in self.text.split('\n').enumerate() {
            write!(f, "{}{line}", if at == 0 { " " } else { " / " })?;
        }
        Ok(())
    }
}

/// Why what a server sent is no reply. The session cannot go on: where the next reply begins is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("a reply line does not begin with a code from 200 to 599")]
    Code,
    #[error("the lines of one reply have different codes")]
    CodeChanged,
    #[error("a reply has more than {SMTP_REPLY_LINES_MAX} lines, or too many octets")]
    TooLong,
}

/// Reads replies from octets as they arrive.
#[derive(Clone, Debug, Default)]
pub struct ReplyParser {
    /// The line being read, at most `SMTP_REPLY_LINE_BYTES_MAX` octets of it.
    line: Vec<u8>,
    /// Code of the lines so far.
    code: Option<u16>,
    enhanced: Option<EnhancedStatus>,
    text: String,
    lines: usize,
    /// Octets of the reply so far, also dropped ones.
    octets: usize,
}

impl ReplyParser {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether part of a reply was read and its end is missing.
    pub const fn is_partial(&self) -> bool {
        self.octets > 0
    }

    /// Octets held for the reply being read.
    pub const fn buffered_bytes(&self) -> usize {
        self.line.len() + self.text.len()
    }

    /// Takes octets from the front of `input` until a reply is whole (then the rest stays in `input`) or `input` is
    /// empty. Lines may end with LF alone.
    ///
    /// # Errors
    /// What arrived is no reply; the parser must not be used afterwards.
    pub fn parse(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, ReplyError> {
        while !input.is_empty() {
            let end = memchr::memchr(b'\n', input);
            let (piece, rest) = input.split_at(end.map_or(input.len(), |at| at + 1));
            *input = rest;
            self.octets += piece.len();
            if self.octets > REPLY_BYTES_MAX {
                return Err(ReplyError::TooLong);
            }
            let room = SMTP_REPLY_LINE_BYTES_MAX - self.line.len();
            let piece = &piece[..piece.len().min(room)];
            if end.is_none() || !self.line.is_empty() {
                self.line.extend_from_slice(piece);
            }
            if end.is_none() {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            // A line that came as a whole is read where it is.
            if let Some(reply) = self.end_line(if line.is_empty() { piece } else { &line })? {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    fn end_line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, last, text) = split_line(line)?;
        if self.code.is_some_and(|first| first != code) {
            return Err(ReplyError::CodeChanged);
        }
        self.lines += 1;
        if self.lines > SMTP_REPLY_LINES_MAX {
            return Err(ReplyError::TooLong);
        }
        let text = String::from_utf8_lossy(text);
        let (status, rest) = split_status(&text);
        let text = if self.code.is_none() {
            self.enhanced = status;
            rest
        } else {
            self.text.push('\n');
            if status == self.enhanced { rest } else { &text }
        };
        if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_control()) {
            self.text.push_str(text);
        } else {
            self.text.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
        }
        self.code = Some(code);
        if !last {
            return Ok(None);
        }
        let done = std::mem::take(self);
        Ok(Some(Reply { code, enhanced: done.enhanced, text: done.text }))
    }
}

/// Code, whether this is the last line, and the text.
fn split_line(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    let &[first @ b'2'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9', ref rest @ ..] = line else {
        return Err(ReplyError::Code);
    };
    let code = [first, second, third].iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest {
        [] => Ok((code, true, rest)),
        [b' ', text @ ..] => Ok((code, true, text)),
        [b'-', text @ ..] => Ok((code, false, text)),
        _ => Err(ReplyError::Code),
    }
}

/// The enhanced status that `text` begins with, and what follows it.
fn split_status(text: &str) -> (Option<EnhancedStatus>, &str) {
    if !matches!(text.as_bytes(), [b'2' | b'4' | b'5', b'.', ..]) {
        return (None, text); // as any word of a text, without looking for its end
    }
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    if let [class, b'.', subject @ b'0'..=b'9', b'.', detail @ b'0'..=b'9'] = word.as_bytes() {
        let digit = |octet: &u8| octet - b'0';
        return (Some(EnhancedStatus::new(digit(class), digit(subject).into(), digit(detail).into())), rest);
    }
    match word.parse() {
        Ok(status) => (Some(status), rest),
        Err(InvalidEnhancedStatus) => (None, text),
    }
}

/// Characters of text in one line that we write: 512 octets (RFC 5321 4.5.3.1.5) less code, status and CRLF.
const LINE_TEXT_CHARS_MAX: usize = 512 - 4 - 10 - 2;
/// Octets of one reply, dropped ones counted.
const REPLY_BYTES_MAX: usize = SMTP_REPLY_LINE_BYTES_MAX * SMTP_REPLY_LINES_MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(mut input: &[u8]) -> Result<Vec<Reply>, ReplyError> {
        let mut parser = ReplyParser::new();
        let mut replies = Vec::new();
        while let Some(reply) = parser.parse(&mut input)? {
            replies.push(reply);
        }
        Ok(replies)
    }

    #[test]
    fn replies_of_one_and_of_many_lines_are_read() {
        let replies = read(b"220 mx.example ESMTP\r\n250-mx.example\r\n250-SIZE 10\n250 DSN\r\n250\r\n").unwrap();
        assert_eq!(
            replies,
            [
                Reply::plain(220, "mx.example ESMTP"),
                Reply::plain(250, "mx.example\nSIZE 10\nDSN"),
                Reply::plain(250, "")
            ]
        );
    }

    #[test]
    fn the_enhanced_status_is_taken_from_every_line() {
        let replies = read(b"550-5.7.1 not\r\n550-5.7.1 here\r\n550 5.1 never\r\n").unwrap();
        assert_eq!(replies, [Reply::enhanced(550, 7, 1, "not\nhere\n5.1 never")]);
        assert_eq!(replies[0].to_string(), "550 5.7.1 not / here / 5.1 never");
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for (input, error) in [
            (&b"hello\r\n"[..], ReplyError::Code),
            (b"\r\n", ReplyError::Code),
            (b"199 x\r\n", ReplyError::Code),
            (b"600 x\r\n", ReplyError::Code),
            (b"25x x\r\n", ReplyError::Code),
            (b"250_x\r\n", ReplyError::Code),
            (b"2500 x\r\n", ReplyError::Code),
            (b"250-a\r\n251 b\r\n", ReplyError::CodeChanged),
        ] {
            assert_eq!(read(input), Err(error), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn long_lines_lose_their_rest_and_endless_replies_end() {
        let mut long = b"250 ".to_vec();
        long.resize(5_000, b'x');
        long.extend_from_slice(b"\r\n");
        assert_eq!(read(&long).unwrap()[0].text.len(), SMTP_REPLY_LINE_BYTES_MAX - 4);
        assert_eq!(read(&b"250-x\r\n".repeat(SMTP_REPLY_LINES_MAX + 1)), Err(ReplyError::TooLong));
        assert_eq!(read(&vec![b'2'; REPLY_BYTES_MAX + 1]), Err(ReplyError::TooLong));
    }

    #[test]
    fn what_is_written_is_printable_and_bounded() {
        let wire = Reply::enhanced(550, 1, 1, format!("a\rb\u{e9}\n{}", "x".repeat(2_000))).to_wire();
        let text = String::from_utf8(wire).unwrap();
        let lines: Vec<_> = text.split_inclusive("\r\n").collect();
        assert_eq!(lines[0], "550-5.1.1 a?b?\r\n");
        assert!(lines[1].starts_with("550 5.1.1 xxx") && lines[1].len() <= 512);
    }

    proptest! {
        #[test]
        fn any_octets_are_read_within_bounds(input: Vec<u8>, cut in 0_usize..64) {
            let mut parser = ReplyParser::new();
            for mut piece in input.chunks(cut + 1) {
                while let Ok(Some(_)) = parser.parse(&mut piece) {}
                prop_assert!(parser.buffered_bytes() <= REPLY_BYTES_MAX + SMTP_REPLY_LINE_BYTES_MAX);
            }
        }

        #[test]
        fn what_is_written_is_read_back_however_it_is_cut(
            code in 200_u16..600,
            status in proptest::option::of((0_u16..1_000, 0_u16..1_000)),
            lines in proptest::collection::vec("[a-z ]{0,40}", 1..5),
            cut in 1_usize..20,
        ) {
            let class = code / 100;
            let text = lines.join("\n");
            let reply = match status {
                Some((subject, detail)) if class != 3 => Reply::enhanced(code, subject, detail, text),
                _ => Reply::plain(code, text),
            };
            let wire = reply.to_wire();
            let mut parser = ReplyParser::new();
            let mut read = None;
            for mut piece in wire.chunks(cut) {
                read = read.or(parser.parse(&mut piece).unwrap());
            }
            prop_assert_eq!(read, Some(reply));
            prop_assert!(!parser.is_partial());
        }
    }
}
