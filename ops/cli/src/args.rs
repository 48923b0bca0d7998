//! The command line: what each command takes, with examples in `--help`.
//!
//! Invariants worth naming: no secret is an option's value (the process list is public): secrets come from files or
//! from the environment; options are long, and the same word means the same in every command.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

mod doctor;
mod domain;
mod egress;
mod host;
mod key;
mod listeners;
mod policies;
mod region;
mod shaping;
mod shell;
mod state;
mod up;
mod view;

pub(crate) use doctor::DoctorOptions;
pub(crate) use domain::{DomainCommand, KeyAction, KeyAlgorithm, SettingsCommand};
pub(crate) use egress::{PoolCommand, PoolValue, RouteCommand, SourceCommand, SourceValue};
pub(crate) use host::HostCommand;
pub(crate) use key::{KeyCommand, KeyOptions};
pub(crate) use listeners::{ListenerCommand, ListenerValue};
pub(crate) use policies::{
    ExplainOptions, MatchOptions, RetryPolicyCommand, RetryPolicyValue, RoutingRuleCommand, RoutingRuleValue,
    TlsRuleCommand, TlsRuleValue,
};
pub(crate) use region::RegionCommand;
pub(crate) use shaping::{ProviderCommand, ProviderValue, ShapingRuleCommand, ShapingRuleValue};
pub(crate) use shell::{CompletionsOptions, ManOptions};
pub(crate) use state::{ApplyOptions, ExportOptions, PlanOptions};
pub(crate) use up::{LogForm, MoveLedgerOptions, MoveOptions, UpOptions};
pub(crate) use view::{AuditOptions, EventsOptions, JobCommand, ProblemsOptions};

const EXAMPLES: &str = "\
Examples:
  postrail demo                                     see it work: 10,000 mails to a built-in receiver
  postrail up --domain example.org                  start; prints the first credential and the DKIM record
  postrail send --from a@example.org --to b@example.net --subject Hello --text 'It works'
  postrail trace 0193a1b2-7c4d-7000-8e9f-3a5b6c7d8e9f
  postrail doctor                                   what of this host is in the way
  postrail queue                                    what waits, where, and why
  postrail domain add example.com --tenant shop     then publish the records that it prints
  postrail export > fleet.toml                      everything that is configured, to edit
  postrail apply -f fleet.toml                      make it so, after showing what changes";

/// The version, and the commit that it was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("POSTRAIL_COMMIT"), ")");

/// A self-hosted transactional-email platform.
#[derive(Parser, Debug)]
#[command(name = "postrail", version = VERSION, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// The data folder [default: /var/lib/postrail for root, else ~/.local/share/postrail]
    #[arg(long, global = true, env = "POSTRAIL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// The data folder: as told, else the host's usual place.
    pub(crate) fn data_folder(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(usual_data_folder)
    }
}

/// Where the data folder is if nobody says.
pub(crate) fn usual_data_folder() -> PathBuf {
    // The owner of /proc/self is the effective user.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    match std::env::var_os("HOME") {
        Some(home) if !is_root => PathBuf::from(home).join(".local/share/postrail"),
        _ => PathBuf::from("/var/lib/postrail"),
    }
}

