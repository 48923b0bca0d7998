//! What this code reads of the golden bytes, against what flatc reads of them by name.
//!
//! `cargo xtask schema` writes `golden/NAME.json` with today's schema, and checks that former readers find the same in what they
//! know. Here our own reading is put under the names of the schema and compared, so that a field that is read into another's
//! place, or not at all, is seen. What is absent and what is empty are the same here.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use postrail_schema::access::Network;
use postrail_schema::allocation::Carrier;
use postrail_schema::event::{AttemptFacts, Event, JobFacts};
use postrail_schema::listener::Listener;
use postrail_schema::policy::RetryPolicy;
use postrail_schema::publication::{ChunkHash, ChunkPlace, ManifestHash};
use postrail_schema::region::Region;
use postrail_schema::selector::Selector;
use postrail_schema::shaping::{Rate, ShapingRule};
use postrail_schema::snapshot::{
    Credential, EgressPool, EgressSource, SendingDomain, SnapshotContent, Suppression, Suspension, SuspensionTarget,
    Tenant,
};
use postrail_schema::standing::Standing;
use postrail_schema::tls::{TlsLevel, TlsRule, TlsVersion};
use postrail_schema::wire::{decode_advance, decode_events, decode_manifest, decode_snapshot};
use serde_json::{Value, json};

fn list<T>(records: &[T], show: impl Fn(&T) -> Value) -> Value {
    records.iter().map(show).collect()
}

fn octets(address: IpAddr) -> Value {
    match address {
        IpAddr::V4(address) => json!(address.octets()),
        IpAddr::V6(address) => json!(address.octets()),
    }
}

fn snapshot(content: &SnapshotContent) -> Value {
    json!({
        "revision": content.revision.0,
        "tenants": list(&content.tenants, tenant),
        "credentials": list(&content.credentials, credential),
        "domains": list(&content.domains, domain),
        "sources": list(&content.sources, source),
        "pools": list(&content.pools, pool),
        "routes": list(&content.routes, |route| json!({
            "domain": route.domain, "routing_domain": route.routing_domain, "port": route.port,
            "allow_private": route.allow_private,
        })),
        "suspensions": list(&content.suspensions, suspension),
        "suppressions": suppressions(&content.suppressions.iter().collect::<Vec<_>>()),
        "regions": list(&content.regions, region),
        "signposts": list(&content.signposts, |post| json!({
            "mark": post.mark, "region": post.region.0, "credential": post.credential.0,
        })),
        "retry_policies": list(&content.retry_policies, retry_policy),
        "routing_rules": list(&content.routing_rules, |rule| json!({
            "name": rule.name, "selector": selector(&rule.selector), "pool": rule.pool.0,
        })),
        "providers": list(&content.providers, |provider| json!({
            "id": provider.id.0, "name": provider.name, "hosts": provider.hosts,
        })),
        "shaping_rules": list(&content.shaping_rules, shaping_rule),
        "listeners": list(&content.listeners, listener),
        "tls_rules": list(&content.tls_rules, tls_rule),
    })
}

fn tenant(tenant: &Tenant) -> Value {
    json!({
        "id": tenant.id.0, "name": tenant.name, "quota_per_day": tenant.quota_per_day, "weight": tenant.weight,
        "message_bytes_max": tenant.message_bytes_max, "region": tenant.region.map(|region| region.0),
        "reserved_per_s": tenant.reserved_per_s, "quarantines": tenant.quarantines,
    })
}

fn network(network: &Network) -> Value {
    json!({ "address": octets(network.address()), "prefix": network.prefix() })
}

fn credential(credential: &Credential) -> Value {
    json!({
        "id": credential.id.0, "tenant": credential.tenant.0, "username": credential.username,
        "secret_hashes": credential.secret_hashes, "disabled": credential.disabled, "marks": credential.marks,
        "scopes": credential.scopes.bits(), "networks": list(&credential.networks, network),
        "trusts_networks": credential.trusts_networks,
    })
}

fn domain(domain: &SendingDomain) -> Value {
    let (standing, missing) = match domain.standing {
        Standing::Trusted => ("Trusted", None),
        Standing::Verified => ("Verified", None),
        Standing::Failing => ("Failing", None),
        Standing::Unproved { missing } => ("Unproved", Some(missing)),
        Standing::Lapsed { missing } => ("Lapsed", Some(missing)),
    };
    let keys = list(&domain.keys, |key| {
        json!({
            "id": key.id.0, "selector": key.selector, "algorithm": format!("{:?}", key.algorithm),
            "sealed_private_key": key.sealed_private_key, "public_key": key.public_key,
        })
    });
    json!({
        "id": domain.id.0, "tenant": domain.tenant.0, "name": domain.name, "keys": keys,
        "pool": domain.pool.map(|pool| pool.0), "standing": standing,
        "missing": missing.map_or_else(|| "Ownership".to_owned(), |record| format!("{record:?}")),
        "platform": domain.is_platform, "later": domain.is_later,
    })
}

