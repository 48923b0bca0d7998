//! Division, assembly, and what a torn publication must not do.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{CredentialId, KeyId};
use crate::policy::{RetryPolicy, RoutingRule};
use crate::region::Signpost;
use crate::selector::Selector;
use crate::snapshot::{DkimKey, EgressPool, EgressSource, KeyAlgorithm, PoolMember, Route, Suppression, Tenant};
use crate::tls::{TlsLevel, TlsRule, TlsVersion};
use crate::wire::{decode_advance, encode_advance, encode_manifest};

fn tenant(id: u32, weight: u32) -> Tenant {
    let name = format!("t{id}");
    Tenant {
        id: TenantId(id),
        name,
        quota_per_day: None,
        weight,
        message_bytes_max: 1_024,
        region: None,
        reserved_per_s: None,
        quarantines: false,
    }
}

fn content(tenants: u32) -> SnapshotContent {
    let key = |id| DkimKey {
        id: KeyId(id),
        selector: "s".into(),
        algorithm: KeyAlgorithm::Ed25519Sha256,
        sealed_private_key: vec![1; 60],
        public_key: "p".into(),
        stage: Default::default(),
        since_ms: 0,
    };
    SnapshotContent {
        revision: Revision(1),
        tenants: (1..=tenants).map(|id| tenant(id, 1)).collect(),
        credentials: (1..=tenants)
            .map(|id| Credential {
                id: CredentialId(id),
                tenant: TenantId(id),
                // Not in the order of the ids.
                username: format!("u{:09}", id.wrapping_mul(7_919) % 1_000_003),
                secret_hashes: vec!["$argon2id$x".into()],
                disabled: false,
                marks: Vec::new(),
                scopes: Default::default(),
                networks: Vec::new(),
                trusts_networks: false,
            })
            .collect(),
        domains: (1..=2 * tenants)
            .map(|id| SendingDomain {
                id: SendingDomainId(id),
                tenant: TenantId(id.div_ceil(2)),
                name: format!("d{id}.example"),
                keys: vec![key(id)],
                pool: Some(PoolId(1)),
                standing: Default::default(),
                is_platform: false,
                is_later: false,
            })
            .collect(),
        sources: vec![EgressSource {
            id: SourceId(1),
            name: "a".into(),
            address: [192, 0, 2, 1].into(),
            ehlo_name: "a.example".into(),
            needs: Default::default(),
        }],
        pools: vec![EgressPool {
            id: PoolId(1),
            name: "default".into(),
            tenant: None,
            members: vec![PoolMember { source: SourceId(1), weight: 1 }],
            classes: Default::default(),
        }],
        routes: ["*", "a.example", "b.example"]
            .map(|domain| Route { domain: domain.into(), routing_domain: None, port: 25, allow_private: false })
            .into(),
        ..SnapshotContent::default()
    }
}

/// A publication as it lies in a store.
fn publish(content: SnapshotContent) -> (Manifest, HashMap<ChunkName, Arc<[u8]>>) {
    let regions = content.regions.clone();
    let mut manifest = Manifest { revision: content.revision, regions, ..Manifest::default() };
    let mut bytes = HashMap::new();
    let of: HashMap<_, _> = content.tenants.iter().map(|tenant| (tenant.id, tenant.region)).collect();
    for (place, part) in divide(content, |tenant| of.get(&tenant).copied().flatten()) {
        let chunk = Chunk::encode(place, &part).unwrap();
        manifest.chunks.insert(place, (chunk.name.hash, chunk.name.length));
        bytes.insert(chunk.name, chunk.bytes);
    }
    (manifest, bytes)
}

fn fetch(assembly: &Assembly, next: &Manifest, from: &HashMap<ChunkName, Arc<[u8]>>) -> Vec<(ChunkName, Arc<[u8]>)> {
    assembly.missing(next).into_iter().map(|name| (name, Arc::clone(&from[&name]))).collect()
}

