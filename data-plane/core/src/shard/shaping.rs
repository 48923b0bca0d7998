//! Throttles and limits by rules: what of a path's ready mail may go out, and what waits for which gate.
//!
//! Everything is counted where it begins: a mail when its session takes it, a connection when it is opened. A closed gate
//! stops one of three things: a path (a throttle of its own or of its provider), a connection (a limit or a throttle of
//! them), or some of a path's mail (a rule about a tenant, campaign, class or recipient domain). What is stopped stays in
//! its order and its queue, or is held beside it; the gate calls the path when there is room again.
//!
//! Invariants worth naming: an open connection is counted by the limits that its path has at present, however the rules
//! changed meanwhile; what is held waits in the row of one of its closed gates, or has been called.

use std::collections::BTreeSet;

use postrail_schema::ids::{ShapingRuleId, TenantId};
use postrail_schema::limits::{THROTTLED_FRESH_MAX, THROTTLED_WORKS_MAX};
use postrail_schema::selector::MailFacts;
use smallvec::SmallVec;

use super::{GroupState, JobRef, Shard};
use crate::base::{Instant, Moment};
use crate::rules::{Allowance, Ceiling, Counted, Span};
use crate::schedule::{FairQueue, GateList, Lane, Path, WaitReason, Waiter};

impl Shard {
    /// Makes a path what the rules say of it now.
    pub(super) fn shape_path(&mut self, now: Instant, path: u32) {
        let place = &self.paths[path as usize];
        let shape = self.rules.shape(place.key.source, &place.hosts);
        let (mut mails, mut connections) = (GateList::new(), GateList::new());
        for ceiling in &shape.ceilings {
            let gate = self.gates.gate(now, ceiling, &place.key);
            match ceiling.counted {
                Counted::Mails => mails.push(gate),
                Counted::ConnectionStarts | Counted::Connections => connections.push(gate),
            }
        }
        let connections_max = self.rules.connections(place.key.source, shape.limits.connections, now);
        connections.extend(self.lanes_gate(now, path, connections_max));
        let place = &mut self.paths[path as usize];
        place.connections_max = connections_max;
        (place.shape, place.mail_gates, place.connection_gates) = (shape, mails, connections);
    }

    /// A path whose address has moved grows with time.
    pub(super) fn grow_path(&mut self, now: Instant, path: u32) {
        let place = &mut self.paths[path as usize];
        let connections_max = self.rules.connections(place.key.source, place.shape.limits.connections, now);
        place.connections_max = connections_max;
        self.lanes_gate(now, path, connections_max);
    }

    /// The gate of the connections that all lanes of a path have together, where there may be several lanes.
    fn lanes_gate(&mut self, now: Instant, path: u32, connections_max: usize) -> Option<u32> {
        if self.rules.snapshot().tls.is_empty() {
            return None;
        }
        let allowance = Allowance::Limit(connections_max);
        let ceiling = Ceiling { rule: None, counted: Counted::Connections, span: Span::Path, allowance };
        Some(self.gates.gate(now, &ceiling, &self.paths[path as usize].key))
    }

    /// The same for every path. What is open is counted anew, and what was held back is looked at again.
    pub(super) fn shape_paths(&mut self, now: Moment) {
        let paths: Vec<u32> = self.paths.iter().map(|(path, _)| path as u32).collect();
        for path in &paths {
            self.shape_path(now.instant, *path);
        }
        self.gates.reset_limits();
        for (_, session) in &self.sessions {
            self.gates.count(&self.paths[session.path as usize].connection_gates);
        }
        for path in paths {
            let place = &mut self.paths[path as usize];
            place.called.clear();
            for mut queue in std::mem::take(&mut place.held).into_values() {
                for group in queue.drain() {
                    self.enqueue(now, path, group);
                }
            }
        }
    }

