//! Scripted receivers: SMTP servers with a [`Behaviour`] each, and the name server whose MX records lead to them.
//!
//! ```text
//! resolver --MX d7.demo.test--> zone --mx.demo.test A 127.0.0.1--> receiver (behaviour) --> tally
//! ```
//!
//! All receivers listen at one port and differ by address, since a sender's destination port is one for a route.
//! Everything ends when the [`Sink`] is dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::stream::{self, Stream};
use crate::tally::Tally;

mod behaviour;
mod session;
mod zone;

pub use behaviour::{Behaviour, Memory, Verdict};
pub use session::ID_HEADER;
use session::{Flow, Script, Session};
use zone::NameServer;
pub use zone::Zone;

/// Time without input before a session is dropped.
const SESSION_IDLE: Duration = Duration::from_secs(300);
/// Room that is made for one read, octets.
const READ_BYTES: usize = 64 * 1024;

/// One receiver to start.
#[derive(Clone, Debug)]
pub struct ReceiverPlan {
    /// The domain whose mail it receives, with all below it.
    pub zone: String,
    pub address: IpAddr,
    pub behaviour: Behaviour,
    /// Whether it is where the load's senders are: mails to it are reports.
    pub is_sender: bool,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct SinkPlan {
    pub receivers: Vec<ReceiverPlan>,
    /// The port of all receivers; 0 for some free one.
    pub port: u16,
    /// Where the name server listens; port 0 for some free one.
    pub name_server: SocketAddr,
}

impl Default for SinkPlan {
    /// One receiver for `demo.test` that takes everything, on free loopback ports.
    fn default() -> Self {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            receivers: vec![ReceiverPlan {
                zone: "demo.test".into(),
                address,
                behaviour: Behaviour::default(),
                is_sender: false,
            }],
            port: 0,
            name_server: SocketAddr::new(address, 0),
        }
    }
}

/// Running receivers and their name server.
pub struct Sink {
    port: u16,
    name_server: SocketAddr,
    sessions: Arc<AtomicU64>,
    is_released: Arc<AtomicBool>,
    /// Ends all tasks when dropped.
    _tasks: JoinSet<()>,
}

/// One running receiver.
struct Receiver {
    name: String,
    behaviour: Behaviour,
    memory: Mutex<Memory>,
    tally: Arc<Tally>,
    open: AtomicUsize,
    sessions: Arc<AtomicU64>,
    is_released: Arc<AtomicBool>,
    is_sender: bool,
    acceptor: Option<TlsAcceptor>,
}

impl Sink {
    /// Starts the receivers and the name server of `plan` on the current tokio runtime; deliveries go to `tally`.
    ///
    /// # Errors
    /// A zone that is no domain name, or a port that cannot be bound.
    pub async fn start(plan: SinkPlan, tally: Arc<Tally>) -> io::Result<Self> {
        let mut tasks = JoinSet::new();
        let mut port = plan.port;
        let sessions = Arc::new(AtomicU64::new(0));
        let is_released = Arc::new(AtomicBool::new(false));
        let mut zones = Vec::with_capacity(plan.receivers.len());
        for receiver in plan.receivers {
            zones.push(Zone::new(&receiver.zone, receiver.address)?);
            let listener = TcpListener::bind((receiver.address, port)).await?;
            port = listener.local_addr()?.port();
            let name = format!("mx.{}", receiver.zone);
            let acceptor =
                receiver.behaviour.offers_starttls.then(|| stream::acceptor(vec![name.clone()])).transpose()?;
            let receiver = Arc::new(Receiver {
                name,
                behaviour: receiver.behaviour,
                memory: Mutex::new(Memory::new(Instant::now())),
                tally: tally.clone(),
                open: AtomicUsize::new(0),
                sessions: sessions.clone(),
                is_released: is_released.clone(),
                is_sender: receiver.is_sender,
                acceptor,
            });
            tasks.spawn(receiver.listen(listener));
        }
        let server = NameServer::bind(plan.name_server).await?;
        let name_server = server.address();
        tasks.spawn(server.serve(zones.into()));
        Ok(Self { port, name_server, sessions, is_released, _tasks: tasks })
    }

    /// The port of every receiver.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the name server answers, over UDP and TCP.
    pub fn name_server(&self) -> SocketAddr {
        self.name_server
    }

    /// Receivers that hold take mail from now on.
    pub fn release(&self) {
        self.is_released.store(true, Ordering::Release);
    }

    /// Sessions that were opened so far, at all receivers.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }
}

impl Receiver {
    async fn listen(self: Arc<Self>, listener: TcpListener) {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(sessions.spawn(self.clone().serve(stream))),
                    // Out of descriptors, most likely: open sessions will end.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                Some(_) = sessions.join_next() => {}
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let holds = self.behaviour.holds && !self.is_released.load(Ordering::Acquire);
        let over = self.behaviour.connections_max.is_some_and(|limit| open > limit);
        // How a session ends is the sender's to judge; the tally holds what was delivered.
        let _ = match (holds, over) {
            (true, _) => turn_away(stream, b"421 4.3.2 not now, come back later\r\n").await,
            (_, true) => turn_away(stream, b"421 4.7.0 too many connections from you\r\n").await,
            _ => self.converse(stream).await,
        };
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    async fn converse(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = Stream::Plain(stream);
        self.wait_to_reply().await;
        stream.send(format!("220 {} ESMTP\r\n", self.name).as_bytes()).await?;
        let mut session = Session::default();
        let mut output = Vec::with_capacity(512);
        loop {
            session.input().reserve(READ_BYTES);
            let read = tokio::time::timeout(SESSION_IDLE, stream.read_buf(session.input())).await;
            if read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0 {
                return Ok(());
            }
            output.clear();
            let script = Script {
                name: &self.name,
                behaviour: &self.behaviour,
                memory: &self.memory,
                tally: &self.tally,
                is_sender: self.is_sender,
                may_start_tls: self.acceptor.is_some() && !stream.is_tls(),
            };
            let flow = session.advance(&script, Instant::now(), &mut output);
            if !output.is_empty() {
                self.wait_to_reply().await;
                stream.send(&output).await?;
            }
            match (flow, &self.acceptor) {
                (Flow::Close, _) => return stream.shutdown().await,
                (Flow::StartTls, Some(acceptor)) => {
                    let handshake = stream.into_server_tls(acceptor);
                    let secured = tokio::time::timeout(SESSION_IDLE, handshake).await;
                    stream = secured.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                    session = Session::default();
                }
                _ => {}
            }
        }
    }

    async fn wait_to_reply(&self) {
        if !self.behaviour.reply_delay.is_zero() {
            tokio::time::sleep(self.behaviour.reply_delay).await;
        }
    }
}

/// Says that there is no service, and closes.
async fn turn_away(mut stream: TcpStream, reply: &[u8]) -> io::Result<()> {
    stream.write_all(reply).await?;
    stream.shutdown().await
}
