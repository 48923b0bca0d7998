//! What is ready on one path, handed out fairly.
//!
//! Between lanes (what is reserved, and the traffic classes): smooth weighted round robin, so that what is reserved goes
//! first, transactional mail next, and bulk never starves. Within a lane, between tenants: deficit round robin (Shreedhar
//! and Varghese, 1995) with a cost of one an item and the tenant's weight as quantum. A flood of one tenant delays
//! another by at most one round.

use std::collections::{BTreeMap, VecDeque};

use postrail_schema::ids::TenantId;
use postrail_schema::snapshot::TrafficClass;

/// Where an item queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    Class(TrafficClass),
    /// Within its tenant's reserved rate, whatever its class.
    Reserved,
}

/// Turns of a lane among the lanes that have something.
const LANE_WEIGHTS: [i64; LANES] = [8, 3, 1, 36];
const LANES: usize = 4;

impl Lane {
    pub const fn new(class: TrafficClass, is_reserved: bool) -> Self {
        if is_reserved { Self::Reserved } else { Self::Class(class) }
    }

    const fn index(self) -> usize {
        match self {
            Self::Class(class) => class as usize,
            Self::Reserved => LANES - 1,
        }
    }
}

/// A queue of `T` by lane and tenant.
#[derive(Debug)]
pub struct FairQueue<T> {
    lanes: [LaneQueue<T>; LANES],
    credits: [i64; LANES],
}

#[derive(Debug)]
struct LaneQueue<T> {
    tenants: BTreeMap<TenantId, TenantQueue<T>>,
    /// Tenants that have something, in turn.
    turns: VecDeque<TenantId>,
    /// Items of all of them.
    len: usize,
}

#[derive(Debug)]
struct TenantQueue<T> {
    items: VecDeque<T>,
    weight: u32,
    deficit: u32,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        let lane = |_| LaneQueue { tenants: BTreeMap::new(), turns: VecDeque::new(), len: 0 };
        Self { lanes: std::array::from_fn(lane), credits: [0; LANES] }
    }
}

impl<T> FairQueue<T> {
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of them are reserved.
    pub fn reserved_len(&self) -> usize {
        self.lanes[Lane::Reserved.index()].len
    }

    /// Appends `item` behind what the tenant has in that lane.
    pub fn push(&mut self, lane: Lane, tenant: TenantId, weight: u32, item: T) {
        let lane = &mut self.lanes[lane.index()];
        let queue =
            lane.tenants.entry(tenant).or_insert_with(|| TenantQueue { items: VecDeque::new(), weight: 1, deficit: 0 });
        queue.weight = weight.max(1);
        if queue.items.is_empty() {
            lane.turns.push_back(tenant);
        }
        queue.items.push_back(item);
        lane.len += 1;
    }

    /// The items that the tenant pushed last, in that class and in the reserved lane, and that have not left yet.
    pub fn last(&self, class: TrafficClass, tenant: TenantId) -> impl Iterator<Item = &T> {
        let lanes = [Lane::Class(class), Lane::Reserved];
        lanes.into_iter().filter_map(move |lane| self.lanes[lane.index()].tenants.get(&tenant)?.items.back())
    }

    /// The next item in fair order.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_marked().map(|(item, _)| item)
    }

    /// As [`Self::pop`], with whether it is reserved.
    pub fn pop_marked(&mut self) -> Option<(T, bool)> {
        let lane = self.next_lane()?;
        let item = self.lanes[lane].pop()?;
        Some((item, lane == Lane::Reserved.index()))
    }

    /// Takes everything, in no particular order.
    pub fn drain(&mut self) -> Vec<T> {
        let mut all = Vec::with_capacity(self.len());
        for lane in &mut self.lanes {
            lane.turns.clear();
            lane.len = 0;
            for queue in std::mem::take(&mut lane.tenants).into_values() {
                all.extend(queue.items);
            }
        }
        all
    }

    /// All items, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.lanes.iter().flat_map(|lane| lane.tenants.values().flat_map(|queue| queue.items.iter()))
    }

    fn next_lane(&mut self) -> Option<usize> {
        let mut chosen: Option<usize> = None;
        let mut total = 0;
        for (index, lane) in self.lanes.iter().enumerate() {
            if lane.turns.is_empty() {
                self.credits[index] = 0;
                continue;
            }
            total += LANE_WEIGHTS[index];
            self.credits[index] += LANE_WEIGHTS[index];
            if chosen.is_none_or(|best| self.credits[index] > self.credits[best]) {
                chosen = Some(index);
            }
        }
        let chosen = chosen?;
        self.credits[chosen] -= total;
        Some(chosen)
    }
}

