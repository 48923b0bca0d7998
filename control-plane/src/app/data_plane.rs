//! The admin listener of the data plane, as the control plane uses it: journals, quotas, the queue, commands.
//!
//! Invariants worth naming: plain HTTP is spoken on loopback alone; elsewhere the host's certificate has to name the host
//! that was announced, and ours is shown.

use std::sync::Arc;
use std::time::Duration;

use postrail_schema::allocation::HostName;
use postrail_schema::day::Day;
use postrail_schema::ids::{MessageId, ShardId, TenantId};
use postrail_schema::limits::JOURNAL_PULL_BYTES_MAX;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::AppError;
use crate::identity::{FleetIdentity, FleetName, speaks_tls, tls_reason};
use crate::ledger::Cursor;

/// See the module head. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DataPlane {
    base: String,
    client: Client,
    /// What hosts of a fleet know each other by on loopback.
    token: Option<Arc<str>>,
}

/// By what data planes of a fleet know this control plane, and it them.
#[derive(Clone)]
pub(crate) struct FleetAccess {
    /// Shown on loopback.
    pub token: Arc<str>,
    pub identity: FleetIdentity,
}

/// What a journal answers to a pull.
#[derive(Clone, Debug)]
pub(crate) enum JournalAnswer {
    Events(PulledJournal),
    /// It does not have the place that was asked for; it begins here.
    BeginsAt(Cursor),
}

/// How an operator ends what waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settling {
    Cancel,
    /// As bounced, with a report.
    Bounce,
    /// Out of quarantine, to be sent.
    Release,
    /// Out of quarantine, as cancelled.
    Drop,
}

/// Which jobs in quarantine are asked for.
#[derive(Clone, Debug)]
pub(crate) struct HeldQuery {
    /// `None`: of all.
    pub tenant: Option<TenantId>,
    /// [`HeldJob::key`] of the one before.
    pub after: Option<String>,
    pub limit: u32,
}

/// Some of them, the first to expire first.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct HeldPage {
    pub jobs: Vec<HeldJob>,
    /// How many there are, those before and behind this page, too.
    pub total: u64,
    /// Hosts whose jobs are not in it.
    #[serde(skip)]
    pub unanswered: Vec<Unanswered>,
}

/// A host that did not tell what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct Unanswered {
    /// Its name.
    pub host: String,
    /// In words.
    pub reason: String,
}

/// A job in quarantine.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HeldJob {
    pub job: String,
    pub tenant_id: u32,
    pub domain_id: u32,
    pub recipients: u64,
    pub expires: String,
    pub expires_ms: u64,
}

impl HeldJob {
    /// By what it is found again in the order of pages.
    pub(crate) fn key(&self) -> String {
        format!("{}.{}", self.expires_ms, self.job)
    }
}

/// What a host says of what it has.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct HostStatus {
    /// The revision that each of its shards works under, or a later one; `None`: it is of an earlier version.
    pub revision: Option<u64>,
    /// It accepts mail; `None`: it is of an earlier version, which does until it is stopped.
    pub takes_mail: Option<bool>,
    /// Submissions that are open, and may be accepted though others are not; `None` as above.
    pub submissions: Option<u64>,
    /// Recipients.
    pub waiting: u64,
    /// Octets of events that the ledger does not have yet.
    pub journal_unread_bytes: u64,
    /// All its shards answer, and have read their spools.
    pub is_known: bool,
    /// For so long it has tried in vain to have the suppressions that are published. Of a host of an earlier version: 0.
    #[serde(default)]
    pub suppressions_missed_ms: u64,
    /// It never had any list of them, and takes no mail.
    #[serde(default)]
    pub awaits_suppressions: bool,
}

/// What was accepted of a tenant on a day: by the host that is told, and by all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QuotaTell {
    pub tenant: TenantId,
    pub own: u64,
    pub others: u64,
}

/// Who was told of quotas.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct QuotaAnswer {
    /// Another one with each start of the process.
    pub start: String,
    /// The day that the host counts: of another it takes nothing over.
    pub day: Day,
}

