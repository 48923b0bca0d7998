//! An SPF record's text to its terms (RFC 7208 sections 4.6 and 12).
//!
//! The whole record is read before a term is used, since an error anywhere makes it an error. Unknown modifiers are
//! allowed and ignored; unknown mechanisms are errors.

use std::net::IpAddr;

use super::macros;

/// A record, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SpfRecord {
    pub directives: Vec<Directive>,
    /// Used only where no directive matches, and never beside `all`.
    pub redirect: Option<String>,
}

/// A mechanism with its qualifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Directive {
    pub qualifier: Qualifier,
    pub mechanism: Mechanism,
    /// As it is written.
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Qualifier {
    Pass,
    Fail,
    SoftFail,
    Neutral,
}

/// Targets are as written, with their macros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mechanism {
    All,
    Include(String),
    A { target: Option<String>, range: Range },
    Mx { target: Option<String>, range: Range },
    Ptr(Option<String>),
    Ip(Network),
    Exists(String),
}

/// How many leading bits of a host's address count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    v4: u32,
    v6: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u32,
}

impl SpfRecord {
    /// # Errors
    /// The first term that is not of the form.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut record = Self { directives: Vec::new(), redirect: None };
        let mut modifiers = Vec::new();
        for term in text.split(' ').skip(1).filter(|term| !term.is_empty()) {
            let wrong = || term.to_owned();
            if let Some((name, value)) = modifier(term) {
                let name = name.to_ascii_lowercase();
                if ["redirect", "exp"].contains(&name.as_str()) && modifiers.contains(&name) {
                    return Err(wrong());
                }
                if name == "redirect" {
                    record.redirect = Some(target(value).ok_or_else(wrong)?);
                }
                modifiers.push(name);
            } else {
                record.directives.push(directive(term).ok_or_else(wrong)?);
            }
        }
        if record.directives.iter().any(|directive| directive.mechanism == Mechanism::All) {
            record.redirect = None;
        }
        Ok(record)
    }
}

/// `name=value`, where no `:` or `/` stands before the `=`.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic());
    let form = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (starts && form).then_some((name, value))
}

fn directive(term: &str) -> Option<Directive> {
    let (qualifier, rest) = match term.as_bytes().first()? {
        b'+' => (Qualifier::Pass, &term[1..]),
        b'-' => (Qualifier::Fail, &term[1..]),
        b'~' => (Qualifier::SoftFail, &term[1..]),
        b'?' => (Qualifier::Neutral, &term[1..]),
        _ => (Qualifier::Pass, term),
    };
    let at = rest.find([':', '/']).unwrap_or(rest.len());
    let (name, argument) = rest.split_at(at);
    let mechanism = match name.to_ascii_lowercase().as_str() {
        "all" if argument.is_empty() => Mechanism::All,
        "include" => Mechanism::Include(target(argument.strip_prefix(':')?)?),
        "exists" => Mechanism::Exists(target(argument.strip_prefix(':')?)?),
        "ptr" if argument.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(target(argument.strip_prefix(':')?)?)),
        "a" => hosts(argument).map(|(target, range)| Mechanism::A { target, range })?,
        "mx" => hosts(argument).map(|(target, range)| Mechanism::Mx { target, range })?,
        "ip4" => Mechanism::Ip(network(argument.strip_prefix(':')?, true)?),
        "ip6" => Mechanism::Ip(network(argument.strip_prefix(':')?, false)?),
        _ => return None,
    };
    Some(Directive { qualifier, mechanism, text: term.to_owned() })
}

fn target(text: &str) -> Option<String> {
    macros::is_domain_spec(text).then(|| text.to_owned())
}

/// `[":" domain-spec] ["/" bits] ["//" bits]`.
fn hosts(argument: &str) -> Option<(Option<String>, Range)> {
    // A macro may hold a slash as its delimiter.
    let after_macros = argument.rfind('}').map_or(0, |at| at + 1);
    let slash = argument[after_macros..].find('/').map_or(argument.len(), |at| at + after_macros);
    let (named, ranges) = argument.split_at(slash);
    let named = match named {
        "" => None,
        named => Some(target(named.strip_prefix(':')?)?),
    };
    let (v4, v6) = match ranges.split_once("//") {
        Some((v4, v6)) => (v4, Some(v6)),
        None => (ranges, None),
    };
    let v4 = if v4.is_empty() { 32 } else { bits(v4.strip_prefix('/')?, 32)? };
    let v6 = v6.map_or(Some(128), |text| bits(text, 128))?;
    Some((named, Range { v4, v6 }))
}

