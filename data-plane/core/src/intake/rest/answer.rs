//! What a submission is answered: the job's id and state, and one result for each address in the order given.

use bytes::Bytes;
use postrail_schema::ids::{MessageId, RecipientIndex, RecipientKey};
use serde::Serialize;

use super::recipients::{AddressResult, EntryResult, Refusal};
use crate::base::Timestamp;
use crate::http::{Problem, Response};
use crate::mail::{Content, Job};

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
    meta: Meta,
    content: ContentPart<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    job_id: String,
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
    recipients: Vec<EntryPart<'a>>,
}

#[derive(Serialize)]
struct EntryPart<'a> {
    mail: MailPart<'a>,
}

#[derive(Serialize)]
struct MailPart<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    to: Vec<AddressPart<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cc: Vec<AddressPart<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bcc: Vec<AddressPart<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AddressPart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_result: Option<ValidationPart<'a>>,
}

#[derive(Serialize)]
struct ValidationPart<'a> {
    classifier: &'static str,
    message: &'a str,
}

impl Answer {
    pub(super) fn accepted(job: MessageId, at: Timestamp, results: &[EntryResult]) -> Self {
        let is_refused = |result: &AddressResult| result.outcome.is_err();
        let part = results.iter().any(|entry| entry.all().any(is_refused));
        let document = document(job, at, "ACCEPTED", Some(if part { "PART" } else { "FULL" }), results);
        Self { status: 202, content_type: "application/json", body: encode(&document), job, replayed: false }
    }

    /// The problem document of a job without a valid address, with the results as further members.
    pub(super) fn rejected(job: MessageId, at: Timestamp, results: &[EntryResult]) -> Self {
        let problem = Problem::new(422, "no_valid_recipient", "no address of the job is valid: nothing was accepted");
        let mut members = problem.to_json();
        let document = document(job, at, "REJECTED", Some("NO_VALID_RECIPIENT"), results);
        if let (Some(members), Ok(serde_json::Value::Object(more))) =
            (members.as_object_mut(), serde_json::to_value(&document))
        {
            members.extend(more);
        }
        Self { status: 422, content_type: Problem::CONTENT_TYPE, body: encode(&members), job, replayed: false }
    }

    /// The answer to a repeated request, from the job that the first one made. It lists what was accepted: what was
    /// refused is in the first answer only, so the state has no sub-type.
    pub fn replay(job: &Job) -> Self {
        let results = match &job.content {
            Content::Rest(_) => accepted_results(job),
            Content::Mime { .. } => Vec::new(),
        };
        let document = document(job.id, job.accepted_at, "ACCEPTED", None, &results);
        Self { status: 202, content_type: "application/json", body: encode(&document), job: job.id, replayed: true }
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
        list.push(AddressResult { email: recipient.address.as_str().to_owned(), outcome: Ok(RecipientIndex(index)) });
    }
    results
}

fn document<'a>(
    job: MessageId,
    at: Timestamp,
    kind: &'static str,
    sub_type: Option<&'static str>,
    results: &'a [EntryResult],
) -> Document<'a> {
    let list = |results: &'a [AddressResult]| results.iter().map(|result| address_part(job, result)).collect();
    let entry = |result: &'a EntryResult| EntryPart {
        mail: MailPart { to: list(&result.to), cc: list(&result.cc), bcc: list(&result.bcc) },
    };
    Document {
        meta: Meta {
            job_id: job.to_string(),
            received_ts: at.rfc3339(),
            state: StatePart { kind, sub_type, phase: "PRE_PROCESS" },
        },
        content: ContentPart { recipients: results.iter().map(entry).collect() },
    }
}

fn address_part(job: MessageId, result: &AddressResult) -> AddressPart<'_> {
    let (id, refusal) = match &result.outcome {
        Ok(index) => (Some(RecipientKey { message: job, index: *index }.to_string()), None),
        Err(refusal) => (None, Some(refusal)),
    };
    let validation_result =
        refusal.map(|Refusal { classifier, message }| ValidationPart { classifier: classifier.name(), message });
    AddressPart { id, email: &result.email, validation_result }
}

fn encode(document: &impl Serialize) -> Bytes {
    serde_json::to_vec(document).expect("strings are JSON").into()
}