/// Events of a journal.
#[derive(Clone, Debug)]
pub(crate) struct PulledJournal {
    /// `[u32 little-endian length, encoded events]*`.
    pub body: Vec<u8>,
    pub next: Cursor,
}

#[derive(Deserialize)]
struct Shards {
    shards: u16,
}

impl DataPlane {
    /// The one in this process. `base` such as `http://127.0.0.1:8082`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub(crate) fn beside(base: &str) -> Result<Self, AppError> {
        Self::new(base, client().tls_certs_only([]), None)
    }

    /// That of a fleet's host, where it announced itself.
    ///
    /// # Errors
    /// Its name or its address is none, or it would be plain HTTP beyond loopback.
    pub(crate) fn of_host(name: &str, base: &str, access: &FleetAccess) -> Result<Self, AppError> {
        let refused = |detail: String| AppError::DataPlaneUntrusted { detail };
        let url: Url = base.parse().map_err(|_| refused(format!("{base} is no URL")))?;
        match speaks_tls(&url) {
            Ok(true) => {
                let host = HostName::new(name).map_err(|error| refused(error.to_string()))?;
                let config = access.identity.client(&FleetName::Host(host));
                let config = config.map_err(|error| refused(error.to_string()))?;
                Self::new(base, client().tls_backend_preconfigured(config), None)
            }
            Ok(false) => Self::new(base, client().tls_certs_only([]), Some(Arc::clone(&access.token))),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    fn new(base: &str, client: ClientBuilder, token: Option<Arc<str>>) -> Result<Self, AppError> {
        let client = client.build().map_err(|error| unreachable_plane(&error))?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), client, token })
    }

    /// How many shards, and so journals, there are.
    ///
    /// # Errors
    /// The data plane does not answer.
    pub(crate) async fn shards(&self) -> Result<u16, AppError> {
        let body = json_of(self.get("/shards")).await?;
        let shards: Shards = serde_json::from_value(body).map_err(|_| garbled("/shards"))?;
        Ok(shards.shards)
    }

    /// What a journal holds from `from` on; waits up to `wait` for something.
    ///
    /// # Errors
    /// The data plane does not answer.
    pub(crate) async fn pull(&self, shard: ShardId, from: Cursor, wait: Duration) -> Result<JournalAnswer, AppError> {
        let query = [
            ("shard", u64::from(shard.0)),
            ("segment", from.segment),
            ("offset", from.offset),
            ("wait_ms", u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        ];
        let response = self.get("/journal").query(&query).send().await;
        let response = response.map_err(|error| unreachable_plane(&error))?;
        if response.status() == StatusCode::GONE {
            let oldest = place(&response, "x-oldest-segment", "x-oldest-offset");
            return oldest.map(JournalAnswer::BeginsAt).ok_or_else(|| garbled("/journal"));
        }
        let response = successful(response).await?;
        let next = place(&response, "x-next-segment", "x-next-offset").ok_or_else(|| garbled("/journal"))?;
        Ok(JournalAnswer::Events(PulledJournal { body: limited(response).await?, next }))
    }

    /// Tells that everything before `to` is durable in the ledger.
    ///
    /// # Errors
    /// The data plane does not answer.
    pub(crate) async fn trim(&self, shard: ShardId, to: Cursor) -> Result<(), AppError> {
        let body = json!({ "shard": shard.0, "segment": to.segment, "offset": to.offset });
        sent(self.post("/journal/trim").json(&body)).await.map(drop)
    }

    /// Tells what was accepted on `day`.
    ///
    /// # Errors
    /// The data plane does not answer, or is of a version that counts for itself (404).
    pub(crate) async fn tell_quotas(&self, day: Day, tells: &[QuotaTell]) -> Result<QuotaAnswer, AppError> {
        let tenants: Vec<_> = tells.iter().map(|tell| (tell.tenant, tell.own, tell.others)).collect();
        let answer = json_of(self.post("/quotas").json(&json!({ "day": day, "tenants": tenants }))).await?;
        serde_json::from_value(answer).map_err(|_| garbled("/quotas"))
    }

    /// What it listens on.
    ///
    /// # Errors
    /// The data plane does not answer.
    pub(crate) async fn listeners(&self) -> Result<Value, AppError> {
        json_of(self.get("/listeners")).await
    }

    /// The queue as the data plane shows it.
    ///
    /// # Errors
    /// The data plane does not answer.
    pub(crate) async fn queue(&self) -> Result<Value, AppError> {
        json_of(self.get("/queue")).await
    }

    /// Makes waiting mail due at once.
    ///
    /// # Errors
    /// The data plane does not answer, or refuses.
    pub(crate) async fn retry(&self, filter: &Value) -> Result<Value, AppError> {
        json_of(self.post("/queue/retry").json(filter)).await
    }

    /// Settles what still waits of a job.
    ///
    /// # Errors
    /// The data plane does not answer, or refuses.
    pub(crate) async fn settle(&self, job: MessageId, settling: Settling) -> Result<Value, AppError> {
        let path = match settling {
            Settling::Cancel => format!("/jobs/{job}/cancel"),
            Settling::Bounce => format!("/jobs/{job}/bounce"),
            Settling::Release => format!("/quarantine/{job}/release"),
            Settling::Drop => format!("/quarantine/{job}/drop"),
        };
        json_of(self.post(&path)).await
    }

    /// What waits for a person.
    ///
    /// # Errors
    /// The data plane does not answer.
    pub(crate) async fn quarantine(&self, query: &HeldQuery) -> Result<HeldPage, AppError> {
        let asked = self.get("/quarantine").query(&[("limit", u64::from(query.limit))]);
        let asked = asked.query(&query.tenant.map(|tenant| [("tenant", tenant.0)]));
        let asked = asked.query(&query.after.as_ref().map(|after| [("after", after)]));
        serde_json::from_value(json_of(asked).await?).map_err(|_| garbled("/quarantine"))
    }

    /// What waits there, and whether what happened there is told.
    ///
    /// # Errors
    /// The data plane does not answer.
    pub(crate) async fn status(&self) -> Result<HostStatus, AppError> {
        serde_json::from_value(json_of(self.get("/status")).await?).map_err(|_| garbled("/status"))
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.authorized(self.client.get(format!("{}{path}", self.base)))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.authorized(self.client.post(format!("{}{path}", self.base)))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

async fn sent(request: RequestBuilder) -> Result<Response, AppError> {
    successful(request.send().await.map_err(|error| unreachable_plane(&error))?).await
}

async fn successful(response: Response) -> Result<Response, AppError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = limited(response).await?;
    Err(AppError::DataPlaneRefused { status: status.as_u16(), body: serde_json::from_slice(&body).unwrap_or_default() })
}

/// The place in a journal that two header fields name.
fn place(response: &Response, segment: &str, offset: &str) -> Option<Cursor> {
    let number = |name| response.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
    Some(Cursor { segment: number(segment)?, offset: number(offset)? })
}

/// The JSON of the answer; null where it is empty.
async fn json_of(request: RequestBuilder) -> Result<Value, AppError> {
    let body = limited(sent(request).await?).await?;
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).map_err(|_| garbled("its answer"))
}

async fn limited(mut response: Response) -> Result<Vec<u8>, AppError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable_plane(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > PULL_BODY_BYTES_MAX {
            return Err(garbled("its answer"));
        }
    }
    Ok(body)
}

fn client() -> ClientBuilder {
    Client::builder().timeout(CALL_TIMEOUT).connect_timeout(Duration::from_secs(2)).no_proxy()
}

fn unreachable_plane(error: &reqwest::Error) -> AppError {
    // The address of the listener is no news to the operator and none to others.
    if let Some(detail) = tls_reason(error) {
        return AppError::DataPlaneUntrusted { detail };
    }
    AppError::DataPlane { detail: broken(error).to_owned() }
}

/// How a request ended that has no answer.
pub(super) fn broken(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "it took too long"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the exchange broke off"
    }
}

fn garbled(what: &str) -> AppError {
    AppError::DataPlane { detail: format!("{what} is not in the agreed form") }
}

/// One call; longer than a pull waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A pull may end with one buffer over its bound.
const PULL_BODY_BYTES_MAX: usize = 2 * JOURNAL_PULL_BYTES_MAX;
