//! Wakes tasks of this thread that wait for something to change. A waiter that gives up leaves nothing behind.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Waiters by number.
#[derive(Default)]
pub(crate) struct Signal {
    waiters: RefCell<Vec<(u64, Waker)>>,
    next: Cell<u64>,
}

impl Signal {
    /// Wakes every waiter to look again.
    pub(crate) fn notify(&self) {
        for (_, waker) in self.waiters.take() {
            waker.wake();
        }
    }

    /// Waiters at this moment.
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.borrow().len()
    }

    /// Ends when `ready` says so; it is asked at once and after every [`Self::notify`].
    pub(crate) async fn until(&self, ready: impl Fn() -> bool) {
        let waiter = Waiter { signal: self, number: self.next.replace(self.next.get() + 1) };
        poll_fn(|context| {
            if ready() {
                return Poll::Ready(());
            }
            waiter.register(context.waker());
            Poll::Pending
        })
        .await;
    }
}

struct Waiter<'a> {
    signal: &'a Signal,
    number: u64,
}

impl Waiter<'_> {
    fn register(&self, waker: &Waker) {
        let mut waiters = self.signal.waiters.borrow_mut();
        match waiters.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, known)) => known.clone_from(waker),
            None => waiters.push((self.number, waker.clone())),
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.signal.waiters.borrow_mut().retain(|(number, _)| *number != self.number);
    }
}
