//! Stage *egress*, the pump: one task a connection moves bytes between the core's session machine and a socket.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use bytes::{Buf as _, Bytes};
use futures_lite::future::or;
use futures_util::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use postrail_core::base::{Instant, Random};
use postrail_core::egress::{Capabilities, Input, Output, PathConfig, Session, SessionEnd, TlsVersion, targets};
use postrail_core::mail::Domain;
use postrail_core::shard::{self, SessionPlan, Transact};
use smallvec::SmallVec;

use crate::platform::{Net, Platform, Stream};
use crate::shard::Runtime;
use crate::tls::MaybeTls;

/// What the shard tells a session's task.
#[derive(Debug)]
pub enum SessionCommand {
    Transact(Box<Transact>),
    Quit,
}

/// Octets read from a receiver at once: replies are short.
const READ_BYTES: usize = 4_096;
/// Pieces of what goes out that one call writes: several transactions.
const PIECES_AT_ONCE: usize = 64;
/// What takes longer than this to render and sign goes out before the next is.
const SIGNATURE_SLOW: Duration = Duration::from_micros(100);
/// How long a connection attempt to one address may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// What woke a session's task.
enum Woken {
    Read(io::Result<usize>),
    Command(Option<SessionCommand>),
    Deadline,
}

/// Runs a session from its first connection attempt to its end, which the shard hears of in any case.
pub async fn run<P: Platform>(
    runtime: Runtime<P>,
    session: u32,
    plan: Box<SessionPlan>,
    commands: Receiver<SessionCommand>,
) {
    let end = SessionPump::new(&runtime, session, &plan, commands).run().await;
    runtime.session_over(session);
    runtime.input(shard::Input::Ended { session, end });
}

struct SessionPump<'a, P: Platform> {
    runtime: &'a Runtime<P>,
    session: u32,
    source: Option<IpAddr>,
    /// Our address on the present connection.
    local: Option<IpAddr>,
    machine: Session,
    stream: Option<MaybeTls<<P::Net as Net>::Stream>>,
    commands: Receiver<SessionCommand>,
    idle: bool,
    capabilities: Option<Arc<Capabilities>>,
    pending: Vec<Bytes>,
}

impl<'a, P: Platform> SessionPump<'a, P> {
    fn new(runtime: &'a Runtime<P>, session: u32, plan: &SessionPlan, commands: Receiver<SessionCommand>) -> Self {
        let source = (!plan.address.is_unspecified()).then_some(plan.address);
        let mut random = Random::new(runtime.platform().entropy());
        let targets = targets(&plan.hosts, plan.port, source, &mut random);
        let config = PathConfig {
            source,
            mails_max: plan.mails_max,
            tls: plan.tls.clone(),
            ..PathConfig::new(plan.ehlo_name.as_str(), targets)
        };
        let machine = Session::new(config, runtime.platform().now());
        Self {
            runtime,
            session,
            source,
            local: None,
            machine,
            stream: None,
            commands,
            idle: false,
            capabilities: None,
            pending: Vec::new(),
        }
    }

