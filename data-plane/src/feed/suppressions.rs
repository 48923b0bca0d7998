//! The suppressions in effect, and what an answer of the control plane makes of them.
//!
//! ```text
//! list, with the point up to which it is whole
//!   + the changes behind that point -> the next list, if its total is what the answer says; else the list has drifted
//!   + a whole list                  -> that list
//! ```
//!
//! Invariants worth naming: changes are applied to the list that they are about and to no other; a list whose total is not
//! what it should be has no point, so that the next answer is a whole one. Absent here: whom to ask.

use postrail_schema::snapshot::Suppression;
use postrail_schema::suppressions::{SuppressionPoint, SuppressionTotal, Suppressions};
use postrail_schema::wire::{WireError, decode_snapshot, decode_suppression_delta};

/// See the module head. Cheap to copy.
#[derive(Clone, Debug, Default)]
pub struct SuppressionList {
    pub(super) list: Suppressions,
    /// `None`: it can only be replaced.
    pub(super) at: Option<SuppressionPoint>,
}

/// What a control plane answers.
#[derive(Clone, Debug)]
pub struct SuppressionAnswer {
    /// The version that was named when it was asked for.
    pub asked: u64,
    pub version: u64,
    /// `None`: it is of an earlier version, and knows no points.
    pub at: Option<SuppressionPoint>,
    /// The change behind which these are the changes; `None`: a whole list.
    pub since: Option<u64>,
    /// Of the list that this leads to.
    pub total: Option<SuppressionTotal>,
    pub octets: Vec<u8>,
}

/// A list that is to be put in effect.
#[derive(Clone, Debug)]
pub struct SuppressionUpdate {
    pub(super) asked: u64,
    pub(super) version: u64,
    pub(super) next: SuppressionList,
    pub(super) octets: Vec<u8>,
    pub(super) is_whole: bool,
    /// Whether it differs from the list before.
    pub(super) differs: bool,
    is_compared: bool,
}

/// Why an answer leads to no list.
#[derive(Debug, thiserror::Error)]
pub enum SuppressionError {
    #[error("the suppressions do not decode")]
    Wire(#[from] WireError),
    #[error("the changes are not about the list that is here")]
    Unrelated,
    #[error(
        "with the changes there are {found} suppressions, and not the {wanted} that there should be: the list here has drifted"
    )]
    Drifted { found: u64, wanted: u64 },
}

impl SuppressionList {
    /// Up to which change it is whole.
    pub fn at(&self) -> Option<SuppressionPoint> {
        self.at
    }

    /// The list that `answer` leads to from this one.
    ///
    /// # Errors
    /// [`SuppressionError`].
    pub fn take(&self, answer: SuppressionAnswer) -> Result<SuppressionUpdate, SuppressionError> {
        let SuppressionAnswer { asked, version, at, since, total, octets } = answer;
        let is_whole = since.is_none();
        let (list, at, differs) = match since {
            None => {
                let list: Suppressions = decode_snapshot(&octets)?.suppressions.into_iter().collect();
                // One that is not what it should be is better than the one before, and is replaced by the next.
                let at = at.filter(|_| total.is_none_or(|total| total == list.total()));
                (list, at, true)
            }
            Some(since) => {
                let is_ours = self.at.zip(at).is_some_and(|(own, at)| own.ledger == at.ledger && own.sequence == since);
                if !is_ours {
                    return Err(SuppressionError::Unrelated);
                }
                let delta = decode_suppression_delta(&octets)?;
                let list = self.list.with(&delta);
                if let Some(wanted) = total.filter(|total| *total != list.total()) {
                    return Err(SuppressionError::Drifted { found: list.total().count, wanted: wanted.count });
                }
                (list, at, !delta.is_empty())
            }
        };
        let is_compared = total.is_some_and(|total| total == list.total());
        let next = Self { list, at };
        Ok(SuppressionUpdate { asked, version, next, octets, is_whole, differs, is_compared })
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Suppression> {
        self.list.iter()
    }
}

impl SuppressionUpdate {
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The octets that it came in.
    pub fn octets(&self) -> usize {
        self.octets.len()
    }

    /// Whether it is a whole list, rather than what has changed.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether the list was compared with that of the ledger; `None`: that is not possible.
    pub fn is_compared(&self) -> Option<bool> {
        self.next.at.map(|_| self.is_compared)
    }
}
