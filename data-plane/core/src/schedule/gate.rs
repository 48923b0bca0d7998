//! Throttles and limits while mail goes out: what is counted, and who waits until there is room again.
//!
//! A [`Gate`] counts for one ceiling of one span: connections that are open (a limit), or mails or connections begun (a
//! throttle). Whoever finds it closed is put into its row and called when its turn has come: one for every opening,
//! so that a thousand paths behind one gate do not all look at each of them.
//!
//! A throttle spreads its rate evenly (the generic cell rate algorithm): in any time `t` it lets at most
//! `1 + (t + THROTTLE_CATCH_UP) / interval` pass.
//!
//! Invariants worth naming: nothing is taken from a closed gate; a waiter is in a row once; a gate whose time has not come
//! and that nobody uses is kept, so that a path which is forgotten and made again goes on where it was.
//! Absent here: what a waiter is about to do (`shard::shaping`).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use postrail_schema::ids::{ShapingRuleId, SourceId};
use postrail_schema::limits::{THROTTLE_CATCH_UP, THROTTLE_START_WAIT_MAX};
use slab::Slab;
use smallvec::SmallVec;

use super::{PathKey, ScheduledQueue};
use crate::base::{Instant, Map, MapSeed};
use crate::rules::{Allowance, Ceiling, Counted, Span};

/// Indexes of gates.
pub type GateList = SmallVec<[u32; 2]>;

/// What a gate counts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct GateKey {
    rule: Option<ShapingRuleId>,
    counted: Counted,
    span: SpanName,
}

impl GateKey {
    fn of(ceiling: &Ceiling, path: &PathKey) -> Self {
        let span = match ceiling.span {
            Span::Path => SpanName::Path(path.trunk()),
            Span::Source => SpanName::Source(path.source),
            Span::Rule => SpanName::Rule,
        };
        Self { rule: ceiling.rule, counted: ceiling.counted, span }
    }
}

/// The span of a gate, by name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum SpanName {
    Path(PathKey),
    Source(SourceId),
    Rule,
}

/// Who is to be called when there is room: a path, and which of its held mail (empty: all of it).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Waiter {
    pub path: u32,
    pub hold: GateList,
}

/// A rate, spread evenly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Throttle {
    interval: Duration,
    /// When the next one would be due if all came evenly.
    next: Instant,
}

impl Throttle {
    /// One in `interval`, the first at `first`.
    const fn new(interval: Duration, first: Instant) -> Self {
        Self { interval, next: first }
    }

    fn opens_at(&self) -> Instant {
        self.next - THROTTLE_CATCH_UP
    }

    fn is_open(&self, now: Instant) -> bool {
        now >= self.opens_at()
    }

    fn take(&mut self, now: Instant) {
        assert!(self.is_open(now), "nothing passes a closed throttle");
        self.next = self.next.max(now) + self.interval;
    }

    /// What was taken last did not happen.
    fn give_back(&mut self) {
        self.next = self.next - self.interval;
    }

    /// Another rate, from `now` on: a slower one holds at once, a faster one does not wait for what the slower one left.
    fn change(&mut self, now: Instant, interval: Duration) {
        if interval < self.interval {
            self.next = self.next.min(now + interval);
        }
        self.interval = interval;
    }
}

#[derive(Debug)]
enum Count {
    Limit { limit: usize, open: usize },
    Throttle(Throttle),
}

/// See the module head.
#[derive(Debug)]
struct Gate {
    key: GateKey,
    count: Count,
    row: VecDeque<Waiter>,
    waiting: BTreeSet<Waiter>,
    /// When it is in the queue of those that open.
    due: Option<Instant>,
    /// Calls are spread like what passes, since who is called may take a while.
    calls: Throttle,
}

/// All gates of a shard.
#[derive(Debug)]
pub struct Gates {
    slots: Slab<Gate>,
    ids: Map<GateKey, u32>,
    opening: ScheduledQueue,
    /// When the shard started: what passed before is not known.
    started: Instant,
}

