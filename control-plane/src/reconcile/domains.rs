//! Checks the DNS records of sending domains: each one daily, those whose owners work on them hourly.
//!
//! ```text
//! stored checks -> when each domain is due -> the first that is: look whether somebody else checked it -> check -> due again
//! ```
//!
//! What is due follows from the stored checks alone, so a restart or a second control plane begins where the last one was.
//! One check is begun each [`PACE`] at most, and [`DOMAIN_CHECKS_AT_ONCE`] run at once: each asks DNS some dozen times and
//! writes to the configuration store, and where thousands of domains are due together (a fleet that was off, domains that
//! were added at once) they would keep both from their other work. A change of configuration costs what it changes of the
//! domains, not a look at all of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::ids::SendingDomainId;
use postrail_schema::limits::DOMAIN_CHECKS_AT_ONCE;
use postrail_schema::snapshot::SendingDomain;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::app::{App, AppError, check_domain, due_ms, now_ms};
use crate::plan::{Desired, Table};

/// Runs until `stop` is true.
pub(crate) async fn check_domains(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut schedule = Schedule::read(&app).await;
    let mut running = JoinSet::new();
    let mut begin = interval(PACE);
    begin.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let may_begin = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            Some(done) = running.join_next() => {
                if let Ok((id, result)) = done {
                    schedule.done(&app.desired().domains, id, now_ms());
                    report(result);
                }
                false
            }
            _ = begin.tick() => running.len() < DOMAIN_CHECKS_AT_ONCE,
        };
        if may_begin && let Some(id) = schedule.next(&app).await {
            let app = Arc::clone(&app);
            running.spawn(async move { (id, check_domain(&app, id).await) });
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
    /// As they were when this was looked at last.
    seen: Table<SendingDomainId, SendingDomain>,
    /// Unix milliseconds. Those that are being checked are in neither of the two.
    due: HashMap<SendingDomainId, u64>,
    order: BTreeSet<(u64, SendingDomainId)>,
    running: HashSet<SendingDomainId>,
}

impl Schedule {
    /// What follows from all stored checks. Where they cannot be read, each is looked at by itself.
    async fn read(app: &Arc<App>) -> Self {
        let mut schedule = Self::default();
        let desired = app.desired();
        let domains = &desired.domains;
        schedule.follow(domains, |domain| is_ours(app, &desired, domain), 0);
        let reader = Arc::clone(app);
        if let Ok(Ok(checks)) = tokio::task::spawn_blocking(move || reader.last_checks()).await {
            for (id, last) in checks {
                if let Some(domain) = domains.get(&id).filter(|domain| is_ours(app, &desired, domain)) {
                    schedule.put(id, Some(due_ms(domain, Some(&last))));
                }
            }
        }
        schedule
    }

    /// The first domain that is due; it is being checked then.
    async fn next(&mut self, app: &Arc<App>) -> Option<SendingDomainId> {
        let desired = app.desired();
        let now = now_ms();
        self.follow(&desired.domains, |domain| is_ours(app, &desired, domain), now);
        while let Some(id) = self.first(now) {
            let reader = Arc::clone(app);
            // Somebody else may have checked it meanwhile, or its owner by hand.
            let last = tokio::task::spawn_blocking(move || reader.last_check(id)).await;
            let domain = desired.domains.get(&id)?;
            let due = match last {
                Ok(Ok(last)) => due_ms(domain, last.as_ref()),
                Ok(Err(_)) | Err(_) => now + RETRY_MS,
            };
            if due <= now {
                self.put(id, None);
                self.running.insert(id);
                return Some(id);
            }
            self.put(id, Some(due));
        }
        None
    }

    /// Takes over what has changed of the domains: when those are due is not known any more. They are looked at a little
    /// after `now`, since who has just made one is about to publish its records.
    fn follow(
        &mut self,
        domains: &Table<SendingDomainId, SendingDomain>,
        is_ours: impl Fn(&SendingDomain) -> bool,
        now: u64,
    ) {
        let seen = std::mem::replace(&mut self.seen, domains.clone());
        for (id, _, is) in domains.changes(&seen) {
            if !self.running.contains(id) {
                self.put(*id, is.filter(|domain| is_ours(domain)).map(|_| now + REST_MS));
            }
        }
    }

