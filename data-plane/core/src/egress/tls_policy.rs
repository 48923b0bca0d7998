//! How a connection meets what is demanded of it before a message goes out.
//!
//! Deliberately absent: where a demand comes from (TLS rules: `postrail_schema::tls`), DANE and MTA-STS, and the check of a
//! certificate (the pump's).

pub use postrail_schema::tls::{TlsLevel, TlsPolicy, TlsVersion};

use crate::mail::TlsFacts;
use crate::smtp::client::StartTls;

/// What a connection does about STARTTLS; `failed`: TLS with this host has just failed.
pub(super) fn start_tls(policy: &TlsPolicy, failed: bool) -> StartTls {
    match (policy.is_opportunistic(), failed) {
        (false, _) => StartTls::Demanded,
        (true, false) => StartTls::IfOffered,
        (true, true) => StartTls::Never,
    }
}

/// Why mail of that policy may not go over a connection; `facts`: `None` in plaintext.
pub fn unmet(policy: &TlsPolicy, facts: Option<&TlsFacts>) -> Option<&'static str> {
    if policy.is_opportunistic() {
        return None;
    }
    let Some(facts) = facts else { return Some("the connection is not encrypted") };
    if policy.level == TlsLevel::Verified && !facts.verified {
        return Some("the certificate was not verified");
    }
    let is_older = policy.minimum_version == TlsVersion::V1_3 && facts.version != "TLSv1.3";
    is_older.then_some("the receiver has no TLS 1.3")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(level: TlsLevel, minimum_version: TlsVersion) -> TlsPolicy {
        TlsPolicy { level, minimum_version, hosts: Vec::new() }
    }

    #[test]
    fn plaintext_is_allowed_by_the_opportunistic_policy_alone() {
        for failed in [false, true] {
            for level in [TlsLevel::Required, TlsLevel::Verified] {
                assert_eq!(start_tls(&policy(level, TlsVersion::V1_2), failed), StartTls::Demanded);
            }
        }
        assert_eq!(start_tls(&TlsPolicy::default(), false), StartTls::IfOffered);
        assert_eq!(start_tls(&TlsPolicy::default(), true), StartTls::Never);
    }

    #[test]
    fn a_connection_meets_what_it_is_strong_enough_for() {
        let facts = |version: &str, verified| TlsFacts { version: version.into(), cipher: "x".into(), verified };
        let connections =
            [None, Some(facts("TLSv1.2", false)), Some(facts("TLSv1.3", false)), Some(facts("TLSv1.2", true))];
        for (level, version, wanted) in [
            (TlsLevel::Opportunistic, TlsVersion::V1_3, [true, true, true, true]),
            (TlsLevel::Required, TlsVersion::V1_2, [false, true, true, true]),
            (TlsLevel::Required, TlsVersion::V1_3, [false, false, true, false]),
            (TlsLevel::Verified, TlsVersion::V1_2, [false, false, false, true]),
            (TlsLevel::Verified, TlsVersion::V1_3, [false, false, false, false]),
        ] {
            let met = connections.each_ref().map(|facts| unmet(&policy(level, version), facts.as_ref()).is_none());
            assert_eq!(met, wanted, "{level:?} {version:?}");
        }
    }
}
