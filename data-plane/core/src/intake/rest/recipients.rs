//! `recipients[]`: one message each, to one or more addresses.
//!
//! What is wrong with an address refuses the address; what is wrong with an entry's other values refuses the job.

use std::collections::BTreeSet;

use postrail_schema::ids::RecipientIndex;
use postrail_schema::limits::JOB_RECIPIENTS_MAX;
use smallvec::SmallVec;

use super::json::Json;
use super::mail;
use super::reader::{Findings, Members, Place, array};
use super::{Acceptance, label, refuse_features, refuse_unless_inactive};
use crate::mail::job::{MailFields, Mailbox};
use crate::mail::{Address, JobEntry, JobRecipient, Notify};

/// The entries that go on, and what is answered about all.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) entries: Vec<JobEntry>,
    pub(super) recipients: Vec<JobRecipient>,
    pub(super) results: Vec<EntryResult>,
    /// Octets of header fields of the largest entry, from above.
    pub(super) header_bytes_max: usize,
}

/// What became of the addresses of one entry, in the order given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct EntryResult {
    pub(super) to: Results,
    pub(super) cc: Results,
    pub(super) bcc: Results,
}

/// Most entries have one address.
pub(super) type Results = SmallVec<[AddressResult; 1]>;

impl EntryResult {
    pub(super) fn all(&self) -> impl Iterator<Item = &AddressResult> {
        self.to.iter().chain(&self.cc).chain(&self.bcc)
    }
}

/// Which of [`Entries::recipients`] an address became.
pub(super) type AddressResult = Result<RecipientIndex, Box<Refusal>>;

/// Why an address is not part of the job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// The text as given, be it an address or none.
    pub(super) email: String,
    pub(super) classifier: Classifier,
    pub(super) message: String,
}

/// The reasons that an answer names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Classifier {
    Duplicate,
    InvalidFormat,
    PreviouslyBounced,
}

impl Classifier {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Duplicate => "DUPLICATE",
            Self::InvalidFormat => "INVALID_FORMAT",
            Self::PreviouslyBounced => "PREVIOUSLY_BOUNCED",
        }
    }
}

pub(super) const ENTRY_KEYS: [&str; 5] = ["mail", "features", "reference", "secureDocument", "sendAt"];
const MAIL_KEYS: [&str; 8] = ["to", "cc", "bcc", "replyTo", "inReplyTo", "priority", "listUnsubscribe", "xHeaders"];

/// Reads the array.
pub(super) fn read(a: &Acceptance<'_>, json: Json<'_>, place: &Place<'_>, findings: &mut Findings) -> Option<Entries> {
    let items = array(json, place, findings)?;
    let mut entries = Entries::default();
    let mut addresses = 0;
    for (index, item) in items.enumerate() {
        let here = place.item(index);
        let Some(entry) = read_entry(item, &here, findings) else {
            continue;
        };
        addresses += entry.addresses();
        if addresses > JOB_RECIPIENTS_MAX {
            let detail = format!("a job has at most {JOB_RECIPIENTS_MAX} addresses, in to, cc and bcc together");
            findings.add(place, "too_many_recipients", detail);
            return None;
        }
        entries.add(a, entry);
    }
    Some(entries)
}

/// An entry as given; its addresses are not looked at yet.
struct Given<'j> {
    reference: String,
    fields: MailFields,
    /// To, cc and bcc.
    mailboxes: [Emails<'j>; 3],
}

type Emails<'j> = SmallVec<[&'j str; 1]>;

impl Given<'_> {
    fn addresses(&self) -> usize {
        self.mailboxes.iter().map(SmallVec::len).sum()
    }
}

fn read_entry<'j>(json: Json<'j>, place: &Place<'_>, findings: &mut Findings) -> Option<Given<'j>> {
    let mut members = Members::read(json, place, &ENTRY_KEYS, findings)?;
    members.refuse(&["sendAt"], place, findings);
    if let Some(document) = members.take("secureDocument") {
        refuse_unless_inactive(document, &place.key("secureDocument"), findings);
    }
    if let Some(features) = members.take("features") {
        refuse_features(features, &place.key("features"), findings);
    }
    let reference = label(&mut members, "reference", place, findings);
    let here = place.key("mail");
    if !members.has("mail") {
        findings.add(&here, "missing", "mail is needed");
    }
    let mut mail = Members::read(members.take("mail")?, &here, &MAIL_KEYS, findings)?;
    if !["to", "cc", "bcc"].into_iter().any(|name| mail.has(name)) {
        findings.add(&here.key("to"), "missing", "an entry has at least one address in to, cc or bcc");
    }
    let mailboxes = ["to", "cc", "bcc"].map(|name| {
        let list = mail.take(name);
        list.map_or_else(Emails::new, |list| read_emails(list, &here.key(name), findings))
    });
    let fields = mail::read_fields(&mut mail, &here, findings);
    Some(Given { reference, fields, mailboxes })
}

/// `[{"email": ".."}, ..]`.
fn read_emails<'j>(json: Json<'j>, place: &Place<'_>, findings: &mut Findings) -> Emails<'j> {
    let mut emails = Emails::new();
    for (index, item) in array(json, place, findings).into_iter().flatten().enumerate() {
        emails.extend(mail::read_email(item, &place.item(index), findings));
    }
    emails
}

impl Entries {
    /// Judges the addresses of one entry and keeps those that go on.
    fn add(&mut self, a: &Acceptance<'_>, given: Given<'_>) {
        let alone = given.addresses() == 1;
        let Given { reference, mut fields, mailboxes: [to, cc, bcc] } = given;
        let entry = u16::try_from(self.entries.len()).expect("a job has at most 1,000 entries");
        let before = self.recipients.len();
        let mut seen = (!alone).then(BTreeSet::new);
        let mut judge = |list: Emails<'_>, shown: &mut Vec<Mailbox>| -> Results {
            let judged = list.into_iter().map(|text| {
                let (mailbox, address) = check(a, text, seen.as_mut())?;
                let index = u16::try_from(self.recipients.len()).expect("a job has at most 1,000 recipients");
                self.recipients.push(JobRecipient { address, entry, notify: Notify::Unspecified, orcpt: None });
                shown.push(mailbox);
                Ok(RecipientIndex(index))
            });
            judged.collect()
        };
        let result = EntryResult {
            to: judge(to, &mut fields.to),
            cc: judge(cc, &mut fields.cc),
            bcc: judge(bcc, &mut Vec::new()),
        };
        self.results.push(result);
        if self.recipients.len() > before {
            self.header_bytes_max = self.header_bytes_max.max(mail::header_bytes(&fields));
            self.entries.push(JobEntry { reference, fields: Some(fields) });
        }
    }
}

/// `seen`: the addresses of the entry so far, where it has others.
fn check(
    a: &Acceptance<'_>,
    text: &str,
    seen: Option<&mut BTreeSet<String>>,
) -> Result<(Mailbox, Address), Box<Refusal>> {
    let refusal = |classifier, message: &str| {
        Box::new(Refusal { email: text.to_owned(), classifier, message: message.to_owned() })
    };
    let (mailbox, address) =
        mail::parse_mailbox(text).map_err(|error| refusal(Classifier::InvalidFormat, &error.to_string()))?;
    if a.snapshot.is_suppressed(a.principal.tenant, || address.normalized()) {
        return Err(refusal(Classifier::PreviouslyBounced, "the address is on the suppression list"));
    }
    if seen.is_some_and(|seen| !seen.insert(address.normalized())) {
        return Err(refusal(Classifier::Duplicate, "the address occurs before in this entry"));
    }
    Ok((mailbox, address))
}
