//! The log, the spool and the journal over a disk in memory that fails when told to. Crashes are the simulator's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use postrail_core::base::{Instant, Timestamp};
use postrail_core::mail::{Address, BodyType, Content, Interface, Job, JobEntry, JobRecipient, Notify};
use postrail_core::spool::{Carried, Location, LogKind};
use postrail_schema::allocation::HostName;
use postrail_schema::event::{Event, EventKind};
use postrail_schema::ids::{CredentialId, MessageId, RecipientIndex, Revision, SendingDomainId, ShardId, TenantId};
use postrail_schema::limits::{JOURNAL_GATHERING, JOURNAL_PULL_BYTES_MAX, LOG_GATHER_BYTES, LOG_RETRY_DELAY};
use postrail_schema::snapshot::TrafficClass;

use super::{AppendError, Log, NewFrame};
use crate::journal::{Cursor, Entry, Journal, PullError};
use crate::platform::{BlockFile, Datagrams, Disk, DiskUsage, Listener, Net, Platform, Stream};
use crate::spool::{CompactionReason, JobOwner, OpenError, Spool, StoreError};

mod way;

const SHARD: ShardId = ShardId(3);
type FileContent = Rc<RefCell<Vec<u8>>>;
type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A world of one thread. Its clock moves a millisecond whenever all tasks were polled.
#[derive(Clone, Default)]
struct World(Rc<WorldState>);

#[derive(Default)]
struct WorldState {
    files: RefCell<BTreeMap<PathBuf, FileContent>>,
    tasks: RefCell<Vec<Task>>,
    now: Cell<u64>,
    entropy: Cell<u64>,
    used_percent: Cell<u8>,
    failing_syncs: Cell<u32>,
    no_room: Cell<bool>,
    syncs: Cell<u32>,
}

impl World {
    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..200_000 {
            if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
                return result;
            }
            let mut tasks = self.0.tasks.take();
            tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            self.0.tasks.borrow_mut().extend(tasks);
            self.0.now.set(self.0.now.get() + 1_000_000);
        }
        panic!("the work does not end");
    }

    /// The same disk after all tasks were lost.
    fn restarted(&self) -> Self {
        self.0.tasks.borrow_mut().clear();
        self.clone()
    }

    fn names(&self, kind: &str) -> Vec<String> {
        let files = self.0.files.borrow();
        let dir = Path::new("/data").join(kind).join("shard-003");
        files.keys().filter_map(|path| Some(path.strip_prefix(&dir).ok()?.to_string_lossy().into_owned())).collect()
    }
}

impl Platform for World {
    type Disk = Self;
    type Net = Self;

    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.now.get())
    }
    fn timestamp(&self) -> Timestamp {
        Timestamp::default()
    }
    async fn sleep_until(&self, until: Instant) {
        std::future::poll_fn(|_| if self.now() >= until { Poll::Ready(()) } else { Poll::Pending }).await;
    }
    fn spawn(&self, _: &'static str, task: impl Future<Output = ()> + 'static) {
        self.0.tasks.borrow_mut().push(Box::pin(task));
    }
    async fn yield_now(&self) {}
    async fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        work()
    }
    fn entropy(&self) -> u64 {
        self.0.entropy.replace(self.0.entropy.get() + 1)
    }
    fn disk(&self) -> &Self {
        self
    }
    fn net(&self) -> &Self {
        self
    }
}

impl Disk for World {
    type File = File;

    async fn open(&self, path: &Path, create_bytes: Option<u64>) -> io::Result<File> {
        let mut files = self.0.files.borrow_mut();
        if !files.contains_key(path) {
            let bytes = create_bytes.ok_or(io::ErrorKind::NotFound)?;
            if self.0.no_room.get() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            files.insert(path.into(), Rc::new(RefCell::new(vec![0; bytes as usize])));
        }
        Ok(File { content: Rc::clone(&files[path]), world: self.clone() })
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.files.borrow_mut();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.into(), content);
        Ok(())
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.files.borrow_mut().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
    async fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    async fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    async fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let files = self.0.files.borrow();
        let name = |file: &PathBuf| Some(file.strip_prefix(path).ok()?.to_string_lossy().into_owned());
        Ok(files.keys().filter_map(name).collect())
    }
    async fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let files = self.0.files.borrow();
        files.get(path).map(|content| content.borrow().clone()).ok_or(io::ErrorKind::NotFound.into())
    }
    async fn write_file(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.0.files.borrow_mut().insert(path.into(), Rc::new(RefCell::new(content.to_vec())));
        Ok(())
    }
    async fn usage(&self, _: &Path) -> io::Result<DiskUsage> {
        Ok(DiskUsage { used_percent: self.0.used_percent.get(), free_bytes: 0 })
    }
}

