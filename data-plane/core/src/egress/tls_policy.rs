//! How much of a site's TLS is demanded before a message goes out.
//!
//! Deliberately absent: where a policy comes from (configuration, MTA-STS, DANE) and the check of a certificate.

use crate::smtp::client::StartTls;

/// What is demanded of the connection to a receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsPolicy {
    /// TLS where it is offered, with any certificate; plaintext where it is not, or where it fails (RFC 7435).
    #[default]
    Opportunistic,
    /// TLS with any certificate, never plaintext.
    Required,
    /// TLS with a certificate that is valid for the host's name, never plaintext.
    RequiredVerified,
}

impl TlsPolicy {
    /// Whether plaintext is forbidden.
    pub const fn demands_tls(self) -> bool {
        !matches!(self, Self::Opportunistic)
    }

    /// Whether the certificate must be valid for the host's name.
    pub const fn verifies(self) -> bool {
        matches!(self, Self::RequiredVerified)
    }

    /// What a connection does about STARTTLS; `failed`: TLS with this host has just failed.
    pub(super) const fn start_tls(self, failed: bool) -> StartTls {
        match (self.demands_tls(), failed) {
            (true, _) => StartTls::Demanded,
            (false, false) => StartTls::IfOffered,
            (false, true) => StartTls::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_allowed_by_the_opportunistic_policy_alone() {
        for failed in [false, true] {
            assert_eq!(TlsPolicy::Required.start_tls(failed), StartTls::Demanded);
            assert_eq!(TlsPolicy::RequiredVerified.start_tls(failed), StartTls::Demanded);
        }
        assert_eq!(TlsPolicy::Opportunistic.start_tls(false), StartTls::IfOffered);
        assert_eq!(TlsPolicy::Opportunistic.start_tls(true), StartTls::Never);
    }
}
