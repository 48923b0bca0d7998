//! Macros in SPF's domain names (RFC 7208 section 7).
//!
//! `%{p}` expands to `unknown`, which section 7.3 allows and recommends. The letters of explanations (`c`, `r`, `t`) are errors
//! in a domain name.

use std::fmt::Write;
use std::net::IpAddr;

use postrail_schema::limits::DOMAIN_BYTES_MAX;

/// Whether a text has the form of a domain-spec: printable, its macros whole, and with an end that can be a name's.
pub(super) fn is_domain_spec(text: &str) -> bool {
    let printable = text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    let end = text.rsplit('.').find(|label| !label.is_empty()).unwrap_or_default();
    let ends = text.ends_with('}') || ends_as_top_label(end);
    !text.is_empty() && printable && ends && pieces(text).is_some()
}

/// The name that a domain-spec expands to; `None`: it is not of the form.
pub(super) fn expand(text: &str, ip: IpAddr, domain: &str, sender: &str) -> Option<String> {
    let mut name = String::new();
    for piece in pieces(text)? {
        match piece {
            Piece::Plain(text) => name.push_str(text),
            Piece::Percent => name.push('%'),
            Piece::Space => name.push(' '),
            Piece::EscapedSpace => name.push_str("%20"),
            Piece::Macro(expansion) => name.push_str(&expansion.value(ip, domain, sender)),
        }
    }
    let mut name = name.trim_end_matches('.').to_ascii_lowercase();
    // Section 7.3: labels go from the left until the name fits.
    while name.len() > DOMAIN_BYTES_MAX {
        let (_, rest) = name.split_once('.')?;
        name = rest.to_owned();
    }
    Some(name)
}

/// The name of an address's PTR record.
pub(super) fn reverse_name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(_) => {
            let nibbles: Vec<_> = nibbles(ip).chars().filter(|c| *c != '.').collect();
            let mut name = String::new();
            for nibble in nibbles.into_iter().rev() {
                let _ = write!(name, "{nibble}.");
            }
            name + "ip6.arpa"
        }
    }
}

enum Piece<'a> {
    Plain(&'a str),
    Percent,
    Space,
    EscapedSpace,
    Macro(Expansion<'a>),
}

struct Expansion<'a> {
    letter: char,
    escaped: bool,
    /// The right-hand parts to keep; 0: all.
    parts: usize,
    reversed: bool,
    delimiters: &'a str,
}

fn pieces(text: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        pieces.push(Piece::Plain(&rest[..at]));
        let after = &rest[at + 1..];
        let length = match after.as_bytes().first()? {
            b'%' => {
                pieces.push(Piece::Percent);
                1
            }
            b'_' => {
                pieces.push(Piece::Space);
                1
            }
            b'-' => {
                pieces.push(Piece::EscapedSpace);
                1
            }
            b'{' => {
                let end = after.find('}')?;
                pieces.push(Piece::Macro(expansion(&after[1..end])?));
                end + 1
            }
            _ => return None,
        };
        rest = &after[length..];
    }
    pieces.push(Piece::Plain(rest));
    Some(pieces)
}

fn expansion(text: &str) -> Option<Expansion<'_>> {
    let first = text.chars().next().filter(char::is_ascii)?;
    let letter = first.to_ascii_lowercase();
    if !"slodiphv".contains(letter) {
        return None;
    }
    let rest = &text[1..];
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let parts = match &rest[..digits] {
        "" => 0,
        // More parts than a name can have are all of them.
        digits => digits.parse::<usize>().unwrap_or(usize::MAX).min(128),
    };
    if digits > 0 && parts == 0 {
        return None;
    }
    let rest = &rest[digits..];
    let reversed = rest.starts_with(['r', 'R']);
    let delimiters = if reversed { &rest[1..] } else { rest };
    let known = delimiters.bytes().all(|byte| b".-+,/_=".contains(&byte));
    known.then_some(Expansion { letter, escaped: first.is_ascii_uppercase(), parts, reversed, delimiters })
}

