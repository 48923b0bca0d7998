//! SMTP submission as policy: may this credential send from there, to there, and this message (RFC 6409)?
//!
//! What becomes of the header section of an accepted message:
//!
//! | field | |
//! |---|---|
//! | `Received` | ours goes on top (RFC 5321 4.4) |
//! | `Date`, `Message-ID` | added where missing |
//! | `Bcc`, `Resent-Bcc`, `Return-Path` | removed |
//! | `X-Postrail-Reference`, `-Campaign`, `-Cost-Center`, `-Class` and their aliases | read and removed |
//! | other `X-Postrail-*`, `X-RETARUS-M4A-*` | the message is refused: what is not built is never ignored |
//! | all others | kept as they are |
//!
//! Invariants worth naming: the body is not copied; every From address belongs to a domain of the tenant; the result is
//! the same for the same arguments.
//!
//! Deliberately absent: suppressions and quotas, which need state beyond the snapshot.

use std::fmt::Write;
use std::net::IpAddr;

use bytes::Bytes;
use postrail_schema::ids::{CredentialId, MessageId, TenantId};
use postrail_schema::limits::{JOB_RECIPIENTS_MAX, LABEL_CHARS_MAX, MESSAGE_LINE_BYTES_MAX, RECEIVED_FIELDS_MAX};
use postrail_schema::snapshot::{SendingDomain, Snapshot, Tenant, TrafficClass};

pub use super::refusal::Refusal;
use crate::base::Timestamp;
use crate::mail::header::{self, Field};
use crate::mail::{BodyType, Content, Domain, ForwardPath, Interface, Job, JobEntry, JobRecipient, mailboxes};
use crate::smtp::server::{MailCommand, Transaction};

/// Who submits: an authenticated credential.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    pub tenant: TenantId,
    pub credential: CredentialId,
    pub username: String,
}

/// What an acceptance is made of beside the transaction.
#[derive(Clone, Copy, Debug)]
pub struct Acceptance<'a> {
    pub snapshot: &'a Snapshot,
    pub principal: &'a Principal,
    /// Our name in the Received field.
    pub hostname: &'a str,
    pub id: MessageId,
    pub now: Timestamp,
    pub peer: IpAddr,
}

/// Whether MAIL is taken.
///
/// # Errors
/// The credential was revoked, the size is over the tenant's limit, or the reverse path's domain is not the tenant's or
/// may not send.
pub fn check_sender(snapshot: &Snapshot, principal: &Principal, mail: &MailCommand) -> Result<(), Refusal> {
    let tenant = tenant_of(snapshot, principal)?;
    check_size(tenant, mail.size.unwrap_or(0))?;
    if let Some(address) = &mail.reverse_path {
        let name = address.domain().as_str();
        let domain = snapshot.domain_of(tenant.id, name).ok_or_else(|| Refusal::SenderDomain(name.to_owned()))?;
        check_standing(tenant, domain)?;
    }
    Ok(())
}

/// Whether RCPT is taken: the domain can be on the Internet (it has a dot), is an address literal, or has a route.
///
/// # Errors
/// The credential was revoked, or the domain cannot be reached.
pub fn check_recipient(snapshot: &Snapshot, principal: &Principal, path: &ForwardPath) -> Result<(), Refusal> {
    tenant_of(snapshot, principal)?;
    let domain = path.address.domain();
    let reachable = domain.as_str().contains('.') || domain.literal().is_some();
    if !reachable && snapshot.route_of(domain.as_str()).is_none() {
        return Err(Refusal::RecipientDomain(domain.to_string()));
    }
    Ok(())
}

