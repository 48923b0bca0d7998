//! What a contract may demand: the `[sla]` section of a plan.
//!
//! ```toml
//! [sla]
//! rate_per_s = 2778           # delivered, at least
//! window_s = 60               # over every window of so many seconds; without it over the whole run
//! ack_ms = { p99 = 10 }       # at most; ranks are p50, p99_9, … and max
//! delivery_ms = { p50 = 8, p99 = 25 }
//! cpu_us_per_mail = 110
//!
//! [sla.tenant.reserved]
//! delivery_ms = { p99 = 50 }
//! delivery_p99_times_alone = 2.0
//! ```
//!
//! `lost` and `duplicated` are demanded to be 0 unless the contract allows some.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The conditions of a plan.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contract {
    /// Delivered recipients a second, at least.
    pub rate_per_s: Option<f64>,
    /// The rate holds over every window of so many seconds, not only over the run.
    pub window_s: Option<f64>,
    /// Submission to acknowledgement, at most.
    pub ack_ms: Ranks,
    /// Acknowledgement to the first attempt, at most.
    pub first_attempt_ms: Ranks,
    /// Submission to delivery, at most.
    pub delivery_ms: Ranks,
    /// Recipients that may be lost.
    pub lost: u64,
    /// Deliveries too many that are allowed.
    pub duplicated: u64,
    /// Recipients that may be refused at submission, or left without an answer.
    pub refused: Option<u64>,
    pub cpu_us_per_mail: Option<f64>,
    pub peak_rss_mb: Option<f64>,
    /// By the tenant's name.
    pub tenant: BTreeMap<String, TenantContract>,
}

/// What one tenant was promised.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantContract {
    pub rate_per_s: Option<f64>,
    /// p50, p99 and max only.
    pub ack_ms: Ranks,
    /// p50, p99 and max only.
    pub delivery_ms: Ranks,
    pub lost: u64,
    /// The p99 under load is at most so many times that of the same tenant alone.
    pub ack_p99_times_alone: Option<f64>,
    pub delivery_p99_times_alone: Option<f64>,
}

/// Ceilings in milliseconds by rank.
pub type Ranks = BTreeMap<String, f64>;

/// What stands at a place of the order of all latencies.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rank {
    /// This many percent took at most that long.
    Percentile(f64),
    Max,
}

impl Rank {
    /// `p50`, `p99_9`, `max`.
    pub fn parse(name: &str) -> Option<Self> {
        if name == "max" {
            return Some(Self::Max);
        }
        let percentile: f64 = name.strip_prefix('p')?.replace('_', ".").parse().ok()?;
        (percentile > 0.0 && percentile < 100.0).then_some(Self::Percentile(percentile))
    }
}

impl Contract {
    /// The contract of a plan.
    ///
    /// # Errors
    /// A plan without an `[sla]` section, or one that is not understood.
    pub fn of_plan(text: &str) -> Result<Self> {
        let mut plan: toml::Table = text.parse().context("the plan is no TOML")?;
        let section = plan.remove("sla").context("the plan has no [sla] section, so nothing was promised")?;
        let contract: Self = section.try_into().context("the [sla] section is not understood")?;
        contract.check()?;
        Ok(contract)
    }

    fn check(&self) -> Result<()> {
        let tenants = self.tenant.values().flat_map(|tenant| [&tenant.ack_ms, &tenant.delivery_ms]);
        let ranks = [&self.ack_ms, &self.first_attempt_ms, &self.delivery_ms].into_iter().chain(tenants);
        for (name, ms) in ranks.flatten() {
            if Rank::parse(name).is_none() {
                bail!("{name} is no rank: write p50, p99, p99_9 or max");
            }
            if !(ms.is_finite() && *ms > 0.0) {
                bail!("{name} has a ceiling of {ms} ms, which nothing can keep");
            }
        }
        if self.window_s.is_some_and(|window| !(window.is_finite() && window > 0.0)) {
            bail!("window_s is a number of seconds");
        }
        if self.window_s.is_some() && self.rate_per_s.is_none() {
            bail!("window_s says over which windows rate_per_s holds; it is nothing without it");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_is_read_from_its_plan() {
        let text = "name = \"x\"\n[sla]\nrate_per_s = 2778\nwindow_s = 60\nack_ms = { p99 = 10, p99_9 = 20.5 }\n\
            [sla.tenant.reserved]\ndelivery_p99_times_alone = 2\n[[load]]\nconnections = 1\n";
        let contract = Contract::of_plan(text).expect("reads");
        assert_eq!((contract.rate_per_s, contract.lost), (Some(2_778.0), 0));
        assert_eq!(contract.ack_ms["p99_9"], 20.5);
        assert_eq!(contract.tenant["reserved"].delivery_p99_times_alone, Some(2.0));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "name = \"x\"\n",
            "[sla]\nrate = 1\n",
            "[sla]\nack_ms = { p0 = 1 }\n",
            "[sla]\nack_ms = { p99 = 0 }\n",
            "[sla]\nwindow_s = 10\n",
            "[sla]\nwindow_s = -1\nrate_per_s = 1\n",
            "[sla.tenant.a]\nack_ms = { best = 1 }\n",
            "[sla\n",
        ] {
            assert!(Contract::of_plan(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranks_have_names() {
        assert_eq!(Rank::parse("p99_9"), Some(Rank::Percentile(99.9)));
        assert_eq!(Rank::parse("max"), Some(Rank::Max));
        for wrong in ["p100", "p", "99", "p-1", "pNaN"] {
            assert_eq!(Rank::parse(wrong), None, "{wrong}");
        }
    }
}
