//! A disk that keeps its promises and no more.
//!
//! Invariants worth naming:
//! - what was written before a sync that ended well survives every crash; of what was not, each 512 octets survive or
//!   not by the seed, also within one write;
//! - names made, changed or removed survive once their folder was synced; of the later changes of a folder the first
//!   few survive, as in a file system that keeps a journal;
//! - a rename is whole: the name means the old file or the new one;
//! - after a failed sync the writes before it are never durable by a later one (what Linux does with failed pages).
//!
//! Deliberately absent: permissions, links, and folders as anything but the first part of names.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use postrail_core::base::Random;
use postrail_data_plane::platform::{BlockFile, Disk, DiskUsage};
use postrail_schema::limits::BLOCK_BYTES;

use crate::platform::Life;
use crate::trace::Step;

mod image;
#[cfg(test)]
mod tests;

use image::Image;

/// What a disk does wrong, and how slow it is. The default does nothing wrong and takes its time.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    /// Time of one operation; drawn for each.
    pub latency: Range<Duration>,
    /// Operations in a million that take [`DiskFaults::STALL`].
    pub stalls_per_million: u32,
    /// Writes in a million that fail with EIO.
    pub write_errors_per_million: u32,
    /// Syncs in a million that fail with EIO.
    pub sync_errors_per_million: u32,
    /// Syncs end well and make nothing durable: what a node amounts to that acknowledges before its sync has ended.
    pub is_lying: bool,
    /// Room, octets: over it ENOSPC.
    pub capacity_bytes: u64,
}

impl DiskFaults {
    /// How long an operation takes when the disk stalls.
    pub const STALL: Duration = Duration::from_secs(5);
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(20)..Duration::from_millis(3),
            stalls_per_million: 0,
            write_errors_per_million: 0,
            sync_errors_per_million: 0,
            is_lying: false,
            capacity_bytes: 1 << 40,
        }
    }
}

/// What one disk holds; it outlives the lives of its node.
pub(crate) struct DiskState {
    random: Random,
    faults: DiskFaults,
    image: Image,
}

impl DiskState {
    pub(crate) fn new(random: Random, faults: DiskFaults) -> Self {
        Self { random, faults, image: Image::default() }
    }

    pub(crate) fn set_faults(&mut self, faults: DiskFaults) {
        self.faults = faults;
    }

    /// Forgets by the seed what was not synced.
    pub(crate) fn crash(&mut self) {
        self.image.crash(&mut self.random);
    }

    fn draws(&mut self, per_million: u32) -> bool {
        self.random.below(1_000_000) < u64::from(per_million)
    }

    fn latency(&mut self) -> Duration {
        if self.draws(self.faults.stalls_per_million) {
            return DiskFaults::STALL;
        }
        let Range { start, end } = self.faults.latency;
        let width = u64::try_from(end.saturating_sub(start).as_nanos()).unwrap_or(u64::MAX);
        start + Duration::from_nanos(self.random.below(width.max(1)))
    }

    fn write(&mut self, inode: u64, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        if self.draws(self.faults.write_errors_per_million) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let end = offset + bytes.len() as u64;
        if !self.has_room(end.saturating_sub(self.image.length(inode))) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.image.write(inode, offset, bytes);
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.image.bytes().saturating_add(bytes) <= self.faults.capacity_bytes
    }
}

/// The disk of a node in one of its lives.
#[derive(Clone)]
pub struct SimDisk {
    life: Life,
    state: Rc<RefCell<DiskState>>,
}

impl SimDisk {
    pub(crate) const fn new(life: Life, state: Rc<RefCell<DiskState>>) -> Self {
        Self { life, state }
    }

    async fn wait(&self) {
        let latency = self.state.borrow_mut().latency();
        self.life.sleep(latency).await;
    }

    /// Runs one operation on the image after its latency, if this life still lasts.
    async fn operate<T>(&self, operation: impl FnOnce(&mut DiskState) -> io::Result<T>) -> io::Result<T> {
        self.wait().await;
        if !self.life.is_alive() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        operation(&mut self.state.borrow_mut())
    }

