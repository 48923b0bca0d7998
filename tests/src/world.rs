//! The usual cast of a story: a name server, Postrail, and a scripted receiver for what goes back to the sender.
//!
//! Receivers of a story share one port, each at a loopback address of its own, since a zone names hosts and no ports.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::clients;
use crate::place::{Place, free_address};
use crate::postrail::{DOMAIN, Postrail};
use crate::receiver::Receiver;
use crate::wait;
use crate::zone::NameServer;

/// The usual cast.
pub struct World {
    pub postrail: Postrail,
    pub names: NameServer,
    /// The MX of the sending domain.
    pub sender: Receiver,
    /// Where every receiver listens.
    pub port: u16,
    pub place: Place,
}

/// A mail to submit.
#[derive(Clone, Copy, Debug)]
pub struct Mail<'a> {
    pub from: &'a str,
    pub to: &'a [&'a str],
    /// Parameters of MAIL.
    pub mail_options: &'a [&'a str],
    /// Parameters of every RCPT.
    pub rcpt_options: &'a [&'a str],
    pub message: &'a [u8],
}

impl<'a> Mail<'a> {
    /// A mail from the sending domain without parameters.
    pub fn new(to: &'a [&'a str], message: &'a [u8]) -> Self {
        Self { from: "app@sender.test", to, mail_options: &[], rcpt_options: &[], message }
    }
}

impl World {
    /// Starts the cast with `zones` as [`NameServer::start`] takes them, and that of the sending domain.
    pub fn new(name: &str, zones: &[(&str, &str)]) -> Self {
        let place = Place::new(name);
        let port = free_address().port();
        let sender = Receiver::start(SocketAddr::new(IpAddr::from([127, 0, 0, 99]), port));
        let mut all = vec![("sender.test.", "@ MX 10 mx\nmx A 127.0.0.99")];
        all.extend(zones);
        let names = NameServer::start(&place, &all);
        let postrail = Postrail::start(&place, names.address(), port);
        Self { postrail, names, sender, port, place }
    }

    /// A receiver's address: `127.0.0.LAST` at the story's port.
    pub fn at(&self, last: u8) -> SocketAddr {
        SocketAddr::new(IpAddr::from([127, 0, 0, last]), self.port)
    }

    /// A scripted receiver at `127.0.0.LAST`.
    pub fn receiver(&self, last: u8) -> Receiver {
        Receiver::start(self.at(last))
    }

    /// Submits by Python's smtplib over STARTTLS: the job's id, or the reply that refuses it.
    pub fn submit(&self, mail: &Mail) -> Result<String, String> {
        let task = json!({
            "host": self.postrail.smtp.ip(), "port": self.postrail.smtp.port(), "tls": "starttls",
            "mechanism": "PLAIN", "username": self.postrail.username, "secret": self.postrail.secret,
            "mails": [{
                "from": mail.from, "to": mail.to, "mail_options": mail.mail_options,
                "rcpt_options": mail.rcpt_options, "content": STANDARD.encode(mail.message),
            }],
        });
        let answers = clients::python(&self.place, "session.py", &task)["answers"][0].clone();
        match answers["data"][0].as_u64() {
            Some(250) => Ok(Postrail::queued_as(answers["data"][1].as_str().unwrap_or_default())),
            _ => Err(answers.to_string()),
        }
    }

    /// As [`Self::submit`] to `to`, of a mail that is accepted.
    pub fn send(&self, to: &str, message: &[u8]) -> String {
        self.submit(&Mail::new(&[to], message)).expect("the mail is accepted")
    }

    /// Waits until the ledger has every recipient of `job` in `state`, and gives the first.
    pub fn wait(&self, job: &str, state: &str) -> Value {
        self.postrail.wait_for_state(job, state).swap_remove(0)
    }

    /// The attempts of a job as the ledger tells them.
    pub fn attempts(&self, job: &str) -> Vec<Value> {
        let trace = self.postrail.control_ok("GET", &format!("/v2/trace/{job}"), None);
        let items = trace["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|event| event["attempt"].clone()).filter(|attempt| !attempt.is_null()).collect()
    }

    /// Waits until a job has had `count` attempts, and gives them.
    pub fn wait_attempts(&self, job: &str, count: usize) -> Vec<Value> {
        self.wait_known(job);
        wait::until(&format!("{count} attempts of {job}"), || {
            let attempts = self.attempts(job);
            (attempts.len() >= count).then_some(attempts)
        })
    }

    /// Waits until the ledger knows the job.
    pub fn wait_known(&self, job: &str) {
        wait::until("the ledger to know the job", || (!self.postrail.recipients(job).is_empty()).then_some(()));
    }

    /// `postrail queue retry` for everything that waits.
    pub fn retry(&self) {
        let (done, text) = self.postrail.cli(&["queue", "retry", "--all"]);
        assert!(done, "{text}");
    }

    /// The names and texts of the DKIM records to publish.
    pub fn dkim_records(&self) -> Value {
        let domain = self.postrail.control_ok("GET", &format!("/v2/domains/{DOMAIN}"), None);
        let records = domain["dns_records"].as_array().cloned().unwrap_or_default();
        let pairs = records.iter().filter_map(|record| {
            let name = record["name"].as_str()?.trim_end_matches('.');
            name.contains("._domainkey.").then(|| (name.to_owned(), record["value"].clone()))
        });
        Value::Object(pairs.collect())
    }
}

/// A small mail with these lines before the body.
pub fn message(fields: &str, body: &str) -> Vec<u8> {
    format!("From: App <app@sender.test>\r\nSubject: a story\r\n{fields}\r\n{body}").into_bytes()
}
