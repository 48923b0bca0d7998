//! Load: numbered mails of chosen sizes over several connections, by SMTP or REST.
//!
//! A [`Load`] hands out numbers to its connections. In a closed loop a connection takes the next mail as soon as the
//! last is answered; in an open loop mail `n` is due at `start + n / rate`, and a mail that is sent late counts as
//! late: its latency starts when it was due. Deliberately absent: TLS, and a second try of a mail whose connection
//! broke (it is counted as doubtful, since sending it again would hide a duplicate).

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::tally::Tally;

mod message;
mod rest;
mod smtp;

pub use message::Composer;

/// Longest time that a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of a connection to be opened, one after the other, before its share of the load is given up.
const CONNECT_TRIES: u32 = 5;
/// Pause between such tries, and after an answer that asks to come back later.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Times that one mail is offered again after an answer that asks to come back later.
const OFFERS_MAX: u32 = 600;

/// When mails are sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// As fast as answers come.
    Closed,
    /// By the clock: this many recipients a second, over all connections.
    Open { rate_per_s: f64 },
}

/// How mails are handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interface {
    /// SMTP with AUTH PLAIN, envelope commands in one group.
    Smtp,
    /// `POST /v2/jobs`, with this many recipients a job.
    Rest { recipients_per_job: u64 },
}

/// The username and secret to submit with.
#[derive(Clone)]
pub struct Login {
    pub username: String,
    pub secret: String,
}

/// One load to run.
#[derive(Clone)]
pub struct LoadPlan {
    pub interface: Interface,
    pub target: SocketAddr,
    pub login: Option<Login>,
    /// The numbers of the recipients; loads of one run must not share numbers.
    pub numbers: std::ops::Range<u64>,
    pub connections: usize,
    pub pace: Pace,
    pub composer: Arc<Composer>,
}

/// Sizes of messages, octets, spread evenly.
pub type Sizes = RangeInclusive<usize>;

/// What the connections of one load share.
struct Load {
    plan: LoadPlan,
    next: AtomicU64,
    start: Instant,
    tally: Arc<Tally>,
}

/// Runs one load to its end: until every number was sent, or no connection can be opened any more.
pub async fn run(plan: LoadPlan, tally: Arc<Tally>) {
    let connections = plan.connections;
    let next = AtomicU64::new(plan.numbers.start);
    let load = Arc::new(Load { plan, next, start: Instant::now(), tally });
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let load = load.clone();
        tasks.spawn(async move {
            match load.plan.interface {
                Interface::Smtp => smtp::run(&load).await,
                Interface::Rest { recipients_per_job } => rest::run(&load, recipients_per_job).await,
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

impl Load {
    /// The next `count` numbers (fewer at the end), when they are due, and entered as planned; `None`: all are sent.
    async fn take(&self, count: u64) -> Option<std::ops::Range<u64>> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let last = self.plan.numbers.end.min(first.saturating_add(count));
        if first >= last {
            return None;
        }
        let due = match self.plan.pace {
            Pace::Closed => Instant::now(),
            Pace::Open { rate_per_s } => {
                let position = (first - self.plan.numbers.start) as f64;
                let due = self.start + Duration::from_secs_f64(position / rate_per_s.max(f64::MIN_POSITIVE));
                tokio::time::sleep_until(due.into()).await;
                due
            }
        };
        for number in first..last {
            self.tally.plan(number, due);
        }
        Some(first..last)
    }

    fn accept(&self, numbers: std::ops::Range<u64>) {
        let now = Instant::now();
        for number in numbers {
            self.tally.accept(number, now);
        }
    }
}

/// `work`, or an error when the server does not answer in time.
async fn answered<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, work)
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer"))?
}
