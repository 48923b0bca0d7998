//! Use cases. They know no HTTP and no store but its trait.
//!
//! ```text
//! change: read desired state -> edit a draft -> check -> assemble its publication -> tell the audit trail what changes
//!         -> write both with guards
//! ```
//!
//! Invariants worth naming: desired state and its manifest are written in one transaction; revisions grow; one change at a
//! time in a process, and between processes the guard on the head key lets only one of two win (the other starts again).
//! Absent here: the ledger's own writing of events (`reconcile`), and the answer to who may do what (`api`).

mod access;
mod bootstrap;
mod checks;
mod credentials;
mod data_plane;
mod domain_keys;
mod domains;
mod egress;
mod error;
mod events;
mod explain;
mod fleet;
mod home;
mod hosts;
mod keys;
mod known_hosts;
mod large;
mod ledgers;
mod listeners;
mod master;
mod mirror;
mod named;
pub(crate) mod names;
mod numbers;
mod operators;
mod policies;
mod precondition;
mod publication;
mod regions;
mod secrets;
mod settings;
mod shaping;
mod state;
mod suppression_list;
mod suppressions;
mod suspensions;
mod tenants;
mod trail;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postrail_schema::ids::{Revision, SendingDomainId, TenantId};
use postrail_schema::keys::{DESIRED, HEAD, MANIFEST};
use postrail_schema::limits::{DOMAIN_CHECKS_AT_ONCE, RESOURCES_MAX};
use postrail_schema::problem::Problem;
use postrail_schema::publication::ChunkPlace;
use postrail_schema::sealed::MasterKeys;
use postrail_schema::snapshot::{Snapshot, Tenant};
use serde::Serialize;
use tokio::sync::Semaphore;

pub(crate) use access::{Access, Caller, Refusal};
pub use bootstrap::{Bootstrap, FirstStart, Kept};
pub(crate) use checks::{check_domain, check_on_demand, due_ms};
pub(crate) use credentials::{CredentialChange, IssuedSecret, NewCredential};
pub(crate) use data_plane::{
    DataPlane, FleetAccess, HeldJob, HeldPage, HeldQuery, HostStatus, JournalAnswer, PulledJournal, QuotaTell,
    Settling, Unanswered,
};
pub(crate) use domain_keys::{KeyAct, NewKey};
pub(crate) use domains::{DomainChange, NewDomain, dns_records, domain_asked};
pub(crate) use egress::{NewNeeds, NewPool, NewRoute, NewSource, route_asked};
pub(crate) use error::AppError;
pub(crate) use events::event_id;
pub(crate) use explain::{Asked, Explained};
pub(crate) use fleet::{Elsewhere, FleetSeen, HostSeen, sources_of};
pub(crate) use home::{Comparison, Home, HomeClient};
pub(crate) use hosts::Reading;
pub use hosts::{HostView, Hosts, HostsError};
pub(crate) use known_hosts::{HostClient, KnownHosts, WholeQueue};
use large::{Laid, Pending, Staged};
pub(crate) use ledgers::{LEDGER_LOOK, LedgerClaim, LedgerLook, LedgerUse, OtherLedger, ledger_moved};
pub(crate) use listeners::Listening;
pub(crate) use master::Rotation;
use numbers::GivenNumbers;
pub(crate) use operators::{IssuedOperator, NewOperator, OperatorChange};
pub(crate) use precondition::Precondition;
use publication::Publication;
pub(crate) use regions::NewRegion;
pub(crate) use secrets::make_operator_token;
pub(crate) use settings::SettingsChange;
#[cfg(test)]
pub(crate) use suppression_list::SuppressionsAnswer;
pub(crate) use suppression_list::SuppressionsAsked;
use suppression_list::SuppressionsTold;
pub(crate) use suppressions::SuppressionEntry;
pub(crate) use suspensions::NewSuspension;
pub(crate) use tenants::{NewTenant, QuotaUse, TenantChange};
pub(crate) use trail::{AuditDetail, acting};

