//! Opens and closes the listeners of a shard as each snapshot says, accepts connections and gives each a task of its own.
//!
//! ```text
//! snapshot, drain, retry -> Keeper --opens--> socket of this shard --accept--> session, under a Door
//! ```
//!
//! Invariants worth naming: a listener that cannot be opened says why (`Ports`) and keeps no other from it; sessions whose
//! door is closed finish their transaction and are told 421 4.3.2; an address stays open over every change but of itself.
//! Absent here: which listeners a host is to have (`core::intake::listeners`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_channel::{Receiver, Sender};
use futures_lite::future::or;
use futures_util::io::AsyncWriteExt;
use postrail_core::base::{Instant, Map, MapSeed, Random};
use postrail_core::intake::listeners::{Wanted, wanted};
use postrail_core::smtp::Reply;
use postrail_schema::limits::{INTAKE_SESSIONS_MAX, INTAKE_SESSIONS_PER_PEER_MAX, LISTENER_RETRY, REFUSALS_MAX};
use postrail_schema::listener::{Listener as Record, ListenerProtocol, ListenerTls};

use super::ports::{Clients, Connected, Full};
use super::{rest, smtp};
use crate::platform::{Listener, Net, Platform, Stream};
use crate::shard::Runtime;
use crate::tls::{Acceptor, ServerIdentity, TlsError};

/// Where the certificates are that listeners name, in the data folder: `NAME.pem` and `NAME.key`.
const CERTIFICATES: &str = "certificates";
/// How soon a listener is tried again whose address others are about to leave.
const RETRY_SOON: Duration = Duration::from_millis(100);
/// How long a client that is refused may take to hear why.
const REFUSAL_LIMIT: Duration = Duration::from_secs(2);

/// What those are told who submit at a host that an operator has emptied.
pub(super) const DRAINED: &str = "This host takes no mail any more: submit at another";

/// What a connection was accepted under.
pub struct Door {
    pub listener: Record,
    pub acceptor: Option<Acceptor>,
    closed: Cell<bool>,
    clients: Arc<Clients>,
    /// When the files of its certificate were written.
    certificate: Option<SystemTime>,
}

impl Door {
    /// Whether sessions are to end: the listener is gone, or another one now.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }
}

/// Sessions by peer, shared by all listeners of a shard.
#[derive(Clone)]
struct Peers {
    sessions: Rc<RefCell<Map<IpAddr, usize>>>,
    refusals: Rc<Cell<usize>>,
}

impl Peers {
    fn new(seed: u64) -> Self {
        let sessions = Rc::new(RefCell::new(MapSeed::new(&mut Random::new(seed)).map()));
        Self { sessions, refusals: Rc::default() }
    }

    fn enter(&self, peer: IpAddr) -> bool {
        let mut peers = self.sessions.borrow_mut();
        let count = peers.entry(peer).or_insert(0);
        if *count >= INTAKE_SESSIONS_PER_PEER_MAX {
            return false;
        }
        *count += 1;
        true
    }

    fn leave(&self, peer: IpAddr) {
        let mut peers = self.sessions.borrow_mut();
        if let Some(count) = peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&peer);
            }
        }
    }
}

/// A listener that could not be opened.
#[derive(Debug)]
pub struct Unopened {
    pub listener: Record,
    pub error: io::Error,
}

/// See the module head.
pub struct Keeper<P: Platform> {
    runtime: Runtime<P>,
    peers: Peers,
    open: BTreeMap<SocketAddr, Open>,
}

/// A socket that accepts; it ends with the sender.
struct Open {
    door: Rc<RefCell<Rc<Door>>>,
    _until: Sender<()>,
}

impl<P: Platform> Keeper<P> {
    pub fn new(runtime: Runtime<P>) -> Self {
        let peers = Peers::new(runtime.platform().entropy());
        Self { runtime, peers, open: BTreeMap::new() }
    }

    /// Follows the snapshots until the shard drains.
    pub async fn run(mut self, mut failed: usize) {
        let platform = self.runtime.platform().clone();
        let mut soon = 0;
        loop {
            let names_files = self.open.values().any(|open| open.door.borrow().listener.certificate.is_some());
            let again = match (failed > 0, names_files) {
                (true, _) if soon > 0 => platform.now() + RETRY_SOON,
                (true, _) | (_, true) => platform.now() + LISTENER_RETRY,
                (false, false) => Instant::FAR,
            };
            soon = usize::saturating_sub(soon, 1);
            let told = or(async { self.runtime.listeners_may_differ().await }, async {
                platform.sleep_until(again).await;
                false
            });
            if told.await {
                soon = 3;
            }
            if self.runtime.is_draining() {
                return self.close(|_| false);
            }
            failed = self.settle().await.len();
        }
    }

