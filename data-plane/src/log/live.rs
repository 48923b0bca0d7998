//! Which frames of a segment are needed: eight octets a frame, in the order of their offsets.
//!
//! Frames come in that order but for chunks that recovery learns of by their head, and mostly leave in it. One that has
//! left is a gap (no octets) until half are gaps.

use postrail_core::spool::Location;

/// The frames of one segment that are needed.
#[derive(Debug, Default)]
pub(super) struct LiveFrames {
    /// Offset and octets, sorted by offset; a gap has no octets.
    frames: Vec<(u32, u32)>,
    live: usize,
    bytes: u64,
}

impl LiveFrames {
    pub(super) const fn new() -> Self {
        Self { frames: Vec::new(), live: 0, bytes: 0 }
    }

    /// The frame at `at` is needed.
    pub(super) fn retain(&mut self, at: Location) {
        let frame = (at.offset, at.bytes);
        if self.frames.last().is_none_or(|(last, _)| *last < at.offset) {
            self.frames.push(frame);
        } else {
            match self.find(at.offset) {
                Ok(place) if self.frames[place].1 > 0 => return,
                Ok(place) => self.frames[place] = frame,
                Err(place) => self.frames.insert(place, frame),
            }
        }
        self.live += 1;
        self.bytes += u64::from(at.bytes);
    }

    /// The frame at `at` is not needed any more; answers whether it was the last that was.
    pub(super) fn release(&mut self, at: Location) -> bool {
        let Ok(place) = self.find(at.offset) else { return false };
        let bytes = std::mem::take(&mut self.frames[place].1);
        if bytes == 0 {
            return false;
        }
        self.live -= 1;
        self.bytes -= u64::from(bytes);
        if self.live < self.frames.len() / 2 {
            self.frames.retain(|(_, bytes)| *bytes > 0);
        }
        self.live == 0
    }

    /// No more frames are expected: spare room is given back.
    pub(super) fn close(&mut self) {
        self.frames.retain(|(_, bytes)| *bytes > 0);
        self.frames.shrink_to_fit();
    }

    pub(super) fn holds(&self, offset: u32) -> bool {
        self.find(offset).is_ok_and(|place| self.frames[place].1 > 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Octets of the frames that are needed.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Offset and octets of the frames that are needed, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.frames.iter().copied().filter(|(_, bytes)| *bytes > 0)
    }

    fn find(&self, offset: u32) -> Result<usize, usize> {
        self.frames.binary_search_by_key(&offset, |(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u32) -> Location {
        Location { segment: 1, offset, bytes: 10 }
    }

    #[test]
    fn frames_are_needed_from_their_retention_to_their_release() {
        let mut live = LiveFrames::new();
        for offset in [100, 300, 200, 200, 400] {
            live.retain(at(offset));
        }
        assert_eq!((live.bytes(), live.iter().count()), (40, 4));
        assert!(!live.release(at(200)) && !live.release(at(200)) && !live.release(at(999)));
        assert!(live.holds(100) && !live.holds(200));
        live.retain(at(200));
        assert!(live.holds(200));
        live.close();
        for offset in [100, 200, 300] {
            assert!(!live.release(at(offset)));
        }
        assert!(live.release(at(400)), "the last one");
        assert!(live.is_empty() && live.bytes() == 0);
    }
}
