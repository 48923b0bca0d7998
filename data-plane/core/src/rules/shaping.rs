//! Which shaping rules hold for a path, and which for one mail.
//!
//! Of the rules that are about a path, each setting comes from the closest one. How close a rule is has two sides: to the
//! receiver (site before provider before neither) and to the sender (source before pool before neither). A rule is
//! *overruled* where another sets the same and is at least as close on both sides and closer on one. Where several are
//! left, the strictest holds, so the order of rules means nothing.
//!
//! What a provider's rule sets is counted over all paths of a source to the provider, beside what holds for each of these
//! paths: a site's rule does not take a path out of its provider's count. Rules about mail (a recipient domain, tenant,
//! campaign or class) overrule nothing and are not overruled: each is a ceiling of its own.
//!
//! Invariants worth naming: rules about mail are found by tenant or recipient domain, so that a mail does not pay for the
//! rules of others; without rules nothing is looked at. Absent here: counting (`schedule::Gates`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::ids::{ProviderId, ShapingRuleId, SourceId, TenantId};
use postrail_schema::selector::MailFacts;
use postrail_schema::shaping::{Shaping, ShapingMatch, ShapingRule};
use smallvec::SmallVec;

use super::{PathLimits, Rules};
use crate::base::Instant;
use crate::dns::MailHosts;

/// What holds for one path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathShape {
    pub limits: PathLimits,
    /// The rules that the limits come from; `None`: the product's default, or a provider's ceiling.
    pub connections_by: Option<ShapingRuleId>,
    pub mails_per_connection_by: Option<ShapingRuleId>,
    pub ceilings: SmallVec<[Ceiling; 2]>,
    /// Those that the path's site belongs to.
    providers: SmallVec<[ProviderId; 1]>,
}

/// Something that is counted, up to an allowance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ceiling {
    /// `None`: it shares a path's connections among its lanes.
    pub rule: Option<ShapingRuleId>,
    pub counted: Counted,
    pub span: Span,
    pub allowance: Allowance,
}

/// What a ceiling counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Counted {
    /// Mails that are begun.
    Mails,
    /// Connections that are begun.
    ConnectionStarts,
    /// Connections that are open.
    Connections,
}

/// What is counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Span {
    /// One path.
    Path,
    /// All paths of one source that the rule is about.
    Source,
    /// All that the rule is about.
    Rule,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowance {
    /// So many at once.
    Limit(usize),
    /// One in so much time.
    Throttle(Duration),
}

/// Rules by what they are about.
#[derive(Clone, Debug, Default)]
pub(super) struct ShapingIndex {
    shaping: Arc<Shaping>,
    of_paths: Vec<ShapingRuleId>,
    of_tenants: BTreeMap<TenantId, Vec<ShapingRuleId>>,
    /// Those without a tenant that name one.
    of_domains: BTreeMap<String, Vec<ShapingRuleId>>,
    of_classes: Vec<ShapingRuleId>,
}

impl ShapingIndex {
    pub(super) fn new(shaping: &Arc<Shaping>) -> Self {
        let mut index = Self { shaping: Arc::clone(shaping), ..Self::default() };
        for (id, rule) in &shaping.rules {
            let list = match (rule.is_of_mail(), rule.matches.tenant, &rule.matches.recipient_domain) {
                (false, ..) => &mut index.of_paths,
                (true, Some(tenant), _) => index.of_tenants.entry(tenant).or_default(),
                (true, None, Some(domain)) => index.of_domains.entry(domain.clone()).or_default(),
                (true, None, None) => &mut index.of_classes,
            };
            list.push(*id);
        }
        index
    }

    /// Whether it is that of `shaping`.
    pub(super) fn is_of(&self, shaping: &Arc<Shaping>) -> bool {
        Arc::ptr_eq(&self.shaping, shaping)
    }

    fn has_mail_rules(&self) -> bool {
        !(self.of_tenants.is_empty() && self.of_domains.is_empty() && self.of_classes.is_empty())
    }
}

/// How close a rule is to a path: to its receiver, to its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Closeness {
    receiver: u8,
    sender: u8,
}

impl Closeness {
    fn of(matches: &ShapingMatch) -> Self {
        let rank = |close: bool, closer: bool| if closer { 2 } else { u8::from(close) };
        Self {
            receiver: rank(matches.provider.is_some(), matches.site.is_some()),
            sender: rank(matches.pool.is_some(), matches.source.is_some()),
        }
    }

    fn overrules(self, other: Self) -> bool {
        self != other && self.receiver >= other.receiver && self.sender >= other.sender
    }
}

/// The rules about one path.
struct Matching<'a>(SmallVec<[(Closeness, &'a ShapingRule); 8]>);

/// What a rule sets, as a number that is greater the stricter it is; `None`: nothing.
type Setting = fn(&ShapingRule) -> Option<u64>;

