//! Listeners: where hosts take submissions, how, and from whom.
//!
//! A host listens on what desired state says for it and on nothing else; its own options hold while that says nothing for it
//! (`docs/decisions`). Invariants worth naming: a listener that holds by [`Listener::fault`] can be opened by a host that has
//! its address and its certificate; no private key is in it. Absent here: opening (the data plane's `intake`).

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::access::Network;
use crate::allocation::HostName;
use crate::ids::RegionId;
use crate::limits::{
    HTTP_IDLE, INTAKE_IDLE, LISTENER_CONNECTIONS_MAX, LISTENER_IDLE_S_MAX, LISTENER_IDLE_S_MIN,
    LISTENER_MESSAGE_BYTES_MIN, MESSAGE_BYTES_MAX, REST_BODY_BYTES_MAX,
};
use crate::tls::TlsVersion;

/// A port that accepts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Unique slug.
    pub name: String,
    pub protocol: ListenerProtocol,
    pub address: SocketAddr,
    /// Which hosts have it; empty: all of its region, or of the fleet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionId>,
    pub tls: ListenerTls,
    /// What is older is refused.
    #[serde(default)]
    pub minimum_version: TlsVersion,
    /// Files of the host by this name; `None`: the host's own certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Where clients may come from; empty: anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    #[serde(default)]
    pub limits: ListenerLimits,
}

/// What a listener speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    /// SMTP submission.
    Smtp,
    /// SMTP submission by implicit TLS (RFC 8314).
    Smtps,
    /// REST submission.
    Rest,
}

/// Whether clients encrypt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerTls {
    /// It is not spoken, and secrets come in clear.
    Off,
    /// Clients that are not at loopback authenticate under TLS alone.
    Offered,
    /// Nothing is taken without it.
    Required,
}

/// What a listener bounds, on one host; what is absent is as the product has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerLimits {
    pub connections: Option<u32>,
    pub connections_per_client: Option<u32>,
    pub message_bytes_max: Option<u32>,
    pub idle_s: Option<u32>,
}

impl ListenerProtocol {
    pub const ALL: [Self; 3] = [Self::Smtp, Self::Smtps, Self::Rest];

    /// As the API and the options of `up` write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Smtps => "smtps",
            Self::Rest => "rest",
        }
    }

    /// In sentences.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Smtp => "SMTP",
            Self::Smtps => "SMTPS",
            Self::Rest => "REST",
        }
    }

    /// What holds if nobody says.
    pub const fn default_tls(self) -> ListenerTls {
        match self {
            Self::Smtp | Self::Rest => ListenerTls::Offered,
            Self::Smtps => ListenerTls::Required,
        }
    }
}

impl ListenerTls {
    pub const ALL: [Self; 3] = [Self::Off, Self::Offered, Self::Required];
}

impl ListenerLimits {
    /// Octets of a message that is finished.
    pub fn message_bytes(&self) -> usize {
        self.message_bytes_max.map_or(MESSAGE_BYTES_MAX, |octets| octets as usize)
    }

    /// Octets of a REST body: as much larger than its message as it may be by default.
    pub fn body_bytes(&self) -> usize {
        self.message_bytes() / 5 * (REST_BODY_BYTES_MAX / (MESSAGE_BYTES_MAX / 5))
    }

    /// How long a client may say nothing.
    pub fn idle(&self, protocol: ListenerProtocol) -> Duration {
        let usual = if protocol == ListenerProtocol::Rest { HTTP_IDLE } else { INTAKE_IDLE };
        self.idle_s.map_or(usual, |seconds| Duration::from_secs(seconds.into()))
    }
}

impl Listener {
    /// One as options of a host say it.
    pub fn of_options(protocol: ListenerProtocol, address: SocketAddr) -> Self {
        Self {
            name: String::new(),
            protocol,
            address,
            hosts: Vec::new(),
            region: None,
            tls: protocol.default_tls(),
            minimum_version: TlsVersion::default(),
            certificate: None,
            networks: Vec::new(),
            limits: ListenerLimits::default(),
        }
    }

    /// Whether the host of that name, in a region of that id, is to have it.
    pub fn is_for(&self, host: &str, region: Option<RegionId>) -> bool {
        let is_here = self.region.is_none() || self.region == region;
        is_here && (self.hosts.is_empty() || self.hosts.iter().any(|named| named.as_str() == host))
    }

    /// Whether both could not be on one host: the kernel gives an address with its port once.
    pub fn clashes(&self, other: &Self) -> bool {
        let (one, two) = (self.address, other.address);
        let is_same_ip = one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified();
        one.port() == two.port() && one.is_ipv4() == two.is_ipv4() && is_same_ip
    }

    /// Whether secrets may come in clear over a network.
    pub fn takes_secrets_in_clear(&self) -> bool {
        self.tls == ListenerTls::Off && !self.address.ip().is_loopback()
    }

