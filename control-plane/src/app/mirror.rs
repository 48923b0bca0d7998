//! Suppressions of tenants without a region: the ledger of the control planes without a region keeps them, that of a region
//! has a copy, so that they hold at its hosts.
//!
//! ```text
//! region: stretch(after) -> Comparison: from where to where, a digest, what the home was never told of
//! home:   compare: takes over what it was never told of -> the same, or what it has of that stretch
//! region: take: into its ledger, in one transaction -> the next stretch begins where this one ended
//! ```
//!
//! A change crosses as one stretch, however long the list is, and neither side remembers the other. What a region has of
//! its own (of before it had a copy, or before there was a home) is handed over and never removed for not being there.
//!
//! Invariants worth naming: of a tenant of a region nothing leaves or enters, nor is where a stretch ends one of its
//! addresses; who has a home and has never had all that is there gives data planes no list; what was taken over holds while
//! the home is away. Absent here: when it is looked (`reconcile::mirror`).

use std::collections::BTreeMap;
use std::sync::PoisonError;

use aws_lc_rs::digest::{Context, SHA256};
use postrail_schema::ids::TenantId;
use postrail_schema::limits::MIRROR_ROWS;
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::snapshot::Suppression;

use super::home::{Compared, Comparison, Home};
use super::{App, AppError, names};
use crate::ledger::{Kept, LedgerError, SuppressionRecord};
use crate::plan::Desired;

/// Part of the suppressions of tenants without a region, as they are here.
pub(crate) struct Stretch {
    after: Option<Suppression>,
    through: Option<Suppression>,
    kept: Vec<Kept>,
}

impl Stretch {
    pub(crate) fn comparison(&self, version: u64) -> Comparison {
        Comparison {
            version,
            after: self.after.clone(),
            through: self.through.clone(),
            digest: digest(self.kept.iter().map(|kept| &kept.record)),
            own: self.own(),
        }
    }

    fn own(&self) -> Vec<SuppressionRecord> {
        self.kept.iter().filter(|kept| !kept.is_mirrored).map(|kept| kept.record.clone()).collect()
    }

    /// Whether that is in it.
    fn has(&self, one: &Suppression, through: Option<&Suppression>) -> bool {
        self.after.as_ref().is_none_or(|after| one > after) && through.is_none_or(|through| one <= through)
    }
}

impl App {
    /// Refuses what would change a suppression that another control plane keeps.
    ///
    /// # Errors
    /// [`AppError::WrongRegion`].
    pub(super) fn check_home(&self, tenant: TenantId) -> Result<(), AppError> {
        self.check_region(tenant)?;
        if self.region.is_empty() || !is_without_region(&self.desired(), tenant) {
            return Ok(());
        }
        let at = match self.home()? {
            Home::Nowhere => return Ok(()),
            Home::Away => None,
            Home::At(at) => Some(at),
        };
        Err(AppError::WrongRegion { region: String::new(), at })
    }

    /// Whether what is here is a list for data planes: not where suppressions are kept elsewhere that never were here.
    ///
    /// # Errors
    /// [`AppError::Unmirrored`]; the store or the ledger fails.
    pub(super) fn check_mirror(&self) -> Result<(), AppError> {
        if self.region.is_empty() || self.ledger.is_mirror_whole()? || !has_any(&self.desired()) {
            return Ok(());
        }
        if self.home()? == Home::Nowhere { Ok(()) } else { Err(AppError::Unmirrored) }
    }

