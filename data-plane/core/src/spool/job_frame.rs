//! A job as frames: a head with everything that scheduling needs, and the content, inside the head or in chunks.
//!
//! Where the content makes the head longer than a frame, its octets are cut into chunk frames that are appended first;
//! the head lists them and is appended last. So the job exists when its head is durable.
//!
//! | tag | record | need | value |
//! |---|---|---|---|
//! | 1 | job | required | u128 id, u8 interface, u32 tenant, u32 credential, u32 domain, u8 class, u64 revision, u64 accepted, u64 expires, u8 body type, u8 SMTPUTF8, u8 RET |
//! | 2 | peer | optional | 4 or 16 octets of address |
//! | 3 | reverse path | required | text; absent: the null reverse path |
//! | 4 | ENVID | required | text |
//! | 5 | reference | required | text, as are 6 campaign, 7 cost centre, 8 Message-ID |
//! | 9 | idempotency | required | u128 key hash, u128 request hash |
//! | 10 | entries | required | u16 count, short texts of their references |
//! | 11 | recipients | required | u16 count; each u16 entry, u8 notify, u8 has ORCPT, short text ORCPT, short text address |
//! | 12 | content octets | required | u64 |
//! | 13 | chunks | required | locations of 16 octets |
//! | 14 | progress | required | u16 count; each u8 settled, u16 attempts, u64 next attempt |
//! | 15 | moved from | required | location |
//! | 16 | content | required | the records of the content; always last |
//! | 17 | quarantined | required | nothing; absent: it is not |
//! | 18 | hop | required | u16; absent: 0 |
//! | 19 | bound to | required | text, a host's name; absent: it is bound to none |
//!
//! A record is absent where its value is empty. Times are Unix milliseconds.
//!
//! What goes to another host is a head with its content inside, however long that is: no frame yet ([`encode_parcel_job`]).

use std::net::IpAddr;

use bytes::Bytes;
use postrail_schema::allocation::HostName;
use postrail_schema::ids::{CredentialId, MessageId, RecipientIndex, Revision, SendingDomainId, TenantId};
use postrail_schema::limits::{HOST_NAME_BYTES_MAX, JOB_RECIPIENTS_MAX};
use postrail_schema::snapshot::TrafficClass;

use super::record::{Fields, Need, RECORD_HEADER_BYTES, Record, RecordWriter, Records, put_short_text};
use super::segment::FRAME_PAYLOAD_MAX;
use super::{Location, content};
use crate::base::Timestamp;
use crate::mail::job::Idempotency;
use crate::mail::{Address, BodyType, Content, DsnReturn, Interface, Job, JobEntry, JobRecipient, Notify};

/// Octets that a head leaves free for the records of its way: through this spool, and from host to host.
const MOVE_BYTES: usize = 16 * 1024;
/// Octets of what the submission brought, content included where it is inside.
const SUBMITTED_BYTES_MAX: usize = FRAME_PAYLOAD_MAX - MOVE_BYTES;
/// Chunks of the largest content.
const CHUNKS_MAX: usize = 256;

const JOB: u8 = 1;
const PEER: u8 = 2;
const REVERSE_PATH: u8 = 3;
const ENVID: u8 = 4;
const REFERENCE: u8 = 5;
const CAMPAIGN: u8 = 6;
const COST_CENTER: u8 = 7;
const MESSAGE_ID_HEADER: u8 = 8;
const IDEMPOTENCY: u8 = 9;
const ENTRIES: u8 = 10;
const RECIPIENTS: u8 = 11;
const CONTENT_BYTES: u8 = 12;
const CHUNKS: u8 = 13;
const PROGRESS: u8 = 14;
const MOVED_FROM: u8 = 15;
const CONTENT: u8 = 16;
const QUARANTINED: u8 = 17;
const HOP: u8 = 18;
const BOUND_TO: u8 = 19;

/// Octets of progress, place, chunks, hop and host, each with its record's header.
const WAY_BYTES_MAX: usize = 5 * RECORD_HEADER_BYTES
    + (2 + JOB_RECIPIENTS_MAX * Carried::BYTES)
    + Location::BYTES
    + CHUNKS_MAX * Location::BYTES
    + 2
    + HOST_NAME_BYTES_MAX;
