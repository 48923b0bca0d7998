//! `[[shard]]`: a shard with its CPU, its network interface and its source addresses.
//!
//! Two namespaces have one address in common, and the host's routes prefer the first: only a connection that is bound to
//! the second interface gets to the second.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use postrail_tests::child::{run, try_run};
use postrail_tests::namespace::Namespace;
use postrail_tests::place::{Place, free_address, free_on};
use postrail_tests::postrail::{DOMAIN, Postrail, binary};
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::json;

/// The CPUs that this process may use.
fn cpus() -> Vec<usize> {
    let (status, text) = try_run(Command::new("taskset").args(["-c", "-p", &std::process::id().to_string()]));
    assert!(status.success(), "{text}");
    parse_list(text.trim().rsplit(' ').next().unwrap_or_default())
}

/// `0-2,5` as numbers.
fn parse_list(list: &str) -> Vec<usize> {
    let parts = list.trim().split(',').flat_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<usize>().expect("a CPU")..=last.parse().expect("a CPU")
    });
    parts.collect()
}

/// Two interfaces to one address, a receiver at each, and a file with a shard for each.
struct Net {
    sides: [Namespace; 2],
    receivers: [Receiver; 2],
    port: u16,
    file: PathBuf,
}

impl Net {
    fn new(place: &Place, target: Ipv4Addr) -> Self {
        let sides = [Namespace::new(), Namespace::new()];
        for (side, metric) in sides.iter().zip([10, 20]) {
            side.add_inside(target, metric);
        }
        let port = free_address().port();
        let at = SocketAddr::new(IpAddr::V4(target), port);
        let receivers = sides.each_ref().map(|side| side.enter(|| Receiver::start(at)));
        let cpus = cpus();
        let table = |(number, side): (usize, &Namespace)| {
            let (nic, cpu) = (side.interface(), cpus[number % cpus.len()]);
            side.steer(cpu);
            format!("[[shard]]\ncpu = {cpu}\nnic = \"{nic}\"\nqueue = 0\nsources = [\"{}\"]\n", side.outside)
        };
        let file = place.join("up.toml");
        let text: String = sides.iter().enumerate().map(table).collect();
        std::fs::write(&file, text).expect("written");
        Self { sides, receivers, port, file }
    }

    fn sent_bytes(&self, side: usize) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/tx_bytes", self.sides[side].interface());
        let text = std::fs::read_to_string(path).expect("a counter of our own interface");
        text.trim().parse().expect("a number")
    }
}

/// The value of a counter for one shard.
fn counter(postrail: &Postrail, name: &str, shard: usize) -> u64 {
    let row = format!("{name}{{shard=\"{shard}\"}} ");
    let metrics = postrail.metrics();
    let value = metrics.lines().find_map(|line| line.strip_prefix(&row));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{row} in {metrics}"))
}

/// From now on the sending domain's mail leaves from this address.
fn send_from(postrail: &Postrail, number: usize, address: IpAddr) {
    let source =
        json!({"name": format!("nic{number}"), "address": address, "ehlo_name": format!("out{number}.sender.test")});
    postrail.control_ok("POST", "/v2/sources", Some(&source));
    let pool = json!({"name": format!("pool{number}"), "members": [{"source": format!("nic{number}")}]});
    postrail.control_ok("POST", "/v2/pools", Some(&pool));
    postrail.control_ok("PATCH", &format!("/v2/domains/{DOMAIN}"), Some(&json!({"pool": format!("pool{number}")})));
    postrail.settled_configuration();
}

#[test]
fn mail_of_a_source_leaves_by_its_interface_and_is_handled_on_its_shard() {
    const MAILS: usize = 8;
    let place = Place::new("pinning");
    let body = "A line of some length, as mails have them.\n".repeat(500);
    // Out of a network for examples (RFC 5737); of two such stories at once each has its own.
    let target = Ipv4Addr::new(198, 51, 100, u8::try_from(std::process::id() % 250 + 1).expect("below 256"));
    let net = Net::new(&place, target);
    let names = NameServer::start(&place, &[("away.test.", &format!("@ MX 10 mx\nmx A {target}"))]);
    let submission = free_on(Ipv4Addr::UNSPECIFIED.into());
    let [resolver, file, smtp] = [names.address().to_string(), net.file.display().to_string(), submission.to_string()];
    let options = ["--resolver", &resolver, "--config", &file, "--smtp", &smtp];
    let postrail = Postrail::start_with(&place, &options);
    postrail.route("*", net.port);
    // The second first: by the routes alone its mail would leave by the other interface.
    for shard in [1, 0] {
        let (side, other) = (&net.sides[shard], 1 - shard);
        send_from(&postrail, shard, side.outside);
        let (connections, accepted) = (
            counter(&postrail, "postrail_egress_connections_total", shard),
            counter(&postrail, "postrail_accepted_recipients_total", shard),
        );
        let foreign = counter(&postrail, "postrail_egress_connections_total", other);
        let bytes = [0, 1].map(|side| net.sent_bytes(side));
        for number in 0..MAILS {
            submit_by(&postrail, side, submission, &format!("user{number}@away.test"), &body);
        }
        let arrived = net.receivers[shard].wait_for(MAILS);
        assert!(arrived.iter().all(|mail| mail.peer.map(|peer| peer.ip()) == Some(side.outside)), "{arrived:?}");
        let mail_bytes = (MAILS * body.len()) as u64;
        assert!(net.sent_bytes(shard) - bytes[shard] > mail_bytes, "the shard's interface has sent the mails");
        let stray = net.sent_bytes(other) - bytes[other];
        assert!(stray < mail_bytes / 10, "the other interface has sent no mail, but {stray} octets");
        assert!(counter(&postrail, "postrail_egress_connections_total", shard) > connections);
        assert_eq!(counter(&postrail, "postrail_egress_connections_total", other), foreign);
        let taken = counter(&postrail, "postrail_accepted_recipients_total", shard) - accepted;
        // On one CPU both shards are equally near.
        let by_interface = taken == MAILS as u64 || cpus().len() == 1;
        assert!(by_interface, "what arrives at the interface is handled by its shard: {taken} of {MAILS}");
    }
    // The source is the first shard's, the mail comes to the second: it is handed over, and leaves by the first interface.
    submit_by(&postrail, &net.sides[1], submission, "other@away.test", "Hello.\n");
    net.receivers[0].wait_for(MAILS + 1);
    assert_eq!(counter(&postrail, "postrail_mesh_handed_total", 1), 1);
    assert_eq!(net.receivers[1].arrived().len(), MAILS);
}