    /// The home's side: takes over what the region has of its own, and tells what is here where it is something else.
    ///
    /// # Errors
    /// This is no home, or its ledger is not; the store or the ledger fails.
    pub(crate) fn compare(&self, asked: Comparison) -> Result<Compared, AppError> {
        if !self.region.is_empty() || asked.own.len() > MIRROR_ROWS {
            return Err(AppError::conflict("this is not what a control plane without a region is asked for"));
        }
        // Whoever asks knows of changes up to there, and so of their tenants.
        if self.desired().head.suppressions != asked.version {
            self.reload()?;
        }
        self.check_ledger_now()?;
        let refused = self.adopt(asked.own)?;
        let rows = u32::try_from(2 * MIRROR_ROWS).unwrap_or(u32::MAX);
        let desired = self.desired();
        let read = |after: Option<&Suppression>| self.ledger.suppressions(None, after, rows);
        let (mut records, is_cut) =
            page(&desired, asked.after.as_ref(), rows as usize, read, |record| &record.suppression)?;
        let last = records.last().filter(|_| is_cut).map(|record| record.suppression.clone());
        let through = match (last, asked.through.clone()) {
            (Some(last), Some(through)) => Some(last.min(through)),
            (last, through) => last.or(through),
        };
        let is_in = |one: &Suppression| through.as_ref().is_none_or(|through| one <= through);
        records.retain(|record| is_in(&record.suppression));
        let is_same = through == asked.through && digest(&records) == asked.digest;
        Ok(Compared { through, records: (!is_same).then_some(records), refused })
    }

    /// Takes over those that are not here; how many there is no room for.
    fn adopt(&self, own: Vec<SuppressionRecord>) -> Result<usize, AppError> {
        let (desired, mut taken, mut refused) = (self.desired(), 0_usize, 0);
        for record in own {
            let Suppression { tenant, address } = &record.suppression;
            let is_one = is_without_region(&desired, *tenant)
                && names::address_forms("", address)
                    .is_ok_and(|(normal, others)| normal == *address || others.contains(address))
                && names::reason("", &record.reason).is_ok();
            if !is_one || self.ledger.suppression(&record.suppression)?.is_some() {
                continue;
            }
            match self.ledger.suppress(&record, None) {
                Ok(_) => taken += 1,
                Err(LedgerError::SuppressionsFull | LedgerError::TenantSuppressionsFull) => refused += 1,
                Err(error) => return Err(error.into()),
            }
        }
        if taken > 0 {
            tracing::info!(suppressions = taken, "taken over from a region");
            self.announce_changed_suppressions()?;
        }
        Ok(refused)
    }

    /// The region's side: the stretch behind `after`.
    ///
    /// # Errors
    /// The ledger fails.
    pub(crate) fn stretch(&self, after: Option<Suppression>) -> Result<Stretch, AppError> {
        let rows = u32::try_from(MIRROR_ROWS).unwrap_or(u32::MAX);
        let read = |after: Option<&Suppression>| self.ledger.kept(after, rows);
        let (kept, is_cut) = page(&self.desired(), after.as_ref(), MIRROR_ROWS, read, |kept| &kept.record.suppression)?;
        let last = kept.last().filter(|_| is_cut);
        let through = last.map(|kept| kept.record.suppression.clone());
        Ok(Stretch { after, through, kept })
    }

    /// Takes over what the home has of `stretch`; whether there are other addresses now.
    ///
    /// # Errors
    /// The answer is none to that; the ledger fails, or has no room.
    pub(crate) fn take_mirrored(&self, stretch: &Stretch, told: Compared) -> Result<bool, AppError> {
        let is_answer = match &told.through {
            Some(through) => stretch.has(through, stretch.through.as_ref()),
            None => stretch.through.is_none(),
        };
        if !is_answer {
            return Err(AppError::Home { detail: "its answer is about something else".to_owned() });
        }
        let desired = self.desired();
        let (put, gone) = match told.records {
            None => (stretch.own(), Vec::new()),
            Some(records) => {
                let is_one = |record: &SuppressionRecord| {
                    stretch.has(&record.suppression, told.through.as_ref())
                        && desired.region_of(record.suppression.tenant).is_none()
                };
                let theirs: BTreeMap<_, _> =
                    records.into_iter().filter(is_one).map(|record| (record.suppression.clone(), record)).collect();
                let copies = stretch.kept.iter().filter(|kept| kept.is_mirrored).map(|kept| &kept.record);
                let known: BTreeMap<_, _> = copies.map(|record| (&record.suppression, record)).collect();
                let is_gone =
                    |one: &&Suppression| stretch.has(one, told.through.as_ref()) && !theirs.contains_key(*one);
                let gone: Vec<_> = known.keys().copied().filter(is_gone).cloned().collect();
                let is_news = |record: &&SuppressionRecord| known.get(&record.suppression) != Some(record);
                (theirs.values().filter(is_news).cloned().collect(), gone)
            }
        };
        if put.is_empty() && gone.is_empty() {
            return Ok(false);
        }
        Ok(self.ledger.mirror(&put, &gone)?)
    }

