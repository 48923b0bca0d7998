//! Checks the DNS records of sending domains: each one daily, those whose owners work on them hourly.
//!
//! Activated by period; what is due follows from the stored checks alone, so a restart or a second control plane begins
//! where the last one was. At most [`DOMAIN_CHECKS_AT_ONCE`] run at once, and none is begun while as many are under way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::ids::SendingDomainId;
use postrail_schema::limits::DOMAIN_CHECKS_AT_ONCE;
use postrail_schema::standing::Standing;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::{App, AppError, check_domain, due_ms, now_ms};

/// Runs until `stop` is true.
pub(crate) async fn check_domains(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut schedule = Schedule::default();
    let mut running = JoinSet::new();
    loop {
        while running.len() < DOMAIN_CHECKS_AT_ONCE
            && let Some(id) = schedule.next(&app).await
        {
            let app = Arc::clone(&app);
            running.spawn(async move { (id, check_domain(&app, id).await) });
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            Some(done) = running.join_next() => if let Ok((id, result)) = done {
                schedule.done(&app, id);
                report(result);
            },
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

fn report(result: Result<(), AppError>) {
    match result {
        Ok(()) | Err(AppError::NotFound { .. }) => {}
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a sending domain was not checked");
        }
    }
}

/// When domains are due, as far as it is known here.
#[derive(Default)]
struct Schedule {
    /// With the standing that the time followed from.
    due: HashMap<SendingDomainId, (u64, Standing)>,
    running: HashSet<SendingDomainId>,
}

impl Schedule {
    /// The first domain that is due.
    async fn next(&mut self, app: &Arc<App>) -> Option<SendingDomainId> {
        let desired = app.desired();
        self.due.retain(|id, (_, standing)| desired.domains.get(id).is_some_and(|domain| domain.standing == *standing));
        let now = now_ms();
        for domain in desired.domains.values() {
            let due = self.due.get(&domain.id).map_or(0, |(due, _)| *due);
            if due > now || self.running.contains(&domain.id) {
                continue;
            }
            let (id, reader) = (domain.id, Arc::clone(app));
            // Somebody else may have checked it meanwhile, or its owner by hand.
            let last = tokio::task::spawn_blocking(move || reader.last_check(id)).await;
            let due = match last {
                Ok(Ok(last)) => due_ms(domain, last.as_ref()),
                Ok(Err(_)) | Err(_) => now + RETRY_MS,
            };
            if due <= now {
                self.running.insert(id);
                return Some(id);
            }
            self.due.insert(id, (due, domain.standing));
        }
        None
    }

    /// Looks at what is stored before the next check, which comes no sooner than a failed one may be tried again.
    fn done(&mut self, app: &App, id: SendingDomainId) {
        self.running.remove(&id);
        if let Some(domain) = app.desired().domains.get(&id) {
            self.due.insert(id, (now_ms() + RETRY_MS, domain.standing));
        }
    }
}

/// How often it is looked what is due; a new domain waits so long for its first check.
const PERIOD: Duration = Duration::from_secs(5);
/// After what a check that was not stored is tried again.
const RETRY_MS: u64 = 60_000;
