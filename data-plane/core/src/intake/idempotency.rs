//! Idempotency keys: a submission that is repeated under its key is answered again and not accepted again.
//!
//! ```text
//!  (absent) --begin--> in progress --finish--> done --IDEMPOTENCY_TTL--> (absent)
//!                          \-- abandon --> (absent)
//! ```
//!
//! Invariants worth naming: the table holds at most [`IDEMPOTENCY_KEYS_MAX`] keys; a key that is in progress or done
//! never becomes another request's. Key and request are known by hash only; the frames of jobs carry both, so that
//! recovery restores what is done.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{Context, SHA256};
use postrail_schema::ids::{MessageId, TenantId};
use postrail_schema::limits::{IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_TTL};

use crate::base::{Map, MapSeed, Timestamp};
use crate::mail::job::Idempotency;

/// Characters of a key.
pub const KEY_CHARS_MAX: usize = 255;

/// Whether `key` is of the form `^[A-Za-z0-9._-]{1,255}$`.
pub fn is_valid_key(key: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(is_allowed)
}

/// The hashes of a request under a key: the first 16 octets of SHA-256 each, the key's with its tenant.
pub fn hashes(tenant: TenantId, key: &str, body: &[u8]) -> Idempotency {
    Idempotency { key_hash: truncated(&[&tenant.0.to_le_bytes(), key.as_bytes()]), request_hash: truncated(&[body]) }
}

fn truncated(parts: &[&[u8]]) -> u128 {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let hash = context.finish();
    u128::from_be_bytes(hash.as_ref()[..16].try_into().expect("SHA-256 has 32 octets"))
}

/// What to do with a request that carries a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// Accept it, then [`Keys::finish`] or [`Keys::abandon`].
    New,
    /// The same request is being accepted: 409.
    InProgress,
    /// The same request was accepted as this job: its answer again.
    Replay(MessageId),
    /// Another request has the key: 409.
    Conflict,
    /// The table is full: 429.
    Full,
}

/// The keys of one shard.
#[derive(Debug)]
pub struct Keys {
    entries: Map<u128, Entry>,
    /// (expiry, key hash) of every entry.
    expiries: BTreeSet<(Timestamp, u128)>,
    keys_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    request_hash: u128,
    /// `None` while in progress.
    job: Option<MessageId>,
    expires_at: Timestamp,
}

impl Keys {
    pub fn new(seed: &MapSeed) -> Self {
        Self { entries: seed.map(), expiries: BTreeSet::new(), keys_max: IDEMPOTENCY_KEYS_MAX }
    }

    /// Claims a key for a request, or says why not.
    pub fn begin(&mut self, key_hash: u128, request_hash: u128, now: Timestamp) -> Begin {
        self.expire(now);
        match self.entries.get(&key_hash) {
            Some(entry) if entry.request_hash != request_hash => Begin::Conflict,
            Some(Entry { job: Some(job), .. }) => Begin::Replay(*job),
            Some(_) => Begin::InProgress,
            None if self.entries.len() >= self.keys_max => Begin::Full,
            None => {
                self.insert(key_hash, Entry { request_hash, job: None, expires_at: now + IDEMPOTENCY_TTL });
                Begin::New
            }
        }
    }

    /// The request of this key was accepted as `job`, durably.
    pub fn finish(&mut self, key_hash: u128, job: MessageId) {
        if let Some(entry) = self.entries.get_mut(&key_hash) {
            entry.job = Some(job);
        }
    }

    /// The request of this key was not accepted: the key is free again.
    pub fn abandon(&mut self, key_hash: u128) {
        if self.entries.get(&key_hash).is_some_and(|entry| entry.job.is_none()) {
            self.remove(key_hash);
        }
    }