use crate::dns::Resolver;
use crate::ledger::Ledger;
use crate::plan::{Counters, Desired, Findings, Record};
use crate::store::{ConfigStore, Entry, Guard, StoreError, Write};

/// The use cases over one store, one ledger and the data planes. Calls block unless they are async.
pub(crate) struct App {
    store: Arc<dyn ConfigStore>,
    pub ledger: Arc<dyn Ledger>,
    pub hosts: KnownHosts,
    /// Which host has which address, in a fleet.
    pub allocation: Option<Hosts>,
    masters: MasterKeys,
    hostname: String,
    /// That of this control plane and of the data planes whose events it takes; empty: none.
    pub region: String,
    access: Access,
    /// Who answers questions about domains, and how many may ask at once.
    resolver: Resolver,
    checks: Semaphore,
    checked_now: Mutex<HashSet<SendingDomainId>>,
    given: GivenNumbers,
    /// Which ledger we say that we keep, in a fleet, and what the last look whose is the region's has found.
    own_ledger: OnceLock<LedgerUse>,
    ledger_look: RwLock<Option<LedgerLook>>,
    /// Why the suppressions that another control plane keeps are not taken over.
    mirror_trouble: RwLock<Option<String>>,
    suppressions_told: SuppressionsTold,
    /// Held for the length of a change.
    current: Mutex<Current>,
    /// The same state for readers, who never wait for a change.
    shown: RwLock<Shown>,
}

/// The state that was read or written last.
struct Current {
    desired: Arc<Desired>,
    /// The store revision that wrote the head key; 0: there is none yet.
    head_revision: u64,
    findings: Findings,
    publication: Publication,
    /// The last change, where it is not written to its places yet.
    pending: Option<Pending>,
    /// The store has gone back to an earlier state: data planes may have the suppressions of a version that it will give
    /// again, and are to be told that they have changed.
    has_gone_back: bool,
}

#[derive(Clone)]
struct Shown {
    desired: Arc<Desired>,
    snapshot: Arc<Snapshot>,
    findings: Findings,
}

/// What [`App::new`] is made of.
pub(crate) struct Parts {
    pub store: Arc<dyn ConfigStore>,
    pub ledger: Arc<dyn Ledger>,
    pub hosts: KnownHosts,
    pub allocation: Option<Hosts>,
    pub masters: MasterKeys,
    pub hostname: String,
    pub region: String,
    pub resolver: Resolver,
}

/// A change being made: an edited copy, and the writes that make it so.
pub(crate) struct Draft {
    pub(crate) desired: Desired,
    writes: Vec<Write>,
    /// The chunks whose records were edited.
    changed: BTreeSet<ChunkPlace>,
}

impl Draft {
    fn on(desired: &Desired) -> Self {
        Self { desired: desired.clone(), writes: Vec::new(), changed: BTreeSet::new() }
    }

    pub(crate) fn counters(&mut self) -> &mut Counters {
        &mut self.desired.head.counters
    }

    pub(crate) fn put<R: Record>(&mut self, record: R) -> Result<(), AppError> {
        self.writes.push(put(R::key(&record.id()), &record)?);
        self.changed.extend(R::place(&record.id()));
        let map = R::map(&mut self.desired);
        map.insert(record.id(), record);
        if map.len() > RESOURCES_MAX {
            return Err(AppError::conflict(format!("there are {RESOURCES_MAX} {} already", R::KIND)));
        }
        Ok(())
    }

    pub(crate) fn delete<R: Record>(&mut self, id: &R::Id) {
        if R::map(&mut self.desired).remove(id).is_some() {
            self.writes.push(Write::Delete { key: R::key(id) });
            self.changed.extend(R::place(id));
        }
    }

    /// The tenant of that name.
    pub(crate) fn tenant(&self, name: &str) -> Result<&Tenant, AppError> {
        self.desired.tenant(name).ok_or_else(|| AppError::not_found("tenant", name))
    }
}

