//! The configuration store of a fleet: an etcd cluster, 3.4 or later.
//!
//! Calls come from blocking threads; a thread of our own drives the client, which needs tokio. The client is made at the
//! first call that succeeds, so that a process starts while etcd is down. Every call has a timeout, every connection
//! keepalives, and a member without a leader is refused, so that a cut is noticed within seconds.
//!
//! ```text
//! ask a member --> answer
//!      |  no answer in half of what is left of the time (reads), or it says that it cannot
//!      +--> leave it: this call, if it may, and all later ones ask the next member
//! ```
//!
//! What we show to etcd (certificate, password) is read when a connection is made, and where etcd refuses the user that it has
//! known one is made.
//!
//! All calls go to one member until it fails, so that one which takes connections and answers nothing costs one call its
//! patience, and not a third of all calls. A listing has that for each page, since what is configured may take many. A
//! transaction is not sent again where the first may still be under way; where it was refused on the way it is, and a
//! conflict then may be with itself, so that its first error is told.
//!
//! etcd's own bounds: 128 operations and 1.5 MiB a request. A listing is read in pages under one revision; a transaction
//! is never divided, since that would not be one: [`StoreError::TooLarge`] says so. Absent here: making users and roles,
//! compaction, backup (all etcd's operator's).

mod hold;
mod refusal;
mod watch;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{
    AlarmAction, AlarmType, Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, GetResponse,
    Identity, KvClient, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use postrail_schema::limits::{ETCD_OPERATIONS_MAX, ETCD_REQUEST_BYTES_MAX};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{timeout, timeout_at};
use zeroize::Zeroizing;

use super::{ConfigStore, Entry, Guard, Hold, Listing, StoreError, WATCH_EVENTS_MAX, Watch, Write};

/// How to reach etcd.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Such as `http://127.0.0.1:2379`; any member that answers is used.
    pub endpoints: Vec<String>,
    /// The root of all keys, such as `/postrail/main/`.
    pub root: String,
    pub tls: Option<EtcdTls>,
    pub user: Option<(String, EtcdPassword)>,
}

/// The password of a user of etcd.
#[derive(Clone, Debug)]
pub enum EtcdPassword {
    Known(Zeroizing<String>),
    /// The first line of a file, which is read at each connection.
    File(PathBuf),
}

/// Files for TLS to etcd, PEM, which are read at each connection.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// Who signed the members' certificates.
    pub ca: PathBuf,
    /// Our certificate and key, where etcd asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// See the module head. Cheap to clone.
#[derive(Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
    runtime: Handle,
    /// How long a call takes at most, connecting included; of a listing each page.
    pub(super) patience: Duration,
    /// How long a listing takes at most.
    listing: Duration,
    /// Closed with the last clone: the thread that drives the client ends then.
    _open: mpsc::Sender<()>,
}

struct Shared {
    endpoints: Vec<String>,
    root: String,
    wanted: EtcdOptions,
    /// There is TLS, and we show no certificate.
    is_anonymous: bool,
    current: Mutex<Current>,
}

/// The member that is asked.
struct Current {
    /// Among the endpoints.
    member: usize,
    client: Option<Client>,
    /// As the files were when all of them could be read.
    options: ConnectOptions,
}

