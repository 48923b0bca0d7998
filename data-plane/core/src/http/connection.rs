//! The server side of one connection.
//!
//! ```text
//!        head whole              body whole            Respond, kept
//! Head ------------> Body ------------------> Responding ------------> Head
//!   \___ refused, timed out, end of input, drained, answered and not kept ___> Closed
//! ```
//!
//! Invariants worth naming: `Request` is emitted once for each entry into `Responding`; after `Close` nothing is
//! emitted; input that arrives while a request is answered is kept up to [`HTTP_PIPELINE_BYTES_MAX`] and read when the
//! answer is out. A pump that heeds [`Connection::wants_input`] never meets that bound.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postrail_schema::limits::{HTTP_BODY, HTTP_HEAD_BYTES_MAX, HTTP_IDLE, HTTP_PIPELINE_BYTES_MAX, HTTP_REQUESTS_MAX};

use super::framing::Body;
use super::head::{self, Head};
use super::message::{Method, Request, Response};
use super::problem::Problem;
use crate::base::Instant;

/// The bounds of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Request line and fields, octets: over it 431.
    pub head_bytes_max: usize,
    /// A body, octets: over it 413.
    pub body_bytes_max: usize,
    /// Requests before the connection is closed.
    pub requests_max: u32,
    /// Time for a head, and between requests.
    pub idle: Duration,
    /// Time for a body.
    pub body: Duration,
}

impl Config {
    /// The bounds of `limits` with this one for bodies.
    pub const fn new(body_bytes_max: usize) -> Self {
        Self {
            head_bytes_max: HTTP_HEAD_BYTES_MAX,
            body_bytes_max,
            requests_max: HTTP_REQUESTS_MAX,
            idle: HTTP_IDLE,
            body: HTTP_BODY,
        }
    }
}

/// What the pump tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    Bytes(&'a [u8]),
    /// The peer sends no more.
    Eof,
    /// The deadline may have passed.
    Timeout,
    /// The answer to the request that was given out. Without one it answers what is still being received, and the
    /// connection is closed: how a pump refuses a body that it has no room for, or a client that it does not know.
    Respond(Response),
    /// No new request is to be taken; a running one is finished.
    Drain,
}

/// What the pump is to do, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    Send(Bytes),
    /// To be answered by [`Input::Respond`].
    Request(Request),
    /// Close when everything sent is out; nothing follows. Where the peer may still be sending, its octets should be
    /// read and dropped for a moment, or a reset takes the answer away from it (RFC 9112 section 9.6).
    Close,
}

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Head,
    Body,
    Responding,
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    config: Config,
    phase: Phase,
    /// Input that belongs to no body yet.
    buffer: BytesMut,
    /// Octets of `buffer` in which no end of a head was found.
    searched: usize,
    outputs: VecDeque<Output>,
    requests: u32,
    draining: bool,
    ended: bool,
}

#[derive(Debug)]
enum Phase {
    Head { deadline: Instant },
    Body { head: Box<Head>, body: Body, deadline: Instant },
    Responding { to_head: bool, keep_alive: bool, legacy: bool },
    Closed,
}

