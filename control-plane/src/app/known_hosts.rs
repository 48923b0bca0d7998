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

/// What several were asked for, by the names of those who told it, and who did not.
pub(super) struct Answers<T> {
    pub(super) told: Vec<(String, T)>,
    pub(super) unanswered: Vec<Unanswered>,
}

impl<T> Answers<T> {
    /// # Errors
    /// There are hosts, and none told it.
    fn any(self) -> Result<Self, AppError> {
        if self.told.is_empty() && !self.unanswered.is_empty() {
            return Err(AppError::NoneAnswers { hosts: self.unanswered });
        }
        Ok(self)
    }
}

/// What waits, shard by shard, as the data planes show it.
#[derive(Clone, Debug)]
pub(crate) struct WholeQueue {
    pub shards: Vec<Value>,
    /// Hosts whose shards are not in it.
    pub unanswered: Vec<Unanswered>,
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

    /// Asks all at once.
    pub(super) async fn ask<T, F>(&self, question: impl Fn(DataPlane) -> F) -> Answers<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, AppError>> + Send + 'static,
    {
        let mut asked = JoinSet::new();
        for host in self.all().iter() {
            let (name, answer) = (host.name.clone(), question(host.client.clone()));
            asked.spawn(async move { (name, answer.await) });
        }
        let mut all = asked.join_all().await;
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut answers = Answers { told: Vec::new(), unanswered: Vec::new() };
        for (host, answer) in all {
            match answer {
                Ok(answer) => answers.told.push((host, answer)),
                Err(error) => answers.unanswered.push(Unanswered::new(host, &error)),
            }
        }
        answers
    }

    /// The queue over all of them that answer, shard by shard; each shard of a fleet names its host.
    ///
    /// # Errors
    /// None answers.
    pub(crate) async fn queue(&self) -> Result<WholeQueue, AppError> {
        let answers = self.ask(|host| async move { host.queue().await }).await.any()?;
        let mut shards = Vec::new();
        for (name, mut queue) in answers.told {
            for mut shard in queue["shards"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                if !name.is_empty() {
                    shard["host"] = json!(name);
                }
                shards.push(shard);
            }
        }
        Ok(WholeQueue { shards, unanswered: answers.unanswered })
    }

    /// What waits for a person, over all of them that answer. More than `query` asks for says that there are more.
    ///
    /// # Errors
    /// None answers.
    pub(crate) async fn quarantine(&self, query: &HeldQuery) -> Result<HeldPage, AppError> {
        let beyond = HeldQuery { limit: query.limit + 1, ..query.clone() };
        let ask = |host: DataPlane| {
            let beyond = beyond.clone();
            async move { host.quarantine(&beyond).await }
        };
        let Answers { told, unanswered } = self.ask(ask).await.any()?;
        let mut all = HeldPage { unanswered, ..HeldPage::default() };
        for (_, mut theirs) in told {
            all.jobs.append(&mut theirs.jobs);
            all.total += theirs.total;
        }
        all.jobs.sort_unstable_by(|a, b| (a.expires_ms, &a.job).cmp(&(b.expires_ms, &b.job)));
        // A job on its way from one to the other is at both for a moment.
        all.jobs.dedup_by(|one, before| one.job == before.job);
        Ok(all)
    }

    /// What each says of itself that answers, by name.
    pub(crate) async fn statuses(&self) -> BTreeMap<String, HostStatus> {
        self.ask(|host| async move { host.status().await }).await.told.into_iter().collect()
    }

