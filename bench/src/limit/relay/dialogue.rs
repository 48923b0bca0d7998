//! What the null relay understands of SMTP: where a group of commands ends, and where a mail ends. Bytes only.
//!
//! It answers what the load of this bench sends (EHLO, AUTH, then MAIL, RCPT and DATA in one group, then a mail) and
//! closes on anything else. Invariants worth naming: a group and its mail lie in one buffer as they arrived, and are copied
//! once, to leave as the group of MAIL, RCPT and BDAT that the data plane sends; buffers are used again.

/// Octets of a group and its mail.
pub(super) const MAIL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Room for reading that a buffer has at least.
const ROOM_BYTES: usize = 16 * 1024;

pub(super) const GREETING: &[u8] = b"220 null.test ESMTP\r\n";
pub(super) const EHLO: &[u8] = b"EHLO null.test\r\n";
const GREETED: &[u8] = b"250-null.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-AUTH PLAIN LOGIN\r\n\
    250-ENHANCEDSTATUSCODES\r\n250 SIZE 67108864\r\n";
const AUTHENTICATED: &[u8] = b"235 2.7.0 ok\r\n";
const GROUP_TAKEN: &[u8] = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n";
pub(super) const MAIL_TAKEN: &[u8] = b"250 2.0.0 taken\r\n";
const RESET: &[u8] = b"250 2.0.0 ok\r\n";
const BYE: &[u8] = b"221 2.0.0 bye\r\n";

/// One group of commands and the mail that follows it, as they arrived.
#[derive(Default)]
pub(super) struct Mail {
    /// Initialised throughout; `filled` octets of it have arrived.
    bytes: Vec<u8>,
    filled: usize,
    /// Where the mail begins behind its group.
    content_at: usize,
}

