//! Segments in memory, cut and spoilt in every way that a disk can.

use proptest::prelude::*;

use super::super::segment::{BatchWriter, FRAME_TAG_JOB, padded};
use super::*;

const BLOCK: usize = BLOCK_BYTES;
const NEW: Identity = Identity { generation: 77, sequence: 2 };
const OLD: Identity = Identity { generation: 33, sequence: 1 };

/// A segment's first octets with one batch a payload list; answers the offsets behind the batches too.
fn segment(identity: Identity, batches: &[Vec<Vec<u8>>]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = vec![0; BLOCK];
    let mut ends = Vec::new();
    for (number, payloads) in (0..).zip(batches) {
        let size = padded(64 + payloads.iter().map(|payload| 12 + payload.len()).sum::<usize>());
        let mut buffer = vec![0; size];
        let mut writer = BatchWriter::new(&mut buffer, identity, number, bytes.len() as u32);
        for payload in payloads {
            writer.push(FRAME_TAG_JOB, payload);
        }
        writer.finish();
        bytes.extend_from_slice(&buffer);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

/// Batches of two frames: batch `n` is about `n + 1` blocks long.
fn batches(count: u8) -> Vec<Vec<Vec<u8>>> {
    (0..count).map(|n| vec![vec![n; BLOCK * usize::from(n) + 100], vec![n | 0x80; 900]]).collect()
}

struct Scanned {
    payloads: Vec<Vec<u8>>,
    damaged: Vec<Damage>,
    ending: Ending,
}

/// Scans `bytes` as a segment file that is zero behind them.
fn scan(identity: Identity, bytes: &[u8], end: Option<u32>) -> Scanned {
    let mut scanner = Scanner::new(identity, end);
    let (mut payloads, mut damaged) = (Vec::new(), Vec::new());
    let mut steps = 0;
    while let Some((offset, wanted)) = scanner.want() {
        let mut window = vec![0; wanted as usize];
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let have = from.len().min(window.len());
        window[..have].copy_from_slice(&from[..have]);
        scanner.handle(&window, &mut |found| match found {
            Found::Frame(frame) => payloads.push(frame.payload.to_vec()),
            Found::Damaged(damage) => damaged.push(damage),
            Found::BatchEnd { .. } => {}
        });
        steps += 1;
        assert!(steps < 10_000, "the scan does not end");
    }
    Scanned { payloads, damaged, ending: scanner.ending().expect("it is over") }
}

fn flat(batches: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    batches.concat()
}

#[test]
fn whole_batches_are_replayed_in_order() {
    let written = batches(5);
    let (bytes, ends) = segment(NEW, &written);
    let scanned = scan(NEW, &bytes, None);
    assert_eq!(scanned.payloads, flat(&written));
    assert_eq!(scanned.ending, Ending::End { at: ends[4] as u32 });
    assert!(scanned.damaged.is_empty());
}

#[test]
fn an_empty_segment_ends_at_once() {
    let scanned = scan(NEW, &[0; BLOCK], None);
    assert_eq!((scanned.payloads.len(), scanned.ending), (0, Ending::End { at: FIRST_BATCH }));
}

#[test]
fn a_last_batch_torn_at_any_sector_is_dropped_whole_and_the_others_stay() {
    let written = batches(4);
    let (bytes, ends) = segment(NEW, &written);
    let kept = flat(&written[..3]);
    // The octets that count: behind them is padding, whose loss is none.
    let used = ends[2] + 64 + 12 + BLOCK * 3 + 100 + 12 + 900;
    for cut in (ends[2]..used).step_by(512) {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        let scanned = scan(NEW, &torn, None);
        assert_eq!(scanned.payloads, kept, "cut at {cut}");
        assert!(scanned.damaged.is_empty(), "cut at {cut}");
        let at = ends[2] as u32;
        let ending = if cut == ends[2] { Ending::End { at } } else { Ending::TornTail { at } };
        assert_eq!(scanned.ending, ending, "cut at {cut}");
    }
}

#[test]
fn a_last_batch_that_misses_any_one_sector_is_dropped_whole() {
    let written = batches(3);
    let (bytes, ends) = segment(NEW, &written);
    let used = ends[1] + 64 + 12 + BLOCK * 2 + 100 + 12 + 900;
    for hole in (ends[1]..used).step_by(512) {
        let mut torn = bytes.clone();
        torn[hole..hole + 512].fill(0);
        let scanned = scan(NEW, &torn, None);
        assert_eq!(scanned.payloads, flat(&written[..2]), "hole at {hole}");
        assert!(scanned.damaged.is_empty(), "hole at {hole}");
    }
}

#[test]
fn what_a_reused_file_held_before_is_never_replayed() {
    let (stale, _) = segment(OLD, &batches(8));
    let written = batches(3);
    let (fresh, ends) = segment(NEW, &written);
    for (count, end) in (0..=3).zip([BLOCK].iter().chain(&ends)) {
        let mut bytes = stale.clone();
        bytes[..*end].copy_from_slice(&fresh[..*end]);
        let scanned = scan(NEW, &bytes, None);
        assert_eq!(scanned.payloads, flat(&written[..count]), "{count} batches");
        assert_eq!(scanned.ending, Ending::End { at: *end as u32 });
        assert!(scanned.damaged.is_empty());
    }
}

#[test]
fn a_batch_torn_over_stale_data_is_dropped_at_every_sector() {
    let mut before = batches(4);
    before.iter_mut().flatten().flatten().for_each(|byte| *byte |= 0x40);
    let (stale, _) = segment(OLD, &before);
    let (fresh, ends) = segment(NEW, &batches(4));
    let used = ends[2] + 64 + 12 + BLOCK * 3 + 100 + 12 + 900;
    // The old batches had the same lengths, so whole stale frames stand where new ones should.
    for cut in (ends[2]..used).step_by(512) {
        let mut bytes = fresh.clone();
        bytes[cut..].copy_from_slice(&stale[cut..]);
        assert!(scan(NEW, &bytes, None).payloads == flat(&batches(3)), "cut at {cut}");
    }
}

#[test]
fn damage_in_the_middle_keeps_the_good_frames_and_is_reported() {
    let written = batches(4);
    let (bytes, ends) = segment(NEW, &written);
    let mut spoilt = bytes.clone();
    spoilt[ends[0] + 64 + 12 + 50] ^= 1; // in the first frame of batch 1
    let scanned = scan(NEW, &spoilt, None);
    let mut kept = flat(&written);
    kept.remove(2);
    assert_eq!(scanned.payloads, kept);
    let damage =
        Damage { segment: NEW.sequence, offset: ends[0] as u32, bytes: (ends[1] - ends[0]) as u32, frames_kept: 1 };
    assert_eq!(scanned.damaged, [damage]);
}

#[test]
fn a_lost_batch_header_in_the_middle_costs_that_batch_only() {
    let written = batches(5);
    let (bytes, ends) = segment(NEW, &written);
    let mut spoilt = bytes.clone();
    spoilt[ends[1]..ends[1] + 64].fill(0);
    let scanned = scan(NEW, &spoilt, None);
    assert_eq!(scanned.payloads, [flat(&written[..2]), flat(&written[3..])].concat());
    assert_eq!(scanned.damaged.len(), 1);
}

#[test]
fn a_known_end_tells_damage_from_a_torn_tail_and_voids_what_is_behind() {
    let written = batches(4);
    let (bytes, ends) = segment(NEW, &written);
    let voided = scan(NEW, &bytes, Some(ends[2] as u32));
    assert_eq!(voided.payloads, flat(&written[..3]), "the batch behind the end was answered as failed");
    let mut spoilt = bytes.clone();
    spoilt[ends[2] + 100] ^= 1;
    let scanned = scan(NEW, &spoilt, Some(ends[3] as u32));
    assert_eq!(scanned.damaged.len(), 1, "the last batch was acknowledged");
    assert_eq!(scanned.ending, Ending::End { at: ends[3] as u32 });
}

#[test]
fn a_misplaced_batch_is_not_taken_for_the_one_that_should_be_there() {
    let written = batches(3);
    let (bytes, ends) = segment(NEW, &written);
    let mut spoilt = bytes.clone();
    let first = bytes[BLOCK..ends[0]].to_vec();
    spoilt[ends[0]..ends[0] + first.len()].copy_from_slice(&first);
    let scanned = scan(NEW, &spoilt, None);
    assert_eq!(scanned.payloads, [flat(&written[..1]), flat(&written[2..])].concat());
    assert_eq!(scanned.damaged.len(), 1);
}

#[test]
fn a_truncated_file_ends_the_scan() {
    let (bytes, ends) = segment(NEW, &batches(4));
    let mut scanner = Scanner::new(NEW, None);
    let mut count = 0;
    while let Some((offset, wanted)) = scanner.want() {
        let file = &bytes[..ends[2] + BLOCK];
        let from = (offset as usize).min(file.len());
        let window = &file[from..(from + wanted as usize).min(file.len())];
        scanner.handle(window, &mut |found| count += usize::from(matches!(found, Found::Frame(_))));
    }
    assert_eq!(count, 6);
}

#[test]
fn a_batch_of_a_newer_version_stops_the_scan() {
    let (mut bytes, _) = segment(NEW, &batches(2));
    bytes[BLOCK + 4] = 9;
    let crc = crc32c::crc32c(&bytes[BLOCK..BLOCK + 60]);
    bytes[BLOCK + 60..BLOCK + 64].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(scan(NEW, &bytes, None).ending, Ending::WrongVersion { found: 9 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn spoilt_bytes_never_give_a_frame_that_was_not_written(
        spoils in prop::collection::vec((BLOCK..40_000_usize, any::<u8>()), 1..20),
        end in prop::option::of(0..12_u32),
    ) {
        let written = batches(4);
        let (mut bytes, _) = segment(NEW, &written);
        let length = bytes.len();
        for (at, value) in spoils {
            bytes[at % length] = value;
        }
        let known = flat(&written);
        let scanned = scan(NEW, &bytes, end.map(|blocks| blocks * BLOCK as u32));
        prop_assert!(scanned.payloads.iter().all(|payload| known.contains(payload)));
    }
}
