//! Listeners: from what people write to what is stored, and how they are on the hosts.

use std::net::SocketAddr;

use postrail_schema::ids::RegionId;
use postrail_schema::limits::{LISTENER_HOSTS_MAX, LISTENERS_MAX};
use postrail_schema::listener::{Listener, ListenerLimits, is_certificate_name};
use postrail_schema::problem::{Problem, Severity};
use serde_json::{Value, json};

use super::credentials::checked_networks;
use super::known_hosts::Answers;
use super::named::Named;
use super::{App, AppError, Precondition, Unanswered, names};
use crate::plan::ListenerEntry;

const LISTENER: Named<Listener, ListenerEntry> = Named { what: "listener", entry: ListenerEntry::of };

impl App {
    /// Makes a listener, or with `replace` changes the one of that name, if that holds.
    ///
    /// # Errors
    /// The name is taken (or with `replace` does not exist), a value is malformed, or there are too many.
    pub(crate) fn put_listener(
        &self,
        new: &ListenerEntry,
        replace: Option<&Precondition>,
    ) -> Result<Listener, AppError> {
        LISTENER.put(self, &new.name, replace, |known| {
            if replace.is_none() && known.listeners.len() >= LISTENERS_MAX {
                return Err(AppError::conflict(format!("there are {LISTENERS_MAX} listeners already")));
            }
            listener(new, |name| known.region(name).map(|region| region.id))
        })
    }

    /// # Errors
    /// It does not exist.
    pub(crate) fn delete_listener(&self, name: &str, when: &Precondition) -> Result<(), AppError> {
        LISTENER.delete(self, name, when)
    }

    /// What the hosts listen on that answer.
    pub(crate) async fn listening(&self) -> Listening {
        let Answers { told, unanswered } = self.hosts.ask(|host| async move { host.listeners().await }).await;
        let mut ports = Vec::new();
        for (host, mut told) in told {
            for port in told["listeners"].as_array_mut().into_iter().flatten() {
                port["host"] = json!(host);
                ports.push(port.take());
            }
        }
        Listening { ports, unanswered }
    }
}

/// What hosts listen on, each address with its host; and hosts that do not say.
pub(crate) struct Listening {
    pub ports: Vec<Value>,
    pub unanswered: Vec<Unanswered>,
}

impl Listening {
    /// What is not as it should be.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let problem = |code, subject, detail| Problem { severity: Severity::Warning, code, subject, detail };
        let name = |host: &str| if host.is_empty() { "this host".to_owned() } else { host.to_owned() };
        let silent = self.unanswered.iter().map(|Unanswered { host, reason }| {
            problem("listeners_unknown", format!("host/{host}"), format!("{}: {reason}", name(host)))
        });
        let unopened = self.ports.iter().filter_map(|port| {
            let (listener, error) = (port["listener"].as_str()?, port["error"].as_str()?);
            let [host, address] = ["host", "address"].map(|field| port[field].as_str().unwrap_or_default());
            let detail = format!("{} cannot listen on {address}: {error}", name(host));
            Some(problem("listener_not_open", format!("listener/{listener}"), detail))
        });
        silent.chain(unopened).collect()
    }
}

/// # Errors
/// A value that cannot be, by its pointer in the entry.
pub(super) fn listener(entry: &ListenerEntry, region: impl Fn(&str) -> Option<RegionId>) -> Result<Listener, AppError> {
    let name = names::slug("/name", &entry.name)?;
    let address: SocketAddr = entry
        .address
        .parse()
        .map_err(|_| AppError::invalid("/address", "it is an address and a port, such as 0.0.0.0:587 or [::]:587"))?;
    if entry.hosts.len() > LISTENER_HOSTS_MAX {
        return Err(AppError::invalid("/hosts", format!("at most {LISTENER_HOSTS_MAX} hosts are named")));
    }
    let mut hosts = entry.hosts.iter().map(|host| names::host("/hosts", host)).collect::<Result<Vec<_>, _>>()?;
    hosts.sort_unstable();
    hosts.dedup();
    let region = match entry.region.as_deref() {
        None => None,
        Some(name) => {
            Some(region(name).ok_or_else(|| AppError::invalid("/region", format!("region {name} does not exist")))?)
        }
    };
    if entry.certificate.as_ref().is_some_and(|name| !is_certificate_name(name)) {
        let detail =
            "a certificate's name has 1 to 63 of a-z, 0-9, - and ., and begins and ends with a letter or digit";
        return Err(AppError::invalid("/certificate", detail));
    }
    let listener = Listener {
        name,
        protocol: entry.protocol,
        address,
        hosts,
        region,
        tls: entry.tls.unwrap_or(entry.protocol.default_tls()),
        minimum_version: entry.minimum_version,
        certificate: entry.certificate.clone(),
        networks: checked_networks(&entry.networks)?,
        limits: ListenerLimits {
            connections: entry.connections,
            connections_per_client: entry.connections_per_client,
            message_bytes_max: entry.message_bytes_max,
            idle_s: entry.idle_s,
        },
    };
    match listener.fault() {
        Some((pointer, detail)) => Err(AppError::invalid(pointer, detail)),
        None => Ok(listener),
    }
}
