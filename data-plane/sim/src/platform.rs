//! [`Platform`] over the simulated world: a handle of one life of one node.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use postrail_core::base::{Instant, Random, Timestamp};
use postrail_data_plane::platform::Platform;

use crate::clock::{Due, DueKey};
use crate::disk::{DiskState, SimDisk};
use crate::net::SimNet;
use crate::world::{NodeId, World};

/// The world as one life of a node sees it. After that life's crash it does nothing.
#[derive(Clone)]
pub struct SimPlatform {
    life: Life,
    random: Rc<RefCell<Random>>,
    disk: SimDisk,
    net: SimNet,
}

impl SimPlatform {
    pub(crate) fn new(world: Rc<World>, node: NodeId, life: u32, disk: Rc<RefCell<DiskState>>, random: Random) -> Self {
        let life = Life { world, node, life };
        let (disk, net) = (SimDisk::new(life.clone(), disk), SimNet::new(life.clone()));
        Self { life, random: Rc::new(RefCell::new(random)), disk, net }
    }
}

impl Platform for SimPlatform {
    type Disk = SimDisk;
    type Net = SimNet;

    fn now(&self) -> Instant {
        self.life.now()
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::from_unix_ms(BEGIN_UNIX_MS + self.now().nanos() / 1_000_000)
    }

    async fn sleep_until(&self, until: Instant) {
        self.life.sleep_until(until).await;
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.life.world.spawn(self.life.node, self.life.life, name, Box::pin(task));
    }

    async fn yield_now(&self) {
        futures_lite::future::yield_now().await;
    }

    async fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let took = Duration::from_micros(self.random.borrow_mut().below(BLOCKING_MICROS_MAX));
        self.life.sleep_until(self.now() + took).await;
        work()
    }

    fn entropy(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn net(&self) -> &SimNet {
        &self.net
    }
}

/// One life of one node, for the parts of the platform.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) world: Rc<World>,
    pub(crate) node: NodeId,
    pub(crate) life: u32,
}

impl Life {
    pub(crate) fn now(&self) -> Instant {
        self.world.clock.borrow().now()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.world.is_alive(self.node, self.life)
    }

    pub(crate) async fn sleep_until(&self, until: Instant) {
        if until == Instant::FAR {
            return std::future::pending().await;
        }
        let mut timer = Timer { world: &self.world, key: None };
        poll_fn(|cx| {
            let mut clock = self.world.clock.borrow_mut();
            if clock.now() >= until {
                return Poll::Ready(());
            }
            match timer.key {
                Some(key) => clock.rewake(key, cx.waker()),
                None => timer.key = Some(clock.at(until, Due::Wake(cx.waker().clone()))),
            }
            Poll::Pending
        })
        .await;
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }
}

/// Takes its entry back when the sleep is dropped.
struct Timer<'a> {
    world: &'a World,
    key: Option<DueKey>,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.world.clock.borrow_mut().cancel(key);
        }
    }
}

/// When the wall clock of a run showed so many milliseconds.
pub(crate) const fn instant(unix_ms: u64) -> Instant {
    Instant::from_nanos(unix_ms.saturating_sub(BEGIN_UNIX_MS) * 1_000_000)
}

/// The wall clock at the beginning of every run: 2026-11-23T00:00:00Z.
const BEGIN_UNIX_MS: u64 = 1_795_392_000_000;
/// Longest that blocking work takes, microseconds of virtual time.
const BLOCKING_MICROS_MAX: u64 = 50_000;
