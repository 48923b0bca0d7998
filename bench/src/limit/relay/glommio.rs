//! The null relay on glommio: an executor on a core, or two on two, its streams read and written as the data plane's are.
//!
//! ```text
//! client --group, mail--> receive --Mail--> channel --Mail--> deliver --group, mail--> receiver
//! ```
//!
//! Each connection is a task; a mail is acknowledged once it is in the channel, which is bounded, so that a slow
//! receiver slows the clients down. Two executors share nothing but the address where they listen.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use async_channel::{Receiver, Sender};
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};

use super::dialogue::{self, EHLO, GREETING, Mail, Replies, Step};
use super::{MAILS_WAITING_MAX, Plan};
use crate::limit::executor;

/// Octets of a receiver's replies.
const REPLY_BYTES: usize = 4_096;

/// Longest time that an executor takes to connect and listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Buffers that are used again.
type Spare = Rc<RefCell<Vec<Mail>>>;

pub(super) fn serve(mut plan: Plan, executors: usize) -> Result<()> {
    plan.connections = plan.connections.div_ceil(executors);
    let (addresses, listening) = mpsc::channel();
    let mut handles = Vec::new();
    for number in 0..executors {
        let addresses = addresses.clone();
        let serving = move || async move {
            if let Err(error) = run(plan, addresses).await {
                eprintln!("null relay: {error:#}");
            }
        };
        let handle = executor(number).name("relay").spawn(serving);
        handles.push(handle.map_err(|error| anyhow!("the executor failed: {error}"))?);
        // The first chooses the port.
        plan.listen = listening.recv_timeout(START_LIMIT).context("an executor does not listen")?;
    }
    super::announce(plan.listen);
    for handle in handles {
        handle.join().map_err(|error| anyhow!("the executor failed: {error}"))?;
    }
    bail!("the relay has ended")
}

async fn run(plan: Plan, addresses: mpsc::Sender<SocketAddr>) -> Result<()> {
    let listener = TcpListener::bind(plan.listen).map_err(|error| anyhow!("cannot listen: {error}"))?;
    let spare = Spare::default();
    let (sender, receiver) = async_channel::bounded(MAILS_WAITING_MAX);
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(plan.forward).await.map_err(|error| anyhow!("cannot connect: {error}"))?;
        let (mails, spare) = (receiver.clone(), spare.clone());
        spawn("delivery", async move { deliver(stream, &mails, &spare).await });
    }
    addresses.send(listener.local_addr().map_err(|error| anyhow!("a listener without an address: {error}"))?)?;
    loop {
        let stream = listener.accept().await.map_err(|error| anyhow!("cannot accept: {error}"))?;
        let (sender, spare) = (sender.clone(), spare.clone());
        spawn("reception", async move { receive(stream, &sender, &spare).await });
    }
}

/// Runs a connection as a task of its own; a lost one is told, and its mails are missed by who counts them.
fn spawn(name: &'static str, task: impl Future<Output = Result<()>> + 'static) {
    let task = async move {
        if let Err(error) = task.await {
            eprintln!("null relay: a {name} ended: {error:#}");
        }
    };
    // Detached: the handle that remains does not cancel when it is dropped.
    drop(glommio::spawn_local(task).detach());
}

async fn receive(mut stream: TcpStream, mails: &Sender<Mail>, spare: &RefCell<Vec<Mail>>) -> Result<()> {
    stream.set_nodelay(true).map_err(|error| anyhow!("no TCP_NODELAY: {error}"))?;
    stream.write_all(GREETING).await?;
    let mut mail = Mail::default();
    loop {
        let read = stream.read(mail.room()).await?;
        if read == 0 {
            return Ok(());
        }
        mail.grew(read);
        match dialogue::step(&mut mail) {
            Step::Read => {}
            Step::Answer(reply) => stream.write_all(reply).await?,
            Step::PassOn(reply) => {
                let next = spare.borrow_mut().pop().unwrap_or_default();
                mails.send(std::mem::replace(&mut mail, next)).await?;
                stream.write_all(reply).await?;
            }
            Step::Close(reply) => return Ok(stream.write_all(reply).await?),
        }
    }
}

async fn deliver(mut stream: TcpStream, mails: &Receiver<Mail>, spare: &RefCell<Vec<Mail>>) -> Result<()> {
    stream.set_nodelay(true).map_err(|error| anyhow!("no TCP_NODELAY: {error}"))?;
    let mut replies = vec![0; REPLY_BYTES];
    until(&mut stream, &mut replies, |input| dialogue::reply(input, b"220")).await?;
    stream.write_all(EHLO).await?;
    until(&mut stream, &mut replies, dialogue::greeted).await?;
    let mut wire = Vec::new();
    while let Ok(mut mail) = mails.recv().await {
        mail.write_group(&mut wire);
        mail.clear();
        spare.borrow_mut().push(mail);
        stream.write_all(&wire).await?;
        until(&mut stream, &mut replies, dialogue::group_replies).await?;
    }
    Ok(())
}

/// Reads until the replies are whole.
async fn until(stream: &mut TcpStream, buffer: &mut [u8], judge: impl Fn(&[u8]) -> Replies) -> Result<()> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        filled += read;
        match judge(&buffer[..filled]) {
            Replies::Partial => {}
            Replies::Whole => return Ok(()),
            Replies::Unwanted => bail!("the receiver said {}", String::from_utf8_lossy(&buffer[..filled]).trim_end()),
        }
    }
}
