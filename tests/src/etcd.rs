//! A real etcd: one member on this side, or three, each at a station of its own.
//!
//! All are restored from a snapshot, as an operator does it: with the names and the token that they had. A member is killed, or cut off: its station's cable is pulled, so that neither the others nor its clients hear of it
//! again, and no connection is reset.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::child::{Running, run, try_run};
use crate::lan::{Lan, Station};
use crate::place::{Place, free_address};
use crate::wait;

/// A cluster.
pub struct Etcd {
    members: Vec<Member>,
    /// How its own client proves who it is.
    proof: Vec<String>,
    _lan: Option<Lan>,
}

struct Member {
    client: String,
    /// Where it runs; nothing: on this side.
    station: Option<Station>,
    arguments: Vec<String>,
    log: PathBuf,
    running: Option<Running>,
}

impl Etcd {
    /// One member on loopback.
    pub fn start(place: &Place) -> Self {
        Self::start_at(place, free_address())
    }

    /// As [`Self::start`], with its clients at this address.
    pub fn start_at(place: &Place, client: SocketAddr) -> Self {
        Self::run(vec![Member::new(place, "default", "http", client, free_address(), None)], &[], &[])
    }

    /// One member on loopback with these further options; `proof`: what etcd's own client is told to be let in.
    pub fn start_with(place: &Place, scheme: &str, options: &[&str], proof: &[&str]) -> Self {
        let members = vec![Member::new(place, "default", scheme, free_address(), free_address(), None)];
        Self::run(members, options, proof)
    }

    /// Three members at stations of a network of their own.
    pub fn start_three(place: &Place) -> Self {
        let lan = Lan::new();
        let mut etcd = Self::start_three_at(place, &lan);
        etcd._lan = Some(lan);
        etcd
    }

    /// Three members at stations `.21` to `.23`.
    pub fn start_three_at(place: &Place, lan: &Lan) -> Self {
        let member = |n: u8| {
            let station = lan.station(n + 21);
            let at = |port| SocketAddr::from((station.address, port));
            let (client, peer) = (at(2379), at(2380));
            Member::new(place, &format!("member-{n}"), "http", client, peer, Some(station))
        };
        let members = (0..3).map(member).collect();
        Self::run(members, &[], &[])
    }

    fn run(mut members: Vec<Member>, options: &[&str], proof: &[&str]) -> Self {
        let cluster: Vec<_> = members.iter().map(Member::in_cluster).collect();
        for member in &mut members {
            member.arguments.extend(["--initial-cluster".to_owned(), cluster.join(",")]);
            member.arguments.extend(options.iter().map(|option| (*option).to_owned()));
            member.start();
        }
        let proof = proof.iter().map(|option| (*option).to_owned()).collect();
        let etcd = Self { members, proof, _lan: None };
        etcd.wait_for_leader();
        etcd
    }

    /// Etcd's own client proves who it is by this as well.
    pub fn prove(&mut self, proof: &[&str]) {
        self.proof.extend(proof.iter().map(|option| (*option).to_owned()));
    }

    /// All members, as `--etcd` takes them.
    pub fn url(&self) -> String {
        let all: Vec<_> = self.members.iter().map(|member| member.client.as_str()).collect();
        all.join(",")
    }

    /// SIGKILL of every member.
    pub fn kill(&mut self) {
        (0..self.members.len()).for_each(|n| self.kill_member(n));
    }

    /// Every member that was killed, on its data and address.
    pub fn start_again(&mut self) {
        self.members.iter_mut().filter(|member| member.running.is_none()).for_each(Member::start);
        self.wait_for_leader();
    }

