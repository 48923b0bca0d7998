//! Shaping: how fast and how parallel mail goes out, by rules; and providers, which rules may name.
//!
//! A [`ShapingRule`] says which mail it is about ([`ShapingMatch`]) and sets *limits* (parallel counts: connections, mails
//! of one connection) and *throttles* (rates: mails, connections). What is counted together depends on what it names:
//!
//! | names | counted together | may set |
//! |---|---|---|
//! | neither of the following | each path (a source and a site) by itself | all |
//! | a provider | all paths of one source to the provider's sites | all |
//! | recipient domain, tenant, campaign or class | all mail that it is about | a throttle of mails |
//!
//! Invariants worth naming: a rule that holds by [`ShapingRule::fault`] sets something, and nothing that cannot be
//! counted. Absent here: which of several rules counts, and counting (`rules::shaping` and `schedule` of the data plane).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{PoolId, ProviderId, ShapingRuleId, SourceId, TenantId};
use crate::limits::{CONNECTION_MAILS_LIMIT_MAX, EGRESS_SESSIONS_MAX, RATE_COUNT_MAX};
use crate::snapshot::TrafficClass;

/// A human name over several sites.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Provider {
    pub id: ProviderId,
    /// Unique slug.
    pub name: String,
    /// What MX hosts are its: names, or suffixes that begin with a dot; lower case, at least one.
    pub hosts: Vec<String>,
}

/// A rule that sets throttles and limits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShapingRule {
    pub id: ShapingRuleId,
    /// Unique slug.
    pub name: String,
    #[serde(rename = "match")]
    pub matches: ShapingMatch,
    /// Connections at once.
    pub connections: Option<u32>,
    pub mails_per_connection: Option<u32>,
    pub mail_rate: Option<Rate>,
    /// Connections begun.
    pub connection_rate: Option<Rate>,
}

/// The mail that a rule is about; what is absent is any.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ShapingMatch {
    pub source: Option<SourceId>,
    pub pool: Option<PoolId>,
    pub provider: Option<ProviderId>,
    /// An MX host, a suffix of MX hosts that begins with a dot, or the name of a site.
    pub site: Option<String>,
    pub recipient_domain: Option<String>,
    pub tenant: Option<TenantId>,
    /// With its tenant, always.
    pub campaign: Option<String>,
    pub class: Option<TrafficClass>,
}

/// So many in a second, minute, hour or day: `100/s`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    count: u32,
    period: RatePeriod,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RatePeriod {
    Second,
    Minute,
    Hour,
    Day,
}

/// Why a text is no rate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a rate is a count of 1 to {RATE_COUNT_MAX} and a period, such as 100/s, 60/min, 10000/h or 1/d")]
pub struct RateError;

/// Providers and rules of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shaping {
    pub providers: BTreeMap<ProviderId, Provider>,
    pub rules: BTreeMap<ShapingRuleId, ShapingRule>,
}

impl Provider {
    /// Whether a site is the provider's: all of its hosts are. With one host alone among others a foreign domain could
    /// take what the provider's limits leave to its own.
    pub fn has_site<'h>(&self, hosts: impl Iterator<Item = &'h str>) -> bool {
        all_match(hosts, |host| self.hosts.iter().any(|pattern| is_host(pattern, host)))
    }
}

impl ShapingRule {
    /// Whether it is about mail and not about paths: it names what mail of one path differs in.
    pub fn is_of_mail(&self) -> bool {
        let ShapingMatch { recipient_domain, tenant, campaign, class, .. } = &self.matches;
        recipient_domain.is_some() || tenant.is_some() || campaign.is_some() || class.is_some()
    }

