//! A fleet on one host: etcd, a control plane, data planes, each a process with a folder of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::child::Running;
use crate::etcd::Etcd;
use crate::lan::Station;
use crate::place::{Place, free_address};
use crate::postrail::{DOMAIN, binary};
use crate::wait;

/// A process of the fleet.
pub struct Member {
    pub name: String,
    pub api: SocketAddr,
    pub admin: SocketAddr,
    pub smtp: SocketAddr,
    pub rest: SocketAddr,
    pub data: PathBuf,
    binary: PathBuf,
    arguments: Vec<String>,
    /// Where it runs; nothing: on this side.
    station: Option<Station>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    running: Running,
    http: reqwest::blocking::Client,
    /// Trusts the fleet's authority, once the member has written that.
    https: OnceLock<reqwest::blocking::Client>,
}

/// A member to be.
#[derive(Default)]
pub struct Plan<'a> {
    pub name: &'a str,
    /// Empty: both planes.
    pub role: &'a str,
    /// Nothing: the one under test.
    pub binary: Option<&'a Path>,
    pub master_key: Option<&'a [u8]>,
    pub options: &'a [&'a str],
    pub environment: &'a [(&'a str, &'a str)],
    /// Its API and its admin listener are at the station's own address, all else on the station's loopback.
    pub station: Option<Station>,
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
        Self::start_as(place, etcd, Plan { name, role, master_key, options, ..Plan::default() })
    }

    /// Starts the member of that plan, by `postrail up`.
    pub fn start_as(place: &Place, etcd: &Etcd, plan: Plan<'_>) -> Self {
        let Plan { name, role, binary: other, master_key, options, environment, station } = plan;
        let binary = other.map_or_else(binary, Path::to_owned);
        let [api, admin, smtp, smtps, rest] = match &station {
            None => std::array::from_fn(|_| free_address()),
            // Nobody else is there.
            Some(station) => [(station.address, 8081), (station.address, 8082)]
                .into_iter()
                .chain([2525, 2465, 8080].map(|port| (Ipv4Addr::LOCALHOST, port)))
                .map(SocketAddr::from)
                .collect::<Vec<_>>()
                .try_into()
                .expect("five addresses"),
        };
        let data = place.join(name);
        if let Some(key) = master_key {
            std::fs::create_dir_all(&data).expect("a folder can be made");
            std::fs::write(data.join("master.key"), key).expect("a file can be written");
        }
        let mut arguments = vec!["up".to_owned()];
        if !role.is_empty() {
            arguments.extend(["--role".to_owned(), role.to_owned()]);
        }
        let addresses = [("--api", api), ("--admin", admin), ("--smtp", smtp), ("--smtps", smtps), ("--rest", rest)];
        arguments.extend(addresses.into_iter().flat_map(|(option, at)| [option.to_owned(), at.to_string()]));
        let (url, folder) = (etcd.url(), data.display().to_string());
        for (option, value) in [("--etcd", url.as_str()), ("--data", &folder), ("--host-name", name)] {
            arguments.extend([option.to_owned(), value.to_owned()]);
        }
        arguments.extend(["--hostname", "mail.sender.test", "--domain", DOMAIN].map(str::to_owned));
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let log = place.join(&format!("{name}.log"));
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let running = launch(station.as_ref(), &binary, &environment, &arguments, &log);
        let client = || reqwest::blocking::Client::builder().timeout(Duration::from_secs(30)).build();
        // A client's connections are made by a thread of its own, which stays where it began.
        let http = match &station {
            None => client(),
            Some(station) => station.enter(client),
        };
        let http = http.expect("an HTTP client can be made");
        let name = name.to_owned();
        let https = OnceLock::new();
        Self { name, api, admin, smtp, rest, data, binary, arguments, station, environment, log, running, http, https }
    }

    /// The client for one of its listeners: of TLS, beyond loopback.
    fn client(&self, at: SocketAddr) -> Option<&reqwest::blocking::Client> {
        if at.ip().is_loopback() {
            return Some(&self.http);
        }
        if let Some(client) = self.https.get() {
            return Some(client);
        }
        let pem = std::fs::read(self.data.join("fleet-ca.pem")).ok()?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem).expect("certificates");
        let client = || {
            let client = reqwest::blocking::Client::builder().timeout(Duration::from_secs(30));
            client.tls_certs_only(authorities).build().expect("an HTTP client can be made")
        };
        let made = self.station().enter(client);
        Some(self.https.get_or_init(|| made))
    }

    /// Where it runs.
    pub fn station(&self) -> &Station {
        self.station.as_ref().expect("a member that was started at a station")
    }

    pub fn output(&self) -> String {
        self.running.output()
    }

    pub fn id(&self) -> u32 {
        self.running.id()
    }

    pub fn child(&mut self) -> &mut Running {
        &mut self.running
    }

    /// On the same data and ports.
    pub fn start_again(&mut self) {
        self.running = launch(self.station.as_ref(), &self.binary, &self.environment, &self.arguments, &self.log);
    }

    /// Ends, and starts again by the binary under test.
    pub fn replace(&mut self) {
        self.stop();
        self.binary = binary();
        self.start_again();
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) {
        self.running.signal(libc::SIGTERM);
        let ended = self.running.wait(Duration::from_secs(30));
        assert!(ended.is_some_and(|status| status.success()), "{} ends well: {ended:?}\n{}", self.name, self.output());
    }

    /// Waits until it answers at `path` of its control API or admin listener with success.
    pub fn wait_for(&mut self, at: SocketAddr, path: &str) -> String {
        wait::until_told(&format!("{} to answer at {path}", self.name), || {
            if let Some(status) = self.running.ended() {
                panic!("{} ended with {status}:\n{}", self.name, self.running.output());
            }
            // A connection that was taken while the listener was only being tried is not waited for.
            let client = self.client(at).ok_or("there is no fleet-ca.pem yet")?;
            let answer = client.get(url(at, path)).timeout(Duration::from_secs(2)).send();
            let answer = answer.map_err(|error| format!("{error:?}"))?;
            let (status, text) = (answer.status(), answer.text().unwrap_or_default());
            if status.is_success() { Ok(text) } else { Err(format!("{status} {text}")) }
        })
    }

    /// What one of its listeners answers at `path`, status and text; `None`: it does not.
    pub fn get(&self, at: SocketAddr, path: &str) -> Option<(u16, String)> {
        let answer = self.client(at)?.get(url(at, path)).send().ok()?;
        Some((answer.status().as_u16(), answer.text().unwrap_or_default()))
    }

    /// The revisions that its shards work under; `None`: it does not answer.
    pub fn revisions(&self) -> Option<Vec<u64>> {
        let text = self.metrics();
        let rows = text.lines().filter(|line| line.starts_with("postrail_snapshot_revision{"));
        let found: Vec<_> = rows.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!found.is_empty()).then_some(found)
    }

    pub fn metrics(&self) -> String {
        self.get(self.admin, "/metrics").unwrap_or_default().1
    }

    /// What submits by REST at this member, on a thread of its own.
    pub fn submitter(&self, username: &str, secret: &str) -> Submitter {
        let (username, secret) = (username.to_owned(), secret.to_owned());
        Submitter { http: self.http.clone(), rest: self.rest, username, secret }
    }

    /// Submits the smallest job to one recipient by REST: status and body.
    pub fn submit(&self, username: &str, secret: &str, to: &str) -> (u16, Value) {
        self.submitter(username, secret).submit(to).expect("REST submission answers")
    }

    /// A request to its control API as the operator: status and body.
    pub fn control(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let method = method.parse().expect("an HTTP method");
        let client = self.client(self.api).expect("the fleet's authority is written");
        let mut request = client.request(method, url(self.api, path)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().expect("the control API answers");
        let status = answer.status().as_u16();
        (status, answer.json().unwrap_or_default())
    }

    /// The revision that its control plane has published or taken over.
    pub fn published(&self) -> Option<u64> {
        let ready = self.client(self.api)?.get(url(self.api, "/readyz")).send().ok()?;
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

/// A listener speaks TLS beyond loopback.
fn url(at: SocketAddr, path: &str) -> String {
    let scheme = if at.ip().is_loopback() { "http" } else { "https" };
    format!("{scheme}://{at}{path}")
}

fn launch(
    station: Option<&Station>,
    binary: &Path,
    environment: &[(String, String)],
    arguments: &[String],
    log: &Path,
) -> Running {
    let mut command = station.map_or_else(|| Command::new(binary), |station| station.command(binary));
    Running::start(command.args(arguments).envs(environment.iter().cloned()), log)
}

/// A client of a member's REST submission.
#[derive(Clone)]
pub struct Submitter {
    http: reqwest::blocking::Client,
    rest: SocketAddr,
    username: String,
    secret: String,
}

impl Submitter {
    /// Submits the smallest job to one recipient: status and body; nothing if there was no answer.
    pub fn submit(&self, to: &str) -> Option<(u16, Value)> {
        self.submit_all(&[to])
    }

    /// As [`Self::submit`], of a mail to each of these.
    pub fn submit_all(&self, to: &[impl AsRef<str>]) -> Option<(u16, Value)> {
        let to = to.iter().map(|to| json!({"mail": {"to": [{"email": to.as_ref()}]}}));
        let job = json!({
            "subject": {"content": "A job"},
            "body": {"contentType": "text/plain", "content": "Hello.\n"},
            "recipients": to.collect::<Vec<_>>(),
            "mail": {"from": {"email": format!("hello@{DOMAIN}")}},
        });
        let request = self.http.post(format!("http://{}/v2/jobs", self.rest));
        let answer = request.basic_auth(&self.username, Some(&self.secret)).json(&job).send().ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().unwrap_or_default()))
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
        let plan = |_: &str| Plan { options, ..Plan::default() };
        Self::start_as(place, Etcd::start(place), hosts, plan)
    }

    /// As [`Self::start`], with the members as `plan` says by their names; name, role and master key it need not say.
    pub fn start_as<'a>(place: &Place, etcd: Etcd, hosts: usize, plan: impl Fn(&str) -> Plan<'a>) -> Self {
        let name = "control";
        let mut control = Member::start_as(place, &etcd, Plan { name, role: "control-plane", ..plan(name) });
        control.wait_for(control.api, "/readyz");
        let (username, secret) = (control.printed("username "), control.printed("secret "));
        let token = std::fs::read_to_string(control.data.join("operator.token")).expect("the operator's token");
        let key = std::fs::read(control.data.join("master.key")).expect("the master key");
        let start = |n| {
            let name = &format!("host-{n}");
            let wanted = plan(name);
            Member::start_as(place, &etcd, Plan { name, role: "data-plane", master_key: Some(&key), ..wanted })
        };
        let hosts = (1..=hosts).map(start).collect();
        let mut fleet = Self { hosts, control, etcd, username, secret, token: token.trim().to_owned() };
        for host in &mut fleet.hosts {
            host.wait_for(host.admin, "/readyz");
        }
        fleet.settle();
        fleet
    }

    /// One more data plane, as `plan` says; it need not say role and master key.
    pub fn join(&mut self, place: &Place, plan: Plan<'_>) {
        let key = std::fs::read(self.control.data.join("master.key")).expect("the master key");
        let plan = Plan { role: "data-plane", master_key: Some(&key), ..plan };
        let mut host = Member::start_as(place, &self.etcd, plan);
        host.wait_for(host.admin, "/readyz");
        self.hosts.push(host);
        self.settle();
    }

    /// A request to the control API as the operator, which must succeed.
    pub fn change(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) =
            self.control.control(&self.token, method, path, Some(body).filter(|body| !body.is_null()));
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
