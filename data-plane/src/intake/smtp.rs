//! One SMTP submission session: bytes between the core's machine and a socket, questions to those who can answer.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::or;
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use postrail_core::base::Instant;
use postrail_core::intake::smtp::{self as policy, Acceptance, Principal};
use postrail_core::smtp::reply::Reply;
use postrail_core::smtp::server::{Answer, Input, Output, Question, Session, SessionConfig, Transaction};
use postrail_schema::listener::{ListenerProtocol, ListenerTls};
use postrail_schema::snapshot::Snapshot;

use super::listen::Door;
use crate::auth::{self, AuthFailure};
use crate::platform::{Net, Platform};
use crate::shard::Runtime;
use crate::spool::StoreError;
use crate::tls::MaybeTls;

const READ_BYTES: usize = 64 * 1024;
const WRITE_LIMIT: Duration = Duration::from_secs(60);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(60);
/// How often an idle session looks whether the node or its listener closes.
const DRAIN_CHECK: Duration = Duration::from_millis(200);

type Socket<P> = MaybeTls<<<P as Platform>::Net as Net>::Stream>;

/// Serves one session until it closes.
pub async fn run<P: Platform>(runtime: Runtime<P>, stream: <P::Net as Net>::Stream, peer: SocketAddr, door: Rc<Door>) {
    // A session takes mail until it has seen that its host takes no more, and then ends.
    let _submission = runtime.begin_submission();
    let listener = &door.listener;
    let implicit_tls = listener.protocol == ListenerProtocol::Smtps;
    let trusted = auth::trusted(&runtime.snapshot(), peer.ip());
    let config = SessionConfig {
        hostname: runtime.node().hostname.clone(),
        peer,
        starttls: !implicit_tls && door.acceptor.is_some(),
        requires_tls: listener.tls == ListenerTls::Required,
        implicit_tls,
        message_bytes_max: listener.limits.message_bytes(),
        is_trusted: trusted.is_some(),
        auth_without_tls: listener.tls == ListenerTls::Off || peer.ip().is_loopback(),
        idle: listener.limits.idle(listener.protocol),
    };
    let machine = Session::new(config, runtime.platform().now());
    let mut pump = Pump {
        runtime,
        door,
        peer,
        machine,
        is_trusted: trusted.is_some(),
        principal: trusted,
        snapshot: None,
        drained: false,
        held: 0,
    };
    let stream = MaybeTls::Plain(stream);
    let stream = if implicit_tls {
        match pump.shake_hands(stream).await {
            Some(stream) => stream,
            None => return,
        }
    } else {
        stream
    };
    if let Err(error) = pump.serve(stream).await {
        tracing::debug!(%error, "submission session ended");
    }
}

struct Pump<P: Platform> {
    runtime: Runtime<P>,
    door: Rc<Door>,
    peer: SocketAddr,
    machine: Session,
    principal: Option<Principal>,
    /// The peer's network says who it is, until it says it by itself.
    is_trusted: bool,
    /// What the transaction that is under way began under: all of it is decided under that.
    snapshot: Option<Arc<Snapshot>>,
    drained: bool,
    /// Octets told to the shard's count.
    held: usize,
}

impl<P: Platform> Drop for Pump<P> {
    fn drop(&mut self) {
        self.runtime.hold_intake_bytes(self.held, 0);
    }
}

