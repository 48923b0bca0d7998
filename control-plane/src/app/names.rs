//! The forms of names that configuration uses.

use std::collections::BTreeSet;

use postrail_schema::address::{self, content, normal_address};
use postrail_schema::allocation::{HostName, is_interface};
use postrail_schema::limits::{DOMAIN_BYTES_MAX, LOCAL_PART_BYTES_MAX, SITE_NAME_BYTES_MAX, TIME_MS_MAX};

use super::AppError;

/// A slug, `[a-z0-9-]{1,63}` without a hyphen at either end.
pub(crate) fn slug(pointer: &'static str, text: &str) -> Result<String, AppError> {
    let signs = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if (1..=63).contains(&text.len()) && signs && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(text.to_owned());
    }
    Err(AppError::invalid(pointer, "a name has 1 to 63 of a-z, 0-9 and -, and no - at its ends"))
}

/// A username, `[a-z0-9._-]{1,63}`, and not `.` or `..`, which in the path of a URL are steps and no name.
pub(crate) fn username(pointer: &'static str, text: &str) -> Result<String, AppError> {
    let signs = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if (1..=63).contains(&text.len()) && text.bytes().all(signs) && !matches!(text, "." | "..") {
        return Ok(text.to_owned());
    }
    let detail = "a username has 1 to 63 of a-z, 0-9, dot, underscore and hyphen, and is neither . nor ..";
    Err(AppError::invalid(pointer, detail))
}

/// The name of a host of the fleet.
pub(crate) fn host(pointer: &'static str, text: &str) -> Result<HostName, AppError> {
    HostName::new(text).map_err(|invalid| AppError::invalid(pointer, invalid.to_string()))
}

/// The name of a network interface, as the kernel takes one.
pub(crate) fn interface(pointer: &'static str, text: &str) -> Result<String, AppError> {
    if is_interface(text) {
        return Ok(text.to_owned());
    }
    Err(AppError::invalid(pointer, "an interface's name has 1 to 15 characters, and no space, slash or colon"))
}

/// A domain name as lower-case A-labels, with at least one dot unless `single` labels are allowed.
pub(crate) fn domain(pointer: &'static str, text: &str, single: bool) -> Result<String, AppError> {
    let invalid = |detail: &str| AppError::invalid(pointer, detail);
    let trimmed = text.strip_suffix('.').unwrap_or(text);
    if trimmed.len() > DOMAIN_BYTES_MAX {
        return Err(invalid("the domain name is too long"));
    }
    let name = idna::domain_to_ascii_strict(trimmed).map_err(|_| invalid("this is not a domain name"))?;
    let number = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if name.is_empty() || name.len() > DOMAIN_BYTES_MAX || number {
        return Err(invalid("this is not a domain name"));
    }
    if !single && !name.contains('.') {
        return Err(invalid("the domain name needs at least two labels"));
    }
    Ok(name)
}

/// The name of a site, or any recipient domain: MX hosts in order, or as `postrail queue` shows what has many, the first with
/// how many more there are.
pub(crate) fn site(pointer: &'static str, text: &str) -> Result<String, AppError> {
    if let Some((first, rest)) = text.split_once('+') {
        let (more, hash) = rest.split_once('-').unwrap_or_default();
        let is_short =
            more.parse::<u16>().is_ok() && hash.len() == 20 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        return if is_short {
            Ok(format!("{}+{more}-{}", domain(pointer, first, true)?, hash.to_ascii_lowercase()))
        } else {
            Err(AppError::invalid(pointer, "this is no name of a site: take it from postrail queue"))
        };
    }
    let mut hosts = text.split(',').map(|host| domain(pointer, host.trim(), true)).collect::<Result<Vec<_>, _>>()?;
    hosts.sort_unstable();
    hosts.dedup();
    let name = hosts.join(",");
    if name.len() > DOMAIN_BYTES_MAX.max(SITE_NAME_BYTES_MAX) {
        return Err(AppError::invalid(
            pointer,
            "a site of that many hosts has a short name: take it from postrail queue",
        ));
    }
    Ok(name)
}

/// The key of a suppression of the address, and those that earlier versions may have given it.
pub(crate) fn address_forms(pointer: &'static str, text: &str) -> Result<(String, BTreeSet<String>), AppError> {
    let given = address_as_given(pointer, text)?;
    let normal = normal_address(&given).into_owned();
    let quoted = normal.rsplit_once('@').filter(|(local, _)| !local.starts_with('"'));
    let quoted = quoted.map(|(local, domain)| format!("\"{local}\"@{domain}"));
    let others = [Some(given), quoted].into_iter().flatten().filter(|form| *form != normal).collect();
    Ok((normal, others))
}