/// How to reach the control API, and how to print what it says.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Where and how")]
pub(crate) struct ApiOptions {
    /// The control API
    #[arg(long, global = true, env = "POSTRAIL_API", value_name = "URL", default_value = "http://127.0.0.1:8081")]
    pub(crate) api: String,
    /// File with who signed the certificate of an https:// API, PEM [default: fleet-ca.pem in the data folder, else the
    /// system's]
    #[arg(long, global = true, env = "POSTRAIL_API_CA", value_name = "FILE")]
    pub(crate) api_ca: Option<PathBuf>,
    /// File with the operator's token [default: operator.token in the data folder]
    #[arg(long, global = true, env = "POSTRAIL_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A client command with subcommands.
#[derive(ClapArgs, Debug)]
pub(crate) struct Client<C: Subcommand> {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
    #[command(subcommand)]
    pub(crate) command: C,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Start both planes in this process, until SIGTERM or Ctrl-C
    Up(Box<UpOptions>),
    /// Move this host's configuration into etcd: it becomes the first of a fleet
    MoveToEtcd(Box<MoveOptions>),
    /// Move this host's ledger into a PostgreSQL database
    MoveLedger(Box<MoveLedgerOptions>),
    /// What of this host is in the way of mail, and what sets it right
    Doctor(Box<DoctorOptions>),
    /// Start everything with a built-in receiver, send mails, show that none is lost, clean up
    Demo(DemoOptions),
    /// Customer accounts
    Tenant(Client<TenantCommand>),
    /// Sending domains and the DNS records to publish for them
    Domain(Client<DomainCommand>),
    /// What holds for the whole installation
    Settings(Client<SettingsCommand>),
    /// Who operates the installation, beside the token of the data folder
    Operator(Client<OperatorCommand>),
    /// Hosts that serve some tenants alone
    Region(Client<RegionCommand>),
    /// The master key that opens what is sealed, and another one in its place
    Key(KeyOptions),
    /// Credentials of applications: what they may do, and from where
    Credential(Client<CredentialCommand>),
    /// Addresses that mail is sent from
    Source(Client<SourceCommand>),
    /// Weighted sets of sources
    Pool(Client<PoolCommand>),
    /// Where mail for a recipient domain goes instead of its MX
    Route(Client<RouteCommand>),
    /// Which pool carries which mail
    RoutingRule(Client<RoutingRuleCommand>),
    /// How mail must be protected on its way to its receiver
    TlsRule(Client<TlsRuleCommand>),
    /// How what could not be delivered is tried again, and when it is given up
    RetryPolicy(Client<RetryPolicyCommand>),
    /// Human names over several receiving sites, for shaping rules
    Provider(Client<ProviderCommand>),
    /// Where hosts take submissions, and what they listen on now
    Listener(Client<ListenerCommand>),
    /// Throttles and limits: by source, provider, site, tenant, campaign
    ShapingRule(Client<ShapingRuleCommand>),
    /// Addresses that a tenant must not send to
    Suppression(Client<SuppressionCommand>),
    /// The hosts of a fleet and their addresses; drain, resume, forget
    Host(Client<HostCommand>),
    /// Print everything that is configured as one document
    Export(ExportOptions),
    /// Show what a document would change
    Plan(PlanOptions),
    /// Make the configuration what a document says
    #[command(visible_alias = "import")]
    Apply(ApplyOptions),
    /// What holds for some mail, and which rule, route or policy says so
    Explain(ExplainOptions),
    /// What waits and why; retry, suspend, resume, cancel, bounce
    Queue(QueueOptions),
    /// Mail of domains that fail in DNS, which waits for you
    Quarantine(Client<QuarantineCommand>),
    /// The whole life of one message
    Trace(TraceOptions),
    /// Submit one mail by REST
    Send(SendOptions),
    /// One job and its recipients, as the ledger has them
    Job(Client<JobCommand>),
    /// What happened, in the order of the ledger
    Events(EventsOptions),
    /// Who changed what
    Audit(AuditOptions),
    /// What of the configuration needs a look
    Problems(ProblemsOptions),
    /// Completions for a shell
    Completions(CompletionsOptions),
    /// Man pages of every command
    Man(ManOptions),
}

const DEMO_EXAMPLES: &str = "\
Examples:
  postrail demo
  postrail demo --mails 100000 --shards 2
  postrail demo --json | tail -n 1        the summary for tools

Exit status 0 only where every accepted mail was delivered exactly once.";

#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = DEMO_EXAMPLES)]
pub(crate) struct DemoOptions {
    /// Mails to send, of 1 to 50 KB, half of them by REST
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) mails: u64,
    /// Executors of the data plane [default: one a CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub(crate) shards: Option<u16>,
    /// Connections of the load, half of them by REST
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    pub(crate) connections: u16,
    /// Longest time for the last mail to arrive after all were sent
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) patience: u64,
    /// Size of every mail, octets [default: 1,000 to 50,000, spread evenly]
    #[arg(long, value_name = "OCTETS", value_parser = clap::value_parser!(u32).range(500..=5_000_000))]
    pub(crate) size: Option<u32>,
    /// The keys that sign: what a signature costs shows in the summary
    #[arg(long, value_enum, default_value_t = DkimChoice::Both)]
    pub(crate) dkim: DkimChoice,
    /// Print the summary as JSON, as the last line
    #[arg(long)]
    pub(crate) json: bool,
    /// Let the kernel move the shards between CPUs: what pinning is worth shows in the summary
    #[arg(long)]
    pub(crate) no_pin: bool,
}

/// Which DKIM keys the demo's domain has.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DkimChoice {
    Both,
    Rsa,
    Ed25519,
}

