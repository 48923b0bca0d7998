//! Mail that can leave from another host only goes there. What that means, and what may go wrong: [`crate::transfer`].
//!
//! ```text
//! look: jobs of which nothing can leave from here --Offer--> way to a host --Answered--> given, or routed again
//!                                                             ^      |
//!                                                             +------+ no answer: again, after a rest
//! ```
//!
//! A job goes as a whole: when all of it waits and none of it can leave from here, to a host that all of it can leave
//! from, or else some of it (which then sends that and gives away the rest). Where this host is being emptied, all that
//! waits goes, whatever it waits for.
//!
//! Invariants worth naming: a group of a bound job is `Offered`, and in no queue; a way has one offer without an answer,
//! and what is bound to its host goes in no other. Absent here: how an offer reaches the host.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::allocation::{HostName, is_allocated};
use postrail_schema::ids::{MessageId, RecipientIndex};
use postrail_schema::limits::{DRAIN_NOTICE, TRANSFER_JOBS_MAX, TRANSFER_SCAN_JOBS, TRANSFERS_REMEMBERED_MAX};
use postrail_schema::selector::MailFacts;
use postrail_schema::snapshot::EgressSource;

use super::{GroupState, Output, Record, Shard};
use crate::base::{Instant, Map, MapSeed, Moment};
use crate::mail::Job;
use crate::schedule::WaitReason;
use crate::spool::JobMeta;
use crate::transfer::{Answer, Fate, KeptReason, Neighbour, Neighbours, Note, NoteKind, Offer, OfferedJob};

/// How long after mail began to wait for an address that is elsewhere it is looked for: others come meanwhile.
const LOOK_DELAY: Duration = Duration::from_millis(20);
/// Between two steps of a look.
const STEP_PAUSE: Duration = Duration::from_millis(5);
/// How long nothing is looked for when nothing was found, and nothing changes by which something may be.
const LOOK_PERIOD: Duration = Duration::from_secs(30);
/// Until a host that did not answer, or took nothing, is asked again: doubled each time.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);

/// See the module head.
#[derive(Debug)]
pub(super) struct Transfers {
    /// `None`: nothing was told of other hosts; mail stays.
    neighbours: Option<Arc<Neighbours>>,
    /// Since when this host is to be emptied and others would take the mail that is submitted here.
    replaced_since: Option<Instant>,
    ways: BTreeMap<HostName, Way>,
    bound: Map<MessageId, HostName>,
    /// Jobs that were taken before the start, with the hop of each: their givers may not have heard of it yet, and ask
    /// when they have settled here. The last [`TRANSFERS_REMEMBERED_MAX`] that the journal tells of, in their order.
    taken: Map<MessageId, u16>,
    taken_order: VecDeque<MessageId>,
    /// Of the last offer.
    turn: u64,
    /// The next slot of jobs that is looked at, and how many are left of this look.
    cursor: usize,
    left: usize,
    /// When it is looked further.
    look_at: Instant,
}

/// What is under way to one host.
#[derive(Debug, Default)]
struct Way {
    /// Bound to it. The first `offered` are in the present offer.
    jobs: Vec<MessageId>,
    offered: usize,
    /// The turn of the offer that has no answer yet, and when it was made.
    asked: Option<(u64, Instant)>,
    /// Nothing is offered before.
    rests_until: Instant,
    /// The last rest; zero after a success.
    rest: Duration,
}

impl Way {
    fn is_free(&self, now: Instant) -> bool {
        self.jobs.is_empty() && now >= self.rests_until
    }

    /// Whether what is bound is to be offered (again).
    fn is_due(&self, now: Instant) -> bool {
        self.asked.is_none() && !self.jobs.is_empty() && now >= self.rests_until
    }

    fn rest(&mut self, now: Instant) {
        self.rest = (self.rest * 2).clamp(REST_MIN, REST_MAX);
        self.rests_until = now + self.rest;
    }
}