    /// Opens, changes and closes what the snapshot says; gives what could not be.
    pub async fn settle(&mut self) -> Vec<Unopened> {
        let wanted = wanted(&self.runtime.snapshot(), &self.runtime.node().listening);
        let opened: Vec<_> = wanted.iter().filter(|one| one.displaced_by.is_none()).collect();
        self.close(|at| opened.iter().any(|one| one.listener.address == *at));
        let ports = Arc::clone(&self.runtime.node().ports);
        ports.keep(|at, name| wanted.iter().any(|one| one.listener.address == *at && one.listener.name == name));
        let mut unopened = Vec::new();
        for Wanted { listener, displaced_by } in wanted {
            let is_displaced = displaced_by.is_some();
            let done = match displaced_by {
                Some(name) => Err(io::Error::other(format!("the listener {name} has this address"))),
                None => self.open(&listener).await,
            };
            match done {
                Ok(()) => ports.note(&listener, false, None),
                Err(error) => {
                    let is_known = ports.view().iter().any(|port| port.error == Some(error.to_string()));
                    if !is_known {
                        tracing::error!(listener = listener.name, address = %listener.address, %error, "cannot listen");
                    }
                    ports.note(&listener, is_displaced, Some(error.to_string()));
                    unopened.push(Unopened { listener, error });
                }
            }
        }
        unopened
    }

    fn close(&mut self, is_wanted: impl Fn(&SocketAddr) -> bool) {
        let ports = &self.runtime.node().ports;
        self.open.retain(|at, open| {
            let stays = is_wanted(at);
            if !stays {
                open.door.borrow().closed.set(true);
                ports.release(*at);
            }
            stays
        });
    }

    async fn open(&mut self, listener: &Record) -> io::Result<()> {
        let at = listener.address;
        let (acceptor, certificate) = match self.open.get(&at).map(|open| open.door.borrow().clone()) {
            Some(door) if door.listener == *listener && door.certificate == self.written(listener).await => {
                return Ok(());
            }
            _ => (self.acceptor(listener).await?, self.written(listener).await),
        };
        let door = |clients| {
            let listener = listener.clone();
            Rc::new(Door { listener, acceptor, closed: Cell::new(false), clients, certificate })
        };
        if let Some(open) = self.open.get(&at) {
            let former = open.door.borrow().clone();
            if !former.listener.is_alike(listener) {
                former.closed.set(true);
            }
            open.door.replace(door(Arc::clone(&former.clients)));
            return Ok(());
        }
        let platform = self.runtime.platform().clone();
        let ports = Arc::clone(&self.runtime.node().ports);
        let (socket, clients) = ports.claim(at, |is_first| match is_first {
            true => platform.net().listen_first(at),
            false => platform.net().listen(at),
        })?;
        let (until, ended) = async_channel::bounded(1);
        let open = Open { door: Rc::new(RefCell::new(door(clients))), _until: until };
        let accepting = accept(self.runtime.clone(), socket, Rc::clone(&open.door), ended, self.peers.clone());
        platform.spawn("listener", accepting);
        self.open.insert(at, open);
        Ok(())
    }

    /// What its clients shake hands with.
    async fn acceptor(&self, listener: &Record) -> io::Result<Option<Acceptor>> {
        let node = self.runtime.node();
        if listener.tls == ListenerTls::Off {
            return Ok(None);
        }
        if listener.certificate.is_none() && listener.minimum_version.is_default() {
            return Ok(node.acceptor.clone());
        }
        let (name, minimum) = (listener.certificate.clone(), listener.minimum_version);
        let (own, folder) = (node.identity.clone(), node.data.join(CERTIFICATES));
        let made = self.runtime.platform().run_blocking(move || {
            let config = match (name, own) {
                (Some(name), _) => {
                    let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
                    ServerIdentity::load(&chain, &key)?.server_config(minimum)?
                }
                (None, Some(own)) => own.server_config(minimum)?,
                (None, None) => return Ok(None),
            };
            Ok::<_, TlsError>(Some(Acceptor::new(config)))
        });
        made.await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            io::Error::other(format!("{error}{cause}"))
        })
    }

    /// When the files of its certificate were written last.
    async fn written(&self, listener: &Record) -> Option<SystemTime> {
        let name = listener.certificate.clone()?;
        let folder = self.runtime.node().data.join(CERTIFICATES);
        let look = move || {
            let written = |end: &str| {
                let file: &Path = &folder.join(format!("{name}.{end}"));
                file.metadata().and_then(|facts| facts.modified()).ok()
            };
            written("pem").max(written("key"))
        };
        self.runtime.platform().run_blocking(look).await
    }
}

