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
