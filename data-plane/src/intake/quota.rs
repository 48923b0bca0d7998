//! What tenants use of their daily quotas: counters that only grow, of this host and of all others.
//!
//! ```text
//! shard 0 -> Quotas -+                                   +- own: recipients that this host has taken
//!                    +-> Usage: UTC day, tenant -> Count +- ledger: what the ledger counts of this host
//! shard 1 -> Quotas -+             ^                     +- others: what the ledger counts of all other hosts
//!                                  +- POST /quotas, told by the leader
//! ```
//!
//! Invariants worth naming:
//! - of two shards that take the last recipient at once, one gets it;
//! - a larger number is the later one, so what the leader tells may come twice, late or in any order;
//! - what is taken and then not stored is given back, but never below what the ledger counts;
//! - the lock is taken by a shard that meets a tenant for the first time on a day, and by what the leader tells: what is on
//!   the way of a message are atomics.
//!
//! Deliberately absent: anything durable. The ledger counts the same recipients by their events, and the leader tells a
//! host that has started again what it had taken.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postrail_core::base::{Map, MapSeed, Timestamp};
use postrail_schema::day::Day;
use postrail_schema::ids::TenantId;
use postrail_schema::limits::{QUOTA_DAYS_MAX, RESOURCES_MAX};
use postrail_schema::snapshot::Snapshot;

/// Seconds of a UTC day.
const DAY_S: u64 = 86_400;

/// Seconds until quotas begin anew.
pub fn seconds_left(now: Timestamp) -> u64 {
    DAY_S - now.unix_seconds() % DAY_S
}

/// What the shards of a host have of it together.
#[derive(Debug, Default)]
pub struct Usage {
    days: Mutex<Days>,
    /// When the leader told last, Unix milliseconds; 0: never since the start.
    told_ms: AtomicU64,
}

/// Two days are kept: shards need not see midnight at once.
type Days = BTreeMap<Day, BTreeMap<TenantId, Arc<Count>>>;

/// A tenant's day. Each number stands for itself, so that no order between them is needed.
#[derive(Debug, Default)]
struct Count {
    own: AtomicU64,
    ledger: AtomicU64,
    others: AtomicU64,
}

/// What the ledger counts of a tenant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    pub tenant: TenantId,
    /// Of this host.
    pub own: u64,
    /// Of all other hosts.
    pub others: u64,
}

impl Usage {
    /// Takes what the leader tells of the day of `now`. Tenants without a quota are remembered, too: they may have one in
    /// a snapshot that is still on its way.
    pub fn tell(&self, now: Timestamp, counted: impl IntoIterator<Item = Counted>) {
        self.told_ms.store(now.unix_ms(), Ordering::Relaxed);
        let mut days = self.lock();
        let tenants = open(&mut days, now.day());
        for Counted { tenant, own, others } in counted {
            if tenants.len() < RESOURCES_MAX || tenants.contains_key(&tenant) {
                tenants.entry(tenant).or_default().raise(own, others);
            }
        }
    }

    /// When the leader told last, Unix milliseconds; 0: never since the start.
    pub fn told_ms(&self) -> u64 {
        self.told_ms.load(Ordering::Relaxed)
    }

    /// Recipients of all tenants that are known here on the day of `now`: those of this host, and those of all others.
    pub fn total(&self, now: Timestamp) -> (u64, u64) {
        let days = self.lock();
        let counts = days.get(&now.day()).into_iter().flat_map(BTreeMap::values);
        counts.fold((0, 0), |(own, others), count| {
            let more = |sum: u64, of: &AtomicU64| sum.saturating_add(of.load(Ordering::Relaxed));
            (more(own, &count.own), more(others, &count.others))
        })
    }

    fn count(&self, day: Day, tenant: TenantId) -> Arc<Count> {
        Arc::clone(open(&mut self.lock(), day).entry(tenant).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, Days> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counts of `day`. A day that is new takes the place of the one that is furthest from it, which is the past unless
/// the clock was set.
fn open(days: &mut Days, day: Day) -> &mut BTreeMap<TenantId, Arc<Count>> {
    if !days.contains_key(&day) && days.len() >= QUOTA_DAYS_MAX {
        let furthest = days.keys().copied().max_by_key(|kept| kept.0.abs_diff(day.0));
        furthest.map(|furthest| days.remove(&furthest));
    }
    days.entry(day).or_default()
}

impl Count {
    /// `false`: they do not fit, and nothing was taken.
    fn take(&self, recipients: u64, quota: u64) -> bool {
        let others = self.others.load(Ordering::Relaxed);
        let taken = self.own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |own| {
            let own = own.checked_add(recipients)?;
            own.checked_add(others).is_some_and(|used| used <= quota).then_some(own)
        });
        taken.is_ok()
    }

    fn give_back(&self, recipients: u64) {
        let lowered = |own: u64| own.saturating_sub(recipients).max(self.ledger.load(Ordering::Relaxed));
        let _ = self.own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |own| Some(lowered(own)));
    }

    fn raise(&self, own: u64, others: u64) {
        // What is given back meanwhile sees the first or is mended by the second.
        self.ledger.fetch_max(own, Ordering::Relaxed);
        self.own.fetch_max(own, Ordering::Relaxed);
        self.others.fetch_max(others, Ordering::Relaxed);
    }
}

/// One shard's way to the counts.
#[derive(Debug)]
pub struct Quotas {
    usage: Arc<Usage>,
    day: Day,
    counts: Map<TenantId, Arc<Count>>,
}

impl Quotas {
    pub fn new(seed: &MapSeed, usage: Arc<Usage>) -> Self {
        Self { usage, day: Day::default(), counts: seed.map() }
    }

