//! The null relay on raw io_uring: one thread, one ring, no runtime. What glommio costs is the difference to this.
//!
//! One multishot accept; one read at a time for each connection, straight into the buffer that is sent from later; a
//! send and the next read are submitted together, and everything that became possible in one round is submitted by one
//! system call. Reads wait for readiness at once instead of trying first. Deliberately absent: registered files and
//! buffers, zero-copy sends (dearer than a copy at 10 KB), and a kernel thread that polls (its CPU would be hidden).
//!
//! Invariants worth naming: the kernel reads from and writes to buffers of connections whose requests are in flight,
//! so a relay is leaked when it ends in an error, and a connection is freed only when none of its requests is.

use std::collections::VecDeque;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::dialogue::{self, EHLO, GREETING, Mail, Replies, Step};
use super::{MAILS_WAITING_MAX, Plan};

/// Submissions that the ring holds; more are submitted in several calls.
const RING_ENTRIES: u32 = 512;
/// Octets of a receiver's replies.
const REPLY_BYTES: usize = 4_096;
/// `IORING_RECVSEND_POLL_FIRST`: nothing is there yet when a read is submitted.
const POLL_FIRST: u16 = 1;
/// A send is complete, or has failed.
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// What a completion is about; its number is the upper half of the user data, the connection's index the lower.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accept = 0,
    ClientRead = 1,
    ClientSent = 2,
    DeliveryRead = 3,
    DeliverySent = 4,
}

impl Kind {
    fn of(user_data: u64) -> (Self, usize) {
        let kind = match user_data >> 32 {
            0 => Self::Accept,
            1 => Self::ClientRead,
            2 => Self::ClientSent,
            3 => Self::DeliveryRead,
            _ => Self::DeliverySent,
        };
        (kind, (user_data & u64::from(u32::MAX)) as usize)
    }

    fn user_data(self, index: usize) -> u64 {
        ((self as u64) << 32) | index as u64
    }
}

struct Client {
    stream: TcpStream,
    mail: Mail,
    /// Sends in flight.
    sends: u32,
    /// No read is in flight, and none will be.
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Greeting,
    Ehlo,
    Idle,
    Group,
}

struct Delivery {
    stream: TcpStream,
    phase: Phase,
    /// The group on its way.
    wire: Vec<u8>,
    replies: Vec<u8>,
    filled: usize,
    /// A send is in flight.
    sending: bool,
    /// The replies came before the send was reported complete.
    answered: bool,
}

struct Relay {
    ring: IoUring,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    deliveries: Vec<Delivery>,
    /// Deliveries without a mail.
    idle: Vec<usize>,
    waiting: VecDeque<Mail>,
    /// Clients whose mail has no room in `waiting`.
    stalled: VecDeque<usize>,
    spare: Vec<Mail>,
}

pub(super) fn serve(plan: Plan) -> Result<()> {
    let listener = TcpListener::bind(plan.listen).context("cannot listen")?;
    let mut deliveries = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(plan.forward).context("cannot connect")?;
        stream.set_nodelay(true)?;
        deliveries.push(Delivery {
            stream,
            phase: Phase::Greeting,
            wire: Vec::new(),
            replies: vec![0; REPLY_BYTES],
            filled: 0,
            sending: false,
            answered: false,
        });
    }
    let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(RING_ENTRIES);
    let ring = ring.context("no io_uring (it needs Linux 6.1 and a seccomp profile that allows it)")?;
    let address = listener.local_addr()?;
    let relay = Relay {
        ring,
        listener,
        clients: Vec::new(),
        deliveries,
        idle: Vec::new(),
        waiting: VecDeque::new(),
        stalled: VecDeque::new(),
        spare: Vec::new(),
    };
    // Leaked: the kernel may still write to its buffers when this returns.
    let relay = Box::leak(Box::new(relay));
    super::announce(address);
    relay.run()
}