/// What a data plane would say of a snapshot, tables and links.
fn told(snapshot: &Snapshot) -> String {
    format!("{snapshot:?}")
}

#[test]
fn one_changed_record_changes_one_chunk() {
    let (before, bytes) = publish(content(1_000));
    let mut assembly = Assembly::default();
    assembly.apply(before.clone(), &fetch(&Assembly::default(), &before, &bytes)).unwrap();
    let mut changed = content(1_000);
    changed.revision = Revision(2);
    changed.tenants[500].weight = 9;
    let (after, bytes) = publish(changed.clone());
    let missing = assembly.missing(&after);
    assert_eq!(missing.iter().map(|name| name.place.to_string()).collect::<Vec<_>>(), ["tenants/7"]);
    let domains = assembly.snapshot().domains.clone();
    assembly.apply(after.clone(), &fetch(&assembly, &after, &bytes)).unwrap();
    assert_eq!(told(assembly.snapshot()), told(&Snapshot::new(changed).unwrap()));
    assert!(domains.is_shared_with(&assembly.snapshot().domains), "tables that do not differ are shared");
}

#[test]
fn a_chunk_that_is_missing_damaged_or_elsewhere_is_not_applied() {
    let (manifest, bytes) = publish(content(100));
    let all = fetch(&Assembly::default(), &manifest, &bytes);
    let refused = |chunks: &[(ChunkName, Arc<[u8]>)]| {
        let mut assembly = Assembly::default();
        let error = assembly.apply(manifest.clone(), chunks).unwrap_err();
        assert_eq!((assembly.snapshot().revision, assembly.manifest().revision), (Revision(0), Revision(0)));
        error
    };
    for at in 0..all.len() {
        let mut torn = all.clone();
        torn.remove(at);
        assert!(matches!(refused(&torn), PublicationError::Missing { .. }));
        let mut damaged = all.clone();
        let mut other = damaged[at].1.to_vec();
        *other.last_mut().unwrap() ^= 1;
        damaged[at].1 = other.into();
        assert!(matches!(refused(&damaged), PublicationError::Damaged { .. }));
    }
    // Bytes that are right, under the name of another place.
    let part = SnapshotContent { tenants: vec![tenant(1, 1)], ..SnapshotContent::default() };
    let chunk = Chunk::encode(ChunkPlace::everywhere(ChunkKind::Tenants, 5), &part).unwrap();
    let manifest = Manifest { chunks: [(chunk.name.place, (chunk.name.hash, chunk.name.length))].into(), ..manifest };
    let refused = Assembly::default().apply(manifest, &[(chunk.name, chunk.bytes)]).unwrap_err();
    assert!(matches!(refused, PublicationError::Misplaced { key } if key.contains("tenants/5")));
}

#[test]
fn a_publication_that_does_not_hold_together_changes_nothing() {
    let (manifest, bytes) = publish(content(100));
    let mut assembly = Assembly::default();
    assembly.apply(manifest.clone(), &fetch(&Assembly::default(), &manifest, &bytes)).unwrap();
    let mut broken = content(100);
    broken.tenants.remove(10);
    let (next, bytes) = publish(broken);
    let chunks = fetch(&assembly, &next, &bytes);
    assert!(matches!(assembly.apply(next, &chunks), Err(PublicationError::Content(SnapshotError::Dangling { .. }))));
    assert_eq!(assembly.manifest(), &manifest);
    assert_eq!(told(assembly.snapshot()), told(&Snapshot::new(content(100)).unwrap()));
}