impl Transfers {
    pub(super) fn new(seed: &MapSeed, now: Moment) -> Self {
        Self {
            neighbours: None,
            replaced_since: None,
            ways: BTreeMap::new(),
            bound: seed.map(),
            taken: seed.map(),
            taken_order: VecDeque::new(),
            // Above whatever an earlier process can have used.
            turn: now.wall.unix_ms() << 20,
            cursor: 0,
            left: 0,
            look_at: Instant::FAR,
        }
    }

    /// The host that a job is bound to.
    pub(super) fn bound_to(&self, message: MessageId) -> Option<&HostName> {
        self.bound.get(&message)
    }

    /// Something began to wait that another host may be able to send.
    pub(super) fn look_soon(&mut self, now: Instant) {
        if self.neighbours.is_some() {
            self.look_at = self.look_at.min(now + LOOK_DELAY);
        }
    }

    /// Nothing was found: the next look is when a host has rested, unless something changes before.
    fn look_later(&mut self, now: Instant) {
        let resting = self.ways.values().filter(|way| way.jobs.is_empty() && way.rests_until > now);
        let rested = resting.map(|way| way.rests_until).min().unwrap_or(Instant::FAR);
        self.look_at = rested.min(now + LOOK_PERIOD);
    }

    fn is_leaving(&self) -> bool {
        self.neighbours.as_ref().is_some_and(|neighbours| neighbours.is_leaving)
    }

    /// The host, if it takes mail and has nothing of ours in question.
    fn free<'a>(&'a self, now: Instant, hosts: &'a [Neighbour]) -> impl Iterator<Item = &'a Neighbour> {
        let is_free = move |host: &&Neighbour| self.ways.get(&host.name).is_none_or(|way| way.is_free(now));
        hosts.iter().filter(|host| host.takes).filter(is_free)
    }
}

/// How far a host is emptied by an operator's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// No other host of the region would accept the mail instead, so it goes on to.
    Alone,
    /// Others would, and what distributes submissions is to turn to them: it is still given addresses, or has not been in this
    /// state for [`DRAIN_NOTICE`].
    Draining,
    /// It accepts nothing: what it would accept could only go to other hosts.
    Drained,
}

impl Shard {
    /// How far this host is emptied, if an operator wants that. By what was told last of the allocation, and not by what may be
    /// used: a host whose lease is away, or that waits for it after a start, may use nothing and has its addresses still.
    pub fn leaving(&self, now: Instant) -> Option<Leaving> {
        let neighbours = self.transfers.neighbours.as_ref().filter(|neighbours| neighbours.is_leaving)?;
        Some(match self.transfers.replaced_since {
            None => Leaving::Alone,
            Some(since) if neighbours.has_addresses || now < since + DRAIN_NOTICE => Leaving::Draining,
            Some(_) => Leaving::Drained,
        })
    }

    /// The host that the job is bound to, for a copy of its frame.
    pub fn bound_to(&self, message: MessageId) -> Option<HostName> {
        self.transfers.bound_to(message).cloned()
    }

    /// How often the job that is held here has gone to another host; `None`: it is not held here.
    pub fn hop_of(&self, message: MessageId) -> Option<u16> {
        self.job_of(message).map(|job| self.jobs[job as usize].hop.into())
    }

    /// Whether the job was taken at `hop`, or at a later one, before the start.
    pub fn had_taken(&self, message: MessageId, hop: u16) -> bool {
        self.transfers.taken.get(&message).is_some_and(|taken| *taken >= hop)
    }

    /// The journal tells of a job that came from another host.
    pub(super) fn remember_taken(&mut self, message: MessageId, hop: u16) {
        let Transfers { taken, taken_order, .. } = &mut self.transfers;
        if taken.insert(message, hop).is_some() {
            return;
        }
        taken_order.push_back(message);
        if taken_order.len() > TRANSFERS_REMEMBERED_MAX
            && let Some(oldest) = taken_order.pop_front()
        {
            taken.remove(&oldest);
        }
    }

