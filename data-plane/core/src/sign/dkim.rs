//! DKIM signatures (RFC 6376, Ed25519 by RFC 8463), relaxed/relaxed.
//!
//! [`plan`] canonicalises and hashes; the caller signs the digests of [`Plan::requests`] (RSASSA-PKCS1-v1_5 of the
//! digest, or PureEdDSA over its 32 octets) and [`Plan::finish`] writes the fields. Every key signs the same fields,
//! and none signs another's signature.
//!
//! Over-signing: a name is listed once more than it occurs, so that a field added on the way breaks the signature
//! (RFC 6376 section 8.15). Names that a reader acts on are listed so even where they are absent.
//!
//! Deliberately absent: `l=` (lets bodies grow), `x=` (queues outlive it), `i=`, `z=`, simple canonicalisation.
//!
//! The body is hashed in place: stretches that canonicalisation leaves alone go to the digest as they are.

use aws_lc_rs::digest::{Context, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use memchr::memmem;
use postrail_schema::ids::KeyId;
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm};
use smallvec::SmallVec;

use super::fields::{Field, fields};
use crate::base::Timestamp;
use crate::mail::FinalMessage;

/// SHA-256 of a canonical body: one for all entries of a job that share their body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyHash([u8; 32]);

/// A signature that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignRequest {
    pub key: KeyId,
    pub algorithm: KeyAlgorithm,
    /// SHA-256 of the canonical header fields: what RSA signs as a digest and Ed25519 as a message.
    pub digest: [u8; 32],
}

/// The signature fields of one message, but for the signatures.
#[derive(Clone, Debug)]
pub struct Plan {
    unsigned: SmallVec<[Unsigned; 2]>,
}

#[derive(Clone, Debug)]
struct Unsigned {
    request: SignRequest,
    /// The field up to and with `b=`.
    field: String,
}

/// Whether a name is listed once more than it occurs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OverSign {
    Always,
    WhenPresent,
}

/// What is signed, in the order of `h=`.
const SIGNED: [(&str, OverSign); 16] = [
    ("From", OverSign::Always),
    ("To", OverSign::Always),
    ("Cc", OverSign::Always),
    ("Subject", OverSign::Always),
    ("Date", OverSign::Always),
    ("Message-ID", OverSign::Always),
    ("Reply-To", OverSign::Always),
    ("MIME-Version", OverSign::WhenPresent),
    ("Content-Type", OverSign::Always),
    ("Content-Transfer-Encoding", OverSign::WhenPresent),
    ("In-Reply-To", OverSign::WhenPresent),
    ("References", OverSign::WhenPresent),
    ("List-Unsubscribe", OverSign::WhenPresent),
    ("List-Unsubscribe-Post", OverSign::WhenPresent),
    ("Feedback-ID", OverSign::WhenPresent),
    ("X-CSA-Complaints", OverSign::WhenPresent),
];

/// Column that a line of the field is folded at.
const FOLD_COLUMN: usize = 76;

/// Plans the signatures of `message` for `domain` (A-labels) by `keys` at the time `at`.
pub fn plan(message: &FinalMessage, domain: &str, keys: &[DkimKey], at: Timestamp) -> Plan {
    plan_with(message, [(domain, keys)], at, body_hash(&message.body))
}

/// As [`plan`] for several domains, each with its keys, and for a body that was hashed before.
pub fn plan_with<'a>(
    message: &FinalMessage,
    signers: impl IntoIterator<Item = (&'a str, &'a [DkimKey])>,
    at: Timestamp,
    body: BodyHash,
) -> Plan {
    let (names, mut canonical) = select(&message.header);
    let signed_bytes = canonical.len();
    let keys = signers.into_iter().flat_map(|(domain, keys)| keys.iter().map(move |key| (domain, key)));
    let unsigned = keys.map(|(domain, key)| {
        let field = unsigned_field(key, domain, at, &names, body);
        canonical.truncate(signed_bytes);
        canonical_field(b"DKIM-Signature", &field.as_bytes()[FIELD_NAME.len()..], &mut canonical);
        canonical.truncate(canonical.len() - 2);
        let digest = to_array(digest(&SHA256, &canonical).as_ref());
        Unsigned { request: SignRequest { key: key.id, algorithm: key.algorithm, digest }, field }
    });
    Plan { unsigned: unsigned.collect() }
}

/// The hash of the body in relaxed canonical form (RFC 6376 section 3.4.4).
pub fn body_hash(body: &[u8]) -> BodyHash {
    let mut context = Context::new(&SHA256);
    canonical_body(body, |bytes| context.update(bytes));
    BodyHash(to_array(context.finish().as_ref()))
}

impl Plan {
    /// What is to be signed, in the order that [`Self::finish`] expects.
    pub fn requests(&self) -> impl Iterator<Item = SignRequest> + '_ {
        self.unsigned.iter().map(|unsigned| unsigned.request)
    }

    /// The DKIM-Signature fields with these signatures, each with its CRLF, to stand before the header section.
    ///
    /// # Panics
    /// If there is not one signature for each request.
    pub fn finish(self, signatures: Vec<Vec<u8>>) -> Bytes {
        assert_eq!(signatures.len(), self.unsigned.len(), "each request has one signature");
        let mut out = String::with_capacity(self.unsigned.iter().map(|unsigned| unsigned.field.len() + 400).sum());
        for (unsigned, signature) in self.unsigned.iter().zip(&signatures) {
            out.push_str(&unsigned.field);
            let text = STANDARD.encode(signature);
            let mut rest = text.as_str();
            let mut room = FOLD_COLUMN - "b=".len() - 1;
            while rest.len() > room {
                let (line, after) = rest.split_at(room);
                out.push_str(line);
                out.push_str("\r\n ");
                rest = after;
                room = FOLD_COLUMN - 1;
            }
            out.push_str(rest);
            out.push_str("\r\n");
        }
        out.into()
    }
}

