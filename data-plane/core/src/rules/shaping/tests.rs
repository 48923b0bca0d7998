//! Which of several rules holds.

use postrail_schema::ids::{PoolId, ProviderId, SendingDomainId, ShardId};
use postrail_schema::shaping::Provider;
use postrail_schema::snapshot::{EgressPool, EgressSource, PoolMember, Snapshot, SnapshotContent, TrafficClass};

use super::*;
use crate::dns::{MailHost, SiteName};
use crate::mail::Domain;

/// Matches of one rule, by words such as `source=1 site=.a.example`.
fn matches(text: &str) -> ShapingMatch {
    let mut matches = ShapingMatch::default();
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "source" => matches.source = Some(SourceId(value.parse().unwrap())),
            "pool" => matches.pool = Some(PoolId(value.parse().unwrap())),
            "provider" => matches.provider = Some(ProviderId(value.parse().unwrap())),
            "site" => matches.site = Some(value.to_owned()),
            "domain" => matches.recipient_domain = Some(value.to_owned()),
            "tenant" => matches.tenant = Some(TenantId(value.parse().unwrap())),
            "campaign" => matches.campaign = Some(value.to_owned()),
            "class" => matches.class = TrafficClass::from_name(value),
            other => panic!("{other}"),
        }
    }
    matches
}

/// A rule, by words such as `connections=5 mails=1/s starts=1/min each=50`.
fn rule(id: u32, about: &str, sets: &str) -> ShapingRule {
    let mut rule = ShapingRule {
        id: ShapingRuleId(id),
        name: format!("r{id}"),
        matches: matches(about),
        connections: None,
        mails_per_connection: None,
        mail_rate: None,
        connection_rate: None,
    };
    for word in sets.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "connections" => rule.connections = value.parse().ok(),
            "each" => rule.mails_per_connection = value.parse().ok(),
            "mails" => rule.mail_rate = value.parse().ok(),
            "starts" => rule.connection_rate = value.parse().ok(),
            other => panic!("{other}"),
        }
    }
    assert_eq!(rule.fault(), None);
    rule
}

/// Sources 1 and 2 of shard 0 and source 3 of every shard; pool 1 has source 1; provider 1 is `.google.com`.
fn rules_of(shards: u16, shaping_rules: &[(&str, &str)]) -> Rules {
    let source = |id: u32, address: &str| EgressSource {
        id: SourceId(id),
        name: format!("s{id}"),
        address: address.parse().unwrap(),
        ehlo_name: "mx.example.com".to_owned(),
        needs: Default::default(),
    };
    let numbered = (1..).zip(shaping_rules);
    let content = SnapshotContent {
        sources: vec![source(1, "127.0.0.1"), source(2, "127.0.0.2"), source(3, "0.0.0.0")],
        pools: vec![EgressPool {
            id: PoolId(1),
            name: "default".to_owned(),
            tenant: None,
            members: vec![PoolMember { source: SourceId(1), weight: 1 }],
            classes: Default::default(),
        }],
        providers: vec![Provider {
            id: ProviderId(1),
            name: "google".to_owned(),
            hosts: vec![".google.com".to_owned()],
        }],
        shaping_rules: numbered.map(|(id, (about, sets))| rule(id, about, sets)).collect(),
        ..SnapshotContent::default()
    };
    Rules::new(Arc::new(Snapshot::new(content).unwrap()), ShardId(0), shards)
}

fn hosts(names: &[&str]) -> MailHosts {
    let host = |name: &&str| MailHost { name: Domain::parse(name).unwrap(), preference: 0, addresses: Vec::new() };
    MailHosts {
        site: SiteName(names.join(",").into()),
        hosts: names.iter().map(host).collect(),
        secure: false,
        expires: Instant::FAR,
    }
}

const GOOGLE: &[&str] = &["alt1.aspmx.l.google.com", "aspmx.l.google.com"];
const OTHER: &[&str] = &["mx.other.example"];

fn shape(rules: &[(&str, &str)], source: u32, site: &[&str]) -> PathShape {
    rules_of(1, rules).shape(SourceId(source), &hosts(site))
}

/// Rules of the ceilings on a path.
fn ceilings(shape: &PathShape) -> Vec<(u32, Counted, Span)> {
    shape.ceilings.iter().map(|ceiling| (ceiling.rule.unwrap().0, ceiling.counted, ceiling.span)).collect()
}

fn mail_of(tenant: u32, class: TrafficClass, recipient_domain: &str) -> MailFacts<'_> {
    let (tenant, sending_domain) = (TenantId(tenant), SendingDomainId(1));
    MailFacts { recipient_domain: Some(recipient_domain), site: None, sending_domain, tenant, class }
}

#[test]
fn without_rules_the_defaults_hold_and_nothing_is_counted() {
    let shape = shape(&[], 1, GOOGLE);
    assert_eq!((shape.limits, ceilings(&shape)), (PathLimits::default(), vec![]));
}

#[test]
fn the_closer_rule_holds_be_it_stricter_or_not() {
    let rules = [
        ("", "connections=3 each=10 mails=1/s"),
        ("site=.other.example", "connections=25"),
        ("source=2", "connections=1"),
        ("source=2 site=mx.other.example", "connections=7"),
    ];
    let connections = |source, site| {
        let shape = shape(&rules, source, site);
        (shape.limits.connections, shape.connections_by.map(|id| id.0))
    };
    assert_eq!(connections(1, GOOGLE), (3, Some(1)));
    assert_eq!(connections(1, OTHER), (25, Some(2)));
    assert_eq!(connections(2, GOOGLE), (1, Some(3)));
    assert_eq!(connections(2, OTHER), (7, Some(4)));
    let other = shape(&rules, 1, OTHER);
    assert_eq!(other.limits.mails_per_connection, 10, "what the closer rule does not set comes from the next");
    assert_eq!(ceilings(&other), [(1, Counted::Mails, Span::Path)]);
}