struct File {
    content: FileContent,
    world: World,
}

impl BlockFile for File {
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        vec![0; bytes]
    }
    async fn write(&self, offset: u64, buffer: Vec<u8>) -> io::Result<()> {
        assert_eq!((offset % 4_096, buffer.len() % 4_096), (0, 0), "writes are whole blocks");
        let at = offset as usize;
        self.content.borrow_mut()[at..at + buffer.len()].copy_from_slice(&buffer);
        Ok(())
    }
    async fn sync(&self) -> io::Result<()> {
        futures_lite::future::yield_now().await;
        self.world.0.syncs.set(self.world.0.syncs.get() + 1);
        let failing = self.world.0.failing_syncs.get();
        self.world.0.failing_syncs.set(failing.saturating_sub(1));
        if failing > 0 { Err(io::Error::other("the device is gone")) } else { Ok(()) }
    }
    async fn read(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let content = self.content.borrow();
        let from = (offset as usize).min(content.len());
        Ok(content[from..(from + bytes).min(content.len())].to_vec())
    }
    async fn close(self) {}
}

/// There is no network in this world.
enum Never {}

impl futures_lite::AsyncRead for Never {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }
}
impl futures_lite::AsyncWrite for Never {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}
impl Stream for Never {
    fn peer(&self) -> Option<std::net::SocketAddr> {
        match *self {}
    }
    fn local(&self) -> Option<std::net::SocketAddr> {
        match *self {}
    }
}
impl Listener for Never {
    type Stream = Self;
    async fn accept(&self) -> io::Result<Self> {
        match *self {}
    }
    fn local(&self) -> Option<std::net::SocketAddr> {
        match *self {}
    }
}
impl Datagrams for Never {
    async fn send(&self, _: &[u8]) -> io::Result<()> {
        match *self {}
    }
    async fn receive(&self, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }
}
impl Net for World {
    type Stream = Never;
    type Listener = Never;
    type Datagrams = Never;

    fn listen_first(&self, _: std::net::SocketAddr) -> io::Result<Never> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn listen(&self, _: std::net::SocketAddr) -> io::Result<Never> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn listen_alone(&self, _: std::net::SocketAddr) -> io::Result<Never> {
        unreachable!("no sockets here")
    }