    /// When [`Self::look_for_transfers`] has something to do.
    pub(super) fn transfer_at(&self) -> Instant {
        if self.transfers.neighbours.is_none() || self.draining || self.recovering {
            return Instant::FAR;
        }
        let due = self.transfers.ways.values().filter(|way| way.asked.is_none() && !way.jobs.is_empty());
        let due = due.map(|way| way.rests_until).min().unwrap_or(Instant::FAR);
        due.min(self.transfers.look_at)
    }

    pub(super) fn apply_neighbours(&mut self, now: Moment, neighbours: Arc<Neighbours>) {
        let before = self.transfers.neighbours.replace(Arc::clone(&neighbours));
        let took =
            |name: &HostName| before.iter().flat_map(|before| &before.hosts).any(|it| it.takes && it.name == *name);
        for host in neighbours.hosts.iter().filter(|host| host.takes && !took(&host.name)) {
            // It is back: what kept it from answering is over.
            if let Some(way) = self.transfers.ways.get_mut(&host.name) {
                (way.rest, way.rests_until) = (Duration::ZERO, now.instant);
            }
        }
        let since = self.transfers.replaced_since.unwrap_or(now.instant);
        self.transfers.replaced_since = neighbours.is_replaced().then_some(since);
        self.transfers.look_at = now.instant;
        self.look_for_transfers(now);
    }

