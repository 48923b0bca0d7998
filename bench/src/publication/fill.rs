//! Desired state as if many changes had made it: tenants with two domains each, and two DKIM keys a domain.
//!
//! Keys have the length and the disorder of real ones, and open with no master key.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrail_schema::keys;
use serde_json::{Value, json};

use super::etcd::Etcd;

/// Octets of a sealed RSA key of 2,048 bits, and of one of Ed25519.
const SEALED_BYTES: [usize; 2] = [1_246, 111];
/// Characters of their public halves.
const PUBLIC_CHARS: [usize; 2] = [392, 44];
const ALGORITHMS: [&str; 2] = ["rsa_sha256", "ed25519_sha256"];
/// Keys of one transaction: each has some kilobytes at most.
const KEYS: usize = 100;

/// Adds tenants to what is there; how long it took.
pub(super) fn fill(etcd: &Etcd, tenants: u32) -> Result<Duration> {
    let begun = Instant::now();
    let (found, _) = etcd.range(keys::HEAD, 0)?;
    let mut head: Value = serde_json::from_slice(&found.first().context("the first start wrote no head")?.value)?;
    let last = |head: &Value, kind: &str| head["counters"][kind].as_u64().and_then(|last| u32::try_from(last).ok());
    let first = |kind| last(&head, kind).with_context(|| format!("the head counts no {kind}")).map(|last| last + 1);
    let (tenant, domain, key) = (first("tenant")?, first("domain")?, first("key")?);
    let mut some = Vec::with_capacity(KEYS);
    for n in 0..tenants {
        some.push((keys::resource("tenants", &(tenant + n)), made_tenant(tenant + n, n)));
        for at in [2 * n, 2 * n + 1] {
            let domain = domain + at;
            some.push((keys::resource("domains", &domain), made_domain(domain, tenant + n, key + 2 * at)));
        }
        if some.len() + 3 > KEYS {
            etcd.put(&some)?;
            some.clear();
        }
    }
    for (kind, next) in [("tenant", tenant + tenants), ("domain", domain + 2 * tenants), ("key", key + 4 * tenants)] {
        head["counters"][kind] = json!(next - 1);
    }
    some.push((keys::HEAD.to_owned(), head));
    etcd.put(&some)?;
    Ok(begun.elapsed())
}

/// The name of the tenant `n`, from 0.
pub(super) fn tenant_name(n: u32) -> String {
    format!("made-{n}")
}

fn made_tenant(id: u32, n: u32) -> Value {
    json!({"id": id, "name": tenant_name(n), "quota_per_day": null, "weight": 1, "message_bytes_max": 1_048_576})
}

fn made_domain(id: u32, tenant: u32, key: u32) -> Value {
    let made = |at: usize| {
        json!({
            "id": key + at as u32,
            "selector": format!("pr{at}"),
            "algorithm": ALGORITHMS[at],
            "sealed_private_key": STANDARD.encode(disorder(key + at as u32, SEALED_BYTES[at])),
            "public_key": "A".repeat(PUBLIC_CHARS[at]),
        })
    };
    json!({"id": id, "tenant": tenant, "name": format!("made-{id}.test"), "keys": [made(0), made(1)], "pool": null})
}

/// Octets that follow from `seed` and do not repeat (xorshift).
fn disorder(seed: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 0x9e37_79b9_7f4a_7c15;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_up_is_read_as_the_schema_has_it() {
        let tenant: postrail_schema::snapshot::Tenant = serde_json::from_value(made_tenant(7, 3)).expect("a tenant");
        assert_eq!((tenant.id.0, tenant.name.as_str()), (7, "made-3"));
        let domain: postrail_schema::snapshot::SendingDomain =
            serde_json::from_value(made_domain(5, 7, 9)).expect("a domain");
        assert_eq!((domain.keys[0].sealed_private_key.len(), domain.keys[1].id.0), (1_246, 10));
        assert!(domain.standing.may_send());
        assert_ne!(disorder(1, 32), disorder(2, 32));
    }
}
