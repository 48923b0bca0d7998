//! Which ledger the control planes of a region keep: one, or the second does not start.
//!
//! ```text
//! start: look at ledgers/<region>/ -> another ledger first: refused
//!        ledger/<region> names another -> wait until nobody has said a word for ten seconds -> somebody does: refused
//!        put a key of our own under a lease -> look again -> another ledger first: refused, the key is taken back
//!        ledger/<region> names ours from here on
//! then:  look every second -> another ledger first: nothing is changed here, and no journal taken, until it is gone
//!                          -> ledger/<region> names another, which is gone: suppressions are announced anew, it names ours
//! ```
//!
//! Invariants worth naming: the ledger of a region is that of the living key with the lowest revision, so everybody who looks
//! says the same, and of two that start at once one is refused. Nobody puts a key who sees another ledger, so that one that is
//! refused again and again is in nobody's way. A start has a key of its own: who is started again on its own ledger waits for
//! nothing. Who had the region keeps it through an outage of the store, in which its word lapses: nobody with another ledger takes
//! less silence than that for its end. A PostgreSQL ledger may have several control planes, a file one: where the same ledger is
//! in another file, that is a copy. Absent here: which ledger is the right one, which only the operator knows.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use postrail_schema::keys::{last_ledger, ledgers};
use postrail_schema::problem::{Problem, Severity};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{App, AppError};
use crate::files::draw_installation;
use crate::store::{ConfigStore, Hold, StoreError, Write};

/// What a control plane says of its ledger while it runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LedgerUse {
    /// Which ledger it is, in hexadecimal digits.
    pub ledger: String,
    /// The PostgreSQL server and database; absent: a file in the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Which file it is: that of another boot, device or inode is another one. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The control plane's host, and its control API.
    pub host: String,
    pub api: String,
}

/// Which ledger was that of a region last: it outlives those who keep it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct LastLedger {
    /// As [`LedgerUse::ledger`].
    ledger: String,
    /// Where it is, for people.
    place: String,
}

/// What one look finds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LedgerLook {
    /// Who keeps another ledger for the region, and came before.
    pub other: Option<LedgerUse>,
    /// Nobody does, and yet another ledger was the region's last: it was in use meanwhile.
    pub was_other: bool,
}

/// Our word on our ledger, for as long as this lives.
pub(crate) struct LedgerClaim {
    store: Arc<dyn ConfigStore>,
    region: String,
    key: String,
    own: LedgerUse,
    hold: Hold,
}

impl LedgerUse {
    /// Whether both have one ledger.
    fn shares_with(&self, other: &Self) -> bool {
        self.ledger == other.ledger && self.file == other.file
    }

    /// Where it is, for people.
    fn place(&self) -> String {
        match &self.server {
            Some(server) => format!("in PostgreSQL at {server}"),
            None => format!("in the data folder of {}", self.host),
        }
    }
}

impl fmt::Display for LedgerUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "control plane {} ({}) keeps it ", self.host, self.api)?;
        match &self.server {
            Some(server) => write!(f, "in PostgreSQL at {server}"),
            None => write!(f, "in its data folder"),
        }
    }
}

impl LedgerClaim {
    /// Says which ledger we keep, after a while of silence where another was the region's last. The store's calls block: the
    /// caller has a thread for it.
    ///
    /// # Errors
    /// [`AppError::OtherLedger`] where the region has another; the store fails.
    pub(crate) async fn take(store: Arc<dyn ConfigStore>, region: &str, own: LedgerUse) -> Result<Self, AppError> {
        let former = last(store.as_ref(), region)?.filter(|last| last.ledger != own.ledger);
        await_silence(store.as_ref(), region, &own, former).await?;
        let act = "drawing what tells one start from another";
        let start = draw_installation().map_err(|_| AppError::Crypto { act })?;
        let key = format!("{}{start:032x}", ledgers(region));
        let value = serde_json::to_vec(&own).map_err(AppError::Encode)?;
        let mut hold = store.hold(&key, &value, TERM);
        let is_held = timeout(TERM, hold.held()).await.is_ok();
        let claim = Self { store: store.within(LOOK_TIME), region: region.to_owned(), key, own, hold };
        let found = match is_held {
            true => claim.other().map_err(AppError::from),
            false => Err(StoreError::Timeout { act: "saying which ledger is kept" }.into()),
        };
        let refused = match found {
            Ok(None) => match claim.keep() {
                Ok(()) => return Ok(claim),
                Err(error) => error,
            },
            Ok(Some(other)) => AppError::OtherLedger { detail: refusal(region, &claim.own, &other) },
            Err(error) => error,
        };
        claim.give_back();
        Err(refused)
    }

