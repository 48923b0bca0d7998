//! Providers and shaping rules as flatbuffers.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::WireError;
use crate::generated::snapshot as wire;
use crate::ids::{PoolId, ProviderId, ShapingRuleId, SourceId, TenantId};
use crate::shaping::{Provider, Rate, ShapingMatch, ShapingRule};
use crate::snapshot::TrafficClass;

pub(super) fn put_provider<'b>(to: &mut FlatBufferBuilder<'b>, provider: &Provider) -> WIPOffset<wire::Provider<'b>> {
    let hosts: Vec<_> = provider.hosts.iter().map(|host| to.create_string(host)).collect();
    let args = wire::ProviderArgs {
        id: provider.id.0,
        name: Some(to.create_string(&provider.name)),
        hosts: Some(to.create_vector(&hosts)),
    };
    wire::Provider::create(to, &args)
}

pub(super) fn read_provider(provider: wire::Provider<'_>) -> Provider {
    Provider {
        id: ProviderId(provider.id()),
        name: provider.name().to_owned(),
        hosts: provider.hosts().into_iter().flatten().map(str::to_owned).collect(),
    }
}

pub(super) fn put_shaping_rule<'b>(
    to: &mut FlatBufferBuilder<'b>,
    rule: &ShapingRule,
) -> WIPOffset<wire::ShapingRule<'b>> {
    let matches = &rule.matches;
    let args = wire::ShapingRuleArgs {
        id: rule.id.0,
        name: Some(to.create_string(&rule.name)),
        source: matches.source.map(|id| id.0),
        pool: matches.pool.map(|id| id.0),
        provider: matches.provider.map(|id| id.0),
        site: matches.site.as_ref().map(|site| to.create_string(site)),
        recipient_domain: matches.recipient_domain.as_ref().map(|domain| to.create_string(domain)),
        tenant: matches.tenant.map(|id| id.0),
        campaign: matches.campaign.as_ref().map(|campaign| to.create_string(campaign)),
        class: matches.class.map(|class| class as u8),
        connections: rule.connections,
        mails_per_connection: rule.mails_per_connection,
        mail_rate: rule.mail_rate.map(|rate| put_rate(to, rate)),
        connection_rate: rule.connection_rate.map(|rate| put_rate(to, rate)),
    };
    wire::ShapingRule::create(to, &args)
}

pub(super) fn read_shaping_rule(rule: wire::ShapingRule<'_>) -> Result<ShapingRule, WireError> {
    let class = rule.class().map(|value| {
        let class = TrafficClass::ALL.into_iter().find(|class| *class as u8 == value);
        class.ok_or(WireError::UnknownValue { field: "class of a shaping rule", value })
    });
    Ok(ShapingRule {
        id: ShapingRuleId(rule.id()),
        name: rule.name().to_owned(),
        matches: ShapingMatch {
            source: rule.source().map(SourceId),
            pool: rule.pool().map(PoolId),
            provider: rule.provider().map(ProviderId),
            site: rule.site().map(str::to_owned),
            recipient_domain: rule.recipient_domain().map(str::to_owned),
            tenant: rule.tenant().map(TenantId),
            campaign: rule.campaign().map(str::to_owned),
            class: class.transpose()?,
        },
        connections: rule.connections(),
        mails_per_connection: rule.mails_per_connection(),
        mail_rate: rule.mail_rate().map(|rate| read_rate(rule, rate)).transpose()?,
        connection_rate: rule.connection_rate().map(|rate| read_rate(rule, rate)).transpose()?,
    })
}

fn put_rate<'b>(to: &mut FlatBufferBuilder<'b>, rate: Rate) -> WIPOffset<wire::Rate<'b>> {
    wire::Rate::create(to, &wire::RateArgs { count: rate.count(), period_s: rate.period_s() })
}

fn read_rate(rule: wire::ShapingRule<'_>, rate: wire::Rate<'_>) -> Result<Rate, WireError> {
    Rate::new(rate.count(), rate.period_s()).ok_or(WireError::ShapingRate { id: rule.id() })
}
