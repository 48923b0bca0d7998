//! One session with a receiving site: walks its targets until one is ready, runs transactions on it, tells outcomes.
//!
//! ```text
//! connect target 1 -> greeting, EHLO, TLS -> ready -> transaction -> ready ... -> QUIT -> Close(Done)
//!    | fails            | fails                         | 421, lost, protocol error
//!    v                  v                               v
//! target 2 ...      target 2 ...                     outcome, Close(Done)
//!    | none left
//!    v
//! Close(Failed)
//! ```
//!
//! Invariants worth naming:
//! - every [`Input::Transaction`] gives exactly one [`Output::Outcome`], in whatever state it comes;
//! - [`Output::Close`] comes once; after it only transactions that came too late are answered;
//! - once a target was ready no other is tried: what was learned is in the outcomes;
//! - a host whose TLS fails is tried once more in plaintext, under the opportunistic policy only;
//! - a session is ready only on a connection that meets its policy.
//!
//! Deliberately absent: sockets and handshakes (the pump's), the idle limit (the pump's, by [`Input::Quit`]), and the
//! conversion of 8-bit bodies (`sign`'s, which looks at [`Capabilities`]).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use postrail_schema::limits::CONNECTION_MAILS_MAX;

use super::outcome::{RecipientOutcome, Scope, TransactionOutcome, Verdict, classify, may_fall_back};
use super::targets::Target;
use super::tls_policy::{TlsLevel, TlsPolicy, TlsVersion, start_tls, unmet};
use crate::base::Instant;
use crate::mail::{Domain, TlsFacts};
use crate::smtp::Reply;
use crate::smtp::client::{self, Client, ClientConfig, End, Fault, Phase, Settled, Timeouts, Transaction};

/// How a session reaches its site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathConfig {
    /// The name that EHLO says.
    pub ehlo_name: String,
    /// The address that the pump binds; `None` or unspecified: the system's choice.
    pub source: Option<IpAddr>,
    /// In the order to try, as [`super::targets`] makes it.
    pub targets: Vec<Target>,
    pub tls: TlsPolicy,
    /// Transactions until the session ends by itself; 0 counts as 1.
    pub mails_max: u32,
    pub timeouts: Timeouts,
}

impl PathConfig {
    /// A path with the default limits and opportunistic TLS, from an address of the system's choice.
    pub fn new(ehlo_name: impl Into<String>, targets: Vec<Target>) -> Self {
        Self {
            ehlo_name: ehlo_name.into(),
            source: None,
            targets,
            tls: TlsPolicy::default(),
            mails_max: CONNECTION_MAILS_MAX,
            timeouts: Timeouts::DEFAULT,
        }
    }
}