    /// Takes `recipients` from what the tenant has left of its quota on the day of `now`; `None`: they do not fit, and
    /// nothing was taken.
    pub fn take(&mut self, snapshot: &Snapshot, tenant: TenantId, recipients: usize, now: Timestamp) -> Option<Taken> {
        let quota = snapshot.tenants.get(&tenant).and_then(|tenant| tenant.quota_per_day);
        let Some(quota) = quota else { return Some(Taken(None)) };
        let day = now.day();
        if day != self.day {
            self.day = day;
            self.counts.clear();
        }
        let count = self.counts.entry(tenant).or_insert_with(|| self.usage.count(day, tenant));
        let recipients = recipients as u64;
        count.take(recipients, quota).then(|| Taken(Some((Arc::clone(count), recipients))))
    }
}

/// Recipients that were taken: given back, unless they are kept.
#[derive(Debug)]
#[must_use = "what is not kept is given back"]
pub struct Taken(Option<(Arc<Count>, u64)>);

impl Taken {
    /// The recipients are stored.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some((count, recipients)) = self.0.take() {
            count.give_back(recipients);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use postrail_core::base::Random;
    use postrail_schema::snapshot::{SnapshotContent, Tenant};

    use super::*;

    const TENANT: TenantId = TenantId(7);
    /// A second before midnight.
    const EVENING: Timestamp = Timestamp::from_unix_ms(20_786 * 86_400_000 - 1_000);
    const MIDNIGHT: Timestamp = Timestamp::from_unix_ms(20_786 * 86_400_000);

    fn snapshot(quota_per_day: Option<u64>) -> Snapshot {
        let tenant = Tenant {
            id: TENANT,
            name: "shop".to_owned(),
            quota_per_day,
            weight: 1,
            message_bytes_max: 1 << 20,
            region: None,
            reserved_per_s: None,
            quarantines: false,
        };
        Snapshot::new(SnapshotContent { tenants: vec![tenant], ..SnapshotContent::default() }).unwrap()
    }

    fn shard(usage: &Arc<Usage>) -> Quotas {
        Quotas::new(&MapSeed::new(&mut Random::new(1)), Arc::clone(usage))
    }

    fn told(own: u64, others: u64) -> [Counted; 1] {
        [Counted { tenant: TENANT, own, others }]
    }

    /// How many more recipients fit, found by taking them one by one.
    fn room(quotas: &mut Quotas, snapshot: &Snapshot, now: Timestamp) -> usize {
        let taken: Vec<_> = std::iter::from_fn(|| quotas.take(snapshot, TENANT, 1, now)).collect();
        taken.len()
    }

    #[test]
    fn shards_that_take_at_once_reach_the_quota_exactly() {
        const SHARDS: usize = 8;
        // So many that shards meet each other on any two cores.
        const QUOTA: usize = 1_000_001;
        let (usage, snapshot, start) = (Arc::default(), snapshot(Some(QUOTA as u64)), Barrier::new(SHARDS));
        let taken: usize = std::thread::scope(|scope| {
            let take = || {
                let mut quotas = shard(&usage);
                start.wait();
                let mut taken = 0;
                while let Some(two) = quotas.take(&snapshot, TENANT, 2, EVENING) {
                    two.keep();
                    taken += 2;
                }
                while let Some(one) = quotas.take(&snapshot, TENANT, 1, EVENING) {
                    one.keep();
                    taken += 1;
                }
                taken
            };
            let shards: Vec<_> = (0..SHARDS).map(|_| scope.spawn(take)).collect();
            shards.into_iter().map(|shard| shard.join().unwrap()).sum()
        });
        assert_eq!(taken, QUOTA);
    }

    #[test]
    fn what_one_shard_takes_the_others_do_not_have() {
        let (usage, snapshot) = (Arc::default(), snapshot(Some(5)));
        let (mut one, mut other) = (shard(&usage), shard(&usage));
        one.take(&snapshot, TENANT, 4, EVENING).unwrap().keep();
        assert!(other.take(&snapshot, TENANT, 2, EVENING).is_none(), "a job fits whole or not at all");
        assert_eq!(room(&mut other, &snapshot, EVENING), 1);
    }

    #[test]
    fn what_is_not_stored_is_given_back() {
        let (usage, snapshot) = (Arc::default(), snapshot(Some(5)));
        let mut quotas = shard(&usage);
        quotas.take(&snapshot, TENANT, 2, EVENING).unwrap().keep();
        let lost = quotas.take(&snapshot, TENANT, 3, EVENING).unwrap();
        assert_eq!(room(&mut quotas, &snapshot, EVENING), 0);
        drop(lost);
        assert_eq!(room(&mut quotas, &snapshot, EVENING), 3);
    }