impl EtcdStore {
    /// Reads the files and begins; nothing is asked of etcd yet.
    ///
    /// # Errors
    /// A file cannot be read, an endpoint is no URL, or no thread can be started.
    pub fn open(options: &EtcdOptions) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(setup("name at least one etcd endpoint"));
        }
        // Its own words would be in the error, too.
        if options.endpoints.iter().any(|endpoint| endpoint.contains('@')) {
            return Err(setup(
                "an endpoint names a user, which every process of this host can read: say --etcd-user and --etcd-password-file",
            ));
        }
        let wanted = if options.tls.is_some() { "https://" } else { "http://" };
        if let Some(other) = options.endpoints.iter().find(|endpoint| !endpoint.starts_with(wanted)) {
            let detail = format!("the endpoint {other} does not begin with {wanted}, as it has to with these options");
            return Err(StoreError::Setup { detail });
        }
        let shared = Shared {
            endpoints: options.endpoints.clone(),
            root: options.root.clone(),
            wanted: options.clone(),
            is_anonymous: options.tls.as_ref().is_some_and(|tls| tls.identity.is_none()),
            // So that hosts that are told the same members do not all ask the first.
            current: Mutex::new(Current {
                member: std::process::id() as usize % options.endpoints.len(),
                client: None,
                options: connect_options(options)?,
            }),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| setup(&format!("no runtime: {error}")))?;
        let handle = runtime.handle().clone();
        let (_open, mut closed) = mpsc::channel::<()>(1);
        let thread = std::thread::Builder::new().name("etcd".to_owned());
        let spawned = thread.spawn(move || {
            runtime.block_on(async {
                // Nothing is ever sent: this returns when the last clone is dropped.
                closed.recv().await;
                // Keys that were let go of just now are given back.
                tokio::time::sleep(RELEASE_TIME).await;
            });
        });
        spawned.map_err(|error| setup(&format!("no thread: {error}")))?;
        Ok(Self { shared: Arc::new(shared), runtime: handle, patience: CALL_TIMEOUT, listing: LISTING_TIMEOUT, _open })
    }

    /// Runs a call on the thread of the client and waits for it.
    fn call<T: Send + 'static, F>(&self, act: &'static str, call: impl FnOnce(Instant) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.call_until(Instant::now() + self.patience, act, call)
    }

    /// As [`call`](Self::call), with another end than that of its patience.
    fn call_until<T: Send + 'static, F>(
        &self,
        until: Instant,
        act: &'static str,
        call: impl FnOnce(Instant) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let call = call(until);
        self.runtime.spawn(async move {
            let result = timeout_at((until + GRACE).into(), call).await;
            // An error means that nobody waits any more.
            let _ = answer.send(result.unwrap_or(Err(StoreError::Timeout { act })));
        });
        let answered = answered.recv().unwrap_or(Err(StoreError::Timeout { act }));
        answered.map_err(|error| match error {
            StoreError::Etcd { source, .. } if refusal::is_full(&source) => StoreError::Full,
            StoreError::Etcd { act, source } => {
                match refusal::refusal(&source, &self.shared.root, self.shared.is_anonymous) {
                    Some(detail) => StoreError::Refused { detail },
                    None => StoreError::Etcd { act, source },
                }
            }
            other => other,
        })
    }

    fn listing(&self, prefix: &str, keys_only: bool) -> Result<Listing, StoreError> {
        let (shared, prefix, patience) = (Arc::clone(&self.shared), prefix.to_owned(), self.patience);
        let list = move |until| async move { shared.list(&prefix, keys_only, patience, until).await };
        self.call_until(Instant::now() + self.listing, "listing", list)
    }
}