    /// Restores the key of a job that recovery found. Older than the time to live, or over the bound: it is left out.
    pub fn restore(&mut self, idempotency: Idempotency, job: MessageId, accepted_at: Timestamp, now: Timestamp) {
        let expires_at = accepted_at + IDEMPOTENCY_TTL;
        if expires_at > now && self.entries.len() < self.keys_max && !self.entries.contains_key(&idempotency.key_hash) {
            let entry = Entry { request_hash: idempotency.request_hash, job: Some(job), expires_at };
            self.insert(idempotency.key_hash, entry);
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, key_hash: u128, entry: Entry) {
        self.expiries.insert((entry.expires_at, key_hash));
        self.entries.insert(key_hash, entry);
        assert_eq!(self.entries.len(), self.expiries.len(), "every key has one expiry");
    }

    fn remove(&mut self, key_hash: u128) {
        if let Some(entry) = self.entries.remove(&key_hash) {
            self.expiries.remove(&(entry.expires_at, key_hash));
        }
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some(&(expires_at, key_hash)) = self.expiries.first().filter(|(at, _)| *at <= now) {
            self.expiries.remove(&(expires_at, key_hash));
            self.entries.remove(&key_hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postrail_schema::ids::ShardId;

    use super::*;
    use crate::base::Random;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_464_845_123);

    fn keys() -> Keys {
        Keys::new(&MapSeed::new(&mut Random::new(1)))
    }

    #[test]
    fn a_repeated_request_is_answered_again() {
        let (mut keys, job) = (keys(), MessageId::new(1, ShardId(0), 1));
        assert_eq!(keys.begin(1, 10, NOW), Begin::New);
        assert_eq!(keys.begin(1, 10, NOW), Begin::InProgress);
        assert_eq!(keys.begin(1, 11, NOW), Begin::Conflict);
        keys.finish(1, job);
        assert_eq!(keys.begin(1, 10, NOW), Begin::Replay(job));
        assert_eq!(keys.begin(1, 11, NOW), Begin::Conflict);
        keys.abandon(1);
        assert_eq!(keys.begin(1, 10, NOW), Begin::Replay(job), "what is done is not abandoned");
    }

    #[test]
    fn an_abandoned_key_is_free() {
        let mut keys = keys();
        assert_eq!(keys.begin(1, 10, NOW), Begin::New);
        keys.abandon(1);
        assert!(keys.is_empty());
        assert_eq!(keys.begin(1, 11, NOW), Begin::New);
    }

    #[test]
    fn keys_expire_and_are_bounded() {
        let mut keys = keys();
        keys.keys_max = 2;
        assert_eq!(keys.begin(1, 10, NOW), Begin::New);
        assert_eq!(keys.begin(2, 10, NOW + Duration::from_secs(1)), Begin::New);
        assert_eq!(keys.begin(3, 10, NOW + Duration::from_secs(2)), Begin::Full);
        assert_eq!(keys.begin(3, 10, NOW + IDEMPOTENCY_TTL), Begin::New);
        assert_eq!(keys.len(), 2);
    }

    #[test]
    fn recovery_restores_what_is_young_enough() {
        let (mut keys, job) = (keys(), MessageId::new(1, ShardId(0), 1));
        let (young, old) = (hashes(TenantId(1), "young", b"x"), hashes(TenantId(1), "old", b"x"));
        keys.restore(young, job, NOW, NOW + Duration::from_secs(60));
        keys.restore(old, job, NOW, NOW + IDEMPOTENCY_TTL);
        assert_eq!(keys.len(), 1);
        assert_eq!(keys.begin(young.key_hash, young.request_hash, NOW), Begin::Replay(job));
    }

    #[test]
    fn a_key_is_its_tenants_own() {
        let (one, two) = (hashes(TenantId(1), "k", b"x"), hashes(TenantId(2), "k", b"x"));
        assert_ne!(one.key_hash, two.key_hash);
        assert_eq!(one.request_hash, two.request_hash);
        for (key, valid) in [("a.B_c-9", true), ("", false), ("a b", false), ("\u{fc}", false)] {
            assert_eq!(is_valid_key(key), valid, "{key}");
        }
        assert!(is_valid_key(&"k".repeat(255)) && !is_valid_key(&"k".repeat(256)));
    }
}
