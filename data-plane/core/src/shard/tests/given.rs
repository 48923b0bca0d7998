//! Jobs that another host has taken, over restarts.

use postrail_schema::allocation::HostName;

use super::*;
use crate::spool::Carried;
use crate::transfer::{Note, NoteKind};

fn note(job: &Job, hop: u16, kind: NoteKind) -> Input {
    Input::ReplayedNote(Note { message: job.id, hop, kind })
}

fn bound() -> NoteKind {
    NoteKind::Bound(HostName::new("mta-2").unwrap())
}

/// A shard that starts on a spool with `job` at `hop`, and a journal with these notes, hops first.
fn restarted(hop: u16, notes: Vec<(u16, NoteKind)>) -> (World, usize) {
    let mut before = World::new(&["0.0.0.0"], 0, 1);
    let job = Job { hop, ..(*before.job(&["a@one.test"])).clone() };
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    for (hop, kind) in notes {
        world.input(note(&job, hop, kind));
    }
    let progress = vec![Carried::default()];
    let meta = JobMeta { job, content_bytes: 3, progress, moved_from: None, bound_to: None, chunks: Vec::new() };
    let at = Location { segment: 1, offset: 0, bytes: 1 };
    world.input(Input::Recovered { meta: Box::new(meta), at });
    let is_release =
        |o: &&Output| matches!(o, Output::Record(r) if r.finished.iter().any(|(_, released)| *released == at));
    let released = world.outputs.iter().filter(is_release).count();
    (world, released)
}

#[test]
fn a_job_that_was_given_is_released_and_nothing_of_it_is_sent_or_told() {
    let (mut world, released) = restarted(1, vec![(1, bound()), (1, NoteKind::Given)]);
    assert_eq!((released, world.shard.waiting()), (1, 0));
    assert_eq!(world.events(), []);
}

#[test]
fn a_job_that_was_kept_is_sent_from_here() {
    let (world, released) = restarted(1, vec![(1, bound()), (1, NoteKind::Kept)]);
    assert_eq!((released, world.shard.waiting()), (0, 1));
}

#[test]
fn a_job_that_has_come_back_is_not_given_by_the_note_of_its_first_leaving() {
    let (world, released) = restarted(2, vec![(0, bound()), (0, NoteKind::Given)]);
    assert_eq!((released, world.shard.waiting()), (0, 1));
}

#[test]
fn the_frame_of_a_first_stay_is_released_whatever_the_notes_of_a_later_one_say() {
    for later in [bound(), NoteKind::Kept, NoteKind::Given] {
        let (world, released) = restarted(0, vec![(0, bound()), (0, NoteKind::Given), (2, later.clone())]);
        assert_eq!((released, world.shard.waiting()), (1, 0), "{later:?}");
    }
}