    /// What holds for one group beside what holds for its path.
    fn ceilings_of(&self, path: u32, group: u32) -> SmallVec<[Ceiling; 2]> {
        let place = &self.paths[path as usize];
        let group = &self.groups[group as usize];
        let campaign = match group.job {
            JobRef::Local(job) => self.campaigns.name(self.jobs[job as usize].campaign),
            JobRef::Remote(work) => self.works[work as usize].job.campaign.as_str(),
        };
        self.rules.mail_ceilings(self.mail_facts(group), campaign, place.key.source, &place.hosts, &place.shape)
    }

    /// The gates of one group beside those of its path.
    fn gates_of(&mut self, now: Instant, path: u32, group: u32) -> GateList {
        if self.rules.is_unshaped() {
            return GateList::new();
        }
        let ceilings = self.ceilings_of(path, group);
        let key = &self.paths[path as usize].key;
        let mut gates: GateList = ceilings.iter().map(|ceiling| self.gates.gate(now, ceiling, key)).collect();
        gates.sort_unstable();
        gates
    }

    /// Puts a group into the ready queue of its path, or to what is held back.
    pub(super) fn put_ready(&mut self, now: Instant, path: u32, group: u32) {
        self.groups[group as usize].state = GroupState::Ready { path };
        let gates = self.gates_of(now, path, group);
        let (lane, tenant) = self.lane_of(now, group);
        let waits_for = if self.is_held(now, path, &gates) {
            self.hold(now, path, &gates, group, lane);
            self.gates.closed(&gates, now).map(|gate| (gate, self.paths[path as usize].held[&gates].len()))
        } else {
            let weight = self.rules.weight(tenant);
            let place = &mut self.paths[path as usize];
            place.queue.push(lane, tenant, weight, group);
            self.gates.closed(&place.mail_gates, now).map(|gate| (gate, place.queue.len()))
        };
        // Content that would be kept for long is read again when its turn comes.
        if let Some((gate, before)) = waits_for
            && let JobRef::Local(job) = self.groups[group as usize].job
            && self.groups[group as usize].attempts == 0
            && self.gates.interval(gate).saturating_mul(before as u32) > THROTTLED_FRESH_MAX
        {
            self.tried(job, self.groups[group as usize].recipients.len());
        }
    }

    /// Where a group that becomes ready queues, and whose it is.
    fn lane_of(&mut self, now: Instant, group: u32) -> (Lane, TenantId) {
        let ours = &self.groups[group as usize];
        let MailFacts { tenant, class, .. } = self.mail_facts(ours);
        let is_reserved = self.reserves.take(now, tenant, self.rules.reserve(tenant), ours.recipients.len());
        (Lane::new(class, is_reserved), tenant)
    }

    /// Whether mail behind `gates` that has not been called has to wait: they are closed, or others wait for them.
    fn is_held(&self, now: Instant, path: u32, gates: &GateList) -> bool {
        !gates.is_empty()
            && (self.gates.closed(gates, now).is_some()
                || self.gates.wanted(gates).is_some()
                || self.paths[path as usize].held.contains_key(gates))
    }

    fn hold(&mut self, now: Instant, path: u32, gates: &GateList, group: u32, lane: Lane) {
        let tenant = self.mail_facts(&self.groups[group as usize]).tenant;
        let weight = self.rules.weight(tenant);
        let queue = self.paths[path as usize].held.entry(gates.clone()).or_default();
        queue.push(lane, tenant, weight, group);
        self.wait_held(now, path, gates);
    }

    /// Lets what is held behind `gates` wait for one that is closed, or else for its turn at one of them.
    fn wait_held(&mut self, now: Instant, path: u32, gates: &GateList) {
        if self.paths[path as usize].called.contains(gates) {
            return;
        }
        let gate =
            self.gates.closed(gates, now).or_else(|| self.gates.wanted(gates)).or_else(|| gates.first().copied());
        if let Some(gate) = gate {
            self.gates.wait(now, gate, Waiter { path, hold: gates.clone() });
        }
    }

