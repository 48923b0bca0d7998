//! SMTP as pure machines: bytes, time and answers go in, bytes and questions come out (RFC 5321, 6409 and extensions).
//!
//! - [`client`]: the connection that sends,
//! - [`server`]: the session that takes submissions,
//! - [`reply`]: replies, read and written,
//! - [`parameter`]: what `MAIL`, `RCPT` and `EHLO` lines are made of: `KEYWORD=value` pairs and xtext.
//!
//! Deliberately absent: sockets, TLS, DNS, and every decision about who may send what (that is `intake`).

pub mod client;
pub mod parameter;
pub mod reply;
pub mod server;

pub use parameter::{Parameter, parameters, xtext_decode, xtext_encode};
pub use reply::{EnhancedStatus, Reply, ReplyError, ReplyParser};