impl Connection {
    /// A connection that was accepted at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            phase: Phase::Head { deadline: now + config.idle },
            buffer: BytesMut::new(),
            searched: 0,
            outputs: VecDeque::new(),
            requests: 0,
            draining: false,
            ended: false,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match (input, &self.phase) {
            (_, Phase::Closed) => {}
            (Input::Bytes(bytes), _) => self.receive(now, bytes),
            (Input::Eof, Phase::Responding { .. }) => self.ended = true,
            (Input::Eof, _) => self.close(),
            (Input::Timeout, _) => self.time_out(now),
            (Input::Respond(response), &Phase::Responding { to_head, keep_alive, legacy }) => {
                self.respond(now, &response, to_head, keep_alive, legacy);
            }
            (Input::Respond(response), _) => {
                self.outputs.push_back(Output::Send(response.encode(false, Some("close"))));
                self.close();
            }
            (Input::Drain, _) => {
                self.draining = true;
                if self.is_idle() {
                    self.close();
                }
            }
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due; never while a request is answered.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Head { deadline } | Phase::Body { deadline, .. } => Some(deadline),
            Phase::Responding { .. } | Phase::Closed => None,
        }
    }

    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Head { .. } => State::Head,
            Phase::Body { .. } => State::Body,
            Phase::Responding { .. } => State::Responding,
            Phase::Closed => State::Closed,
        }
    }

    /// Whether more input is of use now. While a request is answered the peer is left to wait.
    pub const fn wants_input(&self) -> bool {
        matches!(self.phase, Phase::Head { .. } | Phase::Body { .. })
    }

    /// The request whose body is being received: its body is still empty.
    pub fn announced(&self) -> Option<&Request> {
        match &self.phase {
            Phase::Body { head, .. } => Some(&head.request),
            _ => None,
        }
    }

    /// Octets of unfinished input held in memory.
    pub fn bytes_held(&self) -> usize {
        self.buffer.len()
            + match &self.phase {
                Phase::Body { body, .. } => body.content.len(),
                _ => 0,
            }
    }

    fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head { .. }) && self.buffer.is_empty()
    }

    fn receive(&mut self, now: Instant, bytes: &[u8]) {
        if let Phase::Body { body, .. } = &mut self.phase {
            match body.take(bytes) {
                Ok(rest) => self.buffer.extend_from_slice(rest),
                Err(problem) => return self.refuse(&problem),
            }
        } else {
            if self.is_idle() && !bytes.is_empty() {
                self.phase = Phase::Head { deadline: now + self.config.idle };
            }
            self.buffer.extend_from_slice(bytes);
        }
        self.advance(now);
    }

    /// Reads as far as the buffered input goes.
    fn advance(&mut self, now: Instant) {
        loop {
            match &mut self.phase {
                Phase::Head { .. } => {
                    if !self.advance_head(now) {
                        return;
                    }
                }
                Phase::Body { body, .. } => {
                    if !self.buffer.is_empty() {
                        match body.take(&self.buffer) {
                            Ok(rest) => {
                                let taken = self.buffer.len() - rest.len();
                                self.buffer.advance(taken);
                            }
                            Err(problem) => return self.refuse(&problem),
                        }
                    }
                    if !body.is_done() {
                        return;
                    }
                    self.emit_request();
                }
                Phase::Responding { keep_alive, .. } => {
                    if self.buffer.len() > HTTP_PIPELINE_BYTES_MAX {
                        *keep_alive = false;
                        self.buffer = BytesMut::new();
                    }
                    return;
                }
                Phase::Closed => return,
            }
        }
    }

    /// Parses a head if it is whole; returns whether there is more to do.
    fn advance_head(&mut self, now: Instant) -> bool {
        let empty = head::leading_empty_lines(&self.buffer);
        if empty > 0 {
            self.buffer.advance(empty);
            self.searched = 0;
        }
        let Some(end) = head::end(&self.buffer, self.searched) else {
            self.searched = self.buffer.len();
            if self.buffer.len() > self.config.head_bytes_max {
                self.refuse(&self.head_too_large());
            }
            return false;
        };
        self.searched = 0;
        if end > self.config.head_bytes_max {
            self.refuse(&self.head_too_large());
            return false;
        }
        let bytes = self.buffer.split_to(end);
        match head::parse(&bytes).and_then(|head| self.start_body(now, head)) {
            Ok(()) => true,
            Err(problem) => {
                self.refuse(&problem);
                false
            }
        }
    }

    fn start_body(&mut self, now: Instant, head: Head) -> Result<(), Problem> {
        let body = Body::new(head.framing, self.config.body_bytes_max)?;
        if head.expects_continue && !body.is_done() && self.buffer.is_empty() {
            self.outputs.push_back(Output::Send(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n")));
        }
        self.phase = Phase::Body { head: Box::new(head), body, deadline: now + self.config.body };
        Ok(())
    }

    fn emit_request(&mut self) {
        let Phase::Body { head, body, .. } = std::mem::replace(&mut self.phase, Phase::Closed) else {
            unreachable!("a request is emitted at the end of its body");
        };
        let Head { mut request, keep_alive, legacy, .. } = *head;
        request.body = body.content.freeze();
        self.requests += 1;
        let keep_alive = keep_alive && self.requests < self.config.requests_max;
        self.phase = Phase::Responding { to_head: request.method == Method::Head, keep_alive, legacy };
        self.outputs.push_back(Output::Request(request));
    }

    fn respond(&mut self, now: Instant, response: &Response, to_head: bool, keep_alive: bool, legacy: bool) {
        let keep_alive = keep_alive && !self.draining && !(self.ended && self.buffer.is_empty());
        let connection = match (keep_alive, legacy) {
            (false, _) => Some("close"),
            (true, true) => Some("keep-alive"),
            (true, false) => None,
        };
        self.outputs.push_back(Output::Send(response.encode(to_head, connection)));
        if !keep_alive {
            return self.close();
        }
        self.phase = Phase::Head { deadline: now + self.config.idle };
        self.searched = 0;
        self.advance(now);
        if self.ended && self.wants_input() {
            self.close();
        }
    }

    fn time_out(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        if self.is_idle() {
            return self.close();
        }
        self.refuse(&Problem::new(408, "request_timeout", "the request did not come to its end in time"));
    }

    fn head_too_large(&self) -> Problem {
        let detail = format!("the head of a request has at most {} octets", self.config.head_bytes_max);
        Problem::new(431, "header_fields_too_large", detail)
    }

    /// Answers with a problem and closes: what follows on the connection cannot be trusted to be a request.
    fn refuse(&mut self, problem: &Problem) {
        self.outputs.push_back(Output::Send(problem.to_response().encode(false, Some("close"))));
        self.close();
    }

    fn close(&mut self) {
        self.phase = Phase::Closed;
        self.buffer = BytesMut::new();
        self.outputs.push_back(Output::Close);
    }
}

#[cfg(test)]
mod tests;
