//! `postrail domain` and `postrail settings`.

use clap::{Subcommand, ValueEnum};

const CHECK_EXAMPLES: &str = "\
Examples:
  postrail domain check example.org
  postrail domain check example.org --wait          until all that it needs is there, ten minutes at most
  postrail domain check example.org --json | jq -r '.dns_records[] | select(.check.state != \"ok\") | .check.advice'

Exit status 0 where the domain has every record that it needs, 1 where one is missing, wrong or not to be reached.";

#[derive(Subcommand, Debug)]
pub(crate) enum DomainCommand {
    /// Register a sending domain and print its DNS records: `postrail domain add example.org --tenant shop`
    Add {
        name: String,
        #[arg(long)]
        tenant: Option<String>,
        /// The pool of this domain's mail [default: the pool `default`]
        #[arg(long)]
        pool: Option<String>,
        /// What lets it send [default: as the settings say]
        #[arg(long)]
        verification: Option<Verification>,
    },
    /// Sending domains and whether they may send: `postrail domain list --tenant shop`
    List {
        #[arg(long)]
        tenant: Option<String>,
    },
    /// The domain with the records to publish: `postrail domain show example.org`
    Show {
        name: String,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// The records to publish, ready to paste into a form, or with --zone into a zone file:
    /// `postrail domain records example.org --zone`
    Records {
        name: String,
        #[arg(long)]
        tenant: Option<String>,
        /// As lines of a zone file
        #[arg(long)]
        zone: bool,
    },
    /// Look now at what is published, and say what is wrong and what to do
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        name: String,
        #[arg(long)]
        tenant: Option<String>,
        /// Look again until everything is right, for so many seconds
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "600",
            value_parser = clap::value_parser!(u64).range(1..=86_400))]
        wait: Option<u64>,
    },
    /// Say what lets it send: your word (`operator`), or its DNS records (`dns`):
    /// `postrail domain verification example.org dns`
    Verification {
        name: String,
        verification: Verification,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Send this domain's mail from a pool; without one, from the pool `default`:
    /// `postrail domain assign example.org --pool bulk`
    Assign {
        name: String,
        #[arg(long)]
        pool: Option<String>,
    },
    /// Remove a domain with its keys; its mail is refused at once: `postrail domain remove example.org`
    Remove {
        name: String,
        #[arg(long)]
        tenant: Option<String>,
    },
}

/// What lets a domain send.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verification {
    /// The operator's word
    Operator,
    /// Its DNS records
    Dns,
}

impl Verification {
    /// As the API writes it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Dns => "dns",
        }
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum SettingsCommand {
    /// What is set: `postrail settings show`
    Show,
    /// Change what is named: `postrail settings set --domain-verification dns`
    Set {
        /// What lets a domain send that the operator adds without saying so
        #[arg(long)]
        domain_verification: Option<Verification>,
        /// A name whose SPF record lists all sources, for domains to include; `none`: domains name their sources
        #[arg(long, value_name = "NAME")]
        spf_include: Option<String>,
    },
}
