//! A watch that survives: it resumes behind the last revision that it told, through any number of broken connections.
//!
//! A compaction that took what it has not told yet ends it, and so does an etcd that has less than was told already: it was
//! restored from a snapshot, or is new, and would tell nothing before it has overtaken that. etcd is asked for a sign of life while nothing changes, so
//! that who reads knows how fresh its view is; such an answer never moves the revision, since it may overtake changes.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error, EventType, WatchOptions, WatchResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::{Change, StoreError, WatchEvent};
use super::{MESSAGE_BYTES_MAX, Shared, failed, header_revision, signed, unsigned};

/// Why a stream of changes ended.
enum End {
    /// The connection broke, or the member has no leader.
    Broken,
    /// What follows is compacted away, or too much, or of another history.
    Compacted,
    /// Nobody reads any more.
    Unread,
}

/// Tells what changes under `prefix` behind `after`, until nobody reads or etcd has forgotten what comes next.
pub(super) async fn follow(shared: Arc<Shared>, prefix: String, mut after: u64, to: mpsc::Sender<WatchEvent>) {
    let mut pause = PAUSE_MIN;
    let mut is_lost = false;
    loop {
        let mut was_alive = false;
        let end = tokio::select! {
            () = to.closed() => return,
            end = stream(&shared, &prefix, &mut after, &to, &mut was_alive) => end,
        };
        match end {
            Ok(End::Compacted | End::Unread) => return,
            Ok(End::Broken) => {}
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "etcd is not watched"),
        }
        if was_alive {
            (pause, is_lost) = (PAUSE_MIN, false);
        }
        if !is_lost && to.send(WatchEvent::Lost).await.is_err() {
            return;
        }
        is_lost = true;
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn stream(
    shared: &Shared,
    prefix: &str,
    after: &mut u64,
    to: &mpsc::Sender<WatchEvent>,
    was_alive: &mut bool,
) -> Result<End, StoreError> {
    let (member, client) = match timeout(BEGIN_TIMEOUT, shared.client()).await {
        Ok(found) => found?,
        Err(_) => return Err(StoreError::Timeout { act: "watching" }),
    };
    let ended = from(shared, client, prefix, after, to, was_alive).await;
    if matches!(ended, Ok(End::Broken) | Err(_)) {
        shared.leave(member).await;
    }
    ended
}

/// As [`stream`], from one member.
async fn from(
    shared: &Shared,
    client: Client,
    prefix: &str,
    after: &mut u64,
    to: &mpsc::Sender<WatchEvent>,
    was_alive: &mut bool,
) -> Result<End, StoreError> {
    let begin = async {
        let mut watch = client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let options = WatchOptions::new().with_prefix().with_start_revision(signed(*after + 1)?);
        watch.watch(shared.full(prefix), Some(options)).await.map_err(failed("watching"))
    };
    let begun = timeout(BEGIN_TIMEOUT, begin).await.map_err(|_| StoreError::Timeout { act: "watching" })??;
    let (mut ask, mut answers) = begun.split();
    let mut heard = Instant::now();
    loop {
        let response = match timeout_at(heard + ASK_PERIOD, answers.message()).await {
            Ok(Ok(Some(response))) => response,
            Ok(Ok(None)) => return Ok(End::Broken),
            // What was missed meanwhile is more than one answer may hold: who lists again has it in pages.
            Ok(Err(Error::GRpcStatus(status))) if is_too_long(&status) => return Ok(End::Compacted),
            Ok(Err(_)) => return Ok(End::Broken),
            Err(_) => {
                ask.request_progress().await.map_err(failed("watching"))?;
                match timeout(ANSWER_TIMEOUT, answers.message()).await {
                    Ok(Ok(Some(response))) => response,
                    _ => return Ok(End::Broken),
                }
            }
        };
        heard = Instant::now();
        if response.canceled() {
            return Ok(if response.compact_revision() > 0 { End::Compacted } else { End::Broken });
        }
        // Or of a member that is behind: who lists again hears what all have.
        if header_revision(response.header())? < *after {
            return Ok(End::Compacted);
        }
        *was_alive = true;
        if to.send(told(shared, &response, after)?).await.is_err() {
            return Ok(End::Unread);
        }
    }
}

/// What a response means. It has whole transactions: etcd divides one only for who asks for fragments.
fn told(shared: &Shared, response: &WatchResponse, after: &mut u64) -> Result<WatchEvent, StoreError> {
    let mut changes = Vec::with_capacity(response.events().len());
    for event in response.events() {
        let Some(pair) = event.kv() else { continue };
        let value = (event.event_type() == EventType::Put).then(|| pair.value().to_vec());
        changes.push(Change { key: shared.relative(pair.key())?, value });
        *after = unsigned(pair.mod_revision())?.max(*after);
    }
    Ok(if changes.is_empty() { WatchEvent::Alive } else { WatchEvent::Changes { revision: *after, changes } })
}

/// Whether our own side refused an answer for its length.
fn is_too_long(status: &impl std::fmt::Debug) -> bool {
    format!("{status:?}").contains("decoded message length too large")
}

/// For a watch to begin, connecting included.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// So long after the last word etcd is asked for one, and then has so long for it.
const ASK_PERIOD: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
