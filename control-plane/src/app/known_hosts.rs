//! The data planes that run: one beside us in a single process, or those that are announced in the store.

use std::sync::{Arc, PoisonError, RwLock};

use postrail_schema::ids::{HostId, MessageId};
use postrail_schema::sealed::MasterKeyId;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{AppError, DataPlane, Settling};

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct HostClient {
    /// Empty for the one beside us.
    pub name: String,
    pub id: HostId,
    /// Where it listens.
    pub admin: String,
    pub master_keys: Vec<MasterKeyId>,
    pub client: DataPlane,
}

/// See the module head.
pub(crate) struct KnownHosts {
    known: RwLock<Arc<[HostClient]>>,
    changes: watch::Sender<u64>,
}

impl KnownHosts {
    pub(crate) fn new(known: Vec<HostClient>) -> Self {
        Self { known: RwLock::new(known.into()), changes: watch::Sender::new(0) }
    }

    /// By name.
    pub(crate) fn all(&self) -> Arc<[HostClient]> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces what is known.
    pub(crate) fn set(&self, known: Vec<HostClient>) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known.into();
        self.changes.send_modify(|count| *count += 1);
    }

    /// Tells when [`all`](Self::all) has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The queue over all of them; each shard of several hosts names its own.
    ///
    /// # Errors
    /// One does not answer.
    pub(crate) async fn queue(&self) -> Result<Value, AppError> {
        let hosts = self.all();
        if let [only] = &*hosts {
            return only.client.queue().await;
        }
        let mut shards = Vec::new();
        for host in hosts.iter() {
            let mut queue = host.client.queue().await?;
            let Some(theirs) = queue.get_mut("shards").and_then(Value::as_array_mut) else { continue };
            for shard in theirs.iter_mut() {
                shard["host"] = json!(host.name);
            }
            shards.append(theirs);
        }
        Ok(json!({ "shards": shards }))
    }

    /// What waits for a person, over all of them.
    ///
    /// # Errors
    /// One does not answer.
    pub(crate) async fn quarantine(&self) -> Result<Vec<Value>, AppError> {
        let mut held = Vec::new();
        for host in self.all().iter() {
            let mut theirs = host.client.quarantine().await?;
            held.extend(theirs.get_mut("jobs").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default());
        }
        Ok(held)
    }

    /// Makes waiting mail due at once, on all of them.
    ///
    /// # Errors
    /// One does not answer, or refuses.
    pub(crate) async fn retry(&self, filter: &Value) -> Result<Value, AppError> {
        let hosts = self.all();
        if let [only] = &*hosts {
            return only.client.retry(filter).await;
        }
        let mut recipients = 0;
        for host in hosts.iter() {
            recipients += host.client.retry(filter).await?["recipients"].as_u64().unwrap_or(0);
        }
        Ok(json!({ "recipients": recipients }))
    }

    /// Settles what still waits of a job, wherever it waits.
    ///
    /// # Errors
    /// None has it, or the one that may does not answer.
    pub(crate) async fn settle(&self, job: MessageId, settling: Settling) -> Result<Value, AppError> {
        let mut worst = AppError::DataPlane { detail: "no data plane is known".to_owned() };
        let mut is_all_refused = true;
        for host in self.all().iter() {
            match host.client.settle(job, settling).await {
                Ok(answer) => return Ok(answer),
                // Who does not have the job refuses with 404; another answer tells more.
                Err(error) if is_all_refused => {
                    is_all_refused = matches!(error, AppError::DataPlaneRefused { status: 404, .. });
                    worst = error;
                }
                Err(_) => {}
            }
        }
        Err(worst)
    }
}
