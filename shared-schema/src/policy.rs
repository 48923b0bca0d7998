//! What operators decide about some mail: which pool carries it, how it is tried again, and when it is given up.
//!
//! A pool is chosen before every attempt. Routing rules, the pools of sending domains and the default pool are one row: a
//! domain's pool counts as a rule about that domain, the default pool as one about all mail that comes after all others.
//! The first pool of the row carries the mail that may: it is shared or the tenant's, and carries the class.
//!
//! Two questions are asked at different times. *When is it given up?* is asked once, at acceptance, of a mail as a whole:
//! its expiry is in its frame, and a later change leaves it as it is. *How long until the next attempt?* is asked after
//! every attempt, of one recipient domain. Each is answered by the most specific policy that answers it (see
//! [`crate::selector`]), so a policy may say the one and leave the other to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::PoolId;
use crate::limits::{EXPIRY_DEFAULT, EXPIRY_TRANSACTIONAL, RETRY_DELAY_FIRST, RETRY_DELAY_MAX, RETRY_FACTOR_PERCENT};
use crate::selector::{MailFacts, RuleTable, Selector};
use crate::snapshot::{EgressPool, SendingDomain, Snapshot, SnapshotContent, SnapshotError, TrafficClass};

/// How what could not be delivered is tried again, and when it is given up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Unique slug.
    pub name: String,
    pub selector: Selector,
    /// `None`: a less specific policy says it.
    pub delays: Option<RetryDelays>,
    /// Seconds from acceptance; `None`: a less specific policy says it. Absent where the selector is by receiver.
    pub expiry_s: Option<u32>,
}

/// A geometric row of delays with an upper bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetryDelays {
    /// Seconds after the first attempt.
    pub first_s: u32,
    /// Each delay by the one before it.
    pub factor_percent: u32,
    pub longest_s: u32,
}

impl Default for RetryDelays {
    fn default() -> Self {
        Self {
            first_s: RETRY_DELAY_FIRST.as_secs() as u32,
            factor_percent: RETRY_FACTOR_PERCENT,
            longest_s: RETRY_DELAY_MAX.as_secs() as u32,
        }
    }
}

impl RetryDelays {
    /// The delay after attempt `number` (from 1), without jitter.
    pub fn after(&self, number: u16) -> Duration {
        let longest_ms = u64::from(self.longest_s) * 1_000;
        let mut ms = (u64::from(self.first_s) * 1_000).min(longest_ms);
        for _ in 1..number {
            let next = (ms * u64::from(self.factor_percent) / 100).min(longest_ms);
            if next == ms {
                break;
            }
            ms = next;
        }
        Duration::from_millis(ms)
    }
}

/// When mail of a class expires of which no policy says it.
pub const fn expiry_default(class: TrafficClass) -> Duration {
    match class {
        TrafficClass::Transactional => EXPIRY_TRANSACTIONAL,
        TrafficClass::PersonToPerson | TrafficClass::Marketing => EXPIRY_DEFAULT,
    }
}

/// Retry policies by the question that they answer.
#[derive(Clone, Debug, Default)]
pub struct RetryRules {
    delays: RuleTable<Arc<RetryPolicy>>,
    expiry: RuleTable<Arc<RetryPolicy>>,
}