const CONNECTIONS: Setting = |rule| rule.connections.map(|count| u64::MAX - u64::from(count));
const MAILS_PER_CONNECTION: Setting = |rule| rule.mails_per_connection.map(|count| u64::MAX - u64::from(count));
const MAIL_RATE: Setting = |rule| rule.mail_rate.map(|rate| rate.interval().as_nanos() as u64);
const CONNECTION_RATE: Setting = |rule| rule.connection_rate.map(|rate| rate.interval().as_nanos() as u64);

impl<'a> Matching<'a> {
    /// The strictest rule of those with that setting which are `wanted` and not overruled by one among `rivals`.
    fn closest(
        &self,
        setting: Setting,
        wanted: impl Fn(&ShapingRule) -> bool,
        rivals: impl Fn(&ShapingRule) -> bool,
    ) -> Option<&'a ShapingRule> {
        let setting_it = || self.0.iter().filter(|(_, rule)| setting(rule).is_some());
        let overruled = |close: &Closeness| setting_it().any(|(other, rule)| rivals(rule) && other.overrules(*close));
        let left = setting_it().filter(|(close, rule)| wanted(rule) && !overruled(close));
        left.map(|(_, rule)| *rule).max_by_key(|rule| (setting(rule), std::cmp::Reverse(rule.id)))
    }

    /// The rule for each path by itself.
    fn of_path(&self, setting: Setting) -> Option<&'a ShapingRule> {
        self.closest(setting, |rule| rule.matches.provider.is_none(), |_| true)
    }

    /// The rule for all paths to a provider together.
    fn of_provider(&self, setting: Setting, provider: ProviderId) -> Option<&'a ShapingRule> {
        let is_its = |rule: &ShapingRule| rule.matches.provider == Some(provider);
        self.closest(setting, is_its, is_its)
    }

    /// The rule for what has no count over several paths.
    fn of_any(&self, setting: Setting) -> Option<&'a ShapingRule> {
        self.closest(setting, |_| true, |_| true)
    }
}

impl Rules {
    /// Whether there are no rules: then nothing is counted.
    pub fn is_unshaped(&self) -> bool {
        self.shaping.shaping.rules.is_empty()
    }

    /// Whether what holds for paths and mails is the same as under `former`.
    pub fn shapes_like(&self, former: &Self) -> bool {
        let (now, then) = (&self.snapshot, &former.snapshot);
        let has_lanes = Arc::ptr_eq(&now.tls, &then.tls) || now.tls.is_empty() == then.tls.is_empty();
        has_lanes && self.shaping.is_of(&then.shaping) && now.sources == then.sources && now.pools == then.pools
    }

    /// The rule of that id.
    pub fn shaping_rule(&self, id: ShapingRuleId) -> Option<&ShapingRule> {
        self.shaping.shaping.rules.get(&id)
    }

    /// What holds for a path of `source` to the site of `hosts` on this shard.
    pub fn shape(&self, source: SourceId, hosts: &MailHosts) -> PathShape {
        let mut shape = PathShape::default();
        if !self.is_unshaped() {
            let site_hosts = || hosts.hosts.iter().map(|host| host.name.as_str());
            let providers = self.shaping.shaping.providers.values();
            shape.providers = providers.filter(|one| one.has_site(site_hosts())).map(|one| one.id).collect();
            self.apply_rules(source, hosts, &mut shape);
        }
        shape.limits.connections = self.limit_share(source, shape.limits.connections);
        shape
    }

    fn apply_rules(&self, source: SourceId, hosts: &MailHosts, shape: &mut PathShape) {
        let all = &self.shaping.shaping.rules;
        let found = self.shaping.of_paths.iter().filter_map(|id| all.get(id));
        let found = found.filter(|rule| self.is_about(&rule.matches, source, hosts, &shape.providers));
        let rules = Matching(found.map(|rule| (Closeness::of(&rule.matches), rule)).collect());
        if let Some(rule) = rules.of_any(MAILS_PER_CONNECTION) {
            shape.limits.mails_per_connection = rule.mails_per_connection.unwrap_or_default();
            shape.mails_per_connection_by = Some(rule.id);
        }
        let share = self.shards_of(source);
        let throttle = |rule: &ShapingRule, counted, span, interval: Duration| Ceiling {
            rule: Some(rule.id),
            counted,
            span,
            allowance: Allowance::Throttle(interval * share),
        };
        let mut push = |rule: Option<&ShapingRule>, counted, span, setting: Setting| {
            let Some((rule, nanos)) = rule.and_then(|rule| Some((rule, setting(rule)?))) else { return };
            shape.ceilings.push(throttle(rule, counted, span, Duration::from_nanos(nanos)));
        };
        push(rules.of_path(MAIL_RATE), Counted::Mails, Span::Path, MAIL_RATE);
        push(rules.of_path(CONNECTION_RATE), Counted::ConnectionStarts, Span::Path, CONNECTION_RATE);
        for provider in &shape.providers {
            push(rules.of_provider(MAIL_RATE, *provider), Counted::Mails, Span::Source, MAIL_RATE);
            let starts = rules.of_provider(CONNECTION_RATE, *provider);
            push(starts, Counted::ConnectionStarts, Span::Source, CONNECTION_RATE);
        }
        let mut together = None;
        for provider in &shape.providers {
            let Some(rule) = rules.of_provider(CONNECTIONS, *provider) else { continue };
            let limit = rule.connections.unwrap_or_default() as usize;
            together = Some(together.map_or(limit, |least: usize| least.min(limit)));
            let allowance = Allowance::Limit(self.limit_share(source, limit));
            shape.ceilings.push(Ceiling {
                rule: Some(rule.id),
                counted: Counted::Connections,
                span: Span::Source,
                allowance,
            });
        }
        if let Some(rule) = rules.of_path(CONNECTIONS) {
            shape.limits.connections = rule.connections.unwrap_or_default() as usize;
            shape.connections_by = Some(rule.id);
        } else if let Some(together) = together {
            shape.limits.connections = together;
        }
    }