impl Shared {
    /// The member that is asked at present, and a client of it; they share one channel that connects, and connects again,
    /// by itself.
    async fn client(&self) -> Result<(usize, Client), StoreError> {
        let mut current = self.current.lock().await;
        let member = current.member;
        if let Some(client) = &current.client {
            return Ok((member, client.clone()));
        }
        // Certificates and passwords are renewed while we run.
        match connect_options(&self.wanted) {
            Ok(options) => current.options = options,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "what is shown to etcd is not read anew; it is shown what was read last");
            }
        }
        let endpoint = [self.endpoints[member].as_str()];
        let made = Client::connect(endpoint, Some(current.options.clone())).await.map_err(failed("connecting"))?;
        Ok((member, current.client.insert(made).clone()))
    }

    /// Asks another member from now on, if `member` is still asked.
    async fn leave(&self, member: usize) {
        let mut current = self.current.lock().await;
        if current.member == member {
            current.member = (member + 1) % self.endpoints.len();
            current.client = None;
        }
    }

    /// Where etcd does not know us any more, the next call connects anew, with what the files have then.
    async fn refused(&self, member: usize, error: &StoreError) {
        if etcd_error(error).is_some_and(refusal::is_of_user) {
            self.leave(member).await;
        }
    }

    /// One read of one member after the other, until one answers or it is `until`.
    async fn read<T, F>(&self, act: &'static str, until: Instant, read: impl Fn(KvClient) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut left = self.endpoints.len();
        loop {
            left -= 1;
            let member = self.current.lock().await.member;
            let patience = until.saturating_duration_since(Instant::now()) / if left > 0 { 2 } else { 1 };
            let attempt = async { read(self.kv().await?).await.map_err(failed(act)) };
            let error = match timeout(patience, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if !is_unavailable(&error) => {
                    self.refused(member, &error).await;
                    return Err(error);
                }
                Ok(Err(error)) => error,
                Err(_) => StoreError::Timeout { act },
            };
            self.leave(member).await;
            if left == 0 {
                return Err(error);
            }
        }
    }

    async fn kv(&self) -> Result<KvClient, StoreError> {
        Ok(self.client().await?.1.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    fn relative(&self, key: &[u8]) -> Result<String, StoreError> {
        let key = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.root));
        Ok(key.ok_or(StoreError::Garbled { what: "a key that was not asked for" })?.to_owned())
    }

    fn entries(&self, response: &mut GetResponse, to: &mut Vec<Entry>) -> Result<(), StoreError> {
        for pair in response.take_kvs() {
            let revision = unsigned(pair.mod_revision())?;
            let key = self.relative(pair.key())?;
            to.push(Entry { key, value: pair.value().to_vec(), revision });
        }
        Ok(())
    }

    /// Each page in `patience`, and all of them `until` then.
    async fn list(
        &self,
        prefix: &str,
        keys_only: bool,
        patience: Duration,
        until: Instant,
    ) -> Result<Listing, StoreError> {
        'again: loop {
            let from = self.full(prefix);
            let end = prefix_end(&from);
            let (mut next, mut listing) = (from.into_bytes(), Listing { revision: 0, entries: Vec::new() });
            loop {
                let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_KEYS);
                if keys_only {
                    options = options.with_keys_only();
                }
                if listing.revision > 0 {
                    options = options.with_revision(signed(listing.revision)?);
                }
                let (key, options) = (&next, &options);
                let page = |mut kv: KvClient| async move { kv.get(key.clone(), Some(options.clone())).await };
                let mut page = match self.read("listing", until.min(Instant::now() + patience), page).await {
                    Ok(page) => page,
                    Err(error) if listing.revision > 0 && is_compacted(&error) => continue 'again,
                    Err(error) => return Err(error),
                };
                if listing.revision == 0 {
                    listing.revision = header_revision(page.header())?;
                }
                let Some(last) = page.kvs().last().filter(|_| page.more()).map(|pair| pair.key().to_vec()) else {
                    self.entries(&mut page, &mut listing.entries)?;
                    return Ok(listing);
                };
                self.entries(&mut page, &mut listing.entries)?;
                next = last;
                next.push(0);
            }
        }
    }

    async fn get(&self, keys: &[String], until: Instant) -> Result<Listing, StoreError> {
        let reads: Vec<_> = keys.iter().map(|key| TxnOp::get(self.full(key), None)).collect();
        let reads = &Txn::new().and_then(reads);
        let read = |mut kv: KvClient| async move { kv.txn(reads.clone()).await };
        let answer = self.read("reading", until, read).await?;
        let mut listing = Listing { revision: header_revision(answer.header())?, entries: Vec::new() };
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(mut response) = response {
                self.entries(&mut response, &mut listing.entries)?;
            }
        }
        listing.entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listing)
    }

    async fn txn(&self, guards: &[Guard], writes: &[Write], until: Instant) -> Result<u64, StoreError> {
        let mut compares = Vec::with_capacity(guards.len());
        for guard in guards {
            compares.push(Compare::mod_revision(self.full(&guard.key), CompareOp::Equal, signed(guard.revision)?));
        }
        let operations: Vec<_> = writes
            .iter()
            .map(|write| match write {
                Write::Put { key, value } => TxnOp::put(self.full(key), value.as_slice(), None),
                Write::Delete { key } => TxnOp::delete(self.full(key), None),
            })
            .collect();
        let looks: Vec<_> = guards
            .iter()
            .map(|guard| TxnOp::get(self.full(&guard.key), Some(GetOptions::new().with_keys_only())))
            .collect();
        let transaction = Txn::new().when(compares).and_then(operations).or_else(looks);
        let mut unsure = None;
        let answer = loop {
            let member = self.current.lock().await.member;
            let attempt = async { self.kv().await?.txn(transaction.clone()).await.map_err(failed("writing")) };
            let answer = timeout_at(until.into(), attempt).await;
            if answer.as_ref().map_or(true, |answer| answer.as_ref().is_err_and(is_unavailable)) {
                self.leave(member).await;
            }
            match answer {
                Ok(Ok(answer)) => break answer,
                Ok(Err(error)) if is_unavailable(&error) && unsure.is_none() && self.endpoints.len() > 1 => {
                    unsure = Some(error);
                }
                Ok(Err(error)) => {
                    self.refused(member, &error).await;
                    return Err(error);
                }
                Err(_) => return Err(StoreError::Timeout { act: "writing" }),
            }
        };
        if answer.succeeded() {
            return header_revision(answer.header());
        }
        if let Some(error) = unsure {
            return Err(error);
        }
        for (guard, response) in guards.iter().zip(answer.op_responses()) {
            let TxnOpResponse::Get(response) = response else { continue };
            let found = response.kvs().first().map_or(Ok(0), |pair| unsigned(pair.mod_revision()))?;
            if found != guard.revision {
                return Err(StoreError::Conflict { key: guard.key.clone() });
            }
        }
        Err(StoreError::Garbled { what: "a failed transaction whose guards hold" })
    }
}

