//! The side of SMTP that sends (RFC 5321 with 1870, 2034, 2920, 3030, 3207, 3461, 6152, 6531): one connection, from the
//! greeting to QUIT.
//!
//! ```text
//! greeting -> EHLO (-> HELO) -> [STARTTLS -> handshake -> EHLO] -> ready
//! ready -> MAIL -> RCPT... -> DATA -> message -> ready      without PIPELINING: one command at a time
//!      |-> MAIL RCPT... DATA at once -> message -> ready    with it
//!      \-> MAIL RCPT... BDAT and the message at once -> ready   with CHUNKING too, for a small message
//! ready -> QUIT -> over                                      421, a fault: over, from everywhere
//! ```
//!
//! A group that was sent at once is answered in the same order, so both ways share their states: a state is the reply
//! that comes next. What went out as one group of all is doubted where a connection has just refused somebody, or has
//! rested: then the message waits for its 354, so that it is not sent in vain, and a connection that died at rest leaves
//! no doubt whether the mail has arrived.
//!
//! Invariants worth naming:
//! - a transaction that was taken or refused gives exactly one [`Output::Outcome`], with one [`Settled`] a recipient;
//! - a reply that arrives before its command was handed out is a protocol error: the dialogue is out of step;
//! - octets behind the 220 to STARTTLS are refused, never carried into the protected session (RFC 3207 section 6);
//! - "maybe delivered" is said only after the end of data was handed out, and never after a reply to it;
//! - no timeout is resumable: [`Input::Timeout`] ends the connection, a half-written chunk is never continued.
//!
//! Deliberately absent: which host, whether TLS is wanted, and what a reply means for a recipient (that is `egress`).

mod content;
mod extensions;
mod fault;
mod phase;
mod transaction;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use postrail_schema::limits::TRANSACTION_RECIPIENTS_MAX;

use self::content::BLOCK_BYTES;
pub use self::extensions::Extensions;
pub use self::fault::Fault;
pub use self::phase::{Phase, Timeouts};
use self::transaction::{Running, bounded};
pub use self::transaction::{Settled, Transaction};
use super::{Reply, ReplyParser};
use crate::base::Instant;

/// What is done about STARTTLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StartTls {
    Never,
    #[default]
    IfOffered,
    /// Without an offer the connection ends.
    Demanded,
}

/// What a connection is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientConfig {
    pub ehlo_name: String,
    pub start_tls: StartTls,
    pub timeouts: Timeouts,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    Bytes(&'a [u8]),
    /// The peer closed its side.
    Eof,
    /// The connection broke; says how.
    Reset(&'a str),
    /// The handshake that [`Output::StartTls`] asked for is done.
    TlsEstablished,
    TlsFailed(&'a str),
    /// The deadline has come.
    Timeout,
    /// Allowed after [`Output::Ready`]; at any other time it is refused with [`Fault::NotReady`].
    Transaction(Transaction),
    /// End in order, after the transaction that runs.
    Quit,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    Send(Bytes),
    /// Start the handshake now; no octet more is read as plaintext.
    StartTls,
    /// Idle: wants [`Input::Transaction`] or [`Input::Quit`].
    Ready,
    Outcome {
        tag: u64,
        /// One for each recipient of the transaction, in its order.
        recipients: Vec<Settled>,
        /// No [`Output::Ready`] follows. Where it is false, either that or [`Output::Closed`] does.
        over: bool,
    },
    /// Close the connection. The last output but for refused transactions.
    Closed(End),
}

/// How a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// After it was ready at least once, or told to quit: all that was learned is in the outcomes.
    Done,
    /// Before it was ready.
    Failed { phase: Phase, reply: Reply },
}

/// The reply (or event) that comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Ready,
    Mail,
    Rcpt,
    Data,
    /// The message is being sent, or the reply to its end is awaited.
    Message,
    /// The reply to an end of data without a message is awaited: DATA was accepted though every RCPT was refused.
    LoneDot,
    Rset,
    Quit,
    Over,
}

