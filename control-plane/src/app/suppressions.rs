//! Suppressions. They live in the ledger; data planes fetch what has changed when a publication says that something has
//! (`suppression_list`).
//!
//! Invariant worth naming: the number of the ledger's last change that was announced is kept with the announcement, so what is in
//! the ledger is announced whoever wrote it, by the next request or by the leader (`reconcile::announce`).

use postrail_schema::ids::TenantId;
use postrail_schema::keys;
use postrail_schema::limits::{SUPPRESSIONS_HIGH_WATER_PERCENT, SUPPRESSIONS_MAX};
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::snapshot::Suppression;

use serde::Serialize;

use super::{App, AppError, HostStatus, Precondition, names, now_ms};
use crate::ledger::{LedgerError, SuppressionRecord};
use crate::plan::{Action, Announced, Change, Desired, DocumentEntry};

/// A suppression as its entity tag is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct SuppressionEntry {
    address: String,
    reason: String,
}

impl SuppressionEntry {
    pub(crate) fn of(record: &SuppressionRecord) -> Self {
        Self { address: record.suppression.address.clone(), reason: record.reason.clone() }
    }
}

impl DocumentEntry for SuppressionEntry {
    const KIND: &'static str = "suppression";

    fn name(&self) -> String {
        self.address.clone()
    }
}

impl App {
    /// Adds or renews a suppression, and publishes it; whether it is new.
    ///
    /// # Errors
    /// The address is malformed, the tenant does not exist, or there are too many.
    pub(crate) fn suppress(
        &self,
        tenant: &str,
        address: &str,
        reason: &str,
        when: &Precondition,
    ) -> Result<(SuppressionRecord, bool), AppError> {
        let tenant = self.tenant_id(tenant)?;
        self.check_home(tenant)?;
        names::check_address("/address", address)?;
        let record = SuppressionRecord {
            suppression: self.stored(tenant, address)?.0,
            reason: names::reason("/reason", reason)?,
            created_ms: now_ms(),
        };
        let was = self.ledger.suppression(&record.suppression)?;
        let new = self.guarded(&record.suppression, when, |was| self.ledger.suppress(&record, was))?;
        self.tell(self.changed_suppression(was.as_ref(), Some(&record)))?;
        self.announce_changed_suppressions()?;
        Ok((record, new))
    }

