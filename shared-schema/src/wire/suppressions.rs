//! What leads from one list of suppressions to another, as two snapshots: those that were added, and those removed.
//!
//! ```text
//! length of the first u32 (little-endian) | snapshot with what was added | snapshot with what was removed
//! ```

use super::{WireError, decode_snapshot, encode_snapshot};
use crate::snapshot::{SnapshotContent, Suppression};
use crate::suppressions::SuppressionDelta;

/// The octets of `delta`.
pub fn encode_suppression_delta(delta: &SuppressionDelta) -> Vec<u8> {
    let encode = |suppressions: &[Suppression]| {
        encode_snapshot(&SnapshotContent { suppressions: suppressions.to_vec(), ..SnapshotContent::default() })
    };
    let (added, removed) = (encode(&delta.added), encode(&delta.removed));
    // A snapshot is far below 4 GiB.
    [&(added.len() as u32).to_le_bytes()[..], &added, &removed].concat()
}

/// Reads what [`encode_suppression_delta`] wrote.
///
/// # Errors
/// The octets are something else.
pub fn decode_suppression_delta(octets: &[u8]) -> Result<SuppressionDelta, WireError> {
    let parts = octets.split_first_chunk::<4>();
    let parts = parts.and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
    let (added, removed) = parts.ok_or(WireError::DeltaCut { length: octets.len() })?;
    Ok(SuppressionDelta {
        added: decode_snapshot(added)?.suppressions,
        removed: decode_snapshot(removed)?.suppressions,
    })
}
