//! Delivery status notifications (RFC 3464), honouring what the sender asked for (RFC 3461).
//!
//! [`compose`] makes a report about one job as a job of its own: from `MAILER-DAEMON` of the sending domain, to the
//! reverse path, with the null reverse path itself. There is none about a message with a null reverse path, none for a
//! recipient with `NOTIFY=NEVER`, and `relayed` ones only where success was asked for.
//!
//! Invariants worth naming: the report's id follows from the message and its first reported recipient, so that the same
//! failure, seen again after a crash, makes the same report; lines end in CRLF; UTF-8 addresses are written in the
//! 7-bit form of RFC 6533 section 3.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use postrail_schema::ids::{MessageId, RecipientIndex};
use postrail_schema::limits::{EXPIRY_DEFAULT, LABEL_CHARS_MAX};

use crate::base::Timestamp;
use crate::mail::{Address, BodyType, Content, DsnReturn, ForwardPath, Interface, Job, JobEntry, JobRecipient, Notify};
use crate::smtp::reply::{EnhancedStatus, Reply};

/// Octets of the original message that a report returns at most when RET=FULL was asked for; beyond that the header
/// section alone is returned.
const RETURNED_BYTES_MAX: usize = 1024 * 1024;

/// What became of the recipient (RFC 3464 2.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Failed,
    /// Passed on to a host that promises no reports.
    Relayed,
}

/// One recipient of a report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportRecipient {
    pub index: RecipientIndex,
    pub action: Action,
    pub status: EnhancedStatus,
    pub reply: Reply,
    /// The reply is the receiver's own words rather than our finding.
    pub from_receiver: bool,
    pub host: String,
}

/// A report that is due if the job's sender wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportRequest {
    pub message: MessageId,
    pub recipients: Vec<ReportRecipient>,
}

/// Makes the report about `job`, or `None` where nobody wants one. `sending_domain` is the name of the job's domain,
/// `hostname` names this host.
pub fn compose(
    job: &Job,
    request: &ReportRequest,
    sending_domain: &str,
    hostname: &str,
    now: Timestamp,
) -> Option<Job> {
    let to = job.reverse_path.clone()?;
    let wanted: Vec<(&ReportRecipient, &JobRecipient)> = request
        .recipients
        .iter()
        .filter_map(|report| Some((report, job.recipients.get(usize::from(report.index.0))?)))
        .filter(|(report, recipient)| match report.action {
            Action::Failed => recipient.notify.on_failure(),
            Action::Relayed => recipient.notify.on_success(),
        })
        .collect();
    let first = wanted.first()?.0.index;
    let id = report_id(job.id, first);
    let reported = Reported { job, to: &to, wanted: &wanted, sending_domain, hostname, id, now };
    let (header, body) = reported.message();
    let eight_bit = !body.is_ascii();
    Some(Job {
        id,
        interface: Interface::Dsn,
        tenant: job.tenant,
        credential: job.credential,
        domain: job.domain,
        class: job.class,
        revision: job.revision,
        accepted_at: now,
        expires_at: now + EXPIRY_DEFAULT,
        peer: None::<IpAddr>,
        reverse_path: None,
        body: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
        smtp_utf8: to.needs_smtp_utf8(),
        ret: None,
        envid: None,
        reference: job.id.to_string().chars().take(LABEL_CHARS_MAX).collect(),
        campaign: job.campaign.clone(),
        cost_center: job.cost_center.clone(),
        message_id_header: format!("<{id}@{sending_domain}>"),
        quarantined: false,
        hop: 0,
        idempotency: None,
        entries: vec![JobEntry::default()],
        recipients: vec![recipient(to.clone())],
        content: Content::Mime { header: Bytes::from(header), body: Bytes::from(body) },
    })
}

fn recipient(address: Address) -> JobRecipient {
    let ForwardPath { address, notify, orcpt } = ForwardPath { address, notify: Notify::Never, orcpt: None };
    JobRecipient { address, entry: 0, notify, orcpt }
}

