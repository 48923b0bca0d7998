//! What every run stands on: the account, the receivers with their name server, and the threads of both sides.
//!
//! The load of each tenant and the receivers have one thread each, with an executor of its own: no work moves between
//! them, so that they cost as little as they can beside the server that is measured, and no tenant's mails wait for
//! another's before they have left.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::meter::BENCH_THREAD;
use crate::plan::Plan;
use crate::sink::{Sink, SinkPlan};
use crate::tally::{RECIPIENTS_MAX, Tally};

/// Account, receivers and threads; all end when it is dropped.
pub struct Stage {
    tally: Arc<Tally>,
    sink: Sink,
    /// One a tenant.
    load_threads: Vec<BenchThread>,
    sink_thread: BenchThread,
}

impl Stage {
    /// Starts the receivers of `plan`, at `port` and with their name server at `name_server` where given.
    ///
    /// # Errors
    /// A port is in use, or a thread cannot be started.
    pub fn start(plan: &Plan, port: Option<u16>, name_server: Option<SocketAddr>) -> Result<Self> {
        let tally = Tally::new(RECIPIENTS_MAX);
        let load_threads: io::Result<Vec<_>> = plan.tenants.iter().map(|_| BenchThread::start("src")).collect();
        let load_threads = load_threads.context("cannot start a load's thread")?;
        let sink_thread = BenchThread::start("sink").context("cannot start the receivers' thread")?;
        let sink_plan = SinkPlan {
            receivers: plan.sink_receivers(),
            port: port.unwrap_or(0),
            name_server: name_server.unwrap_or((Ipv4Addr::LOCALHOST, 0).into()),
        };
        let started = sink_thread.run(Sink::start(sink_plan, tally.clone()));
        let sink = started.context("cannot start the receivers (--sink-port, --name-server)")?;
        Ok(Self { tally, sink, load_threads, sink_thread })
    }

    /// The port of all receivers.
    pub fn port(&self) -> u16 {
        self.sink.port()
    }

    /// Where names are resolved.
    pub fn name_server(&self) -> SocketAddr {
        self.sink.name_server()
    }

    /// Sets `interrupted` at Ctrl-C or SIGTERM. A second signal ends the process at once.
    pub fn watch_for_interrupts(&self, interrupted: Arc<AtomicBool>) {
        self.sink_thread.handle.spawn(async move {
            let kind = tokio::signal::unix::SignalKind::terminate();
            let Ok(mut terminate) = tokio::signal::unix::signal(kind) else { return };
            loop {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                if interrupted.swap(true, Ordering::Relaxed) {
                    std::process::exit(i32::from(super::INTERRUPTED));
                }
                eprintln!("\ninterrupted: waiting for what is under way (again to end at once)");
            }
        });
    }

    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    pub(super) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Where the loads of the plan's `tenant` run.
    pub(super) fn load_thread(&self, tenant: usize) -> &BenchThread {
        &self.load_threads[tenant]
    }
}

/// A thread with an executor of its own.
pub(super) struct BenchThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BenchThread {
    fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(format!("{BENCH_THREAD}-{name}")).spawn(move || {
            // An error says that the sender is gone, which is the end as well.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs `work` there, and waits for it.
    pub(super) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (answer, answered) = std::sync::mpsc::channel();
        self.handle.spawn(async move {
            // Who asked waits below.
            let _ = answer.send(work.await);
        });
        answered.recv().expect("the thread lives as long as its owner, and the work does not panic")
    }
}

impl Drop for BenchThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}
