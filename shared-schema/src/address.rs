//! The form in which addresses are compared: one mailbox may be written in many ways.
//!
//! RFC 5321 4.1.2: a quoted local part and a plain one of the same content are one, and a backslash in quotes says nothing
//! but the sign behind it. In the normal form is quoted what cannot stand otherwise, with a backslash before `"` and `\`
//! alone, and all is lower case.
//!
//! What is an address is told here too, so that whoever can be sent mail can be suppressed: RFC 5321 4.1.2 with RFC 6531 3.3.
//!
//! Invariant worth naming: the normal form of a normal form is itself, and there is one of any text.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::{DOMAIN_BYTES_MAX, LOCAL_PART_BYTES_MAX};

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

/// The normal form of a local part. What no address has, not quoted, gets quotes.
pub fn normal_local_part(local: &str) -> Cow<'_, str> {
    if is_dot_string(local) && !local.bytes().any(|octet| octet.is_ascii_uppercase() || !octet.is_ascii()) {
        return Cow::Borrowed(local);
    }
    let content = content(local).to_lowercase();
    if is_dot_string(&content) {
        return Cow::Owned(content);
    }
    let mut quoted = String::with_capacity(content.len() + 2);
    quoted.push('"');
    for sign in content.chars() {
        if matches!(sign, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(sign);
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

/// The normal form of a whole address, whose domain is in A-labels, or an address literal as [`domain`] gives it.
pub fn normal_address(address: &str) -> Cow<'_, str> {
    let Some((local, domain)) = address.rsplit_once('@') else { return Cow::Borrowed(address) };
    let is_literal = domain.starts_with('[');
    match normal_local_part(local) {
        Cow::Borrowed(_) if is_literal || !domain.bytes().any(|octet| octet.is_ascii_uppercase()) => {
            Cow::Borrowed(address)
        }
        local if is_literal => Cow::Owned(format!("{local}@{domain}")),
        local => Cow::Owned(format!("{local}@{}", domain.to_ascii_lowercase())),
    }
}

/// What a local part is in quotes, or as it stands.
pub fn content(local: &str) -> Cow<'_, str> {
    let Some(inner) = quoted(local) else { return Cow::Borrowed(local) };
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut plain = String::with_capacity(inner.len());
    let mut signs = inner.chars();
    while let Some(sign) = signs.next() {
        plain.extend(if sign == '\\' { signs.next() } else { Some(sign) });
    }
    Cow::Owned(plain)
}

/// What is between the quotes, if that is a quoted string.
fn quoted(local: &str) -> Option<&str> {
    let inner = local.strip_prefix('"')?.strip_suffix('"')?;
    let mut is_escaped = false;
    for octet in inner.bytes() {
        if !is_escaped && octet == b'"' {
            return None;
        }
        is_escaped = !is_escaped && octet == b'\\';
    }
    (!is_escaped).then_some(inner)
}

/// Atoms with dots between them, as a local part is without quotes.
pub fn is_dot_string(local: &str) -> bool {
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// atext of RFC 5322 3.2.3, with UTF-8 (RFC 6532 3.2) but no control or white space.
fn is_atext(sign: char) -> bool {
    sign.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(sign)
        || (!sign.is_ascii() && !sign.is_control() && !sign.is_whitespace())
}

/// A domain name as lower-case A-labels (UTS 46) without a final dot, or an address literal (`[192.0.2.1]`).
///
/// # Errors
/// Says which rule of RFC 5321 4.1.2 or RFC 1035 2.3.4 the text breaks.
pub fn domain(text: &str) -> Result<Cow<'_, str>, AddressError> {
    if text.len() > DOMAIN_BYTES_MAX {
        return Err(AddressError::DomainTooLong);
    }
    if let Some(inner) = text.strip_prefix('[') {
        let address = inner.strip_suffix(']').and_then(literal).ok_or(AddressError::Literal)?;
        return Ok(Cow::Owned(match address {
            IpAddr::V4(v4) => format!("[{v4}]"),
            IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
        }));
    }
    if text.is_ascii() {
        check_labels(text)?;
        let is_lower = !text.bytes().any(|octet| octet.is_ascii_uppercase());
        return Ok(if is_lower { Cow::Borrowed(text) } else { Cow::Owned(text.to_ascii_lowercase()) });
    }
    let ascii = idna::domain_to_ascii(text).map_err(|_| AddressError::DomainSyntax)?;
    check_labels(&ascii)?;
    Ok(Cow::Owned(ascii))
}

/// The address in an address literal, without its brackets.
pub fn literal(text: &str) -> Option<IpAddr> {
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

/// Whether a local part is one.
///
/// # Errors
/// Says which rule of RFC 5321 4.1.2 it breaks.
pub fn check_local_part(local: &str) -> Result<(), AddressError> {
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_mailbox_has_one_normal_form_however_it_is_written() {
        for (text, normal) in [
            ("gone@receiver.test", "gone@receiver.test"),
            ("Gone@Receiver.test", "gone@receiver.test"),
            ("\"gone\"@receiver.test", "gone@receiver.test"),
            ("\"GO\\ne\"@receiver.test", "gone@receiver.test"),
            ("\"a.b\"@receiver.test", "a.b@receiver.test"),
            ("\"a..b\"@receiver.test", "\"a..b\"@receiver.test"),
            ("\"Odd one\"@receiver.test", "\"odd one\"@receiver.test"),
            ("\"odd\\ one\"@receiver.test", "\"odd one\"@receiver.test"),
            ("odd one@receiver.test", "\"odd one\"@receiver.test"),
            ("a@b@receiver.test", "\"a@b\"@receiver.test"),
            ("\"a\\\"b\\\\\"@receiver.test", "\"a\\\"b\\\\\"@receiver.test"),
            ("\"\"@receiver.test", "\"\"@receiver.test"),
            ("\"@receiver.test", "\"\\\"\"@receiver.test"),
            ("\"a\\\"@receiver.test", "\"\\\"a\\\\\\\"\"@receiver.test"),
            ("Gone@[IPv6:2001:db8::1]", "gone@[IPv6:2001:db8::1]"),
            ("JÜRGEN@xn--bcher-kva.example", "jürgen@xn--bcher-kva.example"),
            ("\"JÜRGEN\"@xn--bcher-kva.example", "jürgen@xn--bcher-kva.example"),
        ] {
            assert_eq!(normal_address(text), normal, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own_and_that_of_its_content_in_any_quotes(
            text in prop_oneof![".{0,12}", "[\"\\\\a.B @ü]{0,8}"],
            escaped in prop::collection::vec(any::<bool>(), 12),
        ) {
            let normal = normal_local_part(&text).into_owned();
            prop_assert_eq!(&normal_local_part(&normal), &normal);
            prop_assert!(is_dot_string(&normal) || quoted(&normal).is_some());
            let mut other = "\"".to_owned();
            for (at, sign) in content(&text).chars().enumerate() {
                if matches!(sign, '"' | '\\') || escaped.get(at).is_some_and(|escaped| *escaped) {
                    other.push('\\');
                }
                other.push(sign);
            }
            other.push('"');
            prop_assert_eq!(normal_local_part(&other), normal);
        }
    }
}