fn network(text: &str, v4: bool) -> Option<Network> {
    let bits_max = if v4 { 32 } else { 128 };
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, bits(length, bits_max)?),
        None => (text, bits_max),
    };
    let address: IpAddr = if v4 { IpAddr::V4(address.parse().ok()?) } else { IpAddr::V6(address.parse().ok()?) };
    Some(Network { address, bits: length })
}

fn bits(text: &str, max: u32) -> Option<u32> {
    let plain = text == "0" || !text.starts_with('0');
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|bits| plain && digits && *bits <= max)
}

impl Range {
    /// Whether `ip` is within this range around a host's address.
    pub(crate) fn covers(self, host: IpAddr, ip: IpAddr) -> bool {
        Network { address: host, bits: if host.is_ipv4() { self.v4 } else { self.v6 } }.holds(ip)
    }
}

impl Network {
    pub(crate) fn holds(self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                network.to_bits() & mask == ip.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                network.to_bits() & mask == ip.to_bits() & mask
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_of_terms_are_read_and_others_refused() {
        let read = [
            "v=spf1",
            "v=spf1 -all",
            "v=spf1  a mx ptr  ~all ",
            "v=spf1 A:Host.example/24//64 MX//0 ?all",
            "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 +all",
            "v=spf1 exists:%{ir}.%{v}._spf.%{d2} include:_spf.example redirect=x.example unknown=%{d}",
            "v=spf1 a:%{d/}.example/8",
        ];
        for text in read {
            assert!(SpfRecord::parse(text).is_ok(), "{text}");
        }
        let wrong = [
            ("v=spf1 ip4:192.0.2.300", "ip4:192.0.2.300"),
            ("v=spf1 ip4:192.0.2.0/33", "ip4:192.0.2.0/33"),
            ("v=spf1 ip4:192.0.2.0/024", "ip4:192.0.2.0/024"),
            ("v=spf1 ip4:2001:db8::1", "ip4:2001:db8::1"),
            ("v=spf1 include -all", "include"),
            ("v=spf1 -all:x", "-all:x"),
            ("v=spf1 ipv4:192.0.2.1", "ipv4:192.0.2.1"),
            ("v=spf1 a:%{x}.example", "a:%{x}.example"),
            ("v=spf1 redirect=a.example redirect=b.example", "redirect=b.example"),
            ("v=spf1 include:a.example, -all", "include:a.example,"),
        ];
        for (text, term) in wrong {
            assert_eq!(SpfRecord::parse(text), Err(term.to_owned()), "{text}");
        }
    }

    #[test]
    fn networks_hold_what_shares_their_bits() {
        let holds =
            |term: &str, ip: &str| match SpfRecord::parse(&format!("v=spf1 {term}")).unwrap().directives[0].mechanism {
                Mechanism::Ip(network) => network.holds(ip.parse().unwrap()),
                _ => panic!("a network"),
            };
        assert!(holds("ip4:192.0.2.128/25", "192.0.2.129") && !holds("ip4:192.0.2.128/25", "192.0.2.1"));
        assert!(holds("ip4:0.0.0.0/0", "255.1.1.1") && !holds("ip4:0.0.0.0/0", "::1"));
        assert!(holds("ip6:2001:db8::/127", "2001:db8::1") && !holds("ip6:2001:db8::/128", "2001:db8::1"));
    }

    proptest! {
        #[test]
        fn no_record_panics(text in "\\PC{0,80}", terms in "(v=spf1)?( [-~?+]?(a|mx|ip4|ip6|include|exists|ptr)[:/%{}a-z0-9.=]{0,12}){0,6}") {
            let _ = SpfRecord::parse(&text);
            let _ = SpfRecord::parse(&terms);
        }
    }
}