#[test]
fn a_name_is_had_by_each_tenant_once_whatever_others_do_with_it() {
    let shared = |content: &mut SnapshotContent, id: usize| content.domains[id - 1].name = "d1.example".to_owned();
    let mut two = content(2);
    // The domains 1 and 2 are of the first tenant, 3 and 4 of the second.
    shared(&mut two, 3);
    let both = Snapshot::new(two.clone()).unwrap();
    let of = |snapshot: &Snapshot, tenant| snapshot.domain_of(TenantId(tenant), "d1.example").map(|domain| domain.id.0);
    assert_eq!([1, 2, 3].map(|tenant| of(&both, tenant)), [Some(1), Some(3), None]);
    let without = |id: u32| {
        let gone = two.domains.iter().filter(|domain| domain.id.0 == id).cloned().collect();
        let gone = SnapshotContent { domains: gone, ..SnapshotContent::default() };
        both.amended(&gone, SnapshotContent::default()).unwrap()
    };
    assert_eq!([1, 2].map(|tenant| of(&without(1), tenant)), [None, Some(3)]);
    assert_eq!([1, 2].map(|tenant| of(&without(3), tenant)), [Some(1), None]);
    shared(&mut two, 4);
    assert!(matches!(Snapshot::new(two), Err(SnapshotError::Duplicate { subject }) if subject == "domain/d1.example"));
}

#[test]
fn suppressions_come_by_themselves_and_stay_over_publications() {
    let (manifest, bytes) = publish(content(1));
    let mut assembly = Assembly::default();
    let suppression = Suppression { tenant: TenantId(1), address: "a@b.example".into() };
    assembly.apply_suppressions(4, [suppression].into_iter().collect());
    assembly.apply(manifest.clone(), &fetch(&Assembly::default(), &manifest, &bytes)).unwrap();
    assert!(assembly.snapshot().is_suppressed(TenantId(1), || "a@b.example".to_owned()));
    assert_eq!(assembly.suppressions_version(), 4);
}

#[test]
fn a_key_names_its_chunk_and_what_is_no_key_names_none() {
    for region in [None, Some(RegionId(3))] {
        let place = ChunkPlace { kind: ChunkKind::Routes, bucket: 17, region };
        let name = ChunkName { place, hash: ChunkHash(u128::MAX >> 3), length: 1 };
        assert_eq!(parse_key(&name.key()), Some((place, name.hash)));
    }
    for key in [
        "",
        "published/manifest",
        "published/chunks/x/1/2",
        "published/chunks/pools/1",
        "published/chunks/pools/-1/2",
        "published/chunks/pools/1@/2",
    ] {
        assert_eq!(parse_key(key), None, "{key}");
    }
}

/// Two thirds of the tenants in regions, with all that is theirs.
fn regional(tenants: u32) -> SnapshotContent {
    let mut content = content(tenants);
    let region =
        |id, name: &str| Region { id: RegionId(id), name: name.into(), submission_host: format!("{name}.example") };
    content.regions = vec![region(1, "eu"), region(2, "us")];
    for tenant in &mut content.tenants {
        tenant.region = Some(RegionId(tenant.id.0 % 3)).filter(|region| region.0 != 0);
    }
    for credential in &mut content.credentials {
        let region = RegionId(credential.tenant.0 % 3);
        if region.0 != 0 {
            let mark = u64::from(credential.id.0) << 32;
            credential.marks = vec![mark];
            content.signposts.push(Signpost { mark, region, credential: credential.id });
        }
    }
    content.suspensions = (1..=tenants)
        .map(|id| Suspension {
            id: SuspensionId(id),
            target: SuspensionTarget::Tenant(TenantId(id)),
            reason: "r".into(),
        })
        .collect();
    let of = |tenant| Selector { tenant: Some(TenantId(tenant)), ..Selector::default() };
    content.retry_policies = (1..=tenants)
        .map(|id| RetryPolicy { name: format!("r{id}"), selector: of(id), delays: None, expiry_s: Some(60) })
        .collect();
    content.routing_rules =
        (1..=tenants).map(|id| RoutingRule { name: format!("r{id}"), selector: of(id), pool: PoolId(1) }).collect();
    content.tls_rules = (1..=tenants)
        .map(|id| TlsRule {
            name: format!("r{id}"),
            selector: of(id),
            level: TlsLevel::Required,
            minimum_version: TlsVersion::V1_2,
            hosts: Vec::new(),
        })
        .collect();
    content.pools.push(EgressPool {
        id: PoolId(2),
        name: "own".into(),
        tenant: Some(TenantId(1)),
        ..content.pools[0].clone()
    });
    content
}

