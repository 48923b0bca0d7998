//! Selectors, retry policies, routing rules and TLS rules: from what people write to what is stored.

use postrail_schema::ids::{PoolId, SendingDomainId, TenantId};
use postrail_schema::limits::{EXPIRY_S_MAX, EXPIRY_S_MIN, RETRY_DELAY_S_MAX, RETRY_FACTOR_PERCENT_MAX};
use postrail_schema::policy::{RetryDelays, RetryPolicy, RoutingRule};
use postrail_schema::selector::Selector;
use postrail_schema::tls::{TlsLevel, TlsRule};

use super::named::Named;
use super::shaping::checked_hosts;
use super::{App, AppError, Precondition, names};
use crate::plan::{Desired, RetryPolicyEntry, RoutingRuleEntry, SelectorEntry, TlsRuleEntry};

/// Who has a name.
pub(super) trait Lookup {
    fn tenant(&self, name: &str) -> Option<TenantId>;
    /// Of that tenant, or with `None` whose it is.
    fn domain(&self, tenant: Option<TenantId>, name: &str) -> Option<(SendingDomainId, TenantId)>;
    fn pool(&self, name: &str) -> Option<PoolId>;
}

impl Lookup for Desired {
    fn tenant(&self, name: &str) -> Option<TenantId> {
        self.tenant(name).map(|tenant| tenant.id)
    }

    fn domain(&self, tenant: Option<TenantId>, name: &str) -> Option<(SendingDomainId, TenantId)> {
        self.domain(tenant, name).map(|domain| (domain.id, domain.tenant))
    }

    fn pool(&self, name: &str) -> Option<PoolId> {
        self.pool(name).map(|pool| pool.id)
    }
}

const RETRY_POLICY: Named<RetryPolicy, RetryPolicyEntry> = Named { what: "retry policy", entry: RetryPolicyEntry::of };
const ROUTING_RULE: Named<RoutingRule, RoutingRuleEntry> = Named { what: "routing rule", entry: RoutingRuleEntry::of };
const TLS_RULE: Named<TlsRule, TlsRuleEntry> = Named { what: "TLS rule", entry: TlsRuleEntry::of };