    /// Whether the path's own gates let a mail out; if not, the path waits for them.
    pub(super) fn is_path_open(&mut self, now: Instant, path: u32) -> bool {
        self.closed_to(now, path, |place| &place.mail_gates).is_none()
    }

    /// Whether the path's gates allow a further connection; if not, the path waits for them.
    pub(super) fn may_connect(&mut self, now: Instant, path: u32) -> bool {
        let Some((gate, is_new)) = self.closed_to(now, path, |place| &place.connection_gates) else { return true };
        if is_new {
            self.free_idle(gate);
        }
        false
    }

    /// The gate that `path` waits for, if it has to, and whether it has only just begun to. Whoever has not been called goes
    /// behind those who wait.
    fn closed_to(&mut self, now: Instant, path: u32, gates: impl Fn(&Path) -> &GateList) -> Option<(u32, bool)> {
        let place = &self.paths[path as usize];
        let gates = gates(place);
        let others = || self.gates.wanted(gates).filter(|_| !place.is_called);
        let gate = self.gates.closed(gates, now).or_else(others)?;
        Some((gate, self.gates.wait(now, gate, Waiter { path, hold: GateList::new() })))
    }

    /// Ends a connection that has nothing to do and is counted by `gate`, so that another path may have one.
    fn free_idle(&mut self, gate: u32) {
        let counted =
            self.paths.iter().filter(|(_, place)| place.connection_gates.contains(&gate)).map(|(path, _)| path);
        let idle = counted.into_iter().find(|path| !self.paths[*path].idle_sessions().is_empty());
        if let Some(session) = idle.and_then(|path| self.paths[path].take_idle()) {
            self.quit(session);
        }
    }

    /// Whether a session of `path` has to end, though it could go on: the rules allow fewer connections than there are,
    /// or fewer mails on one.
    pub(super) fn has_had_enough(&self, session: u32) -> bool {
        let slot = &self.sessions[session as usize];
        let place = &self.paths[slot.path as usize];
        place.connections() > place.connections_max
            || slot.mails >= place.shape.limits.mails_per_connection
            || self.gates.is_exceeded(&place.connection_gates)
    }

    /// Takes the next group that may go out on `path` now, with what it costs.
    pub(super) fn next_ready(&mut self, now: Moment, path: u32) -> Option<u32> {
        if self.rules.is_unshaped() {
            return self.paths[path as usize].queue.pop();
        }
        if !self.is_path_open(now.instant, path) {
            return None;
        }
        let found = if self.paths[path as usize].is_queue_next {
            self.next_queued(now.instant, path).or_else(|| self.next_called(now.instant, path))
        } else {
            self.next_called(now.instant, path).or_else(|| self.next_queued(now.instant, path))
        };
        let (group, gates) = found?;
        self.gates.take(&gates, now.instant);
        let place = &mut self.paths[path as usize];
        self.gates.take(&place.mail_gates, now.instant);
        place.is_called = false;
        Some(group)
    }

    /// The next of what was held back and has been called. It takes turns with the ready queue.
    fn next_called(&mut self, now: Instant, path: u32) -> Option<(u32, GateList)> {
        while let Some(gates) = self.paths[path as usize].called.pop_front() {
            if self.gates.closed(&gates, now).is_some() {
                self.wait_held(now, path, &gates);
                continue;
            }
            let place = &mut self.paths[path as usize];
            let Some(group) = place.held.get_mut(&gates).and_then(FairQueue::pop) else { continue };
            place.is_queue_next = true;
            if place.held.get(&gates).is_some_and(FairQueue::is_empty) {
                place.held.remove(&gates);
            } else {
                self.wait_held(now, path, &gates);
            }
            return Some((group, gates));
        }
        None
    }

    fn next_queued(&mut self, now: Instant, path: u32) -> Option<(u32, GateList)> {
        while let Some((group, is_reserved)) = self.paths[path as usize].queue.pop_marked() {
            let gates = self.gates_of(now, path, group);
            if !self.is_held(now, path, &gates) {
                self.paths[path as usize].is_queue_next = false;
                return Some((group, gates));
            }
            let class = self.mail_facts(&self.groups[group as usize]).class;
            self.hold(now, path, &gates, group, Lane::new(class, is_reserved));
        }
        None
    }

