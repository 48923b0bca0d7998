//! What is kept of a job's way between hosts: notes in the journal, hop and bound host in the spool.

use postrail_core::spool::job_frame::{self, JobMeta};
use postrail_core::spool::{FRAME_TAG_EVENTS, FRAME_TAG_NOTES};
use postrail_core::transfer::{Note, NoteKind};

use super::*;

fn host(name: &str) -> HostName {
    HostName::new(name).expect("a name")
}

fn note(number: u64, kind: NoteKind) -> Note {
    Note { message: MessageId::new(number, SHARD, number), hop: 0, kind }
}

fn bound(number: u64) -> Note {
    note(number, NoteKind::Bound(host("mta-2")))
}

/// Everything that a pull gives from `cursor` on, in one or many answers, and where it ends.
async fn pull_all(journal: &Journal<World>, mut cursor: Cursor, bytes_max: usize) -> (Vec<u64>, Cursor) {
    let mut events = Vec::new();
    loop {
        let (mut rest, next) = match journal.pull(cursor, bytes_max).await.expect("retained") {
            (_, next) if next == cursor => return (events, cursor),
            (buffers, next) => (Bytes::from(buffers), next),
        };
        while !rest.is_empty() {
            let length = u32::from_le_bytes(rest.split_to(4)[..].try_into().expect("four"));
            let buffer = rest.split_to(length as usize);
            let read = postrail_core::events::decode(&buffer).expect("nothing but events");
            events.extend(read.iter().map(|event| event.message.unix_ms()));
        }
        cursor = next;
    }
}

async fn replayed(journal: &Journal<World>) -> (Vec<Entry>, usize) {
    let mut entries = Vec::new();
    let report = journal.replay(|entry| entries.push(entry)).await.expect("readable");
    (entries, report.damaged.len())
}

#[test]
fn a_pull_gives_events_and_no_notes_from_memory_and_from_the_disk() {
    let world = World::default();
    let end = world.run(async {
        let journal = open_journal(&world).await;
        journal.append(&[event(1)], &[bound(1)]).await.expect("durable");
        journal.append(&[], &[bound(2), note(2, NoteKind::Kept)]).await.expect("durable");
        journal.append(&[event(3)], &[]).await.expect("durable");
        let (events, end) = pull_all(&journal, Cursor::default(), JOURNAL_PULL_BYTES_MAX).await;
        assert_eq!(events, [1, 3]);
        end
    });
    let world = world.restarted();
    world.run(async {
        let journal = open_journal(&world).await;
        replayed(&journal).await;
        for bytes_max in [1, JOURNAL_PULL_BYTES_MAX] {
            assert_eq!(pull_all(&journal, Cursor::default(), bytes_max).await, (vec![1, 3], end));
        }
    });
}

#[test]
fn a_cursor_passes_notes_as_if_they_were_events() {
    let world = World::default();
    world.run(async {
        let journal = open_journal(&world).await;
        journal.append(&[event(1)], &[]).await.expect("durable");
        let (_, behind_event) = journal.pull(Cursor::default(), JOURNAL_PULL_BYTES_MAX).await.expect("readable");
        let start = world.now();
        let wait = journal.wait(behind_event, Duration::from_secs(10));
        let (_, appended) = futures_util::future::join(wait, journal.append(&[], &[bound(1)])).await;
        assert_eq!(appended, Ok::<(), AppendError>(()));
        assert!(
            world.now().since(start) < Duration::from_secs(1),
            "notes hold segments, so their batch is to be passed"
        );
        let (buffers, behind_notes) = journal.pull(behind_event, JOURNAL_PULL_BYTES_MAX).await.expect("readable");
        assert!(buffers.is_empty() && behind_notes > behind_event, "{behind_notes:?}");
        assert_eq!(pull_all(&journal, behind_notes, 1).await, (vec![], behind_notes));
        assert_eq!(journal.unread_bytes(), 0, "nothing is left for the ledger");
        let start = world.now();
        journal.wait(behind_notes, Duration::from_secs(1)).await;
        assert!(world.now().since(start) >= Duration::from_secs(1), "who has passed the notes waits for events");
        journal.append(&[event(2)], &[]).await.expect("durable");
        assert_eq!(pull_all(&journal, behind_notes, 1).await.0, [2]);
    });
}

#[test]
fn notes_and_events_are_replayed_in_the_order_in_which_they_came_the_notes_of_an_append_first() {
    let world = World::default();
    let given = note(1, NoteKind::Given);
    world.run(async {
        let journal = open_journal(&world).await;
        journal.append(&[event(1), event(2)], &[bound(1), note(2, NoteKind::Kept)]).await.expect("durable");
        journal.append(&[], std::slice::from_ref(&given)).await.expect("durable");
        journal.append(&[event(3)], &[]).await.expect("durable");
        journal.append(&[], &[]).await.expect("nothing is nothing to write");
    });
    let world = world.restarted();
    world.run(async {
        let of = |number| Entry::Event((&event(number)).into());
        let notes = [bound(1), note(2, NoteKind::Kept), given.clone()].map(Entry::Note);
        let [first, second, third] = notes;
        assert_eq!(replayed(&open_journal(&world).await).await, (vec![first, second, of(1), of(2), third, of(3)], 0));
    });
}

