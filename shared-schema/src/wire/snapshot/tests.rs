//! Bytes of every format are read as they were meant, and written as they are kept.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::access::Scope;
use crate::ids::{ProviderId, ShapingRuleId};
use crate::listener::{Listener, ListenerLimits, ListenerProtocol, ListenerTls};
use crate::policy::{RetryDelays, RetryPolicy, RoutingRule};
use crate::selector::Selector;
use crate::shaping::{Provider, Rate, ShapingMatch, ShapingRule};
use crate::snapshot::TrafficClass;
use crate::tls::{TlsLevel, TlsRule, TlsVersion};

const GOLDEN: &[u8] = include_bytes!("../../../golden/snapshot-1.bin");
const GOLDEN_2: &[u8] = include_bytes!("../../../golden/snapshot-2.bin");
const GOLDEN_3: &[u8] = include_bytes!("../../../golden/snapshot-3.bin");
const GOLDEN_4: &[u8] = include_bytes!("../../../golden/snapshot-4.bin");
const GOLDEN_5: &[u8] = include_bytes!("../../../golden/snapshot-5.bin");
/// What former versions wrote of format 3, when it had less in it.
const FORMER_3: [&[u8]; 4] = [
    include_bytes!("../../../golden/snapshot-3a.bin"),
    include_bytes!("../../../golden/snapshot-3b.bin"),
    include_bytes!("../../../golden/snapshot-3c.bin"),
    include_bytes!("../../../golden/snapshot-3d.bin"),
];

fn sample() -> SnapshotContent {
    let key = |id, selector: &str, algorithm| DkimKey {
        id: KeyId(id),
        selector: selector.into(),
        algorithm,
        sealed_private_key: vec![id as u8; 5],
        public_key: "cHVibGlj".into(),
        stage: KeyStage::Signing,
        since_ms: 0,
    };
    let suspension = |id, target| Suspension { id: SuspensionId(id), target, reason: "by hand".into() };
    SnapshotContent {
        revision: Revision(12),
        tenants: vec![Tenant {
            id: TenantId(1),
            name: "default".into(),
            quota_per_day: Some(1_000),
            weight: 2,
            message_bytes_max: 1_048_576,
            region: None,
            reserved_per_s: None,
            quarantines: false,
        }],
        credentials: vec![Credential {
            id: CredentialId(1),
            tenant: TenantId(1),
            username: "default".into(),
            secret_hashes: vec!["$argon2id$one".into(), "$argon2id$two".into()],
            disabled: false,
            marks: Vec::new(),
            scopes: Scopes::ALL,
            networks: Vec::new(),
            trusts_networks: false,
        }],
        domains: vec![SendingDomain {
            id: SendingDomainId(1),
            tenant: TenantId(1),
            name: "sender.example".into(),
            keys: vec![key(1, "pr1r", KeyAlgorithm::RsaSha256), key(2, "pr1e", KeyAlgorithm::Ed25519Sha256)],
            pool: Some(PoolId(1)),
            standing: Standing::Trusted,
            is_platform: false,
            is_later: false,
        }],
        sources: vec![EgressSource {
            id: SourceId(1),
            name: "default".into(),
            address: [0, 0, 0, 0].into(),
            ehlo_name: "mail.sender.example".into(),
            needs: HostNeeds::default(),
        }],
        pools: vec![EgressPool {
            id: PoolId(1),
            name: "default".into(),
            tenant: None,
            members: vec![PoolMember { source: SourceId(1), weight: 1 }],
            classes: Default::default(),
        }],
        routes: vec![Route { domain: "*".into(), routing_domain: None, port: 25, allow_private: false }],
        suspensions: vec![
            suspension(1, SuspensionTarget::Site("slow.example".into())),
            suspension(2, SuspensionTarget::Source(SourceId(1))),
            suspension(3, SuspensionTarget::Tenant(TenantId(1))),
        ],
        suppressions: vec![
            Suppression { tenant: TenantId(1), address: "a@receiver.example".into() },
            Suppression { tenant: TenantId(1), address: "b@receiver.example".into() },
        ],
        ..SnapshotContent::default()
    }
}

