//! The plan of a small installation, and what each way to break it is told.

use postrail_schema::allocation::{Carrier, HostName, HostNeeds};
use postrail_schema::ids::{
    CredentialId, PoolId, ProviderId, RegionId, SendingDomainId, ShapingRuleId, SourceId, SuspensionId, TenantId,
};
use postrail_schema::listener::{Listener, ListenerProtocol, ListenerTls};
use postrail_schema::policy::RoutingRule;
use postrail_schema::problem::Severity;
use postrail_schema::region::Region;
use postrail_schema::selector::Selector;
use postrail_schema::shaping::{Provider, ShapingMatch, ShapingRule};
use postrail_schema::snapshot::{
    Credential, EgressPool, EgressSource, PoolMember, Route, SendingDomain, Snapshot, Suspension, SuspensionTarget,
    Tenant, TrafficClass,
};
use serde_json::json;

use super::*;
use crate::store::Entry;

/// What the store of a small installation lists.
fn entries() -> Vec<Entry> {
    let values = [
        (
            "credentials/1",
            json!({ "id": 1, "tenant": 1, "username": "app", "secret_hashes": ["$x"], "disabled": false }),
        ),
        ("domains/1", json!({ "id": 1, "tenant": 1, "name": "sender.example", "keys": [], "pool": null })),
        ("head", json!({ "revision": 4, "counters": { "tenant": 1 } })),
        ("operator", json!({ "token_hash": "$y" })),
        ("pools/1", json!({ "id": 1, "name": "default", "tenant": null, "members": [{ "source": 1, "weight": 1 }] })),
        ("routes/*", json!({ "domain": "*", "routing_domain": "relay.example", "port": 25, "allow_private": false })),
        ("sources/1", json!({ "id": 1, "name": "one", "address": "192.0.2.1", "ehlo_name": "one.sender.example" })),
        ("suspensions/1", json!({ "id": 1, "target": { "site": "slow.example" }, "reason": "asked to" })),
        ("tenants/1", json!({ "id": 1, "name": "red", "quota_per_day": 9, "weight": 1, "message_bytes_max": 4096 })),
    ];
    let entry = |(key, value): (&str, serde_json::Value)| Entry {
        key: format!("desired/{key}"),
        value: value.to_string().into_bytes(),
        revision: 1,
    };
    values.into_iter().map(entry).collect()
}

fn small() -> Desired {
    Desired::from_entries(&entries()).unwrap()
}

fn codes(desired: &Desired, severity: Severity) -> Vec<&'static str> {
    Findings::of(desired)
        .list()
        .into_iter()
        .filter(|problem| problem.severity == severity)
        .map(|problem| problem.code)
        .collect()
}

#[test]
fn the_plan_of_a_small_installation_is_as_ever() {
    let planned = content(&small(), Revision(5));
    let wanted = SnapshotContent {
        revision: Revision(5),
        tenants: vec![Tenant {
            id: TenantId(1),
            name: "red".into(),
            quota_per_day: Some(9),
            weight: 1,
            message_bytes_max: 4096,
            region: None,
            reserved_per_s: None,
            quarantines: false,
        }],
        credentials: vec![Credential {
            id: CredentialId(1),
            tenant: TenantId(1),
            username: "app".into(),
            secret_hashes: vec!["$x".into()],
            disabled: false,
            marks: Vec::new(),
            scopes: Default::default(),
            networks: Vec::new(),
            trusts_networks: false,
        }],
        domains: vec![SendingDomain {
            id: SendingDomainId(1),
            tenant: TenantId(1),
            name: "sender.example".into(),
            keys: Vec::new(),
            pool: None,
            standing: Default::default(),
            is_platform: false,
            is_later: false,
        }],
        sources: vec![EgressSource {
            id: SourceId(1),
            name: "one".into(),
            address: [192, 0, 2, 1].into(),
            ehlo_name: "one.sender.example".into(),
            needs: Default::default(),
        }],
        pools: vec![EgressPool {
            id: PoolId(1),
            name: "default".into(),
            tenant: None,
            members: vec![PoolMember { source: SourceId(1), weight: 1 }],
            classes: Default::default(),
        }],
        routes: vec![Route {
            domain: "*".into(),
            routing_domain: Some("relay.example".into()),
            port: 25,
            allow_private: false,
        }],
        suspensions: vec![Suspension {
            id: SuspensionId(1),
            target: SuspensionTarget::Site("slow.example".into()),
            reason: "asked to".into(),
        }],
        ..SnapshotContent::default()
    };
    assert_eq!(planned, wanted);
    let found = Findings::of(&small()).list();
    let told: Vec<_> = found.iter().map(|problem| (problem.code, problem.subject.as_str())).collect();
    assert_eq!(told, [("domain_without_keys", "domain/sender.example"), ("suspended", "suspension/1")]);
}