impl Mail {
    /// Where to read into; then call [`Self::grew`].
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.bytes.len() - self.filled < ROOM_BYTES {
            self.bytes.resize((self.bytes.len() * 2).max(2 * ROOM_BYTES), 0);
        }
        &mut self.bytes[self.filled..]
    }

    pub(super) fn grew(&mut self, octets: usize) {
        self.filled = (self.filled + octets).min(self.bytes.len());
    }

    /// Puts MAIL, RCPT, BDAT and the mail into `wire`, as one group (RFC 3030). The load sends no line that begins with a
    /// dot, so the content is left as it came.
    pub(super) fn write_group(&self, wire: &mut Vec<u8>) {
        let content = self.content();
        let content = content.strip_suffix(b".\r\n").unwrap_or(content);
        let envelope = &self.bytes[..self.content_at];
        wire.clear();
        wire.extend_from_slice(envelope.strip_suffix(b"DATA\r\n").unwrap_or(envelope));
        wire.extend_from_slice(format!("BDAT {} LAST\r\n", content.len()).as_bytes());
        wire.extend_from_slice(content);
    }

    /// The mail up to and with its final dot.
    fn content(&self) -> &[u8] {
        &self.bytes[self.content_at..self.filled]
    }

    /// Forgets what arrived and keeps the buffer.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
        self.content_at = 0;
    }

    fn arrived(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

/// What to do after a read from the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// More must come.
    Read,
    Answer(&'static [u8]),
    /// A mail is whole: pass it on, put an empty one in its place, and answer this.
    PassOn(&'static [u8]),
    /// Answer this, then close.
    Close(&'static [u8]),
}

/// Judges what has arrived in `mail`.
pub(super) fn step(mail: &mut Mail) -> Step {
    if mail.content_at > 0 {
        let content = mail.content();
        return if content.ends_with(b"\r\n.\r\n") || content == b".\r\n" {
            Step::PassOn(MAIL_TAKEN)
        } else if mail.filled > MAIL_BYTES_MAX {
            Step::Close(b"552 5.3.4 too large\r\n")
        } else {
            Step::Read
        };
    }
    let arrived = mail.arrived();
    if !arrived.ends_with(b"\r\n") {
        return if arrived.len() > ROOM_BYTES { Step::Close(b"500 5.5.2 too long\r\n") } else { Step::Read };
    }
    match arrived[0].to_ascii_uppercase() {
        b'M' if arrived.ends_with(b"\r\nDATA\r\n") => {
            if lines(arrived) != 3 {
                return Step::Close(b"452 4.5.3 one recipient at a time\r\n");
            }
            mail.content_at = mail.filled;
            Step::Answer(GROUP_TAKEN)
        }
        b'M' => Step::Read,
        first => {
            mail.clear();
            match first {
                b'E' => Step::Answer(GREETED),
                b'A' => Step::Answer(AUTHENTICATED),
                b'R' => Step::Answer(RESET),
                b'Q' => Step::Close(BYE),
                _ => Step::Close(b"502 5.5.1 not here\r\n"),
            }
        }
    }
}

/// What a receiver's octets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Replies {
    Partial,
    Whole,
    /// A refusal, or nothing that was asked for.
    Unwanted,
}

/// Whether a greeting (`code` 220), the answer to EHLO or the answer to a mail (250) is whole.
pub(super) fn reply(input: &[u8], code: &[u8]) -> Replies {
    if !input.ends_with(b"\n") {
        return Replies::Partial;
    }
    let last = input[..input.len() - 1].iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
    let line = &input[last..];
    match line.strip_prefix(code) {
        Some([b'-', ..]) => Replies::Partial,
        Some(_) => Replies::Whole,
        None => Replies::Unwanted,
    }
}

/// Whether the answer to EHLO is whole, and offers what a group needs.
pub(super) fn greeted(input: &[u8]) -> Replies {
    match reply(input, b"250") {
        Replies::Whole if memchr::memmem::find(input, b"CHUNKING").is_none() => Replies::Unwanted,
        replies => replies,
    }
}

/// Whether the three answers to MAIL, RCPT and BDAT are whole.
pub(super) fn group_replies(input: &[u8]) -> Replies {
    if lines(input) < 3 {
        return Replies::Partial;
    }
    if input.starts_with(b"2") { reply(input, b"250") } else { Replies::Unwanted }
}

fn lines(input: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', input).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(mail: &mut Mail, text: &str) -> Step {
        mail.room()[..text.len()].copy_from_slice(text.as_bytes());
        mail.grew(text.len());
        step(mail)
    }

    const GROUP: &str = "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n";

    #[test]
    fn a_load_is_answered_and_its_mail_passed_on_as_it_came() {
        let mut mail = Mail::default();
        assert_eq!(give(&mut mail, "EHLO x\r\n"), Step::Answer(GREETED));
        assert_eq!(give(&mut mail, "AUTH PLAIN AGEAYg==\r\n"), Step::Answer(AUTHENTICATED));
        assert_eq!(give(&mut mail, "MAIL FROM:<a@b.test>\r\n"), Step::Read);
        assert_eq!(give(&mut mail, &GROUP["MAIL FROM:<a@b.test>\r\n".len()..]), Step::Answer(GROUP_TAKEN));
        assert_eq!(give(&mut mail, "Subject: x\r\n\r\nhello\r\n"), Step::Read);
        assert_eq!(give(&mut mail, ".\r\n"), Step::PassOn(MAIL_TAKEN));
        let mut wire = Vec::new();
        mail.write_group(&mut wire);
        assert!(wire.starts_with(GROUP.strip_suffix("DATA\r\n").expect("a group").as_bytes()));
        assert!(wire.ends_with(b"BDAT 21 LAST\r\nSubject: x\r\n\r\nhello\r\n"));
        mail.clear();
        assert_eq!(give(&mut mail, "QUIT\r\n"), Step::Close(BYE));
    }

    #[test]
    fn what_the_load_never_sends_closes_the_session() {
        for text in ["BDAT 3 LAST\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"] {
            assert!(matches!(give(&mut Mail::default(), text), Step::Close(_)), "{text}");
        }
        let mut mail = Mail::default();
        let endless = "x".repeat(ROOM_BYTES);
        assert_eq!(give(&mut mail, &endless), Step::Read);
        assert!(matches!(give(&mut mail, "xx"), Step::Close(_)));
    }

    #[test]
    fn replies_are_whole_at_the_line_without_a_hyphen() {
        for (input, code, expected) in [
            ("220 mx ESMTP\r\n", "220", Replies::Whole),
            ("220 mx", "220", Replies::Partial),
            ("250-mx\r\n250-PIPELINING\r\n", "250", Replies::Partial),
            ("250-mx\r\n250 SIZE\r\n", "250", Replies::Whole),
            ("554 no\r\n", "250", Replies::Unwanted),
        ] {
            assert_eq!(reply(input.as_bytes(), code.as_bytes()), expected, "{input}");
        }
        assert_eq!(group_replies(b"250 a\r\n250 b\r\n"), Replies::Partial);
        assert_eq!(group_replies(b"250 a\r\n250 b\r\n250 c\r\n"), Replies::Whole);
        assert_eq!(greeted(b"250-a\r\n250 SIZE\r\n"), Replies::Unwanted);
        assert_eq!(greeted(b"250-a\r\n250 CHUNKING\r\n"), Replies::Whole);
        assert_eq!(group_replies(b"250 a\r\n450 b\r\n503 c\r\n"), Replies::Unwanted);
    }
}
