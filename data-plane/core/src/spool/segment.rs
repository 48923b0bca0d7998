//! The layout of a segment: header block, batches, frames. Writing them into a buffer and reading them back.
//!
//! All numbers are little-endian. Checksums are CRC-32C (RFC 9260 appendix A).
//!
//! ```text
//! segment header (128 octets, alone in block 0)      batch header (64 octets, at a block boundary)
//!   0  magic "POSTRAIL"                                0  magic "PRBT"
//!   8  u16 version                                     4  u16 version, u16 zero
//!  10  u8 kind, u8 zero                                8  u64 generation
//!  12  u16 shard, u16 zero                            16  u64 sequence
//!  16  u64 generation                                 24  u64 number, from 0 in each segment
//!  24  u64 sequence                                   32  u32 offset of this header in the segment
//!  32  u64 octets of the segment                      36  u32 frames
//!  40  u64 sequence of the segment before, or 0       40  u32 octets of header and frames
//!  48  u32 its end: later batches in it are void      44  zeros
//!  52  u32 zero                                       60  u32 checksum of octets 0 to 59
//!  56  u64 companion
//!  64  zeros                                        frame header (12 octets, directly before its payload)
//! 124  u32 checksum of octets 0 to 123                0  u8 tag, u8 version, u16 flags (zero)
//!                                                     4  u32 octets of the payload
//!                                                     8  u32 checksum of octets 0 to 7 and the payload,
//!                                                        begun from the generation instead of zero
//! ```
//!
//! Magic, version, generation, sequence and checksum of both headers stay where they are in every later version, so
//! that an older binary can say which version it met.

use postrail_schema::ids::ShardId;
use postrail_schema::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, FRAME_BYTES_MAX, SEGMENT_BYTES};

use super::Location;

/// The version that this code writes, of segments and batches. It reads no other.
pub const FORMAT_VERSION: u16 = 1;
/// The version of frame headers and the payloads behind them.
pub const FRAME_VERSION: u8 = 1;
/// Octets of the segment header; the rest of its block is zero.
pub const SEGMENT_HEADER_BYTES: usize = 128;
pub const BATCH_HEADER_BYTES: usize = 64;
pub const FRAME_HEADER_BYTES: usize = 12;
/// Offset of the first batch of a segment.
pub const FIRST_BATCH: u32 = BLOCK_BYTES as u32;
/// Payload octets of the largest frame.
pub const FRAME_PAYLOAD_MAX: usize = FRAME_BYTES_MAX - FRAME_HEADER_BYTES;

/// Head of a job: [`super::job_frame`].
pub const FRAME_TAG_JOB: u8 = 1;
/// A piece of a job's content.
pub const FRAME_TAG_CHUNK: u8 = 2;
/// A buffer of events: [`crate::events`].
pub const FRAME_TAG_EVENTS: u8 = 3;
/// Notes of jobs on their way to other hosts: [`super::note_frame`].
pub const FRAME_TAG_NOTES: u8 = 4;

const SEGMENT_MAGIC: &[u8; 8] = b"POSTRAIL";
const BATCH_MAGIC: &[u8; 4] = b"PRBT";

const _: () = assert!(SEGMENT_BYTES <= u32::MAX as u64, "offsets in a segment have 32 bits");
const _: () = assert!(SEGMENT_HEADER_BYTES <= BLOCK_BYTES, "the segment header is one block");
const _: () = assert!(FRAME_BYTES_MAX + BATCH_HEADER_BYTES <= BATCH_BYTES_MAX, "the largest frame fits a batch");

/// What a segment log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogKind {
    /// Jobs.
    Spool,
    /// Events, settlements among them, and notes.
    Journal,
}

impl LogKind {
    pub const ALL: [Self; 2] = [Self::Spool, Self::Journal];

    /// The octet in the segment header.
    pub const fn tag(self) -> u8 {
        match self {
            Self::Spool => 1,
            Self::Journal => 2,
        }
    }

