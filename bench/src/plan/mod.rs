//! Plans: what is sent, to which receivers, by which server; read from TOML and checked before anything starts.
//!
//! Invariants worth naming: unknown keys are refused, since a misspelt one would measure something else; every number
//! has bounds; what a plan leaves out has the default that is written beside the key. `docs/reference/bench.md` lists
//! all keys with examples.

use std::path::{Path, PathBuf};

use serde::Deserialize;

mod check;
mod mix;

pub use check::PlanError;
pub use mix::{Count, PlannedReceiver, Size, Weighted};

/// A plan as it stands in its file.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// How long mail is sent, seconds; either this or `mails`.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// How many recipients are sent to, over all loads.
    #[serde(default)]
    pub mails: Option<u64>,
    /// Load of the same kind before, which is not measured: it fills caches and opens connections.
    #[serde(default = "default_warm_up")]
    pub warm_up_seconds: f64,
    /// Longest wait without any progress after all was sent.
    #[serde(default = "default_patience")]
    pub patience_seconds: f64,
    /// Ask the server to try what was deferred as soon as all was sent, instead of when its retry schedule says so.
    #[serde(default)]
    pub retry_deferred: bool,
    /// Measure the last tenant alone first, as long as with the others, for `tenants.NAME.alone_*`.
    #[serde(default)]
    pub alone_first: bool,
    #[serde(default)]
    pub server: ServerPlan,
    #[serde(default, rename = "tenant")]
    pub tenants: Vec<TenantPlan>,
    #[serde(rename = "load")]
    pub loads: Vec<LoadSection>,
    #[serde(default, rename = "receiver")]
    pub receivers: Vec<ReceiverSection>,
    #[serde(default)]
    pub waiting: Option<WaitingPlan>,
    /// Conditions that `sla` judges; `run` leaves them alone.
    #[serde(default)]
    pub sla: Option<toml::Table>,
}

fn default_warm_up() -> f64 {
    3.0
}

fn default_patience() -> f64 {
    60.0
}

/// How the server is set up.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerPlan {
    /// The keys of the sending domains.
    #[serde(default)]
    pub dkim: Dkim,
    /// One a CPU by default.
    #[serde(default)]
    pub shards: Option<u16>,
}

/// Which DKIM keys sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dkim {
    #[default]
    None,
    /// RSA of 2,048 bits.
    Rsa,
    Ed25519,
    Both,
}

/// One customer.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantPlan {
    pub name: String,
    /// Its share where tenants compete.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Recipients a second that go ahead of what the others send.
    pub reserved_per_s: Option<u32>,
}

fn default_weight() -> u32 {
    1
}

/// One load.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadSection {
    /// The tenant that sends it; the first by default.
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub interface: InterfacePlan,
    #[serde(default)]
    pub tls: TlsPlan,
    #[serde(default = "default_connections")]
    pub connections: u16,
    /// Recipients a second, by the clock. Without it and without `share_of_highest`: as fast as answers come.
    #[serde(default)]
    pub rate_per_s: Option<f64>,
    /// As `rate_per_s`, of the highest rate, which a closed loop finds first (or of `--rate`).
    #[serde(default)]
    pub share_of_highest: Option<f64>,
    /// Of a load as fast as answers come: it waits while so many recipients of the run are sent and not settled yet.
    #[serde(default)]
    pub unsettled_max: Option<u64>,
    /// Octets of a message, header and body.
    #[serde(default)]
    pub size: Size,
    /// Recipients of a mail or job.
    #[serde(default)]
    pub recipients: Count,
    /// Recipient domains.
    #[serde(default = "default_domains")]
    pub domains: u32,
    #[serde(default)]
    pub domain_spread: DomainSpread,
}

fn default_connections() -> u16 {
    20
}

fn default_domains() -> u32 {
    50
}

/// How mail is handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfacePlan {
    #[default]
    Smtp,
    Rest,
}

/// The encryption of a load's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsPlan {
    #[default]
    None,
    StartTls,
    Implicit,
}

/// How recipients are spread over domains.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainSpread {
    #[default]
    Uniform,
    /// The `i`th domain by weight 1/i.
    Zipf,
}

