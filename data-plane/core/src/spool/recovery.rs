//! What recovery does with the place where the next batch should be: one row of [`RECOVERY_CASES`] for every input.
//!
//! Batches are written one after the other, each synced before the next is written. So a valid batch later in the
//! segment proves that the one before it was durable once: if that one cannot be read now, it is damaged, and not torn
//! by a crash. The proof can also come from the header of the segment begun next, which says where this one ended.
//!
//! Legend: header is intact (magic, checksum, place) / of this use of the file and not before the batches already seen
//! ("ours") / of the version we read / every frame is valid / something later was durable.

/// What was seen at one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observation {
    /// Magic, checksum and place of the batch header are right.
    pub header_ok: bool,
    /// Its generation and sequence are the segment's, its number is not below the expected.
    pub ours: bool,
    /// Its version is the one we read.
    pub version_ok: bool,
    /// All its frames are valid and fill it.
    pub frames_ok: bool,
    /// A later batch of this segment is there, or known to have been.
    pub later: bool,
}

/// What to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Hand out its frames and go on behind it.
    Replay,
    /// Nothing was written here in this use of the file: done.
    EndOfSegment,
    /// The last write was cut off before it was acknowledged: it is dropped whole. Done.
    TornTail,
    /// Once durable and not readable now: hand out the frames that are still valid, report it, go on at the next batch.
    Damaged,
    /// Written by a newer binary: stop, touch nothing.
    WrongVersion,
}

/// A row's demand on one column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Yes,
    No,
    Either,
}

impl Is {
    const fn admits(self, value: bool) -> bool {
        match self {
            Self::Yes => value,
            Self::No => !value,
            Self::Either => true,
        }
    }
}

struct Case {
    label: &'static str,
    header_ok: Is,
    ours: Is,
    version_ok: Is,
    frames_ok: Is,
    later: Is,
    decision: Decision,
}

impl Case {
    const fn admits(&self, seen: Observation) -> bool {
        self.header_ok.admits(seen.header_ok)
            && self.ours.admits(seen.ours)
            && self.version_ok.admits(seen.version_ok)
            && self.frames_ok.admits(seen.frames_ok)
            && self.later.admits(seen.later)
    }
}

const fn case(label: &'static str, columns: [Is; 5], decision: Decision) -> Case {
    let [header_ok, ours, version_ok, frames_ok, later] = columns;
    Case { label, header_ok, ours, version_ok, frames_ok, later, decision }
}

use Is::{Either, No, Yes};

/// Exactly one row admits each observation.
#[rustfmt::skip]
const RECOVERY_CASES: [Case; 8] = [
    //           header  ours    version  frames  later
    case("@A", [ No,     Either, Either,  Either, No     ], Decision::EndOfSegment),
    case("@B", [ No,     Either, Either,  Either, Yes    ], Decision::Damaged),
    case("@C", [ Yes,    No,     Either,  Either, No     ], Decision::EndOfSegment),
    case("@D", [ Yes,    No,     Either,  Either, Yes    ], Decision::Damaged),
    case("@E", [ Yes,    Yes,    No,      Either, Either ], Decision::WrongVersion),
    case("@F", [ Yes,    Yes,    Yes,     Yes,    Either ], Decision::Replay),
    case("@G", [ Yes,    Yes,    Yes,     No,     No     ], Decision::TornTail),
    case("@H", [ Yes,    Yes,    Yes,     No,     Yes    ], Decision::Damaged),
];

/// The row's label and decision for what was seen.
pub fn decide(seen: Observation) -> (&'static str, Decision) {
    let row =
        RECOVERY_CASES.iter().find(|case| case.admits(seen)).expect("a test shows that one row admits each input");
    (row.label, row.decision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Observation> {
        (0..32_u8).map(|bits| Observation {
            header_ok: bits & 1 != 0,
            ours: bits & 2 != 0,
            version_ok: bits & 4 != 0,
            frames_ok: bits & 8 != 0,
            later: bits & 16 != 0,
        })
    }

    #[test]
    fn exactly_one_row_admits_each_observation() {
        for seen in all() {
            let rows: Vec<_> = RECOVERY_CASES.iter().filter(|case| case.admits(seen)).map(|case| case.label).collect();
            assert_eq!(rows.len(), 1, "{seen:?} is admitted by {rows:?}");
        }
    }

    #[test]
    fn every_row_is_reached() {
        for case in &RECOVERY_CASES {
            assert!(all().any(|seen| decide(seen).0 == case.label), "{} is dead", case.label);
        }
    }

    #[test]
    fn nothing_that_was_durable_is_dropped_in_silence() {
        for seen in all().filter(|seen| seen.later) {
            let decision = decide(seen).1;
            assert!(!matches!(decision, Decision::EndOfSegment | Decision::TornTail), "{seen:?}");
        }
    }
}
