//! API keys and the operator token: made, hashed, verified.
//!
//! ```text
//! pr_<credential username>_<43 base64url characters>   password of the username, or alone a bearer token
//! po_<43 base64url characters>                         the bearer token of the file operator.token
//! po_<account>_<43 base64url characters>               the bearer token of an operator's account
//! ```
//!
//! A secret holds 256 random bits, so its hash needs no work factor against guessing; argon2id runs with 1 MiB and one
//! pass, since each data-plane shard verifies as well.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use postrail_schema::limits::{HASH_LANES_MAX, HASH_MEMORY_KIB_MAX, HASH_PASSES_MAX};

use super::AppError;
use super::keys::random;

/// A new API key of the credential with that username.
pub(crate) fn make_api_key(username: &str) -> Result<String, AppError> {
    Ok(format!("pr_{username}_{}", URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

/// A new operator token.
pub(crate) fn make_operator_token() -> Result<String, AppError> {
    Ok(format!("po_{}", URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

/// A new token of the operator's account of that name.
pub(crate) fn make_account_token(name: &str) -> Result<String, AppError> {
    Ok(format!("po_{name}_{}", URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

/// The account that an operator's token names, if it names one.
pub(crate) fn account_of(token: &str) -> Option<&str> {
    named("po_", token)
}

/// The username that an API key names, if it has the form of one.
pub(crate) fn username_of(api_key: &str) -> Option<&str> {
    named("pr_", api_key)
}

fn named<'a>(prefix: &str, text: &'a str) -> Option<&'a str> {
    let rest = text.strip_prefix(prefix)?;
    let (username, secret) = rest.split_at_checked(rest.len().checked_sub(SECRET_CHARS)?)?;
    let base64url = secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    username.strip_suffix('_').filter(|username| base64url && !username.is_empty())
}

/// The PHC string of `secret`.
pub(crate) fn hash(secret: &str) -> Result<String, AppError> {
    let failed = AppError::Crypto { act: "hashing a secret" };
    let Ok(hash) = argon2()?.hash_password(secret.as_bytes()) else { return Err(failed) };
    Ok(hash.to_string())
}

/// Whether `secret` is that of one of the PHC strings.
pub(crate) fn verify(secret: &str, hashes: &[String]) -> bool {
    hashes.iter().any(|hash| {
        let Ok(hash) = PasswordHash::new(hash) else { return false };
        Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok()
    })
}

/// Takes about as long as [`verify`] of a wrong secret.
pub(crate) fn burn(secret: &str) {
    // What comes of it does not matter.
    let _ = hash(secret);
}

/// Whether `text` is a hash that hosts can afford: each computes it again for whoever authenticates.
///
/// # Errors
/// What it should be.
pub(crate) fn check_hash(text: &str) -> Result<(), String> {
    let read = || {
        let hash = PasswordHash::new(text).ok()?;
        hash.hash?;
        Params::try_from(&hash).ok()
    };
    let is_ours = text.len() <= HASH_BYTES_MAX && text.starts_with("$argon2id$");
    let Some(params) = is_ours.then(read).flatten() else {
        return Err("this is no argon2id hash, such as $argon2id$v=19$m=1024,t=1,p=1$…".to_owned());
    };
    let affordable = params.m_cost() <= HASH_MEMORY_KIB_MAX
        && params.t_cost() <= HASH_PASSES_MAX
        && params.p_cost() <= HASH_LANES_MAX;
    if affordable {
        return Ok(());
    }
    Err(format!(
        "a hash has at most m={HASH_MEMORY_KIB_MAX}, t={HASH_PASSES_MAX} and p={HASH_LANES_MAX}: hosts compute it for \
         everybody who authenticates, while other mail waits"
    ))
}

fn argon2() -> Result<Argon2<'static>, AppError> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|_| AppError::Crypto { act: "setting up argon2" })?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Characters of 32 octets in base64url.
const SECRET_CHARS: usize = 43;
/// A PHC string, octets.
const HASH_BYTES_MAX: usize = 256;
const MEMORY_KIB: u32 = 1_024;
const PASSES: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_key_names_its_username_whatever_signs_that_has() {
        for username in ["default", "a_b", "a", "x-1.y"] {
            let key = make_api_key(username).unwrap();
            assert_eq!(username_of(&key), Some(username), "{key}");
        }
    }

    #[test]
    fn what_is_no_api_key_names_nobody() {
        let secret = "s".repeat(43);
        let texts =
            ["".into(), "pr_".into(), format!("pr_{secret}"), format!("pr__{secret}"), format!("po_a_{secret}")];
        for text in texts.iter().chain(&[format!("pr_aß{secret}"), format!("pr_a_{}", "%".repeat(43))]) {
            assert_eq!(username_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_hash_is_argon2id_and_verifies_its_secret_only() {
        let hashes = [hash("one").unwrap(), hash("two").unwrap()];
        assert!(hashes[0].starts_with("$argon2id$v=19$m=1024,t=1,p=1$"), "{}", hashes[0]);
        assert!(verify("one", &hashes) && verify("two", &hashes));
        assert!(!verify("three", &hashes) && !verify("", &hashes) && !verify("one", &["junk".into()]));
    }

    #[test]
    fn a_hash_that_is_brought_costs_no_more_than_hosts_can_afford() {
        let of = |costs: &str| {
            format!("$argon2id$v=19${costs}$c29tZXNhbHRzb21lc2FsdA$cmVhbGx5IGEgaGFzaCBvZiAzMiBvY3RldHMsIHllcw")
        };
        for costs in ["m=1024,t=1,p=1", "m=19456,t=2,p=1", "m=19456,t=2,p=4"] {
            assert_eq!(check_hash(&of(costs)), Ok(()), "{costs}");
        }
        for costs in ["m=4194304,t=1,p=1", "m=1024,t=1000,p=1", "m=19457,t=1,p=1", "m=1024,t=1,p=5"] {
            let told = check_hash(&of(costs)).unwrap_err();
            assert!(told.contains("m=19456, t=2 and p=4"), "{costs}: {told}");
        }
        assert_eq!(check_hash(&hash("one").unwrap()), Ok(()));
        let plain = of("m=1024,t=1,p=1");
        for text in ["plain", "", &plain.replace("argon2id", "argon2i"), plain.rsplit_once('$').unwrap().0] {
            assert!(check_hash(text).is_err(), "{text}");
        }
    }
}
