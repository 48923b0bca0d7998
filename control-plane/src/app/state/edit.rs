//! From a document to the records that it asks for.
//!
//! Invariants worth naming: a record that is as the document says is not written; names keep their ids; a kind that the
//! document does not speak of is not looked at; every mistake is told with its pointer, up to a bound. Absent here: whether
//! the result holds together, which the plan's findings say.

mod access;
mod listeners;
mod numbers;
mod policies;
mod shaping;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrail_schema::allocation::HostNeeds;
use postrail_schema::ids::{PoolId, RegionId, SendingDomainId, SourceId, TenantId};
use postrail_schema::keys;
use postrail_schema::limits::{DOMAIN_KEYS_MAX, POOL_MEMBERS_MAX, REGIONS_MAX, STATE_ERRORS_MAX};
use postrail_schema::region::Region;
use postrail_schema::sealed::MasterKeys;
use postrail_schema::snapshot::{
    DkimKey, EgressPool, EgressSource, KeyAlgorithm, KeyStage, PoolMember, Route, SendingDomain, Suspension,
    SuspensionTarget, Tenant,
};
use postrail_schema::standing::Standing;

use super::super::egress::NewNeeds;
use super::super::keys::{ALGORITHMS, is_pair, selector_of};
use super::super::{AppError, Draft, domains, egress, names, secrets, settings, tenants};
use super::Keys;
use crate::plan::{
    Document, DomainEntry, NOT_READ_YET, NumbersEntry, PoolEntry, Record, RegionEntry, RouteEntry, SealedKey, Settings,
    SettingsEntry, SourceEntry, SuspensionEntry, TenantEntry, Verification, begun_beside, is_live, key_stages,
    live_algorithms,
};
use crate::store::Write;

/// Edits `draft` into what `document` says.
///
/// # Errors
/// What of the document cannot be, by pointers; or there are too many resources.
pub(super) fn edit(
    draft: &mut Draft,
    document: &Document,
    keys: &mut Keys,
    masters: &MasterKeys,
) -> Result<(), AppError> {
    let numbers = document.numbers.as_ref().filter(|numbers| numbers::are_ours(numbers, masters));
    let mut editor = Editor { draft, keys, masters, numbers, faults: Vec::new() };
    if let Some(numbers) = &document.numbers {
        editor.numbers(numbers);
    }
    if let Some(settings) = &document.settings {
        editor.settings(settings)?;
    }
    editor.kind(&document.operators, Editor::operators)?;
    editor.kind(&document.regions, Editor::regions)?;
    editor.kind(&document.tenants, Editor::tenants)?;
    editor.kind(&document.sources, Editor::sources)?;
    editor.kind(&document.pools, Editor::pools)?;
    editor.kind(&document.credentials, Editor::credentials)?;
    editor.kind(&document.domains, Editor::domains)?;
    editor.kind(&document.routes, Editor::routes)?;
    editor.kind(&document.suspensions, Editor::suspensions)?;
    editor.kind(&document.retry_policies, Editor::retry_policies)?;
    editor.kind(&document.routing_rules, Editor::routing_rules)?;
    editor.kind(&document.providers, Editor::providers)?;
    editor.kind(&document.shaping_rules, Editor::shaping_rules)?;
    editor.kind(&document.listeners, Editor::listeners)?;
    editor.kind(&document.tls_rules, Editor::tls_rules)?;
    if editor.faults.is_empty() { Ok(()) } else { Err(AppError::Faults { faults: editor.faults }) }
}

struct Editor<'a> {
    draft: &'a mut Draft,
    keys: &'a mut Keys,
    masters: &'a MasterKeys,
    /// Those of the document, if they are of this installation.
    numbers: Option<&'a NumbersEntry>,
    /// Pointer and what is wrong there.
    faults: Vec<(String, String)>,
}

/// The records that one kind is to have.
struct Wanted<R: Record> {
    kind: &'static str,
    names: HashSet<String>,
    records: BTreeMap<R::Id, R>,
}

impl<R: Record> Wanted<R> {
    fn new() -> Self {
        Self { kind: R::KIND, names: HashSet::new(), records: BTreeMap::new() }
    }

