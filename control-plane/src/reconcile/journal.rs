//! Takes the data planes' event journals into the ledger, one task a shard of each host.
//!
//! ```text
//! cursor from ledger -> pull (waits up to 500 ms) -> check -> record batch + cursor in one transaction -> pause -> pull
//!                    <- at most once a second: make durable, then tell the data plane to trim
//! ```
//!
//! At most [`JOURNAL_PULLS_MAX`] journals are pulled at once, by turns; where others wait for a turn, a pull waits for no
//! events. A pull, its transaction and the threads that they wake cost some hundred microseconds, however few events come. So a
//! pause follows each answer, longer where much came: an event of an idle system is taken at once, or after 20 ms
//! where another came just before; under load, a tenth of a second's events are stored together. So it is where the
//! journal holds notes of the data plane, which are not given out and move the cursor all the same.
//!
//! Invariants worth naming: a journal is trimmed only up to what survives a loss of power here; nothing is kept but in the
//! ledger, so a crash at any point begins again at its cursor. A buffer that does not decode is set aside with an ERROR
//! and does not stop what follows. Where the journal begins behind our cursor (an older ledger was restored), reading goes on
//! there, with an ERROR: what lies between is lost to the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postrail_schema::ids::{HostId, ShardId};
use postrail_schema::limits::{JOURNAL_PULL_BYTES_MAX, JOURNAL_PULLS_MAX};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::app::{App, AppError, DataPlane, HostClient, JournalAnswer, PulledJournal};
use crate::ledger::{Batch, Cursor, JournalId, LedgerError};

/// What the metrics tell of the pulls.
#[derive(Debug, Default)]
pub(crate) struct JournalGauges {
    pub events: AtomicU64,
    pub unread: AtomicU64,
    /// Jumps over events that the journal did not have any more.
    pub gaps: AtomicU64,
    pub failures: AtomicU64,
    /// When a pull succeeded last, Unix milliseconds.
    pub pulled_ms: AtomicU64,
}

/// Runs until `stop` is true; what was pulled is stored first. One task a shard of each host that is known.
pub(crate) async fn pull_journals(app: Arc<App>, gauges: Arc<JournalGauges>, mut stop: watch::Receiver<bool>) {
    let mut changes = app.hosts.changes();
    // What is pulled, and how each is told to end.
    let mut pulled: BTreeMap<(HostId, String), watch::Sender<bool>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let turns = Arc::new(Semaphore::new(JOURNAL_PULLS_MAX));
    loop {
        changes.mark_unchanged();
        let hosts = app.hosts.all();
        pulled.retain(|(id, admin), ended| {
            let goes_on = hosts.iter().any(|host| host.id == *id && host.admin == *admin);
            if !goes_on {
                ended.send_replace(true);
            }
            goes_on
        });
        for host in hosts.iter() {
            pulled.entry((host.id, host.admin.clone())).or_insert_with(|| {
                let (ended, end) = watch::channel(false);
                tasks.spawn(pull_host(Arc::clone(&app), Arc::clone(&gauges), Arc::clone(&turns), host.clone(), end));
                ended
            });
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            changed = changes.changed() => if changed.is_err() { break },
            Some(_) = tasks.join_next() => {}
        }
    }
    for ended in pulled.values() {
        ended.send_replace(true);
    }
    while tasks.join_next().await.is_some() {}
}

