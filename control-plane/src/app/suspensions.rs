//! Suspensions: what an operator stops, until it is resumed.

use postrail_schema::ids::SuspensionId;
use postrail_schema::snapshot::{Suspension, SuspensionTarget};

use super::{App, AppError, Precondition, names};
use crate::plan::SuspensionEntry;

/// What to suspend: exactly one of the three.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewSuspension {
    /// A site, or any recipient domain.
    pub site: Option<String>,
    /// By name.
    pub source: Option<String>,
    /// By name.
    pub tenant: Option<String>,
    pub reason: String,
}

impl App {
    /// Suspends; the same target twice is one suspension with the later reason.
    ///
    /// # Errors
    /// The target does not exist, or there is not exactly one; or its suspension is not there, or not as the caller has
    /// read it.
    pub(crate) fn suspend(&self, new: &NewSuspension, when: &Precondition) -> Result<Suspension, AppError> {
        let reason = names::reason("/reason", &new.reason)?;
        self.change(|draft| {
            let desired = &draft.desired;
            let target = match (&new.site, &new.source, &new.tenant) {
                (Some(site), None, None) => SuspensionTarget::Site(names::site("/site", site)?),
                (None, Some(name), None) => SuspensionTarget::Source(
                    desired.source(name).ok_or_else(|| AppError::not_found("source", name))?.id,
                ),
                (None, None, Some(name)) => SuspensionTarget::Tenant(draft.tenant(name)?.id),
                _ => return Err(AppError::invalid("", "name exactly one of site, source and tenant")),
            };
            let known = desired.suspensions.values().find(|suspension| suspension.target == target);
            match known {
                Some(is) => when.check(&SuspensionEntry::of(desired, is))?,
                None if when.is_empty() => {}
                None => return Err(AppError::not_found("suspension", "of that target")),
            }
            let id =
                known.map(|suspension| suspension.id).unwrap_or_else(|| draft.desired.head.counters.next_suspension());
            let suspension = Suspension { id, target, reason: reason.clone() };
            draft.put(suspension.clone())?;
            Ok(suspension)
        })
    }

    /// Ends a suspension.
    ///
    /// # Errors
    /// It does not exist.
    pub(crate) fn resume(&self, id: SuspensionId, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            let found = draft.desired.suspensions.get(&id);
            let suspension = found.ok_or_else(|| AppError::not_found("suspension", id.to_string()))?;
            when.check(&SuspensionEntry::of(&draft.desired, suspension))?;
            draft.delete::<Suspension>(&id);
            Ok(())
        })
    }
}
