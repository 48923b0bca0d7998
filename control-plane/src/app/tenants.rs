//! Tenants.

use std::collections::BTreeMap;

use postrail_schema::day::Day;
use postrail_schema::ids::TenantId;
use postrail_schema::limits::{MESSAGE_BYTES_MAX, QUOTA_PER_DAY_MAX, RESERVED_PER_S_MAX, TENANT_MESSAGE_BYTES_MIN};
use postrail_schema::snapshot::{SuspensionTarget, Tenant};

use super::bootstrap::LOST;
use super::{App, AppError, Precondition, names, now_ms};
use crate::plan::TenantEntry;

/// A tenant to make.
#[derive(Clone, Debug)]
pub(crate) struct NewTenant {
    pub name: String,
    pub quota_per_day: Option<u64>,
    pub weight: u32,
    pub message_bytes_max: u32,
    /// By name; `None`: every host serves it.
    pub region: Option<String>,
    pub reserved_per_s: Option<u32>,
    pub quarantines: bool,
}

/// What to change of a tenant; `None`: as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct TenantChange {
    /// `Some(None)`: no quota.
    pub quota_per_day: Option<Option<u64>>,
    pub weight: Option<u32>,
    pub message_bytes_max: Option<u32>,
    /// `Some(None)`: no reserve.
    pub reserved_per_s: Option<Option<u32>>,
    pub quarantines: Option<bool>,
}

/// What of a tenant's quota is used up today, as the ledger has it.
#[derive(Clone, Debug)]
pub(crate) struct QuotaUse {
    pub day: Day,
    pub quota_per_day: Option<u64>,
    /// By name; those that do not run now, and the one of a single process, have none.
    pub hosts: BTreeMap<Option<String>, u64>,
}

impl App {
    /// # Errors
    /// The name is taken or malformed, or a number is out of its range.
    pub(crate) fn create_tenant(&self, new: &NewTenant) -> Result<Tenant, AppError> {
        let name = names::slug("/name", &new.name)?;
        self.change(|draft| {
            // The publication of this one alone would take all others from hosts that still serve them.
            if draft.desired.head.is_lost {
                return Err(AppError::conflict(LOST));
            }
            if draft.desired.tenant(&name).is_some() {
                return Err(AppError::conflict(format!("tenant {name} exists")));
            }
            let region = match &new.region {
                Some(name) => Some(draft.desired.region(name).ok_or_else(|| unknown_region(name))?.id),
                None => None,
            };
            let tenant = Tenant {
                id: draft.counters().next_tenant(),
                name: name.clone(),
                quota_per_day: checked_quota(new.quota_per_day)?,
                weight: checked_weight(new.weight)?,
                message_bytes_max: checked_size(new.message_bytes_max)?,
                region,
                reserved_per_s: checked_reserve(new.reserved_per_s)?,
                quarantines: new.quarantines,
            };
            draft.put(tenant.clone())?;
            Ok(tenant)
        })
    }

    /// # Errors
    /// It does not exist, or a number is out of its range.
    pub(crate) fn change_tenant(
        &self,
        name: &str,
        change: &TenantChange,
        when: &Precondition,
    ) -> Result<Tenant, AppError> {
        self.change(|draft| {
            let mut tenant = draft.tenant(name)?.clone();
            when.check(&TenantEntry::of(&draft.desired, &tenant))?;
            tenant.quota_per_day = change.quota_per_day.map_or(Ok(tenant.quota_per_day), checked_quota)?;
            tenant.weight = checked_weight(change.weight.unwrap_or(tenant.weight))?;
            tenant.message_bytes_max = checked_size(change.message_bytes_max.unwrap_or(tenant.message_bytes_max))?;
            tenant.quarantines = change.quarantines.unwrap_or(tenant.quarantines);
            tenant.reserved_per_s = checked_reserve(change.reserved_per_s.unwrap_or(tenant.reserved_per_s))?;
            draft.put(tenant.clone())?;
            Ok(tenant)
        })
    }

    /// # Errors
    /// It does not exist, or owns something.
    pub(crate) fn delete_tenant(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            let tenant = draft.tenant(name)?;
            when.check(&TenantEntry::of(&draft.desired, tenant))?;
            let id = tenant.id;
            let desired = &draft.desired;
            let owns = desired.credentials.values().any(|credential| credential.tenant == id)
                || desired.domains.values().any(|domain| domain.tenant == id)
                || desired.pools.values().any(|pool| pool.tenant == Some(id))
                || desired.suspensions.values().any(|held| held.target == SuspensionTarget::Tenant(id));
            if owns {
                let detail = format!("tenant {name} has credentials, domains, pools or suspensions; delete them first");
                return Err(AppError::conflict(detail));
            }
            self.check_unsuppressed(id)?;
            draft.delete::<Tenant>(&id);
            Ok(())
        })
    }

    /// # Errors
    /// The tenant is of another region, or the ledger fails.
    pub(crate) fn quota_use(&self, tenant: &Tenant) -> Result<QuotaUse, AppError> {
        self.check_region(tenant.id)?;
        let (day, running) = (Day::of_ms(now_ms()), self.hosts.all());
        let mut hosts = BTreeMap::new();
        for count in self.ledger.accepted(day, Some(tenant.id), 0)? {
            let host = running.iter().find(|host| host.id == count.host && !host.name.is_empty());
            *hosts.entry(host.map(|host| host.name.clone())).or_default() += count.recipients;
        }
        Ok(QuotaUse { day, quota_per_day: tenant.quota_per_day, hosts })
    }

    /// The id of the tenant of that name.
    ///
    /// # Errors
    /// It does not exist.
    pub(crate) fn tenant_id(&self, name: &str) -> Result<TenantId, AppError> {
        self.desired().tenant(name).map(|tenant| tenant.id).ok_or_else(|| AppError::not_found("tenant", name))
    }
}

pub(super) fn unknown_region(name: &str) -> AppError {
    AppError::invalid("/region", format!("region {name} does not exist; make it by postrail region add"))
}

pub(super) fn checked_weight(weight: u32) -> Result<u32, AppError> {
    if (1..=1_000).contains(&weight) {
        return Ok(weight);
    }
    Err(AppError::invalid("/weight", "a weight is 1 to 1,000"))
}

pub(super) fn checked_quota(quota: Option<u64>) -> Result<Option<u64>, AppError> {
    if quota.is_none_or(|quota| quota <= QUOTA_PER_DAY_MAX) {
        return Ok(quota);
    }
    let detail = format!("a quota is 0 to {QUOTA_PER_DAY_MAX} recipients a UTC day, or null for none");
    Err(AppError::invalid("/quota_per_day", detail))
}

pub(super) fn checked_reserve(rate: Option<u32>) -> Result<Option<u32>, AppError> {
    if rate.is_none_or(|rate| (1..=RESERVED_PER_S_MAX).contains(&rate)) {
        return Ok(rate);
    }
    let detail = format!("a reserve is 1 to {RESERVED_PER_S_MAX} recipients a second, or null for none");
    Err(AppError::invalid("/reserved_per_s", detail))
}

pub(super) fn checked_size(size: u32) -> Result<u32, AppError> {
    if (TENANT_MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&(size as usize)) {
        return Ok(size);
    }
    let detail = format!(
        "the largest message is {TENANT_MESSAGE_BYTES_MIN} to {MESSAGE_BYTES_MAX} octets, with the 2,000 or so that are \
         counted for what is added to it"
    );
    Err(AppError::invalid("/message_bytes_max", detail))
}
