//! A client that submits by SMTP, and knows what it was told.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use postrail_core::base::Random;
use postrail_data_plane::platform::{Net, Platform};

use super::SITES;
use crate::SimPlatform;
use crate::invariants::{Fact, Facts};
use crate::net::SimStream;

/// One client; its mail goes to recipients that no other mail goes to.
pub(crate) struct Client {
    pub(crate) platform: SimPlatform,
    pub(crate) facts: Facts,
    pub(crate) number: u32,
    pub(crate) random: Random,
    /// Where it may hand in, one drawn for each session.
    pub(crate) entries: Vec<SocketAddr>,
    /// It sends all of its mail in one go, each to one recipient of this site, so that a backlog gathers there.
    pub(crate) bursts_at: Option<u8>,
}

impl Client {
    /// Submits so many mails over some sessions. What fails is not tried again: whether it was taken is not known.
    pub(crate) async fn submit(mut self, mails: u32) {
        let mut mail = 0;
        while mail < mails {
            let pause = Duration::from_millis(self.random.below(8_000));
            self.platform.sleep_until(self.platform.now() + pause).await;
            let next = mail + 1 + self.random.below(3) as u32;
            let until = if self.bursts_at.is_some() { mails } else { mails.min(next) };
            let platform = self.platform.clone();
            let session = async { self.session(mail..until).await };
            // A node that is down refuses, and a crash breaks what was open: the next session is another matter.
            let _ = platform.timeout(SESSION_LIMIT, session).await;
            mail = until;
        }
    }

    async fn session(&mut self, mails: std::ops::Range<u32>) -> io::Result<()> {
        let entry = self.entries[self.random.below(self.entries.len() as u64) as usize];
        let mut stream = self.platform.net().connect(None, entry, Duration::from_secs(30)).await?;
        let mut unread = Vec::new();
        expect(&mut stream, &mut unread, "220").await?;
        for line in ["EHLO client.example", AUTHENTICATION] {
            say(&mut stream, line).await?;
            expect(&mut stream, &mut unread, "2").await?;
        }
        for mail in mails {
            let sender = format!("MAIL FROM:<sender{}{SENDERS}>", self.number);
            say(&mut stream, &sender).await?;
            expect(&mut stream, &mut unread, "250").await?;
            let mut recipients = Vec::new();
            let (only, last) = self.whereto();
            for index in 0..=last {
                let site = only.unwrap_or_else(|| self.random.below(u64::from(SITES)) as u8);
                let recipient = format!("r{}-{mail}-{index}@{}", self.number, domain(site));
                self.facts.record(self.platform.now(), Fact::Submitted { recipient: recipient.clone() });
                say(&mut stream, &format!("RCPT TO:<{recipient}>")).await?;
                expect(&mut stream, &mut unread, "250").await?;
                recipients.push(recipient);
            }
            say(&mut stream, "DATA").await?;
            expect(&mut stream, &mut unread, "354").await?;
            let filling = "A line of some length, so that mails fill more than a block.\r\n";
            let lines = filling.repeat(self.random.below(if self.bursts_at.is_some() { 10 } else { 300 }) as usize);
            let content = format!("From: <sender{0}{SENDERS}>\r\nSubject: {0}-{mail}\r\n\r\n{lines}.", self.number);
            say(&mut stream, &content).await?;
            expect(&mut stream, &mut unread, "250").await?;
            for recipient in recipients {
                self.facts.record(self.platform.now(), Fact::Acknowledged { recipient });
            }
        }
        say(&mut stream, "QUIT").await?;
        expect(&mut stream, &mut unread, "221").await
    }

    /// The one site of a mail, if it has one, and the number of its last recipient. Now and then there are more recipients of one
    /// site than a transaction may carry.
    fn whereto(&mut self) -> (Option<u8>, u64) {
        if self.bursts_at.is_some() {
            return (self.bursts_at, 0);
        }
        let many = self.random.chance(4).then(|| self.random.below(u64::from(SITES)) as u8);
        (many, if many.is_some() { 100 + self.random.below(60) } else { self.random.below(3) })
    }
}

/// The domain of a receiving site.
pub(crate) fn domain(site: u8) -> String {
    format!("site{site}.example")
}

async fn say(stream: &mut SimStream, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await
}

/// Reads one reply, which must begin with `code`.
async fn expect(stream: &mut SimStream, unread: &mut Vec<u8>, code: &str) -> io::Result<()> {
    loop {
        while let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") {
            let line: Vec<u8> = unread.drain(..end + 2).collect();
            if line.get(3) != Some(&b'-') {
                let is_wanted = line.starts_with(code.as_bytes());
                let text = String::from_utf8_lossy(&line).into_owned();
                return if is_wanted { Ok(()) } else { Err(io::Error::other(text)) };
            }
        }
        let mut buffer = [0; 1_024];
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        unread.extend_from_slice(&buffer[..count]);
    }
}

/// How the addresses of our senders end.
pub(crate) const SENDERS: &str = "@us.example";
pub(crate) const SECRET: &str = "secret";
/// User `client` with [`SECRET`].
const AUTHENTICATION: &str = "AUTH PLAIN AGNsaWVudABzZWNyZXQ=";
/// Longest a client stays at one session.
const SESSION_LIMIT: Duration = Duration::from_secs(900);
