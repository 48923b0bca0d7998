//! Tasks and whose turn it is: the next one is drawn from the seed among all that are ready, so that no order of events
//! that the real executor could produce by luck is relied upon.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use postrail_core::base::Random;

use crate::world::NodeId;

pub(crate) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A task that was taken out to be polled.
pub(crate) struct Turn {
    pub(crate) id: u64,
    pub(crate) name: &'static str,
    pub(crate) waker: Waker,
    pub(crate) future: TaskFuture,
}

pub(crate) struct Executor {
    random: Random,
    count: u64,
    tasks: BTreeMap<u64, Task>,
    ready: Vec<u64>,
    woken: Arc<Woken>,
}

struct Task {
    node: NodeId,
    name: &'static str,
    waker: Waker,
    /// `None` while it is polled.
    future: Option<TaskFuture>,
    /// Whether it is in the list of the ready.
    is_ready: bool,
}

impl Executor {
    pub(crate) fn new(random: Random) -> Self {
        Self { random, count: 0, tasks: BTreeMap::new(), ready: Vec::new(), woken: Arc::default() }
    }

    pub(crate) fn spawn(&mut self, node: NodeId, name: &'static str, future: TaskFuture) {
        self.count += 1;
        let id = self.count;
        let waker = Waker::from(Arc::new(TaskWaker { id, woken: Arc::clone(&self.woken) }));
        self.tasks.insert(id, Task { node, name, waker, future: Some(future), is_ready: true });
        self.ready.push(id);
    }

    /// Takes out one of the ready tasks.
    pub(crate) fn next(&mut self) -> Option<Turn> {
        for id in self.woken.take() {
            if let Some(task) = self.tasks.get_mut(&id)
                && !task.is_ready
            {
                task.is_ready = true;
                self.ready.push(id);
            }
        }
        while !self.ready.is_empty() {
            let drawn = self.random.below(self.ready.len() as u64) as usize;
            let id = self.ready.swap_remove(drawn);
            // Tasks of a crashed node may still be listed.
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            task.is_ready = false;
            let future = task.future.take().expect("a task is polled by one at a time");
            return Some(Turn { id, name: task.name, waker: task.waker.clone(), future });
        }
        None
    }

    /// Gives back a task that waits; gives it back to the caller if its node crashed meanwhile.
    pub(crate) fn wait(&mut self, id: u64, future: TaskFuture) -> Option<TaskFuture> {
        match self.tasks.get_mut(&id) {
            Some(task) => {
                task.future = Some(future);
                None
            }
            None => Some(future),
        }
    }

    pub(crate) fn finish(&mut self, id: u64) {
        self.tasks.remove(&id);
    }

    /// Takes out all tasks of `node`, or all tasks. The caller drops them without holding anything.
    #[must_use]
    pub(crate) fn take_all(&mut self, node: Option<NodeId>) -> Vec<TaskFuture> {
        let (gone, kept) = std::mem::take(&mut self.tasks)
            .into_iter()
            .partition(|(_, task)| node.is_none_or(|node| task.node == node));
        self.tasks = kept;
        let gone: BTreeMap<u64, Task> = gone;
        gone.into_values().filter_map(|task| task.future).collect()
    }

    /// Number of tasks that have not ended.
    pub(crate) fn len(&self, node: NodeId) -> usize {
        self.tasks.values().filter(|task| task.node == node).count()
    }
}

/// Ids of woken tasks in the order of waking. A lock because wakers must be `Sync`; one thread uses it.
#[derive(Default)]
struct Woken(Mutex<Vec<u64>>);

impl Woken {
    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct TaskWaker {
    id: u64,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
    }
}
