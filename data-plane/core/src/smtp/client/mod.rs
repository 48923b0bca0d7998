//! The side of SMTP that sends (RFC 5321 with 1870, 2034, 2920, 3030, 3207, 3461, 6152, 6531): one connection, from the
//! greeting to QUIT.
//!
//! ```text
//! greeting -> EHLO (-> HELO) -> [STARTTLS -> handshake -> EHLO] -> ready
//! ready -> MAIL -> RCPT... -> DATA -> message -> ready      without PIPELINING: one command at a time
//!      |-> MAIL RCPT... DATA at once -> message -> ready    with it
//!      \-> MAIL RCPT... BDAT and the message at once -> ready   with CHUNKING too, for a small message
//!          \-> RSET MAIL RCPT... BDAT and the message, at once, for each transaction that follows one such
//! ready -> QUIT -> over                                      421, a fault: over, from everywhere
//! ```
//!
//! A group that was sent at once is answered in the same order, so both ways share their states: a state is the reply
//! that comes next. What went out as one group of all is doubted where a connection has just refused somebody, or has
//! rested: then the message waits for its 354, so that it is not sent in vain, and a connection that died at rest leaves
//! no doubt whether the mail has arrived.
//!
//! A transaction that comes while such a message is under way goes out behind it (RFC 3030 lets BDAT be pipelined, RFC 2920
//! section 3.1 lets RSET, MAIL and RCPT follow it), after RSET, so that it is well formed whatever became of the one before.
//! One that may not go ahead waits until those before it have ended.
//!
//! Invariants worth naming:
//! - a transaction that was taken or refused gives exactly one [`Output::Outcome`], with one [`Settled`] a recipient;
//! - a reply that arrives before its command was handed out is a protocol error: the dialogue is out of step;
//! - octets behind the 220 to STARTTLS are refused, never carried into the protected session (RFC 3207 section 6);
//! - transactions end in the order in which they were taken;
//! - "maybe delivered" is said only after the end of data was handed out, and never after a reply to it;
//! - no timeout is resumable: [`Input::Timeout`] ends the connection, a half-written chunk is never continued.
//!
//! Deliberately absent: which host, whether TLS is wanted, and what a reply means for a recipient (that is `egress`).

mod content;
mod extensions;
mod fault;
mod phase;
mod steps;
mod transaction;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use postrail_schema::limits::{SESSION_TRANSACTIONS_MAX, TRANSACTION_RECIPIENTS_MAX};