    fn step(&self, step: Step, first: u64, second: u64) {
        self.life.world.trace.borrow_mut().step(step, first, second);
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    async fn open(&self, path: &Path, create_bytes: Option<u64>) -> io::Result<SimFile> {
        let create_bytes = create_bytes.map(|bytes| bytes.next_multiple_of(BLOCK_BYTES as u64));
        let inode = self
            .operate(|state| {
                let present = state.image.find(path);
                let missing = create_bytes
                    .map_or(0, |bytes| bytes.saturating_sub(present.map_or(0, |inode| state.image.length(inode))));
                let has_room = state.has_room(missing);
                let inode = match (present, create_bytes) {
                    (Some(inode), _) => inode,
                    (None, None) => return Err(io::Error::from(io::ErrorKind::NotFound)),
                    (None, Some(_)) => state.image.create(path)?,
                };
                if !has_room {
                    return Err(io::Error::from(io::ErrorKind::StorageFull));
                }
                state.image.allocate(inode, create_bytes.unwrap_or(0));
                Ok(inode)
            })
            .await?;
        self.step(Step::Folder, 1, inode);
        Ok(SimFile { disk: self.clone(), inode })
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Step::Folder, 2, 0);
        self.operate(|state| state.image.rename(from, to)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Step::Folder, 3, 0);
        self.operate(|state| state.image.remove(path)).await
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(|state| {
            state.image.create_folder(path);
            Ok(())
        })
        .await
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let changes = self.state.borrow().image.changes(path);
        self.step(Step::Folder, 4, changes as u64);
        self.operate(|state| {
            if state.draws(state.faults.sync_errors_per_million) {
                return Err(io::Error::from_raw_os_error(EIO));
            }
            state.image.sync_folder(path, changes)
        })
        .await
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.operate(|state| state.image.list(path)).await
    }

    async fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.operate(|state| {
            let inode = state.image.find(path).ok_or(io::ErrorKind::NotFound)?;
            Ok(state.image.read(inode, 0, usize::MAX))
        })
        .await
    }

    async fn write_file(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let temporary = path.with_file_name(format!("{}.new", name.to_string_lossy()));
        let inode = self
            .operate(|state| {
                if !state.has_room(content.len() as u64) {
                    return Err(io::Error::from(io::ErrorKind::StorageFull));
                }
                let inode = match state.image.find(&temporary) {
                    Some(inode) => inode,
                    None => state.image.create(&temporary)?,
                };
                state.image.replace(inode, content);
                Ok(inode)
            })
            .await?;
        let file = SimFile { disk: self.clone(), inode };
        file.sync().await?;
        self.rename(&temporary, path).await?;
        self.sync_dir(folder).await
    }

    async fn usage(&self, path: &Path) -> io::Result<DiskUsage> {
        let _ = path;
        self.operate(|state| {
            let (used, capacity) = (state.image.bytes(), state.faults.capacity_bytes.max(1));
            let percent = (u128::from(used) * 100).div_ceil(u128::from(capacity)).min(100) as u8;
            Ok(DiskUsage { used_percent: percent, free_bytes: capacity.saturating_sub(used) })
        })
        .await
    }
}

/// An open file; it stays the same file when its name changes.
pub struct SimFile {
    disk: SimDisk,
    inode: u64,
}

impl BlockFile for SimFile {
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        vec![0; bytes.max(1).next_multiple_of(BLOCK_BYTES)]
    }

    async fn write(&self, offset: u64, buffer: Vec<u8>) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "writes are aligned");
        assert!(buffer.len().is_multiple_of(BLOCK_BYTES), "writes are whole blocks");
        self.disk.step(Step::Write, self.inode, offset);
        // From now on parts of it may be on the disk, whether we live to see the end of the write or not.
        self.disk.state.borrow_mut().write(self.inode, offset, buffer)?;
        self.disk.operate(|_| Ok(())).await
    }

    async fn sync(&self) -> io::Result<()> {
        // What is written while the disk syncs is not part of it.
        let writes = self.disk.state.borrow().image.unsynced(self.inode);
        self.disk.step(Step::Sync, self.inode, writes);
        self.disk
            .operate(|state| {
                if state.draws(state.faults.sync_errors_per_million) {
                    state.image.fail_sync(self.inode, writes);
                    return Err(io::Error::from_raw_os_error(EIO));
                }
                if !state.faults.is_lying {
                    state.image.sync(self.inode, writes);
                }
                Ok(())
            })
            .await
    }

    async fn read(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.disk.operate(|state| Ok(state.image.read(self.inode, offset, bytes))).await
    }

    async fn close(self) {}
}

/// The folder part of a path.
fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_path_buf()
}

/// Input/output error.
const EIO: i32 = 5;
