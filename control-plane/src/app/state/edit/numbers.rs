//! Numbers of what is new to the store: those that the document says it had, unless this store has given them.

use postrail_schema::ids::{CredentialId, SendingDomainId, SourceId, TenantId};
use postrail_schema::limits::STATE_NUMBER_MAX;
use postrail_schema::sealed::MasterKeys;
use postrail_schema::snapshot::{Credential, EgressSource, SendingDomain, Tenant};

use super::{Editor, Wanted};
use crate::plan::{DocumentEntry, DomainEntry, NumbersEntry, Record};

impl Editor<'_> {
    /// Passes over the numbers of the document, so that nothing else is given them.
    pub(super) fn numbers(&mut self, numbers: &NumbersEntry) {
        if let Some((kind, name)) = numbers.fault() {
            let pointer = format!("/numbers/{kind}/{}", name.replace('~', "~0").replace('/', "~1"));
            return self.fault(pointer, format!("a number is at most {STATE_NUMBER_MAX}"));
        }
        if self.numbers.is_some() {
            self.draft.desired.head.pass(&numbers.given);
        }
    }

    pub(super) fn new_tenant(&mut self, wanted: &Wanted<Tenant>, name: &str) -> TenantId {
        let number = self.numbers.and_then(|numbers| numbers.tenants.get(name).copied());
        self.kept(wanted, "tenant", number.map(TenantId)).unwrap_or_else(|| self.draft.counters().next_tenant())
    }

    pub(super) fn new_source(&mut self, wanted: &Wanted<EgressSource>, name: &str) -> SourceId {
        let number = self.numbers.and_then(|numbers| numbers.sources.get(name).copied());
        self.kept(wanted, "source", number.map(SourceId)).unwrap_or_else(|| self.draft.counters().next_source())
    }

    pub(super) fn new_credential(&mut self, wanted: &Wanted<Credential>, username: &str) -> CredentialId {
        let number = self.numbers.and_then(|numbers| numbers.credentials.get(username).copied());
        let kept = self.kept(wanted, "credential", number.map(CredentialId));
        kept.unwrap_or_else(|| self.draft.counters().next_credential())
    }

    pub(super) fn new_domain(&mut self, wanted: &Wanted<SendingDomain>, entry: &DomainEntry) -> SendingDomainId {
        let number = self.numbers.and_then(|numbers| numbers.domains.get(&entry.name()).copied());
        let kept = self.kept(wanted, "domain", number.map(SendingDomainId));
        kept.unwrap_or_else(|| self.draft.counters().next_domain())
    }

    /// The number, if this store has passed over it and nothing has it.
    fn kept<R: Record<Id: Number>>(&mut self, wanted: &Wanted<R>, kind: &str, id: Option<R::Id>) -> Option<R::Id> {
        let desired = &mut self.draft.desired;
        let id = id.filter(|id| desired.head.has_skipped(kind, id.number()))?;
        let is_taken = wanted.records.contains_key(&id) || R::map(desired).contains_key(&id);
        (!is_taken).then_some(id)
    }
}

/// Whether a document's numbers are those of the installation with these master keys.
pub(super) fn are_ours(numbers: &NumbersEntry, masters: &MasterKeys) -> bool {
    masters.all().any(|key| key.id().to_string() == numbers.master_key)
}

/// An id that is a number.
trait Number {
    fn number(&self) -> u32;
}

macro_rules! number {
    ($($id:ident),*) => {
        $(impl Number for $id {
            fn number(&self) -> u32 {
                self.0
            }
        })*
    };
}

number!(TenantId, CredentialId, SendingDomainId, SourceId);