impl Gates {
    pub fn new(seed: &MapSeed, started: Instant) -> Self {
        Self { slots: Slab::new(), ids: seed.map(), opening: ScheduledQueue::default(), started }
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The gate for `ceiling` on the path of that key, with the allowance that it has now.
    pub fn gate(&mut self, now: Instant, ceiling: &Ceiling, path: &PathKey) -> u32 {
        let key = GateKey::of(ceiling, path);
        if let Some(id) = self.ids.get(&key).copied() {
            self.slots[id as usize].allow(now, ceiling.allowance);
            self.schedule(now, id);
            return id;
        }
        let interval = match ceiling.allowance {
            Allowance::Throttle(interval) => interval,
            Allowance::Limit(_) => Duration::ZERO,
        };
        let first = self.started + interval.min(THROTTLE_START_WAIT_MAX);
        let count = match ceiling.allowance {
            Allowance::Limit(limit) => Count::Limit { limit, open: 0 },
            Allowance::Throttle(interval) => Count::Throttle(Throttle::new(interval, first)),
        };
        let id = self.slots.insert(Gate {
            key: key.clone(),
            count,
            row: VecDeque::new(),
            waiting: BTreeSet::new(),
            due: None,
            calls: Throttle::new(interval, Instant::ZERO),
        }) as u32;
        self.ids.insert(key, id);
        id
    }

    /// The gate for `ceiling`, if there is one.
    pub fn find(&self, ceiling: &Ceiling, path: &PathKey) -> Option<u32> {
        self.ids.get(&GateKey::of(ceiling, path)).copied()
    }

    /// The rule that a gate is of; `None`: it shares a path's connections among its lanes.
    pub fn rule(&self, gate: u32) -> Option<ShapingRuleId> {
        self.slots[gate as usize].key.rule
    }

    /// The time from one passage to the next; zero for a limit.
    pub fn interval(&self, gate: u32) -> Duration {
        match &self.slots[gate as usize].count {
            Count::Throttle(throttle) => throttle.interval,
            Count::Limit { .. } => Duration::ZERO,
        }
    }

    /// The first of `gates` that is closed at `now`.
    pub fn closed(&self, gates: &[u32], now: Instant) -> Option<u32> {
        gates.iter().copied().find(|gate| !self.slots[*gate as usize].is_open(now))
    }

    /// When a gate opens; `None`: when something ends.
    pub fn opens_at(&self, gate: u32) -> Option<Instant> {
        match &self.slots[gate as usize].count {
            Count::Throttle(throttle) => Some(throttle.opens_at()),
            Count::Limit { .. } => None,
        }
    }

    /// Passes gates that are open.
    pub fn take(&mut self, gates: &[u32], now: Instant) {
        for gate in gates {
            match &mut self.slots[*gate as usize].count {
                Count::Throttle(throttle) => throttle.take(now),
                Count::Limit { limit, open } => {
                    assert!(open < limit, "a limit is not exceeded");
                    *open += 1;
                }
            }
        }
    }

    /// Undoes [`Self::take`] for throttles: what was to be did not begin.
    pub fn give_back(&mut self, now: Instant, gates: &[u32]) {
        for gate in gates {
            if let Count::Throttle(throttle) = &mut self.slots[*gate as usize].count {
                throttle.give_back();
                self.schedule(now, *gate);
            }
        }
    }

    /// One that was counted by the limits among `gates` has ended.
    pub fn release(&mut self, now: Instant, gates: &[u32]) {
        for gate in gates {
            if let Count::Limit { open, .. } = &mut self.slots[*gate as usize].count {
                assert!(*open > 0, "what ends was counted");
                *open -= 1;
                self.schedule(now, *gate);
            }
        }
    }

    /// Counts anew from nothing, by [`Self::count`].
    pub fn reset_limits(&mut self) {
        for (_, gate) in &mut self.slots {
            if let Count::Limit { open, .. } = &mut gate.count {
                *open = 0;
            }
        }
    }

    /// One that is there already, also beyond a limit that has become lower.
    pub fn count(&mut self, gates: &[u32]) {
        for gate in gates {
            if let Count::Limit { open, .. } = &mut self.slots[*gate as usize].count {
                *open += 1;
            }
        }
    }

    /// Whether more are open than a limit among `gates` allows.
    pub fn is_exceeded(&self, gates: &[u32]) -> bool {
        let exceeds = |gate: &u32| match self.slots[*gate as usize].count {
            Count::Limit { limit, open } => open > limit,
            Count::Throttle(_) => false,
        };
        gates.iter().any(exceeds)
    }

    /// The first of `gates` that somebody waits for.
    pub fn wanted(&self, gates: &[u32]) -> Option<u32> {
        gates.iter().copied().find(|gate| !self.slots[*gate as usize].row.is_empty())
    }

    /// Whether others wait for what a limit among `gates` counts.
    pub fn is_limit_wanted(&self, gates: &[u32]) -> bool {
        let is_limit = |gate: &&u32| matches!(self.slots[**gate as usize].count, Count::Limit { .. });
        gates.iter().filter(is_limit).any(|gate| self.wanted(&[*gate]).is_some())
    }

    /// Puts `waiter` at the end of a gate's row, if it is not in it; whether it was not.
    pub fn wait(&mut self, now: Instant, gate: u32, waiter: Waiter) -> bool {
        let slot = &mut self.slots[gate as usize];
        let is_new = slot.waiting.insert(waiter.clone());
        if is_new {
            slot.row.push_back(waiter);
            self.schedule(now, gate);
        }
        is_new
    }

    /// When somebody is to be called.
    pub fn next_due(&self) -> Option<Instant> {
        self.opening.next_due()
    }

    /// The next one whose turn has come.
    pub fn call(&mut self, now: Instant) -> Option<Waiter> {
        while let Some(gate) = self.opening.pop_due(now) {
            let slot = &mut self.slots[gate as usize];
            slot.due = None;
            let called = if slot.is_open(now) && slot.calls.is_open(now) { slot.row.pop_front() } else { None };
            if let Some(waiter) = &called {
                slot.waiting.remove(waiter);
                slot.calls.take(now);
            }
            self.schedule(now, gate);
            if called.is_some() {
                return called;
            }
        }
        None
    }

    /// Forgets gates that are not `used`, keep nobody waiting and have nothing to remember.
    pub fn sweep(&mut self, now: Instant, used: impl Fn(u32) -> bool) {
        let ids = &mut self.ids;
        self.slots.retain(|id, gate| {
            let keeps = used(id as u32) || !gate.row.is_empty() || gate.due.is_some() || gate.remembers(now);
            if !keeps {
                ids.remove(&gate.key);
            }
            keeps
        });
    }

    /// Sees to it that somebody in the row is called when the gate opens.
    fn schedule(&mut self, now: Instant, id: u32) {
        let gate = &mut self.slots[id as usize];
        let due = if gate.row.is_empty() { None } else { gate.calls_at(now) };
        if gate.due == due {
            return;
        }
        if let Some(former) = gate.due {
            self.opening.remove(former, id);
        }
        if let Some(due) = due {
            self.opening.insert(due, id);
        }
        gate.due = due;
    }
}

impl Gate {
    fn is_open(&self, now: Instant) -> bool {
        match &self.count {
            Count::Limit { limit, open } => open < limit,
            Count::Throttle(throttle) => throttle.is_open(now),
        }
    }