/// Makes a job of a transaction.
///
/// # Errors
/// The first reason why the message is not taken.
pub fn accept(acceptance: Acceptance<'_>, mut transaction: Transaction) -> Result<Job, Refusal> {
    let Acceptance { snapshot, principal, id, now, peer, .. } = acceptance;
    let tenant = tenant_of(snapshot, principal)?;
    check_size(tenant, transaction.content.len() as u64)?;
    if !(1..=JOB_RECIPIENTS_MAX).contains(&transaction.envelope.recipients.len()) {
        return Err(Refusal::Recipients);
    }
    let (section, body) = header::split(&transaction.content);
    check_octets(section, body, transaction.envelope.smtp_utf8)?;
    let eight_bit = !section.is_ascii() || !body.is_ascii();
    let survey = Survey::new(section)?;
    let domain = sending_domain(snapshot, tenant, &survey)?;
    let quarantined = is_quarantined(snapshot, tenant, &survey, &transaction);
    let message_id_header = survey.message_id.clone().unwrap_or_else(|| format!("<{id}@{}>", domain.name));
    let header = write_header(&acceptance, &transaction, &survey, &message_id_header);
    let body_at = section.len();
    let labels = survey.labels;

    // What was reserved and not needed would stay with the body; to give back less is not worth a move.
    if transaction.content.capacity() / 2 > transaction.content.len() {
        transaction.content.shrink_to_fit();
    }
    let body = Bytes::from(transaction.content).slice(body_at..);
    let envelope = transaction.envelope;
    let recipient =
        |path: ForwardPath| JobRecipient { address: path.address, entry: 0, notify: path.notify, orcpt: path.orcpt };
    Ok(Job {
        id,
        interface: Interface::Smtp,
        tenant: tenant.id,
        credential: principal.credential,
        domain: domain.id,
        class: labels.class,
        revision: snapshot.revision,
        accepted_at: now,
        expires_at: now + snapshot.expiry(domain, labels.class),
        peer: Some(peer),
        reverse_path: envelope.reverse_path,
        body: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
        smtp_utf8: envelope.smtp_utf8,
        ret: envelope.ret,
        envid: envelope.envid,
        reference: labels.reference,
        campaign: labels.campaign,
        cost_center: labels.cost_center,
        message_id_header,
        quarantined,
        hop: 0,
        idempotency: None,
        entries: vec![JobEntry::default()],
        recipients: envelope.recipients.into_iter().map(recipient).collect(),
        content: Content::Mime { header: Bytes::from(header), body },
    })
}

fn tenant_of<'a>(snapshot: &'a Snapshot, principal: &Principal) -> Result<&'a Tenant, Refusal> {
    let credential = snapshot.credentials.get(&principal.username);
    if !credential.is_some_and(|credential| credential.id == principal.credential && !credential.disabled) {
        return Err(Refusal::CredentialRevoked);
    }
    snapshot.tenants.get(&principal.tenant).map(|tenant| &**tenant).ok_or(Refusal::CredentialRevoked)
}

fn check_size(tenant: &Tenant, bytes: u64) -> Result<(), Refusal> {
    let bytes_max = u64::from(tenant.message_bytes_max);
    if bytes > bytes_max { Err(Refusal::TooBig { bytes_max }) } else { Ok(()) }
}

fn check_octets(section: &[u8], body: &[u8], smtp_utf8: bool) -> Result<(), Refusal> {
    if memchr::memchr(0, section).is_some() || memchr::memchr(0, body).is_some() {
        return Err(Refusal::Nul);
    }
    match (section.is_ascii(), smtp_utf8) {
        (true, _) => Ok(()),
        (false, false) => Err(Refusal::HeaderUtf8),
        (false, true) => std::str::from_utf8(section).map(|_| ()).map_err(|_| Refusal::HeaderEncoding),
    }
}

fn check_standing(tenant: &Tenant, domain: &SendingDomain) -> Result<(), Refusal> {
    domain.refusal_of(tenant).map_or(Ok(()), |refusal| Err(Refusal::DomainStanding(refusal)))
}

/// Whether a domain that the mail names fails in DNS, and the tenant wants such mail kept for a person.
fn is_quarantined(snapshot: &Snapshot, tenant: &Tenant, survey: &Survey, transaction: &Transaction) -> bool {
    if !tenant.quarantines {
        return false;
    }
    let fails = |name: &str| snapshot.domain_of(tenant.id, name).is_some_and(SendingDomain::is_failing);
    let from = survey.from.as_deref().and_then(|from| mailboxes::addresses(from).ok()).unwrap_or_default();
    let reverse_path = transaction.envelope.reverse_path.as_ref();
    from.iter().chain(reverse_path).any(|address| fails(address.domain().as_str()))
}

