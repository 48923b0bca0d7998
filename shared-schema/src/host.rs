//! What a data plane tells of itself in the configuration store, while it runs.

use serde::{Deserialize, Serialize};

use crate::ids::HostId;
use crate::sealed::MasterKeyId;

/// A data plane, at `hosts/<name>`, under its lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostAnnouncement {
    /// Number of its data folder, drawn once; the ledger's cursors are by it.
    pub id: HostId,
    /// Where its admin listener is, such as `http://10.0.0.2:8082`.
    pub admin: String,
    #[serde(default)]
    pub region: String,
    pub shards: u16,
    /// The master keys that it has.
    #[serde(default)]
    pub master_keys: Vec<MasterKeyId>,
    /// Of the program.
    pub version: String,
}

/// A data plane that is not taken on, at `refused-hosts/<name>`, under its lease: its data folder has the number of another
/// that runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusedHost {
    pub id: HostId,
    /// The other one, by name.
    pub taken_by: String,
}