    /// What is wrong with it by itself: the field, and what to do.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let ShapingMatch { source, pool, provider, site, tenant, campaign, .. } = &self.matches;
        let told = |field, detail: &str| Some((field, detail.to_owned()));
        if source.is_some() && pool.is_some() {
            return told("/match/pool", "a source is closer than its pool: name one of them");
        }
        if provider.is_some() && site.is_some() {
            return told("/match/site", "a site is closer than its provider: name one of them");
        }
        if campaign.is_some() && tenant.is_none() {
            return told("/match/campaign", "campaigns are a tenant's: name the tenant as well");
        }
        let Self { connections, mails_per_connection, mail_rate, connection_rate, .. } = self;
        let of_path = [
            ("/connections", connections.is_some()),
            ("/mails_per_connection", mails_per_connection.is_some()),
            ("/connection_rate", connection_rate.is_some()),
        ];
        if let Some((field, _)) = of_path.into_iter().find(|(_, is_set)| *is_set && self.is_of_mail()) {
            let detail = "a connection carries mail of all tenants, campaigns, classes and recipient domains of its site: \
                          set it in a rule that names none of these";
            return told(field, detail);
        }
        if mail_rate.is_none() && of_path.iter().all(|(_, is_set)| !is_set) {
            return told("", "it sets nothing: say connections, mails_per_connection, mail_rate or connection_rate");
        }
        if connections.is_some_and(|count| !(1..=EGRESS_SESSIONS_MAX as u32).contains(&count)) {
            let detail = format!("connections are 1 to {EGRESS_SESSIONS_MAX}; to stop mail, suspend it");
            return Some(("/connections", detail));
        }
        if mails_per_connection.is_some_and(|count| !(1..=CONNECTION_MAILS_LIMIT_MAX).contains(&count)) {
            let detail = format!("a connection carries 1 to {CONNECTION_MAILS_LIMIT_MAX} mails");
            return Some(("/mails_per_connection", detail));
        }
        None
    }
}

impl ShapingMatch {
    /// Whether a site of that name and with these hosts is the one that is named, if one is.
    pub fn is_site<'h>(&self, name: &str, hosts: impl Iterator<Item = &'h str>) -> bool {
        self.site.as_deref().is_none_or(|site| site == name || all_match(hosts, |host| is_host(site, host)))
    }
}

fn all_match<'h>(mut hosts: impl Iterator<Item = &'h str>, is_one: impl Fn(&str) -> bool) -> bool {
    hosts.next().is_some_and(&is_one) && hosts.all(is_one)
}

/// Whether `host` is the one that `pattern` names, or below it where that begins with a dot.
pub(crate) fn is_host(pattern: &str, host: &str) -> bool {
    if pattern.starts_with('.') { host.len() > pattern.len() && host.ends_with(pattern) } else { host == pattern }
}

impl Rate {
    /// `None`: there is no such period, or the count is out of bounds.
    pub fn new(count: u32, period_s: u32) -> Option<Self> {
        let period = RatePeriod::ALL.into_iter().find(|period| period.seconds() == period_s)?;
        (1..=RATE_COUNT_MAX).contains(&count).then_some(Self { count, period })
    }

    pub const fn count(self) -> u32 {
        self.count
    }

    pub const fn period_s(self) -> u32 {
        self.period.seconds()
    }

    /// The time from one to the next where they are spread evenly: of two rates the one with the longer one is stricter.
    pub fn interval(self) -> Duration {
        Duration::from_nanos(u64::from(self.period_s()) * 1_000_000_000 / u64::from(self.count))
    }
}

impl RatePeriod {
    const ALL: [Self; 4] = [Self::Second, Self::Minute, Self::Hour, Self::Day];

    const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// The words for it, the usual one first.
    const fn words(self) -> [&'static str; 3] {
        match self {
            Self::Second => ["s", "sec", "second"],
            Self::Minute => ["min", "m", "minute"],
            Self::Hour => ["h", "hr", "hour"],
            Self::Day => ["d", "day", "24h"],
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.period.words()[0])
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (count, period) = text.split_once('/').ok_or(RateError)?;
        let digits: String = count.trim().chars().filter(|sign| !matches!(sign, ',' | '_')).collect();
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(RateError);
        }
        let word = period.trim();
        let period = RatePeriod::ALL.into_iter().find(|period| period.words().contains(&word)).ok_or(RateError)?;
        Self::new(digits.parse().map_err(|_| RateError)?, period.seconds()).ok_or(RateError)
    }
}