const FIELD_NAME: &str = "DKIM-Signature:";

fn to_array(hash: &[u8]) -> [u8; 32] {
    hash.try_into().expect("SHA-256 has 32 octets")
}

/// The names for `h=` and the canonical form of the fields that they select, bottom up for a name that occurs more than
/// once (RFC 6376 section 5.4.2).
fn select(header: &[u8]) -> (Vec<&'static str>, Vec<u8>) {
    let all: SmallVec<[Field<'_>; 32]> = fields(header).collect();
    let mut names = Vec::with_capacity(SIGNED.len() * 2);
    let mut canonical = Vec::with_capacity(header.len() + 512);
    for (name, over_sign) in SIGNED {
        let before = names.len();
        for field in all.iter().rev().filter(|field| field.is(name)) {
            names.push(name);
            canonical_field(name.as_bytes(), field.value, &mut canonical);
        }
        if over_sign == OverSign::Always || names.len() > before {
            names.push(name);
        }
    }
    (names, canonical)
}

/// The field up to and with `b=`, folded.
fn unsigned_field(key: &DkimKey, domain: &str, at: Timestamp, names: &[&str], body: BodyHash) -> String {
    let algorithm = match key.algorithm {
        KeyAlgorithm::RsaSha256 => "rsa-sha256",
        KeyAlgorithm::Ed25519Sha256 => "ed25519-sha256",
    };
    let mut field = String::with_capacity(600);
    field.push_str(FIELD_NAME);
    field.push_str(&format!(" v=1; a={algorithm}; c=relaxed/relaxed;\r\n d={domain};\r\n"));
    field.push_str(&format!(" s={}; t={};\r\n h=", key.selector, at.unix_seconds()));
    let mut column = 3;
    for (index, name) in names.iter().enumerate() {
        let colon = usize::from(index > 0);
        if column + colon + name.len() + 1 > FOLD_COLUMN {
            field.push_str(if index > 0 { ":\r\n " } else { "\r\n " });
            column = 1;
        } else if index > 0 {
            field.push(':');
            column += 1;
        }
        field.push_str(name);
        column += name.len();
    }
    field.push_str(&format!(";\r\n bh={};\r\n b=", STANDARD.encode(body.0)));
    field
}

/// Appends a field in relaxed form (RFC 6376 section 3.4.2): lower-case name, one line, single spaces, none at the ends.
fn canonical_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let start = out.len();
    for word in value.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).filter(|word| !word.is_empty()) {
        if out.len() > start {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
}

/// Feeds the relaxed form of `body` to `sink`, in pieces.
fn canonical_body(body: &[u8], mut sink: impl FnMut(&[u8])) {
    let content = without_trailing_empty_lines(body);
    if content.is_empty() {
        return;
    }
    let mut runs = Irregular::new(content);
    let mut clean = 0;
    while let Some(at) = runs.next_from(clean) {
        let white = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = at - content[clean..at].iter().rev().take_while(|byte| white(byte)).count();
        let end = at + content[at..].iter().take_while(|byte| white(byte)).count();
        sink(&content[clean..start]);
        if end < content.len() && !content[end..].starts_with(b"\r\n") {
            sink(b" ");
        }
        clean = end;
    }
    sink(&content[clean..]);
    sink(b"\r\n");
}

/// What is before the empty lines at the end, and before white space at the end of the last line.
fn without_trailing_empty_lines(body: &[u8]) -> &[u8] {
    let mut content = body;
    loop {
        let white = content.iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let line = &content[..content.len() - white];
        match line.strip_suffix(b"\r\n") {
            Some(before) => content = before,
            None => return line,
        }
    }
}

/// Finds white space that is not one space between words: a tab, two spaces, a space before a line end. Each of the
/// three is searched for over long stretches, and only once its last find is passed.
struct Irregular<'a> {
    content: &'a [u8],
    tab: Option<usize>,
    double: Option<usize>,
    trailing: Option<usize>,
    double_finder: memmem::Finder<'static>,
    trailing_finder: memmem::Finder<'static>,
}

impl<'a> Irregular<'a> {
    fn new(content: &'a [u8]) -> Self {
        let double_finder = memmem::Finder::new(b"  ");
        let trailing_finder = memmem::Finder::new(b" \r\n");
        Self {
            content,
            tab: memchr::memchr(b'\t', content),
            double: double_finder.find(content),
            trailing: trailing_finder.find(content),
            double_finder,
            trailing_finder,
        }
    }

    /// The first irregular white space at or after `from`.
    fn next_from(&mut self, from: usize) -> Option<usize> {
        let rest = &self.content[from..];
        if self.tab.is_some_and(|at| at < from) {
            self.tab = memchr::memchr(b'\t', rest).map(|at| from + at);
        }
        if self.double.is_some_and(|at| at < from) {
            self.double = self.double_finder.find(rest).map(|at| from + at);
        }
        if self.trailing.is_some_and(|at| at < from) {
            self.trailing = self.trailing_finder.find(rest).map(|at| from + at);
        }
        [self.tab, self.double, self.trailing].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
