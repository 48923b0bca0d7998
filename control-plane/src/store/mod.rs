//! The configuration store: small values under keys, changed by guarded transactions.
//!
//! One key a resource (`tenants/1`, `domains/7`), its value JSON. The trait is what an etcd cluster offers too, so that one
//! code serves the single process and the fleet.
//!
//! Invariants worth naming: a transaction is applied whole or not at all; the store's revision grows by one with each
//! applied transaction; a key's revision is that of the transaction that wrote it last. Absent here: what a value means.

mod embedded;

use tokio::sync::watch;

pub(crate) use embedded::EmbeddedStore;

/// One key as listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// The store revision that wrote it last.
    pub revision: u64,
}

/// What `list` answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listing {
    /// The store's revision that the listing shows.
    pub revision: u64,
    /// Ascending by key.
    pub entries: Vec<Entry>,
}

/// A condition of a transaction: `key` was last written by `revision`; 0: it does not exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Guard {
    pub key: String,
    pub revision: u64,
}

/// One write of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{key} was changed by someone else")]
    Conflict { key: String },
    #[error("the store was written by a newer version (format {found}, this one reads {FORMAT})")]
    NewerFormat { found: u32 },
    #[error("the embedded store failed")]
    Sqlite(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite(source)
    }
}

/// The configuration store. Calls block; async callers hand them to a blocking thread.
pub(crate) trait ConfigStore: Send + Sync {
    /// All keys that start with `prefix`, under one revision.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Applies `writes` if all `guards` hold, and gives the new revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a guard does not hold; nothing was written then, nor with any other error.
    fn txn(&self, guards: &[Guard], writes: &[Write]) -> Result<u64, StoreError>;

    /// The store's revision, as it grows.
    fn watch(&self) -> watch::Receiver<u64>;
}

/// The format of the embedded store that this version writes.
pub(crate) const FORMAT: u32 = 1;
