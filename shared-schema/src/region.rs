//! Regions, and how a host tells a client of another region where to go without knowing the client.
//!
//! ```text
//! secret -> mark (64 bits of its hash) -> signpost -> region -> where its tenants submit
//! ```
//!
//! Invariants worth naming: a signpost has no name, no address and no secret of a tenant; secrets have 256 random bits,
//! so a mark can be found only by who has the secret. Absent here: what is published where (`publication`).

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::ids::{CredentialId, RegionId};

/// Hosts that serve some tenants alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Region {
    pub id: RegionId,
    /// Unique slug, as hosts are told by `--region`.
    pub name: String,
    /// Where its tenants submit, as clients are told elsewhere.
    pub submission_host: String,
}

/// Tells where the credential is served whose secret has that mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Signpost {
    pub mark: u64,
    pub region: RegionId,
    pub credential: CredentialId,
}

/// The mark of a secret: the first 64 bits of a SHA-256.
pub fn mark_of(secret: &[u8]) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(b"postrail signpost\0");
    context.update(secret);
    context.finish().as_ref().iter().take(8).fold(0, |mark, octet| mark << 8 | u64::from(*octet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_that_of_its_secret_on_every_version() {
        assert_eq!(mark_of(b"pr_default_x"), mark_of(b"pr_default_x"));
        assert_ne!(mark_of(b"pr_default_x"), mark_of(b"pr_default_y"));
        // Stored by control planes and computed by data planes of other versions.
        assert_eq!(mark_of(b""), 13_239_459_334_830_207_111);
    }
}
