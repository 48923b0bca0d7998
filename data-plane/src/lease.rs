//! Holds this host's addresses: carries out what the core's lease machine asks, on a thread of its own.
//!
//! ```text
//! store (by Registry) <-> thread <-> interfaces (netlink)
//!                            |
//!                            +--> every shard: what is held, and until when
//! ```
//!
//! The thread may be blocked by a store that does not answer for longer than a lease lasts. Nothing is used longer for
//! that: shards compare the clock with what they were told last, and the kernel takes addresses off by itself.
//!
//! Invariants worth naming: outputs are carried out in their order; grants that are fixed are on the disk before anything
//! that follows them is done. Absent here: decisions.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_lite::future::block_on;
use postrail_core::lease::{Input, Lease, Output};
pub use postrail_core::lease::{Settings, View};
use postrail_schema::allocation::{Carrier, Grant, HostRecord};
use postrail_schema::ids::ShardId;
use postrail_schema::outage::Outage;

use crate::address::{Bringer, Interfaces, lifetime};
use crate::mesh::{Letter, Mesh, Question, Reply};

/// The host's keys in the configuration store. Calls block, for a few seconds at most.
pub trait Registry: Send + 'static {
    /// The host's record and grants under one revision, not older than the call.
    ///
    /// # Errors
    /// In words for the log.
    fn read(&mut self) -> Result<View, String>;

    /// Writes the record if the present one was written by `guard` (0: if there is none), then reads both. It is done only
    /// when both are.
    ///
    /// # Errors
    /// [`WriteError`].
    fn write(&mut self, guard: u64, record: &HostRecord) -> Result<(u64, View), WriteError>;
}

/// Why a record was not written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteError {
    /// Somebody else has written it since.
    Refused,
    /// Whether it was written is not known.
    Unknown(String),
}

/// What the thread is told from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Message {
    /// The grants may have changed.
    Look,
    Stop,
}

/// How a holding ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Everything was given up in order.
    Stopped,
    /// Another process took this host's name: nothing is used any more, and an operator has to look.
    Ousted,
}

/// A holding that runs.
#[derive(Debug)]
pub struct LeaseHandle {
    messages: Sender<Message>,
    thread: JoinHandle<End>,
}

/// Wakes the thread of a holding. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LeaseWaker(Sender<Message>);

impl LeaseWaker {
    /// The grants may have changed.
    pub fn look(&self) {
        // A thread that has ended looks no more.
        let _ = self.0.send(Message::Look);
    }
}

impl LeaseHandle {
    pub fn waker(&self) -> LeaseWaker {
        LeaseWaker(self.messages.clone())
    }

    /// Begins to give everything up; shards are told at once to start nothing more.
    pub fn stop(&self) {
        let _ = self.messages.send(Message::Stop);
    }

    /// Waits for the end.
    pub fn join(self) -> End {
        self.thread.join().unwrap_or(End::Ousted)
    }

    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts to hold what this host is granted. `data` keeps what is fixed to it over a restart.
///
/// # Errors
/// No thread can be started.
pub fn hold(
    settings: Settings,
    data: &Path,
    registry: impl Registry,
    interfaces: Interfaces,
    mesh: Mesh,
) -> std::io::Result<LeaseHandle> {
    let (messages, inbox) = channel();
    let path = data.join(FIXED_FILE);
    // Half of theirs, so that a look is due before each keepalive.
    let period = settings.period() / 2;
    let lease = Lease::new(boottime(), settings, remembered(&path));
    let thread = std::thread::Builder::new().name("postrail-lease".to_owned());
    let thread = thread.spawn(move || {
        let mut pump = Pump::new(lease, registry, interfaces, mesh, path, period);
        pump.run(&inbox)
    })?;
    Ok(LeaseHandle { messages, thread })
}

/// CLOCK_BOOTTIME: nanoseconds since boot, those counted in which the host slept.
pub fn boottime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

struct Pump<R> {
    lease: Lease,
    registry: R,
    interfaces: Interfaces,
    mesh: Mesh,
    path: PathBuf,
    /// At least so long between two looks at what this host has by its own configuration, and when the next is due.
    period: Duration,
    look_at: Duration,
    /// Keepalives do not get through: the store cannot be read, or not written.
    silence: Outage<Duration>,
    /// Addresses on which what is in flight is waited for, with their epochs.
    ending: Vec<(IpAddr, u64)>,
    end: Option<End>,
}

impl<R: Registry> Pump<R> {
    fn new(lease: Lease, registry: R, interfaces: Interfaces, mesh: Mesh, path: PathBuf, period: Duration) -> Self {
        Self {
            lease,
            registry,
            interfaces,
            mesh,
            path,
            period,
            look_at: Duration::ZERO,
            silence: Outage::new(),
            ending: Vec::new(),
            end: None,
        }
    }

