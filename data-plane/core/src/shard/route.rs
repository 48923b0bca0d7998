//! From acceptance to a path's ready queue: admission, placement, resolution, and what stops them.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::ids::{RecipientIndex, ShardId, SourceId};
use postrail_schema::limits::{
    EGRESS_SESSIONS_MAX, MESH_IN_FLIGHT_MAX, MESH_IN_FLIGHT_RESERVED, TRANSACTION_RECIPIENTS_MAX,
};
use postrail_schema::selector::MailFacts;
use postrail_schema::snapshot::{SendingDomain, Snapshot};

use super::accepted::accepted_events;
use super::tls::allowed_hosts;
use super::{
    Aim, AttemptSlot, Group, GroupState, JobRef, JobSlot, Lookup, NONE, Output, Reports, SessionPlan, SessionSlot,
    SessionState, Shard, Standing, mail_facts,
};
use crate::base::{Instant, Moment};
use crate::dns::{DnsFailure, MailHosts};
use crate::lease::Held;
use crate::mail::{Domain, Job, JobRecipient};
use crate::rules::Placement;
use crate::schedule::{Path, PathKey, WaitReason};
use crate::spool::Location;

/// How often unused paths and domains are forgotten and ready queues are searched for expired groups.
pub(super) const SWEEP_PERIOD: Duration = Duration::from_secs(30);
/// When a group that found the way to another shard full, or came back from there in haste, tries again.
pub(super) const HAND_RETRY: Duration = Duration::from_millis(100);

impl Shard {
    /// A job is durable: its recipients become groups and go on their way.
    pub(super) fn accept(&mut self, now: Moment, job: Arc<Job>, at: Location) {
        self.record_accepted(&job);
        let open: Vec<_> = (0..job.recipients.len() as u16).map(RecipientIndex).collect();
        let slot = self.insert_job(&job, at, open.len());
        self.keep_fresh(slot, &job);
        for group in self.groups_of(slot, &job.recipients, &open) {
            self.route(now, group);
        }
    }

    pub(super) fn insert_job(&mut self, job: &Job, at: Location, open: usize) -> u32 {
        assert!(!self.holds(job.id), "a job is held once");
        let slot = JobSlot {
            id: job.id,
            at,
            expires_at: job.expires_at,
            tenant: job.tenant,
            domain: job.domain,
            groups: NONE,
            active: NONE,
            open: open as u16,
            campaign: self.campaigns.retain(job.tenant, &job.campaign),
            class: job.class,
            reports: Reports::of(job),
            standing: if job.quarantined { Standing::Quarantined } else { Standing::Free },
            hop: u8::try_from(job.hop).unwrap_or(u8::MAX),
        };
        self.waiting += open;
        let slot = self.jobs.insert(slot) as u32;
        self.job_ids.insert(&job.id, slot, |job| self.jobs[job as usize].id);
        slot
    }

    /// Makes groups of the recipients `open`: one for each entry and recipient domain, in bounded sizes.
    pub(super) fn groups_of(&mut self, slot: u32, recipients: &[JobRecipient], open: &[RecipientIndex]) -> Vec<u32> {
        let mut groups: Vec<u32> = Vec::new();
        let mut last = None;
        for index in open {
            let recipient = &recipients[usize::from(index.0)];
            let domain = self.domains.intern(recipient.address.domain());
            let fits = |group: &Group| {
                group.entry == recipient.entry
                    && group.domain == domain
                    && group.recipients.len() < TRANSACTION_RECIPIENTS_MAX
            };
            let found = last
                .filter(|id: &u32| fits(&self.groups[*id as usize]))
                .or_else(|| groups.iter().rev().take(16).copied().find(|id| fits(&self.groups[*id as usize])));
            if let Some(id) = found {
                self.groups[id as usize].recipients.push(*index);
                continue;
            }
            let id = self.new_group(Group {
                job: JobRef::Local(slot),
                entry: recipient.entry,
                recipients: smallvec::smallvec![*index],
                attempts: 0,
                requeues: 0,
                domain,
                next: NONE,
                state: GroupState::Moving,
            });
            groups.push(id);
            last = Some(id);
        }
        self.link_groups(slot, &groups);
        groups
    }