#[derive(Subcommand, Debug)]
pub(crate) enum TenantCommand {
    /// Make a tenant: `postrail tenant add shop --quota-per-day 100000`
    Add {
        name: String,
        /// Recipients that may be accepted in a UTC day, 0 to 100000000000 [default: no quota]
        #[arg(long)]
        quota_per_day: Option<u64>,
        /// Share among tenants when they compete
        #[arg(long)]
        weight: Option<u32>,
        /// Largest message, 8192 to 20971520 octets, with about 2000 for what is added to it
        #[arg(long)]
        message_bytes_max: Option<u32>,
        /// The region whose hosts alone serve it; it cannot be changed later [default: every host serves it]
        #[arg(long, value_name = "NAME")]
        region: Option<String>,
        /// Recipients a second that go ahead of all that is not reserved, on each host [default: no reserve]
        #[arg(long)]
        reserved_per_s: Option<u32>,
        /// Keep mail of domains that fail in DNS for a person (`postrail quarantine`), instead of sending or refusing it
        #[arg(long)]
        quarantine: bool,
    },
    /// Tenants with region, weight and quota: `postrail tenant list`
    List,
    /// One tenant: `postrail tenant show shop`
    Show { name: String },
    /// What of its quota is used up today (UTC), and at which hosts: `postrail tenant quota shop`
    Quota { name: String },
    /// Change limits of a tenant: `postrail tenant set shop --weight 3 --quota-per-day none`
    Set {
        name: String,
        /// Recipients that may be accepted in a UTC day, 0 to 100000000000, or `none`
        #[arg(long, value_name = "N|none")]
        quota_per_day: Option<String>,
        /// Share among tenants when they compete
        #[arg(long)]
        weight: Option<u32>,
        /// Largest message, 8192 to 20971520 octets, with about 2000 for what is added to it
        #[arg(long)]
        message_bytes_max: Option<u32>,
        /// Recipients a second that go ahead of all that is not reserved, on each host, or `none`
        #[arg(long, value_name = "N|none")]
        reserved_per_s: Option<String>,
        /// Whether mail of domains that fail in DNS is kept for a person (`postrail quarantine`)
        #[arg(long, value_name = "true|false")]
        quarantine: Option<bool>,
    },
    /// Remove a tenant that has nothing left: `postrail tenant remove shop`
    Remove { name: String },
}

#[derive(Subcommand, Debug)]
pub(crate) enum CredentialCommand {
    /// Make a credential; its secret is printed once: `postrail credential add shop-app --tenant shop`
    Add {
        username: String,
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        access: AccessOptions,
    },
    /// Change what it may do, and from where: `postrail credential set shop-app --scope submit --network 192.0.2.0/24`
    Set {
        username: String,
        #[command(flatten)]
        access: AccessOptions,
        /// All that a tenant may
        #[arg(long, conflicts_with = "scopes")]
        all_scopes: bool,
        /// From anywhere
        #[arg(long, conflicts_with = "networks")]
        anywhere: bool,
    },
    /// Credentials, of one tenant or of all: `postrail credential list --tenant shop`
    List {
        #[arg(long)]
        tenant: Option<String>,
    },
    /// One credential: `postrail credential show shop-app`
    Show { username: String },
    /// Make a new secret, printed once; the former one stays valid until the next rotation: `postrail credential rotate shop-app`
    Rotate { username: String },
    /// Refuse its use, until `enable`: `postrail credential disable shop-app`
    Disable { username: String },
    /// Let it be used again: `postrail credential enable shop-app`
    Enable { username: String },
    /// Remove a credential; it is refused at once: `postrail credential remove shop-app`
    Remove { username: String },
}

