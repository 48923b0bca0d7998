//! Another master key: what is sealed is wrapped anew, some domains a step, until nothing opens with the former one alone.
//!
//! ```text
//! next key on every host -> step: seal by it from now on, wrap the keys of some domains -> ... -> nothing is left:
//! the store's check becomes that of the next key -> hosts take it as their current one when they start
//! ```
//!
//! Invariants worth naming: no key is wrapped before every host and control plane that is announced, of all regions, can open
//! it; each step is a change of
//! its own, and what is left shows from what is stored, so that a rotation that was cut short goes on with the next
//! request, from any control plane. Absent here: making and copying master keys.

use std::collections::BTreeSet;

use postrail_schema::host::HostAnnouncement;
use postrail_schema::ids::SendingDomainId;
use postrail_schema::keys::{HOSTS, LEDGERS, MASTER_KEY_CHECK};
use postrail_schema::limits::ROTATION_DOMAINS;
use postrail_schema::sealed::{MasterKey, MasterKeyId, sealed_by};
use postrail_schema::snapshot::{DkimKey, SendingDomain};
use serde::Serialize;
use utoipa::ToSchema;

use super::keys::random;
use super::{App, AppError, LedgerUse};
use crate::plan::Desired;
use crate::store::Write;

/// How far a rotation is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct Rotation {
    /// The master key that seals, by its id.
    pub(crate) master_key: String,
    /// Domains whose keys this step has wrapped anew.
    pub(crate) wrapped: usize,
    /// Domains that are left; 0: the rotation is over.
    pub(crate) left: usize,
}

impl App {
    /// The master key that seals.
    ///
    /// # Errors
    /// This control plane does not have it.
    pub(super) fn sealing(&self, desired: &Desired) -> Result<&MasterKey, AppError> {
        match desired.head.master_key {
            None => Ok(&self.masters.current),
            Some(id) => self.masters.by_id(id).ok_or_else(|| {
                AppError::conflict(format!(
                    "this control plane does not have the master key {id}: copy it here, and restart"
                ))
            }),
        }
    }

    /// One step of the rotation to the next master key, or of one that has begun.
    ///
    /// # Errors
    /// There is no next key, a host does not have it, or what is sealed does not open.
    pub(crate) fn rotate_master_key(&self) -> Result<Rotation, AppError> {
        let desired = self.desired();
        let to = match (&self.masters.next, desired.head.master_key) {
            (Some(next), _) => next,
            // It was finished, or its next key has become the current one since.
            (None, Some(_)) => self.sealing(&desired)?,
            (None, None) => {
                let detail = "there is no next master key: make it by `postrail key next`, copy it to every host, and restart them";
                return Err(AppError::conflict(detail));
            }
        };
        self.check_hosts(to.id())?;
        if desired.head.master_key == Some(to.id()) && due(&desired, to.id()).next().is_none() {
            return Ok(Rotation { master_key: to.id().to_string(), wrapped: 0, left: 0 });
        }
        self.change(|draft| {
            draft.desired.head.master_key = Some(to.id());
            let all: Vec<_> = due(&draft.desired, to.id()).collect();
            let some: Vec<_> =
                all.iter().take(ROTATION_DOMAINS).filter_map(|id| draft.desired.domains.get(id)).cloned().collect();
            let (wrapped, left) = (some.len(), all.len() - some.len());
            for domain in some {
                draft.put(self.rewrapped(to, domain)?)?;
            }
            if left == 0 {
                let value = to.check().into_bytes();
                draft.writes.push(Write::Put { key: MASTER_KEY_CHECK.to_owned(), value });
            }
            Ok(Rotation { master_key: to.id().to_string(), wrapped, left })
        })
    }

    fn rewrapped(&self, to: &MasterKey, mut domain: SendingDomain) -> Result<SendingDomain, AppError> {
        for key in domain.keys.iter_mut().filter(|key| is_sealed(key)) {
            let again = self.masters.rewrapped(to, &random()?, &key.sealed_private_key).map_err(|_| {
                let detail =
                    format!("the key {} of {} does not open with a master key of this host", key.selector, domain.name);
                AppError::conflict(detail)
            })?;
            key.sealed_private_key = again.unwrap_or_else(|| key.sealed_private_key.clone());
        }
        Ok(domain)
    }

    /// Whether all that run have it, whatever their region: what is sealed is read by the hosts of all, and control planes seal.
    fn check_hosts(&self, wanted: MasterKeyId) -> Result<(), AppError> {
        let mut without = BTreeSet::new();
        for entry in self.store.list(HOSTS)?.entries {
            let name = entry.key.strip_prefix(HOSTS).unwrap_or_default();
            let host = serde_json::from_slice::<HostAnnouncement>(&entry.value).ok();
            if host.is_none_or(|host| !host.master_keys.contains(&wanted)) {
                without.insert(name.to_owned());
            }
        }
        for entry in self.store.list(LEDGERS)?.entries {
            // What a later version says in other words is passed over.
            let Ok(used) = serde_json::from_slice::<LedgerUse>(&entry.value) else { continue };
            if !used.master_keys.contains(&wanted) {
                without.insert(format!("{} (control plane)", used.host));
            }
        }
        if without.is_empty() {
            return Ok(());
        }
        Err(AppError::conflict(format!(
            "these hosts do not have the next master key: {}; copy master.key.next to their data folders, and restart them; those \
             of earlier versions do not say that they have it: upgrade them",
            without.into_iter().collect::<Vec<_>>().join(", ")
        )))
    }
}

/// Whether the private key is still there.
fn is_sealed(key: &DkimKey) -> bool {
    !key.sealed_private_key.is_empty()
}

