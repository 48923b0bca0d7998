//! `postrail move-ledger`: what became of mail goes from the file of a single control plane into a PostgreSQL database,
//! which several may share.
//!
//! The file is put aside only when everything of it is counted on both sides. Absent here: the rows themselves (the control
//! plane moves them).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use postrail_control_plane::store::{ConfigStore, EtcdStore};
use postrail_control_plane::{MoveProgress, MovedLedger, move_ledger};

use crate::args::MoveLedgerOptions;
use crate::fleet::found;
use crate::up::folder::DataFolder;
use crate::up::ledger::LedgerTold;

/// Moves the ledger of the data folder.
///
/// # Errors
/// The folder is in use, has no ledger, or the database cannot take it.
pub(crate) fn run(data: &Path, options: &MoveLedgerOptions) -> Result<()> {
    if !data.join(FILE).exists() {
        let moved = if data.join(ASIDE).exists() { "; it was moved before" } else { "" };
        bail!("there is no {FILE} in {}{moved}: name the data folder of the control plane by --data", data.display());
    }
    let variable = |name: &str| std::env::var(name).ok();
    let told =
        LedgerTold { option: options.ledger.clone(), file: None, password_file: options.ledger_password_file.clone() };
    let to = told.address(variable)?.context("name the database by --ledger")?;
    let folder = DataFolder::claim(data)?;
    let fleet = options.fleet.clone().fleet(variable)?;
    let store: Box<dyn ConfigStore> = match &fleet {
        Some(fleet) => Box::new(EtcdStore::open(&fleet.etcd)?),
        None => Box::new(found::open(folder.path())?),
    };
    let region = fleet.as_ref().map_or("", |fleet| &fleet.region);
    let mut told = Told::default();
    let MovedLedger { kinds, untold } =
        move_ledger(folder.path(), store.as_ref(), fleet.is_some(), region, &to, |at| told.tell(at))?;
    for end in ["", "-wal", "-shm"] {
        let (from, aside) = (folder.path().join(format!("{FILE}{end}")), folder.path().join(format!("{ASIDE}{end}")));
        if from.exists() {
            std::fs::rename(&from, &aside).with_context(|| format!("cannot put {} aside", from.display()))?;
        }
    }
    let all: Vec<_> = kinds.iter().map(|kind| format!("{} {}", kind.done, kind.what)).collect();
    println!("moved and counted on both sides: {}", all.join(", "));
    println!("the file is kept as {}", folder.path().join(ASIDE).display());
    println!("start this host as before, with --ledger");
    if let Some(error) = untold {
        println!(
            "etcd was not told of it ({error:#}), so that start waits until nobody has kept the file for ten seconds"
        );
    }
    Ok(())
}

/// Refuses to leave a ledger behind: without its suppressions mail would go to people who asked for none.
///
/// # Errors
/// There is one that was not moved.
pub(crate) fn check_moved(data: &Path) -> Result<()> {
    if data.join(FILE).exists() {
        bail!(
            "--ledger names a database, and {} has a ledger that was not moved there: move it by postrail move-ledger (or, to \
             leave its suppressions and events behind, rename {FILE})",
            data.display()
        );
    }
    Ok(())
}

/// Refuses to begin an empty ledger where it was moved away.
///
/// # Errors
/// It was.
pub(crate) fn check_not_moved(data: &Path) -> Result<()> {
    if data.join(ASIDE).exists() && !data.join(FILE).exists() {
        bail!(
            "the ledger of {} was moved into a PostgreSQL database, and what was suppressed and happened since is there alone: \
             start it with --ledger",
            data.display()
        );
    }
    Ok(())
}

/// What was told of the progress: each kind when it begins and ends, and now and then between.
#[derive(Default)]
struct Told {
    last: Option<(&'static str, Instant)>,
}

impl Told {
    fn tell(&mut self, at: MoveProgress) {
        let is_due = |(what, when): (&str, Instant)| what != at.what || when.elapsed() >= EVERY || at.done >= at.all;
        if at.all > 0 && self.last.is_none_or(is_due) {
            println!("{}: {} of {}", at.what, at.done, at.all);
            self.last = Some((at.what, Instant::now()));
        }
    }
}

const FILE: &str = "ledger.db";
const ASIDE: &str = "ledger.db.moved";
const EVERY: Duration = Duration::from_secs(2);