/// The domain that signs and carries: that of the first From address. All of them must be the tenant's and may send.
fn sending_domain<'a>(snapshot: &'a Snapshot, tenant: &Tenant, survey: &Survey) -> Result<&'a SendingDomain, Refusal> {
    let from = survey.from.as_deref().ok_or(Refusal::FromMissing)?;
    let mut first = None;
    for address in mailboxes::addresses(from).map_err(Refusal::From)? {
        let name = address.domain().as_str();
        let domain = snapshot.domain_of(tenant.id, name).ok_or_else(|| Refusal::FromDomain(name.to_owned()))?;
        check_standing(tenant, domain)?;
        first = first.or(Some(domain));
    }
    first.ok_or(Refusal::FromMissing)
}

/// What one walk over a header section finds.
#[derive(Debug, Default)]
struct Survey {
    from: Option<String>,
    has_date: bool,
    /// The Message-ID field's value, where there is one that is not empty.
    message_id: Option<String>,
    labels: Labels,
    /// Ranges of the section that are kept.
    kept: Vec<std::ops::Range<usize>>,
    received: usize,
    /// Indexes into [`SINGLE_FIELDS`] that have occurred.
    seen: [bool; SINGLE_FIELDS.len()],
}

#[derive(Debug, Default)]
struct Labels {
    reference: String,
    campaign: String,
    cost_center: String,
    class: TrafficClass,
}

impl Survey {
    fn new(section: &[u8]) -> Result<Self, Refusal> {
        let mut survey = Self::default();
        for field in header::fields(section) {
            let field = field.map_err(Refusal::Header)?;
            if survey.field(&field)? {
                match survey.kept.last_mut() {
                    Some(last) if last.end == field.range.start => last.end = field.range.end,
                    _ => survey.kept.push(field.range),
                }
            }
        }
        Ok(survey)
    }

    /// Notes a field; whether it is kept.
    fn field(&mut self, field: &Field<'_>) -> Result<bool, Refusal> {
        if let Some(at) = SINGLE_FIELDS.iter().position(|name| field.is(name))
            && std::mem::replace(&mut self.seen[at], true)
        {
            return Err(Refusal::FieldRepeated(SINGLE_FIELDS[at]));
        }
        if DROPPED_FIELDS.iter().any(|name| field.is(name)) {
            return Ok(false);
        }
        if OUR_PREFIXES.iter().any(|prefix| has_prefix(field.name, prefix)) {
            return self.labels.read(field).map(|()| false);
        }
        if field.is("Received") {
            self.received += 1;
            if self.received > RECEIVED_FIELDS_MAX {
                return Err(Refusal::Loop);
            }
        } else if field.is("From") {
            self.from = Some(field.text().into_owned());
        } else if field.is("Date") {
            self.has_date = true;
        } else if field.is("Message-ID") {
            let mut text = field.text().into_owned();
            text.truncate(text.floor_char_boundary(MESSAGE_LINE_BYTES_MAX));
            self.message_id = Some(text).filter(|text| !text.is_empty());
            return Ok(self.message_id.is_some());
        }
        Ok(true)
    }
}

