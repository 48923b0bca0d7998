//! `postrail-bench run PLAN.toml`: one plan, from starting the server to the result.
//!
//! ```text
//! Stage (sink, its name server, two threads) -> Postrail::start or --target -> measure -> RunResult -> table, JSON
//! ```
//!
//! Other subcommands bring their own [`Target`] to [`measure`]. Exit status: 0 nothing was lost or duplicated, 1 something
//! was, 2 it could not start, 130 interrupted (the result is of what was done by then).

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::page;
use crate::plan::{Dkim, Plan};
use crate::result::RunResult;
use crate::server::{Postrail, PostrailOptions, Scratch, Target, TargetUrl, find_postrail};

mod account;
mod drive;
mod live;
mod stage;
mod summary;
mod waiting;

pub use drive::{Drive, measure};
pub use stage::Stage;
pub use summary::table;

/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;
/// The word for `--target` that sends straight to the receivers.
const SINK: &str = "sink";

const EXAMPLES: &str = "\
Examples:
  postrail-bench run bench/plans/w10.toml --json w10.json
  postrail-bench run bench/plans/w10.toml --seconds 20        shorter than the plan says
  postrail-bench run bench/plans/w10-half.toml --rate 3000    2 x 1,500 a second: the plan takes half of it
  postrail-bench run bench/plans/w10.toml --target sink       what load and receivers cost by themselves
  postrail-bench run my.toml --target smtp://app:secret@127.0.0.1:2525 --pid 4711 \\
      --name-server 127.0.0.1:5300 --sink-port 2626           a server that you have set up: it resolves
                                                              names at 5300 and delivers to port 2626

The server is `postrail` beside this program, else on PATH (or --server). It gets a fresh folder, which is removed
afterwards. All that is measured is explained in docs/reference/bench.md.";

/// What `run` takes.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The plan, such as bench/plans/w10.toml
    #[arg(value_name = "PLAN.toml")]
    pub plan: PathBuf,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the result as one HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// How long mail is sent, instead of what the plan says
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// How many recipients are sent to, instead of what the plan says
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    pub mails: Option<u64>,
    /// How long it is warmed up, instead of what the plan says
    #[arg(long, value_name = "SECONDS")]
    pub warm_up: Option<f64>,
    /// Recipients a second, by the clock; where the plan takes a share of the highest rate: that rate
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Shards of the server, instead of what the plan says
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// The server to start [default: postrail beside this program, else on PATH]
    #[arg(long, value_name = "PATH", conflicts_with = "target")]
    pub server: Option<PathBuf>,
    /// Where the server's folder is made [default: the system's place for temporary files]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Keep the server's folder
    #[arg(long)]
    pub keep: bool,
    /// A server that runs already: smtp://user:secret@host:port, http://… for REST, or `sink` for the receivers themselves
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// A process of the target, whose CPU and memory are measured with those of its children (repeatable)
    #[arg(long, value_name = "PID", requires = "target")]
    pub pid: Vec<u32>,
    /// Where the receivers' name server listens [default: some free port on loopback]
    #[arg(long, value_name = "IP:PORT")]
    pub name_server: Option<SocketAddr>,
    /// The port of all receivers [default: some free one]
    #[arg(long, value_name = "PORT")]
    pub sink_port: Option<u16>,
}

/// Runs the plan, prints the result, and writes it where asked.
///
/// # Errors
/// The plan cannot be read, the server cannot be started, or a file cannot be written.
pub fn run(args: Args) -> Result<ExitCode> {
    let plan = adjusted(Plan::read(&args.plan)?, &args)?;
    // Files that cannot be written are told before the time is spent.
    let mut json = args.json.as_deref().map(create).transpose()?;
    let mut html = args.html.as_deref().map(create).transpose()?;
    let binary = if args.target.is_none() { Some(find_postrail(args.server.clone())?) } else { None };
    let interrupted = Arc::new(AtomicBool::new(false));
    let stage = Stage::start(&plan, args.sink_port, args.name_server)?;
    stage.watch_for_interrupts(interrupted.clone());
    let result = match binary {
        Some(binary) => with_own_server(&plan, &stage, binary, &args, &interrupted)?,
        None => {
            let target = target(&plan, &stage, &args)?;
            let drive = Drive { plan: &plan, stage: &stage, interrupted: &interrupted };
            measure(&drive, &target, None)?
        }
    };
    drop(stage);
    println!("{}", table(&result));
    if let Some(file) = &mut json {
        serde_json::to_writer_pretty(&*file, &result).context("cannot write the JSON file")?;
        writeln!(file).context("cannot write the JSON file")?;
    }
    if let Some(file) = &mut html {
        file.write_all(page::render(&result).as_bytes()).context("cannot write the HTML file")?;
    }
    Ok(if interrupted.load(Ordering::Relaxed) {
        ExitCode::from(INTERRUPTED)
    } else if result.is_exact() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The plan with what the command line says instead.
fn adjusted(mut plan: Plan, args: &Args) -> Result<Plan> {
    if let Some(seconds) = args.seconds {
        (plan.seconds, plan.mails) = (Some(seconds), None);
    }
    if let Some(mails) = args.mails {
        (plan.seconds, plan.mails) = (None, Some(mails));
    }
    plan.warm_up_seconds = args.warm_up.unwrap_or(plan.warm_up_seconds);
    plan.server.shards = args.shards.or(plan.server.shards);
    if let Some(rate) = args.rate {
        let [load] = plan.loads.as_mut_slice() else {
            bail!("--rate is for a plan with one [[load]]; this one has {}: write the rates in it", plan.loads.len());
        };
        load.rate_per_s = Some(rate * load.share_of_highest.take().unwrap_or(1.0));
    }
    if args.target.is_some() && plan.waiting.is_some() {
        bail!("a plan with [waiting] kills the server: it needs one that the bench starts itself, without --target");
    }
    plan.check()?;
    Ok(plan)
}

fn with_own_server(
    plan: &Plan,
    stage: &Stage,
    binary: PathBuf,
    args: &Args,
    interrupted: &AtomicBool,
) -> Result<RunResult> {
    let scratch = Scratch::new(args.folder.as_deref(), args.keep).context("cannot make the server's folder")?;
    let options = PostrailOptions {
        binary,
        folder: scratch.path().to_owned(),
        resolver: stage.name_server(),
        receiver_port: stage.port(),
    };
    let mut server = Postrail::start(&options, plan)?;
    let drive = Drive { plan, stage, interrupted };
    let result = if plan.waiting.is_some() {
        waiting::measure(&drive, &mut server)?
    } else {
        let target = server.target().clone();
        measure(&drive, &target, Some(&mut server))?
    };
    server.stop()?;
    Ok(result)
}

/// The server that somebody else has started.
fn target(plan: &Plan, stage: &Stage, args: &Args) -> Result<Target> {
    let text = args.target.as_deref().unwrap_or_default();
    if text == SINK {
        let receiver = plan.planned_receivers().into_iter().next().context("a plan has a receiver")?;
        return Ok(Target {
            name: SINK.into(),
            smtp: Some((receiver.address, stage.port()).into()),
            logins: vec![None; plan.tenants.len()],
            ..Target::default()
        });
    }
    let url: TargetUrl = text.parse().map_err(anyhow::Error::msg).context("--target")?;
    eprintln!(
        "receivers at port {} of 127.77.1.1 and following, found by the name server at {}; mail is from sender0.test{}",
        stage.port(),
        stage.name_server(),
        if plan.server.dkim == Dkim::None { "" } else { " (its signatures are the target's own matter)" },
    );
    Ok(Target::external(&url, plan.tenants.len(), &args.pid))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}
