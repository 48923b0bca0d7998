//! What joins the planes of a fleet by its configuration store, and those of one process as well.
//!
//! - `settings`: which store, and which part of the fleet this process is,
//! - `follower`: from the store to the data plane,
//! - `found`: a host by itself becomes the first of a fleet,
//! - `announce`: a data plane tells that it runs,
//! - `hold`: the addresses that it may send from,
//! - `neighbours`: what it knows of the other hosts,
//! - `carrier`: brings them the mail that leaves this one for them.

pub(crate) mod announce;
pub(crate) mod carrier;
pub(crate) mod follower;
pub(crate) mod found;
pub(crate) mod hold;
pub(crate) mod neighbours;
pub(crate) mod settings;
mod suppressions;

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context, Result};
use postrail_control_plane::FleetIdentity;

/// By what the other hosts of the cluster know this one, and it them.
#[derive(Clone)]
pub(crate) struct FleetAccess {
    /// Shown on loopback.
    pub(crate) token: String,
    /// In a fleet: what is shown elsewhere.
    pub(crate) identity: Option<FleetIdentity>,
}

/// What tells one from others: octets of the kernel's.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut octets = [0; N];
    let source = File::open("/dev/urandom");
    source.and_then(|mut source| source.read_exact(&mut octets)).context("cannot read /dev/urandom")?;
    Ok(octets)
}
