//! What bytes over loopback cost at best through glommio: a request of one mail's size, a small answer.
//!
//! Two executors on two threads, each measured by its own thread's clock: one sends the mails and reads the answers,
//! the other reads the mails and answers. A mail that passes through a server is received once and sent once.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};

use super::cpu::{self, Cost};
use super::{CONNECTIONS, executor};

/// Octets of an answer: about those of an SMTP reply.
const ANSWER_BYTES: usize = 64;

/// What each side takes for one request of `bytes` octets: (receiving side, sending side).
pub(super) fn exchange(time: Duration, bytes: usize) -> Result<(Cost, Cost)> {
    let (tell, told) = mpsc::channel();
    let failed = |error| anyhow!("the executor failed: {error}");
    let receiver = executor().spawn(move || async move { receive(bytes, &tell).await }).map_err(failed)?;
    let address = told.recv().context("the receiving side did not start")?;
    let sender = executor().spawn(move || async move { send(address, bytes, time).await }).map_err(failed)?;
    let (sent, received) = (sender.join().map_err(failed)??, receiver.join().map_err(failed)??);
    Ok((received, sent))
}

async fn receive(bytes: usize, tell: &mpsc::Sender<SocketAddr>) -> Result<Cost> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| anyhow!("cannot listen: {error}"))?;
    let address = listener.local_addr().map_err(|error| anyhow!("a listener without an address: {error}"))?;
    tell.send(address).context("the sending side is gone")?;
    let count = Rc::new(Cell::new(0));
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = listener.accept().await.map_err(|error| anyhow!("cannot accept: {error}"))?;
        tasks.push(glommio::spawn_local(answer(stream, bytes, count.clone())));
    }
    over_all(tasks, &count).await
}

async fn send(address: SocketAddr, bytes: usize, time: Duration) -> Result<Cost> {
    let count = Rc::new(Cell::new(0));
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await.map_err(|error| anyhow!("cannot connect: {error}"))?;
        tasks.push(glommio::spawn_local(ask(stream, bytes, time, count.clone())));
    }
    over_all(tasks, &count).await
}

/// Waits for the tasks of this executor; what each request took of this thread.
async fn over_all(tasks: Vec<glommio::Task<Result<()>>>, count: &Cell<u64>) -> Result<Cost> {
    let (start, cpu) = (Instant::now(), cpu::of_this_thread());
    for task in tasks {
        task.await?;
    }
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count.get().max(1) as f64;
    Ok(Cost { cpu_us: each(cpu::of_this_thread() - cpu), wall_us: each(start.elapsed()) })
}

async fn answer(mut stream: TcpStream, bytes: usize, count: Rc<Cell<u64>>) -> Result<()> {
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
            count.set(count.get() + 1);
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
