//! Checks of the DNS records of sending domains, and what they decide.
//!
//! ```text
//! desired domain -> Subject -> verify::check -> checks/<id> (beside desired state, without a revision)
//!                                            -> a new standing, only where it changes (a change like any other)
//! ```
//!
//! Invariants worth naming: a check writes to desired state only when the standing moves, so daily checks of many domains
//! publish nothing; what another tenant's domain of that name may decides nothing, but where hosts have one domain of a name
//! ([`Desired::holder_beside`]); a check that comes too late for a domain that was deleted or changed decides nothing. Absent here: when to check (`reconcile`).

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use postrail_schema::ids::SendingDomainId;
use postrail_schema::keys;
use postrail_schema::limits::{
    DOMAIN_CHECK_EAGER, DOMAIN_CHECK_PAUSE, DOMAIN_CHECK_PERIOD, DOMAIN_CHECK_PERIOD_SHORT, DOMAIN_KEYS_MAX,
};
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::snapshot::{DkimKey, KeyStage, SendingDomain};
use postrail_schema::standing::Standing;
use tokio::task::JoinError;
use tokio::time::timeout;

use super::domains::{find, subject};
use super::keys::{ALGORITHMS, Private};
use super::{App, AppError, now_ms, put};
use crate::plan::{Desired, key_stages};
use crate::store::Entry;
use crate::verify::{self, DomainCheck, Held, Purpose, RecordCheck, RecordState, next};

