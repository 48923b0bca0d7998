//! A real etcd of one member, in a folder of the run, and what is asked of it by its JSON gateway.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrail_schema::keys;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use super::planes::Network;
use crate::server::until;

/// A running etcd; it is killed when dropped.
pub(super) struct Etcd {
    child: Child,
    client: SocketAddr,
    http: Client,
}

/// A key and its value, as `range` gives them.
pub(super) struct Pair {
    /// Below the cluster's root.
    pub(super) key: String,
    pub(super) value: Vec<u8>,
}

impl Etcd {
    pub(super) fn start(folder: &Path, network: Network) -> Result<Self> {
        let (client, peer) = (network.etcd(2379), network.etcd(2380));
        let (url, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder.join("etcd")).args(["--quota-backend-bytes", "4294967296"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        let log = File::create(folder.join("etcd.log")).context("cannot write etcd's log")?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.context("cannot start etcd: install it (Debian: etcd-server)")?;
        let http = Client::builder().timeout(TIMEOUT).build().context("cannot make an HTTP client")?;
        let etcd = Self { child, client, http };
        until(TIMEOUT, "etcd does not answer", || {
            Ok(etcd.http.get(format!("{url}/health")).send()?.text()?.contains("true"))
        })?;
        Ok(etcd)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Puts all of these, each below the root, in one transaction.
    pub(super) fn put(&self, pairs: &[(String, Value)]) -> Result<()> {
        let put = |(key, value): &(String, Value)| json!({"requestPut": {"key": encoded(key), "value": STANDARD.encode(value.to_string())}});
        let puts: Vec<_> = pairs.iter().map(put).collect();
        self.ask("txn", &json!({ "success": puts }))?;
        Ok(())
    }

    /// What is under `prefix` and was written after the store's revision `after`, and the store's revision.
    pub(super) fn range(&self, prefix: &str, after: u64) -> Result<(Vec<Pair>, u64)> {
        let mut end = format!("{}{prefix}", root());
        // The first key behind all that begin with the prefix.
        end.push('\u{7f}');
        let range = json!({"key": encoded(prefix), "range_end": STANDARD.encode(end), "min_mod_revision": after + 1});
        let answer = self.ask("range", &range)?;
        let mut pairs = Vec::new();
        for pair in answer["kvs"].as_array().into_iter().flatten() {
            let octets = |name: &str| STANDARD.decode(pair[name].as_str().unwrap_or_default());
            let key = String::from_utf8(octets("key")?).context("a key of etcd is no text")?;
            let key = key.strip_prefix(&root()).context("etcd gives a key that was not asked for")?.to_owned();
            pairs.push(Pair { key, value: octets("value")? });
        }
        let revision = answer["header"]["revision"].as_str().and_then(|text| text.parse().ok());
        Ok((pairs, revision.context("etcd answers without its revision")?))
    }

    /// How many chunks are published, and their octets.
    pub(super) fn published(&self) -> Result<(usize, usize)> {
        let (pairs, _) = self.range(keys::CHUNKS, 0)?;
        Ok((pairs.len(), pairs.iter().map(|pair| pair.value.len()).sum()))
    }

    fn ask(&self, what: &str, body: &Value) -> Result<Value> {
        let answer = self.http.post(format!("{}/v3/kv/{what}", self.url())).json(body).send();
        let answer = answer.context("etcd does not answer")?;
        let (status, text) = (answer.status(), answer.text()?);
        if !status.is_success() {
            bail!("etcd refuses {what} with {status}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn root() -> String {
    keys::root("main")
}

fn encoded(key: &str) -> String {
    STANDARD.encode(format!("{}{key}", root()))
}

const TIMEOUT: Duration = Duration::from_secs(60);