/// What happened. What is about a connection concerns the one that the last [`Output::Connect`] asked for.
#[derive(Debug)]
pub enum Input<'a> {
    Connected,
    /// Says why, as the system does.
    ConnectFailed(&'a str),
    Bytes(&'a [u8]),
    /// The receiver closed its side.
    Eof,
    /// The connection broke; says how.
    Reset(&'a str),
    TlsEstablished(TlsFacts),
    TlsFailed(&'a str),
    /// [`Session::deadline`] has come. Whatever the pump was doing with the connection is given up.
    Timeout,
    /// Wanted after [`Output::Ready`], several if there are; see [`client::Input::Transaction`].
    Transaction(Transaction),
    /// End in order, after the transactions that were taken.
    Quit,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Drop the connection there is, if any, and connect.
    Connect(Target),
    /// Start the handshake with `host` as the server's name, of no earlier version; `verify`: fail unless the certificate
    /// is valid for the name.
    StartTls {
        host: Domain,
        verify: bool,
        minimum_version: TlsVersion,
    },
    /// Write it, in order; may be joined with what follows, and is written before anything is read.
    Send(Bytes),
    /// Idle: wants one [`Input::Transaction`] or several, or [`Input::Quit`].
    Ready(Capabilities),
    Outcome(TransactionOutcome),
    /// Drop the connection there is; the session is over.
    Close(SessionEnd),
}

/// What the receiver on the other side can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    pub pipelining: bool,
    pub chunking: bool,
    pub eight_bit_mime: bool,
    pub smtp_utf8: bool,
    pub dsn: bool,
    /// The largest message that it takes, octets; `None`: not told.
    pub size: Option<u64>,
    pub enhanced_status: bool,
    /// `None`: plaintext.
    pub tls: Option<TlsFacts>,
    pub host: Domain,
    pub address: SocketAddr,
    /// Our own address on the connection, where the pump tells it.
    pub local: Option<IpAddr>,
}

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionEnd {
    /// After a target was ready, or told to quit: all that was learned is in the outcomes.
    Done,
    /// No target could be used: the caller defers what waits on this path.
    Failed {
        /// [`Scope::Site`], or [`Scope::Source`] where the receiver refused us.
        scope: Scope,
        /// Always [`Verdict::Transient`].
        verdict: Verdict,
        /// Of the target that came farthest, as are the reply, the host and the address.
        phase: Phase,
        reply: Reply,
        host: Option<Domain>,
        address: Option<SocketAddr>,
    },
}

/// One session.
#[derive(Debug)]
pub struct Session {
    config: PathConfig,
    /// The target in use: an index into the configuration's.
    target: usize,
    stage: Stage,
    /// TLS with the target in use has failed.
    tls_failed: bool,
    tls: Option<TlsFacts>,
    /// The failure that came farthest.
    failure: Option<Failure>,
    /// Transactions taken.
    mails: u32,
    /// Time of the last input.
    now: Instant,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum Stage {
    Connecting { since: Instant },
    Connected(Box<Client>),
    Over,
}

#[derive(Debug)]
struct Failure {
    phase: Phase,
    reply: Reply,
    target: usize,
}

impl Session {
    /// A session that begins with its first target at `now`.
    pub fn new(config: PathConfig, now: Instant) -> Self {
        let mut session = Self {
            config,
            target: 0,
            stage: Stage::Over,
            tls_failed: false,
            tls: None,
            failure: None,
            mails: 0,
            now,
            outputs: VecDeque::new(),
        };
        session.connect();
        session
    }

    /// Takes what happened. [`Self::poll`] until `None` afterwards.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.now = now;
        match &mut self.stage {
            Stage::Connecting { .. } => self.handle_connecting(input),
            Stage::Connected(_) => self.handle_connected(input),
            Stage::Over => {
                if let Input::Transaction(transaction) = input {
                    self.refuse(&transaction, true);
                }
            }
        }
    }

    /// The next thing to be done. A message is handed out in chunks, one a call.
    pub fn poll(&mut self) -> Option<Output> {
        let spent = self.mails >= self.mails_max();
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            let Stage::Connected(client) = &mut self.stage else { return None };
            match client.poll()? {
                client::Output::Send(bytes) => return Some(Output::Send(bytes)),
                client::Output::StartTls => {
                    let host = self.config.targets[self.target].host.clone();
                    let verify = self.config.tls.level == TlsLevel::Verified;
                    let minimum_version = self.config.tls.minimum_version;
                    return Some(Output::StartTls { host, verify, minimum_version });
                }
                client::Output::Ready if spent => client.handle(self.now, client::Input::Quit),
                client::Output::Ready => return Some(Output::Ready(self.capabilities())),
                client::Output::Outcome { tag, recipients, over } => {
                    return Some(Output::Outcome(self.outcome(tag, recipients, over)));
                }
                client::Output::Closed(End::Done) => self.close(SessionEnd::Done),
                client::Output::Closed(End::Failed { phase, reply }) => self.target_failed(phase, reply),
            }
        }
    }

    /// When [`Input::Timeout`] is due. To be asked when [`Self::poll`] has nothing more, and before each chunk is written.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Connecting { since } => Some(*since + self.config.timeouts.connect),
            Stage::Connected(client) => client.deadline(),
            Stage::Over => None,
        }
    }

    /// The name of the state, for spans and the operator.
    pub fn state(&self) -> &'static str {
        match &self.stage {
            Stage::Connecting { .. } => "connecting",
            Stage::Connected(client) => client.state().name(),
            Stage::Over => "over",
        }
    }

    /// The target in use, or the last one.
    pub fn target(&self) -> Option<&Target> {
        self.config.targets.get(self.target).or(self.config.targets.last())
    }

    fn handle_connecting(&mut self, input: Input<'_>) {
        match input {
            Input::Connected => {
                let config = ClientConfig {
                    ehlo_name: self.config.ehlo_name.clone(),
                    start_tls: start_tls(&self.config.tls, self.tls_failed),
                    timeouts: self.config.timeouts,
                };
                self.stage = Stage::Connected(Box::new(Client::new(config, self.now)));
            }
            Input::ConnectFailed(why) => {
                let refused = why.to_ascii_lowercase().contains("refused");
                let fault = if refused { Fault::ConnectionRefused } else { Fault::ConnectFailed };
                self.target_failed(Phase::Connect, fault.reply(why));
            }
            Input::Timeout => self.target_failed(Phase::Connect, Fault::Timeout.reply("no connection in time")),
            Input::Transaction(transaction) => self.refuse(&transaction, false),
            Input::Quit => self.close(SessionEnd::Done),
            Input::Bytes(_) | Input::Eof | Input::Reset(_) | Input::TlsEstablished(_) | Input::TlsFailed(_) => {}
        }
    }

    fn handle_connected(&mut self, input: Input<'_>) {
        let Stage::Connected(client) = &mut self.stage else { return };
        let input = match input {
            Input::Connected | Input::ConnectFailed(_) => return,
            Input::Bytes(bytes) => client::Input::Bytes(bytes),
            Input::Eof => client::Input::Eof,
            Input::Reset(how) => client::Input::Reset(how),
            Input::TlsEstablished(facts) => match unmet(&self.config.tls, Some(&facts)) {
                Some(why) => client::Input::TlsFailed(why),
                None => {
                    if client.state() == client::State::Handshake {
                        self.tls = Some(facts);
                    }
                    client::Input::TlsEstablished
                }
            },
            Input::TlsFailed(why) => client::Input::TlsFailed(why),
            Input::Timeout => client::Input::Timeout,
            Input::Transaction(transaction) => {
                if client.takes_transaction() {
                    self.mails += 1;
                }
                client::Input::Transaction(transaction)
            }
            Input::Quit => client::Input::Quit,
        };
        client.handle(self.now, input);
    }

    fn connect(&mut self) {
        self.tls = None;
        match self.config.targets.get(self.target) {
            Some(target) => {
                self.outputs.push_back(Output::Connect(target.clone()));
                self.stage = Stage::Connecting { since: self.now };
            }
            None => {
                let end = self.failed();
                self.close(end);
            }
        }
    }

    fn target_failed(&mut self, phase: Phase, reply: Reply) {
        if !self.tls_failed && may_fall_back(&self.config.tls, phase, &reply) {
            self.tls_failed = true;
            return self.connect();
        }
        if self.failure.as_ref().is_none_or(|farthest| farthest.phase <= phase) {
            self.failure = Some(Failure { phase, reply, target: self.target });
        }
        self.tls_failed = false;
        self.target += 1;
        self.connect();
    }

    fn failed(&mut self) -> SessionEnd {
        let verdict = Verdict::Transient;
        let Some(Failure { phase, reply, target }) = self.failure.take() else {
            let reply = Fault::NoTargets.reply("the site has no address that this source could reach");
            return SessionEnd::Failed {
                scope: Scope::Site,
                verdict,
                phase: Phase::Connect,
                reply,
                host: None,
                address: None,
            };
        };
        // Every host failed, so what reached one host reaches the site.
        let (_, scope) = classify(phase, &reply);
        let scope = scope.max(Scope::Site);
        let Target { host, address } = self.config.targets[target].clone();
        SessionEnd::Failed { scope, verdict, phase, reply, host: Some(host), address: Some(address) }
    }

    fn close(&mut self, end: SessionEnd) {
        self.stage = Stage::Over;
        self.outputs.push_back(Output::Close(end));
    }

    fn refuse(&mut self, transaction: &Transaction, over: bool) {
        if let client::Output::Outcome { tag, recipients, over } = client::refused(transaction, over) {
            let outcome = self.outcome(tag, recipients, over);
            self.outputs.push_back(Output::Outcome(outcome));
        }
    }

    fn outcome(&self, tag: u64, recipients: Vec<Settled>, over: bool) -> TransactionOutcome {
        let dsn = match &self.stage {
            Stage::Connected(client) => client.extensions().dsn,
            Stage::Connecting { .. } | Stage::Over => false,
        };
        let recipients = recipients.into_iter().map(|settled| RecipientOutcome::new(settled, dsn)).collect();
        TransactionOutcome { tag, recipients, session_over: over || self.mails >= self.mails_max() }
    }

    fn mails_max(&self) -> u32 {
        self.config.mails_max.max(1)
    }

    fn capabilities(&self) -> Capabilities {
        let Stage::Connected(client) = &self.stage else { unreachable!("only a connected client is ready") };
        let Target { host, address } = self.config.targets[self.target].clone();
        let offered = client.extensions();
        Capabilities {
            pipelining: offered.pipelining,
            chunking: offered.chunking,
            eight_bit_mime: offered.eight_bit_mime,
            smtp_utf8: offered.smtp_utf8,
            dsn: offered.dsn,
            size: offered.size_max,
            enhanced_status: offered.enhanced_status,
            tls: self.tls.clone(),
            host,
            address,
            local: None,
        }
    }
}

#[cfg(test)]
mod tests;
