//! One SMTP session of a scripted receiver, without its socket: bytes in, reply bytes out.
//!
//! It is made to be fast and forgiving, not to be a mail server: it checks the order of commands just enough to keep
//! the account right, keeps no mail, and reads of a message only its head. Invariants worth naming: what is kept of a
//! message is at most [`HEAD_BYTES_MAX`] and one read; a recipient is entered in the tally when end-of-data is answered
//! 250, before that reply is written; replies to a group of commands are one write.

use std::sync::Mutex;
use std::time::Instant;

use memchr::memmem;

use super::behaviour::{Behaviour, Memory, Verdict};
use crate::tally::Tally;

/// A message, octets: over it the session is closed with 552.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A command line, octets: over it the session is closed with 500.
const LINE_BYTES_MAX: usize = 4_096;
/// Recipients of a transaction: over it 452.
const RECIPIENTS_MAX: usize = 1_000;
/// What is kept and looked at of a message to find its number, octets.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The header field that tells which recipients a message was made for: `X-Bench-Id: <first>-<last>`.
pub const ID_HEADER: &str = "X-Bench-Id";

/// Whether the connection goes on after the replies are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    Continue,
    /// The handshake follows; what was said before it is forgotten.
    StartTls,
    Close,
}

/// What the sessions of one receiver share.
pub(super) struct Script<'a> {
    pub(super) name: &'a str,
    pub(super) behaviour: &'a Behaviour,
    pub(super) memory: &'a Mutex<Memory>,
    pub(super) tally: &'a Tally,
    /// Whether mails here are reports to the senders of the load.
    pub(super) is_sender: bool,
    /// Whether STARTTLS may be offered now.
    pub(super) may_start_tls: bool,
}

/// The state of one session.
#[derive(Default)]
pub(super) struct Session {
    input: Vec<u8>,
    /// How far `input` has been searched for the end of data.
    searched: usize,
    /// Octets of the message that are not kept any more; its head was read before they went.
    passed: usize,
    made_for: Option<(u64, u64)>,
    has_sender: bool,
    recipients: Vec<Option<u64>>,
    in_data: bool,
    chunk: Option<Chunk>,
}

/// A chunk of BDAT that is arriving (RFC 3030).
#[derive(Clone, Copy)]
struct Chunk {
    /// Octets still to come.
    octets: usize,
    last: bool,
}

impl Session {
    /// Where to read bytes into; then call [`Self::advance`].
    pub(super) fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    /// Answers all that has arrived, into `output`.
    pub(super) fn advance(&mut self, script: &Script<'_>, now: Instant, output: &mut Vec<u8>) -> Flow {
        let mut input = std::mem::take(&mut self.input);
        let mut at = 0;
        let mut flow = Flow::Continue;
        while flow == Flow::Continue {
            let rest = &input[at..];
            if let Some(chunk) = self.chunk {
                let (consumed, is_whole) = self.take_chunk(chunk, rest);
                at += consumed;
                if !is_whole {
                    break;
                }
                self.answer_chunk(chunk.last, script, now, output);
                continue;
            }
            if self.in_data {
                let Some((message, consumed)) = end_of_data(rest, self.passed == 0, &mut self.searched) else {
                    if self.passed + rest.len() > MESSAGE_BYTES_MAX {
                        output.extend_from_slice(b"552 5.3.4 message too large\r\n");
                        flow = Flow::Close;
                    }
                    at += self.pass(rest);
                    break;
                };
                if self.passed == 0 {
                    self.made_for = made_for(&rest[..message]);
                }
                self.take_message(script, now);
                output.extend_from_slice(b"250 2.0.0 taken\r\n");
                at += consumed;
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', rest) else {
                if rest.len() > LINE_BYTES_MAX {
                    output.extend_from_slice(b"500 5.5.2 line too long\r\n");
                    flow = Flow::Close;
                }
                break;
            };
            flow = self.command(script, rest[..end].trim_ascii_end(), now, output);
            at += end + 1;
        }
        input.drain(..at);
        self.input = input;
        flow
    }

