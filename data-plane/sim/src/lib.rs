//! The world in which the data plane's pumps are tried: one thread, one seed, virtual time, a disk that forgets what
//! was not synced, a network that loses, cuts and delays, and receivers that misbehave on purpose.
//!
//! The pumps and the core run unchanged; only [`Platform`](postrail_data_plane::platform::Platform) is another. A run
//! follows from its seed alone: what failed once fails again with the same seed, and two runs of one seed give the same
//! [trace hash](Sim::trace).
//!
//! ```text
//! executor (whose turn is it?)  clock (what time is it?)
//!         \                     /
//!          world: nodes, lives, crashes ---- disk, net ---- platform
//!                                             |
//!                          dns, remote_mta (counterparts) -> invariants (what must hold)
//! ```
//!
//! [`leases`] is a world of its own, without pumps: which host may use which address, decided by the control plane's
//! allocator and the data plane's lease machine together.
//!
//! [`transfers`] is a world of several nodes, between which addresses move, and mail after them.
//!
//! Deliberately absent: real sockets, files, threads and clocks.

mod clock;
pub mod disk;
pub mod dns;
mod executor;
pub mod invariants;
pub mod leases;
pub mod net;
mod platform;
pub mod remote_mta;
mod trace;
pub mod transfers;
pub mod workload;
mod world;

pub use platform::SimPlatform;
pub use world::{Failure, NodeId, Settings, Sim};
