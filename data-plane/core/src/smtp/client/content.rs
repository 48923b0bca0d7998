//! A message on its way to the wire: after 354 dot-stuffed (RFC 5321 4.5.2) and ended by CRLF.CRLF, or as one chunk of
//! BDAT, as it is (RFC 3030).
//!
//! The parts are walked lazily, one chunk a call. A run of octets between two doubled dots goes out as a slice of the
//! message, without a copy, unless it is as short as [`RUN_COPIED_BYTES_MAX`]: short ones are gathered in one buffer, so
//! that a body full of dots does not become a swarm of tiny writes.
//!
//! Invariants worth naming:
//! - a chunk has at most [`BLOCK_BYTES`] octets;
//! - a dot is doubled where it follows CRLF or begins the message, also over the border of two parts, and nowhere else;
//! - the final CRLF of the body is not doubled: it is added only where it is missing.

use bytes::{Bytes, BytesMut};

use crate::mail::FinalMessage;

/// Runs of at most this many octets are copied together.
const RUN_COPIED_BYTES_MAX: usize = 512;
/// Octets of a chunk of gathered runs.
const GATHERED_BYTES_MAX: usize = 16 * 1024;
/// The largest chunk, octets: what the time limit of a block (RFC 5321 4.5.3.2.5) is counted for.
pub(super) const BLOCK_BYTES: usize = 1024 * 1024;

/// `message` as the one chunk of `BDAT <octets> LAST`: its octets and the pieces that are not empty. A final CRLF that is
/// missing is added, as the end of data would.
pub(super) fn whole(message: FinalMessage) -> (usize, impl Iterator<Item = Bytes>) {
    let parts = [message.signatures, message.header, message.body];
    let ends = parts.iter().rev().find(|part| !part.is_empty()).is_none_or(|last| last.ends_with(b"\r\n"));
    let end = Bytes::from_static(if ends { b"" } else { b"\r\n" });
    let octets = parts.iter().map(Bytes::len).sum::<usize>() + end.len();
    (octets, parts.into_iter().chain([end]).filter(|part| !part.is_empty()))
}

/// The chunks of one message after 354.
#[derive(Debug)]
pub(super) struct Content {
    parts: std::array::IntoIter<Bytes, 3>,
    /// The rest of the part that is being walked.
    part: Bytes,
    /// Stuffed octets that wait to go out, behind those gathered.
    run: Bytes,
    /// The last two octets that were taken.
    tail: [u8; 2],
    /// Only the end is missing.
    walked: bool,
    ended: bool,
}

impl Content {
    pub(super) fn new(message: FinalMessage) -> Self {
        Self {
            parts: [message.signatures, message.header, message.body].into_iter(),
            part: Bytes::new(),
            run: Bytes::new(),
            tail: *b"\r\n",
            walked: false,
            ended: false,
        }
    }

    /// The content of a transaction that hands its message out by other means.
    pub(super) fn nothing_more() -> Self {
        let mut content = Self::new(FinalMessage::default());
        content.ended = true;
        content
    }

    /// Whether the end of data was handed out.
    pub(super) const fn is_ended(&self) -> bool {
        self.ended
    }

    /// The next chunk; `None` after the one with the end of data.
    pub(super) fn next_chunk(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut gathered = BytesMut::new();
        loop {
            if self.run.is_empty() && !self.refill() {
                self.ended = true;
                return Some(gathered.freeze());
            }
            let room = GATHERED_BYTES_MAX - gathered.len();
            if self.run.len() > RUN_COPIED_BYTES_MAX.min(room) {
                if gathered.is_empty() {
                    return Some(self.run.split_to(self.run.len().min(BLOCK_BYTES)));
                }
                return Some(gathered.freeze());
            }
            gathered.extend_from_slice(&self.run);
            self.run.clear();
        }
    }