impl ConfigStore for EtcdStore {
    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.listing(prefix, false)
    }

    fn list_keys(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.listing(prefix, true)
    }

    fn get(&self, keys: &[String]) -> Result<Listing, StoreError> {
        if keys.len() > ETCD_OPERATIONS_MAX {
            return Err(StoreError::TooLarge { operations: keys.len(), bytes: 0 });
        }
        let (shared, keys) = (Arc::clone(&self.shared), keys.to_vec());
        self.call("reading", move |until| async move { shared.get(&keys, until).await })
    }

    fn is_full(&self) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.call("asking for alarms", |until| async move {
            let alarms = async {
                let mut client = shared.client().await?.1;
                let answer = client.alarm(AlarmAction::Get, AlarmType::Nospace, None).await;
                Ok(!answer.map_err(failed("asking for alarms"))?.alarms().is_empty())
            };
            let late = StoreError::Timeout { act: "asking for alarms" };
            timeout(until.saturating_duration_since(Instant::now()), alarms).await.unwrap_or(Err(late))
        })
    }

    fn txn(&self, guards: &[Guard], writes: &[Write]) -> Result<u64, StoreError> {
        let room = |key: &str, value: usize| self.shared.root.len() + key.len() + value + OPERATION_BYTES;
        let bytes: usize = guards.iter().map(|guard| 2 * room(&guard.key, 0)).sum::<usize>()
            + writes.iter().map(|write| room(write.key(), write.value_len())).sum::<usize>();
        let operations = guards.len().max(writes.len());
        if operations > ETCD_OPERATIONS_MAX || bytes > ETCD_REQUEST_BYTES_MAX {
            return Err(StoreError::TooLarge { operations, bytes });
        }
        let (shared, guards, writes) = (Arc::clone(&self.shared), guards.to_vec(), writes.to_vec());
        self.call("writing", move |until| async move { shared.txn(&guards, &writes, until).await })
    }

    fn within(&self, patience: Duration) -> Arc<dyn ConfigStore> {
        Arc::new(Self { patience: patience.min(self.patience), listing: patience.min(self.listing), ..self.clone() })
    }

    fn watch(&self, prefix: &str, after: u64) -> Watch {
        let (to, events) = mpsc::channel(WATCH_EVENTS_MAX);
        self.runtime.spawn(watch::follow(Arc::clone(&self.shared), prefix.to_owned(), after, to));
        Watch { events }
    }

    fn runtime(&self) -> Option<Handle> {
        Some(self.runtime.clone())
    }

    fn hold(&self, key: &str, value: &[u8], ttl: Duration) -> Hold {
        let (release, released) = mpsc::channel(1);
        let (holds, until) = tokio::sync::watch::channel(None);
        let keeper = hold::Keeper::new(Arc::clone(&self.shared), self.shared.full(key), value.to_vec(), ttl);
        self.runtime.spawn(keeper.keep(holds, released));
        Hold { until, _release: Box::new(release) }
    }
}

