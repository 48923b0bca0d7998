//! Findings about desired state, kept from one state to the next so that a change costs what it concerns.
//!
//! ```text
//! tenants, credentials, domains   by the record, found again where it or what it names has changed
//! every other kind                found anew at each change (`check`)
//! ```
//!
//! Of the first there are tens of thousands, and sets of all their names took most of a change's time. Invariant worth
//! naming: what is found depends on the state and not on the way to it (a test walks at random and compares). So a
//! finding of one of the three kinds may look at nothing but: the record, records of its kind that have its name, whether
//! its tenant and its region exist, the names of the tenants of those records, its pool, and the settings. Who adds one that
//! looks further adds to [`Due`] whom it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postrail_schema::ids::{CredentialId, SendingDomainId, TenantId};
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::snapshot::{Credential, KeyStage, SendingDomain, Tenant};
use postrail_schema::standing::{DomainRecord, Standing};
use postrail_schema::table::Table;

use super::Desired;
use super::check::{self, Problems, add};

/// See the module head. Cheap to copy.
#[derive(Clone, Default)]
pub(crate) struct Findings {
    tenants: Kind<TenantId>,
    credentials: Kind<CredentialId>,
    domains: Kind<SendingDomainId>,
    others: Arc<Problems>,
}

/// Findings about one kind, and who has which name.
#[derive(Clone)]
struct Kind<Id> {
    found: Table<Id, Arc<Problems>>,
    names: Table<String, Vec<Id>>,
    /// How many of them are errors.
    errors: usize,
}

/// Records that are to be looked at.
#[derive(Default)]
struct Due {
    tenants: BTreeSet<TenantId>,
    credentials: BTreeSet<CredentialId>,
    domains: BTreeSet<SendingDomainId>,
}

impl Findings {
    pub(crate) fn of(desired: &Desired) -> Self {
        Self::default().after(&Desired::default(), desired)
    }

    /// Those about `after`, where these are about `before`.
    #[must_use]
    pub(crate) fn after(&self, before: &Desired, after: &Desired) -> Self {
        let mut next = self.clone();
        let mut due = Due::concerned(before, after);
        let tenants = after.tenants.changes(&before.tenants);
        due.tenants.extend(next.tenants.rename(tenants, |tenant| &tenant.name));
        let credentials = after.credentials.changes(&before.credentials);
        due.credentials.extend(next.credentials.rename(credentials, |credential| &credential.username));
        let domains = after.domains.changes(&before.domains);
        due.domains.extend(next.domains.rename(domains, |domain| &domain.name));

        for id in due.tenants {
            let found =
                after.tenants.get(&id).map(|record| tenant(after, next.tenants.is_first(id, &record.name), record));
            next.tenants.put(id, found);
        }
        for id in due.credentials {
            let found = after.credentials.get(&id);
            let found = found.map(|record| credential(after, next.credentials.is_first(id, &record.username), record));
            next.credentials.put(id, found);
        }
        let names: BTreeSet<_> = due.domains.iter().filter_map(|id| after.domains.get(id)).map(|it| &it.name).collect();
        due.domains.extend(names.into_iter().flat_map(|name| next.domains.named(name)));
        let mut surplus = BTreeMap::new();
        for id in due.domains {
            let found = after.domains.get(&id).map(|record| {
                let of_name = surplus.entry(record.name.as_str());
                let of_name = of_name.or_insert_with(|| surplus_claims(after, next.domains.named(&record.name)));
                let mut found = domain(after, of_name.contains(&id), record);
                found.extend(shared(after, next.domains.named(&record.name), record));
                found
            });
            next.domains.put(id, found);
        }
        next.others = Arc::new(check::check(after));
        next
    }

    /// All of them, by kind and id.
    pub(crate) fn list(&self) -> Vec<Problem> {
        let records = self.tenants.found.values().chain(self.credentials.found.values());
        let records = records.chain(self.domains.found.values());
        records.flat_map(|found| found.iter()).chain(self.others.iter()).cloned().collect()
    }

    /// Those that keep the state from being published.
    pub(crate) fn errors(&self) -> Vec<Problem> {
        if self.tenants.errors + self.credentials.errors + self.domains.errors + errors_of(&self.others) == 0 {
            return Vec::new();
        }
        let mut list = self.list();
        list.retain(|problem| problem.severity == Severity::Error);
        list
    }
}