    /// What [`Self::next_ready`] took is not begun after all.
    pub(super) fn return_turn(&mut self, now: Instant, path: u32, group: u32) {
        if self.rules.is_unshaped() {
            return;
        }
        let gates = self.gates_of(now, path, group);
        self.gates.give_back(now, &gates);
        self.gates.give_back(now, &self.paths[path as usize].mail_gates.clone());
    }

    /// Calls everyone whose gate has room again.
    pub(super) fn serve_gates(&mut self, now: Moment) {
        while let Some(Waiter { path, hold }) = self.gates.call(now.instant) {
            let Some(place) = self.paths.get_mut(path as usize) else { continue };
            if hold.is_empty() {
                place.is_called = true;
            } else if place.held.contains_key(&hold) && !place.called.contains(&hold) {
                place.called.push_back(hold);
            }
            self.kick(now, path);
        }
    }

    /// Sends a group of another shard home, if there is enough that waits for the gates which it would wait for: what has
    /// crossed counts against what may cross.
    pub(super) fn sends_home(&mut self, now: Moment, path: u32, group: u32) -> bool {
        let is_foreign = matches!(self.groups[group as usize].job, JobRef::Remote(_));
        let is_full = || self.paths[path as usize].iter_ready().nth(THROTTLED_WORKS_MAX - 1).is_some();
        if !is_foreign || self.rules.is_unshaped() || !is_full() {
            return false;
        }
        let gates = self.gates_of(now.instant, path, group);
        let place = &self.paths[path as usize];
        let closed = self.gates.closed(&gates, now.instant);
        let Some(gate) = closed.or_else(|| self.gates.closed(&place.mail_gates, now.instant)) else { return false };
        let interval = self.gates.interval(gate);
        let ours = &self.groups[group as usize];
        let tenant = self.mail_facts(ours).tenant;
        // What is reserved does not stand behind all that went home before.
        let is_reserved = self.reserves.allows(now.instant, tenant, self.rules.reserve(tenant), ours.recipients.len());
        if is_reserved && place.held.get(&gates).unwrap_or(&place.queue).reserved_len() < THROTTLED_WORKS_MAX {
            return false;
        }
        let returns_at = &mut self.paths[path as usize].returns_at[usize::from(is_reserved)];
        let due = (now.instant + interval * THROTTLED_WORKS_MAX as u32).max(*returns_at);
        *returns_at = due + interval;
        self.return_work(now, group, WaitReason::Throttled, due);
        true
    }

    /// The rules that hold a ready group back at present.
    pub(super) fn held_by(&self, now: Instant, path: u32, group: u32) -> Vec<ShapingRuleId> {
        if self.rules.is_unshaped() {
            return Vec::new();
        }
        let place = &self.paths[path as usize];
        let own = self.ceilings_of(path, group);
        let own = own.iter().filter_map(|ceiling| self.gates.find(ceiling, &place.key));
        let connecting = if place.connections() == 0 { place.connection_gates.as_slice() } else { &[] };
        let closed = own
            .chain(place.mail_gates.iter().chain(connecting).copied())
            .filter(|gate| self.gates.closed(&[*gate], now).is_some());
        closed.filter_map(|gate| self.gates.rule(gate)).collect()
    }

    /// Forgets gates that nobody needs.
    pub(super) fn sweep_gates(&mut self, now: Instant) {
        if self.gates.is_empty() {
            return;
        }
        let mut used = BTreeSet::new();
        for (_, path) in &self.paths {
            used.extend(path.mail_gates.iter().chain(&path.connection_gates).copied());
            used.extend(path.held.keys().flatten().copied());
        }
        self.gates.sweep(now, |gate| used.contains(&gate));
    }
}