impl App {
    /// Reads the store.
    ///
    /// # Errors
    /// The store cannot be read or holds what this version does not know.
    pub(crate) fn new(parts: Parts) -> Result<Self, AppError> {
        let current = Current::load(parts.store.as_ref())?;
        let given = GivenNumbers::of(parts.ledger.as_ref(), &current.desired.head.counters)?;
        Ok(Self {
            given,
            store: parts.store,
            ledger: parts.ledger,
            hosts: parts.hosts,
            allocation: parts.allocation,
            masters: parts.masters,
            hostname: parts.hostname,
            region: parts.region,
            access: Access::default(),
            resolver: parts.resolver,
            checks: Semaphore::new(DOMAIN_CHECKS_AT_ONCE),
            checked_now: Mutex::default(),
            own_ledger: OnceLock::new(),
            ledger_look: RwLock::default(),
            mirror_trouble: RwLock::default(),
            suppressions_told: SuppressionsTold::default(),
            shown: RwLock::new(current.shown()),
            current: Mutex::new(current),
        })
    }

    /// Desired state as of the latest change.
    pub(crate) fn desired(&self) -> Arc<Desired> {
        self.shown().desired
    }

    /// The same with the snapshot that is published of it.
    fn published(&self) -> (Arc<Desired>, Arc<Snapshot>) {
        let Shown { desired, snapshot, .. } = self.shown();
        (desired, snapshot)
    }

