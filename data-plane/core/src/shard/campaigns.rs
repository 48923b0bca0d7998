//! Campaigns of waiting mail, interned: a job holds two octets for its campaign, so that rules can ask for it while the
//! job itself is in the spool.

use postrail_schema::ids::TenantId;
use postrail_schema::limits::CAMPAIGNS_MAX;
use slab::Slab;

use crate::base::{Map, MapSeed};

#[derive(Debug)]
struct CampaignSlot {
    tenant: TenantId,
    name: Box<str>,
    jobs: u32,
}

/// See the module head.
#[derive(Debug)]
pub(super) struct Campaigns {
    slots: Slab<CampaignSlot>,
    ids: Map<TenantId, Map<Box<str>, u16>>,
    seed: MapSeed,
}

/// The number of no campaign, and of one that found no room.
const NO_CAMPAIGN: u16 = 0;

impl Campaigns {
    pub(super) fn new(seed: &MapSeed) -> Self {
        Self { slots: Slab::new(), ids: seed.map(), seed: seed.clone() }
    }

    /// The number of a campaign, for one job more.
    pub(super) fn retain(&mut self, tenant: TenantId, name: &str) -> u16 {
        if name.is_empty() {
            return NO_CAMPAIGN;
        }
        let ids = self.ids.entry(tenant).or_insert_with(|| self.seed.map());
        if let Some(id) = ids.get(name) {
            self.slots[usize::from(*id - 1)].jobs += 1;
            return *id;
        }
        if self.slots.len() >= CAMPAIGNS_MAX {
            return NO_CAMPAIGN;
        }
        let id = self.slots.insert(CampaignSlot { tenant, name: name.into(), jobs: 1 }) as u16 + 1;
        ids.insert(name.into(), id);
        id
    }

    /// A job of that campaign is gone.
    pub(super) fn release(&mut self, id: u16) {
        let Some(at) = id.checked_sub(1).map(usize::from) else { return };
        self.slots[at].jobs -= 1;
        if self.slots[at].jobs > 0 {
            return;
        }
        let CampaignSlot { tenant, name, .. } = self.slots.remove(at);
        if let Some(ids) = self.ids.get_mut(&tenant) {
            ids.remove(&name);
            if ids.is_empty() {
                self.ids.remove(&tenant);
            }
        }
    }

    /// The name; empty for none.
    pub(super) fn name(&self, id: u16) -> &str {
        id.checked_sub(1).map(|at| &*self.slots[usize::from(at)].name).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;

    #[test]
    fn campaigns_are_told_apart_by_tenant_and_forgotten_with_their_last_job() {
        let mut campaigns = Campaigns::new(&MapSeed::new(&mut Random::new(1)));
        let [red, blue] = [TenantId(1), TenantId(2)];
        let first = campaigns.retain(red, "news");
        assert_eq!(campaigns.retain(red, "news"), first);
        let other = campaigns.retain(blue, "news");
        assert!(other != first && campaigns.name(other) == "news");
        assert_eq!((campaigns.retain(red, ""), campaigns.name(0)), (0, ""));
        campaigns.release(first);
        assert_eq!(campaigns.name(first), "news");
        campaigns.release(first);
        campaigns.release(0);
        assert!(!campaigns.ids.contains_key(&red) && campaigns.slots.len() == 1);
        assert_eq!(campaigns.retain(red, "sale"), first, "the number is free again");
    }
}
