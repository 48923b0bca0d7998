//! Takes the data plane's event journals into the ledger, one task a shard.
//!
//! ```text
//! cursor from ledger -> pull (waits up to 500 ms) -> decode -> record batch + cursor in one transaction
//!                    <- at most once a second: make durable, then tell the data plane to trim
//! ```
//!
//! Invariants worth naming: a journal is trimmed only up to what survives a loss of power here; nothing is kept but in the
//! ledger, so a crash at any point begins again at its cursor. A buffer that does not decode is set aside with an ERROR
//! and does not stop what follows. Where the journal begins behind our cursor (an older ledger was restored), reading goes on
//! there, with an ERROR: what lies between is lost to the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postrail_schema::ids::ShardId;
use postrail_schema::wire::decode_events;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::{App, AppError, JournalAnswer, PulledJournal};
use crate::ledger::{Batch, Cursor, LedgerError};

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

/// Runs until `stop` is true; what was pulled is stored first.
pub(crate) async fn pull_journals(app: Arc<App>, gauges: Arc<JournalGauges>, mut stop: watch::Receiver<bool>) {
    let Some(shards) = shard_count(&app, &mut stop).await else { return };
    let mut tasks = JoinSet::new();
    for shard in 0..shards {
        let puller = Puller { app: Arc::clone(&app), gauges: Arc::clone(&gauges), shard: ShardId(shard) };
        tasks.spawn(puller.run(stop.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

/// Asks until the data plane answers: it may start later than we do.
async fn shard_count(app: &App, stop: &mut watch::Receiver<bool>) -> Option<u16> {
    loop {
        match app.data_plane.shards().await {
            Ok(shards) => return Some(shards),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "data plane not reached yet");
            }
        }
        if paused(stop, PAUSE_MIN).await {
            return None;
        }
    }
}

struct Puller {
    app: Arc<App>,
    gauges: Arc<JournalGauges>,
    shard: ShardId,
}

impl Puller {
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE_MIN;
        let mut trim = Trim::default();
        while !*stop.borrow() {
            match self.pull_once(&mut trim, &mut stop).await {
                Ok(()) => pause = PAUSE_MIN,
                Err(error) => {
                    self.gauges.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(shard = self.shard.0, error = &error as &dyn std::error::Error, "journal not taken");
                    if paused(&mut stop, pause).await {
                        return;
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn pull_once(&self, trim: &mut Trim, stop: &mut watch::Receiver<bool>) -> Result<(), AppError> {
        let (app, shard) = (Arc::clone(&self.app), self.shard);
        let begun = blocking(move || app.ledger.cursor(shard)).await?;
        let answer = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            answer = self.app.data_plane.pull(shard, begun, WAIT) => answer?,
        };
        self.gauges.pulled_ms.store(crate::app::now_ms(), Ordering::Relaxed);
        let pulled = match answer {
            JournalAnswer::Events(pulled) => pulled,
            JournalAnswer::BeginsAt(oldest) => self.jump(begun, oldest)?,
        };
        let next = pulled.next;
        if next != begun {
            self.store(begun, pulled).await?;
        }
        if trim.is_due(next) {
            let app = Arc::clone(&self.app);
            blocking(move || app.ledger.make_durable()).await?;
            self.app.data_plane.trim(shard, next).await?;
            trim.done(next);
        }
        Ok(())
    }

    /// Goes on at `oldest`, with nothing read. A journal that we never read begins where it begins: that is no gap.
    fn jump(&self, begun: Cursor, oldest: Cursor) -> Result<PulledJournal, AppError> {
        if begun == oldest {
            return Err(AppError::DataPlane { detail: "the journal refuses its own beginning".to_owned() });
        }
        if begun != Cursor::default() {
            self.gauges.gaps.fetch_add(1, Ordering::Relaxed);
            tracing::error!(shard = self.shard.0, ?begun, ?oldest, "the journal does not have what follows the ledger");
        }
        Ok(PulledJournal { body: Vec::new(), next: oldest })
    }

    async fn store(&self, begun: Cursor, pulled: PulledJournal) -> Result<(), AppError> {
        let (app, shard) = (Arc::clone(&self.app), self.shard);
        let next = pulled.next;
        let (events, unread) = blocking(move || {
            let batch = decode(&pulled.body);
            let counts = (batch.events.len() as u64, batch.unread.len() as u64);
            app.ledger.record(shard, begun, &batch, next).map(|()| counts)
        })
        .await?;
        self.gauges.events.fetch_add(events, Ordering::Relaxed);
        self.gauges.unread.fetch_add(unread, Ordering::Relaxed);
        if unread > 0 {
            tracing::error!(shard = shard.0, segment = begun.segment, offset = begun.offset, unread, "events not read");
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

/// Splits an answer into its buffers and decodes them. What does not decode, and a cut end, is kept as it is.
fn decode(mut body: &[u8]) -> Batch {
    let mut batch = Batch::default();
    while let Some((length, rest)) = body.split_first_chunk::<4>() {
        let Some((buffer, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else { break };
        body = rest;
        match decode_events(buffer) {
            Ok(mut events) => batch.events.append(&mut events),
            Err(_) => batch.unread.push(buffer.to_vec()),
        }
    }
    if !body.is_empty() {
        batch.unread.push(body.to_vec());
    }
    batch
}

async fn blocking<T: Send + 'static>(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(buffers: &[&[u8]]) -> Vec<u8> {
        buffers.iter().flat_map(|buffer| [&(buffer.len() as u32).to_le_bytes()[..], buffer].concat()).collect()
    }

    #[test]
    fn noise_between_buffers_is_set_aside_and_what_follows_is_read() {
        let events: &[u8] = include_bytes!("../../../shared-schema/golden/events-1.bin");
        let batch = decode(&framed(&[events, b"noise", events]));
        assert_eq!((batch.events.len(), batch.unread), (4, vec![b"noise".to_vec()]));
    }

    #[test]
    fn a_cut_answer_never_panics_and_keeps_every_octet() {
        let events: &[u8] = include_bytes!("../../../shared-schema/golden/events-1.bin");
        let body = framed(&[events]);
        for at in 0..body.len() {
            let batch = decode(&body[..at]);
            assert_eq!((batch.events.len(), batch.unread.concat().len()), (0, at));
        }
    }
}
