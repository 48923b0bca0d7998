//! The binary under test: `postrail up` on free ports, its first credential, its two HTTP APIs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::{Value, json};

use crate::child::{Running, try_run};
use crate::clock::Clock;
use crate::place::{Place, free_address, target};
use crate::wait;

/// The sending domain of the first start.
pub const DOMAIN: &str = "sender.test";

/// A running `postrail up`.
pub struct Postrail {
    pub smtp: SocketAddr,
    pub smtps: SocketAddr,
    pub rest: SocketAddr,
    pub api: SocketAddr,
    pub admin: SocketAddr,
    pub username: String,
    pub secret: String,
    data: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Running,
    http: reqwest::blocking::Client,
}

/// The release binary.
pub fn binary() -> PathBuf {
    std::env::var_os("POSTRAIL_BIN").map_or_else(|| target().join("release/postrail"), PathBuf::from)
}

fn launch(arguments: &[String], environment: &[(String, String)], log: &Path) -> Running {
    Running::start(Command::new(binary()).args(arguments).envs(environment.iter().cloned()), log)
}

impl Postrail {
    /// Starts on free ports with one sending domain ([`DOMAIN`]) and the name server `resolver`; every recipient domain
    /// may be at loopback, at port `port`.
    pub fn start(place: &Place, resolver: SocketAddr, port: u16) -> Self {
        let started = Self::start_with(place, &["--resolver", &resolver.to_string(), "--shards", "2"]);
        started.route("*", port);
        started
    }

    /// Starts with these further options of `up`.
    pub fn start_with(place: &Place, options: &[&str]) -> Self {
        Self::start_at(place, &place.join("data"), options)
    }

    /// As [`Self::start_with`], with its state in `data`.
    pub fn start_at(place: &Place, data: &Path, options: &[&str]) -> Self {
        Self::start_in(place, data, options, &[])
    }

    /// As [`Self::start_with`], by the wall clock `clock`.
    pub fn start_by(clock: &Clock, place: &Place, options: &[&str]) -> Self {
        Self::start_in(place, &place.join("data"), options, &clock.environment())
    }

    fn start_in(place: &Place, data: &Path, options: &[&str], environment: &[(&str, &str)]) -> Self {
        let [smtp, smtps, rest, api, admin] = std::array::from_fn(|_| free_address());
        let data = data.to_owned();
        let log = place.join("postrail.log");
        let mut arguments: Vec<String> = vec!["up".to_owned(), "--data".to_owned(), data.display().to_string()];
        for (option, address) in
            [("--smtp", smtp), ("--smtps", smtps), ("--rest", rest), ("--api", api), ("--admin", admin)]
        {
            arguments.extend([option.to_owned(), address.to_string()]);
        }
        arguments.extend(["--hostname", "mail.sender.test", "--domain", DOMAIN].map(str::to_owned));
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let process = launch(&arguments, &environment, &log);
        let http = reqwest::blocking::Client::builder().timeout(Duration::from_secs(30)).build();
        let http = http.expect("an HTTP client can be made");
        let mut postrail = Self {
            smtp,
            smtps,
            rest,
            api,
            admin,
            username: String::new(),
            secret: String::new(),
            data,
            log,
            arguments,
            environment,
            process,
            http,
        };
        postrail.wait_ready();
        // It prints once it has seen itself ready.
        let printed = wait::until("the first start to print all", || {
            Some(postrail.output()).filter(|printed| printed.lines().any(|line| line.trim().starts_with("curl ")))
        });
        let word = |name: &str| {
            let line =
                printed.lines().find_map(|line| line.trim().strip_prefix(name).map(str::trim).map(str::to_owned));
            line.unwrap_or_else(|| panic!("the first start prints {name}:\n{printed}"))
        };
        postrail.username = word("username ");
        postrail.secret = word("secret ");
        postrail
    }

    /// Waits until both planes answer that they are ready.
    pub fn wait_ready(&mut self) {
        wait::until("postrail to be ready", || {
            if let Some(status) = self.process.ended() {
                panic!("postrail ended with {status}:\n{}", self.output());
            }
            let ready = self.http.get(format!("http://{}/readyz", self.admin)).send().ok()?;
            let control = self.http.get(format!("http://{}/healthz", self.api)).send().ok()?;
            (ready.status().is_success() && control.status().is_success()).then_some(())
        });
    }