fn connect_options(options: &EtcdOptions) -> Result<ConnectOptions, StoreError> {
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEPALIVE_PERIOD, KEEPALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    let unread = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| StoreError::Setup { detail: format!("{path}: {error}") }
    };
    if let Some((name, password)) = &options.user {
        let password = match password {
            EtcdPassword::Known(password) => password.clone(),
            EtcdPassword::File(path) => {
                let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unread(path))?);
                Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        };
        connect = connect.with_user(name.clone(), password.as_str()).with_auto_token_refresh(true);
    }
    let Some(files) = &options.tls else { return Ok(connect) };
    let read = |path: &Path| std::fs::read(path).map_err(unread(path));
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&files.ca)?));
    if let Some((certificate, key)) = &files.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(connect.with_tls(tls))
}

/// The first key behind all that begin with `prefix`.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // A prefix is UTF-8, which has no octet 0xff.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn header_revision(header: Option<&etcd_client::ResponseHeader>) -> Result<u64, StoreError> {
    unsigned(header.ok_or(StoreError::Garbled { what: "an answer without a header" })?.revision())
}

fn unsigned(revision: i64) -> Result<u64, StoreError> {
    u64::try_from(revision).map_err(|_| StoreError::Garbled { what: "a negative revision" })
}

fn signed(revision: u64) -> Result<i64, StoreError> {
    i64::try_from(revision).map_err(|_| StoreError::Garbled { what: "a revision beyond 63 bits" })
}

fn failed(act: &'static str) -> impl Fn(Error) -> StoreError {
    move |source| StoreError::Etcd { act, source: Box::new(source) }
}

fn setup(detail: &str) -> StoreError {
    StoreError::Setup { detail: detail.to_owned() }
}

/// Whether the revision that was asked for is compacted away.
fn is_compacted(error: &StoreError) -> bool {
    // gRPC OUT_OF_RANGE has no other meaning in etcd but a revision in the future, which we never ask for.
    matches!(etcd_error(error), Some(Error::GRpcStatus(status)) if status.message().contains("compacted"))
}

/// Whether it is the member that fails, or the way to it, and not what was asked.
pub(super) fn is_unavailable(error: &StoreError) -> bool {
    match etcd_error(error) {
        Some(Error::TransportError(_) | Error::IoError(_)) => true,
        Some(Error::GRpcStatus(status)) => UNAVAILABLE.contains(&i32::from(status.code())),
        _ => false,
    }
}

fn etcd_error(error: &StoreError) -> Option<&Error> {
    match error {
        StoreError::Etcd { source, .. } => Some(source),
        _ => None,
    }
}

/// gRPC's CANCELLED, UNKNOWN (a connection that broke), DEADLINE_EXCEEDED and UNAVAILABLE (no leader, no connection).
const UNAVAILABLE: [i32; 4] = [1, 2, 4, 14];

/// One call with all that it needs, connecting included; of a listing one page.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A listing with all its pages: of the largest configuration there may be a thousand, from far away a tenth of a second each.
const LISTING_TIMEOUT: Duration = Duration::from_secs(120);
/// For a call to end by its own timeouts.
const GRACE: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// For leases to be given back at the end.
const RELEASE_TIME: Duration = Duration::from_millis(500);
/// Keys of one page of a listing.
const PAGE_KEYS: i64 = 200;
/// One answer of etcd: a page of values of the largest size there is does not occur.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What an operation takes in a request beside its key and value, at most.
const OPERATION_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_lies_behind_all_its_keys_and_before_the_next_prefix() {
        assert_eq!(prefix_end("/a/"), b"/a0");
        assert!(b"/a/\xf4\x8f".as_slice() < prefix_end("/a/").as_slice());
    }

    #[test]
    fn an_endpoint_that_does_not_fit_the_options_is_refused_with_its_name() {
        let mut options =
            EtcdOptions { endpoints: vec!["https://a:1".into()], root: "/".into(), tls: None, user: None };
        assert!(EtcdStore::open(&options).err().unwrap().to_string().contains("https://a:1"));
        options.endpoints = vec!["http://root:secret@a:1".into()];
        let refused = EtcdStore::open(&options).err().unwrap().to_string();
        assert!(refused.contains("--etcd-password-file") && !refused.contains("secret"), "{refused}");
        options.endpoints.clear();
        assert!(EtcdStore::open(&options).is_err());
    }
}