    /// What holds for one mail on a path of that shape, beside what holds for the path.
    pub fn mail_ceilings(
        &self,
        mail: MailFacts<'_>,
        campaign: &str,
        source: SourceId,
        hosts: &MailHosts,
        shape: &PathShape,
    ) -> SmallVec<[Ceiling; 2]> {
        if !self.shaping.has_mail_rules() {
            return SmallVec::new();
        }
        let index = &self.shaping;
        let of_domain = mail.recipient_domain.and_then(|domain| index.of_domains.get(domain));
        let named = index.of_tenants.get(&mail.tenant).into_iter().chain(of_domain);
        let found = named.flatten().chain(&index.of_classes).filter_map(|id| index.shaping.rules.get(id));
        let about = |rule: &&ShapingRule| {
            let ShapingMatch { recipient_domain, campaign: named, class, .. } = &rule.matches;
            recipient_domain.as_deref().is_none_or(|domain| Some(domain) == mail.recipient_domain)
                && named.as_deref().is_none_or(|named| named == campaign)
                && class.is_none_or(|class| class == mail.class)
                && self.is_about(&rule.matches, source, hosts, &shape.providers)
        };
        let ceiling = |rule: &ShapingRule| {
            let interval = rule.mail_rate?.interval() * self.shards_in(&rule.matches);
            let allowance = Allowance::Throttle(interval);
            Some(Ceiling { rule: Some(rule.id), counted: Counted::Mails, span: Span::Rule, allowance })
        };
        found.filter(about).filter_map(ceiling).collect()
    }

    /// Whether a path of `source` to the site of `hosts` is among what is named.
    fn is_about(&self, matches: &ShapingMatch, source: SourceId, hosts: &MailHosts, providers: &[ProviderId]) -> bool {
        let holds = |pool| {
            let pool = self.snapshot.pools.get(&pool);
            pool.is_some_and(|pool| pool.members.iter().any(|member| member.source == source))
        };
        matches.source.is_none_or(|named| named == source)
            && matches.pool.is_none_or(holds)
            && matches.provider.is_none_or(|named| providers.contains(&named))
            && matches.is_site(hosts.site.as_str(), hosts.hosts.iter().map(|host| host.name.as_str()))
    }

    /// How many of this host's shards send from `source`.
    fn shards_of(&self, source: SourceId) -> u32 {
        if self.owner(source).is_none() { u32::from(self.shards) } else { 1 }
    }

    /// Over how many of this host's shards the mail that a rule is about is spread.
    fn shards_in(&self, matches: &ShapingMatch) -> u32 {
        if let Some(source) = matches.source {
            return self.shards_of(source);
        }
        let Some(pool) = matches.pool.and_then(|pool| self.snapshot.pools.get(&pool)) else {
            return u32::from(self.shards);
        };
        let mut owners: SmallVec<[u16; 8]> = SmallVec::new();
        for member in &pool.members {
            match self.owner(member.source) {
                None => return u32::from(self.shards),
                Some(owner) if !owners.contains(&owner.0) => owners.push(owner.0),
                Some(_) => {}
            }
        }
        owners.len().max(1) as u32
    }

    /// What this shard has of a limit for paths of `source`: all of it, or its part of one that all shards send from.
    fn limit_share(&self, source: SourceId, limit: usize) -> usize {
        let shards = self.shards_of(source) as usize;
        let is_among_first = usize::from(self.shard.0) < limit % shards;
        (limit / shards + usize::from(shards > 1 && is_among_first)).max(1)
    }

    /// How many connections a path of `source` may have at `now` where its shape allows `limit`.
    pub fn connections(&self, source: SourceId, limit: usize, now: Instant) -> usize {
        match self.moving(source) {
            Some((held, address)) => held.connections(address, limit, super::since_boot(now)),
            None => limit,
        }
    }
}

#[cfg(test)]
mod tests;