/// What a credential may do, and from where.
#[derive(ClapArgs, Debug)]
pub(crate) struct AccessOptions {
    /// What it may do, such as submit or jobs:read; repeatable [default: all that a tenant may]
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// Where it may be used from, such as 192.0.2.0/24; repeatable [default: anywhere]
    #[arg(long = "network", value_name = "CIDR")]
    pub(crate) networks: Vec<String>,
    /// Whether who submits from one of its networks needs no secret
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) trust_networks: Option<bool>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum OperatorCommand {
    /// Make an account; its token is printed once: `postrail operator add alice --role operator`
    Add {
        name: String,
        /// viewer reads, operator changes everything but operators, admin everything
        #[arg(long)]
        role: OperatorRole,
        /// Where it may be used from, such as 192.0.2.0/24; repeatable [default: anywhere]
        #[arg(long = "network", value_name = "CIDR")]
        networks: Vec<String>,
    },
    /// Every account: `postrail operator list`
    List,
    /// One account: `postrail operator show alice`
    Show { name: String },
    /// Give another role: `postrail operator role alice viewer`
    Role { name: String, role: OperatorRole },
    /// Say where it may be used from: `postrail operator networks alice --network 192.0.2.0/24`
    #[command(group = clap::ArgGroup::new("where").required(true))]
    Networks {
        name: String,
        /// Such as 192.0.2.0/24; repeatable
        #[arg(long = "network", value_name = "CIDR", group = "where")]
        networks: Vec<String>,
        /// From anywhere
        #[arg(long, group = "where", conflicts_with = "networks")]
        anywhere: bool,
    },
    /// Make a new token, printed once; the former one stays valid until the next rotation: `postrail operator rotate alice`
    Rotate { name: String },
    /// Refuse its use, until `enable`: `postrail operator disable alice`
    Disable { name: String },
    /// Let it be used again: `postrail operator enable alice`
    Enable { name: String },
    /// Remove an account; it is refused at once: `postrail operator remove alice`
    Remove { name: String },
}

/// What an operator may do.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OperatorRole {
    Viewer,
    Operator,
    Admin,
}

