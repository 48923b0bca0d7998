//! What a host remembers of those that give it jobs, so that a job is taken once, whatever is repeated.
//!
//! A shard of a giver repeats an offer until it has its answer, each time with a larger turn, and makes the next one only
//! then. So of each of them the last turn is remembered, and what was taken of the jobs that it last named: a repeated
//! job is answered from that, also when it has been sent and settled here meanwhile; what the next offer does not name
//! any more is forgotten.
//!
//! Invariants worth naming: parcels of one shard of a giver are worked on one at a time and in the order of their turns, so
//! that "kept" is the last word of an offer; a job that is here in an older state than the parcel's is not the parcel's.
//! Absent here: what is in spools, which the shards tell.

use std::collections::BTreeMap;

use postrail_schema::allocation::HostName;
use postrail_schema::ids::{MessageId, ShardId};
use postrail_schema::limits::TRANSFER_GIVERS_MAX;

use super::parcel::{Parcel, ParcelJob};

/// Why a parcel is not worked on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotNow {
    /// Another one of its giver is.
    Busy,
    /// A parcel of this turn has been worked on, or of a later one.
    Stale { turn: u64 },
}

/// Whether a job of a parcel is here already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is, or was.
    Ours,
    /// It is not.
    New,
    /// It is here as it was before it went where the parcel comes from: whoever took it then has not told us yet, and until
    /// then neither copy may go.
    Older,
}

/// The givers by host and shard.
#[derive(Debug)]
pub struct Givers {
    givers: BTreeMap<(HostName, ShardId), Giver>,
    givers_max: usize,
    /// Counts parcels.
    clock: u64,
}

#[derive(Debug)]
struct Giver {
    turn: u64,
    is_busy: bool,
    /// When its last parcel came, by [`Givers::clock`].
    seen: u64,
    /// With the hop of each.
    taken: Vec<(MessageId, u16)>,
}

impl Default for Givers {
    fn default() -> Self {
        Self { givers: BTreeMap::new(), givers_max: TRANSFER_GIVERS_MAX, clock: 0 }
    }
}

impl Givers {
    /// Work on `parcel` begins; [`Self::end`] follows.
    ///
    /// # Errors
    /// See [`NotNow`].
    pub fn begin(&mut self, parcel: &Parcel) -> Result<(), NotNow> {
        let key = (parcel.giver.clone(), parcel.shard);
        if !self.givers.contains_key(&key) {
            self.make_room()?;
            let giver = Giver { turn: 0, is_busy: false, seen: 0, taken: Vec::new() };
            self.givers.insert(key.clone(), giver);
        }
        let giver = self.givers.get_mut(&key).expect("it was there or was put there");
        if parcel.turn <= giver.turn {
            return Err(NotNow::Stale { turn: giver.turn });
        }
        if giver.is_busy {
            return Err(NotNow::Busy);
        }
        self.clock += 1;
        (giver.turn, giver.is_busy, giver.seen) = (parcel.turn, true, self.clock);
        giver.taken.retain(|(message, _)| parcel.jobs.iter().any(|job| job.message == *message));
        Ok(())
    }

    /// Where a job of a parcel in work stands; `held` is the hop of the copy that a shard has.
    pub fn standing(&self, parcel: &Parcel, job: &ParcelJob, held: Option<u16>) -> Standing {
        let giver = self.givers.get(&(parcel.giver.clone(), parcel.shard));
        let mut taken = giver.into_iter().flat_map(|giver| &giver.taken);
        if taken.any(|(message, hop)| *message == job.message && *hop >= job.hop) {
            return Standing::Ours;
        }
        match held {
            None => Standing::New,
            Some(hop) if hop >= job.hop => Standing::Ours,
            Some(_) => Standing::Older,
        }
    }

    /// The work on a parcel has ended, with so much of it taken.
    pub fn end(&mut self, parcel: &Parcel, taken: &[(MessageId, u16)]) {
        if let Some(giver) = self.givers.get_mut(&(parcel.giver.clone(), parcel.shard)) {
            giver.is_busy = false;
            giver.taken.retain(|(message, _)| taken.iter().all(|(newer, _)| newer != message));
            giver.taken.extend_from_slice(taken);
        }
    }