impl Due {
    /// Whom it concerns that something else has changed.
    fn concerned(before: &Desired, after: &Desired) -> Self {
        let mut due = Self::default();
        let regions: BTreeSet<_> = after.regions.changes(&before.regions).into_iter().map(|change| *change.0).collect();
        if !regions.is_empty() {
            let concerned =
                after.tenants.values().filter(|tenant| tenant.region.is_some_and(|it| regions.contains(&it)));
            due.tenants.extend(concerned.map(|tenant| tenant.id));
        }
        let tenants = after.tenants.changes(&before.tenants).into_iter();
        let name = |tenant: Option<&Tenant>| tenant.map(|tenant| tenant.name.clone());
        let tenants = tenants.filter(|(_, was, is)| name(*was) != name(*is));
        let tenants: BTreeSet<_> = tenants.map(|change| *change.0).collect();
        let pools: BTreeSet<_> = after.pools.changes(&before.pools).into_iter().map(|change| *change.0).collect();
        if !tenants.is_empty() {
            let concerned = after.credentials.values().filter(|credential| tenants.contains(&credential.tenant));
            due.credentials.extend(concerned.map(|credential| credential.id));
        }
        let is_reset = after.settings != before.settings;
        if is_reset || !tenants.is_empty() || !pools.is_empty() {
            let concerned = after.domains.values().filter(|domain| {
                is_reset || tenants.contains(&domain.tenant) || domain.pool.is_some_and(|pool| pools.contains(&pool))
            });
            due.domains.extend(concerned.map(|domain| domain.id));
        }
        due
    }
}

/// Of a record: its id, what it was, what it is.
type Change<'a, Id, R> = (&'a Id, Option<&'a R>, Option<&'a R>);

impl<Id: Ord + Copy> Kind<Id> {
    /// Notes the names of what has changed. Gives whom that concerns: the records themselves, and those with one of their
    /// names.
    fn rename<R>(&mut self, changes: Vec<Change<'_, Id, R>>, name: impl Fn(&R) -> &String) -> BTreeSet<Id> {
        let mut concerned = BTreeSet::new();
        for (id, was, is) in changes {
            concerned.insert(*id);
            let (was, is) = (was.map(&name), is.map(&name));
            concerned.extend(was.iter().flat_map(|name| self.named(name)));
            if was != is {
                was.into_iter().for_each(|name| self.forget(*id, name));
                is.into_iter().for_each(|name| self.note(*id, name));
            }
            concerned.extend(is.iter().flat_map(|name| self.named(name)));
        }
        concerned
    }

    fn note(&mut self, id: Id, name: &String) {
        match self.names.get_mut(name) {
            Some(ids) => ids.insert(ids.partition_point(|known| *known < id), id),
            None => {
                self.names.insert(name.clone(), vec![id]);
            }
        }
    }

    fn forget(&mut self, id: Id, name: &String) {
        let Some(ids) = self.names.get_mut(name) else { return };
        ids.retain(|known| *known != id);
        if ids.is_empty() {
            self.names.remove(name);
        }
    }

    /// Who has that name, ascending.
    fn named(&self, name: &str) -> &[Id] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether nobody before `id` has its name.
    fn is_first(&self, id: Id, name: &str) -> bool {
        self.named(name).first() == Some(&id)
    }

    /// What is found about `id` from now on; `None`: it is gone.
    fn put(&mut self, id: Id, found: Option<Problems>) {
        let found = found.unwrap_or_default();
        self.errors += errors_of(&found);
        let was = match found.is_empty() {
            true => self.found.remove(&id),
            false => self.found.insert(id, Arc::new(found)),
        };
        self.errors -= was.map_or(0, |was| errors_of(&was));
    }
}

impl<Id> Default for Kind<Id> {
    fn default() -> Self {
        Self { found: Table::default(), names: Table::default(), errors: 0 }
    }
}

fn errors_of(problems: &[Problem]) -> usize {
    problems.iter().filter(|problem| problem.severity == Severity::Error).count()
}

fn tenant(desired: &Desired, is_first: bool, tenant: &Tenant) -> Problems {
    let (mut to, subject) = (Problems::new(), || format!("tenant/{}", tenant.name));
    if !is_first {
        check::duplicate(&mut to, subject());
    }
    if tenant.region.is_some_and(|region| !desired.regions.contains_key(&region)) {
        add(&mut to, Severity::Error, "dangling_region", subject(), "its region does not exist");
    }
    to
}

fn credential(desired: &Desired, is_first: bool, credential: &Credential) -> Problems {
    let (mut to, subject) = (Problems::new(), || format!("credential/{}", credential.username));
    if !is_first {
        check::duplicate(&mut to, subject());
    }
    if !desired.tenants.contains_key(&credential.tenant) {
        add(&mut to, Severity::Error, "dangling_tenant", subject(), "its tenant does not exist");
    }
    if credential.disabled {
        add(&mut to, Severity::Note, "credential_disabled", subject(), "it is disabled and cannot submit mail");
    }
    to
}

