//! The changes themselves, one after the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use postrail_schema::keys;
use reqwest::blocking::Client;
use serde_json::json;

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
    url: String,
    token: String,
    revision: u64,
    weight: u32,
}

impl<'a> Changer<'a> {
    pub(super) fn new(etcd: &'a Etcd, control: &ControlPlane, planes: &'a mut DataPlanes) -> Result<Self> {
        let url = format!("http://{}/v2/tenants/{}", control.api, tenant_name(0));
        let (token, revision) = (control.token()?, control.revision()?);
        Ok(Self { etcd, planes, http: client()?, url, token, revision, weight: 1 })
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
        self.weight = self.weight % 999 + 1;
        let request = self.http.patch(&self.url).bearer_auth(&self.token).json(&json!({ "weight": self.weight }));
        let begun = Instant::now();
        let answer = request.send().context("the control plane does not answer")?;
        to.answered.record(micros(begun.elapsed()))?;
        if !answer.status().is_success() {
            bail!("the change is refused with {}: {}", answer.status(), answer.text().unwrap_or_default());
        }
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

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