fn word() -> &'static str {
    "[ -~äß]{0,12}"
}

fn tenancy() -> impl Strategy<Value = (Vec<Tenant>, Vec<Credential>, Vec<SendingDomain>)> {
    let tenant =
        (any::<(u32, Option<u64>, u32, u32, Option<u32>, Option<u32>)>(), word()).prop_map(|(n, name)| Tenant {
            id: TenantId(n.0),
            name,
            quota_per_day: n.1,
            weight: n.2,
            message_bytes_max: n.3,
            region: n.4.map(RegionId),
            reserved_per_s: n.5,
            quarantines: n.3 % 2 == 1,
        });
    let network = proptest::sample::select(&["192.0.2.0/24", "2001:db8::/32", "::/0", "203.0.113.7"][..]);
    let network = network.prop_map(|text| text.parse().unwrap());
    let credential = (any::<(u32, u32, bool, u32, Vec<u64>)>(), word(), vec(word(), 0..3), vec(network, 0..3))
        .prop_map(|(n, username, secret_hashes, networks)| Credential {
            id: CredentialId(n.0),
            tenant: TenantId(n.1),
            username,
            secret_hashes,
            disabled: n.2,
            marks: n.4,
            scopes: Scopes::from_bits(n.3),
            networks,
            trusts_networks: n.0 % 2 == 1,
        });
    let algorithm = proptest::sample::select(&[KeyAlgorithm::RsaSha256, KeyAlgorithm::Ed25519Sha256][..]);
    let key = (any::<u32>(), word(), algorithm, vec(any::<u8>(), 0..9), word()).prop_map(
        |(id, selector, algorithm, sealed_private_key, public_key)| DkimKey {
            id: KeyId(id),
            selector,
            algorithm,
            sealed_private_key,
            public_key,
            stage: KeyStage::Signing,
            since_ms: 0,
        },
    );
    let missing = proptest::sample::select(&DomainRecord::ALL[..]);
    let standing = prop_oneof![
        proptest::sample::select(&[Standing::Trusted, Standing::Verified, Standing::Failing][..]),
        missing.clone().prop_map(|missing| Standing::Unproved { missing }),
        missing.prop_map(|missing| Standing::Lapsed { missing }),
    ];
    let domain = (any::<(u32, u32, Option<u32>, bool)>(), word(), vec(key, 0..3), standing).prop_map(
        |(n, name, keys, standing)| SendingDomain {
            id: SendingDomainId(n.0),
            tenant: TenantId(n.1),
            name,
            keys,
            pool: n.2.map(PoolId),
            standing,
            is_platform: n.3,
            is_later: n.0 % 2 == 1,
        },
    );
    (vec(tenant, 0..4), vec(credential, 0..4), vec(domain, 0..4))
}

fn needs() -> impl Strategy<Value = HostNeeds> {
    let carrier = prop_oneof![
        proptest::sample::select(&[Carrier::HostChoice, Carrier::Routed][..]),
        word().prop_map(Carrier::Nic),
    ];
    let host = option::of("[a-z0-9]([a-z0-9.-]{0,9}[a-z0-9])?".prop_map(|name| HostName::new(name).unwrap()));
    (carrier, host, proptest::collection::btree_set(word(), 0..3)).prop_map(|(carrier, host, capabilities)| HostNeeds {
        carrier,
        host,
        capabilities,
    })
}

fn egress() -> impl Strategy<Value = (Vec<EgressSource>, Vec<EgressPool>, Vec<Route>)> {
    let source = (any::<(u32, IpAddr)>(), word(), word(), needs()).prop_map(|(n, name, ehlo_name, needs)| {
        EgressSource { id: SourceId(n.0), name, address: n.1, ehlo_name, needs }
    });
    let member = any::<(u32, u32)>().prop_map(|(source, weight)| PoolMember { source: SourceId(source), weight });
    let class = proptest::sample::select(&TrafficClass::ALL[..]);
    let classes = proptest::collection::btree_set(class, 0..4);
    let pool = (any::<(u32, Option<u32>)>(), word(), vec(member, 0..4), classes);
    let pool = pool.prop_map(|(n, name, members, classes)| EgressPool {
        id: PoolId(n.0),
        name,
        tenant: n.1.map(TenantId),
        members,
        classes,
    });
    let route = (any::<(u16, bool)>(), word(), option::of(word())).prop_map(|(n, domain, routing_domain)| Route {
        domain,
        routing_domain,
        port: n.0,
        allow_private: n.1,
    });
    (vec(source, 0..4), vec(pool, 0..4), vec(route, 0..4))
}

