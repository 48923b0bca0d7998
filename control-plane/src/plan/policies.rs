//! Selectors and retry policies: as a document says them, and findings about them.
//!
//! Since the more specific of two selectors always comes first, a policy is without effect in one case alone: another one
//! has the same selector. That is an error, not a matter of order.

use std::collections::BTreeMap;

use postrail_schema::limits::RETRY_FACTOR_PERCENT;
use postrail_schema::policy::{RetryDelays, RetryPolicy};
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::selector::Selector;
use postrail_schema::snapshot::TrafficClass;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desired;
use super::document::DocumentEntry;

/// The mail that something is about: all that is named has to be true of it; what is not named may be anything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SelectorEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient_domain: Option<String>,
    /// The names of a site's MX hosts, joined by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The domain of From, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sending_domain: Option<String>,
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `transactional`, `person_to_person` or `marketing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub class: Option<TrafficClass>,
}

/// How what could not be delivered is tried again, and when it is given up. At least one of the two is said.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryPolicyEntry {
    pub name: String,
    /// All mail by default.
    #[serde(default, rename = "match", skip_serializing_if = "SelectorEntry::is_all")]
    pub mail: SelectorEntry,
    /// Seconds until the second attempt, 1 to 604800; 300 where only the other two are said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_delay_s: Option<u32>,
    /// Each delay by the one before it, 100 to 1000; 150 where only the other two are said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor_percent: Option<u32>,
    /// Seconds, not below the first, 1 to 604800; 14,400 (4 hours) where only the other two are said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_delay_s: Option<u32>,
    /// Seconds from acceptance, at which it is fixed, 10 to 2592000; not where the mail is told by its receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry_s: Option<u32>,
}

impl DocumentEntry for RetryPolicyEntry {
    const KIND: &'static str = "retry_policy";

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl SelectorEntry {
    pub(crate) fn is_all(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn of(desired: &Desired, selector: &Selector) -> Self {
        let domain = selector.sending_domain.and_then(|id| desired.domains.get(&id));
        Self {
            recipient_domain: selector.recipient_domain.clone(),
            site: selector.site.clone(),
            sending_domain: domain.map(|domain| domain.name.clone()),
            tenant: selector.tenant.and_then(|id| desired.tenants.get(&id)).map(|tenant| tenant.name.clone()),
            class: selector.class,
        }
    }

    /// Such as `marketing mail of tenant red to gmail.com`.
    pub(crate) fn words(&self) -> String {
        let mut words = match self.class {
            Some(class) => format!("{} mail", class.name().replace('_', " ")),
            None => "mail".to_owned(),
        };
        let named = [
            (" of tenant ", self.tenant.as_ref()),
            (" from ", self.sending_domain.as_ref()),
            (" to ", self.recipient_domain.as_ref()),
            (" to the site ", self.site.as_ref()),
        ];
        for (link, name) in named {
            if let Some(name) = name {
                words.push_str(link);
                words.push_str(name);
            }
        }
        if self.is_all() { "all mail".to_owned() } else { words }
    }
}

impl RetryPolicyEntry {
    pub(crate) fn of(desired: &Desired, policy: &RetryPolicy) -> Self {
        Self {
            name: policy.name.clone(),
            mail: SelectorEntry::of(desired, &policy.selector),
            first_delay_s: policy.delays.map(|delays| delays.first_s),
            factor_percent: policy.delays.map(|delays| delays.factor_percent),
            longest_delay_s: policy.delays.map(|delays| delays.longest_s),
            expiry_s: policy.expiry_s,
        }
    }

    /// The delays, if any of them is said.
    pub(crate) fn delays(&self) -> Option<RetryDelays> {
        let said = [self.first_delay_s, self.factor_percent, self.longest_delay_s];
        let (first, longest) = (RetryDelays::default().first_s, RetryDelays::default().longest_s);
        said.iter().any(Option::is_some).then(|| RetryDelays {
            first_s: self.first_delay_s.unwrap_or_else(|| first.min(self.longest_delay_s.unwrap_or(longest))),
            factor_percent: self.factor_percent.unwrap_or(RETRY_FACTOR_PERCENT),
            longest_s: self.longest_delay_s.unwrap_or_else(|| longest.max(self.first_delay_s.unwrap_or(first))),
        })
    }
}

/// Findings about policies.
pub(super) fn check(desired: &Desired, to: &mut Vec<Problem>) {
    let subject = |policy: &RetryPolicy| format!("retry_policy/{}", policy.name);
    let selected = desired.retry_policies.values().map(|policy| (&policy.selector, subject(policy)));
    selectors(desired, selected, to);
    for policy in desired.retry_policies.values() {
        if let (Some(delays), Some(expiry_s)) = (policy.delays, policy.expiry_s)
            && delays.first_s >= expiry_s
        {
            let detail = format!(
                "its mail is given up {expiry_s} s after it was accepted, before the second attempt after {} s",
                delays.first_s
            );
            let (severity, code) = (Severity::Warning, "expiry_before_retry");
            to.push(Problem { severity, code, subject: subject(policy), detail });
        }
    }
}

/// What selectors name exists, and no two of one kind are equal.
pub(super) fn selectors<'a>(
    desired: &Desired,
    selected: impl Iterator<Item = (&'a Selector, String)>,
    to: &mut Vec<Problem>,
) {
    let mut error = |code, subject: &str, detail: String| {
        to.push(Problem { severity: Severity::Error, code, subject: subject.to_owned(), detail });
    };
    let mut seen: BTreeMap<&Selector, String> = BTreeMap::new();
    for (selector, subject) in selected {
        if selector.tenant.is_some_and(|tenant| !desired.tenants.contains_key(&tenant)) {
            error("dangling_tenant", &subject, "the tenant whose mail it is about does not exist".to_owned());
        }
        if selector.sending_domain.is_some_and(|domain| !desired.domains.contains_key(&domain)) {
            error("dangling_domain", &subject, "the sending domain whose mail it is about does not exist".to_owned());
        }
        if let Some(first) = seen.get(selector) {
            let words = SelectorEntry::of(desired, selector).words();
            error(
                "same_selector",
                &subject,
                format!("it is about {words}, as {first} is; one of them has to say it all"),
            );
        } else {
            seen.insert(selector, subject);
        }
    }
}
