//! Receivers by script: one that takes mail as it should, and the many that do not.
//!
//! The SMTP here is written anew and plainly, and shares nothing with the machines of the core: an error there would
//! else be understood by both sides. What a receiver takes is recorded as [`Fact`]s and kept as [`Mail`].
//!
//! Every second receiver offers BDAT by itself. Deliberately absent: STARTTLS, DSN.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use postrail_core::base::{Instant, Random};
use postrail_data_plane::platform::{Listener, Net, Platform, Stream};

use crate::SimPlatform;
use crate::invariants::{Fact, Facts};
use crate::net::SimStream;

/// How a receiver is on one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behaviour {
    /// Takes everything.
    Good,
    /// 450 to every recipient.
    Defers,
    /// 550 to every recipient.
    Rejects,
    /// 554 to the end of data.
    RejectsMessage,
    /// 451 to a recipient until this long after it was first named.
    Greylists(Duration),
    /// 421 instead of a greeting.
    Busy,
    /// Says nothing any more from this stage on.
    HangsAt(Stage),
    /// Breaks the connection instead of the reply of this stage.
    DropsAt(Stage),
    /// Answers no SMTP.
    Garbage,
    /// Takes this long for every reply.
    Slow(Duration),
}

/// What a reply answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Greeting,
    Ehlo,
    MailFrom,
    RcptTo,
    Data,
    /// The message has been taken; its reply is lost where a receiver hangs or drops here.
    EndOfData,
    Quit,
}

/// A message that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mail {
    pub at: Instant,
    pub reverse_path: String,
    pub recipients: Vec<String>,
    /// With the doubled dots undone.
    pub content: Vec<u8>,
}

/// One receiving host; its memory outlives its connections.
#[derive(Clone)]
pub struct RemoteMta(Rc<Memory>);

struct Memory {
    platform: SimPlatform,
    at: SocketAddr,
    /// What it may be on a connection, one drawn for each.
    behaviours: RefCell<Vec<Behaviour>>,
    random: RefCell<Random>,
    chunking: Cell<bool>,
    facts: Facts,
    mails: RefCell<Vec<Mail>>,
    first_named: RefCell<BTreeMap<String, Instant>>,
}

impl RemoteMta {
    /// Listens at `at`, an address of the platform's node; each connection meets one of `behaviours`, drawn by the seed.
    ///
    /// # Errors
    /// Those of listening.
    pub fn start(
        platform: &SimPlatform,
        at: SocketAddr,
        behaviours: Vec<Behaviour>,
        facts: &Facts,
    ) -> io::Result<Self> {
        let listener = platform.net().listen(at)?;
        let mut random = Random::new(platform.entropy());
        let chunking = random.below(2) == 0;
        let receiver = Self(Rc::new(Memory {
            platform: platform.clone(),
            at,
            behaviours: RefCell::new(behaviours),
            random: RefCell::new(random),
            chunking: Cell::new(chunking),
            facts: facts.clone(),
            mails: RefCell::default(),
            first_named: RefCell::default(),
        }));
        let accepting = receiver.clone();
        platform.spawn("receiver", async move {
            while let Ok(stream) = listener.accept().await {
                let session = Session::new(accepting.clone(), stream);
                accepting.0.platform.spawn("receiver, connection", async move {
                    // The client may break it, and so may the network.
                    let _ = session.converse().await;
                });
            }
        });
        Ok(receiver)
    }

    /// Takes BDAT, whatever the seed said.
    pub fn offer_chunking(&self) {
        self.0.chunking.set(true);
    }

    /// Changes what new connections meet.
    pub fn set_behaviours(&self, behaviours: Vec<Behaviour>) {
        *self.0.behaviours.borrow_mut() = behaviours;
    }

    /// What was taken so far.
    pub fn mails(&self) -> Vec<Mail> {
        self.0.mails.borrow().clone()
    }

    fn draw(&self) -> Behaviour {
        let behaviours = self.0.behaviours.borrow();
        if behaviours.is_empty() {
            return Behaviour::Good;
        }
        behaviours[self.0.random.borrow_mut().below(behaviours.len() as u64) as usize]
    }

    fn record(&self, fact: Fact) {
        self.0.facts.record(self.0.platform.now(), fact);
    }

    /// Whether `recipient` was first named at least `wait` ago.
    fn is_known_since(&self, recipient: &str, wait: Duration) -> bool {
        let now = self.0.platform.now();
        let mut first_named = self.0.first_named.borrow_mut();
        now.since(*first_named.entry(recipient.to_owned()).or_insert(now)) >= wait
    }
}

/// What comes after a reply.
#[derive(PartialEq, Eq)]
enum Next {
    Goes,
    Ends,
}

