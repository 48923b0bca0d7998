//! What a pump may ask of the world: clock, disk, net, spawn, entropy. Static dispatch, one thread, nothing is `Send`.
//!
//! There are two platforms: [`glommio`] (io_uring, the only file that names that runtime) and the simulator's
//! (`data-plane/sim`: seeded executor, virtual time, faulty disk and network). Pumps decide nothing, so what runs under
//! one runs under the other unchanged.
//!
//! Invariants worth naming:
//! - a spawned task is never cancelled: tasks end by themselves, told so by a flag or a closed channel;
//! - a panic in a spawned task ends that task only, and is logged;
//! - futures are raced inside one task ([`Platform::timeout`]), never by dropping tasks.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncWrite};
use postrail_core::base::{Instant, Timestamp};

pub mod glommio;

/// The world of one shard. Cheap to clone: a handle.
pub trait Platform: Clone + 'static {
    type Disk: Disk;
    type Net: Net;

    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Wall-clock time.
    fn timestamp(&self) -> Timestamp;
    /// Ends at `until` at the earliest; [`Instant::FAR`] never.
    fn sleep_until(&self, until: Instant) -> impl Future<Output = ()>;
    /// Runs `task` on this shard until it ends by itself. A panic in it is caught and logged with `name`.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static);
    /// Lets other tasks run, in loops that may not wait by themselves.
    fn yield_now(&self) -> impl Future<Output = ()>;
    /// Runs `work` where it may take milliseconds (password hashing) without holding up this shard.
    fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T>;
    /// Fresh entropy from the operating system (or the seed, in the simulator).
    fn entropy(&self) -> u64;
    fn disk(&self) -> &Self::Disk;
    fn net(&self) -> &Self::Net;

    /// The result of `work`, or `None` if it took longer than `limit`.
    fn timeout<T>(&self, limit: Duration, work: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
        let until = self.now() + limit;
        async move {
            futures_lite::future::or(async { Some(work.await) }, async {
                self.sleep_until(until).await;
                None
            })
            .await
        }
    }
}

/// Files of fixed layout, written in aligned blocks around the page cache.
pub trait Disk {
    type File: BlockFile;

    /// Opens `path` for reading and aligned writing; makes it with `create_bytes` allocated octets where that is given
    /// and it does not exist. A file made here is not durable before [`Self::sync_dir`] of its folder.
    fn open(&self, path: &Path, create_bytes: Option<u64>) -> impl Future<Output = io::Result<Self::File>>;
    /// Renames within one folder; durable after [`Self::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    fn create_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    fn sync_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Names of the files in a folder, sorted.
    fn list(&self, path: &Path) -> impl Future<Output = io::Result<Vec<String>>>;
    /// Whole small file (configuration, cursors); `NotFound` where it does not exist.
    fn read_file(&self, path: &Path) -> impl Future<Output = io::Result<Vec<u8>>>;
    /// Replaces a small file durably: temporary name, sync, rename, sync of the folder.
    fn write_file(&self, path: &Path, content: &[u8]) -> impl Future<Output = io::Result<()>>;
    /// How much of what ordinary users may fill of the file system is in use, and what they may still fill, octets.
    fn usage(&self, path: &Path) -> impl Future<Output = io::Result<DiskUsage>>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskUsage {
    pub used_percent: u8,
    pub free_bytes: u64,
}

/// One open file. Offsets and lengths of writes are multiples of [`postrail_schema::limits::BLOCK_BYTES`].
pub trait BlockFile {
    /// A zeroed write buffer of at least `bytes` octets, aligned for [`Self::write`].
    type Buffer: AsMut<[u8]> + AsRef<[u8]>;

    fn buffer(&self, bytes: usize) -> Self::Buffer;
    /// Writes the whole buffer at `offset`. Not durable before [`Self::sync`].
    fn write(&self, offset: u64, buffer: Self::Buffer) -> impl Future<Output = io::Result<()>>;
    /// Everything written before is durable when this ends well. After an error nothing is known: never retried.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;
    /// Up to `bytes` octets from any `offset`; fewer at the end of the file.
    fn read(&self, offset: u64, bytes: usize) -> impl Future<Output = io::Result<Vec<u8>>>;
    fn close(self) -> impl Future<Output = ()>;
}

/// Sockets.
pub trait Net {
    type Stream: Stream;
    type Listener: Listener<Stream = Self::Stream>;
    type Datagrams: Datagrams;

    /// Listens at an address as the first of the shards, which others may join: a process that would share it, since it
    /// listens with SO_REUSEPORT as well, is found, also where both start at one moment.
    ///
    /// # Errors
    /// Somebody listens there already, or the address is not ours.
    fn listen_first(&self, at: SocketAddr) -> io::Result<Self::Listener>;
    /// Listens at an address where another shard does (SO_REUSEPORT).
    ///
    /// # Errors
    /// Another process does, or the address is not ours.
    fn listen(&self, at: SocketAddr) -> io::Result<Self::Listener>;
    /// Listens as the only one: whoever else would, in this process or another, is told that the address is in use.
    ///
    /// # Errors
    /// Somebody listens there already, or the address is not ours.
    fn listen_alone(&self, at: SocketAddr) -> io::Result<Self::Listener>;
    /// Connects from `source` (`None` or unspecified: the host's choice) within `limit`.
    fn connect(
        &self,
        source: Option<IpAddr>,
        to: SocketAddr,
        limit: Duration,
    ) -> impl Future<Output = io::Result<Self::Stream>>;
    /// A datagram socket with an ephemeral port of its own, connected to `to`.
    fn datagrams(&self, to: SocketAddr) -> impl Future<Output = io::Result<Self::Datagrams>>;
}

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {
    fn peer(&self) -> Option<SocketAddr>;
    fn local(&self) -> Option<SocketAddr>;
}

pub trait Listener: 'static {
    type Stream: Stream;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>>;
    fn local(&self) -> Option<SocketAddr>;
}

pub trait Datagrams: 'static {
    fn send(&self, datagram: &[u8]) -> impl Future<Output = io::Result<()>>;
    fn receive(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>>;
}
