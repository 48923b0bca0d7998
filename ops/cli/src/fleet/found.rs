//! `postrail move-to-etcd`: a host that ran by itself becomes the first of a fleet.
//!
//! Its configuration goes into etcd with its ids, which the mail in its spool names; its number stays that of a host by
//! itself, by which its ledger knows its journals. The file is put aside, so that nobody starts with what is of the past.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use postrail_control_plane::store::{ConfigStore, EmbeddedStore, EtcdStore, Write, move_configuration};
use postrail_schema::ids::HostId;
use postrail_schema::keys::MOVED;

use crate::args::MoveOptions;
use crate::up::folder::DataFolder;

/// Moves the configuration of the data folder.
///
/// # Errors
/// The folder is in use, has no configuration, or etcd has one.
pub(crate) fn run(data: &Path, options: &MoveOptions) -> Result<()> {
    if !data.join(FILE).exists() {
        let moved = if data.join(ASIDE).exists() { "; it was moved before" } else { "" };
        bail!("there is no {FILE} in {}{moved}: name the data folder of the host by --data", data.display());
    }
    let folder = DataFolder::claim(data)?;
    let fleet = options.fleet.clone().fleet(|name| std::env::var(name).ok())?;
    let fleet = fleet.context("name the members of etcd by --etcd")?;
    let (file, aside) = (folder.path().join(FILE), folder.path().join(ASIDE));
    let to = EtcdStore::open(&fleet.etcd)?;
    let moved = {
        let from = EmbeddedStore::open(&file).with_context(|| format!("cannot open {}", file.display()))?;
        let moved = move_configuration(&from, &to).context("nothing was moved")?;
        let mark = Write::Put { key: MOVED.to_owned(), value: fleet.cluster.clone().into_bytes() };
        from.txn(&[], &[mark]).with_context(|| format!("cannot mark {} as moved", file.display()))?;
        moved
    };
    let number = folder.path().join("host.id");
    if !number.exists() {
        std::fs::write(&number, format!("{}\n", HostId::LOCAL))
            .with_context(|| format!("cannot write {}", number.display()))?;
    }
    std::fs::rename(&file, &aside).with_context(|| format!("cannot put {} aside", file.display()))?;
    println!("moved {moved} records into etcd; the file is kept as {}", aside.display());
    println!("start this host as before, with --etcd {}", fleet.etcd.endpoints.join(" --etcd "));
    Ok(())
}

/// Refuses to leave a configuration behind, by which mail that waits here is signed and sent.
///
/// # Errors
/// There is one that was not moved.
pub(crate) fn check_moved(data: &Path) -> Result<()> {
    if data.join(FILE).exists() {
        bail!(
            "--etcd names where the configuration is, and {} has one that was not moved there: move it by postrail \
             move-to-etcd (or, to leave it behind, rename {FILE})",
            data.display()
        );
    }
    Ok(())
}

/// Opens the configuration of a host by itself. One that was moved away is not begun anew, nor gone back to: etcd has given
/// numbers since, which mail in the spool and events have.
///
/// # Errors
/// It was moved, or cannot be opened.
pub(crate) fn open(data: &Path) -> Result<EmbeddedStore> {
    let file = data.join(FILE);
    let moved = || {
        anyhow!(
            "the configuration of {} was moved into etcd, and what was changed since is there alone: start it with --etcd",
            data.display()
        )
    };
    if data.join(ASIDE).exists() && !file.exists() {
        return Err(moved());
    }
    let store = EmbeddedStore::open(&file).context("opening config.db")?;
    let marks = store.get(&[MOVED.to_owned()]).context("reading config.db")?;
    if marks.entries.is_empty() { Ok(store) } else { Err(moved()) }
}

const FILE: &str = "config.db";
const ASIDE: &str = "config.db.moved";
