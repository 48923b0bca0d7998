//! Selectors and policies as flatbuffers.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::WireError;
use crate::generated::snapshot as wire;
use crate::ids::{PoolId, SendingDomainId, TenantId};
use crate::policy::{RetryDelays, RetryPolicy, RoutingRule};
use crate::selector::Selector;
use crate::snapshot::TrafficClass;

pub(super) fn put_selector<'b>(to: &mut FlatBufferBuilder<'b>, selector: &Selector) -> WIPOffset<wire::Selector<'b>> {
    let args = wire::SelectorArgs {
        recipient_domain: selector.recipient_domain.as_ref().map(|name| to.create_string(name)),
        site: selector.site.as_ref().map(|name| to.create_string(name)),
        sending_domain: selector.sending_domain.map(|id| id.0),
        tenant: selector.tenant.map(|id| id.0),
        class: selector.class.map(class_to_wire),
    };
    wire::Selector::create(to, &args)
}

pub(super) fn read_selector(selector: wire::Selector<'_>) -> Result<Selector, WireError> {
    Ok(Selector {
        recipient_domain: selector.recipient_domain().map(str::to_owned),
        site: selector.site().map(str::to_owned),
        sending_domain: selector.sending_domain().map(SendingDomainId),
        tenant: selector.tenant().map(TenantId),
        class: selector.class().map(class_from_wire).transpose()?,
    })
}

pub(super) const fn class_to_wire(class: TrafficClass) -> u8 {
    match class {
        TrafficClass::Transactional => 0,
        TrafficClass::PersonToPerson => 1,
        TrafficClass::Marketing => 2,
    }
}

pub(super) fn class_from_wire(value: u8) -> Result<TrafficClass, WireError> {
    let known = TrafficClass::ALL.into_iter().find(|class| class_to_wire(*class) == value);
    known.ok_or(WireError::UnknownValue { field: "traffic class", value })
}

pub(super) fn put_routing_rule<'b>(
    to: &mut FlatBufferBuilder<'b>,
    rule: &RoutingRule,
) -> WIPOffset<wire::RoutingRule<'b>> {
    let args = wire::RoutingRuleArgs {
        name: Some(to.create_string(&rule.name)),
        selector: Some(put_selector(to, &rule.selector)),
        pool: rule.pool.0,
    };
    wire::RoutingRule::create(to, &args)
}

pub(super) fn read_routing_rule(rule: wire::RoutingRule<'_>) -> Result<RoutingRule, WireError> {
    let selector = read_selector(rule.selector())?;
    Ok(RoutingRule { name: rule.name().to_owned(), selector, pool: PoolId(rule.pool()) })
}

pub(super) fn put_retry_policy<'b>(
    to: &mut FlatBufferBuilder<'b>,
    policy: &RetryPolicy,
) -> WIPOffset<wire::RetryPolicy<'b>> {
    let args = wire::RetryPolicyArgs {
        name: Some(to.create_string(&policy.name)),
        selector: Some(put_selector(to, &policy.selector)),
        first_delay_s: policy.delays.map(|delays| delays.first_s),
        factor_percent: policy.delays.map(|delays| delays.factor_percent),
        longest_delay_s: policy.delays.map(|delays| delays.longest_s),
        expiry_s: policy.expiry_s,
    };
    wire::RetryPolicy::create(to, &args)
}

pub(super) fn read_retry_policy(policy: wire::RetryPolicy<'_>) -> Result<RetryPolicy, WireError> {
    let delays = match (policy.first_delay_s(), policy.factor_percent(), policy.longest_delay_s()) {
        (Some(first_s), Some(factor_percent), Some(longest_s)) => {
            Some(RetryDelays { first_s, factor_percent, longest_s })
        }
        _ => None,
    };
    Ok(RetryPolicy {
        name: policy.name().to_owned(),
        selector: read_selector(policy.selector())?,
        delays,
        expiry_s: policy.expiry_s(),
    })
}
