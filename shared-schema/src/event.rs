//! What became of a recipient: one schema for the journal, the ledger, webhooks and reports.
//!
//! The wire form is flatbuffers (`schema/event.fbs`), several events a buffer.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{CredentialId, MessageId, RecipientIndex, Revision, SendingDomainId, SourceId, TenantId};

/// What happened. The closed set of `architecture.md`; settling kinds end a recipient, later ones never undo that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum EventKind {
    Accepted = 1,
    Rejected = 2,
    Suppressed = 3,
    Quarantined = 4,
    Deferred = 5,
    Delivered = 6,
    Bounced = 7,
    Expired = 8,
    Cancelled = 9,
    Complained = 10,
    Opened = 11,
    Clicked = 12,
    Unsubscribed = 13,
    Replied = 14,
}

impl EventKind {
    pub const ALL: [Self; 14] = [
        Self::Accepted,
        Self::Rejected,
        Self::Suppressed,
        Self::Quarantined,
        Self::Deferred,
        Self::Delivered,
        Self::Bounced,
        Self::Expired,
        Self::Cancelled,
        Self::Complained,
        Self::Opened,
        Self::Clicked,
        Self::Unsubscribed,
        Self::Replied,
    ];

    /// The kind with that tag, if there is one.
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == tag)
    }

    /// The name in the API, in metrics and in webhooks.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Suppressed => "suppressed",
            Self::Quarantined => "quarantined",
            Self::Deferred => "deferred",
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Complained => "complained",
            Self::Opened => "opened",
            Self::Clicked => "clicked",
            Self::Unsubscribed => "unsubscribed",
            Self::Replied => "replied",
        }
    }

    /// Whether this kind, when it comes from the data plane, ends the recipient.
    pub const fn settles(self) -> bool {
        matches!(
            self,
            Self::Rejected | Self::Suppressed | Self::Delivered | Self::Bounced | Self::Expired | Self::Cancelled
        )
    }
}

/// One event about one recipient. `Accepted` carries the fields that name the job; the others may leave them empty,
/// since the ledger joins them by `(message, index)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    #[serde(with = "message_id_text")]
    pub message: MessageId,
    pub index: RecipientIndex,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// The revision that the decision was made under.
    pub revision: Revision,
    pub tenant: TenantId,
    /// The recipient's address.
    pub address: String,
    /// The recipients of a job have it in common.
    #[serde(with = "job_facts")]
    pub job: Option<Arc<JobFacts>>,
    pub attempt: Option<AttemptFacts>,
    /// Why, as a stable snake_case word (`greylisted`, `suppressed`, `expired`, `cancelled_by_operator`, …).
    pub reason: String,
    /// Unix milliseconds of the next attempt, for `Deferred`; 0 otherwise.
    pub next_attempt_ms: u64,
}

/// What recovery reads of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventBrief {
    pub kind: EventKind,
    pub message: MessageId,
    pub index: RecipientIndex,
    /// The attempt's number, where there was one.
    pub attempt: Option<u16>,
    /// As [`Event::next_attempt_ms`].
    pub next_attempt_ms: u64,
}

impl From<&Event> for EventBrief {
    fn from(event: &Event) -> Self {
        let attempt = event.attempt.as_ref().map(|attempt| attempt.number);
        let Event { kind, message, index, next_attempt_ms, .. } = *event;
        Self { kind, message, index, attempt, next_attempt_ms }
    }
}

/// What `Accepted` says of the job.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct JobFacts {
    pub credential: CredentialId,
    pub domain: SendingDomainId,
    /// `smtp`, `rest` or `dsn` (a report that we made).
    pub interface: String,
    pub reverse_path: String,
    /// The message's size as submitted, octets.
    pub bytes: u64,
    pub reference: String,
    pub campaign: String,
    pub cost_center: String,
    pub class: String,
    pub message_id_header: String,
    pub recipients: u16,
}

impl JobFacts {
    /// The interface of a report that we made: nobody submitted it, so that it uses up no quota.
    pub const REPORT: &str = "dsn";
}

/// What is known of the attempt that led to the event.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AttemptFacts {
    /// From 1.
    pub number: u16,
    pub source: SourceId,
    pub source_address: Option<IpAddr>,
    pub site: String,
    pub host: String,
    pub host_address: Option<IpAddr>,
    /// `TLSv1.3 TLS13_AES_256_GCM_SHA384`, with ` verified` where the host's certificate was; or empty.
    pub tls: String,
    /// The receiver's reply code, 0 where there was none.
    pub reply_code: u16,
    pub enhanced_status: String,
    /// The reply's text, or what went wrong locally; at most 1,024 octets.
    pub reply: String,
    /// `connect`, `greeting`, `ehlo`, `starttls`, `mail`, `rcpt`, `data`, `end_of_data`, `dns`, …
    pub phase: String,
    /// Milliseconds from the attempt's start to its outcome.
    pub duration_ms: u32,
}

mod job_facts {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::JobFacts;

    pub(super) fn serialize<S: Serializer>(facts: &Option<Arc<JobFacts>>, to: S) -> Result<S::Ok, S::Error> {
        facts.as_deref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<JobFacts>>, D::Error> {
        Ok(Option::<JobFacts>::deserialize(from)?.map(Arc::new))
    }
}

mod message_id_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::MessageId;

    pub(super) fn serialize<S: Serializer>(id: &MessageId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MessageId, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