#[test]
fn what_is_suspended_is_told_with_why() {
    for (target, detail) in [
        (SuspensionTarget::Site("slow.example".into()), "mail to slow.example waits: asked to"),
        (SuspensionTarget::Source(SourceId(1)), "mail from source one waits: asked to"),
        (SuspensionTarget::Tenant(TenantId(1)), "mail of tenant red waits: asked to"),
    ] {
        let mut desired = small();
        desired.suspensions.get_mut(&SuspensionId(1)).unwrap().target = target;
        assert_eq!(Findings::of(&desired).list()[1].detail, detail);
    }
}

#[test]
fn each_way_to_break_it_is_an_error_of_its_own_and_the_snapshot_agrees() {
    type Break = fn(&mut Desired);
    let table: [(&str, Break); 15] = [
        ("trusted_networks_overlap", |d| {
            let trusting = |id, username: &str, like: &Credential| Credential {
                id: CredentialId(id),
                username: username.to_owned(),
                networks: vec!["192.0.2.0/24".parse().unwrap()],
                trusts_networks: true,
                ..like.clone()
            };
            let like = d.credentials[&CredentialId(1)].clone();
            d.credentials.insert(CredentialId(1), trusting(1, &like.username, &like));
            d.credentials.insert(CredentialId(2), trusting(2, "other", &like));
        }),
        ("dangling_tenant", |d| d.credentials.get_mut(&CredentialId(1)).unwrap().tenant = TenantId(9)),
        ("dangling_tenant", |d| d.domains.get_mut(&SendingDomainId(1)).unwrap().tenant = TenantId(9)),
        ("dangling_pool", |d| d.domains.get_mut(&SendingDomainId(1)).unwrap().pool = Some(PoolId(9))),
        ("dangling_source", |d| d.sources.clear()),
        ("pool_empty", |d| d.pools.get_mut(&PoolId(1)).unwrap().members.clear()),
        ("weight_zero", |d| d.pools.get_mut(&PoolId(1)).unwrap().members[0].weight = 0),
        ("no_default_pool", |d| d.pools.get_mut(&PoolId(1)).unwrap().name = "other".into()),
        ("default_pool_owned", |d| d.pools.get_mut(&PoolId(1)).unwrap().tenant = Some(TenantId(1))),
        ("foreign_pool", |d| {
            d.tenants.insert(
                TenantId(2),
                Tenant { id: TenantId(2), name: "blue".into(), ..d.tenants[&TenantId(1)].clone() },
            );
            let own = EgressPool {
                id: PoolId(2),
                name: "blues".into(),
                tenant: Some(TenantId(2)),
                ..d.pools[&PoolId(1)].clone()
            };
            d.pools.insert(PoolId(2), own);
            d.domains.get_mut(&SendingDomainId(1)).unwrap().pool = Some(PoolId(2));
        }),
        ("duplicate_name", |d| {
            d.tenants.insert(TenantId(2), Tenant { id: TenantId(2), ..d.tenants[&TenantId(1)].clone() });
        }),
        ("address_hosts_differ", |d| {
            share_address(d, [host_needs("mx1"), HostNeeds::default(), host_needs("mx2")]);
        }),
        ("address_carriers_differ", |d| {
            let [nic, routed] = [Carrier::Nic("eth0".into()), Carrier::Routed];
            share_address(d, [nic, routed].map(|carrier| HostNeeds { carrier, ..HostNeeds::default() }));
        }),
        ("dangling_target", |d| {
            d.suspensions.get_mut(&SuspensionId(1)).unwrap().target = SuspensionTarget::Source(SourceId(9));
        }),
        ("dangling_target", |d| {
            d.suspensions.get_mut(&SuspensionId(1)).unwrap().target = SuspensionTarget::Tenant(TenantId(9));
        }),
    ];
    for (code, damage) in table {
        let mut desired = small();
        damage(&mut desired);
        assert_eq!(codes(&desired, Severity::Error), [code]);
    }
    assert_eq!(codes(&small(), Severity::Error), [""; 0]);
    assert!(Snapshot::new(content(&small(), Revision(5))).is_ok());
}

