//! Our word on our ledger: how a region comes to have one, and keeps it.
//!
//! ```text
//! a look       | ledger/<region> names      | others' words  | we
//! -------------|----------------------------|----------------|----------------------------------------------------------
//! not ours yet | ours, or none              | first: another | wait, a start is refused
//!              | ours, or none              | first: none    | put a word, look again, name ours
//!              | another                    | any            | wait, a start is refused
//!              | another                    | none for SILENCE | put a word, look again, name ours
//! ours         | ours, or none              | first: another | take our word back: not ours any more
//!              | another                    | any, or none   | take our word back: not ours any more
//! ```
//!
//! Invariants worth naming: `ledger/<region>` is changed by who has a living word alone, and was first with it. Who finds
//! that another has the region says no word, so that the other may be started again. Who had it last is waited for, whether
//! we start or were cut off. Of several that say their words at once, the lowest revision in the store counts: everybody
//! sees the same. Time comes from the caller, by a clock that only ever goes on; what others' clocks say is no matter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrail_schema::keys::{last_ledger, ledgers};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::super::AppError;
use super::{LedgerLook, LedgerUse, OtherLedger, refusal, whose};
use crate::files::draw_installation;
use crate::store::{ConfigStore, Entry, Guard, Hold, StoreError, Write};

/// Which ledger was that of a region last: it outlives those who keep it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct LastLedger {
    /// As [`LedgerUse::ledger`].
    ledger: String,
    /// As [`LedgerUse::file`], whatever the boot: a host that was booted anew has it still.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// Where it is, for people.
    place: String,
}

/// Our word on our ledger, as long as the region is ours.
pub(crate) struct LedgerClaim {
    store: Arc<dyn ConfigStore>,
    region: String,
    own: LedgerUse,
    word: Option<Word>,
    /// The last time that we looked and were answered.
    looked_at: Option<Instant>,
    /// Since when nobody has said a word, where another ledger was the region's last.
    quiet_since: Option<Instant>,
}

struct Word {
    key: String,
    hold: Hold,
}

/// What is in the store.
struct Found {
    /// The first one first.
    words: Vec<Said>,
    last: Option<LastLedger>,
    /// The store's revision that wrote it; 0: it is not there.
    last_revision: u64,
}

struct Said {
    key: String,
    revision: u64,
    used: LedgerUse,
}

impl LedgerClaim {
    fn new(store: &dyn ConfigStore, region: &str, own: LedgerUse) -> Self {
        let (store, region) = (store.within(LOOK_TIME), region.to_owned());
        Self { store, region, own, word: None, looked_at: None, quiet_since: None }
    }

    /// Says which ledger we keep, after a while of silence where another was the region's last. The store's calls block: the
    /// caller has a thread for it.
    ///
    /// # Errors
    /// [`AppError::OtherLedger`] where the region has another; the store fails.
    pub(crate) async fn take(store: &dyn ConfigStore, region: &str, own: LedgerUse) -> Result<Self, AppError> {
        let mut claim = Self::new(store, region, own);
        let mut is_told = false;
        loop {
            match claim.look(Instant::now()).await? {
                LedgerLook::Ours { .. } => return Ok(claim),
                LedgerLook::Other(OtherLedger::Kept(other)) => {
                    return Err(AppError::OtherLedger { detail: refusal(region, &claim.own, &other) });
                }
                LedgerLook::Other(other @ OtherLedger::Last { .. }) if !is_told => {
                    is_told = true;
                    tracing::warn!("{} had another ledger last: {other}", whose(region));
                }
                LedgerLook::Other(OtherLedger::Last { .. }) => {}
            }
            sleep(LEDGER_LOOK).await;
        }
    }

