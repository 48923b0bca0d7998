//! The publication in effect, on disk: `published.log`, records that are appended and synced.
//!
//! ```text
//! record  length u32 | CRC-32C u32 of what follows | tag u8 | body            integers little-endian
//! tag 1   chunk          hash u128, bytes
//! tag 2   manifest       bytes
//! tag 3   suppressions   version u64, bytes
//! tag 4   what leads on  version u64, ledger u128, sequence u64, changes, if there are any
//! ```
//!
//! A change appends its chunks and the manifest: from then on a process that ends, however it does, finds them at its next
//! start. They are synced a little later, so that the change is in effect before the disk has answered, and many changes
//! share a sync; what a host without power loses in between, it has again from the configuration store. What counts at a
//! start is the last manifest whose chunks are all there, so a write that was cut short is as if it had not begun. Suppressions
//! are the last list with the changes behind it; a version that does not know tag 4 has a list with an earlier version, and
//! asks for it anew. When
//! more than half of the file is of the past, it is written anew beside itself and takes its own place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postrail_schema::publication::{ChunkHash, ChunkName, Manifest};
use postrail_schema::snapshot::SnapshotContent;
use postrail_schema::suppressions::SuppressionPoint;
use postrail_schema::wire::{
    WireError, decode_manifest, decode_snapshot, decode_suppression_delta, encode_manifest, encode_snapshot,
};

use super::suppressions::{SuppressionList, SuppressionUpdate};

/// See the module head.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    file: File,
    /// Octets of the file, and how many there were when it was last written anew.
    length: u64,
    fresh: u64,
    /// A write failed: what the file ends with is not known.
    is_torn: bool,
    /// Something was written that nobody has synced, or begun to.
    is_unsynced: Arc<AtomicBool>,
}

/// What was kept and is not known to be on disk. It is synced beside its [`Feed`](super::Feed), which goes on meanwhile.
#[derive(Debug)]
pub struct Unsynced {
    file: File,
    is_unsynced: Arc<AtomicBool>,
}

impl Unsynced {
    /// Waits until it is on disk.
    ///
    /// # Errors
    /// It is not certain to be.
    pub fn sync(self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|_| self.is_unsynced.store(true, Ordering::Relaxed))
    }
}

/// A manifest with its chunks.
type Publication = (Manifest, Vec<(ChunkName, Arc<[u8]>)>);

/// What a start finds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) manifest: Option<Publication>,
    pub(super) suppressions: Option<FoundList>,
}

/// A whole list, and what was kept behind it.
#[derive(Debug)]
pub(super) struct FoundList {
    version: u64,
    bytes: Arc<[u8]>,
    further: Vec<Further>,
}

#[derive(Debug)]
struct Further {
    version: u64,
    at: SuppressionPoint,
    changes: Arc<[u8]>,
}

impl FoundList {
    /// The list, with its version.
    ///
    /// # Errors
    /// The whole list does not decode. What does not decode behind it ends the list there, and it is to be replaced.
    pub(super) fn read(&self) -> Result<(u64, SuppressionList), WireError> {
        let list = decode_snapshot(&self.bytes)?.suppressions.into_iter().collect();
        let (mut version, mut found) = (self.version, SuppressionList { list, at: None });
        for further in &self.further {
            if !further.changes.is_empty() {
                match decode_suppression_delta(&further.changes) {
                    Ok(delta) => found.list = found.list.with(&delta),
                    Err(_) => return Ok((version, SuppressionList { at: None, ..found })),
                }
            }
            (version, found.at) = (further.version, Some(further.at));
        }
        Ok((version, found))
    }
}