const _: () = assert!(WAY_BYTES_MAX <= MOVE_BYTES, "a moved head fits its frame");

/// Why a payload is not a job.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the frame ends within a record")]
    Truncated,
    #[error("the frame has a required record with the unknown tag {tag}: a newer binary wrote it")]
    UnknownRecord { tag: u8 },
    #[error("the frame has no record of its {record}")]
    Missing { record: &'static str },
    #[error("the frame's {record} has a value that cannot be")]
    Value { record: &'static str },
    #[error("a text of the frame is not UTF-8")]
    Text,
}

/// Why a job is not stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("the envelope takes {bytes} octets, more than a frame holds")]
    HeadTooLarge { bytes: usize },
    #[error("the content takes {bytes} octets, more than a chain of frames holds")]
    ContentTooLarge { bytes: usize },
}

/// How far a recipient has come: what compaction carries over, so that older journal segments are not needed for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    pub settled: bool,
    /// Attempts made.
    pub attempts: u16,
    /// When the next attempt is due; 1970 where none was made.
    pub next_attempt: Timestamp,
}

impl Carried {
    /// Octets of the stored form.
    const BYTES: usize = 11;
}

/// A job without its content, for recovery: [`Job::content`] is empty, entries have no fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobMeta {
    pub job: Job,
    /// What [`Content::len`] would say.
    pub content_bytes: u64,
    /// By recipient, what was carried over when compaction wrote this frame, or another host sent the job; the journal
    /// may have more. Empty in a frame that intake wrote.
    pub progress: Vec<Carried>,
    /// Where the job was before compaction moved it here: it replaces that one.
    pub moved_from: Option<Location>,
    /// The host that the job was bound to when compaction wrote this frame; the journal may have more.
    pub bound_to: Option<HostName>,
    /// The frames of the content, in order; none where it is inside the head.
    pub chunks: Vec<Location>,
}

impl JobMeta {
    /// What compaction carried over for one recipient.
    pub fn carried(&self, index: RecipientIndex) -> Option<Carried> {
        self.progress.get(usize::from(index.0)).copied()
    }
}

/// A job on its way to the log.
#[derive(Debug)]
pub enum Encoded {
    /// The payload of the head frame, content inside.
    Whole(Vec<u8>),
    /// Payloads of chunk frames, to be appended before the head.
    Chunked { head: HeadDraft, chunks: Vec<Vec<u8>> },
}

/// A head that waits for the locations of its chunks.
#[derive(Debug)]
pub struct HeadDraft {
    records: Vec<u8>,
}

impl HeadDraft {
    /// The payload of the head frame.
    pub fn finish(self, chunks: &[Location]) -> Vec<u8> {
        let mut to = RecordWriter::continue_in(self.records);
        put_locations(&mut to, CHUNKS, chunks);
        to.into_bytes()
    }
}

/// What compaction adds to a job that it moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    pub from: Location,
    pub progress: Vec<Carried>,
    pub bound_to: Option<HostName>,
}