/// Accepts until the listener is closed.
async fn accept<P: Platform>(
    runtime: Runtime<P>,
    socket: <P::Net as Net>::Listener,
    door: Rc<RefCell<Rc<Door>>>,
    ended: Receiver<()>,
    peers: Peers,
) {
    let platform = runtime.platform().clone();
    loop {
        let accepted = or(async { Some(socket.accept().await) }, async {
            let _ = ended.recv().await;
            None
        });
        match accepted.await {
            None => return,
            Some(Ok(stream)) => {
                let door = Rc::clone(&door.borrow());
                admit(&runtime, stream, door, &peers);
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                platform.sleep_until(platform.now() + Duration::from_millis(50)).await;
            }
        }
    }
}

fn admit<P: Platform>(runtime: &Runtime<P>, stream: <P::Net as Net>::Stream, door: Rc<Door>, peers: &Peers) {
    let Some(peer) = stream.peer() else { return };
    let networks = &door.listener.networks;
    if !networks.is_empty() && !networks.iter().any(|network| network.contains(peer.ip())) {
        let reply = Reply::enhanced(554, 7, 1, "Your address may not use this service");
        return refuse(runtime, stream, &door, peers, &reply);
    }
    // REST says it itself, with words.
    if runtime.is_drained() && door.listener.protocol != ListenerProtocol::Rest {
        return refuse(runtime, stream, &door, peers, &Reply::enhanced(421, 3, 2, DRAINED));
    }
    let connected = match door.clients.enter(peer.ip(), &door.listener.limits) {
        Ok(connected) => connected,
        Err(Full::Listener) => {
            return refuse(runtime, stream, &door, peers, &Reply::enhanced(421, 3, 2, "Too many connections"));
        }
        Err(Full::Client) => {
            let reply = Reply::enhanced(421, 7, 0, "Too many connections from your address");
            return refuse(runtime, stream, &door, peers, &reply);
        }
    };
    // REST says it by itself, in the form that its clients read.
    if let Some(withheld) = runtime.withheld().filter(|_| door.listener.protocol != ListenerProtocol::Rest) {
        return refuse(runtime, stream, &door, peers, &Reply::enhanced(421, 3, 2, withheld.refusal()));
    }
    if !peers.enter(peer.ip()) {
        return;
    }
    if runtime.count_intake_session(true) > INTAKE_SESSIONS_MAX {
        runtime.count_intake_session(false);
        peers.leave(peer.ip());
        return;
    }
    let guard = Admitted { runtime: runtime.clone(), peers: peers.clone(), peer: peer.ip(), _connected: connected };
    let inner = runtime.clone();
    runtime.platform().spawn("intake session", async move {
        let _guard = guard;
        match door.listener.protocol {
            ListenerProtocol::Smtp | ListenerProtocol::Smtps => smtp::run(inner, stream, peer, door).await,
            ListenerProtocol::Rest => rest::run(inner, stream, peer, door).await,
        }
    });
}

/// Closes a connection; where SMTP is spoken in clear from the start, the client hears why.
fn refuse<P: Platform>(
    runtime: &Runtime<P>,
    mut stream: <P::Net as Net>::Stream,
    door: &Door,
    peers: &Peers,
    reply: &Reply,
) {
    if door.listener.protocol != ListenerProtocol::Smtp || peers.refusals.get() >= REFUSALS_MAX {
        return;
    }
    peers.refusals.set(peers.refusals.get() + 1);
    let mut words = Vec::new();
    reply.write_wire(&mut words);
    let (platform, refusals) = (runtime.platform().clone(), Rc::clone(&peers.refusals));
    runtime.platform().spawn("refusal", async move {
        let told = async {
            stream.write_all(&words).await?;
            stream.flush().await?;
            stream.close().await
        };
        let _ = platform.timeout(REFUSAL_LIMIT, told).await;
        refusals.set(refusals.get() - 1);
    });
}

/// Counts a session out when its task ends, also by a panic.
struct Admitted<P: Platform> {
    runtime: Runtime<P>,
    peers: Peers,
    peer: IpAddr,
    _connected: Connected,
}

impl<P: Platform> Drop for Admitted<P> {
    fn drop(&mut self) {
        self.runtime.count_intake_session(false);
        self.peers.leave(self.peer);
    }
}