async fn pull_host(
    app: Arc<App>,
    gauges: Arc<JournalGauges>,
    turns: Arc<Semaphore>,
    host: HostClient,
    mut stop: watch::Receiver<bool>,
) {
    let Some(shards) = shard_count(&host, &mut stop).await else { return };
    let mut tasks = JoinSet::new();
    for shard in 0..shards {
        let (app, gauges, turns) = (Arc::clone(&app), Arc::clone(&gauges), Arc::clone(&turns));
        let client = host.client.clone();
        let journal = JournalId { host: host.id, shard: ShardId(shard) };
        tasks.spawn(Puller { app, gauges, turns, client, journal }.run(stop.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

/// Asks until the data plane answers: it may start later than we do.
async fn shard_count(host: &HostClient, stop: &mut watch::Receiver<bool>) -> Option<u16> {
    let (mut pause, mut told) = (PAUSE_MIN, None);
    loop {
        match host.client.shards().await {
            Ok(shards) => return Some(shards),
            // It is there, and will not be spoken to before somebody does something: a person is told, once.
            Err(AppError::DataPlaneUntrusted { detail }) => {
                if told.as_ref() != Some(&detail) {
                    tracing::error!(host = host.name, detail, "there is no trust between this host and us");
                }
                (pause, told) = ((pause * 2).min(PAUSE_MAX), Some(detail));
            }
            Err(error) => {
                tracing::debug!(host = host.name, error = &error as &dyn std::error::Error, "data plane not reached");
            }
        }
        if paused(stop, pause).await {
            return None;
        }
    }
}

struct Puller {
    app: Arc<App>,
    gauges: Arc<JournalGauges>,
    /// Who has one of these may pull.
    turns: Arc<Semaphore>,
    client: DataPlane,
    journal: JournalId,
}

impl Puller {
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE_MIN;
        let mut trim = Trim::default();
        // What the ledger has as its cursor, where it is known. Whoever else stores what we have pulled makes ours stale.
        let mut cursor = None;
        while !*stop.borrow() {
            match self.pull_once(&mut cursor, &mut trim, &mut stop).await {
                Ok(rest) => {
                    pause = PAUSE_MIN;
                    if !rest.is_zero() && paused(&mut stop, rest).await {
                        return;
                    }
                }
                Err(error) => {
                    cursor = None;
                    self.gauges.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(journal = %self.journal, error = &error as &dyn std::error::Error, "journal not taken");
                    if paused(&mut stop, pause).await {
                        return;
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Takes what there is; how long to rest before the next time.
    async fn pull_once(
        &self,
        cursor: &mut Option<Cursor>,
        trim: &mut Trim,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Duration, AppError> {
        let Ok(_turn) = self.turns.acquire().await else { return Ok(REST_CROWDED) };
        // Who waits for events keeps others waiting for a turn.
        let is_crowded = self.turns.available_permits() == 0;
        let (app, journal) = (Arc::clone(&self.app), self.journal);
        let begun = match *cursor {
            Some(known) => known,
            None => blocking(move || app.ledger.cursor(journal)).await?,
        };
        let answer = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(Duration::ZERO),
            answer = self.client.pull(journal.shard, begun, if is_crowded { Duration::ZERO } else { WAIT }) => answer?,
        };
        let answered = Instant::now();
        self.gauges.pulled_ms.store(crate::app::now_ms(), Ordering::Relaxed);
        let pulled = match answer {
            JournalAnswer::Events(pulled) => pulled,
            JournalAnswer::BeginsAt(oldest) => self.jump(begun, oldest)?,
        };
        let (next, bytes) = (pulled.next, pulled.body.len());
        let has_passed = next != begun;
        if has_passed {
            self.store(begun, pulled).await?;
        }
        *cursor = Some(next);
        if trim.is_due(next) {
            let app = Arc::clone(&self.app);
            blocking(move || app.ledger.make_durable()).await?;
            self.client.trim(journal.shard, next).await?;
            trim.done(next);
        }
        let rest = if bytes == 0 && is_crowded { REST_CROWDED } else { rest_after(bytes, has_passed) };
        Ok(rest.saturating_sub(answered.elapsed()))
    }

    /// Goes on at `oldest`, with nothing read. A journal that we never read begins where it begins: that is no gap.
    fn jump(&self, begun: Cursor, oldest: Cursor) -> Result<PulledJournal, AppError> {
        if begun == oldest {
            return Err(AppError::DataPlane { detail: "the journal refuses its own beginning".to_owned() });
        }
        if begun != Cursor::default() {
            self.gauges.gaps.fetch_add(1, Ordering::Relaxed);
            tracing::error!(journal = %self.journal, ?begun, ?oldest, "the journal does not have what follows the ledger");
        }
        Ok(PulledJournal { body: Vec::new(), next: oldest })
    }

    async fn store(&self, begun: Cursor, pulled: PulledJournal) -> Result<(), AppError> {
        let (app, journal) = (Arc::clone(&self.app), self.journal);
        let next = pulled.next;
        let (events, unread) = blocking(move || {
            let batch = Batch::read(pulled.body);
            let counts = (batch.events() as u64, batch.unread().len() as u64);
            app.ledger.record(journal, begun, &batch, next).map(|()| counts)
        })
        .await?;
        self.gauges.events.fetch_add(events, Ordering::Relaxed);
        self.gauges.unread.fetch_add(unread, Ordering::Relaxed);
        if unread > 0 {
            tracing::error!(%journal, segment = begun.segment, offset = begun.offset, unread, "events not read");
        }
        Ok(())
    }
}

/// When a journal was trimmed last, and to where.
#[derive(Default)]
struct Trim {
    at: Option<Instant>,
    to: Cursor,
}

impl Trim {
    fn is_due(&self, next: Cursor) -> bool {
        next != self.to && self.at.is_none_or(|at| at.elapsed() >= TRIM_PERIOD)
    }

    fn done(&mut self, to: Cursor) {
        *self = Self { at: Some(Instant::now()), to };
    }
}

/// How long to rest after an answer of so many octets, whose cursor has passed something or not.
fn rest_after(bytes: usize, has_passed: bool) -> Duration {
    match bytes {
        // The data plane's own notes: nobody waits for what they say.
        0 if has_passed => REST_LOADED,
        // The pull has waited already, or more is there.
        0 | MUCH_BYTES.. => Duration::ZERO,
        LOAD_BYTES.. => REST_LOADED,
        _ => REST,
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, AppError> {
    let joined = tokio::task::spawn_blocking(call).await;
    Ok(joined.map_err(|_| AppError::DataPlane { detail: "the ledger's thread ended".to_owned() })??)
}

/// Waits; whether it was told to stop meanwhile.
async fn paused(stop: &mut watch::Receiver<bool>, pause: Duration) -> bool {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => true,
        () = tokio::time::sleep(pause) => false,
    }
}

/// How long a pull waits for events.
const WAIT: Duration = Duration::from_millis(500);
const TRIM_PERIOD: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The rest after an answer, and after one of at least [`LOAD_BYTES`].
const REST: Duration = Duration::from_millis(20);
const REST_LOADED: Duration = Duration::from_millis(100);
/// The rest after an answer without events where other journals wait for their turn.
const REST_CROWDED: Duration = Duration::from_millis(200);
/// Octets of an answer that tell of load (some 20 mails), and of a journal that is far ahead.
const LOAD_BYTES: usize = 16 * 1024;
const MUCH_BYTES: usize = JOURNAL_PULL_BYTES_MAX / 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_follows_what_came_and_never_a_journal_that_is_far_ahead() {
        let rests = [0, 1, LOAD_BYTES - 1, LOAD_BYTES, MUCH_BYTES - 1, MUCH_BYTES, usize::MAX]
            .map(|bytes| rest_after(bytes, true));
        let none = Duration::ZERO;
        assert_eq!(rests, [REST_LOADED, REST, REST, REST_LOADED, REST_LOADED, none, none]);
        assert_eq!(rest_after(0, false), none, "the pull has waited");
    }
}