    fn record_accepted(&mut self, job: &Job) {
        self.counters.accepted += job.recipients.len() as u64;
        self.outputs.push_back(Output::Record(Box::new(super::Record {
            events: accepted_events(job),
            ..super::Record::default()
        })));
    }

    /// Sends a group (in state `Moving`) on its way, as far as it gets now.
    pub(super) fn route(&mut self, now: Moment, group: u32) {
        match self.groups[group as usize].job {
            JobRef::Local(job) => self.route_local(now, group, job),
            JobRef::Remote(_) if self.draining => {
                self.return_work(now, group, WaitReason::Draining, now.instant + HAND_RETRY);
            }
            // Its own shard expires it.
            JobRef::Remote(_) if self.is_expired(now, group) => {
                self.return_work(now, group, WaitReason::Throttled, now.instant);
            }
            JobRef::Remote(work) if self.works[work as usize].is_recalled => {
                self.return_work(now, group, WaitReason::OtherShard, now.instant);
            }
            JobRef::Remote(work) if self.rules.tenant_suspended(self.works[work as usize].job.tenant) => {
                self.park(now, group, WaitReason::TenantSuspended);
            }
            JobRef::Remote(work) => {
                let (source, domain) = (self.works[work as usize].source, self.groups[group as usize].domain);
                if self.rules.places_by_site() && self.domains.hosts(domain, now.instant).is_none() {
                    return self.ask_for_hosts(group, domain);
                }
                if !self.rules.allows(self.mail_facts(&self.groups[group as usize]), source) {
                    return self.return_work(now, group, WaitReason::OtherShard, now.instant + HAND_RETRY);
                }
                self.route_from(now, group, source);
            }
        }
    }

    fn route_local(&mut self, now: Moment, group: u32, job: u32) {
        let slot = &self.jobs[job as usize];
        if now.wall >= slot.expires_at {
            return self.expire(now, group);
        }
        if let Some(ending) = slot.ending() {
            return self.end_by_operator(now, group, ending);
        }
        if slot.is_quarantined() {
            return self.schedule(now, group, Instant::FAR, WaitReason::Quarantined);
        }
        if self.draining {
            return self.schedule(now, group, Instant::FAR, WaitReason::Draining);
        }
        if self.rules.tenant_suspended(slot.tenant) {
            return self.park(now, group, WaitReason::TenantSuspended);
        }
        let domain = self.groups[group as usize].domain;
        if self.rules.places_by_site() && self.domains.hosts(domain, now.instant).is_none() {
            return self.ask_for_hosts(group, domain);
        }
        let group_facts = mail_facts(&self.jobs, &self.works, &self.domains, &self.groups[group as usize]);
        match self.rules.place(group_facts, &mut self.random) {
            Placement::Here(source) => self.route_from(now, group, source),
            Placement::At(owner, source) => self.hand_over(now, group, owner, source),
            Placement::Suspended => self.park(now, group, WaitReason::SourceSuspended),
            Placement::Elsewhere => {
                self.park(now, group, WaitReason::AddressElsewhere);
                self.transfers.look_soon(now.instant);
            }
            Placement::Nowhere => self.park(now, group, WaitReason::NoSource),
            Placement::NotCarried => self.park(now, group, WaitReason::NoPoolForClass),
        }
    }

