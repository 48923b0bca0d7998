//! Brings mail that leaves this host for another one to that host's admin listener, and brings the answer back.
//!
//! ```text
//! shard --Departure--> carrier --POST /transfers--> the other host
//!       <--Arrival----         <---- answer -------
//! ```
//!
//! Invariants worth naming: a parcel is sent once and not again, since it is the shard that knows whether another may
//! follow; what is sent is mail, so nothing of a body is ever logged, and it goes to the host that it is for and to no
//! other: beyond loopback that host's certificate has to name it, and no redirect or proxy is followed. Absent here: what
//! is in a parcel, and what an answer means for its jobs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_channel::Receiver;
use postrail_control_plane::{FleetName, speaks_tls, tls_reason};
use postrail_data_plane::admin::TRANSFERS;
use postrail_data_plane::transfer::{Arrival, Departure};
use postrail_schema::allocation::HostName;
use postrail_schema::limits::{TRANSFER_ANSWER_BYTES_MAX, TRANSFERS_AT_ONCE_MAX};
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::FleetAccess;
use super::neighbours::Listening;

/// See the module head.
pub(crate) struct Carrier {
    access: FleetAccess,
    listening: watch::Receiver<Arc<Listening>>,
    roads: BTreeMap<HostName, Road>,
    /// What kept us from a host last; empty: nothing.
    told: BTreeMap<HostName, String>,
}

/// How a host is reached.
#[derive(Clone)]
struct Road {
    /// As the host announced it.
    admin: String,
    at: Url,
    client: Client,
    token: Option<Arc<str>>,
}

/// Whose parcel was sent, and why there is no answer of that host.
type Ended = (HostName, Result<(), String>);

impl Carrier {
    pub(crate) fn new(access: FleetAccess, listening: watch::Receiver<Arc<Listening>>) -> Self {
        Self { access, listening, roads: BTreeMap::new(), told: BTreeMap::new() }
    }

    /// Carries until `stop` is true, or nothing departs any more.
    pub(crate) async fn run(mut self, departures: Receiver<Departure>, mut stop: watch::Receiver<bool>) {
        let mut under_way: JoinSet<Ended> = JoinSet::new();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                Some(ended) = under_way.join_next() => {
                    if let Ok((to, result)) = ended {
                        self.tell(to, result);
                    }
                }
                departure = departures.recv(), if under_way.len() < TRANSFERS_AT_ONCE_MAX => {
                    let Ok(departure) = departure else { return };
                    // The shard has waited too long for its turn here, and asks anew.
                    if departure.answer.is_closed() {
                        continue;
                    }
                    match self.road(&departure.to) {
                        Ok(road) => drop(under_way.spawn(carry(road, departure))),
                        Err(error) => {
                            let why = format!("{error:#}");
                            let _ = departure.answer.try_send(Arrival::Refused(why.clone()));
                            self.tell(departure.to, Err(why));
                        }
                    }
                }
            }
        }
    }

    /// The way to a host, where it listens now.
    fn road(&mut self, to: &HostName) -> Result<Road> {
        let listening = Arc::clone(&self.listening.borrow_and_update());
        self.roads.retain(|name, road| listening.get(name) == Some(&road.admin));
        self.told.retain(|name, _| listening.contains_key(name) || name == to);
        if let Some(road) = self.roads.get(to) {
            return Ok(road.clone());
        }
        let admin = listening.get(to).context("it does not run")?;
        let url: Url = admin.parse().with_context(|| format!("{admin} is no URL"))?;
        let client = Client::builder().no_proxy().redirect(Policy::none());
        let client = client.connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
        let (client, token) = match (speaks_tls(&url)?, &self.access.identity) {
            (true, Some(identity)) => {
                let name = FleetName::Host(to.clone());
                (client.tls_backend_preconfigured(identity.client(&name)?), None)
            }
            _ => (client.tls_certs_only([]), Some(self.access.token.as_str().into())),
        };
        let client = client.build().context("cannot make an HTTP client")?;
        let road = Road { admin: admin.clone(), at: url.join(TRANSFERS)?, client, token };
        self.roads.insert(to.clone(), road.clone());
        Ok(road)
    }

    /// Logs where it has come to be another way than it was.
    fn tell(&mut self, to: HostName, result: Result<(), String>) {
        match result {
            Ok(()) => {
                if self.told.remove(&to).is_some() {
                    info!(host = %to, "mail goes to the host again");
                }
            }
            Err(why) => {
                if self.told.get(&to) != Some(&why) {
                    warn!(host = %to, why, "mail for the host waits here");
                    self.told.insert(to, why);
                }
            }
        }
    }
}

async fn carry(road: Road, departure: Departure) -> Ended {
    let Departure { to, parcel, answer } = departure;
    let request = road.client.post(road.at).header(CONTENT_TYPE, "application/octet-stream").body(parcel);
    let request = match &road.token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let arrived = match request.send().await {
        Ok(response) => arrival(response).await,
        Err(error) => Err(reason(&error)),
    };
    let result = match &arrived {
        Ok(_) => Ok(()),
        Err(why) => Err(why.clone()),
    };
    let _ = answer.try_send(arrived.unwrap_or_else(Arrival::Refused));
    (to, result)
}

/// What the host answers.
///
/// # Errors
/// It is no answer to a parcel.
async fn arrival(response: Response) -> Result<Arrival, String> {
    let status = response.status();
    let turn = response.headers().get("x-turn").and_then(|turn| turn.to_str().ok()?.parse().ok());
    let body = limited(response).await?;
    match (status, turn) {
        (StatusCode::OK, _) => Ok(Arrival::Answered(body.into())),
        (StatusCode::CONFLICT, Some(turn)) => Ok(Arrival::Stale { turn }),
        _ => {
            let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
            if status == StatusCode::SERVICE_UNAVAILABLE && problem["code"] == "busy" {
                return Ok(Arrival::Busy);
            }
            let is_plain = |detail: &&str| detail.bytes().all(|octet| matches!(octet, b' '..=b'~'));
            let detail = problem["detail"].as_str().filter(is_plain).unwrap_or("it does not say why");
            Err(format!("it answers {}: {detail}", status.as_u16()))
        }
    }
}

async fn limited(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| reason(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > TRANSFER_ANSWER_BYTES_MAX {
            return Err("its answer is too long".to_owned());
        }
    }
    Ok(body)
}

fn reason(error: &reqwest::Error) -> String {
    if let Some(reason) = tls_reason(error) {
        return reason;
    }
    let why = if error.is_timeout() {
        "it took too long"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the exchange broke off"
    };
    why.to_owned()
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// From the connection to the last octet of the answer: shorter than a shard waits.
const TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