    fn command(&mut self, script: &Script<'_>, line: &[u8], now: Instant, output: &mut Vec<u8>) -> Flow {
        let starts = |verb: &str| line.get(..verb.len()).is_some_and(|head| head.eq_ignore_ascii_case(verb.as_bytes()));
        if starts("MAIL FROM:") {
            self.reset();
            self.has_sender = true;
            output.extend_from_slice(b"250 2.1.0 ok\r\n");
        } else if starts("RCPT TO:") {
            return self.recipient(script, &line["RCPT TO:".len()..], now, output);
        } else if starts("DATA") {
            if self.recipients.is_empty() {
                output.extend_from_slice(b"503 5.5.1 no valid recipients\r\n");
            } else {
                self.in_data = true;
                output.extend_from_slice(b"354 go ahead\r\n");
            }
        } else if starts("BDAT ") && script.behaviour.offers_chunking {
            let Some(chunk) = chunk(&line["BDAT ".len()..]) else {
                output.extend_from_slice(b"552 5.3.4 no such chunk\r\n");
                return Flow::Close;
            };
            self.chunk = Some(chunk);
        } else if starts("EHLO ") {
            self.reset();
            greet(script, output);
        } else if starts("HELO ") {
            self.reset();
            output.extend_from_slice(b"250 ");
            output.extend_from_slice(script.name.as_bytes());
            output.extend_from_slice(b"\r\n");
        } else if starts("STARTTLS") && script.may_start_tls {
            self.reset();
            output.extend_from_slice(b"220 2.0.0 go ahead\r\n");
            return Flow::StartTls;
        } else if starts("RSET") {
            self.reset();
            output.extend_from_slice(b"250 2.0.0 ok\r\n");
        } else if starts("NOOP") {
            output.extend_from_slice(b"250 2.0.0 ok\r\n");
        } else if starts("QUIT") {
            output.extend_from_slice(b"221 2.0.0 bye\r\n");
            return Flow::Close;
        } else {
            output.extend_from_slice(b"502 5.5.1 not here\r\n");
        }
        Flow::Continue
    }

    fn recipient(&mut self, script: &Script<'_>, argument: &[u8], now: Instant, output: &mut Vec<u8>) -> Flow {
        if !self.has_sender {
            output.extend_from_slice(b"503 5.5.1 MAIL first\r\n");
            return Flow::Continue;
        }
        if self.recipients.len() >= RECIPIENTS_MAX {
            output.extend_from_slice(b"452 4.5.3 too many recipients\r\n");
            return Flow::Continue;
        }
        let address = path(argument);
        let number = number_of(address);
        if let Some(number) = number {
            script.tally.attempt(number, now);
        }
        let verdict = if script.behaviour.takes_all() {
            Verdict::Take
        } else {
            let mut memory = script.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            script.behaviour.judge(&mut memory, address, now)
        };
        let (reply, flow) = match verdict {
            Verdict::Take => {
                self.recipients.push(number);
                ("250 2.1.5 ok", Flow::Continue)
            }
            Verdict::Defer(reply) => {
                script.tally.defer();
                (reply, Flow::Continue)
            }
            Verdict::Close(reply) => {
                script.tally.defer();
                (reply, Flow::Close)
            }
            Verdict::Reject(reply) => {
                if let Some(number) = number {
                    script.tally.reject(number);
                }
                (reply, Flow::Continue)
            }
        };
        output.extend_from_slice(reply.as_bytes());
        output.extend_from_slice(b"\r\n");
        flow
    }

    /// Lets go of what a message in progress does not need any more; the octets to drop from the front of `rest`.
    fn pass(&mut self, rest: &[u8]) -> usize {
        if self.passed == 0 {
            if rest.len() < HEAD_BYTES_MAX {
                return 0;
            }
            self.made_for = made_for(rest);
        }
        // The end of data may be half here.
        let gone = rest.len().saturating_sub(END_OF_DATA.len() - 1);
        self.passed += gone;
        self.searched = 0;
        gone
    }

