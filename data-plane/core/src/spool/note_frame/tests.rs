//! Notes there and back, cut short, spoilt, and as version 1 wrote them.

use postrail_schema::allocation::HostName;
use proptest::prelude::*;

use super::*;

/// A payload as version 1 writes it. It must read for ever; it changes with a new version only.
const GOLDEN: &[u8] = include_bytes!("golden/notes_v1.bin");

fn host(name: &str) -> HostName {
    HostName::new(name).expect("a name")
}

fn notes() -> Vec<Note> {
    let note = |hop, kind| Note { message: MessageId::from_bits(0x0190_0000_0000_7000_8000_0000_0000_0001), hop, kind };
    vec![note(0, NoteKind::Bound(host("mta-2.example.net"))), note(0, NoteKind::Kept), note(515, NoteKind::Given)]
}

fn payload(notes: &[Note]) -> Vec<u8> {
    let payloads = encode(notes);
    assert_eq!(payloads.len(), 1);
    payloads.concat()
}

#[test]
fn notes_read_back_in_their_order() {
    assert_eq!(decode(&payload(&notes())), Ok(notes()));
    assert!(encode(&[]).is_empty(), "no notes are no frame");
}

#[test]
fn the_notes_of_version_1_still_read_and_are_still_written() {
    assert_eq!(decode(GOLDEN), Ok(notes()));
    assert_eq!(payload(&notes()), GOLDEN, "a change of the format needs a new version");
}

#[test]
fn a_note_of_a_job_that_was_taken_is_its_tag_its_length_its_id_and_its_hop() {
    let taken = [Note { message: MessageId::from_bits(0x0102), hop: 3, kind: NoteKind::Taken }];
    let mut octets = vec![4, 1, 18, 0, 0, 0, 2, 1];
    octets.extend([0; 14]);
    octets.extend([3, 0]);
    assert_eq!((payload(&taken), decode(&octets)), (octets, Ok(taken.to_vec())));
}

#[test]
fn more_notes_than_a_frame_holds_take_several_and_every_frame_fits() {
    let note = |number| Note {
        message: MessageId::from_bits(number),
        hop: 1,
        kind: NoteKind::Bound(host(&"h".repeat(postrail_schema::limits::HOST_NAME_BYTES_MAX))),
    };
    let notes: Vec<_> = (0..20_000).map(note).collect();
    let payloads = encode(&notes);
    assert!(payloads.len() > 1 && payloads.iter().all(|payload| payload.len() <= FRAME_PAYLOAD_MAX));
    let back: Vec<_> = payloads.iter().flat_map(|payload| decode(payload).expect("whole")).collect();
    assert_eq!(back, notes);
}

#[test]
fn a_note_that_is_not_known_is_passed_over_if_optional_and_refused_if_required() {
    for (need, read) in [(Need::Optional, Ok(notes())), (Need::Required, Err(DecodeError::UnknownRecord { tag: 9 }))] {
        let mut to = RecordWriter::continue_in(payload(&notes()));
        to.put(9, need, b"news");
        assert_eq!(decode(&to.into_bytes()), read);
    }
}

#[test]
fn a_note_with_a_name_that_cannot_be_or_with_more_than_it_tells_is_refused() {
    let with = |tag, rest: &[u8]| {
        let mut to = RecordWriter::with_capacity(100);
        to.put(tag, Need::Required, &[&[0; 18][..], rest].concat());
        decode(&to.into_bytes())
    };
    let too_long = [b'h'; 64];
    for (tag, rest) in
        [(BOUND, &b""[..]), (BOUND, b"a b"), (BOUND, b"\xff"), (BOUND, &too_long), (KEPT, b"x"), (GIVEN, b"x")]
    {
        assert!(with(tag, rest).is_err(), "{tag} {rest:?}");
    }
    assert!(with(BOUND, b"h").is_ok() && with(KEPT, b"").is_ok() && with(GIVEN, b"").is_ok());
}

#[test]
fn every_cut_within_a_note_is_refused() {
    let payload = payload(&notes()[..1]);
    for cut in 1..payload.len() {
        assert!(decode(&payload[..cut]).is_err(), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn spoilt_notes_are_read_without_panic(at in any::<usize>(), value in any::<u8>()) {
        let mut payload = payload(&notes());
        let length = payload.len();
        payload[at % length] = value;
        let _ = decode(&payload);
    }
}
