//! A scripted receiver: behaviour that no real one can be made to show (hangs, drops, garbage), and exact bytes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A step of the dialogue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    Greeting,
    Ehlo,
    /// The good reply to STARTTLS is followed by what is no handshake.
    StartTls,
    Mail,
    Rcpt,
    Data,
    EndOfData,
}

impl Stage {
    /// Those that every mail meets.
    pub const ALL: [Self; 6] = [Self::Greeting, Self::Ehlo, Self::Mail, Self::Rcpt, Self::Data, Self::EndOfData];
}

/// What happens at a stage instead of the good reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// This reply, as it is (with CRLF).
    Say(String),
    /// Nothing, for as long as the client stays or until [`Receiver::release`].
    Hang,
    /// Close without a word.
    Drop,
    /// The good reply, an octet at a time.
    Slowly,
    /// The good reply, after this time.
    Wait(Duration),
}

/// A mail as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    pub peer: Option<SocketAddr>,
    pub ehlo: String,
    /// The MAIL command.
    pub mail: String,
    /// The RCPT commands.
    pub rcpt: Vec<String>,
    /// The content, dot-unstuffed.
    pub content: Vec<u8>,
    /// A command came before the reply to the one before it.
    pub pipelined: bool,
    /// Position of the connection among all, from 0.
    pub connection: usize,
    /// When the connection was taken.
    pub connected: Option<Instant>,
    /// When the MAIL command came.
    pub began: Option<Instant>,
    /// When the reply to the end of its data went out.
    pub at: Option<Instant>,
}

struct Shared {
    acts: Mutex<HashMap<Stage, (Act, usize)>>,
    extensions: Mutex<Vec<String>>,
    arrived: Mutex<Vec<Arrived>>,
    /// Open connections by their number.
    open: Mutex<HashMap<usize, TcpStream>>,
    connections: AtomicUsize,
    /// Connections that hang at present.
    hanging: AtomicUsize,
    /// How often [`Receiver::release`] was called.
    releases: AtomicUsize,
    over: AtomicBool,
}

