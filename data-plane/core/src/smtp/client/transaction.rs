//! One MAIL to end-of-data: what is asked for, the commands that say it, and what each recipient got.
//!
//! Invariants worth naming:
//! - a recipient is settled at most once: the first refusal, fault or final reply counts;
//! - no octet of a parameter that could end a line, or begin another parameter, is sent.

use std::io::Write as _;

use bytes::Bytes;
use postrail_schema::limits::{CHUNK_PIPELINED_BYTES_MAX, SMTP_REPLY_TEXT_BYTES_MAX};
use smallvec::SmallVec;

use super::super::Reply;
use super::content::{Content, whole};
use super::{Extensions, Fault, Phase};
use crate::mail::{Address, BodyType, DsnReturn, FinalMessage, ForwardPath, Notify, ReversePath};

/// Room for a usual MAIL, octets.
const COMMAND_BYTES: usize = 128;

/// What the caller wants sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Comes back with the outcome.
    pub tag: u64,
    pub reverse_path: ReversePath,
    pub body: BodyType,
    /// The submission asked for SMTPUTF8; the receiver needs it only where an address or the header section does.
    pub smtp_utf8: bool,
    pub ret: Option<DsnReturn>,
    /// ENVID= as given, still xtext.
    pub envid: Option<String>,
    /// 1 to `TRANSACTION_RECIPIENTS_MAX`.
    pub recipients: Vec<ForwardPath>,
    pub message: FinalMessage,
    /// The message may go as one chunk with its envelope, where the receiver offers that: not for a second try, so that
    /// a receiver which offers BDAT and has none gets DATA then.
    pub chunk: bool,
}

/// The last word on one recipient. It was delivered if the phase is [`Phase::EndOfData`] and the reply 2yz.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    pub phase: Phase,
    /// The receiver's, or a [`Fault`].
    pub reply: Reply,
    /// The end of data was sent and no reply came: the message may have arrived.
    pub maybe_delivered: bool,
}

/// A transaction in progress.
#[derive(Debug)]
pub(super) struct Running {
    tag: u64,
    commands: Commands,
    recipients: Vec<ForwardPath>,
    settled: SmallVec<[Option<Settled>; 1]>,
    /// Indices of the recipients that RCPT is sent for.
    asked: SmallVec<[usize; 4]>,
    /// How many of them were answered.
    answered: usize,
    pub(super) mail_refused: bool,
    /// Some RCPT was answered with 2yz.
    pub(super) any_accepted: bool,
    /// The message goes as one chunk of BDAT in the group of its envelope.
    pub(super) chunked: bool,
    pub(super) content: Content,
    /// Octets of content handed out.
    pub(super) content_bytes: usize,
    /// Number of the connection's last piece that belongs to it.
    last_piece: u64,
}

/// A message that goes with its envelope.
pub(super) type Pieces = SmallVec<[Bytes; 4]>;

impl Running {
    /// Begins `transaction`; recipients that the receiver lacks an extension for are settled at once. The pieces are the
    /// message where it goes with its envelope as one chunk, which needs `chunked`.
    pub(super) fn new(transaction: Transaction, extensions: &Extensions, chunked: bool) -> (Self, Pieces) {
        let lacking = lacking(&transaction, extensions);
        let settled: SmallVec<[_; 1]> = transaction
            .recipients
            .iter()
            .map(|recipient| match &lacking {
                Some(reply) => Some(Settled { phase: Phase::Mail, reply: reply.clone(), maybe_delivered: false }),
                None if recipient.address.needs_smtp_utf8() && !extensions.smtp_utf8 => {
                    let reply = Fault::SmtpUtf8Missing.reply("the address needs SMTPUTF8, which is not offered");
                    Some(Settled { phase: Phase::Rcpt, reply, maybe_delivered: false })
                }
                None => None,
            })
            .collect();
        let (commands, tag) = (Commands::new(&transaction, extensions), transaction.tag);
        let (content, octets, pieces) = if chunked {
            let (octets, pieces) = whole(transaction.message);
            (Content::nothing_more(), octets, pieces.collect())
        } else {
            (Content::new(transaction.message), 0, Pieces::new())
        };
        let running = Self {
            tag,
            asked: (0..settled.len()).filter(|at| settled[*at].is_none()).collect(),
            commands,
            settled,
            answered: 0,
            mail_refused: false,
            any_accepted: false,
            recipients: transaction.recipients,
            chunked,
            content,
            content_bytes: octets,
            last_piece: u64::MAX,
        };
        (running, pieces)
    }

