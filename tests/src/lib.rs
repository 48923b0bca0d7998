//! The harness of the stories: starts the built binary and its real counterparts, and takes them down again.
//!
//! - [`place`]: a temporary folder and free ports of one story,
//! - [`child`]: a child process that ends with its owner,
//! - [`clock`]: a wall clock that a story moves,
//! - [`load`]: many numbered mails from clients that outlast restarts of the server, with a list of the acknowledged,
//! - [`postrail`]: the binary under test and its APIs,
//! - [`clients`]: submission clients and judges in Python and Node,
//! - [`scene`]: all of it at once, as most stories need it,
//! - [`etcd`]: a real etcd of one member, or of three at stations,
//! - [`fleet`]: etcd, control planes and data planes, each a process of its own,
//! - [`lan`]: hosts on one network, each in a namespace,
//! - [`dialogue`]: a plain SMTP client that says exactly what it is told,
//! - [`namespace`]: a peer that is not on loopback,
//! - [`zone`]: a real name server (Knot) with the story's zones,
//! - [`postgres`]: a real PostgreSQL server for the ledger,
//! - [`peers`]: real receivers: Postfix, Exim, OpenSMTPD,
//! - [`receiver`]: a scripted receiver for behaviour that no real one can be made to show,
//! - [`judge`]: what others' verifiers say of a mail,
//! - [`world`]: the usual cast of a story,
//! - [`witness`]: who sees packets at a station, and addresses that come to it and go,
//! - [`wait`]: waits for an event, bounded.
//!
//! Invariants worth naming: everything listens on loopback or in a namespace of the story's own; nothing is waited for
//! by a fixed sleep; mail is judged with parsers and verifiers that are not ours.

pub mod child;
pub mod clients;
pub mod clock;
pub mod dialogue;
pub mod etcd;
pub mod fleet;
pub mod host;
pub mod judge;
pub mod lan;
pub mod load;
pub mod namespace;
pub mod peers;
pub mod place;
pub mod postgres;
pub mod postrail;
pub mod receiver;
pub mod scene;
pub mod wait;
pub mod witness;
pub mod world;
pub mod zone;
