//! Mail that is accepted where its address is not: it goes to the host that has the address, and leaves from there. Hosts
//! in namespaces of their own, a real etcd, TLS between the hosts, and a receiver that sees who sends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrail_tests::child::try_run;
use postrail_tests::dialogue::Dialogue;
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Plan};
use postrail_tests::lan::{Lan, Station};
use postrail_tests::place::Place;
use postrail_tests::postrail::binary;
use postrail_tests::receiver::{Act, Arrived, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

/// Mails that wait when a host is killed, and who submits them.
const MAILS: usize = 1_000;
const CLIENTS: usize = 8;
const GIVEN: &str = "postrail_transfer_given_recipients_total";

/// Two hosts with one address between them.
struct World {
    fleet: Fleet,
    receiver: Receiver,
    address: Ipv4Addr,
    _names: NameServer,
    _receiver_at: Station,
    _lan: Lan,
    _place: Place,
}

impl World {
    fn new(name: &str) -> Self {
        let (place, lan) = (Place::new(name), Lan::new());
        let receiver_at = lan.station(50);
        let zone = ("receiver.test.", format!("@ MX 10 mx\nmx A {}", receiver_at.address));
        let names = NameServer::start_at(&place, SocketAddr::from((lan.at(2), 5353)), &[(zone.0, &zone.1)]);
        let receiver = receiver_at.enter(|| Receiver::start(SocketAddr::from((receiver_at.address, 2525))));
        let resolver = names.address().to_string();
        let options = ["--resolver", &resolver, "--shards", "2", "--nic", "eth0", "--lease", "6"];
        let environment = [("POSTRAIL_LOG", "info,postrail_data_plane::transfer=debug")];
        let etcd = Etcd::start_at(&place, SocketAddr::from((lan.at(1), 2379)));
        let plan = |name: &str| {
            let last = name.strip_prefix("host-").map_or(10, |number| 10 + number.parse::<u8>().expect("a number"));
            Plan { options: &options, environment: &environment, station: Some(lan.station(last)), ..Plan::default() }
        };
        let fleet = Fleet::start_as(&place, etcd, 2, plan);
        fleet.change("POST", "/v2/routes", &json!({"domain": "*", "port": 2525, "allow_private": true}));
        let address = lan.at(101);
        let source = json!({"name": "out", "address": address, "ehlo_name": "out.sender.test"});
        fleet.change("POST", "/v2/sources", &source);
        fleet.change("PUT", "/v2/pools/default", &json!({"members": [{"source": "out"}]}));
        fleet.settle();
        let world =
            Self { fleet, receiver, address, _names: names, _receiver_at: receiver_at, _lan: lan, _place: place };
        world.holder();
        world
    }

    /// Which host has the address.
    fn holder(&self) -> usize {
        wait::until("a host to have the address", || {
            (0..2).find(|host| self.fleet.hosts[*host].station().has(self.address))
        })
    }

    /// `postrail` with these arguments as the operator: whether it succeeded, and what it printed.
    fn operator(&self, arguments: &[&str]) -> (bool, String) {
        let control = &self.fleet.control;
        let mut command: Command = control.station().command(binary());
        command.arg("--data").arg(&control.data).args(arguments);
        let (status, text) = try_run(command.args(["--api", &format!("https://{}", control.api)]));
        (status.success(), text)
    }

    /// A host that was drained says where to go: to what distributes submissions, by REST, and by SMTP.
    fn refuses_submissions(&self, host: usize) {
        let Fleet { hosts, username, secret, .. } = &self.fleet;
        let host = &hosts[host];
        let (status, answer) = host.submit(username, secret, "late@receiver.test");
        assert_eq!((status, &answer["code"]), (503, &json!("draining")), "{answer}");
        // A client that keeps its connection would come to this host again.
        let mut http = host.station().enter(|| TcpStream::connect(host.rest)).expect("it still listens");
        let credentials = STANDARD.encode(format!("{username}:{secret}"));
        let head = format!(
            "POST /v2/jobs HTTP/1.1\r\nHost: a.test\r\nAuthorization: Basic {credentials}\r\nContent-Length: 2"
        );
        http.write_all(format!("{head}\r\n\r\n{{}}").as_bytes()).expect("sent");
        let mut answer = String::new();
        http.read_to_string(&mut answer).expect("it says why");
        let fields = ["HTTP/1.1 503 ", "Retry-After: 5\r\n", "Connection: close\r\n"];
        assert!(fields.iter().all(|field| answer.contains(field)), "{answer}");
        let mut greeting = String::new();
        let connected = host.station().enter(|| TcpStream::connect(host.smtp));
        connected.expect("it still listens").read_to_string(&mut greeting).expect("it says why");
        assert_eq!(greeting, "421 4.3.2 This host takes no mail any more: submit at another\r\n");
        let (status, why) = host.get(host.admin, "/readyz").expect("the admin listener answers");
        let said = "drained by an operator's order: it accepts no mail";
        assert!(status == 503 && why.contains(said), "{status} {why}");
    }

    /// What `/readyz` of a host says.
    fn is_ready(&self, host: usize) -> bool {
        let host = &self.fleet.hosts[host];
        host.get(host.admin, "/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// Whether a host accepts a mail to there.
    fn accepts(&self, host: usize, to: &str) -> bool {
        let Fleet { hosts, username, secret, .. } = &self.fleet;
        hosts[host].submit(username, secret, to).0 == 202
    }

    /// What the control API says of a host.
    fn shown(&self, host: usize) -> Value {
        self.fleet.change("GET", &format!("/v2/hosts/{}", self.fleet.hosts[host].name), &Value::Null)
    }

    /// Begins a mail at a host by SMTP.
    fn begun(&self, host: usize, to: &str) -> Dialogue {
        let Fleet { hosts, username, secret, .. } = &self.fleet;
        let host = &hosts[host];
        let mut session = host.station().enter(|| Dialogue::start(host.smtp));
        let token = STANDARD.encode(format!("\0{username}\0{secret}"));
        let lines =
            [&*format!("AUTH PLAIN {token}"), "MAIL FROM:<app@sender.test>", &*format!("RCPT TO:<{to}>"), "DATA"];
        for (line, expected) in lines.into_iter().zip(["235", "250", "250", "354"]) {
            let reply = session.say(line);
            assert!(reply.starts_with(expected), "{reply}");
        }
        session.send(b"From: app@sender.test\r\nSubject: begun\r\n\r\n");
        session
    }

    /// `drained` is: the `other` accepts mail though it is to be drained, and once that has ended, `drained` does again.
    fn last_one_takes_mail(&mut self, drained: usize, other: usize) {
        let [name, others] = [drained, other].map(|host| self.fleet.hosts[host].name.clone());
        let alone = "no other host of its region is live and not to be drained";
        let (done, told) = self.operator(&["host", "drain", &others]);
        assert!(done && told.contains("warning: ") && told.contains(alone), "{told}");
        assert!(self.accepts(other, "last@receiver.test") && self.is_ready(other), "it has the address");
        self.refuses_submissions(drained);
        assert_eq!(self.shown(drained)["safe_to_stop"], true);
        self.fleet.hosts[other].stop();
        wait::until("mail to be taken again", || self.accepts(drained, "alone@receiver.test").then_some(()));
        wait::until("it to be ready", || self.is_ready(drained).then_some(()));
        assert_eq!(self.shown(drained)["safe_to_stop"], false);
        let (done, told) = self.operator(&["host", "drain", &name, "--wait", "1"]);
        assert!(!done && told.contains("it still accepts mail") && told.contains(alone), "{told}");
        self.fleet.hosts[other].start_again();
        let (done, told) = self.operator(&["host", "resume", &others]);
        assert!(done, "{told}");
        wait::until("it not to be ready", || (!self.is_ready(drained)).then_some(()));
        assert!(self.accepts(drained, "notice@receiver.test"), "not before that was seen");
        wait::until("it to be safe to stop again", || (self.shown(drained)["safe_to_stop"] == true).then_some(()));
        self.refuses_submissions(drained);
    }

    /// Keeps mail where it is accepted; [`Self::release`] with what is returned ends it.
    fn suspend(&self) -> String {
        let suspension = self.fleet.change("POST", "/v2/suspensions", &json!({"source": "out", "reason": "a test"}));
        self.fleet.settle();
        suspension["id"].to_string()
    }

    fn release(&self, suspension: &str) {
        self.fleet.change("DELETE", &format!("/v2/suspensions/{suspension}"), &Value::Null);
    }

    /// Submits many mails at a host: recipients are `n<number>@receiver.test`.
    fn submit_many(&self, host: usize, count: usize) {
        let submitter = self.fleet.hosts[host].submitter(&self.fleet.username, &self.fleet.secret);
        std::thread::scope(|scope| {
            for first in 0..CLIENTS {
                let submitter = submitter.clone();
                scope.spawn(move || {
                    for n in (first..count).step_by(CLIENTS) {
                        let answer = submitter.submit(&format!("n{n}@receiver.test"));
                        assert!(matches!(answer, Some((202, _))), "{answer:?}");
                    }
                });
            }
        });
    }

    /// A counter of a host, over its shards.
    fn counted(&self, host: usize, name: &str) -> u64 {
        let text = self.fleet.hosts[host].metrics();
        let rows = text.lines().filter(|line| line.starts_with(name));
        rows.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Kills a host once some of the mails have gone over, and starts it again; when it was killed.
    fn kill_in_between(&mut self, giver: usize, victim: usize, count: usize) -> Instant {
        let given = wait::until("some mail to have gone over", || {
            Some(self.counted(giver, GIVEN)).filter(|given| *given >= 64)
        });
        self.fleet.hosts[victim].child().kill();
        let killed = Instant::now();
        assert!(given < count as u64, "all {count} had gone over before");
        self.fleet.hosts[victim].start_again();
        killed
    }

    /// How often each mail arrived, once all have; and the ledger has the whole history of each.
    fn all_arrived(&self, count: usize) -> BTreeMap<String, Vec<Instant>> {
        let arrived = wait::within(Duration::from_secs(90), "all mail to arrive", || {
            if self.receiver.count() < count {
                return None;
            }
            let mut times: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
            for mail in self.receiver.arrived() {
                times.entry(mail.rcpt[0].clone()).or_default().extend(mail.at);
            }
            (times.len() == count).then_some(times)
        });
        wait::until("the ledger to have it all", || {
            let mut jobs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            let mut cursor = "0".to_owned();
            loop {
                let path = format!("/v2/events?limit=1000&cursor={cursor}");
                let page = self.fleet.change("GET", &path, &Value::Null);
                let items = page["items"].as_array().expect("a page has items");
                for event in items {
                    let [job, kind] = ["job", "kind"].map(|key| event[key].as_str().unwrap_or_default().to_owned());
                    jobs.entry(job).or_default().insert(kind);
                }
                if items.is_empty() {
                    break;
                }
                cursor = page["next_cursor"].as_str().expect("there is always one").to_owned();
            }
            let is_whole = |kinds: &BTreeSet<String>| kinds.contains("accepted") && kinds.contains("delivered");
            (jobs.len() == count && jobs.values().all(is_whole)).then_some(())
        });
        arrived
    }

    /// All mail that has arrived came from the address, and each once.
    fn arrived(&self, count: usize) -> Vec<Arrived> {
        self.receiver.wait_for(count);
        let arrived = self.receiver.arrived();
        let mut once = BTreeSet::new();
        for mail in &arrived {
            assert_eq!(mail.peer.map(|peer| peer.ip()), Some(IpAddr::V4(self.address)), "{mail:?}");
            assert!(once.insert(mail.rcpt.clone()), "twice: {:?}", mail.rcpt);
        }
        arrived
    }
}

#[test]
fn mail_that_is_accepted_where_its_address_is_not_leaves_from_the_host_that_has_it() {
    let world = World::new("transfers-leave");
    let holder = world.holder();
    let jobs: Vec<_> = (0..20).map(|n| world.fleet.accepted(1 - holder, &format!("n{n}@receiver.test"))).collect();
    world.arrived(jobs.len());
    for job in &jobs {
        world.fleet.delivered(job);
    }
    // The one accepted it, the other sent it: the ledger has both.
    let (found, told) = world.operator(&["trace", &jobs[0]]);
    assert!(found && told.contains("accepted") && told.contains("delivered"), "{told}");
}

#[test]
fn an_answer_that_is_lost_sends_nothing_twice_and_a_giver_that_is_killed_then_asks_again() {
    let mut world = World::new("transfers-answer");
    let (holder, accepting) = (world.holder(), 1 - world.holder());
    let waiting = |world: &World| {
        let metrics = world.fleet.hosts[accepting].metrics();
        let rows = metrics.lines().filter(|line| line.starts_with("postrail_waiting_recipients{"));
        rows.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum::<usize>()
    };
    // The first goes as it should; the second goes by the same connection, on which no answer comes back.
    let mut jobs = vec![world.fleet.accepted(accepting, "first@receiver.test")];
    world.fleet.delivered(&jobs[0]);
    let giver = world.fleet.hosts[accepting].station().address;
    world.fleet.hosts[holder].station().cut_off(giver);
    jobs.push(world.fleet.accepted(accepting, "second@receiver.test"));
    world.arrived(2);
    assert_eq!(waiting(&world), 1, "it does not know that the other host has it");
    let (done, said) = world.operator(&["queue", "cancel", &jobs[1]]);
    assert!(!done && said.contains("on its way"), "{said}");
    world.fleet.hosts[accepting].child().kill();
    world.fleet.hosts[accepting].start_again();
    wait::until("the bound job to be there again", || (waiting(&world) == 1).then_some(()));
    world.fleet.hosts[holder].station().reach(giver);
    wait::until("nothing to wait any more", || (waiting(&world) == 0).then_some(()));
    jobs.push(world.fleet.accepted(accepting, "third@receiver.test"));
    for job in &jobs {
        world.fleet.delivered(job);
    }
    assert_eq!(world.arrived(3).len(), 3, "each once");
}

#[test]
fn mail_for_a_host_that_cannot_be_asked_is_told_of_once_and_goes_when_it_can() {
    let world = World::new("transfers-cut-off");
    let accepting = 1 - world.holder();
    let [holder, other] = [1 - accepting, accepting].map(|host| &world.fleet.hosts[host]);
    // As it is where a firewall lets hosts reach etcd, and not each other.
    other.station().cut_off(holder.station().address);
    let jobs: Vec<_> = (0..3).map(|n| world.fleet.accepted(accepting, &format!("n{n}@receiver.test"))).collect();
    let said = |what: &str| other.output().matches(what).count();
    wait::until("the host to have asked three times", || (said("a transfer was not answered") > 2).then_some(()));
    let (_, queue) = world.operator(&["queue"]);
    assert!(queue.contains("being_moved=") && queue.starts_with("3 recipients wait"), "{queue}");
    assert!(world.receiver.arrived().is_empty(), "it has no address to send from");
    other.station().reach(holder.station().address);
    world.arrived(jobs.len());
    for job in &jobs {
        world.fleet.delivered(job);
    }
    let told = ["mail for the host waits here", "mail goes to the host again"].map(said);
    assert_eq!(told, [1, 1], "{}", other.output());
}

#[test]
fn a_giver_that_is_killed_in_between_loses_nothing_and_sends_nothing_twice() {
    let mut world = World::new("transfers-giver-killed");
    let giver = 1 - world.holder();
    let suspension = world.suspend();
    world.submit_many(giver, MAILS);
    world.release(&suspension);
    world.kill_in_between(giver, giver, MAILS);
    let arrived = world.all_arrived(MAILS);
    let twice: Vec<_> = arrived.iter().filter(|(_, times)| times.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn a_taker_that_is_killed_in_between_loses_nothing_and_repeats_only_what_it_had_sent_before() {
    let mut world = World::new("transfers-taker-killed");
    let (taker, giver) = (world.holder(), 1 - world.holder());
    let suspension = world.suspend();
    world.submit_many(giver, MAILS);
    world.release(&suspension);
    let killed = world.kill_in_between(giver, taker, MAILS);
    let arrived = world.all_arrived(MAILS);
    let twice: Vec<_> = arrived.iter().filter(|(_, times)| times.len() > 1).collect();
    println!("{} of {MAILS} came twice", twice.len());
    for (to, times) in twice {
        assert!(times.len() == 2 && times[0] <= killed, "{to} came at {times:?}, the host ended at {killed:?}");
    }
}

#[test]
fn a_host_that_is_drained_is_emptied_and_said_to_be_safe_to_stop() {
    let mut world = World::new("transfers-drain");
    let (leaving, other) = (world.holder(), 1 - world.holder());
    // What waits there waits for its next attempt, with a time of its own.
    world.receiver.script(Stage::Rcpt, Act::Say("450 4.2.0 later\r\n".to_owned()), 1_000);
    let jobs: Vec<_> = (0..30).map(|n| world.fleet.accepted(leaving, &format!("n{n}@receiver.test"))).collect();
    let name = world.fleet.hosts[leaving].name.clone();
    wait::until("its mail to be seen", || (world.shown(leaving)["waiting"] == 30).then_some(()));
    assert_eq!(world.shown(leaving)["safe_to_stop"], false);
    let (done, told) = world.operator(&["host", "drain", &name, "--wait", "40"]);
    assert!(done && told.contains("it is safe to stop") && told.contains("has left"), "{told}");
    let empty = world.shown(leaving);
    assert_eq!((&empty["waiting"], &empty["safe_to_stop"]), (&json!(0), &json!(true)), "{empty}");
    assert_eq!(empty["revision"].as_u64(), world.fleet.control.published(), "{empty}");
    world.refuses_submissions(leaving);
    let (resumed, told) = world.operator(&["host", "resume", &name]);
    assert!(resumed, "{told}");
    wait::until("it to accept mail again", || world.accepts(leaving, "again@receiver.test").then_some(()));
    wait::until("it to be ready again", || world.is_ready(leaving).then_some(()));
    // A mail that has begun is taken to its end, and waited for.
    let mut session = world.begun(leaving, "begun@receiver.test");
    let (done, told) = world.operator(&["host", "drain", &name]);
    assert!(done && !told.contains("warning"), "{told}");
    let open = wait::until("only the mail that has begun to be left", || {
        let shown = Some(world.shown(leaving));
        shown.filter(|it| it["standing"] == "drained" && it["waiting"] == 0 && it["takes_mail"] == false)
    });
    assert_eq!((&open["submissions"], &open["safe_to_stop"]), (&json!(1), &json!(false)), "{open}");
    assert!(session.say("Hello.\r\n.").starts_with("250"), "it is accepted");
    assert!(session.reply().starts_with("421"), "and nothing after it");
    let (done, told) = world.operator(&["host", "drain", &name, "--wait", "40"]);
    assert!(done, "{told}");
    let (_, list) = world.operator(&["host", "list"]);
    let row = list.lines().find(|line| line.starts_with(&name)).unwrap_or_default();
    assert!(row.contains("drained") && row.contains("true"), "{list}");
    world.last_one_takes_mail(leaving, other);
    world.fleet.hosts[leaving].stop();
    world.receiver.script(Stage::Rcpt, Act::Say(String::new()), 0);
    wait::until("the other host to have the address", || (world.holder() == other).then_some(()));
    let (retried, told) = world.operator(&["queue", "retry", "--all"]);
    assert!(retried, "{told}");
    world.arrived(jobs.len() + 5);
    for job in &jobs {
        world.fleet.delivered(job);
    }
    // What does not run is not waited for.
    let (done, told) = world.operator(&["host", "drain", &name, "--wait", "40"]);
    assert!(!done && told.contains("does not run"), "{told}");
}

#[test]
fn a_job_is_cancelled_wherever_it_is_and_on_its_way_the_operator_is_told() {
    let world = World::new("transfers-cancel");
    let accepting = 1 - world.holder();
    let [holder, other] = [1 - accepting, accepting].map(|host| &world.fleet.hosts[host]);
    world.receiver.script(Stage::Rcpt, Act::Say("450 4.2.0 later\r\n".to_owned()), 1_000);
    let state = |job: &str| {
        // Unknown until the ledger has its acceptance.
        let path = format!("/v2/jobs/{job}/recipients");
        let (_, told) = world.fleet.control.control(&world.fleet.token, "GET", &path, None);
        told["items"][0]["state"].as_str().unwrap_or_default().to_owned()
    };
    let cancel = |job: &str| world.operator(&["queue", "cancel", job]);
    let is_over = |job: &str| wait::until("it to be cancelled", || (state(job) == "cancelled").then_some(()));
    // At the host that took it; its id names the other one.
    let taken = world.fleet.accepted(accepting, "taken@receiver.test");
    wait::until("it to have been tried there", || (state(&taken) == "deferred").then_some(()));
    let (done, told) = cancel(&taken);
    assert!(done && told.contains('1'), "{told}");
    is_over(&taken);
    // On its way.
    other.station().cut_off(holder.station().address);
    let bound = world.fleet.accepted(accepting, "bound@receiver.test");
    wait::until("it to be on its way", || world.operator(&["queue"]).1.contains("being_moved=").then_some(()));
    let (done, told) = cancel(&bound);
    assert!(!done && told.contains("on its way to host") && told.contains(&holder.name), "{told}");
    other.station().reach(holder.station().address);
    wait::until("it to be cancelled where it comes to", || cancel(&bound).0.then_some(()));
    is_over(&bound);
    // What nobody has is nobody's.
    let (done, told) = cancel(&bound);
    assert!(!done && told.contains("nothing of"), "{told}");
    assert!(world.receiver.arrived().is_empty());
}
