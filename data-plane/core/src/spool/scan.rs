//! Reads one segment back, window by window: says which octets it wants, takes them, hands out frames.
//!
//! ```text
//! Batches --batch cannot be replayed--> Search --later batch found--> [Salvage] --> Batches
//!    |                                     |
//!    +-- limit reached --------------------+-- none found --> Done
//! ```
//!
//! The memory in use is the caller's window: [`WINDOW_BYTES`], or one batch where that is larger.

use std::fmt;

use postrail_schema::limits::{BLOCK_BYTES, SEGMENT_BYTES};

use super::Location;
use super::recovery::{Decision, Observation, decide};
use super::segment::{BatchHeader, FIRST_BATCH, FORMAT_VERSION, Frame, Frames, Identity};

/// Octets asked for at a time.
pub const WINDOW_BYTES: u32 = 1024 * 1024;

/// A part of a segment that was durable once and is not readable now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    pub segment: u64,
    pub offset: u32,
    /// Octets to the next batch that is readable, or to the end.
    pub bytes: u32,
    /// Frames of the damaged batch that were still valid and were handed out.
    pub frames_kept: u32,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, offset, bytes, frames_kept } = self;
        write!(f, "segment {segment:016x}: {bytes} octets at offset {offset}, {frames_kept} frames kept")
    }
}

impl From<Location> for Damage {
    /// A frame that is whole and cannot be understood.
    fn from(at: Location) -> Self {
        Self { segment: at.segment, offset: at.offset, bytes: at.bytes, frames_kept: 0 }
    }
}

/// How the segment ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Behind the last batch, at this offset.
    End { at: u32 },
    /// A last write that was never acknowledged was dropped at this offset.
    TornTail { at: u32 },
    /// A batch of another format version.
    WrongVersion { found: u16 },
}

impl Ending {
    /// The offset behind the last batch that counts.
    pub const fn at(self) -> Option<u32> {
        match self {
            Self::End { at } | Self::TornTail { at } => Some(at),
            Self::WrongVersion { .. } => None,
        }
    }
}

/// What a window gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<'a> {
    Frame(Frame<'a>),
    /// Behind the last frame of a batch: the offset of the next.
    BatchEnd {
        next: u32,
    },
    Damaged(Damage),
}

enum State {
    /// Batches follow each other at `at`; the next needs that many octets in one piece.
    Batches {
        need: u32,
    },
    /// `at` cannot be replayed; looking for a batch from `from` on. A known header gives the batch's octets.
    Search {
        from: u32,
        header: Option<BatchHeader>,
    },
    /// The damaged batch at `at` is read again for its good frames, then it goes on at `resume`.
    Salvage {
        header: BatchHeader,
        resume: u32,
    },
    Done(Ending),
}

/// Walks one segment.
pub struct Scanner {
    identity: Identity,
    at: u32,
    /// The lowest number that the next batch can have.
    number: u64,
    limit: u32,
    /// Everything before `limit` is known to have been durable.
    proven: bool,
    state: State,
}

impl Scanner {
    /// From the first batch. `end` is where the segment's acknowledged batches end, where that is known (from the
    /// header of the next segment); otherwise it is found out.
    pub fn new(identity: Identity, end: Option<u32>) -> Self {
        Self::from_offset(identity, FIRST_BATCH, end)
    }

    /// From a batch boundary that an earlier scan gave. Offsets that are none are searched from.
    pub fn from_offset(identity: Identity, at: u32, end: Option<u32>) -> Self {
        let at = at.max(FIRST_BATCH).next_multiple_of(BLOCK_BYTES as u32);
        let limit = end.unwrap_or(SEGMENT_BYTES as u32).min(SEGMENT_BYTES as u32);
        let state = if at < limit { State::Batches { need: 0 } } else { State::Done(Ending::End { at: limit }) };
        Self { identity, at, number: 0, limit, proven: end.is_some(), state }
    }

    /// Offset and octets to read next; `None` when the scan is over.
    pub fn want(&self) -> Option<(u32, u32)> {
        let (at, bytes) = match &self.state {
            State::Batches { need } => (self.at, WINDOW_BYTES.max(*need)),
            State::Search { from, .. } => (*from, WINDOW_BYTES),
            State::Salvage { header, .. } => (self.at, header.padded_bytes()),
            State::Done(_) => return None,
        };
        Some((at, bytes.min(self.limit.saturating_sub(at))))
    }

    /// How it ended; `None` while it is not over.
    pub fn ending(&self) -> Option<Ending> {
        match self.state {
            State::Done(ending) => Some(ending),
            _ => None,
        }
    }

