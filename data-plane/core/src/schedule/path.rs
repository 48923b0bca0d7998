//! One egress path: a source and a site (and a port), with what is ready on it and what it may use.
//!
//! Mail that demands more than opportunistic TLS has a *lane* of its own for each demand: a path with the same source, site
//! and port, whose connections meet that demand. What a path may use holds for the sum of its lanes (by gates); a lane that
//! the receiver cannot meet backs off alone.
//!
//! States of a path: *open* (serves its queue), *backing off* (the site failed as a whole; nothing is tried before a
//! time, then one connection probes), *blocked* (an operator suspended the source or the site). Beside that its gates may be
//! closed: what is ready then waits where it is. Mail of a tenant, campaign, class or recipient domain whose own gates are
//! closed is *held* beside the ready queue, so that it does not keep other mail from its turn.
//!
//! Invariants worth naming: connections never exceed the limit, counting those being opened; an idle session is listed
//! once; a probing path opens one connection only.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::ids::SourceId;
use postrail_schema::policy::RetryDelays;
use postrail_schema::tls::TlsPolicy;

use super::{FairQueue, GateList, WaitReason, retry_delay};
use crate::base::{Instant, Random};
use crate::dns::{MailHosts, SiteName};
use crate::rules::PathShape;

/// How long after its back-off a failing site is remembered: longer than the longest retry delay in use early on.
const FAILURE_MEMORY: Duration = Duration::from_secs(3_600);

/// The longest back-off of a site, seconds.
const PROBE_DELAY_S_MAX: u32 = 900;

/// What names a path.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PathKey {
    pub source: SourceId,
    pub site: SiteName,
    pub port: u16,
    /// Its lane: what its mail demands of a connection; `None`: opportunistic TLS.
    pub tls: Option<Arc<TlsPolicy>>,
}

impl PathKey {
    /// What all lanes of one source and site have in common: the limits and rates of a path hold for their sum.
    pub fn trunk(&self) -> Self {
        Self { tls: None, ..self.clone() }
    }
}

/// A path's state.
#[derive(Debug)]
pub struct Path {
    pub key: PathKey,
    pub hosts: Rc<MailHosts>,
    pub queue: FairQueue<u32>,
    /// What the rules say; its limits count here, its ceilings by the gates.
    pub shape: PathShape,
    /// Connections at once at present: those of the shape, or fewer while a moved address grows.
    pub connections_max: usize,
    /// The gates of every mail.
    pub mail_gates: GateList,
    /// The gates of every connection.
    pub connection_gates: GateList,
    /// Ready mail that was held back, by its gates.
    pub held: BTreeMap<GateList, FairQueue<u32>>,
    /// What of it has been called.
    pub called: VecDeque<GateList>,
    /// The path itself has been called.
    pub is_called: bool,
    /// Held mail that was called has gone out last, so the ready queue is next.
    pub is_queue_next: bool,
    /// When the next group of another shard that was sent home may come again: of what is not reserved, and of what is.
    pub returns_at: [Instant; 2],
    pub blocked: Option<WaitReason>,
    /// Its sessions have one transaction at a time under way before this time.
    pub one_at_a_time_until: Instant,
    /// It waits for a session that the whole shard has too few of.
    pub starved: bool,
    /// Open connections, those being opened included.
    connections: usize,
    /// Those of them that are still being opened.
    opening: usize,
    /// Sessions that are connected and have nothing to do, the latest last.
    idle: Vec<u32>,
    failures: u16,
    /// No further connection is opened before this time, while those that are open go on.
    open_not_before: Instant,
    retry_at: Option<Instant>,
    last_failure: String,
}

impl Path {
    pub fn new(key: PathKey, hosts: Rc<MailHosts>) -> Self {
        Self {
            key,
            hosts,
            queue: FairQueue::default(),
            shape: PathShape::default(),
            connections_max: 0,
            mail_gates: GateList::new(),
            connection_gates: GateList::new(),
            held: BTreeMap::new(),
            called: VecDeque::new(),
            is_called: false,
            is_queue_next: false,
            returns_at: [Instant::ZERO; 2],
            blocked: None,
            one_at_a_time_until: Instant::ZERO,
            starved: false,
            connections: 0,
            opening: 0,
            idle: Vec::new(),
            failures: 0,
            open_not_before: Instant::ZERO,
            retry_at: None,
            last_failure: String::new(),
        }
    }

    pub fn connections(&self) -> usize {
        self.connections
    }

    pub fn idle_sessions(&self) -> &[u32] {
        &self.idle
    }

