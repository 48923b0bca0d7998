//! Final bytes: a copy is rendered when its turn comes, made 7-bit where the receiver asks for it, and signed.
//!
//! ```text
//! Job, entry -> render -> [seven_bit] -> dkim::plan -> (the pump signs digests) -> Plan::finish -> FinalMessage
//! ```
//!
//! Invariants worth naming: rendering an entry twice gives the same bytes; nothing changes a message after it was
//! planned; a private key is never seen here: a plan asks for a signature of 32 octets.

pub mod dkim;
mod encode;
mod fields;
pub mod render;
pub mod seven_bit;
