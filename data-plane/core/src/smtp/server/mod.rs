//! The submission session (RFC 5321, RFC 6409): a machine from octets to transactions.
//!
//! ```text
//!   [tls] -> greeting -> command <-> auth exchange
//!                          |  ^
//!             MAIL, RCPT   v  |  answer of the spool
//!                        content (DATA, BDAT) -> Ask(Message) -> reply
//! ```
//!
//! Offered: PIPELINING, SIZE, 8BITMIME, SMTPUTF8, CHUNKING, DSN, ENHANCEDSTATUSCODES, STARTTLS, AUTH PLAIN LOGIN, HELP.
//!
//! Invariants worth naming:
//! - one question is open at a time; input that arrives meanwhile waits, at most `SMTP_PIPELINE_BYTES_MAX` octets of it;
//! - a transaction is answered 250 only by [`Answer::Accepted`];
//! - nothing that arrived before TLS is known or read after it;
//! - only CRLF `.` CRLF ends DATA; content with a bare CR or LF is refused, so no relay sees another end than we did;
//! - the replies of a pipelined group leave in one [`Output::Send`] where answers come promptly.
//!
//! Deliberately absent: who may send what (`intake::smtp`), sockets, TLS, the checking of secrets. BINARYMIME, VRFY's
//! true answer and every mechanism that needs the secret in clear text at our side.

mod auth;
mod command;
mod content;
mod execute;
mod session;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::ids::MessageId;

pub use self::session::Session;
use super::Reply;
use crate::base::Secret;
use crate::mail::{BodyType, DsnReturn, Envelope, ForwardPath, ReversePath, TlsFacts};

/// What a session is told of its listener and its peer.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Our name in the greeting and in the reply to EHLO.
    pub hostname: Arc<str>,
    pub peer: SocketAddr,
    /// STARTTLS is offered.
    pub starttls: bool,
    /// Neither AUTH nor MAIL is taken without TLS.
    pub requires_tls: bool,
    /// The first input is [`Input::TlsEstablished`]; the greeting follows it.
    pub implicit_tls: bool,
    /// The SIZE value: octets of one message.
    pub message_bytes_max: usize,
    /// AUTH is offered without TLS (peers at loopback).
    pub auth_without_tls: bool,
    /// MAIL is taken without AUTH: the peer's network says who it is.
    pub is_trusted: bool,
    /// How long the peer may say nothing.
    pub idle: Duration,
}

/// What a pump brings.
#[derive(Debug)]
pub enum Input<'a> {
    Bytes(&'a [u8]),
    /// The peer will send no more. What it has sent is still answered.
    Eof,
    /// [`Session::deadline`] has passed.
    Timeout,
    /// The handshake that [`Output::StartTls`] (or the listener) asked for is done.
    TlsEstablished(TlsFacts),
    Answer(Tag, Answer),
    /// The node or the listener closes: the transaction in progress is finished, then the session ends with 421 4.3.2.
    Drain,
}

/// What a pump does.
#[derive(Debug)]
pub enum Output {
    Send(Vec<u8>),
    /// Send what came before, then shake hands; octets read in clear text so far are not part of it.
    StartTls,
    Ask(Tag, Question),
    /// Send what came before, then close. The last output.
    Close(CloseReason),
}

/// Names an open question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(pub u64);

/// SASL mechanisms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// The obsolete draft that most clients still speak.
    Login,
}

impl Mechanism {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }
}

/// What the session cannot decide itself.
#[derive(Debug)]
pub enum Question {
    /// [`Answer::Authenticated`] or a refusal (535 5.7.8, 454 4.7.0).
    Authenticate { mechanism: Mechanism, username: String, secret: Secret },
    /// [`Answer::Ok`] or a refusal.
    Sender(MailCommand),
    /// [`Answer::Ok`] or a refusal.
    Recipient(ForwardPath),
    /// [`Answer::Accepted`], once it is durable, or a refusal.
    Message(Box<Transaction>),
}

/// The answer to a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Sender or recipient is taken.
    Ok,
    Authenticated,
    /// Sent to the peer as it is; after code 421 the session ends.
    Refused(Reply),
    Accepted(MessageId),
}

/// MAIL with its parameters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MailCommand {
    pub reverse_path: ReversePath,
    pub body: BodyType,
    pub smtp_utf8: bool,
    /// SIZE=, octets, as the client estimates them.
    pub size: Option<u64>,
    pub ret: Option<DsnReturn>,
    /// ENVID=, still xtext.
    pub envid: Option<String>,
}

/// A whole transaction, not yet accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    pub envelope: Envelope,
    /// Header section and body: dots unstuffed, all line ends CRLF, no line over `MESSAGE_LINE_BYTES_MAX`; ends with
    /// CRLF unless empty.
    pub content: Vec<u8>,
    /// The name given with EHLO or HELO: visible characters, not verified.
    pub helo: String,
    /// EHLO rather than HELO.
    pub esmtp: bool,
    pub tls: Option<TlsFacts>,
    pub username: Option<String>,
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CloseReason {
    /// QUIT.
    Quit,
    /// The peer closed first.
    PeerClosed,
    /// No input for longer than the listener allows.
    Idle,
    /// More than `SMTP_ERRORS_MAX` refused commands.
    Errors,
    /// More than `SMTP_AUTH_FAILURES_MAX` failed authentications.
    AuthFailures,
    /// More than `SMTP_IDLE_COMMANDS_MAX` commands without a message.
    IdleCommands,
    /// Too much was sent: ahead of our replies, in one line, or in one message.
    Flood,
    /// Where the next command begins is not known (a BDAT without a size).
    Framing,
    /// A refusal with code 421.
    Refused,
    /// [`Input::Drain`].
    Drain,
}

impl CloseReason {
    /// The name in metrics and spans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::PeerClosed => "peer_closed",
            Self::Idle => "idle",
            Self::Errors => "errors",
            Self::AuthFailures => "auth_failures",
            Self::IdleCommands => "idle_commands",
            Self::Flood => "flood",
            Self::Framing => "framing",
            Self::Refused => "refused",
            Self::Drain => "drain",
        }
    }
}

/// Where a session is, for spans and the operator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StateName {
    /// Waits for the TLS handshake.
    Tls,
    /// Reads commands, no transaction is open.
    Command,
    /// In an AUTH exchange.
    Auth,
    /// Reads commands, MAIL was accepted.
    Envelope,
    /// Reads content.
    Content,
    /// Waits for an answer.
    Question,
    Closed,
}

impl StateName {
    /// The name in metrics and spans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Command => "command",
            Self::Auth => "auth",
            Self::Envelope => "envelope",
            Self::Content => "content",
            Self::Question => "question",
            Self::Closed => "closed",
        }
    }
}

/// The pump has misused the machine. Peers cannot cause these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    #[error("no question with this tag is open")]
    UnexpectedAnswer,
    #[error("the answer does not fit the question")]
    AnswerMismatch,
    #[error("no TLS handshake was asked for")]
    UnexpectedTls,
}