    fn place(&self, at: usize, field: &str) -> String {
        format!("/{}/{at}/{field}", self.kind)
    }

    fn want(&mut self, record: R) {
        self.records.insert(record.id(), record);
    }
}

impl Editor<'_> {
    fn kind<E>(
        &mut self,
        entries: &Option<Vec<E>>,
        edit: impl Fn(&mut Self, &[E]) -> Result<(), AppError>,
    ) -> Result<(), AppError> {
        entries.as_deref().map_or(Ok(()), |entries| edit(self, entries))
    }

    fn fault(&mut self, pointer: String, detail: impl Into<String>) {
        if self.faults.len() < STATE_ERRORS_MAX {
            self.faults.push((pointer, detail.into()));
        }
    }

    /// The value, or `None` with what is wrong at `pointer`.
    fn checked<T>(&mut self, pointer: String, result: Result<T, AppError>) -> Option<T> {
        result.map_err(|error| self.fault(pointer, error.to_string())).ok()
    }

    /// Whether `name` is new among those of its kind.
    fn once<R: Record>(&mut self, wanted: &mut Wanted<R>, pointer: String, name: String) -> bool {
        let is_new = wanted.names.insert(name);
        if !is_new {
            self.fault(pointer, "this one occurs twice");
        }
        is_new
    }

    /// What `name` stands for, or `None` with what is wrong at `pointer`.
    fn named<T: Copy>(&mut self, pointer: String, kind: &str, name: &str, all: &HashMap<String, T>) -> Option<T> {
        let found = all.get(name).copied();
        if found.is_none() {
            self.fault(pointer, format!("{kind} {name} does not exist"));
        }
        found
    }

    /// As [`Self::named`], where no name is needed.
    fn named_if<T: Copy>(
        &mut self,
        pointer: String,
        kind: &str,
        name: Option<&String>,
        all: &HashMap<String, T>,
    ) -> Option<Option<T>> {
        match name {
            None => Some(None),
            Some(name) => self.named(pointer, kind, name, all).map(Some),
        }
    }

    /// Makes the kind what is wanted.
    fn settle<R: Record + PartialEq>(&mut self, wanted: Wanted<R>) -> Result<(), AppError> {
        let known = R::map(&mut self.draft.desired);
        let gone: Vec<_> = known.values().map(Record::id).filter(|id| !wanted.records.contains_key(id)).collect();
        let come: Vec<_> = wanted.records.into_iter().filter(|(id, record)| known.get(id) != Some(record)).collect();
        gone.iter().for_each(|id| self.draft.delete::<R>(id));
        come.into_iter().try_for_each(|(_, record)| self.draft.put(record))
    }

    fn tenant_ids(&self) -> HashMap<String, TenantId> {
        ids(self.draft.desired.tenants.values().map(|tenant| (tenant.name.clone(), tenant.id)))
    }

    fn source_ids(&self) -> HashMap<String, SourceId> {
        ids(self.draft.desired.sources.values().map(|source| (source.name.clone(), source.id)))
    }

    fn pool_ids(&self) -> HashMap<String, PoolId> {
        ids(self.draft.desired.pools.values().map(|pool| (pool.name.clone(), pool.id)))
    }

    fn settings(&mut self, entry: &SettingsEntry) -> Result<(), AppError> {
        let include = entry.spf_include.as_deref().map(settings::spf_name).transpose();
        let include = self.checked("/settings/spf_include".to_owned(), include);
        let platform = entry.platform_domain.as_deref().map(|name| domains::name_of("", name)).transpose();
        let platform = self.checked("/settings/platform_domain".to_owned(), platform);
        let days = entry.dkim_rotation_days.map(settings::checked_days).transpose();
        let days = self.checked("/settings/dkim_rotation_days".to_owned(), days);
        let (Some(spf_include), Some(platform_domain), Some(dkim_rotation_days)) = (include, platform, days) else {
            return Ok(());
        };
        let former = self.draft.desired.settings.clone();
        let domain_verification = entry.domain_verification;
        let settings = Settings { domain_verification, spf_include, platform_domain, dkim_rotation_days, ..former };
        if settings == self.draft.desired.settings { Ok(()) } else { self.draft.put_settings(settings) }
    }

    fn regions(&mut self, entries: &[RegionEntry]) -> Result<(), AppError> {
        let known = ids(self.draft.desired.regions.values().map(|region| (region.name.clone(), region.id)));
        let mut wanted = Wanted::<Region>::new();
        for (at, entry) in entries.iter().enumerate() {
            let name = self.checked(wanted.place(at, "name"), names::slug("", &entry.name));
            let host = names::domain("", &entry.submission_host, true);
            let host = self.checked(wanted.place(at, "submission_host"), host);
            let (Some(name), Some(submission_host)) = (name, host) else { continue };
            let pointer = wanted.place(at, "name");
            if !self.once(&mut wanted, pointer, name.clone()) {
                continue;
            }
            let id = known.get(&name).copied().unwrap_or_else(|| self.draft.counters().next_region());
            wanted.want(Region { id, name, submission_host });
        }
        if wanted.records.len() > REGIONS_MAX {
            self.fault("/regions".to_owned(), format!("there are at most {REGIONS_MAX} regions"));
        }
        self.settle(wanted)
    }

    /// The region of a tenant, which stays what it was.
    fn region_of(
        &mut self,
        pointer: String,
        entry: &TenantEntry,
        former: Option<TenantId>,
    ) -> Option<Option<RegionId>> {
        let all = ids(self.draft.desired.regions.values().map(|region| (region.name.clone(), region.id)));
        let region = self.named_if(pointer.clone(), "region", entry.region.as_ref(), &all)?;
        if former.is_some_and(|former| self.draft.desired.region_of(former) != region) {
            self.fault(pointer, "a tenant stays in the region that it was made in: make another one");
            return None;
        }
        Some(region)
    }

    fn tenants(&mut self, entries: &[TenantEntry]) -> Result<(), AppError> {
        let known = self.tenant_ids();
        let mut wanted = Wanted::<Tenant>::new();
        for (at, entry) in entries.iter().enumerate() {
            let name = self.checked(wanted.place(at, "name"), names::slug("", &entry.name));
            let weight = self.checked(wanted.place(at, "weight"), tenants::checked_weight(entry.weight));
            let size = tenants::checked_size(entry.message_bytes_max);
            let size = self.checked(wanted.place(at, "message_bytes_max"), size);
            let quota = tenants::checked_quota(entry.quota_per_day);
            let quota = self.checked(wanted.place(at, "quota_per_day"), quota);
            let reserve = tenants::checked_reserve(entry.reserved_per_s);
            let reserve = self.checked(wanted.place(at, "reserved_per_s"), reserve);
            let former = known.get(&entry.name).copied();
            let region = self.region_of(wanted.place(at, "region"), entry, former);
            let (Some(name), Some(weight), Some(message_bytes_max)) = (name, weight, size) else { continue };
            let (Some(region), Some(reserved_per_s), Some(quota_per_day)) = (region, reserve, quota) else { continue };
            let pointer = wanted.place(at, "name");
            if !self.once(&mut wanted, pointer, name.clone()) {
                continue;
            }
            let id = known.get(&name).copied().unwrap_or_else(|| self.new_tenant(&wanted, &name));
            let quarantines = entry.quarantine;
            wanted.want(Tenant {
                id,
                name,
                quota_per_day,
                weight,
                message_bytes_max,
                region,
                reserved_per_s,
                quarantines,
            });
        }
        self.settle(wanted)
    }

    fn sources(&mut self, entries: &[SourceEntry]) -> Result<(), AppError> {
        let known = self.source_ids();
        let mut wanted = Wanted::<EgressSource>::new();
        for (at, entry) in entries.iter().enumerate() {
            let name = self.checked(wanted.place(at, "name"), names::slug("", &entry.name));
            let ehlo_name = names::domain("", &entry.ehlo_name, true);
            let ehlo_name = self.checked(wanted.place(at, "ehlo_name"), ehlo_name);
            let needs = self.needs(&format!("/sources/{at}"), entry);
            let address = self.checked(wanted.place(at, "address"), egress::checked_source(entry.address));
            let (Some(name), Some(ehlo_name), Some(needs), Some(address)) = (name, ehlo_name, needs, address) else {
                continue;
            };
            let pointer = wanted.place(at, "name");
            if !self.once(&mut wanted, pointer, name.clone()) {
                continue;
            }
            let id = known.get(&name).copied().unwrap_or_else(|| self.new_source(&wanted, &name));
            wanted.want(EgressSource { id, name, address, ehlo_name, needs });
        }
        self.settle(wanted)
    }

    fn needs(&mut self, pointer: &str, entry: &SourceEntry) -> Option<HostNeeds> {
        let SourceEntry { nic, routed, host, capabilities, .. } = entry.clone();
        match egress::needs(&NewNeeds { nic, routed, host, capabilities }) {
            Ok(needs) => Some(needs),
            Err(AppError::Invalid { pointer: field, detail }) => {
                self.fault(format!("{pointer}{field}"), detail);
                None
            }
            Err(error) => self.checked(pointer.to_owned(), Err(error)),
        }
    }

    fn pools(&mut self, entries: &[PoolEntry]) -> Result<(), AppError> {
        let (known, tenants, sources) = (self.pool_ids(), self.tenant_ids(), self.source_ids());
        let mut wanted = Wanted::<EgressPool>::new();
        for (at, entry) in entries.iter().enumerate() {
            let name = self.checked(wanted.place(at, "name"), names::slug("", &entry.name));
            let tenant = self.named_if(wanted.place(at, "tenant"), "tenant", entry.tenant.as_ref(), &tenants);
            let members = self.members(&wanted.place(at, "members"), entry, &sources);
            let (Some(name), Some(tenant)) = (name, tenant) else { continue };
            let pointer = wanted.place(at, "name");
            if !self.once(&mut wanted, pointer, name.clone()) {
                continue;
            }
            let id = known.get(&name).copied().unwrap_or_else(|| self.draft.counters().next_pool());
            wanted.want(EgressPool { id, name, tenant, members, classes: entry.classes.clone() });
        }
        self.settle(wanted)
    }

    fn members(&mut self, pointer: &str, entry: &PoolEntry, sources: &HashMap<String, SourceId>) -> Vec<PoolMember> {
        if entry.members.len() > POOL_MEMBERS_MAX {
            self.fault(pointer.to_owned(), format!("a pool has at most {POOL_MEMBERS_MAX} sources"));
            return Vec::new();
        }
        let (mut seen, mut members) = (HashSet::new(), Vec::with_capacity(entry.members.len()));
        for (at, member) in entry.members.iter().enumerate() {
            let place = format!("{pointer}/{at}");
            let source = self.named(format!("{place}/source"), "source", &member.source, sources);
            let weight = egress::checked_weight(member.weight);
            let weight = self.checked(format!("{place}/weight"), weight);
            let (Some(source), Some(weight)) = (source, weight) else { continue };
            if !seen.insert(source) {
                self.fault(format!("{place}/source"), "this one occurs twice");
            }
            members.push(PoolMember { source, weight });
        }
        members
    }

    fn domains(&mut self, entries: &[DomainEntry]) -> Result<(), AppError> {
        let (tenants, pools) = (self.tenant_ids(), self.pool_ids());
        let known = self.draft.desired.domains.values();
        let known = ids(known.map(|domain| ((domain.tenant, domain.name.clone()), domain.id)));
        let mut wanted = Wanted::<SendingDomain>::new();
        for (at, entry) in entries.iter().enumerate() {
            let name = self.checked(wanted.place(at, "name"), domains::name_of("", &entry.name));
            let tenant = self.named(wanted.place(at, "tenant"), "tenant", &entry.tenant, &tenants);
            let pool = self.named_if(wanted.place(at, "pool"), "pool", entry.pool.as_ref(), &pools);
            let (Some(name), Some(tenant), Some(pool)) = (name, tenant, pool) else { continue };
            let pointer = wanted.place(at, "name");
            if !self.once(&mut wanted, pointer, format!("{tenant} {name}")) {
                continue;
            }
            let former = known.get(&(tenant, name.clone())).and_then(|id| self.draft.desired.domains.get(id)).cloned();
            let keys = self.keys_of(&format!("/domains/{at}"), entry, former.as_ref())?;
            let standing = self.standing_of(entry, former.as_ref());
            let id = former.map_or_else(|| self.new_domain(&wanted, entry), |former| former.id);
            wanted.want(SendingDomain { id, tenant, name, keys, pool, standing, is_platform: false, is_later: false });
        }
        for name in begun_beside(&self.draft.desired, wanted.records.values()) {
            self.fault("/domains".to_owned(), format!("{name} would send for two tenants, and {NOT_READ_YET}"));
        }
        let gone = self.draft.desired.domains.values().map(|domain| domain.id);
        let gone: Vec<SendingDomainId> = gone.filter(|id| !wanted.records.contains_key(id)).collect();
        self.draft.writes.extend(gone.into_iter().map(|id| Write::Delete { key: keys::check(id) }));
        self.settle(wanted)
    }

    fn standing_of(&self, entry: &DomainEntry, former: Option<&SendingDomain>) -> Standing {
        let usual = former.is_none().then_some(self.draft.desired.settings.domain_verification);
        match (entry.verification.or(usual), former.map(|former| former.standing)) {
            (Some(Verification::Operator), _) => Standing::Trusted,
            (Some(Verification::Dns), Some(Standing::Trusted) | None) => domains::UNPROVED,
            (_, Some(standing)) => standing,
            (None, None) => domains::UNPROVED,
        }
    }

    /// The keys of a domain: those of the document, else those of the algorithms that it names, else those it has.
    fn keys_of(
        &mut self,
        pointer: &str,
        entry: &DomainEntry,
        former: Option<&SendingDomain>,
    ) -> Result<Vec<DkimKey>, AppError> {
        let former = former.map(|domain| &domain.keys[..]);
        let algorithms = entry.dkim_keys.as_ref();
        let algorithms = algorithms.map(|named| named.iter().map(|name| (*name).into()).collect::<Vec<KeyAlgorithm>>());
        if let Some(sealed) = &entry.sealed_keys {
            let keys = self.sealed_keys(&format!("{pointer}/sealed_keys"), sealed, former.unwrap_or_default());
            if entry.dkim_keys.as_ref().is_some_and(|named| *named != live_algorithms(&keys)) {
                self.fault(format!("{pointer}/dkim_keys"), "these are not the algorithms of sealed_keys");
            }
            return Ok(keys);
        }
        let Some(algorithms) = algorithms.or_else(|| former.is_none().then(|| ALGORITHMS.to_vec())) else {
            return Ok(former.unwrap_or_default().to_vec());
        };
        if algorithms.iter().enumerate().any(|(at, algorithm)| algorithms[..at].contains(algorithm)) {
            self.fault(format!("{pointer}/dkim_keys"), "a domain has one key of an algorithm");
            return Ok(Vec::new());
        }
        let mut keys = former.unwrap_or_default().to_vec();
        keys.retain(|key| !is_live(key) || algorithms.contains(&key.algorithm));
        for algorithm in algorithms {
            if keys.iter().any(|key| key.algorithm == algorithm && is_live(key)) {
                continue;
            }
            let id = self.draft.counters().next_key();
            let made = self.keys.take(algorithm, id)?;
            let selector = selector_of(&self.draft.desired.settings.ownership_salt, algorithm, id);
            key_stages::add(&mut keys, DkimKey { selector, ..made });
        }
        Ok(keys)
    }

    fn sealed_keys(&mut self, pointer: &str, sealed: &[SealedKey], former: &[DkimKey]) -> Vec<DkimKey> {
        let mut keys: Vec<DkimKey> = Vec::with_capacity(sealed.len());
        if sealed.len() > DOMAIN_KEYS_MAX {
            self.fault(pointer.to_owned(), format!("a domain has at most {DOMAIN_KEYS_MAX} keys"));
            return keys;
        }
        for (at, key) in sealed.iter().enumerate() {
            let place = |field: &str| format!("{pointer}/{at}/{field}");
            let selector = self.checked(place("selector"), names::domain("", &key.selector, true));
            let private = STANDARD.decode(&key.sealed_private_key);
            let (Some(selector), Ok(sealed_private_key)) = (selector, private) else {
                self.fault(place("sealed_private_key"), "this is not base64");
                continue;
            };
            let (algorithm, stage) = (key.algorithm.into(), key.stage);
            let rivals = |other: &DkimKey| other.algorithm == algorithm && is_live(other) && other.stage == stage;
            if keys.iter().any(|other| other.selector == selector || rivals(other)) {
                let detail = "a domain has one key of a selector, and one of an algorithm that signs or waits";
                self.fault(place("selector"), detail);
            }
            let is_gone = stage == KeyStage::Retired && sealed_private_key.is_empty();
            let is_same =
                |former: &&DkimKey| former.selector == selector && former.sealed_private_key == sealed_private_key;
            let same = former.iter().find(is_same).filter(|former| former.public_key == key.public_key);
            if same.is_none() && !is_gone && !is_pair(self.masters, algorithm, &sealed_private_key, &key.public_key) {
                let detail = "it does not open with the master key of this installation, or is not the public key's";
                self.fault(place("sealed_private_key"), detail);
            }
            let id = same.map(|former| former.id).unwrap_or_else(|| self.draft.counters().next_key());
            let since_ms = self.checked(place("since_ms"), names::time("", key.since_ms)).unwrap_or_default();
            let public_key = key.public_key.clone();
            keys.push(DkimKey { id, selector, algorithm, sealed_private_key, public_key, stage, since_ms });
        }
        keys
    }

    fn routes(&mut self, entries: &[RouteEntry]) -> Result<(), AppError> {
        let mut wanted = Wanted::<Route>::new();
        for (at, entry) in entries.iter().enumerate() {
            let domain = self.checked(wanted.place(at, "domain"), egress::route_domain(&entry.domain));
            let to = entry.routing_domain.as_deref().map(|name| names::domain("", name, true)).transpose();
            let to = self.checked(wanted.place(at, "routing_domain"), to);
            let port = self.checked(wanted.place(at, "port"), egress::checked_port(entry.port));
            let (Some(domain), Some(routing_domain), Some(port)) = (domain, to, port) else { continue };
            let pointer = wanted.place(at, "domain");
            if self.once(&mut wanted, pointer, domain.clone()) {
                wanted.want(Route { domain, routing_domain, port, allow_private: entry.allow_private });
            }
        }
        self.settle(wanted)
    }

    fn suspensions(&mut self, entries: &[SuspensionEntry]) -> Result<(), AppError> {
        let (tenants, sources) = (self.tenant_ids(), self.source_ids());
        let known: Vec<_> = self.draft.desired.suspensions.values().cloned().collect();
        let mut wanted = Wanted::<Suspension>::new();
        for (at, entry) in entries.iter().enumerate() {
            let reason = self.checked(wanted.place(at, "reason"), names::reason("", &entry.reason));
            let target = match (&entry.site, &entry.source, &entry.tenant) {
                (Some(site), None, None) => {
                    let site = names::site("", site).map(SuspensionTarget::Site);
                    self.checked(wanted.place(at, "site"), site)
                }
                (None, Some(name), None) => {
                    let found = self.named(wanted.place(at, "source"), "source", name, &sources);
                    found.map(SuspensionTarget::Source)
                }
                (None, None, Some(name)) => {
                    let found = self.named(wanted.place(at, "tenant"), "tenant", name, &tenants);
                    found.map(SuspensionTarget::Tenant)
                }
                _ => {
                    self.fault(format!("/suspensions/{at}"), "name exactly one of site, source and tenant");
                    None
                }
            };
            let (Some(reason), Some(target)) = (reason, target) else { continue };
            if !self.once(&mut wanted, format!("/suspensions/{at}"), format!("{target:?}")) {
                continue;
            }
            let former = known.iter().find(|suspension| suspension.target == target);
            let id = former.map(|former| former.id).unwrap_or_else(|| self.draft.counters().next_suspension());
            wanted.want(Suspension { id, target, reason });
        }
        self.settle(wanted)
    }
}

fn ids<N: Eq + Hash, T>(all: impl Iterator<Item = (N, T)>) -> HashMap<N, T> {
    all.collect()
}