impl App {
    /// The last check of a domain; `None`: there was none yet.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn last_check(&self, id: SendingDomainId) -> Result<Option<DomainCheck>, AppError> {
        let entries = self.store.get(&[keys::check(id)])?.entries;
        // What a later version wrote differently is found anew by the next check.
        Ok(entries.first().and_then(|entry| serde_json::from_slice(&entry.value).ok()))
    }

    /// The last check of every domain that had one.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn last_checks(&self) -> Result<Vec<(SendingDomainId, DomainCheck)>, AppError> {
        let entries = self.store.list(keys::CHECKS)?.entries;
        let read = |entry: &Entry| {
            let id = entry.key.strip_prefix(keys::CHECKS).and_then(|id| id.parse().ok()).map(SendingDomainId);
            Some((id?, serde_json::from_slice(&entry.value).ok()?))
        };
        Ok(entries.iter().filter_map(read).collect())
    }

    /// Findings about the keys of `desired`, of those that the last checks looked at: mail that is signed with a key that DNS
    /// does not have fails at receivers. Domains that have to prove themselves have findings of their own for that.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn key_problems(&self, desired: &Desired) -> Result<Vec<Problem>, AppError> {
        let checked = self.desired();
        let mut problems = Vec::new();
        for (id, check) in self.last_checks()? {
            let Some(domain) = desired.domains.get(&id) else { continue };
            let is_looked_at = checked.domains.get(&domain.id).is_some_and(|seen| seen.keys == domain.keys);
            if !is_looked_at || problems.len() >= KEY_PROBLEMS_MAX {
                continue;
            }
            let is_bad = |record: &&RecordCheck| matches!(record.state, RecordState::Missing | RecordState::Wrong);
            let bad = check.records.iter().filter(is_bad).filter_map(|record| Some((record, key_of(domain, record)?)));
            problems.extend(bad.filter_map(|(record, key)| key_problem(domain, record, key.stage)));
        }
        Ok(problems)
    }

    /// Keeps what a check found, and moves the domain's standing by it.
    fn record_check(&self, domain: &SendingDomain, mut records: Vec<RecordCheck>) -> Result<(), AppError> {
        let now = now_ms();
        let before = self.last_check(domain.id)?;
        // It may have been given its standing by the operator since.
        let known = before.filter(|before| before.standing == domain.standing.name());
        let since_ms = known.map_or(now, |before| before.standing_since_ms);
        let state = |selector: &str| state_of_key(domain, selector, &records);
        let keys = key_stages::advance(domain.keys.clone(), state, now);
        let mut held = next(Held { standing: domain.standing, since_ms }, &of_signers(domain, &keys, &records), now);
        let begins = held.standing.may_send() && !domain.standing.may_send();
        if begins && self.desired().holder_beside(domain).is_some() {
            held = Held { standing: domain.standing, since_ms };
            hold_back(&mut records);
        }
        let made = self.successors(domain, now)?;
        let moves = held.standing != domain.standing || keys != domain.keys || !made.is_empty();
        if moves && !self.move_domain(domain, held.standing, keys, &made)? {
            held = Held { standing: domain.standing, since_ms };
        }
        if !self.desired().domains.contains_key(&domain.id) {
            return Ok(());
        }
        let (standing, standing_since_ms) = (held.standing.name().to_owned(), held.since_ms);
        let check = DomainCheck { checked_at_ms: now, standing, standing_since_ms, records };
        self.store.txn(&[], &[put(keys::check(domain.id), &check)?])?;
        Ok(())
    }

    /// Keys for those that have signed for long enough, by the settings.
    fn successors(&self, domain: &SendingDomain, now: u64) -> Result<Vec<Private>, AppError> {
        let Some(days) = self.desired().settings.dkim_rotation_days else { return Ok(Vec::new()) };
        if domain.keys.len() + ALGORITHMS.len() > DOMAIN_KEYS_MAX {
            return Ok(Vec::new());
        }
        key_stages::due(&domain.keys, days, now).into_iter().map(Private::make).collect()
    }

    /// Whether the domain was still as the check saw it, and so has the new standing and the new keys.
    fn move_domain(
        &self,
        seen: &SendingDomain,
        standing: Standing,
        keys: Vec<DkimKey>,
        made: &[Private],
    ) -> Result<bool, AppError> {
        let moved = self.change(|draft| {
            let Some(domain) = draft.desired.domains.get(&seen.id).filter(|domain| *domain == seen) else {
                return Err(AppError::not_found("domain", &*seen.name));
            };
            let begins = standing.may_send() && !seen.standing.may_send();
            if begins && draft.desired.holder_beside(seen).is_some() {
                return Err(AppError::conflict("another tenant's domain of that name has begun to send"));
            }
            let mut domain = SendingDomain { standing, keys: keys.clone(), ..domain.clone() };
            for private in made {
                self.put_waiting(draft, &mut domain, private, None)?;
            }
            draft.put(domain.clone())?;
            Ok(domain)
        });
        let moved = match moved {
            Ok(moved) => moved,
            Err(AppError::NotFound { .. } | AppError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        for action in moves(seen, &moved) {
            tracing::info!(domain = %seen.name, action, "a check of DNS has changed a sending domain");
            let sequence = self.ledger.audit_begin(now_ms(), "domain check", &action)?;
            self.ledger.audit_end(sequence, DONE)?;
        }
        Ok(true)
    }
}

/// As [`check_domain`] for someone who asks, and who may wait a little for others that ask. A domain that is being looked at,
/// or was a moment ago, is not looked at again.
///
/// # Errors
/// As [`check_domain`], or too many ask at once.
pub(crate) async fn check_on_demand(app: &Arc<App>, id: SendingDomainId) -> Result<(), AppError> {
    let before = blocking(app, move |app| app.last_check(id)).await?;
    let pause_ms = millis(DOMAIN_CHECK_PAUSE);
    if before.is_some_and(|before| now_ms().saturating_sub(before.checked_at_ms) < pause_ms) {
        return Ok(());
    }
    let busy = || AppError::Busy { detail: "many domains are being checked; try again" };
    let Ok(Ok(_room)) = timeout(ROOM_PATIENCE, app.checks.acquire()).await else { return Err(busy()) };
    let Some(_turn) = Turn::take(app, id) else { return Err(busy()) };
    check_domain(app, id).await
}

/// Looks at a domain's records now.
///
/// # Errors
/// The domain does not exist, or a store fails.
pub(crate) async fn check_domain(app: &Arc<App>, id: SendingDomainId) -> Result<(), AppError> {
    let desired = app.desired();
    let domain = find(&desired, id)?.clone();
    let before = blocking(app, move |app| app.last_check(id)).await?;
    let subject = subject(&desired, &domain, &app.hostname);
    let records = verify::check(&subject, &app.resolver, before.as_ref(), now_ms()).await;
    blocking(app, move |app| app.record_check(&domain, records)).await
}

/// When a domain is to be checked again, Unix milliseconds; the same for everyone who asks, and apart for each domain.
pub(crate) fn due_ms(domain: &SendingDomain, last: Option<&DomainCheck>) -> u64 {
    let Some(last) = last else { return 0 };
    let lasts_ms = last.checked_at_ms.saturating_sub(last.standing_since_ms);
    // Its owner is about to publish the record of a new key.
    let rotates = domain.keys.iter().any(|key| {
        let waits_ms = last.checked_at_ms.saturating_sub(key.since_ms);
        key.stage == KeyStage::Waiting && waits_ms < millis(DOMAIN_CHECK_EAGER)
    });
    let period = match domain.standing {
        _ if rotates => DOMAIN_CHECK_PERIOD_SHORT,
        Standing::Failing => DOMAIN_CHECK_PERIOD_SHORT,
        Standing::Unproved { .. } if lasts_ms < millis(DOMAIN_CHECK_EAGER) => DOMAIN_CHECK_PERIOD_SHORT,
        Standing::Unproved { .. } | Standing::Trusted | Standing::Verified | Standing::Lapsed { .. } => {
            DOMAIN_CHECK_PERIOD
        }
    };
    // A tenth earlier at most, so that domains that were added together drift apart.
    let tenth = millis(period) / 10;
    let early = (u64::from(domain.id.0).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ last.checked_at_ms) % tenth.max(1);
    last.checked_at_ms + millis(period) - early
}

/// The one check of a domain that somebody asked for.
struct Turn<'a> {
    app: &'a App,
    id: SendingDomainId,
}

