//! Shaping rules drawn by a seed, and what they let a receiver see.
//!
//! What is seen is computed here from the few forms that are drawn, and not by the code that keeps to it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use postrail_core::base::Random;
use postrail_schema::ids::{ProviderId, ShapingRuleId, TenantId};
use postrail_schema::limits::{CONNECTION_MAILS_MAX, PATH_CONNECTIONS_MAX};
use postrail_schema::shaping::{Provider, Rate, ShapingMatch, ShapingRule};
use postrail_schema::snapshot::TrafficClass;

use super::{SITES, client, receiver_address};
use crate::disk::DiskFaults;
use crate::invariants::{Limits, Pace, PathLimits};

/// The rules of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Shaped {
    pub(super) providers: Vec<Provider>,
    pub(super) rules: Vec<ShapingRule>,
    /// A site that gets much mail at once, over few connections: a backlog gathers for it.
    pub(super) burst: Option<u8>,
}

/// Sites of the provider: those below it.
const PROVIDER_SITES: u8 = 2;
/// How unevenly what was begun evenly may arrive: a read from a stalled disk, a slow receiver that says one reply before,
/// and the network.
const SLACK: Duration = DiskFaults::STALL.saturating_add(Duration::from_secs(3));

impl Shaped {
    pub(super) fn draw(random: &mut Random, burst: Option<u8>) -> Self {
        let mut shaped = Self { burst, ..Self::default() };
        for site in 0..SITES {
            if burst == Some(site) && random.chance(70) {
                let connections = Some(1 + random.below(2) as u32);
                let matches = ShapingMatch { site: Some(suffix(site)), ..ShapingMatch::default() };
                shaped.push(ShapingRule { connections, ..rule(&format!("site-{site}"), matches) });
            } else if random.chance(50) {
                let matches = ShapingMatch { site: Some(suffix(site)), ..ShapingMatch::default() };
                shaped.add(&format!("site-{site}"), matches, random);
            }
        }
        if random.chance(50) {
            let hosts = (0..PROVIDER_SITES).map(suffix).collect();
            shaped.providers = vec![Provider { id: ProviderId(1), name: "provider".to_owned(), hosts }];
            let matches = ShapingMatch { provider: Some(ProviderId(1)), ..ShapingMatch::default() };
            shaped.add("provider", matches, random);
        }
        if random.chance(30) {
            shaped.add("all", ShapingMatch::default(), random);
        }
        if random.chance(30) {
            shaped.add("tenant", ShapingMatch { tenant: Some(TenantId(1)), ..ShapingMatch::default() }, random);
        }
        if random.chance(30) {
            let class = Some(TrafficClass::Transactional);
            shaped.add("class", ShapingMatch { class, ..ShapingMatch::default() }, random);
        }
        shaped
    }

    fn add(&mut self, name: &str, matches: ShapingMatch, random: &mut Random) {
        let mut rule = ShapingRule { mail_rate: Some(draw_rate(random)), ..rule(name, matches) };
        if !rule.is_of_mail() {
            rule.connections = random.chance(60).then(|| 1 + random.below(3) as u32);
            rule.mails_per_connection = random.chance(60).then(|| 1 + random.below(4) as u32);
            rule.connection_rate = random.chance(30).then(|| draw_rate(random));
            rule.mail_rate = rule.mail_rate.filter(|_| random.chance(60));
        }
        if rule.fault().is_none() {
            self.push(rule);
        }
    }

    fn push(&mut self, rule: ShapingRule) {
        self.rules.push(ShapingRule { id: ShapingRuleId(self.rules.len() as u32 + 1), ..rule });
    }

    /// What receivers may see.
    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        let [provider, all] = ["provider", "all"].map(|name| self.named(name));
        let of_provider: BTreeSet<IpAddr> = (0..PROVIDER_SITES).map(receiver_address).collect();
        for site in 0..SITES {
            let own = self.named(&format!("site-{site}"));
            let above = provider.filter(|_| site < PROVIDER_SITES);
            let closest = [own, above, all];
            let first = |get: fn(&ShapingRule) -> Option<u32>| closest.into_iter().flatten().find_map(get);
            let connections = first(|rule| rule.connections).map_or(PATH_CONNECTIONS_MAX, |count| count as usize);
            let connection_mails_max = first(|rule| rule.mails_per_connection).unwrap_or(CONNECTION_MAILS_MAX);
            let receiver = receiver_address(site);
            limits.paths.insert(receiver, PathLimits { connections_max: connections, connection_mails_max });
            for (is_of_connections, get) in RATES {
                let overruled = above.is_some_and(|above| get(above).is_some());
                let of_path = own.and_then(get).or_else(|| all.filter(|_| !overruled).and_then(get));
                let receivers = BTreeSet::from([receiver]);
                limits.paces.extend(of_path.map(|rate| pace(receivers, is_of_connections, rate)));
            }
        }
        if let Some(rule) = provider {
            limits.together.extend(rule.connections.map(|count| (of_provider.clone(), count as usize)));
            for (is_of_connections, get) in RATES {
                limits.paces.extend(get(rule).map(|rate| pace(of_provider.clone(), is_of_connections, rate)));
            }
        }
        let everyone: BTreeSet<IpAddr> = (0..SITES).map(receiver_address).collect();
        for rate in ["tenant", "class"].into_iter().filter_map(|name| self.named(name)?.mail_rate) {
            limits.paces.push(pace(everyone.clone(), false, rate));
        }
        limits
    }

    fn named(&self, name: &str) -> Option<&ShapingRule> {
        self.rules.iter().find(|rule| rule.name == name)
    }
}

/// Whether it counts connections, and where a rule has it.
const RATES: [(bool, GetRate); 2] = [(false, |rule| rule.mail_rate), (true, |rule| rule.connection_rate)];
type GetRate = fn(&ShapingRule) -> Option<Rate>;

fn pace(receivers: BTreeSet<IpAddr>, is_of_connections: bool, rate: Rate) -> Pace {
    Pace { receivers, is_of_connections, interval: rate.interval(), slack: SLACK }
}

/// A rule that says nothing yet.
fn rule(name: &str, matches: ShapingMatch) -> ShapingRule {
    ShapingRule {
        id: ShapingRuleId::default(),
        name: name.to_owned(),
        matches,
        connections: None,
        mails_per_connection: None,
        mail_rate: None,
        connection_rate: None,
    }
}

fn suffix(site: u8) -> String {
    format!(".{}", client::domain(site))
}

fn draw_rate(random: &mut Random) -> Rate {
    let rates = ["1/s", "3/s", "20/min", "40/min", "2000/h"];
    rates[random.below(rates.len() as u64) as usize].parse().expect("these are rates")
}

/// What each of some rules lets through differs from what none does, so a run without them must break it.
#[cfg(test)]
pub(super) fn strict() -> Shaped {
    let mut shaped = Shaped::default();
    for site in 0..SITES {
        let matches = ShapingMatch { site: Some(suffix(site)), ..ShapingMatch::default() };
        shaped.push(ShapingRule {
            connections: Some(1),
            mails_per_connection: Some(1),
            mail_rate: "6/min".parse().ok(),
            ..rule(&format!("site-{site}"), matches)
        });
    }
    shaped
}
