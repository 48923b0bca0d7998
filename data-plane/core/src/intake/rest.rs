//! REST submission: a JobRequest (JSON) becomes a [`Job`] and the answer that tells what became of each address.
//!
//! ```text
//! body -> json (bounded tree) -> reader (places, findings) -> content, mail, recipients -> Job + Answer
//! ```
//!
//! Invariants worth naming: nothing that was asked for is ignored: a key that is not known is refused with 400, one
//! that asks for what is not built with 422; a defect of the request as a whole accepts nothing, a defect of one address
//! refuses that address only; every finding has its RFC 6901 pointer.
//!
//! Deliberately absent: authentication, quotas, the idempotency table (its owner asks it before), durability (the answer
//! is sent after the spool has synced).

mod answer;
mod content;
mod json;
mod mail;
mod reader;
mod recipients;

use std::net::IpAddr;

use postrail_schema::ids::{MessageId, TenantId};
use postrail_schema::limits::{HEADER_BYTES_MAX, LABEL_CHARS_MAX, MESSAGE_BYTES_MAX};
use postrail_schema::snapshot::{SendingDomain, Snapshot, TrafficClass};

pub use self::answer::Answer;
use self::mail::Sender;
use self::reader::{Findings, Members, Place};
use self::recipients::Entries;
use super::{Principal, idempotency};
use crate::base::Timestamp;
use crate::http::Problem;
use crate::mail::job::{Idempotency, Interface};
use crate::mail::{BodyType, Content, Job, RestContent};

/// What a submission is accepted under.
#[derive(Clone, Copy, Debug)]
pub struct Acceptance<'a> {
    pub snapshot: &'a Snapshot,
    pub principal: &'a Principal,
    /// The id that the job gets.
    pub id: MessageId,
    pub now: Timestamp,
    pub peer: IpAddr,
    /// The value of the Idempotency-Key field.
    pub idempotency_key: Option<&'a str>,
}

/// What is to be stored, and answered when it is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// `None`: no address is valid, and the answer is a 422.
    pub job: Option<Job>,
    pub answer: Answer,
}

/// The idempotency hashes of a request, to ask the table before [`accept`].
///
/// # Errors
/// 400, if the key is not of its form.
pub fn idempotency(tenant: TenantId, key: &str, body: &[u8]) -> Result<Idempotency, Problem> {
    if idempotency::is_valid_key(key) {
        return Ok(idempotency::hashes(tenant, key, body));
    }
    let detail = "an Idempotency-Key has 1 to 255 letters, digits, dots, underscores and hyphens";
    Err(Problem::new(400, "idempotency_key_invalid", detail))
}

/// # Errors
/// 400: the query has something; a job is its body alone.
pub fn check_query(query: &str) -> Result<(), Problem> {
    let Some(first) = query.split('&').find(|pair| !pair.is_empty()) else { return Ok(()) };
    let name = first.split_once('=').map_or(first, |(name, _)| name);
    let detail = format!("there is no query parameter {name}: a job is said by the body alone");
    Err(Problem::new(400, "unknown_parameter", detail))
}

/// Reads a JobRequest and decides.
///
/// # Errors
/// 400: not JSON, or not of the documented shape. 403: the tenant is not known. 413: the rendered message would be over
/// the tenant's bound. 422: impossible content, or what is not built.
pub fn accept(a: Acceptance<'_>, body: &[u8]) -> Result<Accepted, Problem> {
    let tenant = a.snapshot.tenants.get(&a.principal.tenant).ok_or_else(|| {
        Problem::new(403, "tenant_unknown", "the credential belongs to no tenant of the current revision")
    })?;
    let idempotency = a.idempotency_key.map(|key| idempotency(a.principal.tenant, key, body)).transpose()?;
    let mut findings = Findings::default();
    let tree = json::parse(body)?;
    let request = read(&a, tree.root(), &mut findings);
    let Some(request) = request.filter(|_| findings.is_empty()) else {
        return Err(findings.into_problem());
    };
    check_size(&request, MESSAGE_BYTES_MAX.min(tenant.message_bytes_max as usize))?;
    if request.entries.recipients.is_empty() {
        return Ok(Accepted { job: None, answer: Answer::rejected(a.id, a.now, &request.entries.results) });
    }
    let answer = Answer::accepted(a.id, a.now, &request.entries.results, &request.entries.recipients);
    Ok(Accepted { job: Some(request.into_job(&a, idempotency)), answer })
}

/// A request that was understood.
struct Request<'s> {
    sender: Sender<'s>,
    content: RestContent,
    labels: Labels,
    entries: Entries,
}

/// The `job` object.
#[derive(Default)]
struct Labels {
    reference: String,
    campaign: String,
    cost_center: String,
    class: TrafficClass,
}

const REQUEST_KEYS: [&str; 11] = [
    "subject",
    "body",
    "alternative",
    "attachments",
    "recipients",
    "mail",
    "job",
    "notification",
    "secureDocument",
    "sendAt",
    "template",
];

fn read<'s>(a: &Acceptance<'s>, json: json::Json<'_>, findings: &mut Findings) -> Option<Request<'s>> {
    let root = Place::Root;
    let mut members = Members::read(json, &root, &REQUEST_KEYS, findings)?;
    if let Some(document) = members.take("secureDocument") {
        refuse_unless_inactive(document, &root.key("secureDocument"), findings);
    }
    members.refuse(&["notification", "sendAt", "template"], &root, findings);
    for name in ["subject", "body", "mail", "recipients"] {
        if !members.has(name) {
            findings.add(&root.key(name), "missing", format!("{name} is needed"));
        }
    }
    let labels = members.take("job").map_or_else(Labels::default, |json| read_labels(json, &root.key("job"), findings));
    let sender = members.take("mail").and_then(|json| mail::read_sender(a, json, &root.key("mail"), findings));
    let entries =
        members.take("recipients").and_then(|json| recipients::read(a, json, &root.key("recipients"), findings));
    let mut content = content::read(&mut members, &root, findings)?;
    let mut sender = sender?;
    content.fields = std::mem::take(&mut sender.fields);
    Some(Request { sender, content, labels, entries: entries? })
}