fn host_needs(host: &str) -> HostNeeds {
    HostNeeds { host: Some(HostName::new(host).unwrap()), ..HostNeeds::default() }
}

/// Sources of one address, each with needs of its own.
fn share_address<const N: usize>(desired: &mut Desired, needs: [HostNeeds; N]) {
    for (number, needs) in (1..).zip(needs) {
        let id = SourceId(number);
        let (name, ehlo_name) = (format!("s{number}"), "one.sender.example".to_owned());
        desired.sources.insert(id, EgressSource { id, name, address: [192, 0, 2, 1].into(), ehlo_name, needs });
    }
}

#[test]
fn sources_that_share_an_address_may_agree_on_its_host_and_one_that_every_host_has_asks_in_vain() {
    let mut desired = small();
    share_address(&mut desired, [host_needs("mx1"), HostNeeds::default(), host_needs("mx1")]);
    assert_eq!(codes(&desired, Severity::Error), [""; 0]);
    assert_eq!(codes(&desired, Severity::Warning), ["domain_without_keys"]);
    desired.sources.get_mut(&SourceId(1)).unwrap().address = [127, 0, 0, 1].into();
    assert_eq!(codes(&desired, Severity::Warning), ["domain_without_keys", "needs_unused"]);
}

#[test]
fn a_rule_that_names_what_is_not_there_is_an_error_and_one_that_never_counts_is_told() {
    let rule = |id, matches: ShapingMatch, rate: &str| ShapingRule {
        id: ShapingRuleId(id),
        name: format!("r{id}"),
        matches,
        connections: None,
        mails_per_connection: None,
        mail_rate: rate.parse().ok(),
        connection_rate: None,
    };
    let with = |rules: Vec<ShapingRule>| {
        let mut desired = small();
        let hosts = vec![".google.com".to_owned()];
        desired.providers.insert(ProviderId(1), Provider { id: ProviderId(1), name: "google".into(), hosts });
        rules.into_iter().for_each(|rule| desired.shaping_rules.insert(rule.id, rule));
        desired
    };
    let any = ShapingMatch::default;
    for (matches, code) in [
        (ShapingMatch { source: Some(SourceId(9)), ..any() }, "dangling_source"),
        (ShapingMatch { pool: Some(PoolId(9)), ..any() }, "dangling_pool"),
        (ShapingMatch { provider: Some(ProviderId(9)), ..any() }, "dangling_provider"),
        (ShapingMatch { tenant: Some(TenantId(9)), ..any() }, "dangling_tenant"),
    ] {
        assert_eq!(codes(&with(vec![rule(1, matches, "1/s")]), Severity::Error), [code]);
    }
    let google = || ShapingMatch { provider: Some(ProviderId(1)), ..any() };
    let notes = |rules: Vec<ShapingRule>| {
        let told = Findings::of(&with(rules)).list().into_iter().filter(|problem| problem.severity == Severity::Note);
        let told = told.filter(|problem| problem.code != "suspended");
        told.map(|problem| format!("{} {}", problem.code, problem.subject)).collect::<Vec<_>>()
    };
    assert_eq!(notes(vec![]), ["provider_unused provider/google"]);
    let slower = rule(1, google(), "1/min");
    assert_eq!(notes(vec![slower.clone(), rule(2, any(), "1/s")]), [""; 0]);
    assert_eq!(notes(vec![slower.clone(), rule(2, google(), "60/min")]), ["rule_never_counts shaping_rule/r2"]);
    let partly = ShapingRule { connections: Some(2), ..rule(2, google(), "60/min") };
    assert_eq!(notes(vec![slower.clone(), partly]), [""; 0], "it sets something that the other does not");
    assert_eq!(notes(vec![slower, rule(2, google(), "60/h")]), ["rule_never_counts shaping_rule/r2"], "equal");
}

