//! Providers and shaping rules: their entries in a document, and findings about them.

use std::collections::{BTreeMap, BTreeSet};

use postrail_schema::problem::{Problem, Severity};
use postrail_schema::shaping::{Provider, Rate, ShapingMatch, ShapingRule};
use postrail_schema::snapshot::TrafficClass;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desired;

/// A human name over several sites.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProviderEntry {
    pub name: String,
    /// Its MX hosts: names, or suffixes that begin with a dot, such as `.google.com`.
    pub hosts: Vec<String>,
}

/// A rule that sets throttles and limits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShapingRuleEntry {
    pub name: String,
    /// Which mail it is about; nothing: all.
    #[serde(default, rename = "match")]
    pub matches: ShapingMatchEntry,
    /// Connections at once, 1 to 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// 1 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mails_per_connection: Option<u32>,
    /// Such as `100/s`, `60/min`, `10000/h` or `1/d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub mail_rate: Option<Rate>,
    /// Connections begun, such as `100/min`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub connection_rate: Option<Rate>,
}

/// The mail that a rule is about; what is absent is any.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ShapingMatchEntry {
    /// By name; not beside a pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// An MX host, a suffix of MX hosts that begins with a dot, or the name of a site; not beside a provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient_domain: Option<String>,
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Of the tenant that is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// `transactional`, `person_to_person` or `marketing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub class: Option<TrafficClass>,
}

impl ProviderEntry {
    pub(crate) fn of(provider: &Provider) -> Self {
        Self { name: provider.name.clone(), hosts: provider.hosts.clone() }
    }
}

impl ShapingRuleEntry {
    pub(crate) fn of(desired: &Desired, rule: &ShapingRule) -> Self {
        let ShapingMatch { source, pool, provider, site, recipient_domain, tenant, campaign, class } = &rule.matches;
        Self {
            name: rule.name.clone(),
            matches: ShapingMatchEntry {
                source: source.and_then(|id| desired.sources.get(&id)).map(|found| found.name.clone()),
                pool: pool.and_then(|id| desired.pools.get(&id)).map(|found| found.name.clone()),
                provider: provider.and_then(|id| desired.providers.get(&id)).map(|found| found.name.clone()),
                site: site.clone(),
                recipient_domain: recipient_domain.clone(),
                tenant: tenant.and_then(|id| desired.tenants.get(&id)).map(|found| found.name.clone()),
                campaign: campaign.clone(),
                class: *class,
            },
            connections: rule.connections,
            mails_per_connection: rule.mails_per_connection,
            mail_rate: rule.mail_rate,
            connection_rate: rule.connection_rate,
        }
    }
}

/// Findings about providers and shaping rules.
pub(super) fn shaping_problems(desired: &Desired) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |severity, code, subject: String, detail: String| {
        problems.push(Problem { severity, code, subject, detail });
    };
    let used: BTreeSet<_> = desired.shaping_rules.values().filter_map(|rule| rule.matches.provider).collect();
    for provider in desired.providers.values() {
        let subject = || format!("provider/{}", provider.name);
        if provider.hosts.is_empty() {
            add(Severity::Error, "provider_empty", subject(), "it has no MX host; name some".to_owned());
        }
        if !used.contains(&provider.id) {
            add(Severity::Note, "provider_unused", subject(), "no shaping rule names it".to_owned());
        }
    }
    let mut alike: BTreeMap<&ShapingMatch, Vec<&ShapingRule>> = BTreeMap::new();
    for rule in desired.shaping_rules.values() {
        let subject = || format!("shaping_rule/{}", rule.name);
        let ShapingMatch { source, pool, provider, tenant, .. } = &rule.matches;
        let dangling = [
            ("source", "dangling_source", source.is_some_and(|id| !desired.sources.contains_key(&id))),
            ("pool", "dangling_pool", pool.is_some_and(|id| !desired.pools.contains_key(&id))),
            ("provider", "dangling_provider", provider.is_some_and(|id| !desired.providers.contains_key(&id))),
            ("tenant", "dangling_tenant", tenant.is_some_and(|id| !desired.tenants.contains_key(&id))),
        ];
        for (kind, code, _) in dangling.into_iter().filter(|(.., is_dangling)| *is_dangling) {
            let detail = format!("the {kind} that it names does not exist; change or delete the rule first");
            add(Severity::Error, code, subject(), detail);
        }
        if let Some((_, detail)) = rule.fault() {
            add(Severity::Error, "rule_without_count", subject(), detail);
        }
        alike.entry(&rule.matches).or_default().push(rule);
    }
    for rules in alike.values().filter(|rules| rules.len() > 1) {
        for rule in rules {
            let others = rules.iter().filter(|other| other.id != rule.id);
            if let Some(stricter) = others.into_iter().find(|other| is_never_heard(rule, other)) {
                let detail = format!(
                    "it never counts: {} is about the same mail and is as strict or stricter in all that it sets; delete \
                     one of the two",
                    stricter.name
                );
                add(Severity::Note, "rule_never_counts", format!("shaping_rule/{}", rule.name), detail);
            }
        }
    }
    problems
}

/// Whether `other`, which is about the same, is at least as strict in all that `rule` sets. Of equal rules the earlier counts.
fn is_never_heard(rule: &ShapingRule, other: &ShapingRule) -> bool {
    let is_under = |set: Option<u64>, by: Option<u64>| {
        set.is_none_or(|set| by.is_some_and(|by| by < set || by == set && other.id < rule.id))
    };
    let count = |count: Option<u32>| count.map(u64::from);
    let speed = |rate: Option<Rate>| rate.map(|rate| u64::MAX - rate.interval().as_nanos() as u64);
    is_under(count(rule.connections), count(other.connections))
        && is_under(count(rule.mails_per_connection), count(other.mails_per_connection))
        && is_under(speed(rule.mail_rate), speed(other.mail_rate))
        && is_under(speed(rule.connection_rate), speed(other.connection_rate))
}
