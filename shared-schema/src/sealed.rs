//! Secrets at rest: sealed by a master key through a key of their own, so that another master key costs one short wrap.
//!
//! ```text
//! sealed    "PSE2" | id of the master key, 8 | nonce, 12 | own key, 32 + 16 | nonce, 12 | secret, n + 16
//! earlier                                                                   nonce, 12 | secret, n + 16, by the master key
//! ```
//!
//! Both parts are AES-256-GCM. A host has one master key, and two while it is rotated: the *next* one, under which secrets
//! are being wrapped anew, and the *former* one, until nothing that it kept is sealed by that.
//!
//! Invariants worth naming: what is sealed says by which master key, and opens with no other; wrapping anew leaves the
//! secret's own ciphertext as it is. Absent here: entropy, which is an argument, and where master keys are kept.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The master key of an installation.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

/// What tells master keys apart, and nothing else of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MasterKeyId([u8; 8]);

/// The master keys that a host has.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKeys {
    pub current: MasterKey,
    /// The one that is about to be the current one.
    pub next: Option<MasterKey>,
    /// The one that was, before.
    pub former: Option<MasterKey>,
}

/// New octets for one sealing.
pub type Entropy = [u8; KEY_BYTES + 2 * NONCE_LEN];

/// What was sealed by a master key that is not here, or was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the sealed key does not open with the master keys of this host")]
pub struct UnsealError;

impl MasterKey {
    pub fn new(octets: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// `None`: there are not 32 of them.
    pub fn from_slice(octets: &[u8]) -> Option<Self> {
        octets.try_into().ok().map(Self::new)
    }

    /// The octets themselves, for a file that is its owner's alone.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    pub fn id(&self) -> MasterKeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.derived(b"postrail master key id").as_ref()[..8]);
        MasterKeyId(id)
    }

    /// What the configuration store keeps to know the master key again.
    pub fn check(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.derived(b"postrail master key check").as_ref())
    }

    /// What hosts of one cluster know each other by: it follows from the master key, which they all have.
    pub fn fleet_token(&self) -> String {
        format!("pf_{}", URL_SAFE_NO_PAD.encode(self.derived(b"postrail fleet token").as_ref()))
    }

    /// What the key of the authority that signs the certificates of a fleet's hosts is made of.
    pub fn fleet_authority(&self) -> Zeroizing<[u8; KEY_BYTES]> {
        let tag = self.derived(b"postrail fleet authority");
        Zeroizing::new(tag.as_ref().try_into().expect("HMAC-SHA-256 gives 32 octets"))
    }

    /// What a fleet's installation was called in a region before the configuration store named it.
    pub fn installation(&self, region: &str) -> u128 {
        let tag = self.derived(format!("postrail installation{region}").as_bytes());
        tag.as_ref().iter().take(16).fold(0, |id, octet| id << 8 | u128::from(*octet))
    }

    fn derived(&self, purpose: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice()), purpose)
    }

    /// Seals a secret by a key of its own, and that by this one.
    pub fn seal(&self, entropy: &Entropy, secret: &[u8]) -> Vec<u8> {
        let (own, nonces) = entropy.split_at(KEY_BYTES);
        let (outer, inner) = nonces.split_at(NONCE_LEN);
        let own = Zeroizing::new(<[u8; KEY_BYTES]>::try_from(own).unwrap_or_default());
        let mut sealed = self.wrapped(outer, &own);
        sealed.extend(closed(&own, inner, secret));
        sealed
    }

    /// The part before the secret's own ciphertext.
    fn wrapped(&self, nonce: &[u8], own: &[u8; KEY_BYTES]) -> Vec<u8> {
        let mut wrapped = MAGIC.to_vec();
        wrapped.extend(self.id().0);
        wrapped.extend(closed(&self.0, nonce, own));
        wrapped
    }
}

/// What is said to who has another master key than the cluster.
pub const OTHER_MASTER_KEY: &str = "the master key here is not that of this configuration: copy that of another host";

impl MasterKeys {
    pub fn only(current: MasterKey) -> Self {
        Self { current, next: None, former: None }
    }

    /// The current one first.
    pub fn all(&self) -> impl Iterator<Item = &MasterKey> {
        [Some(&self.current), self.next.as_ref(), self.former.as_ref()].into_iter().flatten()
    }

    /// Whether they are of the configuration that has this check: one of them is its key, or was before a rotation that it is
    /// behind.
    pub fn are_of(&self, check: &[u8]) -> bool {
        self.all().any(|key| key.check().as_bytes() == check)
    }

    pub fn by_id(&self, id: MasterKeyId) -> Option<&MasterKey> {
        self.all().find(|key| key.id() == id)
    }

    /// Opens what one of them has sealed.
    ///
    /// # Errors
    /// [`UnsealError`].
    pub fn unseal(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        match parts(sealed) {
            Some((id, wrapped, secret)) => {
                let own = self.own_key(id, wrapped)?;
                open(&own, secret).ok_or(UnsealError)
            }
            None => self.all().find_map(|key| open(&key.0, sealed)).ok_or(UnsealError),
        }
    }

    /// `sealed` by `to` instead of whichever sealed it; `None`: it is already.
    ///
    /// # Errors
    /// [`UnsealError`].
    pub fn rewrapped(&self, to: &MasterKey, entropy: &Entropy, sealed: &[u8]) -> Result<Option<Vec<u8>>, UnsealError> {
        match parts(sealed) {
            Some((id, ..)) if id == to.id() => Ok(None),
            Some((id, wrapped, secret)) => {
                let own = self.own_key(id, wrapped)?;
                let mut again = to.wrapped(&entropy[..NONCE_LEN], &own);
                again.extend_from_slice(secret);
                Ok(Some(again))
            }
            // Of an earlier version, which knew no keys of their own.
            None => Ok(Some(to.seal(entropy, &self.unseal(sealed)?))),
        }
    }

