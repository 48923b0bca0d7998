//! The configuration store: small values under keys, changed by guarded transactions, watched by prefix.
//!
//! ```text
//! embedded   one SQLite file of one process            etcd   a cluster that every host of a fleet reaches
//! ```
//!
//! One code serves the single process and the fleet; `suite.rs` asks the same of both. What lies under which key says
//! [`postrail_schema::keys`]; keys here are relative to the cluster's root.
//!
//! Invariants worth naming: a transaction is applied whole or not at all; the store's revision grows with each applied
//! transaction; a key's revision is that of the transaction that wrote it last; a watch gives every change behind its
//! revision once and in order, or ends, whereupon one lists again. Absent here: what a value means.

mod embedded;
mod etcd;
mod moving;
#[cfg(test)]
pub(crate) mod suite;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

pub use embedded::EmbeddedStore;
pub use etcd::{EtcdOptions, EtcdPassword, EtcdStore, EtcdTls};
pub use moving::{MoveError, move_configuration};

/// One key as listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// The store revision that wrote it last.
    pub revision: u64,
}

/// What `list` and `get` answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// The store's revision that the listing shows.
    pub revision: u64,
    /// Ascending by key.
    pub entries: Vec<Entry>,
}

/// A condition of a transaction: `key` was last written by `revision`; 0: it does not exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    pub key: String,
    pub revision: u64,
}

/// One write of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
}

impl Write {
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    pub(crate) fn value_len(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete { .. } => 0,
        }
    }
}

/// A key as a transaction left it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub key: String,
    /// `None`: it was deleted.
    pub value: Option<Vec<u8>>,
}

/// What a watch tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEvent {
    /// What one or more transactions changed, up to and with `revision`.
    Changes { revision: u64, changes: Vec<Change> },
    /// The store has answered: nothing that it has is unknown here.
    Alive,
    /// The store is out of reach; the watch goes on where it was as soon as it can.
    Lost,
}

/// Changes under a prefix. When it ends it could not go on where it was: list again, and watch from there.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
}

impl Watch {
    /// The next event; `None`: the watch has ended.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        self.events.recv().await
    }
}

/// A key that is ours alone as long as this process lives and reaches the store. Dropping it lets go.
pub struct Hold {
    /// Until when the key is certainly ours.
    until: watch::Receiver<Option<Instant>>,
    /// Its drop lets go of the key.
    _release: Box<dyn Send + Sync>,
}

impl Hold {
    /// Whether the key is ours now.
    pub fn is_held(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when the key was ours for the first time; never, if the store is gone for good.
    pub async fn held(&mut self) {
        if self.until.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{key} was changed by someone else")]
    Conflict { key: String },
    #[error("the store was written by a newer version (format {found}, this one reads {FORMAT})")]
    NewerFormat { found: u32 },
    #[error("the embedded store failed")]
    Sqlite(#[source] rusqlite::Error),
    #[error("one transaction of {operations} operations and {bytes} octets is more than etcd takes")]
    TooLarge { operations: usize, bytes: usize },
    #[error("etcd does not answer in time: {act}")]
    Timeout { act: &'static str },
    #[error("etcd's database is full (NOSPACE): it takes no writes until it is compacted, defragmented and disarmed")]
    Full,
    #[error("etcd failed: {act}")]
    Etcd { act: &'static str, source: Box<etcd_client::Error> },
    #[error("etcd does not let us in: {detail}")]
    Refused { detail: String },
    #[error("etcd answered what it never should: {what}")]
    Garbled { what: &'static str },
    #[error("the configuration's file cannot be opened as its owner's alone")]
    File(#[source] std::io::Error),
    #[error("etcd is set up wrongly: {detail}")]
    Setup { detail: String },
}

impl StoreError {
    /// Whether the store is out of reach, and may answer the same call later.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Timeout { .. }) || etcd::is_unavailable(self)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite(source)
    }
}

/// The configuration store. Calls block; async callers hand them to a blocking thread. `watch` and `hold` return at once.
pub trait ConfigStore: Send + Sync {
    /// All keys that start with `prefix`, under one revision.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// As `list`, with empty values: what is there, not what it holds.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list_keys(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Those of `keys` that exist, under one revision. The caller bounds what it asks for at once.
    ///
    /// # Errors
    /// The store cannot be read; [`StoreError::TooLarge`] for more keys than one request may name.
    fn get(&self, keys: &[String]) -> Result<Listing, StoreError>;

    /// Whether it takes no writes, since it is full.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn is_full(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Applies `writes` if all `guards` hold, and gives the new revision. No key is written twice.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a guard does not hold; nothing was written then. [`StoreError::TooLarge`] when it does
    /// not fit one transaction. After [`StoreError::Timeout`] and [`StoreError::Etcd`] it may have been applied.
    fn txn(&self, guards: &[Guard], writes: &[Write]) -> Result<u64, StoreError>;

    /// The same store, whose calls take no longer than `patience`, where they would.
    fn within(&self, patience: Duration) -> Arc<dyn ConfigStore>;

    /// The changes under `prefix` behind the store's revision `after`.
    fn watch(&self, prefix: &str, after: u64) -> Watch;

    /// Where the events of watches arrive, if that is a thread of the store: a task that is spawned there is not woken from
    /// another, and must not block.
    fn runtime(&self) -> Option<Handle> {
        None
    }

    /// Keeps trying to be the one who holds `key`, with `value`; it is gone at most `ttl` after we are.
    fn hold(&self, key: &str, value: &[u8], ttl: Duration) -> Hold;
}

/// The format of the embedded store that this version writes.
pub(crate) const FORMAT: u32 = 2;
/// Events that a watch keeps for a reader that is behind.
const WATCH_EVENTS_MAX: usize = 256;