    #[test]
    fn the_next_utc_day_begins_anew_and_a_shard_that_lags_finds_the_day_before() {
        let (usage, snapshot) = (Arc::default(), snapshot(Some(5)));
        let (mut early, mut late) = (shard(&usage), shard(&usage));
        early.take(&snapshot, TENANT, 5, EVENING).unwrap().keep();
        assert_eq!(seconds_left(EVENING), 1);
        assert_eq!(room(&mut early, &snapshot, EVENING), 0);
        assert_eq!(room(&mut early, &snapshot, MIDNIGHT), 5);
        assert_eq!(room(&mut late, &snapshot, EVENING), 0, "the count of the day before is there");
        early.take(&snapshot, TENANT, 1, MIDNIGHT).unwrap().keep();
        assert_eq!(room(&mut late, &snapshot, MIDNIGHT), 4);
        assert_eq!(seconds_left(MIDNIGHT), 86_400);
    }

    #[test]
    fn two_days_are_kept_whatever_the_clock_does() {
        let usage = Usage::default();
        for day in [900_000, 20_786, 20_787, 20_788] {
            usage.tell(Timestamp::from_unix_ms(day * 86_400_000), told(1, 1));
        }
        let days: Vec<_> = usage.lock().keys().map(|day| day.0).collect();
        assert_eq!(days, [20_787, 20_788], "a clock that was wrong does not leave its day behind");
    }

    #[test]
    fn a_start_begins_where_the_ledger_says() {
        let (usage, snapshot) = (Arc::default(), snapshot(Some(10)));
        let mut quotas = shard(&usage);
        // Accepted after the start, before the leader has told anything.
        quotas.take(&snapshot, TENANT, 1, EVENING).unwrap().keep();
        usage.tell(EVENING, told(6, 0));
        assert_eq!(room(&mut quotas, &snapshot, EVENING), 4);
        usage.tell(EVENING, told(7, 0));
        assert_eq!(room(&mut quotas, &snapshot, EVENING), 3);
    }

    #[test]
    fn what_other_hosts_took_is_not_there() {
        let (usage, snapshot) = (Arc::default(), snapshot(Some(10)));
        let mut quotas = shard(&usage);
        quotas.take(&snapshot, TENANT, 2, EVENING).unwrap().keep();
        usage.tell(EVENING, told(1, 5));
        assert_eq!((room(&mut quotas, &snapshot, EVENING), usage.total(EVENING)), (3, (2, 5)));
        usage.tell(EVENING, told(2, u64::MAX));
        assert_eq!(room(&mut quotas, &snapshot, EVENING), 0);
        assert_eq!(room(&mut quotas, &snapshot, MIDNIGHT), 10);
    }

    #[test]
    fn what_comes_late_twice_or_in_another_order_changes_nothing() {
        let (usage, snapshot) = (Arc::default(), snapshot(Some(10)));
        let mut quotas = shard(&usage);
        for (own, others) in [(3, 2), (1, 4), (3, 2), (0, 0)] {
            usage.tell(EVENING, told(own, others));
        }
        assert_eq!(room(&mut quotas, &snapshot, EVENING), 3);
    }

    #[test]
    fn giving_back_after_a_start_takes_nothing_from_what_the_ledger_counts() {
        let (usage, snapshot) = (Arc::default(), snapshot(Some(10)));
        let mut quotas = shard(&usage);
        let under_way = quotas.take(&snapshot, TENANT, 2, EVENING).unwrap();
        usage.tell(EVENING, told(8, 0));
        drop(under_way);
        assert_eq!(room(&mut quotas, &snapshot, EVENING), 2);
    }

    #[test]
    fn a_tenant_without_a_quota_is_not_counted_and_one_that_gets_it_has_what_the_ledger_counts() {
        let (usage, none) = (Arc::default(), snapshot(None));
        let mut quotas = shard(&usage);
        quotas.take(&none, TENANT, 1_000, EVENING).unwrap().keep();
        assert!(usage.lock().is_empty());
        usage.tell(EVENING, told(1_000, 0));
        assert_eq!(room(&mut quotas, &snapshot(Some(1_004)), EVENING), 4);
    }

    #[test]
    fn tells_of_more_tenants_than_there_can_be_are_not_kept() {
        let (usage, snapshot) = (Arc::default(), snapshot(Some(5)));
        let many = (0..RESOURCES_MAX as u32 + 10).map(|id| Counted { tenant: TenantId(id + 100), own: 1, others: 0 });
        Usage::tell(&usage, EVENING, many);
        assert_eq!(usage.total(EVENING), (RESOURCES_MAX as u64, 0));
        let mut quotas = shard(&usage);
        assert_eq!(room(&mut quotas, &snapshot, EVENING), 5, "tenants of the snapshot are counted all the same");
        usage.tell(EVENING, told(2, 2));
        assert_eq!(room(&mut quotas, &snapshot, EVENING), 1);
    }
}