use self::content::BLOCK_BYTES;
pub use self::extensions::Extensions;
pub use self::fault::Fault;
pub use self::phase::{Phase, Timeouts};
use self::transaction::Running;
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
    /// Allowed after [`Output::Ready`], and while a transaction runs as long as there are fewer than
    /// [`SESSION_TRANSACTIONS_MAX`]; at any other time it is refused with [`Fault::NotReady`].
    Transaction(Transaction),
    /// End in order, after the transactions that were taken.
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
        /// No [`Output::Ready`] follows. Where it is false, either that, the next outcome or [`Output::Closed`] does.
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
    /// Pieces put into [`Self::outputs`] so far, and how many of them were handed out.
    pieces: u64,
    handed_out: u64,
    extensions: Extensions,
    tls: bool,
    was_ready: bool,
    quitting: bool,
    /// The last transaction had somebody refused.
    refused: bool,
    running: Option<Running>,
    /// Sent behind the running one, in this order.
    ahead: VecDeque<Running>,
    /// Taken, and to be sent when all before it have ended.
    waiting: VecDeque<Transaction>,
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
            pieces: 0,
            handed_out: 0,
            extensions: Extensions::default(),
            tls: false,
            was_ready: false,
            quitting: false,
            refused: false,
            running: None,
            ahead: VecDeque::new(),
            waiting: VecDeque::new(),
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
            self.handed_out += u64::from(matches!(output, Output::Send(_)));
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

    /// Whether a transaction would be taken now.
    pub fn takes_transaction(&self) -> bool {
        let runs = self.running.is_some() && self.state != State::Over && !self.quitting;
        let taken = 1 + self.ahead.len() + self.waiting.len();
        self.state == State::Ready || runs && taken < SESSION_TRANSACTIONS_MAX
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
        self.pieces += 1;
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
            State::Rset if reply.is_success() && self.running.is_some() => self.enter(now, State::Mail),
            State::Rset if reply.is_success() => self.idle(now),
            // What was sent behind it may have been taken all the same.
            State::Rset if self.running.is_some() => self.out_of_step(&reply),
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

    /// Goes on with the next transaction, or wants one.
    fn idle(&mut self, now: Instant) {
        self.was_ready = true;
        self.enter(now, State::Ready);
        if let Some(next) = self.waiting.pop_front() {
            self.begin(now, next);
            while self.waiting.front().is_some_and(|next| self.may_follow(next)) {
                let Some(next) = self.waiting.pop_front() else { return };
                self.send_ahead(next);
            }
        } else if self.quitting {
            self.quit(now);
        } else {
            self.outputs.push_back(Output::Ready);
        }
    }

    fn start(&mut self, now: Instant, transaction: Transaction) {
        assert!(transaction.recipients.len() <= TRANSACTION_RECIPIENTS_MAX, "a transaction is bounded");
        if !self.takes_transaction() {
            self.outputs.push_back(refused(&transaction, self.state == State::Over || self.quitting));
        } else if self.state == State::Ready {
            self.outputs.retain(|output| !matches!(output, Output::Ready));
            self.begin(now, transaction);
        } else if self.waiting.is_empty() && self.may_follow(&transaction) {
            self.send_ahead(transaction);
        } else {
            self.waiting.push_back(transaction);
        }
    }

    /// Sends a transaction on a connection where nothing is under way.
    fn begin(&mut self, now: Instant, transaction: Transaction) {
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
        self.send(wire);
        pieces.into_iter().for_each(|piece| self.send(piece));
        self.running = Some(running.sent_by(self.pieces));
        self.enter(now, State::Mail);
    }

    /// Whether `next` may be sent behind what runs: both are small messages with their envelopes, and nobody was refused.
    fn may_follow(&self, next: &Transaction) -> bool {
        let is_chunked = |running: &Running| running.chunked && !running.any_refused();
        !self.refused && self.running.as_ref().is_some_and(is_chunked) && next.fits_chunk(&self.extensions)
    }

    /// Sends a transaction behind those that are under way.
    fn send_ahead(&mut self, transaction: Transaction) {
        let (running, pieces) = Running::new(transaction, &self.extensions, true);
        if running.has_pending() {
            let mut wire = Vec::with_capacity(256);
            wire.extend_from_slice(RSET);
            running.write_group(&mut wire);
            self.send(wire);
            pieces.into_iter().for_each(|piece| self.send(piece));
        }
        self.ahead.push_back(running.sent_by(self.pieces));
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

/// The outcome of a transaction that cannot be taken now.
pub(crate) fn refused(transaction: &Transaction, over: bool) -> Output {
    refused_with(transaction, &Fault::NotReady.reply("the session cannot take a transaction now"), over)
}

/// The outcome of a transaction of which nothing was sent.
fn refused_with(transaction: &Transaction, reply: &Reply, over: bool) -> Output {
    let settled = Settled { phase: Phase::Mail, reply: reply.clone(), maybe_delivered: false };
    Output::Outcome { tag: transaction.tag, recipients: vec![settled; transaction.recipients.len()], over }
}

/// How long a connection may have rested before a message goes with its envelope.
const CHUNK_REST_MAX: Duration = Duration::from_secs(1);
const QUIT: &[u8] = b"QUIT\r\n";
const RSET: &[u8] = b"RSET\r\n";

#[cfg(test)]
mod tests;