impl State {
    /// The name in spans and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::Helo => "helo",
            Self::StartTls => "starttls",
            Self::Handshake => "handshake",
            Self::Ready => "ready",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Message => "message",
            Self::LoneDot => "lone_dot",
            Self::Rset => "rset",
            Self::Quit => "quit",
            Self::Over => "over",
        }
    }

    /// The phase that a failure in this state belongs to.
    const fn phase(self) -> Phase {
        match self {
            Self::Greeting => Phase::Greeting,
            Self::Ehlo | Self::Helo => Phase::Ehlo,
            Self::StartTls | Self::Handshake => Phase::StartTls,
            Self::Ready | Self::Mail | Self::Rset | Self::Quit | Self::Over => Phase::Mail,
            Self::Rcpt => Phase::Rcpt,
            Self::Data => Phase::Data,
            Self::Message | Self::LoneDot => Phase::EndOfData,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    state: State,
    /// When the state was entered, or the last reply came.
    since: Instant,
    parser: ReplyParser,
    outputs: VecDeque<Output>,
    extensions: Extensions,
    tls: bool,
    was_ready: bool,
    quitting: bool,
    /// The last transaction had somebody refused.
    refused: bool,
    running: Option<Running>,
}

impl Client {
    /// A connection that was established at `now` and waits for the greeting.
    pub fn new(config: ClientConfig, now: Instant) -> Self {
        Self {
            config,
            state: State::Greeting,
            since: now,
            parser: ReplyParser::new(),
            outputs: VecDeque::new(),
            extensions: Extensions::default(),
            tls: false,
            was_ready: false,
            quitting: false,
            refused: false,
            running: None,
        }
    }

    /// Takes what happened. [`Self::poll`] until `None` afterwards.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Transaction(transaction) => self.start(now, transaction),
            _ if self.state == State::Over => {}
            Input::Bytes(bytes) => self.read(now, bytes),
            Input::Eof => self.end(&Fault::ConnectionLost.reply("the receiver closed the connection")),
            Input::Reset(how) => self.end(&Fault::ConnectionLost.reply(how)),
            Input::TlsEstablished if self.state == State::Handshake => {
                self.tls = true;
                self.greet(now);
            }
            Input::TlsFailed(why) if self.state == State::Handshake => self.end(&Fault::TlsFailed.reply(why)),
            Input::TlsEstablished | Input::TlsFailed(_) => {}
            Input::Timeout if self.limit().is_some() => {
                self.end(&Fault::Timeout.reply(format_args!("nothing came in state {}", self.state.name())));
            }
            Input::Timeout => {}
            Input::Quit => self.quit(now),
        }
    }

    /// The next thing to be done. A message is handed out in chunks, one a call.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        let running = self.running.as_mut().filter(|_| self.state == State::Message)?;
        let chunk = running.content.next_chunk()?;
        running.content_bytes += chunk.len();
        Some(Output::Send(chunk))
    }

    /// When [`Input::Timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.limit().map(|limit| self.since + limit)
    }

    pub const fn state(&self) -> State {
        self.state
    }

    /// What the receiver offered last.
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// How long the present state may last.
    ///
    //= rfc5321#4.5.3.2
    //# An SMTP client MUST provide a timeout mechanism.
    fn limit(&self) -> Option<Duration> {
        let timeouts = &self.config.timeouts;
        match self.state {
            State::Greeting => Some(timeouts.greeting),
            State::Ehlo | State::Helo => Some(timeouts.ehlo),
            State::StartTls | State::Handshake => Some(timeouts.start_tls),
            State::Mail => Some(timeouts.mail),
            State::Rcpt => Some(timeouts.rcpt),
            State::Data => Some(timeouts.data),
            State::LoneDot => Some(timeouts.end_of_data),
            State::Rset => Some(timeouts.rset),
            State::Quit => Some(timeouts.quit),
            State::Ready | State::Over => None,
            State::Message => {
                let running = self.running.as_ref()?;
                let blocks = u32::try_from(running.content_bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX);
                let blocks = timeouts.data_block.saturating_mul(blocks.max(1));
                Some(if running.content.is_ended() { blocks + timeouts.end_of_data } else { blocks })
            }
        }
    }

    fn enter(&mut self, now: Instant, state: State) {
        self.state = state;
        self.since = now;
    }

    fn send(&mut self, wire: impl Into<Bytes>) {
        self.outputs.push_back(Output::Send(wire.into()));
    }

    fn read(&mut self, now: Instant, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.state != State::Over {
            match self.parser.parse(&mut bytes) {
                Ok(Some(reply)) => self.answer(now, reply, bytes.is_empty()),
                Ok(None) => {}
                Err(error) => self.end(&Fault::Protocol.reply(error)),
            }
        }
    }

    /// Takes one reply; `last` tells that no octet follows it yet.
    fn answer(&mut self, now: Instant, reply: Reply, last: bool) {
        let early = self.outputs.iter().any(|output| matches!(output, Output::Send(_)));
        match self.state {
            State::Quit => self.close(),
            // RFC 5321 3.8: a server may give up with 421 at any time.
            _ if reply.code == 421 => self.end(&reply),
            State::Over | State::Handshake | State::Ready => self.out_of_step(&reply),
            _ if early => self.out_of_step(&reply),
            State::Greeting if reply.is_success() => self.greet(now),
            State::Ehlo if reply.is_success() => {
                self.extensions = Extensions::from_reply(&reply);
                self.greeted(now);
            }
            State::Ehlo if reply.is_permanent() => {
                self.send(format!("HELO {}\r\n", self.config.ehlo_name));
                self.enter(now, State::Helo);
            }
            State::Helo if reply.is_success() => {
                self.extensions = Extensions::default();
                self.greeted(now);
            }
            State::StartTls if reply.is_success() && last => {
                self.outputs.push_back(Output::StartTls);
                self.enter(now, State::Handshake);
            }
            State::StartTls if reply.is_success() => {
                self.end(&Fault::Protocol.reply("octets follow the reply to STARTTLS"));
            }
            State::Rset if reply.is_success() => self.idle(now),
            State::Greeting | State::Ehlo | State::Helo | State::StartTls | State::Rset => self.refuse(&reply),
            State::Mail => self.answer_mail(now, &reply),
            State::Rcpt => self.answer_rcpt(now, reply),
            State::Data => self.answer_data(now, &reply),
            State::Message => self.answer_message(now, &reply),
            State::LoneDot if reply.is_intermediate() => self.out_of_step(&reply),
            State::LoneDot => self.finish(now, false),
        }
    }

    /// Says EHLO, for the first time or over TLS.
    fn greet(&mut self, now: Instant) {
        self.send(format!("EHLO {}\r\n", self.config.ehlo_name));
        self.enter(now, State::Ehlo);
    }

    fn greeted(&mut self, now: Instant) {
        let wants_tls = !self.tls && self.config.start_tls != StartTls::Never;
        if wants_tls && self.extensions.start_tls {
            self.send(&b"STARTTLS\r\n"[..]);
            self.enter(now, State::StartTls);
        } else if wants_tls && self.config.start_tls == StartTls::Demanded {
            self.enter(now, State::StartTls);
            self.end_with_quit(&Fault::TlsUnavailable.reply("the receiver does not offer STARTTLS"));
        } else {
            self.idle(now);
        }
    }

    fn idle(&mut self, now: Instant) {
        self.was_ready = true;
        self.enter(now, State::Ready);
        if self.quitting {
            self.quit(now);
        } else {
            self.outputs.push_back(Output::Ready);
        }
    }

    fn start(&mut self, now: Instant, transaction: Transaction) {
        assert!(transaction.recipients.len() <= TRANSACTION_RECIPIENTS_MAX, "a transaction is bounded");
        if self.state != State::Ready {
            self.outputs.push_back(refused(&transaction, self.state == State::Over || self.quitting));
            return;
        }
        let rested = now.since(self.since) > CHUNK_REST_MAX;
        let chunked = !self.refused && !rested && transaction.fits_chunk(&self.extensions);
        let (running, pieces) = Running::new(transaction, &self.extensions, chunked);
        if !running.has_pending() {
            self.running = Some(running);
            return self.finish(now, false);
        }
        let mut wire = Vec::with_capacity(256);
        if self.extensions.pipelining {
            running.write_group(&mut wire);
        } else {
            running.write_mail(&mut wire);
        }
        self.running = Some(running);
        self.send(wire);
        pieces.into_iter().for_each(|piece| self.send(piece));
        self.enter(now, State::Mail);
    }

    fn quit(&mut self, now: Instant) {
        self.quitting = true;
        if self.running.is_none() && !matches!(self.state, State::Rset | State::Quit | State::Handshake) {
            self.send(QUIT);
            self.enter(now, State::Quit);
        } else if self.state == State::Handshake {
            self.close();
        }
    }
}

