//! REST submission: `POST /v2/jobs`, its OpenAPI description, and health for load balancers.
//!
//! A request with an idempotency key is answered by the shard that the key belongs to, so that one table decides.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use postrail_core::base::{Secret, Timestamp};
use postrail_core::http::{Config, Method, Problem, Request, Response};
use postrail_core::intake::idempotency::{self, Begin};
use postrail_core::intake::rest::{self, Acceptance};
use postrail_core::intake::smtp::Principal;
use postrail_schema::ids::{MessageId, ShardId};
use postrail_schema::listener::{Listener, ListenerProtocol, ListenerTls};

use postrail_schema::region::Region;
use postrail_schema::snapshot::Snapshot;

use super::listen::{DRAINED, Door};
use super::quota;
use crate::auth::{self, AuthFailure};
use crate::http::{self, Handler};
use crate::mesh::{Question, Reply};
use crate::platform::{Net, Platform};
use crate::shard::Runtime;
use crate::spool::StoreError;
use crate::tls::MaybeTls;

/// The description of this API.
const OPENAPI: &str = include_str!("../../../docs/reference/openapi-submission.json");

/// The content type of a TLS record that begins a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Serves one connection until it closes.
pub async fn run<P: Platform>(runtime: Runtime<P>, stream: <P::Net as Net>::Stream, peer: SocketAddr, door: Rc<Door>) {
    let Listener { tls, limits, .. } = &door.listener;
    let idle = limits.idle(ListenerProtocol::Rest);
    let config = Config { idle, ..Config::new(limits.body_bytes()) };
    let is_plain_allowed = *tls == ListenerTls::Off || *tls == ListenerTls::Offered && peer.ip().is_loopback();
    let acceptor = door.acceptor.clone();
    let platform = runtime.platform().clone();
    let submission = Submission { runtime, door };
    let Some((stream, first)) = platform.timeout(idle, Opened::read(stream)).await.flatten() else { return };
    if is_plain_allowed && first != TLS_HANDSHAKE {
        return http::serve(&platform, MaybeTls::Plain(stream), peer, config, &submission).await;
    }
    let Some(acceptor) = acceptor else { return };
    let handshake = MaybeTls::Plain(stream).accept(&acceptor);
    match platform.timeout(Duration::from_secs(60), handshake).await {
        Some(Ok(stream)) => http::serve(&platform, stream, peer, config, &submission).await,
        Some(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        None => {}
    }
}

/// A stream whose first octet was looked at: it tells TLS from plain HTTP, which loopback may speak.
struct Opened<S> {
    first: Option<u8>,
    stream: S,
}

impl<S: AsyncRead + Unpin> Opened<S> {
    async fn read(mut stream: S) -> Option<(Self, u8)> {
        let mut first = [0];
        stream.read_exact(&mut first).await.ok()?;
        Some((Self { first: Some(first[0]), stream }, first[0]))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match (self.first.take(), buffer.first_mut()) {
            (Some(first), Some(place)) => {
                *place = first;
                Poll::Ready(Ok(1))
            }
            (first, _) => {
                self.first = first;
                Pin::new(&mut self.stream).poll_read(cx, buffer)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

struct Submission<P: Platform> {
    runtime: Runtime<P>,
    door: Rc<Door>,
}

impl<P: Platform> Handler for Submission<P> {
    async fn answer(&self, request: Request, peer: SocketAddr) -> Response {
        match (request.method, request.path.as_str()) {
            (Method::Post, "/v2/jobs") => match self.submit(request, peer).await {
                Ok(response) => response,
                Err(problem) => problem.to_response(),
            },
            (Method::Get | Method::Head, "/openapi.json") => Response::new(200, "application/json", OPENAPI),
            (Method::Get | Method::Head, "/healthz") => Response::new(200, "text/plain", "ok\n"),
            (_, "/v2/jobs") => {
                let detail = "jobs are submitted by POST; look them up on the control API";
                Problem::new(405, "method_not_allowed", detail).with_header("Allow", "POST").to_response()
            }
            (_, "/openapi.json" | "/healthz") => {
                Problem::new(405, "method_not_allowed", "use GET").with_header("Allow", "GET, HEAD").to_response()
            }
            (_, path) => Problem::new(404, "not_found", format!("there is nothing at {path}")).to_response(),
        }
    }

    async fn admit(&self, head: &Request, peer: SocketAddr) -> Option<Response> {
        if (head.method, head.path.as_str()) != (Method::Post, "/v2/jobs") {
            return None;
        }
        self.authenticate(head, peer).await.and_then(|_| self.takes_mail()).err().map(|problem| problem.to_response())
    }

    fn hold(&self, before: usize, now: usize) -> bool {
        self.runtime.hold_intake_bytes(before, now)
    }

    fn is_draining(&self) -> bool {
        self.runtime.is_draining() || self.door.is_closed()
    }

    /// Where the host is drained, the next connection may be led to another.
    fn is_last(&self) -> bool {
        self.is_draining() || self.runtime.is_drained()
    }
}

impl<P: Platform> Submission<P> {
    /// Refuses submissions at a host that an operator has emptied.
    fn takes_mail(&self) -> Result<(), Problem> {
        if !self.runtime.is_drained() {
            return Ok(());
        }
        Err(Problem::new(503, "draining", DRAINED).with_header("Retry-After", "5"))
    }

    async fn submit(&self, request: Request, peer: SocketAddr) -> Result<Response, Problem> {
        let submitter = self.authenticate(&request, peer).await?;
        let _submission = self.runtime.begin_submission();
        self.takes_mail()?;
        rest::check_query(&request.query)?;
        let media = request.header("content-type").unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case("application/json") {
            let detail = "send the job as application/json";
            return Err(Problem::new(415, "unsupported_media_type", detail));
        }
        let key = request.header("idempotency-key").map(str::to_owned);
        let Some(key) = key else {
            return submit_here(&self.runtime, &submitter, None, request.body).await;
        };
        if !idempotency::is_valid_key(&key) {
            let detail = "an Idempotency-Key has 1 to 255 characters of A-Z a-z 0-9 . _ -";
            return Err(Problem::new(400, "invalid_idempotency_key", detail));
        }
        let hash = idempotency::hashes(submitter.principal.tenant, &key, &request.body).key_hash;
        let owner = ShardId((hash % u128::from(self.runtime.node().shards)) as u16);
        if owner == self.runtime.id() {
            return submit_here(&self.runtime, &submitter, Some(&key), request.body).await;
        }
        let question = Question::Submit(Box::new(Forwarded { submitter, key, body: request.body }));
        match self.runtime.mesh().ask(owner, question).await {
            Some(Reply::Response(response)) => Ok(*response),
            _ => Err(Problem::new(503, "shutting_down", "the server is shutting down").with_header("Retry-After", "5")),
        }
    }

    async fn authenticate(&self, request: &Request, peer: SocketAddr) -> Result<Submitter, Problem> {
        // Without a configuration nobody is known, and a client would take that for the last word.
        if let Some(withheld) = self.runtime.withheld() {
            return Err(Problem::new(503, "not_ready", withheld.refusal()).with_header("Retry-After", "5"));
        }
        let snapshot = self.runtime.snapshot();
        let header = request.header("authorization");
        if header.is_none()
            && let Some(principal) = auth::trusted(&snapshot, peer.ip())
        {
            return Ok(Submitter { principal, peer, snapshot });
        }
        let header = header.unwrap_or_default();
        let (scheme, value) = header.split_once(' ').unwrap_or((header, ""));
        let auth = self.runtime.auth();
        let verified = if scheme.eq_ignore_ascii_case("basic") {
            match basic(value) {
                Some((username, secret)) => auth.verify(&snapshot, &username, &secret, peer.ip()).await,
                None => Err(AuthFailure::Invalid),
            }
        } else if scheme.eq_ignore_ascii_case("bearer") {
            let key = Secret::new(value.trim().as_bytes().to_vec());
            auth.verify_key(&snapshot, &key, peer.ip()).await
        } else {
            let detail = "authenticate by Basic (username and secret) or Bearer (API key)";
            return Err(unauthorized(detail));
        };
        let principal = verified.map_err(|failure| match failure {
            AuthFailure::Invalid => unauthorized("the credentials are not valid"),
            AuthFailure::Elsewhere(region) => wrong_region(&region),
            AuthFailure::Scope => Problem::new(
                403,
                "scope_missing",
                "submitting needs the scope submit, which this credential does not have",
            ),
            AuthFailure::Network => {
                Problem::new(403, "network_refused", "this credential may not be used from your address")
            }
            AuthFailure::TooMany => {
                let detail = "too many failed authentications from your address; try again in a minute";
                Problem::new(429, "too_many_failures", detail).with_header("Retry-After", "60")
            }
        })?;
        Ok(Submitter { principal, peer, snapshot })
    }
}

/// A request on its way to the shard that owns its idempotency key.
#[derive(Clone, Debug)]
pub struct Forwarded {
    pub submitter: Submitter,
    pub key: String,
    pub body: Bytes,
}

/// Who submits, and the configuration under which the whole submission is decided.
#[derive(Clone, Debug)]
pub struct Submitter {
    principal: Principal,
    peer: SocketAddr,
    snapshot: Arc<Snapshot>,
}

/// Answers a forwarded request.
pub async fn submit_forwarded<P: Platform>(runtime: &Runtime<P>, forwarded: Forwarded) -> Response {
    let Forwarded { submitter, key, body } = forwarded;
    match submit_here(runtime, &submitter, Some(&key), body).await {
        Ok(response) => response,
        Err(problem) => problem.to_response(),
    }
}

async fn submit_here<P: Platform>(
    runtime: &Runtime<P>,
    submitter: &Submitter,
    key: Option<&str>,
    body: Bytes,
) -> Result<Response, Problem> {
    let now = runtime.now().wall;
    let Some(key) = key else {
        return accept(runtime, submitter, None, &body, runtime.next_id(), now).await;
    };
    if runtime.is_recovering() {
        // The key may be that of a job which is still to be found.
        let detail = "the keys of earlier jobs are still being restored after a start";
        return Err(Problem::new(503, "recovering", detail).with_header("Retry-After", "1"));
    }
    let hashes = idempotency::hashes(submitter.principal.tenant, key, &body);
    let begun = runtime.keys().borrow_mut().begin(hashes.key_hash, hashes.request_hash, now);
    match begun {
        Begin::New => {}
        Begin::Replay(job) => return replay(runtime, submitter, key, &body, job),
        Begin::InProgress => {
            let detail = "the first request with this Idempotency-Key is still being accepted";
            return Err(Problem::new(409, "idempotency_in_progress", detail).with_header("Retry-After", "1"));
        }
        Begin::Conflict => {
            let detail = "this Idempotency-Key was used with another request within 24 hours";
            return Err(Problem::new(409, "idempotency_conflict", detail));
        }
        Begin::Full => {
            let detail = "too many idempotency keys are remembered at present";
            return Err(Problem::new(429, "too_many_keys", detail).with_header("Retry-After", "60"));
        }
    }
    let id = runtime.next_id();
    let accepted = accept(runtime, submitter, Some(key), &body, id, now).await;
    let mut keys = runtime.keys().borrow_mut();
    match &accepted {
        Ok(response) if response.status == 202 => keys.finish(hashes.key_hash, id),
        _ => keys.abandon(hashes.key_hash),
    }
    accepted
}

/// The first answer again: it follows from the same body, id and time.
fn replay<P: Platform>(
    runtime: &Runtime<P>,
    submitter: &Submitter,
    key: &str,
    body: &[u8],
    job: MessageId,
) -> Result<Response, Problem> {
    let Submitter { principal, peer, snapshot } = submitter;
    let now = Timestamp::from_unix_ms(job.unix_ms());
    let acceptance = Acceptance { snapshot, principal, id: job, now, peer: peer.ip(), idempotency_key: Some(key) };
    let accepted = rest::accept(acceptance, body)?;
    Ok(located(runtime, job, accepted.answer.to_response()).with_header("X-Idempotent-Replayed", "true"))
}

/// Says where the job can be looked up: on the control API.
fn located<P: Platform>(runtime: &Runtime<P>, job: MessageId, mut response: Response) -> Response {
    response.headers.retain(|(name, _)| name != "Location");
    response.with_header("Location", format!("{}/v2/jobs/{job}", runtime.node().control_url))
}

async fn accept<P: Platform>(
    runtime: &Runtime<P>,
    submitter: &Submitter,
    key: Option<&str>,
    body: &[u8],
    id: MessageId,
    now: Timestamp,
) -> Result<Response, Problem> {
    let Submitter { principal, peer, snapshot } = submitter;
    let acceptance = Acceptance { snapshot, principal, id, now, peer: peer.ip(), idempotency_key: key };
    let accepted = rest::accept(acceptance, body)?;
    let Some(job) = accepted.job else {
        return Ok(accepted.answer.to_response());
    };
    let recipients = job.recipients.len();
    if let Some(why) = runtime.refusal(principal.tenant, recipients) {
        return Err(Problem::new(503, "overloaded", why).with_header("Retry-After", "5"));
    }
    let taken = runtime.quotas().borrow_mut().take(snapshot, principal.tenant, recipients, now);
    let Some(taken) = taken else {
        let detail = "the tenant's quota for today is used up";
        let wait = quota::seconds_left(now).to_string();
        return Err(Problem::new(429, "quota_exceeded", detail).with_header("Retry-After", wait));
    };
    runtime.accept(job).await.map_err(store_problem)?;
    taken.keep();
    Ok(located(runtime, id, accepted.answer.to_response()))
}

fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::TooLarge { .. } => Problem::new(413, "job_too_large", error.to_string()),
        StoreError::DiskFull { .. } => {
            Problem::new(507, "insufficient_storage", error.to_string()).with_header("Retry-After", "30")
        }
        other => Problem::new(503, "overloaded", other.to_string()).with_header("Retry-After", "5"),
    }
}

/// Not 421, after which a client may send the same request to the same URI again (RFC 9110 15.5.20): the URI is right for
/// this host, the tenant is not. No redirect either: it would take mail through a region that it must not be in.
fn wrong_region(region: &Region) -> Problem {
    let (name, host) = (&region.name, &region.submission_host);
    Problem::new(403, "wrong_region", format!("this account is served in region {name} alone: submit at {host}"))
        .with_header("X-Postrail-Submission-Host", host.clone())
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(401, "unauthorized", detail).with_header("WWW-Authenticate", "Basic realm=\"postrail\", Bearer")
}

fn basic(value: &str) -> Option<(String, Secret)> {
    let decoded = STANDARD.decode(value.trim()).ok()?;
    let at = decoded.iter().position(|byte| *byte == b':')?;
    let username = String::from_utf8(decoded[..at].to_vec()).ok()?;
    Some((username, Secret::new(decoded[at + 1..].to_vec())))
}