impl<T> LaneQueue<T> {
    fn pop(&mut self) -> Option<T> {
        let tenant = *self.turns.front()?;
        let queue = self.tenants.get_mut(&tenant)?;
        if queue.deficit == 0 {
            queue.deficit = queue.weight;
        }
        let item = queue.items.pop_front()?;
        self.len -= 1;
        queue.deficit -= 1;
        if queue.items.is_empty() {
            self.turns.pop_front();
            self.tenants.remove(&tenant);
        } else if queue.deficit == 0 {
            self.turns.rotate_left(1);
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue_of(items: &[(TrafficClass, u32, u32, usize)]) -> FairQueue<u32> {
        let mut queue = FairQueue::default();
        for (class, tenant, weight, count) in items {
            for _ in 0..*count {
                queue.push(Lane::Class(*class), TenantId(*tenant), *weight, *tenant);
            }
        }
        queue
    }

    #[test]
    fn a_flood_delays_another_tenant_by_one_turn_only() {
        let mut queue = queue_of(&[(TrafficClass::Transactional, 1, 1, 1_000), (TrafficClass::Transactional, 2, 1, 1)]);
        let first: Vec<_> = (0..2).filter_map(|_| queue.pop()).collect();
        assert!(first.contains(&2), "tenant 2 within two turns: {first:?}");
    }

    #[test]
    fn weights_divide_the_turns() {
        let mut queue = queue_of(&[(TrafficClass::Marketing, 1, 3, 300), (TrafficClass::Marketing, 2, 1, 300)]);
        let first: Vec<_> = (0..100).filter_map(|_| queue.pop()).collect();
        assert_eq!(first.iter().filter(|tenant| **tenant == 1).count(), 75);
    }

    #[test]
    fn bulk_waits_but_never_starves() {
        let mut queue = queue_of(&[(TrafficClass::Transactional, 1, 1, 1_000), (TrafficClass::Marketing, 2, 1, 1_000)]);
        let first: Vec<_> = (0..90).filter_map(|_| queue.pop()).collect();
        assert_eq!(first.iter().filter(|tenant| **tenant == 2).count(), 10);
    }

    #[test]
    fn what_is_reserved_goes_ahead_of_every_class_and_starves_none() {
        let mut queue =
            queue_of(&[(TrafficClass::Transactional, 1, 100, 1_000), (TrafficClass::Marketing, 3, 1, 1_000)]);
        assert!(queue.pop().is_some());
        queue.push(Lane::Reserved, TenantId(2), 1, 2);
        assert_eq!(queue.reserved_len(), 1);
        assert_eq!(queue.pop(), Some(2), "a reserved item is the next");
        assert_eq!(queue.reserved_len(), 0);
        (0..1_000).for_each(|_| queue.push(Lane::Reserved, TenantId(2), 1, 2));
        let next: Vec<_> = (0..90).filter_map(|_| queue.pop()).collect();
        let of = |tenant| next.iter().filter(|popped| **popped == tenant).count();
        assert_eq!((of(2), of(1), of(3)), (72, 16, 2));
    }

    #[test]
    fn everything_pushed_is_popped_once() {
        let mut queue = queue_of(&[
            (TrafficClass::Transactional, 1, 1, 7),
            (TrafficClass::PersonToPerson, 2, 5, 11),
            (TrafficClass::Marketing, 1, 2, 13),
        ]);
        assert_eq!(queue.len(), 31);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 31);
        assert!(queue.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_there(
            acts in proptest::collection::vec((0_u8..8, 0_usize..LANES, 1_u32..5, 1_u32..4), 0..200),
        ) {
            let mut queue = FairQueue::default();
            for (act, lane, tenant, weight) in acts {
                let lanes = TrafficClass::ALL.map(Lane::Class).into_iter().chain([Lane::Reserved]);
                match (act, lanes.collect::<Vec<_>>()[lane]) {
                    (0..5, lane) => queue.push(lane, TenantId(tenant), weight, lane),
                    (5, Lane::Reserved) => queue.drain().clear(),
                    _ => {
                        let popped = queue.pop_marked();
                        prop_assert!(popped.is_none_or(|(lane, reserved)| reserved == (lane == Lane::Reserved)));
                    }
                }
                let reserved = queue.iter().filter(|lane| **lane == Lane::Reserved).count();
                prop_assert_eq!((queue.len(), queue.reserved_len()), (queue.iter().count(), reserved));
            }
        }
    }
}
