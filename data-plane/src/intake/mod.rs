//! Stage *intake*, the pumps: submission sessions by SMTP and by REST.
//!
//! A session is counted, bounded and told to drain here; what it may do is decided in the core.

pub mod listen;
pub mod ports;
pub mod quota;
pub mod rest;
pub mod smtp;
