//! `postrail`: both planes in one process, the demo, the doctor, and the operator's commands.
//!
//! Every command but `up`, `demo`, `doctor` and those that move a data folder is a client of the control API (or, for
//! `send`, of the submission API): the command line has no private door. Exit status: 0 done, 1 it was refused or failed, 2 it
//! could not start or was asked wrongly (`doctor` and `plan` have their own).

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::Parser;

mod args;
mod client;
mod demo;
mod doctor;
mod domain_keys;
mod domains;
mod fleet;
mod hosts;
mod keys;
mod ledger;
mod listeners;
mod policies;
mod queue;
mod resources;
mod send;
mod shaping;
mod shell;
mod state;
mod table;
mod trace;
mod up;
mod view;

use args::{ApiOptions, Args, Command};
use client::Api;

/// Also for the C libraries in the process. Memory that was needed for a burst goes back, which glibc's does not do as well;
/// that it takes less CPU a mail was seen once on a busy machine (median 332 µs with glibc's, 270 with this), not confirmed.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let data = args.data_folder();
    let open = |options: &ApiOptions| Api::open(options, &data);
    let done = match args.command {
        Command::Up(options) => return up::run(args.data.as_deref(), &options),
        Command::Doctor(options) => return doctor::run(&data, &options),
        Command::Demo(options) => return demo::run(&options),
        Command::Tenant(client) => open(&client.api).and_then(|api| resources::tenant(&api, client.command)),
        Command::Domain(client) => open(&client.api).and_then(|api| domains::domain(&api, client.command)),
        Command::Settings(client) => open(&client.api).and_then(|api| domains::settings(&api, client.command)),
        Command::MoveToEtcd(options) => fleet::found::run(&data, &options),
        Command::MoveLedger(options) => ledger::run(&data, &options),
        Command::Job(client) => open(&client.api).and_then(|api| view::job(&api, client.command)),
        Command::Events(options) => open(&options.api).and_then(|api| view::events(&api, &options)),
        Command::Audit(options) => open(&options.api).and_then(|api| view::audit(&api, &options)),
        Command::Problems(options) => open(&options.api).and_then(|api| view::problems(&api)),
        Command::Completions(options) => shell::completions(options.shell),
        Command::Man(options) => shell::man(&options.folder),
        Command::Operator(client) => open(&client.api).and_then(|api| resources::operator(&api, client.command)),
        Command::Region(client) => open(&client.api).and_then(|api| resources::region(&api, client.command)),
        Command::Key(key) => keys::run(|| open(&key.api), &data, &key.command),
        Command::Credential(client) => open(&client.api).and_then(|api| resources::credential(&api, client.command)),
        Command::Source(client) => open(&client.api).and_then(|api| resources::source(&api, client.command)),
        Command::Pool(client) => open(&client.api).and_then(|api| resources::pool(&api, client.command)),
        Command::Route(client) => open(&client.api).and_then(|api| resources::route(&api, client.command)),
        Command::RoutingRule(client) => open(&client.api).and_then(|api| policies::routing(&api, client.command)),
        Command::TlsRule(client) => open(&client.api).and_then(|api| policies::tls(&api, client.command)),
        Command::Explain(options) => open(&options.api).and_then(|api| policies::explain(&api, &options)),
        Command::RetryPolicy(client) => open(&client.api).and_then(|api| policies::retry(&api, client.command)),
        Command::Provider(client) => open(&client.api).and_then(|api| shaping::provider(&api, client.command)),
        Command::Listener(client) => open(&client.api).and_then(|api| listeners::run(&api, client.command)),
        Command::ShapingRule(client) => open(&client.api).and_then(|api| shaping::shaping_rule(&api, client.command)),
        Command::Suppression(client) => open(&client.api).and_then(|api| resources::suppression(&api, client.command)),
        Command::Host(client) => open(&client.api).and_then(|api| hosts::run(&api, client.command)),
        Command::Export(options) => state::export(&data, &options),
        Command::Plan(options) => match state::plan(&data, &options) {
            Ok(status) => return status,
            Err(error) => Err(error),
        },
        Command::Apply(options) => state::apply(&data, &options),
        Command::Quarantine(client) => open(&client.api).and_then(|api| queue::quarantine(&api, client.command)),
        Command::Queue(queue) => open(&queue.api).and_then(|api| queue::run(&api, queue.command)),
        Command::Trace(trace) => open(&trace.api).and_then(|api| trace::run(&api, &trace.id)),
        Command::Send(options) => send::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads what we print has seen enough: `postrail problems | head`.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("postrail: {error:#}");
            ExitCode::FAILURE
        }
    }
}