    /// Looks at `now` whose ledger is that of the region, and makes ours that where nobody else has it. The store's calls
    /// block.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) async fn look(&mut self, now: Instant) -> Result<LedgerLook, AppError> {
        let found = self.read()?;
        let mut other = found.other(&self.own);
        // Who did not look did not hear.
        let heard = self.looked_at.replace(now).is_some_and(|at| now.duration_since(at) <= GAP_MAX);
        self.quiet_since = match other {
            Some(OtherLedger::Last { .. }) => self.quiet_since.filter(|_| heard).or(Some(now)),
            _ => None,
        };
        let is_quiet = self.quiet_since.is_some_and(|since| now.duration_since(since) >= SILENCE);
        let was_ours = self.word.is_some();
        // Where it is not written whose was the last, that may have been lost.
        if (is_quiet || other.is_none()) && (!was_ours || found.last.is_none()) {
            other = self.claim(found.last_revision).await.inspect_err(|_| self.withdraw())?;
        }
        match other {
            None => Ok(LedgerLook::Ours { is_new: !was_ours, twin: found.twin(&self.own) }),
            Some(other) => {
                self.withdraw();
                Ok(LedgerLook::Other(other))
            }
        }
    }

    /// Says a word of ours, and has `ledger/<region>`, as `last_revision` wrote it, name our ledger; `Some`: another was
    /// faster.
    async fn claim(&mut self, last_revision: u64) -> Result<Option<OtherLedger>, AppError> {
        let key = self.speak().await?;
        self.name_ours(&key, last_revision)
    }

    /// The key of a new word of ours.
    async fn speak(&mut self) -> Result<String, AppError> {
        let act = "drawing what tells one start from another";
        let start = draw_installation().map_err(|_| AppError::Crypto { act })?;
        let key = format!("{}{start:032x}", ledgers(&self.region));
        let value = serde_json::to_vec(&self.own).map_err(AppError::Encode)?;
        let mut hold = self.store.hold(&key, &value, TERM);
        let is_held = timeout(TERM, hold.held()).await.is_ok();
        self.word = Some(Word { key: key.clone(), hold });
        if is_held { Ok(key) } else { Err(unheard()) }
    }

    fn name_ours(&self, key: &str, last_revision: u64) -> Result<Option<OtherLedger>, AppError> {
        let found = self.read()?;
        if let Some(first) = found.words.first().filter(|first| !first.used.shares_with(&self.own)) {
            return Ok(Some(OtherLedger::Kept(first.used.clone())));
        }
        if found.last.as_ref().is_some_and(|last| last.is(&self.own)) {
            return Ok(None);
        }
        let said = found.words.iter().find(|said| said.key == key).ok_or_else(unheard)?;
        // Not where we stood still since, and our word has lapsed.
        let guards = [
            Guard { key: said.key.clone(), revision: said.revision },
            Guard { key: last_ledger(&self.region), revision: last_revision },
        ];
        match self.store.txn(&guards, &[put_last(&self.region, &LastLedger::of(&self.own))?]) {
            Ok(_) => Ok(None),
            Err(StoreError::Conflict { .. }) => Ok(self.read()?.other(&self.own)),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when nobody finds our word any more, or after a moment.
    pub(crate) fn withdraw(&mut self) {
        let Some(Word { key, hold }) = self.word.take() else { return };
        drop(hold);
        let until = Instant::now() + GIVE_BACK_TIME;
        while Instant::now() < until {
            match self.store.get(std::slice::from_ref(&key)) {
                Ok(listing) if !listing.entries.is_empty() => std::thread::sleep(GIVE_BACK_PAUSE),
                _ => return,
            }
        }
    }

    fn read(&self) -> Result<Found, StoreError> {
        let (last, last_revision) = last(self.store.as_ref(), &self.region)?;
        let mut entries = self.store.list(&ledgers(&self.region))?.entries;
        entries.sort_by_key(|entry| entry.revision);
        // What a later version says in other words is passed over.
        let said = |entry: Entry| {
            let used = serde_json::from_slice(&entry.value).ok()?;
            Some(Said { key: entry.key, revision: entry.revision, used })
        };
        Ok(Found { words: entries.into_iter().filter_map(said).collect(), last, last_revision })
    }
}

impl Found {
    /// Who has the region in place of `own`. Where another was the last, nobody's word but another's counts: one of ours
    /// may be there still.
    fn other(&self, own: &LedgerUse) -> Option<OtherLedger> {
        let first = match &self.last {
            Some(last) if !last.is(own) => self.words.iter().find(|said| !said.used.shares_with(own)),
            _ => self.words.first().filter(|first| !first.used.shares_with(own)),
        };
        let last = self.last.as_ref().filter(|last| !last.is(own));
        let kept = first.map(|said| OtherLedger::Kept(said.used.clone()));
        kept.or_else(|| last.map(|last| OtherLedger::Last { place: last.place.clone() }))
    }

    /// Who says to have the same ledger at another server.
    fn twin(&self, own: &LedgerUse) -> Option<LedgerUse> {
        let is_twin = |said: &&Said| said.used.shares_with(own) && said.used.server != own.server;
        self.words.iter().find(is_twin).map(|said| said.used.clone())
    }
}

impl LastLedger {
    fn of(used: &LedgerUse) -> Self {
        Self { ledger: used.ledger.clone(), file: file_of(used).map(str::to_owned), place: used.place() }
    }

    fn is(&self, used: &LedgerUse) -> bool {
        self.ledger == used.ledger && self.file.as_deref() == file_of(used)
    }
}

/// Device and inode of its file, as they are after the boot.
fn file_of(used: &LedgerUse) -> Option<&str> {
    used.file.as_deref()?.split_once(':').map(|(_, file)| file)
}

/// Who has the region in place of `own`, where another was the last that had it: as the store says it now.
///
/// # Errors
/// The store fails.
pub(super) fn taken_over(
    store: &dyn ConfigStore,
    region: &str,
    own: &LedgerUse,
) -> Result<Option<OtherLedger>, StoreError> {
    let last = last(store, region)?.0.filter(|last| !last.is(own));
    Ok(last.map(|last| OtherLedger::Last { place: last.place }))
}

/// A ledger was moved, of which nobody makes use: where it was the region's last, the one at `server` is from now on.
///
/// # Errors
/// The store fails.
pub(crate) fn ledger_moved(
    store: &dyn ConfigStore,
    region: &str,
    [from, to]: [u128; 2],
    server: &str,
) -> Result<(), AppError> {
    let from = format!("{from:032x}");
    if last(store, region)?.0.is_some_and(|last| last.ledger == from) {
        let place = format!("in PostgreSQL at {server}");
        let moved = LastLedger { ledger: format!("{to:032x}"), file: None, place };
        store.txn(&[], &[put_last(region, &moved)?])?;
    }
    Ok(())
}

/// Which ledger was the region's last, where that is known, and the revision that wrote it. What a later version says in
/// other words is passed over.
fn last(store: &dyn ConfigStore, region: &str) -> Result<(Option<LastLedger>, u64), StoreError> {
    let listing = store.get(&[last_ledger(region)])?;
    let found = listing.entries.first();
    let last = found.and_then(|entry| serde_json::from_slice(&entry.value).ok());
    Ok((last, found.map_or(0, |entry| entry.revision)))
}

fn put_last(region: &str, last: &LastLedger) -> Result<Write, AppError> {
    let value = serde_json::to_vec(last).map_err(AppError::Encode)?;
    Ok(Write::Put { key: last_ledger(region), value })
}

fn unheard() -> AppError {
    StoreError::Timeout { act: "saying which ledger is kept" }.into()
}

/// A control plane that died is forgotten after at most so long.
pub(super) const TERM: Duration = Duration::from_secs(5);
/// Nobody's word for so long, and another ledger may be the region's: more than what a word that lapsed with the store needs to
/// be back (the rest of the lease, a third of it, and a call).
pub(super) const SILENCE: Duration = Duration::from_secs(2 * TERM.as_secs());
/// How often one that starts, or runs, looks.
pub(crate) const LEDGER_LOOK: Duration = Duration::from_secs(1);
/// For one call of a look, which a stop waits for.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// Between two looks of which the second continues the silence of the first.
const GAP_MAX: Duration = Duration::from_secs(LEDGER_LOOK.as_secs() + LOOK_TIME.as_secs());
/// For our word to be gone when we end, and between two looks whether it is.
const GIVE_BACK_TIME: Duration = Duration::from_secs(1);
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