/// Those of `ids`, domains of one name, whose tenant has another of them.
fn surplus_claims(desired: &Desired, ids: &[SendingDomainId]) -> BTreeSet<SendingDomainId> {
    let mut claimed = BTreeSet::new();
    let is_surplus = |domain: &&SendingDomain| !claimed.insert(domain.tenant);
    ids.iter().filter_map(|id| desired.domains.get(id)).filter(is_surplus).map(|domain| domain.id).collect()
}

/// Several tenants may have a domain of one name, each one.
fn domain(desired: &Desired, is_surplus: bool, domain: &SendingDomain) -> Problems {
    let (mut to, subject) = (Problems::new(), || format!("domain/{}", domain.name));
    if is_surplus {
        check::duplicate(&mut to, subject());
    }
    standing(domain, &mut to);
    if !desired.tenants.contains_key(&domain.tenant) {
        add(&mut to, Severity::Error, "dangling_tenant", subject(), "its tenant does not exist");
    }
    signing(desired, domain, &mut to);
    match domain.pool.map(|pool| desired.pools.get(&pool)) {
        Some(None) => add(&mut to, Severity::Error, "dangling_pool", subject(), "its pool does not exist"),
        Some(Some(pool)) if pool.tenant.is_some_and(|owner| owner != domain.tenant) => {
            let detail = format!("its pool {} is another tenant's; assign a shared pool or its own", pool.name);
            add(&mut to, Severity::Error, "foreign_pool", subject(), detail);
        }
        _ => {}
    }
    to
}

/// That several tenants have the name: told once, with the first of `named`.
fn shared(desired: &Desired, named: &[SendingDomainId], domain: &SendingDomain) -> Option<Problem> {
    if named.len() < 2 || named.first() != Some(&domain.id) {
        return None;
    }
    let tenant = |id| Some(desired.tenants.get(&desired.domains.get(id)?.tenant)?.name.as_str());
    let tenants: Vec<_> = named.iter().filter_map(tenant).take(TENANTS_NAMED_MAX).collect();
    let more = if named.len() > TENANTS_NAMED_MAX { ", …" } else { "" };
    let detail = format!(
        "{} tenants have it ({}{more}); each that proves it, or has your word, sends by it with keys of its own, and none is told \
         of the others",
        named.len(),
        tenants.join(", ")
    );
    let subject = format!("domain/{}", domain.name);
    Some(Problem { severity: Severity::Note, code: "domain_shared", subject, detail })
}

/// Tenants that a finding names one by one.
const TENANTS_NAMED_MAX: usize = 3;

fn signing(desired: &Desired, domain: &SendingDomain, to: &mut Problems) {
    let subject = || format!("domain/{}", domain.name);
    if !domain.keys.iter().any(|key| key.stage.signs()) {
        let platform = desired.settings.platform_domain.as_ref().map(|name| format!(" by itself, only by {name}"));
        let detail = format!("it has no DKIM key that signs; its mail is not signed{}", platform.unwrap_or_default());
        add(to, Severity::Warning, "domain_without_keys", subject(), detail);
    }
    let mut selectors = BTreeSet::new();
    for key in &domain.keys {
        if !selectors.insert(&key.selector) {
            let detail = format!("two of its keys have the selector {}, and DNS has one record of it", key.selector);
            add(to, Severity::Error, "duplicate_selector", subject(), detail);
        }
        let record = format!("{}._domainkey.{}", key.selector, domain.name);
        match key.stage {
            KeyStage::Waiting => {
                let detail = format!("the key {} signs once its record is seen: publish TXT {record}", key.selector);
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

fn standing(domain: &SendingDomain, to: &mut Problems) {
    let missing = |missing: DomainRecord| format!("{} record {}", missing.word(), domain.record_name(missing));
    let (severity, code, detail) = match domain.standing {
        Standing::Trusted | Standing::Verified => return,
        Standing::Failing => {
            let detail = "a DNS record that it needs is missing or wrong; it lapses soon".to_owned();
            (Severity::Warning, "domain_failing", detail)
        }
        Standing::Unproved { missing: record } => {
            (Severity::Note, "domain_unproved", format!("it cannot send before its {} is published", missing(record)))
        }
        Standing::Lapsed { missing: record } => {
            (Severity::Warning, "domain_lapsed", format!("it cannot send until its {} is back", missing(record)))
        }
    };
    add(to, severity, code, format!("domain/{}", domain.name), detail);
}

#[cfg(test)]
mod tests;