/// The domains with a key that is sealed by another master key.
fn due(desired: &Desired, wanted: MasterKeyId) -> impl Iterator<Item = SendingDomainId> {
    let is_other = move |key: &DkimKey| is_sealed(key) && sealed_by(&key.sealed_private_key) != Some(wanted);
    let is_due = move |domain: &&SendingDomain| domain.keys.iter().any(is_other);
    desired.domains.values().filter(is_due).map(|domain| domain.id)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use postrail_schema::sealed::MasterKeys;
    use postrail_schema::snapshot::KeyAlgorithm;
    use serde_json::{Value, json};

    use super::*;
    use crate::app::{Bootstrap, Caller, KnownHosts, NewDomain, Parts};
    use crate::dns::Resolver;
    use crate::ledger::SqliteLedger;
    use crate::plan::Role;
    use crate::store::{ConfigStore, EmbeddedStore};

    fn key(octet: u8) -> MasterKey {
        MasterKey::new([octet; 32])
    }

    fn app(folder: &Path, store: &Arc<dyn ConfigStore>, masters: MasterKeys) -> App {
        App::new(Parts {
            store: Arc::clone(store),
            ledger: Arc::new(SqliteLedger::open(&folder.join("ledger.db")).unwrap()),
            hosts: KnownHosts::new(Vec::new()),
            allocation: None,
            masters,
            resolver: Resolver::new(Vec::new()),
            hostname: "mail.sender.example".into(),
            region: String::new(),
        })
        .unwrap()
    }

    fn add(app: &App, name: &str) -> Result<SendingDomain, AppError> {
        app.create_domain(&NewDomain {
            tenant: "default".into(),
            name: name.into(),
            pool: None,
            algorithms: Some(vec![KeyAlgorithm::Ed25519Sha256]),
            verification: None,
            by: Caller::Operator { account: None, role: Role::Admin },
        })
    }

    #[test]
    fn a_rotation_waits_for_hosts_and_control_planes_of_every_region() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
        let both = MasterKeys { next: Some(key(2)), ..MasterKeys::only(key(1)) };
        let app = app(folder.path(), &store, both);
        app.bootstrap(&Bootstrap { hostname: "mail.sender.example".into(), ..Bootstrap::default() }, "po_token")
            .unwrap();
        let put = |key: &str, value: Value| {
            let value = value.to_string().into_bytes();
            store.txn(&[], &[Write::Put { key: key.to_owned(), value }]).unwrap();
        };
        let (none, old, all) = (vec![], vec![key(1).id()], vec![key(1).id(), key(2).id()]);
        let control = "control-2 (control plane)";
        for (of_host, of_control, named) in [
            (&old, &all, Some("mx-eu")),
            (&all, &old, Some(control)),
            (&old, &old, Some("control-2 (control plane), mx-eu")),
            (&none, &all, Some("mx-eu")),
            (&all, &none, Some(control)),
            (&all, &all, None),
        ] {
            let (admin, api) = ("https://10.0.0.2:8082", "https://10.0.0.3:8081");
            let host =
                json!({ "id": 7, "admin": admin, "region": "eu", "shards": 1, "master_keys": of_host, "version": "1" });
            put("hosts/mx-eu", host);
            put("ledgers/us/1", json!({ "ledger": "0", "host": "control-2", "api": api, "master_keys": of_control }));
            let refused = app.rotate_master_key().err().map(|error| error.to_string());
            let wanted = named.map(|named| format!("these hosts do not have the next master key: {named}; copy"));
            assert_eq!(refused.is_some(), wanted.is_some(), "{refused:?}");
            assert!(refused.unwrap_or_default().contains(&wanted.unwrap_or_default()), "{named:?}");
        }
    }

    #[test]
    fn a_rotation_that_was_cut_short_goes_on_from_any_control_plane() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
        let before = app(folder.path(), &store, MasterKeys::only(key(1)));
        let hostname = "mail.sender.example".to_owned();
        before.bootstrap(&Bootstrap { hostname, ..Bootstrap::default() }, "po_token").unwrap();
        let all = ROTATION_DOMAINS * 2 + 3;
        (0..all).for_each(|n| drop(add(&before, &format!("d{n}.example")).unwrap()));
        assert!(before.rotate_master_key().is_err(), "there is no next key");

        let both = MasterKeys { next: Some(key(2)), ..MasterKeys::only(key(1)) };
        let first = app(folder.path(), &store, both.clone()).rotate_master_key().unwrap();
        assert_eq!((first.wrapped, first.left), (ROTATION_DOMAINS, all - ROTATION_DOMAINS));
        // Who lacks the key that seals now may not make keys, and does not seal by the former one.
        before.reload().unwrap();
        assert!(add(&before, "late.example").unwrap_err().to_string().contains("does not have the master key"));
        let again = app(folder.path(), &store, both.clone());
        add(&again, "late.example").unwrap();
        let steps: Vec<_> = (0..3).map(|_| again.rotate_master_key().unwrap().left).collect();
        assert_eq!(steps, [3, 0, 0]);
        let (desired, only) = (again.desired(), MasterKeys::only(key(2)));
        for sealed in desired.domains.values().flat_map(|domain| &domain.keys) {
            assert_eq!(only.unseal(&sealed.sealed_private_key), both.unseal(&sealed.sealed_private_key));
            assert_eq!(sealed_by(&sealed.sealed_private_key), Some(key(2).id()));
        }
        let check = store.get(&[MASTER_KEY_CHECK.to_owned()]).unwrap();
        assert_eq!(check.entries[0].value, key(2).check().as_bytes());
    }
}