/// How a job came to be written.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// It was accepted here.
    Submission,
    /// Another host sent it, with what had become of its recipients.
    Transfer(&'a [Carried]),
    /// Compaction moves it.
    Compaction(&'a Moved),
}

/// The frames of `job`.
///
/// # Errors
/// Where the job is larger than the format allows; intake's bounds are far below.
pub fn encode(job: &Job, origin: Origin<'_>) -> Result<Encoded, EncodeError> {
    let inline = job.content.len() + job.recipients.len() * 48 + 1_024;
    let mut to = RecordWriter::with_capacity(if inline < FRAME_PAYLOAD_MAX { inline } else { 4_096 });
    put_submitted(&mut to, job);
    let submitted = to.len();
    if submitted > SUBMITTED_BYTES_MAX {
        return Err(EncodeError::HeadTooLarge { bytes: submitted });
    }
    put_hop(&mut to, job.hop);
    match origin {
        Origin::Submission => {}
        Origin::Transfer(progress) => put_progress(&mut to, progress),
        Origin::Compaction(moved) => {
            put_progress(&mut to, &moved.progress);
            to.put(MOVED_FROM, Need::Required, &moved.from.to_bytes());
            if let Some(host) = &moved.bound_to {
                to.put(BOUND_TO, Need::Required, host.as_str().as_bytes());
            }
        }
    }
    let start = to.len();
    let room = SUBMITTED_BYTES_MAX - submitted;
    if job.content.len() <= room {
        to.put_with(CONTENT, Need::Required, |bytes| content::encode(&job.content, &job.entries, bytes));
        if to.len() - start <= room {
            return Ok(Encoded::Whole(to.into_bytes()));
        }
        to.truncate(start);
    }
    let mut octets = Vec::with_capacity(job.content.len() + 1_024);
    content::encode(&job.content, &job.entries, &mut octets);
    if octets.len() > CHUNKS_MAX * FRAME_PAYLOAD_MAX {
        return Err(EncodeError::ContentTooLarge { bytes: octets.len() });
    }
    let chunks = octets.chunks(FRAME_PAYLOAD_MAX).map(<[u8]>::to_vec).collect();
    Ok(Encoded::Chunked { head: HeadDraft { records: to.into_bytes() }, chunks })
}

/// The whole of `job` for another host, where it is at `hop`; [`decode`] reads it.
pub fn encode_parcel_job(job: &Job, hop: u16, progress: &[Carried]) -> Vec<u8> {
    let bytes = job.content.len() + job.recipients.len() * 64 + 1_024;
    let mut to = RecordWriter::with_capacity(bytes);
    put_submitted(&mut to, job);
    put_hop(&mut to, hop);
    put_progress(&mut to, progress);
    to.put_with(CONTENT, Need::Required, |bytes| content::encode(&job.content, &job.entries, bytes));
    to.into_bytes()
}

/// The job of a head frame and the locations of its chunks. Where there are chunks, the content is empty until
/// [`join`] brings it.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(head: &Bytes) -> Result<JobMeta, DecodeError> {
    let (mut meta, content) = decode_whole(head)?;
    if let Some(octets) = content {
        meta.job.content = content::decode(&head.slice_ref(octets), &mut meta.job.entries)?;
    }
    Ok(meta)
}

/// The job of a head frame without its content.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_meta(head: &[u8]) -> Result<JobMeta, DecodeError> {
    Ok(decode_whole(head)?.0)
}

/// As [`decode_meta`], of what [`without_content`] has left of a head frame.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_head(head: &[u8]) -> Result<JobMeta, DecodeError> {
    Ok(decode_records(head)?.0)
}

/// The records of a head frame before its content.
pub fn without_content(head: &[u8]) -> &[u8] {
    let mut bytes = 0;
    for record in Records::new(head) {
        match record {
            Ok(record) if record.tag != CONTENT => bytes += record.bytes(),
            _ => break,
        }
    }
    &head[..bytes]
}

/// Gives a job the content that its chunks hold, payloads in order.
///
/// # Errors
/// See [`DecodeError`].
pub fn join(job: &mut Job, chunks: &[Bytes]) -> Result<(), DecodeError> {
    job.content = content::decode(&Bytes::from(chunks.concat()), &mut job.entries)?;
    Ok(())
}

/// What the submission brought, but its content.
fn put_submitted(to: &mut RecordWriter, job: &Job) {
    put_job(to, job);
    put_people(to, job);
    to.put(CONTENT_BYTES, Need::Required, &(job.content.len() as u64).to_le_bytes());
}

fn put_hop(to: &mut RecordWriter, hop: u16) {
    if hop > 0 {
        to.put(HOP, Need::Required, &hop.to_le_bytes());
    }
}

