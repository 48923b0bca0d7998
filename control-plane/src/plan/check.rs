//! Findings about desired state. `Error` keeps a plan from being published; the others are shown to operators.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postrail_schema::allocation::{Carrier, HostName, HostNeeds, is_allocated};
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::snapshot::{EgressSource, KeyStage, SuspensionTarget};
use postrail_schema::standing::{DomainRecord, Standing};

use super::{Desired, policies, routing};

pub(super) fn check(desired: &Desired) -> Vec<Problem> {
    let mut problems = Vec::new();
    names(desired, &mut problems);
    claims(desired, &mut problems);
    tenancy(desired, &mut problems);
    signing(desired, &mut problems);
    egress(desired, &mut problems);
    addresses(desired, &mut problems);
    stops(desired, &mut problems);
    policies::check(desired, &mut problems);
    routing::check(desired, &mut problems);
    problems
}

type Problems = Vec<Problem>;

fn add(to: &mut Problems, severity: Severity, code: &'static str, subject: String, detail: impl Into<String>) {
    to.push(Problem { severity, code, subject, detail: detail.into() });
}

/// Names are unique within their kind, over all tenants; those of domains in [`claims`].
fn names(desired: &Desired, to: &mut Problems) {
    let kinds: [(&str, Vec<&str>); 5] = [
        ("tenant", desired.tenants.values().map(|tenant| tenant.name.as_str()).collect()),
        ("credential", desired.credentials.values().map(|credential| credential.username.as_str()).collect()),
        ("source", desired.sources.values().map(|source| source.name.as_str()).collect()),
        ("region", desired.regions.values().map(|region| region.name.as_str()).collect()),
        ("pool", desired.pools.values().map(|pool| pool.name.as_str()).collect()),
    ];
    for (kind, names) in kinds {
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name) {
                let detail = "the name occurs twice; delete or rename one of the two";
                add(to, Severity::Error, "duplicate_name", format!("{kind}/{name}"), detail);
            }
        }
    }
}

/// Several tenants may claim a domain until one has shown whose it is.
fn claims(desired: &Desired, to: &mut Problems) {
    let (mut claimed, mut held) = (BTreeSet::new(), BTreeSet::new());
    for domain in desired.domains.values() {
        let twice = !claimed.insert((domain.tenant, domain.name.as_str()));
        if twice || (domain.standing.may_send() && !held.insert(domain.name.as_str())) {
            let detail = "the name occurs twice; delete or rename one of the two";
            add(to, Severity::Error, "duplicate_name", format!("domain/{}", domain.name), detail);
        }
        let missing = |missing: DomainRecord| format!("{} record {}", missing.word(), domain.record_name(missing));
        let (code, detail) = match domain.standing {
            Standing::Trusted | Standing::Verified => continue,
            Standing::Failing => {
                ("domain_failing", "a DNS record that it needs is missing or wrong; it lapses soon".to_owned())
            }
            Standing::Unproved { missing: record } => {
                ("domain_unproved", format!("it cannot send before its {} is published", missing(record)))
            }
            Standing::Lapsed { missing: record } => {
                ("domain_lapsed", format!("it cannot send until its {} is back", missing(record)))
            }
        };
        let severity = if code == "domain_unproved" { Severity::Note } else { Severity::Warning };
        add(to, severity, code, format!("domain/{}", domain.name), detail);
    }
}