    /// The name of its folder and its word in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spool => "spool",
            Self::Journal => "journal",
        }
    }
}

/// Why the first block of a file is no header of a segment that this code reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("no segment header: magic, size or checksum is wrong")]
    Invalid,
    #[error("the segment has format version {found}, this binary reads version {FORMAT_VERSION}")]
    Version { found: u16 },
}

/// The header of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub kind: LogKind,
    pub shard: ShardId,
    /// Drawn anew for every use of a file.
    pub generation: u64,
    /// Grows with every segment of a log, never used twice.
    pub sequence: u64,
    /// Sequence of the segment that was closed before this one was begun; 0 for the first after a start.
    pub previous: u64,
    /// Where that segment's acknowledged batches end. Anything later in it was answered as failed.
    pub previous_end: u32,
    /// For a spool: the earliest journal segment in which settlements of this segment's jobs can be.
    pub companion: u64,
}

impl SegmentHeader {
    /// Writes the header into the first block of a zeroed buffer.
    ///
    /// # Panics
    /// If `block` is shorter than the header.
    pub fn write(&self, block: &mut [u8]) {
        block[..8].copy_from_slice(SEGMENT_MAGIC);
        put(block, 8, &FORMAT_VERSION.to_le_bytes());
        block[10] = self.kind.tag();
        put(block, 12, &self.shard.0.to_le_bytes());
        put(block, 16, &self.generation.to_le_bytes());
        put(block, 24, &self.sequence.to_le_bytes());
        put(block, 32, &SEGMENT_BYTES.to_le_bytes());
        put(block, 40, &self.previous.to_le_bytes());
        put(block, 48, &self.previous_end.to_le_bytes());
        put(block, 56, &self.companion.to_le_bytes());
        let crc = crc32c::crc32c(&block[..SEGMENT_HEADER_BYTES - 4]);
        put(block, SEGMENT_HEADER_BYTES - 4, &crc.to_le_bytes());
    }

    /// Reads the header at the start of `block`.
    ///
    /// # Errors
    /// [`HeaderError::Invalid`] for other bytes, [`HeaderError::Version`] for an intact header of another version.
    pub fn read(block: &[u8]) -> Result<Self, HeaderError> {
        let header = block.get(..SEGMENT_HEADER_BYTES).ok_or(HeaderError::Invalid)?;
        let crc = u32_at(header, SEGMENT_HEADER_BYTES - 4);
        if header[..8] != *SEGMENT_MAGIC || crc != crc32c::crc32c(&header[..SEGMENT_HEADER_BYTES - 4]) {
            return Err(HeaderError::Invalid);
        }
        let found = u16_at(header, 8);
        if found != FORMAT_VERSION {
            return Err(HeaderError::Version { found });
        }
        let kind = LogKind::ALL.into_iter().find(|kind| kind.tag() == header[10]).ok_or(HeaderError::Invalid)?;
        if u64_at(header, 32) != SEGMENT_BYTES {
            return Err(HeaderError::Invalid);
        }
        Ok(Self {
            kind,
            shard: ShardId(u16_at(header, 12)),
            generation: u64_at(header, 16),
            sequence: u64_at(header, 24),
            previous: u64_at(header, 40),
            previous_end: u32_at(header, 48),
            companion: u64_at(header, 56),
        })
    }

    pub const fn identity(&self) -> Identity {
        Identity { generation: self.generation, sequence: self.sequence }
    }
}

/// One use of one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub generation: u64,
    pub sequence: u64,
}

impl Identity {
    /// What the checksum of a frame begins from.
    const fn seed(self) -> u32 {
        (self.generation ^ (self.generation >> 32)) as u32
    }
}

/// The header of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    pub version: u16,
    pub identity: Identity,
    pub number: u64,
    /// Of this header in its segment.
    pub offset: u32,
    pub frames: u32,
    /// Octets of header and frames, without padding.
    pub bytes: u32,
}