fn put_job(to: &mut RecordWriter, job: &Job) {
    to.put_with(JOB, Need::Required, |bytes| {
        bytes.extend_from_slice(&job.id.bits().to_le_bytes());
        bytes.push(interface_tag(job.interface));
        bytes.extend_from_slice(&job.tenant.0.to_le_bytes());
        bytes.extend_from_slice(&job.credential.0.to_le_bytes());
        bytes.extend_from_slice(&job.domain.0.to_le_bytes());
        bytes.push(class_tag(job.class));
        bytes.extend_from_slice(&job.revision.0.to_le_bytes());
        bytes.extend_from_slice(&job.accepted_at.unix_ms().to_le_bytes());
        bytes.extend_from_slice(&job.expires_at.unix_ms().to_le_bytes());
        bytes.push(match job.body {
            BodyType::SevenBit => 0,
            BodyType::EightBitMime => 1,
        });
        bytes.push(job.smtp_utf8.into());
        bytes.push(match job.ret {
            None => 0,
            Some(DsnReturn::Full) => 1,
            Some(DsnReturn::Headers) => 2,
        });
    });
    match job.peer {
        Some(IpAddr::V4(v4)) => to.put(PEER, Need::Optional, &v4.octets()),
        Some(IpAddr::V6(v6)) => to.put(PEER, Need::Optional, &v6.octets()),
        None => {}
    }
    if let Some(reverse_path) = &job.reverse_path {
        to.put(REVERSE_PATH, Need::Required, reverse_path.as_str().as_bytes());
    }
    if let Some(envid) = &job.envid {
        to.put(ENVID, Need::Required, envid.as_bytes());
    }
    let texts = [
        (REFERENCE, &job.reference),
        (CAMPAIGN, &job.campaign),
        (COST_CENTER, &job.cost_center),
        (MESSAGE_ID_HEADER, &job.message_id_header),
    ];
    for (tag, text) in texts {
        if !text.is_empty() {
            to.put(tag, Need::Required, text.as_bytes());
        }
    }
    if job.quarantined {
        to.put(QUARANTINED, Need::Required, &[]);
    }
    if let Some(idempotency) = &job.idempotency {
        to.put_with(IDEMPOTENCY, Need::Required, |bytes| {
            bytes.extend_from_slice(&idempotency.key_hash.to_le_bytes());
            bytes.extend_from_slice(&idempotency.request_hash.to_le_bytes());
        });
    }
}

fn put_people(to: &mut RecordWriter, job: &Job) {
    to.put_with(ENTRIES, Need::Required, |bytes| {
        bytes.extend_from_slice(&(job.entries.len() as u16).to_le_bytes());
        for entry in &job.entries {
            put_short_text(bytes, &entry.reference);
        }
    });
    to.put_with(RECIPIENTS, Need::Required, |bytes| {
        bytes.extend_from_slice(&(job.recipients.len() as u16).to_le_bytes());
        for recipient in &job.recipients {
            bytes.extend_from_slice(&recipient.entry.to_le_bytes());
            bytes.push(recipient.notify.to_byte());
            bytes.push(recipient.orcpt.is_some().into());
            put_short_text(bytes, recipient.orcpt.as_deref().unwrap_or_default());
            put_short_text(bytes, recipient.address.as_str());
        }
    });
}

fn put_progress(to: &mut RecordWriter, progress: &[Carried]) {
    to.put_with(PROGRESS, Need::Required, |bytes| {
        bytes.extend_from_slice(&(progress.len() as u16).to_le_bytes());
        for recipient in progress {
            bytes.push(recipient.settled.into());
            bytes.extend_from_slice(&recipient.attempts.to_le_bytes());
            bytes.extend_from_slice(&recipient.next_attempt.unix_ms().to_le_bytes());
        }
    });
}

fn put_locations(to: &mut RecordWriter, tag: u8, locations: &[Location]) {
    to.put_with(tag, Need::Required, |bytes| {
        for location in locations {
            bytes.extend_from_slice(&location.to_bytes());
        }
    });
}

/// A head with its content, inside or in chunks.
fn decode_whole(head: &[u8]) -> Result<(JobMeta, Option<&[u8]>), DecodeError> {
    let (meta, octets) = decode_records(head)?;
    if octets.is_some() != meta.chunks.is_empty() {
        return Err(DecodeError::Missing { record: "content" });
    }
    Ok((meta, octets))
}

