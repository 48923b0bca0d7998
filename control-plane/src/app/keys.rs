//! DKIM keys: made here or brought, sealed for the store, named for DNS.
//!
//! A private key is PKCS#8 DER, sealed as [`postrail_schema::sealed`] says. Absent here: signing, which the data plane does,
//! and the stages of a key (`plan::key_stages`).

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{hmac, rand, rsa};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrail_schema::ids::KeyId;
use postrail_schema::limits::{DKIM_PEM_BYTES_MAX, DKIM_RSA_BITS_MAX};
use postrail_schema::sealed::{MasterKey, MasterKeys};
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm, KeyStage};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::{AppError, now_ms};

/// The algorithms that a new domain signs with: RSA of 2,048 bits (all verify it) and Ed25519 (RFC 8463).
pub(crate) const ALGORITHMS: [KeyAlgorithm; 2] = [KeyAlgorithm::RsaSha256, KeyAlgorithm::Ed25519Sha256];

/// A private key that is not sealed yet.
pub(crate) struct Private {
    pub(crate) algorithm: KeyAlgorithm,
    /// As in `p=`.
    pub(crate) public_key: String,
    pkcs8: Vec<u8>,
}

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Private").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Private {
    pub(crate) fn make(algorithm: KeyAlgorithm) -> Result<Self, AppError> {
        let failed = |_| AppError::Crypto { act: "making a DKIM key" };
        match algorithm {
            KeyAlgorithm::RsaSha256 => Self::rsa(&rsa::KeyPair::generate(KeySize::Rsa2048).map_err(failed)?),
            KeyAlgorithm::Ed25519Sha256 => {
                let pair = Ed25519KeyPair::generate().map_err(failed)?;
                let pkcs8 = pair.to_pkcs8().map_err(failed)?.as_ref().to_vec();
                Ok(Self { algorithm, public_key: STANDARD.encode(pair.public_key().as_ref()), pkcs8 })
            }
        }
    }

    /// The key of a PEM text: RSA of 2,048 to 4,096 bits (PKCS#8 or PKCS#1), or Ed25519 (PKCS#8).
    ///
    /// # Errors
    /// It is no such key. What it is, and none of its octets, is told.
    pub(crate) fn read(pem: &str) -> Result<Self, AppError> {
        let wrong = |detail: &str| AppError::invalid("/private_key", detail);
        if pem.len() > DKIM_PEM_BYTES_MAX {
            return Err(wrong("this is too long for a private key"));
        }
        if pem.contains("ENCRYPTED") {
            return Err(wrong("the key is under a passphrase: take that off first, as by `openssl pkey -in FILE`"));
        }
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| wrong("this is not a private key as PEM (-----BEGIN PRIVATE KEY-----)"))?;
        let pair = match &der {
            PrivateKeyDer::Pkcs1(der) => rsa::KeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()) {
                Ok(pair) => {
                    let pkcs8 = der.secret_pkcs8_der().to_vec();
                    let public_key = STANDARD.encode(pair.public_key().as_ref());
                    return Ok(Self { algorithm: KeyAlgorithm::Ed25519Sha256, public_key, pkcs8 });
                }
                Err(_) => rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            },
            _ => return Err(wrong("DKIM knows keys of RSA and of Ed25519, and this is neither")),
        };
        let pair = pair.map_err(|rejected| match rejected.to_string().as_str() {
            "TooSmall" => {
                wrong("the RSA key is shorter than 2,048 bits: receivers take such keys for weak; make a longer one")
            }
            "TooLarge" => wrong("the RSA key is longer than 4,096 bits, which receivers do not verify"),
            _ => wrong("this is neither a key of RSA nor of Ed25519, or it is damaged"),
        })?;
        if pair.public_modulus_len() * 8 > DKIM_RSA_BITS_MAX {
            return Err(wrong("the RSA key is longer than 4,096 bits, which receivers do not verify"));
        }
        Self::rsa(&pair)
    }

    fn rsa(pair: &rsa::KeyPair) -> Result<Self, AppError> {
        let failed = |_| AppError::Crypto { act: "writing an RSA key" };
        let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
        let public_key = STANDARD.encode(public.as_ref());
        Ok(Self { algorithm: KeyAlgorithm::RsaSha256, public_key, pkcs8: private.as_ref().to_vec() })
    }

    pub(crate) fn seal(&self, master: &MasterKey) -> Result<Vec<u8>, AppError> {
        Ok(master.seal(&random()?, &self.pkcs8))
    }
}

/// Makes a key of each of `algorithms`, for a domain that has none yet; `name` gives a key its id and its selector.
pub(crate) fn make_keys(
    master: &MasterKey,
    algorithms: &[KeyAlgorithm],
    mut name: impl FnMut(KeyAlgorithm) -> (KeyId, String),
) -> Result<Vec<DkimKey>, AppError> {
    let make = |algorithm: &KeyAlgorithm| {
        let private = Private::make(*algorithm)?;
        let (id, selector) = name(*algorithm);
        Ok(DkimKey {
            id,
            selector,
            algorithm: *algorithm,
            sealed_private_key: private.seal(master)?,
            public_key: private.public_key,
            stage: KeyStage::Signing,
            since_ms: now_ms(),
        })
    };
    algorithms.iter().map(make).collect()
}

