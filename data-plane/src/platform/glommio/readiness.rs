//! Which sockets of a shard can be read or written: one epoll set, and one task that looks at it.
//!
//! ```text
//! socket ready --> epoll set --look--> wakers of the tasks that wait for it, which run next
//!                      ^                                  |
//!                      +------ nothing more is ready -----+
//!                      glommio waits for the set as a whole
//! ```
//!
//! glommio waits for a socket by a one-shot poll of its own, after a `recv` that finds nothing: two calls and a wake of the
//! thread for each piece of a dialogue. Here a socket is put into the set once, edge-triggered, and one look tells of all
//! that are ready; glommio polls the set, and only when the shard has nothing left to do (decision 0012).
//!
//! Invariants worth naming:
//! - an edge is told once: a direction stays ready until a call on the socket finds nothing, or less than it asked for;
//! - a socket is closed before its place in the set is given to another;
//! - at most one task waits for each direction of a socket.
//!
//! Deliberately absent: reading and writing, which are the sockets' own ([`super::sockets`]).

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::future::yield_now;
use futures_util::io::AsyncRead;
use glommio::timer::Timer;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;
use socket2::Socket;
use std::future::poll_fn;

use crate::vital::Vital;

/// The sockets of one shard.
pub(super) struct Readiness {
    epoll: OwnedFd,
    sockets: RefCell<Slab<Directions>>,
}

/// One socket in the set.
struct Directions {
    read: Direction,
    write: Direction,
}

#[derive(Default)]
struct Direction {
    ready: bool,
    /// The peer has ended, or the socket is broken: there will be no further edge.
    last: bool,
    waker: Option<Waker>,
}

/// A direction of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Read,
    Write,
}

/// A socket's place in the set; given up when it is dropped, which must be after the socket is closed.
pub(super) struct Watch {
    readiness: Rc<Readiness>,
    key: usize,
}

impl Readiness {
    /// An empty set.
    ///
    /// # Errors
    /// The process may open no more files.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, sockets: RefCell::default() })
    }

    /// Puts a socket into the set; `writable`: it is known to take octets now.
    ///
    /// # Errors
    /// The kernel watches no more sockets for this user.
    pub(super) fn watch(self: &Rc<Self>, socket: impl AsFd, writable: bool) -> io::Result<Watch> {
        let write = Direction { ready: writable, ..Direction::default() };
        let key = self.sockets.borrow_mut().insert(Directions { read: Direction::default(), write });
        let watch = Watch { readiness: Rc::clone(self), key };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(key as u64), flags)?;
        Ok(watch)
    }

    /// Looks for as long as the executor runs, and wakes who waits.
    pub(super) async fn run(self: Rc<Self>) {
        let _vital = Vital("readiness");
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut unbroken = 0;
        loop {
            match self.look(&mut events) {
                Ok(0) => {
                    unbroken = 0;
                    self.any().await;
                }
                // Who was woken runs before the next look.
                Ok(_) if unbroken < LOOKS_UNBROKEN_MAX => {
                    unbroken += 1;
                    yield_now().await;
                }
                Ok(_) => {
                    unbroken = 0;
                    rings().await;
                }
                Err(error) => panic!("the kernel does not tell which sockets are ready: {error}"),
            }
        }
    }

    /// Takes what is ready, up to [`EVENTS_MAX`], and wakes who waits for it; says how many sockets that were.
    fn look(&self, events: &mut Vec<Event>) -> io::Result<usize> {
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&Timespec::default())) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &*events {
            self.wake(event.data.u64() as usize, event.flags);
        }
        Ok(events.len())
    }

    fn wake(&self, key: usize, flags: EventFlags) {
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let ended = broken || flags.contains(EventFlags::RDHUP);
        let (reader, writer) = {
            let mut sockets = self.sockets.borrow_mut();
            let Some(socket) = sockets.get_mut(key) else { return };
            (
                socket.read.edge(ended || flags.contains(EventFlags::IN), ended),
                socket.write.edge(broken || flags.contains(EventFlags::OUT), broken),
            )
        };
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Ends when a socket of the set is ready.
    ///
    /// glommio's stream begins with a poll of what it was made from; what it then does with it, an epoll set refuses.
    async fn any(&self) {
        let Ok(copy) = self.epoll.try_clone() else {
            // No file can be opened at present: look again soon instead.
            Timer::new(LOOK_PAUSE).await;
            return;
        };
        let mut poll = super::polled(Socket::from(copy));
        let _ = poll_fn(|cx| Pin::new(&mut poll).poll_read(cx, &mut [0])).await;
    }
}

impl Direction {
    /// What the kernel told; gives who is to be woken.
    fn edge(&mut self, ready: bool, last: bool) -> Option<Waker> {
        self.ready |= ready;
        self.last |= last;
        if ready { self.waker.take() } else { None }
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }
}

impl Watch {
    /// Calls `io` when the direction is ready, until it finds something.
    ///
    /// # Errors
    /// That of `io`.
    pub(super) fn poll<T>(
        &self,
        way: Way,
        cx: &Context<'_>,
        mut io: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            if !self.with(way, |direction| direction.ready) {
                self.with(way, |direction| direction.wait(cx));
                return Poll::Pending;
            }
            match io() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.with(way, |direction| direction.ready = false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Ends when the direction is ready.
    pub(super) async fn ready(&self, way: Way) {
        let ready = poll_fn(|cx| self.poll(way, cx, || Ok(())));
        let _ = ready.await;
    }

    /// A call has taken all there was: the next edge will tell of more.
    pub(super) fn exhausted(&self, way: Way) {
        self.with(way, |direction| direction.ready = direction.last);
    }

    fn with<T>(&self, way: Way, act: impl FnOnce(&mut Direction) -> T) -> T {
        let mut sockets = self.readiness.sockets.borrow_mut();
        let socket = &mut sockets[self.key];
        act(match way {
            Way::Read => &mut socket.read,
            Way::Write => &mut socket.write,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.readiness.sockets.borrow_mut().remove(self.key);
    }
}

/// Ends when those who were woken have run, and the executor has looked at its rings.
async fn rings() {
    Timer::new(Duration::ZERO).await;
}

/// Looks without a wait before the executor looks at its rings: sockets that are always ready must not keep a sync that is
/// done from being acknowledged.
const LOOKS_UNBROKEN_MAX: u32 = 8;
/// The pause before the next look where no file can be opened to wait with.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// Ready sockets that one call tells of.
const EVENTS_MAX: usize = 256;
