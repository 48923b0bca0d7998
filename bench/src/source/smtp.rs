//! One SMTP connection of a load: TLS and AUTH PLAIN where asked for, then transactions.
//!
//! Where the server offers PIPELINING, MAIL, all RCPT and DATA are one write and the message is another, as good
//! clients do. Buffers are kept over the mails of a connection; only what carries a number is written anew.

use std::io::{self, IoSlice};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{LoadPlan, Numbers, OFFERS_MAX, RETRY_PAUSE, Tls, Work, answered, opened};
use crate::stream::Stream;

/// One reply, octets.
const REPLY_BYTES_MAX: usize = 64 * 1024;
/// Room that is made for one read, octets.
const READ_BYTES: usize = 4 * 1024;

/// Sends mails over one connection at a time, until there are none left or no connection can be opened.
pub(super) async fn run(mut work: Work) {
    let mut connection = None;
    let mut envelope = Envelope::default();
    while let Some(numbers) = work.next().await {
        for offer in 0.. {
            if connection.is_none() {
                connection = opened(&work.shared, || Connection::open(&work.shared.plan)).await;
            }
            let Some(open) = connection.as_mut() else {
                work.shared.tally.doubt(numbers.count);
                work.give_up();
                return;
            };
            match answered(envelope.transact(open, &work.shared.plan, numbers)).await {
                Ok(Outcome::Taken) => {
                    let taken = numbers.iter().zip(&envelope.codes).filter(|(_, code)| **code < 400);
                    let count = envelope.codes.iter().filter(|code| **code < 400).count() as u64;
                    work.accept(taken.map(|(number, _)| number));
                    work.shared.tally.refuse(numbers.count - count);
                }
                Ok(Outcome::Later) if offer < OFFERS_MAX => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Ok(Outcome::Later | Outcome::Refused) => work.shared.tally.refuse(numbers.count),
                Err(_) => {
                    work.shared.tally.doubt(numbers.count);
                    connection = None;
                }
            }
            break;
        }
    }
    if let Some(mut open) = connection {
        // Everything is answered already; the goodbye is a courtesy.
        let _ = answered(open.command("QUIT\r\n")).await;
    }
}

/// What became of a transaction; the recipients' own codes are in [`Envelope::codes`].
enum Outcome {
    Taken,
    Later,
    Refused,
}

impl Outcome {
    fn of(code: u16) -> Self {
        if code >= 500 { Self::Refused } else { Self::Later }
    }
}

/// The buffers of a transaction.
#[derive(Default)]
struct Envelope {
    commands: Vec<u8>,
    /// Where each command of `commands` ends.
    ends: Vec<usize>,
    head: Vec<u8>,
    /// The answers to RCPT.
    codes: Vec<u16>,
}

impl Envelope {
    async fn transact(&mut self, open: &mut Connection, plan: &LoadPlan, numbers: Numbers) -> io::Result<Outcome> {
        let body = plan.composer.message(numbers, &mut self.head);
        self.write(plan, numbers);
        let (mail, data) = if open.pipelining { self.group(open).await? } else { self.one_by_one(open).await? };
        if data != 354 {
            let refused = [mail].into_iter().chain(self.codes.iter().copied()).find(|code| *code >= 400);
            expect(open.command("RSET\r\n").await?, 250)?;
            return Ok(Outcome::of(refused.unwrap_or(data)));
        }
        open.stream.write_parts(&mut [self.head.as_slice(), body[0], body[1]].map(IoSlice::new)).await?;
        let code = open.code().await?;
        Ok(if code < 400 { Outcome::Taken } else { Outcome::of(code) })
    }

    fn write(&mut self, plan: &LoadPlan, numbers: Numbers) {
        self.commands.clear();
        self.ends.clear();
        self.commands.extend_from_slice(b"MAIL FROM:<");
        self.commands.extend_from_slice(plan.composer.sender().as_bytes());
        self.commands.extend_from_slice(b">\r\n");
        self.ends.push(self.commands.len());
        for number in numbers.iter() {
            self.commands.extend_from_slice(b"RCPT TO:<");
            plan.composer.push_recipient(number, &mut self.commands);
            self.commands.extend_from_slice(b">\r\n");
            self.ends.push(self.commands.len());
        }
        self.commands.extend_from_slice(b"DATA\r\n");
        self.ends.push(self.commands.len());
    }

