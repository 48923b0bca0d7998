//! Providers and shaping rules.

use std::collections::HashMap;

use postrail_schema::ids::{PoolId, ProviderId, ShapingRuleId, SourceId, TenantId};
use postrail_schema::limits::{
    LABEL_CHARS_MAX, PROVIDER_HOSTS_MAX, PROVIDERS_MAX, SHAPING_RULES_MAX, SITE_NAME_BYTES_MAX,
};
use postrail_schema::shaping::{Provider, ShapingMatch, ShapingRule};

use super::{App, AppError, Draft, Precondition, names};
use crate::plan::{Desired, ProviderEntry, ShapingMatchEntry, ShapingRuleEntry};

impl App {
    /// Makes a provider, or with `replace` changes the one of that name, if that holds.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), a value is malformed, or there are too many.
    pub(crate) fn put_provider(
        &self,
        new: &ProviderEntry,
        replace: Option<&Precondition>,
    ) -> Result<Provider, AppError> {
        let name = names::slug("/name", &new.name)?;
        let hosts = checked_hosts(&new.hosts)?;
        self.change(|draft| {
            let id = match (draft.desired.provider(&name), replace) {
                (Some(provider), Some(when)) => {
                    when.check(&ProviderEntry::of(provider))?;
                    provider.id
                }
                (None, None) => draft.counters().next_provider(),
                (Some(_), None) => return Err(AppError::conflict(format!("provider {name} exists"))),
                (None, Some(_)) => return Err(AppError::not_found("provider", &*name)),
            };
            let provider = Provider { id, name: name.clone(), hosts: hosts.clone() };
            draft.put(provider.clone())?;
            check_room(draft)?;
            Ok(provider)
        })
    }

    /// # Errors
    /// It does not exist, or a shaping rule names it.
    pub(crate) fn delete_provider(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            let provider = draft.desired.provider(name).ok_or_else(|| AppError::not_found("provider", name))?;
            when.check(&ProviderEntry::of(provider))?;
            let id = provider.id;
            draft.delete::<Provider>(&id);
            Ok(())
        })
    }

    /// Makes a shaping rule, or with `replace` changes the one of that name, if that holds.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), a value is malformed, what it names does not exist, or there
    /// are too many.
    pub(crate) fn put_shaping_rule(
        &self,
        new: &ShapingRuleEntry,
        replace: Option<&Precondition>,
    ) -> Result<ShapingRule, AppError> {
        let name = names::slug("/name", &new.name)?;
        self.change(|draft| {
            let matches = MatchNames::of(&draft.desired).checked(&new.matches)?;
            let id = match (draft.desired.shaping_rule(&name), replace) {
                (Some(rule), Some(when)) => {
                    when.check(&ShapingRuleEntry::of(&draft.desired, rule))?;
                    rule.id
                }
                (None, None) => draft.counters().next_shaping_rule(),
                (Some(_), None) => return Err(AppError::conflict(format!("shaping rule {name} exists"))),
                (None, Some(_)) => return Err(AppError::not_found("shaping rule", &*name)),
            };
            let rule = checked_rule(rule_of(id, &name, matches, new))?;
            draft.put(rule.clone())?;
            check_room(draft)?;
            Ok(rule)
        })
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_shaping_rule(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            let rule = draft.desired.shaping_rule(name).ok_or_else(|| AppError::not_found("shaping rule", name))?;
            when.check(&ShapingRuleEntry::of(&draft.desired, rule))?;
            let id = rule.id;
            draft.delete::<ShapingRule>(&id);
            Ok(())
        })
    }
}

/// What an entry says, with what it names found already.
pub(super) fn rule_of(id: ShapingRuleId, name: &str, matches: ShapingMatch, entry: &ShapingRuleEntry) -> ShapingRule {
    ShapingRule {
        id,
        name: name.to_owned(),
        matches,
        connections: entry.connections,
        mails_per_connection: entry.mails_per_connection,
        mail_rate: entry.mail_rate,
        connection_rate: entry.connection_rate,
    }
}

pub(super) fn checked_rule(rule: ShapingRule) -> Result<ShapingRule, AppError> {
    match rule.fault() {
        Some((pointer, detail)) => Err(AppError::invalid(pointer, detail)),
        None => Ok(rule),
    }
}

/// What rules may name.
pub(super) struct MatchNames<'a> {
    sources: HashMap<&'a str, SourceId>,
    pools: HashMap<&'a str, PoolId>,
    providers: HashMap<&'a str, ProviderId>,
    tenants: HashMap<&'a str, TenantId>,
}