fn selector() -> impl Strategy<Value = Selector> {
    let class = option::of(proptest::sample::select(&TrafficClass::ALL[..]));
    (option::of(word()), option::of(word()), any::<(Option<u32>, Option<u32>)>(), class).prop_map(
        |(recipient_domain, site, ids, class)| Selector {
            recipient_domain,
            site,
            sending_domain: ids.0.map(SendingDomainId),
            tenant: ids.1.map(TenantId),
            class,
        },
    )
}

fn retry_policy() -> impl Strategy<Value = RetryPolicy> {
    let delays = any::<(u32, u32, u32)>().prop_map(|(first_s, factor_percent, longest_s)| RetryDelays {
        first_s,
        factor_percent,
        longest_s,
    });
    (word(), selector(), option::of(delays), any::<Option<u32>>())
        .prop_map(|(name, selector, delays, expiry_s)| RetryPolicy { name, selector, delays, expiry_s })
}

fn listener() -> impl Strategy<Value = Listener> {
    let protocol = proptest::sample::select(&ListenerProtocol::ALL[..]);
    let tls = proptest::sample::select(&ListenerTls::ALL[..]);
    let place = (any::<IpAddr>(), any::<u16>(), vec(any::<u32>(), 0..3), option::of(any::<u32>()));
    let limits =
        any::<[Option<u32>; 4]>().prop_map(|[connections, connections_per_client, message_bytes_max, idle_s]| {
            ListenerLimits { connections, connections_per_client, message_bytes_max, idle_s }
        });
    let of_tls = (tls, proptest::sample::select(&TlsVersion::ALL[..]), option::of(word()));
    let network = proptest::sample::select(&["192.0.2.0/24", "2001:db8::/32", "::/0"][..]);
    let network = network.prop_map(|text| text.parse().unwrap());
    (word(), protocol, place, of_tls, vec(network, 0..3), limits).prop_map(
        |(name, protocol, (ip, port, hosts, region), (tls, minimum_version, certificate), networks, limits)| Listener {
            name,
            protocol,
            address: SocketAddr::new(ip, port),
            hosts: hosts.into_iter().map(|host| HostName::new(format!("h{host}")).unwrap()).collect(),
            region: region.map(RegionId),
            tls,
            minimum_version,
            certificate,
            networks,
            limits,
        },
    )
}

fn shaping() -> impl Strategy<Value = (Vec<Provider>, Vec<ShapingRule>, Vec<Listener>)> {
    let provider = (any::<u32>(), word(), vec(word(), 0..3)).prop_map(|(id, name, hosts)| Provider {
        id: ProviderId(id),
        name,
        hosts,
    });
    let rate = || {
        let period = proptest::sample::select(&[1_u32, 60, 3_600, 86_400][..]);
        option::of((1_u32..=1_000_000, period).prop_map(|(count, period_s)| Rate::new(count, period_s).unwrap()))
    };
    let class = option::of(proptest::sample::select(&TrafficClass::ALL[..]));
    let words = (option::of(word()), option::of(word()), option::of(word()));
    let matches = (any::<[Option<u32>; 4]>(), words, class).prop_map(|(ids, words, class)| ShapingMatch {
        source: ids[0].map(SourceId),
        pool: ids[1].map(PoolId),
        provider: ids[2].map(ProviderId),
        site: words.0,
        recipient_domain: words.1,
        tenant: ids[3].map(TenantId),
        campaign: words.2,
        class,
    });
    let rule = (any::<(u32, Option<u32>, Option<u32>)>(), word(), matches, rate(), rate()).prop_map(
        |(n, name, matches, mail_rate, connection_rate)| ShapingRule {
            id: ShapingRuleId(n.0),
            name,
            matches,
            connections: n.1,
            mails_per_connection: n.2,
            mail_rate,
            connection_rate,
        },
    );
    (vec(provider, 0..3), vec(rule, 0..4), vec(listener(), 0..3))
}