impl BatchHeader {
    /// Octets to the next batch.
    pub const fn padded_bytes(&self) -> u32 {
        padded(self.bytes as usize) as u32
    }

    /// Reads the header that should be at `offset` of a segment; `None` for other bytes. It is checked in itself and
    /// against its place, not against the segment that it should belong to; of another version, only its checksum is.
    pub fn read(bytes: &[u8], offset: u32) -> Option<Self> {
        let header = bytes.get(..BATCH_HEADER_BYTES)?;
        let crc = u32_at(header, BATCH_HEADER_BYTES - 4);
        if header[..4] != *BATCH_MAGIC || crc != crc32c::crc32c(&header[..BATCH_HEADER_BYTES - 4]) {
            return None;
        }
        let batch = Self {
            version: u16_at(header, 4),
            identity: Identity { generation: u64_at(header, 8), sequence: u64_at(header, 16) },
            number: u64_at(header, 24),
            offset: u32_at(header, 32),
            frames: u32_at(header, 36),
            bytes: u32_at(header, 40),
        };
        let size = batch.bytes as usize;
        let fits = (BATCH_HEADER_BYTES..=BATCH_BYTES_MAX).contains(&size)
            && u64::from(offset) + padded(size) as u64 <= SEGMENT_BYTES;
        (batch.version != FORMAT_VERSION || (batch.offset == offset && fits)).then_some(batch)
    }

    fn write(&self, buffer: &mut [u8]) {
        buffer[..4].copy_from_slice(BATCH_MAGIC);
        put(buffer, 4, &self.version.to_le_bytes());
        put(buffer, 8, &self.identity.generation.to_le_bytes());
        put(buffer, 16, &self.identity.sequence.to_le_bytes());
        put(buffer, 24, &self.number.to_le_bytes());
        put(buffer, 32, &self.offset.to_le_bytes());
        put(buffer, 36, &self.frames.to_le_bytes());
        put(buffer, 40, &self.bytes.to_le_bytes());
        let crc = crc32c::crc32c(&buffer[..BATCH_HEADER_BYTES - 4]);
        put(buffer, BATCH_HEADER_BYTES - 4, &crc.to_le_bytes());
    }
}

/// Fills one zeroed buffer with a batch: frames one after the other, the header last.
pub struct BatchWriter<'a> {
    buffer: &'a mut [u8],
    header: BatchHeader,
}

impl<'a> BatchWriter<'a> {
    /// A batch for `offset` of the segment, in a zeroed buffer that has room for what will be pushed.
    pub fn new(buffer: &'a mut [u8], identity: Identity, number: u64, offset: u32) -> Self {
        let bytes = BATCH_HEADER_BYTES as u32;
        Self { buffer, header: BatchHeader { version: FORMAT_VERSION, identity, number, offset, frames: 0, bytes } }
    }

    /// Copies one frame behind the others; answers where it will be.
    ///
    /// # Panics
    /// If the frame is too large for the buffer or the format: the caller has counted.
    pub fn push(&mut self, tag: u8, payload: &[u8]) -> Location {
        assert!(payload.len() <= FRAME_PAYLOAD_MAX, "the appender bounds its frames");
        let at = self.header.bytes as usize;
        let bytes = FRAME_HEADER_BYTES + payload.len();
        let frame = &mut self.buffer[at..at + bytes];
        frame[0] = tag;
        frame[1] = FRAME_VERSION;
        put(frame, 4, &(payload.len() as u32).to_le_bytes());
        frame[FRAME_HEADER_BYTES..].copy_from_slice(payload);
        let crc = crc32c::crc32c_append(self.header.identity.seed(), &frame[..8]);
        let crc = crc32c::crc32c_append(crc, payload);
        put(frame, 8, &crc.to_le_bytes());
        let location = Location {
            segment: self.header.identity.sequence,
            offset: self.header.offset + self.header.bytes,
            bytes: bytes as u32,
        };
        self.header.bytes += bytes as u32;
        self.header.frames += 1;
        location
    }

