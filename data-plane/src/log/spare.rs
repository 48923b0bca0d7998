//! The file of the next segment, made ready while the current one fills: every append would else wait, each time that a
//! segment is full, for a rename, an open and a sync of the folder.
//!
//! A spare has the name of the segment that it will be and no header that says so, so that a start after a crash takes it
//! for what it is: a free file. Deliberately absent: the header, which is known when the current segment ends.

use std::io;
use std::rc::Rc;

use postrail_schema::limits::{SEGMENT_BYTES, SPARE_FROM_BYTES};

use super::segments::FileKind;
use super::{FileOf, Shared};
use crate::platform::{BlockFile, Disk, Platform};

/// How far the next segment's file is.
pub(super) enum Spare<F> {
    None,
    Coming,
    Ready(u64, F),
    /// It could not be made; the writer tries when it needs one.
    Failed,
}

impl<P: Platform> Shared<P> {
    /// The current segment is filled up to `end`: begins to make a spare where it is time for one.
    pub(super) fn want_spare(self: &Rc<Self>, end: u32) {
        {
            let mut state = self.state.borrow_mut();
            if u64::from(end) < SPARE_FROM_BYTES || !matches!(state.spare, Spare::None) {
                return;
            }
            state.spare = Spare::Coming;
        }
        let shared = Rc::clone(self);
        self.platform.spawn("log spare", async move {
            let made = shared.make_file().await;
            shared.state.borrow_mut().spare = match made {
                Ok((sequence, file)) => Spare::Ready(sequence, file),
                Err(error) => {
                    tracing::warn!(log = shared.kind.name(), shard = shared.shard.0, %error, "next segment not made yet");
                    Spare::Failed
                }
            };
            shared.spare_changed.notify();
        });
    }

    /// The spare, or else a file made now; with the sequence that it is named by.
    pub(super) async fn take_spare(&self) -> io::Result<(u64, FileOf<P>)> {
        match self.settled_spare().await {
            Spare::Ready(sequence, file) => Ok((sequence, file)),
            Spare::None | Spare::Coming | Spare::Failed => self.make_file().await,
        }
    }

    /// Closes the spare. Its file is found by the next start.
    pub(super) async fn leave_spare(&self) {
        if let Spare::Ready(_, file) = self.settled_spare().await {
            file.close().await;
        }
    }

    async fn settled_spare(&self) -> Spare<FileOf<P>> {
        self.spare_changed.until(|| !matches!(self.state.borrow().spare, Spare::Coming)).await;
        std::mem::replace(&mut self.state.borrow_mut().spare, Spare::None)
    }

    /// A file for the next segment, of a free one where there is one.
    async fn make_file(&self) -> io::Result<(u64, FileOf<P>)> {
        let (sequence, free) = {
            let mut state = self.state.borrow_mut();
            (state.sequence_last + 1, state.free.pop())
        };
        let made = self.prepare(sequence, free).await;
        if made.is_err() {
            self.remove_file(sequence).await;
        }
        Ok((sequence, made?))
    }

    async fn prepare(&self, sequence: u64, free: Option<u64>) -> io::Result<FileOf<P>> {
        let disk = self.platform.disk();
        let path = self.path(sequence, FileKind::Segment);
        if let Some(free) = free {
            disk.rename(&self.path(free, FileKind::Free), &path).await?;
        }
        let file = disk.open(&path, Some(SEGMENT_BYTES)).await?;
        if let Err(error) = disk.sync_dir(&self.dir).await {
            file.close().await;
            return Err(error);
        }
        Ok(file)
    }

    /// Removes a file that became no segment: it would take room for ever. Recovery knows what to do if this fails too.
    pub(super) async fn remove_file(&self, sequence: u64) {
        let _ = self.platform.disk().remove(&self.path(sequence, FileKind::Segment)).await;
    }
}
