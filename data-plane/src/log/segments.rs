//! The files of a log: what is in its folder at the start, which file a segment is in, and how a file is reused.
//!
//! | name | is |
//! |---|---|
//! | `<16 hex digits>.segment` | a segment with that sequence |
//! | `<16 hex digits>.free` | an emptied file; its digits are its last sequence |
//! | `<16 hex digits>.damaged` | set aside for the operator, never read again |

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use postrail_core::base::Random;
use postrail_core::spool::segment::{BatchHeader, FIRST_BATCH, FORMAT_VERSION, HeaderError};
use postrail_core::spool::{LogKind, SegmentHeader};
use postrail_schema::ids::ShardId;
use postrail_schema::limits::{BLOCK_BYTES, SEGMENTS_DAMAGED_MAX, SEGMENTS_OPEN_MAX};

use super::live::LiveFrames;
use super::spare::Spare;
use super::{FileOf, LogStats, ReadError, Shared, State};
use crate::platform::{BlockFile, Disk, Platform};

/// Why a log does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{path} was written by a newer Postrail: format version {found}, this binary supports {supported}; start the newer binary"
    )]
    NewerVersion { path: PathBuf, found: u16, supported: u16 },
    #[error("{path} belongs to the {kind} of shard {shard}: it was copied into the wrong folder")]
    Foreign { path: PathBuf, kind: &'static str, shard: ShardId },
    #[error("{path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// One segment in memory.
pub(super) struct Segment<F> {
    pub(super) header: SegmentHeader,
    pub(super) file: Option<Rc<F>>,
    /// Behind the last durable batch; unknown for an old segment until it is replayed or the next header tells it.
    pub(super) end: Option<u32>,
    /// The number of the next batch.
    pub(super) number: u64,
    pub(super) live: LiveFrames,
    pub(super) damaged: bool,
}

impl<F> Segment<F> {
    pub(super) const fn new(header: SegmentHeader, file: Option<Rc<F>>, end: Option<u32>) -> Self {
        Self { header, file, end, number: 0, live: LiveFrames::new(), damaged: false }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileKind {
    Segment,
    Free,
    Damaged,
}

pub(super) fn file_name(sequence: u64, kind: FileKind) -> String {
    let extension = match kind {
        FileKind::Segment => "segment",
        FileKind::Free => "free",
        FileKind::Damaged => "damaged",
    };
    format!("{sequence:016x}.{extension}")
}

/// The inverse of [`file_name`]; `None` for files that are not ours.
fn parse_name(name: &str) -> Option<(u64, FileKind)> {
    let (digits, extension) = name.split_once('.')?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    [FileKind::Segment, FileKind::Free, FileKind::Damaged]
        .into_iter()
        .find(|kind| file_name(sequence, *kind) == name)
        .map(|kind| (sequence, kind))
        .filter(|_| !extension.is_empty())
}

/// Makes `<data>/<kind>/shard-NNN` and answers its path.
pub(super) async fn make_dir<D: Disk>(
    disk: &D,
    data: &Path,
    kind: LogKind,
    shard: ShardId,
) -> Result<PathBuf, OpenError> {
    let parent = data.join(kind.name());
    let dir = parent.join(format!("shard-{:03}", shard.0));
    for (path, above) in [(&parent, data), (&dir, &parent)] {
        match disk.create_dir(path).await {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(path)(error)),
            _ => disk.sync_dir(above).await.map_err(failed(above))?,
        }
    }
    Ok(dir)
}

/// Looks at every file of the folder.
pub(super) async fn read_dir<P: Platform>(
    disk: &P::Disk,
    dir: &Path,
    kind: LogKind,
    shard: ShardId,
    random: Random,
) -> Result<State<FileOf<P>>, OpenError> {
    let mut state = State::new(random);
    for name in disk.list(dir).await.map_err(failed(dir))? {
        let Some((sequence, file_kind)) = parse_name(&name) else { continue };
        state.sequence_last = state.sequence_last.max(sequence);
        match file_kind {
            FileKind::Free => state.free.push(sequence),
            FileKind::Damaged => state.damaged.push(sequence),
            FileKind::Segment => {
                let path = dir.join(&name);
                match inspect(disk, &path, sequence, kind, shard).await? {
                    Inspected::Segment { header, damaged } => {
                        let mut segment = Segment::new(header, None, None);
                        segment.damaged = damaged;
                        state.segments.insert(sequence, segment);
                        state.unreplayed.push(sequence);
                    }
                    Inspected::Unfinished => {
                        set_aside(disk, dir, sequence, FileKind::Free).await.map_err(failed(&path))?;
                        state.free.push(sequence);
                    }
                    Inspected::Unreadable => {
                        tracing::error!(path = %path.display(), "segment header damaged, set aside");
                        set_aside(disk, dir, sequence, FileKind::Damaged).await.map_err(failed(&path))?;
                        state.damaged.push(sequence);
                    }
                }
            }
        }
    }
    let ends: Vec<_> = state.segments.values().map(|s| (s.header.previous, s.header.previous_end)).collect();
    for (previous, end) in ends {
        if let Some(segment) = state.segments.get_mut(&previous) {
            segment.end = Some(end);
        }
    }
    Ok(state)
}

enum Inspected {
    Segment {
        header: SegmentHeader,
        damaged: bool,
    },
    /// The file was made for a segment that was not begun.
    Unfinished,
    Unreadable,
}

async fn inspect<D: Disk>(
    disk: &D,
    path: &Path,
    sequence: u64,
    kind: LogKind,
    shard: ShardId,
) -> Result<Inspected, OpenError> {
    let file = disk.open(path, None).await.map_err(failed(path))?;
    let blocks = file.read(0, 2 * BLOCK_BYTES).await;
    file.close().await;
    let Ok(blocks) = blocks else { return Ok(Inspected::Unreadable) };
    let (first, second) = blocks.split_at(blocks.len().min(FIRST_BATCH as usize));
    match SegmentHeader::read(first) {
        Ok(header) if header.sequence != sequence => Ok(Inspected::Unfinished),
        Ok(header) if header.kind != kind || header.shard != shard => {
            Err(OpenError::Foreign { path: path.into(), kind: header.kind.name(), shard: header.shard })
        }
        Ok(header) => Ok(Inspected::Segment { header, damaged: false }),
        Err(HeaderError::Version { found }) => {
            Err(OpenError::NewerVersion { path: path.into(), found, supported: FORMAT_VERSION })
        }
        Err(HeaderError::Invalid) => Ok(match BatchHeader::read(second, FIRST_BATCH) {
            Some(batch) if batch.identity.sequence == sequence => {
                let generation = batch.identity.generation;
                let header =
                    SegmentHeader { kind, shard, generation, sequence, previous: 0, previous_end: 0, companion: 0 };
                Inspected::Segment { header, damaged: true }
            }
            _ if first.iter().all(|byte| *byte == 0) => Inspected::Unfinished,
            _ => Inspected::Unreadable,
        }),
    }
}

/// Gives a segment's file another kind of name, durably.
async fn set_aside<D: Disk>(disk: &D, dir: &Path, sequence: u64, kind: FileKind) -> io::Result<()> {
    disk.rename(&dir.join(file_name(sequence, FileKind::Segment)), &dir.join(file_name(sequence, kind))).await?;
    disk.sync_dir(dir).await
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.into(), source }
}

/// Gives a file back. The last holder closes it.
pub(super) async fn close<F: BlockFile>(file: Rc<F>) {
    if let Ok(file) = Rc::try_unwrap(file) {
        file.close().await;
    }
}

impl<F> State<F> {
    const fn new(random: Random) -> Self {
        Self {
            queue: VecDeque::new(),
            frames_queued: 0,
            bytes_queued: 0,
            segments: BTreeMap::new(),
            current: None,
            closed_last: None,
            retiring: BTreeMap::new(),
            free: Vec::new(),
            damaged: Vec::new(),
            unreplayed: Vec::new(),
            open: VecDeque::new(),
            spare: Spare::None,
            sequence_last: 0,
            random,
            close_wanted: false,
            unavailable: None,
            counts: LogStats {
                segments: 0,
                segments_free: 0,
                segments_damaged: 0,
                bytes: 0,
                live_bytes: 0,
                frames_queued: 0,
                bytes_queued: 0,
                batches: 0,
                frames: 0,
                failures: 0,
            },
        }
    }
}

impl<P: Platform> Shared<P> {
    pub(super) fn path(&self, sequence: u64, kind: FileKind) -> PathBuf {
        self.dir.join(file_name(sequence, kind))
    }

    /// The file of a segment, opened where it is not.
    pub(super) async fn file(&self, sequence: u64) -> Result<Rc<FileOf<P>>, ReadError> {
        {
            let state = self.state.borrow();
            let segment = state.segments.get(&sequence).ok_or(ReadError::Released)?;
            if let Some(file) = &segment.file {
                return Ok(Rc::clone(file));
            }
        }
        let path = self.path(sequence, FileKind::Segment);
        let file = Rc::new(self.platform.disk().open(&path, None).await.map_err(ReadError::Io)?);
        let surplus = self.keep_open(sequence, &file);
        if let Some(surplus) = surplus {
            close(surplus).await;
        }
        Ok(file)
    }

    /// Remembers an open file; answers one to close instead.
    fn keep_open(&self, sequence: u64, file: &Rc<FileOf<P>>) -> Option<Rc<FileOf<P>>> {
        let mut state = self.state.borrow_mut();
        let segment = state.segments.get_mut(&sequence).filter(|segment| segment.file.is_none())?;
        segment.file = Some(Rc::clone(file));
        state.open.push_back(sequence);
        if state.open.len() <= SEGMENTS_OPEN_MAX {
            return None;
        }
        let longest = state.open.pop_front()?;
        state.segments.get_mut(&longest)?.file.take()
    }

    /// No more batches go into the segment being written.
    pub(super) fn close_current(self: &Rc<Self>) {
        let closed = {
            let mut state = self.state.borrow_mut();
            state.close_wanted = false;
            let Some(sequence) = state.current.take() else { return };
            let end = state.segments.get(&sequence).and_then(|segment| segment.end).unwrap_or(FIRST_BATCH);
            state.closed_last = Some((sequence, end));
            if let Some(segment) = state.segments.get_mut(&sequence) {
                segment.live.close();
            }
            state.open.push_back(sequence);
            sequence
        };
        self.recycle_if_empty(closed);
    }

    /// Releases a closed spool segment without live frames, once all old segments were replayed.
    pub(super) fn recycle_if_empty(self: &Rc<Self>, sequence: u64) {
        let empty = {
            let state = self.state.borrow();
            let idle = state.current != Some(sequence) && state.unreplayed.is_empty();
            self.kind == LogKind::Spool && idle && state.segments.get(&sequence).is_some_and(|s| s.live.is_empty())
        };
        if empty {
            self.recycle(sequence);
        }
    }

    /// Forgets a segment and renames its file behind the caller's back.
    pub(super) fn recycle(self: &Rc<Self>, sequence: u64) {
        let retired = {
            let mut state = self.state.borrow_mut();
            let Some(segment) = state.segments.remove(&sequence) else { return };
            state.open.retain(|open| *open != sequence);
            state.retiring.insert(sequence, segment.header.companion);
            let keep = segment.damaged && state.damaged.len() < SEGMENTS_DAMAGED_MAX;
            (segment.file, if keep { FileKind::Damaged } else { FileKind::Free })
        };
        self.retire_later(sequence, retired);
    }
}