fn read_labels(json: json::Json<'_>, place: &Place<'_>, findings: &mut Findings) -> Labels {
    const KEYS: [&str; 7] = ["referenceJob", "costCenter", "campaignId", "features", "options", "class", "sendAt"];
    let Some(mut members) = Members::read(json, place, &KEYS, findings) else {
        return Labels::default();
    };
    members.refuse(&["sendAt"], place, findings);
    if let Some(features) = members.take("features") {
        refuse_features(features, &place.key("features"), findings);
    }
    if let Some(options) = members.take("options") {
        Members::read(options, &place.key("options"), &[], findings);
    }
    let class = members.text("class", place, findings).map_or(TrafficClass::default(), |name| {
        TrafficClass::from_name(name).unwrap_or_else(|| {
            let names = TrafficClass::ALL.map(TrafficClass::name).join(", ");
            findings.add(&place.key("class"), "unknown_class", format!("a class is one of {names}"));
            TrafficClass::default()
        })
    });
    Labels {
        reference: label(&mut members, "referenceJob", place, findings),
        campaign: label(&mut members, "campaignId", place, findings),
        cost_center: label(&mut members, "costCenter", place, findings),
        class,
    }
}

/// A short text that names something of the caller; empty without it.
fn label(members: &mut Members<'_>, name: &'static str, place: &Place<'_>, findings: &mut Findings) -> String {
    let Some(text) = members.text(name, place, findings) else {
        return String::new();
    };
    if text.chars().count() > LABEL_CHARS_MAX {
        let detail = format!("at most {LABEL_CHARS_MAX} characters are allowed");
        findings.add(&place.key(name), "too_long", detail);
    } else if text.chars().any(char::is_control) {
        findings.add(&place.key(name), "control_character", "control characters are not allowed");
    }
    text.to_owned()
}

/// The `features` object of a job or an entry: what is not built may be named only to be off.
fn refuse_features(json: json::Json<'_>, place: &Place<'_>, findings: &mut Findings) {
    const KEYS: [&str; 3] = ["openTracking", "linkTracking", "templating"];
    let Some(mut members) = Members::read(json, place, &KEYS, findings) else {
        return;
    };
    members.refuse(&["templating"], place, findings);
    for name in ["openTracking", "linkTracking"] {
        if let Some(feature) = members.take(name) {
            refuse_unless_inactive(feature, &place.key(name), findings);
        }
    }
}

/// An object with an `active` that must be false; what else it holds does not matter then.
fn refuse_unless_inactive(json: json::Json<'_>, place: &Place<'_>, findings: &mut Findings) {
    let active = json.members().and_then(|mut members| members.find(|(name, _)| *name == "active"));
    if !active.is_some_and(|(_, value)| is_false(value)) {
        findings.add(
            &place.key("active"),
            "not_supported",
            "this is not supported yet and must be off: \"active\": false",
        );
    }
}

/// The JSON value, or the text that the reference service takes for it.
fn is_false(json: json::Json<'_>) -> bool {
    json.boolean() == Some(false) || json.text() == Some("false")
}

/// Bounds the message as it will be rendered, from above.
fn check_size(request: &Request<'_>, message_bytes_max: usize) -> Result<(), Problem> {
    let header_bytes = request.entries.header_bytes_max
        + mail::header_bytes(&request.content.fields)
        + 3 * request.content.subject.len()
        + 1_024;
    if header_bytes > HEADER_BYTES_MAX {
        let detail = format!("a message of this job could have more than {HEADER_BYTES_MAX} octets of header fields");
        return Err(Problem::new(413, "header_too_large", detail));
    }
    let bytes = header_bytes + content::rendered_bytes(&request.content);
    if bytes > message_bytes_max {
        let detail =
            format!("a message of this job has about {bytes} octets, and at most {message_bytes_max} are allowed");
        return Err(Problem::new(413, "message_too_large", detail));
    }
    Ok(())
}

impl Request<'_> {
    fn into_job(self, a: &Acceptance<'_>, idempotency: Option<Idempotency>) -> Job {
        let Self { sender, content, labels, entries } = self;
        let domain: &SendingDomain = sender.domain;
        let smtp_utf8 = sender.needs_smtp_utf8 || entries.recipients.iter().any(|r| r.address.needs_smtp_utf8());
        Job {
            id: a.id,
            interface: Interface::Rest,
            tenant: a.principal.tenant,
            credential: a.principal.credential,
            domain: domain.id,
            class: labels.class,
            revision: a.snapshot.revision,
            accepted_at: a.now,
            expires_at: a.now + a.snapshot.expiry(domain, labels.class),
            peer: Some(a.peer),
            reverse_path: Some(sender.reverse_path),
            body: BodyType::SevenBit,
            smtp_utf8,
            ret: None,
            envid: None,
            reference: labels.reference,
            campaign: labels.campaign,
            cost_center: labels.cost_center,
            message_id_header: format!("<{}@{}>", a.id, domain.name),
            quarantined: sender.quarantined,
            hop: 0,
            idempotency,
            entries: entries.entries,
            recipients: entries.recipients,
            content: Content::Rest(Box::new(content)),
        }
    }
}

#[cfg(test)]
mod tests;
