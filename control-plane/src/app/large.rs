//! A change that is more than one transaction of the store takes, made whole all the same.
//!
//! ```text
//! stage:   staged/<name>/<n>   the writes, in parts; they mean nothing yet
//! commit:  desired/head + published/manifest + desired/pending {name, parts}        <- here it has happened
//! finish:  the parts are written to where they belong, then desired/pending is deleted, then the parts
//! ```
//!
//! Invariants worth naming: who reads desired state while there is a `desired/pending` lays its parts over what is listed;
//! who wants to change something finishes it first; every write of the finish is guarded by `desired/pending`, so that a
//! process that is late cannot write over a later change; parts that are committed are deleted by nobody before they are at
//! their places. Whoever dies where, the next change goes on from there, and without one every control plane does that finds
//! the change still pending when it looks again ([`App::reload`](super::App::reload)).

use std::collections::BTreeMap;

use postrail_schema::keys::{PENDING, STAGED};
use postrail_schema::limits::{ETCD_OPERATIONS_MAX, ETCD_REQUEST_BYTES_MAX, STAGED_PARTS_MAX};
use serde::{Deserialize, Serialize};

use super::keys::random;
use super::{AppError, put};
use crate::store::{ConfigStore, Entry, Guard, StoreError, Write};

/// A change that is committed and may not be finished.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    named: Named,
    /// The store revision that committed it.
    revision: u64,
    writes: Vec<Write>,
}

/// The value of `desired/pending`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    parts: u32,
}

impl Named {
    fn key(&self, part: u32) -> String {
        format!("{STAGED}{}/{part}", self.name)
    }

    fn keys(&self) -> Vec<String> {
        (0..self.parts).map(|part| self.key(part)).collect()
    }
}

/// A change whose parts are written: what commits it.
pub(super) struct Staged {
    named: Named,
    writes: Vec<Write>,
    /// Every part is there, and no other change is pending.
    pub(super) guards: Vec<Guard>,
    pub(super) commit: Write,
}

impl Staged {
    /// Writes `writes` aside. What others left aside without committing is taken away first, so two at once may fail each
    /// other; neither commits half then.
    ///
    /// # Errors
    /// There is more than can be staged, or the store fails; [`StoreError::Conflict`] where a change is pending.
    pub(super) fn stage(store: &dyn ConfigStore, writes: Vec<Write>) -> Result<Self, AppError> {
        let parts = divide(&writes);
        if parts.len() > STAGED_PARTS_MAX {
            let detail = "this is more than one change may be; apply it kind by kind, or in portions";
            return Err(AppError::conflict(detail));
        }
        let left: Vec<_> = store.list_keys(STAGED)?.entries.into_iter().map(|entry| delete(entry.key)).collect();
        let not_committed = [Guard { key: PENDING.to_owned(), revision: 0 }];
        for some in left.chunks(ETCD_OPERATIONS_MAX) {
            store.txn(&not_committed, some)?;
        }
        let name = random::<8>()?.iter().map(|octet| format!("{octet:02x}")).collect();
        let named = Named { name, parts: u32::try_from(parts.len()).unwrap_or(u32::MAX) };
        let mut guards = not_committed.to_vec();
        for (key, value) in named.keys().into_iter().zip(parts) {
            let revision = store.txn(&[], &[Write::Put { key: key.clone(), value }])?;
            guards.push(Guard { key, revision });
        }
        let commit = put(PENDING.to_owned(), &named)?;
        Ok(Self { named, writes, guards, commit })
    }

    /// It was committed under that revision of the store.
    pub(super) fn committed(self, revision: u64) -> Pending {
        Pending { named: self.named, revision, writes: self.writes }
    }
}

impl Pending {
    /// What is pending according to a listing of desired state, which is then as if it were finished.
    ///
    /// # Errors
    /// The store fails, or a part does not read; [`AppError::Torn`] where one is gone of a change that is pending still.
    pub(super) fn lay_over(store: &dyn ConfigStore, entries: &mut Vec<Entry>) -> Result<Laid, AppError> {
        let Some(at) = entries.iter().position(|entry| entry.key == PENDING) else { return Ok(Laid::None) };
        let found = entries.remove(at);
        let named: Named = serde_json::from_slice(&found.value).map_err(|_| garbled())?;
        let mut writes = Vec::new();
        for key in named.keys() {
            let both = store.get(&[PENDING.to_owned(), key.clone()])?.entries;
            let Some(part) = both.iter().find(|entry| entry.key == key) else {
                let is_pending = both.iter().any(|entry| entry.revision == found.revision);
                return if is_pending { Err(AppError::Torn { part: key }) } else { Ok(Laid::Gone) };
            };
            read_part(&part.value, &mut writes)?;
        }
        let mut laid: BTreeMap<String, Entry> =
            std::mem::take(entries).into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        for write in &writes {
            match write {
                Write::Put { key, value } => {
                    let entry = Entry { key: key.clone(), value: value.clone(), revision: found.revision };
                    laid.insert(key.clone(), entry);
                }
                Write::Delete { key } => drop(laid.remove(key)),
            }
        }
        entries.extend(laid.into_values());
        Ok(Laid::Over(Self { named, revision: found.revision, writes }))
    }