    async fn run(mut self) -> SessionEnd {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if let Some(end) = self.carry_out().await {
                if let Some(mut stream) = self.stream.take() {
                    let close = stream.close();
                    let _ = self.runtime.platform().timeout(Duration::from_secs(1), close).await;
                }
                return end;
            }
            match self.wait(&mut buffer).await {
                Woken::Read(Ok(0)) => self.feed(Input::Eof),
                Woken::Read(Ok(count)) => {
                    let now = self.runtime.platform().now();
                    self.machine.handle(now, Input::Bytes(&buffer[..count]));
                }
                Woken::Read(Err(error)) => self.feed(Input::Reset(&error.to_string())),
                Woken::Command(Some(command)) => self.obey(command).await,
                Woken::Command(None) => self.feed(Input::Quit),
                Woken::Deadline => self.feed(Input::Timeout),
            }
        }
    }

    fn feed(&mut self, input: Input<'_>) {
        let now = self.runtime.platform().now();
        self.machine.handle(now, input);
    }

    /// Carries out what the machine wants; `Some`: the session is over.
    async fn carry_out(&mut self) -> Option<SessionEnd> {
        loop {
            let Some(output) = self.machine.poll() else {
                self.flush().await;
                match self.machine.poll() {
                    Some(output) => {
                        if let Some(end) = self.carry_out_one(output).await {
                            return Some(end);
                        }
                        continue;
                    }
                    None => return None,
                }
            };
            if let Some(end) = self.carry_out_one(output).await {
                return Some(end);
            }
        }
    }

    async fn carry_out_one(&mut self, output: Output) -> Option<SessionEnd> {
        match output {
            Output::Send(bytes) => self.pending.push(bytes),
            Output::Connect(target) => {
                // A QUIT for the host that is given up is still pending.
                self.flush().await;
                self.stream = None;
                if !self.runtime.heart().may_go_on_connecting(self.runtime.now(), self.session) {
                    self.feed(Input::Quit);
                    return None;
                }
                let net = self.runtime.platform().net();
                match net.connect(self.source, target.address, CONNECT_LIMIT).await {
                    Ok(stream) => {
                        self.local = stream.local().map(|local| local.ip());
                        self.stream = Some(MaybeTls::Plain(stream));
                        self.feed(Input::Connected);
                    }
                    Err(error) => self.feed(Input::ConnectFailed(&error.to_string())),
                }
            }
            Output::StartTls { host, verify, minimum_version } => {
                self.flush().await;
                self.start_tls(&host, verify, minimum_version).await;
            }
            Output::Ready(capabilities) => {
                self.idle = true;
                let capabilities = Arc::new(Capabilities { local: self.local, ..capabilities });
                self.capabilities = Some(capabilities.clone());
                self.runtime.input(shard::Input::Ready { session: self.session, capabilities });
            }
            Output::Outcome(outcome) => {
                self.runtime.input(shard::Input::Outcome { session: self.session, outcome });
            }
            Output::Close(end) => {
                self.flush().await;
                return Some(end);
            }
        }
        None
    }

    async fn start_tls(&mut self, host: &Domain, verify: bool, minimum_version: TlsVersion) {
        let Some(stream) = self.stream.take() else { return self.feed(Input::TlsFailed("not connected")) };
        let limit = Duration::from_secs(60);
        let handshake = stream.connect(self.runtime.connector(), host, verify, minimum_version);
        match self.runtime.platform().timeout(limit, handshake).await {
            Some(Ok(stream)) => {
                let facts = stream.facts().unwrap_or_default();
                self.stream = Some(stream);
                self.feed(Input::TlsEstablished(facts));
            }
            Some(Err(error)) => self.feed(Input::TlsFailed(&error.to_string())),
            None => self.feed(Input::TlsFailed("the TLS handshake timed out")),
        }
    }

    /// Writes what is pending in as few calls as it takes. A failed write shows as a failed read next.
    async fn flush(&mut self) {
        let Some(stream) = &mut self.stream else { return self.pending.clear() };
        if self.pending.is_empty() {
            return;
        }
        let deadline = self.machine.deadline().unwrap_or(Instant::FAR);
        let limit = deadline.since(self.runtime.platform().now());
        let mut pending = std::mem::take(&mut self.pending);
        let write = async {
            write_all(stream, &mut pending).await?;
            stream.flush().await
        };
        let failure = match self.runtime.platform().timeout(limit, write).await {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(Some(error.to_string())),
            None => Some(None),
        };
        pending.clear();
        self.pending = pending;
        match failure {
            None => {}
            Some(Some(error)) => self.feed(Input::Reset(&error)),
            Some(None) => self.feed(Input::Timeout),
        }
    }

    async fn wait(&mut self, buffer: &mut [u8]) -> Woken {
        let platform = self.runtime.platform();
        let deadline = self.machine.deadline().unwrap_or(Instant::FAR);
        let commands = (self.idle || !self.commands.is_empty()).then_some(&self.commands);
        let command = async {
            match commands {
                Some(commands) => Woken::Command(commands.recv().await.ok()),
                None => std::future::pending().await,
            }
        };
        let sleep = async {
            platform.sleep_until(deadline).await;
            Woken::Deadline
        };
        let stream = self.stream.as_mut();
        let read = async {
            match stream {
                Some(stream) => Woken::Read(stream.read(buffer).await),
                None => std::future::pending().await,
            }
        };
        or(command, or(read, sleep)).await
    }

    /// Obeys `command` and those that came with it, so that they share a write. After one that took its time for a signature
    /// the rest waits: the write is not held up for it, nor are the other tasks.
    async fn obey(&mut self, command: SessionCommand) {
        let mut next = Some(command);
        let mut is_some_unsigned = false;
        let mut began = self.runtime.platform().now();
        while let Some(command) = next {
            match command {
                SessionCommand::Transact(transact) => is_some_unsigned |= !self.transact(&transact),
                SessionCommand::Quit => self.feed(Input::Quit),
            }
            if self.commands.is_empty() {
                break;
            }
            let now = self.runtime.platform().now();
            if now.since(began) >= SIGNATURE_SLOW {
                self.runtime.platform().yield_now().await;
                break;
            }
            began = now;
            next = self.commands.try_recv().ok();
        }
        if let Some(capabilities) = self.capabilities.clone().filter(|_| is_some_unsigned && self.idle) {
            self.runtime.input(shard::Input::Ready { session: self.session, capabilities });
        }
    }

    /// Renders, signs and begins a transaction; what cannot be signed (`false`) ends as a transient failure of our own.
    fn transact(&mut self, transact: &Transact) -> bool {
        let Some(capabilities) = &self.capabilities else { return true };
        let at = self.runtime.platform().timestamp();
        match self.runtime.signer().transaction(transact, capabilities, at) {
            Ok(transaction) => {
                self.idle = false;
                self.feed(Input::Transaction(transaction));
                true
            }
            Err(error) => {
                tracing::error!(message = %transact.job.id, %error, "cannot sign");
                let outcome = unsigned(transact, &error.to_string());
                self.runtime.input(shard::Input::Outcome { session: self.session, outcome });
                false
            }
        }
    }
}

