//! The platform on Linux: one glommio executor (io_uring) a shard, tied to what its [`ShardPin`] says. Nothing else
//! of this crate names glommio.
//!
//! What glommio 0.9 does badly is kept away from the pumps here:
//! - it panics where io_uring is forbidden: [`run_shards`] asks the kernel first and says what to do;
//! - a cancelled task leaks 100 to 256 octets for ever: tasks are detached and never cancelled;
//! - a panic in a task ends the whole executor: every task is caught at its edge and the panic logged;
//! - it polls each socket anew for each wait, and loses an accept with the future that waits for it: sockets are in an epoll
//!   set of ours ([`readiness`]), and glommio waits for that set alone;
//! - it takes an empty file's silence for proof that the disk can be polled, and then all reads fail: each disk is tried
//!   with a file that holds data first;
//! - an unaligned read across the end of a file returns octets that are not in the file: reads are aligned here.
//!
//! Invariants worth naming:
//! - at most one task waits for a listener, and at most one for each direction of a datagram socket or stream;
//! - the shards all start or none runs.
//!
//! Deliberately absent: TLS, DNS, limits of connections, work stealing, and any decision.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};
use glommio::timer::Timer;
use postrail_core::base::{Instant, Timestamp};
use postrail_schema::limits::BLOCK_BYTES;
use socket2::Socket;

use self::readiness::Readiness;
use super::{BlockFile, Disk, DiskUsage, Platform};
use crate::lease;

mod kernel;
mod pin;
mod readiness;
mod small_files;
mod sockets;
mod start;
#[cfg(test)]
mod tests;

pub use kernel::{probe_io_uring, raise_open_files};
pub use pin::{PinError, ShardPin, check_pins};
pub use sockets::{GlommioDatagrams, GlommioListener, GlommioNet, GlommioStream};
pub use start::{RunError, ShardFailure, ShardThreads, run_shards};

/// The world of the shard whose thread this is; made by [`run_shards`].
#[derive(Clone)]
pub struct Glommio(Rc<World>);

struct World {
    disk: GlommioDisk,
    net: GlommioNet,
}

impl Glommio {
    /// A handle; useful only on a thread that runs an executor.
    ///
    /// # Errors
    /// The process may open no more files.
    fn new(pin: ShardPin) -> io::Result<Self> {
        let readiness = Rc::new(Readiness::new()?);
        drop(glommio::spawn_local(Rc::clone(&readiness).run()).detach());
        let disk = GlommioDisk { tried: RefCell::default() };
        Ok(Self(Rc::new(World { disk, net: GlommioNet { pin, readiness } })))
    }
}

impl Platform for Glommio {
    type Disk = GlommioDisk;
    type Net = GlommioNet;

    fn now(&self) -> Instant {
        let since_boot = u64::try_from(lease::boottime().as_nanos()).unwrap_or(u64::MAX - 1);
        Instant::from_nanos(since_boot.max(1))
    }

    fn timestamp(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    async fn sleep_until(&self, until: Instant) {
        if until == Instant::FAR {
            return std::future::pending().await;
        }
        loop {
            let left = until.since(self.now());
            if left.is_zero() {
                return;
            }
            Timer::new(left.min(SLEEP_MAX)).await;
        }
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let task = async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                tracing::error!(task = name, panic = panic_text(panic.as_ref()), "a task panicked");
            }
        };
        // Detached: the handle that remains does not cancel when it is dropped.
        drop(glommio::spawn_local(task).detach());
    }

    async fn yield_now(&self) {
        // The whole queue yields, so that completions are reaped even if every task is of the kind that never waits.
        glommio::executor().yield_task_queue_now().await;
    }

    async fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        run_blocking(work).await
    }

    fn entropy(&self) -> u64 {
        kernel::entropy()
    }

    fn disk(&self) -> &GlommioDisk {
        &self.0.disk
    }

    fn net(&self) -> &GlommioNet {
        &self.0.net
    }
}

/// Runs `work` on the shard's blocking threads. A panic in `work` continues in the caller.
///
/// A task of its own waits for glommio's future, because that future must neither be dropped (it leaks its result) nor
/// be polled tens of thousands of times (it keeps a waker a poll); the caller waits on a channel, which bears both.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = async_channel::bounded(1);
    let task = async move {
        let outcome = glommio::executor().spawn_blocking(|| std::panic::catch_unwind(AssertUnwindSafe(work))).await;
        // The channel is empty, or the caller is gone and nobody misses the result.
        let _ = sender.try_send(outcome);
    };
    drop(glommio::spawn_local(task).detach());
    match receiver.recv().await.expect("the task above always sends") {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// What a panic was called with, as far as it is text.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "not a text",
    }
}

/// Files by O_DIRECT, folders and small files by blocking calls on a thread of their own.
///
/// A file system without O_DIRECT is refused with an error that says so, except tmpfs, where there is nothing to go
/// around and durability means nothing.
pub struct GlommioDisk {
    /// Devices that this executor has been shown a file with data on.
    tried: RefCell<BTreeSet<u64>>,
}