    /// Whether our ledger is that of the region, and was all the while.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn look(&self) -> Result<LedgerLook, StoreError> {
        let other = self.other()?;
        let is_ours = |last: LastLedger| last.ledger == self.own.ledger;
        let was_other = other.is_none() && !last(self.store.as_ref(), &self.region)?.is_none_or(is_ours);
        Ok(LedgerLook { other, was_other })
    }

    /// Writes that ours is the ledger of the region, where that is not there.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn keep(&self) -> Result<(), AppError> {
        let ours = LastLedger { ledger: self.own.ledger.clone(), place: self.own.place() };
        match last(self.store.as_ref(), &self.region)? {
            Some(last) if last.ledger == ours.ledger => Ok(()),
            _ => put_last(self.store.as_ref(), &self.region, &ours),
        }
    }

    /// Who keeps another ledger for the region, and came before.
    ///
    /// # Errors
    /// The store cannot be read.
    fn other(&self) -> Result<Option<LedgerUse>, StoreError> {
        Ok(first(self.store.as_ref(), &self.region)?.filter(|first| !first.shares_with(&self.own)))
    }

    /// Returns when nobody finds our word any more, or after a moment.
    pub(crate) fn give_back(self) {
        let Self { store, key, hold, .. } = self;
        drop(hold);
        let until = Instant::now() + GIVE_BACK_TIME;
        while Instant::now() < until {
            match store.get(std::slice::from_ref(&key)) {
                Ok(listing) if !listing.entries.is_empty() => std::thread::sleep(GIVE_BACK_PAUSE),
                _ => return,
            }
        }
    }
}

/// Whose ledger is that of the region: the first who said so, of those who live. What a later version says in other words
/// is passed over.
fn first(store: &dyn ConfigStore, region: &str) -> Result<Option<LedgerUse>, StoreError> {
    let mut entries = store.list(&ledgers(region))?.entries;
    entries.sort_by_key(|entry| entry.revision);
    Ok(entries.iter().find_map(|entry| serde_json::from_slice(&entry.value).ok()))
}

/// Which ledger was the region's last, where that is known. What a later version says in other words is passed over.
fn last(store: &dyn ConfigStore, region: &str) -> Result<Option<LastLedger>, StoreError> {
    let listing = store.get(&[last_ledger(region)])?;
    Ok(listing.entries.first().and_then(|entry| serde_json::from_slice(&entry.value).ok()))
}

fn put_last(store: &dyn ConfigStore, region: &str, last: &LastLedger) -> Result<(), AppError> {
    let value = serde_json::to_vec(last).map_err(AppError::Encode)?;
    store.txn(&[], &[Write::Put { key: last_ledger(region), value }])?;
    Ok(())
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
    match last(store, region)? {
        Some(last) if last.ledger == from => {
            let moved = LastLedger { ledger: format!("{to:032x}"), place: format!("in PostgreSQL at {server}") };
            put_last(store, region, &moved)
        }
        _ => Ok(()),
    }
}

