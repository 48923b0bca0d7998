//! Who may do what: operators and credentials, with the hashes of their secrets.

use std::collections::BTreeMap;

use postrail_schema::limits::LIVE_SECRETS_MAX;
use postrail_schema::snapshot::Credential;

use super::{AppError, Editor, Wanted, ids, names, secrets};
use crate::app::credentials::{check_trust, checked_networks};
use crate::plan::{CredentialEntry, OperatorAccount, OperatorEntry};

impl Editor<'_> {
    fn hashes(&mut self, pointer: String, hashes: Option<&[String]>) {
        let hashes = hashes.unwrap_or_default();
        if hashes.len() > LIVE_SECRETS_MAX {
            self.fault(pointer, format!("these are at most {LIVE_SECRETS_MAX} argon2id hashes"));
            return;
        }
        for (at, hash) in hashes.iter().enumerate() {
            if let Err(detail) = secrets::check_hash(hash) {
                self.fault(format!("{pointer}/{at}"), detail);
            }
        }
    }

    pub(super) fn operators(&mut self, entries: &[OperatorEntry]) -> Result<(), AppError> {
        let mut wanted = BTreeMap::new();
        for (at, entry) in entries.iter().enumerate() {
            let place = |field: &str| format!("/operators/{at}/{field}");
            let name = self.checked(place("name"), names::slug("", &entry.name));
            let networks = self.checked(place("networks"), checked_networks(&entry.networks));
            self.hashes(place("secret_hashes"), entry.secret_hashes.as_deref());
            let (Some(name), Some(networks)) = (name, networks) else { continue };
            let former = self.draft.desired.operators.get(&name).map(|former| former.secret_hashes.clone());
            let secret_hashes = entry.secret_hashes.clone().or(former).unwrap_or_default();
            let OperatorEntry { role, disabled, .. } = *entry;
            let account = OperatorAccount { name: name.clone(), role, secret_hashes, disabled, networks };
            if wanted.insert(name, account).is_some() {
                self.fault(place("name"), "this one occurs twice");
            }
        }
        let known = std::mem::take(&mut self.draft.desired.operators);
        self.draft.desired.operators.clone_from(&known);
        known.keys().filter(|name| !wanted.contains_key(*name)).for_each(|name| self.draft.delete_operator(name));
        wanted
            .into_values()
            .filter(|account| known.get(&account.name) != Some(account))
            .try_for_each(|account| self.draft.put_operator(account))
    }

    pub(super) fn credentials(&mut self, entries: &[CredentialEntry]) -> Result<(), AppError> {
        let tenants = self.tenant_ids();
        let known = self.draft.desired.credentials.values();
        let known = ids(known.map(|credential| (credential.username.clone(), credential.id)));
        let mut wanted = Wanted::<Credential>::new();
        for (at, entry) in entries.iter().enumerate() {
            let username = self.checked(wanted.place(at, "username"), names::username("", &entry.username));
            let tenant = self.named(wanted.place(at, "tenant"), "tenant", &entry.tenant, &tenants);
            self.hashes(wanted.place(at, "secret_hashes"), entry.secret_hashes.as_deref());
            let networks = self.checked(wanted.place(at, "networks"), checked_networks(&entry.networks));
            let (Some(username), Some(tenant), Some(networks)) = (username, tenant, networks) else { continue };
            self.checked(wanted.place(at, "trusts_networks"), check_trust(entry.trusts_networks, &networks));
            let pointer = wanted.place(at, "username");
            if !self.once(&mut wanted, pointer, username.clone()) {
                continue;
            }
            let id = known.get(&username).copied();
            let former = id.and_then(|id| self.draft.desired.credentials.get(&id));
            if former.is_some_and(|former| former.tenant != tenant) {
                let detail =
                    "a credential stays with its tenant, whose applications know its secrets: name another one";
                self.fault(wanted.place(at, "tenant"), detail);
                continue;
            }
            let (former, former_marks) =
                former.map(|known| (known.secret_hashes.clone(), known.marks.clone())).unwrap_or_default();
            let secret_hashes = entry.secret_hashes.clone().unwrap_or_else(|| former.clone());
            let Some(marks) = self.marks(wanted.place(at, "marks"), entry) else { continue };
            // Marks are those of secrets: of others they say nothing.
            let kept = if secret_hashes == former { former_marks } else { Vec::new() };
            let marks = marks.unwrap_or(kept);
            let id = id.unwrap_or_else(|| self.new_credential(&wanted, &username));
            let CredentialEntry { disabled, scopes, trusts_networks, .. } = *entry;
            wanted.want(Credential {
                id,
                tenant,
                username,
                secret_hashes,
                disabled,
                marks,
                scopes,
                networks,
                trusts_networks,
            });
        }
        self.settle(wanted)
    }

    /// The marks of a credential; `Some(None)`: the document says nothing of them.
    fn marks(&mut self, pointer: String, entry: &CredentialEntry) -> Option<Option<Vec<u64>>> {
        let Some(marks) = &entry.marks else { return Some(None) };
        let read: Option<Vec<u64>> = marks.iter().map(|mark| u64::from_str_radix(mark, 16).ok()).collect();
        if read.is_none() || marks.len() > LIVE_SECRETS_MAX {
            self.fault(pointer, format!("these are at most {LIVE_SECRETS_MAX} numbers of 16 hexadecimal digits"));
            return None;
        }
        Some(read)
    }
}