    fn run(&mut self, inbox: &Receiver<Message>) -> End {
        // The first keepalive says it.
        self.look_at_own();
        loop {
            while let Some(output) = self.lease.poll() {
                if let Some(input) = self.carry_out(output) {
                    self.lease.handle(boottime(), input);
                }
            }
            if let Some(end) = self.end {
                return end;
            }
            let message = inbox.recv_timeout(self.pause());
            let input = match message {
                Ok(Message::Look) => Input::Look,
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => Input::Stop,
                Err(RecvTimeoutError::Timeout) => Input::Timeout,
            };
            self.look_at_own();
            self.lease.handle(boottime(), input);
            self.look_for_ends();
        }
    }

    /// Tells the machine what this host has by its own configuration, at least as often as it sends keepalives.
    fn look_at_own(&mut self) {
        let now = boottime();
        if now < self.look_at {
            return;
        }
        self.look_at = now + self.period;
        match self.interfaces.look() {
            Ok(own) => self.lease.handle(now, Input::Own(own)),
            // What was said last stays said.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "this host's own addresses are not known");
            }
        }
    }

    /// How long nothing needs to be done.
    fn pause(&self) -> Duration {
        let now = boottime();
        let deadline = self.lease.deadline(now).map_or(PAUSE_MAX, |at| at.saturating_sub(now));
        deadline.min(if self.ending.is_empty() { PAUSE_MAX } else { ENDING_PERIOD })
    }

