//! Parcels of other hosts.
//!
//! Shard 0 takes them in, since it has the table of givers; each job is stored by its home shard, the one that its id
//! names among those that this host has.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use futures_util::future::join_all;
use postrail_core::mail::Content;
use postrail_core::spool::{JobMeta, job_frame};
use postrail_core::transfer::givers::{Givers, NotNow, Standing};
use postrail_core::transfer::parcel::{Parcel, ParcelJob, encode_answer};
use postrail_core::transfer::{Fate, KeptReason};
use postrail_schema::ids::{MessageId, ShardId};
use postrail_schema::limits::JOB_RECIPIENTS_MAX;

use super::{Arrival, Arrived};
use crate::mesh::{Question, Reply};
use crate::platform::Platform;
use crate::shard::Runtime;

impl<P: Platform> Runtime<P> {
    /// Takes what can be taken of a parcel: each job once, whatever is repeated.
    pub(crate) async fn take(&self, parcel: &Parcel) -> Arrival {
        let begun = self.givers().borrow_mut().begin(parcel);
        match begun {
            Ok(()) => {}
            Err(NotNow::Busy) => return Arrival::Busy,
            Err(NotNow::Stale { turn }) => return Arrival::Stale { turn },
        }
        let mut work = Work { givers: self.givers(), parcel, taken: Vec::new() };
        let fates = self.fates_of(parcel, &mut work.taken).await;
        drop(work);
        match fates {
            Ok(fates) => Arrival::Answered(encode_answer(parcel.turn, &fates)),
            Err(why) => Arrival::Refused(why.to_owned()),
        }
    }

    /// One fate a job; what was taken is added to `taken` also where that is not all that is known.
    async fn fates_of(&self, parcel: &Parcel, taken: &mut Vec<(MessageId, u16)>) -> Result<Vec<Fate>, &'static str> {
        let held = self.held(parcel).await?;
        let mut fates = vec![Fate::Taken; parcel.jobs.len()];
        let mut homes: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (at, (job, held)) in parcel.jobs.iter().zip(held).enumerate() {
            match self.givers().borrow().standing(parcel, job, held) {
                Standing::Ours => taken.push((job.message, job.hop)),
                Standing::New => homes.entry(job.message.shard().0 % self.node().shards).or_default().push(at),
                Standing::Older => return Err("a job of the parcel is on its way from here at an earlier step"),
            }
        }
        let stored = homes.into_iter().map(|(home, places)| async move {
            let jobs = places.iter().map(|at| parcel.jobs[*at].clone()).collect();
            let arrived = Arrived { jobs, is_leaving: parcel.is_leaving };
            let reply = self.mesh().ask(ShardId(home), Question::Store(Box::new(arrived))).await;
            (places, reply)
        });
        let mut are_all_known = true;
        for (places, reply) in join_all(stored).await {
            let Some(Reply::Fates(stored)) = reply else {
                are_all_known = false;
                continue;
            };
            for (at, fate) in places.into_iter().zip(stored) {
                fates[at] = fate;
                if fate == Fate::Taken {
                    taken.push((parcel.jobs[at].message, parcel.jobs[at].hop));
                }
            }
        }
        if are_all_known { Ok(fates) } else { Err("a shard is stopping") }
    }

    /// By job, the hop of the copy that a shard holds.
    async fn held(&self, parcel: &Parcel) -> Result<Vec<Option<u16>>, &'static str> {
        let jobs: Vec<(MessageId, u16)> = parcel.jobs.iter().map(|job| (job.message, job.hop)).collect();
        let mut held = vec![None; jobs.len()];
        for shard in (0..self.node().shards).map(ShardId) {
            match self.mesh().ask(shard, Question::Holds(jobs.clone())).await {
                Some(Reply::Holds(Some(hops))) => {
                    held.iter_mut().zip(hops).for_each(|(held, hop)| *held = (*held).max(hop));
                }
                Some(Reply::Holds(None)) => return Err("jobs of an earlier start are still being read"),
                _ => return Err("a shard is stopping"),
            }
        }
        Ok(held)
    }

    /// The hops of the jobs that this shard holds, or had taken before its start; `None` while it does not know them all.
    pub(crate) fn holds(&self, jobs: &[(MessageId, u16)]) -> Option<Vec<Option<u16>>> {
        let heart = self.heart();
        let hop = |(message, hop): &(MessageId, u16)| {
            heart.hop_of(*message).or_else(|| heart.had_taken(*message, *hop).then_some(*hop))
        };
        (!heart.is_recovering()).then(|| jobs.iter().map(hop).collect())
    }

    /// Stores what has come, at its home.
    pub(crate) async fn store_arrived(&self, arrived: &Arrived) -> Vec<Fate> {
        let _storing = Storing::begin(self.storing());
        let stored = arrived.jobs.iter().map(|job| async move {
            match self.store_job(job, arrived.is_leaving).await {
                Ok(()) => Fate::Taken,
                Err(reason) => Fate::Kept(reason),
            }
        });
        join_all(stored).await
    }

    async fn store_job(&self, job: &ParcelJob, is_leaving: bool) -> Result<(), KeptReason> {
        if self.is_draining() {
            return Err(KeptReason::Leaving);
        }
        let mut meta = read(job)?;
        self.heart().may_take(&meta, is_leaving)?;
        if self.refusal(meta.job.tenant, meta.job.recipients.len()).is_some() {
            return Err(KeptReason::NoRoom);
        }
        let stored = self.spool().store_taken(&meta).await;
        let at = stored.map_err(|error| {
            tracing::warn!(message = %job.message, %error, "cannot store a job of another host");
            KeptReason::NoRoom
        })?;
        meta.job.content = Content::Mime { header: Bytes::new(), body: Bytes::new() };
        self.put_on_its_way(meta, at);
        Ok(())
    }
}

/// What is in a job's octets, if it is what their parcel says.
fn read(job: &ParcelJob) -> Result<JobMeta, KeptReason> {
    let meta = job_frame::decode(&job.octets).map_err(|error| {
        if job.octets.has_remaining() {
            tracing::warn!(message = %job.message, %error, "cannot read a job of another host");
        }
        KeptReason::Unreadable
    })?;
    let JobMeta { job: read, progress, moved_from, bound_to, chunks, .. } = &meta;
    // Places in the giver's spool are none here.
    let is_plain = chunks.is_empty() && moved_from.is_none() && bound_to.is_none();
    let is_named = read.id == job.message && read.hop == job.hop;
    let is_whole = read.recipients.len() <= JOB_RECIPIENTS_MAX && progress.len() == read.recipients.len();
    if is_plain && is_named && is_whole { Ok(meta) } else { Err(KeptReason::Unreadable) }
}

/// Counts a parcel whose jobs are being stored.
struct Storing<'a>(&'a Cell<usize>);

impl<'a> Storing<'a> {
    fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Storing<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A parcel in work; when it ends, however it ends, what was taken is remembered and the next may come.
struct Work<'a> {
    givers: &'a RefCell<Givers>,
    parcel: &'a Parcel,
    taken: Vec<(MessageId, u16)>,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.givers.borrow_mut().end(self.parcel, &self.taken);
    }
}