/// The steps of a transaction, and the ends.
impl Client {
    fn answer_mail(&mut self, now: Instant, reply: &Reply) {
        let Some(running) = self.running.as_mut() else { return };
        if reply.is_intermediate() {
            return self.out_of_step(reply);
        }
        if reply.is_success() || self.extensions.pipelining {
            if !reply.is_success() {
                running.mail_refused = true;
                running.settle_rest(Phase::Mail, reply, false);
            }
            return self.expect_rcpt(now);
        }
        running.settle_rest(Phase::Mail, reply, false);
        self.finish(now, false);
    }

    fn answer_rcpt(&mut self, now: Instant, reply: Reply) {
        if reply.is_intermediate() {
            return self.out_of_step(&reply);
        }
        let Some(running) = self.running.as_mut() else { return };
        running.answer_recipient(reply);
        self.expect_rcpt(now);
    }

    /// Goes on to the next RCPT, or to DATA when all are answered.
    fn expect_rcpt(&mut self, now: Instant) {
        let Some(running) = self.running.as_ref() else { return };
        let pipelined = self.extensions.pipelining;
        if !running.all_answered() {
            if !pipelined {
                let mut wire = Vec::with_capacity(128);
                running.write_next_rcpt(&mut wire);
                self.send(wire);
            }
            return self.enter(now, State::Rcpt);
        }
        if running.chunked {
            return self.enter(now, State::Message);
        }
        if !pipelined && !running.has_pending() {
            return self.finish(now, true);
        }
        if !pipelined {
            self.send(&b"DATA\r\n"[..]);
        }
        self.enter(now, State::Data);
    }

