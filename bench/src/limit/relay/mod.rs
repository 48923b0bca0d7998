//! The null relay: the least program that moves the bytes of `w10` in and out.
//!
//! It speaks SMTP on both sides with the grouping that the data plane uses (envelope commands in one group, a mail in
//! one write, connections kept open), and it does nothing else: no storage, no signing, no parsing beyond ends of lines.
//! A real server's CPU a mail is compared with its. It runs in a process of its own, so that its CPU is counted apart
//! from the load's and the receivers', which are those of `run`.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum as _;

use super::cpu::{self, Cost};
use super::{CONNECTIONS, MAIL_BYTES};
use crate::sink::{Sink, SinkPlan};
use crate::source::{Composer, Draw, Interface, Lane, Load, LoadPlan, Login, Mix, Pace, Phase, Tls};
use crate::tally::Tally;

mod dialogue;
mod glommio;
mod uring;

/// Mails that a relay holds between its two sides.
const MAILS_WAITING_MAX: usize = 256;
/// Mails of the first load, which warms up and tells how many mails the time holds.
const WARM_UP_MAILS: u64 = 4_000;
/// Mails of the measured load at least.
const MAILS_MIN: u64 = 20_000;
/// Longest wait for the last mails.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// How a relay tells where it listens.
const ANNOUNCEMENT: &str = "null relay listens on ";

/// What a null relay is written on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Ring {
    /// glommio, as a data plane of one shard
    Glommio,
    /// glommio, as a data plane of two shards
    GlommioTwo,
    /// io_uring itself
    Uring,
}

/// Where a relay listens and delivers to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) listen: SocketAddr,
    pub(super) forward: SocketAddr,
    pub(super) connections: usize,
}

/// Runs a relay until it fails, or until standard input ends where `until_stdin_ends`.
pub(super) fn serve(ring: Ring, plan: Plan, until_stdin_ends: bool) -> Result<()> {
    if until_stdin_ends {
        std::thread::spawn(|| {
            // Whatever comes, its end is the end.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
    }
    match ring {
        Ring::Glommio => glommio::serve(plan, 1),
        Ring::GlommioTwo => glommio::serve(plan, 2),
        Ring::Uring => uring::serve(plan),
    }
}

fn announce(address: SocketAddr) {
    println!("{ANNOUNCEMENT}{address}");
}

/// CPU of a relay for one mail, under the load and the receivers of `run`.
pub(super) fn measure(ring: Ring, time: Duration, connections: usize) -> Result<Cost> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let warm_up = one_load(ring, connections, &[WARM_UP_MAILS]).await?;
        let mails = (time.as_secs_f64() * 1e6 / warm_up.wall_us) as u64;
        let slice = mails.max(MAILS_MIN) / cpu::SLICES;
        one_load(ring, connections, &[slice; cpu::SLICES as usize + 1]).await
    })
}

/// Sends slices of so many mails through one relay. The first warms up and the cost of a mail is the median of the
/// others; a single slice is measured itself.
async fn one_load(ring: Ring, connections: usize, slices: &[u64]) -> Result<Cost> {
    let total: u64 = slices.iter().sum();
    let tally = Tally::new(total + 1);
    let sink = Sink::start(SinkPlan::default(), tally.clone()).await.context("the receivers did not start")?;
    let relay = Relay::start(ring, (Ipv4Addr::LOCALHOST, sink.port()).into(), connections)?;
    let mix = Mix::new("news@bench.test", vec!["demo.test".into()], Draw::Fixed(u32::try_from(MAIL_BYTES)?));
    let plan = LoadPlan {
        interface: Interface::Smtp,
        target: relay.address,
        tls: Tls::None,
        login: Some(Login { username: "bench".into(), secret: "bench".into() }),
        lane: Lane::ALL,
        connections: CONNECTIONS,
        composer: Arc::new(Composer::new(mix)),
    };
    let load = Load::start(plan, tally.clone());
    let mut costs = Vec::new();
    for mails in slices {
        let (start, cpu) = (Instant::now(), relay.cpu()?);
        let phase = Phase { pace: Pace::Closed, until: None, recipients_max: Some(*mails) };
        let sent = load.begin(phase) + mails;
        while !load.is_idle() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        settle(&tally, sent).await?;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / *mails as f64;
        costs.push(Cost { cpu_us: each(relay.cpu()?.saturating_sub(cpu)), wall_us: each(start.elapsed()) });
    }
    let counts = tally.counts();
    if counts.delivered != total || counts.duplicated > 0 || counts.mixed_up > 0 {
        bail!("the relay did not pass on what it took: {counts:?}");
    }
    Ok(cpu::median(if costs.len() > 1 { costs.split_off(1) } else { costs }))
}

/// Waits until `mails` mails are delivered.
async fn settle(tally: &Tally, mails: u64) -> Result<()> {
    let start = Instant::now();
    while tally.counts().delivered < mails {
        if start.elapsed() > SETTLE_LIMIT {
            bail!("mails got lost in the relay: {:?}", tally.counts());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// A relay in a process of its own; it ends with us.
struct Relay {
    child: Child,
    address: SocketAddr,
}

impl Relay {
    fn start(ring: Ring, forward: SocketAddr, connections: usize) -> Result<Self> {
        let ring = ring.to_possible_value().context("every ring has a name")?;
        let mut child = Command::new(std::env::current_exe().context("where is this program?")?)
            .args(["limit", "--relay", ring.get_name()])
            .args(["--forward", &forward.to_string(), "--connections", &connections.to_string()])
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the relay did not start")?;
        let mut line = String::new();
        if let Some(output) = child.stdout.as_mut() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = line.trim_end().strip_prefix(ANNOUNCEMENT).and_then(|address| address.parse().ok());
        let address = address.with_context(|| format!("the relay did not say where it listens: {line:?}"))?;
        Ok(Self { child, address })
    }

    /// CPU of all its threads so far, user and system.
    fn cpu(&self) -> Result<Duration> {
        cpu::of_pid(self.child.id()).context("the relay is gone")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
