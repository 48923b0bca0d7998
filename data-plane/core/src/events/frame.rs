//! The payload of an event frame: one encoded buffer, small enough for a frame.

use postrail_schema::event::{Event, EventBrief};
use postrail_schema::limits::FRAME_BYTES_MAX;
use postrail_schema::wire;

/// Events of one buffer: with every text at its bound they still fit a frame.
pub const EVENTS_PER_FRAME_MAX: usize = 128;

/// Octets of one buffer: a frame less its header.
const BUFFER_BYTES_MAX: usize = FRAME_BYTES_MAX - 64;

/// An event whose texts are far over their bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("one event takes {bytes} octets, more than a frame holds")]
pub struct EventTooLarge {
    pub bytes: usize,
}

/// A buffer that holds no events in a form that this binary reads.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the event buffer cannot be read: {reason}")]
pub struct MalformedEvents {
    pub reason: String,
}

/// The payloads of as many frames as `events` need, in order.
///
/// # Errors
/// [`EventTooLarge`].
pub fn encode(events: &[Event]) -> Result<Vec<Vec<u8>>, EventTooLarge> {
    let mut payloads = Vec::with_capacity(events.len().div_ceil(EVENTS_PER_FRAME_MAX));
    for some in events.chunks(EVENTS_PER_FRAME_MAX) {
        encode_some(some, &mut payloads)?;
    }
    Ok(payloads)
}

/// The events of one payload.
///
/// # Errors
/// [`MalformedEvents`].
pub fn decode(payload: &[u8]) -> Result<Vec<Event>, MalformedEvents> {
    wire::decode_events(payload).map_err(|error| MalformedEvents { reason: error.to_string() })
}

/// What recovery reads of the events of one payload.
///
/// # Errors
/// [`MalformedEvents`].
pub fn decode_briefs(payload: &[u8]) -> Result<Vec<EventBrief>, MalformedEvents> {
    wire::decode_event_briefs(payload).map_err(|error| MalformedEvents { reason: error.to_string() })
}

/// Halves until every buffer fits; the recursion is as deep as [`EVENTS_PER_FRAME_MAX`] has bits.
fn encode_some(events: &[Event], payloads: &mut Vec<Vec<u8>>) -> Result<(), EventTooLarge> {
    let payload = wire::encode_events(events);
    if payload.len() <= BUFFER_BYTES_MAX {
        payloads.push(payload);
        return Ok(());
    }
    if events.len() == 1 {
        return Err(EventTooLarge { bytes: payload.len() });
    }
    let (first, second) = events.split_at(events.len() / 2);
    encode_some(first, payloads)?;
    encode_some(second, payloads)
}

#[cfg(test)]
mod tests {
    use postrail_schema::event::EventKind;
    use postrail_schema::ids::{MessageId, RecipientIndex, Revision, TenantId};

    use super::*;

    fn event(index: u16, reason: String) -> Event {
        Event {
            kind: EventKind::Deferred,
            message: MessageId::from_bits(7),
            index: RecipientIndex(index),
            at_ms: 1_795_464_845_123,
            revision: Revision(3),
            tenant: TenantId(2),
            address: "bob@example.org".to_owned(),
            job: None,
            attempt: None,
            reason,
            next_attempt_ms: 1_795_464_945_123,
        }
    }

    #[test]
    fn many_events_take_several_frames_and_keep_their_order() {
        let events: Vec<_> = (0..300).map(|index| event(index, "greylisted".to_owned())).collect();
        let payloads = encode(&events).expect("small");
        assert_eq!(payloads.len(), 3);
        let back: Vec<_> = payloads.iter().flat_map(|payload| decode(payload).expect("whole")).collect();
        assert_eq!(back, events);
    }

    #[test]
    fn long_events_are_halved_until_they_fit() {
        let events: Vec<_> = (0..64).map(|index| event(index, format!("{index}").repeat(30_000))).collect();
        let payloads = encode(&events).expect("each fits");
        assert!(payloads.len() > 1 && payloads.iter().all(|payload| payload.len() <= BUFFER_BYTES_MAX));
        let back: Vec<_> = payloads.iter().flat_map(|payload| decode(payload).expect("whole")).collect();
        assert_eq!(back, events);
    }

    #[test]
    fn one_event_that_no_frame_holds_is_refused() {
        let huge = event(0, "x".repeat(FRAME_BYTES_MAX));
        assert!(encode(&[huge]).is_err());
    }

    #[test]
    fn other_bytes_are_no_events() {
        for bytes in [&b""[..], b"x", &[0xff; 64], &[0; 64]] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