/// The records of a head; the second value is the value of the content record.
fn decode_records(head: &[u8]) -> Result<(JobMeta, Option<&[u8]>), DecodeError> {
    let mut records = Records::new(head);
    let first = records.next().ok_or(DecodeError::Truncated)??;
    if first.tag != JOB {
        return Err(DecodeError::Missing { record: "job" });
    }
    let mut meta = JobMeta {
        job: decode_job(&mut first.fields())?,
        content_bytes: 0,
        progress: Vec::new(),
        moved_from: None,
        bound_to: None,
        chunks: Vec::new(),
    };
    let mut octets = None;
    for record in records {
        let record = record?;
        if record.tag == CONTENT {
            octets = Some(record.value);
        } else {
            decode_record(&record, &mut meta)?;
        }
    }
    let job = &meta.job;
    if job.recipients.is_empty() || job.recipients.iter().any(|r| usize::from(r.entry) >= job.entries.len()) {
        return Err(DecodeError::Value { record: "recipients" });
    }
    if !meta.progress.is_empty() && meta.progress.len() != job.recipients.len() {
        return Err(DecodeError::Value { record: "progress" });
    }
    Ok((meta, octets))
}

fn decode_job(fields: &mut Fields<'_>) -> Result<Job, DecodeError> {
    let value = DecodeError::Value { record: "job" };
    Ok(Job {
        id: MessageId::from_bits(fields.u128()?),
        interface: interface(fields.u8()?).ok_or(value.clone())?,
        tenant: TenantId(fields.u32()?),
        credential: CredentialId(fields.u32()?),
        domain: SendingDomainId(fields.u32()?),
        class: class(fields.u8()?).ok_or(value.clone())?,
        revision: Revision(fields.u64()?),
        accepted_at: Timestamp::from_unix_ms(fields.u64()?),
        expires_at: Timestamp::from_unix_ms(fields.u64()?),
        peer: None,
        reverse_path: None,
        body: match fields.u8()? {
            0 => BodyType::SevenBit,
            1 => BodyType::EightBitMime,
            _ => return Err(value),
        },
        smtp_utf8: fields.u8()? != 0,
        ret: match fields.u8()? {
            0 => None,
            1 => Some(DsnReturn::Full),
            2 => Some(DsnReturn::Headers),
            _ => return Err(value),
        },
        envid: None,
        reference: String::new(),
        campaign: String::new(),
        cost_center: String::new(),
        message_id_header: String::new(),
        quarantined: false,
        hop: 0,
        idempotency: None,
        entries: Vec::new(),
        recipients: Vec::new(),
        content: Content::Mime { header: Bytes::new(), body: Bytes::new() },
    })
}

fn decode_record(record: &Record<'_>, meta: &mut JobMeta) -> Result<(), DecodeError> {
    let job = &mut meta.job;
    match record.tag {
        PEER => job.peer = Some(decode_peer(record)?),
        REVERSE_PATH => job.reverse_path = Some(address(&record.text()?, "reverse path")?),
        ENVID => job.envid = Some(record.text()?),
        REFERENCE => job.reference = record.text()?,
        CAMPAIGN => job.campaign = record.text()?,
        COST_CENTER => job.cost_center = record.text()?,
        MESSAGE_ID_HEADER => job.message_id_header = record.text()?,
        IDEMPOTENCY => {
            let mut fields = record.fields();
            job.idempotency = Some(Idempotency { key_hash: fields.u128()?, request_hash: fields.u128()? });
        }
        QUARANTINED => job.quarantined = true,
        ENTRIES => job.entries = decode_entries(&mut record.fields())?,
        RECIPIENTS => job.recipients = decode_recipients(&mut record.fields())?,
        CONTENT_BYTES => meta.content_bytes = record.fields().u64()?,
        CHUNKS => meta.chunks = decode_chunks(record)?,
        PROGRESS => meta.progress = decode_progress(&mut record.fields())?,
        MOVED_FROM => meta.moved_from = Some(decode_location(&mut record.fields())?),
        HOP => job.hop = record.fields().u16()?,
        BOUND_TO => meta.bound_to = Some(host(record.text()?, "bound to")?),
        _ => record.skip()?,
    }
    Ok(())
}

