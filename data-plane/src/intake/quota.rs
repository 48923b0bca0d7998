//! Tenants' daily quotas, counted by each shard against its share.
//!
//! Counting is in memory: a restart begins the day's count again. Days are UTC.

use postrail_core::base::{Map, MapSeed, Timestamp};
use postrail_schema::ids::TenantId;
use postrail_schema::snapshot::Snapshot;

/// The counts of one shard.
#[derive(Debug)]
pub struct Quotas {
    day: u64,
    shards: u64,
    used: Map<TenantId, u64>,
}

impl Quotas {
    pub fn new(seed: &MapSeed, shards: u16) -> Self {
        Self { day: 0, shards: u64::from(shards), used: seed.map() }
    }

    /// Takes `recipients` from the tenant's quota; `false`: it is used up, and nothing was taken.
    pub fn take(&mut self, snapshot: &Snapshot, tenant: TenantId, recipients: usize, now: Timestamp) -> bool {
        let Some(quota) = snapshot.tenants.get(&tenant).and_then(|tenant| tenant.quota_per_day) else { return true };
        let day = now.unix_seconds() / 86_400;
        if day != self.day {
            self.day = day;
            self.used.clear();
        }
        let share = quota.div_ceil(self.shards);
        let used = self.used.entry(tenant).or_insert(0);
        if *used + recipients as u64 > share {
            return false;
        }
        *used += recipients as u64;
        true
    }
}