/// The id of the report about `message` whose first recipient is `first`: on the same shard, and always the same.
pub fn report_id(message: MessageId, first: RecipientIndex) -> MessageId {
    let mix = (message.bits() as u64 ^ (u64::from(first.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(17);
    MessageId::new(message.unix_ms(), message.shard(), mix.wrapping_mul(0xbf58_476d_1ce4_e5b9))
}

struct Reported<'a> {
    job: &'a Job,
    to: &'a Address,
    wanted: &'a [(&'a ReportRecipient, &'a JobRecipient)],
    sending_domain: &'a str,
    hostname: &'a str,
    id: MessageId,
    now: Timestamp,
}

impl Reported<'_> {
    fn message(&self) -> (String, Vec<u8>) {
        let boundary = format!("=_report_{:032x}", self.id.bits());
        let failed = self.wanted.iter().any(|(report, _)| report.action == Action::Failed);
        let subject = if failed { "Undelivered mail returned to sender" } else { "Mail passed on" };
        let header = format!(
            "From: Mail Delivery System <MAILER-DAEMON@{domain}>\r\n\
             To: <{to}>\r\n\
             Subject: {subject}\r\n\
             Date: {date}\r\n\
             Message-ID: <{id}@{domain}>\r\n\
             Auto-Submitted: auto-replied\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n",
            domain = self.sending_domain,
            to = if self.to.needs_smtp_utf8() { self.to.to_string() } else { self.to.ascii_domain_form() },
            date = self.now.rfc5322(),
            id = self.id,
        );
        let mut body = Vec::new();
        body.extend_from_slice(self.explanation(&boundary, failed).as_bytes());
        body.extend_from_slice(self.status(&boundary).as_bytes());
        self.returned(&boundary, &mut body);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        (header, body)
    }

    fn explanation(&self, boundary: &str, failed: bool) -> String {
        let mut text = format!(
            "--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
             This is the mail system at host {}.\r\n\r\n",
            self.hostname
        );
        text.push_str(if failed {
            "Your message could not be delivered to the recipients below. It is not tried\r\nagain. What was returned \
             is attached.\r\n"
        } else {
            "Your message was passed on to a system that does not promise further reports.\r\n"
        });
        for (report, recipient) in self.wanted {
            let _ = write!(text, "\r\n<{}>", seven_bit(recipient.address.as_str()));
            if report.from_receiver {
                let _ = write!(text, ": host {} said", report.host);
            }
            let _ = write!(text, ":\r\n    {}\r\n", one_line(&report.reply));
        }
        text.push_str("\r\n");
        text
    }

    fn status(&self, boundary: &str) -> String {
        let mut text = format!(
            "--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; {}\r\n",
            self.hostname
        );
        if let Some(envid) = &self.job.envid {
            let _ = write!(text, "Original-Envelope-Id: {}\r\n", seven_bit(&unxtext(envid)));
        }
        let _ = write!(text, "Arrival-Date: {}\r\n", self.job.accepted_at.rfc5322());
        for (report, recipient) in self.wanted {
            text.push_str("\r\n");
            if let Some(orcpt) = &recipient.orcpt {
                let (kind, address) = orcpt.split_once(';').unwrap_or(("rfc822", orcpt));
                let _ = write!(text, "Original-Recipient: {kind}; {}\r\n", seven_bit(&unxtext(address)));
            }
            let kind = if recipient.address.as_str().is_ascii() { "rfc822" } else { "utf-8" };
            let _ = write!(text, "Final-Recipient: {kind}; {}\r\n", seven_bit(recipient.address.as_str()));
            let action = match report.action {
                Action::Failed => "failed",
                Action::Relayed => "relayed",
            };
            let _ = write!(text, "Action: {action}\r\nStatus: {}\r\n", report.status);
            if report.from_receiver {
                let _ = write!(text, "Remote-MTA: dns; {}\r\n", report.host);
                let _ = write!(text, "Diagnostic-Code: smtp; {}\r\n", one_line(&report.reply));
            } else {
                let _ = write!(text, "Diagnostic-Code: x-postrail; {}\r\n", one_line(&report.reply));
            }
            let _ = write!(text, "Last-Attempt-Date: {}\r\n", self.now.rfc5322());
        }
        text.push_str("\r\n");
        text
    }

    /// The original: whole where RET=FULL asks for it and it is not too large, else its header section.
    fn returned(&self, boundary: &str, out: &mut Vec<u8>) {
        let Content::Mime { header, body } = &self.job.content else { return };
        let full = self.job.ret == Some(DsnReturn::Full) && header.len() + body.len() <= RETURNED_BYTES_MAX;
        let ascii = header.is_ascii() && (!full || body.is_ascii());
        let kind = match (full, header.is_ascii()) {
            (true, true) => "message/rfc822",
            (true, false) => "message/global",
            (false, true) => "text/rfc822-headers",
            (false, false) => "message/global-headers",
        };
        let encoding = if ascii { "7bit" } else { "8bit" };
        let part = format!("--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
        out.extend_from_slice(part.as_bytes());
        out.extend_from_slice(header);
        if full {
            out.extend_from_slice(body);
        }
    }
}

/// A reply as one line of printable ASCII, code and status first, of a length that needs no folding.
fn one_line(reply: &Reply) -> String {
    let mut line = reply.code.to_string();
    if let Some(status) = &reply.enhanced {
        let _ = write!(line, " {status}");
    }
    line.push(' ');
    line.extend(reply.text.chars().map(|c| match c {
        ' '..='~' => c,
        '\n' | '\t' | '\r' => ' ',
        _ => '?',
    }));
    line.truncate(900);
    line
}

/// ASCII stays; other characters take the `\x{HEX}` form of RFC 6533 section 3; controls are dropped.
fn seven_bit(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            if !c.is_ascii_control() {
                out.push(c);
            }
        } else {
            let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
        }
    }
    out
}