fn decode_peer(record: &Record<'_>) -> Result<IpAddr, DecodeError> {
    let value = record.value;
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).map_err(|_| DecodeError::Value { record: "peer" })
}

fn count(fields: &mut Fields<'_>, record: &'static str) -> Result<usize, DecodeError> {
    let count = usize::from(fields.u16()?);
    if count > JOB_RECIPIENTS_MAX { Err(DecodeError::Value { record }) } else { Ok(count) }
}

fn decode_entries(fields: &mut Fields<'_>) -> Result<Vec<JobEntry>, DecodeError> {
    let entry = |fields: &mut Fields<'_>| Ok(JobEntry { reference: fields.short_text()?.to_owned(), fields: None });
    (0..count(fields, "entries")?).map(|_| entry(fields)).collect()
}

fn decode_recipients(fields: &mut Fields<'_>) -> Result<Vec<JobRecipient>, DecodeError> {
    let recipient = |fields: &mut Fields<'_>| {
        let entry = fields.u16()?;
        let notify = Notify::from_byte(fields.u8()?).ok_or(DecodeError::Value { record: "notify" })?;
        let has_orcpt = fields.u8()? != 0;
        let orcpt = fields.short_text()?;
        let address = address(fields.short_text()?, "recipient")?;
        Ok(JobRecipient { address, entry, notify, orcpt: has_orcpt.then(|| orcpt.to_owned()) })
    };
    (0..count(fields, "recipients")?).map(|_| recipient(fields)).collect()
}

fn decode_progress(fields: &mut Fields<'_>) -> Result<Vec<Carried>, DecodeError> {
    let progress = |fields: &mut Fields<'_>| {
        Ok(Carried {
            settled: fields.u8()? != 0,
            attempts: fields.u16()?,
            next_attempt: Timestamp::from_unix_ms(fields.u64()?),
        })
    };
    (0..count(fields, "progress")?).map(|_| progress(fields)).collect()
}

fn decode_chunks(record: &Record<'_>) -> Result<Vec<Location>, DecodeError> {
    let count = record.value.len() / Location::BYTES;
    if count == 0 || count > CHUNKS_MAX || !record.value.len().is_multiple_of(Location::BYTES) {
        return Err(DecodeError::Value { record: "chunks" });
    }
    let mut fields = record.fields();
    (0..count).map(|_| decode_location(&mut fields)).collect()
}

fn decode_location(fields: &mut Fields<'_>) -> Result<Location, DecodeError> {
    Ok(Location { segment: fields.u64()?, offset: fields.u32()?, bytes: fields.u32()? })
}

/// An address that was parsed when it was accepted.
fn address(text: &str, record: &'static str) -> Result<Address, DecodeError> {
    Address::parse(text).map_err(|_| DecodeError::Value { record })
}

/// A host's name that was checked when it was written.
pub(super) fn host(name: String, record: &'static str) -> Result<HostName, DecodeError> {
    HostName::new(name).map_err(|_| DecodeError::Value { record })
}

const fn interface_tag(interface: Interface) -> u8 {
    match interface {
        Interface::Smtp => 1,
        Interface::Rest => 2,
        Interface::Dsn => 3,
    }
}

fn interface(tag: u8) -> Option<Interface> {
    [Interface::Smtp, Interface::Rest, Interface::Dsn].into_iter().find(|interface| interface_tag(*interface) == tag)
}

const fn class_tag(class: TrafficClass) -> u8 {
    match class {
        TrafficClass::Transactional => 1,
        TrafficClass::PersonToPerson => 2,
        TrafficClass::Marketing => 3,
    }
}

fn class(tag: u8) -> Option<TrafficClass> {
    TrafficClass::ALL.into_iter().find(|class| class_tag(*class) == tag)
}

#[cfg(test)]
mod tests;
