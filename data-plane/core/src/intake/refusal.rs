//! Why policy refuses a submission, and the one way from each reason to an SMTP reply (RFC 5321 4.2, RFC 3463, RFC 5248).
//!
//! Deliberately absent: failed authentications, quotas and full disks, which depend on state that pumps hold.

use postrail_schema::limits::{JOB_RECIPIENTS_MAX, LABEL_CHARS_MAX, RECEIVED_FIELDS_MAX};
use postrail_schema::standing::DomainRefusal;

use crate::mail::header::HeaderError;
use crate::mail::mailboxes::MailboxError;
use crate::smtp::Reply;

/// Why a submission, or a part of it, is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The credential or its tenant left the configuration while the session was open.
    #[error("The credential is no longer valid")]
    CredentialRevoked,
    #[error("The sender domain {0} is not registered for this account")]
    SenderDomain(String),
    #[error("The From domain {0} is not registered for this account")]
    FromDomain(String),
    /// A domain of the account, which DNS does not let send; for the sender and the From domain alike.
    #[error("{0}")]
    DomainStanding(DomainRefusal),
    #[error("The recipient domain {0} is not a domain of the Internet")]
    RecipientDomain(String),
    #[error("A message has 1 to {JOB_RECIPIENTS_MAX} recipients")]
    Recipients,
    #[error("A message of this account has at most {bytes_max} octets")]
    TooBig { bytes_max: u64 },
    #[error("The message has no From field")]
    FromMissing,
    #[error("From field: {0}")]
    From(MailboxError),
    #[error("The field {0} may occur once only")]
    FieldRepeated(&'static str),
    #[error("Not a message by RFC 5322: {0}")]
    Header(HeaderError),
    #[error("The header section is not ASCII: give SMTPUTF8 with MAIL, or encode it by RFC 2047")]
    HeaderUtf8,
    #[error("The header section is neither ASCII nor UTF-8")]
    HeaderEncoding,
    #[error("The message holds a NUL octet")]
    Nul,
    #[error("More than {RECEIVED_FIELDS_MAX} Received fields: the message is in a loop")]
    Loop,
    #[error("The field {0} has a value of at most {LABEL_CHARS_MAX} printable characters")]
    Label(String),
    #[error("The field {0} is transactional, person-to-person or marketing")]
    Class(String),
    #[error("The field {0} asks for what is not available here")]
    FieldUnavailable(String),
}

impl Refusal {
    /// The reply that the client gets.
    pub fn reply(&self) -> Reply {
        let (code, subject, detail) = match self {
            Self::CredentialRevoked => (530, 7, 0),
            Self::SenderDomain(_) | Self::FromDomain(_) | Self::DomainStanding(_) => (550, 7, 1),
            Self::RecipientDomain(_) => (550, 1, 2),
            Self::Recipients => (554, 5, 1),
            Self::TooBig { .. } => (552, 3, 4),
            Self::FromMissing
            | Self::From(_)
            | Self::FieldRepeated(_)
            | Self::Header(_)
            | Self::HeaderEncoding
            | Self::Nul
            | Self::Label(_)
            | Self::Class(_) => (550, 6, 0),
            Self::HeaderUtf8 => (550, 6, 7),
            Self::Loop => (554, 4, 6),
            Self::FieldUnavailable(_) => (550, 7, 0),
        };
        Reply::enhanced(code, subject, detail, self.to_string())
    }
}
