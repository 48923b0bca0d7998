//! Sending domains, their keys, and what to publish in DNS for them.

use std::net::IpAddr;

use postrail_schema::ids::{PoolId, SendingDomainId, TenantId};
use postrail_schema::keys;
use postrail_schema::limits::DOMAINS_UNPROVED_MAX;
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm, SendingDomain};
use postrail_schema::standing::{DomainRecord, Standing};

use super::keys::{ALGORITHMS, make_keys, selector_of};
use super::{App, AppError, Caller, Precondition, names};
use crate::plan::{Desired, DomainEntry, NOT_READ_YET, Verification};
use crate::store::Write;
use crate::verify::{DnsRecord, Subject, SubjectKey, records, token};

/// A sending domain to make.
#[derive(Clone, Debug)]
pub(crate) struct NewDomain {
    pub tenant: String,
    pub name: String,
    /// By name; `None`: the default pool.
    pub pool: Option<String>,
    /// The algorithms of its DKIM keys; `None`: all. Without one its mail is not signed.
    pub algorithms: Option<Vec<KeyAlgorithm>>,
    /// What lets it send; `None`: as the installation's settings say.
    pub verification: Option<Verification>,
    /// Who makes it: a tenant's own domains have to prove themselves, and their claims are bounded.
    pub by: Caller,
}

/// What to change of a domain; `None`: as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct DomainChange {
    /// A pool by name; `Some(None)`: the default pool.
    pub pool: Option<Option<String>>,
    pub verification: Option<Verification>,
}

impl App {
    /// Makes the domain with its keys.
    ///
    /// # Errors
    /// The name is taken or malformed, or tenant or pool do not exist.
    pub(crate) fn create_domain(&self, new: &NewDomain) -> Result<SendingDomain, AppError> {
        let name = name_of("/name", &new.name)?;
        let algorithms = new.algorithms.as_deref().unwrap_or(&ALGORITHMS);
        if algorithms.iter().enumerate().any(|(index, algorithm)| algorithms[..index].contains(algorithm)) {
            return Err(AppError::invalid("/dkim_keys", "a domain has one key of an algorithm"));
        }
        self.change(|draft| {
            let tenant = draft.tenant(&new.tenant)?.id;
            check_claim(&draft.desired, tenant, &name, &new.by)?;
            let verification = new.verification.unwrap_or(draft.desired.settings.domain_verification);
            let standing = match (&new.by, verification) {
                (Caller::Operator { .. }, Verification::Operator) => Standing::Trusted,
                _ => UNPROVED,
            };
            let pool = new.pool.as_deref().map(|pool| pool_id(&draft.desired, pool)).transpose()?;
            let salt = draft.desired.settings.ownership_salt.clone();
            let keys = make_keys(self.sealing(&draft.desired)?, algorithms, |algorithm| {
                let id = draft.counters().next_key();
                (id, selector_of(&salt, algorithm, id))
            })?;
            let id = draft.counters().next_domain();
            let domain = SendingDomain {
                id,
                tenant,
                name: name.clone(),
                keys,
                pool,
                standing,
                is_platform: false,
                is_later: false,
            };
            check_begin(&draft.desired, &domain)?;
            draft.put(domain.clone())?;
            Ok(domain)
        })
    }

    /// Changes what may be changed of a domain.
    ///
    /// # Errors
    /// Domain or pool do not exist, or hosts do not read a second domain of the name yet.
    pub(crate) fn change_domain(
        &self,
        id: SendingDomainId,
        change: &DomainChange,
        when: &Precondition,
    ) -> Result<SendingDomain, AppError> {
        if change.pool.is_none() && change.verification.is_none() {
            return Err(AppError::invalid("", "name a pool or a verification to change"));
        }
        self.change(|draft| {
            let mut domain = find(&draft.desired, id)?.clone();
            when.check(&DomainEntry::of(&draft.desired, &domain))?;
            if let Some(pool) = &change.pool {
                domain.pool = pool.as_deref().map(|pool| pool_id(&draft.desired, pool)).transpose()?;
            }
            match (change.verification, domain.standing) {
                (Some(Verification::Operator), before) => {
                    domain.standing = Standing::Trusted;
                    if !before.may_send() {
                        check_begin(&draft.desired, &domain)?;
                    }
                }
                (Some(Verification::Dns), Standing::Trusted) => domain.standing = UNPROVED,
                (Some(Verification::Dns) | None, _) => {}
            }
            draft.put(domain.clone())?;
            Ok(domain)
        })
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_domain(&self, id: SendingDomainId, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            when.check(&DomainEntry::of(&draft.desired, find(&draft.desired, id)?))?;
            draft.delete::<SendingDomain>(&id);
            draft.writes.push(Write::Delete { key: keys::check(id) });
            Ok(())
        })
    }

    /// The host name of this installation.
    pub(crate) fn hostname(&self) -> &str {
        &self.hostname
    }
}

