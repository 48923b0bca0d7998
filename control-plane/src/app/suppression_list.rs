//! The list of suppressions as data planes get it: what has changed since they had it, or the whole.
//!
//! ```text
//! host: "I have the list of ledger L up to change 7"
//!   ours is L, and the ledger remembers 8 to 9 -> those two, and the total that the list must have then
//!   else                                       -> the whole list, of change 9
//! ```
//!
//! Invariants worth naming: what is answered is at least of the version that is said with it; a total is counted from the
//! rows now and then, and brought from change to change meanwhile, so that a host's list, the ledger's changes and the
//! ledger's rows are found out where they differ; hosts that take the whole list at the same time share one. Absent here:
//! who may ask (`api::fleet`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use axum::body::Bytes;
use postrail_schema::limits::SUPPRESSIONS_COUNT_PERIOD;
use postrail_schema::snapshot::SnapshotContent;
use postrail_schema::suppressions::{SuppressionDelta, SuppressionPoint, SuppressionTotal};
use postrail_schema::wire::{encode_snapshot, encode_suppression_delta};

use super::{App, AppError};
use crate::ledger::{Ledger, LedgerError, SuppressionHead};

/// What a data plane asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SuppressionsAsked {
    /// The version that a publication names.
    pub version: u64,
    /// What it has; `None`: nothing that can be amended, as one of an earlier version always says.
    pub has: Option<SuppressionPoint>,
}

/// What it gets.
pub(crate) struct SuppressionsAnswer {
    /// The version that it has at least.
    pub version: u64,
    pub at: SuppressionPoint,
    /// The change behind which these are the changes; `None`: this is the whole list.
    pub since: Option<u64>,
    /// Of the list that it makes, where it is known.
    pub total: Option<SuppressionTotal>,
    pub body: Bytes,
}

/// What is remembered between two questions.
#[derive(Default)]
pub(super) struct SuppressionsTold {
    counted: Mutex<Option<Counted>>,
    is_counting: AtomicBool,
    /// The list that is being sent, as long as it is.
    whole: Mutex<Weak<Whole>>,
}

#[derive(Clone, Copy)]
struct Counted {
    sequence: u64,
    total: SuppressionTotal,
    /// When the rows were counted.
    at: Instant,
}

struct Whole {
    version: u64,
    head: SuppressionHead,
    total: SuppressionTotal,
    octets: Vec<u8>,
}

/// For [`Bytes::from_owner`].
struct Sent(Arc<Whole>);

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.0.octets
    }
}

impl App {
    /// The suppressions for a data plane: at least of the version that it asks for, where the store has that.
    ///
    /// # Errors
    /// The store or the ledger fails, or the ledger is not the region's.
    pub(crate) fn suppressions_for(&self, asked: SuppressionsAsked) -> Result<SuppressionsAnswer, AppError> {
        self.check_mirror()?;
        if self.desired().head.suppressions != asked.version {
            self.reload()?;
        }
        // The version first: what is read after it has at least what it says. Who took the region over was named before it
        // announced its own.
        let version = self.desired().head.suppressions;
        self.check_ledger_now()?;
        let ledger = self.ledger.id()?;
        let (head, total) = self.suppressions_now()?;
        let at = |sequence| SuppressionPoint { ledger, sequence };
        if let Some(has) = asked.has.filter(|has| has.ledger == ledger)
            && let Some(delta) = self.delta(has.sequence, head)?
        {
            let body = encode_suppression_delta(&delta).into();
            return Ok(SuppressionsAnswer { version, at: at(head.last), since: Some(has.sequence), total, body });
        }
        let whole = self.whole(version)?;
        let (version, at, total) = (whole.version, at(whole.head.last), Some(whole.total));
        Ok(SuppressionsAnswer { version, at, since: None, total, body: Bytes::from_owner(Sent(whole)) })
    }

    /// What has changed behind `after`, where the ledger can tell and the whole list is not less.
    fn delta(&self, after: u64, head: SuppressionHead) -> Result<Option<SuppressionDelta>, LedgerError> {
        if after > head.last {
            return Ok(None);
        }
        let changes = self.ledger.suppression_changes(after, head.last)?;
        let delta = changes.map(SuppressionDelta::of);
        Ok(delta.filter(|delta| delta.len() as u64 <= head.count.max(1)))
    }