#[test]
fn state_of_a_newer_version_is_not_read_as_if_it_were_known() {
    let mut unknown = entries();
    unknown.push(Entry { key: "desired/webhooks/1".into(), value: b"{}".to_vec(), revision: 1 });
    assert!(
        matches!(Desired::from_entries(&unknown), Err(LoadError::UnknownKey { key }) if key == "desired/webhooks/1")
    );
    let mut torn = entries();
    torn[0].value.pop();
    assert!(
        matches!(Desired::from_entries(&torn), Err(LoadError::Value { key, .. }) if key == "desired/credentials/1")
    );
}

fn rule(desired: &mut Desired, name: &str, selector: Selector, pool: u32) {
    desired.routing_rules.insert(name.into(), RoutingRule { name: name.into(), selector, pool: PoolId(pool) });
}

/// A pool of these classes, of source 1.
fn pool(desired: &mut Desired, id: u32, tenant: Option<u32>, classes: &[TrafficClass]) {
    let members = vec![PoolMember { source: SourceId(1), weight: 1 }];
    let (name, classes) = (format!("p{id}"), classes.iter().copied().collect());
    let made = EgressPool { id: PoolId(id), name, tenant: tenant.map(TenantId), members, classes };
    desired.pools.insert(PoolId(id), made);
}

#[test]
fn what_no_rule_can_do_is_an_error_of_the_plan() {
    let class = |class| Selector { class: Some(class), ..Selector::default() };
    let of_red = Selector { tenant: Some(TenantId(1)), ..Selector::default() };
    let broken = |damage: &dyn Fn(&mut Desired)| {
        let mut desired = small();
        pool(&mut desired, 2, None, &[TrafficClass::Marketing]);
        pool(&mut desired, 3, Some(1), &[]);
        damage(&mut desired);
        codes(&desired, Severity::Error)
    };
    assert_eq!(broken(&|d| rule(d, "a", class(TrafficClass::Marketing), 2)), [""; 0]);
    assert_eq!(broken(&|d| rule(d, "a", of_red.clone(), 3)), [""; 0]);
    assert_eq!(broken(&|d| rule(d, "a", class(TrafficClass::Transactional), 2)), ["class_not_carried"]);
    assert_eq!(broken(&|d| rule(d, "a", class(TrafficClass::Marketing), 3)), ["foreign_pool"]);
    assert_eq!(broken(&|d| rule(d, "a", Selector::default(), 9)), ["dangling_pool"]);
    let gone = Selector { tenant: Some(TenantId(9)), sending_domain: Some(SendingDomainId(9)), ..Selector::default() };
    assert_eq!(broken(&|d| rule(d, "a", gone.clone(), 1)), ["dangling_tenant", "dangling_domain"]);
    let twice = broken(&|d| {
        rule(d, "a", Selector::default(), 1);
        rule(d, "b", Selector::default(), 2);
    });
    assert_eq!(twice, ["same_selector"]);
    let of_domain = Selector::of_domain(TenantId(1), SendingDomainId(1));
    let beside_a_pool = broken(&|d| {
        d.domains.get_mut(&SendingDomainId(1)).unwrap().pool = Some(PoolId(1));
        rule(d, "a", of_domain.clone(), 1);
    });
    assert_eq!(beside_a_pool, ["same_selector"], "a domain's pool is the rule about that domain");
}

#[test]
fn a_rule_that_never_counts_and_mail_that_no_pool_carries_are_told() {
    let told = |desired: &Desired| -> Vec<String> {
        let all = Findings::of(desired).list().into_iter();
        let about = all.filter(|problem| problem.subject.starts_with("routing_rule") || problem.code.contains("class"));
        about.map(|problem| format!("{} {}", problem.code, problem.subject)).collect()
    };
    let mut desired = small();
    pool(&mut desired, 2, None, &[TrafficClass::Marketing]);
    rule(&mut desired, "all", Selector::default(), 2);
    assert_eq!(told(&desired), ["rule_of_some_classes routing_rule/all"]);
    rule(&mut desired, "letters", Selector { class: Some(TrafficClass::Marketing), ..Selector::default() }, 2);
    assert_eq!(told(&desired), ["rule_of_some_classes routing_rule/all", "rule_shadowed routing_rule/all"]);
    desired.routing_rules.remove(&"all".to_owned());
    desired.domains.get_mut(&SendingDomainId(1)).unwrap().pool = Some(PoolId(1));
    assert_eq!(told(&desired), ["rule_shadowed routing_rule/letters"], "the domain has a pool of its own");
    desired.pools.get_mut(&PoolId(1)).unwrap().classes = [TrafficClass::Marketing].into();
    let waits = ["class_without_pool pool/default", "class_without_pool pool/default"];
    assert_eq!(told(&desired), waits, "neither transactional nor person-to-person mail has a pool");
}