pub(super) fn find(desired: &Desired, id: SendingDomainId) -> Result<&SendingDomain, AppError> {
    desired.domains.get(&id).ok_or_else(|| AppError::not_found("domain", id.to_string()))
}

/// Whether `tenant` may have a domain of that name. Whether others have one is nothing to it.
fn check_claim(desired: &Desired, tenant: TenantId, name: &str, by: &Caller) -> Result<(), AppError> {
    if desired.domain(Some(tenant), name).is_some() {
        return Err(AppError::conflict(format!("domain {name} exists")));
    }
    let unproved = |domain: &&SendingDomain| domain.tenant == tenant && !domain.standing.may_send();
    let claims = desired.domains.values().filter(unproved).count();
    if !by.is_operator() && claims >= DOMAINS_UNPROVED_MAX {
        let detail = format!("{claims} domains are not proved yet; prove or delete some before you add another");
        return Err(AppError::conflict(detail));
    }
    Ok(())
}

/// Whether a domain may have the operator's word beside others of its name.
fn check_begin(desired: &Desired, domain: &SendingDomain) -> Result<(), AppError> {
    match desired.holder_beside(domain).filter(|_| domain.standing.may_send()) {
        Some(other) => {
            let tenant = desired.tenants.get(&other.tenant).map_or("another tenant", |tenant| &tenant.name);
            let name = &domain.name;
            Err(AppError::conflict(format!("{tenant} sends by {name}, and {NOT_READ_YET}")))
        }
        None => Ok(()),
    }
}

/// The name of a sending domain that is asked for: in the form in which it is kept.
pub(crate) fn domain_asked(text: &str) -> Result<String, AppError> {
    names::domain("", text, true).map_err(|_| AppError::not_found("domain", text))
}

/// The name of a sending domain in its one form.
pub(super) fn name_of(pointer: &'static str, text: &str) -> Result<String, AppError> {
    let name = names::domain(pointer, text, false)?;
    if is_public_suffix(&name) {
        return Err(AppError::invalid(pointer, format!("{name} is a public suffix, which is nobody's alone")));
    }
    Ok(name)
}

/// Whether the public suffix list has the name itself, in its part of registries.
fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.typ() == Some(psl::Type::Icann) && suffix == name)
}

fn pool_id(desired: &Desired, name: &str) -> Result<PoolId, AppError> {
    let pool = desired.pool(name).ok_or_else(|| AppError::invalid("/pool", format!("pool {name} does not exist")))?;
    Ok(pool.id)
}

/// A domain as its checks see it.
pub(crate) fn subject(desired: &Desired, domain: &SendingDomain, hostname: &str) -> Subject {
    let key = |key: &DkimKey| SubjectKey {
        selector: key.selector.clone(),
        algorithm: key.algorithm,
        public_key: key.public_key.clone(),
        stage: key.stage,
    };
    let pool = domain.pool.and_then(|pool| desired.pools.get(&pool)).or_else(|| desired.pool("default"));
    let sources = pool.into_iter().flat_map(|pool| &pool.members).filter_map(|m| desired.sources.get(&m.source));
    let addresses: Vec<_> = sources.map(|source| source.address).collect();
    Subject {
        name: domain.name.clone(),
        token: token(desired.settings.ownership_salt.as_bytes(), domain.tenant, &domain.name),
        keys: domain.keys.iter().map(key).collect(),
        unbound: addresses.iter().any(IpAddr::is_unspecified),
        addresses: addresses.into_iter().filter(|address| !address.is_unspecified()).collect(),
        hostname: hostname.to_owned(),
        spf_include: desired.settings.spf_include.clone(),
    }
}

/// What to publish for `domain`.
pub(crate) fn dns_records(desired: &Desired, domain: &SendingDomain, hostname: &str) -> Vec<DnsRecord> {
    records(&subject(desired, domain, hostname))
}

/// How a domain begins whose DNS decides.
pub(super) const UNPROVED: Standing = Standing::Unproved { missing: DomainRecord::Ownership };