impl RetryRules {
    pub fn new<'p>(policies: impl IntoIterator<Item = &'p RetryPolicy>) -> Self {
        let policies: Vec<_> = policies.into_iter().cloned().map(Arc::new).collect();
        let those = |answers: fn(&RetryPolicy) -> bool| {
            RuleTable::new(policies.iter().filter(|p| answers(p)).map(|p| (&p.selector, Arc::clone(p))))
        };
        Self { delays: those(|policy| policy.delays.is_some()), expiry: those(|policy| policy.expiry_s.is_some()) }
    }

    /// The policy that says how long mail waits between attempts; `None`: the defaults hold.
    pub fn delays_policy(&self, mail: MailFacts<'_>) -> Option<&RetryPolicy> {
        self.delays.first(mail).map(|policy| &**policy)
    }

    pub fn delays(&self, mail: MailFacts<'_>) -> RetryDelays {
        self.delays_policy(mail).and_then(|policy| policy.delays).unwrap_or_default()
    }

    /// The policy that says when mail is given up; `None`: the default of its class holds.
    pub fn expiry_policy(&self, mail: MailFacts<'_>) -> Option<&RetryPolicy> {
        self.expiry.first(mail).map(|policy| &**policy)
    }

    /// From acceptance.
    pub fn expiry(&self, mail: MailFacts<'_>) -> Duration {
        let told = self.expiry_policy(mail).and_then(|policy| policy.expiry_s);
        told.map_or_else(|| expiry_default(mail.class), |seconds| Duration::from_secs(u64::from(seconds)))
    }
}

/// The pool that carries some mail.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoutingRule {
    /// Unique slug.
    pub name: String,
    pub selector: Selector,
    pub pool: PoolId,
}

impl Snapshot {
    /// Puts policies in the place of others.
    pub(crate) fn replace_policies(
        &mut self,
        gone: &SnapshotContent,
        retry: Vec<RetryPolicy>,
        routing: Vec<RoutingRule>,
    ) -> Result<(), SnapshotError> {
        if !(gone.retry_policies.is_empty() && retry.is_empty()) {
            Arc::make_mut(&mut self.policies).replace_retry(&gone.retry_policies, retry)?;
        }
        if !(gone.routing_rules.is_empty() && routing.is_empty()) {
            Arc::make_mut(&mut self.policies).replace_routing(&gone.routing_rules, routing)?;
        }
        Ok(())
    }

    /// The pools that are asked for a mail, the one that counts first: it is carried by the first that
    /// [carries](EgressPool::carries) it. `None` in place of a pool: it does not exist here. There is none for mail of a
    /// sending domain that is gone.
    pub fn pools_of<'a>(
        &'a self,
        mail: MailFacts<'_>,
    ) -> impl Iterator<Item = (PoolReason<'a>, Option<&'a EgressPool>)> {
        let own = self.domains.get(&mail.sending_domain).filter(|domain| domain.tenant == mail.tenant);
        let chosen = own.map(|domain| self.policies.pools(mail, domain.pool)).into_iter().flatten();
        let default = own.and(self.default_pool).map(|pool| (PoolReason::Default, pool));
        chosen.chain(default).map(|(reason, pool)| (reason, self.pools.get(&pool)))
    }

    /// How long mail from `domain` is tried that is accepted now.
    pub fn expiry(&self, domain: &SendingDomain, class: TrafficClass) -> Duration {
        let SendingDomain { id, tenant, .. } = *domain;
        let mail = MailFacts { recipient_domain: None, site: None, sending_domain: id, tenant, class };
        self.policies.retry_rules.expiry(mail)
    }
}

/// Why a pool is asked for a mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolReason<'a> {
    Rule(&'a RoutingRule),
    /// It is that of the sending domain.
    Domain,
    Default,
}

/// Policies by name, and ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    pub retry: BTreeMap<String, RetryPolicy>,
    pub retry_rules: RetryRules,
    pub routing: BTreeMap<String, RoutingRule>,
    routing_rules: RuleTable<RoutingRule>,
}

impl Policies {
    pub(crate) fn replace_retry(&mut self, gone: &[RetryPolicy], come: Vec<RetryPolicy>) -> Result<(), SnapshotError> {
        gone.iter().for_each(|policy| drop(self.retry.remove(&policy.name)));
        for policy in come {
            let subject = format!("retry_policy/{}", policy.name);
            if self.retry.insert(policy.name.clone(), policy).is_some() {
                return Err(SnapshotError::Duplicate { subject });
            }
        }
        self.retry_rules = RetryRules::new(self.retry.values());
        Ok(())
    }