fn content() -> impl Strategy<Value = SnapshotContent> {
    let target = prop_oneof![
        word().prop_map(SuspensionTarget::Site),
        any::<u32>().prop_map(|id| SuspensionTarget::Source(SourceId(id))),
        any::<u32>().prop_map(|id| SuspensionTarget::Tenant(TenantId(id))),
    ];
    let suspension = (any::<u32>(), target, word()).prop_map(|(id, target, reason)| Suspension {
        id: SuspensionId(id),
        target,
        reason,
    });
    let suppression =
        (0_u32..3, word()).prop_map(|(tenant, address)| Suppression { tenant: TenantId(tenant), address });
    let stops = (vec(suspension, 0..4), proptest::collection::btree_set(suppression, 0..12));
    let region = (any::<u32>(), word(), word()).prop_map(|(id, name, submission_host)| Region {
        id: RegionId(id),
        name,
        submission_host,
    });
    let signpost = any::<(u64, u32, u32)>().prop_map(|(mark, region, credential)| Signpost {
        mark,
        region: RegionId(region),
        credential: CredentialId(credential),
    });
    let places = (vec(region, 0..3), vec(signpost, 0..5));
    let rule = (word(), selector(), any::<u32>()).prop_map(|(name, selector, pool)| RoutingRule {
        name,
        selector,
        pool: PoolId(pool),
    });
    let policies = (vec(retry_policy(), 0..4), vec(rule, 0..4), vec(tls_rule(), 0..4));
    let parts = (any::<u64>(), tenancy(), egress(), stops, places, policies, shaping());
    parts.prop_map(|(revision, tenancy, egress, stops, places, policies, shaping)| SnapshotContent {
        revision: Revision(revision),
        tenants: tenancy.0,
        credentials: tenancy.1,
        domains: tenancy.2,
        sources: egress.0,
        pools: egress.1,
        routes: egress.2,
        suspensions: stops.0,
        suppressions: stops.1.into_iter().collect(),
        regions: places.0,
        signposts: places.1,
        retry_policies: policies.0,
        routing_rules: policies.1,
        providers: shaping.0,
        shaping_rules: shaping.1,
        listeners: shaping.2,
        tls_rules: policies.2,
    })
}

fn tls_rule() -> impl Strategy<Value = TlsRule> {
    let level = proptest::sample::select(&TlsLevel::ALL[..]);
    let version = proptest::sample::select(&TlsVersion::ALL[..]);
    let parts = (word(), selector(), level, version, vec(word(), 0..3));
    parts.prop_map(|(name, selector, level, minimum_version, hosts)| TlsRule {
        name,
        selector,
        level,
        minimum_version,
        hosts,
    })
}

proptest! {
    #[test]
    fn decoding_what_was_encoded_gives_the_same_content(content in content()) {
        prop_assert_eq!(decode_snapshot(&encode_snapshot(&content)).unwrap(), content);
    }

    #[test]
    fn changed_bytes_never_panic(at in any::<proptest::sample::Index>(), xor in 1_u8..=255, cut in any::<bool>()) {
        let mut bytes = GOLDEN.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        if cut {
            bytes.truncate(at);
        }
        let _ = decode_snapshot(&bytes);
    }
}

#[test]
fn every_flipped_bit_of_the_committed_bytes_is_survived() {
    for at in 0..GOLDEN.len() * 8 {
        let mut bytes = GOLDEN.to_vec();
        bytes[at / 8] ^= 1 << (at % 8);
        let _ = decode_snapshot(&bytes);
    }
}

#[test]
fn the_committed_bytes_are_read_and_written_as_ever() {
    assert_eq!(decode_snapshot(GOLDEN).unwrap(), sample());
    assert_eq!(encode_snapshot(&sample()), GOLDEN, "a change of the form needs a new format");
}

