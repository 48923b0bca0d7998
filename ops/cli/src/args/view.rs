//! The options of what only looks: `job`, `events`, `audit`, `problems`.

use clap::{Args as ClapArgs, Subcommand};

use super::ApiOptions;

const JOB_EXAMPLES: &str = "\
Examples:
  postrail job show 0193a1b2-7c4d-7000-8e9f-3a5b6c7d8e9f
  postrail job recipients 0193a1b2-7c4d-7000-8e9f-3a5b6c7d8e9f

What waits of it is ended by `postrail queue cancel` or `bounce`.";

#[derive(Subcommand, Debug)]
#[command(after_help = JOB_EXAMPLES)]
pub(crate) enum JobCommand {
    /// A job: who submitted it and when, its reference, how many of its recipients are in which state
    Show { id: String },
    /// Every recipient of a job with its state
    Recipients { id: String },
}

const EVENTS_EXAMPLES: &str = "\
Examples:
  postrail events                           the first ones that the ledger has
  postrail events --tenant shop --limit 1000
  postrail events --after 4711              what follows, as the line before said
  postrail events --json | jq .items
  postrail events --token-file shop.key     as a tenant, by an API key of its own: its own events, by opaque cursors";

#[derive(ClapArgs, Debug)]
#[command(after_help = EVENTS_EXAMPLES)]
pub(crate) struct EventsOptions {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
    /// Of one tenant alone
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Those behind this cursor: to an operator a place in the ledger [default: from the first on]
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
}

const AUDIT_EXAMPLES: &str = "\
Examples:
  postrail audit
  postrail audit --limit 1000 | grep 'tenant shop'
  postrail audit --limit 1000 --json
  postrail audit --after 4711               the older ones that follow, as the last line said

A line a change: + added, ~ changed with the former and the new value, - removed. Secrets are told to differ, never shown.
The status is the answer's: from 400 on it was refused, and 0 or from 500 on it may have been made nevertheless.";

#[derive(ClapArgs, Debug)]
#[command(after_help = AUDIT_EXAMPLES)]
pub(crate) struct AuditOptions {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
    /// Those behind this cursor, which are older [default: from the newest on]
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
}

const PROBLEMS_EXAMPLES: &str = "\
Examples:
  postrail problems
  postrail problems --json | jq '.items[].code'

A warning is something to set right; a note is something to know. What would be an error is refused when it is asked for.";

#[derive(ClapArgs, Debug)]
#[command(after_help = PROBLEMS_EXAMPLES)]
pub(crate) struct ProblemsOptions {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
}