#[test]
fn a_host_reads_of_its_region_and_of_none_and_of_no_other() {
    let (whole, bytes) = publish(regional(300));
    for (region, served) in [("eu", &[0, 1][..]), ("us", &[0, 2]), ("", &[0]), ("other", &[0])] {
        let manifest = whole.clone().within(region);
        let mut assembly = Assembly::default();
        assembly.apply(manifest.clone(), &fetch(&Assembly::default(), &manifest, &bytes)).unwrap();
        let snapshot = assembly.snapshot();
        let is_served = |tenant: TenantId| served.contains(&(tenant.0 % 3));
        let expected: Vec<_> = (1..=300).map(TenantId).filter(|tenant| is_served(*tenant)).collect();
        assert_eq!(snapshot.tenants.keys().copied().collect::<Vec<_>>(), expected, "{region}");
        assert_eq!(snapshot.domains.len(), 2 * expected.len());
        assert!(snapshot.credentials.values().all(|credential| is_served(credential.tenant)));
        assert_eq!((snapshot.credentials.len(), snapshot.suspensions.len()), (expected.len(), expected.len()));
        assert_eq!((snapshot.policies.retry.len(), snapshot.policies.routing.len()), (expected.len(), expected.len()));
        assert_eq!(snapshot.tls.all.len(), expected.len());
        assert_eq!(snapshot.pools.contains_key(&PoolId(2)), served.contains(&1));
        assert_eq!((snapshot.signposts.len(), snapshot.regions.len()), (200, 2));
    }
}

#[test]
fn a_record_of_one_region_in_the_chunk_of_another_is_not_applied() {
    let (manifest, _) = publish(regional(3));
    let of = |part, kind, region| {
        let place = ChunkPlace { kind, bucket: 0, region };
        let chunk = Chunk::encode(place, &part).unwrap();
        let chunks = [(place, (chunk.name.hash, chunk.name.length))].into();
        Assembly::default().apply(Manifest { chunks, ..manifest.clone() }, &[(chunk.name, chunk.bytes)])
    };
    let whole = regional(3);
    let tenants = SnapshotContent { tenants: vec![whole.tenants[0].clone()], ..SnapshotContent::default() };
    let eu = Some(RegionId(1));
    of(tenants.clone(), ChunkKind::Tenants, eu).unwrap();
    for region in [None, Some(RegionId(2))] {
        let refused = of(tenants.clone(), ChunkKind::Tenants, region);
        assert!(matches!(refused, Err(PublicationError::Misplaced { .. })), "{region:?}");
    }
    let credentials = SnapshotContent { credentials: whole.credentials[..1].to_vec(), ..SnapshotContent::default() };
    let refused = of(credentials, ChunkKind::Credentials, None);
    assert!(matches!(refused, Err(PublicationError::Content(SnapshotError::Dangling { .. }))));
}

