//! A fleet on one host: etcd, a control plane, data planes, each a process with a folder of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::child::{Running, run};
use crate::place::{Place, free_address};
use crate::postrail::{DOMAIN, binary};
use crate::wait;

/// An etcd of one member.
pub struct Etcd {
    client: SocketAddr,
    arguments: Vec<String>,
    log: PathBuf,
    running: Option<Running>,
}

impl Etcd {
    pub fn start(place: &Place) -> Self {
        let (client, peer) = (free_address(), free_address());
        let (at, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let data = place.join("etcd").display().to_string();
        let cluster = format!("default={peer}");
        let arguments = [
            ("--data-dir", data.as_str()),
            ("--listen-client-urls", &at),
            ("--advertise-client-urls", &at),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &cluster),
        ];
        let arguments = arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value.to_owned()]);
        let mut etcd = Self { client, arguments: arguments.collect(), log: place.join("etcd.log"), running: None };
        etcd.start_again();
        etcd
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// On the same data and ports.
    pub fn start_again(&mut self) {
        self.running = Some(Running::start(Command::new("etcd").args(&self.arguments), &self.log));
        wait::until("etcd to answer", || {
            let health = reqwest::blocking::get(format!("{}/health", self.url())).ok()?;
            health.text().ok()?.contains("true").then_some(())
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }

    /// etcd's own client; its output.
    pub fn control(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        run(command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]).args(arguments))
    }

    /// Forgets everything before the present revision.
    pub fn compact(&self) {
        let status: Value = serde_json::from_str(&self.control(&["endpoint", "status", "-w", "json"])).expect("JSON");
        let revision = status[0]["Status"]["header"]["revision"].as_u64().expect("a revision");
        self.control(&["compact", &revision.to_string()]);
    }
}

/// A process of the fleet.
pub struct Member {
    pub name: String,
    pub api: SocketAddr,
    pub admin: SocketAddr,
    pub smtp: SocketAddr,
    pub rest: SocketAddr,
    pub data: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    running: Running,
    http: reqwest::blocking::Client,
}

impl Member {
    /// Starts `postrail up --role ROLE` with these further options.
    pub fn start(
        place: &Place,
        etcd: &Etcd,
        name: &str,
        role: &str,
        master_key: Option<&[u8]>,
        options: &[&str],
    ) -> Self {
        let [api, admin, smtp, smtps, rest] = std::array::from_fn(|_| free_address());
        let data = place.join(name);
        if let Some(key) = master_key {
            std::fs::create_dir_all(&data).expect("a folder can be made");
            std::fs::write(data.join("master.key"), key).expect("a file can be written");
        }
        let mut arguments = vec!["up".to_owned(), "--role".to_owned(), role.to_owned()];
        let addresses = [("--api", api), ("--admin", admin), ("--smtp", smtp), ("--smtps", smtps), ("--rest", rest)];
        arguments.extend(addresses.into_iter().flat_map(|(option, at)| [option.to_owned(), at.to_string()]));
        let (url, folder) = (etcd.url(), data.display().to_string());
        for (option, value) in [("--etcd", url.as_str()), ("--data", &folder), ("--host-name", name)] {
            arguments.extend([option.to_owned(), value.to_owned()]);
        }
        arguments.extend(["--hostname", "mail.sender.test", "--domain", DOMAIN].map(str::to_owned));
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let log = place.join(&format!("{name}.log"));
        let running = Running::start(Command::new(binary()).args(&arguments), &log);
        let http = reqwest::blocking::Client::builder().timeout(Duration::from_secs(30)).build();
        let http = http.expect("an HTTP client can be made");
        Self { name: name.to_owned(), api, admin, smtp, rest, data, arguments, log, running, http }
    }

    pub fn output(&self) -> String {
        self.running.output()
    }

    pub fn child(&mut self) -> &mut Running {
        &mut self.running
    }

    /// On the same data and ports.
    pub fn start_again(&mut self) {
        self.running = Running::start(Command::new(binary()).args(&self.arguments), &self.log);
    }

    /// Waits until it answers at `path` of its control API or admin listener with success.
    pub fn wait_for(&mut self, at: SocketAddr, path: &str) -> String {
        wait::until(&format!("{} to answer at {path}", self.name), || {
            if let Some(status) = self.running.ended() {
                panic!("{} ended with {status}:\n{}", self.name, self.running.output());
            }
            // A connection that was taken while the listener was only being tried is not waited for.
            let request = self.http.get(format!("http://{at}{path}")).timeout(Duration::from_secs(2));
            let answer = request.send().ok()?;
            answer.status().is_success().then(|| answer.text().unwrap_or_default())
        })
    }

