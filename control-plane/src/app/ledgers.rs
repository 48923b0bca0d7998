//! Which ledger the control planes of a region keep: one, or the second does not start.
//!
//! `claim` has how a region comes to have one; here is what is said of it. A PostgreSQL ledger may have several control planes, a
//! file one: where the same ledger is in another file, that is a copy. Absent here: which ledger is the right one, which only
//! the operator knows.

mod claim;

use std::fmt;
use std::sync::PoisonError;

use postrail_schema::problem::{Problem, Severity};
use postrail_schema::sealed::MasterKeyId;
use serde::{Deserialize, Serialize};

pub(crate) use self::claim::{LEDGER_LOOK, LedgerClaim, ledger_moved};
use self::claim::{SILENCE, TERM, taken_over};
use super::{App, AppError};

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
    /// The master keys that it has; none: it is of a version that does not say.
    #[serde(default)]
    pub master_keys: Vec<MasterKeyId>,
}

/// Who has a region in place of us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum OtherLedger {
    /// A control plane that runs keeps another ledger.
    Kept(LedgerUse),
    /// Another was the region's last, and nobody keeps it now.
    Last { place: String },
}

/// What one look finds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum LedgerLook {
    /// Ours is the ledger of the region. `is_new`: it was not at the look before. `twin`: who has it at another server.
    Ours {
        is_new: bool,
        twin: Option<LedgerUse>,
    },
    Other(OtherLedger),
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

impl fmt::Display for OtherLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(other) => write!(f, "{other}; ask it at {}", other.api),
            Self::Last { place } => write!(
                f,
                "it was {place}; this one takes its place when nobody has kept that for {} seconds",
                SILENCE.as_secs()
            ),
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
    /// Which ledger this process says that it keeps, in a fleet.
    pub(crate) fn keeps_ledger(&self, own: LedgerUse) {
        // It is said once.
        let _ = self.own_ledger.set(own);
    }

    /// Takes over what a look has found.
    pub(crate) fn set_ledger_look(&self, look: LedgerLook) {
        *self.ledger_look.write().unwrap_or_else(PoisonError::into_inner) = Some(look);
    }

    /// Whether ours is the ledger of our region, as far as we know.
    ///
    /// # Errors
    /// [`AppError::OtherLedger`].
    pub(crate) fn check_ledger(&self) -> Result<(), AppError> {
        match &*self.ledger_look.read().unwrap_or_else(PoisonError::into_inner) {
            Some(LedgerLook::Other(other)) => Err(AppError::OtherLedger { detail: other_ledger(other) }),
            Some(LedgerLook::Ours { .. }) | None => Ok(()),
        }
    }

    /// The same as the store says it now: who stood still for a while does not know yet what came meanwhile.
    ///
    /// # Errors
    /// [`AppError::OtherLedger`]; the store fails.
    pub(crate) fn check_ledger_now(&self) -> Result<(), AppError> {
        self.check_ledger()?;
        let Some(own) = self.own_ledger.get() else { return Ok(()) };
        match taken_over(self.store.as_ref(), &self.region, own)? {
            None => Ok(()),
            Some(other) => Err(AppError::OtherLedger { detail: other_ledger(&other) }),
        }
    }

    /// The finding about it.
    pub(super) fn ledger_problem(&self) -> Option<Problem> {
        let look = self.ledger_look.read().unwrap_or_else(PoisonError::into_inner);
        let (severity, code, detail) = match look.as_ref()? {
            LedgerLook::Ours { twin: None, .. } => return None,
            LedgerLook::Ours { twin: Some(twin), .. } => {
                let ours = self.own_ledger.get().and_then(|own| own.server.as_deref()).unwrap_or_default();
                let detail = format!(
                    "{twin}, and this one has the same ledger at {ours}: where one is a copy of the other (a restored \
                     backup, a promoted replica), suppressions, audit trail and events are split between the two; give \
                     every control plane the same --ledger, also where both names are of one server"
                );
                (Severity::Warning, "ledger_servers_differ", detail)
            }
            LedgerLook::Other(other) => {
                let detail = format!(
                    "this control plane has another ledger than its region, which began while this one was cut off: {other}; \
                     nothing is changed here, and no events are taken; give both one ledger (--ledger, postrail \
                     move-ledger), or stop the one that is wrong"
                );
                (Severity::Error, "other_ledger", detail)
            }
        };
        Some(Problem { severity, code, subject: format!("region/{}", self.region), detail })
    }
}

fn other_ledger(other: &OtherLedger) -> String {
    format!("this control plane has another ledger than its region, so nothing is changed here: {other}")
}
