//! What a data plane tells of itself in the configuration store, while it runs.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::ids::HostId;
use crate::sealed::MasterKeyId;

/// A data plane, at `hosts/<name>`, under its lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostAnnouncement {
    /// Number of its data folder, drawn once; the ledger's cursors are by it.
    pub id: HostId,
    /// Where its admin listener is, such as `http://10.0.0.2:8082`.
    pub admin: String,
    #[serde(default)]
    pub region: String,
    pub shards: u16,
    /// The master keys that it has.
    #[serde(default)]
    pub master_keys: Vec<MasterKeyId>,
    /// Whom it trusts to sign receivers' certificates, beside its system's authorities; `None`: it is of a version that does
    /// not say.
    #[serde(default)]
    pub receiver_authorities: Option<AuthoritiesHash>,
    /// The newest format of snapshots that it reads; 0: it is of a version that does not say.
    #[serde(default)]
    pub snapshot_format: u16,
    /// Of the program.
    pub version: String,
}

/// What tells sets of authorities apart: SHA-256 over their certificates (DER), each once, ascending. The set may be empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuthoritiesHash([u8; 32]);

impl AuthoritiesHash {
    /// In whatever order, and however often, they are given.
    pub fn of<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut certificates: Vec<_> = certificates.into_iter().collect();
        certificates.sort_unstable();
        certificates.dedup();
        // DER says its own length, so that no two sets are the same octets.
        let mut context = Context::new(&SHA256);
        certificates.into_iter().for_each(|certificate| context.update(certificate));
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }

    /// Whether it is that of no authority.
    pub fn is_of_none(&self) -> bool {
        *self == Self::of([])
    }
}

impl TryFrom<String> for AuthoritiesHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let octet = |at: usize| text.get(2 * at..2 * at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let octets: Option<Vec<u8>> = (0..32).map(octet).collect();
        let hash = octets.filter(|_| text.len() == 64).and_then(|octets| octets.try_into().ok());
        hash.map(Self).ok_or("a hash of authorities has 64 hexadecimal digits")
    }
}

impl From<AuthoritiesHash> for String {
    fn from(hash: AuthoritiesHash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for AuthoritiesHash {
    /// With a precision, so many digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.iter().map(|octet| format!("{octet:02x}")).collect::<String>())
    }
}

impl fmt::Debug for AuthoritiesHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A data plane that is not taken on, at `refused-hosts/<name>`, under its lease: its data folder has the number of another
/// that runs, or it has its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusedHost {
    pub id: HostId,
    /// The other one, by name; its own name: that is what the other has.
    pub taken_by: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_told_apart_by_what_they_are_and_not_by_their_order() {
        let hash = |certificates: &[&str]| AuthoritiesHash::of(certificates.iter().map(|text| text.as_bytes()));
        assert_eq!(hash(&["one", "two"]), hash(&["two", "one", "two"]));
        assert_ne!(hash(&["one"]), hash(&["two"]));
        assert!(hash(&[]).is_of_none() && !hash(&["one"]).is_of_none());
        assert!(hash(&[]).to_string().starts_with("e3b0c44298fc1c14"));
    }

    #[test]
    fn an_announcement_is_read_with_and_without_authorities() {
        let earlier = r#"{"id":1,"admin":"http://127.0.0.1:8082","shards":1,"version":"0.1.0"}"#;
        let mut host: HostAnnouncement = serde_json::from_str(earlier).unwrap();
        assert_eq!((host.receiver_authorities, host.snapshot_format), (None, 0));
        host.receiver_authorities = Some(AuthoritiesHash::of([&b"one"[..]]));
        let text = serde_json::to_string(&host).unwrap();
        assert_eq!(serde_json::from_str::<HostAnnouncement>(&text).unwrap(), host);
        for wrong in ["", "e3", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert!(AuthoritiesHash::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