    fn own_key(&self, id: MasterKeyId, wrapped: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, UnsealError> {
        let own = open(&self.by_id(id).ok_or(UnsealError)?.0, wrapped).ok_or(UnsealError)?;
        own.as_slice().try_into().map(Zeroizing::new).map_err(|_| UnsealError)
    }
}

/// The master key that sealed this; `None`: an earlier version did, which did not say.
pub fn sealed_by(sealed: &[u8]) -> Option<MasterKeyId> {
    parts(sealed).map(|(id, ..)| id)
}

/// Id, wrapped key, and ciphertext of what [`MasterKey::seal`] made.
fn parts(sealed: &[u8]) -> Option<(MasterKeyId, &[u8], &[u8])> {
    let (id, rest) = sealed.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let (wrapped, secret) = rest.split_at_checked(NONCE_LEN + KEY_BYTES + TAG_BYTES)?;
    Some((MasterKeyId(*id), wrapped, secret))
}

/// `nonce`, then `text` sealed.
fn closed(key: &[u8; KEY_BYTES], nonce: &[u8], text: &[u8]) -> Vec<u8> {
    let mut sealed = text.to_vec();
    let unique = Nonce::try_assume_unique_for_key(nonce).expect("a nonce has its length");
    let key = aead(key);
    key.seal_in_place_append_tag(unique, Aad::from(ASSOCIATED_DATA), &mut sealed)
        .expect("a key is far shorter than what the cipher seals");
    [nonce, &sealed].concat()
}

fn open(key: &[u8; KEY_BYTES], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut text = Zeroizing::new(text.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = aead(key).open_in_place(nonce, Aad::from(ASSOCIATED_DATA), &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

fn aead(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 octets"))
}

impl TryFrom<String> for MasterKeyId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let number = u64::from_str_radix(&text, 16).ok().filter(|_| text.len() == 16);
        number.map(|number| Self(number.to_be_bytes())).ok_or("a master key's id has 16 hexadecimal digits")
    }
}

impl From<MasterKeyId> for String {
    fn from(id: MasterKeyId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id())
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

/// Octets of a master key.
pub const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const MAGIC: &[u8] = b"PSE2";
const ASSOCIATED_DATA: &[u8] = b"postrail dkim key";

#[cfg(test)]
mod tests {
    use super::*;

    fn key(octet: u8) -> MasterKey {
        MasterKey::new([octet; KEY_BYTES])
    }

    fn entropy(seed: u8) -> Entropy {
        std::array::from_fn(|at| seed.wrapping_add(at as u8))
    }

    #[test]
    fn what_was_sealed_opens_with_its_master_key_only() {
        let sealed = key(1).seal(&entropy(7), b"private");
        assert_eq!(sealed_by(&sealed), Some(key(1).id()));
        assert_eq!(MasterKeys::only(key(1)).unseal(&sealed).unwrap().as_slice(), b"private");
        assert_eq!(MasterKeys::only(key(2)).unseal(&sealed), Err(UnsealError));
        let keys = MasterKeys { former: Some(key(1)), ..MasterKeys::only(key(2)) };
        assert_eq!(keys.unseal(&sealed).unwrap().as_slice(), b"private");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(keys.unseal(&changed), Err(UnsealError), "octet {at}");
            assert_eq!(keys.unseal(&sealed[..at]), Err(UnsealError), "cut at {at}");
        }
    }

    #[test]
    fn another_master_key_wraps_anew_and_leaves_the_secret_alone() {
        let keys = MasterKeys { next: Some(key(2)), ..MasterKeys::only(key(1)) };
        let sealed = key(1).seal(&entropy(7), b"private");
        let again = keys.rewrapped(&key(2), &entropy(9), &sealed).unwrap().expect("it was another's");
        assert_eq!(sealed_by(&again), Some(key(2).id()));
        assert_eq!(sealed[sealed.len() - 35..], again[again.len() - 35..], "nonce, 7 octets, tag");
        assert_eq!(MasterKeys::only(key(2)).unseal(&again).unwrap().as_slice(), b"private");
        assert_eq!(MasterKeys::only(key(1)).unseal(&again), Err(UnsealError));
        assert_eq!(keys.rewrapped(&key(2), &entropy(9), &again), Ok(None));
        assert_eq!(MasterKeys::only(key(3)).rewrapped(&key(2), &entropy(9), &sealed), Err(UnsealError));
    }

    #[test]
    fn what_an_earlier_version_sealed_opens_and_gets_a_key_of_its_own() {
        let keys = MasterKeys { next: Some(key(2)), ..MasterKeys::only(key(1)) };
        let earlier = closed(&key(1).0, &[7; NONCE_LEN], b"private");
        assert_eq!((sealed_by(&earlier), earlier.len()), (None, 12 + 7 + 16));
        assert_eq!(keys.unseal(&earlier).unwrap().as_slice(), b"private");
        let again = keys.rewrapped(&key(2), &entropy(9), &earlier).unwrap().expect("it was another's");
        assert_eq!(MasterKeys::only(key(2)).unseal(&again).unwrap().as_slice(), b"private");
    }

    #[test]
    fn a_master_key_is_printed_by_its_id_alone() {
        let text = format!("{:?}", MasterKeys { next: Some(key(0xab)), ..MasterKeys::only(key(1)) });
        assert!(!text.contains("171") && !text.to_lowercase().contains("abab"), "{text}");
        assert_eq!(MasterKeyId::try_from(key(1).id().to_string()), Ok(key(1).id()));
        assert!(MasterKeyId::try_from("12".to_owned()).is_err());
    }
}
