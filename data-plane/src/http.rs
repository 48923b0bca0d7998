//! Serves one HTTP/1.1 connection: bytes between the core's machine and a socket, requests to a handler.

use std::net::SocketAddr;
use std::time::Duration;

use futures_lite::future::or;
use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use postrail_core::base::Instant;
use postrail_core::http::{Config, Connection, Input, Output, Problem, Request, Response};

use crate::platform::Platform;

const READ_BYTES: usize = 64 * 1024;
/// How long a peer that still sends may take to read why it was refused.
const LINGER: Duration = Duration::from_secs(2);
/// How long a response may take to leave.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// How often an idle connection looks whether the node drains.
const DRAIN_CHECK: Duration = Duration::from_millis(200);

/// Answers requests.
pub trait Handler {
    /// The response to one request of `peer`.
    fn answer(&self, request: Request, peer: SocketAddr) -> impl Future<Output = Response>;

    /// Looks at a request whose body is still on its way; a response refuses it before the body is taken.
    fn admit(&self, _head: &Request, _peer: SocketAddr) -> impl Future<Output = Option<Response>> {
        std::future::ready(None)
    }

    /// Counts octets that a connection holds: `before` is what it last told. `false`: there is no room for more.
    fn hold(&self, _before: usize, _now: usize) -> bool {
        true
    }

    /// Whether new requests are to be refused, because the node drains.
    fn is_draining(&self) -> bool;

    /// Whether a connection ends with an answer that is given now, so that the client comes by another.
    fn is_last(&self) -> bool {
        self.is_draining()
    }
}

/// Serves `stream` until it closes.
pub async fn serve<P, S, H>(platform: &P, mut stream: S, peer: SocketAddr, config: Config, handler: &H)
where
    P: Platform,
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let mut machine = Connection::new(config, platform.now());
    let mut buffer = vec![0; READ_BYTES];
    let mut drained = false;
    let mut held = Held { handler, bytes: 0 };
    let mut admitted = false;
    loop {
        if !held.update(machine.bytes_held()) && machine.announced().is_some() {
            let detail = "too much is being received at present";
            let problem = Problem::new(503, "overloaded", detail).with_header("Retry-After", "5");
            machine.handle(platform.now(), Input::Respond(problem.to_response()));
        }
        let refusal = match machine.announced() {
            Some(head) if !admitted => handler.admit(head, peer).await,
            _ => None,
        };
        admitted = machine.announced().is_some();
        if let Some(refusal) = refusal {
            machine.handle(platform.now(), Input::Respond(refusal));
        }
        while let Some(output) = machine.poll() {
            match output {
                Output::Send(bytes) => {
                    let write = async {
                        stream.write_all(&bytes).await?;
                        stream.flush().await
                    };
                    if !matches!(platform.timeout(WRITE_LIMIT, write).await, Some(Ok(()))) {
                        return;
                    }
                }
                Output::Request(request) => {
                    let response = handler.answer(request, peer).await;
                    if handler.is_last() && !drained {
                        drained = true;
                        machine.handle(platform.now(), Input::Drain);
                    }
                    machine.handle(platform.now(), Input::Respond(response));
                }
                Output::Close => return linger(platform, &mut stream, &mut buffer).await,
            }
        }
        if handler.is_draining() && !drained {
            drained = true;
            machine.handle(platform.now(), Input::Drain);
            continue;
        }
        let deadline = machine.deadline().unwrap_or(Instant::FAR);
        let check = if drained { deadline } else { deadline.min(platform.now() + DRAIN_CHECK) };
        let read = async { Some(stream.read(&mut buffer).await) };
        let sleep = async {
            platform.sleep_until(check).await;
            None
        };
        match or(read, sleep).await {
            Some(Ok(0)) => machine.handle(platform.now(), Input::Eof),
            Some(Ok(count)) => machine.handle(platform.now(), Input::Bytes(&buffer[..count])),
            Some(Err(_)) => return,
            None if platform.now() >= deadline => machine.handle(platform.now(), Input::Timeout),
            None => {}
        }
    }
}

/// Ends our side, then reads what the peer still sends: a connection closed with input unread is reset, and the reset
/// overtakes the response.
async fn linger<P, S>(platform: &P, stream: &mut S, buffer: &mut [u8])
where
    P: Platform,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let drain = async {
        if stream.close().await.is_ok() {
            while matches!(stream.read(buffer).await, Ok(count) if count > 0) {}
        }
    };
    let _ = platform.timeout(LINGER, drain).await;
}

/// What a connection has told its handler to hold; given back when it ends, however it ends.
struct Held<'a, H: Handler> {
    handler: &'a H,
    bytes: usize,
}

impl<H: Handler> Held<'_, H> {
    fn update(&mut self, now: usize) -> bool {
        let before = std::mem::replace(&mut self.bytes, now);
        self.handler.hold(before, now)
    }
}

impl<H: Handler> Drop for Held<'_, H> {
    fn drop(&mut self) {
        self.handler.hold(self.bytes, 0);
    }
}
