//! Moving what is desired from one store into another that is empty: a single host's file into etcd.
//!
//! Records keep their ids, which mail in spools and events in the ledger name. The head is written last, so a move that was
//! cut short can be made again, and nobody takes half of it for the whole. A large change that is not at its places yet moves
//! with what it still has to write. What is published is not moved: the control plane that starts on the new store publishes.

use std::collections::BTreeSet;

use postrail_schema::keys::{CHECKS, DESIRED, HEAD, INSTALLATION, MASTER_KEY_CHECK, PENDING, STAGED};
use postrail_schema::limits::{ETCD_OPERATIONS_MAX, ETCD_REQUEST_BYTES_MAX};

use super::{ConfigStore, Entry, Guard, StoreError, Write};

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("there is no configuration to move")]
    Nothing,
    #[error("the cluster has a configuration already: take another by --cluster, or an empty etcd")]
    Occupied,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Moves, and gives the number of records.
///
/// # Errors
/// [`MoveError`].
pub fn move_configuration(from: &dyn ConfigStore, to: &dyn ConfigStore) -> Result<usize, MoveError> {
    let mut entries = from.list(DESIRED)?.entries;
    let at = entries.iter().position(|entry| entry.key == HEAD).ok_or(MoveError::Nothing)?;
    let head = entries.remove(at);
    entries.append(&mut from.list(CHECKS)?.entries);
    entries.append(&mut from.get(&[MASTER_KEY_CHECK.to_owned()])?.entries);
    entries.append(&mut from.list(INSTALLATION)?.entries);
    let count = entries.len();
    // A change that is committed and not at its places is finished by who starts on the new store.
    if entries.iter().any(|entry| entry.key == PENDING) {
        entries.append(&mut from.list(STAGED)?.entries);
    }
    let kept: BTreeSet<_> = entries.iter().map(|entry| entry.key.clone()).collect();
    let mut writes = Vec::new();
    // Of a move that was cut short.
    for prefix in [DESIRED, STAGED] {
        let left = to.list_keys(prefix)?.entries.into_iter().map(|entry| entry.key);
        writes.extend(left.filter(|key| key != HEAD && !kept.contains(key)).map(|key| Write::Delete { key }));
    }
    writes.extend(entries.into_iter().map(put));
    let empty = [Guard { key: HEAD.to_owned(), revision: 0 }];
    let write = |some: &[Write]| match to.txn(&empty, some) {
        Err(StoreError::Conflict { .. }) => Err(MoveError::Occupied),
        done => Ok(done.map(drop)?),
    };
    let (mut some, mut bytes) = (Vec::new(), 0);
    for one in writes {
        let room = one.key().len() + one.value_len() + WRITE_BYTES;
        if some.len() == ETCD_OPERATIONS_MAX || bytes + room > ETCD_REQUEST_BYTES_MAX {
            write(&std::mem::take(&mut some))?;
            bytes = 0;
        }
        bytes += room;
        some.push(one);
    }
    write(&some)?;
    write(&[put(head)])?;
    Ok(count)
}

fn put(entry: Entry) -> Write {
    Write::Put { key: entry.key, value: entry.value }
}

/// What a write takes beside key and value: the root of the cluster, and framing.
const WRITE_BYTES: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::EmbeddedStore;

    fn store(folder: &tempfile::TempDir, name: &str) -> EmbeddedStore {
        EmbeddedStore::open(&folder.path().join(name)).unwrap()
    }

    #[test]
    fn all_that_is_desired_moves_once_into_what_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (store(&folder, "from"), store(&folder, "to"));
        assert!(matches!(move_configuration(&from, &to), Err(MoveError::Nothing)));
        let value = |text: &str| text.as_bytes().to_vec();
        let write = |key: String| Write::Put { value: value(&key), key };
        let records = (0..1_000).map(|id| write(format!("{DESIRED}tenants/{id}")));
        let others =
            [HEAD, "checks/1", MASTER_KEY_CHECK, "published/manifest", "hosts/x"].map(str::to_owned).map(write);
        from.txn(&[], &records.chain(others).collect::<Vec<_>>()).unwrap();
        // Of a move that was cut short, before a tenant was removed and a large change finished.
        let left =
            [format!("{DESIRED}tenants/5"), format!("{DESIRED}tenants/5000"), PENDING.into(), format!("{STAGED}a/0")];
        to.txn(&[], &left.map(write)).unwrap();
        assert_eq!(move_configuration(&from, &to).unwrap(), 1_002);
        let pairs = |listing: crate::store::Listing| -> Vec<_> {
            listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
        };
        for prefix in [DESIRED, STAGED, CHECKS, MASTER_KEY_CHECK] {
            assert_eq!(pairs(to.list(prefix).unwrap()), pairs(from.list(prefix).unwrap()), "{prefix}");
        }
        assert!(to.list("published/").unwrap().entries.is_empty() && to.list("hosts/").unwrap().entries.is_empty());
        assert!(matches!(move_configuration(&from, &to), Err(MoveError::Occupied)));
    }
}