/// Returns when nobody keeps another ledger: at once, or where `former` was the region's last, after a while in which nobody
/// has said a word. Who had it may only be cut off from the store, or the store have been away.
///
/// # Errors
/// [`AppError::OtherLedger`] as soon as somebody does; the store fails.
async fn await_silence(
    store: &dyn ConfigStore,
    region: &str,
    own: &LedgerUse,
    former: Option<LastLedger>,
) -> Result<(), AppError> {
    let (mut since, mut is_told) = (Instant::now(), false);
    loop {
        let asked = Instant::now();
        match (first(store, region)?, &former) {
            (Some(first), _) if first.shares_with(own) => return Ok(()),
            (Some(other), _) => return Err(AppError::OtherLedger { detail: refusal(region, own, &other) }),
            (None, None) => return Ok(()),
            (None, Some(_)) if since.elapsed() >= SILENCE => return Ok(()),
            (None, Some(former)) if !is_told => {
                is_told = true;
                tracing::warn!(
                    "{} had another ledger last, {}: this one takes its place when nobody has kept that for {} seconds",
                    whose(region),
                    former.place,
                    SILENCE.as_secs()
                );
            }
            (None, Some(_)) => {}
        }
        sleep(SILENCE_PAUSE).await;
        // Who did not look did not hear.
        if asked.elapsed() > SILENCE_PAUSE + LOOK_TIME {
            since = Instant::now();
        }
    }
}

fn whose(region: &str) -> String {
    if region.is_empty() { "this fleet".to_owned() } else { format!("region {region}") }
}

/// Why a control plane does not start, and what to do.
fn refusal(region: &str, own: &LedgerUse, other: &LedgerUse) -> String {
    let (what, seconds) = (difference(region, own, other), TERM.as_secs());
    let share = match (&other.server, &own.server) {
        (Some(_), _) => "start this one with the same --ledger",
        (None, Some(_)) => {
            "move that one's into PostgreSQL there (postrail move-ledger), and start both with that --ledger"
        }
        (None, None) => {
            "move that one's into PostgreSQL (postrail move-ledger), and start both with --ledger postgres://…"
        }
    };
    format!("{what}: {share}; or stop {}, whose word lapses {seconds} seconds after it has died", other.host)
}

/// What is wrong, in half a sentence.
fn difference(region: &str, own: &LedgerUse, other: &LedgerUse) -> String {
    let whose = whose(region);
    let is_copy = own.ledger == other.ledger;
    let ours = match &own.server {
        Some(server) => format!("the one in PostgreSQL at {server}"),
        None if is_copy => "a copy of that one's file".to_owned(),
        None => "a file of its own".to_owned(),
    };
    format!(
        "{whose} has one ledger (events, suppressions, audit trail), and {other}, while this one ({}) has {ours}",
        own.host
    )
}

impl App {
    /// Takes over who keeps another ledger than we do.
    pub(crate) fn set_other_ledger(&self, other: Option<LedgerUse>) {
        *self.other_ledger.write().unwrap_or_else(PoisonError::into_inner) = other;
    }

    /// Whether ours is the ledger of our region, as far as we know.
    ///
    /// # Errors
    /// [`AppError::OtherLedger`].
    pub(crate) fn check_ledger(&self) -> Result<(), AppError> {
        match &*self.other_ledger.read().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(other) => Err(AppError::OtherLedger {
                detail: format!(
                    "this control plane has another ledger than its region, so nothing is changed here: {other}; ask it at {}",
                    other.api
                ),
            }),
        }
    }

    /// The finding about it.
    pub(super) fn ledger_problem(&self) -> Option<Problem> {
        let other = self.other_ledger.read().unwrap_or_else(PoisonError::into_inner);
        other.as_ref().map(|other| Problem {
            severity: Severity::Error,
            code: "other_ledger",
            subject: format!("region/{}", self.region),
            detail: format!(
                "this control plane has another ledger than its region: {other}, and began while this one was cut off; nothing is \
                 changed here, and no events are taken, until one of the two is stopped: give both one ledger \
                 (--ledger, postrail move-ledger)"
            ),
        })
    }
}