impl<'a> MatchNames<'a> {
    pub(super) fn of(desired: &'a Desired) -> Self {
        Self {
            sources: desired.sources.values().map(|source| (source.name.as_str(), source.id)).collect(),
            pools: desired.pools.values().map(|pool| (pool.name.as_str(), pool.id)).collect(),
            providers: desired.providers.values().map(|provider| (provider.name.as_str(), provider.id)).collect(),
            tenants: desired.tenants.values().map(|tenant| (tenant.name.as_str(), tenant.id)).collect(),
        }
    }

    /// The match of an entry, by ids.
    ///
    /// # Errors
    /// Something that it names does not exist, or a value is malformed.
    pub(super) fn checked(&self, entry: &ShapingMatchEntry) -> Result<ShapingMatch, AppError> {
        let domain = entry.recipient_domain.as_deref();
        Ok(ShapingMatch {
            source: found("/match/source", "source", entry.source.as_deref(), &self.sources)?,
            pool: found("/match/pool", "pool", entry.pool.as_deref(), &self.pools)?,
            provider: found("/match/provider", "provider", entry.provider.as_deref(), &self.providers)?,
            site: entry.site.as_deref().map(site).transpose()?,
            recipient_domain: domain.map(|name| names::domain("/match/recipient_domain", name, true)).transpose()?,
            tenant: found("/match/tenant", "tenant", entry.tenant.as_deref(), &self.tenants)?,
            campaign: entry.campaign.as_deref().map(campaign).transpose()?,
            class: entry.class,
        })
    }
}

fn found<T: Copy>(
    pointer: &'static str,
    kind: &str,
    name: Option<&str>,
    all: &HashMap<&str, T>,
) -> Result<Option<T>, AppError> {
    let Some(name) = name else { return Ok(None) };
    let found = all.get(name).copied();
    found.map(Some).ok_or_else(|| AppError::invalid(pointer, format!("{kind} {name} does not exist")))
}

fn campaign(text: &str) -> Result<String, AppError> {
    if text.is_empty() || text.chars().count() > LABEL_CHARS_MAX || text.chars().any(char::is_control) {
        let detail = format!("a campaign has 1 to {LABEL_CHARS_MAX} characters and no control characters");
        return Err(AppError::invalid("/match/campaign", detail));
    }
    Ok(text.to_owned())
}

/// An MX host, a suffix of them, or the name of a site as the queue shows it: hosts joined by commas, or the first host with
/// a number and a hash.
fn site(text: &str) -> Result<String, AppError> {
    let invalid = || {
        let detail = "a site is named by an MX host, by a suffix such as .example.net, or as postrail queue shows it";
        AppError::invalid("/match/site", detail)
    };
    let text = text.to_ascii_lowercase();
    let signs = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_,+[]:".contains(&byte);
    if text.is_empty() || text.len() > SITE_NAME_BYTES_MAX + 40 || !text.bytes().all(signs) {
        return Err(invalid());
    }
    if text.contains([',', '+', '[']) {
        return Ok(text);
    }
    pattern("/match/site", &text).map_err(|_| invalid())
}

/// Patterns of MX hosts, in one form, each once.
pub(super) fn checked_hosts(hosts: &[String]) -> Result<Vec<String>, AppError> {
    if hosts.is_empty() || hosts.len() > PROVIDER_HOSTS_MAX {
        return Err(AppError::invalid("/hosts", format!("say 1 to {PROVIDER_HOSTS_MAX} hosts or suffixes")));
    }
    let mut checked = Vec::with_capacity(hosts.len());
    for host in hosts {
        let host = pattern("/hosts", host)?;
        if checked.contains(&host) {
            return Err(AppError::invalid("/hosts", format!("{host} occurs twice")));
        }
        checked.push(host);
    }
    Ok(checked)
}

/// A host name, or a suffix that begins with a dot.
fn pattern(pointer: &'static str, text: &str) -> Result<String, AppError> {
    match text.strip_prefix('.') {
        Some(suffix) => Ok(format!(".{}", names::domain(pointer, suffix, true)?)),
        None => names::domain(pointer, text, true),
    }
}

fn check_room(draft: &Draft) -> Result<(), AppError> {
    if draft.desired.providers.len() > PROVIDERS_MAX {
        return Err(AppError::conflict(format!("there are {PROVIDERS_MAX} providers already")));
    }
    if draft.desired.shaping_rules.len() > SHAPING_RULES_MAX {
        return Err(AppError::conflict(format!("there are {SHAPING_RULES_MAX} shaping rules already")));
    }
    Ok(())
}