impl GlommioDisk {
    /// Lets glommio find out with a temporary file whether the disk under `folder` can be polled. It asks once for each
    /// device by reading the first block of the first file that it opens; nothing is read from an empty file or one
    /// that was only allocated, and glommio would believe that it was polled.
    async fn try_device(&self, folder: PathBuf) -> io::Result<()> {
        let (device, folder) =
            run_blocking(move || std::fs::metadata(&folder).map(|data| (data.dev(), folder))).await?;
        if self.tried.borrow().contains(&device) {
            return Ok(());
        }
        // A crash here leaves the file behind; its name ends as those of all temporary files.
        let path = folder.join(format!("trial-{:016x}.new", kernel::entropy()));
        let (made, removed) = (path.clone(), path.clone());
        let written = run_blocking(move || small_files::write_new(&made, &[1; BLOCK_BYTES])).await;
        let opened = match written {
            Ok(()) => {
                OpenOptions::new().read(true).dma_open(&path).await.map_err(|error| open_error(&path, error.into()))
            }
            Err(error) => Err(error),
        };
        let removal = run_blocking(move || std::fs::remove_file(removed)).await;
        match opened {
            Ok(file) => file.close().await?,
            // A full disk must not keep us from reading what lies on it; its first file will hold data then.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
        removal?;
        self.tried.borrow_mut().insert(device);
        Ok(())
    }
}

impl Disk for GlommioDisk {
    type File = GlommioFile;

    async fn open(&self, path: &Path, create_bytes: Option<u64>) -> io::Result<GlommioFile> {
        self.try_device(small_files::folder_of(path).to_path_buf()).await?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create_bytes.is_some()).mode(FILE_MODE);
        let file = options.dma_open(path).await.map_err(|error| open_error(path, error.into()))?;
        if let Some(bytes) = create_bytes {
            // Also for a file that exists: a crash between creating and allocating leaves an empty one.
            if let Err(error) = allocate(&file, bytes).await {
                // The allocation's error is the one to tell.
                let _ = file.close().await;
                return Err(error);
            }
        }
        Ok(GlommioFile { file })
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        run_blocking(move || std::fs::rename(from, to)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        run_blocking(move || std::fs::remove_file(path)).await
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        run_blocking(move || small_files::create_dir(&path)).await
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        run_blocking(move || small_files::sync_dir(&path)).await
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = path.to_path_buf();
        run_blocking(move || small_files::list(&path)).await
    }

    async fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = path.to_path_buf();
        run_blocking(move || std::fs::read(path)).await
    }

    async fn write_file(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let (path, content) = (path.to_path_buf(), content.to_vec());
        run_blocking(move || small_files::replace(&path, &content)).await
    }

    async fn usage(&self, path: &Path) -> io::Result<DiskUsage> {
        let path = path.to_path_buf();
        run_blocking(move || kernel::disk_usage(&path)).await
    }
}

/// Makes `bytes` octets belong to the file and its length durable, so that later syncs write no metadata.
async fn allocate(file: &DmaFile, bytes: u64) -> io::Result<()> {
    file.pre_allocate(bytes, false).await?;
    file.fdatasync().await?;
    Ok(())
}

fn open_error(path: &Path, error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::InvalidInput {
        let path = path.display();
        let text = format!("the file system of {path} has no O_DIRECT; put it on ext4 or xfs ({error})");
        return io::Error::new(io::ErrorKind::Unsupported, text);
    }
    error
}

/// A file read and written around the page cache.
pub struct GlommioFile {
    file: DmaFile,
}

/// A write buffer in memory that the kernel may take from directly.
pub struct AlignedBuffer(DmaBuffer);

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl AsMut<[u8]> for AlignedBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

impl BlockFile for GlommioFile {
    type Buffer = AlignedBuffer;

    fn buffer(&self, bytes: usize) -> AlignedBuffer {
        let mut buffer = self.file.alloc_dma_buffer(bytes.max(1).next_multiple_of(BLOCK_BYTES));
        buffer.as_bytes_mut().fill(0);
        AlignedBuffer(buffer)
    }

    async fn write(&self, offset: u64, buffer: AlignedBuffer) -> io::Result<()> {
        let bytes = buffer.0.len();
        let written = self.file.write_at(buffer.0, offset).await?;
        if written < bytes {
            let text = format!("{written} of {bytes} octets were written at {offset}");
            return Err(io::Error::new(io::ErrorKind::WriteZero, text));
        }
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        Ok(self.file.fdatasync().await?)
    }

    async fn read(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let start = offset - offset % BLOCK_BYTES as u64;
        let before = (offset - start) as usize;
        let window = (before + bytes).next_multiple_of(BLOCK_BYTES);
        let blocks = self.file.read_at_aligned(start, window).await?;
        let end = blocks.len().min(before + bytes);
        Ok(blocks[before.min(end)..end].to_vec())
    }

    async fn close(self) {
        if let Err(error) = self.file.close().await {
            // Nothing is lost: what had to be durable was synced, and the descriptor is gone in any case.
            tracing::warn!(%error, "close failed");
        }
    }
}

/// Hands a descriptor of any kind to the executor.
///
/// glommio's stream begins with a one-shot poll, and calls `recv` when that ends: for what is no connection the error of
/// `recv` tells that it is ready.
fn polled(descriptor: Socket) -> glommio::net::TcpStream {
    // SAFETY: the descriptor is open, and `into_raw_fd` gives its ownership away, here to the stream alone.
    unsafe { glommio::net::TcpStream::from_raw_fd(descriptor.into_raw_fd()) }
}

/// Longest single timer; longer sleeps are made of several.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);
/// Mail is private: only our user reads our files.
const FILE_MODE: u32 = 0o600;