impl App {
    /// Makes a retry policy, or with `replace` changes the one of that name, if that holds.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), or a value is malformed.
    pub(crate) fn put_retry_policy(
        &self,
        new: &RetryPolicyEntry,
        replace: Option<&Precondition>,
    ) -> Result<RetryPolicy, AppError> {
        RETRY_POLICY.put(self, &new.name, replace, |known| retry_policy(new, known))
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_retry_policy(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        RETRY_POLICY.delete(self, name, when)
    }

    /// Makes a routing rule, or with `replace` changes the one of that name, if that holds.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), or a value is malformed.
    pub(crate) fn put_routing_rule(
        &self,
        new: &RoutingRuleEntry,
        replace: Option<&Precondition>,
    ) -> Result<RoutingRule, AppError> {
        ROUTING_RULE.put(self, &new.name, replace, |known| routing_rule(new, known))
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_routing_rule(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        ROUTING_RULE.delete(self, name, when)
    }

    /// Makes a TLS rule, or with `replace` changes the one of that name, if that holds.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), or a value is malformed.
    pub(crate) fn put_tls_rule(&self, new: &TlsRuleEntry, replace: Option<&Precondition>) -> Result<TlsRule, AppError> {
        TLS_RULE.put(self, &new.name, replace, |known| tls_rule(new, known))
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_tls_rule(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        TLS_RULE.delete(self, name, when)
    }
}

/// # Errors
/// A value that cannot be, by its pointer in the entry.
pub(super) fn retry_policy(entry: &RetryPolicyEntry, known: &dyn Lookup) -> Result<RetryPolicy, AppError> {
    let name = names::slug("/name", &entry.name)?;
    let selector = selector(&entry.mail, known)?;
    let delays = entry.delays();
    if let Some(delays) = delays {
        check_delays(delays)?;
    }
    let expiry_s = entry.expiry_s;
    if let Some(seconds) = expiry_s {
        if !(EXPIRY_S_MIN..=EXPIRY_S_MAX).contains(&seconds) {
            let detail = format!("mail is tried for {EXPIRY_S_MIN} to {EXPIRY_S_MAX} seconds (30 days)");
            return Err(AppError::invalid("/expiry_s", detail));
        }
        if selector.is_by_receiver() {
            let detail = "expiry is fixed for a mail as a whole when it is accepted, so it cannot depend on a receiver: \
                          say it in a policy without recipient_domain and site";
            return Err(AppError::invalid("/expiry_s", detail));
        }
    }
    if delays.is_none() && expiry_s.is_none() {
        let detail = "say first_delay_s, factor_percent, longest_delay_s or expiry_s: a policy says something";
        return Err(AppError::invalid("", detail));
    }
    Ok(RetryPolicy { name, selector, delays, expiry_s })
}

/// # Errors
/// A value that cannot be, by its pointer in the entry.
pub(super) fn routing_rule(entry: &RoutingRuleEntry, known: &dyn Lookup) -> Result<RoutingRule, AppError> {
    let name = names::slug("/name", &entry.name)?;
    let selector = selector(&entry.mail, known)?;
    let missing = || AppError::invalid("/pool", format!("pool {} does not exist", entry.pool));
    Ok(RoutingRule { name, selector, pool: known.pool(&entry.pool).ok_or_else(missing)? })
}

/// # Errors
/// A value that cannot be, by its pointer in the entry.
pub(super) fn tls_rule(entry: &TlsRuleEntry, known: &dyn Lookup) -> Result<TlsRule, AppError> {
    let name = names::slug("/name", &entry.name)?;
    let selector = selector(&entry.mail, known)?;
    let TlsRuleEntry { level, minimum_version, .. } = *entry;
    if level != TlsLevel::Verified && !entry.hosts.is_empty() {
        let detail = "who answers is known by a certificate alone: hosts need the level verified";
        return Err(AppError::invalid("/hosts", detail));
    }
    if level == TlsLevel::Opportunistic && !minimum_version.is_default() {
        let detail = "opportunistic TLS gives way to plaintext, so a version demands nothing: say the level required or verified";
        return Err(AppError::invalid("/minimum_version", detail));
    }
    let hosts = if entry.hosts.is_empty() { Vec::new() } else { checked_hosts(&entry.hosts)? };
    Ok(TlsRule { name, selector, level, minimum_version, hosts })
}

fn check_delays(delays: RetryDelays) -> Result<(), AppError> {
    if !(1..=RETRY_DELAY_S_MAX).contains(&delays.first_s) {
        return Err(AppError::invalid(
            "/first_delay_s",
            format!("a delay is 1 to {RETRY_DELAY_S_MAX} seconds (7 days)"),
        ));
    }
    if !(100..=RETRY_FACTOR_PERCENT_MAX).contains(&delays.factor_percent) {
        let detail = format!("a factor is 100 (the delay stays) to {RETRY_FACTOR_PERCENT_MAX} percent");
        return Err(AppError::invalid("/factor_percent", detail));
    }
    if !(delays.first_s..=RETRY_DELAY_S_MAX).contains(&delays.longest_s) {
        let detail = format!("the longest delay is the first, {} s, to {RETRY_DELAY_S_MAX} s (7 days)", delays.first_s);
        return Err(AppError::invalid("/longest_delay_s", detail));
    }
    Ok(())
}

/// # Errors
/// What it names does not exist, or cannot be.
pub(super) fn selector(entry: &SelectorEntry, known: &dyn Lookup) -> Result<Selector, AppError> {
    let missing = |pointer, kind: &str, name: &str| AppError::invalid(pointer, format!("{kind} {name} does not exist"));
    let tenant = match &entry.tenant {
        Some(name) => Some(known.tenant(name).ok_or_else(|| missing("/match/tenant", "tenant", name))?),
        None => None,
    };
    let domain = match &entry.sending_domain {
        Some(text) => {
            let name = names::domain("/match/sending_domain", text, false)?;
            let found = known.domain(tenant, &name);
            Some(found.ok_or_else(|| missing("/match/sending_domain", "sending domain", &name))?)
        }
        None => None,
    };
    let recipient_domain = entry.recipient_domain.as_deref();
    Ok(Selector {
        recipient_domain: recipient_domain
            .map(|name| names::domain("/match/recipient_domain", name, true))
            .transpose()?,
        site: entry.site.as_deref().map(|site| names::site("/match/site", site)).transpose()?,
        sending_domain: domain.map(|(id, _)| id),
        // Whose a domain is goes without saying; said always, equal selectors are equal.
        tenant: domain.map(|(_, tenant)| tenant).or(tenant),
        class: entry.class,
    })
}