    fn answer_data(&mut self, now: Instant, reply: &Reply) {
        let Some(running) = self.running.as_mut() else { return };
        let wanted = running.has_pending();
        if reply.is_intermediate() && wanted {
            self.enter(now, State::Message);
        } else if reply.is_intermediate() && running.any_accepted {
            // MAIL was refused and RCPT was not: a lone dot might send an empty message, closing does not.
            self.out_of_step(reply);
        } else if reply.is_intermediate() {
            // RFC 2920 3.1: DATA that was accepted without a recipient is ended at once.
            self.send(&b".\r\n"[..]);
            self.enter(now, State::LoneDot);
        } else if reply.is_success() {
            self.out_of_step(reply);
        } else {
            running.settle_rest(Phase::Data, reply, false);
            let reset = !running.mail_refused;
            self.finish(now, reset);
        }
    }

    fn answer_message(&mut self, now: Instant, reply: &Reply) {
        let Some(running) = self.running.as_mut() else { return };
        let refused = reply.is_transient() || reply.is_permanent();
        if running.chunked && refused {
            // RFC 3030 section 2: a chunk that failed leaves the transaction to be reset.
            let reset = !running.mail_refused;
            match reply.code {
                500..=504 => running.settle_rest(
                    Phase::EndOfData,
                    &Fault::Protocol.reply(format_args!("CHUNKING is offered and BDAT refused: {reply}")),
                    false,
                ),
                _ => running.settle_rest(Phase::EndOfData, reply, false),
            }
            self.finish(now, reset);
        } else if !running.content.is_ended() {
            // Early: no end of data was sent, so nothing is delivered, and the dialogue cannot go on.
            if refused {
                self.end(reply);
            } else {
                self.out_of_step(reply);
            }
        } else if refused || reply.is_success() {
            running.settle_rest(Phase::EndOfData, reply, false);
            self.finish(now, false);
        } else {
            self.out_of_step(reply);
        }
    }

