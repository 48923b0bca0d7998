//! A job: what one submission asks for, as it is stored, scheduled and rendered.
//!
//! A job is one content and up to 1,000 recipients. It has *entries*: each entry is one message, rendered once (an SMTP
//! transaction has one entry; each element of a REST job's `recipients[]` is one). Each address is a *recipient*: the
//! unit that settles. Recipients of one entry get the same bytes.

use std::net::IpAddr;

use bytes::Bytes;
use postrail_schema::event::JobFacts;
use postrail_schema::ids::{CredentialId, MessageId, Revision, SendingDomainId, TenantId};
use postrail_schema::snapshot::TrafficClass;
use serde::{Deserialize, Serialize};

use super::{Address, BodyType, DsnReturn, Notify, ReversePath};
use crate::base::Timestamp;

/// How the job reached us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interface {
    Smtp,
    Rest,
    /// A report that we made ourselves (RFC 3464).
    Dsn,
}

impl Interface {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Rest => "rest",
            Self::Dsn => JobFacts::REPORT,
        }
    }
}

/// One accepted submission.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    pub id: MessageId,
    pub interface: Interface,
    pub tenant: TenantId,
    pub credential: CredentialId,
    /// The registered sending domain of the From field: its keys sign, its pool carries.
    pub domain: SendingDomainId,
    pub class: TrafficClass,
    /// The revision that the submission was accepted under.
    pub revision: Revision,
    pub accepted_at: Timestamp,
    pub expires_at: Timestamp,
    pub peer: Option<IpAddr>,
    pub reverse_path: ReversePath,
    pub body: BodyType,
    pub smtp_utf8: bool,
    pub ret: Option<DsnReturn>,
    pub envid: Option<String>,
    /// X-Postrail-Reference of SMTP, `referenceJob` of REST.
    pub reference: String,
    pub campaign: String,
    pub cost_center: String,
    /// The Message-ID field, for events (an entry of a REST job derives its own from it).
    pub message_id_header: String,
    /// Its domain failed in DNS when it was accepted: it waits until a person releases or drops it.
    pub quarantined: bool,
    /// How often it has gone to another host; 0 where it was accepted.
    pub hop: u16,
    /// hash(tenant, key) and hash(request), where the submission carried an idempotency key.
    pub idempotency: Option<Idempotency>,
    pub entries: Vec<JobEntry>,
    pub recipients: Vec<JobRecipient>,
    pub content: Content,
}

/// Remembers the first answer to an idempotency key. Both hashes are truncated SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Idempotency {
    pub key_hash: u128,
    pub request_hash: u128,
}

/// One message of a job.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct JobEntry {
    /// `reference` of a REST recipient entry.
    pub reference: String,
    /// The entry's mail fields of a REST job, `None` for SMTP.
    pub fields: Option<MailFields>,
}

/// One address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobRecipient {
    pub address: Address,
    /// Index into [`Job::entries`].
    pub entry: u16,
    pub notify: Notify,
    pub orcpt: Option<String>,
}

/// What the copies are made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// SMTP: header section (with its final empty line) and body, CRLF line ends, our fields added and X-Postrail
    /// fields removed already; not dot-stuffed.
    Mime { header: Bytes, body: Bytes },
    /// REST: parts that are rendered a copy at a time.
    Rest(Box<RestContent>),
}

impl Content {
    /// Octets held.
    pub fn len(&self) -> usize {
        match self {
            Self::Mime { header, body } => header.len() + body.len(),
            Self::Rest(rest) => {
                rest.subject.len()
                    + rest.body.len()
                    + rest.alternative.as_ref().map_or(0, String::len)
                    + rest.attachments.iter().map(|a| a.content.len() + a.name.len()).sum::<usize>()
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The shared content of a REST job, decoded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestContent {
    pub subject: String,
    pub body: String,
    /// `text/html` rather than `text/plain`.
    pub body_is_html: bool,
    /// The plain-text alternative of an HTML body.
    pub alternative: Option<String>,
    pub attachments: Vec<Attachment>,
    /// The job-level fields; an entry's own override them one by one.
    pub fields: MailFields,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attachment {
    pub name: String,
    /// `type/subtype`.
    pub content_type: String,
    /// Without angle brackets; inline parts are referenced by it.
    pub content_id: Option<String>,
    pub content: Bytes,
}

/// The `mail` object of a JobRequest. Absent at an entry: the job's value holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MailFields {
    /// Header From (`mimeFrom`, else `from`).
    pub from: Option<Mailbox>,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub reply_to: Option<Mailbox>,
    pub in_reply_to: Option<String>,
    pub priority: Option<Priority>,
    pub list_unsubscribe: Option<String>,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Priority {
    High,
    Normal,
}

/// A display name and an address as they go into a header field.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Mailbox {
    pub name: String,
    pub address: String,
}
