//! Mail as data: addresses, envelopes, header fields, jobs. No protocol and no policy.

pub mod address;
pub mod envelope;
pub mod header;
pub mod job;
pub mod mailboxes;
pub mod message;

pub use address::{Address, AddressError, Domain};
pub use envelope::{BodyType, DsnReturn, Envelope, ForwardPath, Notify, ReversePath};
pub use job::{Content, Interface, Job, JobEntry, JobRecipient, RestContent};
pub use message::{FinalMessage, TlsFacts};