/// The selector of a key of the first domain of an installation: nobody else has that domain yet.
pub(crate) fn first_selector(algorithm: KeyAlgorithm) -> String {
    format!("pr1{}", letter(algorithm))
}

/// The selector of any other key: `pr`, a word that no other key of the installation has, and a letter for the algorithm.
/// Several tenants may have one domain, and DNS has one record of a selector. It
/// follows from the key's id, and does not tell it: it stands in DNS, and ids count everybody's keys.
pub(crate) fn selector_of(salt: &str, algorithm: KeyAlgorithm, id: KeyId) -> String {
    let salt = hmac::Key::new(hmac::HMAC_SHA256, salt.as_bytes());
    let tag = hmac::sign(&salt, format!("postrail selector of key {id}").as_bytes());
    let word: String = tag.as_ref().iter().take(SELECTOR_BYTES).map(|octet| format!("{octet:02x}")).collect();
    format!("pr{word}{}", letter(algorithm))
}

const fn letter(algorithm: KeyAlgorithm) -> char {
    match algorithm {
        KeyAlgorithm::RsaSha256 => 'r',
        KeyAlgorithm::Ed25519Sha256 => 'e',
    }
}

/// Octets of the word: keys of one domain have to differ, and are few.
const SELECTOR_BYTES: usize = 5;

/// Whether `sealed` opens with one of `masters` and is the private half of `public_key`.
pub(crate) fn is_pair(masters: &MasterKeys, algorithm: KeyAlgorithm, sealed: &[u8], public_key: &str) -> bool {
    let Ok(private) = masters.unseal(sealed) else { return false };
    let public = match algorithm {
        KeyAlgorithm::RsaSha256 => rsa::KeyPair::from_pkcs8(&private).ok().and_then(|pair| {
            let public: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
            Some(STANDARD.encode(public.as_ref()))
        }),
        KeyAlgorithm::Ed25519Sha256 => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&private).ok();
            pair.map(|pair| STANDARD.encode(pair.public_key().as_ref()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_keys_open_as_the_keys_that_dns_names() {
        let masters = MasterKeys::only(MasterKey::new([3; 32]));
        let opened = |key: &DkimKey| masters.unseal(&key.sealed_private_key);
        let mut ids = 0;
        let keys = make_keys(&masters.current, &ALGORITHMS, |algorithm| {
            ids += 1;
            (KeyId(ids), first_selector(algorithm))
        })
        .unwrap();
        let rsa = rsa::KeyPair::from_pkcs8(&opened(&keys[0]).unwrap()).unwrap();
        let public: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
        assert_eq!(STANDARD.encode(public.as_ref()), keys[0].public_key);
        let private = opened(&keys[1]).unwrap();
        let ed25519 = Ed25519KeyPair::from_pkcs8(&private).unwrap();
        assert_eq!(STANDARD.encode(ed25519.public_key().as_ref()), keys[1].public_key);
        assert_eq!(keys[1].public_key.len(), 44, "32 octets");
    }

    fn openssl(arguments: &[&str]) -> String {
        let made = std::process::Command::new("openssl").args(arguments).output().unwrap();
        String::from_utf8(made.stdout).unwrap()
    }

    #[test]
    fn keys_that_openssl_makes_are_read_and_the_short_the_long_and_the_foreign_are_told() {
        let rsa = |bits: &str| openssl(&["genrsa", "-traditional", bits]);
        let masters = MasterKeys::only(MasterKey::new([3; 32]));
        for (pem, algorithm) in [
            (rsa("2048"), KeyAlgorithm::RsaSha256),
            (openssl(&["genrsa", "3072"]), KeyAlgorithm::RsaSha256),
            (openssl(&["genpkey", "-algorithm", "ed25519"]), KeyAlgorithm::Ed25519Sha256),
        ] {
            let private = Private::read(&pem).unwrap();
            assert_eq!(private.algorithm, algorithm);
            let sealed = private.seal(&masters.current).unwrap();
            assert!(is_pair(&masters, algorithm, &sealed, &private.public_key));
            assert!(!format!("{private:?}").contains("pkcs8"));
        }
        let elliptic = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let locked = openssl(&["genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:x"]);
        for (pem, words) in [
            (rsa("1024"), "shorter than 2,048"),
            (rsa("4104"), "longer than 4,096"),
            (elliptic, "neither"),
            (locked, "passphrase"),
            ("-----BEGIN PRIVATE KEY-----".to_owned(), "not a private key as PEM"),
            ("x".repeat(DKIM_PEM_BYTES_MAX + 1), "too long"),
        ] {
            let refused = Private::read(&pem).unwrap_err().to_string();
            assert!(refused.contains(words), "{words}: {refused}");
        }
    }
}
