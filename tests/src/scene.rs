//! What most stories need: a name server under which every domain of `.test` has a scripted receiver as its MX, and
//! Postrail.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::place::Place;
use crate::postrail::{DOMAIN, Postrail};
use crate::receiver::Receiver;
use crate::zone::NameServer;

/// A running set; what stands first ends first.
pub struct Scene {
    pub postrail: Postrail,
    pub receiver: Receiver,
    pub names: NameServer,
    pub place: Place,
}

impl Scene {
    /// Starts all of it.
    pub fn new(name: &str) -> Self {
        Self::with(Place::new(name), &[])
    }

    /// Starts all of it with these further options of `up`.
    pub fn with(place: Place, options: &[&str]) -> Self {
        let names = NameServer::start(&place, &[("test.", "* MX 10 mx\nmx A 127.0.0.1")]);
        let receiver = Receiver::local();
        let resolver = names.address().to_string();
        let options = [&["--resolver", &resolver, "--shards", "2"], options].concat();
        let postrail = Postrail::start_with(&place, &options);
        postrail.route("*", receiver.address().port());
        Self { postrail, receiver, names, place }
    }

    /// A task for `session.py`.
    pub fn session(&self, at: SocketAddr, tls: &str, mechanism: &str, mails: &[Value]) -> Value {
        json!({
            "host": at.ip(), "port": at.port(), "tls": tls, "mechanism": mechanism,
            "username": self.postrail.username, "secret": self.postrail.secret, "mails": mails,
        })
    }

    /// The smallest job, to these addresses, an entry each.
    pub fn job(&self, to: &[&str]) -> Value {
        let entries: Vec<Value> = to.iter().map(|email| json!({"mail": {"to": [{"email": email}]}})).collect();
        json!({
            "subject": {"content": "A job"},
            "body": {"contentType": "text/plain", "content": "Hello.\n"},
            "recipients": entries,
            "mail": {"from": {"email": format!("hello@{DOMAIN}")}},
        })
    }
}
