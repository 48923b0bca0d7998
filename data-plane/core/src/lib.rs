//! The pure core of the data plane: bytes, time and entropy are arguments; there is no I/O, no clock, no randomness
//! and no unsafe code.
//!
//! The way of a mail, one room a stage:
//!
//! ```text
//! intake -> spool -> schedule -> sign -> egress -> events
//! ```
//!
//! Below the stages: `base <- mail <- smtp, http, dns, lease <- rules`; beside them [`transfer`], in which what waits goes to
//! another host. The stages do not import each other; [`shard`]
//! alone moves an id from one to the next.
//!
//! Every protocol machine has the same four functions: `handle(now, input)`, `poll() -> Option<Output>`,
//! `deadline()`, `state()`. A machine reaches credentials, DNS or the spool by asking: it emits a question with a tag
//! and gets the answer as input.
#![forbid(unsafe_code)]

pub mod base;
pub mod dns;
pub mod egress;
pub mod events;
pub mod http;
pub mod intake;
pub mod lease;
pub mod mail;
pub mod rules;
pub mod schedule;
pub mod shard;
pub mod sign;
pub mod smtp;
pub mod spool;
pub mod transfer;