#[test]
fn there_is_a_way_only_from_one_known_manifest_over_few_chunks_within_the_same_regions() {
    let (former, _) = publish(content(3_000));
    let hashes = (ManifestHash(1), ManifestHash(2));
    let between =
        |next: &Manifest, chunks: &[Chunk]| Advance::between(Some((hashes.0, &former)), (hashes.1, next), chunks);
    let all = |bytes: HashMap<ChunkName, Arc<[u8]>>| -> Vec<Chunk> {
        bytes.into_iter().map(|(name, bytes)| Chunk { name, bytes }).collect()
    };
    // Some chunks too large to go with it: their names do.
    let mut changed = content(3_000);
    (0..60).for_each(|bucket| changed.domains[64 * bucket].keys[0].sealed_private_key = vec![7; 2_000]);
    let (next, bytes) = publish(changed.clone());
    let advance = between(&next, &all(bytes));
    assert_eq!((advance.from, advance.names().count()), (Some(hashes.0), 60));
    assert!(advance.bytes.is_empty() && advance.chunks().is_empty());
    assert_eq!(former.advanced(&advance, ""), next);
    // Too many, another region, and nothing known before.
    (60..70).for_each(|bucket| changed.domains[64 * bucket].keys[0].sealed_private_key = vec![7; 60]);
    let (many, bytes) = publish(changed);
    let regions = vec![Region { id: RegionId(1), name: "eu".into(), submission_host: "eu.example".into() }];
    let elsewhere = Manifest { regions, ..former.clone() };
    let unknown = Advance::between(None, (hashes.1, &next), &[]);
    for (none, at) in [(between(&many, &all(bytes)), &many), (between(&elsewhere, &[]), &elsewhere), (unknown, &next)] {
        assert_eq!((none.from, none.to, none.revision, none.places), (None, hashes.1, at.revision, Vec::new()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any way from one content to another ends where a fresh start would, also for who is told of it by advances alone.
    #[test]
    fn changes_in_any_order_end_as_a_fresh_start_would(steps in proptest::collection::vec((1_u32..200, 1_u32..5, any::<bool>()), 1..12)) {
        let mut assembly = Assembly::default();
        let mut now = regional(150);
        now.signposts.clear();
        let (mut former, _) = publish(now.clone());
        let mut told_of = ["", "eu", "us"].map(|region| (region, former.clone().within(region)));
        for (revision, (id, weight, removes)) in (2..).zip(steps) {
            now.revision = Revision(revision);
            now.tenants.retain(|tenant| tenant.id != TenantId(id));
            now.credentials.retain(|credential| credential.tenant != TenantId(id) || !removes);
            now.domains.retain(|domain| domain.tenant != TenantId(id) || !removes);
            now.suspensions.retain(|held| held.target != SuspensionTarget::Tenant(TenantId(id)) || !removes);
            now.retry_policies.retain(|policy| policy.selector.tenant != Some(TenantId(id)) || !removes);
            now.tls_rules.retain(|rule| rule.selector.tenant != Some(TenantId(id)) || !removes);
            now.routing_rules.retain(|rule| rule.selector.tenant != Some(TenantId(id)) || !removes);
            if !removes {
                let region = Some(RegionId(id % 3)).filter(|region| region.0 != 0);
                now.tenants.push(Tenant { region, ..tenant(id, weight) });
                now.tenants.sort_by_key(|tenant| tenant.id);
            }
            let (next, bytes) = publish(now.clone());
            let all: Vec<_> = bytes.iter().map(|(name, bytes)| Chunk { name: *name, bytes: Arc::clone(bytes) }).collect();
            let hash = |manifest: &Manifest| ManifestHash::of(&encode_manifest(manifest));
            let advance = Advance::between(Some((hash(&former), &former)), (hash(&next), &next), &all);
            let advance = decode_advance(&encode_advance(&advance)).unwrap();
            prop_assert_eq!((advance.from, advance.to), (Some(hash(&former)), hash(&next)));
            for (region, manifest) in &mut told_of {
                *manifest = manifest.advanced(&advance, region);
                prop_assert_eq!(&*manifest, &next.clone().within(region));
            }
            let missing = assembly.missing(&next);
            let chunks = advance.chunks();
            let carries = advance.names().all(|name| name.place.region.is_none());
            prop_assert!(carries || chunks.is_empty(), "what belongs to a region is not told to every host");
            let is_first = assembly.manifest().revision == Revision(0);
            prop_assert!(is_first || !carries || missing == chunks.iter().map(|(name, _)| *name).collect::<Vec<_>>());
            let chunks = if is_first || !carries { fetch(&assembly, &next, &bytes) } else { chunks };
            former = next.clone();
            assembly.apply(next, &chunks).unwrap();
            prop_assert_eq!(told(assembly.snapshot()), told(&Snapshot::new(now.clone()).unwrap()));
        }
    }
}
