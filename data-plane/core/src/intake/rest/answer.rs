//! What a submission is answered: the job's id and state, and one result for each address in the order given.

use bytes::Bytes;
use postrail_schema::ids::{MessageId, RecipientIndex};
use serde::{Serialize, Serializer};

use super::recipients::{AddressResult, EntryResult, Refusal};
use crate::base::Timestamp;
use crate::http::{Problem, Response};
use crate::mail::{Content, Job, JobRecipient};

/// An answer that waits for the job to be durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// 202, or 422 where no address is valid.
    pub status: u16,
    pub content_type: &'static str,
    pub body: Bytes,
    job: MessageId,
    replayed: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    meta: Meta<'a>,
    content: ContentPart<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    job_id: &'a str,
    received_ts: String,
    state: StatePart,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatePart {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_type: Option<&'static str>,
    phase: &'static str,
}

#[derive(Serialize)]
struct ContentPart<'a> {
    #[serde(serialize_with = "put_entries")]
    recipients: Given<'a>,
}

/// The results, and what they are about. They are written as they are: a job may have a thousand.
#[derive(Clone, Copy)]
struct Given<'a> {
    /// The job's id as text.
    job: &'a str,
    results: &'a [EntryResult],
    recipients: &'a [JobRecipient],
}

#[derive(Serialize)]
struct EntryPart<'a> {
    mail: MailPart<'a>,
}

#[derive(Serialize)]
struct MailPart<'a> {
    #[serde(skip_serializing_if = "List::is_empty")]
    to: List<'a>,
    #[serde(skip_serializing_if = "List::is_empty")]
    cc: List<'a>,
    #[serde(skip_serializing_if = "List::is_empty")]
    bcc: List<'a>,
}

struct List<'a> {
    of: Given<'a>,
    results: &'a [AddressResult],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AddressPart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_result: Option<ValidationPart<'a>>,
}

/// A recipient's key, as [`RecipientKey`](postrail_schema::ids::RecipientKey) is written.
struct Id<'a> {
    job: &'a str,
    index: RecipientIndex,
}

impl Serialize for Id<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}.{}", self.job, self.index.0))
    }
}

impl List<'_> {
    fn is_empty(&self) -> bool {
        self.results.is_empty()
    }
}

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.results.iter().map(|result| address_part(&self.of, result)))
    }
}

fn put_entries<S: Serializer>(of: &Given<'_>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(of.results.iter().map(|result| {
        let list = |results| List { of: *of, results };
        EntryPart { mail: MailPart { to: list(&result.to), cc: list(&result.cc), bcc: list(&result.bcc) } }
    }))
}

#[derive(Serialize)]
struct ValidationPart<'a> {
    classifier: &'static str,
    message: &'a str,
}

impl Answer {
    pub(super) fn accepted(
        job: MessageId,
        at: Timestamp,
        results: &[EntryResult],
        recipients: &[JobRecipient],
    ) -> Self {
        let part = results.iter().any(|entry| entry.all().any(AddressResult::is_err));
        let kind = ("ACCEPTED", Some(if part { "PART" } else { "FULL" }));
        let body = encode(job, at, kind, results, recipients);
        Self { status: 202, content_type: "application/json", body, job, replayed: false }
    }

    /// The problem document of a job without a valid address, with the results as further members.
    pub(super) fn rejected(job: MessageId, at: Timestamp, results: &[EntryResult]) -> Self {
        let problem = Problem::new(422, "no_valid_recipient", "no address of the job is valid: nothing was accepted");
        let mut members = problem.to_json();
        let id = job.to_string();
        let given = Given { job: &id, results, recipients: &[] };
        let document = document(given, at, ("REJECTED", Some("NO_VALID_RECIPIENT")));
        if let (Some(members), Ok(serde_json::Value::Object(more))) =
            (members.as_object_mut(), serde_json::to_value(&document))
        {
            members.extend(more);
        }
        let body = members.to_string().into();
        Self { status: 422, content_type: Problem::CONTENT_TYPE, body, job, replayed: false }
    }

    /// The answer to a repeated request, from the job that the first one made. It lists what was accepted: what was
    /// refused is in the first answer only, so the state has no sub-type.
    pub fn replay(job: &Job) -> Self {
        let results = match &job.content {
            Content::Rest(_) => accepted_results(job),
            Content::Mime { .. } => Vec::new(),
        };
        let body = encode(job.id, job.accepted_at, ("ACCEPTED", None), &results, &job.recipients);
        Self { status: 202, content_type: "application/json", body, job: job.id, replayed: true }
    }

    /// The response. A 202 has the job's place on the control API.
    pub fn to_response(&self) -> Response {
        let mut response = Response::new(self.status, self.content_type, self.body.clone());
        if self.status == 202 {
            response = response.with_header("Location", format!("/v2/jobs/{}", self.job));
        }
        if self.replayed {
            response = response.with_header("X-Idempotent-Replayed", "true");
        }
        response
    }
}

/// The results of a stored job: an address is in `to` or `cc` where its entry's fields have it, else it was in `bcc`.
fn accepted_results(job: &Job) -> Vec<EntryResult> {
    let mut results: Vec<EntryResult> = job.entries.iter().map(|_| EntryResult::default()).collect();
    for (index, recipient) in job.recipients.iter().enumerate() {
        let entry = usize::from(recipient.entry);
        let (Some(result), Some(fields)) = (results.get_mut(entry), job.entries.get(entry).map(|entry| &entry.fields))
        else {
            continue;
        };
        let written = super::mail::header_form(&recipient.address);
        let among = |list: &[crate::mail::job::Mailbox]| list.iter().any(|mailbox| mailbox.address == written);
        let list = match fields {
            Some(fields) if among(&fields.to) => &mut result.to,
            Some(fields) if among(&fields.cc) => &mut result.cc,
            _ => &mut result.bcc,
        };
        let index = u16::try_from(index).expect("a job has at most 1,000 recipients");
        list.push(Ok(RecipientIndex(index)));
    }
    results
}

fn document<'a>(given: Given<'a>, at: Timestamp, (kind, sub_type): Kind) -> Document<'a> {
    Document {
        meta: Meta {
            job_id: given.job,
            received_ts: at.rfc3339(),
            state: StatePart { kind, sub_type, phase: "PRE_PROCESS" },
        },
        content: ContentPart { recipients: given },
    }
}

/// The type of a state, and its sub-type.
type Kind = (&'static str, Option<&'static str>);

fn address_part<'a>(of: &Given<'a>, result: &'a AddressResult) -> AddressPart<'a> {
    match result {
        Ok(index) => {
            let recipient = &of.recipients[usize::from(index.0)];
            let id = Some(Id { job: of.job, index: *index });
            AddressPart { id, email: recipient.address.as_str(), validation_result: None }
        }
        Err(refusal) => {
            let Refusal { email, classifier, message } = &**refusal;
            let validation_result = Some(ValidationPart { classifier: classifier.name(), message });
            AddressPart { id: None, email, validation_result }
        }
    }
}

/// Octets of an answer for a recipient, as room that is made for it.
const RECIPIENT_BYTES: usize = 128;

fn encode(job: MessageId, at: Timestamp, kind: Kind, results: &[EntryResult], recipients: &[JobRecipient]) -> Bytes {
    let id = job.to_string();
    let mut body = Vec::with_capacity(256 + results.len() * RECIPIENT_BYTES);
    let document = document(Given { job: &id, results, recipients }, at, kind);
    serde_json::to_writer(&mut body, &document).expect("strings are JSON");
    body.into()
}