fn tenancy(desired: &Desired, to: &mut Problems) {
    for tenant in desired.tenants.values() {
        if tenant.region.is_some_and(|region| !desired.regions.contains_key(&region)) {
            add(to, Severity::Error, "dangling_region", format!("tenant/{}", tenant.name), "its region does not exist");
        }
    }
    for credential in desired.credentials.values() {
        let subject = || format!("credential/{}", credential.username);
        if !desired.tenants.contains_key(&credential.tenant) {
            add(to, Severity::Error, "dangling_tenant", subject(), "its tenant does not exist");
        }
        if credential.disabled {
            add(to, Severity::Note, "credential_disabled", subject(), "it is disabled and cannot submit mail");
        }
    }
    for domain in desired.domains.values() {
        let subject = || format!("domain/{}", domain.name);
        if !desired.tenants.contains_key(&domain.tenant) {
            add(to, Severity::Error, "dangling_tenant", subject(), "its tenant does not exist");
        }
        let Some(pool) = domain.pool else { continue };
        match desired.pools.get(&pool) {
            None => add(to, Severity::Error, "dangling_pool", subject(), "its pool does not exist"),
            Some(pool) if pool.tenant.is_some_and(|owner| owner != domain.tenant) => {
                let detail = format!("its pool {} is another tenant's; assign a shared pool or its own", pool.name);
                add(to, Severity::Error, "foreign_pool", subject(), detail);
            }
            Some(_) => {}
        }
    }
}

/// Keys, and the platform's domain.
fn signing(desired: &Desired, to: &mut Problems) {
    for domain in desired.domains.values() {
        let subject = || format!("domain/{}", domain.name);
        if !domain.keys.iter().any(|key| key.stage.signs()) {
            let platform = desired.settings.platform_domain.as_ref().map(|name| format!(" by itself, only by {name}"));
            let detail =
                format!("it has no DKIM key that signs; its mail is not signed{}", platform.unwrap_or_default());
            add(to, Severity::Warning, "domain_without_keys", subject(), detail);
        }
        let mut selectors = BTreeSet::new();
        for key in &domain.keys {
            if !selectors.insert(&key.selector) {
                let detail =
                    format!("two of its keys have the selector {}, and DNS has one record of it", key.selector);
                add(to, Severity::Error, "duplicate_selector", subject(), detail);
            }
            let record = format!("{}._domainkey.{}", key.selector, domain.name);
            match key.stage {
                KeyStage::Waiting => {
                    let detail =
                        format!("the key {} signs once its record is seen: publish TXT {record}", key.selector);
                    add(to, Severity::Note, "key_waits", subject(), detail);
                }
                KeyStage::Retired => {
                    let detail = format!("nothing is signed by the key {} any more: remove TXT {record}", key.selector);
                    add(to, Severity::Note, "key_record_over", subject(), detail);
                }
                KeyStage::Signing | KeyStage::Former { .. } => {}
            }
        }
    }
    let Some(name) = &desired.settings.platform_domain else { return };
    let subject = || format!("domain/{name}");
    match desired.domain(None, name) {
        None => {
            let detail = "it is to sign all mail, and is no sending domain: add it, or set another";
            add(to, Severity::Error, "platform_missing", subject(), detail);
        }
        Some(domain) if !domain.keys.iter().any(|key| key.stage.signs()) => {
            let detail = "it is to sign all mail, and has no DKIM key that signs";
            add(to, Severity::Warning, "platform_without_key", subject(), detail);
        }
        Some(domain) if desired.region_of(domain.tenant).is_some() => {
            let detail = "it is to sign all mail, and its tenant has a region: hosts elsewhere do not have its keys";
            add(to, Severity::Error, "platform_of_region", subject(), detail);
        }
        Some(_) => {}
    }
}

