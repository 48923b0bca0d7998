//! `postrail-bench peers PLAN.toml`: one plan against Postrail and other mail servers, in turn on the same machine.
//!
//! ```text
//! load -> (postrail | postfix | exim | opensmtpd | haraka | --external) -> the plan's receiver
//! ```
//!
//! Invariants worth naming: load, receivers and account are the ones of `run`, and so are warm-up and drain; each server
//! starts from an empty folder on the same disk and has ended before the next starts; every mail is accounted for at the
//! receiver. A peer relays everything to the one receiver, without DNS and without a login, which spares it work that
//! Postrail does. Deliberately absent: TLS, since it would compare TLS libraries.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail};

use crate::plan::{Dkim, InterfacePlan, Plan, TlsPlan};
use crate::result::RunResult;
use crate::run::{Drive, Stage, measure};
use crate::server::{Postrail, PostrailOptions, Reserved, Scratch, Target, find_postrail};

mod exim;
mod group;
mod haraka;
mod kept;
mod opensmtpd;
mod postfix;
mod server;
mod site;
mod table;

pub use server::Server;
use server::{Running, start_external};
use site::{NotInstalled, Signing, Site};
use table::{Entry, Fault};

/// Rounds at most.
const ROUNDS_MAX: u8 = 20;
/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
Examples:
  ops/bench-peers                                            install Postfix, Exim, OpenSMTPD, Haraka, OpenDKIM privately
  postrail-bench peers bench/plans/w10.toml --mails 20000
  postrail-bench peers bench/plans/w10-dkim.toml --only postrail,postfix --rounds 3 --json peers.jsonl
  postrail-bench peers bench/plans/w10.toml --only postrail --external \\
      'exec my-mta --listen $BENCH_LISTEN_IP:$BENCH_LISTEN_PORT --smarthost $BENCH_SINK_IP:$BENCH_SINK_PORT \\
       --data $BENCH_FOLDER'

Needs root: each peer runs in namespaces and a control group of its own, so that nothing of this host changes and all of
its work is counted. docs/reference/bench-peers.md says how each is set up and why that is fair.";

/// What `peers` takes.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The plan, such as bench/plans/w10.toml: SMTP without TLS, one receiver
    #[arg(value_name = "PLAN.toml")]
    pub plan: PathBuf,
    /// How many recipients are sent to, instead of what the plan says
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    pub mails: Option<u64>,
    /// How long mail is sent, instead of what the plan says
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// Times that each server has its turn; the table has the medians
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(ROUNDS_MAX)))]
    pub rounds: u8,
    /// Write each round of each server as one line of JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The servers that have a turn [default: all that are installed]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<Server>,
    /// A command that starts another server, as the examples show; it must not go to the background
    #[arg(long, value_name = "CMD")]
    pub external: Option<String>,
    /// The postrail binary [default: beside this program, else on PATH]
    #[arg(long, value_name = "PATH")]
    pub server: Option<PathBuf>,
    /// Where ops/bench-peers has put the others [default: ../peers beside this program's folder]
    #[arg(long, value_name = "DIR")]
    pub peers: Option<PathBuf>,
    /// Where the servers' folders are made, all on one disk [default: the system's place for temporary files]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Keep the servers' folders
    #[arg(long)]
    pub keep: bool,
}

/// Measures the servers in turn and prints the table.
///
/// # Errors
/// The plan is not one that peers can run, nothing can be started here at all, or the file cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let plan = suited(Plan::read(&args.plan)?, args)?;
    let mut json = match &args.json {
        Some(path) => Some(File::create(path).with_context(|| format!("cannot write {}", path.display()))?),
        None => None,
    };
    let mut entries: Vec<_> = servers(args).into_iter().map(Entry::new).collect();
    let interrupted = Arc::new(AtomicBool::new(false));
    for round in 1..=args.rounds {
        for entry in &mut entries {
            if entry.fault.is_some() || interrupted.load(Ordering::Relaxed) {
                continue;
            }
            eprintln!("{}, round {round} of {}", entry.server.name(), args.rounds);
            match turn(entry.server, &plan, args, &interrupted) {
                Ok((version, result)) => {
                    entry.version = version;
                    entry.rounds.push(result);
                }
                Err(error) if error.downcast_ref::<NotInstalled>().is_some() => {
                    entry.fault = Some(Fault::NotInstalled);
                }
                Err(error) => entry.fault = Some(Fault::Failed(format!("{error:#}"))),
            }
        }
    }
    print!("{}", table::table(&entries));
    if let Some(file) = &mut json {
        let lines = table::json_lines(&entries).context("cannot write the JSON file")?;
        file.write_all(lines.as_bytes()).context("cannot write the JSON file")?;
    }
    let has_failed = entries.iter().any(|entry| !entry.is_exact() || matches!(entry.fault, Some(Fault::Failed(_))));
    Ok(match (interrupted.load(Ordering::Relaxed), has_failed) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    })
}

/// Who has a turn, in order.
fn servers(args: &Args) -> Vec<Server> {
    let is_wanted = |server: &Server| args.only.is_empty() || args.only.contains(server);
    let known = Server::KNOWN.into_iter().filter(is_wanted);
    known.chain(args.external.is_some().then_some(Server::External)).collect()
}