/// Writes all of these pieces, many a call.
async fn write_all(stream: &mut (impl AsyncWrite + Unpin), mut pieces: &mut [Bytes]) -> io::Result<()> {
    while !pieces.is_empty() {
        let slices: SmallVec<[IoSlice; PIECES_AT_ONCE]> =
            pieces.iter().take(PIECES_AT_ONCE).map(|piece| IoSlice::new(piece)).collect();
        let mut written = poll_fn(|cx| Pin::new(&mut *stream).poll_write_vectored(cx, &slices)).await?;
        drop(slices);
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let whole = pieces.iter().take_while(|piece| {
            let is_whole = piece.len() <= written;
            written -= if is_whole { piece.len() } else { 0 };
            is_whole
        });
        let whole = whole.count();
        pieces = &mut pieces[whole..];
        if written > 0 {
            pieces[0].advance(written);
        }
    }
    Ok(())
}

fn unsigned(transact: &Transact, why: &str) -> postrail_core::egress::TransactionOutcome {
    use postrail_core::egress::{Phase, RecipientOutcome, Scope, TransactionOutcome, Verdict};
    use postrail_core::smtp::reply::Reply;
    let outcome = RecipientOutcome {
        verdict: Verdict::Transient,
        scope: Scope::Transaction,
        phase: Phase::Sign,
        reply: Reply::enhanced(451, 3, 0, why),
        maybe_delivered: false,
    };
    TransactionOutcome {
        tag: u64::from(transact.attempt),
        recipients: vec![outcome; transact.recipients.len()],
        session_over: false,
    }
}
