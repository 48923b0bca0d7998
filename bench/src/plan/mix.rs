//! From a plan's words to what is drawn and started: sizes, recipients, domains, receivers and their addresses.
//!
//! Invariants worth naming: a domain belongs to one receiver, chosen by the domain's index and the receivers' shares, so
//! that two runs have the same domains at the same receivers; a receiver's zone holds all of its domains.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::Deserialize;

use super::{DomainSpread, LoadSection, Plan, RateReply, ReceiverSection};
use crate::sink::{Behaviour, ReceiverPlan};
use crate::source::{Draw, Mix, spread};

/// A value with its weight.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    value: u32,
    weight: f64,
}

/// Octets of a message.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Size {
    Fixed(u32),
    /// All between the two, equally likely.
    Even {
        min: u32,
        max: u32,
    },
    Weighted(Vec<Weighted>),
    /// Mail as it is: many small, few large.
    Lognormal {
        median: u32,
        /// Standard deviation of the natural logarithm.
        sigma: f64,
        min: u32,
        max: u32,
    },
}

impl Default for Size {
    fn default() -> Self {
        Self::Fixed(10_240)
    }
}

impl Size {
    pub fn draw(&self) -> Draw {
        match self {
            Self::Fixed(size) => Draw::Fixed(*size),
            Self::Even { min, max } => Draw::even(*min, *max),
            Self::Weighted(values) => weighted(values),
            Self::Lognormal { median, sigma, min, max } => Draw::lognormal(f64::from(*median), *sigma, *min, *max),
        }
    }

    pub(super) fn fault(&self) -> Option<String> {
        match self {
            Self::Even { min, max } | Self::Lognormal { min, max, .. } if min > max => {
                Some(format!("`size`: min {min} is above max {max}"))
            }
            Self::Lognormal { sigma, .. } if !(0.0..=5.0).contains(sigma) => {
                Some(format!("`size`: sigma {sigma} is not between 0 and 5"))
            }
            Self::Weighted(values) => weights_fault("size", values),
            _ => None,
        }
    }
}

/// Recipients of a mail or job.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Count {
    Fixed(u32),
    Weighted(Vec<Weighted>),
}

impl Default for Count {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

impl Count {
    pub fn draw(&self) -> Draw {
        match self {
            Self::Fixed(count) => Draw::Fixed(*count),
            Self::Weighted(values) => weighted(values),
        }
    }

    pub(super) fn fault(&self) -> Option<String> {
        match self {
            Self::Fixed(_) => None,
            Self::Weighted(values) => weights_fault("recipients", values),
        }
    }
}

fn weighted(values: &[Weighted]) -> Draw {
    Draw::weighted(&values.iter().map(|one| (one.value, one.weight)).collect::<Vec<_>>())
}

fn weights_fault(name: &str, values: &[Weighted]) -> Option<String> {
    let is_sound = values.iter().all(|one| (0.0..=1e9).contains(&one.weight) && one.value > 0)
        && values.iter().any(|one| one.weight > 0.0);
    (!is_sound).then(|| format!("`{name}`: a weighted list has values from 1 and weights above 0"))
}

/// One receiver to start.
#[derive(Clone, Debug)]
pub struct PlannedReceiver {
    pub zone: String,
    pub address: Ipv4Addr,
    pub behaviour: Behaviour,
    /// The part of the domains that is its own: up to this share, from the former receiver's.
    up_to: f64,
}

impl Plan {
    /// The receivers of this plan, in order of their share.
    pub fn planned_receivers(&self) -> Vec<PlannedReceiver> {
        let total: f64 = self.receivers.iter().map(|section| section.share).sum();
        let mut planned: Vec<PlannedReceiver> = Vec::new();
        let mut passed = 0.0;
        for section in &self.receivers {
            for _ in 0..section.hosts {
                passed += section.share / f64::from(section.hosts) / total;
                let index = u8::try_from(planned.len()).unwrap_or(u8::MAX);
                planned.push(PlannedReceiver {
                    zone: format!("r{index:03}.bench.test"),
                    address: Ipv4Addr::new(127, 77, 1, index.saturating_add(1)),
                    behaviour: behaviour(section),
                    up_to: passed,
                });
            }
        }
        planned
    }