impl<'a> Turn<'a> {
    fn take(app: &'a App, id: SendingDomainId) -> Option<Self> {
        app.checked_now.lock().unwrap_or_else(PoisonError::into_inner).insert(id).then_some(Self { app, id })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.app.checked_now.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// What is worth knowing of a key record that is not right. Where DNS decides, the standing tells of keys that sign.
fn key_problem(domain: &SendingDomain, record: &RecordCheck, stage: KeyStage) -> Option<Problem> {
    let trusted = domain.standing == Standing::Trusted;
    let (code, what) = match (stage, record.state) {
        (KeyStage::Signing, RecordState::Wrong) if trusted => {
            ("key_not_as_in_dns", "is of another key than the one that signs")
        }
        (KeyStage::Signing, _) if trusted => ("key_not_in_dns", "is not published, and the key signs"),
        (KeyStage::Former { .. }, _) => ("key_record_gone_early", "is gone, and mail that it signed is on its way"),
        _ => return None,
    };
    let detail =
        format!("{} {what}: receivers take its signatures for forged; run `postrail domain check`", record.name);
    Some(Problem { severity: Severity::Warning, code, subject: format!("domain/{}", domain.name), detail })
}

/// What of a domain differs, for the audit trail.
fn moves(before: &SendingDomain, after: &SendingDomain) -> Vec<String> {
    let (name, mut moves) = (&before.name, Vec::new());
    if before.standing.name() != after.standing.name() {
        moves.push(format!("domain {name}: {} to {}", before.standing.name(), after.standing.name()));
    }
    let stage = |keys: &[DkimKey], selector: &str| {
        keys.iter().find(|key| key.selector == selector).map_or("none", |key| key.stage.name())
    };
    let selectors: BTreeSet<_> = before.keys.iter().chain(&after.keys).map(|key| key.selector.as_str()).collect();
    for selector in selectors {
        let (from, to) = (stage(&before.keys, selector), stage(&after.keys, selector));
        if from != to {
            moves.push(format!("key {selector} of {name}: {from} to {to}"));
        }
    }
    moves
}

fn key_of<'a>(domain: &'a SendingDomain, record: &RecordCheck) -> Option<&'a DkimKey> {
    let of = |key: &&DkimKey| record.name == format!("{}._domainkey.{}", key.selector, domain.name);
    domain.keys.iter().filter(|_| record.purpose == Purpose::Dkim).find(of)
}

