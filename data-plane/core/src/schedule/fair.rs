//! What is ready on one path, handed out fairly.
//!
//! Between traffic classes: smooth weighted round robin, so that transactional mail goes first and bulk never starves.
//! Within a class, between tenants: deficit round robin (Shreedhar and Varghese, 1995) with a cost of one an item and
//! the tenant's weight as quantum. A flood of one tenant delays another by at most one round.

use std::collections::{BTreeMap, VecDeque};

use postrail_schema::ids::TenantId;
use postrail_schema::snapshot::TrafficClass;

/// Turns of a class among the classes that have something.
const CLASS_WEIGHTS: [i64; 3] = [8, 3, 1];

/// A queue of `T` by class and tenant.
#[derive(Debug)]
pub struct FairQueue<T> {
    classes: [ClassQueue<T>; 3],
    credits: [i64; 3],
    len: usize,
}

#[derive(Debug)]
struct ClassQueue<T> {
    tenants: BTreeMap<TenantId, TenantQueue<T>>,
    /// Tenants that have something, in turn.
    turns: VecDeque<TenantId>,
}

#[derive(Debug)]
struct TenantQueue<T> {
    items: VecDeque<T>,
    weight: u32,
    deficit: u32,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        let class = || ClassQueue { tenants: BTreeMap::new(), turns: VecDeque::new() };
        Self { classes: [class(), class(), class()], credits: [0; 3], len: 0 }
    }
}

impl<T> FairQueue<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `item` behind what the tenant has in that class.
    pub fn push(&mut self, class: TrafficClass, tenant: TenantId, weight: u32, item: T) {
        let class = &mut self.classes[class as usize];
        let queue = class.tenants.entry(tenant).or_insert_with(|| TenantQueue {
            items: VecDeque::new(),
            weight: 1,
            deficit: 0,
        });
        queue.weight = weight.max(1);
        if queue.items.is_empty() {
            class.turns.push_back(tenant);
        }
        queue.items.push_back(item);
        self.len += 1;
    }

    /// The item that the tenant pushed last in that class and that has not left yet.
    pub fn last_mut(&mut self, class: TrafficClass, tenant: TenantId) -> Option<&mut T> {
        self.classes[class as usize].tenants.get_mut(&tenant)?.items.back_mut()
    }

    /// The next item in fair order.
    pub fn pop(&mut self) -> Option<T> {
        let class = self.next_class()?;
        let item = self.classes[class].pop()?;
        self.len -= 1;
        Some(item)
    }

    /// Takes everything, in no particular order.
    pub fn drain(&mut self) -> Vec<T> {
        let mut all = Vec::with_capacity(self.len);
        for class in &mut self.classes {
            class.turns.clear();
            for queue in std::mem::take(&mut class.tenants).into_values() {
                all.extend(queue.items);
            }
        }
        self.len = 0;
        all
    }

    /// All items, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.classes.iter().flat_map(|class| class.tenants.values().flat_map(|queue| queue.items.iter()))
    }

    fn next_class(&mut self) -> Option<usize> {
        let mut chosen: Option<usize> = None;
        let mut total = 0;
        for (index, class) in self.classes.iter().enumerate() {
            if class.turns.is_empty() {
                self.credits[index] = 0;
                continue;
            }
            total += CLASS_WEIGHTS[index];
            self.credits[index] += CLASS_WEIGHTS[index];
            if chosen.is_none_or(|best| self.credits[index] > self.credits[best]) {
                chosen = Some(index);
            }
        }
        let chosen = chosen?;
        self.credits[chosen] -= total;
        Some(chosen)
    }
}

impl<T> ClassQueue<T> {
    fn pop(&mut self) -> Option<T> {
        let tenant = *self.turns.front()?;
        let queue = self.tenants.get_mut(&tenant)?;
        if queue.deficit == 0 {
            queue.deficit = queue.weight;
        }
        let item = queue.items.pop_front()?;
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
    use super::*;

    fn queue_of(items: &[(TrafficClass, u32, u32, usize)]) -> FairQueue<u32> {
        let mut queue = FairQueue::default();
        for (class, tenant, weight, count) in items {
            for _ in 0..*count {
                queue.push(*class, TenantId(*tenant), *weight, *tenant);
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
}