#[test]
fn regions_are_compared_with_who_runs() {
    let region = |id, name: &str| Region { id: RegionId(id), name: name.into(), submission_host: "m.example".into() };
    let mut desired = small();
    let told = |desired: &Desired, presence: &Presence| -> Vec<String> {
        let found = region_problems(desired, presence);
        found.iter().map(|problem| format!("{} {}", problem.code, problem.subject)).collect()
    };
    assert!(told(&desired, &Presence::default()).is_empty(), "without regions there is nothing to say of them");
    for region in [region(1, "eu"), region(2, "us")] {
        desired.regions.insert(region.id, region);
    }
    let red = desired.tenants[&TenantId(1)].clone();
    desired
        .tenants
        .insert(TenantId(2), Tenant { id: TenantId(2), name: "blue".into(), region: Some(RegionId(1)), ..red });
    let nobody = ["region_without_host region/eu", "tenant_without_region tenant/"];
    assert_eq!(told(&desired, &Presence::default()), nobody, "nobody is in us");
    let hosts = [("a", "eu"), ("b", "mars"), ("c", "")].map(|(host, region)| (host.to_owned(), region.to_owned()));
    let leaders = ["eu", "mars"].map(str::to_owned);
    let mut presence = Presence { hosts: hosts.into(), leaders: leaders.into(), has_home: false };
    let some = ["unknown_region host/b", "region_without_control_plane region/", "tenant_without_region tenant/"];
    let with = |one| some.into_iter().chain([one]).collect::<Vec<_>>();
    assert_eq!(told(&desired, &presence), with("suppressions_by_region tenant/"));
    presence.has_home = true;
    assert_eq!(told(&desired, &presence), with("suppressions_without_home tenant/"));
    presence.leaders.insert(String::new());
    assert_eq!(told(&desired, &presence), [some[0], some[2]], "one without a region leads");
}

#[test]
fn listeners_that_take_each_others_address_or_secrets_in_clear_are_told() {
    let listener = |name: &str, address: &str, hosts: &[&str]| Listener {
        name: name.to_owned(),
        hosts: hosts.iter().map(|host| HostName::new(*host).unwrap()).collect(),
        ..Listener::of_options(ListenerProtocol::Smtp, address.parse().unwrap())
    };
    let told = |listeners: Vec<Listener>, severity| {
        let mut desired = small();
        listeners.into_iter().for_each(|listener| desired.listeners.insert(listener.name.clone(), listener));
        codes(&desired, severity).into_iter().filter(|code| code.contains("listener") || code.contains("clear")).count()
    };
    let one = listener("a", "0.0.0.0:587", &["mx1"]);
    assert_eq!(told(vec![one.clone(), listener("b", "192.0.2.1:587", &[])], Severity::Error), 1);
    assert_eq!(told(vec![one.clone(), listener("b", "192.0.2.1:587", &["mx2"])], Severity::Error), 0);
    assert_eq!(told(vec![one.clone(), listener("b", "[::]:587", &[])], Severity::Error), 0);
    let clear = |address: &str| Listener { tls: ListenerTls::Off, ..listener("c", address, &[]) };
    assert_eq!(told(vec![clear("192.0.2.1:25")], Severity::Warning), 1);
    assert_eq!(told(vec![clear("127.0.0.1:25")], Severity::Warning), 0);
    let mut desired = small();
    desired.listeners.insert("a".to_owned(), one);
    let hosts = |name: &str| [(name.to_owned(), String::new())].into();
    assert_eq!(listener_problems(&desired, &hosts("mx2"))[0].code, "listener_without_host");
    assert!(listener_problems(&desired, &hosts("mx1")).is_empty());
}
