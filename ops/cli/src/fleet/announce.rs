//! A data plane of a fleet tells that it runs: `hosts/<name>`, under a lease.
//!
//! Its number belongs to its data folder and is kept there: the ledger's cursors are by number, so a host with an empty
//! folder is another host. A cluster gives a number once. What it announces says which master keys it has; where the next
//! one has become the cluster's, its file takes the place of the current one's.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use postrail_control_plane::adopt_next_master_key;
use postrail_control_plane::store::{ConfigStore, Guard, StoreError, Write};
use postrail_schema::allocation::HostName;
use postrail_schema::host::HostAnnouncement;
use postrail_schema::ids::HostId;
use postrail_schema::keys::{HOSTS_COUNTER, MASTER_KEY_CHECK, host};
use postrail_schema::sealed::MasterKey;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

/// Announces until `stop` is true; waits for a store that is out of reach.
pub(crate) async fn announce(
    store: Arc<dyn ConfigStore>,
    data: std::path::PathBuf,
    next: Option<MasterKey>,
    name: HostName,
    mut facts: HostAnnouncement,
    mut stop: watch::Receiver<bool>,
) {
    let id = loop {
        let (store, data, next) = (Arc::clone(&store), data.clone(), next.clone());
        let asked = move || {
            take_over(store.as_ref(), &data, next.as_ref())?;
            number(store.as_ref(), &data)
        };
        match tokio::task::spawn_blocking(asked).await {
            Ok(Ok(id)) => break id,
            Ok(Err(error)) => warn!(error = format!("{error:#}"), "this host has no number yet"),
            Err(_) => return,
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = sleep(PAUSE) => {}
        }
    };
    facts.id = HostId(id);
    let Ok(value) = serde_json::to_vec(&facts) else { return };
    let mut hold = store.hold(&host(name.as_str()), &value, TERM);
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => return,
        () = hold.held() => info!(%name, id, admin = facts.admin, "announced"),
    }
    // Dropping the hold afterwards takes the key away.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Goes over to the next master key where the cluster has; who runs knows both, so the files are what changes.
fn take_over(store: &dyn ConfigStore, data: &Path, next: Option<&MasterKey>) -> Result<()> {
    let Some(next) = next else { return Ok(()) };
    let listing = store.get(&[MASTER_KEY_CHECK.to_owned()]).context("cannot read the master key's check")?;
    if listing.entries.first().is_some_and(|entry| entry.value == next.check().as_bytes()) {
        adopt_next_master_key(data).context("cannot go over to the next master key")?;
        info!(master_key = %next.id(), "the next master key is the current one");
    }
    Ok(())
}

/// The number of this data folder: as kept, else a new one.
fn number(store: &dyn ConfigStore, data: &Path) -> Result<u32> {
    let path = data.join("host.id");
    match std::fs::read_to_string(&path) {
        Ok(text) => return text.trim().parse().with_context(|| format!("{} holds no number", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let id = next_number(store)?;
    let mut file = std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    Ok(id)
}

fn next_number(store: &dyn ConfigStore) -> Result<u32> {
    for _ in 0..TRIES_MAX {
        let listing = store.get(&[HOSTS_COUNTER.to_owned()]).context("cannot read the counter of hosts")?;
        let (last, revision) = match listing.entries.first() {
            Some(entry) => (std::str::from_utf8(&entry.value)?.parse::<u32>()?, entry.revision),
            None => (0, 0),
        };
        let next = last.checked_add(1).context("no number is left")?;
        let write = Write::Put { key: HOSTS_COUNTER.to_owned(), value: next.to_string().into_bytes() };
        match store.txn(&[Guard { key: HOSTS_COUNTER.to_owned(), revision }], &[write]) {
            Ok(_) => return Ok(next),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error).context("cannot write the counter of hosts"),
        }
    }
    bail!("other hosts take every number first; trying again")
}

/// A host that died is gone after at most so long.
const TERM: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);
const TRIES_MAX: u32 = 10;