impl Expansion<'_> {
    fn value(&self, ip: IpAddr, domain: &str, sender: &str) -> String {
        let (local, sender_domain) = sender.rsplit_once('@').unwrap_or(("postmaster", sender));
        let text = match self.letter {
            's' => sender.to_owned(),
            'l' => local.to_owned(),
            'o' | 'h' => sender_domain.to_owned(),
            'd' => domain.to_owned(),
            'i' if ip.is_ipv4() => ip.to_string(),
            'i' => nibbles(ip),
            'v' if ip.is_ipv4() => "in-addr".to_owned(),
            'v' => "ip6".to_owned(),
            _ => "unknown".to_owned(),
        };
        let delimiters = if self.delimiters.is_empty() { "." } else { self.delimiters };
        let mut parts: Vec<&str> = text.split(|c| delimiters.contains(c)).collect();
        if self.reversed {
            parts.reverse();
        }
        let skipped = if self.parts == 0 { 0 } else { parts.len().saturating_sub(self.parts) };
        let value = parts[skipped..].join(".");
        if self.escaped { escape(&value) } else { value }
    }
}

/// URL escaping (RFC 3986 section 2.3).
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// An address of IPv6 as 32 nibbles with dots between them.
fn nibbles(ip: IpAddr) -> String {
    let IpAddr::V6(v6) = ip else { return ip.to_string() };
    let digits = format!("{:032x}", v6.to_bits());
    let nibbles: Vec<String> = digits.chars().map(String::from).collect();
    nibbles.join(".")
}

/// Section 7.1 `toplabel`: letters, digits and inner hyphens, not digits alone.
fn ends_as_top_label(label: &str) -> bool {
    let signs = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let word = label.bytes().any(|byte| byte.is_ascii_alphabetic() || byte == b'-');
    !label.is_empty() && signs && word && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_expand_as_it_says() {
        // Section 7.4.
        let v4 = "192.0.2.3".parse().unwrap();
        let v6 = "2001:db8::cb01".parse().unwrap();
        let (domain, sender) = ("email.example.com", "strong-bad@email.example.com");
        let cases = [
            ("%{s}", v4, "strong-bad@email.example.com"),
            ("%{o}", v4, "email.example.com"),
            ("%{d4}", v4, "email.example.com"),
            ("%{d2}", v4, "example.com"),
            ("%{d1}", v4, "com"),
            ("%{dr}", v4, "com.example.email"),
            ("%{d2r}", v4, "example.email"),
            ("%{l-}", v4, "strong.bad"),
            ("%{lr-}", v4, "bad.strong"),
            ("%{l1r-}", v4, "strong"),
            ("%{ir}.%{v}._spf.%{d2}", v4, "3.2.0.192.in-addr._spf.example.com"),
            ("%{lr-}.lp._spf.%{d2}", v4, "bad.strong.lp._spf.example.com"),
            ("%{d2}.trusted-domains.example.net", v4, "example.com.trusted-domains.example.net"),
            (
                "%{ir}.%{v}._spf.%{d2}",
                v6,
                "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com",
            ),
        ];
        for (text, ip, expected) in cases {
            assert_eq!(expand(text, ip, domain, sender).as_deref(), Some(expected), "{text}");
        }
        for text in ["%{c}.example", "%{d0}.example", "%{d", "%x.example", "%{}", "%"] {
            assert_eq!(expand(text, v4, domain, sender), None, "{text}");
        }
    }

    #[test]
    fn a_long_name_loses_labels_from_the_left() {
        let ip = "192.0.2.3".parse().unwrap();
        let domain = format!("{}.example", ["a123456789"; 22].join("."));
        let name = expand("%{d}.%{d}", ip, &domain, "a@b.example").unwrap();
        assert!(name.len() <= DOMAIN_BYTES_MAX && name.ends_with("a123456789.example"), "{name}");
    }
}
