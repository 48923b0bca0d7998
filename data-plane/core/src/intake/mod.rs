//! Intake: takes responsibility for mail, or says why not. Policy alone, under one snapshot; no protocol.
//!
//! - [`smtp`]: senders, recipients and messages of SMTP submission,
//! - [`rest`]: requests of REST submission,
//! - [`listeners`]: what a host is to listen on,
//! - [`idempotency`]: the first answer to a key, given again,
//! - [`refusal`]: every reason of a refusal, and its SMTP reply.
//!
//! Invariants worth naming: a message leaves here as a whole [`Job`](crate::mail::Job) or not at all; its From domain
//! belongs to the tenant of the credential.
//!
//! Deliberately absent: the spool. A 250 or 202 is said only after it has synced.

pub mod idempotency;
pub mod listeners;
pub mod refusal;
pub mod rest;
pub mod smtp;

pub use smtp::Principal;