/// One connection.
struct Session {
    receiver: RemoteMta,
    stream: SimStream,
    behaviour: Behaviour,
    unread: Vec<u8>,
    reverse_path: Option<String>,
    recipients: Vec<String>,
}

impl Session {
    fn new(receiver: RemoteMta, stream: SimStream) -> Self {
        let behaviour = receiver.draw();
        Self { receiver, stream, behaviour, unread: Vec::new(), reverse_path: None, recipients: Vec::new() }
    }

    async fn converse(mut self) -> io::Result<()> {
        let (source, receiver) = (self.stream.peer().map(|peer| peer.ip()), self.receiver.0.at.ip());
        if let Some(source) = source {
            let net = self.receiver.0.platform.net();
            let connection = self.stream.id();
            let (open, node) = (net.connections_of(source), net.client_of(connection));
            self.receiver.record(Fact::ConnectionOpened { connection, node, source, receiver, open });
        }
        if self.behaviour == Behaviour::Busy {
            return self.reply(Stage::Greeting, "421 4.3.2 too busy").await.map(drop);
        }
        if self.reply(Stage::Greeting, "220 receiver.example ESMTP").await? == Next::Ends {
            return Ok(());
        }
        while let Some(line) = self.line().await? {
            if self.obey(&line).await? == Next::Ends {
                break;
            }
        }
        Ok(())
    }

