//! The nouns that both planes share.
//!
//! - [`ids`]: identifiers and their text forms,
//! - [`limits`]: every bound of the product, checked against each other at compile time,
//! - [`snapshot`]: the published configuration, validated and cross-linked, under one revision,
//! - [`event`]: what became of a recipient,
//! - [`problem`]: findings with a severity,
//! - [`wire`]: snapshots and events as bytes, and back.
//!
//! Wire forms are flatbuffers (`schema/*.fbs`, one noun a file); the code in `generated` is committed and its
//! freshness is checked. Nothing here does I/O.

pub mod event;
mod generated;
pub mod ids;
pub mod limits;
pub mod problem;
pub mod snapshot;
pub mod wire;
