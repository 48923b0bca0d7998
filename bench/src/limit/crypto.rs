//! What signing costs at best: one signature, one hash, one canonical form.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::digest::{self, SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use postrail_core::base::Timestamp;
use postrail_core::mail::FinalMessage;
use postrail_core::sign::dkim;

use super::cpu::{self, Cost};
use crate::sample;

/// One RSA-2048 signature of a digest, with a key that is parsed once, as the server signs.
pub(super) fn rsa_2048(time: Duration) -> Result<Cost> {
    let made = rsa::KeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no RSA key could be made"))?;
    let der: Pkcs8V1Der<'_> = made.as_der().map_err(|_| anyhow!("the RSA key has no PKCS#8 form"))?;
    let pair = RsaKeyPair::from_pkcs8(der.as_ref()).context("the RSA key does not parse")?;
    let hash = digest(&SHA256, b"canonical header fields");
    let hash = digest::Digest::import_less_safe(hash.as_ref(), &SHA256).map_err(|_| anyhow!("not a digest"))?;
    let mut signature = vec![0; pair.public_modulus_len()];
    let mut failed = false;
    let cost = cpu::measure(time, || {
        failed |= pair.sign_digest(&RSA_PKCS1_SHA256, black_box(&hash), &mut signature).is_err();
        black_box(&signature);
    });
    if failed { Err(anyhow!("signing failed")) } else { Ok(cost) }
}

/// One Ed25519 signature of a digest.
pub(super) fn ed25519(time: Duration) -> Result<Cost> {
    let pair = Ed25519KeyPair::generate().map_err(|_| anyhow!("no Ed25519 key could be made"))?;
    let hash = digest(&SHA256, b"canonical header fields");
    Ok(cpu::measure(time, || {
        black_box(pair.sign(black_box(hash.as_ref())));
    }))
}

/// SHA-256 of a mail.
pub(super) fn sha_256(time: Duration, bytes: usize) -> Cost {
    let mail = sample::mail(bytes);
    cpu::measure(time, || {
        black_box(digest(&SHA256, black_box(mail.as_bytes())));
    })
}

/// The canonical form of a mail and its two hashes, by the server's own code, up to what is signed.
pub(super) fn dkim(time: Duration, bytes: usize) -> Result<Cost> {
    let mail = sample::mail(bytes);
    let header = mail.find("\r\n\r\n").context("the mail has no header section")? + 4;
    let message = FinalMessage {
        header: mail[..header].to_owned().into(),
        body: mail[header..].to_owned().into(),
        ..FinalMessage::default()
    };
    let keys = [sample::dkim_key()];
    let at = Timestamp::from_unix_ms(1_795_464_845_123);
    Ok(cpu::measure(time, || {
        black_box(dkim::plan(black_box(&message), "bench.test", &keys, at));
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cost_is_measured() {
        let time = Duration::from_millis(2);
        for cost in [rsa_2048(time), ed25519(time), Ok(sha_256(time, 10_240)), dkim(time, 10_240)] {
            assert!(cost.is_ok_and(|cost| cost.cpu_us > 0.1));
        }
    }
}
