//! The data plane: pumps that move bytes between the pure core and a [`platform`].
//!
//! Pumps decide nothing: what to say, store, send or retry is decided in `postrail-core`; here sockets are read, files
//! are written and questions are answered. One shard is one thread with its own intake, spool, schedule and egress.

pub mod address;
pub mod admin;
pub mod auth;
pub mod dns;
pub mod egress;
pub mod feed;
pub mod http;
pub mod intake;
pub mod journal;
pub mod lease;
pub mod log;
pub mod mesh;
pub mod node;
pub mod platform;
pub mod shard;
pub mod sign;
pub mod spool;
pub mod tls;
pub mod transfer;
mod vital;
