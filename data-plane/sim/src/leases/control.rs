//! A control plane: reads the store, observes, and as long as it believes to lead writes the steps of the allocation.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrail_control_plane::allocation::{Allocation, Demand, Fleet, Known, Observer, Portion, step};
use postrail_schema::allocation::{HostName, Order};

use super::clock::Clock;
use super::store::{Content, Request};

#[derive(Debug)]
pub(super) struct Control {
    pub clock: Clock,
    pub alive: bool,
    pub life: u64,
    pub paused_until: Duration,
    pub leads: bool,
    observer: Observer,
    known: Known,
    head: u64,
    /// When the store was asked what it holds and has not answered, by this clock: one question at a time.
    pub asked: Option<Duration>,
    pub question: u64,
    /// What it writes at once, where that is bounded.
    pub portion: Option<Portion>,
    /// What the last step was made from, so that the same is not computed again.
    last: Option<(Fleet, u64)>,
}

impl Control {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            alive: true,
            life: 0,
            paused_until: Duration::ZERO,
            leads: false,
            observer: Observer::default(),
            known: Known::default(),
            head: 0,
            asked: None,
            question: 0,
            portion: None,
            last: None,
        }
    }

    pub(super) fn kill(&mut self) {
        *self = Self { life: self.life + 1, alive: false, portion: self.portion, ..Self::new(self.clock) };
    }

    /// Takes an answer to what was asked last.
    pub(super) fn read(&mut self, now: Duration, content: &Arc<Content>) {
        self.asked = None;
        self.head = content.head;
        if content.revision != self.known.revision || self.known.revision == 0 {
            self.known.records.clone_from(&content.records);
            self.known.allocation = Allocation { epoch: content.epoch, hosts: content.grants.clone() };
        }
        self.known.revision = content.revision;
        self.known.show(&mut self.observer, self.clock.shows(now));
    }

    /// What this one would write now.
    pub(super) fn step(
        &mut self,
        now: Duration,
        demands: &BTreeMap<IpAddr, Demand>,
        orders: &BTreeMap<HostName, Order>,
    ) -> Option<Request> {
        if self.known.demands != *demands {
            self.known.demands.clone_from(demands);
        }
        if self.known.orders != *orders {
            self.known.orders.clone_from(orders);
        }
        let fleet = self.known.fleet(&self.observer, self.clock.shows(now));
        if self.last.as_ref().is_some_and(|(last, head)| *last == fleet && *head == self.head) {
            return None;
        }
        let step = step(&fleet, &self.known.allocation);
        if step.changed.is_empty() {
            self.last = Some((fleet, self.head));
            return None;
        }
        let step = match self.portion {
            Some(most) => step.portion(&self.known.allocation, most),
            None => step,
        };
        let records = step.relied.iter().map(|host| (host.clone(), self.known.revision(host))).collect();
        Some(Request::Take { head: self.head, records, step: Box::new(step) })
    }
}
