//! Numbers, and what the ledger knows of them.
//!
//! ```text
//! draft: counters pass over what was given -> numbers are given -> the ledger is told, durably -> desired/head
//! ```
//!
//! Invariants worth naming: the ledger knows of a number before anything has it, and of two control planes with one ledger
//! that would give the same number it tells one that it is given; so a store that was restored, or began anew, repeats none.
//! Each control plane tells its ledger of the numbers that others gave as soon as it sees them. Absent here: the numbers
//! themselves (`plan::numbers`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use postrail_schema::keys::HEAD;

use super::{App, AppError};
use crate::ledger::{Given, Ledger, LedgerError};
use crate::plan::{Counters, Head};
use crate::store::StoreError;

/// What the ledger is known to have, which is no more than what it has.
pub(super) struct GivenNumbers(Mutex<Given>);

impl GivenNumbers {
    /// Tells the ledger of the store's numbers.
    ///
    /// # Errors
    /// The ledger fails.
    pub(super) fn of(ledger: &dyn Ledger, counters: &Counters) -> Result<Self, LedgerError> {
        let given = Self(Mutex::new(ledger.given()?));
        given.learn(ledger, counters)?;
        Ok(given)
    }

    /// Whether anything was ever given.
    pub(super) fn is_empty(&self) -> bool {
        self.known().values().all(|number| *number == 0)
    }

    pub(super) fn pass(&self, head: &mut Head) {
        head.pass(&self.known());
    }

    /// Tells the ledger of numbers that others gave.
    ///
    /// # Errors
    /// The ledger fails.
    pub(super) fn learn(&self, ledger: &dyn Ledger, counters: &Counters) -> Result<(), LedgerError> {
        let seen = counters.given();
        let mut known = self.known();
        while seen.iter().any(|(kind, number)| known.get(kind).is_none_or(|last| number > last)) {
            let before = ledger.given()?;
            let mut all = before.clone();
            merge(&mut all, &seen);
            if ledger.give(&before, &all)? {
                *known = all;
            }
        }
        Ok(())
    }

    /// Tells the ledger that those behind `before` are given.
    ///
    /// # Errors
    /// The ledger fails; [`StoreError::Conflict`] where it knows that others have given them.
    pub(super) fn give(&self, ledger: &dyn Ledger, before: &Counters, after: &Counters) -> Result<(), AppError> {
        if before == after {
            return Ok(());
        }
        let mut known = self.known();
        let (before, after) = (before.given(), after.given());
        let is_ours = ledger.give(&before, &after)?;
        let all = if is_ours { after } else { ledger.given()? };
        merge(&mut known, &all);
        if is_ours { Ok(()) } else { Err(StoreError::Conflict { key: HEAD.to_owned() }.into()) }
    }

    /// One step replaces what is known, so a panic within leaves what was.
    fn known(&self) -> MutexGuard<'_, Given> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Brings ledger and store to know of the same numbers: the ledger of what others gave, and a store that went back of
    /// what was given since.
    ///
    /// # Errors
    /// The store fails. A ledger that fails is told later.
    pub(super) fn compare_numbers(&self, head: &Head) -> Result<(), AppError> {
        if let Err(error) = self.given.learn(self.ledger.as_ref(), &head.counters) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the ledger is not told which numbers are given");
        }
        if head.is_behind(&self.given.known()) {
            tracing::info!("numbers were given that the configuration store does not know of: they are passed over");
            self.change(|_| Ok(()))?;
        }
        Ok(())
    }
}

fn merge(known: &mut Given, more: &Given) {
    for (kind, number) in more {
        let last = known.entry(kind.clone()).or_default();
        *last = (*last).max(*number);
    }
}
