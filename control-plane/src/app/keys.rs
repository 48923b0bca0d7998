//! DKIM keys: made here, sealed for the store, named for DNS.
//!
//! A private key is PKCS#8 DER, sealed as [`postrail_schema::sealed`] says. Absent here: signing, which the data plane does.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{rand, rsa};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrail_schema::ids::KeyId;
use postrail_schema::sealed::{MasterKey, MasterKeys};
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm};

use super::AppError;

/// The algorithms that a new domain signs with: RSA of 2,048 bits (all verify it) and Ed25519 (RFC 8463).
pub(crate) const ALGORITHMS: [KeyAlgorithm; 2] = [KeyAlgorithm::RsaSha256, KeyAlgorithm::Ed25519Sha256];

/// Makes a key of each of `algorithms`.
pub(crate) fn make_keys(
    master: &MasterKey,
    algorithms: &[KeyAlgorithm],
    mut id: impl FnMut() -> KeyId,
) -> Result<Vec<DkimKey>, AppError> {
    let make = |algorithm: &KeyAlgorithm| match algorithm {
        KeyAlgorithm::RsaSha256 => make_rsa(master, id()),
        KeyAlgorithm::Ed25519Sha256 => make_ed25519(master, id()),
    };
    algorithms.iter().map(make).collect()
}

fn make_rsa(master: &MasterKey, id: KeyId) -> Result<DkimKey, AppError> {
    let failed = |_| AppError::Crypto { act: "making an RSA key" };
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
    Ok(DkimKey {
        id,
        selector: "pr1r".to_owned(),
        algorithm: KeyAlgorithm::RsaSha256,
        sealed_private_key: master.seal(&random()?, private.as_ref()),
        public_key: STANDARD.encode(public.as_ref()),
    })
}

fn make_ed25519(master: &MasterKey, id: KeyId) -> Result<DkimKey, AppError> {
    let failed = |_| AppError::Crypto { act: "making an Ed25519 key" };
    let pair = Ed25519KeyPair::generate().map_err(failed)?;
    let private = pair.to_pkcs8().map_err(failed)?;
    Ok(DkimKey {
        id,
        selector: "pr1e".to_owned(),
        algorithm: KeyAlgorithm::Ed25519Sha256,
        sealed_private_key: master.seal(&random()?, private.as_ref()),
        public_key: STANDARD.encode(pair.public_key().as_ref()),
    })
}

/// Whether `sealed` opens with one of `masters` and is the private half of `public_key`.
pub(crate) fn is_pair(masters: &MasterKeys, algorithm: KeyAlgorithm, sealed: &[u8], public_key: &str) -> bool {
    let Ok(private) = masters.unseal(sealed) else { return false };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_keys_open_as_the_keys_that_dns_names() {
        let masters = MasterKeys::only(MasterKey::new([3; 32]));
        let opened = |key: &DkimKey| masters.unseal(&key.sealed_private_key);
        let mut ids = 0;
        let keys = make_keys(&masters.current, &ALGORITHMS, || {
            ids += 1;
            KeyId(ids)
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
}
