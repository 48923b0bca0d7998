//! The summary of a closed spool segment: the heads of its jobs without their content, in a file beside the segment.
//! With it a start reads what grows with the number of jobs and not what grows with their size.
//!
//! ```text
//! header (48 octets)                                 entry
//!   0  magic "PRSUMMRY"                                0  u32 offset of the frame in the segment
//!   8  u16 version, u16 shard                          4  u32 octets of the frame with its header
//!  12  u32 the segment's end                           8  u32 octets of the head
//!  16  u64 generation                                 12  the records of the job's frame, but for its content
//!  24  u64 sequence
//!  32  u32 entries                                  behind the last entry
//!  36  zeros                                           0  u32 checksum of all before
//! ```
//!
//! A summary is a copy: where it is missing, torn or of another use of the file, the segment itself is read.

use super::Location;
use super::segment::{Identity, SegmentHeader};

/// Octets of a summary at most; a segment that needs more is read itself, for it has little content.
pub const SUMMARY_BYTES_MAX: usize = 8 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"PRSUMMRY";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 48;
const ENTRY_HEADER_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;

/// Heads that gather for the summary of one segment, in the form of its file.
#[derive(Debug, Default)]
pub struct SummaryDraft {
    entries: Vec<u8>,
}

impl SummaryDraft {
    /// Appends the head of the job at `at`; `false`: the summary would grow over [`SUMMARY_BYTES_MAX`].
    pub fn push(&mut self, at: Location, head: &[u8]) -> bool {
        let bytes = HEADER_BYTES + self.entries.len() + ENTRY_HEADER_BYTES + head.len() + CHECKSUM_BYTES;
        if bytes > SUMMARY_BYTES_MAX {
            return false;
        }
        for number in [at.offset, at.bytes, head.len() as u32] {
            self.entries.extend_from_slice(&number.to_le_bytes());
        }
        self.entries.extend_from_slice(head);
        true
    }

    /// Drops the jobs that are not needed any more.
    pub fn retain(&mut self, segment: u64, mut is_needed: impl FnMut(Location) -> bool) {
        let mut kept = Self::default();
        for (at, head) in Heads::new(&self.entries, segment) {
            if is_needed(at) {
                kept.push(at, head);
            }
        }
        kept.entries.shrink_to_fit();
        *self = kept;
    }

    /// The file for the segment that `header` describes, whose batches end at `end`.
    pub fn finish(&self, header: &SegmentHeader, end: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.entries.len() + CHECKSUM_BYTES);
        let entries = Heads::new(&self.entries, header.sequence).count() as u32;
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&header.shard.0.to_le_bytes());
        bytes.extend_from_slice(&end.to_le_bytes());
        bytes.extend_from_slice(&header.generation.to_le_bytes());
        bytes.extend_from_slice(&header.sequence.to_le_bytes());
        bytes.extend_from_slice(&entries.to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(&self.entries);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// A summary that was read back.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a> {
    /// Where the segment's batches end.
    pub end: u32,
    entries: &'a [u8],
    segment: u64,
}

impl<'a> Summary<'a> {
    /// The summary in `bytes`, if it is whole and of this use of the segment that `header` describes.
    pub fn read(bytes: &'a [u8], identity: Identity) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        let (header, entries) = body.split_first_chunk::<HEADER_BYTES>()?;
        let of_ours = header[..8] == *MAGIC
            && header[8..10] == VERSION.to_le_bytes()
            && header[16..24] == identity.generation.to_le_bytes()
            && header[24..32] == identity.sequence.to_le_bytes();
        if !of_ours || crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let end = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        Some(Self { end, entries, segment: identity.sequence })
    }

    /// Every job: where its frame is, and its head for [`super::job_frame::decode_head`].
    pub fn heads(&self) -> Heads<'a> {
        Heads::new(self.entries, self.segment)
    }
}

/// Iterates over entries; it ends where they are cut.
#[derive(Clone, Debug)]
pub struct Heads<'a> {
    rest: &'a [u8],
    segment: u64,
}

impl<'a> Heads<'a> {
    const fn new(entries: &'a [u8], segment: u64) -> Self {
        Self { rest: entries, segment }
    }

    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(u32::from_le_bytes(*number))
    }
}

impl<'a> Iterator for Heads<'a> {
    type Item = (Location, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (offset, bytes, head) = (self.number()?, self.number()?, self.number()?);
        let (head, rest) = self.rest.split_at_checked(head as usize)?;
        self.rest = rest;
        Some((Location { segment: self.segment, offset, bytes }, head))
    }
}

#[cfg(test)]
mod tests {
    use postrail_schema::ids::ShardId;
    use proptest::prelude::*;

    use super::*;
    use crate::spool::LogKind;

    fn header() -> SegmentHeader {
        SegmentHeader {
            kind: LogKind::Spool,
            shard: ShardId(3),
            generation: 0x1122_3344_5566_7788,
            sequence: 9,
            previous: 8,
            previous_end: 12_288,
            companion: 4,
        }
    }

    fn at(offset: u32) -> Location {
        Location { segment: 9, offset, bytes: 100 }
    }

    fn draft() -> SummaryDraft {
        let mut draft = SummaryDraft::default();
        for (offset, head) in [(4_160, &b"one"[..]), (4_260, b""), (4_360, b"three")] {
            assert!(draft.push(at(offset), head));
        }
        draft
    }

    #[test]
    fn a_summary_reads_back_what_is_still_needed() {
        let mut draft = draft();
        draft.retain(9, |location| location.offset != 4_260);
        let bytes = draft.finish(&header(), 8_192);
        let summary = Summary::read(&bytes, header().identity()).expect("whole");
        assert_eq!(summary.end, 8_192);
        assert_eq!(summary.heads().collect::<Vec<_>>(), [(at(4_160), &b"one"[..]), (at(4_360), b"three")]);
    }

    #[test]
    fn what_version_1_wrote_is_read_for_ever() {
        let bytes = draft().finish(&header(), 8_192);
        let hex: String = bytes.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(
            hex,
            "505253554d4d5259010003000020000088776655443322110900000000000000030000000000000000000000000000004010000064000000\
             030000006f6e65a4100000640000000000000008110000640000000500000074687265653f316626"
        );
    }

    #[test]
    fn a_summary_of_another_use_of_the_file_is_none() {
        let bytes = draft().finish(&header(), 8_192);
        let other = Identity { generation: 1, ..header().identity() };
        assert!(Summary::read(&bytes, other).is_none());
    }

    #[test]
    fn a_summary_does_not_outgrow_its_bound() {
        let mut draft = SummaryDraft::default();
        let head = vec![0; SUMMARY_BYTES_MAX / 2];
        assert!(draft.push(at(1), &head));
        assert!(!draft.push(at(2), &head));
        assert!(draft.finish(&header(), 1).len() <= SUMMARY_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_a_cut_is_noticed(at in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = draft().finish(&header(), 8_192);
            prop_assert!(Summary::read(&bytes[..cut.index(bytes.len())], header().identity()).is_none());
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Summary::read(&bytes, header().identity()).is_none());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Summary::read(&bytes, header().identity());
            let _ = Heads::new(&bytes, 1).count();
        }
    }
}
