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

use std::io::Write as _;

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

/// What all entries of a job share: the body, the MIME fields that describe it, and the fields that are the same in every
/// copy which has none of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedBody {
    /// `None` for SMTP.
    fields: Option<SharedFields>,
    /// `MIME-Version` and `Content-*` with the empty line; for SMTP the whole header section.
    header: Bytes,
    body: Bytes,
    eight_bit: bool,
}

/// The fields of a REST job as they go into a copy, each with its name and line end. Empty: there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
struct SharedFields {
    date: Vec<u8>,
    /// What is before the number of the entry, and behind it: `<job id>.<entry>@<sending domain>`.
    message_id: [String; 2],
    from: Vec<u8>,
    reply_to: Vec<u8>,
    subject: Vec<u8>,
    in_reply_to: Vec<u8>,
    priority: Vec<u8>,
    list_unsubscribe: Vec<u8>,
    /// As [`MailFields::headers`], in their order.
    headers: Vec<Vec<u8>>,
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
            SharedBody { fields: None, header: header.clone(), body: body.clone(), eight_bit: !body.is_ascii() }
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
            let fields = Some(SharedFields::new(job, content));
            SharedBody { fields, header: header.into(), body: all.slice(end..), eight_bit: false }
        }
    }
}

/// Renders one entry on the job's shared body.
///
/// # Panics
/// If the job has no such entry.
pub fn render_with(job: &Job, entry: usize, shared: &SharedBody) -> FinalMessage {
    assert!(entry < job.entries.len(), "an entry is rendered by its job");
    let header = match (&job.content, &shared.fields) {
        (Content::Mime { .. }, _) | (_, None) => shared.header.clone(),
        (Content::Rest(content), Some(fields)) => {
            let mut out = Vec::with_capacity(1_024 + shared.header.len());
            let none = MailFields::default();
            let own = job.entries[entry].fields.as_ref().unwrap_or(&none);
            fields.write_copy(&content.fields, own, entry, &mut out);
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

impl SharedFields {
    fn new(job: &Job, content: &RestContent) -> Self {
        let line = |put: &dyn Fn(&mut FieldWriter<'_>)| {
            let mut out = Vec::new();
            put(&mut FieldWriter { out: &mut out });
            out
        };
        let shared = &content.fields;
        let field = job.message_id_header.trim_end_matches('>');
        let domain = field.rsplit('@').next().unwrap_or_default();
        Self {
            date: line(&|to| to.put("Date", Raw::new(job.accepted_at.rfc5322()))),
            message_id: [format!("Message-ID: <{}.", job.id), format!("@{domain}>\r\n")],
            from: line(&|to| to.put_mailbox("From", shared.from.as_ref())),
            reply_to: line(&|to| to.put_mailbox("Reply-To", shared.reply_to.as_ref())),
            subject: line(&|to| to.put_text("Subject", &content.subject)),
            in_reply_to: line(&|to| to.put_in_reply_to(shared.in_reply_to.as_deref())),
            priority: line(&|to| to.put_priority(shared.priority)),
            list_unsubscribe: line(&|to| to.put_list(shared.list_unsubscribe.as_deref())),
            headers: shared.headers.iter().map(|(name, value)| line(&|to| to.put_text(name, value))).collect(),
        }
    }

    /// Appends the fields of one copy, without those of MIME: those of `own`, and where it has none the shared ones.
    fn write_copy(&self, shared: &MailFields, own: &MailFields, entry: usize, out: &mut Vec<u8>) {
        let mut message = FieldWriter { out };
        message.out.extend_from_slice(&self.date);
        let [before, behind] = &self.message_id;
        message.out.extend_from_slice(before.as_bytes());
        // A vector takes whatever is written to it.
        let _ = write!(message.out, "{entry}{behind}");
        match &own.from {
            None => message.out.extend_from_slice(&self.from),
            from => message.put_mailbox("From", from.as_ref()),
        }
        match &own.reply_to {
            None => message.out.extend_from_slice(&self.reply_to),
            reply_to => message.put_mailbox("Reply-To", reply_to.as_ref()),
        }
        match (&own.to[..], own.cc.is_empty()) {
            ([], true) => message.out.extend_from_slice(b"To: undisclosed-recipients:;\r\n"),
            ([], false) => {}
            ([one], _) => message.put("To", header_address(one)),
            (to, _) => message.put("To", header_list(to)),
        }
        if !own.cc.is_empty() {
            message.put("Cc", header_list(&own.cc));
        }
        message.out.extend_from_slice(&self.subject);
        match &own.in_reply_to {
            None => message.out.extend_from_slice(&self.in_reply_to),
            id => message.put_in_reply_to(id.as_deref()),
        }
        match own.priority {
            None => message.out.extend_from_slice(&self.priority),
            priority => message.put_priority(priority),
        }
        match &own.list_unsubscribe {
            None => message.out.extend_from_slice(&self.list_unsubscribe),
            list => message.put_list(list.as_deref()),
        }
        let overridden = |name: &str| own.headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
        for ((name, _), line) in shared.headers.iter().zip(&self.headers) {
            if !overridden(name) {
                message.out.extend_from_slice(line);
            }
        }
        for (name, value) in &own.headers {
            message.put_text(name, value);
        }
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

    fn put_mailbox(&mut self, name: &str, mailbox: Option<&Mailbox>) {
        if let Some(mailbox) = mailbox {
            self.put(name, header_address(mailbox));
        }
    }

    fn put_in_reply_to(&mut self, id: Option<&str>) {
        if let Some(id) = id {
            self.put("In-Reply-To", HeaderMessageId::new(bare(id)));
        }
    }

    fn put_priority(&mut self, priority: Option<Priority>) {
        let fields: &[u8] = match priority {
            Some(Priority::High) => b"X-Priority: 1\r\nImportance: high\r\n",
            Some(Priority::Normal) => b"X-Priority: 3\r\nImportance: normal\r\n",
            None => b"",
        };
        self.out.extend_from_slice(fields);
    }

    fn put_list(&mut self, uris: Option<&str>) {
        if let Some(uris) = uris {
            self.put_uris("List-Unsubscribe", uris);
        }
    }

    /// Unstructured text: as it is and folded where it is ASCII, in encoded words (RFC 2047) where it is not. A word
    /// that would lengthen its line over the bound beside the name starts on a line of its own.
    fn put_text(&mut self, name: &str, text: &str) {
        let is_one_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'=');
        if is_one_word && name.len() + 2 + text.len() <= FOLD_COLUMN {
            // There is nothing to fold or to encode.
            for part in [name, ": ", text, "\r\n"] {
                self.out.extend_from_slice(part.as_bytes());
            }
            return;
        }
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