    /// From the source to the path: needs the site, which needs the MX set.
    fn route_from(&mut self, now: Moment, group: u32, source: SourceId) {
        let domain = self.groups[group as usize].domain;
        if self.rules.site_suspended(self.domains.slot(domain).name.as_str()) {
            return self.park(now, group, WaitReason::SiteSuspended);
        }
        let Some(hosts) = self.domains.hosts(domain, now.instant).cloned() else {
            return self.ask_for_hosts(group, domain);
        };
        let port = self.rules.snapshot().route_of(self.domains.slot(domain).name.as_str()).map_or(25, |r| r.port);
        let tls = self.tls_policy(group, &hosts.site);
        if tls.as_ref().is_some_and(|policy| allowed_hosts(policy, &hosts).hosts.is_empty()) {
            return self.fail_hosts(now, group, source, &hosts);
        }
        let path = self.path(now.instant, PathKey { source, site: hosts.site.clone(), port, tls }, &hosts);
        match self.paths[path as usize].stopped(now.instant) {
            Some(WaitReason::SiteBackoff) => {
                let at = self.paths[path as usize].retry_at().unwrap_or(now.instant);
                self.schedule(now, group, at, WaitReason::SiteBackoff);
            }
            Some(reason) => self.park(now, group, reason),
            None if self.sends_home(now, path, group) => {}
            None => {
                self.enqueue(now, path, group);
                self.kick(now, path);
            }
        }
    }

    fn ask_for_hosts(&mut self, group: u32, domain: u32) {
        self.groups[group as usize].state = GroupState::Resolving;
        let name = self.domains.slot(domain).name.clone();
        let route = self.rules.snapshot().route_of(name.as_str());
        let lookup = Lookup {
            name: route.and_then(|r| r.routing_domain.as_deref()).and_then(|d| Domain::parse(d).ok()).unwrap_or(name),
            allow_private: route.is_some_and(|route| route.allow_private),
        };
        let Some(slot) = self.domains.slot_mut(domain) else { return };
        slot.waiters.push(group);
        if !slot.asked {
            slot.asked = true;
            self.outputs.push_back(Output::Resolve { domain, lookup });
        }
    }

    pub(super) fn resolved(&mut self, now: Moment, domain: u32, result: Result<Rc<MailHosts>, DnsFailure>) {
        let Some(slot) = self.domains.slot_mut(domain) else { return };
        slot.asked = false;
        let waiters = std::mem::take(&mut slot.waiters);
        match result {
            Ok(hosts) => {
                // An answer that is already past its time still serves those who asked for it.
                let hosts = if hosts.expires > now.instant {
                    hosts
                } else {
                    Rc::new(MailHosts { expires: now.instant + Duration::from_secs(5), ..(*hosts).clone() })
                };
                slot.hosts = Some(hosts);
                for group in waiters {
                    self.groups[group as usize].state = GroupState::Moving;
                    self.route(now, group);
                }
            }
            Err(failure) => {
                slot.hosts = None;
                for group in waiters {
                    self.groups[group as usize].state = GroupState::Moving;
                    self.fail_resolution(now, group, &failure);
                }
            }
        }
    }

    fn path(&mut self, now: Instant, key: PathKey, hosts: &Rc<MailHosts>) -> u32 {
        if let Some(path) = self.path_ids.get(&key) {
            let path = *path;
            self.paths[path as usize].hosts = hosts.clone();
            return path;
        }
        let mut path = Path::new(key.clone(), hosts.clone());
        path.blocked = self.blocked(&key);
        let path = self.paths.insert(path) as u32;
        self.path_ids.insert(key, path);
        self.shape_path(now, path);
        path
    }

    fn blocked(&self, key: &PathKey) -> Option<WaitReason> {
        if self.rules.source(key.source).is_none() {
            Some(WaitReason::NoSource)
        } else if self.rules.source_suspended(key.source) {
            Some(WaitReason::SourceSuspended)
        } else if !self.rules.is_here(key.source) {
            Some(WaitReason::AddressElsewhere)
        } else if self.rules.site_suspended(&key.site.0) {
            Some(WaitReason::SiteSuspended)
        } else {
            None
        }
    }

