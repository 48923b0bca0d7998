//! Nodes, their lives and the loop that runs them.
//!
//! Invariants worth naming:
//! - nothing but the seed and the calls of the test decides what happens;
//! - a crash drops every task of its node at once, and nothing that a dropped task does reaches the world any more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll};

use postrail_core::base::{Instant, Random};

use crate::clock::{Clock, Due};
use crate::disk::{DiskFaults, DiskState};
use crate::executor::{Executor, TaskFuture, Turn};
use crate::net::{NetFaults, NetState, Seen};
use crate::platform::SimPlatform;
use crate::trace::{Step, Trace};

/// What a run is made of.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub seed: u64,
    pub disk: DiskFaults,
    pub net: NetFaults,
}

/// A machine of the simulated world: with a disk of its own, addresses, and one life after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u16);

/// How a run ended before its time. Each names the seed that shows it again.
#[derive(thiserror::Error, Debug)]
pub enum Failure {
    #[error("seed {seed}: livelock in task `{task}` at {at:?}: {POLLS_MAX} polls and no time passed")]
    Livelock { seed: u64, task: &'static str, at: Instant },
    #[error("seed {seed}: task `{task}` panicked at {at:?}: {text}")]
    Panicked { seed: u64, task: &'static str, at: Instant, text: String },
    #[error("seed {seed}: nothing can happen any more at {at:?}, and the work has not ended")]
    Stuck { seed: u64, at: Instant },
}

/// One simulated world. Dropping it drops all its tasks; handles that are left do nothing.
pub struct Sim(Rc<World>);

pub(crate) struct World {
    seed: u64,
    pub(crate) clock: RefCell<Clock>,
    pub(crate) executor: RefCell<Executor>,
    pub(crate) net: RefCell<NetState>,
    pub(crate) trace: RefCell<Trace>,
    disk_faults: DiskFaults,
    nodes: RefCell<BTreeMap<NodeId, Node>>,
    polls: Cell<u64>,
}

struct Node {
    life: u32,
    disk: Rc<RefCell<DiskState>>,
    random: Random,
}

impl Sim {
    pub fn new(settings: &Settings) -> Self {
        let mut random = Random::new(settings.seed);
        Self(Rc::new(World {
            seed: settings.seed,
            clock: RefCell::new(Clock::new()),
            executor: RefCell::new(Executor::new(random.fork())),
            net: RefCell::new(NetState::new(random.fork(), settings.net.clone())),
            trace: RefCell::new(Trace::new(settings.seed)),
            disk_faults: settings.disk.clone(),
            nodes: RefCell::default(),
            polls: Cell::new(0),
        }))
    }

    /// Adds a machine that owns `addresses`; the first of a family is the source of its connections by default.
    pub fn add_node(&self, addresses: &[IpAddr]) -> NodeId {
        let mut nodes = self.0.nodes.borrow_mut();
        let id = NodeId(u16::try_from(nodes.len()).expect("a world has few nodes"));
        let mut random = Random::new(self.0.seed ^ (u64::from(id.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let disk = DiskState::new(random.fork(), self.0.disk_faults.clone());
        nodes.insert(id, Node { life: 0, disk: Rc::new(RefCell::new(disk)), random });
        self.0.net.borrow_mut().add_host(id, addresses);
        id
    }

    /// The platform of the present life of `node`.
    pub fn platform(&self, node: NodeId) -> SimPlatform {
        let mut nodes = self.0.nodes.borrow_mut();
        let entry = nodes.get_mut(&node).expect("a node of this world");
        SimPlatform::new(Rc::clone(&self.0), node, entry.life, Rc::clone(&entry.disk), entry.random.fork())
    }

    /// Power fails: every task of `node` is gone at once, its disk keeps what was synced and by chance parts of what
    /// was not, its peers see resets or nothing. The next [`Self::platform`] is that of the next life.
    pub fn crash(&self, node: NodeId) {
        let disk = {
            let mut nodes = self.0.nodes.borrow_mut();
            let entry = nodes.get_mut(&node).expect("a node of this world");
            entry.life += 1;
            Rc::clone(&entry.disk)
        };
        self.0.trace.borrow_mut().step(Step::Crash, u64::from(node.0), self.now().nanos());
        disk.borrow_mut().crash();
        self.0.net.borrow_mut().crash(node, &mut self.0.clock.borrow_mut());
        let tasks = self.0.executor.borrow_mut().take_all(Some(node));
        drop(tasks);
    }

    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    pub fn now(&self) -> Instant {
        self.0.clock.borrow().now()
    }

    /// The hash over all that has happened.
    pub fn trace(&self) -> u64 {
        self.0.trace.borrow().hash()
    }

    /// Tasks of `node` that have not ended.
    pub fn tasks(&self, node: NodeId) -> usize {
        self.0.executor.borrow().len(node)
    }

    /// Changes what the network does wrong from now on.
    pub fn set_net_faults(&self, faults: NetFaults) {
        self.0.net.borrow_mut().set_faults(faults);
    }

    /// Changes what the disk of `node` does wrong from now on.
    pub fn set_disk_faults(&self, node: NodeId, faults: DiskFaults) {
        let disk = Rc::clone(&self.0.nodes.borrow().get(&node).expect("a node of this world").disk);
        disk.borrow_mut().set_faults(faults);
    }

    /// Lets nothing pass between two nodes any more, or all again.
    pub fn set_cut(&self, one: NodeId, other: NodeId, is_cut: bool) {
        self.0.net.borrow_mut().set_cut(one, other, is_cut);
    }

    /// Brings an address to `node`, from wherever it was; its connections there end in silence.
    pub fn bring_address(&self, node: NodeId, address: IpAddr) {
        self.0.net.borrow_mut().bring_address(node, address);
    }

    /// Takes an address off the node that has it; its connections end in silence.
    pub fn take_address(&self, address: IpAddr) {
        self.0.net.borrow_mut().take_address(address);
    }

    /// What clients did since the last call, as the network saw it; it is noted from the first call on.
    pub fn take_seen(&self) -> Vec<(Instant, Seen)> {
        self.0.net.borrow_mut().take_seen()
    }

    /// Runs `work` as a task of `node` until it ends, and with it everything else.
    ///
    /// # Errors
    /// See [`Failure`]; a panic of any task is one.
    pub fn run<T: 'static>(&self, node: NodeId, work: impl Future<Output = T> + 'static) -> Result<T, Failure> {
        let slot = Rc::new(RefCell::new(None));
        let result = Rc::clone(&slot);
        let task = async move {
            let value = work.await;
            *result.borrow_mut() = Some(value);
        };
        self.0.executor.borrow_mut().spawn(node, "main", Box::pin(task));
        loop {
            if let Some(value) = slot.borrow_mut().take() {
                return Ok(value);
            }
            if !self.0.step(Instant::FAR)? {
                return Err(Failure::Stuck { seed: self.0.seed, at: self.now() });
            }
        }
    }

    /// Runs everything until `until`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run_until(&self, until: Instant) -> Result<(), Failure> {
        while self.0.step(until)? {}
        self.0.clock.borrow_mut().pass(until);
        Ok(())
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Tasks hold handles and handles hold the world: the ring is cut here.
        for node in self.0.nodes.borrow_mut().values_mut() {
            node.life += 1;
        }
        let tasks = self.0.executor.borrow_mut().take_all(None);
        drop(tasks);
        let due = self.0.clock.borrow_mut().clear();
        drop(due);
    }
}

impl World {
    /// Whether `life` of `node` is the present one.
    pub(crate) fn is_alive(&self, node: NodeId, life: u32) -> bool {
        self.nodes.borrow().get(&node).is_some_and(|entry| entry.life == life)
    }

    pub(crate) fn spawn(&self, node: NodeId, life: u32, name: &'static str, future: TaskFuture) {
        if self.is_alive(node, life) {
            self.executor.borrow_mut().spawn(node, name, future);
        }
    }

    /// Polls one task or lets the next thing happen; false if neither is to come by `until`.
    fn step(&self, until: Instant) -> Result<bool, Failure> {
        let turn = self.executor.borrow_mut().next();
        if let Some(turn) = turn {
            self.poll(turn)?;
            return Ok(true);
        }
        self.polls.set(0);
        let due = self.clock.borrow_mut().next(until);
        match due {
            None => return Ok(false),
            Some(Due::Wake(waker)) => waker.wake(),
            Some(Due::Arrive(arrival)) => {
                let mut net = self.net.borrow_mut();
                net.arrive(arrival, &mut self.clock.borrow_mut(), &mut self.trace.borrow_mut());
            }
        }
        Ok(true)
    }

    fn poll(&self, turn: Turn) -> Result<(), Failure> {
        let Turn { id, name, waker, mut future } = turn;
        let at = self.clock.borrow().now();
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() > POLLS_MAX {
            return Err(Failure::Livelock { seed: self.seed, task: name, at });
        }
        self.trace.borrow_mut().step(Step::Poll, id, at.nanos());
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker))));
        match polled {
            Ok(Poll::Pending) => {
                let orphan = self.executor.borrow_mut().wait(id, future);
                drop(orphan);
                Ok(())
            }
            Ok(Poll::Ready(())) => {
                self.executor.borrow_mut().finish(id);
                Ok(())
            }
            Err(panic) => {
                self.executor.borrow_mut().finish(id);
                let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
                    (Some(text), _) => (*text).to_owned(),
                    (None, Some(text)) => text.clone(),
                    (None, None) => String::new(),
                };
                Err(Failure::Panicked { seed: self.seed, task: name, at, text })
            }
        }
    }
}