/// Submits a mail from the inside of a namespace, so that it arrives by that interface.
fn submit_by(postrail: &Postrail, side: &Namespace, submission: SocketAddr, to: &str, body: &str) {
    let mut command = side.command("swaks");
    command.args(["--server", &side.outside.to_string(), "--port", &submission.port().to_string(), "--tls"]);
    command.args(["--auth", "PLAIN", "--auth-user", &postrail.username, "--auth-password", &postrail.secret]);
    run(command.args(["--from", &format!("app@{DOMAIN}"), "--to", to, "--body", body]));
}

#[test]
fn every_shard_runs_on_its_cpu_unless_it_is_told_not_to_be_pinned() {
    let place = Place::new("pinned");
    let (cpus, names) = (cpus(), NameServer::start(&place, &[("test.", "@ MX 10 mx")]));
    let resolver = names.address().to_string();
    for (name, options, pinned) in [("pinned", &[][..], true), ("free", &["--no-pin"][..], false)] {
        let all = [&["--resolver", &resolver, "--shards", "2"], options].concat();
        let mut postrail = Postrail::start_at(&place, &place.join(name), &all);
        for shard in 0..2 {
            let allowed = allowed_of(postrail.child().id(), &format!("shard-{shard}"));
            let expected = if pinned { vec![cpus[shard % cpus.len()]] } else { cpus.clone() };
            assert_eq!(allowed, expected, "shard {shard} {name}");
        }
    }
}

/// The CPUs that the executor of this name may use. Its helpers have its name, too, but are started after it.
fn allowed_of(pid: u32, executor: &str) -> Vec<usize> {
    wait::until(&format!("the thread {executor}"), || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let mut tasks: Vec<(u32, PathBuf)> =
            tasks.filter_map(|task| Some((task.file_name().to_str()?.parse().ok()?, task.path()))).collect();
        tasks.sort();
        let statuses = tasks.into_iter().filter_map(|(_, task)| std::fs::read_to_string(task.join("status")).ok());
        let name = format!("Name:\t{executor}-");
        let status = statuses.into_iter().find(|status| status.starts_with(&name))?;
        Some(parse_list(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?))
    })
}

#[test]
fn a_shard_that_cannot_be_tied_is_told_before_anything_starts() {
    let place = Place::new("untied");
    let file = place.join("up.toml");
    for (text, words) in [
        ("[[shard]]\ncpu = 4000\n", "shard 0 is to run on CPU 4000, which this process may not use"),
        ("[[shard]]\nnic = \"nosuch0\"\n", "nosuch0, which is no network interface of this host"),
        (
            "[[shard]]\nsources = [\"192.0.2.1\"]\n[[shard]]\nsources = [\"192.0.2.1\"]\n",
            "given to shard 0 and to shard 1",
        ),
        ("[[shard]]\nqueue = 1\n", "no nic"),
        ("[[shard]]\ncpus = 1\n", "unknown field `cpus`"),
        ("smpt = []\n", "unknown field `smpt`"),
    ] {
        std::fs::write(&file, text).expect("written");
        let data = place.join("data");
        let mut command = Command::new("timeout");
        command.arg("20").arg(binary()).args(["up", "--data"]).arg(&data).arg("--config").arg(&file);
        let (status, output) = try_run(&mut command);
        assert_eq!(status.code(), Some(2), "{text}: {output}");
        assert!(output.contains(words), "{text}: {output}");
        assert!(!data.exists(), "nothing is made");
    }
}

#[test]
fn few_open_files_are_told_at_the_start() {
    let place = Place::new("nofile");
    let names = NameServer::start(&place, &[("test.", "@ MX 10 mx")]);
    let resolver = names.address().to_string();
    let mut postrail = Postrail::start_with(&place, &["--resolver", &resolver, "--shards", "1"]);
    let arguments = postrail.arguments().to_vec();
    assert!(postrail.drain().success());
    let log = place.join("limited.log");
    let mut command = Command::new("prlimit");
    command.args(["--nofile=1024:4096"]).arg(binary()).args(arguments);
    let limited = postrail_tests::child::Running::start(&mut command, &log);
    let said =
        wait::until("the warning", || Some(limited.output()).filter(|text| text.contains("few files may be open")));
    assert!(said.contains("4096") && said.contains("LimitNOFILE"), "{said}");
}
