//! `postrail domain` and `postrail settings`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

const CHECK_EXAMPLES: &str = "\
Examples:
  postrail domain check example.org
  postrail domain check example.org --wait          until all that it needs is there, ten minutes at most
  postrail domain check example.org --json | jq -r '.dns_records[] | select(.check.state != \"ok\") | .check.advice'

Exit status 0 where the domain has every record that it needs, 1 where one is missing, wrong or not to be reached.";

const ROTATE_EXAMPLES: &str = "\
A new key, without a mail that does not verify:
  1. postrail domain key rotate example.org   makes the next keys, and prints their records
  2. publish those records
  3. postrail domain check example.org        or wait: it is looked hourly. Once a record is seen, its key signs and the
                                              former one stops
  4. leave the former record where it is, until `postrail domain key list example.org` says `retired`; then remove it

Where DNS cannot be asked from here, say that a record is published: postrail domain key sign example.org SELECTOR";

const BRING_EXAMPLES: &str = "\
Examples:
  postrail domain key add example.org --private-key dkim.pem --selector june
  vault read -field=pem dkim/example.org | postrail domain key add example.org --private-key -

RSA of 2,048 to 4,096 bits (PKCS#8 or PKCS#1), or Ed25519 (PKCS#8). The key is sealed by the master key, and never shown.";

/// What `domain key` does.
#[derive(Subcommand, Debug)]
pub(crate) enum KeyAction {
    /// The keys and their states: `postrail domain key list example.org`
    List {
        name: String,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Add a key, made here or brought; it signs once its record is seen
    #[command(after_help = BRING_EXAMPLES)]
    Add {
        name: String,
        /// Of a key that is made here [default: rsa-sha256]
        #[arg(long, conflicts_with = "private_key")]
        algorithm: Option<KeyAlgorithm>,
        /// [default: one that no key has had]
        #[arg(long)]
        selector: Option<String>,
        /// A private key as PEM, from a file; `-`: from standard input
        #[arg(long, value_name = "FILE")]
        private_key: Option<PathBuf>,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Make a successor for each key that signs
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate {
        name: String,
        /// Of the keys of this algorithm alone
        #[arg(long)]
        algorithm: Option<KeyAlgorithm>,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Sign with a key from now on, seen or not; also takes back a former one: `postrail domain key sign example.org SELECTOR`
    Sign {
        name: String,
        selector: String,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Stop signing with a key; of a former key, say that its record may go: `postrail domain key retire example.org june`
    Retire {
        name: String,
        selector: String,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Forget a key that waits, or is retired: `postrail domain key remove example.org june`
    Remove {
        name: String,
        selector: String,
        #[arg(long)]
        tenant: Option<String>,
    },
}

/// What a DKIM key signs with.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyAlgorithm {
    /// RSA of 2,048 bits
    RsaSha256,
    Ed25519Sha256,
}

impl KeyAlgorithm {
    /// As the API writes it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}

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
        /// A DKIM key to make; repeatable [default: one of each algorithm]
        #[arg(long = "dkim-key", value_name = "ALGORITHM")]
        dkim_keys: Vec<KeyAlgorithm>,
        /// Make no key: its mail is not signed
        #[arg(long, conflicts_with = "dkim_keys")]
        unsigned: bool,
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
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Its DKIM keys: list, add, rotate, retire
    #[command(subcommand)]
    Key(KeyAction),
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
        /// The sending domain whose keys sign all mail, beside those of each mail's own domain; `none`: no domain
        #[arg(long, value_name = "DOMAIN")]
        platform_domain: Option<String>,
        /// After how many days of signing a DKIM key gets a successor by itself; `never`: when you ask for one
        #[arg(long, value_name = "DAYS")]
        dkim_rotation_days: Option<String>,
    },
}
