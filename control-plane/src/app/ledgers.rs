//! Which ledger the control planes of a region keep: one, or the second does not start.
//!
//! ```text
//! start: look at ledgers/<region>/ -> another ledger first: refused
//!        put a key of our own under a lease -> look again -> another ledger first: refused, the key is taken back
//! then:  look every second -> another ledger first: nothing is changed here, and no journal taken, until it is gone
//! ```
//!
//! Invariants worth naming: the ledger of a region is that of the living key with the lowest revision, so everybody who looks
//! says the same, and of two that start at once one is refused. Nobody puts a key who sees another ledger, so that one that is
//! refused again and again is in nobody's way. A start has a key of its own: who is started again on its own ledger waits for
//! nothing. A PostgreSQL ledger may have several control planes, a file one: where a second one says that it has the same
//! file, it has a copy. Absent here: which ledger is the right one, which only the operator knows.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use postrail_schema::keys::ledgers;
use postrail_schema::problem::{Problem, Severity};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{App, AppError};
use crate::files::draw_installation;
use crate::store::{ConfigStore, Hold, StoreError};

/// What a control plane says of its ledger while it runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LedgerUse {
    /// Which ledger it is, in hexadecimal digits.
    pub ledger: String,
    /// The PostgreSQL server and database; absent: a file in the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The control plane's host, and its control API.
    pub host: String,
    pub api: String,
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
        self.ledger == other.ledger && (self.server.is_some() || self.host == other.host)
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
    /// Says which ledger we keep. The store's calls block: the caller has a thread for it.
    ///
    /// # Errors
    /// [`AppError::OtherLedger`] where the region has another; the store fails.
    pub(crate) async fn take(store: Arc<dyn ConfigStore>, region: &str, own: LedgerUse) -> Result<Self, AppError> {
        let other = first(store.as_ref(), region)?.filter(|first| !first.shares_with(&own));
        if let Some(other) = other {
            return Err(AppError::OtherLedger { detail: refusal(region, &own, &other) });
        }
        let act = "drawing what tells one start from another";
        let start = draw_installation().map_err(|_| AppError::Crypto { act })?;
        let key = format!("{}{start:032x}", ledgers(region));
        let value = serde_json::to_vec(&own).map_err(AppError::Encode)?;
        let mut hold = store.hold(&key, &value, TERM);
        let is_held = timeout(TERM, hold.held()).await.is_ok();
        let claim = Self { store: store.within(LOOK_TIME), region: region.to_owned(), key, own, hold };
        let found = match is_held {
            true => claim.other(),
            false => Err(StoreError::Timeout { act: "saying which ledger is kept" }),
        };
        let refused = match found {
            Ok(None) => return Ok(claim),
            Ok(Some(other)) => AppError::OtherLedger { detail: refusal(region, &claim.own, &other) },
            Err(error) => error.into(),
        };
        claim.give_back();
        Err(refused)
    }

    /// Who keeps another ledger for the region, and came before.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn other(&self) -> Result<Option<LedgerUse>, StoreError> {
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
    let whose = if region.is_empty() { "this fleet".to_owned() } else { format!("region {region}") };
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
                "this control plane has another ledger than its region: {other}, and began while this one was cut off; nothing is                  changed here, and no events are taken, until one of the two is stopped: give both one ledger                  (--ledger, postrail move-ledger)"
            ),
        })
    }
}

/// A control plane that died is forgotten after at most so long.
const TERM: Duration = Duration::from_secs(5);
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
        LedgerUse { ledger, server: server.map(str::to_owned), host, api: "http://10.0.0.1:8081".to_owned() }
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
            let files = [take("", own("d", None, "five")).unwrap(), take("", own("d", None, "five")).unwrap()];
            assert!(refused(own("d", None, "six")).contains("a copy of that one's file"));
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
            let put = |key: &str, own: &LedgerUse| Write::Put {
                key: key.to_owned(),
                value: serde_json::to_vec(own).unwrap(),
            };
            // Whichever key is first by its name: the one that was written first counts.
            for key in ["ledgers//0", "ledgers//z"] {
                store.txn(&[], &[put(key, &other)]).unwrap();
                assert_eq!(claim.other().unwrap(), None, "we were first");
                store.txn(&[], &[put(&claim.key, &mine)]).unwrap();
                assert_eq!(claim.other().unwrap().as_ref(), Some(&other), "now it was");
                store.txn(&[], &[Write::Delete { key: key.to_owned() }]).unwrap();
                assert_eq!(claim.other().unwrap(), None);
            }
            let unknown = Write::Put { key: "ledgers//0".to_owned(), value: b"later".to_vec() };
            store.txn(&[], &[unknown]).unwrap();
            store.txn(&[], &[put(&claim.key, &mine)]).unwrap();
            assert_eq!(claim.other().unwrap(), None, "of a version that says it otherwise");
        });
    }
}