    /// Writes the header; the buffer is then ready for the disk.
    pub fn finish(self) -> BatchHeader {
        self.header.write(self.buffer);
        self.header
    }
}

/// One frame in a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    pub tag: u8,
    pub version: u8,
    pub payload: &'a [u8],
    pub location: Location,
}

/// Why bytes are not the frame that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Its length runs out of the buffer: nothing behind it can be found.
    #[error("the frame is longer than what holds it")]
    Length,
    /// Its length is plausible and its checksum is not: the next frame may be whole.
    #[error("the checksum of the frame does not match")]
    Checksum { bytes: u32 },
}

impl<'a> Frame<'a> {
    /// Reads the frame at the start of `bytes`, which is at `offset` of the segment.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn read(bytes: &'a [u8], identity: Identity, offset: u32) -> Result<Self, FrameError> {
        let frame = Self::read_unchecked(bytes, identity, offset)?;
        let crc = crc32c::crc32c_append(identity.seed(), &bytes[..8]);
        if u32_at(bytes, 8) != crc32c::crc32c_append(crc, frame.payload) {
            return Err(FrameError::Checksum { bytes: frame.location.bytes });
        }
        Ok(frame)
    }

    /// Reads a frame whose checksum is known to match, or does not matter.
    fn read_unchecked(bytes: &'a [u8], identity: Identity, offset: u32) -> Result<Self, FrameError> {
        let header = bytes.get(..FRAME_HEADER_BYTES).ok_or(FrameError::Length)?;
        let payload_bytes = u32_at(header, 4) as usize;
        if payload_bytes > FRAME_PAYLOAD_MAX {
            return Err(FrameError::Length);
        }
        let total = FRAME_HEADER_BYTES + payload_bytes;
        let payload = bytes.get(FRAME_HEADER_BYTES..total).ok_or(FrameError::Length)?;
        let location = Location { segment: identity.sequence, offset, bytes: total as u32 };
        Ok(Self { tag: header[0], version: header[1], payload, location })
    }
}

/// The frames of a batch in the order of writing. After a bad length it ends; after a bad checksum it goes on.
pub struct Frames<'a> {
    rest: &'a [u8],
    identity: Identity,
    offset: u32,
    /// The checksums have been seen to match.
    is_valid: bool,
}

impl<'a> Frames<'a> {
    /// Over the octets of a batch, its header included.
    pub fn new(batch: &'a [u8], header: &BatchHeader) -> Self {
        let end = batch.len().min(header.bytes as usize);
        let rest = batch.get(BATCH_HEADER_BYTES..end).unwrap_or_default();
        let offset = header.offset + BATCH_HEADER_BYTES as u32;
        Self { rest, identity: header.identity, offset, is_valid: false }
    }

    /// Over a batch of which [`Self::all_valid`] has said so: no checksum is computed a second time.
    pub fn of_valid(batch: &'a [u8], header: &BatchHeader) -> Self {
        Self { is_valid: true, ..Self::new(batch, header) }
    }

    /// Whether the batch is valid: every frame is, and they fill it exactly.
    pub fn all_valid(batch: &'a [u8], header: &BatchHeader) -> bool {
        let mut count = 0_u32;
        for frame in Self::new(batch, header) {
            if frame.is_err() {
                return false;
            }
            count += 1;
        }
        batch.len() >= header.bytes as usize && count == header.frames
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = if self.is_valid { Frame::read_unchecked } else { Frame::read };
        let frame = read(self.rest, self.identity, self.offset);
        let bytes = match &frame {
            Ok(frame) => frame.location.bytes,
            Err(FrameError::Checksum { bytes }) => *bytes,
            Err(FrameError::Length) => self.rest.len() as u32,
        };
        self.rest = &self.rest[bytes as usize..];
        self.offset += bytes;
        Some(frame)
    }
}

