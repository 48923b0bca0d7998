//! The machine itself: input to lines and content, answers, outputs, bounds and the ways to an end. What each command
//! does is in `execute`.

use std::collections::VecDeque;

use postrail_schema::limits::{
    SMTP_AUTH_LINE_BYTES_MAX, SMTP_COMMAND_BYTES_MAX, SMTP_ERRORS_MAX, SMTP_PIPELINE_BYTES_MAX,
};

use super::auth::Exchange;
use super::content::ContentReader;
use super::{
    Answer, CloseReason, Error, Input, MailCommand, Output, Question, SessionConfig, StateName, Tag, Transaction,
};
use crate::base::Instant;
use crate::mail::{Envelope, ForwardPath, TlsFacts};
use crate::smtp::Reply;

/// One submission session.
#[derive(Debug)]
pub struct Session {
    pub(super) config: SessionConfig,
    pub(super) phase: Phase,
    /// When the peer last got further: a whole line, content, or our answer.
    active_at: Instant,
    /// Input that waits: part of a line, or what came while a question was open. Read from `unread_at`.
    buffer: Vec<u8>,
    unread_at: usize,
    /// Replies of the group in progress.
    replies: Vec<u8>,
    outputs: VecDeque<Output>,
    question: Option<(Tag, Asked)>,
    next_tag: u64,
    pub(super) tls: Option<TlsFacts>,
    pub(super) greeting: Option<Greeting>,
    pub(super) username: Option<String>,
    pub(super) transaction: Option<OpenTransaction>,
    errors: u32,
    pub(super) auth_failures: u32,
    /// Commands since the last accepted message that do not belong to its envelope.
    pub(super) idle_commands: u32,
    draining: bool,
    ended: bool,
}

/// EHLO or HELO as given.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    pub(super) name: String,
    pub(super) esmtp: bool,
}

/// What the next octets are.
#[derive(Debug)]
pub(super) enum Phase {
    /// A TLS handshake; clear text is dropped.
    Tls,
    Command,
    /// The rest of a line that is too long; so many octets of it were dropped.
    LongLine {
        dropped: usize,
        auth: bool,
    },
    Auth(Exchange),
    Data(ContentReader),
    Chunk(Chunk),
    Closed,
}

/// A BDAT chunk being read.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: u64,
    pub(super) remaining: u64,
    pub(super) last: bool,
    /// The chunk is read and dropped, and this is the reply.
    pub(super) refusal: Option<Reply>,
}

/// From MAIL to the end of data.
#[derive(Debug, Default)]
pub(super) struct OpenTransaction {
    pub(super) envelope: Envelope,
    pub(super) size: Option<u64>,
    /// RCPT commands, accepted or not.
    pub(super) recipients_tried: usize,
    /// Content so far, once BDAT was used.
    pub(super) chunks: Option<ContentReader>,
    /// A chunk was refused: only RSET or a new session helps.
    pub(super) failed: bool,
}

/// What the open question was about.
#[derive(Debug)]
pub(super) enum Asked {
    Authenticate { username: String },
    Sender(MailCommand),
    Recipient(ForwardPath),
    Message,
}

