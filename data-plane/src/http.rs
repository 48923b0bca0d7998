//! Serves one HTTP/1.1 connection: bytes between the core's machine and a socket, requests to a handler.

use std::net::SocketAddr;
use std::time::Duration;

use futures_lite::future::or;
use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use postrail_core::base::Instant;
use postrail_core::http::{Config, Connection, Input, Output, Request, Response};

use crate::platform::Platform;

const READ_BYTES: usize = 64 * 1024;
/// How long a response may take to leave.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// How often an idle connection looks whether the node drains.
const DRAIN_CHECK: Duration = Duration::from_millis(200);

/// Answers requests.
pub trait Handler {
    /// The response to one request of `peer`.
    fn answer(&self, request: Request, peer: SocketAddr) -> impl Future<Output = Response>;

    /// Whether new requests are to be refused, because the node drains.
    fn is_draining(&self) -> bool;
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
    loop {
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
                    machine.handle(platform.now(), Input::Respond(response));
                }
                Output::Close => {
                    let _ = platform.timeout(Duration::from_secs(1), stream.close()).await;
                    return;
                }
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
