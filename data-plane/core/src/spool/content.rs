//! The content of a job as records: what the copies are made from. Inside the head frame, or cut into chunk frames.
//!
//! | tag | record | value |
//! |---|---|---|
//! | 1 | header section of a MIME content | octets |
//! | 2 | body of a MIME content | octets |
//! | 3 | subject | text |
//! | 4 | body of a REST content | u8 is HTML, text |
//! | 5 | plain-text alternative | text |
//! | 6 | mail fields of the job | JSON |
//! | 7 | attachment, one record each, in order | short texts name, type, u8 has id, short text id; octets |
//! | 8 | mail fields of an entry | u16 entry, JSON |
//!
//! All are required. MIME has 1 and 2, REST has 3, 4 and 6.

use bytes::Bytes;
use postrail_schema::limits::ATTACHMENTS_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::DecodeError;
use super::record::{Need, Record, RecordWriter, Records, put_short_text};
use crate::mail::job::{Attachment, MailFields};
use crate::mail::{Content, JobEntry, RestContent};

const MIME_HEADER: u8 = 1;
const MIME_BODY: u8 = 2;
const SUBJECT: u8 = 3;
const REST_BODY: u8 = 4;
const ALTERNATIVE: u8 = 5;
const FIELDS: u8 = 6;
const ATTACHMENT: u8 = 7;
const ENTRY_FIELDS: u8 = 8;

/// Appends the records of `content` and of the entries' own fields.
pub(super) fn encode(content: &Content, entries: &[JobEntry], bytes: &mut Vec<u8>) {
    let mut to = RecordWriter::continue_in(std::mem::take(bytes));
    match content {
        Content::Mime { header, body } => {
            to.put(MIME_HEADER, Need::Required, header);
            to.put(MIME_BODY, Need::Required, body);
        }
        Content::Rest(rest) => encode_rest(rest, &mut to),
    }
    for (index, entry) in (0_u16..).zip(entries) {
        if let Some(fields) = &entry.fields {
            to.put_with(ENTRY_FIELDS, Need::Required, |bytes| {
                bytes.extend_from_slice(&index.to_le_bytes());
                bytes.extend_from_slice(&json(fields));
            });
        }
    }
    *bytes = to.into_bytes();
}

fn encode_rest(rest: &RestContent, to: &mut RecordWriter) {
    to.put(SUBJECT, Need::Required, rest.subject.as_bytes());
    to.put_with(REST_BODY, Need::Required, |bytes| {
        bytes.push(rest.body_is_html.into());
        bytes.extend_from_slice(rest.body.as_bytes());
    });
    if let Some(alternative) = &rest.alternative {
        to.put(ALTERNATIVE, Need::Required, alternative.as_bytes());
    }
    to.put(FIELDS, Need::Required, &json(&rest.fields));
    for attachment in &rest.attachments {
        to.put_with(ATTACHMENT, Need::Required, |bytes| {
            put_short_text(bytes, &attachment.name);
            put_short_text(bytes, &attachment.content_type);
            bytes.push(attachment.content_id.is_some().into());
            put_short_text(bytes, attachment.content_id.as_deref().unwrap_or_default());
            bytes.extend_from_slice(&attachment.content);
        });
    }
}

/// Reads the content and gives the entries their fields. `bytes` is kept by the parts that are slices of it.
pub(super) fn decode(bytes: &Bytes, entries: &mut [JobEntry]) -> Result<Content, DecodeError> {
    let (mut header, mut body) = (None, None);
    let mut rest: Option<Box<RestContent>> = None;
    for record in Records::new(bytes) {
        let record = record?;
        match record.tag {
            MIME_HEADER => header = Some(bytes.slice_ref(record.value)),
            MIME_BODY => body = Some(bytes.slice_ref(record.value)),
            SUBJECT => rest.get_or_insert_default().subject = record.text()?,
            REST_BODY => {
                let (html, text) = record.value.split_first().ok_or(DecodeError::Truncated)?;
                let rest = rest.get_or_insert_default();
                rest.body_is_html = *html != 0;
                rest.body = super::record::text(text)?;
            }
            ALTERNATIVE => rest.get_or_insert_default().alternative = Some(record.text()?),
            FIELDS => rest.get_or_insert_default().fields = from_json(record.value)?,
            ATTACHMENT => {
                let attachments = &mut rest.get_or_insert_default().attachments;
                if attachments.len() == ATTACHMENTS_MAX {
                    return Err(DecodeError::Value { record: "attachment" });
                }
                attachments.push(decode_attachment(bytes, &record)?);
            }
            ENTRY_FIELDS => {
                let mut fields = record.fields();
                let entry = entries.get_mut(usize::from(fields.u16()?));
                let entry = entry.ok_or(DecodeError::Value { record: "entry fields" })?;
                entry.fields = Some(from_json::<MailFields>(&record.value[2..])?);
            }
            _ => record.skip()?,
        }
    }
    match (header, body, rest) {
        (Some(header), Some(body), None) => Ok(Content::Mime { header, body }),
        (None, None, Some(rest)) => Ok(Content::Rest(rest)),
        _ => Err(DecodeError::Missing { record: "content" }),
    }
}

fn decode_attachment(bytes: &Bytes, record: &Record<'_>) -> Result<Attachment, DecodeError> {
    let mut fields = record.fields();
    let name = fields.short_text()?.to_owned();
    let content_type = fields.short_text()?.to_owned();
    let has_id = fields.u8()? != 0;
    let id = fields.short_text()?;
    let content = bytes.slice_ref(fields.rest());
    Ok(Attachment { name, content_type, content_id: has_id.then(|| id.to_owned()), content })
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("mail fields are texts: they always serialize")
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|_| DecodeError::Value { record: "mail fields" })
}