    /// Whether both may differ, and clients that are connected need not notice.
    pub fn is_alike(&self, other: &Self) -> bool {
        let limits = other.limits;
        let (name, hosts, region) = (other.name.clone(), other.hosts.clone(), other.region);
        Self { name, hosts, region, limits, ..self.clone() } == *other
    }

    /// What is wrong with it by itself: the field, and what to do.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if self.address.port() == 0 {
            return Some(("/address", "a port is 1 to 65535".to_owned()));
        }
        if self.address.ip().is_multicast() {
            return Some(("/address", "nobody connects to a multicast address".to_owned()));
        }
        if self.protocol == ListenerProtocol::Smtps && self.tls != ListenerTls::Required {
            let detail = "smtps begins with TLS, so it is required; for STARTTLS take smtp";
            return Some(("/tls", detail.to_owned()));
        }
        if self.tls == ListenerTls::Off && (self.certificate.is_some() || !self.minimum_version.is_default()) {
            let detail = "without TLS a certificate and a version mean nothing: leave them out, or offer TLS";
            return Some(("/tls", detail.to_owned()));
        }
        let ListenerLimits { connections, connections_per_client, message_bytes_max, idle_s } = self.limits;
        let bounds = [
            ("/connections", connections, 1, LISTENER_CONNECTIONS_MAX),
            ("/connections_per_client", connections_per_client, 1, LISTENER_CONNECTIONS_MAX),
            ("/message_bytes_max", message_bytes_max, LISTENER_MESSAGE_BYTES_MIN, MESSAGE_BYTES_MAX as u32),
            ("/idle_s", idle_s, LISTENER_IDLE_S_MIN, LISTENER_IDLE_S_MAX),
        ];
        let outside = |least, most| move |value: u32| !(least..=most).contains(&value);
        let found = bounds.into_iter().find(|(_, value, least, most)| value.is_some_and(outside(*least, *most)));
        found.map(|(field, _, least, most)| (field, format!("it is {least} to {most}")))
    }
}

/// Whether a certificate may be called so: its files are in one folder, by that name.
pub fn is_certificate_name(name: &str) -> bool {
    HostName::new(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(protocol: ListenerProtocol, address: &str) -> Listener {
        Listener::of_options(protocol, address.parse().unwrap())
    }

    #[test]
    fn a_listener_that_cannot_be_says_why() {
        let smtp = || listener(ListenerProtocol::Smtp, "0.0.0.0:587");
        let limits = ListenerLimits { idle_s: Some(1), ..ListenerLimits::default() };
        assert_eq!(smtp().fault(), None);
        let cases = [
            (listener(ListenerProtocol::Smtp, "0.0.0.0:0"), "/address"),
            (listener(ListenerProtocol::Smtp, "224.0.0.1:25"), "/address"),
            (Listener { tls: ListenerTls::Offered, ..listener(ListenerProtocol::Smtps, "[::]:465") }, "/tls"),
            (Listener { tls: ListenerTls::Off, minimum_version: TlsVersion::V1_3, ..smtp() }, "/tls"),
            (Listener { limits, ..smtp() }, "/idle_s"),
        ];
        for (listener, field) in cases {
            assert_eq!(listener.fault().map(|(field, _)| field), Some(field), "{listener:?}");
        }
    }

    #[test]
    fn an_address_and_its_port_are_given_once_and_families_are_apart() {
        let clash = |one: &str, two: &str| {
            let smtp = |address: &str| listener(ListenerProtocol::Smtp, address);
            smtp(one).clashes(&smtp(two)) && smtp(two).clashes(&smtp(one))
        };
        assert!(clash("192.0.2.1:25", "192.0.2.1:25") && clash("0.0.0.0:25", "192.0.2.1:25"));
        assert!(!clash("192.0.2.1:25", "192.0.2.2:25") && !clash("192.0.2.1:25", "192.0.2.1:26"));
        assert!(!clash("[::]:25", "192.0.2.1:25"));
    }

    #[test]
    fn hosts_are_named_by_name_by_region_or_by_both() {
        let smtp = listener(ListenerProtocol::Smtp, "0.0.0.0:587");
        let region = Some(RegionId(1));
        let named = Listener { hosts: vec![HostName::new("mx1").unwrap()], ..smtp.clone() };
        let regional = Listener { region, ..smtp.clone() };
        let both = Listener { region, ..named.clone() };
        assert!(smtp.is_for("mx1", None) && smtp.is_for("mx2", region));
        assert!(named.is_for("mx1", None) && !named.is_for("mx2", None));
        assert!(regional.is_for("mx2", region) && !regional.is_for("mx2", None));
        assert!(both.is_for("mx1", region) && !both.is_for("mx1", None) && !both.is_for("mx2", region));
    }

    #[test]
    fn a_body_is_bounded_with_its_message() {
        assert_eq!(ListenerLimits::default().body_bytes(), REST_BODY_BYTES_MAX);
    }
}