    /// Removes a suppression, and publishes that.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn unsuppress(&self, tenant: TenantId, address: &str, when: &Precondition) -> Result<(), AppError> {
        self.check_home(tenant)?;
        let (suppression, others) = self.stored(tenant, address)?;
        let was = self.ledger.suppression(&suppression)?;
        let is_removed = self.guarded(&suppression, when, |was| self.ledger.unsuppress(&suppression, was))?;
        if is_removed {
            for other in others {
                self.ledger.unsuppress(&other, None)?;
            }
            self.tell(self.changed_suppression(was.as_ref(), None))?;
        }
        self.announce_changed_suppressions()?;
        if is_removed { Ok(()) } else { Err(AppError::not_found("suppression", suppression.address)) }
    }

    /// Removes all suppressions of a tenant, also of one that is gone, which has its number alone; how many.
    ///
    /// # Errors
    /// The tenant's are kept elsewhere, or a store fails: what was removed until then is.
    pub(crate) fn unsuppress_all(&self, tenant: TenantId) -> Result<u64, AppError> {
        self.check_home(tenant)?;
        let (name, count) = (self.tenant_name(tenant), self.ledger.suppressions_count(Some(tenant))?);
        let name = if name.is_empty() { format!("tenant {tenant}, which is gone") } else { name };
        let name = format!("all {count} of {name}");
        let told = Change { action: Action::Removed, kind: SuppressionEntry::KIND, name, fields: Vec::new() };
        self.tell((count > 0).then_some(told))?;
        let mut all = 0;
        loop {
            let removed = self.ledger.unsuppress_some(tenant, REMOVED_AT_ONCE)?;
            all += removed;
            if removed < u64::from(REMOVED_AT_ONCE) {
                self.announce_changed_suppressions()?;
                return Ok(all);
            }
        }
    }

    /// Refuses to remove a tenant whose suppressions are here: they would hold for nobody, nor for one that is made again
    /// under its name.
    ///
    /// # Errors
    /// It has some, or they are kept elsewhere.
    pub(super) fn check_unsuppressed(&self, tenant: TenantId) -> Result<(), AppError> {
        let desired = self.desired();
        if let Some(region) = self.other_region(&desired, tenant)
            && !self.store.get(&[keys::leader(&region.name)])?.entries.is_empty()
        {
            return self.check_region(tenant);
        }
        match self.ledger.suppressions_count(Some(tenant))? {
            0 => Ok(()),
            count => Err(AppError::conflict(kept(&self.tenant_name(tenant), count))),
        }
    }

    /// Findings about tenants that are in `before` and not in `after`, of which there are suppressions.
    ///
    /// # Errors
    /// The ledger fails.
    pub(super) fn removal_problems(&self, before: &Desired, after: &Desired) -> Result<Vec<Problem>, AppError> {
        let mut problems = Vec::new();
        for tenant in before.tenants.values().filter(|tenant| !after.tenants.contains_key(&tenant.id)) {
            let subject = format!("tenant/{}", tenant.name);
            if let Some(region) = self.other_region(before, tenant.id) {
                let (severity, code) = (Severity::Warning, "suppressions_elsewhere");
                let detail = format!(
                    "it goes, and its suppressions, which the ledger of region {} has, hold for nobody then, nor for one that is \
                     made again under this name; `postrail suppression list --tenant {}` there shows them",
                    region.name, tenant.name
                );
                problems.push(Problem { severity, code, subject, detail });
            } else if let count @ 1.. = self.ledger.suppressions_count(Some(tenant.id))? {
                let (severity, code, detail) = (Severity::Error, "tenant_has_suppressions", kept(&tenant.name, count));
                problems.push(Problem { severity, code, subject, detail });
            }
        }
        Ok(problems)
    }

    /// Announces what the ledger has, where that was not: a change whose announcement failed, or whose process ended before
    /// it, stands in the ledger and is no change when it is asked for again.
    ///
    /// # Errors
    /// The store or the ledger fails.
    pub(crate) fn announce_changed_suppressions(&self) -> Result<(), AppError> {
        // Behind a change that is under way, which may be this one.
        let announced = self.current().desired.head.announced.get(&self.region).cloned();
        if announced == Some(self.ledger_state()?) {
            return Ok(());
        }
        self.announce_suppressions()
    }

    /// Notes what the ledger has, which `desired` announces. Where it does not answer it is announced once more.
    pub(super) fn note_announced(&self, desired: &mut Desired) {
        let Ok(now) = self.ledger_state() else { return };
        let regions = &desired.regions;
        let is_known = |name: &str| regions.values().any(|region| region.name == name);
        desired.head.note_announced(&self.region, now, is_known);
    }

    fn ledger_state(&self) -> Result<Announced, LedgerError> {
        let (ledger, last) = (format!("{:032x}", self.ledger.id()?), self.ledger.suppression_head()?.last);
        Ok(Announced { ledger, last })
    }

    /// The suppression of the address as the ledger has it, and others of the same mailbox: earlier versions wrote them in
    /// other forms than the normal one, which it is where there is none.
    fn stored(&self, tenant: TenantId, address: &str) -> Result<(Suppression, Vec<Suppression>), AppError> {
        let (normal, others) = names::address_forms("/address", address)?;
        let normal = Suppression { tenant, address: normal };
        let mut found = Vec::new();
        for one in others.into_iter().map(|address| Suppression { tenant, address }) {
            if self.ledger.suppression(&one)?.is_some() {
                found.push(one);
            }
        }
        if !found.is_empty() && self.ledger.suppression(&normal)?.is_none() {
            return Ok((found.swap_remove(0), found));
        }
        Ok((normal, found))
    }

    /// For the audit trail, which tells the tenant by name as well.
    fn changed_suppression(&self, was: Option<&SuppressionRecord>, is: Option<&SuppressionRecord>) -> Option<Change> {
        let tenant = is.or(was).map(|record| self.tenant_name(record.suppression.tenant))?;
        let change = Change::of(was.map(SuppressionEntry::of).as_ref(), is.map(SuppressionEntry::of).as_ref())?;
        Some(Change { name: format!("{} of {tenant}", change.name), ..change })
    }

    /// Makes a change of what was checked, and of nothing else: where another's came between, it is looked at again.
    fn guarded(
        &self,
        suppression: &Suppression,
        when: &Precondition,
        change: impl Fn(Option<&str>) -> Result<bool, LedgerError>,
    ) -> Result<bool, AppError> {
        if when.is_empty() {
            return Ok(change(None)?);
        }
        for _ in 0..TRIES_MAX {
            let found = self.ledger.suppression(suppression)?;
            let found = found.ok_or_else(|| AppError::not_found("suppression", &suppression.address))?;
            when.check(&SuppressionEntry::of(&found))?;
            match change(Some(&found.reason)) {
                Err(LedgerError::SuppressionChanged) => {}
                done => return Ok(done?),
            }
        }
        Err(AppError::conflict("others change this suppression all the while; try again"))
    }

    /// The finding that there is room for few more, as far as the ledger answers.
    pub(crate) fn suppression_problem(&self) -> Option<Problem> {
        let count = self.ledger.suppressions_count(None).ok()?;
        let is_near = count * 100 >= (SUPPRESSIONS_MAX * SUPPRESSIONS_HIGH_WATER_PERCENT) as u64;
        is_near.then(|| Problem {
            severity: Severity::Warning,
            code: "suppressions_near_limit",
            subject: "ledger/suppressions".to_owned(),
            detail: format!(
                "there are {count} suppressions of all tenants, and {SUPPRESSIONS_MAX} are the most that are kept: beyond, no \
                 tenant can add any; delete those of tenants that are gone (postrail suppression list --json tells their \
                 tenant_id, clear --tenant-id removes them), or those that are old"
            ),
        })
    }

    /// Hosts that do not have the suppressions that are published, though they try to.
    pub(crate) async fn suppression_problems(&self) -> Vec<Problem> {
        let statuses = self.hosts.statuses().await;
        let late = statuses.iter().filter(|(_, status)| status.suppressions_missed_ms >= SUPPRESSIONS_LATE_MS);
        let problem = |(host, status): (&String, &HostStatus)| {
            let what = match status.awaits_suppressions {
                true => "it never had the list of suppressions, so it accepts no mail and sends none",
                false => "it accepts and sends mail without the suppressions of since",
            };
            Problem {
                severity: Severity::Warning,
                code: "suppressions_behind",
                subject: format!("host/{host}"),
                detail: format!(
                    "for {} s it has not been given the suppressions that are published: {what}; they come from the control \
                     plane that leads its region, which has to run, and to be reached from there",
                    status.suppressions_missed_ms / 1_000
                ),
            }
        };
        late.map(problem).collect()
    }

    /// # Errors
    /// There is none.
    pub(crate) fn suppression(&self, tenant: TenantId, address: &str) -> Result<SuppressionRecord, AppError> {
        self.check_region(tenant)?;
        let (suppression, _) = self.stored(tenant, address)?;
        let found = self.ledger.suppression(&suppression)?;
        found.ok_or_else(|| AppError::not_found("suppression", suppression.address))
    }
}

/// Why a tenant is not removed.
fn kept(tenant: &str, count: u64) -> String {
    format!(
        "tenant {tenant} has {count} suppressions, which a tenant that is made again under this name would not have; where they \
         are no longer wanted, remove them first: postrail suppression clear --tenant {tenant}"
    )
}

/// Suppressions that are removed in one transaction of the ledger.
const REMOVED_AT_ONCE: u32 = 10_000;
/// How often a change is tried that others' come between.
const TRIES_MAX: usize = 5;
/// From when it is worth a word that a host tries in vain to have suppressions; a change of who leads takes less.
const SUPPRESSIONS_LATE_MS: u64 = 10_000;
