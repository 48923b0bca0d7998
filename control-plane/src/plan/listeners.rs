//! Listeners: their entries in a document, and findings about them.

use std::collections::BTreeMap;

use postrail_schema::access::Network;
use postrail_schema::listener::{Listener, ListenerProtocol, ListenerTls};
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::tls::TlsVersion;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desired;
use super::document::DocumentEntry;

/// Where hosts take submissions, how, and from whom.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerEntry {
    pub name: String,
    /// `smtp`, `smtps` (TLS from the start) or `rest`.
    #[schema(value_type = String)]
    pub protocol: ListenerProtocol,
    /// Such as `0.0.0.0:587` or `[::]:587`; it must be on every host that has the listener.
    pub address: String,
    /// Hosts of the fleet by name; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Only hosts of this region have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `off`, `offered` or `required`; `offered` by default, of smtps `required`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tls: Option<ListenerTls>,
    /// The oldest version of TLS: `1.2`, by default, or `1.3`.
    #[serde(default, skip_serializing_if = "TlsVersion::is_default")]
    #[schema(value_type = String, required = false)]
    pub minimum_version: TlsVersion,
    /// The host's files `certificates/NAME.pem` and `certificates/NAME.key` in its data folder; none: the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Where clients may come from, such as `192.0.2.0/24`; none: anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<Network>,
    /// Connections at once on each host, 1 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Connections at once of one client on each host, 1 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_client: Option<u32>,
    /// Octets of a message, 1024 to 20971520; of a REST body eight fifths of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_bytes_max: Option<u32>,
    /// Seconds that a client may say nothing, 10 to 3600; by default 300, of rest 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<u32>,
}

impl DocumentEntry for ListenerEntry {
    const KIND: &'static str = "listener";

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl ListenerEntry {
    pub(crate) fn of(desired: &Desired, listener: &Listener) -> Self {
        let region = listener.region.and_then(|id| desired.regions.get(&id));
        let limits = &listener.limits;
        Self {
            name: listener.name.clone(),
            protocol: listener.protocol,
            address: listener.address.to_string(),
            hosts: listener.hosts.iter().map(ToString::to_string).collect(),
            region: region.map(|region| region.name.clone()),
            tls: Some(listener.tls),
            minimum_version: listener.minimum_version,
            certificate: listener.certificate.clone(),
            networks: listener.networks.clone(),
            connections: limits.connections,
            connections_per_client: limits.connections_per_client,
            message_bytes_max: limits.message_bytes_max,
            idle_s: limits.idle_s,
        }
    }
}

/// Findings about listeners by themselves and beside each other.
pub(super) fn check(desired: &Desired, to: &mut Vec<Problem>) {
    let mut add = |severity, code, listener: &Listener, detail: String| {
        to.push(Problem { severity, code, subject: format!("listener/{}", listener.name), detail });
    };
    let all: Vec<_> = desired.listeners.values().collect();
    for (at, listener) in all.iter().enumerate() {
        if let Some((_, detail)) = listener.fault() {
            add(Severity::Error, "listener_invalid", listener, detail);
        }
        if listener.region.is_some_and(|region| !desired.regions.contains_key(&region)) {
            add(Severity::Error, "dangling_region", listener, "its region does not exist".to_owned());
        }
        if listener.takes_secrets_in_clear() {
            let detail = "it has no TLS, and clients give their secrets in clear: offer TLS, or listen on loopback";
            add(Severity::Warning, "secrets_in_clear", listener, detail.to_owned());
        }
        let is_far = !listener.address.ip().is_loopback();
        if listener.tls == ListenerTls::Required && listener.certificate.is_none() && is_far {
            let detail = "it requires TLS and names no certificate: each host shows its own, which is self-signed unless \
                          it was started with --tls-cert";
            add(Severity::Note, "listener_without_certificate", listener, detail.to_owned());
        }
        if let Some(other) = all[..at].iter().find(|other| other.clashes(listener) && share_a_host(other, listener)) {
            let detail = format!("{} has {} already on the same hosts; an address has one", other.name, other.address);
            add(Severity::Error, "listener_address_taken", listener, detail);
        }
    }
}

/// Whether a host may have both, as far as the two say.
fn share_a_host(one: &Listener, two: &Listener) -> bool {
    let is_apart = one.region.is_some() && two.region.is_some() && one.region != two.region;
    let is_named = !one.hosts.is_empty() && !two.hosts.is_empty();
    !is_apart && (!is_named || one.hosts.iter().any(|host| two.hosts.contains(host)))
}

/// What of the listeners does not go with the hosts that run: the region of each by its name.
pub(crate) fn listener_problems(desired: &Desired, hosts: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for listener in desired.listeners.values() {
        let has_it =
            |(host, region): (&String, &String)| listener.is_for(host, desired.region(region).map(|region| region.id));
        if !hosts.is_empty() && !hosts.iter().any(has_it) {
            problems.push(Problem {
                severity: Severity::Warning,
                code: "listener_without_host",
                subject: format!("listener/{}", listener.name),
                detail: "no host that runs has it: name others, or start one".to_owned(),
            });
        }
    }
    problems
}
