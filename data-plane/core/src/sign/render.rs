//! The bytes of one copy before signing.
//!
//! SMTP content is given as it came. A REST job is rendered by mail-builder, with everything that would otherwise be
//! drawn (boundaries, Message-ID, Date) derived from the job, so a retry sends the same bytes again:
//!
//! ```text
//! multipart/mixed          where there are attachments
//!   multipart/related      where there are inline parts (with a content id, and an HTML body)
//!     multipart/alternative  where there is a plain-text alternative
//! ```
//!
//! Invariants worth naming: all entries of a job share one body ([`body`]); the output is 7-bit but for addresses that
//! need SMTPUTF8; no line is over 998 octets; Bcc is never written.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use mail_builder::headers::Header;
use mail_builder::headers::address::Address as HeaderAddress;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::message_id::MessageId as HeaderMessageId;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::mime::{BodyPart, MimePart};
use postrail_schema::limits::MESSAGE_LINE_BYTES_MAX;

use super::encode;
use crate::mail::job::{Attachment, MailFields, Mailbox, Priority};
use crate::mail::{Content, FinalMessage, Job, RestContent};

/// What all entries of a job share: the body, and the MIME fields that describe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedBody {
    /// `MIME-Version` and `Content-*` with the empty line; for SMTP the whole header section.
    header: Bytes,
    body: Bytes,
    eight_bit: bool,
}

impl SharedBody {
    /// The body, for hashing it once.
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }
}

/// Column that a line of URIs is folded at (RFC 5322 section 2.1.1).
const FOLD_COLUMN: usize = 78;

/// Renders one entry.
///
/// # Panics
/// If the job has no such entry.
pub fn render(job: &Job, entry: usize) -> FinalMessage {
    render_with(job, entry, &body(job))
}

/// Renders the shared part of a job.
pub fn body(job: &Job) -> SharedBody {
    match &job.content {
        Content::Mime { header, body } => {
            SharedBody { header: header.clone(), body: body.clone(), eight_bit: !body.is_ascii() }
        }
        Content::Rest(content) => {
            let mut out = Vec::with_capacity(job.content.len() * 3 / 2 + 1_024);
            Parts::new(job).root(content).write_part(&mut out);
            if !out.ends_with(b"\r\n") {
                out.extend_from_slice(b"\r\n");
            }
            let all = Bytes::from(out);
            let end = memchr::memmem::find(&all, b"\r\n\r\n").map_or(all.len(), |at| at + 4);
            let mut header = b"MIME-Version: 1.0\r\n".to_vec();
            header.extend_from_slice(&all[..end]);
            SharedBody { header: header.into(), body: all.slice(end..), eight_bit: false }
        }
    }
}

/// Renders one entry on the job's shared body.
///
/// # Panics
/// If the job has no such entry.
pub fn render_with(job: &Job, entry: usize, shared: &SharedBody) -> FinalMessage {
    assert!(entry < job.entries.len(), "an entry is rendered by its job");
    let header = match &job.content {
        Content::Mime { .. } => shared.header.clone(),
        Content::Rest(content) => {
            let mut out = Vec::with_capacity(1_024 + shared.header.len());
            write_fields(job, content, entry, &mut out);
            out.extend_from_slice(&shared.header);
            out.into()
        }
    };
    FinalMessage {
        signatures: Bytes::new(),
        utf8_header: !header.is_ascii(),
        header,
        body: shared.body.clone(),
        eight_bit: shared.eight_bit,
    }
}

/// The fields of one entry, without those of MIME.
fn write_fields(job: &Job, content: &RestContent, entry: usize, out: &mut Vec<u8>) {
    let none = MailFields::default();
    let own = job.entries[entry].fields.as_ref().unwrap_or(&none);
    let shared = &content.fields;
    let mut message = FieldWriter { out };
    message.put("Date", Raw::new(job.accepted_at.rfc5322()));
    message.put("Message-ID", HeaderMessageId::new(message_id(job, entry)));
    if let Some(from) = own.from.as_ref().or(shared.from.as_ref()) {
        message.put("From", header_address(from));
    }
    if let Some(reply_to) = own.reply_to.as_ref().or(shared.reply_to.as_ref()) {
        message.put("Reply-To", header_address(reply_to));
    }
    match (own.to.is_empty(), own.cc.is_empty()) {
        (true, true) => message.put("To", Raw::new("undisclosed-recipients:;")),
        (true, false) => {}
        (false, _) => message.put("To", header_list(&own.to)),
    }
    if !own.cc.is_empty() {
        message.put("Cc", header_list(&own.cc));
    }
    message.put_text("Subject", &content.subject);
    if let Some(id) = own.in_reply_to.as_ref().or(shared.in_reply_to.as_ref()) {
        message.put("In-Reply-To", HeaderMessageId::new(bare(id)));
    }
    if let Some(priority) = own.priority.or(shared.priority) {
        let (number, word) = match priority {
            Priority::High => ("1", "high"),
            Priority::Normal => ("3", "normal"),
        };
        message.put("X-Priority", Raw::new(number));
        message.put("Importance", Raw::new(word));
    }
    if let Some(list) = own.list_unsubscribe.as_ref().or(shared.list_unsubscribe.as_ref()) {
        message.put_uris("List-Unsubscribe", list);
    }
    let overridden = |name: &str| own.headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
    for (name, value) in shared.headers.iter().filter(|(name, _)| !overridden(name)).chain(&own.headers) {
        message.put_text(name, value);
    }
}

