//! The harness of the stories: starts the built binary and its real counterparts, and takes them down again.
//!
//! - [`place`]: a temporary folder and free ports of one story,
//! - [`process`]: a child process that ends with its owner,
//! - [`postrail`]: the binary under test and its APIs,
//! - [`zone`]: a real name server (Knot) with the story's zones,
//! - [`receiver`]: a scripted receiver for behaviour that no real one can be made to show,
//! - [`wait`]: waits for an event, bounded.
//!
//! Invariants worth naming: everything listens on loopback or in a namespace of the story's own; nothing is waited for
//! by a fixed sleep; mail is judged with parsers and verifiers that are not ours.

pub mod place;
pub mod postrail;
pub mod process;
pub mod receiver;
pub mod wait;
pub mod zone;
