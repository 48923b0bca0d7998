//! Regions: hosts that serve some tenants alone, and what is refused elsewhere.
//!
//! A tenant's region is said when it is made and stays: what its mail left in spools, journals and ledgers does not move
//! with a setting. What depends on the data planes that run (`problems_of_hosts`) is read from the store when asked.

use std::collections::{BTreeMap, BTreeSet};

use postrail_schema::host::HostAnnouncement;
use postrail_schema::ids::TenantId;
use postrail_schema::keys::{self, HOLDING, HOSTS, LEADER};
use postrail_schema::limits::REGIONS_MAX;
use postrail_schema::problem::Problem;
use postrail_schema::region::Region;
use postrail_schema::snapshot::SendingDomain;
use postrail_schema::wire::SNAPSHOT_FORMAT_SHARED;

use super::{App, AppError, Draft, Home, Precondition, names};
use crate::plan::{
    Desired, Presence, Record, RegionEntry, authorities_problem, listener_problems, refusing_problems, region_problems,
    shared_problem,
};

/// A region to make, or to replace under its name.
#[derive(Clone, Debug)]
pub(crate) struct NewRegion {
    pub name: String,
    pub submission_host: String,
}

impl App {
    /// Makes a region, or with `replace` changes the one of that name.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), a value is malformed, or there are too many.
    pub(crate) fn put_region(&self, new: &NewRegion, replace: Option<&Precondition>) -> Result<Region, AppError> {
        let name = names::slug("/name", &new.name)?;
        let submission_host = names::domain("/submission_host", &new.submission_host, true)?;
        self.change(|draft| {
            let id = match (draft.desired.region(&name), replace) {
                (Some(region), Some(when)) => {
                    when.check(&RegionEntry::of(region))?;
                    region.id
                }
                (None, None) => draft.counters().next_region(),
                (Some(_), None) => return Err(AppError::conflict(format!("region {name} exists"))),
                (None, Some(_)) => return Err(AppError::not_found("region", &*name)),
            };
            let region = Region { id, name: name.clone(), submission_host: submission_host.clone() };
            draft.put(region.clone())?;
            if draft.desired.regions.len() > REGIONS_MAX {
                return Err(AppError::conflict(format!("there are {REGIONS_MAX} regions already")));
            }
            Ok(region)
        })
    }

    /// # Errors
    /// It does not exist, or a tenant is in it.
    pub(crate) fn delete_region(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            let region = draft.desired.region(name).ok_or_else(|| AppError::not_found("region", name))?;
            when.check(&RegionEntry::of(region))?;
            let id = region.id;
            if let Some(tenant) = draft.desired.tenants.values().find(|tenant| tenant.region == Some(id)) {
                return Err(AppError::conflict(format!("tenant {} is in region {name}", tenant.name)));
            }
            draft.delete::<Region>(&id);
            Ok(())
        })
    }

    /// Refuses what would store something of `tenant` in the ledger of another region, or look for it there: it would find
    /// nothing and seem to say that there is nothing.
    ///
    /// # Errors
    /// [`AppError::WrongRegion`].
    pub(crate) fn check_region(&self, tenant: TenantId) -> Result<(), AppError> {
        let desired = self.desired();
        let Some(region) = self.other_region(&desired, tenant) else { return Ok(()) };
        let leader = self.store.get(&[keys::leader(&region.name)])?;
        let at = leader.entries.first().map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        Err(AppError::WrongRegion { region: region.name.clone(), at })
    }

    /// The region of `tenant`, if it is another than ours.
    pub(crate) fn other_region<'a>(&self, desired: &'a Desired, tenant: TenantId) -> Option<&'a Region> {
        let region = desired.region_of(tenant).and_then(|region| desired.regions.get(&region));
        region.filter(|region| region.name != self.region)
    }

    /// What of `desired` does not go with the regions of the data planes and control planes that run.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn problems_of_hosts(&self, desired: &Desired) -> Result<Vec<Problem>, AppError> {
        let (mut presence, mut authorities) = (Presence::default(), BTreeMap::new());
        for entry in self.store.list(HOSTS)?.entries {
            let name = entry.key.strip_prefix(HOSTS).unwrap_or_default().to_owned();
            // What cannot be read is told where it is followed.
            if let Ok(host) = serde_json::from_slice::<HostAnnouncement>(&entry.value) {
                authorities.extend(host.receiver_authorities.map(|hash| (name.clone(), hash)));
                presence.hosts.insert(name, host.region);
            }
        }
        for entry in self.store.list(LEADER)?.entries {
            let region = entry.key.strip_prefix(LEADER).unwrap_or_default().trim_start_matches('/');
            presence.leaders.insert(region.to_owned());
        }
        presence.has_home = self.home()? != Home::Nowhere;
        let mut problems = region_problems(desired, &presence);
        problems.extend(listener_problems(desired, &presence.hosts));
        problems.extend(authorities_problem(&authorities));
        problems.extend(shared_problem(desired, &self.snapshot_formats()?));
        problems.extend(refusing_problems(desired, &self.running_formats()?));
        Ok(problems)
    }

    /// The newest format of snapshots that each host reads that runs or keeps a place in the fleet, by its name; 0 where it does
    /// not say.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn snapshot_formats(&self) -> Result<BTreeMap<String, u16>, AppError> {
        let mut formats = self.running_formats()?;
        for entry in self.store.list_keys(HOLDING)?.entries {
            let name = entry.key.strip_prefix(HOLDING).unwrap_or_default().to_owned();
            formats.entry(name).or_insert(0);
        }
        Ok(formats)
    }

    /// The same of those that run.
    fn running_formats(&self) -> Result<BTreeMap<String, u16>, AppError> {
        let mut formats = BTreeMap::new();
        for entry in self.store.list(HOSTS)?.entries {
            let host = serde_json::from_slice::<HostAnnouncement>(&entry.value);
            let name = entry.key.strip_prefix(HOSTS).unwrap_or_default().to_owned();
            formats.insert(name, host.map_or(0, |host| host.snapshot_format));
        }
        Ok(formats)
    }

    /// After a loss, lets domains of one name be imported as they were: nobody could say so before, since there is nothing to
    /// publish until then. Not where a host runs that would refuse them.
    ///
    /// # Errors
    /// The store fails.
    pub(super) fn share_after_loss(&self, draft: &mut Draft) -> Result<(), AppError> {
        let head = &mut draft.desired.head;
        if head.is_lost && !head.publishes_shared {
            head.publishes_shared = self.running_formats()?.values().all(|format| *format >= SNAPSHOT_FORMAT_SHARED);
        }
        Ok(())
    }

    /// From now on every domain is published, also where several tenants have its name.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn publish_shared(&self) -> Result<(), AppError> {
        let head = &self.desired().head;
        if head.publishes_shared || head.is_lost {
            return Ok(());
        }
        self.change(|draft| {
            draft.desired.head.publishes_shared = true;
            let places = draft.desired.later_domains().filter_map(|domain| SendingDomain::place(&domain.id));
            draft.changed.extend(places.collect::<BTreeSet<_>>());
            Ok(())
        })
    }
}
