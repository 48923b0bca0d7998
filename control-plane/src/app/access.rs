//! Who is asking: the operator by token, a tenant by a credential's API key.
//!
//! A secret that verified is remembered by its hash, bound to the stored hashes, so that argon2 runs once a secret and
//! never after a rotation. Absent here: what a caller may do.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use postrail_schema::ids::TenantId;

use super::{App, secrets};
use crate::plan::Desired;

/// A caller that proved who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Caller {
    Operator,
    Tenant { tenant: TenantId, username: String },
}

impl Caller {
    /// The name in the audit trail.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Operator => "operator".to_owned(),
            Self::Tenant { username, .. } => format!("credential/{username}"),
        }
    }
}

/// Secrets that verified lately.
#[derive(Default)]
pub(crate) struct Access {
    verified: Mutex<HashSet<[u8; 32]>>,
}

impl App {
    /// The caller with that bearer token: the operator's token or an API key. Blocks while argon2 runs.
    pub(crate) fn bearer(&self, token: &str) -> Option<Caller> {
        if let Some(username) = secrets::username_of(token) {
            return self.basic(username, token);
        }
        let desired = self.desired();
        let operator = desired.operator.as_ref()?;
        self.access.verify(token, std::slice::from_ref(&operator.token_hash)).then_some(Caller::Operator)
    }

    /// The tenant whose credential has that username and password. Blocks while argon2 runs.
    pub(crate) fn basic(&self, username: &str, password: &str) -> Option<Caller> {
        let desired: &Desired = &self.desired();
        let credential = desired.credential(username).filter(|credential| !credential.disabled)?;
        let caller = Caller::Tenant { tenant: credential.tenant, username: credential.username.clone() };
        self.access.verify(password, &credential.secret_hashes).then_some(caller)
    }
}

impl Access {
    fn verify(&self, secret: &str, hashes: &[String]) -> bool {
        let mut context = Context::new(&SHA256);
        context.update(&secret.len().to_le_bytes());
        context.update(secret.as_bytes());
        for hash in hashes {
            context.update(hash.as_bytes());
        }
        let mut name = [0; 32];
        name.copy_from_slice(context.finish().as_ref());
        if self.verified.lock().unwrap_or_else(PoisonError::into_inner).contains(&name) {
            return true;
        }
        if secret.len() > SECRET_BYTES_MAX || !secrets::verify(secret, hashes) {
            return false;
        }
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(name);
        true
    }
}

/// Secrets that are remembered; when full, all are forgotten and verified anew.
const VERIFIED_MAX: usize = 10_000;
/// Ours are shorter than 128 octets.
const SECRET_BYTES_MAX: usize = 256;
