//! Many numbered mails: a [`Load`] from real clients (Python's smtplib and http.client) that outlast restarts of the server,
//! and a [`Stream`] at one host of a fleet, of which every job is known.
//!
//! A number is submitted once, whatever becomes of the submission: a number that arrives twice is a duplicate delivery,
//! and one that was acknowledged and does not arrive is lost.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::fleet::Submitter;
use crate::place::{Place, root};
use crate::postrail::Postrail;
use crate::receiver::Arrived;

/// Running clients; they end with this value.
pub struct Load {
    child: Child,
    prefix: String,
    acknowledged: PathBuf,
}

impl Load {
    /// Starts so many connections by SMTP and by REST. Recipients are `<prefix>+<number>@receiver.test`.
    pub fn start(place: &Place, postrail: &Postrail, prefix: &str, smtp: usize, rest: usize) -> Self {
        let Postrail { username, secret, .. } = postrail;
        Self::start_at(place, [postrail.smtp, postrail.rest], [username, secret], prefix, [smtp, rest])
    }

    /// As [`Self::start`]: SMTP and REST listeners, username and secret, connections to each listener.
    pub fn start_at(
        place: &Place,
        listeners: [SocketAddr; 2],
        [username, secret]: [&str; 2],
        prefix: &str,
        [smtp, rest]: [usize; 2],
    ) -> Self {
        let [to_smtp, to_rest] = listeners.map(|listener| listener.port().to_string());
        let acknowledged = place.join(&format!("{prefix}.acknowledged"));
        let mut command = Command::new("python3");
        command.arg(root().join("tests/stories/clients/load.py"));
        command.args([to_smtp, to_rest, username.to_owned()]);
        command.args([smtp.to_string(), rest.to_string(), prefix.to_owned()]).arg(&acknowledged);
        command.env("POSTRAIL_SECRET", secret).stdin(Stdio::piped());
        let child = command.spawn().expect("python3 starts");
        Self { child, prefix: prefix.to_owned(), acknowledged }
    }

    /// The numbers that were acknowledged so far.
    pub fn acknowledged(&self) -> BTreeSet<u64> {
        let text = std::fs::read_to_string(&self.acknowledged).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let number = |line: &str| line.split(' ').next().and_then(|number| number.parse().ok());
        whole.lines().map(|line| number(line).unwrap_or_else(|| panic!("a number: {line}"))).collect()
    }

    /// Tells the clients to stop, waits for them, and gives the numbers that were acknowledged.
    pub fn stop(mut self) -> BTreeSet<u64> {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("our own child can be waited for");
        assert!(status.success(), "the clients ended with {status}");
        self.acknowledged()
    }

    /// The number in the recipient of a mail that this load submitted.
    pub fn number(&self, mail: &Arrived) -> Option<u64> {
        number_of(&self.prefix, mail)
    }
}

/// A steady stream of mail at one host, ten a second: recipients are `<prefix>+<number>@receiver.test`.
pub struct Stream {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(String, String)>>,
}

impl Stream {
    pub fn start(submitter: Submitter, prefix: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ended, prefix) = (Arc::clone(&over), prefix.to_owned());
        let thread = std::thread::spawn(move || {
            let mut accepted = Vec::new();
            for number in 0..STREAM_MAILS_MAX {
                let due = Instant::now() + PACE;
                let to = format!("{prefix}+{number}@receiver.test");
                if let Some((202, answer)) = submitter.submit(&to) {
                    let job = answer.pointer("/meta/jobId").and_then(|id| id.as_str()).expect("the job has an id");
                    accepted.push((to, job.to_owned()));
                }
                // Until the next one is due, or the stream is over.
                while Instant::now() < due && !ended.load(Ordering::Relaxed) {
                    std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
                }
                if ended.load(Ordering::Relaxed) {
                    break;
                }
            }
            accepted
        });
        Self { over, thread }
    }

    /// Recipients with their jobs, as they were accepted.
    pub fn stop(self) -> Vec<(String, String)> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().expect("the stream ends well")
    }
}

/// Between two mails of a stream, and the most of one.
const PACE: Duration = Duration::from_millis(100);
const STREAM_MAILS_MAX: u32 = 10_000;

/// The number of a mail to `<prefix>+<number>@…`.
pub fn number_of(prefix: &str, mail: &Arrived) -> Option<u64> {
    let command = mail.rcpt.first()?;
    let after = command.split('<').nth(1)?.strip_prefix(prefix)?.strip_prefix('+')?;
    after.split('@').next()?.parse().ok()
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