fn state_of_key(domain: &SendingDomain, selector: &str, records: &[RecordCheck]) -> Option<RecordState> {
    let of = |record: &&RecordCheck| key_of(domain, record).is_some_and(|key| key.selector == selector);
    records.iter().find(of).map(|record| record.state)
}

/// What decides whether a domain may send: of its key records those of keys that sign, by `keys`, which are the domain's from now
/// on. Where there are keys and none signs, what signs is missing.
fn of_signers(domain: &SendingDomain, keys: &[DkimKey], records: &[RecordCheck]) -> Vec<RecordCheck> {
    let signs = |key: &DkimKey| keys.iter().any(|now| now.selector == key.selector && now.stage.signs());
    let is_unsigned = !keys.is_empty() && !keys.iter().any(|key| key.stage.signs());
    let counts = |record: &RecordCheck| match key_of(domain, record) {
        Some(key) if !signs(key) => is_unsigned.then(|| RecordCheck { state: RecordState::Missing, ..record.clone() }),
        _ => Some(record.clone()),
    };
    records.iter().filter_map(counts).collect()
}

/// All is right, and the domain may not send yet. It says so without a word about anybody else.
fn hold_back(records: &mut [RecordCheck]) {
    for record in records.iter_mut().filter(|record| record.purpose == Purpose::Ownership) {
        record.detail =
            "the record is right; the domain begins to send once all servers of this service are upgraded".to_owned();
        record.advice =
            "Leave the records in place; it is looked at again by itself, or now by another check.".to_owned();
    }
}

async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    call: impl FnOnce(&App) -> Result<T, AppError> + Send + 'static,
) -> Result<T, AppError> {
    let app = Arc::clone(app);
    match tokio::task::spawn_blocking(move || call(&app)).await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(AppError::conflict("the control plane is stopping")),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Findings about keys that are told at once.
const KEY_PROBLEMS_MAX: usize = 1_000;
/// How long a check that somebody asks for waits for others to end.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// What the audit trail has as the status of something that was done.
const DONE: u16 = 200;

#[cfg(test)]
mod tests {
    use postrail_schema::ids::TenantId;
    use postrail_schema::standing::DomainRecord;

    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn domain(id: u32, standing: Standing) -> SendingDomain {
        let (id, tenant, name) = (SendingDomainId(id), TenantId(1), "a.example".to_owned());
        SendingDomain { id, tenant, name, keys: Vec::new(), pool: None, standing, is_platform: false, is_later: false }
    }

    #[test]
    fn a_domain_is_due_daily_or_hourly_and_at_once_when_it_never_was() {
        let unproved = Standing::Unproved { missing: DomainRecord::Spf };
        let lapsed = Standing::Lapsed { missing: DomainRecord::Spf };
        let cases = [
            (Standing::Trusted, 0, 24),
            (Standing::Verified, 0, 24),
            (lapsed, 0, 24),
            (Standing::Failing, 99 * 24, 1),
            (unproved, 71, 1),
            (unproved, 73, 24),
        ];
        for (standing, lasts_hours, hours) in cases {
            let checked_at_ms = 1_000 * HOUR_MS;
            let standing_since_ms = checked_at_ms - lasts_hours.min(1_000) * HOUR_MS;
            let last = DomainCheck { checked_at_ms, standing_since_ms, ..DomainCheck::default() };
            assert_eq!(due_ms(&domain(1, standing), None), 0);
            let due: Vec<_> = (1..=50).map(|id| due_ms(&domain(id, standing), Some(&last)) - checked_at_ms).collect();
            let (least, most) = (hours * HOUR_MS * 9 / 10, hours * HOUR_MS);
            assert!(due.iter().all(|after| (least..=most).contains(after)), "{standing:?}: {due:?}");
            assert!(due.iter().any(|after| *after != due[0]), "domains drift apart");
        }
    }
}
