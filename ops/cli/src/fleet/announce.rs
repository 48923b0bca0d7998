//! A data plane of a fleet tells that it runs: `hosts/<name>`, under a lease.
//!
//! Its number belongs to its data folder and is kept there: the ledger's cursors are by number, so a host with an empty
//! folder is another host. It is drawn at random, and `host-numbers/<number>` says whose it is: of two hosts that run with one
//! number, as copies of a data folder have, one is not announced and says so (`refused-hosts/<name>`), and of two with one name as well. What it announces says which master keys it has; where the next
//! one has become the cluster's, its file takes the place of the current one's.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use postrail_control_plane::adopt_next_master_key;
use postrail_control_plane::store::{ConfigStore, Guard, Hold, Write};
use postrail_schema::allocation::HostName;
use postrail_schema::host::{HostAnnouncement, RefusedHost};
use postrail_schema::ids::HostId;
use postrail_schema::keys::{MASTER_KEY_CHECK, host, host_number, refused_host};
use postrail_schema::sealed::MasterKey;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::random;

/// Announces until `stop` is true; waits for a store that is out of reach, and for a number of its own.
pub(crate) async fn announce(
    store: Arc<dyn ConfigStore>,
    data: std::path::PathBuf,
    next: Option<MasterKey>,
    name: HostName,
    mut facts: HostAnnouncement,
    mut stop: watch::Receiver<bool>,
) {
    let (mut announced, mut refused) = (None::<(HostId, Hold)>, None::<(String, Hold)>);
    loop {
        let asked = {
            let (store, data, next, name) = (Arc::clone(&store), data.clone(), next.clone(), name.clone());
            move || {
                take_over(store.as_ref(), &data, next.as_ref())?;
                let id = number(store.as_ref(), &data, &name)?;
                let claim = match is_name_taken(store.as_ref(), id, &name)? {
                    true => Claim::Of(name.to_string()),
                    false => claim(store.as_ref(), id, &name)?,
                };
                Ok((id, claim))
            }
        };
        match tokio::task::spawn_blocking(asked).await.unwrap_or_else(|error| Err(Error::from(error))) {
            Ok((id, Claim::Ours)) => {
                refused = None;
                if announced.as_ref().is_none_or(|(known, _)| *known != id) {
                    facts.id = id;
                    let Ok(value) = serde_json::to_vec(&facts) else { return };
                    let mut hold = store.hold(&host(name.as_str()), &value, TERM);
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => return,
                        () = hold.held() => info!(%name, %id, admin = facts.admin, "announced"),
                    }
                    announced = Some((id, hold));
                }
            }
            Ok((id, Claim::Of(other))) => {
                announced = None;
                if refused.as_ref().is_none_or(|(known, _)| *known != other) {
                    error!(%id, "{}", refusal(&other, &name, &data));
                    let said = RefusedHost { id, taken_by: other.clone() };
                    let Ok(value) = serde_json::to_vec(&said) else { return };
                    refused = Some((other, store.hold(&refused_host(name.as_str()), &value, TERM)));
                }
            }
            Err(error) if announced.is_none() => warn!(error = format!("{error:#}"), "this host is not announced yet"),
            // The store was there before: what it was told goes on when it is back.
            Err(error) => debug!(error = format!("{error:#}"), "whose number this is was not looked up"),
        }
        let pause = if announced.is_some() { LOOK } else { PAUSE };
        // Dropping a hold afterwards takes its key away.
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = sleep(pause) => {}
        }
    }
}

fn refusal(other: &str, name: &HostName, data: &Path) -> String {
    if other == name.as_str() {
        return format!(
            "another host of this fleet is called {name}, and runs: this one is not announced, its events are not taken, and \
             nobody sees what waits here; start it with a --host-name of its own"
        );
    }
    format!(
        "the number of this host is that of {other}, which runs: it is not announced, and its events are not taken; if this data \
         folder is a copy of the other's, stop this host at once, since both send the same mail; if not, stop it, remove {}, \
         and start it: it takes another number",
        data.join(FILE).display()
    )
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

/// The number of this data folder: as kept, else one that is drawn. What gave numbers may be lost while ledgers remember them,
/// and so may every host that had one; of four thousand million, none is drawn twice.
fn number(store: &dyn ConfigStore, data: &Path, name: &HostName) -> Result<HostId> {
    let path = data.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let number = text.trim().parse().with_context(|| format!("{} holds no number", path.display()))?;
            return Ok(HostId(number));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let id = HostId(draw()?);
    let write = Write::Put { key: host_number(id), value: name.as_str().as_bytes().to_vec() };
    store.txn(&[Guard { key: host_number(id), revision: 0 }], &[write]).context("cannot take a number")?;
    let mut file = std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    Ok(id)
}

/// A random number but 0, which is that of a host by itself.
fn draw() -> Result<u32> {
    Ok(u32::from_ne_bytes(random()?).max(1))
}

/// Whose a number is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Claim {
    Ours,
    /// A host of that name, which runs.
    Of(String),
}