    /// When the next in the row may be called; `None`: something must end first.
    fn calls_at(&self, now: Instant) -> Option<Instant> {
        match &self.count {
            Count::Limit { limit, open } => (open < limit).then_some(now),
            Count::Throttle(throttle) => Some(throttle.opens_at().max(self.calls.opens_at())),
        }
    }

    fn allow(&mut self, now: Instant, allowance: Allowance) {
        match (&mut self.count, allowance) {
            (Count::Limit { limit, .. }, Allowance::Limit(allowed)) => *limit = allowed,
            (Count::Throttle(throttle), Allowance::Throttle(interval)) if throttle.interval != interval => {
                throttle.change(now, interval);
                self.calls.change(now, interval);
            }
            _ => {}
        }
    }

    /// Whether it would forget that something is open, or has passed a while ago.
    fn remembers(&self, now: Instant) -> bool {
        match &self.count {
            Count::Limit { open, .. } => *open > 0,
            Count::Throttle(throttle) => throttle.next > now,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::Random;
    use crate::dns::SiteName;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000_000 + ms * 1_000_000)
    }

    fn gates() -> Gates {
        Gates::new(&MapSeed::new(&mut Random::new(1)), Instant::ZERO)
    }

    fn path(site: &str) -> PathKey {
        PathKey { source: SourceId(1), site: SiteName(site.into()), port: 25, tls: None }
    }

    fn ceiling(span: Span, allowance: Allowance) -> Ceiling {
        let counted = match allowance {
            Allowance::Limit(_) => Counted::Connections,
            Allowance::Throttle(_) => Counted::Mails,
        };
        Ceiling { rule: Some(ShapingRuleId(1)), counted, span, allowance }
    }

    fn waiter(path: u32) -> Waiter {
        Waiter { path, hold: GateList::new() }
    }

    proptest! {
        /// Whoever asks whenever: no window has more than its rate.
        #[test]
        fn no_window_of_a_throttle_has_more_than_its_rate(
            interval_us in 10_u64..3_000_000,
            asks in prop::collection::vec(0_u64..2_000_000, 1..300),
        ) {
            let interval = Duration::from_micros(interval_us);
            let (mut throttle, mut now, mut passed) = (Throttle::new(interval, Instant::ZERO), at(0), Vec::new());
            for wait_us in asks {
                now = now + Duration::from_micros(wait_us);
                while throttle.is_open(now) && passed.len() < 3_000 {
                    throttle.take(now);
                    passed.push(now);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let window = to.since(*from) + THROTTLE_CATCH_UP;
                    let most = 1 + (window.as_nanos() / interval.as_nanos()) as usize;
                    prop_assert!(last - first < most, "{} in {window:?}, one in {interval:?}", last - first + 1);
                }
            }
        }
    }

