//! Addresses and domains: parsed once at the edge, trusted afterwards.
//!
//! A [`Domain`] is kept in its lower-case A-label form (RFC 5890), ready for DNS; an [`Address`] keeps the text that the
//! client gave, with its domain beside it. The grammar is RFC 5321 4.1.2 with RFC 6531 3.3: dot-string or quoted local
//! part, domain or address literal, UTF-8 where SMTPUTF8 applies.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use postrail_schema::address::{is_dot_string, normal_local_part};
use postrail_schema::limits::{DOMAIN_BYTES_MAX, LOCAL_PART_BYTES_MAX};

/// Why text is not an address or a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    #[error("an address has the form local-part@domain")]
    MissingAt,
    #[error("the local part is empty")]
    LocalPartEmpty,
    #[error("the local part is longer than {LOCAL_PART_BYTES_MAX} octets")]
    LocalPartTooLong,
    #[error("the local part has a character that must be quoted")]
    LocalPartSyntax,
    #[error("the domain is empty, or one of its labels is")]
    DomainEmpty,
    #[error("the domain or one of its labels is too long")]
    DomainTooLong,
    #[error("the domain has a character that no host name has")]
    DomainSyntax,
    #[error("the address literal is not an IPv4 or IPv6 address")]
    Literal,
}

/// A domain name in lower-case A-label form without a final dot, or an address literal (`[192.0.2.1]`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Parses a domain name or address literal; U-labels become A-labels (UTS 46).
    ///
    /// # Errors
    /// Says which rule of RFC 5321 4.1.2 or RFC 1035 2.3.4 the text breaks.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > DOMAIN_BYTES_MAX {
            return Err(AddressError::DomainTooLong);
        }
        if let Some(literal) = text.strip_prefix('[') {
            let literal = literal.strip_suffix(']').ok_or(AddressError::Literal)?;
            let address = parse_literal(literal).ok_or(AddressError::Literal)?;
            return Ok(match address {
                IpAddr::V4(v4) => Self(format!("[{v4}]").into()),
                IpAddr::V6(v6) => Self(format!("[IPv6:{v6}]").into()),
            });
        }
        if text.is_ascii() {
            check_labels(text)?;
            return Ok(if text.bytes().any(|b| b.is_ascii_uppercase()) {
                Self(text.to_ascii_lowercase().into())
            } else {
                Self(text.into())
            });
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_| AddressError::DomainSyntax)?;
        check_labels(&ascii)?;
        Ok(Self(ascii.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address of an address literal.
    pub fn literal(&self) -> Option<IpAddr> {
        parse_literal(self.0.strip_prefix('[')?.strip_suffix(']')?)
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

fn parse_literal(text: &str) -> Option<IpAddr> {
    match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => text[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Letters, digits, hyphens and underscores (seen in real mail domains) in labels of 1 to 63 octets.
fn check_labels(text: &str) -> Result<(), AddressError> {
    if text.len() > DOMAIN_BYTES_MAX - 2 {
        return Err(AddressError::DomainTooLong);
    }
    for label in text.split('.') {
        if label.is_empty() {
            return Err(AddressError::DomainEmpty);
        }
        if label.len() > 63 {
            return Err(AddressError::DomainTooLong);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(AddressError::DomainSyntax);
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(AddressError::DomainSyntax);
        }
    }
    Ok(())
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

fn check_local_part(local: &str) -> Result<(), AddressError> {
    if local.is_empty() {
        return Err(AddressError::LocalPartEmpty);
    }
    if local.len() > LOCAL_PART_BYTES_MAX {
        return Err(AddressError::LocalPartTooLong);
    }
    if let Some(inner) = local.strip_prefix('"') {
        let inner = inner.strip_suffix('"').ok_or(AddressError::LocalPartSyntax)?;
        let mut escaped = false;
        for c in inner.chars() {
            if c.is_control() || (!escaped && c == '"') {
                return Err(AddressError::LocalPartSyntax);
            }
            escaped = !escaped && c == '\\';
        }
        return if escaped { Err(AddressError::LocalPartSyntax) } else { Ok(()) };
    }
    if is_dot_string(local) { Ok(()) } else { Err(AddressError::LocalPartSyntax) }
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
