//! DKIM keys: made here, sealed for the store, named for DNS.
//!
//! A private key is PKCS#8 DER, sealed with AES-256-GCM by the installation's master key: nonce (12 octets), ciphertext,
//! tag (16 octets); the associated data is `postrail dkim key`. Absent here: signing, which the data plane does.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{hmac, rand, rsa};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use postrail_schema::ids::KeyId;
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm};
use zeroize::{Zeroize, Zeroizing};

use super::AppError;

/// The master key of an installation.
pub(crate) type MasterKey = Zeroizing<[u8; 32]>;

/// The sealed bytes are not of this master key, or were changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the sealed key does not open with this master key")]
pub struct UnsealError;

/// Seals the PKCS#8 form of a private key; `nonce` must be new each time.
pub fn seal(master: &[u8; 32], nonce: [u8; NONCE_LEN], private_key: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(NONCE_LEN + private_key.len() + AES_256_GCM.tag_len());
    let mut text = private_key.to_vec();
    aead(master)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(ASSOCIATED_DATA), &mut text)
        .expect("a private key is far shorter than what the cipher seals");
    sealed.extend_from_slice(&nonce);
    sealed.append(&mut text);
    sealed
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`UnsealError`].
pub fn unseal(master: &[u8; 32], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(UnsealError)?;
    let mut text = Zeroizing::new(text.to_vec());
    let length = aead(master)
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(ASSOCIATED_DATA), &mut text)
        .map_err(|_| UnsealError)?
        .len();
    text.truncate(length);
    Ok(text)
}

/// What hosts of one cluster know each other by: it follows from the master key, which they all have.
pub fn fleet_token(master: &[u8; 32]) -> String {
    format!("pf_{}", URL_SAFE_NO_PAD.encode(derived(master, b"postrail fleet token").as_ref()))
}

/// What tells two master keys apart without telling anything else of them.
pub(crate) fn master_key_check(master: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(derived(master, b"postrail master key check").as_ref())
}

/// What tells the ledger of a cluster, and of a region in it, from others.
pub(crate) fn fleet_installation(master: &[u8; 32], region: &str) -> u128 {
    let tag = derived(master, format!("postrail installation{region}").as_bytes());
    tag.as_ref().iter().take(16).fold(0, |id, octet| id << 8 | u128::from(*octet))
}

fn derived(master: &[u8; 32], purpose: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, master), purpose)
}

/// The algorithms that a new domain signs with: RSA of 2,048 bits (all verify it) and Ed25519 (RFC 8463).
pub(crate) const ALGORITHMS: [KeyAlgorithm; 2] = [KeyAlgorithm::RsaSha256, KeyAlgorithm::Ed25519Sha256];

/// Makes a key of each of `algorithms`.
pub(crate) fn make_keys(
    master: &[u8; 32],
    algorithms: &[KeyAlgorithm],
    mut id: impl FnMut() -> KeyId,
) -> Result<Vec<DkimKey>, AppError> {
    let make = |algorithm: &KeyAlgorithm| match algorithm {
        KeyAlgorithm::RsaSha256 => make_rsa(master, id()),
        KeyAlgorithm::Ed25519Sha256 => make_ed25519(master, id()),
    };
    algorithms.iter().map(make).collect()
}

fn make_rsa(master: &[u8; 32], id: KeyId) -> Result<DkimKey, AppError> {
    let failed = |_| AppError::Crypto { act: "making an RSA key" };
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
    Ok(DkimKey {
        id,
        selector: "pr1r".to_owned(),
        algorithm: KeyAlgorithm::RsaSha256,
        sealed_private_key: seal(master, random()?, private.as_ref()),
        public_key: STANDARD.encode(public.as_ref()),
    })
}

fn make_ed25519(master: &[u8; 32], id: KeyId) -> Result<DkimKey, AppError> {
    let failed = |_| AppError::Crypto { act: "making an Ed25519 key" };
    let pair = Ed25519KeyPair::generate().map_err(failed)?;
    let private = pair.to_pkcs8().map_err(failed)?;
    Ok(DkimKey {
        id,
        selector: "pr1e".to_owned(),
        algorithm: KeyAlgorithm::Ed25519Sha256,
        sealed_private_key: seal(master, random()?, private.as_ref()),
        public_key: STANDARD.encode(pair.public_key().as_ref()),
    })
}

/// Whether `sealed` opens with `master` and is the private half of `public_key`.
pub(crate) fn is_pair(master: &[u8; 32], algorithm: KeyAlgorithm, sealed: &[u8], public_key: &str) -> bool {
    let Ok(private) = unseal(master, sealed) else { return false };
    let public = match algorithm {
        KeyAlgorithm::RsaSha256 => rsa::KeyPair::from_pkcs8(&private).ok().and_then(|pair| {
            let public: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
            Some(STANDARD.encode(public.as_ref()))
        }),
        KeyAlgorithm::Ed25519Sha256 => {
            Ed25519KeyPair::from_pkcs8(&private).ok().map(|pair| STANDARD.encode(pair.public_key().as_ref()))
        }
    };
    public.as_deref() == Some(public_key)
}

/// Random octets of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], AppError> {
    let mut octets = [0; N];
    rand::fill(&mut octets).map_err(|_| AppError::Crypto { act: "drawing random octets" })?;
    Ok(octets)
}

fn aead(master: &[u8; 32]) -> LessSafeKey {
    let mut octets = *master;
    let key = UnboundKey::new(&AES_256_GCM, &octets).expect("AES-256 takes 32 octets");
    octets.zeroize();
    LessSafeKey::new(key)
}

const ASSOCIATED_DATA: &[u8] = b"postrail dkim key";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_the_same_master_key_only() {
        let sealed = seal(&[1; 32], [7; 12], b"private");
        assert_eq!(&sealed[..12], [7; 12]);
        assert_eq!(sealed.len(), 12 + 7 + 16);
        assert_eq!(unseal(&[1; 32], &sealed).unwrap().as_slice(), b"private");
        assert_eq!(unseal(&[2; 32], &sealed), Err(UnsealError));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(unseal(&[1; 32], &changed), Err(UnsealError), "octet {at}");
            assert_eq!(unseal(&[1; 32], &sealed[..at]), Err(UnsealError), "cut at {at}");
        }
    }

    #[test]
    fn made_keys_open_as_the_keys_that_dns_names() {
        let mut ids = 0;
        let keys = make_keys(&[3; 32], &ALGORITHMS, || {
            ids += 1;
            KeyId(ids)
        })
        .unwrap();
        let rsa = rsa::KeyPair::from_pkcs8(&unseal(&[3; 32], &keys[0].sealed_private_key).unwrap()).unwrap();
        let public: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
        assert_eq!(STANDARD.encode(public.as_ref()), keys[0].public_key);
        let private = unseal(&[3; 32], &keys[1].sealed_private_key).unwrap();
        let ed25519 = Ed25519KeyPair::from_pkcs8(&private).unwrap();
        assert_eq!(STANDARD.encode(ed25519.public_key().as_ref()), keys[1].public_key);
        assert_eq!(keys[1].public_key.len(), 44, "32 octets");
    }
}
