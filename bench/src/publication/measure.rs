//! The changes themselves, one after the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use postrail_schema::keys;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::json;

use super::Change;
use super::etcd::Etcd;
use super::fill::tenant_name;
use super::planes::{ControlPlane, DataPlanes};
use crate::server::client;

/// Times in microseconds, each from before a request.
pub(super) struct Measured {
    /// To a data plane: one sample a change and data plane.
    pub(super) reached: Histogram<u64>,
    /// To the last of the data planes.
    pub(super) last: Histogram<u64>,
    /// To the answer of the control API.
    pub(super) answered: Histogram<u64>,
    pub(super) changes: u32,
    /// Octets of a change's chunk, of the manifest, and of what leads to it.
    pub(super) bytes: usize,
}

/// Makes changes and waits for them.
pub(super) struct Changer<'a> {
    etcd: &'a Etcd,
    planes: &'a mut DataPlanes,
    http: Client,
    kind: Change,
    url: String,
    token: String,
    revision: u64,
    /// What is written next: a rate or a weight.
    value: u32,
}

impl<'a> Changer<'a> {
    /// Of one kind of change. What it changes is there afterwards: the first change of a throttle makes it.
    pub(super) fn new(
        kind: Change,
        etcd: &'a Etcd,
        control: &ControlPlane,
        planes: &'a mut DataPlanes,
    ) -> Result<Self> {
        let path = match kind {
            Change::Throttle => "shaping-rules".to_owned(),
            Change::Weight => format!("tenants/{}", tenant_name(0)),
        };
        let url = format!("http://{}/v2/{path}", control.api);
        let (token, revision) = (control.token()?, control.revision()?);
        let mut made = Self { etcd, planes, http: client()?, kind, url, token, revision, value: 1 };
        if kind == Change::Throttle {
            made.revision += 1;
            let answer = made.http.post(&made.url).bearer_auth(&made.token).json(&json!({
                "name": RULE, "match": { "recipient_domain": "throttled.example" }, "mail_rate": made.rate()
            }));
            succeeded(answer.send())?;
            for _ in 0..made.planes.count() {
                made.planes.next(made.revision)?;
            }
            made.url = format!("{}/{RULE}", made.url);
        }
        Ok(made)
    }

    fn rate(&self) -> String {
        format!("{}/m", self.value)
    }

    fn request(&self) -> RequestBuilder {
        match self.kind {
            Change::Throttle => self.http.put(&self.url).json(&json!({
                "match": { "recipient_domain": "throttled.example" }, "mail_rate": self.rate()
            })),
            Change::Weight => self.http.patch(&self.url).json(&json!({ "weight": self.value })),
        }
    }

    pub(super) fn warm_up(&mut self, changes: u32) -> Result<()> {
        self.measure(changes)?;
        Ok(())
    }

    pub(super) fn measure(&mut self, changes: u32) -> Result<Measured> {
        let new = || Histogram::new(3);
        let mut measured = Measured { reached: new()?, last: new()?, answered: new()?, changes, bytes: 0 };
        for _ in 0..changes {
            self.change(&mut measured)?;
        }
        Ok(measured)
    }

    fn change(&mut self, to: &mut Measured) -> Result<()> {
        let (_, before) = self.etcd.range(keys::MANIFEST, 0)?;
        self.revision += 1;
        self.value = self.value % 999 + 1;
        let request = self.request().bearer_auth(&self.token);
        let begun = Instant::now();
        let answer = request.send();
        to.answered.record(micros(begun.elapsed()))?;
        succeeded(answer)?;
        let mut last = Duration::ZERO;
        for _ in 0..self.planes.count() {
            let took = self.planes.next(self.revision)?.at.saturating_duration_since(begun);
            to.reached.record(micros(took))?;
            last = last.max(took);
        }
        to.last.record(micros(last))?;
        to.bytes = self.written(before)?;
        Ok(())
    }

    /// What a change wrote of what is published: one chunk, the manifest and what leads to it; their octets.
    fn written(&self, before: u64) -> Result<usize> {
        let (pairs, _) = self.etcd.range(keys::PUBLISHED, before)?;
        let names: Vec<_> = pairs.iter().map(|pair| pair.key.as_str()).collect();
        let [advance, chunk, manifest] = names.as_slice() else { bail!("a change wrote {names:?}: one chunk was due") };
        let is_due = *advance == keys::ADVANCE && chunk.starts_with(keys::CHUNKS) && *manifest == keys::MANIFEST;
        ensure!(is_due, "a change wrote {names:?}");
        Ok(pairs.iter().map(|pair| pair.value.len()).sum())
    }
}

fn succeeded(answer: reqwest::Result<Response>) -> Result<()> {
    let answer = answer.context("the control plane does not answer")?;
    if !answer.status().is_success() {
        bail!("the change is refused with {}: {}", answer.status(), answer.text().unwrap_or_default());
    }
    Ok(())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The shaping rule whose rate is changed.
const RULE: &str = "throttle";
