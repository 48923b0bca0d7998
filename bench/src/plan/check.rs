//! What can be wrong with a plan, told with the place and what to write instead.

use std::path::PathBuf;

use super::{LoadSection, Plan, ReceiverSection};
use crate::source::Draw;
use crate::tally::RECIPIENTS_MAX;

/// Loads, tenants or receiver sections of one plan.
const SECTIONS_MAX: usize = 64;
/// Receivers of one plan: each has an address and a zone.
const HOSTS_MAX: usize = 200;
/// Recipient domains of one load.
const DOMAINS_MAX: u32 = 10_000;
/// Octets of a message.
const SIZE_MAX: u32 = 50_000_000;
/// Recipients of a mail by SMTP (RFC 5321 section 4.5.3.1.8 lets a server take no more than 100).
const SMTP_RECIPIENTS_MAX: u32 = 100;
/// Recipients of a job by REST.
const REST_RECIPIENTS_MAX: u32 = 10_000;
/// Connections of one load.
const CONNECTIONS_MAX: u16 = 2_000;
/// The longest run: the account's times are 11.9 hours at most.
const SECONDS_MAX: f64 = 36_000.0;

/// Why a plan cannot be used.
#[derive(Debug)]
pub enum PlanError {
    Unreadable { path: PathBuf, error: std::io::Error },
    Syntax(toml::de::Error),
    Unsound { what: String },
    InFile { path: PathBuf, error: Box<Self> },
}

