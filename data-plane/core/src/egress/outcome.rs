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
pub(super) fn may_fall_back(policy: &TlsPolicy, phase: Phase, reply: &Reply) -> bool {
    phase == Phase::StartTls && policy.is_opportunistic() && reply.code != 421
}

/// Why, as a stable snake_case word for events, metrics and the operator.
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
    match phase {
        Phase::Spool => return "spool_unreadable",
        Phase::Sign => return "signing_failed",
        Phase::StartTls if reply.code != 421 => return "tls_unavailable",
        _ if reply.code == 530 => return "authentication_required",
        _ => {}
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
        (Phase::Rcpt, 550 | 551 | 553) if !names_policy(&text) => "unknown_user",
        (Phase::Mail, 501 | 553) => "invalid_sender",
        (Phase::Dns, _) => "dns_failure",
        (_, 500..=504 | 555) => "protocol_refused",
        _ if reply.is_transient() => "deferred_by_receiver",
        _ => "refused",
    }
}

/// Words that are known by what receivers write, whatever the code.
fn text_reason(phase: Phase, reply: &Reply, text: &str) -> Option<&'static str> {
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if reply.is_transient() && says(&["greylist", "graylist", "grey-list", "gray-list"]) {
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
    if says(&["relaying denied", "relay access denied", "unable to relay", "relay not permitted", "relaying not"]) {
        return Some("relay_denied");
    }
    if says(&["blocklist", "block list", "blacklist", "spamhaus", "dnsbl", "spamcop", "poor reputation"]) {
        return Some("blocked");
    }
    None
}

/// Whether a refusal without an enhanced status reads like one of us or of the message, not of the mailbox.
fn names_policy(text: &str) -> bool {
    ["spam", "denied", "policy", "block", "reject"].iter().any(|phrase| text.contains(phrase))
}

