//! The records that a sending domain publishes, ready to paste.
//!
//! Names and texts follow from the domain and the installation alone, so that they can be shown before anything is asked.

use std::net::IpAddr;

use postrail_schema::snapshot::{KeyAlgorithm, KeyStage};
use postrail_schema::standing::OWNERSHIP_LABEL;
use serde::{Deserialize, Serialize};

use super::Purpose;

/// A domain, and what of the installation its records name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Subject {
    /// Lower-case A-labels.
    pub name: String,
    /// What shows whose the domain is, see [`super::token`].
    pub token: String,
    /// In signing order.
    pub keys: Vec<SubjectKey>,
    /// The addresses that its mail leaves by, where they are fixed.
    pub addresses: Vec<IpAddr>,
    /// The installation's host name; it stands for sources without an address of their own.
    pub hostname: String,
    /// Whether a source has no address of its own.
    pub unbound: bool,
    /// A name whose SPF record lists all sources of the installation, to be included instead of them.
    pub spf_include: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SubjectKey {
    pub selector: String,
    pub algorithm: KeyAlgorithm,
    /// Base64, as in `p=`.
    pub public_key: String,
    pub stage: KeyStage,
}

/// What is to become of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// It has to be there.
    Publish,
    /// Nothing new needs it, and it has to stay for what is on its way.
    Keep,
    /// It may be removed.
    Remove,
}

/// A record to publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsRecord {
    pub purpose: Purpose,
    /// Absolute, without the final dot.
    pub name: String,
    /// `TXT`, `MX` or `CNAME`.
    pub kind: &'static str,
    /// The text as a whole.
    pub value: String,
    /// The value as a zone file wants it: texts as quoted strings of at most 255 octets, names with their final dot.
    pub zone_value: String,
    /// Whether the domain needs it to send, where DNS decides that.
    pub required: bool,
    pub duty: Duty,
    /// Of one to keep: until when, Unix milliseconds.
    pub until_ms: Option<u64>,
}

/// What to publish for `subject`: whose it is, SPF for its sources (RFC 7208), each DKIM key (RFC 6376 section 3.6.1, RFC 8463), a
/// DMARC policy that only observes (RFC 7489), and the hosts for returned mail and for tracked links.
pub(crate) fn records(subject: &Subject) -> Vec<DnsRecord> {
    let name = &subject.name;
    let mut records = vec![
        txt(Purpose::Ownership, format!("{OWNERSHIP_LABEL}.{name}"), format!("{OWNERSHIP_PREFIX}{}", subject.token)),
        txt(Purpose::Spf, name.clone(), format!("v=spf1 {} ~all", spf_terms(subject).join(" "))),
    ];
    for key in &subject.keys {
        let algorithm = algorithm_name(key.algorithm);
        let value = format!("v=DKIM1; k={algorithm}; p={}", key.public_key);
        let record = txt(Purpose::Dkim, format!("{}._domainkey.{name}", key.selector), value);
        let (duty, until_ms) = match key.stage {
            KeyStage::Waiting | KeyStage::Signing => (Duty::Publish, None),
            KeyStage::Former { until_ms } => (Duty::Keep, Some(until_ms)),
            KeyStage::Retired => (Duty::Remove, None),
        };
        records.push(DnsRecord { required: duty == Duty::Publish, duty, until_ms, ..record });
    }
    records.push(txt(Purpose::Dmarc, format!("_dmarc.{name}"), "v=DMARC1; p=none".to_owned()));
    let host = &subject.hostname;
    records.push(DnsRecord {
        purpose: Purpose::ReturnPath,
        name: format!("{RETURN_PATH_LABEL}.{name}"),
        kind: "MX",
        value: format!("10 {host}"),
        zone_value: format!("10 {host}."),
        required: false,
        duty: Duty::Publish,
        until_ms: None,
    });
    records.push(DnsRecord {
        purpose: Purpose::Tracking,
        name: format!("{TRACKING_LABEL}.{name}"),
        kind: "CNAME",
        value: host.clone(),
        zone_value: format!("{host}."),
        required: false,
        duty: Duty::Publish,
        until_ms: None,
    });
    records
}

/// The terms of SPF that let the domain's sources send.
pub(super) fn spf_terms(subject: &Subject) -> Vec<String> {
    if let Some(include) = &subject.spf_include {
        return vec![format!("include:{include}")];
    }
    let mut terms: Vec<String> = subject
        .addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => format!("ip4:{address}"),
            IpAddr::V6(address) => format!("ip6:{address}"),
        })
        .collect();
    if subject.unbound || terms.is_empty() {
        terms.push(format!("a:{}", subject.hostname));
    }
    terms.sort();
    terms.dedup();
    terms
}

/// The `k=` of a key record.
pub(super) const fn algorithm_name(algorithm: KeyAlgorithm) -> &'static str {
    match algorithm {
        KeyAlgorithm::RsaSha256 => "rsa",
        KeyAlgorithm::Ed25519Sha256 => "ed25519",
    }
}

fn txt(purpose: Purpose, name: String, value: String) -> DnsRecord {
    let strings: Vec<_> = value
        .as_bytes()
        .chunks(TXT_STRING_BYTES_MAX)
        .map(|chunk| format!("\"{}\"", String::from_utf8_lossy(chunk)))
        .collect();
    let (zone_value, kind, duty) = (strings.join(" "), "TXT", Duty::Publish);
    DnsRecord { purpose, name, kind, zone_value, value, required: true, duty, until_ms: None }
}

/// What stands before the token in the ownership record.
pub(super) const OWNERSHIP_PREFIX: &str = "postrail-verification=";
const RETURN_PATH_LABEL: &str = "bounce";
const TRACKING_LABEL: &str = "click";
/// RFC 1035 section 3.3: one character-string.
const TXT_STRING_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_without_an_address_are_the_host_and_an_include_stands_for_all() {
        let mut subject = Subject {
            name: "a.example".into(),
            token: "t".into(),
            keys: Vec::new(),
            addresses: vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
            hostname: "mail.example".into(),
            unbound: true,
            spf_include: None,
        };
        assert_eq!(spf_terms(&subject), ["a:mail.example", "ip4:192.0.2.1", "ip6:2001:db8::1"]);
        subject.spf_include = Some("_spf.example".into());
        assert_eq!(spf_terms(&subject), ["include:_spf.example"]);
        let purposes: Vec<_> = records(&subject).iter().map(|record| (record.purpose, record.required)).collect();
        let (needed, wished) = (true, false);
        let expected = [
            (Purpose::Ownership, needed),
            (Purpose::Spf, needed),
            (Purpose::Dmarc, needed),
            (Purpose::ReturnPath, wished),
            (Purpose::Tracking, wished),
        ];
        assert_eq!(purposes, expected);
    }

    #[test]
    fn a_long_text_is_split_into_strings_of_255_octets() {
        let record = txt(Purpose::Dkim, "a".into(), "x".repeat(256));
        assert_eq!(record.zone_value, format!("\"{}\" \"x\"", "x".repeat(255)));
    }
}