fn source(source: &EgressSource) -> Value {
    let nic = if let Carrier::Nic(nic) = &source.needs.carrier { Some(nic) } else { None };
    json!({
        "id": source.id.0, "name": source.name, "address": octets(source.address), "ehlo_name": source.ehlo_name,
        "nic": nic, "routed": source.needs.carrier == Carrier::Routed,
        "host": source.needs.host.as_ref().map(|host| host.as_str()), "capabilities": source.needs.capabilities,
    })
}

fn pool(pool: &EgressPool) -> Value {
    let members = list(&pool.members, |member| json!({ "source": member.source.0, "weight": member.weight }));
    json!({
        "id": pool.id.0, "name": pool.name, "tenant": pool.tenant.map(|tenant| tenant.0), "members": members,
        "classes": pool.classes.iter().map(|class| *class as u8).collect::<Vec<_>>(),
    })
}

fn suspension(suspension: &Suspension) -> Value {
    let mut shown = json!({ "id": suspension.id.0, "reason": suspension.reason });
    let (name, target) = match &suspension.target {
        SuspensionTarget::Site(site) => ("site", json!(site)),
        SuspensionTarget::Source(source) => ("source", json!(source.0)),
        SuspensionTarget::Tenant(tenant) => ("tenant", json!(tenant.0)),
    };
    shown[name] = target;
    shown
}

fn suppressions(all: &[&Suppression]) -> Value {
    let group = |group: &[&Suppression]| {
        let addresses: Vec<_> = group.iter().map(|suppression| &suppression.address).collect();
        json!({ "tenant": group[0].tenant.0, "addresses": addresses })
    };
    all.chunk_by(|one, other| one.tenant == other.tenant).map(group).collect()
}

fn region(region: &Region) -> Value {
    json!({ "id": region.id.0, "name": region.name, "submission_host": region.submission_host })
}

fn selector(selector: &Selector) -> Value {
    json!({
        "recipient_domain": selector.recipient_domain, "site": selector.site,
        "sending_domain": selector.sending_domain.map(|domain| domain.0),
        "tenant": selector.tenant.map(|tenant| tenant.0), "class": selector.class.map(|class| class as u8),
    })
}

fn retry_policy(policy: &RetryPolicy) -> Value {
    let delays = policy.delays.as_ref();
    json!({
        "name": policy.name, "selector": selector(&policy.selector),
        "first_delay_s": delays.map(|delays| delays.first_s),
        "factor_percent": delays.map(|delays| delays.factor_percent),
        "longest_delay_s": delays.map(|delays| delays.longest_s), "expiry_s": policy.expiry_s,
    })
}

fn shaping_rule(rule: &ShapingRule) -> Value {
    let rate = |rate: Rate| json!({ "count": rate.count(), "period_s": rate.period_s() });
    let matches = &rule.matches;
    json!({
        "id": rule.id.0, "name": rule.name, "source": matches.source.map(|id| id.0),
        "pool": matches.pool.map(|id| id.0), "provider": matches.provider.map(|id| id.0), "site": matches.site,
        "recipient_domain": matches.recipient_domain, "tenant": matches.tenant.map(|id| id.0),
        "campaign": matches.campaign, "class": matches.class.map(|class| class as u8),
        "connections": rule.connections, "mails_per_connection": rule.mails_per_connection,
        "mail_rate": rule.mail_rate.map(rate), "connection_rate": rule.connection_rate.map(rate),
    })
}

fn listener(listener: &Listener) -> Value {
    json!({
        "name": listener.name, "protocol": listener.protocol as u8, "address": octets(listener.address.ip()),
        "port": listener.address.port(), "hosts": list(&listener.hosts, |host| json!(host.as_str())),
        "region": listener.region.map(|region| region.0), "tls": listener.tls as u8,
        "only_tls13": listener.minimum_version == TlsVersion::V1_3, "certificate": listener.certificate,
        "networks": list(&listener.networks, network), "connections": listener.limits.connections,
        "connections_per_client": listener.limits.connections_per_client,
        "message_bytes_max": listener.limits.message_bytes_max, "idle_s": listener.limits.idle_s,
    })
}

fn tls_rule(rule: &TlsRule) -> Value {
    let level = TlsLevel::ALL.iter().position(|level| *level == rule.level);
    let version = if rule.minimum_version == TlsVersion::V1_3 { 3 } else { 2 };
    json!({
        "name": rule.name, "selector": selector(&rule.selector), "level": level, "minimum_version": version,
        "hosts": rule.hosts,
    })
}

fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

fn hash(hash: ManifestHash) -> Value {
    let [high, low] = halves(hash.0);
    json!({ "high": high, "low": low })
}

fn chunk((place, named): &(ChunkPlace, Option<(ChunkHash, u32)>)) -> Value {
    let (hash, length) = named.unwrap_or((ChunkHash(0), 0));
    let [high, low] = halves(hash.0);
    json!({
        "hash_high": high, "hash_low": low, "bucket": place.bucket, "length": length,
        "kind": format!("{:?}", place.kind),
    })
}

/// The regions of chunks; 0: for every host.
fn chunk_regions(chunks: &[(ChunkPlace, Option<(ChunkHash, u32)>)]) -> Value {
    list(chunks, |(place, _)| json!(place.region.map_or(0, |region| region.0)))
}

fn manifest(bytes: &[u8]) -> Value {
    let manifest = decode_manifest(bytes).expect("a manifest");
    let chunks: Vec<_> = manifest.chunks.iter().map(|(place, named)| (*place, Some(*named))).collect();
    json!({
        "revision": manifest.revision.0, "published_ms": manifest.published_ms, "suppressions": manifest.suppressions,
        "chunks": list(&chunks, chunk), "regions": list(&manifest.regions, region),
        "chunk_regions": chunk_regions(&chunks),
    })
}

fn advance(bytes: &[u8]) -> Value {
    let advance = decode_advance(bytes).expect("an advance");
    json!({
        "revision": advance.revision.0, "published_ms": advance.published_ms, "suppressions": advance.suppressions,
        "from": advance.from.map(hash), "to": hash(advance.to), "chunks": list(&advance.places, chunk),
        "chunk_regions": chunk_regions(&advance.places), "bytes": advance.bytes,
    })
}

fn job(job: &JobFacts) -> Value {
    json!({
        "credential": job.credential.0, "domain": job.domain.0, "interface": job.interface,
        "reverse_path": job.reverse_path, "bytes": job.bytes, "reference": job.reference, "campaign": job.campaign,
        "cost_center": job.cost_center, "traffic_class": job.class, "message_id_header": job.message_id_header,
        "recipients": job.recipients,
    })
}

fn attempt(attempt: &AttemptFacts) -> Value {
    json!({
        "number": attempt.number, "source": attempt.source.0, "source_address": attempt.source_address.map(octets),
        "site": attempt.site, "host": attempt.host, "host_address": attempt.host_address.map(octets),
        "tls": attempt.tls, "reply_code": attempt.reply_code, "enhanced_status": attempt.enhanced_status,
        "reply": attempt.reply, "phase": attempt.phase, "duration_ms": attempt.duration_ms,
    })
}

fn event(event: &Event) -> Value {
    let [high, low] = halves(event.message.bits());
    json!({
        "kind": format!("{:?}", event.kind), "message": { "high": high, "low": low }, "index": event.index.0,
        "at_ms": event.at_ms, "revision": event.revision.0, "tenant": event.tenant.0, "address": event.address,
        "job": event.job.as_deref().map(job), "attempt": event.attempt.as_ref().map(attempt), "reason": event.reason,
        "next_attempt_ms": event.next_attempt_ms,
    })
}

/// Without what says nothing, which chunks' regions do where all are for every host.
fn spare(value: Value) -> Value {
    let is_said = |name: &str, value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(regions) if name == "chunk_regions" => regions.iter().any(|region| *region != json!(0)),
        Value::Array(values) => !values.is_empty(),
        _ => true,
    };
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, spare(value)))
            .filter(|(name, value)| is_said(name, value))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(values) => values.into_iter().map(spare).collect(),
        other => other,
    }
}

#[test]
fn this_code_reads_in_each_field_what_the_schema_names_so() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut compared = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "bin") {
            continue;
        }
        let (bytes, name) = (fs::read(&path).unwrap(), path.file_stem().unwrap().to_str().unwrap());
        let read = match name.split('-').next().unwrap() {
            "snapshot" => snapshot(&decode_snapshot(&bytes).unwrap()),
            "manifest" => manifest(&bytes),
            "advance" => advance(&bytes),
            "events" => json!({ "events": list(&decode_events(&bytes).unwrap(), event) }),
            other => panic!("nobody reads {other}"),
        };
        let text = fs::read_to_string(path.with_extension("json")).unwrap();
        let mut named: Value = serde_json::from_str(&text).unwrap();
        named.as_object_mut().unwrap().remove("format");
        assert_eq!(spare(read), spare(named), "{name}");
        compared += 1;
    }
    assert!(compared >= 12, "{compared} golden buffers");
}