impl Kept {
    /// Opens the file in `data`, or makes it, without what was written but not whole.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(super) fn open(data: &Path) -> io::Result<(Self, Found)> {
        let path = data.join(FILE);
        let mut options = File::options();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(&path)?;
        let mut bytes = Vec::new();
        (&mut file).take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let (records, length) = records(&bytes);
        let cut = bytes.len() as u64 - length;
        if cut > 0 {
            let path = path.display();
            tracing::warn!(%path, at = length, cut, "what was kept is not whole there: what follows is left out");
        }
        file.set_len(length)?;
        let found = found(&records);
        Ok((Self { path, file, length, fresh: length, is_torn: false, is_unsynced: Arc::default() }, found))
    }

    /// What the file in `data` has; nothing where there is none. Changes nothing, so that it may be asked beside a node.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn look(data: &Path) -> io::Result<Found> {
        let mut bytes = Vec::new();
        match File::open(data.join(FILE)) {
            Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
            Err(error) => return Err(error),
        };
        Ok(found(&records(&bytes).0))
    }

    /// Keeps a publication over the end of the process, and over that of the host once it is [synced](Self::unsynced).
    /// `new` are its chunks that the last one had not.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn keep<'a>(
        &mut self,
        manifest: &Manifest,
        new: impl Iterator<Item = &'a (ChunkName, Arc<[u8]>)>,
    ) -> io::Result<()> {
        let mut to = Vec::new();
        for (name, bytes) in new {
            put(&mut to, CHUNK, &[&name.hash.0.to_le_bytes(), bytes]);
        }
        put(&mut to, MANIFEST, &[&encode_manifest(manifest)]);
        self.append(&to)
    }

    /// Keeps suppressions likewise: a whole list, or what leads on from the last that was kept.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn keep_suppressions(&mut self, update: &SuppressionUpdate) -> io::Result<()> {
        let mut to = Vec::new();
        match update.is_whole {
            true => put_list(&mut to, update.version, &update.octets, update.next.at),
            false => put_further(&mut to, update.version, update.next.at, &update.octets),
        }
        self.append(&to)
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.length)?;
            self.is_torn = false;
        }
        self.is_torn = true;
        self.is_unsynced.store(true, Ordering::Relaxed);
        self.file.write_all(records)?;
        self.is_torn = false;
        self.length += records.len() as u64;
        Ok(())
    }

    /// What was kept and is to be synced; `None`: there is nothing.
    ///
    /// # Errors
    /// There is no further handle of the file.
    pub(super) fn unsynced(&self) -> io::Result<Option<Unsynced>> {
        if !self.is_unsynced.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let file = self.file.try_clone()?;
        self.is_unsynced.store(false, Ordering::Relaxed);
        Ok(Some(Unsynced { file, is_unsynced: Arc::clone(&self.is_unsynced) }))
    }

    /// Whether most of the file is of the past.
    pub(super) fn is_long(&self) -> bool {
        self.length > 2 * self.fresh + SLACK_BYTES
    }

    /// Waits until all that was kept is on disk, in a file without what is of the past.
    ///
    /// # Errors
    /// It is not certain to be.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        match self.write_anew() {
            Ok(()) => self.is_unsynced.store(false, Ordering::Relaxed),
            // What is kept is kept where it is: a failure here costs space.
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "not written anew");
                self.fresh = self.length;
            }
        }
        self.unsynced()?.map_or(Ok(()), Unsynced::sync)
    }

    /// The file without what is of the past, in its place.
    fn write_anew(&mut self) -> io::Result<()> {
        let bytes = fs::read(&self.path)?;
        let found = found(&records(&bytes).0);
        let mut to = Vec::new();
        if let Some((manifest, chunks)) = found.manifest {
            for (name, bytes) in &chunks {
                put(&mut to, CHUNK, &[&name.hash.0.to_le_bytes(), bytes]);
            }
            put(&mut to, MANIFEST, &[&encode_manifest(&manifest)]);
        }
        if let Some(kept) = found.suppressions {
            match kept.read() {
                Ok((version, list)) => put_list(&mut to, version, &encode_list(&list), list.at),
                Err(_) => put_list(&mut to, kept.version, &kept.bytes, None),
            }
        }
        let beside = self.path.with_extension("new");
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&to)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.file = File::options().read(true).append(true).open(&self.path)?;
        (self.length, self.fresh) = (to.len() as u64, to.len() as u64);
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = self.unsynced().and_then(|left| left.map_or(Ok(()), Unsynced::sync)) {
            tracing::warn!(%error, path = %self.path.display(), "the configuration is not certain to be on disk");
        }
    }
}

