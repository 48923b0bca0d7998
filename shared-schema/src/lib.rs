//! The nouns that both planes share.
//!
//! - [`ids`]: identifiers and their text forms,
//! - [`keys`]: the whole key space of the configuration store,
//! - [`limits`]: every bound of the product, checked against each other at compile time,
//! - [`address`]: the form in which addresses are compared,
//! - [`access`]: what a credential may do, and from where,
//! - [`allocation`]: which host may use which address, and what hosts say of themselves,
//! - [`snapshot`]: the published configuration, validated and cross-linked, under one revision,
//! - [`selector`]: which mail a rule is about, and which of several rules counts,
//! - [`policy`]: how mail is tried again and when it is given up,
//! - [`shaping`]: providers, and the rules that set throttles and limits,
//! - [`listener`]: where hosts take submissions,
//! - [`tls`]: how mail must be protected on its way,
//! - [`suppressions`]: who is not sent to, and what leads from one list of them to another,
//! - [`publication`]: a snapshot in chunks and the manifest that names them,
//! - [`event`]: what became of a recipient,
//! - [`sealed`]: secrets at rest, and the master keys that open them,
//! - [`problem`]: findings with a severity,
//! - [`outage`]: when something is said of a failure that lasts,
//! - [`table`]: records by key that two states share,
//! - [`wire`]: snapshots and events as bytes, and back.
//!
//! Wire forms are flatbuffers (`schema/*.fbs`, one noun a file); the code in `generated` is committed and its
//! freshness is checked. Nothing here does I/O.

pub mod access;
pub mod address;
pub mod allocation;
pub mod day;
pub mod event;
mod generated;
pub mod host;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod listener;
mod octets;
pub mod outage;
pub mod policy;
pub mod problem;
pub mod publication;
pub mod region;
pub mod sealed;
pub mod selector;
pub mod shaping;
pub mod snapshot;
pub mod standing;
pub mod suppressions;
pub mod table;
pub mod tls;
pub mod wire;