#[test]
fn more_notes_than_one_batch_takes_are_all_written_in_their_order() {
    let world = World::default();
    let notes: Vec<_> = (0..200_000).map(bound).collect();
    world.run(async { open_journal(&world).await.append(&[event(1)], &notes).await.expect("durable") });
    let world = world.restarted();
    world.run(async {
        let (entries, damaged) = replayed(&open_journal(&world).await).await;
        let back: Vec<_> = entries
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Note(note) => Some(note),
                Entry::Event(_) => None,
            })
            .collect();
        assert_eq!((back, damaged), (notes, 0));
    });
}

#[test]
fn a_frame_that_is_not_understood_is_damage_and_hides_nothing_else() {
    let world = World::default();
    world.run(async {
        let log = Log::open(world.clone(), Path::new("/data"), SHARD, LogKind::Journal, 1).await.expect("opens");
        for (tag, payload) in [(FRAME_TAG_NOTES, &b"x"[..]), (FRAME_TAG_EVENTS, b"x"), (99, b"")] {
            log.append(vec![NewFrame { tag, payload: payload.to_vec() }]).await.expect("durable");
        }
    });
    let world = world.restarted();
    world.run(async { open_journal(&world).await.append(&[event(1)], &[bound(1)]).await.expect("durable") });
    let world = world.restarted();
    world.run(async {
        let expected = vec![Entry::Note(bound(1)), Entry::Event((&event(1)).into())];
        assert_eq!(replayed(&open_journal(&world).await).await, (expected, 3));
    });
}

fn on_its_way(number: u64, body_bytes: usize) -> JobMeta {
    let job = Job { hop: 3, ..job(number, body_bytes) };
    let carried = |attempts| Carried { settled: attempts == 0, attempts, next_attempt: Timestamp::default() };
    let payload = job_frame::encode_parcel_job(&job, job.hop, &[carried(0), carried(2)]);
    job_frame::decode(&payload.into()).expect("whole")
}

#[test]
fn a_job_of_another_host_is_stored_and_comes_back_with_its_way() {
    let world = World::default();
    let (small, large) = (on_its_way(1, 10), on_its_way(2, 3_000_000));
    world.run(async {
        let spool = open_spool(&world).await;
        for meta in [&small, &large] {
            let at = spool.store_taken(meta).await.expect("stored");
            assert_eq!(spool.load(at).await.expect("readable"), meta.job);
        }
        world.0.used_percent.set(95);
        world.sleep_until(world.now() + Duration::from_secs(3)).await;
        assert_eq!(spool.store_taken(&small).await, Err(StoreError::DiskFull { used_percent: 95 }));
    });
    let world = world.restarted();
    world.run(async {
        let mut way = BTreeMap::new();
        let take = |meta: JobMeta, _| {
            way.insert(meta.job.id, (meta.job.hop, meta.progress, meta.moved_from, meta.content_bytes));
        };
        open_spool(&world).await.recover(take).await.expect("readable");
        let expected = [small, large].map(|meta| (meta.job.id, (3, meta.progress, None, meta.content_bytes)));
        assert_eq!(way, BTreeMap::from(expected));
    });
}

/// An owner whose jobs are bound to one host after the other, a host for each time that it is asked.
struct Binder(RefCell<Vec<Option<HostName>>>);

impl JobOwner for Binder {
    fn carried_state(&self, _: MessageId, recipients: usize) -> Vec<Carried> {
        vec![Carried::default(); recipients]
    }
    fn bound_to(&self, _: MessageId) -> Option<HostName> {
        self.0.borrow_mut().remove(0)
    }
    async fn recorded(&self) {}
    fn moved(&self, _: MessageId, _: Location, _: Location) {}
}

/// What a restart finds where compaction has moved one job of such an owner: how many jobs, and where they are bound.
fn moved_by(answers: [Option<HostName>; 2]) -> (usize, Vec<Option<HostName>>, Vec<u16>) {
    let world = World::default();
    let moved = world.run(async {
        let spool = open_spool(&world).await;
        recovered(&spool).await;
        spool.store_taken(&on_its_way(1, 10)).await.expect("stored");
        let binder = Binder(RefCell::new(answers.to_vec()));
        spool.compact(&binder, CompactionReason::OldestSegment).await.expect("stored").moved
    });
    let world = world.restarted();
    world.run(async {
        let (mut bound, mut hops) = (Vec::new(), Vec::new());
        let take = |meta: JobMeta, _| {
            bound.push(meta.bound_to);
            hops.push(meta.job.hop);
        };
        open_spool(&world).await.recover(take).await.expect("readable");
        (moved, bound, hops)
    })
}

#[test]
fn compaction_keeps_the_host_that_a_job_is_bound_to() {
    let bound = Some(host("mta-2"));
    assert_eq!(moved_by([bound.clone(), bound.clone()]), (1, vec![bound], vec![3]));
    assert_eq!(moved_by([None, None]), (1, vec![None], vec![3]));
}

#[test]
fn compaction_leaves_a_job_that_is_bound_or_unbound_meanwhile() {
    let [here, there] = ["mta-2", "mta-3"].map(|name| Some(host(name)));
    for answers in [[None, here.clone()], [here.clone(), None], [here, there]] {
        assert_eq!(moved_by(answers.clone()).0, 0, "{answers:?}");
    }
}
