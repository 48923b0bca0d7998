//! A plain SMTP client that says exactly what it is told.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::postrail::Postrail;

/// An open session.
pub struct Dialogue {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Dialogue {
    /// Connects, and takes the greeting and the reply to EHLO.
    pub fn start(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).expect("the server listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
        let reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
        let mut dialogue = Self { stream, reader };
        assert!(dialogue.reply().starts_with("220"));
        assert!(dialogue.say("EHLO client.test").starts_with("250"));
        dialogue
    }

    /// As [`Self::start`], and authenticates with the first credential.
    pub fn authenticated(postrail: &Postrail) -> Self {
        let mut dialogue = Self::start(postrail.smtp);
        let token = STANDARD.encode(format!("\0{}\0{}", postrail.username, postrail.secret));
        let reply = dialogue.say(&format!("AUTH PLAIN {token}"));
        assert!(reply.starts_with("235"), "{reply}");
        dialogue
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).expect("the server reads");
    }

    /// The next reply, its lines joined by a space; empty when the server has closed.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line).expect("the server answers");
            reply.push_str(line.trim_end());
            if read == 0 || line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
            reply.push(' ');
        }
    }

    /// Sends a line and gives the reply.
    pub fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Sends a message with `content` by DATA and gives the reply to its end; the content has no dots to stuff.
    pub fn message(&mut self, from: &str, to: &str, content: &[u8]) -> String {
        for line in [format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>")] {
            let reply = self.say(&line);
            assert!(reply.starts_with("250"), "{line}: {reply}");
        }
        assert!(self.say("DATA").starts_with("354"));
        self.send(content);
        self.send(b"\r\n.\r\n");
        self.reply()
    }
}
