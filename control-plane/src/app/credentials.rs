//! Credentials. A secret is told once, when it is made; only its hash is kept.

use postrail_schema::access::{Network, Scopes};
use postrail_schema::limits::{LIVE_SECRETS_MAX, NETWORKS_MAX, TRUSTED_PREFIX_MIN};
use postrail_schema::region::mark_of;
use postrail_schema::snapshot::Credential;

use super::{App, AppError, Precondition, names, secrets};
use crate::plan::CredentialEntry;

/// A credential to make.
#[derive(Clone, Debug)]
pub(crate) struct NewCredential {
    pub tenant: String,
    pub username: String,
    pub scopes: Scopes,
    /// Where it may be used from; empty: anywhere.
    pub networks: Vec<Network>,
    /// Who submits from one of them needs no secret.
    pub trusts_networks: bool,
}

/// What to change of a credential; `None`: as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct CredentialChange {
    pub disabled: Option<bool>,
    pub scopes: Option<Scopes>,
    pub networks: Option<Vec<Network>>,
    pub trusts_networks: Option<bool>,
}

/// A credential with the secret that was made for it.
#[derive(Clone, Debug)]
pub(crate) struct IssuedSecret {
    pub credential: Credential,
    pub secret: String,
}

impl App {
    /// # Errors
    /// The username is taken or malformed, or the tenant does not exist.
    pub(crate) fn create_credential(&self, new: &NewCredential) -> Result<IssuedSecret, AppError> {
        let username = names::username("/username", &new.username)?;
        let networks = checked_networks(&new.networks)?;
        check_trust(new.trusts_networks, &networks)?;
        let secret = secrets::make_api_key(&username)?;
        let hash = secrets::hash(&secret)?;
        let credential = self.change(|draft| {
            if draft.desired.credential(&username).is_some() {
                return Err(AppError::conflict(format!("credential {username} exists")));
            }
            let tenant = draft.tenant(&new.tenant)?;
            let marks = tenant.region.map(|_| mark_of(secret.as_bytes())).into_iter().collect();
            let credential = Credential {
                tenant: tenant.id,
                marks,
                id: draft.counters().next_credential(),
                username: username.clone(),
                secret_hashes: vec![hash.clone()],
                disabled: false,
                scopes: new.scopes,
                networks: networks.clone(),
                trusts_networks: new.trusts_networks,
            };
            draft.put(credential.clone())?;
            Ok(credential)
        })?;
        Ok(IssuedSecret { credential, secret })
    }

    /// Makes a new secret; the former one stays valid until the next rotation.
    ///
    /// # Errors
    /// It does not exist.
    pub(crate) fn rotate_credential(&self, username: &str, when: &Precondition) -> Result<IssuedSecret, AppError> {
        let secret = secrets::make_api_key(username)?;
        let hash = secrets::hash(&secret)?;
        let desired = self.desired();
        let mark = mark_of(secret.as_bytes());
        let credential = self.edit_credential(username, when, |credential| {
            credential.secret_hashes.insert(0, hash.clone());
            credential.secret_hashes.truncate(LIVE_SECRETS_MAX);
            // A tenant keeps its region, or keeps to have none.
            if desired.region_of(credential.tenant).is_some() {
                credential.marks.insert(0, mark);
                credential.marks.truncate(LIVE_SECRETS_MAX);
            }
            Ok(())
        })?;
        Ok(IssuedSecret { credential, secret })
    }

    /// # Errors
    /// It does not exist, or has more networks than a credential may have, or trusts too many.
    pub(crate) fn change_credential(
        &self,
        username: &str,
        change: &CredentialChange,
        when: &Precondition,
    ) -> Result<Credential, AppError> {
        let networks = change.networks.as_deref().map(checked_networks).transpose()?;
        self.edit_credential(username, when, |credential| {
            credential.trusts_networks = change.trusts_networks.unwrap_or(credential.trusts_networks);
            credential.disabled = change.disabled.unwrap_or(credential.disabled);
            credential.scopes = change.scopes.unwrap_or(credential.scopes);
            if let Some(networks) = &networks {
                credential.networks.clone_from(networks);
            }
            check_trust(credential.trusts_networks, &credential.networks)
        })
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_credential(&self, username: &str, when: &Precondition) -> Result<(), AppError> {
        self.change(|draft| {
            let found = draft.desired.credential(username);
            let credential = found.ok_or_else(|| AppError::not_found("credential", username))?;
            when.check(&CredentialEntry::of(&draft.desired, credential))?;
            let id = credential.id;
            draft.delete::<Credential>(&id);
            Ok(())
        })
    }

    fn edit_credential(
        &self,
        username: &str,
        when: &Precondition,
        edit: impl Fn(&mut Credential) -> Result<(), AppError>,
    ) -> Result<Credential, AppError> {
        self.change(|draft| {
            let found = draft.desired.credential(username).cloned();
            let mut credential = found.ok_or_else(|| AppError::not_found("credential", username))?;
            when.check(&CredentialEntry::of(&draft.desired, &credential))?;
            edit(&mut credential)?;
            draft.put(credential.clone())?;
            Ok(credential)
        })
    }
}

/// Whether these networks may be trusted: a secret that nobody needs has to be replaced by something.
pub(super) fn check_trust(trusts: bool, networks: &[Network]) -> Result<(), AppError> {
    let (v4, v6) = TRUSTED_PREFIX_MIN;
    let is_wide = |network: &&Network| network.prefix() < if network.address().is_ipv4() { v4 } else { v6 };
    match networks.iter().find(is_wide) {
        _ if !trusts => Ok(()),
        None if networks.is_empty() => {
            Err(AppError::invalid("/trusts_networks", "name the networks that are trusted by networks"))
        }
        None => Ok(()),
        Some(wide) => {
            let detail = format!("{wide} is too wide to be trusted: a prefix has at least {v4} bits, of IPv6 {v6}");
            Err(AppError::invalid("/networks", detail))
        }
    }
}

/// Networks in their order, each once.
pub(super) fn checked_networks(networks: &[Network]) -> Result<Vec<Network>, AppError> {
    if networks.len() > NETWORKS_MAX {
        return Err(AppError::invalid("/networks", format!("at most {NETWORKS_MAX} networks are named")));
    }
    let mut networks = networks.to_vec();
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}