    /// What it has printed and logged so far.
    pub fn output(&self) -> String {
        self.process.output()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn child(&mut self) -> &mut Running {
        &mut self.process
    }

    /// Starts again on the same data and ports after it has ended.
    pub fn start_again(&mut self) {
        self.spawn_again();
        self.wait_ready();
    }

    /// As [`Self::start_again`], with these further options from now on.
    pub fn start_again_with(&mut self, options: &[&str]) {
        self.arguments.extend(options.iter().map(|option| (*option).to_owned()));
        self.start_again();
    }

    /// As [`Self::start_again`], without waiting for it.
    pub fn spawn_again(&mut self) {
        self.process = launch(&self.arguments, &self.environment, &self.log);
    }

    /// What `up` was started with.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// SIGKILL, then a start on the same data.
    pub fn kill_and_restart(&mut self) {
        self.process.kill();
        self.start_again();
    }

    /// SIGTERM, and waits for the drained end.
    pub fn drain(&mut self) -> ExitStatus {
        self.process.signal(libc::SIGTERM);
        let ended = self.process.wait(Duration::from_secs(60));
        ended.unwrap_or_else(|| panic!("it drains within a minute:\n{}", self.output()))
    }

    fn token(&self) -> String {
        let token = std::fs::read_to_string(self.data.join("operator.token"));
        token.expect("the first start writes the operator's token").trim().to_owned()
    }

    /// A request to the control API as the operator: status and body.
    pub fn control(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let method = method.parse().expect("an HTTP method");
        let mut request = self.http.request(method, format!("http://{}{path}", self.api)).bearer_auth(self.token());
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().expect("the control API answers");
        let status = response.status().as_u16();
        let text = response.text().unwrap_or_default();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// As [`Self::control`]; panics unless it succeeds.
    pub fn control_ok(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.control(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Mail for `domain` goes to its own MX at `port`, which may be at loopback.
    pub fn route(&self, domain: &str, port: u16) {
        let route = json!({"domain": domain, "port": port, "allow_private": true});
        self.control_ok("POST", "/v2/routes", Some(&route));
        self.settled_configuration();
    }

    /// Waits until every shard works under the newest revision.
    pub fn settled_configuration(&self) {
        wait::until("the newest revision to be in effect", || {
            let newest = self.published()?;
            let metrics = self.metrics();
            let mut shards = metrics.lines().filter(|line| line.starts_with("postrail_snapshot_revision{"));
            let is_newest =
                |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()) == Some(newest);
            shards.all(is_newest).then_some(())
        });
    }

    /// The newest revision that the control plane has published.
    fn published(&self) -> Option<u64> {
        let ready = self.http.get(format!("http://{}/readyz", self.api)).send().ok()?;
        ready.json::<Value>().ok()?["revision"].as_u64()
    }

    /// A request to the admin listener: status and body.
    pub fn admin_get(&self, path: &str) -> (u16, String) {
        let response =
            self.http.get(format!("http://{}{path}", self.admin)).send().expect("the admin listener answers");
        let status = response.status().as_u16();
        (status, response.text().unwrap_or_default())
    }

    pub fn metrics(&self) -> String {
        let got = self.http.get(format!("http://{}/metrics", self.admin)).send();
        got.and_then(reqwest::blocking::Response::text).unwrap_or_default()
    }

    /// The sum of a metric over all shards.
    pub fn metric(&self, name: &str) -> u64 {
        let metrics = self.metrics();
        let rows = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        rows.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// A metric of the host, which no shard has for itself.
    pub fn host_metric(&self, name: &str) -> u64 {
        let metrics = self.metrics();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("there is {name}:\n{metrics}"))
    }

    /// Submits a job by REST with Basic credentials: status, headers and body.
    pub fn submit(&self, job: &Value) -> (u16, Value) {
        self.submit_with(job, &[])
    }

    /// As [`Self::submit`], with further header fields.
    pub fn submit_with(&self, job: &Value, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = self.http.post(format!("http://{}/v2/jobs", self.rest));
        request = request.basic_auth(&self.username, Some(&self.secret)).json(job);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().expect("REST submission answers");
        let status = response.status().as_u16();
        let text = response.text().unwrap_or_default();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The recipients of a job as the ledger has them.
    pub fn recipients(&self, job: &str) -> Vec<Value> {
        let (status, answer) = self.control("GET", &format!("/v2/jobs/{job}/recipients"), None);
        if status == 404 {
            return Vec::new();
        }
        let list = answer.get("recipients").or_else(|| answer.get("items")).and_then(Value::as_array).cloned();
        list.unwrap_or_else(|| panic!("a list of recipients: {status} {answer}"))
    }

    /// Waits until all `count` recipients of a job have settled, and gives them over all pages.
    pub fn all_recipients(&self, job: &str, count: usize) -> Vec<Value> {
        wait::until(&format!("{count} recipients of {job} to settle"), || {
            let mut all = Vec::new();
            let mut page = format!("/v2/jobs/{job}/recipients?limit=400");
            loop {
                let (status, answer) = self.control("GET", &page, None);
                if status != 200 {
                    return None;
                }
                all.extend(answer["items"].as_array().cloned().unwrap_or_default());
                let Some(cursor) = answer["next_cursor"].as_str() else { break };
                page = format!("/v2/jobs/{job}/recipients?limit=400&cursor={cursor}");
            }
            (all.len() == count && all.iter().all(|recipient| recipient["settled"] == true)).then_some(all)
        })
    }

    /// Waits until every recipient of a job is in `state`.
    pub fn wait_for_state(&self, job: &str, state: &str) -> Vec<Value> {
        wait::until(&format!("every recipient of {job} to be {state}: {:?}", ()), || {
            let recipients = self.recipients(job);
            let all = !recipients.is_empty() && recipients.iter().all(|recipient| recipient["state"] == state);
            all.then_some(recipients)
        })
    }

    /// Sends a mail by swaks over STARTTLS with the first credential; gives its transcript and whether it succeeded.
    pub fn swaks(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("swaks");
        command.args(["--server", "127.0.0.1", "--port", &self.smtp.port().to_string(), "--tls"]);
        command.args(["--auth", "PLAIN", "--auth-user", &self.username, "--auth-password", &self.secret]);
        let (status, text) = try_run(command.args(arguments));
        (status.success(), text)
    }

    /// The message id in a transcript's `queued as`.
    pub fn queued_as(transcript: &str) -> String {
        let after = transcript.split("queued as ").nth(1);
        let id = after.and_then(|rest| rest.split_whitespace().next());
        id.unwrap_or_else(|| panic!("the transcript names the id:\n{transcript}")).to_owned()
    }

    /// The CLI against this server.
    pub fn cli(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--data").arg(&self.data).args(["--api", &format!("http://{}", self.api)]);
        let (status, text) = try_run(&mut command);
        (status.success(), text)
    }
}