    async fn obey(&mut self, line: &str) -> io::Result<Next> {
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" if self.receiver.0.chunking.get() => {
                self.reply(Stage::Ehlo, &format!("250-receiver.example\r\n250-CHUNKING\r\n{CAPABILITIES}")).await
            }
            "EHLO" => self.reply(Stage::Ehlo, &format!("250-receiver.example\r\n{CAPABILITIES}")).await,
            "HELO" => self.reply(Stage::Ehlo, "250 receiver.example").await,
            "MAIL" => match (path(line), &self.reverse_path) {
                (Some(path), None) => {
                    self.reverse_path = Some(path);
                    let (connection, receiver) = (self.stream.id(), self.receiver.0.at.ip());
                    self.receiver.record(Fact::MailBegun { connection, receiver });
                    self.reply(Stage::MailFrom, "250 2.1.0 ok").await
                }
                _ => self.reply(Stage::MailFrom, "503 5.5.1 not now").await,
            },
            "RCPT" => self.recipient(line).await,
            "DATA" if self.recipients.is_empty() => self.reply(Stage::Data, "503 5.5.1 no recipients").await,
            "DATA" => self.data().await,
            "BDAT" if self.receiver.0.chunking.get() => self.chunk(line).await,
            "RSET" => {
                self.forget();
                self.reply(Stage::Ehlo, "250 2.0.0 ok").await
            }
            "NOOP" => self.reply(Stage::Ehlo, "250 2.0.0 ok").await,
            "QUIT" => {
                self.reply(Stage::Quit, "221 2.0.0 bye").await?;
                self.stream.close().await?;
                Ok(Next::Ends)
            }
            _ => self.reply(Stage::Ehlo, "500 5.5.2 what?").await,
        }
    }

    async fn recipient(&mut self, line: &str) -> io::Result<Next> {
        let (Some(path), Some(_)) = (path(line), &self.reverse_path) else {
            return self.reply(Stage::RcptTo, "503 5.5.1 not now").await;
        };
        match self.behaviour {
            Behaviour::Defers => return self.reply(Stage::RcptTo, "450 4.2.1 later").await,
            Behaviour::Rejects => return self.reply(Stage::RcptTo, "550 5.1.1 no such user").await,
            Behaviour::Greylists(wait) if !self.receiver.is_known_since(&path, wait) => {
                return self.reply(Stage::RcptTo, "451 4.7.1 greylisted").await;
            }
            _ => {}
        }
        self.recipients.push(path);
        self.reply(Stage::RcptTo, "250 2.1.5 ok").await
    }

    async fn data(&mut self) -> io::Result<Next> {
        if self.reply(Stage::Data, "354 go on").await? == Next::Ends {
            return Ok(Next::Ends);
        }
        let Some(content) = self.content().await? else { return Ok(Next::Ends) };
        self.take(content).await
    }

    /// `BDAT <octets> LAST`, the only chunk of its message. The octets are read in any case (RFC 3030 section 2).
    async fn chunk(&mut self, line: &str) -> io::Result<Next> {
        let mut words = line.split(' ').skip(1);
        let (Some(octets), Some("LAST")) = (words.next().and_then(|word| word.parse().ok()), words.next()) else {
            return Ok(Next::Ends);
        };
        let Some(content) = self.octets(octets).await? else { return Ok(Next::Ends) };
        if self.recipients.is_empty() {
            return self.reply(Stage::EndOfData, "503 5.5.1 no recipients").await;
        }
        self.take(content).await
    }

    async fn take(&mut self, content: Vec<u8>) -> io::Result<Next> {
        if self.behaviour == Behaviour::RejectsMessage {
            self.forget();
            return self.reply(Stage::EndOfData, "554 5.7.1 not this message").await;
        }
        let at = self.receiver.0.platform.now();
        let lines = content.split(|octet| *octet == b'\n');
        let line_octets_max = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line).len()).max().unwrap_or(0);
        let recipients = self.recipients.len();
        let connection = self.stream.id();
        self.receiver.record(Fact::MailTaken { connection, recipients, line_octets_max });
        for recipient in &self.recipients {
            self.receiver.record(Fact::Received { recipient: recipient.clone(), connection });
        }
        let (reverse_path, recipients) =
            (self.reverse_path.take().unwrap_or_default(), std::mem::take(&mut self.recipients));
        let mail = Mail { at, reverse_path, recipients: recipients.clone(), content };
        self.receiver.0.mails.borrow_mut().push(mail);
        let next = self.reply(Stage::EndOfData, "250 2.0.0 taken").await?;
        if next == Next::Goes && self.behaviour != Behaviour::Garbage {
            let (receiver, heard, connection) = (self.receiver.clone(), self.stream.heard(), self.stream.id());
            self.receiver.0.platform.spawn("receiver, reply heard", async move {
                if heard.await {
                    for recipient in recipients {
                        receiver.record(Fact::ReplyHeard { recipient, connection });
                    }
                }
            });
        }
        Ok(next)
    }

    fn forget(&mut self) {
        self.reverse_path = None;
        self.recipients.clear();
    }

    /// Says `text`, or what the behaviour has instead of it.
    async fn reply(&mut self, stage: Stage, text: &str) -> io::Result<Next> {
        let platform = self.receiver.0.platform.clone();
        match self.behaviour {
            Behaviour::HangsAt(at) if at == stage => {
                platform.sleep_until(platform.now() + HANG).await;
                return Ok(Next::Ends);
            }
            Behaviour::DropsAt(at) if at == stage => return Ok(Next::Ends),
            Behaviour::Slow(wait) => platform.sleep_until(platform.now() + wait).await,
            _ => {}
        }
        let text = if self.behaviour == Behaviour::Garbage { GARBAGE } else { text };
        self.stream.write_all(format!("{text}\r\n").as_bytes()).await?;
        Ok(if text.starts_with("421") { Next::Ends } else { Next::Goes })
    }

    /// The next line without its end; `None` at the end of the stream.
    async fn line(&mut self) -> io::Result<Option<String>> {
        let Some(bytes) = self.until(b"\r\n").await? else { return Ok(None) };
        Ok(Some(String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned()))
    }

    /// Message content up to the line of one dot, with the doubled dots undone (RFC 5321 section 4.5.2).
    async fn content(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut content = Vec::new();
        while let Some(line) = self.until(b"\r\n").await? {
            if line == b".\r\n" {
                return Ok(Some(content));
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        Ok(None)
    }

    /// That many octets.
    async fn octets(&mut self, count: usize) -> io::Result<Option<Vec<u8>>> {
        while self.unread.len() < count {
            let mut buffer = [0; 4_096];
            let read = self.stream.read(&mut buffer).await?;
            if read == 0 {
                return Ok(None);
            }
            self.unread.extend_from_slice(&buffer[..read]);
        }
        let rest = self.unread.split_off(count);
        Ok(Some(std::mem::replace(&mut self.unread, rest)))
    }

    /// Octets up to and with the next `mark`.
    async fn until(&mut self, mark: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(found) = self.unread[searched..].windows(mark.len()).position(|window| window == mark) {
                let rest = self.unread.split_off(searched + found + mark.len());
                return Ok(Some(std::mem::replace(&mut self.unread, rest)));
            }
            searched = self.unread.len().saturating_sub(mark.len() - 1);
            let mut buffer = [0; 4_096];
            let count = self.stream.read(&mut buffer).await?;
            if count == 0 || self.unread.len() > LINE_BYTES_MAX {
                return Ok(None);
            }
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }
}

/// What stands between the angle brackets of MAIL or RCPT.
fn path(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('<')?;
    let (path, _) = rest.split_once('>')?;
    Some(path.to_owned())
}

const CAPABILITIES: &str = "250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 52428800\r\n\
                            250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8";
/// Neither a reply nor text.
const GARBAGE: &str = "2\u{0}\u{fffd}x0 \u{7f}\r\nHTTP/1.1 400 Bad Request";
/// How long a receiver hangs before it gives up: longer than any time limit of RFC 5321.
const HANG: Duration = Duration::from_secs(3_600);
/// Longest line, octets; a longer one ends the connection.
const LINE_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::{End, Limits};
    use crate::{NodeId, Settings, Sim};

    const AT: &str = "10.0.2.1:25";
    const SCRIPT: &str = "EHLO us\r\nMAIL FROM:<a@us.example>\r\nRCPT TO:<b@good.example>\r\nDATA\r\n";
    const CONTENT: &str = "Subject: dots\r\n\r\n..two\r\n.\r\nQUIT\r\n";

    fn served(behaviour: Behaviour) -> (Sim, RemoteMta, Facts) {
        let sim = Sim::new(&Settings::default());
        sim.add_node(&["10.0.0.1".parse().unwrap()]);
        let node = sim.add_node(&["10.0.2.1".parse().unwrap()]);
        let facts = Facts::default();
        facts.record(sim.now(), Fact::Submitted { recipient: "b@good.example".to_owned() });
        let receiver = RemoteMta::start(&sim.platform(node), AT.parse().unwrap(), vec![behaviour], &facts).unwrap();
        (sim, receiver, facts)
    }

    /// Sends all at once, reads until the end or a minute has passed, and returns the first letters of the lines.
    fn dialogue(sim: &Sim) -> String {
        let platform = sim.platform(NodeId(0));
        let work = async move {
            let mut stream = platform.net().connect(None, AT.parse().unwrap(), Duration::from_secs(5)).await.unwrap();
            // The receiver may end before it has read all of it.
            let _ = stream.write_all(SCRIPT.as_bytes()).await;
            let _ = stream.write_all(CONTENT.as_bytes()).await;
            let mut text = Vec::new();
            // Broken or not: what came is what counts.
            let _ = platform.timeout(Duration::from_secs(60), stream.read_to_end(&mut text)).await;
            let lines: Vec<_> =
                String::from_utf8_lossy(&text).lines().map(|line| line.chars().take(3).collect()).collect();
            let mut lines: Vec<String> = lines;
            lines.dedup();
            lines.join(" ")
        };
        sim.run(NodeId(0), work).unwrap()
    }

    #[test]
    fn each_behaviour_says_what_it_should() {
        let minutes = Duration::from_secs(300);
        let cases = [
            (Behaviour::Good, "220 250 354 250 221", 1),
            (Behaviour::Defers, "220 250 450 503 500 221", 0),
            (Behaviour::Rejects, "220 250 550 503 500 221", 0),
            (Behaviour::RejectsMessage, "220 250 354 554 221", 0),
            (Behaviour::Greylists(minutes), "220 250 451 503 500 221", 0),
            (Behaviour::Busy, "421", 0),
            (Behaviour::HangsAt(Stage::Greeting), "", 0),
            (Behaviour::HangsAt(Stage::EndOfData), "220 250 354", 1),
            (Behaviour::DropsAt(Stage::RcptTo), "220 250", 0),
            (Behaviour::DropsAt(Stage::EndOfData), "220 250 354", 1),
            (Behaviour::Slow(Duration::from_secs(1)), "220 250 354 250 221", 1),
        ];
        for (behaviour, expected, mails) in cases {
            let (sim, receiver, facts) = served(behaviour);
            let said = dialogue(&sim);
            // A dropped connection with unread octets is a reset, which may overtake what was said before.
            let is_said = match behaviour {
                Behaviour::DropsAt(_) | Behaviour::Busy => expected.starts_with(&said),
                _ => said == expected,
            };
            assert!(is_said, "{behaviour:?} said {said:?}, not {expected:?}");
            assert_eq!(receiver.mails().len(), mails, "{behaviour:?}");
            let received = facts.count(|fact| matches!(fact, Fact::Received { .. }));
            assert_eq!(received, mails, "{behaviour:?}");
            assert_eq!(facts.check(&Limits::default(), End::Somewhere), [], "{behaviour:?}");
        }
    }

    #[test]
    fn what_is_taken_is_kept_with_its_envelope_and_without_doubled_dots() {
        let (sim, receiver, _) = served(Behaviour::Good);
        dialogue(&sim);
        let mails = receiver.mails();
        assert_eq!(mails[0].reverse_path, "a@us.example");
        assert_eq!(mails[0].recipients, ["b@good.example"]);
        assert_eq!(mails[0].content, b"Subject: dots\r\n\r\n.two\r\n");
    }

    #[test]
    fn greylisting_ends_after_its_time_and_garbage_is_no_reply() {
        let (sim, receiver, _) = served(Behaviour::Greylists(Duration::from_secs(300)));
        dialogue(&sim);
        sim.run_until(sim.now() + Duration::from_secs(301)).unwrap();
        assert_eq!(dialogue(&sim), "220 250 354 250 221");
        receiver.set_behaviours(vec![Behaviour::Garbage]);
        assert!(dialogue(&sim).contains("HTT"));
    }
}
