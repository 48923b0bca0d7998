//! Load: numbered mails of chosen sizes over several connections, by SMTP or REST.
//!
//! A [`Load`] keeps its connections over several phases (a warm-up, then what is measured), so that what a login costs
//! is not part of a mail. Its connections draw numbers from one sequence. In a closed loop a connection takes the next
//! mail as soon as the last is answered (in a bounded one: as soon as few enough recipients of the run are unsettled);
//! in an open loop the `n`th recipient is due at `start + n / rate`, and a mail that is sent late counts as late: its
//! latency starts when it was due. Deliberately absent: a second try of a mail whose connection broke (it is counted as
//! doubtful, since sending it again would hide a duplicate).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::tally::Tally;

mod draw;
mod message;
mod rest;
mod smtp;

pub use draw::Draw;
pub(crate) use draw::spread;
pub use message::{Composer, Mix, Numbers};

/// Longest time that a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of a connection to be opened, one after the other, before its share of the load is given up.
const CONNECT_TRIES: u32 = 5;
/// Pause between such tries, and after an answer that asks to come back later.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Connections of a load that are being opened at the same time. A server's queue for new ones may be as short as 5, and
/// where the kernel answers by SYN cookies, one that is lost there hears nothing and cannot tell.
const OPENING_MAX: usize = 4;
/// Time between two looks at whether there is room for one more mail.
const ROOM_LOOK: Duration = Duration::from_millis(1);
/// Times that one mail is offered again after an answer that asks to come back later.
const OFFERS_MAX: u32 = 600;

/// When mails are sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// As fast as answers come.
    Closed,
    /// As fast as answers come, while fewer recipients of the run than this are sent and not settled yet.
    Bounded { unsettled_max: u64 },
    /// By the clock: this many recipients a second, over all connections.
    Open { rate_per_s: f64 },
}

/// How mails are handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interface {
    /// SMTP with AUTH PLAIN where a login is given; envelope commands in one group where the server offers PIPELINING.
    Smtp,
    /// `POST /v2/jobs`.
    Rest,
}

/// The encryption of a load's connections.
#[derive(Clone, Default)]
pub enum Tls {
    #[default]
    None,
    StartTls(TlsConnector),
    Implicit(TlsConnector),
}

/// The username and secret to submit with.
#[derive(Clone)]
pub struct Login {
    pub username: String,
    pub secret: String,
}

/// The numbers of one load: `first`, `first + stride`, and so on. Loads of one run must not share numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lane {
    pub first: u64,
    pub stride: u64,
}

impl Lane {
    /// All numbers: for a run with one load.
    pub const ALL: Self = Self { first: 0, stride: 1 };

    /// The number at `position` of this lane.
    pub fn number(&self, position: u64) -> u64 {
        self.first + position * self.stride
    }
}

/// One load to run.
#[derive(Clone)]
pub struct LoadPlan {
    pub interface: Interface,
    pub target: SocketAddr,
    pub tls: Tls,
    pub login: Option<Login>,
    pub lane: Lane,
    pub connections: usize,
    pub composer: Arc<Composer>,
}

/// A stretch of load.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Phase {
    pub pace: Pace,
    /// Nothing is taken that is due at this moment or later.
    pub until: Option<Instant>,
    /// Recipients at most.
    pub recipients_max: Option<u64>,
}

/// A running load. Its connections end when it is dropped.
pub struct Load {
    shared: Arc<Shared>,
    orders: watch::Sender<Order>,
    tasks: JoinSet<()>,
}

/// What the connections of one load share.
struct Shared {
    plan: LoadPlan,
    tally: Arc<Tally>,
    /// The next position of the lane.
    position: AtomicU64,
    /// The next mail or job.
    mail: AtomicU64,
    /// Connections that still take from the present phase.
    busy: AtomicUsize,
    /// Connections that have not given up.
    living: AtomicUsize,
    /// Permits to open a connection.
    opening: Semaphore,
}

/// What the connections are to do.
#[derive(Clone, Copy, Debug, Default)]
struct Order {
    stretch: Option<Stretch>,
    /// Say goodbye after it.
    finish: bool,
}

/// A phase that has begun.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    phase: Phase,
    start: Instant,
    /// Its first position.
    position: u64,
}