    /// Saves a snapshot of the store.
    pub fn save(&self, snapshot: &Path) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(&self.proof).args(["--endpoints", &self.members[0].client]);
        run(command.args(["snapshot", "save"]).arg(snapshot));
    }

    /// Kills all members, and starts them with what the snapshot has.
    pub fn restore(&mut self, snapshot: &Path) {
        self.kill();
        for member in &self.members {
            std::fs::remove_dir_all(member.option("--data-dir")).expect("the member had data");
            let mut command = Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(snapshot);
            for option in ["--name", "--data-dir", "--initial-advertise-peer-urls", "--initial-cluster"] {
                command.args([option, member.option(option)]);
            }
            run(&mut command);
        }
        self.start_again();
    }

    /// Writes something that is nobody's, so many times: the revision grows as it does within hours.
    pub fn grow(&self, revisions: usize) {
        let client = reqwest::blocking::Client::new();
        for _ in 0..revisions {
            let put =
                client.post(format!("{}/v3/kv/put", self.members[0].client)).body(r#"{"key":"eA==","value":"eA=="}"#);
            let answer = put.send().and_then(reqwest::blocking::Response::error_for_status);
            answer.expect("etcd takes it");
        }
    }

    /// Writes something that is nobody's until it takes no more, which an option has to make soon.
    pub fn fill(&self) {
        let value = "x".repeat(100_000);
        wait::until("etcd to be full", || self.try_control(0, &["put", "filler", &value]).is_none().then_some(()));
        assert!(self.control(&["alarm", "list"]).contains("NOSPACE"), "it is full");
    }

    /// Makes room, as an operator does it, and has it take writes again.
    pub fn make_room(&self) {
        self.compact();
        self.control(&["--command-timeout", "30s", "defrag"]);
        self.control(&["alarm", "disarm"]);
    }

    pub fn kill_member(&mut self, n: usize) {
        if let Some(mut running) = self.members[n].running.take() {
            running.kill();
        }
    }

    /// Cuts a member off from the others and from this host, or joins it again.
    pub fn set_cut_off(&self, n: usize, is_cut_off: bool) {
        self.members[n].station.as_ref().expect("a member of three").set_plugged(!is_cut_off);
    }

    /// The member that leads, as most of them have it; waits until one does.
    pub fn leader(&self) -> usize {
        wait::until("etcd to have a leader", || {
            (0..self.members.len()).find(|n| {
                let Some(status) = self.status(*n) else { return false };
                let leads = status["leader"] != 0 && status["leader"] == status["header"]["member_id"];
                // A leader that is cut off believes in itself for a while.
                leads && self.try_control(*n, &["get", "no such key"]).is_some()
            })
        })
    }

    fn wait_for_leader(&self) {
        self.leader();
    }

    /// What a member says of itself; `None`: it does not answer.
    fn status(&self, n: usize) -> Option<Value> {
        let text = self.try_control(n, &["endpoint", "status", "-w", "json"])?;
        let all: Value = serde_json::from_str(text.lines().last()?).ok()?;
        Some(all[0]["Status"].clone())
    }

    fn try_control(&self, n: usize, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--dial-timeout", "1s", "--command-timeout", "1s"]).args(&self.proof);
        let (status, text) = try_run(command.args(["--endpoints", &self.members[n].client]).args(arguments));
        status.success().then_some(text)
    }

    /// etcd's own client; its output.
    pub fn control(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(&self.proof);
        run(command.args(["--endpoints", &self.url()]).args(arguments))
    }

    /// The store's revision as one member has it.
    pub fn revision(&self, n: usize) -> Option<u64> {
        self.status(n)?["header"]["revision"].as_u64()
    }

    /// Forgets everything before the present revision.
    pub fn compact(&self) {
        let revision = (0..self.members.len()).find_map(|n| self.revision(n)).expect("a member answers");
        self.control(&["compact", &revision.to_string()]);
    }
}

impl Member {
    fn new(
        place: &Place,
        name: &str,
        scheme: &str,
        client: SocketAddr,
        peer: SocketAddr,
        station: Option<Station>,
    ) -> Self {
        let (client, peer) = (format!("{scheme}://{client}"), format!("http://{peer}"));
        let data = place.join(&format!("etcd-{name}")).display().to_string();
        let arguments = [
            ("--name", name),
            ("--data-dir", data.as_str()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
        ];
        let owned = |(option, value): (&str, &str)| [option.to_owned(), value.to_owned()];
        let arguments = arguments.into_iter().flat_map(owned).collect();
        Self { log: place.join(&format!("etcd-{name}.log")), client, station, arguments, running: None }
    }

    /// What it is started with.
    fn option(&self, option: &str) -> &str {
        let at = self.arguments.iter().position(|argument| argument == option).expect("the option is there");
        &self.arguments[at + 1]
    }

    /// As `--initial-cluster` has it.
    fn in_cluster(&self) -> String {
        format!("{}={}", self.option("--name"), self.option("--initial-advertise-peer-urls"))
    }

    fn start(&mut self) {
        let on_this_side = || Command::new("etcd");
        let mut command = self.station.as_ref().map_or_else(on_this_side, |station| station.command("etcd"));
        self.running = Some(Running::start(command.args(&self.arguments), &self.log));
    }
}