/// What format 2 is for: earlier versions would let this credential do everything from everywhere.
fn narrow_sample() -> SnapshotContent {
    let mut content = sample();
    content.credentials[0].scopes = [Scope::Submit, Scope::JobsRead].into_iter().collect();
    content.credentials[0].networks = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    content
}

/// What format 5 is for: earlier versions know one domain of a name.
fn latest_sample() -> SnapshotContent {
    let mut content = tls_sample();
    let tenant = Tenant { id: TenantId(2), name: "other".into(), ..content.tenants[0].clone() };
    let later = SendingDomain {
        id: SendingDomainId(2),
        tenant: tenant.id,
        is_platform: false,
        is_later: true,
        ..content.domains[0].clone()
    };
    content.tenants.push(tenant);
    content.domains.push(later);
    content
}

/// What format 4 is for, and what older formats had no sample of.
fn tls_sample() -> SnapshotContent {
    let mut content = rules_sample();
    content.regions = vec![Region { id: RegionId(1), name: "eu".into(), submission_host: "eu.sender.example".into() }];
    content.signposts = vec![Signpost { mark: 7, region: RegionId(1), credential: CredentialId(9) }];
    (content.tenants[0].region, content.tenants[0].reserved_per_s) = (Some(RegionId(1)), Some(100));
    (content.credentials[0].marks, content.credentials[0].trusts_networks) = (vec![5, 6], true);
    content.domains[0].standing = Standing::Unproved { missing: DomainRecord::Dkim };
    content.sources[0].needs = HostNeeds {
        carrier: Carrier::Nic("eth1".into()),
        host: HostName::new("mx1").ok(),
        capabilities: ["net-a".to_owned()].into(),
    };
    content.tls_rules = vec![TlsRule {
        name: "bank".into(),
        selector: Selector { recipient_domain: Some("bank.example".into()), ..Selector::default() },
        level: TlsLevel::Verified,
        minimum_version: TlsVersion::V1_3,
        hosts: vec![".bank.example".into()],
    }];
    content
}

/// What format 3 is for: earlier versions would overlook these.
fn rules_sample() -> SnapshotContent {
    let selector = |class, recipient_domain: Option<&str>| Selector {
        recipient_domain: recipient_domain.map(str::to_owned),
        site: None,
        sending_domain: Some(SendingDomainId(1)),
        tenant: Some(TenantId(1)),
        class,
    };
    let delays = Some(RetryDelays { first_s: 30, factor_percent: 200, longest_s: 600 });
    let SnapshotContent { mut pools, mut domains, mut tenants, .. } = narrow_sample();
    tenants[0].quarantines = true;
    domains[0].is_platform = true;
    pools[0].classes = [TrafficClass::Marketing, TrafficClass::Transactional].into();
    SnapshotContent {
        tenants,
        pools,
        domains,
        routing_rules: vec![RoutingRule {
            name: "letters".into(),
            selector: selector(Some(TrafficClass::Marketing), Some("big.example")),
            pool: PoolId(1),
        }],
        retry_policies: vec![
            RetryPolicy {
                name: "codes".into(),
                selector: selector(Some(TrafficClass::PersonToPerson), None),
                delays,
                expiry_s: Some(900),
            },
            RetryPolicy { name: "slow".into(), selector: selector(None, Some("slow.example")), delays, expiry_s: None },
        ],
        providers: vec![Provider { id: ProviderId(1), name: "google".into(), hosts: vec![".google.com".into()] }],
        shaping_rules: shaping_samples(),
        listeners: vec![Listener {
            hosts: vec![HostName::new("mx1").unwrap()],
            region: Some(RegionId(1)),
            tls: ListenerTls::Required,
            minimum_version: TlsVersion::V1_3,
            certificate: Some("mail.example".into()),
            networks: vec!["192.0.2.0/24".parse().unwrap()],
            limits: ListenerLimits { connections: Some(100), idle_s: Some(60), ..ListenerLimits::default() },
            name: "submission".into(),
            ..Listener::of_options(ListenerProtocol::Smtp, "0.0.0.0:587".parse().unwrap())
        }],
        ..narrow_sample()
    }
}

