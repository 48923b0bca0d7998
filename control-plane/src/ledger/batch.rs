//! What one pull of a journal gave, split into its buffers and checked, but not copied apart.
//!
//! ```text
//! body: [u32 little-endian octets, buffer of `postrail_schema::wire::encode_events`]*
//! ```
//!
//! Invariants worth naming: every buffer that is handed out decodes; what does not, and a cut end, is kept octet for
//! octet as unread.

use std::ops::Range;

use postrail_schema::wire::{EventHead, read_heads};

/// See the module head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    body: Vec<u8>,
    buffers: Vec<Buffer>,
    heads: Vec<EventHead>,
    unread: Vec<Range<usize>>,
}

#[derive(Clone, Debug)]
struct Buffer {
    bytes: Range<usize>,
    heads: Range<usize>,
}

impl Batch {
    /// Splits and checks an answer.
    pub(crate) fn read(body: Vec<u8>) -> Self {
        let mut batch = Self::default();
        let mut at = 0;
        while let Some(bytes) = framed(&body, at) {
            at = bytes.end;
            let begun = batch.heads.len();
            match body.get(bytes.clone()).map(|buffer| read_heads(buffer, &mut batch.heads)) {
                Some(Ok(())) => batch.buffers.push(Buffer { bytes, heads: begun..batch.heads.len() }),
                _ => batch.unread.push(bytes),
            }
        }
        if at < body.len() {
            batch.unread.push(at..body.len());
        }
        batch.body = body;
        batch
    }

    /// Each buffer with the heads of its events, in order.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = (&[u8], &[EventHead])> {
        self.buffers.iter().map(|buffer| (&self.body[buffer.bytes.clone()], &self.heads[buffer.heads.clone()]))
    }

    /// Octets of the answer.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len()
    }

    /// How many events there are.
    pub(crate) fn events(&self) -> usize {
        self.heads.len()
    }

    /// Octets that are no events, kept so that a person can look at them.
    pub(crate) fn unread(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.unread.iter().map(|bytes| &self.body[bytes.clone()])
    }
}

/// Where the buffer is whose length stands at `at`, if both are there in full.
fn framed(body: &[u8], at: usize) -> Option<Range<usize>> {
    let (length, rest) = body.get(at..)?.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let begun = at + 4;
    (length <= rest.len()).then(|| begun..begun + length)
}

#[cfg(test)]
impl Batch {
    /// A batch of `events`, as buffers of up to `per_buffer`.
    pub(crate) fn of(events: &[postrail_schema::event::Event], per_buffer: usize) -> Self {
        let buffers = events.chunks(per_buffer).map(postrail_schema::wire::encode_events).collect::<Vec<_>>();
        Self::read(frames(&buffers))
    }
}

/// Buffers as a journal gives them.
#[cfg(test)]
pub(crate) fn frames(buffers: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let framed = |buffer: &[u8]| [&(buffer.len() as u32).to_le_bytes()[..], buffer].concat();
    buffers.iter().flat_map(|buffer| framed(buffer.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &[u8] = include_bytes!("../../../shared-schema/golden/events-1.bin");

    #[test]
    fn noise_between_buffers_is_set_aside_and_what_follows_is_read() {
        let batch = Batch::read(frames(&[EVENTS, b"noise", EVENTS]));
        assert_eq!((batch.events(), batch.unread().collect::<Vec<_>>()), (4, vec![&b"noise"[..]]));
        assert!(batch.buffers().all(|(buffer, heads)| buffer == EVENTS && heads.len() == 2));
    }

    #[test]
    fn a_cut_answer_never_panics_and_keeps_every_octet() {
        let body = frames(&[EVENTS]);
        for at in 0..body.len() {
            let batch = Batch::read(body[..at].to_vec());
            assert_eq!((batch.events(), batch.unread().map(<[u8]>::len).sum()), (0, at));
        }
    }

    #[test]
    fn a_length_beyond_all_bounds_is_a_cut_end() {
        let body = [&u32::MAX.to_le_bytes()[..], EVENTS].concat();
        let batch = Batch::read(body.clone());
        assert_eq!((batch.events(), batch.unread().collect::<Vec<_>>()), (0, vec![&body[..]]));
    }
}