    /// Its last piece is that of this number.
    pub(super) const fn sent_by(mut self, last_piece: u64) -> Self {
        self.last_piece = last_piece;
        self
    }

    /// Whether all its pieces are among the first `handed_out`.
    pub(super) const fn is_handed_out(&self, handed_out: u64) -> bool {
        self.last_piece <= handed_out
    }

    pub(super) const fn tag(&self) -> u64 {
        self.tag
    }

    /// Whether some recipient still waits for its last word.
    pub(super) fn has_pending(&self) -> bool {
        self.settled.iter().any(Option::is_none)
    }

    /// Whether every RCPT was answered.
    pub(super) fn all_answered(&self) -> bool {
        self.answered == self.asked.len()
    }

    /// Appends MAIL.
    pub(super) fn write_mail(&self, wire: &mut Vec<u8>) {
        wire.extend_from_slice(&self.commands.mail);
    }

    /// Appends RCPT for the recipient that is asked next.
    pub(super) fn write_next_rcpt(&self, wire: &mut Vec<u8>) {
        let recipient = &self.recipients[self.asked[self.answered]];
        self.commands.write_rcpt(recipient, wire);
    }

    /// Appends MAIL, every RCPT, and DATA (RFC 2920 section 3.1 lets it end a group) or BDAT (RFC 3030 section 2), whose
    /// octets follow.
    pub(super) fn write_group(&self, wire: &mut Vec<u8>) {
        self.write_mail(wire);
        for at in &self.asked {
            self.commands.write_rcpt(&self.recipients[*at], wire);
        }
        if self.chunked {
            wire.extend_from_slice(b"BDAT ");
            push_number(wire, self.content_bytes);
            wire.extend_from_slice(b" LAST\r\n");
        } else {
            wire.extend_from_slice(b"DATA\r\n");
        }
    }

    /// Whether MAIL or a recipient was refused by the receiver.
    pub(super) fn any_refused(&self) -> bool {
        self.mail_refused || self.settled.iter().flatten().any(|settled| settled.phase == Phase::Rcpt)
    }

    /// Takes the reply to the next RCPT: a refusal is the recipient's last word unless MAIL's was.
    pub(super) fn answer_recipient(&mut self, reply: Reply) {
        let at = self.asked[self.answered];
        self.answered += 1;
        if reply.is_success() {
            self.any_accepted = true;
        } else if self.settled[at].is_none() {
            self.settled[at] = Some(Settled { phase: Phase::Rcpt, reply: bounded(reply), maybe_delivered: false });
        }
    }

    /// Gives every recipient without a last word this one.
    pub(super) fn settle_rest(&mut self, phase: Phase, reply: &Reply, maybe_delivered: bool) {
        let reply = bounded(reply.clone());
        for settled in self.settled.iter_mut().filter(|settled| settled.is_none()) {
            *settled = Some(Settled { phase, reply: reply.clone(), maybe_delivered });
        }
    }

    /// The last words, in the order of the recipients.
    ///
    /// # Panics
    /// If a recipient has none.
    pub(super) fn into_settled(self) -> Vec<Settled> {
        self.settled.into_iter().map(|settled| settled.expect("every recipient is settled before the end")).collect()
    }
}

impl Transaction {
    /// Whether the message may go as one chunk with its envelope to a receiver that offers `extensions`: it is small, so
    /// that little is sent in vain where every recipient is refused.
    pub(super) fn fits_chunk(&self, extensions: &Extensions) -> bool {
        self.chunk && extensions.chunking && extensions.pipelining && self.message.len() <= CHUNK_PIPELINED_BYTES_MAX
    }
}

/// `reply` with the text that is kept of it.
pub(super) fn bounded(mut reply: Reply) -> Reply {
    if reply.text.len() > SMTP_REPLY_TEXT_BYTES_MAX {
        reply.text.truncate(reply.text.floor_char_boundary(SMTP_REPLY_TEXT_BYTES_MAX));
    }
    reply
}

/// What the whole transaction needs and the receiver has not, as the reply that says so.
fn lacking(transaction: &Transaction, extensions: &Extensions) -> Option<Reply> {
    let message = &transaction.message;
    let path_needs = transaction.reverse_path.as_ref().is_some_and(Address::needs_smtp_utf8);
    if (message.utf8_header || path_needs) && !extensions.smtp_utf8 {
        return Some(Fault::SmtpUtf8Missing.reply("the message needs SMTPUTF8, which is not offered"));
    }
    if message.eight_bit && !extensions.eight_bit_mime {
        return Some(Fault::EightBitMimeMissing.reply("the body needs 8BITMIME, which is not offered"));
    }
    let bytes = message.len() as u64;
    extensions.size_max.filter(|max| bytes > *max).map(|max| {
        Fault::MessageTooLarge.reply(format_args!("the message has {bytes} octets and the receiver takes {max}"))
    })
}

