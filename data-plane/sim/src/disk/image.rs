//! The content of a simulated disk: what programs see, and what would be there after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use postrail_core::base::Random;

use super::folder_of;

/// Files by inode, names by folder; each as seen and as durable.
#[derive(Default)]
pub(super) struct Image {
    count: u64,
    files: BTreeMap<u64, File>,
    folders: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that are not durable, in their order, with the folder of each.
    changes: Vec<(PathBuf, Change)>,
}

#[derive(Default)]
struct File {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
    /// Number of the writes that were synced, so that a sync names the writes it found by their number.
    synced: u64,
    /// Writes that a failed sync lost: seen until the crash, and durable only by chance.
    doomed: Vec<Write>,
}

struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

enum Change {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Image {
    pub(super) fn find(&self, path: &Path) -> Option<u64> {
        self.names.get(path).copied()
    }

    /// Octets of all files that have a name.
    pub(super) fn bytes(&self) -> u64 {
        self.names.values().map(|inode| self.length(*inode)).sum()
    }

    pub(super) fn length(&self, inode: u64) -> u64 {
        self.files.get(&inode).map_or(0, |file| file.seen.len() as u64)
    }

    /// # Errors
    /// `NotFound` without its folder.
    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        let folder = folder_of(path);
        if !self.has_folder(&folder) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        self.count += 1;
        self.files.insert(self.count, File::default());
        self.names.insert(path.to_path_buf(), self.count);
        self.changes.push((folder, Change::Link(path.to_path_buf(), self.count)));
        Ok(self.count)
    }

    /// Lengthens a file with zeros, durably.
    pub(super) fn allocate(&mut self, inode: u64, bytes: u64) {
        if let Some(file) = self.files.get_mut(&inode) {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            for content in [&mut file.seen, &mut file.durable] {
                content.resize(bytes.max(content.len()), 0);
            }
        }
    }

    pub(super) fn write(&mut self, inode: u64, offset: u64, bytes: Vec<u8>) {
        if let Some(file) = self.files.get_mut(&inode) {
            let write = Write { offset: usize::try_from(offset).expect("simulated files are small"), bytes };
            write.apply(&mut file.seen);
            file.unsynced.push(write);
        }
    }

    /// Gives a file other content from its beginning, as a buffered write after a truncation does.
    pub(super) fn replace(&mut self, inode: u64, content: &[u8]) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.seen.clear();
            file.durable.clear();
            file.unsynced.clear();
            file.seen.extend_from_slice(content);
            file.unsynced.push(Write { offset: 0, bytes: content.to_vec() });
        }
    }

    pub(super) fn read(&self, inode: u64, offset: u64, bytes: usize) -> Vec<u8> {
        let Some(file) = self.files.get(&inode) else { return Vec::new() };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.seen.len());
        let end = start.saturating_add(bytes).min(file.seen.len());
        file.seen[start..end].to_vec()
    }

    /// The number of the last write so far.
    pub(super) fn unsynced(&self, inode: u64) -> u64 {
        self.files.get(&inode).map_or(0, |file| file.synced + file.unsynced.len() as u64)
    }

    /// Makes the writes up to number `last` durable.
    pub(super) fn sync(&mut self, inode: u64, last: u64) {
        if let Some(file) = self.files.get_mut(&inode) {
            for write in file.take_until(last) {
                write.apply(&mut file.durable);
            }
        }
    }

    /// Loses the writes up to number `last`: seen, but out of reach of later syncs.
    pub(super) fn fail_sync(&mut self, inode: u64, last: u64) {
        if let Some(file) = self.files.get_mut(&inode) {
            let lost = file.take_until(last);
            file.doomed.extend(lost);
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.names.insert(to.to_path_buf(), inode);
        self.changes.push((folder_of(to), Change::Rename(from.to_path_buf(), to.to_path_buf())));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        self.changes.push((folder_of(path), Change::Unlink(path.to_path_buf())));
        Ok(())
    }

    /// Makes a folder and those above it; they are durable at once, since losing one only loses what is in it.
    pub(super) fn create_folder(&mut self, path: &Path) {
        self.folders.extend(path.ancestors().map(Path::to_path_buf));
    }

    fn has_folder(&self, path: &Path) -> bool {
        path.parent().is_none() || self.folders.contains(path)
    }

    /// # Errors
    /// `NotFound` without the folder.
    pub(super) fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        if !self.has_folder(folder) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let inside = self.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    /// Number of the changes of `folder` that are not durable.
    pub(super) fn changes(&self, folder: &Path) -> usize {
        self.changes.iter().filter(|(of, _)| of == folder).count()
    }

    /// Makes the first `count` changes of `folder` durable.
    ///
    /// # Errors
    /// `NotFound` without the folder.
    pub(super) fn sync_folder(&mut self, folder: &Path, count: usize) -> io::Result<()> {
        if !self.has_folder(folder) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let mut left = count;
        let (durable, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.changes).into_iter().partition(|(of, _)| {
            let is_taken = left > 0 && of == folder;
            left -= usize::from(is_taken);
            is_taken
        });
        self.changes = kept;
        for (_, change) in durable {
            change.apply(&mut self.durable_names);
        }
        Ok(())
    }

    /// Keeps what is durable and, by chance, parts of the rest.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let folders: BTreeSet<PathBuf> = self.changes.iter().map(|(folder, _)| folder.clone()).collect();
        for folder in folders {
            let count = random.below(self.changes(&folder) as u64 + 1) as usize;
            self.sync_folder(&folder, count).expect("a folder with changes exists");
        }
        self.changes.clear();
        self.names.clone_from(&self.durable_names);
        let alive: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|inode, _| alive.contains(inode));
        for file in self.files.values_mut() {
            file.crash(random);
        }
    }
}

impl File {
    /// Takes out the writes up to number `last`.
    fn take_until(&mut self, last: u64) -> Vec<Write> {
        let count = usize::try_from(last.saturating_sub(self.synced)).unwrap_or(usize::MAX).min(self.unsynced.len());
        self.synced += count as u64;
        self.unsynced.drain(..count).collect()
    }

    fn crash(&mut self, random: &mut Random) {
        // All, nothing and every mixture must come often, so the share that survives is drawn first.
        let percent = [0, 100, 50, random.below(101)][random.below(4) as usize];
        let writes = std::mem::take(&mut self.doomed).into_iter().chain(std::mem::take(&mut self.unsynced));
        for write in writes {
            for (index, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                if random.chance(percent) {
                    let survivor = Write { offset: write.offset + index * SECTOR_BYTES, bytes: sector.to_vec() };
                    survivor.apply(&mut self.durable);
                }
            }
        }
        self.synced = 0;
        self.seen.clone_from(&self.durable);
    }
}

impl Write {
    fn apply(&self, content: &mut Vec<u8>) {
        let end = self.offset + self.bytes.len();
        content.resize(content.len().max(end), 0);
        content[self.offset..end].copy_from_slice(&self.bytes);
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link(path, inode) => {
                names.insert(path, inode);
            }
            Self::Unlink(path) => {
                names.remove(&path);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
        }
    }
}

/// What a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;