/// Polls at one instant before it is a livelock.
const POLLS_MAX: u64 = 200_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postrail_data_plane::platform::Platform;

    use super::*;

    fn world(seed: u64) -> (Sim, NodeId) {
        let sim = Sim::new(&Settings { seed, ..Settings::default() });
        let node = sim.add_node(&["10.0.0.1".parse().unwrap()]);
        (sim, node)
    }

    /// Ten tasks that each note their number when their turn comes.
    fn order_of_turns(seed: u64) -> (Vec<u32>, u64) {
        let (sim, node) = world(seed);
        let platform = sim.platform(node);
        let order = Rc::new(RefCell::new(Vec::new()));
        for number in 0..10 {
            let order = Rc::clone(&order);
            platform.spawn("noter", async move { order.borrow_mut().push(number) });
        }
        sim.run_until(Instant::from_nanos(u64::MAX / 2)).unwrap();
        (order.take(), sim.trace())
    }

    #[test]
    fn one_seed_gives_one_order_and_one_trace_and_another_gives_others() {
        assert_eq!(order_of_turns(1), order_of_turns(1));
        assert_ne!(order_of_turns(1), order_of_turns(2));
    }

    #[test]
    fn time_jumps_to_the_next_timer_and_a_timeout_is_exact() {
        let (sim, node) = world(3);
        let platform = sim.platform(node);
        let took = sim.run(node, async move {
            let begin = platform.now();
            let year = Duration::from_secs(365 * 24 * 3600);
            assert!(platform.timeout(year, platform.sleep_until(Instant::FAR)).await.is_none());
            platform.now().since(begin)
        });
        assert_eq!(took.unwrap(), Duration::from_secs(365 * 24 * 3600));
    }

    #[test]
    fn a_livelock_names_its_seed_and_task() {
        let (sim, node) = world(77);
        let platform = sim.platform(node);
        let spinning = platform.clone();
        platform.spawn("spinner", async move {
            loop {
                spinning.yield_now().await;
            }
        });
        let failure = sim.run_until(Instant::FAR).unwrap_err().to_string();
        assert!(failure.contains("seed 77") && failure.contains("spinner"), "{failure}");
    }

    #[test]
    fn a_panic_is_a_failure_and_so_is_waiting_for_nothing() {
        let (sim, node) = world(5);
        let stuck = sim.run(node, std::future::pending::<()>()).unwrap_err();
        assert!(matches!(stuck, Failure::Stuck { seed: 5, .. }));
        let panicked = sim.run(node, async { panic!("on purpose") }).unwrap_err();
        assert!(matches!(panicked, Failure::Panicked { task: "main", text, .. } if text == "on purpose"));
    }

    #[test]
    fn a_crash_drops_all_tasks_of_its_node_and_what_they_spawn_then() {
        struct SpawnsWhenDropped(SimPlatform, Rc<Cell<u32>>);
        impl Drop for SpawnsWhenDropped {
            fn drop(&mut self) {
                self.1.set(self.1.get() + 1);
                let count = Rc::clone(&self.1);
                self.0.spawn("too late", async move { count.set(100) });
            }
        }
        let (sim, node) = world(9);
        let other = sim.add_node(&[]);
        let dropped = Rc::new(Cell::new(0));
        for _ in 0..5 {
            let platform = sim.platform(node);
            let guard = SpawnsWhenDropped(platform.clone(), Rc::clone(&dropped));
            platform.spawn("sleeper", async move {
                let guard = guard;
                guard.0.sleep_until(Instant::FAR).await;
            });
        }
        sim.platform(other).spawn("survivor", std::future::pending());
        sim.run_until(sim.now() + Duration::from_secs(1)).unwrap();
        sim.crash(node);
        sim.run_until(sim.now() + Duration::from_secs(1)).unwrap();
        assert_eq!((dropped.get(), sim.tasks(node), sim.tasks(other)), (5, 0, 1));
        // The next life works.
        let platform = sim.platform(node);
        let answer = sim.run(node, async move { platform.run_blocking(|| 42).await });
        assert_eq!(answer.unwrap(), 42);
    }
}
