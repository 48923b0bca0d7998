//! HTTP/1.1 for the data plane: a server machine without I/O (RFC 9110, RFC 9112) and the problem documents of RFC 9457.
//!
//! ```text
//! bytes -> head (httparse, strict) -> framing (length | chunked) -> Request -> the caller -> Response -> bytes
//! ```
//!
//! It serves REST submission and the admin listener: small requests, one at a time, over a connection that is kept.
//!
//! Invariants worth naming: a request is given out whole or not at all; there is at most one unanswered request a
//! connection; whatever is ambiguous about where a message ends is refused and the connection is closed.
//!
//! Deliberately absent: HTTP/2, upgrades, trailers for the caller, compression, routing, streaming bodies.

mod connection;
mod framing;
mod head;
mod message;
mod problem;

pub use connection::{Config, Connection, Input, Output, State};
pub use message::{Method, Request, Response};
pub use problem::{FieldError, Problem};
