//! The form in which addresses are compared: one mailbox may be written in many ways.
//!
//! RFC 5321 4.1.2: a quoted local part and a plain one of the same content are one, and a backslash in quotes says nothing
//! but the sign behind it. In the normal form is quoted what cannot stand otherwise, with a backslash before `"` and `\`
//! alone, and all is lower case.
//!
//! Invariant worth naming: the normal form of a normal form is itself, and there is one of any text. Absent here: whether
//! a text is an address, and the form of domains.

use std::borrow::Cow;

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

/// The normal form of a whole address, whose domain is in A-labels.
pub fn normal_address(address: &str) -> Cow<'_, str> {
    let Some((local, domain)) = address.rsplit_once('@') else { return Cow::Borrowed(address) };
    match normal_local_part(local) {
        Cow::Borrowed(_) if !domain.bytes().any(|octet| octet.is_ascii_uppercase()) => Cow::Borrowed(address),
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
