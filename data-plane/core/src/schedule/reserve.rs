//! Reserved rates: which recipients go ahead of all that is not reserved.
//!
//! What becomes ready within its tenant's rate goes into the reserved lane of its path's queue; what exceeds it takes its
//! turn with everybody's, so a tenant that floods gains nothing by its reserve but the reserve. Counted by a generic cell
//! rate algorithm (ITU-T I.371): one instant a tenant. Every shard counts for itself, and by the whole rate: where mail
//! goes out by several shards this errs to the side of who was promised the reserve. A shard asks also where mail crosses to
//! the one that sends it and a flood has taken the way (`shard::route`).
//!
//! Invariants worth naming: in any window of `t` seconds at most `(t + 1)` times the rate is reserved, since what was not
//! used is kept for one second.

use std::time::Duration;

use postrail_schema::ids::TenantId;

use crate::base::{Instant, Map, MapSeed};

/// How much of an unused reserve is kept.
const KEPT: Duration = Duration::from_secs(1);

/// What the tenants of one shard have used of their reserves.
#[derive(Debug)]
pub struct Reserves {
    /// When all that was taken will have been earned.
    earned_at: Map<TenantId, Instant>,
}

impl Reserves {
    pub fn new(seed: &MapSeed) -> Self {
        Self { earned_at: seed.map() }
    }

    /// Whether `recipients` of the tenant are within its reserve of `per_s` recipients a second; they are counted if so.
    pub fn take(&mut self, now: Instant, tenant: TenantId, per_s: u32, recipients: usize) -> bool {
        let earned_at = self.earned_with(now, tenant, per_s, recipients);
        self.earned_at.extend(earned_at.map(|at| (tenant, at)));
        earned_at.is_some()
    }

    /// Whether [`Self::take`] would count them.
    pub fn allows(&self, now: Instant, tenant: TenantId, per_s: u32, recipients: usize) -> bool {
        self.earned_with(now, tenant, per_s, recipients).is_some()
    }

    /// When all will have been earned, if these are within the reserve.
    fn earned_with(&self, now: Instant, tenant: TenantId, per_s: u32, recipients: usize) -> Option<Instant> {
        if per_s == 0 {
            return None;
        }
        let cost = Duration::from_secs_f64(recipients as f64 / f64::from(per_s));
        let earned_at = self.earned_at.get(&tenant).copied().unwrap_or_default().max(now) + cost;
        // One mail is always within a reserve that nothing was taken of.
        (earned_at.since(now) <= KEPT.max(cost)).then_some(earned_at)
    }

    /// Forgets the tenants that have no reserve any more.
    pub fn retain(&mut self, has_reserve: impl Fn(TenantId) -> bool) {
        self.earned_at.retain(|tenant, _| has_reserve(*tenant));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;

    fn reserves() -> Reserves {
        Reserves::new(&MapSeed::new(&mut Random::new(1)))
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(10) + Duration::from_millis(ms)
    }

    #[test]
    fn what_exceeds_the_rate_is_not_reserved() {
        let mut reserves = reserves();
        let taken = |reserves: &mut Reserves, ms| reserves.take(at(ms), TenantId(1), 10, 1);
        assert_eq!((0..100).filter(|_| taken(&mut reserves, 0)).count(), 10, "one second's worth is kept");
        assert_eq!((0..100).filter(|_| taken(&mut reserves, 500)).count(), 5);
        let later = (1..=2_000).filter(|ms| taken(&mut reserves, 500 + ms)).count();
        assert_eq!(later, 20, "and then as many as are earned");
    }

    #[test]
    fn tenants_do_not_share() {
        let mut reserves = reserves();
        assert_eq!((0..100).filter(|_| reserves.take(at(0), TenantId(1), 10, 1)).count(), 10);
        assert!(reserves.take(at(0), TenantId(2), 10, 10) && !reserves.take(at(0), TenantId(2), 10, 1));
        reserves.retain(|tenant| tenant == TenantId(2));
        assert!(reserves.take(at(0), TenantId(1), 10, 1), "who lost its reserve begins anew");
    }

    #[test]
    fn a_mail_larger_than_a_second_of_reserve_goes_ahead_once_in_its_time() {
        let mut reserves = reserves();
        assert!(reserves.take(at(0), TenantId(1), 1, 3));
        assert!(!reserves.take(at(2_500), TenantId(1), 1, 1));
        assert!(reserves.take(at(3_000), TenantId(1), 1, 3));
    }
}
