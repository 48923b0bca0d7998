//! Recipient domains, interned: each is resolved once for all groups that wait for it.

use std::rc::Rc;

use slab::Slab;

use crate::base::{Instant, Map, MapSeed};
use crate::dns::MailHosts;
use crate::mail::Domain;

/// What is known of a recipient domain.
#[derive(Debug)]
pub(super) struct DomainSlot {
    pub(super) name: Domain,
    pub(super) hosts: Option<Rc<MailHosts>>,
    /// Groups that wait for the answer to a question under way.
    pub(super) waiters: Vec<u32>,
    pub(super) asked: bool,
    groups: u32,
}

/// The interner.
#[derive(Debug)]
pub(super) struct Domains {
    slots: Slab<DomainSlot>,
    ids: Map<Domain, u32>,
}

impl Domains {
    pub(super) fn new(seed: &MapSeed) -> Self {
        Self { slots: Slab::new(), ids: seed.map() }
    }

    /// The index of `name`.
    pub(super) fn intern(&mut self, name: &Domain) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let slot = DomainSlot { name: name.clone(), hosts: None, waiters: Vec::new(), asked: false, groups: 0 };
        let id = self.slots.insert(slot) as u32;
        self.ids.insert(name.clone(), id);
        id
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.ids.iter().find(|(domain, _)| domain.as_str() == name).map(|(_, id)| *id)
    }

    /// What is known of a domain, if anything is.
    pub(super) fn known(&self, name: &Domain) -> Option<&DomainSlot> {
        self.ids.get(name).map(|id| self.slot(*id))
    }

    pub(super) fn slot(&self, id: u32) -> &DomainSlot {
        &self.slots[id as usize]
    }

    pub(super) fn slot_mut(&mut self, id: u32) -> Option<&mut DomainSlot> {
        self.slots.get_mut(id as usize)
    }

    /// The hosts of a domain, while the answer lives.
    pub(super) fn hosts(&self, id: u32, now: Instant) -> Option<&Rc<MailHosts>> {
        self.slots[id as usize].hosts.as_ref().filter(|hosts| hosts.expires > now)
    }

    pub(super) fn retain(&mut self, id: u32) {
        self.slots[id as usize].groups += 1;
    }

    pub(super) fn release(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        assert!(slot.groups > 0, "a domain is released as often as it is retained");
        slot.groups -= 1;
    }

    /// Forgets what no group names and whose answer has expired.
    pub(super) fn sweep(&mut self, now: Instant) {
        let ids = &mut self.ids;
        self.slots.retain(|_, slot| {
            let keep = slot.groups > 0 || slot.asked || slot.hosts.as_ref().is_some_and(|hosts| hosts.expires > now);
            if !keep {
                ids.remove(&slot.name);
            }
            keep
        });
    }
}