    /// Puts a group behind what its tenant has on the path, or into it when it is the same copy.
    pub(super) fn enqueue(&mut self, now: Moment, path: u32, group: u32) {
        let MailFacts { tenant, class, .. } = self.mail_facts(&self.groups[group as usize]);
        let queue = &self.paths[path as usize].queue;
        let ours = &self.groups[group as usize];
        let is_same_copy = |last: &&u32| {
            let theirs = &self.groups[**last as usize];
            matches!(ours.job, JobRef::Local(_))
                && (ours.job, ours.entry, ours.attempts) == (theirs.job, theirs.entry, theirs.attempts)
                && ours.recipients.len() + theirs.recipients.len() <= TRANSACTION_RECIPIENTS_MAX
        };
        let same = queue.last(class, tenant).find(is_same_copy).copied();
        if let Some(last) = same {
            let recipients = std::mem::take(&mut self.groups[group as usize].recipients);
            self.groups[last as usize].recipients.extend(recipients);
            self.drop_group(group);
            return;
        }
        self.put_ready(now.instant, path, group);
    }

    /// Gives what is ready to idle sessions, and opens connections for the rest within the limits.
    pub(super) fn kick(&mut self, now: Moment, path: u32) {
        if self.draining {
            return;
        }
        // Whether the address may be used is asked again each time: the lease on it may end at any moment.
        let goes_on = |shard: &mut Self| {
            let place = &shard.paths[path as usize];
            place.stopped(now.instant).is_none()
                && place.has_turn()
                && shard.rules.may_start(place.key.source, now.instant)
                && shard.is_path_open(now.instant, path)
        };
        while goes_on(self) {
            if let Some(session) = self.paths[path as usize].take_idle() {
                if let SessionState::Idle { until } = self.sessions[session as usize].state {
                    self.idle.remove(until, session);
                }
                self.next_transaction(now, session);
                continue;
            }
            if !self.paths[path as usize].wants_connection(now.instant) {
                break;
            }
            if self.sessions.len() >= EGRESS_SESSIONS_MAX {
                if !self.paths[path as usize].starved {
                    self.paths[path as usize].starved = true;
                    self.starved.push_back(path);
                }
                break;
            }
            if !self.may_connect(now.instant, path) {
                break;
            }
            self.open_session(now, path);
        }
    }

    fn open_session(&mut self, now: Moment, path: u32) {
        let place = &mut self.paths[path as usize];
        let Some(source) = self.rules.source(place.key.source) else { return };
        place.connection_opened();
        self.gates.take(&place.connection_gates, now.instant);
        self.counters.connections += 1;
        let tls = place.key.tls.as_deref().cloned().unwrap_or_default();
        let plan = SessionPlan {
            source: source.id,
            address: source.address,
            ehlo_name: source.ehlo_name.clone(),
            hosts: allowed_hosts(&tls, &place.hosts),
            port: place.key.port,
            mails_max: place.shape.limits.mails_per_connection,
            tls,
        };
        let slot = SessionSlot::opening(path, source.address);
        let session = self.sessions.insert(slot) as u32;
        self.outputs.push_back(Output::Open { session, plan: Box::new(plan) });
    }

    /// Lets a group (in state `Moving`) wait until `due`, or its expiry if that is earlier. Content that was kept for its
    /// first attempt is read from the spool then.
    pub(super) fn schedule(&mut self, now: Moment, group: u32, due: Instant, reason: WaitReason) {
        let JobRef::Local(job) = self.groups[group as usize].job else {
            return self.return_work(now, group, reason, due);
        };
        let due = due.min(now.instant_of(self.jobs[job as usize].expires_at));
        self.groups[group as usize].state = GroupState::Scheduled { due, reason };
        self.scheduled.insert(due, group);
        self.count_parked(reason, true);
        if self.groups[group as usize].attempts == 0 && reason != WaitReason::OtherShard {
            self.tried(job, self.groups[group as usize].recipients.len());
        }
    }

    /// Lets a group wait for a change of configuration (or its expiry).
    pub(super) fn park(&mut self, now: Moment, group: u32, reason: WaitReason) {
        self.schedule(now, group, Instant::FAR, reason);
    }

