//! Egress talks to one receiving site from one source address.
//!
//! - [`session`]: walks the site's targets, runs transactions, tells their outcomes,
//! - [`outcome`]: how far a reply or fault reaches, and in which word the operator reads it,
//! - [`targets`]: the addresses to try, in order,
//! - [`tls_policy`]: how a connection meets what is demanded of it.
//!
//! Deliberately absent: when and by which path mail goes (that is `schedule`), the final bytes (`sign`), and what an
//! outcome settles (`events`).

pub mod outcome;
pub mod session;
pub mod targets;
pub mod tls_policy;

pub use crate::smtp::client::{Fault, Phase, Timeouts, Transaction};
pub use outcome::{RecipientOutcome, Scope, TransactionOutcome, Verdict, classify, reason, reply_reason};
pub use session::{Capabilities, Input, Output, PathConfig, Session, SessionEnd};
pub use targets::{Target, targets};
pub use tls_policy::{TlsLevel, TlsPolicy, TlsVersion};
