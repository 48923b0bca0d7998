//! What a reply or fault means: the verdict on the recipient, how far the trouble reaches, and the word for it.
//!
//! [`classify`] is the one place that decides. In words, the first rule that fits counts:
//!
//! | phase | reply | verdict | scope |
//! |---|---|---|---|
//! | any | 421 | transient | session; host before MAIL |
//! | connect to starttls | 5yz at greeting or EHLO | transient: it is about us, never about a recipient | source |
//! | connect to starttls | anything else | transient | host |
//! | any | not a reply, or none that fits | transient | host |
//! | mail and later | connection lost, timeout | transient | session |
//! | mail, rcpt | an extension is missing, message over SIZE | permanent | transaction; recipient at rcpt |
//! | any | x.5.3 (too many recipients), also with 5yz | transient | as below |
//! | mail | 530 (TLS or authentication first) | transient: it is about us | host |
//! | mail to end of data | 503 (bad sequence) | transient: the dialogue is out of step | session |
//! | rcpt | 552 (RFC 5321 4.5.3.1.10: as 452), unless x.1.z | transient | recipient |
//! | end of data | 552 x.2.2 (mailbox full) | transient | transaction |
//! | rcpt | 4yz, 5yz | transient, permanent | recipient |
//! | mail, data, end of data | 4yz, 5yz | transient, permanent | transaction |
//! | end of data | 2yz | delivered | recipient |
//!
//! A mailbox that is full is therefore tried again as long as the receiver says so with 552 or 4yz; 550 5.2.2 is taken
//! at its word. Deliberately absent: suppression (an outcome says what happened, not what must never be tried again).

use super::tls_policy::TlsPolicy;
use crate::smtp::client::{Fault, Phase, Settled};
use crate::smtp::{EnhancedStatus, Reply};

/// What became of a recipient in one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    Delivered {
        /// The receiver offered DSN, so a wanted report of success is its duty now (RFC 3461 5.2.2).
        dsn_passed_on: bool,
    },
    Transient,
    Permanent,
}

/// How far a failure reaches: what else should not be tried now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// This recipient alone.
    Recipient,
    /// This message to this host.
    Transaction,
    /// This connection; a new one may do.
    Session,
    /// This address of this host.
    Host,
    /// Every host of the site.
    Site,
    /// Our source, as this site sees it; another source may do.
    Source,
}

impl Scope {
    /// The name in events and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Host => "host",
            Self::Site => "site",
            Self::Source => "source",
        }
    }
}

/// The outcome for one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecipientOutcome {
    pub verdict: Verdict,
    pub scope: Scope,
    pub phase: Phase,
    /// The receiver's; code 0 where there was none, with the text of the [`Fault`].
    pub reply: Reply,
    /// The end of data was sent and no reply came: trying again may deliver twice.
    pub maybe_delivered: bool,
}

impl RecipientOutcome {
    pub(super) fn new(settled: Settled, dsn_passed_on: bool) -> Self {
        let Settled { phase, reply, maybe_delivered } = settled;
        let (verdict, scope) = classify(phase, &reply);
        let verdict = match verdict {
            Verdict::Delivered { .. } => Verdict::Delivered { dsn_passed_on },
            other => other,
        };
        Self { verdict, scope, phase, reply, maybe_delivered }
    }
}

/// The outcome of one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionOutcome {
    pub tag: u64,
    /// One for each recipient of the transaction, in its order.
    pub recipients: Vec<RecipientOutcome>,
    /// The session takes no more transactions.
    pub session_over: bool,
}

/// What `reply` in `phase` means for the recipients that it is for, and how far it reaches. The table is in the module
/// head. `dsn_passed_on` of a delivery is false here.
pub fn classify(phase: Phase, reply: &Reply) -> (Verdict, Scope) {
    let handshake = phase < Phase::Mail;
    if let Some(fault) = Fault::of(reply) {
        return classify_fault(phase, fault);
    }
    if reply.code == 421 {
        return (Verdict::Transient, if handshake { Scope::Host } else { Scope::Session });
    }
    if handshake {
        let about_us = reply.is_permanent() && matches!(phase, Phase::Greeting | Phase::Ehlo);
        return (Verdict::Transient, if about_us { Scope::Source } else { Scope::Host });
    }
    if reply.is_success() && phase == Phase::EndOfData {
        return (Verdict::Delivered { dsn_passed_on: false }, Scope::Recipient);
    }
    let scope = if phase == Phase::Rcpt { Scope::Recipient } else { Scope::Transaction };
    if reply.is_transient() || has_status(reply, 5, 3) {
        return (Verdict::Transient, scope);
    }
    match (phase, reply.code) {
        (Phase::Mail, 530) => (Verdict::Transient, Scope::Host),
        (_, 503) => (Verdict::Transient, Scope::Session),
        (Phase::Rcpt, 552) if subject(reply) != Some(1) => (Verdict::Transient, scope),
        (Phase::EndOfData, 552) if has_status(reply, 2, 2) => (Verdict::Transient, scope),
        _ if reply.is_permanent() => (Verdict::Permanent, scope),
        _ => (Verdict::Transient, Scope::Host),
    }
}

