//! `postrail-bench limit`: what this machine can do at best, each as microseconds of CPU and as a rate a core.
//!
//! A server's figures mean something beside these: a mail costs its signature, its append, its bytes in and out, and
//! what is left over is the server's own. The *null relay* ([`relay`]) moves the SMTP bytes of a mail in and out and
//! does nothing else: no server of the same protocol and runtime can take less.
//!
//! Invariants worth naming: every figure is CPU time, user plus system, of the threads that did the work, and the wall
//! clock's beside it; each item runs alone. Deliberately absent: a rate of the whole machine (cores share caches,
//! memory and turbo; a rate a core times the cores is no promise).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use glommio::{LocalExecutorBuilder, Placement};
use serde::{Deserialize, Serialize};

use crate::machine;
use crate::result::Machine;

mod cpu;
mod crypto;
mod disk;
mod loopback;
mod relay;

pub use relay::Ring;

/// Octets of a mail, as in the plan `w10`.
const MAIL_BYTES: usize = 10 * 1024;
/// Records of a group commit.
const GROUP: usize = 64;
/// Connections on either side, as in the plan `w10`.
const CONNECTIONS: usize = 20;

/// Measure what this machine can do at best
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Write the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Time for each item, seconds
    #[arg(long, default_value_t = 2.0, value_name = "N")]
    seconds: f64,
    /// Only this item (may be given several times); an unknown name lists them
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Where the segment of the disk items is written
    #[arg(long, default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// Do not measure: be a null relay, from --listen to --forward, until ended
    #[arg(long, value_name = "RING", requires = "forward")]
    relay: Option<Ring>,
    /// The null relay's own address
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    listen: SocketAddr,
    /// Where the null relay delivers to
    #[arg(long, value_name = "ADDR")]
    forward: Option<SocketAddr>,
    /// Connections of the null relay to where it delivers
    #[arg(long, default_value_t = CONNECTIONS, value_name = "N")]
    connections: usize,
    /// End the null relay when standard input ends
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// What one act costs at best.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Limit {
    pub name: String,
    pub what: String,
    /// User and system, microseconds.
    pub cpu_us: f64,
    /// By the wall clock, microseconds; for items with 20 connections the time between two of them.
    pub wall_us: f64,
    /// How often a core can do it in a second, if it does nothing else.
    pub rate_per_core_s: f64,
}

/// All figures of one machine: what `--json` writes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Limits {
    pub machine: Machine,
    pub limits: Vec<Limit>,
}

/// An item: its name, what it is, and what measures it.
type Item = (&'static str, &'static str, fn(&Args, Duration) -> Result<cpu::Cost>);

const ITEMS: &[Item] = &[
    ("rsa-2048", "RSA-2048 signature", |_, time| crypto::rsa_2048(time)),
    ("ed25519", "Ed25519 signature", |_, time| crypto::ed25519(time)),
    ("sha-256", "SHA-256 of 10 KB", |_, time| Ok(crypto::sha_256(time, MAIL_BYTES))),
    ("dkim", "DKIM canonical form and hashes of 10 KB", |_, time| crypto::dkim(time, MAIL_BYTES)),
    ("append-single", "append of 10 KB, each with its fdatasync", |args, time| {
        disk::append(time, &args.folder, MAIL_BYTES, 1)
    }),
    ("append-group", "append of 10 KB, 64 with one fdatasync", |args, time| {
        disk::append(time, &args.folder, MAIL_BYTES, GROUP)
    }),
    ("loopback", "10 KB and an answer over loopback, both sides", |_, time| loopback::exchange(time, MAIL_BYTES)),
    ("relay-glommio", "null relay of a 10 KB mail, glommio", |args, time| {
        relay::measure(Ring::Glommio, time, args.connections)
    }),
    ("relay-glommio-two", "null relay of a 10 KB mail, two executors", |args, time| {
        relay::measure(Ring::GlommioTwo, time, args.connections)
    }),
    ("relay-uring", "null relay of a 10 KB mail, raw io_uring", |args, time| {
        relay::measure(Ring::Uring, time, args.connections)
    }),
];

