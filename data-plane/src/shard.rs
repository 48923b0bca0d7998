//! One shard at work: joins the core's [`Shard`] with the pumps of every stage.
//!
//! [`Runtime`] is a handle to everything that lives on the shard's thread. Inputs go through [`Runtime::input`], which
//! then carries out what the core asks for. Tasks of a running shard: one a connection (in or out), one that makes
//! events durable in order, one that waits for the next deadline, one that reads the inbox (`inbox`).

use std::cell::{Cell, Ref, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future::or;
use postrail_core::base::{Instant, Map, MapSeed, Moment, Random};
use postrail_core::dns::HostRule;
use postrail_core::intake::idempotency::Keys;
use postrail_core::intake::listeners::ListeningHost;
use postrail_core::mail::Job;
use postrail_core::rules::SourceOwners;
use postrail_core::schedule::WaitReason;
use postrail_core::shard::{Config, HandBack, HandResult, Input, Leaving, Output, Record, Shard};
use postrail_core::spool::{Carried, JobMeta, Location};
use postrail_core::transfer::givers::Givers;
use postrail_schema::allocation::HostName;
use postrail_schema::ids::{MessageId, Revision, ShardId, TenantId};
use postrail_schema::limits::{
    INTAKE_BYTES_MAX, JOURNAL_BYTES_MAX, SESSION_TRANSACTIONS_MAX, TRANSFER_HELD_BYTES_MAX, TRANSFERS_OUT_MAX,
};
use postrail_schema::sealed::MasterKeys;
use postrail_schema::snapshot::Snapshot;

use crate::admin::AdminAccess;
use crate::auth::Auth;
use crate::dns::Dns;
use crate::egress::{self, SessionCommand};
use crate::feed::{FeedStatus, Withheld};
use crate::intake::ports::Ports;
use crate::intake::quota::{Quotas, Usage};
use crate::journal::{Entry, Journal};
use crate::mesh::{Letter, Mesh};
use crate::platform::Platform;
use crate::sign::Signer;
use crate::spool::{CompactionReason, JobOwner, Spool, StoreError};
use crate::tls::{Acceptor, Connector, ServerIdentity};
use crate::transfer::Departure;
use crate::vital::Vital;

mod inbox;
mod recorder;

/// What every shard of a node shares.
#[derive(Clone)]
pub struct NodeFacts {
    /// The node's data folder.
    pub data: PathBuf,
    pub hostname: Arc<str>,
    pub shards: u16,
    pub master_keys: Arc<MasterKeys>,
    pub acceptor: Option<Acceptor>,
    /// What the acceptor is made of.
    pub identity: Option<Arc<ServerIdentity>>,
    /// Which listeners are for this node.
    pub listening: ListeningHost,
    /// What is known of them.
    pub ports: Arc<Ports>,
    /// What tenants use of their quotas.
    pub usage: Arc<Usage>,
    pub connector: Connector,
    /// `http://127.0.0.1:8081`: where jobs are looked up.
    pub control_url: Arc<str>,
    /// Addresses whose shard the operator has named.
    pub owners: SourceOwners,
    /// Addresses move between hosts: see [`crate::lease`].
    pub is_leasing: bool,
    /// How fresh the configuration is.
    pub feed: Arc<FeedStatus>,
    /// How the admin listener knows who asks.
    pub admin_access: AdminAccess,
    /// Takes what goes to other hosts: see [`crate::transfer::departures`].
    pub departures: Sender<Departure>,
}

/// Events that wait to be made durable at most before intake slows down.
const RECORDS_WAITING_MAX: usize = 100_000;
/// How often the spool is looked over for segments to empty.
const COMPACTION_PERIOD: Duration = Duration::from_secs(5);

/// A handle to one shard's state and pumps.
pub struct Runtime<P: Platform>(Rc<Inner<P>>);

impl<P: Platform> Clone for Runtime<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<P: Platform> {
    platform: P,
    id: ShardId,
    node: NodeFacts,
    heart: RefCell<Shard>,
    spool: Spool<P>,
    journal: Journal<P>,
    dns: Dns<P>,
    signer: Signer,
    auth: Auth<P>,
    quotas: RefCell<Quotas>,
    keys: RefCell<Keys>,
    mesh: Mesh,
    random: RefCell<Random>,
    sessions: RefCell<Map<u32, Sender<SessionCommand>>>,
    records: (Sender<Box<Record>>, Receiver<Box<Record>>),
    /// Woken when the next deadline has come nearer.
    nearer: (Sender<()>, Receiver<()>),
    /// Woken when other listeners may be wanted.
    listeners: (Sender<()>, Receiver<()>),
    armed: Cell<Instant>,
    /// Outputs are being carried out, further up the stack.
    driving: Cell<bool>,
    draining: Cell<bool>,
    /// Who waits until every record so far is durable.
    fences: RefCell<Vec<Sender<()>>>,
    recording: Cell<bool>,
    intake_sessions: Cell<usize>,
    submissions: Cell<usize>,
    /// Octets of submissions that are being received.
    intake_bytes: Cell<usize>,
    /// A place for each parcel that is out.
    offers: (Sender<()>, Receiver<()>),
    /// On shard 0, of which other hosts ask.
    givers: RefCell<Givers>,
    /// Octets of parcels that are being received and worked on.
    parcel_bytes: Cell<usize>,
    storing: Cell<usize>,
}

/// Ends the carrying out of outputs, also by a panic.
struct Driving<'a>(&'a Cell<bool>);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The parts that are opened before a runtime can be made.
pub struct Parts<P: Platform> {
    pub spool: Spool<P>,
    pub journal: Journal<P>,
    pub dns: Dns<P>,
}

