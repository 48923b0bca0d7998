//! `postrail-bench`: measures a mail server, and proves an SLA with it.
//!
//! Every subcommand lives in a module of its own: its arguments, its help, and `run`. Exit status: 0 it held, 1 it did
//! not (mail lost or duplicated, a contract broken), 2 it could not start or was asked wrongly, 130 interrupted.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use postrail_bench::{compare, history, limit, page, peers, publication, run, sla};

const EXAMPLES: &str = "\
Examples:
  postrail-bench run bench/plans/w10.toml                       measure this machine's postrail
  postrail-bench run bench/plans/w10-dkim.toml --seconds 600 --json dkim.json
  postrail-bench run bench/plans/w10-half.toml --rate 1500      latency at a given rate
  postrail-bench run my-plan.toml --target smtp://user:secret@127.0.0.1:2525 --name-server 127.0.0.1:5300

A plan says what is sent, to which receivers, and how the server is set up; docs/reference/bench.md lists its keys and
those of the result.";

/// Load, receivers and a name server for measuring mail servers: every mail is numbered and accounted for.
#[derive(Parser, Debug)]
#[command(name = "postrail-bench", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Set two results beside each other: ratios, and which is better
    Compare(compare::Args),
    /// Show the results that were kept, or keep one more
    History(history::Args),
    /// Measure what this machine can do at best: signatures, durable appends, bytes, a null relay
    Limit(limit::Args),
    /// Make the HTML page of a result that was kept as JSON
    Page(page::Args),
    /// Run a plan against Postrail, Postfix, Exim, OpenSMTPD, Haraka and others in turn, and set them beside each other
    Peers(peers::Args),
    /// Measure how fast a change of configuration reaches many data planes through etcd, all of them on this host
    Publication(publication::Args),
    /// Run a plan: start the server in a fresh folder (or use --target), send, receive, account, measure
    Run(run::Args),
    /// Say whether the contract of a plan held: clause by clause, tenant by tenant
    Sla(sla::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Compare(args) => compare::run(&args),
        Command::History(args) => history::run(&args),
        Command::Limit(args) => limit::run(&args),
        Command::Page(args) => page::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Publication(args) => publication::run(&args),
        Command::Run(args) => run::run(args),
        Command::Sla(args) => sla::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("postrail-bench: {error:#}");
        ExitCode::from(CANNOT_START)
    })
}

/// Exit status where it could not start or was asked wrongly.
const CANNOT_START: u8 = 2;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