    /// Findings about it, none of them an error.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let shown = self.shown();
        let mut problems = shown.findings.list();
        problems.extend(shown.desired.head.is_lost.then(bootstrap::lost));
        problems
    }

    pub(crate) fn revision(&self) -> Revision {
        self.shown().desired.head.revision
    }

    /// Whether the store and the ledger answer.
    ///
    /// # Errors
    /// The one that does not.
    pub(crate) fn check_stores(&self) -> Result<(), AppError> {
        self.store.list(HEAD)?;
        self.ledger.audit(0, 1)?;
        Ok(())
    }

    /// Publishes that the suppressions of the ledger have changed, or may have: also at a start, since a process may have
    /// ended between its write to the ledger and this.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn announce_suppressions(&self) -> Result<(), AppError> {
        self.change(|draft| {
            self.note_announced(&mut draft.desired);
            draft.desired.head.announce_suppressions(now_ms());
            Ok(())
        })
    }

    /// Takes over what another process wrote, and finishes it where that one does not: where it is pending still when one looks
    /// again. Gives the store's revision that is known then.
    ///
    /// # Errors
    /// The store fails, or what it holds is not valid.
    pub(crate) fn reload(&self) -> Result<u64, AppError> {
        let mut current = self.current();
        let listing = self.store.list(HEAD)?;
        let known = current.head_revision;
        match head_revision(&listing.entries) {
            head if head == known => self.finish_pending(&mut current)?,
            _ => *current = current.again(self.store.as_ref())?,
        }
        if current.head_revision != known {
            self.show(&current);
        }
        let (head, has_gone_back) = (current.desired.head.clone(), current.has_gone_back);
        drop(current);
        if has_gone_back {
            tracing::warn!(
                revision = head.revision.0,
                "the configuration store has gone back to an earlier revision: suppressions are announced anew"
            );
            self.announce_suppressions()?;
        }
        self.compare_numbers(&head)?;
        Ok(listing.revision)
    }

    /// Makes one change; see the module head. `edit` runs again when another process won.
    pub(crate) fn change<T>(&self, mut edit: impl FnMut(&mut Draft) -> Result<T, AppError>) -> Result<T, AppError> {
        let mut current = self.current();
        let until = Instant::now() + CHANGE_PATIENCE;
        let mut tries = 0..CHANGE_TRIES;
        while tries.next().is_some() || Instant::now() < until {
            self.finish_pending(&mut current)?;
            let mut draft = Draft::on(&current.desired);
            self.given.pass(&mut draft.desired.head);
            let before = draft.desired.head.counters;
            let made = match edit(&mut draft) {
                Ok(made) => made,
                // The refusal may be about a state that another process has changed since.
                Err(_) if self.head_revision()? != current.head_revision => {
                    *current = current.again(self.store.as_ref())?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match self.commit(&current, draft, before) {
                Ok(next) => {
                    self.show(&next);
                    *current = next;
                    // What is committed has happened: if this fails, the next change finishes it.
                    if let Err(error) = self.finish_pending(&mut current) {
                        tracing::warn!(error = &error as &dyn std::error::Error, "a change is not at its place yet");
                    }
                    return Ok(made);
                }
                Err(AppError::Store(StoreError::Conflict { .. })) => *current = current.again(self.store.as_ref())?,
                Err(error) => return Err(error),
            }
        }
        Err(AppError::conflict("others keep changing the configuration; try again"))
    }

    /// Writes a draft, whose numbers began behind `before`.
    fn commit(&self, current: &Current, draft: Draft, before: Counters) -> Result<Current, AppError> {
        let Draft { mut desired, mut writes, changed } = draft;
        desired.head.revision = Revision(desired.head.revision.0 + 1);
        if current.has_gone_back || desired.head.is_lost {
            desired.head.announce_suppressions(now_ms());
        }
        desired.head.is_lost &= desired.tenants.is_empty();
        if !writes.is_empty() || desired.head.records == 0 {
            desired.head.records = u64::from_le_bytes(keys::random()?).max(1);
        }
        let findings = current.findings.after(&current.desired, &desired);
        let problems = findings.errors();
        if !problems.is_empty() {
            return Err(AppError::Refused { problems });
        }
        let with = |state: &Desired| changed.iter().flat_map(|place| state.contested(*place)).collect::<BTreeSet<_>>();
        let changed = &with(&current.desired) | &with(&desired);
        let mut next = current.publication.next(&desired, &changed)?;
        let head = put(HEAD.to_owned(), &desired.head)?;
        let mut guards = vec![
            Guard { key: HEAD.to_owned(), revision: current.head_revision },
            Guard { key: MANIFEST.to_owned(), revision: current.publication.manifest_revision },
        ];
        writes.push(head.clone());
        let mut staged = None;
        if !next.fits(&writes) {
            writes.pop();
            let mut aside = Staged::stage(self.store.as_ref(), writes)?;
            guards.append(&mut aside.guards);
            writes = vec![head, aside.commit.clone()];
            staged = Some(aside);
        }
        let is_withheld = desired.head.is_lost;
        if !is_withheld {
            writes.append(&mut next.write_ahead(self.store.as_ref(), &writes)?);
        }
        // The first numbers of all are in no mail before they are in the store.
        if current.head_revision != 0 {
            self.given.give(self.ledger.as_ref(), &before, &desired.head.counters)?;
        }
        self.tell_change(&current.desired, &desired)?;
        let revision = match self.store.txn(&guards, &writes) {
            Err(error @ StoreError::Conflict { .. }) => {
                self.untell_change()?;
                return Err(error.into());
            }
            done => done?,
        };
        next.publication.written(revision, is_withheld);
        Ok(Current {
            desired: Arc::new(desired),
            head_revision: revision,
            findings,
            publication: next.publication,
            pending: staged.map(|staged| staged.committed(revision)),
            has_gone_back: false,
        })
    }

    /// Brings the last change to its places, where it is not there yet.
    fn finish_pending(&self, current: &mut Current) -> Result<(), AppError> {
        for _ in 0..CHANGE_TRIES {
            let Some(pending) = &current.pending else { return Ok(()) };
            match pending.finish(self.store.as_ref()) {
                Ok(()) => current.pending = None,
                Err(StoreError::Conflict { .. }) => match self.head_revision()? {
                    // Another has finished it, and changed nothing since.
                    head if head == current.head_revision => current.pending = None,
                    _ => *current = current.again(self.store.as_ref())?,
                },
                Err(error) => return Err(error.into()),
            }
        }
        Err(AppError::conflict("others keep changing the configuration; try again"))
    }

    fn show(&self, current: &Current) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = current.shown();
    }

    /// A change replaces the state at its end in one step, so a panic within leaves the former one.
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store revision that wrote the head key last.
    fn head_revision(&self) -> Result<u64, AppError> {
        let listing = self.store.list(HEAD)?;
        Ok(head_revision(&listing.entries))
    }

    fn shown(&self) -> Shown {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name of a tenant; empty for one that was deleted.
    pub(crate) fn tenant_name(&self, id: TenantId) -> String {
        self.desired().tenants.get(&id).map(|tenant| tenant.name.clone()).unwrap_or_default()
    }
}

impl Current {
    fn shown(&self) -> Shown {
        Shown {
            desired: Arc::clone(&self.desired),
            snapshot: Arc::clone(self.publication.snapshot()),
            findings: self.findings.clone(),
        }
    }

    /// What the store has now. One that is empty, and was not, has lost what it had: that is not taken over, so that it can
    /// still be exported from here.
    fn again(&self, store: &dyn ConfigStore) -> Result<Self, AppError> {
        if let Some(moved) = self.moved(store)? {
            return Ok(moved);
        }
        let mut loaded = Self::load(store)?;
        if self.head_revision != 0 && loaded.head_revision == 0 {
            return Err(AppError::StoreEmpty);
        }
        let (was, is) = (&self.desired.head, &loaded.desired.head);
        loaded.has_gone_back = self.has_gone_back || is.revision < was.revision || is.suppressions < was.suppressions;
        Ok(loaded)
    }

    /// What the store has now, where others have moved the head and no record: two keys instead of all. `None`: a record may
    /// have changed.
    fn moved(&self, store: &dyn ConfigStore) -> Result<Option<Self>, AppError> {
        let listing = store.get(&[HEAD.to_owned(), MANIFEST.to_owned()])?;
        let [head, manifest] = listing.entries.as_slice() else { return Ok(None) };
        let is = Desired::from_entries(std::slice::from_ref(head))?.head;
        let was = &self.desired.head;
        let is_later = is.revision > was.revision && is.suppressions >= was.suppressions;
        if !is_later || is.records == 0 || is.records != was.records {
            return Ok(None);
        }
        let Some(publication) = self.publication.moved(manifest, &is)? else { return Ok(None) };
        let desired = Desired { head: is, ..Desired::clone(&self.desired) };
        Ok(Some(Self {
            findings: self.findings.after(&self.desired, &desired),
            desired: Arc::new(desired),
            head_revision: head.revision,
            publication,
            // Whoever moved the head has finished it before.
            pending: None,
            has_gone_back: self.has_gone_back,
        }))
    }

    fn load(store: &dyn ConfigStore) -> Result<Self, AppError> {
        for _ in 0..CHANGE_TRIES {
            let mut entries = store.list(DESIRED)?.entries;
            let pending = match Pending::lay_over(store, &mut entries)? {
                Laid::None => None,
                Laid::Over(pending) => Some(pending),
                Laid::Gone => continue,
            };
            let head_revision = head_revision(&entries);
            let desired = Desired::from_entries(&entries)?;
            let findings = Findings::of(&desired);
            let publication = Publication::load(store, &desired)?;
            let desired = Arc::new(desired);
            return Ok(Self { desired, head_revision, findings, publication, pending, has_gone_back: false });
        }
        Err(AppError::conflict("others keep changing the configuration; try again"))
    }
}

fn head_revision(entries: &[Entry]) -> u64 {
    entries.iter().find(|entry| entry.key == HEAD).map_or(0, |entry| entry.revision)
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn put<T: Serialize>(key: String, value: &T) -> Result<Write, AppError> {
    Ok(Write::Put { key, value: serde_json::to_vec(value).map_err(AppError::Encode)? })
}

/// How often a change starts again because another process was faster, at the least.
const CHANGE_TRIES: u32 = 5;
/// And how long it does: where others move the head alone, a try takes milliseconds.
const CHANGE_PATIENCE: Duration = Duration::from_secs(5);