    /// An operator vouches for a host that was forgotten: it sends nothing any more.
    fn unbind_from_forgotten(&mut self, now: Moment) {
        let Some(neighbours) = self.transfers.neighbours.clone() else { return };
        let is_known = |name: &HostName| neighbours.hosts.iter().any(|host| host.name == *name);
        let forgotten = self.transfers.ways.iter().filter(|(name, way)| !is_known(name) && way.asked.is_none());
        for name in forgotten.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let way = self.transfers.ways.remove(&name).unwrap_or_default();
            way.jobs.into_iter().for_each(|message| self.keep(now, message));
        }
    }

    /// Offers again what has no answer, then looks on for what should be elsewhere.
    pub(super) fn look_for_transfers(&mut self, now: Moment) {
        if self.transfer_at() > now.instant {
            return;
        }
        self.unbind_from_forgotten(now);
        let due = self.transfers.ways.iter().filter(|(_, way)| way.is_due(now.instant));
        for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.offer(now, &name, true);
        }
        if self.transfers.look_at <= now.instant {
            self.look(now);
        }
    }

    /// One step over the jobs: what it finds is offered.
    fn look(&mut self, now: Moment) {
        let Some(neighbours) = self.transfers.neighbours.clone() else { return };
        let is_wanted = self.elsewhere > 0 || neighbours.is_leaving && !self.jobs.is_empty();
        if !is_wanted || self.transfers.free(now.instant, &neighbours.hosts).next().is_none() {
            return self.transfers.look_later(now.instant);
        }
        if self.transfers.left == 0 {
            self.transfers.left = self.jobs.capacity();
        }
        let mut found: BTreeMap<HostName, Vec<MessageId>> = BTreeMap::new();
        for _ in 0..TRANSFER_SCAN_JOBS.min(self.transfers.left) {
            let job = self.transfers.cursor;
            self.transfers.cursor = if job + 1 < self.jobs.capacity() { job + 1 } else { 0 };
            self.transfers.left -= 1;
            if self.jobs.contains(job)
                && let Some(host) = self.host_for(now, job as u32, &neighbours)
            {
                let jobs = found.entry(host).or_default();
                jobs.push(self.jobs[job].id);
                if jobs.len() == TRANSFER_JOBS_MAX {
                    break;
                }
            }
        }
        if self.transfers.left == 0 && found.is_empty() {
            self.transfers.look_later(now.instant);
        } else {
            self.transfers.look_at = now.instant + STEP_PAUSE;
        }
        for (host, jobs) in found {
            for message in &jobs {
                self.bind(*message, &host);
            }
            self.offer(now, &host, false);
        }
    }

    /// Where a job is to go, if it is to go at all.
    fn host_for(&mut self, now: Moment, job: u32, neighbours: &Neighbours) -> Option<HostName> {
        let slot = &self.jobs[job as usize];
        if slot.hop == u8::MAX || slot.ending().is_some() {
            return None;
        }
        for group in self.groups_in(job) {
            match self.groups[group as usize].state {
                GroupState::Scheduled { reason, .. }
                    if neighbours.is_leaving || reason == WaitReason::AddressElsewhere => {}
                _ => return None,
            }
        }
        let count = |host: &Neighbour| {
            let is_carried = |group: &u32| {
                let mail = self.mail_facts(&self.groups[*group as usize]);
                let is_there = |source: &EgressSource| {
                    let is_its = !is_allocated(source.address) || host.addresses.contains(&source.address);
                    is_its && (neighbours.is_leaving || !self.rules.source_suspended(source.id))
                };
                // What has no pool can leave from nowhere, and so is nobody's more than another's.
                self.rules.has_source(mail, is_there).unwrap_or(neighbours.is_leaving)
            };
            self.groups_in(job).filter(is_carried).count()
        };
        let counted = self.transfers.free(now.instant, &neighbours.hosts).map(|host| (count(host), host));
        let able: Vec<(usize, &Neighbour)> = counted.filter(|(carried, _)| *carried > 0).collect();
        let most = able.iter().map(|(carried, _)| *carried).max()?;
        let best: Vec<&HostName> =
            able.iter().filter(|(carried, _)| *carried == most).map(|(_, host)| &host.name).collect();
        let chosen = self.random.below(best.len() as u64) as usize;
        best.get(chosen).map(|name| (*name).clone())
    }

    /// Nothing of the job is sent from here until the host has answered.
    pub(super) fn bind(&mut self, message: MessageId, to: &HostName) {
        let Some(job) = self.job_of(message) else { return };
        for group in self.groups_in(job).collect::<Vec<_>>() {
            let GroupState::Scheduled { due, reason } = self.groups[group as usize].state else {
                unreachable!("all of a job that is bound waits");
            };
            self.detach(group);
            self.groups[group as usize].state = GroupState::Offered { due, reason };
        }
        self.transfers.bound.insert(message, to.clone());
        self.transfers.ways.entry(to.clone()).or_default().jobs.push(message);
    }

    /// Offers what is bound to the host: what was offered before, or the first that fit.
    fn offer(&mut self, now: Moment, to: &HostName, is_noted: bool) {
        self.transfers.turn += 1;
        let turn = self.transfers.turn;
        let Some(way) = self.transfers.ways.get_mut(to) else { return };
        if way.offered == 0 {
            way.offered = way.jobs.len().min(TRANSFER_JOBS_MAX);
        }
        way.asked = Some((turn, now.instant));
        let offered = way.jobs[..way.offered].to_vec();
        let of = |message: MessageId| {
            let slot = &self.jobs[self.job_of(message).expect("a bound job is held here") as usize];
            OfferedJob { message, at: slot.at, hop: slot.hop.into(), is_noted }
        };
        let jobs = offered.into_iter().map(of).collect();
        let is_leaving = self.transfers.is_leaving();
        self.outputs.push_back(Output::Offer(Box::new(Offer { to: to.clone(), turn, is_leaving, jobs })));
    }

    pub(super) fn answered(&mut self, now: Moment, turn: u64, answer: Answer) {
        let asked = self.transfers.ways.values_mut().find(|way| way.asked.is_some_and(|(asked, _)| asked == turn));
        let Some(way) = asked else { return };
        let began = way.asked.take().map_or(now.instant, |(_, began)| began);
        match answer {
            Answer::Unknown { turn } => {
                way.rest(now.instant);
                self.transfers.turn = self.transfers.turn.max(turn.unwrap_or_default());
                self.unbind_from_forgotten(now);
            }
            Answer::Fates(fates) => {
                assert_eq!(fates.len(), way.offered, "one fate a job");
                let offered: Vec<MessageId> = way.jobs.drain(..way.offered).collect();
                way.offered = 0;
                if fates.contains(&Fate::Taken) {
                    // As long a rest as it took: whoever else has to do here or there comes in between.
                    way.rest = Duration::ZERO;
                    way.rests_until = now.instant + now.instant.since(began).min(REST_MIN);
                } else {
                    way.rest(now.instant);
                }
                self.transfers.look_at = self.transfers.look_at.min(way.rests_until);
                for (message, fate) in offered.into_iter().zip(fates) {
                    match fate {
                        Fate::Taken => self.give(message),
                        Fate::Kept(_) => self.keep(now, message),
                    }
                }
            }
        }
    }

    /// Another host has the job: nothing of it is here any more.
    fn give(&mut self, message: MessageId) {
        self.transfers.bound.remove(&message);
        let Some(job) = self.job_of(message) else { return };
        for group in self.groups_in(job).collect::<Vec<_>>() {
            self.drop_group(group);
        }
        let slot = &self.jobs[job as usize];
        let (at, hop, open) = (slot.at, slot.hop, usize::from(slot.open));
        self.waiting -= open;
        self.counters.given += open as u64;
        self.forget_job(job);
        let note = Note { message, hop: hop.into(), kind: NoteKind::Given };
        let record = Record { notes: vec![note], finished: vec![(message, at)], ..Record::default() };
        self.outputs.push_back(Output::Record(Box::new(record)));
    }

    /// No other host has the job: it goes on here.
    fn keep(&mut self, now: Moment, message: MessageId) {
        self.transfers.bound.remove(&message);
        let Some(job) = self.job_of(message) else { return };
        let note = Note { message, hop: self.jobs[job as usize].hop.into(), kind: NoteKind::Kept };
        self.outputs.push_back(Output::Record(Box::new(Record { notes: vec![note], ..Record::default() })));
        for group in self.groups_in(job).collect::<Vec<_>>() {
            let GroupState::Offered { due, reason } = self.groups[group as usize].state else {
                unreachable!("a group of a bound job is offered");
            };
            self.groups[group as usize].state = GroupState::Moving;
            match reason {
                // It has a time, and waits for it here as it did.
                WaitReason::Retry | WaitReason::SiteBackoff => self.schedule(now, group, due, reason),
                _ => self.route(now, group),
            }
        }
    }

    /// Whether a job that another host offers can be taken. `giver_is_leaving`: also if nothing of it can leave from here.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn may_take(&self, meta: &JobMeta, giver_is_leaving: bool) -> Result<(), KeptReason> {
        let job = &meta.job;
        if self.draining || self.transfers.is_leaving() {
            return Err(KeptReason::Leaving);
        }
        if !self.rules.snapshot().tenants.contains_key(&job.tenant) {
            return Err(KeptReason::Unknown);
        }
        let is_open = |index: &u16| meta.carried(RecipientIndex(*index)).is_none_or(|carried| !carried.settled);
        let open: Vec<u16> = (0..job.recipients.len() as u16).filter(is_open).collect();
        if !self.has_room(job.tenant, open.len()) {
            return Err(KeptReason::NoRoom);
        }
        let is_any = giver_is_leaving || open.iter().any(|index| self.could_leave(job, *index));
        if is_any { Ok(()) } else { Err(KeptReason::NotHere) }
    }

    /// Whether a recipient's mail could leave from here, as far as that is known without its site.
    fn could_leave(&self, job: &Job, index: u16) -> bool {
        let domain = job.recipients[usize::from(index)].address.domain();
        let known = self.domains.known(domain);
        let mail = MailFacts {
            recipient_domain: Some(domain.as_str()),
            site: known.and_then(|slot| slot.hosts.as_ref()).map(|hosts| &*hosts.site.0),
            sending_domain: job.domain,
            tenant: job.tenant,
            class: job.class,
        };
        let is_site_missing = mail.site.is_none() && self.rules.places_by_site();
        let is_here = |source: &EgressSource| self.rules.is_here(source.id) && !self.rules.source_suspended(source.id);
        is_site_missing || self.rules.has_source(mail, is_here) == Some(true)
    }
}
