//! Starting the shards: what the kernel must allow is asked before the first executor, because glommio panics or goes
//! on silently without it; then all shards run, or none.

use std::future::Future;
use std::io;
use std::num::NonZeroU16;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc;

use futures_util::FutureExt;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use postrail_schema::ids::ShardId;

use super::{Glommio, ShardPin, kernel, panic_text};

/// How many threads run shards, and what each takes from the kernel.
#[derive(Clone, Debug)]
pub struct ShardThreads {
    pub count: NonZeroU16,
    /// What each shard is tied to, in order; a shard beyond them runs where the kernel puts it.
    pub pins: Vec<ShardPin>,
    /// Octets of disk buffers that a shard registers with the kernel; they count as locked memory. Larger writes come
    /// from the heap.
    pub io_memory_bytes: usize,
    /// Submissions that a ring of a shard holds.
    pub ring_depth: usize,
}

impl ShardThreads {
    pub const fn new(count: NonZeroU16) -> Self {
        Self { count, pins: Vec::new(), io_memory_bytes: 1 << 20, ring_depth: 256 }
    }

    /// One shard for each core that this process may use.
    ///
    /// # Errors
    /// That of the question to the kernel.
    pub fn one_a_core() -> io::Result<Self> {
        let cores = kernel::allowed_cores()?.len();
        Ok(Self::new(u16::try_from(cores).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN)))
    }
}

/// Why the shards did not run, or how they ended.
#[derive(thiserror::Error, Debug)]
pub enum RunError {
    #[error(
        "io_uring is refused by the kernel ({0}): it needs Linux 5.8 or later, kernel.io_uring_disabled=0, and in a \
         container a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    IoUring(#[source] io::Error),
    #[error(
        "{have} octets of memory may be locked, and the shards need {need}: set LimitMEMLOCK=infinity in the service \
         unit, raise `ulimit -l`, or grant CAP_IPC_LOCK"
    )]
    LockedMemory { have: u64, need: u64 },
    #[error("the kernel did not tell this process' limits")]
    Limits(#[source] io::Error),
    #[error("some shards failed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Shards(Vec<ShardFailure>),
}

/// How one shard failed.
#[derive(thiserror::Error, Debug)]
pub enum ShardFailure {
    #[error("shard {shard} did not start: {reason}")]
    Start { shard: ShardId, reason: String },
    #[error("shard {shard} panicked: {text}")]
    Panicked { shard: ShardId, text: String },
}

/// Runs `make_shard` on every shard's own thread until all have ended, and returns what they returned, in the
/// order of their ids. A panic of a shard is logged when it happens; the other shards run on to their own end.
///
/// # Errors
/// See [`RunError`]. If one shard cannot start, none runs.
pub fn run_shards<F, R, T>(threads: &ShardThreads, make_shard: F) -> Result<Vec<T>, RunError>
where
    F: Fn(ShardId, Glommio) -> R + Clone + Send + 'static,
    R: Future<Output = T> + 'static,
    T: Send + 'static,
{
    kernel::probe_io_uring().map_err(RunError::IoUring)?;
    check_locked_memory(threads)?;
    let cores = kernel::allowed_cores().map_err(RunError::Limits)?;
    let count = threads.count.get();
    if usize::from(count) > cores.len() {
        tracing::warn!(shards = count, cores = cores.len(), "shards share cores");
    }
    let (started, starts) = mpsc::channel();
    let (go, gate) = async_channel::bounded(usize::from(count));
    let mut failures = Vec::new();
    let mut running = Vec::new();
    for index in 0..count {
        let shard = ShardId(index);
        let pin = threads.pins.get(usize::from(index)).cloned().unwrap_or_default();
        let core = pin.cpu;
        let (started, gate, make_shard) = (started.clone(), gate.clone(), make_shard.clone());
        let main = move || async move {
            // The receiver lives until all shards have reported.
            let _ = started.send(());
            drop(started);
            match gate.recv().await {
                Ok(()) => run_shard(shard, pin, make_shard).await.map(Some),
                Err(_) => Ok(None),
            }
        };
        match builder(threads, shard, core).spawn(main) {
            Ok(thread) => running.push((shard, thread)),
            Err(error) => failures.push(ShardFailure::Start { shard, reason: error.to_string() }),
        }
    }
    drop((started, gate));
    // Ends when every shard has reported or its thread is gone.
    if starts.iter().count() == usize::from(count) {
        for _ in 0..count {
            go.try_send(()).expect("the gate holds one token a shard");
        }
    }
    drop(go);
    let mut results = Vec::with_capacity(running.len());
    for (shard, thread) in running {
        match thread.join() {
            Ok(Ok(result)) => results.extend(result),
            Ok(Err(failure)) => failures.push(failure),
            Err(error) => failures.push(ShardFailure::Start { shard, reason: error.to_string() }),
        }
    }
    if failures.is_empty() { Ok(results) } else { Err(RunError::Shards(failures)) }
}

async fn run_shard<F, R, T>(shard: ShardId, pin: ShardPin, make_shard: F) -> Result<T, ShardFailure>
where
    F: Fn(ShardId, Glommio) -> R,
    R: Future<Output = T>,
{
    let platform = Glommio::new(pin).map_err(|error| ShardFailure::Start { shard, reason: error.to_string() })?;
    let main = async { make_shard(shard, platform).await };
    AssertUnwindSafe(main).catch_unwind().await.map_err(|panic| {
        let text = panic_text(panic.as_ref()).to_owned();
        tracing::error!(%shard, panic = text, "a shard panicked");
        ShardFailure::Panicked { shard, text }
    })
}

fn builder(threads: &ShardThreads, shard: ShardId, core: Option<usize>) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(core.map_or(Placement::Unbound, Placement::Fixed))
        .name(&format!("shard-{shard}"))
        .io_memory(threads.io_memory_bytes)
        .ring_depth(threads.ring_depth)
        // Not on the shard's own core, or hashing a password would hold the shard up after all.
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
}

/// glommio checks only a floor, and beyond it goes on without registered buffers or fails at some later shard.
fn check_locked_memory(threads: &ShardThreads) -> Result<(), RunError> {
    let Some(have) = kernel::lockable_bytes().map_err(RunError::Limits)? else { return Ok(()) };
    let shard =
        threads.io_memory_bytes as u64 + RING_LOCKED_BYTES_MIN.max(threads.ring_depth as u64 * RING_ENTRY_BYTES);
    let need = (shard * u64::from(threads.count.get())).max(LOCKED_BYTES_MIN);
    if have < need { Err(RunError::LockedMemory { have, need }) } else { Ok(()) }
}

/// Threads of one shard for blocking work.
const BLOCKING_THREADS: usize = 2;
/// What glommio demands at least.
const LOCKED_BYTES_MIN: u64 = 512 * 1024;
/// Locked octets of a shard's three rings up to a depth of 256, measured, with room.
const RING_LOCKED_BYTES_MIN: u64 = 320 * 1024;
/// Locked octets of one entry of the rings, measured, with room.
const RING_ENTRY_BYTES: u64 = 512;
