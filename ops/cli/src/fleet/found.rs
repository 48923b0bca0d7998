//! `postrail move-to-etcd`: a host that ran by itself becomes the first of a fleet.
//!
//! Its configuration goes into etcd with its ids, which the mail in its spool names; its number stays that of a host by
//! itself, by which its ledger knows its journals. The file is put aside, so that nobody starts with what is of the past.

use std::path::Path;

use anyhow::{Context, Result, bail};
use postrail_control_plane::store::{EmbeddedStore, EtcdStore, move_configuration};
use postrail_schema::ids::HostId;

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
        move_configuration(&from, &to).context("nothing was moved")?
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

/// Refuses to begin anew where the configuration was moved away.
///
/// # Errors
/// It was.
pub(crate) fn check_not_moved(data: &Path) -> Result<()> {
    if data.join(ASIDE).exists() && !data.join(FILE).exists() {
        bail!(
            "the configuration of {} was moved into etcd: start it with --etcd (or, to go back to what it was then, \
             rename {ASIDE} to {FILE})",
            data.display()
        );
    }
    Ok(())
}

const FILE: &str = "config.db";
const ASIDE: &str = "config.db.moved";
