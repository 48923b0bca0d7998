//! The chapter "From one host to three", as it stands: its commands are run on three hosts of a network, and what it says
//! that they print is what they print.
//!
//! What is put in place of what the chapter has is in [`Tutorial::local`], and nowhere else.

mod etcd_lost;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use postrail_tests::child::{Running, run, try_run};
use postrail_tests::etcd::Etcd;
use postrail_tests::lan::{Lan, Station};
use postrail_tests::place::{Place, root};
use postrail_tests::postgres::Postgres;
use postrail_tests::postrail::binary;
use postrail_tests::receiver::{Act, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

use self::etcd_lost::etcd_is_lost;
use crate::ledger_postgresql::{check_sequences, password_file};

/// The chapter's hosts.
const HOSTS: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

/// Where it has etcd and PostgreSQL.
const STORES: &str = "10.0.0.5";

/// A block of the chapter.
enum Block {
    /// Commands, and the host that they are for.
    Commands(String, Vec<String>),
    /// What the commands before print.
    Printed(Vec<String>),
}

/// The blocks of commands that name a host, each with what it is said to print.
fn blocks(chapter: &str) -> Vec<Block> {
    let (mut found, mut lines) = (Vec::new(), chapter.lines());
    while let Some(line) = lines.next() {
        let kind = match line {
            "```sh" => "sh",
            "```text" => "text",
            _ => continue,
        };
        let body: Vec<_> = lines.by_ref().take_while(|line| *line != "```").map(str::to_owned).collect();
        let host = body.first().and_then(|first| first.strip_prefix("# on ")).map(str::to_owned);
        match (kind, host) {
            ("sh", Some(host)) => found.push(Block::Commands(host, joined(&body[1..]))),
            ("text", _) if matches!(found.last(), Some(Block::Commands(..))) => found.push(Block::Printed(body)),
            _ => {}
        }
    }
    found
}

/// Lines that end with a backslash, with what follows them.
fn joined(lines: &[String]) -> Vec<String> {
    let text = lines.join("\n").replace("\\\n", " ");
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

struct Tutorial {
    running: BTreeMap<String, Running>,
    stations: BTreeMap<String, Station>,
    place: Place,
    lan: Lan,
    resolver: SocketAddr,
    password_file: String,
    /// The etcd that runbooks stop and start.
    etcd: Option<Etcd>,
    /// What the last block printed, or is printing.
    said: String,
    starts: u32,
}

impl Tutorial {
    fn new(place: Place, lan: Lan, resolver: SocketAddr) -> Self {
        let stations = (11..).zip(HOSTS).map(|(last, host)| (host.to_owned(), lan.station(last))).collect();
        let password_file = password_file(&place);
        let (running, said) = (BTreeMap::new(), String::new());
        Self { running, stations, place, lan, resolver, password_file, etcd: None, said, starts: 0 }
    }

    /// The data folder of a host.
    fn folder(&self, host: &str) -> PathBuf {
        let last = host.rsplit('.').next().unwrap_or_default();
        self.place.join(&format!("host-{last}"))
    }

    /// A line of the chapter, for this machine: its addresses and folders, and the binary that is tested.
    fn local(&self, host: &str, line: &str) -> String {
        let folder = |host: &str| self.folder(host).display().to_string();
        let mut line = line.to_owned();
        for other in HOSTS {
            line = line.replace(&format!("{other}:/var/lib/postrail"), &folder(other));
            line = line.replace(
                &format!("ssh {other} install -d -m 700 /var/lib/postrail"),
                &format!("mkdir -m 700 {}", folder(other)),
            );
        }
        line = line.replace("/var/backups", &self.place.join("backups").display().to_string());
        line = line.replace("/var/lib/etcd", &self.place.join("etcd-default").display().to_string());
        line = line.replace("scp -p", "cp -p").replace("/var/lib/postrail", &folder(host));
        line = line.replace("10.0.0.5", &self.lan.at(1).to_string());
        // The database of the story's server has another name.
        line = line.replace("/postrail?sslmode", "/ledger?sslmode");
        line = line.replace("/etc/postrail/ledger.password", &self.password_file);
        // Not for an hour.
        line = line.replace(" --wait ", " --wait 40 ");
        for (name, station) in &self.stations {
            line = line.replace(name, &station.address.to_string());
        }
        let up = format!("{} up --shards 1 --resolver {}", binary().display(), self.resolver);
        line = line.replace("postrail up", &up);
        if line.starts_with("postrail ") {
            line = line.replacen("postrail", &binary().display().to_string(), 1);
        }
        line
    }

    /// Runs one line of the chapter.
    fn run(&mut self, host: &str, line: &str) {
        if host == STORES {
            return self.run_at_stores(line);
        }
        if line == "systemctl stop postrail" {
            let mut running = self.running.remove(host).expect("it runs there");
            running.signal(libc::SIGTERM);
            assert!(
                running.wait(Duration::from_secs(30)).is_some_and(|status| status.success()),
                "{}",
                running.output()
            );
            return;
        }
        let local = self.local(host, line);
        let mut command = self.stations[host].command("sh");
        command.env("POSTRAIL_DATA", self.folder(host)).arg("-ec");
        if line.starts_with("postrail up") {
            self.starts += 1;
            let log = self.place.join(&format!("{host}-{}.log", self.starts));
            let mut running = Running::start(command.arg(format!("exec {local}")), &log);
            self.said = wait::until(&format!("{line} to run on {host}"), || {
                assert!(running.ended().is_none(), "{line} ended:\n{}", running.output());
                Some(running.output()).filter(|printed| printed.contains("metrics, health"))
            });
            self.running.insert(host.to_owned(), running);
            return;
        }
        if line.starts_with("postrail queue retry") {
            // A start reads its spool beside all else; what it has not read yet cannot be tried.
            wait::until("the spool to be read", || {
                self.run(host, &line.replace("queue retry --all", "queue"));
                self.said.contains(" recipients wait").then_some(())
            });
        }
        // A host that has just started may not be told of everywhere yet.
        self.said = wait::until(&format!("`{line}` to succeed on {host}"), || {
            let mut command = self.stations[host].command("sh");
            let (status, text) = try_run(command.env("POSTRAIL_DATA", self.folder(host)).args(["-ec", &local]));
            println!("{host}$ {line}\n{text}");
            status.success().then_some(text)
        });
    }

    /// Runs one line where etcd is.
    fn run_at_stores(&mut self, line: &str) {
        let etcd = self.etcd.as_mut().expect("the chapter's etcd");
        match line {
            "systemctl stop etcd" => return etcd.kill(),
            "systemctl start etcd" => return etcd.start_again(),
            _ => {}
        }
        let mut command = Command::new("sh");
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", etcd.url()).args(["-ec", &self.local(STORES, line)]);
        self.said = run(&mut command);
    }

    /// Runs the blocks of a runbook.
    fn follow(&mut self, runbook: &str) {
        sections(runbook).iter().for_each(|section| self.act(section));
    }

    /// Runs the blocks of a part of a runbook.
    fn act(&mut self, text: &str) {
        let (mut at, mut last) = (String::new(), String::new());
        for block in blocks(text) {
            match block {
                Block::Commands(host, lines) => {
                    lines.iter().for_each(|line| self.run(&host, line));
                    last = lines.last().cloned().unwrap_or_default();
                    at = host;
                }
                // What is looked at may take a while to become so.
                Block::Printed(lines) if last.contains(" list") => {
                    wait::until(&format!("`{last}` to print {lines:?}"), || {
                        self.run(&at, &last);
                        lines.iter().all(|line| self.prints(line, &at)).then_some(())
                    });
                }
                Block::Printed(lines) => self.check(&lines, &at),
            }
        }
        assert!(!at.is_empty(), "it has commands:\n{text}");
    }

    /// That the last block printed these lines, in which `…` stands for anything.
    fn check(&self, lines: &[String], host: &str) {
        for line in lines.iter().filter(|line| !line.trim().is_empty()) {
            assert!(self.prints(line, host), "the chapter has\n{line}\nand was printed\n{}", self.said);
        }
    }

    /// Whether a line of what was printed is this one of the chapter.
    fn prints(&self, line: &str, host: &str) -> bool {
        let wanted = self.local(host, line);
        let parts: Vec<_> = wanted.split('…').map(str::trim).collect();
        let is_there = |printed: &str| {
            let mut rest = printed;
            parts.iter().all(|part| match rest.find(part) {
                Some(at) => {
                    rest = &rest[at + part.len()..];
                    true
                }
                None => false,
            })
        };
        self.said.lines().any(is_there)
    }

    /// Ends a host as a loss of power does.
    fn lose(&mut self, host: &str) {
        self.running.remove(host).expect("it runs there").kill();
    }
}

/// What a runbook says before its first heading, and under each.
fn sections(runbook: &str) -> Vec<String> {
    let path = root().join(format!("docs/operating/runbooks/{runbook}.md"));
    let text = std::fs::read_to_string(path).expect("the runbook");
    text.split("\n## ").map(str::to_owned).filter(|section| section.contains("```sh\n# on ")).collect()
}

/// What the first start printed behind `word`.
fn word(said: &str, word: &str) -> String {
    let found = said.lines().find_map(|line| line.trim().strip_prefix(word));
    found.unwrap_or_else(|| panic!("{word} in:\n{said}")).trim().to_owned()
}

/// Submits a mail at a host's own REST listener: the status.
fn submit(station: &Station, secret: &str, to: &str) -> u16 {
    submit_as(station, "default", secret, "hello@example.org", to)
}

fn submit_as(station: &Station, user: &str, secret: &str, from: &str, to: &str) -> u16 {
    let job = json!({
        "subject": {"content": "On the way"},
        "body": {"contentType": "text/plain", "content": "Hello.\n"},
        "recipients": [{"mail": {"to": [{"email": to}]}}],
        "mail": {"from": {"email": from}},
    });
    station.enter(|| {
        let request = reqwest::blocking::Client::new().post("http://127.0.0.1:8080/v2/jobs");
        let answer = request.basic_auth(user, Some(secret)).json(&job).send().expect("REST answers");
        answer.status().as_u16()
    })
}

#[test]
fn the_chapter_takes_a_host_with_mail_in_its_spool_to_three() {
    let chapter = std::fs::read_to_string(root().join("docs/operating/fleet.md")).expect("the chapter");
    let (place, lan) = (Place::new("tutorial"), Lan::new());
    let receiver_at = lan.station(50);
    let zone = format!("@ MX 10 mx\nmx A {}", receiver_at.address);
    let names = NameServer::start_at(&place, SocketAddr::from((lan.at(2), 5353)), &[("receiver.test.", &zone)]);
    let receiver = receiver_at.enter(|| Receiver::start(SocketAddr::from((receiver_at.address, 25))));
    let etcd = Etcd::start_at(&place, SocketAddr::from((lan.at(1), 2379)));
    let postgres = Postgres::start_at(&place, SocketAddr::from((lan.at(1), 5432)));
    let mut tutorial = Tutorial::new(place, lan, names.address());
    let (mut secret, mut at) = (String::new(), String::new());
    for block in blocks(&chapter) {
        match block {
            Block::Commands(host, lines) => {
                for line in &lines {
                    tutorial.run(&host, line);
                    if secret.is_empty() {
                        // The one host of the beginning: mail of it waits, and a tenant has been given a limit.
                        // It is ready a little before it has said so.
                        let said = wait::until("the first credential to be told", || {
                            Some(tutorial.running[&host].output()).filter(|said| said.contains("secret "))
                        });
                        secret = word(&said, "secret ");
                        tutorial.run(&host, "postrail tenant set default --weight 7");
                        tutorial.run(&host, "postrail route add receiver.test --allow-private");
                        receiver.script(Stage::Rcpt, Act::Say("451 4.3.0 Later\r\n".to_owned()), 1);
                        assert_eq!(submit(&tutorial.stations[&host], &secret, "waits@receiver.test"), 202);
                        wait::until("the mail to be put off", || {
                            tutorial.run(&host, "postrail queue");
                            tutorial.said.contains("1 recipients wait").then_some(())
                        });
                        tutorial.said = said;
                    }
                }
                at = host;
            }
            Block::Printed(lines) => tutorial.check(&lines, &at),
        }
    }
    assert_eq!(tutorial.running.len(), 3, "three hosts run");
    let mail = receiver.wait_for(1);
    assert!(mail.iter().any(|mail| mail.rcpt.concat().contains("waits@receiver.test")), "what waited was delivered");
    for (host, station) in &tutorial.stations {
        assert_eq!(submit(station, &secret, &format!("at-{host}@receiver.test")), 202, "{host}");
    }
    let peers: BTreeSet<_> = receiver.wait_for(4).into_iter().filter_map(|mail| Some(mail.peer?.ip())).collect();
    let hosts: BTreeSet<_> = tutorial.stations.values().map(|station| IpAddr::from(station.address)).collect();
    assert_eq!(peers, hosts, "each host has sent");
    tutorial.run(HOSTS[0], "postrail tenant show default --api https://10.0.0.1:8081");
    assert!(tutorial.said.contains("weight") && tutorial.said.contains('7'), "{}", tutorial.said);
    wait::until("the one ledger to have all of them", || {
        tutorial.run(HOSTS[0], "postrail events --limit 1000 --api https://10.0.0.1:8081");
        (tutorial.said.matches("delivered  default").count() == 4).then_some(())
    });
    // What the host had before it moved is there once: its journal went on where the ledger was.
    assert_eq!(tutorial.said.matches("accepted  ").count(), 4, "{}", tutorial.said);
    assert_eq!(check_sequences(&postgres), 9, "four were accepted, one put off, four delivered");
    // The runbooks go on with this fleet.
    tutorial.follow("key-leaked");
    host_is_lost(&mut tutorial, &secret, &receiver);
    tutorial.follow("address-blocked");
    etcd_is_lost(&mut tutorial, etcd, &secret, &receiver, &postgres);
    assert_eq!(submit(&tutorial.stations[HOSTS[1]], &secret, "after@receiver.test"), 202);
    host_leaves(&mut tutorial, &secret, &receiver);
}

/// As `host-leaves.md` says: what waits at the host goes out from another one, and all of it is in the ledger.
fn host_leaves(tutorial: &mut Tutorial, secret: &str, receiver: &Receiver) {
    let host = HOSTS[1];
    wait::until("what was accepted there before to be sent", || {
        receiver.arrived().iter().any(|mail| mail.rcpt.concat().contains("after@")).then_some(())
    });
    receiver.script(Stage::Rcpt, Act::Say("451 4.3.0 Later\r\n".to_owned()), 1);
    assert_eq!(submit(&tutorial.stations[host], secret, "leaves@receiver.test"), 202);
    wait::until("the mail to wait there", || {
        tutorial.run(HOSTS[0], "postrail queue --api https://10.0.0.1:8081");
        tutorial.said.contains("retry=1").then_some(())
    });
    tutorial.follow("host-leaves");
    assert!(!tutorial.running.contains_key(host) && !tutorial.folder(host).exists());
    wait::until("nothing to be left of the host", || {
        tutorial.run(HOSTS[0], "postrail host list --api https://10.0.0.1:8081");
        (!tutorial.said.contains("mta-2")).then_some(())
    });
    tutorial.run(HOSTS[0], "postrail queue retry --all --api https://10.0.0.1:8081");
    let mail = wait::until("what waited there to be delivered", || {
        receiver.arrived().into_iter().find(|mail| mail.rcpt.concat().contains("leaves@"))
    });
    assert_ne!(mail.peer.map(|peer| peer.ip()), Some(IpAddr::from(tutorial.stations[host].address)));
    wait::until("the ledger to have the whole of it", || {
        tutorial.run(HOSTS[0], "postrail events --limit 1000 --json --api https://10.0.0.1:8081");
        let page: Value = serde_json::from_str(&tutorial.said).ok()?;
        let events = page["items"].as_array()?;
        let job = &events.iter().find(|event| event["address"] == "leaves@receiver.test")?["job"];
        let of_it = events.iter().filter(|event| event["job"] == *job);
        let kinds: BTreeSet<_> = of_it.filter_map(|event| event["kind"].as_str()).collect();
        (kinds == ["accepted", "deferred", "delivered"].into()).then_some(())
    });
}

/// As `host-lost.md` says: a host that is killed comes back on its disk with what waited there; killed with its disk, it is
/// forgotten, and another takes its place.
fn host_is_lost(tutorial: &mut Tutorial, secret: &str, receiver: &Receiver) {
    let [notice, disk_lives, disk_lost] = sections("host-lost").try_into().expect("three parts");
    let host = HOSTS[2];
    receiver.script(Stage::Rcpt, Act::Say("451 4.3.0 Later\r\n".to_owned()), 1);
    assert_eq!(submit(&tutorial.stations[host], secret, "on-disk@receiver.test"), 202);
    wait::until("the mail to wait there", || {
        tutorial.run(HOSTS[0], "postrail queue --api https://10.0.0.1:8081");
        tutorial.said.contains("retry=1").then_some(())
    });
    tutorial.lose(host);
    tutorial.act(&notice);
    tutorial.act(&disk_lives);
    tutorial.run(HOSTS[0], "postrail queue retry --all --api https://10.0.0.1:8081");
    wait::until("what waited on its disk to be delivered", || {
        receiver.arrived().iter().any(|mail| mail.rcpt.concat().contains("on-disk@")).then_some(())
    });
    tutorial.lose(host);
    std::fs::remove_dir_all(tutorial.folder(host)).expect("it is lost");
    tutorial.act(&notice);
    tutorial.act(&disk_lost);
    wait::until("nothing to be left of the lost host", || {
        tutorial.run(HOSTS[0], "postrail host list --api https://10.0.0.1:8081");
        (!tutorial.said.contains("mta-3")).then_some(())
    });
    assert_eq!(submit(&tutorial.stations[host], secret, "new-host@receiver.test"), 202);
    wait::until("the new host to send", || {
        receiver.arrived().iter().any(|mail| mail.rcpt.concat().contains("new-host@")).then_some(())
    });
}