impl Session {
    /// A session on a connection that was just accepted. Without implicit TLS the greeting is the first output.
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        let phase = if config.implicit_tls { Phase::Tls } else { Phase::Command };
        let mut session = Self {
            config,
            phase,
            active_at: now,
            buffer: Vec::new(),
            unread_at: 0,
            replies: Vec::new(),
            outputs: VecDeque::new(),
            question: None,
            next_tag: 0,
            tls: None,
            greeting: None,
            username: None,
            transaction: None,
            errors: 0,
            auth_failures: 0,
            idle_commands: 0,
            draining: false,
            ended: false,
        };
        if !session.config.implicit_tls {
            session.greet();
            session.flush();
        }
        session
    }

    /// Takes one input. After [`Output::Close`] every input is ignored. A pump that answers the open question before it
    /// reads on never meets the bound of input ahead, if it reads less than `SMTP_PIPELINE_BYTES_MAX` at a time.
    ///
    /// # Errors
    /// The pump gave an answer or a handshake that was not asked for.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Error> {
        if matches!(self.phase, Phase::Closed) {
            return Ok(());
        }
        match input {
            Input::Bytes(bytes) => self.take_bytes(now, bytes),
            Input::Eof => self.ended = true,
            Input::Timeout => {
                if self.deadline().is_some_and(|deadline| now >= deadline) {
                    self.time_out();
                }
            }
            Input::TlsEstablished(facts) => self.establish_tls(now, facts)?,
            Input::Answer(tag, answer) => {
                self.answer(tag, answer)?;
                self.active_at = now;
                self.run_buffer(now);
            }
            Input::Drain => self.draining = true,
        }
        self.settle();
        Ok(())
    }

    /// The next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Timeout`] at the latest; `None` while an answer is awaited and after the end.
    pub fn deadline(&self) -> Option<Instant> {
        let waits_for_peer = self.question.is_none() && !matches!(self.phase, Phase::Closed);
        waits_for_peer.then(|| self.active_at + self.config.idle)
    }

    pub fn state(&self) -> StateName {
        match &self.phase {
            Phase::Closed => StateName::Closed,
            _ if self.question.is_some() => StateName::Question,
            Phase::Tls => StateName::Tls,
            Phase::Auth(_) => StateName::Auth,
            Phase::Data(_) | Phase::Chunk(_) => StateName::Content,
            Phase::Command | Phase::LongLine { .. } if self.transaction.is_some() => StateName::Envelope,
            Phase::Command | Phase::LongLine { .. } => StateName::Command,
        }
    }

    /// Octets held for this session: waiting input, content and replies.
    pub fn buffered_bytes(&self) -> usize {
        let content = match &self.phase {
            Phase::Data(reader) => reader.buffered_bytes(),
            _ => 0,
        };
        let chunks = self.transaction.as_ref().and_then(|transaction| transaction.chunks.as_ref());
        let chunks = chunks.map_or(0, ContentReader::buffered_bytes);
        self.unread_bytes() + self.replies.len() + content + chunks
    }

    fn unread_bytes(&self) -> usize {
        self.buffer.len() - self.unread_at
    }

    // --- input --------------------------------------------------------------------------------------------------------

    fn take_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if self.question.is_none() && self.buffer.is_empty() {
            let taken = self.run(now, bytes);
            if !matches!(self.phase, Phase::Closed | Phase::Tls) {
                self.buffer.extend_from_slice(&bytes[taken..]);
            }
        } else {
            self.buffer.extend_from_slice(bytes);
            self.run_buffer(now);
        }
        if self.unread_bytes() > SMTP_PIPELINE_BYTES_MAX {
            let reply = Reply::enhanced(421, 7, 0, "Too much was sent ahead of our replies");
            self.end(&reply, CloseReason::Flood);
        }
    }

    fn run_buffer(&mut self, now: Instant) {
        let buffer = std::mem::take(&mut self.buffer);
        let taken = self.run(now, &buffer[self.unread_at..]);
        if matches!(self.phase, Phase::Closed | Phase::Tls) {
            self.unread_at = 0;
            return;
        }
        self.buffer = buffer;
        self.unread_at += taken;
        if self.unread_at == self.buffer.len() {
            self.unread_at = 0;
            self.buffer.clear();
            self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        } else if self.unread_at > BUFFER_BYTES_KEPT {
            self.buffer.drain(..self.unread_at);
            self.unread_at = 0;
        }
    }

    /// Works through `input` until it is used up, a question is open, or a line is not whole. Returns the octets used.
    fn run(&mut self, now: Instant, input: &[u8]) -> usize {
        let mut at = 0;
        while at < input.len() && self.question.is_none() && !self.drains_now() {
            let rest = &input[at..];
            let taken = match &mut self.phase {
                Phase::Closed | Phase::Tls => rest.len(),
                Phase::Command | Phase::Auth(_) => self.take_line(now, rest),
                Phase::LongLine { .. } => self.drop_line(now, rest),
                Phase::Data(_) => self.take_data(now, rest),
                Phase::Chunk(_) => self.take_chunk(now, rest),
            };
            if taken == 0 {
                break;
            }
            at += taken;
        }
        at
    }

    fn take_line(&mut self, now: Instant, input: &[u8]) -> usize {
        let window = &input[..input.len().min(SMTP_AUTH_LINE_BYTES_MAX)];
        match memchr::memchr(b'\n', window) {
            Some(end) => {
                self.active_at = now;
                self.line(&window[..end]);
                end + 1
            }
            None if window.len() == SMTP_AUTH_LINE_BYTES_MAX => {
                let auth = matches!(self.phase, Phase::Auth(_));
                self.phase = Phase::LongLine { dropped: window.len(), auth };
                window.len()
            }
            None => 0,
        }
    }

    /// A whole line, still with its CR.
    fn line(&mut self, line: &[u8]) {
        let in_auth = matches!(self.phase, Phase::Auth(_));
        let is_auth = in_auth || line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
        if line.len() + 1 > SMTP_COMMAND_BYTES_MAX && !is_auth {
            return self.refuse_long_line(false);
        }
        let text = match line.strip_suffix(b"\r").map(std::str::from_utf8) {
            Some(Ok(text)) if !text.chars().any(char::is_control) => text,
            Some(_) => return self.refuse_line("The line has characters that no command has"),
            None => return self.refuse_line("Lines end with CR and LF, not with LF alone"),
        };
        match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Auth(exchange) => self.auth_step(exchange.next(text)),
            _ => self.command(text),
        }
    }

    fn refuse_line(&mut self, why: &str) {
        self.phase = Phase::Command;
        self.refuse(&Reply::enhanced(500, 5, 2, why));
    }

    fn refuse_long_line(&mut self, auth: bool) {
        let detail = if auth { 6 } else { 2 };
        self.refuse(&Reply::enhanced(500, 5, detail, "The line is too long"));
    }

    fn drop_line(&mut self, now: Instant, input: &[u8]) -> usize {
        let Phase::LongLine { dropped, auth } = &mut self.phase else { return 0 };
        let auth = *auth;
        let end = memchr::memchr(b'\n', input);
        let taken = end.map_or(input.len(), |end| end + 1);
        *dropped = dropped.saturating_add(taken);
        if *dropped > SMTP_PIPELINE_BYTES_MAX {
            self.end(&Reply::enhanced(421, 7, 0, "The line does not end"), CloseReason::Flood);
        } else if end.is_some() {
            self.active_at = now;
            self.phase = Phase::Command;
            self.refuse_long_line(auth);
        }
        taken
    }

    fn take_data(&mut self, now: Instant, input: &[u8]) -> usize {
        let Phase::Data(reader) = &mut self.phase else { return 0 };
        let (taken, ended) = reader.push(input);
        let taken_bytes = reader.taken_bytes();
        self.active_at = now;
        if !self.is_flooded(taken_bytes)
            && ended
            && let Phase::Data(reader) = std::mem::replace(&mut self.phase, Phase::Command)
        {
            self.content_ended(reader);
        }
        taken
    }

    fn take_chunk(&mut self, now: Instant, input: &[u8]) -> usize {
        let Phase::Chunk(chunk) = &mut self.phase else { return 0 };
        let taken = usize::try_from(chunk.remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
        chunk.remaining -= taken as u64;
        let whole = chunk.remaining == 0;
        self.active_at = now;
        let mut taken_bytes = chunk.bytes - chunk.remaining;
        if chunk.refusal.is_none()
            && let Some(reader) = self.transaction.as_mut().and_then(|transaction| transaction.chunks.as_mut())
        {
            reader.push(&input[..taken]);
            taken_bytes = reader.taken_bytes();
        }
        if !self.is_flooded(taken_bytes) && whole {
            self.chunk_ended();
        }
        taken
    }

    /// A message over the limit is read to its end, so that the client gets its reply, but not without end: whether the
    /// session has ended by this. Where its end came with the same octets makes no difference.
    fn is_flooded(&mut self, taken_bytes: u64) -> bool {
        let is_flooded = taken_bytes > (self.config.message_bytes_max as u64).saturating_mul(FLOOD_FACTOR);
        if is_flooded {
            self.end(&Reply::enhanced(421, 3, 4, "The message is far too large"), CloseReason::Flood);
        }
        is_flooded
    }

    fn time_out(&mut self) {
        if matches!(self.phase, Phase::Tls) {
            return self.close(CloseReason::Idle);
        }
        self.end(&Reply::enhanced(421, 4, 2, "No input for too long"), CloseReason::Idle);
    }

    fn establish_tls(&mut self, now: Instant, facts: TlsFacts) -> Result<(), Error> {
        if !matches!(self.phase, Phase::Tls) {
            return Err(Error::UnexpectedTls);
        }
        self.tls = Some(facts);
        self.active_at = now;
        self.phase = Phase::Command;
        if self.config.implicit_tls {
            self.greet();
        }
        Ok(())
    }

    // --- output -------------------------------------------------------------------------------------------------------

    /// Sends what is due, and ends the session where the peer or the node has ended it.
    fn settle(&mut self) {
        if self.question.is_some() || matches!(self.phase, Phase::Closed) {
            return;
        }
        if self.drains_now() {
            if matches!(self.phase, Phase::Tls) {
                return self.close(CloseReason::Drain);
            }
            return self.end(&Reply::enhanced(421, 3, 2, "Closing; connect again"), CloseReason::Drain);
        }
        if self.ended {
            return self.close(CloseReason::PeerClosed);
        }
        self.flush();
    }

    fn drains_now(&self) -> bool {
        self.draining && self.transaction.is_none() && self.question.is_none()
    }

    fn greet(&mut self) {
        let text = format!("{} ESMTP Postrail", self.config.hostname);
        self.reply(&Reply::plain(220, text));
    }

    pub(super) fn reply(&mut self, reply: &Reply) {
        reply.write_wire(&mut self.replies);
    }

    /// Refuses a command, and the session when there were too many.
    pub(super) fn refuse(&mut self, reply: &Reply) {
        self.errors += 1;
        if self.errors > SMTP_ERRORS_MAX {
            self.end(&Reply::enhanced(421, 7, 0, "Too many errors"), CloseReason::Errors);
        } else {
            self.reply(reply);
        }
    }

    pub(super) fn end(&mut self, reply: &Reply, reason: CloseReason) {
        self.reply(reply);
        self.close(reason);
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        self.flush();
        self.outputs.push_back(Output::Close(reason));
        self.phase = Phase::Closed;
        self.question = None;
        self.transaction = None;
        self.buffer = Vec::new();
        self.unread_at = 0;
    }

    /// Hands over to TLS: what the peer said so far is forgotten (RFC 3207 4.2).
    pub(super) fn start_tls(&mut self) {
        self.flush();
        self.outputs.push_back(Output::StartTls);
        self.phase = Phase::Tls;
        self.greeting = None;
        self.username = None;
        self.transaction = None;
    }

    fn flush(&mut self) {
        if !self.replies.is_empty() {
            self.outputs.push_back(Output::Send(std::mem::take(&mut self.replies)));
        }
    }

    // --- questions ----------------------------------------------------------------------------------------------------

    pub(super) fn ask(&mut self, asked: Asked, question: Question) {
        assert!(self.question.is_none(), "one question is open at a time");
        let tag = Tag(self.next_tag);
        self.next_tag += 1;
        self.question = Some((tag, asked));
        self.outputs.push_back(Output::Ask(tag, question));
    }

    pub(super) fn ask_message(&mut self, transaction: Transaction) {
        self.ask(Asked::Message, Question::Message(Box::new(transaction)));
    }

    fn answer(&mut self, tag: Tag, answer: Answer) -> Result<(), Error> {
        let Some((_, asked)) = self.question.take_if(|(open, _)| *open == tag) else {
            return Err(Error::UnexpectedAnswer);
        };
        match (asked, answer) {
            (asked, Answer::Refused(reply)) => self.refused(&asked, &reply),
            (Asked::Authenticate { username }, Answer::Authenticated) => self.authenticated(username),
            (Asked::Sender(mail), Answer::Ok) => self.sender_taken(mail),
            (Asked::Recipient(path), Answer::Ok) => self.recipient_taken(path),
            (Asked::Message, Answer::Accepted(id)) => self.message_accepted(id),
            _ => return Err(Error::AnswerMismatch),
        }
        Ok(())
    }
}

/// Capacity that an emptied input buffer keeps, octets.
const BUFFER_BYTES_KEPT: usize = 16 * 1024;
/// How many times its limit a message may be before the session ends.
const FLOOD_FACTOR: u64 = 2;