struct FieldWriter<'o> {
    out: &'o mut Vec<u8>,
}

impl FieldWriter<'_> {
    fn put(&mut self, name: &str, value: impl Header) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        value.write_header(self.out, name.len() + 2);
    }

    /// Unstructured text: as it is and folded where it is ASCII, in encoded words (RFC 2047) where it is not. A word
    /// that would lengthen its line over the bound beside the name starts on a line of its own.
    fn put_text(&mut self, name: &str, text: &str) {
        if !text.is_ascii() || text.contains("=?") {
            return self.put(name, Text::new(text));
        }
        let first_word = text.split([' ', '\t']).next().unwrap_or_default();
        if name.len() + 2 + first_word.len() <= MESSAGE_LINE_BYTES_MAX {
            return self.put(name, Raw::new(text));
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b":\r\n ");
        Raw::new(text).write_header(self.out, 1);
    }

    /// URIs with or without angle brackets, separated by commas; one a line, since they may be long.
    fn put_uris(&mut self, name: &str, list: &str) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b':');
        for (index, uri) in list.split(',').map(bare).enumerate() {
            let fits = index == 0 && name.len() + uri.len() + 4 <= FOLD_COLUMN;
            let separator: &[u8] = match (index, fits) {
                (0, true) => b" <",
                (0, false) => b"\r\n <",
                _ => b",\r\n <",
            };
            self.out.extend_from_slice(separator);
            self.out.extend_from_slice(uri.as_bytes());
            self.out.push(b'>');
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

/// `<job id>.<entry>@<sending domain>`.
fn message_id(job: &Job, entry: usize) -> String {
    let field = job.message_id_header.trim_end_matches('>');
    let domain = field.rsplit('@').next().unwrap_or_default();
    format!("{}.{entry}@{domain}", job.id)
}

fn bare(text: &str) -> &str {
    text.trim().trim_start_matches('<').trim_end_matches('>')
}

fn header_address(mailbox: &Mailbox) -> HeaderAddress<'_> {
    let name = (!mailbox.name.is_empty()).then_some(mailbox.name.as_str());
    HeaderAddress::new_address(name, mailbox.address.as_str())
}

fn header_list(mailboxes: &[Mailbox]) -> HeaderAddress<'_> {
    HeaderAddress::new_list(mailboxes.iter().map(header_address).collect())
}

/// Builds the part tree of a job.
struct Parts {
    /// Differs from job to job, and cannot be known before the job has its id.
    seed: String,
}

impl Parts {
    fn new(job: &Job) -> Self {
        let hash = digest(&SHA256, &job.id.bits().to_be_bytes());
        Self { seed: hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    fn root<'x>(&self, content: &'x RestContent) -> MimePart<'x> {
        let (inline, attached): (Vec<_>, Vec<_>) =
            content.attachments.iter().partition(|part| content.body_is_html && part.content_id.is_some());
        let mut part = text_part(&content.body, content.body_is_html);
        if let Some(alternative) = &content.alternative {
            part = self.multipart("alternative", vec![text_part(alternative, false), part]);
        }
        if !inline.is_empty() {
            let mut parts = vec![part];
            parts.extend(inline.into_iter().map(|attachment| file_part(attachment, "inline")));
            part = self.multipart("related", parts);
        }
        if !attached.is_empty() {
            let mut parts = vec![part];
            parts.extend(attached.into_iter().map(|attachment| file_part(attachment, "attachment")));
            part = self.multipart("mixed", parts);
        }
        part
    }

    /// The boundary holds `=_`, which neither quoted-printable nor base64 has (RFC 2045 section 6.7).
    fn multipart<'x>(&self, subtype: &str, parts: Vec<MimePart<'x>>) -> MimePart<'x> {
        let boundary = format!("=_{subtype}_{}", self.seed);
        let content_type = ContentType::new(format!("multipart/{subtype}")).attribute("boundary", boundary);
        MimePart::new(content_type, parts)
    }
}

fn text_part(text: &str, is_html: bool) -> MimePart<'_> {
    MimePart::new(if is_html { "text/html" } else { "text/plain" }, text)
}

/// Base64 whatever the type is, so that the octets arrive as they were given.
fn file_part<'x>(attachment: &'x Attachment, disposition: &'x str) -> MimePart<'x> {
    let content = BodyPart::from(encode::base64_lines(&attachment.content));
    let mut how = ContentType::new(disposition);
    if !attachment.name.is_empty() {
        how = how.attribute("filename", attachment.name.as_str());
    }
    let mut part = MimePart::new(attachment.content_type.as_str(), content)
        .header("Content-Disposition", how)
        .transfer_encoding("base64");
    if let Some(id) = &attachment.content_id {
        part = part.cid(id.as_str());
    }
    part
}

#[cfg(test)]
mod tests;