/// A submission that may still be accepted, also after the host was told to take no others.
pub(crate) struct OpenSubmission<P: Platform>(Runtime<P>);

impl<P: Platform> Drop for OpenSubmission<P> {
    fn drop(&mut self) {
        self.0.0.submissions.update(|open| open.saturating_sub(1));
    }
}

impl<P: Platform> Runtime<P> {
    /// Joins the parts and starts the shard's own tasks. Nothing is accepted or recovered yet.
    pub fn start(
        platform: P,
        id: ShardId,
        node: NodeFacts,
        parts: Parts<P>,
        mesh: Mesh,
        snapshot: Arc<Snapshot>,
    ) -> Self {
        let mut random = Random::new(platform.entropy());
        let now = Moment { instant: platform.now(), wall: platform.timestamp() };
        let seed = random.next_u64();
        let config =
            Config { shard: id, shards: node.shards, seed, owners: node.owners.clone(), is_leasing: node.is_leasing };
        let seed = MapSeed::new(&mut random);
        let inner = Inner {
            id,
            heart: RefCell::new(Shard::new(config, snapshot, now)),
            spool: parts.spool,
            journal: parts.journal,
            dns: parts.dns,
            signer: Signer::new(Arc::clone(&node.master_keys), &mut random),
            auth: Auth::new(platform.clone()),
            quotas: RefCell::new(Quotas::new(&seed, Arc::clone(&node.usage))),
            keys: RefCell::new(Keys::new(&seed)),
            mesh,
            random: RefCell::new(random),
            sessions: RefCell::new(seed.map()),
            records: async_channel::unbounded(),
            nearer: async_channel::bounded(1),
            listeners: async_channel::bounded(1),
            armed: Cell::new(Instant::FAR),
            driving: Cell::new(false),
            draining: Cell::new(false),
            fences: RefCell::default(),
            recording: Cell::new(false),
            intake_sessions: Cell::new(0),
            submissions: Cell::new(0),
            intake_bytes: Cell::new(0),
            offers: async_channel::bounded(TRANSFERS_OUT_MAX),
            givers: RefCell::default(),
            parcel_bytes: Cell::new(0),
            storing: Cell::new(0),
            node,
            platform,
        };
        let runtime = Self(Rc::new(inner));
        runtime.0.spool.follow(&runtime.0.journal);
        runtime.spawn("timer", Self::keep_time);
        runtime.spawn("compaction", Self::keep_compact);
        runtime.spawn("recorder", Self::keep_records);
        runtime
    }

