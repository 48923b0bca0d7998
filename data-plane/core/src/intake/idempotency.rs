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

use slab::Slab;

use crate::base::{IndexTable, MapSeed, Timestamp};
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
    entries: Slab<Entry>,
    /// Entries by their key hash.
    table: IndexTable,
    /// (expiry, entry) of every entry.
    expiries: BTreeSet<(Timestamp, u32)>,
    keys_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key_hash: u128,
    request_hash: u128,
    /// Of no meaning while in progress.
    job: MessageId,
    expires_at: Timestamp,
    is_done: bool,
}

const _: () = assert!(size_of::<Entry>() <= 64, "a million keys are remembered");

impl Keys {
    pub fn new(seed: &MapSeed) -> Self {
        let table = seed.index_table();
        Self { entries: Slab::new(), table, expiries: BTreeSet::new(), keys_max: IDEMPOTENCY_KEYS_MAX }
    }

    /// Claims a key for a request, or says why not.
    pub fn begin(&mut self, key_hash: u128, request_hash: u128, now: Timestamp) -> Begin {
        self.expire(now);
        match self.find(key_hash).map(|at| self.entries[at as usize]) {
            Some(entry) if entry.request_hash != request_hash => Begin::Conflict,
            Some(entry) if entry.is_done => Begin::Replay(entry.job),
            Some(_) => Begin::InProgress,
            None if self.entries.len() >= self.keys_max => Begin::Full,
            None => {
                let (job, expires_at) = (MessageId::from_bits(0), now + IDEMPOTENCY_TTL);
                self.insert(Entry { key_hash, request_hash, job, expires_at, is_done: false });
                Begin::New
            }
        }
    }

    /// The request of this key was accepted as `job`, durably.
    pub fn finish(&mut self, key_hash: u128, job: MessageId) {
        if let Some(at) = self.find(key_hash) {
            let entry = &mut self.entries[at as usize];
            (entry.job, entry.is_done) = (job, true);
        }
    }

    /// The request of this key was not accepted: the key is free again.
    pub fn abandon(&mut self, key_hash: u128) {
        if let Some(at) = self.find(key_hash)
            && !self.entries[at as usize].is_done
        {
            self.expiries.remove(&(self.entries[at as usize].expires_at, at));
            self.remove(at);
        }
    }

    /// Restores the key of a job that recovery found. Older than the time to live, or over the bound: it is left out.
    pub fn restore(&mut self, idempotency: Idempotency, job: MessageId, accepted_at: Timestamp, now: Timestamp) {
        let expires_at = accepted_at + IDEMPOTENCY_TTL;
        let Idempotency { key_hash, request_hash } = idempotency;
        if expires_at > now && self.entries.len() < self.keys_max && self.find(key_hash).is_none() {
            self.insert(Entry { key_hash, request_hash, job, expires_at, is_done: true });
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn find(&self, key_hash: u128) -> Option<u32> {
        self.table.find(&key_hash, |at| self.entries[at as usize].key_hash)
    }

    fn insert(&mut self, entry: Entry) {
        let at = self.entries.insert(entry) as u32;
        self.table.insert(&entry.key_hash, at, |at| self.entries[at as usize].key_hash);
        self.expiries.insert((entry.expires_at, at));
        assert_eq!(self.entries.len(), self.expiries.len(), "every key has one expiry");
    }

    /// Takes out an entry whose expiry is out.
    fn remove(&mut self, at: u32) {
        let key_hash = self.entries[at as usize].key_hash;
        self.table.remove(&key_hash, |at| self.entries[at as usize].key_hash);
        self.entries.remove(at as usize);
    }

    fn expire(&mut self, now: Timestamp) {
        while self.expiries.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, at)) = self.expiries.pop_first() {
                self.remove(at);
            }
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