    fn hand_over(&mut self, now: Moment, group: u32, owner: ShardId, source: SourceId) {
        if !self.may_cross(now.instant, group) {
            return self.schedule(now, group, now.instant + HAND_RETRY, WaitReason::OtherShard);
        }
        self.handed += 1;
        self.groups[group as usize].state = GroupState::Handed;
        let aim = Aim::Hand(owner, source);
        let (started, revision) = (now.instant, self.revision());
        let attempt = self.begin_attempt(AttemptSlot { group, aim, loading: false, started, revision });
        self.load(now, attempt);
    }

    /// Whether the way to other shards has room for a group: its last part is for what is within a reserve.
    fn may_cross(&mut self, now: Instant, group: u32) -> bool {
        if self.handed < MESH_IN_FLIGHT_MAX - MESH_IN_FLIGHT_RESERVED {
            return true;
        }
        let ours = &self.groups[group as usize];
        let tenant = self.mail_facts(ours).tenant;
        self.handed < MESH_IN_FLIGHT_MAX
            && self.reserves.take(now, tenant, self.rules.reserve(tenant), ours.recipients.len())
    }

    pub(super) fn apply_snapshot(&mut self, now: Moment, snapshot: Arc<Snapshot>) {
        let is_placed_alike =
            places_alike(self.rules.snapshot(), &snapshot) && Arc::ptr_eq(&self.rules.snapshot().tls, &snapshot.tls);
        let rules = self.rules.under(snapshot);
        let former = std::mem::replace(&mut self.rules, rules);
        self.rules_changed(now, !self.rules.shapes_like(&former), !is_placed_alike);
    }

    /// What is ready to leave from a source that its pool does not have any more, or in a lane that is not its own any more,
    /// is placed anew.
    fn place_ready(&mut self, now: Moment) {
        let paths: Vec<u32> = self.paths.iter().map(|(path, _)| path as u32).collect();
        for path in paths {
            let place = &self.paths[path as usize];
            let is_astray = |group: &u32| {
                let mail = self.mail_facts(&self.groups[*group as usize]);
                !self.rules.allows(mail, place.key.source) || !self.is_in_lane(*group, &place.key)
            };
            if place.iter_ready().any(is_astray) {
                for group in self.paths[path as usize].drain_ready() {
                    self.groups[group as usize].state = GroupState::Moving;
                    self.route(now, group);
                }
            }
        }
    }

    /// Takes over what is held now. That leases were renewed lets paths go on, and those of new addresses grow; that
    /// addresses have come or gone may change where any mail goes from.
    pub(super) fn apply_held(&mut self, now: Moment, held: Held) {
        let Some(before) = self.rules.held() else { return };
        let is_other = before.addresses.keys().ne(held.addresses.keys());
        self.rules = self.rules.clone().with_held(Some(held));
        if is_other {
            return self.rules_changed(now, false, false);
        }
        let paths: Vec<u32> = self.paths.iter().map(|(path, _)| path as u32).collect();
        for path in paths {
            self.grow_path(now.instant, path);
            self.kick(now, path);
        }
    }

    /// Outgoing sessions from `address`, those that are being opened or closed counted.
    pub fn sessions_on(&self, address: IpAddr) -> usize {
        self.sessions.iter().filter(|(_, session)| session.address == address).count()
    }

    /// `is_shaped_anew`: what holds for paths may have changed. `is_placed_anew`: so may where ready mail leaves from, which
    /// comes before anything of it begins.
    fn rules_changed(&mut self, now: Moment, is_shaped_anew: bool, is_placed_anew: bool) {
        self.reserves.retain(|tenant| self.rules.reserve(tenant) > 0);
        self.transfers.look_soon(now.instant);
        if is_shaped_anew {
            self.shape_paths(now);
        }
        if is_placed_anew {
            self.place_ready(now);
        }
        let paths: Vec<u32> = self.paths.iter().map(|(path, _)| path as u32).collect();
        for path in paths {
            let blocked = self.blocked(&self.paths[path as usize].key);
            self.grow_path(now.instant, path);
            self.paths[path as usize].blocked = blocked;
            if blocked.is_some() {
                self.clear_path(now, path);
            } else {
                self.kick(now, path);
            }
        }
        if self.parked > 0 {
            let is_parked = |group: &Group| match group.state {
                GroupState::Scheduled { reason, .. } => {
                    reason.until_configured() || is_shaped_anew && reason.depends_on_rules()
                }
                _ => false,
            };
            let parked = self.groups.iter().filter(|(_, group)| is_parked(group)).map(|(id, _)| id as u32);
            for group in parked.collect::<Vec<_>>() {
                self.detach(group);
                self.route(now, group);
            }
        }
    }