#[test]
fn of_rules_of_which_none_is_closer_the_strictest_holds_whatever_their_order() {
    let rules = [("source=1", "connections=4 mails=60/min"), ("site=.other.example", "connections=8 mails=1/min")];
    for rules in [rules, [rules[1], rules[0]]] {
        let shape = shape(&rules, 1, OTHER);
        let named = |id: ShapingRuleId| rules[id.0 as usize - 1].0;
        assert_eq!((shape.limits.connections, shape.connections_by.map(named)), (4, Some("source=1")));
        assert_eq!(shape.ceilings.len(), 1);
        assert_eq!(named(shape.ceilings[0].rule.unwrap()), "site=.other.example");
        assert_eq!(shape.ceilings[0].allowance, Allowance::Throttle(Duration::from_secs(60)));
    }
}

#[test]
fn a_providers_rule_is_counted_over_its_sites_and_stands_beside_that_of_a_site() {
    let rules = [
        ("provider=1", "connections=50 each=5 starts=1/s"),
        ("", "connections=2 each=9"),
        ("site=.l.google.com", "connections=4 mails=2/s"),
    ];
    let google = shape(&rules, 1, GOOGLE);
    assert_eq!((google.limits.connections, google.connections_by), (4, Some(ShapingRuleId(3))));
    assert_eq!(google.limits.mails_per_connection, 5);
    let expected = [
        (3, Counted::Mails, Span::Path),
        (1, Counted::ConnectionStarts, Span::Source),
        (1, Counted::Connections, Span::Source),
    ];
    assert_eq!(ceilings(&google), expected);
    let without_site = shape(&rules[..2], 1, GOOGLE);
    assert_eq!(without_site.limits.connections, 50, "the provider's rule overrules the general one for each path, too");
    assert_eq!(shape(&rules, 1, OTHER).limits.connections, 2);
    assert_eq!(
        shape(&rules, 1, &["aspmx.l.google.com", "mx.other.example"]).limits.connections,
        2,
        "not all are its hosts"
    );
}

#[test]
fn a_rule_of_a_pool_is_closer_than_none_and_less_close_than_its_source() {
    let rules = [("provider=1", "mails=9/s"), ("provider=1 pool=1", "mails=5/s"), ("provider=1 source=1", "mails=7/s")];
    let by = |rules: &[(&str, &str)], source| ceilings(&shape(rules, source, GOOGLE))[0].0;
    assert_eq!((by(&rules, 1), by(&rules[..2], 1), by(&rules, 2)), (3, 2, 1));
}

#[test]
fn every_rule_about_a_mail_holds_beside_the_others() {
    let about = [
        ("tenant=1", "mails=100/s"),
        ("tenant=1 campaign=news", "mails=1/s"),
        ("class=marketing", "mails=2/s"),
        ("domain=gmail.com provider=1", "mails=3/s"),
        ("tenant=2", "mails=1/s"),
        ("tenant=1 site=.other.example", "mails=1/s"),
        ("tenant=1 source=2", "mails=1/s"),
    ];
    let rules = rules_of(1, &about);
    let of = |(mail, campaign): (MailFacts<'_>, &str), site: &[&str]| {
        let hosts = hosts(site);
        let shape = rules.shape(SourceId(1), &hosts);
        assert_eq!(shape.ceilings.len(), 0, "none of them is about paths");
        let found = rules.mail_ceilings(mail, campaign, SourceId(1), &hosts, &shape);
        found.iter().map(|ceiling| ceiling.rule.unwrap().0).collect::<Vec<_>>()
    };
    let class = TrafficClass::Marketing;
    let mail = (mail_of(1, class, "gmail.com"), "news");
    assert_eq!(of(mail, GOOGLE), [1, 2, 4, 3]);
    assert_eq!(of(mail, OTHER), [1, 2, 6, 3]);
    let class = TrafficClass::Transactional;
    assert_eq!(of((mail_of(3, class, "other.example"), ""), OTHER), [0_u32; 0]);
}

#[test]
fn what_several_shards_send_is_divided_among_them() {
    let about = [("", "connections=5 mails=8/s"), ("tenant=1", "mails=8/s"), ("tenant=1 source=1", "mails=8/s")];
    let rules = rules_of(4, &about);
    let seconds = |ceiling: &Ceiling| match ceiling.allowance {
        Allowance::Throttle(interval) => interval.as_secs_f64(),
        Allowance::Limit(_) => 0.0,
    };
    let [own, shared] = [1, 3].map(|source| rules.shape(SourceId(source), &hosts(OTHER)));
    assert_eq!((own.limits.connections, shared.limits.connections), (5, 2), "shard 0 has the odd one");
    assert_eq!((seconds(&own.ceilings[0]), seconds(&shared.ceilings[0])), (0.125, 0.5));
    let class = TrafficClass::Transactional;
    let found = rules.mail_ceilings(mail_of(1, class, "other.example"), "", SourceId(1), &hosts(OTHER), &own);
    let times: Vec<_> = found.iter().map(seconds).collect();
    assert_eq!(times, [0.5, 0.125], "a rule that names a source of one shard is that shard's alone");
}