impl Labels {
    /// Takes the value of a field of ours, or of its alias.
    fn read(&mut self, field: &Field<'_>) -> Result<(), Refusal> {
        let text = field.text();
        let label = match OUR_FIELDS.iter().find(|(name, _)| field.is(name)) {
            None => return Err(Refusal::FieldUnavailable(field.name.to_owned())),
            Some((_, Label::Class)) => {
                self.class = TrafficClass::from_name(&text).ok_or_else(|| Refusal::Class(field.name.to_owned()))?;
                return Ok(());
            }
            Some((_, Label::Reference)) => &mut self.reference,
            Some((_, Label::Campaign)) => &mut self.campaign,
            Some((_, Label::CostCenter)) => &mut self.cost_center,
        };
        let is_label = text.chars().count() <= LABEL_CHARS_MAX && !text.contains(char::is_control);
        // The name and its alias may both be given, but not differ.
        if !is_label || (!label.is_empty() && *label != *text) {
            return Err(Refusal::Label(field.name.to_owned()));
        }
        *label = text.into_owned();
        Ok(())
    }
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn write_header(
    acceptance: &Acceptance<'_>,
    transaction: &Transaction,
    survey: &Survey,
    message_id_header: &str,
) -> Vec<u8> {
    let section = &transaction.content;
    let mut header = received(acceptance, transaction).into_bytes();
    header.reserve(survey.kept.iter().map(|range| range.len() + 2).sum::<usize>() + ADDED_FIELDS_BYTES);
    for range in &survey.kept {
        header.extend_from_slice(&section[range.clone()]);
    }
    if !header.ends_with(b"\r\n") {
        header.extend_from_slice(b"\r\n");
    }
    if !survey.has_date {
        header.extend_from_slice(format!("Date: {}\r\n", acceptance.now.rfc5322()).as_bytes());
    }
    if survey.message_id.is_none() {
        header.extend_from_slice(format!("Message-ID: {message_id_header}\r\n").as_bytes());
    }
    header.extend_from_slice(b"\r\n");
    header
}

/// The trace field of RFC 5321 4.4, with the protocol names of RFC 3848 and RFC 6531.
fn received(acceptance: &Acceptance<'_>, transaction: &Transaction) -> String {
    let name = match Domain::parse(&transaction.helo) {
        Ok(domain) => domain.to_string(),
        Err(_) => "unknown".to_owned(),
    };
    let address = match acceptance.peer {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("IPv6:{v6}"),
    };
    let protocol = protocol(transaction);
    let mut field = format!(
        "Received: from {name} ([{address}])\r\n\tby {} (Postrail) with {protocol} id {}",
        acceptance.hostname, acceptance.id
    );
    if let Some(tls) = &transaction.tls {
        let _ = write!(field, "\r\n\t({} {})", tls.version, tls.cipher);
    }
    let _ = write!(field, ";\r\n\t{}\r\n", acceptance.now.rfc5322());
    field
}

const fn protocol(transaction: &Transaction) -> &'static str {
    match (transaction.esmtp, transaction.envelope.smtp_utf8, transaction.tls.is_some(), transaction.username.is_some())
    {
        (false, ..) => "SMTP",
        (true, false, false, false) => "ESMTP",
        (true, false, false, true) => "ESMTPA",
        (true, false, true, false) => "ESMTPS",
        (true, false, true, true) => "ESMTPSA",
        (true, true, false, false) => "UTF8SMTP",
        (true, true, false, true) => "UTF8SMTPA",
        (true, true, true, false) => "UTF8SMTPS",
        (true, true, true, true) => "UTF8SMTPSA",
    }
}

#[derive(Clone, Copy, Debug)]
enum Label {
    Campaign,
    Class,
    CostCenter,
    Reference,
}

/// Our fields and the reference service's names for them.
const OUR_FIELDS: [(&str, Label); 7] = [
    ("X-Postrail-Reference", Label::Reference),
    ("X-Postrail-Campaign", Label::Campaign),
    ("X-Postrail-Cost-Center", Label::CostCenter),
    ("X-Postrail-Class", Label::Class),
    ("X-RETARUS-M4A-REFERENCE", Label::Reference),
    ("X-RETARUS-M4A-CAMPAIGN-ID", Label::Campaign),
    ("X-RETARUS-M4A-COST-CENTER", Label::CostCenter),
];
/// Whatever begins so is ours.
const OUR_PREFIXES: [&str; 2] = ["X-Postrail-", "X-RETARUS-M4A-"];
/// Removed from what is submitted: blind copies stay blind, and the return path is written at delivery.
const DROPPED_FIELDS: [&str; 3] = ["Bcc", "Resent-Bcc", "Return-Path"];
/// Fields that RFC 5322 3.6 allows once: receivers refuse more of them, or sign and show different ones.
const SINGLE_FIELDS: [&str; 10] =
    ["From", "Date", "Sender", "Reply-To", "To", "Cc", "Message-ID", "In-Reply-To", "References", "Subject"];
/// Room for Date and Message-ID, octets.
const ADDED_FIELDS_BYTES: usize = 256;

#[cfg(test)]
mod tests;