    /// Sends everything that is ready on a stopped path to where it waits, and idle sessions home.
    fn clear_path(&mut self, now: Moment, path: u32) {
        while let Some(session) = self.paths[path as usize].take_idle() {
            self.quit(session);
        }
        for group in self.paths[path as usize].drain_ready() {
            self.groups[group as usize].state = GroupState::Moving;
            self.route(now, group);
        }
    }

    pub(super) fn quit(&mut self, session: u32) {
        let slot = &mut self.sessions[session as usize];
        if let SessionState::Idle { until } = slot.state {
            self.idle.remove(until, session);
        }
        slot.state = SessionState::Quitting;
        self.outputs.push_back(Output::Quit { session });
    }

    pub(super) fn drain(&mut self, now: Moment) {
        self.draining = true;
        let paths: Vec<u32> = self.paths.iter().map(|(path, _)| path as u32).collect();
        for path in paths {
            self.clear_path(now, path);
        }
    }

    pub(super) fn timeout(&mut self, now: Moment) {
        while let Some(session) = self.idle.pop_due(now.instant) {
            let path = self.sessions[session as usize].path;
            self.paths[path as usize].forget_idle(session);
            self.sessions[session as usize].state = SessionState::Quitting;
            self.outputs.push_back(Output::Quit { session });
        }
        while let Some(group) = self.scheduled.pop_due(now.instant) {
            if let GroupState::Scheduled { reason, .. } = self.groups[group as usize].state {
                self.count_parked(reason, false);
            }
            self.groups[group as usize].state = GroupState::Moving;
            self.route(now, group);
        }
        self.serve_gates(now);
        self.look_for_transfers(now);
        if now.instant >= self.sweep_at {
            self.sweep_at = now.instant + SWEEP_PERIOD;
            self.sweep(now);
        }
    }

    /// Expiry holds in ready queues too; what nobody uses is forgotten; a path that found no room is tried again.
    fn sweep(&mut self, now: Moment) {
        let paths: Vec<u32> = self.paths.iter().map(|(path, _)| path as u32).collect();
        for path in paths {
            let expired = self.paths[path as usize].iter_ready().any(|group| self.is_expired(now, *group));
            if expired {
                for group in self.paths[path as usize].drain_ready() {
                    self.groups[group as usize].state = GroupState::Moving;
                    self.route(now, group);
                }
            }
            if self.paths[path as usize].is_unused(now.instant) {
                let path = self.paths.remove(path as usize);
                self.path_ids.remove(&path.key);
            } else {
                self.kick(now, path);
            }
        }
        self.sweep_gates(now.instant);
        self.domains.sweep(now.instant);
    }

    pub(super) fn is_expired(&self, now: Moment, group: u32) -> bool {
        match self.groups[group as usize].job {
            JobRef::Local(job) => now.wall >= self.jobs[job as usize].expires_at,
            JobRef::Remote(work) => now.wall >= self.works[work as usize].job.expires_at,
        }
    }
}

/// Whether no mail has another pool under `after` than under `before`, as far as that is told without looking at each.
fn places_alike(before: &Snapshot, after: &Snapshot) -> bool {
    let of = |domain: Option<&Arc<SendingDomain>>| domain.map(|domain| domain.pool);
    before.pools.is_shared_with(&after.pools)
        && Arc::ptr_eq(&before.policies, &after.policies)
        && after.domains.changes(&before.domains).into_iter().all(|(_, was, is)| of(was) == of(is))
}