/// A running scripted receiver; it ends with this value.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Receiver {
    /// Listens at `address` (port 0: any) and takes everything.
    pub fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a receiver can listen");
        let address = listener.local_addr().expect("a bound socket has an address");
        let extensions = ["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 50000000", "ENHANCEDSTATUSCODES", "DSN"];
        let shared = Arc::new(Shared {
            acts: Mutex::default(),
            extensions: Mutex::new(extensions.map(str::to_owned).to_vec()),
            arrived: Mutex::default(),
            open: Mutex::default(),
            connections: AtomicUsize::new(0),
            hanging: AtomicUsize::new(0),
            releases: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let inner = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if inner.over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = inner.clone();
                let number = shared.connections.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    let open = || shared.open.lock().expect("no panic while locked");
                    open().extend(stream.try_clone().map(|stream| (number, stream)));
                    drop(serve(&shared, stream, number));
                    open().remove(&number);
                });
            }
        });
        Self { address, shared }
    }

    /// On 127.0.0.1, any port.
    pub fn local() -> Self {
        Self::start(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `act` happens at `stage`, the next `times` times.
    pub fn script(&self, stage: Stage, act: Act, times: usize) {
        self.shared.acts.lock().expect("no panic while locked").insert(stage, (act, times));
    }

    /// Offers these extensions and no others.
    pub fn offer(&self, extensions: &[&str]) {
        let list = extensions.iter().map(|extension| (*extension).to_owned()).collect();
        *self.shared.extensions.lock().expect("no panic while locked") = list;
    }

    /// Everything that has arrived.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.shared.arrived.lock().expect("no panic while locked").clone()
    }

    /// How many mails have arrived.
    pub fn count(&self) -> usize {
        self.shared.arrived.lock().expect("no panic while locked").len()
    }

    /// Waits for `count` mails.
    pub fn wait_for(&self, count: usize) -> Vec<Arrived> {
        crate::wait::until(&format!("{count} mails at the receiver"), || {
            let arrived = self.arrived();
            (arrived.len() >= count).then_some(arrived)
        })
    }

    /// Closes the connections that are open now.
    pub fn hang_up(&self) {
        for stream in self.shared.open.lock().expect("no panic while locked").values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Connections that hang at present.
    pub fn hanging(&self) -> usize {
        self.shared.hanging.load(Ordering::Relaxed)
    }

    /// Closes the connections that hang.
    pub fn release(&self) {
        self.shared.releases.fetch_add(1, Ordering::Relaxed);
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.hang_up();
        let _ = TcpStream::connect(self.address);
    }
}

/// Says the good reply, or does what the script has for the stage; `false`: the connection is over.
fn act(shared: &Shared, stream: &mut TcpStream, stage: Stage, good: &str) -> std::io::Result<Option<bool>> {
    let scripted = {
        let mut acts = shared.acts.lock().expect("no panic while locked");
        match acts.get_mut(&stage) {
            Some((act, times)) if *times > 0 => {
                *times -= 1;
                Some(act.clone())
            }
            _ => None,
        }
    };
    match scripted {
        None => {
            stream.write_all(good.as_bytes())?;
            Ok(Some(true))
        }
        Some(Act::Say(reply)) => {
            stream.write_all(reply.as_bytes())?;
            Ok(Some(reply.starts_with('2') || reply.starts_with('3')))
        }
        Some(Act::Drop) => Ok(None),
        Some(Act::Hang) => {
            let before = shared.releases.load(Ordering::Relaxed);
            shared.hanging.fetch_add(1, Ordering::Relaxed);
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            let mut sink = [0; 1024];
            loop {
                match stream.read(&mut sink) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => break,
                }
                if shared.releases.load(Ordering::Relaxed) > before {
                    break;
                }
            }
            shared.hanging.fetch_sub(1, Ordering::Relaxed);
            Ok(None)
        }
        Some(Act::Slowly) => {
            for octet in good.bytes() {
                stream.write_all(&[octet])?;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(Some(true))
        }
        Some(Act::Wait(time)) => {
            std::thread::sleep(time);
            stream.write_all(good.as_bytes())?;
            Ok(Some(true))
        }
    }
}

fn serve(shared: &Shared, mut stream: TcpStream, connection: usize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (peer, connected) = (stream.peer_addr().ok(), Some(Instant::now()));
    let mut reader = BufReader::new(stream.try_clone()?);
    if act(shared, &mut stream, Stage::Greeting, "220 receiver.test ESMTP\r\n")?.is_none() {
        return Ok(());
    }
    // What every mail of the connection has in common.
    let mut common = Arrived { peer, connection, connected, ..Arrived::default() };
    let mut mail = common.clone();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        let ahead = !reader.buffer().is_empty();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let done = match verb.as_str() {
            "EHLO" | "HELO" => {
                common.ehlo.clone_from(&line);
                let mut reply = "250-receiver.test\r\n".to_owned();
                for extension in shared.extensions.lock().expect("no panic while locked").iter() {
                    reply.push_str(&format!("250-{extension}\r\n"));
                }
                reply.push_str("250 HELP\r\n");
                act(shared, &mut stream, Stage::Ehlo, &reply)?
            }
            "MAIL" => {
                mail = Arrived { began: Some(Instant::now()), mail: line, ..common.clone() };
                act(shared, &mut stream, Stage::Mail, "250 2.1.0 Ok\r\n")?
            }
            "RCPT" => {
                let done = act(shared, &mut stream, Stage::Rcpt, "250 2.1.5 Ok\r\n")?;
                if done == Some(true) {
                    mail.rcpt.push(line);
                }
                done
            }
            "DATA" if mail.rcpt.is_empty() => {
                stream.write_all(b"554 5.5.1 No valid recipients\r\n")?;
                Some(true)
            }
            "DATA" => data(shared, &mut stream, &mut reader, &mut mail)?,
            "RSET" | "NOOP" => {
                stream.write_all(b"250 2.0.0 Ok\r\n")?;
                Some(true)
            }
            "STARTTLS" => {
                match act(shared, &mut stream, Stage::StartTls, "220 2.0.0 Go\r\nand this is no handshake\r\n")? {
                    Some(true) => None,
                    other => other,
                }
            }
            "QUIT" => {
                stream.write_all(b"221 2.0.0 Bye\r\n")?;
                return Ok(());
            }
            _ => {
                stream.write_all(b"500 5.5.1 Unknown command\r\n")?;
                Some(true)
            }
        };
        mail.pipelined |= ahead;
        if done.is_none() {
            return Ok(());
        }
    }
}

fn data(
    shared: &Shared,
    stream: &mut TcpStream,
    reader: &mut BufReader<TcpStream>,
    mail: &mut Arrived,
) -> std::io::Result<Option<bool>> {
    match act(shared, stream, Stage::Data, "354 Go on\r\n")? {
        Some(true) => {}
        other => return Ok(other),
    }
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if line == b".\r\n" {
            break;
        }
        let line = line.strip_prefix(b".").unwrap_or(&line);
        mail.content.extend_from_slice(line);
    }
    let done = act(shared, stream, Stage::EndOfData, "250 2.0.0 Ok: queued\r\n")?;
    if done == Some(true) {
        mail.at = Some(Instant::now());
        shared.arrived.lock().expect("no panic while locked").push(std::mem::take(mail));
    }
    Ok(done)
}