/// Words that follow from the enhanced status (RFC 3463 and the registry of RFC 5248).
fn status_reason(code: u16, status: EnhancedStatus) -> Option<&'static str> {
    let transient = code / 100 == 4;
    Some(match (status.subject, status.detail) {
        (1, 1 | 3 | 4) => "unknown_user",
        (1, 2 | 10) | (7, 18) => "bad_domain",
        (1, 6) | (2, 1) | (7, 13 | 17) => "inactive_mailbox",
        (1, 7 | 8) | (7, 27) => "invalid_sender",
        (2, 2) => "mailbox_full",
        (2, 3) | (3, 4) => "message_too_large",
        (3, 1) => "insufficient_storage",
        (3, 2) => "service_unavailable",
        (4, 3) => "dns_failure",
        (4, 4) => "no_route",
        (4, 6) => "routing_loop",
        (5, 3) => "too_many_recipients",
        (5, _) => "protocol_refused",
        (6, _) => "content_refused",
        (7, 1) if matches!(code, 450 | 451) => "greylisted",
        (7, 20..=26 | 29 | 515) => "authentication_failed",
        (7, 28) => "rate_limited",
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: Verdict = Verdict::Transient;
    const P: Verdict = Verdict::Permanent;
    const D: Verdict = Verdict::Delivered { dsn_passed_on: false };

    /// `550 5.1.1 text` as a reply.
    fn reply(text: &str) -> Reply {
        let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
        let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
        let enhanced = word.parse::<EnhancedStatus>().ok();
        let text = if enhanced.is_some() { tail } else { rest };
        Reply { code: code.parse().unwrap(), enhanced, text: text.to_owned() }
    }

    fn word(phase: Phase, reply: &Reply) -> &'static str {
        let (verdict, scope) = classify(phase, reply);
        reason(&RecipientOutcome { verdict, scope, phase, reply: reply.clone(), maybe_delivered: false })
    }

    fn check(rows: &[(Phase, &str, Verdict, Scope, &str)]) {
        for (phase, text, verdict, scope, wanted) in rows {
            let reply = reply(text);
            assert_eq!(classify(*phase, &reply), (*verdict, *scope), "{} {text}", phase.name());
            assert_eq!(word(*phase, &reply), *wanted, "{} {text}", phase.name());
        }
    }

    #[test]
    fn replies_about_us_or_the_transaction_mean_what_the_table_says() {
        check(&[
            // 421 is never about a recipient.
            (Phase::Greeting, "421 4.3.2 busy", T, Scope::Host, "service_unavailable"),
            (Phase::Ehlo, "421", T, Scope::Host, "service_unavailable"),
            (Phase::StartTls, "421 x", T, Scope::Host, "service_unavailable"),
            (Phase::Mail, "421 4.7.0 slow down", T, Scope::Session, "rate_limited"),
            (Phase::Rcpt, "421 4.7.28 limit", T, Scope::Session, "rate_limited"),
            (Phase::Data, "421 x", T, Scope::Session, "service_unavailable"),
            (Phase::EndOfData, "421 too many connections", T, Scope::Session, "rate_limited"),
            // Before MAIL it is about us or the host.
            (Phase::Greeting, "554 5.7.1 blocked using zen.spamhaus.org", T, Scope::Source, "blocked"),
            (Phase::Greeting, "450 x", T, Scope::Host, "deferred_by_receiver"),
            (Phase::Ehlo, "550 5.7.1 no", T, Scope::Source, "policy_refused"),
            (Phase::Ehlo, "451 4.3.0 x", T, Scope::Host, "deferred_by_receiver"),
            (Phase::StartTls, "454 4.7.0 TLS not available", T, Scope::Host, "tls_unavailable"),
            (Phase::StartTls, "501 x", T, Scope::Host, "tls_unavailable"),
            // MAIL is about the transaction.
            (Phase::Mail, "450 4.7.1 come back", T, Scope::Transaction, "greylisted"),
            (Phase::Mail, "452 4.3.1 full", T, Scope::Transaction, "insufficient_storage"),
            (Phase::Mail, "452 x", T, Scope::Transaction, "insufficient_storage"),
            (Phase::Mail, "552 5.3.4 too big", P, Scope::Transaction, "message_too_large"),
            (Phase::Mail, "553 x", P, Scope::Transaction, "invalid_sender"),
            (Phase::Mail, "550 5.1.8 bad sender", P, Scope::Transaction, "invalid_sender"),
            (Phase::Mail, "555 x", P, Scope::Transaction, "protocol_refused"),
            (Phase::Mail, "530 5.7.0 STARTTLS first", T, Scope::Host, "authentication_required"),
            (Phase::Mail, "530 x", T, Scope::Host, "authentication_required"),
            (Phase::Mail, "503 x", T, Scope::Session, "protocol_refused"),
            // DATA and its end are about the transaction.
            (Phase::Data, "451 x", T, Scope::Transaction, "deferred_by_receiver"),
            (Phase::Data, "554 x", P, Scope::Transaction, "refused"),
            (Phase::Data, "503 x", T, Scope::Session, "protocol_refused"),
            (Phase::Data, "550 5.5.3 x", T, Scope::Transaction, "too_many_recipients"),
            (Phase::EndOfData, "250 2.0.0 ok", D, Scope::Recipient, "delivered"),
            (Phase::EndOfData, "451 4.7.1 x", T, Scope::Transaction, "greylisted"),
            (Phase::EndOfData, "450 4.7.26 x", T, Scope::Transaction, "authentication_failed"),
            (Phase::EndOfData, "550 5.7.515 Access denied", P, Scope::Transaction, "authentication_failed"),
            (Phase::EndOfData, "554 5.6.0 x", P, Scope::Transaction, "content_refused"),
            (Phase::EndOfData, "554 5.4.6 loop", P, Scope::Transaction, "routing_loop"),
            (Phase::EndOfData, "552 5.2.2 x", T, Scope::Transaction, "mailbox_full"),
            (Phase::EndOfData, "552 5.3.4 x", P, Scope::Transaction, "message_too_large"),
            (Phase::EndOfData, "552 x", P, Scope::Transaction, "message_too_large"),
        ]);
    }

    #[test]
    fn replies_about_a_recipient_mean_what_the_table_says() {
        check(&[
            (Phase::Rcpt, "550 5.1.1 no", P, Scope::Recipient, "unknown_user"),
            (Phase::Rcpt, "550 no", P, Scope::Recipient, "unknown_user"),
            (Phase::Rcpt, "550 5.2.1 off", P, Scope::Recipient, "inactive_mailbox"),
            (Phase::Rcpt, "550 5.7.1 no", P, Scope::Recipient, "policy_refused"),
            (Phase::Rcpt, "556 5.1.10 null MX", P, Scope::Recipient, "bad_domain"),
            (Phase::Rcpt, "550 5.5.0 mailbox not found", P, Scope::Recipient, "unknown_user"),
            (Phase::Rcpt, "550 5.7.13 off", P, Scope::Recipient, "inactive_mailbox"),
            (Phase::Rcpt, "550 5.1.2 no such domain", P, Scope::Recipient, "bad_domain"),
            (Phase::Rcpt, "550 Relaying denied", P, Scope::Recipient, "relay_denied"),
            (Phase::Rcpt, "550 rejected as spam", P, Scope::Recipient, "refused"),
            (Phase::Rcpt, "554 x", P, Scope::Recipient, "refused"),
            (Phase::Rcpt, "503 x", T, Scope::Session, "protocol_refused"),
            (Phase::Rcpt, "450 4.7.1 x", T, Scope::Recipient, "greylisted"),
            (Phase::Rcpt, "451 Greylisting in action", T, Scope::Recipient, "greylisted"),
            (Phase::Rcpt, "450 4.2.0 graylisted", T, Scope::Recipient, "greylisted"),
            (Phase::Rcpt, "451 please try again later", T, Scope::Recipient, "greylisted"),
            (Phase::Rcpt, "450 4.2.1 rate limit", T, Scope::Recipient, "rate_limited"),
            (Phase::Rcpt, "450 4.2.1 x", T, Scope::Recipient, "inactive_mailbox"),
            (Phase::Rcpt, "452 too many", T, Scope::Recipient, "too_many_recipients"),
            (Phase::Rcpt, "452 4.5.3 too many", T, Scope::Recipient, "too_many_recipients"),
            (Phase::Rcpt, "552 5.5.3 too many", T, Scope::Recipient, "too_many_recipients"),
            (Phase::Rcpt, "550 5.5.3 too many", T, Scope::Recipient, "too_many_recipients"),
            (Phase::Rcpt, "452 4.2.2 full", T, Scope::Recipient, "mailbox_full"),
            (Phase::Rcpt, "552 5.2.2 full", T, Scope::Recipient, "mailbox_full"),
            (Phase::Rcpt, "552 x", T, Scope::Recipient, "mailbox_full"),
            (Phase::Rcpt, "552 5.1.1 x", P, Scope::Recipient, "unknown_user"),
            (Phase::Rcpt, "550 5.2.2 full", P, Scope::Recipient, "mailbox_full"),
            (Phase::Rcpt, "550 Over quota", P, Scope::Recipient, "mailbox_full"),
            // What answers nothing.
            (Phase::Rcpt, "354 x", T, Scope::Host, "refused"),
            (Phase::Data, "250 x", T, Scope::Host, "refused"),
        ]);
    }

    #[test]
    fn faults_mean_what_the_table_says() {
        for (phase, fault, verdict, scope) in [
            (Phase::Connect, Fault::NoTargets, T, Scope::Site),
            (Phase::Connect, Fault::ConnectionRefused, T, Scope::Host),
            (Phase::Connect, Fault::ConnectFailed, T, Scope::Host),
            (Phase::Connect, Fault::Timeout, T, Scope::Host),
            (Phase::Greeting, Fault::ConnectionLost, T, Scope::Host),
            (Phase::Ehlo, Fault::Timeout, T, Scope::Host),
            (Phase::StartTls, Fault::TlsFailed, T, Scope::Host),
            (Phase::StartTls, Fault::TlsUnavailable, T, Scope::Host),
            (Phase::Mail, Fault::NotReady, T, Scope::Session),
            (Phase::Mail, Fault::SmtpUtf8Missing, P, Scope::Transaction),
            (Phase::Mail, Fault::EightBitMimeMissing, P, Scope::Transaction),
            (Phase::Mail, Fault::MessageTooLarge, P, Scope::Transaction),
            (Phase::Rcpt, Fault::SmtpUtf8Missing, P, Scope::Recipient),
            (Phase::Mail, Fault::ConnectionLost, T, Scope::Session),
            (Phase::Data, Fault::Timeout, T, Scope::Session),
            (Phase::EndOfData, Fault::ConnectionLost, T, Scope::Session),
            (Phase::EndOfData, Fault::Protocol, T, Scope::Host),
        ] {
            let reply = fault.reply("why");
            assert_eq!(classify(phase, &reply), (verdict, scope), "{} {fault:?}", phase.name());
            assert_eq!(word(phase, &reply), fault.word());
        }
    }

    #[test]
    fn what_ends_before_a_session_has_words_of_its_own() {
        for (phase, text, wanted) in [
            (Phase::Spool, "451 4.3.0 over quota", "spool_unreadable"),
            (Phase::Sign, "451 4.3.0 x", "signing_failed"),
            (Phase::Dns, "451 4.4.3 x", "dns_failure"),
            (Phase::Dns, "451 x", "dns_failure"),
            (Phase::Dns, "550 5.1.2 x", "bad_domain"),
            (Phase::Dns, "550 5.1.10 x", "bad_domain"),
            (Phase::Dns, "550 5.4.4 x", "no_route"),
            (Phase::Dns, "550 5.4.6 x", "routing_loop"),
        ] {
            assert_eq!(reply_reason(phase, &reply(text)), wanted, "{} {text}", phase.name());
        }
    }

    #[test]
    fn what_others_made_up_is_not_mistaken_for_a_fault() {
        let strange = Reply { code: 0, enhanced: None, text: "strange".into() };
        assert_eq!(classify(Phase::Mail, &strange), (T, Scope::Host));
        assert_eq!(word(Phase::Mail, &strange), "unknown");
    }

    proptest! {
        #[test]
        fn no_reply_before_mail_or_421_ends_a_recipient(
            phase in proptest::sample::select(&Phase::ALL[..]),
            code in 200_u16..600,
            status in proptest::option::of((0_u16..10, 0_u16..40)),
            text in "[a-z ]{0,12}",
        ) {
            let mut reply = Reply::plain(code, text);
            reply.enhanced = status.map(|(subject, detail)| EnhancedStatus::new((code / 100) as u8, subject, detail));
            let (verdict, _) = classify(phase, &reply);
            let delivered = matches!(verdict, Verdict::Delivered { .. });
            prop_assert_eq!(delivered, phase == Phase::EndOfData && reply.is_success());
            if phase < Phase::Mail || code == 421 || reply.is_transient() {
                prop_assert_eq!(verdict, Verdict::Transient);
            }
            prop_assert!(word(phase, &reply).bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'_'));
        }
    }
}