/// The plan with what the command line says instead, where peers can run it.
fn suited(mut plan: Plan, args: &Args) -> Result<Plan> {
    if let Some(seconds) = args.seconds {
        (plan.seconds, plan.mails) = (Some(seconds), None);
    }
    if let Some(mails) = args.mails {
        (plan.seconds, plan.mails) = (None, Some(mails));
    }
    plan.check()?;
    let is_plain = |load: &crate::plan::LoadSection| load.interface == InterfacePlan::Smtp && load.tls == TlsPlan::None;
    if !plan.loads.iter().all(is_plain) {
        bail!(
            "peers take mail by SMTP without TLS: choose a plan whose loads have `interface = \"smtp\"`, `tls = \"none\"`"
        );
    }
    let hosts: u16 = plan.receivers.iter().map(|receiver| receiver.hosts).sum();
    if hosts != 1 || plan.receivers.iter().any(|receiver| receiver.starttls) {
        bail!("peers relay to one host without TLS: choose a plan with one receiver, without `starttls`");
    }
    if plan.waiting.is_some() || plan.retry_deferred {
        bail!("peers cannot be told to retry: choose a plan without [waiting] and `retry_deferred`");
    }
    if !matches!(plan.server.dkim, Dkim::None | Dkim::Rsa) {
        bail!("not all peers sign by Ed25519: choose a plan with `dkim = \"none\"` or `\"rsa\"`");
    }
    Ok(plan)
}

/// One server's turn: its version and result.
fn turn(server: Server, plan: &Plan, args: &Args, interrupted: &Arc<AtomicBool>) -> Result<(String, RunResult)> {
    let stage = Stage::start(plan, None, None)?;
    stage.watch_for_interrupts(interrupted.clone());
    let scratch = Scratch::new(args.folder.as_deref(), args.keep).context("cannot make the server's folder")?;
    let drive = Drive { plan, stage: &stage, interrupted };
    if server == Server::Postrail {
        return postrail_turn(&drive, scratch.path(), args);
    }
    // The peers' accounts must be able to pass.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711))
        .context("cannot open the server's folder")?;
    let reserved = Reserved::<1>::new().context("no free port on loopback")?;
    let [listen] = reserved.addresses();
    let site = site(plan, &stage, scratch.path(), listen, args)?;
    let running = match (server, &args.external) {
        (Server::External, Some(command)) => start_external(command, &site)?,
        _ => server.start(&site)?,
    };
    let target = target(server, &running, &site, plan);
    let result = measure(&drive, &target, None).map_err(|error| anyhow!("{error:#}{}", running.last_lines()))?;
    Ok((running.version, result))
}

fn postrail_turn(drive: &Drive<'_>, folder: &Path, args: &Args) -> Result<(String, RunResult)> {
    let options = PostrailOptions {
        binary: find_postrail(args.server.clone())?,
        folder: folder.to_owned(),
        resolver: drive.stage.name_server(),
        receiver_port: drive.stage.port(),
    };
    let mut server = Postrail::start(&options, drive.plan)?;
    let target = server.target().clone();
    let result = measure(drive, &target, Some(&mut server))?;
    server.stop()?;
    Ok((target.version.to_string(), result))
}

fn site(plan: &Plan, stage: &Stage, folder: &Path, listen: SocketAddr, args: &Args) -> Result<Site> {
    let receiver = plan.planned_receivers().into_iter().next().context("a plan has a receiver")?;
    let signing = match plan.server.dkim {
        Dkim::None => None,
        Dkim::Rsa | Dkim::Ed25519 | Dkim::Both => {
            let domains = (0..plan.tenants.len()).map(|tenant| plan.sending_domain(tenant)).collect();
            Some(Signing::new(domains, folder)?)
        }
    };
    let programs = match &args.peers {
        Some(programs) => programs.clone(),
        None => {
            let own = std::env::current_exe().context("cannot tell where this binary is")?;
            let target = own.parent().and_then(Path::parent).context("this binary is in no folder")?;
            target.join("peers")
        }
    };
    Ok(Site { folder: folder.to_owned(), programs, listen, sink: (receiver.address, stage.port()).into(), signing })
}

fn target(server: Server, running: &Running, site: &Site, plan: &Plan) -> Target {
    Target {
        name: server.name().into(),
        version: running.version.clone().into(),
        smtp: Some(site.listen),
        logins: vec![None; plan.tenants.len()],
        watched: running.watched(),
        ..Target::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(more: &[&str]) -> Args {
        Line::parse_from(["peers", "plan.toml"].iter().chain(more)).args
    }

    #[test]
    fn all_have_a_turn_unless_some_are_named() {
        assert_eq!(servers(&args(&[])), Server::KNOWN);
        let named = servers(&args(&["--only", "exim,postrail", "--external", "run-it"]));
        assert_eq!(named, [Server::Postrail, Server::Exim, Server::External]);
    }

    #[test]
    fn a_plan_that_peers_cannot_run_is_refused() {
        let start = "name = \"x\"\nseconds = 1\n";
        for (more, told) in [
            ("[[load]]\ninterface = \"rest\"", "by SMTP without TLS"),
            ("[[load]]\ntls = \"starttls\"", "by SMTP without TLS"),
            ("[[load]]\n[[receiver]]\nhosts = 2", "one receiver"),
            ("[[load]]\n[[receiver]]\nstarttls = true", "one receiver"),
            ("[server]\ndkim = \"both\"\n[[load]]", "Ed25519"),
            ("retry_deferred = true\n[[load]]", "told to retry"),
        ] {
            let plan = Plan::parse(&format!("{start}{more}")).expect("sound in itself");
            let error = suited(plan, &args(&[])).expect_err(more).to_string();
            assert!(error.contains(told), "{error}");
        }
        let plan = Plan::parse(&format!("{start}[server]\ndkim = \"rsa\"\n[[load]]")).expect("sound");
        assert_eq!(suited(plan, &args(&["--mails", "7"])).expect("suited").mails, Some(7));
    }
}