/// Says that a number is this host's, if it is no other's that runs: a data folder may have moved to a host of another name.
fn claim(store: &dyn ConfigStore, id: HostId, name: &HostName) -> Result<Claim> {
    let key = host_number(id);
    let found = store.get(std::slice::from_ref(&key)).context("cannot read whose this host's number is")?;
    let (owner, revision) = found
        .entries
        .first()
        .map_or((String::new(), 0), |entry| (String::from_utf8_lossy(&entry.value).into_owned(), entry.revision));
    if owner == name.as_str() {
        return Ok(Claim::Ours);
    }
    if revision != 0 {
        let announced = store.get(&[host(&owner)]).context("cannot read what a host announces")?;
        let announced = announced.entries.first().map(|entry| serde_json::from_slice::<HostAnnouncement>(&entry.value));
        if announced.is_some_and(|announced| announced.is_ok_and(|announced| announced.id == id)) {
            return Ok(Claim::Of(owner));
        }
    }
    let write = Write::Put { key: key.clone(), value: name.as_str().as_bytes().to_vec() };
    store.txn(&[Guard { key, revision }], &[write]).context("cannot say whose this host's number is")?;
    Ok(Claim::Ours)
}

/// Whether a host with another number runs under our name.
fn is_name_taken(store: &dyn ConfigStore, id: HostId, name: &HostName) -> Result<bool> {
    let announced = store.get(&[host(name.as_str())]).context("cannot read who has this host's name")?;
    let other =
        announced.entries.first().and_then(|entry| serde_json::from_slice::<HostAnnouncement>(&entry.value).ok());
    Ok(other.is_some_and(|other| other.id != id))
}

/// The file of the number.
const FILE: &str = "host.id";
/// A host that died is gone after at most so long.
const TERM: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);
/// How often a host that is announced looks whether its number is still its own.
const LOOK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use postrail_control_plane::store::EmbeddedStore;

    use super::*;
    use crate::demo::Scratch;

    fn name(text: &str) -> HostName {
        HostName::new(text.to_owned()).expect("a name")
    }

    #[test]
    fn a_number_is_kept_with_the_folder_and_is_one_hosts_that_runs() {
        let scratch = Scratch::new("host-number").expect("a temporary folder");
        let store = EmbeddedStore::open(&scratch.path().join("config.db")).expect("a store");
        let folders = ["a", "b"].map(|folder| scratch.path().join(folder));
        folders.iter().for_each(|folder| std::fs::create_dir(folder).expect("a folder can be made"));
        let [a, b] = folders.map(|folder| [0, 1].map(|_| number(&store, &folder, &name("a")).expect("a number")));
        assert!(a[0] == a[1] && b[0] == b[1] && a[0] != b[0] && a[0] != HostId::LOCAL, "{a:?} {b:?}");
        assert_eq!(claim(&store, a[0], &name("a")).expect("a claim"), Claim::Ours);
        // Its folder moves to a host of another name, while nobody runs under the former one.
        assert_eq!(claim(&store, a[0], &name("c")).expect("a claim"), Claim::Ours);
        let announcement = |id: HostId| {
            let value = serde_json::json!({ "id": id, "admin": "http://127.0.0.1:1", "shards": 1, "version": "1" });
            Write::Put { key: host("c"), value: value.to_string().into_bytes() }
        };
        store.txn(&[], &[announcement(a[0])]).expect("a write");
        assert_eq!(claim(&store, a[0], &name("a")).expect("a claim"), Claim::Of("c".to_owned()));
        assert_eq!(claim(&store, a[0], &name("c")).expect("a claim"), Claim::Ours);
        store.txn(&[], &[announcement(b[0])]).expect("a write");
        assert!(is_name_taken(&store, a[0], &name("c")).expect("a look"), "two folders, one name");
        for (id, name) in [(b[0], name("c")), (a[0], name("a"))] {
            assert!(!is_name_taken(&store, id, &name).expect("a look"), "{name} is its own");
        }
        assert_eq!(
            claim(&store, a[0], &name("a")).expect("a claim"),
            Claim::Ours,
            "the other runs with another number"
        );
        // A store that is new or was restored hears of the numbers that there are.
        let empty = EmbeddedStore::open(&scratch.path().join("empty.db")).expect("a store");
        assert_eq!(claim(&empty, a[0], &name("a")).expect("a claim"), Claim::Ours);
        assert_eq!(empty.list("host-numbers/").expect("a list").entries.len(), 1);
    }
}