    /// All commands in one write; the codes of MAIL and DATA.
    async fn group(&mut self, open: &mut Connection) -> io::Result<(u16, u16)> {
        open.stream.send(&self.commands).await?;
        let mail = open.code().await?;
        self.codes.clear();
        for _ in 2..self.ends.len() {
            self.codes.push(open.code().await?);
        }
        Ok((mail, open.code().await?))
    }

    /// Each command after the reply to the last, up to one that leaves nothing to send.
    async fn one_by_one(&mut self, open: &mut Connection) -> io::Result<(u16, u16)> {
        self.codes.clear();
        let (mut from, mut mail) = (0, 0);
        for (index, end) in self.ends.iter().copied().enumerate() {
            open.stream.send(&self.commands[from..end]).await?;
            let code = open.code().await?;
            from = end;
            match index {
                0 if code >= 400 => return Ok((code, 0)),
                0 => mail = code,
                _ if end == self.commands.len() => return Ok((mail, code)),
                _ => self.codes.push(code),
            }
        }
        Ok((mail, 0))
    }
}

struct Connection {
    stream: Stream,
    input: Vec<u8>,
    /// How much of `input` has been read as replies.
    read: usize,
    pipelining: bool,
}

impl Connection {
    async fn open(plan: &LoadPlan) -> io::Result<Self> {
        let stream = TcpStream::connect(plan.target).await?;
        stream.set_nodelay(true)?;
        let mut open = Self { stream: Stream::Plain(stream), input: Vec::new(), read: 0, pipelining: false };
        if let Tls::Implicit(connector) = &plan.tls {
            open.stream = open.stream.into_client_tls(connector, plan.target.ip()).await?;
        }
        expect(open.reply().await?, 220)?;
        open.greet().await?;
        if let Tls::StartTls(connector) = &plan.tls {
            expect(open.command("STARTTLS\r\n").await?, 220)?;
            open.stream = open.stream.into_client_tls(connector, plan.target.ip()).await?;
            open.greet().await?;
        }
        if let Some(login) = &plan.login {
            let token = STANDARD.encode(format!("\0{}\0{}", login.username, login.secret));
            expect(open.command(&format!("AUTH PLAIN {token}\r\n")).await?, 235)?;
        }
        Ok(open)
    }

    async fn greet(&mut self) -> io::Result<()> {
        let greeting = self.command("EHLO bench.test\r\n").await?;
        self.pipelining = greeting.text.to_ascii_uppercase().contains("PIPELINING");
        expect(greeting, 250)
    }

    async fn command(&mut self, command: &str) -> io::Result<Reply> {
        self.stream.send(command.as_bytes()).await?;
        self.reply().await
    }

    /// The next reply with its text.
    async fn reply(&mut self) -> io::Result<Reply> {
        let (code, length) = self.whole_reply().await?;
        let text = String::from_utf8_lossy(&self.input[self.read..self.read + length]).into_owned();
        self.read += length;
        Ok(Reply { code, text })
    }

    /// The next reply's code.
    async fn code(&mut self) -> io::Result<u16> {
        let (code, length) = self.whole_reply().await?;
        self.read += length;
        Ok(code)
    }

    async fn whole_reply(&mut self) -> io::Result<(u16, usize)> {
        loop {
            if let Some(found) = parse(&self.input[self.read..])? {
                return Ok(found);
            }
            if self.input.len() - self.read > REPLY_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless reply"));
            }
            self.input.drain(..self.read);
            self.read = 0;
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

struct Reply {
    code: u16,
    text: String,
}

/// The code of the first whole reply in `input`, and its length; `None` where more must come.
fn parse(input: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let mut at = 0;
    while let Some(length) = memchr::memchr(b'\n', &input[at..]) {
        let line = &input[at..at + length];
        at += length + 1;
        let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let Some(digits) = digits else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply without a code"));
        };
        if line.get(3) != Some(&b'-') {
            let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
            return Ok(Some((code, at)));
        }
    }
    Ok(None)
}

fn expect(reply: Reply, code: u16) -> io::Result<()> {
    if reply.code == code { Ok(()) } else { Err(io::Error::other(reply.text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_with_the_line_that_has_no_hyphen() {
        let input = b"250-a\r\n250-PIPELINING\r\n250 b\r\n354 go\r\n";
        assert_eq!(parse(input).expect("a reply"), Some((250, 30)));
        assert_eq!(parse(&input[..20]).expect("no error"), None);
        assert!(parse(b"nonsense\r\n").is_err());
    }
}