    /// Forgets the giver that was heard of least lately, where there are too many.
    fn make_room(&mut self) -> Result<(), NotNow> {
        if self.givers.len() < self.givers_max {
            return Ok(());
        }
        let idle = self.givers.iter().filter(|(_, giver)| !giver.is_busy);
        let oldest = idle.min_by_key(|(_, giver)| giver.seen).map(|(key, _)| key.clone()).ok_or(NotNow::Busy)?;
        self.givers.remove(&oldest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn id(random: u64) -> MessageId {
        MessageId::new(1, ShardId(0), random)
    }

    fn job(random: u64, hop: u16) -> ParcelJob {
        ParcelJob { message: id(random), hop, octets: Bytes::new() }
    }

    fn parcel(giver: &str, turn: u64, jobs: &[(u64, u16)]) -> Parcel {
        let jobs = jobs.iter().map(|(random, hop)| job(*random, *hop)).collect();
        let giver = HostName::new(giver).expect("a host's name");
        Parcel { giver, shard: ShardId(0), turn, is_leaving: false, jobs }
    }

    #[test]
    fn a_turn_is_worked_on_once_and_one_at_a_time() {
        let mut givers = Givers::default();
        let parcels = [5, 6, 7].map(|turn| parcel("a", turn, &[(1, 1)]));
        assert_eq!(givers.begin(&parcels[1]), Ok(()));
        assert_eq!(givers.begin(&parcels[1]), Err(NotNow::Stale { turn: 6 }));
        assert_eq!(givers.begin(&parcels[2]), Err(NotNow::Busy));
        let other = Parcel { shard: ShardId(1), ..parcels[0].clone() };
        assert_eq!(givers.begin(&other), Ok(()), "another shard has turns of its own");
        givers.end(&parcels[1], &[]);
        assert_eq!(givers.begin(&parcels[0]), Err(NotNow::Stale { turn: 6 }));
        assert_eq!(givers.begin(&parcels[2]), Ok(()), "a turn that was refused as busy was not worked on");
    }

    #[test]
    fn what_was_taken_is_ours_until_the_giver_has_heard_it() {
        let mut givers = Givers::default();
        let first = parcel("a", 1, &[(1, 1), (2, 1)]);
        assert_eq!(givers.begin(&first), Ok(()));
        assert_eq!(givers.standing(&first, &first.jobs[0], None), Standing::New);
        givers.end(&first, &[(id(1), 1)]);
        // Job 1 has been sent and settled since: no shard holds it.
        let again = parcel("a", 2, &[(1, 1), (2, 1)]);
        assert_eq!(givers.begin(&again), Ok(()));
        let standings = [0, 1].map(|at: usize| givers.standing(&again, &again.jobs[at], None));
        assert_eq!(standings, [Standing::Ours, Standing::New]);
        givers.end(&again, &[]);
        let next = parcel("a", 3, &[(3, 1)]);
        assert_eq!(givers.begin(&next), Ok(()));
        givers.end(&next, &[]);
        let later = parcel("a", 4, &[(1, 1)]);
        assert_eq!(givers.begin(&later), Ok(()));
        assert_eq!(givers.standing(&later, &later.jobs[0], None), Standing::New, "the giver had heard of it");
    }

    #[test]
    fn a_job_that_comes_back_is_another_than_the_one_that_went() {
        let mut givers = Givers::default();
        let out = parcel("a", 1, &[(1, 1)]);
        assert_eq!(givers.begin(&out), Ok(()));
        givers.end(&out, &[(id(1), 1)]);
        // It went back to the giver meanwhile, which gives it again.
        let again = parcel("a", 2, &[(1, 3)]);
        assert_eq!(givers.begin(&again), Ok(()));
        assert_eq!(givers.standing(&again, &again.jobs[0], None), Standing::New);
        assert_eq!(givers.standing(&again, &again.jobs[0], Some(3)), Standing::Ours);
        assert_eq!(givers.standing(&again, &again.jobs[0], Some(1)), Standing::Older);
        givers.end(&again, &[(id(1), 3)]);
        assert_eq!(givers.standing(&again, &again.jobs[0], None), Standing::Ours);
        assert_eq!(givers.standing(&again, &job(1, 5), None), Standing::New);
    }

    #[test]
    fn the_giver_that_was_silent_longest_is_forgotten_first() {
        let mut givers = Givers { givers_max: 2, ..Givers::default() };
        for (name, turn) in [("a", 1), ("b", 1), ("a", 2)] {
            assert_eq!(givers.begin(&parcel(name, turn, &[(1, 1)])), Ok(()));
            givers.end(&parcel(name, turn, &[]), &[]);
        }
        let third = parcel("c", 1, &[(1, 1)]);
        assert_eq!(givers.begin(&third), Ok(()));
        assert_eq!(givers.begin(&parcel("a", 2, &[])), Err(NotNow::Stale { turn: 2 }), "a is remembered");
        assert_eq!(givers.begin(&parcel("a", 3, &[])), Ok(()));
        assert_eq!(givers.begin(&parcel("b", 2, &[])), Err(NotNow::Busy), "all that are remembered are in work");
    }
}