/// Undoes xtext (RFC 3461 section 4).
fn unxtext(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'+').then(|| tail.get(..2)).flatten();
        let code = code.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use postrail_schema::ids::ShardId;
    use postrail_schema::ids::{CredentialId, Revision, SendingDomainId, TenantId};
    use postrail_schema::snapshot::TrafficClass;

    use super::*;

    fn job(reverse_path: Option<&str>, notify: Notify) -> Job {
        Job {
            id: MessageId::new(1_795_464_845_123, ShardId(3), 42),
            interface: Interface::Smtp,
            tenant: TenantId(1),
            credential: CredentialId(1),
            domain: SendingDomainId(1),
            class: TrafficClass::Transactional,
            revision: Revision(1),
            accepted_at: Timestamp::from_unix_ms(1_795_464_845_123),
            expires_at: Timestamp::from_unix_ms(1_795_564_845_123),
            peer: None,
            reverse_path: reverse_path.map(|path| Address::parse(path).unwrap()),
            body: BodyType::SevenBit,
            smtp_utf8: false,
            ret: None,
            envid: Some("QQ314159+2Bx".to_owned()),
            reference: String::new(),
            campaign: String::new(),
            cost_center: String::new(),
            message_id_header: "<a@example.com>".to_owned(),
            quarantined: false,
            hop: 0,
            idempotency: None,
            entries: vec![JobEntry::default()],
            recipients: vec![JobRecipient {
                address: Address::parse("bob@example.org").unwrap(),
                entry: 0,
                notify,
                orcpt: Some("rfc822;bob+2Bx@example.org".to_owned()),
            }],
            content: Content::Mime {
                header: Bytes::from_static(b"From: a@example.com\r\nSubject: hi\r\n\r\n"),
                body: Bytes::from_static(b"text\r\n"),
            },
        }
    }

    fn request(action: Action) -> ReportRequest {
        ReportRequest {
            message: MessageId::new(1_795_464_845_123, ShardId(3), 42),
            recipients: vec![ReportRecipient {
                index: RecipientIndex(0),
                action,
                status: EnhancedStatus::new(5, 1, 1),
                reply: Reply::enhanced(550, 1, 1, "no such\nuser"),
                from_receiver: true,
                host: "mx.example.org".to_owned(),
            }],
        }
    }

    fn report(job: &Job, action: Action) -> Option<Job> {
        compose(job, &request(action), "example.com", "mail.example.com", Timestamp::from_unix_ms(1_795_464_900_000))
    }

    #[test]
    fn a_failure_is_reported_to_the_reverse_path_and_never_to_the_null_one() {
        let made = report(&job(Some("app@example.com"), Notify::Unspecified), Action::Failed).unwrap();
        assert_eq!(made.reverse_path, None);
        assert_eq!(made.recipients[0].address.as_str(), "app@example.com");
        assert_eq!(made.id.shard(), ShardId(3), "a report lives where its message does");
        assert!(report(&job(None, Notify::Unspecified), Action::Failed).is_none());
        assert!(report(&made, Action::Failed).is_none(), "no report about a report");
    }

    #[test]
    fn notify_decides_what_is_reported() {
        let success = Notify::On { success: true, failure: false, delay: false };
        for (notify, action, wanted) in [
            (Notify::Never, Action::Failed, false),
            (success, Action::Failed, false),
            (success, Action::Relayed, true),
            (Notify::Unspecified, Action::Relayed, false),
        ] {
            let made = report(&job(Some("app@example.com"), notify), action);
            assert_eq!(made.is_some(), wanted, "{notify:?} {action:?}");
        }
    }

    #[test]
    fn the_fields_of_the_standard_are_there() {
        let made = report(&job(Some("app@example.com"), Notify::Unspecified), Action::Failed).unwrap();
        let Content::Mime { header, body } = &made.content else { panic!("a report is MIME") };
        let header = String::from_utf8_lossy(header);
        let body = String::from_utf8_lossy(body);
        assert!(header.contains("report-type=delivery-status"));
        for field in [
            "Reporting-MTA: dns; mail.example.com\r\n",
            "Original-Envelope-Id: QQ314159+x\r\n",
            "Original-Recipient: rfc822; bob+x@example.org\r\n",
            "Final-Recipient: rfc822; bob@example.org\r\n",
            "Action: failed\r\n",
            "Status: 5.1.1\r\n",
            "Remote-MTA: dns; mx.example.org\r\n",
            "Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n",
            "Content-Type: text/rfc822-headers\r\n",
            "Subject: hi\r\n",
        ] {
            assert!(body.contains(field), "{field:?} in {body}");
        }
        assert!(!body.contains("text\r\n\r\n--"), "the body is not returned unless asked for");
    }

    #[test]
    fn the_same_failure_makes_the_same_report() {
        let job = job(Some("app@example.com"), Notify::Unspecified);
        assert_eq!(report(&job, Action::Failed), report(&job, Action::Failed));
        assert_ne!(report_id(job.id, RecipientIndex(0)), report_id(job.id, RecipientIndex(1)));
    }

    #[test]
    fn utf8_addresses_take_the_seven_bit_form() {
        assert_eq!(seven_bit("jürgen@example.org"), "j\\x{FC}rgen@example.org");
    }
}
