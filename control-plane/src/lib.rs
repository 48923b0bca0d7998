//! The control plane: desired state in, published snapshots out, and the ledger of what became of every recipient.
//!
//! ```text
//! api -> app -> plan (pure) -> store        reconcile -> ledger <- app <- api
//! ```
//!
//! - `api`: the HTTP edge, one resource a file,
//! - `app`: use cases; know no HTTP,
//! - `plan`: desired state to snapshot content and findings,
//! - `verify`: a domain's records and what is found of them, by `dns` and `spf`,
//! - `store`: the configuration store, `ledger`: what grows with mail,
//! - `reconcile`: what runs beside the requests.
//!
//! - `identity`: by which certificates the processes of a fleet know each other.
//!
//! The data plane never waits for anything here. Beyond loopback the API listens with TLS.

#![forbid(unsafe_code)]

mod api;
mod app;
mod dns;
mod files;
mod identity;
mod ledger;
mod listen;
mod plan;
mod reconcile;
mod serve;
mod server;
mod spf;
pub mod store;
mod verify;

pub use app::{Bootstrap, FirstStart, HostView, Hosts, HostsError, Kept};
pub use files::{MasterKeyError, adopt_next_master_key, make_next_master_key, master_keys};
pub use identity::{FleetFacts, FleetIdentity, FleetName, IdentityError, PlainText, speaks_tls, tls_reason};
pub use ledger::{AddressError, MoveProgress, PostgresAddress};
pub use plan::allocation;
pub use reconcile::allocate;
pub use server::{
    Config, DataPlanes, Handle, MovedLedger, Started, is_store_away, is_store_refusing, move_ledger, start,
};
pub use verify::{DnsRecord, Purpose};