impl Load {
    /// Starts the connections on the current tokio runtime; they open with the first phase.
    pub fn start(plan: LoadPlan, tally: Arc<Tally>) -> Self {
        let (orders, listening) = watch::channel(Order::default());
        let connections = plan.connections.max(1);
        let shared = Arc::new(Shared {
            plan,
            tally,
            position: AtomicU64::new(0),
            mail: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            living: AtomicUsize::new(connections),
            opening: Semaphore::new(OPENING_MAX),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let work = Work { shared: shared.clone(), orders: listening.clone(), over: None, is_busy: false };
            let interface = work.shared.plan.interface;
            tasks.spawn(async move {
                match interface {
                    Interface::Smtp => smtp::run(work).await,
                    Interface::Rest => rest::run(work).await,
                }
            });
        }
        Self { shared, orders, tasks }
    }

    /// Begins `phase` now, at the position that it gives; the former one must be over.
    pub fn begin(&self, phase: Phase) -> u64 {
        let position = self.position();
        self.shared.busy.store(self.shared.living.load(Ordering::Acquire), Ordering::Release);
        let stretch = Stretch { phase, start: Instant::now(), position };
        self.orders.send_modify(|order| order.stretch = Some(stretch));
        position
    }

    /// Ends the present phase early: what is under way is answered, and nothing more is taken.
    pub fn halt(&self) {
        self.orders.send_modify(|order| {
            if let Some(stretch) = &mut order.stretch {
                stretch.phase.until = Some(Instant::now());
            }
        });
    }

    /// Whether every connection has had the last answer of the present phase.
    pub fn is_idle(&self) -> bool {
        self.shared.busy.load(Ordering::Acquire) == 0
    }

    /// Whether no connection could be opened any more.
    pub fn has_given_up(&self) -> bool {
        self.shared.living.load(Ordering::Acquire) == 0
    }

    /// The position that the next mail will have.
    pub fn position(&self) -> u64 {
        self.shared.position.load(Ordering::Acquire)
    }

    /// The numbers of this load.
    pub fn lane(&self) -> Lane {
        self.shared.plan.lane
    }

    /// Waits for the end of the present phase, and closes the connections politely.
    pub async fn finish(mut self) {
        self.orders.send_modify(|order| order.finish = true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// One load's single phase, to its end.
pub async fn run(plan: LoadPlan, phase: Phase, tally: Arc<Tally>) {
    let load = Load::start(plan, tally);
    load.begin(phase);
    load.finish().await;
}

/// One connection's side of a load.
struct Work {
    shared: Arc<Shared>,
    orders: watch::Receiver<Order>,
    /// The start of the last phase that is over for this connection.
    over: Option<Instant>,
    is_busy: bool,
}

impl Work {
    /// The recipients of the next mail, when they are due, and entered as planned; `None`: say goodbye.
    async fn next(&mut self) -> Option<Numbers> {
        loop {
            let order = *self.orders.borrow_and_update();
            if let Some(stretch) = order.stretch
                && self.over != Some(stretch.start)
            {
                self.is_busy = true;
                if self.has_room(&stretch).await
                    && let Some((numbers, due)) = self.shared.take(&stretch)
                    && self.is_due(due).await
                {
                    for number in numbers.iter() {
                        self.shared.tally.plan(number, due);
                    }
                    return Some(numbers);
                }
                self.over = Some(stretch.start);
                self.is_busy = false;
                self.shared.busy.fetch_sub(1, Ordering::AcqRel);
            }
            if order.finish || self.orders.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Waits until the pace leaves room for one more mail; false where the phase is over before.
    async fn has_room(&self, stretch: &Stretch) -> bool {
        let Pace::Bounded { unsettled_max } = stretch.phase.pace else { return true };
        while self.shared.tally.counts().unsettled() >= unsettled_max {
            let until = self.orders.borrow().stretch.and_then(|stretch| stretch.phase.until);
            if until.is_some_and(|until| Instant::now() >= until) {
                return false;
            }
            tokio::time::sleep(ROOM_LOOK).await;
        }
        true
    }

    /// Waits until `due`; false where the phase is cut short before.
    async fn is_due(&mut self, due: Instant) -> bool {
        if due <= Instant::now() {
            return true;
        }
        let sleep = tokio::time::sleep_until(due.into());
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return true,
                changed = self.orders.changed() => {
                    let stretch = self.orders.borrow_and_update().stretch;
                    let until = stretch.and_then(|stretch| stretch.phase.until);
                    if changed.is_err() || until.is_some_and(|until| due >= until) {
                        return false;
                    }
                }
            }
        }
    }

    /// No connection can be opened: this one's share is given up.
    fn give_up(&mut self) {
        self.shared.living.fetch_sub(1, Ordering::AcqRel);
    }

    /// The server has acknowledged `numbers`.
    fn accept(&self, numbers: impl Iterator<Item = u64>) {
        let now = Instant::now();
        for number in numbers {
            self.shared.tally.accept(number, now);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.is_busy {
            self.shared.busy.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Shared {
    /// Draws the next mail and when it is due; `None`: the phase is over.
    fn take(&self, stretch: &Stretch) -> Option<(Numbers, Instant)> {
        let Stretch { phase, start, position: first } = *stretch;
        let taken = self.position.load(Ordering::Acquire).saturating_sub(first);
        let left = phase.recipients_max.map_or(u64::MAX, |max| max.saturating_sub(taken));
        let due = match phase.pace {
            Pace::Closed | Pace::Bounded { .. } => Instant::now(),
            Pace::Open { rate_per_s } => {
                start + Duration::from_secs_f64((taken as f64 / rate_per_s.max(RATE_MIN)).min(DUE_SECONDS_MAX))
            }
        };
        if left == 0 || phase.until.is_some_and(|until| due >= until) {
            return None;
        }
        let mail = self.mail.fetch_add(1, Ordering::AcqRel);
        let count = self.plan.composer.recipients(mail).min(left);
        let position = self.position.fetch_add(count, Ordering::AcqRel);
        let lane = self.plan.lane;
        if lane.number(position + count - 1) >= self.tally.capacity() {
            return None;
        }
        Some((Numbers { first: lane.number(position), count, stride: lane.stride }, due))
    }
}

/// The slowest open loop, recipients a second.
const RATE_MIN: f64 = 0.001;
/// The latest that a mail may be due after the start of its phase, seconds.
const DUE_SECONDS_MAX: f64 = 1e9;

/// What `open` gives when it is this connection's turn; nothing after several failures.
async fn opened<T, F>(shared: &Shared, open: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = std::io::Result<T>>,
{
    for attempt in 0..CONNECT_TRIES {
        let permit = shared.opening.acquire().await.ok()?;
        if let Ok(open) = answered(open()).await {
            return Some(open);
        }
        drop(permit);
        tokio::time::sleep(RETRY_PAUSE * (attempt + 1)).await;
    }
    None
}

/// `work`, or an error when the server does not answer in time.
async fn answered<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, work)
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer"))?
}