impl TryFrom<String> for Rate {
    type Error = RateError;

    fn try_from(text: String) -> Result<Self, RateError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(matches: ShapingMatch) -> ShapingRule {
        ShapingRule {
            id: ShapingRuleId(1),
            name: "r".to_owned(),
            matches,
            connections: None,
            mails_per_connection: None,
            mail_rate: "1/s".parse().ok(),
            connection_rate: None,
        }
    }

    #[test]
    fn rates_are_read_in_the_ways_people_write_them_and_told_in_one() {
        let texts = [
            ("100/s", Some("100/s")),
            ("10,000/hour", Some("10000/h")),
            ("60 / m", Some("60/min")),
            ("1/d", Some("1/d")),
            ("0/s", None),
            ("1000001/s", None),
            ("-1/s", None),
            ("1/week", None),
            ("1", None),
            ("/s", None),
        ];
        for (text, wanted) in texts {
            let told = text.parse::<Rate>().ok().map(|rate| rate.to_string());
            assert_eq!(told.as_deref(), wanted, "{text}");
        }
        assert_eq!("10000/h".parse::<Rate>().unwrap().interval(), Duration::from_millis(360));
    }

    #[test]
    fn a_site_is_a_providers_if_all_of_its_hosts_are() {
        let hosts = vec![".google.com".to_owned(), "mx.partner.example".to_owned()];
        let provider = Provider { id: ProviderId(1), name: "google".to_owned(), hosts };
        let has = |hosts: &[&str]| provider.has_site(hosts.iter().copied());
        assert!(has(&["aspmx.l.google.com", "alt1.aspmx.l.google.com", "mx.partner.example"]));
        assert!(!has(&["aspmx.l.google.com", "mx.stranger.example"]), "one host of another is enough");
        assert!(!has(&["google.com"]) && !has(&["evilgoogle.com"]) && !has(&["a.mx.partner.example"]) && !has(&[]));
    }

    #[test]
    fn a_site_is_named_by_host_by_suffix_or_by_its_name() {
        let is = |site: &str| {
            let matches = ShapingMatch { site: Some(site.to_owned()), ..ShapingMatch::default() };
            matches.is_site("a.mx.example,b.mx.example", ["a.mx.example", "b.mx.example"].into_iter())
        };
        assert!(is(".mx.example") && is(".example") && is("a.mx.example,b.mx.example"));
        assert!(!is("a.mx.example") && !is("mx.example") && !is(".a.mx.example"));
    }

    #[test]
    fn a_rule_that_cannot_be_counted_says_why() {
        let faults = |rule: &ShapingRule| rule.fault().map(|(field, _)| field);
        let tenant = ShapingMatch { tenant: Some(TenantId(1)), ..ShapingMatch::default() };
        assert_eq!(faults(&rule(tenant.clone())), None);
        let cases = [
            (ShapingRule { mail_rate: None, ..rule(tenant.clone()) }, ""),
            (ShapingRule { connections: Some(1), ..rule(tenant) }, "/connections"),
            (ShapingRule { connections: Some(0), ..rule(ShapingMatch::default()) }, "/connections"),
            (ShapingRule { mails_per_connection: Some(0), ..rule(ShapingMatch::default()) }, "/mails_per_connection"),
            (rule(ShapingMatch { campaign: Some("x".to_owned()), ..ShapingMatch::default() }), "/match/campaign"),
            (
                rule(ShapingMatch { source: Some(SourceId(1)), pool: Some(PoolId(1)), ..ShapingMatch::default() }),
                "/match/pool",
            ),
            (
                rule(ShapingMatch {
                    provider: Some(ProviderId(1)),
                    site: Some("a".to_owned()),
                    ..ShapingMatch::default()
                }),
                "/match/site",
            ),
        ];
        for (rule, field) in cases {
            assert_eq!(faults(&rule), Some(field), "{rule:?}");
        }
    }
}