/// Some receivers of one kind.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverSection {
    /// Share of the domains, by weight among all sections.
    #[serde(default = "default_share")]
    pub share: f64,
    /// How many such receivers, each with an address of its own; the domains are spread over them.
    #[serde(default = "default_hosts")]
    pub hosts: u16,
    #[serde(default)]
    pub starttls: bool,
    /// Whether BDAT is offered.
    #[serde(default = "default_chunking")]
    pub chunking: bool,
    /// Time before each group of replies.
    #[serde(default)]
    pub latency_ms: u64,
    /// Every recipient is answered 450 until so long after it was first seen.
    #[serde(default)]
    pub greylist_seconds: Option<f64>,
    /// Recipients a minute beyond this are turned away.
    #[serde(default)]
    pub rate_per_minute: Option<u32>,
    /// How they are turned away: 450, or 421 with the end of the session.
    #[serde(default)]
    pub rate_reply: RateReply,
    /// Open connections beyond this are answered 421.
    #[serde(default)]
    pub connections: Option<u16>,
    /// Share of the recipients that is always answered 550.
    #[serde(default)]
    pub reject_share: f64,
    /// Share of the recipients that is answered 451 the first time.
    #[serde(default)]
    pub defer_share: f64,
    /// Every session is answered 421: mail to it waits.
    #[serde(default)]
    pub holds: bool,
}

fn default_chunking() -> bool {
    true
}

fn default_share() -> f64 {
    1.0
}

fn default_hosts() -> u16 {
    1
}

/// How a receiver turns away what is over its rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub enum RateReply {
    #[default]
    #[serde(rename = "450")]
    Defer,
    #[serde(rename = "421")]
    Close,
}

/// Mail that waits: the first load fills the server, then it is killed and started again.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitingPlan {
    /// Longest time that the filled server may take to have it all back after a start.
    #[serde(default = "default_recovery")]
    pub recovery_seconds: u64,
}

fn default_recovery() -> u64 {
    120
}

impl Plan {
    /// Reads and checks the plan in `path`.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, has an unknown key, or says what cannot be done.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let text = std::fs::read_to_string(path).map_err(|error| PlanError::Unreadable { path: path.into(), error })?;
        Self::parse(&text).map_err(|error| error.in_file(PathBuf::from(path)))
    }

    /// As [`Self::read`], of `text`.
    ///
    /// # Errors
    /// It is no TOML, has an unknown key, or says what cannot be done.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let mut plan: Self = toml::from_str(text)?;
        if plan.tenants.is_empty() {
            plan.tenants.push(TenantPlan { name: "bench".into(), weight: 1, reserved_per_s: None });
        }
        if plan.receivers.is_empty() {
            plan.receivers.push(toml::from_str("").expect("every key of a receiver has a default"));
        }
        plan.check()?;
        Ok(plan)
    }

    /// Whether it can be done.
    ///
    /// # Errors
    /// The first thing that cannot.
    pub fn check(&self) -> Result<(), PlanError> {
        check::check(self)
    }

    /// The tenant of a load, as an index of [`Self::tenants`].
    pub fn tenant_of(&self, load: &LoadSection) -> usize {
        let name = load.tenant.as_deref();
        self.tenants.iter().position(|tenant| Some(tenant.name.as_str()) == name).unwrap_or(0)
    }

    /// The sending domain of a tenant.
    pub fn sending_domain(&self, tenant: usize) -> String {
        format!("sender{tenant}.test")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_plans_are_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).expect("the folder of plans") {
            let path = entry.expect("an entry").path();
            let plan = Plan::read(&path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(Some(plan.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
            count += 1;
        }
        assert!(count >= 8, "{count}");
    }

    #[test]
    fn w10_is_what_the_goals_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/w10.toml");
        let plan = Plan::read(&path).expect("sound");
        let load = &plan.loads[0];
        assert_eq!((load.size.draw().max(), load.connections), (10_240, 20));
        assert_eq!((load.recipients.draw().max(), plan.server.dkim), (1, Dkim::None));
        assert_eq!((load.rate_per_s, load.interface), (None, InterfacePlan::Smtp));
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let plan = Plan::parse("name = \"x\"\nseconds = 1\n[[load]]\n").expect("sound");
        assert_eq!((plan.tenants.len(), plan.receivers.len()), (1, 1));
        assert_eq!((plan.loads[0].connections, plan.loads[0].domains), (20, 50));
    }
}