    /// Takes the octets last wanted. Fewer mean that the file ends there.
    pub fn handle(&mut self, window: &[u8], found: &mut impl FnMut(Found<'_>)) {
        let Some((at, wanted)) = self.want() else { return };
        if (window.len() as u64) < u64::from(wanted) {
            self.limit = at + (window.len() / BLOCK_BYTES * BLOCK_BYTES) as u32;
        }
        match self.state {
            State::Batches { .. } => self.batches(window, found),
            State::Search { from, header } => self.search(window, from, header, found),
            State::Salvage { header, resume } => self.salvage(window, header, resume, found),
            State::Done(_) => {}
        }
    }

    fn batches(&mut self, window: &[u8], found: &mut impl FnMut(Found<'_>)) {
        let start = self.at;
        loop {
            if self.at >= self.limit {
                self.state = State::Done(Ending::End { at: self.at });
                return;
            }
            let rest = window.get((self.at - start) as usize..).unwrap_or_default();
            if rest.is_empty() {
                self.state = State::Batches { need: 0 };
                return;
            }
            let header = BatchHeader::read(rest, self.at);
            if let Some(need) = header.and_then(|header| self.need(rest, &header)) {
                self.state = State::Batches { need };
                return;
            }
            let seen = self.observe(rest, header, false);
            match (decide(seen).1, header) {
                (Decision::Replay, Some(header)) => self.replay(rest, &header, found),
                (Decision::WrongVersion, Some(header)) => {
                    self.state = State::Done(Ending::WrongVersion { found: header.version });
                    return;
                }
                (_, header) => {
                    let header = header.filter(|_| seen.ours);
                    let step = header.map_or(BLOCK_BYTES as u32, |header| header.padded_bytes());
                    self.state = State::Search { from: (self.at + step).min(self.limit), header };
                    return;
                }
            }
        }
    }

    /// Octets to ask for where the window ends within a batch of ours.
    fn need(&self, rest: &[u8], header: &BatchHeader) -> Option<u32> {
        let cut = self.is_ours(header) && header.version == FORMAT_VERSION && rest.len() < header.bytes as usize;
        (cut && self.at + header.padded_bytes() <= self.limit).then(|| header.padded_bytes())
    }

    fn observe(&self, batch: &[u8], header: Option<BatchHeader>, later: bool) -> Observation {
        let ours = header.is_some_and(|header| self.is_ours(&header));
        let version_ok = header.is_some_and(|header| header.version == FORMAT_VERSION);
        let frames_ok = ours && version_ok && header.is_some_and(|header| Frames::all_valid(batch, &header));
        Observation { header_ok: header.is_some(), ours, version_ok, frames_ok, later }
    }

    fn is_ours(&self, header: &BatchHeader) -> bool {
        header.identity == self.identity && header.number >= self.number
    }

    fn replay(&mut self, batch: &[u8], header: &BatchHeader, found: &mut impl FnMut(Found<'_>)) {
        for frame in Frames::of_valid(batch, header).flatten() {
            found(Found::Frame(frame));
        }
        self.number = header.number + 1;
        self.at += header.padded_bytes();
        found(Found::BatchEnd { next: self.at });
    }

    /// Looks for a batch of ours in `window`, which begins at `from`.
    fn search(&mut self, window: &[u8], from: u32, header: Option<BatchHeader>, found: &mut impl FnMut(Found<'_>)) {
        let blocks = window.chunks_exact(BLOCK_BYTES).zip((from..self.limit).step_by(BLOCK_BYTES));
        let later =
            |(block, offset)| BatchHeader::read(block, offset).filter(|later| self.is_ours(later)).map(|_| offset);
        let resume = blocks.filter_map(later).next();
        let scanned = from + (window.len() / BLOCK_BYTES * BLOCK_BYTES) as u32;
        if resume.is_none() && scanned < self.limit {
            self.state = State::Search { from: scanned, header };
            return;
        }
        // The frames of the batch at `at` are known not to be valid: no octets are given.
        let seen = self.observe(&[], header, resume.is_some() || self.proven);
        match decide(seen).1 {
            Decision::Damaged => self.damaged(header, resume.unwrap_or(self.limit), found),
            Decision::TornTail => self.state = State::Done(Ending::TornTail { at: self.at }),
            _ => self.state = State::Done(Ending::End { at: self.at }),
        }
    }

    /// `at` is damaged, and the next batch, or the end, is at `resume`.
    fn damaged(&mut self, header: Option<BatchHeader>, resume: u32, found: &mut impl FnMut(Found<'_>)) {
        match header {
            Some(header) => self.state = State::Salvage { header, resume },
            None => self.resume(resume, 0, found),
        }
    }

    fn salvage(&mut self, window: &[u8], header: BatchHeader, resume: u32, found: &mut impl FnMut(Found<'_>)) {
        let mut kept = 0;
        for frame in Frames::new(window, &header).flatten() {
            found(Found::Frame(frame));
            kept += 1;
        }
        self.number = header.number + 1;
        self.resume(resume, kept, found);
    }

    fn resume(&mut self, resume: u32, frames_kept: u32, found: &mut impl FnMut(Found<'_>)) {
        let bytes = resume - self.at;
        found(Found::Damaged(Damage { segment: self.identity.sequence, offset: self.at, bytes, frames_kept }));
        self.at = resume;
        found(Found::BatchEnd { next: resume });
        self.state =
            if resume < self.limit { State::Batches { need: 0 } } else { State::Done(Ending::End { at: resume }) };
    }
}

#[cfg(test)]
mod tests;