    /// Why nothing may start on this path at `now`, if so.
    pub fn stopped(&self, now: Instant) -> Option<WaitReason> {
        self.blocked.or_else(|| self.retry_at.filter(|at| *at > now).map(|_| WaitReason::SiteBackoff))
    }

    /// When a path that backs off is tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The text of the failure that the path backs off for.
    pub fn last_failure(&self) -> &str {
        &self.last_failure
    }

    /// Whether a connection should be opened at `now`: something is ready, nobody idle would take it, limits allow it,
    /// and every connection being opened already has an item of its own.
    pub fn wants_connection(&self, now: Instant) -> bool {
        let probing = self.failures > 0;
        let limit = if probing { 1 } else { self.connections_max };
        // Behind a throttle a second connection is of use only if the first is at work when its turn comes.
        let one_by_one = !self.mail_gates.is_empty() && self.opening > 0;
        self.stopped(now).is_none()
            && (now >= self.open_not_before || self.connections == 0)
            && self.idle.is_empty()
            && self.queue.len() + self.called.len() > self.opening
            && self.connections < limit
            && !one_by_one
    }

    /// Counts a connection that is being opened.
    pub fn connection_opened(&mut self) {
        assert!(self.connections < self.connections_max, "connections stay within their limit");
        self.connections += 1;
        self.opening += 1;
    }

    /// A connection that was being opened is ready.
    pub fn connection_ready(&mut self) {
        assert!(self.opening > 0, "a connection becomes ready once");
        self.opening -= 1;
    }

    /// Forgets a connection, idle or not; `was_opening`: it never became ready.
    pub fn connection_closed(&mut self, session: u32, was_opening: bool) {
        assert!(self.connections > 0, "only open connections close");
        self.connections -= 1;
        if was_opening {
            self.connection_ready();
        }
        self.forget_idle(session);
    }

    /// Remembers that `session` has nothing to do.
    pub fn session_idle(&mut self, session: u32) {
        assert!(!self.idle.contains(&session), "an idle session is listed once");
        self.idle.push(session);
    }

    /// The session that became idle last: its connection is the warmest.
    pub fn take_idle(&mut self) -> Option<u32> {
        self.idle.pop()
    }

    /// Takes `session` off the idle list.
    pub fn forget_idle(&mut self, session: u32) {
        self.idle.retain(|idle| *idle != session);
    }

    /// Whether something could go out if the gates let it.
    pub fn has_turn(&self) -> bool {
        !self.queue.is_empty() || !self.called.is_empty()
    }

    /// How much is ready, what is held back included.
    pub fn ready_len(&self) -> usize {
        self.queue.len() + self.held.values().map(FairQueue::len).sum::<usize>()
    }

    /// All that is ready, what is held back included.
    pub fn iter_ready(&self) -> impl Iterator<Item = &u32> {
        self.queue.iter().chain(self.held.values().flat_map(FairQueue::iter))
    }

    /// Takes all that is ready.
    pub fn drain_ready(&mut self) -> Vec<u32> {
        let mut all = self.queue.drain();
        self.called.clear();
        all.extend(std::mem::take(&mut self.held).into_values().flat_map(|mut queue| queue.drain()));
        all
    }

    /// A transaction got through to a reply: the site works.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.retry_at = None;
        self.last_failure.clear();
    }

    /// One connection was refused while others work: the receiver has enough of them for now.
    pub fn enough_connections(&mut self, now: Instant) {
        self.open_not_before = now + Duration::from_secs(5);
    }

    /// The site could not be used at all; says when it is tried again: sooner than mail of `delays` is.
    pub fn failed(&mut self, now: Instant, delays: &RetryDelays, random: &mut Random, why: &str) -> Instant {
        self.failures = self.failures.saturating_add(1);
        let (first_s, longest_s) = ((delays.first_s / 5).max(1), delays.longest_s.clamp(1, PROBE_DELAY_S_MAX));
        let probe = RetryDelays { first_s, longest_s, ..*delays };
        let at = now + retry_delay(&probe, self.failures, random);
        self.retry_at = Some(at);
        why.clone_into(&mut self.last_failure);
        at
    }

    /// Ends a back-off, because an operator said so.
    pub fn retry_now(&mut self) {
        self.retry_at = None;
    }

    /// Whether the path can be forgotten.
    pub fn is_unused(&self, now: Instant) -> bool {
        let quiet = self.connections == 0 && self.queue.is_empty() && self.held.is_empty() && !self.starved;
        // A site that fails is remembered, so that its back-off goes on growing.
        quiet && self.retry_at.is_none_or(|at| now >= at + FAILURE_MEMORY)
    }
}