impl Relay {
    fn run(&mut self) -> Result<()> {
        self.accept()?;
        for index in 0..self.deliveries.len() {
            self.read_replies(index)?;
        }
        let mut completions: Vec<cqueue::Entry> = Vec::with_capacity(RING_ENTRIES as usize);
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            completions.extend(self.ring.completion());
            for completion in completions.drain(..) {
                self.complete(&completion)?;
            }
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> Result<()> {
        let (kind, index) = Kind::of(completion.user_data());
        let result = completion.result();
        match kind {
            Kind::Accept => {
                let fd = octets(result).context("cannot accept")?;
                if !cqueue::more(completion.flags()) {
                    self.accept()?;
                }
                self.add_client(fd)
            }
            Kind::ClientRead => self.client_read(index, result),
            Kind::ClientSent => {
                if let Some(client) = &mut self.clients[index] {
                    client.sends -= 1;
                }
                self.free_ended(index);
                Ok(())
            }
            Kind::DeliveryRead => self.delivery_read(index, octets(result).context("a delivery broke")?),
            Kind::DeliverySent => {
                octets(result).context("a delivery broke")?;
                let delivery = &mut self.deliveries[index];
                delivery.sending = false;
                if std::mem::take(&mut delivery.answered) { self.delivery_answered(index) } else { Ok(()) }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        let entry = opcode::AcceptMulti::new(types::Fd(self.listener.as_raw_fd())).build();
        self.push(&entry.user_data(Kind::Accept.user_data(0)))
    }

    fn add_client(&mut self, fd: usize) -> Result<()> {
        let fd = i32::try_from(fd)?;
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
        let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        stream.set_nodelay(true)?;
        let mail = self.spare.pop().unwrap_or_default();
        let client = Client { stream, mail, sends: 0, ended: false };
        let index = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
        match self.clients.get_mut(index) {
            Some(place) => *place = Some(client),
            None => self.clients.push(Some(client)),
        }
        self.send_to_client(index, GREETING)?;
        self.read_client(index)
    }

    fn client_read(&mut self, index: usize, result: i32) -> Result<()> {
        let Some(client) = &mut self.clients[index] else { return Ok(()) };
        let Some(read) = octets(result).ok().filter(|read| *read > 0) else {
            client.ended = true;
            self.free_ended(index);
            return Ok(());
        };
        client.mail.grew(read);
        match dialogue::step(&mut client.mail) {
            Step::Read => self.read_client(index),
            Step::Answer(reply) => {
                self.send_to_client(index, reply)?;
                self.read_client(index)
            }
            Step::PassOn(reply) if self.waiting.len() < MAILS_WAITING_MAX => self.pass_on(index, reply),
            Step::PassOn(_) => {
                self.stalled.push_back(index);
                Ok(())
            }
            Step::Close(reply) => {
                client.ended = true;
                self.send_to_client(index, reply)
            }
        }
    }

    /// Moves the whole mail of a client on, and answers it.
    fn pass_on(&mut self, index: usize, reply: &'static [u8]) -> Result<()> {
        let Some(client) = &mut self.clients[index] else { return Ok(()) };
        let next = self.spare.pop().unwrap_or_default();
        let mail = std::mem::replace(&mut client.mail, next);
        self.send_to_client(index, reply)?;
        self.read_client(index)?;
        match self.idle.pop() {
            Some(delivery) => self.begin(delivery, mail),
            None => {
                self.waiting.push_back(mail);
                Ok(())
            }
        }
    }

    fn send_to_client(&mut self, index: usize, reply: &'static [u8]) -> Result<()> {
        let Some(client) = &mut self.clients[index] else { return Ok(()) };
        client.sends += 1;
        let entry = send(&client.stream, reply).user_data(Kind::ClientSent.user_data(index));
        self.push(&entry)
    }

    fn read_client(&mut self, index: usize) -> Result<()> {
        let Some(client) = &mut self.clients[index] else { return Ok(()) };
        let entry = read(&client.stream, client.mail.room()).user_data(Kind::ClientRead.user_data(index));
        self.push(&entry)
    }

    fn free_ended(&mut self, index: usize) {
        if self.clients[index].as_ref().is_some_and(|client| client.ended && client.sends == 0) {
            self.clients[index] = None;
        }
    }

    fn begin(&mut self, index: usize, mut mail: Mail) -> Result<()> {
        let delivery = &mut self.deliveries[index];
        delivery.phase = Phase::Group;
        mail.write_group(&mut delivery.wire);
        mail.clear();
        self.spare.push(mail);
        delivery.sending = true;
        let entry = send(&delivery.stream, &delivery.wire).user_data(Kind::DeliverySent.user_data(index));
        self.push(&entry)?;
        self.read_replies(index)
    }

    fn read_replies(&mut self, index: usize) -> Result<()> {
        let delivery = &mut self.deliveries[index];
        let room = &mut delivery.replies[delivery.filled..];
        let entry = read(&delivery.stream, room).user_data(Kind::DeliveryRead.user_data(index));
        self.push(&entry)
    }

    fn delivery_read(&mut self, index: usize, read: usize) -> Result<()> {
        let delivery = &mut self.deliveries[index];
        delivery.filled += read;
        let replies = &delivery.replies[..delivery.filled];
        let judged = match delivery.phase {
            _ if read == 0 => Replies::Unwanted,
            Phase::Greeting => dialogue::reply(replies, b"220"),
            Phase::Group => dialogue::group_replies(replies),
            Phase::Ehlo => dialogue::greeted(replies),
            Phase::Idle => Replies::Unwanted,
        };
        match judged {
            Replies::Partial => self.read_replies(index),
            Replies::Unwanted => bail!("the receiver said {:?}", String::from_utf8_lossy(replies)),
            Replies::Whole => {
                delivery.filled = 0;
                delivery.answered = delivery.sending;
                if delivery.answered { Ok(()) } else { self.delivery_answered(index) }
            }
        }
    }

    /// What was sent is answered, and its buffer is ours again.
    fn delivery_answered(&mut self, index: usize) -> Result<()> {
        let delivery = &mut self.deliveries[index];
        if delivery.phase != Phase::Greeting {
            return self.next_mail(index);
        }
        delivery.phase = Phase::Ehlo;
        let entry = send(&delivery.stream, EHLO).user_data(Kind::DeliverySent.user_data(index));
        delivery.sending = true;
        self.push(&entry)?;
        self.read_replies(index)
    }

    fn next_mail(&mut self, index: usize) -> Result<()> {
        let Some(mail) = self.waiting.pop_front() else {
            self.deliveries[index].phase = Phase::Idle;
            self.idle.push(index);
            return Ok(());
        };
        self.begin(index, mail)?;
        match self.stalled.pop_front() {
            Some(client) => self.pass_on(client, dialogue::MAIL_TAKEN),
            None => Ok(()),
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        loop {
            // SAFETY: the buffer of every entry belongs to a connection of this relay or is static. A connection is not
            // freed, and its buffer not moved or written, while a request of it is in flight; and the relay is leaked.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }
}

fn send(stream: &TcpStream, bytes: &[u8]) -> squeue::Entry {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    opcode::Send::new(types::Fd(stream.as_raw_fd()), bytes.as_ptr(), length).flags(SEND_FLAGS).build()
}

fn read(stream: &TcpStream, room: &mut [u8]) -> squeue::Entry {
    let length = u32::try_from(room.len()).unwrap_or(u32::MAX);
    opcode::Recv::new(types::Fd(stream.as_raw_fd()), room.as_mut_ptr(), length).ioprio(POLL_FIRST).build()
}

/// The result of a request: a count (or a descriptor), or an error.
fn octets(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
