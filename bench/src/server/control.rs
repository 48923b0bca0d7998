//! What the bench asks of a Postrail's two HTTP ports: set-up, and whether its ledger has caught up.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::plan::{Dkim, TenantPlan};
use crate::source::Login;

/// Longest time for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// Octets of events that a shard has and the ledger has not.
const UNREAD: &str = "postrail_journal_unread_bytes";
/// Looks one after the other that find nothing unread: between two of them an event may be on its way to the disk.
const UNREAD_LOOKS: u32 = 2;

/// The control API and the metrics of a running Postrail.
#[derive(Clone)]
pub struct Control {
    http: Client,
    api: SocketAddr,
    admin: SocketAddr,
    token: String,
}

/// Metrics in Prometheus' text form.
pub(crate) struct Metrics(String);

impl Metrics {
    /// The sum over all labels of `name`.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let lines = self.0.lines().filter(of_name);
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// The values of all labels of `name`.
    fn each(&self, name: &str) -> impl Iterator<Item = u64> {
        let of_name = move |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        self.0.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse().ok())
    }
}

impl Control {
    /// Talks to the two ports, as the operator whose token is in `data`.
    ///
    /// # Errors
    /// The token cannot be read.
    pub fn open(api: SocketAddr, admin: SocketAddr, data: &Path) -> Result<Self> {
        let file = data.join("operator.token");
        let token = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self { http: client()?, api, admin, token: token.trim().to_owned() })
    }

    /// A tenant with its sending domain and a credential.
    ///
    /// # Errors
    /// The server refuses, with its words.
    pub fn make_tenant(&self, tenant: &TenantPlan, domain: &str, dkim: Dkim) -> Result<Login> {
        let TenantPlan { name, weight, reserved_per_s } = tenant;
        self.post("/v2/tenants", &json!({"name": name, "weight": weight, "reserved_per_s": reserved_per_s}))?;
        let keys: &[&str] = match dkim {
            Dkim::None => &[],
            Dkim::Rsa => &["rsa-sha256"],
            Dkim::Ed25519 => &["ed25519-sha256"],
            Dkim::Both => &["rsa-sha256", "ed25519-sha256"],
        };
        self.post(&format!("/v2/domains?tenant={name}"), &json!({"name": domain, "dkim_keys": keys}))?;
        let issued = self.post(&format!("/v2/credentials?tenant={name}"), &json!({"username": name}))?;
        let secret = issued["secret"].as_str().context("the new credential has no secret")?;
        Ok(Login { username: name.to_owned(), secret: secret.to_owned() })
    }

    /// Mail for all domains goes to their own MX at `port`, also at loopback.
    ///
    /// # Errors
    /// The server refuses, with its words.
    pub fn make_route(&self, port: u16) -> Result<()> {
        self.post("/v2/routes", &json!({"domain": "*", "port": port, "allow_private": true}))?;
        Ok(())
    }

    /// Tries now what waits for its next attempt.
    ///
    /// # Errors
    /// The server refuses, with its words.
    pub fn retry_all(&self) -> Result<()> {
        self.post("/v2/queue/retry", &json!({}))?;
        Ok(())
    }

    /// Waits until every shard works under the newest revision.
    ///
    /// # Errors
    /// It does not happen within `limit`.
    pub fn wait_settled(&self, limit: Duration) -> Result<()> {
        until(limit, "the configuration is not in effect", || {
            let newest = self.get_json(self.api, "/readyz")?["revision"].as_u64().unwrap_or(u64::MAX);
            let metrics = self.data_metrics()?;
            let mut shards = metrics.each("postrail_snapshot_revision").peekable();
            Ok(shards.peek().is_some() && shards.all(|revision| revision == newest))
        })
    }

    /// Waits until the ledger holds every event of every shard.
    ///
    /// # Errors
    /// It does not within `limit`, or the server does not tell.
    pub fn wait_ledger(&self, limit: Duration) -> Result<()> {
        if self.data_metrics()?.each(UNREAD).next().is_none() {
            bail!("the server does not tell {UNREAD}");
        }
        let mut looks = 0;
        until(limit, "the ledger is behind", || {
            let metrics = self.data_metrics()?;
            looks = if metrics.sum(UNREAD) == 0 { looks + 1 } else { 0 };
            Ok(looks >= UNREAD_LOOKS)
        })
    }

    /// The data plane's metrics.
    pub(crate) fn data_metrics(&self) -> Result<Metrics> {
        Ok(Metrics(self.http.get(format!("http://{}/metrics", self.admin)).send()?.text()?))
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.http.post(format!("http://{}{path}", self.api)).bearer_auth(&self.token).json(body);
        let answer = request.send().with_context(|| format!("the server does not answer to POST {path}"))?;
        let status = answer.status();
        let text = answer.text().unwrap_or_default();
        if !status.is_success() {
            bail!("the server refuses POST {path} with {status}: {text}");
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn get_json(&self, at: SocketAddr, path: &str) -> Result<Value> {
        let text = self.http.get(format!("http://{at}{path}")).send()?.text()?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// Whether both ports answer that they are ready.
pub(super) fn is_ready(http: &Client, api: SocketAddr, admin: SocketAddr) -> Result<bool> {
    for url in [format!("http://{admin}/readyz"), format!("http://{api}/healthz")] {
        let answer = http.get(&url).send()?;
        if !answer.status().is_success() {
            bail!("{url} says {}", answer.text().unwrap_or_default());
        }
    }
    Ok(true)
}

pub(crate) fn client() -> Result<Client> {
    Client::builder().timeout(ANSWER_TIMEOUT).tls_certs_only([]).build().context("cannot make an HTTP client")
}

/// Looks until `check` is true; an error of `check` counts as false, and the last one is told.
pub(crate) fn until(limit: Duration, what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let checked = check();
        if matches!(checked, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= end {
            let seconds = limit.as_secs();
            return match checked {
                Err(error) => Err(error.context(format!("{what} after {seconds} s"))),
                Ok(_) => bail!("{what} after {seconds} s"),
            };
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_its_labels_and_of_no_other_name() {
        let text = "# HELP a_total x\na_total{shard=\"0\"} 3\na_total{shard=\"1\"} 4\na_total_more 9\na 1\n";
        let metrics = Metrics(text.into());
        assert_eq!((metrics.sum("a_total"), metrics.sum("a"), metrics.sum("b")), (7, 1, 0));
        assert_eq!(metrics.each("a_total").collect::<Vec<_>>(), [3, 4]);
    }
}