    #[test]
    fn a_throttle_is_used_to_the_full_by_who_comes_when_it_opens() {
        let mut throttle = Throttle::new(Duration::from_millis(100), Instant::ZERO);
        let mut now = at(0);
        for _ in 0..50 {
            assert!(throttle.is_open(now));
            throttle.take(now);
            assert!(!throttle.is_open(now));
            now = throttle.opens_at();
        }
        let taken = now.since(at(0));
        assert!(taken <= Duration::from_millis(5_000) && taken >= Duration::from_millis(4_980), "{taken:?}");
        throttle.give_back();
        assert!(throttle.is_open(now), "what was given back is there again");
    }

    #[test]
    fn a_faster_rate_holds_at_once_and_a_slower_one_too() {
        let mut gates = gates();
        let with = |gates: &mut Gates, interval, now| {
            gates.gate(now, &ceiling(Span::Path, Allowance::Throttle(interval)), &path("a"))
        };
        let gate = with(&mut gates, 3_600 * SECOND, at(0));
        gates.take(&[gate], at(0));
        gates.wait(at(0), gate, waiter(7));
        assert!(gates.next_due().unwrap() > at(3_000_000));
        assert_eq!(with(&mut gates, SECOND, at(500)), gate, "it is the same gate");
        assert_eq!((gates.call(at(1_000)), gates.call(at(1_500))), (None, Some(waiter(7))));
        gates.take(&[gate], at(1_500));
        with(&mut gates, 60 * SECOND, at(1_600));
        assert_eq!(gates.closed(&[gate], at(2_400)), Some(gate), "what was taken keeps to the rate of then");
        gates.take(&[gate], at(2_500));
        assert_eq!(gates.closed(&[gate], at(62_000)), Some(gate));
    }

    #[test]
    fn one_is_called_for_each_opening_in_the_order_of_the_row() {
        let mut gates = gates();
        let gate = gates.gate(at(0), &ceiling(Span::Rule, Allowance::Throttle(SECOND)), &path("a"));
        gates.take(&[gate], at(0));
        for number in [5, 6, 5, 7] {
            gates.wait(at(0), gate, waiter(number));
        }
        let mut called = Vec::new();
        for ms in (0..5_000).step_by(100) {
            while let Some(waiter) = gates.call(at(ms)) {
                called.push((ms, waiter.path));
            }
        }
        assert_eq!(called, [(1_000, 5), (2_000, 6), (3_000, 7)], "though nobody took anything");
        assert_eq!(gates.next_due(), None);
    }

    #[test]
    fn a_limit_calls_when_something_ends() {
        let mut gates = gates();
        let limit = |limit| ceiling(Span::Source, Allowance::Limit(limit));
        let gate = gates.gate(at(0), &limit(2), &path("a"));
        assert_eq!(gates.gate(at(0), &limit(2), &path("b")), gate, "paths of one source share it");
        gates.take(&[gate], at(0));
        gates.take(&[gate], at(0));
        gates.wait(at(0), gate, waiter(1));
        gates.wait(at(0), gate, waiter(2));
        assert_eq!(
            (gates.closed(&[gate], at(0)), gates.call(at(9_999)), gates.is_limit_wanted(&[gate])),
            (Some(gate), None, true)
        );
        gates.release(at(10_000), &[gate]);
        assert_eq!(gates.call(at(10_000)), Some(waiter(1)));
        gates.take(&[gate], at(10_000));
        assert_eq!(gates.call(at(10_000)), None);
        gates.gate(at(10_000), &limit(1), &path("a"));
        assert!(gates.is_exceeded(&[gate]));
        gates.release(at(11_000), &[gate]);
        assert!(!gates.is_exceeded(&[gate]) && gates.closed(&[gate], at(11_000)).is_some());
    }

    #[test]
    fn a_gate_is_kept_until_it_has_nothing_to_remember() {
        let mut gates = gates();
        let hourly = ceiling(Span::Path, Allowance::Throttle(3_600 * SECOND));
        let gate = gates.gate(at(0), &hourly, &path("a"));
        gates.take(&[gate], at(0));
        gates.sweep(at(1_000_000), |_| false);
        assert!(!gates.is_empty() && gates.closed(&[gate], at(1_000_000)).is_some());
        gates.sweep(at(3_600_000), |_| false);
        assert!(gates.is_empty());
    }

    #[test]
    fn after_a_start_the_first_waits_as_if_one_had_passed_just_before() {
        let mut gates = Gates::new(&MapSeed::new(&mut Random::new(1)), at(0));
        for (interval, opens_ms) in [(SECOND, 1_000), (3_600 * SECOND, 60_000)] {
            let site = format!("{opens_ms}");
            let gate = gates.gate(at(0), &ceiling(Span::Path, Allowance::Throttle(interval)), &path(&site));
            assert_eq!(gates.opens_at(gate), Some(at(opens_ms) - THROTTLE_CATCH_UP));
        }
    }
}
