//! Verifies credentials: argon2id off the shard's thread, then remembered.
//!
//! A secret that has verified once is remembered as a keyed hash together with the stored hash it verified against, so
//! that a busy client costs one SHA-256 a session, and a rotated or removed secret stops at the next snapshot. Failures
//! are counted by peer address; past the bound the peer is refused without any hashing.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordVerifier, Version};
use aws_lc_rs::hmac;
use postrail_core::base::{Instant, Map, MapSeed, Random, Secret};
use postrail_core::intake::smtp::Principal;
use postrail_schema::access::Scope;
use postrail_schema::limits::{AUTH_FAILURES_PER_PEER_MAX, AUTH_PEERS_MAX, AUTH_PENALTY};
use postrail_schema::region::Region;
use postrail_schema::snapshot::{Credential, Snapshot};

use crate::platform::Platform;

/// Verified secrets that are remembered at most; then all are forgotten, which costs one verification each.
const VERIFIED_MAX: usize = 10_000;

/// Why a client is not who it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthFailure {
    /// Unknown, disabled or wrong: not told apart.
    Invalid,
    /// Right, and served in another region alone. Told to nobody who does not have the secret.
    Elsewhere(Region),
    /// Too many failures from this address.
    TooMany,
    /// The secret is right, and the credential may not submit mail.
    Scope,
    /// The secret is right, and the credential may not be used from this address.
    Network,
}

/// The verifier of one shard.
#[derive(Clone)]
pub struct Auth<P> {
    platform: P,
    state: Rc<RefCell<State>>,
}

struct State {
    key: hmac::Key,
    /// Keyed hash of (stored hash, secret) of what has verified.
    verified: Map<[u8; 32], ()>,
    failures: Map<IpAddr, (u32, Instant)>,
}

impl<P: Platform> Auth<P> {
    pub fn new(platform: P) -> Self {
        let mut random = Random::new(platform.entropy());
        let seed = MapSeed::new(&mut random);
        let mut key = [0; 32];
        for chunk in key.chunks_mut(8) {
            chunk.copy_from_slice(&platform.entropy().to_le_bytes());
        }
        let state = State { key: hmac::Key::new(hmac::HMAC_SHA256, &key), verified: seed.map(), failures: seed.map() };
        Self { platform, state: Rc::new(RefCell::new(state)) }
    }

    /// Who `username` with `secret` is.
    ///
    /// # Errors
    /// [`AuthFailure`]; the failure is counted against `peer`.
    pub async fn verify(
        &self,
        snapshot: &Snapshot,
        username: &str,
        secret: &Secret,
        peer: IpAddr,
    ) -> Result<Principal, AuthFailure> {
        if self.is_penalised(peer) {
            return Err(AuthFailure::TooMany);
        }
        let credential = snapshot.credentials.get(username).filter(|credential| !credential.disabled);
        let Some(credential) = credential else {
            if let Some(region) = snapshot.signpost(secret.expose()) {
                return Err(AuthFailure::Elsewhere(region.clone()));
            }
            self.burn(secret).await;
            return Err(self.failed(peer));
        };
        for stored in &credential.secret_hashes {
            if self.matches(stored, secret).await {
                return admitted(credential, peer);
            }
        }
        Err(self.failed(peer))
    }

    /// Who an API key alone is (`pr_<username>_<secret>`).
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub async fn verify_key(&self, snapshot: &Snapshot, key: &Secret, peer: IpAddr) -> Result<Principal, AuthFailure> {
        let text = std::str::from_utf8(key.expose()).unwrap_or_default();
        let body = text.strip_prefix("pr_").unwrap_or_default();
        // The random part has a fixed length and may hold underscores itself.
        let username = body.len().checked_sub(KEY_RANDOM_CHARS + 1).and_then(|at| body.get(..at)).unwrap_or_default();
        self.verify(snapshot, username, key, peer).await
    }

    async fn matches(&self, stored: &str, secret: &Secret) -> bool {
        let tag = self.tag(stored, secret);
        if self.state.borrow().verified.contains_key(&tag) {
            return true;
        }
        let (owned, secret) = (stored.to_owned(), secret.clone());
        let good = self
            .platform
            .run_blocking(move || {
                PasswordHash::new(&owned)
                    .is_ok_and(|hash| Argon2::default().verify_password(secret.expose(), &hash).is_ok())
            })
            .await;
        if good {
            let mut state = self.state.borrow_mut();
            if state.verified.len() >= VERIFIED_MAX {
                state.verified.clear();
            }
            state.verified.insert(tag, ());
        }
        good
    }

    /// Takes about as long as a verification, so that time does not tell which usernames exist.
    async fn burn(&self, secret: &Secret) {
        let secret = secret.clone();
        self.platform
            .run_blocking(move || {
                let mut out = [0; 32];
                let _ = argon2_of_secrets().hash_password_into(secret.expose(), b"no such username", &mut out);
            })
            .await;
    }

    fn tag(&self, stored: &str, secret: &Secret) -> [u8; 32] {
        let state = self.state.borrow();
        let mut context = hmac::Context::with_key(&state.key);
        context.update(&(stored.len() as u64).to_le_bytes());
        context.update(stored.as_bytes());
        context.update(secret.expose());
        let tag = context.sign();
        let mut out = [0; 32];
        out.copy_from_slice(tag.as_ref());
        out
    }

    fn is_penalised(&self, peer: IpAddr) -> bool {
        let now = self.platform.now();
        let state = self.state.borrow();
        state.failures.get(&peer).is_some_and(|(count, until)| *count >= AUTH_FAILURES_PER_PEER_MAX && *until > now)
    }

    fn failed(&self, peer: IpAddr) -> AuthFailure {
        let now = self.platform.now();
        let mut state = self.state.borrow_mut();
        if state.failures.len() >= AUTH_PEERS_MAX {
            state.failures.retain(|_, (_, until)| *until > now);
            if state.failures.len() >= AUTH_PEERS_MAX {
                state.failures.clear();
            }
        }
        let entry = state.failures.entry(peer).or_insert((0, now));
        if entry.1 <= now {
            entry.0 = 0;
        }
        entry.0 += 1;
        entry.1 = now + AUTH_PENALTY;
        AuthFailure::Invalid
    }
}

/// The parameters that the control plane hashes secrets with: they hold 256 random bits, so that cost adds nothing.
fn argon2_of_secrets() -> Argon2<'static> {
    let params = Params::new(1_024, 1, 1, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Characters of the random part of an API key: 32 octets in base64url.
const KEY_RANDOM_CHARS: usize = 43;

/// Who submits from `peer` without a secret, if a credential trusts it.
pub fn trusted(snapshot: &Snapshot, peer: IpAddr) -> Option<Principal> {
    snapshot.trusted_at(peer).and_then(|credential| admitted(credential, peer).ok())
}

/// What a credential may do is told to who has its secret, and to nobody else.
fn admitted(credential: &Credential, peer: IpAddr) -> Result<Principal, AuthFailure> {
    match (credential.admits(peer), credential.scopes.has(Scope::Submit)) {
        (false, _) => Err(AuthFailure::Network),
        (true, false) => Err(AuthFailure::Scope),
        (true, true) => Ok(principal(credential)),
    }
}

fn principal(credential: &Credential) -> Principal {
    Principal { tenant: credential.tenant, credential: credential.id, username: credential.username.clone() }
}