    /// Makes waiting mail due at once, on all of them that answer: for how many recipients, and who does not answer.
    ///
    /// # Errors
    /// None answers.
    pub(crate) async fn retry(&self, filter: &Value) -> Result<(u64, Vec<Unanswered>), AppError> {
        let ask = |host: DataPlane| {
            let filter = filter.clone();
            async move { host.retry(&filter).await }
        };
        let Answers { told, unanswered } = self.ask(ask).await.any()?;
        Ok((told.iter().filter_map(|(_, answer)| answer["recipients"].as_u64()).sum(), unanswered))
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

impl Unanswered {
    /// One that knows nothing of the question is of a version before it.
    fn new(host: String, error: &AppError) -> Self {
        let reason = match Refusal::of(error) {
            Refusal::NotThere => "it runs an earlier version, which does not tell this: upgrade it".to_owned(),
            _ if matches!(error, AppError::DataPlaneRefused { status: 401, .. }) => {
                "it does not know this control plane: one of the two has another master key than the cluster".to_owned()
            }
            _ => error.to_string(),
        };
        Self { host, reason }
    }
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

    fn of_an_earlier_version(host: &HostClient) -> Unanswered {
        let reason = "it runs an earlier version, which does not tell this: upgrade it".to_owned();
        Unanswered { host: host.name.clone(), reason }
    }

    /// A host whose address nobody listens at.
    async fn absent(name: &str) -> HostClient {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = format!("http://{}", listener.local_addr().unwrap());
        let client = DataPlane::beside(&admin).unwrap();
        HostClient { name: name.to_owned(), id: HostId(1), admin, master_keys: Vec::new(), client }
    }

    #[tokio::test]
    async fn the_queue_is_of_the_hosts_that_answer_and_names_the_others() {
        let queued = async |name: &str| {
            let answer = async || Json(json!({ "shards": [{"shard": 0, "waiting": 2}, {"shard": 1, "waiting": 1}] }));
            HostClient { name: name.to_owned(), ..listen(Router::new().route("/queue", get(answer))).await }
        };
        let lost =
            Unanswered { host: "mta-2".to_owned(), reason: "the data plane does not answer: no connection".to_owned() };
        let known = KnownHosts::new(vec![queued("mta-1").await, absent("mta-2").await, queued("mta-3").await]);
        let queue = known.queue().await.unwrap();
        let places: Vec<_> =
            queue.shards.iter().map(|shard| (shard["host"].as_str(), shard["shard"].as_u64())).collect();
        let (first, third) = (Some("mta-1"), Some("mta-3"));
        assert_eq!(places, [(first, Some(0)), (first, Some(1)), (third, Some(0)), (third, Some(1))]);
        assert_eq!(queue.unanswered, [lost]);
        let error = KnownHosts::new(vec![absent("mta-2").await]).queue().await.unwrap_err();
        assert_eq!(error.to_string(), "no data plane answers: mta-2: the data plane does not answer: no connection");
        let error = KnownHosts::new(vec![absent("").await]).queue().await.unwrap_err();
        assert_eq!(error.to_string(), "the data plane does not answer: no connection");
        let alone = KnownHosts::new(vec![queued("").await]).queue().await.unwrap();
        assert!(alone.shards.len() == 2 && alone.shards.iter().all(|shard| shard.get("host").is_none()));
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
        let (recipients, unanswered) = known.retry(&json!({})).await.unwrap();
        assert_eq!((recipients, unanswered), (4, vec![of_an_earlier_version(&lost)]));
        let known = KnownHosts::new(vec![good().await, good().await]);
        assert_eq!(known.retry(&json!({})).await.unwrap(), (4, Vec::new()));
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
        let earlier = of_an_earlier_version(&old);
        let query = HeldQuery { tenant: None, after: None, limit: 7 };
        let known = KnownHosts::new(vec![old.clone(), holding(vec![1, 2]).await]);
        let page = known.quarantine(&query).await.unwrap();
        assert_eq!((page.jobs.len(), page.total, page.unanswered), (2, 2, vec![earlier.clone()]));
        let error = KnownHosts::new(vec![old]).quarantine(&query).await.unwrap_err();
        assert_eq!(error.to_string(), format!("no data plane answers: {}: {}", earlier.host, earlier.reason));
    }
}