    fn first(&self, now: u64) -> Option<SendingDomainId> {
        self.order.first().filter(|(due, _)| *due <= now).map(|(_, id)| *id)
    }

    /// Looks at what is stored before the next check, which comes no sooner than a failed one may be tried again.
    fn done(&mut self, domains: &Table<SendingDomainId, SendingDomain>, id: SendingDomainId, now: u64) {
        self.running.remove(&id);
        self.put(id, domains.get(&id).map(|_| now + RETRY_MS));
    }

    fn put(&mut self, id: SendingDomainId, due: Option<u64>) {
        let was = match due {
            Some(due) => self.due.insert(id, due),
            None => self.due.remove(&id),
        };
        if let Some(was) = was {
            self.order.remove(&(was, id));
        }
        self.order.extend(due.map(|due| (due, id)));
    }
}

/// What a check finds goes to the audit trail and the log, which are not those of another region's tenants.
fn is_ours(app: &App, desired: &Desired, domain: &SendingDomain) -> bool {
    app.other_region(desired, domain.tenant).is_none()
}

/// Between the beginnings of two checks: the largest installation has all of its domains checked within three hours.
const PACE: Duration = Duration::from_millis(100);
/// From when a domain was made or changed until it is looked at.
const REST_MS: u64 = 5_000;
/// After what a check that was not stored is tried again.
const RETRY_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use postrail_schema::ids::TenantId;
    use postrail_schema::keys;
    use postrail_schema::sealed::{MasterKey, MasterKeys};
    use postrail_schema::standing::Standing;

    use super::*;
    use crate::app::{Bootstrap, KnownHosts, Parts};
    use crate::dns::Resolver;
    use crate::ledger::SqliteLedger;
    use crate::store::{ConfigStore, EmbeddedStore, Write};
    use crate::verify::DomainCheck;

    fn domain(id: u32, standing: Standing) -> (SendingDomainId, SendingDomain) {
        let json = format!(r#"{{"id":{id},"tenant":1,"name":"d{id}.example","keys":[],"pool":null}}"#);
        let made: SendingDomain = serde_json::from_str(&json).unwrap();
        (SendingDomainId(id), SendingDomain { standing, tenant: TenantId(1), ..made })
    }

    fn table(ids: impl IntoIterator<Item = u32>) -> Table<SendingDomainId, SendingDomain> {
        let mut table = Table::default();
        ids.into_iter().map(|id| domain(id, Standing::Trusted)).for_each(|(id, domain)| table.insert(id, domain));
        table
    }

    fn everywhere(_: &SendingDomain) -> bool {
        true
    }

    #[test]
    fn what_is_due_first_is_first_and_what_has_changed_or_come_is_looked_at_again() {
        let (mut schedule, mut domains) = (Schedule::default(), table(1..=3));
        schedule.follow(&domains, everywhere, 0);
        for (id, due) in [(1, 9_500), (2, 9_300), (3, 9_400)] {
            assert_eq!(schedule.first(REST_MS), Some(SendingDomainId(id)), "nothing is known of it");
            schedule.put(SendingDomainId(id), Some(due));
        }
        assert_eq!((schedule.first(9_299), schedule.first(9_450)), (None, Some(SendingDomainId(2))));
        schedule.follow(&domains, everywhere, 7);
        assert_eq!(schedule.first(9_299), None, "nothing has changed");
        let (id, changed) = domain(3, Standing::Failing);
        domains.insert(id, changed);
        let (id, come) = domain(9, Standing::Trusted);
        domains.insert(id, come);
        domains.remove(&SendingDomainId(2));
        schedule.follow(&domains, everywhere, 7);
        assert_eq!(
            schedule.order.iter().copied().collect::<Vec<_>>(),
            [(7 + REST_MS, SendingDomainId(3)), (7 + REST_MS, SendingDomainId(9)), (9_500, SendingDomainId(1)),]
        );
    }

    /// A control plane on `store`, with a ledger of its own name.
    fn control_plane(folder: &Path, store: &Arc<dyn ConfigStore>, name: &str) -> Arc<App> {
        let parts = Parts {
            store: Arc::clone(store),
            ledger: Arc::new(SqliteLedger::open(&folder.join(name)).unwrap()),
            hosts: KnownHosts::new(Vec::new()),
            allocation: None,
            masters: MasterKeys::only(MasterKey::new([9; 32])),
            resolver: Resolver::new(Vec::new()),
            hostname: "mail.sender.example".into(),
            region: String::new(),
        };
        Arc::new(App::new(parts).unwrap())
    }

    #[tokio::test]
    async fn who_takes_over_goes_on_with_the_days_of_who_was_there() {
        const HOUR_MS: u64 = 3_600_000;
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
        let first = control_plane(folder.path(), &store, "first.db");
        let bootstrap = Bootstrap { hostname: "mail.sender.example".into(), ..Bootstrap::default() };
        first.bootstrap(&bootstrap, "po_token").unwrap();
        // Looked at an hour, 20 and 30 hours ago, and never.
        first.change(|draft| (11..=14).try_for_each(|id| draft.put(domain(id, Standing::Verified).1))).unwrap();
        let now = now_ms();
        for (id, hours) in [(11, 1), (12, 20), (13, 30)] {
            let check = DomainCheck { checked_at_ms: now - hours * HOUR_MS, ..DomainCheck::default() };
            let value = serde_json::to_vec(&check).unwrap();
            store.txn(&[], &[Write::Put { key: keys::check(SendingDomainId(id)), value }]).unwrap();
        }
        let second = control_plane(folder.path(), &store, "second.db");
        let mut schedules = [Schedule::read(&first).await, Schedule::read(&second).await];
        assert_eq!(schedules[0].order, schedules[1].order, "it follows from what is stored");
        let [_, schedule] = &mut schedules;
        let due: Vec<_> = schedule.order.iter().filter(|(due, _)| *due <= now).map(|(_, id)| id.0).collect();
        assert_eq!(due, [14, 13], "what was never looked at, and what is late");
        for (id, hours) in [(11, 23), (12, 4)] {
            let (due, most) = (schedule.due[&SendingDomainId(id)], now + hours * HOUR_MS);
            assert!((most - 24 * HOUR_MS / 10..=most).contains(&due), "{id}: {due}");
        }
        // It takes what is due once, and waits for the others.
        let taken = [schedule.next(&second).await, schedule.next(&second).await, schedule.next(&second).await];
        assert_eq!(taken, [Some(SendingDomainId(14)), Some(SendingDomainId(13)), None]);
    }

    #[test]
    fn domains_of_tenants_of_another_region_are_not_looked_at() {
        let mut schedule = Schedule::default();
        schedule.follow(&table(1..=4), |domain| domain.id.0 % 2 == 0, 0);
        let due: Vec<_> = schedule.order.iter().map(|(_, id)| id.0).collect();
        assert_eq!(due, [2, 4]);
    }

    #[test]
    fn a_domain_that_is_being_checked_is_due_again_only_afterwards_and_only_if_it_is_still_there() {
        let (mut schedule, mut domains) = (Schedule::default(), table([1, 2]));
        schedule.follow(&domains, everywhere, 7);
        for id in [1, 2].map(SendingDomainId) {
            schedule.put(id, None);
            schedule.running.insert(id);
        }
        let (id, moved) = domain(1, Standing::Failing);
        domains.insert(id, moved);
        domains.remove(&SendingDomainId(2));
        schedule.follow(&domains, everywhere, 7);
        assert_eq!(schedule.first(u64::MAX), None);
        schedule.done(&domains, SendingDomainId(1), 7);
        schedule.done(&domains, SendingDomainId(2), 7);
        assert_eq!((schedule.first(7), schedule.first(7 + RETRY_MS)), (None, Some(SendingDomainId(1))));
        assert_eq!(schedule.order.len(), 1);
    }
}
