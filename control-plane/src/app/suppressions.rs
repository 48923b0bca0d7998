//! Suppressions. They live in the ledger and reach the data plane within the snapshot.

use postrail_schema::ids::TenantId;
use postrail_schema::snapshot::Suppression;

use super::{App, AppError, names, now_ms};
use crate::ledger::SuppressionRecord;

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
    ) -> Result<(SuppressionRecord, bool), AppError> {
        let record = SuppressionRecord {
            suppression: Suppression { tenant: self.tenant_id(tenant)?, address: names::address("/address", address)? },
            reason: names::reason("/reason", reason)?,
            created_ms: now_ms(),
        };
        let new = self.ledger.suppress(&record)?;
        if new {
            self.republish()?;
        }
        Ok((record, new))
    }

    /// Removes a suppression, and publishes that.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn unsuppress(&self, tenant: TenantId, address: &str) -> Result<(), AppError> {
        let suppression = Suppression { tenant, address: names::address("/address", address)? };
        if !self.ledger.unsuppress(&suppression)? {
            return Err(AppError::not_found("suppression", suppression.address));
        }
        self.republish()
    }

    /// # Errors
    /// There is none.
    pub(crate) fn suppression(&self, tenant: TenantId, address: &str) -> Result<SuppressionRecord, AppError> {
        let suppression = Suppression { tenant, address: names::address("/address", address)? };
        let found = self.ledger.suppression(&suppression)?;
        found.ok_or_else(|| AppError::not_found("suppression", suppression.address))
    }
}