    /// Everything that the home has is here.
    ///
    /// # Errors
    /// The ledger fails.
    pub(crate) fn mirrored_all(&self) -> Result<(), AppError> {
        self.ledger.make_durable()?;
        match self.ledger.is_mirror_whole()? {
            true => Ok(()),
            false => Ok(self.ledger.set_mirror_whole(super::now_ms())?),
        }
    }

    /// Says why suppressions are not taken over, for the findings; `None`: they are.
    pub(crate) fn set_mirror_trouble(&self, trouble: Option<String>) {
        *self.mirror_trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// The finding about it.
    pub(super) fn mirror_problem(&self) -> Option<Problem> {
        let trouble = self.mirror_trouble.read().unwrap_or_else(PoisonError::into_inner).clone();
        let is_unmirrored = matches!(self.check_mirror(), Err(AppError::Unmirrored));
        let (severity, what) = match (&trouble, is_unmirrored) {
            (_, true) => (
                Severity::Error,
                "never were here, and mail must not go to them, so that the data planes of the region get no list of \
                 suppressions until they are",
            ),
            (Some(_), false) => (Severity::Warning, "are not taken over; the copy that is here holds"),
            (None, false) => return None,
        };
        let why = trouble.unwrap_or_else(|| "the control plane that leads here has not got them yet".to_owned());
        Some(Problem {
            severity,
            code: "suppressions_not_mirrored",
            subject: format!("region/{}", self.region),
            detail: format!(
                "the suppressions of tenants without a region, which control planes without --region keep, {what}: {why}"
            ),
        })
    }
}

/// The next rows behind `after` that are of tenants without a region, and whether there may be more behind the last of them:
/// so a stretch ends at one of them, and names no other. `read` gives at most `rows`.
fn page<R>(
    desired: &Desired,
    after: Option<&Suppression>,
    rows: usize,
    read: impl Fn(Option<&Suppression>) -> Result<Vec<R>, LedgerError>,
    named: impl Fn(&R) -> &Suppression,
) -> Result<(Vec<R>, bool), LedgerError> {
    let mut after = after.cloned();
    loop {
        let mut page = read(after.as_ref())?;
        let is_cut = page.len() == rows;
        after = page.last().map(|row| named(row).clone());
        page.retain(|row| is_without_region(desired, named(row).tenant));
        if !is_cut || !page.is_empty() {
            return Ok((page, is_cut));
        }
    }
}

/// Whether there is such a tenant, and it is in no region.
fn is_without_region(desired: &Desired, tenant: TenantId) -> bool {
    desired.tenants.get(&tenant).is_some_and(|tenant| tenant.region.is_none())
}

/// Whether any tenant is.
fn has_any(desired: &Desired) -> bool {
    desired.tenants.values().any(|tenant| tenant.region.is_none())
}

/// What tells two lists apart.
fn digest<'r>(records: impl IntoIterator<Item = &'r SuppressionRecord>) -> String {
    let mut context = Context::new(&SHA256);
    for SuppressionRecord { suppression: Suppression { tenant, address }, reason, created_ms } in records {
        context.update(&tenant.0.to_le_bytes());
        context.update(&created_ms.to_le_bytes());
        for text in [address, reason] {
            context.update(&(text.len() as u64).to_le_bytes());
            context.update(text.as_bytes());
        }
    }
    context.finish().as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}
