//! The payload of an event frame: one encoded buffer, small enough for a frame.

use postrail_schema::event::Event;
use postrail_schema::limits::FRAME_BYTES_MAX;
use postrail_schema::wire;

/// Events of one buffer: with every text at its bound they still fit a frame.
pub const EVENTS_PER_FRAME_MAX: usize = 128;

/// Octets of one buffer: a frame less its header.
const BUFFER_BYTES_MAX: usize = FRAME_BYTES_MAX - 64;

/// Why events are not written or read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EventFrameError {
    #[error("one event takes {bytes} octets, more than a frame holds")]
    TooLarge { bytes: usize },
    #[error("the buffer holds no events in a form that this binary reads")]
    Malformed,
}

/// The payloads of as many frames as `events` need, in order.
///
/// # Errors
/// [`EventFrameError::TooLarge`] for an event whose texts are far over their bounds.
pub fn encode(events: &[Event]) -> Result<Vec<Vec<u8>>, EventFrameError> {
    let mut payloads = Vec::with_capacity(events.len().div_ceil(EVENTS_PER_FRAME_MAX));
    for some in events.chunks(EVENTS_PER_FRAME_MAX) {
        encode_some(some, &mut payloads)?;
    }
    Ok(payloads)
}

/// The events of one payload.
///
/// # Errors
/// [`EventFrameError::Malformed`].
pub fn decode(payload: &[u8]) -> Result<Vec<Event>, EventFrameError> {
    wire::decode_events(payload).map_err(|_| EventFrameError::Malformed)
}

/// Halves until every buffer fits; the recursion is as deep as [`EVENTS_PER_FRAME_MAX`] has bits.
fn encode_some(events: &[Event], payloads: &mut Vec<Vec<u8>>) -> Result<(), EventFrameError> {
    let payload = wire::encode_events(events);
    if payload.len() <= BUFFER_BYTES_MAX {
        payloads.push(payload);
        return Ok(());
    }
    if events.len() == 1 {
        return Err(EventFrameError::TooLarge { bytes: payload.len() });
    }
    let (first, second) = events.split_at(events.len() / 2);
    encode_some(first, payloads)?;
    encode_some(second, payloads)
}