    /// Writes what is pending to where it belongs.
    ///
    /// # Errors
    /// The store fails; [`StoreError::Conflict`] when another process has finished it.
    pub(super) fn finish(&self, store: &dyn ConfigStore) -> Result<(), StoreError> {
        let guard = [Guard { key: PENDING.to_owned(), revision: self.revision }];
        let (mut batch, mut some) = (Batch::default(), Vec::new());
        for write in &self.writes {
            if !batch.takes(write) {
                store.txn(&guard, &some)?;
                some.clear();
                batch = Batch::default();
                batch.count(write);
            }
            some.push(write.clone());
        }
        store.txn(&guard, &some)?;
        store.txn(&guard, &[delete(PENDING.to_owned())])?;
        let parts: Vec<_> = self.named.keys().into_iter().map(delete).collect();
        for some in parts.chunks(ETCD_OPERATIONS_MAX) {
            store.txn(&[], some)?;
        }
        Ok(())
    }
}

/// What a listing has pending.
pub(super) enum Laid {
    None,
    Over(Pending),
    /// It was finished meanwhile: one has to list again.
    Gone,
}

/// What one transaction has so far, with room for its guards.
#[derive(Default)]
pub(super) struct Batch {
    operations: usize,
    bytes: usize,
}

impl Batch {
    pub(super) fn count(&mut self, write: &Write) {
        self.operations += 1;
        self.bytes += write.key().len() + write.value_len() + WRITE_BYTES;
    }

    /// Whether one more fits; if so it is counted.
    pub(super) fn takes(&mut self, write: &Write) -> bool {
        let (operations, bytes) = (self.operations, self.bytes);
        self.count(write);
        let fits = self.fits();
        if !fits {
            (self.operations, self.bytes) = (operations, bytes);
        }
        fits
    }

    /// Whether what was counted is one transaction.
    pub(super) fn fits(&self) -> bool {
        self.operations <= ETCD_OPERATIONS_MAX && self.bytes + GUARD_BYTES <= ETCD_REQUEST_BYTES_MAX
    }
}

/// The parts of `writes`: lines of `+ key value` and `- key`. Values are JSON on one line, keys have no blanks.
fn divide(writes: &[Write]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    for write in writes {
        let mut line = Vec::with_capacity(write.key().len() + write.value_len() + 4);
        match write {
            Write::Put { key, value } => {
                line.extend_from_slice(b"+ ");
                line.extend_from_slice(key.as_bytes());
                line.push(b' ');
                line.extend_from_slice(value);
            }
            Write::Delete { key } => {
                line.extend_from_slice(b"- ");
                line.extend_from_slice(key.as_bytes());
            }
        }
        line.push(b'\n');
        let last = parts.len() - 1;
        if !parts[last].is_empty() && parts[last].len() + line.len() > PART_BYTES_MAX {
            parts.push(line);
        } else {
            parts[last].append(&mut line);
        }
    }
    parts
}

fn read_part(part: &[u8], to: &mut Vec<Write>) -> Result<(), AppError> {
    for line in part.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let text = std::str::from_utf8(line).map_err(|_| garbled())?;
        let (sign, rest) = text.split_once(' ').ok_or_else(garbled)?;
        to.push(match (sign, rest.split_once(' ')) {
            ("+", Some((key, value))) => Write::Put { key: key.to_owned(), value: value.as_bytes().to_vec() },
            ("-", None) => delete(rest.to_owned()),
            _ => return Err(garbled()),
        });
    }
    Ok(())
}

fn delete(key: String) -> Write {
    Write::Delete { key }
}

fn garbled() -> AppError {
    AppError::Store(StoreError::Garbled { what: "a staged change that does not read" })
}

/// What a write takes beside key and value: the root of the cluster, and framing.
const WRITE_BYTES: usize = 160;
/// The guards of a change.
const GUARD_BYTES: usize = 1_000;
/// One part, octets.
const PART_BYTES_MAX: usize = 1_200_000;

const _: () =
    assert!(STAGED_PARTS_MAX + 3 <= ETCD_OPERATIONS_MAX, "a commit guards each part, head, manifest and pending");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_divided_reads_as_it_was() {
        let long = vec![b'7'; PART_BYTES_MAX - 50];
        let writes = [
            Write::Put { key: "desired/tenants/1".into(), value: br#"{"name": "a b"}"#.to_vec() },
            Write::Put { key: "desired/tenants/2".into(), value: long },
            delete("desired/tenants/3".into()),
        ];
        let parts = divide(&writes);
        assert_eq!(parts.len(), 2);
        let mut read = Vec::new();
        parts.iter().for_each(|part| read_part(part, &mut read).unwrap());
        assert_eq!(read, writes);
        for bad in [&b"* a b\n"[..], b"+ a\n", b"- a b\n", b"\xff \n", b"+\n"] {
            assert!(read_part(bad, &mut Vec::new()).is_err(), "{bad:?}");
        }
    }
}