/// The command lines of one transaction, each with its CRLF.
#[derive(Debug)]
struct Commands {
    mail: Vec<u8>,
    /// DSN parameters may be sent.
    dsn: bool,
    /// SMTPUTF8 is in effect.
    utf8: bool,
}

impl Commands {
    fn new(transaction: &Transaction, extensions: &Extensions) -> Self {
        let message = &transaction.message;
        let path = transaction.reverse_path.as_ref();
        let needs_utf8 = transaction.smtp_utf8
            || message.utf8_header
            || path.is_some_and(Address::needs_smtp_utf8)
            || transaction.recipients.iter().any(|recipient| recipient.address.needs_smtp_utf8());
        let utf8 = extensions.smtp_utf8 && needs_utf8;
        let mut mail = Vec::with_capacity(COMMAND_BYTES);
        mail.extend_from_slice(b"MAIL FROM:<");
        if let Some(path) = path {
            push_path(&mut mail, path, utf8);
        }
        mail.push(b'>');
        if extensions.size {
            mail.extend_from_slice(b" SIZE=");
            push_number(&mut mail, message.len());
        }
        let eight_bit = message.eight_bit || message.utf8_header || transaction.body == BodyType::EightBitMime;
        if extensions.eight_bit_mime && eight_bit {
            mail.extend_from_slice(b" BODY=8BITMIME");
        }
        if utf8 {
            mail.extend_from_slice(b" SMTPUTF8");
        }
        if extensions.dsn {
            mail.extend_from_slice(match transaction.ret {
                Some(DsnReturn::Full) => b" RET=FULL",
                Some(DsnReturn::Headers) => b" RET=HDRS",
                None => b"",
            });
            push_parameter(&mut mail, " ENVID=", transaction.envid.as_deref(), false);
        }
        mail.extend_from_slice(b"\r\n");
        Self { mail, dsn: extensions.dsn, utf8 }
    }

    /// Appends RCPT for `recipient`.
    fn write_rcpt(&self, recipient: &ForwardPath, wire: &mut Vec<u8>) {
        wire.extend_from_slice(b"RCPT TO:<");
        push_path(wire, &recipient.address, self.utf8);
        wire.push(b'>');
        if self.dsn {
            push_notify(wire, recipient.notify);
            push_parameter(wire, " ORCPT=", recipient.orcpt.as_deref(), self.utf8);
        }
        wire.extend_from_slice(b"\r\n");
    }
}

/// Appends an address as it goes between angle brackets: with A-labels unless SMTPUTF8 is in effect.
fn push_path(line: &mut Vec<u8>, address: &Address, utf8: bool) {
    if utf8 {
        line.extend_from_slice(address.as_str().as_bytes());
    } else {
        line.extend_from_slice(address.local_part().as_bytes());
        line.push(b'@');
        line.extend_from_slice(address.domain().as_str().as_bytes());
    }
}

fn push_number(line: &mut Vec<u8>, number: usize) {
    // A vector takes whatever is written to it.
    let _ = write!(line, "{number}");
}

fn push_notify(line: &mut Vec<u8>, notify: Notify) {
    match notify {
        Notify::Unspecified => {}
        Notify::Never => line.extend_from_slice(b" NOTIFY=NEVER"),
        Notify::On { success, failure, delay } => {
            let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
            let mut separator = " NOTIFY=";
            for (_, word) in words.into_iter().filter(|(wanted, _)| *wanted) {
                line.extend_from_slice(separator.as_bytes());
                line.extend_from_slice(word.as_bytes());
                separator = ",";
            }
        }
    }
}

/// Appends a parameter whose value was given by a client, unless it has an octet that no such value has.
fn push_parameter(line: &mut Vec<u8>, name: &str, value: Option<&str>, utf8: bool) {
    let is_plain = |c: char| c.is_ascii_graphic() || (utf8 && !c.is_ascii() && !c.is_control() && !c.is_whitespace());
    if let Some(value) = value.filter(|value| !value.is_empty() && value.chars().all(is_plain)) {
        line.extend_from_slice(name.as_bytes());
        line.extend_from_slice(value.as_bytes());
    }
}
