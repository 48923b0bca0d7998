//! The options of `provider` and `shaping-rule`.

use clap::{Args as ClapArgs, Subcommand};

const PROVIDER_EXAMPLES: &str = "\
Examples:
  postrail provider add google --host .google.com --host .googlemail.com
  postrail provider set google --host .google.com
  postrail shaping-rule add google --provider google --connections 5 --mails-per-connection 50

A site is a provider's if all of its MX hosts are. What a rule sets for a provider is counted over all
of its sites.";

#[derive(Subcommand, Debug)]
#[command(after_help = PROVIDER_EXAMPLES)]
pub(crate) enum ProviderCommand {
    /// Give several sites one name: `postrail provider add google --host .google.com --host .googlemail.com`
    Add(ProviderValue),
    /// Give it other hosts: `postrail provider set google --host .google.com`
    Set(ProviderValue),
    /// Providers and their MX hosts: `postrail provider list`
    List,
    /// One provider: `postrail provider show google`
    Show { name: String },
    /// Remove a provider that no rule names: `postrail provider remove google`
    Remove { name: String },
}

#[derive(ClapArgs, Debug)]
pub(crate) struct ProviderValue {
    pub(crate) name: String,
    /// An MX host, or a suffix of MX hosts that begins with a dot (repeatable)
    #[arg(long = "host", value_name = "HOST", required = true)]
    pub(crate) hosts: Vec<String>,
}

const SHAPING_EXAMPLES: &str = "\
Examples:
  postrail shaping-rule add all --connections 10 --mail-rate 100/s      every path
  postrail shaping-rule add google --provider google --connections 5    a source, all of Google's sites
  postrail shaping-rule add gmx --site .gmx.net --mails-per-connection 20
  postrail shaping-rule add new --source out9 --mail-rate 200/h
  postrail shaping-rule add shop --tenant shop --mail-rate 50/s         all mail of a tenant
  postrail shaping-rule add sale --tenant shop --campaign sale --mail-rate 10000/h
  postrail queue                                                        what a rule holds back

Of rules about a path the closest counts for each setting: a site before its provider before all, a
source before its pool before all; where neither is closer, the strictest. Rules about mail (recipient
domain, tenant, campaign, class) all count.";

#[derive(Subcommand, Debug)]
#[command(after_help = SHAPING_EXAMPLES)]
pub(crate) enum ShapingRuleCommand {
    /// Set throttles and limits: `postrail shaping-rule add gmx --site .gmx.net --connections 4 --mail-rate 10/s`
    Add(ShapingRuleValue),
    /// Set others; what is not said is as if it were new: `postrail shaping-rule set gmx --site .gmx.net --mail-rate 1/s`
    Set(ShapingRuleValue),
    /// Every rule, what it is about and what it sets: `postrail shaping-rule list`
    List,
    /// One rule: `postrail shaping-rule show gmx`
    Show { name: String },
    /// Remove a rule; it counts no longer at once: `postrail shaping-rule remove gmx`
    Remove { name: String },
}

#[derive(ClapArgs, Debug)]
pub(crate) struct ShapingRuleValue {
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) about: ShapingMatchOptions,
    #[command(flatten)]
    pub(crate) sets: ShapingSetOptions,
}

/// Which mail a rule is about.
#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Which mail (all that is named must hold)")]
pub(crate) struct ShapingMatchOptions {
    /// From this source
    #[arg(long, value_name = "NAME", conflicts_with = "pool")]
    pub(crate) source: Option<String>,
    /// From a source of this pool
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// To a site of this provider
    #[arg(long, value_name = "NAME", conflicts_with = "site")]
    pub(crate) provider: Option<String>,
    /// To this site: an MX host, a suffix such as .example.net, or as `postrail queue` shows it
    #[arg(long, value_name = "SITE")]
    pub(crate) site: Option<String>,
    /// To this recipient domain
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) recipient_domain: Option<String>,
    /// Of this tenant
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Of this campaign of the tenant
    #[arg(long, value_name = "LABEL", requires = "tenant")]
    pub(crate) campaign: Option<String>,
    /// Of this class: transactional, person_to_person or marketing
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<String>,
}

/// What a rule sets.
#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "What it sets (at least one)")]
#[group(required = true, multiple = true)]
pub(crate) struct ShapingSetOptions {
    /// Connections at once
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<u32>,
    /// Mails on one connection
    #[arg(long, value_name = "N")]
    pub(crate) mails_per_connection: Option<u32>,
    /// Mails, such as 100/s, 60/min, 10000/h or 1/d
    #[arg(long, value_name = "RATE")]
    pub(crate) mail_rate: Option<String>,
    /// Connections begun, such as 100/min
    #[arg(long, value_name = "RATE")]
    pub(crate) connection_rate: Option<String>,
}