    /// Does what the machine asks for; what it is to be told of it.
    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Read => Some(match self.registry.read() {
                Ok(view) => Input::Found(view),
                Err(error) => {
                    self.failed(&error, "the store does not say what this host holds");
                    Input::Failed
                }
            }),
            Output::Write { guard, record } => Some(match self.registry.write(guard, &record) {
                Ok((revision, view)) => {
                    if let Some(lasted) = self.silence.over(boottime()) {
                        tracing::info!(seconds = lasted.as_secs(), "keepalives get through again");
                    }
                    Input::Written { revision, view }
                }
                Err(WriteError::Refused) => Input::Refused,
                Err(WriteError::Unknown(error)) => {
                    self.failed(&error, "a keepalive did not get through");
                    Input::Failed
                }
            }),
            Output::PutOn { address, carrier, until } => Some(self.put_on(address, &carrier, until)),
            Output::Extend { addresses, until } => {
                self.extend(&addresses, until);
                None
            }
            Output::TakeOff { address, carrier } => {
                if let Err(error) = self.interfaces.take_off(address, &carrier) {
                    // A leased one goes by itself; a fixed one is nobody else's until this is said to be done.
                    tracing::error!(%address, error = &error as &dyn std::error::Error, "an address stays on");
                }
                Some(Input::Down { address })
            }
            Output::End { address, epoch } => {
                self.ending.push((address, epoch));
                None
            }
            Output::Remember(grants) => {
                if let Err(error) = remember(&self.path, &grants) {
                    tracing::error!(%error, path = %self.path.display(), "fixed addresses not kept for the next start");
                }
                None
            }
            Output::Use(held) => {
                self.mesh.broadcast(|| Letter::Held(held.clone()));
                None
            }
            Output::StoreLost => {
                tracing::warn!(
                    "the configuration store lacks what this host had written: it was restored from a snapshot, or is new; \
                     leased addresses are used again after a lease"
                );
                None
            }
            Output::NameInUse { incarnation } => {
                tracing::error!(incarnation, "another process that is alive has this host's name; waiting");
                None
            }
            Output::Ousted { incarnation } => {
                tracing::error!(incarnation, "another process took this host's name; no address is used any more");
                self.end = Some(End::Ousted);
                None
            }
            Output::Stopped => {
                self.end = Some(End::Stopped);
                None
            }
        }
    }

    /// It is over with the next keepalive alone, which has been written and read: a store that does only one of both is as
    /// silent as ever.
    fn failed(&mut self, error: &str, what: &str) {
        if let Some(lasted) = self.silence.failed(boottime()) {
            tracing::warn!(error, seconds = lasted.as_secs(), "{what}");
        }
    }

    fn put_on(&mut self, address: IpAddr, carrier: &Carrier, until: Option<Duration>) -> Input {
        let time = until.map(|until| lifetime(boottime(), until));
        if time == Some(None) {
            return Input::Down { address };
        }
        match self.interfaces.put_on(address, carrier, time.flatten()) {
            Ok(bringer) => {
                match bringer {
                    Bringer::Us => tracing::info!(%address, "address put on"),
                    Bringer::Host => tracing::info!(%address, "address used as the host itself has it"),
                    Bringer::Network => tracing::info!(%address, "address used, and the network brings it"),
                }
                Input::Up { address }
            }
            Err(error) => {
                tracing::error!(%address, error = &error as &dyn std::error::Error, "an address cannot be used");
                Input::Down { address }
            }
        }
    }

    fn extend(&mut self, addresses: &[IpAddr], until: Duration) {
        for address in addresses {
            let Some(time) = lifetime(boottime(), until) else { return };
            if let Err(error) = self.interfaces.extend(*address, time) {
                tracing::error!(%address, error = &error as &dyn std::error::Error, "an address goes off too early");
            }
        }
    }

    /// Tells the machine of addresses on which nothing is in flight any more.
    fn look_for_ends(&mut self) {
        let shards = 0..u16::try_from(self.mesh.shards()).unwrap_or(u16::MAX);
        let is_used = |address: IpAddr| {
            shards.clone().any(|shard| {
                let count = block_on(self.mesh.ask(ShardId(shard), Question::Sessions(address)));
                matches!(count, Some(Reply::Affected(count)) if count > 0)
            })
        };
        let ended: Vec<_> = self.ending.iter().copied().filter(|(address, _)| !is_used(*address)).collect();
        self.ending.retain(|entry| !ended.contains(entry));
        for (address, epoch) in ended {
            self.lease.handle(boottime(), Input::Ended { address, epoch });
        }
    }
}

/// The fixed grants that were kept. A file that cannot be read is as good as none: the store says them again.
fn remembered(path: &Path) -> Vec<Grant> {
    let length = std::fs::metadata(path).map_or(0, |file| file.len());
    let kept = (length <= FIXED_BYTES_MAX).then(|| std::fs::read(path).ok()).flatten();
    kept.and_then(|kept| serde_json::from_slice(&kept).ok()).unwrap_or_default()
}