/// A control plane that died is forgotten after at most so long.
const TERM: Duration = Duration::from_secs(5);
/// Nobody's word for so long, and another ledger may be the region's: more than what a word that lapsed with the store needs to
/// be back (the rest of the lease, a third of it, and a call).
const SILENCE: Duration = Duration::from_secs(2 * TERM.as_secs());
const SILENCE_PAUSE: Duration = Duration::from_millis(500);
/// How often one that runs looks whether its ledger is that of the region.
pub(crate) const LEDGER_LOOK: Duration = Duration::from_secs(1);
/// For one look, which a stop waits for.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// For our word to be gone when we end, and between two looks whether it is.
const GIVE_BACK_TIME: Duration = Duration::from_secs(1);
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::Etcd;
    use crate::store::{EmbeddedStore, Write};

    fn own(ledger: &str, server: Option<&str>, host: &str) -> LedgerUse {
        let [ledger, host] = [ledger, host].map(str::to_owned);
        let file = server.is_none().then(|| format!("boot:1:{ledger}"));
        LedgerUse { ledger, server: server.map(str::to_owned), file, host, api: "http://10.0.0.1:8081".to_owned() }
    }

    fn put(key: &str, own: &LedgerUse) -> Write {
        Write::Put { key: key.to_owned(), value: serde_json::to_vec(own).unwrap() }
    }

    /// Runs `test` on each kind of store, empty.
    fn each(test: impl Fn(&tokio::runtime::Runtime, Arc<dyn ConfigStore>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        test(&runtime, Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap()));
        let etcd = Etcd::start(&[]);
        test(&runtime, Arc::new(etcd.store()));
    }

    #[test]
    fn a_region_has_one_ledger_that_several_share_where_it_can_be_shared() {
        each(|runtime, store| {
            let take = |region, own| runtime.block_on(LedgerClaim::take(Arc::clone(&store), region, own));
            let refused = |own| take("", own).err().expect("a refusal").to_string();
            let first = take("", own("a", Some("db"), "one")).unwrap();
            let second = take("", own("a", Some("db"), "two")).unwrap();
            let said = refused(own("b", Some("other"), "three"));
            assert!(said.contains("control plane one (http://10.0.0.1:8081) keeps it in PostgreSQL at db"), "{said}");
            assert!(said.contains("this one (three) has the one in PostgreSQL at other: start this one with the same"));
            assert_eq!(store.list("ledgers/").unwrap().entries.len(), 2, "who is refused leaves no word");
            let elsewhere = take("eu", own("c", None, "four")).unwrap();
            first.give_back();
            assert!(refused(own("d", None, "five")).contains("control plane two"), "the ledger has not ended");
            second.give_back();
            store.txn(&[], &[Write::Delete { key: "ledger/".to_owned() }]).unwrap();
            // The file says who it is, and not the host's name: that may have changed, and a copy may have it as well.
            let files = [take("", own("d", None, "five")).unwrap(), take("", own("d", None, "six")).unwrap()];
            let copy = LedgerUse { file: Some("boot:1:2".to_owned()), ..own("d", None, "five") };
            assert!(refused(copy).contains("a copy of that one's file"));
            assert!(refused(own("a", Some("db"), "one")).contains("postrail move-ledger"));
            files.into_iter().chain([elsewhere]).for_each(LedgerClaim::give_back);
            assert!(store.list("ledgers/").unwrap().entries.is_empty());
        });
    }

    #[test]
    fn of_many_that_start_at_once_those_of_one_ledger_go_on() {
        each(|_, store| {
            let start = |n: usize| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let own = own(["a", "b"][n % 2], Some("db"), &format!("host-{n}"));
                runtime.block_on(LedgerClaim::take(Arc::clone(&store), "", own)).ok()
            };
            let claims: Vec<_> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..8).map(|n| scope.spawn(move || start(n))).collect();
                starts.into_iter().filter_map(|start| start.join().unwrap()).collect()
            });
            assert!(!claims.is_empty());
            assert!(claims.iter().all(|claim| claim.own.ledger == claims[0].own.ledger), "of one ledger");
            assert!(claims.iter().all(|claim| claim.other().unwrap().is_none()));
        });
    }

    #[test]
    fn whose_word_lapsed_finds_who_came_meanwhile_and_goes_on_when_that_is_gone() {
        each(|runtime, store| {
            let mine = own("a", None, "one");
            let claim = runtime.block_on(LedgerClaim::take(Arc::clone(&store), "", mine.clone())).unwrap();
            let other = own("b", None, "two");
            // Whichever key is first by its name: the one that was written first counts.
            for key in ["ledgers//0", "ledgers//z"] {
                store.txn(&[], &[put(key, &other)]).unwrap();
                assert_eq!(claim.other().unwrap(), None, "we were first");
                store.txn(&[], &[put(&claim.key, &mine)]).unwrap();
                assert_eq!(claim.other().unwrap().as_ref(), Some(&other), "now it was");
                store.txn(&[], &[Write::Delete { key: key.to_owned() }]).unwrap();
                assert_eq!(claim.other().unwrap(), None);
            }
            assert!(!claim.look().unwrap().was_other, "it never was the region's");
            let theirs = LastLedger { ledger: "b".to_owned(), place: other.place() };
            put_last(store.as_ref(), "", &theirs).unwrap();
            assert_eq!(claim.look().unwrap(), LedgerLook { other: None, was_other: true });
            claim.keep().unwrap();
            assert_eq!(claim.look().unwrap(), LedgerLook { other: None, was_other: false });
            let unknown = Write::Put { key: "ledgers//0".to_owned(), value: b"later".to_vec() };
            store.txn(&[], &[unknown]).unwrap();
            store.txn(&[], &[put(&claim.key, &mine)]).unwrap();
            assert_eq!(claim.other().unwrap(), None, "of a version that says it otherwise");
        });
    }

    #[test]
    fn who_had_the_region_last_starts_at_once_and_another_after_a_while_in_which_nobody_did() {
        each(|_, store| {
            let take = |own| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let begun = Instant::now();
                let taken = runtime.block_on(LedgerClaim::take(Arc::clone(&store), "", own));
                (taken, begun.elapsed())
            };
            take(own("1", None, "one")).0.unwrap().give_back();
            // Whoever is back within the silence of another has the region still.
            std::thread::scope(|scope| {
                let second = scope.spawn(|| take(own("2", None, "two")));
                std::thread::sleep(SILENCE / 4);
                let (first, waited) = take(own("1", None, "one"));
                assert!(waited < SILENCE / 4, "{waited:?}");
                let refused = second.join().unwrap().0.err().expect("a refusal").to_string();
                assert!(refused.contains("control plane one"), "{refused}");
                first.unwrap().give_back();
            });
            let (second, waited) = take(own("2", None, "two"));
            assert!(waited >= SILENCE, "{waited:?}");
            second.unwrap().give_back();
            assert_eq!(last(store.as_ref(), "").unwrap().map(|last| last.ledger), Some("2".to_owned()));

            // A move says so by itself, where what was moved is the region's.
            ledger_moved(store.as_ref(), "", [1, 3], "db").unwrap();
            assert_eq!(last(store.as_ref(), "").unwrap().map(|last| last.ledger), Some("2".to_owned()));
            let two = LastLedger { ledger: format!("{:032x}", 2), place: String::new() };
            put_last(store.as_ref(), "", &two).unwrap();
            ledger_moved(store.as_ref(), "", [2, 3], "db").unwrap();
            let (third, waited) = take(own(&format!("{:032x}", 3), Some("db"), "two"));
            assert!(third.is_ok() && waited < SILENCE, "{waited:?}");
        });
    }
}