    /// The revisions that its shards work under; `None`: it does not answer.
    pub fn revisions(&self) -> Option<Vec<u64>> {
        let text = self.metrics();
        let rows = text.lines().filter(|line| line.starts_with("postrail_snapshot_revision{"));
        let found: Vec<_> = rows.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!found.is_empty()).then_some(found)
    }

    pub fn metrics(&self) -> String {
        let got = self.http.get(format!("http://{}/metrics", self.admin)).send();
        got.and_then(reqwest::blocking::Response::text).unwrap_or_default()
    }

    /// Submits the smallest job to one recipient by REST: status and body.
    pub fn submit(&self, username: &str, secret: &str, to: &str) -> (u16, Value) {
        let job = json!({
            "subject": {"content": "A job"},
            "body": {"contentType": "text/plain", "content": "Hello.\n"},
            "recipients": [{"mail": {"to": [{"email": to}]}}],
            "mail": {"from": {"email": format!("hello@{DOMAIN}")}},
        });
        let request = self.http.post(format!("http://{}/v2/jobs", self.rest)).basic_auth(username, Some(secret));
        let answer = request.json(&job).send().expect("REST submission answers");
        let status = answer.status().as_u16();
        (status, answer.json().unwrap_or_default())
    }

    /// A request to its control API as the operator: status and body.
    pub fn control(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let method = method.parse().expect("an HTTP method");
        let mut request = self.http.request(method, format!("http://{}{path}", self.api)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().expect("the control API answers");
        let status = answer.status().as_u16();
        (status, answer.json().unwrap_or_default())
    }

    /// The revision that its control plane has published or taken over.
    pub fn published(&self) -> Option<u64> {
        let ready = self.http.get(format!("http://{}/readyz", self.api)).send().ok()?;
        ready.json::<Value>().ok()?["revision"].as_u64()
    }

    /// What it printed at the first start behind `word`.
    pub fn printed(&self, word: &str) -> String {
        wait::until(&format!("the first start to print {word}"), || {
            let output = self.output();
            let line = output.lines().find_map(|line| line.trim().strip_prefix(word).map(str::trim).map(str::to_owned));
            line.filter(|found| !found.is_empty())
        })
    }
}

/// etcd, a control plane and data planes.
pub struct Fleet {
    pub hosts: Vec<Member>,
    pub control: Member,
    pub etcd: Etcd,
    pub username: String,
    pub secret: String,
    pub token: String,
}

impl Fleet {
    /// Starts all, and waits until every data plane works under what is published.
    pub fn start(place: &Place, hosts: usize, options: &[&str]) -> Self {
        let etcd = Etcd::start(place);
        let mut control = Member::start(place, &etcd, "control", "control-plane", None, options);
        control.wait_for(control.api, "/readyz");
        let (username, secret) = (control.printed("username "), control.printed("secret "));
        let token = std::fs::read_to_string(control.data.join("operator.token")).expect("the operator's token");
        let key = std::fs::read(control.data.join("master.key")).expect("the master key");
        let start = |n| Member::start(place, &etcd, &format!("host-{n}"), "data-plane", Some(&key), options);
        let hosts = (1..=hosts).map(start).collect();
        let mut fleet = Self { hosts, control, etcd, username, secret, token: token.trim().to_owned() };
        for host in &mut fleet.hosts {
            host.wait_for(host.admin, "/readyz");
        }
        fleet.settle();
        fleet
    }

    /// A request to the control API as the operator, which must succeed.
    pub fn change(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.control.control(&self.token, method, path, Some(body));
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Waits until every data plane works under the published revision, and gives that.
    pub fn settle(&self) -> u64 {
        wait::until("every data plane to have the published revision", || {
            let published = self.control.published()?;
            let is_there = |host: &Member| host.revisions().is_some_and(|all| all.iter().all(|one| *one == published));
            self.hosts.iter().all(is_there).then_some(published)
        })
    }

    /// Submits one mail at a host, which must be accepted; the id of the job.
    pub fn accepted(&self, host: usize, to: &str) -> String {
        let (status, answer) = self.hosts[host].submit(&self.username, &self.secret, to);
        assert_eq!(status, 202, "{answer}\n{}", self.hosts[host].output());
        answer.pointer("/meta/jobId").and_then(Value::as_str).expect("the job has an id").to_owned()
    }

    /// Waits until the ledger has every recipient of a job as delivered.
    pub fn delivered(&self, job: &str) {
        wait::until(&format!("{job} to be delivered"), || {
            let (status, answer) =
                self.control.control(&self.token, "GET", &format!("/v2/jobs/{job}/recipients"), None);
            let items = answer["items"].as_array().filter(|_| status == 200)?;
            (!items.is_empty() && items.iter().all(|one| one["state"] == "delivered")).then_some(())
        });
    }
}