    fn spawn<F: Future<Output = ()> + 'static>(&self, name: &'static str, task: impl FnOnce(Self) -> F) {
        self.0.platform.spawn(name, task(self.clone()));
    }

    pub fn platform(&self) -> &P {
        &self.0.platform
    }

    pub fn id(&self) -> ShardId {
        self.0.id
    }

    pub fn node(&self) -> &NodeFacts {
        &self.0.node
    }

    pub fn signer(&self) -> &Signer {
        &self.0.signer
    }

    pub fn connector(&self) -> &Connector {
        &self.0.node.connector
    }

    pub fn auth(&self) -> &Auth<P> {
        &self.0.auth
    }

    pub fn mesh(&self) -> &Mesh {
        &self.0.mesh
    }

    pub fn keys(&self) -> &RefCell<Keys> {
        &self.0.keys
    }

    pub fn quotas(&self) -> &RefCell<Quotas> {
        &self.0.quotas
    }

    pub(crate) fn heart(&self) -> Ref<'_, Shard> {
        self.0.heart.borrow()
    }

    pub(crate) fn spool(&self) -> &Spool<P> {
        &self.0.spool
    }

    pub(crate) fn offers(&self) -> &(Sender<()>, Receiver<()>) {
        &self.0.offers
    }

    pub(crate) fn givers(&self) -> &RefCell<Givers> {
        &self.0.givers
    }

    /// How many parcels jobs are being stored of: a shard does not end in between.
    pub(crate) fn storing(&self) -> &Cell<usize> {
        &self.0.storing
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.heart.borrow().snapshot().clone()
    }

    pub fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    /// How far this host is emptied, if an operator wants that.
    pub fn leaving(&self) -> Option<Leaving> {
        self.0.heart.borrow().leaving(self.0.platform.now())
    }

    /// Whether submissions have to go to another host.
    pub fn is_drained(&self) -> bool {
        self.leaving() == Some(Leaving::Drained)
    }

    /// Whether jobs of an earlier start are still to be found.
    pub fn is_recovering(&self) -> bool {
        self.0.heart.borrow().is_recovering()
    }

    pub fn now(&self) -> Moment {
        Moment { instant: self.0.platform.now(), wall: self.0.platform.timestamp() }
    }

    /// A new message id of this shard.
    pub fn next_id(&self) -> MessageId {
        let wall = self.0.platform.timestamp();
        MessageId::new(wall.unix_ms(), self.0.id, self.0.random.borrow_mut().next_u64())
    }

    /// Counts a submission session in (`true`) or out; gives the number that are open.
    pub fn count_intake_session(&self, came: bool) -> usize {
        let open = self.0.intake_sessions.get();
        self.0.intake_sessions.set(if came { open + 1 } else { open.saturating_sub(1) });
        self.0.intake_sessions.get()
    }

    /// Counts a submission in that may be accepted, until what is returned is dropped.
    pub(crate) fn begin_submission(&self) -> OpenSubmission<P> {
        self.0.submissions.update(|open| open + 1);
        OpenSubmission(self.clone())
    }

    /// Counts octets of submissions that are being received; `false`: the bound is reached.
    pub fn hold_intake_bytes(&self, before: usize, now: usize) -> bool {
        let total = (self.0.intake_bytes.get() + now).saturating_sub(before);
        self.0.intake_bytes.set(total);
        total <= INTAKE_BYTES_MAX
    }

    /// Counts octets of parcels that are being received and worked on; `false`: the bound is reached.
    pub(crate) fn hold_parcel_bytes(&self, before: usize, now: usize) -> bool {
        let total = (self.0.parcel_bytes.get() + now).saturating_sub(before);
        self.0.parcel_bytes.set(total);
        total <= TRANSFER_HELD_BYTES_MAX
    }

    /// Why mail is taken from nobody, if so.
    pub fn withheld(&self) -> Option<Withheld> {
        self.0.node.feed.withheld()
    }

    /// Why nothing can be accepted of the tenant at present, if so.
    pub fn refusal(&self, tenant: TenantId, recipients: usize) -> Option<String> {
        if let Some(withheld) = self.withheld() {
            return Some(withheld.refusal().to_owned());
        }
        if self.0.draining.get() {
            return Some("the server is shutting down".to_owned());
        }
        if !self.0.heart.borrow().has_room(tenant, recipients) {
            return Some("the queue is full".to_owned());
        }
        if self.0.records.1.len() > RECORDS_WAITING_MAX {
            return Some("events cannot be written fast enough".to_owned());
        }
        self.0.journal.refusal()
    }

    /// Makes a job durable and sets it on its way. Only after this may the client be told so.
    ///
    /// # Errors
    /// The job is not accepted: nothing of it will be sent.
    pub async fn accept(&self, job: Job) -> Result<(), StoreError> {
        let at = self.0.spool.store(&job).await?;
        self.input(Input::Accepted { job: Arc::new(job), at });
        Ok(())
    }

    /// Gives the core one input and carries out what it leads to.
    pub fn input(&self, input: Input) {
        let now = self.now();
        self.0.heart.borrow_mut().handle(now, input);
        self.drive();
    }

    /// Carries out what the core asks for. A task that is spawned for it may run at once and give the core its answer:
    /// what follows from that is carried out here too, one after the other and not within each other.
    fn drive(&self) {
        if self.0.driving.replace(true) {
            return;
        }
        let _driving = Driving(&self.0.driving);
        loop {
            let output = self.0.heart.borrow_mut().poll();
            let Some(output) = output else { break };
            self.carry_out(output);
        }
        let deadline = self.0.heart.borrow().deadline();
        if deadline < self.0.armed.get() {
            self.0.armed.set(deadline);
            let _ = self.0.nearer.0.try_send(());
        }
    }

    fn carry_out(&self, output: Output) {
        match output {
            Output::Resolve { domain, lookup } => self.spawn("resolve", move |runtime| async move {
                let rule = HostRule { allow_private: lookup.allow_private };
                let result = runtime.0.dns.mail_hosts(&lookup.name, rule).await;
                runtime.input(Input::Resolved { domain, result });
            }),
            Output::Open { session, plan } => {
                let (sender, receiver) = async_channel::bounded(SESSION_TRANSACTIONS_MAX + 1);
                self.0.sessions.borrow_mut().insert(session, sender);
                self.spawn("egress session", move |runtime| egress::run(runtime, session, plan, receiver));
            }
            Output::Load { attempt, at } => self.spawn("load", move |runtime| async move {
                let result = runtime.0.spool.load(at).await;
                let result = result.map(Arc::new).map_err(|error| error.to_string());
                runtime.input(Input::Loaded { attempt, result });
            }),
            Output::Transact { session, transact } => self.tell(session, SessionCommand::Transact(transact)),
            Output::Quit { session } => self.tell(session, SessionCommand::Quit),
            Output::Record(record) => self.record(record),
            Output::Hand { to, work } => {
                let group = work.group;
                if !self.0.mesh.send(to, Letter::Hand(work)) {
                    // The owner has drained already: the work waits for the next start.
                    let (reason, revision) = (WaitReason::Draining, Revision::default());
                    let result = HandResult::Wait { reason, nanos: u64::MAX, revision };
                    self.input(Input::HandBack(Box::new(HandBack { group, result })));
                }
            }
            Output::Recall(message) => self.0.mesh.broadcast(|| Letter::Recall(message)),
            Output::Offer(offer) => self.spawn("offer", move |runtime| runtime.offer(offer)),
            Output::HandBack { to, back } => {
                // A shard that waits for work to come back does not end, but at the deadline of its drain.
                self.0.mesh.send(to, Letter::HandBack(back));
            }
        }
    }

    fn tell(&self, session: u32, command: SessionCommand) {
        if let Some(sender) = self.0.sessions.borrow().get(&session) {
            let _ = sender.try_send(command);
        }
    }

    /// A session's task has ended: nothing more is told to it.
    pub fn session_over(&self, session: u32) {
        self.0.sessions.borrow_mut().remove(&session);
    }

    async fn keep_time(self) {
        let _vital = Vital("timer");
        loop {
            let deadline = self.0.heart.borrow().deadline();
            self.0.armed.set(deadline);
            let came = or(
                async {
                    self.0.platform.sleep_until(deadline).await;
                    true
                },
                async {
                    let _ = self.0.nearer.1.recv().await;
                    false
                },
            )
            .await;
            if came {
                self.input(Input::Timeout);
            }
        }
    }

    /// Writes summaries of closed segments; empties segments that hold little that is needed; and, when events fill their
    /// bound, the oldest segment, for whose sake they are kept.
    async fn keep_compact(self) {
        loop {
            let until = self.0.platform.now() + COMPACTION_PERIOD;
            self.0.platform.sleep_until(until).await;
            self.0.spool.summarize().await;
            let pressed = self.0.journal.bytes() > JOURNAL_BYTES_MAX / 2;
            let reason = if pressed { CompactionReason::OldestSegment } else { CompactionReason::LiveShare };
            match self.0.spool.compact(&self, reason).await {
                Ok(report) if report.moved > 0 => {
                    tracing::debug!(shard = self.0.id.0, segment = report.segment, moved = report.moved, "compacted");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(shard = self.0.id.0, %error, "compaction could not go on"),
            }
        }
    }

    /// Brings back what the spool and the journal hold. Intake may run meanwhile.
    ///
    /// # Errors
    /// What could not be read at all; damage within segments is reported and set aside instead.
    pub async fn recover(&self) -> Result<(), String> {
        let started = self.0.platform.now();
        let mut events = 0_u64;
        let replayed = self.0.journal.replay(|entry| {
            let input = match entry {
                Entry::Event(event) => {
                    events += 1;
                    Input::Replayed(event)
                }
                Entry::Note(note) => Input::ReplayedNote(note),
            };
            self.0.heart.borrow_mut().handle(self.now(), input);
        });
        replayed.await.map_err(|error| error.to_string())?;
        let recovered = self.0.spool.recover(|meta, at| {
            self.put_on_its_way(meta, at);
        });
        let report = recovered.await.map_err(|error| error.to_string())?;
        self.input(Input::RecoveryDone);
        for damage in &report.damaged {
            tracing::error!(shard = self.0.id.0, %damage, "a damaged part of the spool was set aside");
        }
        let took = self.0.platform.now().since(started);
        tracing::info!(shard = self.0.id.0, jobs = report.jobs, events, ms = took.as_millis() as u64, "recovered");
        Ok(())
    }

    /// Gives the core a job that is durable at `at`, from an earlier start or another host.
    pub(crate) fn put_on_its_way(&self, meta: JobMeta, at: Location) {
        if let Some(idempotency) = meta.job.idempotency {
            self.0.keys.borrow_mut().restore(idempotency, meta.job.id, meta.job.accepted_at, self.now().wall);
        }
        self.input(Input::Recovered { meta: Box::new(meta), at });
    }

    /// Waits until other listeners may be wanted: by a snapshot, or by a drain.
    pub async fn listeners_may_differ(&self) -> bool {
        self.0.listeners.1.recv().await.is_ok()
    }

    /// Waits until the shard is told to drain.
    pub async fn draining(&self) {
        while !self.0.draining.get() {
            let until = self.0.platform.now() + Duration::from_millis(50);
            self.0.platform.sleep_until(until).await;
        }
    }

    /// Waits until a drained shard has nothing under way and every event is durable, or until `deadline`.
    pub async fn drained(&self, deadline: Instant) -> bool {
        loop {
            let quiet = self.0.heart.borrow().is_quiet()
                && self.0.intake_sessions.get() == 0
                && self.0.storing.get() == 0
                && self.0.records.1.is_empty()
                && !self.0.recording.get();
            if quiet {
                return true;
            }
            if self.0.platform.now() >= deadline {
                return false;
            }
            let until = self.0.platform.now() + Duration::from_millis(10);
            self.0.platform.sleep_until(until).await;
        }
    }
}

impl<P: Platform> JobOwner for Runtime<P> {
    fn carried_state(&self, message: MessageId, recipients: usize) -> Vec<Carried> {
        self.0.heart.borrow().carried_state(self.now(), message, recipients)
    }

    fn bound_to(&self, message: MessageId) -> Option<HostName> {
        self.0.heart.borrow().bound_to(message)
    }

    async fn recorded(&self) {
        self.note(Vec::new()).await;
    }

    fn moved(&self, message: MessageId, _from: Location, to: Location) {
        self.input(Input::Moved { message, to });
    }
}
