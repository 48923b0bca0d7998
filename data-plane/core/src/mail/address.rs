//! Addresses and domains: parsed once at the edge, trusted afterwards.
//!
//! A [`Domain`] is kept in its lower-case A-label form (RFC 5890), ready for DNS; an [`Address`] keeps the text that the
//! client gave, with its domain beside it. The grammar is RFC 5321 4.1.2 with RFC 6531 3.3: dot-string or quoted local
//! part, domain or address literal, UTF-8 where SMTPUTF8 applies.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use postrail_schema::address::AddressError;
use postrail_schema::address::{check_local_part, domain, literal, normal_local_part};

/// A domain name in lower-case A-label form without a final dot, or an address literal (`[192.0.2.1]`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Parses a domain name or address literal; U-labels become A-labels (UTS 46).
    ///
    /// # Errors
    /// Says which rule of RFC 5321 4.1.2 or RFC 1035 2.3.4 the text breaks.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Ok(Self(domain(text)?.as_ref().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address of an address literal.
    pub fn literal(&self) -> Option<IpAddr> {
        literal(self.0.strip_prefix('[')?.strip_suffix(']')?)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mailbox address as given, with its parsed domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    text: Arc<str>,
    local_bytes: u16,
    domain: Domain,
}

impl Address {
    /// Parses `local-part@domain` without angle brackets. UTF-8 is accepted here; whether the transaction allows it is
    /// for the protocol to say (see [`Self::needs_smtp_utf8`]).
    ///
    /// # Errors
    /// Says which rule of RFC 5321 4.1.2 the text breaks.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let at = text.rfind('@').ok_or(AddressError::MissingAt)?;
        let (local, domain) = (&text[..at], &text[at + 1..]);
        check_local_part(local)?;
        let domain = Domain::parse(domain)?;
        Ok(Self { text: text.into(), local_bytes: at as u16, domain })
    }

    /// The whole address as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn local_part(&self) -> &str {
        &self.text[..usize::from(self.local_bytes)]
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The form in which addresses are compared (suppressions, duplicates): see [`postrail_schema::address`].
    pub fn normalized(&self) -> String {
        let (local, domain) = (normal_local_part(self.local_part()), self.domain.as_str());
        [&*local, "@", domain].concat()
    }

    /// Whether a receiver must offer SMTPUTF8 to take it: the local part is not ASCII (a U-label domain can be sent as
    /// A-labels instead).
    pub fn needs_smtp_utf8(&self) -> bool {
        !self.local_part().is_ascii()
    }

    /// The form for a path on the wire where SMTPUTF8 is not in use: A-label domain.
    pub fn ascii_domain_form(&self) -> String {
        let (local, domain) = (self.local_part(), self.domain.as_str());
        [local, "@", domain].concat()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_standard_are_taken() {
        for text in [
            "bob@example.org",
            "a.b+c@Example.ORG",
            "\"odd one\"@example.org",
            "\"a\\\"b\"@example.org",
            "user@[192.0.2.1]",
            "user@[IPv6:2001:db8::1]",
            "jürgen@bücher.example",
            "x@localhost",
        ] {
            let address = Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.as_str(), text);
        }
    }

    #[test]
    fn what_is_not_an_address_says_why() {
        for (text, error) in [
            ("bob", AddressError::MissingAt),
            ("@example.org", AddressError::LocalPartEmpty),
            (".bob@example.org", AddressError::LocalPartSyntax),
            ("bo b@example.org", AddressError::LocalPartSyntax),
            ("bob@\r\nexample.org", AddressError::DomainSyntax),
            ("bo\r\nb@example.org", AddressError::LocalPartSyntax),
            ("\"bob@example.org", AddressError::LocalPartSyntax),
            ("bob@", AddressError::DomainEmpty),
            ("bob@example..org", AddressError::DomainEmpty),
            ("bob@-example.org", AddressError::DomainSyntax),
            ("bob@[300.1.1.1]", AddressError::Literal),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn domains_are_compared_in_lower_case_a_labels() {
        let address = Address::parse("Jürgen@BÜCHER.example").unwrap();
        assert_eq!(address.domain().as_str(), "xn--bcher-kva.example");
        assert_eq!(address.normalized(), "jürgen@xn--bcher-kva.example");
        assert_eq!(Address::parse("\"J\\ürgen\"@bücher.example").unwrap().normalized(), address.normalized());
        assert!(address.needs_smtp_utf8());
        assert!(!Address::parse("bob@bücher.example").unwrap().needs_smtp_utf8());
        assert_eq!(Domain::parse("[192.0.2.1]").unwrap().literal(), Some("192.0.2.1".parse().unwrap()));
    }
}