fn egress(desired: &Desired, to: &mut Problems) {
    for source in desired.sources.values() {
        let subject = || format!("source/{}", source.name);
        if !source.ehlo_name.contains('.') {
            let detail = "its EHLO name is not fully qualified; receivers refuse such names";
            add(to, Severity::Warning, "ehlo_name_short", subject(), detail);
        }
        if source.address.is_unspecified() {
            let detail = "it binds no address; the host's routing chooses one";
            add(to, Severity::Note, "source_unbound", subject(), detail);
        }
        if !desired.pools.values().any(|pool| pool.members.iter().any(|member| member.source == source.id)) {
            add(to, Severity::Note, "source_unused", subject(), "no pool holds it");
        }
    }
    for pool in desired.pools.values() {
        let subject = || format!("pool/{}", pool.name);
        if pool.members.is_empty() {
            add(to, Severity::Error, "pool_empty", subject(), "it holds no source; add one");
        }
        if pool.members.iter().any(|member| member.weight == 0) {
            add(to, Severity::Error, "weight_zero", subject(), "a weight is at least 1; remove the source instead");
        }
        if pool.members.iter().any(|member| !desired.sources.contains_key(&member.source)) {
            add(to, Severity::Error, "dangling_source", subject(), "it holds a source that does not exist");
        }
        if pool.tenant.is_some_and(|tenant| !desired.tenants.contains_key(&tenant)) {
            add(to, Severity::Error, "dangling_tenant", subject(), "its tenant does not exist");
        }
    }
    match desired.pool("default") {
        None if !desired.domains.is_empty() => {
            let detail = "there is no pool of this name; domains without a pool cannot send";
            add(to, Severity::Error, "no_default_pool", "pool/default".to_owned(), detail);
        }
        Some(pool) if pool.tenant.is_some() => {
            let detail = "it serves all domains without a pool, so it cannot be one tenant's";
            add(to, Severity::Error, "default_pool_owned", "pool/default".to_owned(), detail);
        }
        _ => {}
    }
    for route in desired.routes.values() {
        if route.allow_private {
            let detail = "it allows receivers at private and loopback addresses";
            add(to, Severity::Note, "route_private", format!("route/{}", route.domain), detail);
        }
    }
}

/// Sources that share an address move together, so what they ask of its host must go together.
fn addresses(desired: &Desired, to: &mut Problems) {
    let mut asked: BTreeMap<IpAddr, Vec<&EgressSource>> = BTreeMap::new();
    for source in desired.sources.values() {
        if is_allocated(source.address) {
            asked.entry(source.address).or_default().push(source);
        } else if source.needs != HostNeeds::default() {
            let detail = "every host has an address like its own, so what it asks of a host means nothing";
            add(to, Severity::Warning, "needs_unused", format!("source/{}", source.name), detail);
        }
    }
    for (address, sources) in asked {
        let of_host = |source: &&EgressSource| source.needs.host.as_ref().map(HostName::to_string);
        let of_carrier = |source: &&EgressSource| match &source.needs.carrier {
            Carrier::HostChoice => None,
            Carrier::Nic(nic) => Some(format!("the interface {nic}")),
            Carrier::Routed => Some("the network's routing".to_owned()),
        };
        let differing = |what: &dyn Fn(&&EgressSource) -> Option<String>| {
            let mut told = sources.iter().filter_map(|source| Some((&source.name, what(source)?)));
            let (first, one) = told.next()?;
            let (second, other) = told.find(|(_, other)| *other != one)?;
            Some(format!("{first} has {one}, {second} has {other}"))
        };
        let mut refuse = |code, what: &str, found: Option<String>| {
            if let Some(found) = found {
                let detail = format!("its sources name different {what} ({found}); an address has one");
                add(to, Severity::Error, code, format!("address/{address}"), detail);
            }
        };
        refuse("address_hosts_differ", "hosts", differing(&of_host));
        refuse("address_carriers_differ", "ways to its host", differing(&of_carrier));
    }
}

fn stops(desired: &Desired, to: &mut Problems) {
    for suspension in desired.suspensions.values() {
        let subject = format!("suspension/{}", suspension.id);
        let dangling = match &suspension.target {
            SuspensionTarget::Site(_) => false,
            SuspensionTarget::Source(source) => !desired.sources.contains_key(source),
            SuspensionTarget::Tenant(tenant) => !desired.tenants.contains_key(tenant),
        };
        if dangling {
            add(to, Severity::Error, "dangling_target", subject, "what it suspends does not exist; resume it");
        } else {
            add(to, Severity::Note, "suspended", subject, format!("mail waits: {}", suspension.reason));
        }
    }
}