    async fn connect(&self, _: Option<std::net::IpAddr>, _: std::net::SocketAddr, _: Duration) -> io::Result<Never> {
        Err(io::ErrorKind::Unsupported.into())
    }
    async fn datagrams(&self, _: std::net::SocketAddr) -> io::Result<Never> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn job(number: u64, body_bytes: usize) -> Job {
    let recipient = |local: &str| JobRecipient {
        address: Address::parse(&format!("{local}@example.org")).expect("an address"),
        entry: 0,
        notify: Notify::Unspecified,
        orcpt: None,
    };
    Job {
        id: MessageId::new(number, SHARD, number),
        interface: Interface::Smtp,
        tenant: TenantId(1),
        credential: CredentialId(1),
        domain: SendingDomainId(1),
        class: TrafficClass::Transactional,
        revision: Revision(1),
        accepted_at: Timestamp::default(),
        expires_at: Timestamp::default(),
        peer: None,
        reverse_path: None,
        body: BodyType::SevenBit,
        smtp_utf8: false,
        ret: None,
        envid: None,
        reference: String::new(),
        campaign: String::new(),
        cost_center: String::new(),
        message_id_header: String::new(),
        quarantined: false,
        hop: 0,
        idempotency: None,
        entries: vec![JobEntry::default()],
        recipients: vec![recipient("ann"), recipient("bob")],
        content: Content::Mime { header: Bytes::from_static(b"A: b\r\n\r\n"), body: vec![b'x'; body_bytes].into() },
    }
}

fn event(number: u64) -> Event {
    Event {
        kind: EventKind::Delivered,
        message: MessageId::new(number, SHARD, number),
        index: RecipientIndex(0),
        at_ms: number,
        revision: Revision(1),
        tenant: TenantId(1),
        address: "ann@example.org".to_owned(),
        job: None,
        attempt: None,
        reason: "x".repeat(400),
        next_attempt_ms: 0,
    }
}

async fn open_spool(world: &World) -> Spool<World> {
    Spool::open(world.clone(), Path::new("/data"), SHARD).await.expect("opens")
}

async fn open_journal(world: &World) -> Journal<World> {
    Journal::open(world.clone(), Path::new("/data"), SHARD).await.expect("opens")
}

async fn recovered(spool: &Spool<World>) -> BTreeMap<u64, Location> {
    let mut jobs = BTreeMap::new();
    let report = spool.recover(|meta, at| assert_eq!(jobs.insert(meta.job.id.unix_ms(), at), None)).await;
    assert!(report.expect("readable").damaged.is_empty());
    jobs
}

/// An owner for whom `settled` recipients of each job have settled.
struct Owner {
    settled: Cell<usize>,
    settle_while_copying: bool,
    moves: RefCell<Vec<(Location, Location)>>,
}

impl JobOwner for Owner {
    fn carried_state(&self, _: MessageId, recipients: usize) -> Vec<Carried> {
        let settled = self.settled.get();
        if self.settle_while_copying {
            self.settled.set(settled + 1);
        }
        (0..recipients).map(|index| Carried { settled: index < settled, ..Carried::default() }).collect()
    }
    fn bound_to(&self, _: MessageId) -> Option<HostName> {
        None
    }
    async fn recorded(&self) {}
    fn moved(&self, _: MessageId, from: Location, to: Location) {
        self.moves.borrow_mut().push((from, to));
    }
}

fn owner(settled: usize, settle_while_copying: bool) -> Owner {
    Owner { settled: Cell::new(settled), settle_while_copying, moves: RefCell::default() }
}

#[test]
fn jobs_of_every_size_come_back_and_are_recovered_once() {
    let world = World::default();
    world.run(async {
        let spool = open_spool(&world).await;
        for (number, bytes) in [(1, 10), (2, 1_000_000), (3, 5_000_000)] {
            let at = spool.store(&job(number, bytes)).await.expect("stored");
            assert_eq!(spool.load(at).await.expect("readable"), job(number, bytes));
        }
    });
    let world = world.restarted();
    world.run(async {
        let spool = open_spool(&world).await;
        let new = spool.store(&job(4, 10)).await.expect("stored before recovery");
        let jobs = recovered(&spool).await;
        assert_eq!(jobs.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(spool.load(jobs[&3]).await.expect("readable"), job(3, 5_000_000));
        jobs.values().for_each(|at| spool.release(*at));
        assert!(spool.load(new).await.is_ok());
        spool.summarize().await;
        world.sleep_until(world.now() + Duration::from_millis(20)).await;
    });
    assert_eq!(world.names("spool"), ["0000000000000001.free", "0000000000000002.segment"]);
}

#[test]
fn the_next_segments_file_is_there_before_it_is_needed_and_is_a_free_one_after_a_crash() {
    let (first, next) = ("0000000000000001.segment", "0000000000000002.segment");
    let world = World::default();
    let names = || {
        let names = world.names("spool").into_iter();
        names.filter(|name| !name.ends_with(".summary")).collect::<Vec<_>>()
    };
    let store = async |spool: &Spool<World>, numbers: std::ops::RangeInclusive<u64>| {
        for number in numbers {
            spool.store(&job(number, 5_000_000)).await.expect("stored");
        }
        world.sleep_until(world.now() + Duration::from_millis(20)).await;
    };
    world.run(async {
        let spool = open_spool(&world).await;
        store(&spool, 1..=6).await;
        assert_eq!(names(), [first], "not before half of the segment is full");
        store(&spool, 7..=8).await;
        assert_eq!((names(), spool.stats().segments), (vec![first.into(), next.into()], 1));
    });
    let world = world.restarted();
    world.run(async {
        let spool = open_spool(&world).await;
        assert_eq!(recovered(&spool).await.len(), 8);
        assert_eq!(names(), [first, "0000000000000002.free"]);
        store(&spool, 9..=24).await;
        assert_eq!(names(), [first, "0000000000000003.segment", "0000000000000004.segment"]);
    });
    let world = world.restarted();
    world.run(async { assert_eq!(recovered(&open_spool(&world).await).await.len(), 24) });
}

#[test]
fn a_spare_that_cannot_be_made_is_made_when_it_is_needed() {
    let world = World::default();
    world.run(async {
        let spool = open_spool(&world).await;
        spool.store(&job(1, 5_000_000)).await.expect("stored");
        world.0.no_room.set(true);
        for number in 2..=13 {
            spool.store(&job(number, 5_000_000)).await.expect("the present segment has room");
        }
        let error = async || spool.store(&job(14, 5_000_000)).await.expect_err("there is no room for another");
        assert!(matches!(error().await, StoreError::Unavailable { .. }));
        world.0.no_room.set(false);
        world.sleep_until(world.now() + 2 * LOG_RETRY_DELAY).await;
        spool.store(&job(15, 5_000_000)).await.expect("stored in the next segment");
    });
}

#[test]
fn a_start_reads_the_summary_of_a_segment_and_not_its_content() {
    let mut world = World::default();
    world.run(async {
        let spool = open_spool(&world).await;
        for (number, bytes) in [(1, 900_000), (2, 3_000_000), (3, 10)] {
            spool.store(&job(number, bytes)).await.expect("stored");
        }
    });
    let summary = Path::new("/data/spool/shard-003/0000000000000001.summary");
    // The first start finds none, the second does, the third finds it spoilt.
    for (is_read_whole, spoil) in [(true, false), (false, false), (true, true)] {
        world = world.restarted();
        if spoil {
            world.0.files.borrow()[summary].borrow_mut()[100] ^= 1;
        }
        let jobs = world.run(async {
            let spool = open_spool(&world).await;
            let mut jobs = BTreeMap::new();
            let recovery = spool.recover(|meta, at| {
                jobs.insert(meta.job.id.unix_ms(), at);
            });
            let report = recovery.await.expect("readable");
            assert_eq!((report.jobs, report.bytes > 1_000_000), (3, is_read_whole));
            assert_eq!(spool.load(jobs[&2]).await.expect("readable"), job(2, 3_000_000));
            jobs
        });
        assert_eq!(jobs.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    }
    world.run(async {
        let spool = open_spool(&world.restarted()).await;
        recovered(&spool).await.values().for_each(|at| spool.release(*at));
        spool.summarize().await;
        world.sleep_until(world.now() + Duration::from_millis(20)).await;
    });
    assert!(!world.0.files.borrow().contains_key(summary), "a segment that is gone leaves no summary");
}

#[test]
fn appends_that_wait_together_share_one_sync() {
    let world = World::default();
    let spool = world.run(open_spool(&world));
    world.run(async {
        spool.store(&job(0, 10)).await.expect("stored");
        let before = world.0.syncs.get();
        let jobs: Vec<_> = (1..=50).map(|number| job(number, 100)).collect();
        let all = futures_util::future::join_all(jobs.iter().map(|job| spool.store(job))).await;
        assert!(all.iter().all(Result::is_ok));
        assert!(world.0.syncs.get() - before <= 2, "{} syncs", world.0.syncs.get() - before);
    });
}

#[test]
fn batches_begin_apart_and_a_lone_append_does_not_wait() {
    /// Time between the beginnings of two appends' batches, when the second comes `pause` after the first is durable.
    fn apart(pause: Duration, bytes: usize) -> Duration {
        let world = World::default();
        let journal = world.run(async {
            Log::open(world.clone(), Path::new("/data"), SHARD, LogKind::Journal, 1).await.expect("opens")
        });
        world.run(async {
            let frame = || vec![NewFrame { tag: 1, payload: vec![b'x'; bytes] }];
            journal.append(frame()).await.expect("appended");
            // The first of a log has nothing before it to keep away from, but its own beginning.
            world.sleep_until(world.now() + JOURNAL_GATHERING * 2).await;
            let first = world.now();
            journal.append(frame()).await.expect("appended");
            world.sleep_until(world.now() + pause).await;
            journal.append(frame()).await.expect("appended");
            world.now().since(first)
        })
    }
    let step = Duration::from_millis(1);
    let at_once = apart(JOURNAL_GATHERING * 2, 10) - JOURNAL_GATHERING * 2;
    assert!(at_once < JOURNAL_GATHERING, "a lone append is written at once: {at_once:?}");
    let small = apart(Duration::ZERO, 10);
    assert!(small >= JOURNAL_GATHERING && small <= JOURNAL_GATHERING + at_once + step * 2, "{small:?}");
    assert!(apart(Duration::ZERO, LOG_GATHER_BYTES) <= at_once + step, "a large batch does not wait");
}

#[test]
fn what_waits_while_batches_are_kept_apart_is_one_batch() {
    let world = World::default();
    world.run(async {
        let journal = Log::open(world.clone(), Path::new("/data"), SHARD, LogKind::Journal, 1).await.expect("opens");
        let append = || journal.append(vec![NewFrame { tag: 1, payload: vec![b'x'; 10] }]);
        append().await.expect("appended");
        world.sleep_until(world.now() + JOURNAL_GATHERING * 2).await;
        append().await.expect("appended");
        let before = journal.stats().batches;
        // One after the other, both while the last batch is younger than the least time between two.
        let late = async {
            world.sleep_until(world.now() + Duration::from_millis(1)).await;
            append().await
        };
        let (first, second) = futures_util::future::join(append(), late).await;
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(journal.stats().batches - before, 1);
    });
}

#[test]
fn what_the_ledger_has_not_stored_is_told_in_octets() {
    let world = World::default();
    world.run(async {
        let journal = open_journal(&world).await;
        assert_eq!(journal.unread_bytes(), 0);
        journal.append(&[event(1)], &[]).await.expect("appended");
        let one = journal.unread_bytes();
        assert!(one >= 400, "{one}");
        let (_, next) = journal.pull(Cursor::default(), JOURNAL_PULL_BYTES_MAX).await.expect("readable");
        assert_eq!(journal.unread_bytes(), one, "an answer is not stored yet");
        journal.pull(next, JOURNAL_PULL_BYTES_MAX).await.expect("readable");
        assert_eq!(journal.unread_bytes(), 0, "who asks for more has stored what was before");
        journal.append(&[event(2)], &[]).await.expect("appended");
        assert_eq!(journal.unread_bytes(), one);
    });
}

#[test]
fn a_failed_sync_refuses_its_job_for_good_and_the_next_goes_to_a_new_segment() {
    let world = World::default();
    world.run(async {
        let spool = open_spool(&world).await;
        spool.store(&job(1, 10)).await.expect("stored");
        world.0.failing_syncs.set(1);
        assert!(matches!(spool.store(&job(2, 10)).await, Err(StoreError::Unavailable { .. })));
        let at = spool.store(&job(3, 10)).await.expect("stored");
        assert_eq!(at.segment, 2);
    });
    let world = world.restarted();
    let jobs = world.run(async { recovered(&open_spool(&world).await).await });
    assert_eq!(jobs.keys().copied().collect::<Vec<_>>(), [1, 3], "the bytes of 2 reached the disk, and are void");
}

#[test]
fn a_full_disk_refuses_until_there_is_room_again() {
    let world = World::default();
    world.run(async {
        let spool = open_spool(&world).await;
        world.0.no_room.set(true);
        assert!(matches!(spool.store(&job(1, 10)).await, Err(StoreError::Unavailable { .. })));
        assert!(spool.stats().refusing.is_some());
        world.0.no_room.set(false);
        assert!(
            matches!(spool.store(&job(1, 10)).await, Err(StoreError::Unavailable { .. })),
            "not every append tries"
        );
        world.sleep_until(world.now() + LOG_RETRY_DELAY).await;
        assert!(spool.store(&job(1, 10)).await.is_ok());
        assert_eq!(spool.stats().refusing, None);
        world.0.used_percent.set(95);
        world.sleep_until(world.now() + Duration::from_secs(3)).await;
        assert_eq!(spool.store(&job(2, 10)).await, Err(StoreError::DiskFull { used_percent: 95 }));
    });
}

#[test]
fn compaction_moves_jobs_with_what_became_of_them() {
    let world = World::default();
    world.run(async {
        let spool = open_spool(&world).await;
        recovered(&spool).await;
        let small = spool.store(&job(1, 10)).await.expect("stored");
        spool.store(&job(2, 3_000_000)).await.expect("stored");
        let owner = owner(1, false);
        let report = spool.compact(&owner, CompactionReason::OldestSegment).await.expect("stored");
        assert_eq!((report.segment, report.moved, report.left), (Some(1), 2, 0));
        assert_eq!(spool.load(small).await.expect("the old place leads to the new"), job(1, 10));
        world.sleep_until(world.now() + Duration::from_millis(20)).await;
        assert_eq!(spool.stats().segments, 1, "the old segment is free");
    });
    let world = world.restarted();
    world.run(async {
        let spool = open_spool(&world).await;
        let mut carried = Vec::new();
        spool.recover(|meta, _| carried.push(meta.carried(RecipientIndex(0)))).await.expect("readable");
        assert_eq!(carried, [Some(Carried { settled: true, ..Carried::default() }); 2]);
    });
}

#[test]
fn compaction_leaves_a_job_that_settles_meanwhile() {
    let world = World::default();
    world.run(async {
        let spool = open_spool(&world).await;
        recovered(&spool).await;
        let at = spool.store(&job(1, 10)).await.expect("stored");
        let owner = owner(0, true);
        let report = spool.compact(&owner, CompactionReason::OldestSegment).await.expect("stored");
        assert_eq!((report.moved, report.left, owner.moves.borrow().len()), (0, 1, 0));
        assert!(spool.load(at).await.is_ok());
        spool.release(at);
    });
}

#[test]
fn a_ledger_that_follows_the_cursor_gets_every_event_once() {
    let world = World::default();
    world.run(async {
        let journal = open_journal(&world).await;
        journal.replay(|_| {}).await.expect("readable");
        let mut cursor = Cursor::default();
        let mut count = 0;
        for round in 0..40_u64 {
            journal.append(&(0..100).map(|n| event(round * 100 + n)).collect::<Vec<_>>(), &[]).await.expect("durable");
            if round % 8 == 7 {
                loop {
                    let (buffers, next) = journal.pull(cursor, JOURNAL_PULL_BYTES_MAX).await.expect("retained");
                    count += events_in(&buffers, count);
                    cursor = next;
                    if buffers.is_empty() {
                        break;
                    }
                }
            }
        }
        assert_eq!(count, 4_000);
    });
    let world = world.restarted();
    world.run(async {
        let journal = open_journal(&world).await;
        let mut seen = 0;
        journal
            .replay(|entry| {
                let Entry::Event(event) = entry else { panic!("there are events only") };
                assert_eq!(event.message.unix_ms(), seen);
                seen += 1;
            })
            .await
            .expect("readable");
        assert_eq!(seen, 4_000);
        let (mut cursor, mut count) = (Cursor::default(), 0);
        loop {
            let (buffers, next) = journal.pull(cursor, 100_000).await.expect("from the disk");
            count += events_in(&buffers, count);
            if buffers.is_empty() {
                break;
            }
            cursor = next;
        }
        assert_eq!(count, 4_000);
        journal.append(&[event(4_000)], &[]).await.expect("durable");
        journal.wait(cursor, Duration::from_secs(5)).await;
        let (buffers, next) = journal.pull(cursor, 100_000).await.expect("retained");
        assert_eq!((events_in(&buffers, 4_000), next.segment), (1, 2));
        journal.trim(cursor, None);
        assert!(journal.pull(cursor, 1).await.is_ok(), "the cursor's own segment stays");
        journal.trim(next, Some(1));
        assert!(journal.pull(cursor, 1).await.is_ok(), "the spool needs it");
        journal.trim(next, Some(2));
        assert!(matches!(journal.pull(cursor, 1).await, Err(PullError::CursorTooOld { .. })));
    });
}

/// Events of a pull's answer, checked to continue at `from`.
fn events_in(buffers: &[u8], from: u64) -> u64 {
    let mut rest = buffers;
    let mut count = 0;
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (buffer, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        for event in postrail_core::events::decode(buffer).expect("whole") {
            assert_eq!(event.at_ms, from + count);
            count += 1;
        }
        rest = behind;
    }
    count
}

#[test]
fn a_long_poll_ends_when_an_event_is_durable_or_its_time_is_over() {
    let world = World::default();
    world.run(async {
        let journal = open_journal(&world).await;
        let start = world.now();
        journal.wait(Cursor::default(), Duration::from_secs(1)).await;
        assert!(world.now().since(start) >= Duration::from_secs(1));
        let start = world.now();
        let wait = journal.wait(Cursor::default(), Duration::from_secs(10));
        let (_, appended) = futures_util::future::join(wait, journal.append(&[event(0)], &[])).await;
        assert_eq!(appended, Ok::<(), AppendError>(()));
        assert!(world.now().since(start) < Duration::from_secs(1));
    });
}

#[test]
fn a_folder_of_another_shard_is_refused() {
    let world = World::default();
    world.run(async { open_spool(&world).await.store(&job(1, 10)).await.expect("stored") });
    let from = Path::new("/data/spool/shard-003/0000000000000001.segment");
    let to = Path::new("/data/spool/shard-004/0000000000000001.segment");
    world.run(world.rename(from, to)).expect("there");
    let opened = world.run(Spool::open(world.clone(), Path::new("/data"), ShardId(4)));
    assert!(matches!(opened.err(), Some(OpenError::Foreign { shard: SHARD, .. })));
}
