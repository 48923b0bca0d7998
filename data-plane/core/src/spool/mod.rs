//! The durable truth about mail, as bytes: segments, batches, frames, and how a segment is read back after a crash.
//!
//! ```text
//! segment   = header block, batch*                 64 MiB, preallocated, recycled            [segment]
//! batch     = batch header, frame*, zero padding   written at once, synced once              [segment]
//! frame     = frame header, payload                the unit that a Location names            [segment]
//! job head  = record*                              everything but the content, or all of it  [job_frame]
//! chunk     = a piece of the content               where the content outgrows the head       [job_frame]
//! notes     = record*                              what became of jobs on their way elsewhere [note_frame]
//! summary   = the heads of a closed segment's jobs without their content, in a file beside it [summary]
//! ```
//!
//! Invariants worth naming:
//! - a job exists when its head frame is durable; content chunks are durable before it;
//! - bytes of an earlier use of a file are never replayed: every batch names its segment's sequence and generation,
//!   and the checksum of every frame is keyed with the generation;
//! - what recovery does with a batch is one row of one table ([`recovery`]).
//!
//! Deliberately absent: files, waiting and time. The pumps `log`, `spool` and `journal` of the data plane have those.
//! The layout is told for readers in `docs/spool-format.md`.

mod content;
pub mod job_frame;
pub mod note_frame;
mod record;
pub mod recovery;
pub mod scan;
pub mod segment;
pub mod summary;

pub use job_frame::{Carried, DecodeError, EncodeError, JobMeta};
pub use recovery::Decision;
pub use scan::{Damage, Ending, Found, Scanner};
pub use segment::{FRAME_TAG_CHUNK, FRAME_TAG_EVENTS, FRAME_TAG_JOB, FRAME_TAG_NOTES, LogKind, SegmentHeader};

/// Where a frame is: the sequence of its segment, the offset of its header, its octets with the header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Location {
    pub segment: u64,
    pub offset: u32,
    pub bytes: u32,
}

impl Location {
    /// Octets of the stored form.
    pub const BYTES: usize = 16;

    /// Segment, offset and length, little-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }
}

const _: () = assert!(size_of::<Location>() == Location::BYTES, "a location is kept for every job: it stays small");
