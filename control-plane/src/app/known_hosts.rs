//! The data planes that run: one beside us in a single process, or those that are announced in the store.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use postrail_schema::ids::{HostId, MessageId};
use postrail_schema::sealed::MasterKeyId;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{AppError, DataPlane, HeldPage, HeldQuery, HostStatus, Settling, Unanswered};

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

    /// What waits for a person, over all of them that answer; the others are named. More than `query` asks for says that
    /// there are more.
    ///
    /// # Errors
    /// None answers.
    pub(crate) async fn quarantine(&self, query: &HeldQuery) -> Result<HeldPage, AppError> {
        let mut all = HeldPage::default();
        let beyond = HeldQuery { limit: query.limit + 1, ..query.clone() };
        let hosts = self.all();
        for host in hosts.iter() {
            match host.client.quarantine(&beyond).await {
                Ok(mut theirs) => {
                    all.jobs.append(&mut theirs.jobs);
                    all.total += theirs.total;
                }
                Err(error) => all.unanswered.push(unanswered(&host.name, &error)),
            }
        }
        if !hosts.is_empty() && all.unanswered.len() == hosts.len() {
            return Err(AppError::NoneAnswers { hosts: all.unanswered });
        }
        all.jobs.sort_unstable_by(|a, b| (a.expires_ms, &a.job).cmp(&(b.expires_ms, &b.job)));
        // A job on its way from one to the other is at both for a moment.
        all.jobs.dedup_by(|one, before| one.job == before.job);
        Ok(all)
    }

    /// What each says of itself that answers, by name.
    pub(crate) async fn statuses(&self) -> BTreeMap<String, HostStatus> {
        let mut asked = JoinSet::new();
        for host in self.all().iter().cloned() {
            asked.spawn(async move { host.client.status().await.ok().map(|status| (host.name, status)) });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    /// Makes waiting mail due at once, on all of them that answer; the others are named.
    ///
    /// # Errors
    /// None answers, or the only one refuses.
    pub(crate) async fn retry(&self, filter: &Value) -> Result<Value, AppError> {
        let hosts = self.all();
        if let [only] = &*hosts {
            return only.client.retry(filter).await;
        }
        let (mut recipients, mut unanswered, mut failure) = (0, Vec::new(), None);
        for host in hosts.iter() {
            match host.client.retry(filter).await {
                Ok(answer) => recipients += answer["recipients"].as_u64().unwrap_or(0),
                Err(error) => {
                    unanswered.push(host.name.clone());
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if unanswered.len() == hosts.len() => Err(error),
            Some(_) => Ok(json!({ "recipients": recipients, "unanswered": unanswered })),
            None => Ok(json!({ "recipients": recipients })),
        }
    }

    /// Settles what still waits of a job, wherever it waits.
    ///
    /// # Errors
    /// None has it, or the one that may does not answer; it is on its way from one to another.
    pub(crate) async fn settle(&self, job: MessageId, settling: Settling) -> Result<Value, AppError> {
        let hosts = self.all();
        match settle_at(&hosts, job, settling).await {
            // It moved from one that had not been asked yet to one that had.
            Err(error) if hosts.len() > 1 && Refusal::of(&error) == Refusal::NotThere => {
                settle_at(&hosts, job, settling).await
            }
            settled => settled,
        }
    }
}

async fn settle_at(hosts: &[HostClient], job: MessageId, settling: Settling) -> Result<Value, AppError> {
    let (mut recipients, mut refused) = (0, None);
    for host in hosts {
        match host.client.settle(job, settling).await {
            Ok(answer) => recipients += answer["recipients"].as_u64().unwrap_or(0),
            Err(error) if refused.as_ref().is_none_or(|former| Refusal::of(former) < Refusal::of(&error)) => {
                refused = Some(error);
            }
            Err(_) => {}
        }
    }
    match refused {
        _ if recipients > 0 => Ok(json!({ "recipients": recipients })),
        Some(error) => Err(error),
        None => Err(AppError::DataPlane { detail: "no data plane is known".to_owned() }),
    }
}

/// Why a host did not settle a job; of several, what says more comes last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Refusal {
    NotThere,
    Other,
    BeingMoved,
}

impl Refusal {
    fn of(error: &AppError) -> Self {
        match error {
            AppError::DataPlaneRefused { status: 404, .. } => Self::NotThere,
            AppError::DataPlaneRefused { status: 409, .. } => Self::BeingMoved,
            _ => Self::Other,
        }
    }
}

/// Why a host did not tell what it was asked for: one that knows nothing of the question is of a version before it.
fn unanswered(host: &str, error: &AppError) -> Unanswered {
    let reason = match Refusal::of(error) {
        Refusal::NotThere => "it runs an earlier version, which does not tell this: upgrade it".to_owned(),
        _ => error.to_string(),
    };
    Unanswered { host: host.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};
    use std::sync::Mutex;

    use axum::extract::{Query, State};
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use postrail_schema::ids::ShardId;

    use super::*;

    /// The answers of a host to orders about jobs, in their order; the last one stays.
    type Answers = Arc<Mutex<VecDeque<(u16, Value)>>>;

    async fn listen(router: Router) -> HostClient {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = DataPlane::beside(&admin).unwrap();
        HostClient { name: admin.clone(), id: HostId(1), admin, master_keys: Vec::new(), client }
    }

    async fn answering(answers: &[(u16, Value)]) -> HostClient {
        let answer = async |State(answers): State<Answers>| {
            let mut answers = answers.lock().unwrap();
            let first = answers.pop_front().unwrap();
            if answers.is_empty() {
                answers.push_back(first.clone());
            }
            (StatusCode::from_u16(first.0).unwrap(), Json(first.1))
        };
        let answers: Answers = Arc::new(Mutex::new(answers.iter().cloned().collect()));
        listen(Router::new().route("/jobs/{id}/cancel", post(answer)).with_state(answers)).await
    }

    #[tokio::test]
    async fn waiting_mail_is_tried_on_every_host_that_answers_and_the_others_are_named() {
        let good = async || {
            let answer = async || Json(json!({ "recipients": 2 }));
            listen(Router::new().route("/queue/retry", post(answer))).await
        };
        let gone = async || listen(Router::new()).await;
        let lost = gone().await;
        let known = KnownHosts::new(vec![lost.clone(), good().await, good().await]);
        let answer = known.retry(&json!({})).await.unwrap();
        assert_eq!(answer, json!({ "recipients": 4, "unanswered": [lost.name] }));
        let known = KnownHosts::new(vec![good().await, good().await]);
        assert_eq!(known.retry(&json!({})).await.unwrap(), json!({ "recipients": 4 }));
        assert!(KnownHosts::new(vec![gone().await, gone().await]).retry(&json!({})).await.is_err());
    }

    #[tokio::test]
    async fn a_job_is_settled_wherever_it_is_or_said_to_be_on_its_way() {
        let gone = || (404, json!({"code": "not_waiting"}));
        let moves = || (409, json!({"code": "being_moved", "detail": "it is being moved to mx2"}));
        let done = |recipients: u64| (200, json!({"recipients": recipients}));
        let broken = || (503, json!({"code": "shard_gone"}));
        let cases = [
            (vec![vec![gone()], vec![done(2)], vec![gone()]], Ok(2)),
            (vec![vec![done(1)], vec![done(2)]], Ok(3)),
            (vec![vec![moves()], vec![done(2)]], Ok(2)),
            (vec![vec![gone()], vec![moves()], vec![broken()]], Err(409)),
            (vec![vec![broken()], vec![gone()]], Err(503)),
            (vec![vec![gone()], vec![gone()]], Err(404)),
            // It came to the first one behind our back.
            (vec![vec![gone(), done(4)], vec![gone()]], Ok(4)),
        ];
        for (number, (hosts, wanted)) in cases.into_iter().enumerate() {
            let mut known = Vec::new();
            for answers in &hosts {
                known.push(answering(answers).await);
            }
            let id = MessageId::new(1_000, ShardId(0), 7);
            let settled = match KnownHosts::new(known).settle(id, Settling::Cancel).await {
                Ok(answer) => Ok(answer["recipients"].as_u64().unwrap()),
                Err(AppError::DataPlaneRefused { status, .. }) => Err(status),
                Err(error) => panic!("case {number}: {error}"),
            };
            assert_eq!(settled, wanted, "case {number}");
        }
    }

    /// A host with jobs that expire at those times.
    async fn holding(times: Vec<u64>) -> HostClient {
        let list = async |State(times): State<Arc<Vec<u64>>>, Query(query): Query<HashMap<String, String>>| {
            let limit: usize = query["limit"].parse().unwrap();
            let after = query.get("after").map_or(0, |after| after.split_once('.').unwrap().0.parse().unwrap());
            let view = |at: &u64| json!({"job": format!("job-{at}"), "tenant_id": 1, "domain_id": 1, "recipients": 1, "expires": "", "expires_ms": at});
            let jobs: Vec<_> = times.iter().filter(|at| **at > after).take(limit).map(view).collect();
            Json(json!({"jobs": jobs, "total": times.len()}))
        };
        listen(Router::new().route("/quarantine", get(list)).with_state(Arc::new(times))).await
    }

    #[tokio::test]
    async fn what_is_in_quarantine_is_paged_over_hosts_to_its_end_in_one_order() {
        let hosts = [(1..90).step_by(3).collect(), (2..90).step_by(3).collect(), vec![3, 6, 7, 9]];
        let mut known = Vec::new();
        for times in hosts {
            known.push(holding(times).await);
        }
        let known = KnownHosts::new(known);
        let (mut times, mut after) = (Vec::new(), None);
        loop {
            let page = known.quarantine(&HeldQuery { tenant: None, after, limit: 7 }).await.unwrap();
            assert_eq!(page.total, 30 + 30 + 4);
            times.extend(page.jobs.iter().take(7).map(|job| job.expires_ms));
            let Some(last) = page.jobs.get(7).and(page.jobs.get(6)) else { break };
            after = Some(last.key());
        }
        // The one that two hosts name is one job.
        let wanted: Vec<_> = (1..90).filter(|at| at % 3 != 0 || matches!(at, 3 | 6 | 9)).collect();
        assert_eq!(times, wanted);
    }

    #[tokio::test]
    async fn a_host_of_an_earlier_version_is_named_and_the_others_tell_what_they_hold() {
        let old = listen(Router::new()).await;
        let earlier = Unanswered {
            host: old.name.clone(),
            reason: "it runs an earlier version, which does not tell this: upgrade it".to_owned(),
        };
        let query = HeldQuery { tenant: None, after: None, limit: 7 };
        let known = KnownHosts::new(vec![old.clone(), holding(vec![1, 2]).await]);
        let page = known.quarantine(&query).await.unwrap();
        assert_eq!((page.jobs.len(), page.total, page.unanswered), (2, 2, vec![earlier.clone()]));
        let error = KnownHosts::new(vec![old]).quarantine(&query).await.unwrap_err();
        assert_eq!(error.to_string(), format!("no data plane tells it: {}: {}", earlier.host, earlier.reason));
    }
}
