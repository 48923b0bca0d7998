//! Moving what is desired from one store into another that is empty: a single host's file into etcd.
//!
//! Records keep their ids, which mail in spools and events in the ledger name. The head is written last, so a move that was
//! cut short can be made again, and nobody takes half of it for the whole. What is published is not moved: the control
//! plane that starts on the new store publishes.

use postrail_schema::keys::{CHECKS, DESIRED, HEAD, INSTALLATION, MASTER_KEY_CHECK};
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
    if !to.get(&[HEAD.to_owned()])?.entries.is_empty() {
        return Err(MoveError::Occupied);
    }
    let count = entries.len();
    let (mut some, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        bytes += entry.key.len() + entry.value.len() + WRITE_BYTES;
        if some.len() == ETCD_OPERATIONS_MAX || bytes > ETCD_REQUEST_BYTES_MAX {
            bytes = entry.key.len() + entry.value.len() + WRITE_BYTES;
            to.txn(&[], &std::mem::take(&mut some))?;
        }
        some.push(put(entry));
    }
    to.txn(&[], &some)?;
    match to.txn(&[Guard { key: HEAD.to_owned(), revision: 0 }], &[put(head)]) {
        Err(StoreError::Conflict { .. }) => Err(MoveError::Occupied),
        done => Ok(done.map(|_| count)?),
    }
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
        // Of a move that was cut short.
        to.txn(&[], &[write(format!("{DESIRED}tenants/5"))]).unwrap();
        assert_eq!(move_configuration(&from, &to).unwrap(), 1_002);
        let pairs = |listing: crate::store::Listing| -> Vec<_> {
            listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
        };
        for prefix in [DESIRED, CHECKS, MASTER_KEY_CHECK] {
            assert_eq!(pairs(to.list(prefix).unwrap()), pairs(from.list(prefix).unwrap()), "{prefix}");
        }
        assert!(to.list("published/").unwrap().entries.is_empty() && to.list("hosts/").unwrap().entries.is_empty());
        assert!(matches!(move_configuration(&from, &to), Err(MoveError::Occupied)));
    }
}