    /// The whole list, with at least what `version` says: the one that is being sent to others, where it was read under the
    /// same version.
    fn whole(&self, version: u64) -> Result<Arc<Whole>, AppError> {
        let mut kept = lock(&self.suppressions_told.whole);
        if let Some(whole) = kept.upgrade().filter(|whole| whole.version == version) {
            return Ok(whole);
        }
        let (mut suppressions, mut total) = (Vec::new(), SuppressionTotal::default());
        let head = self.ledger.each_suppression(&mut |suppression| {
            total.add(&suppression);
            suppressions.push(suppression);
        })?;
        let octets = encode_snapshot(&SnapshotContent { suppressions, ..SnapshotContent::default() });
        let whole = Arc::new(Whole { version, head, total, octets });
        *kept = Arc::downgrade(&whole);
        Ok(whole)
    }

    /// The state of the suppressions, and the total of it where that is known.
    fn suppressions_now(&self) -> Result<(SuppressionHead, Option<SuppressionTotal>), LedgerError> {
        // Where the ledger is away, nobody waits for another who waits for it.
        let mut head = self.ledger.suppression_head()?;
        let mut counted = lock(&self.suppressions_told.counted);
        if let Some(known) = *counted {
            // Another may have asked after us.
            if known.sequence > head.last {
                head = self.ledger.suppression_head()?;
            }
            *counted = known.at_change(&*self.ledger, head.last)?.filter(|known| known.total.count == head.count);
        }
        Ok((head, counted.map(|counted| counted.total)))
    }

    /// Whether it is time to [count](Self::count_suppressions) them; who is told so does.
    pub(crate) fn is_to_count_suppressions(&self) -> bool {
        let told = &self.suppressions_told;
        let is_due = lock(&told.counted).is_none_or(|counted| counted.at.elapsed() > SUPPRESSIONS_COUNT_PERIOD);
        is_due && !told.is_counting.swap(true, Ordering::AcqRel)
    }

    /// Counts the rows, and compares them with what the changes have led to. Where these differ, hosts get the whole list.
    pub(crate) fn count_suppressions(&self) {
        if let Err(error) = self.try_count() {
            tracing::warn!(error = &error as &dyn std::error::Error, "suppressions were not counted");
        }
        self.suppressions_told.is_counting.store(false, Ordering::Release);
    }

    fn try_count(&self) -> Result<(), AppError> {
        let mut total = SuppressionTotal::default();
        let head = self.ledger.each_suppression(&mut |suppression| total.add(&suppression))?;
        let rows = Counted { sequence: head.last, total, at: Instant::now() };
        let mut counted = lock(&self.suppressions_told.counted);
        let now = self.ledger.suppression_head()?.last;
        let rows_now = rows.at_change(&*self.ledger, now)?;
        let led_to = counted.map_or(Ok(None), |known| known.at_change(&*self.ledger, now))?;
        let differs = rows_now.zip(led_to).is_some_and(|(rows, led_to)| rows.total != led_to.total);
        if total.count == head.count && !differs {
            *counted = rows_now;
            return Ok(());
        }
        tracing::warn!(
            counted = total.count,
            noted = head.count,
            "suppressions were changed in a way that was not noted; hosts get the whole list"
        );
        *counted = None;
        drop(counted);
        self.ledger.renumber_suppressions()?;
        self.announce_suppressions()
    }
}

impl Counted {
    /// The total as of change `to`, where the ledger remembers all up to there.
    fn at_change(mut self, ledger: &dyn Ledger, to: u64) -> Result<Option<Self>, LedgerError> {
        if self.sequence == to {
            return Ok(Some(self));
        }
        if self.sequence > to {
            return Ok(None);
        }
        let Some(changes) = ledger.suppression_changes(self.sequence, to)? else { return Ok(None) };
        changes.iter().for_each(|change| self.total.take(change));
        self.sequence = to;
        Ok(Some(self))
    }
}

/// What is remembered is replaced in one step, so a panic within leaves the former.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