    /// Puts the next octets into `run`; false when even the end was taken.
    fn refill(&mut self) -> bool {
        while self.part.is_empty() {
            let Some(part) = self.parts.next() else {
                if self.walked {
                    return false;
                }
                self.walked = true;
                self.run = Bytes::from_static(if self.tail == *b"\r\n" { b".\r\n" } else { b"\r\n.\r\n" });
                return true;
            };
            self.part = part;
        }
        if self.tail == *b"\r\n" && self.part[0] == b'.' {
            self.run = Bytes::from_static(b".");
            self.tail = *b"\n.";
            return true;
        }
        // A CRLF that two parts share is not found inside one of them.
        let taken = if self.tail[1] == b'\r' && self.part[0] == b'\n' {
            1
        } else {
            memchr::memmem::find(&self.part, b"\r\n.").map_or(self.part.len(), |at| at + 2)
        };
        self.run = self.part.split_to(taken);
        self.tail = match *self.run {
            [.., before, last] => [before, last],
            [last] => [self.tail[1], last],
            [] => self.tail,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(signatures: &[u8], header: &[u8], body: &[u8]) -> FinalMessage {
        FinalMessage {
            signatures: Bytes::copy_from_slice(signatures),
            header: Bytes::copy_from_slice(header),
            body: Bytes::copy_from_slice(body),
            eight_bit: false,
            utf8_header: false,
        }
    }

    fn chunks(message: FinalMessage) -> Vec<Bytes> {
        let mut content = Content::new(message);
        std::iter::from_fn(|| content.next_chunk()).collect()
    }

    fn wire(message: FinalMessage) -> Vec<u8> {
        chunks(message).concat()
    }

    /// The plain definition, octet by octet.
    fn stuffed(plain: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut tail = *b"\r\n";
        for octet in plain {
            if tail == *b"\r\n" && *octet == b'.' {
                wire.push(b'.');
            }
            wire.push(*octet);
            tail = [tail[1], *octet];
        }
        if tail != *b"\r\n" {
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b".\r\n");
        wire
    }

    #[test]
    fn dots_are_doubled_at_the_beginning_of_lines_only() {
        for (body, wanted) in [
            (&b"a\r\n"[..], &b"H: v\r\n\r\na\r\n.\r\n"[..]),
            (b"a", b"H: v\r\n\r\na\r\n.\r\n"),
            (b"", b"H: v\r\n\r\n.\r\n"),
            (b".\r\n", b"H: v\r\n\r\n..\r\n.\r\n"),
            (b".", b"H: v\r\n\r\n..\r\n.\r\n"),
            (b"a\r\n..b\r\n.c.d\r\n", b"H: v\r\n\r\na\r\n...b\r\n..c.d\r\n.\r\n"),
            (b"a\n.b\r.c\r\n", b"H: v\r\n\r\na\n.b\r.c\r\n.\r\n"),
        ] {
            let wire = wire(message(b"", b"H: v\r\n\r\n", body));
            assert_eq!(String::from_utf8_lossy(&wire), String::from_utf8_lossy(wanted));
        }
    }

    #[test]
    fn parts_without_dots_are_not_copied() {
        let ordinary = message(&b"S: v\r\n".repeat(200), &b"H: v\r\n".repeat(400), &b"0123456789\r\n".repeat(800));
        let parts = [ordinary.signatures.as_ptr(), ordinary.header.as_ptr(), ordinary.body.as_ptr()];
        let chunks = chunks(ordinary);
        assert_eq!(chunks.len(), 4);
        assert_eq!([0, 1, 2].map(|at: usize| chunks[at].as_ptr()), parts);
        assert_eq!(chunks[3], b".\r\n"[..]);
    }

    #[test]
    fn a_large_body_goes_out_in_blocks() {
        let large = message(b"S: v\r\n", b"H: v\r\n\r\n", &b"0123456789\r\n".repeat(200_000));
        let body = large.body.clone();
        let chunks = chunks(large);
        assert_eq!(chunks.len(), 5, "head, three blocks, end");
        assert_eq!(chunks[1].as_ptr(), body.as_ptr());
        assert!(chunks.iter().all(|chunk| chunk.len() <= BLOCK_BYTES));
    }

    #[test]
    fn a_body_of_dots_alone_costs_few_chunks() {
        let dots = message(b"", b"H: v\r\n\r\n", &b".\r\n".repeat(100_000));
        let plain = [&dots.header[..], &dots.body[..]].concat();
        let chunks = chunks(dots);
        assert!(chunks.len() < 30, "{} chunks", chunks.len());
        assert_eq!(chunks.concat(), stuffed(&plain));
    }

    proptest! {
        #[test]
        fn any_message_is_stuffed_as_defined(parts in proptest::array::uniform3("[.\r\na]{0,12}"), large: bool) {
            let [signatures, header, mut body] = parts.map(String::into_bytes);
            if large {
                body = body.repeat(4_000);
            }
            let plain = [&signatures[..], &header[..], &body[..]].concat();
            prop_assert_eq!(wire(message(&signatures, &header, &body)), stuffed(&plain));
        }
    }
}