    /// All that the sink starts: the receivers, and one for each sending domain, where reports go.
    pub fn sink_receivers(&self) -> Vec<ReceiverPlan> {
        let receivers = self.planned_receivers().into_iter().map(|planned| ReceiverPlan {
            zone: planned.zone,
            address: IpAddr::V4(planned.address),
            behaviour: planned.behaviour,
            is_sender: false,
        });
        let senders = (0..self.tenants.len()).map(|tenant| ReceiverPlan {
            zone: self.sending_domain(tenant),
            address: IpAddr::V4(Ipv4Addr::new(127, 77, 2, u8::try_from(tenant + 1).unwrap_or(u8::MAX))),
            behaviour: Behaviour::default(),
            is_sender: true,
        });
        receivers.chain(senders).collect()
    }

    /// What the mails of `load` are made by.
    pub fn mix(&self, load: &LoadSection) -> Mix {
        let receivers = self.planned_receivers();
        let domains = (0..load.domains).map(|index| domain(index, &receivers)).collect();
        Mix {
            sender: format!("bench@{}", self.sending_domain(self.tenant_of(load))),
            domains,
            by_popularity: match load.domain_spread {
                DomainSpread::Uniform => Draw::even(0, load.domains.saturating_sub(1)),
                DomainSpread::Zipf => Draw::zipf(load.domains),
            },
            sizes: load.size.draw(),
            recipients: load.recipients.draw(),
        }
    }

    /// As [`Self::mix`], to receivers that do not hold.
    pub fn mix_to_open(&self, load: &LoadSection) -> Mix {
        let receivers: Vec<_> =
            self.planned_receivers().into_iter().filter(|receiver| !receiver.behaviour.holds).collect();
        let domains = receivers.iter().map(|receiver| format!("open.{}", receiver.zone)).collect();
        Mix::new(&self.mix(load).sender, domains, load.size.draw())
    }
}

/// The `index`th domain, at its receiver.
fn domain(index: u32, receivers: &[PlannedReceiver]) -> String {
    let share = spread(u64::from(index)) as f64 / u64::MAX as f64;
    let receiver = receivers.iter().find(|receiver| share <= receiver.up_to).or(receivers.last());
    let zone = receiver.map_or("bench.test", |receiver| receiver.zone.as_str());
    format!("d{index:05}.{zone}")
}

fn behaviour(section: &ReceiverSection) -> Behaviour {
    Behaviour {
        defer_share: section.defer_share,
        reject_share: section.reject_share,
        greylist: section.greylist_seconds.map(Duration::from_secs_f64),
        reply_delay: Duration::from_millis(section.latency_ms),
        connections_max: section.connections.map(usize::from),
        rate_per_minute_max: section.rate_per_minute,
        closes_over_rate: section.rate_reply == RateReply::Close,
        holds: section.holds,
        offers_starttls: section.starttls,
        offers_chunking: section.chunking,
        ..Behaviour::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_spread_over_receivers_by_their_share() {
        let text = "name = \"x\"\nseconds = 1\n[[load]]\ndomains = 1000\n[[receiver]]\nshare = 3\nhosts = 2\n\
                    [[receiver]]\nshare = 1\nstarttls = true";
        let plan = Plan::parse(text).expect("sound");
        let mix = plan.mix(&plan.loads[0]);
        let at = |zone: &str| mix.domains.iter().filter(|domain| domain.ends_with(zone)).count();
        let counts = ["r000.bench.test", "r001.bench.test", "r002.bench.test"].map(at);
        assert_eq!(counts.iter().sum::<usize>(), 1_000);
        assert!((320..430).contains(&counts[0]) && (200..300).contains(&counts[2]), "{counts:?}");
        let sink = plan.sink_receivers();
        assert_eq!(sink.len(), 4);
        assert!(sink[2].behaviour.offers_starttls && sink[3].is_sender);
    }

    #[test]
    fn sizes_and_counts_are_read_in_each_of_their_forms() {
        let text = "name = \"x\"\nseconds = 1\n[[load]]\nsize = { lognormal = { median = 20000, sigma = 1.0, min = 2000, max = 500000 } }\n\
                    recipients = { weighted = [{ value = 1, weight = 9 }, { value = 5, weight = 1 }] }\n\
                    [[load]]\nsize = { even = { min = 1000, max = 2000 } }";
        let plan = Plan::parse(text).expect("sound");
        assert!(plan.loads[0].size.draw().max() > 100_000);
        assert_eq!(plan.loads[0].recipients.draw().max(), 5);
        assert_eq!(plan.loads[1].size.draw().max(), 2_000);
    }
}