    /// Takes what is there of a chunk: the octets to drop from the front of `rest`, and whether it is whole.
    fn take_chunk(&mut self, chunk: Chunk, rest: &[u8]) -> (usize, bool) {
        let consumed = rest.len().min(chunk.octets);
        let is_whole = consumed == chunk.octets;
        if self.passed == 0 {
            if !is_whole && consumed < HEAD_BYTES_MAX {
                return (0, false);
            }
            self.made_for = made_for(&rest[..consumed]);
        }
        self.passed += consumed;
        self.chunk = (!is_whole).then_some(Chunk { octets: chunk.octets - consumed, ..chunk });
        (consumed, is_whole)
    }

    fn answer_chunk(&mut self, last: bool, script: &Script<'_>, now: Instant, output: &mut Vec<u8>) {
        let reply: &[u8] = if self.recipients.is_empty() {
            b"503 5.5.1 no valid recipients\r\n"
        } else if last {
            self.take_message(script, now);
            b"250 2.0.0 taken\r\n"
        } else {
            b"250 2.0.0 go on\r\n"
        };
        output.extend_from_slice(reply);
    }

    fn take_message(&mut self, script: &Script<'_>, now: Instant) {
        for number in self.recipients.drain(..) {
            match number {
                _ if script.is_sender => script.tally.report(),
                None => script.tally.deliver_unknown(),
                Some(number) => {
                    script.tally.deliver(number, now);
                    if self.made_for.is_some_and(|(first, last)| !(first..=last).contains(&number)) {
                        script.tally.deliver_mixed_up();
                    }
                }
            }
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.has_sender = false;
        self.in_data = false;
        self.chunk = None;
        self.recipients.clear();
        self.searched = 0;
        self.passed = 0;
        self.made_for = None;
    }
}

fn greet(script: &Script<'_>, output: &mut Vec<u8>) {
    let offers = [
        (script.behaviour.offers_pipelining, "PIPELINING"),
        (script.behaviour.offers_chunking, "CHUNKING"),
        (script.behaviour.offers_8bitmime, "8BITMIME"),
        (script.behaviour.offers_smtputf8, "SMTPUTF8"),
        (script.may_start_tls, "STARTTLS"),
        (true, "SIZE 67108864"),
    ];
    for line in std::iter::once(script.name).chain(offers.iter().filter(|(on, _)| *on).map(|(_, word)| *word)) {
        output.extend_from_slice(b"250-");
        output.extend_from_slice(line.as_bytes());
        output.extend_from_slice(b"\r\n");
    }
    output.extend_from_slice(b"250 ENHANCEDSTATUSCODES\r\n");
}

/// The arguments of BDAT: octets, and perhaps LAST.
fn chunk(arguments: &[u8]) -> Option<Chunk> {
    let mut words = arguments.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
    let octets = std::str::from_utf8(words.next()?).ok()?.parse().ok().filter(|octets| *octets <= MESSAGE_BYTES_MAX)?;
    let last = words.next().map(|word| word.eq_ignore_ascii_case(b"LAST"));
    (last != Some(false)).then_some(Chunk { octets, last: last.is_some() })
}

const END_OF_DATA: &[u8] = b"\r\n.\r\n";

/// The message's length and what its end consumes, once `CRLF . CRLF` has arrived. `searched` speeds up the next call.
fn end_of_data(input: &[u8], is_start: bool, searched: &mut usize) -> Option<(usize, usize)> {
    if is_start && input.starts_with(b".\r\n") {
        return Some((0, 3));
    }
    let from = searched.saturating_sub(END_OF_DATA.len() - 1);
    if let Some(found) = memmem::find(&input[from..], END_OF_DATA) {
        let at = from + found;
        *searched = 0;
        return Some((at + 2, at + END_OF_DATA.len()));
    }
    *searched = input.len();
    None
}

/// What stands between the angle brackets of a path argument.
fn path(argument: &[u8]) -> &[u8] {
    let start = memchr::memchr(b'<', argument).map_or(0, |at| at + 1);
    let end = memchr::memchr(b'>', argument).unwrap_or(argument.len());
    argument.get(start..end).unwrap_or_default().trim_ascii()
}

/// The number in an address such as `m123@d7.demo.test`.
fn number_of(address: &[u8]) -> Option<u64> {
    let at = memchr::memchr(b'@', address)?;
    let digits = address[..at].strip_prefix(b"m")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The range in the message's [`ID_HEADER`], if it has one.
fn made_for(message: &[u8]) -> Option<(u64, u64)> {
    let head = &message[..message.len().min(HEAD_BYTES_MAX)];
    let header_end = memmem::find(head, b"\r\n\r\n").unwrap_or(head.len());
    for line in head[..header_end].split(|octet| *octet == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        if line[..colon].eq_ignore_ascii_case(ID_HEADER.as_bytes()) {
            let value = std::str::from_utf8(line[colon + 1..].trim_ascii()).ok()?;
            let (first, last) = value.split_once('-')?;
            return Some((first.trim().parse().ok()?, last.trim().parse().ok()?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct World {
        behaviour: Behaviour,
        memory: Mutex<Memory>,
        tally: Arc<Tally>,
        session: Session,
    }

    impl World {
        fn new(behaviour: Behaviour) -> Self {
            let memory = Mutex::new(Memory::new(Instant::now()));
            Self { behaviour, memory, tally: Tally::new(10), session: Session::default() }
        }

        fn says(&mut self, input: &str) -> (String, Flow) {
            let script = Script {
                name: "mx.demo.test",
                behaviour: &self.behaviour,
                memory: &self.memory,
                tally: &self.tally,
                is_sender: false,
                may_start_tls: self.behaviour.offers_starttls,
            };
            self.session.input().extend_from_slice(input.as_bytes());
            let mut output = Vec::new();
            let flow = self.session.advance(&script, Instant::now(), &mut output);
            (String::from_utf8(output).expect("replies are ASCII"), flow)
        }
    }

    const PIPELINED: &str = "MAIL FROM:<a@b.test>\r\nRCPT TO:<m3@d.demo.test>\r\nDATA\r\n";

    #[test]
    fn a_pipelined_transaction_is_taken_and_counted() {
        let mut world = World::new(Behaviour::default());
        let (replies, _) = world.says("EHLO x\r\n");
        assert!(replies.starts_with("250-mx.demo.test\r\n") && replies.contains("PIPELINING"), "{replies}");
        let (replies, _) = world.says(PIPELINED);
        assert_eq!(replies, "250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n");
        let (replies, flow) = world.says("X-Bench-Id: 3-3\r\n\r\nhello\r\n.\r\nQUIT\r\n");
        assert_eq!(replies, "250 2.0.0 taken\r\n221 2.0.0 bye\r\n");
        assert_eq!(flow, Flow::Close);
        assert_eq!(world.tally.counts().delivered, 1);
        assert_eq!(world.tally.counts().mixed_up, 0);
    }

    #[test]
    fn a_message_in_chunks_is_taken_and_counted_at_every_split() {
        let message = "X-Bench-Id: 3-3\r\n\r\nhello\r\n";
        let (first, rest) = message.split_at(20);
        let group = PIPELINED.replace("DATA\r\n", "");
        let all = format!("{group}BDAT 20\r\n{first}BDAT {} LAST\r\n{rest}QUIT\r\n", rest.len());
        for split in 0..all.len() {
            let mut world = World::new(Behaviour::default());
            let replies = [world.says(&all[..split]).0, world.says(&all[split..]).0].concat();
            let ends = "250 2.0.0 go on\r\n250 2.0.0 taken\r\n221 2.0.0 bye\r\n";
            assert!(replies.ends_with(ends), "split at {split}: {replies}");
            assert_eq!((world.tally.counts().delivered, world.tally.counts().mixed_up), (1, 0));
        }
    }

    #[test]
    fn a_chunk_without_a_recipient_is_read_and_refused() {
        let mut world = World::new(Behaviour { reject_share: 1.0, ..Behaviour::default() });
        let (replies, _) = world.says(&PIPELINED.replace("DATA\r\n", "BDAT 7 LAST\r\nQUIT\r\nx"));
        assert!(replies.ends_with("503 5.5.1 no valid recipients\r\n"), "{replies}");
        let mut world = World::new(Behaviour { offers_chunking: false, ..Behaviour::default() });
        assert!(world.says("BDAT 3 LAST\r\n").0.starts_with("502"));
    }

    #[test]
    fn the_end_of_data_is_found_at_every_split() {
        let message = "Subject: x\r\n\r\n..dotted\r\nline.\r\n.\r\n";
        for split in 0..message.len() {
            let mut world = World::new(Behaviour::default());
            world.says(PIPELINED);
            let (early, _) = world.says(&message[..split]);
            let (late, _) = world.says(&message[split..]);
            assert_eq!((early.as_str(), late.as_str()), ("", "250 2.0.0 taken\r\n"), "split at {split}");
        }
    }

    #[test]
    fn content_made_for_another_recipient_is_seen() {
        let mut world = World::new(Behaviour::default());
        world.says(PIPELINED);
        world.says("x-bench-id: 4-9\r\n\r\nhello\r\n.\r\n");
        assert_eq!(world.tally.counts().mixed_up, 1);
    }

    #[test]
    fn a_large_message_is_passed_on_and_its_end_found_at_every_split() {
        let message = format!("X-Bench-Id: 3-3\r\n\r\n{}\r\n.\r\n", "0123456789\r\n".repeat(4_000));
        for from_end in 0..8 {
            let mut world = World::new(Behaviour::default());
            world.says(PIPELINED);
            let (early, late) = message.split_at(message.len() - from_end);
            let replies = [world.says(&early[..30_000]).0, world.says(&early[30_000..]).0, world.says(late).0].concat();
            assert_eq!(replies, "250 2.0.0 taken\r\n", "{from_end} octets later");
            assert!(world.session.input().capacity() < 3 * message.len());
            assert_eq!((world.tally.counts().delivered, world.tally.counts().mixed_up), (1, 0));
        }
    }

    #[test]
    fn a_passed_rate_ends_the_session_where_the_script_says_so() {
        let behaviour = Behaviour { rate_per_minute_max: Some(0), closes_over_rate: true, ..Behaviour::default() };
        let mut world = World::new(behaviour);
        let (replies, flow) = world.says(PIPELINED);
        assert!(replies.contains("421 4.7.28") && !replies.contains("354"), "{replies}");
        assert_eq!((flow, world.tally.counts().deferred), (Flow::Close, 1));
    }

    #[test]
    fn starttls_is_offered_and_taken_where_the_script_says_so() {
        let mut world = World::new(Behaviour { offers_starttls: true, ..Behaviour::default() });
        assert!(world.says("EHLO x\r\n").0.contains("STARTTLS"));
        assert_eq!(world.says("STARTTLS\r\n").1, Flow::StartTls);
        let mut world = World::new(Behaviour::default());
        assert!(!world.says("EHLO x\r\n").0.contains("STARTTLS"));
        assert!(world.says("STARTTLS\r\n").0.starts_with("502"));
    }

    #[test]
    fn data_without_a_recipient_is_refused() {
        let mut world = World::new(Behaviour { reject_share: 1.0, ..Behaviour::default() });
        let (replies, _) = world.says(PIPELINED);
        assert!(replies.ends_with("503 5.5.1 no valid recipients\r\n"), "{replies}");
    }

    #[test]
    fn an_endless_line_closes_the_session() {
        let mut world = World::new(Behaviour::default());
        let (replies, flow) = world.says(&"x".repeat(LINE_BYTES_MAX + 1));
        assert_eq!((replies.as_str(), flow), ("500 5.5.2 line too long\r\n", Flow::Close));
    }
}
