//! One SMTP connection of a load: AUTH PLAIN, then transactions of one recipient, their commands in one group where
//! the server offers PIPELINING.

use std::io;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{CONNECT_TRIES, Load, Login, OFFERS_MAX, RETRY_PAUSE, answered};

/// One reply, octets.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Sends mails over one connection at a time, until the load has none left or no connection can be opened.
pub(super) async fn run(load: &Load) {
    let mut connection = None;
    while let Some(numbers) = load.take(1).await {
        let number = numbers.start;
        let message = load.plan.composer.message(number);
        for offer in 0.. {
            if connection.is_none() {
                connection = connect(load).await;
            }
            let Some(open) = connection.as_mut() else {
                load.tally.doubt(1);
                return;
            };
            let envelope = (load.plan.composer.sender(), load.plan.composer.recipient(number));
            match answered(open.transact(envelope.0, &envelope.1, message.as_bytes())).await {
                Ok(200..=299) => load.accept(number..number + 1),
                Ok(400..=499) if offer < OFFERS_MAX => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Ok(_) => load.tally.refuse(1),
                Err(_) => {
                    load.tally.doubt(1);
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

async fn connect(load: &Load) -> Option<Connection> {
    for attempt in 0..CONNECT_TRIES {
        if let Ok(open) = answered(Connection::open(load.plan.target, load.plan.login.as_ref())).await {
            return Some(open);
        }
        tokio::time::sleep(RETRY_PAUSE * (attempt + 1)).await;
    }
    None
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    pipelining: bool,
}

impl Connection {
    async fn open(target: SocketAddr, login: Option<&Login>) -> io::Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let mut open = Self { stream, input: Vec::new(), pipelining: false };
        expect(open.reply().await?, 220)?;
        let greeting = open.command("EHLO bench.test\r\n").await?;
        open.pipelining = greeting.text.to_ascii_uppercase().contains("PIPELINING");
        expect(greeting, 250)?;
        if let Some(login) = login {
            let token = STANDARD.encode(format!("\0{}\0{}", login.username, login.secret));
            expect(open.command(&format!("AUTH PLAIN {token}\r\n")).await?, 235)?;
        }
        Ok(open)
    }

    /// One transaction; the code that decided it.
    async fn transact(&mut self, sender: &str, recipient: &str, message: &[u8]) -> io::Result<u16> {
        let commands = [format!("MAIL FROM:<{sender}>\r\n"), format!("RCPT TO:<{recipient}>\r\n"), "DATA\r\n".into()];
        let mut codes = [0; 3];
        if self.pipelining {
            self.stream.write_all(commands.concat().as_bytes()).await?;
            for code in &mut codes {
                *code = self.reply().await?.code;
            }
        } else {
            for (command, code) in commands.iter().zip(&mut codes) {
                *code = self.command(command).await?.code;
                if *code >= 400 {
                    break;
                }
            }
        }
        if codes[2] != 354 {
            let refusal = codes.into_iter().find(|code| *code >= 400).unwrap_or(codes[2]);
            expect(self.command("RSET\r\n").await?, 250)?;
            return Ok(refusal);
        }
        self.stream.write_all(message).await?;
        self.stream.write_all(b".\r\n").await?;
        Ok(self.reply().await?.code)
    }

    async fn command(&mut self, command: &str) -> io::Result<Reply> {
        self.stream.write_all(command.as_bytes()).await?;
        self.reply().await
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some((reply, consumed)) = Reply::parse(&self.input)? {
                self.input.drain(..consumed);
                return Ok(reply);
            }
            if self.input.len() > REPLY_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless reply"));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
struct Reply {
    code: u16,
    text: String,
}

impl Reply {
    /// The first whole reply in `input` and its length; `None` where more must come.
    fn parse(input: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let mut at = 0;
        while let Some(length) = memchr::memchr(b'\n', &input[at..]) {
            let line = &input[at..at + length];
            at += length + 1;
            let code = line.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            let Some(code) = code else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply without a code"));
            };
            if line.get(3) != Some(&b'-') {
                return Ok(Some((Self { code, text: String::from_utf8_lossy(&input[..at]).into_owned() }, at)));
            }
        }
        Ok(None)
    }
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
        let (reply, consumed) = Reply::parse(input).expect("a reply").expect("whole");
        assert_eq!((reply.code, consumed), (250, 30));
        assert_eq!(Reply::parse(&input[..20]).expect("no error"), None);
        assert!(Reply::parse(b"nonsense\r\n").is_err());
    }
}
