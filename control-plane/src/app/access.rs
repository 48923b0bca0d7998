//! Who is asking: an operator by token, a tenant by a credential's API key.
//!
//! A secret that verified is remembered by its hash, bound to the stored hashes, so that argon2 runs once a secret and
//! never after a rotation. A name that nobody has costs as much as a wrong secret, so that time does not tell which names
//! there are. Absent here: what a caller may do.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use postrail_schema::access::{Network, Scopes};
use postrail_schema::ids::TenantId;

use super::{App, secrets};
use crate::plan::{Desired, Role};

/// A caller that proved who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Caller {
    /// `account`: `None` for the token of the data folder.
    Operator {
        account: Option<String>,
        role: Role,
    },
    Tenant {
        tenant: TenantId,
        username: String,
        scopes: Scopes,
    },
}

impl Caller {
    /// The name in the audit trail.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Operator { account: None, .. } => "operator".to_owned(),
            Self::Operator { account: Some(name), .. } => format!("operator/{name}"),
            Self::Tenant { username, .. } => format!("credential/{username}"),
        }
    }

    pub(crate) fn is_operator(&self) -> bool {
        matches!(self, Self::Operator { .. })
    }
}

/// Why a caller is let in nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Unknown, disabled or wrong: not told apart.
    Unknown,
    /// The secret is right, and may not be used from this address.
    Network,
}

/// Secrets that verified lately.
#[derive(Default)]
pub(crate) struct Access {
    verified: Mutex<HashSet<[u8; 32]>>,
}

impl App {
    /// The caller with that bearer token: an operator's token or an API key. Blocks while argon2 runs.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn bearer(&self, token: &str, peer: Option<IpAddr>) -> Result<Caller, Refusal> {
        if let Some(username) = secrets::username_of(token) {
            return self.basic(username, token, peer);
        }
        let desired = self.desired();
        if let Some(name) = secrets::account_of(token) {
            let account = desired.operators.get(name).filter(|account| !account.disabled);
            let hashes = account.map(|account| &account.secret_hashes[..]);
            self.access.verify(token, hashes)?;
            let account = account.ok_or(Refusal::Unknown)?;
            admit(&account.networks, peer)?;
            return Ok(Caller::Operator { account: Some(account.name.clone()), role: account.role });
        }
        let operator = desired.operator.as_ref().ok_or(Refusal::Unknown)?;
        self.access.verify(token, Some(std::slice::from_ref(&operator.token_hash)))?;
        Ok(Caller::Operator { account: None, role: Role::Admin })
    }

    /// The tenant whose credential has that username and password. Blocks while argon2 runs.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn basic(&self, username: &str, password: &str, peer: Option<IpAddr>) -> Result<Caller, Refusal> {
        let desired: &Desired = &self.desired();
        let credential = desired.credential(username).filter(|credential| !credential.disabled);
        self.access.verify(password, credential.map(|credential| &credential.secret_hashes[..]))?;
        let credential = credential.ok_or(Refusal::Unknown)?;
        admit(&credential.networks, peer)?;
        let (tenant, username, scopes) = (credential.tenant, credential.username.clone(), credential.scopes);
        Ok(Caller::Tenant { tenant, username, scopes })
    }
}

fn admit(networks: &[Network], peer: Option<IpAddr>) -> Result<(), Refusal> {
    let is_within = |peer: IpAddr| networks.iter().any(|network| network.contains(peer));
    if networks.is_empty() || peer.is_some_and(is_within) { Ok(()) } else { Err(Refusal::Network) }
}

impl Access {
    /// `hashes`: `None` where nobody has that name; it takes as long to say so.
    fn verify(&self, secret: &str, hashes: Option<&[String]>) -> Result<(), Refusal> {
        if secret.len() > SECRET_BYTES_MAX {
            return Err(Refusal::Unknown);
        }
        let Some(hashes) = hashes.filter(|hashes| !hashes.is_empty()) else {
            secrets::burn(secret);
            return Err(Refusal::Unknown);
        };
        let name = name_of(secret, hashes);
        if self.verified.lock().unwrap_or_else(PoisonError::into_inner).contains(&name) {
            return Ok(());
        }
        if !secrets::verify(secret, hashes) {
            return Err(Refusal::Unknown);
        }
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(name);
        Ok(())
    }
}

/// What a secret is remembered by.
fn name_of(secret: &str, hashes: &[String]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&secret.len().to_le_bytes());
    context.update(secret.as_bytes());
    for hash in hashes {
        context.update(hash.as_bytes());
    }
    let mut name = [0; 32];
    name.copy_from_slice(context.finish().as_ref());
    name
}

/// Secrets that are remembered; when full, all are forgotten and verified anew.
const VERIFIED_MAX: usize = 10_000;
/// Ours are shorter than 128 octets.
const SECRET_BYTES_MAX: usize = 256;