    /// Tells the outcome of the running transaction, and becomes ready again.
    fn finish(&mut self, now: Instant, reset: bool) {
        self.refused = self.running.as_ref().is_some_and(Running::any_refused);
        self.tell_outcome(self.quitting);
        if reset && !self.quitting {
            self.send(&b"RSET\r\n"[..]);
            self.enter(now, State::Rset);
        } else {
            self.idle(now);
        }
    }

    fn tell_outcome(&mut self, over: bool) {
        if let Some(running) = self.running.take() {
            let tag = running.tag();
            self.outputs.push_back(Output::Outcome { tag, recipients: running.into_settled(), over });
        }
    }

    /// A refusal of the whole session: says QUIT and does not wait for its reply.
    fn refuse(&mut self, reply: &Reply) {
        if reply.is_transient() || reply.is_permanent() {
            self.end_with_quit(reply);
        } else {
            self.out_of_step(reply);
        }
    }

    fn end_with_quit(&mut self, reply: &Reply) {
        self.end(reply);
        self.outputs.push_front(Output::Send(Bytes::from_static(QUIT)));
    }

    fn out_of_step(&mut self, reply: &Reply) {
        let state = self.state.name();
        self.end(&Fault::Protocol.reply(format_args!("unexpected reply in state {state}: {reply}")));
    }

    /// Ends the connection for the reason that `reply` gives; what runs is settled with it.
    fn end(&mut self, reply: &Reply) {
        let sent = !self.outputs.iter().any(|output| matches!(output, Output::Send(_)));
        let chunk_sent = sent && self.running.as_ref().is_some_and(|running| running.chunked);
        // What has its end with the receiver may have arrived, whichever reply is missing.
        let phase = if chunk_sent && reply.code == 0 { Phase::EndOfData } else { self.state.phase() };
        self.outputs.retain(|output| matches!(output, Output::Outcome { .. }));
        if let Some(running) = self.running.as_mut() {
            let ended = chunk_sent || (self.state == State::Message && running.content.is_ended());
            let maybe_delivered = ended && reply.code == 0;
            running.settle_rest(phase, reply, maybe_delivered);
            self.tell_outcome(true);
        }
        if self.was_ready || self.quitting {
            return self.close();
        }
        self.state = State::Over;
        self.outputs.push_back(Output::Closed(End::Failed { phase, reply: bounded(reply.clone()) }));
    }

    fn close(&mut self) {
        self.state = State::Over;
        self.outputs.push_back(Output::Closed(End::Done));
    }
}

/// The outcome of a transaction that cannot be taken now.
pub(crate) fn refused(transaction: &Transaction, over: bool) -> Output {
    let reply = Fault::NotReady.reply("the session cannot take a transaction now");
    let settled = Settled { phase: Phase::Mail, reply, maybe_delivered: false };
    Output::Outcome { tag: transaction.tag, recipients: vec![settled; transaction.recipients.len()], over }
}

/// How long a connection may have rested before a message goes with its envelope.
const CHUNK_REST_MAX: Duration = Duration::from_secs(1);
const QUIT: &[u8] = b"QUIT\r\n";

#[cfg(test)]
mod tests;