impl OperatorRole {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum SuppressionCommand {
    /// Never send to an address: `postrail suppression add gone@example.net --tenant shop`
    Add {
        address: String,
        #[arg(long, default_value = "manual")]
        reason: String,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Suppressions of a tenant: `postrail suppression list --tenant shop`
    List {
        #[arg(long)]
        tenant: Option<String>,
        /// Of a tenant that is gone, by its number
        #[arg(long, value_name = "NUMBER", conflicts_with = "tenant")]
        tenant_id: Option<u32>,
    },
    /// Remove all of a tenant, as before the tenant itself: `postrail suppression clear --tenant shop`
    Clear {
        #[arg(long, required_unless_present = "tenant_id")]
        tenant: Option<String>,
        /// Of a tenant that is gone, by its number, which `list --json` tells
        #[arg(long, value_name = "NUMBER", conflicts_with = "tenant")]
        tenant_id: Option<u32>,
    },
    /// Why and since when an address is not sent to: `postrail suppression show gone@example.net`
    Show {
        address: String,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Give it another reason, or add it: `postrail suppression set gone@example.net --reason 'asked by letter'`
    Set {
        address: String,
        /// Why it is not sent to
        #[arg(long, default_value = "manual")]
        reason: String,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Send to it again: `postrail suppression remove gone@example.net`
    Remove {
        address: String,
        #[arg(long)]
        tenant: Option<String>,
    },
}

const QUEUE_EXAMPLES: &str = "\
Examples:
  postrail queue
  postrail queue retry --domain example.net
  postrail queue suspend --site example.net --reason 'their outage'
  postrail queue resume 3
  postrail queue cancel 0193a1b2-7c4d-7000-8e9f-3a5b6c7d8e9f";

#[derive(ClapArgs, Debug)]
#[command(after_help = QUEUE_EXAMPLES)]
pub(crate) struct QueueOptions {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
    #[command(subcommand)]
    pub(crate) command: Option<QueueCommand>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum QuarantineCommand {
    /// What waits, the first to expire first: `postrail quarantine list --tenant shop`
    List {
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Send it, whatever DNS says by now: `postrail quarantine release 0193a1b2-7c4d-7000-8e9f-3a5b6c7d8e9f`
    Release { job: String },
    /// Settle it as cancelled, without a report: `postrail quarantine drop 0193a1b2-7c4d-7000-8e9f-3a5b6c7d8e9f`
    Drop { job: String },
}

#[derive(Subcommand, Debug)]
pub(crate) enum QueueCommand {
    /// Sites, what waits and why (the same as `postrail queue`): `postrail queue show`
    Show,
    /// Try now what waits for its next attempt
    Retry {
        #[command(flatten)]
        target: RetryTarget,
    },
    /// Stop sending to a site, from a source, or for a tenant, until `resume`; kept over a restart
    Suspend {
        #[command(flatten)]
        target: SuspendTarget,
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// What is suspended, with the ids for `resume`: `postrail queue suspensions`
    Suspensions,
    /// One of them: `postrail queue suspension 3`
    Suspension { id: u32 },
    /// End a suspension
    Resume { id: u32 },
    /// Cancel what is left of a job
    Cancel { job: String },
    /// Bounce what is left of a job now, with a report to its sender:
    /// `postrail queue bounce 0193a1b2-7c4d-7000-8e9f-3a5b6c7d8e9f`
    Bounce { job: String },
}

#[derive(ClapArgs, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct RetryTarget {
    #[arg(long)]
    pub(crate) site: Option<String>,
    /// A recipient domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    #[arg(long)]
    pub(crate) job: Option<String>,
    /// Everything that waits
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(ClapArgs, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct SuspendTarget {
    /// A site as `postrail queue` shows it, such as mx1.example.net,mx2.example.net, or a recipient domain
    #[arg(long)]
    pub(crate) site: Option<String>,
    #[arg(long)]
    pub(crate) source: Option<String>,
    #[arg(long)]
    pub(crate) tenant: Option<String>,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct TraceOptions {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
    /// The id of a message or job, or of one recipient (`<id>.<index>`)
    pub(crate) id: String,
}

const SEND_EXAMPLES: &str = "\
Examples:
  export POSTRAIL_USERNAME=default POSTRAIL_SECRET_FILE=secret
  postrail send --from a@example.org --to b@example.net --subject Hello --text 'It works'
  report | postrail send --from a@example.org --to b@example.net --to c@example.net --subject Report

Without --text or --html the text is read from standard input.";

#[derive(ClapArgs, Debug)]
#[command(after_help = SEND_EXAMPLES)]
pub(crate) struct SendOptions {
    /// Print the answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The submission API
    #[arg(long, value_name = "URL", env = "POSTRAIL_REST", default_value = "http://127.0.0.1:8080")]
    pub(crate) rest: String,
    /// Username of the credential
    #[arg(long, env = "POSTRAIL_USERNAME")]
    pub(crate) username: String,
    /// File with the credential's secret [default: the variable POSTRAIL_SECRET]
    #[arg(long, value_name = "FILE", env = "POSTRAIL_SECRET_FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Sender, in the envelope and in the header
    #[arg(long)]
    pub(crate) from: String,
    /// A recipient, each with a copy of its own (repeatable)
    #[arg(long, required = true)]
    pub(crate) to: Vec<String>,
    #[arg(long)]
    pub(crate) subject: String,
    #[arg(long, conflicts_with = "html")]
    pub(crate) text: Option<String>,
    /// File with an HTML body
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Your own reference, carried to events and reports
    #[arg(long)]
    pub(crate) reference: Option<String>,
    /// Makes a repeated request safe: the same key is accepted once in 24 hours
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    /// The commands that do something, with what their help and that of the command around them say.
    fn leaves(command: &clap::Command, path: &str, around: &str, to: &mut Vec<(String, String)>) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        if !command.has_subcommands() {
            to.push((path.to_owned(), format!("{about}\n{after}\n{around}")));
        }
        for inner in command.get_subcommands() {
            leaves(inner, &format!("{path} {}", inner.get_name()), &after, to);
        }
    }

    #[test]
    fn the_help_of_every_command_explains_and_has_an_example() {
        let mut found = Vec::new();
        leaves(&Args::command(), "postrail", "", &mut found);
        let bare: Vec<_> = found.iter().filter(|(path, help)| !help.contains(path.as_str())).collect();
        assert!(bare.is_empty() && found.len() > 40, "without an example: {bare:#?}");
        assert!(found.iter().all(|(_, help)| !help.starts_with('\n')), "each says what it does");
    }

    #[test]
    fn up_takes_listeners_and_resolvers() {
        let line = "postrail up --data /tmp/x --smtp 127.0.0.1:1 --smtp 127.0.0.1:2 --resolver 127.0.0.1:53";
        let args = Args::try_parse_from(line.split(' ')).expect("parses");
        assert_eq!(args.data_folder(), PathBuf::from("/tmp/x"));
        let Command::Up(up) = args.command else { panic!("up") };
        assert_eq!((up.smtp.len(), up.smtps.len(), up.resolver.len()), (2, 0, 1));
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert!(Args::try_parse_from(["postrail", "up", "--tls-cert", "a.pem"]).is_err());
    }

    #[test]
    fn a_suspension_names_one_thing() {
        assert!(Args::try_parse_from(["postrail", "queue", "suspend"]).is_err());
        assert!(Args::try_parse_from(["postrail", "queue", "suspend", "--site", "a", "--tenant", "b"]).is_err());
        assert!(Args::try_parse_from(["postrail", "queue", "suspend", "--site", "a"]).is_ok());
    }
}