/// Replaces the kept grants: whole, or not at all.
fn remember(path: &Path, grants: &[Grant]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(grants)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

const FIXED_FILE: &str = "fixed-addresses.json";
const FIXED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// At most so long until the machine is asked again.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether what is in flight has ended.
const ENDING_PERIOD: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use postrail_core::lease::Held;
    use postrail_schema::allocation::{Announcement, HostState, Standing, Tenure};

    use super::*;

    /// A store of one host.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Stored>>);

    #[derive(Clone, Default)]
    struct Stored {
        revision: u64,
        /// With the revision that wrote it.
        record: Option<(u64, HostRecord)>,
        grants: Vec<Grant>,
    }

    impl Registry for Memory {
        fn read(&mut self) -> Result<View, String> {
            let Stored { revision, record, grants } = self.0.lock().unwrap().clone();
            Ok(View { revision, record, grants })
        }

        fn write(&mut self, guard: u64, record: &HostRecord) -> Result<(u64, View), WriteError> {
            let mut memory = self.0.lock().unwrap();
            if memory.record.as_ref().map_or(0, |(by, _)| *by) != guard {
                return Err(WriteError::Refused);
            }
            memory.revision += 1;
            memory.record = Some((memory.revision, record.clone()));
            let Stored { revision, record, grants } = memory.clone();
            Ok((revision, View { revision, record, grants }))
        }
    }

    /// A store that can be read, or written, or both.
    struct Sided {
        reads: bool,
        writes: bool,
    }

    impl Registry for Sided {
        fn read(&mut self) -> Result<View, String> {
            let view = View { revision: 1, ..View::default() };
            if self.reads { Ok(view) } else { Err("nobody may read".to_owned()) }
        }

        fn write(&mut self, _: u64, _: &HostRecord) -> Result<(u64, View), WriteError> {
            if !self.writes {
                return Err(WriteError::Unknown("nobody may write".to_owned()));
            }
            self.read().map(|view| (1, view)).map_err(WriteError::Unknown)
        }
    }

    #[test]
    fn a_store_that_is_read_or_written_but_not_both_is_silent_from_the_first_failure_on() {
        let write = || {
            let (state, announcement) = (HostState::Live, Announcement::default());
            let record = HostRecord {
                incarnation: 7,
                sequence: 1,
                lease_ms: 10_000,
                state,
                released: vec![],
                announcement,
                held: None,
            };
            Output::Write { guard: 0, record }
        };
        for (reads, writes) in [(true, false), (false, true)] {
            let lease = Lease::new(boottime(), Settings::new(7, Announcement::default()), Vec::new());
            let (interfaces, period) = (Interfaces::routed(), Duration::from_secs(1));
            let mut pump =
                Pump::new(lease, Sided { reads, writes }, interfaces, Mesh::new(1).0, PathBuf::new(), period);
            let mut seen = Vec::new();
            for _ in 0..3 {
                pump.carry_out(Output::Read);
                pump.carry_out(write());
                seen.push(pump.silence);
            }
            pump.registry = Sided { reads: true, writes: true };
            pump.carry_out(Output::Read);
            seen.push(pump.silence);
            assert!(seen[0] != Outage::new() && seen.iter().all(|silence| *silence == seen[0]), "{seen:?}");
            pump.carry_out(write());
            assert_eq!(pump.silence, Outage::new(), "what is written was read, too");
        }
    }

    fn grant(standing: Standing) -> Grant {
        let address = [192, 0, 2, 1].into();
        Grant { address, epoch: 1, tenure: Tenure::Fixed, standing, next: None, carrier: Carrier::HostChoice }
    }

    /// The next thing that a shard is told, with what it answers on the way.
    fn next_held(inbox: &async_channel::Receiver<Letter>, sessions: usize) -> Held {
        loop {
            match block_on(inbox.recv()).unwrap() {
                Letter::Held(held) => return held,
                Letter::Ask(_, reply) => drop(reply.try_send(Reply::Affected(sessions))),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn shards_are_told_what_is_held_and_it_is_given_up_when_they_have_ended_what_is_in_flight() {
        let folder = std::env::temp_dir().join(format!("postrail-lease-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let memory = Memory::default();
        memory.0.lock().unwrap().grants = vec![grant(Standing::Held)];
        let (mesh, inboxes) = Mesh::new(1);
        let settings = Settings::new(7, Announcement::default());
        let handle = hold(settings, &folder, memory.clone(), Interfaces::routed(), mesh).unwrap();
        let address = [192, 0, 2, 1].into();
        while !next_held(&inboxes[0], 0).may_use(address, boottime()) {}
        assert_eq!(remembered(&folder.join(FIXED_FILE)), [grant(Standing::Held)]);
        {
            let mut memory = memory.0.lock().unwrap();
            memory.revision += 1;
            memory.grants = vec![grant(Standing::Releasing)];
        }
        handle.waker().look();
        while next_held(&inboxes[0], 1).may_use(address, boottime()) {}
        assert_eq!(memory.0.lock().unwrap().record.as_ref().unwrap().1.released, []);
        // The shard answers that nothing is in flight, and the release is written.
        while memory.0.lock().unwrap().record.as_ref().unwrap().1.released.is_empty() {
            if let Ok(Letter::Ask(_, reply)) = inboxes[0].try_recv() {
                drop(reply.try_send(Reply::Affected(0)));
            }
            std::thread::yield_now();
        }
        assert_eq!(remembered(&folder.join(FIXED_FILE)), []);
        handle.stop();
        assert_eq!(handle.join(), End::Stopped);
        assert_eq!(memory.0.lock().unwrap().record.as_ref().unwrap().1.state, HostState::Stopped);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