/// `bytes` up to the next block boundary.
pub const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDENTITY: Identity = Identity { generation: 0x1122_3344_5566_7788, sequence: 9 };

    fn header() -> SegmentHeader {
        SegmentHeader {
            kind: LogKind::Journal,
            shard: ShardId(3),
            generation: IDENTITY.generation,
            sequence: IDENTITY.sequence,
            previous: 8,
            previous_end: 12_288,
            companion: 4,
        }
    }

    #[test]
    fn tags_are_what_they_were_and_never_meet() {
        assert_eq!([FRAME_TAG_JOB, FRAME_TAG_CHUNK, FRAME_TAG_EVENTS, FRAME_TAG_NOTES], [1, 2, 3, 4]);
        assert_eq!(LogKind::ALL.map(LogKind::tag), [1, 2]);
    }

    #[test]
    fn a_segment_header_reads_back_and_notices_every_flipped_bit() {
        let mut block = vec![0; BLOCK_BYTES];
        header().write(&mut block);
        assert_eq!(SegmentHeader::read(&block), Ok(header()));
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::read(&block), Err(HeaderError::Invalid), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn an_intact_header_of_another_version_says_which() {
        let mut block = vec![0; BLOCK_BYTES];
        header().write(&mut block);
        block[8] = 2;
        let crc = crc32c::crc32c(&block[..SEGMENT_HEADER_BYTES - 4]);
        put(&mut block, SEGMENT_HEADER_BYTES - 4, &crc.to_le_bytes());
        assert_eq!(SegmentHeader::read(&block), Err(HeaderError::Version { found: 2 }));
    }

    #[test]
    fn a_batch_reads_back_only_at_its_own_offset() {
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut writer = BatchWriter::new(&mut buffer, IDENTITY, 5, 8_192);
        let first = writer.push(FRAME_TAG_JOB, b"one");
        let second = writer.push(FRAME_TAG_CHUNK, b"");
        let batch = writer.finish();
        assert_eq!((first.offset, first.bytes, second.offset), (8_192 + 64, 15, 8_192 + 64 + 15));
        assert_eq!(BatchHeader::read(&buffer, 8_192), Some(batch));
        assert_eq!(BatchHeader::read(&buffer, 4_096), None);
        assert!(Frames::all_valid(&buffer, &batch));
        let frames: Vec<_> = Frames::new(&buffer, &batch).map(|frame| frame.expect("whole")).collect();
        assert_eq!(frames.iter().map(|f| (f.tag, f.payload)).collect::<Vec<_>>(), [(1, &b"one"[..]), (2, b"")]);
    }

    #[test]
    fn a_frame_of_another_generation_does_not_read() {
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut writer = BatchWriter::new(&mut buffer, IDENTITY, 0, 4_096);
        let at = writer.push(FRAME_TAG_JOB, b"stale");
        writer.finish();
        let stale = Identity { generation: IDENTITY.generation + 1, ..IDENTITY };
        assert!(Frame::read(&buffer[64..], IDENTITY, at.offset).is_ok());
        assert_eq!(Frame::read(&buffer[64..], stale, at.offset), Err(FrameError::Checksum { bytes: at.bytes }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), at in any::<u32>()) {
            let _ = SegmentHeader::read(&bytes);
            let _ = BatchHeader::read(&bytes, at);
            let _ = Frame::read(&bytes, IDENTITY, at % 4_096);
        }

        #[test]
        fn one_flipped_bit_in_a_batch_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..300), at in any::<usize>()) {
            let mut buffer = vec![0; BLOCK_BYTES];
            let mut writer = BatchWriter::new(&mut buffer, IDENTITY, 0, 4_096);
            writer.push(FRAME_TAG_JOB, &payload);
            let batch = writer.finish();
            let bit = at % (batch.bytes as usize * 8);
            buffer[bit / 8] ^= 1 << (bit % 8);
            let valid = BatchHeader::read(&buffer, 4_096).is_some_and(|header| Frames::all_valid(&buffer, &header));
            prop_assert!(!valid);
        }
    }
}
