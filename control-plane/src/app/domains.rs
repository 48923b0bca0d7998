//! Sending domains, their keys, and what to publish in DNS for them.

use postrail_schema::ids::PoolId;
use postrail_schema::snapshot::{KeyAlgorithm, SendingDomain};
use postrail_schema::standing::Standing;
use serde::Serialize;

use super::keys::{ALGORITHMS, make_keys};
use super::{App, AppError, names};
use crate::plan::Desired;

/// A sending domain to make.
#[derive(Clone, Debug)]
pub(crate) struct NewDomain {
    pub tenant: String,
    pub name: String,
    /// By name; `None`: the default pool.
    pub pool: Option<String>,
    /// The algorithms of its DKIM keys; `None`: all. Without one its mail is not signed.
    pub algorithms: Option<Vec<KeyAlgorithm>>,
}

/// A record to publish.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct DnsRecord {
    /// `dkim`, `spf` or `dmarc`.
    pub purpose: &'static str,
    /// Absolute, without the final dot.
    pub name: String,
    /// Always `TXT`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The text as a whole.
    pub value: String,
    /// The text as a zone file wants it: quoted strings of at most 255 octets.
    pub zone_value: String,
}

impl App {
    /// Makes the domain with its keys.
    ///
    /// # Errors
    /// The name is taken or malformed, or tenant or pool do not exist.
    pub(crate) fn create_domain(&self, new: &NewDomain) -> Result<SendingDomain, AppError> {
        let name = names::domain("/name", &new.name, false)?;
        let algorithms = new.algorithms.as_deref().unwrap_or(&ALGORITHMS);
        if algorithms.iter().enumerate().any(|(index, algorithm)| algorithms[..index].contains(algorithm)) {
            return Err(AppError::invalid("/dkim_keys", "a domain has one key of an algorithm"));
        }
        self.change(|draft| {
            if draft.desired.domain(&name).is_some() {
                return Err(AppError::conflict(format!("domain {name} exists")));
            }
            let tenant = draft.tenant(&new.tenant)?.id;
            let pool = new.pool.as_deref().map(|pool| pool_id(&draft.desired, pool)).transpose()?;
            let keys = make_keys(&self.master, algorithms, || draft.counters().next_key())?;
            let id = draft.counters().next_domain();
            let domain = SendingDomain { id, tenant, name: name.clone(), keys, pool, standing: Standing::Trusted };
            draft.put(domain.clone())?;
            Ok(domain)
        })
    }

    /// Assigns the pool of that name, or with `None` the default pool.
    ///
    /// # Errors
    /// Domain or pool do not exist.
    pub(crate) fn assign_pool(&self, name: &str, pool: Option<&str>) -> Result<SendingDomain, AppError> {
        self.change(|draft| {
            let found = draft.desired.domain(name).cloned();
            let mut domain = found.ok_or_else(|| AppError::not_found("domain", name))?;
            domain.pool = pool.map(|pool| pool_id(&draft.desired, pool)).transpose()?;
            draft.put(domain.clone())?;
            Ok(domain)
        })
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_domain(&self, name: &str) -> Result<(), AppError> {
        self.change(|draft| {
            let id = draft.desired.domain(name).map(|domain| domain.id);
            draft.delete::<SendingDomain>(&id.ok_or_else(|| AppError::not_found("domain", name))?);
            Ok(())
        })
    }

    /// The host name of this installation.
    pub(crate) fn hostname(&self) -> &str {
        &self.hostname
    }
}

fn pool_id(desired: &Desired, name: &str) -> Result<PoolId, AppError> {
    let pool = desired.pool(name).ok_or_else(|| AppError::invalid("/pool", format!("pool {name} does not exist")))?;
    Ok(pool.id)
}

/// What to publish for `domain`: a key record for each DKIM key (RFC 6376 3.6.1, RFC 8463), SPF for the sources of its pool
/// (RFC 7208) and a first DMARC policy that only observes (RFC 9091 and RFC 7489).
pub(crate) fn dns_records(desired: &Desired, domain: &SendingDomain, hostname: &str) -> Vec<DnsRecord> {
    let mut records: Vec<_> = domain
        .keys
        .iter()
        .map(|key| {
            let algorithm = match key.algorithm {
                KeyAlgorithm::RsaSha256 => "rsa",
                KeyAlgorithm::Ed25519Sha256 => "ed25519",
            };
            let value = format!("v=DKIM1; k={algorithm}; p={}", key.public_key);
            txt("dkim", format!("{}._domainkey.{}", key.selector, domain.name), value)
        })
        .collect();
    records.push(txt("spf", domain.name.clone(), spf(desired, domain, hostname)));
    records.push(txt("dmarc", format!("_dmarc.{}", domain.name), "v=DMARC1; p=none".to_owned()));
    records
}

/// A source without an address of its own sends from an address of the host, so the host's name stands for it.
fn spf(desired: &Desired, domain: &SendingDomain, hostname: &str) -> String {
    let pool = domain.pool.and_then(|pool| desired.pools.get(&pool)).or_else(|| desired.pool("default"));
    let sources = pool.into_iter().flat_map(|pool| &pool.members).filter_map(|m| desired.sources.get(&m.source));
    let mut terms: Vec<String> = sources
        .map(|source| match source.address {
            address if address.is_unspecified() => format!("a:{hostname}"),
            std::net::IpAddr::V4(address) => format!("ip4:{address}"),
            std::net::IpAddr::V6(address) => format!("ip6:{address}"),
        })
        .collect();
    terms.sort();
    terms.dedup();
    format!("v=spf1 {} ~all", terms.join(" "))
}

fn txt(purpose: &'static str, name: String, value: String) -> DnsRecord {
    let strings: Vec<_> = value
        .as_bytes()
        .chunks(TXT_STRING_BYTES_MAX)
        .map(|chunk| format!("\"{}\"", String::from_utf8_lossy(chunk)))
        .collect();
    DnsRecord { purpose, name, kind: "TXT", zone_value: strings.join(" "), value }
}

/// RFC 1035 section 3.3: one character-string.
const TXT_STRING_BYTES_MAX: usize = 255;
