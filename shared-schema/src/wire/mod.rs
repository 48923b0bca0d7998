//! The wire forms: snapshots, manifests and events as flatbuffers (`schema/*.fbs`), and back.
//!
//! Decoding treats its input as hostile: every buffer is verified (offsets, alignment, UTF-8, required fields, depth,
//! table count) before a field is read, and what the schema cannot say (closed enums, address lengths, a suspension's
//! one target) is checked while reading. It never panics; it does not detect changed value bytes, which is the duty of
//! the log's or the transport's checksum.
//!
//! Invariants worth naming: decoding what was encoded gives an equal value; encoding is deterministic; a reader refuses
//! a format above [`FORMAT`]. Absent here: any check of one record against another (that is
//! [`Snapshot::new`](crate::snapshot::Snapshot::new)), and compression.

mod events;
mod listener;
mod manifest;
mod policy;
mod shaping;
mod snapshot;
mod suppressions;
mod tls;

use std::net::IpAddr;

use flatbuffers::{FlatBufferBuilder, InvalidFlatbuffer, Vector, VerifierOptions, WIPOffset};

pub use events::{EventHead, decode_event_briefs, decode_events, encode_events, read_heads};
pub use manifest::{decode_advance, decode_manifest, encode_advance, encode_manifest};
pub use snapshot::{
    FORMAT_LATEST as SNAPSHOT_FORMAT, FORMAT_SHARED as SNAPSHOT_FORMAT_SHARED, decode_snapshot, encode_snapshot,
};
pub use suppressions::{decode_suppression_delta, encode_suppression_delta};

/// The format that this code writes, and the newest that it reads.
pub const FORMAT: u16 = 1;

/// Why bytes are no snapshot, no manifest or no events.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("not a buffer of kind {expected}")]
    Kind { expected: &'static str },
    #[error("{length} octets, at most {length_max} are read")]
    TooLong { length: usize, length_max: usize },
    #[error("the buffer does not verify")]
    Malformed(#[source] InvalidFlatbuffer),
    #[error("format {found} is newer than this version reads; start a newer one")]
    NewerFormat { found: u16 },
    #[error("{field} has the unknown value {value}")]
    UnknownValue { field: &'static str, value: u8 },
    #[error("{field} has {length} octets, an address has 4 or 16")]
    Address { field: &'static str, length: usize },
    #[error("source {id} asks for a host by a name that none can have")]
    SourceHost { id: u32 },
    #[error("suspension {id} does not name exactly one target")]
    SuspensionTarget { id: u32 },
    #[error("shaping rule {id} has a rate that is none")]
    ShapingRate { id: u32 },
    #[error("a listener asks for a host by a name that none can have")]
    ListenerHost,
    #[error("the manifest names the {kind} {bucket} out of order")]
    ChunkOrder { kind: &'static str, bucket: u32 },
    #[error("the way to the next manifest does not say which that is")]
    AdvanceEnd,
    #[error("the chunks that are named have {named} octets, and {found} go with them")]
    AdvanceBytes { named: usize, found: usize },
    #[error("the manifest names {chunks} chunks, at most {chunks_max} are read")]
    TooManyChunks { chunks: usize, chunks_max: usize },
    #[error("{length} octets are no changes of suppressions: they end too early")]
    DeltaCut { length: usize },
}

impl From<InvalidFlatbuffer> for WireError {
    fn from(source: InvalidFlatbuffer) -> Self {
        Self::Malformed(source)
    }
}

/// What every buffer must be before it is verified: not too long, and of the expected kind.
fn check_frame(bytes: &[u8], expected: &'static str, length_max: usize) -> Result<(), WireError> {
    if bytes.len() > length_max {
        return Err(WireError::TooLong { length: bytes.len(), length_max });
    }
    // The identifier follows the root offset.
    if bytes.get(4..8) != Some(expected.as_bytes()) {
        return Err(WireError::Kind { expected });
    }
    Ok(())
}

fn check_format(found: u16) -> Result<(), WireError> {
    if found > FORMAT { Err(WireError::NewerFormat { found }) } else { Ok(()) }
}

/// A verified buffer of `length` octets cannot hold more tables than that divided by a table's least size.
fn verifier(length: usize) -> VerifierOptions {
    VerifierOptions { max_depth: 16, max_tables: length / 4 + 16, ..VerifierOptions::default() }
}

type AddressVector<'b> = WIPOffset<Vector<'b, u8>>;

fn put_address<'b>(to: &mut FlatBufferBuilder<'b>, address: IpAddr) -> AddressVector<'b> {
    match address {
        IpAddr::V4(address) => to.create_vector(&address.octets()),
        IpAddr::V6(address) => to.create_vector(&address.octets()),
    }
}

fn read_address(field: &'static str, bytes: Vector<'_, u8>) -> Result<IpAddr, WireError> {
    let bytes = bytes.bytes();
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(four.into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes).map_err(|_| WireError::Address { field, length: bytes.len() })?;
    Ok(sixteen.into())
}