fn put(to: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let length: usize = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let crc = parts.iter().fold(crc32c::crc32c(&[tag]), |crc, part| crc32c::crc32c_append(crc, part));
    // A record is a chunk, a manifest or the suppressions, all far below 4 GiB.
    to.extend_from_slice(&(length as u32).to_le_bytes());
    to.extend_from_slice(&crc.to_le_bytes());
    to.push(tag);
    parts.iter().for_each(|part| to.extend_from_slice(part));
}

fn put_list(to: &mut Vec<u8>, version: u64, bytes: &[u8], at: Option<SuppressionPoint>) {
    put(to, SUPPRESSIONS, &[&version.to_le_bytes(), bytes]);
    put_further(to, version, at, &[]);
}

/// Without a point there is nothing that leads on.
fn put_further(to: &mut Vec<u8>, version: u64, at: Option<SuppressionPoint>, changes: &[u8]) {
    let Some(SuppressionPoint { ledger, sequence }) = at else { return };
    put(to, FURTHER, &[&version.to_le_bytes(), &ledger.to_le_bytes(), &sequence.to_le_bytes(), changes]);
}

fn further(body: &[u8]) -> Option<Further> {
    let (version, rest) = body.split_first_chunk::<8>()?;
    let (ledger, rest) = rest.split_first_chunk::<16>()?;
    let (sequence, changes) = rest.split_first_chunk::<8>()?;
    let at = SuppressionPoint { ledger: u128::from_le_bytes(*ledger), sequence: u64::from_le_bytes(*sequence) };
    Some(Further { version: u64::from_le_bytes(*version), at, changes: changes.into() })
}

fn encode_list(list: &SuppressionList) -> Vec<u8> {
    encode_snapshot(&SnapshotContent { suppressions: list.iter().collect(), ..SnapshotContent::default() })
}

/// Tag and body.
type Record<'a> = (u8, &'a [u8]);
type Records<'a> = Vec<Record<'a>>;

/// The records up to the first that is not whole, and where they end.
fn records(bytes: &[u8]) -> (Records<'_>, u64) {
    let (mut records, mut rest) = (Vec::new(), bytes);
    while let Some((record, after)) = first(rest) {
        records.push(record);
        rest = after;
    }
    (records, (bytes.len() - rest.len()) as u64)
}

/// The first record, and what follows it.
fn first(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (record, after) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (tag, body) = record.split_first()?;
    (crc32c::crc32c(record) == u32::from_le_bytes(*crc)).then_some(((*tag, body), after))
}

fn found(records: &Records<'_>) -> Found {
    let (mut chunks, mut found) = (BTreeMap::new(), Found::default());
    for (tag, body) in records {
        match *tag {
            CHUNK => {
                let Some((hash, bytes)) = body.split_first_chunk::<16>() else { continue };
                chunks.insert(ChunkHash(u128::from_le_bytes(*hash)), bytes);
            }
            MANIFEST => {
                let Ok(manifest) = decode_manifest(body) else { continue };
                let named = |name: ChunkName| Some((name, Arc::from(*chunks.get(&name.hash)?)));
                if let Some(chunks) = manifest.chunks().map(named).collect() {
                    found.manifest = Some((manifest, chunks));
                }
            }
            SUPPRESSIONS => {
                let Some((version, bytes)) = body.split_first_chunk::<8>() else { continue };
                let (version, bytes) = (u64::from_le_bytes(*version), bytes.into());
                found.suppressions = Some(FoundList { version, bytes, further: Vec::new() });
            }
            FURTHER => {
                if let (Some(list), Some(further)) = (&mut found.suppressions, further(body)) {
                    list.further.push(further);
                }
            }
            // Of a newer version: not for us.
            _ => {}
        }
    }
    found
}

const FILE: &str = "published.log";
const CHUNK: u8 = 1;
const MANIFEST: u8 = 2;
const SUPPRESSIONS: u8 = 3;
const FURTHER: u8 = 4;
/// What is read at a start, at most.
const FILE_BYTES_MAX: u64 = 2 << 30;
/// Octets of the past that are always allowed.
const SLACK_BYTES: u64 = 4 * 1024 * 1024;
