//! Findings about the kinds of which there are few: sources, pools, routes, regions, suspensions. They are found anew at
//! each change; those about tenants, credentials and domains are in `findings`. `Error` keeps a plan from being
//! published; the others are shown to operators.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postrail_schema::access::Network;
use postrail_schema::allocation::{Carrier, HostName, HostNeeds, is_allocated};
use postrail_schema::ids::RegionId;
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::snapshot::{Credential, EgressSource, SuspensionTarget};
use postrail_schema::standing::Standing;

use super::{Desired, listeners, policies, routing};

pub(super) fn check(desired: &Desired) -> Problems {
    let mut problems = Problems::new();
    names(desired, &mut problems);
    platform(desired, &mut problems);
    trust(desired, &mut problems);
    egress(desired, &mut problems);
    addresses(desired, &mut problems);
    regions(desired, &mut problems);
    stops(desired, &mut problems);
    policies::check(desired, &mut problems);
    routing::check(desired, &mut problems);
    problems.extend(super::shaping::shaping_problems(desired));
    listeners::check(desired, &mut problems);
    super::tls::check(desired, &mut problems);
    problems
}

pub(super) type Problems = Vec<Problem>;

pub(super) fn add(
    to: &mut Problems,
    severity: Severity,
    code: &'static str,
    subject: String,
    detail: impl Into<String>,
) {
    to.push(Problem { severity, code, subject, detail: detail.into() });
}

/// A name that another record of its kind has.
pub(super) fn duplicate(to: &mut Problems, subject: String) {
    let detail = "the name occurs twice; delete or rename one of the two";
    add(to, Severity::Error, "duplicate_name", subject, detail);
}

fn names(desired: &Desired, to: &mut Problems) {
    let kinds: [(&str, Vec<&str>); 5] = [
        ("source", desired.sources.values().map(|source| source.name.as_str()).collect()),
        ("region", desired.regions.values().map(|region| region.name.as_str()).collect()),
        ("pool", desired.pools.values().map(|pool| pool.name.as_str()).collect()),
        ("provider", desired.providers.values().map(|provider| provider.name.as_str()).collect()),
        ("shaping_rule", desired.shaping_rules.values().map(|rule| rule.name.as_str()).collect()),
    ];
    for (kind, names) in kinds {
        let mut seen = BTreeSet::new();
        for name in names.into_iter().filter(|name| !seen.insert(*name)) {
            duplicate(to, format!("{kind}/{name}"));
        }
    }
}

/// The platform's domain.
fn platform(desired: &Desired, to: &mut Problems) {
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
    platform_shared(desired, name, to);
}

/// That another tenant's domain may become the first of the platform's name.
fn platform_shared(desired: &Desired, name: &str, to: &mut Problems) {
    let Some(domain) = desired.domain(None, name).filter(|domain| domain.standing != Standing::Trusted) else { return };
    if !desired.domains.values().any(|other| other.id != domain.id && other.name == name) {
        return;
    }
    let tenant = desired.tenants.get(&domain.tenant).map_or("", |tenant| &tenant.name);
    let detail = format!(
        "it signs all mail by the keys of tenant {tenant}, other tenants have the name too, and one that proves it may come first: give \
         the right one your word (`postrail domain verification {name} operator --tenant {tenant}`)"
    );
    add(to, Severity::Warning, "platform_shared", format!("domain/{name}"), detail);
}

/// Networks that are trusted: from one address nobody can be two.
fn trust(desired: &Desired, to: &mut Problems) {
    let of = |credential: &'_ Credential| {
        let username = credential.username.clone();
        credential.trusted().to_vec().into_iter().map(move |network| (network, username.clone()))
    };
    let mut trusted: Vec<(Network, String)> = desired.credentials.values().flat_map(of).collect();
    trusted.sort_unstable();
    for pair in trusted.windows(2) {
        let [(one, first), (other, second)] = pair else { continue };
        if one.overlaps(other) {
            let detail = format!(
                "it trusts {other}, which is in {one} that credential {first} trusts: who submits from there would be both"
            );
            add(to, Severity::Error, "trusted_networks_overlap", format!("credential/{second}"), detail);
        }
    }
}

fn egress(desired: &Desired, to: &mut Problems) {
    let members = desired.pools.values().flat_map(|pool| &pool.members);
    let used: BTreeSet<_> = members.map(|member| member.source).collect();
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
        if !used.contains(&source.id) {
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

/// An address that is in pools of tenants of several regions could be on a host of one of them only.
fn regions(desired: &Desired, to: &mut Problems) {
    let mut asked: BTreeMap<IpAddr, BTreeMap<RegionId, &str>> = BTreeMap::new();
    for pool in desired.pools.values() {
        let Some(region) = pool.tenant.and_then(|tenant| desired.region_of(tenant)) else { continue };
        for source in pool.members.iter().filter_map(|member| desired.sources.get(&member.source)) {
            if is_allocated(source.address) {
                asked.entry(source.address).or_default().entry(region).or_insert(&pool.name);
            }
        }
    }
    for (address, pools) in asked.iter().filter(|(_, pools)| pools.len() > 1) {
        let names: Vec<_> = pools.values().copied().collect();
        let detail =
            format!("it is in pools of tenants of different regions ({}); an address is in one", names.join(", "));
        add(to, Severity::Error, "address_regions_differ", format!("address/{address}"), detail);
    }
}

fn stops(desired: &Desired, to: &mut Problems) {
    for suspension in desired.suspensions.values() {
        let subject = format!("suspension/{}", suspension.id);
        let mail = match &suspension.target {
            SuspensionTarget::Site(site) => Some(format!("to {site}")),
            SuspensionTarget::Source(id) => {
                desired.sources.get(id).map(|source| format!("from source {}", source.name))
            }
            SuspensionTarget::Tenant(id) => desired.tenants.get(id).map(|tenant| format!("of tenant {}", tenant.name)),
        };
        match mail {
            None => add(to, Severity::Error, "dangling_target", subject, "what it suspends does not exist; resume it"),
            Some(mail) => {
                let detail = format!("mail {mail} waits: {}", suspension.reason);
                add(to, Severity::Note, "suspended", subject, detail);
            }
        }
    }
}
