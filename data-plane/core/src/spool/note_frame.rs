//! The payload of a note frame: what the journal is told of jobs on their way to other hosts, beside events.
//!
//! A note is one typed record, as in a job frame. Its value begins with the u128 id of the job and its u16 hop here.
//!
//! | tag | note | need | what follows |
//! |---|---|---|---|
//! | 1 | bound | required | text, the host's name |
//! | 2 | kept | required | nothing |
//! | 3 | given | required | nothing |
//! | 4 | taken | required | nothing |
//!
//! The last note of a job counts. Deliberately absent: which notes still say something of a job ([`crate::shard`]).

use postrail_schema::ids::MessageId;

use super::DecodeError;
use super::job_frame::host;
use super::record::{Need, Record, RecordWriter, Records, text};
use super::segment::FRAME_PAYLOAD_MAX;
use crate::transfer::{Note, NoteKind};

const BOUND: u8 = 1;
const KEPT: u8 = 2;
const GIVEN: u8 = 3;
const TAKEN: u8 = 4;

/// Notes of one payload: with every name at its bound they still fit a frame.
const NOTES_PER_FRAME_MAX: usize = 8 * 1024;
/// Octets of the longest note, with its record's header.
const NOTE_BYTES_MAX: usize =
    super::record::RECORD_HEADER_BYTES + 16 + 2 + postrail_schema::limits::HOST_NAME_BYTES_MAX;

const _: () = assert!(NOTES_PER_FRAME_MAX * NOTE_BYTES_MAX <= FRAME_PAYLOAD_MAX, "notes fit their frame");

/// The payloads of as many frames as `notes` need, in order.
pub fn encode(notes: &[Note]) -> Vec<Vec<u8>> {
    notes.chunks(NOTES_PER_FRAME_MAX).map(encode_some).collect()
}

fn encode_some(notes: &[Note]) -> Vec<u8> {
    let mut to = RecordWriter::with_capacity(notes.len() * NOTE_BYTES_MAX);
    for note in notes {
        let (tag, host) = match &note.kind {
            NoteKind::Bound(host) => (BOUND, host.as_str()),
            NoteKind::Kept => (KEPT, ""),
            NoteKind::Given => (GIVEN, ""),
            NoteKind::Taken => (TAKEN, ""),
        };
        to.put_with(tag, Need::Required, |bytes| {
            bytes.extend_from_slice(&note.message.bits().to_le_bytes());
            bytes.extend_from_slice(&note.hop.to_le_bytes());
            bytes.extend_from_slice(host.as_bytes());
        });
    }
    to.into_bytes()
}

/// The notes of one payload, in order.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(payload: &[u8]) -> Result<Vec<Note>, DecodeError> {
    let mut notes = Vec::new();
    for record in Records::new(payload) {
        notes.extend(decode_note(&record?)?);
    }
    Ok(notes)
}

/// `None`: a record that needs not be known.
fn decode_note(record: &Record<'_>) -> Result<Option<Note>, DecodeError> {
    if !matches!(record.tag, BOUND | KEPT | GIVEN | TAKEN) {
        return record.skip().map(|()| None);
    }
    let mut fields = record.fields();
    let (message, hop) = (MessageId::from_bits(fields.u128()?), fields.u16()?);
    let kind = match (record.tag, fields.rest()) {
        (BOUND, name) => NoteKind::Bound(host(text(name)?, "bound")?),
        (KEPT, []) => NoteKind::Kept,
        (GIVEN, []) => NoteKind::Given,
        (TAKEN, []) => NoteKind::Taken,
        _ => return Err(DecodeError::Value { record: "note" }),
    };
    Ok(Some(Note { message, hop, kind }))
}

#[cfg(test)]
mod tests;
