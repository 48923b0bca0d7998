//! What goes wrong without a reply: connections that fail or break, silence, nonsense, and messages that the receiver
//! has no extension for.
//!
//! A fault travels as a [`Reply`] with code 0, so that one path carries every result. Its text begins with the fault's
//! word and a colon, then says the detail: `timeout: no answer to RCPT`. No receiver can forge one, since a reply that
//! was read has a code of at least 200.

use super::super::{EnhancedStatus, Reply};

/// Why there is no reply of the receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    ConnectFailed,
    ConnectionLost,
    ConnectionRefused,
    /// The message has octets above 127 and the receiver has no 8BITMIME (RFC 6152).
    EightBitMimeMissing,
    /// The receiver's SIZE is smaller than the message (RFC 1870).
    MessageTooLarge,
    /// There is no host that could be tried.
    NoTargets,
    /// A transaction came when none could be taken.
    NotReady,
    /// What the receiver sent is no reply, or not one that answers the command.
    Protocol,
    /// An address or the header section needs SMTPUTF8 and the receiver has none (RFC 6531).
    SmtpUtf8Missing,
    Timeout,
    TlsFailed,
    /// The policy demands TLS and the receiver does not offer it.
    TlsUnavailable,
}

impl Fault {
    pub const ALL: [Self; 12] = [
        Self::ConnectFailed,
        Self::ConnectionLost,
        Self::ConnectionRefused,
        Self::EightBitMimeMissing,
        Self::MessageTooLarge,
        Self::NoTargets,
        Self::NotReady,
        Self::Protocol,
        Self::SmtpUtf8Missing,
        Self::Timeout,
        Self::TlsFailed,
        Self::TlsUnavailable,
    ];

    /// The stable word for events and traces.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::ConnectionLost => "connection_lost",
            Self::ConnectionRefused => "connection_refused",
            Self::EightBitMimeMissing => "eight_bit_mime_missing",
            Self::MessageTooLarge => "message_too_large",
            Self::NoTargets => "no_targets",
            Self::NotReady => "session_not_ready",
            Self::Protocol => "protocol_error",
            Self::SmtpUtf8Missing => "smtp_utf8_missing",
            Self::Timeout => "timeout",
            Self::TlsFailed => "tls_failed",
            Self::TlsUnavailable => "tls_unavailable",
        }
    }

    /// The status of RFC 3463 that a report would carry.
    pub const fn status(self) -> EnhancedStatus {
        let (class, subject, detail) = match self {
            Self::ConnectFailed | Self::ConnectionRefused => (4, 4, 1),
            Self::ConnectionLost | Self::Timeout | Self::NotReady => (4, 4, 2),
            Self::EightBitMimeMissing => (5, 6, 3),
            Self::MessageTooLarge => (5, 3, 4),
            Self::NoTargets => (4, 4, 4),
            Self::Protocol => (4, 5, 0),
            Self::SmtpUtf8Missing => (5, 6, 7),
            Self::TlsFailed => (4, 7, 5),
            Self::TlsUnavailable => (4, 7, 10),
        };
        EnhancedStatus::new(class, subject, detail)
    }

    /// The reply that carries this fault; `detail` is for people.
    pub fn reply(self, detail: impl std::fmt::Display) -> Reply {
        Reply { code: 0, enhanced: Some(self.status()), text: format!("{}: {detail}", self.word()) }
    }

    /// The fault that `reply` carries, if it is not the receiver's.
    pub fn of(reply: &Reply) -> Option<Self> {
        if reply.code != 0 {
            return None;
        }
        let word = reply.text.split(':').next()?;
        Self::ALL.into_iter().find(|fault| fault.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_back_from_its_reply() {
        for fault in Fault::ALL {
            assert_eq!(Fault::of(&fault.reply("some: detail")), Some(fault));
        }
    }

    #[test]
    fn a_reply_of_the_receiver_is_never_a_fault() {
        assert_eq!(Fault::of(&Reply::plain(421, "timeout: bye")), None);
    }
}