impl PlanError {
    pub(super) fn in_file(self, path: PathBuf) -> Self {
        Self::InFile { path, error: Box::new(self) }
    }
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable { path, error } => {
                write!(
                    f,
                    "cannot read the plan {}: {error}; the ones that come along are in bench/plans",
                    path.display()
                )
            }
            Self::Syntax(error) => write!(f, "{}", error.to_string().trim_end()),
            Self::Unsound { what } => f.write_str(what),
            Self::InFile { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for PlanError {}

impl From<toml::de::Error> for PlanError {
    fn from(error: toml::de::Error) -> Self {
        Self::Syntax(error)
    }
}

/// The first thing that is wrong with `plan`.
pub(super) fn check(plan: &Plan) -> Result<(), PlanError> {
    let unsound = |what: String| Err(PlanError::Unsound { what });
    match first_fault(plan) {
        Some(what) => unsound(what),
        None => Ok(()),
    }
}

fn first_fault(plan: &Plan) -> Option<String> {
    of_run(plan)
        .or_else(|| of_tenants(plan))
        .or_else(|| plan.loads.iter().enumerate().find_map(|(index, load)| of_load(plan, index + 1, load)))
        .or_else(|| plan.receivers.iter().enumerate().find_map(|(index, one)| of_receiver(index + 1, one)))
        .or_else(|| of_sections(plan))
}

fn of_run(plan: &Plan) -> Option<String> {
    match (plan.seconds, plan.mails) {
        (None, None) => return Some("a plan needs an end: write `seconds = 60` or `mails = 100000`".into()),
        (Some(_), Some(_)) => return Some("`seconds` and `mails` exclude each other: leave one of them out".into()),
        (Some(seconds), None) if !(0.1..=SECONDS_MAX).contains(&seconds) => {
            return Some(format!("`seconds = {seconds}` is not between 0.1 and {SECONDS_MAX}"));
        }
        (None, Some(mails)) if !(1..=RECIPIENTS_MAX / 2).contains(&mails) => {
            return Some(format!("`mails = {mails}` is not between 1 and {}", RECIPIENTS_MAX / 2));
        }
        _ => {}
    }
    for (name, value) in [("warm_up_seconds", plan.warm_up_seconds), ("patience_seconds", plan.patience_seconds)] {
        if !(0.0..=3_600.0).contains(&value) {
            return Some(format!("`{name} = {value}` is not between 0 and 3600"));
        }
    }
    if plan.waiting.is_some() && (plan.mails.is_none() || plan.loads.len() != 1) {
        return Some("a plan with [waiting] has `mails` and one [[load]], which fills the server".into());
    }
    if plan.waiting.is_some() && !plan.receivers.iter().any(|receiver| !receiver.holds) {
        return Some("a plan with [waiting] needs a [[receiver]] without `holds` for the first delivery".into());
    }
    None
}

fn of_tenants(plan: &Plan) -> Option<String> {
    for (index, tenant) in plan.tenants.iter().enumerate() {
        let is_name = |name: &str| {
            (1..=63).contains(&name.len())
                && name.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-')
        };
        if !is_name(&tenant.name) {
            return Some(format!("tenant {:?}: a name has lower-case letters, digits and hyphens", tenant.name));
        }
        if tenant.name == "default" {
            return Some("tenant \"default\" is the server's own: choose another name".into());
        }
        if plan.tenants[..index].iter().any(|other| other.name == tenant.name) {
            return Some(format!("tenant {:?} is there twice", tenant.name));
        }
        if tenant.weight == 0 {
            return Some(format!("tenant {:?}: `weight` is at least 1", tenant.name));
        }
    }
    None
}

fn of_load(plan: &Plan, number: usize, load: &LoadSection) -> Option<String> {
    let fault = |what: String| Some(format!("load {number}: {what}"));
    if let Some(tenant) = &load.tenant
        && !plan.tenants.iter().any(|known| known.name == *tenant)
    {
        return fault(format!("there is no [[tenant]] named {tenant:?}"));
    }
    if !(1..=CONNECTIONS_MAX).contains(&load.connections) {
        return fault(format!("`connections = {}` is not between 1 and {CONNECTIONS_MAX}", load.connections));
    }
    match (load.rate_per_s, load.share_of_highest) {
        (Some(_), Some(_)) => return fault("`rate_per_s` and `share_of_highest` exclude each other".into()),
        (Some(rate), None) if !(0.001..=1e7).contains(&rate) => {
            return fault(format!("`rate_per_s = {rate}` is not between 0.001 and 10000000"));
        }
        (None, Some(share)) if !(0.001..=2.0).contains(&share) => {
            return fault(format!("`share_of_highest = {share}` is not between 0.001 and 2"));
        }
        _ => {}
    }
    match load.unsettled_max {
        Some(_) if load.rate_per_s.is_some() || load.share_of_highest.is_some() => {
            return fault("`unsettled_max` is for a load as fast as answers come: leave it out, or the rate".into());
        }
        Some(max) if !(1..=RECIPIENTS_MAX).contains(&max) => {
            return fault(format!("`unsettled_max = {max}` is not between 1 and {RECIPIENTS_MAX}"));
        }
        _ => {}
    }
    if let Some(what) = load.size.fault().or_else(|| of_values("size", &load.size.draw(), SIZE_MAX)) {
        return fault(what);
    }
    let recipients_max = match load.interface {
        super::InterfacePlan::Smtp => SMTP_RECIPIENTS_MAX,
        super::InterfacePlan::Rest => REST_RECIPIENTS_MAX,
    };
    if let Some(what) =
        load.recipients.fault().or_else(|| of_values("recipients", &load.recipients.draw(), recipients_max))
    {
        return fault(what);
    }
    if !(1..=DOMAINS_MAX).contains(&load.domains) {
        return fault(format!("`domains = {}` is not between 1 and {DOMAINS_MAX}", load.domains));
    }
    None
}

fn of_values(name: &str, draw: &Draw, max: u32) -> Option<String> {
    (!(1..=max).contains(&draw.max())).then(|| format!("`{name}` reaches {}: at least 1, at most {max}", draw.max()))
}

fn of_receiver(number: usize, receiver: &ReceiverSection) -> Option<String> {
    let fault = |what: String| Some(format!("receiver {number}: {what}"));
    for (name, share) in [("reject_share", receiver.reject_share), ("defer_share", receiver.defer_share)] {
        if !(0.0..=1.0).contains(&share) {
            return fault(format!("`{name} = {share}` is a share, between 0 and 1 (5% is 0.05)"));
        }
    }
    if !(receiver.share > 0.0 && receiver.share <= 1e6) {
        return fault(format!("`share = {}` is a weight above 0", receiver.share));
    }
    if receiver.hosts == 0 {
        return fault("`hosts` is at least 1".into());
    }
    if receiver.latency_ms > 60_000 {
        return fault(format!("`latency_ms = {}` is more than a minute", receiver.latency_ms));
    }
    if receiver.greylist_seconds.is_some_and(|seconds| !(0.0..=86_400.0).contains(&seconds)) {
        return fault("`greylist_seconds` is not between 0 and 86400".into());
    }
    None
}

fn of_sections(plan: &Plan) -> Option<String> {
    if plan.loads.is_empty() {
        return Some("a plan needs a [[load]]".into());
    }
    for (name, count) in
        [("[[load]]", plan.loads.len()), ("[[tenant]]", plan.tenants.len()), ("[[receiver]]", plan.receivers.len())]
    {
        if count > SECTIONS_MAX {
            return Some(format!("{count} {name} sections: at most {SECTIONS_MAX}"));
        }
    }
    let hosts: usize = plan.receivers.iter().map(|receiver| usize::from(receiver.hosts)).sum();
    (hosts > HOSTS_MAX).then(|| format!("{hosts} receivers (`hosts` of all sections): at most {HOSTS_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_with_what_to_do() {
        for (text, told) in [
            ("[[load]]", "missing field `name`"),
            ("name = \"x\"\n[[load]]", "`seconds = 60` or `mails"),
            ("name = \"x\"\nseconds = 1\nmails = 1\n[[load]]", "exclude each other"),
            ("name = \"x\"\nseconds = 1\nseconts = 1\n[[load]]", "unknown field `seconts`"),
            ("name = \"x\"\nseconds = 1\n[[load]]\ntenant = \"y\"", "no [[tenant]] named \"y\""),
            ("name = \"x\"\nseconds = 1\n[[load]]\nrate_per_s = -1.0", "load 1: `rate_per_s = -1`"),
            ("name = \"x\"\nseconds = 1\n[[load]]\nrate_per_s = 1.0\nunsettled_max = 5", "or the rate"),
            ("name = \"x\"\nseconds = 1\n[[load]]\nunsettled_max = 0", "`unsettled_max = 0` is not between 1"),
            ("name = \"x\"\nseconds = 1\n[[load]]\nsize = { fixed = 0 }", "`size` reaches 0"),
            ("name = \"x\"\nseconds = 1\n[[load]]\nrecipients = { fixed = 101 }", "at most 100"),
            ("name = \"x\"\nseconds = 1\n[[load]]\n[[receiver]]\ndefer_share = 5.0", "5% is 0.05"),
            ("name = \"x\"\nseconds = 1\n[[load]]\n[[receiver]]\nhosts = 300", "at most 200"),
            ("name = \"x\"\nseconds = 1\n[[tenant]]\nname = \"default\"\n[[load]]", "choose another name"),
            ("name = \"x\"\nseconds = 1\n[waiting]\n[[load]]", "which fills the server"),
        ] {
            let error = Plan::parse(text).expect_err(text).to_string();
            assert!(error.contains(told), "{text}\n{error}");
        }
    }
}
