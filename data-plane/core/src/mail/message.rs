//! The final bytes of one copy: what sign makes and egress sends.

use std::fmt;

use bytes::Bytes;

/// A message ready for the wire but for dot-stuffing: CRLF line ends throughout, header section with its final empty
/// line. `signatures` holds the DKIM-Signature fields, each with its CRLF, and goes first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FinalMessage {
    pub signatures: Bytes,
    pub header: Bytes,
    pub body: Bytes,
    /// Some octet of the body is above 127: the receiver must offer 8BITMIME.
    pub eight_bit: bool,
    /// Some octet of the header section is above 127: the receiver must offer SMTPUTF8.
    pub utf8_header: bool,
}

impl FinalMessage {
    /// Octets of all three parts.
    pub fn len(&self) -> usize {
        self.signatures.len() + self.header.len() + self.body.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is known of a TLS session, for traces and events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsFacts {
    /// `TLSv1.3`.
    pub version: String,
    /// `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The peer's certificate was checked against its name.
    pub verified: bool,
}

/// As events have it.
impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.version, self.cipher, if self.verified { " verified" } else { "" })
    }
}