fn classify_fault(phase: Phase, fault: Fault) -> (Verdict, Scope) {
    match fault {
        Fault::EightBitMimeMissing | Fault::MessageTooLarge | Fault::SmtpUtf8Missing => {
            (Verdict::Permanent, if phase == Phase::Rcpt { Scope::Recipient } else { Scope::Transaction })
        }
        Fault::NoTargets => (Verdict::Transient, Scope::Site),
        Fault::NotReady => (Verdict::Transient, Scope::Session),
        Fault::ConnectionLost | Fault::Timeout if phase >= Phase::Mail => (Verdict::Transient, Scope::Session),
        Fault::ConnectFailed
        | Fault::ConnectionLost
        | Fault::ConnectionRefused
        | Fault::Protocol
        | Fault::Timeout
        | Fault::TlsFailed
        | Fault::TlsUnavailable => (Verdict::Transient, Scope::Host),
    }
}

/// Whether a failure of this phase is worth one more connection without TLS.
pub(super) fn may_fall_back(policy: TlsPolicy, phase: Phase, reply: &Reply) -> bool {
    phase == Phase::StartTls && !policy.demands_tls() && reply.code != 421
}

/// Why, as a stable snake_case word for events, metrics and the operator; one of [`REASONS`].
pub fn reason(outcome: &RecipientOutcome) -> &'static str {
    match outcome.verdict {
        Verdict::Delivered { .. } => "delivered",
        Verdict::Transient | Verdict::Permanent => reply_reason(outcome.phase, &outcome.reply),
    }
}

/// [`reason`] for a failure without a recipient, as of a session that reached no host.
pub fn reply_reason(phase: Phase, reply: &Reply) -> &'static str {
    if reply.code == 0 {
        return Fault::of(reply).map_or("unknown", Fault::word);
    }
    let text = reply.text.to_ascii_lowercase();
    // Text before code: large receivers answer 552 or 5.5.0 for an unknown mailbox.
    if let Some(word) = text_reason(phase, reply, &text) {
        return word;
    }
    if let Some(word) = reply.enhanced.and_then(|status| status_reason(reply.code, status)) {
        return word;
    }
    match (phase, reply.code) {
        (_, 421) => "service_unavailable",
        (_, 450 | 451) if text.contains("try again later") && phase == Phase::Rcpt => "greylisted",
        (Phase::Rcpt, 452) => "too_many_recipients",
        (Phase::Rcpt, 552) => "mailbox_full",
        (Phase::Mail | Phase::EndOfData, 552) => "message_too_large",
        (_, 452) => "insufficient_storage",
        (Phase::Rcpt, 550 | 551 | 553) => "unknown_user",
        (Phase::Mail, 501 | 553) => "invalid_sender",
        (_, 530) => "authentication_required",
        (_, 500..=504 | 555) => "protocol_refused",
        _ if reply.is_transient() => "deferred_by_receiver",
        _ => "refused",
    }
}

/// Words that are known by what receivers write, whatever the code.
fn text_reason(phase: Phase, reply: &Reply, text: &str) -> Option<&'static str> {
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if reply.is_transient() && says(&["greylist", "graylist", "grey-list", "gray-list", "greylisted"]) {
        return Some("greylisted");
    }
    if phase == Phase::Rcpt
        && says(&["mailbox not found", "user unknown", "no such user", "unknown user", "no mailbox"])
    {
        return Some("unknown_user");
    }
    if says(&["mailbox full", "mailbox is full", "over quota", "overquota", "quota exceeded", "out of storage"]) {
        return Some("mailbox_full");
    }
    if says(&["rate limit", "ratelimit", "too many connections", "too many messages", "throttl", "sending too fast"]) {
        return Some("rate_limited");
    }
    if says(&["blocklist", "block list", "blacklist", "spamhaus", "dnsbl", "spamcop", "poor reputation"]) {
        return Some("blocked");
    }
    None
}

/// Words that follow from the enhanced status (RFC 3463, RFC 7505, RFC 7372).
fn status_reason(code: u16, status: EnhancedStatus) -> Option<&'static str> {
    let transient = code / 100 == 4;
    Some(match (status.subject, status.detail) {
        (1, 1..=4) => "unknown_user",
        (1, 6) | (2, 1) => "inactive_mailbox",
        (1, 7 | 8) => "invalid_sender",
        (1, 10) => "bad_domain",
        (2, 2) => "mailbox_full",
        (2, 3) | (3, 4) => "message_too_large",
        (3, 1) => "insufficient_storage",
        (3, 2) => "service_unavailable",
        (4, 6) => "routing_loop",
        (5, 3) => "too_many_recipients",
        (5, _) => "protocol_refused",
        (6, _) => "content_refused",
        (7, 1) if matches!(code, 450 | 451) => "greylisted",
        (7, 20..=30 | 515) => "authentication_failed",
        (7, _) if transient => "rate_limited",
        (7, _) => "policy_refused",
        _ => return None,
    })
}

fn has_status(reply: &Reply, subject: u16, detail: u16) -> bool {
    reply.enhanced.is_some_and(|status| (status.subject, status.detail) == (subject, detail))
}

fn subject(reply: &Reply) -> Option<u16> {
    reply.enhanced.map(|status| status.subject)
}

#[cfg(test)]
mod tests {}
