//! `postrail-bench publication`: how fast a change of configuration is in effect on many data planes, all on this host.
//!
//! ```text
//! etcd   control plane   data plane x N       each a process: the real ones, with their own client, watch and disk
//! made-up state -> etcd -> published -> N times fetched, checked, kept on disk, in effect
//! then, again and again: change one throttle, or one tenant's weight
//!               -> one chunk, the manifest and the way to it -> in effect on all N
//! ```
//!
//! A change counts from before its request to the control API until a data plane has written that it is in effect. The
//! desired state is made up in etcd directly: 40,000 DKIM keys would take an hour to make, and nobody signs with them.
//! Invariants worth naming: after every change etcd is asked what was written, and anything but one chunk, the manifest
//! and what leads to it ends the run as broken; the next change begins when all have the one before. Absent here: other
//! machines, so all processes compete for this one's CPUs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::server::{Scratch, find_postrail};
use crate::{machine, processes};

mod etcd;
mod fill;
mod measure;
mod planes;
mod report;

use etcd::Etcd;
use measure::Changer;
use planes::{ControlPlane, DataPlanes, Network};
use report::{Figures, Started};

const EXAMPLES: &str = "\
Examples:
  postrail-bench publication                                  10,000 tenants, 64 data planes, 200 changes
  postrail-bench publication --p99-ms 50                      exit status 1 where p99 is above 50 ms
  postrail-bench publication --tenants 100 --data-planes 4 --changes 20 --json publication.json

It needs etcd (Debian: etcd-server) and `postrail` beside this program, else on PATH (or --server); some 100 MB of memory
a data plane with the usual number of tenants. All files are in one folder that is removed afterwards.";

/// Measure how fast a change of configuration reaches many data planes through etcd, all of them on this host
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Tenants, each with two sending domains and two DKIM keys a domain
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    tenants: u32,
    /// Data planes, each a process
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..=200))]
    data_planes: u8,
    /// Changes that are measured, after some that are not
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changes: u32,
    /// What a change changes
    #[arg(long, value_enum, default_value_t)]
    change: Change,
    /// Exit status 1 where the 99th percentile is above this
    #[arg(long, value_name = "MS")]
    p99_ms: Option<u32>,
    /// Write the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The server to start [default: postrail beside this program, else on PATH]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Where the folder is made [default: the system's place for temporary files]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Keep the folder
    #[arg(long)]
    keep: bool,
}

/// What is changed, again and again: one record of one chunk.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The rate of one shaping rule, which is made for it
    #[default]
    Throttle,
    /// The weight of one tenant
    Weight,
}

impl Change {
    const fn words(self) -> &'static str {
        match self {
            Self::Throttle => "one shaping rule's rate",
            Self::Weight => "one tenant's weight",
        }
    }
}

/// Measures and prints.
///
/// # Errors
/// Something does not start, or what is published is not what was wanted.
pub fn run(args: &Args) -> Result<ExitCode> {
    let binary = find_postrail(args.server.clone())?;
    let scratch = Scratch::new(args.folder.as_deref(), args.keep).context("cannot make a folder")?;
    let network = Network::new();
    eprintln!("{}", machine::line(&machine::here()));
    let etcd = Etcd::start(scratch.path(), network)?;
    let mut started = Started::default();

    // The first start makes what every installation has; the rest is added to that.
    ControlPlane::start(&binary, scratch.path(), network, &etcd)?.stop()?;
    started.filled = fill::fill(&etcd, args.tenants)?;
    let begun = std::time::Instant::now();
    let control = ControlPlane::start(&binary, scratch.path(), network, &etcd)?;
    started.published = begun.elapsed();
    let revision = control.revision()?;
    (started.chunks, started.bytes) = etcd.published()?;
    eprintln!("{} tenants published in {} chunks after {:.1?}", args.tenants, started.chunks, started.published);

    let mut planes = DataPlanes::new(&binary, scratch.path(), network, &etcd);
    started.one = planes.start(1, &control, revision)?;
    started.others = planes.start(args.data_planes - 1, &control, revision)?;
    eprintln!("in effect on one data plane after {:.1?}, on the others after {:.1?}", started.one, started.others);

    let programs = [("control plane", vec![control.pid()]), ("etcd", vec![etcd.pid()]), ("data planes", planes.pids())];
    let mut changer = Changer::new(args.change, &etcd, &control, &mut planes)?;
    changer.warm_up(WARM_UP)?;
    let before = cpu(&programs);
    let measured = changer.measure(args.changes)?;
    let after = cpu(&programs);
    planes.check(control.revision()?)?;

    let per_change = |at: usize| (after[at] - before[at]).as_secs_f64() * 1e3 / f64::from(args.changes);
    let cpu_ms = programs.iter().enumerate().map(|(at, (name, _))| ((*name).to_owned(), per_change(at))).collect();
    let figures = Figures::new(args, &started, &measured, cpu_ms, &binary);
    print!("{}", figures.text());
    if let Some(file) = &args.json {
        let text = serde_json::to_vec_pretty(&figures)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let is_late = args.p99_ms.is_some_and(|limit| figures.reached_ms.p99 > f64::from(limit));
    Ok(if is_late { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// CPU time of each program so far.
fn cpu(programs: &[(&str, Vec<u32>)]) -> Vec<Duration> {
    let of = |pids: &Vec<u32>| {
        let watched: Vec<_> =
            pids.iter().map(|pid| processes::Watched { pid: *pid, ..processes::Watched::default() }).collect();
        let all = processes::usage(&watched).unwrap_or_default();
        Duration::from_nanos(all.iter().map(|usage| usage.cpu_nanos).sum())
    };
    programs.iter().map(|(_, pids)| of(pids)).collect()
}

/// The first changes open connections and fill caches.
const WARM_UP: u32 = 10;