    pub(crate) fn replace_routing(
        &mut self,
        gone: &[RoutingRule],
        come: Vec<RoutingRule>,
    ) -> Result<(), SnapshotError> {
        gone.iter().for_each(|rule| drop(self.routing.remove(&rule.name)));
        for rule in come {
            let subject = format!("routing_rule/{}", rule.name);
            if self.routing.insert(rule.name.clone(), rule).is_some() {
                return Err(SnapshotError::Duplicate { subject });
            }
        }
        self.routing_rules = RuleTable::new(self.routing.values().map(|rule| (&rule.selector, rule.clone())));
        Ok(())
    }

    /// The pools that rules and the sending domain say, the one that counts first.
    pub(crate) fn pools(
        &self,
        mail: MailFacts<'_>,
        domain_pool: Option<PoolId>,
    ) -> impl Iterator<Item = (PoolReason<'_>, PoolId)> {
        let of_domain = Selector::of_domain(mail.tenant, mail.sending_domain).rank();
        let rules = self.routing_rules.matching(mail).map(|rule| (PoolReason::Rule(rule), rule.pool));
        let (before, after) = (rules.clone(), rules);
        let is_before = move |reason: &PoolReason<'_>| match reason {
            PoolReason::Rule(rule) => rule.selector.rank() >= of_domain,
            PoolReason::Domain | PoolReason::Default => false,
        };
        let before = before.take_while(move |(reason, _)| is_before(reason));
        let after = after.skip_while(move |(reason, _)| is_before(reason));
        before.chain(domain_pool.map(|pool| (PoolReason::Domain, pool))).chain(after)
    }

    /// Whether a pool depends on the site that mail goes to.
    pub fn routes_by_site(&self) -> bool {
        self.routing_rules.is_by_site()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SendingDomainId, TenantId};

    const MAIL: MailFacts<'static> = MailFacts {
        recipient_domain: None,
        site: None,
        sending_domain: SendingDomainId(1),
        tenant: TenantId(1),
        class: TrafficClass::Transactional,
    };

    #[test]
    fn each_question_is_answered_by_the_most_specific_policy_that_answers_it() {
        let delays = RetryDelays { first_s: 10, factor_percent: 200, longest_s: 60 };
        let policy =
            |name: &str, selector, delays, expiry_s| RetryPolicy { name: name.into(), selector, delays, expiry_s };
        let by_class = Selector { class: Some(TrafficClass::Transactional), ..Selector::default() };
        let by_receiver = Selector { recipient_domain: Some("slow.example".into()), ..Selector::default() };
        let all = [
            policy("codes", by_class, Some(delays), Some(600)),
            policy("slow", by_receiver, Some(RetryDelays { first_s: 1_800, ..delays }), None),
        ];
        let rules = RetryRules::new(&all);
        assert_eq!((rules.delays(MAIL), rules.expiry(MAIL)), (delays, Duration::from_secs(600)));
        let slow = MailFacts { recipient_domain: Some("slow.example"), ..MAIL };
        assert_eq!((rules.delays(slow).first_s, rules.expiry(slow)), (1_800, Duration::from_secs(600)));
        let marketing = MailFacts { class: TrafficClass::Marketing, ..MAIL };
        assert_eq!((rules.delays(marketing), rules.expiry(marketing)), (RetryDelays::default(), EXPIRY_DEFAULT));
    }

    #[test]
    fn delays_grow_by_the_factor_to_the_longest() {
        let seconds = |delays: RetryDelays, number| delays.after(number).as_secs();
        let row: Vec<_> = [1, 2, 3, 20, u16::MAX].map(|number| seconds(RetryDelays::default(), number)).to_vec();
        assert_eq!(row, [300, 450, 675, 14_400, 14_400]);
        let even = RetryDelays { first_s: 60, factor_percent: 100, longest_s: 3_600 };
        assert_eq!([seconds(even, 1), seconds(even, u16::MAX)], [60, 60], "and one that does not grow ends at once");
    }
}