/// An address as it is written, but for its case and the domain's form.
fn address_as_given(pointer: &'static str, text: &str) -> Result<String, AppError> {
    let invalid = || AppError::invalid(pointer, "this is not an address of the form local@domain");
    let (local, host) = text.trim().rsplit_once('@').ok_or_else(invalid)?;
    let is_long = content(local).len() > LOCAL_PART_BYTES_MAX;
    if local.is_empty() || is_long || local.chars().any(char::is_control) {
        return Err(invalid());
    }
    let host = address::domain(host.strip_suffix('.').unwrap_or(host));
    let host = host.map_err(|error| AppError::invalid(pointer, error.to_string()))?;
    Ok(format!("{}@{host}", local.to_lowercase()))
}

/// Whether mail can be sent to an address: another text would be suppressed for nobody.
pub(crate) fn check_address(pointer: &'static str, text: &str) -> Result<(), AppError> {
    let (local, _) = text.trim().rsplit_once('@').unwrap_or((text, ""));
    address::check_local_part(local)
        .map_err(|error| AppError::invalid(pointer, format!("{error}: write the address alone, as local-part@domain")))
}

/// A free text of up to 200 characters on one line.
pub(crate) fn reason(pointer: &'static str, text: &str) -> Result<String, AppError> {
    if text.chars().count() > 200 || text.chars().any(char::is_control) {
        return Err(AppError::invalid(pointer, "a reason has at most 200 characters and no control characters"));
    }
    Ok(text.trim().to_owned())
}

/// A time in milliseconds since 1970 that a person may tell.
pub(crate) fn time(pointer: &'static str, ms: u64) -> Result<u64, AppError> {
    if ms > TIME_MS_MAX {
        return Err(AppError::invalid(pointer, format!("a time is 0 to {TIME_MS_MAX} milliseconds since 1970")));
    }
    Ok(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_ends_with_the_year_9999() {
        assert!(time("", 0).is_ok() && time("", TIME_MS_MAX).is_ok());
        assert!([TIME_MS_MAX + 1, u64::MAX].into_iter().all(|ms| time("", ms).is_err()));
    }

    #[test]
    fn names_are_brought_to_one_form_or_refused() {
        let domains = [
            ("Example.COM.", Some("example.com")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("localhost", None),
            ("10.0.0.1", None),
            ("a..b", None),
            ("a b.example", None),
            ("-a.example", None),
            ("", None),
        ];
        for (text, wanted) in domains {
            assert_eq!(domain("", text, false).ok().as_deref(), wanted, "{text}");
        }
        let short = "mx.a.example+7-0123456789abcdef0123";
        let sites = [
            ("MX2.a.example., mx1.a.example,mx2.a.example", Some("mx1.a.example,mx2.a.example")),
            ("Bücher.example", Some("xn--bcher-kva.example")),
            (short, Some(short)),
            ("mx.a.example+7", None),
            ("mx.a.example+x-0123456789abcdef0123", None),
            ("mx1.a.example,,", None),
            ("", None),
        ];
        for (text, wanted) in sites {
            assert_eq!(site("", text).ok().as_deref(), wanted, "{text}");
        }
        assert!(site("", &"mx.a-long-name-of-a-host.example,mx.b-long-name-of-a-host.example,".repeat(9)).is_err());
        let addresses = [
            ("Some.One@Example.com", Some("some.one@example.com")),
            ("\"Gone\"@example.com", Some("gone@example.com")),
            ("\"g\\one\"@example.com", Some("gone@example.com")),
            ("a@b@example.com", Some("\"a@b\"@example.com")),
            ("@example.com", None),
            ("a", None),
            ("a@", None),
        ];
        for (text, wanted) in addresses {
            assert_eq!(address_forms("", text).ok().map(|(normal, _)| normal).as_deref(), wanted, "{text}");
        }
        let longest = format!("{}@example.com", "\"".repeat(LOCAL_PART_BYTES_MAX));
        let (normal, _) = address_forms("", &longest).unwrap();
        assert_eq!(address_forms("", &normal).unwrap().0, normal, "who reads the normal form can say it");
        let (normal, others) = address_forms("", "\"G\\one\"@example.com").unwrap();
        assert_eq!(normal, "gone@example.com");
        assert!(others.iter().eq(["\"g\\one\"@example.com", "\"gone\"@example.com"]), "{others:?}");
        for (text, wanted) in [("default", true), ("a-1", true), ("-a", false), ("A", false), ("", false)] {
            assert_eq!(slug("", text).is_ok(), wanted, "{text}");
        }
        for (text, wanted) in [("a.b", true), (".a", true), ("...", true), (".", false), ("..", false), ("A", false)] {
            assert_eq!(username("", text).is_ok(), wanted, "{text}");
        }
    }
}