/// Measures and prints; or is a null relay.
///
/// # Errors
/// An unknown item, no io_uring, no O_DIRECT in the folder, a null relay that fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let (Some(ring), Some(forward)) = (args.relay, args.forward) {
        let plan = relay::Plan { listen: args.listen, forward, connections: args.connections };
        relay::serve(ring, plan, args.until_stdin_ends)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !(0.01..=3_600.0).contains(&args.seconds) {
        bail!("--seconds is between 0.01 and 3600");
    }
    let names: Vec<_> = ITEMS.iter().map(|(name, ..)| *name).collect();
    if let Some(unknown) = args.only.iter().find(|only| !names.contains(&only.as_str())) {
        bail!("no item is called {unknown}; there are {}", names.join(", "));
    }
    let machine = machine::here();
    println!("{}\n", machine::line(&machine));
    println!("{:<46}{:>10}{:>10}{:>14}", "at best", "CPU µs", "wall µs", "a core, 1/s");
    let mut limits = Vec::new();
    for (name, what, measure) in ITEMS {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        let time = Duration::from_secs_f64(args.seconds);
        let cost = measure(args, time).with_context(|| format!("{name} could not be measured"))?;
        let limit = limit(name, what, cost);
        println!("{what:<46}{:>10.2}{:>10.2}{:>14.0}", limit.cpu_us, limit.wall_us, limit.rate_per_core_s);
        limits.push(limit);
    }
    if let Some((stored, signed)) = floors(&limits) {
        println!(
            "\nA mail of 10 KB, relayed and stored, costs {stored:.0} µs at best (null relay on glommio, append in a \
             group),\nsigned with RSA-2048 {signed:.0} µs."
        );
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&Limits { machine, limits })?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What no server on this runtime goes below, for a mail that is stored, and for one that is signed, too.
fn floors(limits: &[Limit]) -> Option<(f64, f64)> {
    let of = |name: &str| limits.iter().find(|limit| limit.name == name).map(|limit| limit.cpu_us);
    let stored = of("relay-glommio")? + of("append-group")?;
    Some((stored, stored + of("dkim")? + of("rsa-2048")?))
}

fn limit(name: &str, what: &str, cost: cpu::Cost) -> Limit {
    let rate_per_core_s = if cost.cpu_us > 0.0 { 1e6 / cost.cpu_us } else { 0.0 };
    let (name, what) = (name.to_owned(), what.to_owned());
    Limit { name, what, cpu_us: cost.cpu_us, wall_us: cost.wall_us, rate_per_core_s }
}

/// An executor as a shard has it: one thread on one core, and as much memory and depth.
fn executor(number: usize) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(Placement::Fixed(core(number))).io_memory(1 << 20).ring_depth(256)
}

/// The core of that number among those that this process may use, which are dealt out in turn.
fn core(number: usize) -> usize {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return 0 };
    let cores: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    cores.get(number % cores.len().max(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_a_core_is_the_inverse_of_its_cpu_time() {
        let limit = limit("a", "an act", cpu::Cost { cpu_us: 250.0, wall_us: 1.0 });
        assert_eq!(limit.rate_per_core_s, 4_000.0);
    }

    #[test]
    fn floors_are_sums_of_what_was_measured() {
        let costs = [("relay-glommio", 50.0), ("append-group", 5.0), ("dkim", 10.0), ("rsa-2048", 300.0)];
        let limits = costs.map(|(name, cpu_us)| limit(name, "", cpu::Cost { cpu_us, wall_us: 0.0 }));
        assert_eq!(floors(&limits), Some((55.0, 365.0)));
        assert_eq!(floors(&limits[1..]), None);
    }

    #[test]
    fn names_of_items_are_unique() {
        let names: std::collections::BTreeSet<_> = ITEMS.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), ITEMS.len());
    }
}
