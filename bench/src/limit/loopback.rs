//! What bytes over loopback cost at best through glommio: a request of one mail's size, a small answer.
//!
//! Both sides run on one executor, so that wake-ups are shared as in a busy server and no thread waits for another; the
//! cost is that of both sides together: one write and one read of a mail, one write and one read of an answer. A mail
//! that passes through a server is read once and written once.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};

use super::cpu::{self, Cost, Meter};
use super::{CONNECTIONS, executor};

/// Octets of an answer: about those of an SMTP reply.
const ANSWER_BYTES: usize = 64;

/// What one request of `bytes` octets and its answer take, both sides together.
pub(super) fn exchange(time: Duration, bytes: usize) -> Result<Cost> {
    executor(0)
        .spawn(move || async move { run(bytes, time).await })
        .and_then(glommio::ExecutorJoinHandle::join)
        .map_err(|error| anyhow!("the executor failed: {error}"))?
}

async fn run(bytes: usize, time: Duration) -> Result<Cost> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| anyhow!("cannot listen: {error}"))?;
    let address = listener.local_addr().map_err(|error| anyhow!("a listener without an address: {error}"))?;
    let mut costs = Vec::new();
    for slice in cpu::slices(time) {
        let count = Rc::new(Cell::new(0));
        let mut tasks = Vec::new();
        for _ in 0..CONNECTIONS {
            let asking = TcpStream::connect(address).await.map_err(|error| anyhow!("cannot connect: {error}"))?;
            let answering = listener.accept().await.map_err(|error| anyhow!("cannot accept: {error}"))?;
            tasks.push(glommio::spawn_local(answer(answering, bytes)));
            tasks.push(glommio::spawn_local(ask(asking, bytes, slice, count.clone())));
        }
        let meter = Meter::start();
        for task in tasks {
            task.await?;
        }
        costs.push(meter.each(count.get()));
    }
    Ok(cpu::median(costs))
}

async fn answer(mut stream: TcpStream, bytes: usize) -> Result<()> {
    stream.set_nodelay(true).map_err(|error| anyhow!("no TCP_NODELAY: {error}"))?;
    let mut buffer = vec![0; bytes];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            read => filled += read,
        }
        if filled == bytes {
            filled = 0;
            stream.write_all(&[b'2'; ANSWER_BYTES]).await?;
        }
    }
}

async fn ask(mut stream: TcpStream, bytes: usize, time: Duration, count: Rc<Cell<u64>>) -> Result<()> {
    stream.set_nodelay(true).map_err(|error| anyhow!("no TCP_NODELAY: {error}"))?;
    let request = vec![b'x'; bytes];
    let mut answer = [0; ANSWER_BYTES];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&request).await?;
        stream.read_exact(&mut answer).await?;
        count.set(count.get() + 1);
    }
    Ok(())
}