impl<P: Platform> Pump<P> {
    async fn serve(&mut self, mut stream: Socket<P>) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let mut pending = Vec::new();
            while let Some(output) = self.machine.poll() {
                match output {
                    Output::Send(bytes) if pending.is_empty() => pending = bytes,
                    Output::Send(bytes) => pending.extend_from_slice(&bytes),
                    Output::Ask(tag, question) => {
                        // What was said before the question has to be out before we wait for long.
                        if matches!(question, Question::Authenticate { .. }) {
                            self.send(&mut stream, &mut pending).await?;
                        }
                        let answer = self.answer(question).await;
                        self.feed(Input::Answer(tag, answer));
                    }
                    Output::StartTls => {
                        self.send(&mut stream, &mut pending).await?;
                        let Some(upgraded) = self.shake_hands(stream).await else { return Ok(()) };
                        stream = upgraded;
                    }
                    Output::Close(reason) => {
                        self.send(&mut stream, &mut pending).await?;
                        tracing::debug!(reason = reason.name(), "submission session closed");
                        let _ = self.runtime.platform().timeout(Duration::from_secs(1), stream.close()).await;
                        return Ok(());
                    }
                }
            }
            self.send(&mut stream, &mut pending).await?;
            self.wait(&mut stream, &mut buffer).await?;
        }
    }

    fn feed(&mut self, input: Input<'_>) {
        let now = self.runtime.platform().now();
        if let Err(error) = self.machine.handle(now, input) {
            tracing::error!(%error, "the submission machine was misused");
        }
        let held = self.machine.buffered_bytes();
        self.runtime.hold_intake_bytes(std::mem::replace(&mut self.held, held), held);
    }

    async fn send(&self, stream: &mut Socket<P>, pending: &mut Vec<u8>) -> io::Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        let write = async {
            stream.write_all(pending).await?;
            stream.flush().await
        };
        let written = self.runtime.platform().timeout(WRITE_LIMIT, write).await;
        pending.clear();
        written.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn wait(&mut self, stream: &mut Socket<P>, buffer: &mut [u8]) -> io::Result<()> {
        let platform = self.runtime.platform().clone();
        let deadline = self.machine.deadline().unwrap_or(Instant::FAR);
        loop {
            let is_over = self.runtime.is_draining() || self.runtime.is_drained() || self.door.is_closed();
            if is_over && !self.drained {
                self.drained = true;
                self.feed(Input::Drain);
                return Ok(());
            }
            let check = if self.drained { deadline } else { deadline.min(platform.now() + DRAIN_CHECK) };
            let read = async { Some(stream.read(buffer).await) };
            let sleep = async {
                platform.sleep_until(check).await;
                None
            };
            match or(read, sleep).await {
                Some(Ok(0)) => self.feed(Input::Eof),
                Some(Ok(count)) => self.feed(Input::Bytes(&buffer[..count])),
                Some(Err(error)) => return Err(error),
                None if platform.now() >= deadline => self.feed(Input::Timeout),
                None => continue,
            }
            return Ok(());
        }
    }

    async fn shake_hands(&mut self, stream: Socket<P>) -> Option<Socket<P>> {
        let acceptor = self.door.acceptor.clone()?;
        let handshake = stream.accept(&acceptor);
        match self.runtime.platform().timeout(HANDSHAKE_LIMIT, handshake).await? {
            Ok(stream) => {
                let facts = stream.facts().unwrap_or_default();
                self.feed(Input::TlsEstablished(facts));
                Some(stream)
            }
            Err(error) => {
                tracing::debug!(%error, "TLS handshake failed");
                None
            }
        }
    }

    async fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Authenticate { username, secret, .. } => {
                let snapshot = self.runtime.snapshot();
                let verified = self.runtime.auth().verify(&snapshot, &username, &secret, self.peer.ip()).await;
                match verified {
                    Ok(principal) => {
                        (self.principal, self.is_trusted) = (Some(principal), false);
                        Answer::Authenticated
                    }
                    Err(AuthFailure::Invalid) => {
                        Answer::Refused(Reply::enhanced(535, 7, 8, "Authentication credentials invalid"))
                    }
                    // 5.7.1, as for any policy: the secret is right, so a client must not ask its user for another.
                    Err(AuthFailure::Elsewhere(region)) => Answer::Refused(Reply::enhanced(
                        535,
                        7,
                        1,
                        format!(
                            "This account is served in region {} alone: submit at {}",
                            region.name, region.submission_host
                        ),
                    )),
                    Err(AuthFailure::Scope) => {
                        let text = "This credential does not have the scope submit";
                        Answer::Refused(Reply::enhanced(535, 7, 8, text))
                    }
                    Err(AuthFailure::Network) => {
                        let text = "This credential may not be used from your address";
                        Answer::Refused(Reply::enhanced(535, 7, 8, text))
                    }
                    Err(AuthFailure::TooMany) => {
                        let text = "Too many failed authentications from your address; try again in a minute";
                        Answer::Refused(Reply::enhanced(454, 7, 0, text))
                    }
                }
            }
            Question::Sender(command) => {
                if !self.runtime.hold_intake_bytes(0, 0) {
                    let text = "Too many messages are being received at present";
                    return Answer::Refused(Reply::enhanced(452, 3, 1, text));
                }
                let snapshot = self.snapshot.insert(self.runtime.snapshot());
                if self.is_trusted {
                    self.principal = auth::trusted(snapshot, self.peer.ip());
                }
                let Some(principal) = &self.principal else { return unauthenticated() };
                answer_of(policy::check_sender(snapshot, principal, &command))
            }
            Question::Recipient(path) => {
                let Some(principal) = &self.principal else { return unauthenticated() };
                let snapshot = self.snapshot.get_or_insert_with(|| self.runtime.snapshot());
                answer_of(policy::check_recipient(snapshot, principal, &path))
            }
            Question::Message(transaction) => self.accept(*transaction).await,
        }
    }

    async fn accept(&mut self, transaction: Transaction) -> Answer {
        let Some(principal) = &self.principal else { return unauthenticated() };
        let recipients = transaction.envelope.recipients.len();
        if let Some(why) = self.runtime.refusal(principal.tenant, recipients) {
            return Answer::Refused(Reply::enhanced(452, 3, 1, why));
        }
        let snapshot = self.snapshot.take().unwrap_or_else(|| self.runtime.snapshot());
        let now = self.runtime.now();
        let acceptance = Acceptance {
            snapshot: &snapshot,
            principal,
            hostname: &self.runtime.node().hostname,
            id: self.runtime.next_id(),
            now: now.wall,
            peer: self.peer.ip(),
        };
        let job = match policy::accept(acceptance, transaction) {
            Ok(job) => job,
            Err(refusal) => return Answer::Refused(refusal.reply()),
        };
        let taken = self.runtime.quotas().borrow_mut().take(&snapshot, principal.tenant, recipients, now.wall);
        let Some(taken) = taken else {
            return Answer::Refused(Reply::enhanced(450, 7, 1, "The tenant's quota for today is used up"));
        };
        let id = job.id;
        match self.runtime.accept(job).await {
            Ok(()) => {
                taken.keep();
                Answer::Accepted(id)
            }
            Err(StoreError::TooLarge { .. }) => {
                Answer::Refused(Reply::enhanced(552, 3, 4, "The message is too large to be stored"))
            }
            Err(error) => Answer::Refused(Reply::enhanced(452, 3, 1, error.to_string())),
        }
    }
}

fn unauthenticated() -> Answer {
    Answer::Refused(Reply::enhanced(530, 7, 0, "Authentication required"))
}

fn answer_of(result: Result<(), policy::Refusal>) -> Answer {
    match result {
        Ok(()) => Answer::Ok,
        Err(refusal) => Answer::Refused(refusal.reply()),
    }
}
