//! What joins the planes of a fleet by its configuration store, and those of one process as well.
//!
//! - `settings`: which store, and which part of the fleet this process is,
//! - `follower`: from the store to the data plane,
//! - `found`: a host by itself becomes the first of a fleet,
//! - `announce`: a data plane tells that it runs,
//! - `hold`: the addresses that it may send from.

pub(crate) mod announce;
pub(crate) mod follower;
pub(crate) mod found;
pub(crate) mod hold;
pub(crate) mod settings;

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use postrail_control_plane::fleet_token;

/// What the hosts of a cluster know each other by.
///
/// # Errors
/// There is no master key in the data folder, or none that can be read.
pub(crate) fn token(data: &Path) -> Result<String> {
    let path = data.join("master.key");
    let key = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let key = key.try_into().map_err(|_| anyhow!("{} does not hold 32 octets", path.display()))?;
    Ok(fleet_token(&key))
}