fn shaping_samples() -> Vec<ShapingRule> {
    let of_provider = ShapingRule {
        id: ShapingRuleId(1),
        name: "google".into(),
        matches: ShapingMatch { provider: Some(ProviderId(1)), ..ShapingMatch::default() },
        connections: Some(5),
        mails_per_connection: Some(50),
        mail_rate: None,
        connection_rate: "100/min".parse().ok(),
    };
    let of_mail = ShapingRule {
        id: ShapingRuleId(2),
        name: "news".into(),
        matches: ShapingMatch {
            source: Some(SourceId(1)),
            site: Some(".receiver.example".into()),
            recipient_domain: Some("receiver.example".into()),
            tenant: Some(TenantId(1)),
            campaign: Some("news".into()),
            class: Some(TrafficClass::Marketing),
            ..ShapingMatch::default()
        },
        connections: None,
        mails_per_connection: None,
        mail_rate: "10000/h".parse().ok(),
        connection_rate: None,
    };
    vec![of_provider, of_mail]
}

#[test]
fn what_earlier_versions_would_overlook_is_of_a_format_that_they_refuse() {
    let bytes = encode_snapshot(&narrow_sample());
    assert_eq!(wire::root_as_snapshot(&bytes).unwrap().format(), 2);
    assert_eq!(wire::root_as_snapshot(&encode_snapshot(&sample())).unwrap().format(), 1);
    assert_eq!(decode_snapshot(GOLDEN_2).unwrap(), narrow_sample());
    assert_eq!(bytes, GOLDEN_2, "a change of the form needs a new format");
}

#[test]
fn what_is_new_in_format_3_is_refused_by_readers_of_format_2() {
    let bytes = encode_snapshot(&rules_sample());
    assert_eq!(wire::root_as_snapshot(&bytes).unwrap().format(), 3);
    assert_eq!(decode_snapshot(GOLDEN_3).unwrap(), rules_sample());
    assert_eq!(bytes, GOLDEN_3, "a change of the form needs a new format");
    for former in FORMER_3 {
        let read = decode_snapshot(former).unwrap();
        let SnapshotContent { revision, domains, .. } = rules_sample();
        assert_eq!((read.revision, &read.domains), (revision, &domains));
        assert_eq!(decode_snapshot(&encode_snapshot(&read)).unwrap(), read);
    }
}

#[test]
fn what_is_new_in_format_4_is_refused_by_readers_of_format_3() {
    let bytes = encode_snapshot(&tls_sample());
    assert_eq!(wire::root_as_snapshot(&bytes).unwrap().format(), 4);
    assert_eq!(decode_snapshot(GOLDEN_4).unwrap(), tls_sample());
    assert_eq!(bytes, GOLDEN_4, "a change of the form needs a new format");
}

#[test]
fn what_is_new_in_format_5_is_refused_by_readers_of_format_4() {
    let bytes = encode_snapshot(&latest_sample());
    assert_eq!(wire::root_as_snapshot(&bytes).unwrap().format(), 5);
    assert_eq!(decode_snapshot(GOLDEN_5).unwrap(), latest_sample());
    assert_eq!(bytes, GOLDEN_5, "a change of the form needs a new format");
}

#[test]
fn a_suspension_of_two_things_is_refused() {
    let mut to = FlatBufferBuilder::new();
    let reason = Some(to.create_string(""));
    let args = wire::SuspensionArgs { id: 5, source: Some(1), tenant: Some(1), reason, site: None };
    let suspension = wire::Suspension::create(&mut to, &args);
    let suspensions = Some(to.create_vector(&[suspension]));
    let args = wire::SnapshotArgs { format: FORMAT, suspensions, ..wire::SnapshotArgs::default() };
    let root = wire::Snapshot::create(&mut to, &args);
    wire::finish_snapshot_buffer(&mut to, root);
    assert!(matches!(decode_snapshot(to.finished_data()), Err(WireError::SuspensionTarget { id: 5 })));
}
